//! What a worker of the virtual network knows of its flows besides the records: what it has said of
//! them, and what owners told. The rules are the engine's (`engine/src/digest.rs`), written for maps.

use std::collections::{HashMap, HashSet};

use membership::{MemberState, View};
use replication::{JobTarget, SlotDigest};
use state::{FlowKey, FlowRecord, Life, NODES_MAX, NodeId, SLOTS, Slot, slot_of, worker_of};

/// What a scan does with a flow.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Skip,
    Send,
    Remove,
}

pub(crate) struct Copies {
    said: HashMap<FlowKey, u32>,
    told: HashMap<FlowKey, u64>,
    ahead: HashSet<FlowKey>,
    handled: HashSet<FlowKey>,
    count: u64,
    owner: Vec<Option<NodeId>>,
    teller: Vec<Option<NodeId>>,
    teller_since: Vec<u64>,
    kept: Vec<(u64, u64)>,
    listened: Vec<u64>,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            said: HashMap::new(),
            told: HashMap::new(),
            ahead: HashSet::new(),
            handled: HashSet::new(),
            count: 1,
            owner: vec![None; SLOTS],
            teller: vec![None; SLOTS],
            teller_since: vec![0; SLOTS],
            kept: vec![(0, 0); NODES_MAX],
            listened: vec![u64::MAX; NODES_MAX],
        }
    }
}

impl Copies {
    pub(crate) fn view(&mut self, me: NodeId, view: &View) {
        self.count += 1;
        for member in &view.members {
            let kept = &mut self.kept[member.id.index()];
            let gave_up = matches!(member.state, MemberState::Joining | MemberState::Draining);
            if gave_up || kept.0 != member.incarnation {
                *kept = (member.incarnation, self.count);
            }
        }
        for slot in Slot::all() {
            let owner = view.owner(slot);
            self.owner[slot.index()] = owner;
            if owner.is_some_and(|it| it != me) && self.teller[slot.index()] != owner {
                self.teller[slot.index()] = owner;
                self.teller_since[slot.index()] = self.count;
            }
        }
    }

    pub(crate) fn listen(&mut self, peer: NodeId) {
        self.count += 1;
        self.listened[peer.index()] = self.count;
    }

    /// A packet of the flow was handled here.
    pub(crate) fn handled(&mut self, key: FlowKey) {
        self.handled.insert(key);
    }

    /// A change was handed to the sync core.
    pub(crate) fn said(&mut self, record: &FlowRecord) {
        self.said.insert(record.key, record.digest());
    }

    /// A peer told of a flow, which is now as `mine`.
    pub(crate) fn merged(
        &mut self,
        owned: bool,
        peer: NodeId,
        (mine, theirs): (&FlowRecord, &FlowRecord),
        changed: bool,
    ) {
        let key = mine.key;
        if changed {
            self.ahead.insert(key);
        }
        if owned {
            return;
        }
        self.said(mine);
        if changed {
            self.handled.remove(&key);
        }
        if self.teller[slot_of(&key).index()] == Some(peer) {
            self.told.insert(key, self.count);
            if mine.agrees_with(theirs) {
                self.ahead.remove(&key);
            } else {
                self.ahead.insert(key);
            }
        }
    }

    pub(crate) fn removed(&mut self, key: &FlowKey) {
        self.said.remove(key);
        self.told.remove(key);
        self.ahead.remove(key);
        self.handled.remove(key);
    }

    pub(crate) fn decide(&self, target: JobTarget, record: &FlowRecord) -> Verdict {
        let (key, slot) = (record.key, slot_of(&record.key));
        let told = self.told.get(&key).copied().unwrap_or(0);
        let is_known_to = |peer: NodeId| {
            self.teller[slot.index()] == Some(peer)
                && told != 0
                && told >= self.teller_since[slot.index()]
                && told >= self.kept[peer.index()].1
                && !self.handled.contains(&key)
                && !self.ahead.contains(&key)
        };
        match target {
            JobTarget::Group | JobTarget::Peer(_) => Verdict::Send,
            JobTarget::Heir(peer) if is_known_to(peer) => Verdict::Skip,
            JobTarget::Heir(_) => Verdict::Send,
            JobTarget::Untold(_) if self.said.get(&key) == Some(&record.digest()) => Verdict::Skip,
            JobTarget::Untold(_) => Verdict::Send,
            JobTarget::Owner(peer) => {
                if self.owner[slot.index()] != Some(peer) {
                    Verdict::Skip
                } else if told >= self.listened[peer.index()] {
                    match self.ahead.contains(&key) {
                        true => Verdict::Send,
                        false => Verdict::Skip,
                    }
                } else if record.life == Life::Dead {
                    Verdict::Skip
                } else if is_known_to(peer) {
                    Verdict::Remove
                } else {
                    Verdict::Send
                }
            }
        }
    }

    fn sum(&self, slot: Slot) -> u64 {
        let of_slot = self.said.iter().filter(|(key, _)| slot_of(key) == slot);
        of_slot.map(|(_, digest)| u64::from(*digest)).sum()
    }

    /// The digests of the slots of one of `workers` workers that the node owns.
    pub(crate) fn digests(&self, me: NodeId, worker: usize, workers: usize) -> Vec<SlotDigest> {
        let mine = Slot::all()
            .filter(|slot| worker_of(*slot, workers) == worker)
            .filter(|slot| self.owner[slot.index()] == Some(me));
        let digest = |slot| SlotDigest {
            slot,
            sum: self.sum(slot),
            differs: false,
        };
        mine.map(digest).collect()
    }

    pub(crate) fn compare(&self, me: NodeId, digests: &mut Vec<SlotDigest>) {
        digests.retain_mut(|it| {
            it.differs = self.sum(it.slot) != it.sum;
            self.owner[it.slot.index()] != Some(me)
        });
    }
}
