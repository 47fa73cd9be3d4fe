//! Packets as the wire has them.
//!
//! * [`parse`] reads a frame once and gives [`Parsed`], the plain summary that the packet
//!   path works with, or [`Malformed`], the reason for which a frame can only be dropped.
//!
//! Nothing here panics on any input, and nothing on the packet path allocates. Numbers are in
//! host order everywhere except inside frames.
#![forbid(unsafe_code)]

pub mod ethernet;
mod malformed;
mod parsed;

pub use ethernet::{Mac, MacSyntax};
pub use malformed::Malformed;
pub use parsed::{
    Addr, Fragment, Icmp, Inner, Net, Parsed, Tcp, addr_from_ip, addr_from_v4, addr_to_ip,
    addr_to_v4,
};
