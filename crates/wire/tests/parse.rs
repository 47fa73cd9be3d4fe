//! `parse` on frames made by hand: what it reads, and every reason to refuse.

use std::net::{IpAddr, SocketAddr};

use wire::{Fragment, Icmp, Mac, Malformed, Net, Parsed, Tcp, build, ip, parse, tcp, verify_l4};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A SYN as Linux sends it, from 192.0.2.1:40000 to 198.51.100.7:443, octet by octet; its
/// checksums are from an independent implementation of RFC 1071.
const SYN: [u8; 74] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08,
    0x00, // Ethernet
    0x45, 0x10, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x32, 0x2a, // IPv4
    0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33, 0x64, 0x07, // addresses
    0x9c, 0x40, 0x01, 0xbb, 0x11, 0x22, 0x33, 0x44, 0x00, 0x00, 0x00, 0x00, 0xa0, 0x02, 0xfa, 0xf0,
    0x7e, 0x70, 0x00, 0x00, // TCP
    0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x03, 0x03, 0x07, // MSS, SACK, timestamps, window scale
];

#[test]
fn a_tcp_syn_in_full() {
    let mut src = [0; 16];
    src[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    let mut dst = src;
    dst[12..].copy_from_slice(&[198, 51, 100, 7]);
    let want = Parsed {
        eth_dst: Mac([2, 0, 0, 0, 0, 2]),
        eth_src: Mac([2, 0, 0, 0, 0, 1]),
        vlan: None,
        net: Net::V4,
        l3: 14,
        l4: 34,
        payload: 74,
        end: 74,
        src,
        dst,
        proto: 6,
        ttl: 64,
        tos: 0x10,
        fragment: Fragment::None,
        dont_fragment: true,
        sport: 40000,
        dport: 443,
        icmp: Icmp::default(),
        tcp: Tcp {
            seq: 0x1122_3344,
            ack: 0,
            window: 0xfaf0,
            flags: tcp::SYN,
            payload_len: 0,
            window_scale: Some(7),
            mss: Some(1460),
        },
        inner: None,
    };
    assert_eq!(parse(&SYN), Ok(want));
    assert!(verify_l4(&SYN, &want));

    let padded = [&SYN[..], &[0xa5; 9]].concat();
    assert_eq!(parse(&padded), Ok(want), "padding is no data");

    let tagged = build::with_vlan(SYN.to_vec(), 0xe005);
    let tagged_want = Parsed {
        vlan: Some(5),
        l3: 18,
        l4: 38,
        payload: 78,
        end: 78,
        ..want
    };
    assert_eq!(parse(&tagged), Ok(tagged_want));
    let priority_only = build::with_vlan(SYN.to_vec(), 0xe000);
    assert_eq!(
        parse(&priority_only),
        Ok(Parsed {
            vlan: None,
            ..tagged_want
        })
    );
}

#[test]
fn options_count_on_a_syn_only() {
    let mut ack = SYN;
    ack[47] = tcp::ACK;
    let p = parse(&ack).unwrap();
    assert_eq!((p.tcp.mss, p.tcp.window_scale), (None, None));
    assert!(!verify_l4(&ack, &p), "the flags are covered");
}

#[test]
fn every_octet_is_covered_by_a_checksum_or_a_rule() {
    for index in 14..SYN.len() {
        let mut damaged = SYN;
        damaged[index] ^= 0x04;
        let refused = match parse(&damaged) {
            Ok(p) => !verify_l4(&damaged, &p),
            Err(_) => true,
        };
        assert!(refused, "octet {index}");
    }
}

#[test]
fn udp_over_ipv6_behind_extension_headers() {
    let frame = build::udp(at("[2001:db8::1]:53"), at("[2001:db8::2]:4000"), b"hello");
    let p = parse(&frame).unwrap();
    assert_eq!(
        (p.net, p.proto, p.l3, p.l4, p.payload, p.end),
        (Net::V6, 17, 14, 54, 62, 67)
    );
    assert_eq!((p.sport, p.dport, p.dont_fragment), (53, 4000, true));
    assert!(verify_l4(&frame, &p));

    let options = build::with_extension(frame, ip::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    let router_alert = build::with_extension(options, ip::HOP_BY_HOP, &[5, 2, 0, 0, 1, 0]);
    let p = parse(&router_alert).unwrap();
    assert_eq!((p.proto, p.l4, p.payload, p.end), (17, 70, 78, 83));
    assert_eq!((p.sport, p.dport), (53, 4000));
    assert!(verify_l4(&router_alert, &p));
}

#[test]
fn a_checksum_under_a_route_cannot_be_told() {
    let frame = build::udp(at("[2001:db8::1]:53"), at("[2001:db8::2]:4000"), b"hello");
    let body = [
        2, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
    ];
    let mut routed = build::with_extension(frame, ip::ROUTING, &body);
    routed[53] = 3; // the destination on the way
    let p = parse(&routed).unwrap();
    assert!(verify_l4(&routed, &p));
    routed[57] = 0; // no segments left: this destination counts
    assert!(!verify_l4(&routed, &parse(&routed).unwrap()));
}

#[test]
fn fragments_of_both_families() {
    for (src, dst) in [
        ("192.0.2.1:7", "192.0.2.2:8"),
        ("[2001:db8::1]:7", "[2001:db8::2]:8"),
    ] {
        let frame = build::udp(at(src), at(dst), &[7; 100]);
        let parts = build::fragments(&frame, 0xbeef, 48);
        let parsed: Vec<Parsed> = parts.iter().map(|f| parse(f).unwrap()).collect();
        let id = 0xbeef;
        assert_eq!(
            parsed.iter().map(|p| p.fragment).collect::<Vec<_>>(),
            [
                Fragment::First { id },
                Fragment::Later { id, offset: 48 },
                Fragment::Later { id, offset: 96 },
            ]
        );
        assert_eq!((parsed[0].sport, parsed[0].dport), (7, 8));
        assert_eq!((parsed[1].sport, parsed[1].dport), (0, 0));
        assert!(parsed.iter().all(|p| p.proto == 17));
        assert_eq!(parsed[2].end - parsed[2].l4, 12);
        assert_eq!(parsed[2].payload, parsed[2].l4);
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let frame = build::udp(at("[2001:db8::1]:7"), at("[2001:db8::2]:8"), b"x");
    let atomic = build::with_extension(frame, ip::FRAGMENT, &[0, 0, 0, 0, 0, 9]);
    let p = parse(&atomic).unwrap();
    assert_eq!((p.fragment, p.sport), (Fragment::None, 7));
}

#[test]
fn arp_and_unknown_types() {
    let request = wire::arp::Repr {
        operation: wire::arp::Operation::Request,
        sender_mac: Mac([2, 0, 0, 0, 0, 9]),
        sender_ip: [10, 0, 0, 9].into(),
        target_mac: Mac([0; 6]),
        target_ip: [10, 0, 0, 1].into(),
    };
    let frame = build::padded(build::arp(&request));
    let mut used = parse(&SYN).unwrap();
    assert_eq!(wire::parse_into(&frame, &mut used), Ok(()));
    let p = parse(&frame).unwrap();
    assert_eq!(used, p, "nothing of the SYN is left");
    assert_eq!((p.net, p.l3, p.end, frame.len()), (Net::Arp, 14, 42, 60));
    assert_eq!(wire::addr_to_ip(&p.src), ip("10.0.0.9"));
    assert_eq!(wire::addr_to_ip(&p.dst), ip("10.0.0.1"));
    assert!(p.eth_dst.is_broadcast());
    assert_eq!(
        wire::arp::Repr::parse(&frame[usize::from(p.l3)..]),
        Ok(request)
    );

    let mut lldp = frame;
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let p = parse(&lldp).unwrap();
    assert_eq!((p.net, p.l3, p.l4, p.end), (Net::Other(0x88cc), 14, 14, 60));
}

#[test]
fn echo_and_errors() {
    for (a, b, proto, kind) in [
        ("192.0.2.1", "192.0.2.2", 1, 8),
        ("2001:db8::1", "2001:db8::2", 58, 128),
    ] {
        let echo = build::icmp_echo(ip(a), ip(b), true, 0x1234, 5, b"ping");
        let p = parse(&echo).unwrap();
        let want = Icmp {
            kind,
            code: 0,
            id: 0x1234,
        };
        assert_eq!((p.proto, p.icmp, p.inner), (proto, want, None));
        assert_eq!(&echo[usize::from(p.payload)..], b"ping");
        assert!(verify_l4(&echo, &p));

        let error = build::icmp_unreachable(ip(b), &echo, usize::MAX);
        let p = parse(&error).unwrap();
        assert!(verify_l4(&error, &p));
        assert_eq!(p.icmp.id, 0);
        let inner = p.inner.unwrap();
        assert_eq!((inner.proto, inner.icmp), (proto, want));
        assert_eq!(wire::addr_to_ip(&inner.src), ip(a));
        assert_eq!(wire::addr_to_ip(&inner.dst), ip(b));
        assert_eq!(inner.l3, p.l4 + 8);

        let again = build::icmp_unreachable(ip(a), &error, usize::MAX);
        assert_eq!(parse(&again), Err(Malformed::IcmpInnerError));
    }
}

#[test]
fn a_quoted_segment_may_be_cut_after_8_octets() {
    for (a, b, header) in [
        ("192.0.2.1:1000", "192.0.2.2:80", 20),
        ("[2001:db8::1]:1000", "[2001:db8::2]:80", 40),
    ] {
        let frame = build::tcp(at(a), at(b), tcp::ACK, 77, 88, b"data");
        let from = at(b).ip();
        let error = build::icmp_unreachable(from, &frame, header + 8);
        let inner = parse(&error).unwrap().inner.unwrap();
        assert_eq!((inner.sport, inner.dport, inner.tcp_seq), (1000, 80, 77));
        assert_eq!(usize::from(inner.l4 - inner.l3), header);
        let short = build::icmp_unreachable(from, &frame, header + 7);
        assert_eq!(parse(&short), Err(Malformed::IcmpInnerTruncated));
        let shorter = build::icmp_unreachable(from, &frame, header - 1);
        assert_eq!(parse(&shorter), Err(Malformed::IcmpInnerTruncated));
    }
}

#[test]
fn a_quoted_later_fragment_has_no_ports() {
    for (a, b) in [
        ("192.0.2.1:7", "192.0.2.2:8"),
        ("[2001:db8::1]:7", "[2001:db8::2]:8"),
    ] {
        let parts = build::fragments(&build::udp(at(a), at(b), &[7; 100]), 1, 48);
        let error = build::icmp_unreachable(at(b).ip(), &parts[1], 60);
        let inner = parse(&error).unwrap().inner.unwrap();
        assert!(inner.later_fragment);
        assert_eq!((inner.proto, inner.sport, inner.dport), (17, 0, 0));
    }
}

/// A frame with octets replaced and its IPv4 header checksum made right again.
fn v4_with(changes: &[(usize, u8)]) -> Vec<u8> {
    edited(
        &build::tcp(
            at("192.0.2.1:7"),
            at("192.0.2.2:8"),
            tcp::ACK,
            1,
            2,
            b"12345678",
        ),
        changes,
    )
}

fn udp4_with(changes: &[(usize, u8)]) -> Vec<u8> {
    edited(
        &build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"12345678"),
        changes,
    )
}

fn edited(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for &(index, octet) in changes {
        frame[index] = octet;
    }
    let header_len = usize::from(frame[14] & 15) * 4;
    if frame[14] >> 4 == 4 && header_len >= 20 {
        frame[24..26].fill(0);
        let sum = wire::checksum::Sum::of(&frame[14..14 + header_len]).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn v6_with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = build::tcp(
        at("[2001:db8::1]:7"),
        at("[2001:db8::2]:8"),
        tcp::ACK,
        1,
        2,
        b"12345678",
    );
    for &(index, octet) in changes {
        frame[index] = octet;
    }
    frame
}

/// 20 octets of header and these options, which must be a multiple of 4.
fn v4_with_options(options: &[u8]) -> Vec<u8> {
    let mut frame = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"12345678");
    let total = (frame.len() - 14 + options.len()) as u8;
    frame.splice(34..34, options.iter().copied());
    edited(
        &frame,
        &[(14, 0x45 + (options.len() / 4) as u8), (17, total)],
    )
}

fn v6_address(start: usize, addr: &str) -> Vec<(usize, u8)> {
    let IpAddr::V6(addr) = ip(addr) else {
        panic!("an IPv6 address")
    };
    (start..).zip(addr.octets()).collect()
}

fn extensions(kinds: &[u8], body: &[u8]) -> Vec<u8> {
    kinds.iter().rev().fold(v6_with(&[]), |f, kind| {
        build::with_extension(f, *kind, body)
    })
}

#[test]
fn what_hosts_send_passes() {
    let pad = [1, 4, 0, 0, 0, 0];
    for (name, frame) in [
        ("tcp", v4_with(&[])),
        ("udp", udp4_with(&[])),
        ("v6", v6_with(&[])),
        (
            "dhcp",
            udp4_with(&[
                (26, 0),
                (27, 0),
                (28, 0),
                (29, 0),
                (30, 255),
                (31, 255),
                (32, 255),
                (33, 255),
            ]),
        ),
        (
            "record route and end",
            v4_with_options(&[7, 7, 4, 0, 0, 0, 0, 0]),
        ),
        ("router alert", v4_with_options(&[148, 4, 0, 0])),
        ("unspecified source", v6_with(&v6_address(22, "::"))),
        ("group destination", v6_with(&v6_address(38, "ff02::1"))),
        ("8 extensions", extensions(&[60; 8], &pad)),
        (
            "the last fragment that fits",
            extensions(&[44], &[0xff, 0xd8, 0, 0, 0, 1]),
        ),
        ("routing type 2", extensions(&[43], &[2, 1, 0, 0, 0, 0])),
    ] {
        assert!(parse(&frame).is_ok(), "{name}: {:?}", parse(&frame));
    }
}

#[test]
fn every_reason_has_a_frame() {
    use Malformed::*;
    let pad = [1, 4, 0, 0, 0, 0];
    let echo4 = build::icmp_echo(ip("192.0.2.1"), ip("192.0.2.2"), true, 1, 1, b"");
    let echo6 = build::icmp_echo(ip("2001:db8::1"), ip("2001:db8::2"), true, 1, 1, b"");
    let error4 = build::icmp_unreachable(ip("192.0.2.2"), &echo4, 28);
    let error6 = build::icmp_unreachable(ip("2001:db8::2"), &echo6, 48);
    // A header of 16 octets, of which 8 are quoted, before a protocol that is not looked into.
    let esp = build::packet(ip("2001:db8::1"), ip("2001:db8::2"), ip::ESP, &[0; 16]);
    let extended_esp = build::with_extension(esp, 60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let vlan = |id| build::with_vlan(v4_with(&[]), id);
    let mut provider = vlan(5);
    provider[12..14].copy_from_slice(&[0x88, 0xa8]);
    let cases: Vec<(Malformed, Vec<u8>)> = vec![
        (FrameTruncated, v4_with(&[])[..13].to_vec()),
        (FrameTruncated, vlan(5)[..17].to_vec()),
        (FrameTooLong, vec![0; 65536]),
        (EthernetSourceGroup, v4_with(&[(6, 3)])),
        (VlanStack, build::with_vlan(vlan(5), 6)),
        (VlanStack, provider),
        (VlanReserved, vlan(4095)),
        (
            ArpTruncated,
            edited(&v4_with(&[])[..41], &[(13, 6), (14, 0)]),
        ),
        (ArpFormat, edited(&v4_with(&[]), &[(13, 6), (14, 0)])),
        (Ipv4Truncated, v4_with(&[])[..33].to_vec()),
        (Ipv4Version, v4_with(&[(14, 0x65)])),
        (Ipv4HeaderLength, v4_with(&[(14, 0x44)])),
        (Ipv4HeaderLength, v4_with(&[(16, 0), (17, 19)])),
        (Ipv4TotalLength, v4_with(&[(17, 49)])),
        (Ipv4HeaderChecksum, {
            let mut frame = v4_with(&[]);
            frame[22] -= 1;
            frame
        }),
        (Ipv4HeaderChecksum, {
            let mut frame = v4_with_options(&[148, 4, 0, 0]);
            frame[36] = 1;
            frame
        }),
        (Ipv4Options, v4_with_options(&[7, 1, 0, 0])),
        (Ipv4Options, v4_with_options(&[7, 5, 0, 0])),
        (Ipv4Options, v4_with_options(&[1, 1, 1, 7])),
        (
            Ipv4SourceRoute,
            v4_with_options(&[1, 131, 7, 4, 9, 9, 9, 9]),
        ),
        (Ipv4SourceRoute, v4_with_options(&[137, 3, 4, 0])),
        (Ipv6Truncated, v6_with(&[])[..53].to_vec()),
        (Ipv6Version, v6_with(&[(14, 0x40)])),
        (Ipv6PayloadLength, v6_with(&[(19, 29)])),
        (Ipv6Jumbogram, v6_with(&[(18, 0), (19, 0), (20, 0)])),
        (Ipv6Jumbogram, extensions(&[0], &[0xc2, 4, 0, 1, 0, 0])),
        (Ipv6ExtensionTruncated, v6_with(&[(19, 7), (20, 60)])),
        (Ipv6ExtensionTruncated, v6_with(&[(20, 60), (55, 3)])),
        (Ipv6ExtensionCount, extensions(&[60; 9], &pad)),
        (Ipv6HopByHopNotFirst, extensions(&[60, 0], &pad)),
        (Ipv6HopByHopNotFirst, extensions(&[0, 0], &pad)),
        (Ipv6Options, extensions(&[0], &[1, 5, 0, 0, 0, 0])),
        (Ipv6Options, extensions(&[0], &[0, 0, 0, 0, 0, 1])),
        (Ipv6RoutingType0, extensions(&[43], &[0, 1, 0, 0, 0, 0])),
        (
            Ipv6FragmentRepeated,
            extensions(&[44, 44], &[0, 0, 0, 0, 0, 1]),
        ),
        (AddressSourceGroup, v4_with(&[(26, 224)])),
        (
            AddressSourceGroup,
            v4_with(&[(26, 255), (27, 255), (28, 255), (29, 255)]),
        ),
        (AddressSourceGroup, v6_with(&[(22, 0xff)])),
        (AddressLoopback, v4_with(&[(26, 127)])),
        (AddressLoopback, v4_with(&[(30, 127)])),
        (AddressLoopback, v6_with(&v6_address(22, "::1"))),
        (AddressLoopback, v6_with(&v6_address(38, "::1"))),
        (
            AddressUnspecified,
            v4_with(&[(30, 0), (31, 0), (32, 0), (33, 0)]),
        ),
        (AddressUnspecified, v6_with(&v6_address(38, "::"))),
        (AddressMapped, v6_with(&v6_address(22, "::ffff:1.2.3.4"))),
        (AddressMapped, v6_with(&v6_address(38, "::ffff:1.2.3.4"))),
        (FragmentLength, udp4_with(&[(17, 35), (20, 0x20)])),
        (FragmentLength, udp4_with(&[(17, 20), (20, 0), (21, 5)])),
        (
            FragmentLength,
            extensions(&[44], &[0, 1, 0, 0, 0, 1]).tap(|f| {
                f.pop();
                f[19] -= 1;
            }),
        ),
        (FragmentOverflow, udp4_with(&[(20, 0x1f), (21, 0xff)])),
        (
            FragmentOverflow,
            extensions(&[44], &[0xff, 0xf8, 0, 0, 0, 1]),
        ),
        // What precedes the fragment header counts in the reassembled packet.
        (
            FragmentOverflow,
            build::with_extension(
                extensions(&[44], &[0xff, 0xd8, 0, 0, 0, 1]),
                60,
                &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
        ),
        (FragmentTiny, v4_with(&[(20, 0), (21, 1)])),
        (FragmentTiny, v4_with(&[(20, 0), (21, 2)])),
        (FragmentTiny, v4_with(&[(17, 36), (20, 0x20)])),
        (FragmentTiny, v4_with(&[(17, 44), (20, 0x20), (46, 0x70)])),
        (FragmentTiny, extensions(&[44], &[0, 8, 0, 0, 0, 1])),
        (TcpTruncated, v4_with(&[(17, 39)])),
        (TcpTruncated, v4_with(&[(46, 0x80)])),
        (TcpDataOffset, v4_with(&[(46, 0x40)])),
        (
            TcpOptions,
            v4_with(&[(46, 0x60), (47, tcp::SYN), (54, 2), (55, 3)]),
        ),
        (TcpFlagsNull, v4_with(&[(47, tcp::PSH)])),
        (TcpFlagsSynFin, v4_with(&[(47, 3)])),
        (TcpFlagsSynRst, v4_with(&[(47, 6)])),
        (TcpFlagsFinRst, v4_with(&[(47, 5)])),
        (TcpFlagsFinOnly, v4_with(&[(47, 1)])),
        (UdpTruncated, udp4_with(&[(17, 27)])),
        (UdpLength, udp4_with(&[(39, 7)])),
        (UdpLength, udp4_with(&[(39, 17)])),
        (IcmpTruncated, edited(&echo4, &[(17, 27)])),
        (IcmpFamily, edited(&echo4, &[(23, 58)])),
        (IcmpFamily, v6_with(&[(20, 1)])),
        (IcmpFamily, edited(&error4, &[(51, 58)])),
        (IcmpInnerTruncated, edited(&error4, &[(17, 55)])),
        (
            IcmpInnerTruncated,
            build::icmp_unreachable(ip("2001:db8::2"), &extended_esp, 48),
        ),
        (IcmpInnerHeader, edited(&error4, &[(42, 0x65)])),
        (IcmpInnerHeader, edited(&error4, &[(42, 0x44)])),
        (IcmpInnerHeader, edited(&error6, &[(62, 0x45)])),
        (IcmpInnerError, edited(&error4, &[(62, 11)])),
    ];
    for (want, frame) in &cases {
        assert_eq!(parse(frame), Err(*want), "{frame:02x?}");
    }
    for reason in Malformed::all() {
        let known = cases.iter().any(|(want, _)| *want == reason);
        // Neighbour discovery is read by its own module, for packets to the node itself.
        assert!(known || reason == NdpFormat, "no frame for {reason:?}");
    }
}

/// Edits in the middle of a table.
trait Tap: Sized {
    fn tap(self, edit: impl FnOnce(&mut Self)) -> Self;
}

impl Tap for Vec<u8> {
    fn tap(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }
}

#[test]
fn udp_checksums_that_are_not_there() {
    let mut v4 = udp4_with(&[]);
    v4[40..42].fill(0);
    assert!(verify_l4(&v4, &parse(&v4).unwrap()));
    let mut v6 = build::udp(at("[2001:db8::1]:7"), at("[2001:db8::2]:8"), b"x");
    v6[60..62].fill(0);
    assert!(!verify_l4(&v6, &parse(&v6).unwrap()));
}
