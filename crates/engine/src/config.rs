//! What a worker is told at its start.

use std::net::IpAddr;

use ipnet::IpNet;
use membership::Distribution;
use state::{NodeId, TcpPhase};
use wire::Mac;

use crate::detect::Detect;

/// An interface of the gateway: a port, or one VLAN of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, for people.
    pub name: String,
    /// Index of its port in the worker's list.
    pub port: usize,
    /// The VLAN identifier of its frames; `None` for untagged ones.
    pub vlan: Option<u16>,
    /// The zone that it belongs to.
    pub zone: u8,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The gateway's addresses with their networks.
    pub addresses: Vec<IpNet>,
    /// Whether pings of the gateway's addresses are answered.
    pub ping: bool,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destinations.
    pub to: IpNet,
    /// The next hop, on a connected network.
    pub via: IpAddr,
}

/// A neighbour whose Ethernet address is given: it is neither asked for nor learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the interface that it is on.
    pub interface: u8,
    /// Its address, on a network of the interface.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// How long flows live without packets, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`TcpPhase`].
    pub tcp: [u32; TcpPhase::COUNT],
    /// UDP seen in one direction.
    pub udp_new: u32,
    /// UDP seen in both.
    pub udp_stream: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// Any other protocol, seen in one direction.
    pub other_new: u32,
    /// Any other protocol, seen in both.
    pub other_stream: u32,
    /// Tombstones of deleted flows.
    pub tombstone: u32,
}

impl Default for Timeouts {
    /// As Linux's connection tracking has them.
    fn default() -> Self {
        Self {
            tcp: [120, 60, 432_000, 120, 60, 120, 10],
            udp_new: 30,
            udp_stream: 120,
            icmp: 30,
            other_new: 600,
            other_stream: 600,
            tombstone: 30,
        }
    }
}

/// What happens to a held packet at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtDeadline {
    /// It is dropped; the endpoint sends it again.
    Drop,
    /// It leaves unprotected.
    Release,
}

/// What happens to a flow that wants protection when there is no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAlone {
    /// It passes unprotected.
    Forward,
    /// It is refused.
    Refuse,
}

/// How packets are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The most packets that one worker holds, and with `ecmp` as many again that wait for what other
    /// nodes know of their flows.
    pub capacity: usize,
    /// How long a packet is held, or waits for an answer, at most, in microseconds.
    pub deadline_us: u64,
    /// What happens then.
    pub at_deadline: AtDeadline,
    /// What a node without backups does.
    pub alone: WhenAlone,
}

/// Everything that a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This worker's number.
    pub worker: usize,
    /// How many workers the node has.
    pub workers: usize,
    /// The interfaces; their places are their numbers.
    pub interfaces: Vec<Interface>,
    /// The static routes.
    pub routes: Vec<Route>,
    /// Neighbours with given Ethernet addresses, besides the `hops` that can be learned.
    pub neighbours: Vec<Neighbour>,
    /// How packets come to the nodes. With [`Distribution::Ecmp`] the interfaces' addresses are this
    /// node's own, and so is all that is said to neighbours.
    pub distribution: Distribution,
    /// The cluster's multicast address on every segment, when all nodes receive all frames.
    /// `None` for a node alone, and with [`Distribution::Ecmp`].
    pub cluster_mac: Option<Mac>,
    /// Whether there is a sync core that takes changes; not on a node without a cluster.
    pub replicate: bool,
    /// Packets per burst, 1 to [`crate::port::BURST_MAX`].
    pub burst: usize,
    /// Flows that this worker's shard holds.
    pub capacity: usize,
    /// Seed of the table's hash; random.
    pub seed: u64,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Seconds after which an active flow's windows and age are replicated again.
    pub refresh_s: u32,
    /// Whether TCP segments outside of the windows are dropped.
    pub tcp_strict: bool,
    /// Whether a TCP segment without SYN may open a flow.
    pub tcp_pickup: bool,
    /// Whether TCP, UDP and ICMP checksums are verified here.
    pub verify_checksums: bool,
    /// How packets are held.
    pub hold: Hold,
    /// Records per second that this worker sends in scans: snapshots and re-replication.
    pub resync_rate: u32,
    /// ICMP errors and TCP resets per second that this worker originates.
    pub icmp_rate: u32,
    /// The detector of scans and floods; `None` leaves it off.
    pub detect: Option<Detect>,
    /// Next hops that this worker can know.
    pub hops: usize,
}
