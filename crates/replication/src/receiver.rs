//! The receiving half: what peers send on the connections that they dialed is checked, split over
//! this node's workers, and acknowledged once it is in their tables.

use std::collections::{HashMap, VecDeque};

use membership::{MemberState, View};
use state::{FlowRecord, NODES_MAX, NodeId, SLOTS, Slot, SlotSet, slot_of, worker_of};

use self::marks::Comparisons;
use crate::ToWorker;
use crate::message::{
    self, Ack, ArchivedBatch, ArchivedEnd, ArchivedHello, ArchivedQuery, ArchivedRequest,
    ArchivedStart, CONTROL, ERRANDS, Message, Position, QUERIES, RECORDS_LAST, SNAPSHOTS,
    Violation, WORKER_BITS, Welcome, open,
};
use crate::options::{Options, WORKERS_MAX};
use crate::replicator::Shared;

mod marks;

/// How many emptied vectors are kept to be filled again.
const POOL_MAX: usize = 64;

type Records = Vec<(FlowRecord, u16)>;

pub(crate) struct Receiver {
    me: NodeId,
    incarnation: u64,
    cluster: u64,
    workers: usize,
    window: usize,
    /// By node.
    peers: Vec<Inbound>,
    /// Parts of batches that workers have not put in their tables yet.
    parts: HashMap<u64, Part>,
    next_token: u64,
    pool: Vec<Records>,
    /// By own worker: where a batch is split.
    split: Vec<Records>,
    /// Streams on which an acknowledgement is due.
    due: Vec<(NodeId, u16)>,
    comparisons: Comparisons,
    /// By node: its run in the view; 0 for none that lives.
    runs: [u64; NODES_MAX],
}

/// What a frame told that concerns the sending half.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Nothing,
    /// The peer has greeted anew: what it was told or asked on earlier connections is void.
    Greeted {
        peer: NodeId,
    },
    /// The peer, in this run of it, asks for a snapshot, or for some slots.
    Requested {
        incarnation: u64,
        request: u64,
        slots: Option<SlotSet>,
    },
    /// A snapshot of all that the peer owns, from this run of it, is in the tables.
    SnapshotReceived {
        peer: NodeId,
        incarnation: u64,
        request: u64,
    },
    /// An errand of the peer is in the tables.
    ErrandReceived {
        peer: NodeId,
        incarnation: u64,
        request: u64,
        /// The tables had no room for a part of it.
        refused: bool,
    },
}

/// One peer's connection to us.
#[derive(Default)]
struct Inbound {
    incarnation: u64,
    /// The session of the connection that counts; `None` without one.
    session: Option<u32>,
    /// A greeting that is answered once all earlier records are in the tables, so that the answer
    /// says exactly where to resume.
    hello: Option<Greeting>,
    deltas: Vec<Lane>,
    snapshots: Vec<Lane>,
    errands: Vec<Lane>,
    /// The run of the last snapshot that was complete.
    completed: u64,
    /// The run of the last errand that was complete.
    errand_completed: u64,
    /// The tables had no room for a part of the present errand.
    errand_refused: bool,
}

#[derive(Clone, Copy)]
struct Greeting {
    incarnation: u64,
    workers: usize,
}

/// One stream of a peer.
#[derive(Default)]
struct Lane {
    run: u64,
    /// The last number received in `run`.
    received: u64,
    /// The last number that is in the tables, and its run.
    applied: (u64, u64),
    pending: VecDeque<Pending>,
    /// Serial number of the first pending batch.
    serial: u64,
    pending_records: usize,
    /// The end of the run's snapshot or errand.
    ended: Option<Ended>,
    refused: u64,
    /// It is in `Receiver::due`.
    due: bool,
}

#[derive(Clone, Copy)]
struct Ended {
    /// It was of everything.
    whole: bool,
    /// The request that it answers; 0 for none.
    request: u64,
}

struct Pending {
    position: (u64, u64),
    parts: usize,
    records: usize,
}

struct Part {
    peer: NodeId,
    stream: u16,
    serial: u64,
    records: usize,
}

impl Lane {
    fn settle(&mut self) {
        while let Some(front) = self.pending.front()
            && front.parts == 0
        {
            self.applied = front.position;
            self.pending_records -= front.records;
            self.pending.pop_front();
            self.serial += 1;
        }
    }

    fn done(&self) -> Option<Ended> {
        self.ended.filter(|_| self.pending.is_empty())
    }
}

