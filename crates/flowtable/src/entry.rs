//! A place in the slab: the replicated record and what only this worker knows of the flow.

use std::mem::offset_of;

use crate::prefetch::prefetch;
use state::{Class, Dir, FlowKey, FlowRecord, Life, Mark, NodeSet, Progress, SyncMode, Verdict};

/// One place of the slab: four cache lines. The first is cold. Packets of a known flow need the second and the
/// fourth, those of TCP the third as well.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Entry {
    occupancy: Occupancy,
    /// Nodes that have asked for the flow or told of it without owning its slot: they handle it too.
    /// Empty where the owner of a slot alone handles its flows.
    pub handlers: NodeSet,
    /// What the cluster knows of the flow.
    pub record: FlowRecord,
    /// What this worker knows of it.
    pub local: Local,
}

const _: () = {
    assert!(
        size_of::<Entry>() == 256,
        "a fifth cache line would cost every packet of a cold flow"
    );
    assert!(
        offset_of!(Entry, record) + offset_of!(FlowRecord, key) == 64,
        "what packets need begins with the second line"
    );
    assert!(
        offset_of!(Entry, record) + offset_of!(FlowRecord, tcp) <= 128,
        "without TCP's part the record's is in the second line"
    );
    assert!(
        offset_of!(Entry, local) + offset_of!(Local, hold_lsn) == 192,
        "what packets need of the rest is the fourth line"
    );
};

/// Whether a place is occupied, or else the next vacant one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Occupancy(u32);

impl Occupancy {
    const OCCUPIED: Self = Self(u32::MAX);
    const LAST: Self = Self(u32::MAX - 1);
}

const _: () = assert!(
    crate::CAPACITY_MAX < Occupancy::LAST.0 as usize,
    "places must differ from the two marks"
);

/// What only this worker knows of a flow. Times are in seconds of the worker's own clock. What every packet needs
/// is the last 64 octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Local {
    /// The log number of the last change that was handed to the sync core; 0 for none.
    pub lsn: u64,
    /// When a flow whose replication is delayed is to be replicated; 0 when that is not pending.
    pub replicate_at_s: u32,
    /// When the first packet was handled here of a flow that came as a copy; 0 for never.
    pub adopted_s: u32,
    /// What the entry adds to the digest of its slot: that of its record as it was last handed to
    /// the sync core or merged; 0 for nothing.
    pub digest: u32,
    /// When the flow was opened here or its first copy arrived.
    pub created_s: u32,
    /// The log number that must be acknowledged before packets of the flow may leave; 0 for none.
    pub hold_lsn: u64,
    /// Packets by direction relative to the key.
    pub packets: [u64; 2],
    /// Bytes of IP packets by direction relative to the key.
    pub bytes: [u64; 2],
    /// When its last packet was seen, here or by whom the copy came from.
    pub seen_s: u32,
    /// When it was last handed to the sync core.
    pub replicated_s: u32,
    /// The next hops by direction relative to the key: indexes into the worker's table of hops.
    pub hops: [u32; 2],
    /// The low bits of the epoch of the routes and hops at which `hops` were looked up; 0 for never.
    pub hops_epoch: u16,
    /// The low bits of the worker's epoch of the common state at which the flow was judged; 0 for
    /// never here.
    pub common_epoch: u16,
    /// The low bits of the worker's own count when the slot's owner, another node, last told of this
    /// incarnation of the flow; 0 for never.
    pub told: u16,
    /// See [`LocalFlags`].
    pub flags: LocalFlags,
}

/// Facts about a flow, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalFlags(pub u8);

impl LocalFlags {
    /// The window remembered of endpoint `a` is that of an old copy; shift by the direction for the
    /// other one.
    const BEHIND: u8 = 1;
    /// The entry is a copy from a peer and no packet of it was handled here since.
    const REPLICA: u8 = 1 << 2;
    /// Packets of the flow go to an agent.
    const DIVERTED: u8 = 1 << 3;

    /// Packets of the flow were handled here since it came to the table.
    const HANDLER: u8 = 1 << 5;
    /// And since it was last handed to the sync core.
    const FRESH: u8 = 1 << 6;

    /// This node knows more of the flow than the slot's owner, which last told of it.
    const AHEAD: u8 = 1 << 4;

    /// Its packets get other sequence numbers.
    const SHIFTED: u8 = 1 << 7;

    /// What a copy from a peer does not change.
    const STAYING: u8 = Self::DIVERTED | Self::AHEAD | Self::HANDLER | Self::FRESH | Self::SHIFTED;

    /// A copy from a peer: windows are behind in both directions.
    pub const fn replica() -> Self {
        Self(Self::REPLICA | Self::BEHIND | (Self::BEHIND << 1))
    }

    /// Whether the entry is a copy of which no packet was handled here.
    pub const fn is_replica(self) -> bool {
        self.0 & Self::REPLICA != 0
    }

    /// A flow that a packet has opened here.
    pub const fn opened() -> Self {
        Self(Self::HANDLER | Self::FRESH)
    }

