//! Growing old: flows that are idle for too long end, copies that nobody needs here go, active
//! flows are replicated anew now and then, next hops are confirmed.

use std::sync::atomic::Ordering;

use flowtable::FlowId;
use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Slot, SyncMode, TcpPhase, slot_of};
use wire::reply::{IcmpError, Unreachable};

use crate::counters::Counter;
use crate::forward::NO_HOP;
use crate::hops::Due;
use crate::port::{PacketBuf, Port};
use crate::receive::Packet;
use crate::worker::Worker;

/// A whole sweep of the shard takes about this many housekeepings, that is about two seconds.
const SWEEP_STEPS: usize = 2_000;
/// Seconds after a change of the view before copies that it does not want here are removed: the
/// next change may want them again.
const FORGET_AFTER_S: u32 = 60;
/// Next hops looked after at one housekeeping.
const HOPS_PER_STEP: u32 = 64;

impl<P: Port> Worker<P> {
    /// One step of the sweep over the shard.
    pub(crate) fn sweep(&mut self) {
        let step = self.table.capacity().div_ceil(SWEEP_STEPS);
        let end = (self.age_cursor + step).min(self.table.capacity());
        for place in self.age_cursor..end {
            if let Some(id) = self.table.at(place) {
                self.age(id);
            }
        }
        self.age_cursor = end;
        if end == self.table.capacity() {
            self.age_cursor = 0;
            let told = &self.shared.told;
            told.flows_live
                .store(std::mem::take(&mut self.live_counted), Ordering::Relaxed);
            told.flows_owned
                .store(std::mem::take(&mut self.owned_counted), Ordering::Relaxed);
        }
    }

    fn age(&mut self, id: FlowId) {
        let now_s = self.now.s();
        let entry = self.table.entry(id);
        let local = entry.local;
        if !entry.is_alive() {
            if now_s < local.seen_s.saturating_add(self.config.timeouts.tombstone) {
                return;
            }
            let slot = slot_of(&entry.record.key);
            if local.digest != 0 && self.ownership.owned.contains(slot) {
                // Its end found the ring full and is not told yet: it goes once it is.
                return self.emit(id);
            }
            return self.forget(id);
        }
        let slot = slot_of(&entry.record.key);
        let sync = entry.record.class.sync;
        let local_mut = &mut self.table.entry_mut(id).local;
        self.digests.age(local_mut);
        // So that a flow that is seldom seen does not meet an epoch's low bits again.
        if local_mut.common_epoch != self.common_epoch {
            local_mut.common_epoch = 0;
        }
        if local_mut.hops_epoch != self.hops.epoch() {
            local_mut.hops_epoch = 0;
        }
        if self.is_foreign(slot) && local.flags.is_handler() {
            return self.age_handled(id, slot);
        }
        if !self.ownership.owned.contains(slot) {
            let settled = now_s >= self.ownership.changed_s.saturating_add(FORGET_AFTER_S);
            if state::mutation::is(state::mutation::Mutation::ExpireCopies)
                && now_s >= local.seen_s.saturating_add(self.timeout(id))
            {
                return self.end_flow(id);
            }
            if settled && !self.ownership.kept.contains(slot) {
                self.counters.count(Counter::ReplicasForgotten);
                self.forget(id);
            } else {
                // Otherwise it never expires by itself: its owner deletes it.
                self.live_counted += 1;
            }
            return;
        }
        let seen_s = local.seen_s.max(self.ownership.since_s[slot.index()]);
        if now_s >= seen_s.saturating_add(self.timeout(id)) {
            self.counters.count(Counter::FlowExpired);
            return self.end_flow(id);
        }
        self.live_counted += 1;
        self.owned_counted += 1;
        if sync == SyncMode::None && !self.is_told(id) {
            return;
        }
        let due = local.replicate_at_s != 0 && now_s >= local.replicate_at_s;
        let refresh = local.replicate_at_s == 0
            && local.seen_s > local.replicated_s
            && now_s >= local.replicated_s.saturating_add(self.config.refresh_s);
        if due || refresh {
            self.emit(id);
        }
    }

