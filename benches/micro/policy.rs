//! The classifier by the number of rules: packets in random order that match some rule, and
//! packets that match none.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use policy::{Action, AddressSet, Classifier, Query, Rule, RuleSet, Service, SyncDefaults, Zones};
use state::{PROTO_TCP, v4_mapped};

use crate::cpu_time::CpuTime;
use crate::flows::Random;

/// A power of two, so that going round is a mask.
const QUERIES: usize = 1 << 16;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("policy");
    group.throughput(Throughput::Elements(1));
    for rules in [10, 100, 1_000, 10_000] {
        for (name, matching) in [("matching", true), ("denied", false)] {
            let mut made = None;
            group.bench_function(format!("classify {rules} rules, {name}"), |bencher| {
                let (classifier, queries) = made.get_or_insert_with(|| {
                    (
                        Classifier::compile(&rule_set(rules)),
                        queries(rules, matching),
                    )
                });
                let says = |query| classifier.classify(query).rule_index.is_some();
                assert!(queries.iter().all(|query| says(query) == matching));
                let mut at = 0;
                bencher.iter(|| {
                    at = (at + 1) & (QUERIES - 1);
                    classifier.classify(black_box(&queries[at]))
                });
            });
        }
    }
    group.finish();
}

/// Rules that each have a source network, a destination network and a port range of their own.
fn rule_set(rules: usize) -> RuleSet {
    let rules = (0..rules).map(|n| {
        let net = |first: u8| format!("{first}.{}.{}.0/24", n / 256, n % 256);
        Rule {
            from: [0].into_iter().collect(),
            to: [1].into_iter().collect(),
            source: AddressSet::parse([net(10).as_str()]).expect("a network"),
            destination: AddressSet::parse([net(20).as_str()]).expect("a network"),
            services: vec![Service::Tcp(port(n), port(n) + 9)],
            ..Rule::new(format!("rule {n}"), Action::Allow)
        }
    });
    let zones = Zones::new(["inside", "outside"]).expect("two names");
    RuleSet::new(1, zones, rules.collect(), SyncDefaults::default()).expect("distinct names")
}

fn queries(rules: usize, matching: bool) -> Vec<Query> {
    let mut random = Random(1);
    let query = |_| {
        let n = random.below(rules as u64) as usize;
        let mut below = |bound| random.below(bound) as u8;
        let (high, low) = ((n / 256) as u8, (n % 256) as u8);
        // A packet that is denied has the source and service of a rule, but not its destination.
        let to = if matching { 20 } else { 21 };
        Query {
            zone_from: 0,
            zone_to: 1,
            src: v4_mapped([10, high, low, below(256)]),
            dst: v4_mapped([to, high, low, below(256)]),
            sport: 1_024,
            dport: port(n) + u16::from(below(10)),
            proto: PROTO_TCP,
            ..Query::default()
        }
    };
    (0..QUERIES).map(query).collect()
}

fn port(n: usize) -> u16 {
    1_000 + (n % 5_000) as u16 * 10
}
