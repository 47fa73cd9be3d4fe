//! One target of this node's changes: how far each stream to it is, and the snapshot that it
//! still needs.

use std::collections::VecDeque;

use state::{FlowRecord, Life, NodeId, SLOTS, Slot, SlotSet, slot_of};

use crate::log::Log;
use crate::message::{Batch, End, SNAPSHOTS, Start, WORKER_BITS};
use crate::options::{HEADER_BYTES_MAX, Options};
use crate::replicator::Shared;
use crate::rounds::Compared;
use crate::status::Event;
use crate::{JobId, JobTarget, ToWorker};

/// Frames that may wait on one stream before no more are made for it.
pub(crate) const FRAMES_QUEUED_MAX: usize = 2;

/// What is in flight on one stream of a connection. Targets come and go while a connection stays,
/// so it belongs to the connection.
#[derive(Default)]
pub(crate) struct Flight {
    /// Position of its last record, and how many records, of each batch.
    batches: VecDeque<((u64, u64), usize)>,
    records: usize,
}

impl Flight {
    pub(crate) fn push(&mut self, position: (u64, u64), records: usize) {
        self.batches.push_back((position, records));
        self.records += records;
    }

    pub(crate) fn acked(&mut self, position: (u64, u64)) {
        while let Some(&(front, records)) = self.batches.front()
            && front <= position
        {
            self.batches.pop_front();
            self.records -= records;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Our connection to a peer, as far as its streams go.
pub(crate) struct Wire {
    pub(crate) peer: NodeId,
    pub(crate) session: u32,
    /// Records that the peer takes in flight on one stream.
    pub(crate) window: usize,
    /// By worker.
    pub(crate) deltas: Vec<Flight>,
    /// By worker.
    pub(crate) snapshots: Vec<Flight>,
    /// By worker.
    pub(crate) errands: Vec<Flight>,
}

/// What makes batches into frames: a batch whose memory is used again and again.
pub(crate) struct Packer {
    batch: Batch,
    records_max: usize,
    bytes_max: usize,
    eager: usize,
}

impl Packer {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            batch: Batch {
                incarnation: options.incarnation,
                ..Batch::default()
            },
            records_max: options.batch_records_max,
            bytes_max: options.batch_bytes_max,
            eager: options.eager_batches,
        }
    }

    pub(crate) fn epoch(&mut self, epoch: u64) {
        self.batch.epoch = epoch;
    }

    /// How many of `available` records may leave now. A batch leaves at once while little is in
    /// flight, or when `flush` says that no more will come; else it waits to be full (Nagle's
    /// algorithm, RFC 896, clocked by acknowledgements alone).
    pub(crate) fn allowance(
        &self,
        available: usize,
        flight: &Flight,
        window: usize,
        flush: bool,
    ) -> usize {
        let wanted = available.min(self.records_max);
        let room = window.saturating_sub(flight.records);
        let small = wanted < self.records_max && flight.batches.len() >= self.eager && !flush;
        // A nearly full window would be cut into ever smaller batches.
        let cut = room < wanted && !flight.batches.is_empty();
        if small || cut { 0 } else { wanted.min(room) }
    }

    /// Sends as many of the numbered records as a frame takes, at most `count`; returns how many, and
    /// the number of the last.
    pub(crate) fn send<'a>(
        &mut self,
        wire: &Wire,
        stream: u16,
        first: u64,
        count: usize,
        records: impl Iterator<Item = (u64, &'a FlowRecord, u16)>,
        shared: &mut Shared,
    ) -> (usize, u64) {
        self.batch.flows.clear();
        let mut bytes = HEADER_BYTES_MAX;
        let mut packed = 0;
        let mut last = first - 1;
        for (number, record, idle_s) in records.take(count) {
            bytes += record_bytes(record);
            if bytes > self.bytes_max {
                break;
            }
            self.batch.flows.push(record, idle_s);
            packed += 1;
            last = number;
        }
        self.batch.session = wire.session;
        self.batch.worker = stream & WORKER_BITS;
        self.batch.first = first;
        self.batch.last = last;
        shared.send(wire.peer, stream, &self.batch);
        (packed, last)
    }
}

/// The most bytes that a record takes in a frame, by its parts in `state::FlowBatch`.
fn record_bytes(record: &FlowRecord) -> usize {
    const EXTRA: usize = 48;
    let tcp = record.key.proto() == state::PROTO_TCP;
    let plain = match (record.key.is_v4(), tcp) {
        (true, false) => 36,
        (true, true) => 66,
        (false, false) => 60,
        (false, true) => 90,
    };
    let extra = record.nat.is_some() || record.mark != state::Mark::default();
    plain + usize::from(extra) * EXTRA
}

const _: () = assert!(90 + 48 <= crate::options::RECORD_BYTES_MAX);

/// A node that receives this node's changes.
pub(crate) struct Target {
    pub(crate) incarnation: u64,
    /// It has yet to ask for its snapshot.
    pub(crate) joining: bool,
    /// Changes flow on the connection to it.
    pub(crate) attached: bool,
    /// By worker.
    pub(crate) deltas: Vec<DeltaLane>,
    /// What it lacks besides the log; `None` when it lacks nothing.
    pub(crate) snapshot: Option<Snapshot>,
    /// The end of a snapshot was sent to it, so that it may take itself for complete.
    pub(crate) snapshot_ended: bool,
    /// The round of comparison in which it last said that its tables had no room: only a later one can
    /// tell that it has everything after all.
    pub(crate) refused_in: Option<u64>,
}

/// How far the changes of one worker are.
pub(crate) struct DeltaLane {
    pub(crate) run: u64,
    /// The last number that was sent.
    pub(crate) sent: u64,
    /// The last number that the peer has acknowledged.
    acked: u64,
    /// No change after `sent` up to here is for the peer.
    clear: u64,
    /// What was for the peer up to here it had acknowledged before more was sent.
    passed: u64,
    /// While a part of the log was given up: the acknowledgement that counts.
    pub(crate) floor: Option<u64>,
    /// Changes that the peer's tables had no room for, as far as it said.
    refused: u64,
    /// The same of snapshots' records.
    snapshot_refused: u64,
    pub(crate) compared: Compared,
    /// Deletions of the part that was given up: a scan of the table would not find them.
    deletions: Vec<(FlowRecord, u16)>,
}

impl DeltaLane {
    pub(crate) fn new(run: u64, acked: u64, floor: Option<u64>) -> Self {
        Self {
            run,
            sent: acked,
            acked,
            clear: acked,
            passed: acked,
            floor,
            refused: 0,
            snapshot_refused: 0,
            compared: Compared::default(),
            deletions: Vec::new(),
        }
    }

