//! Connections outlive the nodes that carried them, and do so because of replication.

use std::time::{Duration, Instant};

use e2e::{Load, busiest, cluster, echo_flows, wait_for, wait_whole};
use lab::node_config::Settings;
use nix::sys::signal::Signal;

/// The connections' patience where none may break.
const STALL_S: u64 = 30;

#[test]
fn connections_outlive_every_node_in_turn() {
    let mut cluster = cluster("efail", &Settings::new(3));
    let mut load = Load::start(&cluster, STALL_S);
    let mut owned_by_victims = 0;
    for victim in 1..=3 {
        load.wait_for_messages(50);
        owned_by_victims += echo_flows(&cluster, victim, "owner");
        cluster.kill(victim).expect("it ran");
        wait_whole(&mut cluster);
        load.wait_for_messages(10);
        cluster.restart(victim).expect("it starts again");
        wait_whole(&mut cluster);
    }
    assert!(
        owned_by_victims > 0,
        "the nodes that were killed carried nothing: this shows nothing"
    );
    load.finish_unbroken(&cluster);
}

/// The negative control: without replication the same kill breaks what the node carried.
#[test]
fn without_replication_connections_die_with_their_node() {
    let settings = Settings {
        sync: "none".into(),
        ..Settings::new(3)
    };
    let mut cluster = cluster("enosync", &settings);
    let mut load = Load::start(&cluster, 5);
    load.wait_for_messages(10);
    let (victim, carried) = busiest(&cluster);
    cluster.kill(victim).expect("it ran");
    wait_for("the victim's connections to break", || {
        let broken = load.report().broken.len();
        if broken >= carried {
            return Ok(());
        }
        Err(format!("{broken} of {carried}"))
    });
}

/// A node that is told to end hands over, and takes its share back when it returns.
#[test]
fn a_node_leaves_and_takes_back_what_was_its() {
    let mut cluster = cluster("eback", &Settings::new(3));
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(10);
    let (node, carried) = busiest(&cluster);
    let slots = |cluster: &lab::Cluster| cluster.status(node).expect("answers").view.owned_slots;
    let slots_before = slots(&cluster);

    cluster
        .stop(node, e2e::LIMIT)
        .expect("it ends with status 0");
    wait_whole(&mut cluster);
    load.wait_for_messages(10);
    cluster.restart(node).expect("it starts again");
    wait_whole(&mut cluster);
    load.wait_for_messages(10);

    // The same connections, on the node that had none of their state when it started.
    assert_eq!(slots(&cluster), slots_before);
    assert_eq!(echo_flows(&cluster, node, "owner"), carried);
    load.finish_unbroken(&cluster);
}

/// A node that stands still for a second is taken for dead; when it wakes up with an old view it
/// neither disturbs its successor nor stays away.
#[test]
fn a_paused_node_comes_back_and_nothing_breaks() {
    let mut cluster = cluster("epause", &Settings::new(3));
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(10);
    let (node, carried) = busiest(&cluster);
    let witness = node % 3 + 1;

    let paused = Instant::now();
    cluster.signal(node, Signal::SIGSTOP).expect("it runs");
    let name = format!("n{node}");
    wait_for("the others to miss it", || {
        let view = cluster.status(witness).map_err(|error| error.to_string())?;
        let of_it = |member: &&telemetry::control::Member| member.name == name;
        let state = view.view.members.iter().find(of_it).map(|m| &m.state[..]);
        if state == Some("dead") && paused.elapsed() >= Duration::from_secs(1) {
            return Ok(());
        }
        Err(format!("{name} is {state:?}"))
    });
    // What it carried goes on without it, not only after it.
    load.wait_for_messages(2);
    cluster.signal(node, Signal::SIGCONT).expect("it is there");

    wait_whole(&mut cluster);
    load.wait_for_messages(10);
    assert_eq!(echo_flows(&cluster, node, "owner"), carried);
    load.finish_unbroken(&cluster);
}
