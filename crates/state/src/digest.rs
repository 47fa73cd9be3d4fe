//! A fingerprint of one record, for sums over slots by which copies are compared.
//!
//! The sum of a slot's fingerprints does not depend on order and is kept up with one addition per
//! change. Two tables that differ have equal sums by chance once in 2^32: the next change in the slot
//! tells them apart again. The function has no key: whoever could choose flows that collide hides a
//! difference between two copies of his own flows.

use crate::flow::{FlowRecord, Life, Nat, SyncMode};

/// Odd constants without structure: the fractional parts of the square roots of 2, 3, 5, 7, 11, 13,
/// 17 and 19.
const K: [u64; 8] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

impl FlowRecord {
    /// What the record adds to the digest of its slot: a function of all that copies must agree on,
    /// the same on every machine and in every version. TCP's windows are left out, since they move
    /// with every packet. 0 for a tombstone, and for a flow that is not replicated.
    #[inline]
    pub fn digest(&self) -> u32 {
        if self.life == Life::Dead || self.class.sync == SyncMode::None {
            return 0;
        }
        // The first four words are bytes in memory order, the last is a number.
        let [a, b, c, d, e] = self.key.words();
        let [a, b, c, d] = [a, b, c, d].map(u64::to_le);
        let class = self.class.origin as u64
            | (self.class.sync as u64) << 8
            | u64::from(self.class.zone_from) << 16
            | u64::from(self.class.zone_to) << 24
            | u64::from(self.progress.0) << 32
            | u64::from(self.mark.version) << 48;
        let verdict = u64::from(self.verdict.generation) | u64::from(self.verdict.rule) << 32;
        // Independent products, so that they overlap.
        let mut sum = mix(a ^ K[0], b ^ K[1])
            ^ mix(c ^ K[2], d ^ K[3]).rotate_left(17)
            ^ mix(e ^ K[4], self.incarnation ^ K[5]).rotate_left(34)
            ^ mix(class ^ K[6], verdict ^ K[7]).rotate_left(51);
        if self.mark.value != 0 {
            sum = mix(sum ^ K[1], u64::from(self.mark.value) ^ K[4]);
        }
        if self.mark.timeout_s != 0 {
            sum = mix(sum ^ K[5], u64::from(self.mark.timeout_s) ^ K[2]);
        }
        if let Some(nat) = &self.nat {
            sum = translated(sum, nat);
        }
        let folded = mix(sum ^ K[3], K[6]);
        // 0 is what is not there.
        ((folded >> 32) as u32 ^ folded as u32).max(1)
    }

    /// Whether another copy of this flow says the same of all that digests compare. What is said of
    /// a tombstone beside its death does not matter.
    #[inline]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation
            && self.life == other.life
            && (self.life == Life::Dead
                || (self.class == other.class
                    && self.progress == other.progress
                    && self.verdict == other.verdict
                    && self.mark == other.mark
                    && self.nat == other.nat))
    }
}

#[cold]
fn translated(mut sum: u64, nat: &Nat) -> u64 {
    for (address, port) in [nat.source, nat.destination] {
        let address = u128::from_be_bytes(address);
        sum = mix(sum ^ K[2], (address >> 64) as u64 ^ K[5]);
        sum = mix(sum ^ K[7], address as u64 ^ K[0]);
        sum = mix(sum ^ u64::from(port), K[1]);
    }
    sum
}

/// Both halves of the product, folded.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, Dir, FlowKey, Mark, PROTO_TCP, Progress, Verdict, v4_mapped};

    fn record() -> FlowRecord {
        let (key, origin) = FlowKey::new(
            v4_mapped([10, 0, 0, 1]),
            v4_mapped([192, 0, 2, 1]),
            40_000,
            80,
            PROTO_TCP,
        );
        FlowRecord {
            key,
            incarnation: 7 << 20,
            class: Class {
                origin,
                sync: SyncMode::Ack,
                zone_from: 1,
                zone_to: 2,
            },
            life: Life::Alive,
            progress: Progress::seen(Dir::AToB),
            verdict: Verdict {
                generation: 3,
                rule: 0x1234,
            },
            mark: Mark::default(),
            tcp: Default::default(),
            nat: None,
        }
    }

    /// Nodes of different versions compare digests.
    #[test]
    fn digests_do_not_change_between_versions() {
        let mut r = record();
        assert_eq!(r.digest(), 3_169_432_033);
        r.nat = Some(Nat {
            source: (v4_mapped([203, 0, 113, 1]), 1024),
            destination: (v4_mapped([192, 0, 2, 1]), 8080),
        });
        r.mark = Mark {
            version: 1,
            timeout_s: 0,
            value: 9,
        };
        assert_eq!(r.digest(), 3_128_769_358);
    }

    /// Each part that copies must agree on counts, and nothing else does.
    #[test]
    fn every_part_counts_but_windows_and_what_is_dead() {
        let base = record();
        type Change = fn(&mut FlowRecord);
        let seen: [Change; 13] = [
            |r| r.incarnation += 1,
            |r| r.class.origin = Dir::BToA,
            |r| r.class.sync = SyncMode::Async,
            |r| r.class.zone_from = 9,
            |r| r.class.zone_to = 9,
            |r| r.progress = r.progress.union(Progress::reset()),
            |r| r.verdict.generation += 1,
            |r| r.verdict.rule += 1,
            |r| r.mark.version += 1,
            |r| r.mark.value += 1,
            |r| r.mark.timeout_s += 1,
            |r| r.key = FlowKey::new([1; 16], [2; 16], 40_000, 80, PROTO_TCP).0,
            |r| {
                r.nat = Some(Nat {
                    source: ([0; 16], 0),
                    destination: ([0; 16], 0),
                });
            },
        ];
        let mut found = vec![base.digest()];
        for change in seen {
            let mut other = base;
            change(&mut other);
            assert!(!found.contains(&other.digest()), "{other:?}");
            found.push(other.digest());
            if other.key == base.key {
                assert!(!base.agrees_with(&other), "{other:?}");
            }
        }
        let mut moved = base;
        moved.tcp[0].end = moved.tcp[0].end.wrapping_add(1000);
        assert_eq!(moved.digest(), base.digest());
        assert!(base.agrees_with(&moved));
        let mut dead = base;
        dead.life = Life::Dead;
        assert_eq!(dead.digest(), 0);
        assert!(!base.agrees_with(&dead));
        let mut none = base;
        none.class.sync = SyncMode::None;
        assert_eq!(none.digest(), 0);
    }
}
