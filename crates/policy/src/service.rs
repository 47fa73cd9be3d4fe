//! Services: what a rule says of the protocol, the destination port, and ICMP's type and code.

use std::fmt;
use std::str::FromStr;

use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

use crate::Query;

/// ICMP types by name: name, type in ICMP (IANA, ICMP parameters), type in ICMPv6 (RFC 4443).
const ICMP_NAMES: [(&str, Option<u8>, Option<u8>); 7] = [
    ("echo", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp", Some(13), None),
];

/// A text that names no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// None of the forms.
    #[error(
        "\"{0}\" is no service; write \"tcp/80\", \"udp/8000-8100\", \"tcp/*\", \"icmp/echo\", \
         \"icmpv6/*\", \"proto/47\" or \"any\""
    )]
    Syntax(String),
    /// Not a port or a range of ports.
    #[error("\"{0}\" names no port; write 1 to 65535, a range such as 8000-8100, or *")]
    Port(String),
    /// A range whose end is before its start.
    #[error("\"{0}\" is a range that ends before it starts; swap its ends")]
    Reversed(String),
    /// Not a type of that version of ICMP.
    #[error(
        "\"{given}\" names no type; write a number, a number and a code as in {proto}/3/4, * or one of {known}"
    )]
    IcmpType {
        /// As written.
        given: String,
        /// `icmp` or `icmpv6`.
        proto: &'static str,
        /// The names that there are.
        known: String,
    },
    /// Not a protocol number.
    #[error("\"{0}\" names no protocol; write a number from 0 to 255")]
    Proto(String),
}

/// What a rule says of a packet above the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Everything.
    Any,
    /// Every packet of a protocol.
    Proto(u8),
    /// TCP to a port within the range, ends included.
    Tcp(u16, u16),
    /// UDP to a port within the range, ends included.
    Udp(u16, u16),
    /// ICMP of a type, and of a code if there is one.
    Icmp(u8, Option<u8>),
    /// ICMPv6 of a type, and of a code if there is one.
    Icmpv6(u8, Option<u8>),
}

/// The greatest service key.
pub(crate) const KEY_LAST: u32 = key(u8::MAX, u16::MAX);

impl Service {
    /// The range of service keys that the service is, ends included.
    pub(crate) fn keys(self) -> (u32, u32) {
        let icmp = |proto, kind, code| match code {
            Some(code) => (
                key(proto, icmp_selector(kind, code)),
                key(proto, icmp_selector(kind, code)),
            ),
            None => (
                key(proto, icmp_selector(kind, 0)),
                key(proto, icmp_selector(kind, u8::MAX)),
            ),
        };
        match self {
            Self::Any => (0, KEY_LAST),
            Self::Proto(proto) => (key(proto, 0), key(proto, u16::MAX)),
            Self::Tcp(first, last) => (key(PROTO_TCP, first), key(PROTO_TCP, last)),
            Self::Udp(first, last) => (key(PROTO_UDP, first), key(PROTO_UDP, last)),
            Self::Icmp(kind, code) => icmp(PROTO_ICMP, kind, code),
            Self::Icmpv6(kind, code) => icmp(PROTO_ICMPV6, kind, code),
        }
    }

    /// Whether the packet is one of the service.
    pub fn contains(self, query: &Query) -> bool {
        let (first, last) = self.keys();
        (first..=last).contains(&service_key(query))
    }

    /// Whether every packet of `other` is one of this service.
    pub fn covers(self, other: Self) -> bool {
        let (first, last) = self.keys();
        let (other_first, other_last) = other.keys();
        first <= other_first && other_last <= last
    }
}

/// Protocol and, below it, what the protocol is told apart by: one number, so that a rule's
/// services are ranges on one line.
#[inline]
pub(crate) const fn service_key(query: &Query) -> u32 {
    let selector = match query.proto {
        PROTO_TCP | PROTO_UDP => query.dport,
        PROTO_ICMP | PROTO_ICMPV6 => icmp_selector(query.icmp_type, query.icmp_code),
        _ => 0,
    };
    key(query.proto, selector)
}

