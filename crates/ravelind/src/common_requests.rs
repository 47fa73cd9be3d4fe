//! What the control socket answers about common state: users, blocked networks, rules and
//! expectations of all nodes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::Config;
use ipnet::IpNet;
use membership::MemberState;
use policy::{AddressSet, GROUPS_MAX};
use state::{
    Block, BlockReason, CommonEntry, CommonKey, CommonKind, CommonValue, Net, NodeId, PolicyAt,
    PolicyText, SyncMode, User,
};
use telemetry::control::{
    BlockRequest, Blocked, Change, CommonEntries, ExpectRequest, Expected, Failure, FailureKind,
    LoggedIn, PolicyInForce, PolicyLoaded, PolicyNode, PolicyRefusal, PolicyRequest, PolicyShown,
    Proto, Responder, UserRequest,
};

use crate::common_store::{CommonStore, Reached, StoreError};
use crate::policies::{Policies, next_generation};
use crate::state::Board;

/// The shortest and the longest life that is asked for, in milliseconds.
const LIFE_MS: std::ops::RangeInclusive<u64> = 1_000..=3_650 * 86_400_000;
/// How long nodes may take to compile rules and say so.
const POLICY_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at what they have said.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What others may call the rules that were loaded: a path may be longer.
const SOURCE_BYTES_MAX: usize = state::NOTE_BYTES_MAX;

const _: () = assert!(
    telemetry::control::POLICY_BYTES_MAX == state::POLICY_BYTES_MAX,
    "what the control socket takes is what nodes tell each other"
);

/// Common state, and who is asked about it.
pub(crate) struct Common {
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<Board>,
    pub(crate) store: Arc<dyn CommonStore>,
    pub(crate) policies: Arc<Policies>,
    /// Whether the other nodes shall learn which rules this one has: at the start, and when they
    /// have changed. Only the main thread looks at it.
    pub(crate) to_tell: AtomicBool,
}

/// An answer, or why there is none.
type Answer<T> = Result<T, Failure>;

impl Common {
    pub(crate) fn user(&self, request: UserRequest, responder: &mut Responder<'_>) {
        match request {
            UserRequest::List => {
                let users = self.entries(CommonKind::User).map(|entries| {
                    let users = entries.iter().filter_map(|entry| self.logged_in(entry));
                    users.collect::<Vec<_>>()
                });
                list(users, responder, |responder, user| responder.user(user));
            }
            change => answer(self.change_user(change), responder, Responder::change),
        }
    }

    pub(crate) fn block(&self, request: BlockRequest, responder: &mut Responder<'_>) {
        match request {
            BlockRequest::List => {
                let blocks = self.entries(CommonKind::Block).map(|entries| {
                    let blocks = entries.iter().filter_map(|entry| self.blocked(entry));
                    blocks.collect::<Vec<_>>()
                });
                list(blocks, responder, |responder, block| responder.block(block));
            }
            change => answer(self.change_block(change), responder, Responder::change),
        }
    }

    pub(crate) fn policy(&self, request: PolicyRequest, responder: &mut Responder<'_>) {
        match request {
            PolicyRequest::Load { text, source } => {
                let loaded = self.load(text, source);
                answer(loaded, responder, Responder::policy_loaded);
            }
            PolicyRequest::Show => answer(self.shown(), responder, Responder::policy_shown),
        }
    }

    pub(crate) fn expect(&self, request: ExpectRequest, responder: &mut Responder<'_>) {
        let ExpectRequest::List = request;
        let expected = self.entries(CommonKind::Expectation).map(|entries| {
            let expected = entries.iter().filter_map(|entry| self.expected(entry));
            expected.collect::<Vec<_>>()
        });
        list(expected, responder, |responder, e| responder.expectation(e));
    }

    /// How many entries there are, and who lacks some, for the status.
    pub(crate) fn counts(&self) -> CommonEntries {
        let report = self.board.sync.lock();
        let copies = report.status.as_ref().map(|status| status.common.clone());
        drop(report);
        let copies = copies.unwrap_or_default();
        let members = self.config.cluster.as_ref().map(|c| &c.members[..]);
        let names = |peers: &[NodeId]| {
            let named = members.unwrap_or_default().iter();
            let named = named.filter(|member| peers.contains(&member.id));
            named.map(|member| member.name.clone()).collect()
        };
        CommonEntries {
            behind: names(&copies.behind),
            differ: names(&copies.differ),
            given_up: copies.given_up,
            blocks: self.store.count(CommonKind::Block),
            users: self.store.count(CommonKind::User),
            expectations: self.store.count(CommonKind::Expectation),
            tunnels: self.store.count(CommonKind::Tunnel),
        }
    }

