//! What holds for every input: no panic, ordered offsets, emit and parse as inverses.

mod common;

use std::net::IpAddr;

use common::{frame, mac, mutated, v6};
use proptest::prelude::*;
use wire::checksum::Sum;
use wire::{
    Fragment, Net, Parsed, arp, build, ethernet, icmpv4, icmpv6, ipv4, ipv6, ndp, parse,
    parse_into, reply, rewrite, tcp, udp, verify_l4,
};

/// Everything that reads or writes a frame, on whatever the frame is.
fn exercise(data: &[u8]) {
    let _ = arp::Repr::parse(data);
    let _ = ethernet::Repr::parse(data);
    let _ = ipv4::Repr::parse(data);
    let _ = ipv6::Repr::parse(data);
    let _ = tcp::Repr::parse(data);
    let _ = udp::Repr::parse(data);
    let _ = icmpv4::Repr::parse(data);
    let _ = icmpv6::Repr::parse(data);
    let _ = ndp::Repr::parse(data);
    let Ok(p) = parse(data) else { return };
    check_offsets(&p, data.len());
    act(data, &p);
}

fn check_offsets(p: &Parsed, len: usize) {
    assert!(p.l3 == 14 || p.l3 == 18);
    assert!(p.l3 <= p.l4 && p.l4 <= p.payload && p.payload <= p.end);
    assert!(usize::from(p.end) <= len);
    if let Some(inner) = p.inner {
        assert_eq!(inner.l3, p.payload);
        assert!(inner.l3 + 20 <= inner.l4 && inner.l4 <= p.end);
    }
    if let Fragment::Later { offset, .. } = p.fragment {
        assert_eq!((p.sport, p.dport, p.payload), (0, 0, p.l4));
        assert!(offset.is_multiple_of(8) && offset > 0);
    }
    if matches!(p.net, Net::V4 | Net::V6) {
        assert_eq!(p.net == Net::V4, wire::addr_to_v4(&p.src).is_some());
        assert_eq!(p.net == Net::V4, wire::addr_to_v4(&p.dst).is_some());
    }
}

