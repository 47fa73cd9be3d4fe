//! Two workers of a node in the thick of it, for a hundred seconds of their time: known and new flows, held packets,
//! crossing, ageing, views, rules, blocks, copies, digests, scans, questions of people and agents. No turn uses
//! the heap, neither to ask for memory nor to give it back. That it makes no system call either is looked at on
//! a real daemon: `tests/tests/spin.rs`.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::watch::{Heap, quiet, watched};
use common::*;
use engine::port::{BufFull, Burst, PacketBuf, Port};
use engine::{
    AgentLink, AtDeadline, Counter, Cross, Detect, Distribution, FlowChange, FlowPage, Hold,
    Instruct, Instruction, Links, LogEntry, Neighbour, NodeShared, Notice, Now, Policy, WhenAlone,
    Worker, WorkerShared,
};
use policy::SyncPolicy;
use replication::{JobId, JobTarget, SlotDigest, ToSync, ToWorker};
use rtrb::{Consumer, Producer, RingBuffer};
use state::{
    Block, BlockReason, CommonKey, CommonKind, CommonMap, CommonValue, FlowRecord, HybridClock,
    Life, Net, Slot, SlotSet, v4_mapped, worker_of,
};
use wire::tcp::{ACK, FIN, PSH, SYN};
use wire::{Mac, build};

/// Headroom, and the longest frame with it.
const HEADROOM: usize = 32;
const ROOM: usize = 512;
/// As packet buffers are to a device: made at the start, and back in the pool when they are dropped.
type Bytes = Box<[u8; ROOM]>;
type Pool = Rc<RefCell<Vec<Bytes>>>;

struct PoolBuf {
    /// Absent only in the end.
    bytes: Option<Bytes>,
    start: usize,
    end: usize,
    pool: Pool,
}

impl PoolBuf {
    fn take(pool: &Pool, frame: &[u8]) -> Option<Self> {
        let mut bytes = pool.borrow_mut().pop()?;
        bytes[HEADROOM..][..frame.len()].copy_from_slice(frame);
        Some(Self {
            bytes: Some(bytes),
            start: HEADROOM,
            end: HEADROOM + frame.len(),
            pool: pool.clone(),
        })
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        // The pool had room for it when it was made.
        self.pool.borrow_mut().extend(self.bytes.take());
    }
}

impl PacketBuf for PoolBuf {
    fn data(&self) -> &[u8] {
        &self.bytes.as_ref().expect("still there")[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut().expect("still there")[self.start..self.end]
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }

    fn set_len(&mut self, len: usize) -> Result<(), BufFull> {
        if self.start + len > ROOM {
            return Err(BufFull { wanted: len });
        }
        self.end = self.start + len;
        Ok(())
    }

    fn grow_front(&mut self, n: usize) -> Result<(), BufFull> {
        self.start = self.start.checked_sub(n).ok_or(BufFull { wanted: n })?;
        Ok(())
    }

    fn shrink_front(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "the frame is shorter than {n}");
        self.start += n;
    }
}

struct PoolPort {
    arriving: VecDeque<PoolBuf>,
    sent: u64,
    pool: Pool,
    mac: Mac,
}

impl Port for PoolPort {
    type Buf = PoolBuf;

    fn rx_burst(&mut self, out: &mut Burst<PoolBuf>) -> usize {
        let count = self.arriving.len().min(out.remaining_capacity()).min(32);
        out.extend(self.arriving.drain(..count));
        count
    }

    fn tx_burst(&mut self, bufs: &mut Burst<PoolBuf>) -> usize {
        let count = bufs.len();
        bufs.clear();
        self.sent += count as u64;
        count
    }

    fn alloc(&mut self) -> Option<PoolBuf> {
        PoolBuf::take(&self.pool, &[])
    }

    fn mac(&self) -> [u8; 6] {
        self.mac.0
    }

    fn link_up(&self) -> bool {
        true
    }
}

