//! The Internet checksum (RFC 1071), its pseudo headers, and its incremental update (RFC 1624).
//!
//! The ones' complement sum does not depend on byte order (RFC 1071, 2B): words are added as
//! they lie in memory, 64 bits at a time, and only the result is put in order.

/// A partial ones' complement sum. Parts may be added in any order; each part but the last must
/// be of even length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `data`.
    #[inline]
    pub fn of(data: &[u8]) -> Sum {
        Sum::default().add(data)
    }

    /// The sum of 32-bit words as they lie in memory, which somebody has added up already.
    #[inline]
    pub(crate) const fn of_u32s(total: u64) -> Sum {
        Sum(total)
    }

    /// Adds octets; a missing last one counts as 0.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "adds octets, not sums")]
    pub fn add(self, data: &[u8]) -> Sum {
        let (words, tail) = data.as_chunks::<8>();
        let mut sum = words
            .iter()
            .fold(self, |sum, word| sum.carry(u64::from_ne_bytes(*word)));
        let mut tail = tail;
        if let Some((word, rest)) = tail.split_first_chunk() {
            sum = sum.carry(u64::from(u32::from_ne_bytes(*word)));
            tail = rest;
        }
        if let Some((word, rest)) = tail.split_first_chunk() {
            sum = sum.carry(u64::from(u16::from_ne_bytes(*word)));
            tail = rest;
        }
        match tail {
            [last, ..] => sum.carry(u64::from(u16::from_ne_bytes([*last, 0]))),
            [] => sum,
        }
    }

    /// With end-around carry, so that it never overflows: 64-bit words are four words of 16 bits, and 2^64 is 1 as
    /// 2^16 is (RFC 1071, 2C).
    #[inline(always)]
    const fn carry(self, words: u64) -> Sum {
        let (sum, carry) = self.0.overflowing_add(words);
        Sum(sum + carry as u64)
    }

    /// Adds a 16-bit field.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, field: u16) -> Sum {
        self.carry(field.to_be() as u64)
    }

    /// Adds a 32-bit field.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, field: u32) -> Sum {
        self.carry(field.to_be() as u64)
    }

    /// The pseudo header of TCP and UDP over IPv4 (RFC 9293, 3.1; RFC 768).
    #[inline]
    pub fn pseudo_v4(src: &[u8; 4], dst: &[u8; 4], proto: u8, len: u16) -> Sum {
        Sum::of(src).add(dst).add_u16(u16::from(proto)).add_u16(len)
    }

    /// The pseudo header of upper layers over IPv6 (RFC 8200, 8.1).
    #[inline]
    pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u32) -> Sum {
        Sum::of(src).add(dst).add_u32(len).add_u32(u32::from(proto))
    }

    /// The checksum field for what was added, in host order.
    #[inline]
    pub const fn checksum(self) -> u16 {
        u16::from_be(!fold(self.0))
    }

    /// Whether data that was added together with its checksum is intact.
    #[inline]
    pub const fn is_intact(self) -> bool {
        fold(self.0) == 0xffff
    }
}

/// What replaced octets do to a checksum that covers them: equation 3 of RFC 1624,
/// `HC' = ~(~HC + ~m + m')`, collected over any number of replacements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    /// Octets of even length and at an even distance from the start of what is summed were
    /// `old` and become `new`.
    #[inline]
    #[must_use]
    pub fn replace<const N: usize>(self, old: &[u8; N], new: &[u8; N]) -> Change {
        const { assert!(N.is_multiple_of(2), "a checksum is made of 16-bit words") };
        let mut sum = self.0;
        let (old, _) = old.as_chunks::<2>();
        let (new, _) = new.as_chunks::<2>();
        for (m, m1) in old.iter().zip(new) {
            sum += u64::from(!u16::from_ne_bytes(*m)) + u64::from(u16::from_ne_bytes(*m1));
        }
        Change(sum)
    }

    /// Like [`Change::replace`] for one field.
    #[inline]
    #[must_use]
    pub fn replace_u16(self, old: u16, new: u16) -> Change {
        self.replace(&old.to_be_bytes(), &new.to_be_bytes())
    }

    /// Both changes together.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Change) -> Change {
        Change(self.0 + other.0)
    }

    /// The checksum field after the replacements, given the one before, both in host order.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        u16::from_be(!fold(self.0 + (!checksum.to_be()) as u64))
    }
}

/// 64 bits to 16 with end-around carry.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16 & 0xffff) + (sum & 0xffff) + (sum >> 32);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 to the letter.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&data).checksum(), !0xddf2);
        assert!(!Sum::of(&data).is_intact());
        assert!(Sum::of(&data).add_u16(!0xddf2).is_intact());
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: the case in which equation 2 of RFC 1141 gives -0.
        assert_eq!(
            Change::default().replace_u16(0x5555, 0x3285).apply(0xdd2f),
            0x0000
        );
    }

    #[test]
    fn the_largest_frame_does_not_overflow() {
        let data = [0xff; 65535];
        assert_eq!(Sum::of(&data).checksum(), naive(&data));
    }

    proptest! {
        #[test]
        fn equals_the_definition(data in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&data).checksum(), naive(&data));
        }

        #[test]
        fn parts_add_up(data in prop::collection::vec(any::<u8>(), 0..100), at in 0usize..50) {
            let at = (at * 2).min(data.len() & !1);
            prop_assert_eq!(Sum::of(&data[..at]).add(&data[at..]).checksum(), naive(&data));
        }

        #[test]
        fn incremental_equals_full(
            mut data in prop::collection::vec(any::<u8>(), 20..60),
            new in any::<[u8; 16]>(),
            at in 1usize..2,
        ) {
            data[0] = 0x45; // not all zero, as no header is
            let before = Sum::of(&data).checksum();
            let old: [u8; 16] = data[at * 2..at * 2 + 16].try_into().unwrap();
            data[at * 2..at * 2 + 16].copy_from_slice(&new);
            let after = Change::default().replace(&old, &new).apply(before);
            prop_assert_eq!(after, Sum::of(&data).checksum());
        }
    }
}
