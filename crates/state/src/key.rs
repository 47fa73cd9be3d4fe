//! The key of a flow: its two endpoints and protocol, the same for both directions.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// IPv4's protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// TCP's protocol number.
pub const PROTO_TCP: u8 = 6;
/// UDP's protocol number.
pub const PROTO_UDP: u8 = 17;
/// The next-header number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// Which way a packet goes, relative to its flow's canonical key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Dir {
    /// From endpoint `a` to endpoint `b`.
    AToB = 0,
    /// From endpoint `b` to endpoint `a`.
    BToA = 1,
}

impl Dir {
    /// The opposite direction.
    pub const fn reverse(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }

    /// 0 for `AToB`, 1 for `BToA`.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The canonical key of a flow: the lower endpoint is `a`, so that packets of both directions
/// have the same key.
///
/// Addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6 (RFC 4291, section 2.5.5.2).
/// Ports are in host order; an ICMP echo flow has its identifier as both ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey {
    a: [u8; 16],
    b: [u8; 16],
    a_port: u16,
    b_port: u16,
    proto: u8,
    /// Always zero: the key is hashed and compared as whole words.
    zero: [u8; 3],
}

const _: () = assert!(
    size_of::<FlowKey>() == 40,
    "two flow entries per three cache lines rest on it"
);

impl FlowKey {
    /// The canonical key of a packet and the direction in which the packet goes. Where both
    /// endpoints are equal the direction is `AToB`.
    #[inline]
    pub fn new(src: [u8; 16], dst: [u8; 16], sport: u16, dport: u16, proto: u8) -> (Self, Dir) {
        let in_order = (u128::from_be_bytes(src), sport) <= (u128::from_be_bytes(dst), dport);
        // Chosen by masks: both orders are equally frequent, and a branch would be guessed wrong half of the time.
        let mask = u128::from(in_order).wrapping_neg();
        let (s, d) = (u128::from_ne_bytes(src), u128::from_ne_bytes(dst));
        let (s_port, d_port) = (u32::from(sport), u32::from(dport));
        let ports = if in_order {
            s_port | d_port << 16
        } else {
            d_port | s_port << 16
        };
        let key = Self {
            a: (s & mask | d & !mask).to_ne_bytes(),
            b: (d & mask | s & !mask).to_ne_bytes(),
            a_port: ports as u16,
            b_port: (ports >> 16) as u16,
            proto,
            zero: [0; 3],
        };
        (key, if in_order { Dir::AToB } else { Dir::BToA })
    }

    /// [`Self::new`] of IPv4 addresses in host order.
    #[inline(always)]
    pub fn of_v4(src: u32, dst: u32, sport: u16, dport: u16, proto: u8) -> (Self, Dir) {
        // Mapped addresses differ in their last 32 bits alone.
        let there = u64::from(src) << 16 | u64::from(sport);
        let back = u64::from(dst) << 16 | u64::from(dport);
        let (a, b) = (there.min(back), there.max(back));
        let mapped = |end: u64| (0xffff_0000_0000 | u128::from(end >> 16)).to_be_bytes();
        let key = Self {
            a: mapped(a),
            b: mapped(b),
            a_port: a as u16,
            b_port: b as u16,
            proto,
            zero: [0; 3],
        };
        (key, if there <= back { Dir::AToB } else { Dir::BToA })
    }

    /// Whether two keys are equal, without a branch per field.
    #[inline]
    pub fn is(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        let differ = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]);
        differ == 0
    }

    /// The source endpoint of packets that go in `dir`.
    #[inline]
    pub const fn source(&self, dir: Dir) -> ([u8; 16], u16) {
        match dir {
            Dir::AToB => (self.a, self.a_port),
            Dir::BToA => (self.b, self.b_port),
        }
    }

    /// The destination endpoint of packets that go in `dir`.
    #[inline]
    pub const fn destination(&self, dir: Dir) -> ([u8; 16], u16) {
        self.source(dir.reverse())
    }

    /// The IP protocol number.
    #[inline]
    pub const fn proto(&self) -> u8 {
        self.proto
    }

    /// Whether both endpoints are IPv4.
    pub fn is_v4(&self) -> bool {
        is_v4_mapped(&self.a) && is_v4_mapped(&self.b)
    }

    /// The five words of the key, for hashing.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        [
            word(&self.a[..8]),
            word(&self.a[8..]),
            word(&self.b[..8]),
            word(&self.b[8..]),
            u64::from(self.a_port) | u64::from(self.b_port) << 16 | u64::from(self.proto) << 32,
        ]
    }
}

/// An IPv4 address in the 16-byte form that keys use.
pub const fn v4_mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

pub(crate) fn is_v4_mapped(address: &[u8; 16]) -> bool {
    address[..12] == v4_mapped([0; 4])[..12]
}

/// An address as people write it.
pub(crate) fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.proto {
            PROTO_ICMP => "icmp",
            PROTO_TCP => "tcp",
            PROTO_UDP => "udp",
            PROTO_ICMPV6 => "icmpv6",
            other => return write!(f, "proto {other} {} {}", ip(self.a), ip(self.b)),
        };
        let a = SocketAddr::new(ip(self.a), self.a_port);
        let b = SocketAddr::new(ip(self.b), self.b_port);
        write!(f, "{name} {a} {b}")
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_key() {
        let x = v4_mapped([10, 0, 0, 1]);
        let y = v4_mapped([10, 0, 0, 2]);
        let (forth, d1) = FlowKey::new(x, y, 1000, 80, PROTO_TCP);
        let (back, d2) = FlowKey::new(y, x, 80, 1000, PROTO_TCP);
        assert_eq!(forth, back);
        assert_eq!(d1, d2.reverse());
        assert_eq!(forth.source(d1), (x, 1000));
        assert_eq!(back.source(d2), (y, 80));
        assert!(forth.is_v4());
        assert_eq!(forth.to_string(), "tcp 10.0.0.1:1000 10.0.0.2:80");
    }

    #[test]
    fn equal_addresses_are_told_apart_by_port() {
        let x = v4_mapped([10, 0, 0, 1]);
        let (forth, d1) = FlowKey::new(x, x, 2, 1, PROTO_UDP);
        let (back, d2) = FlowKey::new(x, x, 1, 2, PROTO_UDP);
        assert_eq!(forth, back);
        assert_ne!(d1, d2);
    }
}
