//! Packets of one session handled in several nodes: three whole nodes, workers and replicators, joined by
//! a network in memory. A router spreads packets over them in whatever way a test says.
//!
//! Whenever a packet of an `ack` flow leaves a node, the slot's owner and the owner's targets must have
//! the flow in their tables: [`Cluster::turn`] checks each.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use engine::{AtDeadline, Counter, Distribution, Hold};
use membership::{Member, MemberState, View};
use replication::{Options, Output, Replicator};
use state::{FlowKey, FlowRecord, Life, NODES_MAX, NodeId, NodeSet, SLOTS, TcpPhase, v4_mapped};
use wire::build;
use wire::tcp::{ACK, FIN, PSH, RST, SYN};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";
const NODES: u8 = 3;
/// Time of one turn of all nodes.
const TURN_US: u64 = 100;
const DEADLINE_US: u64 = 50_000;

fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    build::tcp(at(from), at(to), flags, seq, ack, data)
}

fn web() -> FlowKey {
    let (c, s) = (v4_mapped([10, 1, 0, 10]), v4_mapped([10, 2, 0, 10]));
    FlowKey::new(c, s, 40000, 80, state::PROTO_TCP).0
}

/// What waits on the connection that one node dialed to another.
#[derive(Default)]
struct Conn {
    there: VecDeque<(u16, Vec<u8>)>,
    back: VecDeque<(u16, Vec<u8>)>,
    stalled: bool,
}

struct Cluster {
    rigs: Vec<Rig>,
    replicators: Vec<Replicator>,
    conns: BTreeMap<(u8, u8), Conn>,
    dead: NodeSet,
    view: Arc<View>,
    /// Packets of an `ack` flow that left, by node.
    left: [u64; NODES as usize],
}

/// All slots are of one owner, which has these targets.
fn owned_by(epoch: u64, owner: u8, targets: &[u8], dead: NodeSet) -> Arc<View> {
    let alive = |id: &u8| !dead.contains(node(*id));
    let members = (0..NODES).map(|id| Member {
        id: node(id),
        state: match alive(&id) {
            true => MemberState::Active,
            false => MemberState::Dead,
        },
        incarnation: 1,
    });
    let mut sets = vec![NodeSet::EMPTY; NODES_MAX];
    for id in (0..NODES).filter(alive) {
        let next = (1..NODES).map(|n| (id + n) % NODES).find(alive);
        sets[usize::from(id)] = next.map(node).into_iter().collect();
    }
    sets[usize::from(owner)] = targets.iter().map(|id| node(*id)).collect();
    Arc::new(View {
        epoch,
        join: 1,
        reunions: 0,
        digest: epoch,
        members: members.collect(),
        owner: Box::new([Some(node(owner)); SLOTS]),
        groups: vec![vec![]; NODES_MAX],
        targets: sets,
    })
}

impl Cluster {
    fn new(owner: u8, hold: Hold) -> Self {
        let backup = (owner + 1) % NODES;
        let mut cluster = Self {
            rigs: Vec::new(),
            replicators: Vec::new(),
            conns: BTreeMap::new(),
            dead: NodeSet::EMPTY,
            view: owned_by(2, owner, &[backup], NodeSet::EMPTY),
            left: [0; NODES as usize],
        };
        for id in 0..NODES {
            cluster.rigs.push(Rig::new(Setup {
                node: id,
                distribution: Distribution::Ecmp,
                hold,
                ..Setup::default()
            }));
            let mut options = Options::new(node(id), 1, 7, 1);
            options.distribution = Distribution::Ecmp;
            options.ask_deadline_us = DEADLINE_US;
            cluster.replicators.push(Replicator::new(options).unwrap());
        }
        for (a, b) in pairs() {
            cluster.conns.insert((a, b), Conn::default());
            cluster.replicators[usize::from(a)].on_connected(node(b), 0);
        }
        let view = cluster.view.clone();
        cluster.publish(view);
        cluster.run(40);
        for rig in &mut cluster.rigs {
            rig.forget_counts();
        }
        cluster
    }

    fn publish(&mut self, view: Arc<View>) {
        for id in self.alive() {
            let now_us = self.rigs[id].now_us;
            self.replicators[id].on_view(view.clone(), now_us);
            self.rigs[id].node.view.publish(view.clone());
        }
        self.view = view;
    }

