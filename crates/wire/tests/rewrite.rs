//! Rewriting: what was asked for changes, nothing else does, and every checksum stays as right or
//! as wrong as it was.

mod common;

use std::net::SocketAddr;

use common::{error, frame, v4, v6, whole};
use proptest::prelude::*;
use wire::rewrite::{
    RewriteError, decrement_ttl, set_dst, set_inner_dst, set_inner_src, set_macs, set_src,
    set_vlan, with_payload,
};
use wire::{Addr, Fragment, Net, Parsed, addr_from_ip, build, ip, parse, tcp, verify_l4};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn other(v4: bool) -> Addr {
    match v4 {
        true => addr_from_ip([203, 0, 113, 77].into()),
        false => [0x2a; 16],
    }
}

/// The frame with its transport checksum computed anew, by the full sum.
fn recomputed(frame: &[u8]) -> Vec<u8> {
    let p = parse(frame).unwrap();
    let mut frame = frame.to_vec();
    let (l4, end) = (usize::from(p.l4), usize::from(p.end));
    let field = l4
        + match p.proto {
            ip::TCP => 16,
            ip::UDP => 6,
            _ => 2,
        };
    frame[field..field + 2].fill(0);
    let len = (end - l4) as u32;
    let pseudo = match p.proto {
        ip::ICMP => wire::checksum::Sum::default(),
        _ => wire::checksum::Sum::pseudo_v6(&p.src, &p.dst, p.proto, len),
    };
    // The prefix of a mapped address adds ffff per address, which is 0 in ones' complement.
    let mut sum = pseudo.add(&frame[l4..end]).checksum();
    if p.proto == ip::UDP && sum == 0 {
        sum = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn ttl_of_both_families() {
    for (a, b) in [
        ("192.0.2.1:7", "192.0.2.2:8"),
        ("[2001:db8::1]:7", "[2001:db8::2]:8"),
    ] {
        let mut frame = build::udp(at(a), at(b), b"x");
        for left in (1..64).rev() {
            let p = parse(&frame).unwrap();
            assert_eq!(decrement_ttl(&mut frame, &p), Ok(left));
            assert_eq!(parse(&frame).unwrap(), Parsed { ttl: left, ..p });
        }
        let before = frame.clone();
        let p = parse(&frame).unwrap();
        assert_eq!(decrement_ttl(&mut frame, &p), Err(RewriteError::TtlExpired));
        assert_eq!(frame, before);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut frame = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"x");
    frame[40..42].fill(0);
    let p = parse(&frame).unwrap();
    set_src(&mut frame, &p, &other(true), Some(99)).unwrap();
    set_dst(&mut frame, &p, &other(true), Some(98)).unwrap();
    assert_eq!(frame[40..42], [0, 0]);
    let p = parse(&frame).unwrap();
    assert_eq!(
        (p.sport, p.dport, p.src, p.dst),
        (99, 98, other(true), other(true))
    );
}

#[test]
fn udp_never_gets_the_checksum_that_means_none() {
    // Every source port: one of them must lead to a sum of 0, which is sent as ffff.
    let mut frame = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"x");
    let p = parse(&frame).unwrap();
    let mut seen_ffff = false;
    for port in 0..=u16::MAX {
        set_src(&mut frame, &p, &p.src, Some(port)).unwrap();
        assert_ne!(frame[40..42], [0, 0]);
        seen_ffff |= frame[40..42] == [0xff, 0xff];
    }
    assert!(seen_ffff);
    assert!(verify_l4(&frame, &parse(&frame).unwrap()));
}

#[test]
fn refusals_leave_the_frame() {
    let v4 = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"x");
    let v6 = build::udp(at("[2001:db8::1]:7"), at("[2001:db8::2]:8"), b"x");
    for (frame, addr) in [(v4, other(false)), (v6, other(true))] {
        let mut changed = frame.clone();
        let p = parse(&frame).unwrap();
        assert_eq!(
            set_src(&mut changed, &p, &addr, None),
            Err(RewriteError::Family)
        );
        assert_eq!(
            set_inner_src(&mut changed, &p, &p.src, None),
            Err(RewriteError::NoInner)
        );
        assert_eq!(set_vlan(&mut changed, &p, 5), Err(RewriteError::Untagged));
        assert_eq!(changed, frame);
        assert_eq!(
            set_src(&mut changed[..20], &p, &p.src, None),
            Err(RewriteError::Mismatch)
        );
    }
    let p = Parsed {
        net: Net::Arp,
        ..Parsed::default()
    };
    assert_eq!(decrement_ttl(&mut [0; 60], &p), Err(RewriteError::NotIp));
    assert_eq!(
        set_dst(&mut [0; 60], &p, &other(true), None),
        Err(RewriteError::NotIp)
    );
}

