//! Errands: slots that one peer is brought besides its changes and its snapshot, on streams of their
//! own. The peer need not be a target.
//!
//! | errand | from | to | what |
//! |---|---|---|---|
//! | answer | an owner | a copy that found a difference | all that it has of the slots |
//! | push | that copy, afterwards | the owner | what the owner did not tell of ([`JobTarget::Owner`]) |
//! | hand-over | a former owner | the new one, when that was no target | what it has of the slots ([`JobTarget::Heir`]) |
//! | remainder | a former owner | the new one, when that was a target | what was told to nobody ([`JobTarget::Untold`]) |
//!
//! One errand to a peer is under way at a time, in chunks of slots as a snapshot. When the
//! connection breaks a hand-over or a remainder starts over; answers and pushes are forgotten, since the next
//! comparison finds again what is still different.

use std::collections::{BTreeMap, VecDeque};

use membership::{MemberState, View};
use state::{FlowRecord, NodeId, Slot, SlotSet};

use crate::message::{ERRANDS, End};
use crate::replicator::Shared;
use crate::status::{Counters, Event};
use crate::target::{Chunk, FIRST_CHUNK_SLOTS, FRAMES_QUEUED_MAX, Packer, Wire};
use crate::{JobId, JobTarget};

/// What an errand is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Purpose {
    HandOver,
    Remainder,
    /// The peer's request of this number.
    Answer(u64),
    Push,
}

/// An errand that is complete and acknowledged.
pub(crate) struct Done {
    pub(crate) purpose: Purpose,
    pub(crate) slots: SlotSet,
    pub(crate) records: u64,
}

#[derive(Default)]
pub(crate) struct Errands {
    by_peer: BTreeMap<NodeId, Peer>,
}

/// The errands to one run of a peer.
struct Peer {
    incarnation: u64,
    hand_over: SlotSet,
    remainder: SlotSet,
    answer: Option<(u64, SlotSet)>,
    push: Option<SlotSet>,
    active: Option<Errand>,
}

/// The errand that is under way.
struct Errand {
    purpose: Purpose,
    slots: SlotSet,
    /// Slots of which no scan has begun.
    remaining: SlotSet,
    chunk: Option<Chunk>,
    pace: usize,
    run: u64,
    ending: bool,
    /// By worker.
    lanes: Vec<Lane>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<(FlowRecord, u16)>,
    sent: u64,
    complete: bool,
}

impl Errands {
    /// These slots are the peer's from now on, and it may lack what this node has of them.
    pub(crate) fn hand_over(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        slots: &SlotSet,
        shared: &mut Shared,
    ) {
        self.to(peer, incarnation, shared).hand_over.extend(slots);
    }

    /// These slots are the peer's from now on. It has, or will get, all that was told of them; what was
    /// told to nobody yet it cannot have.
    pub(crate) fn remainder(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        slots: &SlotSet,
        shared: &mut Shared,
    ) {
        (self.to(peer, incarnation, shared).remainder).extend(slots);
    }

    /// The peer asks for these slots.
    pub(crate) fn answer(
        &mut self,
        (peer, incarnation): (NodeId, u64),
        request: u64,
        slots: SlotSet,
        shared: &mut Shared,
    ) {
        self.to(peer, incarnation, shared).answer = Some((request, slots));
    }

    /// The peer, their owner, has told of all that it has of these slots.
    pub(crate) fn push(
        &mut self,
        (peer, incarnation): (NodeId, u64),
        slots: SlotSet,
        shared: &mut Shared,
    ) {
        self.to(peer, incarnation, shared).push = Some(slots);
    }

    fn to(&mut self, peer: NodeId, incarnation: u64, shared: &mut Shared) -> &mut Peer {
        let fresh = || Peer {
            incarnation,
            hand_over: SlotSet::empty(),
            remainder: SlotSet::empty(),
            answer: None,
            push: None,
            active: None,
        };
        let it = self.by_peer.entry(peer).or_insert_with(fresh);
        if it.incarnation != incarnation {
            // What was for another run of it is of no use to this one.
            if let Some(errand) = &it.active {
                errand.cancel(shared);
            }
            *it = fresh();
        }
        it
    }

