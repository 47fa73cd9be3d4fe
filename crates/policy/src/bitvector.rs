//! The classifier's lookup: one bit per rule, one vector per condition.
//!
//! Each of the three ordered conditions (source, destination, service) cuts its line of values
//! into intervals on which the set of matching rules is constant; a binary search finds the
//! interval, and the interval its bit vector. Zones index their vectors directly. Users and groups
//! have a vector each, of the rules that name them; the disjunction of those that a packet's user
//! has, and of the rules for everybody, is the sixth condition's. The conjunction
//! of the six vectors has the matching rules' bits set, the lowest of them decides. After
//! Lakshman and Stiliadis, High-Speed Policy-based Packet Forwarding Using Efficient
//! Multi-dimensional Range Matching, SIGCOMM 1998.
//!
//! Equal vectors are kept once. There is one table for all pairs of zones, not one per pair: a
//! rule for any zone would have to be in each of up to 64516 of them, and the searches, which are
//! what costs, would hardly be shorter.

use std::collections::{BTreeMap, HashMap};

use crate::address::ranges;
use crate::service::{KEY_LAST, service_key};
use crate::{
    AddressSet, GROUPS_MAX, Identity, Matcher, Query, Rule, RuleSet, Service, ZoneSet, name_hash,
};

/// Bit vectors of a rule set's conditions.
#[derive(Debug, Clone)]
pub struct BitVectors {
    /// Words of 64 rules per vector.
    words: usize,
    from: Zoned,
    to: Zoned,
    source: Intervals<u128>,
    destination: Intervals<u128>,
    service: Intervals<u32>,
    who: Who,
}

impl BitVectors {
    /// Compiles the rules. Takes time and memory in proportion to the number of networks and
    /// services that the rules name, times the number of rules.
    pub fn compile(set: &RuleSet) -> Self {
        let rules = set.rules();
        let words = rules.len().div_ceil(64);
        Self {
            words,
            from: Zoned::new(rules, words, |rule| &rule.from),
            to: Zoned::new(rules, words, |rule| &rule.to),
            source: Intervals::new(words, rules, 0, |rule| addresses(&rule.source)),
            destination: Intervals::new(words, rules, 0, |rule| addresses(&rule.destination)),
            service: Intervals::new(words, rules, 0, |rule| services(&rule.services)),
            who: Who::new(rules, words),
        }
    }

    /// The memory of the tables in bytes.
    pub fn memory_bytes(&self) -> usize {
        let zoned = |zoned: &Zoned| zoned.vectors.memory_bytes() + size_of_val(&zoned.class);
        let addresses = |field: &Intervals<u128>| field.memory_bytes();
        zoned(&self.from)
            + zoned(&self.to)
            + addresses(&self.source)
            + addresses(&self.destination)
            + self.service.memory_bytes()
            + self.who.memory_bytes()
    }
}

impl Matcher for BitVectors {
    #[inline]
    fn first_match(&self, query: &Query) -> Option<usize> {
        let source = self.source.vector(u128::from_be_bytes(query.src));
        let destination = self.destination.vector(u128::from_be_bytes(query.dst));
        let service = self.service.vector(service_key(query));
        let from = self.from.vector(query.zone_from);
        let to = self.to.vector(query.zone_to);
        // The vectors are cut to one length here so that the loop needs no further checks.
        let n = self.words;
        let (source, destination, service) = (&source[..n], &destination[..n], &service[..n]);
        let (from, to) = (&from[..n], &to[..n]);
        let who = self.who.asked(&query.identity);
        for word in 0..n {
            let both = source[word] & destination[word] & service[word] & from[word] & to[word];
            let both = if both == 0 { 0 } else { both & who.word(word) };
            if both != 0 {
                return Some(word * 64 + both.trailing_zeros() as usize);
            }
        }
        None
    }
}

/// The values that one rule's condition takes and those that it leaves out. No values to take
/// means all of them.
struct Spans<V> {
    take: Vec<(V, V)>,
    leave: Vec<(V, V)>,
}

