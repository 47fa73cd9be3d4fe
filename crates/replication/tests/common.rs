//! Common state on every node, over the virtual network: whoever writes what, wherever, while
//! connections come and go and nodes restart, all have the same in the end.

mod net;

use std::sync::Arc;

use membership::{MemberState, View};
use net::{Net, node, view};
use proptest::prelude::*;
use replication::{COMMON, Connection, Options, ToSync, Violation};
use state::{
    Block, BlockReason, COMMON_MAX, CommonKey, CommonKind, CommonValue, Expectation,
    ExpectationKey, Lease, Net as Network, PolicyText, Stamp, SyncMode, User, v4_mapped,
};

const SECOND_US: u64 = 1_000_000;

fn host(number: u32) -> CommonKey {
    let [_, b, c, d] = number.to_be_bytes();
    CommonKey::Block(Network::host(v4_mapped([10, b, c, d])))
}

fn block(note: &str) -> CommonValue {
    CommonValue::Block(Block {
        reason: BlockReason::Operator,
        note: note.to_owned(),
    })
}

fn user(name: &str) -> CommonValue {
    CommonValue::User(User {
        name: name.to_owned(),
        groups: vec!["staff".to_owned()],
    })
}

/// All nodes alive, no slots and no targets: common state needs none.
fn all_alive(net: &Net, epoch: u64) -> Arc<View> {
    let incarnations: Vec<u64> = net.nodes.iter().map(|node| node.incarnation).collect();
    view(epoch, &incarnations, &[], |_| None, &[])
}

fn without(view: &View, dead: u8) -> Arc<View> {
    let mut view = view.clone();
    view.epoch += 1;
    view.members[usize::from(dead)].state = MemberState::Dead;
    Arc::new(view)
}

fn cluster(nodes: usize, seed: u64) -> Net {
    let mut net = Net::new(&vec![1; nodes], seed, |_| ());
    net.connect_all();
    let view = all_alive(&net, 1);
    net.set_views(&view);
    net.settle();
    net
}

/// Lets time pass with all its messages.
fn pass(net: &mut Net, seconds: u64) {
    for _ in 0..seconds {
        net.settle();
        net.now_us += SECOND_US;
        net.tick();
    }
    net.settle();
}

fn assert_agree(net: &Net) {
    let first = net.common(0);
    for id in 0..net.nodes.len() as u8 {
        assert_eq!(net.common(id), first, "node {id} and node 0");
        assert_eq!(net.nodes[usize::from(id)].closes, [], "node {id}");
    }
}

fn tombstones(net: &Net, id: u8) -> usize {
    net.nodes[usize::from(id)].replicator.common().tombstones()
}

#[test]
fn what_is_written_on_one_node_reaches_all_and_the_writer_hears_so() {
    let mut net = cluster(4, 1);
    let login = CommonKey::User(v4_mapped([192, 0, 2, 7]));
    let stamp = net.put_common(2, login, user("ada"), Some(60_000));
    assert_eq!(net.nodes[2].common_synced, Stamp::NEVER);
    let lacking = net.nodes[2].replicator.common_lacking(stamp);
    assert_eq!(lacking, [node(0), node(1), node(3)]);
    net.settle();
    assert_eq!(net.nodes[2].common_synced, stamp);
    assert_eq!(net.nodes[2].replicator.common_lacking(stamp), []);
    for id in 0..4 {
        let node = &net.nodes[id];
        assert_eq!(node.replicator.common().get(&login), Some(&user("ada")));
        assert!(node.common_changed.contains(CommonKind::User));
        assert!(!node.common_changed.contains(CommonKind::Block));
        assert_eq!(
            net.status(id as u8).common.entries[CommonKind::User as usize],
            1
        );
    }
    let sent: u64 = (0..4).map(|id| net.status(id).counters.common_sent).sum();
    assert_eq!(
        sent, 3,
        "once to each other node, before anybody passes it on"
    );

    // It ends everywhere by its age, at which nobody has to be told.
    net.now_us += 61 * SECOND_US;
    net.tick();
    for id in 0..4 {
        assert_eq!(net.common(id), [], "node {id}");
        assert_eq!(net.status(id).counters.common_expired, 1);
    }
}

