//! Nodes go offline and come back under load, and lose nothing; a node whose worker stands still
//! hands over.

use e2e::{LIMIT, Load, Probe, busiest, cluster, echo_flows, wait_for, wait_whole};
use lab::Cluster;
use lab::download::{Downloads, Order};
use lab::node_config::Settings;
use lab::stall::StalledThread;
use lab::wait::Interrupt;
use lab::web::{RandomFile, WebServer};
use telemetry::control::{Drain, DrainPhase};

/// The connections' patience where none may break.
const STALL_S: u64 = 30;
/// Datagrams per second of each probe flow.
const PROBE_RATE: u32 = 1_000;

/// Nodes that share two CPUs with everything else are sometimes late; that must not be a death
/// here, since a death loses packets.
fn patient() -> Settings {
    Settings {
        dead_after: "3s".into(),
        ..Settings::new(3)
    }
}

fn probe_flows(cluster: &Cluster, node: usize, role: &str) -> usize {
    let role = format!("role={role}");
    let flows = cluster.flows(node, &["dport=9000", "proto=udp", &role]);
    flows.expect("the node answers").len()
}

/// What the nodes' devices dropped before the daemons saw it: no loss of theirs.
fn drops(cluster: &Cluster) -> String {
    let of = |node| {
        let counters = cluster.counters(node).expect("the node answers").sum;
        let moved = counters
            .into_iter()
            .filter(|(name, n)| name.starts_with("drop_") && *n > 0);
        let missed = cluster.status(node).expect("the node answers").interfaces;
        let missed: u64 = missed.iter().map(|interface| interface.rx_missed).sum();
        format!(
            "n{node}: missed {missed}, {:?}\n",
            moved.collect::<Vec<_>>()
        )
    };
    cluster.living().into_iter().map(of).collect()
}

#[test]
fn a_drain_under_load_loses_no_packet_and_neither_does_the_return() {
    let mut cluster = cluster("edrain", &patient());
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(5);

    // The node that carries probe flows and echoes goes.
    let mut probe = Probe::start(&cluster, 4, PROBE_RATE);
    let carries = |node: &usize| {
        (
            probe_flows(&cluster, *node, "owner"),
            echo_flows(&cluster, *node, "owner"),
        )
    };
    let node = cluster
        .living()
        .into_iter()
        .max_by_key(carries)
        .expect("nodes live");
    assert!(
        probe_flows(&cluster, node, "owner") > 0,
        "it carries no probe"
    );
    let steps = cluster.drain(node, &[], LIMIT).expect("it drains and ends");
    probe.wait_for(2_000);
    let (sent, received) = probe.finish();
    assert_eq!(
        sent.lost(&received),
        0,
        "{sent:?} {received:?}\n{}",
        drops(&cluster)
    );
    let last = steps.last().expect("it told something");
    assert_eq!(
        (last.phase, &last.cut),
        (DrainPhase::Leaving, &None),
        "{steps:?}"
    );
    assert!(
        last.slots > 0 && last.slots_handed_over == last.slots,
        "{last:?}"
    );
    wait_whole(&mut cluster);
    load.wait_for_messages(5);

    // It comes back and takes its flows over.
    let mut probe = Probe::start(&cluster, 8, PROBE_RATE / 2);
    cluster.restart(node).expect("it starts again");
    wait_whole(&mut cluster);
    probe.wait_for(2_000);
    assert!(
        probe_flows(&cluster, node, "owner") > 0,
        "it has no probe flow"
    );
    let (sent, received) = probe.finish();
    assert_eq!(
        sent.lost(&received),
        0,
        "{sent:?} {received:?}\n{}",
        drops(&cluster)
    );
    load.wait_for_messages(5);
    load.finish_unbroken(&cluster);
}

#[test]
fn a_drained_node_can_stay_and_be_taken_back() {
    let mut cluster = cluster("estay", &patient());
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(5);
    let (node, carried) = busiest(&cluster);
    let steps = cluster.drain(node, &["--stay"], LIMIT).expect("it drains");
    let phases: Vec<DrainPhase> = steps.iter().map(|step| step.phase).collect();
    assert_eq!(phases.last(), Some(&DrainPhase::Drained), "{phases:?}");
    let status = cluster.status(node).expect("it stays");
    assert_eq!(
        (&status.node.state[..], status.view.owned_slots),
        ("draining", 0)
    );
    assert!(matches!(
        status.drain,
        Some(Drain {
            phase: DrainPhase::Drained,
            cut: None,
            ..
        })
    ));
    load.wait_for_messages(5);

    // The others may go as well, but not the last one.
    let others: Vec<usize> = cluster
        .living()
        .into_iter()
        .filter(|other| *other != node)
        .collect();
    cluster
        .drain(others[0], &["--stay"], LIMIT)
        .expect("one is left");
    let refused = cluster.drain(others[1], &["--stay"], LIMIT);
    let refused = refused.expect_err("nobody is left").to_string();
    assert!(refused.contains("no other node is active"), "{refused}");
    load.wait_for_messages(5);

    for back in [node, others[0]] {
        cluster.undrain(back).expect("it was drained");
    }
    wait_whole(&mut cluster);
    load.wait_for_messages(5);
    assert_eq!(echo_flows(&cluster, node, "owner"), carried);
    assert!(
        cluster.undrain(node).is_err(),
        "there is nothing to take back"
    );
    load.finish_unbroken(&cluster);
}

