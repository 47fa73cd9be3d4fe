//! The membership core: heartbeats over QUIC datagrams, the view, and a watch over the node's own
//! workers.
//!
//! It waits in the kernel for datagrams and timers, whatever the idle policy of the other cores:
//! between heartbeats there is nothing to poll for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Cluster, Config};
use engine::WorkerShared;
use membership::{ClusterConfig, Event as Told, Health, Membership, Output};
use state::NodeId;
use telemetry::counters::Counts;
use transport::{Endpoint, Event};

use crate::clock::monotonic_us;
use crate::drain::Drainer;
use crate::error::Error;
use crate::pin;
use crate::state::Board;

/// Silence of a worker, beyond the time after which a peer is dead, that makes it stalled. A worker
/// says that it runs every millisecond.
const STALL_US: u64 = 100_000;
/// The longest wait, so that the workers are watched and the end is noticed.
const WAIT_MAX: Duration = Duration::from_millis(10);

/// The longest wait while workers, or a final synchronisation, are waited for.
const WAIT_BUSY: Duration = Duration::from_millis(1);

telemetry::counters! {
    /// What the membership core counts.
    pub(crate) enum MemberCounter {
        /// Heartbeats given to the transport.
        Sent = "heartbeats_sent",
        /// Heartbeats that found no connection.
        Unsent = "heartbeats_unsent",
        /// Datagrams from peers.
        Received = "heartbeats_received",
        /// Messages of peers that did not count.
        Refused = "heartbeats_refused",
        /// Views published.
        Views = "views",
        /// Times that this process did not run for longer than a peer may be silent.
        Pauses = "pauses",
        /// Times that a worker of this node stalled.
        Stalls = "worker_stalls",
        /// Times that all slots were handed over and synchronised.
        HandOvers = "hand_overs",
        /// Hand-overs that ended by their bound, or with nobody to take over.
        HandOversCut = "hand_overs_cut",
    }
}

struct MemberCore {
    endpoint: Endpoint,
    membership: Membership,
    names: HashMap<u8, String>,
    connected: HashSet<u8>,
    /// Peers that died since we last connected to them, with the run that died: our connection
    /// leads to that run.
    stale: HashMap<u8, u64>,
    workers: Vec<Arc<WorkerShared>>,
    board: Arc<Board>,
    counts: Counts<MemberCounter>,
    dead_after_us: u64,
    heartbeat_us: u64,
    /// After a pause the view is not to be acted on before peers had time to say what happened.
    distrust_until_us: u64,
    drainer: Drainer,
    leave: Arc<AtomicBool>,
    left: bool,
    stop: Arc<AtomicBool>,
    health: Health,
}

/// What membership needs to know of the configuration.
pub(crate) fn cluster_config(config: &Cluster) -> Result<ClusterConfig, Error> {
    let members = config.members.iter().map(|m| membership::MemberConfig {
        id: m.id,
        name: m.name.clone(),
        weight: m.weight.into(),
        backups: m.backups.clone().unwrap_or_default(),
    });
    let ms = |duration: Duration| duration.as_millis() as u64;
    let timing = membership::Timing {
        heartbeat_ms: ms(config.heartbeat),
        dead_after_ms: ms(config.dead_after),
        join_wait_ms: ms(config.join_wait),
    };
    let hash = membership::cluster_hash(&config.name);
    ClusterConfig::new(hash, members.collect(), config.backups.into(), timing)
        .map_err(|error| Error::Machine(format!("cluster: {error}")))
}

