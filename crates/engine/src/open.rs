//! Tier 3: packets that open a flow.

use flowtable::{FlowId, InsertError, Local, LocalFlags};
use policy::{Action, Decision, Identity, Query};
use state::{
    Class, Dir, FlowKey, FlowRecord, Life, Mark, PROTO_TCP, Progress, SyncMode, Verdict, slot_of,
};
use wire::reply::{IcmpError, Unreachable};
use wire::tcp::{ACK, RST, SYN};
use wire::{Addr, Parsed, icmpv4, icmpv6, ip};

use crate::config::WhenAlone;
use crate::counters::Counter;
use crate::forward::NO_HOP;
use crate::port::Port;
use crate::receive::Packet;
use crate::tcp;
use crate::worker::{LogEntry, Worker};

/// What a flow's record is made of: its first packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub(crate) dir: Dir,
    pub(crate) proto: u8,
    /// If that is the protocol.
    pub(crate) tcp: wire::Tcp,
    /// Of the IP packet.
    pub(crate) octets: u16,
}

impl First {
    pub(crate) fn of<B>(packet: &Packet<'_, B>) -> Self {
        Self {
            dir: packet.dir,
            proto: packet.p.proto,
            tcp: packet.p.tcp,
            octets: packet.p.end - packet.p.l3,
        }
    }
}

impl<P: Port> Worker<P> {
    /// A packet of no flow that lives. `tombstone` is what is left of the flow that had its key.
    pub(crate) fn open(
        &mut self,
        key: &FlowKey,
        packet: Packet<'_, P::Buf>,
        tombstone: Option<FlowId>,
    ) {
        let p = packet.p;
        if let Err(reason) = self.may_open(p) {
            return self.counters.count(reason);
        }
        if self.opens_blocked(&p.src, &p.dst) {
            return self.counters.count(Counter::DropBlocked);
        }
        if p.proto == PROTO_TCP && p.tcp.flags & (SYN | ACK | RST) == SYN {
            self.detect_attempt(&p.src, &p.dst, p.dport);
        }
        let Some(towards) = self.routes.lookup(&p.dst) else {
            self.counters.count(Counter::DropNoRoute);
            return self.answer_error(&packet, IcmpError::Unreachable(Unreachable::NoRoute));
        };
        let zone_from = self.config.interfaces[usize::from(packet.interface)].zone;
        let zone_to = self.config.interfaces[usize::from(towards.interface)].zone;
        // RFC 3704, section 2.2, by zone: replies must go back to where the packet came from.
        let back = self.routes.lookup(&p.src);
        let back = back.map(|b| self.config.interfaces[usize::from(b.interface)].zone);
        if back != Some(zone_from) {
            return self.counters.count(Counter::DropReversePath);
        }
        let query = Query {
            zone_from,
            zone_to,
            src: p.src,
            dst: p.dst,
            sport: p.sport,
            dport: p.dport,
            proto: p.proto,
            icmp_type: p.icmp.kind,
            icmp_code: p.icmp.code,
            identity: self.identity(&p.src),
        };
        let expected = self.expect(p, (zone_from, zone_to));
        let decision = match &expected {
            Some(expected) => expected.decision,
            None => self.policy.value().classifier.classify(&query),
        };
        if decision.log && self.links.log.push(LogEntry { query, decision }).is_err() {
            self.counters.count(Counter::LogLost);
        }
        match decision.action {
            Action::Allow => {}
            Action::Deny => return self.counters.count(Counter::DropDenied),
            Action::Reject => {
                self.counters.count(Counter::DropRejected);
                return match p.proto {
                    PROTO_TCP => self.answer_reset(&packet),
                    _ => {
                        self.answer_error(&packet, IcmpError::Unreachable(Unreachable::Prohibited));
                    }
                };
            }
        }
        if let Err(reason) = self.may_protect(key, &decision) {
            return self.counters.count(reason);
        }
        let first = First::of(&packet);
        let Some(id) = self.insert(key, &first, tombstone, &decision, (zone_from, zone_to)) else {
            return self.counters.count(Counter::DropTableFull);
        };
        self.counters.count(Counter::FlowOpened);
        if let Some(expected) = &expected {
            self.opened_as_expected(id, expected);
        }
        self.tell_opened(id, &decision);
        let packet = match decision.agent {
            None => packet,
            Some(_) => match self.divert(packet, id) {
                Some(packet) => packet,
                None => return,
            },
        };
        let Some(hop) = self.look_up_hop(&packet) else {
            return;
        };
        let hold_lsn = self.table.entry(id).local.hold_lsn;
        self.forward(packet, hop, hold_lsn);
    }

