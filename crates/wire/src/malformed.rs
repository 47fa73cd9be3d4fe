//! Why a frame cannot be a packet that anybody meant to send.

/// Declares [`Malformed`]: variant, counter name, sentence. One list, so that the enum, its
/// count and its names cannot drift apart.
macro_rules! reasons {
    ($($variant:ident, $name:literal, $text:literal;)+) => {
        /// The reason for which [`crate::parse`] refuses a frame. The numeric value is the
        /// index of its drop counter: dense from 0, below [`Malformed::COUNT`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
        #[repr(u8)]
        pub enum Malformed {
            $(
                #[doc = $text]
                #[error($text)]
                $variant,
            )+
        }

        impl Malformed {
            const ALL: &'static [Malformed] = &[$(Malformed::$variant),+];

            /// How many reasons there are: the length of an array of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// The counter's name: snake case, stable, unique.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Malformed::$variant => $name,)+
                }
            }

            /// Every reason, in the order of its numeric value.
            pub const fn all() -> [Malformed; Self::COUNT] {
                [$(Malformed::$variant),+]
            }
        }
    };
}

reasons! {
    FrameTruncated, "frame_truncated", "the frame is shorter than its Ethernet header: 14 octets, 18 with a VLAN tag";
    FrameTooLong, "frame_too_long", "the frame is longer than 65535 octets, the most that offsets can express";
    EthernetSourceGroup, "ethernet_source_group", "the Ethernet source is a group address; a sender has an individual one (IEEE 802.3, 3.2.3)";
    VlanStack, "vlan_stack", "the frame has more than one VLAN tag or a provider tag; one 802.1Q tag is accepted";
    VlanReserved, "vlan_reserved", "the VLAN identifier is 4095, which IEEE 802.1Q reserves";
    ArpTruncated, "arp_truncated", "the frame ends before the 28 octets of an ARP packet";
    ArpFormat, "arp_format", "the ARP packet is not about IPv4 over Ethernet (hardware 1, protocol 0x0800, lengths 6 and 4)";
    Ipv4Truncated, "ipv4_truncated", "the frame ends before the IPv4 header does";
    Ipv4Version, "ipv4_version", "the EtherType says IPv4 and the version field does not say 4";
    Ipv4HeaderLength, "ipv4_header_length", "the IPv4 header length is below 20 octets or above the total length";
    Ipv4TotalLength, "ipv4_total_length", "the IPv4 total length is greater than what the frame holds";
    Ipv4HeaderChecksum, "ipv4_header_checksum", "the IPv4 header checksum is wrong";
    Ipv4Options, "ipv4_options", "an IPv4 option has an impossible length";
    Ipv4SourceRoute, "ipv4_source_route", "the IPv4 packet asks for source routing";
    Ipv6Truncated, "ipv6_truncated", "the frame ends before the 40 octets of an IPv6 header";
    Ipv6Version, "ipv6_version", "the EtherType says IPv6 and the version field does not say 6";
    Ipv6PayloadLength, "ipv6_payload_length", "the IPv6 payload length is greater than what the frame holds";
    Ipv6Jumbogram, "ipv6_jumbogram", "the IPv6 packet is a jumbogram (RFC 2675), which no Ethernet carries";
    Ipv6ExtensionTruncated, "ipv6_extension_truncated", "the IPv6 packet or first fragment ends inside its chain of headers (RFC 7112)";
    Ipv6ExtensionCount, "ipv6_extension_count", "the IPv6 packet has more than 8 extension headers";
    Ipv6HopByHopNotFirst, "ipv6_hop_by_hop_not_first", "a hop-by-hop options header stands elsewhere than first (RFC 8200, 4.1)";
    Ipv6Options, "ipv6_options", "an IPv6 hop-by-hop option overruns its header";
    Ipv6RoutingType0, "ipv6_routing_type0", "the IPv6 packet has a routing header of type 0 (RFC 5095)";
    Ipv6FragmentRepeated, "ipv6_fragment_repeated", "the IPv6 packet has more than one fragment header";
    AddressSourceGroup, "address_source_group", "the source address is multicast or broadcast";
    AddressLoopback, "address_loopback", "a loopback address is on the wire (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3)";
    AddressUnspecified, "address_unspecified", "the destination is the unspecified address";
    AddressMapped, "address_mapped", "an IPv6 header has an IPv4-mapped address, which stands for IPv4 flows here";
    FragmentLength, "fragment_length", "a fragment that is not the last is not a multiple of 8 octets long, or is empty";
    FragmentOverflow, "fragment_overflow", "the fragment would end beyond 65535 octets";
    FragmentTiny, "fragment_tiny", "the fragments split or overwrite a transport header (RFC 1858, RFC 3128)";
    TcpTruncated, "tcp_truncated", "the packet ends before the TCP header does";
    TcpDataOffset, "tcp_data_offset", "the TCP data offset is below 5";
    TcpOptions, "tcp_options", "an option of a TCP SYN has an impossible length";
    TcpFlagsNull, "tcp_flags_null", "the TCP segment has none of SYN, ACK, FIN and RST";
    TcpFlagsSynFin, "tcp_flags_syn_fin", "the TCP segment has SYN and FIN";
    TcpFlagsSynRst, "tcp_flags_syn_rst", "the TCP segment has SYN and RST";
    TcpFlagsFinRst, "tcp_flags_fin_rst", "the TCP segment has FIN and RST";
    TcpFlagsFinOnly, "tcp_flags_fin_only", "the TCP segment has FIN without ACK";
    UdpTruncated, "udp_truncated", "the packet ends before the 8 octets of a UDP header";
    UdpLength, "udp_length", "the UDP length is below 8 or greater than what the packet holds";
    IcmpTruncated, "icmp_truncated", "the packet ends before the 8 octets of an ICMP header";
    IcmpFamily, "icmp_family", "ICMP is inside IPv6, or ICMPv6 inside IPv4";
    IcmpInnerTruncated, "icmp_inner_truncated", "an ICMP error quotes less than the IP header and 8 octets (RFC 792)";
    IcmpInnerHeader, "icmp_inner_header", "an ICMP error quotes something that has no IP header of its family";
    IcmpInnerError, "icmp_inner_error", "an ICMP error answers another ICMP error (RFC 1122, 3.2.2)";
    NdpFormat, "ndp_format", "a neighbour discovery message has a wrong code, target or option (RFC 4861, 7.1)";
}

// Counters are indexed by a u8.
const _: () = assert!(Malformed::COUNT <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_dense_and_names_unique() {
        let all = Malformed::all();
        for (index, reason) in all.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
        }
        let mut names = all.map(Malformed::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Malformed::COUNT);
    }
}
