//! What a second software entity on this node tells a worker, and what it is told: the engine's
//! side of the protocol agents.
//!
//! An agent watches connections of its protocol. It can have their packets handed over
//! ([`Instruction::Divert`]), modify what is known of a flow, start a synchronisation, and have
//! packets wait for that in two styles: the engine holds the flow's packets by itself until the
//! state is acknowledged (`hold` of [`Instruction::Synchronise`]), or the agent keeps the packet,
//! is told ([`Notice::Synchronised`]), and hands it over for delivery ([`Instruction::Deliver`]).
//!
//! Buffers are the worker's: every packet that an agent is given comes back, to be delivered or to
//! be dropped, so that no other thread frees any unless the ring is full. All queues are bounded by the rings; an
//! instruction that cannot be carried out is answered with a reason and changes nothing.

use std::collections::VecDeque;

use flowtable::FlowId;
use policy::ClassSync;
use rtrb::{Consumer, Producer};
use state::{Dir, FlowKey, FlowRecord, SyncMode};

use crate::counters::Counter;
use crate::port::{PacketBuf, Port};
use crate::receive::{Packet, flow_key};
use crate::shared::ForAgent;
use crate::worker::Worker;

/// Synchronisations that agents of one worker may wait for at a time.
const AWAITED_MAX: usize = 4096;
/// Those of everything among them that may be under way.
const EVERYTHING_MAX: usize = 16;
/// Instructions that one turn takes.
const PER_TURN: usize = 32;

/// An agent's ends of the rings to one worker, worker side.
#[derive(Debug)]
pub struct AgentLink<B> {
    /// From the agent.
    pub instructions: Consumer<Instruct<B>>,
    /// To the agent.
    pub notices: Producer<Notice<B>>,
}

/// An instruction and the name by which its answer goes.
#[derive(Debug)]
pub struct Instruct<B> {
    /// Chosen by the agent; comes back in the notices.
    pub token: u64,
    /// What is to be done.
    pub instruction: Instruction<B>,
}

/// From the second software entity to a worker. Flows are those of slots that the worker owns
/// within its node.
#[derive(Debug)]
pub enum Instruction<B> {
    /// Change what is known of a flow. The change is replicated unless the flow is not; with
    /// `[sync] marks = "ack"`, packets wait for a changed mark as they do for the opening of an
    /// `ack` flow.
    Modify {
        /// The flow.
        key: FlowKey,
        /// What to change.
        change: FlowChange,
    },
    /// Start a synchronisation of a flow's state as it is now, whether or not it has changed.
    /// Answered twice: [`Notice::Done`] when it has begun, [`Notice::Synchronised`] when it is complete.
    Synchronise {
        /// The flow.
        key: FlowKey,
        /// Whether the flow's packets that come from now on wait until it is complete.
        hold: bool,
    },
    /// Start a synchronisation of everything that this worker has, also of what would be replicated later. Answered twice, as
    /// that of a flow.
    SynchroniseAll,
    /// What is known of a flow? Answered by [`Notice::Flow`].
    Ask {
        /// The flow.
        key: FlowKey,
    },
    /// Hand over the flow's packets instead of forwarding them, or no longer.
    Divert {
        /// The flow.
        key: FlowKey,
        /// Whether to.
        on: bool,
    },
    /// Forward a packet that was handed over, perhaps rewritten: a whole frame of its flow.
    Deliver {
        /// The port on which it had arrived.
        port: usize,
        /// The packet.
        buf: B,
    },
    /// Drop a packet that was handed over.
    Discard {
        /// The packet.
        buf: B,
    },
}

/// A change of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowChange {
    /// Gives it another mark.
    Mark(u32),
    /// Has it end after so many seconds of silence, TCP while it is established; 0 for what is configured for its protocol.
    Timeout(u16),
    /// Ends it: its packets are those of no flow from now on.
    End,
}

/// From a worker to the second software entity.
#[derive(Debug)]
pub enum Notice<B> {
    /// An instruction was carried out, or not.
    Done {
        /// The instruction's.
        token: u64,
        /// What came of it.
        outcome: Result<(), Refusal>,
    },
    /// A synchronisation is complete.
    Synchronised {
        /// The instruction's.
        token: u64,
        /// Whether a backup has the state. A node without any has nobody to wait for.
        protected: bool,
    },
    /// What is known of a flow that was asked for.
    Flow {
        /// The instruction's.
        token: u64,
        /// The flow, if it lives here.
        outcome: Result<FlowRecord, Refusal>,
    },
    /// A packet of a diverted flow, tracked and allowed, as it arrived.
    Packet {
        /// The flow.
        key: FlowKey,
        /// The number of the agent that the flow's rule names; `None` for a flow that somebody wanted
        /// diverted.
        agent: Option<u8>,
        /// The direction of the packet that opened it.
        origin: Dir,
        /// This packet's direction.
        dir: Dir,
        /// The port on which it arrived.
        port: usize,
        /// The whole frame.
        buf: B,
    },
}

