//! One direction of a TCP connection as a stream of bytes (RFC 9293, section 3.4).

use std::collections::BTreeMap;

/// Bytes that may wait for a segment before them.
pub const WAITING_BYTES_MAX: usize = 16 << 10;
/// Segments that may.
pub const WAITING_MAX: usize = 32;
/// A segment further ahead than this is not of this stream: larger than any window that counts here.
const AHEAD_MAX: u32 = 1 << 24;

/// Segments in, bytes in order out.
#[derive(Debug, Default)]
pub struct Stream {
    /// The sequence number of the next byte; unknown before the first segment.
    next: Option<u32>,
    /// Whether its SYN was seen, so that the first byte is that of the stream.
    whole: bool,
    /// Segments that came early, by their distance from a base that never changes.
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    /// Bytes since the first, to sort by across a wrap.
    offset: u64,
}

impl Stream {
    /// Takes a segment; `seq` is that of its SYN, if it has one, else of its first byte. Appends to `out` what is in order
    /// now. False once the stream has been lost: more came early than there is room for.
    pub fn segment(&mut self, seq: u32, syn: bool, data: &[u8], out: &mut Vec<u8>) -> bool {
        let first = seq.wrapping_add(u32::from(syn));
        if syn && self.next != Some(first) {
            // A new connection, or the first seen of this one.
            *self = Self {
                next: Some(first),
                whole: true,
                ..Self::default()
            };
        }
        if data.is_empty() {
            return true;
        }
        // Where a stream is joined in its middle, it begins with what comes first.
        let next = *self.next.get_or_insert(first);
        let ahead = first.wrapping_sub(next);
        if ahead < AHEAD_MAX {
            let at = self.offset + u64::from(ahead);
            return self.put(at, data, out);
        }
        let behind = next.wrapping_sub(first);
        if behind < AHEAD_MAX && (behind as usize) < data.len() {
            // Sent again with more behind it.
            return self.put(self.offset, &data[behind as usize..], out);
        }
        // Sent again, or of another stream.
        true
    }

    /// The receiver has all before `ack`. What of it was not seen here passed while nobody was watching: the stream
    /// goes on behind it. True when that is so.
    pub fn acknowledged(&mut self, ack: u32, out: &mut Vec<u8>) -> bool {
        let Some(next) = self.next else {
            return false;
        };
        let ahead = ack.wrapping_sub(next);
        if ahead == 0 || ahead >= AHEAD_MAX {
            return false;
        }
        self.next = Some(ack);
        self.offset += u64::from(ahead);
        self.whole = false;
        self.go_on(out);
        true
    }

    /// Bytes that wait for a segment before them.
    pub fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// Whether anything of it was seen.
    pub fn is_begun(&self) -> bool {
        self.next.is_some()
    }

    /// Whether it was seen from its beginning, without a gap.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    fn put(&mut self, at: u64, data: &[u8], out: &mut Vec<u8>) -> bool {
        if at > self.offset {
            let longer = self.early.get(&at).is_none_or(|had| had.len() < data.len());
            if longer {
                let had = self.early.insert(at, data.to_vec());
                self.early_bytes += data.len() - had.map_or(0, |had| had.len());
            }
            return self.early_bytes <= WAITING_BYTES_MAX && self.early.len() <= WAITING_MAX;
        }
        self.advance(data, out);
        self.go_on(out);
        true
    }

    /// Takes what came early and is in order now.
    fn go_on(&mut self, out: &mut Vec<u8>) {
        while let Some((at, data)) = self.early.pop_first() {
            if at > self.offset {
                self.early.insert(at, data);
                break;
            }
            self.early_bytes -= data.len();
            let known = (self.offset - at) as usize;
            if known < data.len() {
                self.advance(&data[known..], out);
            }
        }
    }

    fn advance(&mut self, data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(data);
        self.offset += data.len() as u64;
        self.next = self.next.map(|next| next.wrapping_add(data.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However it is cut, repeated and shuffled within the bounds, the bytes come out once and in order.
        #[test]
        fn any_order_gives_the_same_bytes(
            text in prop::collection::vec(any::<u8>(), 1..300),
            start in prop_oneof![any::<u32>(), Just(u32::MAX - 20)],
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..60), 0..20),
            order in any::<u64>(),
        ) {
            let mut pieces: Vec<(usize, usize)> = cuts
                .iter()
                .map(|(at, len)| {
                    let at = at.index(text.len());
                    (at, (at + len).min(text.len()))
                })
                .collect();
            // Whatever the cuts leave out comes as well.
            pieces.extend((0..text.len()).step_by(25).map(|at| (at, (at + 25).min(text.len()))));
            let mut random = order | 1;
            for n in (1..pieces.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(n, (random >> 33) as usize % (n + 1));
            }
            let (mut stream, mut out) = (Stream::default(), vec![]);
            prop_assert!(stream.segment(start, true, &[], &mut out));
            for (from, to) in pieces {
                let seq = start.wrapping_add(1).wrapping_add(from as u32);
                prop_assert!(stream.segment(seq, false, &text[from..to], &mut out));
            }
            prop_assert_eq!(out, text);
            prop_assert!(stream.early.is_empty() && stream.early_bytes == 0);
        }

        #[test]
        fn nothing_makes_it_panic_or_keep_more_than_it_may(
            segments in prop::collection::vec(
                (any::<u32>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..2000)), 0..60
            ),
        ) {
            let (mut stream, mut out) = (Stream::default(), vec![]);
            for (seq, syn, data) in segments {
                if !stream.segment(seq % 100_000, syn, &data, &mut out) {
                    break;
                }
                prop_assert!(stream.early_bytes <= WAITING_BYTES_MAX);
            }
        }
    }

    #[test]
    fn what_passed_unseen_is_skipped_once_it_is_acknowledged() {
        let (mut stream, mut out) = (Stream::default(), vec![]);
        assert!(stream.segment(9, true, b"", &mut out));
        assert!(stream.segment(10, false, b"abc", &mut out));
        assert!(!stream.acknowledged(13, &mut out), "all of it was seen");
        assert!(!stream.acknowledged(12, &mut out) && stream.is_whole());
        assert!(stream.segment(20, false, b"xyz", &mut out));
        assert_eq!(out, b"abc", "behind a gap");
        assert!(stream.acknowledged(21, &mut out) && !stream.is_whole());
        assert_eq!(out, b"abcyz");
    }

    #[test]
    fn a_stream_joined_in_its_middle_begins_there() {
        let (mut stream, mut out) = (Stream::default(), vec![]);
        assert!(stream.segment(7, false, b"abc", &mut out));
        assert!(stream.segment(8, false, b"bcd", &mut out));
        assert_eq!((&out[..], stream.is_whole()), (&b"abcd"[..], false));
    }
}