/// Bytes of the download: some seconds at its rate.
const DOWNLOAD_BYTES: u64 = 24 << 20;

/// What arrives through a node that hands over in the middle is what was sent.
#[test]
fn the_owner_of_a_running_download_drains_and_every_byte_arrives() {
    let mut cluster = cluster("edown", &patient());
    let topology = cluster.topology();
    let folder = |name| topology.folder(name).expect("a folder");
    let (cache, logs) = (folder("cache"), folder("logs"));
    let file = RandomFile::cached(&cache, DOWNLOAD_BYTES).expect("written");
    let mut web = WebServer::start(
        &topology.server(),
        topology.state(),
        &folder("nginx"),
        &cache,
        &logs,
        &Interrupt::default(),
    )
    .expect("nginx starts");
    let order = Order {
        name: "download".into(),
        url: format!("http://10.2.0.10/files/{}", file.name),
        file,
        rate: 6_000_000,
        local_port: Some(40_001),
    };
    let log = logs.join("curl.log");
    let mut download = Downloads::start(vec![order], &topology.client(), topology.state(), &log)
        .expect("it starts");
    wait_for("a quarter of it", || match download.bytes(0) {
        bytes if bytes >= DOWNLOAD_BYTES / 4 => Ok(()),
        bytes => Err(format!("{bytes} bytes")),
    });

    let flow = ["proto=tcp", "sport=40001", "dport=80"];
    let node = cluster.owner(&flow).expect("the nodes answer");
    let node = node.expect("a node owns the download");
    cluster.drain(node, &[], LIMIT).expect("it drains and ends");
    let at_drain = download.bytes(0);
    assert!(
        at_drain < DOWNLOAD_BYTES && download.open() == 1,
        "it was over before the node was: this shows nothing"
    );
    let heir = cluster.owner(&flow).expect("the nodes answer");
    assert!(heir.is_some_and(|heir| heir != node), "{heir:?}");
    wait_for("the download to end", || match download.open() {
        0 => Ok(()),
        _ => Err(format!("{} bytes", download.bytes(0))),
    });
    web.must_run().expect("nginx has served it");
    assert_eq!(download.failures().expect("read to the end"), []);
}

/// Requirement 11, for a node that runs but for one thread: the watch over it is the membership
/// core's, since a stuck worker cannot tell.
#[test]
fn a_node_whose_worker_stands_still_hands_over_and_comes_back() {
    let mut cluster = cluster("estall", &Settings::new(3));
    let mut load = Load::start(&cluster, STALL_S);
    load.wait_for_messages(10);
    let (node, carried) = busiest(&cluster);
    let witness = node % 3 + 1;
    let pid = cluster.pid(node).expect("it runs");
    let held = StalledThread::hold(pid, "worker0").expect("it has such a thread");
    let name = format!("n{node}");
    wait_for("the node to notice and the others to hear", || {
        let own = cluster.status(node).map_err(|error| error.to_string())?;
        let view = cluster.status(witness).map_err(|error| error.to_string())?;
        let seen = view.view.members.iter().find(|member| member.name == name);
        let seen = seen.map_or("absent", |member| &member.state);
        if own.view.owned_slots == 0 && own.node.state == "draining" && seen == "draining" {
            return Ok(());
        }
        Err(format!("it is {}, seen as {seen}", own.node.state))
    });
    // All connections go on, also those that it carried: more messages than the others could make.
    load.wait_for_messages(20);
    let stalls = cluster.counters(node).expect("it answers").sum;
    assert!(
        stalls
            .get("worker_stalls")
            .is_some_and(|stalls| *stalls >= 1),
        "{stalls:?}"
    );

    drop(held);
    wait_whole(&mut cluster);
    load.wait_for_messages(10);
    assert_eq!(echo_flows(&cluster, node, "owner"), carried);
    load.finish_unbroken(&cluster);
}

/// A signal hands over as well; the second ends at once.
#[test]
fn a_second_signal_does_not_wait() {
    let mut cluster = cluster("esignal", &patient());
    // Its peers do not run on, so its hand-over cannot end before its bound.
    for peer in [2, 3] {
        cluster
            .signal(peer, nix::sys::signal::Signal::SIGSTOP)
            .expect("it runs");
    }
    cluster
        .signal(1, nix::sys::signal::Signal::SIGTERM)
        .expect("it runs");
    wait_for("it to hand over", || {
        let status = cluster.status(1).map_err(|error| error.to_string())?;
        match status.drain {
            Some(Drain {
                phase: DrainPhase::HandingOver,
                ..
            }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.stop(1, LIMIT).expect("it ends with status 0");
    let logs = cluster.topology().folder("logs").expect("a folder");
    let log = std::fs::read_to_string(logs.join("n1.log")).expect("it has one");
    assert!(log.contains("signal 15: handing over"), "{log}");
    assert!(
        log.contains("signal 15: ending") && !log.contains("offline: ending"),
        "{log}"
    );
}
