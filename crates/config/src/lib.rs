//! The configuration of one node: TOML in, checked values out.
//!
//! [`Config::load`] reads a file, [`Config::parse`] a text. What comes out is valid: names are
//! resolved to identities, durations to numbers, paths to absolute or given folders, and nobody
//! needs to look at text again. What is wrong is said with file, line, column and remedy, as many
//! mistakes at once as can be told apart ([`ConfigError`]); what is doubtful is a [`Warning`].
//!
//! [`rules_from_str`] reads a file that has rules alone, for a running node.
//!
//! What a key means is in `docs/configuration.md`; [`KEYS`] lists all that the parser knows.
#![forbid(unsafe_code)]

mod agents;
mod cluster;
mod cores;
mod detect;
mod eal;
mod error;
mod keys;
mod neighbours;
mod network;
mod parse;
mod reader;
mod rules;
mod rules_file;
mod summary;
mod timers;
mod types;
mod value;

pub use agents::AGENTS_MAX;
pub use error::{ConfigError, Doubt, Fault, Position, Problem, Warning};
pub use keys::KEYS;
pub use rules_file::{RulesFile, rules_from_str};
pub use summary::Summary;
pub use types::{
    Agent, Agents, Alone, AtDeadline, Cluster, Config, Control, Cores, Detect, Device,
    Distribution, Eal, Flows, HoldAcks, Idle, Interface, Iova, Member, Neighbour, Pki, Route, Tcp,
    Timeouts, WhenGone, Worker,
};
pub use value::duration;
