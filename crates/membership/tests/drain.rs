//! Nodes go offline and come back while flows open and go on: at no moment is a flow without an
//! owner that has its state.
//!
//! Flows are modelled as far as ownership needs it: a flow is known to some nodes; whoever owns its
//! slot by the view that its workers act by sees its packets, and replicates it to its
//! targets some milliseconds later, without holding anything. That is the hardest case: what is
//! held until it is acknowledged is at the heirs anyway.

#[allow(dead_code, reason = "what only the other tests use")]
mod virtual_cluster;

use std::collections::BTreeMap;

use membership::{
    Drain, DrainRefused, Event, HandOverPhase, Health, MemberState, Membership, Timing,
};
use state::{NodeSet, Slot};
use virtual_cluster::{Cluster, Network, TIMING, node};

use MemberState::{Active, Draining, Joining};

/// A flow's opening is at the targets after so long.
const REPLICATE_MS: u64 = 4;
/// Everything is with new targets, or everything adopted with the old ones, after so long.
const RESYNC_MS: u64 = 10;
/// What a final synchronisation takes: all that is under way arrives.
const FLUSH_MS: u64 = RESYNC_MS + 1;

const ORDER: Drain = Drain {
    bound_ms: 2_000,
    force: false,
};

struct Flow {
    slot: Slot,
    known_to: NodeSet,
    opened_ms: u64,
}

/// Flows that open all the time in a cluster, and what each node knows of them.
struct Traffic {
    cluster: Cluster,
    flows: Vec<Flow>,
    /// Copies under way: when they arrive, of which flow, where.
    copies: BTreeMap<u64, Vec<(usize, usize)>>,
    /// Resynchronisations that are due, by time: of which node.
    resyncs: BTreeMap<u64, Vec<usize>>,
    /// By node: the epoch of the view last seen, and how many snapshots.
    seen: Vec<(u64, usize)>,
    /// Flows without an owner that knows them: when, and how old they were.
    orphans: Vec<(u64, u64)>,
}

impl Traffic {
    fn start(n: usize, timing: Timing, network: Network, seed: u64) -> Self {
        Self {
            cluster: Cluster::started(n, timing, network, seed),
            flows: vec![],
            copies: BTreeMap::new(),
            resyncs: BTreeMap::new(),
            seen: vec![(0, 0); n],
            orphans: vec![],
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.cluster.run(1);
            self.step();
        }
    }

    fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Cluster) -> bool) -> u64 {
        let start_ms = self.cluster.now_ms;
        while !condition(&self.cluster) {
            let ms = self.cluster.now_ms - start_ms;
            assert!(ms < limit_ms, "not in {ms} ms: {:?}", self.cluster.states());
            self.run(1);
        }
        self.cluster.now_ms - start_ms
    }

    /// The process ends, and what it knew with it.
    fn kill(&mut self, id: usize) {
        self.cluster.kill(id);
        self.cluster.nodes[id].applied = None;
        self.seen[id] = (0, 0);
        self.flows
            .iter_mut()
            .for_each(|flow| flow.known_to.remove(node(id)));
        for copies in self.copies.values_mut() {
            copies.retain(|(_, to)| *to != id);
        }
    }

    /// Whether the node's workers would handle a packet of the slot.
    fn owns(&self, id: usize, slot: Slot) -> bool {
        let view = self.cluster.nodes[id].applied.as_ref();
        view.is_some_and(|view| view.owns(node(id), slot))
    }

    fn step(&mut self) {
        let now_ms = self.cluster.now_ms;
        for (flow, to) in self.copies.remove(&now_ms).unwrap_or_default() {
            if self.cluster.nodes[to].membership.is_some() {
                self.flows[flow].known_to.insert(node(to));
            }
        }
        for id in self.resyncs.remove(&now_ms).unwrap_or_default() {
            self.give_all(id);
        }
        for id in 0..self.seen.len() {
            self.follow(id);
        }
        let slot = Slot::all().nth(self.cluster.random(1024) as usize);
        self.open(slot.expect("below 1024"));
        let served = |flow: &Flow| {
            let mut known = flow.known_to.iter();
            known.any(|id| self.owns(id.index(), flow.slot))
        };
        let orphans = self.flows.iter().filter(|flow| !served(flow));
        let orphans = orphans.map(|flow| (now_ms, now_ms - flow.opened_ms));
        let orphans: Vec<_> = orphans.collect();
        self.orphans.extend(orphans);
    }

    /// How many flows were without an owner that knew them.
    fn orphans_at(&self, ms: u64) -> usize {
        self.orphans.iter().filter(|(at, _)| *at == ms).count()
    }

    /// Those of them that were older than what is not replicated yet. A node that comes is told of
    /// a flow that opened right before only with the replication's delay: so soon such a flow can
    /// be without an owner, when its opening is not held.
    fn established_orphans(&self) -> Vec<(u64, u64)> {
        let old = |orphan: &&(u64, u64)| orphan.1 > REPLICATE_MS;
        self.orphans.iter().filter(old).copied().collect()
    }

    /// Views have the node tell its targets all; snapshots bring it what their senders have.
    fn follow(&mut self, id: usize) {
        let Some(view) = self.cluster.nodes[id].applied.clone() else {
            return;
        };
        let synced = self.cluster.nodes[id].synced.clone();
        for (_, from) in synced.iter().skip(self.seen[id].1) {
            for at in 0..self.flows.len() {
                let flow = &self.flows[at];
                if flow.known_to.contains(*from) && self.owns(from.index(), flow.slot) {
                    self.flows[at].known_to.insert(node(id));
                }
            }
        }
        if view.epoch != self.seen[id].0 {
            let at_ms = self.cluster.now_ms + RESYNC_MS;
            self.resyncs.entry(at_ms).or_default().push(id);
        }
        self.seen[id] = (view.epoch, synced.len());
    }

    /// The node's targets have all that it knows of its slots.
    fn give_all(&mut self, id: usize) {
        let Some(view) = self.cluster.nodes[id].applied.clone() else {
            return;
        };
        for flow in &mut self.flows {
            if flow.known_to.contains(node(id)) && view.owns(node(id), flow.slot) {
                flow.known_to.0 |= view.targets[id].0;
            }
        }
    }

    /// Every owner sees the first packet, opens the flow, and tells its targets.
    fn open(&mut self, slot: Slot) {
        let owners: NodeSet = (0..self.seen.len())
            .filter(|id| self.owns(*id, slot))
            .map(node)
            .collect();
        let flow = Flow {
            slot,
            known_to: owners,
            opened_ms: self.cluster.now_ms,
        };
        let at = self.flows.len();
        let due = self.copies.entry(self.cluster.now_ms + REPLICATE_MS);
        let due = due.or_default();
        for owner in owners.iter() {
            let view = self.cluster.nodes[owner.index()].applied.as_ref();
            let targets = view.expect("it owns").targets[owner.index()];
            due.extend(targets.iter().map(|to| (at, to.index())));
        }
        // Without an owner the packet is lost, and its sender tries again.
        if !owners.is_empty() {
            self.flows.push(flow);
        }
    }
}

fn network(apply_ms_max: u64) -> Network {
    Network {
        apply_ms_max,
        flush_ms: FLUSH_MS,
        ..Network::default()
    }
}

fn said(cluster: &Cluster, id: usize, since_ms: u64, matching: impl Fn(&Event) -> bool) -> bool {
    let events = cluster.nodes[id].events.iter();
    events
        .filter(|(at_ms, _)| *at_ms >= since_ms)
        .any(|(_, event)| matching(event))
}

