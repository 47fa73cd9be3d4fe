//! Changes in place, with incremental checksums (RFC 1624), so that a payload that was damaged
//! on its way here is still seen to be damaged by its receiver.
//!
//! All functions take the summary of the frame for its offsets and read everything that they
//! replace from the frame, so they can be applied one after another with the same summary, whose
//! addresses, ports and TTL are then the old ones. After [`RewriteError::Mismatch`] the frame may
//! be half rewritten: drop it.

use crate::checksum::Change;
use crate::octets::{array_mut, be16};
use crate::parse::pseudo;
use crate::parsed::{Addr, Fragment, Net, Parsed};
use crate::{Mac, ethernet, icmpv4, icmpv6, ip, udp};

/// Why a frame was not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The TTL or hop limit is 0 or 1: answer with time exceeded.
    #[error("the TTL is used up; answer with an ICMP time exceeded instead of forwarding")]
    TtlExpired,
    /// The frame is neither IPv4 nor IPv6.
    #[error("only IPv4 and IPv6 packets have what is to be rewritten")]
    NotIp,
    /// An IPv4 address is to be put into an IPv6 packet, or the reverse.
    #[error("the new address is not of the packet's family")]
    Family,
    /// An embedded packet is to be rewritten and there is none.
    #[error("the packet is no ICMP error, so it quotes no packet")]
    NoInner,
    /// There is no tag whose VLAN could be changed.
    #[error("the frame has no VLAN tag to be changed")]
    Untagged,
    /// The summary leads outside the frame.
    #[error("the summary is not of this frame")]
    Mismatch,
}

/// Takes one from the TTL or hop limit and gives what is left.
///
/// # Errors
/// [`RewriteError::TtlExpired`], with the frame unchanged, when nothing would be left.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], p: &Parsed) -> Result<u8, RewriteError> {
    let l3 = usize::from(p.l3);
    match p.net {
        Net::V4 => {
            let h = array_mut::<20>(frame, l3).ok_or(RewriteError::Mismatch)?;
            if h[8] <= 1 {
                return Err(RewriteError::TtlExpired);
            }
            let change = Change::default().replace(&[h[8], h[9]], &[h[8] - 1, h[9]]);
            h[8] -= 1;
            [h[10], h[11]] = change
                .apply(u16::from_be_bytes([h[10], h[11]]))
                .to_be_bytes();
            Ok(h[8])
        }
        Net::V6 => {
            let h = array_mut::<8>(frame, l3).ok_or(RewriteError::Mismatch)?;
            if h[7] <= 1 {
                return Err(RewriteError::TtlExpired);
            }
            h[7] -= 1;
            Ok(h[7])
        }
        _ => Err(RewriteError::NotIp),
    }
}

/// Sets the Ethernet addresses.
///
/// # Errors
/// [`RewriteError::Mismatch`] if the frame is shorter than an Ethernet header.
#[inline]
pub fn set_macs(frame: &mut [u8], dst: Mac, src: Mac) -> Result<(), RewriteError> {
    let header = array_mut::<14>(frame, 0).ok_or(RewriteError::Mismatch)?;
    let [a, b, c, d, e, f] = dst.0;
    let [g, h, i, j, k, l] = src.0;
    let [.., t0, t1] = *header;
    *header = [a, b, c, d, e, f, g, h, i, j, k, l, t0, t1];
    Ok(())
}

/// Sets the VLAN identifier of a frame that has a tag, and keeps its priority.
///
/// # Errors
/// [`RewriteError::Untagged`].
pub fn set_vlan(frame: &mut [u8], p: &Parsed, id: u16) -> Result<(), RewriteError> {
    if usize::from(p.l3) != ethernet::HEADER_LEN + ethernet::TAG_LEN {
        return Err(RewriteError::Untagged);
    }
    let tag = array_mut::<2>(frame, ethernet::HEADER_LEN).ok_or(RewriteError::Mismatch)?;
    let priority = u16::from_be_bytes(*tag) & !ethernet::VLAN_ID_MASK;
    *tag = (priority | (id & ethernet::VLAN_ID_MASK)).to_be_bytes();
    Ok(())
}

