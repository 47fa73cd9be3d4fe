//! What a joining node was given, and what of it counts: joins are numbered, and the state of an
//! owner that is gone comes from its heirs once they have inherited.

#[allow(dead_code, reason = "each test binary uses its part")]
mod virtual_cluster;

use std::collections::BTreeMap;

use membership::{Health, Membership, Output, View};
use state::NodeSet;
use virtual_cluster::{Cluster, Network, TIMING, config, node};

use membership::MemberState::{Active, Dead, Draining, Joining};

fn views(it: &mut Membership) -> Vec<std::sync::Arc<View>> {
    let outputs = std::iter::from_fn(|| it.poll());
    outputs
        .filter_map(|output| match output {
            Output::View(view) => Some(view),
            _ => None,
        })
        .collect()
}

/// Node 1's word at this time of its clock.
fn word(peer: &mut Membership, now_ms: u64) -> Vec<u8> {
    peer.tick(now_ms);
    let outputs = std::iter::from_fn(|| peer.poll());
    let sent = outputs.filter_map(|output| match output {
        Output::Send { to, bytes } if to == node(0) => Some(bytes.to_vec()),
        _ => None,
    });
    sent.last().expect("a heartbeat was due")
}

/// A node that joins, and its only peer, which is active, hears it, and has run 70; and the
/// peer's clock.
fn joining_and_active() -> (Membership, Membership, u64) {
    let mut it = Membership::new(config(2, TIMING), node(0), 1, 0).unwrap();
    let mut peer = Membership::new(config(2, TIMING), node(1), 70, 0).unwrap();
    peer.tick(0);
    peer.tick(TIMING.join_wait_ms);
    assert_eq!(peer.state(), Active);
    it.tick(10);
    let outputs = std::iter::from_fn(|| it.poll());
    let hello = outputs
        .filter_map(|output| match output {
            Output::Send { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        })
        .last()
        .expect("a heartbeat was due");
    let peer_ms = TIMING.join_wait_ms + 10;
    peer.on_message(node(0), &hello, peer_ms);
    let heard = word(&mut peer, peer_ms + 10);
    it.on_message(node(1), &heard, 15);
    (it, peer, peer_ms + 10)
}

#[test]
fn what_was_asked_for_in_an_earlier_join_does_not_count() {
    let (mut it, ..) = joining_and_active();
    let first = it.view().join;
    it.on_synced(node(1), 70, first + 1);
    assert_eq!(it.state(), Joining, "that was not asked for yet");
    it.on_synced(node(1), 70, first);
    assert_eq!(it.state(), Active);
    views(&mut it);

    // A worker stands still and turns again: others have handled its flows.
    it.set_health(Health::WorkerStalled);
    assert_eq!(it.state(), Draining);
    it.set_health(Health::Ok);
    assert_eq!(it.state(), Joining);
    let second = it.view().join;
    assert!(second > first);
    // What the sync core had on its way comes now.
    it.on_synced(node(1), 70, first);
    assert_eq!((it.state(), it.status().waits_for.len()), (Joining, 1));
    it.on_synced(node(1), 70, second);
    assert_eq!(it.state(), Active);
}

/// The members are the same in both views; who looks at every other view only must still notice.
#[test]
fn a_joining_node_that_was_taken_for_dead_says_that_it_asks_anew() {
    let (mut it, mut peer, peer_ms) = joining_and_active();
    let before = views(&mut it).pop().unwrap_or_else(|| it.view().clone());
    peer.tick(peer_ms + TIMING.dead_after_ms - 10);
    let deaf = word(&mut peer, peer_ms + TIMING.dead_after_ms + 10);
    it.on_message(node(1), &deaf, 25);
    let after = views(&mut it).pop().expect("another view");
    assert_eq!(
        (&after.members, after.digest),
        (&before.members, before.digest)
    );
    assert!(after.join > before.join && after.epoch > before.epoch);
    // The snapshot that was on its way when the peer took this node for dead is of no use.
    it.tick(30);
    let outputs = std::iter::from_fn(|| it.poll());
    let hello = outputs.filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes.to_vec()),
        _ => None,
    });
    let hello = hello.last().expect("a heartbeat was due");
    let peer_ms = peer_ms + TIMING.dead_after_ms + 20;
    peer.on_message(node(0), &hello, peer_ms);
    let hears = word(&mut peer, peer_ms + 10);
    it.on_message(node(1), &hears, 35);
    it.on_synced(node(1), 70, before.join);
    assert_eq!(it.state(), Joining);
    it.on_synced(node(1), 70, after.join);
    assert_eq!(it.state(), Active);
}

