//! Where packets go: connected networks, static routes, and next hops with their Ethernet
//! addresses.
//!
//! Flows remember the numbers of their next hops. A number stays valid until the table's epoch
//! changes, which is when a hop was taken out.

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use ipnet::IpNet;
use prefix_trie::PrefixMap;
use wire::{Addr, Mac, addr_from_ip, addr_to_ip};

use crate::config::{Interface, Neighbour, Route};
use ipnet::{Ipv4Net, Ipv6Net};

/// Packets that wait for one next hop's address at most (Linux has 101 per neighbour; ours are
/// for the first packets of new flows only).
pub(crate) const PENDING_MAX: usize = 16;
/// Solicitations without an answer after which a next hop counts as unreachable (RFC 4861,
/// section 10: MAX_MULTICAST_SOLICIT).
const SOLICITATIONS_MAX: u8 = 3;
/// Time between solicitations (RFC 4861, section 10: RETRANS_TIMER).
const SOLICIT_EVERY_US: u64 = 1_000_000;
/// How long an address counts as confirmed (RFC 4861, section 10: REACHABLE_TIME).
const REACHABLE_US: u64 = 30_000_000;
/// How long an unreachable hop is remembered.
const FAILED_US: u64 = 3_000_000;
/// How long a hop that nobody uses is remembered.
const UNUSED_US: u64 = 600_000_000;

/// Where a destination is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Towards {
    pub(crate) interface: u8,
    /// The next hop; `None` when the destination itself is on the interface's network.
    via: Option<Addr>,
}

/// The routing table: longest prefix first.
#[derive(Debug)]
pub(crate) struct Routes {
    v4: PrefixMap<Ipv4Net, Towards>,
    v6: PrefixMap<Ipv6Net, Towards>,
}

impl Routes {
    /// From interfaces and static routes. A route whose next hop is on no connected network is
    /// left out; the configuration refuses such routes.
    pub(crate) fn new(interfaces: &[Interface], routes: &[Route]) -> Self {
        let mut table = Self {
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
        };
        for (number, interface) in interfaces.iter().enumerate() {
            for address in &interface.addresses {
                table.insert(
                    address.trunc(),
                    Towards {
                        interface: number as u8,
                        via: None,
                    },
                );
            }
        }
        for route in routes {
            let via = addr_from_ip(route.via);
            if let Some(Towards {
                interface,
                via: None,
            }) = table.lookup(&via)
            {
                table.insert(
                    route.to.trunc(),
                    Towards {
                        interface,
                        via: Some(via),
                    },
                );
            }
        }
        table
    }

    fn insert(&mut self, to: IpNet, towards: Towards) {
        match to {
            IpNet::V4(net) => self.v4.insert(net, towards),
            IpNet::V6(net) => self.v6.insert(net, towards),
        };
    }

    pub(crate) fn lookup(&self, to: &Addr) -> Option<Towards> {
        match addr_to_ip(to) {
            std::net::IpAddr::V4(ip) => self.v4.get_lpm(&ip.into()).map(|(_, t)| *t),
            std::net::IpAddr::V6(ip) => self.v6.get_lpm(&ip.into()).map(|(_, t)| *t),
        }
    }
}

impl Towards {
    /// The address of the next hop towards `to`.
    pub(crate) fn next(&self, to: &Addr) -> Addr {
        self.via.unwrap_or(*to)
    }
}

/// A next hop.
#[derive(Debug)]
pub(crate) struct Hop<B> {
    pub(crate) interface: u8,
    pub(crate) address: Addr,
    pub(crate) mac: Option<Mac>,
    pub(crate) pending: ArrayVec<B, PENDING_MAX>,
    confirmed_us: u64,
    used_us: u64,
    solicit_us: u64,
    solicitations: u8,
    in_use: bool,
    /// Its address was given: it is neither confirmed nor learned anew nor forgotten.
    given: bool,
}

/// What housekeeping must do about a hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Nothing,
    /// Ask for its address.
    Solicit,
    /// It does not answer: whoever waits for it is told.
    Failed,
}

/// The next hops that a worker knows.
#[derive(Debug)]
pub(crate) struct Hops<B> {
    hops: Vec<Hop<B>>,
    index: HashMap<(u8, Addr), u32>,
    free: Vec<u32>,
    capacity: usize,
    /// Of 16 bits: the sweep over the flows forgets old ones long before it comes around, for each of
    /// the few thousand places takes seconds to be given up.
    epoch: u16,
}

