//! What the control socket answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use config::Config;
use engine::{FlowPage, FlowSeen, WorkerShared};
use parking_lot::Mutex;
use rtrb::{Consumer, Producer};
use state::{NodeId, TcpPhase};
use telemetry::control::{
    Core, DrainPhase, FailureKind, Flow, FlowRole, Flows, Handler, Interface, Member, Node, Peer,
    Proto, Redundancy, Replication, Request, Responder, Status, Takeover, View,
};
use telemetry::counters::Registry;

use crate::clock::monotonic_us;
use crate::common_requests::{Common, sync_name};
use crate::drain::{Order, OrderError};
use crate::flow_requests::Instructions;
use crate::idle;
use crate::policies::RuleNames;
use crate::state::Board;

/// Flows per page.
const PAGE: usize = 1_024;
/// What a worker may take for a page; it fills one per turn.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// A worker's page rings; one client at a time.
type Pages = Mutex<(Producer<FlowPage>, Consumer<FlowPage>)>;

/// Everything that answers are made from.
pub(crate) struct Answers {
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<Board>,
    pub(crate) registry: Registry,
    pub(crate) workers: Vec<Arc<WorkerShared>>,
    pub(crate) pages: Vec<Pages>,
    pub(crate) interfaces: Arc<Mutex<Vec<Interface>>>,
    pub(crate) common: Arc<Common>,
    pub(crate) instructions: Instructions,
}

impl Handler for Answers {
    fn handle(&self, request: Request, responder: &mut Responder<'_>) {
        match request {
            Request::Ping => responder.pong(),
            Request::Version => responder.version(env!("CARGO_PKG_VERSION")),
            Request::Status => responder.status(&self.status()),
            Request::Counters { query } => responder.counters(&self.registry.report(&query)),
            Request::User(request) => self.common.user(request, responder),
            Request::Block(request) => self.common.block(request, responder),
            Request::Policy(request) => self.common.policy(request, responder),
            Request::Expect(request) => self.common.expect(request, responder),
            Request::Flow(request) => match self.instructions.carry_out(&request) {
                Ok(instructed) => responder.instructed(&instructed),
                Err(failure) => responder.fail(failure.kind, failure.message),
            },
            Request::Drain {
                stay,
                bound_ms,
                force,
            } => self.order(
                Order::Drain {
                    stay,
                    how: membership::Drain { bound_ms, force },
                },
                responder,
            ),
            Request::Undrain => self.order(Order::Undrain, responder),
            Request::DrainProgress { after } => {
                responder.drain(&self.board.drain.news_after(after));
            }
            Request::Flows { filter, .. } => {
                for worker in 0..self.pages.len() {
                    if !self.flows_of(worker, &filter, responder) {
                        return;
                    }
                }
            }
        }
    }
}

impl Answers {
    /// Has the node go offline or come back.
    fn order(&self, order: Order, responder: &mut Responder<'_>) {
        if self.config.cluster.is_none() {
            let why = "this node has no cluster to hand over to: end it with a signal";
            return responder.fail(FailureKind::Refused, why);
        }
        match self.board.drain.order(order) {
            Ok(report) => responder.drain(&report),
            Err(error @ OrderError::Silent) => {
                responder.fail(FailureKind::Internal, error.to_string());
            }
            Err(error) => responder.fail(FailureKind::Refused, error.to_string()),
        }
    }

    /// Lists a worker's flows; false when the list ends here.
    fn flows_of(
        &self,
        worker: usize,
        filter: &telemetry::control::FlowFilter,
        responder: &mut Responder<'_>,
    ) -> bool {
        let mut rings = self.pages[worker].lock();
        let rules = self.common.policies.names();
        // What a client left behind that gave up.
        while rings.1.pop().is_ok() {}
        let mut page = FlowPage {
            cursor: 0,
            flows: Vec::with_capacity(PAGE),
        };
        while page.cursor != FlowPage::END {
            page.flows.clear();
            if rings.0.push(page).is_err() {
                responder.fail(
                    FailureKind::Internal,
                    format!("worker {worker} does not answer"),
                );
                return false;
            }
            let asked = Instant::now();
            page = loop {
                if let Ok(page) = rings.1.pop() {
                    break page;
                }
                if asked.elapsed() > PAGE_PATIENCE {
                    responder.fail(
                        FailureKind::Internal,
                        format!("worker {worker} does not answer"),
                    );
                    return false;
                }
                std::thread::sleep(Duration::from_micros(200));
            };
            for seen in &page.flows {
                let flow = self.flow(seen, &rules);
                if filter.matches(&flow.facts()) && responder.flow(&flow).is_err() {
                    // Enough, or nobody listens any more.
                    return false;
                }
            }
        }
        true
    }

