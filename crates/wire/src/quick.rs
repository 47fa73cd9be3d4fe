//! The few fields of the usual packet, read at once.
//!
//! Nearly every packet is IPv4 or IPv6 without tag, options, extensions and fragments, carries UDP or a TCP
//! segment in the middle of a connection, and is intact. [`quick`] says whether a frame is one, and reads no more than
//! forwarding needs: everything lies at a constant offset, and whatever is unusual is left to
//! [`parse_into`](crate::parse_into), which also tells why. What it says of a frame is what that says.

use crate::checksum::Sum;
use crate::tcp::{ACK, FIN, RST, SYN};
use crate::{ethernet, ip};

/// The addresses of a [`Quick`] packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Source and destination, in host order.
    V4(u32, u32),
    /// Source and destination, in network order.
    V6([u8; 16], [u8; 16]),
}

/// What forwarding needs to know of a usual packet. Its network header begins behind an Ethernet header without
/// tag, and its time to live is above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quick {
    /// Of TCP.
    pub seq: u32,
    /// Of TCP.
    pub ack: u32,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Of TCP, as it stands in the header.
    pub window: u16,
    /// End of the IP packet in the frame.
    pub end: u16,
    /// Octets of data that a TCP segment carries.
    pub payload_len: u16,
    /// TCP or UDP.
    pub proto: u8,
    /// Flags of TCP: ACK, and perhaps PSH, URG and those of congestion notification.
    pub flags: u8,
    /// IPv6.
    pub is_v6: bool,
}

const L3: usize = ethernet::HEADER_LEN;
const L4_V4: usize = L3 + 20;
const L4_V6: usize = L3 + 40;
/// Octets of the shortest frame that is looked at: one of IPv4 with TCP. Shorter ones are padded by Ethernet.
const SHORTEST: usize = L4_V4 + 20;

/// Reads a usual packet; `None` for every other frame. The transport's checksum is not looked at: [`is_intact`] does.
#[inline(always)]
pub fn quick(frame: &[u8]) -> Option<(Ends, Quick)> {
    let h = frame.first_chunk::<SHORTEST>()?;
    // EtherType, version and header length.
    match [h[12], h[13], h[14] >> 4] {
        [0x08, 0x00, 4] => v4(frame, h),
        [0x86, 0xdd, 6] => v6(frame),
        _ => None,
    }
}

#[inline(always)]
fn be16(h: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([h[at], h[at + 1]])
}

#[inline(always)]
fn be32(h: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

#[inline(always)]
fn ne32(h: &[u8], at: usize) -> u64 {
    u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]).into()
}

#[inline(always)]
fn v4(frame: &[u8], h: &[u8; SHORTEST]) -> Option<(Ends, Quick)> {
    let end = L3 + usize::from(be16(h, L3 + 2));
    let (src, dst) = (be32(h, L3 + 12), be32(h, L3 + 16));
    let header = Sum::of_u32s(ne32(h, 14) + ne32(h, 18) + ne32(h, 22) + ne32(h, 26) + ne32(h, 30));
    // Neither group nor broadcast, nor this host, nor nobody: tested by the first octet alone, so that a few
    // unusual ones are left to others.
    let host = |address: u32| address >> 24 != 127 && address >> 24 < 224;
    let usual = (h[L3] == 0x45)
        & (h[6] & 1 == 0)
        & (be16(h, L3 + 6) & 0x3fff == 0)
        & (h[L3 + 8] > 1)
        & host(src)
        & host(dst)
        & (dst != 0)
        & (end <= frame.len())
        & (frame.len() <= usize::from(u16::MAX))
        & header.is_intact();
    if !usual {
        return None;
    }
    let proto = h[L3 + 9];
    let quick = transport(frame, L4_V4, end, proto, false)?;
    Some((Ends::V4(src, dst), quick))
}

