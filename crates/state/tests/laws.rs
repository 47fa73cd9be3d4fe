//! The merge laws of the flow record, and its way through an archive.

use proptest::prelude::*;
use state::{
    ArchivedFlowBatch, Class, Dir, FlowBatch, FlowKey, FlowRecord, Life, Mark, Nat, Progress,
    SyncMode, TcpSide, Verdict, v4_mapped,
};

fn dir() -> impl Strategy<Value = Dir> {
    prop_oneof![Just(Dir::AToB), Just(Dir::BToA)]
}

fn sync_mode() -> impl Strategy<Value = SyncMode> {
    prop_oneof![
        Just(SyncMode::None),
        Just(SyncMode::Delayed),
        Just(SyncMode::Async),
        Just(SyncMode::Ack)
    ]
}

/// Few distinct values per field, so that equal ones meet often.
fn side() -> impl Strategy<Value = TcpSide> {
    (0..4u64, 0..70_000i64, 0..3u32, 0..16u8).prop_map(|(end, allowance, window_max, scale)| {
        let end = end * 0xffff_fff0;
        TcpSide {
            end,
            end_max: end + allowance as u64,
            window_max,
            scale,
        }
    })
}

fn nat() -> impl Strategy<Value = Option<Nat>> {
    prop::option::of((any::<u16>(), 0..3u8).prop_map(|(port, host)| Nat {
        source: (v4_mapped([192, 0, 2, host]), port),
        destination: (v4_mapped([198, 51, 100, 1]), 80),
    }))
}

fn record_of(key: FlowKey) -> impl Strategy<Value = FlowRecord> {
    let head = (
        0..3u64,
        dir(),
        sync_mode(),
        0..2u8,
        prop::bool::ANY,
        0..1u16 << 13,
    );
    let tail = (0..3u32, 0..3u32, 0..3u16, side(), side(), nat());
    (head, tail).prop_map(move |(head, tail)| {
        let (incarnation, origin, sync, zone, dead, progress) = head;
        let (generation, rule, version, x, y, nat) = tail;
        let tcp = if key.proto() == 6 {
            [x, y]
        } else {
            Default::default()
        };
        FlowRecord {
            key,
            incarnation,
            class: Class {
                origin,
                sync,
                zone_from: zone,
                zone_to: 1 - zone,
            },
            life: if dead { Life::Dead } else { Life::Alive },
            progress: Progress(progress),
            verdict: Verdict { generation, rule },
            mark: Mark {
                version,
                timeout_s: version % 3,
                value: u32::from(version) * rule,
            },
            tcp,
            nat,
        }
    })
}

fn key() -> impl Strategy<Value = FlowKey> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(x, y)| (v4_mapped(x), v4_mapped(y)));
    let ends = prop_oneof![v4, any::<([u8; 16], [u8; 16])>()];
    let proto = prop_oneof![Just(6), Just(17), Just(1), any::<u8>()];
    (ends, any::<u16>(), any::<u16>(), proto)
        .prop_map(|((x, y), p, q, proto)| FlowKey::new(x, y, p, q, proto).0)
}

fn three_copies() -> impl Strategy<Value = [FlowRecord; 3]> {
    key().prop_flat_map(|key| [record_of(key), record_of(key), record_of(key)])
}

fn merged(mut x: FlowRecord, y: &FlowRecord) -> FlowRecord {
    x.merge(y);
    x
}

proptest! {
    #[test]
    fn merging_is_a_join([x, y, z] in three_copies()) {
        prop_assert_eq!(merged(x, &y), merged(y, &x), "commutative");
        prop_assert_eq!(merged(merged(x, &y), &z), merged(x, &merged(y, &z)), "associative");
        prop_assert_eq!(merged(x, &x), x, "idempotent");
        prop_assert_eq!(merged(merged(x, &y), &y), merged(x, &y), "absorbing");
    }

    #[test]
    fn merging_tells_whether_it_changed_anything([x, y, _z] in three_copies()) {
        let mut copy = x;
        prop_assert_eq!(copy.merge(&y), copy != x);
    }

    #[test]
    fn the_dead_stay_dead([x, y, _z] in three_copies()) {
        let both = merged(x, &y);
        for one in [x, y] {
            if one.incarnation == both.incarnation && one.life == Life::Dead {
                prop_assert_eq!(both.life, Life::Dead);
            }
        }
    }

    #[test]
    fn records_survive_their_archive(
        records in prop::collection::vec(key().prop_flat_map(record_of), 0..20),
        idle: u16,
    ) {
        let mut batch = FlowBatch::default();
        for record in &records {
            batch.push(record, idle);
        }
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        let archived = rkyv::access::<ArchivedFlowBatch, rkyv::rancor::Error>(&bytes).unwrap();
        let mut back = archived.records().unwrap();
        prop_assert_eq!(archived.len(), records.len());
        // A batch groups its records by kind.
        let order = |r: &FlowRecord| (!r.key.is_v4(), r.key.proto() == 6);
        let mut expected: Vec<_> = records.iter().map(|r| (*r, idle)).collect();
        expected.sort_by_key(|(r, _)| order(r));
        back.sort_by_key(|(r, _)| order(r));
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn damaged_archives_never_panic(
        records in prop::collection::vec(key().prop_flat_map(record_of), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut batch = FlowBatch::default();
        for record in &records {
            batch.push(record, 0);
        }
        let mut bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(archived) = rkyv::access::<ArchivedFlowBatch, rkyv::rancor::Error>(&bytes) {
            let _ = archived.records();
        }
    }
}
