//! The map of common state: bounded, ordered, and a join-semilattice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::key::{CommonKey, CommonKind};
use super::value::{CommonEntry, CommonValue, LEASE_LEN, Lease};
use crate::clock::Stamp;
use crate::node::{NODES_MAX, NodeId};

/// The most entries that live at once.
pub const COMMON_MAX: usize = 65_536;
/// The most tombstones that are kept.
pub const TOMBSTONES_MAX: usize = 65_536;

/// There is no room for another entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the common state has {COMMON_MAX} entries, which is all that it may have; delete some first"
)]
pub struct CommonFull;

/// Why an entry of common state is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommonError {
    /// There is no room.
    #[error(transparent)]
    Full(#[from] CommonFull),
    /// Key and value are of two kinds.
    #[error("a value of kind {value} under a key of kind {key}")]
    Kind {
        /// The key's.
        key: CommonKind,
        /// The value's.
        value: CommonKind,
    },
    /// A part is too long.
    #[error("the {what} has length {len}; at most {max} is allowed")]
    Length {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The greatest length.
        max: usize,
    },
    /// A user without a name.
    #[error("a user needs a name")]
    Nameless,
    /// A tunnel's key does not go with its suite.
    #[error("a key of {len} bytes with its salt; the suite needs {expected}")]
    KeyLength {
        /// Its length.
        len: usize,
        /// The suite's.
        expected: usize,
    },
    /// A lease without a counter.
    #[error("the lease {0:?} has no counter in it")]
    EmptyLease(Lease),
}

/// Common state: at most [`COMMON_MAX`] live entries and [`TOMBSTONES_MAX`] tombstones.
///
/// Times are milliseconds of any clock of the node that does not go back.
///
/// What a node writes is refused when there is no room. What comes from other nodes is never
/// refused, for the copies would not converge: where two parts of a cluster together wrote more than
/// fits, the entries of the least kind (see [`CommonKind`]) and of it the first written become
/// tombstones, which are the same ones on every node; they are counted.
#[derive(Clone, Debug, Default)]
pub struct CommonMap {
    entries: BTreeMap<CommonKey, Held>,
    /// Live entries in the order in which they are given up.
    live: BTreeSet<(CommonKind, Stamp, CommonKey)>,
    /// Live entries that end.
    ends: BTreeSet<(u64, CommonKey)>,
    tombstones: BTreeSet<(Stamp, CommonKey)>,
    /// By kind.
    counts: [usize; CommonKind::ALL.len()],
    /// The sum of the live entries' hashes.
    digest: u64,
    /// Keys that made room for others since the last question.
    displaced: Vec<CommonKey>,
    given_up: u64,
    tombstones_forgotten: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    stamp: Stamp,
    value: Option<CommonValue>,
    /// When it ends: [`FOREVER`] for one that does not, and for a tombstone.
    ends_ms: u64,
}

const FOREVER: u64 = u64::MAX;

