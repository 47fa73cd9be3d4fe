//! The detector of SYN scans and floods, packet by packet.

mod common;

use common::*;
use engine::Detect;
use policy::SyncPolicy;
use replication::ToSync;
use state::{BlockReason, v4_mapped};
use wire::build;
use wire::tcp::{ACK, RST, SYN};

const SOURCE: [u8; 4] = [10, 1, 0, 10];

fn rig(detect: Detect) -> Rig {
    Rig::new(Setup {
        capacity: 4_096,
        cluster: false,
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::None)],
        detect: Some(detect),
        ..Setup::default()
    })
}

fn looking_for(scan_ports: u32, flood_syns: u32) -> Detect {
    Detect {
        scan_ports,
        flood_syns,
        window_s: 10,
        except: vec![],
    }
}

fn syn(sport: u16, dport: u16) -> Vec<u8> {
    let (from, to) = (format!("10.1.0.10:{sport}"), format!("10.2.0.10:{dport}"));
    build::tcp(at(&from), at(&to), SYN, 100, 0, &[])
}

fn reply(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let (from, to) = (format!("10.2.0.10:{dport}"), format!("10.1.0.10:{sport}"));
    build::tcp(at(&from), at(&to), flags, 500, 101, &[])
}

/// What was told to the sync core.
fn detected(rig: &mut Rig) -> Vec<BlockReason> {
    let told = rig.acknowledge().into_iter();
    told.filter_map(|message| match message {
        ToSync::Detected { source, reason } => {
            assert_eq!(source, v4_mapped(SOURCE));
            Some(reason)
        }
        _ => None,
    })
    .collect()
}

#[test]
fn whoever_tries_many_ports_is_told_of_once_a_window() {
    let mut rig = rig(looking_for(50, 0));
    // Denied, so they never become flows.
    for port in 0..45 {
        rig.through(INSIDE, syn(40_000, 1_000 + port));
    }
    assert_eq!(detected(&mut rig), []);
    for port in 45..200 {
        rig.through(INSIDE, syn(40_000, 1_000 + port));
    }
    assert_eq!(detected(&mut rig), [BlockReason::SynScan]);
    rig.run_ms(11_000);
    for port in 0..200 {
        rig.through(INSIDE, syn(40_000, 1_000 + port));
    }
    assert_eq!(detected(&mut rig), [BlockReason::SynScan]);
}

#[test]
fn many_attempts_on_one_port_are_a_flood_and_no_scan() {
    let mut rig = rig(looking_for(50, 300));
    for sport in 0..300 {
        rig.through(INSIDE, syn(10_000 + sport, 80));
    }
    assert_eq!(detected(&mut rig), []);
    rig.through(INSIDE, syn(20_000, 80));
    assert_eq!(detected(&mut rig), [BlockReason::SynFlood]);
}

#[test]
fn who_is_answered_is_no_attacker() {
    let mut rig = rig(looking_for(50, 100));
    for sport in 0..1_000 {
        rig.through(INSIDE, syn(10_000 + sport, 80));
        rig.through(OUTSIDE, reply(10_000 + sport, 80, SYN | ACK));
    }
    assert_eq!(detected(&mut rig), []);
    // A refusal is no answer: scans meet closed ports.
    for sport in 0..=100 {
        rig.through(INSIDE, syn(20_000 + sport, 80));
        rig.through(OUTSIDE, reply(20_000 + sport, 80, RST | ACK));
    }
    assert_eq!(detected(&mut rig), [BlockReason::SynFlood]);
}

#[test]
fn attempts_of_earlier_windows_do_not_count() {
    let mut rig = rig(looking_for(0, 100));
    for _ in 0..5 {
        for sport in 0..90 {
            rig.through(INSIDE, syn(10_000 + sport, 81));
        }
        rig.run_ms(10_000);
    }
    assert_eq!(detected(&mut rig), []);
}

#[test]
fn whoever_is_excepted_is_never_told_of() {
    let mut rig = rig(Detect {
        except: vec!["10.1.0.0/24".parse().unwrap()],
        ..looking_for(50, 100)
    });
    for port in 0..500 {
        rig.through(INSIDE, syn(40_000, 1_000 + port));
    }
    assert_eq!(detected(&mut rig), []);
}

#[test]
fn a_worker_looks_for_its_share() {
    let slots = |owner: u8| {
        move |slot: state::Slot| {
            Some(if slot.index().is_multiple_of(4) {
                ME
            } else {
                owner
            })
        }
    };
    let mut rig = Rig::new(Setup {
        capacity: 4_096,
        rules: vec![allow("web", &["tcp/80"], SyncPolicy::None)],
        detect: Some(looking_for(0, 400)),
        ..Setup::default()
    });
    rig.publish(view(2, slots(PEER), &[]));
    rig.turn();
    let mut sent = 0;
    // What is of other slots is not looked at here; about one in four is.
    while detected(&mut rig).is_empty() {
        rig.through(INSIDE, syn(10_000 + sent, 80));
        sent += 1;
        assert!(sent < 1_000, "nothing was found");
    }
    assert!((250..600).contains(&sent), "{sent}");
}