    /// Follows the view: slots that have moved on before they were brought go to who has them now, runs of
    /// peers that are gone need nothing, and what is `owned` here is not to be handed over.
    pub(crate) fn view(&mut self, view: &View, owned: &SlotSet, shared: &mut Shared) {
        let mut moved: BTreeMap<(NodeId, Purpose), SlotSet> = BTreeMap::new();
        for (id, peer) in &mut self.by_peer {
            peer.give_up(&mut |purpose, slot| match view.owner(slot) {
                Some(owner) if owner != *id && !owned.contains(slot) => {
                    moved.entry((owner, purpose)).or_default().insert(slot);
                    true
                }
                _ => false,
            });
        }
        self.by_peer.retain(|id, peer| {
            let here = view.member(*id).is_some_and(|member| {
                member.state != MemberState::Dead && member.incarnation == peer.incarnation
            });
            if let (false, Some(errand)) = (here, &peer.active) {
                errand.cancel(shared);
            }
            for slot in owned.iter() {
                peer.hand_over.remove(slot);
                peer.remainder.remove(slot);
            }
            here
        });
        for ((owner, purpose), slots) in moved {
            let Some(member) = view.member(owner) else {
                continue;
            };
            // Who had them meanwhile hands over what it has itself; what is brought here it may never get.
            match purpose {
                Purpose::HandOver => self.hand_over(owner, member.incarnation, &slots, shared),
                _ => self.remainder(owner, member.incarnation, &slots, shared),
            }
        }
    }

    /// The connection to the peer is gone.
    pub(crate) fn disconnected(&mut self, id: NodeId, shared: &mut Shared) {
        let Some(peer) = self.by_peer.get_mut(&id) else {
            return;
        };
        peer.answer = None;
        peer.push = None;
        if let Some(errand) = peer.active.take() {
            errand.cancel(shared);
            match errand.purpose {
                Purpose::HandOver => peer.hand_over.extend(&errand.slots),
                Purpose::Remainder => peer.remainder.extend(&errand.slots),
                Purpose::Answer(_) | Purpose::Push => {}
            }
        }
        self.tidy(id);
    }

    /// Slots that are yet to be handed over, to all peers together.
    pub(crate) fn slots_to_hand_over(&self) -> usize {
        let of = |peer: &Peer| {
            let active = peer.active.as_ref();
            let gives = |it: &&Errand| {
                let purpose = it.purpose;
                purpose == Purpose::HandOver || purpose == Purpose::Remainder
            };
            let active = active.filter(gives);
            peer.hand_over.len()
                + peer.remainder.len()
                + active.map_or(0, |errand| errand.slots.len())
        };
        self.by_peer.values().map(of).sum()
    }

    /// A worker found a record for an errand; `false` when the job is not of one.
    pub(crate) fn record(
        &mut self,
        worker: usize,
        job: JobId,
        record: FlowRecord,
        idle_s: u16,
        goal: usize,
        shared: &mut Shared,
    ) -> bool {
        let Some(errand) = self.of_job(job) else {
            return false;
        };
        errand.lanes[worker].queue.push_back((record, idle_s));
        let Some(chunk) = &mut errand.chunk else {
            return true;
        };
        chunk.records += 1;
        if chunk.records > goal * 4 && chunk.slots_len > 1 {
            // Far more than thought: ask again for fewer slots. What has come is of use.
            chunk.cancel(shared);
            errand.remaining.extend(&chunk.slots);
            errand.pace = (chunk.slots_len / 8).max(1);
            errand.chunk = None;
        }
        true
    }

    /// A worker has ended a scan; `false` when the job is not of an errand.
    pub(crate) fn scan_done(&mut self, worker: usize, job: JobId) -> bool {
        let chunk = self.of_job(job).and_then(|errand| errand.chunk.as_mut());
        chunk.is_some_and(|chunk| {
            chunk.done[worker] = true;
            true
        })
    }

