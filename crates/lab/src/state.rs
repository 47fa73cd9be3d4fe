//! What the lab writes down about itself, so that a later run can clean up after a crash:
//! `/run/ravelin-lab/<id>/processes/<pid>` with each process's start time, because process ids
//! are used again; and `/run/ravelin-lab/<id>.lock`, held by the lab that is at work.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait::{Interrupt, Poll, wait_until};
use crate::{Error, Namespace, Result};

const ROOT: &str = "/run/ravelin-lab";

/// How long killed processes may take to vanish: they may be inside a system call.
const VANISH_LIMIT: Duration = Duration::from_secs(10);

/// The name of a lab: the first part of its namespaces' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabId(String);

impl LabId {
    /// 1 to 8 lower-case letters and digits, a letter first.
    pub fn new(id: &str) -> Result<Self> {
        let fits = (1..=8).contains(&id.len())
            && id.starts_with(|c: char| c.is_ascii_lowercase())
            && id
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if fits {
            Ok(Self(id.to_owned()))
        } else {
            Err(Error::InvalidId(id.to_owned()))
        }
    }

    /// The namespace of one member: `sw`, `n1`, `client`, ...
    pub fn namespace(&self, member: &str) -> Namespace {
        Namespace::named(format!("{}-{member}", self.0))
    }

    /// Whether a namespace of this name is one of this lab's, of whatever size the lab was.
    pub(crate) fn owns(&self, namespace: &str) -> bool {
        let Some(member) = namespace
            .strip_prefix(self.0.as_str())
            .and_then(|rest| rest.strip_prefix('-'))
        else {
            return false;
        };
        let node = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        matches!(
            member,
            "sw" | "client" | "server" | "gen" | "sink" | "rin" | "rout"
        ) || member.strip_prefix('n').is_some_and(node)
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of one lab.
#[derive(Debug, Clone)]
pub struct StateDir {
    id: LabId,
    dir: PathBuf,
}

/// Proof that this process alone works on a lab. Let go by drop, and by any death.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// A process that the lab started, as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, which is also that of its process group.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started_ticks: u64,
    /// The name that the lab gave it.
    pub name: String,
}

impl StateDir {
    /// The folder of the lab of this name; nothing is made yet.
    pub fn of(id: &LabId) -> Self {
        Self {
            id: id.clone(),
            dir: Path::new(ROOT).join(&id.0),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Makes it, readable for root alone: keys lie in it.
    pub fn create(&self) -> Result<()> {
        let processes = self.processes();
        fs::create_dir_all(&processes).map_err(Error::file("make", &processes))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&self.dir, mode).map_err(Error::file("protect", &self.dir))
    }

    /// Takes the lab for this process, or says who has it.
    pub fn lock(&self) -> Result<Lock> {
        fs::create_dir_all(ROOT).map_err(Error::file("make", ROOT))?;
        let path = Path::new(ROOT).join(format!("{}.lock", self.id));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| write!(file, "{}", std::process::id()))
                    .map_err(Error::file("write", &path))?;
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)
                    .map_err(Error::file("read", &path))?;
                Err(Error::InUse {
                    id: self.id.to_string(),
                    pid: holder.trim().parse().unwrap_or(0),
                })
            }
            Err((_, errno)) => Err(Error::file("lock", &path)(errno.into())),
        }
    }

    /// Writes down a process that was just started by us and not yet waited for.
    pub fn record(&self, pid: i32, name: &str) -> Result<Record> {
        let started_ticks = Stat::read(pid).map_or(0, |stat| stat.started_ticks);
        let record = Record {
            pid,
            started_ticks,
            name: name.to_owned(),
        };
        let path = self.processes().join(pid.to_string());
        let text = serde_json::to_string(&record).expect("three plain fields become JSON");
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        Ok(record)
    }

    /// Forgets a process that is gone.
    pub fn forget(&self, record: &Record) {
        // Teardown may have been quicker; what is not there need not be removed.
        let _ = fs::remove_file(self.processes().join(record.pid.to_string()));
    }

    /// All that is written down. A file that does not parse is a crash's half-written one: its
    /// process was started with a parent-death signal and is skipped.
    pub fn records(&self) -> Result<Vec<Record>> {
        let processes = self.processes();
        let entries = match fs::read_dir(&processes) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("list", &processes)(error)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::file("list", &processes))?.path();
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            records.extend(serde_json::from_str::<Record>(&text).ok());
        }
        Ok(records)
    }

    /// Kills everything that is written down and still the same process, and waits until it is
    /// gone. Returns how many processes that were.
    pub fn kill_all(&self) -> Result<usize> {
        let records = self.records()?;
        let mut killed = 0;
        for record in &records {
            killed += record.kill_group();
        }
        wait_until(
            "killed processes to vanish",
            VANISH_LIMIT,
            Duration::from_millis(5),
            &Interrupt::default(),
            || {
                let left: Vec<String> = records
                    .iter()
                    .flat_map(|record| {
                        record
                            .living()
                            .into_iter()
                            .map(|pid| format!("{} ({pid})", record.name))
                    })
                    .collect();
                Ok(if left.is_empty() {
                    Poll::Ready(())
                } else {
                    Poll::Pending(left.join(", "))
                })
            },
        )?;
        for record in &records {
            self.forget(record);
        }
        Ok(killed)
    }

    /// Removes the folder and all in it.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn processes(&self) -> PathBuf {
        self.dir.join("processes")
    }
}

