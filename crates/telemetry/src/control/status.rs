//! The answer to `ravelin status`. Its field names are fixed: scripts rely on them.
//!
//! Every field that ends in `_ns` is an instant of `CLOCK_MONOTONIC` in nanoseconds, so it is
//! comparable on one machine only, until that reboots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Drain;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The node itself.
    pub node: Node,
    /// What it believes of the cluster.
    pub view: View,
    /// Whether everything that it protects has all its copies.
    pub redundancy: Redundancy,
    /// The last takeover of slots from another node, if there was one.
    pub takeover: Option<Takeover>,
    /// Its replication to peers.
    pub replication: Replication,
    /// Its flow table.
    pub flows: Flows,
    /// The rules that are in force.
    #[serde(default)]
    pub policy: PolicyInForce,
    /// The common state that it has.
    #[serde(default)]
    pub common: CommonEntries,
    /// Its interfaces, in the order of the configuration.
    pub interfaces: Vec<Interface>,
    /// Its cores.
    pub cores: Vec<Core>,
    /// How far it is on its way to offline; null unless it was told to go there.
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// The node that answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its configured name.
    pub name: String,
    /// Its identity in the cluster, 0 to 31.
    pub id: u8,
    /// Which run of the node this is: Unix milliseconds at its start.
    pub incarnation: u64,
    /// `joining`, `active`, `draining` or `dead`.
    pub state: String,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's release.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
}

/// What the node believes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct View {
    /// Numbers the views.
    pub epoch: u64,
    /// Fingerprint of the view's inputs, 16 hexadecimal digits: a string, since many JSON readers
    /// keep only 53 bits of a number. Nodes that show equal digests agree.
    pub digest: String,
    /// All configured members.
    pub members: Vec<Member>,
    /// How many of the 1024 slots this node owns.
    pub owned_slots: u64,
    /// By node name: the names of its backup group, in order.
    pub backup_groups: BTreeMap<String, Vec<String>>,
}

/// A configured member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Its configured name.
    pub name: String,
    /// Its identity.
    pub id: u8,
    /// `joining`, `active`, `draining` or `dead`.
    pub state: String,
    /// Which run of it; 0 when it was never heard of.
    pub incarnation: u64,
    /// Milliseconds since it was heard; 0 for this node itself, null when it was never heard of.
    pub last_heard_ms: Option<u64>,
}

/// Whether everything has its copies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Redundancy {
    /// Every flow that this node owns has all its copies, as of now.
    pub whole: bool,
    /// Since when it is, or is not.
    pub since_ns: u64,
    /// How many slots still lack a copy.
    pub pending_slots: u64,
}

/// Slots that came to this node since their owner is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Takeover {
    /// The epoch of the view that brought them.
    pub epoch: u64,
    /// When that view was published.
    pub at_ns: u64,
    /// When the first packet of such a slot was forwarded; null when none has been yet.
    pub first_forward_ns: Option<u64>,
    /// How many slots came.
    pub slots: u64,
}

/// Replication, all peers together and each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replication {
    /// Flows of this node whose copies are acknowledged.
    pub flows_replicated: u64,
    /// Records sent since the start.
    pub records_sent: u64,
    /// Records received since the start.
    pub records_received: u64,
    /// Records that are not acknowledged yet by all that must.
    pub lag_records: u64,
    /// Slots of other nodes compared with the copies here since the start.
    pub slots_compared: u64,
    /// Those that differed.
    pub slots_differing: u64,
    /// Those that were repaired.
    pub slots_repaired: u64,
    /// Slots that are yet to be brought to their new owners.
    pub handing_over_slots: u64,
    /// Each peer.
    pub peers: Vec<Peer>,
}

/// The replication to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether the QUIC connection is up.
    pub connected: bool,
    /// Records sent to it and not acknowledged yet.
    pub lag_records: u64,
    /// Age of the oldest such record in milliseconds.
    pub lag_ms: u64,
    /// Age in milliseconds of the last comparison of its copies with all that this node owns; null
    /// when there was none, or it is no backup.
    pub compared_ms: Option<u64>,
    /// Whether its table had no room for some copies, and none of the comparisons since has found
    /// everything equal.
    pub refused: bool,
    /// Smoothed round trip of the connection in microseconds.
    pub rtt_us: u64,
    /// Bytes sent to it since the start.
    pub bytes_sent: u64,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
}

/// The flow table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flows {
    /// Living flows, owned or held as a backup.
    pub live: u64,
    /// Those whose slot this node owns.
    pub owned: u64,
    /// How many fit.
    pub capacity: u64,
    /// Packets that wait for an acknowledgement now.
    pub held_packets: u64,
}

/// Which rules are in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// Their number: 1 for those of the configuration.
    pub generation: u32,
    /// Where they come from: the configuration's file, or what the loaded text was called.
    pub source: String,
    /// Why newer rules, which other nodes may have, could not be used; null when these are the
    /// newest.
    pub error: Option<String>,
}

/// Common state, which every node has: how many entries of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommonEntries {
    /// Blocked networks.
    pub blocks: u64,
    /// Users who are logged in.
    pub users: u64,
    /// Related connections that are expected.
    pub expectations: u64,
    /// VPN tunnels.
    pub tunnels: u64,
    /// Living peers that have yet to acknowledge what this node has told them, or has to.
    #[serde(default)]
    pub behind: Vec<String>,
    /// Living peers whose common state was another when it was last compared, although nothing was on its
    /// way. They are sent all again.
    #[serde(default)]
    pub differ: Vec<String>,
    /// Entries given up because nodes that did not hear each other together wrote more than fits.
    #[serde(default)]
    pub given_up: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its configured name.
    pub name: String,
    /// Its device, as configured.
    pub device: String,
    /// Whether its link is up.
    pub link_up: bool,
    /// Its hardware address, `02:00:00:00:00:01`.
    pub mac: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that the device dropped since nobody took them from the receive queue.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// A core.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Core {
    /// `worker0`, `sync`, `membership`.
    pub role: String,
    /// Its CPU number.
    pub cpu: u32,
    /// What it does when there is nothing to do: `spin`, `pause`, `sleep`.
    pub idle: String,
    /// The share of its loop that found work, in thousandths.
    pub busy_permille: u32,
}