    fn alive(&self) -> Vec<usize> {
        let alive = |id: &u8| !self.dead.contains(node(*id));
        (0..NODES).filter(alive).map(usize::from).collect()
    }

    /// The node dies with what it has; the others notice later.
    fn kill(&mut self, id: u8) {
        self.dead.insert(node(id));
        for ((a, b), conn) in &mut self.conns {
            if *a == id || *b == id {
                conn.there.clear();
                conn.back.clear();
                conn.stalled = true;
            }
        }
    }

    /// The others notice that a node is dead. Its slots go to the owner's target.
    fn notice(&mut self) {
        let view = &self.view;
        let owner = view.owner[0].unwrap();
        let alive = |id: &NodeId| !self.dead.contains(*id);
        let heirs = view.targets[owner.index()].iter();
        let owner = std::iter::once(owner).chain(heirs).find(alive).unwrap();
        let next = (1..NODES)
            .map(|n| node((owner.raw() + n) % NODES))
            .find(alive);
        let targets: Vec<u8> = next.into_iter().map(NodeId::raw).collect();
        let view = owned_by(view.epoch + 1, owner.raw(), &targets, self.dead);
        self.publish(view);
        self.run(40);
    }

    /// A packet from the host on one side, which the router gives to a node.
    fn put(&mut self, id: u8, from: usize, frame: Vec<u8>) {
        let mac = if from == INSIDE { CLIENT } else { SERVER };
        let frame = build::with_macs(frame, GATEWAY[from], mac);
        self.rigs[usize::from(id)].put_raw(from, frame);
    }

