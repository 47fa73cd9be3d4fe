//! Whole clusters on a virtual clock: how soon deaths are noticed and which are not there, and
//! that nodes become active when they have everything and not before.

mod virtual_cluster;

use membership::{
    Death, Drain, Event, Health, MemberState, Membership, Output, PROTOCOL_VERSION, Refusal,
    Timing, cluster_hash,
};
use proptest::prelude::*;
use state::NodeSet;
use virtual_cluster::{Cluster, Network, TIMING, config, node};

use MemberState::{Active, Dead, Draining, Joining};

fn state_of(cluster: &Cluster, seen_by: usize, of: usize) -> MemberState {
    cluster.it(seen_by).view().member(node(of)).unwrap().state
}

fn is_down(event: &Event) -> bool {
    matches!(event, Event::PeerDown { .. })
}

fn becomes(state: MemberState) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::State { to, .. } if *to == state)
}

#[test]
fn a_cold_start_waits_for_all_to_be_heard_and_no_longer() {
    for n in [1, 2, 3, 8, 32] {
        let mut cluster = Cluster::new(n, TIMING, Network::default(), n as u64);
        for id in 0..n {
            cluster.start(id);
        }
        // One heartbeat to be heard; who hears of an active one first gets its empty snapshot.
        let took_ms = cluster.run_until(100, Cluster::settled);
        assert!(
            took_ms <= TIMING.heartbeat_ms + 30,
            "{n} nodes took {took_ms} ms"
        );
        assert!(
            cluster
                .nodes
                .iter()
                .all(|n| !n.events.iter().any(|e| is_down(&e.1)))
        );
    }
}

#[test]
fn a_start_without_some_members_waits_join_wait() {
    let mut cluster = Cluster::new(3, TIMING, Network::default(), 1);
    cluster.start(0);
    cluster.start(1);
    cluster.run(TIMING.join_wait_ms - 1);
    assert_eq!(cluster.states(), [Joining, Joining, Dead]);
    assert_eq!(
        cluster.it(0).status().waits_for,
        NodeSet::from_iter([node(2)])
    );
    cluster.run_until(40, Cluster::settled);
    // The one that comes later gets everything from those who are there.
    cluster.start(2);
    cluster.run_until(100, Cluster::settled);
    let active_ms = cluster.said(2, becomes(Active)).unwrap();
    let synced: NodeSet = cluster.nodes[2].synced.iter().map(|s| s.1).collect();
    assert_eq!(synced, NodeSet::from_iter([node(0), node(1)]));
    assert_eq!(cluster.nodes[2].synced.last().unwrap().0, active_ms);
}

#[test]
fn a_death_is_noticed_in_time_by_all() {
    for seed in 0..10 {
        let n = [3, 8, 32][seed as usize % 3];
        let mut cluster = Cluster::started(n, TIMING, Network::default(), seed);
        let some = cluster.random(30);
        cluster.run(some);
        let killed_ms = cluster.now_ms;
        cluster.kill(1);
        cluster.run(100);
        let delay_ms = cluster.network.delay_ms_max;
        for id in (0..n).filter(|id| *id != 1) {
            let at_ms = cluster.said(id, is_down).expect("it is noticed") - killed_ms;
            assert!(at_ms <= TIMING.dead_after_ms + delay_ms, "after {at_ms} ms");
            assert!(at_ms + TIMING.heartbeat_ms >= TIMING.dead_after_ms);
            assert!(!cluster.it(id).view().owner.contains(&Some(node(1))));
        }
        assert!(cluster.settled());
    }
}

