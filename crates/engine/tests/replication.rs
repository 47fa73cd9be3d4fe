//! The worker's part in replication: what it tells, what it holds, what it takes over.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use engine::{AtDeadline, FlowPage, Hold, WhenAlone};
use replication::{JobId, JobTarget, ToSync, ToWorker};
use state::{Dir, FlowRecord, Life, SlotSet, TcpPhase, slot_of};
use wire::build;
use wire::tcp::{ACK, FIN, SYN};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";

fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(from), at(to), flags, seq, ack, data)
}

fn changes(told: &[ToSync]) -> Vec<(u64, FlowRecord)> {
    told.iter()
        .filter_map(|m| match m {
            ToSync::Change { lsn, record, .. } => Some((*lsn, *record)),
            _ => None,
        })
        .collect()
}

fn apply(rig: &mut Rig, records: Vec<(FlowRecord, u16)>) -> u32 {
    rig.to_worker
        .push(ToWorker::Apply {
            token: 9,
            peer: node(PEER),
            records,
        })
        .unwrap();
    rig.turn();
    let mut refused = None;
    while let Ok(message) = rig.from_worker.pop() {
        if let ToSync::Applied {
            token: 9,
            refused: n,
            records,
        } = message
        {
            assert!(records.is_empty());
            refused = Some(n);
        }
    }
    refused.expect("an application is answered")
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

/// The records of a connection that another node opened and that has come to a phase.
fn remote_connection(established: bool) -> FlowRecord {
    let mut other = Rig::new(Setup {
        cluster: true,
        ..Setup::default()
    });
    other.put(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    other.turn();
    let mut told = other.acknowledge();
    if established {
        other.turn();
        other.put(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]));
        other.turn();
        other.put(INSIDE, tcp(C, S, ACK, 101, 501, &[]));
        other.turn();
        told.extend(other.acknowledge());
    }
    changes(&told).last().unwrap().1
}

#[test]
fn the_opening_packet_waits_for_the_acknowledgement_and_others_behind_it() {
    let mut rig = Rig::new(Setup::default());
    assert!(
        rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])).is_empty(),
        "held"
    );
    rig.moved(&[
        ("rx_packets", 1),
        ("forwarded", 1),
        ("flow_opened", 1),
        ("changes", 1),
        ("held", 1),
    ]);
    // It is sent again before the acknowledgement: held too, in order.
    assert!(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])).is_empty());
    assert_eq!(rig.worker.held(), 2);
    assert_eq!(changes(&rig.acknowledge()).len(), 1);
    rig.turn();
    assert_eq!(rig.sent(OUTSIDE).len(), 2);
    rig.moved(&[
        ("rx_packets", 1),
        ("forwarded", 1),
        ("held", 1),
        ("hold_released", 2),
        ("tx_packets", 2),
    ]);
    // TCP's finer state is told and holds nothing.
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]))
            .len(),
        1
    );
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 101, 501, b"x")).len(), 1);
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 102, 501, b"y")).len(), 1);
    let told = changes(&rig.acknowledge());
    assert_eq!(told.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(told[1].1.tcp_phase(), Some(TcpPhase::Established));
}

#[test]
fn at_its_deadline_a_held_packet_is_dropped_or_released_as_configured() {
    for (at_deadline, counter) in [
        (AtDeadline::Drop, "drop_hold_deadline"),
        (AtDeadline::Release, "hold_released_at_deadline"),
    ] {
        let hold = Hold {
            at_deadline,
            ..Setup::default().hold
        };
        let mut rig = Rig::new(Setup {
            hold,
            ..Setup::default()
        });
        rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
        rig.forget_counts();
        rig.advance(49_000);
        assert_eq!(rig.worker.held(), 1);
        rig.advance(1_000);
        let released = u64::from(at_deadline == AtDeadline::Release);
        assert_eq!(rig.sent(OUTSIDE).len() as u64, released);
        let mut expected = vec![(counter, 1)];
        if released == 1 {
            expected.push(("tx_packets", 1));
        }
        rig.moved(&expected);
    }
}

