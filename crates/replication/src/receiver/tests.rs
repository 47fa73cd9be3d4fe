//! What the receiving half refuses, one crafted message each.

use state::{
    Class, Dir, FlowBatch, FlowKey, FlowRecord, Life, Mark, PROTO_UDP, Progress, SyncMode, Verdict,
    v4_mapped,
};

use super::*;
use crate::message::{Batch, End, Hello, Request, Start, encode};
use crate::{Connection, Output, Replicator, ToSync};

const PEER: u8 = 1;

struct Bench {
    replicator: Replicator,
    /// Parts that the worker has not answered.
    tokens: Vec<u64>,
}

fn record(n: u16) -> FlowRecord {
    let (a, b) = (v4_mapped([10, 0, 0, 1]), v4_mapped([10, 0, 0, 2]));
    FlowRecord {
        key: FlowKey::new(a, b, n, 53, PROTO_UDP).0,
        incarnation: 1,
        class: Class {
            origin: Dir::AToB,
            sync: SyncMode::Ack,
            zone_from: 0,
            zone_to: 1,
        },
        life: Life::Alive,
        progress: Progress::seen(Dir::AToB),
        verdict: Verdict::default(),
        mark: Mark::default(),
        tcp: Default::default(),
        nat: None,
    }
}

fn batch(first: u64, last: u64, records: u16) -> Batch {
    let mut flows = FlowBatch::default();
    (0..records).for_each(|n| flows.push(&record(n), 0));
    Batch {
        incarnation: 5,
        session: 1,
        worker: 0,
        epoch: 0,
        first,
        last,
        flows,
    }
}

fn start(run: u64, next: u64) -> Start {
    Start {
        incarnation: 5,
        session: 1,
        run,
        next,
    }
}

fn hello() -> Hello {
    Hello {
        cluster: 9,
        incarnation: 5,
        session: 1,
        workers: 2,
        node: PEER,
    }
}

impl Bench {
    /// Without a greeting.
    fn strange() -> Self {
        let mut options = Options::new(NodeId::new(0).unwrap(), 3, 9, 1);
        options.window_records = 8;
        options.batch_records_max = 8;
        Self {
            replicator: Replicator::new(options).unwrap(),
            tokens: Vec::new(),
        }
    }

    /// After the greeting, with delta stream 0 started at 1.
    fn new() -> Self {
        let mut bench = Self::strange();
        assert_eq!(
            bench.take(CONTROL, encode(&hello(), Vec::new())),
            (vec![CONTROL], None)
        );
        assert_eq!(
            bench.take(0, encode(&start(1, 1), Vec::new())),
            (vec![], None)
        );
        bench
    }

    /// Gives it a frame; returns on which streams it answered and why it closed.
    fn take(&mut self, stream: u16, frame: Vec<u8>) -> (Vec<u16>, Option<Violation>) {
        self.replicator
            .on_frame(NodeId::new(PEER).unwrap(), stream, &frame, 0);
        self.drain()
    }

