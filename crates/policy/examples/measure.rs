//! What a lookup of the classifier costs. `cargo run --release -p policy --example measure`
//!
//! For sets of 10 to 10000 rules, each with a source network, a destination network and a service
//! of its own: packets in random order that match some rule, and packets that match none and so
//! look at every word of the vectors.

use std::hint::black_box;
use std::time::Instant;

use policy::{Action, AddressSet, Classifier, Query, Rule, RuleSet, Service, SyncDefaults, Zones};
use state::{PROTO_TCP, v4_mapped};

const LOOKUPS: usize = 1_000_000;

fn main() {
    println!(
        "{:>6}  {:>14}  {:>14}  {:>8}  {:>10}",
        "rules", "ns, matching", "ns, denied", "KiB", "compile"
    );
    for rules in [10, 100, 1000, 10_000] {
        let set = rule_set(rules);
        let start = Instant::now();
        let classifier = Classifier::compile(&set);
        let compiled = start.elapsed();
        let matching = queries(rules, true);
        let denied = queries(rules, false);
        for (queries, allowed) in [(&matching, true), (&denied, false)] {
            let says = |query| classifier.classify(query).rule_index.is_some();
            assert!(queries.iter().all(|query| says(query) == allowed));
        }
        println!(
            "{rules:>6}  {:>14.1}  {:>14.1}  {:>8}  {:>10.1?}",
            nanoseconds(&classifier, &matching),
            nanoseconds(&classifier, &denied),
            classifier.memory_bytes() / 1024,
            compiled,
        );
    }
}

/// The best of five runs: what the machine's other tenants add is not of interest.
fn nanoseconds(classifier: &Classifier, queries: &[Query]) -> f64 {
    let run = || {
        let start = Instant::now();
        for query in queries.iter().cycle().take(LOOKUPS) {
            black_box(classifier.classify(black_box(query)));
        }
        start.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
    };
    (0..5).map(|_| run()).fold(f64::INFINITY, f64::min)
}

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
    // A linear congruential generator (Knuth, MMIX) is random enough to defeat the predictor.
    let mut random = 1_u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let query = |_| {
        let n = next() % rules;
        let address = |first: u8, host: usize| {
            v4_mapped([first, (n / 256) as u8, (n % 256) as u8, host as u8])
        };
        Query {
            zone_from: 0,
            zone_to: 1,
            src: address(10, next() % 256),
            // The rule of the source and the service, but not its destination.
            dst: address(if matching { 20 } else { 21 }, next() % 256),
            sport: 1024,
            dport: port(n) + (next() % 10) as u16,
            proto: PROTO_TCP,
            ..Query::default()
        }
    };
    (0..65_536).map(query).collect()
}

fn port(n: usize) -> u16 {
    1000 + (n % 5000) as u16 * 10
}
