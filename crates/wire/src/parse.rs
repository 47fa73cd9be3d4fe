//! One pass over a frame, from the Ethernet header to the transport header.
//!
//! The common case (no tag or one, an IPv4 header without options or an IPv6 header without
//! extensions, TCP or UDP, no fragment) touches fixed offsets only. Everything else is out of
//! line, so that the common case stays small. Fields are written straight to where the caller
//! wants them: moving a summary that was just written in small pieces costs more than reading the
//! headers does, because wide loads cannot be served from narrow stores.

use crate::checksum::Sum;
use crate::octets::{array, be16};
use crate::parsed::{Addr, Fragment, Icmp, Net, Parsed, Tcp};
use crate::{Mac, Malformed, ethernet, icmpv4, icmpv6, inner, ip, tcp};

/// How many IPv6 extension headers a packet may have.
pub const EXTENSION_COUNT_MAX: usize = 8;

/// Reads a frame, without its frame check sequence. [`parse_into`] is faster by a copy.
///
/// Verifies the IPv4 header checksum; [`verify_l4`] verifies the others.
///
/// # Errors
/// The first reason found for which no host can have meant to send this.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, Malformed> {
    let mut p = Parsed::EMPTY;
    match parse_into(frame, &mut p) {
        Ok(()) => Ok(p),
        Err(reason) => Err(reason),
    }
}

/// What [`parse`] does, into a place that is there already, such as one of an array that is as
/// long as a burst. Everything in `p` is overwritten; after an error it means nothing.
///
/// # Errors
/// As [`parse`].
#[inline]
pub fn parse_into(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    match frame.first_chunk() {
        Some(head) if plain_v4(frame.len(), head, p) => Ok(()),
        _ => parse_any(frame, p),
    }
}

/// Octets of an Ethernet, an IPv4 and a TCP header without tag and options.
const PLAIN_V4: usize = ethernet::HEADER_LEN + 20 + tcp::HEADER_LEN;

/// Nearly every packet: IPv4 without tag, options and fragments, and UDP or TCP in the middle of a connection. Says
/// whether it is one and intact so far; if not, [`parse_any`] tells what it is instead. All offsets are
/// constants, and there is one branch per outcome instead of one per field.
#[inline(always)]
fn plain_v4(frame_len: usize, h: &[u8; PLAIN_V4], p: &mut Parsed) -> bool {
    let be16 = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let be32 = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let ne32 = |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
    let is_v4 = be16(12) == ethernet::TYPE_IPV4 && h[14] == 0x45;
    let total_len = usize::from(be16(16));
    let flags = be16(20);
    let end = ethernet::HEADER_LEN + total_len;
    let (src, dst) = (be32(26), be32(30));
    let header = Sum::of_u32s(ne32(14) + ne32(18) + ne32(22) + ne32(26) + ne32(30));
    let sound = is_v4
        && h[6] & 1 == 0
        && flags & 0x3fff == 0
        && end <= frame_len
        && frame_len <= usize::from(u16::MAX)
        && header.is_intact()
        && addresses_v4(src, dst).is_ok();
    if !sound {
        return false;
    }
    let l4 = ethernet::HEADER_LEN + 20;
    p.sport = be16(34);
    p.dport = be16(36);
    match h[23] {
        ip::UDP => {
            let len = usize::from(be16(38));
            if len < 8 || l4 + len > end {
                return false;
            }
            p.payload = l4 as u16 + 8;
            p.tcp = Parsed::EMPTY.tcp;
        }
        ip::TCP => {
            let header_len = usize::from(h[46] >> 4) * 4;
            let flags = h[47];
            let payload = l4 + header_len;
            // Options of a SYN are read, and only there.
            let usual = header_len >= tcp::HEADER_LEN
                && payload <= end
                && flags & tcp::SYN == 0
                && tcp::check_flags(flags).is_ok();
            if !usual {
                return false;
            }
            p.payload = payload as u16;
            p.tcp = Tcp {
                seq: be32(38),
                ack: be32(42),
                window: be16(48),
                flags,
                payload_len: (end - payload) as u32,
                window_scale: None,
                mss: None,
            };
        }
        _ => return false,
    }
    if let Some((dst, rest)) = h.split_first_chunk() {
        p.eth_dst = Mac(*dst);
        p.eth_src = Mac(*rest.first_chunk().unwrap_or(&[0; 6]));
    }
    p.vlan = None;
    p.net = Net::V4;
    p.l3 = ethernet::HEADER_LEN as u16;
    p.l4 = l4 as u16;
    p.end = end as u16;
    p.src = mapped(src);
    p.dst = mapped(dst);
    p.proto = h[23];
    p.ttl = h[22];
    p.tos = h[15];
    p.fragment = Fragment::None;
    p.dont_fragment = flags & 0x4000 != 0;
    p.icmp = Parsed::EMPTY.icmp;
    p.inner = None;
    true
}

