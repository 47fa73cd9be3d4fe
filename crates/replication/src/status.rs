//! What a replicator tells: outputs, events for the log, counters, and its status.

use state::{BlockReason, CommonKinds, NodeId, Stamp};

use crate::ToWorker;
use crate::message::Violation;

/// What the driver is to do. It hands back what it has no room for with
/// [`Replicator::refused`](crate::Replicator::refused), before it polls again.
#[derive(Debug)]
pub enum Output {
    /// Send on our connection to the peer.
    Send {
        /// To whom.
        peer: NodeId,
        /// On which stream.
        stream: u16,
        /// The frame; [`Replicator::recycle`](crate::Replicator::recycle) takes it back.
        frame: Vec<u8>,
    },
    /// Answer on the peer's connection to us.
    Reply {
        /// To whom.
        peer: NodeId,
        /// On which stream.
        stream: u16,
        /// The frame; [`Replicator::recycle`](crate::Replicator::recycle) takes it back.
        frame: Vec<u8>,
    },
    /// Put a message into a worker's ring.
    ToWorker {
        /// Which worker.
        worker: usize,
        /// The message.
        message: ToWorker,
    },
    /// The worker may let go of everything up to a log number. It only grows.
    Release {
        /// Which worker.
        worker: usize,
        /// The log number.
        lsn: u64,
    },
    /// All that a member owned when this node asked it for its state is in the tables here.
    Synced {
        /// The member.
        peer: NodeId,
        /// The run of the member that it came from.
        incarnation: u64,
        /// [`View::join`](membership::View::join) of the view in which it was asked for.
        join: u64,
    },
    /// Entries of these kinds of common state changed, here or by a peer. Comes before the
    /// acknowledgement of a peer's change, which says that this node's workers can see it.
    CommonChanged {
        /// The kinds.
        kinds: CommonKinds,
    },
    /// Every node that lives in the view has all that was written here up to this stamp.
    CommonSynced {
        /// The last such write.
        stamp: Stamp,
    },
    /// A worker found a source that scans or floods: the driver, which knows for how long, blocks it
    /// with [`Replicator::put_common`](crate::Replicator::put_common).
    Detected {
        /// Its address in the 16-byte form.
        source: [u8; 16],
        /// What it does.
        reason: BlockReason,
    },
    /// Close a connection: the peer broke the protocol.
    Close {
        /// The peer.
        peer: NodeId,
        /// Which of the two connections.
        connection: Connection,
        /// How.
        reason: Violation,
    },
    /// Something for the log.
    Event(Event),
}

