//! The daemon's life: read, check, build, run, end.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::Config;
use engine::{LogEntry, NodeShared, Policy, Snapshot};
use membership::{Member, MemberState, View};
use parking_lot::Mutex;
use rtrb::Consumer;
use state::{CommonKind, CommonKinds, CommonMap, NODES_MAX};
use telemetry::control::{Endpoint, Interface, Limits};
use telemetry::counters::{Counts, Registry};

use crate::agents::{self, AgentCounter, Dispatcher};
use crate::clock::{monotonic_us, unix_ms};
use crate::common_requests::{Common, policy_of};
use crate::common_store::{CommonStore, LocalStore, Publish};
use crate::common_sync::{ClusterStore, block_for_ms, heed_workers};
use crate::control::Answers;
use crate::drain;
use crate::error::Error;
use crate::flow_requests::Instructions;
use crate::incarnation::Incarnations;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::state::{Board, Busy};
use crate::{member, pin, sync, workers};

/// Time between two looks at signals, ports and the rules' log.
const HOUSEKEEPING: Duration = Duration::from_millis(50);

/// Runs the daemon until a signal ends it; with `check` only looks whether it could.
pub(crate) fn run(path: &Path, check: bool) -> Result<(), Error> {
    let config = Config::load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let online: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    config.check_machine(&online)?;
    let accounts = agents::command::accounts(&config.agents).map_err(Error::Machine)?;
    let identity = match &config.pki {
        Some(pki) => Some(transport::Identity::load(&pki.ca, &pki.cert, &pki.key)?),
        None => None,
    };
    if check {
        tracing::info!(
            "{}: the configuration is good for this machine",
            path.display()
        );
        return Ok(());
    }
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
    ])
    .map_err(Error::Signals)?;
    // Claimed first: a second daemon on the same socket must not touch the devices.
    let socket = endpoint(&config.control).bind()?;
    let agents_socket = match &config.agents {
        agents if agents.list.is_empty() => None,
        agents => Some(endpoint(&agents.socket).bind()?.into_listener()),
    };

    let config = Arc::new(config);
    let mut ports = Ports::open(&config)?;
    let node = Arc::new(NodeShared::new(
        first_view(&config),
        Policy::new(&config.rules),
    ));
    let policies = Arc::new(Policies::new(
        &config.rules,
        config.agents.names(),
        path.to_owned(),
        node.clone(),
    ));
    let mut incarnations = config
        .cluster
        .as_ref()
        .map(|cluster| Incarnations::of(&cluster.name, &config.name, &config.control.socket));
    let incarnation = match &mut incarnations {
        Some(incarnations) => incarnations.begin(unix_ms()),
        None => unix_ms(),
    };
    let board = Arc::new(Board {
        view: Arc::new(Snapshot::new(first_view(&config))),
        node: node.clone(),
        wake: Default::default(),
        commands: Default::default(),
        policies: policies.clone(),
        incarnation,
        later_run: Default::default(),
        outrun: Default::default(),
        started_us: monotonic_us(),
        synced: Default::default(),
        sync: Default::default(),
        members: Default::default(),
        drain: Default::default(),
        sync_busy: Busy::default(),
        member_busy: Busy::default(),
    });
    let queues = std::mem::take(&mut ports.queues);
    let built = workers::build(&config, queues, &ports.of_interface, &node);

    let mut registry = Registry::new();
    let (mut ready_workers, mut ends, mut shared) = (vec![], vec![], vec![]);
    let (mut pages, mut logs, mut agents) = (vec![], vec![], vec![]);
    for (number, built) in built.into_iter().enumerate() {
        let (counts, malformed) = built.worker.counters().readers();
        registry.register(format!("worker{number}"), &counts);
        registry.register(format!("worker{number}.malformed"), &malformed);
        shared.push(built.ends.shared.clone());
        ready_workers.push(built.worker);
        ends.push(built.ends);
        pages.push(Mutex::new(built.pages));
        logs.push(built.log);
        agents.push(built.agent);
    }
    let sync_counts = Counts::<sync::SyncCounter>::new();
    let member_counts = Counts::<member::MemberCounter>::new();
    if config.cluster.is_some() {
        registry.register("sync", &sync_counts.reader());
        registry.register("membership", &member_counts.reader());
    }
    let interfaces = Arc::new(Mutex::new(interface_reports(&config, &ports)));
    let common = Arc::new(Common {
        store: common_store(&config, &board, &policies),
        config: config.clone(),
        board: board.clone(),
        policies: policies.clone(),
        to_tell: AtomicBool::new(true),
    });
    let (events, dispatched) = mpsc::sync_channel(agents::EVENTS);
    let agent_counts = Counts::<AgentCounter>::new();
    registry.register("agents", &agent_counts.reader());
    let answers = Answers {
        config: config.clone(),
        board: board.clone(),
        registry,
        workers: shared.clone(),
        pages,
        interfaces: interfaces.clone(),
        common: common.clone(),
        instructions: Instructions::new(events.clone()),
    };
    let server = socket
        .serve(answers, Limits::default())
        .map_err(|source| Error::Thread {
            name: "control".into(),
            source,
        })?;

    let stop_agents = Arc::new(AtomicBool::new(false));
    let dispatcher = {
        let stop = stop_agents.clone();
        let list = &config.agents.list;
        let mut dispatcher = Dispatcher::new(dispatched, agents, list, node.clone(), agent_counts);
        pin::spawn("agents", None, move || {
            while !stop.load(Ordering::Relaxed) {
                dispatcher.turn();
            }
        })?
    };
    let (agents_file, commands) = serve_agents(
        &config,
        accounts,
        agents_socket,
        &events,
        &common,
        &stop_agents,
    )?;

    // Workers end last: they forward while the others say good-bye.
    let (stop, stop_workers) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut threads = vec![];
    let mut worker_threads = vec![];
    for (number, worker) in ready_workers.into_iter().enumerate() {
        worker_threads.push(workers::start(
            worker,
            number,
            config.cores.workers[number],
            shared[number].clone(),
            board.clone(),
            stop_workers.clone(),
        )?);
    }
    let leave = Arc::new(AtomicBool::new(false));
    let mut result = Ok(());
    // Without a cluster there is no sync core.
    let mut alone = match config.cluster {
        None => std::mem::take(&mut ends),
        Some(_) => vec![],
    };
    if let (Some(cluster), Some(identity)) = (&config.cluster, identity) {
        let (ready, started) = mpsc::channel();
        threads.push(sync::start(
            &config,
            cluster,
            identity.clone(),
            ends,
            board.clone(),
            publisher(&policies, &node),
            sync_counts,
            stop.clone(),
            ready.clone(),
        )?);
        threads.push(member::start(
            &config,
            cluster,
            identity,
            board.clone(),
            shared,
            member_counts,
            leave.clone(),
            stop.clone(),
            ready,
        )?);
        for _ in 0..2 {
            result = result.and_then(|()| {
                started
                    .recv()
                    .unwrap_or_else(|_| Err(Error::CoreEnded("sync or membership".into())))
            });
        }
    }

    if result.is_ok() {
        tracing::info!("{} is up: {} workers", config.name, worker_threads.len());
        let mut draining: Option<Instant> = None;
        let mut outrun = None;
        let hand_over = || {
            // Nobody waits for the answer: it is forced, so there is only one.
            let _ = board.drain.post(drain::Order::Drain {
                stay: false,
                how: membership::Drain {
                    bound_ms: drain::SIGNAL_BOUND.as_millis() as u64,
                    force: true,
                },
            });
        };
        result = loop {
            if let Some(signal) = signals.pending().next() {
                if config.cluster.is_none() || draining.is_some() {
                    tracing::info!("signal {signal}: ending");
                    break Ok(());
                }
                tracing::info!("signal {signal}: handing over; another one ends at once");
                draining = Some(Instant::now());
                hand_over();
            }
            if board.drain.is_over() {
                tracing::info!("offline: ending");
                break outrun.map_or(Ok(()), Err);
            }
            if draining.is_some_and(|since| since.elapsed() > 2 * drain::SIGNAL_BOUND) {
                tracing::error!("the membership core does not hand over: ending");
                break outrun.map_or(Ok(()), Err);
            }
            if let Some(ended) = worker_threads
                .iter()
                .chain(&threads)
                .find(|t| t.is_finished())
            {
                let name = ended.thread().name().unwrap_or("?").to_owned();
                break Err(Error::CoreEnded(name));
            }
            *interfaces.lock() = interface_reports(&config, &ports);
            common.tend();
            if let Some(incarnations) = &mut incarnations {
                let known = board.later_run.load(Ordering::Relaxed);
                let kept = incarnations.learn(known);
                // One that peers have heard goes on: another process that runs as this node would be
                // outrun by its next run, and that by the other's.
                if kept && board.outrun.load(Ordering::Acquire) && draining.is_none() {
                    let ours = board.incarnation;
                    let error = Error::Outrun { known, ours };
                    tracing::error!("{error}: ending");
                    outrun = Some(error);
                    draining = Some(Instant::now());
                    hand_over();
                }
            }
            heed_workers(&mut alone, &*common.store, block_for_ms(&config));
            log_decisions(&config, &policies, &mut logs);
            std::thread::sleep(HOUSEKEEPING);
        };
    }
    leave.store(true, Ordering::Relaxed);
    if let Some(cluster) = &config.cluster
        && result.is_ok()
    {
        // The peers take over when they hear of it; until then packets still come here.
        std::thread::sleep(cluster.heartbeat * 3);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    stop_workers.store(true, Ordering::Relaxed);
    for thread in worker_threads {
        let _ = thread.join();
    }
    // What agents have of packets goes back to the pool before that goes.
    stop_agents.store(true, Ordering::Relaxed);
    for thread in commands.into_iter().chain([dispatcher]) {
        let _ = thread.join();
    }
    drop(agents_file);
    drop(server);
    let Ports {
        ports, pool, eal, ..
    } = ports;
    drop(ports);
    drop(pool);
    if let Err(error) = eal.shut_down() {
        tracing::warn!("{error}");
    }
    result
}