/// What finds the hold full must not overtake what waits in it, which may be of the same flow.
#[test]
fn a_full_hold_that_releases_lets_go_what_has_waited_longest() {
    let hold = Hold {
        at_deadline: AtDeadline::Release,
        ..Setup::default().hold
    };
    let mut rig = Rig::new(Setup {
        hold,
        ..Setup::default()
    });
    for n in 0..6 {
        rig.put(INSIDE, tcp(C, S, SYN, 100, 0, &[n]));
    }
    rig.turn();
    let numbers = |sent: Vec<Vec<u8>>| -> Vec<u8> {
        let payload = |frame: &Vec<u8>| usize::from(wire::parse(frame).unwrap().payload);
        sent.iter().map(|frame| frame[payload(frame)]).collect()
    };
    assert_eq!(numbers(rig.sent(OUTSIDE)), [0, 1]);
    rig.moved(&[
        ("rx_packets", 6),
        ("forwarded", 6),
        ("flow_opened", 1),
        ("changes", 1),
        ("held", 6),
        ("hold_released_at_deadline", 2),
        ("tx_packets", 2),
    ]);
    rig.acknowledge();
    rig.turn();
    assert_eq!(numbers(rig.sent(OUTSIDE)), [2, 3, 4, 5]);
}

#[test]
fn a_full_hold_drops_and_counts_and_a_node_alone_does_as_configured() {
    let mut rig = Rig::new(Setup::default());
    for _ in 0..6 {
        rig.put(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    }
    rig.turn();
    rig.moved(&[
        ("rx_packets", 6),
        ("forwarded", 6),
        ("flow_opened", 1),
        ("changes", 1),
        ("held", 4),
        ("drop_hold_full", 2),
    ]);
    for (alone, out) in [(WhenAlone::Forward, 1), (WhenAlone::Refuse, 0)] {
        let hold = Hold {
            alone,
            ..Setup::default().hold
        };
        let mut rig = Rig::new(Setup {
            hold,
            ..Setup::default()
        });
        rig.publish(view(2, |_| Some(ME), &[]));
        assert_eq!(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])).len(), out);
    }
}

#[test]
fn async_none_and_delayed_do_as_they_say() {
    let mut rig = Rig::new(Setup::default());
    let to = |port: u16| at(&format!("10.2.0.10:{port}"));
    assert_eq!(
        rig.through(INSIDE, build::udp(at(C), to(9000), b"x")).len(),
        1,
        "async"
    );
    assert_eq!(changes(&rig.acknowledge()).len(), 1);
    let ping = build::icmp_echo(ip("10.1.0.10"), ip("10.2.0.10"), true, 5, 1, b"");
    assert_eq!(rig.through(INSIDE, ping).len(), 1, "none");
    assert!(rig.acknowledge().is_empty());
    assert_eq!(
        rig.through(INSIDE, build::udp(at(C), to(7000), b"x")).len(),
        1,
        "delayed"
    );
    rig.run_ms(1_500);
    assert!(rig.acknowledge().is_empty(), "not yet");
    rig.run_ms(3_000);
    assert_eq!(changes(&rig.acknowledge()).len(), 1);
}

#[test]
fn packets_of_others_slots_are_dropped_and_adopted_ones_forwarded() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    rig.turn();
    let record = remote_connection(true);
    assert_eq!(apply(&mut rig, vec![(record, 3)]), 0);
    rig.forget_counts();
    assert!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 501, 101, b"data"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_not_owner", 1)]);
    // The peer dies. Nothing but the view changes.
    rig.publish(view(3, |_| Some(ME), &[]));
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 501, 101, b"data"))
            .len(),
        1
    );
    rig.moved(&[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]);
    let told = &rig.shared.told;
    assert_eq!(told.takeover_epoch.load(Ordering::Relaxed), 3);
    assert_eq!(told.first_forward_us.load(Ordering::Relaxed), rig.now_us);
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 101, 505, &[])).len(), 1);
}

