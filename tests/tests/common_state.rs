//! What is said to one node holds on all of them, and outlives it: logins, blocked networks, rules.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use e2e::{Load, cluster, wait_for, wait_whole};
use lab::Cluster;
use lab::node_config::Settings;
use serde_json::Value;

const CLIENT: &str = "10.1.0.10";
const SERVER: &str = "10.2.0.10:8000";
/// Enough that each node carries some.
const CONNECTIONS: usize = 24;

/// The lab's echo rule, and whatever else.
fn rules(more: &str) -> String {
    format!(
        "[[rule]]\nname = \"echo\"\nfrom = \"inside\"\nto = \"outside\"\nservice = \"tcp/7777\"\n\
         action = \"allow\"\nsync = \"ack\"\n{more}"
    )
}

/// A rule for the server of this test.
fn rule(name: &str, condition: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nfrom = \"inside\"\nservice = \"tcp/8000\"\n{condition}\n\
         action = \"allow\"\nsync = \"ack\"\n"
    )
}

fn ravelin(cluster: &Cluster, index: usize, args: &[&str]) -> Output {
    let program = cluster.binaries().ravelin().expect("beside the test");
    let mut command = Command::new(program);
    command
        .arg("--socket")
        .arg(cluster.socket(index))
        .args(args);
    command.output().expect("it runs")
}