fn endpoint(socket: &config::Control) -> Endpoint {
    Endpoint {
        path: socket.socket.clone(),
        mode: socket.mode,
        group: socket.group.clone(),
    }
}

/// Lets agents connect, and starts the programs of those that have one.
fn serve_agents<F: Send>(
    config: &Arc<Config>,
    accounts: Vec<Option<agents::command::Account>>,
    socket: Option<(UnixListener, F)>,
    events: &mpsc::SyncSender<agents::Event>,
    common: &Arc<Common>,
    stop: &Arc<AtomicBool>,
) -> Result<(Option<F>, Vec<JoinHandle<()>>), Error> {
    let Some((listener, file)) = socket else {
        return Ok((None, vec![]));
    };
    let reception = agents::link::Reception {
        names: config.agents.names(),
        queues: config.agents.list.iter().map(|a| a.queue).collect(),
        events: events.clone(),
        common: common.clone(),
    };
    // Not waited for at the end: it has nothing of the devices.
    let _ = pin::spawn("agents-accept", None, move || {
        agents::link::accept(&listener, &reception);
    })?;
    let mut threads = vec![];
    let started = config.agents.list.iter().zip(accounts);
    for (agent, account) in started.filter(|(agent, _)| !agent.command.is_empty()) {
        let (agent, socket) = (agent.clone(), config.agents.socket.socket.clone());
        let (stop, events) = (stop.clone(), events.clone());
        let name = format!("agent-{}", agent.name);
        threads.push(pin::spawn(&name, None, move || {
            agents::command::run(&agent, account, &socket, &stop, &events);
        })?);
    }
    Ok((Some(file), threads))
}

