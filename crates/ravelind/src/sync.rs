//! The sync core: drains the workers' rings, drives the replicator, and carries its frames over
//! QUIC. One thread; its runtime and its loop take turns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use config::{Cluster, Config, Idle};
use replication::{Connection, Event as Told, HoldAcks, Options, Output, Replicator, Runs};
use state::NodeId;
use telemetry::counters::Counts;
use transport::{Endpoint, Event, PeerId, ReplyHandle, SendError};

use crate::clock::monotonic_us;
use crate::common_store::Publish;
use crate::common_sync::{Desk, block_for_ms};
use crate::error::Error;
use crate::idle::Rest;
use crate::pin;
use crate::state::Board;
use crate::views::Views;
use crate::workers::Ends;

/// Messages of one worker, and events of the transport, taken per turn.
const PER_TURN: usize = 512;
/// Time between two ticks of the replicator.
const TICK_US: u64 = 1_000;
/// Time between two reports to the control socket.
const REPORT_US: u64 = 20_000;
/// What the flush of the last frames may take at the end.
const FLUSH: Duration = Duration::from_millis(200);

telemetry::counters! {
    /// What the sync core counts.
    pub(crate) enum SyncCounter {
        /// Changes that workers reported.
        Changes = "changes_taken",
        /// Changes that the targets have acknowledged.
        RecordsAcked = "records_acked",
        /// Opened flows that the targets have acknowledged.
        FlowsAcked = "flows_acked",
        /// Batches of changes sent.
        BatchesSent = "batches_sent",
        /// Records sent in batches of changes.
        RecordsSent = "records_sent",
        /// Bytes of frames made for peers.
        BytesSent = "sync_bytes_sent",
        /// Batches received.
        BatchesReceived = "batches_received",
        /// Records received.
        RecordsReceived = "records_received",
        /// Bytes of frames from peers.
        BytesReceived = "sync_bytes_received",
        /// Records from peers that the tables had no room for.
        RecordsRefused = "records_refused",
        /// Changes given up for a target that lagged, to be repaired by a snapshot.
        RecordsGivenUp = "records_given_up",
        /// Snapshots begun.
        SnapshotsStarted = "snapshots_started",
        /// Snapshots complete and acknowledged.
        SnapshotsDone = "snapshots_done",
        /// Snapshots that stood still, and started over with what was missing.
        SnapshotsRestarted = "snapshots_restarted",
        /// Records sent in snapshots.
        SnapshotRecordsSent = "snapshot_records_sent",
        /// Snapshots received whole.
        SnapshotsReceived = "snapshots_received",
        /// Questions of workers about flows that they do not know, with "ecmp".
        QuestionsAsked = "questions_asked",
        /// Questions answered, also with "there is no such flow".
        QuestionsAnswered = "questions_answered",
        /// Questions that nobody answered in time.
        QuestionsUnanswered = "questions_unanswered",
        /// Questions not taken because too many were open.
        QuestionsDropped = "questions_dropped",
        /// Slots of owners compared with the copies here.
        SlotsCompared = "slots_compared",
        /// Those that differed.
        SlotsDiffering = "slots_differing",
        /// Slots whose copies here were repaired.
        SlotsRepaired = "slots_repaired",
        /// Records sent because a peer's copies differed.
        RecordsAnswered = "records_answered",
        /// Records sent to their owners, which lacked them.
        RecordsPushed = "records_pushed",
        /// Records brought to the new owners of their slots, which were no targets.
        RecordsHandedOver = "records_handed_over",
        /// Entries of common state sent, to all peers together.
        CommonSent = "common_sent",
        /// Entries of common state received.
        CommonReceived = "common_received",
        /// Entries of common state that ended by their age.
        CommonExpired = "common_expired",
        /// Times that a peer got the whole common state again, because it differed.
        CommonRepairs = "common_repairs",
        /// Frames from peers that broke the protocol; they changed nothing.
        FramesInvalid = "frames_invalid",
        /// Times that the transport's queue to a peer was full.
        SendsDeferred = "sends_deferred",
        /// Times that a worker's ring was full.
        RingsFull = "worker_ring_full",
    }
}

struct SyncCore {
    endpoint: Endpoint,
    replicator: Replicator,
    ends: Vec<Ends>,
    names: HashMap<u8, String>,
    runs: Runs,
    views: Views,
    board: Arc<Board>,
    desk: Desk,
    /// How long a source is blocked that scans or floods.
    block_for_ms: u64,
    counts: Counts<SyncCounter>,
    /// Where answers to a peer's stream go: the connection on which its last frame came.
    replies: HashMap<(PeerId, u16), ReplyHandle>,
    stop: Arc<AtomicBool>,
    ticked_us: u64,
    reported_us: u64,
    blocked: bool,
    /// Peers whose state is complete here, which the membership core is yet to hear.
    synced: Vec<(NodeId, u64, u64)>,
}

