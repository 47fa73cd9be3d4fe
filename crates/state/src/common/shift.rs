//! How far the numbers of a TCP connection are apart on its two sides, where the length of what it carries
//! was changed on the way.

use arrayvec::ArrayVec;

use crate::key::Dir;

/// How many changes of length of one direction are told apart. Of earlier ones the sum is known: what is sent again of
/// the time before them, which its sender had to keep that long, gets numbers that are wrong.
pub const SHIFTS_MAX: usize = 4;

/// A sum of changes that no connection of text needs, in octets.
pub const SHIFT_MAX: i32 = 1 << 24;

/// The numbers of what one side of a connection sends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SideShift {
    /// What is added to numbers before all steps.
    base: i32,
    /// In the order of the stream: the number of the first octet of a segment whose length was changed, and what is added
    /// to all greater numbers.
    steps: ArrayVec<(u32, i32), SHIFTS_MAX>,
}

/// Why a change of length cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShiftError {
    /// What was delivered once cannot be delivered with another length.
    #[error("a segment that was sent again must be given the length that it was given before")]
    Again,
    /// Nothing would be left whose receipt tells the sender of its own.
    #[error("at least one octet of a segment with data must stay")]
    Nothing,
    /// The sum is out of all proportion.
    #[error("the changes of one direction come to more than {SHIFT_MAX} octets")]
    TooFar,
}

/// Whether `a` is later in the stream than `b` (RFC 1982).
const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

impl SideShift {
    /// With these parts; `None` when there is no such value.
    pub fn of_parts(base: i32, steps: &[(u32, i32)]) -> Option<Self> {
        let mut sums = steps.iter().map(|(_, by)| *by).chain([base]);
        let sane = sums.all(|by| by.unsigned_abs() <= SHIFT_MAX.unsigned_abs());
        let ordered = steps.windows(2).all(|pair| after(pair[1].0, pair[0].0));
        let steps = steps.try_into().ok()?;
        (sane && ordered).then_some(Self { base, steps })
    }

    /// Its parts, as [`Self::of_parts`] takes them.
    pub fn parts(&self) -> (i32, &[(u32, i32)]) {
        (self.base, &self.steps)
    }

    /// Whether all numbers are the same on both sides.
    pub fn is_nothing(&self) -> bool {
        self.base == 0 && self.steps.is_empty()
    }

    fn by(&self, seq: u32) -> i32 {
        let step = self.steps.iter().rev().find(|(at, _)| after(seq, *at));
        step.map_or(self.base, |(_, by)| *by)
    }

    /// The number that the receiver knows for the sender's `seq`.
    pub fn sent(&self, seq: u32) -> u32 {
        seq.wrapping_add_signed(self.by(seq))
    }

    /// The sender's number for one that the receiver knows, such as an acknowledgement. In the middle of a segment
    /// whose length was changed there is none: it is the nearest that is not before its first octet.
    pub fn received(&self, number: u32) -> u32 {
        for (index, &(at, by)) in self.steps.iter().enumerate().rev() {
            let before = match index.checked_sub(1) {
                Some(index) => self.steps[index].1,
                None => self.base,
            };
            if after(number.wrapping_add_signed(-before), at) {
                let seq = number.wrapping_add_signed(-by);
                return if after(seq, at) { seq } else { at };
            }
        }
        number.wrapping_add_signed(-self.base)
    }

    /// A segment with `had` octets of data from `seq` on is to have `has`. Returns whether that is new, and other nodes
    /// must know before it leaves.
    ///
    /// # Errors
    /// When it cannot be; nothing has changed.
    pub fn resize(&mut self, seq: u32, had: u32, has: u32) -> Result<bool, ShiftError> {
        let end = seq.wrapping_add(had);
        let wanted = has.wrapping_sub(had) as i32;
        if wanted == self.by(end) - self.by(seq) {
            return Ok(false);
        }
        if has == 0 {
            return Err(ShiftError::Nothing);
        }
        let last = self.steps.last().copied();
        if last.is_some_and(|(at, _)| !after(seq, at)) {
            return Err(ShiftError::Again);
        }
        let by = last.map_or(self.base, |(_, by)| by) + wanted;
        if by.unsigned_abs() > SHIFT_MAX.unsigned_abs() {
            return Err(ShiftError::TooFar);
        }
        if self.steps.is_full() {
            self.base = self.steps.remove(0).1;
        }
        self.steps.push((seq, by));
        Ok(true)
    }
}

