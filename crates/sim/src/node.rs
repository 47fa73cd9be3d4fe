//! One run of a node: the same workers, replicator and membership as in the daemon, and a driver
//! that does what the daemon's three kinds of cores do (`ravelind/src/{workers,sync,member}.rs`),
//! in the same order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::memory::MemoryPort;
use engine::{
    Counter, FlowPage, LogEntry, NodeShared, Now, Policy, Snapshot, SnapshotReader, Worker,
    WorkerShared,
};
use membership::{Event as MemberEvent, Health, Membership, View};
use replication::{Output, Replicator, Runs, ToSync, ToWorker};
use rtrb::{Consumer, Producer};
use state::{FlowKey, NodeId, Stamp};

use crate::drain::{Drainer, Order, Progress};
use crate::net::{ConnId, Heard, Kind, Net, SendError, Side};
use crate::oracle;
use crate::queue::{Core, Event, Queue};
use crate::random::Rng;
use crate::report::Stats;
use crate::shape::{BURST, Shape, build_workers};
use crate::witness;

/// As `ravelind/src/member.rs` has it.
const STALL_US: u64 = 100_000;
const MEMBER_WAIT_US: u64 = 10_000;
const MEMBER_WAIT_BUSY_US: u64 = 1_000;
/// As `ravelind/src/sync.rs` has them.
const TICK_US: u64 = 1_000;
const PER_TURN: usize = 512;
/// A core that has nothing to do looks again after this; a real one does so all the time.
const WORKER_IDLE_US: u64 = 5_000;
const SYNC_IDLE_US: u64 = 10_000;
/// Frames that a port holds before it drops.
const PORT_FRAMES: usize = 512;

/// A node's clocks: microseconds that never step but run at their own rate, and Unix time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) base_us: u64,
    /// Parts per million that it is too fast.
    pub(crate) drift_ppm: i64,
    pub(crate) unix_ms: i64,
}

impl Clock {
    /// The node's clock at a true time.
    pub(crate) fn us(&self, at_us: u64) -> u64 {
        let drift = at_us as i64 * self.drift_ppm / 1_000_000;
        self.base_us + at_us.saturating_add_signed(drift)
    }

    pub(crate) fn unix_ms(&self, at_us: u64) -> u64 {
        (self.unix_ms + (self.us(at_us) - self.base_us) as i64 / 1_000).max(1) as u64
    }

    pub(crate) fn now(&self, at_us: u64) -> Now {
        Now {
            us: self.us(at_us),
            unix_ms: self.unix_ms(at_us),
        }
    }
}

/// When a core has its next turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    at_us: u64,
    ticket: u64,
}

impl Turn {
    pub(crate) const fn never() -> Self {
        Self {
            at_us: u64::MAX,
            ticket: 0,
        }
    }
}

pub(crate) struct WorkerCore {
    pub(crate) worker: Worker<MemoryPort>,
    pub(crate) turn: Turn,
    pub(crate) stalled_until_us: u64,
    /// By message in the ring from the sync core: the flows of a batch to be merged.
    pub(crate) messages: VecDeque<Vec<FlowKey>>,
    /// Takes what the sync core pushed: to know how much the worker has taken.
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) _pages: (Producer<FlowPage>, Consumer<FlowPage>),
    pub(crate) log: Consumer<LogEntry>,
}

/// The sync core's ends of a worker's rings.
pub(crate) struct End {
    pub(crate) from_worker: Consumer<ToSync>,
    pub(crate) to_worker: Producer<ToWorker>,
    pub(crate) shared: Arc<WorkerShared>,
}

struct SyncCore {
    replicator: Replicator,
    ends: Vec<End>,
    runs: Runs,
    view: SnapshotReader<View>,
    replies: BTreeMap<(usize, u16), ConnId>,
    ticked_us: u64,
    blocked: bool,
    inbox: VecDeque<Heard>,
    turn: Turn,
}

struct MemberCore {
    membership: Membership,
    stale: BTreeMap<usize, u64>,
    distrust_until_us: u64,
    drainer: Drainer,
    health: Health,
    inbox: VecDeque<Heard>,
    turn: Turn,
}

