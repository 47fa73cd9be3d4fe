//! The state machine: from what is heard, and what is not, to views.

use std::collections::VecDeque;
use std::sync::Arc;

use state::{NODES_MAX, NodeId, NodeSet};

use crate::config::ClusterConfig;
use crate::handover::{Applied, Drain, DrainRefused, Giving, HandOver};
use crate::heartbeat::{Announced, Heartbeat, Refusal};
use crate::joins::Given;
use crate::output::{Death, Event, MemberStatus, Output, Said, Status};
use crate::reunions::Together;
use crate::view::{Member, MemberState, View};

/// How many events wait to be polled; the oldest are dropped beyond it.
const EVENTS_MAX: usize = 256;

/// Whether this node can do its work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    /// All workers turn.
    Ok,
    /// A worker does not: this node's slots are better off with their heirs.
    WorkerStalled,
}

/// The node is no member of the configuration that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this node has id {0}, which is not among the configured members")]
pub struct NotAMember(pub NodeId);

/// One node's part in its cluster's membership.
///
/// Call [`Self::tick`] at [`Self::deadline`] or sooner, hand in what happens, and poll until there
/// is nothing more after each input. Times are milliseconds of one monotonic clock; a time before
/// one that was given is taken for the latter.
///
/// A starting node is joining. It becomes active when for every configured peer one of these
/// holds: it is heard and is not active, so it has nothing to give; it is active, it hears this node,
/// and [`Self::on_synced`] was called for its present run and this node's present join; it is dead; it was not heard since the
/// start and `join_wait_ms` has passed. A node becomes joining again, and must get all snapshots
/// anew, when it recovers from a stall, when it is undrained, and when it finds after a pause that
/// a peer took it for dead: others handled its flows meanwhile.
///
/// Joins are numbered ([`View::join`]), and what was asked for in an earlier one does not count, however
/// late it comes. A new number is needed as well while the node is joining, when an owner took it for
/// dead, and when an owner is gone whose snapshot had not come: its heirs have given theirs,
/// perhaps, before they inherited. See `joins.rs`.
///
/// Slots are given and taken without a gap: [`Self::drain`] and [`Self::on_applied`].
#[derive(Debug)]
pub struct Membership {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) me: NodeId,
    incarnation: u64,
    pub(crate) state: MemberState,
    health: Health,
    /// Numbers the times that all state is asked for.
    pub(crate) join: u64,
    /// Numbers the times that a peer came back which may have served this node's slots.
    pub(crate) reunions: u64,
    /// Asked to drain, and not taken back.
    drained: bool,
    /// On its way from active to draining.
    giving: Option<Box<Giving>>,
    /// How many final synchronisations were asked for.
    flushes: u64,
    applied: Applied,
    leaving: bool,
    pub(crate) peers: Vec<Peer>,
    pub(crate) now_ms: u64,
    started_ms: u64,
    heartbeat_at_ms: u64,
    /// Until then, a peer that does not hear this node tells that it took it for dead in a pause.
    doubt_until_ms: u64,
    sequence: u64,
    /// The peers that know a later run of this node.
    outrun_at: NodeSet,
    /// The peers that have heard this run.
    accepted_by: NodeSet,
    /// The greatest epoch of any peer.
    epoch_heard: u64,
    view: Arc<View>,
    view_due: bool,
    heartbeats_due: NodeSet,
    events: VecDeque<Event>,
    events_lost: u64,
    /// By node: why its last message was refused.
    refused: [Option<Refusal>; NODES_MAX],
}

/// What is known of one configured peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    alive: bool,
    /// The greatest heard; 0 when none was.
    pub(crate) incarnation: u64,
    sequence: u64,
    pub(crate) announced: Announced,
    heard_ms: Option<u64>,
    /// While it is alive: when it is dead unless it is heard.
    expires_ms: u64,
    epoch: u64,
    view_digest: u64,
    config_digest: u64,
    hears: NodeSet,
    holds: NodeSet,
    /// Who owns by the views that its workers may act by.
    pub(crate) owners: NodeSet,
    /// The number of the last heartbeat that it had heard of this node.
    heard_of_us: u64,
    /// The run of which its snapshot is complete here. It can be one that is not heard yet: state
    /// comes over another connection than heartbeats.
    pub(crate) synced_run: Option<u64>,
    /// What came of its state in the present join.
    pub(crate) given: Given,
    /// How this node was together with it at the last look.
    pub(crate) together: Together,
    /// Since when it is heard and does not hear this node.
    unheard_since_ms: Option<u64>,
    unheard_said: bool,
}

