//! Common state: what every node of a cluster has, as one map. Blocks, authenticated users,
//! expectations of related connections, VPN tunnels with their counter leases, the policy's text, and the numbers of TCP connections
//! in which agents changed lengths.
//!
//! A [`CommonMap`] is a join-semilattice by key: of two entries of one key the one with the greater
//! [`Stamp`](crate::Stamp) wins whole; a deletion is an entry without a value and is kept as a
//! tombstone; an entry that ended by its age is a tombstone with its own stamp, and with equal stamps
//! a tombstone wins. Entries travel with what is left of their life, not with a time, for nodes'
//! clocks differ. `tests/common.rs` states the laws as properties.

mod archive;
mod key;
mod map;
mod shift;
mod value;

pub use archive::{ArchivedCommonBatch, CommonBatch, InvalidCommon};
pub use key::{CommonKey, CommonKind, CommonKinds, ExpectationKey, Net};
pub use map::{COMMON_MAX, CommonError, CommonFull, CommonMap, TOMBSTONES_MAX};
pub use shift::{SHIFT_MAX, SHIFTS_MAX, SeqShift, ShiftError, SideShift};
pub use value::{
    Block, BlockReason, CommonEntry, CommonValue, ERROR_BYTES_MAX, Expectation, GROUPS_MAX,
    LEASE_LEN, Lease, NAME_BYTES_MAX, NOTE_BYTES_MAX, POLICY_BYTES_MAX, PolicyAt, PolicyText,
    Secret, Suite, Tunnel, User,
};
