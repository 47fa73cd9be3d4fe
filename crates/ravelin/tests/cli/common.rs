//! Commands about state that all nodes have, against a daemon with fixed answers: what they ask,
//! what they print, and how they end.

use serde_json::{Value, json};
use telemetry::control::{
    BlockRequest, Blocked, Change, Expected, FailureKind, LoggedIn, PolicyLoaded, PolicyNode,
    PolicyRefusal, PolicyRequest, PolicyShown, Proto, Request, Responder, UserRequest,
};

use crate::support::{Daemon, Ran, run};

/// Answers, by what the request is about: names and networks are the switches.
pub(crate) fn answer(request: Request, responder: &mut Responder<'_>) {
    let nodes = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let everywhere = Change {
        entries: 1,
        on: nodes(&["n1", "n2", "n3"]),
        ..Change::default()
    };
    match request {
        Request::User(UserRequest::Login { name, .. }) => responder.change(&match &*name {
            "alone" => Change {
                on: nodes(&["n1"]),
                ..everywhere
            },
            "late" => Change {
                on: nodes(&["n1", "n2"]),
                lacking: nodes(&["n3"]),
                ..everywhere
            },
            _ => Change {
                replaced: (name == "second").then(|| "bob".into()),
                ..everywhere
            },
        }),
        Request::User(UserRequest::Logout { name, .. }) if name.as_deref() == Some("nobody") => {
            responder.fail(FailureKind::Absent, "nobody is not logged in");
        }
        Request::User(UserRequest::Logout { .. }) => responder.change(&everywhere),
        Request::User(UserRequest::List) => {
            for user in users() {
                responder.user(&user).unwrap();
            }
        }
        Request::Block(BlockRequest::Add { net, .. }) if net.prefix_len() == 0 => {
            responder.fail(FailureKind::Invalid, format!("{net} is everything"));
        }
        Request::Block(BlockRequest::Add { .. } | BlockRequest::Del { .. }) => {
            responder.change(&everywhere);
        }
        Request::Block(BlockRequest::List) => {
            for block in blocks() {
                responder.block(&block).unwrap();
            }
        }
        Request::Policy(PolicyRequest::Load { text, .. }) if text.contains("refuse") => {
            responder.policy_loaded(&PolicyLoaded {
                refused: vec![PolicyRefusal {
                    node: "n2".into(),
                    error: "policy:1:2: no zone\npolicy:3:4: no zone".into(),
                }],
                lacking: nodes(&["n3"]),
                on: nodes(&["n1"]),
                ..loaded()
            });
        }
        Request::Policy(PolicyRequest::Load { text, .. }) if text.contains("wrong") => {
            responder.fail(FailureKind::Invalid, "r.toml:1:1: one\nr.toml:2:2: two");
        }
        Request::Policy(PolicyRequest::Load { .. }) => responder.policy_loaded(&loaded()),
        Request::Policy(PolicyRequest::Show) => responder.policy_shown(&PolicyShown {
            generation: 4,
            source: "rules.toml".into(),
            loaded_on: Some("n2".into()),
            text: Some("[[rule]]\nname = \"web\"\n".into()),
            refusal: None,
            nodes: vec![
                PolicyNode {
                    node: "n1".into(),
                    generation: 4,
                    error: None,
                },
                PolicyNode {
                    node: "n3".into(),
                    generation: 3,
                    error: Some("policy:1:2: no zone\nmore".into()),
                },
            ],
        }),
        Request::Expect(_) => responder.expectation(&expected()).unwrap(),
        other => panic!("{other:?} is not about common state"),
    }
}

fn loaded() -> PolicyLoaded {
    PolicyLoaded {
        generation: 4,
        rules: 2,
        warnings: vec!["3:1: rule.b: never decides".into()],
        on: vec!["n1".into(), "n2".into(), "n3".into()],
        lacking: vec![],
        refused: vec![],
    }
}

fn users() -> Vec<LoggedIn> {
    let alice = LoggedIn {
        name: "alice".into(),
        address: "10.1.0.7".parse().unwrap(),
        groups: vec!["staff".into(), "ops".into()],
        left_s: Some(7_500),
        node: "n1".into(),
    };
    let bob = LoggedIn {
        name: "bob".into(),
        address: "fd00:1::9".parse().unwrap(),
        groups: vec![],
        left_s: None,
        node: "n3".into(),
    };
    vec![alice, bob]
}

fn blocks() -> Vec<Blocked> {
    let block = |net: &str, reason: &str, note: &str, left_s| Blocked {
        net: net.parse().unwrap(),
        reason: reason.into(),
        note: note.into(),
        left_s,
        node: "n2".into(),
    };
    vec![
        block("192.0.2.0/24", "operator", "mail\u{1b}[2J relays", None),
        block("198.51.100.7/32", "syn-scan", "", Some(599)),
    ]
}

