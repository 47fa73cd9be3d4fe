//! The benchmark: Ravelin and its peers, the same packets on the same cores in the same run.
//!
//! `scripts/bench.sh` runs this, and `docs/performance.md` says what each case is and how it is measured.
//! dpdk-testpmd replays a file of frames into the gateway's memif port; the gateway has one worker on a cpu of
//! its own, and what it forwards goes to a sink that takes everything. Rates come from the gateway's counters,
//! and a figure is given only when the counters agree that it is one: every flow is in the table, nothing
//! was dropped, what went out is what came in.
//!
//! * [`traffic`], [`pcap`]: flows and files of frames. [`generator`]: testpmd.
//! * [`gateway`]: what is measured; [`ravelin`] and the peers: [`ovs`], [`nftables`], [`conntrackd`].
//! * [`cases`]: the cases by name; [`forward`], [`ceiling`], [`mod@workers`], [`newflows`], [`cluster`]: how they are measured; [`mod@measure`]: from counters
//!   to figures.
//! * [`mod@bench`], [`machine`]: processes, cpus, pages, cleaning up. [`report`], [`html`]: what comes of it.
#![forbid(unsafe_code)]

mod bench;
mod cases;
mod ceiling;
mod cluster;
mod conntrackd;
mod error;
mod failover;
mod forward;
mod gateway;
mod generator;
mod hold_latency;
mod html;
mod machine;
mod measure;
mod newflows;
mod nftables;
mod ovs;
mod pair;
mod pcap;
mod prompt;
mod quic;
mod ravelin;
mod report;
mod snapshot;
mod traffic;
mod wire_port;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::bench::{Bench, Pace};
use crate::cases::Case;
use crate::error::{Error, Result};
use crate::gateway::System;
use crate::machine::Machine;
use crate::report::{Line, Report};
use crate::traffic::Flows;

