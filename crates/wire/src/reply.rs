//! What a gateway says itself. Every function writes a whole frame into the caller's buffer and
//! gives its length, without padding to Ethernet's minimum: that is the NIC's.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Change;
use crate::octets::{BufferTooShort, array_mut, room};
use crate::parsed::{Addr, Fragment, Net, Parsed};
use crate::{Mac, addr_to_v4, arp, ethernet, icmpv4, icmpv6, ip, ipv4, ipv6, ndp, tcp};

/// The TTL and hop limit of what is sent from here (RFC 1700's recommended default).
pub const TTL: u8 = 64;
/// Octets of an IPv4 packet with an ICMP error at most (RFC 1812, 4.3.2.3).
pub const ERROR_LEN_MAX_V4: usize = 576;
/// Octets of an IPv6 packet with an ICMPv6 error at most (RFC 4443, 2.4 c).
pub const ERROR_LEN_MAX_V6: usize = 1280;
/// Octets of the longest frame that is written here.
pub const FRAME_LEN_MAX: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN + ERROR_LEN_MAX_V6;

/// Type of service of ICMP errors: precedence "internetwork control" (RFC 1812, 4.3.2.5).
const TOS_ERROR: u8 = 0xc0;

/// The interface that something is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Ethernet source: the node's own, because bridges learn from it.
    pub mac: Mac,
    /// What neighbours learn from ARP and neighbour discovery. The cluster's multicast address
    /// where every node is to receive every frame, else the same as `mac`.
    pub advertised: Mac,
    /// VLAN identifier of the tag to send with.
    pub vlan: Option<u16>,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The buffer is too short; [`FRAME_LEN_MAX`] octets are enough for everything.
    #[error(transparent)]
    BufferTooShort(#[from] BufferTooShort),
    /// The standards forbid an answer to this packet, or there is none.
    #[error("this packet must not be answered: see `may_answer_with_error` and `tcp_reset`")]
    NotAnswerable,
    /// The address given as source is not of the packet's family.
    #[error("the source address is not of the family of the packet to be answered")]
    Family,
    /// The summary leads outside the frame.
    #[error("the summary is not of this frame")]
    Mismatch,
}

/// What an ICMP error says. Time exceeded is in transit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// The TTL or hop limit is used up.
    TimeExceeded,
    /// The packet is not delivered.
    Unreachable(Unreachable),
    /// The packet does not fit the next hop: fragmentation needed, or packet too big.
    TooBig {
        /// Octets of an IP packet that the next hop takes.
        mtu: u32,
    },
}

/// Why a packet is not delivered, in terms that both families have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// No route: IPv4 code 0, IPv6 code 0.
    NoRoute,
    /// The next hop or host does not answer: IPv4 code 1, IPv6 code 3.
    Host,
    /// Nobody listens: IPv4 code 3, IPv6 code 4.
    Port,
    /// A rule forbids it: IPv4 code 13, IPv6 code 1.
    Prohibited,
}

impl Unreachable {
    /// The code of an ICMP destination unreachable message (RFC 1812, 5.2.7.1).
    pub const fn code_v4(self) -> u8 {
        match self {
            Unreachable::NoRoute => 0,
            Unreachable::Host => 1,
            Unreachable::Port => 3,
            Unreachable::Prohibited => 13,
        }
    }

    /// The code of an ICMPv6 destination unreachable message (RFC 4443, 3.1).
    pub const fn code_v6(self) -> u8 {
        match self {
            Unreachable::NoRoute => 0,
            Unreachable::Host => 3,
            Unreachable::Port => 4,
            Unreachable::Prohibited => 1,
        }
    }
}

/// Whether an ICMP error may answer this packet (RFC 1122, 3.2.2; RFC 4443, 2.4 e): not an ICMP
/// error or redirect, not a later fragment, not to a group or everybody, and only if the source
/// is one host.
///
/// An Ethernet destination that is a group but not broadcast is no obstacle by itself: it may be
/// the cluster's. Broadcast addresses of subnets are not known here.
pub fn may_answer_with_error(p: &Parsed) -> bool {
    let is_query = match (p.net, p.proto) {
        (Net::V4, ip::ICMP) => icmpv4::is_query(p.icmp.kind),
        (Net::V6, ip::ICMPV6) => !icmpv6::is_error(p.icmp.kind) && p.icmp.kind != icmpv6::REDIRECT,
        _ => true,
    };
    is_query && !matches!(p.fragment, Fragment::Later { .. }) && is_between_hosts(p)
}