impl Membership {
    /// A node that starts: `incarnation` is the Unix time in milliseconds, greater than that of any
    /// earlier run of the node.
    pub fn new(
        config: Arc<ClusterConfig>,
        me: NodeId,
        incarnation: u64,
        now_ms: u64,
    ) -> Result<Self, NotAMember> {
        config.member(me).ok_or(NotAMember(me))?;
        let peers = config.members().iter().filter(|m| m.id != me);
        let peers: Vec<Peer> = peers.map(|m| Peer::new(m.id, config.digest())).collect();
        let mut it = Self {
            view: Arc::new(View::compute(&config, &[], 0)),
            config,
            me,
            incarnation,
            state: MemberState::Joining,
            health: Health::Ok,
            join: 1,
            reunions: 0,
            drained: false,
            giving: None,
            flushes: 0,
            applied: Applied::new(),
            leaving: false,
            peers,
            now_ms,
            started_ms: now_ms,
            heartbeat_at_ms: now_ms,
            doubt_until_ms: now_ms,
            // Heartbeats are numbered from the run's beginning in milliseconds, of which each takes
            // at least one: so the numbers rise from run to run as well, unless the clock went back.
            // Then the run tells them apart.
            sequence: incarnation,
            outrun_at: NodeSet::EMPTY,
            accepted_by: NodeSet::EMPTY,
            epoch_heard: 0,
            view_due: true,
            heartbeats_due: NodeSet::EMPTY,
            events: VecDeque::new(),
            events_lost: 0,
            refused: [None; NODES_MAX],
        };
        it.settle();
        Ok(it)
    }

    /// The driver will tell when its workers act by a view ([`Self::on_applied`]). Without this, a
    /// view counts as acted by once it is there to be polled.
    pub fn with_views_applied_later(mut self) -> Self {
        self.applied.told = true;
        self
    }

    /// All workers act by the view of this epoch, or a later one. Peers that hand over wait for this
    /// word, and a node that has joined announces itself as active by it.
    pub fn on_applied(&mut self, epoch: u64) {
        let said = (self.announced(), self.applied.owners());
        self.applied.reached(epoch);
        if (self.announced(), self.applied.owners()) != said {
            self.announce();
        }
        self.settle();
    }

    /// Whether a view is on its way to the workers, so that [`Self::on_applied`] is waited for.
    pub fn awaits_workers(&self) -> bool {
        self.applied.is_pending()
    }

    /// The final synchronisation of this number ([`HandOver::flush`]) is complete: when it was asked
    /// for, the workers had taken all that had arrived, and all changes until then are
    /// with this node's targets.
    pub fn on_flushed(&mut self, flush: u64) {
        if let Some(giving) = &mut self.giving {
            giving.flushed |= giving.flush == Some(flush);
        }
        self.settle();
    }

    /// How far the hand-over is, while there is one.
    pub fn hand_over(&self) -> Option<HandOver> {
        let giving = self.giving.as_ref()?;
        let owned = self.view.owned(self.me);
        Some(giving.report(owned, self.not_owning_yet(giving), self.now_ms))
    }

    /// A datagram came from `from`, as the connection's certificate names it. Whatever is not a
    /// heartbeat of this cluster is refused with an event.
    pub fn on_message(&mut self, from: NodeId, bytes: &[u8], now_ms: u64) {
        self.advance(now_ms);
        match self.hear(from, bytes) {
            Ok(()) => self.refused[from.index()] = None,
            Err(why) => {
                if self.refused[from.index()].replace(why) != Some(why) {
                    self.say(Event::Refused { peer: from, why });
                }
            }
        }
        self.settle();
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) {
        self.advance(now_ms);
        self.settle();
        if self.now_ms >= self.heartbeat_at_ms {
            let next = self.heartbeat_at_ms + self.config.timing().heartbeat_ms;
            // After a pause one heartbeat is enough.
            self.heartbeat_at_ms = match next > self.now_ms {
                true => next,
                false => self.now_ms + self.config.timing().heartbeat_ms,
            };
            self.announce();
        }
        self.complain_unheard();
    }