#[test]
fn a_node_alone_hears_at_once() {
    let mut net = Net::new(&[1, 1], 1, |_| ());
    let both = all_alive(&net, 1);
    net.set_views(&without(&both, 1));
    let stamp = net.put_common(0, host(1), block(""), None);
    assert_eq!(net.nodes[0].common_synced, stamp);
}

#[test]
fn a_living_node_that_is_not_connected_is_waited_for_until_it_is_dead() {
    let mut net = cluster(3, 5);
    net.disconnect(0, 2);
    let stamp = net.put_common(0, host(1), block(""), None);
    pass(&mut net, 1);
    assert_eq!(net.nodes[0].common_synced, Stamp::NEVER);
    assert_eq!(net.nodes[0].replicator.common_lacking(stamp), [node(2)]);
    assert_eq!(net.status(0).common.behind, [node(2)]);
    let now = net.nodes[0].view.clone().unwrap();
    net.set_view(0, &without(&now, 2));
    assert_eq!(net.nodes[0].common_synced, stamp);
}

#[test]
fn what_one_connection_lacks_comes_over_another_node() {
    let mut net = cluster(3, 6);
    net.disconnect(0, 2);
    net.disconnect(2, 0);
    net.put_common(0, host(1), block("by way of node 1"), None);
    net.settle();
    assert_eq!(net.common(1).len(), 1);
    pass(&mut net, 2);
    assert_eq!(net.common(2), net.common(0));
}

#[test]
fn a_partition_heals_and_the_later_write_stands() {
    let mut net = cluster(4, 9);
    net.put_common(0, host(1), block("first"), None);
    net.put_common(0, host(2), block("stays"), None);
    net.settle();
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        net.disconnect(a, b);
        net.disconnect(b, a);
    }
    // Both sides write the same keys; clocks of nodes differ by seconds.
    net.put_common(3, host(1), block("there"), None);
    pass(&mut net, 2);
    net.now_us += 60 * SECOND_US;
    net.put_common(1, host(1), block("here, later"), None);
    net.delete_common(2, &host(2)).unwrap();
    net.put_common(0, host(3), block(""), None);
    pass(&mut net, 2);
    assert_ne!(net.common(0), net.common(2));
    net.connect_all();
    pass(&mut net, 2);
    assert_agree(&net);
    let map = net.nodes[3].replicator.common();
    assert_eq!(map.get(&host(1)), Some(&block("here, later")));
    assert_eq!(
        map.get(&host(2)),
        None,
        "the deletion is later than the put"
    );
    assert_eq!(map.get(&host(3)), Some(&block("")));
    let repairs: u64 = (0..4)
        .map(|id| net.status(id).counters.common_repairs)
        .sum();
    assert_eq!(repairs, 0, "connections resume where they were");
}

#[test]
fn a_node_that_was_away_does_not_bring_back_what_was_deleted() {
    let mut net = cluster(3, 11);
    net.put_common(0, host(1), block(""), None);
    net.settle();
    for other in [0, 1] {
        net.disconnect(other, 2);
        net.disconnect(2, other);
    }
    let now = net.nodes[0].view.clone().unwrap();
    let apart = without(&now, 2);
    net.set_view(0, &apart);
    net.set_view(1, &apart);
    net.delete_common(1, &host(1)).unwrap();
    pass(&mut net, 600);
    assert_eq!(net.common(2).len(), 1);
    assert_eq!(
        (tombstones(&net, 0), tombstones(&net, 1)),
        (1, 1),
        "it may come back"
    );
    net.connect_all();
    net.set_views(&all_alive(&net, 3));
    pass(&mut net, 3);
    for id in 0..3 {
        assert_eq!(net.common(id), [], "node {id}");
        assert_eq!(
            tombstones(&net, id),
            0,
            "all have it, so nobody needs it: node {id}"
        );
    }
}

