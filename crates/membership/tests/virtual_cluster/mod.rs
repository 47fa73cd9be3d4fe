//! A cluster of memberships on a virtual clock and a network that delays and loses datagrams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use membership::{
    ClusterConfig, Event, MemberConfig, MemberState, Membership, Output, Timing, View, cluster_hash,
};
use state::NodeId;

pub(crate) fn node(id: usize) -> NodeId {
    NodeId::new(id as u8).unwrap()
}

pub(crate) const TIMING: Timing = Timing {
    heartbeat_ms: 10,
    dead_after_ms: 40,
    join_wait_ms: 500,
};

pub(crate) fn config(n: usize, timing: Timing) -> Arc<ClusterConfig> {
    let members = (0..n).map(|id| MemberConfig {
        id: node(id),
        name: format!("n{id}"),
        weight: 1,
        backups: vec![],
    });
    let cluster = cluster_hash("virtual");
    Arc::new(ClusterConfig::new(cluster, members.collect(), 2, timing).unwrap())
}

/// How the network treats datagrams.
#[derive(Clone, Copy)]
pub(crate) struct Network {
    /// Of 100 datagrams, so many are lost.
    pub(crate) loss_percent: u64,
    /// A datagram takes 0 to so many milliseconds; so they overtake one another.
    pub(crate) delay_ms_max: u64,
    /// How long a snapshot takes.
    pub(crate) snapshot_ms: u64,
    /// Workers act by a view after 0 to so many milliseconds.
    pub(crate) apply_ms_max: u64,
    /// How long a final synchronisation takes.
    pub(crate) flush_ms: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            loss_percent: 0,
            delay_ms_max: 2,
            snapshot_ms: 20,
            apply_ms_max: 0,
            flush_ms: 3,
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) now_ms: u64,
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    /// Directed links that deliver nothing.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// What was handed to whom, and when: `(from, to)` to the times of delivery.
    pub(crate) delivered: BTreeMap<(usize, usize), Vec<u64>>,
    in_flight: BTreeMap<(u64, u64), Datagram>,
    sent: u64,
    random: u64,
}

struct Datagram {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

/// One node; the process runs while `membership` is some.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) membership: Option<Membership>,
    /// Does not run until then; its datagrams wait.
    pub(crate) paused_until_ms: u64,
    /// Receives no snapshots: they stay incomplete.
    pub(crate) starved: bool,
    pub(crate) events: Vec<(u64, Event)>,
    pub(crate) views: Vec<(u64, Arc<View>)>,
    /// Snapshots under way: peer, its run and this node's join, to the time when they are complete.
    snapshots: BTreeMap<(NodeId, u64, u64), u64>,
    /// Which snapshots were complete, and when.
    pub(crate) synced: Vec<(u64, NodeId)>,
    /// The view that the workers act by.
    pub(crate) applied: Option<Arc<View>>,
    /// The view on its way to them, and when it arrives.
    applying: Option<(u64, Arc<View>)>,
    /// The final synchronisation that was begun last, and when.
    pub(crate) flushing: Option<(u64, u64)>,
}

impl Cluster {
    pub(crate) fn new(n: usize, timing: Timing, network: Network, seed: u64) -> Self {
        Self {
            now_ms: 0,
            config: config(n, timing),
            nodes: (0..n).map(|_| Node::default()).collect(),
            network,
            cut: BTreeSet::new(),
            delivered: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sent: 0,
            random: seed,
        }
    }

    /// All nodes started within some milliseconds, and time until all are active.
    pub(crate) fn started(n: usize, timing: Timing, network: Network, seed: u64) -> Self {
        let mut cluster = Self::new(n, timing, network, seed);
        for id in 0..n {
            cluster.start(id);
            let some = cluster.random(5);
            cluster.run(some);
        }
        cluster.run(timing.join_wait_ms);
        assert!(cluster.settled(), "{:?}", cluster.states());
        cluster
    }

    /// A new run of the node begins.
    pub(crate) fn start(&mut self, id: usize) {
        let incarnation = 1_000_000 + self.now_ms;
        let it = Membership::new(self.config.clone(), node(id), incarnation, self.now_ms);
        self.nodes[id] = Node {
            membership: Some(it.unwrap().with_views_applied_later()),
            ..Node::default()
        };
        self.drain_outputs(id);
    }

