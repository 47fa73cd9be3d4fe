//! Common state as workers read it: which networks are blocked, who is logged in where, and which
//! connections are expected.
//!
//! A snapshot is swapped whole. What of it a change did not touch is shared with the one before, so
//! that a login does not cost more than the users there are.

use std::sync::Arc;

use arrayvec::ArrayVec;
use flowtable::FlowId;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use ipnet::Ipv6Net;
use policy::{Action, Decision, Identity};
use prefix_trie::PrefixMap;
use replication::ToSync;
use state::{
    CommonKey, CommonKind, CommonKinds, CommonMap, CommonValue, Expectation, ExpectationKey,
    FlowKey, Progress, SeqShift, Stamp,
};
use wire::{Addr, Parsed};

use crate::counters::Counter;
use crate::port::Port;
use crate::worker::Worker;

/// What all nodes have, in the form in which a worker asks it.
#[derive(Clone, Debug, Default)]
pub struct Common {
    blocks: Arc<Blocks>,
    users: Arc<HashMap<[u8; 16], Identity, RandomState>>,
    expectations: Arc<HashMap<ExpectationKey, (Stamp, Expectation), RandomState>>,
    shifts: Arc<HashMap<FlowKey, (Stamp, SeqShift), RandomState>>,
}

/// Blocked networks: most are single hosts, which detectors find.
#[derive(Clone, Debug, Default)]
struct Blocks {
    hosts: HashSet<[u8; 16], RandomState>,
    nets: PrefixMap<Ipv6Net, ()>,
}

impl Common {
    /// With these kinds taken from the map, and the others as they are here.
    #[must_use]
    pub fn rebuild(&self, map: &CommonMap, kinds: CommonKinds) -> Self {
        let mut built = self.clone();
        if kinds.contains(CommonKind::Block) {
            let mut blocks = Blocks::default();
            for entry in map.of_kind(CommonKind::Block, 0) {
                if let CommonKey::Block(net) = entry.key {
                    match Ipv6Net::new(net.addr.into(), net.len) {
                        Ok(net) if net.prefix_len() < 128 => {
                            blocks.nets.insert(net, ());
                        }
                        _ => {
                            blocks.hosts.insert(net.addr);
                        }
                    }
                }
            }
            built.blocks = Arc::new(blocks);
        }
        if kinds.contains(CommonKind::Expectation) {
            let expected = map.of_kind(CommonKind::Expectation, 0).filter_map(|entry| {
                match (entry.key, entry.value) {
                    (CommonKey::Expectation(key), Some(CommonValue::Expectation(expected))) => {
                        Some((key, (entry.stamp, expected)))
                    }
                    _ => None,
                }
            });
            built.expectations = Arc::new(expected.collect());
        }
        if kinds.contains(CommonKind::SeqShift) {
            let shifts = map.of_kind(CommonKind::SeqShift, 0).filter_map(|entry| {
                match (entry.key, entry.value) {
                    (CommonKey::SeqShift(key), Some(CommonValue::SeqShift(shift))) => {
                        Some((key, (entry.stamp, shift)))
                    }
                    _ => None,
                }
            });
            built.shifts = Arc::new(shifts.collect());
        }
        if kinds.contains(CommonKind::User) {
            let users = map.iter().filter_map(|(key, value)| match (key, value) {
                (CommonKey::User(address), CommonValue::User(user)) => {
                    let groups = user.groups.iter().map(String::as_str);
                    Some((*address, Identity::new(&user.name, groups)))
                }
                _ => None,
            });
            built.users = Arc::new(users.collect());
        }
        built
    }

    /// Who is logged in at an address, in the 16-byte form.
    #[inline]
    pub fn identity(&self, address: &[u8; 16]) -> Identity {
        if self.users.is_empty() {
            return Identity::NONE;
        }
        self.users.get(address).copied().unwrap_or_default()
    }

    /// Whether an address, in the 16-byte form, is of a blocked network.
    #[inline]
    pub fn blocks(&self, address: &[u8; 16]) -> bool {
        let Blocks { hosts, nets } = &*self.blocks;
        (!hosts.is_empty() && hosts.contains(address))
            || (!nets.is_empty()
                && nets
                    .get_lpm(&Ipv6Net::from(std::net::Ipv6Addr::from(*address)))
                    .is_some())
    }

