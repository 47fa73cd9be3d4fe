//! What the packet path costs in instructions, counted by valgrind: `scripts/counts.sh` runs each case by itself and
//! compares with `baseline.json`.
//!
//! `counts` names the cases; `counts CASE` runs one and prints how many units (packets, keys, records) were
//! counted. The same each time: fixed seeds, a clock of the turns. Only what runs inside of [`counted`] counts,
//! which the script tells callgrind by that function's name.
#![forbid(unsafe_code)]

// Shared with the micro benchmarks.
#[path = "../micro/flows.rs"]
mod flows;
mod protocol;
#[path = "../micro/replay.rs"]
mod replay;
#[path = "../micro/rig.rs"]
mod rig;

use std::hint::black_box;
use std::process::ExitCode;

use flowtable::{FlowTable, Local};
use state::{FlowKey, PROTO_TCP, PROTO_UDP, Progress};
use wire::tcp::ACK;
use wire::{Parsed, build};

use crate::flows::{record, shuffled, udp};
use crate::rig::{Clock, Rig, frames, known_tcp, known_udp};

/// Flows of the tables: so few that all is in the caches, which instructions do not show anyway.
const FLOWS: u32 = 1_000;
/// Time of a turn: with 32 packets in it that is three million a second, so housekeeping has its usual share.
const CLOCK: Clock = Clock::PerTurn(10_000);
const BURST: usize = 32;
/// Rounds of a case that has nothing to run out of.
const ROUNDS: usize = 1_000;

/// A case, and how many units it counted.
type Case = (&'static str, fn() -> u64);

const CASES: [Case; 12] = [
    ("parse-udp", || parse(&udp(7))),
    ("parse-tcp", || {
        parse(&build::tcp(
            flows::client(7),
            flows::server(),
            ACK,
            1,
            1,
            &[0; 6],
        ))
    }),
    ("lookup", lookup),
    ("known-udp", || replay(known_udp(FLOWS, CLOCK))),
    ("known-tcp", || replay(known_tcp(FLOWS, CLOCK))),
    ("open-unreplicated", || open(false)),
    ("open-held", || open(true)),
    ("merge-equal", || merge(false)),
    ("merge-newer", || merge(true)),
    ("pack", || protocol::run(PROTO_UDP, protocol::Half::Pack)),
    ("pack-tcp", || {
        protocol::run(PROTO_TCP, protocol::Half::Pack)
    }),
    ("validate", || {
        protocol::run(PROTO_UDP, protocol::Half::Validate)
    }),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, run)) = CASES.iter().find(|(case, _)| *case == name) else {
        eprintln!("counts: there is no case {name:?}; `counts` alone names them");
        return ExitCode::from(2);
    };
    println!("{}", run());
    ExitCode::SUCCESS
}

/// What is counted. A function of its own, and one for all: callgrind knows it by its name.
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    run();
    // So that there is something to do after the call, and it is not a jump.
    black_box(());
}

fn parse(frame: &[u8]) -> u64 {
    let mut parsed = Parsed::EMPTY;
    counted(&mut || {
        for _ in 0..ROUNDS {
            wire::parse_into(black_box(frame), &mut parsed).expect("a good frame");
            assert!(wire::verify_l4(black_box(frame), black_box(&parsed)));
        }
    });
    ROUNDS as u64
}

fn lookup() -> u64 {
    let mut table = FlowTable::with_capacity(FLOWS as usize, 7);
    for n in 0..FLOWS {
        let inserted = table.insert(record(n, PROTO_UDP), Local::default());
        inserted.expect("there is room, and numbers make different keys");
    }
    let keys: Vec<FlowKey> = shuffled(FLOWS)
        .into_iter()
        .map(|n| record(n, PROTO_UDP).key)
        .collect();
    let mut ids = [None; BURST];
    let mut found = 0;
    counted(&mut || {
        for burst in keys.chunks_exact(BURST) {
            table.lookup_burst(burst, &mut ids);
            found += black_box(&ids).iter().flatten().count() as u64;
        }
    });
    assert_eq!(found, u64::from(FLOWS) / BURST as u64 * BURST as u64);
    found
}

fn replay(mut rig: Rig) -> u64 {
    let packets = 20 * u64::from(FLOWS);
    counted(&mut || rig.replay(packets));
    packets
}

fn open(replicate: bool) -> u64 {
    let count = 10 * FLOWS;
    let mut rig = Rig::new(count, replicate, CLOCK);
    rig.arrive(frames(0..count, udp));
    counted(&mut || rig.open(count as usize));
    count.into()
}

fn merge(newer: bool) -> u64 {
    let old = record(12_345, PROTO_TCP);
    let mut other = old;
    if newer {
        other.tcp[0].end += 1_000;
        let reply = Progress::seen(old.class.origin.reverse());
        other.progress = old.progress.union(reply);
    }
    counted(&mut || {
        for _ in 0..ROUNDS {
            let mut mine = black_box(old);
            assert_eq!(mine.merge(black_box(&other)), newer);
            black_box(mine);
        }
    });
    ROUNDS as u64
}
