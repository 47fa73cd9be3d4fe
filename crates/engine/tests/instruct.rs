//! The first software entity's side of the second: instructions, holds in both styles, notices.

mod common;

use std::sync::Arc;

use common::*;
use engine::memory::MemoryBuf;
use engine::{FlowChange, Instruct, Instruction, Notice, Policy, Refusal};
use policy::{ClassSync, RuleSet, SyncDefaults, SyncPolicy, Zones};
use replication::ToSync;
use state::{FlowKey, FlowRecord, Life, v4_mapped};
use wire::build;
use wire::tcp::{ACK, PSH, SYN};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";

fn key() -> FlowKey {
    let (client, server) = (v4_mapped([10, 1, 0, 10]), v4_mapped([10, 2, 0, 10]));
    FlowKey::new(client, server, 40000, 80, 6).0
}

fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(from), at(to), flags, seq, ack, data)
}

/// An established connection of an `ack` rule, all of it acknowledged.
fn connected(setup: Setup) -> Rig {
    let mut rig = Rig::new(setup);
    for (port, frame) in [
        (INSIDE, tcp(C, S, SYN, 100, 0, &[])),
        (OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[])),
        (INSIDE, tcp(C, S, ACK, 101, 501, &[])),
    ] {
        rig.put(port, frame);
        rig.turn();
        rig.acknowledge();
        rig.turn();
    }
    assert_eq!((rig.sent(OUTSIDE).len(), rig.sent(INSIDE).len()), (2, 1));
    rig.forget_counts();
    rig
}

fn instruct(rig: &mut Rig, token: u64, instruction: Instruction<MemoryBuf>) {
    rig.agent_to
        .push(Instruct { token, instruction })
        .expect("there is room");
}

fn notices(rig: &mut Rig) -> Vec<Notice<MemoryBuf>> {
    std::iter::from_fn(|| rig.agent_from.pop().ok()).collect()
}

fn outcome(rig: &mut Rig, instruction: Instruction<MemoryBuf>) -> Result<(), Refusal> {
    instruct(rig, 77, instruction);
    rig.turn();
    match &notices(rig)[..] {
        [Notice::Done { token: 77, outcome }, ..] => *outcome,
        other => panic!("{other:?}"),
    }
}

fn changes(told: &[ToSync]) -> Vec<FlowRecord> {
    let change = |m: &ToSync| match m {
        ToSync::Change { record, .. } => Some(*record),
        _ => None,
    };
    told.iter().filter_map(change).collect()
}

fn modify(change: FlowChange) -> Instruction<MemoryBuf> {
    let key = key();
    Instruction::Modify { key, change }
}

#[test]
fn a_changed_mark_is_replicated_and_packets_wait_for_it() {
    let mut rig = connected(Setup::default());
    assert_eq!(outcome(&mut rig, modify(FlowChange::Mark(5))), Ok(()));
    let held = tcp(C, S, ACK | PSH, 101, 501, b"marked");
    assert!(
        rig.through(INSIDE, held).is_empty(),
        "the mark is protected state"
    );
    let told = changes(&rig.acknowledge());
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].mark.value, told[0].mark.version), (5, 1));
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 1);
    // A later mark wins wherever the two meet.
    assert_eq!(outcome(&mut rig, modify(FlowChange::Mark(3))), Ok(()));
    let second = changes(&rig.acknowledge())[0];
    let mut merged = told[0];
    merged.merge(&second);
    assert_eq!(merged.mark.value, 3);
}

/// `[sync] marks = "async"`: the mark is replicated, and nothing waits for it.
#[test]
fn a_mark_that_need_not_be_protected_holds_nothing() {
    let mut rig = connected(Setup::default());
    let defaults = SyncDefaults {
        marks: ClassSync::Async,
        ..SyncDefaults::default()
    };
    let zones = Zones::new(["inside", "outside"]).unwrap();
    let rules = RuleSet::new(1, zones, rig.rules(), defaults).unwrap();
    rig.node.policy.publish(Arc::new(Policy::new(&rules)));
    assert_eq!(outcome(&mut rig, modify(FlowChange::Mark(5))), Ok(()));
    let frame = tcp(C, S, ACK | PSH, 101, 501, b"marked");
    assert_eq!(rig.through(INSIDE, frame).len(), 1);
    assert_eq!(changes(&rig.acknowledge())[0].mark.value, 5);
}

