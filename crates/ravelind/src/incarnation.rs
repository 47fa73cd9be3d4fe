//! The number of this node's run, which must be greater than that of every earlier one.
//!
//! It is the Unix time in milliseconds; but a clock can be set back, and then peers would take the
//! new run for the old one and refuse all that it says, so the last number is kept in a file. What
//! is in the file is a help and no condition: when it is damaged or cannot be written, the clock alone
//! counts, and the log says so.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the service manager has this service keep what outlives a boot, in its environment. Of
/// several folders, separated by colons, the first.
const STATE_FOLDER: &str = "STATE_DIRECTORY";

/// No time in milliseconds of a clock that anybody sets: the year 36812. What is greater is damage; a
/// node that believed it would leave no numbers for later runs.
const GREATEST: u64 = 1 << 50;

/// Bytes that are read of the file; a number has fewer.
const LENGTH_MAX: u64 = 32;

/// Where the greatest number that any run of this node has used, or that peers know, is kept.
#[derive(Debug)]
pub(crate) struct Incarnations {
    path: PathBuf,
    /// The number in the file, or what it should be; 0 when none is known.
    last: u64,
}

/// Why the kept number could not be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it holds no number of milliseconds from 1 to {GREATEST}")]
    Damaged,
}

impl Incarnations {
    /// Reads what earlier runs of `node` in `cluster` have left. The folder is the service manager's
    /// for this service; without one, that of the control `socket`, which no other daemon uses. Names in
    /// the file's name keep apart what shares a folder.
    pub(crate) fn of(cluster: &str, node: &str, socket: &Path) -> Self {
        let folders = std::env::var_os(STATE_FOLDER);
        Self::at(place(folders, cluster, node, socket))
    }

    fn at(path: PathBuf) -> Self {
        let last = match read(&path) {
            Ok(last) => last.unwrap_or(0),
            Err(why) => {
                tracing::warn!(
                    "{}: {why}; this run is numbered by the clock alone. If that was set back, peers \
                     refuse this node until it is restarted",
                    path.display()
                );
                0
            }
        };
        Self { path, last }
    }

    /// The number of a run that begins at `now_ms` of the Unix clock; kept before it is used.
    pub(crate) fn begin(&mut self, now_ms: u64) -> u64 {
        let last = self.last;
        if last >= now_ms {
            tracing::warn!(
                "the clock shows {now_ms} ms, and an earlier run of this node is numbered {last}: the \
                 clock went back; this run is numbered {}",
                last + 1
            );
        }
        let run = now_ms.max(last + 1);
        self.keep(run);
        run
    }

    /// A peer knows a run with a heartbeat of this number: the next run has to be after it. Whether that is
    /// new, and kept.
    pub(crate) fn learn(&mut self, known: u64) -> bool {
        known > self.last && known <= GREATEST / 2 && self.keep(known)
    }

    fn keep(&mut self, number: u64) -> bool {
        self.last = number;
        let kept = write(&self.path, number);
        if let Err(error) = &kept {
            tracing::warn!(
                "{}: cannot keep the number of this run: {error}; if the clock is set back before \
                 the next start, peers refuse this node. Give the daemon a folder that it may write to",
                self.path.display()
            );
        }
        kept.is_ok()
    }
}

fn place(folders: Option<OsString>, cluster: &str, node: &str, socket: &Path) -> PathBuf {
    let folder = folders
        .and_then(|folders| std::env::split_paths(&folders).next())
        .filter(|folder| folder.is_absolute())
        .or_else(|| socket.parent().map(Path::to_owned))
        .unwrap_or_default();
    folder.join(format!("{cluster}.{node}.incarnation"))
}

/// The number in the file; `None` when there is no file.
fn read(path: &Path) -> Result<Option<u64>, Unusable> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(LENGTH_MAX).read_to_end(&mut bytes)?;
    // A cut number is a smaller one: the line's end tells that it is whole.
    let line = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.strip_suffix('\n'));
    let number = line.and_then(|line| line.parse().ok());
    let number = number.filter(|number| (1..=GREATEST).contains(number));
    number.map(Some).ok_or(Unusable::Damaged)
}

/// Replaces the file whole, so that at every moment the old number or the new one is there.
fn write(path: &Path, number: u64) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // One that a crash left may have other permissions, or be a link.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn runs_are_numbered_upwards_whatever_the_clock_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.n1.incarnation");
        let run = |now_ms| Incarnations::at(path.clone()).begin(now_ms);
        assert_eq!(run(1_000), 1_000);
        assert_eq!(run(2_000), 2_000);
        // Set back, also to before 1970, and in the same millisecond.
        assert_eq!(run(500), 2_001);
        assert_eq!(run(0), 2_002);
        assert_eq!(run(2_002), 2_003);
        assert_eq!(run(9_000), 9_000);
        // What peers know counts for the next run.
        assert!(Incarnations::at(path.clone()).learn(20_000));
        assert_eq!(run(10_000), 20_001);
        assert!(!Incarnations::at(path.clone()).learn(15_000));
        assert_eq!(run(10_000), 20_002);
        assert!(!Incarnations::at(path.clone()).learn(u64::MAX));
        assert_eq!(run(10_000), 20_003);
        let mode = std::fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let names = std::fs::read_dir(folder.path()).expect("readable");
        assert_eq!(names.count(), 1, "something was left beside it");
    }

    #[test]
    fn damage_costs_the_memory_and_not_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.n1.incarnation");
        let max = format!("{}\n", u64::MAX);
        let damages: [&[u8]; 7] = [
            b"",
            b"\n",
            b"17",
            b"0\n",
            b"\xff\xfe\n",
            max.as_bytes(),
            &[b'1'; 100],
        ];
        for damage in damages {
            std::fs::write(&path, damage).expect("written");
            assert!(
                matches!(read(&path), Err(Unusable::Damaged)),
                "{:?}",
                String::from_utf8_lossy(damage)
            );
            assert_eq!(Incarnations::at(path.clone()).begin(1_000), 1_000);
            assert_eq!(Incarnations::at(path.clone()).begin(900), 1_001);
        }
        // A crash between the two steps left a file; an unwritable place is only said.
        std::fs::write(folder.path().join("c.n1.incarnation.new"), "5").expect("written");
        assert_eq!(Incarnations::at(path).begin(2_000), 2_000);
        let nowhere = folder.path().join("absent").join("c.n1.incarnation");
        assert_eq!(Incarnations::at(nowhere.clone()).begin(2_000), 2_000);
        assert!(!Incarnations::at(nowhere).learn(3_000));
    }

    #[test]
    fn nodes_that_share_a_folder_share_no_file() {
        let at = |folders: Option<&str>, cluster, node| {
            let socket = Path::new("/run/lab/n1.sock");
            place(folders.map(OsString::from), cluster, node, socket)
        };
        let beside = Path::new("/run/lab/c.n1.incarnation");
        assert_eq!(at(None, "c", "n1"), beside);
        assert_eq!(at(None, "c", "n2"), Path::new("/run/lab/c.n2.incarnation"));
        assert_eq!(at(None, "d", "n1"), Path::new("/run/lab/d.n1.incarnation"));
        let kept = Path::new("/var/lib/ravelin/c.n1.incarnation");
        assert_eq!(at(Some("/var/lib/ravelin:/srv"), "c", "n1"), kept);
        for no_folder in ["", "relative"] {
            assert_eq!(at(Some(no_folder), "c", "n1"), beside);
        }
    }
}
