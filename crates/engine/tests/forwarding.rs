//! Packets through one worker, with every counter that moves.

mod common;

use common::*;
use engine::{FlowPage, Neighbour, Route};
use policy::{Action, SyncPolicy};
use state::{PROTO_TCP, TcpPhase};
use wire::tcp::{ACK, FIN, RST, SYN};
use wire::{Net, Parsed, build, icmpv4};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";

fn alone() -> Rig {
    Rig::new(Setup {
        cluster: false,
        ..Setup::default()
    })
}

fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(from), at(to), flags, seq, ack, data)
}

fn parsed(frame: &[u8]) -> Parsed {
    let p = wire::parse(frame).expect("what the gateway sends is well-formed");
    assert!(wire::verify_l4(frame, &p), "and its checksums are right");
    p
}

#[track_caller]
fn one(frames: Vec<Vec<u8>>) -> (Vec<u8>, Parsed) {
    assert_eq!(frames.len(), 1);
    let p = parsed(&frames[0]);
    (frames.into_iter().next().unwrap(), p)
}

/// Opens a connection: client's first sequence number is 100, the server's 500.
fn handshake(rig: &mut Rig) {
    assert_eq!(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])).len(), 1);
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]))
            .len(),
        1
    );
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 101, 501, &[])).len(), 1);
}

fn flows(rig: &mut Rig) -> Vec<engine::FlowSeen> {
    rig.pages_to
        .push(FlowPage {
            cursor: 0,
            flows: Vec::with_capacity(1000),
        })
        .unwrap();
    rig.turn();
    rig.pages_from.pop().unwrap().flows
}

#[test]
fn a_connection_is_forwarded_with_addresses_ttl_and_checksums_right() {
    let mut rig = alone();
    let (frame, p) = one(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])));
    assert_eq!((p.eth_dst, p.eth_src), (SERVER, GATEWAY[OUTSIDE]));
    assert_eq!((p.ttl, frame.len()), (63, 54));
    rig.moved(&[
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("flow_opened", 1),
    ]);
    let (_, p) = one(rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[])));
    assert_eq!((p.eth_dst, p.eth_src), (CLIENT, GATEWAY[INSIDE]));
    one(rig.through(INSIDE, tcp(C, S, ACK, 101, 501, b"GET /")));
    rig.moved(&[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2)]);
    let seen = flows(&mut rig);
    assert_eq!(seen[0].record.tcp_phase(), Some(TcpPhase::Established));
    assert_eq!(seen[0].local.packets.iter().sum::<u64>(), 3);
}

#[test]
fn ipv6_and_padding_and_vlan() {
    let mut rig = Rig::new(Setup {
        cluster: false,
        vlan_outside: Some(7),
        ..Setup::default()
    });
    // The VLAN's neighbours are not known: their requests had no tag. The first packet asks.
    let (a, b) = ("[fd00:1::10]:5000", "[fd00:2::10]:9000");
    let (_, p) = one(rig.through(INSIDE, build::udp(at(a), at(b), b"x")));
    assert_eq!(
        (p.vlan, p.icmp.kind),
        (Some(7), wire::icmpv6::NEIGHBOR_SOLICITATION)
    );
    let advert = wire::ndp::Repr::Advertisement {
        target: "fd00:2::10".parse().unwrap(),
        router: false,
        solicited: true,
        overrides: true,
        target_mac: Some(SERVER),
    };
    let advert = build::neighbor(ip("fd00:2::10"), ip("fd00:2::1"), &advert);
    rig.put(OUTSIDE, build::with_vlan(advert, 7));
    rig.turn();
    let (_, p) = one(rig.sent(OUTSIDE));
    assert_eq!((p.vlan, p.ttl, p.eth_dst), (Some(7), 63, SERVER));
    // Without its tag a frame is no interface's.
    rig.forget_counts();
    rig.put(OUTSIDE, build::udp(at(b), at(a), b"y"));
    rig.turn();
    rig.moved(&[("rx_packets", 1), ("drop_vlan", 1)]);
    // With it, the tag is taken off; padding is not forwarded.
    let (a4, b4) = ("10.1.0.10:5000", "10.2.0.10:9000");
    rig.put(INSIDE, build::padded(build::udp(at(a4), at(b4), b"x")));
    rig.turn();
    let request = wire::arp::Repr {
        operation: wire::arp::Operation::Reply,
        sender_mac: SERVER,
        sender_ip: "10.2.0.10".parse().unwrap(),
        target_mac: GATEWAY[OUTSIDE],
        target_ip: "10.2.0.1".parse().unwrap(),
    };
    rig.sent(OUTSIDE);
    rig.put(OUTSIDE, build::with_vlan(build::arp(&request), 7));
    rig.turn();
    let (frame, _) = one(rig.sent(OUTSIDE));
    assert_eq!(frame.len(), 18 + 20 + 8 + 1);
    rig.put(
        OUTSIDE,
        build::with_vlan(build::udp(at(b4), at(a4), b"y"), 7),
    );
    rig.turn();
    let (frame, p) = one(rig.sent(INSIDE));
    assert_eq!((p.vlan, frame.len()), (None, 14 + 20 + 8 + 1));
}