/// With a loss of 30 % and eight heartbeats, a death that is none needs eight losses in a row, one
/// of 15,000 times. So the test knows from the deliveries which deaths there must be, and that
/// they are few.
#[test]
fn only_silence_is_death() {
    let timing = Timing {
        dead_after_ms: 80,
        ..TIMING
    };
    let network = Network {
        loss_percent: 30,
        ..Network::default()
    };
    let (mut deaths, mut heartbeats) = (0, 0);
    for seed in 0..8 {
        let mut cluster = Cluster::started(3, timing, network, seed);
        cluster.run(10_000);
        for (&(from, to), times) in &cluster.delivered {
            let silences = |at_least_ms| {
                let silent = |pair: &&[u64]| pair[1] - pair[0] >= at_least_ms;
                times.windows(2).filter(silent).count()
            };
            let of_it =
                |e: &Event| matches!(e, Event::PeerDown { peer, .. } if *peer == node(from));
            let events = cluster.nodes[to].events.iter();
            let declared = events.filter(|(_, e)| of_it(e)).count();
            // What arrives in the very millisecond of the deadline may be in time. The last silence
            // may be still going on.
            let (least, most) = (
                silences(timing.dead_after_ms + 1),
                silences(timing.dead_after_ms) + 1,
            );
            assert!(
                (least..=most).contains(&declared),
                "seed {seed}: {declared} deaths of {from} at {to} in {least} to {most} silences"
            );
            deaths += declared;
            heartbeats += times.len();
        }
    }
    assert!(heartbeats > 30_000 && deaths <= 12, "{deaths} deaths");
}

/// The snapshot of this peer's run is complete, as asked for last.
fn synced(it: &mut Membership, peer: usize, run: u64) {
    let join = it.view().join;
    it.on_synced(node(peer), run, join);
}

#[test]
fn a_restarted_node_is_joining_until_it_has_every_snapshot() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 5);
    cluster.kill(0);
    // Sooner than its death is noticed.
    cluster.run(15);
    cluster.start(0);
    cluster.nodes[0].starved = true;
    let limit = |c: &Cluster| state_of(c, 1, 0) == Joining && state_of(c, 2, 0) == Joining;
    cluster.run_until(30, limit);
    let restarted = |e: &Event| matches!(e, Event::PeerRestarted { peer, .. } if *peer == node(0));
    assert!(cluster.said(1, restarted).is_some());
    // Until then its slots are with others, and it is everybody's target.
    cluster.run(5 * TIMING.join_wait_ms);
    assert_eq!(cluster.states()[0], Joining);
    assert_eq!(cluster.it(1).view().owned(node(0)), 0);
    assert!(cluster.it(1).view().targets[1].contains(node(0)));
    // A snapshot of another run, and one of only one peer, is not enough.
    let run = cluster
        .it(0)
        .view()
        .members
        .iter()
        .map(|m| m.incarnation)
        .collect::<Vec<_>>();
    cluster.with(0, |it| synced(it, 1, run[1] - 1));
    cluster.with(0, |it| synced(it, 2, run[2]));
    cluster.run(50);
    assert_eq!(cluster.states()[0], Joining);
    assert_eq!(
        cluster.it(0).status().waits_for,
        NodeSet::from_iter([node(1)])
    );
    cluster.with(0, |it| synced(it, 1, run[1]));
    assert_eq!(cluster.states()[0], Active);
    cluster.run_until(20, Cluster::settled);
}

#[test]
fn two_that_join_at_once_both_become_active() {
    for seed in 0..20 {
        let network = Network {
            loss_percent: 10,
            ..Network::default()
        };
        let mut cluster = Cluster::started(
            4,
            Timing {
                dead_after_ms: 120,
                ..TIMING
            },
            network,
            seed,
        );
        cluster.kill(1);
        cluster.kill(2);
        let some = cluster.random(200);
        cluster.run(some);
        cluster.start(1);
        let some = cluster.random(40);
        cluster.run(some);
        cluster.start(2);
        cluster.run_until(400, Cluster::settled);
        for id in [1, 2] {
            let synced: NodeSet = cluster.nodes[id].synced.iter().map(|s| s.1).collect();
            assert!(synced.contains(node(0)) && synced.contains(node(3)));
        }
    }
}

#[test]
fn a_joining_node_does_not_wait_for_the_dead() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 6);
    cluster.kill(0);
    cluster.run(100);
    cluster.start(0);
    cluster.nodes[0].starved = true;
    cluster.run(100);
    cluster.kill(1);
    cluster.run(20);
    cluster.kill(2);
    assert_eq!(cluster.states()[0], Joining);
    let took_ms = cluster.run_until(100, |c| c.states()[0] == Active);
    assert!(took_ms <= TIMING.dead_after_ms + 2);
}

