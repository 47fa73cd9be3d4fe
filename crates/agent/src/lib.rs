//! The interface between `ravelind` and protocol agents, which are processes of their own: a bug in
//! a protocol's parser cannot take the packet path down.
//!
//! An agent connects to the daemon's agent socket and says its name ([`ToDaemon::Hello`]). From then on it is given
//! the packets of the flows that rules with that name have opened ([`ToAgent::Packet`]), and hands
//! each back: [`ToDaemon::Deliver`] or [`ToDaemon::Discard`]. In between it may ask for changes of state
//! ([`Request`]); each is answered ([`ToAgent::Answer`]) when the cluster has it.
//!
//! [`Client`] is the agent's side, blocking; `asynchronous::Client`, behind the feature `tokio`, is the same for programs
//! that use tokio. [`frame`] is what goes over the socket.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
pub mod asynchronous;
mod client;
pub mod frame;
mod message;

pub use client::{Client, ClientError};
pub use message::{
    Done, Expectation, Flow, FlowState, PROTOCOL_VERSION, Packet, Request, ToAgent, ToDaemon,
};
