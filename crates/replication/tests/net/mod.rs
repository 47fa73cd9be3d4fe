//! A virtual network of replicators, with workers that are maps. Everything that is on its way
//! waits in a queue; a seeded choice says which queue moves next. Each release is checked: all
//! current targets must have what is released in their tables.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod copies;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use copies::{Copies, Verdict as Scanned};
use membership::{Distribution, Member, MemberState, View};
use replication::{
    Connection, Event, HoldAcks, JobId, JobTarget, Options, Output, Replicator, Status, Times,
    ToSync, ToWorker, Violation,
};
use state::{
    Class, CommonEntry, CommonKey, CommonKinds, CommonValue, Dir, FlowKey, FlowRecord, Life, Mark,
    NodeId, NodeSet, PROTO_TCP, PROTO_UDP, Progress, SLOTS, Stamp, SyncMode, Verdict, slot_of,
    v4_mapped, worker_of,
};

pub(crate) type Table = HashMap<FlowKey, FlowRecord>;
/// Who knows a flow, its record, and its idle seconds.
pub(crate) type Answer = Option<(NodeId, FlowRecord, u16)>;
pub(crate) const CLUSTER: u64 = 0xc1;
/// Longer than anything here takes to settle.
pub(crate) const DIGEST_EVERY_US: u64 = 1_000_000_000;

pub(crate) fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

/// A worker: a table, and what is on its way to and from it.
#[derive(Default)]
pub(crate) struct Worker {
    pub(crate) table: Table,
    pub(crate) lsn: u64,
    pub(crate) inbox: VecDeque<ToWorker>,
    pub(crate) outbox: VecDeque<ToSync>,
    jobs: VecDeque<(JobId, JobTarget, Vec<FlowKey>)>,
    /// Changes that are not released.
    pub(crate) held: VecDeque<(u64, FlowRecord)>,
    pub(crate) released: u64,
    /// It handles nothing while it is stopped.
    pub(crate) stopped: bool,
    /// Applies that it refuses as if its table were full.
    pub(crate) refuses: bool,
    /// Every node handles packets of every flow.
    ecmp: bool,
    /// Flows of which packets came here.
    pub(crate) handled: HashSet<FlowKey>,
    /// Answers to its questions, with their tokens.
    pub(crate) answers: Vec<(u64, Answer)>,
    /// Who else handles a flow, as an owner knows it.
    handlers: HashMap<FlowKey, NodeSet>,
    pub(crate) copies: Copies,
}

pub(crate) struct Node {
    pub(crate) replicator: Replicator,
    pub(crate) incarnation: u64,
    pub(crate) workers: Vec<Worker>,
    pub(crate) view: Option<Arc<View>>,
    pub(crate) synced: Vec<(NodeId, u64)>,
    /// The join that each of them is of, and that of the view then.
    pub(crate) synced_joins: Vec<(u64, u64)>,
    pub(crate) closes: Vec<(NodeId, Connection, Violation)>,
    pub(crate) events: Vec<Event>,
    /// Kinds of common state that changed.
    pub(crate) common_changed: CommonKinds,
    /// What this run wrote of common state.
    pub(crate) common_writes: Vec<Stamp>,
    /// The last write of common state that all living members have.
    pub(crate) common_synced: Stamp,
}

impl Node {
    pub(crate) fn ecmp(&self) -> bool {
        self.workers[0].ecmp
    }
}

#[derive(Default)]
pub(crate) struct Conn {
    pub(crate) up: bool,
    pub(crate) there: BTreeMap<u16, VecDeque<Vec<u8>>>,
    pub(crate) back: BTreeMap<u16, VecDeque<Vec<u8>>>,
    /// Nothing moves while it is stalled.
    pub(crate) stalled: bool,
}

