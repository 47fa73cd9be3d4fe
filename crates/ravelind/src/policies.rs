//! The rules that are in force, and how others come to be: a text arrives as common state, is
//! compiled against this node's own zones, and is published to the workers, which judge their flows
//! again as packets come.
//!
//! Whoever learns of a text only offers it. The main thread compiles, since large sets take a while
//! and no core may wait for that.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::{NodeShared, Policy};
use parking_lot::Mutex;
use policy::{RuleSet, Zones};
use state::{ERROR_BYTES_MAX, NODES_MAX, NodeId, PolicyAt, PolicyText};

/// What errors call a text that came from another node, unless it says what it is called.
const NAMELESS: &str = "rules";

/// Names of rules by their identities.
pub(crate) type RuleNames = HashMap<u32, String>;

/// Rules that this node uses.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) generation: u32,
    /// The configuration's file, or what the loaded text is called.
    pub(crate) source: String,
    /// The loaded text and the node on which it was loaded; `None` for the configuration's rules.
    pub(crate) loaded: Option<(Arc<str>, NodeId)>,
    pub(crate) names: Arc<RuleNames>,
    /// The rules that were offered last, when they could not be used.
    pub(crate) refusal: Option<Refusal>,
}

/// Rules that this node could not use.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) generation: u32,
    pub(crate) error: String,
}

/// The rules in force, and those that wait to be.
#[derive(Debug)]
pub(crate) struct Policies {
    zones: Zones,
    agents: Vec<String>,
    node: Arc<NodeShared>,
    offered: Mutex<Option<(PolicyText, NodeId)>>,
    /// How often a text was offered, and how often what was offered was taken up.
    offers: AtomicU64,
    taken: AtomicU64,
    in_force: Mutex<InForce>,
}

impl Policies {
    /// With the rules of the configuration, which the workers have already.
    pub(crate) fn new(
        rules: &RuleSet,
        agents: Vec<String>,
        file: PathBuf,
        node: Arc<NodeShared>,
    ) -> Self {
        Self {
            zones: rules.zones().clone(),
            agents,
            node,
            offered: Mutex::default(),
            offers: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            in_force: Mutex::new(InForce {
                generation: rules.generation,
                source: file.display().to_string(),
                loaded: None,
                names: names(rules),
                refusal: None,
            }),
        }
    }

    /// Reads a text as a later one of these would be, without any effect.
    ///
    /// # Errors
    /// With everything that is wrong with it, a line each.
    pub(crate) fn check(
        &self,
        text: &str,
        source: &str,
        generation: u32,
    ) -> Result<config::RulesFile, config::ConfigError> {
        config::rules_from_str(text, source, &self.zones, &self.agents, generation)
    }

    /// A text that was loaded on a node shall be in force. Of several that wait only the last
    /// counts. Costs nothing: any core may call it.
    pub(crate) fn offer(&self, text: PolicyText, by: NodeId) {
        *self.offered.lock() = Some((text, by));
        self.offers.fetch_add(1, Ordering::Release);
    }

    /// Whether a text was offered that has not been taken up: then this node must not begin to
    /// serve flows, which it would judge by old rules.
    pub(crate) fn pending(&self) -> bool {
        self.offers.load(Ordering::Acquire) != self.taken.load(Ordering::Acquire)
    }

    /// Compiles and publishes what was offered. Returns what the other nodes shall know, if
    /// anything was.
    pub(crate) fn take_up(&self) -> Option<PolicyAt> {
        let offers = self.offers.load(Ordering::Acquire);
        let offered = self.offered.lock().take();
        let told = offered.and_then(|(text, by)| self.adopt(text, by));
        self.taken.store(offers, Ordering::Release);
        told
    }

    fn adopt(&self, text: PolicyText, by: NodeId) -> Option<PolicyAt> {
        let now = self.in_force();
        let generation = text.generation;
        let refused = now.refusal.as_ref().map(|refusal| refusal.generation);
        if generation == refused.unwrap_or(now.generation) {
            return None;
        }
        let source = if text.note.is_empty() {
            NAMELESS
        } else {
            &text.note
        };
        if generation == now.generation {
            // Back to what is in force: what was refused in between is no longer asked for.
            self.in_force.lock().refusal = None;
            return Some(self.told());
        }
        match self.check(&text.text, source, generation) {
            Ok(read) => {
                // Names first: a flow judged by the new rules must not lack its rule's name.
                *self.in_force.lock() = InForce {
                    generation,
                    source: source.to_owned(),
                    loaded: Some((text.text.as_str().into(), by)),
                    names: names(&read.rules),
                    refusal: None,
                };
                self.node.policy.publish(Arc::new(Policy::new(&read.rules)));
                tracing::info!(
                    "policy: generation {generation} with {} rules is in force: {source}",
                    read.rules.rules().len()
                );
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    "policy: generation {generation} cannot be used, generation {} stays: {error}",
                    now.generation
                );
                self.in_force.lock().refusal = Some(Refusal { generation, error });
            }
        }
        Some(self.told())
    }

    pub(crate) fn in_force(&self) -> InForce {
        self.in_force.lock().clone()
    }

    /// The names of the rules in force.
    pub(crate) fn names(&self) -> Arc<RuleNames> {
        self.in_force.lock().names.clone()
    }

    /// What the other nodes shall know of this one.
    pub(crate) fn told(&self) -> PolicyAt {
        let now = self.in_force();
        let (tried, error) = match now.refusal {
            Some(refusal) => (refusal.generation, Some(shortened(refusal.error))),
            None => (now.generation, None),
        };
        PolicyAt {
            generation: now.generation,
            tried,
            error,
        }
    }
}