#[test]
fn a_flow_that_is_ended_passes_nothing_more_and_its_copies_learn_of_it() {
    let mut rig = connected(Setup::default());
    assert_eq!(outcome(&mut rig, modify(FlowChange::End)), Ok(()));
    let told = changes(&rig.acknowledge());
    assert_eq!(
        told.iter().map(|r| r.life).collect::<Vec<_>>(),
        [Life::Dead]
    );
    rig.forget_counts();
    let late = tcp(S, C, ACK, 501, 101, b"late");
    assert!(rig.through(OUTSIDE, late).is_empty());
    rig.moved(&[("rx_packets", 1), ("drop_tcp_no_flow", 1)]);
    assert_eq!(
        outcome(&mut rig, modify(FlowChange::End)),
        Err(Refusal::NoFlow)
    );
}

/// The engine holds by itself: packets after the instruction leave when the state is acknowledged.
#[test]
fn a_synchronisation_holds_the_packets_that_follow_and_is_told_when_complete() {
    let mut rig = connected(Setup::default());
    let synchronise = Instruction::Synchronise {
        key: key(),
        hold: true,
    };
    instruct(&mut rig, 1, synchronise);
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Done {
            token: 1,
            outcome: Ok(())
        }]
    ));
    for (n, text) in [b"a", b"b"].into_iter().enumerate() {
        let frame = tcp(C, S, ACK | PSH, 101 + n as u32, 501, text);
        assert!(rig.through(INSIDE, frame).is_empty(), "held");
    }
    assert!(notices(&mut rig).is_empty(), "nobody has acknowledged");
    assert_eq!(
        changes(&rig.acknowledge()).len(),
        1,
        "sent though nothing changed"
    );
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Synchronised {
            token: 1,
            protected: true
        }]
    ));
    let left = rig.sent(OUTSIDE);
    let texts: Vec<u8> = left.iter().map(|frame| *frame.last().unwrap()).collect();
    assert_eq!(texts, b"ab", "both, in order");
}

/// The other style: the agent has the packet, is told, and hands it over for delivery.
#[test]
fn a_diverted_packet_leaves_when_the_agent_hands_it_over() {
    let mut rig = connected(Setup::default());
    let divert = |on| Instruction::Divert { key: key(), on };
    assert_eq!(outcome(&mut rig, divert(true)), Ok(()));
    let frame = tcp(C, S, ACK | PSH, 101, 501, b"PORT");
    assert!(rig.through(INSIDE, frame).is_empty());
    let [
        Notice::Packet {
            key: of, port, buf, ..
        },
    ] = &mut notices(&mut rig)[..]
    else {
        panic!("the packet goes to the agent");
    };
    assert_eq!((*of, *port), (key(), INSIDE));
    let buf = std::mem::replace(buf, MemoryBuf::new(&[]));

    instruct(
        &mut rig,
        2,
        Instruction::Synchronise {
            key: key(),
            hold: false,
        },
    );
    rig.turn();
    rig.acknowledge();
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [
            Notice::Done {
                token: 2,
                outcome: Ok(())
            },
            Notice::Synchronised {
                token: 2,
                protected: true
            }
        ]
    ));
    let deliver = Instruction::Deliver { port: INSIDE, buf };
    assert_eq!(outcome(&mut rig, deliver), Ok(()));
    let left = rig.sent(OUTSIDE);
    assert_eq!(left.len(), 1);
    assert!(left[0].ends_with(b"PORT"));
    let p = wire::parse(&left[0]).expect("a good frame");
    assert!(wire::verify_l4(&left[0], &p), "with a right checksum");
    assert_eq!(p.eth_dst, SERVER);

    // Back to the short way; and what is discarded is counted.
    assert_eq!(outcome(&mut rig, divert(false)), Ok(()));
    let frame = tcp(C, S, ACK | PSH, 105, 501, b"x");
    assert_eq!(rig.through(INSIDE, frame).len(), 1);
    rig.forget_counts();
    let discard = Instruction::Discard {
        buf: MemoryBuf::new(&[0; 60]),
    };
    assert_eq!(outcome(&mut rig, discard), Ok(()));
    rig.moved(&[("agent_instructions", 1), ("drop_by_agent", 1)]);
}

