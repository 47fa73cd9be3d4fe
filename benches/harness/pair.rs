//! Two daemons as a cluster, in network namespaces of their own with a link between.
//!
//! By weight nearly all slots are the first one's, which gets the packets; the other is its backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::program::{ip_batch, run};
use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Process};
use telemetry::control::{Client, FlowFilter, Request, Status};
use telemetry::counters::{CounterQuery, CounterReport};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::outer;
use crate::gateway::{BACK, INSIDE, Shape};
use crate::machine::Cpus;
use crate::ravelin::{Inside, Outside, Place, config, connect, spawn};
use crate::wire_port::{self, WirePort};

pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// What rules call the agent of a [`Plan`].
pub(crate) const AGENT: &str = "pass";
/// The link's end in each namespace.
pub(crate) const LINK: &str = "sync0";
const START_LIMIT: Duration = Duration::from_secs(60);
/// Of 1024 slots, those that the first node owns by its weight at least.
const OWNED_MIN: u64 = 1014;

/// Where a node's packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// From the generator's memif, into a sink that takes everything. The generator must be there before the node.
    Memif,
    /// From nowhere.
    Idle,
    /// From a [`WirePort`] and back to it.
    Wire,
}

/// What a pair is made for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Flows that each table must hold.
    pub(crate) capacity: u32,
    /// How flows are replicated whose rule does not say.
    pub(crate) sync: &'static str,
    /// Rules before the one that allows everything.
    pub(crate) rules: &'static str,
    /// Lines of `[cluster]`.
    pub(crate) cluster: &'static str,
    /// The program of the agent [`AGENT`], if there is one.
    pub(crate) agent: Option<PathBuf>,
    /// By node.
    pub(crate) seats: [Seat; 2],
    /// By node.
    pub(crate) ports: [Ports; 2],
}

/// The cpus of a node's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) worker: usize,
    pub(crate) sync: usize,
    pub(crate) membership: usize,
    /// Whether the worker spins, which it may only on a cpu of its own.
    pub(crate) worker_spins: bool,
    /// Likewise the sync core.
    pub(crate) sync_spins: bool,
    /// How long what does not spin sleeps when it has nothing to do.
    pub(crate) sleep: &'static str,
}

impl Seat {
    /// Workers and sync cores each on a cpu of their own where there are enough besides the one of all else;
    /// otherwise each node has one cpu for everything, the first node the worker's.
    pub(crate) fn apart(cpus: &Cpus) -> [Self; 2] {
        match cpus.online.as_slice() {
            [first, .., b_sync, b_worker, a_sync, a_worker] => {
                [(a_worker, a_sync), (b_worker, b_sync)].map(|(worker, sync)| Self {
                    worker: *worker,
                    sync: *sync,
                    membership: *first,
                    worker_spins: true,
                    sync_spins: true,
                    sleep: "50us",
                })
            }
            _ => [cpus.worker, cpus.others].map(|cpu| Self {
                worker: cpu,
                sync: cpu,
                membership: cpu,
                worker_spins: false,
                sync_spins: false,
                sleep: "5us",
            }),
        }
    }

    /// As [`Seat::apart`] where that gives every thread its own cpu, else as [`Seat::worker_alone`]: a generator needs
    /// more of the shared cpu than threads leave that sleep shortly.
    pub(crate) fn beside_generator(cpus: &Cpus) -> [Self; 2] {
        let apart = Self::apart(cpus);
        if apart[0].worker_spins {
            apart
        } else {
            Self::worker_alone(cpus)
        }
    }

    /// The first node's worker alone on its cpu and everything else on the other, however many there are.
    pub(crate) fn worker_alone(cpus: &Cpus) -> [Self; 2] {
        [(cpus.worker, true), (cpus.others, false)].map(|(worker, worker_spins)| Self {
            worker,
            sync: cpus.others,
            membership: cpus.others,
            worker_spins,
            sync_spins: false,
            sleep: "50us",
        })
    }

    /// A note, where threads share cpus.
    pub(crate) fn note(seats: &[Self; 2]) -> Option<String> {
        let note = match (seats[0].worker_spins, seats[0].sync_spins) {
            (_, true) => return None,
            (false, false) => {
                "there are fewer than five cpus: each node has one for all its threads, which therefore \
                 sleep instead of spinning, and the second one's is also the generator's"
            }
            (true, false) => {
                "there are fewer than five cpus: but for the first node's worker, all threads of both nodes and the \
                 generator share one"
            }
        };
        Some(note.into())
    }

    /// The lines of `[cores]`.
    fn lines(&self) -> String {
        let idle = |spins| if spins { "spin" } else { "sleep" };
        // A key of the sync core's: a worker has its own.
        format!(
            "worker = [{{ cpu = {}, idle = \"{}\" }}]\nsync = {}\nmembership = {}\nshared = true\n\
             idle = \"{}\"\nidle_sleep = \"{}\"",
            self.worker,
            idle(self.worker_spins),
            self.sync,
            self.membership,
            idle(self.sync_spins),
            self.sleep,
        )
    }
}

/// The nodes that run, the first one first.
pub(crate) struct Pair {
    plan: Plan,
    nodes: Vec<Node>,
}

