//! A node's answers about common state, without devices and without peers.

use std::thread;

use engine::{NodeShared, Policy, Snapshot};
use membership::{Member, View};
use parking_lot::Mutex;
use state::{CommonMap, HybridClock, NODES_MAX, NodeSet};

use super::*;
use crate::common_store::LocalStore;

const SINGLE: &str = include_str!("../../../../examples/single.toml");
const THREE: &str = include_str!("../../../../examples/three-node/n1.toml");
const RULES: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";

fn id(raw: u8) -> NodeId {
    NodeId::new(raw).unwrap()
}

/// A cluster's store in which one node never confirms anything and another cannot use any rules.
struct Lossy {
    map: Mutex<(CommonMap, HybridClock)>,
    silent: Option<NodeId>,
    refusing: Option<NodeId>,
}

impl CommonStore for Lossy {
    fn put(
        &self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    ) -> Result<Reached, StoreError> {
        if let CommonValue::Policy(text) = &value {
            for node in [1, 2, 3]
                .map(id)
                .into_iter()
                .filter(|n| Some(*n) != self.silent)
            {
                let refused = Some(node) == self.refusing;
                let at = PolicyAt {
                    generation: if refused { 1 } else { text.generation },
                    tried: text.generation,
                    error: refused.then(|| "no such zone".into()),
                };
                self.put_later(CommonKey::PolicyAt(node), CommonValue::PolicyAt(at), None);
            }
        }
        let (map, clock) = &mut *self.map.lock();
        map.put(key, value, life_ms, clock.now(1), 0)?;
        Ok(Reached {
            lacking: self.silent.into_iter().collect(),
        })
    }

    fn delete(&self, key: CommonKey) -> Result<Reached, StoreError> {
        let (map, clock) = &mut *self.map.lock();
        map.delete(&key, clock.now(1));
        Ok(Reached {
            lacking: self.silent.into_iter().collect(),
        })
    }

    fn of_kind(&self, kind: CommonKind) -> Result<Vec<CommonEntry>, StoreError> {
        Ok(self.map.lock().0.of_kind(kind, 0).collect())
    }

    fn count(&self, kind: CommonKind) -> u64 {
        self.map.lock().0.len_of(kind) as u64
    }

    fn put_later(&self, key: CommonKey, value: CommonValue, life_ms: Option<u64>) -> bool {
        let (map, clock) = &mut *self.map.lock();
        map.put(key, value, life_ms, clock.now(1), 0).unwrap();
        true
    }
}

/// A node of this configuration; its policies offer what the store has when `tend` is called.
fn common(text: &str, store: impl FnOnce(&Arc<Policies>) -> Arc<dyn CommonStore>) -> Common {
    let config = Arc::new(Config::parse(text, "n.toml", "").unwrap());
    let states = [
        (1, MemberState::Active),
        (2, MemberState::Active),
        (3, MemberState::Joining),
        (4, MemberState::Dead),
    ];
    let members = states.map(|(raw, state)| Member {
        id: id(raw),
        state,
        incarnation: 0,
    });
    let view = |members: &[Member]| View {
        epoch: 0,
        join: 1,
        reunions: 0,
        digest: 0,
        members: members.to_vec(),
        owner: Box::new([None; state::SLOTS]),
        groups: vec![vec![]; NODES_MAX],
        targets: vec![NodeSet::EMPTY; NODES_MAX],
    };
    let members = match config.cluster {
        Some(_) => &members[..],
        None => &members[..0],
    };
    let node = Arc::new(NodeShared::new(view(members), Policy::new(&config.rules)));
    let policies = Policies::new(&config.rules, vec![], "n.toml".into(), node.clone());
    let policies = Arc::new(policies);
    Common {
        board: Arc::new(Board {
            view: Arc::new(Snapshot::new(view(members))),
            node,
            wake: Default::default(),
            commands: Default::default(),
            policies: policies.clone(),
            incarnation: 1,
            later_run: Default::default(),
            outrun: Default::default(),
            started_us: 0,
            synced: Default::default(),
            sync: Default::default(),
            members: Default::default(),
            drain: Default::default(),
            sync_busy: Default::default(),
            member_busy: Default::default(),
        }),
        store: store(&policies),
        config,
        policies,
        to_tell: AtomicBool::new(true),
    }
}

pub(crate) fn alone() -> Common {
    common(SINGLE, |policies| {
        let policies = policies.clone();
        let publish = move |map: &CommonMap, _| {
            if let Some(entry) = map.of_kind(CommonKind::Policy, 0).next() {
                let (text, by) = policy_of(&entry).unwrap();
                policies.offer(text.clone(), by);
            }
        };
        Arc::new(LocalStore::new(id(0), Box::new(publish)))
    })
}

