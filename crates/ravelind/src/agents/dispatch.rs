//! The thread between the workers' agent rings and everybody who uses them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use agent::{Done, Flow, FlowState, PROTOCOL_VERSION, Packet, ToAgent, ToDaemon, frame};
use config::WhenGone;
use engine::port::PacketBuf;
use engine::{FlowChange, ForAgent, Instruct, Instruction, NodeShared, Notice, Refusal};
use rtrb::{Consumer, Producer};
use state::{Dir, FlowKey, FlowRecord, Progress, slot_of, worker_of};
use telemetry::counters::Counts;

use super::everything::Everything;
use super::link::CommonJob;
use super::resize::{Segment, Waiting, segment};

const _: () = assert!(
    config::AGENTS_MAX == engine::AGENTS_MAX,
    "workers are told of every agent that a configuration may have"
);

/// Flows that agents watch whose rules name none.
pub(super) const WATCHED_MAX: usize = 4096;
/// Instructions that may wait for a worker before packets are dropped here instead of there.
const OUTBOX_DROPS: usize = 512;
/// Between two looks at the rings: while there are packets, while there may be some, and when nobody waits for any.
const LOOKS: [Duration; 3] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(20),
];
/// How long after a packet others are expected.
const LIVELY: Duration = Duration::from_secs(1);

telemetry::counters! {
    /// What the dispatcher counts.
    pub(crate) enum AgentCounter {
        /// Agents that were taken.
        Connections = "agents_connections",
        /// Connections that were refused.
        Refused = "agents_refused",
        /// Connections that were closed for what came over them.
        Malformed = "agents_malformed",
        /// Connections that were closed since their agent read no answers.
        Deaf = "agents_deaf",
        /// Programs that the daemon started again.
        Restarts = "agents_restarts",
        /// Packets given to agents.
        Given = "agents_packets",
        /// Packets that agents handed back for delivery.
        Delivered = "agents_delivered",
        /// Those that they had changed.
        Rewritten = "agents_rewritten",
        /// Packets of TCP connections whose length agents had changed, each counted once.
        Resized = "agents_resized",
        /// Packets dropped since their length could not be changed.
        ResizeRefused = "drop_agents_resize",
        /// Packets that agents had dropped.
        Discarded = "agents_discarded",
        /// Packets dropped since their agent's queue was full.
        QueueFull = "drop_agents_queue",
        /// Packets that went on since their agent was gone.
        GonePassed = "agents_gone_passed",
        /// Packets that were kept since their agent was gone.
        GoneHeld = "agents_gone_held",
        /// Packets dropped since their agent was gone.
        GoneDropped = "drop_agents_gone",
        /// Requests of agents.
        Requests = "agents_requests",
        /// Those that were not carried out.
        RequestsRefused = "agents_requests_refused",
    }
}

/// This side's ends of the rings to one worker.
pub(crate) struct AgentEnds<B> {
    pub(crate) instructions: Producer<Instruct<B>>,
    pub(crate) notices: Consumer<Notice<B>>,
}

/// What the dispatcher is told.
pub(crate) enum Event {
    /// The control socket wants an instruction about a flow carried out.
    Instruct {
        key: FlowKey,
        what: Wanted,
        answer: SyncSender<Answer>,
    },
    /// An agent has said its name.
    Connect {
        connection: u64,
        agent: u8,
        link: Link,
        /// Whether it is taken, or why not.
        taken: SyncSender<Result<(), &'static str>>,
    },
    /// A connected agent has said something.
    Said { connection: u64, message: ToDaemon },
    /// Its connection is over; with what was wrong, if anything was.
    Ended {
        connection: u64,
        malformed: Option<String>,
    },
    /// Somebody was not taken.
    Refused,
    /// Common state was changed for an agent, or not.
    Changed {
        connection: u64,
        token: u64,
        outcome: Result<Done, String>,
    },
    /// The numbers of a connection in which lengths were changed are common state, but for these nodes; or they
    /// are not.
    Shifted {
        key: FlowKey,
        outcome: Result<Vec<String>, String>,
    },
    /// A program was started again.
    Restarted,
}