impl Inbound {
    fn lane(&mut self, stream: u16) -> Option<&mut Lane> {
        let lanes = match stream {
            ERRANDS.. => &mut self.errands,
            SNAPSHOTS.. => &mut self.snapshots,
            _ => &mut self.deltas,
        };
        lanes.get_mut(usize::from(stream & WORKER_BITS))
    }

    fn idle(&self) -> bool {
        self.deltas
            .iter()
            .chain(&self.snapshots)
            .chain(&self.errands)
            .all(|lane| lane.pending.is_empty())
    }
}

impl Receiver {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            me: options.me,
            incarnation: options.incarnation,
            cluster: options.cluster,
            workers: options.workers,
            window: options.window_records,
            peers: (0..NODES_MAX).map(|_| Inbound::default()).collect(),
            parts: HashMap::new(),
            next_token: 0,
            pool: Vec::new(),
            split: vec![Vec::new(); options.workers],
            due: Vec::new(),
            comparisons: Comparisons::default(),
            runs: [0; NODES_MAX],
        }
    }

    /// Follows the view.
    pub(crate) fn view(&mut self, view: &View) {
        self.runs = [0; NODES_MAX];
        for member in view.members.iter().filter(|m| m.state != MemberState::Dead) {
            self.runs[member.id.index()] = member.incarnation;
        }
    }

    /// Takes a frame of the peer's connection. Nothing has changed when it is refused.
    pub(crate) fn frame(
        &mut self,
        peer: NodeId,
        stream: u16,
        frame: &[u8],
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let kind = message::kind(frame)?;
        match (kind, stream) {
            (message::Hello::KIND, CONTROL) => self.hello(peer, open(frame)?, shared),
            (message::Request::KIND, CONTROL) => self.request(peer, open(frame)?, shared),
            (message::Start::KIND, ..=RECORDS_LAST) => {
                self.start(peer, stream, open(frame)?, shared)
            }
            (message::Mark::KIND, ..SNAPSHOTS) => self.mark(peer, stream, open(frame)?, shared),
            (message::Batch::KIND, ..=RECORDS_LAST) => {
                self.batch(peer, stream, open(frame)?, shared)
            }
            (message::End::KIND, SNAPSHOTS..=RECORDS_LAST) => {
                self.end(peer, stream, open(frame)?, shared)
            }
            _ => Err(Violation::Kind { kind, stream }),
        }
    }

    /// A peer's questions; `None` when its connection was replaced.
    pub(crate) fn query<'a>(
        &self,
        peer: NodeId,
        frame: &'a [u8],
        shared: &mut Shared,
    ) -> Result<Option<&'a ArchivedQuery>, Violation> {
        let kind = message::kind(frame)?;
        if kind != message::Query::KIND {
            let stream = QUERIES;
            return Err(Violation::Kind { kind, stream });
        }
        let query: &ArchivedQuery = open(frame)?;
        let (incarnation, session) = (query.incarnation.to_native(), query.session.to_native());
        let current = self.current(peer, QUERIES, incarnation, session, shared)?;
        Ok(current.then_some(query))
    }

    /// The session of a peer's connection that is greeted, and the peer's run.
    pub(crate) fn session(&self, peer: NodeId) -> Option<(u32, u64)> {
        let inbound = &self.peers[peer.index()];
        let session = inbound.session.filter(|_| inbound.hello.is_none())?;
        Some((session, inbound.incarnation))
    }

    /// A worker has put a part of a batch into its table.
    pub(crate) fn applied(
        &mut self,
        token: u64,
        mut records: Records,
        refused: u32,
        shared: &mut Shared,
    ) -> Told {
        records.clear();
        self.keep(records);
        let Some(part) = self.parts.remove(&token) else {
            shared.counters.worker_faults += 1;
            return Told::Nothing;
        };
        let refused = u64::from(refused).min(part.records as u64);
        shared.counters.records_applied += part.records as u64 - refused;
        shared.counters.records_refused += refused;
        let inbound = &mut self.peers[part.peer.index()];
        let lane = inbound
            .lane(part.stream)
            .expect("streams outlive their pending batches");
        lane.refused += refused;
        let of_errand = part.stream >= ERRANDS;
        let index = (part.serial - lane.serial) as usize;
        lane.pending[index].parts -= 1;
        lane.settle();
        inbound.errand_refused |= of_errand && refused > 0;
        if inbound.hello.is_some() {
            self.welcome(part.peer, shared);
            return Told::Nothing;
        }
        self.mark_due(part.peer, part.stream);
        self.completed(part.peer, shared)
    }

    /// Answers what is due, one cumulative acknowledgement per stream.
    pub(crate) fn acknowledge(&mut self, shared: &mut Shared) {
        let mut due = std::mem::take(&mut self.due);
        due.retain(|&(peer, stream)| {
            let inbound = &mut self.peers[peer.index()];
            let session = inbound.session.filter(|_| inbound.hello.is_none());
            let dialer = inbound.incarnation;
            let Some(lane) = inbound.lane(stream) else {
                return false;
            };
            let Some(session) = session else {
                lane.due = false;
                return false;
            };
            if shared.outbox.replies_queued(peer, stream) > 0 {
                return true;
            }
            lane.due = false;
            let (run, last) =
                match state::mutation::is(state::mutation::Mutation::AcknowledgeUnapplied) {
                    true => (lane.run, lane.received),
                    false => lane.applied,
                };
            let ack = Ack {
                incarnation: self.incarnation,
                dialer,
                session,
                run,
                last,
                refused: lane.refused,
                ended: lane.done().is_some(),
            };
            shared.reply(peer, stream, &ack);
            false
        });
        debug_assert!(self.due.is_empty(), "answering makes nothing due");
        self.due = due;
    }

    /// The peer broke the protocol: its connection no longer counts.
    pub(crate) fn close(&mut self, peer: NodeId, shared: &mut Shared) {
        self.peers[peer.index()].session = None;
        self.peers[peer.index()].hello = None;
        shared.outbox.clear_replies(peer);
    }

    fn hello(
        &mut self,
        peer: NodeId,
        hello: &ArchivedHello,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let theirs = hello.cluster.to_native();
        if theirs != self.cluster {
            return Err(Violation::Cluster {
                theirs,
                ours: self.cluster,
            });
        }
        if hello.node != peer.raw() || peer == self.me {
            return Err(Violation::Identity {
                claimed: hello.node,
                peer,
            });
        }
        let workers = usize::from(hello.workers.to_native());
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(Violation::Workers(workers));
        }
        let inbound = &mut self.peers[peer.index()];
        let incarnation = hello.incarnation.to_native();
        let known = inbound
            .hello
            .map_or(0, |hello| hello.incarnation)
            .max(inbound.incarnation);
        // An earlier run that the membership hears is the one that lives: of the later one it heard nothing,
        // and the peer has lost its memory of it.
        if incarnation < known && self.runs[peer.index()] != incarnation {
            return Err(Violation::Incarnation {
                theirs: incarnation,
                known,
            });
        }
        inbound.session = Some(hello.session.to_native());
        inbound.hello = Some(Greeting {
            incarnation,
            workers,
        });
        shared.outbox.clear_replies(peer);
        self.welcome(peer, shared);
        Ok(Told::Greeted { peer })
    }

    /// Answers a greeting once nothing of the peer's earlier connections is pending.
    fn welcome(&mut self, peer: NodeId, shared: &mut Shared) {
        let inbound = &mut self.peers[peer.index()];
        let (Some(session), Some(greeting)) = (inbound.session, inbound.hello) else {
            return;
        };
        if !inbound.idle() {
            return;
        }
        inbound.hello = None;
        if (inbound.incarnation, inbound.deltas.len()) != (greeting.incarnation, greeting.workers) {
            inbound.incarnation = greeting.incarnation;
            inbound.deltas = (0..greeting.workers).map(|_| Lane::default()).collect();
            inbound.snapshots = (0..greeting.workers).map(|_| Lane::default()).collect();
            inbound.errands = (0..greeting.workers).map(|_| Lane::default()).collect();
            inbound.completed = 0;
            inbound.errand_completed = 0;
        }
        let records = inbound.deltas.iter_mut().chain(&mut inbound.snapshots);
        for lane in records.chain(&mut inbound.errands) {
            debug_assert_eq!(
                lane.applied,
                (lane.run, lane.received),
                "nothing is pending"
            );
            lane.due = false;
        }
        self.due.retain(|(due, _)| *due != peer);
        let positions = inbound
            .deltas
            .iter()
            .map(|lane| Position {
                run: lane.run,
                applied: lane.received,
            })
            .collect();
        let welcome = Welcome {
            incarnation: self.incarnation,
            dialer: greeting.incarnation,
            session,
            window_records: self.window as u32,
            positions,
        };
        shared.reply(peer, CONTROL, &welcome);
    }

    fn request(
        &mut self,
        peer: NodeId,
        request: &ArchivedRequest,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let incarnation = request.incarnation.to_native();
        if !self.current(
            peer,
            CONTROL,
            incarnation,
            request.session.to_native(),
            shared,
        )? {
            return Ok(Told::Nothing);
        }
        let request_number = request.number.to_native();
        if request.slots.len() > SLOTS {
            return Err(Violation::Slots(request.slots.len()));
        }
        let slot = |slot: u16| Slot::new(slot).ok_or(Violation::Slot(slot));
        let slots = request.slots.iter().map(|it| slot(it.to_native()));
        let slots = slots.collect::<Result<SlotSet, _>>()?;
        Ok(Told::Requested {
            incarnation,
            request: request_number,
            slots: (!slots.is_empty()).then_some(slots),
        })
    }

    fn start(
        &mut self,
        peer: NodeId,
        stream: u16,
        start: &ArchivedStart,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let incarnation = start.incarnation.to_native();
        if !self.current(peer, stream, incarnation, start.session.to_native(), shared)? {
            return Ok(Told::Nothing);
        }
        let (run, next) = (start.run.to_native(), start.next.to_native());
        let lane = self.lane(peer, stream)?;
        if run < lane.run {
            return Err(Violation::Run {
                run,
                current: lane.run,
            });
        }
        // A resumed run may only go on where it was; otherwise numbers could be jumped over.
        if run == lane.run && next != lane.received + 1 {
            return Err(Violation::Gap {
                expected: lane.received + 1,
                first: next,
            });
        }
        if next == 0 {
            return Err(Violation::Range {
                first: next,
                last: next,
                records: 0,
            });
        }
        lane.run = run;
        lane.received = next - 1;
        lane.ended = None;
        // Behind what is pending of the run before, so that positions stay in order. One that is
        // done already moves along, so that starts alone never pile up.
        match lane.pending.back_mut() {
            Some(back) if back.parts == 0 => back.position = (run, next - 1),
            Some(_) => {
                lane.pending.push_back(Pending {
                    position: (run, next - 1),
                    parts: 0,
                    records: 0,
                });
            }
            None => lane.applied = (run, next - 1),
        }
        Ok(Told::Nothing)
    }

    fn batch(
        &mut self,
        peer: NodeId,
        stream: u16,
        batch: &ArchivedBatch,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let incarnation = batch.incarnation.to_native();
        if !self.current(peer, stream, incarnation, batch.session.to_native(), shared)? {
            return Ok(Told::Nothing);
        }
        let worker = batch.worker.to_native();
        if worker != stream & WORKER_BITS {
            return Err(Violation::Worker { worker, stream });
        }
        let (first, last) = (batch.first.to_native(), batch.last.to_native());
        let count = batch.flows.len();
        // Snapshots have a record for each number; of a log, those that are for this node.
        let numbers = last.checked_sub(first).map_or(0, |n| n.saturating_add(1));
        let gaps = numbers != count as u64 && stream >= SNAPSHOTS;
        if count == 0 || numbers < count as u64 || gaps {
            return Err(Violation::Range {
                first,
                last,
                records: count,
            });
        }
        let window = self.window;
        let lane = self.lane(peer, stream)?;
        if lane.run == 0 {
            return Err(Violation::Greeting(stream));
        }
        if first != lane.received + 1 {
            return Err(Violation::Gap {
                expected: lane.received + 1,
                first,
            });
        }
        if lane.pending_records + count > window {
            return Err(Violation::Window {
                records: lane.pending_records + count,
                window,
            });
        }
        let records = batch.flows.records().map_err(Violation::Record)?;

        let parts = self.hand_out(peer, stream, records, shared);
        let lane = self.lane(peer, stream)?;
        lane.received = last;
        lane.pending_records += count;
        lane.pending.push_back(Pending {
            position: (lane.run, last),
            parts,
            records: count,
        });
        shared.counters.batches_received += 1;
        if state::mutation::is(state::mutation::Mutation::AcknowledgeUnapplied) {
            self.mark_due(peer, stream);
        }
        shared.counters.records_received += count as u64;
        Ok(Told::Nothing)
    }

    fn end(
        &mut self,
        peer: NodeId,
        stream: u16,
        end: &ArchivedEnd,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let incarnation = end.incarnation.to_native();
        if !self.current(peer, stream, incarnation, end.session.to_native(), shared)? {
            return Ok(Told::Nothing);
        }
        let (run, said) = (end.run.to_native(), end.records.to_native());
        let lane = self.lane(peer, stream)?;
        if run != lane.run || run == 0 {
            return Err(Violation::Run {
                run,
                current: lane.run,
            });
        }
        if said != lane.received {
            return Err(Violation::Count {
                said,
                received: lane.received,
            });
        }
        lane.ended = Some(Ended {
            whole: end.whole,
            request: end.request.to_native(),
        });
        self.mark_due(peer, stream);
        Ok(self.completed(peer, shared))
    }

    /// Whether a message is of the connection that counts. One of a connection that was replaced
    /// is passed over.
    pub(crate) fn current(
        &self,
        peer: NodeId,
        stream: u16,
        incarnation: u64,
        session: u32,
        shared: &mut Shared,
    ) -> Result<bool, Violation> {
        let inbound = &self.peers[peer.index()];
        let greeted = match inbound.hello {
            Some(greeting) => greeting.incarnation,
            None => inbound.incarnation,
        };
        if inbound.session != Some(session) || greeted != incarnation {
            shared.counters.frames_stale += 1;
            return Ok(false);
        }
        if inbound.hello.is_some() {
            return Err(Violation::Greeting(stream));
        }
        Ok(true)
    }

    fn lane(&mut self, peer: NodeId, stream: u16) -> Result<&mut Lane, Violation> {
        let inbound = &mut self.peers[peer.index()];
        let workers = inbound.deltas.len();
        inbound
            .lane(stream)
            .ok_or(Violation::Stream { stream, workers })
    }

    /// Gives records to the workers whose slots they are of; returns how many parts that makes.
    fn hand_out(
        &mut self,
        peer: NodeId,
        stream: u16,
        records: Records,
        shared: &mut Shared,
    ) -> usize {
        let owner = |record: &FlowRecord, workers| worker_of(slot_of(&record.key), workers);
        let first = owner(&records[0].0, self.workers);
        if records
            .iter()
            .all(|(record, _)| owner(record, self.workers) == first)
        {
            self.hand(peer, stream, first, records, shared);
            return 1;
        }
        for &(record, idle_s) in &records {
            self.split[owner(&record, self.workers)].push((record, idle_s));
        }
        self.keep(records);
        let mut parts = 0;
        for worker in 0..self.workers {
            if !self.split[worker].is_empty() {
                let spare = self.pool.pop().unwrap_or_default();
                let part = std::mem::replace(&mut self.split[worker], spare);
                self.hand(peer, stream, worker, part, shared);
                parts += 1;
            }
        }
        parts
    }

    fn hand(
        &mut self,
        peer: NodeId,
        stream: u16,
        worker: usize,
        records: Records,
        shared: &mut Shared,
    ) {
        let lane = self.peers[peer.index()]
            .lane(stream)
            .expect("the caller found it");
        let serial = lane.serial + lane.pending.len() as u64;
        let token = self.next_token;
        self.next_token += 1;
        self.parts.insert(
            token,
            Part {
                peer,
                stream,
                serial,
                records: records.len(),
            },
        );
        shared.outbox.tell_worker(
            worker,
            ToWorker::Apply {
                token,
                peer,
                records,
            },
        );
    }

    fn keep(&mut self, mut records: Records) {
        if self.pool.len() < POOL_MAX {
            records.clear();
            self.pool.push(records);
        }
    }

    fn mark_due(&mut self, peer: NodeId, stream: u16) {
        if let Some(lane) = self.peers[peer.index()].lane(stream)
            && !lane.due
        {
            lane.due = true;
            self.due.push((peer, stream));
        }
    }

    /// Whether the last part of a peer's snapshot is in the tables now.
    fn completed(&mut self, peer: NodeId, shared: &mut Shared) -> Told {
        let inbound = &mut self.peers[peer.index()];
        let incarnation = inbound.incarnation;
        let done = |lanes: &[Lane], before: u64| {
            let (run, ended) = lanes
                .first()
                .and_then(|lane| Some((lane.run, lane.ended?)))?;
            let done = |lane: &Lane| lane.run == run && lane.done().is_some();
            (run != before && lanes.iter().all(done)).then_some((run, ended))
        };
        if let Some((run, ended)) = done(&inbound.errands, inbound.errand_completed) {
            inbound.errand_completed = run;
            return Told::ErrandReceived {
                peer,
                incarnation,
                request: ended.request,
                refused: std::mem::take(&mut inbound.errand_refused),
            };
        }
        let Some((run, ended)) = done(&inbound.snapshots, inbound.completed) else {
            return Told::Nothing;
        };
        inbound.completed = run;
        shared.counters.snapshots_received += 1;
        match ended.whole {
            true => Told::SnapshotReceived {
                peer,
                incarnation,
                request: ended.request,
            },
            false => Told::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
