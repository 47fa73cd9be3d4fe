//! The cases by name.

use std::fmt;
use std::str::FromStr;

use crate::gateway::System;
use crate::traffic::{Family, Flows, Proto, Sizes};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// Packets per second of flows that are all in the table already.
    Forward(Flows),
    /// Packets per second of the same frames through nothing that looks at them.
    Ceiling(Flows),
    /// Packets per second by the number of workers.
    Workers,
    /// New flows per second into an empty table, until one million are there; not replicated.
    NewFlowsNone,
    /// Likewise, and a backup has them; the flag says whether their packets wait for that.
    NewFlowsReplicated { held: bool },
    /// Bytes on the link between the nodes per new replicated flow.
    WireBytes,
    /// Bytes of memory per flow.
    Memory,
    /// What the hold adds to a first packet.
    HoldLatency,
    /// From the death of an owner to the first packet through its heir.
    Failover,
    /// Flows per second that a joining node receives.
    Snapshot,
}

/// Flows of the cases that have one number of them.
pub(crate) const MILLION: u32 = 1_000_000;

/// What the names of cases with flows of some kind begin with.
const FORWARD: &str = "forward";
const CEILING: &str = "ceiling";

/// Numbers of flows by name.
const COUNTS: [(&str, u32); 4] = [
    ("1k", 1_000),
    ("100k", 100_000),
    ("1m", MILLION),
    ("10m", 10_000_000),
];

impl Case {
    /// Every case that a plain run measures.
    pub(crate) const ALL: [&str; 18] = [
        "forward-1k",
        "forward-100k",
        "forward-1m",
        "forward-10m",
        "forward-1m-tcp",
        "forward-1m-v6",
        "forward-1m-imix",
        "ceiling-1k",
        "ceiling-1m",
        "workers",
        "newflows-none",
        "newflows-async",
        "newflows-ack",
        "wire-bytes",
        "memory",
        "hold-latency",
        "failover",
        "snapshot",
    ];
    /// Those of `--quick`.
    pub(crate) const QUICK: [&str; 9] = [
        "forward-1k",
        "forward-1m",
        "forward-1m-tcp",
        "ceiling-1m",
        "newflows-none",
        "newflows-ack",
        "wire-bytes",
        "memory",
        "failover",
    ];

    /// Whether it can be measured on this system: what needs a cluster of ours is ours alone.
    pub(crate) fn is_for(self, system: System) -> bool {
        match system {
            System::Ravelin => true,
            System::Ovs => matches!(self, Self::Forward(_) | Self::NewFlowsNone | Self::Memory),
            // What the kernel takes for established it does not count.
            System::Nftables => match self {
                Self::Forward(flows) => flows.proto == Proto::Udp && flows.count <= MILLION,
                Self::NewFlowsNone | Self::Memory => true,
                _ => false,
            },
            System::Conntrackd => matches!(
                self,
                Self::NewFlowsReplicated { held: false } | Self::WireBytes
            ),
        }
    }

    /// Whether `--quick` measures it on this system when nobody names that: it has five minutes for all.
    pub(crate) fn is_quick_for(self, system: System) -> bool {
        match system {
            System::Ravelin | System::Ovs => true,
            System::Nftables => match self {
                Self::Forward(flows) => flows == Flows::udp(MILLION),
                _ => self == Self::NewFlowsNone,
            },
            System::Conntrackd => false,
        }
    }

    /// Its flows; `some` is how many, where a case is about any number of them.
    pub(crate) fn flows(self, some: u32) -> Flows {
        match self {
            Self::Forward(flows) | Self::Ceiling(flows) => flows,
            Self::Workers
            | Self::NewFlowsNone
            | Self::NewFlowsReplicated { .. }
            | Self::WireBytes
            | Self::Memory
            | Self::HoldLatency => Flows::udp(MILLION),
            Self::Failover | Self::Snapshot => Flows::udp(some),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows = match self {
            Self::NewFlowsNone => return f.write_str("newflows-none"),
            Self::NewFlowsReplicated { held: false } => return f.write_str("newflows-async"),
            Self::NewFlowsReplicated { held: true } => return f.write_str("newflows-ack"),
            Self::WireBytes => return f.write_str("wire-bytes"),
            Self::Memory => return f.write_str("memory"),
            Self::HoldLatency => return f.write_str("hold-latency"),
            Self::Failover => return f.write_str("failover"),
            Self::Snapshot => return f.write_str("snapshot"),
            Self::Workers => return f.write_str("workers"),
            Self::Forward(flows) | Self::Ceiling(flows) => flows,
        };
        let count = COUNTS.iter().find(|(_, count)| *count == flows.count);
        let kind = match self {
            Self::Ceiling(_) => CEILING,
            _ => FORWARD,
        };
        write!(f, "{kind}-{}", count.map_or("?", |(name, _)| name))?;
        let variants = [
            (flows.proto == Proto::Tcp, "-tcp"),
            (flows.family == Family::V6, "-v6"),
            (flows.sizes == Sizes::Imix, "-imix"),
        ];
        variants
            .iter()
            .filter(|(is, _)| *is)
            .try_for_each(|(_, name)| f.write_str(name))
    }
}

/// No case has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no case {0:?}: there are {all}, and forward- or ceiling-{{1k,100k,1m,10m}} with -tcp, -v6, -imix behind it",
    all = Case::ALL.join(", ")
)]
pub(crate) struct NoCase(String);

impl FromStr for Case {
    type Err = NoCase;

    fn from_str(text: &str) -> Result<Self, NoCase> {
        match text {
            "newflows-none" => return Ok(Self::NewFlowsNone),
            "newflows-async" => return Ok(Self::NewFlowsReplicated { held: false }),
            "newflows-ack" => return Ok(Self::NewFlowsReplicated { held: true }),
            "wire-bytes" => return Ok(Self::WireBytes),
            "memory" => return Ok(Self::Memory),
            "hold-latency" => return Ok(Self::HoldLatency),
            "failover" => return Ok(Self::Failover),
            "snapshot" => return Ok(Self::Snapshot),
            "workers" => return Ok(Self::Workers),
            _ => {}
        }
        let none = || NoCase(text.to_owned());
        let mut parts = text.split('-');
        let kind: fn(Flows) -> Self = match parts.next() {
            Some(FORWARD) => Self::Forward,
            Some(CEILING) => Self::Ceiling,
            _ => return Err(none()),
        };
        let name = parts.next().ok_or_else(none)?;
        let (_, count) = COUNTS.iter().find(|(n, _)| *n == name).ok_or_else(none)?;
        let mut flows = Flows::udp(*count);
        for variant in parts {
            match variant {
                "tcp" => flows.proto = Proto::Tcp,
                "v6" => flows.family = Family::V6,
                "imix" => flows.sizes = Sizes::Imix,
                _ => return Err(none()),
            }
        }
        let case = kind(flows);
        // In this order and each once: a case has one name.
        (case.to_string() == text).then_some(case).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_one_name() {
        for name in Case::ALL.iter().chain(&Case::QUICK) {
            let case: Case = name.parse().expect("a case");
            assert_eq!(case.to_string(), *name);
        }
        let case: Case = "forward-10m-tcp-v6-imix".parse().expect("a case");
        assert_eq!(case.flows(1).count, 10_000_000);
        for wrong in [
            "",
            "forward",
            "forward-2k",
            "forward-1k-v6-tcp",
            "forward-1k-tcp-tcp",
            "forward-1k-",
            "newflows",
            "memory-1k",
        ] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong:?}");
        }
    }
}
