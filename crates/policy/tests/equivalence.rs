//! The compiled classifier says what the rules say.

use policy::{
    Action, AddressSet, Classifier, DEFAULT_DENY, Decision, Identity, IdentitySet, Query, Rule,
    RuleSet, Service, SyncDefaults, SyncPolicy, ZoneSet, Zones,
};
use proptest::prelude::*;
use state::{SyncMode, v4_mapped};

/// Few networks that nest, touch and differ in family, so that rules overlap often.
const NETS: [&str; 14] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "10.1.3.0/24",
    "11.0.0.0/8",
    "0.0.0.0/0",
    "255.255.255.255",
    "0.0.0.0",
    "::/0",
    "fd00::/8",
    "fd00:1::/64",
    "fd00:1::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

const SERVICES: [&str; 16] = [
    "any",
    "tcp/80",
    "tcp/79",
    "tcp/1-80",
    "tcp/80-65535",
    "tcp/*",
    "udp/53",
    "udp/*",
    "udp/1-65535",
    "icmp/echo",
    "icmp/8/0",
    "icmp/*",
    "icmpv6/echo",
    "icmpv6/*",
    "proto/47",
    "proto/255",
];

fn address_set() -> impl Strategy<Value = AddressSet> {
    let term = (0..NETS.len(), prop::bool::weighted(0.3))
        .prop_map(|(net, not)| format!("{}{}", if not { "!" } else { "" }, NETS[net]));
    prop::collection::vec(term, 0..4)
        .prop_map(|terms| AddressSet::parse(terms.iter().map(String::as_str)).unwrap())
}

fn zone_set() -> impl Strategy<Value = ZoneSet> {
    prop_oneof![
        Just(ZoneSet::ANY),
        prop::collection::vec(0_u8..4, 0..3).prop_map(|zones| zones.into_iter().collect()),
    ]
}

/// Few names, so that users and rules meet; some are both a user's and a group's.
const NAMES: [&str; 5] = ["alice", "bob", "staff", "ops", "guests"];

fn names(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 0..=most)
}

fn identity_set() -> impl Strategy<Value = IdentitySet> {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    prop_oneof![
        2 => Just(IdentitySet::ANY),
        1 => (names(2), names(2)).prop_map(move |(users, groups)| IdentitySet {
            users: owned(users),
            groups: owned(groups),
        }),
    ]
}

/// Nobody, or a user with up to two groups more than there are names: also as many as fit.
fn identity() -> impl Strategy<Value = Identity> {
    let user = prop_oneof![prop::sample::select(&NAMES[..]), Just("stranger")];
    prop_oneof![
        1 => Just(Identity::NONE),
        3 => (user, names(policy::GROUPS_MAX)).prop_map(|(user, groups)| Identity::new(user, groups)),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let services = prop::collection::vec(0..SERVICES.len(), 0..3).prop_map(|at| {
        at.into_iter()
            .map(|n| SERVICES[n].parse::<Service>().unwrap())
            .collect()
    });
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Deny),
        Just(Action::Reject)
    ];
    let sync = prop_oneof![
        Just(None),
        Just(Some(SyncPolicy::Ack)),
        Just(Some(SyncPolicy::None)),
        Just(Some(SyncPolicy::Async)),
        (1_u32..5000).prop_map(|ms| Some(SyncPolicy::Delayed(ms))),
    ];
    (
        zone_set(),
        zone_set(),
        address_set(),
        address_set(),
        services,
        action,
        sync,
        any::<bool>(),
        identity_set(),
    )
        .prop_map(
            |(from, to, source, destination, services, action, sync, log, identities)| Rule {
                name: String::new(),
                from,
                to,
                source,
                destination,
                identities,
                services,
                action,
                log,
                sync,
                agent: log.then_some(3),
            },
        )
}

fn rule_set(rules: std::ops::Range<usize>) -> impl Strategy<Value = RuleSet> {
    prop::collection::vec(rule(), rules).prop_map(|mut rules| {
        for (n, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule {n}");
        }
        RuleSet::new(
            7,
            Zones::new(["a", "b", "c"]).unwrap(),
            rules,
            SyncDefaults::default(),
        )
        .unwrap()
    })
}

/// Addresses at the edges of the networks above, and one beside each edge.
fn address() -> impl Strategy<Value = [u8; 16]> {
    let edge = (0..NETS.len(), any::<bool>(), -1_i128..2).prop_map(|(net, upper, beside)| {
        let net: ipnet::IpNet = NETS[net]
            .parse()
            .or_else(|_| {
                NETS[net]
                    .parse::<std::net::IpAddr>()
                    .map(ipnet::IpNet::from)
            })
            .unwrap();
        let end = if upper {
            net.broadcast()
        } else {
            net.network()
        };
        let bits = match end {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            std::net::IpAddr::V6(v6) => v6.to_bits(),
        };
        bits.wrapping_add_signed(beside).to_be_bytes()
    });
    prop_oneof![4 => edge, 1 => any::<[u8; 16]>(), 1 => any::<[u8; 4]>().prop_map(v4_mapped)]
}

