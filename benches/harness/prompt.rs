//! dpdk-testpmd's prompt: orders go in, and what it says is read in its log.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::time::Duration;

use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Namespace, Process, Spawn};

use crate::bench::Bench;
use crate::error::{Error, Result};

/// A running testpmd.
#[derive(Debug)]
pub(crate) struct Prompt {
    process: Process,
    stdin: ChildStdin,
    log: PathBuf,
}

impl Prompt {
    /// Starts one under this name, in `space` if there is any, and waits until its ports are up.
    pub(crate) fn start(
        bench: &Bench,
        name: &str,
        args: &[String],
        space: Option<&Namespace>,
        limit: Duration,
    ) -> Result<Self> {
        let log = bench.log(name)?;
        // Line by line, for its output is a file and we read along.
        let mut spawn = Spawn::new(name, "stdbuf")
            .args(["--output=L", "dpdk-testpmd"])
            .args(args);
        if let Some(space) = space {
            spawn = spawn.inside(space);
        }
        let mut process = spawn.start(&bench.state, &log)?;
        let stdin = process.take_stdin().expect("it was started with a pipe");
        let mut prompt = Self {
            process,
            stdin,
            log,
        };
        let said = prompt.wait_for(bench, 0, "testpmd>", limit)?;
        if said.contains("Start ports failed") {
            return Err(Error::Machine(format!(
                "testpmd cannot use its ports; see {}",
                prompt.log.display()
            )));
        }
        Ok(prompt)
    }

    /// Fails when it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        Ok(self.process.must_run()?)
    }

    /// Gives it these lines.
    pub(crate) fn order(&mut self, words: &str) -> Result<()> {
        self.process.must_run()?;
        let written = self.stdin.write_all(words.as_bytes());
        Ok(written.map_err(LabError::system("tell testpmd"))?)
    }

    /// How many bytes it has said so far.
    pub(crate) fn said(&self) -> Result<usize> {
        let metadata = fs::metadata(&self.log).map_err(LabError::file("read", &self.log))?;
        Ok(metadata.len() as usize)
    }

    /// Waits until it has said this after the first `begin` bytes; returns what it said there.
    pub(crate) fn wait_for(
        &mut self,
        bench: &Bench,
        begin: usize,
        what: &str,
        limit: Duration,
    ) -> Result<String> {
        let every = Duration::from_millis(10);
        let title = format!("testpmd to say {what:?}");
        Ok(wait_until(&title, limit, every, &bench.interrupt, || {
            let bytes = fs::read(&self.log).map_err(LabError::file("read", &self.log))?;
            let said = String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default());
            if said.contains(what) {
                return Ok(Poll::Ready(said.into_owned()));
            }
            self.process.must_run()?;
            Ok(Poll::Pending(format!("see {}", self.log.display())))
        })?)
    }
}

/// The number behind a label in what testpmd prints.
pub(crate) fn number(said: &str, label: &str) -> Option<u64> {
    let rest = &said[said.find(label)? + label.len()..];
    rest.split_whitespace().next()?.parse().ok()
}