    /// Which rules are in force, for the status.
    pub(crate) fn policy_in_force(&self) -> PolicyInForce {
        let now = self.policies.in_force();
        PolicyInForce {
            generation: now.generation,
            source: now.source,
            error: now.refusal.map(|refusal| refusal.error),
        }
    }

    /// Brings rules that were offered into force, and ends what has lived its life; the main thread
    /// calls it many times a second.
    pub(crate) fn tend(&self) {
        self.store.tend();
        if self.policies.pending() && self.policies.take_up().is_some() {
            self.to_tell.store(true, Ordering::Relaxed);
        }
        if self.to_tell.load(Ordering::Relaxed) {
            // Which rules this node has.
            let key = CommonKey::PolicyAt(self.config.node);
            let told = CommonValue::PolicyAt(self.policies.told());
            let taken = self.store.put_later(key, told, None);
            self.to_tell.store(!taken, Ordering::Relaxed);
        }
    }

    fn change_user(&self, request: UserRequest) -> Answer<Change> {
        match request {
            UserRequest::Login {
                name,
                address,
                groups,
                for_ms,
            } => {
                check_life(for_ms)?;
                check_login(&self.config, &name, address, &groups)?;
                let key = CommonKey::User(wire::addr_from_ip(address));
                let before = self.entries(CommonKind::User)?;
                let before = before.iter().find(|entry| entry.key == key);
                let before = before.and_then(|entry| Some(self.logged_in(entry)?.name));
                let user = CommonValue::User(User { name, groups });
                let reached = self.store.put(key, user, for_ms).map_err(failure)?;
                Ok(Change {
                    replaced: before,
                    ..self.changed(1, reached)
                })
            }
            UserRequest::Logout { name, address } => {
                let users = self.entries(CommonKind::User)?;
                let meant = users.iter().filter(|entry| {
                    let user = self.logged_in(entry);
                    user.is_some_and(|user| {
                        name.as_ref().is_none_or(|name| *name == user.name)
                            && address.is_none_or(|address| address.to_canonical() == user.address)
                    })
                });
                let keys: Vec<_> = meant.map(|entry| entry.key).collect();
                if keys.is_empty() {
                    let who = name.unwrap_or_else(|| "nobody".into());
                    let what = match address {
                        Some(address) if who == "nobody" => {
                            format!("nobody is logged in at {address}")
                        }
                        Some(address) => format!("{who} is not logged in at {address}"),
                        None => format!("{who} is not logged in"),
                    };
                    return Err(absent(format!("{what}; ravelin user list tells who is")));
                }
                self.delete(&keys)
            }
            UserRequest::List => unreachable!("a list is no change"),
        }
    }

    fn change_block(&self, request: BlockRequest) -> Answer<Change> {
        match request {
            BlockRequest::Add { net, for_ms, note } => {
                check_life(for_ms)?;
                check_block(&self.config, net)?;
                let key = CommonKey::Block(state_net(net));
                let before = self.entries(CommonKind::Block)?;
                let before = before.iter().find(|entry| entry.key == key);
                let before = before.and_then(|entry| {
                    let block = self.blocked(entry)?;
                    let note = if block.note.is_empty() { "" } else { ", " };
                    Some(format!("{}{note}{}", block.reason, block.note))
                });
                let reason = BlockReason::Operator;
                let block = CommonValue::Block(Block { reason, note });
                let reached = self.store.put(key, block, for_ms).map_err(failure)?;
                Ok(Change {
                    replaced: before,
                    ..self.changed(1, reached)
                })
            }
            BlockRequest::Del { net } => {
                let key = CommonKey::Block(state_net(net));
                let blocks = self.entries(CommonKind::Block)?;
                if !blocks.iter().any(|entry| entry.key == key) {
                    let within = blocks.iter().filter_map(|entry| self.blocked(entry));
                    let mut within = within.filter(|block| block.net.contains(&net));
                    let hint = within.next().map(|block| {
                        format!("{net} is blocked as a part of {0}; delete {0}", block.net)
                    });
                    return Err(absent(hint.unwrap_or_else(|| {
                        format!("{net} is not blocked; ravelin block list tells what is")
                    })));
                }
                self.delete(&[key])
            }
            BlockRequest::List => unreachable!("a list is no change"),
        }
    }