    /// The acknowledgement that counts for releases.
    pub(crate) fn counted(&self) -> u64 {
        self.floor.unwrap_or(self.done())
    }

    /// Whatever is for the peer up to here it has acknowledged.
    pub(crate) fn done(&self) -> u64 {
        let acked = match self.acked == self.sent {
            true => self.clear.max(self.acked),
            false => self.acked,
        };
        acked.max(self.passed)
    }

    /// The peer has acknowledged a number of the present run.
    pub(crate) fn acknowledged(&mut self, last: u64) {
        self.acked = self.acked.max(last);
    }

    /// Passes over what is not for the peer. Numbers that the log has no more are done with.
    pub(crate) fn skip(&mut self, log: &Log, peer: NodeId) {
        let done = self.passed.max(log.first() - 1);
        self.clear = self.clear.max(self.sent).max(done);
        let others = log.numbered(self.clear + 1);
        for (lsn, _) in others.take_while(|(_, entry)| !entry.is_for(peer)) {
            self.clear = lsn;
        }
    }

    /// What was in flight is lost: goes on after what is acknowledged.
    pub(crate) fn resume(&mut self) {
        if self.sent != self.acked {
            self.sent = self.acked;
            self.clear = self.acked;
        }
    }

    /// Whatever is for the peer up to here was sent.
    pub(crate) fn reached(&self) -> u64 {
        self.clear.max(self.sent)
    }

