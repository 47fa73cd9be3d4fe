//! What workers and the sync core tell each other. The rings that carry it are the daemon's.

use state::{BlockReason, CommonKey, FlowKey, FlowRecord, NodeId, NodeSet, Slot, SlotSet, Stamp};

/// Names a scan of a worker's shard. Each job goes to all workers; each answers for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// For whom a worker scans its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobTarget {
    /// The node's current targets: the records come as changes, with log numbers.
    Group,
    /// One peer: the records come as snapshot records.
    Peer(NodeId),
    /// The slots' owner, which was [listened to](ToWorker::Listen) and has told of all that it has:
    /// as snapshot records comes what it did not tell of or knows less of. What it told of earlier
    /// and nobody else changed, it has deleted: that is removed here.
    Owner(NodeId),
    /// The slots' new owner, which was not a target: as snapshot records comes everything,
    /// tombstones too, but for what it told of itself and nobody else changed.
    Heir(NodeId),
    /// The slots' new owner, which has all that this node ever told: as snapshot records comes what was
    /// told to nobody yet, flows whose replication is delayed and changes that found the ring full.
    Untold(NodeId),
}

/// The digest of a slot's flows: the sum of `FlowRecord::digest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotDigest {
    /// The slot.
    pub slot: Slot,
    /// The sum, modulo 2^64.
    pub sum: u64,
    /// In an answer: whether this node's flows of the slot have another one.
    pub differs: bool,
}

/// From a worker to the sync core, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum ToSync {
    /// A flow was opened, changed or deleted. Log numbers of one worker are consecutive from 1.
    Change {
        /// Log number.
        lsn: u64,
        /// The record as it is now.
        record: FlowRecord,
        /// Seconds since its last packet.
        idle_s: u16,
        /// With `ecmp`, who else handles the flow: they are told of it as well, if this node owns
        /// its slot.
        handlers: NodeSet,
    },
    /// A record for the peer of a snapshot job.
    Snapshot {
        /// The job.
        job: JobId,
        /// The record as it is now.
        record: FlowRecord,
        /// Seconds since its last packet.
        idle_s: u16,
    },
    /// The scan of this worker's shard for a job has ended; all its records went before.
    JobDone {
        /// The job.
        job: JobId,
        /// The worker's log number at the end of the scan.
        lsn: u64,
    },
    /// A part of a peer's batch is in the table. The vector comes back to be used again.
    Applied {
        /// As in [`ToWorker::Apply`].
        token: u64,
        /// The vector of the request, emptied.
        records: Vec<(FlowRecord, u16)>,
        /// Records that the table had no room for.
        refused: u32,
    },
    /// With `ecmp`: packets of a flow wait that this worker does not know, of a slot that another node
    /// owns. [`ToWorker::Answer`] follows, unless it takes too long.
    Ask {
        /// Chosen by the worker.
        token: u64,
        /// The flow.
        key: FlowKey,
    },
    /// The answer to [`ToWorker::Lookup`].
    Found {
        /// As in the request.
        token: u64,
        /// The record, a tombstone too, and seconds since its last packet.
        record: Option<(FlowRecord, u16)>,
    },
    /// The answer to [`ToWorker::Digest`].
    Digests {
        /// As in the request.
        round: u64,
        /// The log number of the last change that the digests contain. They are of what was handed
        /// to the sync core, and of what was merged.
        lsn: u64,
        /// The vector of the request, with one digest for each slot of this worker that the node
        /// owns.
        digests: Vec<SlotDigest>,
    },
    /// A source scans or floods: it is to be blocked.
    Detected {
        /// Its address in the 16-byte form.
        source: [u8; 16],
        /// Which of the two.
        reason: BlockReason,
    },
    /// An entry of common state has served its purpose, such as an expectation for one connection that was opened: it is to
    /// be deleted on all nodes.
    UsedUp {
        /// Its key.
        key: CommonKey,
        /// The write that was used. A later one stays.
        stamp: Stamp,
    },
    /// The answer to [`ToWorker::Compare`].
    Compared {
        /// As in the request.
        token: u64,
        /// The vector of the request, without the slots that the node owns itself.
        digests: Vec<SlotDigest>,
    },
}

/// From the sync core to a worker, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum ToWorker {
    /// Records from a peer, each with its idle seconds, all of slots that this worker owns in its
    /// node: merge them, then answer [`ToSync::Applied`].
    Apply {
        /// Chosen by the sync core.
        token: u64,
        /// From whom. With `ecmp` one that does not own the slot of a flow handles the flow: others
        /// are not sent.
        peer: NodeId,
        /// The records.
        records: Vec<(FlowRecord, u16)>,
    },
    /// Scan the shard, paced, for flows of these slots.
    Job {
        /// The job.
        job: JobId,
        /// For whom.
        target: JobTarget,
        /// Which slots.
        slots: Box<SlotSet>,
    },
    /// Forget a job: its peer is gone.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// A peer asks for a flow of this worker, since it handles packets of it from now on.
    Lookup {
        /// Chosen by the sync core.
        token: u64,
        /// Who asks.
        peer: NodeId,
        /// The flow.
        key: FlowKey,
    },
    /// The answer to [`ToSync::Ask`].
    Answer {
        /// As in the request.
        token: u64,
        /// Who knows the flow, its record and seconds since its last packet; `None` when there is no
        /// such flow, or this node itself owns the slot now.
        found: Option<(NodeId, FlowRecord, u16)>,
    },
    /// Give the digests of the slots that the node owns, as [`ToSync::Digests`].
    Digest {
        /// Names the request.
        round: u64,
        /// An empty vector with room for all slots.
        digests: Vec<SlotDigest>,
    },
    /// Compare an owner's digests with this worker's, and answer [`ToSync::Compared`].
    Compare {
        /// Chosen by the sync core.
        token: u64,
        /// What the owner has, all of slots of this worker.
        digests: Vec<SlotDigest>,
    },
    /// From here on, notice what this peer tells of: see [`JobTarget::Owner`].
    Listen {
        /// The peer.
        peer: NodeId,
    },
}
