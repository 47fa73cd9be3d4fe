//! Which flows are wanted: `proto=tcp src=10.0.0.0/8 dport=80`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FlowFacts, FlowRole, Proto};

/// Which flows are wanted: those that fit every field that is set.
///
/// In text it is words `KEY=VALUE` with the fields' names as keys, in any order:
///
/// ```
/// use telemetry::control::FlowFilter;
///
/// let filter: FlowFilter = "proto=tcp address=10.1.0.5 port=80-90 state=established".parse()?;
/// assert_eq!(filter.to_string(), "proto=tcp address=10.1.0.5/32 port=80-90 state=established");
/// # Ok::<(), telemetry::control::FilterError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// The protocol, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<Proto>,
    /// The opener's address is in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<IpNet>,
    /// The other end's address is in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpNet>,
    /// The opener's port is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<PortRange>,
    /// The other end's port is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<PortRange>,
    /// The address of either end is in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpNet>,
    /// The port of either end is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRange>,
    /// The name of the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why the node has the flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<FlowRole>,
    /// The zone on either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// At most so many. A limit, not a condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl FlowFilter {
    /// The keys of the text form, in the order in which it is shown.
    pub const KEYS: [&'static str; 11] = [
        "proto", "src", "dst", "sport", "dport", "address", "port", "state", "role", "zone",
        "limit",
    ];

    /// Whether a flow is wanted. Does not look at the limit.
    pub fn matches(&self, flow: &FlowFacts<'_>) -> bool {
        let fits = |net: &Option<IpNet>, address: &IpAddr| {
            net.as_ref().is_none_or(|net| net.contains(address))
        };
        let has =
            |ports: &Option<PortRange>, port: u16| ports.is_none_or(|ports| ports.contains(port));
        self.proto.is_none_or(|proto| proto.0 == flow.proto)
            && self.role.is_none_or(|role| role == flow.role)
            && has(&self.sport, flow.sport)
            && has(&self.dport, flow.dport)
            && (has(&self.port, flow.sport) || has(&self.port, flow.dport))
            && fits(&self.src, &flow.src)
            && fits(&self.dst, &flow.dst)
            && (fits(&self.address, &flow.src) || fits(&self.address, &flow.dst))
            && self.state.as_ref().is_none_or(|state| state == flow.state)
            && (self.zone.as_ref())
                .is_none_or(|zone| zone == flow.zone_from || zone == flow.zone_to)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), FilterError> {
        match key {
            "proto" => put(&mut self.proto, key, value.parse()?),
            "src" => put(&mut self.src, key, net(key, value)?),
            "dst" => put(&mut self.dst, key, net(key, value)?),
            "sport" => put(&mut self.sport, key, value.parse()?),
            "dport" => put(&mut self.dport, key, value.parse()?),
            "address" => put(&mut self.address, key, net(key, value)?),
            "port" => put(&mut self.port, key, value.parse()?),
            "state" => put(&mut self.state, key, value.to_owned()),
            "role" => put(&mut self.role, key, value.parse()?),
            "zone" => put(&mut self.zone, key, value.to_owned()),
            "limit" => {
                let limit = value
                    .parse()
                    .map_err(|_| FilterError::Limit { text: value.into() })?;
                put(&mut self.limit, key, limit)
            }
            _ => Err(FilterError::Key { key: key.into() }),
        }
    }
}

fn put<T>(field: &mut Option<T>, key: &str, value: T) -> Result<(), FilterError> {
    if field.replace(value).is_some() {
        return Err(FilterError::Twice { key: key.into() });
    }
    Ok(())
}

/// A network, or an address as the network of itself alone.
fn net(key: &str, text: &str) -> Result<IpNet, FilterError> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| FilterError::Net {
            key: key.into(),
            text: text.into(),
        })
}