/// A run of a node.
pub(crate) struct Process {
    pub(crate) node: usize,
    pub(crate) run: u64,
    pub(crate) incarnation: u64,
    pub(crate) clock: Clock,
    pub(crate) started_us: u64,
    pub(crate) workers: Vec<WorkerCore>,
    pub(crate) shared: Arc<NodeShared>,
    board_view: Arc<Snapshot<View>>,
    synced: Vec<(NodeId, u64, u64)>,
    sync: SyncCore,
    member: MemberCore,
    dead_after_us: u64,
    heartbeat_us: u64,
    /// A peer that has never heard this run knows a later one, of this number.
    pub(crate) outrun: Option<u64>,
    /// Up to where every living node has what was written here, as the replicator has just said.
    pub(crate) common_synced: Option<Stamp>,
    /// It was ordered to hand over and end, and will not be told otherwise.
    pub(crate) ending: bool,
    /// Until then nothing runs.
    pub(crate) paused_until_us: u64,
    /// Until then every turn comes late.
    pub(crate) slow_until_us: u64,
    rng: Rng,
    /// When the membership core last had its turn.
    pub(crate) looked_us: u64,
    /// The view that the replicator has.
    pub(crate) replicator_view: Arc<View>,
}

/// What a worker's turn did that the oracle wants to know.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    /// Frames sent: port and frame.
    pub(crate) sent: Vec<(usize, Vec<u8>)>,
    /// Frames taken from the ports, and not sent on at once.
    pub(crate) kept: Vec<Vec<u8>>,
    /// Of segments of TCP that came, and of which the flow was known and alive: what a router leaves as it
    /// is, and the flow's incarnation.
    pub(crate) doubted: Vec<(Option<u64>, u64)>,
    /// Flows of batches that were merged.
    pub(crate) merged: Vec<FlowKey>,
    /// Packets that left at their deadline, unprotected.
    pub(crate) released: bool,
}

/// The world outside of a process, as far as its cores reach.
pub(crate) struct Outside<'a> {
    pub(crate) now_us: u64,
    pub(crate) net: &'a mut Net,
    pub(crate) queue: &'a mut Queue,
    pub(crate) stats: &'a mut Stats,
    /// Lines for the trace, where there is one.
    pub(crate) said: Option<&'a mut Vec<String>>,
}

impl Outside<'_> {
    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(said) = &mut self.said {
            said.push(line.to_string());
        }
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    wire::parse(frame).is_ok_and(|p| p.proto == wire::ip::TCP)
}

impl Process {
    pub(crate) fn start(
        shape: &Shape,
        node: usize,
        (run, incarnation): (u64, u64),
        clock: Clock,
        outside: &mut Outside<'_>,
    ) -> Self {
        let options = &shape.options;
        let now_us = outside.now_us;
        let me = NodeId::new(node as u8).expect("at most 16 nodes");
        let mut rng = Rng::new(options.seed, 100 + run);
        let mono_ms = clock.us(now_us) / 1_000;
        let membership = Membership::new(shape.cluster.clone(), me, incarnation, mono_ms)
            .expect("the node is a member")
            .with_views_applied_later();
        let view = membership.view().clone();
        let policy = Policy::new(&shape.rules);
        let shared = Arc::new(NodeShared::new(View::clone(&view), policy));
        let board_view = Arc::new(Snapshot::new(View::clone(&view)));
        let (workers, ends) = build_workers(shape, me, clock, now_us, &shared, &mut rng);
        let replication = shape.replication(me, incarnation);
        let mut replicator = Replicator::new(replication).expect("the options are in range");
        replicator.on_view(view.clone(), clock.us(now_us));
        let timing = shape.cluster.timing();
        let mut it = Self {
            node,
            run,
            incarnation,
            clock,
            started_us: now_us,
            workers,
            shared,
            synced: Vec::new(),
            sync: SyncCore {
                replicator,
                ends,
                runs: Runs::default(),
                view: board_view.reader(),
                replies: BTreeMap::new(),
                ticked_us: 0,
                blocked: false,
                inbox: VecDeque::new(),
                turn: Turn::never(),
            },
            board_view,
            member: MemberCore {
                membership,
                stale: BTreeMap::new(),
                distrust_until_us: 0,
                drainer: Drainer::default(),
                health: Health::Ok,
                inbox: VecDeque::new(),
                turn: Turn::never(),
            },
            dead_after_us: timing.dead_after_ms * 1_000,
            heartbeat_us: timing.heartbeat_ms * 1_000,
            outrun: None,
            common_synced: None,
            ending: false,
            paused_until_us: 0,
            slow_until_us: 0,
            rng,
            looked_us: now_us,
            replicator_view: view,
        };
        for worker in 0..it.workers.len() {
            it.wake(Core::Worker(worker), now_us, outside.queue);
        }
        it.wake(Core::Sync, now_us, outside.queue);
        it.wake(Core::Member, now_us, outside.queue);
        it
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.member.membership
    }