/// Megabytes have passed since the last copy: the windows are followed from the first packet on, and
/// enforced again once there was time to learn them.
#[test]
fn after_a_takeover_windows_start_anew() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    apply(&mut rig, vec![(remote_connection(true), 3)]);
    rig.publish(view(3, |_| Some(ME), &[]));
    let far = 501 + 300_000_000;
    for n in 0..4 {
        let seq = far + n * 15_000;
        assert_eq!(
            rig.through(OUTSIDE, tcp(S, C, ACK, seq, 101, &[0; 1000]))
                .len(),
            1,
            "{n}"
        );
    }
    let acked = far + 46_000;
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, acked, &[])).len(),
        1
    );
    rig.run_ms(10_001);
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, acked, 101, &[0; 1000]))
            .len(),
        1
    );
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, acked + 1000, &[]))
            .len(),
        1
    );
    rig.forget_counts();
    assert!(
        rig.through(OUTSIDE, tcp(S, C, ACK, far + 10_000_000, 101, b"x"))
            .is_empty()
    );
    assert!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, far + 10_000_000, b"x"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 2), ("drop_tcp_window", 2)]);
}

/// The former owner forwarded a megabyte that the client holds but for one lost segment: the
/// acknowledgement of that segment jumps over all of it.
#[test]
fn after_a_takeover_an_acknowledgement_may_jump() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    apply(&mut rig, vec![(remote_connection(true), 3)]);
    rig.publish(view(3, |_| Some(ME), &[]));
    let lost = 501 + 40_000_000;
    assert_eq!(rig.through(INSIDE, tcp(C, S, ACK, 101, lost, &[])).len(), 1);
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, lost, 101, &[0; 1000]))
            .len(),
        1
    );
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, lost + 1_000_000, &[]))
            .len(),
        1
    );
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, lost + 1_000_000, 101, &[0; 9]))
            .len(),
        1
    );
}

/// A bulk transfer with a window of megabytes, of which the copy knows only the small first one. What
/// the takeover lost is sent again after a probe of the tail, and acknowledged from far behind.
#[test]
fn after_a_takeover_a_wide_window_recovers_what_was_lost() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    let mut record = remote_connection(true);
    for side in &mut record.tcp {
        side.scale = 8;
        side.window_max = 64_240;
    }
    apply(&mut rig, vec![(record, 3)]);
    rig.publish(view(3, |_| Some(ME), &[]));
    let lost = 501 + 40_000_000;
    let in_flight = 3_000_000;
    let tail = lost + in_flight;
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, tail, 101, &[0; 1000]))
            .len(),
        1,
        "tail probe"
    );
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, lost, 101, &[0; 1000]))
            .len(),
        1,
        "sent again"
    );
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, lost, &[])).len(),
        1,
        "acknowledged"
    );
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 101, lost + 1000, &[]))
            .len(),
        1
    );
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, lost + 1000, 101, &[0; 1000]))
            .len(),
        1
    );
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, tail + 1000, 101, &[0; 1000]))
            .len(),
        1
    );
}

/// The backup knows of the SYN only: it can resume from there.
#[test]
fn a_connection_known_by_its_first_packet_goes_on() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    apply(&mut rig, vec![(remote_connection(false), 0)]);
    rig.publish(view(3, |_| Some(ME), &[]));
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 7_000_000, 5_000, b"data"))
            .len(),
        1
    );
    assert_eq!(
        rig.through(INSIDE, tcp(C, S, ACK, 5_000, 7_000_004, b"more"))
            .len(),
        1
    );
    assert_eq!(
        rig.through(OUTSIDE, tcp(S, C, ACK, 7_000_004, 5_004, b"data"))
            .len(),
        1
    );
    assert_eq!(
        flows(&mut rig)[0].record.tcp_phase(),
        Some(TcpPhase::Established)
    );
}

#[test]
fn a_paused_node_does_not_act_on_an_old_view() {
    let mut rig = Rig::new(Setup::default());
    rig.node
        .view_valid_until_us
        .store(rig.now_us + 10, Ordering::Relaxed);
    rig.advance(11);
    rig.forget_counts();
    assert!(
        rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:9000"), b"x"))
            .is_empty()
    );
    rig.moved(&[("rx_packets", 1), ("drop_stale_view", 1)]);
    rig.node
        .view_valid_until_us
        .store(u64::MAX, Ordering::Relaxed);
    assert_eq!(
        rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:9000"), b"x"))
            .len(),
        1
    );
}

