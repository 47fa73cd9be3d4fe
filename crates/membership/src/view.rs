//! The view: what a node believes of the cluster, as an immutable value.

use state::{NodeId, NodeSet, SLOTS, Slot};

/// What a member is doing, as it says itself and as its silence tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MemberState {
    /// Not heard of, or not for too long.
    Dead = 0,
    /// Alive and without the cluster's state yet: receives it, owns nothing.
    Joining = 1,
    /// Alive; owns slots.
    Active = 2,
    /// Alive and on its way to offline: owns nothing any more, still forwards and replicates.
    Draining = 3,
}

impl MemberState {
    /// The name, as output has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
        }
    }
}

/// One configured member in a view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Its identity.
    pub id: NodeId,
    /// What it is doing.
    pub state: MemberState,
    /// Which run of the node this is: Unix milliseconds at its start. 0 when it was never heard of.
    pub incarnation: u64,
}

/// What a node believes of the cluster. Equal inputs give equal views on all nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Numbers this node's views; a node that hears of a greater one continues from it.
    pub epoch: u64,
    /// Fingerprint of the inputs (members, states, incarnations, configuration): nodes with equal
    /// digests have equal owners and groups.
    pub digest: u64,
    /// All configured members in ascending order of identity.
    pub members: Vec<Member>,
    /// The owner of each slot; `None` when no member is active.
    pub owner: Box<[Option<NodeId>; SLOTS]>,
    /// By node: its backup group, in order. Only active members; empty when it has nobody.
    pub groups: Vec<Vec<NodeId>>,
    /// By node: all that receive its changes and must acknowledge what it protects: its backup
    /// group, the further holders of slots that it adopted, and members that are joining.
    pub targets: Vec<NodeSet>,
}

impl View {
    /// The owner of a slot.
    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<NodeId> {
        self.owner[slot.index()]
    }

    /// Whether `node` owns the slot.
    #[inline]
    pub fn owns(&self, node: NodeId, slot: Slot) -> bool {
        self.owner[slot.index()] == Some(node)
    }

    /// Whether `node` may hold a copy of the slot's flows: it owns it, or the owner replicates to it.
    pub fn holds(&self, node: NodeId, slot: Slot) -> bool {
        self.owner(slot).is_some_and(|owner| {
            owner == node || self.targets[owner.index()].contains(node)
        })
    }

    /// The backup group of a node.
    pub fn group(&self, node: NodeId) -> &[NodeId] {
        &self.groups[node.index()]
    }

    /// What is believed of a member; `None` when it is not configured.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == node)
    }

    /// How many slots a node owns.
    pub fn owned(&self, node: NodeId) -> usize {
        self.owner.iter().filter(|o| **o == Some(node)).count()
    }
}