    /// The last number that the peer has acknowledged, done with or not: where its stream goes on.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }
}

/// A snapshot on its way to a target, in chunks of slots: while one is on its way the next is not
/// asked for, so that what waits for a slow peer is bounded.
pub(crate) struct Snapshot {
    /// It has all that this node owns, not only what the target missed.
    pub(crate) whole: bool,
    /// It may begin.
    pub(crate) allowed: bool,
    /// The number of the request that it answers; 0 for none.
    request: u64,
    /// Slots of which no scan has begun.
    pub(crate) remaining: SlotSet,
    chunk: Option<Chunk>,
    pace: usize,
    /// The run of its streams; 0 before it has begun on this connection.
    run: u64,
    ending: bool,
    lanes: Vec<SnapshotLane>,
    /// How far it is, and since when.
    progress: (Progress, u64),
}

/// What changes whenever a snapshot moves on.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    run: u64,
    slots: usize,
    /// Records that workers found, and their scans that have ended, of the present chunk.
    found: (usize, usize),
    sent: u64,
    /// Batches in flight.
    flying: usize,
    /// Streams that the peer has all of.
    complete: usize,
}

/// A snapshot that has not moved for so long, with nothing in flight, starts over with what is not acknowledged: a worker
/// may have had no room for a scan. Far above what a pause or a slow scan takes.
const STANDSTILL_US: u64 = 30_000_000;

#[derive(Default)]
struct SnapshotLane {
    queue: VecDeque<(FlowRecord, u16)>,
    deletions_sent: usize,
    sent: u64,
    complete: bool,
}

/// A scan of some slots that all workers are asked for.
pub(crate) struct Chunk {
    pub(crate) job: JobId,
    pub(crate) slots: SlotSet,
    pub(crate) slots_len: usize,
    /// By worker: its scan has ended.
    pub(crate) done: Vec<bool>,
    pub(crate) records: usize,
}

/// How many slots the first chunk has, before it is known how full they are.
pub(crate) const FIRST_CHUNK_SLOTS: usize = 64;

impl Chunk {
    /// Takes up to `slots_max` slots out of `remaining` and asks all workers to scan them.
    pub(crate) fn ask(
        target: JobTarget,
        remaining: &mut SlotSet,
        slots_max: usize,
        workers: usize,
        shared: &mut Shared,
    ) -> Self {
        let slots: SlotSet = remaining.iter().take(slots_max).collect();
        for slot in slots.iter() {
            remaining.remove(slot);
        }
        let job = shared.job();
        for worker in 0..workers {
            let slots = Box::new(slots.clone());
            shared
                .outbox
                .tell_worker(worker, ToWorker::Job { job, target, slots });
        }
        Self {
            job,
            slots_len: slots.len(),
            slots,
            done: vec![false; workers],
            records: 0,
        }
    }

    pub(crate) fn cancel(&self, shared: &mut Shared) {
        for worker in 0..self.done.len() {
            shared
                .outbox
                .tell_worker(worker, ToWorker::Cancel { job: self.job });
        }
    }

    pub(crate) fn scanned(&self) -> bool {
        self.done.iter().all(|done| *done)
    }

    /// How many slots the next chunk should have to be of about `goal` records.
    pub(crate) fn next_slots(&self, goal: usize) -> usize {
        (self.slots_len * goal / self.records.max(1)).clamp(1, (self.slots_len * 16).min(SLOTS))
    }
}

impl Snapshot {
    pub(crate) fn new(whole: bool, allowed: bool, slots: SlotSet, workers: usize) -> Self {
        Self {
            whole,
            allowed,
            request: 0,
            remaining: slots,
            chunk: None,
            pace: FIRST_CHUNK_SLOTS,
            run: 0,
            ending: false,
            lanes: (0..workers).map(|_| SnapshotLane::default()).collect(),
            progress: (Progress::default(), 0),
        }
    }

