//! Tier 2: packets of known flows, and the way out.

use flowtable::FlowId;
use policy::Action;
use state::{Life, PROTO_TCP, Progress, SyncMode, slot_of};
use wire::reply::{IcmpError, Unreachable};
use wire::rewrite::{self, RewriteError};
use wire::{Mac, Parsed, ethernet};

use crate::counters::Counter;
use crate::hops::Due;
use crate::open::First;
use crate::port::{PacketBuf, Port};
use crate::receive::Packet;
use crate::tcp::{self, Outcome};
use crate::worker::Worker;

impl<P: Port> Worker<P> {
    /// A packet of a flow that lives.
    pub(crate) fn forward_known(&mut self, mut packet: Packet<'_, P::Buf>, id: FlowId) {
        if !self.table.entry(id).local.flags.is_handler() {
            self.mark_if_shifted(id);
        }
        match self.unshift(id, packet.dir, packet.p, &mut packet.buf) {
            Some(read) => self.follow(Packet { p: &read, ..packet }, id),
            None => self.follow(packet, id),
        }
    }

    fn follow(&mut self, packet: Packet<'_, P::Buf>, id: FlowId) {
        let (p, dir) = (packet.p, packet.dir);
        let zone = self.config.interfaces[usize::from(packet.interface)].zone;
        let entry = self.table.entry(id);
        let class = entry.record.class;
        let expected = if dir == class.origin {
            class.zone_from
        } else {
            class.zone_to
        };
        if zone != expected {
            self.counters.count(Counter::DropZone);
            return;
        }
        let old_rules = entry.record.verdict.generation != self.policy.value().generation;
        if (old_rules || entry.local.common_epoch != self.common_epoch)
            && let Err(reason) = self.judge_again(id)
        {
            return self.counters.count(reason);
        }
        let now_s = self.now.s();
        let shared = self.is_shared(id);
        if p.proto == PROTO_TCP
            && let Some(first) = self.opened_anew(id, dir, &p.tcp, shared)
            && let Err(reason) = self.renew(id, first)
        {
            return self.counters.count(reason);
        }
        let entry = self.table.entry(id);
        let class = entry.record.class;
        // Nobody has answered yet, so its opening may not be acknowledged where it was opened: what goes
        // on from here waits until this node's own targets have the flow from here.
        let unanswered =
            class.sync == SyncMode::Ack && dir == class.origin && !entry.record.progress.replied();
        // And a slot's owner must know who else handles a flow, to pass on what others tell of it.
        let foreign = shared && self.is_foreign(slot_of(&entry.record.key));
        let begins = !entry.local.flags.is_handler() && (foreign || unanswered);
        if begins && self.links.to_sync.is_full() {
            return self.counters.count(Counter::DropSyncFull);
        }
        self.mark_if_old(id);
        if !self.table.entry(id).local.flags.is_handler() {
            self.divert_to_agent(id);
        }
        let was_replica = self.table.entry(id).local.flags.is_replica();
        let mut doubtful = false;
        let entry = self.table.entry_mut(id);
        let before = entry.record.progress;
        if was_replica {
            entry.local.adopted_s = now_s;
        }
        if p.proto == PROTO_TCP {
            let context = tcp::Context {
                strict: self.config.tcp_strict && !shared,
                sender_behind: shared
                    || entry.local.flags.is_behind(dir)
                        && !state::mutation::is(state::mutation::Mutation::EnforceOldWindows),
                receiver_behind: shared
                    || entry.local.flags.is_behind(dir.reverse())
                        && !state::mutation::is(state::mutation::Mutation::EnforceOldWindows),
            };
            match tcp::track(&mut entry.record, dir, &p.tcp, context) {
                Outcome::Pass => {
                    if now_s >= entry.local.adopted_s + ANCHOR_S {
                        entry.local.flags.anchored(dir);
                    }
                }
                Outcome::PassUntracked => doubtful = true,
                Outcome::OutOfWindow => return self.counters.count(Counter::DropTcpWindow),
                Outcome::Invalid => return self.counters.count(Counter::DropTcpInvalid),
                Outcome::Reopen => {
                    self.counters.count(Counter::FlowReplaced);
                    let key = entry.record.key;
                    self.end_flow(id);
                    return self.open(&key, packet, Some(id));
                }
            }
        } else {
            entry.record.progress = before.union(Progress::seen(dir));
        }
        entry.local.flags.handled();
        entry.local.seen_s = now_s;
        entry.local.packets[dir.index()] += 1;
        entry.local.bytes[dir.index()] += u64::from(p.end - p.l3);
        let changed = entry.record.progress != before;
        let answers = changed && p.proto == PROTO_TCP && dir != class.origin;
        let syn_seen = Progress::syn(dir);
        let accepted =
            answers && entry.record.progress.contains(syn_seen) && !before.contains(syn_seen);
        let pending = entry.local.replicate_at_s != 0;
        if accepted {
            self.detect_answer(&p.dst, &p.src, p.sport);
        }
        if (changed || begins) && !pending && self.is_told(id) {
            self.emit(id);
        }
        if begins && unanswered {
            let local = &mut self.table.entry_mut(id).local;
            local.hold_lsn = local.lsn;
        }
        if was_replica {
            let key = self.table.entry(id).record.key;
            self.note_first_forward(&key);
        }
        if doubtful {
            self.note_doubt(id, First::of(&packet));
        }
        let mut packet = if self.table.entry(id).local.flags.is_diverted() {
            let Some(packet) = self.divert(packet, id) else {
                return;
            };
            packet
        } else {
            packet
        };
        self.shift(id, &mut packet);
        let Some(hop) = self.hop_of(id, &packet) else {
            return;
        };
        let hold_lsn = match state::mutation::is(state::mutation::Mutation::LaterPacketsPass) {
            true => 0,
            false => self.table.entry(id).local.hold_lsn,
        };
        self.forward(packet, hop, hold_lsn);
    }

