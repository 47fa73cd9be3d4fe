//! Named network namespaces, the way iproute2 keeps them: a file under `/run/netns`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::program::ip;
use crate::{Error, Result};

const NETNS_DIR: &str = "/run/netns";

/// A network namespace by its name. The value is a name only: dropping it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name, whether or not it exists.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Makes it. Its loopback interface is down, everything else as the kernel has it.
    pub fn create(&self) -> Result<()> {
        ip(&["netns", "add", &self.name]).map(drop)
    }

    /// Removes it, with every interface in it. Fine when there is none.
    pub fn delete(&self) -> Result<()> {
        if self.exists() {
            ip(&["netns", "del", &self.name]).map(drop)
        } else {
            Ok(())
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The file that keeps it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A descriptor that keeps it alive and that `setns` takes.
    pub fn open(&self) -> Result<OwnedFd> {
        match File::open(self.path()) {
            Ok(file) => Ok(file.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::NoNamespace(self.name.clone()))
            }
            Err(error) => Err(Error::file("open", self.path())(error)),
        }
    }

    /// Runs `work` on a thread inside the namespace: sockets that it opens and what it reads
    /// below `/proc/net` and `/proc/sys/net` are the namespace's. The caller's thread stays out.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = self.open()?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            match inside.join() {
                Ok(done) => {
                    done.map_err(Error::system(format!("enter the namespace {}", self.name)))
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Writes a setting below `/proc/sys/net` of this namespace; `key` with slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| std::fs::write(&path, value))?
            .map_err(Error::file("write", &path))
    }
}

/// All namespaces that exist, by name.
pub fn list() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", NETNS_DIR)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", NETNS_DIR))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
