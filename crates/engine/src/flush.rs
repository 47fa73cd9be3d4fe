//! The worker's part in a final synchronisation, before its node goes offline.
//!
//! Asked with a number ([`crate::NodeShared::flush_asked`]), the worker takes all that had arrived
//! by then, sends what it has not replicated yet (flows of `delayed` rules, and slots of which changes found the
//! ring full), and answers with its last log number ([`crate::Told::flushed_lsn`]). Once the
//! node's targets have acknowledged that one, they know every flow that this worker has ever
//! let a packet pass for, but for those of rules that replicate nothing.

use std::sync::atomic::Ordering;

use state::slot_of;

use crate::port::{BURST_MAX, Port};
use crate::worker::Worker;

/// Places of the shard that one turn looks at.
const PLACES_PER_TURN: usize = 8192;

/// How far the worker is.
#[derive(Debug)]
pub(crate) struct Flush {
    /// The number that was asked last.
    asked: u64,
    done: bool,
    cursor: usize,
    /// By port: whether its queue was found not full since.
    emptied: Vec<bool>,
}

impl Flush {
    pub(crate) fn new(ports: usize) -> Self {
        Self {
            asked: 0,
            done: true,
            cursor: 0,
            emptied: vec![false; ports],
        }
    }

    /// Notes what is asked, before this turn receives.
    pub(crate) fn look(&mut self, asked: u64) {
        if asked != self.asked {
            self.asked = asked;
            self.done = false;
            self.cursor = 0;
            self.emptied.fill(false);
        }
    }

    /// A receive queue gave so many packets of at most `burst`: fewer mean that it is empty.
    pub(crate) fn received(&mut self, port: usize, packets: usize, burst: usize) {
        self.emptied[port] |= packets < burst.min(BURST_MAX);
    }
}

impl<P: Port> Worker<P> {
    /// Goes on with the final synchronisation that was asked for, a part of the shard per turn.
    pub(crate) fn go_on_flushing(&mut self) -> usize {
        if self.flush.done {
            return 0;
        }
        let (cursor, waits) = self.tell_delayed(self.flush.cursor);
        self.flush.cursor = cursor;
        if waits {
            return 0;
        }
        let scanned = self.flush.cursor == self.table.capacity();
        if scanned && self.jobs.are_clean() && self.flush.emptied.iter().all(|e| *e) {
            self.flush.done = true;
            let told = &self.shared.told;
            told.flushed_lsn.store(self.lsn, Ordering::Relaxed);
            told.flushed.store(self.flush.asked, Ordering::Release);
        }
        1
    }

    /// Tells of the flows in a turn's part of the shard, from this place on, whose replication is delayed. Returns how far that
    /// went, and whether it waits for room in the ring.
    pub(crate) fn tell_delayed(&mut self, from: usize) -> (usize, bool) {
        let end = (from + PLACES_PER_TURN).min(self.table.capacity());
        for place in from..end {
            let Some(id) = self.table.at(place) else {
                continue;
            };
            let entry = self.table.entry(id);
            let delayed = entry.is_alive()
                && entry.local.replicate_at_s != 0
                && self.ownership.owned.contains(slot_of(&entry.record.key));
            if delayed && self.links.to_sync.is_full() {
                return (place, true);
            }
            if delayed {
                self.emit(id);
            }
        }
        (end, false)
    }
}
