//! An ordered, checked set of rules.

use std::collections::HashMap;

use crate::{
    Action, DEFAULT_DENY, Decision, InvalidName, NO_RULE, Query, Rule, SyncDefaults, SyncPolicy,
    Zones, check_name, name_hash,
};

/// The most rules of one set. The bit vectors of a set of this size with one network and one
/// service per rule take some 200 MiB; beyond it another [`crate::Matcher`] is called for.
pub const RULES_MAX: usize = 16_384;

/// Rules that do not make a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuleSet {
    /// More than [`RULES_MAX`].
    #[error(
        "{0} rules; there may be {RULES_MAX}: join rules by listing several networks or services in one"
    )]
    TooMany(usize),
    /// A rule without a name.
    #[error("rule {index} has an empty name; name it")]
    Unnamed {
        /// Its position, from 0.
        index: usize,
    },
    /// One name twice.
    #[error("two rules are named \"{name}\"; give each its own name")]
    DuplicateName {
        /// The name.
        name: String,
        /// The position of the second, from 0.
        index: usize,
    },
    /// Two names with one identity.
    #[error(
        "rules \"{name}\" and \"{other}\" have the same identity {id:#010x}; rename one of them"
    )]
    Collision {
        /// The later rule.
        name: String,
        /// The earlier rule.
        other: String,
        /// What both names hash to.
        id: u32,
        /// The position of the later, from 0.
        index: usize,
    },
    /// A name whose identity has another meaning.
    #[error("rule \"{name}\" has the reserved identity {id:#010x}; rename it")]
    Reserved {
        /// The name.
        name: String,
        /// What it hashes to.
        id: u32,
        /// The rule's position, from 0.
        index: usize,
    },
    /// Two names of users, or two of groups, that packets could not tell apart.
    #[error(
        "users or groups \"{name}\" and \"{other}\" have the same hash {hash:#018x}, so that one would have the other's rights; rename one of them"
    )]
    SameIdentity {
        /// The later name.
        name: String,
        /// The earlier name.
        other: String,
        /// What both hash to.
        hash: u64,
        /// The position of the rule that has the later, from 0.
        index: usize,
    },
    /// A name that no user or group can have.
    #[error("{error}")]
    IdentityName {
        /// What is wrong with it.
        error: InvalidName,
        /// The position of its rule, from 0.
        index: usize,
    },
}

impl InvalidRuleSet {
    /// The position, from 0, of the rule that is at fault, if one is.
    pub const fn index(&self) -> Option<usize> {
        match self {
            Self::TooMany(_) => None,
            Self::Unnamed { index }
            | Self::DuplicateName { index, .. }
            | Self::Collision { index, .. }
            | Self::SameIdentity { index, .. }
            | Self::IdentityName { index, .. }
            | Self::Reserved { index, .. } => Some(*index),
        }
    }
}

/// A rule that can never decide, since an earlier one matches whatever it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// The position of the rule, from 0.
    pub rule: usize,
    /// The position of the earlier one.
    pub by: usize,
}

/// An ordered set of rules, of which the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// Raised at each change of the policy; a flow remembers by which generation it was judged.
    pub generation: u32,
    zones: Zones,
    rules: Vec<Rule>,
    defaults: SyncDefaults,
}

impl RuleSet {
    /// A set of these rules, in this order.
    ///
    /// # Errors
    /// When the rules are too many or their names do not identify them.
    pub fn new(
        generation: u32,
        zones: Zones,
        rules: Vec<Rule>,
        defaults: SyncDefaults,
    ) -> Result<Self, InvalidRuleSet> {
        if rules.len() > RULES_MAX {
            return Err(InvalidRuleSet::TooMany(rules.len()));
        }
        let mut seen: HashMap<u32, &str> = HashMap::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let (name, id) = (rule.name.clone(), rule.id());
            if name.is_empty() {
                return Err(InvalidRuleSet::Unnamed { index });
            }
            if id == DEFAULT_DENY || id == NO_RULE {
                return Err(InvalidRuleSet::Reserved { name, id, index });
            }
            if let Some(&other) = seen.get(&id) {
                return Err(if other == name {
                    InvalidRuleSet::DuplicateName { name, index }
                } else {
                    InvalidRuleSet::Collision {
                        name,
                        other: other.to_owned(),
                        id,
                        index,
                    }
                });
            }
            seen.insert(id, &rule.name);
        }
        check_identities(&rules)?;
        Ok(Self {
            generation,
            zones,
            rules,
            defaults,
        })
    }

    /// The zones that the rules speak of.
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// Whether a rule asks who is logged in: else nobody needs to say in a query.
    pub fn asks_identity(&self) -> bool {
        self.rules.iter().any(|rule| !rule.identities.is_any())
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How flows are replicated whose rule does not say.
    pub fn sync_defaults(&self) -> &SyncDefaults {
        &self.defaults
    }

    /// What the rules say, by asking one after the other: what they mean, and what a compiled
    /// classifier is held against.
    pub fn decide(&self, query: &Query) -> Decision {
        let first = self.rules.iter().position(|rule| rule.matches(query));
        decision(
            first.map(|index| (index, Outcome::of(&self.rules[index]))),
            &self.defaults,
            query,
        )
    }

    /// The rules that can never decide because one earlier rule covers them. Rules that several
    /// earlier ones cover only together are not found.
    pub fn covered(&self) -> Vec<Covered> {
        let by = |rule: usize| {
            let earlier = self.rules[..rule]
                .iter()
                .position(|by| by.covers(&self.rules[rule]))?;
            Some(Covered { rule, by: earlier })
        };
        (0..self.rules.len()).filter_map(by).collect()
    }
}