    fn delete(&self, keys: &[CommonKey]) -> Answer<Change> {
        let mut reached = Reached::default();
        for key in keys {
            let of_one = self.store.delete(*key).map_err(failure)?;
            for node in of_one.lacking {
                if !reached.lacking.contains(&node) {
                    reached.lacking.push(node);
                }
            }
        }
        Ok(self.changed(keys.len() as u64, reached))
    }

    fn changed(&self, entries: u64, reached: Reached) -> Change {
        let have = self.living();
        let have = have.iter().filter(|node| !reached.lacking.contains(node));
        Change {
            entries,
            replaced: None,
            on: have.map(|node| self.name(*node)).collect(),
            lacking: reached.lacking.iter().map(|n| self.name(*n)).collect(),
        }
    }

    fn load(&self, text: String, source: String) -> Answer<PolicyLoaded> {
        let known = self.known_generation()?;
        let generation = match &self.config.cluster {
            Some(_) => next_generation(known, self.config.node),
            None => known.saturating_add(1),
        };
        if generation == u32::MAX {
            return Err(invalid(
                "the numbers of rule sets are used up: stop all nodes at once and start them with \
                 these rules in their configurations",
            ));
        }
        let source = named(source);
        let read = self
            .policies
            .check(&text, &source, generation)
            .map_err(|error| invalid(error.to_string()))?;
        let loaded = CommonValue::Policy(PolicyText {
            generation,
            text,
            note: source,
        });
        let reached = self.store.put(CommonKey::Policy, loaded, None);
        let reached = reached.map_err(failure)?;
        let told = self.wait_for_policy(generation, &reached.lacking)?;
        let mut answer = PolicyLoaded {
            generation,
            rules: read.rules.rules().len() as u64,
            warnings: read.warnings.iter().map(ToString::to_string).collect(),
            ..PolicyLoaded::default()
        };
        for node in self.living() {
            let name = self.name(node);
            match told.iter().find(|(of, _)| *of == node) {
                Some((_, at)) if at.generation == generation => answer.on.push(name),
                Some((_, at)) if at.tried == generation => answer.refused.push(PolicyRefusal {
                    node: name,
                    error: at.error.clone().unwrap_or_default(),
                }),
                _ => answer.lacking.push(name),
            }
        }
        Ok(answer)
    }