pub(crate) fn of_three(silent: Option<u8>, refusing: Option<u8>) -> Common {
    common(THREE, |_| {
        Arc::new(Lossy {
            map: Mutex::new((CommonMap::new(), HybridClock::new(id(1)))),
            silent: silent.map(id),
            refusing: refusing.map(id),
        })
    })
}

fn login(name: &str, address: &str, groups: &[&str]) -> UserRequest {
    UserRequest::Login {
        name: name.into(),
        address: address.parse().unwrap(),
        groups: groups.iter().map(ToString::to_string).collect(),
        for_ms: None,
    }
}

fn add(net: &str) -> BlockRequest {
    BlockRequest::Add {
        net: net.parse().unwrap(),
        for_ms: None,
        note: "why".into(),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Answer<T>, kind: FailureKind, says: &str) {
    let failure = answer.unwrap_err();
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.message.contains(says), "{failure}");
}

#[test]
fn what_would_harm_the_gateway_is_not_blocked() {
    let common = alone();
    for (net, says) in [
        ("0.0.0.0/0", "is all of IPv4"),
        ("::/0", "is all of IPv6"),
        (
            "10.1.0.0/16",
            "10.1.0.0/16 has this gateway's own address on inside",
        ),
        ("10.1.0.1/32", "own address on inside"),
        ("128.0.0.0/1", ""),
        (
            "10.0.0.7/8",
            "has bits behind its prefix; write \"10.0.0.0/8\"",
        ),
        ("::ffff:10.0.0.0/104", "is IPv4 in the notation of IPv6"),
    ] {
        match says {
            "" => assert_eq!(common.change_block(add(net)).unwrap().entries, 1),
            says => refused(common.change_block(add(net)), FailureKind::Invalid, says),
        }
    }
    let forever = BlockRequest::Add {
        net: "192.0.2.0/24".parse().unwrap(),
        for_ms: Some(999),
        note: String::new(),
    };
    refused(
        common.change_block(forever),
        FailureKind::Invalid,
        "ask for 1s to 3650d",
    );
    let long = BlockRequest::Add {
        net: "192.0.2.0/24".parse().unwrap(),
        for_ms: None,
        note: "n".repeat(257),
    };
    refused(
        common.change_block(long),
        FailureKind::Invalid,
        "note has length 257",
    );
    assert_eq!(common.counts().blocks, 1);
}

#[test]
fn blocks_come_and_go() {
    let common = alone();
    let change = common.change_block(add("192.0.2.0/24")).unwrap();
    assert_eq!(
        (change.replaced, change.on),
        (None, vec!["gate".to_owned()])
    );
    let change = common.change_block(add("192.0.2.0/24")).unwrap();
    assert_eq!(change.replaced.as_deref(), Some("operator, why"));
    let entries = common.entries(CommonKind::Block).unwrap();
    let blocked = common.blocked(&entries[0]).unwrap();
    assert_eq!(
        (blocked.net.to_string(), &*blocked.node),
        ("192.0.2.0/24".into(), "gate")
    );
    let del = |net: &str| {
        common.change_block(BlockRequest::Del {
            net: net.parse().unwrap(),
        })
    };
    refused(
        del("192.0.2.7/32"),
        FailureKind::Absent,
        "192.0.2.7/32 is blocked as a part of 192.0.2.0/24; delete 192.0.2.0/24",
    );
    refused(del("192.0.3.0/24"), FailureKind::Absent, "is not blocked");
    assert_eq!(del("192.0.2.0/24").unwrap().entries, 1);
    assert_eq!(common.counts().blocks, 0);
}

#[test]
fn users_come_and_go() {
    let common = alone();
    for (request, says) in [
        (login("a b", "10.1.0.7", &[]), "\"a b\" is no name"),
        (login("alice", "10.1.0.7", &["a,b"]), "\"a,b\" is no name"),
        (login("alice", "10.1.0.7", &["g"; 17]), "17 groups"),
        (login("alice", "10.1.0.1", &[]), "own address on inside"),
        (login("alice", "0.0.0.0", &[]), "nobody sends from 0.0.0.0"),
        (login("alice", "ff02::1", &[]), "nobody sends from ff02::1"),
        (login("alice", "255.255.255.255", &[]), "nobody sends"),
    ] {
        refused(common.change_user(request), FailureKind::Invalid, says);
    }
    common
        .change_user(login("bob", "::ffff:10.1.0.7", &[]))
        .unwrap();
    let change = common
        .change_user(login("alice", "10.1.0.7", &["staff"]))
        .unwrap();
    assert_eq!(change.replaced.as_deref(), Some("bob"));
    common
        .change_user(login("alice", "fd00:1::7", &[]))
        .unwrap();
    common.change_user(login("carol", "10.1.0.8", &[])).unwrap();
    assert_eq!(common.counts().users, 3);

    let logout = |name: Option<&str>, address: Option<&str>| {
        common.change_user(UserRequest::Logout {
            name: name.map(str::to_owned),
            address: address.map(|address| address.parse().unwrap()),
        })
    };
    refused(
        logout(Some("bob"), None),
        FailureKind::Absent,
        "bob is not logged in;",
    );
    refused(
        logout(Some("carol"), Some("10.1.0.7")),
        FailureKind::Absent,
        "carol is not logged in at 10.1.0.7",
    );
    refused(
        logout(None, Some("10.1.0.9")),
        FailureKind::Absent,
        "nobody is logged in at 10.1.0.9",
    );
    assert_eq!(logout(Some("alice"), None).unwrap().entries, 2);
    assert_eq!(logout(None, Some("10.1.0.8")).unwrap().entries, 1);
    assert_eq!(common.counts().users, 0);
}

