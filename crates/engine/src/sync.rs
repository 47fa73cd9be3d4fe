//! The worker's side of replication: changes out, copies in, scans of the shard.

use flowtable::{FlowId, InsertError, Local, LocalFlags};
use membership::Distribution;
use replication::{JobId, JobTarget, ToSync};
use state::{FlowRecord, Life, NodeId, NodeSet, SlotSet, slot_of};

use crate::counters::Counter;
use crate::forward::NO_HOP;
use crate::port::Port;
use crate::worker::{Tokens, Worker};

/// Scans that one worker does at a time; the sync core asks for one per peer and one per takeover.
const JOBS_MAX: usize = 128;
/// Places of the shard that one turn's scans look at.
const PLACES_PER_TURN: usize = 8192;

/// Scans of the shard under way.
#[derive(Debug)]
pub(crate) struct Jobs {
    jobs: Vec<Job>,
    /// Slots of which a change found the ring full: they are sent again as soon as it has room.
    pub(crate) dirty: SlotSet,
    pace: Tokens,
}

#[derive(Debug)]
struct Job {
    /// `None` for the worker's own scan of dirty slots.
    id: Option<JobId>,
    target: JobTarget,
    slots: SlotSet,
    cursor: usize,
}

impl Jobs {
    pub(crate) fn new(records_per_s: u32) -> Self {
        Self {
            jobs: Vec::with_capacity(JOBS_MAX),
            dirty: SlotSet::empty(),
            pace: Tokens::new(records_per_s),
        }
    }

    pub(crate) fn add(&mut self, id: JobId, target: JobTarget, slots: SlotSet) {
        if self.jobs.len() == JOBS_MAX {
            // Not reached while the sync core keeps to its bound. Dirty slots are sent to all
            // targets, so nothing is lost; the job itself stays open, which redundancy shows.
            self.dirty.extend(&slots);
            return;
        }
        self.jobs.push(Job {
            id: Some(id),
            target,
            slots,
            cursor: 0,
        });
    }

    /// Whether every change has gone to the sync core.
    pub(crate) fn are_clean(&self) -> bool {
        self.dirty.is_empty() && self.jobs.iter().all(|job| job.id.is_some())
    }

    pub(crate) fn cancel(&mut self, id: JobId) {
        self.jobs.retain(|job| job.id != Some(id));
    }
}

impl<P: Port> Worker<P> {
    /// Hands a flow's record to the sync core. When the ring is full its slot is sent again later:
    /// nothing blocks, and nothing is lost for good.
    pub(crate) fn emit(&mut self, id: FlowId) {
        let handlers = self.table.entry(id).handlers;
        self.emit_to(id, handlers);
    }

    fn emit_to(&mut self, id: FlowId, handlers: NodeSet) {
        if !self.config.replicate {
            return;
        }
        let lsn = self.lsn + 1;
        let now_s = self.now.s();
        let entry = self.table.entry_mut(id);
        let idle_s = idle(&entry.local, now_s);
        let change = ToSync::Change {
            lsn,
            record: entry.record,
            idle_s,
            handlers,
        };
        if self.links.to_sync.push(change).is_err() {
            let slot = slot_of(&entry.record.key);
            self.jobs.dirty.insert(slot);
            self.counters.count(Counter::ChangesDeferred);
            return;
        }
        let digest = entry.record.digest();
        self.digests
            .replace(slot_of(&entry.record.key), &mut entry.local, digest);
        entry.local.lsn = lsn;
        entry.local.replicated_s = now_s;
        entry.local.flags.told();
        entry.local.replicate_at_s = 0;
        self.lsn = lsn;
        self.counters.count(Counter::Changes);
    }

    /// Merges what a peer sent.
    pub(crate) fn apply(&mut self, token: u64, peer: NodeId, mut records: Vec<(FlowRecord, u16)>) {
        let mut refused = 0;
        for (record, idle_s) in &records {
            if self.apply_one(peer, record, *idle_s) {
                self.counters.count(Counter::ReplicasApplied);
            } else {
                self.counters.count(Counter::ReplicasRefused);
                refused += 1;
            }
        }
        records.clear();
        // The sync core sizes the ring for all applications that it has under way and takes from it
        // before it gives more.
        self.answer(ToSync::Applied {
            token,
            records,
            refused,
        });
    }

