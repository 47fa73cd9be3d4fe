//! Going offline: orders of the control socket and of signals, the steps that the membership core
//! does for them, and what people are told.
//!
//! The hand-over itself is the membership state machine's (`membership/src/handover.rs`). Here its
//! two questions are answered: since when all workers act by a view, and when a final
//! synchronisation is complete. After it the packets that are still held leave, and then the
//! daemon ends, unless it is to stay.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use engine::WorkerShared;
use membership::{DrainRefused, Event, HandOverPhase, MemberState, Membership};
use parking_lot::{Condvar, Mutex};
use replication::Replicator;
use state::{NodeId, NodeSet};
use telemetry::control::{Drain, DrainPhase};

use crate::state::Board;

/// How long a daemon that was told to end by a signal may take for its hand-over.
pub(crate) const SIGNAL_BOUND: Duration = Duration::from_secs(10);
/// How long the membership core may take for an order; it looks every few milliseconds.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client is kept waiting for news.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);
/// What held packets may take beyond their deadline.
const RELEASE_SLACK_US: u64 = 200_000;
/// Rounds of the workers in a final synchronisation: what crossed from one worker to another in
/// the first is replicated in the second.
const ROUNDS: u64 = 2;

/// What somebody wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Hand over; then stay, or end.
    Drain { stay: bool, how: membership::Drain },
    /// Take it back.
    Undrain,
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("{0}")]
    Refused(#[from] DrainRefused),
    #[error("this node was not told to drain")]
    NotDrained,
    #[error("the membership core does not answer")]
    Silent,
}

/// Between those who order, who wait for news, and the cores that do the work.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    news: Condvar,
    waiting: AtomicBool,
    /// The last round of a final synchronisation that is complete; written by the sync core.
    flushed: AtomicU64,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    orders: VecDeque<(Order, mpsc::SyncSender<Result<(), OrderError>>)>,
    report: Drain,
}

impl Desk {
    /// Gives an order and waits until it has begun.
    pub(crate) fn order(&self, order: Order) -> Result<Drain, OrderError> {
        let answer = self.post(order);
        answer
            .recv_timeout(ORDER_PATIENCE)
            .unwrap_or(Err(OrderError::Silent))?;
        Ok(self.report())
    }

    /// Gives an order; the answer comes over the channel.
    pub(crate) fn post(&self, order: Order) -> mpsc::Receiver<Result<(), OrderError>> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.inner.lock().orders.push_back((order, answer));
        self.waiting.store(true, Ordering::Release);
        answered
    }

    /// How it stands.
    pub(crate) fn report(&self) -> Drain {
        self.inner.lock().report.clone()
    }

    /// How it stands once that is other than what has this number, or after a while.
    pub(crate) fn news_after(&self, number: u64) -> Drain {
        let mut inner = self.inner.lock();
        if inner.report.number == number {
            self.news.wait_for(&mut inner, NEWS_PATIENCE);
        }
        inner.report.clone()
    }

    /// Whether the daemon is to end now.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Publishes a report if it tells anything new.
    fn tell(&self, mut report: Drain) {
        let mut inner = self.inner.lock();
        let age_ms = report.age_ms;
        // Time passing is no news.
        (report.number, report.age_ms) = (inner.report.number, inner.report.age_ms);
        let news = report != inner.report || report.number == 0;
        report.number += u64::from(news);
        report.age_ms = age_ms;
        inner.report = report;
        drop(inner);
        if news {
            self.news.notify_all();
        }
    }
}

/// The sync core's part: notes when the round of a final synchronisation that the workers were
/// asked for is complete.
pub(crate) fn finish_flush(
    board: &Board,
    replicator: &Replicator,
    workers: impl Iterator<Item = Arc<WorkerShared>>,
) {
    let asked = board.node.flush_asked.load(Ordering::Relaxed);
    if asked == board.drain.flushed.load(Ordering::Relaxed) {
        return;
    }
    let lsn = |worker: Arc<WorkerShared>| {
        let done = worker.told.flushed.load(Ordering::Acquire) == asked;
        done.then(|| worker.told.flushed_lsn.load(Ordering::Relaxed))
    };
    if let Some(lsns) = workers.map(lsn).collect::<Option<Vec<u64>>>()
        && replicator.has_flushed(&lsns)
    {
        board.drain.flushed.store(asked, Ordering::Release);
    }
}

/// The membership core's part.
pub(crate) struct Drainer {
    board: Arc<Board>,
    workers: Vec<Arc<WorkerShared>>,
    hold_deadline_us: u64,
    stay: bool,
    /// An order is being carried out, since when.
    began_us: Option<u64>,
    slots: u64,
    cut: Option<String>,
    abandoned: bool,
    taken_back: bool,
    /// Since when this node owns nothing by its own view.
    gave_us: Option<u64>,
    /// Since when its workers act by that.
    applied_us: Option<u64>,
    released: bool,
}

impl Drainer {
    pub(crate) fn new(
        board: Arc<Board>,
        workers: Vec<Arc<WorkerShared>>,
        hold_deadline: Duration,
    ) -> Self {
        Self {
            board,
            workers,
            hold_deadline_us: hold_deadline.as_micros() as u64,
            stay: false,
            began_us: None,
            slots: 0,
            cut: None,
            abandoned: false,
            taken_back: false,
            gave_us: None,
            applied_us: None,
            released: false,
        }
    }