fn query() -> impl Strategy<Value = Query> {
    let proto = prop_oneof![
        Just(1),
        Just(6),
        Just(17),
        Just(47),
        Just(58),
        Just(255),
        Just(0),
        any::<u8>()
    ];
    let port = prop_oneof![
        Just(0),
        Just(53),
        Just(79),
        Just(80),
        Just(81),
        Just(65535),
        any::<u16>()
    ];
    let kind = prop_oneof![Just(0), Just(8), Just(128), any::<u8>()];
    (
        0_u8..5,
        0_u8..5,
        address(),
        address(),
        port,
        proto,
        kind,
        0_u8..2,
        identity(),
    )
        .prop_map(
            |(zone_from, zone_to, src, dst, dport, proto, icmp_type, icmp_code, identity)| Query {
                zone_from,
                zone_to,
                src,
                dst,
                sport: 1024,
                dport,
                proto,
                icmp_type,
                icmp_code,
                identity,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_equals_interpreted(
        set in rule_set(0..12),
        queries in prop::collection::vec(query(), 100),
    ) {
        let classifier = Classifier::compile(&set);
        for query in &queries {
            prop_assert_eq!(classifier.classify(query), set.decide(query), "{}", set.explain(query));
        }
    }

    #[test]
    fn also_across_words_of_the_vectors(
        set in rule_set(60..140),
        queries in prop::collection::vec(query(), 40),
    ) {
        let classifier = Classifier::compile(&set);
        for query in &queries {
            prop_assert_eq!(classifier.classify(query), set.decide(query), "{}", set.explain(query));
        }
    }

    #[test]
    fn a_covered_rule_never_decides(
        set in rule_set(2..12),
        queries in prop::collection::vec(query(), 100),
    ) {
        let covered: Vec<u32> = set.covered().iter().map(|covered| covered.rule as u32).collect();
        for query in &queries {
            let index = set.decide(query).rule_index;
            prop_assert!(index.is_none_or(|index| !covered.contains(&index)), "{}", set.explain(query));
        }
    }
}

#[test]
fn the_first_match_decides_and_the_rest_is_denied() {
    let any = Rule::new("block", Action::Deny);
    let rules = vec![
        Rule {
            source: AddressSet::parse(["10.9.0.0/16"]).unwrap(),
            log: true,
            ..any.clone()
        },
        Rule {
            name: "web".into(),
            from: [0].into_iter().collect(),
            to: [1].into_iter().collect(),
            services: vec!["tcp/80".parse().unwrap()],
            action: Action::Allow,
            ..any.clone()
        },
        Rule {
            name: "dns".into(),
            services: vec!["udp/53".parse().unwrap()],
            action: Action::Allow,
            sync: Some(SyncPolicy::Delayed(2000)),
            ..any.clone()
        },
    ];
    let set = RuleSet::new(
        3,
        Zones::new(["in", "out"]).unwrap(),
        rules,
        SyncDefaults::default(),
    )
    .unwrap();
    let classifier = Classifier::compile(&set);
    assert_eq!(classifier.generation(), 3);
    let web = Query {
        zone_from: 0,
        zone_to: 1,
        src: v4_mapped([10, 1, 0, 1]),
        dst: v4_mapped([10, 2, 0, 1]),
        sport: 5000,
        dport: 80,
        proto: 6,
        ..Query::default()
    };
    let decision = |rule: u32, action, sync, delay_ms, log| Decision {
        action,
        rule_index: Some(rule),
        rule_id: set.rules()[rule as usize].id(),
        sync,
        delay_ms,
        log,
        agent: None,
    };
    let denied = Decision {
        action: Action::Deny,
        rule_index: None,
        rule_id: DEFAULT_DENY,
        sync: SyncMode::None,
        delay_ms: 0,
        log: false,
        agent: None,
    };
    let table = [
        (web, decision(1, Action::Allow, SyncMode::Ack, 0, false)),
        (
            Query {
                src: v4_mapped([10, 9, 3, 4]),
                ..web
            },
            decision(0, Action::Deny, SyncMode::None, 0, true),
        ),
        (
            Query {
                proto: 17,
                dport: 53,
                zone_from: 1,
                ..web
            },
            decision(2, Action::Allow, SyncMode::Delayed, 2000, false),
        ),
        (Query { dport: 81, ..web }, denied),
        (
            Query {
                zone_from: 1,
                zone_to: 0,
                ..web
            },
            denied,
        ),
        (
            Query {
                zone_from: 253,
                ..web
            },
            denied,
        ),
    ];
    for (query, expected) in table {
        assert_eq!(
            classifier.classify(&query),
            expected,
            "{}",
            set.explain(&query)
        );
    }
}
