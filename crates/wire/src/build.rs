//! Whole frames, for tests of this and of other crates. Allocates, and panics when addresses are
//! of different families or a packet would exceed 65535 octets.
//!
//! Frames are untagged, not padded, and go from [`SRC_MAC`] to [`DST_MAC`] with TTL 64; see
//! [`with_vlan`], [`with_macs`] and [`padded`].

use std::net::{IpAddr, SocketAddr};

use crate::checksum::Sum;
use crate::octets::be16;
use crate::{Mac, arp, ethernet, icmpv4, icmpv6, ip, ipv4, ipv6, ndp, tcp, udp};

/// Ethernet source of built frames.
pub const SRC_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
/// Ethernet destination of built frames.
pub const DST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);

/// A UDP datagram.
pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let repr = udp::Repr {
        sport: src.port(),
        dport: dst.port(),
    };
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend_from_slice(payload);
    let pseudo = pseudo(src.ip(), dst.ip(), ip::UDP, datagram.len());
    repr.emit(&mut datagram, pseudo).expect("the header's room");
    packet(src.ip(), dst.ip(), ip::UDP, &datagram)
}

/// A TCP segment without options, with a window of 65535.
pub fn tcp(
    src: SocketAddr,
    dst: SocketAddr,
    flags: u8,
    seq: u32,
    ack: u32,
    payload: &[u8],
) -> Vec<u8> {
    let repr = tcp::Repr {
        seq,
        ack,
        flags,
        window: u16::MAX,
        ..tcp::Repr::default()
    };
    tcp_segment(src, dst, repr, payload)
}

/// A TCP segment with everything as in `repr`, but for the ports.
pub fn tcp_segment(src: SocketAddr, dst: SocketAddr, repr: tcp::Repr, payload: &[u8]) -> Vec<u8> {
    let repr = tcp::Repr {
        sport: src.port(),
        dport: dst.port(),
        ..repr
    };
    let mut segment = vec![0; repr.header_len()];
    segment.extend_from_slice(payload);
    let pseudo = pseudo(src.ip(), dst.ip(), ip::TCP, segment.len());
    repr.emit(&mut segment, pseudo).expect("the header's room");
    packet(src.ip(), dst.ip(), ip::TCP, &segment)
}

/// An ICMP or ICMPv6 echo request, or the reply to one.
pub fn icmp_echo(
    src: IpAddr,
    dst: IpAddr,
    request: bool,
    id: u16,
    seq: u16,
    data: &[u8],
) -> Vec<u8> {
    match (src, request) {
        (IpAddr::V4(_), true) => icmp_v4(src, dst, &icmpv4::Repr::EchoRequest { id, seq, data }),
        (IpAddr::V4(_), false) => icmp_v4(src, dst, &icmpv4::Repr::EchoReply { id, seq, data }),
        (IpAddr::V6(_), true) => icmp_v6(src, dst, &icmpv6::Repr::EchoRequest { id, seq, data }),
        (IpAddr::V6(_), false) => icmp_v6(src, dst, &icmpv6::Repr::EchoReply { id, seq, data }),
    }
}

/// An ICMP "port unreachable" from `src` about the packet in the frame `about`, to its source,
/// quoting `quoted_len` octets of it at most.
///
/// # Panics
/// If `about` is not a well-formed IP packet.
pub fn icmp_unreachable(src: IpAddr, about: &[u8], quoted_len: usize) -> Vec<u8> {
    let p = crate::parse(about).expect("a well-formed packet to be quoted");
    let whole = &about[usize::from(p.l3)..usize::from(p.end)];
    let quoted = &whole[..quoted_len.min(whole.len())];
    let dst = crate::addr_to_ip(&p.src);
    match src {
        IpAddr::V4(_) => icmp_v4(
            src,
            dst,
            &icmpv4::Repr::Unreachable {
                code: 3,
                mtu: 0,
                quoted,
            },
        ),
        IpAddr::V6(_) => icmp_v6(src, dst, &icmpv6::Repr::Unreachable { code: 4, quoted }),
    }
}

/// Any ICMP message.
pub fn icmp_v4(src: IpAddr, dst: IpAddr, repr: &icmpv4::Repr<'_>) -> Vec<u8> {
    let mut message = vec![0; repr.len()];
    repr.emit(&mut message).expect("the message's room");
    packet(src, dst, ip::ICMP, &message)
}

/// Any ICMPv6 message.
pub fn icmp_v6(src: IpAddr, dst: IpAddr, repr: &icmpv6::Repr<'_>) -> Vec<u8> {
    let mut message = vec![0; repr.len()];
    let pseudo = pseudo(src, dst, ip::ICMPV6, message.len());
    repr.emit(&mut message, pseudo).expect("the message's room");
    packet(src, dst, ip::ICMPV6, &message)
}

/// A neighbour discovery message with hop limit 255.
pub fn neighbor(src: IpAddr, dst: IpAddr, repr: &ndp::Repr) -> Vec<u8> {
    let mut message = vec![0; repr.len()];
    let pseudo = pseudo(src, dst, ip::ICMPV6, message.len());
    repr.emit(&mut message, pseudo).expect("the message's room");
    let mut frame = packet(src, dst, ip::ICMPV6, &message);
    frame[ethernet::HEADER_LEN + 7] = ndp::HOP_LIMIT;
    frame
}