/// What it prints; it must succeed without a complaint.
#[track_caller]
fn printed(cluster: &Cluster, index: usize, args: &[&str]) -> String {
    let output = ravelin(cluster, index, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{args:?}: {errors}"
    );
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json(cluster: &Cluster, index: usize, args: &[&str]) -> Value {
    let text = printed(cluster, index, &[&["--json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Gives rules to the cluster by this node.
#[track_caller]
fn load_rules(cluster: &Cluster, index: usize, text: &str) -> u64 {
    let path = cluster
        .topology()
        .folder("logs")
        .expect("a folder")
        .join("rules.toml");
    std::fs::write(&path, text).expect("written");
    let loaded = json(
        cluster,
        index,
        &["policy", "load", path.to_str().expect("text")],
    );
    let living = cluster.living().len();
    assert_eq!(
        loaded["on"].as_array().expect("a list").len(),
        living,
        "{loaded}"
    );
    loaded["generation"].as_u64().expect("a number")
}

/// Echoes on port 8000 of the server's namespace until the test ends.
fn serve(cluster: &Cluster) {
    let listener = cluster
        .topology()
        .server()
        .enter(|| TcpListener::bind(SERVER));
    let listener = listener.expect("entered").expect("listens");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A connection from the client to the server, or why there is none.
fn connect(cluster: &Cluster) -> std::io::Result<TcpStream> {
    let server: SocketAddr = SERVER.parse().expect("an address");
    let client = cluster.topology().client();
    let connected = client.enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(2)));
    connected.expect("entered")
}

/// How many of the connections bring a byte back within this time.
fn echoing<'s>(streams: impl IntoIterator<Item = &'s TcpStream>, within: Duration) -> usize {
    let streams: Vec<_> = streams.into_iter().collect();
    let written = streams.into_iter().filter(|stream| {
        let mut stream: &TcpStream = stream;
        stream.write_all(b"x").is_ok()
    });
    let written: Vec<_> = written.collect();
    let begun = Instant::now();
    let echoes = |stream: &&&TcpStream| {
        let mut stream: &TcpStream = stream;
        let left = within.saturating_sub(begun.elapsed());
        let patience = left.max(Duration::from_millis(1));
        stream
            .set_read_timeout(Some(patience))
            .expect("it is above zero");
        stream.read_exact(&mut [0]).is_ok()
    };
    written.iter().filter(echoes).count()
}

#[track_caller]
fn all_echo(streams: &[TcpStream], why: &str) {
    assert_eq!(
        echoing(streams, Duration::from_secs(20)),
        streams.len(),
        "{why}"
    );
}

#[track_caller]
fn none_echoes<'s>(streams: impl IntoIterator<Item = &'s TcpStream>) {
    assert_eq!(echoing(streams, Duration::from_secs(2)), 0);
}

#[track_caller]
fn connect_all(cluster: &Cluster) -> Vec<TcpStream> {
    let streams: Vec<_> = (0..CONNECTIONS)
        .map(|n| connect(cluster).unwrap_or_else(|error| panic!("connection {n}: {error}")))
        .collect();
    all_echo(&streams, "new connections");
    streams
}

#[track_caller]
fn cannot_connect(cluster: &Cluster) {
    let kind = connect(cluster).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(kind, Err(std::io::ErrorKind::TimedOut));
}

/// How many connections to the server a node carries, and under which rule.
#[track_caller]
fn carried(cluster: &Cluster, index: usize, rule: &str) -> usize {
    let flows = cluster.flows(index, &["dport=8000", "role=owner", "state=established"]);
    let flows = flows.expect("the node answers");
    assert!(flows.iter().all(|flow| flow.rule == rule), "{flows:?}");
    flows.len()
}

#[test]
fn logins_and_blocks_hold_on_every_node_and_outlive_theirs() {
    let mut cluster = cluster("ecommon", &Settings::new(3));
    serve(&cluster);
    let office = rule("office", "user = \"alice\"\ngroup = \"staff\"");
    load_rules(&cluster, 1, &rules(&office));
    cannot_connect(&cluster);

    // Said to node 1; a user of another name and group is not meant.
    printed(
        &cluster,
        1,
        &[
            "user",
            "login",
            "bob",
            "--address",
            CLIENT,
            "--groups",
            "guests",
        ],
    );
    cannot_connect(&cluster);
    let login = [
        "user",
        "login",
        "bob",
        "--address",
        CLIENT,
        "--groups",
        "guests,staff",
    ];
    let says = printed(&cluster, 1, &login);
    assert_eq!(
        says,
        format!("bob is logged in at {CLIENT}, on all 3 nodes (before: bob)\n")
    );
    let streams = connect_all(&cluster);
    for index in 1..=3 {
        assert!(
            carried(&cluster, index, "office") > 0,
            "node {index} carries none"
        );
    }

    // What node 1 was told is known without it, and to it when it is back.
    cluster.kill(1).expect("it ran");
    wait_whole(&mut cluster);
    all_echo(&streams, "connections broke with the node");
    let more = connect_all(&cluster);
    cluster.restart(1).expect("it starts again");
    wait_whole(&mut cluster);
    let users = json(&cluster, 1, &["user", "list"]);
    assert_eq!(
        (&users["name"], &users["node"]),
        (&"bob".into(), &"n1".into())
    );
    let again = connect_all(&cluster);
    assert!(
        carried(&cluster, 1, "office") > 0,
        "node 1 took nothing back"
    );

    // A logout on node 3 ends what only the login allowed.
    printed(&cluster, 3, &["user", "logout", "bob"]);
    none_echoes(again.iter().chain(&more).chain(&streams));
    cannot_connect(&cluster);
    let output = ravelin(&cluster, 2, &["user", "logout", "bob"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "nobody is there any more: {output:?}"
    );

    // A block stops connections that every rule allows, and its deletion lets new ones through.
    load_rules(&cluster, 2, &rules(&rule("all", "")));
    let streams = connect_all(&cluster);
    let add = ["block", "add", CLIENT, "--note", "why", "--for", "1h"];
    let says = printed(&cluster, 2, &add);
    let expected = format!("{CLIENT}/32 is blocked for 1h, on all 3 nodes\n");
    assert_eq!(says, expected);
    none_echoes(&streams);
    cannot_connect(&cluster);
    for index in 1..=3 {
        wait_for_blocks(&cluster, index, 1);
        let block = json(&cluster, index, &["block", "list"]);
        assert_eq!(
            (&block["note"], &block["node"]),
            (&"why".into(), &"n2".into())
        );
    }
    printed(&cluster, 3, &["block", "del", CLIENT]);
    connect_all(&cluster);
    assert_eq!(
        printed(&cluster, 1, &["block", "list"]),
        "nothing is blocked\n"
    );
    let own = ravelin(&cluster, 1, &["block", "add", "10.1.0.0/24"]);
    assert_eq!(
        own.status.code(),
        Some(2),
        "the gateway's own network: {own:?}"
    );
}

/// Waits until a node's status counts so many blocked networks: the sync core's next report tells.
fn wait_for_blocks(cluster: &Cluster, index: usize, count: u64) {
    wait_for("the block to be counted", || {
        let status = cluster.status(index).map_err(|error| error.to_string())?;
        match status.common.blocks {
            blocks if blocks == count => Ok(()),
            blocks => Err(format!("n{index}: {blocks}")),
        }
    });
}

/// Intrusion detection state: whoever scans is blocked everywhere, also where it was not seen.
#[test]
fn a_source_that_scans_is_blocked_on_all_nodes() {
    let settings = Settings {
        scan_ports: Some(60),
        ..Settings::new(3)
    };
    let cluster = cluster("escan", &settings);
    let mut load = Load::start(&cluster, 30);
    load.wait_for_messages(5);
    let target = |port| -> SocketAddr { format!("10.2.0.10:{port}").parse().expect("an address") };
    let scanner = cluster.topology().generator();
    let scan = || {
        let try_ports = || {
            for port in 2000..2400 {
                let _ = TcpStream::connect_timeout(&target(port), Duration::from_millis(2));
            }
            TcpStream::connect_timeout(&target(7777), Duration::from_secs(2)).map(|_| ())
        };
        scanner.enter(try_ports).expect("entered")
    };
    let after = scan().map_err(|error| error.kind());
    assert_eq!(
        after,
        Err(std::io::ErrorKind::TimedOut),
        "a port that is open to others"
    );
    for index in 1..=3 {
        wait_for_blocks(&cluster, index, 1);
        let block = json(&cluster, index, &["block", "list"]);
        assert_eq!(
            (&block["net"], &block["reason"]),
            (&"10.1.0.20/32".into(), &"syn-scan".into())
        );
    }
    // Others are not meant.
    load.finish_unbroken(&cluster);
}

#[test]
fn rules_loaded_on_one_node_hold_on_all_and_outlive_it() {
    let mut cluster = cluster("epolicy", &Settings::new(3));
    serve(&cluster);
    let mut load = Load::start(&cluster, 30);
    load.wait_for_messages(10);
    cannot_connect(&cluster);

    let generation = load_rules(&cluster, 2, &rules(&rule("all", "")));
    let streams = connect_all(&cluster);
    assert!(carried(&cluster, 3, "all") > 0, "node 3 carries none");
    for index in 1..=3 {
        let policy = cluster.status(index).expect("answers").policy;
        assert_eq!((policy.generation.into(), policy.error), (generation, None));
        assert!(policy.source.ends_with("rules.toml"), "{}", policy.source);
    }

    cluster.kill(2).expect("it ran");
    wait_whole(&mut cluster);
    all_echo(&streams, "connections broke with the node");
    connect_all(&cluster);

    // Node 2 starts with the rules of its configuration, under which these connections would end.
    cluster.restart(2).expect("it starts again");
    wait_whole(&mut cluster);
    let shown = json(&cluster, 2, &["policy", "show"]);
    assert_eq!(
        (&shown["generation"], &shown["loaded_on"]),
        (&generation.into(), &"n2".into())
    );
    all_echo(&streams, "connections broke with the node's return");
    connect_all(&cluster);
    assert!(carried(&cluster, 2, "all") > 0, "node 2 took nothing back");

    // Rules that no longer allow them end them; what they still allow goes on.
    let next = load_rules(&cluster, 1, &rules(""));
    assert!(next > generation);
    none_echoes(&streams);
    wait_for("flows of the old rules to be gone", || {
        let left: usize = (1..=3).map(|index| carried(&cluster, index, "all")).sum();
        if left == 0 {
            return Ok(());
        }
        Err(format!("{left} are left"))
    });
    cannot_connect(&cluster);

    // What is wrong changes nothing anywhere.
    let path = cluster
        .topology()
        .folder("logs")
        .expect("a folder")
        .join("wrong.toml");
    std::fs::write(&path, rules(&rule("all", "to = \"dmz\""))).expect("written");
    let output = ravelin(
        &cluster,
        3,
        &["policy", "load", path.to_str().expect("text")],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("wrong.toml:12:6: rule.all.to: zone \"dmz\""),
        "{errors}"
    );
    load.wait_for_messages(10);
    load.finish_unbroken(&cluster);
}