/// What the control socket can want of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Modify(FlowChange),
    Synchronise { hold: bool },
}

/// What comes back to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Done(Result<(), Refusal>),
    Synchronised { protected: bool },
}

/// A connected agent, as the dispatcher has it.
pub(crate) struct Link {
    /// Messages to be written, as bytes.
    pub(crate) to: SyncSender<Vec<u8>>,
    /// Changes of common state to be made.
    pub(crate) common: SyncSender<CommonJob>,
    /// To end the connection by.
    pub(crate) stream: UnixStream,
}

pub(super) struct Connected {
    pub(super) number: u64,
    pub(super) link: Link,
    pub(super) requests: usize,
}

/// A packet of a diverted flow.
pub(super) struct Kept<B> {
    worker: usize,
    port: usize,
    pub(super) key: FlowKey,
    origin: Dir,
    pub(super) dir: Dir,
    pub(super) buf: B,
    /// Of TCP, once it counts.
    pub(super) segment: Option<Segment>,
}

/// One agent of the configuration.
pub(super) struct Seat<B> {
    pub(super) config: config::Agent,
    pub(super) connected: Option<Connected>,
    /// Packets that it has, by the number that it knows.
    given: BTreeMap<u64, Kept<B>>,
    /// Packets that wait for it.
    parked: VecDeque<Kept<B>>,
}

struct WorkerSide<B> {
    ends: AgentEnds<B>,
    /// What found its ring full, in order.
    outbox: VecDeque<Instruct<B>>,
}

/// Whom a notice is for.
pub(super) enum Waiter {
    /// A packet of this connection waits for its numbers.
    Resize(FlowKey),
    /// A worker's part of a synchronisation of everything, by its number.
    Everything(u64),
    Control {
        answer: SyncSender<Answer>,
        /// Whether a second answer follows the first.
        twice: bool,
    },
    Agent {
        connection: u64,
        token: u64,
        then: Then,
    },
}

/// What is done with the answer to an agent's request.
pub(super) enum Then {
    Tell,
    TellTwice,
    Watch { key: FlowKey, on: bool },
    Expect(agent::Expectation),
}

pub(crate) struct Dispatcher<B> {
    events: Receiver<Event>,
    workers: Vec<WorkerSide<B>>,
    pub(super) seats: Vec<Seat<B>>,
    pub(super) waiting: HashMap<u64, Waiter>,
    /// Packets that wait for others to know of changed lengths, by connection.
    pub(super) resizing: HashMap<FlowKey, Waiting<B>>,
    /// Synchronisations of everything.
    pub(super) everything: HashMap<u64, Everything>,
    /// Which agent watches a flow whose rule names none.
    pub(super) watched: HashMap<FlowKey, u8>,
    last_number: u64,
    pub(super) node: Arc<NodeShared>,
    counts: Counts<AgentCounter>,
    lively: Option<Instant>,
}

impl<B: PacketBuf> Dispatcher<B> {
    pub(crate) fn new(
        events: Receiver<Event>,
        ends: Vec<AgentEnds<B>>,
        agents: &[config::Agent],
        node: Arc<NodeShared>,
        counts: Counts<AgentCounter>,
    ) -> Self {
        let side = |ends| WorkerSide {
            ends,
            outbox: VecDeque::new(),
        };
        let seat = |config: &config::Agent| Seat {
            config: config.clone(),
            connected: None,
            given: BTreeMap::new(),
            parked: VecDeque::new(),
        };
        let dispatcher = Self {
            events,
            workers: ends.into_iter().map(side).collect(),
            seats: agents.iter().map(seat).collect(),
            waiting: HashMap::new(),
            resizing: HashMap::new(),
            everything: HashMap::new(),
            watched: HashMap::new(),
            last_number: 0,
            node,
            counts,
            lively: None,
        };
        for agent in 0..dispatcher.seats.len() {
            dispatcher.tell_workers(agent);
        }
        dispatcher
    }

