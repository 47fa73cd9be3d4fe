//! A flow, as the control socket shows it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::FilterError;

/// One line of `ravelin flows`. Addresses and ports are in the direction of the opener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The protocol.
    pub proto: Proto,
    /// The opener's address, before translation.
    pub src: IpAddr,
    /// The opener's port; an ICMP echo has its identifier here and in `dport`, others have 0.
    pub sport: u16,
    /// The address that it opened the flow to.
    pub dst: IpAddr,
    /// The port that it opened the flow to.
    pub dport: u16,
    /// The state by name, for example `established`.
    pub state: String,
    /// Why this node has the flow.
    pub role: FlowRole,
    /// The slot, 0 to 1023.
    pub slot: u16,
    /// The zone from which it was opened.
    pub zone_from: String,
    /// The zone to which it was opened.
    pub zone_to: String,
    /// The rule that lets it pass.
    pub rule: String,
    /// How it is replicated: `ack`, `async`, `delayed`, `none`.
    pub sync: String,
    /// Seconds since this node has it.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
    /// Packets: from the opener, and replies.
    pub packets: [u64; 2],
    /// Bytes: from the opener, and replies.
    pub bytes: [u64; 2],
    /// Whether packets of it wait for an acknowledgement now.
    pub held: bool,
    /// The mark that an operator or an agent gave it; 0 for none.
    #[serde(default)]
    pub mark: u32,
    /// Tells successive flows between the same endpoints apart.
    pub incarnation: u64,
}

impl Flow {
    /// What a filter looks at.
    pub fn facts(&self) -> FlowFacts<'_> {
        FlowFacts {
            proto: self.proto.0,
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            state: &self.state,
            role: self.role,
            zone_from: &self.zone_from,
            zone_to: &self.zone_to,
        }
    }
}

/// What a filter looks at: enough to skip a flow before its line is made. Fields as in [`Flow`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each field is that of Flow")]
pub struct FlowFacts<'a> {
    pub proto: u8,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub state: &'a str,
    pub role: FlowRole,
    pub zone_from: &'a str,
    pub zone_to: &'a str,
}

/// Why a node has a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowRole {
    /// It owns the flow's slot.
    Owner,
    /// It handles packets of the flow, whose slot another node owns.
    Handler,
    /// It keeps a copy for the owner.
    Backup,
    /// It has a copy that nobody needs any more, until it ages out.
    Stale,
}

impl FlowRole {
    const ALL: [Self; 4] = [Self::Owner, Self::Handler, Self::Backup, Self::Stale];

    /// The name, as output has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Handler => "handler",
            Self::Backup => "backup",
            Self::Stale => "stale",
        }
    }
}

impl fmt::Display for FlowRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FlowRole {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| FilterError::Role { text: text.into() })
    }
}

/// An IP protocol number, in text by its name where it has a common one: `tcp`, `47` is `gre`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Proto(pub u8);

impl Proto {
    /// Names from the registry of assigned internet protocol numbers.
    const NAMES: [(u8, &'static str); 9] = [
        (1, "icmp"),
        (2, "igmp"),
        (6, "tcp"),
        (17, "udp"),
        (47, "gre"),
        (50, "esp"),
        (51, "ah"),
        (58, "icmpv6"),
        (132, "sctp"),
    ];
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.pad(name),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl FromStr for Proto {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text);
        named
            .map(|(number, _)| *number)
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| FilterError::Proto { text: text.into() })
    }
}

impl TryFrom<String> for Proto {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Proto> for String {
    fn from(proto: Proto) -> Self {
        proto.to_string()
    }
}