    fn is_ecmp(&self) -> bool {
        let cluster = self.config.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.distribution == config::Distribution::Ecmp)
    }

    fn flow(&self, seen: &FlowSeen, rules: &RuleNames) -> Flow {
        let record = &seen.record;
        let origin = record.class.origin;
        let (src, sport) = record.key.source(origin);
        let (dst, dport) = record.key.destination(origin);
        let slot = state::slot_of(&record.key);
        let by_origin = |pair: [u64; 2]| [pair[origin.index()], pair[origin.reverse().index()]];
        let zone = |id| self.config.rules.zones().name(id).unwrap_or("?").to_owned();
        Flow {
            proto: Proto(record.key.proto()),
            src: wire::addr_to_ip(&src),
            sport,
            dst: wire::addr_to_ip(&dst),
            dport,
            state: match record.tcp_phase() {
                Some(phase) => TcpPhase::name(phase).to_owned(),
                None if record.progress.replied() => "replied".to_owned(),
                None => "new".to_owned(),
            },
            role: if seen.owned {
                FlowRole::Owner
            } else if seen.handled && self.is_ecmp() {
                FlowRole::Handler
            } else if self.board.node.view.load().holds(self.config.node, slot) {
                FlowRole::Backup
            } else {
                FlowRole::Stale
            },
            slot: slot.index() as u16,
            zone_from: zone(record.class.zone_from),
            zone_to: zone(record.class.zone_to),
            rule: match rules.get(&record.verdict.rule) {
                Some(name) => name.clone(),
                None => format!("{:#010x}", record.verdict.rule),
            },
            sync: sync_name(record.class.sync).to_owned(),
            age_s: seen.age_s.into(),
            idle_s: seen.idle_s.into(),
            packets: by_origin(seen.local.packets),
            bytes: by_origin(seen.local.bytes),
            held: seen.held,
            mark: record.mark.value,
            incarnation: record.incarnation,
        }
    }

    fn status(&self) -> Status {
        let now_us = monotonic_us();
        let view = self.board.node.view.load();
        let me = self.config.node;
        let name = |id: NodeId| self.member_name(id);
        let heard = self.board.members.lock().clone().heard_ms;
        let mine = view.member(me);
        let drain = self.board.drain.report();
        // By its own view it goes on until all others own.
        let handing_over = matches!(drain.phase, DrainPhase::HandingOver | DrainPhase::FinalSync);
        let state = match handing_over {
            true => "draining",
            false => mine.map_or("active", |m| m.state.name()),
        };
        Status {
            node: Node {
                name: self.config.name.clone(),
                id: me.raw(),
                incarnation: self.board.incarnation,
                state: state.to_owned(),
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: (now_us - self.board.started_us) / 1_000_000,
            },
            view: View {
                epoch: view.epoch,
                digest: format!("{:016x}", view.digest),
                members: view
                    .members
                    .iter()
                    .map(|m| Member {
                        name: name(m.id),
                        id: m.id.raw(),
                        state: m.state.name().to_owned(),
                        incarnation: m.incarnation,
                        last_heard_ms: if m.id == me {
                            Some(0)
                        } else {
                            heard.get(&m.id.raw()).copied()
                        },
                    })
                    .collect(),
                owned_slots: view.owned(me) as u64,
                backup_groups: view
                    .members
                    .iter()
                    .map(|m| {
                        (
                            name(m.id),
                            view.group(m.id).iter().map(|n| name(*n)).collect(),
                        )
                    })
                    .collect::<BTreeMap<_, Vec<_>>>(),
            },
            redundancy: self.redundancy(),
            takeover: self.takeover(),
            replication: self.replication(),
            flows: self.flow_totals(),
            policy: self.common.policy_in_force(),
            common: self.common.counts(),
            interfaces: self.interfaces.lock().clone(),
            cores: self.cores(now_us),
            drain: (drain.phase != DrainPhase::None).then_some(drain),
        }
    }

    fn redundancy(&self) -> Redundancy {
        let report = self.board.sync.lock();
        let deferred = self
            .workers
            .iter()
            .any(|w| w.told.deferred.load(Ordering::Relaxed));
        match &report.status {
            // A node without a cluster has no copies to wait for, and none to rely on.
            None => Redundancy {
                whole: false,
                since_ns: self.board.started_us * 1_000,
                pending_slots: 0,
            },
            Some(status) => Redundancy {
                whole: status.whole && !deferred,
                since_ns: status.since_us * 1_000,
                pending_slots: status
                    .targets
                    .iter()
                    .filter_map(|t| t.snapshot_slots)
                    .max()
                    .unwrap_or(0)
                    .max(status.adopting_slots) as u64,
            },
        }
    }

    fn takeover(&self) -> Option<Takeover> {
        let told = |w: &Arc<WorkerShared>| {
            let told = &w.told;
            let epoch = told.takeover_epoch.load(Ordering::Acquire);
            let at_us = told.takeover_us.load(Ordering::Relaxed);
            let first_us = told.first_forward_us.load(Ordering::Acquire);
            (epoch, at_us, first_us)
        };
        let epoch = self
            .workers
            .iter()
            .map(|w| told(w).0)
            .max()
            .filter(|epoch| *epoch > 0)?;
        let of_epoch: Vec<_> = self
            .workers
            .iter()
            .map(told)
            .filter(|t| t.0 == epoch)
            .collect();
        let slots = self
            .workers
            .first()
            .map_or(0, |w| w.told.takeover_slots.load(Ordering::Relaxed));
        Some(Takeover {
            epoch,
            at_ns: of_epoch.iter().map(|t| t.1).min().unwrap_or(0) * 1_000,
            first_forward_ns: of_epoch
                .iter()
                .map(|t| t.2)
                .filter(|us| *us > 0)
                .min()
                .map(|us| us * 1_000),
            slots,
        })
    }

    fn replication(&self) -> Replication {
        let report = self.board.sync.lock();
        let Some(status) = &report.status else {
            return Replication::default();
        };
        let lag = |id: u8| status.targets.iter().find(|t| t.peer.raw() == id);
        let others = self.config.cluster.iter().flat_map(|c| &c.members);
        let others = others.filter(|m| m.id != self.config.node);
        Replication {
            flows_replicated: status.counters.flows_acked,
            records_sent: status.counters.records_sent + status.counters.snapshot_records_sent,
            records_received: status.counters.records_received,
            lag_records: status
                .targets
                .iter()
                .map(|t| t.lag_records)
                .max()
                .unwrap_or(0),
            slots_compared: status.counters.slots_compared,
            slots_differing: status.counters.slots_differing,
            slots_repaired: status.counters.slots_repaired,
            handing_over_slots: status.handing_over_slots as u64,
            peers: others
                .map(|m| {
                    let peer = report.peers.get(&m.id.raw()).cloned().unwrap_or_default();
                    let lag = lag(m.id.raw());
                    Peer {
                        name: m.name.clone(),
                        connected: peer.connected,
                        lag_records: lag.map_or(0, |t| t.lag_records),
                        lag_ms: lag.map_or(0, |t| t.lag_us / 1_000),
                        compared_ms: lag.and_then(|t| Some(t.compared_us? / 1_000)),
                        refused: lag.is_some_and(|t| t.refused),
                        rtt_us: peer.rtt_us,
                        bytes_sent: peer.bytes_sent,
                        last_error: peer.last_error.filter(|_| !peer.connected),
                    }
                })
                .collect(),
        }
    }

    fn flow_totals(&self) -> Flows {
        let sum = |value: fn(&engine::Told) -> &std::sync::atomic::AtomicU64| {
            self.workers
                .iter()
                .map(|w| value(&w.told).load(Ordering::Relaxed))
                .sum()
        };
        Flows {
            live: sum(|t| &t.flows_live),
            owned: sum(|t| &t.flows_owned),
            capacity: self.config.capacity(),
            held_packets: sum(|t| &t.held),
        }
    }

    fn cores(&self, now_us: u64) -> Vec<Core> {
        let uptime_us = (now_us - self.board.started_us).max(1);
        let permille = |busy_us: u64| (busy_us * 1_000 / uptime_us).min(1_000) as u32;
        let cores = &self.config.cores;
        let workers =
            cores
                .workers
                .iter()
                .zip(&self.workers)
                .enumerate()
                .map(|(n, (w, shared))| Core {
                    role: format!("worker{n}"),
                    cpu: w.cpu.into(),
                    idle: idle::name(w.idle).to_owned(),
                    busy_permille: permille(shared.told.busy_us.load(Ordering::Relaxed)),
                });
        let control = [
            (
                "sync",
                cores.sync,
                idle::name(cores.idle),
                &self.board.sync_busy,
            ),
            // It waits in the kernel for heartbeats and timers, whatever the policy of the others.
            (
                "membership",
                cores.membership,
                "sleep",
                &self.board.member_busy,
            ),
        ];
        let control = control.into_iter().filter_map(|(role, cpu, idle, busy)| {
            Some(Core {
                role: role.to_owned(),
                cpu: cpu?.into(),
                idle: idle.to_owned(),
                busy_permille: permille(busy.0.load(Ordering::Relaxed)),
            })
        });
        workers.chain(control).collect()
    }

    fn member_name(&self, id: NodeId) -> String {
        let member = self.config.cluster.as_ref().and_then(|c| c.member(id));
        member.map_or_else(|| self.config.name.clone(), |m| m.name.clone())
    }
}