/// A node that stood still hears of a neighbour before it hears of its peers.
#[test]
fn what_waits_for_a_neighbour_does_not_leave_by_an_old_view() {
    let unknown = "10.2.0.77";
    let answer = build::arp(&wire::arp::Repr {
        operation: wire::arp::Operation::Reply,
        sender_mac: SERVER,
        sender_ip: unknown.parse().unwrap(),
        target_mac: GATEWAY[OUTSIDE],
        target_ip: "10.2.0.1".parse().unwrap(),
    });
    for valid in [true, false] {
        let mut rig = alone();
        let packet = build::udp(at("10.1.0.10:5000"), at("10.2.0.77:9000"), b"x");
        one(rig.through(INSIDE, packet));
        rig.forget_counts();
        if !valid {
            let until_us = &rig.node.view_valid_until_us;
            until_us.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        rig.put(OUTSIDE, answer.clone());
        rig.turn();
        assert_eq!(rig.sent(OUTSIDE).len(), usize::from(valid));
        match valid {
            true => rig.moved(&[("rx_packets", 1), ("tx_packets", 1)]),
            false => rig.moved(&[("rx_packets", 1), ("drop_stale_view", 1)]),
        }
    }
}

#[test]
fn what_no_rule_allows_is_dropped_and_what_one_rejects_is_answered() {
    let mut rig = alone();
    assert!(
        rig.through(INSIDE, tcp(C, "10.2.0.10:22", SYN, 1, 0, &[]))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
    assert!(
        rig.through(OUTSIDE, tcp(S, C, SYN, 1, 0, &[])).is_empty(),
        "from outside"
    );
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
    rig.through(INSIDE, tcp(C, "10.2.0.10:23", SYN, 77, 0, &[]));
    let (_, p) = one(rig.sent(INSIDE));
    assert_eq!(
        (p.proto, p.tcp.flags & RST, p.tcp.ack),
        (PROTO_TCP, RST, 78)
    );
    rig.moved(&[
        ("rx_packets", 1),
        ("drop_rejected", 1),
        ("tcp_resets_sent", 1),
        ("tx_packets", 1),
    ]);
    rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:23"), b"x"));
    let (_, p) = one(rig.sent(INSIDE));
    assert_eq!((p.icmp.kind, p.icmp.code), (icmpv4::UNREACHABLE, 13));
    rig.moved(&[
        ("rx_packets", 1),
        ("drop_rejected", 1),
        ("icmp_errors_sent", 1),
        ("tx_packets", 1),
    ]);
}

#[test]
fn tcp_is_checked_against_state_and_window() {
    let mut rig = alone();
    assert!(
        rig.through(INSIDE, tcp(C, S, ACK, 100, 500, &[]))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_tcp_no_flow", 1)]);
    handshake(&mut rig);
    rig.forget_counts();
    // The window is 65535 without scaling: 101 + 65535 is the first number beyond it.
    assert!(
        rig.through(INSIDE, tcp(C, S, ACK, 101 + 70_000, 501, b"x"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_tcp_window", 1)]);
    assert!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, 900, &[]))
            .is_empty(),
        "acks what was not sent"
    );
    rig.moved(&[("rx_packets", 1), ("drop_tcp_window", 1)]);
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, 501, b"data")).len(),
        1
    );
    // A blind reset passes to the endpoint and ends nothing here; an exact one ends it.
    assert_eq!(rig.through(OUTSIDE, tcp(S, C, RST, 600, 0, &[])).len(), 1);
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::Established)
    );
    assert_eq!(rig.through(OUTSIDE, tcp(S, C, RST, 501, 0, &[])).len(), 1);
    assert_eq!(flows(&mut rig)[0].record.tcp_phase(), Some(TcpPhase::Reset));
    // The ports may be used again.
    rig.forget_counts();
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, SYN, 9_000_000, 0, &[])).len(),
        1
    );
    rig.moved(&[
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("flow_replaced", 1),
        ("flow_opened", 1),
    ]);
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::SynSent)
    );
}

