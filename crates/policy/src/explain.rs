//! Why a packet is decided as it is, for people.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use state::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

use crate::{Decision, Query, Rule, RuleSet, Zones};

/// A condition of a rule that a packet does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The zone that it comes from.
    From,
    /// The zone that it goes to.
    To,
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// Protocol, port, or ICMP's type and code.
    Service,
    /// Who is logged in at the source address.
    Identity,
}

/// What became of the packet at one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<'a> {
    /// The rule's position, from 0.
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// Every condition that the packet does not meet; none means that the rule matched.
    pub mismatches: Vec<Mismatch>,
}

/// How a rule set decides on a packet: each rule up to the one that matched, and the decision.
/// Its display is for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The packet.
    pub query: Query,
    /// The rules that were asked.
    pub steps: Vec<Step<'a>>,
    /// What the last of them, or the default, decides.
    pub decision: Decision,
    /// How many rules were not asked.
    pub skipped: usize,
    zones: &'a Zones,
    user: Option<String>,
}

impl RuleSet {
    /// Says rule by rule why the packet is decided as it is.
    pub fn explain(&self, query: &Query) -> Explanation<'_> {
        let decision = self.decide(query);
        let asked = match decision.rule_index {
            Some(index) => &self.rules()[..=index as usize],
            None => self.rules(),
        };
        let steps = asked.iter().enumerate().map(|(index, rule)| Step {
            index,
            rule,
            mismatches: mismatches(rule, query),
        });
        Explanation {
            query: *query,
            steps: steps.collect(),
            decision,
            skipped: self.rules().len() - asked.len(),
            zones: self.zones(),
            user: None,
        }
    }
}

fn mismatches(rule: &Rule, query: &Query) -> Vec<Mismatch> {
    let conditions = [
        (rule.from.contains(query.zone_from), Mismatch::From),
        (rule.to.contains(query.zone_to), Mismatch::To),
        (rule.source.contains(query.src), Mismatch::Source),
        (rule.destination.contains(query.dst), Mismatch::Destination),
        (rule.serves(query), Mismatch::Service),
        (
            rule.identities.contains(&query.identity),
            Mismatch::Identity,
        ),
    ];
    conditions
        .into_iter()
        .filter(|(met, _)| !met)
        .map(|(_, mismatch)| mismatch)
        .collect()
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = |id: u8| Name(self.zones.name(id), id);
        writeln!(
            f,
            "{} from {} to {}",
            Packet(&self.query),
            zone(self.query.zone_from),
            zone(self.query.zone_to)
        )?;
        for step in &self.steps {
            write!(f, "  {:>4}  {}: ", step.index + 1, step.rule.name)?;
            if step.mismatches.is_empty() {
                writeln!(f, "matches")?;
            }
            for (n, mismatch) in step.mismatches.iter().enumerate() {
                f.write_str(if n == 0 { "" } else { "; " })?;
                self.mismatch(f, step.rule, *mismatch)?;
            }
            if !step.mismatches.is_empty() {
                writeln!(f)?;
            }
        }
        let Decision {
            action,
            sync,
            delay_ms,
            ..
        } = self.decision;
        let Some(index) = self.decision.rule_index else {
            return write!(
                f,
                "{action}: no rule matches, and what no rule matches is denied"
            );
        };
        let rule = &self.steps[index as usize].rule.name;
        write!(f, "{action} by rule \"{rule}\"")?;
        match sync {
            state::SyncMode::None => {}
            state::SyncMode::Delayed => write!(f, ", replicated after {delay_ms} ms")?,
            state::SyncMode::Async => write!(f, ", replicated behind its packets (async)")?,
            state::SyncMode::Ack => write!(f, ", held until its backups acknowledge (ack)")?,
        }
        match self.skipped {
            0 => Ok(()),
            1 => write!(f, "; 1 later rule was not asked"),
            n => write!(f, "; {n} later rules were not asked"),
        }
    }
}

impl Explanation<'_> {
    /// Calls the user at the source address by this name: the query has only its hash.
    #[must_use]
    pub fn of_user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self
    }

    fn mismatch(&self, f: &mut fmt::Formatter<'_>, rule: &Rule, mismatch: Mismatch) -> fmt::Result {
        let zones = |set: &crate::ZoneSet| {
            let names: Vec<_> = set
                .iter()
                .map(|id| Name(self.zones.name(id), id).to_string())
                .collect();
            names.join(", ")
        };
        let query = &self.query;
        match mismatch {
            Mismatch::From => write!(f, "not from {}", zones(&rule.from)),
            Mismatch::To => write!(f, "not to {}", zones(&rule.to)),
            Mismatch::Source => write!(f, "source {} not in {}", ip(query.src), rule.source),
            Mismatch::Destination => {
                write!(
                    f,
                    "destination {} not in {}",
                    ip(query.dst),
                    rule.destination
                )
            }
            Mismatch::Service => {
                let services: Vec<_> = rule.services.iter().map(ToString::to_string).collect();
                write!(f, "{} not in {}", Protocol(query), services.join(", "))
            }
            Mismatch::Identity if query.identity.is_none() => {
                write!(f, "no user is logged in at {}", ip(query.src))
            }
            Mismatch::Identity => {
                let name = self.user.as_deref().unwrap_or("at its source");
                write!(f, "user {name} is not in {}", rule.identities)
            }
        }
    }
}

