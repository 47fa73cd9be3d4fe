//! What must hold, judged from outside: from the tables, the views and the packets, never from
//! what the code under test says of itself.

use std::collections::{BTreeMap, VecDeque};

use engine::Counter;
use flowtable::FlowTable;
use membership::{MemberState, View};
use state::{FlowKey, FlowRecord, Life, NodeId, NodeSet, Slot, SyncMode, slot_of, worker_of};
use wire::{Net, ip};

use crate::hosts::OUTSIDE;
use crate::node::{Process, Worked};
use crate::report::{Failure, Invariant, Stats};
use crate::shape::{Shape, TOMBSTONE_S};
use crate::witness;

/// A deleted flow counts as known to all only after the cluster was undisturbed for so long: until
/// then older records may still be on their way, in front of the deletion.
const BURY_AFTER_US: u64 = 3_000_000;
/// Seconds by which a tombstone may outlive its time: two sweeps over the largest table.
const SWEEP_S: u32 = 16;

/// No packet waits for longer in a node.
const KEPT_US: u64 = 2_000_000;
/// Requests of one flow that are remembered at one node.
const ARRIVALS_MAX: usize = 64;

/// What is known of one key.
#[derive(Debug, Default)]
struct Facts {
    /// Which run of which node has had a record of which incarnation in its table.
    seen: Vec<(NodeId, u64, u64)>,
    /// The greatest incarnation whose state may be outside of the cluster.
    protected: u64,
    /// The greatest incarnation of which a packet has left a node.
    left: u64,
    /// The greatest incarnation that was held when packets were let go at their deadline: one of them
    /// may wait for its neighbour's address and leave in a later turn.
    released: u64,
    /// The greatest incarnation that was dead everywhere.
    buried: u64,
    /// Since when an incarnation is dead everywhere that it is known.
    dead_since: Option<(u64, u64)>,
    /// When each incarnation was first met in any table.
    met_us: BTreeMap<u64, u64>,
    /// When the ends began with the connection that they have now, or had last.
    opened_us: u64,
    /// When a packet last left a node.
    out_us: Option<u64>,
}

/// Watches a run.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    facts: BTreeMap<FlowKey, Facts>,
    /// Since when nothing disturbs the cluster.
    pub(crate) calm_since_us: Option<u64>,
    /// By node and flow: the numbers of requests that arrived and have not left, in order.
    arrivals: BTreeMap<(usize, FlowKey), VecDeque<u16>>,
    /// By node and flow: which incarnation was in its table when it was last looked at.
    present: BTreeMap<(usize, FlowKey), u64>,
    /// By node and packet: which incarnations of its flow it was let in for, and when, each time that it
    /// came and was kept. What peers tell meanwhile may replace the flow; the packet's own state counts.
    kept: BTreeMap<(usize, u64), VecDeque<(u64, u64)>>,
}

/// Which parts of the checks the options switch off, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Acknowledgements that release a packet; 0 for all targets.
    pub(crate) hold_acks: usize,
    /// Microseconds of true time that a view may be old.
    pub(crate) view_us_max: u64,
    /// Any node handles any flow.
    pub(crate) ecmp: bool,
    /// Packets come to their worker at once, so that they leave in the order of their arrival.
    pub(crate) in_order: bool,
    /// Nodes compare their copies, or nothing happens that would need it.
    pub(crate) repaired: bool,
    /// Nodes that crashed and stay away.
    pub(crate) absent: NodeSet,
    /// Targets may refuse records for want of room.
    pub(crate) tables_overflow: bool,
    /// Failures come before redundancy is whole again.
    pub(crate) beyond: bool,
    /// Frames are damaged, or runs refused for their clock.
    pub(crate) frames_may_be_invalid: bool,
}