    fn of_job(&mut self, job: JobId) -> Option<&mut Errand> {
        let active = self.by_peer.values_mut().filter_map(|p| p.active.as_mut());
        let of_job = |errand: &&mut Errand| errand.chunk.as_ref().is_some_and(|c| c.job == job);
        active.into_iter().find(of_job)
    }

    /// What was sent on one stream to a peer: its run and the last number.
    pub(crate) fn sent(&self, peer: NodeId, worker: usize) -> Option<(u64, u64)> {
        let errand = self.by_peer.get(&peer)?.active.as_ref()?;
        Some((errand.run, errand.lanes[worker].sent))
    }

    /// The peer has all of one stream of an errand.
    pub(crate) fn acked(&mut self, peer: NodeId, worker: usize, run: u64, ended: bool) {
        let active = self.by_peer.get_mut(&peer).and_then(|p| p.active.as_mut());
        if let Some(errand) = active
            && errand.run == run
            && errand.ending
            && ended
        {
            errand.lanes[worker].complete = true;
        }
    }

    /// The peers that this node has errands to, each with the run that they are for.
    pub(crate) fn peers(&self) -> Vec<(NodeId, u64)> {
        let peers = self.by_peer.iter();
        peers.map(|(id, peer)| (*id, peer.incarnation)).collect()
    }

    /// Moves the errand to a greeted peer on, and begins the next.
    pub(crate) fn pump(
        &mut self,
        id: NodeId,
        goal: usize,
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) -> Option<Done> {
        let workers = wire.errands.len();
        let peer = self.by_peer.get_mut(&id)?;
        if peer.active.is_none() {
            peer.active = peer.next(workers, wire, shared);
        }
        let done = peer.active.as_mut()?.pump(goal, wire, packer, shared)?;
        peer.active = None;
        self.tidy(id);
        Some(done)
    }

    fn tidy(&mut self, id: NodeId) {
        let idle = |p: &Peer| {
            p.active.is_none()
                && p.answer.is_none()
                && p.push.is_none()
                && p.hand_over.is_empty()
                && p.remainder.is_empty()
        };
        if self.by_peer.get(&id).is_some_and(idle) {
            self.by_peer.remove(&id);
        }
    }
}

impl Peer {
    /// Leaves out the slots that this peer was to be brought and that `moved` takes.
    fn give_up(&mut self, moved: &mut dyn FnMut(Purpose, Slot) -> bool) {
        let mut leave_out = |purpose, slots: &mut SlotSet| {
            let gone: SlotSet = slots.iter().filter(|slot| moved(purpose, *slot)).collect();
            slots.remove_all(&gone);
            gone
        };
        leave_out(Purpose::HandOver, &mut self.hand_over);
        leave_out(Purpose::Remainder, &mut self.remainder);
        if let Some(errand) = &mut self.active
            && matches!(errand.purpose, Purpose::HandOver | Purpose::Remainder)
        {
            let gone = leave_out(errand.purpose, &mut errand.slots);
            errand.remaining.remove_all(&gone);
        }
    }

    /// Takes the next errand: first what connections wait for.
    fn next(&mut self, workers: usize, wire: &Wire, shared: &mut Shared) -> Option<Errand> {
        let (purpose, slots) = if !self.hand_over.is_empty() {
            (Purpose::HandOver, std::mem::take(&mut self.hand_over))
        } else if !self.remainder.is_empty() {
            (Purpose::Remainder, std::mem::take(&mut self.remainder))
        } else if let Some((request, slots)) = self.answer.take() {
            (Purpose::Answer(request), slots)
        } else {
            (Purpose::Push, self.push.take()?)
        };
        if purpose == Purpose::HandOver {
            shared.event(Event::HandOverStarted {
                peer: wire.peer,
                slots: slots.len(),
            });
        }
        let run = shared.run();
        for worker in 0..workers {
            let stream = ERRANDS + worker as u16;
            shared.start(wire.peer, stream, wire.session, run, 1);
        }
        Some(Errand {
            purpose,
            remaining: slots.clone(),
            slots,
            chunk: None,
            pace: FIRST_CHUNK_SLOTS,
            run,
            ending: false,
            lanes: (0..workers).map(|_| Lane::default()).collect(),
        })
    }
}