#[test]
fn link_layer() {
    let mut frame = build::with_vlan(
        build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"x"),
        0x6005,
    );
    let p = parse(&frame).unwrap();
    set_macs(&mut frame, build::SRC_MAC, build::DST_MAC).unwrap();
    set_vlan(&mut frame, &p, 9).unwrap();
    let want = Parsed {
        eth_dst: p.eth_src,
        eth_src: p.eth_dst,
        vlan: Some(9),
        ..p
    };
    assert_eq!(parse(&frame), Ok(want));
    assert_eq!(frame[14] & 0xf0, 0x60, "the priority stays");
}

#[test]
fn a_translated_datagram_survives_fragmentation() {
    for (a, b, v4) in [
        ("192.0.2.1:7", "192.0.2.2:8", true),
        ("[2001:db8::1]:7", "[2001:db8::2]:8", false),
    ] {
        let frame = build::udp(at(a), at(b), &[0x5a; 100]);
        let mut whole = frame.clone();
        let p = parse(&frame).unwrap();
        set_src(&mut whole, &p, &other(v4), Some(4321)).unwrap();
        let mut data = Vec::new();
        for mut part in build::fragments(&frame, 1, 48) {
            let p = parse(&part).unwrap();
            let port = matches!(p.fragment, Fragment::First { .. }).then_some(4321);
            set_src(&mut part, &p, &other(v4), port).unwrap();
            let p = parse(&part).unwrap();
            assert_eq!(p.src, other(v4));
            data.extend_from_slice(&part[usize::from(p.l4)..]);
        }
        assert_eq!(data, whole[usize::from(p.l4)..]);
    }
}

/// An ICMP error about a translated packet, sent back to the translator, becomes what the
/// original sender would have got about the original packet, octet by octet.
fn check_error_through_nat(original: &[u8], len: usize) {
    let p = parse(original).unwrap();
    let v4 = p.net == Net::V4;
    let mut translated = original.to_vec();
    set_src(&mut translated, &p, &other(v4), Some(61000)).unwrap();

    let mut got = error(&translated, len);
    let e = parse(&got).unwrap();
    let id = match p.proto {
        ip::TCP | ip::UDP => p.sport,
        _ => p.icmp.id,
    };
    set_inner_src(&mut got, &e, &p.src, Some(id)).unwrap();
    set_dst(&mut got, &e, &p.src, None).unwrap();
    let mut want = error(original, len);
    assert!(verify_l4(&got, &parse(&got).unwrap()));
    if ends_in_checksum(&e) {
        // Half a checksum cannot be updated, nor can anybody verify it.
        let icmp = usize::from(e.l4) + 2;
        for frame in [&mut got, &mut want] {
            frame.pop();
            frame[icmp..icmp + 2].fill(0);
        }
    }
    assert_eq!(got, want);
}

/// Whether the quoted packet is cut in the middle of its transport checksum.
fn ends_in_checksum(e: &Parsed) -> bool {
    let inner = e.inner.unwrap();
    inner.proto == ip::TCP && e.end == inner.l4 + 17
}

#[test]
fn half_a_quoted_checksum_is_left() {
    let original = build::tcp(
        at("192.0.2.1:7"),
        at("192.0.2.2:8"),
        tcp::ACK,
        1,
        2,
        b"data",
    );
    check_error_through_nat(&original, 37);
}