    /// The process dies without a word.
    pub(crate) fn kill(&mut self, id: usize) {
        self.nodes[id].membership = None;
    }

    pub(crate) fn pause(&mut self, id: usize, ms: u64) {
        self.nodes[id].paused_until_ms = self.now_ms + ms;
    }

    /// The node asks for all snapshots anew.
    pub(crate) fn forget_snapshots(&mut self, id: usize) {
        self.nodes[id].snapshots.clear();
    }

    /// No datagram passes between the two sides.
    pub(crate) fn partition(&mut self, one: &[usize], other: &[usize]) {
        for &a in one {
            for &b in other {
                self.cut.extend([(a, b), (b, a)]);
            }
        }
    }

    /// An input that is not time or a datagram.
    pub(crate) fn with(&mut self, id: usize, input: impl FnOnce(&mut Membership)) {
        input(self.it_mut(id));
        self.drain_outputs(id);
    }

    pub(crate) fn it(&self, id: usize) -> &Membership {
        self.nodes[id].membership.as_ref().expect("the node runs")
    }

    fn it_mut(&mut self, id: usize) -> &mut Membership {
        self.nodes[id].membership.as_mut().expect("the node runs")
    }

    /// What each node says of itself.
    pub(crate) fn states(&self) -> Vec<MemberState> {
        let of = |n: &Node| n.membership.as_ref().map(Membership::state);
        let states = self.nodes.iter().map(of);
        states.map(|s| s.unwrap_or(MemberState::Dead)).collect()
    }

    /// Whether all that run are active, and their views agree on it.
    pub(crate) fn settled(&self) -> bool {
        let running = || self.nodes.iter().filter_map(|n| n.membership.as_ref());
        let first = running().next().expect("one runs").view();
        running().all(|m| m.state() == MemberState::Active && m.view().digest == first.digest)
            && running().count()
                == first
                    .members
                    .iter()
                    .filter(|m| m.state == MemberState::Active)
                    .count()
    }

