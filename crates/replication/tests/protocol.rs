//! The protocol, one situation per test.

mod net;

use net::{Net, key, node, view};
use replication::{
    Connection, Event, HoldAcks, Options, OptionsError, Replicator, SNAPSHOTS, ToWorker, Violation,
};

const ALL_OF_0: fn(usize) -> Option<u8> = |_| Some(0);

fn small(options: &mut Options) {
    options.log_records_max = 32;
    options.batch_records_max = 4;
    options.window_records = 8;
    options.chunk_records = 8;
}

/// Node 0 owns everything and replicates to node 1.
fn pair(workers: &[usize], shape: fn(&mut Options)) -> Net {
    let mut net = Net::new(workers, 7, shape);
    net.connect_all();
    net.set_views(&view(1, &vec![1; workers.len()], &[], ALL_OF_0, &[&[1]]));
    net.settle();
    net
}

#[test]
fn changes_arrive_and_release() {
    let mut net = pair(&[3, 2], |_| ());
    for n in 0..100 {
        net.packet(0, key(n));
    }
    assert_eq!(net.held(0), 100);
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 100));
    net.packet(0, key(5));
    net.delete(0, key(6));
    net.settle();
    net.assert_redundant(0);
    let status = net.status(0);
    assert!(status.whole);
    let counters = status.counters;
    assert_eq!(
        (
            counters.changes,
            counters.records_acked,
            counters.flows_acked
        ),
        (102, 102, 100)
    );
    assert_eq!((counters.records_sent, counters.records_given_up), (102, 0));
    assert_eq!(
        (
            counters.snapshots_done,
            counters.frames_invalid,
            counters.worker_faults
        ),
        (1, 0, 0)
    );
    assert_eq!(net.status(1).counters.records_applied, 102);
    assert_eq!(
        (status.targets.len(), status.targets[0].lag_records),
        (1, 0)
    );
}

#[test]
fn alone_releases_at_once_and_is_not_redundant() {
    let mut net = Net::new(&[2, 1], 1, |_| ());
    net.set_views(&view(1, &[1, 1], &[], ALL_OF_0, &[&[]]));
    for n in 0..10 {
        net.packet(0, key(n));
    }
    net.settle();
    assert_eq!(net.held(0), 0);
    assert!(!net.status(0).whole);
    assert_eq!(net.status(0).counters.records_acked, 0);
}

#[test]
fn an_unreachable_target_holds_until_it_is_no_target() {
    let mut net = Net::new(&[1, 1], 1, |_| ());
    net.set_views(&view(1, &[1, 1], &[], ALL_OF_0, &[&[1]]));
    net.packet(0, key(1));
    net.settle();
    assert_eq!(net.held(0), 1);
    assert_eq!(net.status(0).targets[0].lag_records, 1);
    net.set_views(&view(2, &[1, 1], &[], ALL_OF_0, &[&[]]));
    net.settle();
    assert_eq!(net.held(0), 0);
    assert_eq!(net.status(0).counters.records_acked, 0);
}

#[test]
fn one_acknowledgement_of_two_is_enough_when_configured() {
    let mut net = Net::new(&[1, 1, 1], 3, |options| {
        options.hold_acks = HoldAcks::Count(1)
    });
    net.connect_all();
    net.set_views(&view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1]]));
    net.settle();
    net.packet(0, key(1));
    net.settle();
    assert_eq!(net.held(0), 0);

    let mut all = Net::new(&[1, 1, 1], 3, |_| ());
    all.connect(0, 1);
    all.set_views(&view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1, 2]]));
    all.packet(0, key(1));
    all.settle();
    assert_eq!(all.held(0), 1, "node 2 has not acknowledged");
    all.connect(0, 2);
    all.settle();
    assert_eq!(all.held(0), 0);
    all.assert_redundant(0);
}

