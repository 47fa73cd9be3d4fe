//! `[[rule]]` and `[sync]`.

use std::time::Duration;

use policy::{
    Action, AddressSet, ClassSync, IdentitySet, Rule, RuleSet, Service, SyncDefaults, SyncPolicy,
    ZoneSet, Zones,
};
use toml::de::DeValue;

use crate::keys::{DELAYED, RULE, SYNC};
use crate::reader::{Field, Section};
use crate::{Doubt, Fault};

/// The generation of the rules of a file that was just read.
pub(crate) const FIRST_GENERATION: u32 = 1;

pub(crate) fn rules(
    top: &Section<'_>,
    zones: Zones,
    agents: &[String],
    generation: u32,
) -> Option<RuleSet> {
    let sections = top.sections("rule", RULE);
    if sections.is_empty() && top.field("rule").is_none() {
        top.reader.warn(top.at, "rule", Doubt::NoRules);
    }
    let rules: Vec<Rule> = sections
        .iter()
        .map(|section| rule(section, &zones, agents))
        .collect();
    let defaults = defaults(top);
    let set = match RuleSet::new(generation, zones, rules, defaults) {
        Ok(set) => set,
        Err(error) => {
            let section = error.index().and_then(|index| sections.get(index));
            // What is no name was reported where it is.
            if !matches!(
                error,
                policy::InvalidRuleSet::Unnamed { .. }
                    | policy::InvalidRuleSet::IdentityName { .. }
            ) {
                let name = match &error {
                    policy::InvalidRuleSet::SameIdentity { name, .. } => {
                        section.and_then(|section| naming(section, name))
                    }
                    _ => None,
                };
                let name = name.or_else(|| section?.field("name"));
                let at = name.as_ref().map(|field| field.span.start);
                let at = at.or(section.map(|section| section.at));
                let key = name.map(|field| field.path);
                let key = key.or_else(|| Some(section?.key("name")));
                let key = key.unwrap_or_else(|| "rule".to_owned());
                top.reader
                    .fail(at.unwrap_or(top.at), key, Fault::Rules(error));
            }
            return None;
        }
    };
    for covered in set.covered() {
        let section = &sections[covered.rule];
        let by = set.rules()[covered.by].name.clone();
        section
            .reader
            .warn(section.at, section.path.clone(), Doubt::Covered { by });
    }
    for (section, rule) in sections.iter().zip(set.rules()) {
        let one_family = |set: &AddressSet, v4: bool| {
            let of_family = |net: &ipnet::IpNet| net.addr().is_ipv4() == v4;
            !set.include().is_empty() && set.include().iter().all(of_family)
        };
        let never = |v4| one_family(&rule.source, v4) && one_family(&rule.destination, !v4);
        if never(true) || never(false) {
            section
                .reader
                .warn(section.at, section.path.clone(), Doubt::Families);
        }
    }
    Some(set)
}

fn rule(section: &Section<'_>, zones: &Zones, agents: &[String]) -> Rule {
    let name = section
        .required("name", "name = \"web\" in each [[rule]]")
        .and_then(|field| {
            let name = field.string()?;
            let length = name.chars().count();
            if !(1..=63).contains(&length) || name.chars().any(char::is_control) {
                field.fail(Fault::RuleName(length));
            }
            Some(name)
        });
    let actions = [
        ("allow", Action::Allow),
        ("deny", Action::Deny),
        ("reject", Action::Reject),
    ];
    let action = section
        .required("action", "action = \"allow\" in each [[rule]]")
        .and_then(|field| field.choice(&actions));
    Rule {
        name: name.unwrap_or_default().to_owned(),
        from: zone_set(section, "from", zones),
        to: zone_set(section, "to", zones),
        source: address_set(section, "source"),
        destination: address_set(section, "destination"),
        identities: IdentitySet {
            users: names(section, "user"),
            groups: names(section, "group"),
        },
        services: services(section),
        action: action.unwrap_or(Action::Deny),
        log: section.bool_or("log", false),
        sync: section.field("sync").and_then(|field| sync_policy(&field)),
        agent: agent(section, agents, action),
    }
}

/// The number of the agent that is named.
fn agent(section: &Section<'_>, agents: &[String], action: Option<Action>) -> Option<u8> {
    let field = section.field("agent")?;
    let name = field.string()?;
    if action.is_some_and(|action| action != Action::Allow) {
        field.fail(Fault::AgentOfDenied);
    }
    let number = agents.iter().position(|agent| agent == name);
    if number.is_none() {
        field.fail(match agents {
            [] => Fault::NoAgents(name.to_owned()),
            _ => Fault::UnknownAgent {
                agent: name.to_owned(),
                agents: agents.join(", "),
            },
        });
    }
    number.map(|number| number as u8)
}