    /// One turn; waits for an event as long as nothing else is likely to come.
    pub(crate) fn turn(&mut self) {
        let first = match self.events.recv_timeout(self.patience()) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(LOOKS[2]);
                None
            }
        };
        if let Some(event) = first {
            self.take(event);
            // Bounded, so that the rings are looked at as well.
            for _ in 0..super::EVENTS {
                let Ok(event) = self.events.try_recv() else {
                    break;
                };
                self.take(event);
            }
        }
        for worker in 0..self.workers.len() {
            self.flush(worker);
            while let Ok(notice) = self.workers[worker].ends.notices.pop() {
                self.notice(worker, notice);
            }
            self.flush(worker);
        }
        self.counts.publish();
    }

    fn patience(&self) -> Duration {
        let lively = self.lively.is_some_and(|at| at.elapsed() < LIVELY);
        let busy = self.workers.iter().any(|worker| !worker.outbox.is_empty());
        if lively || busy || !self.waiting.is_empty() {
            LOOKS[0]
        } else if self.seats.iter().any(|seat| seat.connected.is_some()) {
            LOOKS[1]
        } else {
            LOOKS[2]
        }
    }

    pub(super) fn count(&mut self, counter: AgentCounter) {
        self.counts.increment(counter);
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Says to the workers what becomes of an agent's packets.
    fn tell_workers(&self, agent: usize) {
        let seat = &self.seats[agent];
        let what = match (&seat.connected, seat.config.when_gone) {
            (Some(_), _) | (None, WhenGone::Hold) => ForAgent::Divert,
            (None, WhenGone::Bypass) => ForAgent::Pass,
            (None, WhenGone::Drop) => ForAgent::Drop,
        };
        self.node.agents.set(agent as u8, what);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Instruct { key, what, answer } => {
                let token = self.number();
                let twice = matches!(what, Wanted::Synchronise { .. });
                self.waiting
                    .insert(token, Waiter::Control { answer, twice });
                let instruction = match what {
                    Wanted::Modify(change) => Instruction::Modify { key, change },
                    Wanted::Synchronise { hold } => Instruction::Synchronise { key, hold },
                };
                self.instruct(self.worker_of(&key), token, instruction);
            }
            Event::Connect {
                connection,
                agent,
                link,
                taken,
            } => self.connect(connection, usize::from(agent), link, &taken),
            Event::Said {
                connection,
                message,
            } => {
                if let Some(agent) = self.agent_of(connection)
                    && let Err(why) = self.said(agent, message)
                {
                    self.malformed(agent, &why);
                }
            }
            Event::Ended {
                connection,
                malformed,
            } => {
                if let Some(agent) = self.agent_of(connection) {
                    match malformed {
                        Some(why) => self.malformed(agent, &why),
                        None => self.close(agent, "it has ended the connection"),
                    }
                }
            }
            Event::Refused => self.count(AgentCounter::Refused),
            Event::Changed {
                connection,
                token,
                outcome,
            } => self.answer(connection, token, outcome),
            Event::Shifted { key, outcome } => self.shifted(key, outcome),
            Event::Restarted => self.count(AgentCounter::Restarts),
        }
    }

    pub(super) fn worker_of(&self, key: &FlowKey) -> usize {
        worker_of(slot_of(key), self.workers.len())
    }

    pub(super) fn worker_count(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn agent_of(&self, connection: u64) -> Option<usize> {
        let is = |seat: &Seat<B>| {
            let connected = seat.connected.as_ref();
            connected.is_some_and(|connected| connected.number == connection)
        };
        self.seats.iter().position(is)
    }

    fn connect(
        &mut self,
        number: u64,
        agent: usize,
        link: Link,
        taken: &SyncSender<Result<(), &'static str>>,
    ) {
        let seat = &mut self.seats[agent];
        if seat.connected.is_some() {
            self.count(AgentCounter::Refused);
            let _ = taken.try_send(Err("an agent of this name is connected already"));
            return;
        }
        tracing::info!("agent {}: connected", seat.config.name);
        let _ = taken.try_send(Ok(()));
        seat.connected = Some(Connected {
            number,
            link,
            requests: 0,
        });
        let parked = std::mem::take(&mut seat.parked);
        self.count(AgentCounter::Connections);
        self.tell_workers(agent);
        let version = PROTOCOL_VERSION;
        self.tell(agent, &ToAgent::Welcome { version });
        for kept in parked {
            self.give(agent, kept);
        }
    }

    fn malformed(&mut self, agent: usize, why: &str) {
        self.count(AgentCounter::Malformed);
        self.close(agent, why);
    }

    /// Ends an agent's connection, and does with what it had what its configuration says.
    fn close(&mut self, agent: usize, why: &str) {
        let seat = &mut self.seats[agent];
        let Some(Connected { number, link, .. }) = seat.connected.take() else {
            return;
        };
        tracing::warn!(
            "agent {}: gone, {why}; its flows' packets {}",
            seat.config.name,
            match seat.config.when_gone {
                WhenGone::Bypass => "pass without it",
                WhenGone::Hold => "wait for it",
                WhenGone::Drop => "are dropped",
            }
        );
        let _ = link.stream.shutdown(std::net::Shutdown::Both);
        let given = std::mem::take(&mut seat.given);
        self.tell_workers(agent);
        self.waiting.retain(|_, waiter| {
            !matches!(waiter, Waiter::Agent { connection, .. } if *connection == number)
        });
        let watched: Vec<FlowKey> = (self.watched.iter())
            .filter(|(_, by)| usize::from(**by) == agent)
            .map(|(key, _)| *key)
            .collect();
        for key in watched {
            self.watched.remove(&key);
            let token = self.number();
            let on = false;
            self.instruct(self.worker_of(&key), token, Instruction::Divert { key, on });
        }
        for kept in given.into_values() {
            self.without_agent(agent, kept);
        }
    }

    /// What becomes of a packet whose agent is not there.
    fn without_agent(&mut self, agent: usize, kept: Kept<B>) {
        match self.seats[agent].config.when_gone {
            WhenGone::Bypass => {
                self.count(AgentCounter::GonePassed);
                self.deliver(kept);
            }
            WhenGone::Drop => {
                self.count(AgentCounter::GoneDropped);
                self.discard(kept);
            }
            WhenGone::Hold => {
                let seat = &mut self.seats[agent];
                if seat.parked.len() < seat.config.queue as usize {
                    seat.parked.push_back(kept);
                    self.count(AgentCounter::GoneHeld);
                } else {
                    self.count(AgentCounter::QueueFull);
                    self.discard(kept);
                }
            }
        }
    }

    pub(super) fn deliver(&mut self, kept: Kept<B>) {
        let Kept {
            worker, port, buf, ..
        } = kept;
        let token = self.number();
        self.instruct(worker, token, Instruction::Deliver { port, buf });
    }

    pub(super) fn discard(&mut self, kept: Kept<B>) {
        // Each instruction costs the worker a part of its turn. Pools take buffers back from any thread.
        if self.workers[kept.worker].outbox.len() < OUTBOX_DROPS {
            let (token, buf) = (self.number(), kept.buf);
            self.instruct(kept.worker, token, Instruction::Discard { buf });
        }
    }

    pub(super) fn instruct(&mut self, worker: usize, token: u64, instruction: Instruction<B>) {
        let outbox = &mut self.workers[worker].outbox;
        outbox.push_back(Instruct { token, instruction });
        self.flush(worker);
    }

    fn flush(&mut self, worker: usize) {
        let WorkerSide { ends, outbox } = &mut self.workers[worker];
        while !ends.instructions.is_full()
            && let Some(next) = outbox.pop_front()
        {
            let pushed = ends.instructions.push(next);
            debug_assert!(pushed.is_ok(), "nobody else pushes");
        }
    }

    fn notice(&mut self, worker: usize, notice: Notice<B>) {
        match notice {
            Notice::Packet {
                key,
                agent,
                origin,
                dir,
                port,
                buf,
            } => {
                self.lively = Some(Instant::now());
                let kept = Kept {
                    worker,
                    port,
                    key,
                    origin,
                    dir,
                    buf,
                    segment: None,
                };
                let agent = agent.or_else(|| self.watched.get(&key).copied());
                match agent.map(usize::from) {
                    Some(agent) if agent < self.seats.len() => self.give(agent, kept),
                    // Nobody watches it any more.
                    _ => self.deliver(kept),
                }
            }
            Notice::Done { token, outcome } => self.done(token, outcome),
            Notice::Synchronised { token, protected } => match self.waiting.remove(&token) {
                Some(Waiter::Control { answer, .. }) => {
                    let _ = answer.try_send(Answer::Synchronised { protected });
                }
                Some(Waiter::Agent {
                    connection, token, ..
                }) => {
                    if let Some(agent) = self.agent_of(connection) {
                        self.tell(agent, &ToAgent::Synchronised { token, protected });
                    }
                }
                Some(Waiter::Everything(group)) => self.part_done(group, protected),
                Some(Waiter::Resize(_)) | None => {}
            },
            Notice::Flow { token, outcome } => {
                let (connection, token, then) = match self.waiting.remove(&token) {
                    Some(Waiter::Agent {
                        connection,
                        token,
                        then,
                    }) => (connection, token, then),
                    Some(Waiter::Resize(key)) => return self.found(key, outcome),
                    _ => return,
                };
                match (outcome, then) {
                    (Ok(parent), Then::Expect(expectation)) => {
                        self.expect(connection, token, &parent, &expectation);
                    }
                    (Ok(record), _) => {
                        self.answer(connection, token, Ok(Done::Flow(flow_state(&record))));
                    }
                    (Err(refusal), _) => self.answer(connection, token, Err(refusal.to_string())),
                }
            }
        }
    }

    fn done(&mut self, number: u64, outcome: Result<(), Refusal>) {
        match self.waiting.remove(&number) {
            // A delivery, or whoever asked is gone.
            None | Some(Waiter::Resize(_)) => {}
            Some(Waiter::Everything(group)) => self.part_begun(number, group, outcome),
            Some(Waiter::Control { answer, twice }) => {
                let told = answer.try_send(Answer::Done(outcome));
                if twice && outcome.is_ok() && told.is_ok() {
                    let twice = false;
                    self.waiting
                        .insert(number, Waiter::Control { answer, twice });
                }
            }
            Some(Waiter::Agent {
                connection,
                token,
                then,
            }) => {
                match (&then, outcome) {
                    (Then::Watch { key, on: true }, Ok(())) => {
                        if let Some(agent) = self.agent_of(connection) {
                            self.watched.insert(*key, agent as u8);
                        }
                    }
                    (Then::Watch { key, on: false }, Ok(())) => {
                        self.watched.remove(key);
                    }
                    (Then::TellTwice, Ok(())) => {
                        let waiter = Waiter::Agent {
                            connection,
                            token,
                            then: Then::Tell,
                        };
                        self.waiting.insert(number, waiter);
                    }
                    _ => {}
                }
                let outcome = outcome.map(|()| Done::Complete);
                self.answer(connection, token, outcome.map_err(|no| no.to_string()));
            }
        }
    }

    /// Gives a packet to its agent.
    fn give(&mut self, agent: usize, kept: Kept<B>) {
        let seat = &self.seats[agent];
        if seat.connected.is_none() {
            return self.without_agent(agent, kept);
        }
        if seat.given.len() >= seat.config.queue as usize {
            self.count(AgentCounter::QueueFull);
            return self.discard(kept);
        }
        let id = self.number();
        let message = ToAgent::Packet(Packet {
            id,
            flow: flow_of(&kept.key, kept.origin),
            from_opener: kept.dir == kept.origin,
            frame: kept.buf.data().to_vec(),
        });
        self.seats[agent].given.insert(id, kept);
        self.count(AgentCounter::Given);
        self.tell(agent, &message);
    }

    /// Sends a message. An agent that does not read, so that even what is not bounded by its requests finds no
    /// room, is as good as gone.
    pub(super) fn tell(&mut self, agent: usize, message: &ToAgent) {
        let Some(connected) = &self.seats[agent].connected else {
            return;
        };
        let Ok(bytes) = frame::encode(message) else {
            return self.close(agent, "a message to it is too long");
        };
        match connected.link.to.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => self.close(agent, "it takes no messages"),
            Err(TrySendError::Full(_)) => {
                self.count(AgentCounter::Deaf);
                self.close(agent, "it does not read its messages");
            }
        }
    }

    pub(super) fn answer(&mut self, connection: u64, token: u64, outcome: Result<Done, String>) {
        let Some(agent) = self.agent_of(connection) else {
            return;
        };
        if outcome.is_err() {
            self.count(AgentCounter::RequestsRefused);
        }
        if let Some(connected) = &mut self.seats[agent].connected {
            connected.requests = connected.requests.saturating_sub(1);
        }
        self.tell(agent, &ToAgent::Answer { token, outcome });
    }

    /// Does what an agent has said; an error is what no agent may say.
    fn said(&mut self, agent: usize, message: ToDaemon) -> Result<(), String> {
        match message {
            ToDaemon::Hello { .. } => Err("it said its name twice".into()),
            ToDaemon::Deliver { id, frame } => {
                let given = &mut self.seats[agent].given;
                let mut kept = given
                    .remove(&id)
                    .ok_or_else(|| format!("it delivered packet {id}, which it does not have"))?;
                if let Some(frame) = frame {
                    if let Err(why) = rewrite(&mut kept, &frame) {
                        given.insert(id, kept);
                        return Err(why);
                    }
                    self.count(AgentCounter::Rewritten);
                }
                self.count(AgentCounter::Delivered);
                self.hand_over(agent, kept);
                Ok(())
            }
            ToDaemon::Discard { id } => {
                let kept = self.seats[agent].given.remove(&id);
                let kept = kept
                    .ok_or_else(|| format!("it discarded packet {id}, which it does not have"))?;
                self.count(AgentCounter::Discarded);
                self.discard(kept);
                Ok(())
            }
            ToDaemon::Ask { token, request } => {
                self.count(AgentCounter::Requests);
                self.ask(agent, token, request);
                Ok(())
            }
        }
    }
}