impl Oracle {
    /// After a turn of a worker: what it sent must be protected.
    #[allow(
        clippy::too_many_arguments,
        reason = "it judges one thing by all there is to see"
    )]
    pub(crate) fn worked(
        &mut self,
        process: &Process,
        worker: usize,
        worked: &Worked,
        rules: Rules,
        peers: &[Option<Process>],
        at_us: u64,
        stats: &mut Stats,
    ) -> Result<(), Failure> {
        let table = process.workers[worker].worker.table();
        let me = NodeId::new(process.node as u8).expect("at most 16 nodes");
        for key in &worked.merged {
            if let Some(id) = table.lookup(key) {
                let incarnation = table.entry(id).record.incarnation;
                self.saw(key, me, process.incarnation, incarnation);
                self.meet(key, incarnation, at_us);
                self.settle(key, peers, rules);
                let before = self.present.insert((process.node, *key), incarnation);
                if let Some(before) = before.filter(|before| *before > incarnation) {
                    return Err(Failure {
                        invariant: Invariant::WentBack,
                        at_us,
                        what: format!(
                            "node {me} had {key} in incarnation {before:x}, and now {incarnation:x}"
                        ),
                    });
                }
            }
        }
        if worked.released {
            for record in held(table) {
                let facts = self.facts.entry(record.key).or_default();
                facts.released = facts.released.max(record.incarnation);
            }
        }
        for frame in &worked.kept {
            self.keep(process, frame, at_us);
        }
        if worked.sent.is_empty() {
            return Ok(());
        }
        let view = process.shared.view.load();
        if worked.sent.iter().any(|(_, frame)| !is_discovery(frame)) {
            self.judge_age(process, rules, at_us)?;
        }
        for (port, frame) in &worked.sent {
            if rules.in_order && *port == OUTSIDE {
                self.judge_order(process.node, frame, at_us)?;
            }
            let Some(record) = flow_of(frame, table) else {
                continue;
            };
            if record.class.sync != SyncMode::Ack {
                continue;
            }
            stats.packets_checked += 1;
            let kept = witness::fingerprint(frame).and_then(|print| {
                let times = self.kept.get_mut(&(process.node, print))?;
                times.pop_front()
            });
            let incarnation = kept.map_or(record.incarnation, |(incarnation, _)| incarnation);
            // A SYN in the middle of a connection passes as a packet of that one, and so does what overtakes the
            // answer to it. Only that, which may have come in the same turn, shows that it opened another.
            let doubted = |(print, before): &(Option<u64>, u64)| {
                *before < incarnation && *print == witness::fingerprint(frame)
            };
            if worked.doubted.iter().any(doubted) {
                continue;
            }
            self.meet(&record.key, record.incarnation, at_us);
            let facts = self.facts.entry(record.key).or_default();
            if facts.left < incarnation {
                facts.left = incarnation;
                stats.openings_checked += 1;
            }
            // Beyond the rules those who had protected a connection may all be gone, and others know it by another
            // incarnation since: then what the first one let out is out.
            let is_out = facts
                .out_us
                .replace(at_us)
                .is_some_and(|out_us| out_us >= facts.opened_us);
            if facts.protected >= incarnation || rules.beyond && is_out {
                continue;
            }
            let slot = slot_of(&record.key);
            let all = recipients(&view, me, slot, rules);
            let targets = without_joining(&view, all);
            let released = worked.released || facts.released >= incarnation;
            if !targets.is_empty() && !released {
                // A target that refuses records for want of room acknowledges them all the same.
                let lacking = |targets: NodeSet| -> NodeSet {
                    let lacking = facts.lacking(incarnation, targets, &view);
                    // Two nodes that did not know of each other may both have opened a connection: any of
                    // its incarnations is enough to go on with it.
                    let knows = |peer: NodeId| {
                        copy_at(peers, peer, &record.key).is_some_and(|copy| {
                            let met_us = facts.met_us.get(&copy.incarnation);
                            copy.life == Life::Alive
                                && met_us.is_some_and(|met_us| *met_us >= facts.opened_us)
                        })
                    };
                    let excused = |peer: &NodeId| {
                        rules.tables_overflow && refused_any(&peers[peer.index()]) || knows(*peer)
                    };
                    lacking.iter().filter(|peer| !excused(peer)).collect()
                };
                // Of joining nodes none counts: they inherit nothing.
                let has = targets.len() - lacking(targets).len();
                let needed = match rules.hold_acks {
                    0 => targets.len(),
                    n => n.min(targets.len()),
                };
                if has < needed {
                    return Err(Failure {
                        invariant: Invariant::Unprotected,
                        at_us,
                        what: format!(
                            "node {me} let a packet of {} (incarnation {:x}) go; its targets are {targets:?}, \
                             and {:?} never had the flow",
                            record.key,
                            incarnation,
                            lacking(targets)
                        ),
                    });
                }
            }
            facts.protected = incarnation;
        }
        Ok(())
    }

    /// A node that has not looked at its peers for longer than they may be silent does not know who
    /// owns what, and sends nothing.
    fn judge_age(&self, process: &Process, rules: Rules, at_us: u64) -> Result<(), Failure> {
        let age_us = at_us - process.looked_us;
        if age_us <= rules.view_us_max {
            return Ok(());
        }
        Err(Failure {
            invariant: Invariant::StaleView,
            at_us,
            what: format!(
                "node {} sends by a view that is {age_us} us old; {} us is the most",
                process.node, rules.view_us_max
            ),
        })
    }

    /// A packet has come to a node and waits there.
    fn keep(&mut self, process: &Process, frame: &[u8], at_us: u64) {
        let (Some(key), Some(print)) = (key_of(frame), witness::fingerprint(frame)) else {
            return;
        };
        if let Some(record) = record_at(process, &key).filter(|record| record.life == Life::Alive) {
            self.meet(&key, record.incarnation, at_us);
            let times = self.kept.entry((process.node, print)).or_default();
            times.push_back((record.incarnation, at_us));
        }
    }

    /// A datagram of a client arrives at a node.
    pub(crate) fn arrived(&mut self, node: usize, frame: &[u8]) {
        if let Some((key, number)) = numbered(frame) {
            let arrivals = self.arrivals.entry((node, key)).or_default();
            arrivals.push_back(number);
            if arrivals.len() > ARRIVALS_MAX {
                arrivals.pop_front();
            }
        }
    }

    /// A run of a node has begun: it knows of no packets.
    pub(crate) fn started(&mut self, node: usize) {
        self.arrivals.retain(|(of, _), _| *of != node);
        self.kept.retain(|(of, _), _| *of != node);
        self.present.retain(|(of, _), _| *of != node);
    }

    /// Packets of one flow leave a node in the order in which they arrived.
    fn judge_order(&mut self, node: usize, frame: &[u8], at_us: u64) -> Result<(), Failure> {
        let Some((key, number)) = numbered(frame) else {
            return Ok(());
        };
        let Some(arrivals) = self.arrivals.get_mut(&(node, key)) else {
            return Ok(());
        };
        match arrivals.iter().position(|arrived| *arrived == number) {
            Some(at) => {
                arrivals.drain(..=at);
                Ok(())
            }
            None => Err(Failure {
                invariant: Invariant::OutOfOrder,
                at_us,
                what: format!("node {node} sends request {number} of {key} behind later ones"),
            }),
        }
    }

    /// After a node has come to another view: what was held for targets that are none any more is
    /// free, whoever becomes a target later. And what passed while there were none is on its way, also
    /// what still waits for its neighbour's address.
    pub(crate) fn view_changed(&mut self, process: &Process, before: &View, rules: Rules) {
        let me = NodeId::new(process.node as u8).expect("at most 16 nodes");
        for core in &process.workers {
            for record in held(core.worker.table()) {
                let slot = slot_of(&record.key);
                if without_joining(before, recipients(before, me, slot, rules)).is_empty() {
                    let facts = self.facts.entry(record.key).or_default();
                    facts.protected = facts.protected.max(record.incarnation);
                }
            }
        }
        for (key, facts) in &mut self.facts {
            facts.settle(key, process, rules);
        }
    }

    fn settle(&mut self, key: &FlowKey, processes: &[Option<Process>], rules: Rules) {
        if let Some(facts) = self.facts.get_mut(key) {
            for process in processes.iter().flatten() {
                facts.settle(key, process, rules);
            }
        }
    }

    /// An end begins with a connection.
    pub(crate) fn opened(&mut self, key: FlowKey, at_us: u64) {
        self.facts.entry(key).or_default().opened_us = at_us;
    }

    fn meet(&mut self, key: &FlowKey, incarnation: u64, at_us: u64) {
        let facts = self.facts.entry(*key).or_default();
        facts.met_us.entry(incarnation).or_insert(at_us);
    }

    fn saw(&mut self, key: &FlowKey, node: NodeId, run: u64, incarnation: u64) {
        let seen = &mut self.facts.entry(*key).or_default().seen;
        match seen.iter_mut().find(|(n, r, _)| (*n, *r) == (node, run)) {
            Some((_, _, known)) => *known = (*known).max(incarnation),
            None => seen.push((node, run, incarnation)),
        }
    }

    /// Looks at all tables: nothing may grow beyond its bound, and the dead stay dead.
    pub(crate) fn scan(
        &mut self,
        processes: &[Option<Process>],
        shape: &Shape,
        rules: Rules,
        at_us: u64,
        stats: &mut Stats,
    ) -> Result<(), Failure> {
        stats.scans += 1;
        self.kept.retain(|_, times| {
            times.retain(|(_, kept_us)| kept_us + KEPT_US > at_us);
            !times.is_empty()
        });
        // What is forgotten may come again in whatever form others have it.
        self.present.retain(|(node, key), incarnation| {
            let record = processes[*node].as_ref().and_then(|p| record_at(p, key));
            *incarnation = record.map_or(0, |record| record.incarnation);
            record.is_some()
        });
        let mut lives: BTreeMap<FlowKey, (u64, u64)> = BTreeMap::new();
        for process in processes.iter().flatten() {
            bounds(process, shape, rules, at_us)?;
            for core in &process.workers {
                for record in records(core.worker.table()) {
                    let (alive, dead) = lives.entry(record.key).or_default();
                    match record.life {
                        Life::Alive => *alive = (*alive).max(record.incarnation),
                        Life::Dead => *dead = (*dead).max(record.incarnation),
                    }
                }
            }
        }
        for (key, (alive, dead)) in lives {
            let facts = self.facts.entry(key).or_default();
            if alive != 0 && facts.buried >= alive {
                return Err(Failure {
                    invariant: Invariant::Resurrected,
                    at_us,
                    what: format!("{key} (incarnation {alive:x}) lives; all knew it as deleted"),
                });
            }
            if alive != 0 {
                // Somebody does not know yet: a former owner, or a target that is behind.
                facts.dead_since = None;
                continue;
            }
            let since = match facts.dead_since {
                Some((incarnation, since)) if incarnation == dead => since,
                _ => at_us,
            };
            facts.dead_since = Some((dead, since));
            let calm_since = self.calm_since_us.unwrap_or(at_us);
            if at_us >= since.max(calm_since) + BURY_AFTER_US {
                facts.buried = facts.buried.max(dead);
            }
        }
        Ok(())
    }
}