/// A worker with the other ends of its rings.
struct Side {
    worker: Worker<PoolPort>,
    shared: Arc<WorkerShared>,
    from_worker: Consumer<ToSync>,
    to_worker: Producer<ToWorker>,
    pages_to: Producer<FlowPage>,
    pages_from: Consumer<FlowPage>,
    log: Consumer<LogEntry>,
    agent_to: Producer<Instruct<PoolBuf>>,
    agent_from: Consumer<Notice<PoolBuf>>,
    /// What was told last of each flow, and could be a peer's word as well.
    told: Vec<FlowRecord>,
    /// Questions to other nodes that wait for an answer.
    asked: Vec<u64>,
    lsn: u64,
    /// Vectors that came back.
    spare: Vec<Vec<(FlowRecord, u16)>>,
    answers: [u64; 5],
}

/// Answers of a worker that are counted.
const APPLIED: usize = 0;
const DIGESTS: usize = 1;
const COMPARED: usize = 2;
const JOB_DONE: usize = 3;
const PAGES: usize = 4;

struct Node {
    sides: Vec<Side>,
    shared: Arc<NodeShared>,
    pool: Pool,
    now_us: u64,
    heap: Heap,
    map: CommonMap,
    clock: HybridClock,
    epoch: u64,
}

impl Node {
    fn new(distribution: Distribution, workers: usize) -> Self {
        let pool: Pool = Rc::new(RefCell::new(Vec::with_capacity(4_096)));
        let buffers = std::iter::repeat_with(|| Box::new([0; ROOM]));
        pool.borrow_mut().extend(buffers.take(4_096));
        let shared = Arc::new(NodeShared::new(
            view(1, |_| Some(ME), &[PEER]),
            Policy::new(&rules(1, setup(distribution, 0, 1).rules)),
        ));
        let mut cross_to: Vec<Vec<_>> = (0..workers).map(|_| vec![]).collect();
        let mut cross_from: Vec<Vec<_>> = (0..workers).map(|_| vec![]).collect();
        for (from, to_all) in cross_to.iter_mut().enumerate() {
            for (to, from_all) in cross_from.iter_mut().enumerate() {
                let ring = (from != to).then(|| RingBuffer::<Cross<PoolBuf>>::new(64));
                let (producer, consumer) = ring.unzip();
                to_all.push(producer);
                from_all.push(consumer);
            }
        }
        let rings = cross_to.into_iter().zip(cross_from).enumerate();
        let sides = rings.map(|(worker, (cross_to, cross_from))| {
            let (to_sync, from_worker) = RingBuffer::new(256);
            let (to_worker, from_sync) = RingBuffer::new(64);
            let (pages_to, pages_in) = RingBuffer::new(1);
            let (pages_out, pages_from) = RingBuffer::new(1);
            let (log_to, log) = RingBuffer::new(4);
            let (agent_to, instructions) = RingBuffer::new(8);
            let (notices, agent_from) = RingBuffer::new(64);
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
            let mut config = setup(distribution, worker, workers).config();
            // So that much grows old in little time.
            config.timeouts.udp_new = 2;
            config.timeouts.udp_stream = 3;
            config.timeouts.tcp = [2, 2, 5, 2, 2, 2, 1];
            config.timeouts.tombstone = 2;
            config.refresh_s = 1;
            let told = Arc::new(WorkerShared::default());
            let ports = GATEWAY.map(|mac| PoolPort {
                arriving: VecDeque::with_capacity(4_096),
                sent: 0,
                pool: pool.clone(),
                mac,
            });
            let now = Now {
                us: 1_000_000,
                unix_ms: 1_700_000_000_000,
            };
            Side {
                worker: Worker::new(
                    config,
                    ports.into(),
                    links,
                    told.clone(),
                    shared.clone(),
                    now,
                ),
                shared: told,
                from_worker,
                to_worker,
                pages_to,
                pages_from,
                log,
                agent_to,
                agent_from,
                told: vec![],
                asked: vec![],
                lsn: 0,
                spare: vec![],
                answers: [0; 5],
            }
        });
        Self {
            sides: sides.collect(),
            shared,
            pool,
            now_us: 1_000_000,
            heap: Heap::AskedAndFreed,
            map: CommonMap::new(),
            clock: HybridClock::new(node(ME)),
            epoch: 1,
        }
    }

