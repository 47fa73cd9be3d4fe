//! The view: what a node believes of the cluster, as an immutable value.

use state::{NODES_MAX, NodeId, NodeSet, SLOTS, Slot};

use crate::config::ClusterConfig;
use crate::hash::Digest;

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
    /// Alive and on its way to offline: owns nothing any more, still replicates.
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

/// How packets come to the nodes, which decides who handles a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Distribution {
    /// Every node receives every frame and keeps those of the slots that it owns: the owner of a
    /// slot alone handles its flows.
    #[default]
    Filter,
    /// A router spreads packets over the nodes' own addresses: any node can handle any flow, and
    /// synchronises it with the owner of its slot and the owner's targets.
    Ecmp,
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
    /// digests have equal owners and groups. Of a dead member only that it is dead counts: which of
    /// its runs was the last is not known to those that started after it.
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
    /// Numbers what this node asks of others: raised each time that what it was given before does not count
    /// any more and it needs all of its peers' state anew. Of the node whose view it is alone, so
    /// no part of the digest; 0 in a view that was only computed.
    pub join: u64,
    /// Numbers the times that a node came back which may have served this node's slots beside it: raised
    /// when one is heard again that was dead, or hears this node again. What this node knows of its own flows may
    /// lie behind from there on. Of the node whose view it is alone, as `join`.
    pub reunions: u64,
}

impl View {
    /// The view that follows from what is believed of each member: the same for equal inputs, on
    /// every machine. `members` come in any order; a configured one that is missing is dead, and
    /// what is not configured is left out.
    ///
    /// * The owner of a slot is its home while that is active; else the nearest to the slot of the
    ///   active ones among the home's first `k` successors, so that the slots of a dead node spread
    ///   over its whole group; else its first active successor.
    /// * A node's group is the first `k` active of its successors.
    /// * A node's targets are its group, for every home from which it has adopted slots the first
    ///   `k` active successors of that home other than itself, and all joining members.
    ///
    /// That a slot only ever moves to a node that already holds it rests on the order of
    /// successors being the same whoever is alive. For let `o` own a slot of home `h`, and up to
    /// `k` nodes die, `o` among them: the new owner is an active one of `h`'s first `k` successors
    /// or the first active one of all, so in either case among the first `k` of those that were
    /// active before, not counting `o`, and those are targets of `o`. A node that becomes active was
    /// joining, so everybody's target, and takes slots from others without moving any between them.
    /// (An order in which a dead node's own successors take its place would break this: with `k` =
    /// 2, the backups `a` and `b`, and `a` dead, its successors would push `b` out of the group, but
    /// `b` would still inherit. So successors of successors come after the `k` backups, always.)
    pub fn compute(config: &ClusterConfig, members: &[Member], epoch: u64) -> Self {
        let members: Vec<Member> = config
            .members()
            .iter()
            .map(|configured| {
                let believed = members.iter().filter(|m| m.id == configured.id);
                let newest = believed.max_by_key(|m| (m.incarnation, m.state));
                newest.copied().unwrap_or(Member {
                    id: configured.id,
                    state: MemberState::Dead,
                    incarnation: 0,
                })
            })
            .collect();
        let in_state = |state: MemberState| -> NodeSet {
            let those = members.iter().filter(move |m| m.state == state);
            those.map(|m| m.id).collect()
        };
        let active = in_state(MemberState::Active);
        let joining = in_state(MemberState::Joining);
        let alive = NodeSet(active.0 | joining.0 | in_state(MemberState::Draining).0);

        let mut owner = Box::new([None; SLOTS]);
        // By node: the homes other than itself from which it has adopted slots.
        let mut adopted = [NodeSet::EMPTY; NODES_MAX];
        for slot in Slot::all() {
            let home = config.home(slot);
            let owned_by = owner_of(config, slot, home, active);
            owner[slot.index()] = owned_by;
            if let Some(node) = owned_by.filter(|node| *node != home) {
                adopted[node.index()].insert(home);
            }
        }

        let heirs = |node: NodeId, other_than: NodeId| {
            let active = move |n: &NodeId| active.contains(*n) && *n != other_than;
            let those = config.successors(node).iter().copied().filter(active);
            those.take(config.backups())
        };
        let mut groups = vec![Vec::new(); NODES_MAX];
        let mut targets = vec![NodeSet::EMPTY; NODES_MAX];
        for node in alive.iter() {
            let group: Vec<NodeId> = heirs(node, node).collect();
            let adopted = adopted[node.index()];
            let holders = adopted.iter().flat_map(|home| heirs(home, node));
            let all = group.iter().copied().chain(holders).chain(joining.iter());
            targets[node.index()] = all.filter(|n| *n != node).collect();
            groups[node.index()] = group;
        }
        Self {
            epoch,
            digest: digest(config, &members),
            members,
            owner,
            groups,
            targets,
            join: 0,
            reunions: 0,
        }
    }

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
        self.owner(slot)
            .is_some_and(|owner| owner == node || self.targets[owner.index()].contains(node))
    }

    /// Who else is to have what `me` knows of the slot's flows: its owner and the owner's targets.
    /// For a slot that `me` owns those are its own targets; for one without owner it is nobody.
    pub fn recipients(&self, me: NodeId, slot: Slot) -> NodeSet {
        let Some(owner) = self.owner(slot) else {
            return NodeSet::EMPTY;
        };
        let mut all = self.targets[owner.index()];
        all.insert(owner);
        all.remove(me);
        all
    }

    /// All other members that are alive.
    pub fn others(&self, me: NodeId) -> NodeSet {
        let alive = |m: &&Member| m.state != MemberState::Dead && m.id != me;
        self.members.iter().filter(alive).map(|m| m.id).collect()
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

fn owner_of(config: &ClusterConfig, slot: Slot, home: NodeId, active: NodeSet) -> Option<NodeId> {
    let is_active = |n: &NodeId| active.contains(*n);
    if is_active(&home) {
        return Some(home);
    }
    let group = config.static_group(home).iter().copied().filter(is_active);
    config
        .nearest(group, slot)
        .or_else(|| config.successors(home).iter().copied().find(is_active))
}

fn digest(config: &ClusterConfig, members: &[Member]) -> u64 {
    let mut digest = Digest::new(config.digest());
    for member in members {
        digest.add(u64::from(member.id.raw()) << 8 | member.state as u64);
        if member.state != MemberState::Dead {
            digest.add(member.incarnation);
        }
    }
    digest.finish()
}
