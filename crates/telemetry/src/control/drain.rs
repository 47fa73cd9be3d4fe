//! Going offline and coming back: the answer to `drain`, `undrain` and `drain_progress`.

use serde::{Deserialize, Serialize};

/// How far a node is on its way to offline.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drain {
    /// Numbers the answers: grows with each change, so that a client can wait for the next one.
    pub number: u64,
    /// What is being done.
    pub phase: DrainPhase,
    /// Whether the daemon goes on when all is handed over.
    pub stay: bool,
    /// How many slots there are, or were, to hand over.
    pub slots: u64,
    /// Of how many of these another node is the owner by now.
    pub slots_handed_over: u64,
    /// The nodes that do not own yet.
    pub waits_for: Vec<String>,
    /// Packets that still wait here for an acknowledgement.
    pub held_packets: u64,
    /// Why flows may have broken; null when none has by this.
    pub cut: Option<String>,
    /// Milliseconds since it began.
    pub age_ms: u64,
}

/// What a node that was told to drain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// It was not told to, or it was taken back.
    #[default]
    None,
    /// It goes on as the owner until others own.
    HandingOver,
    /// Others own; the last changes are on their way to them.
    FinalSync,
    /// It owns nothing any more; the packets that it holds leave as they are acknowledged.
    Releasing,
    /// Done: it stays, without any slot, until it is undrained or ended.
    Drained,
    /// Done: the daemon ends.
    Leaving,
    /// It was given up, since nobody is left to take over: the node goes on.
    Abandoned,
    /// Something that a later release added.
    #[serde(other)]
    Other,
}

impl DrainPhase {
    /// Whether nothing more will happen by itself.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::None | Self::Drained | Self::Leaving | Self::Abandoned
        )
    }

    /// The phase in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "not draining",
            Self::HandingOver => "handing over",
            Self::FinalSync => "final synchronisation",
            Self::Releasing => "releasing held packets",
            Self::Drained => "drained",
            Self::Leaving => "offline",
            Self::Abandoned => "given up: nobody is left to take over",
            Self::Other => "in a phase that this release does not know",
        }
    }
}
