//! What a replicator is told at its start.

use membership::Distribution;
use state::{NODES_MAX, NodeId};

/// How many of the current targets must have acknowledged a change before it is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldAcks {
    /// Every target.
    All,
    /// This many, at least one, of those that would own the slot next; every one of them when there are
    /// fewer. A joining node is none of them. Slots go to it without a death, so it must have
    /// acknowledged besides, once changes flow to it.
    Count(usize),
}

/// The parameters of a [`Replicator`](crate::Replicator).
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub me: NodeId,
    /// Which run of the node this is: greater than that of every earlier run.
    pub incarnation: u64,
    /// Fingerprint of the cluster's name and configuration: nodes of other clusters are refused.
    pub cluster: u64,
    /// How many workers this node has, at least one.
    pub workers: usize,
    /// Who handles flows, and so to whom changes go.
    pub distribution: Distribution,
    /// When changes are released.
    pub hold_acks: HoldAcks,
    /// Whether a change is released at once while no target counts, as it is while there is none. A
    /// joining node counts once changes flow to it.
    pub alone_releases: bool,
    /// How many changes of one worker are kept for targets that have not acknowledged them.
    pub log_records_max: usize,
    /// The most records of one batch.
    pub batch_records_max: usize,
    /// The most bytes of one frame with records.
    pub batch_bytes_max: usize,
    /// With fewer batches than this in flight to a peer on a stream, the next leaves at once;
    /// with more it waits until it is full or an acknowledgement arrives.
    pub eager_batches: usize,
    /// The most records in flight on one stream, sent or received.
    pub window_records: usize,
    /// About how many records a worker is asked for at a time, so that what waits here for a slow
    /// peer stays bounded.
    pub chunk_records: usize,
    /// With `ecmp`, after this long without an answer about a flow somebody else is asked.
    pub ask_retry_us: u64,
    /// How long a question stays open; the workers' deadline, and a little more.
    pub ask_deadline_us: u64,
    /// Microseconds between two comparisons of this node's slots with its targets' copies; 0 for
    /// none.
    pub digest_every_us: u64,
}

/// The most workers of one node; streams are numbered by it.
pub const WORKERS_MAX: usize = 1024;

/// Room for a frame's header beside its records, in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 128;
/// The most bytes that one record takes in a frame.
pub(crate) const RECORD_BYTES_MAX: usize = 160;
/// Room for one record in a frame.
const FRAME_BYTES_MIN: usize = HEADER_BYTES_MAX + RECORD_BYTES_MAX;

impl Options {
    /// The defaults: release when all targets have acknowledged.
    pub fn new(me: NodeId, incarnation: u64, cluster: u64, workers: usize) -> Self {
        Self {
            me,
            incarnation,
            cluster,
            workers,
            distribution: Distribution::Filter,
            hold_acks: HoldAcks::All,
            alone_releases: true,
            log_records_max: 1 << 17,
            batch_records_max: 1024,
            batch_bytes_max: 128 << 10,
            eager_batches: 2,
            window_records: 1 << 16,
            chunk_records: 1 << 16,
            ask_retry_us: 12_500,
            ask_deadline_us: 60_000,
            digest_every_us: 10_000_000,
        }
    }

    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let positive = [
            ("incarnation", self.incarnation),
            ("log_records_max", self.log_records_max as u64),
            ("batch_records_max", self.batch_records_max as u64),
            ("eager_batches", self.eager_batches as u64),
            ("chunk_records", self.chunk_records as u64),
        ];
        if let Some((option, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(OptionsError::Zero(option));
        }
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return Err(OptionsError::Workers(self.workers));
        }
        if self.batch_bytes_max < FRAME_BYTES_MIN {
            return Err(OptionsError::BatchBytes(self.batch_bytes_max));
        }
        if self.window_records < self.batch_records_max
            || u32::try_from(self.window_records).is_err()
        {
            return Err(OptionsError::Window {
                window: self.window_records,
                batch: self.batch_records_max,
            });
        }
        if let HoldAcks::Count(count) = self.hold_acks
            && !(1..NODES_MAX).contains(&count)
        {
            return Err(OptionsError::HoldAcks(count));
        }
        Ok(())
    }
}

/// Why a replicator cannot be made of some options.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsError {
    /// An option that must be at least one.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// The number of workers is out of range.
    #[error("{0} workers; a node has 1 to {WORKERS_MAX}")]
    Workers(usize),
    /// A frame would not hold one record.
    #[error("batch_bytes_max is {0}; one record may need {FRAME_BYTES_MIN}")]
    BatchBytes(usize),
    /// The window would not hold one batch.
    #[error(
        "window_records is {window}; it must be at least batch_records_max ({batch}) and fit 32 bits"
    )]
    Window {
        /// The window.
        window: usize,
        /// The batch size.
        batch: usize,
    },
    /// The number of acknowledgements is out of range.
    #[error("hold_acks asks for {0} acknowledgements; it must be at least 1 and below {NODES_MAX}")]
    HoldAcks(usize),
}
