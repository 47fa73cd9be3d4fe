//! Real daemons in namespaces: connections outlive the nodes that carried them, and do so because
//! of replication. Wants root, and `ravelind`, `ravelin` and `lab` built beside the test.

use std::time::Duration;

use lab::echo::EchoReport;
use lab::node_config::Settings;
use lab::process::Spawn;
use lab::program::Binaries;
use lab::tool::Tool;
use lab::topology::Plan;
use lab::wait::{Interrupt, Poll, wait_until};
use lab::{Cluster, Topology};

const LIMIT: Duration = Duration::from_secs(60);
const CONNECTIONS: u64 = 24;

struct Load {
    // Dropped first: the server's end would break them.
    clients: Tool<EchoReport>,
    _server: Tool<EchoReport>,
}

/// A cluster of three, whole, under a load of echo connections.
fn loaded(id: &str, sync: &str, stall_s: u64) -> (Load, Cluster) {
    assert!(
        is_root(),
        "this test makes network namespaces: run it as root"
    );
    let settings = Settings {
        sync: sync.into(),
        ..Settings::new(3)
    };
    let topology = Topology::up(Plan::new(id, 3).expect("valid")).expect("the topology comes up");
    let logs = topology.folder("logs").expect("a folder");
    let binaries = Binaries::locate().expect("beside the test");
    let mut cluster =
        Cluster::start(topology, binaries, &settings, &logs, false).expect("the daemons start");
    cluster
        .wait_whole(LIMIT, &Interrupt::default())
        .expect("the cluster becomes whole");

    let tool = |name: &str, args: &[&str], space| {
        let spawn = Spawn::new(name, cluster.binaries().lab().expect("built"))
            .args([name])
            .args(args);
        let log = logs.join(format!("{name}.log"));
        let mut tool =
            Tool::<EchoReport>::start(spawn.inside(&space), cluster.topology().state(), &log)
                .expect("the tool starts");
        tool.wait_ready(LIMIT).expect("the tool is ready");
        tool
    };
    let server = tool("echo-server", &[], cluster.topology().server());
    let (connections, stall_s) = (CONNECTIONS.to_string(), stall_s.to_string());
    let args = [
        ["--to", "10.2.0.10:7777"],
        ["--to", "[fd00:2::10]:7777"],
        ["--connections", &connections],
        ["--stall-s", &stall_s],
    ];
    let clients = tool("echo-clients", &args.concat(), cluster.topology().client());
    (
        Load {
            clients,
            _server: server,
        },
        cluster,
    )
}

/// Waits until so many more messages have come back, so that all connections carry data again.
fn wait_for_messages(load: &mut Load, more: u64) {
    let mut messages = || {
        load.clients
            .progress()
            .map(|report| report.unwrap_or_default().messages)
    };
    let goal = messages().expect("the clients run") + more;
    let every = Duration::from_millis(100);
    wait_until("echoes", LIMIT, every, &Interrupt::default(), || {
        let seen = messages()?;
        Ok(if seen >= goal {
            Poll::Ready(())
        } else {
            Poll::Pending(format!("{seen} of {goal}"))
        })
    })
    .expect("echoes come back");
}

#[test]
fn connections_outlive_every_node_in_turn() {
    let (mut load, mut cluster) = loaded("efail", "ack", 30);
    let mut owned_by_victims = 0;
    for victim in 1..=3 {
        wait_for_messages(&mut load, 50 * CONNECTIONS);
        owned_by_victims += cluster
            .flows(victim, &["dport=7777", "role=owner"])
            .expect("answers")
            .len();
        cluster.kill(victim).expect("it ran");
        cluster
            .wait_whole(LIMIT, &Interrupt::default())
            .expect("the others become whole");
        wait_for_messages(&mut load, 10 * CONNECTIONS);
        cluster.restart(victim).expect("it starts again");
        cluster
            .wait_whole(LIMIT, &Interrupt::default())
            .expect("all become whole");
    }
    assert!(
        owned_by_victims > 0,
        "the nodes that were killed carried nothing: this shows nothing"
    );
    let report = load.clients.finish(LIMIT).expect("the clients finish");
    assert_eq!(
        (report.connected, &report.broken[..]),
        (CONNECTIONS as u32, &[][..])
    );
}

/// The negative control: without replication the same kill breaks what the node carried.
#[test]
fn without_replication_connections_die_with_their_node() {
    let (mut load, mut cluster) = loaded("enosync", "none", 5);
    wait_for_messages(&mut load, 10 * CONNECTIONS);
    let owned = |index| {
        cluster
            .flows(index, &["dport=7777", "role=owner"])
            .expect("answers")
            .len()
    };
    let victim = (1..=3)
        .max_by_key(|&index| owned(index))
        .expect("three nodes");
    let carried = owned(victim);
    assert!(carried > 0);
    cluster.kill(victim).expect("it ran");
    let every = Duration::from_millis(100);
    wait_until(
        "the victim's connections to break",
        LIMIT,
        every,
        &Interrupt::default(),
        || {
            let broken = load.clients.progress()?.unwrap_or_default().broken.len();
            Ok(if broken >= carried {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("{broken} of {carried}"))
            })
        },
    )
    .expect("nobody else knows these connections");
}

fn is_root() -> bool {
    // The owner of our own entry in /proc is the effective user.
    std::fs::metadata("/proc/self")
        .is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}