#[test]
fn a_connection_closes_and_expires() {
    let mut rig = alone();
    handshake(&mut rig);
    rig.through(INSIDE, tcp(C, S, FIN | ACK, 101, 501, &[]));
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::FinWait)
    );
    rig.through(OUTSIDE, tcp(S, C, FIN | ACK, 501, 102, &[]));
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::Closing)
    );
    rig.through(INSIDE, tcp(C, S, ACK, 102, 502, &[]));
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::TimeWait)
    );
    rig.forget_counts();
    rig.advance(119_000_000);
    rig.run_ms(100);
    assert_eq!(flows(&mut rig).len(), 1, "TIME-WAIT lasts 120 s");
    rig.advance(2_000_000);
    rig.run_ms(100);
    assert!(flows(&mut rig).is_empty());
    assert_eq!(rig.worker.table().len(), 1, "its tombstone stays");
    rig.advance(31_000_000);
    rig.run_ms(100);
    assert_eq!(rig.worker.table().len(), 0);
    rig.moved(&[("flow_expired", 1)]);
}

/// An end that has lost its connection opens the next one with the same ports. Whether the other end still has the old
/// one is for that to say.
#[test]
fn a_connection_begins_anew_when_both_ends_say_so() {
    let mut rig = alone();
    handshake(&mut rig);
    let first = flows(&mut rig)[0].record;
    rig.forget_counts();
    let syn = || tcp(C, S, SYN, 3_000_000_000, 0, &[]);
    // The server has it and asks whether that was meant: all stays as it is.
    one(rig.through(INSIDE, syn()));
    one(rig.through(OUTSIDE, tcp(S, C, ACK, 501, 101, &[])));
    // Answers to another SYN, forged ones among them, are none.
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 1_000_000_000, 77, &[]))
            .len(),
        0
    );
    assert_eq!(flows(&mut rig)[0].record.incarnation, first.incarnation);
    rig.moved(&[
        ("rx_packets", 3),
        ("tx_packets", 2),
        ("forwarded", 2),
        ("drop_tcp_window", 1),
    ]);
    // It has not: both begin anew, with numbers that lie anywhere.
    one(rig.through(
        OUTSIDE,
        tcp(S, C, SYN | ACK, 2_500_000_000, 3_000_000_001, &[]),
    ));
    rig.moved(&[
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("flow_replaced", 1),
        ("flow_opened", 1),
    ]);
    one(rig.through(
        INSIDE,
        tcp(C, S, ACK, 3_000_000_001, 2_500_000_001, b"GET /"),
    ));
    one(rig.through(
        OUTSIDE,
        tcp(S, C, ACK, 2_500_000_001, 3_000_000_006, b"200"),
    ));
    rig.moved(&[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2)]);
    let seen = flows(&mut rig);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].record.tcp_phase(), Some(TcpPhase::Established));
    assert!(seen[0].record.incarnation > first.incarnation);
    assert_eq!(seen[0].local.packets.iter().sum::<u64>(), 4);
    // The windows are those of the new one.
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 501, 106, b"old")).len(),
        0
    );
    rig.moved(&[("rx_packets", 1), ("drop_tcp_window", 1)]);
}

