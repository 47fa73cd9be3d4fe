//! Digests of slots: kept up with every change, compared with an owner's, and what follows where
//! they differ.
//!
//! An entry adds to the sum of its slot what was last said of it: on its owner what was handed to the
//! sync core, on a copy what was merged. So the sums of an owner at a log number and those of a copy
//! that has merged all up to that number are equal, however busy the flows are.
//!
//! Where sums differ, the owner tells again of all that it has in the slot, and the worker of the copy
//! decides on the rest ([`Worker::tell_peer`]): what the owner once told of, in the time that it
//! has been alive and active without a break, and that nobody changed since, the owner has deleted.
//! Everything else the owner has to learn of.

use flowtable::{FlowId, Local};
use membership::{MemberState, View};
use replication::{JobTarget, SlotDigest, ToSync};
use state::{FlowRecord, Life, NODES_MAX, NodeId, SLOTS, Slot, SyncMode, slot_of};

use crate::counters::Counter;
use crate::port::Port;
use crate::worker::Worker;

/// A worker's sums, and since when what owners tell counts.
#[derive(Debug)]
pub(crate) struct Digests {
    sums: Box<[u64; SLOTS]>,
    /// Grows with every view and every [`Self::listen`]; entries keep its low bits.
    count: u64,
    /// The last owner of each slot other than this node.
    teller: Box<[Option<NodeId>; SLOTS]>,
    /// The count from which on that owner has been the teller.
    teller_since: Box<[u64; SLOTS]>,
    /// By node: its run, and the count from which on it has kept its state: neither restarted nor
    /// gave up its slots. That it was thought dead meanwhile is no break: it may have been apart.
    kept: Box<[(u64, u64); NODES_MAX]>,
    /// By node: the count from which on it is listened to.
    listened: [u64; NODES_MAX],
}

/// The most by which the count may move on between two visits of the sweep: half of what an entry
/// can tell apart.
const TOLD_AGE_MAX: u64 = 1 << 15;

impl Digests {
    pub(crate) fn new() -> Self {
        Self {
            sums: Box::new([0; SLOTS]),
            count: 1,
            teller: Box::new([None; SLOTS]),
            teller_since: Box::new([0; SLOTS]),
            kept: Box::new([(0, 0); NODES_MAX]),
            listened: [u64::MAX; NODES_MAX],
        }
    }

    /// Follows who owns which slot.
    pub(crate) fn view(&mut self, me: NodeId, view: &View) {
        self.step();
        for member in &view.members {
            let kept = &mut self.kept[member.id.index()];
            let gave_up = matches!(member.state, MemberState::Joining | MemberState::Draining);
            if gave_up || kept.0 != member.incarnation {
                *kept = (member.incarnation, self.count);
            }
        }
        for slot in Slot::all() {
            let owner = view.owner(slot).filter(|owner| *owner != me);
            if owner.is_some() && self.teller[slot.index()] != owner {
                self.teller[slot.index()] = owner;
                self.teller_since[slot.index()] = self.count;
            }
        }
    }

    /// From now on it counts what this peer tells.
    pub(crate) fn listen(&mut self, peer: NodeId) {
        self.step();
        self.listened[peer.index()] = self.count;
    }

    /// The entry adds another digest to its slot from now on.
    #[inline]
    pub(crate) fn replace(&mut self, slot: Slot, local: &mut Local, digest: u32) {
        let sum = &mut self.sums[slot.index()];
        *sum = sum
            .wrapping_sub(local.digest.into())
            .wrapping_add(digest.into());
        local.digest = digest;
    }

    /// Forgets when the entry was told of before the low bits that it keeps could be mistaken. The
    /// sweep calls it every few seconds.
    #[inline]
    pub(crate) fn age(&self, local: &mut Local) {
        if local.told != 0 && self.count - self.told(local) > TOLD_AGE_MAX {
            local.told = 0;
        }
    }

    fn step(&mut self) {
        self.count += 1;
        if self.count as u16 == 0 {
            // 0 is never.
            self.count += 1;
        }
    }

    /// The count when the entry was last told of; 0 for never.
    fn told(&self, local: &Local) -> u64 {
        match local.told {
            0 => 0,
            told => self
                .count
                .saturating_sub((self.count as u16).wrapping_sub(told).into()),
        }
    }

