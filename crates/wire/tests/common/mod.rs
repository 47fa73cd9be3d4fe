//! Strategies for well-formed and for damaged frames.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use wire::{Mac, build, ip, tcp};

type Ends = (IpAddr, IpAddr);

/// Source and destination of one family, both of one host.
pub(crate) fn addresses() -> impl Strategy<Value = Ends> {
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

/// An IPv4 address of one host.
pub(crate) fn v4() -> impl Strategy<Value = IpAddr> {
    (1u8..127, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d]))
}

/// An IPv6 address of one host.
pub(crate) fn v6() -> impl Strategy<Value = IpAddr> {
    (0x20u8..0x40, any::<[u8; 15]>()).prop_map(|(first, rest)| {
        let mut octets = [first; 16];
        octets[1..].copy_from_slice(&rest);
        IpAddr::from(octets)
    })
}

/// Any Ethernet address.
pub(crate) fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn flags() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14])
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

/// A TCP, UDP or echo frame without fragmentation.
pub(crate) fn whole() -> impl Strategy<Value = Vec<u8>> {
    let make = |(ends, ports, which, flags, numbers, data): (
        Ends,
        (u16, u16),
        u8,
        u8,
        [u32; 2],
        Vec<u8>,
    )| {
        let ((src, dst), (sport, dport)) = (ends, ports);
        let (s, d) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        match which {
            0 => build::tcp(s, d, flags, numbers[0], numbers[1], &data),
            1 => {
                let options = tcp::Options {
                    mss: Some(sport),
                    window_scale: Some(9),
                    sack_permitted: true,
                    timestamps: Some(numbers.into()),
                };
                let repr = tcp::Repr {
                    flags: tcp::SYN,
                    options,
                    ..tcp::Repr::default()
                };
                build::tcp_segment(s, d, repr, &data)
            }
            2 => build::udp(s, d, &data),
            _ => build::icmp_echo(src, dst, flags & 2 != 0, sport, dport, &data),
        }
    };
    (
        addresses(),
        any::<(u16, u16)>(),
        0u8..4,
        flags(),
        any::<[u32; 2]>(),
        data(),
    )
        .prop_map(make)
}

/// Any well-formed IP frame: with a tag or not, an ICMP error, with extension headers, a
/// fragment.
pub(crate) fn frame() -> impl Strategy<Value = Vec<u8>> {
    let decorate = |(frame, how, at, vlan): (Vec<u8>, u8, usize, Option<u16>)| {
        let v6 = frame[12] == 0x86;
        let frame = match how {
            0 => error(&frame, 28 + at),
            1 if v6 => {
                let padding = [1, 4, 0, 0, 0, 0];
                let frame = build::with_extension(frame, ip::DESTINATION_OPTIONS, &padding);
                build::with_extension(frame, ip::HOP_BY_HOP, &padding)
            }
            2 => {
                let mut parts = build::fragments(&frame, 0x77, 64);
                parts.swap_remove(at % parts.len())
            }
            _ => frame,
        };
        match vlan {
            Some(id) => build::with_vlan(frame, id),
            None => frame,
        }
    };
    (whole(), 0u8..6, 0usize..80, prop::option::of(1u16..4095)).prop_map(decorate)
}

/// An ICMP error about `frame` that quotes `len` octets of it, 20 more with IPv6.
pub(crate) fn error(frame: &[u8], len: usize) -> Vec<u8> {
    let (from, more): (IpAddr, usize) = match frame[12] {
        0x86 => ([0x20; 16].into(), 20),
        _ => ([9, 9, 9, 9].into(), 0),
    };
    build::icmp_unreachable(from, frame, len + more)
}

/// A well-formed frame with some octets changed, and its IPv4 header checksum repaired in half
/// of the cases, so that damage reaches what is behind.
pub(crate) fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((12usize..110, any::<u8>()), 1..4);
    (frame(), changes, any::<bool>()).prop_map(|(mut frame, changes, repair)| {
        for (index, octet) in changes {
            if let Some(place) = frame.get_mut(index) {
                *place = octet;
            }
        }
        let l3 = if frame[12] == 0x81 { 18 } else { 14 };
        if let (true, Some(header)) = (repair, frame.get_mut(l3..l3 + 20)) {
            header[10..12].fill(0);
            let sum = wire::checksum::Sum::of(header).checksum();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    })
}