impl Facts {
    /// Notes that a flow's state was with all targets of its owner at one time, and with a router in front
    /// with the owner: it may be let out from then on. Targets that come later get it with their snapshot.
    fn settle(&mut self, key: &FlowKey, process: &Process, rules: Rules) {
        // What this node has, whatever others opened apart from it meanwhile.
        let known = (self.seen.iter()).any(|(.., incarnation)| *incarnation > self.protected);
        let own = known.then(|| record_at(process, key)).flatten();
        let Some(own) = own.map(|record| record.incarnation) else {
            return;
        };
        let me = NodeId::new(process.node as u8).expect("at most 16 nodes");
        let view = &process.replicator_view;
        let slot = slot_of(key);
        let targets = without_joining(view, recipients(view, me, slot, rules));
        if own > self.protected
            && (rules.ecmp || view.owns(me, slot))
            && !targets.is_empty()
            && self.lacking(own, targets, view).is_empty()
        {
            self.protected = own;
        }
    }

    /// The targets of which the named run never had this incarnation or a later one.
    fn lacking(&self, incarnation: u64, targets: NodeSet, view: &View) -> NodeSet {
        let has = |target: NodeId| {
            let run = view.member(target).map_or(0, |member| member.incarnation);
            self.seen
                .iter()
                .any(|(node, r, known)| *node == target && *r == run && *known >= incarnation)
        };
        targets.iter().filter(|target| !has(*target)).collect()
    }
}

