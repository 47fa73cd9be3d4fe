//! The compiled form of a rule set.

use crate::ruleset::{Outcome, decision};
use crate::{Action, BitVectors, Decision, Query, RuleSet, SyncDefaults};

/// Finds the first rule that matches: the part of a classifier that another implementation, such
/// as DPDK's `rte_acl` for very large sets, can take over.
///
/// # What an implementer owes
///
/// * **The answer of [`RuleSet::decide`]**: the least index whose rule matches.
/// * **No allocation and no blocking**: it is asked on the packet path, once per new flow.
pub trait Matcher {
    /// The index of the first rule that matches the packet.
    fn first_match(&self, query: &Query) -> Option<usize>;
}

/// A rule set, compiled for the packet path.
#[derive(Debug, Clone)]
pub struct Classifier<M = BitVectors> {
    generation: u32,
    matcher: M,
    outcomes: Box<[Outcome]>,
    /// The identities of the rules that allow, in ascending order.
    allowing: Box<[u32]>,
    defaults: SyncDefaults,
    asks_identity: bool,
}

impl Classifier {
    /// Compiles the rules into bit vectors.
    pub fn compile(set: &RuleSet) -> Self {
        Self::with_matcher(set, BitVectors::compile(set))
    }

    /// The memory of the tables in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.matcher.memory_bytes() + size_of_val(&*self.outcomes) + size_of_val(&*self.allowing)
    }
}

impl<M: Matcher> Classifier<M> {
    /// A classifier with a matcher that was compiled from the same rules.
    pub fn with_matcher(set: &RuleSet, matcher: M) -> Self {
        let rules = set.rules().iter();
        let allow = rules.filter(|rule| rule.action == Action::Allow);
        let mut allowing: Box<[u32]> = allow.map(|rule| rule.id()).collect();
        allowing.sort_unstable();
        Self {
            generation: set.generation,
            matcher,
            allowing,
            outcomes: set.rules().iter().map(Outcome::of).collect(),
            defaults: *set.sync_defaults(),
            asks_identity: set.asks_identity(),
        }
    }

    /// The generation of the rules that it was compiled from.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether a rule asks who is logged in: else [`Query::identity`] may stay
    /// [`Identity::NONE`](crate::Identity::NONE).
    pub const fn asks_identity(&self) -> bool {
        self.asks_identity
    }

    /// Whether there is a rule of this identity that allows, whatever it matches.
    pub fn has_allowing(&self, rule_id: u32) -> bool {
        self.allowing.binary_search(&rule_id).is_ok()
    }

    /// What the rules say of the packet. The first that matches decides; without one the packet
    /// is denied.
    #[inline]
    pub fn classify(&self, query: &Query) -> Decision {
        let matched = self
            .matcher
            .first_match(query)
            .map(|index| (index, self.outcomes[index]));
        decision(matched, &self.defaults, query)
    }
}