    /// Waits until all living nodes but those that lack the text have said what became of it.
    fn wait_for_policy(
        &self,
        generation: u32,
        lacking: &[NodeId],
    ) -> Answer<Vec<(NodeId, PolicyAt)>> {
        let asked = Instant::now();
        loop {
            let newest = self.entries(CommonKind::Policy)?;
            if let Some((text, by)) = newest.first().and_then(policy_of)
                && text.generation != generation
            {
                return Err(Failure {
                    kind: FailureKind::Unavailable,
                    message: format!(
                        "other rules, generation {}, were loaded on {} at the same time and are in \
                         force; load these again if they are the right ones",
                        text.generation,
                        self.name(by)
                    ),
                });
            }
            let told = self.told()?;
            let said = |node: &NodeId| {
                let at = told.iter().find(|(of, _)| of == node);
                at.is_some_and(|(_, at)| at.tried == generation)
            };
            let living = self.living();
            let mut waited_for = living.iter().filter(|node| !lacking.contains(node));
            if waited_for.all(said) || asked.elapsed() > POLICY_PATIENCE {
                return Ok(told);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The greatest number of rules that anybody has spoken of.
    fn known_generation(&self) -> Answer<u32> {
        let now = self.policies.told();
        let mut known = now.generation.max(now.tried);
        for entry in self.entries(CommonKind::Policy)? {
            known = known.max(policy_of(&entry).map_or(0, |(text, _)| text.generation));
        }
        for (_, at) in self.told()? {
            known = known.max(at.generation).max(at.tried);
        }
        Ok(known)
    }

    /// What nodes have said of their rules.
    fn told(&self) -> Answer<Vec<(NodeId, PolicyAt)>> {
        let entries = self.entries(CommonKind::PolicyAt)?;
        let told = entries.into_iter().filter_map(|entry| match entry {
            CommonEntry {
                key: CommonKey::PolicyAt(node),
                value: Some(CommonValue::PolicyAt(at)),
                ..
            } => Some((node, at)),
            _ => None,
        });
        Ok(told.collect())
    }

    fn shown(&self) -> Answer<PolicyShown> {
        let now = self.policies.in_force();
        let mut nodes: Vec<_> = self.told()?;
        nodes.sort_by_key(|(node, _)| *node);
        let (text, by) = now.loaded.unzip();
        Ok(PolicyShown {
            generation: now.generation,
            source: now.source,
            loaded_on: by.map(|by| self.name(by)),
            text: text.map(|text| text.to_string()),
            refusal: now.refusal.map(|refusal| refusal.error),
            nodes: nodes
                .into_iter()
                .map(|(node, at)| PolicyNode {
                    node: self.name(node),
                    generation: at.generation,
                    error: at.error,
                })
                .collect(),
        })
    }

    fn entries(&self, kind: CommonKind) -> Answer<Vec<CommonEntry>> {
        self.store.of_kind(kind).map_err(failure)
    }

    fn logged_in(&self, entry: &CommonEntry) -> Option<LoggedIn> {
        let (CommonKey::User(address), Some(CommonValue::User(user))) = (entry.key, &entry.value)
        else {
            return None;
        };
        Some(LoggedIn {
            name: user.name.clone(),
            address: wire::addr_to_ip(&address),
            groups: user.groups.clone(),
            left_s: seconds(entry.left_ms),
            node: self.name(entry.stamp.node()),
        })
    }

    fn blocked(&self, entry: &CommonEntry) -> Option<Blocked> {
        let (CommonKey::Block(net), Some(CommonValue::Block(block))) = (entry.key, &entry.value)
        else {
            return None;
        };
        Some(Blocked {
            net: ip_net(net),
            reason: block.reason.name().to_owned(),
            note: block.note.clone(),
            left_s: seconds(entry.left_ms),
            node: self.name(entry.stamp.node()),
        })
    }

    fn expected(&self, entry: &CommonEntry) -> Option<Expected> {
        let (CommonKey::Expectation(key), Some(CommonValue::Expectation(expectation))) =
            (entry.key, &entry.value)
        else {
            return None;
        };
        let zones = self.config.rules.zones();
        let zone = |id| zones.name(id).unwrap_or("?").to_owned();
        let rule = self.policies.names().get(&expectation.rule).cloned();
        Some(Expected {
            proto: Proto(key.proto),
            src: key.src.map(|src| wire::addr_to_ip(&src)),
            dst: wire::addr_to_ip(&key.dst),
            dport: key.dport,
            zone_from: zone(expectation.zone_from),
            zone_to: zone(expectation.zone_to),
            rule: rule.unwrap_or_else(|| format!("{:#010x}", expectation.rule)),
            sync: sync_name(expectation.sync).to_owned(),
            once: expectation.once,
            parent: expectation.parent.to_string(),
            left_s: seconds(entry.left_ms),
            node: self.name(entry.stamp.node()),
        })
    }

    /// The nodes that live as far as this one knows, itself first.
    fn living(&self) -> Vec<NodeId> {
        let me = self.config.node;
        let view = self.board.node.view.load();
        let others = view.members.iter();
        let others = others.filter(|m| m.id != me && m.state != MemberState::Dead);
        std::iter::once(me).chain(others.map(|m| m.id)).collect()
    }

    pub(crate) fn name(&self, node: NodeId) -> String {
        match &self.config.cluster {
            None => self.config.name.clone(),
            Some(cluster) => {
                let member = cluster.member(node);
                member.map_or_else(|| format!("node {}", node.raw()), |m| m.name.clone())
            }
        }
    }
}

/// How a flow is replicated, in a word.
pub(crate) fn sync_name(sync: SyncMode) -> &'static str {
    match sync {
        SyncMode::None => "none",
        SyncMode::Delayed => "delayed",
        SyncMode::Async => "async",
        SyncMode::Ack => "ack",
    }
}

/// A text of rules, and the node on which it was loaded.
pub(crate) fn policy_of(entry: &CommonEntry) -> Option<(&PolicyText, NodeId)> {
    match &entry.value {
        Some(CommonValue::Policy(text)) => Some((text, entry.stamp.node())),
        _ => None,
    }
}

fn answer<'a, 'r, T>(
    answer: Answer<T>,
    responder: &'a mut Responder<'r>,
    give: impl FnOnce(&mut Responder<'r>, &T),
) {
    match answer {
        Ok(answer) => give(responder, &answer),
        Err(Failure { kind, message }) => responder.fail(kind, message),
    }
}

fn list<'r, T>(
    elements: Answer<Vec<T>>,
    responder: &mut Responder<'r>,
    mut give: impl FnMut(&mut Responder<'r>, &T) -> Result<(), telemetry::control::Stop>,
) {
    answer(elements, responder, |responder, elements| {
        for element in elements {
            if give(responder, element).is_err() {
                // Nobody listens any more.
                return;
            }
        }
    });
}

pub(crate) fn check_life(for_ms: Option<u64>) -> Answer<()> {
    if for_ms.is_none_or(|ms| LIFE_MS.contains(&ms)) {
        return Ok(());
    }
    Err(invalid(
        "a life out of range; ask for 1s to 3650d, or for none",
    ))
}

fn check_login(config: &Config, name: &str, address: IpAddr, groups: &[String]) -> Answer<()> {
    for name in std::iter::once(name).chain(groups.iter().map(String::as_str)) {
        policy::check_name(name).map_err(|error| invalid(error.to_string()))?;
    }
    if groups.len() > GROUPS_MAX {
        let len = groups.len();
        return Err(invalid(format!(
            "{len} groups; a user has at most {GROUPS_MAX}"
        )));
    }
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast {
        return Err(invalid(format!(
            "nobody sends from {address}; give the address of the user's machine"
        )));
    }
    if let Some(interface) = owner(config, &IpNet::from(address)) {
        return Err(invalid(format!(
            "{address} is this gateway's own address on {interface}; give that of the user's machine"
        )));
    }
    Ok(())
}

pub(crate) fn check_block(config: &Config, net: IpNet) -> Answer<()> {
    if let Err(error) = AddressSet::parse([net.to_string().as_str()]) {
        return Err(invalid(error.to_string()));
    }
    if net.prefix_len() == 0 {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(invalid(format!(
            "{net} is all of {family}: to stop everything, load rules that deny it"
        )));
    }
    if let Some(interface) = owner(config, &net) {
        return Err(invalid(format!(
            "{net} has this gateway's own address on {interface}, which its neighbours and you need; \
             block a network without it"
        )));
    }
    Ok(())
}

/// The interface that has an address within the network.
fn owner<'c>(config: &'c Config, net: &IpNet) -> Option<&'c str> {
    let has = |interface: &&config::Interface| {
        let mut addresses = interface.addresses.iter();
        addresses.any(|address| net.contains(&address.addr()))
    };
    config.interfaces.iter().find(has).map(|i| i.name.as_str())
}

/// What rules are called, as long as all nodes may hear; the end of a path says most.
fn named(mut source: String) -> String {
    source.retain(|c| !c.is_control());
    let mut start = source.len().saturating_sub(SOURCE_BYTES_MAX);
    while !source.is_char_boundary(start) {
        start += 1;
    }
    source.split_off(start)
}

/// Seconds that are left, the one that has begun included.
fn seconds(left_ms: Option<u64>) -> Option<u64> {
    left_ms.map(|ms| ms.div_ceil(1_000))
}

pub(crate) fn state_net(net: IpNet) -> Net {
    let len = match net {
        IpNet::V4(v4) => v4.prefix_len() + 96,
        IpNet::V6(v6) => v6.prefix_len(),
    };
    Net::new(wire::addr_from_ip(net.network()), len)
}

fn ip_net(net: Net) -> IpNet {
    let address = wire::addr_to_ip(&net.addr);
    let len = match address {
        IpAddr::V4(_) => net.len.saturating_sub(96),
        IpAddr::V6(_) => net.len,
    };
    IpNet::new(address, len).unwrap_or_else(|_| IpNet::from(address))
}

fn failure(error: StoreError) -> Failure {
    let kind = match error {
        StoreError::Refused(_) => FailureKind::Invalid,
        StoreError::Unavailable(_) => FailureKind::Unavailable,
    };
    let message = error.to_string();
    Failure { kind, message }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure {
        kind: FailureKind::Invalid,
        message: message.into(),
    }
}

fn absent(message: String) -> Failure {
    Failure {
        kind: FailureKind::Absent,
        message,
    }
}

#[cfg(test)]
pub(crate) mod tests;
