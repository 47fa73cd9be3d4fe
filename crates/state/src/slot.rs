//! Slots: the parts of the flow space that views assign to nodes, and the symmetric
//! receive-side-scaling hash from which they follow.

use crate::key::{FlowKey, PROTO_TCP, PROTO_UDP};

/// How many slots the flow space has.
pub const SLOTS: usize = 1024;

/// How many entries of a device's redirection table a worker assignment repeats in. Common
/// devices have 128 or 512 entries and index them with the hash's low bits, so the worker must
/// follow from the low 7 bits alone.
const RETA_PERIOD: u16 = 128;

const _: () = assert!(
    SLOTS.is_power_of_two() && SLOTS <= 1 << 16,
    "a slot is the hash's low bits"
);
const _: () = assert!(
    SLOTS.is_multiple_of(RETA_PERIOD as usize),
    "the worker follows from the slot"
);

/// A part of the flow space, below [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a receive-side-scaling hash.
    #[inline]
    pub const fn of_hash(hash: u32) -> Self {
        Self(hash as u16 & (SLOTS as u16 - 1))
    }

    /// The slot of an index; `None` unless it is below [`SLOTS`].
    pub const fn new(index: u16) -> Option<Self> {
        if (index as usize) < SLOTS {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The slot as an index below [`SLOTS`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All slots in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u16).map(Self)
    }
}

/// The slot of a flow: that of the hash which a network card computes for its packets. TCP and
/// UDP hash addresses and ports; everything else the addresses alone, as cards do.
#[inline]
pub fn slot_of(key: &FlowKey) -> Slot {
    Slot::of_hash(rss(key))
}

/// The worker that owns a slot, of `workers` workers. It depends on the hash's low 7 bits only,
/// so a redirection table with entry `i` = `i mod 128 mod workers` delivers a packet to it.
#[inline]
pub const fn worker_of(slot: Slot, workers: usize) -> usize {
    (slot.0 % RETA_PERIOD) as usize % workers
}

/// The Toeplitz hash with the symmetric key 0x6d5a repeated over source, destination and, for TCP
/// and UDP, the ports, of a flow's packets in either direction.
///
/// The key repeats every 16 bits, so equal bits 16 positions apart meet the same key window: the
/// hash of a whole tuple is the hash of the exclusive or of its 16-bit words. (S. Woo, K. Park:
/// Scalable TCP session monitoring with symmetric receive-side scaling, 2012.)
#[inline]
pub fn rss(key: &FlowKey) -> u32 {
    let (a, a_port) = key.source(crate::Dir::AToB);
    let (b, b_port) = key.destination(crate::Dir::AToB);
    // Of IPv4 a card hashes the 4-byte addresses: the mapped prefixes are equal and cancel out.
    let folded = u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b);
    let folded = (folded >> 64) as u64 ^ folded as u64;
    let folded = (folded >> 32) as u32 ^ folded as u32;
    // 16-bit words may be added in memory's order as well, and only the sum is put in order.
    let mut word = u16::from_be((folded >> 16) as u16 ^ folded as u16);
    if key.proto() == PROTO_TCP || key.proto() == PROTO_UDP {
        word ^= a_port ^ b_port;
    }
    of_word(word)
}

/// The slot of packets of a TCP or UDP flow between IPv4 addresses in host order: [`slot_of`] their key, whichever
/// end is the source.
#[inline(always)]
pub fn slot_of_v4(src: u32, dst: u32, sport: u16, dport: u16) -> Slot {
    let folded = src ^ dst;
    Slot::of_hash(of_word(
        (folded >> 16) as u16 ^ folded as u16 ^ sport ^ dport,
    ))
}

/// The hash of a 16-bit word.
#[inline(always)]
fn of_word(word: u16) -> u32 {
    HASH_HIGH[(word >> 8) as usize] ^ HASH_LOW[(word & 0xff) as usize]
}

/// Hash of a 16-bit word whose low byte is zero, by its high byte.
static HASH_HIGH: [u32; 256] = table(8);
/// Hash of a 16-bit word whose high byte is zero, by its low byte.
static HASH_LOW: [u32; 256] = table(0);

const fn table(shift: u32) -> [u32; 256] {
    const KEY: u64 = 0x6d5a_6d5a_6d5a_6d5a;
    let mut out = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let word = (byte as u16) << shift;
        let mut bit = 0;
        while bit < 16 {
            if word & (0x8000 >> bit) != 0 {
                out[byte] ^= (KEY << bit >> 32) as u32;
            }
            bit += 1;
        }
        byte += 1;
    }
    out
}

/// A set of slots, one bit each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotSet {
    words: [u64; SLOTS / 64],
}

impl SlotSet {
    /// No slot.
    pub const fn empty() -> Self {
        Self {
            words: [0; SLOTS / 64],
        }
    }

