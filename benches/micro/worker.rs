//! A whole worker over two replaying ports: packets of known flows, tracked TCP segments, and
//! packets that open flows, unreplicated and held for an acknowledgement.
//!
//! Each figure is per packet and contains reception, a copy of the frame, the clock, parsing with
//! the checksum, lookup, tracking, rewriting, and transmission. There is no device and no peer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use engine::{
    AtDeadline, Config, Counter, Hold, Interface, Links, NodeShared, Now, Policy, Route, Timeouts,
    WhenAlone, Worker, WorkerShared,
};
use membership::{Member, MemberState, View};
use policy::{Action, Rule, RuleSet, SyncDefaults, SyncPolicy, Zones};
use replication::ToSync;
use rtrb::{Consumer, RingBuffer};
use state::{NODES_MAX, NodeId, NodeSet, SLOTS};
use wire::tcp::{ACK, SYN};
use wire::{Mac, build};

use crate::cpu_time::{self, CpuTime};
use crate::flows::{client, server, shuffled, udp};
use crate::replay::{BURST, FRAME, Pool, ReplayPort, pool};

const INSIDE: usize = 0;
const OUTSIDE: usize = 1;
const GATEWAY: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 2, 1])];
/// The routers that flows' clients are behind, and the server.
const HOSTS: [(usize, Mac, &str, &str); 2] = [
    (INSIDE, Mac([2, 0, 0, 0, 1, 10]), "10.1.0.10", "10.1.0.1"),
    (OUTSIDE, Mac([2, 0, 0, 0, 2, 10]), "10.2.0.10", "10.2.0.1"),
];
/// Enough for a full hold beside the bursts.
const BUFFERS: usize = 4_096;
/// Flows that are opened before a table is thrown away.
const OPENED: u32 = 100_000;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("worker");
    group.throughput(Throughput::Elements(1));
    for (name, count) in [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)] {
        let mut made = None;
        group.bench_function(format!("known udp, {name} flows"), |bencher| {
            let rig = made.get_or_insert_with(|| known_udp(count));
            bencher.iter_custom(|packets| rig.replay(packets));
        });
        drop(made);
        let mut made = None;
        group.bench_function(format!("known tcp, {name} flows"), |bencher| {
            let rig = made.get_or_insert_with(|| known_tcp(count));
            bencher.iter_custom(|packets| rig.replay(packets));
        });
    }
    for (name, replicate) in [("unreplicated", false), ("held and acknowledged", true)] {
        let mut opening = None;
        group.bench_function(format!("open udp, {name}"), |bencher| {
            let opening = opening.get_or_insert_with(|| frames(0..OPENED, udp));
            bencher.iter_custom(|flows| open(opening, flows, replicate));
        });
    }
    group.finish();
}

/// A worker that knows so many UDP flows, with a datagram of each to replay in random order.
fn known_udp(count: u32) -> Rig {
    let mut rig = Rig::new(count, false);
    rig.pass(INSIDE, frames(0..count, udp));
    rig.port(INSIDE).frames = frames(shuffled(count), udp);
    rig
}

/// A worker that knows so many established TCP connections, with an acknowledgement of each that
/// is in its windows, to replay in random order.
fn known_tcp(count: u32) -> Rig {
    let mut rig = Rig::new(count, false);
    let segment = |n: u32, flags, seq, ack| build::tcp(client(n), server(), flags, seq, ack, &[]);
    let answer = |n: u32| build::tcp(server(), client(n), SYN | ACK, 500, 101, &[]);
    rig.pass(INSIDE, frames(0..count, |n| segment(n, SYN, 100, 0)));
    rig.pass(OUTSIDE, frames(0..count, answer));
    let ack = |n| segment(n, ACK, 101, 501);
    rig.pass(INSIDE, frames(0..count, ack));
    rig.port(INSIDE).frames = frames(shuffled(count), ack);
    rig
}