    pub(crate) fn replicator_mut(&mut self) -> &mut Replicator {
        &mut self.sync.replicator
    }

    pub(crate) fn replicator(&self) -> &Replicator {
        &self.sync.replicator
    }

    /// An operator's order.
    pub(crate) fn order(&mut self, order: Order, now_us: u64, queue: &mut Queue) {
        self.member.drainer.post(order);
        self.wake(Core::Member, now_us, queue);
    }

    /// How far the last order is, and whether a hand-over of this run was ever cut short.
    pub(crate) fn progress(&self) -> (Progress, bool) {
        let drainer = &self.member.drainer;
        (drainer.progress(), drainer.cut)
    }

    /// Says goodbye: the last that a process does before it ends.
    pub(crate) fn leave(&mut self, now_us: u64, queue: &mut Queue) {
        self.member.membership.leave();
        self.wake(Core::Member, now_us, queue);
    }

    /// Calls a core soon: as soon as a core of this node gets its turn.
    pub(crate) fn wake(&mut self, core: Core, now_us: u64, queue: &mut Queue) {
        let late_us = match now_us < self.slow_until_us {
            true => self.rng.range(200..=6_000),
            false => self.rng.range(1..=15),
        };
        self.call(core, now_us + late_us, queue);
    }

    fn call(&mut self, core: Core, at_us: u64, queue: &mut Queue) {
        let (node, run) = (self.node, self.run);
        let turn = match core {
            Core::Worker(worker) => &mut self.workers[worker].turn,
            Core::Sync => &mut self.sync.turn,
            Core::Member => &mut self.member.turn,
        };
        if at_us < turn.at_us {
            turn.at_us = at_us;
            turn.ticket += 1;
            let ticket = turn.ticket;
            queue.put(
                at_us,
                Event::Turn {
                    node,
                    run,
                    core,
                    ticket,
                },
            );
        }
    }

    /// Whether a turn that has come is to be had; one of a process that stands still comes later.
    pub(crate) fn is_due(
        &mut self,
        core: Core,
        ticket: u64,
        now_us: u64,
        queue: &mut Queue,
    ) -> bool {
        let turn = match core {
            Core::Worker(worker) => &mut self.workers[worker].turn,
            Core::Sync => &mut self.sync.turn,
            Core::Member => &mut self.member.turn,
        };
        if turn.ticket != ticket || turn.at_us == u64::MAX {
            return false;
        }
        turn.at_us = u64::MAX;
        let mut until_us = self.paused_until_us;
        if let Core::Worker(worker) = core {
            until_us = until_us.max(self.workers[worker].stalled_until_us);
        }
        if now_us < until_us {
            let late_us = self.rng.range(0..=500);
            self.call(core, until_us + late_us, queue);
            return false;
        }
        true
    }

    /// A frame arrives at a port of one worker.
    pub(crate) fn receive(
        &mut self,
        worker: usize,
        port: usize,
        frame: Vec<u8>,
        outside: &mut Outside<'_>,
    ) {
        let core = &mut self.workers[worker];
        let port = core
            .worker
            .ports_mut()
            .nth(port)
            .expect("every node has two ports");
        if port.arriving.len() >= PORT_FRAMES {
            outside.stats.port_drops += 1;
            return;
        }
        port.arriving.push_back(frame);
        self.wake(Core::Worker(worker), outside.now_us, outside.queue);
    }

