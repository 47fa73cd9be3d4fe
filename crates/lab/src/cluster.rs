//! The daemons: their certificates and configuration, their lives and deaths, and what they say
//! of themselves through the `ravelin` command line.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sched::sched_getaffinity;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use telemetry::control::{Drain, DrainPhase, Flow, FlowRole, Status};
use telemetry::counters::CounterReport;

use crate::node_config::Settings;
use crate::process::{Process, Spawn, fresh_log, log_end};
use crate::program::{Binaries, run};
use crate::wait::{Interrupt, Poll, monotonic_ns, wait_until};
use crate::{Error, Result, Topology};

/// How often a condition of the cluster is looked at: each look asks each node.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much of a node's log an error has.
const LOG_LINES: usize = 30;

/// Daemons in a topology. Dropping it ends them, and then takes the topology down.
#[derive(Debug)]
pub struct Cluster {
    // Before the topology: fields are dropped in this order, and processes hold namespaces.
    nodes: Vec<Node>,
    topology: Topology,
    binaries: Binaries,
    logs: PathBuf,
    detached: bool,
}

#[derive(Debug)]
struct Node {
    config: PathBuf,
    socket: PathBuf,
    process: Option<Process>,
}

impl Cluster {
    /// Writes certificates and configurations into the topology's state, and starts every node.
    /// Their logs go to `logs`. `detached` daemons outlive this process.
    pub fn start(
        topology: Topology,
        binaries: Binaries,
        settings: &Settings,
        logs: &Path,
        detached: bool,
    ) -> Result<Self> {
        let dir = topology.folder("config")?;
        write_pki(&binaries, &settings.cluster, topology.nodes(), &dir)?;
        let cpus = online_cpus()?;
        let mut cluster = Self {
            nodes: Vec::new(),
            topology,
            binaries,
            logs: logs.to_owned(),
            detached,
        };
        for index in 1..=cluster.topology.nodes() {
            let socket = cluster
                .topology
                .state()
                .path()
                .join(format!("n{index}.sock"));
            let prefix = cluster.topology.node(index).name().to_owned();
            let config = dir.join(format!("n{index}.toml"));
            let text = settings.toml(index, &cpus, &socket.display().to_string(), &prefix)?;
            std::fs::write(&config, text).map_err(Error::file("write", &config))?;
            fresh_log(logs, &format!("n{index}"))?;
            cluster.nodes.push(Node {
                config,
                socket,
                process: None,
            });
            cluster.restart(index)?;
        }
        Ok(cluster)
    }

    /// The topology that it runs in.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where our programs are.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The nodes that run, by index from 1.
    pub fn living(&self) -> Vec<usize> {
        (1..=self.nodes.len())
            .filter(|index| self.nodes[index - 1].process.is_some())
            .collect()
    }

    /// The control socket of node `index`.
    pub fn socket(&self, index: usize) -> &Path {
        &self.nodes[index - 1].socket
    }