    /// Sends a packet through a node; how many came out on the other side in the next milliseconds.
    fn through(&mut self, id: u8, from: usize, frame: Vec<u8>) -> usize {
        self.put(id, from, frame);
        self.run(20);
        let sent = self.rigs[usize::from(id)].sent(1 - from);
        // ARP aside.
        sent.iter().filter(|frame| frame[12..14] == [8, 0]).count()
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            self.turn();
        }
    }

    /// Time passes, and no worker stands still for long.
    fn pass_s(&mut self, s: u64) {
        for _ in 0..s * 60 {
            for rig in &mut self.rigs {
                rig.now_us += 1_000_000 / 60;
            }
            self.turn();
        }
        for rig in &mut self.rigs {
            rig.meet_hosts();
        }
    }

    fn turn(&mut self) {
        for id in self.alive() {
            let sent = |rig: &mut Rig| {
                let ports = rig.worker.ports_mut();
                ports.map(|port| port.sent.len()).sum::<usize>()
            };
            let before = sent(&mut self.rigs[id]);
            self.rigs[id].advance(TURN_US);
            if sent(&mut self.rigs[id]) > before && self.record(id as u8, &web()).is_some() {
                self.left[id] += 1;
                self.assert_protected(id as u8);
            }
            let now_us = self.rigs[id].now_us;
            while let Ok(message) = self.rigs[id].from_worker.pop() {
                self.replicators[id].on_worker(0, message, now_us);
            }
            self.replicators[id].tick(now_us);
            self.carry_out(id as u8);
        }
        for (a, b) in pairs() {
            let conn = self.conns.get_mut(&(a, b)).unwrap();
            if conn.stalled {
                continue;
            }
            let (there, back) = (
                std::mem::take(&mut conn.there),
                std::mem::take(&mut conn.back),
            );
            for (stream, frame) in there {
                let now_us = self.rigs[usize::from(b)].now_us;
                self.replicators[usize::from(b)].on_frame(node(a), stream, &frame, now_us);
            }
            for (stream, frame) in back {
                let now_us = self.rigs[usize::from(a)].now_us;
                self.replicators[usize::from(a)].on_answer(node(b), stream, &frame, now_us);
            }
        }
        for id in self.alive() {
            self.carry_out(id as u8);
        }
    }

    fn carry_out(&mut self, id: u8) {
        let here = usize::from(id);
        while let Some(output) = self.replicators[here].poll() {
            match output {
                Output::Send {
                    peer,
                    stream,
                    frame,
                } if !self.dead.contains(peer) => {
                    let conn = self.conns.get_mut(&(id, peer.raw())).unwrap();
                    conn.there.push_back((stream, frame));
                }
                Output::Reply {
                    peer,
                    stream,
                    frame,
                } if !self.dead.contains(peer) => {
                    let conn = self.conns.get_mut(&(peer.raw(), id)).unwrap();
                    conn.back.push_back((stream, frame));
                }
                Output::ToWorker { message, .. } => {
                    self.rigs[here].to_worker.push(message).unwrap();
                }
                Output::Release { lsn, .. } => {
                    let acked = &self.rigs[here].shared.acked_lsn;
                    acked.store(lsn, Ordering::Release);
                }
                Output::Close { reason, .. } => panic!("node {id} closes: {reason}"),
                _ => {}
            }
        }
    }

    fn record(&self, id: u8, key: &FlowKey) -> Option<FlowRecord> {
        let table = self.rigs[usize::from(id)].worker.table();
        table.lookup(key).map(|found| table.entry(found).record)
    }

    /// A packet has just left: the owner and its targets, as the node believes they are, have its flow.
    fn assert_protected(&self, id: u8) {
        let slot = state::slot_of(&web());
        for other in self.view.recipients(node(id), slot).iter() {
            // A node may be dead and nobody knows yet: then it died after it had it.
            assert!(
                self.record(other.raw(), &web()).is_some(),
                "a packet left node {id} before node {other} had its flow"
            );
        }
    }

    /// Both handlers, the owner and its targets have the same of the flow.
    fn agreed(&self) -> FlowRecord {
        let slot = state::slot_of(&web());
        let mut involved = self.view.recipients(node(0), slot);
        involved.0 |= 0b11;
        let involved = involved.iter().filter(|id| !self.dead.contains(*id));
        let mut records = involved.map(NodeId::raw).map(|id| {
            let record = self.record(id, &web());
            record.unwrap_or_else(|| panic!("node {id} does not have the flow"))
        });
        let first = records.next().unwrap();
        records.for_each(|record| assert!(record.agrees_with(&first), "{record:?}\n{first:?}"));
        first
    }

    fn counted(&self, id: u8, counter: Counter) -> u64 {
        self.rigs[usize::from(id)].worker.counters().value(counter)
    }

    /// Opens a connection: the client's packets go through node 0, the server's through node 1.
    fn connect(&mut self) {
        assert_eq!(self.through(0, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 1);
        let answer = tcp(S, C, SYN | ACK, 500, 101, &[]);
        assert_eq!(self.through(1, OUTSIDE, answer), 1);
        assert_eq!(self.through(0, INSIDE, tcp(C, S, ACK, 101, 501, &[])), 1);
    }
}

fn pairs() -> Vec<(u8, u8)> {
    let all = (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b)));
    all.filter(|(a, b)| a != b).collect()
}

fn hold() -> Hold {
    Setup::default().hold
}

#[test]
fn both_directions_through_different_nodes_make_one_connection() {
    for owner in 0..NODES {
        let mut cluster = Cluster::new(owner, hold());
        // Windows of flows as old as the view are followed anyway.
        cluster.pass_s(3);
        cluster.connect();
        assert_eq!(cluster.agreed().tcp_phase(), Some(TcpPhase::Established));
        assert_eq!(cluster.left[..2].iter().sum::<u64>(), 3);
        // Far more than any window that node 0 has heard of, and acknowledged through it alone; also
        // once a copy's windows would be enforced.
        for n in 0..40u32 {
            if n == 20 {
                cluster.pass_s(12);
            }
            let data = tcp(S, C, ACK, 501 + n * 60_000, 101, b"x");
            assert_eq!(cluster.through(1, OUTSIDE, data), 1, "owner {owner}");
            let ack = tcp(C, S, ACK, 101, 502 + n * 60_000, &[]);
            assert_eq!(cluster.through(0, INSIDE, ack), 1, "owner {owner}");
        }
        // What one sees the other knows, through the owner.
        let fin = tcp(S, C, FIN | ACK, 2_400_000, 101, &[]);
        assert_eq!(cluster.through(1, OUTSIDE, fin), 1);
        assert_eq!(cluster.agreed().tcp_phase(), Some(TcpPhase::FinWait));
        for id in 0..NODES {
            assert_eq!(cluster.counted(id, Counter::DropTcpNoFlow), 0);
            assert_eq!(cluster.counted(id, Counter::DropTcpWindow), 0);
        }
    }
}

