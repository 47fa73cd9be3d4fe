//! The sending half: logs, targets, releases, adoption, and the connections that this node dialed.
//!
//! A target is a node with a stream: with `filter` the node's targets in the view, with `ecmp` every
//! other node. See [`Route`](crate::route::Route) for what is whose.

use std::collections::BTreeMap;
use std::sync::Arc;

use membership::{MemberState, View};
use state::{FlowRecord, NODES_MAX, NodeId, NodeSet, Slot, SlotSet, slot_of};

use crate::errand::{Errands, Purpose};
use crate::joining::Asks;
use crate::log::Log;
use crate::message::{
    self, Ack, ArchivedAck, ArchivedAnswer, ArchivedCompared, ArchivedWelcome, CONTROL, Compared,
    ERRANDS, Hello, Message, QUERIES, RECORDS_LAST, SNAPSHOTS, Violation, WORKER_BITS, Welcome,
    open,
};
use crate::options::{HoldAcks, Options};
use crate::replicator::Shared;
use crate::rounds::Rounds;
use crate::route::Route;
use crate::status::{CommonStatus, Counters, Event, Output, Status, TargetStatus};
use crate::target::{
    Chunk, DeltaLane, FIRST_CHUNK_SLOTS, Flight, Packer, Snapshot, Target, Wire, slots_of_worker,
};
use crate::{JobId, JobTarget, SlotDigest};

pub(crate) struct Sender {
    options: Options,
    pub(crate) route: Route,
    /// Slots that this node owns in the view.
    owned: SlotSet,
    /// By worker.
    logs: Vec<Log>,
    /// By worker: the last release.
    released: Vec<u64>,
    /// By worker: how many openings of the log are counted as acknowledged, or passed over.
    opened: Vec<u64>,
    /// By node.
    links: Vec<Link>,
    targets: BTreeMap<NodeId, Target>,
    adoption: Adoption,
    packer: Packer,
    /// Snapshots that peers asked for before the view showed them: their runs, and the numbers of
    /// the requests.
    requests: BTreeMap<NodeId, (u64, u64)>,
    /// The last request of each peer. It asks once: when it is taken for dead meanwhile and becomes
    /// a target again, what it asked for still holds.
    asked: BTreeMap<NodeId, (u64, u64)>,
    /// What is brought to peers besides.
    pub(crate) errands: Errands,
    rounds: Rounds,
    /// While this node is joining: whom it asks for their state.
    asks: Asks,
    /// Whether redundancy is whole, and since when.
    whole: (bool, u64),
}

/// The connection that this node dialed to a peer.
struct Link {
    connected: bool,
    wire: Wire,
    /// What the peer answered to our greeting.
    greeting: Option<Greeting>,
}

struct Greeting {
    incarnation: u64,
    /// By own worker: run, and how far it is applied.
    positions: Vec<(u64, u64)>,
}

/// Slots that came to this node, on their way to its targets.
struct Adoption {
    remaining: SlotSet,
    chunk: Option<Chunk>,
    pace: usize,
    /// By worker: the log number with which all scans were complete.
    until: Vec<u64>,
}

impl Adoption {
    /// The slots that are not with the log yet as a whole.
    fn unfinished(&self) -> SlotSet {
        let mut slots = self.remaining.clone();
        if let Some(chunk) = &self.chunk {
            slots.extend(&chunk.slots);
        }
        slots
    }
}

impl Sender {
    pub(crate) fn new(options: Options) -> Self {
        let workers = options.workers;
        let flights = || (0..workers).map(|_| Flight::default()).collect();
        Self {
            packer: Packer::new(&options),
            route: Route::new(options.me, options.distribution),
            owned: SlotSet::empty(),
            logs: (0..workers).map(|_| Log::new()).collect(),
            released: vec![0; workers],
            opened: vec![0; workers],
            links: (0..NODES_MAX as u8)
                .filter_map(NodeId::new)
                .map(|peer| Link {
                    connected: false,
                    wire: Wire {
                        peer,
                        session: 0,
                        window: 0,
                        deltas: flights(),
                        snapshots: flights(),
                        errands: flights(),
                    },
                    greeting: None,
                })
                .collect(),
            targets: BTreeMap::new(),
            adoption: Adoption {
                remaining: SlotSet::empty(),
                chunk: None,
                pace: FIRST_CHUNK_SLOTS,
                until: vec![0; workers],
            },
            requests: BTreeMap::new(),
            asked: BTreeMap::new(),
            errands: Errands::default(),
            rounds: Rounds::new(options.digest_every_us, workers),
            asks: Asks::default(),
            whole: (false, 0),
            options,
        }
    }