    /// A frame from the host behind a port, at one of the workers.
    fn put(&mut self, worker: usize, port: usize, frame: Vec<u8>) {
        let (from, ecmp) = ([CLIENT, SERVER][port], self.is_ecmp());
        let to = if ecmp { GATEWAY[port] } else { CLUSTER };
        let frame = build::padded(build::with_macs(frame, to, from));
        // An empty pool loses packets, as it does everywhere.
        if let Some(buf) = PoolBuf::take(&self.pool, &frame) {
            let mut ports = self.sides[worker].worker.ports_mut();
            ports.nth(port).expect("two ports").arriving.push_back(buf);
        }
    }

    fn is_ecmp(&self) -> bool {
        self.shared.view.load().owner[0] == Some(node(PEER))
    }

    /// One turn of each worker, a millisecond later.
    fn turn(&mut self) {
        self.now_us += 1_000;
        let now = Now {
            us: self.now_us,
            unix_ms: 1_700_000_000_000 + self.now_us / 1_000,
        };
        for side in &mut self.sides {
            quiet(self.heap, || side.worker.poll(now));
        }
    }

    /// Takes what the workers say, as sync core, control socket and agent. Whoever is slow takes nothing.
    fn listen(&mut self, acknowledge: bool) {
        for side in &mut self.sides {
            while let Ok(message) = side.from_worker.pop() {
                match message {
                    ToSync::Change { lsn, record, .. } => {
                        side.lsn = lsn;
                        side.told.push(record);
                    }
                    ToSync::Applied { records, .. } => {
                        side.spare.push(records);
                        side.answers[APPLIED] += 1;
                    }
                    ToSync::Digests { digests, .. } => {
                        side.answers[DIGESTS] += u64::from(!digests.is_empty());
                    }
                    ToSync::Compared { .. } => side.answers[COMPARED] += 1,
                    ToSync::JobDone { .. } => side.answers[JOB_DONE] += 1,
                    ToSync::Ask { token, .. } => side.asked.push(token),
                    ToSync::Snapshot { .. }
                    | ToSync::Found { .. }
                    | ToSync::Detected { .. }
                    | ToSync::UsedUp { .. } => {}
                }
            }
            if acknowledge {
                side.shared.acked_lsn.store(side.lsn, Ordering::Release);
            }
            side.told.drain(..side.told.len().saturating_sub(256));
            while side.log.pop().is_ok() {}
            while let Ok(notice) = side.agent_from.pop() {
                // It goes on as it came.
                if let Notice::Packet { port, buf, .. } = notice {
                    let instruction = Instruction::Deliver { port, buf };
                    let _ = side.agent_to.push(Instruct {
                        token: 1,
                        instruction,
                    });
                }
            }
            side.answers[PAGES] += u64::from(side.pages_from.pop().is_ok());
        }
    }

    fn tell(&mut self, worker: usize, message: ToWorker) {
        let _ = self.sides[worker].to_worker.push(message);
    }

    fn block(&mut self, host: [u8; 4]) {
        let key = CommonKey::Block(Net {
            addr: v4_mapped(host),
            len: 128,
        });
        let block = Block {
            reason: BlockReason::Operator,
            note: String::new(),
        };
        let stamp = self.clock.now(1);
        let value = CommonValue::Block(block);
        self.map.put(key, value, None, stamp, 0).expect("room");
        let kinds = [CommonKind::Block].into_iter().collect();
        let next = self.shared.common.load().rebuild(&self.map, kinds);
        self.shared.common.publish(Arc::new(next));
    }

    fn publish_view(&mut self, owner: impl Fn(Slot) -> Option<u8>) {
        self.epoch += 1;
        let next = view(self.epoch, owner, &[PEER]);
        self.shared.view.publish(Arc::new(next));
    }

    fn count(&self, counter: Counter) -> u64 {
        let sides = self.sides.iter();
        sides.map(|s| s.worker.counters().value(counter)).sum()
    }

    #[track_caller]
    fn has_seen(&self, counters: &[Counter]) {
        let missing: Vec<_> = counters.iter().filter(|c| self.count(**c) == 0).collect();
        assert!(missing.is_empty(), "did not happen: {missing:?}");
    }
}

