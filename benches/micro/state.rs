//! The slot of a key, and joining two copies of a record.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use state::{PROTO_TCP, PROTO_UDP, Progress};

use crate::cpu_time::CpuTime;
use crate::flows::record;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("state");
    group.throughput(Throughput::Elements(1));
    let key = record(12_345, PROTO_UDP).key;
    group.bench_function("rss", |bencher| {
        bencher.iter(|| state::rss(black_box(&key)));
    });
    group.bench_function("slot_of and worker_of", |bencher| {
        bencher.iter(|| state::worker_of(state::slot_of(black_box(&key)), 6));
    });
    let old = record(12_345, PROTO_TCP);
    let mut newer = old;
    newer.tcp[0].end += 1_000;
    newer.progress = old
        .progress
        .union(Progress::seen(old.class.origin.reverse()));
    for (name, other, changes) in [("an equal copy", old, false), ("a newer copy", newer, true)] {
        group.bench_function(format!("merge {name}"), |bencher| {
            bencher.iter(|| {
                let mut mine = black_box(old);
                assert_eq!(mine.merge(black_box(&other)), changes);
                mine
            });
        });
    }
    group.finish();
}
