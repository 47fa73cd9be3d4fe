//! The worker's part in a final synchronisation: what it sends, and when it says that it has.

mod common;

use std::sync::atomic::Ordering;

use common::{INSIDE, Rig, Setup, at};
use replication::ToSync;
use wire::build;

fn ask(rig: &mut Rig, number: u64) {
    rig.node.flush_asked.store(number, Ordering::Release);
}

/// The number that the worker has answered, and its log number with it.
fn answered(rig: &Rig) -> (u64, u64) {
    let told = &rig.shared.told;
    let number = told.flushed.load(Ordering::Acquire);
    (number, told.flushed_lsn.load(Ordering::Relaxed))
}

fn open(rig: &mut Rig, from_port: u16, to_port: u16) {
    let from = at(&format!("10.1.0.10:{from_port}"));
    let packet = build::udp(from, at(&format!("10.2.0.10:{to_port}")), b"x");
    assert_eq!(rig.through(INSIDE, packet).len(), 1);
}

/// Flows whose replication is put off would be unknown to the heir.
#[test]
fn what_was_put_off_is_sent_and_what_is_not_replicated_is_not() {
    let mut rig = Rig::new(Setup::default());
    for n in 0..3 {
        open(&mut rig, 1000 + n, 7000);
    }
    let ping = build::icmp_echo(
        "10.1.0.10".parse().expect("valid"),
        "10.2.0.10".parse().expect("valid"),
        true,
        5,
        1,
        b"",
    );
    assert_eq!(rig.through(INSIDE, ping).len(), 1);
    assert_eq!(rig.acknowledge(), []);
    ask(&mut rig, 1);
    rig.turn();
    assert_eq!(answered(&rig), (1, 3));
    let told = rig.acknowledge();
    let changes = told.iter().filter(|m| matches!(m, ToSync::Change { .. }));
    assert_eq!(changes.count(), 3);
    // Once is enough, for one question and for one flow.
    rig.run_ms(5_000);
    assert_eq!(rig.acknowledge(), []);
    ask(&mut rig, 2);
    rig.turn();
    assert_eq!(answered(&rig), (2, 3));
}

/// The packets that had arrived when it was asked belong to it: the heir may not have owned yet.
#[test]
fn it_answers_once_its_receive_queues_were_empty() {
    let mut rig = Rig::new(Setup {
        capacity: 512,
        ..Setup::default()
    });
    for n in 0..130 {
        let from = at(&format!("10.1.0.10:{}", 1000 + n));
        rig.put(INSIDE, build::udp(from, at("10.2.0.10:9000"), b"x"));
    }
    ask(&mut rig, 7);
    // The port gives bursts of 64: the third is the first that is not full.
    for _ in 0..2 {
        rig.turn();
        assert_eq!(answered(&rig), (0, 0));
    }
    rig.turn();
    assert_eq!(answered(&rig), (7, 130));
}

#[test]
fn a_full_ring_delays_it_and_loses_nothing() {
    let mut rig = Rig::new(Setup {
        changes: 4,
        ..Setup::default()
    });
    // Some find the ring full, some are put off.
    for n in 0..9 {
        open(&mut rig, 1000 + n, 9000);
    }
    for n in 0..9 {
        open(&mut rig, 2000 + n, 7000);
    }
    ask(&mut rig, 1);
    rig.turn();
    assert_eq!(answered(&rig), (0, 0));
    let mut told = vec![];
    for _ in 0..50 {
        told.extend(rig.acknowledge());
        rig.turn();
    }
    let (number, lsn) = answered(&rig);
    assert_eq!(number, 1);
    let changed = |message: &ToSync| match message {
        ToSync::Change { lsn, record, .. } => Some((*lsn, record.key)),
        _ => None,
    };
    let told: Vec<_> = told.iter().filter_map(changed).collect();
    assert_eq!(told.last().map(|(lsn, _)| *lsn), Some(lsn));
    let keys: std::collections::BTreeSet<_> = told.iter().map(|(_, key)| *key).collect();
    assert_eq!(keys.len(), 18);
}
