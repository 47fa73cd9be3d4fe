//! The daemon's clocks. All cores use the same: CLOCK_MONOTONIC, which on one machine is also the
//! same for all processes.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Microseconds of CLOCK_MONOTONIC.
#[inline]
pub(crate) fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

/// Unix time in milliseconds, for incarnations only.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_millis() as u64)
}

/// Both clocks; the second is read now and then and carried on by the first, since a worker asks
/// for the time in every turn.
#[derive(Debug)]
pub(crate) struct Clock {
    unix_at_ms: u64,
    read_at_us: u64,
}

/// Time between two readings of the wall clock.
const READ_EVERY_US: u64 = 1_000_000;

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            unix_at_ms: unix_ms(),
            read_at_us: monotonic_us(),
        }
    }

    #[inline]
    pub(crate) fn now(&mut self) -> engine::Now {
        let us = monotonic_us();
        if us - self.read_at_us >= READ_EVERY_US {
            *self = Self {
                unix_at_ms: unix_ms(),
                read_at_us: us,
            };
        }
        engine::Now {
            us,
            unix_ms: self.unix_at_ms + (us - self.read_at_us) / 1_000,
        }
    }
}
