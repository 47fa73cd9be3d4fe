//! dpdk-testpmd's flow generator on the `gen` namespace's interface, kept at a modest rate and
//! away from the machine's CPUs.
//!
//! testpmd has no rate limit and its forwarding core never rests. Two things hold it back: a token
//! bucket on the interface, which testpmd feels as a full ring (it then repeats the flow, so no
//! flow is skipped; this needs `qdisc_bypass=0`), and a duty cycle of SIGSTOP and SIGCONT that
//! leaves it just the time to keep that ring filled.

use std::io::Write;
use std::path::Path;
use std::process::ChildStdin;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Process, Spawn, fresh_log};
use crate::program::run;
use crate::state::StateDir;
use crate::wait::{Interrupt, Poll, wait_until};
use crate::{Error, Namespace, Result};

/// Bytes of a frame, as the interface counts them: testpmd's 64 without the check sequence.
const FRAME_BYTES: u64 = 60;
const RUN: Duration = Duration::from_millis(10);
const REST: Duration = Duration::from_millis(70);

/// A running generator.
#[derive(Debug)]
pub struct FlowGenerator {
    // First: the cycle must stop before the process can be reaped and its id used again.
    duty: DutyCycle,
    process: Process,
    stdin: ChildStdin,
    space: Namespace,
}

impl FlowGenerator {
    /// Starts it in `space`: `flows` flows, round and round, `rate` packets a second. Returns once
    /// it sends.
    pub fn start(
        space: &Namespace,
        state: &StateDir,
        logs: &Path,
        flows: u32,
        rate: u64,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let bits = (rate * FRAME_BYTES * 8).to_string();
        let limit = [
            "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &bits, "burst", "3000",
            "limit", "1000000",
        ];
        run(Some(space), "tc", &limit, "")?;

        let log = fresh_log(logs, "testpmd")?;
        let mut process = Spawn::new("testpmd", "nice")
            .args([
                "-n",
                "10",
                "dpdk-testpmd",
                "--no-huge",
                "--no-shconf",
                "--no-telemetry",
                "--no-pci",
            ])
            .args([
                "-m",
                "128",
                "--lcores",
                "0@0,1@0",
                "--file-prefix",
                space.name(),
            ])
            .args([
                "--vdev",
                "net_af_packet0,iface=eth0,qdisc_bypass=0",
                "--",
                "-i",
            ])
            .args([
                "--forward-mode=flowgen",
                "--txpkts=64",
                "--burst=4",
                "--total-num-mbufs=2048",
            ])
            .args([format!("--flowgen-flows={flows}")])
            .inside(space)
            .start(state, &log)?;
        let mut stdin = process.take_stdin().ok_or_else(|| {
            Error::Scenario("testpmd was started without a standard input".into())
        })?;
        let before = sent_packets(space)?;
        command(&mut stdin, "start")?;
        let every = Duration::from_millis(20);
        wait_until(
            "testpmd to send",
            Duration::from_secs(30),
            every,
            interrupt,
            || {
                process.must_run()?;
                let sends = sent_packets(space)? > before + 16;
                Ok(if sends {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!("see {}", log.display()))
                })
            },
        )?;
        let duty = DutyCycle::start(process.pid());
        Ok(Self {
            duty,
            process,
            stdin,
            space: space.clone(),
        })
    }

    /// Packets that left the generator's interface.
    pub fn sent(&self) -> Result<u64> {
        sent_packets(&self.space)
    }

    /// Stops it and waits for its end, and until all that it left has gone out. Returns the
    /// packets that it sent.
    pub fn finish(mut self) -> Result<u64> {
        self.duty.stop();
        command(&mut self.stdin, "stop")?;
        command(&mut self.stdin, "quit")?;
        let limit = Duration::from_secs(20);
        match self.process.wait_timeout(limit)? {
            Some(status) if status.success() => {}
            Some(status) => return Err(self.process.ended_error(status)),
            None => {
                let what = "testpmd to end".into();
                return Err(Error::Timeout {
                    what,
                    after: limit,
                    detail: String::new(),
                });
            }
        }
        let every = Duration::from_millis(20);
        wait_until(
            "the token bucket to drain",
            limit,
            every,
            &Interrupt::default(),
            || {
                let left = backlog(&self.space)?;
                Ok(if left == 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!("{left} bytes are left"))
                })
            },
        )?;
        self.sent()
    }
}

/// Stops and continues a process in turns, until it is dropped; then the process runs.
#[derive(Debug)]
struct DutyCycle {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DutyCycle {
    /// `pid` must not be reaped while this lives.
    fn start(pid: i32) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let pid = Pid::from_raw(pid);
            let over = |pause| ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
            loop {
                // A zombie takes signals without effect; its end is seen by who waits for it.
                let _ = kill(pid, Signal::SIGSTOP);
                let last = over(REST);
                let _ = kill(pid, Signal::SIGCONT);
                if last || over(RUN) {
                    return;
                }
            }
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }

    fn stop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for DutyCycle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn command(stdin: &mut ChildStdin, line: &str) -> Result<()> {
    writeln!(stdin, "{line}").map_err(Error::system(format!("tell testpmd to `{line}`")))
}

/// The packets that the namespace's eth0 has sent (`/proc/net/dev`: the tenth figure).
fn sent_packets(space: &Namespace) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let table = space
        .enter(|| std::fs::read_to_string(path))?
        .map_err(Error::file("read", path))?;
    table
        .lines()
        .find_map(|line| {
            line.trim_start()
                .strip_prefix("eth0:")?
                .split_whitespace()
                .nth(9)?
                .parse()
                .ok()
        })
        .ok_or_else(|| Error::Scenario(format!("{} has no eth0", space.name())))
}

/// Bytes that wait in the token bucket.
fn backlog(space: &Namespace) -> Result<u64> {
    #[derive(serde::Deserialize)]
    struct Qdisc {
        backlog: u64,
    }
    let text = run(
        Some(space),
        "tc",
        &["-json", "-statistics", "qdisc", "show", "dev", "eth0"],
        "",
    )?;
    let qdiscs: Vec<Qdisc> = serde_json::from_str(&text).map_err(|source| Error::Json {
        from: "tc".into(),
        source,
        text: text.chars().take(300).collect(),
    })?;
    Ok(qdiscs.iter().map(|qdisc| qdisc.backlog).sum())
}