    /// The numbers of a connection in which lengths were changed, of whichever incarnation.
    pub fn shift(&self, key: &FlowKey) -> Option<&SeqShift> {
        self.shifts.get(key).map(|(_, shift)| shift)
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn has_shifts(&self) -> bool {
        !self.shifts.is_empty()
    }

    pub(crate) fn shifts(&self) -> impl Iterator<Item = (&FlowKey, &SeqShift)> {
        self.shifts.iter().map(|(key, (_, shift))| (key, shift))
    }

    /// When those of this incarnation were written.
    pub(crate) fn shift_stamp(&self, key: &FlowKey, incarnation: u64) -> Option<Stamp> {
        let (stamp, shift) = self.shifts.get(key)?;
        (shift.incarnation == incarnation).then_some(*stamp)
    }

    /// Whether flows must be judged again when this takes the place of `before`. What is expected
    /// decides on new flows only.
    pub(crate) fn judges_otherwise(&self, before: &Self) -> bool {
        !Arc::ptr_eq(&self.blocks, &before.blocks) || !Arc::ptr_eq(&self.users, &before.users)
    }

    /// What is expected of a connection: one from its source alone before one from any.
    fn expected(
        &self,
        p: &Parsed,
    ) -> impl Iterator<Item = (ExpectationKey, Stamp, Expectation)> + use<'_> {
        let key = |src| ExpectationKey {
            proto: p.proto,
            src,
            dst: p.dst,
            dport: p.dport,
        };
        [key(Some(p.src)), key(None)].into_iter().filter_map(|key| {
            let (stamp, expected) = self.expectations.get(&key)?;
            Some((key, *stamp, *expected))
        })
    }
}

/// How many expectations may be used up here before all nodes have heard.
const USED_MAX: usize = 64;

/// Expectations that were used up here and are not deleted yet.
pub(crate) type Used = ArrayVec<(ExpectationKey, Stamp), USED_MAX>;

impl<P: Port> Worker<P> {
    /// Takes up the common state if it has changed.
    pub(crate) fn take_up_common(&mut self) {
        if !self.common.refresh() {
            return;
        }
        // Touched only now: its count of users is shared by all workers.
        let before = std::mem::replace(&mut self.common_before, self.common.value().clone());
        let now = self.common.value();
        if now.judges_otherwise(&before) {
            self.common_epoch = self.common_epoch.wrapping_add(1).max(1);
        }
        self.expectations_used.retain(|(key, stamp)| {
            let known = now.expectations.get(key);
            known.is_some_and(|(of, _)| of == stamp)
        });
        if !Arc::ptr_eq(&now.shifts, &before.shifts) {
            self.mark_shifted_flows();
        }
    }

    /// Whether a flow has a blocked end.
    pub(crate) fn is_blocked(&self, key: &FlowKey) -> bool {
        let common = self.common.value();
        let ends = [key.source(state::Dir::AToB), key.source(state::Dir::BToA)];
        ends.iter().any(|(address, _)| common.blocks(address))
    }

    /// What is decided of a connection that is expected; `None` when it is not, and the rules are to
    /// be asked.
    pub(crate) fn expect(&self, p: &Parsed, zones: (u8, u8)) -> Option<Expected> {
        let common = self.common.value();
        if common.expectations.is_empty() {
            return None;
        }
        let (key, stamp, expectation) = common.expected(p).find(|(key, stamp, expected)| {
            (expected.zone_from, expected.zone_to) == zones
                && !(expected.once && self.is_used(&(*key, *stamp)))
        })?;
        let decision = Decision {
            action: Action::Allow,
            rule_index: None,
            rule_id: expectation.rule,
            sync: expectation.sync,
            delay_ms: 0,
            log: false,
            // Its parent's is for the connection that announces others, not for those.
            agent: None,
        };
        Some(Expected {
            decision,
            mark: expectation.mark,
            uses: expectation.once.then_some((key, stamp)),
        })
    }

    /// The connection that was expected is open: what was for one connection is used up, here at
    /// once and everywhere soon.
    pub(crate) fn opened_as_expected(&mut self, id: FlowId, expected: &Expected) {
        self.counters.count(Counter::FlowExpected);
        let record = &mut self.table.entry_mut(id).record;
        record.progress = record.progress.union(Progress::expected());
        if expected.mark != 0 {
            self.table.entry_mut(id).record.mark = state::Mark {
                version: 1,
                timeout_s: 0,
                value: expected.mark,
            };
        }
        let Some((key, stamp)) = expected.uses else {
            return;
        };
        // `is_used` saw that there is room, in the ring as well.
        let _ = self.expectations_used.try_push((key, stamp));
        if self.config.replicate {
            let _ = self.links.to_sync.push(ToSync::UsedUp {
                key: CommonKey::Expectation(key),
                stamp,
            });
        }
    }

    /// Whether an expectation for one connection was used here, or its use could not be told: then
    /// the rules decide, and the connection is tried again.
    fn is_used(&self, of: &(ExpectationKey, Stamp)) -> bool {
        self.expectations_used.is_full()
            || (self.config.replicate && self.links.to_sync.is_full())
            || self.expectations_used.contains(of)
    }

    /// Whether a packet that opens a flow has a blocked end.
    #[inline]
    pub(crate) fn opens_blocked(&self, src: &Addr, dst: &Addr) -> bool {
        let common = self.common.value();
        common.blocks(src) || common.blocks(dst)
    }
}

/// How a connection that is expected passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) decision: Decision,
    mark: u32,
    /// What is used up by it.
    uses: Option<(ExpectationKey, Stamp)>,
}