    /// A packet was handled here.
    pub const fn handled(&mut self) {
        self.0 &= !Self::REPLICA;
        self.0 |= Self::HANDLER | Self::FRESH;
    }

    /// Whether packets of the flow were handled here since it came to the table.
    pub const fn is_handler(self) -> bool {
        self.0 & Self::HANDLER != 0
    }

    /// Whether one was since the flow was last handed to the sync core.
    pub const fn is_fresh(self) -> bool {
        self.0 & Self::FRESH != 0
    }

    /// The flow is handed to the sync core.
    pub const fn told(&mut self) {
        self.0 &= !Self::FRESH;
    }

    /// Whether packets of the flow go to an agent.
    pub const fn is_diverted(self) -> bool {
        self.0 & Self::DIVERTED != 0
    }

    /// Packets of the flow go to an agent from now on, or no longer.
    pub const fn divert(&mut self, on: bool) {
        if on {
            self.0 |= Self::DIVERTED;
        } else {
            self.0 &= !Self::DIVERTED;
        }
    }

    /// Its packets get other sequence numbers from now on.
    pub const fn shifted(&mut self) {
        self.0 |= Self::SHIFTED;
    }

    /// Whether its packets get other sequence numbers.
    pub const fn is_shifted(self) -> bool {
        self.0 & Self::SHIFTED != 0
    }

    /// Whether a packet is handled as those before it: the entry is no mere copy, no agent wants it or has changed it, and,
    /// where `windows` matter, those remembered are known well.
    #[inline(always)]
    pub const fn go_on(self, windows: bool) -> bool {
        let behind = if windows {
            Self::BEHIND | Self::BEHIND << 1
        } else {
            0
        };
        self.0 & (Self::HANDLER | Self::REPLICA | Self::DIVERTED | Self::SHIFTED | behind)
            == Self::HANDLER
    }

    /// What a copy from a peer makes of these: windows are behind again, agents stay.
    pub const fn replicated(self) -> Self {
        Self(Self::replica().0 | self.0 & Self::STAYING)
    }

    /// What another incarnation of the flow, told by a peer, makes of these: no packet of that one was
    /// handled here, whoever handled those of the old.
    pub const fn replaced(self) -> Self {
        Self(self.replicated().0 & !(Self::HANDLER | Self::FRESH | Self::SHIFTED))
    }

    /// Whether this node knows more of the flow than the slot's owner told.
    pub const fn is_ahead(self) -> bool {
        self.0 & Self::AHEAD != 0
    }

    /// Notes whether this node knows more of the flow than the slot's owner does.
    pub const fn compared(&mut self, ahead: bool) {
        if ahead {
            self.0 |= Self::AHEAD;
        } else {
            self.0 &= !Self::AHEAD;
        }
    }

    /// The window of the sender of `dir` is known well from now on.
    pub const fn anchored(&mut self, dir: Dir) {
        self.0 &= !(Self::BEHIND << dir.index());
    }

    /// Whether the remembered window of the sender of `dir` may lie far behind.
    pub const fn is_behind(self, dir: Dir) -> bool {
        self.0 & (Self::BEHIND << dir.index()) != 0
    }
}

impl Entry {
    pub(crate) fn occupied(record: FlowRecord, local: Local) -> Self {
        Self {
            record,
            local,
            handlers: NodeSet::EMPTY,
            occupancy: Occupancy::OCCUPIED,
        }
    }

    pub(crate) fn vacant(next: Option<u32>) -> Self {
        let (key, origin) = FlowKey::new([0; 16], [0; 16], 0, 0, 0);
        let class = Class {
            origin,
            sync: SyncMode::None,
            zone_from: 0,
            zone_to: 0,
        };
        let record = FlowRecord {
            key,
            incarnation: 0,
            class,
            life: Life::Dead,
            progress: Progress::default(),
            verdict: Verdict::default(),
            mark: Mark::default(),
            tcp: Default::default(),
            nat: None,
        };
        Self {
            record,
            local: Local::default(),
            handlers: NodeSet::EMPTY,
            occupancy: next.map_or(Occupancy::LAST, Occupancy),
        }
    }

    /// Asks for the cache lines that a packet of the flow needs.
    #[inline(always)]
    pub(crate) fn prefetch(&self, tcp: bool) {
        prefetch(&self.record.key);
        prefetch(&self.local.hold_lsn);
        if tcp {
            prefetch(&self.record.tcp[1]);
        }
    }

    pub(crate) fn is_occupied(&self) -> bool {
        self.occupancy == Occupancy::OCCUPIED
    }

    pub(crate) fn vacant_next(&self) -> Option<u32> {
        match self.occupancy {
            Occupancy::LAST => None,
            Occupancy::OCCUPIED => unreachable!("an occupied entry is not on the vacant list"),
            Occupancy(next) => Some(next),
        }
    }

    /// Whether packets of the flow pass; a tombstone's do not.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.record.life == Life::Alive
    }
}
