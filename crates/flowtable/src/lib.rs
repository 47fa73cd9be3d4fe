//! One shard of the flow table: an index of 4-byte handles over a slab of entries, owned by one
//! worker. Nothing here locks, and nothing allocates after construction.
//!
//! The table is full when its slab is: it refuses the next flow and keeps the others. The index
//! never grows and is never cleaned up: a removal leaves nothing behind.
#![deny(unsafe_code)]

mod entry;
mod index;
mod prefetch;

pub use entry::{Entry, Local, LocalFlags};

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use state::{FlowKey, FlowRecord, PROTO_TCP};

use crate::index::Index;

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
    index: Index,
    slab: Box<[Entry]>,
    /// First of the vacant entries, which are linked through [`Entry::vacant_next`].
    vacant: Option<u32>,
    len: usize,
    changes: u64,
    hasher: FixedState,
}

impl FlowTable {
    /// A shard for `capacity` flows, all memory touched.
    ///
    /// `seed` must be random: with a known one an attacker can choose keys that collide.
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
        Self {
            index: Index::with_capacity(capacity),
            slab,
            vacant: Some(0),
            len: 0,
            changes: 0,
            hasher: FixedState::with_seed(seed),
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

    /// How many insertions and removals there were. As long as this stays, so does what lookups found.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
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

    /// The handles of a burst's flows, in order; `ids` gets as many as there are keys. Three passes, each of
    /// which asks for the memory that the next one reads, so that cache misses overlap: the buckets of the
    /// index, the entries, and the rest of the entries for whoever handles the packets.
    ///
    /// # Panics
    /// If `ids` is shorter than `keys`, or `keys` longer than [`BURST_MAX`].
    #[inline]
    pub fn lookup_burst(&self, keys: &[FlowKey], ids: &mut [Option<FlowId>]) {
        let mut hashes = [0; BURST_MAX];
        let hashes = &mut hashes[..keys.len()];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.seek(key);
        }
        let ids = &mut ids[..keys.len()];
        for ((id, hash), key) in ids.iter_mut().zip(&*hashes).zip(keys) {
            *id = self.approach(key, *hash);
        }
        for ((id, key), hash) in ids.iter_mut().zip(keys).zip(hashes) {
            if !self.is_there(key, *id) {
                *id = self.lookup_hashed(key, *hash);
            }
        }
    }

    /// The first of three steps of a lookup, for who has something else to do between them: asks for the bucket of
    /// the index. Returns the key's hash.
    #[inline(always)]
    pub fn seek(&self, key: &FlowKey) -> u64 {
        let hash = self.hash(key);
        self.index.prefetch(hash);
        hash
    }

    /// The second step, with the hash of the first: reads the bucket, and asks for the most likely entry.
    #[inline(always)]
    pub fn approach(&self, key: &FlowKey, hash: u64) -> Option<FlowId> {
        let id = self.index.likely(hash).map(FlowId);
        if let Some(id) = id {
            self.slab[id.index()].prefetch(key.proto() == PROTO_TCP);
        }
        id
    }

    /// The last step, with what the others gave: the flow's handle. Whatever has come to the table or left it since, it is
    /// that of now.
    #[inline(always)]
    pub fn arrive(&self, key: &FlowKey, hash: u64, likely: Option<FlowId>) -> Option<FlowId> {
        match self.is_there(key, likely) {
            true => likely,
            false => self.lookup_hashed(key, hash),
        }
    }

    /// Whether the likely entry is the flow's. Rarely another flow has the same tag, or this one lies further on. A place
    /// that has become vacant has no flow's key.
    #[inline(always)]
    fn is_there(&self, key: &FlowKey, likely: Option<FlowId>) -> bool {
        likely.is_some_and(|id| self.slab[id.index()].record.key.is(key))
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
        self.index.insert(hash, at);
        self.len += 1;
        self.changes += 1;
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
        self.index.remove(hash, id.0);
        *entry = Entry::vacant(self.vacant);
        self.vacant = Some(id.0);
        self.len -= 1;
        self.changes += 1;
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
            .find(hash, |i| slab[i as usize].record.key.is(key))
            .map(FlowId)
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