#[test]
fn a_short_pause_kills_nobody() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 7);
    // Just over dead_after_ms between its own ticks, but all pause, so nobody noticed.
    for id in 0..3 {
        cluster.pause(id, 200);
    }
    cluster.run(400);
    assert!(cluster.settled());
    for id in 0..3 {
        assert_eq!(cluster.said(id, is_down), None);
        assert!(
            cluster
                .said(id, |e| matches!(e, Event::Paused { ms } if *ms >= 190))
                .is_some()
        );
        let again = cluster.nodes[id]
            .events
            .iter()
            .filter(|(at, e)| *at > 100 && becomes(Joining)(e));
        assert_eq!(again.count(), 0);
    }
}

#[test]
fn who_was_thought_dead_in_a_pause_joins_again() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 8);
    // It got everything once, which does not count later.
    cluster.kill(0);
    cluster.run(100);
    cluster.start(0);
    cluster.run_until(100, Cluster::settled);
    cluster.nodes[0].starved = true;
    cluster.pause(0, 300);
    cluster.run(200);
    assert_eq!(state_of(&cluster, 1, 0), Dead);
    assert_eq!(state_of(&cluster, 2, 0), Dead);
    cluster.nodes[0].synced.clear();
    cluster.run(105);
    assert_eq!(cluster.states()[0], Joining, "others handled its flows");
    cluster.run(100);
    assert_eq!(cluster.states()[0], Joining);
    cluster.nodes[0].starved = false;
    cluster.forget_snapshots(0);
    cluster.run_until(100, Cluster::settled);
    // It took nobody for dead, and has everybody's snapshot again.
    assert_eq!(cluster.said(0, is_down), None);
    let synced: NodeSet = cluster.nodes[0].synced.iter().map(|s| s.1).collect();
    assert_eq!(synced, NodeSet::from_iter([node(1), node(2)]));
}

#[test]
fn a_death_during_a_pause_is_noticed_after_it() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 9);
    cluster.pause(0, 300);
    cluster.run(10);
    cluster.kill(1);
    cluster.run(291);
    let resumed_ms = cluster.now_ms;
    cluster.run(100);
    let at_ms = cluster.said(0, is_down).unwrap();
    assert!(at_ms - resumed_ms <= TIMING.dead_after_ms);
    assert_eq!(state_of(&cluster, 0, 1), Dead);
}

#[test]
fn both_sides_of_a_partition_go_on_and_agree_after_it() {
    for seed in 0..5 {
        let mut cluster = Cluster::started(5, TIMING, Network::default(), seed);
        let epochs: Vec<u64> = (0..5).map(|id| cluster.it(id).view().epoch).collect();
        cluster.partition(&[0, 1], &[2, 3, 4]);
        cluster.run(200);
        assert_eq!(cluster.states(), [Active; 5]);
        for (side, other) in [
            (&[0usize, 1][..], &[2usize, 3, 4][..]),
            (&[2, 3, 4], &[0, 1]),
        ] {
            let view = cluster.it(side[0]).view();
            for id in side {
                assert_eq!(view.digest, cluster.it(*id).view().digest);
            }
            for id in other {
                assert_eq!(view.owned(node(*id)), 0);
            }
            assert!(view.owner.iter().all(Option::is_some));
        }
        cluster.cut.clear();
        let took_ms = cluster.run_until(50, Cluster::settled);
        assert!(took_ms <= TIMING.heartbeat_ms + 3, "{took_ms} ms");
        for (id, epoch) in epochs.into_iter().enumerate() {
            assert!(cluster.it(id).view().epoch > epoch);
            let epochs: Vec<u64> = cluster.nodes[id].views.iter().map(|v| v.1.epoch).collect();
            assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        }
    }
}

#[test]
fn who_is_heard_and_does_not_hear_is_reported() {
    let mut cluster = Cluster::started(2, TIMING, Network::default(), 3);
    cluster.cut.insert((0, 1));
    cluster.run(150);
    let unheard = |e: &Event| matches!(e, Event::Unheard { peer } if *peer == node(1));
    assert!(cluster.said(0, unheard).is_some());
    assert_eq!(cluster.said(1, unheard), None);
    assert_eq!(
        (state_of(&cluster, 0, 1), state_of(&cluster, 1, 0)),
        (Active, Dead)
    );
    cluster.cut.clear();
    cluster.run(40);
    let again = |e: &Event| matches!(e, Event::HeardAgain { .. });
    assert!(cluster.said(0, again).is_some());
    assert!(cluster.settled());
}

