//! The summary of a frame: plain data, copied freely.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ethernet::Mac;

/// An address of either family: IPv6, or IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
/// Mapped addresses in real IPv6 headers are refused, so the two cannot be confused.
pub type Addr = [u8; 16];

/// What follows the Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Net {
    /// ARP about IPv4 over Ethernet.
    Arp,
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// Any other EtherType, or the length of an IEEE 802.3 frame when below 0x0600.
    Other(u16),
}

/// Whether the packet is a part of a larger one. An IPv6 packet whose fragment header says
/// that it is whole ("atomic", RFC 6946) counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    None,
    /// The first fragment: it has the transport header.
    First {
        /// Identification; 16 bits with IPv4.
        id: u32,
    },
    /// Any other fragment: no transport header, so ports and the like are 0.
    Later {
        /// Identification; 16 bits with IPv4.
        id: u32,
        /// Where the fragment's data belongs in the whole, in octets.
        offset: u16,
    },
}

/// What matters of an ICMP or ICMPv6 header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type field.
    pub kind: u8,
    /// The code field.
    pub code: u8,
    /// The identifier of echo, timestamp, information and mask messages; 0 for the others.
    pub id: u16,
}

/// What matters of a TCP header. The flags' bits are in [`crate::tcp`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, as it stands in the header even without the ACK flag.
    pub ack: u32,
    /// Window as it stands in the header, not scaled.
    pub window: u16,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN, from the highest bit.
    pub flags: u8,
    /// Octets of data in this packet (of a first fragment: in the fragment).
    pub payload_len: u32,
    /// Window scale option, at most 14 (RFC 7323, 2.3). Read from segments with SYN only.
    pub window_scale: Option<u8>,
    /// Maximum segment size option. Read from segments with SYN only.
    pub mss: Option<u16>,
}

/// The packet that an ICMP error quotes: an earlier packet of the flow that the error is about,
/// going the other way. It may be cut after 8 octets of its transport header; its checksums are
/// not verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inner {
    /// Source address of the quoted packet.
    pub src: Addr,
    /// Destination address of the quoted packet.
    pub dst: Addr,
    /// Protocol after IPv6 extension headers.
    pub proto: u8,
    /// Source port of TCP and UDP, else 0.
    pub sport: u16,
    /// Destination port of TCP and UDP, else 0.
    pub dport: u16,
    /// ICMP header, if that is the protocol.
    pub icmp: Icmp,
    /// TCP sequence number, else 0.
    pub tcp_seq: u32,
    /// Offset of the quoted IP header in the frame.
    pub l3: u16,
    /// Offset of the quoted transport header in the frame.
    pub l4: u16,
    /// The quoted packet is a later fragment: there is no transport header at `l4`.
    pub later_fragment: bool,
}

/// Everything that the packet path wants to know of a frame, read in one pass.
///
/// Offsets are octets from the start of the frame, and
/// `14 <= l3 <= l4 <= payload <= end <= frame.len() <= 65535` always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parsed {
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// Ethernet source, never a group address.
    pub eth_src: Mac,
    /// Identifier of the 802.1Q tag. `None` without a tag, and for a tag that carries a priority
    /// only (identifier 0), whose frame belongs to the untagged network; `l3` is then 18.
    pub vlan: Option<u16>,
    /// What `l3` is.
    pub net: Net,
    /// Start of the network header.
    pub l3: u16,
    /// Start of the transport header (of a later fragment: of the data).
    pub l4: u16,
    /// Start of what follows the transport header; equal to `l4` for unknown protocols. For ICMP
    /// it follows the 8 octets of the header.
    pub payload: u16,
    /// End of the IP packet; what follows in the frame is Ethernet padding.
    pub end: u16,
    /// Source address; of ARP the sender's protocol address.
    pub src: Addr,
    /// Destination address; of ARP the target's protocol address.
    pub dst: Addr,
    /// Protocol after IPv6 extension headers; AH and ESP are not looked into. Of a later IPv6
    /// fragment what its fragment header says. 0 for ARP and others.
    pub proto: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Whether this is a part of a packet.
    pub fragment: Fragment,
    /// IPv4's flag; always true for IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// Source port of TCP and UDP, else 0.
    pub sport: u16,
    /// Destination port of TCP and UDP, else 0.
    pub dport: u16,
    /// ICMP header, if that is the protocol.
    pub icmp: Icmp,
    /// TCP header, if that is the protocol.
    pub tcp: Tcp,
    /// The packet quoted by an ICMP error.
    pub inner: Option<Inner>,
}

impl Parsed {
    /// All zeros and nothing found. A constant, because it is copied whole: a default that is
    /// put together from its fields goes through memory in overlapping pieces, and that stall
    /// cost as much as the rest of parsing.
    pub const EMPTY: Parsed = Parsed {
        eth_dst: Mac([0; 6]),
        eth_src: Mac([0; 6]),
        vlan: None,
        net: Net::V4,
        l3: 0,
        l4: 0,
        payload: 0,
        end: 0,
        src: [0; 16],
        dst: [0; 16],
        proto: 0,
        ttl: 0,
        tos: 0,
        fragment: Fragment::None,
        dont_fragment: false,
        sport: 0,
        dport: 0,
        icmp: Icmp {
            kind: 0,
            code: 0,
            id: 0,
        },
        tcp: Tcp {
            seq: 0,
            ack: 0,
            window: 0,
            flags: 0,
            payload_len: 0,
            window_scale: None,
            mss: None,
        },
        inner: None,
    };
}

impl Default for Parsed {
    fn default() -> Self {
        Parsed::EMPTY
    }
}

/// An IPv4 address in the form of [`Addr`].
#[inline]
pub const fn addr_from_v4(v4: Ipv4Addr) -> Addr {
    let [a, b, c, d] = v4.octets();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// An address of either family in the form of [`Addr`].
#[inline]
pub const fn addr_from_ip(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => addr_from_v4(v4),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The IPv4 address that an [`Addr`] stands for, if it does.
#[inline]
pub const fn addr_to_v4(addr: &Addr) -> Option<Ipv4Addr> {
    Ipv6Addr::from_bits(u128::from_be_bytes(*addr)).to_ipv4_mapped()
}

/// The address as the standard library has it, for display and configuration.
#[inline]
pub const fn addr_to_ip(addr: &Addr) -> IpAddr {
    match addr_to_v4(addr) {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(*addr))),
    }
}
