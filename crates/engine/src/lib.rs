//! The worker: one poll-mode loop over its queues, its shard of the flow table, and the rings to
//! the sync core and to the other workers. The first software entity of the method: it processes
//! packets, stores state, has it synchronised, and holds packets until that has happened.
//!
//! A worker is generic over a [`port::Port`] and takes the time as an argument, so the same code
//! runs over DPDK, over memory in tests, and in simulation. One call of [`Worker::poll`] is one
//! turn: it never blocks, and it allocates nothing.
//!
//! # The way of a packet, in tiers of rising cost
//!
//! 1. Parse, interface, slot: packets of other nodes' slots leave here (`receive`).
//! 2. A flow that is known: burst lookup, tracking, the flow's remembered next hop (`forward`).
//! 3. A flow that is not: with `ecmp` a question to the slot's owner (`ask`); then routes, rules, insertion, a change for the sync core, the hold (`open`).
//! 4. What the gateway answers itself: ARP, NDP, pings, errors (`answer`).
#![forbid(unsafe_code)]

mod age;
mod answer;
mod ask;
mod common;
mod config;
mod counters;
mod detect;
mod digest;
mod fast;
mod flush;
mod forward;
mod hold;
mod hops;
mod instruct;
pub mod memory;
mod open;
pub mod port;
mod receive;
mod reopen;
mod shared;
mod shift;
mod sync;
mod tcp;
mod worker;

pub use membership::Distribution;

pub use common::Common;
pub use config::{AtDeadline, Config, Hold, Interface, Neighbour, Route, Timeouts, WhenAlone};
pub use counters::{Counter, Counters, MalformedBy};
pub use detect::Detect;
pub use instruct::{AgentLink, FlowChange, Instruct, Instruction, Notice, Refusal};
pub use shared::{
    AGENTS_MAX, ForAgent, ForAgents, NodeShared, Policy, Snapshot, SnapshotReader, Told,
    WorkerShared,
};
pub use worker::{Cross, FlowPage, FlowSeen, Links, LogEntry, Now, Worker};
