//! A worker over two ports in memory, with both ends of its rings in the test's hands.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod watch;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::memory::{MemoryBuf, MemoryPort};
use engine::port::{Burst, Port};
use engine::{
    AgentLink, AtDeadline, Config, Counter, Cross, Distribution, FlowPage, Hold, Instruct,
    Interface, Links, LogEntry, Neighbour, NodeShared, Notice, Now, Policy, Route, Timeouts,
    WhenAlone, Worker, WorkerShared,
};
use membership::{Member, MemberState, View};
use policy::{
    Action, AddressSet, Rule, RuleSet, Service, SyncDefaults, SyncPolicy, ZoneSet, Zones,
};
use replication::{ToSync, ToWorker};
use rtrb::{Consumer, Producer, RingBuffer};
use state::{NODES_MAX, NodeId, NodeSet, SLOTS, Slot};
use wire::Mac;

use watch::Heap;

pub(crate) const INSIDE: usize = 0;
pub(crate) const OUTSIDE: usize = 1;
pub(crate) const GATEWAY: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 2, 1])];
pub(crate) const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 10]);
pub(crate) const SERVER: Mac = Mac([2, 0, 0, 0, 2, 10]);
pub(crate) const CLUSTER: Mac = Mac([3, 0x72, 0x76, 0x6c, 0, 1]);
pub(crate) const ME: u8 = 1;
pub(crate) const PEER: u8 = 2;

pub(crate) fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

type CrossTo = Vec<Option<Producer<Cross<MemoryBuf>>>>;
type CrossFrom = Vec<Option<Consumer<Cross<MemoryBuf>>>>;

/// Knobs of a test's worker.
pub(crate) struct Setup {
    pub(crate) capacity: usize,
    pub(crate) cluster: bool,
    pub(crate) distribution: Distribution,
    pub(crate) rules: Vec<Rule>,
    pub(crate) hold: Hold,
    pub(crate) mtu_outside: u16,
    pub(crate) vlan_outside: Option<u16>,
    pub(crate) changes: usize,
    pub(crate) node: u8,
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) detect: Option<engine::Detect>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            capacity: 64,
            cluster: true,
            distribution: Distribution::Filter,
            rules: vec![
                allow("web", &["tcp/80"], SyncPolicy::Ack),
                allow("probe", &["udp/9000-9100"], SyncPolicy::Async),
                allow("slow", &["udp/7000"], SyncPolicy::Delayed(2_000)),
                allow("ping", &["icmp/echo", "icmpv6/echo"], SyncPolicy::None),
                rule("reject", &["tcp/23", "udp/23"], Action::Reject, None),
            ],
            hold: Hold {
                capacity: 4,
                deadline_us: 50_000,
                at_deadline: AtDeadline::Drop,
                alone: WhenAlone::Forward,
            },
            mtu_outside: 1500,
            vlan_outside: None,
            detect: None,
            changes: 256,
            node: ME,
            worker: 0,
            workers: 1,
            routes: vec![],
            neighbours: vec![],
        }
    }
}

impl Setup {
    pub(crate) fn config(&self) -> Config {
        let interface = |name: &str, port, vlan, mtu, addresses: [&str; 2]| Interface {
            name: name.into(),
            port,
            vlan,
            zone: port as u8,
            mtu,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ping: true,
        };
        Config {
            node: node(self.node),
            worker: self.worker,
            workers: self.workers,
            interfaces: vec![
                interface("inside", 0, None, 1500, ["10.1.0.1/24", "fd00:1::1/64"]),
                interface(
                    "outside",
                    1,
                    self.vlan_outside,
                    self.mtu_outside,
                    ["10.2.0.1/24", "fd00:2::1/64"],
                ),
            ],
            routes: self.routes.clone(),
            neighbours: self.neighbours.clone(),
            distribution: self.distribution,
            cluster_mac: (self.cluster && self.distribution == Distribution::Filter)
                .then_some(CLUSTER),
            replicate: self.cluster,
            burst: 32,
            capacity: self.capacity,
            seed: 7,
            timeouts: Timeouts::default(),
            refresh_s: 10,
            tcp_strict: true,
            tcp_pickup: false,
            verify_checksums: true,
            hold: self.hold,
            resync_rate: 1_000_000,
            icmp_rate: 10,
            detect: self.detect.clone(),
            hops: 16,
        }
    }
}

/// A port in memory that may use the heap in a turn that must not.
pub(crate) struct TestPort(MemoryPort);

impl std::ops::Deref for TestPort {
    type Target = MemoryPort;

    fn deref(&self) -> &MemoryPort {
        &self.0
    }
}

impl std::ops::DerefMut for TestPort {
    fn deref_mut(&mut self) -> &mut MemoryPort {
        &mut self.0
    }
}

impl Port for TestPort {
    type Buf = MemoryBuf;

    fn rx_burst(&mut self, out: &mut Burst<MemoryBuf>) -> usize {
        watch::unwatched(|| self.0.rx_burst(out))
    }

    fn tx_burst(&mut self, bufs: &mut Burst<MemoryBuf>) -> usize {
        watch::unwatched(|| self.0.tx_burst(bufs))
    }