/// A joining node inherits nothing when the owner dies, so with a number of acknowledgements its own is none of
/// them. It is waited for besides: slots go to it while the owner lives.
#[test]
fn a_joining_node_is_none_of_the_acknowledgements_that_are_enough() {
    for (distribution, owner) in [
        (membership::Distribution::Filter, ALL_OF_0),
        (membership::Distribution::Ecmp, ALL_OF_0),
    ] {
        for silent in [1, 2] {
            let shape: fn(&mut Options) = match distribution {
                membership::Distribution::Filter => |o| o.hold_acks = HoldAcks::Count(1),
                membership::Distribution::Ecmp => |o| {
                    o.hold_acks = HoldAcks::Count(1);
                    o.distribution = membership::Distribution::Ecmp;
                },
            };
            let mut net = Net::new(&[1, 1, 1], 7, shape);
            net.connect_all();
            net.set_views(&view(1, &[1, 1, 1], &[2], owner, &[&[1, 2]]));
            net.settle();
            net.conns.get_mut(&(0, silent)).unwrap().stalled = true;
            net.packet(0, key(1));
            net.settle();
            let other = 3 - silent;
            assert_eq!(net.flows(other), 1, "node {other} has it and says so");
            assert_eq!(net.held(0), 1, "{distribution:?}, node {silent} is silent");
            net.conns.get_mut(&(0, silent)).unwrap().stalled = false;
            net.settle();
            assert_eq!(net.held(0), 0, "{distribution:?}, node {silent} was silent");
        }
    }
}

#[test]
fn a_target_change_makes_held_packets_wait_for_the_new_target() {
    let mut net = Net::new(&[1, 1, 1], 5, |_| ());
    net.connect(0, 1);
    net.set_views(&view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1]]));
    net.settle();
    // Node 1 goes silent with packets held towards it.
    net.conns.get_mut(&(0, 1)).unwrap().stalled = true;
    for n in 0..5 {
        net.packet(0, key(n));
    }
    net.settle();
    assert_eq!(net.held(0), 5);
    net.set_views(&view(2, &[1, 1, 1], &[], ALL_OF_0, &[&[2]]));
    net.settle();
    assert_eq!(net.held(0), 5, "node 2 is not connected yet");
    net.connect(0, 2);
    net.settle();
    assert_eq!((net.held(0), net.flows(2)), (0, 5));
    assert!(net.status(0).whole);
}

#[test]
fn a_reconnect_resumes_where_it_was() {
    let mut net = pair(&[2, 2], small);
    for n in 0..12 {
        net.packet(0, key(n));
    }
    for _ in 0..25 {
        net.step();
    }
    net.disconnect(0, 1);
    for n in 12..20 {
        net.packet(0, key(n));
    }
    net.connect(0, 1);
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 20));
    net.assert_redundant(0);
    let counters = net.status(1).counters;
    // Nothing was received twice: records in flight when it broke had not arrived.
    assert_eq!(counters.records_received, 20);
    assert_eq!(
        net.status(0).counters.snapshots_started,
        1,
        "the log had all that was missing"
    );
    assert!(net.nodes.iter().all(|node| node.closes.is_empty()));
}

/// A worker had no room for a scan, so its end is never told.
#[test]
fn a_snapshot_that_stands_still_starts_over() {
    let mut net = Net::new(&[2, 1], 4, |_| ());
    net.set_views(&view(1, &[1, 1], &[], ALL_OF_0, &[&[1]]));
    for n in 0..20 {
        net.packet(0, key(n));
    }
    net.connect_all();
    let mut lost = 0;
    for _ in 0..2_000 {
        for worker in &mut net.nodes[0].workers[1..] {
            let before = worker.inbox.len();
            worker
                .inbox
                .retain(|it| !matches!(it, ToWorker::Job { .. }));
            lost += before - worker.inbox.len();
        }
        net.step();
    }
    assert_eq!(lost, 1, "no more is asked for");
    let counts = |net: &Net| {
        let counters = net.status(0).counters;
        (counters.snapshots_restarted, counters.snapshots_done)
    };
    net.now_us += 29_000_000;
    net.tick();
    net.settle();
    assert_eq!(counts(&net), (0, 0));
    net.now_us += 1_000_000;
    net.tick();
    net.settle();
    assert_eq!((counts(&net), net.flows(1)), ((1, 1), 20));
    net.assert_redundant(0);
    assert!(net.nodes.iter().all(|node| node.closes.is_empty()));
}