#[test]
fn an_agent_that_reads_nothing_fills_its_own_ring_only() {
    let mut rig = connected(Setup::default());
    let divert = Instruction::Divert {
        key: key(),
        on: true,
    };
    assert_eq!(outcome(&mut rig, divert), Ok(()));
    for n in 0..6 {
        rig.put(INSIDE, tcp(C, S, ACK | PSH, 101 + n, 501, b"z"));
        rig.turn();
    }
    rig.moved(&[
        ("rx_packets", 6),
        ("agent_instructions", 1),
        ("agent_packets", 4),
        ("drop_agent_full", 2),
    ]);
    // Its instructions wait, and other flows go on.
    instruct(&mut rig, 3, modify(FlowChange::Mark(1)));
    rig.turn();
    assert_eq!(
        rig.agent_to.slots(),
        7,
        "not taken: there is no room for its answer"
    );
    let other = tcp("10.1.0.10:40001", S, SYN, 1, 0, &[]);
    rig.put(INSIDE, other);
    rig.turn();
    rig.acknowledge();
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 1);
    assert_eq!(notices(&mut rig).len(), 4);
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Done {
            token: 3,
            outcome: Ok(())
        }]
    ));
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
    let mut rig = connected(Setup::default());
    let unknown = Instruction::Synchronise {
        key: FlowKey::new([1; 16], [2; 16], 1, 2, 6).0,
        hold: true,
    };
    assert_eq!(outcome(&mut rig, unknown), Err(Refusal::NoFlow));
    let nonsense = Instruction::Deliver {
        port: INSIDE,
        buf: MemoryBuf::new(&[0; 60]),
    };
    assert_eq!(outcome(&mut rig, nonsense), Err(Refusal::NotOfAFlow));
    let stray = tcp("10.1.0.10:1", S, ACK, 1, 1, b"stray");
    let stray = Instruction::Deliver {
        port: INSIDE,
        buf: MemoryBuf::new(&build::with_macs(stray, CLUSTER, CLIENT)),
    };
    assert_eq!(outcome(&mut rig, stray), Err(Refusal::NotOfAFlow));

    // A copy whose owner is another node.
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    let mut copy = Rig::new(Setup::default());
    copy.publish(view(2, |_| Some(PEER), &[PEER]));
    let record = rig
        .worker
        .table()
        .entry(rig.worker.table().lookup(&key()).unwrap())
        .record;
    copy.to_worker
        .push(replication::ToWorker::Apply {
            token: 1,
            peer: node(PEER),
            records: vec![(record, 0)],
        })
        .unwrap();
    copy.turn();
    assert_eq!(
        outcome(&mut copy, modify(FlowChange::Mark(1))),
        Err(Refusal::NotOwner)
    );
    assert_eq!(
        outcome(&mut rig, modify(FlowChange::End)),
        Err(Refusal::NotOwner)
    );

    // A flow that is not replicated has nothing to synchronise.
    let mut rules = vec![allow("web", &["tcp/80"], SyncPolicy::None)];
    rules.truncate(1);
    let mut lone = connected(Setup {
        rules,
        ..Setup::default()
    });
    let synchronise = Instruction::Synchronise {
        key: key(),
        hold: false,
    };
    assert_eq!(outcome(&mut lone, synchronise), Err(Refusal::NotReplicated));
}

/// Without backups there is nobody to wait for, and the agent is told that it is so.
#[test]
fn a_node_that_is_left_alone_says_that_nothing_protects_the_state() {
    let mut rig = connected(Setup::default());
    let synchronise = Instruction::Synchronise {
        key: key(),
        hold: true,
    };
    instruct(&mut rig, 1, synchronise);
    rig.turn();
    assert_eq!(notices(&mut rig).len(), 1);
    rig.publish(view(2, |_| Some(ME), &[]));
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Synchronised {
            token: 1,
            protected: false
        }]
    ));
}

/// A rule with an agent, number 3: flows that it opens.
fn agents_rule() -> Vec<policy::Rule> {
    let mut rule = allow("web", &["tcp/80", "udp/5060"], SyncPolicy::Ack);
    rule.agent = Some(3);
    vec![rule]
}

fn with_agent() -> Setup {
    Setup {
        rules: agents_rule(),
        ..Setup::default()
    }
}

fn packet_for(notices: Vec<Notice<MemoryBuf>>) -> Option<(Option<u8>, MemoryBuf)> {
    let mut packets = notices.into_iter().filter_map(|notice| match notice {
        Notice::Packet { agent, buf, .. } => Some((agent, buf)),
        _ => None,
    });
    let first = packets.next();
    assert!(packets.next().is_none(), "more than one");
    first
}