/// Whether a packet goes from one host to one host.
fn is_between_hosts(p: &Parsed) -> bool {
    if p.eth_dst.is_broadcast() {
        return false;
    }
    match p.net {
        Net::V4 => {
            let [src, dst] = [p.src[12], p.dst[12]];
            // 0/8 is this network, 224/4 groups, 240/4 reserved and broadcast.
            (1..224).contains(&src) && src != 127 && dst < 224
        }
        Net::V6 => p.src != [0; 16] && p.src[0] != 0xff && p.dst[0] != 0xff,
        _ => false,
    }
}

/// Asks everybody who has `target`.
///
/// # Errors
/// [`ReplyError::BufferTooShort`].
pub fn arp_request(
    buf: &mut [u8],
    sender: &Sender,
    sender_ip: Ipv4Addr,
    target_ip: Ipv4Addr,
) -> Result<usize, ReplyError> {
    let arp = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: sender.advertised,
        sender_ip,
        target_mac: Mac([0; 6]),
        target_ip,
    };
    let at = link(buf, sender, Mac::BROADCAST, ethernet::TYPE_ARP)?;
    Ok(at + arp.emit(&mut buf[at..])?)
}

/// Tells everybody that `ip` is here (RFC 5227, 2.3): a request for one's own address.
///
/// # Errors
/// [`ReplyError::BufferTooShort`].
pub fn arp_announcement(
    buf: &mut [u8],
    sender: &Sender,
    ip: Ipv4Addr,
) -> Result<usize, ReplyError> {
    arp_request(buf, sender, ip, ip)
}

/// Answers a request: its target is here. That it is must be known to the caller.
///
/// # Errors
/// [`ReplyError::NotAnswerable`] if `request` is not one; [`ReplyError::BufferTooShort`].
pub fn arp_reply(
    buf: &mut [u8],
    sender: &Sender,
    request: &arp::Repr,
) -> Result<usize, ReplyError> {
    if request.operation != arp::Operation::Request || request.sender_mac.is_multicast() {
        return Err(ReplyError::NotAnswerable);
    }
    let reply = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: sender.advertised,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    let at = link(buf, sender, request.sender_mac, ethernet::TYPE_ARP)?;
    Ok(at + reply.emit(&mut buf[at..])?)
}

/// Asks the solicited-node group who has `target`. `src` is an address of the interface.
///
/// # Errors
/// [`ReplyError::BufferTooShort`].
pub fn neighbor_solicitation(
    buf: &mut [u8],
    sender: &Sender,
    src: Ipv6Addr,
    target: Ipv6Addr,
) -> Result<usize, ReplyError> {
    let message = ndp::Repr::Solicitation {
        target,
        source_mac: Some(sender.advertised),
    };
    let group = ipv6::solicited_node(target);
    neighbor(
        buf,
        sender,
        ipv6::multicast_mac(group),
        src,
        group,
        &message,
    )
}

/// Answers the solicitation that `p` summarises and [`ndp::Repr::from_frame`] has accepted: its
/// `target` is here. That it is must be known to the caller. A solicitation from the unspecified
/// address is answered to all nodes (RFC 4861, 7.2.4).
///
/// # Errors
/// [`ReplyError::NotAnswerable`] if `p` is no neighbour solicitation;
/// [`ReplyError::BufferTooShort`].
pub fn neighbor_advertisement(
    buf: &mut [u8],
    sender: &Sender,
    p: &Parsed,
    target: Ipv6Addr,
) -> Result<usize, ReplyError> {
    let is_solicitation =
        p.net == Net::V6 && p.proto == ip::ICMPV6 && p.icmp.kind == icmpv6::NEIGHBOR_SOLICITATION;
    if !is_solicitation {
        return Err(ReplyError::NotAnswerable);
    }
    if p.src == [0; 16] {
        return neighbor_announcement(buf, sender, target);
    }
    let to = Ipv6Addr::from(p.src);
    neighbor(
        buf,
        sender,
        p.eth_src,
        target,
        to,
        &here(sender, target, true),
    )
}

/// Tells all nodes that `target` is here (RFC 4861, 7.2.6).
///
/// # Errors
/// [`ReplyError::BufferTooShort`].
pub fn neighbor_announcement(
    buf: &mut [u8],
    sender: &Sender,
    target: Ipv6Addr,
) -> Result<usize, ReplyError> {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let message = here(sender, target, false);
    neighbor(buf, sender, ipv6::multicast_mac(all), target, all, &message)
}

fn here(sender: &Sender, target: Ipv6Addr, solicited: bool) -> ndp::Repr {
    ndp::Repr::Advertisement {
        target,
        router: true,
        solicited,
        overrides: true,
        target_mac: Some(sender.advertised),
    }
}

