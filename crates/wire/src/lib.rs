//! Packets as the wire has them.
//!
//! * [`parse()`] reads a frame once and gives [`Parsed`], the plain summary that the packet
//!   path works with, or [`Malformed`], the reason for which a frame can only be dropped. [`quick`] reads of the
//!   usual packet what forwarding needs, and leaves every other to it.
//!   [`verify_l4`] verifies the transport checksum, where the NIC has not.
//! * One module per protocol has its numbers, a borrowed view with accessors, and `Repr`: plain
//!   data with `parse` and `emit`.
//! * [`rewrite`] changes a frame in place, with incremental checksums.
//! * [`reply`] writes the answers that a gateway gives itself: ARP, neighbour discovery, ICMP
//!   errors, resets, echo replies.
//! * [`build`] makes whole frames for tests; it allocates, and panics when misused.
//!
//! Nothing but [`build`] panics on any input or allocates. Numbers are in
//! host order everywhere except inside frames.
#![forbid(unsafe_code)]

pub mod arp;
pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
mod inner;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
mod malformed;
pub mod ndp;
mod octets;
mod parse;
mod parsed;
pub mod quick;
pub mod renumber;
pub mod reply;
pub mod rewrite;
pub mod tcp;
pub mod udp;

pub use ethernet::{Mac, MacSyntax};
pub use malformed::Malformed;
pub use octets::BufferTooShort;
pub use parse::{EXTENSION_COUNT_MAX, parse, parse_into, verify_l4};
pub use parsed::{
    Addr, Fragment, Icmp, Inner, Net, Parsed, Tcp, addr_from_ip, addr_from_v4, addr_to_ip,
    addr_to_v4,
};