/// [`parse_into`] for every frame.
fn parse_any(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN }>() else {
        return Err(Malformed::FrameTruncated);
    };
    if frame.len() > usize::from(u16::MAX) {
        return Err(Malformed::FrameTooLong);
    }
    reset(p);
    // Copied as they lie: taken apart and put together again they would go through memory in
    // pieces of other sizes, which stalls.
    if let Some((dst, rest)) = header.split_first_chunk() {
        p.eth_dst = Mac(*dst);
        p.eth_src = Mac(*rest.first_chunk().unwrap_or(&[0; 6]));
    }
    if header[6] & 1 != 0 {
        return Err(Malformed::EthernetSourceGroup);
    }
    let mut ethertype = u16::from_be_bytes([header[12], header[13]]);
    if ethernet::is_tag(ethertype) {
        ethertype = tag(frame, ethertype, p)?;
    }
    match ethertype {
        ethernet::TYPE_IPV4 => ipv4(frame, p),
        ethernet::TYPE_IPV6 => ipv6(frame, p),
        ethernet::TYPE_ARP => arp(frame, p),
        other => {
            reset_ip(p);
            p.net = Net::Other(other);
            p.l4 = p.l3;
            p.payload = p.l3;
            p.end = frame.len() as u16;
            Ok(())
        }
    }
}

/// Sets what an untagged whole packet of an unknown protocol leaves alone. Field by field: as one
/// assignment it is a call to copy 156 octets, most of which are then written again.
#[inline(always)]
fn reset(p: &mut Parsed) {
    p.vlan = None;
    p.l3 = ethernet::HEADER_LEN as u16;
    p.fragment = Fragment::None;
    p.sport = 0;
    p.dport = 0;
    p.icmp = Icmp {
        kind: 0,
        code: 0,
        id: 0,
    };
    p.tcp = Parsed::EMPTY.tcp;
    p.inner = None;
}

/// Sets what only IP packets have.
#[cold]
fn reset_ip(p: &mut Parsed) {
    p.src = [0; 16];
    p.dst = [0; 16];
    p.proto = 0;
    p.ttl = 0;
    p.tos = 0;
    p.dont_fragment = false;
}

/// Whether the checksum of TCP, UDP, ICMP or ICMPv6 is right. `p` must be of this `frame`.
///
/// True where it cannot be told: for fragments, for other protocols, for UDP over IPv4 without a
/// checksum (RFC 768), and when an IPv6 routing header still hides the final destination. UDP
/// over IPv6 without a checksum is wrong (RFC 8200, 8.1).
pub fn verify_l4(frame: &[u8], p: &Parsed) -> bool {
    if p.fragment != Fragment::None {
        return true;
    }
    let l4 = usize::from(p.l4);
    let Some(segment) = frame.get(l4..usize::from(p.end)) else {
        return false;
    };
    let segment = match p.proto {
        ip::UDP => {
            let (Some(len), Some(checksum)) = (be16(segment, 4), be16(segment, 6)) else {
                return false;
            };
            if checksum == 0 {
                return p.net == Net::V4;
            }
            match segment.get(..usize::from(len)) {
                Some(datagram) => datagram,
                None => return false,
            }
        }
        ip::ICMP if p.net == Net::V4 => return Sum::of(segment).is_intact(),
        ip::TCP => segment,
        ip::ICMPV6 => segment,
        _ => return true,
    };
    if p.net == Net::V6 && p.l4 != p.l3.wrapping_add(40) && route_ahead(frame, p) {
        return true;
    }
    pseudo(p, segment.len()).add(segment).is_intact()
}

/// The pseudo header's sum for `len` octets of transport header and data.
pub(crate) fn pseudo(p: &Parsed, len: usize) -> Sum {
    // Both forms have the same words; only their places differ.
    let addresses = match p.net {
        Net::V6 => Sum::of(&p.src).add(&p.dst),
        _ => Sum::of(&p.src[12..]).add(&p.dst[12..]),
    };
    addresses.add_u16(u16::from(p.proto)).add_u32(len as u32)
}

