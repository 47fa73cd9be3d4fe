//! The merge laws of common state, its bounds, its leases, and its way through an archive.

use std::collections::BTreeSet;

use proptest::prelude::*;
use state::{
    ArchivedCommonBatch, Block, BlockReason, COMMON_MAX, CommonBatch, CommonEntry, CommonError,
    CommonFull, CommonKey, CommonKind, CommonMap, CommonValue, Expectation, ExpectationKey,
    FlowKey, HybridClock, InvalidCommon, LEASE_LEN, Lease, NOTE_BYTES_MAX, Net, NodeId, PolicyAt,
    PolicyText, Secret, Stamp, Suite, SyncMode, TOMBSTONES_MAX, Tunnel, User, v4_mapped,
};

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn address() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![
        (0..3u8).prop_map(|host| v4_mapped([192, 0, 2, host])),
        any::<[u8; 16]>()
    ]
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé]{1,12}"
}

fn flow_key() -> impl Strategy<Value = FlowKey> {
    (address(), address(), any::<u16>(), any::<u8>())
        .prop_map(|(a, b, port, proto)| FlowKey::new(a, b, port, 80, proto).0)
}

/// A key with a value that goes with it.
fn said() -> impl Strategy<Value = (CommonKey, CommonValue)> {
    let block = (address(), 0..=128u8, 0..4usize, text()).prop_map(|(addr, len, reason, note)| {
        let reason = [
            BlockReason::Operator,
            BlockReason::SynScan,
            BlockReason::SynFlood,
            BlockReason::Agent,
        ][reason];
        let block = Block { reason, note };
        (
            CommonKey::Block(Net::new(addr, len)),
            CommonValue::Block(block),
        )
    });
    let user = (address(), text(), prop::collection::vec(text(), 0..4)).prop_map(
        |(addr, name, groups)| {
            (
                CommonKey::User(addr),
                CommonValue::User(User { name, groups }),
            )
        },
    );
    let expectation = (
        (
            any::<u8>(),
            prop::option::of(address()),
            address(),
            any::<u16>(),
        ),
        (flow_key(), any::<u8>(), any::<u8>(), any::<u32>()),
        (0..4usize, any::<u32>(), any::<bool>()),
    )
        .prop_map(|(key, what, how)| {
            let (proto, src, dst, dport) = key;
            let (parent, zone_from, zone_to, rule) = what;
            let (sync, mark, once) = how;
            let sync = [
                SyncMode::None,
                SyncMode::Delayed,
                SyncMode::Async,
                SyncMode::Ack,
            ][sync];
            let expectation = Expectation {
                parent,
                zone_from,
                zone_to,
                rule,
                sync,
                mark,
                once,
            };
            let key = ExpectationKey {
                proto,
                src,
                dst,
                dport,
            };
            (
                CommonKey::Expectation(key),
                CommonValue::Expectation(expectation),
            )
        });
    let tunnel = (any::<u32>(), address(), address(), 0..3usize, any::<u8>()).prop_map(
        |(number, local, remote, suite, byte)| {
            let suite = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305][suite];
            let tunnel = Tunnel {
                local: (local, 0),
                remote: (remote, 4500),
                spi_in: number ^ 1,
                spi_out: number ^ 2,
                suite,
                key_in: Secret::new(vec![byte; suite.key_bytes()]),
                key_out: Secret::new(vec![!byte; suite.key_bytes()]),
                rekeyed: byte.into(),
            };
            (CommonKey::Tunnel(number), CommonValue::Tunnel(tunnel))
        },
    );
    let lease =
        (any::<u32>(), 0..32u8, any::<u32>(), 1..100u64).prop_map(|(tunnel, of, from, len)| {
            let key = CommonKey::Lease {
                tunnel,
                node: node(of),
            };
            let from = u64::from(from);
            (
                key,
                CommonValue::Lease(Lease {
                    from,
                    to: from + len,
                }),
            )
        });
    let policy = (any::<u32>(), text(), text()).prop_map(|(generation, text, note)| {
        let policy = PolicyText {
            generation,
            text,
            note,
        };
        (CommonKey::Policy, CommonValue::Policy(policy))
    });
    let policy_at = (
        0..32u8,
        any::<u32>(),
        any::<u32>(),
        prop::option::of(text()),
    )
        .prop_map(|(of, generation, tried, error)| {
            let at = PolicyAt {
                generation,
                tried,
                error,
            };
            (CommonKey::PolicyAt(node(of)), CommonValue::PolicyAt(at))
        });
    prop_oneof![block, user, expectation, tunnel, lease, policy, policy_at]
}

