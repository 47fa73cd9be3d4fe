//! `newflows-async`, `newflows-ack` and `wire-bytes`: a million new flows of one node, replicated to another.
//!
//! Two daemons in network namespaces of their own, with a link between them. By weight nearly all slots are the
//! first one's, which gets the packets; its worker has the cpu that is measured. The generator, both sync
//! cores and all of the backup share the other cpu, so that one limits more often than not: a note says
//! how busy the worker was.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::program::{ip, ip_batch, run};
use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Process};
use telemetry::control::{Client, Request, Status};
use telemetry::counters::{CounterQuery, CounterReport};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, capacity, lanes, outer};
use crate::gateway::{BACK, INSIDE, Shape};
use crate::generator::{Generator, WhenFull};
use crate::measure::{Figure, slope};
use crate::ravelin::{Place, config, connect, spawn};
use crate::report::short;
use crate::traffic::Flows;

const NODES: [&str; 2] = ["n1", "n2"];
const START_LIMIT: Duration = Duration::from_secs(60);
const FILL_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Of 1024 slots, those that the first node owns by its weight at least.
const OWNED_MIN: u64 = 1014;
/// The link's end in each namespace.
const LINK: &str = "sync0";

/// What one fill of the table showed.
#[derive(Debug, Clone, Copy)]
struct Filled {
    /// Flows per second whose copies the backup has acknowledged.
    acknowledged: f64,
    /// Flows per second that the first node has opened.
    opened: f64,
    /// Bytes on the link from the first node, Ethernet headers included, per flow.
    bytes: f64,
    /// Packets dropped, but for those of the second node's slots.
    dropped: u64,
}

/// Measures how many new flows per second reach the backup; `held` packets wait for it.
pub(crate) fn newflows(bench: &Bench, flows: &Flows, held: bool) -> Result<Outcome> {
    let runs = fills(bench, flows, held)?;
    let rates: Vec<f64> = runs.iter().map(|run| run.acknowledged).collect();
    let mut notes = vec![];
    let opened: Vec<f64> = runs.iter().map(|run| run.opened).collect();
    if let Some(opened) = Figure::of(&opened) {
        notes.push(format!(
            "the figure counts flows that the backup has acknowledged; the worker opened {} per second meanwhile",
            short(opened.median)
        ));
    }
    let dropped: u64 = runs.iter().map(|run| run.dropped).sum();
    if dropped > 0 {
        notes.push(format!(
            "of all runs {dropped} packets were dropped, for want of room in the hold or in the ring to the sync core"
        ));
    }
    outcome(&rates, notes)
}

/// Measures the bytes that the first node sends to the second, per flow, when nobody waits for any.
pub(crate) fn wire_bytes(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let runs = fills(bench, flows, false)?;
    let bytes: Vec<f64> = runs.iter().map(|run| run.bytes).collect();
    outcome(&bytes, vec![])
}

fn outcome(values: &[f64], notes: Vec<String>) -> Result<Outcome> {
    let figure = Figure::of(values).ok_or_else(|| Error::Machine("no run was asked for".into()))?;
    Ok(Outcome { figure, notes })
}

fn fills(bench: &Bench, flows: &Flows, held: bool) -> Result<Vec<Filled>> {
    (0..bench.pace.runs)
        .map(|_| Pair::start(bench, flows, held)?.fill(bench, flows, held))
        .collect()
}

/// Two nodes. The first gets the packets.
struct Pair {
    processes: Vec<Process>,
    clients: Vec<Client>,
}

impl Pair {
    fn start(bench: &Bench, flows: &Flows, held: bool) -> Result<Self> {
        let dir = bench.path("pair");
        fs::create_dir_all(&dir).map_err(LabError::file("make", &dir))?;
        certificates(bench, &dir)?;
        connect_namespaces(bench)?;
        let socket = bench.path(INSIDE);
        if socket.exists() {
            fs::remove_file(&socket).map_err(LabError::file("remove", &socket))?;
        }
        let shape = Shape {
            capacity: capacity(flows.count),
            answers: false,
        };
        let mut pair = Self {
            processes: vec![],
            clients: vec![],
        };
        for (at, name) in NODES.iter().enumerate() {
            let shared = bench.cpus.others;
            let worker = if at == 0 {
                format!("{{ cpu = {}, idle = \"spin\" }}", bench.cpus.worker)
            } else {
                format!("{{ cpu = {shared} }}")
            };
            let place = Place {
                name,
                cores: format!(
                    "worker = [{worker}]\nsync = {shared}\nmembership = {shared}\nshared = true\n\
                     idle = \"sleep\""
                ),
                huge_pages: bench.pages.huge(),
                prefix: bench.name(name),
                control: bench.path(&format!("{name}.sock")),
                inside: (at == 0).then(|| socket.clone()),
                back: bench.path(BACK),
                cluster: cluster(name, &dir, held),
            };
            let file = bench.path(&format!("{name}.toml"));
            let text = config(shape, &place);
            fs::write(&file, text).map_err(LabError::file("write", &file))?;
            let spawn = spawn(bench, name, &file)?.inside(&bench.namespace(name));
            let mut process = spawn.start(&bench.state, &bench.log(name)?)?;
            pair.clients
                .push(connect(bench, &mut process, &place.control)?);
            pair.processes.push(process);
        }
        pair.wait_whole(bench)?;
        Ok(pair)
    }

