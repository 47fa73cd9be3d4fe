//! IPv6 headers (RFC 8200). Extension headers are walked by [`crate::parse`].

use std::net::Ipv6Addr;

use crate::Malformed;
use crate::checksum::Sum;
use crate::octets::{BufferTooShort, Writer, array, room};

/// Octets of a header.
pub const HEADER_LEN: usize = 40;

/// A packet whose header is there and whose length is.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Looks at a packet; what follows its payload length is ignored.
    ///
    /// # Errors
    /// [`Malformed::Ipv6Truncated`], [`Malformed::Ipv6Version`],
    /// [`Malformed::Ipv6PayloadLength`].
    pub fn new(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = packet
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::Ipv6Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Ipv6Version);
        }
        let payload = rest
            .get(..usize::from(u16::from_be_bytes([header[4], header[5]])))
            .ok_or(Malformed::Ipv6PayloadLength)?;
        Ok(Packet { header, payload })
    }

    /// Traffic class: 6 bits of DSCP, 2 of ECN.
    pub fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Protocol or extension header that the payload begins with.
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(
            *array(self.header, 8).unwrap_or(&[0; 16]),
        ))
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(
            *array(self.header, 24).unwrap_or(&[0; 16]),
        ))
    }

    /// What follows the header, up to the payload length.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Protocol or extension header that the payload begins with.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: 6 bits of DSCP, 2 of ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Octets that follow the header.
    pub payload_len: u16,
}

impl Repr {
    /// Reads a header.
    ///
    /// # Errors
    /// As [`Packet::new`].
    pub fn parse(packet: &[u8]) -> Result<Repr, Malformed> {
        let packet = Packet::new(packet)?;
        Ok(Repr {
            src: packet.src(),
            dst: packet.dst(),
            next_header: packet.next_header(),
            hop_limit: packet.hop_limit(),
            traffic_class: packet.traffic_class(),
            flow_label: packet.flow_label(),
            payload_len: packet.payload().len() as u16,
        })
    }

    /// Writes the header to the start of `buf` and gives its length.
    ///
    /// # Errors
    /// If `buf` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize, BufferTooShort> {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0x000f_ffff);
        Writer::new(room(buf, HEADER_LEN)?)
            .u32(first)
            .u16(self.payload_len)
            .u8(self.next_header)
            .u8(self.hop_limit)
            .put(&self.src.octets())
            .put(&self.dst.octets());
        Ok(HEADER_LEN)
    }

    /// The pseudo header's sum for a payload without extension headers (RFC 8200, 8.1).
    pub fn pseudo(&self) -> Sum {
        Sum::pseudo_v6(
            &self.src.octets(),
            &self.dst.octets(),
            self.next_header,
            u32::from(self.payload_len),
        )
    }
}

/// The solicited-node multicast address of an address (RFC 4291, 2.7.1).
pub const fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::from_bits(u128::from_be_bytes([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c,
    ]))
}

/// The Ethernet address to which a multicast address maps (RFC 2464, 7).
pub const fn multicast_mac(group: Ipv6Addr) -> crate::Mac {
    let [.., a, b, c, d] = group.octets();
    crate::Mac([0x33, 0x33, a, b, c, d])
}