/// Drained, gone, started again, and active: no flow is ever without an owner that knows it.
#[test]
fn no_flow_is_without_an_owner_when_nodes_go_and_come() {
    for seed in 0..24 {
        let n = [2, 3, 5, 8][seed as usize % 4];
        let lossy = seed % 3 == 2;
        let timing = Timing {
            // What is lost is no death here.
            dead_after_ms: if lossy { 300 } else { 40 },
            ..TIMING
        };
        let network = Network {
            loss_percent: if lossy { 15 } else { 0 },
            ..network(seed % 13)
        };
        let mut traffic = Traffic::start(n, timing, network, seed);
        for round in 0..4 {
            let id = traffic.cluster.random(n as u64) as usize;
            let some_ms = traffic.cluster.random(60);
            traffic.run(some_ms);
            let began_ms = traffic.cluster.now_ms;
            traffic.cluster.with(id, |it| {
                it.drain(ORDER).expect("others are active");
            });
            let took_ms = traffic.run_until(ORDER.bound_ms, |c| c.states()[id] == Draining);
            // Not even the youngest.
            let of_drain = traffic.orphans.iter().filter(|(at, _)| *at >= began_ms);
            assert_eq!(of_drain.count(), 0, "seed {seed}");
            let handed_over = |e: &Event| matches!(e, Event::HandedOver { .. });
            assert!(said(&traffic.cluster, id, began_ms, handed_over));
            // There and back, until the workers act by it, and the synchronisation.
            if !lossy {
                let most_ms = 2 * 2 + network.apply_ms_max + FLUSH_MS + timing.heartbeat_ms;
                assert!(took_ms <= most_ms, "{took_ms} of {most_ms} ms");
            }
            if round % 2 == 0 {
                let some_ms = traffic.cluster.random(40);
                traffic.run(network.apply_ms_max + some_ms);
                traffic.cluster.with(id, Membership::leave);
                traffic.run(1);
                traffic.kill(id);
                traffic.run(200);
                traffic.cluster.start(id);
            } else {
                traffic.run(network.apply_ms_max);
                traffic.cluster.with(id, Membership::undrain);
            }
            traffic.run_until(5_000, Cluster::settled);
            traffic.run(2 * network.apply_ms_max + 50);
        }
        assert!(traffic.flows.len() > 800, "{}", traffic.flows.len());
        assert_eq!(traffic.established_orphans(), [], "seed {seed}");
    }
}

/// The negative control: a hand-over that does not wait for the final synchronisation leaves flows
/// with an heir that does not know them. Without it the test above would show nothing.
#[test]
fn without_the_final_synchronisation_flows_are_orphaned() {
    let orphaned = (0..20).filter(|seed| {
        let network = Network {
            flush_ms: 0,
            delay_ms_max: 1,
            ..network(0)
        };
        let mut traffic = Traffic::start(3, TIMING, network, *seed);
        traffic.run(100);
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        traffic.run_until(100, |c| c.states()[0] == Draining);
        traffic.run(20);
        !traffic.orphans.is_empty()
    });
    assert!(orphaned.count() > 5);
}

/// Two that drain at once: the third has it all.
#[test]
fn two_drain_at_once() {
    for seed in 0..12 {
        let mut traffic = Traffic::start(3, TIMING, network(6), seed);
        traffic.run(50);
        for id in [0, 2] {
            let some_ms = traffic.cluster.random(8);
            traffic.run(some_ms);
            traffic.cluster.with(id, |it| {
                it.drain(ORDER).expect("others are active");
            });
        }
        let both = |c: &Cluster| c.states() == [Draining, Active, Draining];
        let took_ms = traffic.run_until(200, both);
        assert!(took_ms <= 60, "{took_ms} ms");
        traffic.run(50);
        assert_eq!(traffic.cluster.it(1).view().owned(node(1)), 1024);
        assert_eq!(traffic.orphans, [], "seed {seed}");
    }
}

/// A death in the middle costs what a death costs, and the hand-over ends without the dead.
#[test]
fn an_heir_that_dies_is_not_waited_for() {
    for seed in 0..12 {
        let mut traffic = Traffic::start(4, TIMING, network(6), seed);
        traffic.run(50);
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        let some_ms = traffic.cluster.random(6);
        traffic.run(some_ms);
        traffic.kill(1);
        let died_ms = traffic.cluster.now_ms;
        let took_ms = traffic.run_until(300, |c| c.states()[0] == Draining);
        assert!(took_ms <= TIMING.dead_after_ms + 40, "{took_ms} ms");
        traffic.run(100);
        // What the dead one owned is missed until its death is noticed and acted on; after that
        // nothing is, but for what only the dead one knew.
        let noticed_ms = died_ms + TIMING.dead_after_ms + 2 + 6;
        let after = noticed_ms..=traffic.cluster.now_ms;
        let lost = after.map(|ms| traffic.orphans_at(ms)).max().unwrap_or(0);
        // One flow a millisecond, and a quarter of them at the dead one.
        assert!(
            lost <= REPLICATE_MS as usize,
            "seed {seed}: {lost} are lost"
        );
    }
}

