//! Views number the times that a node is back which may have served this node's slots beside it.

#[allow(dead_code, reason = "each test binary uses its part")]
mod virtual_cluster;

use membership::{Drain, Event, MemberState, View};
use virtual_cluster::{Cluster, Network, TIMING, node};

fn reunions(cluster: &Cluster, id: usize) -> u64 {
    cluster.it(id).view().reunions
}

/// Nodes whose views have another number than in `before`.
fn raised(cluster: &Cluster, before: &[u64]) -> Vec<usize> {
    let ids = 0..before.len();
    ids.filter(|id| reunions(cluster, *id) != before[*id])
        .collect()
}

fn all(cluster: &Cluster) -> Vec<u64> {
    (0..cluster.nodes.len())
        .map(|id| reunions(cluster, id))
        .collect()
}

/// The two links of a pair are mended in either order and some time apart. Each node's last number
/// must not be older than the other's last word of not hearing it: until then that one served its slots.
#[test]
fn whoever_was_apart_is_numbered_once_it_serves_no_more() {
    for (first, second) in [((0, 1), (1, 0)), ((1, 0), (0, 1))] {
        let mut cluster = Cluster::started(3, TIMING, Network::default(), 5);
        let before = all(&cluster);
        cluster.partition(&[0], &[1]);
        cluster.run(200);
        assert_eq!(raised(&cluster, &before), [0; 0], "nobody is back yet");
        cluster.cut.remove(&first);
        cluster.run(150);
        cluster.cut.remove(&second);
        cluster.run_until(50, Cluster::settled);
        cluster.run(50);
        assert_eq!(raised(&cluster, &before), [0, 1]);
        for (of, other) in [(0, 1), (1, 0)] {
            let hears = |view: &View| {
                let of = view.member(node(of)).unwrap();
                of.state != MemberState::Dead
            };
            let views = &cluster.nodes[other].views;
            let deaf = views.iter().rposition(|(_, view)| !hears(view)).unwrap();
            let (heard_ms, _) = views[deaf + 1];
            let views = &cluster.nodes[of].views;
            let last = views.windows(2).rfind(|pair| {
                let [(_, before), (_, after)] = pair else {
                    unreachable!("windows of two")
                };
                before.reunions != after.reunions
            });
            let (numbered_ms, _) = last.unwrap()[1];
            assert!(
                numbered_ms >= heard_ms,
                "node {of} is numbered at {numbered_ms} ms, served by node {other} until {heard_ms} ms"
            );
        }
    }
}

/// Its own view never said that anything was wrong.
#[test]
fn a_node_that_one_other_did_not_hear_has_a_number_for_it() {
    for dies in [false, true] {
        let mut cluster = Cluster::started(3, TIMING, Network::default(), 6);
        let before = all(&cluster);
        cluster.cut.insert((0, 1));
        cluster.run(200);
        assert_eq!(raised(&cluster, &before), [0; 0]);
        match dies {
            true => cluster.kill(1),
            false => cluster.cut.clear(),
        }
        cluster.run(100);
        let down = |e: &Event| matches!(e, Event::PeerDown { .. });
        assert_eq!(cluster.said(0, down).is_some(), dies);
        assert!(reunions(&cluster, 0) > before[0]);
    }
}

/// Windows would be followed and not enforced for nothing.
#[test]
fn who_starts_or_is_drained_was_not_apart() {
    let mut cluster = Cluster::started(3, TIMING, Network::default(), 7);
    let before = all(&cluster);
    assert_eq!(before, [0; 3], "nobody has served alone");
    cluster.kill(1);
    cluster.run(100);
    cluster.start(1);
    cluster.run_until(1_000, Cluster::settled);
    let order = Drain {
        bound_ms: 1_000,
        force: false,
    };
    cluster.with(2, |it| it.drain(order).unwrap());
    cluster.run_until(1_000, |cluster| {
        cluster.it(2).state() == MemberState::Draining
    });
    cluster.with(2, |it| it.undrain());
    cluster.run_until(1_000, Cluster::settled);
    assert_eq!(all(&cluster), before);
}
