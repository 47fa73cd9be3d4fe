//! DPDK, safe: the environment layer, packet pools, packet buffers and Ethernet ports, and
//! [`engine::port::Port`] over them.
//!
//! The order of things, and who owns what:
//!
//! 1. [`Eal::init`], once per process, gives the [`Eal`]: it stays on the thread that made it.
//! 2. [`Mempool::new`] makes pools of packet buffers; a clone is another handle of the same pool.
//! 3. [`EthPort::configure`] takes a port by name ([`Eal::ports`] lists them) and gives its control handle.
//! 4. [`EthPort::start`] gives one [`QueuePair`] per queue. A queue pair moves to its worker
//!    thread, which calls [`register_thread`] first so that it gets a pool cache of its own.
//!
//! A port closes when its control handle and all queue pairs are gone; a pool goes when its last
//! handle is gone and all its buffers are back; the environment ends with [`Eal`] when nothing
//! else of it is left. What still lives keeps what it stands on: dropping things in any order
//! is sound, at worst memory stays until the process ends ([`Eal::shut_down`] reports that).
//!
//! `unsafe` is confined to the calls of `dpdk-sys` and to reading mbuf fields; each says why it holds.

mod eal;
mod error;
mod hugepages;
mod log;
mod mbuf;
mod mempool;
mod port;
mod rss;
mod thread;

pub use engine::port::{BURST_MAX, BufFull, Burst, PacketBuf, Port};

pub use eal::{Eal, EalOptions, IovaMode};
pub use error::{Errno, Error};
pub use hugepages::{Hugepages, hugepages};
pub use log::{LogHook, LogLevel};
pub use mbuf::{ChecksumState, Mbuf};
pub use mempool::{DATA_ROOM_DEFAULT, HEADROOM, Mempool};
pub use port::{
    AddressFilter, DeviceInfo, EthPort, Link, PortConfig, PortStats, QueuePair, RssReport,
};
pub use rss::{RSS_KEY, soft_rss};
pub use thread::{RegisteredThread, register_thread};