    /// A flow last seen before this node came to own its slot is as a copy, even if this node has
    /// handled it itself: another owner served it in between.
    #[inline]
    fn mark_if_old(&mut self, id: FlowId) {
        let entry = self.table.entry(id);
        if entry.local.seen_s > self.ownership.since_last_s {
            return;
        }
        let slot = state::slot_of(&entry.record.key);
        let since_s = self.ownership.since_s[slot.index()].max(self.ownership.lapsed_s);
        // Once per adoption: `adopted_s` tells whether this one was noted.
        if entry.local.seen_s <= since_s && entry.local.adopted_s < since_s {
            let flags = &mut self.table.entry_mut(id).local.flags;
            *flags = flags.replicated();
        }
    }

    /// An ICMP error about a flow that lives: it passes if it can be about something that the flow
    /// has sent.
    pub(crate) fn forward_error(&mut self, packet: Packet<'_, P::Buf>, id: FlowId) {
        let record = &self.table.entry(id).record;
        let plausible = match packet.p.inner {
            Some(inner) if inner.proto == PROTO_TCP => {
                self.table.entry(id).local.flags.is_behind(packet.dir)
                    || tcp::quotes_sent(record, packet.dir, inner.tcp_seq)
            }
            _ => record.progress.contains(Progress::seen(packet.dir)),
        };
        // The error goes to the quoted packet's sender and may come from any router on the way.
        if !plausible || packet.p.inner.is_none_or(|inner| inner.src != packet.p.dst) {
            return self.counters.count(Counter::DropIcmpUnrelated);
        }
        let hold_lsn = self.table.entry(id).local.hold_lsn;
        if let Some(hop) = self.look_up_hop(&packet) {
            self.forward(packet, hop, hold_lsn);
        }
    }

    /// The flow's next hop in the packet's direction, remembered with the flow.
    #[inline]
    pub(crate) fn hop_of(&mut self, id: FlowId, packet: &Packet<'_, P::Buf>) -> Option<u32> {
        let epoch = self.hops.epoch();
        let direction = packet.dir.index();
        let local = &mut self.table.entry_mut(id).local;
        if local.hops_epoch != epoch {
            local.hops = [NO_HOP; 2];
            local.hops_epoch = epoch;
        }
        if local.hops[direction] != NO_HOP {
            return Some(local.hops[direction]);
        }
        let hop = self.look_up_hop(packet)?;
        self.table.entry_mut(id).local.hops[direction] = hop;
        Some(hop)
    }

    /// The next hop towards a packet's destination; without one the sender is told.
    pub(crate) fn look_up_hop(&mut self, packet: &Packet<'_, P::Buf>) -> Option<u32> {
        let Some(towards) = self.routes.lookup(&packet.p.dst) else {
            self.counters.count(Counter::DropNoRoute);
            self.answer_error(packet, IcmpError::Unreachable(Unreachable::NoRoute));
            return None;
        };
        let next = towards.next(&packet.p.dst);
        let hop = self.hops.number(towards.interface, next, self.now.us);
        if hop.is_none() {
            self.counters.count(Counter::DropHopQueue);
        }
        hop
    }