    pub(crate) fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms += 1;
            self.step();
        }
    }

    /// Runs until the condition holds, and answers after how long.
    pub(crate) fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Self) -> bool) -> u64 {
        let start_ms = self.now_ms;
        while !condition(self) {
            assert!(
                self.now_ms - start_ms < limit_ms,
                "not within {limit_ms} ms"
            );
            self.run(1);
        }
        self.now_ms - start_ms
    }

    /// When the node said such an event first.
    pub(crate) fn said(&self, id: usize, matching: impl Fn(&Event) -> bool) -> Option<u64> {
        let events = &self.nodes[id].events;
        events
            .iter()
            .find(|(_, e)| matching(e))
            .map(|(at_ms, _)| *at_ms)
    }

    fn step(&mut self) {
        let due = self.in_flight.range(..=(self.now_ms, u64::MAX));
        let due: Vec<_> = due.map(|(key, _)| *key).collect();
        for key in due {
            let to = self.in_flight[&key].to;
            if self.nodes[to].paused_until_ms > self.now_ms {
                continue;
            }
            let datagram = self.in_flight.remove(&key).unwrap();
            let Some(it) = self.nodes[to].membership.as_mut() else {
                continue;
            };
            it.on_message(node(datagram.from), &datagram.bytes, self.now_ms);
            let log = self.delivered.entry((datagram.from, to)).or_default();
            log.push(self.now_ms);
            self.drain_outputs(to);
        }
        for id in 0..self.nodes.len() {
            let running = self.nodes[id].membership.is_some();
            if !running || self.nodes[id].paused_until_ms > self.now_ms {
                continue;
            }
            self.apply_views(id);
            self.transfer_snapshots(id);
            self.flush(id);
            if self.it(id).deadline() <= self.now_ms {
                let now_ms = self.now_ms;
                self.it_mut(id).tick(now_ms);
                assert!(self.it(id).deadline() > now_ms, "a tick moves the deadline");
            }
            self.drain_outputs(id);
        }
    }

    /// A joining node asks every active peer; a peer that dies meanwhile never completes.
    fn transfer_snapshots(&mut self, id: usize) {
        let it = self.it(id);
        let active: Vec<(NodeId, u64)> = match it.state() {
            MemberState::Joining => it
                .view()
                .members
                .iter()
                // One that hands over still owns.
                .filter(|m| matches!(m.state, MemberState::Active | MemberState::Draining))
                .map(|m| (m.id, m.incarnation))
                .collect(),
            _ => vec![],
        };
        // A peer gives nothing to a run that it has not heard of.
        let me = it.view().member(node(id)).copied().expect("a member");
        let active: Vec<(NodeId, u64)> = active
            .into_iter()
            .filter(|(peer, _)| {
                let theirs = self.nodes[peer.index()].applied.as_ref();
                theirs.is_none_or(|view| {
                    let seen = view.member(node(id)).expect("a member");
                    (seen.state, seen.incarnation) == (MemberState::Joining, me.incarnation)
                })
            })
            .collect();
        let join = self.it(id).view().join;
        let complete_ms = self.now_ms + self.network.snapshot_ms;
        let this = &mut self.nodes[id];
        this.snapshots
            .retain(|(peer, run, of), _| *of == join && active.contains(&(*peer, *run)));
        for (peer, run) in active {
            this.snapshots
                .entry((peer, run, join))
                .or_insert(complete_ms);
        }
        let now_ms = self.now_ms;
        let complete = this.snapshots.iter().filter(|(_, at)| **at == now_ms);
        let complete: Vec<_> = complete.map(|(key, _)| *key).collect();
        for (peer, incarnation, join) in complete {
            if !self.nodes[id].starved && self.nodes[peer.index()].membership.is_some() {
                self.nodes[id].synced.push((now_ms, peer));
                self.it_mut(id).on_synced(peer, incarnation, join);
                self.drain_outputs(id);
            }
        }
    }

    /// Workers see the latest view that was published, not each.
    fn apply_views(&mut self, id: usize) {
        let now_ms = self.now_ms;
        let this = &mut self.nodes[id];
        if let Some((_, view)) = this.applying.take_if(|(at_ms, _)| *at_ms <= now_ms) {
            let epoch = view.epoch;
            this.applied = Some(view);
            self.it_mut(id).on_applied(epoch);
            self.drain_outputs(id);
        }
    }

    /// The final synchronisation of a hand-over takes its time from when it is asked for.
    fn flush(&mut self, id: usize) {
        let Some(flush) = self.it(id).hand_over().and_then(|h| h.flush) else {
            return;
        };
        let since_ms = match self.nodes[id].flushing {
            Some((of, since_ms)) if of == flush => since_ms,
            _ => self.now_ms,
        };
        self.nodes[id].flushing = Some((flush, since_ms));
        if self.now_ms >= since_ms + self.network.flush_ms {
            self.it_mut(id).on_flushed(flush);
            self.drain_outputs(id);
        }
    }

    fn drain_outputs(&mut self, id: usize) {
        while let Some(output) = self.nodes[id].membership.as_mut().unwrap().poll() {
            match output {
                Output::View(view) => {
                    self.nodes[id].views.push((self.now_ms, view.clone()));
                    let after_ms = self.random(self.network.apply_ms_max + 1);
                    // A view on its way is overtaken by the next.
                    let waiting = self.nodes[id].applying.as_ref().map(|(at_ms, _)| *at_ms);
                    let at_ms = waiting.unwrap_or(self.now_ms + after_ms);
                    self.nodes[id].applying = Some((at_ms, view));
                    if self.network.apply_ms_max == 0 {
                        self.apply_views(id);
                    }
                }
                Output::Event(event) => self.nodes[id].events.push((self.now_ms, event)),
                Output::Send { to, bytes } => self.send(id, to.index(), bytes.to_vec()),
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.sent += 1;
        let lost = self.random(100) < self.network.loss_percent;
        if lost || self.cut.contains(&(from, to)) {
            return;
        }
        // At least one: what is sent now cannot arrive in a step that is over.
        let at_ms = self.now_ms + self.random(self.network.delay_ms_max + 1).max(1);
        let key = (at_ms, self.sent);
        self.in_flight.insert(key, Datagram { from, to, bytes });
    }

    /// Below `bound`, by splitmix64.
    pub(crate) fn random(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = self.random;
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}
