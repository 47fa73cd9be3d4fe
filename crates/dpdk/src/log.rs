//! DPDK's log lines: passed on, and the last complaints kept, because an error number alone
//! rarely tells why a driver refused.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How urgent a line is, in DPDK's order: a smaller value is more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// The system is unusable (DPDK's emergency, alert and critical).
    Critical = 3,
    /// Something failed.
    Error = 4,
    /// Something is doubtful.
    Warning = 5,
    /// Worth knowing.
    Notice = 6,
    /// What happens.
    Info = 7,
    /// Everything.
    Debug = 8,
}

impl LogLevel {
    fn from_dpdk(level: u32) -> Self {
        match level {
            0..=3 => Self::Critical,
            4 => Self::Error,
            5 => Self::Warning,
            6 => Self::Notice,
            7 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Takes one line of DPDK's log, without its end of line. It runs on whichever thread logs, so it
/// must not call DPDK, and a panic in it ends the process.
pub type LogHook = fn(LogLevel, &str);

/// How many complaints an error repeats.
const KEPT_MAX: usize = 12;

struct Capture {
    pass: LogLevel,
    hook: LogHook,
    kept: VecDeque<String>,
}

static CAPTURE: Mutex<Capture> = Mutex::new(Capture {
    pass: LogLevel::Warning,
    hook: to_stderr,
    kept: VecDeque::new(),
});

fn capture() -> MutexGuard<'static, Capture> {
    // A poisoned lock only means that a thread died while it appended a line.
    CAPTURE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends DPDK's log here from now on: lines up to `pass` go to `hook` (the error output without
/// one), complaints are kept as well.
pub(crate) fn redirect(pass: LogLevel, hook: Option<LogHook>) {
    {
        let mut capture = capture();
        capture.pass = pass;
        capture.hook = hook.unwrap_or(to_stderr);
    }
    // SAFETY: `on_log` has the type and lives as long as the process. A null stream makes
    // rte_openlog_stream fall back to DPDK's default, which is still a log.
    unsafe {
        dpdk_sys::rte_openlog_stream(dpdk_sys::ravelin_log_stream(Some(on_log)));
    }
}

/// Forgets older complaints, so that the next error repeats only its own.
pub(crate) fn forget() {
    capture().kept.clear();
}

/// The complaints since the last [`forget`], one a line.
pub(crate) fn complaints() -> String {
    let capture = capture();
    let mut text = String::new();
    for line in &capture.kept {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str("  DPDK: ");
        text.push_str(line);
    }
    text
}

/// Gets every message that DPDK logs, from any thread.
unsafe extern "C" fn on_log(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the C library hands the `len` bytes that it writes, valid for this call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(bytes);
    let level = LogLevel::from_dpdk(level);
    for line in text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
    {
        // The lock is released before the hook runs, which may log or block on its own.
        let hook = {
            let mut capture = capture();
            if level <= LogLevel::Warning {
                if capture.kept.len() == KEPT_MAX {
                    capture.kept.pop_front();
                }
                capture.kept.push_back(line.to_owned());
            }
            (level <= capture.pass).then_some(capture.hook)
        };
        if let Some(hook) = hook {
            hook(level, line);
        }
    }
}

fn to_stderr(_level: LogLevel, line: &str) {
    eprintln!("dpdk: {line}");
}
