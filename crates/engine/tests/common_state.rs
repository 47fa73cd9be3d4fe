//! Blocked networks and expected connections, as workers see them.

mod common;

use std::sync::Arc;

use common::*;
use policy::SyncPolicy;
use replication::{ToSync, ToWorker};
use state::{
    Block, BlockReason, CommonKey, CommonKind, CommonMap, CommonValue, Expectation, ExpectationKey,
    FlowKey, HybridClock, Net, PROTO_TCP, Stamp, SyncMode, v4_mapped,
};
use wire::build;
use wire::tcp::{ACK, SYN};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";
const CLIENT_AT: [u8; 4] = [10, 1, 0, 10];
const SERVER_AT: [u8; 4] = [10, 2, 0, 10];

/// By interface.
const ZONES: [u8; 2] = [0, 1];

/// The map that the sync core has, and how workers come to see it.
struct Map {
    map: CommonMap,
    clock: HybridClock,
}

impl Map {
    fn new() -> Self {
        Self {
            map: CommonMap::new(),
            clock: HybridClock::new(node(ME)),
        }
    }

    fn put(&mut self, rig: &Rig, key: CommonKey, value: CommonValue) -> Stamp {
        let stamp = self.clock.now(1);
        self.map.put(key, value, None, stamp, 0).unwrap();
        self.publish(rig, key.kind());
        stamp
    }

    fn delete(&mut self, rig: &Rig, key: &CommonKey) {
        assert!(self.map.delete(key, self.clock.now(1)));
        self.publish(rig, key.kind());
    }

    fn publish(&self, rig: &Rig, kind: CommonKind) {
        let kinds = [kind].into_iter().collect();
        let next = rig.node.common.load().rebuild(&self.map, kinds);
        rig.node.common.publish(Arc::new(next));
    }

    fn block(&mut self, rig: &Rig, net: Net) -> CommonKey {
        let key = CommonKey::Block(net);
        let block = Block {
            reason: BlockReason::Operator,
            note: String::new(),
        };
        self.put(rig, key, CommonValue::Block(block));
        key
    }
}

fn rig() -> Rig {
    Rig::new(Setup {
        cluster: false,
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::Async)],
        ..Setup::default()
    })
}

fn syn() -> Vec<u8> {
    build::tcp(at(C), at(S), SYN, 100, 0, &[])
}

fn answer() -> Vec<u8> {
    build::tcp(at(S), at(C), SYN | ACK, 500, 101, &[])
}

fn acknowledged() -> Vec<u8> {
    build::tcp(at(C), at(S), ACK, 101, 501, &[])
}

#[test]
fn nothing_of_a_blocked_network_passes() {
    for net in [
        Net::host(v4_mapped(CLIENT_AT)),
        Net::new(v4_mapped(CLIENT_AT), 96 + 24),
        // As a destination: no new flow to it either.
        Net::host(v4_mapped(SERVER_AT)),
        Net::new(v4_mapped(SERVER_AT), 96 + 8),
    ] {
        let (mut rig, mut map) = (rig(), Map::new());
        let key = map.block(&rig, net);
        assert_eq!(rig.through(INSIDE, syn()).len(), 0, "{net}");
        rig.moved(&[("rx_packets", 1), ("drop_blocked", 1)]);
        map.delete(&rig, &key);
        assert_eq!(rig.through(INSIDE, syn()).len(), 1, "{net}");
    }
}

#[test]
fn another_network_is_not_blocked() {
    let (mut rig, mut map) = (rig(), Map::new());
    map.block(&rig, Net::host(v4_mapped([10, 1, 0, 11])));
    map.block(&rig, Net::new(v4_mapped([10, 3, 0, 0]), 96 + 16));
    assert_eq!(rig.through(INSIDE, syn()).len(), 1);
}

#[test]
fn a_flow_ends_with_the_first_packet_after_its_end_is_blocked() {
    for blocked in [CLIENT_AT, SERVER_AT] {
        let (mut rig, mut map) = (rig(), Map::new());
        assert_eq!(rig.through(INSIDE, syn()).len(), 1);
        assert_eq!(rig.through(OUTSIDE, answer()).len(), 1);
        rig.forget_counts();
        map.block(&rig, Net::host(v4_mapped(blocked)));
        assert_eq!(rig.through(INSIDE, acknowledged()).len(), 0);
        rig.moved(&[("rx_packets", 1), ("drop_blocked", 1), ("flow_revoked", 1)]);
        assert_eq!(
            rig.through(OUTSIDE, answer()).len(),
            0,
            "it does not come back"
        );
    }
}