impl<B> Hops<B> {
    /// With those that are given, and room for so many besides.
    pub(crate) fn new(learned: usize, given: &[Neighbour]) -> Self {
        let capacity = learned + given.len();
        let mut hops = Self {
            hops: Vec::with_capacity(capacity),
            index: HashMap::with_capacity(capacity * 2),
            free: Vec::with_capacity(capacity),
            capacity,
            epoch: 1,
        };
        for neighbour in given {
            let address = addr_from_ip(neighbour.address);
            let number = hops.number(neighbour.interface, address, 0);
            let hop = hops.hop_mut(number.expect("there is room for every given one"));
            hop.mac = Some(neighbour.mac);
            hop.given = true;
        }
        hops
    }

    /// Changes when numbers that flows remember may have become wrong. Never 0.
    pub(crate) fn epoch(&self) -> u16 {
        self.epoch
    }

    pub(crate) fn hop(&self, number: u32) -> &Hop<B> {
        &self.hops[number as usize]
    }

    pub(crate) fn hop_mut(&mut self, number: u32) -> &mut Hop<B> {
        &mut self.hops[number as usize]
    }

    /// The number of a hop, which is made when it is not known; `None` when the table is full.
    pub(crate) fn number(&mut self, interface: u8, address: Addr, now_us: u64) -> Option<u32> {
        if let Some(number) = self.index.get(&(interface, address)) {
            return Some(*number);
        }
        let hop = Hop {
            interface,
            address,
            mac: None,
            pending: ArrayVec::new(),
            confirmed_us: 0,
            used_us: now_us,
            solicit_us: now_us,
            solicitations: 0,
            in_use: true,
            given: false,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.hops[number as usize] = hop;
                number
            }
            None if self.hops.len() < self.capacity => {
                self.hops.push(hop);
                self.hops.len() as u32 - 1
            }
            None => return None,
        };
        self.index.insert((interface, address), number);
        Some(number)
    }

    /// Notes what a neighbour says of itself. A neighbour that nobody asked about is made known
    /// when `make` says so. Returns the hop's number when it has packets waiting.
    pub(crate) fn learn(
        &mut self,
        interface: u8,
        address: Addr,
        mac: Mac,
        make: bool,
        now_us: u64,
    ) -> Option<u32> {
        let number = match self.index.get(&(interface, address)) {
            Some(number) => *number,
            None if make => self.number(interface, address, now_us)?,
            None => return None,
        };
        let hop = self.hop_mut(number);
        if hop.given {
            return None;
        }
        hop.mac = Some(mac);
        hop.confirmed_us = now_us;
        hop.solicitations = 0;
        (!hop.pending.is_empty()).then_some(number)
    }

    /// How many places there are for housekeeping to visit.
    pub(crate) fn places(&self) -> u32 {
        self.hops.len() as u32
    }

    /// Looks after one hop.
    pub(crate) fn tend(&mut self, number: u32, now_us: u64) -> Due {
        let hop = &mut self.hops[number as usize];
        if !hop.in_use || hop.given {
            return Due::Nothing;
        }
        if hop.mac.is_some() {
            let stale = now_us >= hop.confirmed_us + REACHABLE_US;
            if stale && now_us >= hop.used_us + UNUSED_US {
                self.forget(number);
                return Due::Nothing;
            }
            let used = hop.used_us + REACHABLE_US > now_us;
            if !(stale && used) {
                return Due::Nothing;
            }
        }
        if now_us < hop.solicit_us {
            return Due::Nothing;
        }
        if hop.solicitations < SOLICITATIONS_MAX {
            hop.solicitations += 1;
            hop.solicit_us = now_us + SOLICIT_EVERY_US;
            if hop.solicitations == SOLICITATIONS_MAX {
                hop.solicit_us = now_us + FAILED_US;
            }
            return Due::Solicit;
        }
        hop.mac = None;
        Due::Failed
    }

    /// Takes a hop out. Its pending packets must be gone.
    pub(crate) fn forget(&mut self, number: u32) {
        let hop = &mut self.hops[number as usize];
        debug_assert!(hop.pending.is_empty());
        hop.in_use = false;
        let key = (hop.interface, hop.address);
        self.index.remove(&key);
        self.free.push(number);
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }
}