/// Who is to have a flow before its packets leave a node: the node's targets; with a router in front the
/// owner and the owner's targets, wherever they leave.
fn recipients(view: &View, node: NodeId, slot: Slot, rules: Rules) -> NodeSet {
    match rules.ecmp {
        true => view.recipients(node, slot),
        false => view.targets[node.index()],
    }
}

/// Those on which the promise rests. One that is joining gets everything before it owns anything, and until
/// then is more than was promised.
fn without_joining(view: &View, targets: NodeSet) -> NodeSet {
    let joining = |target: &NodeId| {
        view.member(*target)
            .is_some_and(|member| member.state == MemberState::Joining)
    };
    targets.iter().filter(|target| !joining(target)).collect()
}

fn refused_any(process: &Option<Process>) -> bool {
    process.as_ref().is_none_or(|process| {
        process
            .workers
            .iter()
            .any(|core| core.worker.counters().value(Counter::ReplicasRefused) > 0)
    })
}

/// The flow and the number of a client's request over UDP.
fn numbered(frame: &[u8]) -> Option<(FlowKey, u16)> {
    let p = wire::parse(frame).ok()?;
    let request = p.proto == ip::UDP && p.dport < p.sport;
    let payload = frame.get(usize::from(p.payload)..)?.first_chunk::<2>()?;
    let (key, _) = FlowKey::new(p.src, p.dst, p.sport, p.dport, p.proto);
    request.then_some((key, u16::from_be_bytes(*payload)))
}

