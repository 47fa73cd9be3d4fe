//! Digests of slots, and what a worker makes of an owner's word.

mod common;

use std::collections::HashMap;

use common::*;
use proptest::prelude::*;
use replication::{JobId, JobTarget, SlotDigest, ToSync, ToWorker};
use state::{FlowKey, FlowRecord, Life, Mark, NodeId, Progress, Slot, SlotSet, SyncMode, slot_of};
use wire::build;
use wire::tcp::{ACK, FIN, RST, SYN};

/// The owner of each slot in the `n`th view.
fn owner(n: u8) -> impl Fn(Slot) -> Option<u8> {
    move |slot| match n % 4 {
        0 => Some(ME),
        1 => Some(PEER),
        2 => Some(if slot.index() % 2 == 0 { ME } else { PEER }),
        _ => Some(if slot.index() % 2 == 0 { PEER } else { ME }),
    }
}

const SERVER: &str = "10.2.0.10";

fn client(n: u16) -> String {
    format!("10.1.0.10:{}", 1000 + n)
}

fn digest_of(digests: &[SlotDigest], slot: Slot) -> u64 {
    let found = digests.iter().find(|d| d.slot == slot);
    found.expect("every owned slot has a digest").sum
}

/// A worker, and what each of its flows is thought to add to its slot.
struct Model {
    rig: Rig,
    view: u8,
    epoch: u64,
    said: HashMap<FlowKey, u32>,
    /// Records as they were told, to be told again.
    records: Vec<FlowRecord>,
    /// The worker's digests, with what it had said before them.
    digests: Option<(Vec<SlotDigest>, HashMap<FlowKey, u32>)>,
    compared: Option<Vec<SlotDigest>>,
}

#[derive(Clone, Debug)]
enum Op {
    Udp(u16, u16, bool),
    Tcp(u16, u8, bool),
    /// Tells a known record again, changed: dead, marked, reopened, or as it was.
    Apply(usize, u8),
    View(u8),
    Wait(u32),
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u16, prop_oneof![Just(9000u16), Just(7000)], any::<bool>())
            .prop_map(|(n, port, back)| Op::Udp(n, port, back)),
        8 => (0..6u16, 0..5u8, any::<bool>()).prop_map(|(n, flags, back)| Op::Tcp(n, flags, back)),
        6 => (any::<usize>(), 0..5u8).prop_map(|(n, how)| Op::Apply(n, how)),
        1 => any::<u8>().prop_map(Op::View),
        2 => prop_oneof![Just(1_000u32), Just(3_000_000), Just(200_000_000)].prop_map(Op::Wait),
        6 => Just(Op::Drain),
    ]
}

impl Model {
    fn new(changes: usize) -> Self {
        Self {
            rig: Rig::new(Setup {
                changes,
                capacity: 24,
                ..Setup::default()
            }),
            view: 0,
            epoch: 1,
            said: HashMap::new(),
            records: Vec::new(),
            digests: None,
            compared: None,
        }
    }

    fn owns(&self, slot: Slot) -> bool {
        owner(self.view)(slot) == Some(ME)
    }

    /// Takes what the worker has said: each change counts from then on.
    fn drain(&mut self) {
        for message in self.rig.acknowledge() {
            match message {
                ToSync::Change { record, .. } => {
                    self.said.insert(record.key, record.digest());
                    self.records.push(record);
                }
                ToSync::Digests {
                    round: 1, digests, ..
                } => self.digests = Some((digests, self.said.clone())),
                ToSync::Compared { token: 1, digests } => self.compared = Some(digests),
                _ => {}
            }
        }
    }

    fn apply(&mut self, record: FlowRecord) {
        // What is still on its way was said before.
        self.drain();
        self.rig
            .to_worker
            .push(ToWorker::Apply {
                token: 9,
                peer: node(PEER),
                records: vec![(record, 0)],
            })
            .unwrap();
        self.rig.turn();
        if !self.owns(slot_of(&record.key))
            && let Some(id) = self.rig.worker.table().lookup(&record.key)
        {
            let merged = self.rig.worker.table().entry(id).record;
            self.said.insert(record.key, merged.digest());
        }
    }

