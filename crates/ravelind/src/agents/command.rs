//! The programs of agents: started with the daemon, and again when they end.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::Event;

/// The pause before the first start anew; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A program that has run for so long did not fail at its start.
const RAN_WELL: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended, and whether the daemon does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs an agent's program until `stop`.
pub(crate) fn run(
    agent: &config::Agent,
    socket: &PathBuf,
    stop: &Arc<AtomicBool>,
    events: &SyncSender<Event>,
) {
    let Some((program, args)) = agent.command.split_first() else {
        return;
    };
    let mut pause = PAUSE_FIRST;
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        if !std::mem::take(&mut first) {
            let _ = events.try_send(Event::Restarted);
        }
        let started = Instant::now();
        let child = Command::new(program)
            .args(args)
            .env("RAVELIN_AGENT_SOCKET", socket)
            .env("RAVELIN_AGENT_NAME", &agent.name)
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => match watch(child, stop) {
                None => return,
                Some(status) => {
                    if started.elapsed() >= RAN_WELL {
                        pause = PAUSE_FIRST;
                    }
                    tracing::warn!(
                        "agent {}: {program} has ended, {status}; it starts again in {pause:?}",
                        agent.name
                    );
                }
            },
            Err(error) => tracing::error!(
                "agent {}: {program} does not start, {error}; tried again in {pause:?}",
                agent.name
            ),
        }
        let begun = Instant::now();
        while begun.elapsed() < pause && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Waits for a program's end; ends it at `stop`, and returns nothing then.
fn watch(mut child: Child, stop: &AtomicBool) -> Option<String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.to_string()),
            Ok(None) => {}
            Err(error) => return Some(error.to_string()),
        }
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