#[test]
fn a_slow_target_lags_and_a_snapshot_makes_it_whole() {
    let mut net = pair(&[2, 2], small);
    for n in 0..10 {
        net.packet(0, key(n));
    }
    net.settle();
    net.conns.get_mut(&(0, 1)).unwrap().stalled = true;
    for n in 10..300 {
        net.packet(0, key(n));
    }
    // These deletions are given up with the rest of the log; no scan would find them.
    for n in 0..5 {
        net.delete(0, key(n));
    }
    for n in 300..500 {
        net.packet(0, key(n));
    }
    net.settle();
    assert!(net.held(0) > 0);
    let status = net.status(0);
    assert!(!status.whole && status.targets[0].lagging);
    assert!(status.targets[0].lag_records <= 64, "the log is bounded");
    let lagged = |event: &&Event| matches!(event, Event::Lagging { .. });
    assert_eq!(
        net.nodes[0].events.iter().filter(lagged).count(),
        2,
        "once per worker"
    );

    net.conns.get_mut(&(0, 1)).unwrap().stalled = false;
    net.settle();
    let status = net.status(0);
    assert!(status.whole && !status.targets[0].lagging);
    assert_eq!(net.held(0), 0);
    net.assert_redundant(0);
    for n in 0..5 {
        let copy = net.worker(1, &key(n)).table[&key(n)];
        assert_eq!(copy.life, state::Life::Dead);
    }
    assert_eq!(status.counters.deletions_lost, 0);
    assert!(status.counters.records_given_up > 0);
}

#[test]
fn a_lagging_target_does_not_hold_up_the_other() {
    let mut net = Net::new(&[1, 1, 1], 5, |options| {
        small(options);
        options.hold_acks = HoldAcks::Count(1);
    });
    net.connect_all();
    net.set_views(&view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1, 2]]));
    net.settle();
    net.conns.get_mut(&(0, 2)).unwrap().stalled = true;
    for n in 0..500 {
        net.packet(0, key(n));
    }
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 500));
    net.conns.get_mut(&(0, 2)).unwrap().stalled = false;
    net.settle();
    assert_eq!(net.flows(2), 500);
    assert!(net.status(0).whole);
}

#[test]
fn a_joining_node_asks_and_gets_everything() {
    let mut net = Net::new(&[2, 1, 3], 11, small);
    net.conns.clear();
    net.connect(0, 1);
    net.connect(1, 0);
    let halves = |slot: usize| Some((slot % 2) as u8);
    net.set_views(&view(1, &[1, 1, 0], &[], halves, &[&[1], &[0]]));
    for n in 0..200 {
        let owner = (state::slot_of(&key(n)).index() % 2) as u8;
        net.packet(owner, key(n));
    }
    net.settle();
    // The request may come before the owners' views show who asks.
    let joined = view(2, &[1, 1, 1], &[2], halves, &[&[1, 2], &[0, 2]]);
    net.connect_all();
    net.set_view(2, &joined);
    net.settle();
    assert_eq!(net.nodes[2].synced, []);
    net.set_view(0, &joined);
    net.settle();
    assert_eq!(net.nodes[2].synced, [(node(0), 1)]);
    assert!(
        net.status(0).whole && net.status(1).whole,
        "node 1 knows nothing of node 2 yet"
    );
    net.set_view(1, &joined);
    net.settle();
    assert_eq!(net.nodes[2].synced, [(node(0), 1), (node(1), 1)]);
    assert_eq!(net.flows(2), 200);
    net.assert_redundant(0);
    net.assert_redundant(1);
    assert!(net.status(0).whole && net.status(1).whole);
}

