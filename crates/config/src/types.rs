//! The configuration as values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use policy::{RuleSet, SyncDefaults};
use state::{NodeId, TcpPhase};

use crate::cores::Placement;
use crate::{Position, Warning};

/// The checked configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it comes from.
    pub path: PathBuf,
    /// This node's name.
    pub name: String,
    /// This node's identity; 0 for a node alone.
    pub node: NodeId,
    /// The cluster that it is a member of; `None` for a node alone.
    pub cluster: Option<Cluster>,
    /// Its certificates; always there with a cluster.
    pub pki: Option<Pki>,
    /// What DPDK's environment is started with.
    pub eal: Eal,
    /// Which thread runs where, and how it polls.
    pub cores: Cores,
    /// The control socket.
    pub control: Control,
    /// The protocol agents, and the socket at which they connect.
    pub agents: Agents,
    /// The flow table.
    pub flows: Flows,
    /// After what silence a flow ends.
    pub timeouts: Timeouts,
    /// How TCP is tracked.
    pub tcp: Tcp,
    /// The detector of scans and floods; `None` leaves it off.
    pub detect: Option<Detect>,
    /// The interfaces, in the file's order; at least one.
    pub interfaces: Vec<Interface>,
    /// The routes, in the file's order.
    pub routes: Vec<Route>,
    /// The neighbours that are not asked for their Ethernet addresses, in the file's order.
    pub neighbours: Vec<Neighbour>,
    /// The rules, with the zones that interfaces name and the replication defaults. Their
    /// generation is 1; who loads a later file raises it.
    pub rules: RuleSet,
    /// What works and is hardly meant, in the file's order.
    pub warnings: Vec<Warning>,
    pub(crate) placements: Vec<(Placement, Position)>,
}

impl Config {
    /// How flows are replicated whose rule does not say.
    pub fn sync_defaults(&self) -> &SyncDefaults {
        self.rules.sync_defaults()
    }
}

/// How traffic gets to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Every node receives every frame and drops those that it does not own.
    Filter,
    /// A router spreads flows over the nodes' own addresses.
    Ecmp,
}

/// What becomes of a packet whose hold's deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDeadline {
    /// It is dropped: the promise holds, and the endpoint sends it again.
    Drop,
    /// It is sent without protection.
    Release,
}

/// What becomes of flows that ask for acknowledgement while the node has no backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// They are forwarded without protection.
    Forward,
    /// New ones are refused.
    Refuse,
}

/// How many of the backup group must have acknowledged before a held packet is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldAcks {
    /// Every current member of the group.
    All,
    /// This many, at least 1 and at most the size of the smallest group.
    Count(u8),
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name; nodes of another name are not talked to.
    pub name: String,
    /// How traffic gets to the nodes.
    pub distribution: Distribution,
    /// The multicast Ethernet address that the cluster answers ARP and neighbour solicitations
    /// with; there whenever the cluster has more than one member and `distribution` is
    /// [`Distribution::Filter`].
    pub mac: Option<[u8; 6]>,
    /// How many backups a node has whose member entry does not list its own; 0 only in a cluster
    /// of one member.
    pub backups: u8,
    /// How often a node is heard of.
    pub heartbeat: Duration,
    /// After what silence it is dead; at least three heartbeats.
    pub dead_after: Duration,
    /// How long a starting node waits for the others before it takes its slots.
    pub join_wait: Duration,
    /// How long a packet is held at most.
    pub hold_deadline: Duration,
    /// What becomes of it then.
    pub hold_at_deadline: AtDeadline,
    /// How many acknowledgements release it.
    pub hold_acks: HoldAcks,
    /// What becomes of `ack` flows while the node has no backup.
    pub alone: Alone,
    /// Records per second and worker of re-replication and snapshots.
    pub resync_rate: u32,
    /// Time between two comparisons of this node's slots with its backups' copies.
    pub digest_every: Duration,
    /// Every node of the cluster, this one included, in the file's order.
    pub members: Vec<Member>,
}

