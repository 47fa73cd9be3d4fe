//! What nodes say to each other: a byte with version and kind, the archive's length in four bytes
//! (little-endian), then an rkyv archive. An archive is read from its end: without the length, one with bytes
//! too many would be another message whose numbers are all valid.
//!
//! A node sends on the connection that it has dialed; the other answers on the same stream.
//!
//! | stream | dialer | answer |
//! |---|---|---|
//! | [`CONTROL`] | `Hello`, then `Request` | `Welcome` |
//! | worker | `Start`, then `Batch` with consecutive log numbers | `Ack` |
//! | | `Mark` with digests, behind the changes that they are of | `Compared` |
//! | [`QUERIES`] | `Query` | `Answer` |
//! | [`SNAPSHOTS`] + worker | `Start`, `Batch` with records counted from 1, `End` | `Ack` |
//! | [`ERRANDS`] + worker | the same, of some slots | `Ack` |
//! | [`COMMON`] | `Common` numbered from 1 in each session, `CommonDigest` | `CommonAck` |
//!
//! A *run* numbers each time a stream's count starts anew at a place that the sender chooses (a new
//! target, a part of the log given up, a new snapshot); runs of one sender only grow. Positions are
//! ordered by run, then by number. A *session* numbers a sender's connections to one peer, so that
//! what an old connection still delivers is told apart.

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Portable, Serialize};
use state::{CommonBatch, FlowBatch, InvalidCommon, InvalidRecord, NodeId, SLOTS};

use crate::options::WORKERS_MAX;

/// The stream of greetings and requests.
pub const CONTROL: u16 = 0xffff;
/// The stream of questions about single flows.
pub const QUERIES: u16 = 0xfffd;
/// The stream of common state.
pub const COMMON: u16 = 0xfffe;
/// The first of the streams that carry snapshots, one per worker.
pub const SNAPSHOTS: u16 = 0x8000;
/// The first of the streams that bring some slots beside snapshots, one per worker: answers to
/// requests, what an owner has to learn, and slots handed over.
pub const ERRANDS: u16 = 0xc000;
/// The bits of a stream's number that tell the worker.
pub(crate) const WORKER_BITS: u16 = !(SNAPSHOTS | ERRANDS);
/// The last stream that carries records.
pub(crate) const RECORDS_LAST: u16 = QUERIES - 1;

const _: () = assert!(WORKERS_MAX <= WORKER_BITS as usize);

/// The version of the protocol: the upper half of a frame's first byte. 3: flows can be expected ones.
const VERSION: u8 = 3;
/// Bytes before the archive.
const HEADER_BYTES: usize = 5;

/// First on a connection, on the control stream.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: u64,
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) workers: u16,
    pub(crate) node: u8,
}

/// The answer to a [`Hello`].
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Welcome {
    /// The receiver's.
    pub(crate) incarnation: u64,
    /// The incarnation whose session it is: another run of the dialer may have the same number.
    pub(crate) dialer: u64,
    pub(crate) session: u32,
    /// Records that the sender may have in flight on one stream.
    pub(crate) window_records: u32,
    /// By the sender's worker: what is applied of this incarnation of it.
    pub(crate) positions: Vec<Position>,
}

/// How far one delta stream is applied.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) run: u64,
    pub(crate) applied: u64,
}

/// The next number on this stream.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Start {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) run: u64,
    pub(crate) next: u64,
}

/// Records `first..=last` of a stream's count; of a log's, those that are for the receiver.
#[derive(Archive, Serialize, Default, Debug)]
pub(crate) struct Batch {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) worker: u16,
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) flows: FlowBatch,
}

/// The snapshot's stream of this worker is complete.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct End {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) run: u64,
    /// How many records went before.
    pub(crate) records: u64,
    /// Whether the snapshot has all that the sender owns, not only what the receiver missed.
    pub(crate) whole: bool,
    /// The number of the request that this answers; 0 for none.
    pub(crate) request: u64,
}

/// All up to `last` of the run is in the receiver's tables.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Ack {
    /// The receiver's.
    pub(crate) incarnation: u64,
    /// The incarnation whose session it is: another run of the dialer may have the same number.
    pub(crate) dialer: u64,
    pub(crate) session: u32,
    pub(crate) run: u64,
    pub(crate) last: u64,
    /// Records of this stream that the receiver's tables had no room for, so far.
    pub(crate) refused: u64,
    /// Whether the run's [`End`] has come as well.
    pub(crate) ended: bool,
}

/// What the sender's flows of some slots come to, after all changes up to a number and before the
/// next.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Mark {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) run: u64,
    /// The last number sent on the stream.
    pub(crate) after: u64,
    /// Numbers the sender's comparisons.
    pub(crate) round: u64,
    pub(crate) slots: Vec<MarkedSlot>,
}