fn entry() -> impl Strategy<Value = CommonEntry> {
    let stamp = (1..5u64).prop_map(|tick| Stamp(tick << 21));
    (said(), stamp, any::<bool>(), prop::option::of(0..50u64)).prop_map(
        |((key, value), stamp, dead, left_ms)| CommonEntry {
            key,
            stamp,
            value: (!dead).then_some(value),
            left_ms: left_ms.filter(|_| !dead),
        },
    )
}

/// Entries of few keys and stamps, so that all kinds of conflicts meet, also two values with one
/// stamp.
fn entries() -> impl Strategy<Value = Vec<CommonEntry>> {
    let few = (
        0..3u8,
        1..4u64,
        0..3u8,
        any::<bool>(),
        prop::option::of(0..4u64),
    )
        .prop_map(|(host, tick, note, dead, left_ms)| CommonEntry {
            key: CommonKey::Block(Net::host(v4_mapped([10, 0, 0, host]))),
            stamp: Stamp(tick << 21),
            value: (!dead).then(|| block(&note.to_string())),
            left_ms: left_ms.filter(|_| !dead),
        });
    prop::collection::vec(few, 0..12)
}

fn block(note: &str) -> CommonValue {
    CommonValue::Block(Block {
        reason: BlockReason::Operator,
        note: note.to_owned(),
    })
}

const NOW: u64 = 1_000_000;

fn map_of(entries: &[CommonEntry]) -> CommonMap {
    let mut map = CommonMap::new();
    for entry in entries {
        map.merge(entry, NOW);
    }
    map
}

fn all(map: &CommonMap) -> Vec<CommonEntry> {
    map.entries(None, NOW).collect()
}

fn joined(mut x: CommonMap, y: &CommonMap) -> CommonMap {
    for entry in all(y) {
        x.merge(&entry, NOW);
    }
    x
}

