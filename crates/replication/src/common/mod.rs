//! Common state on every node: this node's map, what of it each peer has, and what is due to whom.
//!
//! Every change of the map gets a number of its own, and the numbers index the keys: a key that
//! changes again takes a later number and gives up its earlier one, so that what waits for a peer is
//! never more than the map. A peer that has all up to a number needs the keys with later ones; a new
//! run of a peer gets the whole map first. Every node tells every other, at once what was written
//! here, and within a second also what it heard from others, but for those that it heard it from, so
//! that a node reaches even those that its connections do not. Then summaries are compared, and when
//! they differ while nothing is on its way, the whole map is sent again.
//!
//! A tombstone is forgotten once every configured member has it, and has said so on the stream on
//! which its own changes come: whatever it sent before it had the tombstone has come before that. A
//! member that is away keeps them; when it comes back as a new run, it has nothing older.

mod inbound;
mod lane;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use membership::{MemberState, View};
use state::{
    CommonEntry, CommonError, CommonKey, CommonKind, CommonKinds, CommonMap, CommonValue,
    HybridClock, NODES_MAX, NodeId, NodeSet, Stamp,
};

use crate::options::Options;
use crate::replicator::Shared;
use crate::status::{CommonStatus, Output};
use inbound::Inbound;
use lane::Lane;

/// Time between two summaries, and what a change that came from a peer waits to be passed on.
const DIGEST_US: u64 = 1_000_000;
/// How many summaries in a row may differ while entries come and go before the whole map is sent
/// again: what a third node wrote comes here a little sooner than there.
const DIFFERENCES_MAX: u32 = 10;
/// How many of this node's writes are told apart while they wait for peers.
const WRITES_MAX: usize = 4_096;

/// The number before all changes: a peer that has an empty map has all up to it, and one that
/// has nothing yet has 0.
const FIRST: u64 = 1;

const EVERYBODY: NodeSet = NodeSet(u32::MAX);

/// The time, by two clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Microseconds of the clock that does not go back.
    pub now_us: u64,
    /// Unix milliseconds.
    pub unix_ms: u64,
}

/// The common state of one node.
pub(crate) struct Common {
    me: NodeId,
    clock: HybridClock,
    map: CommonMap,
    /// Keys by the number of their last change.
    log: BTreeMap<u64, CommonKey>,
    /// By key, tombstones too.
    marks: HashMap<CommonKey, Mark>,
    /// Of these in `log`, the tombstones.
    graves: BTreeMap<u64, CommonKey>,
    last: u64,
    /// Keys whose last change came from a peer, or by age: they get a number at the next summary.
    relayed: BTreeSet<CommonKey>,
    /// By node.
    lanes: Vec<Lane>,
    /// By node.
    inbound: Vec<Inbound>,
    /// Configured members other than this node, with their states and runs.
    members: Vec<(NodeId, MemberState, u64)>,
    /// Writes of this node that not every living member has, by number.
    writes: VecDeque<(u64, Stamp)>,
    changed: CommonKinds,
    digest_at_us: u64,
}

/// What is known of an entry beside what it says.
#[derive(Clone, Copy, Default)]
struct Mark {
    /// The number of its last change; 0 while it has none.
    number: u64,
    /// Peers that have it without being told: it came from them.
    has: NodeSet,
}

