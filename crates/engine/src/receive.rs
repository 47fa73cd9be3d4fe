//! Tier 1: what a frame is, and whether it is this worker's.

use arrayvec::ArrayVec;
use flowtable::FlowId;
use hashbrown::HashSet;
use membership::Distribution;
use state::{Dir, FlowKey, Slot, slot_of, worker_of};
use wire::quick::Quick;
use wire::{Addr, Fragment, Mac, Net, Parsed, addr_from_ip, icmpv4, icmpv6, ip};

use crate::config::Interface;
use crate::counters::Counter;
use crate::fast::{Gate, Seen};
use crate::port::{BURST_MAX, Burst, PacketBuf, Port};
use crate::worker::{Cross, Worker};

/// A packet that belongs to a flow, or would. What was read of it stays where it was written: moving it along
/// would cost more than reading it did.
#[derive(Debug)]
pub(crate) struct Packet<'p, B> {
    pub(crate) buf: B,
    pub(crate) p: &'p Parsed,
    pub(crate) interface: u8,
    pub(crate) dir: Dir,
    /// An ICMP error about the flow instead of a packet of it; `dir` is then that of the packet
    /// which the error quotes.
    pub(crate) about: bool,
}

/// A packet that is to be handled once its flow has been looked up.
enum Sighted<'p, B> {
    /// A usual one; where it is to be read in full if that is wanted.
    Usual(B, Dir, Quick, &'p mut Parsed),
    /// Any other.
    Parsed(Packet<'p, B>),
}

/// What is left of a frame after tier 1.
enum Sorted<'p, B> {
    /// Done with: dropped, answered, or handed over.
    Gone,
    /// Of a flow.
    Flow(FlowKey, Packet<'p, B>),
}

/// How many packets ahead the memory of flows is asked for: as much as a core asks for at a time, with two or three cache lines
/// of each.
const AHEAD: usize = 8;

/// Where a burst's frames are read into, one place each; allocated once.
pub(crate) type ParsedBurst = Box<[Parsed; BURST_MAX]>;

/// The gateway's own addresses.
#[derive(Debug)]
pub(crate) struct OwnAddresses {
    all: HashSet<Addr>,
    /// A bit for the last octet of each: most packets need not look further.
    last: [u64; 4],
}

impl OwnAddresses {
    pub(crate) fn new(interfaces: &[Interface]) -> Self {
        let addresses = interfaces.iter().flat_map(|i| &i.addresses);
        let all: HashSet<Addr> = addresses.map(|net| addr_from_ip(net.addr())).collect();
        let mut last = [0; 4];
        for address in &all {
            last[usize::from(address[15] >> 6)] |= 1 << (address[15] & 63);
        }
        Self { all, last }
    }

    #[inline]
    pub(crate) fn contains(&self, address: &Addr) -> bool {
        self.may_contain(address[15]) && self.all.contains(address)
    }

    /// Whether any of them ends with this octet.
    #[inline(always)]
    pub(crate) fn may_contain(&self, octet: u8) -> bool {
        self.last[usize::from(octet >> 6)] >> (octet & 63) & 1 != 0
    }
}

impl<P: Port> Worker<P> {
    /// Takes a burst that arrived on a port, or that another worker handed over.
    pub(crate) fn receive(&mut self, port: usize, burst: &mut Burst<P::Buf>, crossed: bool) {
        if !crossed {
            let octets = burst.iter().map(|b| b.data().len() as u64).sum();
            self.counters.add(Counter::RxPackets, burst.len() as u64);
            self.counters.add(Counter::RxBytes, octets);
        }
        let mut keys = ArrayVec::<FlowKey, BURST_MAX>::new();
        let mut usual = ArrayVec::<(Dir, Quick), BURST_MAX>::new();
        let mut hashes = [0; BURST_MAX];
        let gate = self.gate(port, crossed);
        if let Some(gate) = &gate {
            for (buf, hash) in burst.iter().zip(&mut hashes) {
                let Seen::Usual(key, dir, quick) = self.look(gate, buf) else {
                    break;
                };
                *hash = self.table.seek(&key);
                keys.push(key);
                usual.push((dir, quick));
            }
            if usual.len() == burst.len() {
                return self.receive_usual(gate, burst, &keys, &hashes, &usual);
            }
        }
        let mut parsed = self.parsed.take().expect("one burst at a time");
        let mut packets = ArrayVec::<Sighted<'_, P::Buf>, BURST_MAX>::new();
        let mut foreign = Burst::<P::Buf>::new();
        let mut usual = usual.into_iter();
        for (buf, p) in burst.drain(..).zip(parsed.iter_mut()) {
            // The first ones have been looked at, and their keys are there.
            if let Some((dir, quick)) = usual.next() {
                packets.push(Sighted::Usual(buf, dir, quick, p));
                continue;
            }
            let seen = gate.as_ref().map(|gate| self.look(gate, &buf));
            match seen {
                Some(Seen::Usual(key, dir, quick)) => {
                    keys.push(key);
                    packets.push(Sighted::Usual(buf, dir, quick, p));
                    continue;
                }
                Some(Seen::Foreign) => {
                    foreign.push(buf);
                    continue;
                }
                Some(Seen::Unusual) | None => {}
            }
            match self.sort(port, buf, p, crossed) {
                Sorted::Gone => {}
                Sorted::Flow(key, packet) => {
                    keys.push(key);
                    packets.push(Sighted::Parsed(packet));
                }
            }
        }
        if !foreign.is_empty() {
            let count = foreign.len() as u64;
            self.counters.add(Counter::DropNotOwner, count);
            self.ports[port].port.free_burst(&mut foreign);
        }
        let mut ids = [None; BURST_MAX];
        self.table.lookup_burst(&keys, &mut ids);
        let changes = self.table.changes();
        let mut run = gate.as_ref().map(|gate| self.run(gate));
        // Drained and not consumed: an array moves whole.
        for ((sighted, key), id) in packets.drain(..).zip(&keys).zip(&ids) {
            // An earlier packet of the burst may have opened the flow, ended it, or given its place to another.
            let id = match self.table.changes() == changes {
                true => *id,
                false => self.table.lookup(key),
            };
            match (sighted, &gate, &mut run) {
                (Sighted::Usual(buf, dir, quick, p), Some(gate), Some(run)) => {
                    let buf = match id {
                        Some(id) => match self.go_on(id, (dir, &quick), buf, run) {
                            Ok(()) => continue,
                            Err(buf) => buf,
                        },
                        None => buf,
                    };
                    self.handle_in_full(gate, (key, dir), buf, id, p);
                }
                (Sighted::Parsed(packet), ..) => self.handle(key, packet, id),
                (Sighted::Usual(..), ..) => unreachable!("only a gate lets one through"),
            }
            // What the burst's packets have in common may have changed.
            if let (Some(gate), Some(run)) = (&gate, &mut run) {
                self.close(run);
                *run = self.run(gate);
            }
        }
        if let Some(run) = &mut run {
            self.close(run);
        }
        drop(packets);
        self.parsed = Some(parsed);
    }

    /// A burst that is usual throughout, as nearly all are: nothing is moved but to where it leaves. The memory of
    /// flows is asked for some packets ahead, so that it comes while those before are handled.
    #[inline]
    fn receive_usual(
        &mut self,
        gate: &Gate,
        burst: &mut Burst<P::Buf>,
        keys: &[FlowKey],
        hashes: &[u64; BURST_MAX],
        usual: &[(Dir, Quick)],
    ) {
        let mut likely = [None; BURST_MAX];
        let ahead = |at: usize| keys.get(at).zip(hashes.get(at));
        for (at, likely) in likely.iter_mut().enumerate().take(AHEAD) {
            if let Some((key, hash)) = ahead(at) {
                *likely = self.table.approach(key, *hash);
            }
        }
        let mut run = self.run(gate);
        for (at, ((buf, key), (dir, quick))) in burst.drain(..).zip(keys).zip(usual).enumerate() {
            if let Some((key, hash)) = ahead(at + AHEAD)
                && let Some(likely) = likely.get_mut(at + AHEAD)
            {
                *likely = self.table.approach(key, *hash);
            }
            let id = self.table.arrive(key, hashes[at], likely[at]);
            let buf = match id {
                Some(id) => match self.go_on(id, (*dir, quick), buf, &mut run) {
                    Ok(()) => continue,
                    Err(buf) => buf,
                },
                None => buf,
            };
            let mut parsed = self.parsed.take().expect("one burst at a time");
            self.handle_in_full(gate, (key, *dir), buf, id, &mut parsed[0]);
            self.parsed = Some(parsed);
            // What the burst's packets have in common may have changed.
            self.close(&mut run);
            run = self.run(gate);
        }
        self.close(&mut run);
    }

    /// A packet that looked usual and is not, for what its flow is; `p` is where it is read into.
    #[inline(never)]
    fn handle_in_full(
        &mut self,
        gate: &Gate,
        (key, dir): (&FlowKey, Dir),
        buf: P::Buf,
        id: Option<FlowId>,
        p: &mut Parsed,
    ) {
        if let Err(reason) = wire::parse_into(buf.data(), p) {
            return self.counters.malformed(reason);
        }
        let packet = Packet {
            buf,
            p,
            interface: gate.interface,
            dir,
            about: false,
        };
        self.handle(key, packet, id);
    }

    #[inline]
    fn handle(&mut self, key: &FlowKey, packet: Packet<'_, P::Buf>, id: Option<FlowId>) {
        let lives = id.filter(|id| self.table.entry(*id).is_alive());
        let known = lives.is_some_and(|id| !self.is_forsaken(id));
        if !known && self.is_foreign(slot_of(key)) {
            return self.ask(key, packet);
        }
        self.handle_known(key, packet, id);
    }

    /// A packet whose flow, if there is one in the cluster, is in the table.
    pub(crate) fn handle_known(
        &mut self,
        key: &FlowKey,
        packet: Packet<'_, P::Buf>,
        id: Option<FlowId>,
    ) {
        let known = id.filter(|id| self.table.entry(*id).is_alive());
        match (packet.about, known) {
            (true, Some(id)) => self.forward_error(packet, id),
            (true, None) => self.counters.count(Counter::DropIcmpUnrelated),
            (false, Some(id)) => self.forward_known(packet, id),
            (false, None) => self.open(key, packet, id),
        }
    }

    fn drop_for(&mut self, reason: Counter) -> Sorted<'static, P::Buf> {
        self.counters.count(reason);
        Sorted::Gone
    }

    #[inline]
    fn sort<'p>(
        &mut self,
        port: usize,
        buf: P::Buf,
        p: &'p mut Parsed,
        crossed: bool,
    ) -> Sorted<'p, P::Buf> {
        if let Err(reason) = wire::parse_into(buf.data(), p) {
            self.counters.malformed(reason);
            return Sorted::Gone;
        }
        let p = &*p;
        let Some(interface) = self.interface(port, p.vlan) else {
            return self.drop_for(Counter::DropVlan);
        };
        let mac = self.ports[port].mac;
        let to_us = p.eth_dst == mac || Some(p.eth_dst) == self.config.cluster_mac;
        if !to_us && !p.eth_dst.is_multicast() {
            return self.drop_for(Counter::DropEthernetAddress);
        }
        match p.net {
            Net::Arp => {
                self.take_arp(interface, &buf, p);
                return Sorted::Gone;
            }
            Net::Other(_) => return self.drop_for(Counter::DropEtherType),
            Net::V4 | Net::V6 => {}
        }
        if p.proto == ip::ICMPV6
            && (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&p.icmp.kind)
        {
            self.take_ndp(interface, &buf, p);
            return Sorted::Gone;
        }
        // Frames to groups other than the cluster's are not for routing, whatever is inside.
        if !to_us || is_group(p) {
            return self.drop_for(Counter::DropMulticast);
        }
        if p.fragment != Fragment::None {
            return self.drop_for(Counter::DropFragment);
        }
        let Some((key, dir, about)) = flow_key(p) else {
            return self.drop_for(Counter::DropIcmpUntracked);
        };
        let slot = match buf.rss_hash() {
            Some(hash) if matches!(p.proto, ip::TCP | ip::UDP) => Slot::of_hash(hash),
            _ => state::slot_of(&key),
        };
        let local = self.is_own_address(&p.dst);
        let ecmp = self.config.distribution == Distribution::Ecmp;
        if !ecmp && !self.ownership.owned.contains(slot) {
            return self.drop_for(Counter::DropNotOwner);
        }
        if !self.view_is_valid() {
            return self.drop_for(Counter::DropStaleView);
        }
        if !crossed {
            let owner = worker_of(slot, self.config.workers);
            if owner != self.config.worker {
                return self.cross(owner, port, buf);
            }
        }
        if self.config.verify_checksums && !wire::verify_l4(buf.data(), p) {
            return self.drop_for(Counter::DropChecksum);
        }
        if local {
            self.take_local(interface, buf, p);
            return Sorted::Gone;
        }
        Sorted::Flow(
            key,
            Packet {
                buf,
                p,
                interface,
                dir,
                about,
            },
        )
    }

    fn cross(&mut self, worker: usize, port: usize, buf: P::Buf) -> Sorted<'static, P::Buf> {
        let ring = self.links.cross_to.get_mut(worker).and_then(Option::as_mut);
        match ring.map(|ring| ring.push(Cross::Packet(port, buf))) {
            Some(Ok(())) => self.counters.count(Counter::Crossed),
            _ => self.counters.count(Counter::DropCrossFull),
        }
        Sorted::Gone
    }

    /// The interface of frames that arrive on `port` with this VLAN identifier.
    #[inline]
    pub(crate) fn interface(&self, port: usize, vlan: Option<u16>) -> Option<u8> {
        let found = self
            .config
            .interfaces
            .iter()
            .position(|i| i.port == port && i.vlan == vlan);
        found.map(|i| i as u8)
    }

    /// Whether an address is one of the gateway's.
    #[inline]
    pub(crate) fn is_own_address(&self, address: &wire::Addr) -> bool {
        self.own_addresses.contains(address)
    }

    /// What neighbours are to learn as the gateway's Ethernet address.
    pub(crate) fn advertised(&self, port: usize) -> Mac {
        self.config.cluster_mac.unwrap_or(self.ports[port].mac)
    }
}

