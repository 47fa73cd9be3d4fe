//! What a node is built of: the cluster's configuration, the rules, its workers and their rings.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::memory::{MemoryBuf, MemoryPort};
use engine::{
    AtDeadline, Config, Cross, Hold, Interface, Links, NodeShared, Timeouts, WhenAlone, Worker,
    WorkerShared,
};
use membership::ClusterConfig;
use policy::{Action, Rule, RuleSet, Service, SyncDefaults, SyncPolicy, Zones};
use replication::HoldAcks;
use rtrb::{Consumer, Producer, RingBuffer};
use state::{NodeId, SyncMode};
use wire::Mac;

use crate::hosts::{CLUSTER, PORTS};
use crate::node::{Clock, End, Turn, WorkerCore};
use crate::options::Options;
use crate::random::Rng;

/// Seconds that tombstones are kept.
pub(crate) const TOMBSTONE_S: u32 = 12;
/// Frames that a worker takes from a port in one turn.
pub(crate) const BURST: usize = 32;
/// How long a packet is held at most.
pub(crate) const HOLD_DEADLINE_US: u64 = 50_000;

/// What all runs of all nodes share.
pub(crate) struct Shape {
    pub(crate) options: Options,
    pub(crate) cluster: Arc<ClusterConfig>,
    pub(crate) rules: RuleSet,
}

impl Shape {
    pub(crate) fn new(options: &Options) -> Self {
        let members = (0..options.nodes as u8).map(|id| membership::MemberConfig {
            id: NodeId::new(id).expect("at most 16 nodes"),
            name: format!("n{id}"),
            weight: 1,
            backups: vec![],
        });
        let timing = membership::Timing {
            heartbeat_ms: options.heartbeat_ms,
            dead_after_ms: 4 * options.heartbeat_ms,
            join_wait_ms: 1_000,
        };
        let hash = membership::cluster_hash("sim");
        let cluster = ClusterConfig::new(hash, members.collect(), options.backups, timing)
            .expect("the options are checked");
        Self {
            options: options.clone(),
            cluster: Arc::new(cluster),
            rules: rules(),
        }
    }

    /// Flows and tombstones that one worker's shard holds.
    pub(crate) fn capacity(&self) -> usize {
        let all = if self.options.faults.tiny_table {
            40
        } else {
            1024
        };
        all / self.options.workers
    }

    pub(crate) fn hold_capacity(&self) -> usize {
        if self.options.faults.tiny_hold {
            2
        } else {
            128
        }
    }

    pub(crate) fn log_max(&self) -> usize {
        if self.options.faults.tiny_log {
            12
        } else {
            512
        }
    }

    pub(crate) fn ring(&self) -> usize {
        if self.options.faults.tiny_rings {
            3
        } else {
            1024
        }
    }

    fn distribution(&self) -> engine::Distribution {
        match self.options.ecmp {
            true => engine::Distribution::Ecmp,
            false => engine::Distribution::Filter,
        }
    }

    /// The options of a node's replicator.
    pub(crate) fn replication(&self, me: NodeId, incarnation: u64) -> replication::Options {
        let (options, cluster) = (&self.options, self.cluster.cluster());
        let mut it = replication::Options::new(me, incarnation, cluster, options.workers);
        it.hold_acks = match options.hold_acks {
            0 => HoldAcks::All,
            n => HoldAcks::Count(n),
        };
        it.distribution = self.distribution();
        // As `ravelind/src/sync.rs` derives them.
        it.ask_retry_us = HOLD_DEADLINE_US / 4;
        it.ask_deadline_us = HOLD_DEADLINE_US + HOLD_DEADLINE_US / 4;
        it.log_records_max = self.log_max();
        it.batch_records_max = 32;
        it.batch_bytes_max = if options.faults.tiny_queues {
            600
        } else {
            4_096
        };
        it.window_records = 128;
        it.chunk_records = 48;
        it.digest_every_us = if options.digests { 1_500_000 } else { 0 };
        it
    }
}

/// The Ethernet address of a node's port.
pub(crate) fn mac_of(node: usize, port: usize) -> Mac {
    Mac([2, 0, 0, 1, port as u8 + 1, node as u8 + 1])
}

