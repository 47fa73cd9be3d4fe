//! One run of a node: the same workers, replicator and membership as in the daemon, and a driver
//! that does what the daemon's three kinds of cores do (`ravelind/src/{workers,sync,member}.rs`),
//! in the same order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::memory::{MemoryBuf, MemoryPort};
use engine::{
    AtDeadline, Config, Counter, Cross, FlowPage, Hold, Interface, Links, LogEntry, NodeShared,
    Now, Policy, Snapshot, SnapshotReader, Timeouts, WhenAlone, Worker, WorkerShared,
};
use membership::{ClusterConfig, Event as MemberEvent, Health, MemberState, Membership, View};
use policy::{Action, Rule, RuleSet, Service, SyncDefaults, SyncPolicy, Zones};
use replication::{HoldAcks, Output, Replicator, ToSync, ToWorker};
use rtrb::{Consumer, Producer, RingBuffer};
use state::{FlowKey, NodeId, SyncMode};

use crate::hosts::{CLUSTER, PORTS};
use crate::net::{ConnId, Heard, Kind, Net, SendError, Side};
use crate::options::Options;
use crate::queue::{Core, Event, Queue};
use crate::random::Rng;
use crate::report::Stats;

/// As `ravelind/src/member.rs` has it.
const STALL_US: u64 = 100_000;
const MEMBER_WAIT_US: u64 = 10_000;
/// As `ravelind/src/sync.rs` has them.
const TICK_US: u64 = 1_000;
const PER_TURN: usize = 512;
/// A core that has nothing to do looks again after this; a real one does so all the time.
const WORKER_IDLE_US: u64 = 5_000;
const SYNC_IDLE_US: u64 = 10_000;
/// Frames that a port holds before it drops.
const PORT_FRAMES: usize = 512;
/// Seconds that tombstones are kept.
pub(crate) const TOMBSTONE_S: u32 = 12;

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

    fn now(&self, at_us: u64) -> Now {
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
    const fn never() -> Self {
        Self {
            at_us: u64::MAX,
            ticket: 0,
        }
    }
}

pub(crate) struct WorkerCore {
    pub(crate) worker: Worker<MemoryPort>,
    turn: Turn,
    pub(crate) stalled_until_us: u64,
    /// By message in the ring from the sync core: the flows of a batch to be merged.
    messages: VecDeque<Vec<FlowKey>>,
    /// Takes what the sync core pushed: to know how much the worker has taken.
    pub(crate) shared: Arc<WorkerShared>,
    _pages: (Producer<FlowPage>, Consumer<FlowPage>),
    log: Consumer<LogEntry>,
}

struct End {
    from_worker: Consumer<ToSync>,
    to_worker: Producer<ToWorker>,
    shared: Arc<WorkerShared>,
}

struct SyncCore {
    replicator: Replicator,
    ends: Vec<End>,
    stale: BTreeMap<usize, u64>,
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

/// What all runs of all nodes share.
pub(crate) struct Shape {
    pub(crate) options: Options,
    pub(crate) cluster: Arc<ClusterConfig>,
    rules: RuleSet,
}

impl Shape {
    pub(crate) fn new(options: &Options) -> Self {
        let members = (0..options.nodes as u8).map(|id| membership::MemberConfig {
            id: NodeId::new(id).expect("at most 16 nodes"),
            name: format!("n{id}"),
            weight: 1,
            backups: vec![],
        });
        let timing = membership::Timing {
            heartbeat_ms: options.heartbeat_ms,
            dead_after_ms: 4 * options.heartbeat_ms,
            join_wait_ms: 1_000,
        };
        let hash = membership::cluster_hash("sim");
        let cluster = ClusterConfig::new(hash, members.collect(), options.backups, timing)
            .expect("the options are checked");
        Self {
            options: options.clone(),
            cluster: Arc::new(cluster),
            rules: rules(),
        }
    }

    /// Flows and tombstones that one worker's shard holds.
    pub(crate) fn capacity(&self) -> usize {
        let all = if self.options.faults.tiny_table {
            40
        } else {
            1024
        };
        all / self.options.workers
    }

    pub(crate) fn hold_capacity(&self) -> usize {
        if self.options.faults.tiny_hold {
            2
        } else {
            128
        }
    }

    pub(crate) fn log_max(&self) -> usize {
        if self.options.faults.tiny_log {
            12
        } else {
            512
        }
    }

