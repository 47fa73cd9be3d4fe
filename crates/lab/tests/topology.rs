//! The topology and the tools in it, for real: these tests make namespaces, so they need root,
//! and say so where they do not have it. Each works under a lab name of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::download::{Downloads, Order};
use lab::echo::EchoReport;
use lab::flowgen::FlowGenerator;
use lab::probe::{Received, Sent};
use lab::process::Spawn;
use lab::program::{ip_batch, run};
use lab::routers::Distribution;
use lab::sink::SinkReport;
use lab::state::{LabId, StateDir};
use lab::tool::Tool;
use lab::topology::{self, CLUSTER_MAC, Plan, Topology};
use lab::wait::{Interrupt, Poll, wait_until};
use lab::web::{RandomFile, WebServer};
use lab::{Error, Namespace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const LIMIT: Duration = Duration::from_secs(30);

fn up(id: &str, nodes: usize) -> Topology {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces: run it as root"
    );
    Topology::up(Plan::new(id, nodes).expect("a valid plan")).expect("the topology comes up")
}

fn tool<R: serde::de::DeserializeOwned + Clone>(
    topology: &Topology,
    space: &Namespace,
    args: &[&str],
) -> Tool<R> {
    let log = topology.folder("logs").expect("a folder").join(args[0]);
    let spawn = Spawn::new(args[0], LAB).args(args).inside(space);
    let mut tool = Tool::start(spawn, topology.state(), &log).expect("the tool starts");
    tool.wait_ready(LIMIT).expect("the tool is ready");
    tool
}

fn links(space: &Namespace) -> BTreeSet<String> {
    let text = run(None, "ip", &["-n", space.name(), "-o", "link"], "").expect("ip lists links");
    let name = |line: &str| {
        Some(
            line.split_whitespace()
                .nth(1)?
                .trim_end_matches(':')
                .to_owned(),
        )
    };
    text.lines()
        .filter_map(name)
        .map(|name| name.split('@').next().unwrap_or("").to_owned())
        .collect()
}

fn nothing_is_left(id: &LabId) {
    assert_eq!(topology::namespaces(id).expect("listed"), []);
    assert!(!StateDir::of(id).path().exists());
}

#[test]
fn up_and_down_twice_leaves_nothing() {
    let before = run(None, "ip", &["-o", "link"], "").expect("ip lists links");
    let id = LabId::new("ltwice").expect("valid");
    for nodes in [2, 3] {
        let topology = up("ltwice", nodes);
        let expected = 5 + nodes;
        assert_eq!(topology::namespaces(&id).expect("listed").len(), expected);
        let ports = links(&topology.switch());
        assert_eq!(ports.len(), 1 + 3 + 3 * nodes + 4, "{ports:?}");
        assert_eq!(
            links(&topology.node(nodes)),
            BTreeSet::from(["lo", "in0", "out0", "sync0"].map(String::from))
        );
        topology.down().expect("it goes down");
        nothing_is_left(&id);
    }
    topology::down(&id).expect("down is fine when nothing is up");
    assert_eq!(
        run(None, "ip", &["-o", "link"], "").expect("ip lists links"),
        before
    );
}

