//! Tier 3, with `ecmp`: packets of flows that are unknown here, of slots that other nodes own. They wait
//! while the sync core asks for the flow; then they are handled in order, as packets of a known flow
//! or of none. A SYN asks as well: it must not replace a connection that another node handles.
//!
//! A question for each flow, a place for each packet; both are allocated at the start and as many as
//! packets may be held. What finds no place is dropped and counted: its sender sends again.

use std::hash::BuildHasher;

use flowtable::FlowId;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use membership::Distribution;
use replication::ToSync;
use state::{Dir, FlowKey, FlowRecord, NodeId, Slot, SyncMode, slot_of};

use crate::config::AtDeadline;
use crate::counters::Counter;
use crate::port::Port;
use crate::receive::Packet;
use crate::worker::Worker;
use wire::Parsed;

/// Packets that wait for an answer.
#[derive(Debug)]
pub(crate) struct Asks<B> {
    questions: Vec<Question>,
    /// Places of `questions` by key.
    index: HashTable<u32>,
    hasher: FixedState,
    /// Places of questions that nobody uses.
    vacant: Vec<u32>,
    /// Questions in order of their deadlines, linked through `Question::{before, after}`.
    first: Option<u32>,
    last: Option<u32>,
    packets: Vec<Waiting<B>>,
    room: Vec<u32>,
}

#[derive(Debug)]
struct Question {
    key: FlowKey,
    /// Which use of this place: answers to earlier ones are late.
    use_: u32,
    deadline_us: u64,
    before: Option<u32>,
    after: Option<u32>,
    /// First and last packet; `None` when the place is vacant.
    packets: Option<(u32, u32)>,
}

#[derive(Debug)]
struct Waiting<B> {
    packet: Option<Kept<B>>,
    next: Option<u32>,
}

/// A packet apart from its burst.
#[derive(Debug)]
struct Kept<B> {
    buf: B,
    p: Parsed,
    interface: u8,
    dir: Dir,
    about: bool,
}

/// What becomes of a packet that is to wait.
enum Placed {
    /// It waits behind others.
    Behind,
    /// It is the first: the question is to be asked under this token.
    First(u64),
    /// There is no room.
    Full,
}

impl<B> Asks<B> {
    pub(crate) fn with_capacity(capacity: usize, seed: u64) -> Self {
        let vacant_key = FlowKey::new([0; 16], [0; 16], 0, 0, 0).0;
        let question = |_| Question {
            key: vacant_key,
            use_: 0,
            deadline_us: 0,
            before: None,
            after: None,
            packets: None,
        };
        let waiting = |_| Waiting {
            packet: None,
            next: None,
        };
        let places = || (0..capacity as u32).rev().collect();
        Self {
            questions: (0..capacity).map(question).collect(),
            // Twice as many, so that it never grows: see `FlowTable::with_capacity`.
            index: HashTable::with_capacity(capacity * 2),
            hasher: FixedState::with_seed(seed),
            vacant: places(),
            first: None,
            last: None,
            packets: (0..capacity).map(waiting).collect(),
            room: places(),
        }
    }

    /// How many packets wait.
    pub(crate) fn waiting(&self) -> usize {
        self.packets.len() - self.room.len()
    }

    fn place(&mut self, key: &FlowKey, packet: Packet<'_, B>, deadline_us: u64) -> Placed {
        let hash = hash(&self.hasher, key);
        let found = self
            .index
            .find(hash, |at| self.questions[*at as usize].key == *key)
            .copied();
        let Some(room) = self.room.pop() else {
            return Placed::Full;
        };
        self.packets[room as usize] = Waiting {
            packet: Some(Kept {
                buf: packet.buf,
                p: *packet.p,
                interface: packet.interface,
                dir: packet.dir,
                about: packet.about,
            }),
            next: None,
        };
        if let Some(at) = found {
            let packets = &mut self.questions[at as usize].packets;
            let (first, last) = packets.expect("what is in the index is in use");
            self.packets[last as usize].next = Some(room);
            *packets = Some((first, room));
            return Placed::Behind;
        }
        let at = self
            .vacant
            .pop()
            .expect("there are as many questions as packets, and each has a packet");
        let question = &mut self.questions[at as usize];
        question.key = *key;
        question.use_ = question.use_.wrapping_add(1);
        question.deadline_us = deadline_us;
        question.packets = Some((room, room));
        question.before = self.last;
        question.after = None;
        let token = u64::from(question.use_) << 32 | u64::from(at);
        match self.last.replace(at) {
            Some(last) => self.questions[last as usize].after = Some(at),
            None => self.first = Some(at),
        }
        let (questions, hasher) = (&self.questions, &self.hasher);
        self.index.insert_unique(hash, at, |at| {
            self::hash(hasher, &questions[*at as usize].key)
        });
        Placed::First(token)
    }

