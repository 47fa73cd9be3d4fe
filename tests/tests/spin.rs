//! A worker that spins makes no system call: `strace` looks at its thread while packets pass. That it uses no heap is
//! looked at in `crates/engine/tests/quiet.rs`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::wait_for;
use lab::cluster::online_cpus;
use lab::program::Binaries;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use telemetry::control::Client;
use telemetry::counters::{CounterQuery, CounterReport};
use tempfile::TempDir;
use wire::tcp::SYN;
use wire::{Mac, build};

/// net_pcap's own address for its first device.
const INSIDE: Mac = Mac([2, 0x70, 0x63, 0x61, 0x70, 0]);
const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 10]);
/// Flows that the packets are of; half of them TCP.
const FLOWS: u16 = 64;
/// How long strace looks.
const LOOK: Duration = Duration::from_secs(1);
/// The daemon and strace come up, and end, within this.
const SOON: Duration = Duration::from_secs(20);

/// A node alone, with packets without end from a file on one side and a device that takes all on the other.
struct Node {
    dir: TempDir,
    daemon: Child,
}

impl Node {
    /// With what one core does when there is nothing to do.
    fn start(name: &str, idle: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test traces a daemon: run it as root"
        );
        let dir = TempDir::new().expect("a folder");
        let node = |file: &str| dir.path().join(file);
        // Without end, or none at all: then the worker has nothing to do.
        let infinite = u8::from(idle == "spin");
        fs::write(node("in.pcap"), pcap(&frames())).expect("written");
        let cpu = *online_cpus().expect("known").last().expect("one");
        let text = format!(
            r#"
            [node]
            name = "{name}"
            [eal]
            hugepages = false
            memory_mb = 256
            [cores]
            idle = "{idle}"
            worker = [{cpu}]
            [control]
            socket = "{socket}"
            [[interface]]
            name = "inside"
            device = "net_pcap0,rx_pcap={pcap},infinite_rx={infinite}"
            zone = "inside"
            addresses = ["10.1.0.1/24"]
            [[interface]]
            name = "outside"
            device = "net_null0,no-rx=1"
            zone = "outside"
            addresses = ["10.2.0.1/24"]
            [[neighbour]]
            interface = "outside"
            address = "10.2.0.10"
            mac = "02:00:00:00:02:0a"
            [[rule]]
            name = "all"
            action = "allow"
            "#,
            socket = node("socket").display(),
            pcap = node("in.pcap").display(),
        );
        fs::write(node("n.toml"), text).expect("written");
        let log = fs::File::create(node("log")).expect("a log");
        let daemon = Binaries::locate().and_then(|binaries| binaries.ravelind());
        // Ends with this thread, however that ends: a daemon that spins must not be left behind.
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(daemon.expect("beside the test"))
            .arg("--config")
            .arg(node("n.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("starts");
        let node = Self { dir, daemon };
        wait_for("the daemon to forward", || match node.forwarded() {
            Ok(0) => Err(format!("it forwards nothing\n{}", node.log())),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}\n{}", node.log())),
        });
        node
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn forwarded(&self) -> Result<u64, String> {
        let socket = self.dir.path().join("socket");
        let mut client = Client::connect(&socket).map_err(|error| error.to_string())?;
        let report: CounterReport = client
            .counters(CounterQuery::default())
            .map_err(|error| error.to_string())?;
        Ok(report.sum.get("forwarded").copied().unwrap_or(0))
    }

    /// The worker's thread.
    fn worker(&self) -> i32 {
        let tasks = format!("/proc/{}/task", self.daemon.id());
        let mut names = vec![];
        for task in fs::read_dir(&tasks).expect("it runs").flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.trim() == "worker0" {
                let tid = task.file_name();
                return tid
                    .to_str()
                    .and_then(|tid| tid.parse().ok())
                    .expect("a number");
            }
            names.push(name);
        }
        panic!("no thread worker0 among {names:?}");
    }

    /// The system calls that the worker makes while somebody looks, a line each.
    fn system_calls(&self) -> Vec<String> {
        let trace = self.dir.path().join("trace");
        let mut strace = Command::new("strace")
            .args(["-p", &self.worker().to_string(), "-o"])
            .arg(&trace)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed (apt-get install strace)");
        // Until the thread has a tracer it is not looked at.
        let status = PathBuf::from(format!("/proc/{}/status", self.worker()));
        wait_for("strace to look", || {
            let status = fs::read_to_string(&status).map_err(|error| error.to_string())?;
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
            match tracer.map(|line| line.trim_end().ends_with("\t0")) {
                Some(false) => Ok(()),
                _ => Err(format!("{tracer:?}")),
            }
        });
        std::thread::sleep(LOOK);
        signal(&strace, Signal::SIGINT);
        ended(&mut strace, "strace");
        let trace = fs::read_to_string(&trace).expect("strace writes its file");
        // `--- SIGSTOP ---` and `+++ exited +++` are no calls, nor is what it says when it lets go.
        let calls = trace.lines().filter(|line| {
            !["---", "+++", "strace:"]
                .iter()
                .any(|other| line.starts_with(other))
        });
        calls.map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        signal(&self.daemon, Signal::SIGTERM);
        ended(&mut self.daemon, "the daemon");
    }
}

fn signal(child: &Child, signal: Signal) {
    // Its process is not waited for yet, so nobody else has its number.
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
}

fn ended(child: &mut Child, who: &str) {
    let start = Instant::now();
    while child.try_wait().expect("a child of ours").is_none() {
        if start.elapsed() > SOON {
            let _ = child.kill();
            let _ = child.wait();
            assert!(std::thread::panicking(), "{who} does not end");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn frames() -> Vec<Vec<u8>> {
    let frame = |n: u16| {
        let client = SocketAddr::from(([10, 1, 0, 10], 20_000 + n));
        let server = SocketAddr::from(([10, 2, 0, 10], 9_000));
        let frame = match n % 2 {
            0 => build::udp(client, server, b"datagram"),
            _ => build::tcp(client, server, SYN, 100, 0, &[]),
        };
        build::padded(build::with_macs(frame, INSIDE, CLIENT))
    };
    (0..FLOWS).map(frame).collect()
}

/// A file of frames in libpcap's classic format
/// (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    const ETHERNET: u32 = 1;
    let mut file = vec![];
    let words = |file: &mut Vec<u8>, words: &[u32]| {
        file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    // Magic, version 2.4, two words that are not used, the longest frame, the link.
    words(
        &mut file,
        &[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, ETHERNET],
    );
    for frame in frames {
        let len = frame.len() as u32;
        words(&mut file, &[0, 0, len, len]);
        file.extend(frame);
    }
    file
}

#[test]
fn a_spinning_worker_makes_no_system_call() {
    let node = Node::start("espin", "spin");
    let before = node.forwarded().expect("it answers");
    let calls = node.system_calls();
    let passed = node.forwarded().expect("it answers") - before;
    assert!(passed > 1_000, "hardly anything passed meanwhile: {passed}");
    assert_eq!(calls, [""; 0], "system calls of the worker");
}

/// The negative control: where the worker may sleep, that is seen.
#[test]
fn a_sleeping_worker_is_seen_to_sleep() {
    let node = Node::start("esleep", "sleep");
    let calls = node.system_calls();
    let slept = calls.iter().filter(|call| call.contains("clock_nanosleep"));
    assert!(slept.count() > 10, "{calls:?}");
}