    /// Answers the sync core. The next messages wait until the answer has found room.
    pub(crate) fn answer(&mut self, answer: ToSync) {
        if let Err(rtrb::PushError::Full(answer)) = self.links.to_sync.push(answer) {
            self.unanswered.push_back(answer);
        }
    }

    pub(crate) fn apply_one(&mut self, peer: NodeId, record: &FlowRecord, idle_s: u16) -> bool {
        if record.life == Life::Dead
            && state::mutation::is(state::mutation::Mutation::LoseTombstones)
        {
            return true;
        }
        self.incarnation_heard = self.incarnation_heard.max(record.incarnation);
        let now_s = self.now.s();
        let seen_s = now_s.saturating_sub(u32::from(idle_s));
        // With `ecmp`, who tells of a flow of another's slot handles it.
        let slot = slot_of(&record.key);
        let ecmp = self.config.distribution == Distribution::Ecmp;
        let handles = ecmp && self.view.value().owner(slot) != Some(peer);
        let handlers = match handles {
            true => [peer].into_iter().collect(),
            false => NodeSet::EMPTY,
        };
        let found = match self.table.lookup(&record.key) {
            Some(id) => id,
            None => {
                let local = Local {
                    created_s: now_s,
                    seen_s: if record.life == Life::Dead {
                        now_s
                    } else {
                        seen_s
                    },
                    hops: [NO_HOP; 2],
                    flags: LocalFlags::replica(),
                    ..Local::default()
                };
                return match self.table.insert(*record, local) {
                    Ok(id) => {
                        self.table.entry_mut(id).handlers = handlers;
                        self.note_told(id, peer, record, true);
                        if self.ownership.owned.contains(slot) {
                            self.emit_to(id, NodeSet::EMPTY);
                        }
                        self.settle_if_alive(id);
                        true
                    }
                    // A tombstone without a flow only guards against stragglers.
                    Err(InsertError::Full) => record.life == Life::Dead,
                    Err(InsertError::Present(_)) => unreachable!("the lookup did not find it"),
                };
            }
        };
        let owned = self.ownership.owned.contains(slot);
        let entry = self.table.entry_mut(found);
        entry.handlers.0 |= handlers.0;
        let was_alive = entry.is_alive();
        let other_incarnation = entry.record.incarnation != record.incarnation;
        let changed = entry.record.merge(record);
        if changed {
            if other_incarnation {
                // Nor does it wait for the time at which the old one was to be told of.
                entry.local.flags = entry.local.flags.replaced();
                entry.local.replicate_at_s = 0;
            } else if !owned {
                entry.local.flags = entry.local.flags.replicated();
            }
            if was_alive && !entry.is_alive() {
                entry.local.seen_s = now_s;
            }
        }
        if entry.is_alive() {
            entry.local.seen_s = entry.local.seen_s.max(seen_s);
        }
        self.note_told(found, peer, record, changed);
        // What a former owner or a second handler tells late is news to this node's own targets.
        // A copy that is equal changes nothing, so this ends.
        // A second handler that knows less than this node is told what it lacks, and so is whoever believes in
        // a flow that is deleted here: else it would tell of it again once the tombstone is gone.
        let entry = self.table.entry(found);
        let others = NodeSet(entry.handlers.0 & !handlers.0);
        let equal = entry.record == *record;
        let deleted = record.life == Life::Alive && !entry.is_alive();
        if owned && changed && equal {
            self.emit_to(found, others);
        } else if owned && (changed || deleted || (handles && !equal)) {
            self.emit(found);
        }
        self.settle_if_alive(found);
        true
    }

    /// Packets may wait for what a peer told just now without being asked.
    fn settle_if_alive(&mut self, id: FlowId) {
        if self.asks.waiting() > 0 && self.table.entry(id).is_alive() {
            let key = self.table.entry(id).record.key;
            self.settle_known(&key);
        }
    }

