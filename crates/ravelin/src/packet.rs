//! The packet of `ravelin check --explain`, as words:
//! `inside outside tcp 10.1.0.5:1000 10.2.0.9:80 user=alice group=staff,ops`.

use std::net::{IpAddr, SocketAddr};

use policy::{
    GROUPS_MAX, Identity, InvalidName, InvalidService, Query, Service, Zones, check_name,
};
use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, v4_mapped};
use telemetry::control::Proto;

/// Text that is no packet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPacket {
    #[error(
        "\"{0}\" is no packet: write FROM-ZONE TO-ZONE PROTOCOL SOURCE DESTINATION, \
         such as \"inside outside tcp 10.1.0.5:1000 10.2.0.9:80\", and user=NAME group=NAME,... \
         behind it if somebody is logged in at its source"
    )]
    Words(String),
    #[error(
        "\"{0}\" says nothing of a packet: behind its destination write user=NAME, group=NAME,..."
    )]
    Key(String),
    #[error(
        "group={0} without a user: groups are those of the user who is logged in; add user=NAME"
    )]
    GroupAlone(String),
    #[error("user={0} and user={1}: one user is logged in at an address; leave one out")]
    TwoUsers(String, String),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("{0} groups; a user has at most {GROUPS_MAX}")]
    Groups(usize),
    #[error("there is no zone \"{zone}\": the zones are {known}")]
    Zone { zone: String, known: String },
    #[error("\"{0}\" is no protocol: write tcp, udp, icmp, icmp/3/4, icmpv6/echo, gre or a number")]
    Protocol(String),
    #[error(transparent)]
    Icmp(InvalidService),
    #[error("\"{0}\" is no address: write 10.1.0.5, 10.1.0.5:1000, fd00::5 or [fd00::5]:1000")]
    Address(String),
    #[error("\"{0}\" has no port, which a rule may look at: write {0}:80, or [{0}]:80 for IPv6")]
    NoPort(String),
    #[error("\"{0}\" has a port, but the protocol has none: leave it out")]
    Port(String),
    #[error("{0} and {1} are of different IP versions: use one")]
    Families(IpAddr, IpAddr),
}

/// A packet to be explained.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked<'t> {
    pub(crate) query: Query,
    /// Who is logged in at its source.
    pub(crate) user: Option<&'t str>,
}

/// Reads a packet, with the zones of the configuration.
pub(crate) fn asked<'t>(text: &'t str, zones: &Zones) -> Result<Asked<'t>, InvalidPacket> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [from, to, protocol, source, destination, who @ ..] = words.as_slice() else {
        return Err(InvalidPacket::Words(text.into()));
    };
    let mut query = query([from, to, protocol, source, destination], zones)?;
    let user = user(who)?;
    if let Some((name, groups)) = &user {
        query.identity = Identity::new(name, groups.iter().copied());
    }
    let user = user.map(|(name, _)| name);
    Ok(Asked { query, user })
}

/// A user's name and groups.
type User<'t> = (&'t str, Vec<&'t str>);

/// Reads `user=NAME` and `group=NAME,...`, the latter as often as one likes.
fn user<'t>(words: &[&'t str]) -> Result<Option<User<'t>>, InvalidPacket> {
    let mut user: Option<&str> = None;
    let mut groups = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("user", name)) => {
                check_name(name)?;
                if let Some(first) = user.replace(name) {
                    return Err(InvalidPacket::TwoUsers(first.into(), name.into()));
                }
            }
            Some(("group", names)) => {
                for name in names.split(',') {
                    check_name(name)?;
                    groups.push(name);
                }
            }
            _ => return Err(InvalidPacket::Key((*word).into())),
        }
    }
    if groups.len() > GROUPS_MAX {
        return Err(InvalidPacket::Groups(groups.len()));
    }
    match user {
        Some(user) => Ok(Some((user, groups))),
        None if groups.is_empty() => Ok(None),
        None => Err(InvalidPacket::GroupAlone(groups.join(","))),
    }
}

fn query(words: [&str; 5], zones: &Zones) -> Result<Query, InvalidPacket> {
    let [from, to, protocol, source, destination] = words;
    let zone = |name: &str| {
        zones.id(name).ok_or_else(|| InvalidPacket::Zone {
            zone: name.into(),
            known: zones.names().collect::<Vec<_>>().join(", "),
        })
    };
    let (zone_from, zone_to) = (zone(from)?, zone(to)?);
    let (proto, icmp_type, icmp_code) = read_protocol(protocol)?;
    let (src, sport) = endpoint(source)?;
    let (dst, dport) = endpoint(destination)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(InvalidPacket::Families(src, dst));
    }
    if matches!(proto, PROTO_TCP | PROTO_UDP) {
        if dport.is_none() {
            return Err(InvalidPacket::NoPort(destination.into()));
        }
    } else if let Some((text, _)) = [(source, sport), (destination, dport)]
        .into_iter()
        .find(|(_, port)| port.is_some())
    {
        return Err(InvalidPacket::Port(text.into()));
    }
    Ok(Query {
        zone_from,
        zone_to,
        src: bytes(src),
        dst: bytes(dst),
        sport: sport.unwrap_or(0),
        dport: dport.unwrap_or(0),
        proto,
        icmp_type,
        icmp_code,
        identity: Identity::NONE,
    })
}

