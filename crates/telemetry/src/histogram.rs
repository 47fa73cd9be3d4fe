//! Histograms of delays: fixed log-linear buckets over all of `u64`, as HDR histograms have them.
//!
//! Values below 32 have a bucket each; above that every power of two is cut into 32 equal
//! buckets, so a bucket is at most 1/32 (3.1 %) as wide as the values in it. That makes
//! 32 + 59 · 32 = 1920 buckets, 15 KiB, of which a workload touches a few cache lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// log₂ of the number of buckets per power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;

/// How many buckets there are.
pub const BUCKETS: usize = SUB + (u64::BITS - SUB_BITS) as usize * SUB;

const _: () = assert!(
    bucket(u64::MAX) == BUCKETS - 1,
    "the greatest value is in the last bucket"
);

/// The bucket of a value.
#[inline]
const fn bucket(value: u64) -> usize {
    // Everything below 2·SUB falls out of the general case with shift 0.
    let exponent = u64::BITS - 1 - (value | SUB as u64).leading_zeros();
    let shift = exponent - SUB_BITS;
    (shift as usize) * SUB + (value >> shift) as usize
}

/// The least and the greatest value of a bucket.
const fn bounds(bucket: usize) -> (u64, u64) {
    if bucket < 2 * SUB {
        return (bucket as u64, bucket as u64);
    }
    let shift = (bucket / SUB - 1) as u32;
    let least = ((bucket % SUB + SUB) as u64) << shift;
    (least, least + ((1 << shift) - 1))
}

/// A histogram of values of one unit; by convention nanoseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Empty.
    pub fn new() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            count: 0,
            max: 0,
        }
    }

    /// Counts a value: a count of leading zeros, a shift, and two additions.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The greatest recorded value, exact; 0 when there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The value below or at which a share `q` of the recorded ones lie: the middle of the bucket
    /// that holds the value of rank ⌈q·count⌉, so within 1.6 % of it, and never above
    /// [`max`](Self::max). `q` outside 0..=1 is taken as the nearer end. `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        // A count above 2⁵³ loses low bits here, far below a bucket's error.
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let rank = rank.clamp(1, self.count);
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                let (least, greatest) = bounds(index);
                return Some((least + (greatest - least) / 2).min(self.max));
            }
        }
        Some(self.max)
    }

    /// The usual quantiles at once.
    pub fn quantiles(&self) -> Quantiles {
        let at = |q| self.quantile(q).unwrap_or(0);
        Quantiles {
            count: self.count,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.quantiles(), f)
    }
}

/// The usual quantiles of a [`Histogram`], in its unit. All zero when `count` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many values.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// Nine of ten values are at or below.
    pub p90: u64,
    /// 99 of 100 values are at or below.
    pub p99: u64,
    /// 999 of 1000 values are at or below.
    pub p999: u64,
    /// The greatest, exact.
    pub max: u64,
}

/// Writes a histogram that other threads read at the same time. There is one writer, so recording
/// is a plain load, addition and store, without a lock prefix.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<[AtomicU64]>,
}

/// Reads what a [`Recorder`] writes.
#[derive(Debug, Clone)]
pub struct RecorderReader {
    shared: Arc<[AtomicU64]>,
}

/// The cell behind the buckets: the greatest value.
const MAX_CELL: usize = BUCKETS;

impl Recorder {
    /// Empty.
    pub fn new() -> Self {
        Self {
            shared: (0..=MAX_CELL).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let cell = &self.shared[bucket(value)];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let max = &self.shared[MAX_CELL];
        if value > max.load(Ordering::Relaxed) {
            max.store(value, Ordering::Relaxed);
        }
    }

    /// What other threads read through.
    pub fn reader(&self) -> RecorderReader {
        RecorderReader {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl RecorderReader {
    /// A copy of the histogram as it is now. A value that is recorded meanwhile is either in it or
    /// not; the count always matches the buckets.
    pub fn snapshot(&self) -> Histogram {
        let mut histogram = Histogram::new();
        for (mine, cell) in histogram.counts.iter_mut().zip(self.shared.iter()) {
            *mine = cell.load(Ordering::Relaxed);
        }
        histogram.count = histogram.counts.iter().sum();
        histogram.max = self.shared[MAX_CELL].load(Ordering::Relaxed);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_tile_all_values() {
        let mut next = 0_u64;
        for index in 0..BUCKETS {
            let (least, greatest) = bounds(index);
            assert_eq!(least, next, "bucket {index} starts where the last ended");
            assert_eq!((bucket(least), bucket(greatest)), (index, index));
            assert!((greatest - least) as f64 <= least as f64 / SUB as f64);
            next = greatest.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends at the greatest value");
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), None);
        for value in 1..=100_000 {
            histogram.record(value);
        }
        for (q, exact) in [(0.0, 1), (0.5, 50_000), (0.99, 99_000), (1.0, 100_000)] {
            let got = histogram.quantile(q).unwrap();
            let error = (got as f64 - f64::from(exact)).abs() / f64::from(exact);
            assert!(error <= 1.0 / 32.0, "q {q}: {got} for {exact}");
        }
        assert_eq!((histogram.count(), histogram.max()), (100_000, 100_000));
    }

    #[test]
    fn one_value_is_all_quantiles() {
        let mut histogram = Histogram::new();
        histogram.record(1_000_003);
        let quantiles = histogram.quantiles();
        assert_eq!((quantiles.count, quantiles.max), (1, 1_000_003));
        assert!(quantiles.p50 <= quantiles.max && quantiles.p50 >= 970_000);
    }

    #[test]
    fn a_reader_sees_what_the_recorder_recorded() {
        let mut recorder = Recorder::new();
        let reader = recorder.reader();
        let mut plain = Histogram::new();
        for value in [0, 1, 31, 32, 33, 1_000, 19_000, u64::MAX, 7] {
            recorder.record(value);
            plain.record(value);
        }
        assert_eq!(reader.snapshot(), plain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn quantiles_are_near_the_sorted_values_and_merging_is_recording(
            a in proptest::collection::vec(0_u64..1 << 40, 1..200),
            b in proptest::collection::vec(any::<u64>(), 0..200),
            q in 0.0_f64..=1.0,
        ) {
            let (mut left, mut right, mut both) = (Histogram::new(), Histogram::new(), Histogram::new());
            a.iter().for_each(|v| { left.record(*v); both.record(*v) });
            b.iter().for_each(|v| { right.record(*v); both.record(*v) });
            left.merge(&right);
            prop_assert_eq!(&left, &both);

            let mut sorted: Vec<u64> = a.iter().chain(&b).copied().collect();
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1];
            let got = both.quantile(q).unwrap();
            prop_assert!(got.abs_diff(exact) <= exact / 32 + 1, "{} for {}", got, exact);
        }
    }
}