/// The digest of one slot.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct MarkedSlot {
    pub(crate) slot: u16,
    pub(crate) sum: u64,
}

/// The answer to a [`Mark`].
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Compared {
    /// The receiver's.
    pub(crate) incarnation: u64,
    /// The incarnation whose session it is.
    pub(crate) dialer: u64,
    pub(crate) session: u32,
    pub(crate) run: u64,
    pub(crate) round: u64,
    /// How many slots were compared: those that the receiver does not own itself.
    pub(crate) compared: u32,
    /// How many of them differ.
    pub(crate) differing: u32,
}

/// The sender asks for a snapshot.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Request {
    /// The asking node's.
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    /// Names the request: the answer's [`End`] has it.
    pub(crate) number: u64,
    /// Which slots, as an errand; none for a snapshot of all that the receiver owns.
    pub(crate) slots: Vec<u16>,
}

/// The sender asks what is known of some flows.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Query {
    /// The asking node's.
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) keys: Vec<Key>,
}

/// A flow's key, with its endpoints in canonical order.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Key {
    pub(crate) a: [u8; 16],
    pub(crate) b: [u8; 16],
    pub(crate) a_port: u16,
    pub(crate) b_port: u16,
    pub(crate) proto: u8,
}

/// What is known of flows that were asked for, in any order.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct Answer {
    /// The receiver's.
    pub(crate) incarnation: u64,
    /// The incarnation whose session it is: another run of the dialer may have the same number.
    pub(crate) dialer: u64,
    pub(crate) session: u32,
    /// Of these nothing is known.
    pub(crate) unknown: Vec<Key>,
    pub(crate) flows: FlowBatch,
}

/// Entries of common state that changed at the sender.
#[derive(Archive, Serialize, Default, Debug)]
pub(crate) struct Common {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    /// Counts the messages of its kind in the session, from 1.
    pub(crate) number: u64,
    /// The sender's change up to which the receiver has all with this message; 0 while the whole
    /// map is on its way.
    pub(crate) upto: u64,
    pub(crate) entries: CommonBatch,
}

/// All up to a message is merged and to be seen by the receiver's workers.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct CommonAck {
    /// The receiver's.
    pub(crate) incarnation: u64,
    /// The incarnation whose session it is.
    pub(crate) dialer: u64,
    pub(crate) session: u32,
    pub(crate) number: u64,
}

/// A summary of the sender's map.
#[derive(Archive, Serialize, Debug)]
pub(crate) struct CommonDigest {
    pub(crate) incarnation: u64,
    pub(crate) session: u32,
    pub(crate) digest: u64,
    /// The receiver's run, as the sender knows it, and its change up to which the sender has all.
    pub(crate) receiver: u64,
    pub(crate) applied: u64,
}

/// A message and its kind, the lower half of a frame's first byte.
pub(crate) trait Message {
    const KIND: u8;
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($message:ty, $archived:ty, $kind:literal;)*) => {
        $(impl Message for $message {
            const KIND: u8 = $kind;
            const NAME: &'static str = stringify!($message);
        })*
        $(impl Message for $archived {
            const KIND: u8 = $kind;
            const NAME: &'static str = stringify!($message);
        })*
    };
}

kinds! {
    Hello, ArchivedHello, 1;
    Welcome, ArchivedWelcome, 2;
    Start, ArchivedStart, 3;
    Batch, ArchivedBatch, 4;
    End, ArchivedEnd, 5;
    Ack, ArchivedAck, 6;
    Request, ArchivedRequest, 7;
    Mark, ArchivedMark, 8;
    Compared, ArchivedCompared, 9;
    Query, ArchivedQuery, 11;
    Answer, ArchivedAnswer, 12;
    Common, ArchivedCommon, 13;
    CommonAck, ArchivedCommonAck, 14;
    CommonDigest, ArchivedCommonDigest, 15;
}

/// Writes a message over `frame`.
pub(crate) fn encode<M>(message: &M, mut frame: Vec<u8>) -> Vec<u8>
where
    M: Message + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
{
    frame.clear();
    frame.push(VERSION << 4 | M::KIND);
    frame.resize(HEADER_BYTES, 0);
    let mut frame = rkyv::api::high::to_bytes_in(message, frame)
        .expect("a vector takes all bytes, and batches are far below 2 GiB");
    let length = (frame.len() - HEADER_BYTES) as u32;
    frame[1..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    frame
}

/// The kind of a frame, once its version is known to be ours.
pub(crate) fn kind(frame: &[u8]) -> Result<u8, Violation> {
    let first = *frame.first().ok_or(Violation::Empty)?;
    if first >> 4 != VERSION {
        return Err(Violation::Version { theirs: first >> 4 });
    }
    Ok(first & 0xf)
}

/// The message of a frame whose kind is `M`'s; its bytes are checked before they are read.
pub(crate) fn open<M>(frame: &[u8]) -> Result<&M, Violation>
where
    M: Message + Portable + for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    let (length, archive) = frame[1..]
        .split_first_chunk()
        .ok_or(Violation::Archive(M::NAME))?;
    let said = u32::from_le_bytes(*length) as usize;
    if said != archive.len() {
        let found = archive.len();
        return Err(Violation::Length { said, found });
    }
    rkyv::access::<M, Error>(archive).map_err(|_| Violation::Archive(M::NAME))
}

