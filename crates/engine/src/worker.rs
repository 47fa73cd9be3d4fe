//! The worker's parts and its turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use flowtable::{FlowTable, Local};
use membership::{Distribution, MemberState, View};
use replication::{ToSync, ToWorker};
use rtrb::{Consumer, Producer};
use state::{FlowKey, FlowRecord, NodeSet, SLOTS, SlotSet};
use wire::{Addr, Mac, Parsed};

use crate::ask::Asks;
use crate::common::{Common, Used};
use crate::config::Config;
use crate::counters::{Counter, Counters};
use crate::detect::Detector;
use crate::digest::Digests;
use crate::flush::Flush;
use crate::hold::{HoldQueue, Out};
use crate::hops::{Hops, Routes};
use crate::instruct::{AgentLink, Awaited};
use crate::port::{BURST_MAX, Burst, PacketBuf, Port};
use crate::receive::{OwnAddresses, ParsedBurst};
use crate::reopen::Doubts;
use crate::shared::{NodeShared, Policy, SnapshotReader, WorkerShared};
use crate::sync::Jobs;

/// The time of one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Microseconds of a clock that never steps; above 0.
    pub us: u64,
    /// Unix time in milliseconds, for incarnations only.
    pub unix_ms: u64,
}

impl Now {
    pub(crate) const fn s(self) -> u32 {
        (self.us / 1_000_000) as u32
    }
}

/// From one worker to another of the same node.
#[derive(Debug)]
pub enum Cross<B> {
    /// A packet of a slot that the other worker owns, and the port on which it arrived.
    Packet(usize, B),
    /// A neighbour's address.
    Neighbour {
        /// The interface.
        interface: u8,
        /// Its IP address.
        address: Addr,
        /// Its Ethernet address.
        mac: Mac,
    },
}

/// A rule with `log = true` has decided on a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// The packet.
    pub query: policy::Query,
    /// What was decided.
    pub decision: policy::Decision,
}

/// A flow as the worker has it, for people.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FlowSeen {
    /// What the cluster knows of it.
    pub record: FlowRecord,
    /// What this worker knows of it.
    pub local: Local,
    /// Seconds since its last packet.
    pub idle_s: u32,
    /// Seconds since it was opened here or its first copy arrived.
    pub age_s: u32,
    /// Whether this node owns its slot.
    pub owned: bool,
    /// Whether this node handles packets of it.
    pub handled: bool,
    /// Whether its packets are being held.
    pub held: bool,
}

/// A part of the shard on its way to the control socket and back, so that the memory is made by
/// who asks.
#[derive(Debug, Default)]
pub struct FlowPage {
    /// Place in the shard to go on from; at the end, [`FlowPage::END`].
    pub cursor: usize,
    /// The flows found; filled up to the vector's capacity.
    pub flows: Vec<FlowSeen>,
}

impl FlowPage {
    /// The cursor after the last flow.
    pub const END: usize = usize::MAX;
}

