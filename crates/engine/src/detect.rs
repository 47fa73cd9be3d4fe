//! The detector of SYN scans and SYN floods: per source, how many connection attempts were not
//! answered within a window, and how many different destinations and ports they were for.
//!
//! A table of fixed size, four-way associative like a cache: of sources that do not fit, those with
//! the fewest attempts are forgotten, so that many forged sources cannot hide one that insists. Different
//! destinations are counted in a bitmap (linear counting: Whang, Vander-Zanden, Taylor, 1990).
//! An answer takes its attempt back. A cluster's workers each see their slots' share of a source's
//! attempts, so each looks for that share of the thresholds.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use ipnet::{IpNet, Ipv6Net};
use prefix_trie::PrefixMap;
use replication::ToSync;
use state::{BlockReason, SLOTS, Slot};
use wire::Addr;

use crate::counters::Counter;
use crate::port::Port;
use crate::worker::Worker;

/// What a source may do within a window before it is blocked. Thresholds are those of the whole
/// cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detect {
    /// Distinct pairs of destination and port that a source may try without an answer; 0 does not
    /// look for scans.
    pub scan_ports: u32,
    /// Connection attempts without an answer that a source may make; 0 does not look for floods.
    pub flood_syns: u32,
    /// Over how many seconds they count, at least 1.
    pub window_s: u32,
    /// Sources that are never blocked.
    pub except: Vec<IpNet>,
}

/// Sources that are watched at a time.
const SOURCES: usize = 4_096;
const WAYS: usize = 4;
const SETS: usize = SOURCES / WAYS;
/// Bits that count different destinations.
const BITS: usize = 1_024;
const WORDS: usize = BITS / 64;
/// No worker decides on fewer: a share of a small threshold is a matter of chance.
const SHARE_MIN: u32 = 4;

const _: () = assert!(SETS.is_power_of_two() && BITS.is_power_of_two());

#[derive(Debug)]
pub(crate) struct Detector {
    detect: Detect,
    except: PrefixMap<Ipv6Net, ()>,
    sources: Box<[Source]>,
    hasher: FixedState,
    /// This worker's share of the thresholds; 0 where it does not look.
    scan_attempts: u32,
    scan_bits: u32,
    flood_attempts: u32,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    address: Addr,
    /// When its window began; 0 for a vacant place.
    since_s: u32,
    unanswered: u32,
    /// It was told in this window.
    told: bool,
    tried: [u64; WORDS],
}

const VACANT: Source = Source {
    address: [0; 16],
    since_s: 0,
    unanswered: 0,
    told: false,
    tried: [0; WORDS],
};

impl Detector {
    pub(crate) fn new(detect: &Detect, seed: u64) -> Self {
        let mut except = PrefixMap::new();
        for net in &detect.except {
            let (address, shift) = match net {
                IpNet::V4(net) => (net.network().to_ipv6_mapped(), 96 + net.prefix_len()),
                IpNet::V6(net) => (net.network(), net.prefix_len()),
            };
            if let Ok(net) = Ipv6Net::new(address, shift) {
                except.insert(net, ());
            }
        }
        let mut detector = Self {
            detect: detect.clone(),
            except,
            sources: vec![VACANT; SOURCES].into_boxed_slice(),
            hasher: FixedState::with_seed(seed),
            scan_attempts: 0,
            scan_bits: 0,
            flood_attempts: 0,
        };
        detector.share(SLOTS);
        detector
    }

    /// This worker serves so many of all slots now.
    pub(crate) fn share(&mut self, slots: usize) {
        let share = |threshold: u32| match threshold {
            0 => 0,
            _ => {
                let share = u64::from(threshold) * slots as u64 / SLOTS as u64;
                (share as u32).max(SHARE_MIN).min(threshold.max(1))
            }
        };
        self.scan_attempts = share(self.detect.scan_ports);
        self.flood_attempts = share(self.detect.flood_syns);
        // So many bits are expected of so many different ones; beyond what the bitmap can tell apart
        // the number of attempts decides.
        let distinct = f64::from(self.scan_attempts) / BITS as f64;
        let bits = BITS as f64 * (1.0 - (-distinct).exp());
        self.scan_bits = (bits as u32).min(BITS as u32 * 15 / 16);
    }

