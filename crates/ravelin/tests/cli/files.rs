//! Commands that work on files: configurations and certificates.

use crate::support::{Ran, example, run};
use serde_json::Value;

fn check(path: &std::path::Path, more: &[&str]) -> Ran {
    run(&[&["check", path.to_str().unwrap()][..], more].concat())
}

#[test]
fn the_examples_are_good() {
    for name in [
        "single.toml",
        "three-node/n1.toml",
        "three-node/n2.toml",
        "three-node/n3.toml",
    ] {
        let ran = check(&example(name), &[]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{name}");
    }
    let ran = check(&example("three-node/n2.toml"), &[]);
    let says =
        "n2.toml: ok: node n2 of cluster lab with 3 members, 1 worker, 2 interfaces, 2 routes, ";
    assert!(ran.stdout.contains(says), "{}", ran.stdout);
}

#[test]
fn json_has_what_the_boot_script_needs() {
    let ran = check(&example("three-node/n1.toml"), &["--json"]);
    assert_eq!(ran.status, 0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["summary"]["hugepages"], false);
    assert_eq!(json["summary"]["memory_mb"], 512);
    assert_eq!(json["summary"]["worker_cpus"], serde_json::json!([0]));
}

#[test]
fn a_packet_is_explained() {
    let packet = "inside outside tcp 10.1.0.5:1000 10.2.0.9:80";
    let reverse = "outside inside tcp 10.2.0.9:80 10.1.0.5:1000";
    let path = example("single.toml");
    let ran = check(&path, &["--explain", packet, "--explain", reverse]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(
        ran.stdout.contains("\nallow by rule \"out\""),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("no rule matches"), "{}", ran.stdout);

    let ran = check(
        &path,
        &["--json", "--explain", packet, "--explain", reverse],
    );
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["explanations"][0]["action"], "allow");
    assert_eq!(json["explanations"][0]["rule"], "out");
    assert_eq!(json["explanations"][1]["action"], "deny");
    assert_eq!(json["explanations"][1]["rule"], Value::Null);

    let ran = check(&path, &["--explain", "inside dmz icmp 10.1.0.5 10.2.0.9"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
    assert_eq!(
        ran.stderr,
        "ravelin: there is no zone \"dmz\": the zones are inside, outside\n"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    let good = std::fs::read_to_string(example("single.toml")).unwrap();
    let bad = good
        .replace("idle = \"pause\"", "idle = \"doze\"")
        .replace("10.1.0.1/24", "10.1.0.0/24");
    std::fs::write(&path, bad).unwrap();

    let ran = check(&path, &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    let prefix = format!("ravelin: {}:", path.display());
    assert!(
        ran.stderr.lines().all(|line| line.starts_with(&prefix)),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("\"doze\""), "{}", ran.stderr);

    let ran = check(&path, &["--json"]);
    assert_eq!(ran.status, 2);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["ok"], false);
    let line = good.lines().position(|l| l.contains("pause")).unwrap() + 1;
    assert_eq!(json["errors"][0]["line"], line);
    assert_eq!(json["errors"].as_array().unwrap().len(), 2);

    let absent = dir.path().join("absent.toml");
    let ran = check(&absent, &[]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("absent.toml: No such file"),
        "{}",
        ran.stderr
    );
}

#[test]
fn doubts_are_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.toml");
    let good = std::fs::read_to_string(example("single.toml")).unwrap();
    std::fs::write(&path, format!("{good}\n[control]\nmode = 0o666\n")).unwrap();
    let ran = check(&path, &[]);
    assert_eq!(ran.status, 0);
    assert!(ran.stdout.contains(": ok: "), "{}", ran.stdout);
    let prefix = format!("ravelin: warning: {}:", path.display());
    assert!(ran.stderr.starts_with(&prefix), "{}", ran.stderr);
    let ran = check(&path, &["--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["warnings"][0]["key"], "control.mode");
}

#[test]
fn certificates_are_made_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ca = at("ca");

    let ran = run(&["pki", "init", "--dir", &ca, "--cluster", "lab"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(
        ran.stdout
            .starts_with(&format!("{ca}/ca.pem and {ca}/ca.key, valid until 20"))
    );

    let ran = run(&[
        "pki",
        "issue",
        "n1",
        "--dir",
        &ca,
        "--out",
        &at("n1"),
        "--json",
    ]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let cert = json["cert"].as_str().unwrap();
    assert_eq!(cert, at("n1/n1.pem"));

    let ran = run(&["pki", "show", cert]);
    assert_eq!(ran.status, 0);
    assert!(
        ran.stdout.starts_with("node n1 of cluster lab, valid\n"),
        "{}",
        ran.stdout
    );
    let ran = run(&["pki", "show", &format!("{ca}/ca.pem")]);
    assert!(
        ran.stdout.starts_with("authority of cluster lab, valid\n"),
        "{}",
        ran.stdout
    );

    // One day is less than two years, and both are told in the same form.
    let ran = run(&["pki", "issue", "n2", "--dir", &ca, "--days", "1", "--json"]);
    let short: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(short["cert"], format!("{ca}/n2.pem"));
    let until = |json: &Value| json["not_after"].as_str().unwrap().to_owned();
    assert!(until(&short) < until(&json));
    let ran = run(&["pki", "show", &format!("{ca}/n2.pem"), "--json"]);
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(until(&shown), until(&short));
    assert_eq!(shown["validity"], "valid");
    assert_eq!(shown["authority"], false);
}

#[test]
fn certificates_that_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().to_str().unwrap();
    for (args, status, says) in [
        (
            &["init", "--dir", ca, "--cluster", "a.b"][..],
            2,
            "the cluster name \"a.b\"",
        ),
        (&["issue", "n1", "--dir", ca], 1, "ca.pem"),
        (
            &["issue", "n1", "--dir", ca, "--days", "0"],
            2,
            "0 is not in 1..=36525",
        ),
        (
            &["show", "/nonexistent.pem"],
            1,
            "cannot read /nonexistent.pem",
        ),
    ] {
        let ran = run(&[&["pki"][..], args].concat());
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (status, ""),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.starts_with("ravelin: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    run(&["pki", "init", "--dir", ca, "--cluster", "lab"]);
    let ran = run(&["pki", "init", "--dir", ca, "--cluster", "lab"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("exists and is not overwritten"),
        "{}",
        ran.stderr
    );
}

/// On whatever machine this runs: the proposal is valid TOML with the three sections, and JSON says the same.
#[test]
fn tune_proposes_sections_for_this_machine() {
    let ravelin = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"))
            .args(args)
            .output()
            .expect("runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    let text = ravelin(&["tune", "--flows", "2048"]);
    for section in ["\n[cores]\n", "\n[eal]\n", "\n[flows]\n"] {
        assert!(text.contains(section), "{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&ravelin(&["--json", "tune", "--flows", "2048"])).expect("JSON");
    assert_eq!(json["plan"]["capacity"], 2048);
    assert!(
        !json["machine"]["cpus"]
            .as_array()
            .expect("a list")
            .is_empty()
    );
    assert!(
        json["toml"]
            .as_str()
            .expect("a text")
            .contains("capacity = 2048")
    );
}
