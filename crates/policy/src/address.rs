//! Sets of addresses, as rules name their sources and destinations.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The first v4-mapped address, `::ffff:0.0.0.0` (RFC 4291, section 2.5.5.2).
const V4_FIRST: u128 = 0xffff_0000_0000;
/// The last one, `::ffff:255.255.255.255`.
const V4_LAST: u128 = V4_FIRST + u32::MAX as u128;

/// A text that does not say which addresses a rule means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither an address nor a network.
    #[error(
        "\"{0}\" is no address; write a network such as \"10.0.0.0/8\" or \"fd00:1::/64\", \
         \"!\" and a network to leave it out, or \"any\""
    )]
    Syntax(String),
    /// Bits set behind the prefix: it is unclear whether the network or the host is meant.
    #[error("\"{given}\" has bits behind its prefix; write \"{network}\" or \"{host}\"")]
    HostBits {
        /// As written.
        given: String,
        /// The network that it lies in.
        network: IpNet,
        /// The host alone.
        host: IpNet,
    },
    /// An IPv4 network in IPv6 notation.
    #[error("\"{0}\" is IPv4 in the notation of IPv6; write it as IPv4")]
    V4Mapped(String),
}

/// A set of addresses: those of the networks in `include`, or every one when that is empty, less
/// those of the networks in `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressSet {
    include: Vec<IpNet>,
    exclude: Vec<IpNet>,
}

impl AddressSet {
    /// Every address.
    pub const ANY: Self = Self {
        include: Vec::new(),
        exclude: Vec::new(),
    };

    /// Reads terms of the form `10.0.0.0/8`, `10.1.2.3`, `!10.1.2.3`, `any`. No terms at all mean
    /// every address.
    ///
    /// # Errors
    /// At the first term that is no such form; use [`AddressSet::add`] to know which.
    pub fn parse<'a>(terms: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidAddress> {
        let mut set = Self::default();
        let mut any = false;
        for term in terms {
            any |= set.add(term)?;
        }
        if any {
            set.include.clear();
        }
        Ok(set)
    }

    /// Adds one term; returns whether it was `any`, which makes all other inclusions moot.
    ///
    /// # Errors
    /// When the term is of none of the forms that [`AddressSet::parse`] reads.
    pub fn add(&mut self, term: &str) -> Result<bool, InvalidAddress> {
        if term == "any" {
            return Ok(true);
        }
        match term.strip_prefix('!') {
            Some(rest) => self.exclude.push(network(rest)?),
            None => self.include.push(network(term)?),
        }
        Ok(false)
    }

    /// Whether every address is in the set.
    pub fn is_any(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// The networks that are in the set; none means every address.
    pub fn include(&self) -> &[IpNet] {
        &self.include
    }

    /// The networks that are not, although `include` names them.
    pub fn exclude(&self) -> &[IpNet] {
        &self.exclude
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: [u8; 16]) -> bool {
        let address = u128::from_be_bytes(address);
        let within = |nets: &[IpNet]| {
            nets.iter()
                .flat_map(ranges)
                .any(|(first, last)| (first..=last).contains(&address))
        };
        (self.include.is_empty() || within(&self.include)) && !within(&self.exclude)
    }

    /// Whether it is certain that every address of `other` is in this set. May say no where a
    /// closer look would say yes, never the other way round.
    pub fn covers(&self, other: &Self) -> bool {
        let inside = |net: &IpNet, nets: &[IpNet]| nets.iter().any(|outer| outer.contains(net));
        let included = self.include.is_empty()
            || !other.include.is_empty()
                && other.include.iter().all(|net| inside(net, &self.include));
        // What this set leaves out must be left out there too, or must not be reached at all.
        let reached = |left_out: &IpNet| {
            !inside(left_out, &other.exclude)
                && (other.include.is_empty()
                    || other
                        .include
                        .iter()
                        .any(|net| net.contains(left_out) || left_out.contains(net)))
        };
        included && !self.exclude.iter().any(reached)
    }
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.include.is_empty() {
            f.write_str("any")?;
        }
        let included = self.include.iter().map(|net| (net, ""));
        let excluded = self.exclude.iter().map(|net| (net, "!"));
        for (n, (net, sign)) in included.chain(excluded).enumerate() {
            let separator = if n == 0 && !self.include.is_empty() {
                ""
            } else {
                ", "
            };
            write!(f, "{separator}{sign}{net}")?;
        }
        Ok(())
    }
}