    /// Starts over if nothing has moved for too long.
    fn watch(&mut self, wire: &Wire, shared: &mut Shared) {
        let chunk = self.chunk.as_ref();
        let scans = |chunk: &Chunk| chunk.done.iter().filter(|done| **done).count();
        let now = Progress {
            run: self.run,
            slots: self.slots(),
            found: chunk.map_or((0, 0), |chunk| (chunk.records, scans(chunk))),
            sent: self.lanes.iter().map(|lane| lane.sent).sum(),
            flying: wire.snapshots.iter().map(|it| it.batches.len()).sum(),
            complete: self.lanes.iter().filter(|lane| lane.complete).count(),
        };
        if self.progress.0 != now {
            self.progress = (now, shared.now_us);
        } else if now.flying == 0 && shared.now_us >= self.progress.1 + STANDSTILL_US {
            // What is in flight is left to the transport: sent again it would fill the peer's window twice.
            shared.counters.snapshots_restarted += 1;
            self.rewind(shared);
        }
    }

    /// Adds slots that this node has come to own, unless its end was sent: then the target asks
    /// again, which brings everything.
    pub(crate) fn extend(&mut self, slots: &SlotSet) {
        if self.whole && !self.ending {
            self.remaining.extend(slots);
        }
    }

    /// Slots that are not acknowledged yet.
    pub(crate) fn slots(&self) -> usize {
        self.remaining.len() + self.chunk.as_ref().map_or(0, |chunk| chunk.slots_len)
    }

    /// Starts over with what is not acknowledged.
    pub(crate) fn rewind(&mut self, shared: &mut Shared) {
        if let Some(chunk) = self.chunk.take() {
            chunk.cancel(shared);
            self.remaining.extend(&chunk.slots);
        }
        self.run = 0;
        self.ending = false;
        self.lanes.fill_with(SnapshotLane::default);
    }

    fn drained(&self, deltas: &[DeltaLane], wire: &Wire) -> bool {
        self.lanes
            .iter()
            .zip(deltas)
            .zip(&wire.snapshots)
            .all(|((lane, delta), flight)| {
                lane.queue.is_empty()
                    && lane.deletions_sent == delta.deletions.len()
                    && flight.batches.is_empty()
            })
    }
}

impl Target {
    pub(crate) fn lagging(&self) -> bool {
        self.deltas.iter().any(|lane| lane.floor.is_some())
    }

    /// How many records its tables had no room for, as far as it said.
    pub(crate) fn records_refused(&self) -> u64 {
        self.deltas
            .iter()
            .map(|lane| lane.refused + lane.snapshot_refused)
            .sum()
    }

    /// It says how many records of a stream its tables had no room for so far; whether that is
    /// more than before.
    pub(crate) fn note_refused(&mut self, worker: usize, of_snapshot: bool, refused: u64) -> bool {
        let known = match of_snapshot {
            true => &mut self.deltas[worker].snapshot_refused,
            false => &mut self.deltas[worker].refused,
        };
        let more = refused > *known;
        *known = refused.max(*known);
        more
    }

    /// Of these slots, those with changes that the target has not acknowledged.
    pub(crate) fn unacknowledged(&self, peer: NodeId, logs: &[Log], slots: &SlotSet) -> SlotSet {
        let entries = logs.iter().zip(&self.deltas);
        let entries = entries.flat_map(|(log, lane)| log.numbered(lane.done() + 1));
        let its = entries.filter(|(_, entry)| entry.is_for(peer));
        let changed = its.map(|(_, entry)| slot_of(&entry.record.key));
        changed.filter(|slot| slots.contains(*slot)).collect()
    }

    /// Whether releases wait for it. A joining node that has no connection is not waited for: it owns
    /// nothing before it has a snapshot of every member, and a snapshot that begins after this has
    /// what was released before. Once the end of one was sent, it may become active without another.
    pub(crate) fn counts(&self) -> bool {
        !self.joining || self.attached || self.snapshot_ended
    }

    /// The connection to it is gone.
    pub(crate) fn detach(&mut self, shared: &mut Shared) {
        self.attached = false;
        for lane in &mut self.deltas {
            lane.resume();
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.rewind(shared);
        }
    }