impl Record {
    /// The living processes of its group, if the group is still the one that was written down.
    pub fn living(&self) -> Vec<i32> {
        // The leader's id can only go to another process once the whole group is gone.
        if Stat::read(self.pid).is_some_and(|leader| leader.started_ticks != self.started_ticks) {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|&pid| {
                Stat::read(pid).is_some_and(|stat| {
                    stat.group == self.pid && stat.alive && stat.started_ticks >= self.started_ticks
                })
            })
            .collect()
    }

    /// SIGKILLs the group's living members; returns how many there were.
    pub fn kill_group(&self) -> usize {
        let living = self.living();
        for pid in &living {
            // It may have ended since it was listed: then there is nothing to kill.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        living.len()
    }
}

/// The fields of `/proc/PID/stat` that identify a process (proc(5)).
#[derive(Debug)]
struct Stat {
    alive: bool,
    group: i32,
    started_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field, the program's name in parentheses, may hold spaces and parentheses: what
    /// follows the last `)` is field 3 and on.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text
            .get(text.rfind(')')? + 1..)?
            .split_whitespace()
            .collect();
        Some(Self {
            alive: !matches!(*fields.first()?, "Z" | "X" | "x"),
            group: fields.get(2)?.parse().ok()?,
            started_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for bad in ["", "Rvl", "1rvl", "rvl-x", "ninechars", "r v"] {
            assert!(
                matches!(LabId::new(bad), Err(Error::InvalidId(_))),
                "{bad:?}"
            );
        }
        assert_eq!(
            LabId::new("rvl2").expect("fits").namespace("n1").name(),
            "rvl2-n1"
        );
    }

    #[test]
    fn a_lab_owns_its_members_and_nothing_else() {
        let id = LabId::new("rvl").expect("fits");
        for own in [
            "rvl-sw",
            "rvl-n1",
            "rvl-n16",
            "rvl-client",
            "rvl-server",
            "rvl-gen",
            "rvl-sink",
        ] {
            assert!(id.owns(own), "{own}");
        }
        for other in [
            "rvl",
            "rvl2-sw",
            "rvl-",
            "rvl-n",
            "rvl-n1x",
            "rvl-other",
            "x-rvl-sw",
        ] {
            assert!(!id.owns(other), "{other}");
        }
    }

    #[test]
    fn stat_survives_a_hostile_program_name() {
        let line = "42 (a) Z 1 (b) S 1 41 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2 3";
        let stat = Stat::parse(line).expect("a line of the kernel's");
        assert!(stat.alive);
        assert_eq!((stat.group, stat.started_ticks), (41, 777));
    }

    #[test]
    fn a_process_id_that_was_used_again_is_left_alone() {
        let me = std::process::id() as i32;
        let stat = Stat::read(me).expect("we live");
        let stale = Record {
            pid: me,
            started_ticks: stat.started_ticks + 1,
            name: "gone".into(),
        };
        assert!(stale.living().is_empty());
        assert_eq!(stale.kill_group(), 0);
    }
}