pub(crate) struct Net {
    pub(crate) nodes: Vec<Node>,
    /// By dialer and the other.
    pub(crate) conns: BTreeMap<(u8, u8), Conn>,
    /// Tables of nodes that are no more, by node and incarnation.
    pub(crate) graves: HashMap<(u8, u64), Vec<Table>>,
    pub(crate) now_us: u64,
    rng: u64,
    /// One in how many outputs the driver has no room for; 0 for none.
    pub(crate) refuse_one_in: u64,
    /// Whether each release is checked.
    pub(crate) checks_releases: bool,
    /// Owners keep the tombstones of what they delete, as a table that ages them does.
    pub(crate) keep_tombstones: bool,
    /// How many targets must have what is released: `hold_acks` of the options.
    release_needs: usize,
    shape: fn(&mut Options),
}

#[derive(Clone, Copy)]
enum Move {
    There(u8, u8, u16),
    Back(u8, u8, u16),
    ToWorker(u8, usize),
    ToSync(u8, usize),
    Scan(u8, usize),
}

impl Net {
    /// Nodes with this many workers each, of options that `shape` changes from the defaults.
    pub(crate) fn new(workers: &[usize], seed: u64, shape: fn(&mut Options)) -> Self {
        let mut options = Options::new(node(0), 1, CLUSTER, 1);
        shape(&mut options);
        let mut net = Self {
            release_needs: match options.hold_acks {
                HoldAcks::All => usize::MAX,
                HoldAcks::Count(count) => count,
            },
            nodes: Vec::new(),
            conns: BTreeMap::new(),
            graves: HashMap::new(),
            now_us: 0,
            rng: seed | 1,
            refuse_one_in: 0,
            checks_releases: true,
            keep_tombstones: false,
            shape,
        };
        for (id, &workers) in workers.iter().enumerate() {
            net.nodes.push(fresh_node(id as u8, 1, workers, shape));
        }
        net
    }

    pub(crate) fn connect_all(&mut self) {
        for a in 0..self.nodes.len() as u8 {
            for b in 0..self.nodes.len() as u8 {
                if a != b && !self.conns.get(&(a, b)).is_some_and(|conn| conn.up) {
                    self.connect(a, b);
                }
            }
        }
    }

    pub(crate) fn connect(&mut self, a: u8, b: u8) {
        self.conns.insert(
            (a, b),
            Conn {
                up: true,
                ..Conn::default()
            },
        );
        self.nodes[a as usize]
            .replicator
            .on_connected(node(b), self.now_us);
        self.drain(a);
    }

    pub(crate) fn disconnect(&mut self, a: u8, b: u8) {
        let up = self
            .conns
            .insert((a, b), Conn::default())
            .is_some_and(|conn| conn.up);
        if up {
            self.nodes[a as usize]
                .replicator
                .on_disconnected(node(b), self.now_us);
            self.drain(a);
        }
    }

    /// The node dies and comes back empty.
    pub(crate) fn restart(&mut self, id: u8) {
        // No run begins in the millisecond in which the one before it wrote.
        self.now_us += 10_000;
        let old = &self.nodes[id as usize];
        let (incarnation, workers) = (old.incarnation, old.workers.len());
        let shape = self.shape;
        let fresh = fresh_node(id, incarnation + 1, workers, shape);
        let old = std::mem::replace(&mut self.nodes[id as usize], fresh);
        let tables = old.workers.into_iter().map(|worker| worker.table).collect();
        self.graves.insert((id, incarnation), tables);
        for other in 0..self.nodes.len() as u8 {
            if other != id {
                self.conns.insert((id, other), Conn::default());
                self.disconnect(other, id);
            }
        }
    }

    pub(crate) fn set_view(&mut self, id: u8, view: &Arc<View>) {
        self.nodes[id as usize].view = Some(view.clone());
        for worker in &mut self.nodes[id as usize].workers {
            worker.copies.view(node(id), view);
        }
        self.nodes[id as usize]
            .replicator
            .on_view(view.clone(), self.now_us);
        self.drain(id);
    }

    pub(crate) fn set_views(&mut self, view: &Arc<View>) {
        for id in 0..self.nodes.len() as u8 {
            self.set_view(id, view);
        }
    }