    /// Whether `peer` was the slot's last owner beside this node, told of the flow, has kept its state
    /// ever since, and nobody else has changed the flow: what `peer` has of it now, or that it has it no
    /// longer, is the latest.
    fn is_known_to(&self, peer: NodeId, slot: Slot, local: &Local) -> bool {
        let told = self.told(local);
        self.teller[slot.index()] == Some(peer)
            && told != 0
            && told >= self.teller_since[slot.index()]
            && told >= self.kept[peer.index()].1
            && local.flags.is_replica()
            && !local.flags.is_ahead()
    }
}

impl<P: Port> Worker<P> {
    /// A peer told of a flow: notes what of it the slot's owner knows.
    pub(crate) fn note_told(
        &mut self,
        id: FlowId,
        peer: NodeId,
        record: &FlowRecord,
        changed: bool,
    ) {
        let entry = self.table.entry_mut(id);
        let slot = slot_of(&record.key);
        if self.ownership.owned.contains(slot) {
            // What is news is told to the targets, and counts from then on.
            if changed {
                entry.local.flags.compared(true);
            }
            return;
        }
        let digest = entry.record.digest();
        self.digests.replace(slot, &mut entry.local, digest);
        if self.digests.teller[slot.index()] == Some(peer) {
            entry.local.told = self.digests.count as u16;
            entry
                .local
                .flags
                .compared(!entry.record.agrees_with(record));
        } else if changed {
            entry.local.flags.compared(true);
        }
    }

    /// Removes an entry, and what it adds to its slot.
    pub(crate) fn forget(&mut self, id: FlowId) {
        let entry = self.table.entry_mut(id);
        let slot = slot_of(&entry.record.key);
        self.digests.replace(slot, &mut entry.local, 0);
        self.table.remove(id);
    }

    /// Answers which digests the owned slots have.
    pub(crate) fn tell_digests(&mut self, round: u64, mut digests: Vec<SlotDigest>) {
        let (workers, me) = (self.config.workers, self.config.worker);
        let mine = |slot: &Slot| state::worker_of(*slot, workers) == me;
        let owned = self.ownership.owned.iter().filter(mine);
        digests.clear();
        // The sync core gives room for all slots: nothing is allocated here.
        let room = digests.capacity();
        digests.extend(owned.take(room).map(|slot| SlotDigest {
            slot,
            sum: self.digests.sums[slot.index()],
            differs: false,
        }));
        self.answer(ToSync::Digests {
            round,
            lsn: self.lsn,
            digests,
        });
    }

    /// Compares an owner's digests with those of the copies here.
    pub(crate) fn compare(&mut self, token: u64, mut digests: Vec<SlotDigest>) {
        digests.retain_mut(|digest| {
            digest.differs = self.digests.sums[digest.slot.index()] != digest.sum;
            !self.ownership.owned.contains(digest.slot)
        });
        self.answer(ToSync::Compared { token, digests });
    }

    /// What a scan for one peer does with an entry of the scan's slots; whether it is to be sent.
    pub(crate) fn tell_peer(&mut self, id: FlowId, target: JobTarget) -> bool {
        let entry = self.table.entry(id);
        if entry.record.class.sync == SyncMode::None {
            return false;
        }
        let slot = slot_of(&entry.record.key);
        let dead = entry.record.life == Life::Dead;
        match target {
            JobTarget::Group => false,
            JobTarget::Peer(_) => {
                if dead || entry.local.replicate_at_s != 0 {
                    return false;
                }
                let owned = self.ownership.owned.contains(slot);
                if owned && entry.local.digest != entry.record.digest() {
                    // What one peer is told all are told: otherwise their copies would differ.
                    self.emit(id);
                }
                true
            }
            JobTarget::Heir(peer) => !self.digests.is_known_to(peer, slot, &entry.local),
            // What was said last is not what there is now. A flow that ended before anybody was told
            // of it is nobody's concern. One whose replication is delayed is left out of snapshots as well,
            // also when a former owner said the same of it: not to the new one.
            JobTarget::Untold(_) => {
                let (told, delayed) = (entry.local.digest, entry.local.replicate_at_s != 0);
                (told != entry.record.digest() || delayed) && !(dead && told == 0)
            }
            JobTarget::Owner(peer) => {
                if self.view.value().owner(slot) != Some(peer) {
                    // Its word no longer counts: a later comparison is with another owner.
                    return false;
                }
                if self.digests.told(&entry.local) >= self.digests.listened[peer.index()] {
                    return entry.local.flags.is_ahead();
                }
                if dead {
                    return false;
                }
                if self.digests.is_known_to(peer, slot, &entry.local) {
                    self.counters.count(Counter::ReplicasRepaired);
                    self.forget(id);
                    return false;
                }
                true
            }
        }
    }
}