/// From its first packet on: what the agent hands back is held as it would be without one.
#[test]
fn a_rule_with_an_agent_diverts_its_flows_from_the_first_packet_on() {
    let mut rig = Rig::new(with_agent());
    rig.put(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    rig.turn();
    let (agent, buf) = packet_for(notices(&mut rig)).expect("the SYN");
    assert_eq!(agent, Some(3));
    rig.moved(&[
        ("rx_packets", 1),
        ("flow_opened", 1),
        ("changes", 1),
        ("agent_packets", 1),
    ]);
    let deliver = Instruction::Deliver { port: INSIDE, buf };
    assert_eq!(outcome(&mut rig, deliver), Ok(()));
    assert!(
        rig.sent(OUTSIDE).is_empty(),
        "held: nobody has the flow yet"
    );
    rig.acknowledge();
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 1);
    let answer = rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]));
    assert!(answer.is_empty());
    assert!(packet_for(notices(&mut rig)).is_some(), "answers as well");
}

/// Datagrams have no middle of a connection, by which the quick way would tell them from the first.
#[test]
fn datagrams_of_a_rule_with_an_agent_are_diverted_both_ways() {
    let mut rig = Rig::new(with_agent());
    let frame = |from: &str, to: &str| build::udp(at(from), at(to), b"request");
    let (client, server) = ("10.1.0.10:40000", "10.2.0.10:5060");
    for (port, from, to) in [
        (INSIDE, client, server),
        (OUTSIDE, server, client),
        (INSIDE, client, server),
        (OUTSIDE, server, client),
    ] {
        rig.put(port, frame(from, to));
        rig.turn();
        let (agent, buf) = packet_for(notices(&mut rig)).expect("a copy");
        assert_eq!(agent, Some(3));
        assert!(rig.sent(INSIDE + OUTSIDE - port).is_empty());
        let deliver = Instruction::Deliver { port, buf };
        assert_eq!(outcome(&mut rig, deliver), Ok(()));
        rig.acknowledge();
        rig.turn();
        assert_eq!(rig.sent(INSIDE + OUTSIDE - port).len(), 1);
    }
}

#[test]
fn without_its_agent_a_flow_passes_or_is_dropped_as_was_said() {
    let mut rig = Rig::new(with_agent());
    rig.node.agents.set(3, engine::ForAgent::Drop);
    rig.put(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    rig.turn();
    rig.moved(&[
        ("rx_packets", 1),
        ("flow_opened", 1),
        ("changes", 1),
        ("drop_agent_gone", 1),
    ]);
    rig.node.agents.set(3, engine::ForAgent::Pass);
    rig.put(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    rig.turn();
    rig.acknowledge();
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 1, "as if it had no agent");
    rig.node.agents.set(3, engine::ForAgent::Divert);
    assert!(notices(&mut rig).is_empty());
    rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]));
    assert!(packet_for(notices(&mut rig)).is_some(), "once it is there");
}

/// The heir has the flow as a copy, whose record names the rule.
#[test]
fn a_copy_goes_to_the_agent_of_the_node_that_handles_it() {
    let rig = connected(Setup::default());
    let id = rig.worker.table().lookup(&key()).expect("it lives");
    let record = rig.worker.table().entry(id).record;
    for (setup, expected) in [(with_agent(), Some(Some(3))), (Setup::default(), None)] {
        let mut heir = Rig::new(setup);
        heir.publish(view(2, |_| Some(PEER), &[PEER]));
        let apply = replication::ToWorker::Apply {
            token: 1,
            peer: node(PEER),
            records: vec![(record, 0)],
        };
        heir.to_worker.push(apply).expect("there is room");
        heir.turn();
        heir.publish(view(3, |_| Some(ME), &[PEER]));
        heir.turn();
        heir.put(INSIDE, tcp(C, S, ACK | PSH, 101, 501, b"x"));
        heir.turn();
        let agent = packet_for(notices(&mut heir)).map(|(agent, _)| agent);
        assert_eq!(agent, expected);
    }
}

#[test]
fn new_rules_give_a_flow_an_agent_and_take_it_away() {
    let mut rig = connected(Setup::default());
    let zones = || Zones::new(["inside", "outside"]).unwrap();
    for (generation, rules, goes) in [(2, agents_rule(), true), (3, rig.rules(), false)] {
        let rules = RuleSet::new(generation, zones(), rules, SyncDefaults::default()).unwrap();
        rig.node.policy.publish(Arc::new(Policy::new(&rules)));
        rig.put(INSIDE, tcp(C, S, ACK | PSH, 101, 501, b"x"));
        rig.turn();
        assert_eq!(packet_for(notices(&mut rig)).is_some(), goes);
        assert_eq!(rig.sent(OUTSIDE).is_empty(), goes);
    }
}