    pub(crate) fn hear(&mut self, kind: Kind, heard: Heard, outside: &mut Outside<'_>) {
        let core = match kind {
            Kind::Sync => {
                self.sync.inbox.push_back(heard);
                Core::Sync
            }
            Kind::Member => {
                // As the transport's `datagrams_max`.
                if self.member.inbox.len() < 256 || !matches!(heard, Heard::Datagram { .. }) {
                    self.member.inbox.push_back(heard);
                }
                Core::Member
            }
        };
        self.wake(core, outside.now_us, outside.queue);
    }

    /// One turn of a worker.
    pub(crate) fn worker_turn(&mut self, number: usize, outside: &mut Outside<'_>) -> Worked {
        let now_us = outside.now_us;
        let mut worked = Worked::default();
        let core = &mut self.workers[number];
        let before = core
            .worker
            .counters()
            .value(Counter::HoldReleasedAtDeadline);
        let burst = BURST;
        let arriving: Vec<Vec<Vec<u8>>> = core
            .worker
            .ports_mut()
            .map(|port| port.arriving.iter().take(burst).cloned().collect())
            .collect();
        let waiting = |ports: &mut WorkerCore| -> Vec<usize> {
            let ports = ports.worker.ports_mut();
            ports.map(|port| port.arriving.len()).collect()
        };
        for frame in arriving.iter().flatten().filter(|frame| is_tcp(frame)) {
            let record = oracle::key_of(frame).and_then(|key| {
                let id = core.worker.table().lookup(&key)?;
                let entry = core.worker.table().entry(id);
                entry.is_alive().then_some(entry.record.incarnation)
            });
            if let Some(incarnation) = record {
                let print = witness::fingerprint(frame);
                worked.doubted.push((print, incarnation));
            }
        }
        let had = waiting(core);
        let busy = core.worker.poll(self.clock.now(now_us));
        let has = waiting(core);
        for ((frames, had), has) in arriving.into_iter().zip(had).zip(has) {
            worked.kept.extend(frames.into_iter().take(had - has));
        }
        worked.released = core
            .worker
            .counters()
            .value(Counter::HoldReleasedAtDeadline)
            != before;
        for (port, side) in core.worker.ports_mut().enumerate() {
            let sent = side.sent.drain(..).map(|frame| (port, frame));
            worked.sent.extend(sent);
        }
        if !worked.sent.is_empty() && !worked.kept.is_empty() {
            let sent: Vec<_> = (worked.sent.iter())
                .map(|(_, f)| witness::fingerprint(f))
                .collect();
            let sent_on = |frame: &Vec<u8>| sent.contains(&witness::fingerprint(frame));
            worked.kept.retain(|frame| !sent_on(frame));
        }
        while core.log.pop().is_ok() {}
        let end = &self.sync.ends[number];
        let waiting = end.to_worker.buffer().capacity() - end.to_worker.slots();
        while core.messages.len() > waiting {
            let keys = core.messages.pop_front().expect("it is longer than that");
            worked.merged.extend(keys);
        }
        outside.stats.worker_turns += 1;
        if busy > 0 {
            self.wake(Core::Sync, now_us, outside.queue);
            for other in 0..self.workers.len() {
                // What crosses over is looked for at once by the other's poll.
                if other != number {
                    self.wake(Core::Worker(other), now_us, outside.queue);
                }
            }
            self.call(Core::Worker(number), now_us + 20, outside.queue);
        } else {
            self.call(Core::Worker(number), now_us + WORKER_IDLE_US, outside.queue);
        }
        worked
    }

    /// One turn of the sync core.
    pub(crate) fn sync_turn(&mut self, outside: &mut Outside<'_>) {
        let now_us = self.clock.us(outside.now_us);
        let mut work = 0;
        if self.sync.view.refresh() {
            let view = self.sync.view.value().clone();
            self.sync.replicator.on_view(view.clone(), now_us);
            self.replicator_view = view.clone();
            self.shared.view.publish(view);
            self.leave_dead_runs(outside);
            self.wake_workers(outside);
            work += 1;
        }
        for worker in 0..self.sync.ends.len() {
            for _ in 0..PER_TURN {
                let Ok(message) = self.sync.ends[worker].from_worker.pop() else {
                    break;
                };
                self.sync.replicator.on_worker(worker, message, now_us);
                work += 1;
            }
        }
        for _ in 0..PER_TURN {
            let Some(heard) = self.sync.inbox.pop_front() else {
                break;
            };
            self.sync_heard(heard, now_us, outside);
            work += 1;
        }
        if now_us >= self.sync.ticked_us + TICK_US {
            self.sync.ticked_us = now_us;
            self.sync.replicator.tick(now_us);
        } else if self.sync.blocked {
            self.sync.replicator.tick(now_us);
        }
        self.carry_out(outside);
        self.finish_flush();
        let pause_us = match (work, self.sync.blocked) {
            (0, false) => SYNC_IDLE_US,
            (0, true) => 100,
            _ => 10,
        };
        self.call(Core::Sync, outside.now_us + pause_us, outside.queue);
    }