#[test]
fn a_drained_node_gives_up_its_slots_and_comes_back_with_the_state() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 4);
    let order = Drain {
        bound_ms: 1_000,
        force: false,
    };
    cluster.with(0, |it| it.drain(order).expect("others are active"));
    cluster.run(4);
    for id in 1..3 {
        assert_eq!(
            state_of(&cluster, id, 0),
            Draining,
            "peers are told at once"
        );
        assert_eq!(cluster.it(id).view().owned(node(0)), 0);
    }
    cluster.run(100);
    assert_eq!(state_of(&cluster, 0, 0), Draining);
    assert_eq!(cluster.it(0).view().owned(node(0)), 0);
    assert_eq!(cluster.states()[0], Draining);
    cluster.with(0, |it| it.set_health(Health::Ok));
    assert_eq!(cluster.states()[0], Draining, "the operator's word counts");
    cluster.nodes[0].synced.clear();
    cluster.with(0, Membership::undrain);
    cluster.run_until(100, Cluster::settled);
    assert_eq!(cluster.nodes[0].synced.len(), 2);

    cluster.with(0, Membership::leave);
    cluster.run(4);
    for id in [1, 2] {
        let left = |e: &Event| {
            matches!(
                e,
                Event::PeerDown {
                    death: Death::Left,
                    ..
                }
            )
        };
        assert!(cluster.said(id, left).is_some());
    }
    cluster.run(100);
    assert_eq!(state_of(&cluster, 1, 0), Dead, "goodbye is for good");
    let ups = cluster.nodes[1]
        .events
        .iter()
        .filter(|e| matches!(e.1, Event::PeerUp { peer, .. } if peer == node(0)));
    assert_eq!(ups.count(), 1);
    cluster.start(0);
    cluster.run_until(100, Cluster::settled);
}

#[test]
fn a_stalled_node_drains_while_others_are_active() {
    let mut cluster = Cluster::started(2, TIMING, Network::default(), 11);
    cluster.with(0, |it| it.set_health(Health::WorkerStalled));
    cluster.run(4);
    assert_eq!(cluster.states(), [Draining, Active]);
    assert_eq!(cluster.it(1).view().owned(node(0)), 0);
    cluster.with(1, |it| it.set_health(Health::WorkerStalled));
    assert_eq!(cluster.states()[1], Active, "it is the only one left");
    cluster.with(0, |it| it.set_health(Health::Ok));
    assert_eq!(cluster.states()[0], Joining);
    cluster.run_until(100, |c| c.states() == [Active, Draining]);
    cluster.with(1, |it| it.set_health(Health::Ok));
    cluster.run_until(100, Cluster::settled);
}

/// The outputs of a membership that was given one message of node 1 with some bytes changed.
fn refusals(it: &mut Membership, from: usize, bytes: &[u8], now_ms: u64) -> Vec<Event> {
    while it.poll().is_some() {}
    it.on_message(node(from), bytes, now_ms);
    std::iter::from_fn(|| it.poll())
        .filter_map(|o| match o {
            Output::Event(event) => Some(event),
            _ => None,
        })
        .collect()
}

fn heartbeat_of(it: &mut Membership, now_ms: u64) -> Vec<u8> {
    it.tick(now_ms);
    let sent = std::iter::from_fn(|| it.poll()).find_map(|o| match o {
        Output::Send { bytes, .. } => Some(bytes.to_vec()),
        _ => None,
    });
    sent.expect("a heartbeat is due")
}

