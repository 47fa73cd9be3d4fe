//! The worker cores: their configuration, rings and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Config, Idle};
use dpdk::QueuePair;
use engine::{AgentLink, Cross, FlowPage, Links, LogEntry, NodeShared, Worker, WorkerShared};
use replication::{ToSync, ToWorker};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::agents::AgentEnds;
use crate::clock::Clock;
use crate::error::Error;
use crate::idle::Rest;
use crate::pin;
use crate::state::Board;

/// Changes that a worker may be ahead of the sync core.
const CHANGES: usize = 1 << 16;
/// Messages that the sync core may be ahead of a worker.
const MESSAGES: usize = 1 << 10;
/// Packets that may be on their way from one worker to another.
const CROSSING: usize = 1 << 10;
/// Decisions to be logged that may wait.
const LOG_ENTRIES: usize = 1 << 10;
/// Instructions that may wait for a worker.
const INSTRUCTIONS: usize = 1 << 8;
/// Answers, and packets for an agent, that may wait for it.
const NOTICES: usize = 1 << 10;
/// Next hops per worker.
const HOPS: usize = 1 << 12;
/// ICMP errors and resets per second and worker (Linux limits ICMP to 1000 per second).
const ICMP_RATE: u32 = 1_000;

/// The other ends of a worker's rings for the sync core.
pub(crate) struct Ends {
    pub(crate) from_worker: Consumer<ToSync>,
    pub(crate) to_worker: Producer<ToWorker>,
    pub(crate) shared: Arc<WorkerShared>,
}

/// A worker, and the other ends of its rings for everybody else.
pub(crate) struct Built {
    pub(crate) worker: Worker<QueuePair>,
    pub(crate) ends: Ends,
    /// For the control socket.
    pub(crate) pages: (Producer<FlowPage>, Consumer<FlowPage>),
    pub(crate) log: Consumer<LogEntry>,
    pub(crate) agent: AgentEnds<dpdk::Mbuf>,
}

/// Makes all workers and the other ends of their rings.
pub(crate) fn build(
    config: &Config,
    queues: Vec<Vec<QueuePair>>,
    of_interface: &[usize],
    node: &Arc<NodeShared>,
) -> Vec<Built> {
    let count = queues.len();
    // cross[from][to]
    let mut producers: Vec<Vec<Option<Producer<Cross<dpdk::Mbuf>>>>> = vec![];
    let mut consumers: Vec<Vec<Option<Consumer<Cross<dpdk::Mbuf>>>>> =
        (0..count).map(|_| vec![]).collect();
    for from in 0..count {
        let mut row = vec![];
        for (to, column) in consumers.iter_mut().enumerate() {
            let pair = (from != to).then(|| RingBuffer::new(CROSSING));
            let (producer, consumer) = pair.unzip();
            row.push(producer);
            column.push(consumer);
        }
        producers.push(row);
    }
    let mut built = vec![];
    let rings = producers.into_iter().zip(consumers);
    for (number, (queues, (cross_to, cross_from))) in queues.into_iter().zip(rings).enumerate() {
        let (to_sync, from_worker) = RingBuffer::new(CHANGES);
        let (to_worker, from_sync) = RingBuffer::new(MESSAGES);
        let (pages_to_worker, pages_from) = RingBuffer::new(1);
        let (pages_to, pages_from_worker) = RingBuffer::new(1);
        let (log_to, log) = RingBuffer::new(LOG_ENTRIES);
        let (instruct, instructions) = RingBuffer::new(INSTRUCTIONS);
        let (notices, noticed) = RingBuffer::new(NOTICES);
        let links = Links {
            to_sync,
            from_sync,
            cross_to,
            cross_from,
            pages_from,
            pages_to,
            log: log_to,
            agent: Some(AgentLink {
                instructions,
                notices,
            }),
        };
        let shared = Arc::new(WorkerShared::default());
        let worker_config = worker_config(config, number, count, of_interface);
        let now = Clock::new().now();
        let worker = Worker::new(
            worker_config,
            queues,
            links,
            shared.clone(),
            node.clone(),
            now,
        );
        built.push(Built {
            worker,
            ends: Ends {
                from_worker,
                to_worker,
                shared,
            },
            pages: (pages_to_worker, pages_from_worker),
            log,
            agent: AgentEnds {
                instructions: instruct,
                notices: noticed,
            },
        });
    }
    built
}

