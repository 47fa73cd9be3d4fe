//! What the daemon's cores tell each other beside the rings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use membership::View;
use parking_lot::Mutex;
use state::NodeId;

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
    pub(crate) done: Mutex<Vec<(NodeId, u64)>>,
    pub(crate) count: AtomicUsize,
}

impl Synced {
    pub(crate) fn push(&self, peer: NodeId, incarnation: u64) {
        self.done.lock().push((peer, incarnation));
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Takes what has come since the last time.
    pub(crate) fn take(&self) -> Vec<(NodeId, u64)> {
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
    pub(crate) node: Arc<engine::NodeShared>,
    pub(crate) incarnation: u64,
    pub(crate) started_us: u64,
    pub(crate) synced: Synced,
    pub(crate) sync: Mutex<SyncReport>,
    pub(crate) members: Mutex<MemberReport>,
    pub(crate) sync_busy: Busy,
    pub(crate) member_busy: Busy,
}

impl Board {
    pub(crate) fn view(&self) -> Arc<View> {
        self.node.view.load()
    }
}
