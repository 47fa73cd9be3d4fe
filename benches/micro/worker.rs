//! Whole turns of a worker: packets of known flows, tracked TCP segments, and packets that open flows, unreplicated
//! and held for an acknowledgement. `rig.rs` says what a figure contains.

use std::time::Duration;

use criterion::{Criterion, Throughput};

use crate::cpu_time::{self, CpuTime};
use crate::flows::udp;
use crate::replay::FRAME;
use crate::rig::{Clock, Rig, frames, known_tcp, known_udp};

/// Flows that are opened before a table is thrown away.
const OPENED: u32 = 100_000;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("worker");
    group.throughput(Throughput::Elements(1));
    for (name, count) in [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)] {
        let mut made = None;
        group.bench_function(format!("known udp, {name} flows"), |bencher| {
            let rig = made.get_or_insert_with(|| known_udp(count, Clock::Real));
            bencher.iter_custom(|packets| timed(|| rig.replay(packets)));
        });
        drop(made);
        let mut made = None;
        group.bench_function(format!("known tcp, {name} flows"), |bencher| {
            let rig = made.get_or_insert_with(|| known_tcp(count, Clock::Real));
            bencher.iter_custom(|packets| timed(|| rig.replay(packets)));
        });
    }
    for (name, replicate) in [("unreplicated", false), ("held and acknowledged", true)] {
        let mut opening = None;
        group.bench_function(format!("open udp, {name}"), |bencher| {
            let opening = opening.get_or_insert_with(|| frames(0..OPENED, udp));
            bencher.iter_custom(|flows| open(opening, flows, replicate));
        });
    }
    group.finish();
}

/// How long opening so many flows takes, in tables of [`OPENED`]; making these is left out.
fn open(frames: &[[u8; FRAME]], flows: u64, replicate: bool) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = flows as usize;
    while left > 0 {
        let count = left.min(frames.len());
        let mut rig = Rig::new(OPENED, replicate, Clock::Real);
        rig.arrive(frames[..count].to_vec());
        elapsed += timed(|| rig.open(count));
        left -= count;
    }
    elapsed
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = cpu_time::now();
    run();
    cpu_time::now() - start
}