fn expected() -> Expected {
    Expected {
        proto: Proto(6),
        src: None,
        dst: "10.2.0.9".parse().unwrap(),
        dport: 20_000,
        zone_from: "inside".into(),
        zone_to: "outside".into(),
        rule: "ftp".into(),
        sync: "ack".into(),
        once: true,
        parent: "tcp 10.1.0.5:1000 -> 10.2.0.9:21".into(),
        left_s: Some(58),
        node: "n1".into(),
    }
}

#[track_caller]
fn prints(ran: &Ran, text: &str) {
    assert_eq!(
        (ran.status, ran.stderr.as_str(), ran.stdout.as_str()),
        (0, "", text)
    );
}

#[test]
fn users_log_in_and_out() {
    let daemon = Daemon::start();
    let login = ["user", "login", "alice", "--address", "10.1.0.7"];
    prints(
        &daemon.run(&[&login[..], &["--groups", "staff,ops", "--for", "8h"]].concat()),
        "alice is logged in at 10.1.0.7 for 8h, on all 3 nodes\n",
    );
    let asked = UserRequest::Login {
        name: "alice".into(),
        address: "10.1.0.7".parse().unwrap(),
        groups: vec!["staff".into(), "ops".into()],
        for_ms: Some(8 * 3_600_000),
    };
    assert_eq!(daemon.asked(), Request::User(asked));
    prints(
        &daemon.run(&["user", "login", "second", "--address", "fd00::1"]),
        "second is logged in at fd00::1, on all 3 nodes (before: bob)\n",
    );
    prints(
        &daemon.run(&["user", "login", "alone", "--address", "10.1.0.7"]),
        "alone is logged in at 10.1.0.7, on n1\n",
    );
    for (args, says) in [
        (&["alice"][..], "alice is logged out"),
        (
            &["--address", "10.1.0.7"],
            "nobody is logged in at 10.1.0.7 any more",
        ),
        (
            &["alice", "--address", "10.1.0.7"],
            "alice is logged out at 10.1.0.7",
        ),
    ] {
        let ran = daemon.run(&[&["user", "logout"], args].concat());
        prints(&ran, &format!("{says}, on all 3 nodes\n"));
    }
    let ran = daemon.run(&["user", "logout", "nobody"]);
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (1, "ravelin: ravelind: nobody is not logged in\n")
    );
}

#[test]
fn a_change_that_a_node_lacks_has_a_status_of_its_own() {
    let daemon = Daemon::start();
    let login = ["user", "login", "late", "--address", "10.1.0.7"];
    let ran = daemon.run(&login);
    assert_eq!(ran.status, 3);
    assert_eq!(ran.stdout, "late is logged in at 10.1.0.7, on n1, n2\n");
    assert_eq!(
        ran.stderr,
        "ravelin: n3 has not confirmed it in time; it gets it as soon as it can be reached\n"
    );
    let ran = daemon.run(&[&login[..], &["--json"]].concat());
    assert_eq!(ran.status, 3);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["lacking"], json!(["n3"]));
}

#[test]
fn lists_of_common_state() {
    let daemon = Daemon::start();
    prints(
        &daemon.run(&["user", "list"]),
        "\
USER   ADDRESS    GROUPS         LEFT  SET BY
alice  10.1.0.7   staff,ops     2h 5m  n1
bob    fd00:1::9             for ever  n3
",
    );
    // What a note has for a terminal does not reach it.
    prints(
        &daemon.run(&["block", "list"]),
        "\
NETWORK          REASON        LEFT  SET BY  NOTE
192.0.2.0/24     operator  for ever  n2      mail [2J relays
198.51.100.7/32  syn-scan    9m 59s  n2
",
    );
    prints(
        &daemon.run(&["expect", "list"]),
        "\
PROTO  SOURCE  DESTINATION     ZONES           RULE  SYNC  USES  LEFT  SET BY  PARENT
tcp    any     10.2.0.9:20000  inside>outside  ftp   ack   once   58s  n1      tcp 10.1.0.5:1000 -> 10.2.0.9:21
",
    );
    let ran = daemon.run(&["block", "list", "--json"]);
    let blocks: Vec<Blocked> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(blocks, self::blocks());
}

#[test]
fn networks_are_blocked() {
    let daemon = Daemon::start();
    prints(
        &daemon.run(&["block", "add", "192.0.2.7", "--for", "10m", "--note", "why"]),
        "192.0.2.7/32 is blocked for 10m, on all 3 nodes\n",
    );
    let asked = BlockRequest::Add {
        net: "192.0.2.7/32".parse().unwrap(),
        for_ms: Some(600_000),
        note: "why".into(),
    };
    assert_eq!(daemon.asked(), Request::Block(asked));
    prints(
        &daemon.run(&["block", "del", "192.0.2.0/24"]),
        "192.0.2.0/24 is not blocked any more, on all 3 nodes\n",
    );
    let ran = daemon.run(&["block", "add", "0.0.0.0/0"]);
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (2, "ravelin: ravelind: 0.0.0.0/0 is everything\n")
    );
}