/// Sets the source address, and the source port if one is given: of TCP and UDP the port, of
/// ICMP messages that have one the identifier. Other protocols have no port; theirs is ignored.
///
/// Right for fragments too: the first has the checksum of the whole, which changes by what
/// changed. UDP without a checksum stays without.
///
/// # Errors
/// [`RewriteError::NotIp`], [`RewriteError::Family`], [`RewriteError::Mismatch`].
#[inline]
pub fn set_src(
    frame: &mut [u8],
    p: &Parsed,
    addr: &Addr,
    port: Option<u16>,
) -> Result<(), RewriteError> {
    Headers::outer(p)?
        .set(frame, Side::Src, addr, port)
        .map(drop)
}

/// Sets the destination address and port, as [`set_src`] does the source's. An ICMP message has
/// one identifier, so whichever is called last decides on it.
///
/// # Errors
/// As [`set_src`].
#[inline]
pub fn set_dst(
    frame: &mut [u8],
    p: &Parsed,
    addr: &Addr,
    port: Option<u16>,
) -> Result<(), RewriteError> {
    Headers::outer(p)?
        .set(frame, Side::Dst, addr, port)
        .map(drop)
}

/// Sets the source address and port of the packet that an ICMP error quotes, its checksums as
/// far as they are quoted whole, and the checksum of the error. The addresses of the packet around it
/// are changed by [`set_src`] and [`set_dst`].
///
/// # Errors
/// [`RewriteError::NoInner`], and as [`set_src`].
pub fn set_inner_src(
    frame: &mut [u8],
    p: &Parsed,
    addr: &Addr,
    port: Option<u16>,
) -> Result<(), RewriteError> {
    set_inner(frame, p, Side::Src, addr, port)
}

/// Sets the destination address and port of the packet that an ICMP error quotes, as
/// [`set_inner_src`] does the source's.
///
/// # Errors
/// As [`set_inner_src`].
pub fn set_inner_dst(
    frame: &mut [u8],
    p: &Parsed,
    addr: &Addr,
    port: Option<u16>,
) -> Result<(), RewriteError> {
    set_inner(frame, p, Side::Dst, addr, port)
}

fn set_inner(
    frame: &mut [u8],
    p: &Parsed,
    side: Side,
    addr: &Addr,
    port: Option<u16>,
) -> Result<(), RewriteError> {
    let change = Headers::inner(p)?.set(frame, side, addr, port)?;
    // A quoted packet begins 8 octets after the ICMP header and all lengths before its transport
    // header are multiples of 4, so its words are the words of the error's checksum.
    let field = array_mut::<2>(frame, usize::from(p.l4) + 2).ok_or(RewriteError::Mismatch)?;
    *field = change.apply(u16::from_be_bytes(*field)).to_be_bytes();
    Ok(())
}

