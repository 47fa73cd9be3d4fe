//! The flows of a measurement, and their frames.
//!
//! Clients behind a router on the inside (10.8.0.0/13, fd00:8::/32), servers behind one on the outside
//! (198.18.0.0/15 of RFC 2544, fd00:18::/32). A flow is told from the others by its client's address and
//! port. Checksums are right: some systems look.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use state::{FlowKey, Slot, slot_of};
use wire::{Mac, build, tcp};

/// The gateway's address on each of its ports.
pub(crate) const GATEWAY: [Mac; 3] = [
    Mac([2, 0, 0, 0, 1, 1]),
    Mac([2, 0, 0, 0, 2, 1]),
    Mac([2, 0, 0, 0, 3, 1]),
];
/// The router that clients are behind.
pub(crate) const ROUTER_INSIDE: Mac = Mac([2, 0, 0, 0, 1, 0xfe]);
/// The router that servers are behind.
pub(crate) const ROUTER_OUTSIDE: Mac = Mac([2, 0, 0, 0, 2, 0xfe]);

/// Clients per port number: flows are spread over as many addresses.
const CLIENTS: u32 = 60_000;
const SERVERS: u32 = 250 * 250;

/// The IP version of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Their protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proto {
    Udp,
    Tcp,
}

/// How long frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// As short as the headers allow, 64 bytes on the wire with the check sequence at least.
    Smallest,
    /// The simple IMIX: of twelve frames seven of 64 bytes, four of 594 and one of 1518.
    Imix,
}

/// Which frame of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The client's SYN.
    Syn,
    /// The server's answer to it.
    SynAck,
    /// What the client sends again and again: a datagram, or a segment inside of the window.
    Data,
}

/// A set of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flows {
    pub(crate) count: u32,
    pub(crate) family: Family,
    pub(crate) proto: Proto,
    pub(crate) sizes: Sizes,
}

impl Flows {
    /// Udp over IPv4 in the smallest frames.
    pub(crate) const fn udp(count: u32) -> Self {
        Self {
            count,
            family: Family::V4,
            proto: Proto::Udp,
            sizes: Sizes::Smallest,
        }
    }

    /// The client's and the server's end of flow `n`.
    pub(crate) fn ends(&self, n: u32) -> (SocketAddr, SocketAddr) {
        let (host, port) = (n % CLIENTS, 1024 + (n / CLIENTS) as u16);
        // Over all servers, and not in step with the clients.
        let server = (n % SERVERS).wrapping_mul(7919) % SERVERS;
        let (client, server): (IpAddr, IpAddr) = match self.family {
            Family::V4 => (
                Ipv4Addr::from(u32::from_be_bytes([10, 8, 0, 0]) + 256 + host).into(),
                Ipv4Addr::new(198, 18, (server / 250) as u8, 1 + (server % 250) as u8).into(),
            ),
            Family::V6 => (
                Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 256 + host as u16).into(),
                Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1 + server as u16).into(),
            ),
        };
        let service = match self.proto {
            Proto::Udp => 4433,
            Proto::Tcp => 443,
        };
        (
            SocketAddr::new(client, port),
            SocketAddr::new(server, service),
        )
    }

    /// The slot of flow `n`.
    pub(crate) fn slot(&self, n: u32) -> Slot {
        let (client, server) = self.ends(n);
        let octets = |end: SocketAddr| match end.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let proto = match self.proto {
            Proto::Udp => state::PROTO_UDP,
            Proto::Tcp => state::PROTO_TCP,
        };
        let (from, to) = (octets(client), octets(server));
        let (key, _) = FlowKey::new(from, to, client.port(), server.port(), proto);
        slot_of(&key)
    }

    /// A frame of flow `n`, without the check sequence.
    pub(crate) fn frame(&self, n: u32, part: Part) -> Vec<u8> {
        let (client, server) = self.ends(n);
        let headers = match self.family {
            Family::V4 => 14 + 20,
            Family::V6 => 14 + 40,
        } + match self.proto {
            Proto::Udp => 8,
            Proto::Tcp => 20,
        };
        let len = match (part, self.sizes) {
            (Part::Data, Sizes::Imix) => imix(n),
            _ => 60,
        };
        // A segment without data is padded, as cards do; a datagram is as long as the frame.
        let has_data = self.proto == Proto::Udp || len > 60;
        let payload = vec![
            0x5a;
            if has_data {
                len.saturating_sub(headers)
            } else {
                0
            }
        ];
        // Where each side's numbers begin. They differ from flow to flow.
        let (ours, theirs) = (n.wrapping_mul(0x9e37_79b9), n.wrapping_mul(0x85eb_ca6b) | 1);
        let frame = match (self.proto, part) {
            (Proto::Udp, _) => build::udp(client, server, &payload),
            (Proto::Tcp, Part::Syn) => build::tcp(client, server, tcp::SYN, ours, 0, &[]),
            (Proto::Tcp, Part::SynAck) => {
                let (flags, ack) = (tcp::SYN | tcp::ACK, ours.wrapping_add(1));
                build::tcp(server, client, flags, theirs, ack, &[])
            }
            (Proto::Tcp, Part::Data) => {
                let (seq, ack) = (ours.wrapping_add(1), theirs.wrapping_add(1));
                build::tcp(client, server, tcp::ACK, seq, ack, &payload)
            }
        };
        let frame = match part {
            Part::SynAck => build::with_macs(frame, GATEWAY[2], ROUTER_OUTSIDE),
            Part::Syn | Part::Data => build::with_macs(frame, GATEWAY[0], ROUTER_INSIDE),
        };
        build::padded(frame)
    }

    /// The longest frame in bytes.
    pub(crate) fn frame_max(&self) -> u32 {
        match (self.sizes, self.family) {
            (Sizes::Imix, _) => 1514,
            (Sizes::Smallest, Family::V4) => 60,
            (Sizes::Smallest, Family::V6) => 74,
        }
    }

    /// A name for files.
    pub(crate) fn name(&self) -> String {
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        let proto = match self.proto {
            Proto::Udp => "udp",
            Proto::Tcp => "tcp",
        };
        let sizes = match self.sizes {
            Sizes::Smallest => "64",
            Sizes::Imix => "imix",
        };
        format!("{}-{family}-{proto}-{sizes}", self.count)
    }
}

