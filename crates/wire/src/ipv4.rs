//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use crate::Malformed;
use crate::checksum::Sum;
use crate::octets::{BufferTooShort, head};

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

/// A packet whose header is there and whose lengths agree.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Looks at a packet; what follows its total length is ignored. The checksum is not verified.
    ///
    /// # Errors
    /// The reasons that begin with `Ipv4`, but for the checksum and the options.
    pub fn new(packet: &'a [u8]) -> Result<Self, Malformed> {
        let header = packet
            .first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::Ipv4Truncated)?;
        if header[0] >> 4 != 4 {
            return Err(Malformed::Ipv4Version);
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if total_len < header_len {
            return Err(Malformed::Ipv4HeaderLength);
        }
        let whole = packet.get(..total_len).ok_or(Malformed::Ipv4TotalLength)?;
        Ok(Packet {
            header,
            options: whole
                .get(HEADER_LEN..header_len)
                .ok_or(Malformed::Ipv4HeaderLength)?,
            payload: whole.get(header_len..).unwrap_or_default(),
        })
    }

    /// Type of service: 6 bits of DSCP, 2 of ECN.
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Whether routers must not fragment the packet.
    pub fn dont_fragment(&self) -> bool {
        self.header[6] & 0x40 != 0
    }

    /// Whether fragments follow this one.
    pub fn more_fragments(&self) -> bool {
        self.header[6] & 0x20 != 0
    }

    /// Where a fragment's data belongs, in octets.
    pub fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6] & 0x1f, self.header[7]]) * 8
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    pub fn proto(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// The options, 0 to 40 octets.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Whether the header checksum is right.
    pub fn checksum_is_right(&self) -> bool {
        Sum::of(self.header).add(self.options).is_intact()
    }

    /// What follows the header, up to the total length.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: 6 bits of DSCP, 2 of ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Whether routers must not fragment the packet.
    pub dont_fragment: bool,
    /// Whether fragments follow this one.
    pub more_fragments: bool,
    /// Where a fragment's data belongs, in octets; a multiple of 8.
    pub fragment_offset: u16,
    /// Octets that follow the header, at most 65515.
    pub payload_len: u16,
}

impl Repr {
    /// Reads a header, verifies its checksum and leaves options aside.
    ///
    /// # Errors
    /// As [`Packet::new`], and [`Malformed::Ipv4HeaderChecksum`].
    pub fn parse(packet: &[u8]) -> Result<Repr, Malformed> {
        let packet = Packet::new(packet)?;
        if !packet.checksum_is_right() {
            return Err(Malformed::Ipv4HeaderChecksum);
        }
        Ok(Repr {
            src: packet.src(),
            dst: packet.dst(),
            proto: packet.proto(),
            ttl: packet.ttl(),
            tos: packet.tos(),
            id: packet.id(),
            dont_fragment: packet.dont_fragment(),
            more_fragments: packet.more_fragments(),
            fragment_offset: packet.fragment_offset(),
            payload_len: packet.payload().len() as u16,
        })
    }

    /// Writes the header with its checksum to the start of `buf` and gives its length. The
    /// total length saturates at 65535.
    ///
    /// # Errors
    /// If `buf` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize, BufferTooShort> {
        let (header, _) = head::<HEADER_LEN>(buf)?;
        let [l0, l1] = self
            .payload_len
            .saturating_add(HEADER_LEN as u16)
            .to_be_bytes();
        let [i0, i1] = self.id.to_be_bytes();
        let [f0, f1] = (u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset >> 3)
            .to_be_bytes();
        let [s0, s1, s2, s3] = self.src.octets();
        let [d0, d1, d2, d3] = self.dst.octets();
        *header = [
            0x45, self.tos, l0, l1, i0, i1, f0, f1, self.ttl, self.proto, 0, 0, s0, s1, s2, s3, d0,
            d1, d2, d3,
        ];
        [header[10], header[11]] = Sum::of(header).checksum().to_be_bytes();
        Ok(HEADER_LEN)
    }

    /// The pseudo header's sum for the payload (RFC 9293, 3.1).
    pub fn pseudo(&self) -> Sum {
        Sum::pseudo_v4(
            &self.src.octets(),
            &self.dst.octets(),
            self.proto,
            self.payload_len,
        )
    }
}