/// A worker's ends of the rings. Rings to and from itself are absent.
#[derive(Debug)]
pub struct Links<B> {
    /// To the sync core.
    pub to_sync: Producer<ToSync>,
    /// From the sync core.
    pub from_sync: Consumer<ToWorker>,
    /// To the other workers, by their number.
    pub cross_to: Vec<Option<Producer<Cross<B>>>>,
    /// From the other workers, by their number.
    pub cross_from: Vec<Option<Consumer<Cross<B>>>>,
    /// Pages to be filled.
    pub pages_from: Consumer<FlowPage>,
    /// Filled pages.
    pub pages_to: Producer<FlowPage>,
    /// Decisions of rules that log.
    pub log: Producer<LogEntry>,
    /// To and from the second software entity, where there is one.
    pub agent: Option<AgentLink<B>>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker<P: Port> {
    pub(crate) config: Config,
    pub(crate) ports: Vec<PortSide<P>>,
    pub(crate) table: FlowTable,
    pub(crate) routes: Routes,
    pub(crate) hops: Hops<P::Buf>,
    pub(crate) hold: HoldQueue<P::Buf>,
    pub(crate) asks: Asks<P::Buf>,
    pub(crate) doubts: Doubts,
    /// The greatest incarnation that a peer has told of.
    pub(crate) incarnation_heard: u64,
    /// No packet is treated as a usual one.
    pub(crate) long_way: bool,
    pub(crate) counters: Counters,
    pub(crate) links: Links<P::Buf>,
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) node: Arc<NodeShared>,
    pub(crate) view: SnapshotReader<View>,
    pub(crate) policy: SnapshotReader<Policy>,
    pub(crate) common: SnapshotReader<Common>,
    /// The same, to be compared with the next.
    pub(crate) common_before: Arc<Common>,
    /// Raised with each change of the common state; flows judged at an earlier one are judged again.
    /// Never 0, which is that of flows that were not judged here. Of 16 bits: the sweep forgets old
    /// ones long before it comes around.
    pub(crate) common_epoch: u16,
    /// Expectations that were used up here and are not deleted yet.
    pub(crate) expectations_used: Used,
    /// The gateway's addresses on all interfaces.
    pub(crate) own_addresses: OwnAddresses,
    /// Absent while a burst is being handled.
    pub(crate) parsed: Option<ParsedBurst>,
    /// What of the view is asked per packet.
    pub(crate) ownership: Ownership,
    /// The last log number given.
    pub(crate) lsn: u64,
    /// What the current targets have acknowledged.
    pub(crate) acked_lsn: u64,
    pub(crate) jobs: Jobs,
    pub(crate) digests: Digests,
    pub(crate) flush: Flush,
    /// Answers to the sync core that found the ring full.
    pub(crate) unanswered: VecDeque<ToSync>,
    /// Synchronisations that an agent waits for.
    pub(crate) awaited: Awaited,
    /// Packets of the node's own that are being written.
    pub(crate) scratch: Box<[u8; wire::reply::FRAME_LEN_MAX]>,
    pub(crate) icmp_tokens: Tokens,
    /// The detector of scans and floods, when it is on.
    pub(crate) detector: Option<Detector>,
    pub(crate) housekeeping_us: u64,
    pub(crate) age_cursor: usize,
    pub(crate) owned_counted: u64,
    pub(crate) live_counted: u64,
    pub(crate) hop_cursor: u32,
    pub(crate) now: Now,
}

/// A port and what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct PortSide<P: Port> {
    pub(crate) port: P,
    pub(crate) mac: Mac,
    pub(crate) out: Burst<P::Buf>,
}

/// The view, seen from this node, as arrays and bits.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(crate) owned: SlotSet,
    /// Slots of which this node may hold copies.
    pub(crate) kept: SlotSet,
    /// Since when each owned slot is owned, in seconds: adopted flows were not idle before that
    /// as far as this node can know.
    pub(crate) since_s: Box<[u32; SLOTS]>,
    /// When this worker last stood still, its view had run out, or a node came back that may have
    /// served its flows.
    pub(crate) lapsed_s: u32,
    /// The view's number of the last such return.
    pub(crate) reunions: u64,
    /// The latest of all these.
    pub(crate) since_last_s: u32,
    /// Slots adopted in the last takeover.
    pub(crate) adopted: SlotSet,
    /// Whether a packet of an adopted flow is still awaited.
    pub(crate) first_forward_awaited: bool,
    /// Since when the view is as it is.
    pub(crate) changed_s: u32,
    /// Nodes that changes are sent to: this node's targets, with `ecmp` all others.
    pub(crate) targets: NodeSet,
}

/// A token bucket of one second's depth.
#[derive(Debug)]
pub(crate) struct Tokens {
    per_s: u64,
    filled_us: u64,
    /// In millionths.
    level: u64,
}