fn addresses(set: &AddressSet) -> Spans<u128> {
    Spans {
        take: set.include().iter().flat_map(ranges).collect(),
        leave: set.exclude().iter().flat_map(ranges).collect(),
    }
}

fn services(services: &[Service]) -> Spans<u32> {
    Spans {
        take: services.iter().map(|service| service.keys()).collect(),
        leave: Vec::new(),
    }
}

/// A value that intervals are made of.
trait Value: Copy + Ord {
    /// The next one, unless it is the last.
    fn next(self) -> Option<Self>;
}

impl Value for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Value for u32 {
    fn next(self) -> Option<Self> {
        (self < KEY_LAST).then_some(self + 1)
    }
}

/// A line of values, cut where a rule's condition changes.
#[derive(Debug, Clone)]
struct Intervals<V> {
    /// Where each interval starts, ascending; the first is the least value.
    starts: Box<[V]>,
    /// The vector of each interval.
    class: Box<[u32]>,
    vectors: Vectors,
}

impl<V: Value> Intervals<V> {
    fn new(words: usize, rules: &[Rule], least: V, spans: impl Fn(&Rule) -> Spans<V>) -> Self {
        // How many ranges that take, and that leave out, hold the current value; by rule.
        let mut taken = vec![0_u32; rules.len()];
        let mut left = vec![0_u32; rules.len()];
        let mut always = vec![false; rules.len()];
        let mut changes: Vec<(V, usize, bool, i8)> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let Spans { take, leave } = spans(rule);
            always[index] = take.is_empty();
            for (ranges, takes) in [(take, true), (leave, false)] {
                for (first, last) in ranges {
                    changes.push((first, index, takes, 1));
                    changes.extend(last.next().map(|behind| (behind, index, takes, -1)));
                }
            }
        }
        changes.sort_unstable_by_key(|change| change.0);

        let mut vector = vec![0_u64; words];
        let set = |vector: &mut [u64], rule: usize, on: bool| {
            let bit = 1 << (rule % 64);
            if on {
                vector[rule / 64] |= bit;
            } else {
                vector[rule / 64] &= !bit;
            }
        };
        for (rule, &on) in always.iter().enumerate() {
            set(&mut vector, rule, on);
        }
        let mut interner = Interner::new(words);
        let (mut starts, mut class) = (Vec::new(), Vec::new());
        if changes.first().is_none_or(|change| change.0 != least) {
            starts.push(least);
            class.push(interner.class(&vector));
        }
        for same_start in changes.chunk_by(|a, b| a.0 == b.0) {
            for &(_, rule, takes, step) in same_start {
                let count = if takes {
                    &mut taken[rule]
                } else {
                    &mut left[rule]
                };
                *count = count.wrapping_add_signed(i32::from(step));
            }
            for &(_, rule, ..) in same_start {
                set(
                    &mut vector,
                    rule,
                    (always[rule] || taken[rule] > 0) && left[rule] == 0,
                );
            }
            let now = interner.class(&vector);
            if class.last() != Some(&now) {
                starts.push(same_start[0].0);
                class.push(now);
            }
        }
        Self {
            starts: starts.into(),
            class: class.into(),
            vectors: interner.vectors,
        }
    }

    #[inline]
    fn vector(&self, value: V) -> &[u64] {
        let behind = self.starts.partition_point(|start| *start <= value);
        // The first interval starts at the least value, so there is always one before.
        self.vectors.of(self.class[behind - 1])
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.class) + self.vectors.memory_bytes()
    }
}

/// A vector per zone.
#[derive(Debug, Clone)]
struct Zoned {
    class: Box<[u32; 256]>,
    vectors: Vectors,
}

impl Zoned {
    fn new(rules: &[Rule], words: usize, zones: impl Fn(&Rule) -> &ZoneSet) -> Self {
        let mut interner = Interner::new(words);
        let mut class = Box::new([0; 256]);
        for zone in 0..=u8::MAX {
            let mut vector = vec![0_u64; words];
            for (index, rule) in rules.iter().enumerate() {
                vector[index / 64] |= u64::from(zones(rule).contains(zone)) << (index % 64);
            }
            class[usize::from(zone)] = interner.class(&vector);
        }
        Self {
            class,
            vectors: interner.vectors,
        }
    }