    fn drain(&mut self) -> (Vec<u16>, Option<Violation>) {
        let (mut replies, mut closed) = (Vec::new(), None);
        while let Some(output) = self.replicator.poll() {
            match output {
                Output::Reply { stream, .. } => replies.push(stream),
                Output::Close {
                    connection: Connection::Incoming,
                    reason,
                    ..
                } => {
                    closed = Some(reason);
                }
                Output::ToWorker {
                    message: ToWorker::Apply { token, .. },
                    ..
                } => {
                    self.tokens.push(token);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        (replies, closed)
    }

    /// Whether a frame is refused for this reason, with nothing handed to a worker.
    fn refuses(&mut self, stream: u16, frame: Vec<u8>, reason: Violation) {
        let before = self.tokens.len();
        assert_eq!(self.take(stream, frame), (vec![], Some(reason)));
        assert_eq!(self.tokens.len(), before);
        assert_eq!(self.replicator.counters().frames_invalid, 1);
    }

    fn apply(&mut self) -> Vec<u16> {
        for token in std::mem::take(&mut self.tokens) {
            let message = ToSync::Applied {
                token,
                records: Vec::new(),
                refused: 0,
            };
            self.replicator.on_worker(0, message, 0);
        }
        self.drain().0
    }
}

#[test]
fn a_batch_is_acknowledged_once_it_is_applied() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.take(0, encode(&batch(1, 3, 3), Vec::new())),
        (vec![], None)
    );
    assert_eq!(
        bench.take(0, encode(&batch(4, 5, 2), Vec::new())),
        (vec![], None)
    );
    assert_eq!(bench.apply(), [0], "one for both");
    assert_eq!(bench.replicator.counters().records_applied, 5);
}

#[test]
fn numbers_must_fit() {
    let gap = Violation::Gap {
        expected: 1,
        first: 2,
    };
    Bench::new().refuses(0, encode(&batch(2, 3, 2), Vec::new()), gap);
    let range = |first, last, records| Violation::Range {
        first,
        last,
        records,
    };
    Bench::new().refuses(0, encode(&batch(1, 3, 4), Vec::new()), range(1, 3, 4));
    Bench::new().refuses(0, encode(&batch(1, 3, 0), Vec::new()), range(1, 3, 0));
    // Of a log some numbers may be for others; of a snapshot none are.
    let mut bench = Bench::new();
    assert_eq!(bench.take(0, encode(&batch(1, 3, 2), Vec::new())).1, None);
    assert_eq!(bench.take(0, encode(&batch(4, 4, 1), Vec::new())).1, None);
    let mut bench = Bench::new();
    bench.take(SNAPSHOTS, encode(&start(1, 1), Vec::new()));
    let cut = encode(&batch(1, 3, 2), Vec::new());
    bench.refuses(SNAPSHOTS, cut, range(1, 3, 2));
    Bench::new().refuses(0, encode(&batch(1, 0, 1), Vec::new()), range(1, 0, 1));
    Bench::new().refuses(0, encode(&batch(1, 0, 0), Vec::new()), range(1, 0, 0));
    let twice = Violation::Gap {
        expected: 3,
        first: 1,
    };
    let mut bench = Bench::new();
    bench.take(0, encode(&batch(1, 2, 2), Vec::new()));
    bench.refuses(0, encode(&batch(1, 2, 2), Vec::new()), twice);
}

#[test]
fn the_window_bounds_what_is_pending() {
    let mut bench = Bench::new();
    assert_eq!(bench.take(0, encode(&batch(1, 8, 8), Vec::new())).1, None);
    assert_eq!(bench.apply(), [0]);
    assert_eq!(bench.take(0, encode(&batch(9, 15, 7), Vec::new())).1, None);
    let over = Violation::Window {
        records: 9,
        window: 8,
    };
    bench.refuses(0, encode(&batch(16, 17, 2), Vec::new()), over);
}

#[test]
fn streams_and_runs_must_fit() {
    let worker = Violation::Worker {
        worker: 0,
        stream: 1,
    };
    Bench::new().refuses(1, encode(&batch(1, 1, 1), Vec::new()), worker);
    let stream = Violation::Stream {
        stream: 7,
        workers: 2,
    };
    Bench::new().refuses(7, encode(&start(1, 1), Vec::new()), stream);
    // A stream that was not started.
    let unstarted = Violation::Greeting(SNAPSHOTS);
    Bench::new().refuses(SNAPSHOTS, encode(&batch(1, 1, 1), Vec::new()), unstarted);
    let mut bench = Bench::new();
    bench.take(0, encode(&start(4, 20), Vec::new()));
    bench.refuses(
        0,
        encode(&start(3, 21), Vec::new()),
        Violation::Run { run: 3, current: 4 },
    );
    // A run may not jump over numbers.
    let gap = Violation::Gap {
        expected: 1,
        first: 2,
    };
    Bench::new().refuses(0, encode(&start(1, 2), Vec::new()), gap);
    let kind = Violation::Kind {
        kind: 3,
        stream: CONTROL,
    };
    Bench::new().refuses(CONTROL, encode(&start(1, 1), Vec::new()), kind);
}

#[test]
fn a_snapshots_end_must_name_its_records() {
    let end = |run, records| End {
        incarnation: 5,
        session: 1,
        run,
        records,
        request: 0,
        whole: true,
    };
    let mut bench = Bench::new();
    bench.take(SNAPSHOTS, encode(&start(2, 1), Vec::new()));
    bench.take(SNAPSHOTS, encode(&batch(1, 3, 3), Vec::new()));
    let count = Violation::Count {
        said: 4,
        received: 3,
    };
    bench.refuses(SNAPSHOTS, encode(&end(2, 4), Vec::new()), count);

    let mut bench = Bench::new();
    bench.take(SNAPSHOTS, encode(&start(2, 1), Vec::new()));
    bench.take(SNAPSHOTS, encode(&batch(1, 3, 3), Vec::new()));
    bench.take(SNAPSHOTS, encode(&end(2, 3), Vec::new()));
    assert_eq!(bench.apply(), [SNAPSHOTS]);
    assert_eq!(
        bench.replicator.counters().snapshots_received,
        0,
        "worker 1's part is missing"
    );
    bench.take(SNAPSHOTS + 1, encode(&start(2, 1), Vec::new()));
    bench.take(SNAPSHOTS + 1, encode(&end(2, 0), Vec::new()));
    assert_eq!(bench.replicator.counters().snapshots_received, 1);
}

#[test]
fn the_greeting_comes_first_and_is_checked() {
    // Before it, nothing is known of the session: the message is of no connection that counts.
    let mut bench = Bench::strange();
    assert_eq!(
        bench.take(0, encode(&batch(1, 1, 1), Vec::new())),
        (vec![], None)
    );
    assert_eq!(bench.replicator.counters().frames_stale, 1);

    let claimed = Violation::Identity {
        claimed: 2,
        peer: NodeId::new(PEER).unwrap(),
    };
    Bench::strange().refuses(
        CONTROL,
        encode(&Hello { node: 2, ..hello() }, Vec::new()),
        claimed,
    );
    let none = Hello {
        workers: 0,
        ..hello()
    };
    Bench::strange().refuses(CONTROL, encode(&none, Vec::new()), Violation::Workers(0));
    let old = Violation::Incarnation {
        theirs: 4,
        known: 5,
    };
    let earlier = Hello {
        incarnation: 4,
        ..hello()
    };
    Bench::new().refuses(CONTROL, encode(&earlier, Vec::new()), old);
}

/// A run that greeted and ended before anybody heard its heartbeats; its successor's clock is behind.
#[test]
fn a_run_that_the_membership_hears_is_greeted_whatever_was_known() {
    let mut bench = Bench::new();
    let peer = membership::Member {
        id: NodeId::new(PEER).unwrap(),
        state: membership::MemberState::Joining,
        incarnation: 4,
    };
    let view = membership::View {
        epoch: 1,
        join: 1,
        reunions: 0,
        digest: 0,
        members: vec![peer],
        owner: Box::new([None; state::SLOTS]),
        groups: vec![vec![]; state::NODES_MAX],
        targets: vec![state::NodeSet::EMPTY; state::NODES_MAX],
    };
    bench.replicator.on_view(std::sync::Arc::new(view), 0);
    let earlier = Hello {
        incarnation: 4,
        session: 9,
        ..hello()
    };
    let (_, closed) = bench.take(CONTROL, encode(&earlier, Vec::new()));
    assert_eq!(closed, None);
}

#[test]
fn a_greeting_waits_for_what_is_pending_and_passes_over_the_old_connection() {
    let mut bench = Bench::new();
    bench.take(0, encode(&batch(1, 2, 2), Vec::new()));
    let again = Hello {
        session: 2,
        ..hello()
    };
    assert_eq!(
        bench.take(CONTROL, encode(&again, Vec::new())),
        (vec![], None)
    );
    assert_eq!(
        bench.take(0, encode(&batch(3, 3, 1), Vec::new())),
        (vec![], None),
        "stale"
    );
    // What speaks on the new connection must wait for the answer.
    let early = Request {
        incarnation: 5,
        number: 1,
        slots: vec![],
        session: 2,
    };
    let mut impatient = Bench::new();
    impatient.take(0, encode(&batch(1, 2, 2), Vec::new()));
    impatient.take(CONTROL, encode(&again, Vec::new()));
    impatient.refuses(
        CONTROL,
        encode(&early, Vec::new()),
        Violation::Greeting(CONTROL),
    );

    assert_eq!(
        bench.apply(),
        [CONTROL],
        "the greeting's answer, no acknowledgement"
    );
    // It goes on after what was applied.
    let resumed = Start {
        incarnation: 5,
        session: 2,
        run: 1,
        next: 3,
    };
    assert_eq!(bench.take(0, encode(&resumed, Vec::new())), (vec![], None));
    let next = Batch {
        session: 2,
        ..batch(3, 4, 2)
    };
    assert_eq!(bench.take(0, encode(&next, Vec::new())), (vec![], None));
    assert_eq!(bench.apply(), [0]);
    assert_eq!(bench.replicator.counters().frames_stale, 1);
}

#[test]
fn starts_do_not_pile_up() {
    let mut bench = Bench::new();
    bench.take(0, encode(&batch(1, 1, 1), Vec::new()));
    for run in 2..1000 {
        bench.take(0, encode(&start(run, run), Vec::new()));
    }
    let lane = bench
        .replicator
        .receiver_lane(NodeId::new(PEER).unwrap(), 0);
    assert_eq!(lane, 2, "the batch and one start");
    assert_eq!(bench.apply(), [0]);
}

impl Replicator {
    fn receiver_lane(&mut self, peer: NodeId, stream: u16) -> usize {
        self.receiver.lane(peer, stream).unwrap().pending.len()
    }
}