impl Tokens {
    pub(crate) fn new(per_s: u32) -> Self {
        let per_s = u64::from(per_s);
        Self {
            per_s,
            filled_us: 0,
            level: per_s * 1_000_000,
        }
    }

    /// Fills up to now; tells how many there are.
    pub(crate) fn fill(&mut self, now_us: u64) -> u64 {
        let passed = now_us.saturating_sub(self.filled_us).min(1_000_000);
        self.filled_us = now_us;
        self.level = (self.level + passed * self.per_s).min(self.per_s * 1_000_000);
        self.level / 1_000_000
    }

    pub(crate) fn take(&mut self) -> bool {
        match self.level.checked_sub(1_000_000) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }
}

/// Interfaces, IP and Ethernet addresses of neighbours.
type Learned = ArrayVec<(u8, Addr, Mac), MESSAGES_PER_TURN>;

/// A gap between two turns after which peers may have taken this node for dead.
const LAPSE_US: u64 = 20_000;
/// Time between two turns' housekeeping.
const HOUSEKEEPING_US: u64 = 1_000;
/// Messages of each other party that one turn takes.
const MESSAGES_PER_TURN: usize = 32;
/// Places of the shard that one turn looks at for a page.
const PLACES_PER_PAGE_TURN: usize = 4096;

impl<P: Port> Worker<P> {
    /// A worker over its queues. All memory that it will ever use is allocated here.
    ///
    /// # Panics
    /// If the configuration names a port that is not in `ports`, or more than 255 interfaces.
    pub fn new(
        config: Config,
        ports: Vec<P>,
        links: Links<P::Buf>,
        shared: Arc<WorkerShared>,
        node: Arc<NodeShared>,
        now: Now,
    ) -> Self {
        assert!(
            config.interfaces.len() <= 255,
            "interfaces are numbered with a byte"
        );
        assert!(
            config.interfaces.iter().all(|i| i.port < ports.len()),
            "unknown port"
        );
        assert!(
            (1..=BURST_MAX).contains(&config.burst),
            "burst is 1 to {BURST_MAX}"
        );
        let ports: Vec<_> = ports
            .into_iter()
            .map(|port| PortSide {
                mac: Mac(port.mac()),
                port,
                out: Burst::new(),
            })
            .collect();
        let (view, policy) = (node.view.reader(), node.policy.reader());
        let common = node.common.reader();
        let mut worker = Self {
            own_addresses: OwnAddresses::new(&config.interfaces),
            parsed: Some(Box::new([Parsed::EMPTY; BURST_MAX])),
            table: FlowTable::with_capacity(config.capacity, config.seed),
            routes: Routes::new(&config.interfaces, &config.routes),
            hops: Hops::new(config.hops, &config.neighbours),
            hold: HoldQueue::with_capacity(config.hold.capacity),
            doubts: Doubts::new(config.seed),
            incarnation_heard: 0,
            long_way: false,
            asks: Asks::with_capacity(
                match config.distribution {
                    Distribution::Ecmp => config.hold.capacity,
                    Distribution::Filter => 0,
                },
                config.seed,
            ),
            counters: Counters::default(),
            jobs: Jobs::new(config.resync_rate),
            digests: Digests::new(),
            flush: Flush::new(ports.len()),
            unanswered: VecDeque::with_capacity(MESSAGES_PER_TURN),
            awaited: Awaited::new(),
            icmp_tokens: Tokens::new(config.icmp_rate),
            detector: config
                .detect
                .as_ref()
                .map(|d| Detector::new(d, config.seed)),
            scratch: Box::new([0; wire::reply::FRAME_LEN_MAX]),
            ownership: Ownership {
                owned: SlotSet::empty(),
                kept: SlotSet::empty(),
                since_s: Box::new([0; SLOTS]),
                lapsed_s: 0,
                reunions: 0,
                since_last_s: 0,
                adopted: SlotSet::empty(),
                first_forward_awaited: false,
                changed_s: 0,
                targets: NodeSet::EMPTY,
            },
            lsn: 0,
            acked_lsn: 0,
            housekeeping_us: 0,
            age_cursor: 0,
            owned_counted: 0,
            live_counted: 0,
            hop_cursor: 0,
            config,
            ports,
            links,
            shared,
            node,
            view,
            policy,
            common_before: common.value().clone(),
            common,
            common_epoch: 1,
            expectations_used: Used::new(),
            now,
        };
        worker.take_up_view();
        worker.share_detection();
        worker
    }

