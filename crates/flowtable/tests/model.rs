//! The shard against a standard map as its oracle.

use std::collections::HashMap;

use flowtable::{FlowId, FlowTable, InsertError, Local};
use proptest::prelude::*;
use state::{Class, Dir, FlowKey, FlowRecord, Life, Mark, Progress, SyncMode, Verdict, v4_mapped};

fn record(n: u32) -> FlowRecord {
    let [_, b, c, d] = n.to_be_bytes();
    let (key, origin) = FlowKey::new(v4_mapped([10, b, c, d]), v4_mapped([11, 0, 0, 1]), 1, 2, 17);
    FlowRecord {
        key,
        incarnation: u64::from(n),
        class: Class {
            origin,
            sync: SyncMode::Ack,
            zone_from: 0,
            zone_to: 1,
        },
        life: Life::Alive,
        progress: Progress::seen(Dir::AToB),
        verdict: Verdict::default(),
        mark: Mark::default(),
        tcp: Default::default(),
        nat: None,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32),
    Remove(u32),
    Lookup(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..24u32;
    prop_oneof![
        n.clone().prop_map(Op::Insert),
        n.clone().prop_map(Op::Remove),
        n.prop_map(Op::Lookup),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_map_with_a_limit(ops in prop::collection::vec(op(), 0..400), seed: u64) {
        const CAPACITY: usize = 16;
        let mut table = FlowTable::with_capacity(CAPACITY, seed);
        let mut oracle: HashMap<FlowKey, (FlowId, u64)> = HashMap::new();
        for op in ops {
            match op {
                Op::Insert(n) => {
                    let record = record(n);
                    let known = oracle.get(&record.key).copied();
                    match (table.insert(record, Local::default()), known) {
                        (Err(InsertError::Present(id)), Some((known, _))) => {
                            prop_assert_eq!(id, known);
                        }
                        (Err(InsertError::Full), None) => prop_assert_eq!(oracle.len(), CAPACITY),
                        (Ok(id), None) => {
                            oracle.insert(record.key, (id, record.incarnation));
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Op::Remove(n) => {
                    if let Some((id, _)) = oracle.remove(&record(n).key) {
                        table.remove(id);
                    }
                }
                Op::Lookup(n) => {
                    let key = record(n).key;
                    prop_assert_eq!(table.lookup(&key), oracle.get(&key).map(|(id, _)| *id));
                }
            }
            prop_assert_eq!(table.len(), oracle.len());
        }
        let keys: Vec<FlowKey> = (0..24).map(|n| record(n).key).collect();
        let mut ids = [None; 24];
        table.lookup_burst(&keys, &mut ids);
        for (key, id) in keys.iter().zip(ids) {
            prop_assert_eq!(id, oracle.get(key).map(|(id, _)| *id));
            if let Some(id) = id {
                prop_assert_eq!(table.entry(id).record.incarnation, oracle[key].1);
            }
        }
        let scanned = (0..table.capacity()).filter(|p| table.at(*p).is_some()).count();
        prop_assert_eq!(scanned, oracle.len());
    }
}

/// The index has room for every flow that the slab has room for, however long they come and go.
#[test]
fn churn_at_capacity_leaves_nothing_behind() {
    let mut table = FlowTable::with_capacity(1000, 7);
    let mut ids: Vec<FlowId> = (0..1000)
        .map(|n| table.insert(record(n), Local::default()).unwrap())
        .collect();
    for n in 1000..200_000 {
        let slot = n as usize % 1000;
        table.remove(ids[slot]);
        ids[slot] = table.insert(record(n), Local::default()).unwrap();
    }
    assert_eq!(table.len(), 1000);
    assert_eq!(
        table.insert(record(999_999), Local::default()),
        Err(InsertError::Full)
    );
    for n in 199_000..200_000 {
        assert!(table.lookup(&record(n).key).is_some());
    }
}
