//! The control socket: how `ravelin` asks `ravelind`.
//!
//! A Unix stream socket carries lines, each one JSON object. The client sends a request line; the
//! daemon answers with one line, or for lists with one line an element and a last one that has
//! `"end":true`. Then the client may ask again on the same connection.
//!
//! ```text
//! → {"protocol":1,"ask":"flows","filter":{"proto":"tcp"},"count":false}
//! ← {"proto":"tcp","src":"10.1.0.5","sport":1000, ...}
//! ← {"end":true,"count":1,"truncated":false}
//! ```
//!
//! Every request carries [`PROTOCOL`]; a daemon of another protocol answers with an error that
//! names both numbers. An error is a line `{"error":{"kind":"...","message":"..."}}` in place of
//! an answer or of a list's end. After an error that leaves the stream in order (an unknown
//! request, a bad filter) the connection goes on; after others the daemon closes it.
//!
//! Limits: a request line has at most [`REQUEST_BYTES_MAX`] bytes, an answer line at most
//! [`ANSWER_BYTES_MAX`].

mod client;
mod common;
mod drain;
mod filter;
mod flow;
mod instruct;
mod line;
mod protocol;
mod server;
mod status;

pub use client::{Client, ClientError, FlowLines};
pub use common::{
    BlockRequest, Blocked, Change, ExpectRequest, Expected, LoggedIn, POLICY_BYTES_MAX,
    PolicyLoaded, PolicyNode, PolicyRefusal, PolicyRequest, PolicyShown, UserRequest,
};
pub use drain::{Drain, DrainPhase};
pub use filter::{FilterError, FlowFilter, PortRange};
pub use flow::{Flow, FlowFacts, FlowRole, Proto};
pub use instruct::{FlowInstructed, FlowName, FlowRequest};
pub use protocol::{
    ANSWER_BYTES_MAX, Failure, FailureKind, ListEnd, PROTOCOL, Pong, REQUEST_BYTES_MAX, Request,
    SOCKET, Version,
};
pub use server::{BindError, Bound, Endpoint, Handler, Limits, Responder, Server, Stop};
pub use status::{
    CommonEntries, Core, Flows, Interface, Member, Node, Peer, PolicyInForce, Redundancy,
    Replication, Status, Takeover, View,
};