    /// Goes on with the scans that were asked for, at the configured pace.
    pub(crate) fn run_jobs(&mut self) -> usize {
        while let Some(answer) = self.unanswered.pop_front() {
            if let Err(rtrb::PushError::Full(answer)) = self.links.to_sync.push(answer) {
                self.unanswered.push_front(answer);
                return 0;
            }
        }
        self.scan_dirty();
        if self.jobs.jobs.is_empty() {
            return 0;
        }
        let mut budget = self.jobs.pace.fill(self.now.us);
        let mut jobs = std::mem::take(&mut self.jobs.jobs);
        let mut places = PLACES_PER_TURN;
        let mut work = 0;
        jobs.retain_mut(|job| {
            while places > 0 && budget > 0 && job.cursor < self.table.capacity() {
                match self.scan_place(job) {
                    Scanned::NoRoom => return true,
                    Scanned::Sent => {
                        budget -= 1;
                        self.jobs.pace.take();
                    }
                    Scanned::Skipped => {}
                }
                job.cursor += 1;
                places -= 1;
                work += 1;
            }
            if job.cursor < self.table.capacity() {
                return true;
            }
            let Some(id) = job.id else { return false };
            work += 1;
            self.links
                .to_sync
                .push(ToSync::JobDone {
                    job: id,
                    lsn: self.lsn,
                })
                .is_err()
        });
        self.jobs.jobs = jobs;
        work
    }

    /// Begins a scan of the dirty slots once the ring has emptied and no such scan is under way.
    fn scan_dirty(&mut self) {
        let room = self.links.to_sync.slots() > self.links.to_sync.buffer().capacity() / 2;
        if self.jobs.dirty.is_empty() || !room || self.jobs.jobs.iter().any(|j| j.id.is_none()) {
            return;
        }
        if self.jobs.jobs.len() < JOBS_MAX {
            let slots = std::mem::take(&mut self.jobs.dirty);
            self.jobs.jobs.push(Job {
                id: None,
                target: JobTarget::Group,
                slots,
                cursor: 0,
            });
        }
    }

    fn scan_place(&mut self, job: &Job) -> Scanned {
        let Some(id) = self.table.at(job.cursor) else {
            return Scanned::Skipped;
        };
        let entry = self.table.entry(id);
        if !job.slots.contains(slot_of(&entry.record.key)) {
            return Scanned::Skipped;
        }
        // Of other nodes' slots this one tells what it handles itself, unless it is asked for all.
        let foreign =
            self.is_foreign(slot_of(&entry.record.key)) && !entry.local.flags.is_handler();
        if foreign && matches!(job.target, JobTarget::Group | JobTarget::Peer(_)) {
            return Scanned::Skipped;
        }
        let told = match (job.target, job.id) {
            (JobTarget::Group, _) | (_, None) => {
                // A change that found the ring full before its slot moved on is not for this node's
                // targets any more: the new owner gets it (`JobTarget::Untold`, `JobTarget::Heir`).
                let moved = self.config.distribution == Distribution::Filter
                    && !(self.ownership.owned).contains(slot_of(&entry.record.key));
                let wanted = self.is_told(id)
                    && !moved
                    && entry.local.replicate_at_s == 0
                    // Tombstones of dirty slots are changes that were not sent yet.
                    && (entry.is_alive() || job.id.is_none());
                if !wanted {
                    return Scanned::Skipped;
                }
                None
            }
            (target, Some(id)) => Some((target, id)),
        };
        if self.links.to_sync.is_full() {
            return Scanned::NoRoom;
        }
        match told {
            None => self.emit(id),
            Some((target, job)) => {
                if !self.tell_peer(id, target) {
                    return Scanned::Skipped;
                }
                // Telling the group as well may have taken the last room.
                let entry = self.table.entry(id);
                let answer = ToSync::Snapshot {
                    job,
                    record: entry.record,
                    idle_s: idle(&entry.local, self.now.s()),
                };
                if self.links.to_sync.push(answer).is_err() {
                    return Scanned::NoRoom;
                }
                self.counters.count(Counter::SnapshotRecords);
            }
        }
        Scanned::Sent
    }
}

enum Scanned {
    Sent,
    Skipped,
    NoRoom,
}

pub(crate) fn idle(local: &Local, now_s: u32) -> u16 {
    now_s.saturating_sub(local.seen_s).min(u16::MAX.into()) as u16
}