#[test]
fn a_node_that_restarted_gets_all_and_needs_no_tombstones() {
    let mut net = cluster(3, 13);
    for number in 0..2_000 {
        net.put_common(1, host(number), block("some note"), Some(3_600_000));
    }
    net.settle();
    net.restart(2);
    let now = net.nodes[0].view.clone().unwrap();
    net.set_views(&without(&now, 2));
    net.delete_common(0, &host(3)).unwrap();
    pass(&mut net, 2);
    assert_eq!(tombstones(&net, 0), 1);
    net.connect_all();
    net.set_views(&all_alive(&net, 3));
    pass(&mut net, 3);
    assert_agree(&net);
    assert_eq!(net.common(2).len(), 1_999);
    for id in 0..3 {
        assert_eq!(tombstones(&net, id), 0, "node {id}");
    }
}

#[test]
fn a_joining_node_is_synced_only_with_the_common_state() {
    let mut net = cluster(2, 15);
    for number in 0..5_000 {
        net.put_common(0, host(number), block(""), None);
    }
    net.settle();
    net.restart(1);
    // Node 1 joins; the stream of common state to it stands still.
    let joining = view(2, &[1, 2], &[1], |_| Some(0), &[&[1]]);
    net.set_views(&joining);
    net.connect_all();
    let mut kept = Vec::new();
    for _ in 0..100_000 {
        if !net.step() {
            break;
        }
        if let Some(frames) = net.conns.get_mut(&(0, 1)).unwrap().there.get_mut(&COMMON) {
            kept.extend(frames.drain(..));
        }
    }
    assert!(!kept.is_empty());
    assert_eq!(net.status(1).counters.snapshots_received, 1);
    assert_eq!(
        net.nodes[1].synced,
        [],
        "without the common state it must not become active"
    );
    let frames = &mut net.conns.get_mut(&(0, 1)).unwrap().there;
    frames.get_mut(&COMMON).unwrap().extend(kept);
    net.settle();
    assert_eq!(net.nodes[1].synced, [(node(0), 1)]);
    assert_eq!(net.common(1).len(), 5_000);
}

#[test]
fn summaries_find_and_repair_what_deltas_did_not_bring() {
    let mut net = cluster(2, 17);
    for number in 0..3 {
        net.put_common(0, host(number), block(""), None);
    }
    net.settle();
    // Node 1 forgets all without anybody knowing: a fresh run under the old run's number.
    let mut lost = net::forgetful(1, 1);
    // Its second session, as the first was the old one's.
    lost.on_connected(node(0), net.now_us);
    lost.on_disconnected(node(0), net.now_us);
    net.nodes[1].replicator = lost;
    net.disconnect(1, 0);
    net.disconnect(0, 1);
    net.set_views(&all_alive(&net, 2));
    net.connect_all();
    net.settle();
    assert_eq!(
        net.common(1).len(),
        0,
        "node 0 believes that node 1 has them"
    );
    pass(&mut net, 5);
    assert_agree(&net);
    assert_eq!(net.common(1).len(), 3);
    assert_eq!(net.status(0).counters.common_repairs, 1);
    assert_eq!(net.status(0).common.differ, []);
}

#[test]
fn a_full_map_travels_whole() {
    let mut net = Net::new(&[1, 1], 19, |_| ());
    for number in 0..COMMON_MAX as u32 - 1 {
        net.put_common(
            0,
            host(number),
            block("a note of some length, as operators write"),
            None,
        );
    }
    let text = "[[rule]]\n".repeat(50_000);
    let policy = PolicyText {
        generation: 3,
        text,
        note: String::new(),
    };
    net.put_common(0, CommonKey::Policy, CommonValue::Policy(policy), None);
    let times = net.times(0);
    let full = net.nodes[0]
        .replicator
        .put_common(host(0xff_ffff), block(""), None, times);
    assert!(full.is_err());
    let view = all_alive(&net, 1);
    net.set_views(&view);
    net.connect_all();
    // No more than a few messages wait for a slow peer.
    let waiting = |net: &Net| net.conns[&(0, 1)].there.get(&COMMON).map_or(0, |q| q.len());
    let mut most = 0;
    while net.step() {
        most = most.max(waiting(&net));
    }
    assert!((1..=8).contains(&most), "{most} messages");
    net.settle();
    assert_agree(&net);
    assert_eq!(net.common(1).len(), COMMON_MAX);
    let again = net.status(0).counters.common_sent;
    assert_eq!(again, COMMON_MAX as u64, "each entry once");
}

