//! Bytes from the network: whatever they are, nothing panics, and what is refused changes nothing.

mod net;

use net::{CLUSTER, flow, key, node, view};
use proptest::prelude::*;
use replication::{Connection, Counters, Options, Output, Replicator, ToSync, ToWorker};
use state::{FlowKey, Mark, Nat, NodeSet, PROTO_TCP};

type Frames = Vec<(u16, Vec<u8>)>;

const CHANGES: u64 = 20;
/// The snapshot comes in two chunks of slots; the worker here has one record for each.
const APPLIED: u64 = CHANGES + 2;

fn options(id: u8) -> Options {
    let mut options = Options::new(node(id), 1, CLUSTER, 1);
    options.batch_records_max = 4;
    options
}

/// What a replicator said.
#[derive(Default)]
struct Said {
    sends: Frames,
    replies: Frames,
    applies: usize,
    released: u64,
    closed: Vec<Connection>,
}

/// Takes what it says; its worker answers at once.
fn drain(replicator: &mut Replicator) -> Said {
    let mut said = Said::default();
    while let Some(output) = replicator.poll() {
        match output {
            Output::Send { stream, frame, .. } => said.sends.push((stream, frame)),
            Output::Reply { stream, frame, .. } => said.replies.push((stream, frame)),
            Output::ToWorker {
                message: ToWorker::Apply { token, records, .. },
                ..
            } => {
                said.applies += records.len();
                replicator.on_worker(
                    0,
                    ToSync::Applied {
                        token,
                        records,
                        refused: 0,
                    },
                    0,
                );
            }
            Output::ToWorker {
                message: ToWorker::Job { job, .. },
                ..
            } => {
                let record = flow(key(99), 1);
                replicator.on_worker(
                    0,
                    ToSync::Snapshot {
                        job,
                        record,
                        idle_s: 1,
                    },
                    0,
                );
                replicator.on_worker(0, ToSync::JobDone { job, lsn: CHANGES }, 0);
            }
            Output::Release { lsn, .. } => said.released = lsn,
            Output::Close { connection, .. } => said.closed.push(connection),
            Output::ToWorker { .. }
            | Output::Synced { .. }
            | Output::CommonChanged { .. }
            | Output::CommonSynced { .. }
            | Output::Detected { .. }
            | Output::Event(_) => (),
        }
    }
    said
}

/// Node 0, which has changes for node 1 and has greeted it; and the greeting.
fn sender() -> (Replicator, Said) {
    let mut sender = Replicator::new(options(0)).unwrap();
    sender.on_view(view(1, &[1, 1], &[], |_| Some(0), &[&[1]]), 0);
    sender.on_connected(node(1), 0);
    for lsn in 1..=CHANGES {
        sender.on_worker(
            0,
            ToSync::Change {
                lsn,
                record: flow(key(lsn as u32), 1),
                idle_s: 0,
                handlers: NodeSet::EMPTY,
            },
            0,
        );
    }
    let said = drain(&mut sender);
    (sender, said)
}

fn receiver() -> Replicator {
    Replicator::new(options(1)).unwrap()
}

/// A whole undisturbed exchange: what node 1 got, and what node 0 got.
fn exchange() -> (Frames, Frames) {
    let (mut sender, greeting) = sender();
    let mut receiver = receiver();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let mut sends = greeting.sends;
    while !sends.is_empty() {
        for (stream, frame) in &sends {
            receiver.on_frame(node(0), *stream, frame, 0);
        }
        there.append(&mut sends);
        let said = drain(&mut receiver);
        for (stream, frame) in said.replies {
            sender.on_answer(node(1), stream, &frame, 0);
            back.push((stream, frame));
        }
        sends = drain(&mut sender).sends;
    }
    assert_eq!(receiver.counters().records_applied, APPLIED);
    (there, back)
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(Vec<(prop::sample::Index, u8)>),
    Cut(prop::sample::Index),
    Noise(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..6);
    prop_oneof![
        4 => flips.prop_map(Damage::Flip),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Damage::Noise),
    ]
}

impl Damage {
    fn apply(&self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        match self {
            Self::Flip(flips) => {
                for (index, bits) in flips {
                    let at = index.index(bytes.len());
                    bytes[at] ^= bits;
                }
            }
            Self::Cut(index) => bytes.truncate(index.index(bytes.len())),
            Self::Noise(noise) => {
                // Past the first byte, or nearly all would end there.
                bytes.truncate(1);
                bytes.extend_from_slice(noise);
            }
        }
        bytes
    }
}