/// Whether a frame asks for a neighbour's address or tells one: a node does so for itself, whoever owns what.
fn is_discovery(frame: &[u8]) -> bool {
    wire::parse(frame).is_ok_and(|p| {
        let kinds = wire::icmpv6::NEIGHBOR_SOLICITATION..=wire::icmpv6::NEIGHBOR_ADVERTISEMENT;
        p.net == Net::Arp || p.proto == ip::ICMPV6 && kinds.contains(&p.icmp.kind)
    })
}

/// The flow that a frame would be of.
pub(crate) fn key_of(frame: &[u8]) -> Option<FlowKey> {
    let p = wire::parse(frame).ok()?;
    if !matches!(p.net, Net::V4 | Net::V6) {
        return None;
    }
    let (sport, dport) = match p.proto {
        ip::TCP | ip::UDP => (p.sport, p.dport),
        _ => (p.icmp.id, p.icmp.id),
    };
    Some(FlowKey::new(p.src, p.dst, sport, dport, p.proto).0)
}

/// The flow that a forwarded frame is of, as the sender's table has it.
fn flow_of<'a>(frame: &[u8], table: &'a FlowTable) -> Option<&'a FlowRecord> {
    let id = table.lookup(&key_of(frame)?)?;
    Some(&table.entry(id).record)
}

pub(crate) fn records(table: &FlowTable) -> impl Iterator<Item = &FlowRecord> {
    (0..table.capacity())
        .filter_map(|place| table.at(place))
        .map(|id| &table.entry(id).record)
}

/// The flows with packets that are or were held until targets know them.
fn held(table: &FlowTable) -> impl Iterator<Item = &FlowRecord> {
    (0..table.capacity())
        .filter_map(|place| table.at(place))
        .map(|id| table.entry(id))
        .filter(|entry| entry.local.hold_lsn != 0)
        .map(|entry| &entry.record)
}