#[test]
fn a_joining_node_is_not_served_before_it_asks() {
    let mut net = Net::new(&[1, 1], 2, |_| ());
    net.connect(0, 1);
    let joining = view(1, &[1, 1], &[1], ALL_OF_0, &[&[1]]);
    net.set_view(0, &joining);
    net.packet(0, key(1));
    net.settle();
    assert_eq!(net.held(0), 0, "its acknowledgements count at once");
    assert!(!net.status(0).whole);
    assert_eq!(net.status(0).counters.snapshots_started, 0);
    net.connect(1, 0);
    net.set_view(1, &joining);
    net.settle();
    assert!(net.status(0).whole);
}

#[test]
fn joining_survives_a_broken_connection_and_a_restart_of_the_other() {
    let mut net = Net::new(&[1, 1], 2, small);
    net.set_view(0, &view(1, &[1, 0], &[], ALL_OF_0, &[&[]]));
    for n in 0..100 {
        net.packet(0, key(n));
    }
    net.settle();
    let joining = view(2, &[1, 1], &[1], ALL_OF_0, &[&[1]]);
    net.connect_all();
    net.set_views(&joining);
    for _ in 0..150 {
        net.step();
    }
    assert!(
        (1..100).contains(&net.flows(1)),
        "in the middle of the snapshot"
    );
    net.disconnect(0, 1);
    net.disconnect(1, 0);
    net.connect_all();
    net.settle();
    assert_eq!(net.flows(1), 100);
    assert_eq!(net.nodes[1].synced, [(node(0), 1)]);

    // Again, and the one that is asked dies meanwhile.
    net.restart(1);
    net.connect_all();
    net.set_views(&view(3, &[1, 2], &[1], ALL_OF_0, &[&[1]]));
    for _ in 0..100 {
        net.step();
    }
    net.restart(0);
    net.connect_all();
    net.settle();
    assert_eq!(net.nodes[1].synced, []);
    net.set_views(&view(4, &[2, 2], &[1], ALL_OF_0, &[&[1]]));
    net.settle();
    assert_eq!(net.nodes[1].synced, [(node(0), 2)]);
}

#[test]
fn adopted_slots_are_replicated_again() {
    let mut net = Net::new(&[2, 2, 2], 13, small);
    net.connect_all();
    let thirds = |slot: usize| Some((slot % 3) as u8);
    net.set_views(&view(1, &[1, 1, 1], &[], thirds, &[&[1], &[2], &[0]]));
    net.settle();
    for n in 0..300 {
        let owner = (state::slot_of(&key(n)).index() % 3) as u8;
        net.packet(owner, key(n));
    }
    net.settle();
    // Node 0 dies; its backup, node 1, takes over what it had. Its own target stays.
    let after = view(
        2,
        &[1, 1, 1],
        &[],
        |slot| Some(if slot % 3 == 2 { 2 } else { 1 }),
        &[&[], &[2], &[1]],
    );
    net.disconnect(1, 0);
    net.disconnect(2, 0);
    net.set_view(1, &after);
    net.set_view(2, &after);
    assert!(!net.status(1).whole);
    assert_eq!(net.status(1).adopting_slots, 342);
    net.settle();
    assert!(net.status(1).whole);
    net.assert_redundant(1);
    assert_eq!(net.flows(2), 300);
    assert!(
        net.status(1).targets.iter().all(|target| !target.lagging),
        "adoption is paced"
    );
}

#[test]
fn a_full_table_at_the_target_is_reported() {
    let mut net = pair(&[1, 1], |_| ());
    net.nodes[1].workers[0].refuses = true;
    // Not held: the check of releases would find that the target lacks it.
    net.packet(0, key(1));
    net.nodes[0].workers[0].held.clear();
    net.settle();
    assert_eq!(net.status(1).counters.records_refused, 1);
    assert_eq!(net.status(0).targets[0].records_refused, 1);
}