    /// Gives up what the log has for it of one worker: a snapshot is to bring that instead.
    /// Returns how many changes that are.
    pub(crate) fn give_up(
        &mut self,
        worker: usize,
        log: &Log,
        (peer, wire): (NodeId, Option<&Wire>),
        deletions_max: usize,
        shared: &mut Shared,
    ) -> u64 {
        let lane = &mut self.deltas[worker];
        let mut slots = SlotSet::empty();
        let mut records = 0;
        for (_, entry) in log.numbered(lane.done() + 1) {
            if !entry.is_for(peer) {
                continue;
            }
            records += 1;
            slots.insert(slot_of(&entry.record.key));
            if entry.record.life == Life::Dead {
                if lane.deletions.len() < deletions_max {
                    lane.deletions.push((entry.record, entry.idle_s));
                } else {
                    shared.counters.deletions_lost += 1;
                }
            }
        }
        shared.counters.records_given_up += records;
        self.rebase(worker, log.next(), &slots, wire, shared);
        records
    }

    /// Continues one worker's changes at `next`; what was before is to come in a snapshot.
    pub(crate) fn rebase(
        &mut self,
        worker: usize,
        next: u64,
        slots: &SlotSet,
        wire: Option<&Wire>,
        shared: &mut Shared,
    ) {
        let workers = self.deltas.len();
        let lane = &mut self.deltas[worker];
        lane.floor = Some(lane.counted());
        lane.acked = next - 1;
        lane.sent = next - 1;
        lane.clear = next - 1;
        lane.passed = next - 1;
        lane.run = shared.run();
        if let (true, Some(wire)) = (self.attached, wire) {
            shared.start(wire.peer, worker as u16, wire.session, lane.run, next);
        }
        self.owe(slots, workers, shared);
    }

    /// The peer is to get what this node has of these slots.
    pub(crate) fn owe(&mut self, slots: &SlotSet, workers: usize, shared: &mut Shared) {
        let snapshot = self
            .snapshot
            .get_or_insert_with(|| Snapshot::new(false, true, SlotSet::empty(), workers));
        snapshot.remaining.extend(slots);
        if snapshot.ending {
            snapshot.rewind(shared);
        }
    }

    /// The peer must have these slots before one more change of the worker counts as acknowledged.
    pub(crate) fn owe_first(
        &mut self,
        worker: usize,
        released: u64,
        slots: &SlotSet,
        shared: &mut Shared,
    ) {
        let lane = &mut self.deltas[worker];
        lane.floor = Some(lane.counted().min(released));
        self.owe(slots, self.deltas.len(), shared);
    }

    /// A change that its stream has passed over is for the peer after all: the stream goes back to it.
    pub(crate) fn rewind(
        &mut self,
        worker: usize,
        lsn: u64,
        wire: Option<&Wire>,
        shared: &mut Shared,
    ) {
        let lane = &mut self.deltas[worker];
        // Of what a lost connection carried, the peer may say at the next one that it has it.
        if self.attached && lane.clear.max(lane.sent).max(lane.passed) < lsn {
            return;
        }
        lane.acked = lane.acked.min(lsn - 1);
        lane.sent = lane.acked;
        lane.clear = lane.acked;
        lane.passed = lane.passed.min(lane.acked);
        lane.run = shared.run();
        if let (true, Some(wire)) = (self.attached, wire) {
            shared.resume(wire, worker, lane);
        }
    }

    /// The target asked for a snapshot of everything.
    pub(crate) fn requested(&mut self, request: u64, owned: &SlotSet, shared: &mut Shared) {
        let workers = self.deltas.len();
        let snapshot = self
            .snapshot
            .get_or_insert_with(|| Snapshot::new(true, true, owned.clone(), workers));
        // The end of one that is ending already does not name the request.
        if !snapshot.whole || snapshot.ending {
            snapshot.rewind(shared);
            snapshot.remaining.extend(owned);
            snapshot.whole = true;
        }
        snapshot.allowed = true;
        snapshot.request = request;
    }