    /// Notes when the round of a final synchronisation that the workers were asked for is complete.
    fn finish_flush(&mut self) {
        let asked = self.shared.flush_asked.load(Ordering::Relaxed);
        if asked == self.member.drainer.flushed {
            return;
        }
        let lsn = |end: &End| {
            let done = end.shared.told.flushed.load(Ordering::Acquire) == asked;
            done.then(|| end.shared.told.flushed_lsn.load(Ordering::Relaxed))
        };
        if let Some(lsns) = self.sync.ends.iter().map(lsn).collect::<Option<Vec<u64>>>()
            && self.sync.replicator.has_flushed(&lsns)
        {
            self.member.drainer.flushed = asked;
        }
    }

    fn wake_workers(&mut self, outside: &mut Outside<'_>) {
        for worker in 0..self.workers.len() {
            self.wake(Core::Worker(worker), outside.now_us, outside.queue);
        }
    }

    fn leave_dead_runs(&mut self, outside: &mut Outside<'_>) {
        let view = self.sync.view.value().clone();
        for member in &view.members {
            let greeted = self.sync.replicator.connected_run(member.id);
            let outlived = (self.sync.runs).is_outlived(member.id, greeted, member.incarnation);
            if outlived {
                self.redial(member.id.index(), Kind::Sync, outside);
            }
        }
    }

    /// The run of a peer in the view; 0 when there is none.
    fn run_in_view(&self, peer: usize) -> u64 {
        let members = &self.sync.view.value().members;
        let member = members.iter().find(|m| m.id.index() == peer);
        member.map_or(0, |m| m.incarnation)
    }

    fn redial(&self, peer: usize, kind: Kind, outside: &mut Outside<'_>) {
        outside
            .net
            .redial(self.node, peer, kind, outside.now_us, outside.queue);
    }

    fn sync_heard(&mut self, heard: Heard, now_us: u64, outside: &mut Outside<'_>) {
        let id = |peer: usize| NodeId::new(peer as u8).expect("at most 16 nodes");
        if let Heard::Connected { peer } = heard {
            let run = self.run_in_view(peer);
            self.sync.runs.connected(id(peer), run);
        }
        let sync = &mut self.sync;
        match heard {
            Heard::Connected { peer } => sync.replicator.on_connected(id(peer), now_us),
            Heard::Disconnected { peer } => {
                sync.runs.disconnected(id(peer));
                sync.replicator.on_disconnected(id(peer), now_us);
            }
            Heard::Frame {
                peer,
                conn,
                stream,
                bytes,
            } => {
                outside.net.taken(conn, Side::Dialer, stream, bytes.len());
                sync.replies.insert((peer, stream), conn);
                sync.replicator.on_frame(id(peer), stream, &bytes, now_us);
            }
            Heard::Answer {
                peer,
                conn,
                stream,
                bytes,
            } => {
                outside.net.taken(conn, Side::Acceptor, stream, bytes.len());
                sync.replicator.on_answer(id(peer), stream, &bytes, now_us);
            }
            Heard::Datagram { .. } => {}
        }
    }