/// A node whose clock went back learns why nobody listens, and above which number it must begin.
#[test]
fn a_run_that_peers_know_a_later_one_of_is_told_so() {
    let ours = config(2, TIMING);
    let outruns = |it: &mut Membership| -> Vec<Event> {
        let said = std::iter::from_fn(|| it.poll());
        let events = said.filter_map(|output| match output {
            Output::Event(event @ Event::LaterRunKnown { .. }) => Some(event),
            _ => None,
        });
        events.collect()
    };
    let mut witness = Membership::new(ours.clone(), node(0), 7, 0).unwrap();
    let mut first = Membership::new(ours.clone(), node(1), 5_000, 0).unwrap();
    witness.on_message(node(1), &heartbeat_of(&mut first, 0), 0);
    let last = heartbeat_of(&mut first, 10);
    witness.on_message(node(1), &last, 10);

    // While the witness takes the former run for alive, its word is about that one.
    let mut again = Membership::new(ours.clone(), node(1), 4_000, 0).unwrap();
    let early = heartbeat_of(&mut again, 0);
    witness.on_message(node(1), &early, 12);
    again.on_message(node(0), &heartbeat_of(&mut witness, 20), 20);
    assert_eq!(outruns(&mut again), []);

    // Once that one is dead, what the witness still refuses is this run. It says so, once.
    let mut known = None;
    for at_ms in (30..200).step_by(10) {
        witness.on_message(node(1), &heartbeat_of(&mut again, at_ms), at_ms);
        again.on_message(node(0), &heartbeat_of(&mut witness, at_ms), at_ms);
        for event in outruns(&mut again) {
            assert_eq!(witness.view().member(node(1)).unwrap().state, Dead);
            let Event::LaterRunKnown { theirs, ours, .. } = event else {
                unreachable!("of this kind only")
            };
            assert_eq!((known.replace(theirs), ours), (None, 4_000));
        }
    }

    // A run after the number that it was told is heard.
    let known = known.expect("it was told");
    let mut later = Membership::new(ours, node(1), known + 1, 200).unwrap();
    witness.on_message(node(1), &heartbeat_of(&mut later, 200), 200);
    assert_eq!(witness.view().member(node(1)).unwrap().state, Joining);
    later.on_message(node(0), &heartbeat_of(&mut witness, 210), 210);
    assert_eq!(outruns(&mut later), []);
    assert!(known >= 5_000);
}

#[test]
fn what_does_not_belong_is_refused_once_and_named() {
    let ours = config(3, TIMING);
    let mut it = Membership::new(ours.clone(), node(0), 7, 0).unwrap();
    let mut peer = Membership::new(ours.clone(), node(1), 70, 0).unwrap();
    let good = heartbeat_of(&mut peer, 0);
    let refused = |why| vec![Event::Refused { peer: node(1), why }];

    let mut other_version = good.clone();
    other_version[0] = 9;
    let why = Refusal::Version {
        theirs: 9,
        ours: PROTOCOL_VERSION,
    };
    assert_eq!(refusals(&mut it, 1, &other_version, 1), refused(why));
    assert_eq!(refusals(&mut it, 1, &other_version, 2), []);
    assert_eq!(refusals(&mut it, 1, b"", 3), refused(Refusal::Malformed));
    assert_eq!(refusals(&mut it, 1, &other_version, 4), refused(why));

    let elsewhere = cluster_hash("elsewhere");
    let members = ours.members().to_vec();
    let theirs = membership::ClusterConfig::new(elsewhere, members.clone(), 2, TIMING).unwrap();
    let mut stranger = Membership::new(theirs.into(), node(1), 70, 0).unwrap();
    let foreign = heartbeat_of(&mut stranger, 0);
    let why = Refusal::Cluster {
        theirs: elsewhere,
        ours: cluster_hash("virtual"),
    };
    assert_eq!(refusals(&mut it, 1, &foreign, 5), refused(why));
    assert_eq!(it.view().member(node(1)).unwrap().state, Dead);

    let says = Event::Refused {
        peer: node(2),
        why: Refusal::Sender { says: 1 },
    };
    assert_eq!(refusals(&mut it, 2, &good, 6), [says]);
    for stranger in [0, 9] {
        let why = Refusal::NotAPeer;
        let event = Event::Refused {
            peer: node(stranger),
            why,
        };
        assert_eq!(refusals(&mut it, stranger, &good, 6), [event]);
    }

    let up = Event::PeerUp {
        peer: node(1),
        incarnation: 70,
        state: Joining,
    };
    assert_eq!(refusals(&mut it, 1, &good, 7), [up]);
    assert_eq!(refusals(&mut it, 1, &other_version, 8).len(), 1);
    let mut old_run = Membership::new(ours, node(1), 69, 0).unwrap();
    let old = heartbeat_of(&mut old_run, 0);
    let why = Refusal::OldRun {
        theirs: 69,
        known: 70,
    };
    assert_eq!(refusals(&mut it, 1, &old, 9), refused(why));

    // Another configuration of the same cluster is accepted, with a warning.
    let theirs = membership::ClusterConfig::new(cluster_hash("virtual"), members, 1, TIMING);
    let theirs = std::sync::Arc::new(theirs.unwrap());
    let mut differing = Membership::new(theirs.clone(), node(2), 70, 0).unwrap();
    let (theirs, ours) = (theirs.digest(), config(3, TIMING).digest());
    let warned = Event::ConfigDiffers {
        peer: node(2),
        theirs,
        ours,
    };
    let first = heartbeat_of(&mut differing, 0);
    let second = heartbeat_of(&mut differing, 10);
    assert!(refusals(&mut it, 2, &first, 10).contains(&warned));
    assert!(!refusals(&mut it, 2, &second, 11).contains(&warned));
    let said = it.status().members[2].said.unwrap();
    assert!(!said.same_config && !said.agrees);
}

