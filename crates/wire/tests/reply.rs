//! What the gateway says itself, read back by the parser.

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{frame, whole};
use proptest::prelude::*;
use wire::reply::{
    self, FRAME_LEN_MAX, IcmpError, ReplyError, Sender, Unreachable, may_answer_with_error,
};
use wire::{
    Mac, Malformed, Net, Parsed, addr_from_ip, addr_to_ip, arp, build, icmpv4, ip, ndp, parse, tcp,
    verify_l4,
};

const NODE: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
const CLUSTER: Mac = Mac([3, 0, 0, 0, 0, 0x78]);
const SENDER: Sender = Sender {
    mac: NODE,
    advertised: CLUSTER,
    vlan: None,
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a builder, checks that it refuses every shorter buffer and that what it wrote is intact.
fn written(build: impl Fn(&mut [u8]) -> Result<usize, ReplyError>) -> (Vec<u8>, Parsed) {
    let mut buf = [0xa5; FRAME_LEN_MAX];
    let len = build(&mut buf).unwrap();
    for short in [0, 13, 14, 20, 33, len - 1] {
        if short < len {
            let refused = build(&mut [0; FRAME_LEN_MAX][..short]);
            assert!(
                matches!(refused, Err(ReplyError::BufferTooShort(_))),
                "{short}"
            );
        }
    }
    let p = parse(&buf[..len]).unwrap();
    assert_eq!(usize::from(p.end), len);
    assert_eq!(p.eth_src, NODE);
    assert!(verify_l4(&buf[..len], &p));
    (buf[..len].to_vec(), p)
}

#[test]
fn arp_question_and_answer() {
    let (me, you) = ([10, 0, 0, 1].into(), [10, 0, 0, 9].into());
    let (frame, p) = written(|buf| reply::arp_request(buf, &SENDER, me, you));
    assert_eq!((p.net, p.eth_dst), (Net::Arp, Mac::BROADCAST));
    let request = arp::Repr::parse(&frame[14..]).unwrap();
    let want = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: CLUSTER,
        sender_ip: me,
        target_mac: Mac([0; 6]),
        target_ip: you,
    };
    assert_eq!(request, want);

    let asked = arp::Repr {
        sender_mac: Mac([2; 6]),
        ..want
    };
    let tagged = Sender {
        vlan: Some(7),
        ..SENDER
    };
    let (frame, p) = written(|buf| reply::arp_reply(buf, &tagged, &asked));
    assert_eq!((p.vlan, p.eth_dst), (Some(7), Mac([2; 6])));
    let answer = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: CLUSTER,
        sender_ip: you,
        target_mac: Mac([2; 6]),
        target_ip: me,
    };
    assert_eq!(arp::Repr::parse(&frame[18..]), Ok(answer));
    let refused = reply::arp_reply(&mut [0; 60], &SENDER, &answer);
    assert_eq!(refused, Err(ReplyError::NotAnswerable));

    let (frame, _) = written(|buf| reply::arp_announcement(buf, &SENDER, me));
    let announced = arp::Repr::parse(&frame[14..]).unwrap();
    assert_eq!((announced.sender_ip, announced.target_ip), (me, me));
}

