//! Commands that ask a daemon: what they ask, what they print, and how they end.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::support::{Daemon, Ran, Story, run, status};
use serde_json::Value;
use telemetry::control::{Flow, FlowName, FlowRequest, Proto, Request, Status};
use telemetry::counters::{CounterQuery, CounterReport};

/// The ages in a status depend on when this machine started: replaces what is between two marks.
fn without(text: &str, before: &str, after: &str) -> String {
    let start = text.find(before).expect(before) + before.len();
    let end = start + text[start..].find(after).expect(after);
    assert!(text[start..end].ends_with(['d', 'h', 'm', 's']), "{text}");
    format!("{}AGE{}", &text[..start], &text[end..])
}

#[track_caller]
fn succeeded(ran: &Ran) {
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
}

#[test]
fn status_for_people() {
    let ran = Daemon::start().run(&["status"]);
    succeeded(&ran);
    let text = without(&ran.stdout, "whole for ", ",");
    let text = without(&text, "12.500 ms, ", " ago");
    let expected = "\
n1 active, epoch 7, 3 of 3 members active, redundancy whole

node         n1 (id 1), ravelind 0.1.0, pid 4242, up 2h 5m
view         epoch 7, digest 00c0ffee00c0ffee, 341 slots owned
redundancy   whole for AGE, 0 slots pending
takeover     171 slots in epoch 6, first packet after 12.500 ms, AGE ago
replication  4000 flows, 9000 records sent, 8000 received, 12 not acknowledged yet
copies       2048 slots compared, 3 differed, 2 repaired, 0 to hand over
flows        12000 live of 1000000, 4000 owned, 1 packet held
policy       generation 4, rules.toml
common       2 blocks, 1 user, 0 expectations, 0 tunnels; not yet all at n2

MEMBER  ID  STATE   LAST HEARD  BACKUPS
n1       1  active   this node  n2
n2       2  active        3 ms  n3, n1
n3       3  active       12 ms

PEER  CONNECTED  LAG  LAG MS  COMPARED  RTT US  BYTES SENT  LAST ERROR
n2    yes         12       3     2.3 s      85      123456
n3    yes          0       0                85      123456  timed out

INTERFACE  LINK  MAC                     RX  TX  RX MISSED  RX ERRORS  TX ERRORS  DEVICE
inside     up    02:00:00:00:00:01  1234567   5          0          0          0  net_af_packet0,iface=inside
out0       up    02:00:00:00:00:01        9   5          0          0          0  net_af_packet0,iface=out0

CORE     CPU  IDLE    BUSY
worker0    2  spin  87.5 %
sync       1  spin   3.0 %
";
    assert_eq!(text, expected);
}