    /// Waits until both are active and the first has a backup.
    fn wait_whole(&mut self, bench: &Bench) -> Result<()> {
        let every = Duration::from_millis(50);
        Ok(wait_until(
            "both nodes to be active and redundant",
            START_LIMIT,
            every,
            &bench.interrupt,
            || {
                for process in &mut self.processes {
                    process.must_run()?;
                }
                for (at, client) in self.clients.iter_mut().enumerate() {
                    let status: Status =
                        client.ask(&Request::Status).map_err(|e| outer(e.into()))?;
                    let active = status.view.members.iter().filter(|m| m.state == "active");
                    let (active, owned) = (active.count(), status.view.owned_slots);
                    let takes = at > 0 || owned >= OWNED_MIN;
                    if active != NODES.len() || !status.redundancy.whole || !takes {
                        let name = status.node.name;
                        return Ok(Poll::Pending(format!(
                            ": {name} sees {active} active nodes and owns {owned} slots"
                        )));
                    }
                }
                Ok(Poll::Ready(()))
            },
        )?)
    }

    /// Sends the first packet of every flow, until the backup has acknowledged nearly all of them: the few
    /// slots of the second node's are dropped by the first.
    fn fill(mut self, bench: &Bench, flows: &Flows, held: bool) -> Result<Filled> {
        let lanes = lanes(bench, flows)?;
        let mut generator = Generator::start(bench, &lanes)?;
        let (begin, before) = (sent_bytes(bench)?, self.counters()?);
        let all = u64::from(flows.count);
        let enough = all - all / 50;
        let (mut acknowledged, mut opened) = (vec![], vec![]);
        generator.play(bench, 0, WhenFull::Retry)?;
        let filled = wait_until(
            "the backup to acknowledge the flows",
            FILL_LIMIT,
            LOOK_EVERY,
            &bench.interrupt,
            || {
                let begin = Instant::now();
                let report = self.counters().map_err(outer)?;
                let at = begin + begin.elapsed() / 2;
                let has = of(&report, "flows_acked");
                acknowledged.push((at, has));
                opened.push((at, of(&report, "flow_opened")));
                Ok(if has >= enough {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!(": {has} of {all} are"))
                })
            },
        );
        filled?;
        generator.stop(bench)?;
        let (bytes, after) = (sent_bytes(bench)? - begin, self.counters()?);
        let moved = |name: &str| of(&after, name) - of(&before, name);
        if held && moved("hold_released") == 0 {
            return Err(Error::NotReal("no packet was held".into()));
        }
        if !held && moved("held") > 0 {
            return Err(Error::NotReal(
                "packets were held that should not be".into(),
            ));
        }
        self.has_received(bench, moved("flows_acked"))?;
        let rate = |looks: &[(Instant, u64)]| {
            slope(looks, all / 20, enough - all / 20).ok_or_else(|| {
                Error::NotReal(format!("{} looks at the table are too few", looks.len()))
            })
        };
        Ok(Filled {
            acknowledged: rate(&acknowledged)?,
            opened: rate(&opened)?,
            bytes: bytes as f64 / moved("flows_acked") as f64,
            dropped: after
                .sum
                .keys()
                .filter(|name| name.starts_with("drop_") && *name != "drop_not_owner")
                .map(|name| moved(name))
                .sum(),
        })
    }

    /// The second node has received as many records as the first takes for acknowledged.
    fn has_received(&mut self, bench: &Bench, acknowledged: u64) -> Result<()> {
        // It says so now and then, on a cpu that it shares.
        let (limit, every) = (Duration::from_secs(10), Duration::from_millis(100));
        let result = wait_until("the copies", limit, every, &bench.interrupt, || {
            let backup: Status = self.clients[1]
                .ask(&Request::Status)
                .map_err(|error| outer(error.into()))?;
            let received = backup.replication.records_received;
            Ok(if received >= acknowledged {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(
                    "{acknowledged} flows are taken for acknowledged, and the backup has received {received}"
                ))
            })
        });
        result.map_err(|error| match error {
            LabError::Timeout { detail, .. } => Error::NotReal(detail),
            error => error.into(),
        })
    }

    /// The first node's.
    fn counters(&mut self) -> Result<CounterReport> {
        Ok(self.clients[0].counters(CounterQuery::default())?)
    }
}