#[test]
fn rules_are_loaded_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("r.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let daemon = Daemon::start();
    let path = file("good");
    let ran = daemon.run(&["policy", "load", &path]);
    assert_eq!(ran.status, 0);
    assert_eq!(
        ran.stdout,
        format!("2 rules of {path} in force as generation 4, on all 3 nodes\n")
    );
    assert_eq!(
        ran.stderr,
        format!("ravelin: warning: {path}:3:1: rule.b: never decides\n")
    );
    let asked = PolicyRequest::Load {
        text: "good".into(),
        source: path.clone(),
    };
    assert_eq!(daemon.asked(), Request::Policy(asked));

    let ran = daemon.run(&["policy", "load", &file("refuse")]);
    assert_eq!(ran.status, 3);
    assert!(
        ran.stdout.ends_with("generation 4, on n1\n"),
        "{}",
        ran.stdout
    );
    let errors = ran.stderr.split_once("never decides\n").unwrap().1;
    assert_eq!(
        errors,
        "ravelin: n3 has not confirmed it in time; it gets it as soon as it can be reached\n\
         ravelin: n2 cannot use these rules and keeps those that it has:\n\
         ravelin: n2: policy:1:2: no zone\n\
         ravelin: n2: policy:3:4: no zone\n"
    );
    let ran = daemon.run(&["policy", "load", &file("wrong")]);
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (
            2,
            "ravelin: ravelind: r.toml:1:1: one\nravelin: r.toml:2:2: two\n"
        )
    );
    let ran = daemon.run(&["policy", "load", &file(&"#".repeat(512 * 1024 + 1))]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("has 524289 bytes"), "{}", ran.stderr);
    let ran = daemon.run(&["policy", "load", "/nonexistent.toml"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("cannot read /nonexistent.toml"),
        "{}",
        ran.stderr
    );

    prints(
        &daemon.run(&["policy", "show"]),
        "\
generation 4: rules.toml, loaded on n2
n3 has generation 3: policy:1:2: no zone

[[rule]]
name = \"web\"
",
    );
    let ran = daemon.run(&["policy", "show", "--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["nodes"][1]["generation"], 3);
}

#[test]
fn what_is_written_wrong_is_said_without_a_daemon() {
    for (args, says) in [
        (
            &["user", "login", "a b", "--address", "10.1.0.7"][..],
            "\"a b\" is no name",
        ),
        (&["user", "login", "alice"], "--address <ADDRESS>"),
        (
            &["user", "login", "alice", "--address", "10.1.0"],
            "invalid IP address syntax",
        ),
        (
            &[
                "user",
                "login",
                "alice",
                "--address",
                "10.1.0.7",
                "--for",
                "8 hours",
            ],
            "not a duration; write a whole number and a unit",
        ),
        (
            &[
                "user",
                "login",
                "alice",
                "--address",
                "10.1.0.7",
                "--for",
                "1ms",
            ],
            "out of range; write 1s to 3650d",
        ),
        (
            &[
                "user",
                "login",
                "alice",
                "--address",
                "10.1.0.7",
                "--groups",
                "a,,b",
            ],
            "\"\" is no name",
        ),
        (&["user", "logout"], "<NAME|--address <ADDRESS>>"),
        (
            &["block", "add", "10.0.0.1/8"],
            "write \"10.0.0.0/8\" or \"10.0.0.1/32\"",
        ),
        (&["block", "add", "any"], "not a network; write one such as"),
        (&["block", "add", "!10.0.0.0/8"], "not a network"),
        (&["block", "del", "lan"], "not a network"),
        (&["policy", "load"], "<FILE>"),
    ] {
        let ran = run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    for command in [
        &["user", "login"][..],
        &["user", "logout"],
        &["user", "list"],
        &["block", "add"],
        &["block", "del"],
        &["block", "list"],
        &["policy", "load"],
        &["policy", "show"],
        &["expect", "list"],
    ] {
        let ran = run(&[command, &["--help"]].concat());
        let example = format!("ravelin {}", command.join(" "));
        let examples = ran.stdout.split("Example").nth(1).unwrap_or_default();
        assert!(examples.contains(&example), "{command:?}: {}", ran.stdout);
    }
}
