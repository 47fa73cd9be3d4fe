//! Processes of the lab: in a namespace, with a log, in a group of their own, written down, and
//! dead when the lab is.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};

use crate::program::{last_lines, spawn_error};
use crate::state::{Record, StateDir};
use crate::{Error, Namespace, Result};

/// How to start a [`Process`].
#[derive(Debug)]
pub struct Spawn {
    name: String,
    command: Command,
    program: String,
    namespace: Option<Namespace>,
    piped_stdout: bool,
    detached: bool,
}

impl Spawn {
    /// A process of this name (for logs and messages) that runs this program.
    pub fn new(name: impl Into<String>, program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        Self {
            name: name.into(),
            command: Command::new(program),
            program: program.display().to_string(),
            namespace: None,
            piped_stdout: false,
            detached: false,
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it in a namespace.
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Its standard output comes to us instead of into the log.
    pub fn piped(mut self) -> Self {
        self.piped_stdout = true;
        self
    }

    /// It outlives the lab's process: only `lab down` ends it.
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Starts it, with its standard output and error appended to `log` and its standard input
    /// a pipe. Unless detached, it is killed when the *thread* that calls this ends: the kernel
    /// ties the parent-death signal to the thread.
    pub fn start(mut self, state: &StateDir, log: &Path) -> Result<Process> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(Error::file("open", log))?;
        let both = file.try_clone().map_err(Error::file("open", log))?;
        self.command.stderr(both).process_group(0);
        // A detached process must not notice that we end: no pipe to it would outlive us.
        self.command.stdin(if self.detached {
            Stdio::null()
        } else {
            Stdio::piped()
        });
        self.command.stdout(if self.piped_stdout {
            Stdio::piped()
        } else {
            Stdio::from(file)
        });
        if let Some(namespace) = &self.namespace {
            in_namespace(&mut self.command, namespace)?;
        }
        if !self.detached {
            die_with_parent(&mut self.command);
        }
        let child = self
            .command
            .spawn()
            .map_err(|error| spawn_error(&self.program, error))?;
        let record = match state.record(child.id() as i32, &self.name) {
            Ok(record) => record,
            Err(error) => {
                let mut child = child;
                // Not written down means not cleaned up later: do not let it live.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Process {
            name: self.name,
            child,
            record,
            state: state.clone(),
            log: log.to_owned(),
            detached: self.detached,
            ended: None,
            exit_notice: None,
        })
    }
}

/// A running process of the lab. Dropping it kills its whole group, unless it is detached.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    record: Record,
    state: StateDir,
    log: PathBuf,
    detached: bool,
    ended: Option<ExitStatus>,
    exit_notice: Option<Receiver<()>>,
}

impl Process {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its standard input, once; closing it is how the lab's own tools are told to finish.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once, if it was started [`Spawn::piped`].
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal to it. Fine when it has ended: then there is nobody to hear it.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        // It is not reaped yet, so the id is still its own.
        kill(Pid::from_raw(self.record.pid), signal)
            .map_err(Error::system(format!("send {signal} to {}", self.name)))
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let status = self.child.try_wait();
            self.ended = status.map_err(Error::system(format!("wait for {}", self.name)))?;
            if self.ended.is_some() {
                self.state.forget(&self.record);
            }
        }
        Ok(self.ended)
    }

    /// Waits for its end, at most `limit`; `None` when it still runs then.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        if let Some(status) = self.try_wait()? {
            return Ok(Some(status));
        }
        let notice = self
            .exit_notice
            .take()
            .unwrap_or_else(|| exit_notice(self.record.pid));
        match notice.recv_timeout(limit) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self.try_wait(),
            Err(RecvTimeoutError::Timeout) => {
                self.exit_notice = Some(notice);
                Ok(None)
            }
        }
    }

    /// Asks it to end (SIGTERM), and kills it when it has not after `grace`.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match self.wait_timeout(grace)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Kills it and its group, and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            // What it started may live on in its group.
            self.record.kill_group();
            return Ok(status);
        }
        // The leader is not reaped, so the group's id is still ours.
        killpg(Pid::from_raw(self.record.pid), Signal::SIGKILL)
            .map_err(Error::system(format!("kill {}", self.name)))?;
        let status = self
            .child
            .wait()
            .map_err(Error::system(format!("wait for {}", self.name)))?;
        self.ended = Some(status);
        self.state.forget(&self.record);
        Ok(status)
    }

    /// An error that tells how it ended and the end of its log, when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.ended_error(status)),
        }
    }

    /// The error for having ended with this status.
    pub fn ended_error(&self, status: ExitStatus) -> Error {
        Error::Ended {
            name: self.name.clone(),
            status,
            log: self.log.clone(),
            tail: log_end(&self.log, 15),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached {
            // Nobody is left to tell; `lab down` finds the record if this did not work.
            let _ = self.kill();
        }
    }
}

/// Makes the command's child enter the namespace between fork and exec.
pub(crate) fn in_namespace(command: &mut Command, namespace: &Namespace) -> Result<()> {
    let netns: OwnedFd = namespace.open()?;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: the closure makes
    // one system call (setns) on a descriptor that it owns, and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || setns(&netns, CloneFlags::CLONE_NEWNET).map_err(Into::into));
    }
    Ok(())
}

/// Makes the command's child die with the thread that starts it.
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: the closure makes
    // two system calls (prctl, getppid), and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the signal was asked for.
            if getppid() == parent {
                Ok(())
            } else {
                Err(nix::errno::Errno::ESRCH.into())
            }
        });
    }
}

/// A channel that hears when the child has ended. It is not reaped, so its id stays its own.
fn exit_notice(pid: i32) -> Receiver<()> {
    let (heard, notice) = channel();
    std::thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        // Any error but an interruption means that the child is no longer there to wait for.
        while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(nix::errno::Errno::EINTR) {}
        let _ = heard.send(());
    });
    notice
}

/// The last `lines` lines of a log; nothing when it cannot be read.
pub(crate) fn log_end(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&text), lines)
}

/// Opens a log file of this name in `dir`, fresh.
pub(crate) fn fresh_log(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{name}.log"));
    File::create(&path).map_err(Error::file("make", &path))?;
    Ok(path)
}
