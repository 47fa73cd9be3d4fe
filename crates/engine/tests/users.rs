//! Rules by user and group: who is logged in decides, also of flows that are open already.

mod common;

use std::sync::Arc;

use common::*;
use policy::{Rule, SyncPolicy};
use state::{CommonKey, CommonKind, CommonMap, CommonValue, HybridClock, Net, User, v4_mapped};
use wire::build;
use wire::tcp::{ACK, SYN};

const C: &str = "10.1.0.10:40000";
const S: &str = "10.2.0.10:80";
const OTHER: [u8; 4] = [10, 1, 0, 99];
const CLIENT_AT: [u8; 4] = [10, 1, 0, 10];

/// A node whose rules let staff use the web, and everybody the probe.
fn rig() -> Rig {
    let staff = Rule {
        identities: policy::IdentitySet {
            users: vec!["alice".into()],
            groups: vec!["staff".into()],
        },
        ..allow("staff", &["tcp/80"], SyncPolicy::Async)
    };
    Rig::new(Setup {
        cluster: false,
        rules: vec![staff, allow("probe", &["udp/9000"], SyncPolicy::Async)],
        ..Setup::default()
    })
}

/// What the sync core has, and how the workers come to see it.
struct Users {
    map: CommonMap,
    clock: HybridClock,
}

impl Users {
    fn new() -> Self {
        Self {
            map: CommonMap::new(),
            clock: HybridClock::new(node(ME)),
        }
    }

    fn publish(&mut self, rig: &Rig, kind: CommonKind) {
        let kinds = [kind].into_iter().collect();
        let next = rig.node.common.load().rebuild(&self.map, kinds);
        rig.node.common.publish(Arc::new(next));
    }

    fn login(&mut self, rig: &Rig, address: [u8; 4], name: &str, groups: &[&str]) {
        let user = User {
            name: name.into(),
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        let (key, stamp) = (CommonKey::User(v4_mapped(address)), self.clock.now(1));
        let put = self.map.put(key, CommonValue::User(user), None, stamp, 0);
        put.unwrap();
        self.publish(rig, CommonKind::User);
    }

    fn logout(&mut self, rig: &Rig, address: [u8; 4]) {
        let key = CommonKey::User(v4_mapped(address));
        assert!(self.map.delete(&key, self.clock.now(1)));
        self.publish(rig, CommonKind::User);
    }
}

fn syn() -> Vec<u8> {
    build::tcp(at(C), at(S), SYN, 100, 0, &[])
}

fn answer() -> Vec<u8> {
    build::tcp(at(S), at(C), SYN | ACK, 500, 101, &[])
}

fn acknowledged() -> Vec<u8> {
    build::tcp(at(C), at(S), ACK, 101, 501, &[])
}

fn probe() -> Vec<u8> {
    build::udp(at("10.1.0.10:5000"), at("10.2.0.10:9000"), b"probe")
}

#[test]
fn only_who_is_meant_opens_a_flow() {
    let (mut rig, mut users) = (rig(), Users::new());
    assert_eq!(rig.through(INSIDE, syn()).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
    // Another user here, and the right one elsewhere.
    users.login(&rig, CLIENT_AT, "bob", &["guests", "ops"]);
    users.login(&rig, OTHER, "alice", &[]);
    assert_eq!(rig.through(INSIDE, syn()).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1)]);
    users.login(&rig, CLIENT_AT, "bob", &["guests", "staff"]);
    assert_eq!(rig.through(INSIDE, syn()).len(), 1);
    rig.moved(&[
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("forwarded", 1),
        ("flow_opened", 1),
    ]);
    // Replies come from where nobody is logged in: the opener's login counts.
    users.login(&rig, OTHER, "carol", &[]);
    assert_eq!(rig.through(OUTSIDE, answer()).len(), 1);
}

#[test]
fn a_logout_ends_what_only_the_login_allowed() {
    let (mut rig, mut users) = (rig(), Users::new());
    users.login(&rig, CLIENT_AT, "alice", &[]);
    assert_eq!(rig.through(INSIDE, syn()).len(), 1);
    assert_eq!(rig.through(OUTSIDE, answer()).len(), 1);
    assert_eq!(rig.through(INSIDE, probe()).len(), 1);
    // Somebody else's coming and going, and what is no login, changes nothing for them.
    users.login(&rig, OTHER, "dave", &[]);
    users.logout(&rig, OTHER);
    users.publish(&rig, CommonKind::Block);
    assert_eq!(rig.through(INSIDE, acknowledged()).len(), 1);
    rig.forget_counts();

    users.logout(&rig, CLIENT_AT);
    assert_eq!(rig.through(OUTSIDE, answer()).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1), ("flow_revoked", 1)]);
    assert_eq!(rig.through(INSIDE, acknowledged()).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_tcp_no_flow", 1)]);
    assert_eq!(rig.through(INSIDE, probe()).len(), 1, "it is everybody's");
}

/// A flow remembers 16 bits of the epoch: one that is not seen for as many changes as there are
/// must not be taken for judged.
#[test]
fn an_epoch_that_comes_around_is_not_mistaken() {
    let (mut rig, mut users) = (rig(), Users::new());
    users.login(&rig, CLIENT_AT, "alice", &[]);
    assert_eq!(rig.through(INSIDE, syn()).len(), 1);
    users.logout(&rig, CLIENT_AT);
    rig.turn();
    // A sweep of the 64 places, one at each housekeeping.
    rig.run_ms(200);
    // The logout was one; 0 is left out.
    for _ in 0..u16::MAX - 1 {
        users.publish(&rig, CommonKind::Block);
        rig.turn();
    }
    rig.forget_counts();
    assert_eq!(rig.through(OUTSIDE, answer()).len(), 0);
    rig.moved(&[("rx_packets", 1), ("drop_denied", 1), ("flow_revoked", 1)]);
}

#[test]
fn what_a_change_did_not_touch_is_kept() {
    let (rig, mut users) = (rig(), Users::new());
    users.login(&rig, CLIENT_AT, "alice", &["staff"]);
    let before = rig.node.common.load();
    let host = CommonKey::Block(Net::host(v4_mapped(OTHER)));
    assert!(!users.map.delete(&host, users.clock.now(1)));
    users.publish(&rig, CommonKind::Block);
    let now = rig.node.common.load();
    let alice = policy::Identity::new("alice", ["staff"]);
    assert_eq!(now.identity(&v4_mapped(CLIENT_AT)), alice);
    assert_eq!(before.identity(&v4_mapped(OTHER)), policy::Identity::NONE);
}
