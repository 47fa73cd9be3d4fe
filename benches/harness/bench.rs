//! What every measurement needs: the folder of its state, cpus, pages, logs, and a way to stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::program::Binaries;
use lab::progress::Progress;
use lab::state::{LabId, Lock, StateDir};
use lab::wait::Interrupt;
use lab::{Error as LabError, Namespace};

use crate::error::Result;
use crate::machine::{Cpus, Pages};

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Measurements per case and system.
    pub(crate) runs: usize,
    /// How long one takes, where the case does not say.
    pub(crate) window: Duration,
}

/// The bench. Dropped, it ends every process that it started and removes what it made, but for logs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) pace: Pace,
    pub(crate) cpus: Cpus,
    pub(crate) pages: Pages,
    pub(crate) state: StateDir,
    pub(crate) interrupt: Interrupt,
    pub(crate) progress: Progress,
    pub(crate) binaries: Binaries,
    /// Where files of frames lie.
    pub(crate) pcaps: PathBuf,
    id: LabId,
    logs: PathBuf,
    /// Held as long as we are at work: two benches would measure each other.
    _lock: Lock,
}

impl Bench {
    /// Sets up: takes the lock, removes what an earlier run has left, reserves `huge_mb` of huge pages.
    pub(crate) fn new(id: &str, out: &Path, huge_mb: u64, pace: Pace) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot.into());
        }
        let id = LabId::new(id)?;
        let interrupt = Interrupt::install()?;
        let state = StateDir::of(&id);
        let lock = state.lock()?;
        clear(&id, &state)?;
        state.create()?;
        let folder = |name: &str| -> Result<PathBuf> {
            let path = out.join(name);
            fs::create_dir_all(&path).map_err(LabError::file("make", &path))?;
            Ok(path)
        };
        Ok(Self {
            pace,
            cpus: Cpus::choose()?,
            pages: Pages::reserve(huge_mb, state.path())?,
            state,
            interrupt,
            progress: Progress::new(),
            binaries: Binaries::locate()?,
            pcaps: folder("pcaps")?,
            logs: folder("logs")?,
            id,
            _lock: lock,
        })
    }

    /// A path in the folder of this run's state.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// An empty log of this name.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        let path = self.logs.join(format!("{name}.log"));
        fs::File::create(&path).map_err(LabError::file("make", &path))?;
        Ok(path)
    }

    /// A name that no other program on this machine has, for instance for DPDK's files.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.id)
    }

    /// The namespace of a member; see [`LabId::namespace`] for which there are.
    pub(crate) fn namespace(&self, member: &str) -> Namespace {
        self.id.namespace(member)
    }

    /// Lets time pass, unless the user interrupts.
    pub(crate) fn pass(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.interrupt.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pcaps);
        let cleared = clear_processes(&self.id, &self.state);
        // Their mount is in the folder.
        self.pages.release();
        if let Err(error) = cleared.and_then(|()| Ok(self.state.remove()?)) {
            eprintln!("bench: not all was removed: {error}");
        }
    }
}

fn clear(id: &LabId, state: &StateDir) -> Result<()> {
    clear_processes(id, state)?;
    crate::machine::release_left(state.path());
    crate::nftables::release_left(state.path());
    Ok(state.remove()?)
}

fn clear_processes(id: &LabId, state: &StateDir) -> Result<()> {
    state.kill_all()?;
    for namespace in lab::topology::namespaces(id)? {
        namespace.delete()?;
    }
    Ok(())
}
