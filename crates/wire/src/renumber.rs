//! Other sequence numbers for a TCP segment: what it takes to change lengths in a stream.

use crate::checksum::Change;
use crate::octets::array_mut;
use crate::parsed::Parsed;
use crate::rewrite::RewriteError;
use crate::{ip, tcp};

/// Kinds of options (RFC 9293, 3.2; RFC 2018, 3).
const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;

/// The numbers of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The sequence number of its first octet.
    pub seq: u32,
    /// What it acknowledges, if it does.
    pub ack: u32,
}

/// Puts the numbers into a segment, and the edges of its selective acknowledgements (RFC 2018) through `edge`. A segment
/// without ACK keeps its field. The checksum changes by what changed. The summary's numbers are then the old ones.
///
/// # Errors
/// [`RewriteError::Mismatch`] if the frame is no TCP segment as the summary has it.
pub fn renumber(
    frame: &mut [u8],
    p: &Parsed,
    numbers: Numbers,
    edge: impl Fn(u32) -> u32,
) -> Result<(), RewriteError> {
    let (l4, payload) = (usize::from(p.l4), usize::from(p.payload));
    let header = frame.get_mut(l4..payload).ok_or(RewriteError::Mismatch)?;
    if p.proto != ip::TCP || header.len() < tcp::HEADER_LEN {
        return Err(RewriteError::Mismatch);
    }
    let mut change = Change::default();
    let acknowledges = p.tcp.flags & tcp::ACK != 0;
    let ack = acknowledges.then_some((8, numbers.ack));
    for (at, number) in [Some((4, numbers.seq)), ack].into_iter().flatten() {
        let field = array_mut::<4>(header, at).ok_or(RewriteError::Mismatch)?;
        let new = number.to_be_bytes();
        change = change.replace(field, &new);
        *field = new;
    }
    let options = &mut header[tcp::HEADER_LEN..];
    if acknowledges && !options.is_empty() {
        // Edges may lie at odd places, and checksums are made of words: all words of the options are compared.
        let mut old = [0; 40];
        let old = old.get_mut(..options.len()).ok_or(RewriteError::Mismatch)?;
        old.copy_from_slice(options);
        renumber_edges(options, edge);
        let (before, _) = old.as_chunks::<4>();
        let (after, _) = options.as_chunks::<4>();
        for (before, after) in before.iter().zip(after) {
            change = change.replace(before, after);
        }
    }
    let field = array_mut::<2>(header, 16).ok_or(RewriteError::Mismatch)?;
    *field = change.apply(u16::from_be_bytes(*field)).to_be_bytes();
    Ok(())
}

fn renumber_edges(options: &mut [u8], edge: impl Fn(u32) -> u32) {
    let mut rest = options;
    loop {
        rest = match rest {
            [NOP, rest @ ..] => rest,
            [END, ..] | [] | [_] => return,
            [kind, len, ..] => {
                let (kind, len) = (*kind, usize::from(*len));
                let Some((option, next)) = rest.split_at_mut_checked(len.max(2)) else {
                    return;
                };
                if kind == SACK {
                    let (edges, _) = option[2..].as_chunks_mut::<4>();
                    for octets in edges {
                        *octets = edge(u32::from_be_bytes(*octets)).to_be_bytes();
                    }
                }
                next
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{build, parse, verify_l4};
    use proptest::prelude::*;

    /// A segment with selective acknowledgements behind so many octets of padding.
    fn segment(v6: bool, padding: usize, edges: &[u32], data: &[u8]) -> Vec<u8> {
        let (from, to) = match v6 {
            true => ("[fd00:1::1]:7", "[fd00:2::1]:80"),
            false => ("10.1.0.1:7", "10.2.0.1:80"),
        };
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        // What the builder has no option for is written over data.
        let mut options = vec![NOP; padding];
        if !edges.is_empty() {
            options.extend([SACK, 2 + 4 * edges.len() as u8]);
            options.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
        }
        options.resize(options.len().next_multiple_of(4), END);
        let octets = [&options, data].concat();
        let mut frame = build::tcp(from, to, tcp::ACK, 1000, 2000, &octets);
        let l4 = usize::from(parse(&frame).unwrap().l4);
        frame[l4 + 12] = (((20 + options.len()) / 4) << 4) as u8;
        // The checksum is over the same words but for this one.
        let field: [u8; 2] = [frame[l4 + 16], frame[l4 + 17]];
        let change = Change::default().replace(&[0x50, tcp::ACK], &[frame[l4 + 12], tcp::ACK]);
        let field = change.apply(u16::from_be_bytes(field)).to_be_bytes();
        frame[l4 + 16..l4 + 18].copy_from_slice(&field);
        frame
    }

    proptest! {
        /// The numbers are there, all else is as it was, and the checksum is right; a wrong one stays wrong.
        #[test]
        fn numbers_change_and_nothing_else(
            v6: bool,
            padding in 0usize..4,
            edges in prop::collection::vec(any::<u32>(), 0..4).prop_map(|mut e| { e.truncate(e.len() & !1); e }),
            data in prop::collection::vec(any::<u8>(), 1..40),
            seq: u32,
            ack: u32,
            by: u32,
            damaged: bool,
        ) {
            let mut frame = segment(v6, padding, &edges, &data);
            let before = parse(&frame).unwrap();
            prop_assert!(verify_l4(&frame, &before));
            if damaged {
                let last = frame.len() - 1;
                frame[last] ^= 1;
            }
            renumber(&mut frame, &before, Numbers { seq, ack }, |edge| edge.wrapping_add(by)).unwrap();
            let after = parse(&frame).unwrap();
            prop_assert_eq!((after.tcp.seq, after.tcp.ack), (seq, ack));
            prop_assert_eq!(verify_l4(&frame, &after), !damaged);
            let shifted: Vec<u32> = edges.iter().map(|edge| edge.wrapping_add(by)).collect();
            let mut wanted = segment(v6, padding, &shifted, &data);
            let l4 = usize::from(after.l4);
            wanted[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            wanted[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
            wanted[l4 + 16..l4 + 18].copy_from_slice(&frame[l4 + 16..l4 + 18]);
            if damaged {
                let last = wanted.len() - 1;
                wanted[last] ^= 1;
            }
            prop_assert_eq!(frame, wanted);
        }
    }

    #[test]
    fn options_that_lead_nowhere_are_left_alone() {
        for options in [
            &[5, 200, 1, 1][..],
            &[5, 0, 1, 1],
            &[2, 1, 5, 10],
            &[5, 3, 9, 0],
        ] {
            let mut octets = options.to_vec();
            renumber_edges(&mut octets, |edge| edge + 1);
            assert_eq!(octets, options);
        }
    }
}