/// Reads the 802.1Q tag and gives the EtherType behind it.
fn tag(frame: &[u8], ethertype: u16, p: &mut Parsed) -> Result<u16, Malformed> {
    let Some([c0, c1, t0, t1]) = array::<4>(frame, ethernet::HEADER_LEN).copied() else {
        return Err(Malformed::FrameTruncated);
    };
    let behind = u16::from_be_bytes([t0, t1]);
    if ethertype != ethernet::TYPE_VLAN || ethernet::is_tag(behind) {
        return Err(Malformed::VlanStack);
    }
    p.vlan = match u16::from_be_bytes([c0, c1]) & ethernet::VLAN_ID_MASK {
        0 => None,
        ethernet::VLAN_ID_MASK => return Err(Malformed::VlanReserved),
        id => Some(id),
    };
    p.l3 = (ethernet::HEADER_LEN + ethernet::TAG_LEN) as u16;
    Ok(behind)
}

#[cold]
fn arp(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let l3 = usize::from(p.l3);
    let arp = crate::arp::Packet::new(&frame[l3..])?;
    reset_ip(p);
    p.net = Net::Arp;
    p.src = crate::addr_from_v4(arp.sender_ip());
    p.dst = crate::addr_from_v4(arp.target_ip());
    p.end = (l3 + crate::arp::LEN) as u16;
    p.l4 = p.end;
    p.payload = p.end;
    Ok(())
}

