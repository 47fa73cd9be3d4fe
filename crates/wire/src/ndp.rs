//! Neighbour discovery (RFC 4861): solicitations and advertisements of neighbours. Those of
//! routers are not for a gateway with configured routes.

use std::net::Ipv6Addr;

use crate::checksum::Sum;
use crate::icmpv6::{NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION};
use crate::octets::{BufferTooShort, Writer, array, array_mut, room};
use crate::parse::verify_l4;
use crate::parsed::{Fragment, Net, Parsed};
use crate::{Mac, Malformed, ip};

/// Octets of a message without options.
pub const LEN_MIN: usize = 24;
/// The hop limit with which these messages are sent, and which proves that no router forwarded
/// them.
pub const HOP_LIMIT: u8 = 255;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

/// A message of at least 24 octets.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: &'a [u8; LEN_MIN],
    options: &'a [u8],
}

impl<'a> Message<'a> {
    /// Looks at a message; type, code and options are not verified.
    ///
    /// # Errors
    /// [`Malformed::NdpFormat`] if it is too short.
    pub fn new(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, options) = message
            .split_first_chunk::<LEN_MIN>()
            .ok_or(Malformed::NdpFormat)?;
        Ok(Message { header, options })
    }

    /// The ICMPv6 type.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The ICMPv6 code, which must be 0.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The flags of an advertisement.
    pub fn flags(&self) -> u8 {
        self.header[4]
    }

    /// The address that the message is about.
    pub fn target(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(
            *array(self.header, 8).unwrap_or(&[0; 16]),
        ))
    }

    /// The Ethernet address in the option of this kind, if there is one.
    ///
    /// # Errors
    /// [`Malformed::NdpFormat`] if an option has length 0 or overruns the message.
    fn link_layer(&self, kind: u8) -> Result<Option<Mac>, Malformed> {
        let mut rest = self.options;
        let mut found = None;
        // Every turn takes at least 8 octets.
        while let [this, len, ..] = rest {
            let len = usize::from(*len) * 8;
            if len == 0 {
                return Err(Malformed::NdpFormat);
            }
            let (option, next) = rest.split_at_checked(len).ok_or(Malformed::NdpFormat)?;
            if let (true, [_, _, a, b, c, d, e, f]) = (*this == kind, option) {
                found = Some(Mac([*a, *b, *c, *d, *e, *f]));
            }
            rest = next;
        }
        match rest {
            [] => Ok(found),
            _ => Err(Malformed::NdpFormat),
        }
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repr {
    /// Who has the target?
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Source link-layer address option: where the asker can be reached.
        source_mac: Option<Mac>,
    },
    /// The sender has the target.
    Advertisement {
        /// The address that the sender has.
        target: Ipv6Addr,
        /// The sender is a router.
        router: bool,
        /// This answers a solicitation.
        solicited: bool,
        /// What is known of the target is to be replaced.
        overrides: bool,
        /// Target link-layer address option: what neighbours are to learn.
        target_mac: Option<Mac>,
    },
}

impl Repr {
    /// Reads an ICMPv6 message, `None` if it is of another type. The rules about the packet
    /// around it are checked by [`Repr::from_frame`].
    ///
    /// # Errors
    /// [`Malformed::NdpFormat`].
    pub fn parse(message: &[u8]) -> Result<Option<Repr>, Malformed> {
        let kind = message.first().copied();
        let (Some(NEIGHBOR_SOLICITATION) | Some(NEIGHBOR_ADVERTISEMENT)) = kind else {
            return Ok(None);
        };
        let message = Message::new(message)?;
        let target = message.target();
        if message.code() != 0 || target.is_multicast() {
            return Err(Malformed::NdpFormat);
        }
        Ok(Some(if message.kind() == NEIGHBOR_SOLICITATION {
            Repr::Solicitation {
                target,
                source_mac: message.link_layer(OPTION_SOURCE)?,
            }
        } else {
            Repr::Advertisement {
                target,
                router: message.flags() & ROUTER != 0,
                solicited: message.flags() & SOLICITED != 0,
                overrides: message.flags() & OVERRIDE != 0,
                target_mac: message.link_layer(OPTION_TARGET)?,
            }
        }))
    }

    /// Reads the message of a frame and applies all rules of RFC 4861, 7.1: hop limit 255, the
    /// checksum, and what a solicitation from the unspecified address must look like. `None` if
    /// the packet is something else.
    ///
    /// # Errors
    /// [`Malformed::NdpFormat`].
    pub fn from_frame(frame: &[u8], p: &Parsed) -> Result<Option<Repr>, Malformed> {
        if p.net != Net::V6 || p.proto != ip::ICMPV6 || p.fragment != Fragment::None {
            return Ok(None);
        }
        let message = frame
            .get(usize::from(p.l4)..usize::from(p.end))
            .ok_or(Malformed::NdpFormat)?;
        let Some(repr) = Repr::parse(message)? else {
            return Ok(None);
        };
        let multicast = p.dst[0] == 0xff;
        let allowed = match repr {
            // RFC 4861, 7.1.1: asked during duplicate address detection.
            Repr::Solicitation { source_mac, target } if p.src == [0; 16] => {
                let group = crate::ipv6::solicited_node(target);
                source_mac.is_none() && p.dst == group.octets()
            }
            Repr::Solicitation { .. } => true,
            Repr::Advertisement { solicited, .. } => !(multicast && solicited),
        };
        match allowed && p.ttl == HOP_LIMIT && verify_l4(frame, p) {
            true => Ok(Some(repr)),
            false => Err(Malformed::NdpFormat),
        }
    }

    /// Octets that [`Repr::emit`] writes.
    pub const fn len(&self) -> usize {
        match self {
            Repr::Solicitation {
                source_mac: None, ..
            }
            | Repr::Advertisement {
                target_mac: None, ..
            } => LEN_MIN,
            _ => LEN_MIN + 8,
        }
    }

    /// Never: a message has at least 24 octets.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the message with its checksum to the start of `buf` and gives its length. `pseudo`
    /// is the sum of its pseudo header.
    ///
    /// # Errors
    /// If `buf` is too short.
    pub fn emit(&self, buf: &mut [u8], pseudo: Sum) -> Result<usize, BufferTooShort> {
        let (kind, flags, target, option, mac) = match *self {
            Repr::Solicitation { target, source_mac } => {
                (NEIGHBOR_SOLICITATION, 0, target, OPTION_SOURCE, source_mac)
            }
            Repr::Advertisement {
                target,
                router,
                solicited,
                overrides,
                target_mac,
            } => {
                let flags = (u8::from(router) * ROUTER)
                    | (u8::from(solicited) * SOLICITED)
                    | (u8::from(overrides) * OVERRIDE);
                (
                    NEIGHBOR_ADVERTISEMENT,
                    flags,
                    target,
                    OPTION_TARGET,
                    target_mac,
                )
            }
        };
        let message = room(buf, self.len())?;
        let mut w = Writer::new(message);
        w.put(&[kind, 0, 0, 0, flags, 0, 0, 0])
            .put(&target.octets());
        if let Some(mac) = mac {
            w.put(&[option, 1]).put(&mac.0);
        }
        let checksum = pseudo.add(message).checksum();
        if let Some(field) = array_mut::<2>(message, 2) {
            *field = checksum.to_be_bytes();
        }
        Ok(self.len())
    }
}
