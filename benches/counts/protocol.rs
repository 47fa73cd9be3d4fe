//! Both halves of replication: from a worker's change to the frame, and from the frame, whose bytes are checked, to
//! the records that a worker of the peer is given.

use std::hint::black_box;
use std::sync::Arc;

use membership::{Member, MemberState, View};
use replication::{Options, Output, Replicator, ToSync, ToWorker};
use state::{NodeId, NodeSet, SLOTS};

use crate::counted;
use crate::flows::record;

/// Which half is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Pack,
    Validate,
}

/// Changes that the sync core finds at a time.
const BURST: u64 = 256;
const BURSTS: u64 = 40;

/// A node and its backup, and what is on its way between them.
struct Pair {
    sender: Replicator,
    receiver: Replicator,
    frames: Vec<(u16, Vec<u8>)>,
    answers: Vec<(u16, Vec<u8>)>,
    received: u64,
}

fn id(n: u8) -> NodeId {
    NodeId::new(n).expect("below 32")
}

/// Returns how many changes went through the half that was counted.
pub(crate) fn run(proto: u8, half: Half) -> u64 {
    let new = |n| Replicator::new(Options::new(id(n), 1, 1, 1)).expect("defaults are valid");
    let mut pair = Pair {
        sender: new(0),
        receiver: new(1),
        frames: vec![],
        answers: vec![],
        received: 0,
    };
    pair.sender.on_view(view(), 0);
    pair.sender.on_connected(id(1), 0);
    while !pair.sender.status(0).whole {
        pair.send();
        pair.receive();
    }
    let mut lsn = 0;
    for _ in 0..BURSTS {
        let changes: Vec<_> = (lsn + 1..=lsn + BURST)
            .map(|lsn| ToSync::Change {
                lsn,
                record: record(lsn as u32, proto),
                idle_s: 0,
                handlers: NodeSet::EMPTY,
            })
            .collect();
        lsn += BURST;
        let mut changes = changes.into_iter();
        let mut pack = || {
            for change in &mut changes {
                pair.sender.on_worker(0, change, 0);
            }
            pair.send();
        };
        match half {
            Half::Pack => counted(&mut pack),
            Half::Validate => pack(),
        }
        let mut validate = || pair.receive();
        match half {
            Half::Pack => validate(),
            Half::Validate => counted(&mut validate),
        }
    }
    // What waited for acknowledgements.
    while !pair.frames.is_empty() || !pair.answers.is_empty() {
        pair.send();
        pair.receive();
    }
    assert_eq!(pair.received, lsn, "every change arrives once");
    lsn
}

impl Pair {
    fn send(&mut self) {
        for (stream, frame) in self.answers.drain(..) {
            self.sender.on_answer(id(1), stream, &frame, 0);
        }
        while let Some(output) = self.sender.poll() {
            match output {
                Output::Send { stream, frame, .. } => self.frames.push((stream, frame)),
                Output::ToWorker {
                    message: ToWorker::Job { job, .. },
                    ..
                } => self.sender.on_worker(0, ToSync::JobDone { job, lsn: 0 }, 0),
                other => drop(black_box(other)),
            }
        }
    }

    fn receive(&mut self) {
        for (stream, frame) in &self.frames {
            self.receiver.on_frame(id(0), *stream, frame, 0);
        }
        while let Some(output) = self.receiver.poll() {
            match output {
                Output::Reply { stream, frame, .. } => self.answers.push((stream, frame)),
                Output::ToWorker {
                    message:
                        ToWorker::Apply {
                            token, mut records, ..
                        },
                    ..
                } => {
                    self.received += records.len() as u64;
                    records.clear();
                    let applied = ToSync::Applied {
                        token,
                        records,
                        refused: 0,
                    };
                    self.receiver.on_worker(0, applied, 0);
                }
                other => drop(black_box(other)),
            }
        }
        for (_, frame) in self.frames.drain(..) {
            self.sender.recycle(frame);
        }
    }
}

/// Node 0 owns everything, node 1 backs it up.
fn view() -> Arc<View> {
    let member = |n| Member {
        id: id(n),
        state: MemberState::Active,
        incarnation: 1,
    };
    let mut targets = vec![NodeSet::EMPTY; state::NODES_MAX];
    targets[0].insert(id(1));
    Arc::new(View {
        epoch: 1,
        join: 1,
        reunions: 0,
        digest: 1,
        members: vec![member(0), member(1)],
        owner: Box::new([Some(id(0)); SLOTS]),
        groups: targets.iter().map(|set| set.iter().collect()).collect(),
        targets,
    })
}