/// The counters without those that every frame moves.
fn effect(counters: &Counters) -> Counters {
    Counters {
        bytes_received: 0,
        bytes_sent: 0,
        frames_invalid: 0,
        ..*counters
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_frames_change_nothing_when_refused(
        at: prop::sample::Index,
        damage in damage(),
        other_stream in prop::option::weighted(0.1, any::<u16>()),
    ) {
        let (there, _) = exchange();
        let at = at.index(there.len());
        let mut receiver = receiver();
        for (stream, frame) in &there[..at] {
            receiver.on_frame(node(0), *stream, frame, 0);
            drain(&mut receiver);
        }
        let before = *receiver.counters();
        let (stream, frame) = &there[at];
        let damaged = damage.apply(frame);
        receiver.on_frame(node(0), other_stream.unwrap_or(*stream), &damaged, 0);
        let said = drain(&mut receiver);
        if said.closed.is_empty() {
            // It happened to be well-formed.
            prop_assert!(said.applies <= 4);
            return Ok(());
        }
        prop_assert_eq!(said.closed, [Connection::Incoming]);
        prop_assert_eq!((said.applies, said.replies.len()), (0, 0));
        prop_assert_eq!(receiver.counters().frames_invalid, before.frames_invalid + 1);
        prop_assert_eq!(effect(receiver.counters()), effect(&before));
        // The same exchange goes through from its start: the greeting's answer is as if the
        // damaged frame had never been.
        if at == 0 {
            for (stream, frame) in &there {
                receiver.on_frame(node(0), *stream, frame, 0);
                drain(&mut receiver);
            }
            prop_assert_eq!(receiver.counters().records_applied, APPLIED);
        }
    }

    #[test]
    fn damaged_answers_never_release_what_was_not_sent(
        at: prop::sample::Index,
        damage in damage(),
    ) {
        let (_, back) = exchange();
        let at = at.index(back.len());
        let (mut sender, _) = sender();
        for (stream, frame) in &back[..at] {
            sender.on_answer(node(1), *stream, frame, 0);
            drain(&mut sender);
        }
        let before = sender.counters().records_acked;
        let (stream, frame) = &back[at];
        sender.on_answer(node(1), *stream, &damage.apply(frame), 0);
        let said = drain(&mut sender);
        prop_assert!(said.released <= CHANGES);
        if !said.closed.is_empty() {
            prop_assert_eq!(said.closed, [Connection::Outgoing]);
            prop_assert_eq!(said.released, 0, "nothing is released by what is refused");
            prop_assert_eq!(sender.counters().records_acked, before);
        }
    }
}

#[test]
fn every_cut_frame_is_refused() {
    let (there, _) = exchange();
    for (stream, frame) in &there {
        for len in 0..frame.len() {
            let mut receiver = receiver();
            receiver.on_frame(node(0), *stream, &frame[..len], 0);
            let said = drain(&mut receiver);
            assert_eq!((said.closed, said.applies), (vec![Connection::Incoming], 0));
        }
    }
}

/// A message that is lengthened must not be taken for another one: passed over as of an old session, it would
/// be missed for good, since nobody sends it again.
#[test]
fn every_lengthened_frame_is_refused() {
    let (there, back) = exchange();
    for more in 1..20 {
        for (stream, frame) in &there {
            let longer = [&frame[..], &vec![0xa5; more]].concat();
            let mut receiver = receiver();
            receiver.on_frame(node(0), *stream, &longer, 0);
            assert_eq!(drain(&mut receiver).closed, [Connection::Incoming]);
        }
        for (stream, frame) in &back {
            let longer = [&frame[..], &vec![0xa5; more]].concat();
            let (mut sender, _) = sender();
            sender.on_answer(node(1), *stream, &longer, 0);
            assert_eq!(drain(&mut sender).closed, [Connection::Outgoing]);
        }
    }
}

#[test]
fn frames_stay_within_their_bytes() {
    let mut options = options(0);
    (options.batch_records_max, options.batch_bytes_max) = (1024, 1500);
    let mut sender = Replicator::new(options).unwrap();
    let mut receiver = receiver();
    sender.on_view(view(1, &[1, 1], &[], |_| Some(0), &[&[1]]), 0);
    // The largest record that there is: IPv6, TCP, marked and translated.
    for lsn in 1..=200 {
        let mut record = flow(key(0), 1);
        let source = [0x20; 16];
        record.key = FlowKey::new(source, [0x30; 16], lsn as u16, 443, PROTO_TCP).0;
        record.mark = Mark {
            version: 1,
            timeout_s: 3,
            value: 2,
        };
        record.nat = Some(Nat {
            source: (source, 1),
            destination: (source, 2),
        });
        sender.on_worker(
            0,
            ToSync::Change {
                lsn,
                record,
                idle_s: 0,
                handlers: NodeSet::EMPTY,
            },
            0,
        );
    }
    sender.on_connected(node(1), 0);
    let mut largest = 0;
    let mut sends = drain(&mut sender).sends;
    while !sends.is_empty() {
        for (stream, frame) in sends {
            largest = largest.max(frame.len());
            receiver.on_frame(node(0), stream, &frame, 0);
        }
        for (stream, frame) in drain(&mut receiver).replies {
            sender.on_answer(node(1), stream, &frame, 0);
        }
        sends = drain(&mut sender).sends;
    }
    assert_eq!(receiver.counters().records_applied, 202);
    assert!((1200..=1500).contains(&largest), "{largest} bytes");
}