fn of(report: &CounterReport, name: &str) -> u64 {
    report.sum.get(name).copied().unwrap_or(0)
}

/// The sections that make a node one of the pair. Detection is slow, for the second node has no cpu to
/// itself; the hold's deadline is long, so that what is measured is the wait and not the giving up.
fn cluster(name: &str, dir: &Path, held: bool) -> String {
    let member = |at: usize, weight: u32| {
        let host = at + 1;
        format!(
            "[[cluster.member]]\nname = \"{}\"\nid = {host}\nweight = {weight}\n\
             sync = \"10.98.0.{host}:7400\"\nmembership = \"10.98.0.{host}:7401\"\n",
            NODES[at]
        )
    };
    let file = |suffix: &str| dir.join(suffix).display().to_string();
    format!(
        "[cluster]\nname = \"bench\"\nmac = \"03:72:76:6c:00:01\"\nheartbeat = \"100ms\"\n\
         dead_after = \"3s\"\nhold_deadline = \"1s\"\n{}{}\
         [pki]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\
         [sync]\nudp = \"{}\"\n",
        member(0, 1000),
        member(1, 1),
        file("ca.pem"),
        file(&format!("{name}.pem")),
        file(&format!("{name}.key")),
        if held { "ack" } else { "async" },
    )
}

fn certificates(bench: &Bench, dir: &Path) -> Result<()> {
    if dir.join("ca.pem").exists() {
        return Ok(());
    }
    let ravelin = bench.binaries.ravelin()?.display().to_string();
    let dir = dir.display().to_string();
    run(
        None,
        &ravelin,
        &["pki", "init", "--dir", &dir, "--cluster", "bench"],
        "",
    )?;
    for name in NODES {
        run(
            None,
            &ravelin,
            &["pki", "issue", name, "--dir", &dir, "--out", &dir],
            "",
        )?;
    }
    Ok(())
}

/// Makes the namespaces and the link between them, unless an earlier run did.
fn connect_namespaces(bench: &Bench) -> Result<()> {
    let [first, second] = NODES.map(|name| bench.namespace(name));
    if first.exists() && second.exists() {
        return Ok(());
    }
    first.create()?;
    second.create()?;
    ip_batch(
        &first,
        &format!(
            "link add {LINK} type veth peer name {LINK} netns {}\n",
            second.name()
        ),
    )?;
    for (host, namespace) in [(1, &first), (2, &second)] {
        ip_batch(
            namespace,
            &format!(
                "link set lo up\naddress add 10.98.0.{host}/24 dev {LINK}\nlink set {LINK} up\n"
            ),
        )?;
    }
    Ok(())
}

/// Bytes that have left the first node by the link.
fn sent_bytes(bench: &Bench) -> Result<u64> {
    let namespace = bench.namespace(NODES[0]);
    let said = ip(&[
        "-n",
        namespace.name(),
        "-statistics",
        "-json",
        "link",
        "show",
        LINK,
    ])?;
    let parsed = serde_json::from_str::<serde_json::Value>(&said).ok();
    let bytes = parsed.and_then(|links| links[0]["stats64"]["tx"]["bytes"].as_u64());
    bytes.ok_or(Error::Unreadable {
        from: "ip",
        said,
        wanted: "bytes sent",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_takes_both_nodes_configurations() {
        for (at, name) in NODES.iter().enumerate() {
            for held in [false, true] {
                let place = Place {
                    name,
                    cores:
                        "worker = [1]\nsync = 0\nmembership = 0\nshared = true\nidle = \"sleep\""
                            .into(),
                    huge_pages: false,
                    prefix: "p".into(),
                    control: "/run/x/c.sock".into(),
                    inside: (at == 0).then(|| "/run/x/i.sock".into()),
                    back: "/run/x/b.sock".into(),
                    cluster: cluster(name, Path::new("/run/x"), held),
                };
                let shape = Shape {
                    capacity: 1_250_000,
                    answers: false,
                };
                let text = config(shape, &place);
                let config = ::config::Config::parse(&text, "bench.toml", "")
                    .unwrap_or_else(|error| panic!("{error}"));
                let members = config.cluster.expect("a cluster").members;
                assert_eq!((members[0].weight, members[1].weight), (1000, 1));
            }
        }
    }
}
