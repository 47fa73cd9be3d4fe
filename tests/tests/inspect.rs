//! What the `ravelin` command line says of a live cluster, in words and in JSON.

use std::path::Path;
use std::process::{Command, Output};

use e2e::{CONNECTIONS, Load, cluster, echo_flows, wait_for};
use lab::Cluster;
use lab::node_config::Settings;
use serde_json::Value;

fn ravelin(cluster: &Cluster, socket: &Path, args: &[&str]) -> Output {
    let program = cluster.binaries().ravelin().expect("beside the test");
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket).args(args);
    command.output().expect("it runs")
}

/// What it prints; it must succeed.
#[track_caller]
fn printed(cluster: &Cluster, index: usize, args: &[&str]) -> String {
    let output = ravelin(cluster, cluster.socket(index), args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    assert_eq!(errors, "", "{args:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// It must fail with this status and one line that has all the words.
#[track_caller]
fn fails(cluster: &Cluster, socket: &Path, args: &[&str], status: i32, words: &[&str]) {
    let output = ravelin(cluster, socket, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {errors}");
    for word in words {
        assert!(errors.contains(word), "{args:?}: no {word:?} in: {errors}");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_command_line_tells_a_live_cluster_as_it_is() {
    let mut cluster = cluster("ecli", &Settings::new(3));
    let mut load = Load::start(&cluster, 30);
    load.wait_for_messages(10);

    // Every connection has one owner, and one copy elsewhere.
    wait_for("each connection to have one owner and one copy", || {
        let sum = |role| -> usize { (1..=3).map(|index| echo_flows(&cluster, index, role)).sum() };
        let seen = (sum("owner"), sum("backup"), sum("stale"));
        let all = CONNECTIONS as usize;
        if seen == (all, all, 0) {
            return Ok(());
        }
        Err(format!("{seen:?}"))
    });

    let mut slots = 0;
    for index in 1..=3 {
        // The first line answers the question.
        let own = format!("n{index} active");
        let words = [&own[..], "3 of 3 members active", "redundancy whole"];
        // A busy machine may have made a node wait for longer than it may be silent.
        wait_for("the first line to say that all is well", || {
            let status = printed(&cluster, index, &["status"]);
            let first = status.lines().next().unwrap_or_default();
            match words.iter().all(|words| first.contains(words)) {
                true => Ok(()),
                false => Err(first.to_owned()),
            }
        });
        let status = json(&printed(&cluster, index, &["--json", "status"]));
        assert_eq!(status["node"]["name"], format!("n{index}"));
        slots += status["view"]["owned_slots"].as_u64().expect("a number");

        let of_server = ["flows", "proto=tcp", "dport=7777", "role=owner"];
        let owned = echo_flows(&cluster, index, "owner");
        let count = printed(&cluster, index, &[&of_server[..], &["--count"]].concat());
        assert_eq!(count.trim(), owned.to_string());
        let table = printed(&cluster, index, &of_server);
        let rows = table.lines().filter(|row| row.contains(":7777")).count();
        assert_eq!(rows, owned, "{table}");
        let lines = printed(&cluster, index, &[&["--json"], &of_server[..]].concat());
        assert_eq!(lines.lines().count(), owned);
        for flow in lines.lines().map(json) {
            let facts = ["proto", "state", "rule", "sync", "zone_from", "zone_to"];
            let told = facts.map(|fact| flow[fact].as_str().unwrap_or_default());
            let truth = ["tcp", "established", "echo", "ack", "inside", "outside"];
            assert_eq!(told, truth, "{flow}");
        }

        let counters = printed(&cluster, index, &["counters", "--scope", "worker0"]);
        assert!(counters.contains("rx_packets"), "{counters}");
        let counters = json(&printed(&cluster, index, &["--json", "counters", "--all"]));
        let opened = counters["sum"]["flow_opened"].as_u64().expect("a number");
        assert!(opened >= owned as u64, "{opened} opened, {owned} owned");
        assert_eq!(counters["sum"]["drop_table_full"], 0);
    }
    // All of the flow space (DESIGN.md, section 2), each part once.
    assert_eq!(slots, 1024);

    // With one node less, the others say so, and it is not there to be asked.
    let gone = cluster.socket(3).to_owned();
    cluster.kill(3).expect("it ran");
    e2e::wait_whole(&mut cluster);
    let status = printed(&cluster, 1, &["status"]);
    let first = status.lines().next().expect("a line");
    assert!(first.contains("2 of 3 members active"), "{first}");
    fails(&cluster, &gone, &["status"], 1, &["n3.sock"]);

    let socket = cluster.socket(1).to_owned();
    fails(&cluster, &socket, &["flows", "colour=red"], 2, &["colour"]);
    fails(
        &cluster,
        &socket,
        &["flows", "dport=x"],
        2,
        &["\"x\" is no port"],
    );
    load.finish_unbroken(&cluster);
}

/// The command line is a second software entity: it modifies a flow's state, has it synchronised,
/// and is told when that is complete (requirements 20, 21, 23, 24).
#[test]
fn one_flow_is_marked_synchronised_and_ended_on_command() {
    let cluster = cluster("einstr", &Settings::new(3));
    let mut load = Load::start(&cluster, 5);
    load.wait_for_messages(10);
    let (owner, _) = e2e::busiest(&cluster);
    let flow = cluster
        .flows(owner, &["dport=7777", "role=owner"])
        .expect("it answers")[0]
        .clone();
    let at = |ip, port| std::net::SocketAddr::new(ip, port).to_string();
    let ends = [at(flow.src, flow.sport), at(flow.dst, flow.dport)];
    let instruct = |words: &[&str]| {
        let named = ["tcp", &ends[0], &ends[1]];
        printed(&cluster, owner, &[&["flow"], words, &named].concat())
    };
    let copies = || -> Vec<telemetry::control::Flow> {
        let sport = format!("sport={}", flow.sport);
        let src = format!("src={}", flow.src);
        let of = |index| cluster.flows(index, &["dport=7777", &sport, &src]);
        (1..=3)
            .flat_map(|index| of(index).expect("it answers"))
            .collect()
    };

    for words in [&["sync"][..], &["mark", "7"]] {
        let said = instruct(words);
        assert!(said.contains("acknowledged by every backup"), "{said}");
    }
    // Acknowledged means: the copy has it already.
    let marks: Vec<u32> = copies().iter().map(|copy| copy.mark).collect();
    assert_eq!(marks, [7, 7], "the owner's and its backup's");

    let other = (1..=3).find(|index| *index != owner).expect("three nodes");
    let words = ["flow", "mark", "8", "tcp", &ends[0], &ends[1]];
    let says = ["flow"];
    fails(&cluster, cluster.socket(other), &words, 1, &says);

    instruct(&["end"]);
    wait_for("the flow to end everywhere", || match copies().len() {
        0 => Ok(()),
        n => Err(format!("{n} live")),
    });
    wait_for("its connection to break", || {
        match load.report().broken.len() {
            1 => Ok(()),
            n => Err(format!("{n} broken")),
        }
    });
}