    /// A worker's next change.
    pub(crate) fn change(
        &mut self,
        worker: usize,
        lsn: u64,
        (record, idle_s): (FlowRecord, u16),
        handlers: NodeSet,
        shared: &mut Shared,
    ) {
        let expected = self.logs[worker].next();
        if lsn < expected {
            shared.counters.worker_faults += 1;
            return;
        }
        if lsn > expected {
            self.gap(worker, expected, lsn, shared);
        }
        shared.counters.changes += 1;
        if self.targets.is_empty() {
            self.logs[worker].pass();
            return;
        }
        if self.logs[worker].len() >= self.options.log_records_max {
            self.skip(worker);
            self.truncate(worker);
        }
        if self.logs[worker].len() >= self.options.log_records_max {
            self.overflow(worker, shared);
        }
        let to = self.route.to(&record, handlers);
        self.logs[worker].push((record, idle_s), shared.now_us, to, handlers);
    }

    pub(crate) fn snapshot_record(
        &mut self,
        worker: usize,
        job: JobId,
        record: FlowRecord,
        idle_s: u16,
        shared: &mut Shared,
    ) {
        let goal = self.options.chunk_records;
        if (self.errands).record(worker, job, record, idle_s, goal, shared) {
            return;
        }
        for target in self.targets.values_mut() {
            if target.snapshot_record(worker, job, record, idle_s, goal, shared) {
                return;
            }
        }
        // Of a job that was cancelled: the worker did not know yet.
    }

    pub(crate) fn job_done(&mut self, worker: usize, job: JobId, lsn: u64) {
        if let Some(chunk) = self
            .adoption
            .chunk
            .as_mut()
            .filter(|chunk| chunk.job == job)
        {
            let until = &mut self.adoption.until[worker];
            chunk.records += lsn.saturating_sub(*until) as usize;
            *until = (*until).max(lsn);
            chunk.done[worker] = true;
            return;
        }
        if self.errands.scan_done(worker, job) {
            return;
        }
        for target in self.targets.values_mut() {
            if target.scan_done(worker, job) {
                return;
            }
        }
    }

    /// A worker's digests of the slots that this node owns.
    pub(crate) fn digests(
        &mut self,
        worker: usize,
        (round, lsn): (u64, u64),
        digests: Vec<SlotDigest>,
        shared: &mut Shared,
    ) {
        let unfinished = self.adoption.unfinished();
        let slots = (&self.owned, &unfinished);
        (self.rounds).answered(worker, round, lsn, digests, slots, shared);
    }

    /// The session with a peer on the connection that this node dialed, and the peer's run, once the
    /// peer has answered the greeting.
    pub(crate) fn greeted(&self, peer: NodeId) -> Option<(u32, u64)> {
        let link = &self.links[peer.index()];
        let greeting = link.greeting.as_ref()?;
        Some((link.wire.session, greeting.incarnation))
    }

    pub(crate) fn connected(&mut self, peer: NodeId, shared: &mut Shared) {
        self.disconnected(peer, shared);
        let link = &mut self.links[peer.index()];
        link.connected = true;
        link.wire.session = link.wire.session.wrapping_add(1);
        let hello = Hello {
            cluster: self.options.cluster,
            incarnation: self.options.incarnation,
            session: link.wire.session,
            workers: self.options.workers as u16,
            node: self.options.me.raw(),
        };
        shared.send(peer, CONTROL, &hello);
    }

    pub(crate) fn disconnected(&mut self, peer: NodeId, shared: &mut Shared) {
        let link = &mut self.links[peer.index()];
        link.connected = false;
        link.greeting = None;
        let wire = &mut link.wire;
        let flights = wire.deltas.iter_mut().chain(&mut wire.snapshots);
        flights.chain(&mut wire.errands).for_each(Flight::clear);
        shared.outbox.clear_sends(peer);
        if let Some(target) = self.targets.get_mut(&peer) {
            target.detach(shared);
        }
        self.errands.disconnected(peer, shared);
    }

    /// Takes an answer. Nothing has changed when it is refused.
    pub(crate) fn answer(
        &mut self,
        peer: NodeId,
        stream: u16,
        frame: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let kind = message::kind(frame)?;
        match (kind, stream) {
            (Welcome::KIND, CONTROL) => self.welcome(peer, open(frame)?, shared),
            (Compared::KIND, ..SNAPSHOTS) => self.compared(peer, stream, open(frame)?, shared),
            (Ack::KIND, ..=RECORDS_LAST) => self.ack(peer, stream, open(frame)?, shared),
            _ => Err(Violation::Kind { kind, stream }),
        }
    }