/// A data connection back from the server, which no rule allows.
fn data(source_port: u16) -> Vec<u8> {
    let from = format!("10.2.0.10:{source_port}");
    build::tcp(at(&from), at("10.1.0.10:50000"), SYN, 900, 0, &[])
}

fn expectation(once: bool) -> (ExpectationKey, Expectation) {
    let (parent, _) = FlowKey::new(
        v4_mapped(CLIENT_AT),
        v4_mapped(SERVER_AT),
        40_000,
        80,
        PROTO_TCP,
    );
    let key = ExpectationKey {
        proto: PROTO_TCP,
        src: Some(v4_mapped(SERVER_AT)),
        dst: v4_mapped(CLIENT_AT),
        dport: 50_000,
    };
    let expectation = Expectation {
        parent,
        zone_from: ZONES[OUTSIDE],
        zone_to: ZONES[INSIDE],
        rule: 77,
        sync: SyncMode::Async,
        mark: 5,
        once,
    };
    (key, expectation)
}

#[test]
fn an_expected_connection_passes_as_its_parent_does() {
    for any_source in [false, true] {
        let (mut rig, mut map) = (rig(), Map::new());
        assert_eq!(rig.through(OUTSIDE, data(20)).len(), 0);
        rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
        let (mut key, expected) = expectation(false);
        if any_source {
            key.src = None;
        }
        let key = CommonKey::Expectation(key);
        map.put(&rig, key, CommonValue::Expectation(expected));
        assert_eq!(rig.through(OUTSIDE, data(20)).len(), 1);
        rig.moved(&[
            ("rx_packets", 1),
            ("tx_packets", 1),
            ("forwarded", 1),
            ("flow_opened", 1),
            ("flow_expected", 1),
        ]);
        let table = rig.worker.table();
        let id = (0..table.capacity()).find_map(|place| table.at(place));
        let entry = table.entry(id.unwrap());
        assert_eq!(
            (entry.record.verdict.rule, entry.record.mark.value),
            (77, 5)
        );
        assert_eq!(entry.record.class.sync, SyncMode::Async);
        // It is for as many as come, until it is deleted; open flows stay.
        assert_eq!(rig.through(OUTSIDE, data(21)).len(), 1);
        map.delete(&rig, &key);
        assert_eq!(rig.through(OUTSIDE, data(22)).len(), 0);
        assert_eq!(rig.through(OUTSIDE, data(20)).len(), 1);
    }
}

