//! One run: the clock, the queue of what will happen, and everybody in it.

use membership::MemberState;
use state::{FlowKey, NodeId, NodeSet, SyncMode, slot_of, worker_of};
use wire::{Net as Layer, ip};

use crate::common::{self, Write, Writes};
use crate::drain::{Order, Progress};
use crate::hosts::{Hosts, INSIDE, Loss};
use crate::net::{Delivery, Net};
use crate::node::{Clock, Outside, Process};
use crate::options::Options;
use crate::oracle::{self, Oracle, Rules};
use crate::queue::{Core, Event, Queue, Undo};
use crate::random::{Rng, fold};
use crate::report::{Failure, Invariant, Report, Stats};
use crate::schedule::{Deed, Schedule};
use crate::shape::{Shape, mac_of};
use crate::witness::{LOST_AFTER_US, Witness};

const SCAN_EVERY_US: u64 = 250_000;
/// Between two looks at how far an order is.
const LOOK_AGAIN_US: u64 = 10_000;
/// What nobody was told of may take so long to reach a node that has taken its slots back.
const UNTOLD_US: u64 = 500_000;
/// Clients begin once the cluster has had time to form.
const OPEN_FROM_US: u64 = 1_500_000;
/// Traffic goes on for at least so long after the last failure.
const AFTERMATH_US: u64 = 4_000_000;
/// At the end nobody may have waited for an answer for longer.
const STUCK_US: u64 = 2_500_000;
/// Unix milliseconds at the start of a run.
const EPOCH_MS: i64 = 1_700_000_000_000;
/// Lines of a trace that are kept.
const TRACE_LINES: usize = 3_000_000;

/// A machine: what outlasts the runs of its process.
#[derive(Clone, Copy, Debug)]
struct Machine {
    clock: Clock,
    /// The number in the file where the last run's is kept: see `ravelind/src/incarnation.rs`.
    kept: u64,
}