/// A start takes long, and a worker without a flow has none to distrust: those that it opens right after
/// standing still are its own.
#[test]
fn a_pause_without_flows_makes_none_doubtful() {
    let mut rig = Rig::new(Setup::default());
    rig.advance(100_000);
    rig.through(INSIDE, tcp(C, S, SYN, 5_000, 0, b""));
    rig.advance(100_000);
    rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 7_000, 5_001, b""));
    let local = flows(&mut rig)[0].local;
    assert!(
        local.flags.is_behind(Dir::AToB) && local.flags.is_behind(Dir::BToA),
        "after the second pause it had a flow"
    );
    let mut rig = Rig::new(Setup::default());
    rig.advance(100_000);
    rig.through(INSIDE, tcp(C, S, SYN, 5_000, 0, b""));
    rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 7_000, 5_001, b""));
    let local = flows(&mut rig)[0].local;
    assert!(!local.flags.is_behind(Dir::AToB) && !local.flags.is_behind(Dir::BToA));
}

#[test]
fn copies_never_expire_but_end_with_their_owner_or_when_nobody_wants_them_here() {
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    let record = remote_connection(true);
    apply(&mut rig, vec![(record, 0)]);
    rig.advance(600_000_000_000);
    rig.run_ms(200);
    assert_eq!(flows(&mut rig).len(), 1, "its owner lives");
    // The owner deletes it; a straggler of the same incarnation does not bring it back.
    let dead = FlowRecord {
        life: Life::Dead,
        ..record
    };
    apply(&mut rig, vec![(dead, 0)]);
    assert!(flows(&mut rig).is_empty());
    apply(&mut rig, vec![(record, 0)]);
    assert!(flows(&mut rig).is_empty());
    // A successor with the same ports does.
    let next = FlowRecord {
        incarnation: record.incarnation + 1,
        ..record
    };
    apply(&mut rig, vec![(next, 0)]);
    assert_eq!(flows(&mut rig).len(), 1);
    // Another node is the backup from now on.
    let mut elsewhere = view(3, |_| Some(PEER), &[PEER]);
    elsewhere.targets[usize::from(PEER)] = state::NodeSet::EMPTY;
    rig.publish(elsewhere);
    rig.run_ms(200);
    assert_eq!(flows(&mut rig).len(), 1, "the next view may want it again");
    rig.advance(61_000_000);
    rig.forget_counts();
    rig.run_ms(200);
    rig.moved(&[("replicas_forgotten", 1)]);
}

#[test]
fn deletion_is_told_and_a_deletion_before_its_flow_holds_too() {
    let mut rig = Rig::new(Setup::default());
    rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:9000"), b"x"));
    rig.acknowledge();
    rig.advance(31_000_000);
    rig.run_ms(100);
    let told = changes(&rig.acknowledge());
    assert_eq!(told.last().unwrap().1.life, Life::Dead);
    let mut backup = Rig::new(Setup::default());
    backup.publish(view(2, |_| Some(PEER), &[PEER]));
    let dead = told.last().unwrap().1;
    apply(&mut backup, vec![(dead, 0)]);
    apply(
        &mut backup,
        vec![(
            FlowRecord {
                life: Life::Alive,
                ..dead
            },
            0,
        )],
    );
    assert!(flows(&mut backup).is_empty());
}

#[test]
fn scans_send_what_they_are_asked_for_and_say_when_they_are_done() {
    let mut rig = Rig::new(Setup::default());
    for n in 0..20u16 {
        rig.through(
            INSIDE,
            build::udp(
                at(&format!("10.1.0.10:{}", 1000 + n)),
                at("10.2.0.10:9000"),
                b"x",
            ),
        );
    }
    let known = changes(&rig.acknowledge());
    let mut slots = SlotSet::empty();
    for (_, record) in &known[..5] {
        slots.insert(slot_of(&record.key));
    }
    let wanted = known
        .iter()
        .filter(|(_, r)| slots.contains(slot_of(&r.key)))
        .count();
    let job = |target| ToWorker::Job {
        job: JobId(1),
        target,
        slots: Box::new(slots.clone()),
    };
    rig.to_worker
        .push(job(JobTarget::Peer(node(PEER))))
        .unwrap();
    rig.run_ms(3);
    let told = rig.acknowledge();
    let records = told
        .iter()
        .filter(|m| matches!(m, ToSync::Snapshot { job: JobId(1), .. }));
    assert_eq!(records.count(), wanted);
    assert!(matches!(
        told.last(),
        Some(ToSync::JobDone {
            job: JobId(1),
            lsn: 20
        })
    ));
    rig.to_worker.push(job(JobTarget::Group)).unwrap();
    rig.run_ms(3);
    let told = rig.acknowledge();
    assert_eq!(changes(&told).len(), wanted);
    let end = 20 + wanted as u64;
    assert!(matches!(told.last(), Some(ToSync::JobDone { job: JobId(1), lsn }) if *lsn == end));
}

