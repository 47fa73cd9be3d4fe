//! The changes of one worker that some target has not acknowledged.

use std::collections::VecDeque;

use state::{Dir, FlowRecord, Life, NodeId, NodeSet, Progress};

/// One change.
pub(crate) struct Entry {
    pub(crate) record: FlowRecord,
    pub(crate) idle_s: u16,
    /// When it came.
    pub(crate) at_us: u64,
    /// For whom it is.
    to: NodeSet,
    /// Who else handles the flow.
    handlers: NodeSet,
    /// How many of the log's changes up to this one opened a flow.
    opened: u64,
}

impl Entry {
    pub(crate) fn is_for(&self, peer: NodeId) -> bool {
        self.to.contains(peer)
    }

    pub(crate) fn to(&self) -> NodeSet {
        self.to
    }
}

/// Consecutive changes `first..next`.
pub(crate) struct Log {
    first: u64,
    entries: VecDeque<Entry>,
    opened: u64,
    /// `Entry::opened` of the change before `first`.
    opened_before: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            first: 1,
            entries: VecDeque::new(),
            opened: 0,
            opened_before: 0,
        }
    }

    /// The oldest number that is kept, or the next when none is.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next change.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn push(
        &mut self,
        (record, idle_s): (FlowRecord, u16),
        at_us: u64,
        to: NodeSet,
        handlers: NodeSet,
    ) {
        self.opened += u64::from(opens(&record));
        self.entries.push_back(Entry {
            record,
            idle_s,
            at_us,
            to,
            handlers,
            opened: self.opened,
        });
    }

    /// Counts a change that nobody needs.
    pub(crate) fn pass(&mut self) {
        debug_assert!(self.entries.is_empty(), "changes before it would be lost");
        self.first += 1;
    }

    /// Forgets everything and continues at `next`.
    pub(crate) fn restart(&mut self, next: u64) {
        self.entries.clear();
        self.first = next;
        self.opened_before = self.opened;
    }

    /// Forgets the changes before `lsn`.
    pub(crate) fn truncate(&mut self, lsn: u64) {
        while self.first < lsn {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.opened_before = entry.opened;
            self.first += 1;
        }
    }

    /// The changes from `lsn` on.
    pub(crate) fn from(&self, lsn: u64) -> impl Iterator<Item = &Entry> {
        let skip = lsn
            .saturating_sub(self.first)
            .min(self.entries.len() as u64) as usize;
        self.entries.range(skip..)
    }

    /// The changes from `lsn` on that are still there, with their numbers.
    pub(crate) fn numbered(&self, lsn: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let lsn = lsn.max(self.first);
        self.from(lsn)
            .enumerate()
            .map(move |(n, entry)| (lsn + n as u64, entry))
    }

    /// Decides anew for whom each change is; tells `gained` of each that is for somebody more.
    pub(crate) fn reroute(
        &mut self,
        to: impl Fn(&FlowRecord, NodeSet) -> NodeSet,
        mut gained: impl FnMut(u64, NodeSet),
    ) {
        let first = self.first;
        for (n, entry) in self.entries.iter_mut().enumerate() {
            let now = to(&entry.record, entry.handlers);
            let more = NodeSet(now.0 & !entry.to.0);
            entry.to = now;
            if !more.is_empty() {
                gained(first + n as u64, more);
            }
        }
    }

    /// How many of the log's changes opened a flow.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// How many of the log's changes up to `lsn` opened a flow, if that is still known.
    pub(crate) fn opened_until(&self, lsn: u64) -> Option<u64> {
        match (lsn + 1).checked_sub(self.first)? {
            0 => Some(self.opened_before),
            n => self.entries.get(n as usize - 1).map(|entry| entry.opened),
        }
    }
}

/// Whether a record shows no more than the packet that opened the flow.
fn opens(record: &FlowRecord) -> bool {
    let dir: Dir = record.class.origin;
    let most = Progress::seen(dir)
        .union(Progress::syn(dir))
        .union(Progress::picked_up())
        .union(Progress::expected());
    record.life == Life::Alive && most.contains(record.progress)
}