#[test]
fn a_stalled_worker_bounds_what_is_sent_to_it() {
    let mut net = pair(&[1, 1], |options| {
        small(options);
        options.log_records_max = 1000;
    });
    net.nodes[1].workers[0].stopped = true;
    for n in 0..100 {
        net.packet(0, key(n));
    }
    net.settle();
    // The window, but for what does not fill the last batch that would fit.
    let received = net.status(1).counters.records_received;
    assert!((5..=8).contains(&received), "{received} records");
    net.nodes[1].workers[0].stopped = false;
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 100));
}

#[test]
fn batches_coalesce_under_load_and_not_when_idle() {
    let mut net = pair(&[1, 1], |options| options.eager_batches = 1);
    let before = net.status(0).counters.batches_sent;
    net.packet(0, key(0));
    net.settle();
    assert_eq!(net.status(0).counters.batches_sent - before, 1);
    // The acknowledgement is slow: what comes meanwhile waits and leaves as one.
    net.conns.get_mut(&(0, 1)).unwrap().stalled = true;
    for n in 1..200 {
        net.packet(0, key(n));
    }
    net.settle();
    let first = net.status(0).counters;
    assert_eq!(first.batches_sent - before, 2);
    net.conns.get_mut(&(0, 1)).unwrap().stalled = false;
    net.settle();
    assert_eq!(net.status(0).counters.batches_sent - before, 3);
    assert_eq!(net.flows(1), 200);
}

#[test]
fn a_worker_that_skips_numbers_costs_a_snapshot_and_no_state() {
    let mut net = pair(&[1, 1], small);
    for n in 0..50 {
        net.packet(0, key(n));
    }
    // Of these reports some are lost on the way.
    let reports = &mut net.nodes[0].workers[0].outbox;
    reports.drain(10..15);
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 50));
    assert_eq!(net.status(0).counters.worker_faults, 1);
    assert!(net.status(0).whole);
}

#[test]
fn another_clusters_node_is_refused() {
    let mut net = Net::new(&[1, 1], 2, |_| ());
    let mut options = Options::new(node(0), 1, net::CLUSTER + 1, 1);
    options.hold_acks = HoldAcks::All;
    net.nodes[0].replicator = Replicator::new(options).unwrap();
    net.connect(0, 1);
    net.settle();
    let (theirs, ours) = (net::CLUSTER + 1, net::CLUSTER);
    assert_eq!(
        net.nodes[1].closes,
        [(
            node(0),
            Connection::Incoming,
            Violation::Cluster { theirs, ours }
        )]
    );
    assert_eq!(net.status(1).counters.frames_invalid, 1);
}

#[test]
fn options_out_of_range_are_refused() {
    let check = |shape: fn(&mut Options)| {
        let mut options = Options::new(node(0), 1, 1, 1);
        shape(&mut options);
        Replicator::new(options).err()
    };
    assert_eq!(check(|_| ()), None);
    assert_eq!(check(|o| o.workers = 0), Some(OptionsError::Workers(0)));
    assert_eq!(
        check(|o| o.hold_acks = HoldAcks::Count(0)),
        Some(OptionsError::HoldAcks(0))
    );
    assert_eq!(
        check(|o| o.batch_bytes_max = 100),
        Some(OptionsError::BatchBytes(100))
    );
    assert_eq!(
        check(|o| o.chunk_records = 0),
        Some(OptionsError::Zero("chunk_records"))
    );
    let window = OptionsError::Window {
        window: 10,
        batch: 1024,
    };
    assert_eq!(check(|o| o.window_records = 10), Some(window));
}