#[test]
fn a_full_ring_loses_nothing() {
    let mut rig = Rig::new(Setup {
        changes: 4,
        ..Setup::default()
    });
    for n in 0..12u16 {
        let from = format!("10.1.0.10:{}", 1000 + n);
        assert_eq!(
            rig.through(INSIDE, build::udp(at(&from), at("10.2.0.10:9000"), b"x"))
                .len(),
            1
        );
    }
    // What must be protected is refused instead.
    rig.forget_counts();
    assert!(rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[])).is_empty());
    rig.moved(&[("rx_packets", 1), ("drop_sync_full", 1)]);
    let mut told = vec![];
    for _ in 0..50 {
        told.extend(rig.acknowledge());
        rig.advance(1_000);
    }
    let told = changes(&told);
    let mut keys: Vec<_> = told.iter().map(|(_, r)| r.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 12, "every flow was told of in the end");
    let lsns: Vec<_> = told.iter().map(|(lsn, _)| *lsn).collect();
    assert_eq!(
        lsns,
        (1..=lsns.len() as u64).collect::<Vec<_>>(),
        "without a gap"
    );
}

/// However long the ring stays full, a deletion is told before its tombstone goes.
#[test]
fn a_deletion_that_found_the_ring_full_is_told_before_its_tombstone_goes() {
    let mut rig = Rig::new(Setup {
        changes: 1,
        ..Setup::default()
    });
    rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:9000"), b"x"));
    // It idles out, and its tombstone's time passes too, while nobody takes from the ring.
    for _ in 0..2 {
        rig.advance(40_000_000);
        rig.run_ms(100);
    }
    let mut told = vec![];
    for _ in 0..100 {
        told.extend(rig.acknowledge());
        rig.advance(1_000);
    }
    let lives: Vec<_> = changes(&told).iter().map(|(_, r)| r.life).collect();
    assert_eq!(lives, [Life::Alive, Life::Dead]);
    assert_eq!(rig.worker.table().len(), 0, "then the tombstone goes");
}

#[test]
fn a_full_table_refuses_copies_and_says_how_many() {
    let mut rig = Rig::new(Setup {
        capacity: 1,
        ..Setup::default()
    });
    rig.through(INSIDE, build::udp(at(C), at("10.2.0.10:9000"), b"x"));
    assert_eq!(apply(&mut rig, vec![(remote_connection(true), 0)]), 1);
    assert_eq!(flows(&mut rig).len(), 1);
}

#[test]
fn active_flows_are_refreshed_so_that_copies_are_not_far_behind() {
    let mut rig = Rig::new(Setup::default());
    rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
    rig.acknowledge();
    rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]));
    rig.through(INSIDE, tcp(C, S, ACK, 101, 501, &[]));
    rig.acknowledge();
    rig.run_ms(5_000);
    rig.through(INSIDE, tcp(C, S, ACK, 101, 501, b"data"));
    rig.run_ms(12_000);
    let told = changes(&rig.acknowledge());
    assert_eq!(told.len(), 1);
    rig.run_ms(30_000);
    assert!(rig.acknowledge().is_empty(), "an idle flow is not");
    rig.through(INSIDE, tcp(C, S, FIN | ACK, 105, 501, &[]));
    assert_eq!(
        changes(&rig.acknowledge()).len(),
        1,
        "progress is told at once"
    );
}

