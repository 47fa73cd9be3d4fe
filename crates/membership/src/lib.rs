//! Ravelin: failure detection and views. Pure: events and the time come in as arguments, messages
//! and the next deadline come out as values.
#![forbid(unsafe_code)]

mod config;
mod hash;
mod heartbeat;
mod membership;
mod output;
mod view;

pub use config::{ClusterConfig, ConfigError, MemberConfig, Timing, cluster_hash};
pub use heartbeat::{HEARTBEAT_BYTES, PROTOCOL_VERSION, Refusal};
pub use membership::{Health, Membership, NotAMember};
pub use output::{Death, Event, MemberStatus, Output, Said, Status};
pub use view::{Member, MemberState, View};