/// The frame with other data behind its TCP or UDP header: with lengths and checksums that go with it, and without padding.
/// The checksum is made anew, so damage to what was there before is not seen any more: look first
/// ([`verify_l4`](crate::verify_l4)).
///
/// # Errors
/// [`RewriteError::NotIp`], also for fragments and other protocols; [`RewriteError::Mismatch`], also when a packet would be
/// too long.
pub fn with_payload(frame: &[u8], p: &Parsed, payload: &[u8]) -> Result<Vec<u8>, RewriteError> {
    if !matches!(p.proto, ip::TCP | ip::UDP) || p.fragment != Fragment::None {
        return Err(RewriteError::NotIp);
    }
    let v4 = is_v4(p)?;
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let headers = frame
        .get(..usize::from(p.payload))
        .ok_or(RewriteError::Mismatch)?;
    let mut out = [headers, payload].concat();
    let length = |from: usize| {
        let length = out.len().checked_sub(from);
        let length = length.and_then(|length| u16::try_from(length).ok());
        length.ok_or(RewriteError::Mismatch)
    };
    let (of_packet, of_segment) = (length(l3)?, length(l4)?);
    let of_rest = of_packet.checked_sub(if v4 { 0 } else { 40 });
    let of_rest = of_rest.ok_or(RewriteError::Mismatch)?.to_be_bytes();
    if v4 {
        let change = replace(&mut out, l3 + 2, &of_rest).ok_or(RewriteError::Mismatch)?;
        let field = array_mut::<2>(&mut out, l3 + 10).ok_or(RewriteError::Mismatch)?;
        *field = change.apply(u16::from_be_bytes(*field)).to_be_bytes();
    } else {
        *array_mut::<2>(&mut out, l3 + 4).ok_or(RewriteError::Mismatch)? = of_rest;
    }
    let at = match p.proto {
        ip::TCP => l4 + 16,
        _ => l4 + 6,
    };
    if p.proto == ip::UDP {
        *array_mut::<2>(&mut out, l4 + 4).ok_or(RewriteError::Mismatch)? = of_segment.to_be_bytes();
        if v4 && be16(&out, at) == Some(0) {
            // There was none, and none is needed (RFC 768).
            return Ok(out);
        }
    }
    *array_mut::<2>(&mut out, at).ok_or(RewriteError::Mismatch)? = [0; 2];
    let sum = pseudo(p, of_segment.into()).add(&out[l4..]).checksum();
    // Zero says that there is none.
    let sum = if p.proto == ip::UDP && sum == 0 {
        u16::MAX
    } else {
        sum
    };
    *array_mut::<2>(&mut out, at).ok_or(RewriteError::Mismatch)? = sum.to_be_bytes();
    Ok(out)
}

#[derive(Clone, Copy)]
enum Side {
    Src,
    Dst,
}

/// Where the headers of the outer or of a quoted packet are.
struct Headers {
    v4: bool,
    l3: usize,
    l4: usize,
    end: usize,
    proto: u8,
    /// There is a transport header at `l4`.
    transport: bool,
    /// The packet may be cut before its transport checksum.
    quoted: bool,
}

impl Headers {
    #[inline(always)]
    fn outer(p: &Parsed) -> Result<Headers, RewriteError> {
        Ok(Headers {
            v4: is_v4(p)?,
            l3: usize::from(p.l3),
            l4: usize::from(p.l4),
            end: usize::from(p.end),
            proto: p.proto,
            transport: !matches!(p.fragment, Fragment::Later { .. }),
            quoted: false,
        })
    }

    fn inner(p: &Parsed) -> Result<Headers, RewriteError> {
        let inner = p.inner.ok_or(RewriteError::NoInner)?;
        Ok(Headers {
            v4: is_v4(p)?,
            l3: usize::from(inner.l3),
            l4: usize::from(inner.l4),
            end: usize::from(p.end),
            proto: inner.proto,
            transport: !inner.later_fragment,
            quoted: true,
        })
    }

    /// Sets an address and a port and gives the change of all octets touched, checksums
    /// included, which is what a checksum around the packet changes by.
    #[inline(always)]
    fn set(
        &self,
        frame: &mut [u8],
        side: Side,
        addr: &Addr,
        port: Option<u16>,
    ) -> Result<Change, RewriteError> {
        let packet = frame.get_mut(..self.end).ok_or(RewriteError::Mismatch)?;
        let (of_addr, of_header) = match self.v4 {
            true => self.set_v4(packet, side, addr)?,
            false => self.set_v6(packet, side, addr)?,
        };
        if !self.transport {
            return Ok(of_header);
        }
        let of_port = match (port, self.port_at(packet, side)) {
            (Some(port), Some(at)) => {
                replace(packet, at, &port.to_be_bytes()).ok_or(RewriteError::Mismatch)?
            }
            _ => Change::default(),
        };
        // All but ICMP have the addresses in a pseudo header.
        let covered = match self.proto {
            ip::ICMP => of_port,
            _ => of_port.and(of_addr),
        };
        let of_checksum = self.fix_checksum(packet, covered)?;
        Ok(of_header.and(of_port).and(of_checksum))
    }