    /// Sends a packet on its way: time to live, size, link header, then the hold or the next hop.
    pub(crate) fn forward(&mut self, mut packet: Packet<'_, P::Buf>, hop: u32, hold_lsn: u64) {
        let p = packet.p;
        let out = usize::from(self.hops.hop(hop).interface);
        let mtu = self.config.interfaces[out].mtu;
        if p.end - p.l3 > mtu {
            self.counters.count(Counter::DropMtu);
            // Without "don't fragment" the sender would want it cut up, which is not available: then
            // telling it is of no use.
            if p.dont_fragment {
                self.answer_error(&packet, IcmpError::TooBig { mtu: mtu.into() });
            }
            return;
        }
        match rewrite::decrement_ttl(packet.buf.data_mut(), p) {
            Ok(_) => {}
            Err(RewriteError::TtlExpired) => {
                self.counters.count(Counter::DropTtl);
                return self.answer_error(&packet, IcmpError::TimeExceeded);
            }
            Err(_) => unreachable!("the summary is of this IP packet"),
        }
        let mut buf = packet.buf;
        if self.put_link_header(&mut buf, p, out).is_err() {
            return self.counters.count(Counter::DropMtu);
        }
        self.counters.count(Counter::Forwarded);
        if hold_lsn > self.acked_lsn && !self.ownership.targets.is_empty() {
            return self.hold(buf, hop, hold_lsn);
        }
        self.send_to_hop(buf, hop);
    }

    fn hold(&mut self, buf: P::Buf, hop: u32, lsn: u64) {
        let deadline = self.now.us + self.config.hold.deadline_us;
        if self.hold.is_full() && self.config.hold.at_deadline == crate::AtDeadline::Release {
            // The packet that has waited longest makes room, as if its deadline had come: this one may be
            // of the same flow, and must not overtake it.
            if let Some(held) = self.hold.pop_first() {
                self.counters.count(Counter::HoldReleasedAtDeadline);
                self.send_to_hop(held.buf, held.hop);
            }
        }
        match self.hold.push(buf, hop, lsn, deadline) {
            Ok(()) => self.counters.count(Counter::Held),
            Err(_) => self.counters.count(Counter::DropHoldFull),
        }
    }

    /// Gives the packet the link header of an interface, all but the destination: the tag that the
    /// interface has, its source address, and no padding.
    #[inline]
    fn put_link_header(
        &mut self,
        buf: &mut P::Buf,
        p: &Parsed,
        out: usize,
    ) -> Result<(), crate::port::BufFull> {
        let interface = &self.config.interfaces[out];
        // Nearly always: untagged before and after, and nothing behind the packet.
        if interface.vlan.is_none() && usize::from(p.l3) == ethernet::HEADER_LEN {
            let mac = self.ports[interface.port].mac;
            if buf.data().len() != usize::from(p.end) {
                buf.set_len(usize::from(p.end))?;
            }
            if let Some(header) = buf.data_mut().first_chunk_mut::<{ ethernet::HEADER_LEN }>() {
                header[6..12].copy_from_slice(&mac.0);
            }
            return Ok(());
        }
        let had = usize::from(p.l3);
        let has = ethernet::HEADER_LEN + interface.vlan.map_or(0, |_| ethernet::TAG_LEN);
        buf.set_len(usize::from(p.end))?;
        match has.checked_sub(had) {
            Some(0) => {}
            Some(more) => buf.grow_front(more)?,
            None => buf.shrink_front(had - has),
        }
        let mac = self.ports[interface.port].mac;
        let ethertype = match p.net {
            wire::Net::V6 => ethernet::TYPE_IPV6,
            _ => ethernet::TYPE_IPV4,
        };
        let header = &mut buf.data_mut()[..has];
        header[6..12].copy_from_slice(&mac.0);
        if let Some(vlan) = interface.vlan {
            header[12..14].copy_from_slice(&ethernet::TYPE_VLAN.to_be_bytes());
            header[14..16].copy_from_slice(&vlan.to_be_bytes());
        }
        header[has - 2..].copy_from_slice(&ethertype.to_be_bytes());
        Ok(())
    }

    /// Sends a finished packet to a next hop, or lets it wait for the hop's address.
    pub(crate) fn send_to_hop(&mut self, mut buf: P::Buf, number: u32) {
        let hop = self.hops.hop_mut(number);
        hop.used(self.now.us);
        match hop.mac {
            Some(mac) => {
                let port = self.config.interfaces[usize::from(hop.interface)].port;
                buf.data_mut()[..6].copy_from_slice(&mac.0);
                self.transmit(buf, port);
            }
            None => {
                let first = hop.pending.is_empty();
                if hop.pending.try_push(buf).is_err() {
                    self.counters.count(Counter::DropHopQueue);
                }
                // Not only at housekeeping: the packet waits for it.
                if first && self.hops.tend(number, self.now.us) == Due::Solicit {
                    self.solicit(number);
                }
            }
        }
    }

