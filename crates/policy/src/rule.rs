//! One rule.

use std::fmt;

use crate::{AddressSet, IdentitySet, Query, Service, SyncPolicy, ZoneSet};

/// The rule identity of a decision that no rule made.
pub const DEFAULT_DENY: u32 = u32::MAX;

/// The rule identity of a flow that no rule has judged yet, as in `state::Verdict::default()`.
pub const NO_RULE: u32 = 0;

/// What becomes of a flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The flow may be opened.
    Allow,
    /// The packet is dropped in silence.
    Deny,
    /// The packet is dropped, and its sender is told: a reset for TCP, an ICMP error otherwise.
    Reject,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        })
    }
}

/// One rule: it matches a packet when all of its six conditions do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique within its set.
    pub name: String,
    /// Zones that the packet may come from.
    pub from: ZoneSet,
    /// Zones that it may go to.
    pub to: ZoneSet,
    /// Source addresses.
    pub source: AddressSet,
    /// Destination addresses.
    pub destination: AddressSet,
    /// Who is logged in at the source address.
    pub identities: IdentitySet,
    /// Services, of which one must match. Empty means every service.
    pub services: Vec<Service>,
    /// What becomes of the packet.
    pub action: Action,
    /// Whether the decision is logged.
    pub log: bool,
    /// How the flow is replicated; `None` leaves it to the set's defaults.
    pub sync: Option<SyncPolicy>,
    /// The number, among those of its node, of the protocol agent that is given the packets of flows that it opens.
    pub agent: Option<u8>,
}

impl Rule {
    /// A rule that matches every packet.
    pub fn new(name: impl Into<String>, action: Action) -> Self {
        Self {
            name: name.into(),
            from: ZoneSet::ANY,
            to: ZoneSet::ANY,
            source: AddressSet::ANY,
            destination: AddressSet::ANY,
            identities: IdentitySet::ANY,
            services: Vec::new(),
            action,
            log: false,
            sync: None,
            agent: None,
        }
    }

    /// Its stable identity: see [`rule_id`].
    pub fn id(&self) -> u32 {
        rule_id(&self.name)
    }

    /// Whether it matches the packet.
    pub fn matches(&self, query: &Query) -> bool {
        self.from.contains(query.zone_from)
            && self.to.contains(query.zone_to)
            && self.source.contains(query.src)
            && self.destination.contains(query.dst)
            && self.identities.contains(&query.identity)
            && self.serves(query)
    }

    /// Whether one of its services matches the packet.
    pub(crate) fn serves(&self, query: &Query) -> bool {
        self.services.is_empty() || self.services.iter().any(|service| service.contains(query))
    }

    /// Whether it is certain that every packet that `later` matches is matched by this rule. May
    /// say no where a closer look would say yes, never the other way round.
    pub fn covers(&self, later: &Self) -> bool {
        let one_covers = |service: &Service| self.services.iter().any(|mine| mine.covers(*service));
        let serves = self.services.is_empty()
            || self.services.iter().any(|mine| mine.covers(Service::Any))
            || !later.services.is_empty() && later.services.iter().all(one_covers);
        serves
            && self.from.covers(&later.from)
            && self.to.covers(&later.to)
            && self.source.covers(&later.source)
            && self.destination.covers(&later.destination)
            && self.identities.covers(&later.identities)
    }
}

/// The stable identity of the rule of this name: FNV-1a of 32 bits over its UTF-8 (RFC 9923), so
/// that nodes agree on it and it survives a rule's move within its set.
pub const fn rule_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_those_of_fnv_1a() {
        // The test vectors of the algorithm's authors.
        assert_eq!(rule_id(""), 0x811c_9dc5);
        assert_eq!(rule_id("a"), 0xe40c_292c);
        assert_eq!(rule_id("foobar"), 0xbf9c_f968);
    }

    #[test]
    fn a_rule_covers_what_is_narrower_in_every_respect() {
        let any = Rule::new("any", Action::Allow);
        let web = Rule {
            services: vec![Service::Tcp(80, 90)],
            ..any.clone()
        };
        let one = Rule {
            services: vec![Service::Tcp(80, 80)],
            ..any.clone()
        };
        let from = Rule {
            from: [1].into_iter().collect(),
            ..any.clone()
        };
        let source = Rule {
            source: AddressSet::parse(["10.0.0.0/8"]).unwrap(),
            ..any.clone()
        };
        let staff = Rule {
            identities: IdentitySet {
                groups: vec!["staff".into()],
                ..IdentitySet::ANY
            },
            ..any.clone()
        };
        let written_any = Rule {
            services: vec![Service::Any],
            ..any.clone()
        };
        for narrower in [&web, &from, &source, &staff, &written_any] {
            assert!(any.covers(narrower), "{narrower:?}");
        }
        for narrower in [&web, &from, &source, &staff] {
            assert!(!narrower.covers(&any), "{narrower:?}");
        }
        assert!(written_any.covers(&any));
        assert!(web.covers(&one) && !one.covers(&web));
        assert!(!web.covers(&from) && !from.covers(&source));
    }
}
