//! The scenario: a cluster under load from real programs, the owner of a running download killed
//! and restarted, and everything checked at the far end.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::download::{Downloads, Order};
use crate::echo::EchoReport;
use crate::flowgen::FlowGenerator;
use crate::node_config::Settings;
use crate::probe::{Received, Sent};
use crate::process::{Spawn, fresh_log, log_end};
use crate::program::Binaries;
use crate::progress::Progress;
use crate::report::Report;
use crate::sink::SinkReport;
use crate::tool::Tool;
use crate::topology::Plan;
use crate::wait::{Interrupt, Poll, monotonic_ns, wait_until};
use crate::web::{RandomFile, WebServer};
use crate::{Cluster, Error, Result, Topology};

const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10);
/// The big download's local port, by which its flow is found in the nodes' tables. None of those that the kernel gives to
/// other connections, which could have it already.
const DOWNLOAD_PORT: u16 = 20_000;
/// How long a tool or the cluster may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long redundancy may take to be whole again.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
/// The killed node stays away at least this long, so that the cluster works without it.
const ABSENCE: Duration = Duration::from_secs(4);
/// How often the scenario looks around.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to do.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The lab's name and size.
    pub plan: Plan,
    /// Leave daemons and topology running at the end.
    pub keep: bool,
    /// Where the report, logs and the cache of files go.
    pub out: PathBuf,
    /// The size of the big download.
    pub download_bytes: u64,
    /// Its rate, in bytes per second.
    pub download_rate: u64,
    /// How many slow downloads besides.
    pub slow_downloads: usize,
    /// The rate of each, in bytes per second.
    pub slow_rate: u64,
    /// How many echo connections.
    pub echo_connections: u32,
    /// UDP probes per second.
    pub probe_rate: u32,
    /// testpmd's flows.
    pub generated_flows: u32,
    /// testpmd's packets per second.
    pub generated_rate: u64,
    /// How the nodes are configured.
    pub settings: Settings,
}

impl Scenario {
    /// The full one: 512 MB at 25 MB/s, 214 other connections.
    pub fn full(plan: Plan, out: PathBuf) -> Self {
        Self {
            settings: Settings::new(plan.nodes),
            plan,
            keep: false,
            out,
            download_bytes: 512 << 20,
            download_rate: 25_000_000,
            slow_downloads: 150,
            slow_rate: 20_000,
            echo_connections: 64,
            probe_rate: 1000,
            generated_flows: 4096,
            generated_rate: 2000,
        }
    }

    /// A smaller one, for continuous integration.
    pub fn quick(plan: Plan, out: PathBuf) -> Self {
        Self {
            download_bytes: 100_000_000,
            download_rate: 6_000_000,
            slow_downloads: 40,
            echo_connections: 24,
            probe_rate: 500,
            generated_flows: 1024,
            generated_rate: 1000,
            ..Self::full(plan, out)
        }
    }