/// New rules that keep the rule of the flow to which it belongs keep an expected one, also where it is a copy that
/// is taken over; without that rule it is judged as any other.
#[test]
fn an_expected_connection_outlives_new_rules_that_keep_its_parent_s() {
    let web = || allow("web", &["tcp/80"], SyncPolicy::Async);
    let (key, mut expected) = expectation(false);
    expected.rule = policy::rule_id("web");
    let (mut first, mut map) = (rig(), Map::new());
    let key = CommonKey::Expectation(key);
    map.put(&first, key, CommonValue::Expectation(expected));
    assert_eq!(first.through(OUTSIDE, data(20)).len(), 1);
    map.delete(&first, &key);
    let load = |rig: &Rig, generation, set| {
        let policy = engine::Policy::new(&rules(generation, set));
        rig.node.policy.publish(Arc::new(policy));
    };
    let passes = [("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)];
    first.forget_counts();
    load(
        &first,
        2,
        vec![allow("dns", &["udp/53"], SyncPolicy::Async), web()],
    );
    assert_eq!(first.through(OUTSIDE, data(20)).len(), 1);
    first.moved(&passes);
    // A blocked end ends it all the same, and so does a rule set without the rule or with one that denies.
    let without = vec![allow("dns", &["udp/53"], SyncPolicy::Async)];
    let denying = vec![rule("web", &["tcp/80"], policy::Action::Deny, None)];
    for ends in [Some(without), Some(denying), None] {
        let (mut rig, mut map) = (rig(), Map::new());
        map.put(&rig, key, CommonValue::Expectation(expected));
        assert_eq!(rig.through(OUTSIDE, data(20)).len(), 1);
        map.delete(&rig, &key);
        rig.forget_counts();
        let reason = match ends {
            Some(ends) => {
                load(&rig, 2, ends);
                "drop_denied"
            }
            None => {
                map.block(&rig, Net::host(v4_mapped(SERVER_AT)));
                "drop_blocked"
            }
        };
        assert_eq!(rig.through(OUTSIDE, data(20)).len(), 0);
        rig.moved(&[("rx_packets", 1), (reason, 1), ("flow_revoked", 1)]);
    }

    // What tells it apart is part of the record: a node that takes it over judges it likewise.
    let table = first.worker.table();
    let id = (0..table.capacity()).find_map(|place| table.at(place));
    let record = table.entry(id.unwrap()).record;
    let mut heir = Rig::new(Setup {
        rules: vec![web()],
        ..Setup::default()
    });
    let apply = ToWorker::Apply {
        token: 1,
        peer: node(PEER),
        records: vec![(record, 0)],
    };
    heir.to_worker.push(apply).unwrap();
    heir.turn();
    load(&heir, 3, vec![web()]);
    assert_eq!(heir.through(OUTSIDE, data(20)).len(), 1);
    load(&heir, 4, vec![allow("dns", &["udp/53"], SyncPolicy::Async)]);
    assert_eq!(heir.through(OUTSIDE, data(20)).len(), 0);
}

/// As TFTP and media have it: from a port that nobody knows before, from either side, and answers come back.
#[test]
fn an_expected_datagram_opens_a_flow_from_any_port_in_either_direction() {
    for (from, to) in [(OUTSIDE, INSIDE), (INSIDE, OUTSIDE)] {
        let (mut rig, mut map) = (rig(), Map::new());
        let (there, here) = match from {
            OUTSIDE => (SERVER_AT, CLIENT_AT),
            _ => (CLIENT_AT, SERVER_AT),
        };
        let (_, expected) = expectation(true);
        let key = CommonKey::Expectation(ExpectationKey {
            proto: wire::ip::UDP,
            src: Some(v4_mapped(there)),
            dst: v4_mapped(here),
            dport: 50_000,
        });
        let expected = Expectation {
            zone_from: ZONES[from],
            zone_to: ZONES[to],
            ..expected
        };
        map.put(&rig, key, CommonValue::Expectation(expected));
        let datagram = |sport: u16, there: [u8; 4]| {
            build::udp((there, sport).into(), (here, 50_000).into(), b"data")
        };
        let answer = build::udp((here, 50_000).into(), (there, 2000).into(), b"answer");
        assert_eq!(rig.through(to, answer.clone()).len(), 0, "not that way");
        let other = [there[0], there[1], there[2], 11];
        assert_eq!(rig.through(from, datagram(2000, other)).len(), 0);
        assert_eq!(rig.through(from, datagram(2000, there)).len(), 1);
        assert_eq!(rig.through(to, answer).len(), 1);
        assert_eq!(rig.through(from, datagram(2000, there)).len(), 1);
        assert_eq!(rig.through(from, datagram(2001, there)).len(), 0, "used up");
        rig.moved(&[
            ("rx_packets", 6),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("drop_denied", 3),
            ("flow_opened", 1),
            ("flow_expected", 1),
        ]);
    }
}

#[test]
fn an_expectation_from_another_zone_is_for_nobody() {
    let (mut rig, mut map) = (rig(), Map::new());
    let (key, mut expected) = expectation(false);
    expected.zone_from = ZONES[INSIDE];
    let key = CommonKey::Expectation(key);
    map.put(&rig, key, CommonValue::Expectation(expected));
    assert_eq!(rig.through(OUTSIDE, data(20)).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
}

#[test]
fn an_expectation_for_one_connection_is_used_up_and_may_come_anew() {
    let mut rig = Rig::new(Setup {
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::Async)],
        ..Setup::default()
    });
    let mut map = Map::new();
    let (expected_key, expected) = expectation(true);
    let key = CommonKey::Expectation(expected_key);
    let stamp = map.put(&rig, key, CommonValue::Expectation(expected));
    assert_eq!(rig.through(OUTSIDE, data(20)).len(), 1);
    // Before the deletion comes back, and whatever else is published meanwhile.
    map.publish(&rig, CommonKind::Expectation);
    assert_eq!(rig.through(OUTSIDE, data(21)).len(), 0);
    let told = rig.acknowledge();
    let used = ToSync::UsedUp { key, stamp };
    assert_eq!(told.iter().filter(|message| **message == used).count(), 1);
    map.put(&rig, key, CommonValue::Expectation(expected));
    assert_eq!(
        rig.through(OUTSIDE, data(22)).len(),
        1,
        "another one was announced"
    );
}

/// The numbers of the connection from client to server, as its sides count them.
fn numbers(frames: &[Vec<u8>]) -> (u32, u32) {
    let [frame] = frames else {
        panic!("{} frames", frames.len());
    };
    let p = wire::parse(frame).unwrap();
    assert!(wire::verify_l4(frame, &p), "its checksum is wrong");
    (p.tcp.seq, p.tcp.ack)
}

fn from_client(seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(C), at(S), ACK, seq, ack, data)
}