/// An ARP packet: a request to everybody, anything else to its target.
pub fn arp(repr: &arp::Repr) -> Vec<u8> {
    let dst = match repr.operation {
        arp::Operation::Request => Mac::BROADCAST,
        _ => repr.target_mac,
    };
    let mut packet = vec![0; arp::LEN];
    repr.emit(&mut packet).expect("the packet's room");
    ethernet(dst, repr.sender_mac, ethernet::TYPE_ARP, &packet)
}

/// An IP packet of any protocol, whose payload is taken as it is.
pub fn packet(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    let payload_len = u16::try_from(payload.len()).expect("a payload below 65536 octets");
    let (len, ethertype) = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            assert!(payload_len <= u16::MAX - 20, "a packet below 65536 octets");
            let repr = ipv4::Repr {
                src,
                dst,
                proto,
                ttl: 64,
                tos: 0,
                id: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                payload_len,
            };
            (repr.emit(&mut header), ethernet::TYPE_IPV4)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let repr = ipv6::Repr {
                src,
                dst,
                next_header: proto,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 0,
                payload_len,
            };
            (repr.emit(&mut header), ethernet::TYPE_IPV6)
        }
        _ => panic!("{src} and {dst} are not of one family"),
    };
    header.truncate(len.expect("the header's room"));
    header.extend_from_slice(payload);
    ethernet(DST_MAC, SRC_MAC, ethertype, &header)
}

/// Puts an IPv6 extension header before what follows the IPv6 header of an untagged frame.
/// `body` is what follows the next header and length fields: 6 octets more than a multiple of 8.
pub fn with_extension(frame: Vec<u8>, kind: u8, body: &[u8]) -> Vec<u8> {
    assert_eq!(body.len() % 8, 6, "an extension header is a multiple of 8");
    let mut frame = frame;
    let next = std::mem::replace(&mut frame[20], kind);
    let units = match kind {
        ip::FRAGMENT => 0,
        _ => (body.len() + 2) / 8 - 1,
    };
    let payload_len = be16(&frame, 18).expect("an IPv6 header") + body.len() as u16 + 2;
    frame[18..20].copy_from_slice(&payload_len.to_be_bytes());
    let header = [&[next, units as u8][..], body].concat();
    frame.splice(54..54, header);
    frame
}

/// Cuts the packet of an untagged frame without options and extension headers into fragments
/// that carry `size` octets of it each, a multiple of 8.
pub fn fragments(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    assert!(
        size > 0 && size.is_multiple_of(8),
        "fragments are made of 8 octets"
    );
    let v4 = frame[12..14] == ethernet::TYPE_IPV4.to_be_bytes();
    let (headers, data) = frame.split_at(if v4 { 34 } else { 54 });
    let last = data.len().div_ceil(size) - 1;
    let cut = |(index, chunk): (usize, &[u8])| {
        let offset = (index * size) as u16;
        let more = index < last;
        let mut fragment = [headers, chunk].concat();
        if v4 {
            let mut repr = ipv4::Repr::parse(&frame[14..]).expect("an IPv4 packet");
            repr.id = id;
            repr.dont_fragment = false;
            repr.more_fragments = more;
            repr.fragment_offset = offset;
            repr.payload_len = chunk.len() as u16;
            repr.emit(&mut fragment[14..]).expect("the header's room");
            return fragment;
        }
        fragment[18..20].copy_from_slice(&(chunk.len() as u16).to_be_bytes());
        let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
        let [i0, i1] = id.to_be_bytes();
        with_extension(fragment, ip::FRAGMENT, &[o0, o1, 0, 0, i0, i1])
    };
    data.chunks(size).enumerate().map(cut).collect()
}

/// The frame with an 802.1Q tag.
pub fn with_vlan(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
    let [t0, t1] = ethernet::TYPE_VLAN.to_be_bytes();
    let [i0, i1] = id.to_be_bytes();
    frame.splice(12..12, [t0, t1, i0, i1]);
    frame
}

/// The frame with other Ethernet addresses.
pub fn with_macs(mut frame: Vec<u8>, dst: Mac, src: Mac) -> Vec<u8> {
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
    frame
}

/// With another time to live or hop limit, of an untagged frame without options.
pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    if frame[12..14] == ethernet::TYPE_IPV6.to_be_bytes() {
        frame[21] = ttl;
        return frame;
    }
    frame[22] = ttl;
    frame[24..26].fill(0);
    let checksum = Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The frame padded to the 60 octets that Ethernet carries at least, with octets that are not 0.
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0xa5);
    frame
}

fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let repr = ethernet::Repr {
        dst,
        src,
        tag: None,
        ethertype,
    };
    let mut frame = vec![0; repr.header_len()];
    repr.emit(&mut frame).expect("the header's room");
    frame.extend_from_slice(payload);
    frame
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Sum {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::pseudo_v4(&src.octets(), &dst.octets(), proto, len as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::pseudo_v6(&src.octets(), &dst.octets(), proto, len as u32)
        }
        _ => panic!("{src} and {dst} are not of one family"),
    }
}