#[test]
fn an_icmp_error_passes_only_with_its_flow() {
    let mut rig = alone();
    let datagram = build::udp(at("10.1.0.10:5000"), at("10.2.0.10:9000"), b"hello");
    let router = ip("10.2.0.77");
    rig.put(OUTSIDE, build::icmp_unreachable(router, &datagram, 100));
    rig.turn();
    rig.moved(&[("rx_packets", 1), ("drop_icmp_unrelated", 1)]);
    let (sent, _) = one(rig.through(INSIDE, datagram));
    rig.forget_counts();
    let (_, p) = one(rig.through(OUTSIDE, build::icmp_unreachable(router, &sent, 100)));
    assert_eq!(p.inner.map(|i| (i.sport, i.dport)), Some((5000, 9000)));
    rig.moved(&[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]);
    // About a TCP segment that was never sent.
    let (syn, _) = one(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])));
    rig.forget_counts();
    assert_eq!(
        rig.through(OUTSIDE, build::icmp_unreachable(router, &syn, 100))
            .len(),
        1
    );
    let blind = tcp(C, S, SYN, 5_000_000, 0, &[]);
    assert!(
        rig.through(OUTSIDE, build::icmp_unreachable(router, &blind, 100))
            .is_empty()
    );
    rig.moved(&[
        ("rx_packets", 2),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("drop_icmp_unrelated", 1),
    ]);
}

