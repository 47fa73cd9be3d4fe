//! What workers and the sync core tell each other. The rings that carry it are the daemon's.

use state::{FlowRecord, NodeId, SlotSet};

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
}

/// From the sync core to a worker, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum ToWorker {
    /// Records from a peer, each with its idle seconds, all of slots that this worker owns in its
    /// node: merge them, then answer [`ToSync::Applied`].
    Apply {
        /// Chosen by the sync core.
        token: u64,
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
}