    fn make(&mut self, op: &Op) {
        match *op {
            Op::Udp(n, port, back) => {
                let (client, server) = (at(&client(n)), at(&format!("{SERVER}:{port}")));
                let (from, frame) = match back {
                    false => (INSIDE, build::udp(client, server, b"x")),
                    true => (OUTSIDE, build::udp(server, client, b"x")),
                };
                self.rig.put(from, frame);
                self.rig.turn();
            }
            Op::Tcp(n, flags, back) => {
                let flags = [SYN, SYN | ACK, ACK, FIN | ACK, RST][usize::from(flags)];
                let (client, server) = (at(&client(n)), at(&format!("{SERVER}:80")));
                let (from, frame) = match back {
                    false => (INSIDE, build::tcp(client, server, flags, 101, 501, &[])),
                    true => (OUTSIDE, build::tcp(server, client, flags, 501, 101, &[])),
                };
                self.rig.put(from, frame);
                self.rig.turn();
            }
            Op::Apply(n, how) => {
                self.drain();
                if self.records.is_empty() {
                    return;
                }
                let mut record = self.records[n % self.records.len()];
                match how {
                    0 => {}
                    1 => record.life = Life::Dead,
                    2 => record.progress = record.progress.union(Progress::reset()),
                    3 => {
                        record.mark = Mark {
                            version: record.mark.version + 1,
                            timeout_s: 0,
                            value: 5,
                        };
                    }
                    _ => {
                        record.incarnation += 1;
                        record.life = Life::Alive;
                    }
                }
                self.records.push(record);
                self.apply(record);
            }
            Op::View(n) => {
                self.drain();
                self.view = n;
                self.epoch += 1;
                self.rig.publish(view(self.epoch, owner(n), &[PEER]));
                self.rig.turn();
            }
            Op::Wait(us) => {
                self.rig.advance(us.into());
                // A whole sweep.
                self.rig.run_ms(60);
            }
            Op::Drain => self.drain(),
        }
    }