/// The ranges of v4-mapped and IPv6 addresses that a network is, ends included: one, or two where
/// an IPv6 network would run over the v4-mapped ones.
pub(crate) fn ranges(net: &IpNet) -> impl Iterator<Item = (u128, u128)> + use<> {
    let (first, second) = match net {
        IpNet::V4(net) => {
            let first = V4_FIRST + u128::from(net.network().to_bits());
            let last = V4_FIRST + u128::from(net.broadcast().to_bits());
            (Some((first, last)), None)
        }
        IpNet::V6(net) => {
            let first = net.network().to_bits();
            let last = net.broadcast().to_bits();
            let before = (first < V4_FIRST).then(|| (first, last.min(V4_FIRST - 1)));
            let behind = (last > V4_LAST).then(|| (first.max(V4_LAST + 1), last));
            (before, behind)
        }
    };
    first.into_iter().chain(second)
}

fn network(text: &str) -> Result<IpNet, InvalidAddress> {
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(address)) => IpNet::from(address),
        _ => return Err(InvalidAddress::Syntax(text.to_owned())),
    };
    if net.trunc() != net {
        return Err(InvalidAddress::HostBits {
            given: text.to_owned(),
            network: net.trunc(),
            host: IpNet::from(net.addr()),
        });
    }
    if let IpNet::V6(net) = net
        && net.prefix_len() >= 96
        && Ipv6Addr::to_ipv4_mapped(&net.addr()).is_some()
    {
        return Err(InvalidAddress::V4Mapped(text.to_owned()));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::v4_mapped;

    fn set(terms: &[&str]) -> AddressSet {
        AddressSet::parse(terms.iter().copied()).unwrap()
    }

    fn v6(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn membership_follows_the_terms() {
        let ten = v4_mapped([10, 1, 2, 3]);
        let table: [(&[&str], [u8; 16], bool); 14] = [
            (&[], ten, true),
            (&["any"], v6("fd00::1"), true),
            (&["10.0.0.0/8"], ten, true),
            (&["10.0.0.0/8"], v4_mapped([11, 0, 0, 0]), false),
            (&["10.0.0.0/8"], v4_mapped([10, 255, 255, 255]), true),
            (&["10.0.0.0/8", "!10.1.2.3"], ten, false),
            (&["!10.1.2.3"], ten, false),
            (&["!10.1.2.3"], v4_mapped([10, 1, 2, 4]), true),
            (&["any", "10.0.0.0/8"], v4_mapped([11, 0, 0, 0]), true),
            (&["0.0.0.0/0"], ten, true),
            (&["0.0.0.0/0"], v6("fd00::1"), false),
            (&["::/0"], ten, false),
            (&["::/0"], v6("fd00::1"), true),
            (&["::/0"], v6("::1"), true),
        ];
        for (terms, address, expected) in table {
            assert_eq!(
                set(terms).contains(address),
                expected,
                "{terms:?} {address:?}"
            );
        }
    }

    #[test]
    fn what_is_unclear_is_refused_with_a_remedy() {
        let message = |term: &str| AddressSet::parse([term]).unwrap_err().to_string();
        assert_eq!(
            message("10.1.0.1/8"),
            "\"10.1.0.1/8\" has bits behind its prefix; write \"10.0.0.0/8\" or \"10.1.0.1/32\""
        );
        assert_eq!(
            message("::ffff:10.0.0.0/104"),
            "\"::ffff:10.0.0.0/104\" is IPv4 in the notation of IPv6; write it as IPv4"
        );
        assert_eq!(
            message("inside"),
            "\"inside\" is no address; write a network such as \"10.0.0.0/8\" or \"fd00:1::/64\", \
             \"!\" and a network to leave it out, or \"any\""
        );
        assert!(AddressSet::parse(["! 10.0.0.0/8"]).is_err());
    }

    #[test]
    fn covering_is_never_claimed_wrongly() {
        let table: [(&[&str], &[&str], bool); 9] = [
            (&[], &["10.0.0.0/8"], true),
            (&["10.0.0.0/8"], &[], false),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.0/16"], true),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "11.0.0.0/16"], false),
            (&["10.0.0.0/8", "!10.1.0.0/16"], &["10.2.0.0/16"], true),
            (&["10.0.0.0/8", "!10.1.0.0/16"], &["10.1.2.0/24"], false),
            (&["!10.1.0.0/16"], &["!10.1.0.0/16"], true),
            (&["!10.1.0.0/16"], &["!10.0.0.0/8"], true),
            (&["!10.1.0.0/16"], &["!10.1.2.0/24"], false),
        ];
        for (outer, inner, expected) in table {
            assert_eq!(
                set(outer).covers(&set(inner)),
                expected,
                "{outer:?} {inner:?}"
            );
        }
    }

    #[test]
    fn display_reads_like_the_terms() {
        assert_eq!(set(&[]).to_string(), "any");
        assert_eq!(set(&["!10.1.2.3"]).to_string(), "any, !10.1.2.3/32");
        assert_eq!(
            set(&["10.0.0.0/8", "fd00::/8", "!10.1.0.0/16"]).to_string(),
            "10.0.0.0/8, fd00::/8, !10.1.0.0/16"
        );
    }
}