impl Errand {
    fn cancel(&self, shared: &mut Shared) {
        if let Some(chunk) = &self.chunk {
            chunk.cancel(shared);
        }
    }

    fn pump(
        &mut self,
        goal: usize,
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) -> Option<Done> {
        for worker in 0..self.lanes.len() {
            self.pump_lane(worker, wire, packer, shared);
        }
        let drained = self.lanes.iter().all(|lane| lane.queue.is_empty())
            && wire.errands.iter().all(|flight| flight.is_empty());
        if let Some(chunk) = self.chunk.take_if(|chunk| chunk.scanned() && drained) {
            self.pace = chunk.next_slots(goal);
        }
        if self.chunk.is_none() && !self.ending {
            if !self.remaining.is_empty() {
                let to = match self.purpose {
                    Purpose::HandOver => JobTarget::Heir(wire.peer),
                    Purpose::Remainder => JobTarget::Untold(wire.peer),
                    Purpose::Answer(_) => JobTarget::Peer(wire.peer),
                    Purpose::Push => JobTarget::Owner(wire.peer),
                };
                let workers = self.lanes.len();
                let chunk = Chunk::ask(to, &mut self.remaining, self.pace, workers, shared);
                self.chunk = Some(chunk);
            } else if drained {
                self.end(wire, shared);
            }
        }
        if !(self.ending && self.lanes.iter().all(|lane| lane.complete)) {
            return None;
        }
        let records = self.lanes.iter().map(|lane| lane.sent).sum();
        self.purpose.count(records, &mut shared.counters);
        Some(Done {
            purpose: self.purpose,
            slots: std::mem::take(&mut self.slots),
            records,
        })
    }

    fn pump_lane(
        &mut self,
        worker: usize,
        wire: &mut Wire,
        packer: &mut Packer,
        shared: &mut Shared,
    ) {
        let stream = ERRANDS + worker as u16;
        let lane = &mut self.lanes[worker];
        while shared.outbox.sends_queued(wire.peer, stream) < FRAMES_QUEUED_MAX {
            let flush = self.chunk.as_ref().is_none_or(|chunk| chunk.done[worker]);
            let (flight, window) = (&wire.errands[worker], wire.window);
            let count = packer.allowance(lane.queue.len(), flight, window, flush);
            if count == 0 {
                return;
            }
            let queued = lane.queue.iter().zip(lane.sent + 1..);
            let records = queued.map(|((record, idle_s), number)| (number, record, *idle_s));
            let (sent, _) = packer.send(wire, stream, lane.sent + 1, count, records, shared);
            lane.queue.drain(..sent);
            lane.sent += sent as u64;
            wire.errands[worker].push((self.run, lane.sent), sent);
        }
    }

    fn end(&mut self, wire: &Wire, shared: &mut Shared) {
        for (worker, lane) in self.lanes.iter().enumerate() {
            let end = End {
                incarnation: shared.incarnation,
                session: wire.session,
                run: self.run,
                records: lane.sent,
                whole: false,
                request: match self.purpose {
                    Purpose::Answer(request) => request,
                    Purpose::HandOver | Purpose::Remainder | Purpose::Push => 0,
                },
            };
            shared.send(wire.peer, ERRANDS + worker as u16, &end);
        }
        self.ending = true;
    }
}

impl Purpose {
    fn count(self, records: u64, counters: &mut Counters) {
        match self {
            Self::HandOver | Self::Remainder => counters.records_handed_over += records,
            Self::Answer(_) => counters.records_answered += records,
            Self::Push => counters.records_pushed += records,
        }
    }
}