/// The routers alone, with the kernel forwarding in place of the nodes.
#[test]
fn routers_spread_flows_and_take_the_paths_they_are_told() {
    let plan = Plan {
        distribution: Distribution::Ecmp,
        ..Plan::new("lecmp", 2).expect("valid")
    };
    let id = plan.id.clone();
    let topology = Topology::up(plan).expect("it comes up");
    for index in 1..=2 {
        let node = topology.node(index);
        node.sysctl("ipv4/ip_forward", "1").expect("set");
        let host = 100 + index;
        let batch = format!(
            "link set in0 arp on\n\
             link set out0 arp on\n\
             address add 10.11.0.{host}/24 dev in0\n\
             address add 10.12.0.{host}/24 dev out0\n\
             route add 10.1.0.0/24 via 10.11.0.254\n\
             route add 10.2.0.0/24 via 10.12.0.254\n"
        );
        ip_batch(&node, &batch).expect("addresses");
    }
    let received = |index: usize, device: &str| -> u64 {
        let path = format!("/sys/class/net/{device}/statistics/rx_packets");
        let node = topology.node(index);
        let args = ["netns", "exec", node.name(), "cat", &path];
        let text = run(None, "ip", &args, "").expect("the kernel counts");
        text.trim().parse().expect("a number")
    };
    let ping = |count: &str| {
        let args = ["-c", count, "-i", "0.05", "-W", "2", "10.2.0.10"];
        run(Some(&topology.client()), "ping", &args, "").expect("all are answered")
    };
    // Forth through the first, back through the second.
    topology.set_paths(&[1], &[2]).expect("set");
    let before = [received(1, "out0"), received(2, "in0")];
    ping("5");
    assert!(received(1, "in0") >= 5 && received(2, "out0") >= 5);
    let after = [received(1, "out0"), received(2, "in0")];
    for (before, after) in before.iter().zip(after) {
        assert!(
            after - before < 5,
            "the other way was taken: {before} then {after}"
        );
    }
    assert!(matches!(
        topology.set_paths(&[], &[1]),
        Err(Error::InvalidPaths(_))
    ));
    assert!(matches!(
        topology.set_paths(&[1], &[3]),
        Err(Error::InvalidPaths(_))
    ));
    // Over both, and still there afterwards.
    topology.set_paths(&[1, 2], &[1, 2]).expect("set");
    ping("2");
    topology.down().expect("it goes down");
    nothing_is_left(&id);
}

#[test]
fn up_replaces_what_is_there() {
    let mut first = up("lagain", 4);
    first.keep();
    let log = first.folder("logs").expect("a folder").join("sleep");
    let mut sleeper = Spawn::new("sleep", "sleep")
        .args(["1000"])
        .inside(&first.node(4))
        .detached()
        .start(first.state(), &log)
        .expect("sleep starts");
    drop(first);
    let second = up("lagain", 2);
    assert!(
        sleeper.try_wait().expect("ours").is_some(),
        "the old lab's process lives on"
    );
    assert!(!second.node(4).exists());
    let held = Topology::up(Plan::new("lagain", 2).expect("valid"));
    let me = std::process::id() as i32;
    assert!(
        matches!(held, Err(Error::InUse { pid, .. }) if pid == me),
        "{held:?}"
    );
    second.down().expect("it goes down");
    nothing_is_left(&LabId::new("lagain").expect("valid"));
}

#[test]
fn segments_connect_and_stay_apart() {
    let topology = up("lping", 3);
    let reach =
        |from: &Namespace, to: &str| run(Some(from), "ping", &["-c1", "-W2", to], "").is_ok();
    assert!(reach(&topology.client(), "10.1.0.20"));
    assert!(reach(&topology.server(), "10.2.0.20"));
    assert!(reach(&topology.server(), "fd00:2::20"));
    assert!(reach(&topology.node(1), "10.99.0.3"));
    // No node forwards on its own: that is the daemons' work.
    assert!(!reach(&topology.client(), "10.2.0.10"));
    let offloads = run(Some(&topology.client()), "ethtool", &["-k", "eth0"], "").expect("ethtool");
    for feature in [
        "tx-checksumming",
        "tcp-segmentation-offload",
        "generic-segmentation-offload",
        "generic-receive-offload",
    ] {
        let line = offloads.lines().find(|line| line.starts_with(feature));
        assert!(
            line.is_some_and(|line| line.contains(": off")),
            "{feature}: {line:?}"
        );
    }
    for device in ["in0", "out0"] {
        let addresses = run(
            Some(&topology.node(1)),
            "ip",
            &["-o", "address", "show", device],
            "",
        );
        assert_eq!(addresses.expect("ip lists addresses"), "");
    }
}

#[test]
fn a_crashed_lab_is_cleaned_up() {
    let id = LabId::new("lcrash").expect("valid");
    drop(up("lcrash", 2));
    // A lab of its own, in a process that is killed: one attached child and one detached.
    let script = "exec \"$LAB\" hold --id lcrash";
    let mut crashing = Command::new("sh")
        .args(["-c", script])
        .env("LAB", LAB)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut lines = BufReader::new(crashing.stdout.take().expect("piped")).lines();
    let mut pid = || -> i32 {
        let line = lines.next().expect("a line").expect("readable");
        line.trim().parse().expect("a process id")
    };
    let (attached, detached) = (pid(), pid());
    let alive = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap_or("")
                .trim_start()
                .starts_with('Z')
        })
    };
    assert!(alive(attached) && alive(detached));
    crashing.kill().expect("ours");
    crashing.wait().expect("ours");
    assert!(alive(detached), "a detached process must outlive its lab");
    assert!(!topology::namespaces(&id).expect("listed").is_empty());
    topology::down(&id).expect("down cleans up");
    assert!(!alive(attached) && !alive(detached));
    nothing_is_left(&id);
}