/// The node that hands over dies itself: its heirs own already, or notice in time.
#[test]
fn the_draining_node_dies() {
    for seed in 0..12 {
        let mut traffic = Traffic::start(3, TIMING, network(6), seed);
        traffic.run(50);
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        let some_ms = traffic.cluster.random(12);
        traffic.run(some_ms);
        traffic.kill(0);
        // At once, not after the time that a death takes.
        traffic.run(2 + 6 + 1);
        let views = [1, 2].map(|id| traffic.cluster.nodes[id].applied.clone());
        for view in views.into_iter().flatten() {
            assert_eq!(view.owned(node(0)), 0);
        }
        traffic.run(200);
        let lost = traffic.orphans_at(traffic.cluster.now_ms);
        assert!(
            lost <= REPLICATE_MS as usize,
            "seed {seed}: {lost} are lost"
        );
    }
}

#[test]
fn the_only_active_node_does_not_drain_unless_forced() {
    let mut cluster = Cluster::started(2, TIMING, network(2), 1);
    cluster.with(0, |it| it.drain(ORDER).expect("the other is active"));
    cluster.run_until(200, |c| c.states()[0] == Draining);
    cluster.with(1, |it| {
        assert_eq!(it.drain(ORDER), Err(DrainRefused::Alone));
        assert!(!it.is_drained());
    });
    assert_eq!(cluster.states()[1], Active);
    let forced = Drain {
        force: true,
        ..ORDER
    };
    cluster.with(1, |it| it.drain(forced).expect("forced"));
    assert_eq!(cluster.states()[1], Draining, "there is nobody to wait for");

    // Each thinks that the other takes over: neither does, so both go on.
    let mut cluster = Cluster::started(2, TIMING, network(2), 2);
    for id in [0, 1] {
        cluster.with(id, |it| it.drain(ORDER).expect("the other is active"));
    }
    let abandoned = |c: &Cluster, id| said(c, id, 0, |e| *e == Event::HandOverAbandoned);
    cluster.run_until(200, |c| abandoned(c, 0) && abandoned(c, 1));
    for id in [0, 1] {
        assert!(!cluster.it(id).is_drained());
    }
    cluster.run(300);
    assert_eq!(cluster.states(), [Active, Active]);
}

/// The last other one is on its way back: it is waited for, as in a restart of one node after the
/// other.
#[test]
fn a_joining_node_is_waited_for() {
    let mut traffic = Traffic::start(2, TIMING, network(5), 3);
    traffic.run(60);
    traffic.kill(1);
    traffic.run(100);
    traffic.cluster.start(1);
    traffic.cluster.nodes[1].starved = true;
    traffic.run(30);
    let since_ms = traffic.cluster.now_ms;
    traffic
        .cluster
        .with(0, |it| it.drain(ORDER).expect("the other joins"));
    traffic.run(300);
    assert_eq!(traffic.cluster.states(), [Active, Joining]);
    let waits_for = traffic
        .cluster
        .it(0)
        .hand_over()
        .expect("under way")
        .waits_for;
    assert_eq!(waits_for, NodeSet::from_iter([node(1)]));
    traffic.cluster.nodes[1].starved = false;
    traffic.cluster.forget_snapshots(1);
    traffic.run_until(200, |c| c.states() == [Draining, Active]);
    traffic.run(50);
    let after = traffic.orphans.iter().filter(|(at, _)| *at > since_ms);
    assert_eq!(after.count(), 0);
}