    /// Whether a flow can be protected as the rules want it.
    pub(crate) fn may_protect(&self, key: &FlowKey, decision: &Decision) -> Result<(), Counter> {
        if decision.sync != SyncMode::Ack {
            return Ok(());
        }
        match self.is_alone(slot_of(key)) {
            true if self.config.hold.alone == WhenAlone::Refuse => Err(Counter::DropAlone),
            false if self.links.to_sync.is_full() => Err(Counter::DropSyncFull),
            _ => Ok(()),
        }
    }

    /// Hands a flow that has just been opened to the sync core, now or later, as the rules want it.
    pub(crate) fn tell_opened(&mut self, id: FlowId, decision: &Decision) {
        match decision.sync {
            // Packets of the other direction may come to other nodes, which ask the slot's owner.
            SyncMode::None | SyncMode::Delayed if self.is_shared(id) => self.emit(id),
            SyncMode::None => {}
            SyncMode::Delayed => {
                let delay_s = decision.delay_ms.div_ceil(1000).max(1);
                self.table.entry_mut(id).local.replicate_at_s = self.now.s() + delay_s;
            }
            SyncMode::Async => self.emit(id),
            SyncMode::Ack => {
                self.emit(id);
                let local = &mut self.table.entry_mut(id).local;
                local.hold_lsn = local.lsn;
            }
        }
    }

    /// Who is logged in at an address, if any rule asks.
    #[inline]
    pub(crate) fn identity(&self, address: &Addr) -> Identity {
        if self.policy.value().classifier.asks_identity() {
            self.common.value().identity(address)
        } else {
            Identity::NONE
        }
    }

    /// Whether a packet of this kind can be the first of a flow.
    fn may_open(&self, p: &Parsed) -> Result<(), Counter> {
        match p.proto {
            PROTO_TCP => {
                let opens = p.tcp.flags & (SYN | ACK | RST) == SYN;
                let picked_up = self.config.tcp_pickup && p.tcp.flags & (SYN | RST) == 0;
                (opens || picked_up)
                    .then_some(())
                    .ok_or(Counter::DropTcpNoFlow)
            }
            ip::ICMP => (p.icmp.kind == icmpv4::ECHO_REQUEST)
                .then_some(())
                .ok_or(Counter::DropIcmpUntracked),
            ip::ICMPV6 => (p.icmp.kind == icmpv6::ECHO_REQUEST)
                .then_some(())
                .ok_or(Counter::DropIcmpUntracked),
            _ => Ok(()),
        }
    }

    /// Puts the flow into the table; `None` when that is full.
    pub(crate) fn insert(
        &mut self,
        key: &FlowKey,
        first: &First,
        tombstone: Option<FlowId>,
        decision: &Decision,
        (zone_from, zone_to): (u8, u8),
    ) -> Option<FlowId> {
        let (tcp, progress) = match first.proto {
            PROTO_TCP => tcp::open(&first.tcp, first.dir),
            _ => (Default::default(), Progress::seen(first.dir)),
        };
        let predecessor = tombstone.map_or(0, |id| self.table.entry(id).record.incarnation);
        // A peer may remember that a flow with this key has ended, which this node was not here to learn, and its clock
        // may be ahead: what is opened now is later than all that was heard of.
        let ms = self.now.unix_ms.max((self.incarnation_heard >> 8) + 1);
        let clock = ms << 8 | u64::from(self.config.node.raw());
        let record = FlowRecord {
            key: *key,
            incarnation: clock.max(predecessor + 1),
            class: Class {
                origin: first.dir,
                sync: decision.sync,
                zone_from,
                zone_to,
            },
            life: Life::Alive,
            progress,
            verdict: Verdict {
                generation: self.policy.value().generation,
                rule: decision.rule_id,
            },
            mark: Mark::default(),
            tcp,
            nat: None,
        };
        let mut local = Local {
            created_s: self.now.s(),
            seen_s: self.now.s(),
            flags: LocalFlags::opened(),
            hops: [NO_HOP; 2],
            hops_epoch: self.hops.epoch(),
            common_epoch: self.common_epoch,
            ..Local::default()
        };
        local.flags.divert(decision.agent.is_some());
        local.packets[first.dir.index()] = 1;
        local.bytes[first.dir.index()] = first.octets.into();
        if let Some(id) = tombstone {
            let entry = self.table.entry_mut(id);
            entry.record = record;
            // Its digest stays until the new flow is told of.
            entry.local = Local {
                digest: entry.local.digest,
                ..local
            };
            return Some(id);
        }
        match self.table.insert(record, local) {
            Ok(id) => Some(id),
            Err(InsertError::Full) => None,
            Err(InsertError::Present(_)) => unreachable!("the lookup did not find the key"),
        }
    }
}