    /// The place of a question that is still open.
    fn of_token(&self, token: u64) -> Option<u32> {
        let at = token as u32;
        let question = self.questions.get(at as usize)?;
        let open = question.packets.is_some() && question.use_ == (token >> 32) as u32;
        open.then_some(at)
    }

    fn of_key(&self, key: &FlowKey) -> Option<u32> {
        let hash = hash(&self.hasher, key);
        let is = |at: &u32| self.questions[*at as usize].key == *key;
        self.index.find(hash, is).copied()
    }

    /// The question whose deadline has passed.
    fn overdue(&self, now_us: u64) -> Option<u32> {
        let passed = |at: &u32| self.questions[*at as usize].deadline_us <= now_us;
        self.first.filter(passed)
    }

    /// Closes a question; gives its key and its first packet's place.
    fn close(&mut self, at: u32) -> (FlowKey, u32) {
        let question = &mut self.questions[at as usize];
        let key = question.key;
        let (first, _) = question.packets.take().expect("the question is open");
        let (before, after) = (question.before, question.after);
        match before {
            Some(before) => self.questions[before as usize].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.questions[after as usize].before = before,
            None => self.last = before,
        }
        let hash = hash(&self.hasher, &key);
        let entry = self.index.find_entry(hash, |other| *other == at);
        entry.expect("an open question is in the index").remove();
        self.vacant.push(at);
        (key, first)
    }

    /// Takes a waiting packet, and the place of the next.
    fn take(&mut self, place: u32) -> (Kept<B>, Option<u32>) {
        let waiting = &mut self.packets[place as usize];
        let packet = waiting.packet.take().expect("a packet waits there");
        self.room.push(place);
        (packet, waiting.next)
    }
}

fn hash(hasher: &FixedState, key: &FlowKey) -> u64 {
    hasher.hash_one(key.words())
}

impl<P: Port> Worker<P> {
    /// Whether flows of a slot are asked for when they are unknown here.
    #[inline]
    pub(crate) fn is_foreign(&self, slot: Slot) -> bool {
        self.config.distribution == Distribution::Ecmp && !self.ownership.owned.contains(slot)
    }

    /// Whether a copy is left from the time when this node was to have one: nobody tells it of the flow any
    /// more, so it may have ended since.
    #[inline]
    pub(crate) fn is_forsaken(&self, id: FlowId) -> bool {
        if self.config.distribution == Distribution::Filter {
            return false;
        }
        let entry = self.table.entry(id);
        let slot = slot_of(&entry.record.key);
        self.is_foreign(slot)
            && !entry.local.flags.is_handler()
            && !self.ownership.kept.contains(slot)
    }

    /// Whether other nodes handle packets of a flow, as far as this one can know. Windows are
    /// followed then and not enforced: this node does not see all of the packets.
    #[inline]
    pub(crate) fn is_shared(&self, id: FlowId) -> bool {
        if self.config.distribution == Distribution::Filter {
            return false;
        }
        let entry = self.table.entry(id);
        !entry.handlers.is_empty() || self.is_foreign(slot_of(&entry.record.key))
    }

    /// Whether other nodes are told of a flow's changes. What is not replicated is still told to the
    /// owner of its slot and by it to other handlers: packets of the other direction may be theirs.
    #[inline]
    pub(crate) fn is_told(&self, id: FlowId) -> bool {
        self.table.entry(id).record.class.sync != SyncMode::None || self.is_shared(id)
    }

    /// Whether nobody else is told of the flows of a slot.
    pub(crate) fn is_alone(&self, slot: Slot) -> bool {
        match self.config.distribution {
            Distribution::Filter => self.ownership.targets.is_empty(),
            Distribution::Ecmp => {
                let view = self.view.value();
                view.recipients(self.config.node, slot).is_empty()
            }
        }
    }

