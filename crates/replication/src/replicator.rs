//! The replicator: the sending and the receiving half behind one door.

use std::sync::Arc;

use membership::View;
use rkyv::Serialize;
use rkyv::api::high::HighSerializer;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use state::{CommonError, CommonKey, CommonMap, CommonValue, NodeId, Stamp};

use crate::common::{Common, Times};
use crate::message::{COMMON, Message, QUERIES, Violation, encode};
use crate::options::{Options, OptionsError};
use crate::outbox::Outbox;
use crate::questions::{Questions, Reach};
use crate::receiver::{Receiver, Told};
use crate::repair::Repairs;
use crate::sender::Sender;
use crate::status::{Connection, Counters, Event, Output, Status};
use crate::{JobId, ToSync};

/// The replication protocol of one node.
///
/// It does nothing by itself: inputs are told, then [`poll`](Self::poll) is called until it has no
/// more to say. Inputs may be told in batches before polling; that makes better batches. Times are
/// microseconds of any clock that does not go back.
///
/// What the driver owes:
/// - frames of one stream of one connection arrive in order and whole, or the connection ends;
///   different streams may overtake each other;
/// - an output that it cannot place goes back with [`refused`](Self::refused) before the next poll,
///   and [`tick`](Self::tick) is called some hundred times a second;
/// - a view reaches the replicator before the workers, so that no change that a view's target
///   should acknowledge is released by the view before.
pub struct Replicator {
    sender: Sender,
    pub(crate) receiver: Receiver,
    questions: Questions,
    repairs: Repairs,
    common: Common,
    shared: Shared,
    /// Something was told since the last time that the halves were asked what to send.
    dirty: bool,
}

/// What both halves use.
pub(crate) struct Shared {
    pub(crate) incarnation: u64,
    pub(crate) outbox: Outbox,
    pub(crate) counters: Counters,
    pub(crate) now_us: u64,
    last_run: u64,
    last_job: u64,
}

