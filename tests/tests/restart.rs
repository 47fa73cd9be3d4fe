//! Nodes that start again sooner, or earlier by their clock, than their peers expect.

use std::path::{Path, PathBuf};

use e2e::{LIMIT, Load, busiest, cluster, connect, echo_flows, echoes, wait_for, wait_whole};
use lab::Cluster;
use lab::node_config::Settings;

/// The connections' patience: none may break.
const STALL_S: u64 = 30;

fn log_of(cluster: &Cluster, node: usize) -> String {
    let logs = cluster.topology().folder("logs").expect("a folder");
    std::fs::read_to_string(logs.join(format!("n{node}.log"))).expect("it has one")
}

fn wait_for_log(cluster: &Cluster, node: usize, words: &str) {
    wait_for(words, || match log_of(cluster, node).contains(words) {
        true => Ok(()),
        false => Err(format!("n{node} does not say so")),
    });
}

/// A crash that nobody had the time to see as a death: no slot moves, the peers take the new run up, and their
/// connections to the dead run are dialed anew long before these would end by themselves.
#[test]
fn a_restart_within_dead_after_keeps_its_connections_and_is_dialed_anew() {
    let settings = Settings {
        dead_after: "20s".into(),
        join_wait: "20s".into(),
        ..Settings::new(3)
    };
    let mut cluster = cluster("equick", &settings);
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(10);
    let (node, carried) = busiest(&cluster);
    let witness = node % 3 + 1;
    let before = cluster.status(node).expect("it answers").node.incarnation;
    cluster.kill(node).expect("it ran");
    cluster.restart(node).expect("it starts again");
    wait_whole(&mut cluster);
    load.wait_for_messages(10);

    let status = cluster.status(node).expect("it answers");
    assert!(status.node.incarnation > before);
    assert_eq!(echo_flows(&cluster, node, "owner"), carried);
    for peer in (1..=3).filter(|peer| *peer != node) {
        let log = log_of(&cluster, peer);
        let name = format!("node {node}");
        assert!(log.contains(&format!("{name} restarted: run")), "{log}");
        assert!(!log.contains(&format!("{name} is dead")), "{log}");
        assert!(
            !log.contains("idle timeout"),
            "it kept to the dead run's connection: {log}"
        );
    }
    // What is opened at the peers from now on is protected by the new run too.
    let mut fresh = connect(&cluster).expect("it is made");
    assert!(echoes(&mut fresh, LIMIT), "{fresh:?}, seen by n{witness}");
    load.finish_unbroken(&cluster);
}

/// The file in which node `node` keeps the number of its run.
fn number_file(socket: &Path, node: usize) -> PathBuf {
    socket.with_file_name(format!("lab.n{node}.incarnation"))
}

/// Peers refuse a run that is older than one that they know; the clock cannot be set back here, so the file says
/// that it was. With it the node goes on above the last number; without it, it says what is wrong, learns from its
/// peers, and joins after the restart that it asks for.
#[test]
fn a_node_whose_clock_went_back_joins_again() {
    /// In the year 2200: before every clock that this test meets.
    const LATER: u64 = 7_258_118_400_000;
    let mut cluster = cluster("eclock", &Settings::new(2));
    let file = number_file(cluster.socket(1), 1);
    assert!(file.is_file(), "{}", file.display());
    assert!(number_file(cluster.socket(2), 2).is_file());
    let restart = |cluster: &mut Cluster, number: Option<u64>| {
        cluster.kill(1).expect("it ran");
        match number {
            Some(number) => std::fs::write(&file, format!("{number}\n")).expect("written"),
            None => std::fs::remove_file(&file).expect("it was there"),
        }
        cluster.restart(1).expect("it starts again");
    };
    restart(&mut cluster, Some(LATER));
    wait_whole(&mut cluster);
    let run = |cluster: &Cluster| cluster.status(1).expect("it answers").node.incarnation;
    assert_eq!(run(&cluster), LATER + 1);
    assert!(log_of(&cluster, 1).contains("the clock went back"));

    // Without the file as well nobody would listen to it: it keeps what peers know, and ends, so that
    // whoever supervises it starts it again.
    restart(&mut cluster, None);
    wait_for_log(&cluster, 1, "node 2 knows a later run of this node");
    wait_for_log(&cluster, 1, "start this node again");
    let kept = std::fs::read_to_string(&file).expect("it is there");
    assert!(
        kept.trim().parse::<u64>().is_ok_and(|kept| kept > LATER),
        "{kept}"
    );
    let status = cluster.wait_ended(1, LIMIT).expect("it ended");
    assert_eq!(status.code(), Some(1));
    cluster.restart(1).expect("it starts again");
    wait_whole(&mut cluster);
    assert!(run(&cluster) > LATER);
}
