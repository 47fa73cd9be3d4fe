//! A whole cluster on one machine: network namespaces for the nodes and for what talks through
//! them, traffic from real programs, and a verifier that says what broke.
//!
//! The rooms, from the ground up:
//!
//! * [`namespace`], [`process`], [`state`]: namespaces, processes in them, and the record on disk
//!   by which a later run removes what a crashed one left behind.
//! * [`topology`]: the segments, nodes and endpoints.
//! * [`node_config`], [`cluster`]: PKI, configuration and life of the daemons.
//! * [`echo`], [`probe`], [`sink`], [`download`], [`web`], [`flowgen`], [`tool`]: traffic, and what it must
//!   look like at the far end.
//! * [`demo`]: the scenario: load, kill the owner of a running download, restart it, report.

pub mod cluster;
pub mod cut;
pub mod demo;
pub mod download;
pub mod echo;
pub mod error;
pub mod flowgen;
pub mod namespace;
pub mod node_config;
pub mod probe;
pub mod process;
pub mod program;
pub mod progress;
pub mod report;
pub mod routers;
pub mod sink;
pub mod stall;
pub mod state;
pub mod tool;
pub mod topology;
pub mod wait;
pub mod web;

pub use cluster::Cluster;
pub use error::Error;
pub use namespace::Namespace;
pub use process::{Process, Spawn};
pub use topology::Topology;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