/// A former owner's last words, or those of a second handler, must reach this node's own backups.
#[test]
fn news_about_an_owned_flow_is_passed_on_once() {
    let mut rig = Rig::new(Setup::default());
    let record = remote_connection(true);
    rig.to_worker
        .push(ToWorker::Apply {
            token: 1,
            peer: node(PEER),
            records: vec![(record, 0), (record, 0)],
        })
        .unwrap();
    rig.turn();
    let told = rig.acknowledge();
    assert_eq!(
        changes(&told).iter().map(|(_, r)| *r).collect::<Vec<_>>(),
        [record]
    );
    rig.to_worker
        .push(ToWorker::Apply {
            token: 2,
            peer: node(PEER),
            records: vec![(record, 0)],
        })
        .unwrap();
    rig.turn();
    assert!(changes(&rig.acknowledge()).is_empty(), "nothing new");
}

/// Both sides of a partition opened a connection with the same ports. The owner's lived later, and is over: who still
/// believes in the other one is told, or it would come back when the owner's tombstone is gone.
#[test]
fn whoever_tells_of_a_flow_that_is_deleted_here_learns_that_it_is() {
    let mut rig = Rig::new(Setup::default());
    let tell = |rig: &mut Rig, record: FlowRecord| -> Vec<FlowRecord> {
        let told = ToWorker::Apply {
            token: 1,
            peer: node(PEER),
            records: vec![(record, 0)],
        };
        rig.to_worker.push(told).unwrap();
        rig.turn();
        let told = changes(&rig.acknowledge());
        told.iter().map(|(_, record)| *record).collect()
    };
    let other = remote_connection(true);
    let mut dead = other;
    dead.incarnation += 256;
    dead.life = Life::Dead;
    assert_eq!(tell(&mut rig, dead), [dead]);
    assert_eq!(tell(&mut rig, other), [dead]);
    assert_eq!(tell(&mut rig, dead), []);
    // Nothing comes of it where another node decides.
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    assert_eq!(tell(&mut rig, other), []);
}

/// Clocks of nodes differ. A node that was not there when a flow ended cannot know its tombstones, and must open the
/// next one with its ports later than these all the same.
#[test]
fn what_is_opened_is_later_than_all_that_peers_told_of() {
    let mut rig = Rig::new(Setup::default());
    let mut ahead = remote_connection(true);
    ahead.incarnation = (1_700_000_100_000 + 60_000) << 8 | 200;
    assert_eq!(apply(&mut rig, vec![(ahead, 0)]), 0);
    rig.through(INSIDE, tcp("10.1.0.10:41000", S, SYN, 100, 0, &[]));
    let told = changes(&rig.acknowledge());
    let (_, opened) = told.last().expect("it was told of");
    assert!(opened.incarnation > ahead.incarnation);
    assert_eq!(
        opened.incarnation & 0xff,
        u64::from(ME),
        "and tells whose it is"
    );
}

/// Others served the flows of a node that stood still, and it may never see the view in between:
/// its own old windows must not be held against packets that have gone far beyond them. Nor when another
/// node is back that was apart, of which its own slots never knew.
#[test]
fn after_a_pause_or_a_reunion_own_flows_are_followed_as_copies_are() {
    for what in ["a view", "a pause", "a reunion", "nothing"] {
        let mut rig = Rig::new(Setup::default());
        rig.through(INSIDE, tcp(C, S, SYN, 100, 0, &[]));
        rig.acknowledge();
        rig.through(OUTSIDE, tcp(S, C, SYN | ACK, 500, 101, &[]));
        rig.through(INSIDE, tcp(C, S, ACK, 101, 501, &[]));
        match what {
            "a view" => {
                rig.publish(view(2, |_| Some(PEER), &[PEER]));
                rig.turn();
                rig.publish(view(3, |_| Some(ME), &[PEER]));
                rig.turn();
            }
            "a pause" => {
                rig.advance(300_000);
            }
            "a reunion" => {
                let mut back = view(2, |_| Some(ME), &[PEER]);
                back.reunions = 1;
                rig.publish(back);
                rig.turn();
            }
            _ => {
                rig.publish(view(2, |_| Some(ME), &[PEER]));
                rig.turn();
            }
        }
        let passes = usize::from(what != "nothing");
        let far = 501 + 5_000_000;
        let data = tcp(S, C, ACK, far, 101, b"data");
        assert_eq!(rig.through(OUTSIDE, data).len(), passes, "after {what}");
        let answer = tcp(C, S, ACK, 101, far + 4, b"x");
        assert_eq!(rig.through(INSIDE, answer).len(), passes, "after {what}");
    }
}
