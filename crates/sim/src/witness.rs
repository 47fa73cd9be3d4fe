//! Where nothing but orders in good order disturbs the cluster, no packet of an established flow gets
//! lost: what a host puts on the wire leaves some node, however the slot changes hands meanwhile.

use std::collections::{BTreeMap, VecDeque};

use wire::Net;

use crate::random::fold;
use crate::shape::HOLD_DEADLINE_US;

/// A packet that has not left a node after so long is lost: longer than any packet is held, and
/// shorter than an end waits before it sends again, so that nothing is taken for its own repetition.
pub(crate) const LOST_AFTER_US: u64 = 2 * HOLD_DEADLINE_US;

/// Packets that are on their way through the nodes.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// By what routers leave as it is: the flows and the times of packets that have not left a node.
    waiting: BTreeMap<u64, Vec<(u64, usize)>>,
    due: VecDeque<(u64, u64)>,
}

impl Witness {
    /// A host of flow number `flow` puts a packet on the wire that is to get through.
    pub(crate) fn put(&mut self, flow: usize, frame: &[u8], at_us: u64) {
        if let Some(print) = fingerprint(frame) {
            self.waiting.entry(print).or_default().push((at_us, flow));
            self.due.push_back((at_us, print));
        }
    }

    /// A node sends a packet.
    pub(crate) fn left(&mut self, frame: &[u8]) {
        if !self.waiting.is_empty()
            && let Some(print) = fingerprint(frame)
        {
            self.waiting.remove(&print);
        }
    }

    /// The next packet that no node has sent in time: when a host sent it, and of which flow it is.
    pub(crate) fn next_lost(&mut self, now_us: u64) -> Option<(u64, usize)> {
        while let Some((at_us, print)) = self.due.front().copied() {
            if at_us + LOST_AFTER_US > now_us {
                return None;
            }
            self.due.pop_front();
            let Some(packets) = self.waiting.get_mut(&print) else {
                continue;
            };
            let found = packets.iter().position(|(at, _)| *at == at_us);
            let lost = found.map(|at| packets.swap_remove(at));
            if packets.is_empty() {
                self.waiting.remove(&print);
            }
            if lost.is_some() {
                return lost;
            }
        }
        None
    }
}

/// Of what a router leaves as it is: the addresses and everything from the transport header on.
pub(crate) fn fingerprint(frame: &[u8]) -> Option<u64> {
    let p = wire::parse(frame).ok()?;
    if !matches!(p.net, Net::V4 | Net::V6) {
        return None;
    }
    let mut hash = u64::from(p.proto);
    let transport = &frame[usize::from(p.l4)..usize::from(p.end)];
    for octets in [&p.src[..], &p.dst[..], transport] {
        for chunk in octets.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = fold(hash, u64::from_le_bytes(word));
        }
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u16) -> Vec<u8> {
        let (from, to) = ("10.1.0.10:1000", "10.2.0.10:80");
        let (from, to) = (from.parse().expect("valid"), to.parse().expect("valid"));
        wire::build::udp(from, to, &number.to_be_bytes())
    }

    #[test]
    fn what_leaves_is_not_lost_and_what_does_not_is() {
        let mut witness = Witness::default();
        witness.put(7, &packet(1), 1_000);
        witness.put(8, &packet(2), 2_000);
        // The same again, by an end that has lost patience.
        witness.put(7, &packet(1), 3_000);
        assert_eq!(witness.next_lost(LOST_AFTER_US + 999), None);
        witness.left(&packet(2));
        let late = LOST_AFTER_US + 2_000;
        assert_eq!(witness.next_lost(late), Some((1_000, 7)));
        assert_eq!(witness.next_lost(late), None, "the second is not due yet");
        assert_eq!(witness.next_lost(late + 1_000), Some((3_000, 7)));
        witness.put(7, &packet(1), late);
        witness.left(&packet(1));
        assert_eq!(witness.next_lost(u64::MAX), None);
        assert!(witness.waiting.is_empty() && witness.due.is_empty());
    }
}
