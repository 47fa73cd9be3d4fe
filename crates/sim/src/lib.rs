//! Whole clusters of the same code as the daemon's, on a virtual clock and network.
//!
//! A run is made of [`Options`], which follow from a seed: 2 to 16 nodes of `engine::Worker`,
//! `replication::Replicator` and `membership::Membership`, the driver that joins them as the
//! daemon does, hosts with TCP behaviour on both sides, and a menu of [`Faults`]. Everything that
//! happens is an event in one queue, so time skips what is idle, and equal options give equal runs.
//!
//! The module `oracle` judges from outside: what leaves a node is protected; no connection is lost within the rules;
//! once faults stop everything becomes equal; nothing grows without bound; the dead stay dead.
//!
//! `cargo run --release -p sim -- --help` has the command line.
#![forbid(unsafe_code)]

mod common;
mod drain;
mod hosts;
#[cfg(feature = "mutations")]
pub mod mutations;
mod net;
mod node;
mod options;
mod oracle;
mod queue;
mod random;
mod report;
mod schedule;
mod shape;
mod tcp;
mod witness;
mod world;

pub use options::{Faults, Fixed, Options, Profile};
pub use report::{Failure, Invariant, Report, Stats};

/// Runs one cluster to its end, or to the first broken invariant. A panic of the code under test
/// is a failure as any other.
pub fn run(options: &Options) -> Report {
    let outcome = std::panic::catch_unwind(|| world::World::new(options).run());
    outcome.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without words");
        Report {
            stats: Stats {
                runs: 1,
                ..Stats::default()
            },
            hash: 0,
            failure: Some(Failure {
                invariant: Invariant::Panicked,
                at_us: 0,
                what: what.to_owned(),
            }),
            trace: Vec::new(),
        }
    })
}