/// Whether the destination is a group or everybody.
#[inline]
fn is_group(p: &Parsed) -> bool {
    match p.net {
        Net::V6 => p.dst[0] == 0xff,
        _ => p.dst[12] >= 224,
    }
}

/// The flow that a packet belongs to: its key, the packet's direction, and whether it is an ICMP
/// error about the flow, whose direction is then that of the quoted packet. `None` for ICMP that
/// is no flow's.
#[inline]
pub(crate) fn flow_key(p: &Parsed) -> Option<(FlowKey, Dir, bool)> {
    let (sport, dport) = match p.proto {
        ip::TCP | ip::UDP => (p.sport, p.dport),
        ip::ICMP | ip::ICMPV6 => {
            if let Some(inner) = &p.inner {
                let (sport, dport) = match inner.proto {
                    ip::ICMP | ip::ICMPV6 => (inner.icmp.id, inner.icmp.id),
                    ip::TCP | ip::UDP => (inner.sport, inner.dport),
                    _ => (0, 0),
                };
                let (key, dir) = FlowKey::new(inner.src, inner.dst, sport, dport, inner.proto);
                return (!inner.later_fragment).then_some((key, dir, true));
            }
            let echo = match p.proto {
                ip::ICMP => [icmpv4::ECHO_REQUEST, icmpv4::ECHO_REPLY],
                _ => [icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY],
            };
            if !echo.contains(&p.icmp.kind) {
                return None;
            }
            (p.icmp.id, p.icmp.id)
        }
        _ => (0, 0),
    };
    let (key, dir) = FlowKey::new(p.src, p.dst, sport, dport, p.proto);
    Some((key, dir, false))
}
