//! The flow record: what a cluster knows of one flow, and how two copies of it become one.

use crate::key::{Dir, FlowKey, PROTO_TCP};
use crate::tcp::{TcpPhase, TcpSide};

/// Whether a flow lives. Death wins a merge: a deletion is not undone by an older copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Life {
    /// Packets of the flow pass.
    Alive = 0,
    /// A tombstone: the flow was deleted.
    Dead = 1,
}

/// What a flow's synchronisation costs its packets; chosen per rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum SyncMode {
    /// Never replicated.
    None = 0,
    /// Replicated once the flow has lived for its rule's delay.
    Delayed = 1,
    /// Sent at once, replicated right behind.
    Async = 2,
    /// Held until the backup group has acknowledged.
    Ack = 3,
}

/// What was decided when the flow was opened; fixed for an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class {
    /// The direction of the packet that opened the flow.
    pub origin: Dir,
    /// How changes of the flow are replicated.
    pub sync: SyncMode,
    /// The zone from which the flow was opened.
    pub zone_from: u8,
    /// The zone to which it was opened.
    pub zone_to: u8,
}

/// The rule that lets the flow pass, and the generation of the rule set that decided it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Verdict {
    /// Generation of the rule set; a later decision wins a merge.
    pub generation: u32,
    /// Stable identity of the rule: a hash of its name.
    pub rule: u32,
}

/// What an agent or an operator put on the flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mark {
    /// Raised by each change; a later one wins a merge whole.
    pub version: u16,
    /// After how many seconds of silence it ends; 0 for what is configured for its protocol.
    pub timeout_s: u16,
    /// The mark.
    pub value: u32,
}

/// A flow's address translation; fixed for an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nat {
    /// The source endpoint that packets of the opening direction get.
    pub source: ([u8; 16], u16),
    /// The destination endpoint that packets of the opening direction get.
    pub destination: ([u8; 16], u16),
}

/// What has been seen of a flow so far. Bits are only ever added, so two copies merge by union.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Progress(pub u16);

impl Progress {
    const SEEN: u16 = 1 << 0;
    const SYN: u16 = 1 << 2;
    const SYN_ACKED: u16 = 1 << 4;
    const FIN: u16 = 1 << 6;
    const FIN_ACKED: u16 = 1 << 8;
    const RESET: u16 = 1 << 10;
    const PICKED_UP: u16 = 1 << 11;
    /// Shifts a fact about one direction to both.
    const BOTH: u16 = 0b11;
    const EXPECTED: u16 = 1 << 12;
    pub(crate) const ALL: u16 = (1 << 13) - 1;

    /// A packet went in `dir`.
    pub const fn seen(dir: Dir) -> Self {
        Self(Self::SEEN << dir.index())
    }
    /// The sender of `dir` has sent its SYN.
    pub const fn syn(dir: Dir) -> Self {
        Self(Self::SYN << dir.index())
    }
    /// The SYN of the sender of `dir` was acknowledged.
    pub const fn syn_acked(dir: Dir) -> Self {
        Self(Self::SYN_ACKED << dir.index())
    }
    /// The sender of `dir` has sent its FIN.
    pub const fn fin(dir: Dir) -> Self {
        Self(Self::FIN << dir.index())
    }
    /// The FIN of the sender of `dir` was acknowledged.
    pub const fn fin_acked(dir: Dir) -> Self {
        Self(Self::FIN_ACKED << dir.index())
    }
    /// A valid reset was seen.
    pub const fn reset() -> Self {
        Self(Self::RESET)
    }
    /// The flow was first seen in its middle.
    pub const fn picked_up() -> Self {
        Self(Self::PICKED_UP)
    }

    /// The flow was opened because it was expected: the rule that lets it pass is that of the flow to which
    /// it belongs, and may not match it.
    pub const fn expected() -> Self {
        Self(Self::EXPECTED)
    }