/// Whoever dies, the router gives its packets to another node, which asks or has a copy.
#[test]
fn the_connection_goes_on_when_either_handler_or_the_owner_dies() {
    for owner in 0..NODES {
        for dies in 0..NODES {
            let mut cluster = Cluster::new(owner, hold());
            cluster.connect();
            cluster.kill(dies);
            cluster.notice();
            let heir = |wanted: u8| match wanted == dies {
                true => (wanted + 2) % NODES,
                false => wanted,
            };
            let (there, back) = (heir(0), heir(1));
            for n in 0..3u32 {
                let data = tcp(C, S, PSH | ACK, 101 + n, 501 + n, b"x");
                let context = format!("owner {owner}, {dies} died, {n}");
                assert_eq!(cluster.through(there, INSIDE, data), 1, "{context}");
                let data = tcp(S, C, PSH | ACK, 501 + n, 102 + n, b"y");
                assert_eq!(cluster.through(back, OUTSIDE, data), 1, "{context}");
            }
            let fin = tcp(C, S, FIN | ACK, 104, 504, &[]);
            assert_eq!(cluster.through(there, INSIDE, fin), 1);
            let record = cluster.record(back, &web()).unwrap();
            assert_eq!(record.tcp_phase(), Some(TcpPhase::FinWait));
        }
    }
}

/// Node 1 has handled a connection that is over. The next one with its ports begins in node 0, which tells
/// node 1 before the owner hears of it: sent again through node 1 its SYN must not slip out there.
#[test]
fn a_handler_of_an_earlier_connection_is_none_of_the_next() {
    let mut cluster = Cluster::new(2, hold());
    let view = owned_by(3, 2, &[0, 1], NodeSet::EMPTY);
    cluster.publish(view);
    cluster.run(40);
    cluster.connect();
    let reset = tcp(C, S, RST | ACK, 101, 501, &[]);
    assert_eq!(cluster.through(1, INSIDE, reset), 1);
    assert_eq!(cluster.agreed().tcp_phase(), Some(TcpPhase::Reset));
    let earlier = cluster.agreed().incarnation;
    for from in [0, 1] {
        cluster.conns.get_mut(&(from, 2)).unwrap().stalled = true;
    }
    let again = || tcp(C, S, SYN, 9_000, 0, &[]);
    assert_eq!(cluster.through(0, INSIDE, again()), 0);
    let incarnation = |cluster: &Cluster, id| cluster.record(id, &web()).unwrap().incarnation;
    assert!(incarnation(&cluster, 1) > earlier, "node 0 has told of it");
    assert_eq!(incarnation(&cluster, 2), earlier);
    assert_eq!(cluster.through(1, INSIDE, again()), 0);
    assert_eq!(cluster.rigs[1].worker.held(), 1);
    for from in [0, 1] {
        cluster.conns.get_mut(&(from, 2)).unwrap().stalled = false;
    }
    cluster.run(40);
    for id in [0, 1] {
        let rig = &mut cluster.rigs[id];
        assert_eq!((rig.worker.held(), rig.sent(OUTSIDE).len()), (0, 1));
    }
    assert_eq!(incarnation(&cluster, 2), incarnation(&cluster, 0));
}