impl Cluster {
    /// The member of this identity.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, which is also that of its certificate.
    pub name: String,
    /// Its identity.
    pub id: NodeId,
    /// Where it listens for replication.
    pub sync: SocketAddr,
    /// Where it listens for membership.
    pub membership: SocketAddr,
    /// Its share of the slots relative to the others', at least 1.
    pub weight: u16,
    /// Its backup group, in order of preference; `None` lets the cluster derive it.
    pub backups: Option<Vec<NodeId>>,
}

/// The detector of SYN scans and SYN floods: what a source may do within a window before it is
/// blocked. Thresholds are those of the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detect {
    /// Distinct pairs of destination and port that a source may try without an answer; 0 does not
    /// look for scans.
    pub scan_ports: u32,
    /// Connection attempts without an answer that a source may make; 0 does not look for floods.
    pub flood_syns: u32,
    /// Over what time they count.
    pub window: Duration,
    /// How long such a source is blocked.
    pub block_for: Duration,
    /// Sources that are never blocked.
    pub except: Vec<IpNet>,
}

/// The certificates of a node, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    /// The certificate of the authority that signed every member's, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// What kind of addresses devices are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iova {
    /// What DPDK finds fit.
    Auto,
    /// Physical.
    Pa,
    /// Virtual.
    Va,
}

/// What DPDK's environment abstraction layer is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eal {
    /// Whether memory comes in huge pages.
    pub hugepages: bool,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// What the files of its shared memory start with.
    pub file_prefix: String,
    /// What kind of addresses devices are given.
    pub iova: Iova,
    /// Further arguments, as they are.
    pub extra: Vec<String>,
    /// Packet buffers, of the whole node.
    pub mbufs: u32,
}

/// What a worker does when it finds no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Looks again at once.
    Spin,
    /// Tells the processor that it waits, then looks again.
    Pause,
    /// Sleeps for so long, then looks again.
    Sleep(Duration),
}

/// Which thread runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// The workers, by index; at least one.
    pub workers: Vec<Worker>,
    /// The cpu of the sync core; always there with a cluster.
    pub sync: Option<u16>,
    /// The cpu of the membership core; always there with a cluster.
    pub membership: Option<u16>,
    /// What threads do when idle that say nothing of their own.
    pub idle: Idle,
    /// Whether threads may share a cpu.
    pub shared: bool,
    /// Whether the membership core goes before every thread without a real-time priority.
    pub realtime: bool,
}

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its cpu.
    pub cpu: u16,
    /// What it does when it finds no packet.
    pub idle: Idle,
    /// Packets per burst, 1 to 64.
    pub burst: u8,
    /// Descriptors of each of its receive queues, a power of two.
    pub rx_descriptors: u16,
    /// Descriptors of each of its transmit queues, a power of two.
    pub tx_descriptors: u16,
    /// Flows that its shard of the flow table holds; `None` is its share of [`Flows::capacity`], see [`Config::table`].
    pub table: Option<u32>,
    /// Packets that it holds at most; `None` is its share of the packet buffers, see [`Config::hold`].
    pub hold: Option<u32>,
}

/// A Unix socket: the control socket, or that of the agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Its path.
    pub socket: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// The group that it belongs to, by name; `None` leaves it the daemon's.
    pub group: Option<String>,
}

/// The protocol agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// The socket at which they connect.
    pub socket: Control,
    /// Those that may connect, at most [`AGENTS_MAX`](crate::AGENTS_MAX), in the file's order: a rule has an index into it.
    pub list: Vec<Agent>,
}

impl Agents {
    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        self.list.iter().map(|agent| agent.name.clone()).collect()
    }
}

/// A protocol agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The program that the daemon runs, an absolute path, and its arguments; empty when somebody else
    /// runs it.
    pub command: Vec<String>,
    /// The user that the program runs as, by name; `None` is the daemon's.
    pub user: Option<String>,
    /// What becomes of its flows' packets while it is not connected.
    pub when_gone: WhenGone,
    /// How many packets it may have, or may wait for it, at a time.
    pub queue: u32,
}