    #[inline]
    fn vector(&self, zone: u8) -> &[u64] {
        self.vectors.of(self.class[usize::from(zone)])
    }
}

/// The rules for everybody, and a vector per user and group that rules name.
#[derive(Debug, Clone)]
struct Who {
    /// Hashes of names, ascending, and their vectors' classes.
    users: Box<[(u64, u32)]>,
    groups: Box<[(u64, u32)]>,
    /// The first is that of the rules for everybody.
    vectors: Vectors,
}

impl Who {
    fn new(rules: &[Rule], words: usize) -> Self {
        let mut interner = Interner::new(words);
        let mut everybody = vec![0_u64; words];
        for (index, rule) in rules.iter().enumerate() {
            everybody[index / 64] |= u64::from(rule.identities.is_any()) << (index % 64);
        }
        interner.class(&everybody);
        let mut named = |names: fn(&Rule) -> &Vec<String>| {
            let mut vectors: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (index, rule) in rules.iter().enumerate() {
                for name in names(rule) {
                    let vector = vectors.entry(name_hash(name));
                    vector.or_insert_with(|| vec![0; words])[index / 64] |= 1 << (index % 64);
                }
            }
            let class = |(hash, vector): (u64, Vec<u64>)| (hash, interner.class(&vector));
            vectors.into_iter().map(class).collect()
        };
        let users = named(|rule| &rule.identities.users);
        let groups = named(|rule| &rule.identities.groups);
        Self {
            users,
            groups,
            vectors: interner.vectors,
        }
    }

    /// The vectors of one user. Does not allocate: a user has at most [`GROUPS_MAX`] groups.
    #[inline]
    fn asked(&self, identity: &Identity) -> Asked<'_> {
        let mut asked = Asked {
            vectors: [self.vectors.of(0); GROUPS_MAX + 2],
            count: 1,
        };
        let nobody_named = self.users.is_empty() && self.groups.is_empty();
        if !identity.is_none() && !nobody_named {
            asked.add(&self.vectors, &self.users, identity.user());
            for group in identity.groups() {
                asked.add(&self.vectors, &self.groups, group);
            }
        }
        asked
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.users) + size_of_val(&*self.groups) + self.vectors.memory_bytes()
    }
}

/// The vectors whose disjunction are the rules that a user is meant by.
struct Asked<'a> {
    vectors: [&'a [u64]; GROUPS_MAX + 2],
    count: usize,
}

impl<'a> Asked<'a> {
    fn add(&mut self, vectors: &'a Vectors, named: &[(u64, u32)], hash: u64) {
        if let Ok(at) = named.binary_search_by_key(&hash, |named| named.0) {
            self.vectors[self.count] = vectors.of(named[at].1);
            self.count += 1;
        }
    }

    #[inline]
    fn word(&self, word: usize) -> u64 {
        let vectors = &self.vectors[..self.count];
        vectors.iter().fold(0, |all, vector| all | vector[word])
    }
}

/// Vectors of equal length, one behind the other.
#[derive(Debug, Clone)]
struct Vectors {
    words: usize,
    bits: Vec<u64>,
}

impl Vectors {
    #[inline]
    fn of(&self, class: u32) -> &[u64] {
        let at = class as usize * self.words;
        &self.bits[at..at + self.words]
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bits)
    }
}

/// Keeps equal vectors once.
struct Interner {
    vectors: Vectors,
    known: HashMap<Box<[u64]>, u32>,
}

impl Interner {
    fn new(words: usize) -> Self {
        Self {
            vectors: Vectors {
                words,
                bits: Vec::new(),
            },
            known: HashMap::new(),
        }
    }

    fn class(&mut self, vector: &[u64]) -> u32 {
        if let Some(&class) = self.known.get(vector) {
            return class;
        }
        let class = self.known.len() as u32;
        self.known.insert(vector.into(), class);
        self.vectors.bits.extend_from_slice(vector);
        class
    }
}