    /// The digests that the worker tells and compares with are those of what was said.
    fn check(&mut self) {
        let answered = |model: &mut Self, what: fn(&Self) -> bool| {
            for _ in 0..64 {
                model.rig.turn();
                model.drain();
                if what(model) {
                    return;
                }
            }
            panic!("the worker does not answer");
        };
        let request = ToWorker::Digest {
            round: 1,
            digests: Vec::with_capacity(state::SLOTS),
        };
        self.rig.to_worker.push(request).unwrap();
        answered(self, |model| model.digests.is_some());
        let (digests, said) = self.digests.take().unwrap();
        let sums_of = |model: &Self, said: &HashMap<FlowKey, u32>| {
            let table = model.rig.worker.table();
            let mut sums = vec![0u64; state::SLOTS];
            for (key, digest) in said.iter().filter(|it| table.lookup(it.0).is_some()) {
                sums[slot_of(key).index()] += u64::from(*digest);
            }
            sums
        };
        let sums = sums_of(self, &said);
        let owned = Slot::all().filter(|slot| self.owns(*slot)).count();
        assert_eq!(digests.len(), owned);
        for digest in &digests {
            assert_eq!(digest.sum, sums[digest.slot.index()], "{:?}", digest.slot);
        }
        // What was deferred is told.
        for _ in 0..64 {
            self.rig.turn();
            self.drain();
        }
        let sums = sums_of(self, &self.said);
        // Every third slot is asked for with another sum than the one expected.
        let ask = Slot::all().map(|slot| SlotDigest {
            slot,
            sum: sums[slot.index()] + u64::from(slot.index() % 3 == 0),
            differs: false,
        });
        let request = ToWorker::Compare {
            token: 1,
            digests: ask.collect(),
        };
        self.rig.to_worker.push(request).unwrap();
        answered(self, |model| model.compared.is_some());
        let compared = self.compared.take().unwrap();
        assert_eq!(compared.len(), state::SLOTS - owned);
        for digest in compared {
            assert_eq!(digest.differs, digest.slot.index() % 3 == 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Whatever a worker does, its sums are those of what it has said and merged: packets, copies,
    /// deletions, reopened flows, views that move slots, ageing, a ring that is full.
    #[test]
    fn sums_are_those_of_what_was_said(
        changes in prop_oneof![Just(4usize), Just(256)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut model = Model::new(changes);
        for op in &ops {
            model.make(op);
        }
        model.check();
    }
}

/// A UDP flow of its own slot per number, as the peer knows it.
fn foreign(n: u16) -> FlowRecord {
    let mut other = Rig::new(Setup::default());
    let frame = build::udp(at(&client(n)), at("10.2.0.10:9000"), b"x");
    other.through(INSIDE, frame);
    other
        .acknowledge()
        .into_iter()
        .find_map(|m| match m {
            ToSync::Change { record, .. } => Some(record),
            _ => None,
        })
        .expect("the flow was told of")
}

fn tell(rig: &mut Rig, peer: u8, record: FlowRecord) {
    let records = vec![(record, 0)];
    let peer = node(peer);
    rig.to_worker
        .push(ToWorker::Apply {
            token: 9,
            peer,
            records,
        })
        .unwrap();
    rig.turn();
    rig.acknowledge();
}

/// What a scan of all slots for a peer sends.
fn scan(rig: &mut Rig, target: JobTarget) -> Vec<FlowRecord> {
    let job = ToWorker::Job {
        job: JobId(1),
        target,
        slots: Box::new(SlotSet::full()),
    };
    rig.to_worker.push(job).unwrap();
    rig.run_ms(3);
    let told = rig.acknowledge();
    assert!(matches!(told.last(), Some(ToSync::JobDone { .. })));
    let mut records: Vec<FlowRecord> = told
        .into_iter()
        .filter_map(|m| match m {
            ToSync::Snapshot { record, .. } => Some(record),
            _ => None,
        })
        .collect();
    records.sort_by_key(|r| r.key);
    records
}

fn keys(records: &[FlowRecord]) -> Vec<FlowKey> {
    let mut keys: Vec<FlowKey> = records.iter().map(|r| r.key).collect();
    keys.sort();
    keys
}

fn alive(rig: &Rig, record: &FlowRecord) -> bool {
    let table = rig.worker.table();
    table
        .lookup(&record.key)
        .is_some_and(|id| table.entry(id).is_alive())
}

fn peers() -> (NodeId, u8) {
    (node(PEER), 3)
}

#[test]
fn an_owner_that_no_longer_has_what_it_told_of_has_deleted_it() {
    let (peer, other) = peers();
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    rig.turn();
    let flows: Vec<FlowRecord> = (0..6).map(foreign).collect();
    let [deleted, known, elsewhere, marked, ahead, dead] = flows[..] else {
        unreachable!("there are six");
    };
    for flow in [deleted, known, marked, ahead, dead] {
        tell(&mut rig, PEER, flow);
    }
    // One came from another node, and another node knew more of one.
    tell(&mut rig, other, elsewhere);
    let more = |mut record: FlowRecord, value| {
        record.mark = Mark {
            version: 1,
            timeout_s: 0,
            value,
        };
        record
    };
    tell(&mut rig, other, more(marked, 1));
    tell(&mut rig, other, more(ahead, 2));
    let ended = FlowRecord {
        life: Life::Dead,
        ..dead
    };
    tell(&mut rig, other, ended);

    rig.to_worker.push(ToWorker::Listen { peer }).unwrap();
    // The owner tells of what it has: it lacks one, the mark of another, and a deletion.
    for flow in [known, ahead, dead] {
        tell(&mut rig, PEER, flow);
    }
    rig.forget_counts();
    let sent = scan(&mut rig, JobTarget::Owner(peer));
    assert_eq!(keys(&sent), keys(&[elsewhere, marked, ahead, dead]));
    assert!(sent.contains(&more(ahead, 2)) && sent.contains(&ended));
    assert!(!alive(&rig, &deleted), "its owner has deleted it");
    assert!(
        [known, elsewhere, marked, ahead]
            .iter()
            .all(|f| alive(&rig, f))
    );
    rig.moved(&[("replicas_repaired", 1), ("snapshot_records", 4)]);

    // Nothing is removed or sent on the word of a node that does not own the slots.
    rig.to_worker
        .push(ToWorker::Listen { peer: node(other) })
        .unwrap();
    assert_eq!(scan(&mut rig, JobTarget::Owner(node(other))), []);
    rig.moved(&[]);
}

/// What an owner told before it lost its state proves nothing about what it has now.
#[test]
fn a_restart_of_the_owner_ends_what_its_word_is_worth() {
    let peer = node(PEER);
    let states = |change: fn(&mut membership::View)| {
        let mut rig = Rig::new(Setup::default());
        rig.publish(view(2, |_| Some(PEER), &[PEER]));
        rig.turn();
        let flow = foreign(1);
        tell(&mut rig, PEER, flow);
        let mut between = view(3, |_| Some(ME), &[PEER]);
        change(&mut between);
        rig.publish(between);
        rig.turn();
        let mut after = view(4, |_| Some(PEER), &[PEER]);
        after.members[1].incarnation = rig.node.view.load().members[1].incarnation;
        rig.publish(after);
        rig.turn();
        rig.acknowledge();
        rig.to_worker.push(ToWorker::Listen { peer }).unwrap();
        let to_heir = scan(&mut rig, JobTarget::Heir(peer)).len();
        let to_owner = scan(&mut rig, JobTarget::Owner(peer)).len();
        (to_heir, to_owner, alive(&rig, &flow))
    };
    // It was only not heard for a while: it has deleted the flow.
    let apart = states(|view| view.members[1].state = membership::MemberState::Dead);
    assert_eq!(apart, (0, 0, false));
    let restarted = states(|view| view.members[1].incarnation += 1);
    assert_eq!(restarted, (1, 1, true));
    let rejoined = states(|view| view.members[1].state = membership::MemberState::Joining);
    assert_eq!(rejoined, (1, 1, true));
}

#[test]
fn an_heir_gets_what_changed_here_and_tombstones() {
    let (peer, other) = peers();
    let mut rig = Rig::new(Setup::default());
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    rig.turn();
    let flows: Vec<FlowRecord> = (0..3).map(foreign).collect();
    for flow in &flows {
        tell(&mut rig, PEER, *flow);
    }
    // Apart from the owner: this node serves its slots.
    let mut apart = view(3, |_| Some(ME), &[other]);
    apart.members[1].state = membership::MemberState::Dead;
    rig.publish(apart);
    rig.turn();
    let reply = build::udp(at("10.2.0.10:9000"), at(&client(1)), b"y");
    assert_eq!(rig.through(OUTSIDE, reply).len(), 1);
    let own = build::udp(at(&client(7)), at("10.2.0.10:9000"), b"x");
    rig.through(INSIDE, own);
    // One whose replication is delayed is known to nobody else.
    let slow = build::udp(at(&client(8)), at("10.2.0.10:7000"), b"x");
    rig.through(INSIDE, slow);
    tell(
        &mut rig,
        other,
        FlowRecord {
            life: Life::Dead,
            ..flows[2]
        },
    );
    rig.publish(view(4, |_| Some(PEER), &[PEER]));
    rig.turn();
    let sent = scan(&mut rig, JobTarget::Heir(peer));
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert!(
        !keys(&sent).contains(&flows[0].key),
        "the owner told of it itself"
    );
    let replied = sent.iter().find(|r| r.key == flows[1].key).unwrap();
    assert!(replied.progress.replied());
    let dead = sent.iter().find(|r| r.key == flows[2].key).unwrap();
    assert_eq!(dead.life, Life::Dead);
    assert!(sent.iter().all(|r| r.class.sync != SyncMode::None));
}

/// A planned move: the new owner has all that was told, and gets what nobody was told.
#[test]
fn an_heir_that_was_told_everything_gets_what_nobody_was_told() {
    let peer = node(PEER);
    let mut rig = Rig::new(Setup {
        changes: 4,
        ..Setup::default()
    });
    let client_of = |n| build::udp(at(&client(n)), at("10.2.0.10:9000"), b"x");
    rig.through(INSIDE, client_of(0));
    rig.through(INSIDE, client_of(1));
    rig.acknowledge();
    // One whose replication is delayed, one that is not replicated at all, and one whose answer and one
    // whose opening find the ring full.
    let slow = build::udp(at(&client(2)), at("10.2.0.10:7000"), b"x");
    rig.through(INSIDE, slow);
    let ping = build::icmp_echo(ip("10.1.0.10"), ip(SERVER), true, 5, 1, b"");
    rig.through(INSIDE, ping);
    for n in 10..14 {
        rig.through(INSIDE, client_of(n));
    }
    let answer = build::udp(at("10.2.0.10:9000"), at(&client(1)), b"y");
    rig.through(OUTSIDE, answer);
    rig.through(INSIDE, client_of(14));
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    rig.turn();
    rig.acknowledge();
    let sent = scan(&mut rig, JobTarget::Untold(peer));
    let clients: Vec<_> = sent
        .iter()
        .map(|it| it.key.source(it.class.origin).1)
        .collect();
    assert_eq!(clients, [1001, 1002, 1014]);
    let answered = sent.iter().filter(|it| it.progress.replied()).count();
    assert_eq!(answered, 1, "that of 1001 as it is now");
    // What was deferred was told to this one alone: the targets are no targets of these slots.
    rig.turn();
    assert_eq!(rig.acknowledge(), []);
}

/// A young flow went to another owner, which told of it as it is when the slot came back: that says nothing of who
/// is next.
#[test]
fn a_young_flow_that_a_former_owner_told_of_moves_on_with_its_slot() {
    let mut rig = Rig::new(Setup::default());
    let slow = build::udp(at(&client(2)), at("10.2.0.10:7000"), b"x");
    rig.through(INSIDE, slow);
    rig.publish(view(2, |_| Some(PEER), &[PEER]));
    rig.turn();
    let untold = scan(&mut rig, JobTarget::Untold(node(PEER)));
    assert_eq!(untold.len(), 1);
    tell(&mut rig, PEER, untold[0]);
    rig.publish(view(3, |_| Some(ME), &[PEER, 2]));
    rig.turn();
    assert_eq!(scan(&mut rig, JobTarget::Peer(node(2))), []);
    rig.publish(view(4, |_| Some(2), &[PEER, 2]));
    rig.turn();
    assert_eq!(scan(&mut rig, JobTarget::Untold(node(2))), untold);
}

/// A verdict changes without a word until the flow is refreshed: whoever is told of it meanwhile is not
/// the only one, or copies would differ for as long.
#[test]
fn what_one_peer_is_told_the_group_is_told() {
    let mut rig = Rig::new(Setup::default());
    let frame = || build::udp(at(&client(1)), at("10.2.0.10:9000"), b"x");
    rig.through(INSIDE, frame());
    rig.acknowledge();
    let rules = rig.rules();
    rig.node
        .policy
        .publish(std::sync::Arc::new(engine::Policy::new(&common::rules(
            2, rules,
        ))));
    rig.through(INSIDE, frame());
    assert_eq!(rig.acknowledge(), [], "nothing is told");
    let digests = |rig: &mut Rig| {
        let request = ToWorker::Digest {
            round: 1,
            digests: Vec::with_capacity(state::SLOTS),
        };
        rig.to_worker.push(request).unwrap();
        rig.turn();
        match rig.acknowledge().pop() {
            Some(ToSync::Digests { digests, .. }) => digests,
            other => panic!("no digests but {other:?}"),
        }
    };
    let before = digests(&mut rig);
    let peer = node(PEER);
    let sent = scan(&mut rig, JobTarget::Peer(peer));
    let after = digests(&mut rig);
    let slot = slot_of(&sent[0].key);
    assert_eq!(sent[0].verdict.generation, 2);
    assert_ne!(digest_of(&before, slot), digest_of(&after, slot));
    assert_eq!(digest_of(&after, slot), u64::from(sent[0].digest()));
}
