//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use crate::octets::{BufferTooShort, Writer, array, room};
use crate::{Mac, Malformed};

/// Octets of a packet.
pub const LEN: usize = 28;

/// The operation field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
    /// Anything else (RARP and the like).
    Other(u16),
}

impl From<u16> for Operation {
    fn from(number: u16) -> Self {
        match number {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Other(other),
        }
    }
}

impl From<Operation> for u16 {
    fn from(operation: Operation) -> u16 {
        match operation {
            Operation::Request => 1,
            Operation::Reply => 2,
            Operation::Other(other) => other,
        }
    }
}

/// A packet of full length about IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8; LEN]);

impl<'a> Packet<'a> {
    /// Looks at what follows the Ethernet header.
    ///
    /// # Errors
    /// [`Malformed::ArpTruncated`], [`Malformed::ArpFormat`].
    pub fn new(packet: &'a [u8]) -> Result<Self, Malformed> {
        let octets = array::<LEN>(packet, 0).ok_or(Malformed::ArpTruncated)?;
        match octets {
            [0, 1, 8, 0, 6, 4, ..] => Ok(Packet(octets)),
            _ => Err(Malformed::ArpFormat),
        }
    }

    /// What the packet asks or says.
    pub fn operation(&self) -> Operation {
        u16::from_be_bytes([self.0[6], self.0[7]]).into()
    }

    /// Hardware address of the sender, which neighbours learn.
    pub fn sender_mac(&self) -> Mac {
        let [.., a, b, c, d, e, f] = *self.0.first_chunk::<14>().unwrap_or(&[0; 14]);
        Mac([a, b, c, d, e, f])
    }

    /// Protocol address of the sender; unspecified in a probe (RFC 5227).
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[14], self.0[15], self.0[16], self.0[17])
    }

    /// Hardware address of the target; without meaning in a request.
    pub fn target_mac(&self) -> Mac {
        let [a, b, c, d, e, f, _, _, _, _] = *self.0.last_chunk::<10>().unwrap_or(&[0; 10]);
        Mac([a, b, c, d, e, f])
    }

    /// Protocol address of the target.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[24], self.0[25], self.0[26], self.0[27])
    }
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// What the packet asks or says.
    pub operation: Operation,
    /// Hardware address of the sender, which neighbours learn.
    pub sender_mac: Mac,
    /// Protocol address of the sender.
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target, zeros in a request.
    pub target_mac: Mac,
    /// Protocol address of the target.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// Reads what follows the Ethernet header: `&frame[parsed.l3..]`.
    ///
    /// # Errors
    /// As [`Packet::new`].
    pub fn parse(packet: &[u8]) -> Result<Repr, Malformed> {
        let packet = Packet::new(packet)?;
        Ok(Repr {
            operation: packet.operation(),
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// Writes the packet to the start of `buf` and gives its length.
    ///
    /// # Errors
    /// If `buf` is shorter than [`LEN`].
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize, BufferTooShort> {
        Writer::new(room(buf, LEN)?)
            .put(&[0, 1, 8, 0, 6, 4])
            .u16(self.operation.into())
            .put(&self.sender_mac.0)
            .put(&self.sender_ip.octets())
            .put(&self.target_mac.0)
            .put(&self.target_ip.octets());
        Ok(LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; LEN] = [
        0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, 6, 4, request
        2, 0, 0, 0, 0, 9, 10, 0, 0, 9, // sender
        0, 0, 0, 0, 0, 0, 10, 0, 0, 1, // target
    ];

    #[test]
    fn a_request_both_ways() {
        let repr = Repr {
            operation: Operation::Request,
            sender_mac: Mac([2, 0, 0, 0, 0, 9]),
            sender_ip: Ipv4Addr::new(10, 0, 0, 9),
            target_mac: Mac([0; 6]),
            target_ip: Ipv4Addr::new(10, 0, 0, 1),
        };
        assert_eq!(Repr::parse(&REQUEST), Ok(repr));
        let mut buf = [0xaa; LEN];
        assert_eq!(repr.emit(&mut buf), Ok(LEN));
        assert_eq!(buf, REQUEST);
    }

    #[test]
    fn other_hardware_is_refused() {
        let mut token_ring = REQUEST;
        token_ring[1] = 6;
        assert_eq!(Repr::parse(&token_ring), Err(Malformed::ArpFormat));
        assert_eq!(Repr::parse(&REQUEST[..27]), Err(Malformed::ArpTruncated));
    }
}