/// Measures Ravelin and its peers on this machine. As root, and with nothing else running.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Arguments {
    /// The cases; all of them if none is named.
    cases: Vec<Case>,
    /// Names the cases, and ends.
    #[arg(long)]
    list: bool,
    /// The most telling cases, with short runs.
    #[arg(long)]
    quick: bool,
    /// The systems, with commas between them; all of them if none is named, but with --quick of some only what
    /// tells most.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Measurements per case and system; 5, or 3 when quick.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
    /// How many milliseconds one takes; 3000, or 1000 when quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(50..=600_000))]
    window_ms: Option<u32>,
    /// How many flows `failover` and `snapshot` are about; a million, or a hundred thousand when quick.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    flows: Option<u32>,
    /// The most workers of `workers`; as many as the machine has cpus for. More than that share them, and only show that it works.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
    workers: Option<u8>,
    /// Where report.json, report.html and logs go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// What the run's processes and namespaces are called by.
    #[arg(long, default_value = "rvbench")]
    id: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        Case::ALL.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(missing) => {
            eprintln!("bench: {missing} figure(s) missing, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, writes the report, and returns how many figures there should be and are not.
fn run(arguments: &Arguments) -> Result<usize> {
    let quick = arguments.quick;
    let names: &[&str] = if quick { &Case::QUICK } else { &Case::ALL };
    let cases: Vec<Case> = match arguments.cases.as_slice() {
        [] => names
            .iter()
            .map(|name| name.parse().expect("a case's name"))
            .collect(),
        named => named.to_vec(),
    };
    let pace = Pace {
        runs: usize::from(arguments.runs.unwrap_or(if quick { 3 } else { 5 })),
        window: Duration::from_millis(
            arguments
                .window_ms
                .unwrap_or(if quick { 1000 } else { 3000 })
                .into(),
        ),
    };
    let some = arguments
        .flows
        .unwrap_or(if quick { 100_000 } else { cases::MILLION });
    let workers = arguments.workers.map(usize::from);
    let is_due = |case: Case, system: System| {
        let named = arguments.systems.contains(&system);
        let unnamed = arguments.systems.is_empty() && (!quick || case.is_quick_for(system));
        (named || unnamed) && case.is_for(system)
    };
    let due: Vec<(Case, System)> = cases
        .iter()
        .flat_map(|case| {
            System::value_variants()
                .iter()
                .map(|system| (*case, *system))
        })
        .filter(|(case, system)| is_due(*case, *system))
        .collect();
    let needs = due
        .iter()
        .map(|(case, system)| needs_mb(*case, case.flows(some), *system, workers));
    let needs = needs.max().unwrap_or(0);
    let bench = Bench::new(&arguments.id, &arguments.out, needs, pace)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut report = Report {
        machine: Machine::look(&bench.cpus, bench.pages.huge(), version),
        cases: vec![],
        notes: vec![],
    };
    if !bench.pages.huge() {
        let note =
            format!("the kernel could not give {needs} MB of huge pages: every rate is lower");
        report.notes.push(("all".into(), note));
    }
    let mut missing = 0;
    for (case, system) in due {
        let about = format!("{case} {}", system.name());
        bench.progress.say(format!("{about} ..."));
        match measure(&bench, case, &case.flows(some), system, workers) {
            Ok((lines, notes)) => {
                for line in &lines {
                    let (median, unit) = (report::short(line.median), &line.unit);
                    let (case, system) = (&line.case, &line.system);
                    bench
                        .progress
                        .say(format!("{case} {system}: {median} {unit}"));
                }
                report.cases.extend(lines);
                report
                    .notes
                    .extend(notes.into_iter().map(|note| (about.clone(), note)));
            }
            Err(error) if error.is_interrupt() => return Err(error),
            Err(error) => {
                missing += 1;
                bench.progress.say(format!("{about}: no figure: {error}"));
                report.notes.push((about, format!("no figure: {error}")));
            }
        }
        // Whatever happens to a later case, what there is is there.
        report.write(&arguments.out)?;
    }
    print!("{}", report.table());
    for (about, note) in &report.notes {
        println!("{about}: {note}");
    }
    Ok(missing)
}

fn measure(
    bench: &Bench,
    case: Case,
    flows: &Flows,
    system: System,
    workers: Option<usize>,
) -> Result<(Vec<Line>, Vec<String>)> {
    let available = machine::available_mb()?;
    let needs = ordinary_mb(flows);
    if available < needs {
        return Err(Error::Machine(format!(
            "it takes {needs} MB of memory, and {available} MB are to be had"
        )));
    }
    let outcome = match case {
        Case::Forward(_) => forward::measure(bench, flows, system)?,
        Case::Ceiling(_) => ceiling::measure(bench, flows)?,
        Case::Workers => workers::measure(bench, flows, workers)?,
        Case::NewFlowsNone => newflows::measure(bench, flows, system)?,
        Case::NewFlowsReplicated { .. } if system == System::Conntrackd => {
            conntrackd::newflows(bench, flows)?
        }
        Case::WireBytes if system == System::Conntrackd => conntrackd::wire_bytes(bench, flows)?,
        Case::NewFlowsReplicated { held } => cluster::newflows(bench, flows, held)?,
        Case::WireBytes => cluster::wire_bytes(bench, flows)?,
        Case::Memory => newflows::memory(bench, flows, system)?,
        Case::HoldLatency => hold_latency::measure(bench)?,
        Case::Failover => failover::measure(bench, flows)?,
        Case::Snapshot => snapshot::measure(bench, flows)?,
    };
    let lines = outcome.readings.into_iter().map(|reading| {
        let of = reading.of.unwrap_or(system.name());
        let case = format!("{case}{}", reading.part);
        Line::new(case, of, reading.unit, reading.figure)
    });
    Ok((lines.collect(), outcome.notes))
}

/// Megabytes of huge pages that a case takes: the generator's frames and the hungriest gateway.
fn needs_mb(case: Case, flows: Flows, system: System, workers: Option<usize>) -> u64 {
    let files = match flows.proto {
        traffic::Proto::Udp => 1,
        traffic::Proto::Tcp => 3,
    };
    let kernel = matches!(system, System::Nftables | System::Conntrackd);
    let mbuf = u64::from(generator::frame_room(flows.frame_max(), kernel)) + 128 + 192;
    // Buffers do not cross pages, which costs a few of a hundred.
    let generator = ((u64::from(flows.count) * files * mbuf * 103 / 100) >> 20) + 320;
    // A cluster has two of ours.
    let daemons = match case {
        Case::Workers => workers.unwrap_or_else(machine::most_workers).max(2) as u64,
        _ => 2,
    };
    generator + ovs::MEMORY_MB.max(daemons * ravelin::MEMORY_MB)
}

/// Megabytes of ordinary memory besides: tables, for the hungriest gateway.
fn ordinary_mb(flows: &Flows) -> u64 {
    const BYTES_PER_FLOW: u64 = 1024;
    ((u64::from(forward::capacity(flows.count)) * BYTES_PER_FLOW) >> 20) + 512
}
