//! What a rule says of replication.

use std::fmt;

use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, SyncMode};

/// How changes of a flow are replicated, as a rule or a default chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncPolicy {
    /// Never.
    None,
    /// Once the flow has lived this many milliseconds.
    Delayed(u32),
    /// Sent at once, replicated right behind.
    Async,
    /// Held until the backup group has acknowledged.
    Ack,
}

impl SyncPolicy {
    /// The mode that a flow's record carries.
    pub const fn mode(self) -> SyncMode {
        match self {
            Self::None => SyncMode::None,
            Self::Delayed(_) => SyncMode::Delayed,
            Self::Async => SyncMode::Async,
            Self::Ack => SyncMode::Ack,
        }
    }

    /// The delay in milliseconds; zero for every mode but [`SyncPolicy::Delayed`].
    pub const fn delay_ms(self) -> u32 {
        match self {
            Self::Delayed(ms) => ms,
            Self::None | Self::Async | Self::Ack => 0,
        }
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Delayed(ms) => write!(f, "delayed by {ms} ms"),
            Self::Async => f.write_str("async"),
            Self::Ack => f.write_str("ack"),
        }
    }
}

/// How what belongs to no one flow's opening is replicated: it never goes unsaid, so there are
/// only these two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClassSync {
    /// The packet that brought it about waits until it is acknowledged.
    Ack,
    /// Sent at once; no packet waits for it.
    Async,
}

impl fmt::Display for ClassSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ack => "ack",
            Self::Async => "async",
        })
    }
}

/// How state is replicated by its class: flows that a rule without a choice of its own lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyncDefaults {
    /// TCP connections.
    pub tcp: SyncPolicy,
    /// UDP flows.
    pub udp: SyncPolicy,
    /// ICMP and ICMPv6 exchanges.
    pub icmp: SyncPolicy,
    /// Every other protocol.
    pub other: SyncPolicy,
    /// Expectations of related connections, which are common state: what announced the
    /// connection waits until every living node expects it, or not.
    pub expectations: ClassSync,
    /// Marks that agents set on flows: the packet that an agent marked at waits until the backup
    /// group has the mark, or not.
    pub marks: ClassSync,
}

impl SyncDefaults {
    /// The default for a protocol number.
    #[inline]
    pub const fn of(&self, proto: u8) -> SyncPolicy {
        match proto {
            PROTO_TCP => self.tcp,
            PROTO_UDP => self.udp,
            PROTO_ICMP | PROTO_ICMPV6 => self.icmp,
            _ => self.other,
        }
    }
}

impl Default for SyncDefaults {
    /// Connections are protected; what an endpoint repeats by itself is not made to wait.
    fn default() -> Self {
        Self {
            tcp: SyncPolicy::Ack,
            udp: SyncPolicy::Async,
            icmp: SyncPolicy::None,
            other: SyncPolicy::Async,
            expectations: ClassSync::Ack,
            marks: ClassSync::Ack,
        }
    }
}
