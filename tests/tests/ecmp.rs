//! Clusters behind kernel routers that spread flows by themselves: both directions of a session
//! through different nodes, and nodes that die under it.

use e2e::{Load, cluster, wait_for, wait_whole};
use lab::Cluster;
use lab::node_config::Settings;
use lab::routers::Distribution;

/// The connections' patience where none may break.
const STALL_S: u64 = 30;

fn settings() -> Settings {
    Settings {
        distribution: Distribution::Ecmp,
        ..Settings::new(3)
    }
}

/// Packets of the load that node `index` has handled, there and back.
fn handled(cluster: &Cluster, index: usize) -> [u64; 2] {
    let flows = cluster.flows(index, &["dport=7777"]).expect("it answers");
    let sum = |way: usize| flows.iter().map(|flow| flow.packets[way]).sum();
    [sum(0), sum(1)]
}

fn paths(cluster: &Cluster, inside: &[usize], outside: &[usize]) {
    let topology = cluster.topology();
    topology
        .set_paths(inside, outside)
        .expect("the routers take it");
}

/// Requirement 14: packets of one session are handled in two nodes, and either may die.
#[test]
fn an_asymmetric_session_outlives_either_of_its_nodes() {
    let mut cluster = cluster("easym", &settings());
    paths(&cluster, &[1], &[2]);
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(20);
    let (first, second, third) = (
        handled(&cluster, 1),
        handled(&cluster, 2),
        handled(&cluster, 3),
    );
    assert!(
        first[0] > 0 && first[1] == 0,
        "n1 has the way there: {first:?}"
    );
    assert!(
        second[0] == 0 && second[1] > 0,
        "n2 has the way back: {second:?}"
    );
    assert_eq!(third, [0, 0], "n3 has neither");

    // The one on the way there dies; the third, which never saw a packet, takes its part.
    cluster.kill(1).expect("it ran");
    paths(&cluster, &[3], &[2]);
    load.wait_for_messages(20);
    assert!(handled(&cluster, 3)[0] > 0, "through n3 now");
    wait_whole(&mut cluster);
    cluster.restart(1).expect("it starts again");
    wait_whole(&mut cluster);

    // Then the one on the way back.
    cluster.kill(2).expect("it ran");
    paths(&cluster, &[3], &[1]);
    load.wait_for_messages(20);
    assert!(handled(&cluster, 1)[1] > 0, "through n1 now");
    wait_whole(&mut cluster);
    load.finish_unbroken(&cluster);
}

/// Routers that hash: each node handles a part of both ways, and flows change their node whenever
/// the group of paths changes.
#[test]
fn flows_spread_by_routers_outlive_every_node_in_turn() {
    let mut cluster = cluster("espread", &settings());
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(20);
    for index in 1..=3 {
        let of_it = handled(&cluster, index);
        assert!(
            of_it[0] > 0 || of_it[1] > 0,
            "n{index} handles nothing: {of_it:?}"
        );
    }
    for victim in 1..=3 {
        let others: Vec<usize> = (1..=3).filter(|n| *n != victim).collect();
        cluster.kill(victim).expect("it ran");
        paths(&cluster, &others, &others);
        wait_whole(&mut cluster);
        load.wait_for_messages(10);
        cluster.restart(victim).expect("it starts again");
        wait_whole(&mut cluster);
        paths(&cluster, &[1, 2, 3], &[1, 2, 3]);
        load.wait_for_messages(10);
    }
    load.finish_unbroken(&cluster);
}

/// Without `ack` the second node can meet a packet before it can know the flow; asking for it is
/// what makes the first reply pass at once.
#[test]
fn a_node_asks_for_the_flow_that_it_does_not_know() {
    let cluster = cluster("easks", &settings());
    paths(&cluster, &[1], &[2]);
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(5);
    let asked = || -> u64 {
        let asked = |index| cluster.counters(index).expect("it answers").sum["asked"];
        [1, 2, 3].map(asked).iter().sum()
    };
    wait_for("questions", || match asked() {
        0 => Err("none".into()),
        _ => Ok(()),
    });
    load.finish_unbroken(&cluster);
}