impl Replicator {
    /// A replicator that knows of nobody yet.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self {
            receiver: Receiver::new(&options),
            questions: Questions::new(&options),
            common: Common::new(&options),
            shared: Shared {
                incarnation: options.incarnation,
                outbox: Outbox::default(),
                counters: Counters::default(),
                now_us: 0,
                last_run: 0,
                last_job: 0,
            },
            repairs: Repairs::new(options.me, options.workers, options.digest_every_us),
            sender: Sender::new(options),
            dirty: false,
        })
    }

    /// A worker said something.
    ///
    /// # Panics
    /// If `worker` is not below the number of workers.
    pub fn on_worker(&mut self, worker: usize, message: ToSync, now_us: u64) {
        self.told(now_us);
        let shared = &mut self.shared;
        match message {
            ToSync::Change {
                lsn,
                record,
                idle_s,
                handlers,
            } => {
                self.sender
                    .change(worker, lsn, (record, idle_s), handlers, shared);
            }
            ToSync::Snapshot {
                job,
                record,
                idle_s,
            } => {
                self.sender
                    .snapshot_record(worker, job, record, idle_s, shared);
            }
            ToSync::Digests {
                round,
                lsn,
                digests,
            } => self.sender.digests(worker, (round, lsn), digests, shared),
            ToSync::Compared { token, digests } => {
                if let Some(compared) = self.receiver.compared(token, digests, shared) {
                    let (peer, incarnation) = (compared.peer, compared.incarnation);
                    self.repairs.compared(peer, incarnation, &compared.slots);
                    self.receiver.keep_digests(compared.slots);
                }
            }
            ToSync::Detected { source, reason } => {
                shared.outbox.note(Output::Detected { source, reason });
            }
            ToSync::UsedUp { key, stamp } => self.common.used(key, stamp),
            ToSync::Ask { token, key } => self.questions.ask(worker, token, key, shared),
            ToSync::Found { token, record } => self.questions.found(token, record, shared),
            ToSync::JobDone { job, lsn } => self.sender.job_done(worker, job, lsn),
            ToSync::Applied {
                token,
                records,
                refused,
            } => {
                let told = self.receiver.applied(token, records, refused, shared);
                self.heard(told);
            }
        }
    }

    /// The node's view of the cluster changed.
    pub fn on_view(&mut self, view: Arc<View>, now_us: u64) {
        self.told(now_us);
        self.repairs.view(view.clone());
        self.common.view(&view);
        self.receiver.view(&view);
        self.sender.view(view, &mut self.shared);
        self.questions.view_changed();
    }

    /// The connection that this node dialed to `peer` stands.
    pub fn on_connected(&mut self, peer: NodeId, now_us: u64) {
        self.told(now_us);
        self.repairs.interrupted(peer);
        self.common.disconnected(peer);
        self.sender.connected(peer, &mut self.shared);
    }

    /// The connection that this node dialed to `peer` is gone, with all that was in flight on it.
    pub fn on_disconnected(&mut self, peer: NodeId, now_us: u64) {
        self.told(now_us);
        self.repairs.interrupted(peer);
        self.common.disconnected(peer);
        self.sender.disconnected(peer, &mut self.shared);
        self.questions.disconnected(peer);
    }

    /// A frame came on the connection that `peer` dialed.
    pub fn on_frame(&mut self, peer: NodeId, stream: u16, frame: &[u8], now_us: u64) {
        self.told(now_us);
        self.shared.counters.bytes_received += frame.len() as u64;
        let told = match stream {
            QUERIES => self.query(peer, frame),
            COMMON => self.common_frame(peer, frame),
            _ => self.receiver.frame(peer, stream, frame, &mut self.shared),
        };
        match told {
            Ok(Told::Requested {
                incarnation,
                request,
                slots,
            }) => (self.sender).requested((peer, incarnation), request, slots, &mut self.shared),
            Ok(told) => self.heard(told),
            Err(reason) => {
                self.receiver.close(peer, &mut self.shared);
                self.shared.close(peer, Connection::Incoming, reason);
            }
        }
    }

    /// An answer came on the connection that this node dialed to `peer`.
    pub fn on_answer(&mut self, peer: NodeId, stream: u16, frame: &[u8], now_us: u64) {
        self.told(now_us);
        self.shared.counters.bytes_received += frame.len() as u64;
        let shared = &mut self.shared;
        let taken = match stream {
            QUERIES => self.found(peer, frame),
            COMMON => self.common.answer(peer, shared.incarnation, frame, shared),
            _ => self.sender.answer(peer, stream, frame, shared),
        };
        if let Some((session, incarnation)) = self.sender.greeted(peer) {
            self.common.greeted(peer, session, incarnation);
        }
        if let Err(reason) = taken {
            self.repairs.interrupted(peer);
            self.common.disconnected(peer);
            self.sender.disconnected(peer, &mut self.shared);
            self.questions.disconnected(peer);
            self.shared.close(peer, Connection::Outgoing, reason);
        }
    }

    /// The run (incarnation) of `peer` that has answered the greeting on the connection that this
    /// node dialed; `None` before that, and without a connection.
    pub fn connected_run(&self, peer: NodeId) -> Option<u64> {
        self.sender.greeted(peer).map(|(_, run)| run)
    }

    /// Takes back an output for which the driver has no room now. It comes again, in order, once
    /// the driver says that there is room, or at the next [`tick`](Self::tick).
    pub fn refused(&mut self, output: Output) {
        self.shared.outbox.refused(output);
    }

    /// There is room again on a stream of the connection that this node dialed.
    pub fn on_send_ready(&mut self, peer: NodeId, stream: u16) {
        self.shared.outbox.send_ready(peer, stream);
    }

    /// There is room again for answers on a stream of the connection that the peer dialed.
    pub fn on_reply_ready(&mut self, peer: NodeId, stream: u16) {
        self.shared.outbox.reply_ready(peer, stream);
    }

    /// There is room again in a worker's ring.
    pub fn on_worker_ready(&mut self, worker: usize) {
        self.shared.outbox.worker_ready(worker);
    }

    /// Time has passed: whatever was refused is tried again.
    pub fn tick(&mut self, now_us: u64) {
        self.told(now_us);
        self.shared.outbox.retry();
        self.common.tick(&mut self.shared);
    }

    /// The common state, as this node has it.
    pub fn common(&self) -> &CommonMap {
        self.common.map()
    }

    /// Writes an entry of common state, for `life_ms` or for ever, and has it told to every peer.
    /// [`Output::CommonSynced`] says when all have it.
    ///
    /// # Errors
    /// When the value may not stand under the key, or there is no room.
    pub fn put_common(
        &mut self,
        key: CommonKey,
        value: CommonValue,
        life_ms: Option<u64>,
        times: Times,
    ) -> Result<Stamp, CommonError> {
        self.told(times.now_us);
        self.common.put(key, value, life_ms, times)
    }

    /// Deletes an entry of common state everywhere; `None` when there is none.
    /// [`Output::CommonSynced`] says when all know.
    pub fn delete_common(&mut self, key: &CommonKey, times: Times) -> Option<Stamp> {
        self.told(times.now_us);
        self.common.delete(key, times)
    }

    /// Which members that live in the view lack what was written here up to a stamp.
    pub fn common_lacking(&self, stamp: Stamp) -> Vec<NodeId> {
        self.common.lacking(stamp)
    }

    /// The next thing that the driver is to do; `None` until something is told again.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.shared.outbox.poll() {
                // What left its queue makes room for more.
                self.dirty |= matches!(output, Output::Send { .. } | Output::Reply { .. });
                return Some(output);
            }
            if !std::mem::take(&mut self.dirty) {
                return None;
            }
            self.common.pump(&mut self.shared);
            self.receiver.acknowledge(&mut self.shared);
            self.sender.pump(&mut self.shared);
            for (peer, records) in self.sender.pump_errands(&mut self.shared) {
                self.repairs.pushed(peer, records, &mut self.shared);
            }
            let sender = &self.sender;
            (self.repairs).pump(|peer| sender.greeted(peer), &mut self.shared);
            let reach = Reach {
                route: &self.sender.route,
                asks: &|peer| self.sender.session(peer),
                answers: &|peer| self.receiver.session(peer),
            };
            self.questions.pump(&reach, &mut self.shared);
        }
    }

    /// Takes back the memory of a frame that was sent.
    pub fn recycle(&mut self, frame: Vec<u8>) {
        self.shared.outbox.recycle(frame);
    }

    /// How redundant this node's state is.
    pub fn status(&self, now_us: u64) -> Status {
        Status {
            common: self.common.status(),
            ..self.sender.status(now_us, &self.shared.counters)
        }
    }

    /// Whether a final synchronisation is complete: every target, but those that are joining, has
    /// all that this node owned and the changes up to these log numbers, by worker. Without
    /// any target it is as soon as the changes were told.
    pub fn has_flushed(&self, lsns: &[u64]) -> bool {
        self.sender.has_flushed(lsns)
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    fn query(&mut self, peer: NodeId, frame: &[u8]) -> Result<Told, Violation> {
        if let Some(query) = self.receiver.query(peer, frame, &mut self.shared)? {
            self.questions.queried(peer, query, &mut self.shared)?;
        }
        Ok(Told::Nothing)
    }

    fn common_frame(&mut self, peer: NodeId, frame: &[u8]) -> Result<Told, Violation> {
        let receiver = &self.receiver;
        let current = |incarnation, session, shared: &mut Shared| {
            receiver.current(peer, COMMON, incarnation, session, shared)
        };
        let complete = self.common.frame(peer, frame, &current, &mut self.shared)?;
        if let Some(incarnation) = complete {
            self.sender
                .common_received(peer, incarnation, &mut self.shared);
        }
        Ok(Told::Nothing)
    }

    fn found(&mut self, peer: NodeId, frame: &[u8]) -> Result<(), Violation> {
        match self.sender.found(peer, frame, &mut self.shared)? {
            Some(answer) => self.questions.answered(peer, answer, &mut self.shared),
            None => Ok(()),
        }
    }

    fn told(&mut self, now_us: u64) {
        self.shared.now_us = self.shared.now_us.max(now_us);
        self.dirty = true;
    }

    fn heard(&mut self, told: Told) {
        match told {
            Told::SnapshotReceived {
                peer,
                incarnation,
                request,
            } => self
                .sender
                .snapshot_received(peer, incarnation, request, &mut self.shared),
            Told::ErrandReceived {
                peer,
                incarnation,
                request,
                refused,
            } => {
                let errands = &mut self.sender.errands;
                self.repairs.answered(
                    (peer, incarnation),
                    request,
                    refused,
                    errands,
                    &mut self.shared,
                );
            }
            Told::Greeted { peer } => self.repairs.interrupted(peer),
            Told::Requested { .. } | Told::Nothing => {}
        }
    }
}

impl Shared {
    pub(crate) fn send<M>(&mut self, peer: NodeId, stream: u16, message: &M)
    where
        M: Message + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
    {
        let frame = encode(message, self.outbox.frame());
        self.counters.bytes_sent += frame.len() as u64;
        self.outbox.send(peer, stream, frame);
    }

    pub(crate) fn reply<M>(&mut self, peer: NodeId, stream: u16, message: &M)
    where
        M: Message + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
    {
        let frame = encode(message, self.outbox.frame());
        self.counters.bytes_sent += frame.len() as u64;
        self.outbox.reply(peer, stream, frame);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outbox.note(Output::Event(event));
    }

    /// A number for a run: greater than all before it.
    pub(crate) fn run(&mut self) -> u64 {
        self.last_run += 1;
        self.last_run
    }

    /// A name for a job.
    pub(crate) fn job(&mut self) -> JobId {
        self.last_job += 1;
        JobId(self.last_job)
    }

    fn close(&mut self, peer: NodeId, connection: Connection, reason: Violation) {
        self.counters.frames_invalid += 1;
        self.outbox.note(Output::Close {
            peer,
            connection,
            reason,
        });
    }
}