/// One daemon.
pub(crate) struct Node {
    name: &'static str,
    pub(crate) process: Process,
    client: Client,
}

impl Pair {
    /// Both nodes, active and redundant.
    pub(crate) fn start(bench: &Bench, plan: Plan) -> Result<Self> {
        let mut pair = Self::prepare(bench, plan)?;
        pair.start_next(bench)?;
        pair.start_next(bench)?;
        pair.wait_active(bench, true)?;
        Ok(pair)
    }

    /// Everything that nodes want, and none of them.
    pub(crate) fn prepare(bench: &Bench, plan: Plan) -> Result<Self> {
        let dir = bench.path("pair");
        fs::create_dir_all(&dir).map_err(LabError::file("make", &dir))?;
        certificates(bench, &dir)?;
        connect_namespaces(bench)?;
        for (name, ports) in NODES.iter().zip(plan.ports) {
            if ports == Ports::Wire {
                WirePort::plug(bench, name)?;
            }
        }
        Ok(Self {
            plan,
            nodes: vec![],
        })
    }

    /// Starts the first node that does not run yet, and waits until it answers.
    pub(crate) fn start_next(&mut self, bench: &Bench) -> Result<()> {
        let at = self.nodes.len();
        let name = NODES[at];
        let (inside, outside) = match self.plan.ports[at] {
            Ports::Memif => (Inside::Memif(bench.path(INSIDE)), Outside::Sink),
            Ports::Idle => (Inside::Nothing, Outside::Sink),
            Ports::Wire => (
                Inside::Kernel(wire_port::INSIDE),
                Outside::Kernel(wire_port::OUTSIDE),
            ),
        };
        let place = Place {
            name,
            cores: self.plan.seats[at].lines(),
            huge_pages: bench.pages.huge(),
            prefix: bench.name(name),
            control: bench.path(&format!("{name}.sock")),
            inside,
            outside,
            back: bench.path(BACK),
            more: sections(name, &bench.path("pair"), &self.plan),
        };
        let shape = Shape {
            capacity: self.plan.capacity,
            answers: false,
            workers: 1,
        };
        let file = bench.path(&format!("{name}.toml"));
        let text = config(shape, &place);
        fs::write(&file, text).map_err(LabError::file("write", &file))?;
        let spawn = spawn(bench, name, &file)?.inside(&bench.namespace(name));
        let mut process = spawn.start(&bench.state, &bench.log(name)?)?;
        let client = connect(bench, &mut process, &place.control)?;
        self.nodes.push(Node {
            name,
            process,
            client,
        });
        Ok(())
    }

