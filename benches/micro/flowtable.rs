//! Burst lookups in a shard, in random order, by the number of flows.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use flowtable::{FlowTable, Local};
use state::{FlowKey, PROTO_UDP};

use crate::cpu_time::CpuTime;
use crate::flows::{record, shuffled};

const BURST: usize = 32;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("flowtable");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, count) in [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)] {
        // Made when it is its turn, not when a filter leaves it out.
        let mut made = None;
        group.bench_function(
            format!("lookup_burst of {BURST}, {name} flows"),
            |bencher| {
                let (table, keys) = made.get_or_insert_with(|| make(count));
                let mut ids = [None; BURST];
                let mut at = 0;
                bencher.iter(|| {
                    if at + BURST > keys.len() {
                        at = 0;
                    }
                    table.lookup_burst(&keys[at..at + BURST], &mut ids);
                    at += BURST;
                    black_box(&ids);
                });
                assert!(ids.iter().all(Option::is_some), "every key is in the table");
            },
        );
    }
    group.finish();
}

/// A full shard, and its keys in random order.
fn make(count: u32) -> (FlowTable, Vec<FlowKey>) {
    let mut table = FlowTable::with_capacity(count as usize, 7);
    for n in 0..count {
        let inserted = table.insert(record(n, PROTO_UDP), Local::default());
        inserted.expect("there is room, and numbers make different keys");
    }
    let keys = shuffled(count).into_iter();
    (table, keys.map(|n| record(n, PROTO_UDP).key).collect())
}