    /// Every slot.
    pub const fn full() -> Self {
        Self {
            words: [u64::MAX; SLOTS / 64],
        }
    }

    /// Adds a slot.
    #[inline]
    pub const fn insert(&mut self, slot: Slot) {
        self.words[slot.index() / 64] |= 1 << (slot.index() % 64);
    }

    /// Removes a slot.
    #[inline]
    pub const fn remove(&mut self, slot: Slot) {
        self.words[slot.index() / 64] &= !(1 << (slot.index() % 64));
    }

    /// Whether the slot is in the set.
    #[inline]
    pub const fn contains(&self, slot: Slot) -> bool {
        self.words[slot.index() / 64] & (1 << (slot.index() % 64)) != 0
    }

    /// How many slots are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no slot is in the set.
    pub fn is_empty(&self) -> bool {
        self.words == [0; SLOTS / 64]
    }

    /// Adds every slot of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (mine, theirs) in self.words.iter_mut().zip(other.words) {
            *mine |= theirs;
        }
    }

    /// Removes all slots of another set.
    pub fn remove_all(&mut self, other: &Self) {
        for (mine, theirs) in self.words.iter_mut().zip(other.words) {
            *mine &= !theirs;
        }
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        Slot::all().filter(|s| self.contains(*s))
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::empty()
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::empty();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PROTO_ICMP, v4_mapped};
    use proptest::prelude::*;

    /// The Toeplitz hash as its definition has it, bit by bit.
    fn toeplitz(input: &[u8]) -> u32 {
        let key_bit = |i: usize| u32::from([0x6du8, 0x5a][i / 8 % 2] >> (7 - i % 8) & 1);
        let window = |at: usize| (0..32).fold(0, |w, i| w << 1 | key_bit(at + i));
        let mut hash = 0;
        for (i, byte) in input.iter().enumerate() {
            for bit in 0..8 {
                if byte & (0x80 >> bit) != 0 {
                    hash ^= window(i * 8 + bit);
                }
            }
        }
        hash
    }

    proptest! {
        #[test]
        fn rss_is_the_toeplitz_hash_of_the_tuple(
            src: [u8; 4], dst: [u8; 4], src6: [u8; 16], dst6: [u8; 16], sport: u16, dport: u16,
        ) {
            let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
            let (key, _) = FlowKey::new(v4_mapped(src), v4_mapped(dst), sport, dport, PROTO_UDP);
            prop_assert_eq!(rss(&key), toeplitz(&[&src[..], &dst, &ports].concat()));
            let (key, _) = FlowKey::new(src6, dst6, sport, dport, PROTO_TCP);
            prop_assert_eq!(rss(&key), toeplitz(&[&src6[..], &dst6, &ports].concat()));
            let (key, _) = FlowKey::new(v4_mapped(src), v4_mapped(dst), sport, sport, PROTO_ICMP);
            prop_assert_eq!(rss(&key), toeplitz(&[src, dst].concat()));
        }

        #[test]
        fn a_slot_by_addresses_is_that_of_the_key(src: u32, dst: u32, sport: u16, dport: u16, tcp: bool) {
            let proto = if tcp { PROTO_TCP } else { PROTO_UDP };
            let (key, _) = FlowKey::of_v4(src, dst, sport, dport, proto);
            prop_assert_eq!(slot_of_v4(src, dst, sport, dport), slot_of(&key));
        }

        #[test]
        fn rss_is_symmetric(src: [u8; 16], dst: [u8; 16], sport: u16, dport: u16) {
            let there = FlowKey::new(src, dst, sport, dport, PROTO_TCP).0;
            let back = FlowKey::new(dst, src, dport, sport, PROTO_TCP).0;
            prop_assert_eq!(slot_of(&there), slot_of(&back));
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set: SlotSet = Slot::all().filter(|s| s.index() % 3 == 0).collect();
        assert_eq!(set.len(), 342);
        set.remove(Slot::of_hash(3));
        assert_eq!(set.len(), 341);
        assert!(!set.contains(Slot::of_hash(3)) && set.contains(Slot::of_hash(6)));
        let mut all = SlotSet::full();
        all.extend(&set);
        assert_eq!(all.iter().count(), SLOTS);
    }

    #[test]
    fn workers_share_the_slots_and_follow_from_seven_bits() {
        for workers in 1..=16 {
            let mut share = vec![0; workers];
            for slot in Slot::all() {
                let worker = worker_of(slot, workers);
                assert_eq!(
                    worker,
                    worker_of(Slot::of_hash(slot.0 as u32 + 128), workers)
                );
                share[worker] += 1;
            }
            assert!(share.iter().max().unwrap() - share.iter().min().unwrap() <= SLOTS / 128);
        }
    }
}