/// Why an instruction was not carried out. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such flow here, or it has ended.
    #[error("no such flow on this node")]
    NoFlow,
    /// Another node owns the flow.
    #[error("another node owns the flow: tell that one")]
    NotOwner,
    /// The flow is of a rule with `sync = "none"`, or this node has no cluster.
    #[error("the flow is not replicated: its rule has sync = \"none\", or the node is alone")]
    NotReplicated,
    /// The sync core is too far behind, or too many synchronisations are awaited.
    #[error("too much waits for the backups already: try again")]
    Busy,
    /// The frame to deliver is not a packet of a flow that is known here.
    #[error("the frame is not one of a flow that lives here")]
    NotOfAFlow,
}

/// Synchronisations that somebody waits for, in the order of their log numbers.
#[derive(Debug)]
pub(crate) struct Awaited {
    queue: VecDeque<(u64, u64)>,
    /// Those of everything that are still under way, with how far they are.
    everything: VecDeque<(u64, usize)>,
}

impl Awaited {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(AWAITED_MAX),
            everything: VecDeque::with_capacity(EVERYTHING_MAX),
        }
    }
}

impl<P: Port> Worker<P> {
    /// Carries out what the agent wants, and tells it what is complete.
    pub(crate) fn take_instructions(&mut self) -> usize {
        let mut work = self.tell_synchronised();
        // An instruction has one answer; without room for it, it waits in the ring.
        while work < PER_TURN
            && let Some(agent) = &mut self.links.agent
            && !agent.notices.is_full()
            && let Ok(Instruct { token, instruction }) = agent.instructions.pop()
        {
            work += 1;
            let (refused, notice) = match instruction {
                Instruction::Ask { key } => {
                    let outcome = self.living(&key).map(|id| self.table.entry(id).record);
                    (outcome.is_err(), Notice::Flow { token, outcome })
                }
                instruction => {
                    let outcome = self.carry_out(token, instruction);
                    (outcome.is_err(), Notice::Done { token, outcome })
                }
            };
            if refused {
                self.counters.count(Counter::InstructionsRefused);
            }
            self.counters.count(Counter::Instructions);
            self.tell_agent(notice);
        }
        work
    }

    fn carry_out(&mut self, token: u64, instruction: Instruction<P::Buf>) -> Result<(), Refusal> {
        match instruction {
            Instruction::Modify { key, change } => self.modify(&key, change),
            Instruction::Synchronise { key, hold } => self.synchronise(&key, hold, token),
            Instruction::SynchroniseAll => self.synchronise_all(token),
            Instruction::Divert { key, on } => {
                let id = self.living(&key)?;
                self.table.entry_mut(id).local.flags.divert(on);
                Ok(())
            }
            Instruction::Ask { .. } => unreachable!("it has an answer of its own"),
            Instruction::Deliver { port, buf } => self.deliver(port, buf),
            Instruction::Discard { buf } => {
                drop(buf);
                self.counters.count(Counter::DropByAgent);
                Ok(())
            }
        }
    }

    /// A flow that lives and that this node handles: what is changed of a mere copy would not reach
    /// its owner. One that was handled here stays so when its owner tells of it, which may come between a packet and what
    /// its agent says.
    fn living(&self, key: &FlowKey) -> Result<FlowId, Refusal> {
        let id = self.table.lookup(key).ok_or(Refusal::NoFlow)?;
        let entry = self.table.entry(id);
        if !entry.is_alive() {
            return Err(Refusal::NoFlow);
        }
        if self.owns(key) || entry.local.flags.is_handler() {
            return Ok(id);
        }
        Err(Refusal::NotOwner)
    }

    fn owns(&self, key: &FlowKey) -> bool {
        self.ownership.owned.contains(state::slot_of(key))
    }

    fn modify(&mut self, key: &FlowKey, change: FlowChange) -> Result<(), Refusal> {
        let id = self.living(key)?;
        if self.links.to_sync.is_full() {
            return Err(Refusal::Busy);
        }
        match change {
            FlowChange::Mark(_) | FlowChange::Timeout(_) => {
                let entry = self.table.entry_mut(id);
                let mark = &mut entry.record.mark;
                mark.version = mark.version.saturating_add(1);
                if let FlowChange::Mark(value) = change {
                    mark.value = value;
                }
                if let FlowChange::Timeout(timeout_s) = change {
                    mark.timeout_s = timeout_s;
                }
                if entry.record.class.sync == SyncMode::None {
                    return Ok(());
                }
                self.emit(id);
                if self.policy.value().marks == ClassSync::Ack {
                    let local = &mut self.table.entry_mut(id).local;
                    local.hold_lsn = local.lsn;
                }
            }
            FlowChange::End => {
                // A copy that ended while its owner has it alive would not stay so.
                if !self.owns(key) {
                    return Err(Refusal::NotOwner);
                }
                self.end_flow(id);
            }
        }
        Ok(())
    }

