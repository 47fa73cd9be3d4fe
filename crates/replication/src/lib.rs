//! Ravelin: the replication protocol. Pure: events and the time come in as arguments, messages
//! and the next deadline come out as values.
#![forbid(unsafe_code)]

mod link;

pub use link::{JobId, JobTarget, ToSync, ToWorker};