    /// Runs it. What broke is in the report; an error means that it could not be brought to its
    /// end. The logs are in `out`/logs either way.
    pub fn run(&self, interrupt: &Interrupt) -> Result<Report> {
        let begin = Instant::now();
        let mut progress = Progress::new();
        let binaries = Binaries::locate()?;
        // Before anything is built: a missing program is known at once.
        for program in [binaries.ravelind(), binaries.ravelin(), binaries.lab()] {
            program?;
        }
        let logs = self.logs();
        std::fs::create_dir_all(&logs).map_err(Error::file("make", &logs))?;

        progress.say("files: random data, made once");
        let cache = absolute(&self.out.join("cache"))?;
        let seconds = self.download_bytes / self.download_rate.max(1) + 6;
        let big = RandomFile::cached(&cache, self.download_bytes)?;
        let slow = RandomFile::cached(&cache, self.slow_rate * seconds)?;

        let nodes = self.plan.nodes;
        progress.say(format!(
            "topology: {nodes} nodes, client, server, generator, sink"
        ));
        let mut topology = Topology::up(self.plan.clone())?;
        if self.keep {
            topology.keep();
        }
        let state = topology.state().clone();
        let web_prefix = topology.folder("nginx")?;
        let mut cluster = Cluster::start(topology, binaries, &self.settings, &logs, self.keep)?;
        progress.say("cluster: waiting until all nodes are active and redundant");
        cluster.wait_whole(READY_LIMIT, interrupt)?;

        let (client, server) = (cluster.topology().client(), cluster.topology().server());
        let (generator, sink) = (cluster.topology().generator(), cluster.topology().sink());
        let lab = cluster.binaries().lab()?;
        let tool = |name: &str| Spawn::new(name, &lab).args([name]);

        let mut web = WebServer::start(&server, &state, &web_prefix, &cache, &logs, interrupt)?;
        let mut echo_server = Tool::<EchoReport>::start(
            tool("echo-server").inside(&server),
            &state,
            &fresh_log(&logs, "echo-server")?,
        )?;
        echo_server.wait_ready(READY_LIMIT)?;
        let mut receiver = Tool::<Received>::start(
            tool("probe-receiver").inside(&server),
            &state,
            &fresh_log(&logs, "probe-receiver")?,
        )?;
        receiver.wait_ready(READY_LIMIT)?;
        let mut counter = Tool::<SinkReport>::start(
            tool("sink")
                .args(["--flows", &self.generated_flows.to_string()])
                .inside(&sink),
            &state,
            &fresh_log(&logs, "sink")?,
        )?;
        counter.wait_ready(READY_LIMIT)?;

        progress.say(format!(
            "load: {} echo connections, UDP probes, testpmd",
            self.echo_connections
        ));
        let echoes = both_families("--to", 7777);
        let mut echo = Tool::<EchoReport>::start(
            tool("echo-clients")
                .args(["--connections", &self.echo_connections.to_string()])
                .args(&echoes)
                .inside(&client),
            &state,
            &fresh_log(&logs, "echo-clients")?,
        )?;
        echo.wait_ready(READY_LIMIT)?;
        let mut probe = Tool::<Sent>::start(
            tool("probe")
                .args(["--rate", &self.probe_rate.to_string()])
                .args(both_families("--to", 9000))
                .inside(&client),
            &state,
            &fresh_log(&logs, "probe")?,
        )?;
        probe.wait_ready(READY_LIMIT)?;
        let flowgen = FlowGenerator::start(
            &generator,
            &state,
            &logs,
            self.generated_flows,
            self.generated_rate,
            interrupt,
        )?;

        progress.say(format!(
            "load: {} slow downloads and a big one",
            self.slow_downloads
        ));
        let orders = self.orders(&big, &slow);
        let curl_log = fresh_log(&logs, "curl")?;
        let mut downloads = Downloads::start(orders, &client, &state, &curl_log)?;
        let all = downloads.len();
        wait_until(
            "every download to begin",
            READY_LIMIT,
            LOOK_EVERY,
            interrupt,
            || {
                let flowing = downloads.flowing();
                Ok(if flowing == all {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!(
                        "{flowing} of {all} have, {} have not; {}",
                        downloads.without_a_byte().join(", "),
                        log_end(&curl_log, 5)
                    ))
                })
            },
        )?;

        let mut report = Report {
            nodes,
            connections: all as u64 + u64::from(self.echo_connections),
            ..Report::default()
        };
        // From here on, what the cluster gets wrong is a finding: the scenario goes on to its end.
        let limit = Duration::from_secs(seconds * 4 + 60);
        let started = Instant::now();
        let mut watch =
            |downloads: &Downloads, progress: &mut Progress, phase: &str| -> Result<()> {
                interrupt.check()?;
                web.must_run()?;
                for alive in [
                    echo.progress().map(drop),
                    probe.progress().map(drop),
                    receiver.progress().map(drop),
                ] {
                    alive?;
                }
                counter.progress()?;
                let mb = downloads.bytes(0) / 1_000_000;
                let words = format!("{phase}: {mb} MB, {} downloads open", downloads.open());
                progress.show(downloads.bytes(0), self.download_bytes, &words);
                if started.elapsed() > limit {
                    return Err(Error::Timeout {
                        what: "the downloads to end".into(),
                        after: limit,
                        detail: format!(
                            ": {} are open, {mb} MB of the big one have come",
                            downloads.open()
                        ),
                    });
                }
                std::thread::sleep(LOOK_EVERY);
                Ok(())
            };
        while downloads.bytes(0) < self.download_bytes / 2 {
            watch(&downloads, &mut progress, "before the kill")?;
        }
        let filter = [
            format!("sport={DOWNLOAD_PORT}"),
            "dport=80".into(),
            "proto=tcp".into(),
        ];
        let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
        let victim = cluster.owner(&filter)?.ok_or_else(|| {
            Error::Scenario(format!(
                "no node says that it owns the download's flow ({})",
                filter.join(" ")
            ))
        })?;
        let replicated_by_victim = cluster.status(victim)?.replication.flows_replicated;
        progress.say(format!("n{victim} owns the download: SIGKILL"));
        let killed_ns = cluster.kill(victim)?;
        report.killed = Some(format!("n{victim}"));

        report.redundancy_restored_ms = whole_since(&mut cluster, killed_ns, interrupt, &progress)?;
        while monotonic_ns() < killed_ns + ABSENCE.as_nanos() as u64 {
            watch(&downloads, &mut progress, "without it")?;
        }
        report.failover_ms = first_forward_ms(&cluster, killed_ns)?;
        progress.say(format!("n{victim}: restarted"));
        let restarted_ns = monotonic_ns();
        cluster.restart(victim)?;
        report.rejoined_ms = whole_since(&mut cluster, restarted_ns, interrupt, &progress)?;
        while downloads.open() > 0 {
            watch(&downloads, &mut progress, "after the restart")?;
        }