/// Where common state is kept.
fn common_store(
    config: &Config,
    board: &Arc<Board>,
    policies: &Arc<Policies>,
) -> Arc<dyn CommonStore> {
    if config.cluster.is_some() {
        return Arc::new(ClusterStore::new(board.clone()));
    }
    Arc::new(LocalStore::new(
        config.node,
        publisher(policies, &board.node),
    ))
}

/// Hands common state to those that use it, after each change.
fn publisher(policies: &Arc<Policies>, node: &Arc<NodeShared>) -> Publish {
    let (policies, node) = (policies.clone(), node.clone());
    Box::new(move |map: &CommonMap, kinds: CommonKinds| {
        const OF_WORKERS: [CommonKind; 4] = [
            CommonKind::Block,
            CommonKind::User,
            CommonKind::Expectation,
            CommonKind::SeqShift,
        ];
        if OF_WORKERS.iter().any(|kind| kinds.contains(*kind)) {
            let next = node.common.load().rebuild(map, kinds);
            node.common.publish(Arc::new(next));
        }
        if kinds.contains(CommonKind::Policy)
            && let Some(entry) = map.of_kind(CommonKind::Policy, 0).next()
            && let Some((text, by)) = policy_of(&entry)
        {
            policies.offer(text.clone(), by);
        }
    })
}

