//! How the lab talks to its own traffic tools: each is a process in a namespace that says what it
//! sees as JSON lines on its standard output, and finishes when its standard input closes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{Process, Spawn};
use crate::state::StateDir;
use crate::wait::Interrupt;
use crate::{Error, Result};

/// How long what an ended tool has written may take to be read.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// One line of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<R> {
    /// It listens, or is connected: traffic can start.
    Ready,
    /// How it stands, about once a second.
    Progress {
        /// The figures so far.
        report: R,
    },
    /// It has finished.
    Report {
        /// The final figures.
        report: R,
    },
}

/// The tool's side: prints an event.
pub fn say<R: Serialize>(event: &Event<R>) -> Result<()> {
    let line = serde_json::to_string(event).expect("reports are plain structures");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Error::system("write to standard output"))
}

/// The tool's side: sets the interrupt once standard input closes.
pub fn stop_at_stdin_end(stop: &Interrupt) {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut scratch = [0; 64];
        let mut stdin = std::io::stdin().lock();
        // Bytes mean nothing; an error is as final as the end.
        while matches!(stdin.read(&mut scratch), Ok(n) if n > 0) {}
        stop.set();
    });
}

/// The lab's side: a running tool that reports `R`.
#[derive(Debug)]
pub struct Tool<R> {
    process: Process,
    lines: Receiver<String>,
    latest: Option<R>,
    ready: bool,
    finished: bool,
}

impl<R: DeserializeOwned + Clone> Tool<R> {
    /// Starts it; its standard error goes to `log`.
    pub fn start(spawn: Spawn, state: &StateDir, log: &Path) -> Result<Self> {
        let mut process = spawn.piped().start(state, log)?;
        let stdout = process.take_stdout().ok_or_else(|| {
            Error::Scenario(format!(
                "{} was started without a pipe for its standard output",
                process.name()
            ))
        })?;
        Ok(Self {
            process,
            lines: line_channel(stdout),
            latest: None,
            ready: false,
            finished: false,
        })
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.ready {
            self.hear(limit.saturating_sub(start.elapsed()), "to be ready")?;
        }
        Ok(())
    }

    /// Its figures as of now, or `None` when it has not told any yet. Fails when it has ended
    /// without its final figures.
    pub fn progress(&mut self) -> Result<Option<R>> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line)?;
        }
        if !self.finished && self.process.try_wait()?.is_some() {
            // Its last words may still be on their way to us.
            while !self.finished {
                self.hear(LAST_WORDS_LIMIT, "to be heard to its end")?;
            }
        }
        Ok(self.latest.clone())
    }

    /// Tells it to finish and waits for its final figures.
    pub fn finish(mut self, limit: Duration) -> Result<R> {
        drop(self.process.take_stdin());
        let start = Instant::now();
        while !self.finished {
            self.hear(limit.saturating_sub(start.elapsed()), "to finish")?;
        }
        self.latest
            .take()
            .ok_or_else(|| Error::Scenario(format!("{} reported nothing", self.process.name())))
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn hear(&mut self, limit: Duration, what: &str) -> Result<()> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => self.take(&line),
            Err(RecvTimeoutError::Timeout) => Err(Error::Timeout {
                what: format!("{} {what}", self.process.name()),
                after: limit,
                detail: format!("; its log is {}", self.process.log().display()),
            }),
            Err(RecvTimeoutError::Disconnected) => {
                match self.process.wait_timeout(Duration::from_secs(5))? {
                    Some(status) => Err(self.process.ended_error(status)),
                    None => Err(Error::Scenario(format!(
                        "{} closed its output but runs on",
                        self.process.name()
                    ))),
                }
            }
        }
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let event: Event<R> = serde_json::from_str(line).map_err(|source| Error::Json {
            from: self.process.name().to_owned(),
            source,
            text: line.chars().take(200).collect(),
        })?;
        match event {
            Event::Ready => self.ready = true,
            Event::Progress { report } => self.latest = Some(report),
            Event::Report { report } => {
                self.latest = Some(report);
                self.finished = true;
            }
        }
        Ok(())
    }
}

fn line_channel(stdout: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