/// How long opening so many flows takes, in tables of [`OPENED`]; making these is left out.
fn open(frames: &[[u8; FRAME]], flows: u64, replicate: bool) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = flows as usize;
    while left > 0 {
        let count = left.min(frames.len());
        let mut rig = Rig::new(OPENED, replicate);
        rig.port(INSIDE).replay(frames[..count].to_vec());
        let start = cpu_time::now();
        rig.run(OUTSIDE, count);
        elapsed += cpu_time::now() - start;
        let held = rig.worker.counters().value(Counter::Held);
        assert_eq!(held, if replicate { count as u64 } else { 0 });
        left -= count;
    }
    elapsed
}

struct Rig {
    worker: Worker<ReplayPort>,
    shared: Arc<WorkerShared>,
    from_worker: Consumer<ToSync>,
    pool: Pool,
    /// How many buffers the pool has while no packet is under way.
    buffers: usize,
    /// The time of the last turn, and the worker's clock then, in nanoseconds.
    last: (Instant, u64),
}

impl Rig {
    /// A worker with room for so many flows, whose neighbours are known; with `replicate`, flows
    /// are held until acknowledged.
    fn new(flows: u32, replicate: bool) -> Self {
        let (to_sync, from_worker) = RingBuffer::new(1 << 16);
        let (_, from_sync) = RingBuffer::new(1);
        let (_, pages_from) = RingBuffer::new(1);
        let (pages_to, _) = RingBuffer::new(1);
        let (log, _) = RingBuffer::new(1);
        let links = Links {
            to_sync,
            from_sync,
            cross_to: vec![],
            cross_from: vec![],
            pages_from,
            pages_to,
            log,
            agent: None,
        };
        let pool = pool(BUFFERS);
        let ports = GATEWAY.map(|mac| ReplayPort::new(mac.0, pool.clone()));
        let node = Arc::new(NodeShared::new(view(replicate), rules(replicate)));
        let shared = Arc::new(WorkerShared::default());
        let config = config(flows, replicate);
        let now = Now {
            us: 1_000_000,
            unix_ms: 1_700_000_000_000,
        };
        let mut rig = Self {
            worker: Worker::new(config, ports.into(), links, shared.clone(), node, now),
            shared,
            from_worker,
            pool,
            buffers: BUFFERS,
            last: (Instant::now(), 1_000_000_000),
        };
        for (port, mac, host, gateway) in HOSTS {
            let request = wire::arp::Repr {
                operation: wire::arp::Operation::Request,
                sender_mac: mac,
                sender_ip: host.parse().expect("IPv4"),
                target_mac: Mac([0; 6]),
                target_ip: gateway.parse().expect("IPv4"),
            };
            let request = build::padded(build::arp(&request));
            rig.port(port).replay(vec![short(request)]);
            rig.turn();
            assert_eq!(rig.port(port).sent, 1, "the gateway replies");
        }
        // What was answered is not passed on: the requests' buffers are gone.
        rig.buffers = rig.pool.borrow().len();
        rig
    }

    fn port(&mut self, port: usize) -> &mut ReplayPort {
        self.worker.ports_mut().nth(port).expect("there are two")
    }

    /// Sends frames through the worker, once, outside of any measurement.
    fn pass(&mut self, from: usize, frames: Vec<[u8; FRAME]>) {
        let count = frames.len();
        let frames = frames
            .into_iter()
            .map(|frame| short(to_gateway(from, frame.to_vec())));
        let frames = frames.collect();
        self.port(from).replay(frames);
        self.run(1 - from, count);
    }

    /// How long so many packets take from inside to outside.
    fn replay(&mut self, packets: u64) -> Duration {
        self.port(INSIDE).left = packets as usize;
        let start = cpu_time::now();
        self.run(OUTSIDE, packets as usize);
        cpu_time::now() - start
    }

    /// Turns until `count` packets were sent on a port, acknowledging every change at once.
    ///
    /// # Panics
    /// If a packet was dropped: what is measured would not be what it says.
    fn run(&mut self, port: usize, count: usize) {
        let before = self.port(port).sent;
        // Twice as many as needed, so that a fault ends it.
        for _ in 0..2 * count.div_ceil(BURST) + 2 {
            self.turn();
            if self.port(port).sent - before >= count {
                break;
            }
        }
        assert_eq!(self.port(port).sent - before, count, "all packets pass");
        let idle = self.pool.borrow().len();
        assert_eq!(idle, self.buffers, "no packet is dropped");
    }

