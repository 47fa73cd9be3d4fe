//! The simulation's command line: many seeds in parallel, or one with its trace.
#![forbid(unsafe_code)]

mod batch;

use std::process::ExitCode;

use clap::Parser;
use sim::{Fixed, Options, Profile};

use crate::batch::{Batch, Failed};

/// Runs whole clusters on a virtual clock and network, one per seed, and checks at every step that
/// nothing protected is lost, that copies converge, and that nothing grows without bound.
///
/// A seed stands for a cluster, its traffic and its failures; the same seed with the same options
/// is the same run. Failures are printed with the command that replays them. Exit status 1 when
/// an invariant was broken.
#[derive(Parser, Debug)]
#[command(name = "sim", version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Begins with a seed that the clock chooses, so that each time others are run.
    #[arg(long, conflicts_with_all = ["from", "seed", "mutations"])]
    fresh: bool,
    /// Runs this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// How many runs at a time; without it as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
    /// How many nodes, 2 to 16, instead of what the seed says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=16))]
    nodes: Option<u64>,
    /// Whether a router spreads packets over the nodes, each direction by itself, so that any node handles
    /// any flow, instead of what the seed says.
    #[arg(long)]
    ecmp: Option<bool>,
    /// Which faults, instead of what the seed says.
    #[arg(long)]
    profile: Option<Profile>,
    /// Seconds of virtual time with faults and new connections, instead of what the seed says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    time_s: Option<u64>,
    /// Prints everything that happens; with --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Puts deliberate bugs into the code under test, one at a time, and shows that each is found
    /// within so many seeds as `--seeds` says. Needs the feature `mutations`.
    #[arg(long, conflicts_with_all = ["seed", "profile", "nodes", "ecmp", "time_s", "trace", "json"])]
    mutations: bool,
    /// Prints the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let jobs = args.jobs.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    });
    if args.mutations {
        return mutations(jobs, args.seeds);
    }
    let fixed = Fixed {
        profile: args.profile,
        nodes: args.nodes.map(|nodes| nodes as usize),
        ecmp: args.ecmp,
        time_s: args.time_s,
    };
    if let (Some(seed), true) = (args.seed, args.trace) {
        return trace(seed, fixed);
    }
    let first = match args.fresh {
        true => fresh_seed(),
        false => args.from,
    };
    let (from, seeds) = args.seed.map_or((first, args.seeds), |seed| (seed, 1));
    if args.fresh && !args.json {
        println!("seeds {from} to {}", from + seeds - 1);
    }
    let batch = Batch {
        from,
        seeds,
        jobs,
        fixed,
        quiet: args.json,
    };
    let result = batch.run();
    if args.json {
        println!("{}", result.json());
    } else {
        result.print();
    }
    match result.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Far from the seeds that people begin with, and from those of any other second.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs()) * 1_000
}

/// One run with all that happens in it.
fn trace(seed: u64, fixed: Fixed) -> ExitCode {
    let mut options = Options::of_seed(seed, fixed);
    options.trace = true;
    println!("{options:#?}");
    let report = sim::run(&options);
    for line in &report.trace {
        println!("{line}");
    }
    match report.failure {
        Some(failure) => {
            println!("{}", Failed::new(seed, &options, fixed, failure));
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

#[cfg(feature = "mutations")]
fn mutations(jobs: usize, seeds: u64) -> ExitCode {
    // Each is active on the thread that looks for it only.
    let next = std::sync::atomic::AtomicUsize::new(0);
    let all = state::mutation::Mutation::ALL;
    let hunts = std::thread::scope(|scope| {
        let look = || {
            let at = || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mine = std::iter::from_fn(|| all.get(at()).copied());
            mine.map(|mutation| sim::mutations::hunt(mutation, seeds))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(look)).collect();
        let hunts = threads.into_iter().map(|thread| thread.join());
        hunts
            .flat_map(|hunts| hunts.expect("a run's panic is caught"))
            .collect::<Vec<_>>()
    });
    let mut survived = 0;
    for hunt in hunts {
        let mutation = hunt.mutation;
        match hunt.found {
            Some((seed, profile, failure)) => println!(
                "{:20} found by seed {seed} of {profile}, after {} runs: {}",
                format!("{mutation:?}"),
                hunt.runs,
                failure.invariant.name()
            ),
            None => {
                survived += 1;
                println!("{:20} SURVIVED {} runs", format!("{mutation:?}"), hunt.runs);
            }
        }
    }
    match survived {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[cfg(not(feature = "mutations"))]
fn mutations(_: usize, _: u64) -> ExitCode {
    eprintln!(
        "mutations are not built in: cargo run --release -p sim --features mutations -- --mutations"
    );
    ExitCode::from(2)
}
