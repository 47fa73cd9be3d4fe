//! Tier 4: what the gateway says itself. ARP and neighbour discovery, answers to pings of its own
//! addresses, ICMP errors and TCP resets.
//!
//! Where every node receives every frame they have the same addresses. What one of them must say, the
//! owner of a slot says: that of the asker and the asked address. With `ecmp` each has addresses of
//! its own, and speaks for itself.

use std::net::IpAddr;

use ipnet::IpNet;
use membership::Distribution;
use state::{FlowKey, PROTO_ICMP, slot_of};
use wire::reply::{self, IcmpError, ReplyError, Sender};
use wire::{Addr, Mac, Parsed, addr_from_ip, addr_from_v4, addr_to_ip, addr_to_v4, arp, ndp};

use crate::counters::Counter;
use crate::port::{PacketBuf, Port};
use crate::receive::Packet;
use crate::worker::{Cross, Worker};

impl<P: Port> Worker<P> {
    /// An ARP packet on an interface.
    #[cold]
    pub(crate) fn take_arp(&mut self, interface: u8, buf: &P::Buf, p: &Parsed) {
        let Ok(packet) = arp::Repr::parse(&buf.data()[usize::from(p.l3)..]) else {
            return;
        };
        let (sender, target) = (
            addr_from_v4(packet.sender_ip),
            addr_from_v4(packet.target_ip),
        );
        let asks_us = self.address_on(interface, &target);
        self.learn(interface, sender, packet.sender_mac, asks_us);
        if asks_us
            && packet.operation == arp::Operation::Request
            && self.speaks_to(&sender, &target)
        {
            let from = self.sender(interface);
            let written = reply::arp_reply(&mut *self.scratch, &from, &packet);
            self.originate(interface, written, Counter::ArpRepliesSent);
        }
    }

