//! Where common state is kept: here for a node without a cluster, else with the replicator.

use parking_lot::Mutex;
use state::{
    CommonEntry, CommonError, CommonKey, CommonKind, CommonKinds, CommonMap, CommonValue,
    HybridClock, NodeId,
};

use crate::clock::{monotonic_us, unix_ms};

/// Why common state does not change or is not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The entry is not taken.
    #[error("{0}")]
    Refused(#[from] CommonError),
    /// Nobody can be asked now.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// How far a change has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Living nodes that had not confirmed it at the deadline.
    pub(crate) lacking: Vec<NodeId>,
}

/// Common state as the control socket sees it.
pub(crate) trait CommonStore: Send + Sync {
    /// Writes an entry that lives for `life_ms`, or for ever. Returns once every living node has
    /// it, or at a deadline.
    fn put(
        &self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    ) -> Result<Reached, StoreError>;

    /// Deletes an entry, likewise.
    fn delete(&self, key: CommonKey) -> Result<Reached, StoreError>;

    /// The live entries of a kind, the first written first.
    fn of_kind(&self, kind: CommonKind) -> Result<Vec<CommonEntry>, StoreError>;

    /// How many entries of a kind live.
    fn count(&self, kind: CommonKind) -> u64;

    /// Writes an entry without waiting for anybody; false when it must be tried again later.
    fn put_later(&self, key: CommonKey, value: CommonValue, life_ms: Option<u64>) -> bool;

    /// Does what has to be done now and then; the main thread calls it many times a second.
    fn tend(&self) {}
}

/// The common state of a node without a cluster.
pub(crate) struct LocalStore {
    held: Mutex<(CommonMap, HybridClock)>,
    publish: Publish,
}

/// Tells whoever uses common state which kinds of it have changed.
pub(crate) type Publish = Box<dyn Fn(&CommonMap, CommonKinds) + Send + Sync>;

impl LocalStore {
    /// `publish` is called with the map after each change.
    pub(crate) fn new(node: NodeId, publish: Publish) -> Self {
        Self {
            held: Mutex::new((CommonMap::new(), HybridClock::new(node))),
            publish,
        }
    }
}

impl CommonStore for LocalStore {
    fn put(
        &self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
    ) -> Result<Reached, StoreError> {
        let (map, clock) = &mut *self.held.lock();
        let stamp = clock.now(unix_ms());
        map.put(key, value, life_ms, stamp, now_ms())?;
        (self.publish)(map, [key.kind()].into_iter().collect());
        Ok(Reached::default())
    }

    fn delete(&self, key: CommonKey) -> Result<Reached, StoreError> {
        let (map, clock) = &mut *self.held.lock();
        let stamp = clock.now(unix_ms());
        if map.delete(&key, stamp) {
            // There is nobody whose older entry could come back.
            map.forget_tombstones(|_, _| true);
            (self.publish)(map, [key.kind()].into_iter().collect());
        }
        Ok(Reached::default())
    }

    fn of_kind(&self, kind: CommonKind) -> Result<Vec<CommonEntry>, StoreError> {
        let (map, _) = &*self.held.lock();
        Ok(map.of_kind(kind, now_ms()).collect())
    }

    fn count(&self, kind: CommonKind) -> u64 {
        self.held.lock().0.len_of(kind) as u64
    }

    fn put_later(&self, key: CommonKey, value: CommonValue, life_ms: Option<u64>) -> bool {
        if let Err(error) = self.put(key, value, life_ms) {
            tracing::error!("common state: {error}");
        }
        true
    }

    fn tend(&self) {
        let (map, _) = &mut *self.held.lock();
        let ended = map.expire(now_ms());
        if !ended.is_empty() {
            map.forget_tombstones(|_, _| true);
            (self.publish)(map, ended.iter().map(CommonKey::kind).collect());
        }
    }
}

/// Milliseconds of a clock that does not go back.
fn now_ms() -> u64 {
    monotonic_us() / 1_000
}