/// Before the membership core has spoken: a node alone owns everything, a member of a cluster
/// nothing.
pub(crate) fn first_view(config: &Config) -> View {
    let me = config.node;
    let alone = config.cluster.is_none();
    let state = if alone {
        MemberState::Active
    } else {
        MemberState::Joining
    };
    View {
        epoch: 0,
        join: 0,
        reunions: 0,
        digest: 0,
        members: vec![Member {
            id: me,
            state,
            incarnation: 0,
        }],
        owner: Box::new([alone.then_some(me); state::SLOTS]),
        groups: vec![vec![]; NODES_MAX],
        targets: vec![state::NodeSet::EMPTY; NODES_MAX],
    }
}

fn interface_reports(config: &Config, ports: &Ports) -> Vec<Interface> {
    let reports = config
        .interfaces
        .iter()
        .zip(&ports.of_interface)
        .map(|(interface, port)| {
            let port = &ports.ports[*port];
            let stats = port.stats().unwrap_or_default();
            Interface {
                name: interface.name.clone(),
                device: interface.device.name().to_owned(),
                link_up: port.link().is_ok_and(|link| link.up),
                mac: port
                    .mac()
                    .map(|mac| wire::Mac(mac).to_string())
                    .unwrap_or_default(),
                rx_packets: stats.rx_packets,
                tx_packets: stats.tx_packets,
                rx_missed: stats.rx_missed,
                rx_errors: stats.rx_errors,
                tx_errors: stats.tx_errors,
            }
        });
    reports.collect()
}

/// Writes what rules with `log = true` have decided.
fn log_decisions(config: &Config, policies: &Policies, logs: &mut [Consumer<LogEntry>]) {
    /// Lines per worker and look; the rest waits in the ring, and what finds that full is counted.
    const LINES: usize = 256;
    let names = policies.names();
    let zone = |id| config.rules.zones().name(id).unwrap_or("?");
    for log in logs {
        for _ in 0..LINES {
            let Ok(LogEntry {
                query: q,
                decision: d,
            }) = log.pop()
            else {
                break;
            };
            tracing::info!(
                "rule {} {}: {} to {}, proto {}, {} port {} to {} port {}",
                names.get(&d.rule_id).map_or("default", String::as_str),
                d.action,
                zone(q.zone_from),
                zone(q.zone_to),
                q.proto,
                wire::addr_to_ip(&q.src),
                q.sport,
                wire::addr_to_ip(&q.dst),
                q.dport,
            );
        }
    }
}