    pub(crate) fn ring(&self) -> usize {
        if self.options.faults.tiny_rings {
            3
        } else {
            1024
        }
    }
}

/// What a worker's turn did that the oracle wants to know.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    /// Frames sent: port and frame.
    pub(crate) sent: Vec<(usize, Vec<u8>)>,
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

impl Process {
    pub(crate) fn start(
        shape: &Shape,
        node: usize,
        run: u64,
        clock: Clock,
        outside: &mut Outside<'_>,
    ) -> Self {
        let options = &shape.options;
        let now_us = outside.now_us;
        let me = NodeId::new(node as u8).expect("at most 16 nodes");
        let incarnation = clock.unix_ms(now_us);
        let mut rng = Rng::new(options.seed, 100 + run);
        let mono_ms = clock.us(now_us) / 1_000;
        let membership = Membership::new(shape.cluster.clone(), me, incarnation, mono_ms)
            .expect("the node is a member");
        let view = membership.view().clone();
        let policy = Policy::new(&shape.rules);
        let shared = Arc::new(NodeShared::new(View::clone(&view), policy));
        let board_view = Arc::new(Snapshot::new(View::clone(&view)));
        let (workers, ends) = build_workers(shape, me, clock, now_us, &shared, &mut rng);
        let mut replication =
            replication::Options::new(me, incarnation, shape.cluster.cluster(), options.workers);
        replication.hold_acks = match options.hold_acks {
            0 => HoldAcks::All,
            n => HoldAcks::Count(n),
        };
        replication.log_records_max = shape.log_max();
        replication.batch_records_max = 32;
        replication.batch_bytes_max = if options.faults.tiny_queues {
            600
        } else {
            4_096
        };
        replication.window_records = 128;
        replication.chunk_records = 48;
        replication.digest_every_us = if options.digests { 1_500_000 } else { 0 };
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
                stale: BTreeMap::new(),
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
                health: Health::Ok,
                inbox: VecDeque::new(),
                turn: Turn::never(),
            },
            dead_after_us: timing.dead_after_ms * 1_000,
            heartbeat_us: timing.heartbeat_ms * 1_000,
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

