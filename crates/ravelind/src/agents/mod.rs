//! Protocol agents: who talks to them, and who starts them.
//!
//! One thread, the [`Dispatcher`], has the ends of all workers' agent rings. Whoever wants something of a worker tells
//! it ([`Event`]), the control socket as well as the agents' connections, and it brings each notice to whom its token
//! belongs to. Nobody waits for anybody there: what may take time has a thread of its own per connection
//! ([`link`]), and all that is kept for an agent is bounded by that agent's queue.

pub(crate) mod command;
pub(crate) mod dispatch;
mod everything;
pub(crate) mod link;
mod requests;
mod resize;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use dispatch::{AgentCounter, AgentEnds, Answer, Dispatcher, Event};

/// Events that may wait for the dispatcher. Whoever finds no room waits; it never does.
pub(crate) const EVENTS: usize = 1 << 10;