    /// A neighbour or router discovery message on an interface.
    #[cold]
    pub(crate) fn take_ndp(&mut self, interface: u8, buf: &P::Buf, p: &Parsed) {
        let message = match ndp::Repr::from_frame(buf.data(), p) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(reason) => return self.counters.malformed(reason),
        };
        match message {
            ndp::Repr::Solicitation { target, source_mac } => {
                let asked = addr_from_ip(target.into());
                if !self.address_on(interface, &asked) {
                    return;
                }
                if let Some(mac) = source_mac {
                    self.learn(interface, p.src, mac, true);
                }
                if self.speaks_to(&p.src, &asked) {
                    let from = self.sender(interface);
                    let written =
                        reply::neighbor_advertisement(&mut *self.scratch, &from, p, target);
                    self.originate(interface, written, Counter::NeighbourAdvertisementsSent);
                }
            }
            ndp::Repr::Advertisement {
                target, target_mac, ..
            } => {
                let mac = target_mac.unwrap_or(p.eth_src);
                self.learn(interface, addr_from_ip(target.into()), mac, false);
            }
        }
    }

    /// A packet to one of the gateway's own addresses, of a slot that this node owns.
    pub(crate) fn take_local(&mut self, interface: u8, mut buf: P::Buf, p: &Parsed) {
        let ping = self.config.interfaces[usize::from(interface)].ping;
        let port = self.config.interfaces[usize::from(interface)].port;
        let mac = self.ports[port].mac;
        if ping && reply::echo_reply(buf.data_mut(), p, mac).is_ok() {
            self.counters.count(Counter::EchoRepliesSent);
            return self.transmit(buf, port);
        }
        self.counters.count(Counter::DropLocal);
    }

    /// Answers a packet with an ICMP error, if that is allowed and the rate limit lets it.
    #[cold]
    pub(crate) fn answer_error(&mut self, packet: &Packet<'_, P::Buf>, error: IcmpError) {
        if !reply::may_answer_with_error(packet.p) || !self.take_icmp_token() {
            return;
        }
        let v4 = addr_to_v4(&packet.p.src).is_some();
        let own = self.config.interfaces[usize::from(packet.interface)]
            .addresses
            .iter()
            .find(|net| matches!(net, IpNet::V4(_)) == v4);
        let Some(own) = own.map(|net| addr_from_ip(net.addr())) else {
            return;
        };
        let from = self.sender(packet.interface);
        let frame = packet.buf.data();
        let written = reply::icmp_error(&mut *self.scratch, &from, &own, frame, packet.p, error);
        self.originate(packet.interface, written, Counter::IcmpErrorsSent);
    }

    /// Answers a rejected TCP segment with a reset.
    #[cold]
    pub(crate) fn answer_reset(&mut self, packet: &Packet<'_, P::Buf>) {
        if !self.take_icmp_token() {
            return;
        }
        let from = self.sender(packet.interface);
        let written = reply::tcp_reset(&mut *self.scratch, &from, packet.p);
        self.originate(packet.interface, written, Counter::TcpResetsSent);
    }

    /// Asks for a next hop's Ethernet address.
    #[cold]
    pub(crate) fn solicit(&mut self, number: u32) {
        let (interface, address) = {
            let hop = self.hops.hop(number);
            (hop.interface, hop.address)
        };
        let from = self.sender(interface);
        let own = self.config.interfaces[usize::from(interface)]
            .addresses
            .iter()
            .find(|net| net.contains(&addr_to_ip(&address)))
            .map(IpNet::addr);
        match (own, addr_to_ip(&address)) {
            (Some(IpAddr::V4(own)), IpAddr::V4(target)) => {
                let written = reply::arp_request(&mut *self.scratch, &from, own, target);
                self.originate(interface, written, Counter::ArpRequestsSent);
            }
            (Some(IpAddr::V6(own)), IpAddr::V6(target)) => {
                let written = reply::neighbor_solicitation(&mut *self.scratch, &from, own, target);
                self.originate(interface, written, Counter::NeighbourSolicitationsSent);
            }
            _ => {}
        }
    }

    /// Notes a neighbour's address here and with the other workers, and sends what waited for it.
    fn learn(&mut self, interface: u8, address: Addr, mac: Mac, make: bool) {
        let on_link = self.config.interfaces[usize::from(interface)]
            .addresses
            .iter()
            .any(|net| net.contains(&addr_to_ip(&address)));
        // A group address is the cluster's, or nonsense; a next hop has its own.
        if !on_link || mac.is_multicast() || self.own_addresses.contains(&address) {
            return;
        }
        if let Some(number) = self.hops.learn(interface, address, mac, make, self.now.us) {
            self.send_pending(number);
        }
        for ring in self.links.cross_to.iter_mut().flatten() {
            // A full ring costs the other worker a question of its own.
            let _ = ring.push(Cross::Neighbour {
                interface,
                address,
                mac,
            });
        }
    }

    /// Whether this node is the one that answers `asker` for one of the gateway's addresses.
    fn speaks_to(&self, asker: &Addr, asked: &Addr) -> bool {
        if self.config.distribution == Distribution::Ecmp {
            return true;
        }
        let (key, _) = FlowKey::new(*asker, *asked, 0, 0, PROTO_ICMP);
        self.ownership.owned.contains(slot_of(&key)) && self.view_is_valid()
    }

    fn address_on(&self, interface: u8, address: &Addr) -> bool {
        self.config.interfaces[usize::from(interface)]
            .addresses
            .iter()
            .any(|net| addr_from_ip(net.addr()) == *address)
    }

    fn take_icmp_token(&mut self) -> bool {
        self.icmp_tokens.fill(self.now.us);
        let allowed = self.icmp_tokens.take();
        if !allowed {
            self.counters.count(Counter::IcmpErrorsLimited);
        }
        allowed
    }

    fn sender(&self, interface: u8) -> Sender {
        let interface = &self.config.interfaces[usize::from(interface)];
        Sender {
            mac: self.ports[interface.port].mac,
            advertised: self.advertised(interface.port),
            vlan: interface.vlan,
        }
    }

    /// Sends what was written to the scratch space.
    fn originate(&mut self, interface: u8, written: Result<usize, ReplyError>, counter: Counter) {
        let Ok(len) = written else { return };
        let port = self.config.interfaces[usize::from(interface)].port;
        let Some(mut buf) = self.ports[port].port.alloc() else {
            return self.counters.count(Counter::PoolEmpty);
        };
        if buf.set_len(len).is_err() {
            return self.counters.count(Counter::PoolEmpty);
        }
        buf.data_mut().copy_from_slice(&self.scratch[..len]);
        self.counters.count(counter);
        self.transmit(buf, port);
    }
}
