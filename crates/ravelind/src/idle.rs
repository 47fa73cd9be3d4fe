//! What a core does when there was nothing to do.

use std::time::Duration;

use config::Idle;

/// Empty turns before a core that may sleep does so, so that back-to-back bursts find it awake.
const TURNS_BEFORE_SLEEP: u32 = 16;
/// Spins of one pause: about a microsecond.
const SPINS_PER_PAUSE: u32 = 32;

#[derive(Debug)]
pub(crate) struct Rest {
    idle: Idle,
    empty_turns: u32,
}

impl Rest {
    pub(crate) fn new(idle: Idle) -> Self {
        Self {
            idle,
            empty_turns: 0,
        }
    }

    /// There was work.
    #[inline]
    pub(crate) fn worked(&mut self) {
        self.empty_turns = 0;
    }

    /// There was none: how long to sleep, if at all.
    #[inline]
    pub(crate) fn idled(&mut self) -> Option<Duration> {
        match self.idle {
            Idle::Spin => None,
            Idle::Pause => {
                for _ in 0..SPINS_PER_PAUSE {
                    std::hint::spin_loop();
                }
                None
            }
            Idle::Sleep(duration) => {
                self.empty_turns += 1;
                (self.empty_turns > TURNS_BEFORE_SLEEP).then_some(duration)
            }
        }
    }
}

/// Names an idle policy as the configuration does.
pub(crate) fn name(idle: Idle) -> &'static str {
    match idle {
        Idle::Spin => "spin",
        Idle::Pause => "pause",
        Idle::Sleep(_) => "sleep",
    }
}