const fn key(proto: u8, selector: u16) -> u32 {
    (proto as u32) << 16 | selector as u32
}

const fn icmp_selector(kind: u8, code: u8) -> u16 {
    (kind as u16) << 8 | code as u16
}

impl FromStr for Service {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        if text == "any" {
            return Ok(Self::Any);
        }
        let syntax = || InvalidService::Syntax(text.to_owned());
        let (proto, rest) = text.split_once('/').ok_or_else(syntax)?;
        match (proto, rest) {
            ("tcp", "*") => Ok(Self::Proto(PROTO_TCP)),
            ("udp", "*") => Ok(Self::Proto(PROTO_UDP)),
            ("icmp", "*") => Ok(Self::Proto(PROTO_ICMP)),
            ("icmpv6", "*") => Ok(Self::Proto(PROTO_ICMPV6)),
            ("tcp", ports) => port_range(text, ports).map(|(first, last)| Self::Tcp(first, last)),
            ("udp", ports) => port_range(text, ports).map(|(first, last)| Self::Udp(first, last)),
            ("icmp", kind) => icmp_type(text, kind, "icmp", |row| row.1)
                .map(|(kind, code)| Self::Icmp(kind, code)),
            ("icmpv6", kind) => icmp_type(text, kind, "icmpv6", |row| row.2)
                .map(|(kind, code)| Self::Icmpv6(kind, code)),
            ("proto", number) => decimal(number)
                .map(Self::Proto)
                .ok_or_else(|| InvalidService::Proto(text.to_owned())),
            _ => Err(syntax()),
        }
    }
}

fn port_range(text: &str, ports: &str) -> Result<(u16, u16), InvalidService> {
    let port = |digits| {
        decimal(digits)
            .filter(|&port| port != 0)
            .ok_or_else(|| InvalidService::Port(text.to_owned()))
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(InvalidService::Reversed(text.to_owned()));
    }
    Ok((first, last))
}