fn bounds(process: &Process, shape: &Shape, rules: Rules, at_us: u64) -> Result<(), Failure> {
    let node = process.node;
    let unbounded = |what: String| Failure {
        invariant: Invariant::Unbounded,
        at_us,
        what: format!("node {node}: {what}"),
    };
    let fault = |what: String| Failure {
        invariant: Invariant::Fault,
        at_us,
        what: format!("node {node}: {what}"),
    };
    let now_us = process.clock.us(at_us);
    let status = process.replicator().status(now_us);
    let log_max = (shape.log_max() * shape.options.workers) as u64;
    for target in &status.targets {
        if target.lag_records > log_max {
            return Err(unbounded(format!(
                "{} changes wait for node {}; the log has room for {log_max}",
                target.lag_records, target.peer
            )));
        }
    }
    if status.counters.worker_faults > 0 {
        return Err(fault(format!(
            "{} faults of workers",
            status.counters.worker_faults
        )));
    }
    if status.counters.frames_invalid > 0 && !rules.frames_may_be_invalid {
        return Err(fault(format!(
            "{} frames were refused, and none was damaged",
            status.counters.frames_invalid
        )));
    }
    let stands_still = process.paused_until_us > at_us || process.slow_until_us > at_us;
    for core in &process.workers {
        let worker = &core.worker;
        if worker.held() > shape.hold_capacity() {
            return Err(unbounded(format!("{} packets are held", worker.held())));
        }
        if stands_still || core.stalled_until_us > at_us {
            continue;
        }
        let table = worker.table();
        let now_s = (now_us / 1_000_000) as u32;
        let started_s = (process.clock.us(process.started_us) / 1_000_000) as u32;
        for place in 0..table.capacity() {
            let Some(id) = table.at(place) else { continue };
            let entry = table.entry(id);
            let old_s = now_s.saturating_sub(entry.local.seen_s.max(started_s));
            if !entry.is_alive() && old_s > TOMBSTONE_S + SWEEP_S {
                return Err(unbounded(format!(
                    "a tombstone of {} is {old_s} s old",
                    entry.record.key
                )));
            }
        }
    }
    Ok(())
}

