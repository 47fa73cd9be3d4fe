//! Ethernet II and IEEE 802.1Q.

use std::fmt;
use std::str::FromStr;

use crate::Malformed;
use crate::octets::{BufferTooShort, Writer, room};

/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q customer tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad provider tag.
pub const TYPE_PROVIDER_VLAN: u16 = 0x88a8;
/// EtherType that was used for stacked tags before IEEE 802.1ad.
pub const TYPE_STACKED_VLAN: u16 = 0x9100;
/// Octets of the header without a tag.
pub const HEADER_LEN: usize = 14;
/// Octets that a tag adds.
pub const TAG_LEN: usize = 4;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether this is a group address; broadcast is one.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this addresses everybody.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is not an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacSyntax {
    /// Too few or too many groups.
    #[error(
        "an Ethernet address has 6 groups separated by colons, as in 02:00:00:00:00:01; this has {0}"
    )]
    Groups(usize),
    /// A group that is not two hexadecimal digits.
    #[error("group {0} of the Ethernet address is not two hexadecimal digits")]
    Group(usize),
}

impl FromStr for Mac {
    type Err = MacSyntax;

    /// Reads six groups of two hexadecimal digits, separated by colons.
    fn from_str(text: &str) -> Result<Self, MacSyntax> {
        let groups = text.split(':').count();
        if groups != 6 {
            return Err(MacSyntax::Groups(groups));
        }
        let mut mac = [0; 6];
        for (index, (octet, group)) in mac.iter_mut().zip(text.split(':')).enumerate() {
            let digits = group.len() == 2 && group.bytes().all(|b| b.is_ascii_hexdigit());
            *octet = u8::from_str_radix(group, 16)
                .ok()
                .filter(|_| digits)
                .ok_or(MacSyntax::Group(index + 1))?;
        }
        Ok(Mac(mac))
    }
}

/// The 12 bits of a tag that are the VLAN identifier.
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// Whether the EtherType announces a tag of any kind.
#[inline(always)]
pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(
        ethertype,
        TYPE_VLAN | TYPE_PROVIDER_VLAN | TYPE_STACKED_VLAN
    )
}

/// A frame whose header, with its tag if it has one, is there.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    tag: Option<&'a [u8; TAG_LEN]>,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Looks at a frame without its check sequence.
    ///
    /// # Errors
    /// [`Malformed::FrameTruncated`]; [`Malformed::VlanStack`] for more than one tag.
    pub fn new(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Malformed::FrameTruncated)?;
        let outer = u16::from_be_bytes([header[12], header[13]]);
        if !is_tag(outer) {
            return Ok(Frame {
                header,
                tag: None,
                payload,
            });
        }
        let (tag, payload) = payload
            .split_first_chunk::<TAG_LEN>()
            .ok_or(Malformed::FrameTruncated)?;
        if outer != TYPE_VLAN || is_tag(u16::from_be_bytes([tag[2], tag[3]])) {
            return Err(Malformed::VlanStack);
        }
        Ok(Frame {
            header,
            tag: Some(tag),
            payload,
        })
    }

    /// Destination.
    pub fn dst(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = *self.header;
        Mac([a, b, c, d, e, f])
    }

    /// Source.
    pub fn src(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, _, _] = *self.header;
        Mac([a, b, c, d, e, f])
    }

    /// Priority (3 bits), drop eligibility (1) and VLAN identifier (12) of the tag.
    pub fn tag(&self) -> Option<u16> {
        self.tag.map(|tag| u16::from_be_bytes([tag[0], tag[1]]))
    }

    /// EtherType of the payload.
    pub fn ethertype(&self) -> u16 {
        match self.tag {
            Some(tag) => u16::from_be_bytes([tag[2], tag[3]]),
            None => u16::from_be_bytes([self.header[12], self.header[13]]),
        }
    }

    /// What follows the header, padding included.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tag control information of an 802.1Q tag, usually just the VLAN identifier.
    pub tag: Option<u16>,
    /// EtherType of the payload.
    pub ethertype: u16,
}

impl Repr {
    /// Reads a header.
    ///
    /// # Errors
    /// As [`Frame::new`].
    pub fn parse(frame: &[u8]) -> Result<Repr, Malformed> {
        let frame = Frame::new(frame)?;
        Ok(Repr {
            dst: frame.dst(),
            src: frame.src(),
            tag: frame.tag(),
            ethertype: frame.ethertype(),
        })
    }

    /// Octets that [`Repr::emit`] writes.
    pub const fn header_len(&self) -> usize {
        match self.tag {
            Some(_) => HEADER_LEN + TAG_LEN,
            None => HEADER_LEN,
        }
    }

    /// Writes the header to the start of `frame` and gives its length.
    ///
    /// # Errors
    /// If `frame` is shorter than the header.
    pub fn emit(&self, frame: &mut [u8]) -> Result<usize, BufferTooShort> {
        let mut w = Writer::new(room(frame, self.header_len())?);
        w.put(&self.dst.0).put(&self.src.0);
        if let Some(tag) = self.tag {
            w.u16(TYPE_VLAN).u16(tag);
        }
        w.u16(self.ethertype);
        Ok(self.header_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_text() {
        let mac: Mac = "02:00:5e:A0:ff:01".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0xa0, 0xff, 1]));
        assert_eq!(mac.to_string(), "02:00:5e:a0:ff:01");
        assert_eq!("02:00:5e:a0:ff".parse::<Mac>(), Err(MacSyntax::Groups(5)));
        assert_eq!("02:00:5e:+0:ff:01".parse::<Mac>(), Err(MacSyntax::Group(4)));
        assert_eq!("2:00:5e:00:ff:01".parse::<Mac>(), Err(MacSyntax::Group(1)));
        assert!(Mac::BROADCAST.is_multicast() && Mac::BROADCAST.is_broadcast());
        assert!(!mac.is_multicast());
    }

    #[test]
    fn a_tag_moves_the_ethertype() {
        let repr = Repr {
            dst: Mac([1, 2, 3, 4, 5, 6]),
            src: Mac([2, 3, 4, 5, 6, 7]),
            tag: Some(0x2005),
            ethertype: TYPE_IPV6,
        };
        let mut buf = [0; 20];
        assert_eq!(repr.emit(&mut buf), Ok(18));
        assert_eq!(
            buf[..18],
            [
                1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 7, 0x81, 0, 0x20, 5, 0x86, 0xdd
            ]
        );
        assert_eq!(Repr::parse(&buf), Ok(repr));
        assert_eq!(Repr::parse(&buf[..17]), Err(Malformed::FrameTruncated));
        assert_eq!(
            repr.emit(&mut buf[..17]),
            Err(BufferTooShort {
                needed: 18,
                given: 17
            })
        );
    }
}
