//! The hybrid logical clock that orders writes of common state.
//!
//! After Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014): a reading is close to the
//! wall clock, and greater than every reading that this node has given or heard of, so that a write
//! that was made in the knowledge of another one is always the later of the two, however far the
//! nodes' clocks are apart.

use std::fmt;

use crate::node::NodeId;

const NODE_BITS: u32 = 5;
const COUNTER_BITS: u32 = 15;
const TICK_BITS: u32 = 64 - NODE_BITS;

const _: () = assert!(
    1 << NODE_BITS == crate::node::NODES_MAX,
    "a stamp has room for every node's number"
);

/// A reading of a [`HybridClock`]: 44 bits of Unix milliseconds, 15 bits of counter, 5 bits of node.
/// Totally ordered; no two nodes give the same. 0 is "never".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Before every reading.
    pub const NEVER: Self = Self(0);
    /// The latest time that a clock may show: half of what fits, in the year 2248. A reading beyond
    /// it is refused where it comes from another node, for it would drag every clock to its end.
    pub const UNIX_MS_MAX: u64 = 1 << (TICK_BITS - COUNTER_BITS - 1);

    /// About when the reading was taken, in Unix milliseconds: at least the wall clock of the node
    /// that took it.
    pub const fn unix_ms(self) -> u64 {
        self.0 >> (NODE_BITS + COUNTER_BITS)
    }

    /// The node that took the reading.
    pub const fn node(self) -> NodeId {
        NodeId::from_low_bits(self.0)
    }

    /// Whether a clock can have shown it.
    pub const fn plausible(self) -> bool {
        self.0 != 0 && self.unix_ms() <= Self::UNIX_MS_MAX
    }

    const fn tick(self) -> u64 {
        self.0 >> NODE_BITS
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.tick() & ((1 << COUNTER_BITS) - 1);
        write!(f, "{}+{counter}@{}", self.unix_ms(), self.node())
    }
}

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct HybridClock {
    node: NodeId,
    /// The last tick given or heard of: milliseconds and counter.
    last: u64,
}

impl HybridClock {
    /// The clock of a node that has heard of nothing yet.
    pub const fn new(node: NodeId) -> Self {
        Self { node, last: 0 }
    }

    /// A reading that is greater than every one given and observed before, and not before
    /// `unix_ms`. A wall clock that goes back, or stands beyond [`Stamp::UNIX_MS_MAX`], does no harm.
    pub fn now(&mut self, unix_ms: u64) -> Stamp {
        let wall = unix_ms.min(Stamp::UNIX_MS_MAX - 1) << COUNTER_BITS;
        self.last = (self.last + 1).max(wall);
        Stamp(self.last << NODE_BITS | u64::from(self.node.raw()))
    }

    /// A reading of another node was heard of. One that no clock can have shown is not believed.
    pub fn observe(&mut self, stamp: Stamp) {
        if stamp.plausible() {
            self.last = self.last.max(stamp.tick());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    proptest! {
        #[test]
        fn readings_grow_past_all_that_was_heard(
            steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..3u64), 1..80),
        ) {
            let (mut mine, mut theirs) = (HybridClock::new(node(3)), HybridClock::new(node(31)));
            let mut greatest = Stamp::NEVER;
            for (ours, unix_ms, skew) in steps {
                let stamp = if ours {
                    mine.now(unix_ms)
                } else {
                    let heard = theirs.now(unix_ms * (1 + skew));
                    mine.observe(heard);
                    theirs.observe(mine.now(unix_ms));
                    greatest = greatest.max(heard);
                    mine.now(unix_ms)
                };
                prop_assert!(stamp > greatest, "{stamp:?} after {greatest:?}");
                prop_assert!(stamp.unix_ms() >= unix_ms);
                prop_assert_eq!(stamp.node(), node(3));
                greatest = stamp;
            }
        }
    }

    #[test]
    fn more_readings_than_the_counter_has_in_one_millisecond_still_grow() {
        let mut clock = HybridClock::new(node(0));
        let mut last = clock.now(1_000);
        for _ in 0..(2 << COUNTER_BITS) {
            let next = clock.now(1_000);
            assert!(next > last);
            last = next;
        }
        assert_eq!(last.unix_ms(), 1_002);
    }

    #[test]
    fn a_reading_from_the_end_of_time_is_not_believed() {
        let mut clock = HybridClock::new(node(1));
        clock.observe(Stamp(u64::MAX));
        assert_eq!(clock.now(5_000).unix_ms(), 5_000);
        let latest = clock.now(u64::MAX);
        assert!(latest.plausible());
        assert!(clock.now(5_000) > latest);
    }
}