    /// Everything that `peer` holds for this node has arrived, sent by its run `incarnation` and asked
    /// for when [`View::join`] was `join`. What was asked for in an earlier join is passed over.
    pub fn on_synced(&mut self, peer: NodeId, incarnation: u64, join: u64) {
        let peer = self.peers.iter_mut().find(|p| p.id == peer);
        if let Some(peer) = peer.filter(|_| join == self.join) {
            peer.synced_run = peer.synced_run.max(Some(incarnation));
            peer.given.run = peer.given.run.max(Some(incarnation));
        }
        self.settle();
    }

    /// The workers' health changed. A stalled node drains while another is active; it stays active
    /// when it is the only one, since a part of its workers is better than nobody.
    pub fn set_health(&mut self, health: Health) {
        self.health = health;
        let recovered = health == Health::Ok && self.state == MemberState::Draining;
        if recovered && !self.drained && !self.leaving {
            self.rejoin();
        }
        self.settle();
    }

    /// Gives up all slots, without a moment in which nobody owns them, and stays, until
    /// [`Self::undrain`] or [`Self::leave`]. [`Self::hand_over`] tells how far it is;
    /// [`Self::state`] is draining when it is done. An order while one is under way replaces its
    /// bound.
    ///
    /// # Errors
    /// When nobody is there to take over and it is not forced. When that turns out later, since
    /// all others have died or drain as well, the order is given up with
    /// [`Event::HandOverAbandoned`]: the node goes on.
    pub fn drain(&mut self, order: Drain) -> Result<(), DrainRefused> {
        if self.leaving {
            return Err(DrainRefused::Leaving);
        }
        if self.state != MemberState::Active {
            // It owns nothing.
            self.drained = true;
            self.change_to(MemberState::Draining);
            self.settle();
            return Ok(());
        }
        if !order.force && !self.has_heirs() && !self.someone_joins() {
            return Err(DrainRefused::Alone);
        }
        self.drained = true;
        match &mut self.giving {
            Some(giving) => {
                giving.order.force |= order.force;
                giving.until_ms = self.now_ms.saturating_add(order.bound_ms);
                giving.rejoin = false;
            }
            None => {
                self.announce();
                let giving = Giving::new(order, self.now_ms, self.sequence);
                self.giving = Some(Box::new(giving));
                self.count_heirs();
                let slots = self.view.owned(self.me);
                self.say(Event::HandingOver { slots });
            }
        }
        self.settle();
        Ok(())
    }

    /// Takes [`Self::drain`] back: joins again. A hand-over that is under way is finished first:
    /// others own already, and only by joining this node gets what they did.
    pub fn undrain(&mut self) {
        if self.drained && !self.leaving {
            self.drained = false;
            match &mut self.giving {
                Some(giving) => giving.rejoin = true,
                None if self.health == Health::Ok => self.rejoin(),
                None => {}
            }
        }
        self.settle();
    }

