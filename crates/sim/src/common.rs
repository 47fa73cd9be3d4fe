//! Common state: what operators and agents write on any node, and whether every node has it in the end.
//!
//! A write counts as confirmed once its node says that every living node has it. What was confirmed outlives its
//! node and every other failure within the rules, and so does its deletion.

use std::collections::BTreeMap;

use replication::Times;
use state::{
    Block, BlockReason, CommonKey, CommonKind, CommonMap, CommonValue, Net, Stamp, User, v4_mapped,
};

use crate::node::Process;
use crate::random::Rng;
use crate::report::Stats;

/// Different keys of each kind: few, so that nodes write the same ones.
const KEYS: u64 = 6;

/// What is to be written.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put {
        key: CommonKey,
        value: Box<CommonValue>,
        life_ms: Option<u64>,
    },
    Delete {
        key: CommonKey,
    },
}

impl Write {
    /// Something that an operator may want: blocks of networks and users at addresses that no connection here has.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let number = rng.below(KEYS) as u8;
        let user = rng.chance(500_000);
        let key = match user {
            true => CommonKey::User(v4_mapped([198, 51, 100, number])),
            false => CommonKey::Block(Net::host(v4_mapped([203, 0, 113, number]))),
        };
        if rng.chance(250_000) {
            return Self::Delete { key };
        }
        let told = format!("{:08x}", rng.next() as u32);
        let value = match user {
            true => CommonValue::User(User {
                name: told,
                groups: vec![],
            }),
            false => CommonValue::Block(Block {
                reason: BlockReason::Operator,
                note: told,
            }),
        };
        let life_ms = rng.chance(250_000).then(|| rng.range(1_000..=6_000));
        Self::Put {
            key,
            value: Box::new(value),
            life_ms,
        }
    }

    fn key(&self) -> CommonKey {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => *key,
        }
    }

    /// Whether nothing need be left of it at the end.
    fn ends(&self) -> bool {
        match self {
            Self::Put { life_ms, .. } => life_ms.is_some(),
            Self::Delete { .. } => true,
        }
    }
}

/// A write that its node took.
#[derive(Clone, Copy, Debug)]
struct Written {
    run: u64,
    key: CommonKey,
    stamp: Stamp,
}

/// All that was written in a run.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    waiting: Vec<Written>,
    /// The latest confirmed write of each key.
    confirmed: BTreeMap<CommonKey, Stamp>,
    /// The latest write of each key of which nothing need be left.
    ended: BTreeMap<CommonKey, Stamp>,
    /// Which write it was, from the first on.
    numbers: BTreeMap<Stamp, usize>,
}

impl Writes {
    /// A node took a write.
    pub(crate) fn written(&mut self, run: u64, write: &Write, stamp: Stamp) {
        let key = write.key();
        self.waiting.push(Written { run, key, stamp });
        self.numbers.insert(stamp, self.numbers.len());
        if write.ends() {
            let ended = self.ended.entry(key).or_insert(stamp);
            *ended = (*ended).max(stamp);
        }
    }

    /// A run of a node says that every living node has what it wrote up to `stamp`.
    pub(crate) fn synced(&mut self, run: u64, stamp: Stamp, stats: &mut Stats) {
        let confirmed = &mut self.confirmed;
        self.waiting.retain(|written| {
            let done = written.run == run && written.stamp <= stamp;
            if done {
                stats.common_confirmed += 1;
                let latest = confirmed.entry(written.key).or_insert(written.stamp);
                *latest = (*latest).max(written.stamp);
            }
            !done
        });
    }

    /// A run has ended; what it had not said stays unsaid.
    pub(crate) fn over(&mut self, run: u64) {
        self.waiting.retain(|written| written.run != run);
    }

    /// Whether a node's map has all that was confirmed, or what came after it.
    pub(crate) fn kept(&self, map: &CommonMap) -> Result<(), String> {
        for (key, confirmed) in &self.confirmed {
            let ended = self.ended.get(key).is_some_and(|ended| ended >= confirmed);
            // When all have forgotten that it was there, a clock that is behind may write it anew.
            let later = |stamp| self.numbers.get(&stamp) > self.numbers.get(confirmed);
            match map.stamp(key) {
                Some(stamp) if stamp >= *confirmed || ended && later(stamp) => {}
                None if ended => {}
                has => {
                    return Err(format!(
                        "{key:?} was written at {confirmed:?} and every node had it; this one has {has:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Process {
    /// An operator writes here; `None` when there is nothing to delete, or no room.
    pub(crate) fn write(&mut self, write: &Write, at_us: u64) -> Option<Stamp> {
        let times = Times {
            now_us: self.clock.us(at_us),
            unix_ms: self.clock.unix_ms(at_us),
        };
        let replicator = self.replicator_mut();
        match write {
            Write::Put {
                key,
                value,
                life_ms,
            } => replicator
                .put_common(*key, CommonValue::clone(value), *life_ms, times)
                .ok(),
            Write::Delete { key } => replicator.delete_common(key, times),
        }
    }
}

/// Whether all nodes have the same, have told each other so, have nothing left of what is over, and act by it.
/// Beyond the rules all that had a write may be gone together: then nothing was promised.
pub(crate) fn agreed(
    processes: &[Option<Process>],
    writes: &Writes,
    beyond: bool,
) -> Result<(), String> {
    let mut first: Option<(usize, u64)> = None;
    for process in processes.iter().flatten() {
        let node = process.node;
        let map = process.replicator().common();
        let digest = *first.get_or_insert((node, map.digest()));
        if map.digest() != digest.1 {
            return Err(format!(
                "node {node} has other common state than node {}",
                digest.0
            ));
        }
        if !beyond {
            writes
                .kept(map)
                .map_err(|what| format!("common state of node {node}: {what}"))?;
        }
        if map.tombstones() > 0 {
            return Err(format!(
                "node {node} still has {} tombstones of common state",
                map.tombstones()
            ));
        }
        let acted = process.shared.common.load();
        let blocked = |number| acted.blocks(&v4_mapped([203, 0, 113, number]));
        let listed = |number| {
            let key = CommonKey::Block(Net::host(v4_mapped([203, 0, 113, number])));
            map.get(&key).is_some()
        };
        if let Some(number) = (0..KEYS as u8).find(|number| blocked(*number) != listed(*number)) {
            return Err(format!(
                "the workers of node {node} do not act by the block of 203.0.113.{number}"
            ));
        }
        let entries = map.len_of(CommonKind::Block) + map.len_of(CommonKind::User);
        if entries as u64 > 2 * KEYS {
            return Err(format!("node {node} has {entries} entries of common state"));
        }
    }
    Ok(())
}

/// Nodes that have not said that they have what a node has to tell them.
pub(crate) fn told(processes: &[Option<Process>]) -> Result<(), String> {
    for process in processes.iter().flatten() {
        let status = process.replicator().status(0).common;
        if let Some(peer) = status.behind.first() {
            return Err(format!(
                "node {peer} lacks common state that node {} has",
                process.node
            ));
        }
    }
    Ok(())
}
