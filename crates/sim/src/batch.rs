//! Many seeds in parallel, and what they come to.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sim::{Failure, Fixed, Options, Report, Stats};

/// Failures after which no further seed is begun: more of the same tell nothing.
const FAILURES_MAX: usize = 20;
/// Where there is no terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The seeds to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) from: u64,
    pub(crate) seeds: u64,
    pub(crate) jobs: usize,
    pub(crate) fixed: Fixed,
    /// No progress is shown.
    pub(crate) quiet: bool,
}

/// A seed that failed.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Failed {
    pub(crate) seed: u64,
    profile: &'static str,
    nodes: usize,
    failure: Failure,
    replay: String,
}

/// What all seeds came to.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outcome {
    stats: Stats,
    pub(crate) failed: Vec<Failed>,
    real_ms: u64,
}

impl Batch {
    pub(crate) fn run(self) -> Outcome {
        let started = Instant::now();
        let next = AtomicU64::new(0);
        let result = Mutex::new((Stats::default(), Vec::new()));
        let progress = self.progress();
        let said = Mutex::new(Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds {
                            return;
                        }
                        let seed = self.from + number;
                        let options = Options::of_seed(seed, self.fixed);
                        let Report { stats, failure, .. } = sim::run(&options);
                        let mut result = result.lock().expect("no thread panics with it");
                        result.0.add(&stats);
                        if let Some(failure) = failure {
                            let failed = Failed::new(seed, &options, self.fixed, failure);
                            progress.suspend(|| eprintln!("{failed}"));
                            result.1.push(failed);
                            if result.1.len() >= FAILURES_MAX {
                                next.store(self.seeds, Ordering::Relaxed);
                            }
                        }
                        progress.inc(1);
                        self.say(&result.0, result.1.len(), &said);
                    }
                });
            }
        });
        progress.finish_and_clear();
        let (stats, mut failed) = result.into_inner().expect("no thread panics with it");
        failed.sort_by_key(|failed: &Failed| failed.seed);
        Outcome {
            stats,
            failed,
            real_ms: started.elapsed().as_millis() as u64,
        }
    }

    fn progress(&self) -> ProgressBar {
        let bar = ProgressBar::new(self.seeds);
        let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is fixed"));
        if self.quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar
    }

    /// A plain line now and then, where no bar can be drawn.
    fn say(&self, stats: &Stats, failed: usize, said: &Mutex<Instant>) {
        let mut said = said.lock().expect("no thread panics with it");
        if self.quiet || std::io::stderr().is_terminal() || said.elapsed() < LINE_EVERY {
            return;
        }
        *said = Instant::now();
        eprintln!("{} of {} seeds, {failed} failed", stats.runs, self.seeds);
    }
}

impl Failed {
    pub(crate) fn new(seed: u64, options: &Options, fixed: Fixed, failure: Failure) -> Self {
        let mut replay = format!("cargo run --release -p sim -- --seed {seed} --trace");
        if let Some(profile) = fixed.profile {
            replay += &format!(" --profile {profile}");
        }
        if let Some(nodes) = fixed.nodes {
            replay += &format!(" --nodes {nodes}");
        }
        if let Some(ecmp) = fixed.ecmp {
            replay += &format!(" --ecmp {ecmp}");
        }
        if let Some(time_s) = fixed.time_s {
            replay += &format!(" --time-s {time_s}");
        }
        Self {
            seed,
            profile: options.profile.name(),
            nodes: options.nodes,
            failure,
            replay,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            profile,
            nodes,
            failure,
            replay,
        } = self;
        write!(
            f,
            "seed {seed} ({profile}, {nodes} nodes): {failure}\n    replay: {replay}"
        )
    }
}

impl Outcome {
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings")
    }

    pub(crate) fn print(&self) {
        for (name, value) in self.stats.all() {
            match name {
                "virtual_us" => {
                    println!("{:24} {:.2}", "virtual hours", value as f64 / 3.6e9);
                }
                name => println!("{:24} {value}", name.replace('_', " ")),
            }
        }
        let runs = self.stats.runs.max(1);
        println!(
            "{:24} {:.1} ({} ms of real time per run)",
            "real seconds",
            self.real_ms as f64 / 1e3,
            self.real_ms / runs
        );
        match self.failed.len() {
            0 => println!("{} runs, and no invariant was broken", self.stats.runs),
            n => {
                println!("{n} of {} runs broke an invariant:", self.stats.runs);
                for failed in &self.failed {
                    println!("{failed}");
                }
            }
        }
    }
}