fn setup(distribution: Distribution, worker: usize, workers: usize) -> Setup {
    let mut logged = allow("logged", &["udp/9500"], SyncPolicy::Async);
    logged.log = true;
    let neighbour = |interface, address, mac| Neighbour {
        interface,
        address: ip(address),
        mac,
    };
    Setup {
        capacity: 512,
        distribution,
        worker,
        workers,
        rules: [Setup::default().rules, vec![logged]].concat(),
        neighbours: vec![
            neighbour(0, "10.1.0.10", CLIENT),
            neighbour(1, "10.2.0.10", SERVER),
        ],
        detect: Some(Detect {
            scan_ports: 100,
            flood_syns: 200,
            window_s: 2,
            except: vec![],
        }),
        hold: Hold {
            capacity: 64,
            deadline_us: 20_000,
            at_deadline: match distribution {
                Distribution::Filter => AtDeadline::Release,
                Distribution::Ecmp => AtDeadline::Drop,
            },
            alone: WhenAlone::Forward,
        },
        ..Setup::default()
    }
}

/// A linear congruential generator (D. Knuth's MMIX): the same traffic each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Packets of all kinds, at either worker.
fn traffic(node: &mut Node, random: &mut Random) {
    for _ in 0..random.below(40) {
        let worker = random.below(node.sides.len() as u64) as usize;
        let client = at(&format!("10.1.0.10:{}", 20_000 + random.below(3_000)));
        match random.below(12) {
            // A host that does not answer: its packets wait, then the sender hears of it.
            0 => {
                let silent = at(&format!("10.2.0.{}:9000", 100 + random.below(20)));
                node.put(worker, INSIDE, build::udp(client, silent, b"anybody?"));
            }
            1..=4 => {
                let port = [9_000, 9_001, 9_500, 7_000, 23, 53][random.below(6) as usize];
                let server = at(&format!("10.2.0.10:{port}"));
                let (from, frame) = match random.below(3) {
                    0 => (OUTSIDE, build::udp(server, client, b"answer")),
                    _ => (INSIDE, build::udp(client, server, b"question")),
                };
                node.put(worker, from, frame);
            }
            5 => {
                let echo = build::icmp_echo(client.ip(), ip("10.2.0.10"), true, 7, 1, b"ping");
                node.put(worker, INSIDE, echo);
            }
            _ => {
                let port = if random.below(30) == 0 { 23 } else { 80 };
                let server = at(&format!("10.2.0.10:{port}"));
                let (flags, data): (u8, &[u8]) = match random.below(8) {
                    0..=2 => (SYN, b""),
                    3 => (FIN | ACK, b""),
                    4 => (ACK | PSH, b"GET /"),
                    _ => (ACK, b""),
                };
                let (from, frame) = match (flags, random.below(2)) {
                    (SYN, 0) => (
                        OUTSIDE,
                        build::tcp(server, client, SYN | ACK, 500, 101, b""),
                    ),
                    (SYN, _) => (INSIDE, build::tcp(client, server, SYN, 100, 0, b"")),
                    (_, 0) => (OUTSIDE, build::tcp(server, client, flags, 501, 101, data)),
                    _ => (INSIDE, build::tcp(client, server, flags, 101, 501, data)),
                };
                node.put(worker, from, frame);
            }
        }
    }
}

/// What a peer, an operator and an agent want of the workers, now and then.
fn wishes(node: &mut Node, random: &mut Random, turn: u64) {
    let workers = node.sides.len();
    let worker = random.below(workers as u64) as usize;
    match turn % 97 {
        // A peer tells of flows: the same later, ended, or begun anew.
        3 | 40 | 70 => {
            let mut records = node.sides[worker].spare.pop().unwrap_or_default();
            for record in node.sides[worker].told.iter().rev().take(16) {
                let mut record = *record;
                match random.below(4) {
                    0 => record.life = Life::Dead,
                    1 => record.incarnation += 1,
                    2 => record.mark.version += 1,
                    _ => {}
                }
                records.push((record, 0));
            }
            node.tell(
                worker,
                ToWorker::Apply {
                    token: 1,
                    peer: common::node(PEER),
                    records,
                },
            );
        }
        10 => node.tell(
            worker,
            ToWorker::Digest {
                round: turn,
                digests: Vec::with_capacity(state::SLOTS),
            },
        ),
        20 => {
            let mine = Slot::all().filter(|slot| worker_of(*slot, workers) == worker);
            let digests = mine.map(|slot| SlotDigest {
                slot,
                sum: 7,
                differs: false,
            });
            let digests = digests.collect();
            node.tell(worker, ToWorker::Compare { token: 1, digests });
        }
        30 => node.tell(
            worker,
            ToWorker::Listen {
                peer: common::node(PEER),
            },
        ),
        35 => {
            if let Some(record) = node.sides[worker].told.last() {
                let (peer, key) = (common::node(PEER), record.key);
                node.tell(
                    worker,
                    ToWorker::Lookup {
                        token: 1,
                        peer,
                        key,
                    },
                );
            }
        }
        50 => {
            let _ = node.sides[worker].pages_to.push(FlowPage {
                cursor: 0,
                flows: Vec::with_capacity(128),
            });
        }
        60..=62 => agent(node, worker, random),
        90 => node.shared.flush_asked.store(turn, Ordering::Release),
        _ => {}
    }
}