#[test]
fn neighbour_question_and_answer() {
    let (me, you) = (
        "2001:db8::1".parse().unwrap(),
        "2001:db8::12:3456".parse().unwrap(),
    );
    let (frame, p) = written(|buf| reply::neighbor_solicitation(buf, &SENDER, me, you));
    assert_eq!(p.eth_dst, Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    assert_eq!(addr_to_ip(&p.dst), addr("ff02::1:ff12:3456"));
    assert_eq!(
        ndp::Repr::from_frame(&frame, &p),
        Ok(Some(ndp::Repr::Solicitation {
            target: you,
            source_mac: Some(CLUSTER),
        }))
    );

    let (frame, p) = written(|buf| reply::neighbor_advertisement(buf, &SENDER, &p, you));
    assert_eq!((p.eth_dst, p.ttl), (NODE, 255));
    assert_eq!(
        (addr_to_ip(&p.src), addr_to_ip(&p.dst)),
        (you.into(), me.into())
    );
    let here = |solicited| ndp::Repr::Advertisement {
        target: you,
        router: true,
        solicited,
        overrides: true,
        target_mac: Some(CLUSTER),
    };
    assert_eq!(ndp::Repr::from_frame(&frame, &p), Ok(Some(here(true))));
    let refused = reply::neighbor_advertisement(&mut [0; 200], &SENDER, &p, you);
    assert_eq!(refused, Err(ReplyError::NotAnswerable));

    // Duplicate address detection asks from nowhere and is answered to all.
    let question = ndp::Repr::Solicitation {
        target: you,
        source_mac: None,
    };
    let dad = build::neighbor(addr("::"), addr("ff02::1:ff12:3456"), &question);
    let d = parse(&dad).unwrap();
    assert_eq!(ndp::Repr::from_frame(&dad, &d), Ok(Some(question)));
    let (frame, p) = written(|buf| reply::neighbor_advertisement(buf, &SENDER, &d, you));
    assert_eq!(p.eth_dst, Mac([0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(addr_to_ip(&p.dst), addr("ff02::1"));
    assert_eq!(ndp::Repr::from_frame(&frame, &p), Ok(Some(here(false))));
}

#[test]
fn neighbour_messages_that_routers_forwarded_or_made_up() {
    let target = "2001:db8::5".parse().unwrap();
    let question = ndp::Repr::Solicitation {
        target,
        source_mac: Some(NODE),
    };
    let good = build::neighbor(addr("2001:db8::9"), target.into(), &question);
    let read = |frame: &[u8]| ndp::Repr::from_frame(frame, &parse(frame).unwrap());
    assert_eq!(read(&good), Ok(Some(question)));
    for (index, value) in [
        (21, 254),  // hop limit
        (55, 1),    // code
        (62, 0xff), // a group as target, with a wrong checksum
        (79, 0),    // an option without length
        (79, 2),    // an option beyond the end
        (85, 1),    // a wrong checksum
    ] {
        let mut bad = good.clone();
        bad[index] = value;
        assert_eq!(read(&bad), Err(Malformed::NdpFormat), "octet {index}");
    }
    let nowhere = addr("::");
    let group = addr("ff02::1:ff00:5");
    let anonymous = ndp::Repr::Solicitation {
        target,
        source_mac: None,
    };
    let of_group = ndp::Repr::Solicitation {
        target: "ff02::1".parse().unwrap(),
        source_mac: Some(NODE),
    };
    let answer_to_all = ndp::Repr::Advertisement {
        target,
        router: false,
        solicited: true,
        overrides: false,
        target_mac: Some(NODE),
    };
    assert_eq!(
        read(&build::neighbor(nowhere, group, &anonymous)),
        Ok(Some(anonymous))
    );
    for (name, src, dst, repr) in [
        ("from nowhere with an address", nowhere, group, question),
        ("from nowhere to a host", nowhere, target.into(), anonymous),
        ("about a group", addr("2001:db8::9"), group, of_group),
        (
            "an answer to all",
            target.into(),
            addr("ff02::1"),
            answer_to_all,
        ),
    ] {
        let frame = build::neighbor(src, dst, &repr);
        assert_eq!(read(&frame), Err(Malformed::NdpFormat), "{name}");
    }
    let echo = build::icmp_echo(addr("2001:db8::9"), target.into(), true, 1, 1, b"");
    assert_eq!(read(&echo), Ok(None));
}

#[test]
fn icmp_errors_have_the_codes_of_their_family() {
    let v4 = build::udp(at("192.0.2.1:7"), at("198.51.100.2:8"), &[1; 1400]);
    let v6 = build::udp(at("[2001:db8::1]:7"), at("[2001:db8::2]:8"), &[1; 1400]);
    let why = IcmpError::Unreachable;
    let mtu = IcmpError::TooBig { mtu: 1300 };
    for (error, kind4, kind6) in [
        (IcmpError::TimeExceeded, (11, 0), (3, 0)),
        (why(Unreachable::NoRoute), (3, 0), (1, 0)),
        (why(Unreachable::Host), (3, 1), (1, 3)),
        (why(Unreachable::Port), (3, 3), (1, 4)),
        (why(Unreachable::Prohibited), (3, 13), (1, 1)),
        (mtu, (3, 4), (2, 0)),
    ] {
        for (frame, src, kind, len) in [
            (&v4, addr("192.0.2.254"), kind4, 14 + 576),
            (&v6, addr("2001:db8::fe"), kind6, 14 + 1280),
        ] {
            let p = parse(frame).unwrap();
            let src = addr_from_ip(src);
            let (out, e) = written(|buf| reply::icmp_error(buf, &SENDER, &src, frame, &p, error));
            assert_eq!((e.icmp.kind, e.icmp.code), kind);
            assert_eq!(out.len(), len, "as long as may be");
            assert_eq!(
                (e.src, e.dst, e.eth_dst, e.ttl),
                (src, p.src, p.eth_src, 64)
            );
            let inner = e.inner.unwrap();
            assert_eq!((inner.src, inner.dst), (p.src, p.dst));
            assert_eq!((inner.sport, inner.dport), (7, 8));
            let quoted = &out[usize::from(inner.l3)..];
            assert_eq!(quoted, &frame[14..14 + quoted.len()]);
            let announced =
                u32::from_be_bytes(out[usize::from(e.l4) + 4..][..4].try_into().unwrap());
            assert_eq!(announced, if error == mtu { 1300 } else { 0 });
        }
    }
    let p = parse(&v4).unwrap();
    let wrong = addr_from_ip(addr("2001:db8::fe"));
    let refused = reply::icmp_error(&mut [0; 2000], &SENDER, &wrong, &v4, &p, mtu);
    assert_eq!(refused, Err(ReplyError::Family));
}

#[test]
fn a_short_packet_is_quoted_without_its_padding() {
    let frame = build::padded(build::udp(at("192.0.2.1:7"), at("198.51.100.2:8"), b""));
    let p = parse(&frame).unwrap();
    let src = addr_from_ip(addr("192.0.2.254"));
    let (out, _) =
        written(|buf| reply::icmp_error(buf, &SENDER, &src, &frame, &p, IcmpError::TimeExceeded));
    assert_eq!(out.len(), 14 + 20 + 8 + 28);
}

#[test]
fn who_gets_no_error() {
    let udp = |a, b| build::udp(at(a), at(b), &[0; 100]);
    let plain4 = udp("192.0.2.1:7", "192.0.2.2:8");
    let plain6 = udp("[2001:db8::1]:7", "[2001:db8::2]:8");
    let echo = build::icmp_echo(addr("192.0.2.1"), addr("192.0.2.2"), true, 1, 1, b"");
    let echo6 = build::icmp_echo(addr("2001:db8::1"), addr("2001:db8::2"), true, 1, 1, b"");
    let redirect6 = wire::icmpv6::Repr::Other {
        kind: 137,
        code: 0,
        rest: [0; 4],
        data: &[0; 32],
    };
    let unknown = |kind| icmpv4::Repr::Other {
        kind,
        code: 0,
        rest: [0; 4],
        data: &[],
    };
    let cluster = build::with_macs(plain4.clone(), CLUSTER, NODE);
    let (a, b) = (addr("192.0.2.1"), addr("192.0.2.2"));
    let (a6, b6) = (addr("2001:db8::1"), addr("2001:db8::2"));
    let cases = [
        (true, "udp", plain4.clone()),
        (true, "udp6", plain6.clone()),
        (true, "to the cluster's group address", cluster),
        (true, "echo", echo.clone()),
        (true, "echo6", echo6.clone()),
        (
            true,
            "first fragment",
            build::fragments(&plain4, 1, 48).remove(0),
        ),
        (
            false,
            "later fragment",
            build::fragments(&plain4, 1, 48).remove(1),
        ),
        (
            false,
            "later fragment6",
            build::fragments(&plain6, 1, 48).remove(1),
        ),
        (false, "error", build::icmp_unreachable(b, &echo, 99)),
        (false, "error6", build::icmp_unreachable(b6, &echo6, 99)),
        (false, "unknown type", build::icmp_v4(a, b, &unknown(44))),
        (true, "timestamp", build::icmp_v4(a, b, &unknown(13))),
        (false, "redirect6", build::icmp_v6(a6, b6, &redirect6)),
        (
            false,
            "ethernet broadcast",
            build::with_macs(plain4, Mac::BROADCAST, NODE),
        ),
        (false, "group", udp("192.0.2.1:7", "224.0.0.5:8")),
        (false, "group6", udp("[2001:db8::1]:7", "[ff02::1]:8")),
        (false, "broadcast", udp("192.0.2.1:7", "255.255.255.255:8")),
        (false, "from nowhere", udp("0.0.0.0:68", "192.0.2.2:67")),
        (
            false,
            "from reserved space",
            udp("240.0.0.1:68", "192.0.2.2:67"),
        ),
        (false, "from nowhere6", udp("[::]:7", "[2001:db8::2]:8")),
    ];
    for (want, name, frame) in cases {
        let p = parse(&frame).unwrap();
        assert_eq!(may_answer_with_error(&p), want, "{name}");
        let mut buf = [0; FRAME_LEN_MAX];
        let done = reply::icmp_error(
            &mut buf,
            &SENDER,
            &p.dst,
            &frame,
            &p,
            IcmpError::TimeExceeded,
        );
        assert_eq!(done.is_ok(), want, "{name}");
    }
    let arp = Parsed {
        net: Net::Arp,
        ..Parsed::default()
    };
    assert!(!may_answer_with_error(&arp));
}

#[test]
fn resets_by_rfc_9293() {
    use tcp::{ACK, FIN, PSH, RST, SYN};
    for (a, b) in [
        ("192.0.2.1:7", "192.0.2.2:8"),
        ("[2001:db8::1]:7", "[2001:db8::2]:8"),
    ] {
        for (flags, data, want) in [
            (SYN, &b""[..], Some((0, 1001, RST | ACK))),
            (SYN, b"fast", Some((0, 1005, RST | ACK))),
            (SYN | ACK, b"", Some((5000, 0, RST))),
            (ACK | PSH, b"data", Some((5000, 0, RST))),
            (FIN | ACK, b"", Some((5000, 0, RST))),
            (RST, b"", None),
            (RST | ACK, b"", None),
        ] {
            let frame = build::tcp(at(a), at(b), flags, 1000, 5000, data);
            let p = parse(&frame).unwrap();
            let Some((seq, ack, flags)) = want else {
                let refused = reply::tcp_reset(&mut [0; 200], &SENDER, &p);
                assert_eq!(refused, Err(ReplyError::NotAnswerable));
                continue;
            };
            let (_, r) = written(|buf| reply::tcp_reset(buf, &SENDER, &p));
            assert_eq!((r.tcp.seq, r.tcp.ack, r.tcp.flags), (seq, ack, flags));
            assert_eq!((r.src, r.dst, r.sport, r.dport), (p.dst, p.src, 8, 7));
            assert_eq!((r.eth_dst, r.tcp.payload_len), (p.eth_src, 0));
        }
    }
    let wrapping = build::tcp(at("192.0.2.1:7"), at("192.0.2.2:8"), SYN, u32::MAX, 0, b"");
    let p = parse(&wrapping).unwrap();
    let (_, r) = written(|buf| reply::tcp_reset(buf, &SENDER, &p));
    assert_eq!(r.tcp.ack, 0);
    let udp = build::udp(at("192.0.2.1:7"), at("192.0.2.2:8"), b"");
    let refused = reply::tcp_reset(&mut [0; 200], &SENDER, &parse(&udp).unwrap());
    assert_eq!(refused, Err(ReplyError::NotAnswerable));
    let to_all = build::tcp(at("192.0.2.1:7"), at("224.0.0.1:8"), SYN, 1, 0, b"");
    let refused = reply::tcp_reset(&mut [0; 200], &SENDER, &parse(&to_all).unwrap());
    assert_eq!(refused, Err(ReplyError::NotAnswerable));
}

#[test]
fn echo_in_place() {
    for (a, b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let request = build::icmp_echo(addr(a), addr(b), true, 77, 3, b"odd");
        let mut frame = build::with_vlan(request, 12);
        let mut p = parse(&frame).unwrap();
        for _ in 0..5 {
            wire::rewrite::decrement_ttl(&mut frame, &p).unwrap();
        }
        p.ttl -= 5; // the reply starts with a TTL of its own
        reply::echo_reply(&mut frame, &p, NODE).unwrap();
        let want = build::with_vlan(build::icmp_echo(addr(b), addr(a), false, 77, 3, b"odd"), 12);
        assert_eq!(frame, build::with_macs(want, build::SRC_MAC, NODE));
        // A reply is not answered.
        let p = parse(&frame).unwrap();
        let before = frame.clone();
        let refused = reply::echo_reply(&mut frame, &p, NODE);
        assert_eq!(refused, Err(ReplyError::NotAnswerable));
        assert_eq!(frame, before);
    }
    let mut to_group = build::icmp_echo(addr("192.0.2.1"), addr("224.0.0.1"), true, 1, 1, b"");
    let p = parse(&to_group).unwrap();
    let refused = reply::echo_reply(&mut to_group, &p, NODE);
    assert_eq!(refused, Err(ReplyError::NotAnswerable));
    let echo6 = build::icmp_echo(addr("2001:db8::1"), addr("2001:db8::2"), true, 1, 1, b"");
    let mut extended = build::with_extension(echo6, ip::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    let p = parse(&extended).unwrap();
    let refused = reply::echo_reply(&mut extended, &p, NODE);
    assert_eq!(refused, Err(ReplyError::NotAnswerable));
}

proptest! {
    #[test]
    fn an_error_parses_back_and_is_not_answered(frame in frame(), which in 0usize..3) {
        let p = parse(&frame).unwrap();
        let sender = Sender { vlan: p.vlan, ..SENDER };
        let error = [
            IcmpError::TimeExceeded,
            IcmpError::Unreachable(Unreachable::Prohibited),
            IcmpError::TooBig { mtu: 1280 },
        ][which];
        let mut buf = [0xa5; FRAME_LEN_MAX];
        let done = reply::icmp_error(&mut buf, &sender, &p.dst, &frame, &p, error);
        prop_assert_eq!(done.is_ok(), may_answer_with_error(&p));
        let Ok(len) = done else { return Ok(()) };
        let e = parse(&buf[..len]).unwrap();
        prop_assert!(verify_l4(&buf[..len], &e));
        prop_assert!(!may_answer_with_error(&e));
        let inner = e.inner.unwrap();
        prop_assert_eq!((inner.src, inner.dst, inner.proto), (p.src, p.dst, p.proto));
        prop_assert_eq!((inner.sport, inner.dport, inner.icmp.id), (p.sport, p.dport, p.icmp.id));
        prop_assert_eq!(inner.tcp_seq, p.tcp.seq);
    }

    #[test]
    fn echo_replies_are_what_would_be_built(frame in whole()) {
        let p = parse(&frame).unwrap();
        let mut answer = frame.clone();
        let done = reply::echo_reply(&mut answer, &p, build::DST_MAC);
        prop_assert_eq!(done.is_ok(), matches!(p.icmp.kind, 8 | 128));
        if done.is_ok() {
            let seq = u16::from_be_bytes([frame[usize::from(p.l4) + 6], frame[usize::from(p.l4) + 7]]);
            let (src, dst) = (addr_to_ip(&p.dst), addr_to_ip(&p.src));
            let data = &frame[usize::from(p.payload)..];
            let want = build::icmp_echo(src, dst, false, p.icmp.id, seq, data);
            prop_assert_eq!(answer, build::with_macs(want, build::SRC_MAC, build::DST_MAC));
        }
    }
}