fn worker_config(
    config: &Config,
    worker: usize,
    workers: usize,
    of_interface: &[usize],
) -> engine::Config {
    let interfaces =
        config
            .interfaces
            .iter()
            .zip(of_interface)
            .map(|(i, port)| engine::Interface {
                name: i.name.clone(),
                port: *port,
                vlan: i.vlan,
                zone: i.zone,
                mtu: i.mtu,
                addresses: i.addresses.clone(),
                ping: i.ping,
            });
    let s = |ms: u32| ms.div_ceil(1000).max(1);
    let t = &config.timeouts;
    let cluster = config.cluster.as_ref();
    let deadline = cluster.map_or(Duration::from_millis(50), |c| c.hold_deadline);
    engine::Config {
        node: config.node,
        worker,
        workers,
        interfaces: interfaces.collect(),
        routes: config
            .routes
            .iter()
            .map(|r| engine::Route {
                to: r.to,
                via: r.via,
            })
            .collect(),
        neighbours: config
            .neighbours
            .iter()
            .map(|n| engine::Neighbour {
                interface: n.interface as u8,
                address: n.address,
                mac: wire::Mac(n.mac),
            })
            .collect(),
        distribution: cluster.map_or(engine::Distribution::Filter, distribution),
        cluster_mac: cluster.and_then(|c| c.mac).map(wire::Mac),
        replicate: cluster.is_some(),
        burst: config.cores.workers[worker].burst.into(),
        capacity: config.table(worker) as usize,
        // With a known seed, keys that collide could be chosen.
        seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), worker),
        timeouts: engine::Timeouts {
            tcp: [
                s(t.tcp_syn_sent_ms),
                s(t.tcp_syn_received_ms),
                s(t.tcp_established_ms),
                s(t.tcp_fin_wait_ms),
                s(t.tcp_closing_ms),
                s(t.tcp_time_wait_ms),
                s(t.tcp_reset_ms),
            ],
            udp_new: s(t.udp_new_ms),
            udp_stream: s(t.udp_stream_ms),
            icmp: s(t.icmp_ms),
            other_new: s(t.other_new_ms),
            other_stream: s(t.other_stream_ms),
            tombstone: config.flows.tombstone.as_secs().clamp(1, 86_400) as u32,
        },
        refresh_s: config.flows.refresh.as_secs().clamp(1, 86_400) as u32,
        tcp_strict: config.tcp.strict,
        tcp_pickup: config.tcp.pickup,
        verify_checksums: config.flows.verify_checksums,
        hold: engine::Hold {
            capacity: config.hold(worker) as usize,
            deadline_us: deadline.as_micros() as u64,
            at_deadline: match cluster.map(|c| c.hold_at_deadline) {
                Some(config::AtDeadline::Release) => engine::AtDeadline::Release,
                Some(config::AtDeadline::Drop) | None => engine::AtDeadline::Drop,
            },
            alone: match cluster.map(|c| c.alone) {
                Some(config::Alone::Refuse) => engine::WhenAlone::Refuse,
                Some(config::Alone::Forward) | None => engine::WhenAlone::Forward,
            },
        },
        resync_rate: cluster.map_or(1_000_000, |c| c.resync_rate),
        icmp_rate: ICMP_RATE,
        detect: config.detect.as_ref().map(|detect| engine::Detect {
            scan_ports: detect.scan_ports,
            flood_syns: detect.flood_syns,
            window_s: detect.window.as_secs().max(1) as u32,
            except: detect.except.clone(),
        }),
        hops: HOPS,
    }
}

/// How packets come to the nodes.
pub(crate) fn distribution(cluster: &config::Cluster) -> engine::Distribution {
    match cluster.distribution {
        config::Distribution::Filter => engine::Distribution::Filter,
        config::Distribution::Ecmp => engine::Distribution::Ecmp,
    }
}

/// A worker's thread: turn after turn until told to stop.
pub(crate) fn start(
    mut worker: Worker<QueuePair>,
    number: usize,
    config: config::Worker,
    shared: Arc<WorkerShared>,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Error> {
    let name = format!("worker{number}");
    pin::spawn(&name.clone(), Some(config.cpu), move || {
        let registered = match dpdk::register_thread() {
            Ok(registered) => registered,
            Err(error) => {
                tracing::error!("{name}: {error}");
                return;
            }
        };
        if let Idle::Sleep(duration) = config.idle {
            precise_sleep(duration);
        }
        let mut clock = Clock::new();
        let mut rest = Rest::new(config.idle);
        let mut busy_us = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = clock.now();
            if worker.poll(now) > 0 {
                rest.worked();
                board.wake.wake();
                busy_us += clock.now().us - now.us;
                shared.told.busy_us.store(busy_us, Ordering::Relaxed);
            } else if let Some(duration) = rest.idled() {
                std::thread::sleep(duration);
            }
        }
        drop(worker);
        drop(registered);
    })
}

/// Timers of a thread may be late by this much; Linux's 50 µs would double a short sleep.
fn precise_sleep(duration: Duration) {
    let slack_ns = (duration.as_nanos() as u64 / 10).max(1);
    if let Err(error) = nix::sys::prctl::set_timerslack(slack_ns) {
        tracing::warn!("sleeps of {duration:?} may take 50 µs longer: {error}");
    }
}
