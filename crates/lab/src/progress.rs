//! What the user sees meanwhile: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line tells of a bar's progress.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Progress of the scenario.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    begin: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} [{bar:40}] {percent:>3}% {msg}")
                .expect("the template is constant and right");
            let bar = ProgressBar::new(1000).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            begin: Instant::now(),
            told: None,
        }
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = format!(
            "{:6.1}s  {}",
            self.begin.elapsed().as_secs_f64(),
            line.as_ref()
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// How far `done` is on the way to `all`, and a word on it.
    pub fn show(&mut self, done: u64, all: u64, words: &str) {
        let permille = (done.min(all) * 1000).checked_div(all).unwrap_or(1000);
        match &self.bar {
            Some(bar) => {
                bar.set_position(permille);
                bar.set_message(words.to_owned());
            }
            None if self.told.is_none_or(|told| told.elapsed() >= PLAIN_EVERY) => {
                self.told = Some(Instant::now());
                self.say(format!("{:3}%  {words}", permille / 10));
            }
            None => {}
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