    /// Sends of one worker's log what may leave now, up to the number `until`.
    pub(crate) fn pump_deltas(
        &mut self,
        worker: usize,
        log: &Log,
        until: u64,
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) {
        let lane = &mut self.deltas[worker];
        let stream = worker as u16;
        while shared.outbox.sends_queued(wire.peer, stream) < FRAMES_QUEUED_MAX {
            lane.skip(log, wire.peer);
            // At most: some of them may be for others.
            let available = until.saturating_sub(lane.clear) as usize;
            // What is to be compared waits for these.
            let flush = until + 1 < log.next();
            let count = packer.allowance(available, &wire.deltas[worker], wire.window, flush);
            if count == 0 {
                return;
            }
            let records = log
                .numbered(lane.clear + 1)
                .take_while(|(lsn, _)| *lsn <= until)
                .filter(|(_, entry)| entry.is_for(wire.peer))
                .map(|(lsn, entry)| (lsn, &entry.record, entry.idle_s));
            lane.passed = lane.done();
            let (sent, last) = packer.send(wire, stream, lane.sent + 1, count, records, shared);
            lane.sent = last;
            wire.deltas[worker].push((lane.run, lane.sent), sent);
            shared.counters.batches_sent += 1;
            shared.counters.records_sent += sent as u64;
        }
    }

    /// Moves the snapshot on; returns how many records it had when it is complete.
    pub(crate) fn pump_snapshot(
        &mut self,
        goal: usize,
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) -> Option<u64> {
        let snapshot = self.snapshot.as_mut().filter(|snapshot| snapshot.allowed)?;
        snapshot.watch(wire, shared);
        if snapshot.run == 0 {
            snapshot.run = shared.run();
            for worker in 0..snapshot.lanes.len() {
                let stream = SNAPSHOTS + worker as u16;
                shared.start(wire.peer, stream, wire.session, snapshot.run, 1);
            }
            shared.counters.snapshots_started += 1;
            let slots = snapshot.slots();
            shared.event(Event::SnapshotStarted {
                peer: wire.peer,
                slots,
            });
        }
        for (worker, delta) in self.deltas.iter().enumerate() {
            snapshot.pump_lane(worker, &delta.deletions, wire, packer, shared);
        }
        let drained = snapshot.drained(&self.deltas, wire);
        if let Some(chunk) = snapshot.chunk.take_if(|chunk| chunk.scanned() && drained) {
            snapshot.pace = chunk.next_slots(goal);
        }
        if snapshot.chunk.is_none() && !snapshot.ending {
            if !snapshot.remaining.is_empty() {
                let workers = snapshot.lanes.len();
                let to = JobTarget::Peer(wire.peer);
                let remaining = &mut snapshot.remaining;
                snapshot.chunk = Some(Chunk::ask(to, remaining, snapshot.pace, workers, shared));
            } else if drained {
                snapshot.end(wire, packer.batch.incarnation, shared);
                self.snapshot_ended = true;
            }
        }
        if !(snapshot.ending && snapshot.lanes.iter().all(|lane| lane.complete)) {
            return None;
        }
        let records = snapshot.lanes.iter().map(|lane| lane.sent).sum();
        self.snapshot = None;
        for lane in &mut self.deltas {
            lane.floor = None;
            lane.deletions = Vec::new();
        }
        Some(records)
    }

    /// A worker found a record for the target's snapshot; `false` when the job is not of it.
    pub(crate) fn snapshot_record(
        &mut self,
        worker: usize,
        job: JobId,
        record: FlowRecord,
        idle_s: u16,
        goal: usize,
        shared: &mut Shared,
    ) -> bool {
        let Some(snapshot) = &mut self.snapshot else {
            return false;
        };
        let Some(chunk) = snapshot.chunk.as_mut().filter(|chunk| chunk.job == job) else {
            return false;
        };
        snapshot.lanes[worker].queue.push_back((record, idle_s));
        chunk.records += 1;
        if chunk.records > goal * 4 && chunk.slots_len > 1 {
            // Far more than thought: ask again for fewer slots. What has come is of use.
            chunk.cancel(shared);
            snapshot.remaining.extend(&chunk.slots);
            snapshot.pace = (chunk.slots_len / 8).max(1);
            snapshot.chunk = None;
        }
        true
    }