impl CommonMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes an entry that lives for `life_ms`, or for ever. A `stamp` that is not greater than
    /// the key's present one changes nothing.
    ///
    /// # Errors
    /// When the value may not stand under the key, or there is no room. Nothing has changed then.
    pub fn put(
        &mut self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
        stamp: Stamp,
        now_ms: u64,
    ) -> Result<(), CommonError> {
        value.check(&key)?;
        if self.get(&key).is_none() && self.len() >= COMMON_MAX {
            return Err(CommonFull.into());
        }
        self.merge(
            &CommonEntry {
                key,
                stamp,
                value: Some(value),
                left_ms: life_ms,
            },
            now_ms,
        );
        Ok(())
    }

    /// Deletes an entry: it becomes a tombstone. Returns whether there was one that is older.
    pub fn delete(&mut self, key: &CommonKey, stamp: Stamp) -> bool {
        let older = |held: &Held| held.value.is_some() && held.stamp < stamp;
        if !self.entries.get(key).is_some_and(older) {
            return false;
        }
        self.set(*key, Held::tombstone(stamp));
        true
    }

    /// Takes an entry of another copy in; returns whether that changed anything.
    ///
    /// Commutative, associative and idempotent, whatever entries there are. The caller has checked
    /// that the value may stand under the key, as [`ArchivedCommonBatch`](super::ArchivedCommonBatch)
    /// does.
    pub fn merge(&mut self, entry: &CommonEntry, now_ms: u64) -> bool {
        let ends_ms = match (&entry.value, entry.left_ms) {
            (Some(_), Some(left_ms)) => now_ms.saturating_add(left_ms).min(FOREVER - 1),
            _ => FOREVER,
        };
        let theirs = |value: Option<CommonValue>| Held {
            stamp: entry.stamp,
            value,
            ends_ms,
        };
        let Some(mine) = self.entries.get(&entry.key) else {
            self.set(entry.key, theirs(entry.value.clone()));
            return true;
        };
        let joined = match entry.stamp.cmp(&mine.stamp) {
            std::cmp::Ordering::Less => return false,
            std::cmp::Ordering::Greater => theirs(entry.value.clone()),
            std::cmp::Ordering::Equal => {
                let (Some(my_value), Some(their_value)) = (&mine.value, &entry.value) else {
                    if mine.value.is_none() {
                        return false;
                    }
                    self.set(entry.key, Held::tombstone(entry.stamp));
                    return true;
                };
                // One write has one value; should a clock have lost its memory, all still agree.
                let wins = their_value > my_value;
                if !wins && ends_ms >= mine.ends_ms {
                    return false;
                }
                Held {
                    stamp: entry.stamp,
                    value: Some(if wins { their_value } else { my_value }.clone()),
                    // Time passed on the way that nobody has counted: the earlier end is nearer.
                    ends_ms: ends_ms.min(mine.ends_ms),
                }
            }
        };
        self.set(entry.key, joined);
        true
    }

    /// Ends what has lived its life: it becomes a tombstone with its own stamp, as it does on every
    /// other node. Returns the keys that ended now.
    pub fn expire(&mut self, now_ms: u64) -> Vec<CommonKey> {
        let mut ended = Vec::new();
        while let Some(&(ends_ms, key)) = self.ends.first()
            && ends_ms <= now_ms
        {
            let stamp = self.entries[&key].stamp;
            self.set(key, Held::tombstone(stamp));
            ended.push(key);
        }
        ended
    }

    /// When the next entry ends.
    pub fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(ends_ms, _)| *ends_ms)
    }

    /// What a live entry says.
    pub fn get(&self, key: &CommonKey) -> Option<&CommonValue> {
        self.entries.get(key)?.value.as_ref()
    }

    /// The stamp of an entry or tombstone.
    pub fn stamp(&self, key: &CommonKey) -> Option<Stamp> {
        Some(self.entries.get(key)?.stamp)
    }

    /// An entry or tombstone, as it travels.
    pub fn entry(&self, key: &CommonKey, now_ms: u64) -> Option<CommonEntry> {
        Some(travelling(key, self.entries.get(key)?, now_ms))
    }

    /// The live entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&CommonKey, &CommonValue)> {
        self.entries
            .iter()
            .filter_map(|(key, held)| Some((key, held.value.as_ref()?)))
    }

    /// The live entries of one kind with what is left of their lives, the first written first.
    pub fn of_kind(&self, kind: CommonKind, now_ms: u64) -> impl Iterator<Item = CommonEntry> {
        self.live
            .range((kind, Stamp::NEVER, LEAST)..)
            .take_while(move |(of, ..)| *of == kind)
            .map(move |(_, _, key)| travelling(key, &self.entries[key], now_ms))
    }

    /// All entries, tombstones too, as they travel, in the order of their keys: those after `after`.
    pub fn entries(
        &self,
        after: Option<CommonKey>,
        now_ms: u64,
    ) -> impl Iterator<Item = CommonEntry> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range((from, Bound::Unbounded))
            .map(move |(key, held)| travelling(key, held, now_ms))
    }

    /// How many entries live.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no entry lives.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// How many entries of a kind live.
    pub fn len_of(&self, kind: CommonKind) -> usize {
        self.counts[kind as usize]
    }

    /// How many tombstones there are.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// A summary of the live entries: keys and stamps, in any order. Maps with the same entries
    /// have the same; it is the same on every machine.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Forgets the tombstones for which `may` says so; returns how many. A tombstone that another
    /// node may still have an older entry for must be kept, or that entry comes back.
    pub fn forget_tombstones(&mut self, mut may: impl FnMut(&CommonKey, Stamp) -> bool) -> usize {
        let before = self.tombstones.len();
        let entries = &mut self.entries;
        self.tombstones.retain(|(stamp, key)| {
            let goes = may(key, *stamp);
            if goes {
                entries.remove(key);
            }
            !goes
        });
        before - self.tombstones.len()
    }

    /// Forgets the tombstone of a key; returns whether there was one. As with
    /// [`forget_tombstones`](Self::forget_tombstones), no node may have an older entry any more.
    pub fn forget_tombstone(&mut self, key: &CommonKey) -> bool {
        let Some(held) = self.entries.get(key).filter(|held| held.value.is_none()) else {
            return false;
        };
        self.tombstones.remove(&(held.stamp, *key));
        self.entries.remove(key);
        true
    }

    /// How many tombstones were forgotten because there were too many.
    pub fn tombstones_forgotten(&self) -> u64 {
        self.tombstones_forgotten
    }

    /// How many entries were given up because nodes together wrote more than fits.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Keys that made room for others since this was asked last: entries that became tombstones,
    /// and tombstones that were forgotten. To be asked after each change.
    pub fn take_displaced(&mut self) -> Vec<CommonKey> {
        std::mem::take(&mut self.displaced)
    }

    /// The next counters of a tunnel that `node` may lease; `None` when they are used up, and the
    /// tunnel needs new keys.
    ///
    /// Counters come in ranges of [`LEASE_LEN`], dealt to the nodes in turn, so that two nodes that
    /// do not hear each other never take the same; and a lease starts after every other one of the
    /// tunnel that is known here. A node uses a lease once all nodes that live have it, so that its
    /// next run knows where to go on.
    pub fn next_lease(&self, tunnel: u32, node: NodeId) -> Option<Lease> {
        let of_tunnel = |node| CommonKey::Lease { tunnel, node };
        let nodes = || (0..NODES_MAX as u8).filter_map(NodeId::new);
        let ends = nodes().filter_map(|node| match self.get(&of_tunnel(node)) {
            Some(CommonValue::Lease(lease)) => Some(lease.to),
            _ => None,
        });
        let free = ends.max().unwrap_or(0).div_ceil(LEASE_LEN);
        let turns = NODES_MAX as u64;
        let mine = (turns + u64::from(node.raw()) - free % turns) % turns;
        let from = (free + mine).checked_mul(LEASE_LEN)?;
        let to = from.checked_add(LEASE_LEN)?;
        Some(Lease { from, to })
    }

    /// Puts an entry or tombstone in its place, and keeps the indices and bounds.
    fn set(&mut self, key: CommonKey, held: Held) {
        let kind = key.kind();
        if let Some(old) = self.entries.get(&key) {
            if old.value.is_some() {
                self.live.remove(&(kind, old.stamp, key));
                self.ends.remove(&(old.ends_ms, key));
                self.counts[kind as usize] -= 1;
                self.digest = self.digest.wrapping_sub(hash(&key, old.stamp));
            } else {
                self.tombstones.remove(&(old.stamp, key));
            }
        }
        if held.value.is_some() {
            self.live.insert((kind, held.stamp, key));
            if held.ends_ms != FOREVER {
                self.ends.insert((held.ends_ms, key));
            }
            self.counts[kind as usize] += 1;
            self.digest = self.digest.wrapping_add(hash(&key, held.stamp));
        } else {
            self.tombstones.insert((held.stamp, key));
        }
        self.entries.insert(key, held);
        if self.live.len() > COMMON_MAX
            && let Some(&(_, stamp, key)) = self.live.first()
        {
            self.given_up += 1;
            self.displaced.push(key);
            self.set(key, Held::tombstone(stamp));
        }
        if self.tombstones.len() > TOMBSTONES_MAX
            && let Some((_, key)) = self.tombstones.pop_first()
        {
            self.tombstones_forgotten += 1;
            self.displaced.push(key);
            self.entries.remove(&key);
        }
    }
}

impl Held {
    fn tombstone(stamp: Stamp) -> Self {
        Self {
            stamp,
            value: None,
            ends_ms: FOREVER,
        }
    }
}

/// Not after any key.
const LEAST: CommonKey = CommonKey::Block(super::key::Net {
    addr: [0; 16],
    len: 0,
});

fn travelling(key: &CommonKey, held: &Held, now_ms: u64) -> CommonEntry {
    let ends = held.ends_ms != FOREVER;
    CommonEntry {
        key: *key,
        stamp: held.stamp,
        value: held.value.clone(),
        left_ms: ends.then(|| held.ends_ms.saturating_sub(now_ms)),
    }
}

/// FNV-1a over the key's bytes and the stamp's, then the finaliser of SplitMix64, so that sums of
/// hashes of close entries do not meet. Part of what nodes say to each other.
fn hash(key: &CommonKey, stamp: Stamp) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.to_bytes().into_iter().chain(stamp.0.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}