#[test]
fn malformed_frames_are_refused_and_change_nothing() {
    let mut net = cluster(2, 21);
    net.put_common(0, host(1), block("kept"), None);
    net.settle();
    net.put_common(0, host(2), block("damaged"), None);
    let frames = &mut net.conns.get_mut(&(0, 1)).unwrap().there;
    let good = frames.get_mut(&COMMON).unwrap().pop_front().unwrap();
    for cut in 0..good.len() {
        net.nodes[1]
            .replicator
            .on_frame(node(0), COMMON, &good[..cut], net.now_us);
        net.drain(1);
        assert_eq!(net.nodes[1].closes.len(), 1, "cut at {cut}");
        let (peer, connection, _) = net.nodes[1].closes.pop().unwrap();
        assert_eq!((peer, connection), (node(0), Connection::Incoming));
        assert_eq!(net.common(1).len(), 1);
        net.connect(0, 1);
        net.settle_but(COMMON);
    }
    // A whole one of another number, as if one before it were missing.
    let frames = &mut net.conns.get_mut(&(0, 1)).unwrap().there;
    let whole = frames.get_mut(&COMMON).unwrap().pop_front().unwrap();
    net.nodes[1]
        .replicator
        .on_frame(node(0), COMMON, &whole, net.now_us);
    net.drain(1);
    assert_eq!(net.common(1).len(), 2, "the undamaged one is taken");
    net.nodes[1]
        .replicator
        .on_frame(node(0), COMMON, &whole, net.now_us);
    net.drain(1);
    let (_, _, violation) = net.nodes[1].closes.pop().unwrap();
    assert!(matches!(violation, Violation::Gap { .. }), "{violation}");
    net.connect(0, 1);
    net.settle();
    assert_agree(&net);
}

#[test]
fn leases_of_one_tunnel_never_meet() {
    let mut net = cluster(3, 23);
    let mut leased: Vec<Lease> = Vec::new();
    for turn in 0..12 {
        let id = turn % 3;
        if turn == 5 {
            net.disconnect(0, 1);
            net.disconnect(1, 0);
        }
        let lease = net.nodes[usize::from(id)]
            .replicator
            .common()
            .next_lease(9, node(id));
        let lease = lease.unwrap();
        assert!(
            !leased
                .iter()
                .any(|old| old.from < lease.to && lease.from < old.to)
        );
        leased.push(lease);
        let key = CommonKey::Lease {
            tunnel: 9,
            node: node(id),
        };
        net.put_common(id, key, CommonValue::Lease(lease), None);
        if turn % 2 == 0 {
            net.settle();
        }
    }
    assert!(leased.len() == 12);
}

#[derive(Clone, Debug)]
enum Event {
    Put(u8, u32, u8, Option<u64>),
    Delete(u8, u32),
    Steps(u16),
    Pass(u64),
    Disconnect(u8, u8),
    Connect(u8, u8),
    Restart(u8),
    See(u8, u8),
}

const NODES: u8 = 4;

fn event() -> impl Strategy<Value = Event> {
    let id = || 0..NODES;
    let life = prop::option::weighted(0.3, 1..5_000u64);
    prop_oneof![
        8 => (id(), 0..6u32, 0..9u8, life).prop_map(|(n, k, v, l)| Event::Put(n, k, v, l)),
        4 => (id(), 0..6u32).prop_map(|(n, k)| Event::Delete(n, k)),
        8 => (1..60u16).prop_map(Event::Steps),
        3 => (0..3_000_000u64).prop_map(Event::Pass),
        3 => (id(), id()).prop_map(|(a, b)| Event::Disconnect(a, b)),
        4 => (id(), id()).prop_map(|(a, b)| Event::Connect(a, b)),
        1 => id().prop_map(Event::Restart),
        2 => (id(), 0..16u8).prop_map(|(n, dead)| Event::See(n, dead)),
    ]
}

fn tight(options: &mut Options) {
    options.log_records_max = 12;
}

