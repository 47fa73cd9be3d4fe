//! What an agent remembers of connections: as many as it has room for, the ones known longest given up for further ones.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map with a limit.
#[derive(Debug)]
pub struct Known<K, V> {
    of: HashMap<K, (u64, V)>,
    /// By when they came.
    ages: BTreeMap<u64, K>,
    last: u64,
    most: usize,
}

impl<K: Clone + Eq + Hash, V> Known<K, V> {
    /// With room for so many.
    pub fn with_room_for(most: usize) -> Self {
        Self {
            of: HashMap::new(),
            ages: BTreeMap::new(),
            last: 0,
            most,
        }
    }

    /// What is known of this; what `make` makes, if nothing is.
    pub fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.of.contains_key(&key) {
            if self.of.len() >= self.most
                && let Some((_, oldest)) = self.ages.pop_first()
            {
                self.of.remove(&oldest);
            }
            self.last += 1;
            self.ages.insert(self.last, key.clone());
        }
        let age = self.last;
        let (_, value) = self.of.entry(key).or_insert_with(|| (age, make()));
        value
    }

    /// Whether anything is known of this.
    pub fn contains(&self, key: &K) -> bool {
        self.of.contains_key(key)
    }

    /// Forgets it.
    pub fn forget(&mut self, key: &K) {
        if let Some((age, _)) = self.of.remove(key) {
            self.ages.remove(&age);
        }
    }

    /// Of what something is known.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.of.keys()
    }

    /// All that is known.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.of.values().map(|(_, value)| value)
    }

    /// Of how many something is known.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.ages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_longest_makes_room() {
        let mut known = Known::with_room_for(2);
        *known.entry("a", || 1) += 10;
        known.entry("b", || 2);
        // Known still: it does not become younger.
        assert_eq!(*known.entry("a", || 3), 11);
        known.entry("c", || 4);
        assert!(!known.contains(&"a") && known.contains(&"b") && known.len() == 2);
        known.forget(&"b");
        known.forget(&"b");
        assert_eq!(known.values().collect::<Vec<_>>(), [&4]);
        // What was forgotten left its place.
        known.entry("d", || 5);
        assert!(known.contains(&"c"));
        for key in ["c", "d"] {
            known.forget(&key);
        }
        assert!(known.is_empty());
    }
}
