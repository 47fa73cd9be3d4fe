//! What the end-to-end tests in `tests/tests` share. They run real daemons in network namespaces:
//! they want root, and `ravelind`, `ravelin` and `lab` built beside them (`scripts/test.sh` does
//! both). Each lab has a name of its own, starting with `e`.

#![forbid(unsafe_code)]

pub mod ftp;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lab::echo::EchoReport;
use lab::node_config::Settings;
use lab::probe::{Received, Sent};
use lab::process::Spawn;
use lab::program::Binaries;
use lab::tool::Tool;
use lab::topology::Plan;
use lab::wait::{Interrupt, Poll, wait_until};
use lab::{Cluster, Topology};

/// How long anything that a test waits for may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Echo connections of a [`Load`], over IPv4 and IPv6 in turns.
pub const CONNECTIONS: u64 = 24;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A topology of three nodes in which nothing runs.
///
/// # Panics
///
/// Without root, or when it does not come up.
pub fn topology(id: &str) -> Topology {
    up(Plan::new(id, 3).expect("valid"))
}

fn up(plan: Plan) -> Topology {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces: run it as root"
    );
    Topology::up(plan).expect("the topology comes up")
}

/// A cluster as the settings have it, active and redundant.
///
/// # Panics
///
/// When it does not become that.
pub fn cluster(id: &str, settings: &Settings) -> Cluster {
    let plan = Plan {
        distribution: settings.distribution,
        ..Plan::new(id, settings.nodes).expect("valid")
    };
    let topology = up(plan);
    let logs = topology.folder("logs").expect("a folder");
    let binaries = Binaries::locate().expect("beside the test");
    let mut cluster =
        Cluster::start(topology, binaries, settings, &logs, false).expect("the daemons start");
    wait_whole(&mut cluster);
    cluster
}

/// Waits until all living nodes are active and redundant.
///
/// # Panics
///
/// When they do not become that.
pub fn wait_whole(cluster: &mut Cluster) {
    cluster
        .wait_whole(LIMIT, &Interrupt::default())
        .expect("the cluster becomes whole");
}

/// Waits until `look` says so; else it says what it saw instead, for the failure.
///
/// # Panics
///
/// When that takes longer than [`LIMIT`].
pub fn wait_for(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    wait_until(what, LIMIT, LOOK_EVERY, &Interrupt::default(), || {
        Ok(match look() {
            Ok(()) => Poll::Ready(()),
            Err(seen) => Poll::Pending(seen),
        })
    })
    .expect("it comes about");
}

/// Echo connections through a cluster, from client to server.
#[derive(Debug)]
pub struct Load {
    // Dropped first: the server's end would break them.
    clients: Tool<EchoReport>,
    _server: Tool<EchoReport>,
}

impl Load {
    /// Opens [`CONNECTIONS`]; one that makes no progress for `stall_s` seconds is broken.
    ///
    /// # Panics
    ///
    /// When the tools do not start.
    pub fn start(cluster: &Cluster, stall_s: u64) -> Self {
        let logs = cluster.topology().folder("logs").expect("a folder");
        let tool = |name: &str, args: &[&str], space| {
            let spawn = Spawn::new(name, cluster.binaries().lab().expect("built"))
                .args([name])
                .args(args);
            let log = logs.join(format!("{name}.log"));
            let mut tool =
                Tool::<EchoReport>::start(spawn.inside(&space), cluster.topology().state(), &log)
                    .expect("the tool starts");
            tool.wait_ready(LIMIT).expect("the tool is ready");
            tool
        };
        let server = tool("echo-server", &[], cluster.topology().server());
        let (connections, stall_s) = (CONNECTIONS.to_string(), stall_s.to_string());
        let args = [
            ["--to", "10.2.0.10:7777"],
            ["--to", "[fd00:2::10]:7777"],
            ["--connections", &connections],
            ["--stall-s", &stall_s],
        ];
        let clients = tool("echo-clients", &args.concat(), cluster.topology().client());
        Self {
            clients,
            _server: server,
        }
    }

    /// The figures so far.
    ///
    /// # Panics
    ///
    /// When the clients have ended.
    pub fn report(&mut self) -> EchoReport {
        let report = self.clients.progress().expect("the clients run");
        report.unwrap_or_default()
    }

    /// Waits until every connection can have echoed `each` more messages: so that they carry data
    /// again after whatever happened.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub fn wait_for_messages(&mut self, each: u64) {
        let goal = self.report().messages + each * CONNECTIONS;
        wait_for("echoes", || {
            let seen = self.report().messages;
            if seen >= goal {
                return Ok(());
            }
            Err(format!("{seen} of {goal}"))
        });
    }

    /// Ends the connections; every one must have been made and none broken.
    ///
    /// # Panics
    ///
    /// When one was not, or is: with what the nodes know of the connections that stand still.
    pub fn finish_unbroken(self, cluster: &Cluster) {
        let report = self.clients.finish(LIMIT).expect("the clients finish");
        let made = u64::from(report.connected);
        if made == CONNECTIONS && report.broken.is_empty() {
            return;
        }
        let nodes: String = cluster
            .living()
            .into_iter()
            .map(|index| standing_still(cluster, index))
            .collect();
        panic!(
            "{made} of {CONNECTIONS} were made, broken are {:?}\n{nodes}",
            report.broken
        );
    }
}