fn from_server(seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(S), at(C), ACK, seq, ack, data)
}

fn web() -> FlowKey {
    FlowKey::new(
        v4_mapped(CLIENT_AT),
        v4_mapped(SERVER_AT),
        40_000,
        80,
        PROTO_TCP,
    )
    .0
}

fn record(rig: &Rig) -> state::FlowRecord {
    let id = rig.worker.table().lookup(&web()).expect("it is there");
    rig.worker.table().entry(id).record
}

/// The client's first ten octets were made twelve on their way.
fn grown(incarnation: u64) -> CommonValue {
    let mut shift = state::SeqShift::none(incarnation);
    let (_, dir) = FlowKey::new(
        v4_mapped(CLIENT_AT),
        v4_mapped(SERVER_AT),
        40_000,
        80,
        PROTO_TCP,
    );
    let grown = shift.sides[dir.index()].resize(101, 10, 12);
    assert_eq!(grown, Ok(true));
    CommonValue::SeqShift(shift)
}

fn established(rig: &mut Rig) {
    assert_eq!(rig.through(INSIDE, syn()).len(), 1);
    assert_eq!(rig.through(OUTSIDE, answer()).len(), 1);
    assert_eq!(rig.through(INSIDE, acknowledged()).len(), 1);
}

/// What passes once the numbers are known: each side hears what it has sent itself.
#[track_caller]
fn shifted(rig: &mut Rig) {
    let sent = rig.through(INSIDE, from_client(111, 501, b"more"));
    assert_eq!(numbers(&sent), (113, 501));
    let answered = rig.through(OUTSIDE, from_server(501, 117, b"yes"));
    assert_eq!(numbers(&answered), (501, 115));
    // Sent again, from before the change.
    let again = rig.through(INSIDE, from_client(101, 501, &[7; 10]));
    assert_eq!(numbers(&again), (101, 501));
}

#[test]
fn numbers_shift_behind_a_change_of_length_whoever_handles_the_connection() {
    let mut rig = Rig::new(Setup {
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::Async)],
        ..Setup::default()
    });
    let mut map = Map::new();
    established(&mut rig);
    // It goes the short way before.
    let before = rig.through(INSIDE, from_client(101, 501, &[7; 10]));
    assert_eq!(numbers(&before), (101, 501));
    let of = record(&rig);
    let key = CommonKey::SeqShift(web());
    let stamp = map.put(&rig, key, grown(of.incarnation));
    rig.turn();
    shifted(&mut rig);
    // Windows are the sender's.
    assert_eq!(rig.values().get("drop_tcp_window"), None);

    // Another node, to which the connection comes after the numbers.
    let mut heir = Rig::new(Setup {
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::Async)],
        ..Setup::default()
    });
    map.publish(&heir, CommonKind::SeqShift);
    heir.turn();
    let apply = ToWorker::Apply {
        token: 1,
        peer: node(1),
        records: vec![(record(&rig), 0)],
    };
    heir.to_worker.push(apply).unwrap();
    heir.turn();
    shifted(&mut heir);

    // It ends, and so does what is known of its numbers.
    rig.acknowledge();
    let reset = build::tcp(at(C), at(S), wire::tcp::RST | ACK, 115, 504, &[]);
    assert_eq!(numbers(&rig.through(INSIDE, reset)), (117, 504));
    rig.run_ms(20_000);
    let used = ToSync::UsedUp { key, stamp };
    let told = rig.acknowledge();
    assert_eq!(
        told.iter().filter(|message| **message == used).count(),
        1,
        "{told:?}"
    );
}

#[test]
fn numbers_of_an_earlier_connection_do_not_count() {
    let (mut rig, mut map) = (rig(), Map::new());
    established(&mut rig);
    let of = record(&rig);
    map.put(&rig, CommonKey::SeqShift(web()), grown(of.incarnation - 1));
    rig.turn();
    let sent = rig.through(INSIDE, from_client(111, 501, b"more"));
    assert_eq!(numbers(&sent), (111, 501));
}
