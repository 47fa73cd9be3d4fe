//! What the state machine gives: messages, views, events for the log, and its status.

use std::fmt;
use std::sync::Arc;

use state::{NodeId, NodeSet};

use crate::heartbeat::{HEARTBEAT_BYTES, Refusal};
use crate::view::{MemberState, View};

/// What [`crate::Membership::poll`] gives.
#[derive(Clone, Debug)]
pub enum Output {
    /// A new view. A view that was not polled before the next one is left out.
    View(Arc<View>),
    /// Something for the log.
    Event(Event),
    /// A datagram for a peer; without a connection to it, to be thrown away.
    Send {
        /// The peer.
        to: NodeId,
        /// The heartbeat.
        bytes: [u8; HEARTBEAT_BYTES],
    },
}

/// Why a peer is dead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Death {
    /// Nothing was heard of it for so many milliseconds.
    Silent(u64),
    /// It said that it goes.
    Left,
}

/// What happened, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// This node changed its own state.
    State {
        /// What it was doing.
        from: MemberState,
        /// What it does now.
        to: MemberState,
    },
    /// A peer that was dead is heard.
    PeerUp {
        /// The peer.
        peer: NodeId,
        /// Its run.
        incarnation: u64,
        /// What it says that it does.
        state: MemberState,
    },
    /// A peer died.
    PeerDown {
        /// The peer.
        peer: NodeId,
        /// The run that ended.
        incarnation: u64,
        /// Why it is thought dead.
        death: Death,
    },
    /// A peer that was alive is heard in a newer run.
    PeerRestarted {
        /// The peer.
        peer: NodeId,
        /// The run that ended.
        from: u64,
        /// The run that began.
        to: u64,
    },
    /// A living peer changed its state.
    PeerState {
        /// The peer.
        peer: NodeId,
        /// What it was doing.
        from: MemberState,
        /// What it does now.
        to: MemberState,
    },
    /// A peer's messages do not count. Once for each reason in a row.
    Refused {
        /// The peer that the connection belongs to.
        peer: NodeId,
        /// What is wrong, with both values.
        why: Refusal,
    },
    /// A warning: a peer's configuration differs, so its view can differ too.
    ConfigDiffers {
        /// The peer.
        peer: NodeId,
        /// Its configuration's fingerprint.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// An error: a peer knows a later run of this node than this one, so nothing that this node says
    /// counts there. Its clock went back, or another process runs as this node.
    LaterRunKnown {
        /// The peer.
        peer: NodeId,
        /// The number of the later run's last heartbeat there: an incarnation above it is one that
        /// the peer takes for newer.
        theirs: u64,
        /// This run's incarnation.
        ours: u64,
        /// Whether the peer has ever heard this run. Otherwise it never will, as this run is
        /// numbered; one that it has heard is outrun by another process.
        accepted: bool,
    },
    /// A warning: we hear a peer that has not heard us for the time after which it thinks us dead.
    Unheard {
        /// The peer.
        peer: NodeId,
    },
    /// A peer of which [`Event::Unheard`] was said hears us.
    HeardAgain {
        /// The peer.
        peer: NodeId,
    },
    /// This node hands its slots over.
    HandingOver {
        /// How many it has.
        slots: usize,
    },
    /// All others own what this node owned, and have all of its state.
    HandedOver {
        /// Milliseconds since it began.
        ms: u64,
    },
    /// A warning: the time for handing over is up, or nobody is there to take over, and it was
    /// ended as it stood.
    HandOverCut {
        /// Milliseconds since it began.
        ms: u64,
        /// Who did not own yet; when empty, the final synchronisation was not complete.
        waits_for: NodeSet,
    },
    /// A warning: nobody is left to take over; this node goes on.
    HandOverAbandoned,
    /// This node did not run for a while. Peers get another period to be heard.
    Paused {
        /// Between two inputs, in milliseconds.
        ms: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { from, to } => {
                write!(f, "this node is {}, was {}", to.name(), from.name())
            }
            Self::PeerUp {
                peer,
                incarnation,
                state,
            } => {
                let state = state.name();
                write!(f, "node {peer} is up: run {incarnation}, {state}")
            }
            Self::PeerDown {
                peer,
                incarnation,
                death: Death::Silent(ms),
            } => write!(
                f,
                "node {peer} is dead: run {incarnation} not heard for {ms} ms"
            ),
            Self::PeerDown {
                peer,
                incarnation,
                death: Death::Left,
            } => write!(f, "node {peer} left: run {incarnation}"),
            Self::PeerRestarted { peer, from, to } => {
                write!(f, "node {peer} restarted: run {to} after {from}")
            }
            Self::PeerState { peer, from, to } => {
                write!(f, "node {peer} is {}, was {}", to.name(), from.name())
            }
            Self::Refused { peer, why } => write!(f, "refused a message of node {peer}: {why}"),
            Self::ConfigDiffers { peer, theirs, ours } => write!(
                f,
                "node {peer} has configuration {theirs:016x}, this node {ours:016x}: \
                 give all nodes the same members, weights and backups"
            ),
            Self::LaterRunKnown {
                peer, theirs, ours, ..
            } => write!(
                f,
                "node {peer} knows a later run of this node ({theirs}) than this one ({ours}) and \
                 refuses what it says: the clock of this machine went back, or another process runs \
                 as this node. End such a process, set the clock, and restart this one"
            ),
            Self::Unheard { peer } => write!(
                f,
                "node {peer} is heard but does not hear this node: check the path to it"
            ),
            Self::HeardAgain { peer } => write!(f, "node {peer} hears this node again"),
            Self::HandingOver { slots } => write!(f, "this node hands {slots} slots over"),
            Self::HandedOver { ms } => {
                write!(
                    f,
                    "all slots are handed over and synchronised, after {ms} ms"
                )
            }
            Self::HandOverCut { ms, waits_for } if waits_for.is_empty() => write!(
                f,
                "the hand-over ends after {ms} ms without its final synchronisation: \
                 flows that are not replicated break"
            ),
            Self::HandOverCut { ms, waits_for } => write!(
                f,
                "the hand-over ends after {ms} ms while nodes {waits_for:?} do not own yet: \
                 packets are lost until they do"
            ),
            Self::HandOverAbandoned => write!(
                f,
                "nobody is left to take over: this node stays active; force it to drain all the same"
            ),
            Self::Paused { ms } => write!(f, "this node did not run for {ms} ms"),
        }
    }
}