/// What a node is said to have been told everywhere is checked by the network at each
/// [`CommonSynced`](replication::Output::CommonSynced).
fn run(seed: u64, refuse_one_in: u64, events: Vec<Event>) {
    let mut net = Net::new(&[1; NODES as usize], seed, tight);
    net.refuse_one_in = refuse_one_in;
    net.connect_all();
    let first = all_alive(&net, 1);
    net.set_views(&first);
    let mut epoch = 1;
    for event in events {
        match event {
            Event::Put(id, number, note, life_ms) => {
                net.put_common(id, host(number), block(&note.to_string()), life_ms);
            }
            Event::Delete(id, number) => {
                net.delete_common(id, &host(number));
            }
            Event::Steps(count) => {
                for _ in 0..count {
                    net.step();
                }
            }
            Event::Pass(us) => {
                net.now_us += us;
                net.tick();
            }
            Event::Disconnect(a, b) if a != b => net.disconnect(a, b),
            Event::Connect(a, b) if a != b && !net.conns.get(&(a, b)).is_some_and(|c| c.up) => {
                net.connect(a, b);
            }
            Event::Restart(id) => net.restart(id),
            Event::See(id, dead) => {
                epoch += 1;
                let mut seen = View::clone(&all_alive(&net, epoch));
                for member in &mut seen.members {
                    if dead & 1 << member.id.raw() != 0 && member.id.raw() != id {
                        member.state = MemberState::Dead;
                    }
                }
                net.set_view(id, &Arc::new(seen));
            }
            Event::Disconnect(..) | Event::Connect(..) => (),
        }
    }
    net.connect_all();
    let last = all_alive(&net, epoch + 1);
    net.set_views(&last);
    // Enough for entries to end, for summaries to differ twice, and for tombstones to go.
    pass(&mut net, 12);
    assert_agree(&net);
    for id in 0..NODES {
        let status = net.status(id).common;
        assert_eq!(
            (status.behind, status.differ),
            (vec![], vec![]),
            "node {id}"
        );
        assert_eq!(tombstones(&net, id), 0, "node {id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_nodes_agree_once_faults_stop(
        seed: u64,
        refuse in prop_oneof![Just(0u64), 2..8u64],
        events in prop::collection::vec(event(), 0..60),
    ) {
        run(seed, refuse, events);
    }
}

/// Found by the property above: a node that no view has told of others still must not forget.
#[test]
fn a_node_without_a_view_keeps_tombstones_of_those_that_connected() {
    let events = vec![
        Event::Put(2, 4, 0, None),
        Event::Restart(0),
        Event::Connect(2, 0),
        Event::Steps(14),
        Event::Delete(0, 4),
        Event::Steps(8),
        Event::Pass(998_980),
    ];
    run(0, 0, events);
}

#[test]
fn an_expectation_that_was_used_goes_everywhere_unless_it_was_written_anew() {
    let mut net = cluster(3, 25);
    let expected = ExpectationKey {
        proto: 6,
        src: None,
        dst: v4_mapped([192, 0, 2, 9]),
        dport: 50_000,
    };
    let key = CommonKey::Expectation(expected);
    let value = CommonValue::Expectation(Expectation {
        parent: net::key(1),
        zone_from: 0,
        zone_to: 1,
        rule: 7,
        sync: SyncMode::Ack,
        mark: 0,
        once: true,
    });
    let used = |net: &mut Net, id: u8, stamp| {
        let message = ToSync::UsedUp { key, stamp };
        let now_us = net.now_us;
        net.nodes[usize::from(id)]
            .replicator
            .on_worker(0, message, now_us);
        net.drain(id);
        net.settle();
    };
    let first = net.put_common(0, key, value.clone(), Some(60_000));
    net.settle();
    used(&mut net, 1, first);
    assert_agree(&net);
    assert!(net.nodes[2].replicator.common().get(&key).is_none());
    let second = net.put_common(0, key, value.clone(), Some(60_000));
    net.settle();
    used(&mut net, 2, first);
    assert_agree(&net);
    assert_eq!(net.nodes[1].replicator.common().get(&key), Some(&value));
    used(&mut net, 2, second);
    assert_eq!(net.common(0), []);
    assert_agree(&net);
}