/// What a node has dropped and been through, and the load's flows that have been idle there, for a failure.
fn standing_still(cluster: &Cluster, index: usize) -> String {
    let mut text = format!("n{index}:");
    for (name, value) in cluster.counters(index).unwrap_or_default().sum {
        let told = ["pauses", "views", "replicas_applied"].contains(&&name[..]);
        if told || (name.starts_with("drop_") && value > 0) {
            text += &format!(" {name}={value}");
        }
    }
    for flow in cluster.flows(index, &["dport=7777"]).unwrap_or_default() {
        if flow.idle_s > 2 {
            text += &format!("\n  {flow:?}");
        }
    }
    text + "\n"
}

/// How many of the load's flows this node has in the role.
///
/// # Panics
///
/// When the node does not answer.
pub fn echo_flows(cluster: &Cluster, index: usize, role: &str) -> usize {
    let role = format!("role={role}");
    let flows = cluster.flows(index, &["dport=7777", &role]);
    flows.expect("the node answers").len()
}

/// The node that owns most of the load's flows, and how many.
///
/// # Panics
///
/// When none owns any: then a test of what becomes of them shows nothing.
pub fn busiest(cluster: &Cluster) -> (usize, usize) {
    let (owned, node) = (cluster.living().into_iter())
        .map(|index| (echo_flows(cluster, index, "owner"), index))
        .max()
        .expect("nodes live");
    assert!(owned > 0, "no node owns any of the connections");
    (node, owned)
}

/// Numbered datagrams through a cluster, from client to server.
#[derive(Debug)]
pub struct Probe {
    sender: Tool<Sent>,
    receiver: Tool<Received>,
}

impl Probe {
    /// Sends over so many flows, IPv4 and IPv6 in turns, at so many datagrams per second for each.
    ///
    /// # Panics
    ///
    /// When the tools do not start.
    pub fn start(cluster: &Cluster, flows: u32, rate_per_flow: u32) -> Self {
        let logs = cluster.topology().folder("logs").expect("a folder");
        let lab = cluster.binaries().lab().expect("built");
        let state = cluster.topology().state();
        let receiver = Spawn::new("probe-receiver", &lab)
            .args(["probe-receiver"])
            .inside(&cluster.topology().server());
        let mut receiver = Tool::start(receiver, state, &logs.join("probe-receiver.log"))
            .expect("the tool starts");
        receiver.wait_ready(LIMIT).expect("the tool is ready");
        let sender = Spawn::new("probe", &lab)
            .args([
                "probe",
                "--to",
                "10.2.0.10:9000",
                "--to",
                "[fd00:2::10]:9000",
            ])
            .args(["--flows", &flows.to_string()])
            .args(["--rate", &(flows * rate_per_flow).to_string()])
            .inside(&cluster.topology().client());
        let mut sender =
            Tool::start(sender, state, &logs.join("probe.log")).expect("the tool starts");
        sender.wait_ready(LIMIT).expect("the tool is ready");
        let mut probe = Self { sender, receiver };
        probe.wait_for(500);
        probe
    }

    /// Waits until so many more have arrived.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub fn wait_for(&mut self, more: u64) {
        let mut arrived = || {
            let report = self.receiver.progress().expect("the receiver runs");
            report.map_or(0, |report| report.total())
        };
        let goal = arrived() + more;
        wait_for("probes", || {
            let seen = arrived();
            if seen >= goal {
                return Ok(());
            }
            Err(format!("{seen} of {goal}"))
        });
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// When the tools do not end.
    pub fn finish(self) -> (Sent, Received) {
        let sent = self.sender.finish(LIMIT).expect("the sender finishes");
        let received = self.receiver.finish(LIMIT).expect("the receiver finishes");
        (sent, received)
    }
}

/// A TCP connection from the client to the echo server of a [`Load`].
///
/// # Errors
///
/// When it is not made within [`LIMIT`].
pub fn connect(cluster: &Cluster) -> std::io::Result<TcpStream> {
    let to = SocketAddr::from(([10, 2, 0, 10], 7777));
    cluster
        .topology()
        .client()
        .enter(|| TcpStream::connect_timeout(&to, LIMIT))
        .expect("the client is there")
}

/// Whether what is sent comes back within the time.
///
/// # Panics
///
/// When the socket takes no options.
pub fn echoes(stream: &mut TcpStream, within: Duration) -> bool {
    let message = b"is anybody there?";
    let mut back = [0; 17];
    stream
        .set_read_timeout(Some(within))
        .expect("a timeout above 0");
    stream.write_all(message).is_ok() && stream.read_exact(&mut back).is_ok() && back == *message
}
