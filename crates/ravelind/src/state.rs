//! What the daemon's cores tell each other beside the rings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::common_sync::CommonCommands;
use crate::policies::Policies;
use membership::View;
use parking_lot::Mutex;
use state::NodeId;

use crate::drain::Desk;

/// The sync core's account of itself, renewed several times a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncReport {
    pub(crate) status: Option<replication::Status>,
    pub(crate) peers: BTreeMap<u8, PeerReport>,
}

/// What the sync core knows of one peer's connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerReport {
    pub(crate) connected: bool,
    pub(crate) rtt_us: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) last_error: Option<String>,
}

/// The membership core's account of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberReport {
    /// Milliseconds since each peer was heard, by identity; absent when it never was.
    pub(crate) heard_ms: BTreeMap<u8, u64>,
}

/// Snapshots of which peers are complete here: from the sync core to the membership core.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    /// The peer, its run, and the number of this node's join.
    pub(crate) done: Mutex<Vec<(NodeId, u64, u64)>>,
    pub(crate) count: AtomicUsize,
}

impl Synced {
    pub(crate) fn push(&self, peer: NodeId, incarnation: u64, join: u64) {
        self.done.lock().push((peer, incarnation, join));
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Takes what has come since the last time.
    pub(crate) fn take(&self) -> Vec<(NodeId, u64, u64)> {
        if self.count.swap(0, Ordering::Acquire) == 0 {
            return vec![];
        }
        std::mem::take(&mut *self.done.lock())
    }
}

/// Time that a core was busy, in microseconds since its start.
#[derive(Debug, Default)]
pub(crate) struct Busy(pub(crate) AtomicU64);

/// Everything shared by the cores and the control socket.
#[derive(Debug)]
pub(crate) struct Board {
    /// The membership core's latest view. The sync core takes it up first and then passes it to the
    /// workers, so that no worker relies on targets that the replicator does not count yet.
    pub(crate) view: Arc<engine::Snapshot<View>>,
    pub(crate) node: Arc<engine::NodeShared>,
    pub(crate) wake: Wake,
    /// What the control socket and others want of the cluster's common state.
    pub(crate) commands: CommonCommands,
    pub(crate) policies: Arc<Policies>,
    pub(crate) incarnation: u64,
    /// The greatest number that a peer knows of a later run of this node; 0 when none does. The main
    /// thread keeps it, so that the next run is after it.
    pub(crate) later_run: AtomicU64,
    /// A peer that has never heard this run knows a later one: they will not come together, but the next run
    /// and it will.
    pub(crate) outrun: AtomicBool,
    pub(crate) started_us: u64,
    pub(crate) synced: Synced,
    pub(crate) sync: Mutex<SyncReport>,
    pub(crate) members: Mutex<MemberReport>,
    pub(crate) drain: Desk,
    pub(crate) sync_busy: Busy,
    pub(crate) member_busy: Busy,
}

/// Wakes the sync core out of its sleep.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) asleep: AtomicBool,
    pub(crate) notify: tokio::sync::Notify,
}

impl Wake {
    /// There is something for the sync core. A system call only when it sleeps, which it does
    /// only under the idle policy of that name.
    pub(crate) fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }
}