    /// Whether this node was told to drain, and not the contrary since.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Says goodbye: to peers this node is dead as soon as they hear it, and for good in this run.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.giving = None;
        self.change_to(MemberState::Draining);
        self.announce();
        self.settle();
    }

    /// The next thing to do; `None` when there is nothing until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        if std::mem::take(&mut self.view_due) {
            let said = (self.announced(), self.applied.owners());
            self.applied.published(&self.view);
            if (self.announced(), self.applied.owners()) != said {
                self.announce();
            }
            return Some(Output::View(self.view.clone()));
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        let to = self.heartbeats_due.iter().next()?;
        self.heartbeats_due.remove(to);
        let bytes = self.heartbeat(to).emit();
        Some(Output::Send { to, bytes })
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub fn deadline(&self) -> u64 {
        let deaths = self.peers.iter().filter(|p| p.alive).map(|p| p.expires_ms);
        let join = self.started_ms + self.config.timing().join_wait_ms;
        let join = (self.state == MemberState::Joining && join > self.now_ms).then_some(join);
        let giving = self.giving.as_ref().map(|g| g.until_ms);
        let others = deaths.chain(join).chain(giving).min().unwrap_or(u64::MAX);
        others.min(self.heartbeat_at_ms)
    }

    /// The present view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What this node does.
    pub fn state(&self) -> MemberState {
        self.state
    }

    /// The cluster as this node sees it.
    pub fn status(&self) -> Status {
        let members = self.config.members().iter().map(|configured| {
            let peer = self.peers.iter().find(|p| p.id == configured.id);
            let (id, name) = (configured.id, configured.name.clone());
            match peer {
                None => MemberStatus {
                    id,
                    name,
                    state: self.state,
                    incarnation: self.incarnation,
                    heard_ms_ago: Some(0),
                    said: Some(Said {
                        epoch: self.view.epoch,
                        digest: self.view.digest,
                        agrees: true,
                        same_config: true,
                        hears: self.hears(),
                        synced: self.synced(),
                    }),
                },
                Some(peer) => MemberStatus {
                    id,
                    name,
                    state: peer.state(),
                    incarnation: peer.incarnation,
                    heard_ms_ago: peer.heard_ms.map(|heard| self.now_ms - heard),
                    said: peer.alive.then_some(Said {
                        epoch: peer.epoch,
                        digest: peer.view_digest,
                        agrees: peer.view_digest == self.view.digest,
                        same_config: peer.config_digest == self.config.digest(),
                        hears: peer.hears,
                        synced: peer.holds,
                    }),
                },
            }
        });
        let joining = self.state == MemberState::Joining;
        Status {
            me: self.me,
            epoch: self.view.epoch,
            digest: self.view.digest,
            waits_for: match joining {
                true => self.waits_for(),
                false => NodeSet::EMPTY,
            },
            events_lost: self.events_lost,
            members: members.collect(),
        }
    }

    /// Moves the clock. When this node did not run for a while, its peers' datagrams wait in the
    /// socket's buffer: silence means nothing until they had another period to be read.
    fn advance(&mut self, now_ms: u64) {
        let gap_ms = now_ms.saturating_sub(self.now_ms);
        self.now_ms += gap_ms;
        let dead_after_ms = self.config.timing().dead_after_ms;
        if gap_ms <= dead_after_ms {
            return;
        }
        let expires_ms = self.now_ms + dead_after_ms;
        self.peers
            .iter_mut()
            .for_each(|p| p.expires_ms = expires_ms);
        self.doubt_until_ms = expires_ms;
        self.say(Event::Paused { ms: gap_ms });
    }

    fn hear(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), Refusal> {
        let at = self.peers.iter().position(|p| p.id == from);
        let at = at.ok_or(Refusal::NotAPeer)?;
        let heard = Heartbeat::parse(bytes, from, self.config.cluster())?;
        let peer = &mut self.peers[at];
        if heard.incarnation < peer.incarnation {
            return Err(Refusal::OldRun {
                theirs: heard.incarnation,
                known: peer.incarnation,
            });
        }
        let newer_run = heard.incarnation > peer.incarnation;
        let late = peer.heard_ms.is_some() && heard.sequence <= peer.sequence;
        if !newer_run && late {
            return Ok(());
        }
        let was = (peer.alive, peer.incarnation, peer.state());
        let config_was = peer.config_digest;
        let heard_me = peer.alive && !newer_run && peer.hears.contains(self.me);
        peer.take(&heard, self.now_ms, self.config.timing().dead_after_ms);
        let (is_alive, is) = (peer.alive, peer.state());
        let dropped_me = heard_me && peer.owns() && !peer.hears.contains(self.me);
        match was {
            (true, incarnation, _) if !is_alive => {
                peer.die();
                self.say(Event::PeerDown {
                    peer: from,
                    incarnation,
                    death: Death::Left,
                });
            }
            (false, ..) if is_alive => self.say(Event::PeerUp {
                peer: from,
                incarnation: heard.incarnation,
                state: is,
            }),
            (true, incarnation, _) if newer_run => self.say(Event::PeerRestarted {
                peer: from,
                from: incarnation,
                to: heard.incarnation,
            }),
            (true, _, state) if state != is => self.say(Event::PeerState {
                peer: from,
                from: state,
                to: is,
            }),
            _ => {}
        }
        if heard.config != config_was && heard.config != self.config.digest() {
            self.say(Event::ConfigDiffers {
                peer: from,
                theirs: heard.config,
                ours: self.config.digest(),
            });
        }
        if dropped_me && self.state == MemberState::Joining {
            // It took this node for dead: what it did since is not in the snapshot that it gave. It
            // gives another one as soon as it hears this node again. What is on its way now is still
            // the first one, so the number of the join has to tell them apart.
            self.ask_anew();
        }
        self.epoch_heard = self.epoch_heard.max(heard.epoch);
        self.notice_later_run(from, &heard);
        self.notice_whether_heard(at);
        Ok(())
    }

    /// Only a peer that refuses what this run says, because it knows a later one, names a heartbeat of
    /// a node that it does not hear.
    fn notice_later_run(&mut self, peer: NodeId, heard: &Heartbeat) {
        let hears = NodeSet(heard.hears).contains(self.me);
        // What it says may still be about an earlier run, whose heartbeats were numbered otherwise.
        if hears && (self.incarnation..=self.sequence).contains(&heard.heard) {
            self.accepted_by.insert(peer);
        }
        if heard.heard == 0 || hears {
            self.outrun_at.remove(peer);
        } else if !self.outrun_at.contains(peer) {
            self.outrun_at.insert(peer);
            self.say(Event::LaterRunKnown {
                peer,
                theirs: heard.heard,
                ours: self.incarnation,
                accepted: self.accepted_by.contains(peer),
            });
        }
    }

    /// Whether the peer that was just heard hears this node.
    fn notice_whether_heard(&mut self, at: usize) {
        let (me, now_ms) = (self.me, self.now_ms);
        let peer = &mut self.peers[at];
        if !peer.alive {
            return;
        }
        if peer.hears.contains(me) {
            peer.unheard_since_ms = None;
            if std::mem::take(&mut peer.unheard_said) {
                let peer = peer.id;
                self.say(Event::HeardAgain { peer });
            }
            return;
        }
        peer.unheard_since_ms.get_or_insert(now_ms);
        // One that is joining may not have heard anybody yet.
        let has_opinion = peer.state() != MemberState::Joining;
        let in_doubt = now_ms <= self.doubt_until_ms && self.state == MemberState::Active;
        if has_opinion && in_doubt {
            match self.giving.take() {
                // It owns already what this node was to hand over.
                Some(giving) if !giving.rejoin => self.change_to(MemberState::Draining),
                _ => self.rejoin(),
            }
        }
    }

    fn complain_unheard(&mut self) {
        let dead_after_ms = self.config.timing().dead_after_ms;
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            let since = peer.unheard_since_ms.filter(|_| peer.alive);
            let long = since.is_some_and(|since| self.now_ms - since >= dead_after_ms);
            if long && !peer.unheard_said {
                peer.unheard_said = true;
                let peer = peer.id;
                self.say(Event::Unheard { peer });
            }
        }
    }

    /// Draws the consequences of whatever changed: deaths, this node's own state, the view.
    fn settle(&mut self) {
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            let silent = self.now_ms >= peer.expires_ms;
            if peer.alive && silent && !state::mutation::is(state::mutation::Mutation::NobodyDies) {
                peer.die();
                let silent_ms = self.now_ms - peer.heard_ms.unwrap_or(self.now_ms);
                let (peer, incarnation) = (peer.id, peer.incarnation);
                self.say(Event::PeerDown {
                    peer,
                    incarnation,
                    death: Death::Silent(silent_ms),
                });
                // If it lives, it must know soon that it was not heard.
                self.announce();
            }
        }
        self.notice_lost_owners();
        self.notice_reunions();
        let stalled = self.health == Health::WorkerStalled;
        let relieved = self.peers.iter().any(|p| p.state() == MemberState::Active);
        match self.state {
            // At once: a worker that stands still cannot bridge the time until others own.
            MemberState::Active if stalled && relieved => {
                self.giving = None;
                self.change_to(MemberState::Draining);
            }
            MemberState::Joining if !stalled && self.waits_for().is_empty() => {
                // Whoever does not hear this node now may have begun before it became active, and
                // then has state that this node lacks.
                self.doubt_until_ms = self.now_ms + self.config.timing().dead_after_ms;
                self.change_to(MemberState::Active);
            }
            _ => {}
        }
        self.go_on_handing_over();
        let members = self.members();
        let counts = (self.view.join, self.view.reunions);
        if members != self.view.members || (self.join, self.reunions) != counts {
            let epoch = self.view.epoch.max(self.epoch_heard).saturating_add(1);
            let mut view = View::compute(&self.config, &members, epoch);
            view.join = self.join;
            view.reunions = self.reunions;
            self.view = Arc::new(view);
            self.view_due = true;
            self.count_heirs();
        }
    }

    /// The steps of a hand-over: `handover.rs` has them in words.
    fn go_on_handing_over(&mut self) {
        let Some(giving) = &self.giving else { return };
        let waits_for = self.not_owning_yet(giving);
        let late = self.now_ms >= giving.until_ms;
        let hopeless = !self.has_heirs() && (late || !self.someone_joins());
        if hopeless && !giving.order.force {
            self.giving = None;
            self.drained = false;
            self.say(Event::HandOverAbandoned);
            return self.announce();
        }
        let done = giving.flushed && waits_for.is_empty();
        if !late && !hopeless && !done {
            let flush = giving.flush;
            let next = match (waits_for.is_empty(), flush) {
                (true, None) => {
                    self.flushes += 1;
                    Some(self.flushes)
                }
                (true, Some(_)) => flush,
                // Another one is to own: what changes until it does is to be synchronised too.
                (false, _) => None,
            };
            if next != flush
                && let Some(giving) = &mut self.giving
            {
                giving.flush = next;
                giving.flushed = false;
            }
            return;
        }
        let ms = self.now_ms - giving.since_ms;
        self.say(match done {
            true => Event::HandedOver { ms },
            false => Event::HandOverCut { ms, waits_for },
        });
        match self.giving.take() {
            Some(giving) if giving.rejoin => self.rejoin(),
            _ => self.change_to(MemberState::Draining),
        }
    }

    /// The peers that do not yet own, for all that this node knows, or need its state to join.
    ///
    /// What an active peer says counts once it has heard the announcement: what it said before can
    /// be about the time before this node became active, and a late heartbeat could still make it believe that.
    fn not_owning_yet(&self, giving: &Giving) -> NodeSet {
        let missing = |peer: &&Peer| match peer.state() {
            MemberState::Active => {
                let heard = (giving.announced..=self.sequence).contains(&peer.heard_of_us);
                !heard || !peer.hears.contains(self.me) || peer.owners.contains(self.me)
            }
            MemberState::Joining => true,
            // One that drains as well is no heir. One that is dead is none either.
            MemberState::Draining | MemberState::Dead => false,
        };
        self.peers.iter().filter(missing).map(|p| p.id).collect()
    }

    /// Whether somebody can take over.
    fn has_heirs(&self) -> bool {
        (self.peers.iter()).any(|p| p.state() == MemberState::Active)
    }

    /// Whether somebody may be able to soon.
    fn someone_joins(&self) -> bool {
        (self.peers.iter()).any(|p| p.state() == MemberState::Joining)
    }

    fn count_heirs(&mut self) {
        if let Some(giving) = &mut self.giving {
            let mut members = self.view.members.clone();
            let mine = members.iter_mut().filter(|m| m.id == self.me);
            mine.for_each(|m| m.state = MemberState::Draining);
            let after = View::compute(&self.config, &members, self.view.epoch);
            giving.count_heirs(self.me, &self.view, &after);
        }
    }

    /// The peers that keep this node from becoming active.
    fn waits_for(&self) -> NodeSet {
        let waited = self.now_ms - self.started_ms >= self.config.timing().join_wait_ms;
        let unsettled = self.lost_owners_unsettled();
        let blocks = |peer: &&Peer| match peer.state() {
            // One that does not hear this node sends it no changes, whatever it sent before.
            MemberState::Active
                if state::mutation::is(state::mutation::Mutation::ActiveTooSoon) =>
            {
                false
            }
            MemberState::Active => !peer.synced() || !peer.hears.contains(self.me),
            // While it hands over it still owns what this node may be the heir of.
            MemberState::Draining if peer.announced == Announced::HandingOver => !peer.synced(),
            MemberState::Joining | MemberState::Draining => unsettled.contains(peer.id),
            MemberState::Dead => peer.heard_ms.is_none() && !waited || unsettled.contains(peer.id),
        };
        self.peers.iter().filter(blocks).map(|p| p.id).collect()
    }

    /// What is believed of every member, in ascending order of identity.
    fn members(&self) -> Vec<Member> {
        let me = Member {
            id: self.me,
            state: self.state,
            incarnation: self.incarnation,
        };
        let peers = self.peers.iter().map(|peer| Member {
            id: peer.id,
            state: peer.state(),
            incarnation: peer.incarnation,
        });
        let mut members: Vec<Member> = peers.chain([me]).collect();
        members.sort_by_key(|m| m.id);
        members
    }

    /// Without the cluster's state again: every active peer must give it anew.
    fn rejoin(&mut self) {
        self.ask_anew();
        self.peers
            .iter_mut()
            .for_each(|p| p.given = Given::default());
        self.change_to(MemberState::Joining);
    }

    fn change_to(&mut self, to: MemberState) {
        let from = std::mem::replace(&mut self.state, to);
        if from != to {
            self.say(Event::State { from, to });
            self.announce();
        }
    }

    /// Has a heartbeat sent to every peer at the next polls.
    fn announce(&mut self) {
        self.sequence += 1;
        self.heartbeats_due = self.peers.iter().map(|p| p.id).collect();
    }

    /// What this node says that it does; [`Self::state`] is what it does.
    fn announced(&self) -> Announced {
        match self.state {
            _ if self.leaving => Announced::Leaving,
            _ if self.giving.is_some() => Announced::HandingOver,
            MemberState::Active if !self.applied.surely_owns(self.me) => Announced::Joining,
            state => Announced::of(state),
        }
    }

    fn heartbeat(&self, to: NodeId) -> Heartbeat {
        // One that is refused for a later run of its own name is told the number that it must exceed.
        let outrun = matches!(self.refused[to.index()], Some(Refusal::OldRun { .. }));
        let peer = self
            .peers
            .iter()
            .find(|p| p.id == to && (p.alive || outrun));
        Heartbeat {
            hears: self.hears().0,
            synced: self.synced().0,
            owners: self.applied.owners().0,
            heard: peer.map_or(0, |p| p.sequence),
            cluster: self.config.cluster(),
            config: self.config.digest(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            epoch: self.view.epoch,
            view_digest: self.view.digest,
            sender: self.me.raw(),
            announced: self.announced(),
        }
    }

    fn hears(&self) -> NodeSet {
        let alive = self.peers.iter().filter(|p| p.alive);
        alive.map(|p| p.id).collect()
    }

    fn synced(&self) -> NodeSet {
        let synced = self.peers.iter().filter(|p| p.synced());
        synced.map(|p| p.id).collect()
    }

    fn say(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.events_lost += 1;
        }
        self.events.push_back(event);
    }
}

