//! Joins: what counts as all that a member owns, while owners and joins change.

mod net;

use std::sync::Arc;

use membership::View;
use net::{Net, key, node, view};
use replication::{Event, Options};
use state::slot_of;

const FLOWS: u32 = 200;

fn small(options: &mut Options) {
    options.log_records_max = 32;
    options.batch_records_max = 4;
    options.window_records = 8;
    options.chunk_records = 8;
}

/// The same view, of the node's join of this number.
fn of_join(view: &Arc<View>, join: u64) -> Arc<View> {
    let mut view = View::clone(view);
    view.join = join;
    view.epoch += join;
    Arc::new(view)
}

/// Nodes 0 and 1 own half of the slots each, back up one another, and have flows; node 2 is not
/// there yet.
fn halves(seed: u64) -> Net {
    let mut net = Net::new(&[2, 1, 2], seed, small);
    let owner = |slot: usize| Some((slot % 2) as u8);
    net.connect(0, 1);
    net.connect(1, 0);
    net.set_views(&view(1, &[1, 1, 0], &[], owner, &[&[1], &[0]]));
    for n in 0..FLOWS {
        let owner = (slot_of(&key(n)).index() % 2) as u8;
        net.packet(owner, key(n));
    }
    net.settle();
    net
}

#[test]
fn in_a_new_join_everybody_is_asked_anew_without_another_view_in_between() {
    let mut net = halves(3);
    let owner = |slot: usize| Some((slot % 2) as u8);
    let joining = view(2, &[1, 1, 1], &[2], owner, &[&[1, 2], &[0, 2]]);
    net.connect_all();
    net.set_views(&of_join(&joining, 1));
    net.settle();
    let mut got = net.nodes[2].synced.clone();
    got.sort_unstable();
    assert_eq!(got, [(node(0), 1), (node(1), 1)]);
    // The same members: of what was in between the sync core has seen nothing.
    net.set_view(2, &of_join(&joining, 2));
    net.settle();
    let mut got = net.nodes[2].synced.split_off(2);
    got.sort_unstable();
    assert_eq!(got, [(node(0), 1), (node(1), 1)]);
    assert_eq!(net.nodes[2].synced_joins, [(1, 1), (1, 1), (2, 2), (2, 2)]);
    // And one that comes while an answer is on its way: that one does not count for it.
    net.set_view(2, &of_join(&joining, 3));
    for _ in 0..40 {
        net.step();
    }
    assert_eq!(net.nodes[2].synced_joins.len(), 4, "under way");
    net.set_view(2, &of_join(&joining, 4));
    net.settle();
    assert_eq!(net.nodes[2].synced_joins[4..], [(4, 4), (4, 4)]);
}

/// Node 1 dies before it has given anything to node 2, which joins; node 0, which serves node 2,
/// inherits. Once node 2 takes itself for complete it must have what was node 1's.
#[test]
fn what_is_adopted_while_a_joining_node_is_served_is_in_its_snapshot() {
    let mut in_the_middle = 0;
    for seed in 0..60 {
        let mut net = halves(seed);
        let owner = |slot: usize| Some((slot % 2) as u8);
        let joining = view(2, &[1, 1, 1], &[2], owner, &[&[1, 2], &[0, 2]]);
        net.connect_all();
        for peers in [(1, 2), (2, 1)] {
            net.disconnect(peers.0, peers.1);
        }
        net.set_view(0, &joining);
        // Some have not asked yet when the owner dies.
        if seed % 3 > 0 {
            net.set_view(2, &joining);
        }
        for _ in 0..seed * 4 {
            net.step();
        }
        if net.status(0).targets[1].snapshot_slots == Some(0) {
            continue;
        }
        let started = |event: &Event| matches!(event, Event::SnapshotStarted { .. });
        let begun = net.nodes[0].events.iter().filter(|it| started(it)).count();
        in_the_middle += u32::from(begun > 1);
        net.disconnect(0, 1);
        net.disconnect(1, 0);
        let alone = view(3, &[1, 0, 1], &[2], |_| Some(0), &[&[2]]);
        net.set_view(0, &alone);
        net.set_view(2, &of_join(&alone, 2));
        while !net.nodes[2].synced_joins.contains(&(2, 2)) {
            if !net.step() {
                net.tick();
            }
        }
        assert_eq!(net.flows(2), FLOWS as usize, "seed {seed}");
        net.settle();
        net.assert_redundant(0);
    }
    assert!(
        in_the_middle > 10,
        "{in_the_middle}: snapshots were under way"
    );
}

/// Node 0 inherits, and gives away what it inherited before it has told its target of all of it.
#[test]
fn what_was_adopted_and_not_told_yet_is_handed_over() {
    let mut net = halves(5);
    let owner = |slot: usize| Some((slot % 2) as u8);
    net.connect_all();
    // Node 2 becomes active, and is the target of node 0 but not of node 1.
    net.set_views(&view(2, &[1, 1, 1], &[], owner, &[&[1, 2], &[0]]));
    net.settle();
    let its: Vec<u32> = (0..FLOWS)
        .filter(|n| slot_of(&key(*n)).index() % 2 == 1)
        .collect();
    assert!(its.iter().all(|n| !has(&net, 2, *n)));
    net.disconnect(0, 1);
    net.disconnect(2, 1);
    net.set_view(0, &view(3, &[1, 0, 1], &[], |_| Some(0), &[&[2]]));
    assert!(net.status(0).adopting_slots > 0);
    // Its workers have not looked yet. Node 2 owns from here on.
    let moved = view(
        4,
        &[1, 0, 1],
        &[],
        |slot| Some(2 * (slot % 2) as u8),
        &[&[]],
    );
    net.set_view(0, &moved);
    net.set_view(2, &moved);
    net.settle();
    assert!(its.iter().all(|n| has(&net, 2, *n)));
    let done = |event: &&Event| matches!(event, Event::HandOverDone { .. });
    assert_eq!(net.nodes[0].events.iter().filter(done).count(), 1);
}

fn has(net: &Net, id: u8, n: u32) -> bool {
    let workers = &net.nodes[usize::from(id)].workers;
    workers
        .iter()
        .any(|worker| worker.table.contains_key(&key(n)))
}