fn agent(node: &mut Node, worker: usize, random: &mut Random) {
    let Some(key) = node.sides[worker].told.last().map(|record| record.key) else {
        return;
    };
    let instruction = match random.below(4) {
        0 => Instruction::Modify {
            key,
            change: FlowChange::Mark(random.below(9) as u32),
        },
        1 => Instruction::Synchronise { key, hold: true },
        2 => Instruction::Modify {
            key,
            change: FlowChange::End,
        },
        _ => Instruction::Divert { key, on: true },
    };
    let _ = node.sides[worker].agent_to.push(Instruct {
        token: 9,
        instruction,
    });
}

#[test]
fn a_busy_node_uses_no_heap_in_its_turns() {
    let mut node = Node::new(Distribution::Filter, 2);
    let mut random = Random(0x5eed);
    for turn in 0..100_000u64 {
        if turn < 90_000 {
            traffic(&mut node, &mut random);
        }
        wishes(&mut node, &mut random, turn);
        match turn % 9_001 {
            // Half of the slots go to the peer, and come back.
            3_000 => node.publish_view(|slot| Some([ME, PEER][slot.index() / 2 % 2])),
            3_500 => node.publish_view(|_| Some(ME)),
            5_000 => {
                let generation = turn as u32;
                let rules = rules(generation, setup(Distribution::Filter, 0, 2).rules);
                node.shared.policy.publish(Arc::new(Policy::new(&rules)));
            }
            6_000 => node.block([10, 2, 0, (turn % 100) as u8 + 101]),
            _ => {}
        }
        node.turn();
        // The sync core stands still now and then, so that rings fill and packets are late.
        if turn % 5_000 > 400 {
            node.listen(turn % 3 == 0);
        }
    }
    node.has_seen(&[
        Counter::Forwarded,
        Counter::FlowOpened,
        Counter::FlowExpired,
        Counter::FlowReplaced,
        Counter::Held,
        Counter::HoldReleased,
        Counter::HoldReleasedAtDeadline,
        Counter::Crossed,
        Counter::Changes,
        Counter::ChangesDeferred,
        Counter::ReplicasApplied,
        Counter::DropNotOwner,
        Counter::DropHopUnresolved,
        Counter::ArpRequestsSent,
        Counter::IcmpErrorsSent,
        Counter::TcpResetsSent,
        Counter::DropDenied,
        Counter::DropRejected,
        Counter::DropTableFull,
        Counter::Instructions,
        Counter::Diverted,
        Counter::Delivered,
        Counter::LogLost,
        Counter::Detected,
    ]);
    for side in &node.sides {
        let answers = [APPLIED, DIGESTS, COMPARED, PAGES].map(|of| side.answers[of]);
        assert!(!answers.contains(&0), "{answers:?}");
    }
}

#[test]
fn questions_between_nodes_use_no_heap() {
    let mut node = Node::new(Distribution::Ecmp, 1);
    node.publish_view(|_| Some(PEER));
    let mut random = Random(0x5eed);
    for turn in 0..20_000u64 {
        traffic(&mut node, &mut random);
        wishes(&mut node, &mut random, turn);
        node.turn();
        node.listen(turn % 3 == 0);
        // Some questions are answered with a flow, some with none, some never.
        for token in std::mem::take(&mut node.sides[0].asked) {
            let record = node.sides[0].told.last().copied();
            let found = match random.below(4) {
                0 => None,
                1 => record.map(|record| (common::node(PEER), record, 0)),
                _ => continue,
            };
            node.tell(0, ToWorker::Answer { token, found });
        }
    }
    node.has_seen(&[
        Counter::Asked,
        Counter::AskWaiting,
        Counter::AskAnswered,
        Counter::AskUnanswered,
        Counter::DropAskDeadline,
        Counter::FlowOpened,
        Counter::Forwarded,
    ]);
}