#[test]
fn a_flow_that_is_asked_for_is_told() {
    let mut rig = connected(Setup::default());
    instruct(&mut rig, 5, Instruction::Ask { key: key() });
    let other = FlowKey::new([1; 16], [2; 16], 1, 2, 6).0;
    instruct(&mut rig, 6, Instruction::Ask { key: other });
    rig.turn();
    let told = notices(&mut rig);
    let [
        Notice::Flow {
            token: 5,
            outcome: Ok(record),
        },
        Notice::Flow {
            token: 6,
            outcome: Err(Refusal::NoFlow),
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(
        (record.key, record.verdict.rule),
        (key(), policy::rule_id("web"))
    );
    rig.moved(&[("agent_instructions", 2), ("agent_instructions_refused", 1)]);
}

/// A flow ends after the silence that it was given, here and where it is taken over; a closing connection as any other.
#[test]
fn a_flow_has_the_timeout_that_it_was_given() {
    let mut rig = connected(Setup::default());
    assert_eq!(outcome(&mut rig, modify(FlowChange::Timeout(20))), Ok(()));
    let told = changes(&rig.acknowledge());
    assert_eq!((told[0].mark.timeout_s, told[0].mark.value), (20, 0));
    assert_eq!(outcome(&mut rig, modify(FlowChange::Mark(5))), Ok(()));
    assert_eq!(
        changes(&rig.acknowledge())[0].mark.timeout_s,
        20,
        "it stays"
    );
    let ended = |rig: &mut Rig| {
        let told = changes(&rig.acknowledge());
        told.iter().any(|record| record.life == Life::Dead)
    };
    rig.run_ms(18_000);
    assert!(!ended(&mut rig));
    rig.run_ms(6_000);
    assert!(ended(&mut rig), "it has been silent for more than 20 s");
}

/// Everything: what would be replicated later goes now, and it is complete once all is acknowledged.
#[test]
fn a_synchronisation_of_everything_takes_along_what_is_delayed() {
    let mut rig = Rig::new(Setup::default());
    let slow = build::udp(at("10.1.0.10:6000"), at("10.2.0.10:7000"), b"x");
    assert_eq!(rig.through(INSIDE, slow).len(), 1);
    assert!(changes(&rig.acknowledge()).is_empty(), "later");
    assert_eq!(outcome(&mut rig, Instruction::SynchroniseAll), Ok(()));
    rig.run_ms(3);
    assert!(notices(&mut rig).is_empty(), "nobody has acknowledged");
    let told = changes(&rig.acknowledge());
    assert_eq!(told.len(), 1);
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Synchronised {
            token: 77,
            protected: true
        }]
    ));

    let mut alone = Rig::new(Setup {
        cluster: false,
        ..Setup::default()
    });
    let refused = outcome(&mut alone, Instruction::SynchroniseAll);
    assert_eq!(refused, Err(Refusal::NotReplicated));
}

/// A flow that is handled here may be another's, as with `ecmp`, who may tell of it between a packet and what its agent
/// says: the packet goes on, and what the agent asks for is done.
#[test]
fn what_an_agent_says_counts_though_the_owner_has_told_meanwhile() {
    let mut rig = connected(Setup::default());
    let on = Instruction::Divert {
        key: key(),
        on: true,
    };
    assert_eq!(outcome(&mut rig, on), Ok(()));
    rig.put(INSIDE, tcp(C, S, ACK | PSH, 101, 501, b"x"));
    rig.turn();
    let (_, buf) = packet_for(notices(&mut rig)).expect("handed over");
    rig.publish(view(2, |_| Some(PEER), &[PEER]));

    let id = rig.worker.table().lookup(&key()).expect("it lives");
    let mut record = rig.worker.table().entry(id).record;
    record.mark.version += 1;
    let apply = replication::ToWorker::Apply {
        token: 1,
        peer: node(PEER),
        records: vec![(record, 0)],
    };
    rig.to_worker.push(apply).expect("there is room");
    rig.turn();
    assert!(rig.worker.table().entry(id).local.flags.is_replica());

    let port = INSIDE;
    assert_eq!(
        outcome(&mut rig, Instruction::Deliver { port, buf }),
        Ok(())
    );
    assert_eq!(rig.sent(OUTSIDE).len(), 1);
    instruct(&mut rig, 5, Instruction::Ask { key: key() });
    rig.turn();
    assert!(matches!(
        notices(&mut rig)[..],
        [Notice::Flow {
            token: 5,
            outcome: Ok(_)
        }]
    ));
}