#[test]
fn ttl_mtu_and_routes_answer_with_errors_at_a_limited_rate() {
    let mut rig = Rig::new(Setup {
        cluster: false,
        mtu_outside: 600,
        ..Setup::default()
    });
    let mut short = build::udp(at(C), at("10.2.0.10:9000"), b"x");
    short[14 + 8] = 1;
    short[14 + 10..14 + 12].copy_from_slice(&[0, 0]);
    let sum = wire::checksum::Sum::of(&short[14..34]).checksum();
    short[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    rig.through(INSIDE, short);
    let (_, p) = one(rig.sent(INSIDE));
    assert_eq!(
        (p.icmp.kind, wire::addr_to_ip(&p.src)),
        (icmpv4::TIME_EXCEEDED, ip("10.1.0.1"))
    );
    rig.through(INSIDE, tcp(C, "192.0.2.1:80", SYN, 1, 0, &[]));
    let (_, p) = one(rig.sent(INSIDE));
    assert_eq!((p.icmp.kind, p.icmp.code), (icmpv4::UNREACHABLE, 0));
    rig.forget_counts();
    let big = build::udp(at("[fd00:1::10]:5000"), at("[fd00:2::10]:9000"), &[0; 1200]);
    for _ in 0..20 {
        rig.put(INSIDE, big.clone());
    }
    rig.turn();
    let too_big = rig.sent(INSIDE);
    assert_eq!(too_big.len(), 8, "two of the ten per second were used");
    assert_eq!(parsed(&too_big[0]).icmp.kind, wire::icmpv6::TOO_BIG);
    rig.moved(&[
        ("rx_packets", 20),
        ("drop_mtu", 20),
        ("flow_opened", 1),
        ("icmp_errors_sent", 8),
        ("icmp_errors_limited", 12),
        ("tx_packets", 8),
    ]);
}

#[test]
fn the_gateway_answers_arp_ndp_and_pings() {
    let mut rig = alone();
    let (_, p) = {
        rig.put(
            INSIDE,
            build::icmp_echo(ip("10.1.0.10"), ip("10.1.0.1"), true, 1, 1, b"data"),
        );
        rig.turn();
        one(rig.sent(INSIDE))
    };
    assert_eq!((p.icmp.kind, p.eth_dst), (icmpv4::ECHO_REPLY, CLIENT));
    rig.moved(&[
        ("rx_packets", 1),
        ("echo_replies_sent", 1),
        ("tx_packets", 1),
    ]);
    let solicit = wire::ndp::Repr::Solicitation {
        target: "fd00:1::1".parse().unwrap(),
        source_mac: Some(CLIENT),
    };
    let group = wire::ipv6::solicited_node("fd00:1::1".parse().unwrap());
    let frame = build::neighbor(ip("fd00:1::10"), group.into(), &solicit);
    let mac = wire::ipv6::multicast_mac(group);
    rig.put_raw(INSIDE, build::with_macs(frame, mac, CLIENT));
    rig.turn();
    let (frame, p) = one(rig.sent(INSIDE));
    let advert = wire::ndp::Repr::from_frame(&frame, &p).unwrap().unwrap();
    assert!(
        matches!(advert, wire::ndp::Repr::Advertisement { target_mac: Some(mac), .. } if mac == GATEWAY[INSIDE])
    );
    rig.moved(&[
        ("rx_packets", 1),
        ("neighbour_advertisements_sent", 1),
        ("tx_packets", 1),
    ]);
    rig.put(INSIDE, build::udp(at(C), at("10.1.0.1:53"), b"x"));
    rig.turn();
    rig.moved(&[("rx_packets", 1), ("drop_local", 1)]);
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_given_up() {
    let route = Route {
        to: "192.0.2.0/24".parse().unwrap(),
        via: ip("10.2.0.99"),
    };
    let mut rig = Rig::new(Setup {
        cluster: false,
        routes: vec![route],
        ..Setup::default()
    });
    for n in 0..20 {
        rig.put(INSIDE, build::udp(at(C), at("192.0.2.5:9000"), &[n]));
    }
    rig.turn();
    let (_, p) = one(rig.sent(OUTSIDE));
    assert_eq!(
        (p.net, wire::addr_to_ip(&p.dst)),
        (Net::Arp, ip("10.2.0.99"))
    );
    rig.moved(&[
        ("rx_packets", 20),
        ("forwarded", 20),
        ("flow_opened", 1),
        ("arp_requests_sent", 1),
        ("drop_hop_queue", 4),
        ("tx_packets", 1),
    ]);
    rig.run_ms(8_000);
    rig.moved(&[
        ("arp_requests_sent", 2),
        ("drop_hop_unresolved", 16),
        ("icmp_errors_sent", 10),
        ("icmp_errors_limited", 6),
        ("tx_packets", 12),
    ]);
    let told = rig.sent(INSIDE);
    let p = parsed(&told[0]);
    assert_eq!(
        (p.icmp.kind, p.icmp.code, p.eth_dst),
        (icmpv4::UNREACHABLE, 1, CLIENT)
    );
}

#[test]
fn a_neighbour_with_a_given_address_is_never_asked_for() {
    let route = Route {
        to: "192.0.2.0/24".parse().unwrap(),
        via: ip("10.2.0.99"),
    };
    let neighbour = Neighbour {
        interface: OUTSIDE as u8,
        address: ip("10.2.0.99"),
        mac: wire::Mac([2, 0, 0, 0, 0, 0x99]),
    };
    let mut rig = Rig::new(Setup {
        cluster: false,
        routes: vec![route],
        neighbours: vec![neighbour],
        ..Setup::default()
    });
    let (_, p) = one(rig.through(INSIDE, build::udp(at(C), at("192.0.2.5:9000"), b"1")));
    assert_eq!((p.eth_dst, p.net), (neighbour.mac, Net::V4));
    // Its address is believed for as long as the node lives, whoever else claims it.
    let claim = wire::arp::Repr {
        operation: wire::arp::Operation::Reply,
        sender_mac: SERVER,
        sender_ip: [10, 2, 0, 99].into(),
        target_mac: GATEWAY[OUTSIDE],
        target_ip: [10, 2, 0, 1].into(),
    };
    rig.put(OUTSIDE, build::arp(&claim));
    rig.run_ms(100);
    rig.advance(60_000_000);
    rig.run_ms(100);
    let (_, p) = one(rig.through(INSIDE, build::udp(at(C), at("192.0.2.5:9000"), b"2")));
    assert_eq!(p.eth_dst, neighbour.mac);
    // Nothing was asked: nothing else moved.
    rig.moved(&[
        ("rx_packets", 3),
        ("forwarded", 2),
        ("flow_opened", 2),
        ("flow_expired", 1),
        ("tx_packets", 2),
    ]);
}

#[test]
fn malformed_and_foreign_frames_are_counted_by_reason() {
    let mut rig = alone();
    let good = build::udp(at(C), at("10.2.0.10:9000"), b"payload");
    let mut bad_sum = good.clone();
    *bad_sum.last_mut().unwrap() ^= 1;
    rig.put(INSIDE, bad_sum);
    rig.put(INSIDE, good[..30].to_vec());
    rig.put_raw(INSIDE, build::with_macs(good.clone(), SERVER, CLIENT));
    rig.put(INSIDE, build::udp(at(C), at("224.0.0.5:9000"), b"x"));
    rig.put(INSIDE, tcp(C, S, SYN | FIN, 1, 0, &[]));
    rig.turn();
    rig.moved(&[
        ("rx_packets", 5),
        ("drop_checksum", 1),
        ("ipv4_truncated", 1),
        ("drop_ethernet_address", 1),
        ("drop_multicast", 1),
        ("tcp_flags_syn_fin", 1),
    ]);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut rig = Rig::new(Setup {
        cluster: false,
        capacity: 8,
        ..Setup::default()
    });
    let datagram = |n: u16| build::udp(at(&format!("10.1.0.10:{n}")), at("10.2.0.10:9000"), b"x");
    for n in 0..8 {
        assert_eq!(rig.through(INSIDE, datagram(1000 + n)).len(), 1);
    }
    rig.forget_counts();
    assert!(rig.through(INSIDE, datagram(2000)).is_empty());
    rig.moved(&[("rx_packets", 1), ("drop_table_full", 1)]);
    for n in 0..8 {
        assert_eq!(rig.through(INSIDE, datagram(1000 + n)).len(), 1);
    }
}

#[test]
fn a_device_without_room_drops_and_counts() {
    let mut rig = alone();
    rig.worker.ports_mut().nth(OUTSIDE).unwrap().room = Some(0);
    for n in 0..70u16 {
        rig.put(
            INSIDE,
            build::udp(
                at(&format!("10.1.0.10:{}", 1000 + n % 8)),
                at("10.2.0.10:9000"),
                b"x",
            ),
        );
    }
    rig.turn();
    rig.turn();
    rig.moved(&[
        ("rx_packets", 70),
        ("forwarded", 70),
        ("flow_opened", 8),
        ("drop_tx_full", 6),
    ]);
    rig.worker.ports_mut().nth(OUTSIDE).unwrap().room = None;
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 64, "the others waited");
}

#[test]
fn a_new_rule_set_judges_known_flows_again() {
    let mut rig = alone();
    handshake(&mut rig);
    let keep = rig.rules();
    let policy = engine::Policy::new(&rules(2, keep));
    rig.node.policy.publish(std::sync::Arc::new(policy));
    rig.forget_counts();
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 101, 501, b"x")).len(), 1);
    rig.moved(&[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]);
    let deny = rules(3, vec![rule("no", &["tcp/80"], Action::Deny, None)]);
    rig.node
        .policy
        .publish(std::sync::Arc::new(engine::Policy::new(&deny)));
    assert!(
        rig.through(INSIDE, tcp(C, S, ACK, 102, 501, b"x"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1), ("flow_revoked", 1)]);
    assert!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 501, 102, b"x"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_tcp_no_flow", 1)]);
}