    fn alloc(&mut self) -> Option<MemoryBuf> {
        watch::unwatched(|| self.0.alloc())
    }

    fn mac(&self) -> [u8; 6] {
        self.0.mac()
    }

    fn link_up(&self) -> bool {
        self.0.link_up()
    }
}

pub(crate) fn allow(name: &str, services: &[&str], sync: SyncPolicy) -> Rule {
    rule(name, services, Action::Allow, Some(sync))
}

pub(crate) fn rule(
    name: &str,
    services: &[&str],
    action: Action,
    sync: Option<SyncPolicy>,
) -> Rule {
    let mut rule = Rule::new(name, action);
    let mut from = ZoneSet::EMPTY;
    from.insert(0);
    let mut to = ZoneSet::EMPTY;
    to.insert(1);
    rule.from = from;
    rule.to = to;
    rule.source = AddressSet::ANY;
    rule.services = services
        .iter()
        .map(|s| s.parse::<Service>().unwrap())
        .collect();
    rule.sync = sync;
    rule
}

/// A view in which every slot has the owner that `owner` says, and this node these targets.
pub(crate) fn view(epoch: u64, owner: impl Fn(Slot) -> Option<u8>, targets: &[u8]) -> View {
    let mut owners = Box::new([None; SLOTS]);
    for slot in Slot::all() {
        owners[slot.index()] = owner(slot).map(node);
    }
    let mut sets = vec![NodeSet::EMPTY; NODES_MAX];
    sets[usize::from(ME)] = targets.iter().map(|n| node(*n)).collect();
    sets[usize::from(PEER)] = [node(ME)].into_iter().collect();
    let member = |id| Member {
        id: node(id),
        state: MemberState::Active,
        incarnation: 1,
    };
    View {
        epoch,
        join: 1,
        reunions: 0,
        digest: epoch,
        members: vec![member(ME), member(PEER)],
        owner: owners,
        groups: vec![vec![]; NODES_MAX],
        targets: sets,
    }
}

pub(crate) struct Rig {
    pub(crate) worker: Worker<TestPort>,
    pub(crate) node: Arc<NodeShared>,
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) from_worker: Consumer<ToSync>,
    pub(crate) to_worker: Producer<ToWorker>,
    pub(crate) pages_to: Producer<FlowPage>,
    pub(crate) pages_from: Consumer<FlowPage>,
    pub(crate) log: Consumer<LogEntry>,
    pub(crate) agent_to: Producer<Instruct<MemoryBuf>>,
    pub(crate) agent_from: Consumer<Notice<MemoryBuf>>,
    pub(crate) now_us: u64,
    counted: BTreeMap<&'static str, u64>,
    setup_rules: Vec<Rule>,
}

pub(crate) fn rules(generation: u32, rules: Vec<Rule>) -> RuleSet {
    let zones = Zones::new(["inside", "outside"]).unwrap();
    RuleSet::new(generation, zones, rules, SyncDefaults::default()).unwrap()
}

impl Rig {
    /// A worker whose neighbours' addresses are known.
    pub(crate) fn new(setup: Setup) -> Self {
        let mut rig = Self::without_neighbours(setup);
        rig.meet_hosts();
        rig
    }

    /// Both hosts ask for the gateway, so that their addresses are known.
    pub(crate) fn meet_hosts(&mut self) {
        for (port, mac, address) in [
            (INSIDE, CLIENT, "10.1.0.10"),
            (OUTSIDE, SERVER, "10.2.0.10"),
        ] {
            let (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) = (
                ip(address),
                ip(if port == INSIDE {
                    "10.1.0.1"
                } else {
                    "10.2.0.1"
                }),
            ) else {
                unreachable!("IPv4");
            };
            let request = wire::arp::Repr {
                operation: wire::arp::Operation::Request,
                sender_mac: mac,
                sender_ip,
                target_mac: Mac([0; 6]),
                target_ip,
            };
            self.put_raw(port, wire::build::arp(&request));
        }
        self.turn();
        self.sent(INSIDE);
        self.sent(OUTSIDE);
        self.forget_counts();
    }

    pub(crate) fn without_neighbours(setup: Setup) -> Self {
        Self::linked(setup, vec![], vec![])
    }

    /// Two workers of one node with rings between them; both know the hosts.
    pub(crate) fn pair(first: Setup, second: Setup) -> [Self; 2] {
        let (to_second, from_first) = RingBuffer::new(8);
        let (to_first, from_second) = RingBuffer::new(8);
        let mut first = Self::linked(
            first,
            vec![None, Some(to_second)],
            vec![None, Some(from_second)],
        );
        let mut second = Self::linked(
            second,
            vec![Some(to_first), None],
            vec![Some(from_first), None],
        );
        first.meet_hosts();
        second.turn();
        second.forget_counts();
        [first, second]
    }

