//! Runs the built `ravelin`, against a daemon of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use telemetry::control::{
    CommonEntries, Core, Drain, DrainPhase, Endpoint, FailureKind, Flow, FlowFilter,
    FlowInstructed, FlowRequest, FlowRole, Flows, Handler, Interface, Limits, Member, Node, Peer,
    PolicyInForce, Proto, Redundancy, Replication, Request, Responder, Server, Status, Takeover,
    View,
};
use telemetry::counters::{CounterQuery, CounterReport, CounterValue};

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("not killed"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program, free of the environment's settings.
pub(crate) fn ravelin(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ravelin"));
    command
        .args(args)
        .env_remove("RAVELIN_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    ravelin(args).output().unwrap().into()
}

/// A daemon that answers from fixed data and remembers what it was asked.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    server: Option<Server>,
}

static LAST: Mutex<Vec<(PathBuf, Request)>> = Mutex::new(Vec::new());

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::telling(Story::Refused)
    }

    /// A daemon whose drains go as the story has it.
    pub(crate) fn telling(story: Story) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint {
            path: dir.path().join("s"),
            ..Endpoint::default()
        };
        let handler = Fixed {
            path: endpoint.path.clone(),
            rounds: AtomicU64::new(0),
            drains: Drains::new(story),
        };
        let server = endpoint.bind().unwrap().serve(handler, Limits::default());
        Self {
            dir,
            server: Some(server.unwrap()),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn stop(&mut self) {
        self.server = None;
    }

    /// The program with `--socket`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = ravelin(args);
        command.arg("--socket").arg(self.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// What this daemon was asked last.
    pub(crate) fn asked(&self) -> Request {
        let asked = LAST.lock().unwrap();
        let mut mine = asked.iter().rev().filter(|(path, _)| *path == self.path());
        mine.next().expect("something was asked").1.clone()
    }
}

struct Fixed {
    path: PathBuf,
    rounds: AtomicU64,
    drains: Drains,
}

impl Handler for Fixed {
    fn handle(&self, request: Request, responder: &mut Responder<'_>) {
        LAST.lock()
            .unwrap()
            .push((self.path.clone(), request.clone()));
        match request {
            Request::Ping => responder.pong(),
            Request::Version => responder.version("9.8.7"),
            Request::Drain { .. } | Request::Undrain | Request::DrainProgress { .. } => {
                self.drains.answer(&request, responder);
            }
            Request::Status => responder.status(&status()),
            Request::Counters { query } => {
                let round = self.rounds.fetch_add(1, Ordering::Relaxed);
                responder.counters(&counters(&query, round));
            }
            Request::User(_) | Request::Block(_) | Request::Policy(_) | Request::Expect(_) => {
                crate::common::answer(request, responder);
            }
            Request::Flow(request) if request.flow().dport == 404 => {
                responder.fail(FailureKind::Unavailable, "no such flow on this node");
            }
            Request::Flow(request) => responder.instructed(&FlowInstructed {
                acknowledged: !matches!(request, FlowRequest::End { .. }),
                waited_us: 1_250,
            }),
            Request::Flows { filter, .. } => {
                let many = filter.zone.as_deref() == Some("many");
                let flows = if many { vec![flow(); 100_000] } else { flows() };
                let any = FlowFilter::default();
                let filter = if many { &any } else { &filter };
                for flow in flows.iter().filter(|f| filter.matches(&f.facts())) {
                    if responder.flow(flow).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

fn counters(query: &CounterQuery, round: u64) -> CounterReport {
    let all = [
        ("rx_packets", "worker0", 1_000 + round),
        ("drops", "worker0", 0),
        ("rx_packets", "worker1", 20),
        ("records_sent", "sync", 7),
    ];
    let mut report = CounterReport::default();
    for (name, scope, value) in all {
        if query.nonzero && value == 0 || query.scope.as_deref().is_some_and(|s| s != scope) {
            continue;
        }
        *report.sum.entry(name.into()).or_default() += value;
        report.counters.push(CounterValue {
            name: name.into(),
            scope: scope.into(),
            value,
        });
    }
    report
}

fn flow() -> Flow {
    Flow {
        proto: Proto(6),
        src: "10.1.0.5".parse().unwrap(),
        sport: 1000,
        dst: "10.2.0.9".parse().unwrap(),
        dport: 80,
        state: "established".into(),
        role: FlowRole::Owner,
        slot: 12,
        zone_from: "inside".into(),
        zone_to: "outside".into(),
        rule: "web".into(),
        sync: "ack".into(),
        age_s: 3_661,
        idle_s: 2,
        packets: [10, 20],
        bytes: [600, 30_000],
        held: false,
        mark: 0,
        incarnation: u64::MAX,
    }
}

/// Two flows, of IPv4 and IPv6.
pub(crate) fn flows() -> Vec<Flow> {
    let v6 = Flow {
        proto: Proto(17),
        src: "fd00:1::5".parse().unwrap(),
        sport: 5_353,
        dst: "fd00:2::9".parse().unwrap(),
        dport: 53,
        state: "new".into(),
        role: FlowRole::Backup,
        rule: "dns".into(),
        age_s: 5,
        idle_s: 5,
        packets: [1, 0],
        bytes: [80, 0],
        held: true,
        ..flow()
    };
    vec![flow(), v6]
}

pub(crate) fn status() -> Status {
    let member = |name: &str, id, last_heard_ms| Member {
        name: name.into(),
        id,
        state: "active".into(),
        incarnation: 1_700_000_000_000,
        last_heard_ms: Some(last_heard_ms),
    };
    let peer = |name: &str, lag_records, last_error: Option<&str>| Peer {
        name: name.into(),
        connected: true,
        lag_records,
        lag_ms: lag_records / 4,
        compared_ms: (lag_records > 0).then_some(2_340),
        refused: false,
        rtt_us: 85,
        bytes_sent: 123_456,
        last_error: last_error.map(str::to_owned),
    };
    let interface = |name: &str, rx_packets| Interface {
        name: name.into(),
        device: format!("net_af_packet0,iface={name}"),
        link_up: true,
        mac: "02:00:00:00:00:01".into(),
        rx_packets,
        tx_packets: 5,
        ..Interface::default()
    };
    let core = |role: &str, cpu, busy_permille| Core {
        role: role.into(),
        cpu,
        idle: "spin".into(),
        busy_permille,
    };
    Status {
        node: Node {
            name: "n1".into(),
            id: 1,
            incarnation: 1_700_000_000_000,
            state: "active".into(),
            pid: 4242,
            version: "0.1.0".into(),
            uptime_s: 7_500,
        },
        view: View {
            epoch: 7,
            digest: "00c0ffee00c0ffee".into(),
            members: vec![member("n1", 1, 0), member("n2", 2, 3), member("n3", 3, 12)],
            owned_slots: 341,
            backup_groups: [
                ("n1".into(), vec!["n2".into()]),
                ("n2".into(), vec!["n3".into(), "n1".into()]),
            ]
            .into(),
        },
        // The monotonic clock starts with the machine: both were a moment after that.
        redundancy: Redundancy {
            whole: true,
            since_ns: 0,
            pending_slots: 0,
        },
        takeover: Some(Takeover {
            epoch: 6,
            at_ns: 1_000_000,
            first_forward_ns: Some(13_500_000),
            slots: 171,
        }),
        replication: Replication {
            flows_replicated: 4_000,
            records_sent: 9_000,
            records_received: 8_000,
            lag_records: 12,
            slots_compared: 2048,
            slots_differing: 3,
            slots_repaired: 2,
            handing_over_slots: 0,
            peers: vec![peer("n2", 12, None), peer("n3", 0, Some("timed out"))],
        },
        flows: Flows {
            live: 12_000,
            owned: 4_000,
            capacity: 1_000_000,
            held_packets: 1,
        },
        interfaces: vec![interface("inside", 1_234_567), interface("out0", 9)],
        cores: vec![core("worker0", 2, 875), core("sync", 1, 30)],
        policy: PolicyInForce {
            generation: 4,
            source: "rules.toml".into(),
            error: None,
        },
        common: CommonEntries {
            blocks: 2,
            users: 1,
            expectations: 0,
            tunnels: 0,
            behind: vec!["n2".into()],
            ..CommonEntries::default()
        },
        drain: None,
    }
}

/// The repository's examples.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
}

/// How a drain goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// Not at all.
    Refused,
    /// To its end, and the daemon ends.
    Leaves,
    /// To its end, and the daemon stays.
    Stays,
    /// Its time is up before.
    Cut,
    /// Nobody is left to take over.
    Abandoned,
}

/// The answers of a drain, in turn.
struct Drains {
    story: Story,
    step: AtomicU64,
}

impl Drains {
    fn new(story: Story) -> Self {
        Self {
            story,
            step: AtomicU64::new(0),
        }
    }

    fn answer(&self, request: &Request, responder: &mut Responder<'_>) {
        if self.story == Story::Refused {
            return responder.fail(FailureKind::Refused, "no other node is active");
        }
        let step = match request {
            Request::DrainProgress { after } => *after,
            _ => 0,
        };
        let begun = Drain {
            number: step + 1,
            slots: 341,
            age_ms: 7 * step,
            stay: self.story == Story::Stays,
            ..Drain::default()
        };
        let phase = match (step, self.story) {
            (0, _) => DrainPhase::HandingOver,
            (1, Story::Abandoned) => DrainPhase::Abandoned,
            (1, _) => DrainPhase::FinalSync,
            (2, _) => DrainPhase::Releasing,
            (3, Story::Stays) => DrainPhase::Drained,
            _ => DrainPhase::Leaving,
        };
        let handing_over = phase == DrainPhase::HandingOver;
        // After the last news the daemon ends: its connections break.
        let asked = self.step.fetch_add(1, Ordering::Relaxed);
        if asked > 5 {
            return responder.fail(FailureKind::Unavailable, "ending");
        }
        responder.drain(&Drain {
            phase,
            slots_handed_over: if handing_over { 170 } else { 341 },
            waits_for: if handing_over {
                vec!["n3".into()]
            } else {
                vec![]
            },
            held_packets: if phase == DrainPhase::Releasing { 1 } else { 0 },
            cut: (self.story == Story::Cut && !handing_over).then(|| "packets are lost".into()),
            ..begun
        });
    }
}