    fn turn(&mut self) {
        // From one second on, and by the real clock, so that housekeeping takes its share; but without the pauses
        // between measurements, after which a worker would distrust its flows.
        let (last, ns) = self.last;
        let now = Instant::now();
        let ns = ns + (now - last).as_nanos().min(1_000_000) as u64;
        self.last = (now, ns);
        let us = ns / 1_000;
        self.worker.poll(Now {
            us,
            unix_ms: 1_700_000_000_000 + us / 1_000,
        });
        let mut acked = None;
        while let Ok(message) = self.from_worker.pop() {
            if let ToSync::Change { lsn, .. } = message {
                acked = Some(lsn);
            }
        }
        if let Some(lsn) = acked {
            self.shared.acked_lsn.store(lsn, Ordering::Release);
        }
    }
}

/// A frame of each of some flows, sent to the gateway from inside.
fn frames(
    flows: impl IntoIterator<Item = u32>,
    frame: impl Fn(u32) -> Vec<u8>,
) -> Vec<[u8; FRAME]> {
    let frames = flows.into_iter().map(frame);
    frames.map(|f| short(to_gateway(INSIDE, f))).collect()
}

fn to_gateway(port: usize, frame: Vec<u8>) -> Vec<u8> {
    build::with_macs(frame, GATEWAY[port], HOSTS[port].1)
}

/// A frame with its padding.
fn short(frame: Vec<u8>) -> [u8; FRAME] {
    let frame = build::padded(frame);
    frame.try_into().expect("frames here are the shortest")
}

/// This node owns everything; with `replicate` another one backs it up.
fn view(replicate: bool) -> View {
    let node = |id| NodeId::new(id).expect("below 32");
    let mut targets = vec![NodeSet::EMPTY; NODES_MAX];
    if replicate {
        targets[0].insert(node(1));
    }
    let member = |id| Member {
        id: node(id),
        state: MemberState::Active,
        incarnation: 1,
    };
    View {
        epoch: 1,
        join: 1,
        reunions: 0,
        digest: 1,
        members: vec![member(0), member(1)],
        owner: Box::new([Some(node(0)); SLOTS]),
        groups: vec![vec![]; NODES_MAX],
        targets,
    }
}

fn rules(replicate: bool) -> Policy {
    let sync = if replicate {
        SyncPolicy::Ack
    } else {
        SyncPolicy::None
    };
    let rule = Rule {
        sync: Some(sync),
        ..Rule::new("all", Action::Allow)
    };
    let zones = Zones::new(["inside", "outside"]).expect("two names");
    let rules = RuleSet::new(1, zones, vec![rule], SyncDefaults::default());
    Policy::new(&rules.expect("one rule"))
}

fn config(flows: u32, replicate: bool) -> Config {
    let interface = |port: usize, name: &str, address: &str| Interface {
        name: name.into(),
        port,
        vlan: None,
        zone: port as u8,
        mtu: 1500,
        addresses: vec![address.parse().expect("a network")],
        ping: true,
    };
    Config {
        node: NodeId::new(0).expect("below 32"),
        worker: 0,
        workers: 1,
        interfaces: vec![
            interface(INSIDE, "inside", "10.1.0.1/24"),
            interface(OUTSIDE, "outside", "10.2.0.1/24"),
        ],
        routes: vec![Route {
            to: "10.64.0.0/10".parse().expect("a network"),
            via: "10.1.0.10".parse().expect("an address"),
        }],
        neighbours: vec![],
        cluster_mac: None,
        replicate,
        burst: BURST,
        capacity: flows as usize,
        seed: 7,
        timeouts: Timeouts::default(),
        refresh_s: 10,
        distribution: engine::Distribution::Filter,
        tcp_strict: true,
        tcp_pickup: false,
        verify_checksums: true,
        hold: Hold {
            capacity: BUFFERS / 2,
            deadline_us: 1_000_000,
            at_deadline: AtDeadline::Drop,
            alone: WhenAlone::Forward,
        },
        resync_rate: 1_000_000,
        icmp_rate: 1_000,
        detect: None,
        hops: 16,
    }
}
