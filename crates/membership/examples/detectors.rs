//! How soon a death is noticed and what that costs: this crate's heartbeats against SWIM (foca),
//! on one virtual clock and network. `cargo run -p membership --example detectors`

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{AccumulatingRuntime, Foca, Identity, Member, OwnedNotification, PostcardCodec, Timer};
use membership::{ClusterConfig, Event, MemberConfig, Membership, Output, Timing, cluster_hash};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use state::NodeId;

/// Of both: between two heartbeats to a peer, or two probes.
const INTERVAL_MS: u64 = 10;
/// Of the heartbeats: this silence is a death.
const DEAD_AFTER_MS: u64 = 40;
/// Of SWIM: a suspect has so long to object, so that both forgive about three lost messages.
const SUSPICION_MS: u64 = 30;
/// Datagrams take 0.1 ms to so many microseconds.
const DELAY_US_MAX: u64 = 500;
/// Before the death.
const STEADY_US: u64 = 1_000_000;

fn main() {
    println!("death to detection, ms, over all survivors of 40 deaths; messages in peace;");
    println!(
        "false deaths: at any node, in 20 s of 10 % loss, nobody dying; missed: not within 3 s"
    );
    println!(
        "detector          nodes  median    p99    max  msg/s/node  B/msg  false deaths  missed"
    );
    for n in [3, 8, 32] {
        for kind in [
            Kind::Heartbeats,
            Kind::Swim,
            Kind::SwimGossip,
            Kind::SwimFaster,
        ] {
            let mut detections_us = Vec::new();
            let (mut messages, mut bytes) = (0, 0);
            for seed in 0..40 {
                let mut world = World::started(kind, n, seed);
                let start = (world.messages, world.bytes);
                world.run(STEADY_US);
                messages += world.messages - start.0;
                bytes += world.bytes - start.1;
                let phase_us = world.random.random_range(0..INTERVAL_MS * 1_000);
                world.run(phase_us);
                detections_us.extend(world.kill_one());
            }
            let all = detections_us.len();
            let mut detections_us: Vec<u64> = detections_us.into_iter().flatten().collect();
            detections_us.sort_unstable();
            let ms = |at: usize| detections_us[at.min(detections_us.len() - 1)] as f64 / 1e3;
            let mut lossy = World::started(kind, n, 99);
            lossy.loss_percent = 10;
            lossy.downs.clear();
            lossy.run(20_000_000);
            println!(
                "{:17} {n:5}  {:6.1} {:6.1} {:6.1}  {:10.0}  {:5.0}  {:12}  {:6}",
                kind.name(),
                ms(detections_us.len() / 2),
                ms(detections_us.len() * 99 / 100),
                ms(usize::MAX),
                messages as f64 / (40 * n) as f64,
                bytes as f64 / messages as f64,
                lossy.downs.len(),
                all - detections_us.len(),
            );
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Heartbeats,
    /// Probes alone carry the news.
    Swim,
    /// Every interval the news also goes to three random members.
    SwimGossip,
    /// Probes as often as the heartbeats' messages pay for, or as round trips allow.
    SwimFaster,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Heartbeats => "heartbeats",
            Self::Swim => "SWIM",
            Self::SwimGossip => "SWIM with gossip",
            Self::SwimFaster => "SWIM, faster",
        }
    }
}

struct World {
    nodes: Vec<Option<Node>>,
    now_us: u64,
    random: StdRng,
    loss_percent: u64,
    /// By time and number.
    pending: BTreeMap<(u64, u64), Pending>,
    numbered: u64,
    messages: u64,
    bytes: u64,
    /// Who was declared dead, by whom, and when.
    downs: Vec<(usize, usize, u64)>,
}

enum Pending {
    Datagram {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    /// Of the heartbeats' state machine: its deadline.
    Tick(usize),
    /// Of foca.
    Timer(usize, Timer<Id>),
}

enum Node {
    Heartbeats(Box<Membership>),
    Swim(Box<Foca<Id, PostcardCodec, StdRng, foca::NoCustomBroadcast>>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
struct Id {
    node: u8,
    run: u64,
}

impl Identity for Id {
    type Addr = u8;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            run: self.run + 1,
            ..*self
        })
    }

