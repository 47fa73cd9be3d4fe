//! What a worker shares with the rest of its node: snapshots swapped whole, and a few words that
//! one side writes and the other reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hashbrown::HashMap;
use membership::View;
use parking_lot::Mutex;
use policy::{ClassSync, Classifier, RuleSet};
use state::{FlowRecord, Progress};

use crate::common::Common;

/// A value that is replaced as a whole. Readers look at a version number, and take the lock only
/// when it has changed, for as long as it takes to count one more reader.
///
/// Who publishes frees: a value that was replaced is kept until no reader has it any more. A worker that was the
/// last to have one would give megabytes of compiled rules back to the kernel between two bursts.
#[derive(Debug)]
pub struct Snapshot<T> {
    version: AtomicU64,
    value: Mutex<Arc<T>>,
    /// Values that were replaced and that readers may still have. Readers never lock it.
    replaced: Mutex<Vec<Arc<T>>>,
}

impl<T> Snapshot<T> {
    /// With a first value.
    pub fn new(value: T) -> Self {
        Self {
            version: AtomicU64::new(1),
            value: Mutex::new(Arc::new(value)),
            replaced: Mutex::new(Vec::new()),
        }
    }

    /// Replaces the value, and frees those replaced earlier that no reader has any more.
    pub fn publish(&self, value: Arc<T>) {
        let before = std::mem::replace(&mut *self.value.lock(), value);
        self.version.fetch_add(1, Ordering::Release);
        let mut replaced = self.replaced.lock();
        replaced.push(before);
        // A reader can only get at the current one, so nobody begins to use one that nobody uses.
        replaced.retain(|value| Arc::strong_count(value) > 1);
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.value.lock().clone()
    }

    /// A reader that has the value as it is now.
    pub fn reader(self: &Arc<Self>) -> SnapshotReader<T> {
        let version = self.version.load(Ordering::Acquire);
        SnapshotReader {
            cell: self.clone(),
            version,
            value: self.load(),
        }
    }
}

/// One reader's copy of a [`Snapshot`].
#[derive(Debug)]
pub struct SnapshotReader<T> {
    cell: Arc<Snapshot<T>>,
    version: u64,
    value: Arc<T>,
}

impl<T> SnapshotReader<T> {
    /// Takes the current value if it is another one; tells whether it is.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        let version = self.cell.version.load(Ordering::Acquire);
        if version == self.version {
            return false;
        }
        self.version = version;
        self.value = self.cell.load();
        true
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }
}

/// A rule set, ready for packets.
#[derive(Debug)]
pub struct Policy {
    /// Its generation; flows decided by another one are decided again.
    pub generation: u32,
    /// The compiled rules.
    pub classifier: Classifier,
    /// Whether packets wait until the backups have a mark that was set on their flow.
    pub marks: ClassSync,
    /// Whether whoever announces a connection waits until all nodes expect it.
    pub expectations: ClassSync,
    /// The agents of rules that have one, by the rules' identities.
    agents: HashMap<u32, u8, foldhash::fast::RandomState>,
}

impl Policy {
    /// Compiles a rule set.
    pub fn new(rules: &RuleSet) -> Self {
        Self {
            generation: rules.generation,
            classifier: Classifier::compile(rules),
            marks: rules.sync_defaults().marks,
            expectations: rules.sync_defaults().expectations,
            agents: rules
                .rules()
                .iter()
                .filter_map(|rule| Some((rule.id(), rule.agent?)))
                .collect(),
        }
    }

    /// The number of the agent that is given the packets of a flow: that of its rule, unless the flow was
    /// expected and passes under the rule of another.
    pub fn agent_of(&self, record: &FlowRecord) -> Option<u8> {
        if self.agents.is_empty() || record.progress.contains(Progress::expected()) {
            return None;
        }
        self.agents.get(&record.verdict.rule).copied()
    }
}

/// How many agents a node may have.
pub const AGENTS_MAX: usize = 32;

/// What becomes of packets for an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ForAgent {
    /// They are handed over.
    Divert = 0,
    /// They go on as if there were no agent.
    Pass = 1,
    /// They are dropped.
    Drop = 2,
}

/// What becomes of the packets for each agent, by its number; written by whoever talks to the agents.
#[derive(Debug)]
pub struct ForAgents([AtomicU8; AGENTS_MAX]);

impl Default for ForAgents {
    /// They are handed over.
    fn default() -> Self {
        Self([const { AtomicU8::new(ForAgent::Divert as u8) }; AGENTS_MAX])
    }
}