    fn linked(setup: Setup, cross_to: CrossTo, cross_from: CrossFrom) -> Self {
        let (to_sync, from_worker) = RingBuffer::new(setup.changes);
        let (to_worker, from_sync) = RingBuffer::new(64);
        let (pages_to, pages_in) = RingBuffer::new(1);
        let (pages_out, pages_from) = RingBuffer::new(1);
        let (log_to, log) = RingBuffer::new(4);
        let (agent_to, instructions) = RingBuffer::new(8);
        let (notices, agent_from) = RingBuffer::new(4);
        let links = Links {
            to_sync,
            from_sync,
            cross_to,
            cross_from,
            pages_from: pages_in,
            pages_to: pages_out,
            log: log_to,
            agent: Some(AgentLink {
                instructions,
                notices,
            }),
        };
        let config = setup.config();
        let first = match setup.cluster {
            true => view(1, |_| Some(ME), &[PEER]),
            false => view(0, |_| Some(ME), &[]),
        };
        let policy = Policy::new(&rules(1, setup.rules.clone()));
        let node = Arc::new(NodeShared::new(first, policy));
        let shared = Arc::new(WorkerShared::default());
        let ports = GATEWAY.iter().map(|mac| TestPort(MemoryPort::new(mac.0)));
        let ports = ports.collect();
        let now_us = 100_000_000;
        let worker = Worker::new(
            config,
            ports,
            links,
            shared.clone(),
            node.clone(),
            Now {
                us: now_us,
                unix_ms: 1_700_000_000_000,
            },
        );
        Self {
            worker,
            node,
            shared,
            from_worker,
            to_worker,
            pages_to,
            pages_from,
            log,
            agent_to,
            agent_from,
            now_us,
            counted: BTreeMap::new(),
            setup_rules: setup.rules,
        }
    }

    pub(crate) fn rules(&self) -> Vec<Rule> {
        self.setup_rules.clone()
    }

    /// Puts a frame as it is on a port's wire.
    pub(crate) fn put_raw(&mut self, port: usize, frame: Vec<u8>) {
        self.worker
            .ports_mut()
            .nth(port)
            .unwrap()
            .arriving
            .push_back(frame);
    }

    /// Puts a frame on a port's wire, from the host there to the gateway.
    pub(crate) fn put(&mut self, port: usize, frame: Vec<u8>) {
        let from = if port == INSIDE { CLIENT } else { SERVER };
        let to = if self.node.view.load().epoch == 0 {
            GATEWAY[port]
        } else {
            CLUSTER
        };
        self.put_raw(port, wire::build::with_macs(frame, to, from));
    }

    /// One turn, a microsecond later.
    pub(crate) fn turn(&mut self) -> usize {
        self.advance(1)
    }

    /// One turn, so many microseconds later. It must allocate nothing, whatever there is to do.
    pub(crate) fn advance(&mut self, us: u64) -> usize {
        self.now_us += us;
        let unix_ms = 1_700_000_000_000 + self.now_us / 1_000;
        let now = Now {
            us: self.now_us,
            unix_ms,
        };
        watch::quiet(Heap::Asked, || self.worker.poll(now))
    }

    /// Turns for a while, a millisecond each.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.advance(1_000);
        }
    }

    /// What was sent on a port since the last time.
    pub(crate) fn sent(&mut self, port: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.worker.ports_mut().nth(port).unwrap().sent)
    }

    /// Forwards one packet and returns what came out on the other side.
    pub(crate) fn through(&mut self, from: usize, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.put(from, frame);
        self.turn();
        self.sent(1 - from)
    }

    /// Acknowledges everything that was handed to the sync core, as the backup would.
    pub(crate) fn acknowledge(&mut self) -> Vec<ToSync> {
        let mut told = vec![];
        while let Ok(message) = self.from_worker.pop() {
            if let ToSync::Change { lsn, .. } = message {
                self.shared.acked_lsn.store(lsn, Ordering::Release);
            }
            told.push(message);
        }
        told
    }

    pub(crate) fn publish(&mut self, view: View) {
        self.node.view.publish(Arc::new(view));
    }

    pub(crate) fn values(&self) -> BTreeMap<&'static str, u64> {
        let counters = self.worker.counters();
        let all = <Counter as telemetry::counters::Counter>::ALL;
        let named = all
            .iter()
            .map(|c| (telemetry::counters::Counter::name(*c), counters.value(*c)));
        let malformed = wire::Malformed::all();
        let malformed = malformed
            .iter()
            .map(|m| (m.name(), counters.malformed_value(*m)));
        named
            .chain(malformed)
            .filter(|(_, value)| *value > 0)
            .collect()
    }

    pub(crate) fn forget_counts(&mut self) {
        self.counted = self.values();
    }

    /// Asserts which counters moved since the last time, and that no other did. Bytes are left out.
    #[track_caller]
    pub(crate) fn moved(&mut self, expected: &[(&'static str, u64)]) {
        let now = self.values();
        let moved: BTreeMap<_, _> = now
            .iter()
            .map(|(name, value)| (*name, value - self.counted.get(name).unwrap_or(&0)))
            .filter(|(name, value)| *value > 0 && !name.ends_with("_bytes"))
            .collect();
        let expected: BTreeMap<_, _> = expected.iter().copied().collect();
        assert_eq!(moved, expected);
        self.counted = now;
    }
}