    /// Starts node `index`, which does not run. Its log is continued.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index - 1];
        let mut spawn = Spawn::new(format!("n{index}"), self.binaries.ravelind()?)
            .args([Path::new("--config"), &node.config])
            .inside(&self.topology.node(index));
        if self.detached {
            spawn = spawn.detached();
        }
        let log = self.logs.join(format!("n{index}.log"));
        node.process = Some(spawn.start(self.topology.state(), &log)?);
        Ok(())
    }

    /// Kills node `index` (SIGKILL). Returns the time right before, CLOCK_MONOTONIC in ns.
    pub fn kill(&mut self, index: usize) -> Result<u64> {
        let mut process = self.nodes[index - 1]
            .process
            .take()
            .ok_or_else(|| not_running(index))?;
        let at_ns = monotonic_ns();
        process.kill()?;
        Ok(at_ns)
    }

    /// Sends a signal to node `index`: SIGSTOP and SIGCONT make a node that stalls and wakes up.
    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<()> {
        self.nodes[index - 1]
            .process
            .as_mut()
            .ok_or_else(|| not_running(index))?
            .signal(signal)
    }

    /// Asks node `index` to leave (SIGTERM) and waits for its end.
    pub fn stop(&mut self, index: usize, limit: Duration) -> Result<()> {
        let mut process = self.nodes[index - 1]
            .process
            .take()
            .ok_or_else(|| not_running(index))?;
        process.signal(Signal::SIGTERM)?;
        match ended(&mut process, index, "after SIGTERM", limit)? {
            status if status.success() => Ok(()),
            status => Err(process.ended_error(status)),
        }
    }

    /// Waits until node `index` ends, for a reason of its own; with which status.
    pub fn wait_ended(&mut self, index: usize, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.nodes[index - 1]
            .process
            .take()
            .ok_or_else(|| not_running(index))?;
        ended(&mut process, index, "by itself", limit)
    }

    /// Has node `index` go offline by `ravelin drain`, and waits for its end unless it stays. Returns
    /// what the command said on the way.
    pub fn drain(&mut self, index: usize, args: &[&str], limit: Duration) -> Result<Vec<Drain>> {
        let text = self.ask(index, &[&["drain"], args].concat())?;
        let parsed = text
            .lines()
            .map(|line| parse(&format!("the drain of n{index}"), line));
        let steps: Vec<Drain> = parsed.collect::<Result<_>>()?;
        if steps
            .last()
            .is_some_and(|last| last.phase == DrainPhase::Leaving)
        {
            let process = self.nodes[index - 1].process.take();
            let mut process = process.ok_or_else(|| not_running(index))?;
            match process.wait_timeout(limit)? {
                Some(status) if status.success() => {}
                Some(status) => return Err(process.ended_error(status)),
                None => {
                    return Err(Error::Timeout {
                        what: format!("n{index} to end after its drain"),
                        after: limit,
                        detail: format!("; its log is {}", process.log().display()),
                    });
                }
            }
        }
        Ok(steps)
    }

    /// Takes back a drain of node `index`, which stays.
    pub fn undrain(&self, index: usize) -> Result<()> {
        self.ask(index, &["undrain"]).map(drop)
    }

    /// The process of node `index`.
    pub fn pid(&self, index: usize) -> Result<i32> {
        let process = self.nodes[index - 1].process.as_ref();
        Ok(process.ok_or_else(|| not_running(index))?.pid())
    }

    /// What node `index` says of itself.
    pub fn status(&self, index: usize) -> Result<Status> {
        let text = self.ask(index, &["status"])?;
        parse(&format!("the status of n{index}"), &text)
    }

    /// The counters of node `index`, all cores.
    pub fn counters(&self, index: usize) -> Result<CounterReport> {
        let text = self.ask(index, &["counters", "--all"])?;
        parse(&format!("the counters of n{index}"), &text)
    }

    /// The flows of node `index` that fit all filters, such as `proto=tcp` or `sport=40000`.
    pub fn flows(&self, index: usize, filters: &[&str]) -> Result<Vec<Flow>> {
        let text = self.ask(index, &[&["flows"], filters].concat())?;
        text.lines()
            .map(|line| parse(&format!("a flow of n{index}"), line))
            .collect()
    }

    /// The node that owns the one flow that fits the filters, if one does.
    pub fn owner(&self, filters: &[&str]) -> Result<Option<usize>> {
        for index in self.living() {
            let flows = self.flows(index, filters)?;
            if flows.iter().any(|flow| flow.role == FlowRole::Owner) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Fails with the end of its log when a node that should run has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .filter_map(|node| node.process.as_mut())
            .try_for_each(Process::must_run)
    }

    /// Waits until every living node is active, knows exactly the living ones as active, and says
    /// that redundancy is whole. Returns when that was seen, CLOCK_MONOTONIC in ns.
    pub fn wait_whole(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<u64> {
        let living = self.living();
        let names: Vec<String> = living.iter().map(|index| format!("n{index}")).collect();
        let whole = wait_until(
            "the cluster to be active and redundant",
            limit,
            LOOK_EVERY,
            interrupt,
            || {
                self.must_run()?;
                for &index in &living {
                    let lacking = match self.status(index) {
                        Ok(status) => lacks(&status, &names),
                        // Its socket is not there yet; `must_run` catches it when it never will be.
                        Err(Error::Failed { stderr, .. }) => Some(stderr),
                        Err(error) => return Err(error),
                    };
                    if let Some(lacking) = lacking {
                        return Ok(Poll::Pending(format!("n{index}: {lacking}")));
                    }
                }
                Ok(Poll::Ready(monotonic_ns()))
            },
        );
        whole.map_err(|error| match error {
            Error::Timeout {
                what,
                after,
                detail,
            } => Error::Timeout {
                what,
                after,
                detail: detail + &self.account(),
            },
            error => error,
        })
    }

    /// What every living node says of itself, and the end of its log: for the error that
    /// a cluster which does not come about ends with, since nothing of it is left afterwards.
    fn account(&self) -> String {
        let of_node = |index: usize| {
            let status = self.ask(index, &["status"]);
            let status = status.unwrap_or_else(|error| error.to_string());
            let log = log_end(&self.logs.join(format!("n{index}.log")), LOG_LINES);
            format!("\n== n{index} says\n{status}\n== the end of its log\n{log}")
        };
        self.living().into_iter().map(of_node).collect()
    }

    /// Leaves daemons and topology in place when this value is dropped.
    pub fn keep(&mut self) {
        self.topology.keep();
    }

    /// Ends the daemons and takes the topology down.
    pub fn down(self) -> Result<()> {
        let Self {
            nodes, topology, ..
        } = self;
        drop(nodes);
        topology.down()
    }

    fn ask(&self, index: usize, request: &[&str]) -> Result<String> {
        let ravelin = self.binaries.ravelin()?;
        let socket = self.socket(index).display().to_string();
        let args = [&["--socket", &socket, "--json"], request].concat();
        run(None, &ravelin.display().to_string(), &args, "")
    }
}

/// What keeps a node from being active and whole among exactly these living members.
fn lacks(status: &Status, living: &[String]) -> Option<String> {
    if status.node.state != "active" {
        return Some(format!("is {}", status.node.state));
    }
    for member in &status.view.members {
        let lives = living.contains(&member.name);
        if lives != (member.state == "active") {
            return Some(format!("sees {} as {}", member.name, member.state));
        }
    }
    (!status.redundancy.whole)
        .then(|| format!("{} slots lack a copy", status.redundancy.pending_slots))
}

/// An authority and a certificate per node, all in `dir`.
fn write_pki(binaries: &Binaries, cluster: &str, nodes: usize, dir: &Path) -> Result<()> {
    let ravelin = binaries.ravelin()?.display().to_string();
    let dir = dir.display().to_string();
    run(
        None,
        &ravelin,
        &["pki", "init", "--dir", &dir, "--cluster", cluster],
        "",
    )?;
    for index in 1..=nodes {
        let name = format!("n{index}");
        run(
            None,
            &ravelin,
            &["pki", "issue", &name, "--dir", &dir, "--out", &dir],
            "",
        )?;
    }
    Ok(())
}

/// The CPUs that this process may use.
pub fn online_cpus() -> Result<Vec<usize>> {
    let set =
        sched_getaffinity(Pid::from_raw(0)).map_err(Error::system("ask for the usable CPUs"))?;
    Ok((0..nix::sched::CpuSet::count())
        .filter(|&cpu| set.is_set(cpu) == Ok(true))
        .collect())
}

fn ended(process: &mut Process, index: usize, why: &str, limit: Duration) -> Result<ExitStatus> {
    process.wait_timeout(limit)?.ok_or_else(|| Error::Timeout {
        what: format!("n{index} to end {why}"),
        after: limit,
        detail: format!("; its log is {}", process.log().display()),
    })
}

fn not_running(index: usize) -> Error {
    Error::Scenario(format!("n{index} does not run"))
}

fn parse<T: DeserializeOwned>(from: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|source| Error::Json {
        from: from.to_owned(),
        source,
        text: text.chars().take(300).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use telemetry::control::{Member, Node, Redundancy, View};

    fn status(states: [&str; 3], whole: bool) -> Status {
        let member = |(at, state): (usize, &&str)| Member {
            name: format!("n{}", at + 1),
            state: (*state).into(),
            ..Member::default()
        };
        Status {
            node: Node {
                state: states[0].into(),
                ..Node::default()
            },
            view: View {
                members: states.iter().enumerate().map(member).collect(),
                ..View::default()
            },
            redundancy: Redundancy {
                whole,
                pending_slots: 7,
                ..Redundancy::default()
            },
            ..Status::default()
        }
    }

    #[test]
    fn whole_means_active_agreed_and_redundant() {
        let living = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let all = living(&["n1", "n2", "n3"]);
        assert_eq!(lacks(&status(["active"; 3], true), &all), None);
        assert!(
            lacks(&status(["active"; 3], false), &all)
                .expect("not whole")
                .contains('7')
        );
        assert!(lacks(&status(["joining", "active", "active"], true), &all).is_some());
        // A dead node that is still seen as active: whole is the old view's then.
        assert!(lacks(&status(["active"; 3], true), &living(&["n1", "n2"])).is_some());
        assert_eq!(
            lacks(
                &status(["active", "active", "dead"], true),
                &living(&["n1", "n2"])
            ),
            None
        );
        assert!(lacks(&status(["active", "active", "dead"], true), &all).is_some());
    }
}