impl FromStr for FlowFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) if !value.is_empty() => filter.set(key, value)?,
                _ => return Err(FilterError::Word { word: word.into() }),
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for FlowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: [Option<&dyn fmt::Display>; 11] = [
            shown(&self.proto),
            shown(&self.src),
            shown(&self.dst),
            shown(&self.sport),
            shown(&self.dport),
            shown(&self.address),
            shown(&self.port),
            shown(&self.state),
            shown(&self.role),
            shown(&self.zone),
            shown(&self.limit),
        ];
        let mut separator = "";
        for (key, field) in Self::KEYS.iter().zip(fields) {
            if let Some(value) = field {
                write!(f, "{separator}{key}={value}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

fn shown<T: fmt::Display>(field: &Option<T>) -> Option<&dyn fmt::Display> {
    field.as_ref().map(|value| value as &dyn fmt::Display)
}

/// Ports from the first to the last, both included. In text `80` or `80-90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Whether the port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(FilterError::Port { text: text.into() }),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are the offending text")]
pub enum FilterError {
    /// A word is not `KEY=VALUE`.
    #[error("{word:?} is no filter: write KEY=VALUE, where KEY is one of {}", FlowFilter::KEYS.join(", "))]
    Word { word: String },
    /// There is no such key.
    #[error("there is no filter {key:?}: use one of {}", FlowFilter::KEYS.join(", "))]
    Key { key: String },
    /// A key is there twice.
    #[error("filter {key:?} is given twice: flows must fit all filters, so give it once")]
    Twice { key: String },
    /// Not a protocol.
    #[error(
        "{text:?} is no protocol: use a name such as tcp, udp, icmp, icmpv6, or a number up to 255"
    )]
    Proto { text: String },
    /// Not an address or network.
    #[error("{key}={text} is no address or network: write 10.1.0.5, 10.1.0.0/16 or fd00::/8")]
    Net { key: String, text: String },
    /// Not a port or range.
    #[error("{text:?} is no port: write 80, or 80-90 with the lower one first, up to 65535")]
    Port { text: String },
    /// Not a role.
    #[error("{text:?} is no role: use owner, backup or stale")]
    Role { text: String },
    /// Not a number.
    #[error("limit={text} is no number of flows")]
    Limit { text: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowFacts<'static> = FlowFacts {
        proto: 6,
        src: IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 5)),
        dst: IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 9)),
        sport: 1000,
        dport: 80,
        state: "established",
        role: FlowRole::Owner,
        zone_from: "inside",
        zone_to: "outside",
    };

    #[test]
    fn every_key_selects() {
        for (text, wanted) in [
            ("", true),
            ("proto=tcp", true),
            ("proto=6", true),
            ("proto=udp", false),
            ("src=10.1.0.5", true),
            ("src=10.1.0.0/16", true),
            ("src=10.2.0.9", false),
            ("src=::/0", false),
            ("dst=10.2.0.9", true),
            ("dst=10.1.0.0/16", false),
            ("sport=1000", true),
            ("sport=80", false),
            ("dport=80-90", true),
            ("dport=81-90", false),
            ("address=10.1.0.5", true),
            ("address=10.2.0.9", true),
            ("address=10.3.0.0/16", false),
            ("port=80", true),
            ("port=1000", true),
            ("port=81-999", false),
            ("state=established", true),
            ("state=syn_sent", false),
            ("role=owner", true),
            ("role=backup", false),
            ("zone=inside", true),
            ("zone=outside", true),
            ("zone=dmz", false),
            ("limit=0", true),
            ("proto=tcp dport=80 zone=dmz", false),
            ("proto=tcp dport=80 zone=inside", true),
        ] {
            let filter: FlowFilter = text.parse().unwrap();
            assert_eq!(filter.matches(&FLOW), wanted, "{text}");
        }
    }

    #[test]
    fn text_and_json_come_back_as_they_went() {
        let text = "proto=icmpv6 src=fd00::/8 dst=10.0.0.1/32 sport=1 dport=2-3 address=::1/128 \
                    port=0-65535 state=new role=stale zone=dmz limit=7";
        let filter: FlowFilter = text.parse().unwrap();
        assert_eq!(filter.to_string(), text);
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<FlowFilter>(&json).unwrap(), filter);
        for key in FlowFilter::KEYS {
            assert!(json.contains(&format!("\"{key}\":")), "{key}");
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, says) in [
            (
                "tcp",
                "\"tcp\" is no filter: write KEY=VALUE, where KEY is one of proto, src",
            ),
            ("src=", "\"src=\" is no filter"),
            (
                "source=10.0.0.1",
                "there is no filter \"source\": use one of proto, src, dst",
            ),
            ("proto=tcp proto=udp", "filter \"proto\" is given twice"),
            ("proto=300", "\"300\" is no protocol"),
            (
                "src=10.0.0.1/33",
                "src=10.0.0.1/33 is no address or network",
            ),
            ("port=90-80", "\"90-80\" is no port"),
            ("sport=70000", "\"70000\" is no port"),
            (
                "role=boss",
                "\"boss\" is no role: use owner, backup or stale",
            ),
            ("limit=-1", "limit=-1 is no number"),
        ] {
            let error = text.parse::<FlowFilter>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }
}