    /// Does what the replicator wants done.
    fn carry_out(&mut self, outside: &mut Outside<'_>) {
        self.sync.blocked = false;
        while let Some(output) = self.sync.replicator.poll() {
            let (now_us, node) = (outside.now_us, self.node);
            match output {
                Output::Send {
                    peer,
                    stream,
                    frame,
                } => {
                    let sent =
                        outside
                            .net
                            .send(node, peer.index(), stream, &frame, now_us, outside.queue);
                    outside.stats.frames_between_nodes += 1;
                    match sent {
                        Ok(()) | Err(SendError::NotConnected) => {
                            self.sync.replicator.recycle(frame);
                        }
                        Err(SendError::Full) => {
                            outside.stats.sends_deferred += 1;
                            self.sync.blocked = true;
                            self.sync.replicator.refused(Output::Send {
                                peer,
                                stream,
                                frame,
                            });
                        }
                    }
                }
                Output::Reply {
                    peer,
                    stream,
                    frame,
                } => {
                    let Some(conn) = self.sync.replies.get(&(peer.index(), stream)) else {
                        continue;
                    };
                    match outside
                        .net
                        .reply(*conn, stream, &frame, now_us, outside.queue)
                    {
                        Ok(()) | Err(SendError::NotConnected) => {
                            self.sync.replicator.recycle(frame);
                        }
                        Err(SendError::Full) => {
                            outside.stats.sends_deferred += 1;
                            self.sync.blocked = true;
                            self.sync.replicator.refused(Output::Reply {
                                peer,
                                stream,
                                frame,
                            });
                        }
                    }
                }
                Output::ToWorker { worker, message } => {
                    let keys = match &message {
                        ToWorker::Apply { records, .. } => {
                            records.iter().map(|(record, _)| record.key).collect()
                        }
                        _ => Vec::new(),
                    };
                    match self.sync.ends[worker].to_worker.push(message) {
                        Ok(()) => {
                            self.workers[worker].messages.push_back(keys);
                            self.wake(Core::Worker(worker), now_us, outside.queue);
                        }
                        Err(rtrb::PushError::Full(message)) => {
                            outside.stats.rings_full += 1;
                            self.sync.blocked = true;
                            self.sync
                                .replicator
                                .refused(Output::ToWorker { worker, message });
                        }
                    }
                }
                Output::Release { worker, lsn } => {
                    self.sync.ends[worker]
                        .shared
                        .acked_lsn
                        .store(lsn, Ordering::Release);
                    self.wake(Core::Worker(worker), now_us, outside.queue);
                }
                Output::Synced {
                    peer,
                    incarnation,
                    join,
                } => {
                    outside.say(format_args!("node {node} has the snapshot of {peer}"));
                    self.synced.push((peer, incarnation, join));
                    self.wake(Core::Member, now_us, outside.queue);
                }
                Output::Close {
                    peer,
                    connection,
                    reason,
                } => {
                    outside.stats.connections_closed += 1;
                    outside.say(format_args!(
                        "node {node} closes its {connection:?} connection with {peer}: {reason}"
                    ));
                    outside
                        .net
                        .close(node, peer.index(), Kind::Sync, now_us, outside.queue);
                }
                Output::CommonChanged { kinds } => {
                    let map = self.sync.replicator.common();
                    let next = self.shared.common.load().rebuild(map, kinds);
                    self.shared.common.publish(Arc::new(next));
                    self.wake_workers(outside);
                }
                Output::CommonSynced { stamp } => self.common_synced = Some(stamp),
                // The detector is off.
                Output::Detected { .. } => {}
                Output::Event(event) => {
                    outside.say(format_args!("node {node}: {event:?}"));
                    if matches!(event, replication::Event::Lagging { .. }) {
                        outside.stats.lags += 1;
                    }
                }
            }
        }
    }

