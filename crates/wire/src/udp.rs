//! UDP (RFC 768).

use crate::Malformed;
use crate::checksum::Sum;
use crate::octets::{BufferTooShort, head};

/// Octets of a header.
pub const HEADER_LEN: usize = 8;

/// A datagram whose header is there and whose length is.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Looks at a datagram; what follows its length is ignored. The checksum is not verified.
    ///
    /// # Errors
    /// [`Malformed::UdpTruncated`], [`Malformed::UdpLength`].
    pub fn new(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let header = datagram
            .first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::UdpTruncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = datagram.get(HEADER_LEN..len).ok_or(Malformed::UdpLength)?;
        Ok(Datagram { header, payload })
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Checksum; 0 says that there is none.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// What follows the header, up to the length.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Repr {
    /// Reads a header.
    ///
    /// # Errors
    /// As [`Datagram::new`].
    pub fn parse(datagram: &[u8]) -> Result<Repr, Malformed> {
        let datagram = Datagram::new(datagram)?;
        Ok(Repr {
            sport: datagram.sport(),
            dport: datagram.dport(),
        })
    }

    /// Writes the header before a payload that is already in place: `datagram` is both, at most
    /// 65535 octets, and `pseudo` the sum of its pseudo header.
    ///
    /// # Errors
    /// If `datagram` is shorter than [`HEADER_LEN`].
    pub fn emit(&self, datagram: &mut [u8], pseudo: Sum) -> Result<usize, BufferTooShort> {
        let [l0, l1] = (datagram.len() as u16).to_be_bytes();
        let [s0, s1] = self.sport.to_be_bytes();
        let [d0, d1] = self.dport.to_be_bytes();
        let (header, payload) = head::<HEADER_LEN>(datagram)?;
        *header = [s0, s1, d0, d1, l0, l1, 0, 0];
        let checksum = pseudo.add(header).add(payload).checksum();
        [header[6], header[7]] = present(checksum).to_be_bytes();
        Ok(HEADER_LEN)
    }
}

/// A computed checksum as it is sent: 0 would say that there is none.
#[inline]
pub(crate) const fn present(checksum: u16) -> u16 {
    match checksum {
        0 => 0xffff,
        other => other,
    }
}
