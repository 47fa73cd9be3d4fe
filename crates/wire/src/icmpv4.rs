//! ICMP (RFC 792): echo and errors.

use crate::Malformed;
use crate::checksum::Sum;
use crate::octets::{BufferTooShort, Writer, array_mut, room};

/// Octets before the data of every message.
pub const HEADER_LEN: usize = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of a destination unreachable message.
pub const UNREACHABLE: u8 = 3;
/// Type of a source quench (deprecated by RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type of a redirect.
pub const REDIRECT: u8 = 5;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of a time exceeded message.
pub const TIME_EXCEEDED: u8 = 11;
/// Type of a parameter problem message.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of "fragmentation needed and DF set", a destination unreachable message.
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// Whether the type reports an error about the packet that it quotes (RFC 1122, 3.2.2).
pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// Whether the type is a question or its answer, which an ICMP error may answer: echo, router
/// discovery, timestamp, information and mask messages. Unknown types are taken for errors.
pub const fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
}

/// Whether the type has an identifier: echo, timestamp, information and mask messages.
pub const fn has_id(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 13..=18)
}

/// A message of at least 8 octets.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub(crate) header: &'a [u8; HEADER_LEN],
    data: &'a [u8],
}

impl<'a> Message<'a> {
    /// Looks at a message. The checksum is not verified.
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`].
    pub fn new(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, data) = message
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::IcmpTruncated)?;
        Ok(Message { header, data })
    }

    /// Type.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Code.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The four octets whose meaning depends on the type.
    pub fn rest(&self) -> [u8; 4] {
        let [_, _, _, _, rest @ ..] = *self.header;
        rest
    }

    /// Whether the checksum is right, as ICMP (not ICMPv6) computes it.
    pub fn checksum_is_right(&self) -> bool {
        Sum::of(self.header).add(self.data).is_intact()
    }

    /// What follows the first 8 octets: echoed data, or the quoted packet.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
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
        /// Why (RFC 1812, 5.2.7.1).
        code: u8,
        /// MTU of the next hop (RFC 1191) with [`CODE_FRAGMENTATION_NEEDED`], else 0.
        mtu: u16,
        /// The packet that could not be delivered, cut.
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
        pointer: u8,
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
        let [a, b, c, d] = message.rest();
        let (id, seq) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ok(match kind {
            ECHO_REQUEST if code == 0 => Repr::EchoRequest { id, seq, data },
            ECHO_REPLY if code == 0 => Repr::EchoReply { id, seq, data },
            UNREACHABLE => Repr::Unreachable {
                code,
                mtu: match code {
                    CODE_FRAGMENTATION_NEEDED => seq,
                    _ => 0,
                },
                quoted: data,
            },
            TIME_EXCEEDED => Repr::TimeExceeded { code, quoted: data },
            PARAMETER_PROBLEM => Repr::ParameterProblem {
                code,
                pointer: a,
                quoted: data,
            },
            _ => Repr::Other {
                kind,
                code,
                rest: message.rest(),
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

    /// Writes the message with its checksum to the start of `buf` and gives its length.
    ///
    /// # Errors
    /// If `buf` is too short.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize, BufferTooShort> {
        let (kind, code, rest, data) = self.parts();
        emit(buf, Sum::default(), kind, code, rest, data)
    }

    const fn parts(&self) -> (u8, u8, [u8; 4], &'a [u8]) {
        match *self {
            Repr::EchoRequest { id, seq, data } => (ECHO_REQUEST, 0, echo(id, seq), data),
            Repr::EchoReply { id, seq, data } => (ECHO_REPLY, 0, echo(id, seq), data),
            Repr::Unreachable { code, mtu, quoted } => (UNREACHABLE, code, echo(0, mtu), quoted),
            Repr::TimeExceeded { code, quoted } => (TIME_EXCEEDED, code, [0; 4], quoted),
            Repr::ParameterProblem {
                code,
                pointer,
                quoted,
            } => (PARAMETER_PROBLEM, code, [pointer, 0, 0, 0], quoted),
            Repr::Other {
                kind,
                code,
                rest,
                data,
            } => (kind, code, rest, data),
        }
    }
}

/// Two 16-bit fields as four octets.
pub(crate) const fn echo(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
    [a, b, c, d]
}

/// Writes a message of either family; `pseudo` is the sum of its pseudo header, if it has one.
pub(crate) fn emit(
    buf: &mut [u8],
    pseudo: Sum,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    data: &[u8],
) -> Result<usize, BufferTooShort> {
    let message = room(buf, HEADER_LEN + data.len())?;
    Writer::new(message)
        .put(&[kind, code, 0, 0])
        .put(&rest)
        .put(data);
    let checksum = pseudo.add(message).checksum();
    let len = message.len();
    if let Some(field) = array_mut::<2>(message, 2) {
        *field = checksum.to_be_bytes();
    }
    Ok(len)
}
