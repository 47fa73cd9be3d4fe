//! The packet that an ICMP error quotes.

use crate::octets::array;
use crate::parse::{EXTENSION_COUNT_MAX, icmp_summary, is_extension};
use crate::parsed::Inner;
use crate::{Malformed, icmpv4, icmpv6, ip};

/// Reads the packet quoted in `frame[start..end]`.
///
/// At least its IP header and 8 octets of a TCP, UDP or ICMP header must be there (RFC 792; RFC
/// 4443 asks for much more). Lengths and checksums are not verified: the packet is cut, and
/// whoever quotes it may have it from after a translation.
pub(crate) fn read(frame: &[u8], start: u16, end: u16, v4: bool) -> Result<Inner, Malformed> {
    let quoted = frame
        .get(usize::from(start)..usize::from(end))
        .ok_or(Malformed::IcmpInnerTruncated)?;
    let mut inner = Inner {
        l3: start,
        ..Inner::default()
    };
    let header_len = match v4 {
        true => header_v4(quoted, &mut inner)?,
        false => header_v6(quoted, &mut inner)?,
    };
    inner.l4 = start + header_len as u16;
    if !inner.later_fragment {
        transport(quoted.get(header_len..).unwrap_or_default(), &mut inner, v4)?;
    }
    Ok(inner)
}

fn header_v4(quoted: &[u8], inner: &mut Inner) -> Result<usize, Malformed> {
    let h = quoted
        .first_chunk::<20>()
        .ok_or(Malformed::IcmpInnerTruncated)?;
    let header_len = usize::from(h[0] & 0x0f) * 4;
    if h[0] >> 4 != 4 || header_len < 20 {
        return Err(Malformed::IcmpInnerHeader);
    }
    if header_len > quoted.len() {
        return Err(Malformed::IcmpInnerTruncated);
    }
    inner.src = crate::addr_from_v4([h[12], h[13], h[14], h[15]].into());
    inner.dst = crate::addr_from_v4([h[16], h[17], h[18], h[19]].into());
    inner.proto = h[9];
    inner.later_fragment = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
    Ok(header_len)
}

fn header_v6(quoted: &[u8], inner: &mut Inner) -> Result<usize, Malformed> {
    let h = quoted
        .first_chunk::<40>()
        .ok_or(Malformed::IcmpInnerTruncated)?;
    if h[0] >> 4 != 6 {
        return Err(Malformed::IcmpInnerHeader);
    }
    inner.src = *array(h, 8).ok_or(Malformed::IcmpInnerTruncated)?;
    inner.dst = *array(h, 24).ok_or(Malformed::IcmpInnerTruncated)?;
    if crate::addr_to_v4(&inner.src).is_some() || crate::addr_to_v4(&inner.dst).is_some() {
        return Err(Malformed::AddressMapped);
    }
    inner.proto = h[6];
    let mut at = 40;
    for _ in 0..EXTENSION_COUNT_MAX {
        if !is_extension(inner.proto) {
            return Ok(at);
        }
        let h = array::<8>(quoted, at).ok_or(Malformed::IcmpInnerTruncated)?;
        if inner.proto == ip::FRAGMENT {
            inner.later_fragment = u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0;
            at += 8;
        } else {
            at += usize::from(h[1]) * 8 + 8;
        }
        inner.proto = h[0];
        if at > quoted.len() {
            return Err(Malformed::IcmpInnerTruncated);
        }
        if inner.later_fragment {
            return Ok(at);
        }
    }
    match is_extension(inner.proto) {
        true => Err(Malformed::Ipv6ExtensionCount),
        false => Ok(at),
    }
}

fn transport(segment: &[u8], inner: &mut Inner, v4: bool) -> Result<(), Malformed> {
    if !matches!(inner.proto, ip::TCP | ip::UDP | ip::ICMP | ip::ICMPV6) {
        return Ok(());
    }
    let h = segment
        .first_chunk::<8>()
        .ok_or(Malformed::IcmpInnerTruncated)?;
    if matches!(inner.proto, ip::TCP | ip::UDP) {
        inner.sport = u16::from_be_bytes([h[0], h[1]]);
        inner.dport = u16::from_be_bytes([h[2], h[3]]);
        if inner.proto == ip::TCP {
            inner.tcp_seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
        }
        return Ok(());
    }
    if v4 != (inner.proto == ip::ICMP) {
        return Err(Malformed::IcmpFamily);
    }
    let is_error = match v4 {
        true => icmpv4::is_error(h[0]),
        false => icmpv6::is_error(h[0]),
    };
    if is_error {
        return Err(Malformed::IcmpInnerError);
    }
    inner.icmp = icmp_summary(h, v4);
    Ok(())
}
