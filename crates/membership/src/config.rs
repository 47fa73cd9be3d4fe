//! What all nodes of a cluster are configured with, validated, and what follows from it alone:
//! each slot's home, each node's order of successors, and the fingerprint of both.

use state::{NODES_MAX, NodeId, SLOTS, Slot};

use crate::hash::{Digest, nearest};

/// One member, as it is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberConfig {
    /// Its identity, unique in the cluster.
    pub id: NodeId,
    /// Its name for people, unique in the cluster.
    pub name: String,
    /// Its share of the slots, relative to the other members'. At least 1.
    pub weight: u32,
    /// Its backups in order; empty when they are to be derived.
    pub backups: Vec<NodeId>,
}

/// When heartbeats are sent and what their absence means, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two heartbeats to the same peer. At least 1.
    pub heartbeat_ms: u64,
    /// A peer is dead when nothing was heard of it for so long. At least two heartbeats.
    pub dead_after_ms: u64,
    /// How long a starting node waits for configured peers of which it has heard nothing. At
    /// least `dead_after_ms`.
    pub join_wait_ms: u64,
}

impl Default for Timing {
    /// A takeover within 50 ms: detection 40 ms after the last heartbeat, which is four lost.
    fn default() -> Self {
        Self {
            heartbeat_ms: 10,
            dead_after_ms: 40,
            join_wait_ms: 3_000,
        }
    }
}

/// Why a configuration is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A cluster has at least one member.
    #[error("the cluster has no members: name at least one")]
    NoMembers,
    /// An identity stands twice.
    #[error("two members have id {0}: identities are unique")]
    DuplicateId(NodeId),
    /// A name stands twice.
    #[error("two members are called {0:?}: names are unique")]
    DuplicateName(String),
    /// A member without a share.
    #[error("member {0} has weight 0: a weight is at least 1")]
    ZeroWeight(NodeId),
    /// A member cannot be its own backup.
    #[error("member {0} is in its own list of backups: a backup is another node")]
    OwnBackup(NodeId),
    /// A backup that is not a member.
    #[error("member {node} has backup {backup}, which is not a member")]
    UnknownBackup {
        /// Whose list it is in.
        node: NodeId,
        /// The node that is not configured.
        backup: NodeId,
    },
    /// A backup stands twice in one list.
    #[error("member {node} has backup {backup} twice: once is enough")]
    DuplicateBackup {
        /// Whose list it is in.
        node: NodeId,
        /// The repeated node.
        backup: NodeId,
    },
    /// Heartbeats need an interval.
    #[error("heartbeat_ms is 0: it is at least 1")]
    NoHeartbeat,
    /// One lost or late heartbeat must not be a death.
    #[error(
        "dead_after_ms {dead_after_ms} is less than two heartbeats of {heartbeat_ms} ms: \
         one late heartbeat would be a death"
    )]
    DeadTooSoon {
        /// The configured silence.
        dead_after_ms: u64,
        /// The configured interval.
        heartbeat_ms: u64,
    },
    /// A start that does not wait cannot hear who is there.
    #[error("join_wait_ms {join_wait_ms} is less than dead_after_ms {dead_after_ms}")]
    JoinsTooSoon {
        /// The configured wait.
        join_wait_ms: u64,
        /// The configured silence.
        dead_after_ms: u64,
    },
}

/// A cluster's configuration. All nodes have the same; [`ClusterConfig::digest`] tells whether.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    cluster: u64,
    members: Vec<MemberConfig>,
    backups: usize,
    timing: Timing,
    digest: u64,
    homes: Box<[NodeId; SLOTS]>,
    /// By node index: all other members in the order in which they succeed it.
    successors: Vec<Vec<NodeId>>,
}

impl ClusterConfig {
    /// Validates a configuration and computes what follows from it.
    ///
    /// `cluster` is the fingerprint of the cluster's name ([`cluster_hash`]), `members` come in any
    /// order, `backups` is `k`: how many nodes hold a copy of each node's state.
    pub fn new(
        cluster: u64,
        mut members: Vec<MemberConfig>,
        backups: usize,
        timing: Timing,
    ) -> Result<Self, ConfigError> {
        members.sort_by_key(|m| m.id);
        validate(&members, timing)?;
        let successors = successors(&members, backups);
        let homes = Slot::all()
            .map(|slot| {
                let near = nearest(members.iter().map(|m| (m.id, m.weight)), slot);
                near.expect("there is at least one member")
            })
            .collect::<Vec<_>>();
        let digest = digest(cluster, &members, backups);
        Ok(Self {
            cluster,
            members,
            backups,
            timing,
            digest,
            homes: homes.try_into().expect("there are as many homes as slots"),
            successors,
        })
    }