    /// Waits until all that run are active and the first owns nearly everything; `redundant`, with a backup.
    pub(crate) fn wait_active(&mut self, bench: &Bench, redundant: bool) -> Result<()> {
        let every = Duration::from_millis(50);
        let count = self.nodes.len();
        Ok(wait_until(
            "the nodes to be active and redundant",
            START_LIMIT,
            every,
            &bench.interrupt,
            || {
                for at in 0..count {
                    let status = self.nodes[at].status().map_err(outer)?;
                    let active = status.view.members.iter().filter(|m| m.state == "active");
                    let (active, owned) = (active.count(), status.view.owned_slots);
                    let takes = at > 0 || owned >= OWNED_MIN;
                    if active != count || (redundant && !status.redundancy.whole) || !takes {
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

    /// The one that owns, and gets the packets.
    pub(crate) fn first(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    /// Its backup.
    pub(crate) fn second(&mut self) -> &mut Node {
        &mut self.nodes[1]
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The last one first: the first may be dead already.
        while let Some(node) = self.nodes.pop() {
            drop(node);
        }
    }
}

impl Node {
    pub(crate) fn status(&mut self) -> Result<Status> {
        self.process.must_run()?;
        match self.client.ask(&Request::Status) {
            Ok(status) => Ok(status),
            Err(error) => {
                // One that ends says why, after it has closed its socket.
                self.process.wait_timeout(Duration::from_secs(5))?;
                self.process.must_run()?;
                Err(error.into())
            }
        }
    }

    pub(crate) fn counters(&mut self) -> Result<CounterReport> {
        self.process.must_run()?;
        Ok(self.client.counters(CounterQuery::default())?)
    }

    /// How many flows are in its table, by a look at each.
    pub(crate) fn flow_count(&mut self) -> Result<u64> {
        self.process.must_run()?;
        Ok(self.client.flow_count(FlowFilter::default())?.count)
    }

    /// Some of its flows.
    pub(crate) fn some_flows(&mut self, limit: u64) -> Result<Vec<telemetry::control::Flow>> {
        let filter = FlowFilter {
            limit: Some(limit),
            ..FlowFilter::default()
        };
        let lines = self.client.flows(filter)?;
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// Waits until its table holds so many flows.
    pub(crate) fn wait_flows(&mut self, bench: &Bench, wanted: u64, limit: Duration) -> Result<()> {
        let name = self.name;
        let result = wait_until(
            &format!("{name} to have {wanted} flows"),
            limit,
            Duration::from_millis(100),
            &bench.interrupt,
            || {
                let has = self.flow_count().map_err(outer)?;
                Ok(if has == wanted {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!("{name} has {has} of {wanted} flows"))
                })
            },
        );
        result.map_err(not_real)
    }
}

/// A condition of the figure that did not come true: what was seen instead says why there is none.
pub(crate) fn not_real(error: LabError) -> Error {
    match error {
        LabError::Timeout { detail, .. } => {
            Error::NotReal(detail.trim_start_matches(": ").to_owned())
        }
        error => error.into(),
    }
}

/// A counter's sum over all threads.
pub(crate) fn of(report: &CounterReport, name: &str) -> u64 {
    report.sum.get(name).copied().unwrap_or(0)
}

/// Packets dropped, but for those of the other node's slots.
pub(crate) fn drops(report: &CounterReport) -> u64 {
    report
        .sum
        .iter()
        .filter(|(name, _)| name.starts_with("drop_") && *name != "drop_not_owner")
        .map(|(_, value)| value)
        .sum()
}

/// The sections that make a node one of the pair.
fn sections(name: &str, dir: &Path, plan: &Plan) -> String {
    let member = |at: usize, weight: u32| {
        let host = at + 1;
        format!(
            "[[cluster.member]]\nname = \"{}\"\nid = {host}\nweight = {weight}\n\
             sync = \"10.98.0.{host}:7400\"\nmembership = \"10.98.0.{host}:7401\"\n",
            NODES[at]
        )
    };
    let file = |suffix: &str| dir.join(suffix).display().to_string();
    let agent = plan.agent.as_ref().map(|program| {
        // Packets that passed without it would be measured as some that did not.
        format!(
            "[agents]\nsocket = \"{}\"\n[[agent]]\nname = \"{AGENT}\"\nwhen_gone = \"drop\"\ncommand = [\"{}\"]\n",
            file(&format!("{name}.agents")),
            program.display()
        )
    });
    format!(
        "[cluster]\nname = \"bench\"\nmac = \"03:72:76:6c:00:01\"\n{}\n{}{}\
         [pki]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\
         [sync]\nudp = \"{}\"\n{}{}",
        plan.cluster,
        member(0, 1000),
        member(1, 1),
        file("ca.pem"),
        file(&format!("{name}.pem")),
        file(&format!("{name}.key")),
        plan.sync,
        agent.unwrap_or_default(),
        plan.rules,
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
pub(crate) fn connect_namespaces(bench: &Bench) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(online: &[usize]) -> Cpus {
        Cpus {
            worker: online[online.len() - 1],
            others: online[0],
            online: online.to_vec(),
        }
    }

    #[test]
    fn threads_are_apart_where_there_are_cpus() {
        let seats = Seat::apart(&cpus(&[0, 1]));
        assert_eq!([0, 1].map(|at| seats[at].worker), [1, 0]);
        assert!(Seat::note(&seats).is_some() && seats.iter().all(|s| s.sync == s.worker));
        let seats = Seat::apart(&cpus(&[0, 2, 4, 6, 8, 10]));
        let mut used: Vec<usize> = seats.iter().flat_map(|s| [s.worker, s.sync]).collect();
        used.sort_unstable();
        assert_eq!(used, [4, 6, 8, 10]);
        assert!(Seat::note(&seats).is_none() && seats.iter().all(|s| s.membership == 0));
    }

    #[test]
    fn the_daemon_takes_both_nodes_configurations() {
        for online in [&[0, 1][..], &[0, 1, 2, 3, 4, 5]] {
            let cpus = cpus(online);
            for seats in [Seat::apart(&cpus), Seat::worker_alone(&cpus)] {
                for plan in [
                    crate::cluster::plan(1_250_000, "ack", seats),
                    crate::hold_latency::plan(seats, None),
                    crate::hold_latency::plan(seats, Some("/x/pass".into())),
                    crate::failover::plan(1_250_000, seats),
                    crate::snapshot::plan(1_250_000, seats),
                ] {
                    both_are_taken(&plan);
                }
            }
        }
    }

    fn both_are_taken(plan: &Plan) {
        for (at, name) in NODES.iter().enumerate() {
            let (inside, outside) = match plan.ports[at] {
                Ports::Memif => (Inside::Memif("/run/x/i.sock".into()), Outside::Sink),
                Ports::Idle => (Inside::Nothing, Outside::Sink),
                Ports::Wire => (Inside::Kernel("in0"), Outside::Kernel("out0")),
            };
            let place = Place {
                name,
                cores: plan.seats[at].lines(),
                huge_pages: false,
                prefix: "p".into(),
                control: "/run/x/c.sock".into(),
                inside,
                outside,
                back: "/run/x/b.sock".into(),
                more: sections(name, Path::new("/run/x"), plan),
            };
            let shape = Shape {
                capacity: plan.capacity,
                answers: false,
                workers: 1,
            };
            let text = config(shape, &place);
            let config = ::config::Config::parse(&text, "bench.toml", "")
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            let members = config.cluster.expect("a cluster").members;
            assert_eq!((members[0].weight, members[1].weight), (1000, 1));
        }
    }
}