#[test]
fn status_as_json_is_what_the_daemon_said() {
    let ran = Daemon::start().run(&["--json", "status"]);
    succeeded(&ran);
    assert_eq!(ran.stdout.lines().count(), 1);
    assert_eq!(
        serde_json::from_str::<Status>(&ran.stdout).unwrap(),
        status()
    );
    // The names that scripts rely on.
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    for pointer in [
        "/node/incarnation",
        "/node/uptime_s",
        "/view/members/2/last_heard_ms",
        "/view/owned_slots",
        "/view/backup_groups/n2/1",
        "/redundancy/since_ns",
        "/redundancy/pending_slots",
        "/takeover/first_forward_ns",
        "/replication/flows_replicated",
        "/replication/peers/0/last_error",
        "/flows/held_packets",
        "/interfaces/0/rx_missed",
        "/cores/0/busy_permille",
        "/policy/generation",
        "/policy/error",
        "/common/blocks",
    ] {
        assert!(json.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn flows_for_people() {
    let ran = Daemon::start().run(&["flows"]);
    succeeded(&ran);
    assert_eq!(
        ran.stdout,
        "\
PROTO  SOURCE            DESTINATION     STATE        ROLE    ZONES           RULE  SYNC          AGE  IDLE  PACKETS  REPLIES  BYTES  REPLIED
tcp    10.1.0.5:1000     10.2.0.9:80     established  owner   inside>outside  web   ack         1h 1m    2s       10       20    600    30000
udp    [fd00:1::5]:5353  [fd00:2::9]:53  new          backup  inside>outside  dns   ack (held)     5s    5s        1        0     80        0
"
    );
}

#[test]
fn filters_reach_the_daemon() {
    let daemon = Daemon::start();
    let words = ["proto=udp", "address=fd00:1::/32", "port=50-60", "limit=9"];
    let ran = daemon.run(&[&["flows"][..], &words].concat());
    succeeded(&ran);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
    let filter = words.join(" ").parse().unwrap();
    assert_eq!(
        daemon.asked(),
        Request::Flows {
            filter,
            count: false
        }
    );
}

#[test]
fn flows_as_json_lines() {
    let ran = Daemon::start().run(&["flows", "--json"]);
    succeeded(&ran);
    let flows: Vec<Flow> = ran
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(flows, crate::support::flows());
    let first: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["proto"], "tcp");
    assert_eq!(first["packets"], serde_json::json!([10, 20]));
    assert_eq!(first["incarnation"], u64::MAX);
}

#[test]
fn flows_are_counted_limited_and_absent() {
    let daemon = Daemon::start();
    let ran = daemon.run(&["flows", "--count"]);
    succeeded(&ran);
    assert_eq!(ran.stdout, "2\n");
    assert!(matches!(daemon.asked(), Request::Flows { count: true, .. }));
    let ran = daemon.run(&["flows", "--count", "proto=tcp", "--json"]);
    assert_eq!(ran.stdout, "{\"count\":1,\"truncated\":false}\n");

    let ran = daemon.run(&["flows", "limit=1"]);
    succeeded(&ran);
    assert_eq!(
        ran.stdout.lines().last(),
        Some("there are more flows, beyond the limit")
    );
    let ran = daemon.run(&["flows", "proto=sctp"]);
    succeeded(&ran);
    assert_eq!(ran.stdout, "no flows\n");
}

#[test]
fn counters_for_people_and_programs() {
    let daemon = Daemon::start();
    let ran = daemon.run(&["counters"]);
    succeeded(&ran);
    assert_eq!(
        ran.stdout,
        "\
COUNTER       TOTAL  BY SCOPE
rx_packets     1020  worker0 1000, worker1 20
records_sent      7  sync 7
"
    );
    let ran = daemon.run(&["counters", "--all", "--scope", "worker0"]);
    succeeded(&ran);
    assert!(
        ran.stdout.contains("\ndrops           0  worker0 0\n"),
        "{}",
        ran.stdout
    );
    let query = CounterQuery {
        nonzero: false,
        scope: Some("worker0".into()),
    };
    assert_eq!(daemon.asked(), Request::Counters { query });

    let ran = daemon.run(&["counters", "--json"]);
    let report: CounterReport = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report.sum["records_sent"], 7);
}

#[test]
fn watching_shows_rates_until_the_daemon_ends() {
    let mut daemon = Daemon::start();
    let mut child = daemon
        .command(&["counters", "--watch=0.02"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "COUNTER       TOTAL  BY SCOPE");
    assert_eq!(
        (next(), next(), next()).2,
        "",
        "a file gets no escape codes"
    );
    assert_eq!(next(), "COUNTER       TOTAL  PER SECOND  BY SCOPE");
    let row = next();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..2], ["rx_packets", "1021"]);
    let rate: u64 = cells[2].parse().unwrap();
    assert!(
        (1..=50).contains(&rate),
        "one more in 20 ms or somewhat longer: {row}"
    );

    daemon.stop();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    lines.for_each(|line| drop(line.unwrap()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(stderr.starts_with("ravelin: "), "{stderr}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let daemon = Daemon::start();
    for format in [
        &["flows", "zone=many"][..],
        &["flows", "zone=many", "--json"],
    ] {
        let mut child = daemon
            .command(format)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        // Dropped after one line, like `head -1`.
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        assert!(first.ends_with('\n'));
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    }
}

#[test]
fn versions_of_both_and_of_one_alone() {
    let mut daemon = Daemon::start();
    let ran = daemon.run(&["version"]);
    succeeded(&ran);
    let mine = format!(
        "ravelin {} (control protocol 1)\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        ran.stdout,
        format!("{mine}ravelind 9.8.7 (control protocol 1)\n")
    );
    daemon.stop();
    let ran = daemon.run(&["version"]);
    succeeded(&ran);
    let expected = format!("{mine}ravelind is not reached: there is no socket at ");
    assert!(ran.stdout.starts_with(&expected), "{}", ran.stdout);
    let ran = daemon.run(&["version", "--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["ravelind"], Value::Null);
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = Daemon::start();
    let mut command = crate::support::ravelin(&["flows", "--count"]);
    let ran: Ran = command
        .env("RAVELIN_SOCKET", daemon.path())
        .output()
        .unwrap()
        .into();
    succeeded(&ran);
    assert_eq!(ran.stdout, "2\n");
}

#[test]
fn errors_are_one_line_with_their_status() {
    let missing = "/nonexistent/ravelind.sock";
    for command in [
        &["status"][..],
        &["flows"],
        &["counters"],
        &["user", "list"],
        &["block", "del", "10.0.0.0/8"],
        &["policy", "show"],
        &["expect", "list"],
    ] {
        let ran = run(&[command, &["--socket", missing]].concat());
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{command:?}");
        assert_eq!(
            ran.stderr,
            format!(
                "ravelin: there is no socket at {missing}: is ravelind running? is --socket that \
                 of its [control] section?\n"
            )
        );
    }
    for (args, says) in [
        (
            &["flows", "tcp", "--socket", missing][..],
            "\"tcp\" is no filter: write KEY=VALUE",
        ),
        (
            &["flows", "src=10.0.0.0/99"],
            "src=10.0.0.0/99 is no address or network",
        ),
        (
            &["reboot"],
            "unrecognized subcommand 'reboot'; see ravelin --help",
        ),
        (
            &["stat"],
            "unrecognized subcommand 'stat'; tip: a similar subcommand exists: 'status';",
        ),
        (
            &["counters", "--watch=0"],
            "give seconds between 0.01 and 3600",
        ),
        (&["pki", "issue", "n1"], "--dir <DIR>"),
    ] {
        let ran = run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ran.stderr.starts_with("ravelin: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    let ran = run(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("ravelin:   status "), "{}", ran.stderr);
    let ran = run(&["--help"]);
    assert_eq!(ran.status, 0);
    assert!(ran.stdout.contains("RAVELIN_SOCKET"), "{}", ran.stdout);
}

/// The flow that the commands below name.
fn named() -> FlowName {
    FlowName {
        proto: Proto(6),
        src: "10.1.0.10".parse().unwrap(),
        sport: 40_000,
        dst: "10.2.0.10".parse().unwrap(),
        dport: 80,
    }
}

#[test]
fn one_flow_is_synchronised_marked_and_ended() {
    let daemon = Daemon::start();
    let ends = ["tcp", "10.1.0.10:40000", "10.2.0.10:80"];
    let run = |words: &[&str]| daemon.run(&[&["flow"], words, &ends].concat());
    for (words, asked, says) in [
        (
            &["sync"][..],
            FlowRequest::Sync { flow: named() },
            "sent; acknowledged by every backup after 1.2 ms\n",
        ),
        (
            &["mark", "7"],
            FlowRequest::Mark {
                flow: named(),
                value: 7,
            },
            "marked 7; acknowledged by every backup after 1.2 ms\n",
        ),
        (
            &["end"],
            FlowRequest::End { flow: named() },
            "ended; its copies learn of it right behind\n",
        ),
    ] {
        let ran = run(words);
        succeeded(&ran);
        assert_eq!(ran.stdout, says);
        assert_eq!(daemon.asked(), Request::Flow(asked));
    }
    let ran = daemon.run(&[&["flow", "sync", "--json"], &ends[..]].concat());
    succeeded(&ran);
    assert_eq!(ran.stdout, "{\"acknowledged\":true,\"waited_us\":1250}\n");
}

#[test]
fn a_flow_that_is_not_there_or_not_named_is_told() {
    let daemon = Daemon::start();
    let ran = daemon.run(&["flow", "end", "tcp", "10.1.0.10:1", "10.2.0.10:404"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr.contains("no such flow on this node"),
        "{}",
        ran.stderr
    );
    for (words, says) in [
        (
            &["end", "tcp", "10.1.0.10:1", "here"][..],
            "write 10.1.0.5:1000",
        ),
        (&["end", "tcpp", "10.1.0.10:1", "10.2.0.10:1"], "tcpp"),
        (&["mark", "-1", "tcp", "10.1.0.10:1", "10.2.0.10:1"], "-1"),
        (&["mark", "7"], "required"),
    ] {
        let ran = daemon.run(&[&["flow"], words].concat());
        assert_eq!(ran.status, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{words:?}: {}", ran.stderr);
    }
}

#[test]
fn a_drain_shows_its_progress_and_ends_with_the_daemon() {
    let daemon = Daemon::telling(Story::Leaves);
    let ran = daemon.run(&["drain"]);
    succeeded(&ran);
    let expected = "\
handing over: 170 of 341 slots handed over, waits for n3
final synchronisation: 341 of 341 slots handed over
releasing held packets: 341 of 341 slots handed over, 1 packet held
offline: 341 of 341 slots handed over
done after 21 ms: the daemon has ended
";
    assert_eq!(ran.stdout, expected);

    let daemon = Daemon::telling(Story::Stays);
    let ran = daemon.run(&["drain", "--stay", "--timeout", "500ms", "--force"]);
    succeeded(&ran);
    assert!(
        ran.stdout.contains("\ndrained: 341 of 341 slots"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.ends_with("ravelin undrain has it join again\n"));
}

#[test]
fn a_drain_is_asked_for_as_it_was_written() {
    let asked = |args: &[&str]| {
        let daemon = Daemon::start();
        assert_eq!(daemon.run(args).status, 1);
        daemon.asked()
    };
    let drain = |stay, bound_ms, force| Request::Drain {
        stay,
        bound_ms,
        force,
    };
    assert_eq!(asked(&["drain"]), drain(false, 10_000, false));
    assert_eq!(asked(&["drain", "--stay"]), drain(true, 10_000, false));
    let args = ["drain", "--force", "--timeout", "2m"];
    assert_eq!(asked(&args), drain(false, 120_000, true));
    assert_eq!(asked(&["undrain"]), Request::Undrain);
}

#[test]
fn a_drain_that_fails_says_why() {
    let ran = Daemon::start().run(&["drain"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "ravelin: ravelind: no other node is active\n");

    let ran = Daemon::telling(Story::Cut).run(&["drain"]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.stderr, "ravelin: packets are lost\n");
    assert!(ran.stdout.contains("offline: "), "{}", ran.stdout);

    let ran = Daemon::telling(Story::Abandoned).run(&["drain"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("nobody is left to take over"),
        "{}",
        ran.stderr
    );

    let ran = Daemon::start().run(&["drain", "--timeout", "10"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("for example 10s"), "{}", ran.stderr);
}

#[test]
fn a_drain_as_json_is_a_line_for_each_step() {
    let ran = Daemon::telling(Story::Leaves).run(&["--json", "drain"]);
    succeeded(&ran);
    let steps = ran.stdout.lines().map(|line| {
        let step: Value = serde_json::from_str(line).expect("JSON");
        step["phase"].as_str().expect("a phase").to_owned()
    });
    let steps: Vec<String> = steps.collect();
    assert_eq!(
        steps,
        ["handing_over", "final_sync", "releasing", "leaving"]
    );

    let ran = Daemon::telling(Story::Stays).run(&["--json", "undrain"]);
    succeeded(&ran);
    assert_eq!(ran.stdout.lines().count(), 1);
    let ran = Daemon::telling(Story::Stays).run(&["undrain"]);
    succeeded(&ran);
    assert!(ran.stdout.contains("joins again"), "{}", ran.stdout);
}
