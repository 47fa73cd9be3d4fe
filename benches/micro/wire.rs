//! Reading a frame.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use wire::tcp::ACK;
use wire::{Parsed, build};

use crate::cpu_time::CpuTime;

pub(crate) fn bench(criterion: &mut Criterion<CpuTime>) {
    let at = |text: &str| text.parse().expect("an address and a port");
    let (a4, b4) = (at("10.1.0.10:40000"), at("10.2.0.10:80"));
    let (a6, b6) = (at("[fd00:1::10]:40000"), at("[fd00:2::10]:80"));
    let frames = [
        ("v4 udp", build::udp(a4, b4, &[0; 18])),
        ("v4 tcp", build::tcp(a4, b4, ACK, 1, 1, &[0; 6])),
        ("v6 udp", build::udp(a6, b6, &[0; 18])),
        ("v6 tcp", build::tcp(a6, b6, ACK, 1, 1, &[0; 6])),
    ];
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in &frames {
        group.bench_function(format!("parse_into {name}"), |bencher| {
            let mut parsed = Parsed::EMPTY;
            bencher.iter(|| {
                wire::parse_into(black_box(frame), &mut parsed).expect("a good frame");
                black_box(&parsed);
            });
        });
    }
    for payload in [18, 1400] {
        let frame = build::udp(a4, b4, &vec![0x5a; payload]);
        let parsed = wire::parse(&frame).expect("a good frame");
        group.bench_function(format!("verify_l4 udp, {payload} bytes"), |bencher| {
            bencher.iter(|| assert!(wire::verify_l4(black_box(&frame), &parsed)));
        });
    }
    group.finish();
}