/// The state of a cluster as one node sees it, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The node that says so.
    pub me: NodeId,
    /// Numbers its views.
    pub epoch: u64,
    /// Its view's fingerprint.
    pub digest: u64,
    /// The peers of which it still waits for word or a snapshot; empty unless it is joining.
    pub waits_for: NodeSet,
    /// How many events were dropped because nobody polled.
    pub events_lost: u64,
    /// All members in ascending order of identity, itself among them.
    pub members: Vec<MemberStatus>,
}

/// One member in [`Status`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its identity.
    pub id: NodeId,
    /// Its configured name.
    pub name: String,
    /// What it does.
    pub state: MemberState,
    /// Its last known run; 0 when it was never heard of.
    pub incarnation: u64,
    /// Milliseconds since it was last heard; `None` when it never was. 0 for the node itself.
    pub heard_ms_ago: Option<u64>,
    /// What it said last; `None` when it is dead.
    pub said: Option<Said>,
}

/// What a living member said last of itself and others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Numbers its views.
    pub epoch: u64,
    /// Its view's fingerprint.
    pub digest: u64,
    /// Whether its view has the same digest as ours.
    pub agrees: bool,
    /// Whether its configuration has the same digest as ours.
    pub same_config: bool,
    /// The peers that are alive to it.
    pub hears: NodeSet,
    /// The peers whose snapshots are complete at it.
    pub synced: NodeSet,
}