/// Starts the sync core's thread.
#[allow(
    clippy::too_many_arguments,
    reason = "a thread is given its ends of everything once"
)]
pub(crate) fn start(
    config: &Config,
    cluster: &Cluster,
    identity: transport::Identity,
    ends: Vec<Ends>,
    board: Arc<Board>,
    publish: Publish,
    counts: Counts<SyncCounter>,
    stop: Arc<AtomicBool>,
    ready: std::sync::mpsc::Sender<Result<(), Error>>,
) -> Result<JoinHandle<()>, Error> {
    let idle = config.cores.idle;
    let block_for_ms = block_for_ms(config);
    let options = transport_options(config, cluster, identity, |m| m.sync);
    let names = cluster
        .members
        .iter()
        .map(|m| (m.id.raw(), m.name.clone()))
        .collect();
    let hash = membership::cluster_hash(&cluster.name);
    let mut replication = Options::new(config.node, board.incarnation, hash, ends.len());
    replication.distribution = crate::workers::distribution(cluster);
    // Somebody else can be asked three times before the packets' deadline.
    let deadline_us = cluster.hold_deadline.as_micros() as u64;
    replication.ask_retry_us = (deadline_us / 4).max(1);
    replication.ask_deadline_us = deadline_us + deadline_us / 4;
    replication.hold_acks = match cluster.hold_acks {
        config::HoldAcks::All => HoldAcks::All,
        config::HoldAcks::Count(n) => HoldAcks::Count(n.into()),
    };
    replication.alone_releases = cluster.alone == config::Alone::Forward;
    replication.digest_every_us = cluster.digest_every.as_micros() as u64;
    let replicator = Replicator::new(replication)
        .map_err(|error| Error::Machine(format!("replication: {error}")))?;
    pin::spawn("sync", config.cores.sync, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(4)
            .build()
            .expect("a runtime needs a few file descriptors");
        runtime.block_on(async move {
            let endpoint = match Endpoint::bind(options) {
                Ok(endpoint) => endpoint,
                Err(source) => {
                    let _ = ready.send(Err(Error::Transport {
                        what: "sync",
                        source,
                    }));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            let core = SyncCore {
                endpoint,
                replicator,
                ends,
                names,
                runs: Runs::default(),
                views: Views::new(&board.view, board.node.clone()),
                board,
                desk: Desk::new(publish),
                block_for_ms,
                counts,
                replies: HashMap::new(),
                stop,
                ticked_us: 0,
                reported_us: 0,
                blocked: false,
                synced: vec![],
            };
            core.run(idle).await;
        });
    })
}

/// The transport's options for one of a node's two endpoints.
pub(crate) fn transport_options(
    config: &Config,
    cluster: &Cluster,
    identity: transport::Identity,
    address: impl Fn(&config::Member) -> std::net::SocketAddr,
) -> transport::Options {
    let me = cluster
        .member(config.node)
        .expect("the configuration's node is a member");
    let peers = cluster
        .members
        .iter()
        .filter(|m| m.id != config.node)
        .map(|m| transport::Peer {
            name: m.name.clone(),
            id: m.id.raw(),
            addr: address(m),
        });
    transport::Options {
        local: address(me),
        identity,
        node: config.name.clone(),
        cluster: cluster.name.clone(),
        peers: peers.collect(),
        tuning: transport::Tuning::default(),
    }
}

impl SyncCore {
    async fn run(mut self, idle: Idle) {
        let mut rest = Rest::new(idle);
        while !self.stop.load(Ordering::Relaxed) {
            let now_us = monotonic_us();
            let work = self.turn(now_us);
            if work > 0 {
                rest.worked();
                let busy = &self.board.sync_busy.0;
                busy.fetch_add(monotonic_us() - now_us, Ordering::Relaxed);
            }
            match if work > 0 { None } else { rest.idled() } {
                None => tokio::task::yield_now().await,
                Some(_) => self.sleep(now_us).await,
            }
        }
        if let Err(error) = self.endpoint.shutdown(FLUSH).await {
            tracing::debug!("sync: {error}");
        }
    }

    /// Sleeps until a worker or the network has something, or the next tick.
    async fn sleep(&mut self, now_us: u64) {
        let until_tick = Duration::from_micros((self.ticked_us + TICK_US).saturating_sub(now_us));
        self.board.wake.asleep.store(true, Ordering::SeqCst);
        // A worker that pushed just before it saw the flag did not wake us.
        if self.ends.iter().all(|end| end.from_worker.is_empty()) && self.board.commands.is_empty()
        {
            let board = self.board.clone();
            let event = tokio::select! {
                event = self.endpoint.events.recv() => event,
                () = board.wake.notify.notified() => None,
                () = tokio::time::sleep(until_tick.max(Duration::from_micros(100))) => None,
            };
            if let Some(event) = event {
                self.on_event(event, monotonic_us());
                self.carry_out();
            }
        }
        self.board.wake.asleep.store(false, Ordering::Relaxed);
    }

    fn turn(&mut self, now_us: u64) -> usize {
        let mut work = 0;
        if let Some(view) = self.views.next() {
            self.replicator.on_view(view, now_us);
            self.views.pass_on();
            self.leave_dead_runs();
            work += 1;
        }
        for worker in 0..self.ends.len() {
            for _ in 0..PER_TURN {
                let Ok(message) = self.ends[worker].from_worker.pop() else {
                    break;
                };
                self.replicator.on_worker(worker, message, now_us);
                work += 1;
            }
        }
        for _ in 0..PER_TURN {
            let Ok(event) = self.endpoint.events.try_recv() else {
                break;
            };
            self.on_event(event, now_us);
            work += 1;
        }
        work += self
            .desk
            .turn(&self.board.commands, &mut self.replicator, now_us);
        if now_us >= self.ticked_us + TICK_US {
            self.ticked_us = now_us;
            self.replicator.tick(now_us);
        } else if self.blocked {
            // What was refused is tried again once the transport and the workers have had their turn.
            self.replicator.tick(now_us);
        }
        self.carry_out();
        let workers = self.ends.iter().map(|end| end.shared.clone());
        crate::drain::finish_flush(&self.board, &self.replicator, workers);
        self.tell_synced();
        if now_us >= self.reported_us + REPORT_US {
            self.reported_us = now_us;
            self.report(now_us);
        }
        work
    }

    /// A connection to a run of a peer that is gone would only end by its idle timeout; the peer's
    /// next run is dialed as soon as the view has it.
    fn leave_dead_runs(&mut self) {
        for member in &self.views.present().members {
            let greeted = self.replicator.connected_run(member.id);
            if (self.runs).is_outlived(member.id, greeted, member.incarnation) {
                self.endpoint
                    .redial(member.id.raw(), "the peer has restarted");
            }
        }
    }

    /// The run of a peer in the view; 0 when there is none.
    fn run_in_view(&self, peer: NodeId) -> u64 {
        let members = &self.views.present().members;
        let member = members.iter().find(|m| m.id == peer);
        member.map_or(0, |m| m.incarnation)
    }

    fn on_event(&mut self, event: Event, now_us: u64) {
        match event {
            Event::Connected { peer } => {
                if let Some(node) = NodeId::new(peer) {
                    self.runs.connected(node, self.run_in_view(node));
                    tracing::info!("sync: connected to {}", self.name(peer));
                    self.with_peer(peer, |report| {
                        report.connected = true;
                        report.last_error = None;
                    });
                    self.replicator.on_connected(node, now_us);
                }
            }
            Event::Disconnected { peer, why } => {
                if let Some(node) = NodeId::new(peer) {
                    self.runs.disconnected(node);
                    tracing::warn!("sync: connection to {} is gone: {why}", self.name(peer));
                    self.with_peer(peer, |report| {
                        report.connected = false;
                        report.last_error = Some(why.to_string());
                    });
                    self.replicator.on_disconnected(node, now_us);
                }
            }
            Event::Refused { peer, error } => {
                let connected = peer.is_some_and(|peer| {
                    self.board
                        .sync
                        .lock()
                        .peers
                        .get(&peer)
                        .is_some_and(|p| p.connected)
                });
                if connected {
                    // An attempt that another one overtook.
                    tracing::debug!("sync: {error}");
                    return;
                }
                tracing::error!("sync: {error}");
                if let Some(peer) = peer {
                    self.with_peer(peer, |report| report.last_error = Some(error.to_string()));
                }
            }
            Event::Frame {
                peer,
                stream,
                frame,
                reply,
            } => {
                if let Some(node) = NodeId::new(peer) {
                    self.replies.insert((peer, stream), reply);
                    self.replicator.on_frame(node, stream, &frame, now_us);
                }
            }
            Event::Answer {
                peer,
                stream,
                frame,
            } => {
                if let Some(node) = NodeId::new(peer) {
                    self.replicator.on_answer(node, stream, &frame, now_us);
                }
            }
            // Datagrams are the membership core's, on its own endpoint.
            Event::Datagram { .. } => {}
            _ => {}
        }
    }

    /// Does what the replicator wants done.
    fn carry_out(&mut self) {
        self.blocked = false;
        while let Some(output) = self.replicator.poll() {
            match output {
                Output::Send {
                    peer,
                    stream,
                    frame,
                } => {
                    match self.endpoint.send(peer.raw(), stream, frame.clone()) {
                        Ok(()) => self.replicator.recycle(frame),
                        Err(SendError::Full { .. }) => {
                            self.counts.increment(SyncCounter::SendsDeferred);
                            self.blocked = true;
                            self.replicator.refused(Output::Send {
                                peer,
                                stream,
                                frame,
                            });
                        }
                        // The connection is gone, which its own event tells; nothing was acknowledged.
                        Err(SendError::NotConnected) => self.replicator.recycle(frame),
                        Err(error) => {
                            tracing::error!("sync: to {}: {error}", self.name(peer.raw()));
                            self.endpoint.close(peer.raw(), &error.to_string());
                        }
                    }
                }
                Output::Reply {
                    peer,
                    stream,
                    frame,
                } => {
                    let Some(reply) = self.replies.get(&(peer.raw(), stream)) else {
                        continue;
                    };
                    match reply.send(frame.clone()) {
                        Ok(()) | Err(SendError::NotConnected) => self.replicator.recycle(frame),
                        Err(SendError::Full { .. }) => {
                            self.counts.increment(SyncCounter::SendsDeferred);
                            self.blocked = true;
                            self.replicator.refused(Output::Reply {
                                peer,
                                stream,
                                frame,
                            });
                        }
                        Err(error) => {
                            tracing::error!("sync: to {}: {error}", self.name(peer.raw()));
                            self.endpoint.close(peer.raw(), &error.to_string());
                        }
                    }
                }
                Output::ToWorker { worker, message } => {
                    let ring = &mut self.ends[worker].to_worker;
                    if let Err(rtrb::PushError::Full(message)) = ring.push(message) {
                        self.counts.increment(SyncCounter::RingsFull);
                        self.blocked = true;
                        self.replicator
                            .refused(Output::ToWorker { worker, message });
                    }
                }
                Output::Release { worker, lsn } => {
                    self.ends[worker]
                        .shared
                        .acked_lsn
                        .store(lsn, Ordering::Release);
                }
                Output::Synced {
                    peer,
                    incarnation,
                    join,
                } => {
                    tracing::info!(
                        "sync: the snapshot from {} is complete",
                        self.name(peer.raw())
                    );
                    self.synced.push((peer, incarnation, join));
                }
                // Workers see it before the peer that it came from hears that they do.
                Output::CommonChanged { kinds } => {
                    self.desk.changed(self.replicator.common(), kinds);
                }
                Output::CommonSynced { stamp } => self.desk.synced(stamp),
                Output::Detected { source, reason } => {
                    self.board.commands.block(source, reason, self.block_for_ms);
                }
                Output::Close {
                    peer,
                    connection,
                    reason,
                } => {
                    let which = match connection {
                        Connection::Outgoing => "to",
                        Connection::Incoming => "from",
                    };
                    tracing::error!(
                        "sync: connection {which} {} closed: {reason}",
                        self.name(peer.raw())
                    );
                    self.with_peer(peer.raw(), |report| {
                        report.last_error = Some(reason.to_string())
                    });
                    self.endpoint.close(peer.raw(), &reason.to_string());
                }
                Output::Event(event) => self.log(event),
            }
        }
    }

    /// Tells the membership core whose state is complete here: once the rules that came with it are
    /// in force, for this node may own flows from then on, and would judge them by its old ones.
    fn tell_synced(&mut self) {
        if !self.synced.is_empty() && !self.board.policies.pending() {
            for (peer, incarnation, join) in self.synced.drain(..) {
                self.board.synced.push(peer, incarnation, join);
            }
        }
    }

    fn log(&self, event: Told) {
        let name = |peer: NodeId| self.name(peer.raw());
        match event {
            Told::TargetAdded { peer, .. } => {
                tracing::info!("sync: {} is a target now", name(peer))
            }
            Told::TargetRemoved { peer, .. } => {
                tracing::info!("sync: {} is a target no more", name(peer));
            }
            Told::Attached {
                peer,
                behind_records,
            } => {
                tracing::info!(
                    "sync: {} receives changes, {behind_records} behind",
                    name(peer)
                );
            }
            Told::Lagging {
                peer,
                worker,
                records,
            } => tracing::warn!(
                "sync: {} is too far behind: {records} changes of worker {worker} are given up for a snapshot",
                name(peer)
            ),
            Told::SnapshotStarted { peer, slots } => {
                tracing::info!("sync: snapshot of {slots} slots to {} begins", name(peer));
            }
            Told::SnapshotDone { peer, records } => {
                tracing::info!(
                    "sync: snapshot to {} is complete: {records} records",
                    name(peer)
                );
            }
            Told::Adopting { slots } => {
                tracing::info!("sync: {slots} adopted slots are being replicated");
            }
            Told::HandOverStarted { peer, slots } => {
                tracing::info!("sync: {slots} slots are handed over to {}", name(peer));
            }
            Told::HandOverDone {
                peer,
                slots,
                records,
            } => tracing::info!(
                "sync: {slots} slots are handed over to {}: {records} records",
                name(peer)
            ),
            Told::Repaired {
                peer,
                slots,
                records_pushed,
            } => tracing::warn!(
                "sync: {slots} slots differed from those of {} and are repaired; it lacked {records_pushed} records",
                name(peer)
            ),
            Told::Redundancy { whole: true } => tracing::info!("sync: redundancy is whole"),
            Told::Redundancy { whole: false } => tracing::warn!("sync: redundancy is not whole"),
            Told::LogGap {
                worker,
                expected,
                found,
            } => tracing::error!(
                "sync: worker {worker} skipped from change {expected} to {found}; all its slots are sent again"
            ),
        }
    }

    fn report(&mut self, now_us: u64) {
        let status = self.replicator.status(now_us);
        let mut report = self.board.sync.lock();
        for (id, peer) in &mut report.peers {
            if let Some(stats) = self.endpoint.stats(*id) {
                peer.rtt_us = stats
                    .dialed
                    .as_ref()
                    .map_or(0, |link| link.rtt.as_micros() as u64);
                peer.bytes_sent = stats.dialed.as_ref().map_or(0, |link| link.bytes_sent);
            }
        }
        let c = status.counters;
        report.status = Some(status);
        drop(report);
        for (counter, value) in [
            (SyncCounter::Changes, c.changes),
            (SyncCounter::RecordsAcked, c.records_acked),
            (SyncCounter::FlowsAcked, c.flows_acked),
            (SyncCounter::BatchesSent, c.batches_sent),
            (SyncCounter::RecordsSent, c.records_sent),
            (SyncCounter::BytesSent, c.bytes_sent),
            (SyncCounter::BatchesReceived, c.batches_received),
            (SyncCounter::RecordsReceived, c.records_received),
            (SyncCounter::BytesReceived, c.bytes_received),
            (SyncCounter::RecordsRefused, c.records_refused),
            (SyncCounter::RecordsGivenUp, c.records_given_up),
            (SyncCounter::SnapshotsStarted, c.snapshots_started),
            (SyncCounter::SnapshotsDone, c.snapshots_done),
            (SyncCounter::SnapshotsRestarted, c.snapshots_restarted),
            (SyncCounter::SnapshotRecordsSent, c.snapshot_records_sent),
            (SyncCounter::SnapshotsReceived, c.snapshots_received),
            (SyncCounter::QuestionsAsked, c.questions_asked),
            (SyncCounter::QuestionsAnswered, c.questions_answered),
            (SyncCounter::QuestionsUnanswered, c.questions_unanswered),
            (SyncCounter::QuestionsDropped, c.questions_dropped),
            (SyncCounter::SlotsCompared, c.slots_compared),
            (SyncCounter::SlotsDiffering, c.slots_differing),
            (SyncCounter::SlotsRepaired, c.slots_repaired),
            (SyncCounter::RecordsAnswered, c.records_answered),
            (SyncCounter::RecordsPushed, c.records_pushed),
            (SyncCounter::RecordsHandedOver, c.records_handed_over),
            (SyncCounter::CommonSent, c.common_sent),
            (SyncCounter::CommonReceived, c.common_received),
            (SyncCounter::CommonExpired, c.common_expired),
            (SyncCounter::CommonRepairs, c.common_repairs),
            (SyncCounter::FramesInvalid, c.frames_invalid),
        ] {
            self.counts.set(counter, value);
        }
        self.counts.publish();
    }

    fn name(&self, peer: PeerId) -> &str {
        self.names
            .get(&peer)
            .map_or("an unknown peer", String::as_str)
    }

    fn with_peer(&self, peer: PeerId, change: impl FnOnce(&mut crate::state::PeerReport)) {
        change(self.board.sync.lock().peers.entry(peer).or_default());
    }
}