/// A node that handles a flow besides its owner is told of what happens to it, and inherits nothing.
#[test]
fn who_only_handles_a_flow_is_none_of_the_acknowledgements_that_are_enough() {
    let mut net = Net::new(&[1, 1, 1], 7, |options| {
        options.hold_acks = HoldAcks::Count(1);
        options.distribution = membership::Distribution::Ecmp;
    });
    net.connect_all();
    net.set_views(&view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1]]));
    net.settle();
    net.packet(2, key(1));
    net.settle();
    assert_eq!((net.flows(0), net.flows(1)), (1, 1));
    net.conns.get_mut(&(0, 1)).unwrap().stalled = true;
    let change = net.packet(0, key(1));
    net.settle();
    let has = |net: &mut Net, id| net.worker(id, &key(1)).table[&key(1)].mark;
    assert_eq!(has(&mut net, 2), change.mark, "node 2 has it and says so");
    assert_eq!(net.held(0), 1);
    net.conns.get_mut(&(0, 1)).unwrap().stalled = false;
    net.settle();
    assert_eq!(net.held(0), 0);
}

/// What a peer says that it has counts only if it is of this start of its stream.
#[test]
fn positions_from_before_a_gap_are_not_resumed_from() {
    let mut net = Net::new(&[1, 1, 1], 9, |options| {
        small(options);
        options.log_records_max = 8;
        options.hold_acks = HoldAcks::Count(1);
    });
    let both = view(1, &[1, 1, 1], &[], ALL_OF_0, &[&[1, 2]]);
    net.connect_all();
    net.set_views(&both);
    net.settle();
    net.disconnect(0, 1);
    for n in 1..=8 {
        if n == 5 {
            net.settle();
            net.conns.get_mut(&(0, 2)).unwrap().stalled = true;
        }
        net.packet(0, key(n));
    }
    net.settle();
    // Node 2 has 1 to 4, node 1 nothing. The ninth overflows the log: node 1 goes on with it,
    // and the snapshot of what it missed does not come, because the worker does not scan.
    net.nodes[0].workers[0].stopped = true;
    net.packet(0, key(9));
    net.settle();
    assert!(net.status(0).targets[0].lagging);
    net.connect(0, 1);
    net.settle();
    assert_eq!((net.flows(1), net.flows(2)), (1, 4));
    // Node 1 is no target and is one again, over a new connection.
    net.set_views(&view(2, &[1, 1, 1], &[], ALL_OF_0, &[&[2]]));
    net.disconnect(0, 1);
    net.set_views(&view(3, &[1, 1, 1], &[], ALL_OF_0, &[&[1, 2]]));
    net.connect(0, 1);
    net.settle();
    assert_eq!(net.flows(1), 5, "it has 9, and 5 to 8 from the log");
    assert_eq!(net.held(0), 0);
}

/// The end of a snapshot that is under way does not cover what was given up after it.
#[test]
fn a_target_that_lags_while_its_snapshot_ends_needs_another() {
    let mut net = Net::new(&[1, 1], 9, small);
    net.connect_all();
    net.set_views(&view(1, &[1, 1], &[], ALL_OF_0, &[&[1]]));
    let ends = |net: &Net| {
        let streams = &net.conns[&(0, 1)].there;
        streams.get(&SNAPSHOTS).is_some_and(|frames| {
            // A frame's kind is the lower half of its first byte; 5 is the end of a snapshot.
            frames.iter().any(|frame| frame[0] & 0xf == 5)
        })
    };
    while !ends(&net) {
        assert!(net.step(), "the snapshot comes to its end");
    }
    net.conns.get_mut(&(0, 1)).unwrap().stalled = true;
    for n in 0..100 {
        net.packet(0, key(n));
    }
    net.settle();
    assert!(net.status(0).targets[0].lagging);
    net.conns.get_mut(&(0, 1)).unwrap().stalled = false;
    net.settle();
    assert_eq!((net.held(0), net.flows(1)), (0, 100));
    assert_eq!(net.status(0).counters.snapshots_started, 2);
}