/// The strings of a list that must not be empty: an empty list could be read as nothing or as
/// everything.
fn terms<'a>(section: &Section<'a>, key: &str) -> Option<Vec<(Field<'a>, &'a str)>> {
    let field = section.field(key)?;
    if matches!(field.value, DeValue::Array(items) if items.is_empty()) {
        field.fail(Fault::EmptyList);
    }
    Some(field.strings())
}

fn zone_set(section: &Section<'_>, key: &str, zones: &Zones) -> ZoneSet {
    let Some(terms) = terms(section, key) else {
        return ZoneSet::ANY;
    };
    let mut set = ZoneSet::EMPTY;
    for (item, name) in terms {
        match zones.id(name) {
            Some(id) => set.insert(id),
            None if name == "any" => set = ZoneSet::ANY,
            None => {
                let known: Vec<_> = zones.names().collect();
                let (zone, zones) = (name.to_owned(), known.join(", "));
                item.fail(Fault::UnknownZone { zone, zones });
            }
        }
    }
    set
}

fn address_set(section: &Section<'_>, key: &str) -> AddressSet {
    let terms = terms(section, key).unwrap_or_default();
    let good = terms.into_iter().filter_map(|(item, term)| {
        let checked = AddressSet::parse([term]);
        checked
            .map_err(|error| item.fail(Fault::Network(error)))
            .is_ok()
            .then_some(term)
    });
    // Each term was read by itself, so that all bad ones are reported; together they cannot fail.
    AddressSet::parse(good).unwrap_or_default()
}

/// Names of users or groups. An empty list was reported as one, and the rule must not become one
/// for everybody by what is left of it: the whole set is refused anyway.
fn names(section: &Section<'_>, key: &str) -> Vec<String> {
    let terms = terms(section, key).unwrap_or_default();
    let name = |(item, name): (Field<'_>, &str)| {
        policy::check_name(name)
            .map_err(|error| item.fail(Fault::Identity(error)))
            .ok()?;
        Some(name.to_owned())
    };
    terms.into_iter().filter_map(name).collect()
}

/// Where a rule names a user or a group.
fn naming<'a>(section: &Section<'a>, name: &str) -> Option<Field<'a>> {
    let fields = ["user", "group"]
        .into_iter()
        .filter_map(|key| section.field(key));
    let mut items = fields.flat_map(|field| field.strings());
    items
        .find(|(_, item)| *item == name)
        .map(|(field, _)| field)
}

fn services(section: &Section<'_>) -> Vec<Service> {
    let terms = terms(section, "service").unwrap_or_default();
    let service = |(item, term): (Field<'_>, &str)| {
        term.parse()
            .map_err(|error| item.fail(Fault::Service(error)))
            .ok()
    };
    terms.into_iter().filter_map(service).collect()
}

fn defaults(top: &Section<'_>) -> SyncDefaults {
    let section = top.section("sync", SYNC);
    let or = |key: &str, default| {
        section
            .field(key)
            .and_then(|field| sync_policy(&field))
            .unwrap_or(default)
    };
    let classes = [("ack", ClassSync::Ack), ("async", ClassSync::Async)];
    let default = SyncDefaults::default();
    SyncDefaults {
        tcp: or("tcp", default.tcp),
        udp: or("udp", default.udp),
        icmp: or("icmp", default.icmp),
        other: or("other", default.other),
        expectations: section.choice_or("expectations", &classes, default.expectations),
        marks: section.choice_or("marks", &classes, default.marks),
    }
}

const SYNC_FORMS: &str = "\"ack\", \"async\", \"none\" or { delayed = \"2s\" }";

/// `"ack"`, `"async"`, `"none"` or `{ delayed = "2s" }`.
fn sync_policy(field: &Field<'_>) -> Option<SyncPolicy> {
    match field.value {
        DeValue::String(text) => match text.as_ref() {
            "ack" => Some(SyncPolicy::Ack),
            "async" => Some(SyncPolicy::Async),
            "none" => Some(SyncPolicy::None),
            _ => {
                let (value, choices) = (text.to_string(), SYNC_FORMS.to_owned());
                field.fail(Fault::Choice { value, choices });
                None
            }
        },
        DeValue::Table(_) => {
            let section = field.section(DELAYED)?;
            let delay = section.required("delayed", "sync = { delayed = \"2s\" }")?;
            let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
            Some(SyncPolicy::Delayed(
                delay.duration(range)?.as_millis() as u32
            ))
        }
        _ => field.wrong_type(SYNC_FORMS),
    }
}