    pub(crate) fn replicator(&self) -> &Replicator {
        &self.sync.replicator
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
        let busy = core.worker.poll(self.clock.now(now_us));
        worked.released = core
            .worker
            .counters()
            .value(Counter::HoldReleasedAtDeadline)
            != before;
        for (port, side) in core.worker.ports_mut().enumerate() {
            let sent = side.sent.drain(..).map(|frame| (port, frame));
            worked.sent.extend(sent);
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
        let pause_us = match (work, self.sync.blocked) {
            (0, false) => SYNC_IDLE_US,
            (0, true) => 100,
            _ => 10,
        };
        self.call(Core::Sync, outside.now_us + pause_us, outside.queue);
    }

    fn wake_workers(&mut self, outside: &mut Outside<'_>) {
        for worker in 0..self.workers.len() {
            self.wake(Core::Worker(worker), outside.now_us, outside.queue);
        }
    }

    fn leave_dead_runs(&mut self, outside: &mut Outside<'_>) {
        let view = self.sync.view.value().clone();
        for member in view.members.iter().filter(|m| m.incarnation != 0) {
            let peer = member.id.index();
            if member.state == MemberState::Dead {
                if outside.net.is_connected(self.node, peer, Kind::Sync) {
                    self.sync.stale.entry(peer).or_insert(member.incarnation);
                }
            } else if self
                .sync
                .stale
                .remove(&peer)
                .is_some_and(|dead| dead != member.incarnation)
            {
                self.dial_anew(peer, Kind::Sync, outside);
            }
        }
    }

    fn dial_anew(&self, peer: usize, kind: Kind, outside: &mut Outside<'_>) {
        outside
            .net
            .close(self.node, peer, kind, outside.now_us, outside.queue);
        outside
            .net
            .redial(self.node, peer, kind, outside.now_us, outside.queue);
    }

    fn sync_heard(&mut self, heard: Heard, now_us: u64, outside: &mut Outside<'_>) {
        let id = |peer: usize| NodeId::new(peer as u8).expect("at most 16 nodes");
        let sync = &mut self.sync;
        match heard {
            Heard::Connected { peer } => {
                sync.stale.remove(&peer);
                sync.replicator.on_connected(id(peer), now_us);
            }
            Heard::Disconnected { peer } => sync.replicator.on_disconnected(id(peer), now_us),
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
                // Nobody logs in here yet, and the detector is off.
                Output::CommonChanged { .. }
                | Output::CommonSynced { .. }
                | Output::Detected { .. } => {}
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
        self.member.membership.tick(now_us / 1_000);
        self.member_carry_out(now_us, outside);
        if now_us >= self.member.distrust_until_us {
            let until_us = now_us + self.dead_after_us;
            self.shared
                .view_valid_until_us
                .store(until_us, Ordering::Relaxed);
        }
        let deadline_us = self.member.membership.deadline().saturating_mul(1_000);
        let wait_us = deadline_us.saturating_sub(now_us).min(MEMBER_WAIT_US);
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
        match event {
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
                    self.dial_anew(peer.index(), Kind::Member, outside);
                }
            }
            MemberEvent::PeerRestarted { peer, .. } => {
                self.dial_anew(peer.index(), Kind::Member, outside);
            }
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

fn build_workers(
    shape: &Shape,
    me: NodeId,
    clock: Clock,
    now_us: u64,
    shared: &Arc<NodeShared>,
    rng: &mut Rng,
) -> (Vec<WorkerCore>, Vec<End>) {
    let count = shape.options.workers;
    let mut producers: Vec<Vec<Option<Producer<Cross<MemoryBuf>>>>> = vec![];
    let mut consumers: Vec<Vec<Option<Consumer<Cross<MemoryBuf>>>>> =
        (0..count).map(|_| vec![]).collect();
    for from in 0..count {
        let mut row = vec![];
        for (to, column) in consumers.iter_mut().enumerate() {
            let pair = (from != to).then(|| RingBuffer::new(shape.ring().max(16)));
            let (producer, consumer) = pair.unzip();
            row.push(producer);
            column.push(consumer);
        }
        producers.push(row);
    }
    let (mut workers, mut ends) = (vec![], vec![]);
    for (number, (cross_to, cross_from)) in producers.into_iter().zip(consumers).enumerate() {
        let (to_sync, from_worker) = RingBuffer::new(shape.ring());
        let (to_worker, from_sync) = RingBuffer::new(shape.ring());
        let (pages_to_worker, pages_from) = RingBuffer::new(1);
        let (pages_to, pages_from_worker) = RingBuffer::new(1);
        let (log_to, log) = RingBuffer::new(1);
        let links = Links {
            to_sync,
            from_sync,
            cross_to,
            cross_from,
            pages_from,
            pages_to,
            log: log_to,
            agent: None,
        };
        let told = Arc::new(WorkerShared::default());
        let ports = (0..2u8)
            .map(|port| MemoryPort::new([2, 0, 0, 1, port + 1, me.raw() + 1]))
            .collect();
        let config = worker_config(shape, me, number, rng);
        let now = clock.now(now_us);
        let worker = Worker::new(config, ports, links, told.clone(), shared.clone(), now);
        workers.push(WorkerCore {
            worker,
            turn: Turn::never(),
            stalled_until_us: 0,
            messages: VecDeque::new(),
            shared: told.clone(),
            _pages: (pages_to_worker, pages_from_worker),
            log,
        });
        ends.push(End {
            from_worker,
            to_worker,
            shared: told,
        });
    }
    (workers, ends)
}

fn worker_config(shape: &Shape, me: NodeId, worker: usize, rng: &mut Rng) -> Config {
    let interface = |name: &str, port: usize| Interface {
        name: name.into(),
        port,
        vlan: None,
        zone: port as u8,
        mtu: 1500,
        addresses: [
            format!("10.{}.0.1/24", port + 1),
            format!("fd00:{}::1/64", port + 1),
        ]
        .iter()
        .map(|net| net.parse().expect("a network"))
        .collect(),
        ping: true,
    };
    Config {
        node: me,
        worker,
        workers: shape.options.workers,
        interfaces: vec![interface("inside", 0), interface("outside", 1)],
        routes: vec![],
        neighbours: vec![],
        cluster_mac: Some(CLUSTER),
        replicate: true,
        distribution: engine::Distribution::Filter,
        burst: 32,
        capacity: shape.capacity(),
        seed: rng.next(),
        timeouts: Timeouts {
            tcp: [15, 15, 600, 20, 15, 4, 2],
            udp_new: 4,
            udp_stream: 6,
            icmp: 4,
            other_new: 10,
            other_stream: 10,
            tombstone: TOMBSTONE_S,
        },
        refresh_s: 5,
        tcp_strict: true,
        tcp_pickup: false,
        verify_checksums: true,
        hold: Hold {
            capacity: shape.hold_capacity(),
            deadline_us: 50_000,
            at_deadline: match shape.options.release_at_deadline {
                true => AtDeadline::Release,
                false => AtDeadline::Drop,
            },
            alone: WhenAlone::Forward,
        },
        resync_rate: *rng.pick(&[500, 5_000, 100_000]),
        icmp_rate: 100,
        detect: None,
        hops: 32,
    }
}

/// Everything from inside may go out; how it is replicated follows from its port.
fn rules() -> RuleSet {
    let mut rules = Vec::new();
    let mut allow = |name: &str, services: Vec<Service>, sync: SyncPolicy| {
        let mut rule = Rule::new(name, Action::Allow);
        rule.from = [0].into_iter().collect();
        rule.to = [1].into_iter().collect();
        rule.services = services;
        rule.sync = Some(sync);
        rules.push(rule);
    };
    for (port, mode) in PORTS {
        let (name, sync) = match mode {
            SyncMode::Ack => ("ack", SyncPolicy::Ack),
            SyncMode::Async => ("async", SyncPolicy::Async),
            SyncMode::Delayed => ("delayed", SyncPolicy::Delayed(1_500)),
            SyncMode::None => ("none", SyncPolicy::None),
        };
        allow(
            name,
            vec![Service::Tcp(port, port), Service::Udp(port, port)],
            sync,
        );
    }
    let service = |text: &str| text.parse::<Service>().expect("a service");
    let pings = vec![service("icmp/echo"), service("icmpv6/echo")];
    allow("ping", pings, SyncPolicy::Ack);
    let zones = Zones::new(["inside", "outside"]).expect("two zones");
    RuleSet::new(1, zones, rules, SyncDefaults::default()).expect("a small set")
}
