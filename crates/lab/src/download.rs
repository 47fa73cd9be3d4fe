//! Downloads by curl, hashed as they arrive. One thread reads all of them: there are hundreds,
//! and the machine is small.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};

use crate::process::{Process, Spawn};
use crate::state::StateDir;
use crate::web::{RandomFile, hex};
use crate::{Error, Namespace, Result};

/// Seconds without a byte after which a download counts as broken.
const STALL_S: u32 = 30;

/// One download to make.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its name in messages.
    pub name: String,
    /// Where the file is.
    pub url: String,
    /// What must arrive.
    pub file: RandomFile,
    /// Bytes per second, at most.
    pub rate: u64,
    /// The local port, to find the connection by; any when `None`.
    pub local_port: Option<u16>,
}

/// How a download ended that did not bring what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its order's name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Downloads under way. Dropping it ends them.
#[derive(Debug)]
pub struct Downloads {
    orders: Vec<Order>,
    curls: Vec<Process>,
    progress: Arc<Mutex<Vec<Arrived>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

/// What has arrived of one download.
#[derive(Debug, Clone, Default)]
struct Arrived {
    bytes: u64,
    /// The hash of all of it, once curl has closed its end.
    sha256: Option<String>,
}

impl Downloads {
    /// Starts a curl in `space` for each order. Their complaints go to `log`.
    pub fn start(
        orders: Vec<Order>,
        space: &Namespace,
        state: &StateDir,
        log: &Path,
    ) -> Result<Self> {
        let mut curls = Vec::new();
        let mut pipes: Vec<OwnedFd> = Vec::new();
        for order in &orders {
            let mut spawn = Spawn::new(&order.name, "curl")
                .args([
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--http1.1",
                    "--connect-timeout",
                    "15",
                ])
                .args(["--speed-limit", "1", "--speed-time", &STALL_S.to_string()])
                .args(["--limit-rate", &order.rate.to_string()]);
            if let Some(port) = order.local_port {
                spawn = spawn.args(["--local-port", &port.to_string()]);
            }
            let mut curl = spawn
                .args([&order.url])
                .inside(space)
                .piped()
                .start(state, log)?;
            let stdout = curl.take_stdout().ok_or_else(|| {
                Error::Scenario(format!(
                    "{} was started without a pipe for its output",
                    order.name
                ))
            })?;
            pipes.push(stdout.into());
            curls.push(curl);
        }
        let progress = Arc::new(Mutex::new(vec![Arrived::default(); orders.len()]));
        let reader = std::thread::spawn({
            let progress = Arc::clone(&progress);
            move || read_all(pipes, &progress)
        });
        Ok(Self {
            orders,
            curls,
            progress,
            reader: Some(reader),
        })
    }

    /// Bytes that have arrived of download `index`.
    pub fn bytes(&self, index: usize) -> u64 {
        lock(&self.progress)[index].bytes
    }

    /// How many have received at least a byte.
    pub fn flowing(&self) -> usize {
        lock(&self.progress)
            .iter()
            .filter(|arrived| arrived.bytes > 0)
            .count()
    }

    /// The names of those that have received nothing, broken ones too.
    pub fn without_a_byte(&self) -> Vec<&str> {
        let arrived = lock(&self.progress);
        let named = self.orders.iter().zip(arrived.iter());
        let waiting = named.filter(|(_, arrived)| arrived.bytes == 0);
        waiting.map(|(order, _)| &order.name[..]).collect()
    }

    /// How many are still under way.
    pub fn open(&self) -> usize {
        lock(&self.progress)
            .iter()
            .filter(|arrived| arrived.sha256.is_none())
            .count()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Once none is open: which did not bring what they should.
    pub fn failures(&mut self) -> Result<Vec<Failure>> {
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let arrived = lock(&self.progress).clone();
        let mut failures = Vec::new();
        for ((order, curl), arrived) in self.orders.iter().zip(&mut self.curls).zip(arrived) {
            // It has closed its output, so its end is near.
            let status = curl.wait_timeout(Duration::from_secs(10))?;
            let reason = match (status, arrived.sha256) {
                (None, _) => "curl does not end".to_owned(),
                (Some(status), _) if !status.success() => {
                    format!(
                        "curl failed ({status}) after {} of {} bytes",
                        arrived.bytes, order.file.bytes
                    )
                }
                (_, sha256) if sha256.as_deref() != Some(order.file.sha256.as_str()) => {
                    format!(
                        "{} of {} bytes arrived, and their hash is wrong",
                        arrived.bytes, order.file.bytes
                    )
                }
                _ => continue,
            };
            failures.push(Failure {
                name: order.name.clone(),
                reason,
            });
        }
        Ok(failures)
    }
}

/// Reads every pipe to its end.
fn read_all(pipes: Vec<OwnedFd>, progress: &Mutex<Vec<Arrived>>) -> Result<()> {
    let mut open: Vec<(usize, OwnedFd, Sha256)> = pipes
        .into_iter()
        .enumerate()
        .map(|(index, pipe)| (index, pipe, Sha256::new()))
        .collect();
    let mut block = vec![0; 64 * 1024];
    while !open.is_empty() {
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|(_, pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::system("wait for downloads")(errno)),
        }
        let ready: Vec<bool> = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        drop(fds);
        let mut ready = ready.into_iter();
        let mut failed = None;
        open.retain_mut(|(index, pipe, hash)| {
            if ready.next() != Some(true) {
                return true;
            }
            match nix::unistd::read(&*pipe, &mut block) {
                Ok(0) => {
                    lock(progress)[*index].sha256 = Some(hex(&hash.finalize_reset()));
                    false
                }
                Ok(length) => {
                    hash.update(&block[..length]);
                    lock(progress)[*index].bytes += length as u64;
                    true
                }
                Err(Errno::EINTR | Errno::EAGAIN) => true,
                Err(errno) => {
                    failed = Some(errno);
                    false
                }
            }
        });
        if let Some(errno) = failed {
            return Err(Error::system("read a download")(errno));
        }
    }
    Ok(())
}

fn lock(progress: &Mutex<Vec<Arrived>>) -> MutexGuard<'_, Vec<Arrived>> {
    // Counters are whole after any panic of the other side.
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}