    /// One turn. Returns how much there was to do: packets and messages; 0 means that the caller may
    /// rest according to its idle policy.
    pub fn poll(&mut self, now: Now) -> usize {
        let lapsed = now.us > self.now.us + LAPSE_US || !self.view_is_valid();
        self.now = now;
        if self.view.refresh() {
            self.take_up_view();
            self.share_detection();
        }
        if lapsed {
            self.distrust_own_flows();
        }
        self.policy.refresh();
        self.take_up_common();
        let mut work = self.take_messages();
        work += self.release();
        work += self.take_instructions();
        self.flush
            .look(self.node.flush_asked.load(Ordering::Acquire));
        for port in 0..self.ports.len() {
            let mut burst = Burst::new();
            work += self.ports[port].port.rx_burst(&mut burst);
            self.flush.received(port, burst.len(), self.config.burst);
            if !burst.is_empty() {
                self.receive(port, &mut burst, false);
            }
        }
        work += self.take_crossed();
        if now.us >= self.housekeeping_us {
            self.housekeeping_us = now.us + HOUSEKEEPING_US;
            self.keep_house();
        }
        work += self.run_jobs();
        work += self.fill_page();
        work += self.go_on_flushing();
        work += self.go_on_synchronising();
        for port in 0..self.ports.len() {
            self.flush(port);
        }
        work
    }

    /// From now on every packet takes the long way: to see in tests, and to measure, what the short one does.
    pub fn take_the_long_way(&mut self) {
        self.long_way = true;
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The worker's shard.
    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    /// The worker's ports.
    pub fn ports_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.ports.iter_mut().map(|side| &mut side.port)
    }

    /// How many packets wait for what other nodes know of their flows.
    pub fn asking(&self) -> usize {
        self.asks.waiting()
    }

    /// How many packets are held.
    pub fn held(&self) -> usize {
        self.hold.len()
    }

    /// Notes what a new view means for this node. Ownership is derived from the slot, so this is all
    /// that a takeover costs, however many flows there are.
    fn take_up_view(&mut self) {
        let view = self.view.value();
        let me = self.config.node;
        let first = self.ownership.changed_s == 0 && self.ownership.owned.is_empty();
        let now_s = self.now.s().max(1);
        self.digests.view(me, view);
        let mut adopted = SlotSet::empty();
        let mut owned = SlotSet::empty();
        let mut kept = SlotSet::empty();
        for slot in state::Slot::all() {
            if view.owns(me, slot) {
                owned.insert(slot);
                if !self.ownership.owned.contains(slot) {
                    adopted.insert(slot);
                    if !first {
                        self.ownership.since_s[slot.index()] = now_s;
                        self.ownership.since_last_s = now_s;
                    }
                }
            }
            if view.holds(me, slot) {
                kept.insert(slot);
            }
        }
        // A node that joins is sent what it will hold before the view says that it holds it.
        if view
            .member(me)
            .is_none_or(|m| m.state != MemberState::Active)
        {
            kept = SlotSet::full();
        }
        if !adopted.is_empty() && !first {
            let told = &self.shared.told;
            told.first_forward_us.store(0, Ordering::Relaxed);
            told.takeover_slots
                .store(adopted.len() as u64, Ordering::Relaxed);
            told.takeover_us.store(self.now.us, Ordering::Relaxed);
            told.takeover_epoch.store(view.epoch, Ordering::Release);
            self.ownership.first_forward_awaited = true;
            self.ownership.adopted = adopted;
        }
        self.ownership.targets = match self.config.distribution {
            Distribution::Filter => view.targets.get(me.index()).copied().unwrap_or_default(),
            Distribution::Ecmp => view.others(me),
        };
        self.ownership.owned = owned;
        self.ownership.kept = kept;
        self.ownership.changed_s = now_s;
        let told = &self.shared.told;
        told.view_epoch.store(view.epoch, Ordering::Release);
        if std::mem::replace(&mut self.ownership.reunions, view.reunions) != view.reunions {
            self.distrust_own_flows();
        }
    }