fn neighbor(
    buf: &mut [u8],
    sender: &Sender,
    mac: Mac,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    message: &ndp::Repr,
) -> Result<usize, ReplyError> {
    let at = link(buf, sender, mac, ethernet::TYPE_IPV6)?;
    let header = ipv6::Repr {
        src,
        dst,
        next_header: ip::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        traffic_class: 0,
        flow_label: 0,
        payload_len: message.len() as u16,
    };
    let l4 = at + header.emit(&mut buf[at..])?;
    Ok(l4 + message.emit(&mut buf[l4..], header.pseudo())?)
}

/// Answers a packet with an ICMP or ICMPv6 error from `src`, quoting as much of the packet as the
/// standards allow. The frame must still be as it was received: the sender looks for what it
/// sent.
///
/// # Errors
/// [`ReplyError::NotAnswerable`] if not [`may_answer_with_error`]; [`ReplyError::Family`],
/// [`ReplyError::Mismatch`], [`ReplyError::BufferTooShort`].
pub fn icmp_error(
    buf: &mut [u8],
    sender: &Sender,
    src: &Addr,
    frame: &[u8],
    p: &Parsed,
    error: IcmpError,
) -> Result<usize, ReplyError> {
    if !may_answer_with_error(p) {
        return Err(ReplyError::NotAnswerable);
    }
    let packet = frame
        .get(usize::from(p.l3)..usize::from(p.end))
        .ok_or(ReplyError::Mismatch)?;
    match (addr_to_v4(src), addr_to_v4(&p.src)) {
        (Some(src), Some(dst)) => error_v4(buf, sender, p.eth_src, src, dst, packet, error),
        (None, None) => {
            let (src, dst) = (Ipv6Addr::from(*src), Ipv6Addr::from(p.src));
            error_v6(buf, sender, p.eth_src, src, dst, packet, error)
        }
        _ => Err(ReplyError::Family),
    }
}

fn error_v4(
    buf: &mut [u8],
    sender: &Sender,
    mac: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    packet: &[u8],
    error: IcmpError,
) -> Result<usize, ReplyError> {
    let room = ERROR_LEN_MAX_V4 - ipv4::HEADER_LEN - icmpv4::HEADER_LEN;
    let quoted = packet.get(..room).unwrap_or(packet);
    let message = match error {
        IcmpError::TimeExceeded => icmpv4::Repr::TimeExceeded { code: 0, quoted },
        IcmpError::Unreachable(why) => icmpv4::Repr::Unreachable {
            code: why.code_v4(),
            mtu: 0,
            quoted,
        },
        IcmpError::TooBig { mtu } => icmpv4::Repr::Unreachable {
            code: icmpv4::CODE_FRAGMENTATION_NEEDED,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            quoted,
        },
    };
    let at = link(buf, sender, mac, ethernet::TYPE_IPV4)?;
    let header = header_v4(src, dst, ip::ICMP, TOS_ERROR, message.len());
    let l4 = at + header.emit(&mut buf[at..])?;
    Ok(l4 + message.emit(&mut buf[l4..])?)
}

fn error_v6(
    buf: &mut [u8],
    sender: &Sender,
    mac: Mac,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    packet: &[u8],
    error: IcmpError,
) -> Result<usize, ReplyError> {
    let room = ERROR_LEN_MAX_V6 - ipv6::HEADER_LEN - icmpv6::HEADER_LEN;
    let quoted = packet.get(..room).unwrap_or(packet);
    let message = match error {
        IcmpError::TimeExceeded => icmpv6::Repr::TimeExceeded { code: 0, quoted },
        IcmpError::Unreachable(why) => icmpv6::Repr::Unreachable {
            code: why.code_v6(),
            quoted,
        },
        IcmpError::TooBig { mtu } => icmpv6::Repr::TooBig { mtu, quoted },
    };
    let at = link(buf, sender, mac, ethernet::TYPE_IPV6)?;
    let header = header_v6(src, dst, ip::ICMPV6, message.len());
    let l4 = at + header.emit(&mut buf[at..])?;
    Ok(l4 + message.emit(&mut buf[l4..], header.pseudo())?)
}