    /// Lets a packet wait for what is known of its flow.
    pub(crate) fn ask(&mut self, key: &FlowKey, packet: Packet<'_, P::Buf>) {
        if self.view.value().owner(slot_of(key)).is_none() {
            return self.counters.count(Counter::DropNoOwner);
        }
        if self.links.to_sync.is_full() {
            return self.counters.count(Counter::DropSyncFull);
        }
        let deadline_us = self.now.us + self.config.hold.deadline_us;
        match self.asks.place(key, packet, deadline_us) {
            Placed::Full => self.counters.count(Counter::DropAskFull),
            Placed::Behind => self.counters.count(Counter::AskWaiting),
            Placed::First(token) => {
                self.counters.count(Counter::AskWaiting);
                self.counters.count(Counter::Asked);
                // There was room a moment ago, and nobody else pushes.
                let _ = self.links.to_sync.push(ToSync::Ask { token, key: *key });
            }
        }
    }

    /// A peer asks for a flow: from here on it handles it as well.
    pub(crate) fn look_up(&mut self, token: u64, peer: NodeId, key: &FlowKey) {
        let found = self.table.lookup(key);
        if let Some(id) = found {
            let entry = self.table.entry_mut(id);
            entry.handlers.insert(peer);
            // What it is told of must be told on, and not only after a while.
            if entry.is_alive() && entry.local.replicate_at_s != 0 {
                self.emit(id);
            }
        }
        let record = found.map(|id| {
            let entry = self.table.entry(id);
            let idle_s = crate::sync::idle(&entry.local, self.now.s());
            (entry.record, idle_s)
        });
        self.answer(ToSync::Found { token, record });
    }

    /// A question is answered. A late answer still brings the record: the next packet finds it.
    pub(crate) fn answered(&mut self, token: u64, found: Option<(NodeId, FlowRecord, u16)>) {
        if self.asks.of_token(token).is_some() {
            self.counters.count(Counter::AskAnswered);
        }
        if let Some((peer, record, idle_s)) = &found {
            let counter = match self.apply_one(*peer, record, *idle_s) {
                true => Counter::AskFound,
                false => Counter::ReplicasRefused,
            };
            self.counters.count(counter);
        }
        if let Some(at) = self.asks.of_token(token) {
            if found.is_none() {
                self.forget_forsaken(at);
            }
            self.settle(at, true);
        }
    }

    /// Those who would know of the flow know of none.
    fn forget_forsaken(&mut self, at: u32) {
        let key = self.asks.questions[at as usize].key;
        if let Some(id) = self.table.lookup(&key)
            && self.table.entry(id).is_alive()
            && self.is_forsaken(id)
        {
            self.counters.count(Counter::ReplicasForgotten);
            self.forget(id);
        }
    }

    /// The flow has become known in another way: what waits for it goes first.
    pub(crate) fn settle_known(&mut self, key: &FlowKey) {
        if let Some(at) = self.asks.of_key(key) {
            self.settle(at, true);
        }
    }

    /// Ends questions that nobody has answered in time.
    pub(crate) fn end_overdue(&mut self) -> usize {
        let mut ended = 0;
        while let Some(at) = self.asks.overdue(self.now.us) {
            ended += 1;
            self.counters.count(Counter::AskUnanswered);
            self.settle(at, self.config.hold.at_deadline == AtDeadline::Release);
        }
        ended
    }

    /// Handles what waits for a question, in order, or drops it.
    fn settle(&mut self, at: u32, handle: bool) {
        let (key, first) = self.asks.close(at);
        let mut next = Some(first);
        while let Some(place) = next {
            let (kept, following) = self.asks.take(place);
            next = following;
            let known = self.table.lookup(&key);
            let lives =
                known.is_some_and(|id| self.table.entry(id).is_alive() && !self.is_forsaken(id));
            if !self.view_is_valid() {
                // As one that arrives now: an answer that lay ready while this node stood still says
                // nothing of who owns the flow since.
                self.counters.count(Counter::DropStaleView);
            } else if handle || lives {
                let packet = Packet {
                    buf: kept.buf,
                    p: &kept.p,
                    interface: kept.interface,
                    dir: kept.dir,
                    about: kept.about,
                };
                self.handle_known(&key, packet, known);
            } else {
                self.counters.count(Counter::DropAskDeadline);
            }
        }
    }
}