fn names(rules: &RuleSet) -> Arc<RuleNames> {
    let rules = rules.rules().iter();
    Arc::new(rules.map(|rule| (rule.id(), rule.name.clone())).collect())
}

/// As much of an error as common state takes.
fn shortened(mut error: String) -> String {
    let mut end = ERROR_BYTES_MAX.min(error.len());
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.truncate(end);
    error
}

/// The number of the next rules: above every one that is known, and one that only this node gives,
/// so that rules that are loaded on two nodes at once have two numbers and no flow that was judged
/// by one is taken for judged by the other. Each node gives those that its identity is the rest of
/// after a division by 32.
pub(crate) fn next_generation(known: u32, node: NodeId) -> u32 {
    let turns = NODES_MAX as u32;
    let own = u32::from(node.raw());
    let above = known.saturating_add(1);
    above.saturating_add((turns + own - above % turns) % turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use membership::{Member, MemberState, View};
    use policy::{Action, Query};

    const RULE: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";

    fn id(raw: u8) -> NodeId {
        NodeId::new(raw).unwrap()
    }

    fn policies() -> Policies {
        let zones = Zones::new(["inside", "outside"]).unwrap();
        let rules = RuleSet::new(1, zones, vec![], Default::default()).unwrap();
        let view = View {
            epoch: 0,
            join: 1,
            reunions: 0,
            digest: 0,
            members: vec![Member {
                id: id(1),
                state: MemberState::Active,
                incarnation: 0,
            }],
            owner: Box::new([None; state::SLOTS]),
            groups: vec![vec![]; NODES_MAX],
            targets: vec![state::NodeSet::EMPTY; NODES_MAX],
        };
        let node = Arc::new(NodeShared::new(view, Policy::new(&rules)));
        Policies::new(&rules, vec![], "n1.toml".into(), node)
    }

    fn text(generation: u32, text: &str) -> PolicyText {
        PolicyText {
            generation,
            text: text.into(),
            note: "new.toml".into(),
        }
    }

    fn decides(policies: &Policies) -> (u32, Action) {
        let policy = policies.node.policy.load();
        let decision = policy.classifier.classify(&Query::default());
        (policy.generation, decision.action)
    }

    #[test]
    fn what_is_offered_is_in_force_once_it_is_taken_up() {
        let policies = policies();
        assert!(!policies.pending());
        policies.offer(text(34, RULE), id(2));
        assert!(policies.pending());
        assert_eq!(
            decides(&policies),
            (1, Action::Deny),
            "nobody compiles in a core"
        );
        let told = PolicyAt {
            generation: 34,
            tried: 34,
            error: None,
        };
        assert_eq!(policies.take_up(), Some(told));
        assert!(!policies.pending());
        assert_eq!(decides(&policies), (34, Action::Allow));
        let now = policies.in_force();
        assert_eq!((now.generation, &*now.source), (34, "new.toml"));
        assert_eq!(now.loaded.unwrap().1, id(2));
        assert_eq!(now.names.get(&policy::rule_id("all")).unwrap(), "all");
        // Told again, as it is after a reconnect: no flow is judged anew for it.
        policies.offer(text(34, RULE), id(2));
        assert_eq!(policies.take_up(), None);
        assert!(!policies.pending());
    }

    #[test]
    fn rules_that_cannot_be_used_leave_those_in_force() {
        let policies = policies();
        policies.offer(text(34, RULE), id(2));
        policies.take_up();
        let bad = format!("{RULE}to = [\"dmz\"]");
        policies.offer(text(65, &bad), id(1));
        let told = policies.take_up().unwrap();
        assert_eq!((told.generation, told.tried), (34, 65));
        let error = told.error.unwrap();
        assert!(
            error.starts_with("new.toml:4:7: rule.all.to: zone \"dmz\""),
            "{error}"
        );
        assert_eq!(decides(&policies), (34, Action::Allow));
        // Told again: nothing new.
        policies.offer(text(65, &bad), id(1));
        assert_eq!(policies.take_up(), None);
        // What was in force is asked for again.
        policies.offer(text(34, RULE), id(2));
        assert_eq!(policies.take_up().unwrap().error, None);
        assert!(policies.in_force().refusal.is_none());
    }

    #[test]
    fn of_several_offers_the_last_counts() {
        let policies = policies();
        policies.offer(text(34, "nonsense"), id(2));
        policies.offer(text(33, RULE), id(1));
        assert_eq!(policies.take_up().unwrap().generation, 33);
        assert_eq!(policies.take_up(), None);
    }

    #[test]
    fn two_nodes_never_give_one_number() {
        for known in [1, 31, 32, 33, 34, 1000] {
            let mut given: Vec<u32> = (0..32).map(|n| next_generation(known, id(n))).collect();
            assert!(
                given.iter().all(|&g| known < g && g <= known + 32),
                "{given:?}"
            );
            given.sort_unstable();
            given.dedup();
            assert_eq!(given.len(), 32);
        }
        assert_eq!(next_generation(1, id(1)), 33);
        assert_eq!(next_generation(33, id(2)), 34);
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let long = "é".repeat(ERROR_BYTES_MAX);
        assert!(shortened(format!("x{long}")).len() < ERROR_BYTES_MAX);
        assert_eq!(shortened(long).len(), ERROR_BYTES_MAX);
    }
}