    /// Whether a step may be due within a millisecond.
    pub(crate) fn is_busy(&self, membership: &Membership) -> bool {
        membership.awaits_workers()
            || membership.hand_over().is_some()
            || (self.began_us.is_some() && !self.released)
    }

    /// Tells the state machine how far the workers are.
    pub(crate) fn follow_workers(&self, membership: &mut Membership) {
        if membership.awaits_workers() {
            let epochs = self.workers.iter();
            let epochs = epochs.map(|w| w.told.view_epoch.load(Ordering::Acquire));
            membership.on_applied(epochs.min().unwrap_or(u64::MAX));
        }
    }

    /// Takes orders, and does the next steps.
    pub(crate) fn turn(&mut self, membership: &mut Membership, now_us: u64, name: Names<'_>) {
        if self.board.drain.waiting.swap(false, Ordering::Acquire) {
            let orders = std::mem::take(&mut self.board.drain.inner.lock().orders);
            for (order, answer) in orders {
                let done = self.begin(order, membership, now_us);
                // Before the answer, so that who gave the order sees it begun.
                self.tell(membership, now_us, &name);
                let _ = answer.try_send(done);
            }
        }
        if self.began_us.is_none() {
            return;
        }
        self.synchronise(membership);
        if membership.hand_over().is_none() {
            self.finish(membership, now_us);
        }
        self.tell(membership, now_us, &name);
    }

    /// Notes how a hand-over ended.
    pub(crate) fn note(&mut self, event: &Event) {
        if matches!(event, Event::HandOverCut { .. }) {
            self.cut = Some(event.to_string());
        }
    }

    fn begin(
        &mut self,
        order: Order,
        membership: &mut Membership,
        now_us: u64,
    ) -> Result<(), OrderError> {
        match order {
            Order::Drain { stay, how } => {
                let under_way = membership.hand_over().is_some();
                membership.drain(how)?;
                self.stay = stay;
                if !under_way && self.gave_us.is_none() {
                    self.began_us = Some(now_us);
                    let hand_over = membership.hand_over();
                    self.slots = hand_over.map_or(0, |h| h.slots as u64);
                    (self.cut, self.abandoned, self.released) = (None, false, false);
                }
                self.taken_back = false;
            }
            Order::Undrain if membership.is_drained() => {
                membership.undrain();
                self.taken_back = true;
            }
            Order::Undrain => return Err(OrderError::NotDrained),
        }
        Ok(())
    }

    /// Has the workers and the sync core synchronise, when the state machine asks for it.
    fn synchronise(&self, membership: &mut Membership) {
        let Some(flush) = membership.hand_over().and_then(|h| h.flush) else {
            return;
        };
        let last = flush * ROUNDS;
        let done = self.board.drain.flushed.load(Ordering::Acquire);
        if done >= last {
            return membership.on_flushed(flush);
        }
        let asked = &self.board.node.flush_asked;
        let next = done.max(last - ROUNDS) + 1;
        if asked.load(Ordering::Relaxed) < next {
            asked.store(next, Ordering::Release);
            self.board.wake.wake();
        }
    }

    /// What comes after the hand-over.
    fn finish(&mut self, membership: &Membership, now_us: u64) {
        if membership.state() != MemberState::Draining || !membership.is_drained() {
            self.abandoned = !self.taken_back;
            (self.began_us, self.gave_us, self.applied_us) = (None, None, None);
            return;
        }
        let gave_us = *self.gave_us.get_or_insert(now_us);
        if self.applied_us.is_none() && !membership.awaits_workers() {
            self.applied_us = Some(now_us);
        }
        let empty = |worker: &Arc<WorkerShared>| {
            let told = &worker.told;
            let looked_us = told.alive_us.load(Ordering::Acquire);
            self.applied_us.is_some_and(|since_us| looked_us > since_us)
                && told.held.load(Ordering::Relaxed) == 0
        };
        let late = now_us > gave_us + self.hold_deadline_us + RELEASE_SLACK_US;
        self.released |= late || self.workers.iter().all(empty);
        if self.released && !self.stay {
            self.board.drain.over.store(true, Ordering::Release);
        }
    }

    fn tell(&self, membership: &Membership, now_us: u64, name: &Names<'_>) {
        let hand_over = membership.hand_over();
        let held = self.workers.iter();
        let held = held.map(|w| w.told.held.load(Ordering::Relaxed));
        let phase = match (&hand_over, self.began_us) {
            _ if self.abandoned => DrainPhase::Abandoned,
            (_, None) => DrainPhase::None,
            (Some(h), _) if h.phase == HandOverPhase::Announced => DrainPhase::HandingOver,
            (Some(_), _) => DrainPhase::FinalSync,
            (None, _) if !self.released => DrainPhase::Releasing,
            (None, _) if self.stay => DrainPhase::Drained,
            (None, _) => DrainPhase::Leaving,
        };
        let waits_for = hand_over.map_or(NodeSet::EMPTY, |h| h.waits_for);
        self.board.drain.tell(Drain {
            number: 0,
            phase,
            stay: self.stay,
            slots: self.slots,
            slots_handed_over: hand_over.map_or(self.slots, |h| h.slots_handed_over as u64),
            waits_for: waits_for.iter().map(name).collect(),
            held_packets: held.sum(),
            cut: self.cut.clone(),
            age_ms: self
                .began_us
                .map_or(0, |began_us| (now_us - began_us) / 1_000),
        });
    }
}

/// Tells a node's name.
pub(crate) type Names<'a> = &'a dyn Fn(NodeId) -> String;