#[test]
fn an_error_about_a_destination_translation() {
    let original = build::tcp(
        at("192.0.2.1:7"),
        at("192.0.2.2:8"),
        tcp::ACK,
        1,
        2,
        b"data",
    );
    let p = parse(&original).unwrap();
    let mut translated = original.clone();
    set_dst(&mut translated, &p, &other(true), Some(8080)).unwrap();
    let mut got = error(&translated, 28);
    let e = parse(&got).unwrap();
    set_inner_dst(&mut got, &e, &p.dst, Some(8)).unwrap();
    assert_eq!(got, error(&original, 28));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn incremental_equals_full(
        frame in whole(), of_v4 in (v4(), v4()), of_v6 in (v6(), v6()),
        ports in any::<[u16; 2]>(),
    ) {
        let p = parse(&frame).unwrap();
        let (src, dst) = if p.net == Net::V4 { of_v4 } else { of_v6 };
        let (src, dst) = (addr_from_ip(src), addr_from_ip(dst));
        let mut changed = frame.clone();
        set_src(&mut changed, &p, &src, Some(ports[0])).unwrap();
        set_dst(&mut changed, &p, &dst, Some(ports[1])).unwrap();
        decrement_ttl(&mut changed, &p).unwrap();
        prop_assert_eq!(recomputed(&changed), changed.clone());

        let mut want = Parsed { src, dst, ttl: 63, ..p };
        match p.proto {
            ip::TCP | ip::UDP => (want.sport, want.dport) = (ports[0], ports[1]),
            _ => want.icmp.id = ports[1],
        }
        prop_assert_eq!(parse(&changed), Ok(want));
    }

    #[test]
    fn there_and_back(frame in frame(), port in any::<u16>(), swap in any::<bool>()) {
        let p = parse(&frame).unwrap();
        let v4 = p.net == Net::V4;
        let mut changed = frame.clone();
        let (set, addr, old) = match swap {
            true => (set_src as fn(&mut [u8], &Parsed, &Addr, Option<u16>) -> Result<(), RewriteError>, p.src, p.sport),
            false => (set_dst as _, p.dst, p.dport),
        };
        let old = match p.proto {
            ip::TCP | ip::UDP => old,
            _ => p.icmp.id,
        };
        set(&mut changed, &p, &other(v4), Some(port)).unwrap();
        prop_assert!(changed != frame);
        prop_assert!(verify_l4(&changed, &parse(&changed).unwrap()));
        set(&mut changed, &p, &addr, Some(old)).unwrap();
        prop_assert_eq!(changed, frame);
    }

    #[test]
    fn damage_stays_visible(frame in whole(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let p = parse(&frame).unwrap();
        let mut damaged = frame.clone();
        let l4 = usize::from(p.l4);
        // Behind the ports, so that what is overwritten is not what was damaged.
        let start = l4 + 6;
        damaged[start + at.index(frame.len() - start)] ^= 1 << bit;
        let Ok(d) = parse(&damaged) else { return Ok(()) };
        prop_assume!(!verify_l4(&damaged, &d));
        set_src(&mut damaged, &d, &other(p.net == Net::V4), None).unwrap();
        prop_assert!(!verify_l4(&damaged, &parse(&damaged).unwrap()));
    }

    #[test]
    fn errors_through_nat(frame in whole(), len in 28usize..120) {
        check_error_through_nat(&frame, len);
    }
}

proptest! {
    /// Another payload: what the builder makes of it, whatever was there before.
    #[test]
    fn payloads_are_replaced_whole(
        is_v4: bool,
        is_tcp: bool,
        before in prop::collection::vec(any::<u8>(), 0..80),
        after in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let (a, b) = match is_v4 {
            true => ("192.0.2.1:7", "192.0.2.2:8"),
            false => ("[2001:db8::1]:7", "[2001:db8::2]:8"),
        };
        let built = |data: &[u8]| match is_tcp {
            true => build::tcp(at(a), at(b), tcp::ACK, 5, 6, data),
            false => build::udp(at(a), at(b), data),
        };
        let frame = build::padded(built(&before));
        let p = parse(&frame).unwrap();
        prop_assert_eq!(with_payload(&frame, &p, &after).unwrap(), built(&after));
    }
}

#[test]
fn payloads_that_fit_no_packet_are_refused() {
    let frame = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"x");
    let p = parse(&frame).unwrap();
    let much = vec![0; 65_508];
    assert_eq!(with_payload(&frame, &p, &much), Err(RewriteError::Mismatch));
    assert!(with_payload(&frame, &p, &much[1..]).is_ok());
    let echo = build::icmp_echo(
        [192, 0, 2, 1].into(),
        [192, 0, 2, 2].into(),
        false,
        1,
        1,
        b"x",
    );
    let p = parse(&echo).unwrap();
    assert_eq!(with_payload(&echo, &p, b"y"), Err(RewriteError::NotIp));
}