/// Starts the membership core's thread.
#[allow(
    clippy::too_many_arguments,
    reason = "a thread is given its ends of everything once"
)]
pub(crate) fn start(
    config: &Config,
    cluster: &Cluster,
    identity: transport::Identity,
    board: Arc<Board>,
    workers: Vec<Arc<WorkerShared>>,
    counts: Counts<MemberCounter>,
    leave: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    ready: std::sync::mpsc::Sender<Result<(), Error>>,
) -> Result<JoinHandle<()>, Error> {
    let options = crate::sync::transport_options(config, cluster, identity, |m| m.membership);
    let names = cluster
        .members
        .iter()
        .map(|m| (m.id.raw(), m.name.clone()))
        .collect();
    let now_ms = monotonic_us() / 1_000;
    let membership = Membership::new(
        Arc::new(cluster_config(cluster)?),
        config.node,
        board.incarnation,
        now_ms,
    )
    .map_err(|error| Error::Machine(format!("cluster: {error}")))?
    .with_views_applied_later();
    let drainer = Drainer::new(board.clone(), workers.clone(), cluster.hold_deadline);
    let (heartbeat, dead_after) = (cluster.heartbeat, cluster.dead_after);
    let realtime = config.cores.realtime;
    pin::spawn("membership", config.cores.membership, move || {
        if realtime {
            pin::go_first();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs a few file descriptors");
        runtime.block_on(async move {
            let endpoint = match Endpoint::bind(options) {
                Ok(endpoint) => endpoint,
                Err(source) => {
                    let _ = ready.send(Err(Error::Transport {
                        what: "membership",
                        source,
                    }));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            let core = MemberCore {
                endpoint,
                membership,
                names,
                connected: HashSet::new(),
                stale: HashMap::new(),
                workers,
                board,
                counts,
                dead_after_us: dead_after.as_micros() as u64,
                heartbeat_us: heartbeat.as_micros() as u64,
                distrust_until_us: 0,
                drainer,
                leave,
                left: false,
                stop,
                health: Health::Ok,
            };
            core.run().await;
        });
    })
}

impl MemberCore {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let started_us = monotonic_us();
            self.turn(started_us);
            self.board
                .member_busy
                .0
                .fetch_add(monotonic_us() - started_us, Ordering::Relaxed);
            let wait_ms = self
                .membership
                .deadline()
                .saturating_sub(monotonic_us() / 1_000);
            let wait_max = match self.drainer.is_busy(&self.membership) {
                true => WAIT_BUSY,
                false => WAIT_MAX,
            };
            let wait = Duration::from_millis(wait_ms).min(wait_max);
            let event = tokio::select! {
                event = self.endpoint.events.recv() => event,
                () = tokio::time::sleep(wait) => None,
            };
            if let Some(event) = event {
                self.on_event(event);
                while let Ok(event) = self.endpoint.events.try_recv() {
                    self.on_event(event);
                }
            }
        }
        // The last heartbeats said good-bye; what of them is lost, silence tells.
        if let Err(error) = self.endpoint.shutdown(Duration::from_millis(100)).await {
            tracing::debug!("membership: {error}");
        }
    }

    fn turn(&mut self, now_us: u64) {
        if self.leave.load(Ordering::Relaxed) && !self.left {
            self.left = true;
            self.membership.leave();
        }
        for (peer, incarnation, join) in self.board.synced.take() {
            self.membership.on_synced(peer, incarnation, join);
        }
        self.watch_workers(now_us);
        self.drainer.follow_workers(&mut self.membership);
        let names = &self.names;
        let name = |id: NodeId| names.get(&id.raw()).cloned().unwrap_or_default();
        self.drainer.turn(&mut self.membership, now_us, &name);
        self.membership.tick(now_us / 1_000);
        self.carry_out(now_us);
        // The view is renewed by having looked: a process that does not run does not renew it.
        if now_us >= self.distrust_until_us {
            let until_us = now_us + self.dead_after_us;
            self.board
                .node
                .view_valid_until_us
                .store(until_us, Ordering::Relaxed);
        }
        let status = self.membership.status();
        let heard = status
            .members
            .iter()
            .filter_map(|m| Some((m.id.raw(), m.heard_ms_ago?)));
        self.board.members.lock().heard_ms = heard.collect();
        self.counts.publish();
    }

    fn on_event(&mut self, event: Event) {
        let now_ms = monotonic_us() / 1_000;
        match event {
            Event::Datagram { peer, bytes } => {
                self.counts.increment(MemberCounter::Received);
                if let Some(peer) = NodeId::new(peer) {
                    self.membership.on_message(peer, &bytes, now_ms);
                }
            }
            // An attempt that another one overtook.
            Event::Refused {
                peer: Some(peer),
                error,
            } if self.connected.contains(&peer) => {
                tracing::debug!("membership: {error}");
            }
            Event::Refused { error, .. } => tracing::error!("membership: {error}"),
            Event::Connected { peer } => {
                self.connected.insert(peer);
                self.stale.remove(&peer);
                tracing::debug!("membership: connected to {}", self.name(peer));
            }
            Event::Disconnected { peer, why } => {
                self.connected.remove(&peer);
                tracing::debug!(
                    "membership: connection to {} is gone: {why}",
                    self.name(peer)
                );
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, now_us: u64) {
        while let Some(output) = self.membership.poll() {
            match output {
                Output::View(view) => {
                    self.counts.increment(MemberCounter::Views);
                    let me = self.membership.status().me;
                    tracing::info!(
                        "view {}: {} of {} members active, {} slots here",
                        view.epoch,
                        view.members
                            .iter()
                            .filter(|m| m.state == membership::MemberState::Active)
                            .count(),
                        view.members.len(),
                        view.owned(me),
                    );
                    self.board.view.publish(view);
                    self.board.wake.wake();
                }
                Output::Send { to, bytes } => {
                    let sent = self.endpoint.send_datagram(to.raw(), &bytes);
                    self.counts.increment(match sent {
                        Ok(()) => MemberCounter::Sent,
                        Err(_) => MemberCounter::Unsent,
                    });
                }
                Output::Event(event) => self.note(event, now_us),
            }
        }
    }

    fn note(&mut self, event: Told, now_us: u64) {
        self.drainer.note(&event);
        match event {
            Told::HandedOver { .. } => {
                self.counts.increment(MemberCounter::HandOvers);
                tracing::info!("{event}");
            }
            Told::HandOverCut { .. } => {
                self.counts.increment(MemberCounter::HandOversCut);
                tracing::warn!("{event}");
            }
            Told::HandOverAbandoned => tracing::warn!("{event}"),
            // The connection stays: a peer that was only paused must hear that it was not heard, or it
            // would go on as the owner of slots that others have served meanwhile.
            Told::PeerDown {
                peer, incarnation, ..
            } => {
                tracing::warn!("{event}");
                if self.connected.contains(&peer.raw()) {
                    self.stale.insert(peer.raw(), incarnation);
                }
            }
            Told::PeerUp {
                peer, incarnation, ..
            } => {
                tracing::info!("{event}");
                if self
                    .stale
                    .remove(&peer.raw())
                    .is_some_and(|dead| dead != incarnation)
                {
                    self.dial_anew(peer);
                }
            }
            Told::PeerRestarted { peer, .. } => {
                tracing::warn!("{event}");
                self.dial_anew(peer);
            }
            Told::Paused { .. } => {
                self.counts.increment(MemberCounter::Pauses);
                self.distrust_until_us = now_us + 2 * self.heartbeat_us;
                tracing::warn!("{event}");
            }
            Told::Refused { .. } => {
                self.counts.increment(MemberCounter::Refused);
                tracing::error!("{event}");
            }
            Told::ConfigDiffers { .. } => tracing::error!("{event}"),
            Told::LaterRunKnown {
                theirs, accepted, ..
            } => {
                self.board.later_run.fetch_max(theirs, Ordering::Relaxed);
                if !accepted {
                    self.board.outrun.store(true, Ordering::Release);
                }
                tracing::error!("{event}");
            }
            // Its run may have changed twice while we looked: our heartbeats would go to a dead one
            // until the connection's idle timeout. At most once per loss of being heard.
            Told::Unheard { peer } => {
                tracing::warn!("{event}");
                self.endpoint
                    .redial(peer.raw(), "the peer does not hear this node");
            }
            _ => tracing::info!("{event}"),
        }
    }

    /// Our connection leads to a run of the peer that is gone.
    fn dial_anew(&self, peer: NodeId) {
        self.endpoint.redial(peer.raw(), "the peer has restarted");
    }

    /// A node whose worker stands still must not keep its slots.
    fn watch_workers(&mut self, now_us: u64) {
        let silent_us =
            |w: &Arc<WorkerShared>| now_us.saturating_sub(w.told.alive_us.load(Ordering::Relaxed));
        let limit_us = STALL_US.max(self.dead_after_us);
        // A worker that has not had its first turn yet is starting, not stalled.
        let stalled = self
            .workers
            .iter()
            .any(|w| w.told.alive_us.load(Ordering::Relaxed) > 0 && silent_us(w) > limit_us);
        let health = if stalled {
            Health::WorkerStalled
        } else {
            Health::Ok
        };
        if health != self.health {
            self.health = health;
            match health {
                Health::WorkerStalled => {
                    self.counts.increment(MemberCounter::Stalls);
                    tracing::error!("a worker stands still: this node's slots are handed over");
                }
                Health::Ok => tracing::info!("the workers run again"),
            }
            self.membership.set_health(health);
        }
    }

    fn name(&self, peer: u8) -> &str {
        self.names
            .get(&peer)
            .map_or("an unknown peer", String::as_str)
    }
}
