//! The packet of `ravelin check --explain`, as words:
//! `inside outside tcp 10.1.0.5:1000 10.2.0.9:80`.

use std::net::{IpAddr, SocketAddr};

use policy::{InvalidService, Query, Service, Zones};
use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, v4_mapped};
use telemetry::control::Proto;

/// Text that is no packet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPacket {
    #[error(
        "\"{0}\" is no packet: write FROM-ZONE TO-ZONE PROTOCOL SOURCE DESTINATION, \
         such as \"inside outside tcp 10.1.0.5:1000 10.2.0.9:80\""
    )]
    Words(String),
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

/// Reads a packet, with the zones of the configuration.
pub(crate) fn query(text: &str, zones: &Zones) -> Result<Query, InvalidPacket> {
    let words: Vec<_> = text.split_whitespace().collect();
    let &[from, to, protocol, source, destination] = words.as_slice() else {
        return Err(InvalidPacket::Words(text.into()));
    };
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
        query(text, &Zones::new(["inside", "outside"]).unwrap())
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