    /// One turn of the membership core: what was heard, then what time brings.
    pub(crate) fn member_turn(&mut self, outside: &mut Outside<'_>) {
        let now_us = self.clock.us(outside.now_us);
        self.looked_us = outside.now_us;
        while let Some(heard) = self.member.inbox.pop_front() {
            match heard {
                Heard::Datagram { peer, bytes } => {
                    if let Some(peer) = NodeId::new(peer as u8) {
                        self.member
                            .membership
                            .on_message(peer, &bytes, now_us / 1_000);
                    }
                }
                Heard::Connected { peer } => {
                    self.member.stale.remove(&peer);
                }
                _ => {}
            }
        }
        for (peer, incarnation, join) in std::mem::take(&mut self.synced) {
            self.member.membership.on_synced(peer, incarnation, join);
        }
        self.watch_workers(now_us);
        let (member, workers) = (&mut self.member, &self.workers);
        Drainer::follow_workers(&mut member.membership, workers);
        let asked = (member.drainer).turn(&mut member.membership, workers, &self.shared, now_us);
        if asked {
            self.wake(Core::Sync, outside.now_us, outside.queue);
            self.wake_workers(outside);
        }
        self.member.membership.tick(now_us / 1_000);
        self.member_carry_out(now_us, outside);
        if now_us >= self.member.distrust_until_us {
            let until_us = now_us + self.dead_after_us;
            self.shared
                .view_valid_until_us
                .store(until_us, Ordering::Relaxed);
        }
        let deadline_us = self.member.membership.deadline().saturating_mul(1_000);
        let wait_max_us = match self.member.drainer.is_busy(&self.member.membership) {
            true => MEMBER_WAIT_BUSY_US,
            false => MEMBER_WAIT_US,
        };
        let wait_us = deadline_us.saturating_sub(now_us).min(wait_max_us);
        // Timers are late by some microseconds.
        let late_us = self.rng.range(5..=100);
        self.call(
            Core::Member,
            outside.now_us + wait_us + late_us,
            outside.queue,
        );
    }

    fn member_carry_out(&mut self, now_us: u64, outside: &mut Outside<'_>) {
        while let Some(output) = self.member.membership.poll() {
            match output {
                membership::Output::View(view) => {
                    outside.stats.views += 1;
                    let states: Vec<_> = view.members.iter().map(|m| m.state.name()).collect();
                    outside.say(format_args!(
                        "node {} has view {}: {states:?}",
                        self.node, view.epoch
                    ));
                    self.board_view.publish(view);
                    self.wake(Core::Sync, outside.now_us, outside.queue);
                }
                membership::Output::Send { to, bytes } => {
                    outside.net.send_datagram(
                        self.node,
                        to.index(),
                        &bytes,
                        outside.now_us,
                        outside.queue,
                        outside.stats,
                    );
                }
                membership::Output::Event(event) => self.note(event, now_us, outside),
            }
        }
    }

    fn note(&mut self, event: MemberEvent, now_us: u64, outside: &mut Outside<'_>) {
        outside.say(format_args!("node {}: {event}", self.node));
        self.member.drainer.note(&event);
        match event {
            MemberEvent::HandedOver { .. } => outside.stats.hand_overs += 1,
            MemberEvent::HandOverCut { .. } => outside.stats.hand_overs_cut += 1,
            MemberEvent::PeerDown {
                peer, incarnation, ..
            } => {
                outside.stats.deaths_seen += 1;
                if outside
                    .net
                    .is_connected(self.node, peer.index(), Kind::Member)
                {
                    self.member.stale.insert(peer.index(), incarnation);
                }
            }
            MemberEvent::PeerUp {
                peer, incarnation, ..
            } => {
                let died = self.member.stale.remove(&peer.index());
                if died.is_some_and(|dead| dead != incarnation) {
                    self.redial(peer.index(), Kind::Member, outside);
                }
            }
            MemberEvent::PeerRestarted { peer, .. } | MemberEvent::Unheard { peer } => {
                self.redial(peer.index(), Kind::Member, outside);
            }
            // As the daemon does: one that was heard goes on.
            MemberEvent::LaterRunKnown {
                theirs,
                accepted: false,
                ..
            } => self.outrun = self.outrun.max(Some(theirs)),
            MemberEvent::Paused { .. } => {
                outside.stats.pauses_seen += 1;
                self.member.distrust_until_us = now_us + 2 * self.heartbeat_us;
            }
            _ => {}
        }
    }

    fn watch_workers(&mut self, now_us: u64) {
        let limit_us = STALL_US.max(self.dead_after_us);
        let stalled = self.workers.iter().any(|core| {
            let alive_us = core.shared.told.alive_us.load(Ordering::Relaxed);
            alive_us > 0 && now_us.saturating_sub(alive_us) > limit_us
        });
        let health = if stalled {
            Health::WorkerStalled
        } else {
            Health::Ok
        };
        if health != self.member.health {
            self.member.health = health;
            self.member.membership.set_health(health);
        }
    }
}