    fn addr(&self) -> u8 {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.run > adversary.run
    }
}

impl World {
    /// All nodes have started within one interval, before anybody misses one, and know one another.
    fn started(kind: Kind, n: usize, seed: u64) -> Self {
        let mut world = Self {
            nodes: (0..n).map(|_| None).collect(),
            now_us: 0,
            random: StdRng::seed_from_u64(seed),
            loss_percent: 0,
            pending: BTreeMap::new(),
            numbered: 0,
            messages: 0,
            bytes: 0,
            downs: Vec::new(),
        };
        let config = config(n);
        for id in 0..n {
            let phase_us = world.random.random_range(0..INTERVAL_MS * 1_000 / n as u64);
            world.run(phase_us);
            world.start(kind, id, &config);
        }
        world.run(STEADY_US);
        world
    }

    fn start(&mut self, kind: Kind, id: usize, config: &Arc<ClusterConfig>) {
        let node = match kind {
            Kind::Heartbeats => {
                let me = NodeId::new(id as u8).expect("below 32");
                let it = Membership::new(config.clone(), me, 1, self.now_us / 1_000);
                Node::Heartbeats(Box::new(it.expect("it is configured")))
            }
            Kind::Swim | Kind::SwimGossip | Kind::SwimFaster => {
                let random = StdRng::seed_from_u64(self.random.random());
                let me = Id {
                    node: id as u8,
                    run: 1,
                };
                let config = swim_config(kind, self.nodes.len());
                Node::Swim(Box::new(Foca::new(me, config, random, PostcardCodec)))
            }
        };
        self.nodes[id] = Some(node);
        let node_count = self.nodes.len() as u8;
        if let Some(Node::Swim(foca)) = &mut self.nodes[id] {
            let mut runtime = AccumulatingRuntime::new();
            let all = (0..node_count).filter(|other| *other != id as u8);
            let all: Vec<_> = all.map(|node| Member::alive(Id { node, run: 1 })).collect();
            let known = foca.apply_many(all.into_iter(), false, &mut runtime);
            known.expect("all are members");
            self.take_outputs(id, runtime);
        } else {
            self.schedule(self.now_us + 1, Pending::Tick(id));
        }
    }

    /// One node dies; how long each survivor takes to notice, in microseconds. `None` when it did
    /// not within three seconds: its news was no longer passed on.
    fn kill_one(&mut self) -> Vec<Option<u64>> {
        let dead = self.random.random_range(0..self.nodes.len());
        self.nodes[dead] = None;
        self.downs.clear();
        let died_us = self.now_us;
        let mut noticed_us = vec![None; self.nodes.len()];
        while noticed_us.iter().flatten().count() < self.nodes.len() - 1
            && self.now_us < died_us + 3_000_000
        {
            self.run(5_000);
            for (_, by, at_us) in self.downs.drain(..).filter(|d| d.0 == dead) {
                noticed_us[by].get_or_insert(at_us - died_us);
            }
        }
        noticed_us.remove(dead);
        noticed_us
    }