impl Common {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            me: options.me,
            clock: HybridClock::new(options.me),
            map: CommonMap::new(),
            log: BTreeMap::new(),
            marks: HashMap::new(),
            graves: BTreeMap::new(),
            last: FIRST,
            relayed: BTreeSet::new(),
            lanes: (0..NODES_MAX).map(|_| Lane::default()).collect(),
            inbound: (0..NODES_MAX).map(|_| Inbound::default()).collect(),
            members: Vec::new(),
            writes: VecDeque::new(),
            changed: CommonKinds::NONE,
            digest_at_us: 0,
        }
    }

    pub(crate) fn map(&self) -> &CommonMap {
        &self.map
    }

    pub(crate) fn put(
        &mut self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
        times: Times,
    ) -> Result<Stamp, CommonError> {
        let stamp = self.clock.now(times.unix_ms);
        self.map
            .put(key, value, life_ms, stamp, times.now_us / 1_000)?;
        self.written(key, stamp);
        Ok(stamp)
    }

    pub(crate) fn delete(&mut self, key: &CommonKey, times: Times) -> Option<Stamp> {
        let stamp = self.clock.now(times.unix_ms);
        if !self.map.delete(key, stamp) {
            return None;
        }
        self.written(*key, stamp);
        Some(stamp)
    }

    /// The entry was used up by what it was for: it is deleted, unless it was written anew since.
    pub(crate) fn used(&mut self, key: CommonKey, of: Stamp) {
        if self.map.stamp(&key) != Some(of) {
            return;
        }
        // Later than what was used, which is all that matters.
        self.clock.observe(of);
        let stamp = self.clock.now(0);
        if self.map.delete(&key, stamp) {
            self.written(key, stamp);
        }
    }

    /// Members that live and have not acknowledged all that was written here up to `stamp`.
    pub(crate) fn lacking(&self, stamp: Stamp) -> Vec<NodeId> {
        let write = self.writes.iter().find(|(_, of)| *of >= stamp);
        let number = write.map_or(0, |(number, _)| *number);
        self.living_behind(number).collect()
    }

    pub(crate) fn view(&mut self, view: &View) {
        let members = view.members.iter().filter(|member| member.id != self.me);
        self.members = members
            .map(|member| (member.id, member.state, member.incarnation))
            .collect();
        // Who died may have told some and not others: they find out at once.
        self.digest_at_us = 0;
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, shared: &mut Shared) {
        let ended = self.map.expire(shared.now_us / 1_000);
        shared.counters.common_expired += ended.len() as u64;
        for key in ended {
            self.heard(key, NodeSet::EMPTY);
        }
    }

    /// The connection that this node dialed to `peer` is gone.
    pub(crate) fn disconnected(&mut self, peer: NodeId) {
        self.lanes[peer.index()].disconnected();
    }

    /// The peer has answered the greeting of our connection to it.
    pub(crate) fn greeted(&mut self, peer: NodeId, session: u32, incarnation: u64) {
        let lane = &mut self.lanes[peer.index()];
        if lane.session() == Some(session) {
            return;
        }
        if lane.greeted(session, incarnation) {
            // What it once had it has no more.
            for mark in self.marks.values_mut() {
                mark.has.remove(peer);
            }
        }
    }

    /// Sends what is due, after it was told what has changed, which must go first.
    pub(crate) fn pump(&mut self, shared: &mut Shared) {
        if !self.changed.is_empty() {
            let kinds = std::mem::take(&mut self.changed);
            shared.outbox.note(Output::CommonChanged { kinds });
        }
        self.acknowledge(shared);
        let summary = shared.now_us >= self.digest_at_us;
        if summary {
            self.digest_at_us = shared.now_us + DIGEST_US;
            for key in std::mem::take(&mut self.relayed) {
                self.number(key);
            }
        }
        for peer in (0..NODES_MAX as u8).filter_map(NodeId::new) {
            self.pump_lane(peer, summary, shared);
        }
        self.synced(shared);
        if summary {
            self.forget();
        }
    }

    pub(crate) fn status(&self) -> CommonStatus {
        let mut entries = [0; CommonKind::ALL.len()];
        for (kind, count) in CommonKind::ALL.into_iter().zip(&mut entries) {
            *count = self.map.len_of(kind);
        }
        CommonStatus {
            entries,
            tombstones: self.map.tombstones(),
            digest: self.map.digest(),
            behind: self.living_behind(self.last).collect(),
            differ: self
                .living()
                .map(|(peer, _)| peer)
                .filter(|peer| self.lanes[peer.index()].differences > 0)
                .collect(),
            given_up: self.map.given_up(),
            tombstones_forgotten: self.map.tombstones_forgotten(),
        }
    }

    /// An entry was written here.
    fn written(&mut self, key: CommonKey, stamp: Stamp) {
        self.marks.entry(key).or_default().has = NodeSet::EMPTY;
        self.relayed.remove(&key);
        self.number(key);
        self.note(key);
        // A later write covers the earlier ones.
        if self.writes.len() >= WRITES_MAX {
            self.writes.pop_back();
        }
        self.writes.push_back((self.last, stamp));
    }

    /// An entry changed otherwise; `from` have it already.
    fn heard(&mut self, key: CommonKey, from: NodeSet) {
        self.marks.entry(key).or_default().has = from;
        self.unnumber(&key);
        self.relayed.insert(key);
        self.note(key);
    }

    fn note(&mut self, key: CommonKey) {
        self.changed.insert(key.kind());
        for displaced in self.map.take_displaced() {
            self.changed.insert(displaced.kind());
            self.displaced(displaced);
        }
    }

    /// A key made room for another: it is a tombstone now, or is forgotten.
    fn displaced(&mut self, key: CommonKey) {
        if self.map.stamp(&key).is_none() {
            self.unnumber(&key);
            self.marks.remove(&key);
            self.relayed.remove(&key);
        } else if let Some(mark) = self.marks.get(&key)
            && mark.number != 0
        {
            self.graves.insert(mark.number, key);
        }
    }

    /// Gives the key's last change the next number.
    fn number(&mut self, key: CommonKey) {
        self.unnumber(&key);
        self.last += 1;
        self.log.insert(self.last, key);
        if self.map.get(&key).is_none() {
            self.graves.insert(self.last, key);
        }
        self.marks.entry(key).or_default().number = self.last;
    }

    fn unnumber(&mut self, key: &CommonKey) {
        if let Some(mark) = self.marks.get_mut(key) {
            self.log.remove(&mark.number);
            self.graves.remove(&mark.number);
            mark.number = 0;
        }
    }

    /// Takes a peer's entry in.
    fn merge(&mut self, peer: NodeId, entry: &CommonEntry, shared: &mut Shared) {
        self.clock.observe(entry.stamp);
        let same = self.map.stamp(&entry.key) == Some(entry.stamp)
            && self.map.get(&entry.key) == entry.value.as_ref();
        // Whoever has the entry itself tells others that it is gone. Were a tombstone passed on that
        // says nothing new here, nodes that forget it in turn would hand it around for ever.
        let news = entry.value.is_some() || self.map.stamp(&entry.key).is_some();
        if self.map.merge(entry, shared.now_us / 1_000) {
            shared.counters.common_merged += 1;
            // One that only ends a little sooner is nothing that others need to hear.
            if !same {
                let from = std::iter::once(peer).collect();
                self.heard(entry.key, if news { from } else { EVERYBODY });
            }
            return;
        }
        let Some(mark) = self.marks.get_mut(&entry.key) else {
            return;
        };
        if same {
            mark.has.insert(peer);
        } else if mark.has.contains(peer) || self.lanes[peer.index()].acked() >= mark.number {
            // It has an older one than it had: it hears ours again.
            mark.has.remove(peer);
            if mark.number != 0 {
                self.relayed.insert(entry.key);
            }
        }
    }

    /// Members that live, with their runs.
    fn living(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.members
            .iter()
            .filter(|(_, state, _)| *state != MemberState::Dead)
            .map(|(peer, _, incarnation)| (*peer, *incarnation))
    }

    /// Of these, the ones that lack a change up to `number`.
    fn living_behind(&self, number: u64) -> impl Iterator<Item = NodeId> {
        self.living()
            .filter(move |(peer, incarnation)| {
                self.lanes[peer.index()].acked_by(*incarnation) < number
            })
            .map(|(peer, _)| peer)
    }

    /// Tells which of this node's writes every living member has.
    fn synced(&mut self, shared: &mut Shared) {
        let acked = self
            .living()
            .map(|(peer, incarnation)| self.lanes[peer.index()].acked_by(incarnation))
            .min();
        let acked = acked.unwrap_or(u64::MAX);
        let mut newest = None;
        while let Some(&(number, stamp)) = self.writes.front()
            && number <= acked
        {
            newest = Some(stamp);
            self.writes.pop_front();
        }
        if let Some(stamp) = newest {
            shared.outbox.note(Output::CommonSynced { stamp });
        }
    }

    /// Forgets the tombstones that every configured member has.
    fn forget(&mut self) {
        let members = self
            .members
            .iter()
            .map(|(peer, ..)| &self.lanes[peer.index()]);
        // Also those that connected before a view had them.
        let connected = self
            .lanes
            .iter()
            .zip(&self.inbound)
            .filter(|(lane, inbound)| lane.was_greeted() || inbound.was_heard())
            .map(|(lane, _)| lane);
        let settled = members.chain(connected).map(|lane| lane.settled).min();
        let settled = match state::mutation::is(state::mutation::Mutation::ForgetDeletions) {
            true => self.last,
            false => settled.unwrap_or(self.last),
        };
        while let Some((&number, &key)) = self.graves.first_key_value()
            && number <= settled
        {
            self.unnumber(&key);
            self.marks.remove(&key);
            self.map.forget_tombstone(&key);
        }
    }
}