    /// The fingerprint of the cluster's name.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// All members in ascending order of identity.
    pub fn members(&self) -> &[MemberConfig] {
        &self.members
    }

    /// A member's configuration; `None` when it is none.
    pub fn member(&self, node: NodeId) -> Option<&MemberConfig> {
        let at = self.members.binary_search_by_key(&node, |m| m.id).ok()?;
        Some(&self.members[at])
    }

    /// `k`: how many nodes hold a copy of each node's state.
    pub fn backups(&self) -> usize {
        self.backups
    }

    /// The intervals.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Fingerprint of all that views depend on: cluster, identities, weights, backups, `k`. Neither
    /// names nor intervals count.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The member that owns the slot when all are active.
    pub fn home(&self, slot: Slot) -> NodeId {
        self.homes[slot.index()]
    }

    /// All other members in the order in which they succeed `node`; empty when it is no member.
    ///
    /// The order does not depend on who is alive: it is what makes [`crate::View::compute`] hand
    /// slots only to nodes that hold them. First come the node's backups (configured or derived),
    /// then their backups, and so on, breadth first; then all others in ring order.
    pub fn successors(&self, node: NodeId) -> &[NodeId] {
        &self.successors[node.index()]
    }

    /// The first `k` successors of `node`: those among which its slots spread when it dies.
    pub fn static_group(&self, node: NodeId) -> &[NodeId] {
        let all = self.successors(node);
        &all[..self.backups.min(all.len())]
    }

    /// The nearest of some members to the slot; `None` of none.
    pub(crate) fn nearest(
        &self,
        among: impl Iterator<Item = NodeId>,
        slot: Slot,
    ) -> Option<NodeId> {
        let weighted = among.filter_map(|id| Some((id, self.member(id)?.weight)));
        nearest(weighted, slot)
    }
}

/// The fingerprint of a cluster's name, the same on every machine.
pub fn cluster_hash(name: &str) -> u64 {
    let mut digest = Digest::new(0x7261_7665_6c69_6e00);
    digest.add(name.len() as u64);
    name.bytes().for_each(|b| digest.add(u64::from(b)));
    digest.finish()
}

fn validate(members: &[MemberConfig], timing: Timing) -> Result<(), ConfigError> {
    if members.is_empty() {
        return Err(ConfigError::NoMembers);
    }
    for (i, member) in members.iter().enumerate() {
        let node = member.id;
        if members[..i].iter().any(|m| m.id == node) {
            return Err(ConfigError::DuplicateId(node));
        }
        if members[..i].iter().any(|m| m.name == member.name) {
            return Err(ConfigError::DuplicateName(member.name.clone()));
        }
        if member.weight == 0 {
            return Err(ConfigError::ZeroWeight(node));
        }
        for (j, &backup) in member.backups.iter().enumerate() {
            if backup == node {
                return Err(ConfigError::OwnBackup(node));
            }
            if !members.iter().any(|m| m.id == backup) {
                return Err(ConfigError::UnknownBackup { node, backup });
            }
            if member.backups[..j].contains(&backup) {
                return Err(ConfigError::DuplicateBackup { node, backup });
            }
        }
    }
    let Timing {
        heartbeat_ms,
        dead_after_ms,
        join_wait_ms,
    } = timing;
    if heartbeat_ms == 0 {
        return Err(ConfigError::NoHeartbeat);
    }
    if dead_after_ms < heartbeat_ms.saturating_mul(2) {
        return Err(ConfigError::DeadTooSoon {
            dead_after_ms,
            heartbeat_ms,
        });
    }
    if join_wait_ms < dead_after_ms {
        return Err(ConfigError::JoinsTooSoon {
            join_wait_ms,
            dead_after_ms,
        });
    }
    Ok(())
}

fn digest(cluster: u64, members: &[MemberConfig], backups: usize) -> u64 {
    let mut digest = Digest::new(cluster);
    digest.add(backups as u64);
    digest.add(members.len() as u64);
    for member in members {
        digest.add(u64::from(member.id.raw()));
        digest.add(u64::from(member.weight));
        digest.add(member.backups.len() as u64);
        member
            .backups
            .iter()
            .for_each(|b| digest.add(u64::from(b.raw())));
    }
    digest.finish()
}