/// A node's workers, and the sync core's ends of their rings.
pub(crate) fn build_workers(
    shape: &Shape,
    me: NodeId,
    clock: Clock,
    now_us: u64,
    shared: &Arc<NodeShared>,
    rng: &mut Rng,
) -> (Vec<WorkerCore>, Vec<End>) {
    let count = shape.options.workers;
    let mut producers: Vec<Vec<Option<Producer<Cross<MemoryBuf>>>>> = vec![];
    let mut consumers: Vec<Vec<Option<Consumer<Cross<MemoryBuf>>>>> =
        (0..count).map(|_| vec![]).collect();
    for from in 0..count {
        let mut row = vec![];
        for (to, column) in consumers.iter_mut().enumerate() {
            let pair = (from != to).then(|| RingBuffer::new(shape.ring().max(16)));
            let (producer, consumer) = pair.unzip();
            row.push(producer);
            column.push(consumer);
        }
        producers.push(row);
    }
    let (mut workers, mut ends) = (vec![], vec![]);
    for (number, (cross_to, cross_from)) in producers.into_iter().zip(consumers).enumerate() {
        let (to_sync, from_worker) = RingBuffer::new(shape.ring());
        let (to_worker, from_sync) = RingBuffer::new(shape.ring());
        let (pages_to_worker, pages_from) = RingBuffer::new(1);
        let (pages_to, pages_from_worker) = RingBuffer::new(1);
        let (log_to, log) = RingBuffer::new(1);
        let links = Links {
            to_sync,
            from_sync,
            cross_to,
            cross_from,
            pages_from,
            pages_to,
            log: log_to,
            agent: None,
        };
        let told = Arc::new(WorkerShared::default());
        let ports = (0..2u8)
            .map(|port| MemoryPort::new(mac_of(me.index(), port.into()).0))
            .collect();
        let config = worker_config(shape, me, number, rng);
        let now = clock.now(now_us);
        let worker = Worker::new(config, ports, links, told.clone(), shared.clone(), now);
        workers.push(WorkerCore {
            worker,
            turn: Turn::never(),
            stalled_until_us: 0,
            messages: VecDeque::new(),
            shared: told.clone(),
            _pages: (pages_to_worker, pages_from_worker),
            log,
        });
        ends.push(End {
            from_worker,
            to_worker,
            shared: told,
        });
    }
    (workers, ends)
}

fn worker_config(shape: &Shape, me: NodeId, worker: usize, rng: &mut Rng) -> Config {
    // With a router in front each node has addresses of its own.
    let host = match shape.options.ecmp {
        true => 100 + me.raw(),
        false => 1,
    };
    let interface = |name: &str, port: usize| Interface {
        name: name.into(),
        port,
        vlan: None,
        zone: port as u8,
        mtu: 1500,
        addresses: [
            format!("10.{}.0.{host}/24", port + 1),
            format!("fd00:{}::{host}/64", port + 1),
        ]
        .iter()
        .map(|net| net.parse().expect("a network"))
        .collect(),
        ping: true,
    };
    Config {
        node: me,
        worker,
        workers: shape.options.workers,
        interfaces: vec![interface("inside", 0), interface("outside", 1)],
        routes: vec![],
        neighbours: vec![],
        cluster_mac: (!shape.options.ecmp).then_some(CLUSTER),
        replicate: true,
        distribution: shape.distribution(),
        burst: BURST,
        capacity: shape.capacity(),
        seed: rng.next(),
        timeouts: Timeouts {
            tcp: [15, 15, 600, 20, 15, 4, 2],
            udp_new: 4,
            udp_stream: 6,
            icmp: 4,
            other_new: 10,
            other_stream: 10,
            tombstone: TOMBSTONE_S,
        },
        refresh_s: 5,
        tcp_strict: true,
        tcp_pickup: false,
        verify_checksums: true,
        hold: Hold {
            capacity: shape.hold_capacity(),
            deadline_us: HOLD_DEADLINE_US,
            at_deadline: match shape.options.release_at_deadline {
                true => AtDeadline::Release,
                false => AtDeadline::Drop,
            },
            alone: WhenAlone::Forward,
        },
        resync_rate: *rng.pick(&[500, 5_000, 100_000]),
        icmp_rate: 100,
        detect: None,
        hops: 32,
    }
}

/// Everything from inside may go out; how it is replicated follows from its port.
fn rules() -> RuleSet {
    let mut rules = Vec::new();
    let mut allow = |name: &str, services: Vec<Service>, sync: SyncPolicy| {
        let mut rule = Rule::new(name, Action::Allow);
        rule.from = [0].into_iter().collect();
        rule.to = [1].into_iter().collect();
        rule.services = services;
        rule.sync = Some(sync);
        rules.push(rule);
    };
    for (port, mode) in PORTS {
        let (name, sync) = match mode {
            SyncMode::Ack => ("ack", SyncPolicy::Ack),
            SyncMode::Async => ("async", SyncPolicy::Async),
            SyncMode::Delayed => ("delayed", SyncPolicy::Delayed(1_500)),
            SyncMode::None => ("none", SyncPolicy::None),
        };
        allow(
            name,
            vec![Service::Tcp(port, port), Service::Udp(port, port)],
            sync,
        );
    }
    let service = |text: &str| text.parse::<Service>().expect("a service");
    let pings = vec![service("icmp/echo"), service("icmpv6/echo")];
    allow("ping", pings, SyncPolicy::Ack);
    let zones = Zones::new(["inside", "outside"]).expect("two zones");
    RuleSet::new(1, zones, rules, SyncDefaults::default()).expect("a small set")
}