/// Node 0 joins; of the owners 1 and 2 it has got what `given` says.
fn joining(seed: u64, network: Network, given: &[usize]) -> Cluster {
    let mut cluster = Cluster::started(3, TIMING, network, seed);
    cluster.kill(0);
    cluster.run(200);
    cluster.start(0);
    cluster.nodes[0].starved = true;
    cluster.run_until(200, |c| {
        let heard = |id: usize| {
            let seen = c.it(0).view().member(node(id)).expect("a member").state;
            let sees = c.nodes[id].applied.as_ref().expect("a view");
            let sees = sees.member(node(0)).expect("a member").state;
            (seen, sees) == (Active, Joining)
        };
        heard(1) && heard(2)
    });
    for &peer in given {
        give(&mut cluster, peer);
    }
    cluster
}

fn give(cluster: &mut Cluster, peer: usize) {
    cluster.with(0, |it| {
        let run = it.view().member(node(peer)).expect("a member").incarnation;
        let join = it.view().join;
        it.on_synced(node(peer), run, join);
    });
}

/// The heir gives its snapshot before it has noticed the death, and so without what it inherits.
#[test]
fn a_node_that_joins_while_an_owner_dies_gets_what_the_heirs_inherited() {
    let mut early = 0;
    for seed in 0..60 {
        let network = Network {
            delay_ms_max: 12,
            apply_ms_max: 25,
            ..Network::default()
        };
        let mut cluster = joining(seed, network, &[2]);
        let some = cluster.random(10);
        cluster.run(some);
        cluster.kill(1);
        // By join: whether node 2 had inherited when it was asked.
        let mut asked = BTreeMap::new();
        let mut dead_ms = None;
        let mut active_ms = None;
        for now_ms in 0..300 {
            cluster.run(1);
            if cluster
                .it(0)
                .view()
                .member(node(1))
                .expect("a member")
                .state
                == Dead
            {
                dead_ms.get_or_insert(now_ms);
            }
            if cluster.it(0).state() == Active {
                active_ms.get_or_insert(now_ms);
                break;
            }
            let theirs = cluster.nodes[2].applied.as_ref().expect("a view");
            let inherited = theirs.owned(node(1)) == 0;
            let join = cluster.it(0).view().join;
            let (_, since) = *asked.entry(join).or_insert((inherited, now_ms));
            // Of the first join it has everything that it waits for already.
            if asked.len() > 1 && now_ms == since + 5 {
                give(&mut cluster, 2);
            }
        }
        assert!(active_ms.is_some(), "seed {seed}: {:?}", cluster.states());
        let last = asked.last_key_value().map(|(_, (inherited, _))| *inherited);
        assert_eq!(last, Some(true), "seed {seed}: active at {active_ms:?}");
        assert_eq!(asked.len(), 2, "seed {seed}: it asked anew once");
        let heir_knew_first = asked.values().all(|(inherited, _)| *inherited);
        early += u32::from(!heir_knew_first && dead_ms < active_ms);
    }
    assert!(
        early > 20,
        "{early}: the heir was asked before it had inherited"
    );
}

#[test]
fn an_owner_that_dies_after_its_snapshot_came_costs_no_other() {
    let mut cluster = joining(3, Network::default(), &[1]);
    let join = cluster.it(0).view().join;
    cluster.kill(1);
    cluster.run(4 * TIMING.dead_after_ms);
    let missing = NodeSet::from_iter([node(2)]);
    assert_eq!(cluster.it(0).view().join, join);
    assert_eq!(cluster.it(0).status().waits_for, missing);
    give(&mut cluster, 2);
    assert_eq!(cluster.states()[0], Active);
}

/// Others hear an owner that this node does not: it may never be able to ask it.
#[test]
fn an_owner_that_only_others_hear_is_waited_for_no_longer_than_join_wait() {
    let mut cluster = joining(4, Network::default(), &[2]);
    cluster.partition(&[0], &[1]);
    cluster.run(TIMING.dead_after_ms + TIMING.heartbeat_ms);
    let missing = NodeSet::from_iter([node(1)]);
    assert_eq!(
        cluster
            .it(0)
            .view()
            .member(node(1))
            .expect("a member")
            .state,
        Dead
    );
    assert_eq!(cluster.it(0).status().waits_for, missing);
    cluster.run(TIMING.join_wait_ms - 3 * TIMING.heartbeat_ms);
    assert_eq!(cluster.states()[0], Joining);
    cluster.run_until(4 * TIMING.heartbeat_ms, |c| c.states()[0] == Active);
}