/// Which of the two connections between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// The one that this node dialed.
    Outgoing,
    /// The one that the peer dialed.
    Incoming,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A peer now gets this node's changes.
    TargetAdded {
        /// The peer.
        peer: NodeId,
        /// Its run.
        incarnation: u64,
    },
    /// A peer no longer gets this node's changes.
    TargetRemoved {
        /// The peer.
        peer: NodeId,
        /// Its run.
        incarnation: u64,
    },
    /// Changes flow to a target.
    Attached {
        /// The target.
        peer: NodeId,
        /// How many changes it has to catch up with.
        behind_records: u64,
    },
    /// A target was so far behind that a part of the log was given up for it; a snapshot will
    /// repair it, and until then its acknowledgements do not count for this worker.
    Lagging {
        /// The target.
        peer: NodeId,
        /// The worker.
        worker: usize,
        /// How many changes were given up.
        records: u64,
    },
    /// A snapshot has begun.
    SnapshotStarted {
        /// To whom.
        peer: NodeId,
        /// How many slots it has.
        slots: usize,
    },
    /// A snapshot is complete and acknowledged.
    SnapshotDone {
        /// To whom.
        peer: NodeId,
        /// How many records it had.
        records: u64,
    },
    /// Slots that came to this node are replicated to its targets.
    Adopting {
        /// How many slots.
        slots: usize,
    },
    /// A peer that was no target owns slots that this node had: it is brought what it may lack.
    HandOverStarted {
        /// The peer.
        peer: NodeId,
        /// How many slots.
        slots: usize,
    },
    /// The peer has all that this node had of them.
    HandOverDone {
        /// The peer.
        peer: NodeId,
        /// How many slots.
        slots: usize,
        /// How many records it was sent.
        records: u64,
    },
    /// Copies here that differed from their owner's are equal again.
    Repaired {
        /// The owner.
        peer: NodeId,
        /// How many slots.
        slots: usize,
        /// How many records the owner had to learn.
        records_pushed: u64,
    },
    /// Redundancy became whole, or is so no longer.
    Redundancy {
        /// Whether it is whole.
        whole: bool,
    },
    /// A worker skipped log numbers: the replicator takes all its slots as changed.
    LogGap {
        /// The worker.
        worker: usize,
        /// The log number that was due.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}

/// What happened so far. All only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Changes that workers reported.
    pub changes: u64,
    /// Changes that the whole target set, or as much of it as `hold_acks` asks for, acknowledged.
    pub records_acked: u64,
    /// Of these, the ones that opened a flow.
    pub flows_acked: u64,
    /// Batches of changes sent, to all targets together.
    pub batches_sent: u64,
    /// Records in them.
    pub records_sent: u64,
    /// Bytes of all frames made for peers.
    pub bytes_sent: u64,
    /// Batches received, changes and snapshots.
    pub batches_received: u64,
    /// Records in them.
    pub records_received: u64,
    /// Bytes of all frames from peers.
    pub bytes_received: u64,
    /// Records that workers have put in their tables.
    pub records_applied: u64,
    /// Records from peers that tables here had no room for.
    pub records_refused: u64,
    /// Changes given up for a target that lagged.
    pub records_given_up: u64,
    /// Deletions among them that could not be kept either: the peer keeps these flows until they
    /// are repaired.
    pub deletions_lost: u64,
    /// Snapshots begun.
    pub snapshots_started: u64,
    /// Snapshots complete and acknowledged.
    pub snapshots_done: u64,
    /// Snapshots that did not move for half a minute, and started over with what was missing.
    pub snapshots_restarted: u64,
    /// Records sent in snapshots.
    pub snapshot_records_sent: u64,
    /// Snapshots received whole.
    pub snapshots_received: u64,
    /// Questions of workers about flows that they do not know.
    pub questions_asked: u64,
    /// Of these, the ones that were answered, also that there is no such flow.
    pub questions_answered: u64,
    /// Questions that nobody answered in time.
    pub questions_unanswered: u64,
    /// Questions of workers and of peers not taken because too many were open.
    pub questions_dropped: u64,
    /// Digests of a worker's slots sent to a target.
    pub marks_sent: u64,
    /// Slots whose copies here were compared with their owner's.
    pub slots_compared: u64,
    /// Those that differed.
    pub slots_differing: u64,
    /// Repairs begun: requests for slots that differed twice in a row.
    pub repairs_started: u64,
    /// Slots repaired.
    pub slots_repaired: u64,
    /// Records sent because a copy differed.
    pub records_answered: u64,
    /// Records sent to their owner, which did not have them.
    pub records_pushed: u64,
    /// Records brought to the new owner of their slots, which was no target.
    pub records_handed_over: u64,
    /// Entries of common state sent, to all peers together.
    pub common_sent: u64,
    /// Entries of common state received.
    pub common_received: u64,
    /// Of these, the ones that changed the map.
    pub common_merged: u64,
    /// Entries of common state that ended by their age.
    pub common_expired: u64,
    /// Times that the whole common state was sent again because a peer's differed.
    pub common_repairs: u64,
    /// Frames that broke the protocol.
    pub frames_invalid: u64,
    /// Frames of connections that had been replaced.
    pub frames_stale: u64,
    /// Messages from workers that make no sense: log numbers twice or skipped, unknown tokens.
    pub worker_faults: u64,
}

/// How redundant this node's state is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Whether there is a target, and every target has all of this node's state but for the
    /// changes in flight.
    pub whole: bool,
    /// Since when that is so.
    pub since_us: u64,
    /// Adopted slots that are yet to be replicated.
    pub adopting_slots: usize,
    /// Slots that are yet to be brought to their new owners, which were no targets.
    pub handing_over_slots: usize,
    /// The targets in ascending order.
    pub targets: Vec<TargetStatus>,
    /// Where the common state is.
    pub common: CommonStatus,
    /// What happened so far.
    pub counters: Counters,
}

/// What there is of common state, and who has it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CommonStatus {
    /// Live entries by kind, in the order of [`CommonKind::ALL`](state::CommonKind::ALL).
    pub entries: [usize; state::CommonKind::ALL.len()],
    /// Tombstones that some member may still need.
    pub tombstones: usize,
    /// Summary of the live entries: nodes that agree have the same.
    pub digest: u64,
    /// Living peers that have not acknowledged all that this node has to tell them.
    pub behind: Vec<NodeId>,
    /// Peers whose last summary was not this node's.
    pub differ: Vec<NodeId>,
    /// Entries given up because nodes that did not hear each other together wrote more than fits.
    pub given_up: u64,
    /// Tombstones forgotten because there were too many.
    pub tombstones_forgotten: u64,
}

/// How far one target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TargetStatus {
    /// The target.
    pub peer: NodeId,
    /// Its run.
    pub incarnation: u64,
    /// Whether there is a connection on which changes flow.
    pub attached: bool,
    /// Whether a part of the log was given up for it and is not repaired yet.
    pub lagging: bool,
    /// Changes that it has not acknowledged.
    pub lag_records: u64,
    /// How old the oldest of them is.
    pub lag_us: u64,
    /// Slots that its snapshot has yet to send; `None` when it needs none.
    pub snapshot_slots: Option<usize>,
    /// Records that its tables had no room for.
    pub records_refused: u64,
    /// Whether some of them may still be missing: no comparison since has found everything equal.
    pub refused: bool,
    /// Age of the last comparison of every slot with its copies; `None` when there was none.
    pub compared_us: Option<u64>,
}