#[inline]
fn ipv4(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let l3 = usize::from(p.l3);
    let Some(h) = array::<20>(frame, l3) else {
        return Err(Malformed::Ipv4Truncated);
    };
    if h[0] >> 4 != 4 {
        return Err(Malformed::Ipv4Version);
    }
    let header_len = usize::from(h[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if header_len < 20 || header_len > total_len {
        return Err(Malformed::Ipv4HeaderLength);
    }
    if l3 + total_len > frame.len() {
        return Err(Malformed::Ipv4TotalLength);
    }
    if header_len == 20 {
        if !Sum::of(h).is_intact() {
            return Err(Malformed::Ipv4HeaderChecksum);
        }
    } else {
        ipv4_options(&frame[l3..l3 + header_len])?;
    }

    let src = u32::from_be_bytes(*array(h, 12).ok_or(Malformed::Ipv4Truncated)?);
    let dst = u32::from_be_bytes(*array(h, 16).ok_or(Malformed::Ipv4Truncated)?);
    addresses_v4(src, dst)?;
    p.net = Net::V4;
    p.src = mapped(src);
    p.dst = mapped(dst);
    p.tos = h[1];
    p.ttl = h[8];
    p.proto = h[9];
    p.l4 = (l3 + header_len) as u16;
    p.end = (l3 + total_len) as u16;
    let flags = u16::from_be_bytes([h[6], h[7]]);
    p.dont_fragment = flags & 0x4000 != 0;
    if flags & 0x3fff != 0 {
        let id = u32::from(u16::from_be_bytes([h[4], h[5]]));
        let offset = (flags & 0x1fff) * 8;
        fragment(p, id, offset, flags & 0x2000 != 0, total_len)?;
    }
    transport(frame, p)
}

#[inline(always)]
const fn mapped(v4: u32) -> Addr {
    (0xffff_0000_0000 | v4 as u128).to_be_bytes()
}

#[inline(always)]
fn addresses_v4(src: u32, dst: u32) -> Result<(), Malformed> {
    if src >> 28 == 0xe || src == u32::MAX {
        return Err(Malformed::AddressSourceGroup);
    }
    if src >> 24 == 127 || dst >> 24 == 127 {
        return Err(Malformed::AddressLoopback);
    }
    if dst == 0 {
        return Err(Malformed::AddressUnspecified);
    }
    Ok(())
}

/// A header longer than 20 octets: its checksum, and options that are refused.
#[cold]
fn ipv4_options(header: &[u8]) -> Result<(), Malformed> {
    if !Sum::of(header).is_intact() {
        return Err(Malformed::Ipv4HeaderChecksum);
    }
    let mut rest = header.get(20..).unwrap_or_default();
    // Every turn takes at least one octet of at most 40.
    while let [kind, after @ ..] = rest {
        rest = match kind {
            0 => break,
            1 => after,
            // Loose and strict source and record route (RFC 791, 3.1).
            131 | 137 => return Err(Malformed::Ipv4SourceRoute),
            _ => match after.first() {
                Some(&len) if len >= 2 => {
                    rest.get(usize::from(len)..).ok_or(Malformed::Ipv4Options)?
                }
                _ => return Err(Malformed::Ipv4Options),
            },
        };
    }
    Ok(())
}

/// Notes a fragment. `len` is what the whole datagram's length field must cover besides `offset`:
/// the total length with IPv4, the payload length with IPv6. `p.l4` and `p.end` are those of the
/// fragment's data.
#[cold]
fn fragment(p: &mut Parsed, id: u32, offset: u16, more: bool, len: usize) -> Result<(), Malformed> {
    let data_len = p.end - p.l4;
    if data_len == 0 || (more && !data_len.is_multiple_of(8)) {
        return Err(Malformed::FragmentLength);
    }
    if usize::from(offset) + len > usize::from(u16::MAX) {
        return Err(Malformed::FragmentOverflow);
    }
    p.fragment = if offset == 0 {
        Fragment::First { id }
    } else if p.proto == ip::TCP && usize::from(offset) < tcp::HEADER_LEN {
        return Err(Malformed::FragmentTiny);
    } else {
        Fragment::Later { id, offset }
    };
    Ok(())
}

#[inline]
fn ipv6(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let l3 = usize::from(p.l3);
    let Some(h) = array::<40>(frame, l3) else {
        return Err(Malformed::Ipv6Truncated);
    };
    if h[0] >> 4 != 6 {
        return Err(Malformed::Ipv6Version);
    }
    let payload_len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if l3 + 40 + payload_len > frame.len() {
        return Err(Malformed::Ipv6PayloadLength);
    }
    p.net = Net::V6;
    p.src = *array(h, 8).ok_or(Malformed::Ipv6Truncated)?;
    p.dst = *array(h, 24).ok_or(Malformed::Ipv6Truncated)?;
    addresses_v6(&p.src, &p.dst)?;
    p.tos = h[0] << 4 | h[1] >> 4;
    p.ttl = h[7];
    p.proto = h[6];
    p.dont_fragment = true;
    p.l4 = (l3 + 40) as u16;
    p.end = (l3 + 40 + payload_len) as u16;
    if is_extension(p.proto) {
        extensions(frame, p, payload_len)?;
    }
    transport(frame, p)
}

#[inline(always)]
fn addresses_v6(src: &Addr, dst: &Addr) -> Result<(), Malformed> {
    if src[0] == 0xff {
        return Err(Malformed::AddressSourceGroup);
    }
    let (src, dst) = (u128::from_be_bytes(*src), u128::from_be_bytes(*dst));
    // Everything else that is refused begins with 80 zeros.
    if src >> 48 == 0 || dst >> 48 == 0 {
        if src == 1 || dst == 1 {
            return Err(Malformed::AddressLoopback);
        }
        if src >> 32 == 0xffff || dst >> 32 == 0xffff {
            return Err(Malformed::AddressMapped);
        }
        if dst == 0 {
            return Err(Malformed::AddressUnspecified);
        }
    }
    Ok(())
}

/// The extension headers that are looked behind. AH is not: what it protects cannot be changed,
/// and with IPv4 it is a protocol like any other.
#[inline(always)]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        ip::HOP_BY_HOP | ip::ROUTING | ip::FRAGMENT | ip::DESTINATION_OPTIONS
    )
}