    /// A source tries to open a connection. Returns what it does too much of, until told.
    fn attempt(&mut self, src: &Addr, dst: &Addr, dport: u16, now_s: u32) -> Option<BlockReason> {
        let (scan_attempts, scan_bits) = (self.scan_attempts, self.scan_bits);
        let flood_attempts = self.flood_attempts;
        let bit = self.bit(dst, dport);
        let source = self.place(src, now_s);
        source.unanswered = source.unanswered.saturating_add(1);
        source.tried[bit / 64] |= 1 << (bit % 64);
        if source.told {
            return None;
        }
        if scan_attempts != 0 && source.unanswered > scan_attempts {
            let tried: u32 = source.tried.iter().map(|word| word.count_ones()).sum();
            if tried > scan_bits {
                return Some(BlockReason::SynScan);
            }
        }
        (flood_attempts != 0 && source.unanswered > flood_attempts).then_some(BlockReason::SynFlood)
    }

    /// The sync core was told of a source.
    fn told(&mut self, src: &Addr, now_s: u32) {
        self.place(src, now_s).told = true;
    }

    /// An attempt was answered.
    fn answered(&mut self, src: &Addr, dst: &Addr, dport: u16) {
        let bit = self.bit(dst, dport);
        let set = self.set(src);
        if let Some(source) = self.sources[set..set + WAYS]
            .iter_mut()
            .find(|source| source.since_s != 0 && source.address == *src)
        {
            source.unanswered = source.unanswered.saturating_sub(1);
            source.tried[bit / 64] &= !(1 << (bit % 64));
        }
    }

    /// The place of a source, in a window that has not passed.
    fn place(&mut self, src: &Addr, now_s: u32) -> &mut Source {
        let window_s = self.detect.window_s;
        let set = self.set(src);
        let ways = &mut self.sources[set..set + WAYS];
        let passed = |source: &Source| now_s >= source.since_s.saturating_add(window_s);
        let known = ways
            .iter()
            .position(|source| source.since_s != 0 && source.address == *src);
        let at = known.unwrap_or_else(|| {
            let value = |source: &Source| match source.since_s == 0 || passed(source) {
                true => 0,
                false => 1 + u64::from(source.unanswered),
            };
            (0..WAYS).min_by_key(|at| value(&ways[*at])).unwrap_or(0)
        });
        let source = &mut ways[at];
        if known.is_none() || passed(source) {
            *source = Source {
                address: *src,
                since_s: now_s.max(1),
                ..VACANT
            };
        }
        source
    }

    fn set(&self, src: &Addr) -> usize {
        (self.hasher.hash_one(src) as usize % SETS) * WAYS
    }

    fn bit(&self, dst: &Addr, dport: u16) -> usize {
        self.hasher.hash_one((dst, dport)) as usize % BITS
    }
}

impl<P: Port> Worker<P> {
    /// A packet asks to open a TCP connection, allowed or not.
    #[inline]
    pub(crate) fn detect_attempt(&mut self, src: &Addr, dst: &Addr, dport: u16) {
        let now_s = self.now.s();
        let Some(detector) = &mut self.detector else {
            return;
        };
        let Some(reason) = detector.attempt(src, dst, dport, now_s) else {
            return;
        };
        let address = std::net::Ipv6Addr::from(*src);
        let safe = self.own_addresses.contains(src)
            || detector.except.get_lpm(&Ipv6Net::from(address)).is_some();
        let detected = ToSync::Detected {
            source: *src,
            reason,
        };
        // When the ring is full the next attempt tells.
        if safe || self.links.to_sync.push(detected).is_ok() {
            detector.told(src, now_s);
            if !safe {
                self.counters.count(Counter::Detected);
            }
        }
    }

    /// The other end has answered the SYN of a connection from `src`.
    #[inline]
    pub(crate) fn detect_answer(&mut self, src: &Addr, dst: &Addr, dport: u16) {
        if let Some(detector) = &mut self.detector {
            detector.answered(src, dst, dport);
        }
    }

    /// The view has changed: this worker's share of all attempts is that of its slots.
    pub(crate) fn share_detection(&mut self) {
        let (workers, me) = (self.config.workers, self.config.worker);
        let mine = |slot: &Slot| state::worker_of(*slot, workers) == me;
        if let Some(detector) = &mut self.detector {
            detector.share(self.ownership.owned.iter().filter(mine).count());
        }
    }
}