/// What becomes of the packets of an agent's flows while it is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenGone {
    /// They pass as those of other flows do.
    Bypass,
    /// They wait for it, as many as its queue has room for.
    Hold,
    /// They are dropped.
    Drop,
}

/// The flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// How many flows the node has at most, over all workers.
    pub capacity: u32,
    /// How long a deleted flow is remembered.
    pub tombstone: Duration,
    /// How often what moves with every packet is told to the backups.
    pub refresh: Duration,
    /// Whether packets with wrong checksums are dropped.
    pub verify_checksums: bool,
}

/// After how many milliseconds without a packet a flow ends, by its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP connection of which one side has sent its SYN.
    pub tcp_syn_sent_ms: u32,
    /// Both have.
    pub tcp_syn_received_ms: u32,
    /// An established connection.
    pub tcp_established_ms: u32,
    /// One side has sent its FIN.
    pub tcp_fin_wait_ms: u32,
    /// Both have.
    pub tcp_closing_ms: u32,
    /// Both FINs are acknowledged.
    pub tcp_time_wait_ms: u32,
    /// A reset ended it.
    pub tcp_reset_ms: u32,
    /// A UDP flow that was not answered.
    pub udp_new_ms: u32,
    /// One that was.
    pub udp_stream_ms: u32,
    /// An ICMP or ICMPv6 exchange.
    pub icmp_ms: u32,
    /// A flow of another protocol that was not answered.
    pub other_new_ms: u32,
    /// One that was.
    pub other_stream_ms: u32,
}

impl Timeouts {
    /// The timeout of a TCP connection in a phase, in milliseconds.
    pub const fn tcp_ms(&self, phase: TcpPhase) -> u32 {
        match phase {
            TcpPhase::SynSent => self.tcp_syn_sent_ms,
            TcpPhase::SynReceived => self.tcp_syn_received_ms,
            TcpPhase::Established => self.tcp_established_ms,
            TcpPhase::FinWait => self.tcp_fin_wait_ms,
            TcpPhase::Closing => self.tcp_closing_ms,
            TcpPhase::TimeWait => self.tcp_time_wait_ms,
            TcpPhase::Reset => self.tcp_reset_ms,
        }
    }
}

/// How TCP is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Whether segments outside of the window are dropped.
    pub strict: bool,
    /// Whether a connection may be picked up in its middle.
    pub pickup: bool,
}

/// What an interface's packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A PCI address with its domain, in lower case, such as `0000:01:00.0`.
    Pci(String),
    /// A virtual device with its arguments, such as `net_af_packet0,iface=eth1`.
    Vdev(String),
}

impl Device {
    /// What DPDK calls the device: the PCI address, or the virtual device without its arguments.
    pub fn name(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Vdev(text) => text.split(',').next().unwrap_or(text),
        }
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Where its packets come from.
    pub device: Device,
    /// The identity of its zone in the rule set's table.
    pub zone: u8,
    /// The longest IP packet in bytes.
    pub mtu: u16,
    /// The VLAN that its frames are tagged with, if they are.
    pub vlan: Option<u16>,
    /// Whether it answers ICMP echo requests to its own addresses.
    pub ping: bool,
    /// Its addresses with their prefix lengths: hosts' addresses, not networks.
    pub addresses: Vec<IpNet>,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network that it leads to.
    pub to: IpNet,
    /// The next router, on a network of the interface.
    pub via: IpAddr,
    /// The index in [`Config::interfaces`] of the interface that it leads out by.
    pub interface: usize,
}

/// A neighbour whose Ethernet address is given: it is neither asked for nor learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The index in [`Config::interfaces`] of the interface that it is on.
    pub interface: usize,
    /// Its address, on a network of the interface.
    pub address: IpAddr,
    /// Its Ethernet address, a unicast one.
    pub mac: [u8; 6],
}