#[test]
fn a_snapshot_may_be_complete_before_its_sender_is_heard() {
    let ours = config(2, TIMING);
    let mut it = Membership::new(ours.clone(), node(0), 1, 0).unwrap();
    let mut peer = Membership::new(ours, node(1), 70, 0).unwrap();
    peer.tick(0);
    peer.tick(TIMING.join_wait_ms);
    assert_eq!(peer.state(), Active);
    let unheard = heartbeat_of(&mut peer, TIMING.join_wait_ms + 10);
    let hello = heartbeat_of(&mut it, 10);
    peer.on_message(node(0), &hello, TIMING.join_wait_ms + 15);
    let active = heartbeat_of(&mut peer, TIMING.join_wait_ms + 20);
    // Of an earlier run: worth nothing.
    synced(&mut it, 1, 69);
    it.on_message(node(1), &active, 20);
    assert_eq!(it.state(), Joining);
    synced(&mut it, 1, 70);
    assert_eq!(it.state(), Active);

    let mut it = Membership::new(config(2, TIMING), node(0), 2, 0).unwrap();
    synced(&mut it, 1, 70);
    assert_eq!(it.state(), Joining);
    it.on_message(node(1), &unheard, 15);
    assert_eq!(
        it.state(),
        Joining,
        "one that does not hear it sends it nothing"
    );
    it.on_message(node(1), &active, 20);
    assert_eq!(it.state(), Active);
}

#[test]
fn a_joining_node_that_was_taken_for_dead_needs_another_snapshot() {
    let ours = config(3, TIMING);
    let mut it = Membership::new(ours.clone(), node(0), 1, 0).unwrap();
    let mut peer = Membership::new(ours, node(1), 70, 0).unwrap();
    peer.tick(0);
    peer.tick(TIMING.join_wait_ms);
    let mut peer_ms = TIMING.join_wait_ms + 10;
    let hello = heartbeat_of(&mut it, 10);
    peer.on_message(node(0), &hello, peer_ms);
    it.on_message(node(1), &heartbeat_of(&mut peer, peer_ms), 11);
    synced(&mut it, 1, 70);
    assert_eq!(it.state(), Joining, "of node 2 nothing is known yet");
    // The peer hears nothing of it for too long, then hears it again.
    peer_ms += TIMING.dead_after_ms;
    it.on_message(node(1), &heartbeat_of(&mut peer, peer_ms), 20);
    let again = heartbeat_of(&mut it, 30);
    peer.on_message(node(0), &again, peer_ms + 5);
    it.on_message(node(1), &heartbeat_of(&mut peer, peer_ms + 10), 31);
    for now_ms in (31..TIMING.join_wait_ms + 20).step_by(10) {
        let word = heartbeat_of(&mut it, now_ms);
        peer.on_message(node(0), &word, peer_ms + now_ms);
        it.on_message(node(1), &heartbeat_of(&mut peer, peer_ms + now_ms), now_ms);
    }
    assert_eq!(
        it.state(),
        Joining,
        "what the peer did meanwhile is not here"
    );
    synced(&mut it, 1, 70);
    assert_eq!(it.state(), Active);
}

