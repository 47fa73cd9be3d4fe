//! What a daemon cannot start with: one clear error, the exit status that `ravelind --help` names,
//! within seconds, and nothing left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{cluster, topology, wait_for};
use lab::Namespace;
use lab::cluster::online_cpus;
use lab::node_config::Settings;
use lab::program::Binaries;
use tempfile::TempDir;
use time::OffsetDateTime;
use transport::pki;

/// Exit status for what the configuration can mend.
const CONFIGURATION: i32 = 2;
/// Exit status for what it cannot.
const RUN_TIME: i32 = 1;
/// A daemon that cannot start says so within this time.
const SOON: Duration = Duration::from_secs(10);

/// A node's folder: configuration and certificates as the lab makes them, to be spoilt.
struct Node {
    dir: TempDir,
    config: toml::Table,
}

/// How a daemon ended.
struct Refusal {
    status: Option<i32>,
    /// Its lines that start with its name: what is for the user. The log is not among them.
    errors: Vec<String>,
    output: String,
}

impl Node {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        pki::init(dir.path(), "lab").expect("an authority");
        pki::issue(dir.path(), "n1", dir.path()).expect("a certificate");
        let socket = dir.path().join("socket").display().to_string();
        let cpus = online_cpus().expect("known");
        let text = Settings::new(3).toml(1, &cpus, &socket, "e-refused");
        let config = text.expect("serialises").parse().expect("parses");
        Self { dir, config }
    }

    /// Sets a key, such as `eal.hugepages`.
    fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        let (section, key) = path.split_once('.').expect("a section and a key");
        let section = self.config[section].as_table_mut().expect("a section");
        section.insert(key.into(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a daemon that must not come up.
    fn refused(&self, inside: Option<&Namespace>) -> Refusal {
        self.text_refused(&self.config.to_string(), inside)
    }

    fn text_refused(&self, text: &str, inside: Option<&Namespace>) -> Refusal {
        let config = self.path("n1.toml");
        fs::write(&config, text).expect("written");
        let refusal = refused(&config, inside);
        // A socket that was made is removed again.
        assert!(!self.path("socket").exists(), "{}", refusal.output);
        refusal
    }
}

fn refused(config: &Path, inside: Option<&Namespace>) -> Refusal {
    let daemon = Binaries::locate().and_then(|binaries| binaries.ravelind());
    let daemon = daemon.expect("beside the test");
    let output = tempfile::NamedTempFile::new().expect("a file");
    let mut command = match inside {
        None => Command::new(daemon),
        Some(space) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", space.name()]).arg(daemon);
            command
        }
    };
    let out = || File::options().append(true).open(output.path());
    let child = command
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(out().expect("opened"))
        .stderr(out().expect("opened"))
        .spawn();
    let mut child = Ended(child.expect("it starts"));
    let begin = Instant::now();
    let mut status = None;
    wait_for("the daemon to end", || {
        status = child.0.try_wait().expect("waited for");
        match status {
            Some(_) => Ok(()),
            None => Err(fs::read_to_string(output.path()).expect("read")),
        }
    });
    let output = fs::read_to_string(output.path()).expect("text");
    assert!(begin.elapsed() < SOON, "{:?}: {output}", begin.elapsed());
    Refusal {
        status: status.expect("it ended").code(),
        errors: output
            .lines()
            .filter_map(|line| line.strip_prefix("ravelind: "))
            .map(str::to_owned)
            .collect(),
        output,
    }
}

/// A child that does not outlive a test that fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended, unless the test fails: then there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Refusal {
    /// Ended with this status, and its first error has all these words.
    #[track_caller]
    fn says(&self, status: i32, words: &[&str]) -> &Self {
        let output = &self.output;
        assert_eq!(self.status, Some(status), "{output}");
        assert!(!output.contains("panicked"), "{output}");
        let error = self.errors.first();
        let error = error.unwrap_or_else(|| panic!("no error: {output}"));
        for word in words {
            assert!(error.contains(word), "no {word:?} in: {error}\n{output}");
        }
        self
    }

    /// And that is all that it said.
    #[track_caller]
    fn only(&self) {
        assert_eq!(self.errors.len(), 1, "{}", self.output);
    }
}

#[test]
fn no_configuration() {
    let node = Node::new();
    refused(&node.path("nowhere.toml"), None)
        .says(CONFIGURATION, &["nowhere.toml", "No such file"])
        .only();
}

