//! Packets of TCP connections whose length an agent has changed.
//!
//! From such a packet on both sides count differently, and whoever handles the connection must know by how much before
//! the packet leaves: that is common state ([`SeqShift`]). So it waits until all living nodes have it, and what the agent
//! delivers of the connection meanwhile waits behind it.

use std::collections::VecDeque;

use engine::port::PacketBuf;
use engine::{Instruction, NodeShared, Refusal};
use state::{FlowKey, FlowRecord, PROTO_TCP, SeqShift};

use super::dispatch::{AgentCounter, Dispatcher, Kept, Waiter};
use super::link::CommonJob;

/// Packets of one connection that may wait. Their senders send again what is dropped.
const WAITING_MAX: usize = 64;

/// What of a segment counts here, in the sender's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) seq: u32,
    /// Octets of data that it came with.
    pub(super) had: u32,
    /// And that the agent gave it.
    pub(super) has: u32,
}

/// Packets of a connection, in order; the first is under way.
pub(super) type Waiting<B> = VecDeque<(usize, Kept<B>)>;

/// The data of a segment, if the frame is one.
pub(super) fn segment(p: &wire::Parsed) -> Option<Segment> {
    let len = u32::from(p.end.saturating_sub(p.payload));
    (p.proto == PROTO_TCP).then_some(Segment {
        seq: p.tcp.seq,
        had: len,
        has: len,
    })
}

impl<B: PacketBuf> Dispatcher<B> {
    /// Delivers what an agent hands over: in order, and behind what others must know first.
    pub(super) fn hand_over(&mut self, agent: usize, mut kept: Kept<B>) {
        let key = kept.key;
        if let Some(waiting) = self.resizing.get_mut(&key) {
            if waiting.len() < WAITING_MAX {
                waiting.push_back((agent, kept));
            } else {
                self.count(AgentCounter::QueueFull);
                self.discard(kept);
            }
            return;
        }
        if !must_ask(&mut kept, &self.node) {
            return self.deliver(kept);
        }
        self.resizing.insert(key, VecDeque::from([(agent, kept)]));
        self.ask_for_numbers(key);
    }

    fn ask_for_numbers(&mut self, key: FlowKey) {
        let number = self.number();
        self.waiting.insert(number, Waiter::Resize(key));
        self.instruct(self.worker_of(&key), number, Instruction::Ask { key });
    }

    /// The connection of the first packet that waits, as it is now.
    pub(super) fn found(&mut self, key: FlowKey, outcome: Result<FlowRecord, Refusal>) {
        let Some((agent, kept)) = self.resizing.get(&key).and_then(VecDeque::front) else {
            return;
        };
        let (Ok(record), Some(segment)) = (outcome, kept.segment) else {
            return self.end_first(key, false);
        };
        let (agent, dir) = (*agent, kept.dir);
        let common = self.node.common.load();
        let known = common.shift(&key);
        let known = known.filter(|shift| shift.incarnation == record.incarnation);
        let mut shift = known
            .cloned()
            .unwrap_or_else(|| SeqShift::none(record.incarnation));
        let Segment { seq, had, has } = segment;
        match shift.sides[dir.index()].resize(seq, had, has) {
            Ok(false) => self.end_first(key, true),
            Ok(true) => {
                let link = self.seats[agent].connected.as_ref().map(|c| &c.link);
                let job = CommonJob::Shift { key, shift };
                if link.is_none_or(|link| link.common.try_send(job).is_err()) {
                    self.end_first(key, false);
                }
            }
            Err(error) => {
                self.count(AgentCounter::ResizeRefused);
                let name = &self.seats[agent].config.name;
                tracing::warn!("agent {name}: a packet is dropped: {error}");
                self.end_first(key, false);
            }
        }
    }

    /// All living nodes know the numbers, or some do not yet, or they could not be told.
    pub(super) fn shifted(&mut self, key: FlowKey, outcome: Result<Vec<String>, String>) {
        match &outcome {
            Ok(lacking) if lacking.is_empty() => self.count(AgentCounter::Resized),
            Ok(lacking) => {
                self.count(AgentCounter::Resized);
                let nodes = lacking.join(", ");
                tracing::warn!(
                    "{nodes}: not heard of the numbers of a connection that an agent has changed"
                );
            }
            Err(error) => {
                self.count(AgentCounter::ResizeRefused);
                tracing::warn!("a packet that an agent has changed is dropped: {error}");
            }
        }
        self.end_first(key, outcome.is_ok());
    }

    /// Is done with the first packet that waits, and goes on with the next ones.
    fn end_first(&mut self, key: FlowKey, delivered: bool) {
        let first = self.resizing.get_mut(&key).and_then(VecDeque::pop_front);
        match first {
            Some((_, kept)) if delivered => self.deliver(kept),
            Some((_, kept)) => self.discard(kept),
            None => {}
        }
        while let Some(waiting) = self.resizing.get_mut(&key)
            && let Some((_, next)) = waiting.front_mut()
        {
            if must_ask(next, &self.node) {
                return self.ask_for_numbers(key);
            }
            if let Some((_, kept)) = waiting.pop_front() {
                self.deliver(kept);
            }
        }
        self.resizing.remove(&key);
    }
}

/// Whether a packet's length was changed, or that of another one of its connection, whose numbers then count.
fn must_ask<B: PacketBuf>(kept: &mut Kept<B>, node: &NodeShared) -> bool {
    if kept
        .segment
        .is_some_and(|segment| segment.had != segment.has)
    {
        return true;
    }
    if node.common.load().shift(&kept.key).is_none() {
        return false;
    }
    if kept.segment.is_none() {
        let read = wire::parse(kept.buf.data()).ok();
        kept.segment = read.and_then(|p| segment(&p));
    }
    kept.segment.is_some()
}
