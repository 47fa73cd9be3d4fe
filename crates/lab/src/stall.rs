//! A thread of a daemon that stands still, while the process runs on: what a worker is that is
//! stuck in a device's call. A signal would stop the whole process, so the thread is traced.

use std::path::Path;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{Error, Result};

/// A thread that stands still until this value is dropped. The kernel ties it to the thread that
/// made it: it has to be dropped there, and the end of that thread lets it go as well.
#[derive(Debug)]
pub struct StalledThread {
    thread: Pid,
}

impl StalledThread {
    /// Stops the thread of this name in the process.
    pub fn hold(process: i32, name: &str) -> Result<Self> {
        let thread = thread_named(process, name)?;
        let system = |action: &str| Error::system(format!("{action} {name} of process {process}"));
        ptrace::seize(thread, ptrace::Options::empty()).map_err(system("trace"))?;
        let held = Self { thread };
        ptrace::interrupt(thread).map_err(system("stop"))?;
        // `__WALL`: it is a thread and no process of its own.
        waitpid(thread, Some(WaitPidFlag::__WALL)).map_err(system("wait for"))?;
        Ok(held)
    }
}

impl Drop for StalledThread {
    fn drop(&mut self) {
        // An error means that it has ended meanwhile.
        let _ = ptrace::detach(self.thread, None);
    }
}

/// The thread of this name: Linux keeps the first 15 bytes of it.
fn thread_named(process: i32, name: &str) -> Result<Pid> {
    let dir = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&dir).map_err(Error::file("list", &dir))?;
    for task in tasks {
        let task = task.map_err(Error::file("list", &dir))?;
        let comm = task.path().join("comm");
        // A thread can end between the two.
        let found = std::fs::read_to_string(&comm).unwrap_or_default();
        let id = task.file_name().into_string().ok();
        if found.trim_end() == name
            && let Some(id) = id.and_then(|id| id.parse().ok())
        {
            return Ok(Pid::from_raw(id));
        }
    }
    Err(Error::Scenario(format!(
        "process {process} has no thread {name} in {}",
        Path::new(&dir).display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    /// The state letter of `/proc/PID/task/TID/stat`.
    fn state(process: i32) -> char {
        let path = format!("/proc/{process}/task/{process}/stat");
        let stat = std::fs::read_to_string(path).expect("it runs");
        let (_, rest) = stat.rsplit_once(") ").expect("a state follows the name");
        rest.chars().next().expect("a letter")
    }

    #[test]
    fn a_thread_stands_still_until_it_is_dropped() {
        let mut counter = Command::new("sh")
            .args(["-c", "while echo tick; do sleep 0.01; done"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut lines = BufReader::new(counter.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("it counts");
        let process = counter.id() as i32;
        assert!(StalledThread::hold(process, "worker0").is_err());
        let held = StalledThread::hold(process, "sh").expect("it is there");
        assert_eq!(state(process), 't', "stopped by a tracer");
        drop(held);
        // It goes on by itself.
        let mut more = [0; 50];
        lines.read_exact(&mut more).expect("it counts on");
        counter.kill().expect("it runs");
        counter.wait().expect("it is ours");
    }
}
