//! The bare round trip of the transport, between two cpus: the crate's own example measures it.

use std::path::PathBuf;

use lab::Error as LabError;
use lab::program::run;

use crate::bench::Bench;
use crate::error::{Error, Result};

const ROUND_TRIPS: &str = "5000";

/// What a frame of 100 bytes takes there and back, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RoundTrip {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl RoundTrip {
    /// Measures it between threads on these two cpus.
    pub(crate) fn measure(bench: &Bench, [client, server]: [usize; 2]) -> Result<Self> {
        let program = example(bench, "transport", "rtt")?;
        let (client, server) = (client.to_string(), server.to_string());
        // It pins its threads itself, and must be allowed to: we are on one cpu ourselves.
        let all = bench.cpus.all();
        let program = program.display().to_string();
        let args = [
            "--cpu-list",
            &all,
            &program,
            ROUND_TRIPS,
            "0",
            &client,
            &server,
        ];
        let said = run(None, "taskset", &args, "").map_err(|error| match error {
            LabError::MissingProgram { .. } => {
                Error::Machine("`taskset` is missing: install the package util-linux".into())
            }
            error => error.into(),
        })?;
        Self::read(&said).ok_or(Error::Unreadable {
            from: "the example rtt",
            said,
            wanted: "round trip in nanoseconds",
        })
    }

    /// Reads `round trip in ns: p50 19000 p90 ... p99 31000`.
    fn read(said: &str) -> Option<Self> {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("round trip in ns: "))?;
        let field = |name: &str| {
            let mut words = line.split(' ').skip_while(|word| *word != name);
            words.nth(1)?.parse::<f64>().ok()
        };
        Some(Self {
            p50_us: field("p50")? / 1e3,
            p99_us: field("p99")? / 1e3,
        })
    }
}

/// A crate's example, built beside the programs.
pub(crate) fn example(bench: &Bench, package: &str, name: &str) -> Result<PathBuf> {
    let program = bench.binaries.dir().join("examples").join(name);
    if !program.is_file() {
        return Err(Error::Machine(format!(
            "{} is missing: build it with `cargo build -p {package} --example {name}` in the same profile as the rest",
            program.display()
        )));
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_example_says_is_read() {
        let said = "round trip of 100 bytes: median 19µs\nround trip in ns: p50 19000 p90 25000 p99 31000\n";
        let read = RoundTrip {
            p50_us: 19.0,
            p99_us: 31.0,
        };
        assert_eq!(RoundTrip::read(said), Some(read));
        assert_eq!(RoundTrip::read("round trip in ns: p50 x"), None);
    }
}