impl Peer {
    fn new(id: NodeId, config_digest: u64) -> Self {
        Self {
            id,
            alive: false,
            incarnation: 0,
            sequence: 0,
            announced: Announced::Joining,
            heard_ms: None,
            expires_ms: 0,
            epoch: 0,
            view_digest: 0,
            config_digest,
            hears: NodeSet::EMPTY,
            holds: NodeSet::EMPTY,
            owners: NodeSet::EMPTY,
            heard_of_us: 0,
            synced_run: None,
            given: Given::default(),
            together: Together::default(),
            unheard_since_ms: None,
            unheard_said: false,
        }
    }

    pub(crate) fn state(&self) -> MemberState {
        match self.alive {
            true => self.announced.state(),
            false => MemberState::Dead,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive
    }

    /// Whether it heard a node when it was last heard itself.
    pub(crate) fn hears(&self, node: NodeId) -> bool {
        self.hears.contains(node)
    }

    /// Whether its snapshot is complete here, of its present run.
    fn synced(&self) -> bool {
        self.alive && self.synced_run == Some(self.incarnation)
    }

    fn take(&mut self, heard: &Heartbeat, now_ms: u64, dead_after_ms: u64) {
        self.alive = heard.announced != Announced::Leaving;
        self.incarnation = heard.incarnation;
        self.sequence = heard.sequence;
        self.announced = heard.announced;
        self.heard_ms = Some(now_ms);
        self.expires_ms = now_ms + dead_after_ms;
        self.epoch = heard.epoch;
        self.view_digest = heard.view_digest;
        self.config_digest = heard.config;
        self.hears = NodeSet(heard.hears);
        self.holds = NodeSet(heard.synced);
        self.owners = NodeSet(heard.owners);
        self.heard_of_us = heard.heard;
    }

    fn die(&mut self) {
        self.alive = false;
        self.synced_run = None;
        self.unheard_since_ms = None;
        self.unheard_said = false;
    }
}