    /// A packet of a flow: opens it, or moves its sequence space.
    pub(crate) fn packet(&mut self, id: u8, key: FlowKey) -> FlowRecord {
        let incarnation = (self.now_us << 8 | u64::from(id)) + (1 << 40);
        let worker = self.worker(id, &key);
        let record = match worker
            .table
            .get(&key)
            .filter(|record| record.life == Life::Alive)
        {
            Some(record) => {
                let mut record = *record;
                record.progress = record.progress.union(Progress::seen(Dir::BToA));
                record.mark.version += 1;
                record.mark.value += 1;
                record
            }
            None => {
                let before = worker.table.get(&key).map_or(0, |dead| dead.incarnation);
                flow(key, incarnation.max(before + 1))
            }
        };
        self.worker(id, &key).copies.handled(key);
        self.change(id, record);
        record
    }

    /// A packet of a flow that nobody is told of yet.
    pub(crate) fn packet_untold(&mut self, id: u8, key: FlowKey) {
        let incarnation = (self.now_us << 8 | u64::from(id)) + (1 << 40);
        let worker = self.worker(id, &key);
        worker.table.insert(key, flow(key, incarnation));
        worker.copies.handled(key);
    }

    /// A packet of a flow that is unknown to a node.
    pub(crate) fn ask(&mut self, id: u8, token: u64, key: FlowKey) {
        let worker = self.worker(id, &key);
        worker.outbox.push_back(ToSync::Ask { token, key });
    }

    /// The flow is deleted.
    pub(crate) fn delete(&mut self, id: u8, key: FlowKey) {
        let keep = self.keep_tombstones;
        let worker = self.worker(id, &key);
        let Some(mut record) = worker.table.get(&key).copied() else {
            return;
        };
        record.life = Life::Dead;
        self.change(id, record);
        if !keep {
            self.lose(id, key);
        }
    }

    /// The flow is in the node's table no longer, without a word.
    pub(crate) fn lose(&mut self, id: u8, key: FlowKey) {
        let worker = self.worker(id, &key);
        worker.table.remove(&key);
        worker.copies.removed(&key);
    }

    /// Time passes until the next comparison has begun, and everything that follows from it.
    pub(crate) fn round(&mut self) {
        self.now_us += DIGEST_EVERY_US;
        self.tick();
        self.settle();
    }

    fn change(&mut self, id: u8, record: FlowRecord) {
        let worker = self.worker(id, &record.key);
        worker.handled.insert(record.key);
        worker.table.insert(record.key, record);
        worker.report(record, true);
    }

    pub(crate) fn worker(&mut self, id: u8, key: &FlowKey) -> &mut Worker {
        let workers = &mut self.nodes[id as usize].workers;
        let len = workers.len();
        &mut workers[worker_of(slot_of(key), len)]
    }

    pub(crate) fn tick(&mut self) {
        self.now_us += 1000;
        for id in 0..self.nodes.len() as u8 {
            self.nodes[id as usize].replicator.tick(self.now_us);
            self.drain(id);
        }
    }

    /// Moves one thing that waits; `false` when nothing does.
    pub(crate) fn step(&mut self) -> bool {
        let moves = self.moves();
        if moves.is_empty() {
            return false;
        }
        let chosen = moves[(self.random() % moves.len() as u64) as usize];
        self.now_us += 1;
        self.make(chosen);
        true
    }

