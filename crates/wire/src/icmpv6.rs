//! ICMPv6 (RFC 4443): echo and errors. Neighbour discovery is in [`crate::ndp`].

use crate::Malformed;
use crate::checksum::Sum;
use crate::icmpv4::{self, echo};
use crate::octets::BufferTooShort;

pub use crate::icmpv4::{HEADER_LEN, Message};

/// Type of a destination unreachable message.
pub const UNREACHABLE: u8 = 1;
/// Type of a packet too big message.
pub const TOO_BIG: u8 = 2;
/// Type of a time exceeded message.
pub const TIME_EXCEEDED: u8 = 3;
/// Type of a parameter problem message.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type of a neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Type of a redirect.
pub const REDIRECT: u8 = 137;

/// Whether the type is an error message (RFC 4443, 2.1), known or not.
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// Whether the type is an error message that quotes a packet after 8 octets.
pub const fn quotes(kind: u8) -> bool {
    matches!(
        kind,
        UNREACHABLE | TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// Whether the type has an identifier: echo messages.
pub const fn has_id(kind: u8) -> bool {
    matches!(kind, ECHO_REQUEST | ECHO_REPLY)
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repr<'a> {
    /// Echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// Data to be echoed.
        data: &'a [u8],
    },
    /// Echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// Echoed data.
        data: &'a [u8],
    },
    /// Destination unreachable.
    Unreachable {
        /// Why (RFC 4443, 3.1).
        code: u8,
        /// The packet that could not be delivered, cut.
        quoted: &'a [u8],
    },
    /// Packet too big.
    TooBig {
        /// MTU of the next hop.
        mtu: u32,
        /// The packet that was too big, cut.
        quoted: &'a [u8],
    },
    /// Time exceeded.
    TimeExceeded {
        /// 0 in transit, 1 in reassembly.
        code: u8,
        /// The packet whose time it was, cut.
        quoted: &'a [u8],
    },
    /// Parameter problem.
    ParameterProblem {
        /// Why.
        code: u8,
        /// Octet of the quoted packet at which the problem is.
        pointer: u32,
        /// The packet with the problem, cut.
        quoted: &'a [u8],
    },
    /// Any other message.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four octets whose meaning depends on the type.
        rest: [u8; 4],
        /// What follows them.
        data: &'a [u8],
    },
}

impl<'a> Repr<'a> {
    /// Reads a message. Reserved fields are ignored.
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`].
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let message = Message::new(message)?;
        let (kind, code, data) = (message.kind(), message.code(), message.data());
        let rest @ [a, b, c, d] = message.rest();
        let (id, seq) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ok(match kind {
            ECHO_REQUEST if code == 0 => Repr::EchoRequest { id, seq, data },
            ECHO_REPLY if code == 0 => Repr::EchoReply { id, seq, data },
            UNREACHABLE => Repr::Unreachable { code, quoted: data },
            TOO_BIG => Repr::TooBig {
                mtu: u32::from_be_bytes(rest),
                quoted: data,
            },
            TIME_EXCEEDED => Repr::TimeExceeded { code, quoted: data },
            PARAMETER_PROBLEM => Repr::ParameterProblem {
                code,
                pointer: u32::from_be_bytes(rest),
                quoted: data,
            },
            _ => Repr::Other {
                kind,
                code,
                rest,
                data,
            },
        })
    }

    /// Octets that [`Repr::emit`] writes.
    pub const fn len(&self) -> usize {
        HEADER_LEN + self.parts().3.len()
    }

    /// Never: a message has at least 8 octets.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the message with its checksum to the start of `buf` and gives its length. `pseudo`
    /// is the sum of its pseudo header.
    ///
    /// # Errors
    /// If `buf` is too short.
    pub fn emit(&self, buf: &mut [u8], pseudo: Sum) -> Result<usize, BufferTooShort> {
        let (kind, code, rest, data) = self.parts();
        icmpv4::emit(buf, pseudo, kind, code, rest, data)
    }

    const fn parts(&self) -> (u8, u8, [u8; 4], &'a [u8]) {
        match *self {
            Repr::EchoRequest { id, seq, data } => (ECHO_REQUEST, 0, echo(id, seq), data),
            Repr::EchoReply { id, seq, data } => (ECHO_REPLY, 0, echo(id, seq), data),
            Repr::Unreachable { code, quoted } => (UNREACHABLE, code, [0; 4], quoted),
            Repr::TooBig { mtu, quoted } => (TOO_BIG, 0, mtu.to_be_bytes(), quoted),
            Repr::TimeExceeded { code, quoted } => (TIME_EXCEEDED, code, [0; 4], quoted),
            Repr::ParameterProblem {
                code,
                pointer,
                quoted,
            } => (PARAMETER_PROBLEM, code, pointer.to_be_bytes(), quoted),
            Repr::Other {
                kind,
                code,
                rest,
                data,
            } => (kind, code, rest, data),
        }
    }
}