#[test]
fn a_process_is_stopped_continued_and_killed() {
    let topology = up("lproc", 2);
    let log = topology.folder("logs").expect("a folder").join("sleep");
    let mut process = Spawn::new("sleep", "sleep")
        .args(["1000"])
        .inside(&topology.client())
        .start(topology.state(), &log)
        .expect("sleep starts");
    assert_eq!(topology.state().records().expect("listed").len(), 1);
    assert_eq!(
        process
            .wait_timeout(Duration::from_millis(20))
            .expect("ours"),
        None
    );
    process.signal(Signal::SIGSTOP).expect("stopped");
    process.signal(Signal::SIGCONT).expect("continued");
    let status = process.stop(LIMIT).expect("ends");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(Signal::SIGTERM as i32)
    );
    assert_eq!(topology.state().records().expect("listed"), []);

    let dropped = Spawn::new("sleep", "sleep")
        .args(["1000"])
        .start(topology.state(), &log)
        .expect("starts");
    let pid = Pid::from_raw(dropped.pid());
    drop(dropped);
    assert_eq!(
        kill(pid, None),
        Err(nix::errno::Errno::ESRCH),
        "dropping kills and reaps"
    );

    let missing = Spawn::new("none", "no-such-program").start(topology.state(), &log);
    assert!(
        matches!(missing, Err(Error::MissingProgram { .. })),
        "{missing:?}"
    );
}

#[test]
fn tools_work_through_a_segment() {
    let topology = up("ltool", 2);
    let (near, far) = (topology.sink(), topology.server());
    let mut echo_server = tool::<EchoReport>(&topology, &far, &["echo-server"]);
    let receiver = tool::<Received>(&topology, &far, &["probe-receiver"]);
    let to = [
        "--to",
        "10.2.0.10:7777",
        "--to",
        "[fd00:2::10]:7777",
        "--connections",
        "8",
        "--pause-ms",
        "1",
    ];
    let mut echo = tool::<EchoReport>(&topology, &near, &[&["echo-clients"], &to[..]].concat());
    let to = ["--to", "10.2.0.10:9000", "--to", "[fd00:2::10]:9000"];
    let mut probe = tool::<Sent>(&topology, &near, &[&["probe"], &to[..]].concat());
    let progress = |tool: &mut Tool<EchoReport>| tool.progress().expect("runs").unwrap_or_default();
    wait_until(
        "traffic",
        LIMIT,
        Duration::from_millis(50),
        &Interrupt::default(),
        || {
            let enough = progress(&mut echo).messages > 100
                && probe.progress()?.is_some_and(|sent| sent.total() > 200);
            Ok(if enough {
                Poll::Ready(())
            } else {
                Poll::Pending(String::new())
            })
        },
    )
    .expect("traffic flows");
    let sent = probe.finish(LIMIT).expect("the probe finishes");
    let received = receiver.finish(LIMIT).expect("the receiver finishes");
    assert_eq!(
        (sent.lost(&received), received.duplicated),
        (0, 0),
        "{sent:?} {received:?}"
    );

    // A server that dies is noticed: every connection breaks.
    echo_server.process().kill().expect("ours");
    wait_until(
        "every connection to break",
        LIMIT,
        Duration::from_millis(20),
        &Interrupt::default(),
        || {
            let report = progress(&mut echo);
            let all = report.broken.len() == 8;
            Ok(if all {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("{report:?}"))
            })
        },
    )
    .expect("a reset is noticed");
    let report = echo.finish(LIMIT).expect("the clients finish");
    assert_eq!(
        (report.connected, report.broken.len()),
        (8, 8),
        "{report:?}"
    );
}