    /// The change of the address alone, and together with that of the header's checksum.
    #[inline(always)]
    fn set_v4(
        &self,
        packet: &mut [u8],
        side: Side,
        addr: &Addr,
    ) -> Result<(Change, Change), RewriteError> {
        let new = crate::addr_to_v4(addr).ok_or(RewriteError::Family)?;
        let at = self.l3 + if let Side::Src = side { 12 } else { 16 };
        let of_addr = replace(packet, at, &new.octets()).ok_or(RewriteError::Mismatch)?;
        let old = be16(packet, self.l3 + 10).ok_or(RewriteError::Mismatch)?;
        let of_checksum = replace(packet, self.l3 + 10, &of_addr.apply(old).to_be_bytes())
            .ok_or(RewriteError::Mismatch)?;
        Ok((of_addr, of_addr.and(of_checksum)))
    }

    #[inline(always)]
    fn set_v6(
        &self,
        packet: &mut [u8],
        side: Side,
        addr: &Addr,
    ) -> Result<(Change, Change), RewriteError> {
        if crate::addr_to_v4(addr).is_some() {
            return Err(RewriteError::Family);
        }
        let at = self.l3 + if let Side::Src = side { 8 } else { 24 };
        let of_addr = replace(packet, at, addr).ok_or(RewriteError::Mismatch)?;
        Ok((of_addr, of_addr))
    }

    /// Where the port, or what stands for it, is.
    #[inline(always)]
    fn port_at(&self, packet: &[u8], side: Side) -> Option<usize> {
        match (self.proto, side) {
            (ip::TCP | ip::UDP, Side::Src) => Some(self.l4),
            (ip::TCP | ip::UDP, Side::Dst) => Some(self.l4 + 2),
            (ip::ICMP, _) if icmpv4::has_id(*packet.get(self.l4)?) => Some(self.l4 + 4),
            (ip::ICMPV6, _) if icmpv6::has_id(*packet.get(self.l4)?) => Some(self.l4 + 4),
            _ => None,
        }
    }

    /// Applies the change of what the transport checksum covers, and gives the change of the
    /// checksum itself.
    #[inline(always)]
    fn fix_checksum(&self, packet: &mut [u8], covered: Change) -> Result<Change, RewriteError> {
        let at = self.l4
            + match self.proto {
                ip::TCP => 16,
                ip::UDP | ip::UDP_LITE | ip::DCCP => 6,
                ip::ICMP | ip::ICMPV6 => 2,
                // GRE, ESP, SCTP and the like have no pseudo header.
                _ => return Ok(Change::default()),
            };
        let Some(old) = be16(packet, at) else {
            return match self.quoted {
                true => Ok(Change::default()),
                false => Err(RewriteError::Mismatch),
            };
        };
        if self.proto == ip::UDP && old == 0 {
            return Ok(Change::default());
        }
        let mut new = covered.apply(old);
        if matches!(self.proto, ip::UDP | ip::UDP_LITE) {
            new = udp::present(new);
        }
        replace(packet, at, &new.to_be_bytes()).ok_or(RewriteError::Mismatch)
    }
}

#[inline(always)]
fn is_v4(p: &Parsed) -> Result<bool, RewriteError> {
    match p.net {
        Net::V4 => Ok(true),
        Net::V6 => Ok(false),
        _ => Err(RewriteError::NotIp),
    }
}

/// Overwrites octets and gives what that does to a checksum over them.
#[inline(always)]
fn replace<const N: usize>(packet: &mut [u8], at: usize, new: &[u8; N]) -> Option<Change> {
    let octets = array_mut::<N>(packet, at)?;
    let change = Change::default().replace(octets, new);
    *octets = *new;
    Some(change)
}
