//! Counters of one core: plain locals, published at housekeeping, summed by readers.
//!
//! A core counts in [`Counts`], which is an array of its own. From time to time it calls
//! [`Counts::publish`], which stores the array with relaxed stores into a block that readers
//! share. A reader sees every single counter whole, but two counters may come from two
//! publications: the sum of one counter over the cores is exact for some recent instant of each
//! core, and relations between counters hold only approximately while traffic runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A fieldless enum whose variants each name a counter. Made by [`counters!`](crate::counters!).
pub trait Counter: Copy + Send + Sync + 'static {
    /// How many variants there are.
    const COUNT: usize;
    /// The variants in the order of their indices.
    const ALL: &'static [Self];
    /// `[u64; COUNT]`: the array that a core counts in.
    type Values: AsRef<[u64]> + AsMut<[u64]> + Copy + Send;
    /// All zero.
    const ZERO: Self::Values;

    /// The variant's position in [`ALL`](Self::ALL); below [`COUNT`](Self::COUNT).
    fn index(self) -> usize;

    /// The counter's name, as output has it: `lower_case`.
    fn name(self) -> &'static str;
}

/// Declares a fieldless enum and implements [`Counter`] for it.
///
/// ```
/// use telemetry::counters::{Counter, Counts};
///
/// telemetry::counters! {
///     /// What a worker counts.
///     pub enum Packets {
///         /// Frames taken from the receive queue.
///         Received = "rx_packets",
///         /// Frames of slots that another node owns.
///         Foreign = "rx_foreign",
///     }
/// }
///
/// let mut counts = Counts::<Packets>::new();
/// counts.add(Packets::Received, 32);
/// assert_eq!(counts.value(Packets::Received), 32);
/// assert_eq!(Packets::Foreign.name(), "rx_foreign");
/// ```
#[macro_export]
macro_rules! counters {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident {
            $( $(#[$variant_attribute:meta])* $variant:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $visibility enum $name {
            $( $(#[$variant_attribute])* $variant ),+
        }

        impl $crate::counters::Counter for $name {
            const COUNT: usize = [$($text),+].len();
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            type Values = [u64; [$($text),+].len()];
            const ZERO: Self::Values = [0; [$($text),+].len()];

            #[inline]
            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

/// The counters of one core: the only writer of the block that its [`reader`](Self::reader)s see.
///
/// Counters wrap at 2⁶⁴, which at 100 million a second takes 5800 years.
#[derive(Debug)]
pub struct Counts<C: Counter> {
    values: C::Values,
    published: Arc<Block>,
}

impl<C: Counter> Counts<C> {
    /// All zero, nothing published.
    pub fn new() -> Self {
        Self {
            values: C::ZERO,
            published: Arc::new(Block::new(C::COUNT)),
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, counter: C, n: u64) {
        let value = &mut self.values.as_mut()[counter.index()];
        *value = value.wrapping_add(n);
    }

    /// Adds one to a counter.
    #[inline]
    pub fn increment(&mut self, counter: C) {
        self.add(counter, 1);
    }

    /// Replaces the value of a counter that is counted elsewhere, for example by the device.
    #[inline]
    pub fn set(&mut self, counter: C, value: u64) {
        self.values.as_mut()[counter.index()] = value;
    }

    /// The counter as this core has it, published or not.
    #[inline]
    pub fn value(&self, counter: C) -> u64 {
        self.values.as_ref()[counter.index()]
    }

    /// Makes the current values visible to readers: one relaxed store a counter.
    pub fn publish(&self) {
        for (cell, value) in self.published.cells().zip(self.values.as_ref()) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    /// What other threads read these counters through.
    pub fn reader(&self) -> CountsReader<C> {
        CountsReader {
            published: Arc::clone(&self.published),
            counters: std::marker::PhantomData,
        }
    }
}

impl<C: Counter> Default for Counts<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The last published values of one core's [`Counts`].
#[derive(Debug)]
pub struct CountsReader<C: Counter> {
    published: Arc<Block>,
    counters: std::marker::PhantomData<C>,
}

impl<C: Counter> Clone for CountsReader<C> {
    fn clone(&self) -> Self {
        Self {
            published: Arc::clone(&self.published),
            counters: std::marker::PhantomData,
        }
    }
}

impl<C: Counter> CountsReader<C> {
    /// The last published value of a counter.
    pub fn value(&self, counter: C) -> u64 {
        self.published.value(counter.index())
    }
}

/// Atomics in whole pairs of cache lines: the adjacent line prefetcher of x86 moves lines in
/// pairs, and two cores' blocks must not share one.
#[repr(align(128))]
#[derive(Debug)]
struct Line([AtomicU64; CELLS_PER_LINE]);

const CELLS_PER_LINE: usize = 16;

const _: () = assert!(
    size_of::<Line>() == 128,
    "a line has no padding, so that it is filled"
);

#[derive(Debug)]
struct Block {
    lines: Box<[Line]>,
}

impl Block {
    fn new(cells: usize) -> Self {
        let line = || Line([const { AtomicU64::new(0) }; CELLS_PER_LINE]);
        Self {
            lines: std::iter::repeat_with(line)
                .take(cells.div_ceil(CELLS_PER_LINE))
                .collect(),
        }
    }

    fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        self.lines.iter().flat_map(|line| &line.0)
    }

    fn value(&self, index: usize) -> u64 {
        self.lines[index / CELLS_PER_LINE].0[index % CELLS_PER_LINE].load(Ordering::Relaxed)
    }
}

/// All counters of a process, by scope: what the daemon answers `ravelin counters` from.
#[derive(Debug, Default)]
pub struct Registry {
    scopes: Vec<Scope>,
}

#[derive(Debug)]
struct Scope {
    name: String,
    published: Arc<Block>,
    counters: Vec<&'static str>,
}

impl Registry {
    /// No scope yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a core's counters under the name of its scope, for example `worker0` or `sync`. One
    /// scope may have several blocks, as long as their counters' names differ.
    pub fn register<C: Counter>(&mut self, scope: impl Into<String>, reader: &CountsReader<C>) {
        self.scopes.push(Scope {
            name: scope.into(),
            published: Arc::clone(&reader.published),
            counters: C::ALL.iter().map(|counter| counter.name()).collect(),
        });
    }

    /// Reads all counters, or those that the query wants, in the order of registration.
    pub fn report(&self, query: &CounterQuery) -> CounterReport {
        let mut report = CounterReport::default();
        for scope in &self.scopes {
            if query.scope.as_ref().is_some_and(|want| *want != scope.name) {
                continue;
            }
            for (index, name) in scope.counters.iter().enumerate() {
                let value = scope.published.value(index);
                if query.nonzero && value == 0 {
                    continue;
                }
                let sum = report.sum.entry((*name).to_owned()).or_default();
                *sum = sum.wrapping_add(value);
                report.counters.push(CounterValue {
                    name: (*name).to_owned(),
                    scope: scope.name.clone(),
                    value,
                });
            }
        }
        report
    }
}

/// Which counters are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CounterQuery {
    /// Leave out those that are zero.
    pub nonzero: bool,
    /// Only those of this scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// The answer to a [`CounterQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CounterReport {
    /// Every counter of every scope, in the order of the scopes.
    pub counters: Vec<CounterValue>,
    /// By counter name: the sum over the scopes that are in `counters`.
    pub sum: BTreeMap<String, u64>,
}

/// One counter of one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// The counter.
    pub name: String,
    /// The core or part that counts: `worker0`, `sync`, ...
    pub scope: String,
    /// Its value when it was last published.
    pub value: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::counters! {
        enum Worker {
            Rx = "rx_packets",
            Tx = "tx_packets",
            Drop = "drops",
        }
    }
    crate::counters! {
        enum Sync {
            Sent = "records_sent",
            Drop = "drops",
        }
    }

    fn value(name: &str, scope: &str, value: u64) -> CounterValue {
        CounterValue {
            name: name.into(),
            scope: scope.into(),
            value,
        }
    }

    #[test]
    fn readers_see_what_was_published_and_nothing_else() {
        let mut counts = Counts::<Worker>::new();
        let reader = counts.reader();
        counts.add(Worker::Rx, 5);
        counts.increment(Worker::Drop);
        assert_eq!(reader.value(Worker::Rx), 0, "not published yet");
        counts.publish();
        counts.increment(Worker::Rx);
        assert_eq!(
            Worker::ALL
                .iter()
                .map(|c| reader.value(*c))
                .collect::<Vec<_>>(),
            [5, 0, 1]
        );
        assert_eq!(counts.value(Worker::Rx), 6);
    }

    #[test]
    fn the_report_sums_over_scopes_and_filters() {
        let (mut w0, mut w1) = (Counts::<Worker>::new(), Counts::<Worker>::new());
        let mut sync = Counts::<Sync>::new();
        let mut registry = Registry::new();
        registry.register("worker0", &w0.reader());
        registry.register("worker1", &w1.reader());
        registry.register("sync", &sync.reader());
        w0.add(Worker::Rx, 10);
        w1.add(Worker::Rx, 20);
        w1.add(Worker::Drop, 1);
        sync.add(Sync::Drop, 3);
        w0.publish();
        w1.publish();
        sync.publish();

        let all = registry.report(&CounterQuery::default());
        assert_eq!(all.counters.len(), 8);
        let nonzero = registry.report(&CounterQuery {
            nonzero: true,
            scope: None,
        });
        assert_eq!(
            nonzero.counters,
            [
                value("rx_packets", "worker0", 10),
                value("rx_packets", "worker1", 20),
                value("drops", "worker1", 1),
                value("drops", "sync", 3),
            ]
        );
        assert_eq!(
            nonzero.sum,
            BTreeMap::from([("rx_packets".into(), 30), ("drops".into(), 4)])
        );
        let one = registry.report(&CounterQuery {
            nonzero: false,
            scope: Some("sync".into()),
        });
        assert_eq!(
            one.counters,
            [value("records_sent", "sync", 0), value("drops", "sync", 3)]
        );
    }

    #[test]
    fn more_counters_than_one_line_keep_their_places() {
        let block = Block::new(40);
        for (i, cell) in block.cells().enumerate() {
            cell.store(i as u64, Ordering::Relaxed);
        }
        assert_eq!(block.lines.len(), 3);
        assert!((0..40).all(|i| block.value(i) == i as u64));
    }
}