pub(crate) struct World {
    shape: Shape,
    now_us: u64,
    queue: Queue,
    net: Net,
    hosts: Hosts,
    machines: Vec<Machine>,
    processes: Vec<Option<Process>>,
    oracle: Oracle,
    witness: Witness,
    writes: Writes,
    /// Chance for operators, apart from all other.
    operator: Rng,
    /// When a node last became active, and so took its slots back.
    took_back_us: Option<u64>,
    /// The nodes that a router in front of them sends to.
    next_hops: Vec<usize>,
    schedule: Schedule,
    rng: Rng,
    runs: u64,
    stats: Stats,
    hash: u64,
    trace: Vec<String>,
    /// Lines that processes said in this event.
    said: Vec<String>,
    rules: Rules,
    failure: Option<Failure>,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed, 5);
        let faults = &options.faults;
        let machines = (0..options.nodes)
            .map(|_| {
                let drift = rng.range(0..=2 * faults.drift_ppm) as i64 - faults.drift_ppm as i64;
                let skew = rng.range(0..=2 * faults.skew_ms) as i64 - faults.skew_ms as i64;
                Machine {
                    clock: Clock {
                        base_us: rng.range(1_000_000..=1_000_000_000_000),
                        drift_ppm: drift,
                        unix_ms: EPOCH_MS + skew,
                    },
                    kept: 0,
                }
            })
            .collect();
        let mut world = Self {
            shape: Shape::new(options),
            now_us: 0,
            queue: Queue::default(),
            net: Net::new(options),
            hosts: Hosts::new(options.seed),
            machines,
            processes: (0..options.nodes).map(|_| None).collect(),
            oracle: Oracle::default(),
            witness: Witness::default(),
            writes: Writes::default(),
            operator: Rng::new(options.seed, 7),
            took_back_us: None,
            next_hops: Vec::new(),
            schedule: Schedule::new(options),
            rng,
            runs: 0,
            stats: Stats::default(),
            hash: options.seed,
            trace: Vec::new(),
            said: Vec::new(),
            rules: Rules {
                hold_acks: options.hold_acks,
                // Clocks run wrong by a part of it, and a turn may end a little later than it began.
                view_us_max: options.heartbeat_ms * 4_000 * 103 / 100 + 2_000,
                ecmp: options.ecmp,
                in_order: !options.ecmp
                    && (options.workers == 1 || faults.traffic_misdelivery == 0),
                repaired: options.digests || options.profile == crate::Profile::Quiet,
                beyond: faults.beyond,
                absent: NodeSet::EMPTY,
                tables_overflow: faults.tiny_table,
                frames_may_be_invalid: faults.link_corruption > 0,
            },
            failure: None,
        };
        for node in 0..options.nodes {
            world.start(node, false);
        }
        world.queue.put(OPEN_FROM_US, Event::Open);
        if options.writes_per_s > 0 {
            world.queue.put(OPEN_FROM_US, Event::Write);
        }
        world.queue.put(SCAN_EVERY_US, Event::Scan);
        world.queue.put(OPEN_FROM_US, Event::Schedule);
        world
    }

    /// Lets everything happen.
    pub(crate) fn run(mut self) -> Report {
        let end_us = self.shape.options.load_us + 120_000_000 + self.shape.options.converge_us;
        while self.failure.is_none() && !self.is_over() {
            let Some((at_us, event)) = self.queue.next() else {
                break;
            };
            self.now_us = at_us;
            self.stats.events += 1;
            self.happen(event);
            self.deliver();
            for line in std::mem::take(&mut self.said) {
                self.say(format_args!("{line}"));
            }
            if at_us > end_us {
                self.fail(Invariant::NotConverged, "the run does not end".to_owned());
            }
        }
        if self.failure.is_none() {
            self.judge_stuck();
        }
        if self.failure.is_some() {
            self.examine();
        }
        self.stats.runs = 1;
        self.stats.virtual_us = self.now_us;
        self.count_processes();
        let done = fold(self.hash, self.stats.packets_delivered);
        Report {
            stats: self.stats,
            hash: fold(done, self.now_us),
            failure: self.failure,
            trace: self.trace,
        }
    }

    fn happen(&mut self, event: Event) {
        let now_us = self.now_us;
        match event {
            Event::Turn {
                node,
                run,
                core,
                ticket,
            } => self.turn(node, run, core, ticket),
            Event::ToNode { node, port, frame } => {
                if self.shape.options.trace {
                    self.say(format_args!("node {node} gets {}", describe(&frame)));
                }
                self.arrive_at(node, port, frame);
            }
            Event::ToHosts { port, frame } => {
                self.note(3, port as u64, &frame);
                self.hosts
                    .frame(port, &frame, now_us, &mut self.queue, &mut self.stats);
                self.after_hosts();
            }
            Event::Frame {
                conn,
                from,
                stream,
                bytes,
            } => {
                self.note(4, conn as u64, &bytes);
                self.net.arrive(conn, from, stream, bytes, &mut self.stats);
            }
            Event::Datagram { conn, bytes } => self.net.datagram(conn, bytes),
            Event::IdleCheck { conn, side } => {
                self.net.idle_check(conn, side, now_us, &mut self.queue);
            }
            Event::Closed { conn, side } => {
                self.net.closed(conn, side, now_us, &mut self.queue);
            }
            Event::Reset { conn, side } => {
                self.net.reset(conn, side, now_us, &mut self.queue);
            }
            Event::Dial {
                node,
                run,
                peer,
                kind,
            } => self
                .net
                .dial((node, run), peer, kind, now_us, &mut self.queue),
            Event::Shaken {
                node,
                run,
                peer,
                peer_run,
                kind,
            } => self
                .net
                .shaken((node, run), (peer, peer_run), kind, now_us, &mut self.queue),
            Event::Host { flow, ticket } => {
                self.hosts
                    .timer(flow, ticket, now_us, &mut self.queue, &mut self.stats);
                self.after_hosts();
            }
            Event::Open => self.open(),
            Event::Write => self.write(),
            Event::Schedule => self.step_schedule(),
            Event::Undo(undo) => self.undo(undo),
            Event::Scan => self.scan(),
        }
    }

    fn turn(&mut self, node: usize, run: u64, core: Core, ticket: u64) {
        let Some(process) = self.processes[node].as_mut().filter(|p| p.run == run) else {
            return;
        };
        if !process.is_due(core, ticket, self.now_us, &mut self.queue) {
            return;
        }
        let mut outside = Outside {
            now_us: self.now_us,
            net: &mut self.net,
            queue: &mut self.queue,
            stats: &mut self.stats,
            said: self.shape.options.trace.then_some(&mut self.said),
        };
        match core {
            Core::Sync => {
                let before = process.replicator_view.clone();
                process.sync_turn(&mut outside);
                if let Some(stamp) = process.common_synced.take() {
                    self.writes.synced(run, stamp, &mut self.stats);
                }
                if process.replicator_view.epoch != before.epoch {
                    let process = self.processes[node].as_ref().expect("it has just run");
                    self.oracle.view_changed(process, &before, self.rules);
                }
            }
            Core::Member => {
                let joined = process.membership().state() == MemberState::Joining;
                process.member_turn(&mut outside);
                if joined && process.membership().state() == MemberState::Active {
                    self.took_back_us = Some(self.now_us);
                }
                if let Some(known) = process.outrun.take() {
                    self.end_outrun(node, known);
                }
            }
            Core::Worker(number) => {
                let worked = process.worker_turn(number, &mut outside);
                let process = self.processes[node].as_ref().expect("it has just run");
                let judged = self.oracle.worked(
                    process,
                    number,
                    &worked,
                    self.rules,
                    &self.processes,
                    self.now_us,
                    &mut self.stats,
                );
                if let Err(failure) = judged {
                    self.failure.get_or_insert(failure);
                }
                for (port, frame) in worked.sent {
                    self.witness.left(&frame);
                    self.note(1, (node as u64) << 8 | port as u64, &frame);
                    let at_us = self.now_us + self.traffic_delay();
                    self.queue.put(at_us, Event::ToHosts { port, frame });
                }
            }
        }
    }

    fn arrive_at(&mut self, node: usize, port: usize, frame: Vec<u8>) {
        let workers = self.shape.options.workers;
        let misled = self
            .rng
            .chance(self.shape.options.faults.traffic_misdelivery);
        let worker = match misled {
            true => self.rng.below(workers as u64) as usize,
            false => worker_for(&frame, workers),
        };
        let Some(process) = self.processes[node].as_mut() else {
            return;
        };
        if port == INSIDE && self.rules.in_order {
            self.oracle.arrived(node, &frame);
        }
        let mut outside = Outside {
            now_us: self.now_us,
            net: &mut self.net,
            queue: &mut self.queue,
            stats: &mut self.stats,
            said: self.shape.options.trace.then_some(&mut self.said),
        };
        process.receive(worker, port, frame, &mut outside);
    }

    /// Hands over what the network has for the cores.
    fn deliver(&mut self) {
        while let Some(Delivery {
            node,
            run,
            kind,
            heard,
        }) = self.net.deliveries.pop_front()
        {
            let Some(process) = self.processes[node].as_mut().filter(|p| p.run == run) else {
                continue;
            };
            let mut outside = Outside {
                now_us: self.now_us,
                net: &mut self.net,
                queue: &mut self.queue,
                stats: &mut self.stats,
                said: self.shape.options.trace.then_some(&mut self.said),
            };
            process.hear(kind, heard, &mut outside);
        }
    }

    /// Puts what hosts sent on the wire to every node, and judges what they lost.
    fn after_hosts(&mut self) {
        let faults = &self.shape.options.faults;
        let witnessed = self.loses_no_traffic();
        for (port, frame, flow) in std::mem::take(&mut self.hosts.out) {
            self.stats.packets_sent += 1;
            if let Some(flow) = flow
                && witnessed
                && self.hosts.is_steady(flow)
                && !self.hosts.repeats_in_vain(flow, port, &frame)
            {
                self.stats.packets_witnessed += 1;
                self.witness.put(flow, &frame, self.now_us);
            }
            self.hash = fold(self.hash, frame.len() as u64);
            let (frame, nodes) = self.routed(port, frame, flow.is_some());
            for node in nodes {
                let mut copies = 1 + u32::from(self.rng.chance(faults.traffic_duplication));
                if self.rng.chance(faults.traffic_loss) {
                    copies -= 1;
                    self.stats.traffic_lost += 1;
                }
                for _ in 0..copies {
                    let (least, most) = faults.traffic_delay_us;
                    let at_us = self.now_us + self.rng.range(least..=most);
                    let frame = frame.clone();
                    self.queue.put(at_us, Event::ToNode { node, port, frame });
                }
            }
        }
        for flow in std::mem::take(&mut self.hosts.losses) {
            self.judge_loss(flow);
        }
    }

    /// To which nodes a frame goes, and with which destination. A router takes the nodes that ran when it
    /// looked last, and chooses by a hash of one direction's packets.
    fn routed(&self, port: usize, frame: Vec<u8>, forwarded: bool) -> (Vec<u8>, Vec<usize>) {
        let all = 0..self.shape.options.nodes;
        if !self.shape.options.ecmp || !forwarded {
            return (frame, all.collect());
        }
        let Ok(p) = wire::parse(&frame) else {
            return (frame, vec![]);
        };
        if self.next_hops.is_empty() {
            return (frame, vec![]);
        }
        let mut hash = u64::from(p.sport) << 32 | u64::from(p.dport) << 16 | u64::from(p.icmp.id);
        for address in [&p.src, &p.dst] {
            let low = address.last_chunk::<8>().expect("an address has 16 octets");
            hash = fold(hash, u64::from_be_bytes(*low));
        }
        let node = self.next_hops[(hash >> 32) as usize % self.next_hops.len()];
        let frame = wire::build::with_macs(frame, mac_of(node, port), p.eth_src);
        (frame, vec![node])
    }

    /// Whether the wires and the nodes' queues lose nothing.
    fn loses_no_traffic(&self) -> bool {
        let f = &self.shape.options.faults;
        let small = f.tiny_rings || f.tiny_log || f.tiny_hold || f.tiny_table || f.tiny_queues;
        // A router goes on sending to a node that has ended until it looks again.
        !self.shape.options.ecmp
            && f.traffic_loss == 0
            && f.link_loss == 0
            && f.link_corruption == 0
            && !small
    }

    /// Where nothing failed, no packet of a flow that both ends hold open is lost. A flow that is not
    /// replicated may die with any change of owners. One whose replication is delayed is brought to
    /// a node that takes its slots back only once that owns them: until it is there, packets may be lost.
    /// (A node that goes offline tells of it before.)
    fn judge_packets(&mut self) {
        while let Some((at_us, number)) = self.witness.next_lost(self.now_us) {
            let flow = &self.hosts.flows[number];
            let (since_us, until_us) = (flow.opened_us, at_us + LOST_AFTER_US);
            let taken_back =
                (self.took_back_us).is_some_and(|took_us| took_us + UNTOLD_US >= at_us);
            let excused = match flow.sync {
                SyncMode::None => self.schedule.disturbed_between(since_us, until_us),
                SyncMode::Delayed if taken_back => true,
                _ => self.schedule.failed_between(since_us, until_us),
            };
            if excused || !self.hosts.is_steady(number) {
                continue;
            }
            let what = format!(
                "no node has sent on what an end of protocol {} ({:?}) from {} to {} sent at {at_us} us",
                flow.proto, flow.sync, flow.client, flow.server
            );
            self.fail(Invariant::PacketLost, what);
        }
    }

    fn traffic_delay(&mut self) -> u64 {
        let (least, most) = self.shape.options.faults.traffic_delay_us;
        self.rng.range(least..=most)
    }

    /// Decides from the schedule whether a connection may be lost.
    fn judge_loss(&mut self, number: usize) {
        let flow = &self.hosts.flows[number];
        let options = &self.shape.options;
        let disturbed = self.schedule.disturbed_between(flow.opened_us, self.now_us);
        let weak = flow.sync != SyncMode::Ack
            || options.hold_acks > 0
            || options.release_at_deadline
            || !flow.established;
        let garbled = flow.lost == Some(Loss::Garbled);
        // Going offline in good order loses nothing but what is not replicated at all.
        let failed = self.schedule.failed_between(flow.opened_us, self.now_us);
        let unreplicated = disturbed && flow.sync == SyncMode::None;
        let allowed =
            options.faults.tiny_table || unreplicated || failed && (weak || options.faults.beyond);
        if allowed && !garbled {
            self.stats.losses_allowed += 1;
            return;
        }
        let what = format!(
            "{} of protocol {} ({:?}) from {} to {}, opened at {} us, {}: {:?}",
            if flow.established {
                "a connection"
            } else {
                "an attempt"
            },
            flow.proto,
            flow.sync,
            flow.client,
            flow.server,
            flow.opened_us,
            match (failed, disturbed) {
                (true, _) => "with failures within the rules",
                (false, true) => "with nothing but hand-overs in good order",
                (false, false) => "without any failure",
            },
            flow.lost,
        );
        self.fail(Invariant::ConnectionLost, what);
    }

    /// At the end nobody waits in vain.
    fn judge_stuck(&mut self) {
        if let Some(number) = self.hosts.stuck(self.now_us.saturating_sub(STUCK_US)) {
            self.hosts.flows[number].lost = Some(Loss::Silence);
            self.judge_loss(number);
        }
    }

    fn open(&mut self) {
        let options = &self.shape.options;
        let until_us = match self.schedule.quiet_since_us {
            // What is open at the last failure goes on until after it.
            None => self.now_us.max(options.load_us) + 60_000_000,
            Some(quiet) => quiet + AFTERMATH_US,
        };
        let (now_us, per_s) = (self.now_us, options.opens_per_s);
        // Several at once fill what is small.
        let burst = match options.faults.tiny_rings {
            true => 1 + self.rng.below(4) * self.rng.below(3),
            false => 1,
        };
        let had = self.hosts.flows.len();
        for _ in 0..burst {
            self.hosts
                .open(now_us, until_us, &mut self.queue, &mut self.stats);
        }
        for flow in &self.hosts.flows[had..] {
            self.oracle.opened(flow.key(), now_us);
        }
        self.after_hosts();
        if self.schedule.quiet_since_us.is_none() {
            let gap_us = self.rng.range(1_000..=2_000_000 / per_s);
            self.queue.put(now_us + gap_us, Event::Open);
        }
    }

    /// An operator writes on some node that serves.
    fn write(&mut self) {
        if self.schedule.quiet_since_us.is_some() {
            return;
        }
        let gap_us = self
            .operator
            .range(1_000..=2_000_000 / self.shape.options.writes_per_s);
        self.queue.put(self.now_us + gap_us, Event::Write);
        let write = Write::draw(&mut self.operator);
        let node = self.operator.below(self.shape.options.nodes as u64) as usize;
        let now_us = self.now_us;
        let Some(process) = self.processes[node].as_mut() else {
            return;
        };
        let serves = process.membership().state() == MemberState::Active;
        if !serves || process.paused_until_us > now_us {
            return;
        }
        if let Some(stamp) = process.write(&write, now_us) {
            process.wake(Core::Sync, now_us, &mut self.queue);
            let run = process.run;
            self.stats.common_writes += 1;
            self.writes.written(run, &write, stamp);
            self.say(format_args!("node {node} writes {write:?} at {stamp:?}"));
        }
    }

    fn step_schedule(&mut self) {
        let runs = |node: &usize| self.processes[*node].is_some();
        self.next_hops = (0..self.shape.options.nodes).filter(runs).collect();
        let (processes, rules) = (&self.processes, self.rules);
        let step = self.schedule.step(
            self.now_us,
            |stats| {
                oracle::whole(processes, rules, stats)?;
                common::told(processes)
            },
            &mut self.net,
            &mut self.queue,
            &mut self.stats,
        );
        if let Some(lacking) = step.overdue {
            self.fail(
                Invariant::NotConverged,
                format!("after a failure redundancy does not become whole: {lacking}"),
            );
        }
        for deed in step.deeds {
            self.say(format_args!("{deed:?}"));
            self.hash = fold(self.hash, self.now_us);
            self.perform(deed);
        }
    }

    fn perform(&mut self, deed: Deed) {
        let now_us = self.now_us;
        match deed {
            Deed::Crash { node, stays_away } => {
                self.crash(node, stays_away);
                self.mind_absent();
            }
            Deed::Return { node } => {
                self.mind_absent();
                self.start(node, false);
                self.stats.restarts += 1;
            }
            Deed::Pause { node, us } => {
                if let Some(process) = &mut self.processes[node] {
                    process.paused_until_us = process.paused_until_us.max(now_us + us);
                    self.net.paused(node, now_us, &mut self.queue);
                }
            }
            Deed::Slow { node, us } => {
                if let Some(process) = &mut self.processes[node] {
                    process.slow_until_us = now_us + us;
                }
            }
            Deed::Stall { node, us } => {
                let worker = self.rng.below(self.shape.options.workers as u64) as usize;
                if let Some(process) = &mut self.processes[node] {
                    process.workers[worker].stalled_until_us = now_us + us;
                }
            }
            Deed::Drain { node, stay, how } => {
                if let Some(process) = &mut self.processes[node] {
                    process.order(Order::Drain { stay, how }, now_us, &mut self.queue);
                    let look = Undo::Drained {
                        node,
                        run: process.run,
                    };
                    self.schedule
                        .later(now_us + LOOK_AGAIN_US, look, &mut self.queue);
                }
            }
            Deed::StepClock { node, ms } => {
                self.machines[node].clock.unix_ms += ms;
                if let Some(process) = &mut self.processes[node] {
                    process.clock.unix_ms += ms;
                }
            }
        }
    }

    /// Who is away counts as dead wherever redundancy is looked at.
    fn mind_absent(&mut self) {
        let ids = self.schedule.absent.iter();
        self.rules.absent = ids.filter_map(|node| NodeId::new(*node as u8)).collect();
    }

    fn crash(&mut self, node: usize, stays_away: bool) {
        let Some(process) = self.processes[node].take() else {
            return;
        };
        self.count(&process);
        self.machines[node].clock = process.clock;
        self.net.crashed(node, self.now_us, &mut self.queue);
        self.stats.crashes += 1;
        if stays_away {
            self.stats.absences += 1;
            return;
        }
        let after_us = *self.rng.pick(&[
            5_000, 60_000, 60_000, 400_000, 400_000, 2_500_000, 2_500_000, 18_000_000,
        ]);
        let at_us = self.now_us + self.rng.range(after_us / 2..=after_us);
        let clock_lost = self.rng.chance(self.shape.options.faults.clock_loss);
        self.schedule
            .later(at_us, Undo::Start { node, clock_lost }, &mut self.queue);
    }

    /// Looks how far a node is with going offline, and does what is next.
    fn look_at_drain(&mut self, node: usize, run: u64) {
        let now_us = self.now_us;
        let Some(process) = self.processes[node].as_mut().filter(|p| p.run == run) else {
            return;
        };
        let (progress, cut) = process.progress();
        let next = match progress {
            Progress::None => None,
            // Sometimes it is taken back before it is done.
            Progress::UnderWay if !process.ending && self.rng.chance(5_000) => {
                Some((0, Undo::Undrain { node, run }))
            }
            Progress::UnderWay => Some((LOOK_AGAIN_US, Undo::Drained { node, run })),
            Progress::Drained => {
                let us = self.rng.range(1_000..=2_000_000);
                Some((us, Undo::Undrain { node, run }))
            }
            Progress::Over => {
                process.leave(now_us, &mut self.queue);
                let us = 3_000 * self.shape.options.heartbeat_ms;
                Some((us, Undo::Exit { node, run }))
            }
        };
        if cut {
            self.schedule.hand_over_cut();
        }
        if let Some((us, undo)) = next {
            self.schedule.later(now_us + us, undo, &mut self.queue);
        }
    }

    /// A process ends, having said goodbye, and is started again some time later.
    fn exit(&mut self, node: usize) {
        let Some(process) = self.processes[node].take() else {
            return;
        };
        self.count(&process);
        self.machines[node].clock = process.clock;
        self.net.ended(node, self.now_us, &mut self.queue);
        let after_us = *self.rng.pick(&[20_000, 400_000, 2_500_000]);
        let at_us = self.now_us + self.rng.range(after_us / 2..=after_us);
        let undo = Undo::Start {
            node,
            clock_lost: false,
        };
        self.schedule.later(at_us, undo, &mut self.queue);
    }

    /// A process to which a peer does not listen, since its clock went back, keeps the number that the peer
    /// knows and hands over; its supervisor starts it again.
    fn end_outrun(&mut self, node: usize, known: u64) {
        self.machines[node].kept = self.machines[node].kept.max(known);
        let Some(process) = &mut self.processes[node] else {
            return;
        };
        if std::mem::replace(&mut process.ending, true) {
            return;
        }
        let how = membership::Drain {
            bound_ms: 10_000,
            force: true,
        };
        let order = Order::Drain { stay: false, how };
        process.order(order, self.now_us, &mut self.queue);
        let run = process.run;
        let look = Undo::Drained { node, run };
        self.schedule
            .later(self.now_us + LOOK_AGAIN_US, look, &mut self.queue);
    }

    fn start(&mut self, node: usize, clock_lost: bool) {
        if self.processes[node].is_some() {
            return;
        }
        self.runs += 1;
        let run = self.runs;
        let reboots = self.rng.chance(400_000);
        let machine = &mut self.machines[node];
        if reboots && run > self.shape.options.nodes as u64 {
            machine.clock.base_us = self.rng.range(1_000_000..=20_000_000);
        }
        if clock_lost {
            machine.clock.unix_ms -= 3_600_000;
            // With the disk that the number of its run was on, or without.
            if self.rng.chance(600_000) {
                machine.kept = 0;
            }
            self.stats.clocks_lost += 1;
            self.rules.frames_may_be_invalid = true;
        }
        let clock = machine.clock;
        let incarnation = clock.unix_ms(self.now_us).max(machine.kept + 1);
        machine.kept = incarnation;
        self.net.started(node, run, self.now_us, &mut self.queue);
        let mut outside = Outside {
            now_us: self.now_us,
            net: &mut self.net,
            queue: &mut self.queue,
            stats: &mut self.stats,
            said: self.shape.options.trace.then_some(&mut self.said),
        };
        let process = Process::start(&self.shape, node, (run, incarnation), clock, &mut outside);
        self.say(format_args!(
            "node {node} starts, incarnation {}",
            process.incarnation
        ));
        self.oracle.started(node);
        self.processes[node] = Some(process);
    }

    fn undo(&mut self, undo: Undo) {
        self.schedule.pending -= 1;
        if !matches!(undo, Undo::Drained { .. }) {
            self.say(format_args!("{undo:?}"));
        }
        match undo {
            Undo::Crash { node } => self.crash(node, false),
            Undo::Start { node, clock_lost } => {
                self.start(node, clock_lost);
                self.stats.restarts += 1;
            }
            Undo::Resume { node } => {
                let over = self.processes[node]
                    .as_ref()
                    .is_some_and(|process| process.paused_until_us <= self.now_us);
                if over {
                    self.net.resumed(node);
                }
            }
            Undo::Slow | Undo::Stall => {}
            Undo::Drained { node, run } => self.look_at_drain(node, run),
            Undo::Undrain { node, run } => {
                if let Some(process) = self.processes[node].as_mut().filter(|p| p.run == run) {
                    process.order(Order::Undrain, self.now_us, &mut self.queue);
                }
            }
            Undo::Exit { node, run } => {
                if self.processes[node].as_ref().is_some_and(|p| p.run == run) {
                    self.exit(node);
                }
            }
            Undo::Heal | Undo::Cut => {
                self.schedule
                    .undo_cut(undo, self.now_us, &mut self.net, &mut self.queue);
            }
        }
    }

    fn scan(&mut self) {
        self.queue.put(self.now_us + SCAN_EVERY_US, Event::Scan);
        let calm = self.schedule.pending == 0 && !self.net.is_cut();
        match calm {
            true => {
                self.oracle.calm_since_us.get_or_insert(self.now_us);
            }
            false => self.oracle.calm_since_us = None,
        }
        let judged = self.oracle.scan(
            &self.processes,
            &self.shape,
            self.rules,
            self.now_us,
            &mut self.stats,
        );
        if let Err(failure) = judged {
            self.failure.get_or_insert(failure);
        }
        self.judge_packets();
    }

    /// Whether all is said: the failures have stopped, everything is equal everywhere, and traffic
    /// has gone on for a while since.
    fn is_over(&mut self) -> bool {
        let Some(quiet_us) = self.schedule.quiet_since_us else {
            return false;
        };
        // Looked at with the oracle's scans, which come often enough.
        let due =
            self.now_us >= quiet_us + AFTERMATH_US && self.now_us.is_multiple_of(SCAN_EVERY_US);
        if !due {
            return false;
        }
        let beyond = self.shape.options.faults.beyond;
        let flows = oracle::converged(&self.processes, self.rules, &mut self.stats);
        match flows.and_then(|()| common::agreed(&self.processes, &self.writes, beyond)) {
            Ok(()) => true,
            Err(lacking) => {
                if self.now_us >= quiet_us + self.shape.options.converge_us {
                    let what = format!("after the last failure: {lacking}");
                    self.fail(Invariant::NotConverged, what);
                }
                false
            }
        }
    }

    fn fail(&mut self, invariant: Invariant, what: String) {
        let at_us = self.now_us;
        self.failure.get_or_insert(Failure {
            invariant,
            at_us,
            what,
        });
    }

    fn note(&mut self, kind: u64, who: u64, frame: &[u8]) {
        let mut hash = fold(self.hash, self.now_us ^ kind << 56);
        hash = fold(hash, who);
        for chunk in frame.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = fold(hash, u64::from_le_bytes(word));
        }
        self.hash = hash;
        if self.shape.options.trace && self.trace.len() < TRACE_LINES {
            match kind {
                1 => {
                    let line = format!("node {} sends {}", who >> 8, describe(frame));
                    self.say(format_args!("{line}"));
                }
                3 => {
                    let line = format!("hosts {who} get {}", describe(frame));
                    self.say(format_args!("{line}"));
                }
                _ => {}
            }
        }
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        if self.shape.options.trace && self.trace.len() < TRACE_LINES {
            let (s, us) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
            self.trace.push(format!("{s:4}.{us:06} {line}"));
        }
    }

    /// Puts into the trace what every worker has counted and knows at the end.
    fn examine(&mut self) {
        use telemetry::counters::Counter as _;
        if !self.shape.options.trace {
            return;
        }
        for node in 0..self.processes.len() {
            let Some(process) = &self.processes[node] else {
                continue;
            };
            let mut lines = vec![format!("node {node}: {:?}", process.replicator().status(0))];
            for (worker, core) in process.workers.iter().enumerate() {
                let counters = core.worker.counters();
                let counted = engine::Counter::ALL
                    .iter()
                    .map(|counter| (counter.name(), counters.value(*counter)))
                    .filter(|(_, value)| *value > 0);
                let counted: Vec<String> = counted
                    .map(|(name, value)| format!("{name} {value}"))
                    .collect();
                lines.push(format!(
                    "node {node} worker {worker}: {}",
                    counted.join(", ")
                ));
                let table = core.worker.table();
                for id in (0..table.capacity()).filter_map(|place| table.at(place)) {
                    let entry = table.entry(id);
                    lines.push(format!(
                        "node {node} worker {worker} has {} {:?} {:?}",
                        entry.record.key, entry.record, entry.local
                    ));
                }
            }
            for line in lines {
                self.say(format_args!("{line}"));
            }
        }
    }

    fn count_processes(&mut self) {
        for node in 0..self.processes.len() {
            if let Some(process) = self.processes[node].take() {
                self.count(&process);
            }
        }
    }

    fn count(&mut self, process: &Process) {
        use engine::Counter;
        self.writes.over(process.run);
        let counters = process.replicator().counters();
        self.stats.frames_refused += counters.frames_invalid;
        self.stats.snapshots += counters.snapshots_done;
        self.stats.questions += counters.questions_asked;
        self.stats.questions_unanswered += counters.questions_unanswered;
        for core in &process.workers {
            let of = |counter| core.worker.counters().value(counter);
            self.stats.held += of(Counter::Held);
            self.stats.hold_deadlines +=
                of(Counter::DropHoldDeadline) + of(Counter::HoldReleasedAtDeadline);
            self.stats.changes_deferred += of(Counter::ChangesDeferred);
            self.stats.takeovers += core
                .shared
                .told
                .takeover_slots
                .load(std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// The worker to which a card would deliver a frame.
fn worker_for(frame: &[u8], workers: usize) -> usize {
    let Ok(p) = wire::parse(frame) else { return 0 };
    match p.net {
        Layer::V4 | Layer::V6 => {}
        _ => return 0,
    }
    let (sport, dport) = match p.proto {
        ip::TCP | ip::UDP => (p.sport, p.dport),
        _ => (p.icmp.id, p.icmp.id),
    };
    let (key, _) = FlowKey::new(p.src, p.dst, sport, dport, p.proto);
    worker_of(slot_of(&key), workers)
}

fn describe(frame: &[u8]) -> String {
    match wire::parse(frame) {
        Ok(p) if p.proto == ip::TCP => format!(
            "tcp {}:{} > {}:{} flags {:02x} seq {} ack {} len {}",
            wire::addr_to_ip(&p.src),
            p.sport,
            wire::addr_to_ip(&p.dst),
            p.dport,
            p.tcp.flags,
            p.tcp.seq,
            p.tcp.ack,
            p.tcp.payload_len
        ),
        Ok(p) => format!(
            "proto {} {}:{} > {}:{} icmp {} payload {:02x?}",
            p.proto,
            wire::addr_to_ip(&p.src),
            p.sport,
            wire::addr_to_ip(&p.dst),
            p.dport,
            p.icmp.kind,
            // Requests over UDP are numbered.
            frame
                .iter()
                .skip(p.payload.into())
                .take(2)
                .collect::<Vec<_>>(),
        ),
        Err(error) => format!("{error:?}"),
    }
}