        progress.say("all downloads have ended: counting");
        let sent = probe.finish(READY_LIMIT)?;
        let received = receiver.finish(READY_LIMIT)?;
        let echoed = echo.finish(READY_LIMIT)?;
        let generated = flowgen.finish()?;
        let seen = counter.finish(READY_LIMIT)?;
        let failures = downloads.failures()?;
        for index in cluster.living() {
            report.flows_replicated += cluster.status(index)?.replication.flows_replicated;
        }
        report.flows_replicated += replicated_by_victim;
        report.connections_broken = (failures.len() + echoed.broken.len()) as u64;
        let failed = failures
            .iter()
            .map(|failure| format!("{}: {}", failure.name, failure.reason));
        let broken = echoed.broken.iter().map(|broken| format!("echo {broken}"));
        report.breakages = failed.chain(broken).take(32).collect();
        report.download_sha256_ok = !failures.iter().any(|failure| failure.name == "download");
        report.download_bytes = downloads.bytes(0);
        report.echo_round_trip_ms_max = echoed.round_trip_ms_max;
        report.packets_sent = sent.total();
        report.packets_lost = sent.lost(&received);
        report.packets_duplicated = received.duplicated;
        report.packets_reordered = received.reordered;
        report.probe_gap_ms_max = received.gap_ms_max;
        report.generated_flows = u64::from(self.generated_flows).min(generated);
        report.generated_flows_seen = seen.flows;
        report.generated_packets = [generated, seen.packets];
        report.duration_s = begin.elapsed().as_secs_f64();
        drop((downloads, web));
        if !self.keep {
            cluster.down()?;
        }
        Ok(report)
    }

    /// Where the logs go.
    pub fn logs(&self) -> PathBuf {
        self.out.join("logs")
    }

    /// The big download first, then the slow ones, of both families in turns.
    fn orders(&self, big: &RandomFile, slow: &RandomFile) -> Vec<Order> {
        let url = |v6: bool, file: &RandomFile| {
            if v6 {
                format!("http://[{SERVER_V6}]/files/{}", file.name)
            } else {
                format!("http://{SERVER_V4}/files/{}", file.name)
            }
        };
        let mut orders = vec![Order {
            name: "download".into(),
            url: url(false, big),
            file: big.clone(),
            rate: self.download_rate,
            local_port: Some(DOWNLOAD_PORT),
        }];
        orders.extend((1..=self.slow_downloads).map(|number| Order {
            name: format!("slow-{number}"),
            url: url(number % 2 == 0, slow),
            file: slow.clone(),
            rate: self.slow_rate,
            local_port: None,
        }));
        orders
    }
}

/// Milliseconds from `since_ns` until every living node was active and redundancy whole; `None`
/// when that did not come about in time.
fn whole_since(
    cluster: &mut Cluster,
    since_ns: u64,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Option<f64>> {
    let seen_ns = match cluster.wait_whole(WHOLE_LIMIT, interrupt) {
        Ok(seen_ns) => seen_ns,
        Err(error @ Error::Timeout { .. }) => {
            progress.say(error.to_string());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The nodes know the moment better than whoever asks them now and then.
    let mut whole_ns = 0;
    for index in cluster.living() {
        whole_ns = whole_ns.max(cluster.status(index)?.redundancy.since_ns);
    }
    let at_ns = if (since_ns..=seen_ns).contains(&whole_ns) {
        whole_ns
    } else {
        seen_ns
    };
    Ok(Some(at_ns.saturating_sub(since_ns) as f64 / 1e6))
}

/// Milliseconds from the kill to the first packet that a node forwarded of what it took over.
fn first_forward_ms(cluster: &Cluster, killed_ns: u64) -> Result<Option<f64>> {
    let mut first: Option<u64> = None;
    for index in cluster.living() {
        let Some(takeover) = cluster.status(index)?.takeover else {
            continue;
        };
        let forwarded = takeover
            .first_forward_ns
            .filter(|&at_ns| at_ns >= killed_ns);
        first = first.into_iter().chain(forwarded).min();
    }
    Ok(first.map(|at_ns| (at_ns - killed_ns) as f64 / 1e6))
}

/// `--to` the server's address of each family, at this port.
fn both_families(flag: &str, port: u16) -> [String; 4] {
    let (v4, v6) = (
        SocketAddr::from((SERVER_V4, port)),
        SocketAddr::from((SERVER_V6, port)),
    );
    [flag.into(), v4.to_string(), flag.into(), v6.to_string()]
}

/// nginx runs elsewhere: it needs whole paths.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(Error::file("make", path))?;
    path.canonicalize().map_err(Error::file("find", path))
}
