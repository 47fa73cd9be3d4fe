//! The interface between `ravelind` and protocol agents, which are processes of their own: a bug in
//! a protocol's parser cannot take the packet path down.
//!
//! An agent connects to the daemon's agent socket and says its name ([`ToDaemon::Hello`]). From then on it is given
//! the packets of the flows that rules with that name have opened ([`ToAgent::Packet`]), and hands
//! each back: [`ToDaemon::Deliver`] or [`ToDaemon::Discard`]. In between it may ask for changes of state
//! ([`Request`]); each is answered ([`ToAgent::Answer`]) when the cluster has it.
//!
//! [`Client`] is the agent's side, blocking; `asynchronous::Client`, behind the feature `tokio`, is the same for programs
//! that use tokio. [`frame`] is what goes over the socket. An agent that only has connections expected is a [`Protocol`]
//! and a call of [`run`]; one that reads TCP puts segments in order with [`stream::Stream`].
#![forbid(unsafe_code)]

mod announce;
#[cfg(feature = "tokio")]
pub mod asynchronous;
mod client;
mod datagram;
pub mod frame;
mod known;
mod message;
mod program;
pub mod stream;

pub use announce::{Action, Announced, PORT_MIN, Waiting};
pub use client::{Client, ClientError};
pub use datagram::datagram;
pub use known::Known;
pub use message::{
    Done, Expectation, Flow, FlowState, PROTOCOL_VERSION, Packet, REQUESTS_MAX, Request, ToAgent,
    ToDaemon,
};
pub use program::{Program, Protocol, run};