/// The SYN waits in node 0 for an owner whose target does not answer: sent again through node 1, which
/// asks and gets the flow, it must not slip out there.
#[test]
fn nothing_leaves_before_the_owner_and_its_target_have_it() {
    let mut cluster = Cluster::new(2, hold());
    // The target of owner 2 is node 0 itself, so let it be node 1 that must acknowledge.
    let view = owned_by(3, 2, &[0, 1], NodeSet::EMPTY);
    cluster.publish(view);
    cluster.run(40);
    for from in [0, 2] {
        cluster.conns.get_mut(&(from, 1)).unwrap().stalled = true;
    }
    assert_eq!(cluster.through(0, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 0);
    assert!(cluster.record(2, &web()).is_some(), "the owner has it");
    // The router changes its mind.
    assert_eq!(cluster.through(1, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 1);
    assert_eq!(
        cluster.left,
        [0, 1, 0],
        "node 1 has it itself, and the others do"
    );
    let mut cluster = Cluster::new(2, hold());
    cluster.conns.get_mut(&(2, 0)).unwrap().stalled = true;
    cluster.conns.get_mut(&(1, 0)).unwrap().stalled = true;
    assert_eq!(cluster.through(1, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 0);
    assert_eq!(cluster.through(2, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 0);
    assert_eq!(cluster.left, [0; 3]);
    cluster.conns.get_mut(&(2, 0)).unwrap().stalled = false;
    cluster.conns.get_mut(&(1, 0)).unwrap().stalled = false;
    cluster.run(20);
    assert_eq!(cluster.left, [0, 1, 1]);
}

/// What waited for an answer when its node stood still does not leave by the view of that time, also
/// when the answer lies ready.
#[test]
fn an_answer_lets_nothing_go_under_an_old_view() {
    let mut cluster = Cluster::new(2, hold());
    assert_eq!(cluster.through(0, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 1);
    cluster.conns.get_mut(&(1, 2)).unwrap().stalled = true;
    let answer = || tcp(S, C, SYN | ACK, 500, 101, &[]);
    assert_eq!(cluster.through(1, OUTSIDE, answer()), 0);
    assert_eq!(cluster.rigs[1].worker.asking(), 1);
    let valid = cluster.rigs[1].node.clone();
    valid.view_valid_until_us.store(0, Ordering::Relaxed);
    cluster.conns.get_mut(&(1, 2)).unwrap().stalled = false;
    assert_eq!(cluster.through(1, OUTSIDE, answer()), 0);
    assert_eq!(cluster.counted(1, Counter::AskFound), 1);
    assert_eq!(cluster.rigs[1].worker.asking(), 0);
    assert_eq!(cluster.counted(1, Counter::DropStaleView), 2);
    valid.view_valid_until_us.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(cluster.through(1, OUTSIDE, answer()), 1);
}

/// A SYN of a connection that lives elsewhere must not replace it; one of a dead one opens another.
#[test]
fn a_packet_of_an_unknown_flow_waits_until_the_owner_is_asked() {
    let mut cluster = Cluster::new(2, hold());
    cluster.connect();
    let before = cluster.agreed();
    // A third node gets data: it has a copy as owner. Node 1's copy of a flow that it lost it asks for.
    let lone = tcp(C, "10.2.0.10:81", ACK, 5, 5, &[]);
    cluster.rigs.iter_mut().for_each(Rig::forget_counts);
    assert_eq!(
        cluster.through(0, INSIDE, lone),
        0,
        "of no flow, and no SYN"
    );
    cluster.rigs[0].moved(&[
        ("rx_packets", 1),
        ("asked", 1),
        ("ask_waiting", 1),
        ("ask_answered", 1),
        ("drop_tcp_no_flow", 1),
    ]);
    assert_eq!(cluster.agreed(), before);
}

/// The SYN passes one node, its answer another: what the opener says upon the answer shows that there was one.
#[test]
fn a_connection_through_two_nodes_begins_anew() {
    for owner in 0..NODES {
        let mut cluster = Cluster::new(owner, hold());
        cluster.connect();
        let old = cluster.agreed().incarnation;
        let (seq, ack) = (3_000_000_000, 2_500_000_000);
        assert_eq!(cluster.through(0, INSIDE, tcp(C, S, SYN, seq, 0, &[])), 1);
        let answer = tcp(S, C, SYN | ACK, ack, seq + 1, &[]);
        assert_eq!(cluster.through(1, OUTSIDE, answer), 1);
        assert_eq!(cluster.agreed().incarnation, old);
        let third = tcp(C, S, ACK, seq + 1, ack + 1, &[]);
        assert_eq!(cluster.through(0, INSIDE, third), 1);
        let data = tcp(S, C, ACK | PSH, ack + 1, seq + 1, b"hello");
        assert_eq!(cluster.through(1, OUTSIDE, data), 1);
        cluster.run(40);
        let anew = cluster.agreed();
        assert!(anew.incarnation > old, "owner {owner}");
        assert_eq!(anew.tcp_phase(), Some(TcpPhase::Established));
    }
}

/// A node that is none of the owner's targets any more keeps its copies for a while, and is told nothing: it
/// asks before it lets a packet go by one.
#[test]
fn a_copy_that_nobody_tells_of_any_more_is_asked_for_before_it_is_used() {
    let mut cluster = Cluster::new(0, hold());
    let data = |seq| tcp(C, S, ACK | PSH, seq, 501, b"more");
    assert_eq!(cluster.through(0, INSIDE, tcp(C, S, SYN, 100, 0, &[])), 1);
    let answer = tcp(S, C, SYN | ACK, 500, 101, &[]);
    assert_eq!(cluster.through(0, OUTSIDE, answer), 1);
    assert_eq!(cluster.through(0, INSIDE, tcp(C, S, ACK, 101, 501, &[])), 1);
    // Node 1 was told of it as node 0's target; now node 2 is that.
    let epoch = cluster.view.epoch;
    cluster.publish(owned_by(epoch + 1, 0, &[2], NodeSet::EMPTY));
    cluster.run(40);
    let life = |cluster: &Cluster, id| cluster.record(id, &web()).map(|record| record.life);
    assert_eq!(life(&cluster, 1), Some(Life::Alive));
    // It ends, is forgotten, and node 1 does not know.
    assert_eq!(cluster.through(0, INSIDE, tcp(C, S, RST, 101, 0, &[])), 1);
    cluster.pass_s(50);
    assert_eq!(life(&cluster, 0), None);
    assert_eq!(life(&cluster, 1), Some(Life::Alive));
    cluster.rigs[1].forget_counts();
    assert_eq!(cluster.through(1, INSIDE, data(101)), 0);
    cluster.rigs[1].moved(&[
        ("rx_packets", 1),
        ("asked", 1),
        ("ask_waiting", 1),
        ("ask_answered", 1),
        ("replicas_forgotten", 1),
        ("drop_tcp_no_flow", 1),
    ]);
    assert_eq!(life(&cluster, 1), None);
    // The next connection with these ports is one, and protected as such.
    assert_eq!(cluster.through(1, INSIDE, tcp(C, S, SYN, 7_000, 0, &[])), 1);
    assert_eq!(life(&cluster, 0), Some(Life::Alive));
    assert_eq!(life(&cluster, 2), Some(Life::Alive));
    // Of one that lives the owner brings what it has, and the packets go.
    cluster.publish(owned_by(epoch + 2, 2, &[0], NodeSet::EMPTY));
    cluster.run(40);
    assert_eq!(
        cluster.counted(1, Counter::AskFound),
        0,
        "it opened this one"
    );
    let answer = tcp(S, C, SYN | ACK, 500, 7_001, &[]);
    assert_eq!(cluster.through(0, OUTSIDE, answer), 1);
    assert_eq!(cluster.agreed().tcp_phase(), Some(TcpPhase::SynReceived));
}

/// What waits leaves in order, behind what the answer says, and a place is found for as many as held.
#[test]
fn a_full_queue_drops_and_counts_and_order_is_kept() {
    let mut cluster = Cluster::new(2, hold());
    cluster.connect();
    // Node 1 forgets the flow as a restarted one would have: nodes 0 and 2 have it.
    let mut other = Cluster::new(2, hold());
    std::mem::swap(&mut cluster.rigs[1], &mut other.rigs[1]);
    let view = cluster.view.clone();
    cluster.rigs[1].now_us = cluster.rigs[0].now_us;
    cluster.rigs[1].node.view.publish(view);
    for n in 0..6u32 {
        let data = tcp(S, C, PSH | ACK, 501 + n, 101, &[b'a' + n as u8]);
        cluster.put(1, OUTSIDE, data);
    }
    cluster.run(20);
    let sent = cluster.rigs[1].sent(INSIDE);
    let letters: Vec<u8> = sent.iter().map(|frame| frame[54]).collect();
    assert_eq!(letters, b"abcd");
    let moved = [
        Counter::Asked,
        Counter::AskWaiting,
        Counter::DropAskFull,
        Counter::AskAnswered,
        Counter::AskFound,
    ];
    assert_eq!(moved.map(|c| cluster.counted(1, c)), [1, 4, 2, 1, 1]);
    assert_eq!(cluster.rigs[1].worker.asking(), 0);
}

#[test]
fn without_an_answer_the_deadline_decides_as_configured() {
    for at_deadline in [AtDeadline::Drop, AtDeadline::Release] {
        let mut cluster = Cluster::new(
            2,
            Hold {
                at_deadline,
                ..hold()
            },
        );
        for to in [0, 2] {
            cluster.conns.get_mut(&(1, to)).unwrap().stalled = true;
        }
        let syn = || build::udp(at(C), at("10.2.0.10:9000"), b"x");
        cluster.put(1, INSIDE, syn());
        cluster.run((DEADLINE_US / TURN_US) as usize - 2);
        assert_eq!(cluster.rigs[1].worker.asking(), 1);
        cluster.run(4);
        assert_eq!(cluster.rigs[1].worker.asking(), 0);
        assert_eq!(cluster.counted(1, Counter::AskUnanswered), 1);
        let released = usize::from(at_deadline == AtDeadline::Release);
        assert_eq!(cluster.rigs[1].sent(OUTSIDE).len(), released);
        let dropped = cluster.counted(1, Counter::DropAskDeadline);
        assert_eq!(dropped, 1 - released as u64);
        // Asked again, and answered: the late answer to the first question does no harm.
        for to in [0, 2] {
            cluster.conns.get_mut(&(1, to)).unwrap().stalled = false;
        }
        cluster.run(20);
        assert_eq!(cluster.through(1, INSIDE, syn()), 1);
    }
}

/// What is not replicated has no copies, but its answer may come to another node.
#[test]
fn flows_without_replication_find_their_way_back_through_another_node() {
    let mut cluster = Cluster::new(2, hold());
    let echo = |request| {
        let (from, to) = match request {
            true => ("10.1.0.10", "10.2.0.10"),
            false => ("10.2.0.10", "10.1.0.10"),
        };
        build::icmp_echo(ip(from), ip(to), request, 5, 1, b"")
    };
    assert_eq!(cluster.through(0, INSIDE, echo(true)), 1);
    assert_eq!(cluster.through(1, OUTSIDE, echo(false)), 1);
    let delayed = |to: &str, from: &str| build::udp(at(from), at(to), b"x");
    let (c, s) = ("10.1.0.10:5", "10.2.0.10:7000");
    assert_eq!(cluster.through(0, INSIDE, delayed(s, c)), 1);
    assert_eq!(cluster.through(1, OUTSIDE, delayed(c, s)), 1);
}

/// The owner sees none of the packets: it is told well before it would take the flow for idle, and it
/// ends the flow, everywhere, when nobody tells any more.
#[test]
fn a_flow_lives_while_any_handler_sees_packets_and_ends_everywhere() {
    let mut cluster = Cluster::new(2, hold());
    let (c, s) = ("10.1.0.10:5", "10.2.0.10:9000");
    let key = FlowKey::new(
        v4_mapped([10, 1, 0, 10]),
        v4_mapped([10, 2, 0, 10]),
        5,
        9000,
        state::PROTO_UDP,
    )
    .0;
    let lives = |cluster: &Cluster, id| {
        let record = cluster.record(id, &key);
        record.is_some_and(|record| record.life == Life::Alive)
    };
    let second = |cluster: &mut Cluster, n: u32| {
        if n.is_multiple_of(5) && n < 60 {
            cluster.rigs[0].meet_hosts();
            let data = build::udp(at(c), at(s), b"x");
            assert_eq!(cluster.through(0, INSIDE, data), 1);
        }
        // Few turns, long ones: no hold's deadline matters here.
        for _ in 0..20 {
            for id in 0..usize::from(NODES) {
                cluster.rigs[id].now_us += 1_000_000 / 20 - TURN_US;
            }
            cluster.turn();
        }
    };
    for n in 0..60 {
        second(&mut cluster, n);
        assert!(n < 1 || lives(&cluster, 2), "twice the timeout, and {n}");
    }
    for n in 60..110 {
        second(&mut cluster, n);
    }
    assert!((0..NODES).all(|id| !lives(&cluster, id)));
    assert_eq!(cluster.counted(2, Counter::FlowExpired), 1);
    assert_eq!(cluster.counted(0, Counter::FlowExpired), 0);
}