fn act(data: &[u8], p: &Parsed) {
    let _ = verify_l4(data, p);
    let _ = ndp::Repr::from_frame(data, p);
    let mut frame = data.to_vec();
    let _ = rewrite::decrement_ttl(&mut frame, p);
    let _ = rewrite::set_macs(&mut frame, build::DST_MAC, build::SRC_MAC);
    let _ = rewrite::set_vlan(&mut frame, p, 7);
    for addr in [p.src, p.dst, [0x20; 16]] {
        let _ = rewrite::set_src(&mut frame, p, &addr, Some(9));
        let _ = rewrite::set_dst(&mut frame, p, &addr, Some(9));
        let _ = rewrite::set_inner_src(&mut frame, p, &addr, Some(9));
        let _ = rewrite::set_inner_dst(&mut frame, p, &addr, Some(9));
    }
    let _ = reply::echo_reply(&mut frame, p, build::DST_MAC);
    let sender = reply::Sender {
        mac: build::DST_MAC,
        advertised: build::DST_MAC,
        vlan: p.vlan,
    };
    let mut buf = [0; reply::FRAME_LEN_MAX];
    for room in [0, 17, 40, 60, buf.len()] {
        let buf = &mut buf[..room];
        let _ = reply::tcp_reset(buf, &sender, p);
        let _ = reply::neighbor_advertisement(buf, &sender, p, p.dst.into());
        let error = reply::IcmpError::TooBig { mtu: 1280 };
        let _ = reply::icmp_error(buf, &sender, &p.dst, data, p, error);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_octets(data in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&data);
    }

    #[test]
    fn arbitrary_octets_behind_a_plausible_start(
        start in prop::sample::select(vec![
            &[8, 0, 0x45][..], &[8, 0, 0x46], &[0x86, 0xdd, 0x60], &[8, 6, 0, 1, 8, 0, 6, 4],
            &[0x81, 0, 0, 5, 8, 0, 0x45], &[0x81, 0, 0, 5, 0x86, 0xdd, 0x60],
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        exercise(&[&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], start, &rest].concat());
    }

    #[test]
    fn frames_parse_and_verify(frame in frame()) {
        let p = parse(&frame).unwrap();
        prop_assert!(verify_l4(&frame, &p));
        prop_assert_eq!(usize::from(p.end), frame.len());
        exercise(&frame);
    }

    #[test]
    fn damaged_frames(frame in mutated()) {
        exercise(&frame);
    }

    #[test]
    fn a_place_that_was_used_before(first in frame(), second in mutated(), unknown in any::<bool>()) {
        let mut second = second;
        if unknown {
            second[12..14].copy_from_slice(&[0x88, 0xcc]);
        }
        let mut p = parse(&first).unwrap();
        match parse(&second) {
            Ok(want) => {
                prop_assert_eq!(parse_into(&second, &mut p), Ok(()));
                prop_assert_eq!(p, want);
            }
            Err(reason) => prop_assert_eq!(parse_into(&second, &mut p), Err(reason)),
        }
    }

    #[test]
    fn truncated_frames(frame in frame(), at in any::<prop::sample::Index>()) {
        let cut = &frame[..at.index(frame.len())];
        prop_assert!(parse(cut).is_err());
        exercise(cut);
    }

    #[test]
    fn a_summary_of_another_frame(frame in frame(), other in frame(), at in any::<prop::sample::Index>()) {
        act(&other[..at.index(other.len() + 1)], &parse(&frame).unwrap());
    }

    #[test]
    fn a_summary_of_nothing(
        offsets in any::<[u16; 4]>(),
        proto in prop::sample::select(vec![1u8, 6, 17, 58]),
        v4 in any::<bool>(),
        kind in prop::sample::select(vec![8u8, 128, 135]),
        frame in frame(),
    ) {
        let [l3, l4, payload, end] = offsets.map(|o| if o & 1 == 0 { o } else { o % 128 });
        let net = if v4 { Net::V4 } else { Net::V6 };
        let src = if v4 { [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 9, 9, 9, 9] } else { [9; 16] };
        let inner = wire::Inner { l3: payload, l4, proto, ..wire::Inner::default() };
        let icmp = wire::Icmp { kind, code: 0, id: 0 };
        act(&frame, &Parsed { net, l3, l4, payload, end, proto, src, dst: src, icmp, inner: Some(inner), ..Parsed::default() });
    }

    #[test]
    fn ethernet_both_ways(dst in mac(), src in mac(), tag in any::<Option<u16>>()) {
        let repr = ethernet::Repr { dst, src, tag, ethertype: ethernet::TYPE_IPV6 };
        let mut buf = [0; 20];
        prop_assert_eq!(repr.emit(&mut buf), Ok(repr.header_len()));
        prop_assert_eq!(ethernet::Repr::parse(&buf), Ok(repr));
    }

    #[test]
    fn arp_both_ways(
        operation in 0u16..5, sender_mac in mac(), target_mac in mac(), ips in any::<[[u8; 4]; 2]>(),
    ) {
        let repr = arp::Repr {
            operation: operation.into(),
            sender_mac,
            sender_ip: ips[0].into(),
            target_mac,
            target_ip: ips[1].into(),
        };
        let mut buf = [0; 28];
        prop_assert_eq!(repr.emit(&mut buf), Ok(28));
        prop_assert_eq!(arp::Repr::parse(&buf), Ok(repr));
    }

    #[test]
    fn ipv4_both_ways(
        addrs in any::<[[u8; 4]; 2]>(), bytes in any::<[u8; 3]>(), id in any::<u16>(),
        flags in any::<[bool; 2]>(), offset in 0u16..8192, payload_len in 0u16..100,
    ) {
        let repr = ipv4::Repr {
            src: addrs[0].into(),
            dst: addrs[1].into(),
            proto: bytes[0],
            ttl: bytes[1],
            tos: bytes[2],
            id,
            dont_fragment: flags[0],
            more_fragments: flags[1],
            fragment_offset: offset * 8,
            payload_len,
        };
        let mut buf = [0; 120];
        prop_assert_eq!(repr.emit(&mut buf), Ok(20));
        prop_assert_eq!(ipv4::Repr::parse(&buf), Ok(repr));
    }

    #[test]
    fn ipv6_both_ways(
        addrs in any::<[[u8; 16]; 2]>(), bytes in any::<[u8; 3]>(), flow_label in 0u32..1 << 20,
        payload_len in 0u16..100,
    ) {
        let repr = ipv6::Repr {
            src: addrs[0].into(),
            dst: addrs[1].into(),
            next_header: bytes[0],
            hop_limit: bytes[1],
            traffic_class: bytes[2],
            flow_label,
            payload_len,
        };
        let mut buf = [0; 140];
        prop_assert_eq!(repr.emit(&mut buf), Ok(40));
        prop_assert_eq!(ipv6::Repr::parse(&buf), Ok(repr));
    }

    #[test]
    fn tcp_both_ways(
        ports in any::<[u16; 4]>(), numbers in any::<[u32; 2]>(),
        flags in prop::sample::select(vec![0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xc2, 0x30]),
        mss in any::<Option<u16>>(), window_scale in prop::option::of(0u8..15),
        sack_permitted in any::<bool>(), timestamps in any::<Option<(u32, u32)>>(),
        data in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let repr = tcp::Repr {
            sport: ports[0],
            dport: ports[1],
            seq: numbers[0],
            ack: numbers[1],
            flags,
            window: ports[2],
            urgent: ports[3],
            options: tcp::Options { mss, window_scale, sack_permitted, timestamps },
        };
        let mut segment = vec![0xaa; repr.header_len()];
        segment.extend_from_slice(&data);
        let pseudo = Sum::pseudo_v4(&[1, 2, 3, 4], &[5, 6, 7, 8], 6, segment.len() as u16);
        prop_assert_eq!(repr.emit(&mut segment, pseudo), Ok(repr.header_len()));
        prop_assert_eq!(tcp::Repr::parse(&segment), Ok(repr));
        prop_assert_eq!(tcp::Segment::new(&segment).unwrap().payload(), &data[..]);
        prop_assert!(pseudo.add(&segment).is_intact());
    }

    #[test]
    fn udp_both_ways(ports in any::<[u16; 2]>(), data in prop::collection::vec(any::<u8>(), 0..20)) {
        let repr = udp::Repr { sport: ports[0], dport: ports[1] };
        let mut datagram = vec![0xaa; 8];
        datagram.extend_from_slice(&data);
        let pseudo = Sum::pseudo_v6(&[1; 16], &[2; 16], 17, datagram.len() as u32);
        prop_assert_eq!(repr.emit(&mut datagram, pseudo), Ok(8));
        prop_assert_eq!(udp::Repr::parse(&datagram), Ok(repr));
        prop_assert!(pseudo.add(&datagram).is_intact());
    }

    #[test]
    fn icmp_both_ways(
        which in 0usize..6, a in any::<u16>(), b in any::<u16>(), code in 1u8..16,
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (data, quoted) = (&data[..], &data[..]);
        let v4 = [
            icmpv4::Repr::EchoRequest { id: a, seq: b, data },
            icmpv4::Repr::EchoReply { id: a, seq: b, data },
            icmpv4::Repr::Unreachable { code, mtu: if code == 4 { b } else { 0 }, quoted },
            icmpv4::Repr::TimeExceeded { code, quoted },
            icmpv4::Repr::ParameterProblem { code, pointer: a as u8, quoted },
            icmpv4::Repr::Other { kind: 13, code, rest: [1, 2, 3, 4], data },
        ][which];
        let mut buf = vec![0xaa; v4.len()];
        prop_assert_eq!(v4.emit(&mut buf), Ok(v4.len()));
        prop_assert_eq!(icmpv4::Repr::parse(&buf), Ok(v4));
        prop_assert!(Sum::of(&buf).is_intact());

        let wide = u32::from(a) << 16 | u32::from(b);
        let v6 = [
            icmpv6::Repr::EchoRequest { id: a, seq: b, data },
            icmpv6::Repr::EchoReply { id: a, seq: b, data },
            icmpv6::Repr::Unreachable { code, quoted },
            icmpv6::Repr::TooBig { mtu: wide, quoted },
            icmpv6::Repr::ParameterProblem { code, pointer: wide, quoted },
            icmpv6::Repr::Other { kind: 143, code, rest: [1, 2, 3, 4], data },
        ][which];
        let pseudo = Sum::pseudo_v6(&[1; 16], &[2; 16], 58, v6.len() as u32);
        prop_assert_eq!(v6.emit(&mut buf, pseudo), Ok(v6.len()));
        prop_assert_eq!(icmpv6::Repr::parse(&buf), Ok(v6));
        prop_assert!(pseudo.add(&buf).is_intact());
    }

    #[test]
    fn neighbours_both_ways(
        target in v6(), mac in prop::option::of(mac()), flags in any::<[bool; 3]>(),
        advertisement in any::<bool>(), src in v6(), dst in v6(),
    ) {
        let IpAddr::V6(target) = target else { unreachable!("v6() gives IPv6") };
        let [router, solicited, overrides] = flags;
        let repr = match advertisement {
            true => ndp::Repr::Advertisement { target, router, solicited, overrides, target_mac: mac },
            false => ndp::Repr::Solicitation { target, source_mac: mac },
        };
        let frame = build::neighbor(src, dst, &repr);
        prop_assert_eq!(ndp::Repr::from_frame(&frame, &parse(&frame).unwrap()), Ok(Some(repr)));
    }
}
