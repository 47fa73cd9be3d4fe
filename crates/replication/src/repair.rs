//! Repair, on the side of the copy: of slots that differ from their owner's twice in a row, the
//! owner is asked for all that it has, and then learns what it did not tell of.
//!
//! Twice, because what another handler of a flow told can be here before the owner has passed it on.

use std::sync::Arc;

use membership::{MemberState, View};
use state::{NODES_MAX, NodeId, SlotSet};

use crate::errand::Errands;
use crate::message::{CONTROL, Request};
use crate::replicator::Shared;
use crate::status::Event;
use crate::{SlotDigest, ToWorker};

/// The longest that repairs wait after one that the tables had no room for, in comparisons.
const PATIENCE_MAX: u64 = 64;

pub(crate) struct Repairs {
    me: NodeId,
    workers: usize,
    every_us: u64,
    view: Option<Arc<View>>,
    /// By node.
    peers: Vec<Repair>,
}

/// What differs from one owner's, and the repair that is under way.
struct Repair {
    incarnation: u64,
    /// Slots that differed when they were last compared.
    differed: SlotSet,
    /// Slots that differed twice.
    due: SlotSet,
    active: Option<Active>,
    /// Comparisons to wait after a repair that did not help.
    patience: u64,
    wait_until_us: u64,
}

struct Active {
    request: u64,
    slots: SlotSet,
    /// The tables here had no room for a part of the answer.
    refused: bool,
}

impl Repair {
    fn of(incarnation: u64) -> Self {
        Self {
            incarnation,
            differed: SlotSet::empty(),
            due: SlotSet::empty(),
            active: None,
            patience: 0,
            wait_until_us: 0,
        }
    }
}

impl Repairs {
    pub(crate) fn new(me: NodeId, workers: usize, every_us: u64) -> Self {
        Self {
            me,
            workers,
            every_us,
            view: None,
            peers: (0..NODES_MAX).map(|_| Repair::of(0)).collect(),
        }
    }

    /// Follows the view: what a dead node or an earlier run has is of no interest.
    pub(crate) fn view(&mut self, view: Arc<View>) {
        for member in &view.members {
            let repair = &mut self.peers[member.id.index()];
            let gone = member.state == MemberState::Dead;
            if gone || repair.incarnation != member.incarnation {
                *repair = Repair::of(member.incarnation);
            }
        }
        self.view = Some(view);
    }

    /// A connection with the peer is gone, in either direction, and with it the repair.
    pub(crate) fn interrupted(&mut self, peer: NodeId) {
        self.peers[peer.index()].active = None;
    }

    /// Slots were compared with their owner's.
    pub(crate) fn compared(&mut self, peer: NodeId, incarnation: u64, digests: &[SlotDigest]) {
        let repair = &mut self.peers[peer.index()];
        let Some(view) = self
            .view
            .as_ref()
            .filter(|_| repair.incarnation == incarnation)
        else {
            return;
        };
        let under_repair = repair.active.as_ref().map(|active| &active.slots);
        for digest in digests {
            let slot = digest.slot;
            if !digest.differs || !view.owns(peer, slot) {
                repair.differed.remove(slot);
                repair.due.remove(slot);
            } else if !under_repair.is_some_and(|slots| slots.contains(slot)) {
                if repair.differed.contains(slot) {
                    repair.due.insert(slot);
                }
                repair.differed.insert(slot);
            }
        }
    }

    /// Asks owners for what is to be repaired. `greeted` tells a peer's session and its run, once the
    /// peer has answered the greeting.
    pub(crate) fn pump(
        &mut self,
        greeted: impl Fn(NodeId) -> Option<(u32, u64)>,
        shared: &mut Shared,
    ) {
        let Some(view) = &self.view else { return };
        for (index, repair) in self.peers.iter_mut().enumerate() {
            if repair.due.is_empty()
                || repair.active.is_some()
                || shared.now_us < repair.wait_until_us
            {
                continue;
            }
            let Some(peer) = NodeId::new(index as u8).filter(|peer| *peer != self.me) else {
                continue;
            };
            let Some((session, incarnation)) = greeted(peer) else {
                continue;
            };
            if incarnation != repair.incarnation {
                continue;
            }
            let due = std::mem::take(&mut repair.due);
            let slots: SlotSet = due.iter().filter(|slot| view.owns(peer, *slot)).collect();
            for slot in due.iter() {
                repair.differed.remove(slot);
            }
            if slots.is_empty() {
                continue;
            }
            for worker in 0..self.workers {
                let listen = ToWorker::Listen { peer };
                shared.outbox.tell_worker(worker, listen);
            }
            let request = shared.run();
            let message = Request {
                incarnation: shared.incarnation,
                session,
                number: request,
                slots: slots.iter().map(|slot| slot.index() as u16).collect(),
            };
            shared.send(peer, CONTROL, &message);
            shared.counters.repairs_started += 1;
            repair.active = Some(Active {
                request,
                slots,
                refused: false,
            });
        }
    }

    /// The peer's errand is in the tables, but for what these had no room for. If it was the
    /// answer, the peer is to learn the rest.
    pub(crate) fn answered(
        &mut self,
        (peer, incarnation): (NodeId, u64),
        request: u64,
        refused: bool,
        errands: &mut Errands,
        shared: &mut Shared,
    ) {
        let active = &mut self.peers[peer.index()].active;
        if let Some(active) = active.as_mut().filter(|active| active.request == request) {
            active.refused = refused;
            errands.push((peer, incarnation), active.slots.clone(), shared);
        }
    }

    /// The peer has learned the rest.
    pub(crate) fn pushed(&mut self, peer: NodeId, records: u64, shared: &mut Shared) {
        let repair = &mut self.peers[peer.index()];
        let Some(active) = repair.active.take() else {
            return;
        };
        let slots = active.slots.len();
        if active.refused {
            repair.patience = (repair.patience * 2).clamp(2, PATIENCE_MAX);
            repair.wait_until_us = shared.now_us + self.every_us * repair.patience;
        } else {
            repair.patience = 0;
            shared.counters.slots_repaired += slots as u64;
            shared.event(Event::Repaired {
                peer,
                slots,
                records_pushed: records,
            });
        }
    }
}