#[test]
fn late_and_repeated_heartbeats_are_no_signs_of_life() {
    let ours = config(2, TIMING);
    let mut it = Membership::new(ours.clone(), node(0), 1, 0).unwrap();
    let mut peer = Membership::new(ours, node(1), 1, 0).unwrap();
    let first = heartbeat_of(&mut peer, 0);
    let second = heartbeat_of(&mut peer, 10);
    it.on_message(node(1), &second, 10);
    for now_ms in (15..50).step_by(5) {
        it.on_message(node(1), &first, now_ms);
        it.on_message(node(1), &second, now_ms);
        it.tick(now_ms);
    }
    assert_eq!(it.status().members[1].heard_ms_ago, Some(35));
    it.tick(50);
    assert_eq!(it.view().member(node(1)).unwrap().state, Dead);
}

#[test]
fn events_nobody_polls_are_bounded() {
    let mut it = Membership::new(config(3, TIMING), node(0), 1, 0).unwrap();
    for now_ms in 0..1_000 {
        let bytes: &[u8] = if now_ms % 2 == 0 { &[9, 0] } else { &[8, 0] };
        it.on_message(node(1), bytes, now_ms);
        it.tick(now_ms);
    }
    assert!(it.status().events_lost > 700);
    assert!(std::iter::from_fn(|| it.poll()).count() < 300);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes, in whatever order: no panic, and the invariants of views and deadlines hold.
    #[test]
    fn nothing_that_comes_breaks_it(
        steps in prop::collection::vec(
            (0..40u8, prop::collection::vec(any::<u8>(), 0..100), any::<[(prop::sample::Index, u8); 3]>(), 0..120u64),
            1..60,
        ),
    ) {
        let config = config(4, TIMING);
        let mut it = Membership::new(config.clone(), node(0), 1, 0).unwrap();
        if steps.len() % 2 == 0 {
            it = it.with_views_applied_later();
        }
        let mut peer = Membership::new(config, node(1), 1, 0).unwrap();
        let (mut now_ms, mut peer_ms, mut epoch) = (0, 0, 0u64);
        for (what, bytes, flips, passed_ms) in steps {
            now_ms += passed_ms;
            match what {
                0..10 => it.on_message(node(what as usize), &bytes, now_ms),
                // A heartbeat, true or with some bytes changed.
                10..25 => {
                    // By its own clock, so that one is due each time.
                    peer_ms = now_ms.max(peer_ms) + 10;
                    let mut heartbeat = heartbeat_of(&mut peer, peer_ms);
                    for (at, value) in flips.iter().take((what - 10) as usize / 4) {
                        let at = at.index(heartbeat.len());
                        heartbeat[at] = *value;
                    }
                    it.on_message(node(1), &heartbeat, now_ms);
                }
                25..28 => {
                    let join = it.view().join - passed_ms % 2;
                    it.on_synced(node(what as usize - 25), u64::from(what) % 2, join);
                }
                34 => it.on_flushed(now_ms % 3),
                35 => it.on_applied(epoch.saturating_sub(passed_ms % 2)),
                28 => drop(it.drain(Drain { bound_ms: passed_ms, force: flips[0].1 % 2 == 0 })),
                29 => it.undrain(),
                30 => it.set_health(Health::WorkerStalled),
                31 => it.set_health(Health::Ok),
                32 => it.leave(),
                // The clock does not go backwards, even if its reader does.
                33 => it.tick(now_ms / 2),
                _ => {}
            }
            it.tick(now_ms);
            prop_assert!(it.deadline() > now_ms);
            prop_assert_eq!(it.view().member(node(0)).unwrap().state, it.state());
            while let Some(output) = it.poll() {
                if let Output::View(view) = output {
                    prop_assert!(view.epoch > epoch || epoch == u64::MAX);
                    epoch = view.epoch;
                }
            }
        }
    }
}