impl ForAgents {
    /// From now on, for an agent. A number that no agent has is ignored.
    pub fn set(&self, agent: u8, what: ForAgent) {
        if let Some(word) = self.0.get(usize::from(agent)) {
            word.store(what as u8, Ordering::Relaxed);
        }
    }

    /// As it is now.
    #[inline]
    pub fn get(&self, agent: u8) -> ForAgent {
        let word = self.0.get(usize::from(agent));
        match word.map(|word| word.load(Ordering::Relaxed)) {
            Some(1) => ForAgent::Pass,
            Some(2) => ForAgent::Drop,
            _ => ForAgent::Divert,
        }
    }
}

/// What all workers of a node share.
#[derive(Debug)]
pub struct NodeShared {
    /// The view.
    pub view: Arc<Snapshot<View>>,
    /// The rules.
    pub policy: Arc<Snapshot<Policy>>,
    /// The state that all nodes have. Flows are judged again as it changes.
    pub common: Arc<Snapshot<Common>>,
    /// What becomes of packets for agents.
    pub agents: CachePadded<ForAgents>,
    /// Until when, in microseconds of the workers' clock, the view may be acted on; written by the
    /// membership core. A process that was paused wakes up with an old view and must not forward by it.
    pub view_valid_until_us: CachePadded<AtomicU64>,
    /// The number of the last final synchronisation that was asked of the workers; each answers with
    /// [`Told::flushed`]. Written by the membership core.
    pub flush_asked: CachePadded<AtomicU64>,
}

impl NodeShared {
    /// With a first view and rule set, and no common state yet; the view may be acted on for ever until somebody limits it.
    pub fn new(view: View, policy: Policy) -> Self {
        Self {
            view: Arc::new(Snapshot::new(view)),
            policy: Arc::new(Snapshot::new(policy)),
            common: Arc::new(Snapshot::new(Common::default())),
            agents: CachePadded::default(),
            view_valid_until_us: CachePadded::new(AtomicU64::new(u64::MAX)),
            flush_asked: CachePadded::new(AtomicU64::new(0)),
        }
    }
}

/// What one worker shares with the sync and membership cores and with the control socket.
#[derive(Debug, Default)]
pub struct WorkerShared {
    /// The greatest log number that the current targets have acknowledged; written by the sync core.
    pub acked_lsn: CachePadded<AtomicU64>,
    /// What the worker tells, all written by it alone.
    pub told: CachePadded<Told>,
}

/// What a worker tells of itself.
#[derive(Debug, Default)]
pub struct Told {
    /// The worker's clock in microseconds at its last housekeeping: shows that it runs.
    pub alive_us: AtomicU64,
    /// Flows and copies in its shard, tombstones aside.
    pub flows_live: AtomicU64,
    /// Flows of slots that this node owns, as of the last complete sweep.
    pub flows_owned: AtomicU64,
    /// Packets held now.
    pub held: AtomicU64,
    /// The epoch of the view that the worker acts by.
    pub view_epoch: AtomicU64,
    /// The last final synchronisation that the worker has done its part of.
    pub flushed: AtomicU64,
    /// Its log number then: all that it had to replicate is at or below it.
    pub flushed_lsn: AtomicU64,
    /// The epoch of the last view in which this node became owner of further slots.
    pub takeover_epoch: AtomicU64,
    /// How many slots it brought.
    pub takeover_slots: AtomicU64,
    /// When that view was taken up, in microseconds.
    pub takeover_us: AtomicU64,
    /// When the first packet of a flow adopted then was forwarded, in microseconds; 0 for not yet.
    pub first_forward_us: AtomicU64,
    /// Whether records wait to be sent again because the change ring was full.
    pub deferred: AtomicBool,
    /// Time spent on packets and messages since start, in microseconds.
    pub busy_us: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_replaced_is_freed_by_who_publishes() {
        let snapshot = Arc::new(Snapshot::new(1));
        let mut reader = snapshot.reader();
        let first = Arc::downgrade(reader.value());
        snapshot.publish(Arc::new(2));
        assert!(reader.refresh() && !reader.refresh());
        assert_eq!(**reader.value(), 2);
        assert!(first.upgrade().is_some(), "the reader has not freed it");
        snapshot.publish(Arc::new(3));
        assert!(first.upgrade().is_none(), "nobody has it any more");
        assert_eq!(**reader.value(), 2, "which the reader still has");
        assert_eq!(snapshot.replaced.lock().len(), 1);
    }
}