    /// A peer's answers to questions; `None` when they are of another session.
    pub(crate) fn found<'a>(
        &self,
        peer: NodeId,
        frame: &'a [u8],
        shared: &mut Shared,
    ) -> Result<Option<&'a ArchivedAnswer>, Violation> {
        let kind = message::kind(frame)?;
        if kind != message::Answer::KIND {
            let stream = QUERIES;
            return Err(Violation::Kind { kind, stream });
        }
        let answer: &ArchivedAnswer = open(frame)?;
        let current = answer.dialer.to_native() == self.options.incarnation
            && self.session(peer) == Some(answer.session.to_native());
        shared.counters.frames_stale += u64::from(!current);
        Ok(current.then_some(answer))
    }

    /// The session of our connection to a peer that has answered the greeting.
    pub(crate) fn session(&self, peer: NodeId) -> Option<u32> {
        let link = &self.links[peer.index()];
        link.greeting.as_ref().map(|_| link.wire.session)
    }

    /// A peer asks for a snapshot, which it gets once the view shows this run of it; or for some
    /// slots.
    pub(crate) fn requested(
        &mut self,
        (peer, incarnation): (NodeId, u64),
        request: u64,
        slots: Option<SlotSet>,
        shared: &mut Shared,
    ) {
        match slots {
            Some(slots) => (self.errands).answer((peer, incarnation), request, slots, shared),
            None => {
                self.requests.insert(peer, (incarnation, request));
                self.asked.insert(peer, (incarnation, request));
            }
        }
    }

    /// A peer's snapshot is in the tables here.
    pub(crate) fn snapshot_received(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        request: u64,
        shared: &mut Shared,
    ) {
        self.asks.received(peer, incarnation, request, shared);
    }

    /// A peer's whole common state is here.
    pub(crate) fn common_received(&mut self, peer: NodeId, incarnation: u64, shared: &mut Shared) {
        self.asks.common_received(peer, incarnation, shared);
    }

    pub(crate) fn view(&mut self, view: Arc<View>, shared: &mut Shared) {
        let me = self.options.me;
        self.packer.epoch(view.epoch);
        let owned: SlotSet = Slot::all().filter(|slot| view.owns(me, *slot)).collect();
        let adopted: SlotSet = owned
            .iter()
            .filter(|slot| !self.owned.contains(*slot))
            .collect();
        let unfinished = self.adoption.unfinished();
        for slot in self.owned.iter().filter(|slot| !owned.contains(*slot)) {
            self.adoption.remaining.remove(slot);
        }
        let owned_before = std::mem::replace(&mut self.owned, owned);
        let turn = self.route.view(view.clone());

        let mut wanted = BTreeMap::new();
        for peer in self.route.peers().iter() {
            if let Some(member) = view.member(peer) {
                wanted.insert(peer, *member);
            }
        }
        self.errands.view(&view, &self.owned, shared);
        self.hand_over(&view, (&owned_before, &unfinished), shared);
        self.targets.retain(|peer, target| {
            let keep = wanted
                .get(peer)
                .is_some_and(|now| now.incarnation == target.incarnation)
                || state::mutation::is(state::mutation::Mutation::KeepDeadTargets);
            if !keep {
                target.detach(shared);
                let (peer, incarnation) = (*peer, target.incarnation);
                shared.event(Event::TargetRemoved { peer, incarnation });
            }
            keep
        });
        // Targets that are new get everything anyway.
        if !self.targets.is_empty()
            && !adopted.is_empty()
            && !state::mutation::is(state::mutation::Mutation::SkipAdoption)
        {
            self.adoption.remaining.extend(&adopted);
            shared.event(Event::Adopting {
                slots: adopted.len(),
            });
        }
        if !self.targets.is_empty() {
            self.adoption.remaining.extend(&turn.foreign);
        }
        self.reroute(shared);
        for (peer, gained) in &turn.gained {
            self.gained(*peer, gained, &adopted, shared);
        }
        for (peer, member) in wanted {
            let joining = member.state == MemberState::Joining;
            match self.targets.get_mut(&peer) {
                Some(target) => {
                    target.joining = joining;
                    if let Some(snapshot) = &mut target.snapshot {
                        // It takes what it gets for all that this node owns, and may own these next.
                        if joining {
                            snapshot.extend(&adopted);
                        }
                        snapshot.allowed |= !joining;
                    }
                }
                None => self.add_target(peer, member.incarnation, joining, shared),
            }
        }
        if self.targets.is_empty() {
            self.alone(shared);
        }
        self.asks.view(me, &view);
    }

    /// A peer with a stream is to know more slots than before. It gets the owned ones in a snapshot;
    /// foreign and adopted ones are told to all whom they concern. Where the log has given up a change
    /// that is still held, a snapshot must come first in any case: see [`add_target`](Self::add_target).
    fn gained(&mut self, peer: NodeId, slots: &SlotSet, adopted: &SlotSet, shared: &mut Shared) {
        let workers = self.options.workers;
        let Some(target) = self.targets.get_mut(&peer).filter(|_| !slots.is_empty()) else {
            return;
        };
        let told = |slot: &Slot| self.owned.contains(*slot) && !adopted.contains(*slot);
        let owned: SlotSet = slots.iter().filter(told).collect();
        if !owned.is_empty() {
            target.owe(&owned, workers, shared);
        }
        for (worker, (log, &released)) in self.logs.iter().zip(&self.released).enumerate() {
            if log.first() > released + 1 {
                let of_worker = |slot: &Slot| state::worker_of(*slot, workers) == worker;
                let held: SlotSet = slots.iter().filter(of_worker).collect();
                target.owe_first(worker, released, &held, shared);
            }
        }
    }

    /// Changes that are still in the log are for others now; a stream that has passed over one that
    /// is for its peer now goes back to it.
    fn reroute(&mut self, shared: &mut Shared) {
        if !self.route.is_ecmp() {
            return;
        }
        for (worker, log) in self.logs.iter_mut().enumerate() {
            let mut first = [None; NODES_MAX];
            let to = |record: &FlowRecord, handlers| self.route.to(record, handlers);
            log.reroute(to, |lsn, more| {
                for peer in more.iter() {
                    first[peer.index()].get_or_insert(lsn);
                }
            });
            for (peer, target) in &mut self.targets {
                if let Some(lsn) = first[peer.index()] {
                    let wire = &self.links[peer.index()].wire;
                    target.rewind(worker, lsn, Some(wire), shared);
                }
            }
        }
    }

    /// Sends, attaches, asks and releases whatever has become possible.
    pub(crate) fn pump(&mut self, shared: &mut Shared) {
        let mut asks = std::mem::take(&mut self.asks);
        asks.send(|peer| self.greeted(peer), shared);
        self.asks = asks;
        self.take_requests(shared);
        if !self.targets.is_empty() && !self.owned.is_empty() {
            self.rounds.begin(shared);
        }
        let peers = self.targets.keys().copied().collect::<state::NodeSet>();
        for peer in peers.iter() {
            self.pump_target(peer, shared);
        }
        self.pump_adoption(shared);
        for worker in 0..self.options.workers {
            self.skip(worker);
            self.release(worker, shared);
            self.truncate(worker);
        }
        let whole = self.is_whole();
        if whole != self.whole.0 {
            self.whole = (whole, shared.now_us);
            shared.event(Event::Redundancy { whole });
        }
    }

    /// Brings peers on whatever errands there are. Tells how many records owners had to learn in
    /// repairs that are complete.
    pub(crate) fn pump_errands(&mut self, shared: &mut Shared) -> Vec<(NodeId, u64)> {
        let mut pushed = Vec::new();
        for (peer, incarnation) in self.errands.peers() {
            if self.greeted(peer).map(|(_, run)| run) != Some(incarnation) {
                continue;
            }
            let wire = &mut self.links[peer.index()].wire;
            let goal = self.options.chunk_records;
            while let Some(done) = (self.errands).pump(peer, goal, wire, &mut self.packer, shared) {
                let (slots, records) = (done.slots.len(), done.records);
                match done.purpose {
                    Purpose::Push => pushed.push((peer, records)),
                    Purpose::HandOver => shared.event(Event::HandOverDone {
                        peer,
                        slots,
                        records,
                    }),
                    // Seldom of any records, and of each slot that is given away.
                    Purpose::Answer(_) | Purpose::Remainder => {}
                }
            }
        }
        pushed
    }

    pub(crate) fn status(&self, now_us: u64, counters: &Counters) -> Status {
        let target = |(peer, target): (&NodeId, &Target)| {
            let lag = |(log, lane): (&Log, &DeltaLane)| {
                let oldest = log.from(lane.done() + 1).next();
                let age_us = oldest.map_or(0, |entry| now_us.saturating_sub(entry.at_us));
                (log.next() - 1 - lane.done(), age_us)
            };
            let lags = self.logs.iter().zip(&target.deltas).map(lag);
            let (lag_records, lag_us) =
                lags.fold((0, 0), |(records, us), (r, u)| (records + r, us.max(u)));
            TargetStatus {
                peer: *peer,
                incarnation: target.incarnation,
                attached: target.attached,
                lagging: target.lagging(),
                lag_records,
                lag_us,
                snapshot_slots: target.snapshot.as_ref().map(Snapshot::slots),
                records_refused: target.records_refused(),
                refused: self.has_refused(target),
                compared_us: self
                    .rounds
                    .compared_us(target)
                    .map(|at_us| now_us.saturating_sub(at_us)),
            }
        };
        Status {
            whole: self.whole.0,
            since_us: self.whole.1,
            adopting_slots: self.adoption.remaining.len()
                + self
                    .adoption
                    .chunk
                    .as_ref()
                    .map_or(0, |chunk| chunk.slots_len),
            handing_over_slots: self.errands.slots_to_hand_over(),
            targets: self.targets.iter().map(target).collect(),
            common: CommonStatus::default(),
            counters: *counters,
        }
    }

    fn welcome(
        &mut self,
        peer: NodeId,
        welcome: &ArchivedWelcome,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let link = &mut self.links[peer.index()];
        let ours = welcome.dialer.to_native() == self.options.incarnation
            && welcome.session.to_native() == link.wire.session;
        if !link.connected || !ours {
            shared.counters.frames_stale += 1;
            return Ok(());
        }
        let window = welcome.window_records.to_native() as usize;
        if window == 0 {
            return Err(Violation::Window { records: 1, window });
        }
        let workers = welcome.positions.len();
        if workers != self.options.workers {
            return Err(Violation::Workers(workers));
        }
        let positions: Vec<(u64, u64)> = welcome
            .positions
            .iter()
            .map(|position| (position.run.to_native(), position.applied.to_native()))
            .collect();
        // What it says that it has of a log must have been sent.
        if let Some(target) = self.targets.get(&peer) {
            for ((&(run, last), lane), log) in positions.iter().zip(&target.deltas).zip(&self.logs)
            {
                let sent = log.next() - 1;
                if run == lane.run && last > sent {
                    return Err(Violation::Position {
                        run,
                        last,
                        current: lane.run,
                        sent,
                    });
                }
            }
        }
        link.wire.window = window.min(self.options.window_records);
        link.greeting = Some(Greeting {
            incarnation: welcome.incarnation.to_native(),
            positions,
        });
        Ok(())
    }

    fn ack(
        &mut self,
        peer: NodeId,
        stream: u16,
        ack: &ArchivedAck,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let link = &mut self.links[peer.index()];
        let greeted = link.greeting.as_ref().map(|greeting| greeting.incarnation);
        let current = ack.dialer.to_native() == self.options.incarnation
            && ack.session.to_native() == link.wire.session;
        if !current || greeted != Some(ack.incarnation.to_native()) {
            shared.counters.frames_stale += 1;
            return Ok(());
        }
        let of_errand = stream >= ERRANDS;
        let of_snapshot = stream >= SNAPSHOTS && !of_errand;
        let worker = usize::from(stream & WORKER_BITS);
        let workers = self.options.workers;
        if worker >= workers {
            return Err(Violation::Stream { stream, workers });
        }
        let (run, last) = (ack.run.to_native(), ack.last.to_native());
        let target = self.targets.get_mut(&peer).filter(|target| target.attached);
        let of_target = target.as_ref().filter(|_| !of_errand);
        let sent = match of_errand {
            true => self.errands.sent(peer, worker),
            false => of_target.and_then(|target| target.sent(worker, of_snapshot)),
        };
        if let Some((current, sent)) = sent
            && (run, last) > (current, sent)
        {
            return Err(Violation::Position {
                run,
                last,
                current,
                sent,
            });
        }
        let wire = &mut link.wire;
        let flights = if of_errand {
            &mut wire.errands
        } else if of_snapshot {
            &mut wire.snapshots
        } else {
            &mut wire.deltas
        };
        flights[worker].acked((run, last));
        if of_errand {
            self.errands.acked(peer, worker, run, ack.ended);
            return Ok(());
        }
        // The peer may be a target no longer, or another run of it may be one.
        let Some(target) = target else { return Ok(()) };
        let refused = ack.refused.to_native();
        if target.note_refused(worker, of_snapshot, refused) {
            target.refused_in = Some(self.rounds.number());
        }
        if of_snapshot {
            target.snapshot_acked(worker, run, ack.ended);
            return Ok(());
        }
        let lane = &mut target.deltas[worker];
        if run == lane.run {
            lane.acknowledged(last);
        }
        Ok(())
    }

    fn add_target(&mut self, peer: NodeId, incarnation: u64, joining: bool, shared: &mut Shared) {
        // From the oldest change that the log has, so that what is held now is covered. Where the
        // log has given up a change that is still held, the snapshot must come first, and of all
        // slots of its worker: the change may be of one that is owned no longer.
        let workers = self.options.workers;
        let mut slots = self.route.slots_for(peer, &self.owned);
        let mut deltas = Vec::with_capacity(workers);
        for (worker, (log, &released)) in self.logs.iter().zip(&self.released).enumerate() {
            let covered = log.first() <= released + 1;
            // With `ecmp` its slots are there already.
            if !covered && !self.route.is_ecmp() {
                slots.extend(&slots_of_worker(worker, workers));
            }
            let floor = (!covered).then_some(released);
            deltas.push(DeltaLane::new(shared.run(), log.first() - 1, floor));
        }
        if let Some(asked) = self.asked.get(&peer)
            && asked.0 == incarnation
            && joining
        {
            self.requests.insert(peer, *asked);
        }
        let snapshot = Snapshot::new(true, !joining, slots, workers);
        let target = Target {
            incarnation,
            joining,
            attached: false,
            deltas,
            snapshot: Some(snapshot),
            snapshot_ended: false,
            refused_in: None,
        };
        self.targets.insert(peer, target);
        shared.event(Event::TargetAdded { peer, incarnation });
    }

    /// A target has compared.
    fn compared(
        &mut self,
        peer: NodeId,
        stream: u16,
        compared: &ArchivedCompared,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let link = &self.links[peer.index()];
        let greeted = link.greeting.as_ref().map(|greeting| greeting.incarnation);
        let current = compared.dialer.to_native() == self.options.incarnation
            && compared.session.to_native() == link.wire.session;
        if !current || greeted != Some(compared.incarnation.to_native()) {
            shared.counters.frames_stale += 1;
            return Ok(());
        }
        let (worker, workers) = (usize::from(stream), self.options.workers);
        if worker >= workers {
            return Err(Violation::Stream { stream, workers });
        }
        if let Some(target) = self.targets.get_mut(&peer) {
            let lane = &mut target.deltas[worker];
            if lane.run == compared.run.to_native() {
                let (round, differing) =
                    (compared.round.to_native(), compared.differing.to_native());
                self.rounds.compared(lane, round, differing);
            }
        }
        Ok(())
    }

    /// Whether the target may lack what its tables had no room for.
    fn has_refused(&self, target: &Target) -> bool {
        target
            .refused_in
            .is_some_and(|round| !self.rounds.equal_since(target, round))
    }

    /// Slots that this node had are another's now: if that was not a target with all that this
    /// node has, it is brought what it may lack. (After a partition both sides have gone on; a node
    /// that has joined is no target any more, and what it has not acknowledged yet is no longer sent.)
    /// Of the other slots it is brought what this node has told nobody yet: flows whose replication is
    /// delayed would be lost by a move that nothing forced.
    /// `unfinished` are slots that this node had come by itself, and had not told all of yet.
    fn hand_over(
        &mut self,
        view: &View,
        (owned_before, unfinished): (&SlotSet, &SlotSet),
        shared: &mut Shared,
    ) {
        let mut given: BTreeMap<NodeId, SlotSet> = BTreeMap::new();
        for slot in owned_before
            .iter()
            .filter(|slot| !self.owned.contains(*slot))
        {
            if let Some(owner) = view.owner(slot) {
                given.entry(owner).or_default().insert(slot);
            }
        }
        for (owner, slots) in given {
            let Some(member) = view.member(owner) else {
                continue;
            };
            let target = self.targets.get(&owner);
            let lacks = match target.filter(|it| it.incarnation == member.incarnation) {
                None => slots.clone(),
                Some(target) if target.snapshot.is_some() => slots.clone(),
                Some(target) => {
                    let mut lacks = target.unacknowledged(owner, &self.logs, &slots);
                    lacks.extend(&slots.iter().filter(|it| unfinished.contains(*it)).collect());
                    lacks
                }
            };
            if !lacks.is_empty() {
                (self.errands).hand_over(owner, member.incarnation, &lacks, shared);
            }
            let rest: SlotSet = slots.iter().filter(|it| !lacks.contains(*it)).collect();
            if !rest.is_empty() {
                (self.errands).remainder(owner, member.incarnation, &rest, shared);
            }
        }
    }

    /// No target is left: nothing waits for anybody.
    fn alone(&mut self, shared: &mut Shared) {
        for (log, opened) in self.logs.iter_mut().zip(&mut self.opened) {
            log.restart(log.next());
            *opened = log.opened();
        }
        if let Some(chunk) = self.adoption.chunk.take() {
            chunk.cancel(shared);
        }
        self.adoption.remaining = SlotSet::empty();
    }

    fn take_requests(&mut self, shared: &mut Shared) {
        self.requests.retain(|peer, (incarnation, request)| {
            let Some(target) = self.targets.get_mut(peer) else {
                return true;
            };
            if target.incarnation == *incarnation {
                let slots = self.route.slots_for(*peer, &self.owned);
                target.requested(*request, &slots, shared);
            }
            // A request of a run that the view does not know yet is kept.
            target.incarnation < *incarnation
        });
    }

    fn pump_target(&mut self, peer: NodeId, shared: &mut Shared) {
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        let Link { wire, greeting, .. } = &mut self.links[peer.index()];
        let Some(greeting) = greeting
            .as_ref()
            .filter(|g| g.incarnation == target.incarnation)
        else {
            return;
        };
        if !target.attached {
            target.attached = true;
            let mut behind_records = 0;
            for (worker, lane) in target.deltas.iter_mut().enumerate() {
                let (run, applied) = greeting.positions[worker];
                if run == lane.run {
                    lane.acknowledged(applied);
                }
                lane.resume();
                if state::mutation::is(state::mutation::Mutation::ResumeTooFar) {
                    lane.acknowledged(self.logs[worker].next() - 1);
                    lane.resume();
                }
                behind_records += self.logs[worker].next() - 1 - lane.done();
                shared.resume(wire, worker, lane);
            }
            shared.event(Event::Attached {
                peer,
                behind_records,
            });
        }
        let comparable = target.is_comparable() && self.route.targets().contains(peer);
        for (worker, log) in self.logs.iter().enumerate() {
            if comparable && let Some(digests) = self.rounds.due(worker, target) {
                let until = Target::sends_until(log, Some(digests));
                target.pump_deltas(worker, log, until, wire, &mut self.packer, shared);
                target.send_mark(worker, digests, wire, shared);
            }
            let due = self.rounds.due(worker, target).filter(|_| comparable);
            let until = Target::sends_until(log, due);
            target.pump_deltas(worker, log, until, wire, &mut self.packer, shared);
        }
        let goal = self.options.chunk_records;
        if let Some(records) = target.pump_snapshot(goal, wire, &mut self.packer, shared) {
            shared.counters.snapshots_done += 1;
            shared.event(Event::SnapshotDone { peer, records });
        }
    }

    /// Asks for the next chunk of adopted slots once the log has room for it.
    fn pump_adoption(&mut self, shared: &mut Shared) {
        let adoption = &mut self.adoption;
        let goal = self
            .options
            .chunk_records
            .min(self.options.log_records_max / 4)
            .max(1);
        if let Some(chunk) = adoption.chunk.take_if(|chunk| chunk.scanned()) {
            adoption.pace = chunk.next_slots(goal);
        }
        if adoption.chunk.is_some() || adoption.remaining.is_empty() {
            return;
        }
        // Targets that are away or lag anyway do not hold up the others.
        let behind = |target: &Target| {
            let mut lanes = self.logs.iter().zip(&target.deltas);
            lanes.any(|(log, lane)| (log.next() - 1 - lane.done()) as usize > goal)
        };
        if self
            .targets
            .values()
            .any(|t| t.attached && !t.lagging() && behind(t))
        {
            return;
        }
        let workers = self.options.workers;
        for (until, log) in adoption.until.iter_mut().zip(&self.logs) {
            *until = log.next() - 1;
        }
        let slots_max = adoption.pace;
        let remaining = &mut adoption.remaining;
        adoption.chunk = Some(Chunk::ask(
            JobTarget::Group,
            remaining,
            slots_max,
            workers,
            shared,
        ));
    }

    /// Releases what enough targets have acknowledged.
    fn release(&mut self, worker: usize, shared: &mut Shared) {
        let log = &self.logs[worker];
        let mut acked = [0; NODES_MAX];
        let mut len = 0;
        let mut counting = NodeSet::EMPTY;
        let counts = |it: &(&NodeId, &Target)| it.1.counts();
        // Nobody counts: as when there is no target, if this node alone may release.
        let none = !self.options.alone_releases && !self.targets.iter().any(|it| counts(&it));
        // Who is joining inherits nothing, so its acknowledgement is none of `hold_acks`; but slots go to it
        // without any death, so it is waited for besides.
        let mut joining = NodeSet::EMPTY;
        let mut joined = u64::MAX;
        for (peer, target) in self.targets.iter().filter(|it| none || counts(it)) {
            counting.insert(*peer);
            let counted = target.deltas[worker].counted();
            if target.joining {
                joining.insert(*peer);
                joined = joined.min(counted);
            } else {
                acked[len] = counted;
                len += 1;
            }
        }
        let acked = &mut acked[..len];
        let lsn = if self.route.is_ecmp() && !counting.is_empty() {
            self.covered(worker, counting, joining)
        } else if counting.is_empty() {
            log.next() - 1
        } else {
            acked.sort_unstable_by(|a, b| b.cmp(a));
            match self.options.hold_acks {
                _ if acked.is_empty() => joined,
                HoldAcks::All if state::mutation::is(state::mutation::Mutation::ReleaseEarly) => {
                    acked[0]
                }
                HoldAcks::All => joined.min(acked[len - 1]),
                HoldAcks::Count(count) => joined.min(acked[count.min(len) - 1]),
            }
        };
        let released = &mut self.released[worker];
        if lsn <= *released {
            return;
        }
        if !counting.is_empty() {
            shared.counters.records_acked += lsn - *released;
            if let Some(opened) = log.opened_until(lsn) {
                shared.counters.flows_acked += opened - self.opened[worker];
                self.opened[worker] = opened;
            }
        }
        *released = lsn;
        shared.outbox.note(Output::Release { worker, lsn });
    }

    /// With `ecmp`: up to where everything is acknowledged by enough of those for whom it is.
    fn covered(&self, worker: usize, counting: NodeSet, joining: NodeSet) -> u64 {
        let log = &self.logs[worker];
        let mut counted = [0; NODES_MAX];
        for (peer, target) in &self.targets {
            counted[peer.index()] = target.deltas[worker].counted();
        }
        let by_all = counting.iter().map(|peer| counted[peer.index()]).min();
        let mut lsn = by_all.unwrap_or(0).max(self.released[worker]);
        for (next, entry) in log.numbered(lsn + 1) {
            let mut to = NodeSet(entry.to().0 & counting.0);
            let may_lack = match self.options.hold_acks {
                HoldAcks::All => 0,
                HoldAcks::Count(count) => {
                    // Who only handles the flow as well inherits nothing: it is none of those that are enough.
                    to.0 &= self.route.protectors(slot_of(&entry.record.key)).0;
                    let heirs = NodeSet(to.0 & !joining.0).len();
                    heirs.saturating_sub(count)
                }
            };
            let lacking = to.iter().filter(|peer| counted[peer.index()] < next);
            let lacking: NodeSet = lacking.collect();
            let joining_lack = lacking.0 & joining.0 != 0;
            // Of what the log has no more it is not known for whom it was.
            if next != lsn + 1 || joining_lack || lacking.len() > may_lack {
                break;
            }
            lsn = next;
        }
        lsn
    }

    /// Passes over what is not for a target.
    fn skip(&mut self, worker: usize) {
        let log = &self.logs[worker];
        for (peer, target) in &mut self.targets {
            target.deltas[worker].skip(log, *peer);
        }
    }

    /// Forgets what every target has.
    fn truncate(&mut self, worker: usize) {
        let acked = self
            .targets
            .values()
            .map(|target| target.deltas[worker].done())
            .min();
        if let Some(acked) = acked {
            self.logs[worker].truncate(acked + 1);
        }
    }

    /// The log is full: gives up its part for the targets that are furthest behind.
    fn overflow(&mut self, worker: usize, shared: &mut Shared) {
        // Releases first: what is acknowledged so far must be counted before it is forgotten.
        self.release(worker, shared);
        let log = &self.logs[worker];
        for (&peer, target) in &mut self.targets {
            if target.deltas[worker].done() + 1 > log.first() {
                continue;
            }
            let lagged = target.deltas[worker].floor.is_some();
            let wire = &self.links[peer.index()].wire;
            let deletions_max = self.options.log_records_max;
            let to = (peer, Some(wire));
            let records = target.give_up(worker, log, to, deletions_max, shared);
            if !lagged {
                shared.event(Event::Lagging {
                    peer,
                    worker,
                    records,
                });
            }
        }
        self.truncate(worker);
    }

    /// A worker skipped log numbers: what the changes were is unknown, so every target lags.
    fn gap(&mut self, worker: usize, expected: u64, found: u64, shared: &mut Shared) {
        shared.counters.worker_faults += 1;
        shared.event(Event::LogGap {
            worker,
            expected,
            found,
        });
        let of_worker = slots_of_worker(worker, self.options.workers);
        let deletions_max = self.options.log_records_max;
        for (&peer, target) in &mut self.targets {
            let log = &self.logs[worker];
            let wire = &self.links[peer.index()].wire;
            target.give_up(worker, log, (peer, None), deletions_max, shared);
            let all = match self.route.is_ecmp() {
                true => self.route.slots_for(peer, &self.owned),
                false => of_worker.clone(),
            };
            target.rebase(worker, found, &all, Some(wire), shared);
        }
        self.logs[worker].restart(found);
    }

    /// Whether every target but those that are joining has all that this node owned, and the
    /// changes up to these log numbers, by worker.
    pub(crate) fn has_flushed(&self, lsns: &[u64]) -> bool {
        let mut logs = self.logs.iter().zip(lsns);
        let taken = logs.all(|(log, lsn)| log.next() > *lsn);
        let adopted = self.adoption.remaining.is_empty() && self.adoption.chunk.is_none();
        let has_all = |target: &Target| {
            let until = self.adoption.until.iter().zip(lsns);
            let mut lanes = target.deltas.iter().zip(until);
            target.attached
                && target.snapshot.is_none()
                && lanes.all(|(lane, (until, lsn))| lane.counted() >= *until.max(lsn))
        };
        let mut targets = self.targets.values().filter(|target| !target.joining);
        taken && adopted && targets.all(has_all)
    }

    fn is_whole(&self) -> bool {
        let adopted = self.adoption.remaining.is_empty() && self.adoption.chunk.is_none();
        let has_all = |(peer, target): (&NodeId, &Target)| {
            let mut lanes = target.deltas.iter().zip(&self.adoption.until);
            // One that backs up nothing of this node's need not be there while nothing is for it.
            let there = target.attached || !self.route.targets().contains(*peer);
            there
                && target.snapshot.is_none()
                && !self.has_refused(target)
                && lanes.all(|(lane, until)| lane.counted() >= *until)
        };
        let backed = self
            .targets
            .keys()
            .any(|peer| self.route.targets().contains(*peer));
        backed && adopted && self.targets.iter().all(has_all)
    }
}