    /// A flow that this node handles for another: its owner may see none of its packets, and is told
    /// well before it would take the flow for idle. The owner ends it; should that word be lost, what
    /// this node need not keep goes some time after.
    fn age_handled(&mut self, id: FlowId, slot: Slot) {
        let now_s = self.now.s();
        let timeout_s = self.timeout(id);
        let local = self.table.entry(id).local;
        let grace_s = self.config.refresh_s.saturating_add(FORGET_AFTER_S);
        let over_s = local
            .seen_s
            .saturating_add(timeout_s)
            .saturating_add(grace_s);
        if now_s >= over_s && !self.ownership.kept.contains(slot) {
            self.counters.count(Counter::ReplicasForgotten);
            return self.forget(id);
        }
        self.live_counted += 1;
        let every_s = self.config.refresh_s.min(timeout_s / 3).max(1);
        let refresh = local.flags.is_fresh() && now_s >= local.replicated_s.saturating_add(every_s);
        if refresh && self.is_told(id) {
            self.emit(id);
        }
    }

    fn timeout(&self, id: FlowId) -> u32 {
        let record = &self.table.entry(id).record;
        let timeouts = &self.config.timeouts;
        let own_s = u32::from(record.mark.timeout_s);
        match record.key.proto() {
            // A connection that is not open, or is no longer, ends as any other.
            PROTO_TCP if own_s != 0 && record.progress.tcp_phase() == TcpPhase::Established => {
                own_s
            }
            proto if own_s != 0 && proto != PROTO_TCP => own_s,
            PROTO_TCP => timeouts.tcp[record.progress.tcp_phase() as usize],
            PROTO_UDP if record.progress.replied() => timeouts.udp_stream,
            PROTO_UDP => timeouts.udp_new,
            PROTO_ICMP | PROTO_ICMPV6 => timeouts.icmp,
            _ if record.progress.replied() => timeouts.other_stream,
            _ => timeouts.other_new,
        }
    }

    /// Looks after next hops: asks for addresses, and tells those who wait in vain.
    pub(crate) fn tend_hops(&mut self) {
        for _ in 0..HOPS_PER_STEP.min(self.hops.places()) {
            self.hop_cursor = (self.hop_cursor + 1) % self.hops.places();
            let number = self.hop_cursor;
            match self.hops.tend(number, self.now.us) {
                Due::Nothing => {}
                Due::Solicit => self.solicit(number),
                Due::Failed => {
                    let waiting = std::mem::take(&mut self.hops.hop_mut(number).pending);
                    for buf in waiting {
                        self.counters.count(Counter::DropHopUnresolved);
                        self.answer_unreachable(buf);
                    }
                    self.hops.forget(number);
                }
            }
        }
    }

    /// Tells the sender of a packet that waited for its next hop that there is no such host. The
    /// packet was rewritten already: its interface is found by the way back.
    fn answer_unreachable(&mut self, buf: P::Buf) {
        let Ok(p) = wire::parse(buf.data()) else {
            return;
        };
        let Some(back) = self.routes.lookup(&p.src) else {
            return;
        };
        let Some((_, dir, about)) = crate::receive::flow_key(&p) else {
            return;
        };
        let number = self
            .hops
            .number(back.interface, back.next(&p.src), self.now.us);
        let Some(mac) = number
            .filter(|n| *n != NO_HOP)
            .and_then(|n| self.hops.hop(n).mac)
        else {
            return;
        };
        // The error goes to the Ethernet source of what it answers.
        let p = wire::Parsed { eth_src: mac, ..p };
        let packet = Packet {
            buf,
            p: &p,
            interface: back.interface,
            dir,
            about,
        };
        self.answer_error(&packet, IcmpError::Unreachable(Unreachable::Host));
    }
}