    /// This worker stood still, its view had run out, or a node is back that was apart: others may
    /// have served its flows meanwhile, even if no view that it saw says so.
    #[cold]
    fn distrust_own_flows(&mut self) {
        if self.table.is_empty() {
            // Nor are those that it opens from now on, in this very second.
            return;
        }
        // Apart from `since_s`: it does not make idle flows younger.
        let now_s = self.now.s().max(1);
        self.ownership.lapsed_s = now_s;
        self.ownership.since_last_s = now_s;
    }

    /// Whether the view may be acted on: see [`NodeShared::view_valid_until_us`].
    #[inline]
    pub(crate) fn view_is_valid(&self) -> bool {
        self.now.us <= self.node.view_valid_until_us.load(Ordering::Relaxed)
            || state::mutation::is(state::mutation::Mutation::TrustOldView)
    }

    fn take_messages(&mut self) -> usize {
        let mut taken = 0;
        while taken < MESSAGES_PER_TURN && self.unanswered.is_empty() {
            let Ok(message) = self.links.from_sync.pop() else {
                break;
            };
            taken += 1;
            match message {
                ToWorker::Apply {
                    token,
                    peer,
                    records,
                } => self.apply(token, peer, records),
                ToWorker::Job { job, target, slots } => self.jobs.add(job, target, *slots),
                ToWorker::Lookup { token, peer, key } => self.look_up(token, peer, &key),
                ToWorker::Answer { token, found } => self.answered(token, found),
                ToWorker::Cancel { job } => self.jobs.cancel(job),
                ToWorker::Digest { round, digests } => self.tell_digests(round, digests),
                ToWorker::Compare { token, digests } => self.compare(token, digests),
                ToWorker::Listen { peer } => self.digests.listen(peer),
            }
        }
        taken
    }

    fn take_crossed(&mut self) -> usize {
        let mut work = 0;
        for other in 0..self.links.cross_from.len() {
            for port in 0..self.ports.len() {
                let (mut burst, learned) = self.crossed_burst(other, port);
                for (interface, address, mac) in &learned {
                    let us = self.now.us;
                    if let Some(number) = self.hops.learn(*interface, *address, *mac, true, us) {
                        self.send_pending(number);
                    }
                }
                work += burst.len() + learned.len();
                if !burst.is_empty() {
                    self.receive(port, &mut burst, true);
                }
            }
        }
        work
    }

    /// What another worker handed over: packets that arrived on one port, up to the first one
    /// that arrived on another, and neighbours on the way.
    fn crossed_burst(&mut self, other: usize, port: usize) -> (Burst<P::Buf>, Learned) {
        let (mut burst, mut learned) = (Burst::new(), ArrayVec::new());
        let Some(ring) = &mut self.links.cross_from[other] else {
            return (burst, learned);
        };
        while burst.len() < self.config.burst && !learned.is_full() {
            if matches!(ring.peek(), Ok(Cross::Packet(from, _)) if *from != port) {
                break;
            }
            match ring.pop() {
                Ok(Cross::Packet(_, buf)) => burst.push(buf),
                Ok(Cross::Neighbour {
                    interface,
                    address,
                    mac,
                }) => {
                    learned.push((interface, address, mac));
                }
                Err(_) => break,
            }
        }
        (burst, learned)
    }