    /// A worker has ended its scan for the target's snapshot; `false` when the job is not of it.
    pub(crate) fn scan_done(&mut self, worker: usize, job: JobId) -> bool {
        let chunk = self
            .snapshot
            .as_mut()
            .and_then(|snapshot| snapshot.chunk.as_mut());
        let Some(chunk) = chunk.filter(|chunk| chunk.job == job) else {
            return false;
        };
        chunk.done[worker] = true;
        true
    }

    /// What was sent of a stream: its run and the last number; `None` when nothing was sent of
    /// the snapshot as it is now.
    pub(crate) fn sent(&self, worker: usize, of_snapshot: bool) -> Option<(u64, u64)> {
        if !of_snapshot {
            return Some((self.deltas[worker].run, self.deltas[worker].sent));
        }
        let snapshot = self
            .snapshot
            .as_ref()
            .filter(|snapshot| snapshot.run != 0)?;
        Some((snapshot.run, snapshot.lanes[worker].sent))
    }

    /// The peer has all of a worker's part of the snapshot of this run.
    pub(crate) fn snapshot_acked(&mut self, worker: usize, run: u64, ended: bool) {
        if let Some(snapshot) = &mut self.snapshot
            && snapshot.run == run
            && snapshot.ending
            && ended
        {
            snapshot.lanes[worker].complete = true;
        }
    }
}

impl Snapshot {
    fn pump_lane(
        &mut self,
        worker: usize,
        deletions: &[(FlowRecord, u16)],
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) {
        let stream = SNAPSHOTS + worker as u16;
        let lane = &mut self.lanes[worker];
        while shared.outbox.sends_queued(wire.peer, stream) < FRAMES_QUEUED_MAX {
            let dead = &deletions[lane.deletions_sent..];
            let available = dead.len() + lane.queue.len();
            let flush = self.chunk.as_ref().is_none_or(|chunk| chunk.done[worker]);
            let flight = &wire.snapshots[worker];
            let count = packer.allowance(available, flight, wire.window, flush);
            if count == 0 {
                return;
            }
            let records = dead
                .iter()
                .chain(&lane.queue)
                .zip(lane.sent + 1..)
                .map(|((record, idle_s), number)| (number, record, *idle_s));
            let (sent, _) = packer.send(wire, stream, lane.sent + 1, count, records, shared);
            let of_dead = sent.min(dead.len());
            lane.deletions_sent += of_dead;
            lane.queue.drain(..sent - of_dead);
            lane.sent += sent as u64;
            wire.snapshots[worker].push((self.run, lane.sent), sent);
            shared.counters.snapshot_records_sent += sent as u64;
        }
    }

    fn end(&mut self, wire: &Wire, incarnation: u64, shared: &mut Shared) {
        for (worker, lane) in self.lanes.iter().enumerate() {
            let end = End {
                incarnation,
                session: wire.session,
                run: self.run,
                records: lane.sent,
                whole: self.whole,
                request: self.request,
            };
            shared.send(wire.peer, SNAPSHOTS + worker as u16, &end);
        }
        self.ending = true;
    }
}

impl Shared {
    pub(crate) fn start(&mut self, peer: NodeId, stream: u16, session: u32, run: u64, next: u64) {
        let start = Start {
            incarnation: self.incarnation,
            session,
            run,
            next,
        };
        self.send(peer, stream, &start);
    }

    /// Announces where a target's changes go on.
    pub(crate) fn resume(&mut self, wire: &Wire, worker: usize, lane: &DeltaLane) {
        self.start(
            wire.peer,
            worker as u16,
            wire.session,
            lane.run,
            lane.acked() + 1,
        );
    }
}

/// All slots of one worker.
pub(crate) fn slots_of_worker(worker: usize, workers: usize) -> SlotSet {
    Slot::all()
        .filter(|slot| state::worker_of(*slot, workers) == worker)
        .collect()
}