    /// Moves everything until nothing waits.
    pub(crate) fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if self.step() {
                continue;
            }
            // What is refused comes again at a tick, where it may be refused again.
            let ticks = if self.refuse_one_in == 0 { 1 } else { 64 };
            for _ in 0..ticks {
                self.tick();
            }
            if self.moves().is_empty() {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    /// Moves everything but one stream from dialers until nothing else waits.
    pub(crate) fn settle_but(&mut self, still: u16) {
        loop {
            let mut moves = self.moves();
            moves.retain(|chosen| !matches!(chosen, Move::There(_, _, stream) if *stream == still));
            let Some(&chosen) = moves.first() else { return };
            self.make(chosen);
        }
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (&(a, b), conn) in self
            .conns
            .iter()
            .filter(|(_, conn)| conn.up && !conn.stalled)
        {
            let waiting = |queue: &VecDeque<Vec<u8>>| !queue.is_empty();
            let there = conn.there.iter().filter(|(_, queue)| waiting(queue));
            moves.extend(there.map(|(stream, _)| Move::There(a, b, *stream)));
            let back = conn.back.iter().filter(|(_, queue)| waiting(queue));
            moves.extend(back.map(|(stream, _)| Move::Back(a, b, *stream)));
        }
        for (id, node) in self.nodes.iter().enumerate() {
            for (w, worker) in node.workers.iter().enumerate() {
                if !worker.inbox.is_empty() && !worker.stopped {
                    moves.push(Move::ToWorker(id as u8, w));
                }
                if !worker.outbox.is_empty() {
                    moves.push(Move::ToSync(id as u8, w));
                }
                if !worker.jobs.is_empty() && !worker.stopped {
                    moves.push(Move::Scan(id as u8, w));
                }
            }
        }
        moves
    }

    fn make(&mut self, chosen: Move) {
        let now = self.now_us;
        match chosen {
            Move::There(a, b, stream) => {
                let conn = self.conns.get_mut(&(a, b)).unwrap();
                let frame = conn.there.get_mut(&stream).unwrap().pop_front().unwrap();
                self.nodes[b as usize]
                    .replicator
                    .on_frame(node(a), stream, &frame, now);
                self.drain(b);
            }
            Move::Back(a, b, stream) => {
                let conn = self.conns.get_mut(&(a, b)).unwrap();
                let frame = conn.back.get_mut(&stream).unwrap().pop_front().unwrap();
                self.nodes[a as usize]
                    .replicator
                    .on_answer(node(b), stream, &frame, now);
                self.drain(a);
            }
            Move::ToWorker(id, w) => {
                let Node { workers, view, .. } = &mut self.nodes[id as usize];
                let count = workers.len();
                workers[w].handle(node(id), (w, count), view.as_deref());
            }
            Move::ToSync(id, w) => {
                // A burst at a time, so that batches have something to coalesce.
                for _ in 0..1 + self.random() % 4 {
                    let node = &mut self.nodes[id as usize];
                    let Some(message) = node.workers[w].outbox.pop_front() else {
                        break;
                    };
                    node.replicator.on_worker(w, message, now);
                }
                self.drain(id);
            }
            Move::Scan(id, w) => self.nodes[id as usize].workers[w].scan(),
        }
    }

    /// Does what a node's replicator says.
    pub(crate) fn drain(&mut self, id: u8) {
        while let Some(output) = self.nodes[id as usize].replicator.poll() {
            let may_refuse = matches!(
                output,
                Output::Send { .. } | Output::Reply { .. } | Output::ToWorker { .. }
            );
            if may_refuse
                && self.refuse_one_in > 0
                && self.random().is_multiple_of(self.refuse_one_in)
            {
                self.nodes[id as usize].replicator.refused(output);
                continue;
            }
            match output {
                Output::Send {
                    peer,
                    stream,
                    frame,
                } => {
                    if let Some(conn) = self.conns.get_mut(&(id, peer.raw()))
                        && conn.up
                    {
                        conn.there.entry(stream).or_default().push_back(frame);
                    }
                }
                Output::Reply {
                    peer,
                    stream,
                    frame,
                } => {
                    if let Some(conn) = self.conns.get_mut(&(peer.raw(), id))
                        && conn.up
                    {
                        conn.back.entry(stream).or_default().push_back(frame);
                    }
                }
                Output::ToWorker { worker, message } => {
                    self.nodes[id as usize].workers[worker]
                        .inbox
                        .push_back(message);
                }
                Output::Release { worker, lsn } => self.release(id, worker, lsn),
                Output::Synced {
                    peer,
                    incarnation,
                    join,
                } => {
                    let node = &mut self.nodes[id as usize];
                    let now = node.view.as_ref().map_or(0, |view| view.join);
                    node.synced.push((peer, incarnation));
                    node.synced_joins.push((join, now));
                }
                Output::Close {
                    peer,
                    connection,
                    reason,
                } => {
                    self.nodes[id as usize]
                        .closes
                        .push((peer, connection, reason));
                    match connection {
                        Connection::Outgoing => self.disconnect(id, peer.raw()),
                        Connection::Incoming => self.disconnect(peer.raw(), id),
                    }
                }
                Output::CommonChanged { kinds } => {
                    let node = &mut self.nodes[id as usize];
                    node.common_changed = node.common_changed.union(kinds);
                }
                Output::CommonSynced { stamp } => self.common_synced(id, stamp),
                Output::Detected { .. } => unreachable!("these workers detect nothing"),
                Output::Event(event) => self.nodes[id as usize].events.push(event),
            }
        }
    }

    fn release(&mut self, id: u8, w: usize, lsn: u64) {
        let node_view = self.nodes[id as usize]
            .view
            .clone()
            .expect("nothing is released without");
        let worker = &mut self.nodes[id as usize].workers[w];
        assert!(lsn > worker.released, "releases only grow");
        assert!(lsn <= worker.lsn, "only what was reported is released");
        worker.released = lsn;
        let mut records = Vec::new();
        while worker.held.front().is_some_and(|(held, _)| *held <= lsn) {
            records.push(worker.held.pop_front().unwrap().1);
        }
        let ecmp = self.nodes[id as usize].workers[w].ecmp;
        // A joining node is waited for from when changes flow to it.
        let status = self.status(id);
        let attached = |it: NodeId| status.targets.iter().any(|t| t.peer == it && t.attached);
        let joining = |it: NodeId| {
            node_view
                .member(it)
                .is_some_and(|m| m.state == MemberState::Joining)
        };
        for record in records.iter().filter(|_| self.checks_releases) {
            let targets = match ecmp {
                true => node_view.recipients(node(id), slot_of(&record.key)),
                false => node_view.targets[id as usize],
            };
            let waited_for = |it: &NodeId| attached(*it) || !joining(*it);
            let targets: NodeSet = targets.iter().filter(waited_for).collect();
            let has = |target: &NodeId| {
                let incarnation = node_view.member(*target).unwrap().incarnation;
                self.has(target.raw(), incarnation, record)
            };
            assert!(
                targets.iter().filter(has).count() >= targets.len().min(self.release_needs),
                "released {record:?} of node {id}, which not enough of {targets:?} have"
            );
        }
    }

    /// Whether a run of a node has at least this of a flow.
    pub(crate) fn has(&self, id: u8, incarnation: u64, record: &FlowRecord) -> bool {
        let live = &self.nodes[id as usize];
        let copy = if live.incarnation == incarnation {
            live.workers
                .iter()
                .find_map(|worker| worker.table.get(&record.key))
        } else {
            let grave = self.graves.get(&(id, incarnation));
            grave.and_then(|tables| tables.iter().find_map(|table| table.get(&record.key)))
        };
        copy.is_some_and(|copy| !copy.clone().merge(record))
    }

    /// All targets have what the node owns.
    pub(crate) fn assert_redundant(&self, id: u8) {
        let owner = &self.nodes[id as usize];
        let view = owner.view.as_ref().unwrap();
        for target in view.targets[id as usize].iter() {
            let incarnation = view.member(target).unwrap().incarnation;
            for record in owner
                .workers
                .iter()
                .flat_map(|worker| worker.table.values())
            {
                if view.owns(node(id), slot_of(&record.key)) {
                    assert!(
                        self.has(target.raw(), incarnation, record),
                        "node {target} lacks {record:?} of node {id}"
                    );
                }
            }
        }
    }

    /// Tells again of every flow of which packets came to a node.
    pub(crate) fn refresh(&mut self, id: u8) {
        for worker in &mut self.nodes[id as usize].workers {
            let mut handled: Vec<FlowKey> = worker.handled.iter().copied().collect();
            handled.sort_unstable();
            for key in handled {
                if let Some(record) = worker.table.get(&key).copied() {
                    worker.report(record, false);
                }
            }
        }
    }

    /// Whoever has handled a flow, its owner and the owner's targets have the same of it.
    pub(crate) fn assert_handlers_agree(&self) {
        for (id, here) in self.nodes.iter().enumerate() {
            let view = here.view.as_ref().unwrap();
            for worker in &here.workers {
                for key in &worker.handled {
                    let Some(record) = worker.table.get(key) else {
                        continue;
                    };
                    let slot = slot_of(key);
                    for other in view.recipients(node(id as u8), slot).iter() {
                        let run = view.member(other).unwrap().incarnation;
                        assert!(
                            self.has(other.raw(), run, record),
                            "node {other} lacks {record:?}, which node {id} handles"
                        );
                    }
                    let owner = view.owner(slot).unwrap();
                    let owner = &self.nodes[owner.index()].workers;
                    let owned = owner.iter().find_map(|worker| worker.table.get(key));
                    assert_eq!(
                        owned,
                        Some(record),
                        "node {id} handles it, and its owner has another state of it"
                    );
                }
            }
        }
    }

    /// The clocks of a node: Unix time differs between nodes by seconds.
    pub(crate) fn times(&self, id: u8) -> Times {
        Times {
            now_us: self.now_us,
            unix_ms: 1_700_000_000_000 + self.now_us / 1_000 + u64::from(id) * 5_000,
        }
    }

    pub(crate) fn put_common(
        &mut self,
        id: u8,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    ) -> Stamp {
        let times = self.times(id);
        let node = &mut self.nodes[id as usize];
        let put = node.replicator.put_common(key, value, life_ms, times);
        let stamp = put.unwrap();
        node.common_writes.push(stamp);
        self.drain(id);
        stamp
    }

    pub(crate) fn delete_common(&mut self, id: u8, key: &CommonKey) -> Option<Stamp> {
        let times = self.times(id);
        let stamp = self.nodes[id as usize].replicator.delete_common(key, times);
        self.drain(id);
        stamp
    }

    /// A node's live common state, without what is left of the entries' lives.
    pub(crate) fn common(&self, id: u8) -> Vec<CommonEntry> {
        let map = self.nodes[id as usize].replicator.common();
        let live = map.entries(None, 0).filter(|entry| entry.value.is_some());
        live.map(|entry| CommonEntry {
            left_ms: entry.left_ms.map(|_| 0),
            ..entry
        })
        .collect()
    }

    /// All living members have at least what was written at `id` up to the stamp.
    fn common_synced(&mut self, id: u8, stamp: Stamp) {
        let node = &mut self.nodes[id as usize];
        assert!(stamp > node.common_synced, "it only grows");
        assert!(stamp.node().raw() == id, "its own writes are meant");
        node.common_synced = stamp;
        let node = &self.nodes[id as usize];
        let Some(view) = node.view.clone() else {
            return;
        };
        for member in view.members.iter().filter(|member| member.id.raw() != id) {
            let other = &self.nodes[member.id.index()];
            if member.state == MemberState::Dead || other.incarnation != member.incarnation {
                continue;
            }
            let written = node.replicator.common().entries(None, 0);
            for mine in written.filter(|entry| node.common_writes.contains(&entry.stamp)) {
                let theirs = other.replicator.common().stamp(&mine.key);
                assert!(
                    mine.stamp > stamp || mine.value.is_none() || theirs >= Some(mine.stamp),
                    "{mine:?} of node {id} is said to be everywhere; {} has {theirs:?}",
                    member.id
                );
            }
        }
    }

    pub(crate) fn status(&self, id: u8) -> Status {
        self.nodes[id as usize].replicator.status(self.now_us)
    }

    pub(crate) fn flows(&self, id: u8) -> usize {
        self.nodes[id as usize]
            .workers
            .iter()
            .map(|worker| worker.table.len())
            .sum()
    }

    pub(crate) fn held(&self, id: u8) -> usize {
        self.nodes[id as usize]
            .workers
            .iter()
            .map(|worker| worker.held.len())
            .sum()
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

impl Worker {
    fn report(&mut self, record: FlowRecord, hold: bool) {
        self.lsn += 1;
        self.copies.said(&record);
        self.outbox.push_back(ToSync::Change {
            lsn: self.lsn,
            record,
            idle_s: 0,
            handlers: self.handlers.get(&record.key).copied().unwrap_or_default(),
        });
        if hold {
            self.held.push_back((self.lsn, record));
        }
    }

    fn handle(&mut self, me: NodeId, (worker, workers): (usize, usize), view: Option<&View>) {
        match self.inbox.pop_front().expect("there is a message") {
            ToWorker::Apply {
                token,
                peer,
                mut records,
            } => {
                let mut refused = 0;
                for (record, _) in records.drain(..) {
                    if self.refuses {
                        refused += 1;
                        continue;
                    }
                    let slot = slot_of(&record.key);
                    let mut changed = false;
                    let mine = self.table.entry(record.key).or_insert_with(|| {
                        changed = true;
                        record
                    });
                    changed |= mine.merge(&record);
                    let mine = *mine;
                    let owned = view.is_some_and(|view| view.owns(me, slot));
                    (self.copies).merged(owned, peer, (&mine, &record), changed);
                    if self.ecmp && view.is_some_and(|view| view.owner(slot) != Some(peer)) {
                        self.handlers.entry(record.key).or_default().insert(peer);
                        // Who handles a flow and knows less of it than its owner is told.
                        changed |= mine != record;
                    }
                    if changed && owned {
                        self.report(mine, false);
                    }
                }
                self.outbox.push_back(ToSync::Applied {
                    token,
                    records,
                    refused,
                });
            }
            ToWorker::Job { job, target, slots } => {
                let mut keys: Vec<FlowKey> = self
                    .table
                    .keys()
                    .filter(|key| slots.contains(slot_of(key)))
                    .filter(|key| {
                        let owned = view.is_some_and(|view| view.owns(me, slot_of(key)));
                        owned || !self.ecmp || self.handled.contains(*key)
                    })
                    .copied()
                    .collect();
                keys.sort_unstable();
                self.jobs.push_back((job, target, keys));
            }
            ToWorker::Lookup { token, peer, key } => {
                self.handlers.entry(key).or_default().insert(peer);
                let record = self.table.get(&key).map(|record| (*record, 5));
                self.outbox.push_back(ToSync::Found { token, record });
            }
            ToWorker::Answer { token, found } => self.answers.push((token, found)),
            ToWorker::Cancel { job } => self.jobs.retain(|(id, _, _)| *id != job),
            ToWorker::Digest { round, .. } => {
                let digests = self.copies.digests(me, worker, workers);
                let lsn = self.lsn;
                let answer = ToSync::Digests {
                    round,
                    lsn,
                    digests,
                };
                self.outbox.push_back(answer);
            }
            ToWorker::Compare { token, mut digests } => {
                self.copies.compare(me, &mut digests);
                self.outbox.push_back(ToSync::Compared { token, digests });
            }
            ToWorker::Listen { peer } => self.copies.listen(peer),
        }
    }

    /// Scans one flow further.
    fn scan(&mut self) {
        let (job, target, keys) = self.jobs.front_mut().expect("there is a job");
        let (job, target) = (*job, *target);
        let Some(key) = keys.pop() else {
            self.jobs.pop_front();
            self.outbox
                .push_back(ToSync::JobDone { job, lsn: self.lsn });
            return;
        };
        let Some(record) = self.table.get(&key).copied() else {
            return;
        };
        match self.copies.decide(target, &record) {
            Scanned::Skip => return,
            Scanned::Send => {}
            Scanned::Remove => {
                self.table.remove(&key);
                return self.copies.removed(&key);
            }
        }
        match target {
            JobTarget::Group => self.report(record, false),
            JobTarget::Peer(_)
            | JobTarget::Owner(_)
            | JobTarget::Heir(_)
            | JobTarget::Untold(_) => {
                self.outbox.push_back(ToSync::Snapshot {
                    job,
                    record,
                    idle_s: 3,
                });
            }
        }
    }
}

fn fresh_node(id: u8, incarnation: u64, workers: usize, shape: fn(&mut Options)) -> Node {
    let mut options = Options::new(node(id), incarnation, CLUSTER, workers);
    options.digest_every_us = DIGEST_EVERY_US;
    shape(&mut options);
    let ecmp = options.distribution == Distribution::Ecmp;
    Node {
        replicator: Replicator::new(options).unwrap(),
        incarnation,
        workers: (0..workers)
            .map(|_| Worker {
                ecmp,
                ..Worker::default()
            })
            .collect(),
        view: None,
        synced: Vec::new(),
        synced_joins: Vec::new(),
        closes: Vec::new(),
        events: Vec::new(),
        common_changed: CommonKinds::NONE,
        common_writes: Vec::new(),
        common_synced: Stamp::NEVER,
    }
}

/// A replicator that has forgotten everything and says that it is the run that it was.
pub(crate) fn forgetful(id: u8, incarnation: u64) -> Replicator {
    fresh_node(id, incarnation, 1, |_| ()).replicator
}

/// A key of a flow, different for each number; the slots spread.
pub(crate) fn key(n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    let proto = if n.is_multiple_of(2) {
        PROTO_TCP
    } else {
        PROTO_UDP
    };
    let source = v4_mapped([10, b ^ a, c, d]);
    let port = n.wrapping_mul(0x9e37_79b9) >> 16;
    FlowKey::new(source, v4_mapped([192, 0, 2, 1]), port as u16, 80, proto).0
}

/// A flow that has just been opened.
pub(crate) fn flow(key: FlowKey, incarnation: u64) -> FlowRecord {
    FlowRecord {
        key,
        incarnation,
        class: Class {
            origin: Dir::AToB,
            sync: SyncMode::Ack,
            zone_from: 1,
            zone_to: 2,
        },
        life: Life::Alive,
        progress: Progress::seen(Dir::AToB),
        verdict: Verdict {
            generation: 1,
            rule: 7,
        },
        mark: Mark::default(),
        tcp: Default::default(),
        nat: None,
    }
}

/// A view of active members (`joining` apart), by the owner of each slot and the targets by node.
pub(crate) fn view(
    epoch: u64,
    incarnations: &[u64],
    joining: &[u8],
    owner: impl Fn(usize) -> Option<u8>,
    targets: &[&[u8]],
) -> Arc<View> {
    let members = incarnations.iter().enumerate().map(|(id, &incarnation)| {
        let id = id as u8;
        let state = match joining.contains(&id) {
            true => MemberState::Joining,
            false => MemberState::Active,
        };
        Member {
            id: node(id),
            state,
            incarnation,
        }
    });
    let set = |ids: &&[u8]| ids.iter().map(|id| node(*id)).collect::<NodeSet>();
    let mut sets: Vec<NodeSet> = targets.iter().map(set).collect();
    sets.resize(32, NodeSet::EMPTY);
    let mut owners = Box::new([None; SLOTS]);
    for (slot, entry) in owners.iter_mut().enumerate() {
        *entry = owner(slot).map(node);
    }
    Arc::new(View {
        epoch,
        join: 1,
        reunions: 0,
        digest: epoch,
        members: members.collect(),
        owner: owners,
        groups: sets.iter().map(|set| set.iter().collect()).collect(),
        targets: sets,
    })
}