/// The one use of the heap that is known: a scan's slots come in a box, which the worker frees (128 bytes, once per
/// scan, that is per peer that joins or takes over).
#[test]
fn a_scan_asks_for_nothing_and_frees_its_box() {
    let mut node = Node::new(Distribution::Filter, 1);
    node.heap = Heap::Asked;
    let mut random = Random(1);
    for turn in 0..2_000 {
        traffic(&mut node, &mut random);
        if turn % 500 == 400 {
            node.tell(
                0,
                ToWorker::Job {
                    job: JobId(turn),
                    target: JobTarget::Peer(common::node(PEER)),
                    slots: Box::new(SlotSet::full()),
                },
            );
        }
        node.turn();
        node.listen(true);
    }
    assert_eq!(node.sides[0].answers[JOB_DONE], 4);
    node.has_seen(&[Counter::SnapshotRecords]);
    let slots = Box::new(SlotSet::full());
    let (_, seen) = watched(Heap::AskedAndFreed, || drop(slots));
    assert_eq!(seen.len(), 1, "{seen:?}");
    node.tell(
        0,
        ToWorker::Job {
            job: JobId(9),
            target: JobTarget::Group,
            slots: Box::new(SlotSet::empty()),
        },
    );
    let (_, seen) = watched(Heap::AskedAndFreed, || {
        node.sides[0].worker.poll(Now {
            us: node.now_us + 1,
            unix_ms: 1_700_000_000_000,
        })
    });
    assert_eq!(seen.len(), 1, "{}", seen.join("\n"));
    assert!(seen[0].contains("take_messages"), "{}", seen[0]);
}

/// The watch sees what it is there for: otherwise all of the above shows nothing.
#[test]
fn the_watch_sees_the_heap_used() {
    let (kept, seen) = watched(Heap::Asked, || vec![1u8; 100]);
    assert_eq!((kept.len(), seen.len()), (100, 1));
    assert!(
        seen[0].starts_with("an allocation of 100 bytes\n"),
        "{}",
        seen[0]
    );
    let (_, seen) = watched(Heap::Asked, || drop(kept));
    assert_eq!(seen, [""; 0]);
    let grown = watched(Heap::AskedAndFreed, || {
        let mut grown = Vec::with_capacity(1);
        grown.extend([1u64, 2]);
    });
    let kinds = grown
        .1
        .iter()
        .map(|seen| seen.split(" of ").next().expect("a kind"));
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["an allocation", "a reallocation", "a free"]);
    let panicking = std::panic::catch_unwind(|| quiet(Heap::Asked, || Box::new(7)));
    let message = panicking.expect_err("it allocates");
    let message = message.downcast_ref::<String>().expect("a text");
    assert!(
        message.starts_with("the turn uses the heap:\nan allocation"),
        "{message}"
    );
    // Somebody else's heap is not watched.
    let (_, seen) = watched(Heap::Asked, || {
        common::watch::unwatched(|| std::thread::spawn(|| vec![1u8; 100]).join())
    });
    assert_eq!(seen, [""; 0]);
}

/// Nothing that a worker runs can write a log line: no crate below it knows how to.
#[test]
fn the_engine_has_no_way_to_log() {
    let cargo = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo runs");
    let (tree, errors) = (
        String::from_utf8_lossy(&cargo.stdout),
        String::from_utf8_lossy(&cargo.stderr),
    );
    let crates: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        crates.contains(&"flowtable") && crates.contains(&"rtrb"),
        "{crates:?}\n{errors}"
    );
    for logger in ["tracing", "log", "slog", "env_logger", "tokio"] {
        assert!(
            !crates.contains(&logger),
            "the engine depends on {logger}: `cargo tree -p engine -i {logger}`"
        );
    }
}