/// Whether redundancy is whole: all nodes have the same view and are active in it, and every
/// protected flow is with all targets of its owner. Says what is missing.
pub(crate) fn whole(
    processes: &[Option<Process>],
    rules: Rules,
    stats: &mut Stats,
) -> Result<(), String> {
    let view = agreed_view(processes, rules.absent)?;
    if rules.tables_overflow {
        return Ok(());
    }
    for process in processes.iter().flatten() {
        let me = NodeId::new(process.node as u8).expect("at most 16 nodes");
        for core in &process.workers {
            for record in records(core.worker.table()) {
                let owned = view.owns(me, slot_of(&record.key));
                if !owned || record.life == Life::Dead || record.class.sync != SyncMode::Ack {
                    continue;
                }
                for target in view.targets[me.index()].iter() {
                    stats.flows_compared += 1;
                    let copy = copy_at(processes, target, &record.key);
                    let knows = |copy: &FlowRecord| {
                        (copy.incarnation, copy.life) >= (record.incarnation, Life::Alive)
                            && (copy.life == Life::Alive || copy.incarnation > record.incarnation)
                    };
                    if !copy.is_some_and(knows) {
                        return Err(format!(
                            "node {target} lacks {}, which node {me} owns",
                            record.key
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether everything is equal everywhere: besides redundancy, all that targets hold is as their
/// owners have it, windows aside, and nobody believes in a flow that its owner does not have.
pub(crate) fn converged(
    processes: &[Option<Process>],
    rules: Rules,
    stats: &mut Stats,
) -> Result<(), String> {
    whole(processes, rules, stats)?;
    if rules.tables_overflow || !rules.repaired {
        // What found no room is missing until there is some; and who was taken for dead may have missed
        // deletions, which nobody repairs.
        return Ok(());
    }
    let view = agreed_view(processes, rules.absent)?;
    for process in processes.iter().flatten() {
        let me = NodeId::new(process.node as u8).expect("at most 16 nodes");
        if processes.len() > 1 && !process.replicator().status(0).whole {
            return Err(format!(
                "node {me} does not say that its redundancy is whole"
            ));
        }
        for core in &process.workers {
            let table = core.worker.table();
            for place in 0..table.capacity() {
                let Some(id) = table.at(place) else { continue };
                let entry = table.entry(id);
                let record = &entry.record;
                let unsent = record.class.sync == SyncMode::None || entry.local.replicate_at_s != 0;
                if record.life == Life::Dead || unsent {
                    continue;
                }
                let Some(owner) = view.owner(slot_of(&record.key)) else {
                    return Err(format!("nobody owns the slot of {}", record.key));
                };
                if owner == me {
                    for target in view.targets[me.index()].iter() {
                        equal(record, me, copy_at(processes, target, &record.key), target)?;
                    }
                    continue;
                }
                // What a node keeps that is no target of the owner any more is forgotten after a
                // minute of its own; nobody will ask for it, and it asks itself before it uses it. With a
                // router in front it may handle the flow, and then hears of its end.
                if !view.targets[owner.index()].contains(me) {
                    let ended = |owned: &FlowRecord| {
                        owned.life == Life::Dead && owned.incarnation >= record.incarnation
                    };
                    let handles = rules.ecmp && entry.local.flags.is_handler();
                    if handles && copy_at(processes, owner, &record.key).is_some_and(ended) {
                        return Err(format!(
                            "node {me} handles {}, which is deleted at its owner, node {owner}",
                            record.key
                        ));
                    }
                    continue;
                }
                match copy_at(processes, owner, &record.key) {
                    None => {
                        return Err(format!(
                            "{} lives at node {me}, and its owner, node {owner}, has nothing of it",
                            record.key
                        ));
                    }
                    Some(owned) if owned.life == Life::Dead => {
                        return Err(format!(
                            "{} lives at node {me}, and is deleted at its owner, node {owner}",
                            record.key
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    Ok(())
}

fn equal(
    record: &FlowRecord,
    owner: NodeId,
    copy: Option<&FlowRecord>,
    target: NodeId,
) -> Result<(), String> {
    let Some(copy) = copy else {
        return Err(format!(
            "node {target} lacks {}, which node {owner} owns",
            record.key
        ));
    };
    let essence = |r: &FlowRecord| {
        (
            r.incarnation,
            r.class,
            r.life,
            r.progress,
            r.verdict,
            r.mark,
            r.nat,
        )
    };
    if essence(record) != essence(copy) {
        return Err(format!(
            "{} is {:?} at its owner, node {owner}, and {:?} at node {target}",
            record.key,
            essence(record),
            essence(copy)
        ));
    }
    Ok(())
}

fn agreed_view(
    processes: &[Option<Process>],
    absent: NodeSet,
) -> Result<std::sync::Arc<View>, String> {
    let mut agreed: Option<std::sync::Arc<View>> = None;
    for (node, process) in processes.iter().enumerate() {
        let Some(process) = process else {
            let id = NodeId::new(node as u8).expect("at most 16 nodes");
            match absent.contains(id) {
                true => continue,
                false => return Err(format!("node {node} is down")),
            }
        };
        let view = process.membership().view().clone();
        if process.membership().state() != MemberState::Active {
            return Err(format!("node {node} is {:?}", process.membership().state()));
        }
        let workers = process.shared.view.load();
        if workers.digest != view.digest {
            return Err(format!("the workers of node {node} have an older view"));
        }
        if agreed
            .as_ref()
            .is_some_and(|agreed| agreed.digest != view.digest)
        {
            return Err(format!("node {node} has another view than those before it"));
        }
        if let Some(away) = absent.iter().find(|away| {
            view.member(*away)
                .is_some_and(|m| m.state != MemberState::Dead)
        }) {
            return Err(format!(
                "node {node} takes node {away} for alive, which is not there"
            ));
        }
        agreed = Some(view);
    }
    agreed.ok_or_else(|| "there are no nodes".to_owned())
}

fn copy_at<'a>(
    processes: &'a [Option<Process>],
    node: NodeId,
    key: &FlowKey,
) -> Option<&'a FlowRecord> {
    record_at(processes[node.index()].as_ref()?, key)
}

fn record_at<'a>(process: &'a Process, key: &FlowKey) -> Option<&'a FlowRecord> {
    let worker = worker_of(slot_of(key), process.workers.len());
    let table = process.workers[worker].worker.table();
    let id = table.lookup(key)?;
    Some(&table.entry(id).record)
}
