//! One shard of the flow table: an index of 4-byte handles over a slab of entries, owned by one
//! worker. Nothing here locks, and nothing allocates after construction.
//!
//! The table is full when its slab is: it refuses the next flow and keeps the others. The index
//! never grows; see [`FlowTable::with_capacity`].
#![forbid(unsafe_code)]

mod entry;

pub use entry::{Entry, Local, LocalFlags};

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use state::{FlowKey, FlowRecord};

/// The most flows that one shard holds.
pub const CAPACITY_MAX: usize = 1 << 28;

/// The handle of an entry in its shard; valid until the entry is removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(u32);

impl FlowId {
    /// The handle as an index below the shard's capacity.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InsertError {
    /// The slab is full. The table keeps what it has.
    #[error("the flow table is full")]
    Full,
    /// The key is there already, under this handle.
    #[error("the flow is in the table already")]
    Present(FlowId),
}

/// One worker's shard of the flow table.
#[derive(Debug)]
pub struct FlowTable {
    index: HashTable<u32>,
    slab: Box<[Entry]>,
    /// First of the vacant entries, which are linked through [`Entry::vacant_next`].
    vacant: Option<u32>,
    len: usize,
    hasher: FixedState,
    buckets: usize,
}

impl FlowTable {
    /// A shard for `capacity` flows, all memory touched.
    ///
    /// The index gets at least twice as many places as there are flows: hashbrown doubles its
    /// index only when more than half of its places are live, and cleans up in place otherwise, so
    /// that the number of buckets stays as it is. `seed` must be random: with a known one an attacker
    /// can choose keys that collide.
    ///
    /// # Panics
    /// If `capacity` is 0 or above [`CAPACITY_MAX`].
    pub fn with_capacity(capacity: usize, seed: u64) -> Self {
        assert!(
            (1..=CAPACITY_MAX).contains(&capacity),
            "capacity must be 1 to {CAPACITY_MAX}"
        );
        let last = capacity as u32 - 1;
        let slab = (0..=last)
            .map(|i| Entry::vacant((i < last).then_some(i + 1)))
            .collect::<Box<[_]>>();
        let index = HashTable::with_capacity(capacity * 2);
        let buckets = index.num_buckets();
        Self {
            index,
            slab,
            vacant: Some(0),
            len: 0,
            hasher: FixedState::with_seed(seed),
            buckets,
        }
    }

    /// How many flows it holds, tombstones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many flows it can hold.
    pub fn capacity(&self) -> usize {
        self.slab.len()
    }

    /// The handle of a flow.
    #[inline]
    pub fn lookup(&self, key: &FlowKey) -> Option<FlowId> {
        self.lookup_hashed(key, self.hash(key))
    }

    /// The handles of a burst's flows, in order; `ids` gets as many as there are keys. The hashes are
    /// computed first and each index probe is independent of the others, so that their cache
    /// misses overlap.
    ///
    /// # Panics
    /// If `ids` is shorter than `keys`, or `keys` longer than [`BURST_MAX`].
    #[inline]
    pub fn lookup_burst(&self, keys: &[FlowKey], ids: &mut [Option<FlowId>]) {
        let mut hashes = [0; BURST_MAX];
        let hashes = &mut hashes[..keys.len()];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(key);
        }
        let ids = &mut ids[..keys.len()];
        for ((id, key), hash) in ids.iter_mut().zip(keys).zip(hashes) {
            *id = self.lookup_hashed(key, *hash);
        }
    }

    /// Inserts a record whose key is not in the table.
    ///
    /// # Errors
    /// [`InsertError`] says why not; nothing changed then.
    pub fn insert(&mut self, record: FlowRecord, local: Local) -> Result<FlowId, InsertError> {
        let hash = self.hash(&record.key);
        if let Some(id) = self.lookup_hashed(&record.key, hash) {
            return Err(InsertError::Present(id));
        }
        let Some(at) = self.vacant else {
            return Err(InsertError::Full);
        };
        let entry = &mut self.slab[at as usize];
        self.vacant = entry.vacant_next();
        *entry = Entry::occupied(record, local);
        let (slab, hasher) = (&self.slab, &self.hasher);
        self.index.insert_unique(hash, at, |i| {
            hash_key(hasher, &slab[*i as usize].record.key)
        });
        self.len += 1;
        debug_assert_eq!(
            self.index.num_buckets(),
            self.buckets,
            "the index must never grow"
        );
        Ok(FlowId(at))
    }

    /// Removes an entry; its handle may be given to another flow from now on.
    ///
    /// # Panics
    /// If nothing is there.
    pub fn remove(&mut self, id: FlowId) {
        let entry = &mut self.slab[id.index()];
        assert!(entry.is_occupied(), "the handle is not of an entry");
        let hash = hash_key(&self.hasher, &entry.record.key);
        let found = self.index.find_entry(hash, |i| *i == id.0);
        found.expect("an occupied entry is in the index").remove();
        *entry = Entry::vacant(self.vacant);
        self.vacant = Some(id.0);
        self.len -= 1;
    }

    /// The entry of a handle.
    ///
    /// # Panics
    /// If the handle is out of range.
    #[inline]
    pub fn entry(&self, id: FlowId) -> &Entry {
        &self.slab[id.index()]
    }

    /// The entry of a handle, writable. Its key must stay as it is.
    ///
    /// # Panics
    /// If the handle is out of range.
    #[inline]
    pub fn entry_mut(&mut self, id: FlowId) -> &mut Entry {
        &mut self.slab[id.index()]
    }

    /// The handle of the entry at a place of the slab, if one is there: for scans with a cursor
    /// that count from 0 to [`FlowTable::capacity`]. An entry stays in its place until it is
    /// removed, so a scan meets every flow that lives throughout it.
    #[inline]
    pub fn at(&self, place: usize) -> Option<FlowId> {
        self.slab
            .get(place)
            .filter(|e| e.is_occupied())
            .map(|_| FlowId(place as u32))
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        hash_key(&self.hasher, key)
    }

    #[inline]
    fn lookup_hashed(&self, key: &FlowKey, hash: u64) -> Option<FlowId> {
        let slab = &self.slab;
        self.index
            .find(hash, |i| slab[*i as usize].record.key == *key)
            .map(|i| FlowId(*i))
    }
}

/// The most keys that one burst lookup takes.
pub const BURST_MAX: usize = 64;

#[inline]
fn hash_key(hasher: &FixedState, key: &FlowKey) -> u64 {
    let mut state = hasher.build_hasher();
    for word in key.words() {
        state.write_u64(word);
    }
    state.finish()
}
