//! Ethernet II and IEEE 802.1Q.

use std::fmt;
use std::str::FromStr;

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