    fn synchronise(&mut self, key: &FlowKey, hold: bool, token: u64) -> Result<(), Refusal> {
        let id = self.living(key)?;
        let replicated = self.table.entry(id).record.class.sync != SyncMode::None;
        if !replicated || !self.config.replicate {
            return Err(Refusal::NotReplicated);
        }
        let awaited = self.awaited.queue.len() + self.awaited.everything.len();
        if self.links.to_sync.is_full() || awaited >= AWAITED_MAX {
            return Err(Refusal::Busy);
        }
        self.emit(id);
        let local = &mut self.table.entry_mut(id).local;
        if hold {
            local.hold_lsn = local.lsn;
        }
        let lsn = local.lsn;
        self.awaited.queue.push_back((lsn, token));
        Ok(())
    }

    fn synchronise_all(&mut self, token: u64) -> Result<(), Refusal> {
        if !self.config.replicate {
            return Err(Refusal::NotReplicated);
        }
        let everything = &mut self.awaited.everything;
        let all = self.awaited.queue.len() + everything.len();
        if everything.len() >= EVERYTHING_MAX || all >= AWAITED_MAX {
            return Err(Refusal::Busy);
        }
        everything.push_back((token, 0));
        Ok(())
    }

    /// Goes on with synchronisations of everything, a part of the shard per turn: hands over what was told to nobody
    /// yet, and then waits for all that was told.
    pub(crate) fn go_on_synchronising(&mut self) -> usize {
        let Some(&(token, from)) = self.awaited.everything.front() else {
            return 0;
        };
        let (to, waits) = self.tell_delayed(from);
        self.awaited.everything[0].1 = to;
        if waits {
            return 0;
        }
        if to == self.table.capacity() && self.jobs.are_clean() {
            self.awaited.everything.pop_front();
            self.awaited.queue.push_back((self.lsn, token));
        }
        1
    }

    /// Tells which synchronisations the targets have acknowledged.
    fn tell_synchronised(&mut self) -> usize {
        let mut told = 0;
        let protected = !self.ownership.targets.is_empty();
        while let Some((lsn, token)) = self.awaited.queue.front().copied()
            && (lsn <= self.acked_lsn || !protected)
            && self
                .links
                .agent
                .as_ref()
                .is_some_and(|agent| !agent.notices.is_full())
        {
            self.awaited.queue.pop_front();
            self.tell_agent(Notice::Synchronised { token, protected });
            told += 1;
        }
        told
    }

    /// Has the flow's packets go to the agent of its rule, if that has one. Whoever handles a flow for
    /// the first time, or judges it anew, asks.
    pub(crate) fn divert_to_agent(&mut self, id: FlowId) {
        let entry = self.table.entry_mut(id);
        if self.policy.value().agent_of(&entry.record).is_some() {
            entry.local.flags.divert(true);
        }
    }

    /// Gives a packet of a diverted flow to the agent; an agent whose ring is full misses it. Gives it back
    /// when it is to go on, since the agent is not there.
    pub(crate) fn divert<'p>(
        &mut self,
        packet: Packet<'p, P::Buf>,
        id: FlowId,
    ) -> Option<Packet<'p, P::Buf>> {
        let record = &self.table.entry(id).record;
        let agent = self.policy.value().agent_of(record);
        match agent.map_or(ForAgent::Divert, |agent| self.node.agents.get(agent)) {
            ForAgent::Divert => {}
            ForAgent::Pass => return Some(packet),
            ForAgent::Drop => {
                self.counters.count(Counter::DropAgentGone);
                return None;
            }
        }
        let port = self.config.interfaces[usize::from(packet.interface)].port;
        let notice = Notice::Packet {
            key: record.key,
            agent,
            origin: record.class.origin,
            dir: packet.dir,
            port,
            buf: packet.buf,
        };
        let agent = self.links.agent.as_mut();
        let taken = agent.is_some_and(|agent| agent.notices.push(notice).is_ok());
        self.counters.count(match taken {
            true => Counter::Diverted,
            false => Counter::DropAgentFull,
        });
        None
    }

    /// Forwards a packet that an agent hands over. It was tracked when it arrived; what may have been
    /// rewritten since is its payload and length, so it is parsed anew.
    fn deliver(&mut self, port: usize, buf: P::Buf) -> Result<(), Refusal> {
        let p = wire::parse(buf.data()).map_err(|_| Refusal::NotOfAFlow)?;
        let interface = self.interface(port, p.vlan).ok_or(Refusal::NotOfAFlow)?;
        let (key, dir, about) = flow_key(&p).ok_or(Refusal::NotOfAFlow)?;
        let id = self.living(&key).map_err(|_| Refusal::NotOfAFlow)?;
        if about {
            return Err(Refusal::NotOfAFlow);
        }
        let mut packet = Packet {
            buf,
            p: &p,
            interface,
            dir,
            about,
        };
        self.counters.count(Counter::Delivered);
        self.shift(id, &mut packet);
        if let Some(hop) = self.hop_of(id, &packet) {
            let hold_lsn = self.table.entry(id).local.hold_lsn;
            self.forward(packet, hop, hold_lsn);
        }
        Ok(())
    }

    /// The caller saw that there is room, and nobody else pushes.
    fn tell_agent(&mut self, notice: Notice<P::Buf>) {
        if let Some(agent) = &mut self.links.agent {
            let pushed = agent.notices.push(notice);
            debug_assert!(pushed.is_ok(), "a notice without room for it");
        }
    }
}