/// Answers a segment with a reset, as a host without such a connection does (RFC 9293, 3.10.7.1):
/// with the number that the segment acknowledges, or else acknowledging the segment.
///
/// # Errors
/// [`ReplyError::NotAnswerable`] for what is not a whole TCP segment from one host to another,
/// and for resets; [`ReplyError::BufferTooShort`].
pub fn tcp_reset(buf: &mut [u8], sender: &Sender, p: &Parsed) -> Result<usize, ReplyError> {
    let answerable = p.proto == ip::TCP
        && p.fragment == Fragment::None
        && p.tcp.flags & tcp::RST == 0
        && is_between_hosts(p);
    if !answerable {
        return Err(ReplyError::NotAnswerable);
    }
    let mut reset = tcp::Repr {
        sport: p.dport,
        dport: p.sport,
        flags: tcp::RST,
        ..tcp::Repr::default()
    };
    if p.tcp.flags & tcp::ACK != 0 {
        reset.seq = p.tcp.ack;
    } else {
        // SYN and FIN take a sequence number each.
        let control = (p.tcp.flags & (tcp::SYN | tcp::FIN)).count_ones();
        reset.flags |= tcp::ACK;
        reset.ack = p
            .tcp
            .seq
            .wrapping_add(p.tcp.payload_len)
            .wrapping_add(control);
    }
    let (l4, pseudo) = match (addr_to_v4(&p.dst), addr_to_v4(&p.src)) {
        (Some(src), Some(dst)) => {
            let at = link(buf, sender, p.eth_src, ethernet::TYPE_IPV4)?;
            let header = header_v4(src, dst, ip::TCP, 0, tcp::HEADER_LEN);
            (at + header.emit(&mut buf[at..])?, header.pseudo())
        }
        _ => {
            let at = link(buf, sender, p.eth_src, ethernet::TYPE_IPV6)?;
            let header = header_v6(p.dst.into(), p.src.into(), ip::TCP, tcp::HEADER_LEN);
            (at + header.emit(&mut buf[at..])?, header.pseudo())
        }
    };
    let segment = room(&mut buf[l4..], tcp::HEADER_LEN)?;
    Ok(l4 + reset.emit(segment, pseudo)?)
}

/// Turns an echo request into its reply, in place, sent from `mac`. The frame's length stays.
///
/// # Errors
/// [`ReplyError::NotAnswerable`], with the frame unchanged, for what is not a whole echo request
/// from one host to another, or has IPv6 extension headers, which would not be the reply's.
pub fn echo_reply(frame: &mut [u8], p: &Parsed, mac: Mac) -> Result<(), ReplyError> {
    let request = (p.icmp.kind, p.icmp.code);
    let reply = match (p.net, p.proto) {
        (Net::V4, ip::ICMP) if request == (icmpv4::ECHO_REQUEST, 0) => icmpv4::ECHO_REPLY,
        (Net::V6, ip::ICMPV6)
            if request == (icmpv6::ECHO_REQUEST, 0) && p.l4 == p.l3.wrapping_add(40) =>
        {
            icmpv6::ECHO_REPLY
        }
        _ => return Err(ReplyError::NotAnswerable),
    };
    if p.fragment != Fragment::None || !is_between_hosts(p) {
        return Err(ReplyError::NotAnswerable);
    }
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));

    let icmp = array_mut::<4>(frame, l4).ok_or(ReplyError::Mismatch)?;
    let change = Change::default().replace(&[icmp[0], icmp[1]], &[reply, 0]);
    let checksum = change.apply(u16::from_be_bytes([icmp[2], icmp[3]]));
    let [c0, c1] = checksum.to_be_bytes();
    *icmp = [reply, 0, c0, c1];

    // Exchanged addresses leave every sum over them as it was.
    if p.net == Net::V4 {
        let h = array_mut::<20>(frame, l3).ok_or(ReplyError::Mismatch)?;
        let change = Change::default().replace(&[h[8], h[9]], &[TTL, h[9]]);
        h[8] = TTL;
        [h[10], h[11]] = change
            .apply(u16::from_be_bytes([h[10], h[11]]))
            .to_be_bytes();
        let (src, dst) = h[12..].split_at_mut(4);
        src.swap_with_slice(dst);
    } else {
        let h = array_mut::<40>(frame, l3).ok_or(ReplyError::Mismatch)?;
        h[7] = TTL;
        let (src, dst) = h[8..].split_at_mut(16);
        src.swap_with_slice(dst);
    }
    crate::rewrite::set_macs(frame, p.eth_src, mac).map_err(|_| ReplyError::Mismatch)
}

fn link(
    buf: &mut [u8],
    sender: &Sender,
    dst: Mac,
    ethertype: u16,
) -> Result<usize, BufferTooShort> {
    ethernet::Repr {
        dst,
        src: sender.mac,
        tag: sender.vlan,
        ethertype,
    }
    .emit(buf)
}

/// Identification 0 is fine for a packet that is never fragmented (RFC 6864, 4.1).
fn header_v4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, tos: u8, len: usize) -> ipv4::Repr {
    ipv4::Repr {
        src,
        dst,
        proto,
        ttl: TTL,
        tos,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len as u16,
    }
}

fn header_v6(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, len: usize) -> ipv6::Repr {
    ipv6::Repr {
        src,
        dst,
        next_header: proto,
        hop_limit: TTL,
        traffic_class: 0,
        flow_label: 0,
        payload_len: len as u16,
    }
}