    /// Queues a frame for a port; what the device has no room for is dropped.
    #[inline]
    pub(crate) fn transmit(&mut self, buf: P::Buf, port: usize) {
        if self.ports[port].out.is_full() {
            self.flush(port);
        }
        if self.ports[port].out.try_push(buf).is_err() {
            self.counters.count(Counter::DropTxFull);
        }
    }

    /// A neighbour's address is known now: what waited for it goes. Not by a view that has run out: what
    /// waited while this node stood still has long been sent again.
    pub(crate) fn send_pending(&mut self, number: u32) {
        let valid = self.view_is_valid();
        let hop = self.hops.hop_mut(number);
        let Some(Mac(mac)) = hop.mac else { return };
        let port = self.config.interfaces[usize::from(hop.interface)].port;
        for mut buf in std::mem::take(&mut hop.pending) {
            if !valid {
                self.counters.count(Counter::DropStaleView);
                continue;
            }
            buf.data_mut()[..6].copy_from_slice(&mac);
            self.transmit(buf, port);
        }
    }

    /// The rules or the common state have changed since the flow was judged: judges it again, and
    /// ends it if it is no longer allowed, or has a blocked end.
    #[cold]
    fn judge_again(&mut self, id: FlowId) -> Result<(), Counter> {
        let policy = self.policy.value().clone();
        let entry = self.table.entry_mut(id);
        entry.local.common_epoch = self.common_epoch;
        let record = entry.record;
        if self.is_blocked(&record.key) {
            self.counters.count(Counter::FlowRevoked);
            self.end_flow(id);
            return Err(Counter::DropBlocked);
        }
        let same_rules = record.verdict.generation == policy.generation;
        if same_rules && !policy.classifier.asks_identity() {
            return Ok(());
        }
        // One that was expected passes for the rule of the flow to which it belongs, as long as there is
        // such a rule; the rules need not allow it by itself.
        let expected = record.progress.contains(Progress::expected());
        if expected && policy.classifier.has_allowing(record.verdict.rule) {
            let verdict = &mut self.table.entry_mut(id).record.verdict;
            verdict.generation = policy.generation;
            return Ok(());
        }
        let mut query = opening_query(&record);
        query.identity = self.identity(&query.src);
        let decision = policy.classifier.classify(&query);
        if decision.action != Action::Allow {
            self.counters.count(Counter::FlowRevoked);
            self.end_flow(id);
            return Err(Counter::DropDenied);
        }
        let record = &mut self.table.entry_mut(id).record;
        record.verdict = state::Verdict {
            generation: policy.generation,
            rule: decision.rule_id,
        };
        // What an agent was told to leave alone stays so until the rules change.
        if !same_rules {
            self.table.entry_mut(id).local.flags.divert(false);
            self.divert_to_agent(id);
        }
        Ok(())
    }

    /// Deletes a flow: it becomes a tombstone, which its copies learn of.
    pub(crate) fn end_flow(&mut self, id: FlowId) {
        let entry = self.table.entry_mut(id);
        entry.record.life = Life::Dead;
        entry.local.seen_s = self.now.s();
        entry.local.replicate_at_s = 0;
        if self.is_told(id) {
            self.emit(id);
        }
        self.end_shift(id);
    }
}

/// How long the windows of an adopted flow are followed without being enforced. What was in flight
/// when its owner died comes in any order: probes of the tail, then from the first loss on, with
/// acknowledgements that jump over what arrived before. No single packet tells where the end is.
const ANCHOR_S: u32 = 10;

/// A hop that is not known yet.
pub(crate) const NO_HOP: u32 = u32::MAX;

/// What the rules were asked when the flow was opened, but for who is logged in at its source.
pub(crate) fn opening_query(record: &state::FlowRecord) -> policy::Query {
    let (src, sport) = record.key.source(record.class.origin);
    let (dst, dport) = record.key.destination(record.class.origin);
    let proto = record.key.proto();
    policy::Query {
        zone_from: record.class.zone_from,
        zone_to: record.class.zone_to,
        src,
        dst,
        sport,
        dport,
        proto,
        // Only echo requests open a flow.
        icmp_type: match proto {
            state::PROTO_ICMP => wire::icmpv4::ECHO_REQUEST,
            state::PROTO_ICMPV6 => wire::icmpv6::ECHO_REQUEST,
            _ => 0,
        },
        icmp_code: 0,
        identity: policy::Identity::NONE,
    }
}
