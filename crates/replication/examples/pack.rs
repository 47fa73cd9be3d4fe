//! Measures both halves: nanoseconds per change from the worker's message to the frame and from
//! the frame to the worker, as medians over bursts, and bytes per new flow in frames.
//!
//! `cargo run --release -p replication --example pack`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use membership::{Member, MemberState, View};
use replication::{Options, Output, Replicator, ToSync, ToWorker};
use state::{
    Class, FlowKey, FlowRecord, Life, Mark, NodeId, NodeSet, PROTO_TCP, PROTO_UDP, Progress, SLOTS,
    SyncMode, TcpSide, Verdict, v4_mapped,
};

const CHANGES: u64 = 2_000_000;

fn main() {
    for (name, proto) in [("udp", PROTO_UDP), ("tcp", PROTO_TCP)] {
        for burst in [1, 32, 1024] {
            let cost = measure(proto, burst);
            println!(
                "{name} bursts of {burst:>4}: {:>6.1} ns per change sent, {:>6.1} ns per change \
                 received, {:>6.1} records per batch, {:>6.1} bytes per flow",
                cost.send_ns, cost.receive_ns, cost.batch_records, cost.bytes
            );
        }
    }
}

struct Cost {
    send_ns: f64,
    receive_ns: f64,
    batch_records: f64,
    bytes: f64,
}

fn measure(proto: u8, burst: u64) -> Cost {
    let id = |n| NodeId::new(n).expect("below 32");
    let mut sender = Replicator::new(Options::new(id(0), 1, 1, 1)).expect("defaults are valid");
    let mut receiver = Replicator::new(Options::new(id(1), 1, 1, 1)).expect("defaults are valid");
    sender.on_view(view(id(0), id(1)), 0);
    sender.on_connected(id(1), 0);

    let changes = if burst == 1 { CHANGES / 10 } else { CHANGES };
    let (mut send, mut receive) = (Vec::new(), Vec::new());
    let mut whole = false;
    let mut frames: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut answers: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut lsn = 0;
    let mut bytes_before = 0;
    while lsn < changes {
        if !whole {
            whole = sender.status(0).whole;
            bytes_before = sender.counters().bytes_sent;
        }
        let start = Instant::now();
        for (stream, frame) in answers.drain(..) {
            sender.on_answer(id(1), stream, &frame, 0);
        }
        if whole {
            for _ in 0..burst {
                lsn += 1;
                let record = flow(proto, lsn as u32);
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
        }
        while let Some(output) = sender.poll() {
            match output {
                Output::Send { stream, frame, .. } => frames.push((stream, frame)),
                Output::ToWorker {
                    message: ToWorker::Job { job, .. },
                    ..
                } => {
                    sender.on_worker(0, ToSync::JobDone { job, lsn: 0 }, 0);
                }
                other => drop(black_box(other)),
            }
        }
        send.push(start.elapsed());
        let start = Instant::now();
        for (stream, frame) in &frames {
            receiver.on_frame(id(0), *stream, frame, 0);
        }
        while let Some(output) = receiver.poll() {
            match output {
                Output::Reply { stream, frame, .. } => answers.push((stream, frame)),
                Output::ToWorker {
                    message:
                        ToWorker::Apply {
                            token, mut records, ..
                        },
                    ..
                } => {
                    black_box(&records);
                    records.clear();
                    receiver.on_worker(
                        0,
                        ToSync::Applied {
                            token,
                            records,
                            refused: 0,
                        },
                        0,
                    );
                }
                other => drop(black_box(other)),
            }
        }
        receive.push(start.elapsed());
        for (_, frame) in frames.drain(..) {
            sender.recycle(frame);
        }
    }
    let counters = sender.counters();
    let per_change = |mut times: Vec<Duration>| {
        let middle = times.len() / 2;
        times.select_nth_unstable(middle).1.as_nanos() as f64 / burst as f64
    };
    Cost {
        send_ns: per_change(send),
        receive_ns: per_change(receive),
        batch_records: counters.records_sent as f64 / counters.batches_sent as f64,
        bytes: (counters.bytes_sent - bytes_before) as f64 / counters.records_sent as f64,
    }
}

fn view(owner: NodeId, backup: NodeId) -> Arc<View> {
    let member = |id| Member {
        id,
        state: MemberState::Active,
        incarnation: 1,
    };
    let mut targets = vec![NodeSet::EMPTY; state::NODES_MAX];
    targets[owner.index()].insert(backup);
    Arc::new(View {
        epoch: 1,
        join: 1,
        reunions: 0,
        digest: 1,
        members: vec![member(owner), member(backup)],
        owner: Box::new([Some(owner); SLOTS]),
        groups: targets.iter().map(|set| set.iter().collect()).collect(),
        targets,
    })
}

/// A flow that has just been opened.
fn flow(proto: u8, n: u32) -> FlowRecord {
    let [a, b, c, d] = n.to_be_bytes();
    let key = FlowKey::new(
        v4_mapped([10 ^ a, b, c, d]),
        v4_mapped([192, 0, 2, 1]),
        4096,
        80,
        proto,
    );
    let side = TcpSide {
        end: u64::from(n),
        end_max: u64::from(n) + 64240,
        window_max: 64240,
        scale: 8,
    };
    FlowRecord {
        key: key.0,
        incarnation: 1 << 40 | u64::from(n),
        class: Class {
            origin: key.1,
            sync: SyncMode::Ack,
            zone_from: 1,
            zone_to: 2,
        },
        life: Life::Alive,
        progress: Progress::seen(key.1),
        verdict: Verdict {
            generation: 1,
            rule: 7,
        },
        mark: Mark::default(),
        tcp: if proto == PROTO_TCP {
            [side; 2]
        } else {
            Default::default()
        },
        nat: None,
    }
}