#[test]
fn the_bound_ends_a_hand_over_that_cannot_be_completed() {
    // An heir whose workers never act by the new view.
    let mut cluster = Cluster::started(3, TIMING, network(1), 4);
    cluster.network.apply_ms_max = 1_000_000;
    let order = Drain {
        bound_ms: 400,
        ..ORDER
    };
    // A view that arrives in good time would spoil it.
    cluster.with(0, |it| it.drain(order).expect("others are active"));
    cluster.run(399);
    let hand_over = cluster.it(0).hand_over().expect("under way");
    assert_eq!(hand_over.phase, HandOverPhase::Announced);
    assert!(!hand_over.waits_for.is_empty() && hand_over.left_ms <= 1);
    assert_eq!(cluster.it(0).view().owned(node(0)), hand_over.slots);
    assert!(hand_over.slots_handed_over < hand_over.slots);
    cluster.run(2);
    assert_eq!(cluster.states()[0], Draining);
    let cut =
        |e: &Event| matches!(e, Event::HandOverCut { waits_for, .. } if !waits_for.is_empty());
    assert!(said(&cluster, 0, 0, cut));

    // A final synchronisation that does not end.
    let mut cluster = Cluster::started(3, TIMING, network(1), 5);
    cluster.network.flush_ms = 1_000_000;
    cluster.with(0, |it| it.drain(order).expect("others are active"));
    cluster.run(300);
    let hand_over = cluster.it(0).hand_over().expect("under way");
    assert_eq!(hand_over.phase, HandOverPhase::FinalSync);
    assert_eq!(hand_over.slots_handed_over, hand_over.slots);
    assert_eq!(cluster.states()[0], Active, "until then it goes on");
    // An answer to another question is none.
    let flush = hand_over.flush.expect("it was asked for");
    cluster.with(0, |it| it.on_flushed(flush + 1));
    cluster.run(102);
    let cut = |e: &Event| matches!(e, Event::HandOverCut { waits_for, .. } if waits_for.is_empty());
    assert!(said(&cluster, 0, 0, cut));
    assert_eq!(cluster.states()[0], Draining);
}

/// Taken back in the middle: it is finished, since others own by then, and the node joins anew.
#[test]
fn a_hand_over_that_is_taken_back_ends_with_joining() {
    for seed in 0..8 {
        let mut traffic = Traffic::start(3, TIMING, network(6), seed);
        traffic.run(50);
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        let some_ms = traffic.cluster.random(15);
        traffic.run(some_ms);
        let since_ms = traffic.cluster.now_ms;
        traffic.cluster.with(0, Membership::undrain);
        traffic.run_until(400, |c| c.it(0).hand_over().is_none());
        traffic.run_until(400, Cluster::settled);
        assert!(said(&traffic.cluster, 0, since_ms, |e| matches!(
            e,
            Event::State {
                from: Active,
                to: Joining
            }
        )));
        traffic.run(100);
        assert_eq!(traffic.established_orphans(), [], "seed {seed}");
    }
}

/// A worker that stands still in the middle: the node gives up at once.
#[test]
fn a_stall_in_a_hand_over_ends_it() {
    let mut cluster = Cluster::started(3, TIMING, network(4), 6);
    cluster.with(0, |it| it.drain(ORDER).expect("others are active"));
    cluster.with(0, |it| it.set_health(Health::WorkerStalled));
    assert_eq!(cluster.states()[0], Draining);
    assert_eq!(cluster.it(0).hand_over(), None);
    cluster.with(0, |it| it.set_health(Health::Ok));
    assert_eq!(cluster.states()[0], Draining, "the operator's word counts");
    cluster.with(0, Membership::undrain);
    cluster.run_until(400, Cluster::settled);
}

/// Drained right after it became active: what peers said before they heard that it is active, and
/// then that it drains, is no word that they own.
#[test]
fn a_node_that_drains_as_soon_as_it_is_active_waits_for_those_who_have_not_heard() {
    for seed in 0..40 {
        let network = Network {
            delay_ms_max: 9,
            flush_ms: REPLICATE_MS + 1,
            ..network(10)
        };
        let mut traffic = Traffic::start(3, TIMING, network, seed);
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        traffic.run_until(200, |c| c.states()[0] == Draining);
        traffic.run(100);
        traffic.cluster.with(0, Membership::undrain);
        traffic.run_until(400, |c| {
            c.states()[0] == Active && !c.it(0).awaits_workers()
        });
        traffic.cluster.with(0, |it| {
            it.drain(ORDER).expect("others are active");
        });
        traffic.run_until(200, |c| c.states()[0] == Draining);
        traffic.run(100);
        assert_eq!(traffic.established_orphans(), [], "seed {seed}");
    }
}
