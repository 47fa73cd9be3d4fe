//! Node identities and small sets of them.

use std::fmt;

/// The most nodes that one cluster has; identities are below it.
pub const NODES_MAX: usize = 32;

/// A node's identity within its cluster: 0 to 31, from the configuration, never reused for
/// another machine while the cluster runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// The identity, or `None` when `id` is not below [`NODES_MAX`].
    pub const fn new(id: u8) -> Option<Self> {
        if (id as usize) < NODES_MAX {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The identity in the low five bits of a word.
    pub(crate) const fn from_low_bits(word: u64) -> Self {
        Self((word % NODES_MAX as u64) as u8)
    }

    /// The number.
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// The number as an index below [`NODES_MAX`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of nodes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeSet(pub u32);

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self(0);

    /// Adds a node.
    pub const fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    /// Removes a node.
    pub const fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.0);
    }

    /// Whether the node is in the set.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// How many nodes are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no node is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NODES_MAX as u8)
            .filter(move |n| self.0 & (1 << n) != 0)
            .map(NodeId)
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(NodeId::raw)).finish()
    }
}