#[test]
fn what_has_lived_its_life_ends() {
    let common = alone();
    let request = UserRequest::Login {
        name: "alice".into(),
        address: "10.1.0.7".parse().unwrap(),
        groups: vec![],
        for_ms: Some(1_000),
    };
    common.change_user(request).unwrap();
    let entries = common.entries(CommonKind::User).unwrap();
    assert_eq!(common.logged_in(&entries[0]).unwrap().left_s, Some(1));
    let begun = Instant::now();
    while common.counts().users > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it lives for ever"
        );
        common.tend();
        thread::yield_now();
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "it ended early"
    );
}

/// Loads a text while the main thread's part is done beside.
fn load(common: &Common, text: &str) -> Answer<PolicyLoaded> {
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                common.tend();
                thread::yield_now();
            }
        });
        let loaded = common.load(text.into(), "new.toml".into());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        loaded
    })
}

#[test]
fn loaded_rules_are_in_force_when_the_answer_comes() {
    let common = alone();
    let loaded = load(&common, RULES).unwrap();
    let expected = PolicyLoaded {
        generation: 2,
        rules: 1,
        on: vec!["gate".into()],
        ..PolicyLoaded::default()
    };
    assert_eq!(loaded, expected);
    let policy = common.board.node.policy.load();
    assert_eq!(policy.generation, 2);
    let shown = common.shown().unwrap();
    assert_eq!((shown.generation, &*shown.source), (2, "new.toml"));
    assert_eq!(shown.text.as_deref(), Some(RULES));
    assert_eq!(shown.loaded_on.as_deref(), Some("gate"));

    let wrong = format!("{RULES}to = \"dmz\"\n");
    refused(
        load(&common, &wrong),
        FailureKind::Invalid,
        "new.toml:4:6: rule.all.to:",
    );
    assert_eq!(common.policy_in_force().generation, 2);
    assert_eq!(
        common.policy_in_force().error,
        None,
        "it was never in force anywhere"
    );
    assert_eq!(load(&common, RULES).unwrap().generation, 3);
}

#[test]
fn who_lacks_a_change_is_named() {
    let everywhere = of_three(None, None);
    let change = everywhere.change_block(add("192.0.2.0/24")).unwrap();
    assert_eq!(change.on, ["n1", "n2", "n3"], "the dead one is not asked");
    let common = of_three(Some(3), None);
    let change = common.change_user(login("alice", "10.1.0.7", &[])).unwrap();
    assert_eq!(
        (change.on, change.lacking),
        (vec!["n1".into(), "n2".into()], vec!["n3".into()])
    );
}

#[test]
fn who_cannot_use_rules_is_named() {
    let common = of_three(Some(3), Some(2));
    let loaded = common.load(RULES.into(), "new.toml".into()).unwrap();
    let expected = PolicyLoaded {
        generation: 33,
        rules: 1,
        warnings: vec![],
        on: vec!["n1".into()],
        lacking: vec!["n3".into()],
        refused: vec![PolicyRefusal {
            node: "n2".into(),
            error: "no such zone".into(),
        }],
    };
    assert_eq!(loaded, expected);
    // What node 2 has tried is known, also when nobody has it.
    assert_eq!(common.known_generation().unwrap(), 33);
    // Rules that others loaded meanwhile are said to be those in force.
    refused(
        common.wait_for_policy(65, &[]),
        FailureKind::Unavailable,
        "other rules, generation 33, were loaded on n1",
    );
}

#[test]
fn networks_keep_their_families() {
    for net in [
        "10.0.0.0/8",
        "0.0.0.0/1",
        "192.0.2.7/32",
        "fd00::/8",
        "::/1",
        "fd00::7/128",
    ] {
        let net: IpNet = net.parse().unwrap();
        assert_eq!(ip_net(state_net(net)), net);
    }
}

#[test]
fn long_names_of_files_keep_their_end() {
    let path = format!("/{}/rules\n.toml", "é".repeat(200));
    let named = named(path);
    assert!(
        named.len() <= SOURCE_BYTES_MAX && named.ends_with("é/rules.toml"),
        "{named}"
    );
}