#[test]
fn wrong_toml_is_shown_with_its_place() {
    let node = Node::new();
    node.text_refused("[node]\nname = n1\n", None)
        .says(CONFIGURATION, &["n1.toml:2:8", "\""])
        .only();
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let node = Node::new()
        .set("cluster.backups", 7)
        .set("cores.idel", "sleep");
    let refusal = node.refused(None);
    refusal.says(CONFIGURATION, &["n1.toml:"]);
    let all = refusal.errors.join("\n");
    for words in ["cores.idel: unknown key", " idle, ", "cluster.backups: 7"] {
        assert!(all.contains(words), "no {words} in: {all}");
    }
}

#[test]
fn a_cpu_that_the_machine_does_not_have() {
    Node::new()
        .set("cores.sync", 1023)
        .refused(None)
        .says(CONFIGURATION, &["1023"])
        .only();
}

#[test]
fn an_interface_that_does_not_exist() {
    // in0 and out0 exist in a node's namespace only, and this is none.
    Node::new()
        .refused(None)
        .says(RUN_TIME, &["net_af_packet0,iface=in0", "exist"]);
}

#[test]
fn hugepages_that_are_not_there() {
    // More than any machine has, so that this is also true where some are reserved.
    Node::new()
        .set("eal.hugepages", true)
        .set("eal.memory_mb", 1_048_576)
        .refused(None)
        .says(
            RUN_TIME,
            &["hugepages", "1048576 MB", "vm.nr_hugepages", "false"],
        )
        .only();
}

#[test]
fn a_certificate_of_another_authority() {
    let node = Node::new();
    // Of the same name: what counts is the key.
    let other = node.path("other");
    pki::init(&other, "lab").expect("an authority");
    fs::copy(other.join("ca.pem"), node.path("ca.pem")).expect("copied");
    node.refused(None)
        .says(RUN_TIME, &["n1.pem", "ca.pem", "issue"])
        .only();
}

#[test]
fn a_key_of_another_certificate() {
    let node = Node::new();
    let issued = pki::issue(node.dir.path(), "n2", node.dir.path()).expect("a certificate");
    fs::copy(issued.key, node.path("n1.key")).expect("copied");
    node.refused(None)
        .says(RUN_TIME, &["n1.key", "n1.pem", "ravelin pki issue"])
        .only();
}

#[test]
fn a_certificate_that_has_expired() {
    let node = Node::new();
    let now = OffsetDateTime::now_utc();
    let past = pki::Validity {
        not_before: now - time::Duration::days(3),
        not_after: now - time::Duration::days(1),
    };
    for file in ["n1.pem", "n1.key"] {
        fs::remove_file(node.path(file)).expect("it was there");
    }
    pki::issue_with(node.dir.path(), "n1", node.dir.path(), past).expect("a certificate");
    node.refused(None)
        .says(RUN_TIME, &["n1.pem expired on", "ravelin pki issue n1"])
        .only();
}

#[test]
fn no_certificate() {
    let node = Node::new();
    fs::remove_file(node.path("n1.pem")).expect("it was there");
    node.refused(None)
        .says(RUN_TIME, &["n1.pem", "No such file"])
        .only();
}

/// In a namespace with the interfaces, because the names are compared when the addresses are bound.
#[test]
fn a_certificate_of_another_node_or_cluster() {
    let topology = topology("ename");
    let space = topology.node(1);

    let node = Node::new()
        .set("pki.cert", "n2.pem")
        .set("pki.key", "n2.key");
    pki::issue(node.dir.path(), "n2", node.dir.path()).expect("a certificate");
    node.refused(Some(&space))
        .says(RUN_TIME, &["n1", "n2", "lab"])
        .only();

    Node::new()
        .set("cluster.name", "factory")
        .refused(Some(&space))
        .says(RUN_TIME, &["n1", "lab", "factory"])
        .only();
    topology.down().expect("it goes down");
}

/// The second one ends before it touches anything that is the first one's.
#[test]
fn a_second_daemon_on_the_same_socket() {
    let mut cluster = cluster("etwice", &Settings::new(3));
    let config = cluster.topology().folder("config").expect("there");
    let space = cluster.topology().node(1);
    refused(&config.join("n1.toml"), Some(&space))
        .says(RUN_TIME, &["another ravelind", "n1.sock"])
        .only();
    e2e::wait_whole(&mut cluster);
}
