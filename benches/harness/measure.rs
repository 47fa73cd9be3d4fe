//! From counters to figures.

use std::time::{Duration, Instant};

/// A gateway's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) at: Instant,
    /// Packets that it took in.
    pub(crate) received: u64,
    /// Packets that it sent on.
    pub(crate) forwarded: u64,
    /// Packets that it took in and did not send on.
    pub(crate) dropped: u64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) took: Duration,
    pub(crate) received: u64,
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
}

impl Window {
    /// Between two looks, the earlier one first.
    pub(crate) fn between(from: Counts, to: Counts) -> Self {
        Self {
            took: to.at - from.at,
            received: to.received - from.received,
            forwarded: to.forwarded - from.forwarded,
            dropped: to.dropped - from.dropped,
        }
    }

    /// Packets forwarded per second.
    pub(crate) fn rate(&self) -> f64 {
        self.forwarded as f64 / self.took.as_secs_f64()
    }

    /// Why it is not what a forwarding measurement is about: something was dropped, or more came out
    /// than went in. Counters of one look are taken one after the other, so `slack` packets may be
    /// counted on one side only.
    pub(crate) fn wrong(&self, slack: u64) -> Option<String> {
        let Self {
            received,
            forwarded,
            dropped,
            ..
        } = *self;
        if forwarded == 0 {
            return Some("nothing was forwarded".into());
        }
        if dropped > 0 {
            return Some(format!("{dropped} of {received} packets were dropped"));
        }
        if forwarded > received + slack {
            return Some(format!(
                "{forwarded} packets were forwarded and only {received} received"
            ));
        }
        if received > forwarded + slack {
            return Some(format!(
                "{received} packets were received, {forwarded} forwarded, and none said to be dropped"
            ));
        }
        None
    }
}

/// The figure of a case: the median of several runs, and its neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

impl Figure {
    /// Of these runs; `None` when there are none.
    pub(crate) fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            min,
            max,
            runs: sorted.len(),
        })
    }
}

/// How many per second came between the time when `from` of `all` parts were there and the time when `to`
/// were: the slope between the first look at or above the one and the last at or below the other. Looks
/// are moments and totals. `None` when there were too few looks between.
pub(crate) fn slope(looks: &[(Instant, u64)], from: u64, to: u64) -> Option<f64> {
    let first = looks.iter().find(|(_, total)| *total >= from)?;
    let last = looks.iter().rev().find(|(_, total)| *total <= to)?;
    let took = last.0.checked_duration_since(first.0)?;
    let came = last.1.checked_sub(first.1)?;
    (!took.is_zero() && came > 0).then(|| came as f64 / took.as_secs_f64())
}

/// The value that this share of the values, which are in order of size, is at or below. There is one at least.
pub(crate) fn share(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median() {
        let figure = Figure::of(&[3.0, 1.0, 2.0]).expect("three runs");
        assert_eq!(
            (figure.median, figure.min, figure.max, figure.runs),
            (2.0, 1.0, 3.0, 3)
        );
        assert_eq!(Figure::of(&[1.0, 4.0]).expect("two runs").median, 2.5);
        assert_eq!(Figure::of(&[]), None);
    }

    #[test]
    fn a_share_is_by_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(share(&values, 0.5), 100.0);
        assert_eq!(share(&values, 0.99), 198.0);
        assert_eq!(share(&values[..1], 0.99), 1.0);
    }

    #[test]
    fn a_window_that_is_not_real_is_refused() {
        let begin = Instant::now();
        let counts = |at_ms, received, forwarded, dropped| Counts {
            at: begin + Duration::from_millis(at_ms),
            received,
            forwarded,
            dropped,
        };
        let window = |received: u64, forwarded: u64, dropped: u64| {
            Window::between(
                counts(0, 10, 10, 1),
                counts(500, 10 + received, 10 + forwarded, 1 + dropped),
            )
        };
        let good = window(1000, 1000, 0);
        assert_eq!((good.rate(), good.wrong(0)), (2000.0, None));
        assert_eq!(window(1010, 1000, 0).wrong(10), None);
        for (wrong, says) in [
            (window(1000, 0, 0), "nothing"),
            (window(1000, 999, 1), "were dropped"),
            (window(1000, 1011, 0), "only"),
            (window(1011, 1000, 0), "none said"),
        ] {
            let said = wrong.wrong(10).expect("is wrong");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_slope_is_that_of_the_middle() {
        let begin = Instant::now();
        // Nothing for a second, then a thousand per millisecond, then nothing again.
        let looks: Vec<(Instant, u64)> = (0..3000_u64)
            .map(|ms| {
                let total = ms.clamp(1000, 2000) - 1000;
                (begin + Duration::from_millis(ms), total * 1000)
            })
            .collect();
        let rate = slope(&looks, 50_000, 950_000).expect("many looks");
        assert!((rate - 1e6).abs() < 1.0, "{rate}");
        assert_eq!(slope(&looks[..900], 50_000, 950_000), None);
        assert_eq!(slope(&looks[..1], 0, 950_000), None);
    }
}