/// Protocol, and ICMP's type and code. Without a type ICMP is an echo request, with a type but
/// no code the code is 0.
fn read_protocol(text: &str) -> Result<(u8, u8, u8), InvalidPacket> {
    if text.starts_with("icmp/") || text.starts_with("icmpv6/") {
        return match text.parse().map_err(InvalidPacket::Icmp)? {
            Service::Icmp(kind, code) => Ok((PROTO_ICMP, kind, code.unwrap_or(0))),
            Service::Icmpv6(kind, code) => Ok((PROTO_ICMPV6, kind, code.unwrap_or(0))),
            // `icmp/*`: a packet has one type.
            _ => Err(InvalidPacket::Protocol(text.into())),
        };
    }
    let Ok(Proto(proto)) = text.parse::<Proto>() else {
        return Err(InvalidPacket::Protocol(text.into()));
    };
    let echo = match proto {
        PROTO_ICMP => 8,
        PROTO_ICMPV6 => 128,
        _ => 0,
    };
    Ok((proto, echo, 0))
}

fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), InvalidPacket> {
    let with_port = text.parse::<SocketAddr>();
    let parsed = with_port.map(|s| (s.ip(), Some(s.port())));
    let (address, port) = parsed
        .or_else(|_| text.parse().map(|address: IpAddr| (address, None)))
        .map_err(|_| InvalidPacket::Address(text.into()))?;
    Ok((address.to_canonical(), port))
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Query, InvalidPacket> {
        Ok(asked(text, &Zones::new(["inside", "outside"]).unwrap())?.query)
    }

    #[test]
    fn packets_are_read() {
        let tcp = Query {
            zone_from: 0,
            zone_to: 1,
            src: v4_mapped([10, 1, 0, 5]),
            dst: v4_mapped([10, 2, 0, 9]),
            sport: 1000,
            dport: 80,
            proto: 6,
            icmp_type: 0,
            icmp_code: 0,
            identity: Identity::NONE,
        };
        assert_eq!(
            read("inside outside tcp 10.1.0.5:1000 10.2.0.9:80"),
            Ok(tcp)
        );
        let from_any_port = Query { sport: 0, ..tcp };
        assert_eq!(
            read("inside outside 6 10.1.0.5 10.2.0.9:80"),
            Ok(from_any_port)
        );
        let icmp = |proto, icmp_type, icmp_code| Query {
            sport: 0,
            dport: 0,
            proto,
            icmp_type,
            icmp_code,
            ..tcp
        };
        for (word, expected) in [
            ("icmp", icmp(1, 8, 0)),
            ("icmp/echo", icmp(1, 8, 0)),
            ("icmp/3/4", icmp(1, 3, 4)),
            ("gre", icmp(47, 0, 0)),
        ] {
            let text = format!("inside outside {word} 10.1.0.5 10.2.0.9");
            assert_eq!(read(&text), Ok(expected), "{word}");
        }
        let six = read("outside inside icmpv6 fd00::1 fd00::2").unwrap();
        assert_eq!((six.zone_from, six.proto, six.icmp_type), (1, 58, 128));
        assert_eq!((six.src[0], six.src[15]), (0xfd, 1));
    }

    #[test]
    fn who_sends_it_is_read() {
        let packet = "inside outside tcp 10.1.0.5:1000 10.2.0.9:80";
        for (words, user, identity) in [
            ("", None, Identity::NONE),
            (" user=alice", Some("alice"), Identity::new("alice", [])),
            (
                " group=staff,ops user=alice group=night",
                Some("alice"),
                Identity::new("alice", ["staff", "ops", "night"]),
            ),
        ] {
            let text = format!("{packet}{words}");
            let asked = asked(&text, &Zones::new(["inside", "outside"]).unwrap()).unwrap();
            assert_eq!(
                (asked.user, asked.query.identity),
                (user, identity),
                "{words}"
            );
        }
        for (words, says) in [
            ("alice", "\"alice\" says nothing of a packet"),
            ("user=alice user=bob", "user=alice and user=bob"),
            ("group=a,b", "group=a,b without a user"),
            ("user=", "\"\" is no name of a user"),
            ("user=a group=a,,b", "\"\" is no name"),
            (
                "user=u group=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                "17 groups",
            ),
        ] {
            let error = read(&format!("{packet} {words}")).unwrap_err().to_string();
            assert!(error.contains(says), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_no_packet_is_explained() {
        for (text, says) in [
            (
                "tcp 10.1.0.5:1 10.2.0.9:80",
                "is no packet: write FROM-ZONE",
            ),
            (
                "dmz outside tcp 10.1.0.5:1 10.2.0.9:80",
                "there is no zone \"dmz\": the zones are inside, outside",
            ),
            (
                "inside outside http 10.1.0.5 10.2.0.9",
                "\"http\" is no protocol",
            ),
            ("inside outside icmp/x 10.1.0.5 10.2.0.9", "icmp/x"),
            (
                "inside outside icmp/* 10.1.0.5 10.2.0.9",
                "\"icmp/*\" is no protocol",
            ),
            (
                "inside outside tcp 10.1.0 10.2.0.9:80",
                "\"10.1.0\" is no address",
            ),
            (
                "inside outside tcp 10.1.0.5 10.2.0.9",
                "\"10.2.0.9\" has no port",
            ),
            (
                "inside outside icmp 10.1.0.5 10.2.0.9:80",
                "\"10.2.0.9:80\" has a port",
            ),
            (
                "inside outside udp 10.1.0.5 [fd00::9]:53",
                "10.1.0.5 and fd00::9 are of different",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
