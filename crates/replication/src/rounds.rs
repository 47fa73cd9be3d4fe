//! Rounds of comparison, on the side of the owner.
//!
//! Now and then the workers are asked for the digests of the slots that this node owns. A worker's
//! digests are of its changes up to some log number, and go to each target right behind the change of
//! that number, in the stream of changes: what the target compares them with has merged exactly that. So a
//! comparison is exact while changes go on.

use state::SlotSet;

use crate::log::Log;
use crate::message::{Mark, MarkedSlot};
use crate::replicator::Shared;
use crate::target::{DeltaLane, FRAMES_QUEUED_MAX, Target, Wire};
use crate::{SlotDigest, ToWorker};

pub(crate) struct Rounds {
    /// 0 for never.
    every_us: u64,
    next_us: Option<u64>,
    number: u64,
    /// When the present round began.
    began_us: u64,
    /// By worker.
    workers: Vec<Worker>,
}

#[derive(Default)]
struct Worker {
    /// Lent to the worker while it is asked.
    lent: bool,
    spare: Vec<SlotDigest>,
    /// The digests of the present round, and the round.
    digests: Option<Digests>,
}

/// A worker's digests of one round.
pub(crate) struct Digests {
    pub(crate) round: u64,
    pub(crate) lsn: u64,
    slots: Vec<SlotDigest>,
}

/// How far the comparisons of one worker's slots with one target are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Compared {
    /// The last round whose digests were sent or passed over.
    marked: u64,
    /// The last round of which the target answered, and when that began.
    answered: (u64, u64),
    /// The last round in which nothing differed.
    equal: u64,
}

impl Rounds {
    pub(crate) fn new(every_us: u64, workers: usize) -> Self {
        Self {
            every_us,
            next_us: None,
            number: 0,
            began_us: 0,
            workers: (0..workers).map(|_| Worker::default()).collect(),
        }
    }

    /// The present round.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Begins a round when one is due.
    pub(crate) fn begin(&mut self, shared: &mut Shared) {
        let now_us = shared.now_us;
        let due = *self.next_us.get_or_insert(now_us + self.every_us);
        if self.every_us == 0 || now_us < due {
            return;
        }
        self.next_us = Some(now_us + self.every_us);
        self.number += 1;
        self.began_us = now_us;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(old) = worker.digests.take() {
                worker.spare = old.slots;
            }
            // One that has not answered the last time stands still: it is left out.
            if !std::mem::replace(&mut worker.lent, true) {
                let mut digests = std::mem::take(&mut worker.spare);
                digests.clear();
                digests.reserve(state::SLOTS);
                let round = self.number;
                let request = ToWorker::Digest { round, digests };
                shared.outbox.tell_worker(index, request);
            }
        }
    }

    /// A worker has answered. Slots of which the targets may not have everything yet are left out.
    pub(crate) fn answered(
        &mut self,
        worker: usize,
        round: u64,
        lsn: u64,
        mut slots: Vec<SlotDigest>,
        (owned, unfinished): (&SlotSet, &SlotSet),
        shared: &mut Shared,
    ) {
        let worker = &mut self.workers[worker];
        if !std::mem::replace(&mut worker.lent, false) {
            shared.counters.worker_faults += 1;
            return;
        }
        if round != self.number {
            worker.spare = slots;
            return;
        }
        slots.retain(|it| owned.contains(it.slot) && !unfinished.contains(it.slot));
        worker.digests = Some(Digests { round, lsn, slots });
    }

    /// The digests that a target has yet to get of this worker's slots, if it is to get any.
    pub(crate) fn due(&self, worker: usize, target: &Target) -> Option<&Digests> {
        let digests = self.workers[worker].digests.as_ref()?;
        let due = target.deltas[worker].compared.marked < digests.round;
        (due && !digests.slots.is_empty()).then_some(digests)
    }

    /// When every worker's slots were last compared with a target's.
    pub(crate) fn compared_us(&self, target: &Target) -> Option<u64> {
        let mut oldest = None;
        for (worker, lane) in self.workers.iter().zip(&target.deltas) {
            let empty = |it: &Digests| it.slots.is_empty();
            if worker.digests.as_ref().is_some_and(empty) {
                // No slot of it is owned here.
                continue;
            }
            let (round, began_us) = lane.compared.answered;
            if round == 0 {
                return None;
            }
            oldest = Some(oldest.map_or(began_us, |us: u64| us.min(began_us)));
        }
        oldest
    }

    /// A target has answered the digests of a worker of some round.
    pub(crate) fn compared(&self, lane: &mut DeltaLane, round: u64, differing: u32) {
        if round > lane.compared.answered.0 && round <= lane.compared.marked {
            let began_us = match round == self.number {
                true => self.began_us,
                // An answer that took longer than a round.
                false => self.began_us.saturating_sub(self.every_us),
            };
            lane.compared.answered = (round, began_us);
            if differing == 0 {
                lane.compared.equal = round;
            }
        }
    }

    /// Whether all that was compared with the target in a round after `round` was equal.
    pub(crate) fn equal_since(&self, target: &Target, round: u64) -> bool {
        self.workers
            .iter()
            .zip(&target.deltas)
            .all(|(worker, lane)| {
                let empty = |it: &Digests| it.slots.is_empty();
                lane.compared.equal > round || worker.digests.as_ref().is_some_and(empty)
            })
    }
}

impl Target {
    /// Whether comparing makes sense: it should have all that this node has.
    pub(crate) fn is_comparable(&self) -> bool {
        self.attached && !self.joining && self.snapshot.is_none() && !self.lagging()
    }

    /// Sends the digests of a worker once all changes that they contain are sent, and no other.
    pub(crate) fn send_mark(
        &mut self,
        worker: usize,
        digests: &Digests,
        wire: &Wire,
        shared: &mut Shared,
    ) {
        let stream = worker as u16;
        let lane = &mut self.deltas[worker];
        if lane.reached() < digests.lsn
            || shared.outbox.sends_queued(wire.peer, stream) >= FRAMES_QUEUED_MAX
        {
            return;
        }
        lane.compared.marked = digests.round;
        if lane.sent > digests.lsn {
            // A worker's answer that waited for room: the next round is not far.
            return;
        }
        let marked = |it: &SlotDigest| MarkedSlot {
            slot: it.slot.index() as u16,
            sum: it.sum,
        };
        let mark = Mark {
            incarnation: shared.incarnation,
            session: wire.session,
            run: lane.run,
            after: lane.sent,
            round: digests.round,
            slots: digests.slots.iter().map(marked).collect(),
        };
        shared.counters.marks_sent += 1;
        shared.send(wire.peer, stream, &mark);
    }

    /// The last change that may be sent before the digests are.
    pub(crate) fn sends_until(log: &Log, due: Option<&Digests>) -> u64 {
        let all = log.next() - 1;
        due.map_or(all, |digests| digests.lsn.min(all))
    }
}