proptest! {
    #[test]
    fn merging_maps_is_a_join([x, y, z] in [entries(), entries(), entries()]) {
        let [x, y, z] = [map_of(&x), map_of(&y), map_of(&z)];
        let (xy, yx) = (joined(x.clone(), &y), joined(y.clone(), &x));
        prop_assert_eq!(all(&xy), all(&yx), "commutative");
        prop_assert_eq!(xy.digest(), yx.digest());
        let left = joined(xy.clone(), &z);
        let right = joined(x.clone(), &joined(y.clone(), &z));
        prop_assert_eq!(all(&left), all(&right), "associative");
        prop_assert_eq!(all(&joined(x.clone(), &x)), all(&x), "idempotent");
    }

    #[test]
    fn merging_tells_whether_it_changed_anything(before in entries(), entry in entry()) {
        let mut map = map_of(&before);
        let old = all(&map);
        let changed = map.merge(&entry, NOW);
        prop_assert_eq!(changed, all(&map) != old);
        prop_assert!(!map.merge(&entry, NOW));
    }

    #[test]
    fn expiry_commutes_with_merging([x, y] in [entries(), entries()], later in 0..5u64) {
        let (x, y) = (map_of(&x), map_of(&y));
        let mut after = joined(x.clone(), &y);
        after.expire(NOW + later);
        let (mut ended_x, mut ended_y) = (x, y);
        ended_x.expire(NOW + later);
        ended_y.expire(NOW + later);
        let mut before = joined(ended_x, &ended_y);
        prop_assert!(before.expire(NOW + later).is_empty(), "nothing comes back");
        prop_assert_eq!(all(&before), all(&after));
        prop_assert!(after.next_end_ms().is_none_or(|end| end > NOW + later));
    }

    #[test]
    fn the_indices_agree_with_the_entries(before in entries(), later in 0..5u64) {
        let mut map = map_of(&before);
        let ended = map.expire(NOW + later);
        for key in &ended {
            prop_assert!(map.get(key).is_none());
        }
        let live = all(&map).into_iter().filter(|e| e.value.is_some()).collect::<Vec<_>>();
        prop_assert_eq!(map.len(), live.len());
        prop_assert_eq!(map.len_of(CommonKind::Block), live.len());
        prop_assert_eq!(map.iter().count(), live.len());
        prop_assert_eq!(map.tombstones(), all(&map).len() - live.len());
        let mut of_kind = map.of_kind(CommonKind::Block, NOW).collect::<Vec<_>>();
        of_kind.sort_by_key(|e| e.key);
        prop_assert_eq!(&of_kind, &live);
        prop_assert_eq!(map.digest(), map_of(&live).digest(), "tombstones are not in the digest");
        let gone = map.forget_tombstones(|_, _| true);
        prop_assert_eq!((map.tombstones(), all(&map).len()), (0, live.len()), "{} gone", gone);
    }

    #[test]
    fn the_digest_tells_maps_apart([x, y] in [entries(), entries()]) {
        let live = |map: &CommonMap| -> BTreeSet<(CommonKey, Stamp)> {
            all(map).iter().filter(|e| e.value.is_some()).map(|e| (e.key, e.stamp)).collect()
        };
        let (x, y) = (map_of(&x), map_of(&y));
        prop_assert_eq!(x.digest() == y.digest(), live(&x) == live(&y));
    }

    #[test]
    fn entries_survive_their_archive(entries in prop::collection::vec(entry(), 0..12)) {
        let mut batch = CommonBatch::default();
        for entry in &entries {
            batch.push(entry);
        }
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        let archived = rkyv::access::<ArchivedCommonBatch, rkyv::rancor::Error>(&bytes).unwrap();
        prop_assert_eq!(archived.len(), entries.len());
        prop_assert_eq!(archived.entries().unwrap(), entries);
    }

    #[test]
    fn damaged_archives_never_panic(
        entries in prop::collection::vec(entry(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut batch = CommonBatch::default();
        for entry in &entries {
            batch.push(entry);
        }
        let mut bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(archived) = rkyv::access::<ArchivedCommonBatch, rkyv::rancor::Error>(&bytes)
            && let Ok(entries) = archived.entries()
        {
            for entry in entries {
                prop_assert!(entry.stamp.plausible());
                if let Some(value) = &entry.value {
                    prop_assert_eq!(value.check(&entry.key), Ok(()));
                }
            }
        }
    }

    #[test]
    fn keys_have_one_form(bytes: [u8; CommonKey::BYTES], kind in 0..8u8, (key, _) in said()) {
        prop_assert_eq!(CommonKey::from_bytes(&key.to_bytes()), Some(key));
        let mut bytes = bytes;
        bytes[0] = kind;
        if let Some(key) = CommonKey::from_bytes(&bytes) {
            prop_assert_eq!(key.to_bytes(), bytes);
        }
    }

    /// Nodes that lease counters while they hear of each other late or never.
    #[test]
    fn counters_are_leased_once(steps in prop::collection::vec((0..4u8, 0..4u8, any::<bool>()), 1..60)) {
        let mut maps = vec![CommonMap::new(); 4];
        let mut clock = HybridClock::new(node(0));
        let mut leased: Vec<Lease> = Vec::new();
        for (at, other, tells) in steps {
            let here = usize::from(at);
            if tells {
                let entries = all(&maps[here]);
                for entry in entries {
                    maps[usize::from(other)].merge(&entry, NOW);
                }
                continue;
            }
            let lease = maps[here].next_lease(7, node(at)).unwrap();
            prop_assert_eq!(lease.to - lease.from, LEASE_LEN);
            let overlaps = |old: &Lease| old.from < lease.to && lease.from < old.to;
            prop_assert!(!leased.iter().any(overlaps), "{:?} was leased before", lease);
            for (key, value) in maps[here].iter() {
                let CommonValue::Lease(known) = value else { unreachable!("{key:?}") };
                prop_assert!(lease.from >= known.to, "after every lease known here");
            }
            leased.push(lease);
            let key = CommonKey::Lease { tunnel: 7, node: node(at) };
            maps[here].put(key, CommonValue::Lease(lease), None, clock.now(1), NOW).unwrap();
        }
    }
}

fn host(number: usize) -> CommonKey {
    let [a, b, c, d] = (number as u32).to_be_bytes();
    CommonKey::Block(Net::host(v4_mapped([10 | a, b, c, d])))
}

#[test]
fn a_full_map_refuses_what_is_new_and_takes_what_is_known() {
    let mut map = CommonMap::new();
    let mut clock = HybridClock::new(node(1));
    for number in 0..COMMON_MAX {
        map.put(host(number), block(""), None, clock.now(1), NOW)
            .unwrap();
    }
    let digest = map.digest();
    let one_more = map.put(host(COMMON_MAX), block(""), None, clock.now(1), NOW);
    assert_eq!(one_more, Err(CommonError::Full(CommonFull)));
    assert_eq!((map.len(), map.digest()), (COMMON_MAX, digest));
    map.put(host(3), block("again"), None, clock.now(1), NOW)
        .unwrap();
    assert_eq!(map.get(&host(3)), Some(&block("again")));
    assert!(map.delete(&host(4), clock.now(1)));
    map.put(host(COMMON_MAX), block(""), None, clock.now(1), NOW)
        .unwrap();
    assert_eq!(map.len(), COMMON_MAX);
}

#[test]
fn two_full_maps_converge_to_the_last_written() {
    let (mut x, mut y) = (CommonMap::new(), CommonMap::new());
    let mut clock = HybridClock::new(node(1));
    let login = CommonKey::User(v4_mapped([192, 0, 2, 1]));
    let user = CommonValue::User(User {
        name: "ada".to_owned(),
        groups: vec![],
    });
    // The oldest of all, but of a kind that is worth more.
    x.put(login, user.clone(), None, clock.now(1), NOW).unwrap();
    for number in 0..COMMON_MAX - 1 {
        x.put(host(number), block("x"), None, clock.now(1), NOW)
            .unwrap();
        y.put(
            host(COMMON_MAX + number),
            block("y"),
            None,
            clock.now(1),
            NOW,
        )
        .unwrap();
    }
    let (of_x, of_y) = (all(&x), all(&y));
    for (map, theirs) in [(&mut x, of_y), (&mut y, of_x)] {
        for entry in theirs {
            map.merge(&entry, NOW);
        }
        assert_eq!(map.len(), COMMON_MAX);
        assert_eq!(map.get(&login), Some(&user));
        let displaced = map.take_displaced();
        assert!(displaced.iter().all(|key| map.get(key).is_none()));
        assert!(displaced.len() as u64 >= map.given_up());
        assert!(map.given_up() > 0);
    }
    assert_eq!(x.digest(), y.digest());
    assert!(x.tombstones() <= TOMBSTONES_MAX);
}

#[test]
fn the_oldest_of_too_many_tombstones_is_forgotten_and_counted() {
    let mut map = CommonMap::new();
    let mut clock = HybridClock::new(node(1));
    for number in 0..=TOMBSTONES_MAX {
        map.put(host(number), block(""), None, clock.now(1), NOW)
            .unwrap();
        assert!(map.delete(&host(number), clock.now(1)));
    }
    assert_eq!(
        (map.tombstones(), map.tombstones_forgotten()),
        (TOMBSTONES_MAX, 1)
    );
    assert_eq!(map.stamp(&host(0)), None);
    assert!(map.stamp(&host(1)).is_some());
}

#[test]
fn a_delete_beats_the_older_put_and_not_the_later() {
    let mut clock = HybridClock::new(node(1));
    let (first, second, third) = (clock.now(1), clock.now(1), clock.now(1));
    let mut map = CommonMap::new();
    map.put(host(1), block("a"), None, second, NOW).unwrap();
    assert!(!map.delete(&host(1), first));
    assert!(map.delete(&host(1), third));
    assert!(!map.delete(&host(1), clock.now(1)), "it is gone already");
    map.put(host(1), block("b"), None, second, NOW).unwrap();
    assert_eq!(map.get(&host(1)), None);
    map.put(host(1), block("b"), None, clock.now(1), NOW)
        .unwrap();
    assert_eq!(map.get(&host(1)), Some(&block("b")));
}

#[test]
fn what_may_not_stand_under_a_key_is_refused() {
    let mut map = CommonMap::new();
    let stamp = Stamp(1 << 21);
    let mut refused = |key, value| map.put(key, value, None, stamp, NOW).unwrap_err();
    let kinds = CommonError::Kind {
        key: CommonKind::Policy,
        value: CommonKind::Block,
    };
    assert_eq!(refused(CommonKey::Policy, block("")), kinds);
    let long = "n".repeat(NOTE_BYTES_MAX + 1);
    assert!(matches!(
        refused(host(1), block(&long)),
        CommonError::Length { what: "note", .. }
    ));
    let empty = Lease { from: 4, to: 4 };
    let key = CommonKey::Lease {
        tunnel: 1,
        node: node(1),
    };
    assert_eq!(
        refused(key, CommonValue::Lease(empty)),
        CommonError::EmptyLease(empty)
    );
    let tunnel = Tunnel {
        local: ([0; 16], 0),
        remote: ([0; 16], 0),
        spi_in: 1,
        spi_out: 2,
        suite: Suite::Aes256Gcm,
        key_in: Secret::new(vec![7; 36]),
        key_out: Secret::new(vec![7; 20]),
        rekeyed: 0,
    };
    let shown = format!("{tunnel:?}");
    assert!(
        shown.contains("Secret(36 bytes)") && !shown.contains("7, 7"),
        "{shown}"
    );
    let lengths = CommonError::KeyLength {
        len: 20,
        expected: 36,
    };
    assert_eq!(
        refused(CommonKey::Tunnel(1), CommonValue::Tunnel(tunnel)),
        lengths
    );
    assert!(map.is_empty());
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let good = CommonEntry {
        key: host(1),
        stamp: Stamp(1 << 21),
        value: Some(block("")),
        left_ms: None,
    };
    let read = |entry: &CommonEntry| {
        let mut batch = CommonBatch::default();
        batch.push(&good);
        batch.push(entry);
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        rkyv::access::<ArchivedCommonBatch, rkyv::rancor::Error>(&bytes)
            .unwrap()
            .entries()
    };
    assert!(read(&good).is_ok());
    for stamp in [Stamp::NEVER, Stamp(u64::MAX)] {
        let entry = CommonEntry {
            stamp,
            ..good.clone()
        };
        assert_eq!(read(&entry), Err(InvalidCommon::Stamp(stamp)));
    }
    let key = CommonKey::Block(Net {
        addr: [1; 16],
        len: 8,
    });
    assert_eq!(
        read(&CommonEntry {
            key,
            ..good.clone()
        }),
        Err(InvalidCommon::Key(1))
    );
    let mortal = CommonEntry {
        value: None,
        left_ms: Some(1),
        ..good.clone()
    };
    assert_eq!(read(&mortal), Err(InvalidCommon::MortalTombstone));
    let mismatched = CommonEntry {
        key: CommonKey::Policy,
        ..good.clone()
    };
    assert!(matches!(
        read(&mismatched),
        Err(InvalidCommon::Value(CommonError::Kind { .. }))
    ));
}

#[test]
fn networks_contain_their_addresses() {
    let net = Net::new(v4_mapped([192, 0, 2, 77]), 96 + 24);
    assert_eq!(net.to_string(), "192.0.2.0/24");
    assert!(net.contains(&v4_mapped([192, 0, 2, 1])));
    assert!(!net.contains(&v4_mapped([192, 0, 3, 1])));
    assert!(Net::new([9; 16], 0).contains(&v4_mapped([192, 0, 3, 1])));
    assert_eq!(Net::new([9; 16], 0).to_string(), "::/0");
    let mut six = [0; 16];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    assert_eq!(Net::host(six).to_string(), "2001::/128");
}