/// Names must tell users apart, and groups; a user and a group may share one.
fn check_identities(rules: &[Rule]) -> Result<(), InvalidRuleSet> {
    for names in [
        (|rule| &rule.identities.users) as fn(&Rule) -> &Vec<String>,
        |rule| &rule.identities.groups,
    ] {
        let mut seen: HashMap<u64, &str> = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for name in names(rule) {
                check_name(name).map_err(|error| InvalidRuleSet::IdentityName { error, index })?;
                let hash = name_hash(name);
                let other = *seen.entry(hash).or_insert(name);
                if other != name {
                    return Err(InvalidRuleSet::SameIdentity {
                        name: name.clone(),
                        other: other.to_owned(),
                        hash,
                        index,
                    });
                }
            }
        }
    }
    Ok(())
}

/// What is left of a rule once it has matched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    id: u32,
    action: Action,
    log: bool,
    sync: Option<SyncPolicy>,
    agent: Option<u8>,
}

impl Outcome {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self {
            id: rule.id(),
            action: rule.action,
            log: rule.log,
            sync: rule.sync,
            agent: rule.agent,
        }
    }
}

/// The decision of the rule at an index, or the default.
#[inline]
pub(crate) fn decision(
    matched: Option<(usize, Outcome)>,
    defaults: &SyncDefaults,
    query: &Query,
) -> Decision {
    let Some((index, outcome)) = matched else {
        return Decision {
            action: Action::Deny,
            rule_index: None,
            rule_id: DEFAULT_DENY,
            sync: SyncPolicy::None.mode(),
            delay_ms: 0,
            log: false,
            agent: None,
        };
    };
    let sync = match outcome.action {
        Action::Allow => outcome.sync.unwrap_or_else(|| defaults.of(query.proto)),
        Action::Deny | Action::Reject => SyncPolicy::None,
    };
    Decision {
        action: outcome.action,
        rule_index: Some(index as u32),
        rule_id: outcome.id,
        sync: sync.mode(),
        delay_ms: sync.delay_ms(),
        log: outcome.log,
        agent: outcome.agent.filter(|_| outcome.action == Action::Allow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Result<RuleSet, InvalidRuleSet> {
        let rules = names
            .iter()
            .map(|name| Rule::new(*name, Action::Allow))
            .collect();
        RuleSet::new(1, Zones::default(), rules, SyncDefaults::default())
    }

    #[test]
    fn names_identify_rules() {
        assert_eq!(
            named(&["a", "b", "a"]).unwrap_err(),
            InvalidRuleSet::DuplicateName {
                name: "a".into(),
                index: 2
            }
        );
        assert_eq!(
            named(&["a", ""]).unwrap_err(),
            InvalidRuleSet::Unnamed { index: 1 }
        );
        // A known collision of FNV-1a of 32 bits.
        let error = named(&["costarring", "liquid"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rules \"liquid\" and \"costarring\" have the same identity 0x5e4daa9d; rename one of them"
        );
        assert_eq!(error.index(), Some(1));
    }

    #[test]
    fn reserved_identities_are_refused() {
        // Found by search: the first hashes to 0, the second to all ones.
        for (name, id) in [("ppkttia", NO_RULE), ("prezece", DEFAULT_DENY)] {
            assert_eq!(
                named(&[name]).unwrap_err(),
                InvalidRuleSet::Reserved {
                    name: name.into(),
                    id,
                    index: 0
                }
            );
        }
    }

    #[test]
    fn names_tell_users_apart() {
        let with = |users: [&str; 2], groups: &[&str]| {
            let rule = |n: usize| {
                let mut rule = Rule::new(["one", "two"][n], Action::Allow);
                rule.identities.users = vec![users[n].into()];
                rule.identities.groups = groups.iter().map(ToString::to_string).collect();
                rule
            };
            let rules = vec![rule(0), rule(1)];
            RuleSet::new(1, Zones::default(), rules, SyncDefaults::default())
        };
        // A known collision of FNV-1a of 64 bits.
        let (one, two) = ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ");
        let error = with([one, two], &[]).unwrap_err();
        assert_eq!(error.index(), Some(1));
        assert_eq!(
            error.to_string(),
            format!(
                "users or groups \"{two}\" and \"{one}\" have the same hash 0x4eac0c95540867e4, so that \
                 one would have the other's rights; rename one of them"
            )
        );
        assert!(with([one, one], &[two]).is_ok(), "a user and a group");
        assert!(matches!(
            with(["alice", "bob"], &["a b"]).unwrap_err(),
            InvalidRuleSet::IdentityName { index: 0, .. }
        ));
    }

    #[test]
    fn too_many_rules_are_refused() {
        let names: Vec<String> = (0..=RULES_MAX).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            named(&names).unwrap_err(),
            InvalidRuleSet::TooMany(RULES_MAX + 1)
        );
    }

    #[test]
    fn the_earliest_covering_rule_is_named() {
        let set = named(&["a", "b", "c"]).unwrap();
        assert_eq!(
            set.covered(),
            [Covered { rule: 1, by: 0 }, Covered { rule: 2, by: 0 }]
        );
    }
}
