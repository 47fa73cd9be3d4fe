//! The index: where in the slab the flow of a hash is.
//!
//! Buckets of one cache line have ten places each: a tag of the hash, which is compared first, and the
//! flow's place in the slab. What finds no room in its bucket goes to the next one that has some, and
//! every bucket that it passed counts it, so that a search knows when to go on. Removing counts down
//! again: there are no tombstones and nothing is ever cleaned up or grown. (F14 of N. Bronson and X. Shi, Open-sourcing F14
//! for faster, more memory-efficient hash tables, 2019, counts overflows in this way.)
//!
//! A bucket's address follows from the hash alone, so a burst can ask for all of its buckets before it looks
//! into the first: what hashbrown's tables, which keep their address to themselves, do not allow.

use crate::prefetch::prefetch;

/// Places of a bucket.
const PLACES: usize = 10;

/// One cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// A part of the hash of what is in each place; [`VACANT`] for nothing.
    tags: [u16; PLACES],
    at: [u32; PLACES],
    /// How many flows were put further on because this bucket was full when they came.
    passed: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is a cache line");

const VACANT: u16 = 0;

const EMPTY: Bucket = Bucket {
    tags: [VACANT; PLACES],
    at: [0; PLACES],
    passed: 0,
};

#[derive(Debug)]
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    mask: usize,
}

impl Index {
    /// For at most so many flows: buckets are from a third to two thirds full then.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let buckets = capacity.div_ceil(PLACES * 2 / 3).next_power_of_two();
        Self {
            buckets: vec![EMPTY; buckets].into_boxed_slice(),
            mask: buckets - 1,
        }
    }

    /// Asks for the cache line where the search for a hash begins.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The first place of a hash's bucket whose tag is right: most probably it is the flow's.
    #[inline(always)]
    pub(crate) fn likely(&self, hash: u64) -> Option<u32> {
        let bucket = &self.buckets[self.home(hash)];
        let found = bucket.matches(tag(hash));
        (found != 0).then(|| bucket.at[found.trailing_zeros() as usize])
    }

    /// What `is` says yes to, of all with the same tag.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.search(hash, &mut is).map(|(_, _, at)| at)
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If there are as many as the index was made for.
    pub(crate) fn insert(&mut self, hash: u64, at: u32) {
        let mut number = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[number];
            let vacant = bucket.matches(VACANT);
            if vacant != 0 {
                let place = vacant.trailing_zeros() as usize;
                bucket.tags[place] = tag(hash);
                bucket.at[place] = at;
                return;
            }
            bucket.passed += 1;
            number = (number + 1) & self.mask;
        }
        panic!("the index has room for as many flows as the slab");
    }

    /// Removes an entry.
    ///
    /// # Panics
    /// If it is not there.
    pub(crate) fn remove(&mut self, hash: u64, at: u32) {
        let found = self.search(hash, &mut |other| other == at);
        let (number, place, _) = found.expect("an occupied entry is in the index");
        self.buckets[number].tags[place] = VACANT;
        let mut passed = self.home(hash);
        while passed != number {
            self.buckets[passed].passed -= 1;
            passed = (passed + 1) & self.mask;
        }
    }

    /// The bucket, the place in it, and what is there.
    #[inline(always)]
    fn search(&self, hash: u64, is: &mut impl FnMut(u32) -> bool) -> Option<(usize, usize, u32)> {
        let mut number = self.home(hash);
        // Each bucket once: every one may have been passed.
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[number];
            let mut found = bucket.matches(tag(hash));
            while found != 0 {
                let place = found.trailing_zeros() as usize;
                if is(bucket.at[place]) {
                    return Some((number, place, bucket.at[place]));
                }
                found &= found - 1;
            }
            if bucket.passed == 0 {
                break;
            }
            number = (number + 1) & self.mask;
        }
        None
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }
}

impl Bucket {
    /// A bit for each place with this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        let mut found = 0;
        for (place, other) in self.tags.iter().enumerate() {
            found |= u32::from(*other == tag) << place;
        }
        found
    }
}

/// The bits of a hash that are furthest from those which choose the bucket; never [`VACANT`].
#[inline(always)]
const fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::HashMap;
    use proptest::prelude::*;

    proptest! {
        /// Against hashbrown, with hashes that collide in tags and buckets more often than not.
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((any::<bool>(), 0u32..64), 0..600)) {
            const CAPACITY: usize = 48;
            let hash_of = |at: u32| u64::from(at % 3) << 60 | u64::from(at % 5);
            let mut index = Index::with_capacity(CAPACITY);
            let mut oracle = HashMap::new();
            for (insert, at) in ops {
                let known = oracle.contains_key(&at);
                if insert && !known && oracle.len() < CAPACITY {
                    index.insert(hash_of(at), at);
                    oracle.insert(at, ());
                } else if !insert && known {
                    index.remove(hash_of(at), at);
                    oracle.remove(&at);
                }
                for at in 0..64 {
                    let found = index.find(hash_of(at), |other| other == at);
                    prop_assert_eq!(found.is_some(), oracle.contains_key(&at));
                }
            }
            for at in oracle.keys() {
                index.remove(hash_of(*at), *at);
            }
            let passed: u32 = index.buckets.iter().map(|b| b.passed).sum();
            prop_assert_eq!(passed, 0, "what was counted up is counted down");
        }
    }

    #[test]
    fn an_index_whose_flows_all_collide_holds_as_many_as_it_was_made_for() {
        let mut index = Index::with_capacity(1000);
        for at in 0..1000 {
            index.insert(7, at);
        }
        assert_eq!(index.find(7, |at| at == 999), Some(999));
        assert_eq!(index.find(1 << 60 | 7, |_| true), None);
    }
}