#[inline(always)]
fn v6(frame: &[u8]) -> Option<(Ends, Quick)> {
    let h = frame.first_chunk::<{ L4_V6 + 8 }>()?;
    let end = L4_V6 + usize::from(be16(h, L3 + 4));
    let src: [u8; 16] = *h[L3 + 8..].first_chunk()?;
    let dst: [u8; 16] = *h[L3 + 24..].first_chunk()?;
    // All that is refused begins with zeros, or is a group.
    let host = |address: &[u8; 16]| address[0] != 0xff && address[0] | address[1] != 0;
    let usual = (h[6] & 1 == 0)
        & (h[L3 + 7] > 1)
        & host(&src)
        & host(&dst)
        & (end <= frame.len())
        & (frame.len() <= usize::from(u16::MAX));
    if !usual {
        return None;
    }
    let proto = h[L3 + 6];
    let quick = transport(frame, L4_V6, end, proto, true)?;
    Some((Ends::V6(src, dst), quick))
}

#[inline(always)]
fn transport(frame: &[u8], l4: usize, end: usize, proto: u8, is_v6: bool) -> Option<Quick> {
    match proto {
        ip::UDP => {
            let h = frame.get(l4..)?.first_chunk::<8>()?;
            // What lies behind the datagram in its packet is unusual, and not part of its checksum.
            (l4 + usize::from(be16(h, 4)) == end && end >= l4 + 8).then_some(Quick {
                seq: 0,
                ack: 0,
                sport: be16(h, 0),
                dport: be16(h, 2),
                window: 0,
                end: end as u16,
                payload_len: 0,
                proto,
                flags: 0,
                is_v6,
            })
        }
        ip::TCP => {
            let h = frame.get(l4..)?.first_chunk::<20>()?;
            let header_len = usize::from(h[12] >> 4) * 4;
            let payload = l4 + header_len;
            let flags = h[13];
            let usual =
                (header_len >= 20) & (payload <= end) & (flags & (SYN | FIN | RST | ACK) == ACK);
            usual.then_some(Quick {
                seq: be32(h, 4),
                ack: be32(h, 8),
                sport: be16(h, 0),
                dport: be16(h, 2),
                window: be16(h, 14),
                end: end as u16,
                payload_len: end.wrapping_sub(payload) as u16,
                proto,
                flags,
                is_v6,
            })
        }
        _ => None,
    }
}

/// Whether the transport's checksum is right, or there is none (UDP over IPv4, RFC 768). The packet must be of this
/// `frame`.
#[inline(always)]
pub fn is_intact(frame: &[u8], ends: &Ends, quick: &Quick) -> bool {
    let (l4, addresses) = match ends {
        Ends::V4(src, dst) => {
            let word = |address: &u32| u64::from(address.to_be());
            (L4_V4, Sum::of_u32s(word(src) + word(dst)))
        }
        Ends::V6(src, dst) => (L4_V6, Sum::of(src).add(dst)),
    };
    let Some(segment) = frame.get(l4..usize::from(quick.end)) else {
        return false;
    };
    let sum = addresses.add_u16(quick.proto.into());
    let intact = sum.add_u16(segment.len() as u16).add(segment).is_intact();
    if quick.proto == ip::UDP && segment.get(6..8) == Some(&[0; 2]) {
        // Over IPv6 that is wrong (RFC 8200, 8.1).
        return !quick.is_v6;
    }
    intact
}