fn imix(n: u32) -> usize {
    match n % 12 {
        0..7 => 60,
        7..11 => 590,
        _ => 1514,
    }
}

/// The numbers below `count` in an order that looks random and is the same every time
/// (Fisher and Yates, with Marsaglia's xorshift64*).
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..order.len()).rev() {
        let with = (u128::from(next()) * (last as u128 + 1)) >> 64;
        order.swap(last, with as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const KINDS: [(Family, Proto); 4] = [
        (Family::V4, Proto::Udp),
        (Family::V4, Proto::Tcp),
        (Family::V6, Proto::Udp),
        (Family::V6, Proto::Tcp),
    ];

    fn flows(family: Family, proto: Proto, sizes: Sizes) -> Flows {
        Flows {
            count: 10_000_000,
            family,
            proto,
            sizes,
        }
    }

    #[test]
    fn flows_are_distinct() {
        for (family, proto) in KINDS {
            let flows = flows(family, proto, Sizes::Smallest);
            let near = (0..200_000).chain(9_900_000..10_000_000);
            let ends: HashSet<_> = near.clone().map(|n| flows.ends(n)).collect();
            assert_eq!(ends.len(), near.count());
        }
    }

    #[test]
    fn frames_are_what_a_gateway_takes() {
        for (family, proto) in KINDS {
            for sizes in [Sizes::Smallest, Sizes::Imix] {
                let flows = flows(family, proto, sizes);
                for n in [0, 7, 11, 59_999, 60_000, 9_999_999] {
                    for part in [Part::Syn, Part::SynAck, Part::Data] {
                        let frame = flows.frame(n, part);
                        assert!((60..=flows.frame_max() as usize).contains(&frame.len()));
                        let parsed = wire::parse(&frame).expect("a good frame");
                        assert!(
                            wire::verify_l4(&frame, &parsed),
                            "{family:?} {proto:?} {part:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_imix_is_seven_to_four_to_one() {
        let lengths: Vec<usize> = (0..1200).map(imix).collect();
        let of = |len| lengths.iter().filter(|other| **other == len).count();
        assert_eq!((of(60), of(590), of(1514)), (700, 400, 100));
    }

    #[test]
    fn an_order_has_every_number_once_and_no_runs() {
        let order = shuffled(100_000);
        let distinct: HashSet<_> = order.iter().collect();
        assert_eq!(distinct.len(), order.len());
        let runs = order
            .windows(2)
            .filter(|pair| pair[0] + 1 == pair[1])
            .count();
        assert!(runs < 20, "{runs} neighbours stayed together");
    }
}
