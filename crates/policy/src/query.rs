//! What is asked of a policy, and what it answers.

use state::SyncMode;

use crate::{Action, Identity};

/// The packet that would open a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Query {
    /// The zone of the interface that it came in by.
    pub zone_from: u8,
    /// The zone of the interface that it would leave by.
    pub zone_to: u8,
    /// Source address, IPv4 as v4-mapped IPv6.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Source port in host order; no rule looks at it yet.
    pub sport: u16,
    /// Destination port in host order; looked at for TCP and UDP.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Type; looked at for ICMP and ICMPv6.
    pub icmp_type: u8,
    /// Code; looked at for ICMP and ICMPv6.
    pub icmp_code: u8,
    /// Who is logged in at the source address; looked at by rules with users or groups.
    pub identity: Identity,
}

/// What a policy says of a flow that is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be.
    pub action: Action,
    /// The rule's position in its set, or `None` when no rule matched.
    pub rule_index: Option<u32>,
    /// The rule's identity, or [`crate::DEFAULT_DENY`] when no rule matched.
    pub rule_id: u32,
    /// How the flow is replicated; [`SyncMode::None`] unless it may be opened.
    pub sync: SyncMode,
    /// For [`SyncMode::Delayed`], after how many milliseconds; zero otherwise.
    pub delay_ms: u32,
    /// Whether the decision is to be logged.
    pub log: bool,
    /// The number of the protocol agent that is given the flow's packets; `None` unless it may be opened.
    pub agent: Option<u8>,
}
