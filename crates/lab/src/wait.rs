//! Waiting for conditions, never for time alone, and ending early when asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Whether the user asked to stop (SIGINT, SIGTERM, SIGHUP). Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP of this process: from now on they set the flag.
    /// A second signal of the same kind ends the process at once.
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // Of its own: Ctrl-C reaches this process as SIGINT from the terminal and again as SIGTERM from
            // the script that started it, and that must not count as a second one.
            let came = Arc::new(AtomicBool::new(false));
            // The order counts: the first handler sees the flag as the previous signal left it.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&came))
                .and_then(|_| signal_hook::flag::register(signal, came))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(Error::system(format!("handle signal {signal}")))?;
        }
        Ok(Self(flag))
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the flag, as the signal would.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// [`Error::Interrupted`] when set.
    pub fn check(&self) -> Result<()> {
        if self.is_set() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// What a look at a condition found.
#[derive(Debug)]
pub enum Poll<T> {
    /// It holds, and this is what came of it.
    Ready(T),
    /// Not yet; the text says what was seen instead, for the error when time runs out.
    Pending(String),
}

/// Looks at a condition every `every` until it holds, `limit` has passed, the look itself fails,
/// or the user interrupts. `what` completes "waited for ...".
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    every: Duration,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Result<Poll<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match look()? {
            Poll::Ready(value) => return Ok(value),
            Poll::Pending(seen) => seen,
        };
        interrupt.check()?;
        let after = start.elapsed();
        if after >= limit {
            let detail = if seen.is_empty() {
                seen
            } else {
                format!(": {seen}")
            };
            return Err(Error::Timeout {
                what: what.to_owned(),
                after,
                detail,
            });
        }
        std::thread::sleep(every.min(limit - after));
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the clock in which the daemons report their times.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("CLOCK_MONOTONIC exists on every Linux");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let value = wait_until(
            "three",
            Duration::from_secs(5),
            Duration::ZERO,
            &Interrupt::default(),
            || {
                looks += 1;
                Ok(if looks == 3 {
                    Poll::Ready(looks)
                } else {
                    Poll::Pending(String::new())
                })
            },
        );
        assert_eq!(value.expect("it came true"), 3);
    }

    #[test]
    fn time_runs_out_with_what_was_seen_last() {
        let error = wait_until::<()>(
            "the moon",
            Duration::from_millis(5),
            Duration::from_millis(1),
            &Interrupt::default(),
            || Ok(Poll::Pending("a cloud".into())),
        )
        .expect_err("it never holds");
        let said = error.to_string();
        assert!(
            said.contains("for the moon") && said.contains("a cloud"),
            "{said}"
        );
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let interrupt = Interrupt::default();
        interrupt.set();
        let ended = wait_until::<()>(
            "ever",
            Duration::from_secs(60),
            Duration::ZERO,
            &interrupt,
            || Ok(Poll::Pending(String::new())),
        );
        assert!(matches!(ended, Err(Error::Interrupted)));
    }
}
