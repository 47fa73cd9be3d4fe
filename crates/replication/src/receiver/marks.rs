//! Digests of an owner, compared in the tables here right behind the changes that they are of.

use std::collections::HashMap;

use state::{NODES_MAX, NodeId, SLOTS, Slot, worker_of};

use super::{Receiver, Told};
use crate::message::{ArchivedMark, Compared, Violation};
use crate::replicator::Shared;
use crate::{SlotDigest, ToWorker};

/// Comparisons that workers have not answered yet: one per stream of a peer, so that they are
/// bounded.
#[derive(Default)]
pub(super) struct Comparisons {
    /// By token: of which mark a part is.
    parts: HashMap<u64, (NodeId, u16)>,
    marks: HashMap<(NodeId, u16), Pending>,
    spare: Vec<Vec<SlotDigest>>,
}

struct Pending {
    incarnation: u64,
    session: u32,
    run: u64,
    round: u64,
    parts: usize,
    compared: u32,
    differing: u32,
}

/// Slots of a peer that were compared.
pub(crate) struct ComparedSlots {
    pub(crate) peer: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) slots: Vec<SlotDigest>,
}

/// How many vectors are kept to be filled again.
const SPARE_MAX: usize = NODES_MAX;

impl Receiver {
    pub(super) fn mark(
        &mut self,
        peer: NodeId,
        stream: u16,
        mark: &ArchivedMark,
        shared: &mut Shared,
    ) -> Result<Told, Violation> {
        let incarnation = mark.incarnation.to_native();
        let session = mark.session.to_native();
        if !self.current(peer, stream, incarnation, session, shared)? {
            return Ok(Told::Nothing);
        }
        let (run, after) = (mark.run.to_native(), mark.after.to_native());
        let lane = self.lane(peer, stream)?;
        if run != lane.run || run == 0 {
            return Err(Violation::Run {
                run,
                current: lane.run,
            });
        }
        if after != lane.received {
            return Err(Violation::Gap {
                expected: lane.received,
                first: after,
            });
        }
        if mark.slots.len() > SLOTS {
            return Err(Violation::Slots(mark.slots.len()));
        }
        let mut parts = vec![Vec::new(); self.workers];
        for it in mark.slots.iter() {
            let slot = it.slot.to_native();
            let slot = Slot::new(slot).ok_or(Violation::Slot(slot))?;
            parts[worker_of(slot, self.workers)].push(SlotDigest {
                slot,
                sum: it.sum.to_native(),
                differs: false,
            });
        }
        if self.comparisons.marks.contains_key(&(peer, stream)) {
            // Workers that stand still: there is another round.
            return Ok(Told::Nothing);
        }
        let mut pending = Pending {
            incarnation,
            session,
            run,
            round: mark.round.to_native(),
            parts: 0,
            compared: 0,
            differing: 0,
        };
        for (worker, slots) in parts.into_iter().enumerate() {
            if slots.is_empty() {
                continue;
            }
            let mut digests = self.comparisons.spare.pop().unwrap_or_default();
            digests.clear();
            digests.extend(slots);
            let token = self.next_token;
            self.next_token += 1;
            pending.parts += 1;
            self.comparisons.parts.insert(token, (peer, stream));
            let request = ToWorker::Compare { token, digests };
            shared.outbox.tell_worker(worker, request);
        }
        if pending.parts > 0 {
            self.comparisons.marks.insert((peer, stream), pending);
        }
        Ok(Told::Nothing)
    }

    /// A worker has compared a part of a mark. The slots' vector is to be given back to
    /// [`Self::keep_digests`].
    pub(crate) fn compared(
        &mut self,
        token: u64,
        slots: Vec<SlotDigest>,
        shared: &mut Shared,
    ) -> Option<ComparedSlots> {
        let found = self.comparisons.parts.remove(&token);
        let Some((peer, stream)) = found else {
            shared.counters.worker_faults += 1;
            return None;
        };
        let mark = self.comparisons.marks.get_mut(&(peer, stream))?;
        let differing = slots.iter().filter(|slot| slot.differs).count();
        mark.compared += slots.len() as u32;
        mark.differing += differing as u32;
        mark.parts -= 1;
        shared.counters.slots_compared += slots.len() as u64;
        shared.counters.slots_differing += differing as u64;
        let incarnation = mark.incarnation;
        if mark.parts == 0
            && let Some(mark) = self.comparisons.marks.remove(&(peer, stream))
        {
            let inbound = &self.peers[peer.index()];
            let greeted = inbound.hello.is_none() && inbound.incarnation == incarnation;
            if greeted && inbound.session == Some(mark.session) {
                let answer = Compared {
                    incarnation: self.incarnation,
                    dialer: incarnation,
                    session: mark.session,
                    run: mark.run,
                    round: mark.round,
                    compared: mark.compared,
                    differing: mark.differing,
                };
                shared.reply(peer, stream, &answer);
            }
        }
        Some(ComparedSlots {
            peer,
            incarnation,
            slots,
        })
    }

    /// Keeps the memory of a comparison for the next.
    pub(crate) fn keep_digests(&mut self, slots: Vec<SlotDigest>) {
        if self.comparisons.spare.len() < SPARE_MAX {
            self.comparisons.spare.push(slots);
        }
    }
}