    fn run(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > end_us {
                break;
            }
            self.now_us = entry.key().0;
            let pending = entry.remove();
            self.deliver(pending);
        }
        self.now_us = end_us;
    }

    fn deliver(&mut self, pending: Pending) {
        let now_ms = self.now_us / 1_000;
        let at = match &pending {
            Pending::Datagram { to, .. } => *to,
            Pending::Tick(id) | Pending::Timer(id, _) => *id,
        };
        let mut runtime = AccumulatingRuntime::new();
        match (&mut self.nodes[at], pending) {
            (Some(Node::Heartbeats(it)), Pending::Datagram { from, bytes, .. }) => {
                let from = NodeId::new(from as u8).expect("below 32");
                it.on_message(from, &bytes, now_ms);
            }
            (Some(Node::Heartbeats(it)), Pending::Tick(_)) => {
                it.tick(now_ms);
                let next_us = it.deadline() * 1_000;
                self.schedule(next_us, Pending::Tick(at));
            }
            // An error is news of a run that ended: foca says so and goes on.
            (Some(Node::Swim(foca)), Pending::Datagram { bytes, .. }) => {
                let _ = foca.handle_data(&bytes, &mut runtime);
            }
            (Some(Node::Swim(foca)), Pending::Timer(_, timer)) => {
                let _ = foca.handle_timer(timer, &mut runtime);
            }
            _ => return,
        }
        self.take_outputs(at, runtime);
    }

    fn take_outputs(&mut self, id: usize, mut runtime: AccumulatingRuntime<Id>) {
        while let Some((to, bytes)) = runtime.to_send() {
            self.send(id, to.node.into(), bytes.to_vec());
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            let at_us = self.now_us + after.as_micros() as u64;
            self.schedule(at_us, Pending::Timer(id, timer));
        }
        while let Some(notification) = runtime.to_notify() {
            if let OwnedNotification::MemberDown(dead) = notification {
                self.downs.push((dead.node.into(), id, self.now_us));
            }
        }
        while let Some(Node::Heartbeats(it)) = &mut self.nodes[id] {
            match it.poll() {
                None => break,
                Some(Output::View(_)) => {}
                Some(Output::Event(Event::PeerDown { peer, .. })) => {
                    self.downs.push((peer.index(), id, self.now_us));
                }
                // Snapshots of nothing are complete at once.
                Some(Output::Event(Event::PeerUp { peer, .. } | Event::PeerState { peer, .. })) => {
                    let join = it.view().join;
                    it.on_synced(peer, 1, join)
                }
                Some(Output::Event(_)) => {}
                Some(Output::Send { to, bytes }) => self.send(id, to.index(), bytes.to_vec()),
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.messages += 1;
        self.bytes += bytes.len() as u64;
        if self.random.random_range(0..100) >= self.loss_percent {
            let at_us = self.now_us + self.random.random_range(100..=DELAY_US_MAX);
            self.schedule(at_us, Pending::Datagram { from, to, bytes });
        }
    }

    fn schedule(&mut self, at_us: u64, pending: Pending) {
        self.numbered += 1;
        self.pending.insert((at_us, self.numbered), pending);
    }
}

fn config(n: usize) -> Arc<ClusterConfig> {
    let members = (0..n as u8).map(|id| MemberConfig {
        id: NodeId::new(id).expect("below 32"),
        name: format!("n{id}"),
        weight: 1,
        backups: vec![],
    });
    let timing = Timing {
        heartbeat_ms: INTERVAL_MS,
        dead_after_ms: DEAD_AFTER_MS,
        join_wait_ms: 1_000,
    };
    let cluster = cluster_hash("detectors");
    let config = ClusterConfig::new(cluster, members.collect(), 1, timing);
    Arc::new(config.expect("it is valid"))
}

fn swim_config(kind: Kind, n: usize) -> foca::Config {
    // A probe is two messages, a round of heartbeats is one for each peer.
    let equal_cost_us = INTERVAL_MS * 1_000 * 2 / (n as u64 - 1);
    let (period_us, round_trip_us) = match kind {
        Kind::SwimFaster if n > 3 => (equal_cost_us.max(2_200), 1_050),
        // Three round trips, and time for the indirect ones.
        _ => (INTERVAL_MS * 1_000, 3_000),
    };
    let gossip = foca::PeriodicParams {
        frequency: Duration::from_millis(INTERVAL_MS),
        num_members: NonZeroUsize::new(3).expect("three"),
    };
    foca::Config {
        probe_period: Duration::from_micros(period_us),
        probe_rtt: Duration::from_micros(round_trip_us),
        suspect_to_down_after: Duration::from_millis(SUSPICION_MS),
        max_transmissions: NonZeroU8::new(if n > 8 { 10 } else { 5 }).expect("some"),
        notify_down_members: true,
        periodic_gossip: matches!(kind, Kind::SwimGossip).then_some(gossip),
        ..foca::Config::simple()
    }
}