    /// Lets go what is acknowledged, or too late.
    fn release(&mut self) -> usize {
        if !self.view_is_valid() {
            // What was held before a pause waits until it is known again who owns what. What has been
            // acknowledged since counts then too: no packet may go before those that wait.
            return 0;
        }
        self.acked_lsn = self.shared.acked_lsn.load(Ordering::Acquire);
        // Apart from the worker, so that each packet can go as it comes out; nothing is held meanwhile.
        let mut hold = std::mem::replace(&mut self.hold, HoldQueue::with_capacity(0));
        let released = hold.release(self.acked_lsn, self.now.us, |held, out| {
            let release = match (out, self.config.hold.at_deadline) {
                (Out::Acknowledged, _) => {
                    self.counters.count(Counter::HoldReleased);
                    true
                }
                (Out::Deadline, crate::AtDeadline::Release) => {
                    self.counters.count(Counter::HoldReleasedAtDeadline);
                    true
                }
                (Out::Deadline, crate::AtDeadline::Drop) => {
                    self.counters.count(Counter::DropHoldDeadline);
                    false
                }
            };
            if release {
                self.send_to_hop(held.buf, held.hop);
            }
        });
        self.hold = hold;
        released + self.end_overdue()
    }

    fn keep_house(&mut self) {
        self.sweep();
        self.tend_hops();
        let told = &self.shared.told;
        told.alive_us.store(self.now.us, Ordering::Relaxed);
        told.held.store(self.hold.len() as u64, Ordering::Relaxed);
        told.deferred
            .store(!self.jobs.dirty.is_empty(), Ordering::Relaxed);
        self.counters.publish();
    }

    /// Gives a port's waiting packets to the device.
    pub(crate) fn flush(&mut self, port: usize) {
        let side = &mut self.ports[port];
        if side.out.is_empty() {
            return;
        }
        let octets = |bufs: &Burst<P::Buf>| {
            let sizes = bufs.iter().map(|b| PacketBuf::data(b).len() as u64);
            sizes.sum::<u64>()
        };
        let all = octets(&side.out);
        let sent = side.port.tx_burst(&mut side.out);
        self.counters.add(Counter::TxPackets, sent as u64);
        let left = if side.out.is_empty() {
            0
        } else {
            octets(&side.out)
        };
        self.counters.add(Counter::TxBytes, all - left);
    }

    /// Fills a page for the control socket, a part of the shard per turn.
    fn fill_page(&mut self) -> usize {
        if self.links.pages_to.is_full() {
            return 0;
        }
        let Ok(mut page) = self.links.pages_from.pop() else {
            return 0;
        };
        let end = (page.cursor + PLACES_PER_PAGE_TURN).min(self.table.capacity());
        while page.cursor < end && page.flows.len() < page.flows.capacity() {
            if let Some(id) = self.table.at(page.cursor) {
                let entry = self.table.entry(id);
                if entry.is_alive() {
                    let slot = state::slot_of(&entry.record.key);
                    let now_s = self.now.s();
                    page.flows.push(FlowSeen {
                        record: entry.record,
                        local: entry.local,
                        idle_s: now_s.saturating_sub(entry.local.seen_s),
                        age_s: now_s.saturating_sub(entry.local.created_s),
                        owned: self.ownership.owned.contains(slot),
                        handled: entry.local.flags.is_handler(),
                        held: entry.local.hold_lsn > self.acked_lsn,
                    });
                }
            }
            page.cursor += 1;
        }
        if page.cursor >= self.table.capacity() {
            page.cursor = FlowPage::END;
        }
        // There was room a moment ago, and nobody else pushes.
        let _ = self.links.pages_to.push(page);
        1
    }

    /// Notes that a packet of a known flow goes on, for the time of the takeover.
    #[inline]
    pub(crate) fn note_first_forward(&mut self, key: &FlowKey) {
        if self.ownership.first_forward_awaited
            && self.ownership.adopted.contains(state::slot_of(key))
        {
            self.ownership.first_forward_awaited = false;
            self.shared
                .told
                .first_forward_us
                .store(self.now.us, Ordering::Release);
        }
    }
}
