//! Integer hashing that gives the same result on every machine: fingerprints, and the distances
//! of weighted rendezvous hashing without floating point.

use state::{NodeId, Slot};

/// The member nearest to the slot: weighted rendezvous hashing. Each `(member, weight)` is at
/// distance `-ln(u) / weight`, with `u` uniform and drawn from the member and the slot, so that a
/// member is the nearest with a probability proportional to its weight, and leaving one out moves
/// only what was nearest to it. (C. Schindelhauer, G. Schomaker: Weighted distributed hash tables,
/// SPAA 2005.)
pub(crate) fn nearest(members: impl Iterator<Item = (NodeId, u32)>, slot: Slot) -> Option<NodeId> {
    let mut best: Option<(u64, u32, NodeId)> = None;
    for (id, weight) in members {
        let far = farness(mix(RENDEZVOUS
            ^ u64::from(id.raw()) << 32
            ^ slot.index() as u64));
        // far / weight < best_far / best_weight, exactly. Ties go to the lower identity.
        let nearer = best.is_none_or(|(best_far, best_weight, best_id)| {
            let mine = u128::from(far) * u128::from(best_weight);
            let best = u128::from(best_far) * u128::from(weight);
            (mine, id) < (best, best_id)
        });
        if nearer {
            best = Some((far, weight, id));
        }
    }
    best.map(|(_, _, id)| id)
}

/// Keeps these draws apart from other uses of the same mixer.
const RENDEZVOUS: u64 = 0x7265_6e64_657a_0000;

/// `-log2((hash + 1) / 2^64)` in units of 2^-32, rounded towards greater.
pub(crate) fn farness(hash: u64) -> u64 {
    const FRACTION_BITS: u32 = 32;
    const TOP: u64 = 64 << FRACTION_BITS;
    let Some(x) = hash.checked_add(1) else {
        return 0;
    };
    let whole = 63 - x.leading_zeros();
    // The mantissa in [1, 2), 63 bits behind the point. Squaring it doubles its logarithm, whose
    // next bit is then whether it reached 2.
    let mut mantissa = x << x.leading_zeros();
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let bit = (square >> 64) as u64;
        mantissa = (square >> bit) as u64;
        log = log << 1 | bit;
    }
    TOP - log
}

/// The finalizer of splitmix64: a bijection in which each input bit flips each output bit with
/// about even odds. (G. Steele, D. Lea, C. Flood: Fast splittable pseudorandom number generators,
/// OOPSLA 2014.)
pub(crate) const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A fingerprint of a sequence of words. Not a defence against forgery.
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) const fn add(&mut self, word: u64) {
        self.0 = mix(self.0.rotate_left(23) ^ mix(word));
    }

    pub(crate) const fn finish(self) -> u64 {
        mix(self.0)
    }
}
