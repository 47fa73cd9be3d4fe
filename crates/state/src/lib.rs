//! What a Ravelin cluster knows, as values: flow keys, flow records with their merge laws, slots,
//! node identities, and the archives that carry them between nodes.
//!
//! Everything here is plain data. A [`FlowRecord`] is a join-semilattice: [`FlowRecord::merge`] is
//! commutative, associative and idempotent, so that copies modified in two places converge in
//! whatever order they meet. `tests/laws.rs` states the laws as properties.
#![forbid(unsafe_code)]

mod archive;
mod clock;
mod common;
mod digest;
mod flow;
mod key;
pub mod mutation;
mod node;
mod slot;
mod tcp;

pub use archive::{ArchivedFlowBatch, FlowBatch, InvalidRecord};
pub use clock::{HybridClock, Stamp};
pub use common::{
    ArchivedCommonBatch, Block, BlockReason, COMMON_MAX, CommonBatch, CommonEntry, CommonError,
    CommonFull, CommonKey, CommonKind, CommonKinds, CommonMap, CommonValue, ERROR_BYTES_MAX,
    Expectation, ExpectationKey, GROUPS_MAX, InvalidCommon, LEASE_LEN, Lease, NAME_BYTES_MAX,
    NOTE_BYTES_MAX, Net, POLICY_BYTES_MAX, PolicyAt, PolicyText, SHIFT_MAX, SHIFTS_MAX, Secret,
    SeqShift, ShiftError, SideShift, Suite, TOMBSTONES_MAX, Tunnel, User,
};
pub use flow::{Class, FlowRecord, Life, Mark, Nat, Progress, SyncMode, Verdict};
pub use key::{Dir, FlowKey, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, v4_mapped};
pub use node::{NODES_MAX, NodeId, NodeSet};
pub use slot::{SLOTS, Slot, SlotSet, rss, slot_of, slot_of_v4, worker_of};
pub use tcp::{TcpPhase, TcpSide, unwrap_seq};