/// Walks the chain of extension headers: moves `p.l4` behind it and sets `p.proto` to what it
/// ends in.
#[cold]
fn extensions(frame: &[u8], p: &mut Parsed, payload_len: usize) -> Result<(), Malformed> {
    let end = usize::from(p.end);
    let mut fragmented = false;
    if p.proto == ip::HOP_BY_HOP && payload_len == 0 {
        return Err(Malformed::Ipv6Jumbogram);
    }
    let first = p.l4;
    for _ in 0..EXTENSION_COUNT_MAX {
        let at = usize::from(p.l4);
        let rest = frame.get(at..end).unwrap_or_default();
        let Some(h) = rest.first_chunk::<8>() else {
            return Err(Malformed::Ipv6ExtensionTruncated);
        };
        let header_len = match p.proto {
            ip::FRAGMENT => 8,
            _ => usize::from(h[1]) * 8 + 8,
        };
        let Some(header) = rest.get(..header_len) else {
            return Err(Malformed::Ipv6ExtensionTruncated);
        };
        let this = p.proto;
        p.proto = h[0];
        p.l4 = (at + header_len) as u16;
        match this {
            ip::HOP_BY_HOP if p.l4 != first + header_len as u16 => {
                return Err(Malformed::Ipv6HopByHopNotFirst);
            }
            ip::HOP_BY_HOP => hop_by_hop(header)?,
            ip::ROUTING if h[2] == 0 => return Err(Malformed::Ipv6RoutingType0),
            ip::FRAGMENT if fragmented => return Err(Malformed::Ipv6FragmentRepeated),
            ip::FRAGMENT => {
                fragmented = true;
                let field = u16::from_be_bytes([h[2], h[3]]);
                let id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                // Offset 0 and nothing more: a whole packet, in which the chain goes on.
                if field & 0xfff9 != 0 {
                    let len = usize::from(p.end - p.l4);
                    // What precedes the fragment header stays in the reassembled packet.
                    let before = usize::from(at as u16 - first);
                    fragment(p, id, field & 0xfff8, field & 1 != 0, before + len)?;
                }
                if matches!(p.fragment, Fragment::Later { .. }) {
                    return Ok(());
                }
            }
            _ => {}
        }
        if !is_extension(p.proto) {
            return Ok(());
        }
    }
    Err(Malformed::Ipv6ExtensionCount)
}

/// The options of a hop-by-hop header must fill it (RFC 8200, 4.2), and none may be a jumbo
/// payload (RFC 2675, 3: with a payload length that is not 0 it is an error).
fn hop_by_hop(header: &[u8]) -> Result<(), Malformed> {
    let mut rest = header.get(2..).unwrap_or_default();
    // Every turn takes at least one octet of at most 2046.
    while let [kind, after @ ..] = rest {
        rest = match kind {
            0 => after,
            0xc2 => return Err(Malformed::Ipv6Jumbogram),
            _ => after
                .first()
                .and_then(|&len| after.get(1 + usize::from(len)..))
                .ok_or(Malformed::Ipv6Options)?,
        };
    }
    Ok(())
}

/// Whether a routing header has segments left, so that the destination is not the final one.
#[cold]
fn route_ahead(frame: &[u8], p: &Parsed) -> bool {
    let mut at = usize::from(p.l3) + 40;
    let mut this = frame.get(usize::from(p.l3) + 6).copied();
    for _ in 0..EXTENSION_COUNT_MAX {
        let (Some(kind), Some(h)) = (this, array::<8>(frame, at)) else {
            return false;
        };
        match kind {
            ip::ROUTING if h[3] != 0 => return true,
            ip::FRAGMENT => at += 8,
            _ if is_extension(kind) => at += usize::from(h[1]) * 8 + 8,
            _ => return false,
        }
        this = Some(h[0]);
    }
    false
}

#[inline(always)]
fn transport(frame: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    p.payload = p.l4;
    let (l4, end) = (usize::from(p.l4), usize::from(p.end));
    let Some(segment) = frame.get(l4..end) else {
        // The callers have compared `end` with the frame and `l4` with `end`.
        return Err(Malformed::FrameTruncated);
    };
    if let Fragment::Later { .. } = p.fragment {
        return Ok(());
    }
    match p.proto {
        ip::TCP => tcp(segment, p),
        ip::UDP => udp(segment, p),
        ip::ICMP | ip::ICMPV6 => icmp(frame, segment, p),
        _ => Ok(()),
    }
}

/// A transport header that is not all there: in a first fragment that is how filters are evaded.
#[cold]
fn cut(p: &Parsed, whole: Malformed) -> Malformed {
    match p.fragment {
        Fragment::None => whole,
        _ => Malformed::FragmentTiny,
    }
}