/// What a peer did against the protocol; its connection is closed for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// A frame without a byte.
    #[error("an empty frame")]
    Empty,
    /// Another version of the protocol.
    #[error("protocol version {theirs}; this node speaks {VERSION}")]
    Version {
        /// The peer's version.
        theirs: u8,
    },
    /// A kind of message that this stream does not have.
    #[error("message kind {kind} on stream {stream:#06x}")]
    Kind {
        /// The kind.
        kind: u8,
        /// The stream.
        stream: u16,
    },
    /// A frame that is longer or shorter than it says.
    #[error("a message of {found} bytes that says it has {said}")]
    Length {
        /// The archive's bytes as the frame says.
        said: usize,
        /// The bytes that there are.
        found: usize,
    },
    /// Bytes that are not an archive of the message.
    #[error("bytes that are not a {0} message")]
    Archive(&'static str),
    /// A record that cannot be.
    #[error("invalid record: {0}")]
    Record(#[source] InvalidRecord),
    /// An entry of common state that cannot be.
    #[error("invalid common state: {0}")]
    Common(#[source] InvalidCommon),
    /// A node of another cluster.
    #[error("cluster {theirs:#018x}; this node is of {ours:#018x}")]
    Cluster {
        /// The peer's.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// A node that says it is another one than its connection's certificate tells.
    #[error("says that it is node {claimed}, on the connection of node {peer}")]
    Identity {
        /// What it says.
        claimed: u8,
        /// What its connection says.
        peer: NodeId,
    },
    /// A number of workers that no node has.
    #[error("{0} workers; a node has 1 to {WORKERS_MAX}")]
    Workers(usize),
    /// An earlier run of the node than the one already known.
    #[error("incarnation {theirs}, after {known} was already known")]
    Incarnation {
        /// The run that it says it is.
        theirs: u64,
        /// The latest known.
        known: u64,
    },
    /// Data or requests before the greeting is done.
    #[error("a message on stream {0:#06x} before the greeting")]
    Greeting(u16),
    /// A stream of a worker that the peer does not have.
    #[error("stream {stream:#06x} of a peer with {workers} workers")]
    Stream {
        /// The stream.
        stream: u16,
        /// How many workers it has.
        workers: usize,
    },
    /// A batch of one worker on the stream of another.
    #[error("a batch of worker {worker} on stream {stream:#06x}")]
    Worker {
        /// The batch's worker.
        worker: u16,
        /// The stream.
        stream: u16,
    },
    /// A slot that there is not.
    #[error("slot {0}; there are {SLOTS}")]
    Slot(u16),
    /// More slots than there are.
    #[error("{0} slots; there are {SLOTS}")]
    Slots(usize),
    /// A count of records that does not go with the numbers of the batch: as many in a snapshot, at
    /// least one and no more among a log's.
    #[error("a batch {first}..={last} with {records} records")]
    Range {
        /// Its first number.
        first: u64,
        /// Its last.
        last: u64,
        /// How many records it has.
        records: usize,
    },
    /// Numbers are missing before a batch.
    #[error("a batch starts at {first}; {expected} was expected")]
    Gap {
        /// The number after the last received.
        expected: u64,
        /// The batch's first.
        first: u64,
    },
    /// More records in flight than allowed.
    #[error("{records} records in flight on a stream; the window is {window}")]
    Window {
        /// How many there would be.
        records: usize,
        /// How many were allowed.
        window: usize,
    },
    /// A run that is older than the stream's.
    #[error("run {run} after run {current}")]
    Run {
        /// The run.
        run: u64,
        /// The stream's.
        current: u64,
    },
    /// A snapshot's end that does not agree with what came before.
    #[error("the end of a snapshot of {said} records, after {received}")]
    Count {
        /// How many the end names.
        said: u64,
        /// How many came.
        received: u64,
    },
    /// An acknowledgement of what was never sent.
    #[error("an acknowledgement of {last} in run {run}; {sent} is the last sent of run {current}")]
    Position {
        /// The run it names.
        run: u64,
        /// The number it names.
        last: u64,
        /// The stream's run.
        current: u64,
        /// The last number sent.
        sent: u64,
    },
}
