//! Ravelin: failure detection and views. Pure: events and the time come in as arguments, messages
//! and the next deadline come out as values.
#![forbid(unsafe_code)]

mod config;
mod hash;
mod view;

pub use config::{ClusterConfig, ConfigError, MemberConfig, Timing, cluster_hash};
pub use view::{Member, MemberState, View};