/// Puts another frame in a packet's place, if it is one of the same flow and direction.
fn rewrite<B: PacketBuf>(kept: &mut Kept<B>, frame: &[u8]) -> Result<(), String> {
    let parsed = wire::parse(frame)
        .map_err(|error| format!("it delivered a frame that is none: {error:?}"))?;
    let named = FlowKey::new(
        parsed.src,
        parsed.dst,
        parsed.sport,
        parsed.dport,
        parsed.proto,
    );
    if named != (kept.key, kept.dir) {
        return Err("it delivered a frame of another flow".into());
    }
    kept.segment = segment(&parsed);
    let had = wire::parse(kept.buf.data()).ok();
    if let (Some(segment), Some(had)) = (&mut kept.segment, had) {
        if (had.tcp.seq, had.tcp.ack, had.tcp.flags)
            != (parsed.tcp.seq, parsed.tcp.ack, parsed.tcp.flags)
        {
            return Err("it delivered a segment with other sequence numbers or flags".into());
        }
        segment.had = u32::from(had.end.saturating_sub(had.payload));
    }
    kept.buf
        .set_len(frame.len())
        .map_err(|error| format!("it delivered a frame that is too long: {error}"))?;
    kept.buf.data_mut().copy_from_slice(frame);
    Ok(())
}

fn flow_of(key: &FlowKey, from: Dir) -> Flow {
    let ((src, sport), (dst, dport)) = (key.source(from), key.destination(from));
    Flow {
        proto: key.proto(),
        src: wire::addr_to_ip(&src),
        sport,
        dst: wire::addr_to_ip(&dst),
        dport,
    }
}

fn flow_state(record: &FlowRecord) -> FlowState {
    FlowState {
        flow: flow_of(&record.key, record.class.origin),
        rule: record.verdict.rule,
        mark: record.mark.value,
        timeout_s: record.mark.timeout_s,
        replied: record.progress.contains(Progress::seen(Dir::AToB))
            && record.progress.contains(Progress::seen(Dir::BToA)),
    }
}