#[inline(always)]
fn tcp(segment: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let Some(h) = segment.first_chunk::<{ tcp::HEADER_LEN }>() else {
        return Err(cut(p, Malformed::TcpTruncated));
    };
    let header_len = usize::from(h[12] >> 4) * 4;
    if header_len < tcp::HEADER_LEN {
        return Err(Malformed::TcpDataOffset);
    }
    if header_len > segment.len() {
        return Err(cut(p, Malformed::TcpTruncated));
    }
    let flags = h[13];
    tcp::check_flags(flags)?;
    p.sport = u16::from_be_bytes([h[0], h[1]]);
    p.dport = u16::from_be_bytes([h[2], h[3]]);
    p.tcp = Tcp {
        seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
        window: u16::from_be_bytes([h[14], h[15]]),
        flags,
        payload_len: (segment.len() - header_len) as u32,
        window_scale: None,
        mss: None,
    };
    p.payload = p.l4 + header_len as u16;
    if flags & tcp::SYN != 0 && header_len > tcp::HEADER_LEN {
        let options = tcp::Options::parse(&segment[tcp::HEADER_LEN..header_len])?;
        p.tcp.mss = options.mss;
        p.tcp.window_scale = options.window_scale;
    }
    Ok(())
}

#[inline(always)]
fn udp(segment: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let Some(h) = segment.first_chunk::<8>() else {
        return Err(cut(p, Malformed::UdpTruncated));
    };
    let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    // A first fragment announces the length of the whole.
    if len < 8 || (len > segment.len() && p.fragment == Fragment::None) {
        return Err(Malformed::UdpLength);
    }
    p.sport = u16::from_be_bytes([h[0], h[1]]);
    p.dport = u16::from_be_bytes([h[2], h[3]]);
    p.payload = p.l4 + 8;
    Ok(())
}

fn icmp(frame: &[u8], segment: &[u8], p: &mut Parsed) -> Result<(), Malformed> {
    let v4 = p.net == Net::V4;
    if v4 != (p.proto == ip::ICMP) {
        return Err(Malformed::IcmpFamily);
    }
    let Some(h) = segment.first_chunk::<8>() else {
        return Err(cut(p, Malformed::IcmpTruncated));
    };
    p.icmp = icmp_summary(h, v4);
    p.payload = p.l4 + 8;
    let is_error = match v4 {
        true => icmpv4::is_error(h[0]),
        false => icmpv6::quotes(h[0]),
    };
    if is_error {
        p.inner = Some(inner::read(frame, p.payload, p.end, v4)?);
    }
    Ok(())
}

/// Type, code, and the identifier if this type has one.
pub(crate) fn icmp_summary(h: &[u8; 8], v4: bool) -> Icmp {
    let has_id = match v4 {
        true => icmpv4::has_id(h[0]),
        false => icmpv6::has_id(h[0]),
    };
    Icmp {
        kind: h[0],
        code: h[1],
        id: match has_id {
            true => u16::from_be_bytes([h[4], h[5]]),
            false => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use proptest::prelude::*;

    fn at(text: &str) -> std::net::SocketAddr {
        text.parse().unwrap()
    }

    proptest! {
        /// What the shortcut says of a frame is what the long way says, for whole frames and for ones in which
        /// a few octets differ from a whole one.
        #[test]
        fn the_shortcut_says_what_the_long_way_says(
            tcp: bool,
            flags: u8,
            data in prop::collection::vec(any::<u8>(), 0..40),
            changes in prop::collection::vec((0usize..60, any::<u8>()), 0..3),
        ) {
            let frame = match tcp {
                true => build::tcp(at("10.1.0.1:7"), at("10.2.0.1:80"), flags, 5, 6, &data),
                false => build::udp(at("10.1.0.1:7"), at("10.2.0.1:53"), &data),
            };
            let mut frame = build::padded(frame);
            for (at, octet) in changes {
                frame[at] = octet;
            }
            let mut short = Parsed::EMPTY;
            // What is left of another packet must not show.
            short.inner = Some(Default::default());
            short.vlan = Some(3);
            short.icmp.id = 9;
            short.tcp.mss = Some(1);
            let head = frame.first_chunk().unwrap();
            if plain_v4(frame.len(), head, &mut short) {
                let mut long = Parsed::EMPTY;
                prop_assert_eq!(parse_any(&frame, &mut long), Ok(()));
                prop_assert_eq!(short, long);
            }
        }
    }

    #[test]
    fn usual_packets_take_the_shortcut() {
        let frames = [
            build::udp(at("10.1.0.1:7"), at("10.2.0.1:53"), &[1, 2, 3]),
            build::tcp(at("10.1.0.1:7"), at("10.2.0.1:80"), tcp::ACK, 5, 6, &[1; 9]),
        ];
        for frame in frames.map(build::padded) {
            let head = frame.first_chunk().unwrap();
            assert!(plain_v4(frame.len(), head, &mut Parsed::EMPTY.clone()));
        }
    }
}
