//! TCP connections in which an agent has changed lengths: from there on the two sides count differently.
//!
//! Everything in the gateway counts as the sender of a direction does: the record of the flow, and the agent. So what a
//! packet acknowledges is put into the sender's numbers when it comes in, before it is tracked, and its own numbers into
//! the receiver's when it goes out. Such flows take the long way, whoever handles them: what is added is common state.

use flowtable::FlowId;
use replication::ToSync;
use state::{CommonKey, Dir, PROTO_TCP, SeqShift};
use wire::Parsed;
use wire::renumber::{Numbers, renumber};

use crate::port::{PacketBuf, Port};
use crate::receive::Packet;
use crate::worker::Worker;

impl<P: Port> Worker<P> {
    /// Marks the flows of this worker that the common state has numbers of.
    pub(crate) fn mark_shifted_flows(&mut self) {
        let common = self.common.value().clone();
        for (key, shift) in common.shifts() {
            if let Some(id) = self.table.lookup(key) {
                self.mark_shifted(id, shift);
            }
        }
    }

    /// Marks a flow that is handled here for the first time, if the common state has numbers of it.
    #[inline]
    pub(crate) fn mark_if_shifted(&mut self, id: FlowId) {
        let common = self.common.value();
        if common.has_shifts()
            && let Some(shift) = common.shift(&self.table.entry(id).record.key).cloned()
        {
            self.mark_shifted(id, &shift);
        }
    }

    fn mark_shifted(&mut self, id: FlowId, shift: &SeqShift) {
        let entry = self.table.entry_mut(id);
        if entry.record.incarnation == shift.incarnation {
            entry.local.flags.shifted();
        }
    }

    /// The numbers of a flow; `None` of nearly all.
    #[inline]
    fn shift_of(&self, id: FlowId) -> Option<&SeqShift> {
        let entry = self.table.entry(id);
        if !entry.local.flags.is_shifted() {
            return None;
        }
        let shift = self.common.value().shift(&entry.record.key)?;
        (shift.incarnation == entry.record.incarnation).then_some(shift)
    }

    /// A packet that came in: what it acknowledges becomes what the other side has sent. Returns what is to be read of it
    /// instead, if anything has changed.
    #[inline]
    pub(crate) fn unshift(
        &self,
        id: FlowId,
        dir: Dir,
        p: &Parsed,
        buf: &mut P::Buf,
    ) -> Option<Parsed> {
        let shift = self.shift_of(id).filter(|_| p.proto == PROTO_TCP)?;
        let others = shift.side(dir.reverse());
        if others.is_nothing() {
            return None;
        }
        let numbers = Numbers {
            seq: p.tcp.seq,
            ack: others.received(p.tcp.ack),
        };
        renumber(buf.data_mut(), p, numbers, |edge| others.received(edge)).ok()?;
        let mut read = *p;
        if read.tcp.flags & wire::tcp::ACK != 0 {
            read.tcp.ack = numbers.ack;
        }
        Some(read)
    }

    /// A packet that goes out: its numbers become those that its receiver knows.
    #[inline]
    pub(crate) fn shift(&self, id: FlowId, packet: &mut Packet<'_, P::Buf>) {
        let Some(shift) = self.shift_of(id) else {
            return;
        };
        let own = shift.side(packet.dir);
        if packet.p.proto != PROTO_TCP || own.is_nothing() {
            return;
        }
        let tcp = packet.p.tcp;
        let numbers = Numbers {
            seq: own.sent(tcp.seq),
            ack: tcp.ack,
        };
        // It was read from this frame.
        let _ = renumber(packet.buf.data_mut(), packet.p, numbers, |edge| edge);
    }

    /// The flow has ended: its numbers are of no use to anybody.
    pub(crate) fn end_shift(&mut self, id: FlowId) {
        let entry = self.table.entry(id);
        if !entry.local.flags.is_shifted() {
            return;
        }
        let (key, incarnation) = (entry.record.key, entry.record.incarnation);
        let common = self.common.value();
        if let Some(stamp) = common.shift_stamp(&key, incarnation) {
            // Without room they stay, which costs a place and nothing else: they are of this incarnation.
            let key = CommonKey::SeqShift(key);
            let _ = self.links.to_sync.push(ToSync::UsedUp { key, stamp });
        }
    }
}
