//! Ravelin: failure detection and views. Pure: events and the time come in as arguments, messages
//! and the next deadline come out as values.
//!
//! * [`View::compute`] is the view function: who owns which slot and who backs up whom, from what
//!   is believed of each member. Its page argues why a slot only moves to a node that holds it.
//! * [`Membership`] is the state machine of one node: it sends heartbeats, notices deaths and
//!   restarts, decides when this node has all it needs to own slots, and gives a view at every
//!   change. What it expects of its driver is on its page.
//!
//! # Why heartbeats and not SWIM
//!
//! Every node sends every peer a heartbeat each interval, as BFD and CARP do. Measured against SWIM
//! (foca 2) on one virtual clock, with delays of 0.1 to 0.5 ms, an interval of 10 ms, and 30 ms of
//! lost messages forgiven by both (`cargo run -p membership --example detectors`):
//!
//! | | nodes | death to detection, ms: median | p99 | max | messages/s and node | false deaths |
//! |---|---|---|---|---|---|---|
//! | heartbeats | 3 | 36.2 | 39.9 | 39.9 | 200 | 8 |
//! | SWIM | 3 | 45.9 | 57.7 | 57.7 | 200 | 3 |
//! | heartbeats | 8 | 35.6 | 39.9 | 39.9 | 700 | 116 |
//! | SWIM | 8 | 50.6 | 78.8 | 86.6 | 200 | 5 |
//! | SWIM, probes 3.5 times as often | 8 | 37.5 | 43.9 | 45.0 | 700 | 14 |
//! | heartbeats | 32 | 34.6 | 39.8 | 39.8 | 3100 | 1818 |
//! | SWIM | 32 | 62.4 | 95.2 | 107.6 | 200 | 304 |
//! | SWIM, probes 4.5 times as often | 32 | 38.0 | 47.0 | 48.9 | 909 | 217 |
//!
//! False deaths are those of 20 s at 10 % loss, counted at every node; without loss there are none.
//! At an equal interval SWIM misses the 50 ms of a takeover, because its detection is a matter of
//! chance and its bound grows with the cluster. Heartbeats have a bound, `dead_after_ms` after the
//! last one that arrived, whatever the size. Probing so often that SWIM meets it costs the same up
//! to 8 nodes; at 32 it costs a third, and its indirect probes stand more loss. Heartbeats
//! are the choice because clusters are small, 32 nodes at 72 bytes are 1.8 Mbit/s per node, and each
//! carries its sender's state, epoch and view to everybody at once. Where a network loses
//! datagrams, raise `dead_after_ms`: at 10 % loss each further interval leaves a tenth of the false
//! deaths.
#![forbid(unsafe_code)]

mod config;
mod handover;
mod hash;
mod heartbeat;
mod joins;
mod membership;
mod output;
mod reunions;
mod view;

pub use config::{ClusterConfig, ConfigError, MemberConfig, Timing, cluster_hash};
pub use handover::{Drain, DrainRefused, HandOver, HandOverPhase};
pub use heartbeat::{HEARTBEAT_BYTES, PROTOCOL_VERSION, Refusal};
pub use membership::{Health, Membership, NotAMember};
pub use output::{Death, Event, MemberStatus, Output, Said, Status};
pub use view::{Distribution, Member, MemberState, View};
