//! A whole worker over two replaying ports.
//!
//! What is measured with it is per packet and contains reception, a copy of the frame, the clock, parsing with
//! the checksum, lookup, tracking, rewriting, and transmission. There is no device and no peer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

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

/// A worker that knows so many UDP flows, with a datagram of each to replay in random order.
pub(crate) fn known_udp(count: u32, clock: Clock) -> Rig {
    let mut rig = Rig::new(count, false, clock);
    rig.pass(INSIDE, frames(0..count, udp));
    rig.port(INSIDE).frames = frames(shuffled(count), udp);
    rig
}

/// A worker that knows so many established TCP connections, with an acknowledgement of each that
/// is in its windows, to replay in random order.
pub(crate) fn known_tcp(count: u32, clock: Clock) -> Rig {
    let mut rig = Rig::new(count, false, clock);
    let segment = |n: u32, flags, seq, ack| build::tcp(client(n), server(), flags, seq, ack, &[]);
    let answer = |n: u32| build::tcp(server(), client(n), SYN | ACK, 500, 101, &[]);
    rig.pass(INSIDE, frames(0..count, |n| segment(n, SYN, 100, 0)));
    rig.pass(OUTSIDE, frames(0..count, answer));
    let ack = |n| segment(n, ACK, 101, 501);
    rig.pass(INSIDE, frames(0..count, ack));
    rig.port(INSIDE).frames = frames(shuffled(count), ack);
    rig
}

/// What a worker takes for the time.
#[allow(dead_code, reason = "each program uses one")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// The real one, so that housekeeping takes its share.
    Real,
    /// So many nanoseconds per turn, the same each time.
    PerTurn(u64),
}

pub(crate) struct Rig {
    clock: Clock,
    worker: Worker<ReplayPort>,
    replicate: bool,
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
    pub(crate) fn new(flows: u32, replicate: bool, clock: Clock) -> Self {
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
            clock,
            worker: Worker::new(config, ports.into(), links, shared.clone(), node, now),
            replicate,
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

    /// So many packets of known flows, from inside to outside.
    pub(crate) fn replay(&mut self, packets: u64) {
        self.port(INSIDE).left = packets as usize;
        self.run(OUTSIDE, packets as usize);
    }

    /// Has these frames arrive, once.
    pub(crate) fn arrive(&mut self, frames: Vec<[u8; FRAME]>) {
        self.port(INSIDE).replay(frames);
    }

    /// Lets as many packets as have arrived open flows, which are held if they are replicated.
    pub(crate) fn open(&mut self, count: usize) {
        self.run(OUTSIDE, count);
        let held = self.worker.counters().value(Counter::Held);
        assert_eq!(held, if self.replicate { count as u64 } else { 0 });
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
        let passed = match self.clock {
            Clock::Real => (now - last).as_nanos().min(1_000_000) as u64,
            Clock::PerTurn(ns) => ns,
        };
        let ns = ns + passed;
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
pub(crate) fn frames(
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