/// A zone's name, or its number when it has none.
struct Name<'a>(Option<&'a str>, u8);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => f.write_str(name),
            None => write!(f, "zone {}", self.1),
        }
    }
}

/// Protocol and port or type, in the notation of services.
struct Protocol<'a>(&'a Query);

impl fmt::Display for Protocol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = self.0;
        match query.proto {
            PROTO_TCP => write!(f, "tcp/{}", query.dport),
            PROTO_UDP => write!(f, "udp/{}", query.dport),
            PROTO_ICMP => write!(f, "icmp/{}/{}", query.icmp_type, query.icmp_code),
            PROTO_ICMPV6 => write!(f, "icmpv6/{}/{}", query.icmp_type, query.icmp_code),
            proto => write!(f, "proto/{proto}"),
        }
    }
}

struct Packet<'a>(&'a Query);

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = self.0;
        let (src, dst) = (ip(query.src), ip(query.dst));
        match query.proto {
            PROTO_TCP | PROTO_UDP => {
                let name = if query.proto == PROTO_TCP {
                    "tcp"
                } else {
                    "udp"
                };
                let (src, dst) = (
                    SocketAddr::new(src, query.sport),
                    SocketAddr::new(dst, query.dport),
                );
                write!(f, "{name} {src} -> {dst}")
            }
            _ => write!(f, "{} {src} -> {dst}", Protocol(query)),
        }
    }
}

fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, AddressSet, Identity, IdentitySet, Service, SyncDefaults, SyncPolicy};
    use state::v4_mapped;

    #[test]
    fn an_explanation_names_what_did_not_match() {
        let zones = Zones::new(["inside", "outside"]).unwrap();
        let any = Rule::new("lan", Action::Allow);
        let rules = vec![
            Rule {
                from: [1].into_iter().collect(),
                source: AddressSet::parse(["10.0.0.0/8", "!10.1.2.3"]).unwrap(),
                ..any.clone()
            },
            Rule {
                name: "web".into(),
                services: vec![Service::Tcp(80, 80), Service::Tcp(8000, 8100)],
                sync: Some(SyncPolicy::Delayed(2000)),
                ..any.clone()
            },
            Rule {
                name: "rest".into(),
                action: Action::Reject,
                ..any
            },
        ];
        let set = RuleSet::new(1, zones, rules, SyncDefaults::default()).unwrap();
        let query = Query {
            zone_from: 0,
            zone_to: 1,
            src: v4_mapped([10, 1, 2, 3]),
            dst: v4_mapped([10, 2, 0, 1]),
            sport: 4000,
            dport: 80,
            proto: PROTO_TCP,
            ..Query::default()
        };
        assert_eq!(
            set.explain(&query).to_string(),
            "tcp 10.1.2.3:4000 -> 10.2.0.1:80 from inside to outside\n     \
             1  lan: not from outside; source 10.1.2.3 not in 10.0.0.0/8, !10.1.2.3/32\n     \
             2  web: matches\n\
             allow by rule \"web\", replicated after 2000 ms; 1 later rule was not asked"
        );
        let ping = Query {
            proto: PROTO_ICMP,
            icmp_type: 8,
            zone_to: 9,
            ..query
        };
        assert_eq!(
            set.explain(&ping).to_string(),
            "icmp/8/0 10.1.2.3 -> 10.2.0.1 from inside to zone 9\n     \
             1  lan: not from outside; source 10.1.2.3 not in 10.0.0.0/8, !10.1.2.3/32\n     \
             2  web: icmp/8/0 not in tcp/80, tcp/8000-8100\n     \
             3  rest: matches\n\
             reject by rule \"rest\""
        );
    }

    #[test]
    fn an_explanation_says_who_is_not_meant() {
        let rule = Rule {
            identities: IdentitySet {
                users: vec!["alice".into()],
                groups: vec!["staff".into()],
            },
            ..Rule::new("office", Action::Allow)
        };
        let set = RuleSet::new(1, Zones::default(), vec![rule], SyncDefaults::default()).unwrap();
        let nobody = Query {
            src: v4_mapped([10, 1, 0, 7]),
            ..Query::default()
        };
        let line = |text: String| text.lines().nth(1).unwrap().trim().to_owned();
        assert_eq!(
            line(set.explain(&nobody).to_string()),
            "1  office: no user is logged in at 10.1.0.7"
        );
        let bob = Query {
            identity: Identity::new("bob", ["guests"]),
            ..nobody
        };
        assert_eq!(
            line(set.explain(&bob).of_user("bob").to_string()),
            "1  office: user bob is not in alice, group staff"
        );
        assert_eq!(
            line(set.explain(&bob).to_string()),
            "1  office: user at its source is not in alice, group staff"
        );
        let member = Query {
            identity: Identity::new("bob", ["staff"]),
            ..nobody
        };
        assert_eq!(line(set.explain(&member).to_string()), "1  office: matches");
    }

    #[test]
    fn an_explanation_of_the_default_says_so() {
        let set = RuleSet::new(1, Zones::default(), vec![], SyncDefaults::default()).unwrap();
        let text = set.explain(&Query::default()).to_string();
        assert!(
            text.ends_with("deny: no rule matches, and what no rule matches is denied"),
            "{text}"
        );
    }
}