impl<B> Hop<B> {
    /// A packet goes there.
    #[inline]
    pub(crate) fn used(&mut self, now_us: u64) {
        self.used_us = now_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::addr_from_ip;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            port: 0,
            vlan: None,
            zone: 0,
            mtu: 1500,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ping: true,
        }
    }

    fn addr(text: &str) -> Addr {
        addr_from_ip(text.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_wins_and_routes_go_through_their_next_hop() {
        let interfaces = [
            interface("in", &["10.1.0.1/24", "fd00:1::1/64"]),
            interface("out", &["10.2.0.1/24"]),
        ];
        let route = |to: &str, via: &str| Route {
            to: to.parse().unwrap(),
            via: via.parse().unwrap(),
        };
        let table = Routes::new(
            &interfaces,
            &[
                route("0.0.0.0/0", "10.2.0.254"),
                route("10.1.0.128/25", "10.2.0.9"),
                route("192.0.2.0/24", "203.0.113.1"),
            ],
        );
        let to = |text: &str| {
            let to = addr(text);
            table.lookup(&to).map(|t| (t.interface, t.next(&to)))
        };
        assert_eq!(to("10.1.0.7"), Some((0, addr("10.1.0.7"))));
        assert_eq!(to("10.1.0.200"), Some((1, addr("10.2.0.9"))));
        assert_eq!(to("8.8.8.8"), Some((1, addr("10.2.0.254"))));
        assert_eq!(
            to("192.0.2.1"),
            Some((1, addr("10.2.0.254"))),
            "its own route has no next hop"
        );
        assert_eq!(to("fd00:1::9"), Some((0, addr("fd00:1::9"))));
        assert_eq!(to("fd00:2::9"), None);
    }

    #[test]
    fn hops_are_asked_for_confirmed_and_given_up() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let mut hops = Hops::<()>::new(2, &[]);
        let n = hops.number(0, addr("10.1.0.7"), 0).unwrap();
        assert_eq!(hops.number(0, addr("10.1.0.7"), 5), Some(n));
        assert_eq!(hops.tend(n, 0), Due::Solicit);
        assert_eq!(hops.tend(n, SOLICIT_EVERY_US - 1), Due::Nothing);
        assert_eq!(
            hops.learn(0, addr("10.1.0.7"), mac, false, 10),
            None,
            "nobody waits"
        );
        assert_eq!(hops.tend(n, REACHABLE_US), Due::Nothing);
        hops.hop_mut(n).used(REACHABLE_US);
        let mut now = 10 + REACHABLE_US;
        for _ in 0..SOLICITATIONS_MAX {
            assert_eq!(hops.tend(n, now), Due::Solicit);
            assert!(
                hops.hop(n).mac.is_some(),
                "used while it is being confirmed"
            );
            now += SOLICIT_EVERY_US;
        }
        now += FAILED_US;
        hops.hop_mut(n).used(now);
        assert_eq!(hops.tend(n, now), Due::Failed);
        let epoch = hops.epoch();
        hops.forget(n);
        assert_ne!(hops.epoch(), epoch);
        assert_eq!(
            hops.number(1, addr("10.2.0.7"), now),
            Some(n),
            "the place is used again"
        );
        assert!(hops.number(1, addr("10.2.0.8"), now).is_some());
        assert!(hops.number(1, addr("10.2.0.9"), now).is_none(), "full");
        assert_eq!(hops.learn(1, addr("10.2.0.10"), mac, true, now), None);
    }

    #[test]
    fn a_given_hop_stays_as_it_was_given() {
        let given = Neighbour {
            interface: 1,
            address: "10.2.0.9".parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 9]),
        };
        let mut hops = Hops::<()>::new(1, &[given]);
        let n = hops.number(1, addr("10.2.0.9"), 0).unwrap();
        assert_eq!(hops.hop(n).mac, Some(given.mac));
        // Somebody else claims the address.
        let other = Mac([2, 0, 0, 0, 0, 66]);
        assert_eq!(hops.learn(1, addr("10.2.0.9"), other, true, 5), None);
        assert_eq!(hops.hop(n).mac, Some(given.mac));
        // Neither in use for long nor unused for long is it asked for or forgotten.
        for now_us in [REACHABLE_US, 2 * REACHABLE_US, 10 * UNUSED_US] {
            hops.hop_mut(n).used(now_us);
            assert_eq!(hops.tend(n, now_us), Due::Nothing);
            assert_eq!(hops.tend(n, now_us + UNUSED_US), Due::Nothing);
        }
        assert_eq!(hops.hop(n).mac, Some(given.mac));
        // The room for learned ones is besides.
        assert!(hops.number(1, addr("10.2.0.8"), 0).is_some());
        assert!(hops.number(1, addr("10.2.0.7"), 0).is_none(), "full");
    }
}