/// Takes one from the time to live of a [`Quick`] packet, in place, and mends the header's checksum (RFC 1624).
#[inline(always)]
pub fn decrement_ttl(frame: &mut [u8], is_v6: bool) {
    let Some(h) = frame.first_chunk_mut::<{ L3 + 20 }>() else {
        return;
    };
    if is_v6 {
        h[L3 + 7] = h[L3 + 7].wrapping_sub(1);
        return;
    }
    h[L3 + 8] = h[L3 + 8].wrapping_sub(1);
    // The word with the time to live is less by 0x0100, so the sum's complement is greater by it; the carry comes
    // in at the end. Of the two zeros the one that a sum over a header gives.
    let sum = u32::from(be16(h, L3 + 10)) + 0x0100;
    let sum = (sum + ((sum + 1) >> 16)) as u16;
    [h[L3 + 10], h[L3 + 11]] = sum.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fragment, Net, Parsed, addr_from_v4, build, parse, rewrite, verify_l4};
    use proptest::prelude::*;

    fn at(text: &str) -> std::net::SocketAddr {
        text.parse().unwrap()
    }

    fn frame(v6: bool, tcp: bool, flags: u8, data: &[u8]) -> Vec<u8> {
        let (from, to) = match v6 {
            true => (at("[fd00:1::1]:7"), at("[fd00:2::1]:80")),
            false => (at("10.1.0.1:7"), at("10.2.0.1:80")),
        };
        let frame = match tcp {
            true => build::tcp(from, to, flags, 5, 6, data),
            false => build::udp(from, to, data),
        };
        build::padded(frame)
    }

    proptest! {
        /// What is quick is right: it is what the long way says, of whole frames and of ones in which a few octets
        /// differ from a whole one.
        #[test]
        fn what_is_quick_is_what_the_long_way_says(
            v6: bool,
            tcp: bool,
            flags in prop_oneof![3 => Just(ACK), 1 => any::<u8>()],
            data in prop::collection::vec(any::<u8>(), 0..80),
            changes in prop::collection::vec((0usize..60, any::<u8>()), 0..3),
        ) {
            let mut frame = frame(v6, tcp, flags, &data);
            for (at, octet) in changes {
                frame[at] = octet;
            }
            if let Some((ends, quick)) = quick(&frame) {
                let p = parse(&frame);
                prop_assert!(p.is_ok(), "{:?}", p);
                let p = p.unwrap();
                prop_assert_eq!(is_intact(&frame, &ends, &quick), verify_l4(&frame, &p));
                let (src, dst) = match ends {
                    Ends::V4(src, dst) => (
                        addr_from_v4(src.to_be_bytes().into()),
                        addr_from_v4(dst.to_be_bytes().into()),
                    ),
                    Ends::V6(src, dst) => (src, dst),
                };
                prop_assert_eq!((src, dst), (p.src, p.dst));
                prop_assert_eq!((p.vlan, p.fragment, p.inner), (None, Fragment::None, None));
                prop_assert_eq!(usize::from(p.l3), L3);
                prop_assert_eq!(p.net == Net::V6, quick.is_v6);
                prop_assert!(p.ttl > 1);
                prop_assert_eq!((quick.sport, quick.dport), (p.sport, p.dport));
                prop_assert_eq!((quick.proto, quick.end), (p.proto, p.end));
                let tcp = crate::Tcp {
                    seq: quick.seq,
                    ack: quick.ack,
                    window: quick.window,
                    flags: quick.flags,
                    payload_len: quick.payload_len.into(),
                    window_scale: None,
                    mss: None,
                };
                prop_assert_eq!(tcp, if p.proto == ip::TCP { p.tcp } else { Parsed::EMPTY.tcp });
                // And it leaves as it does on the long way.
                let mut long = frame.clone();
                rewrite::decrement_ttl(&mut long, &p).unwrap();
                decrement_ttl(&mut frame, quick.is_v6);
                prop_assert_eq!(frame, long);
            }
        }

        /// Whatever the header's checksum was.
        #[test]
        fn the_checksum_follows_the_time_to_live(ttl in 2u8.., id: u16, tos: u8) {
            let mut frame = frame(false, false, 0, b"x");
            frame[L3 + 1] = tos;
            frame[L3 + 8] = ttl;
            [frame[L3 + 4], frame[L3 + 5]] = id.to_be_bytes();
            [frame[L3 + 10], frame[L3 + 11]] = [0; 2];
            let sum = Sum::of(&frame[L3..L4_V4]).checksum();
            [frame[L3 + 10], frame[L3 + 11]] = sum.to_be_bytes();
            decrement_ttl(&mut frame, false);
            prop_assert!(Sum::of(&frame[L3..L4_V4]).is_intact());
            let p = parse(&frame).unwrap();
            prop_assert_eq!(p.ttl, ttl - 1);
        }
    }

    #[test]
    fn usual_packets_are_quick() {
        for v6 in [false, true] {
            for tcp in [false, true] {
                for data in [&[][..], &[1; 9], &[7; 1200]] {
                    let frame = frame(v6, tcp, ACK, data);
                    let (ends, quick) = quick(&frame).expect("it is usual");
                    assert!(is_intact(&frame, &ends, &quick), "{v6} {tcp}");
                }
            }
        }
    }
}
