//! Requests that change one flow, and the answer.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Proto;

/// A flow by its protocol and endpoints, either way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowName {
    /// Its protocol.
    pub proto: Proto,
    /// One end.
    pub src: IpAddr,
    /// That end's port; 0 for protocols without ports. An ICMP echo flow has its identifier as both.
    #[serde(default)]
    pub sport: u16,
    /// The other end.
    pub dst: IpAddr,
    /// The other end's port.
    #[serde(default)]
    pub dport: u16,
}

/// What is to be done with a flow. The node that is asked must own it, or handle its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum FlowRequest {
    /// Replicate its state as it is now, whether or not it has changed; its packets wait meanwhile.
    Sync {
        /// The flow.
        flow: FlowName,
    },
    /// Give it another mark.
    Mark {
        /// The flow.
        flow: FlowName,
        /// The mark.
        value: u32,
    },
    /// End it, here and in all copies.
    End {
        /// The flow.
        flow: FlowName,
    },
}

impl FlowRequest {
    /// The flow that it is about.
    pub const fn flow(&self) -> &FlowName {
        match self {
            Self::Sync { flow } | Self::Mark { flow, .. } | Self::End { flow } => flow,
        }
    }
}

/// What became of a [`FlowRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInstructed {
    /// Whether every backup has acknowledged the flow's state: false when this node has none, and
    /// for a flow that was ended, of which its copies learn right behind.
    pub acknowledged: bool,
    /// How long that took, in microseconds.
    pub waited_us: u64,
}
