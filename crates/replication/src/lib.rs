//! Ravelin: the replication protocol. Pure: events and the time come in as arguments, messages
//! come out as values.
//!
//! A [`Replicator`] runs on the sync core. It keeps the workers' changes in a bounded log until the
//! node's current targets have acknowledged them, tells the workers what may be released, brings
//! targets that lack older state up to date with snapshots, and hands what peers send to the workers
//! that own it. `message` has the protocol's tables.
//!
//! What it rests on: records merge in any order, so everything may be sent twice and a snapshot may
//! overtake changes; only *that* all was received needs care, which is what positions are for.
//!
//! What it asks of a worker besides [`ToWorker`]: a record from a peer that changes a flow in a slot
//! which the node itself owns is a change of that flow, and is reported as one, so that it reaches
//! the node's own targets. Copies that are equal change nothing, so this ends.
#![forbid(unsafe_code)]

mod common;
mod errand;
mod joining;
mod link;
mod log;
mod message;
mod options;
mod outbox;
mod questions;
mod receiver;
mod repair;
mod replicator;
mod rounds;
mod route;
mod runs;
mod sender;
mod status;
mod target;

pub use common::Times;
pub use link::{JobId, JobTarget, SlotDigest, ToSync, ToWorker};
pub use message::{COMMON, CONTROL, ERRANDS, QUERIES, SNAPSHOTS, Violation};
pub use options::{HoldAcks, Options, OptionsError, WORKERS_MAX};
pub use replicator::Replicator;
pub use runs::Runs;
pub use status::{CommonStatus, Connection, Counters, Event, Output, Status, TargetStatus};