type IcmpRow = (&'static str, Option<u8>, Option<u8>);

fn icmp_type(
    text: &str,
    kind: &str,
    proto: &'static str,
    of_version: impl Fn(&IcmpRow) -> Option<u8>,
) -> Result<(u8, Option<u8>), InvalidService> {
    let named = ICMP_NAMES
        .iter()
        .find(|row| row.0 == kind)
        .and_then(&of_version);
    if let Some(kind) = named {
        return Ok((kind, None));
    }
    let numbers = match kind.split_once('/') {
        Some((kind, code)) => decimal(kind).zip(decimal(code).map(Some)),
        None => decimal(kind).zip(Some(None)),
    };
    numbers.ok_or_else(|| {
        let known: Vec<_> = ICMP_NAMES
            .iter()
            .filter(|row| of_version(row).is_some())
            .map(|row| row.0)
            .collect();
        InvalidService::IcmpType {
            given: text.to_owned(),
            proto,
            known: known.join(", "),
        }
    })
}

/// Digits only: `FromStr` of the integers would take a sign as well.
fn decimal<N: FromStr>(digits: &str) -> Option<N> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let icmp = |f: &mut fmt::Formatter<'_>,
                    proto,
                    kind: u8,
                    code: Option<u8>,
                    named: Option<&IcmpRow>| {
            match (code, named) {
                (None, Some(row)) => write!(f, "{proto}/{}", row.0),
                (None, None) => write!(f, "{proto}/{kind}"),
                (Some(code), _) => write!(f, "{proto}/{kind}/{code}"),
            }
        };
        match *self {
            Self::Any => f.write_str("any"),
            Self::Proto(PROTO_TCP) => f.write_str("tcp/*"),
            Self::Proto(PROTO_UDP) => f.write_str("udp/*"),
            Self::Proto(PROTO_ICMP) => f.write_str("icmp/*"),
            Self::Proto(PROTO_ICMPV6) => f.write_str("icmpv6/*"),
            Self::Proto(proto) => write!(f, "proto/{proto}"),
            Self::Tcp(first, last) if first == last => write!(f, "tcp/{first}"),
            Self::Tcp(first, last) => write!(f, "tcp/{first}-{last}"),
            Self::Udp(first, last) if first == last => write!(f, "udp/{first}"),
            Self::Udp(first, last) => write!(f, "udp/{first}-{last}"),
            Self::Icmp(kind, code) => icmp(
                f,
                "icmp",
                kind,
                code,
                ICMP_NAMES.iter().find(|row| row.1 == Some(kind)),
            ),
            Self::Icmpv6(kind, code) => icmp(
                f,
                "icmpv6",
                kind,
                code,
                ICMP_NAMES.iter().find(|row| row.2 == Some(kind)),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_writes_itself() {
        let table = [
            ("any", Service::Any),
            ("tcp/80", Service::Tcp(80, 80)),
            ("tcp/8000-8100", Service::Tcp(8000, 8100)),
            ("udp/53", Service::Udp(53, 53)),
            ("udp/1-65535", Service::Udp(1, 65535)),
            ("tcp/*", Service::Proto(6)),
            ("udp/*", Service::Proto(17)),
            ("icmp/*", Service::Proto(1)),
            ("icmpv6/*", Service::Proto(58)),
            ("icmp/echo", Service::Icmp(8, None)),
            ("icmpv6/echo", Service::Icmpv6(128, None)),
            ("icmp/30", Service::Icmp(30, None)),
            ("icmp/3/4", Service::Icmp(3, Some(4))),
            ("icmpv6/packet-too-big", Service::Icmpv6(2, None)),
            ("proto/47", Service::Proto(47)),
        ];
        for (text, service) in table {
            assert_eq!(text.parse(), Ok(service), "{text}");
            assert_eq!(service.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_service_says_what_would_be() {
        let message = |text: &str| text.parse::<Service>().unwrap_err().to_string();
        assert_eq!(
            message("http"),
            "\"http\" is no service; write \"tcp/80\", \"udp/8000-8100\", \"tcp/*\", \"icmp/echo\", \
             \"icmpv6/*\", \"proto/47\" or \"any\""
        );
        for text in ["tcp/0", "tcp/65536", "tcp/+80", "tcp/", "udp/1-", "udp/-2"] {
            assert_eq!(
                message(text),
                format!(
                    "\"{text}\" names no port; write 1 to 65535, a range such as 8000-8100, or *"
                )
            );
        }
        assert_eq!(
            message("tcp/90-80"),
            "\"tcp/90-80\" is a range that ends before it starts; swap its ends"
        );
        assert_eq!(
            message("icmp/packet-too-big"),
            "\"icmp/packet-too-big\" names no type; write a number, a number and a code as in \
             icmp/3/4, * or one of echo, echo-reply, unreachable, time-exceeded, parameter-problem, \
             timestamp"
        );
        assert_eq!(
            message("proto/256"),
            "\"proto/256\" names no protocol; write a number from 0 to 255"
        );
    }

    #[test]
    fn ports_do_not_leak_into_other_protocols() {
        let query = Query {
            proto: 6,
            dport: 80,
            ..Query::default()
        };
        assert!(Service::Tcp(80, 80).contains(&query) && !Service::Udp(80, 80).contains(&query));
        let fragment = Query {
            proto: 47,
            dport: 80,
            ..Query::default()
        };
        assert!(
            Service::Proto(47).contains(&fragment) && !Service::Tcp(1, 65535).contains(&fragment)
        );
        let ping = Query {
            proto: 1,
            icmp_type: 8,
            dport: 77,
            ..Query::default()
        };
        assert!(
            Service::Icmp(8, None).contains(&ping) && Service::Icmp(8, Some(0)).contains(&ping)
        );
        assert!(
            !Service::Icmp(8, Some(1)).contains(&ping) && !Service::Icmpv6(8, None).contains(&ping)
        );
        assert!(
            Service::Proto(6).covers(Service::Tcp(1, 2))
                && !Service::Tcp(1, 2).covers(Service::Proto(6))
        );
    }
}
