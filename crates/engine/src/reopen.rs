//! Connections that begin again while an old one with the same ports is still on record.
//!
//! An end that has crashed, or whose last segments were lost or passed by while this node knew too little to believe
//! them, may open the next connection long before the record of the old one grows old. Its SYN passes and changes
//! nothing, since anybody could have forged it: if the other end still has the old connection, it says so with an
//! acknowledgement, and the opener resets what is left (RFC 5961, section 4). If the other end answers with a SYN of its
//! own that acknowledges this one, both ends have begun anew, and so does the record. (Linux's connection tracking
//! notes what it needs for this in the same way.)

use std::hash::BuildHasher;

use flowtable::FlowId;
use foldhash::fast::FixedState;
use policy::Action;
use state::{Dir, FlowKey};
use wire::tcp::{ACK, RST, SYN};

use crate::counters::Counter;
use crate::forward::opening_query;
use crate::open::First;
use crate::port::Port;
use crate::worker::Worker;

/// SYNs that are remembered; of two that meet at one place the later stays.
const PLACES: usize = 1_024;
/// Seconds for which an answer to one is waited for.
const KEEP_S: u32 = 60;

/// SYNs that passed in the middle of a connection.
#[derive(Debug)]
pub(crate) struct Doubts {
    places: Box<[Option<Doubt>]>,
    hasher: FixedState,
    /// When the last was noted; 0 for never.
    noted_s: u32,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    key: FlowKey,
    incarnation: u64,
    first: First,
    at_s: u32,
}

impl Doubts {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            places: vec![None; PLACES].into(),
            hasher: FixedState::with_seed(seed),
            noted_s: 0,
        }
    }

    fn place(&mut self, key: &FlowKey) -> &mut Option<Doubt> {
        let at = self.hasher.hash_one(key.words()) as usize % PLACES;
        &mut self.places[at]
    }

    fn are_over(&self, now_s: u32) -> bool {
        self.noted_s == 0 || now_s > self.noted_s + KEEP_S
    }

    fn note(&mut self, doubt: Doubt) {
        self.noted_s = doubt.at_s;
        *self.place(&doubt.key) = Some(doubt);
    }

    /// The SYN that a flow's opener sent, when `next` is the number behind it.
    fn confirmed(
        &mut self,
        key: &FlowKey,
        incarnation: u64,
        next: u32,
        now_s: u32,
    ) -> Option<First> {
        if self.are_over(now_s) {
            return None;
        }
        let doubt = (*self.place(key))?;
        let same = doubt.key == *key && doubt.incarnation == incarnation;
        let fits = doubt.first.tcp.seq.wrapping_add(1) == next;
        (same && fits && now_s <= doubt.at_s + KEEP_S).then_some(doubt.first)
    }
}

impl<P: Port> Worker<P> {
    /// The opener of a connection that is on record has sent a SYN, which passes.
    #[cold]
    pub(crate) fn note_doubt(&mut self, id: FlowId, first: First) {
        let record = &self.table.entry(id).record;
        if first.dir == record.class.origin && first.tcp.flags & (SYN | ACK | RST) == SYN {
            let doubt = Doubt {
                key: record.key,
                incarnation: record.incarnation,
                first,
                at_s: self.now.s(),
            };
            self.doubts.note(doubt);
        }
    }

    /// Whether a segment shows that the SYN before it has opened a connection: the answer to it does. Where other
    /// nodes handle the flow as well, the answer may pass them, and what the opener says upon it passes here; it
    /// proves less, but there windows are not enforced, and an old connection loses nothing by it.
    #[inline]
    pub(crate) fn opened_anew(
        &mut self,
        id: FlowId,
        dir: Dir,
        seg: &wire::Tcp,
        shared: bool,
    ) -> Option<First> {
        let flags = seg.flags & (SYN | ACK | RST);
        if flags != SYN | ACK && !(shared && flags == ACK) || self.doubts.are_over(self.now.s()) {
            return None;
        }
        let record = &self.table.entry(id).record;
        let next = match (flags == ACK, dir == record.class.origin) {
            (false, false) => seg.ack,
            (true, true) => seg.seq,
            _ => return None,
        };
        let (key, incarnation, now_s) = (record.key, record.incarnation, self.now.s());
        self.doubts.confirmed(&key, incarnation, next, now_s)
    }

    /// The record begins anew, as the SYN has it.
    #[cold]
    pub(crate) fn renew(&mut self, id: FlowId, first: First) -> Result<(), Counter> {
        let record = self.table.entry(id).record;
        let mut query = opening_query(&record);
        query.identity = self.identity(&query.src);
        let decision = self.policy.value().classifier.classify(&query);
        if decision.action != Action::Allow {
            self.counters.count(Counter::FlowRevoked);
            self.end_flow(id);
            return Err(Counter::DropDenied);
        }
        self.may_protect(&record.key, &decision)?;
        self.counters.count(Counter::FlowReplaced);
        self.end_flow(id);
        let zones = (record.class.zone_from, record.class.zone_to);
        let id = self.insert(&record.key, &first, Some(id), &decision, zones);
        let id = id.expect("it takes the old one's place");
        self.counters.count(Counter::FlowOpened);
        self.tell_opened(id, &decision);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::PROTO_TCP;

    #[test]
    fn a_doubt_is_confirmed_by_what_follows_its_syn_and_for_a_minute() {
        let key = |port| FlowKey::new([1; 16], [2; 16], port, 80, PROTO_TCP).0;
        let first = First {
            dir: Dir::AToB,
            proto: PROTO_TCP,
            tcp: wire::Tcp {
                seq: u32::MAX,
                flags: SYN,
                ..wire::Tcp::default()
            },
            octets: 40,
        };
        let mut doubts = Doubts::new(7);
        assert!(doubts.confirmed(&key(1), 5, 0, 10).is_none());
        doubts.note(Doubt {
            key: key(1),
            incarnation: 5,
            first,
            at_s: 10,
        });
        assert!(doubts.confirmed(&key(1), 5, 0, 70).is_some());
        assert!(
            doubts.confirmed(&key(1), 5, 1, 10).is_none(),
            "of another SYN"
        );
        assert!(
            doubts.confirmed(&key(1), 6, 0, 10).is_none(),
            "of another connection"
        );
        assert!(doubts.confirmed(&key(2), 5, 0, 10).is_none());
        assert!(doubts.confirmed(&key(1), 5, 0, 71).is_none());
    }
}
