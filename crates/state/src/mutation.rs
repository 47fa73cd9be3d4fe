//! Deliberate bugs, to see whether tests find them.
//!
//! Only with the feature `mutations`, which nothing but the simulation turns on: without it
//! [`is`] is a constant `false` and the branch that asks for it is gone. A mutation is active for one
//! thread, so that a run in another is as always.

/// A deliberate bug. Each stands at the place that it spoils, in the crate that it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mutation {
    /// replication: a change is released as soon as one target has it.
    ReleaseEarly,
    /// replication: what was received is acknowledged before it is in a table.
    AcknowledgeUnapplied,
    /// replication: a target that died is kept.
    KeepDeadTargets,
    /// replication: slots that were taken over are not replicated to the new owner's targets.
    SkipAdoption,
    /// replication: after a reconnect changes go on behind what was not acknowledged.
    ResumeTooFar,
    /// state: an older incarnation overwrites a later one.
    StaleRecordWins,
    /// engine: what peers say of deleted flows is passed over.
    LoseTombstones,
    /// engine: packets behind the held one pass.
    LaterPacketsPass,
    /// engine: a held packet leaves before those that were held earlier.
    HoldOutOfOrder,
    /// engine: the view's age does not matter.
    TrustOldView,
    /// engine: windows of a flow that was taken over are enforced at once.
    EnforceOldWindows,
    /// engine: copies expire by themselves.
    ExpireCopies,
    /// membership: a node becomes active before it has the others' snapshots.
    ActiveTooSoon,
    /// membership: silence is no death.
    NobodyDies,
    /// replication: a new run of a peer is not told the common state that its former run had.
    NewRunKnows,
    /// replication: that common state was deleted is forgotten before all members know it.
    ForgetDeletions,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ReleaseEarly,
        Self::AcknowledgeUnapplied,
        Self::KeepDeadTargets,
        Self::SkipAdoption,
        Self::ResumeTooFar,
        Self::StaleRecordWins,
        Self::LoseTombstones,
        Self::LaterPacketsPass,
        Self::HoldOutOfOrder,
        Self::TrustOldView,
        Self::EnforceOldWindows,
        Self::ExpireCopies,
        Self::ActiveTooSoon,
        Self::NobodyDies,
        Self::NewRunKnows,
        Self::ForgetDeletions,
    ];
}

#[cfg(feature = "mutations")]
mod active {
    use super::Mutation;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Makes a mutation active for this thread, or none.
    pub fn activate(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Whether this mutation is active for this thread.
    pub fn is(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use active::{activate, is};

/// Whether this mutation is active: without the feature none ever is.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn is(_: Mutation) -> bool {
    false
}