#[test]
fn downloads_are_hashed_and_judged() {
    let topology = up("lload", 2);
    let (near, far) = (topology.sink(), topology.server());
    let folder = topology.folder("files").expect("a folder");
    let logs = topology.folder("logs").expect("a folder");
    let file = RandomFile::cached(&folder, 300_000).expect("made");
    let prefix = topology.folder("nginx").expect("a folder");
    let web = WebServer::start(
        &far,
        topology.state(),
        &prefix,
        &folder,
        &logs,
        &Interrupt::default(),
    );
    let _web = web.expect("nginx starts");
    let order = |name: &str, url: String, file: &RandomFile| Order {
        name: name.into(),
        url,
        file: file.clone(),
        rate: 10_000_000,
        local_port: None,
    };
    let other = RandomFile {
        sha256: "0".repeat(64),
        ..file.clone()
    };
    let (v4, v6) = ("http://10.2.0.10/files", "http://[fd00:2::10]/files");
    let orders = vec![
        order("v4", format!("{v4}/{}", file.name), &file),
        order("v6", format!("{v6}/{}", file.name), &file),
        order("changed", format!("{v4}/{}", file.name), &other),
        order("absent", format!("{v4}/nothing"), &file),
    ];
    let log = logs.join("curl");
    let mut downloads =
        Downloads::start(orders, &near, topology.state(), &log).expect("curl starts");
    let failures = downloads.failures().expect("all end");
    let names: Vec<&str> = failures
        .iter()
        .map(|failure| failure.name.as_str())
        .collect();
    assert_eq!(names, ["changed", "absent"], "{failures:?}");
    assert!(failures[0].reason.contains("hash"), "{failures:?}");
    assert_eq!((downloads.bytes(0), downloads.open()), (300_000, 0));
}

#[test]
fn testpmds_flows_reach_every_node() {
    let topology = up("lgen", 2);
    let nodes = [topology.node(1), topology.node(2)];
    let mut counters: Vec<Tool<SinkReport>> = nodes
        .iter()
        .map(|node| tool(&topology, node, &["sink", "--flows", "500"]))
        .collect();
    // What the wire brings, seen before testpmd starts so that nothing is missed.
    let socket = nodes[0]
        .enter(lab::sink::open)
        .expect("entered")
        .expect("root opens packet sockets");
    let logs = topology.folder("logs").expect("a folder");
    let generator = FlowGenerator::start(
        &topology.generator(),
        topology.state(),
        &logs,
        500,
        2000,
        &Interrupt::default(),
    )
    .expect("testpmd starts");
    let begin = std::time::Instant::now();
    let first = generator.sent().expect("counted");
    wait_until(
        "all flows",
        LIMIT,
        Duration::from_millis(50),
        &Interrupt::default(),
        || {
            let seen = counters[0].progress()?.unwrap_or_default();
            let all = seen.flows == 500 && seen.packets >= 4000;
            Ok(if all {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("{seen:?}"))
            })
        },
    )
    .expect("testpmd's flows arrive");
    let rate = (generator.sent().expect("counted") - first) as f64 / begin.elapsed().as_secs_f64();
    assert!(
        (100.0..2500.0).contains(&rate),
        "{rate} packets/s, and 2000 were asked for"
    );
    let sent = generator.finish().expect("testpmd ends");
    for counter in counters {
        let report = counter.finish(LIMIT).expect("the counter finishes");
        assert_eq!((report.flows, &report.unseen[..]), (500, &[][..]));
        assert!(report.packets <= sent, "{} of {sent}", report.packets);
    }
    let mut frame = [0; 128];
    let address: Vec<u8> = CLUSTER_MAC
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect();
    // The other frames on this socket are ARP and the like; testpmd's have its source MAC.
    loop {
        let length = nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut frame,
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        )
        .expect("testpmd's frames are there");
        if length >= 60 && frame[6..12] == [0, 1, 2, 3, 4, 0] {
            assert_eq!(frame[..6], address[..]);
            break;
        }
    }
    assert!(
        Path::new("/run/dpdk/lgen-gen").exists(),
        "the EAL's file prefix is the namespace's name"
    );
    topology.down().expect("it goes down");
    assert!(!Path::new("/run/dpdk/lgen-gen").exists());
}