/// Every node's order of successors, by node index.
fn successors(members: &[MemberConfig], backups: usize) -> Vec<Vec<NodeId>> {
    let derived = copysets(members, backups);
    let mut lists = vec![Vec::new(); NODES_MAX];
    for (member, derived) in members.iter().zip(derived) {
        lists[member.id.index()] = match member.backups.is_empty() {
            true => derived,
            false => member.backups.clone(),
        };
    }
    let mut out = vec![Vec::new(); NODES_MAX];
    for (i, member) in members.iter().enumerate() {
        let mut order: Vec<NodeId> = Vec::with_capacity(members.len() - 1);
        let add = |order: &mut Vec<NodeId>, node| {
            if node != member.id && !order.contains(&node) {
                order.push(node);
            }
        };
        lists[member.id.index()]
            .iter()
            .for_each(|&b| add(&mut order, b));
        let mut next = 0;
        while let Some(&node) = order.get(next) {
            lists[node.index()].iter().for_each(|&b| add(&mut order, b));
            next += 1;
        }
        let ring = members[i..].iter().chain(&members[..i]);
        ring.for_each(|m| add(&mut order, m.id));
        out[member.id.index()] = order;
    }
    out
}

/// The derived backups of each member: the ring of identities is cut into as many runs of at least
/// `k + 1` as there can be, of even length, and each member is backed by the `k` that follow it in
/// its run. So the groups are few, which makes it unlikely that some simultaneous deaths hit all
/// copies of anything, and everybody is the backup of exactly `k` others. (A. Cidon et al.:
/// Copysets, USENIX ATC 2013.)
fn copysets(members: &[MemberConfig], backups: usize) -> Vec<Vec<NodeId>> {
    let n = members.len();
    let runs = (n / backups.saturating_add(1)).max(1);
    (0..runs)
        .flat_map(|r| {
            let run = &members[r * n / runs..(r + 1) * n / runs];
            let others = backups.min(run.len() - 1);
            (0..run.len()).map(move |i| (1..=others).map(|j| run[(i + j) % run.len()].id).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::farness;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn member(id: u8, weight: u32, backups: &[u8]) -> MemberConfig {
        MemberConfig {
            id: node(id),
            name: format!("n{id}"),
            weight,
            backups: backups.iter().map(|b| node(*b)).collect(),
        }
    }

    fn config(members: Vec<MemberConfig>, k: usize) -> Result<ClusterConfig, ConfigError> {
        ClusterConfig::new(cluster_hash("test"), members, k, Timing::default())
    }

    fn plain(n: u8, k: usize) -> ClusterConfig {
        config((0..n).map(|id| member(id, 1, &[])).collect(), k).unwrap()
    }

    #[test]
    fn what_is_wrong_is_said() {
        let of = |members| config(members, 1).unwrap_err();
        assert_eq!(of(vec![]), ConfigError::NoMembers);
        let twice = vec![member(1, 1, &[]), member(1, 1, &[])];
        assert_eq!(of(twice), ConfigError::DuplicateId(node(1)));
        let mut named = vec![member(1, 1, &[]), member(2, 1, &[])];
        named[1].name = "n1".into();
        assert_eq!(of(named), ConfigError::DuplicateName("n1".into()));
        assert_eq!(
            of(vec![member(1, 0, &[])]),
            ConfigError::ZeroWeight(node(1))
        );
        assert_eq!(
            of(vec![member(1, 1, &[1])]),
            ConfigError::OwnBackup(node(1))
        );
        let (one, two) = (node(1), node(2));
        assert_eq!(
            of(vec![member(1, 1, &[2])]),
            ConfigError::UnknownBackup {
                node: one,
                backup: two
            }
        );
        assert_eq!(
            of(vec![member(1, 1, &[2, 2]), member(2, 1, &[])]),
            ConfigError::DuplicateBackup {
                node: one,
                backup: two
            }
        );
        let timed = |heartbeat_ms, dead_after_ms, join_wait_ms| {
            let timing = Timing {
                heartbeat_ms,
                dead_after_ms,
                join_wait_ms,
            };
            ClusterConfig::new(0, vec![member(1, 1, &[])], 1, timing).unwrap_err()
        };
        assert_eq!(timed(0, 40, 100), ConfigError::NoHeartbeat);
        assert_eq!(
            timed(10, 19, 100),
            ConfigError::DeadTooSoon {
                dead_after_ms: 19,
                heartbeat_ms: 10
            }
        );
        assert_eq!(
            timed(10, 40, 39),
            ConfigError::JoinsTooSoon {
                join_wait_ms: 39,
                dead_after_ms: 40
            }
        );
    }

    #[test]
    fn backups_come_first_then_theirs_then_the_ring() {
        let members = vec![
            member(0, 1, &[3]),
            member(1, 1, &[2]),
            member(2, 1, &[1]),
            member(3, 1, &[5, 0]),
            member(4, 1, &[2]),
            member(5, 1, &[3]),
        ];
        let config = config(members, 2).unwrap();
        assert_eq!(config.successors(node(0)), [3, 5, 1, 2, 4].map(node));
        assert_eq!(config.static_group(node(0)), [3, 5].map(node));
        assert_eq!(config.successors(node(4)), [2, 1, 5, 0, 3].map(node));
        assert!(config.successors(node(9)).is_empty());
    }

    #[test]
    fn derived_groups_are_few_and_even() {
        for n in 2..=32u8 {
            for k in 1..=3 {
                let config = plain(n, k);
                let mut served = [0; NODES_MAX];
                let mut runs = std::collections::BTreeSet::new();
                for member in config.members() {
                    let group = config.static_group(member.id);
                    assert_eq!(group.len(), k.min(n as usize - 1));
                    group.iter().for_each(|b| served[b.index()] += 1);
                    let mut set: Vec<_> = group.to_vec();
                    set.push(member.id);
                    set.sort();
                    runs.insert(set);
                }
                let expected = k.min(n as usize - 1);
                assert!(served[..n as usize].iter().all(|s| *s == expected));
                if (n as usize).is_multiple_of(k + 1) {
                    assert_eq!(runs.len(), n as usize / (k + 1), "{n} nodes, k {k}");
                }
            }
        }
    }

    #[test]
    fn the_digest_tells_what_views_depend_on() {
        let digest = |members, k| config(members, k).unwrap().digest();
        let base = || vec![member(0, 1, &[1]), member(1, 1, &[]), member(2, 1, &[])];
        let it = digest(base(), 1);
        let mut reversed = base();
        reversed.reverse();
        reversed[0].name = "other".into();
        assert_eq!(digest(reversed, 1), it);
        assert_ne!(digest(base(), 2), it);
        let mut heavier = base();
        heavier[1].weight = 2;
        assert_ne!(digest(heavier, 1), it);
        let mut backed = base();
        backed[1].backups = vec![node(0)];
        assert_ne!(digest(backed, 1), it);
        assert_ne!(digest(base()[..2].to_vec(), 1), it);
        assert_ne!(cluster_hash("a"), cluster_hash("b"));
    }

    #[test]
    fn homes_follow_the_weights() {
        for n in [2, 3, 4, 8, 16, 32] {
            let config = plain(n, 1);
            let mean = SLOTS as f64 / f64::from(n);
            let most = (0..n).map(|id| homes(&config, id)).max().unwrap();
            // Shares are binomial: five standard deviations above the mean are not met by chance.
            assert!(most as f64 <= mean + 5.0 * mean.sqrt(), "{n} nodes: {most}");
            assert!(
                most as f64 <= mean * 1.5,
                "{n} nodes: {most} of mean {mean}"
            );
        }
        let weights = [1, 2, 4, 1];
        let members = (0..4).map(|id| member(id, weights[id as usize], &[]));
        let config = config(members.collect(), 1).unwrap();
        for (id, weight) in weights.into_iter().enumerate() {
            let expected = SLOTS as f64 * f64::from(weight) / 8.0;
            let off = homes(&config, id as u8) as f64 - expected;
            assert!(off.abs() <= 4.0 * expected.sqrt(), "member {id}: {off}");
        }
    }

    fn homes(config: &ClusterConfig, id: u8) -> usize {
        Slot::all().filter(|s| config.home(*s) == node(id)).count()
    }

    #[test]
    fn a_member_more_takes_slots_and_moves_no_others() {
        let (before, after) = (plain(5, 1), plain(6, 1));
        let mut moved = 0;
        for slot in Slot::all() {
            if before.home(slot) != after.home(slot) {
                assert_eq!(after.home(slot), node(5));
                moved += 1;
            }
        }
        assert!((100..250).contains(&moved), "{moved}");
    }

    #[test]
    fn farness_is_the_same_on_every_machine() {
        let first = |config: &ClusterConfig| -> Vec<u8> {
            Slot::all().take(16).map(|s| config.home(s).raw()).collect()
        };
        assert_eq!(first(&plain(8, 1)), FIRST_HOMES);
        let weighted = (0..4).map(|id| member(id, u32::from(id) + 1, &[]));
        let weighted = config(weighted.collect(), 1).unwrap();
        assert_eq!(first(&weighted), FIRST_HOMES_WEIGHTED);
        assert_eq!(farness(u64::MAX), 0);
        assert_eq!(farness(u64::MAX >> 1), 1 << 32);
        assert_eq!(farness(0), 64 << 32);
    }

    /// Computed apart from this code, with 50 decimal digits.
    const FIRST_HOMES: [u8; 16] = [6, 0, 7, 1, 0, 3, 1, 0, 6, 3, 1, 6, 6, 6, 1, 0];
    const FIRST_HOMES_WEIGHTED: [u8; 16] = [1, 3, 1, 1, 0, 3, 2, 0, 2, 3, 2, 1, 3, 3, 3, 1];
}