/// The numbers of both directions of one incarnation of a flow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SeqShift {
    /// That of the flow: what is said of an earlier connection of its key does not count.
    pub incarnation: u64,
    /// By the sender's [`Dir`].
    pub sides: [SideShift; 2],
}

impl SeqShift {
    /// Of a flow none of whose lengths was changed.
    pub fn none(incarnation: u64) -> Self {
        Self {
            incarnation,
            sides: Default::default(),
        }
    }

    /// The numbers of what is sent in this direction.
    pub fn side(&self, dir: Dir) -> &SideShift {
        &self.sides[dir.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_shift_behind_a_segment_that_grew() {
        let mut side = SideShift::default();
        // "PORT 10,0,0,1,4,1\r\n" becomes five octets longer.
        assert_eq!(side.resize(100, 20, 25), Ok(true));
        assert_eq!(
            side.sent(100),
            100,
            "the segment itself begins where it did"
        );
        assert_eq!(side.sent(120), 125);
        assert_eq!(side.received(100), 100);
        assert_eq!(side.received(125), 120, "all of it has arrived");
        assert_eq!(side.received(110), 105);
        assert_eq!(side.received(103), 100, "nothing of its own has");
        // The same segment again, alone or with one that follows.
        assert_eq!(side.resize(100, 20, 25), Ok(false));
        assert_eq!(side.resize(100, 30, 35), Ok(false));
        assert_eq!(side.resize(100, 20, 26), Err(ShiftError::Again));
        assert_eq!(side.resize(100, 20, 20), Err(ShiftError::Again));
        // What was not changed stays so.
        assert_eq!(side.resize(120, 7, 7), Ok(false));
        assert_eq!(side.resize(120, 7, 0), Err(ShiftError::Nothing));
        // The next one shrinks below what it was.
        assert_eq!(side.resize(200, 20, 10), Ok(true));
        assert_eq!(side.sent(220), 215);
        assert_eq!(side.sent(120), 125, "sent again");
        assert_eq!(side.received(215), 220);
    }

    #[test]
    fn of_more_changes_than_are_told_apart_the_sum_is_known() {
        let mut side = SideShift::default();
        for n in 0..10 {
            assert_eq!(side.resize(1000 * n, 10, 11), Ok(true));
        }
        assert_eq!(side.sent(20_000), 20_010);
        assert_eq!(side.received(20_010), 20_000);
        assert_eq!(side.sent(8_500), 8_509);
        let (base, steps) = side.parts();
        assert_eq!((base, steps.len()), (6, SHIFTS_MAX));
        assert_eq!(SideShift::of_parts(base, steps), Some(side.clone()));
        assert_eq!(SideShift::of_parts(0, &[(2, 1), (1, 2)]), None);
        assert_eq!(SideShift::of_parts(SHIFT_MAX + 1, &[]), None);
    }

    proptest! {
        /// Two ends of a stream between which segments change their lengths: whatever the receiver has acknowledged at the
        /// end of a segment is that end for the sender, wherever the numbers begin.
        #[test]
        fn both_ends_agree_at_the_ends_of_segments(
            first: u32,
            lengths in prop::collection::vec((1u32..1500, prop::option::of(1u32..1500)), 1..SHIFTS_MAX + 1),
        ) {
            let mut side = SideShift::default();
            let (mut seq, mut number) = (first, first);
            let mut ends = vec![(seq, number)];
            for (had, has) in lengths {
                let has = has.unwrap_or(had);
                prop_assert_eq!(side.sent(seq), number);
                prop_assert_eq!(side.resize(seq, had, has), Ok(has != had));
                prop_assert_eq!(side.resize(seq, had, has), Ok(false));
                seq = seq.wrapping_add(had);
                number = number.wrapping_add(has);
                ends.push((seq, number));
            }
            for (seq, number) in ends {
                prop_assert_eq!(side.sent(seq), number);
                prop_assert_eq!(side.received(number), seq);
            }
        }
    }
}