#[test]
fn a_flow_keeps_to_its_zones() {
    let mut rig = alone();
    handshake(&mut rig);
    rig.forget_counts();
    rig.put(OUTSIDE, tcp(C, S, ACK, 101, 501, b"spoofed"));
    rig.turn();
    rig.moved(&[("rx_packets", 1), ("drop_zone", 1)]);
    rig.put(
        OUTSIDE,
        build::udp(at("10.1.0.10:1"), at("10.2.0.10:9000"), b"spoofed"),
    );
    rig.turn();
    rig.moved(&[("rx_packets", 1), ("drop_reverse_path", 1)]);
}

#[test]
fn rules_that_log_tell_once_per_flow_and_never_block() {
    let mut logged = allow("logged", &["udp/9000"], SyncPolicy::None);
    logged.log = true;
    let mut rig = Rig::new(Setup {
        cluster: false,
        rules: vec![logged],
        ..Setup::default()
    });
    for n in 0..6u16 {
        let from = format!("10.1.0.10:{}", 1000 + n);
        rig.put(INSIDE, build::udp(at(&from), at("10.2.0.10:9000"), b"x"));
        rig.put(INSIDE, build::udp(at(&from), at("10.2.0.10:9000"), b"x"));
    }
    rig.turn();
    rig.moved(&[
        ("rx_packets", 12),
        ("tx_packets", 12),
        ("forwarded", 12),
        ("flow_opened", 6),
        ("log_lost", 2),
    ]);
    assert_eq!(rig.log.pop().unwrap().query.sport, 1000);
}

#[test]
fn a_node_alone_tells_nobody() {
    let mut rig = alone();
    handshake(&mut rig);
    assert!(rig.from_worker.is_empty());
    rig.advance(500_000_000_000);
    rig.run_ms(100);
    assert!(
        rig.from_worker.is_empty(),
        "not even when the flow has expired"
    );
}