    /// All that is seen of a connection between its opening and its first FIN.
    pub const fn established() -> Self {
        Self((Self::SEEN | Self::SYN | Self::SYN_ACKED) * Self::BOTH)
    }

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The same, expected or not.
    #[inline]
    pub const fn but_expected(self) -> Self {
        Self(self.0 & !Self::EXPECTED)
    }

    /// Both together.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether packets went both ways.
    #[inline]
    pub const fn replied(self) -> bool {
        self.contains(Self(Self::SEEN * Self::BOTH))
    }

    /// The phase of a TCP connection that has come this far.
    #[inline]
    pub const fn tcp_phase(self) -> TcpPhase {
        if self.0 & Progress::RESET != 0 {
            TcpPhase::Reset
        } else if self.contains(Self(Self::FIN_ACKED * Self::BOTH)) {
            TcpPhase::TimeWait
        } else if self.contains(Self(Self::FIN * Self::BOTH)) {
            TcpPhase::Closing
        } else if self.0 & (Self::FIN * Self::BOTH) != 0 {
            TcpPhase::FinWait
        } else if self.0 & Self::PICKED_UP != 0 || self.contains(Self(Self::SYN_ACKED * Self::BOTH))
        {
            TcpPhase::Established
        } else if self.contains(Self(Self::SYN * Self::BOTH)) {
            TcpPhase::SynReceived
        } else {
            TcpPhase::SynSent
        }
    }
}

/// What a cluster knows of one flow: a join-semilattice under [`FlowRecord::merge`].
///
/// What moves with every packet and needs no merging (counters, last-seen) is not part of it.
///
/// In memory what every packet needs is at the end and together: a flow table puts it into as few cache lines as
/// it fits in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowRecord {
    /// Its translation, if it has one.
    pub nat: Option<Nat>,
    /// Its mark.
    pub mark: Mark,
    /// Tells successive flows of one key apart; the later has the greater. Hybrid of the opening
    /// node's wall clock and identity, and always greater than that of a known predecessor.
    pub incarnation: u64,
    /// The canonical key.
    pub key: FlowKey,
    /// What was decided at its opening.
    pub class: Class,
    /// Whether it lives.
    pub life: Life,
    /// What has been seen of it.
    pub progress: Progress,
    /// The rule that lets it pass.
    pub verdict: Verdict,
    /// For TCP, the sequence spaces by the sender's [`Dir`]; zero for other protocols.
    pub tcp: [TcpSide; 2],
}

impl FlowRecord {
    /// Joins another copy of the same flow into this one; returns whether this one changed.
    ///
    /// The copy of the greater incarnation wins whole. Copies of one incarnation join field by
    /// field. Commutative, associative and idempotent.
    ///
    /// # Panics
    /// If the keys differ: the records are not copies of one flow.
    pub fn merge(&mut self, other: &Self) -> bool {
        assert!(self.key == other.key, "records of two flows cannot merge");
        if other.incarnation < self.incarnation
            && !crate::mutation::is(crate::mutation::Mutation::StaleRecordWins)
        {
            return false;
        }
        let before = *self;
        if other.incarnation != self.incarnation {
            *self = *other;
            return true;
        }
        self.class = self.class.max(other.class);
        self.life = self.life.max(other.life);
        self.progress = self.progress.union(other.progress);
        self.verdict = self.verdict.max(other.verdict);
        // Nearly always they are the same.
        if self.mark != other.mark {
            self.mark = self.mark.max(other.mark);
        }
        for (mine, theirs) in self.tcp.iter_mut().zip(&other.tcp) {
            mine.merge(theirs);
        }
        self.nat = self.nat.max(other.nat);
        *self != before
    }

    /// The phase of the connection, if the flow is TCP.
    pub fn tcp_phase(&self) -> Option<TcpPhase> {
        (self.key.proto() == PROTO_TCP).then(|| self.progress.tcp_phase())
    }
}
