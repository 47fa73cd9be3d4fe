//! A node's way offline and back, step by step as `ravelind/src/drain.rs` does it for `ravelin drain`,
//! `ravelin undrain` and SIGTERM: the membership core's part of it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use engine::NodeShared;
use membership::{Event, MemberState, Membership};

use crate::node::WorkerCore;
use crate::shape::HOLD_DEADLINE_US;

/// As `ravelind/src/drain.rs` has them.
const RELEASE_SLACK_US: u64 = 200_000;
const ROUNDS: u64 = 2;

/// What an operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Hand over; then stay, or end.
    Drain { stay: bool, how: membership::Drain },
    /// Take it back.
    Undrain,
}

/// How far an order is, as an operator would be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// There is nothing to do: no order, or it was refused or given up, or taken back.
    None,
    /// It is being carried out.
    UnderWay,
    /// Offline, and here to stay.
    Drained,
    /// The process is to end.
    Over,
}

#[derive(Debug, Default)]
pub(crate) struct Drainer {
    orders: VecDeque<Order>,
    stay: bool,
    /// An order is being carried out, since when.
    began_us: Option<u64>,
    /// Since when this node owns nothing by its own view.
    gave_us: Option<u64>,
    /// Since when its workers act by that.
    applied_us: Option<u64>,
    released: bool,
    over: bool,
    /// A hand-over ended by its bound, or with nobody to take over: it may have lost what it had.
    pub(crate) cut: bool,
    /// The last round of a final synchronisation that is complete; written by the sync core.
    pub(crate) flushed: u64,
}

impl Drainer {
    /// Takes an order; the membership core's next turn begins it.
    pub(crate) fn post(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    pub(crate) fn progress(&self) -> Progress {
        match (self.orders.is_empty(), self.began_us) {
            _ if self.over => Progress::Over,
            (false, _) => Progress::UnderWay,
            (true, None) => Progress::None,
            (true, Some(_)) if self.released && self.stay => Progress::Drained,
            (true, Some(_)) => Progress::UnderWay,
        }
    }

    /// Whether a step may be due within a millisecond.
    pub(crate) fn is_busy(&self, membership: &Membership) -> bool {
        membership.awaits_workers()
            || membership.hand_over().is_some()
            || (self.began_us.is_some() && !self.released)
    }

    /// Tells the state machine how far the workers are.
    pub(crate) fn follow_workers(membership: &mut Membership, workers: &[WorkerCore]) {
        if membership.awaits_workers() {
            let epochs = workers.iter();
            let epochs = epochs.map(|w| w.shared.told.view_epoch.load(Ordering::Acquire));
            membership.on_applied(epochs.min().unwrap_or(u64::MAX));
        }
    }

    /// Takes orders, and does the next steps; true when the other cores have something to do.
    pub(crate) fn turn(
        &mut self,
        membership: &mut Membership,
        workers: &[WorkerCore],
        shared: &NodeShared,
        now_us: u64,
    ) -> bool {
        while let Some(order) = self.orders.pop_front() {
            self.begin(order, membership, now_us);
        }
        if self.began_us.is_none() {
            return false;
        }
        let asked = self.synchronise(membership, shared);
        if membership.hand_over().is_none() {
            self.finish(membership, workers, now_us);
        }
        asked
    }

    /// Notes how a hand-over ended.
    pub(crate) fn note(&mut self, event: &Event) {
        self.cut |= matches!(event, Event::HandOverCut { .. });
    }

    fn begin(&mut self, order: Order, membership: &mut Membership, now_us: u64) {
        match order {
            Order::Drain { stay, how } => {
                let under_way = membership.hand_over().is_some();
                if membership.drain(how).is_err() {
                    return;
                }
                self.stay = stay;
                if !under_way && self.gave_us.is_none() {
                    self.began_us = Some(now_us);
                    self.released = false;
                }
            }
            Order::Undrain if membership.is_drained() => {
                membership.undrain();
            }
            Order::Undrain => {}
        }
    }

    /// Has the workers and the sync core synchronise, when the state machine asks for it.
    fn synchronise(&self, membership: &mut Membership, shared: &NodeShared) -> bool {
        let Some(flush) = membership.hand_over().and_then(|h| h.flush) else {
            return false;
        };
        let last = flush * ROUNDS;
        if self.flushed >= last {
            membership.on_flushed(flush);
            return false;
        }
        let next = self.flushed.max(last - ROUNDS) + 1;
        let due = shared.flush_asked.load(Ordering::Relaxed) < next;
        if due {
            shared.flush_asked.store(next, Ordering::Release);
        }
        due
    }

    /// What comes after the hand-over.
    fn finish(&mut self, membership: &Membership, workers: &[WorkerCore], now_us: u64) {
        if membership.state() != MemberState::Draining || !membership.is_drained() {
            (self.began_us, self.gave_us, self.applied_us) = (None, None, None);
            return;
        }
        let gave_us = *self.gave_us.get_or_insert(now_us);
        if self.applied_us.is_none() && !membership.awaits_workers() {
            self.applied_us = Some(now_us);
        }
        let empty = |worker: &WorkerCore| {
            let told = &worker.shared.told;
            let looked_us = told.alive_us.load(Ordering::Acquire);
            self.applied_us.is_some_and(|since_us| looked_us > since_us)
                && told.held.load(Ordering::Relaxed) == 0
        };
        let late = now_us > gave_us + HOLD_DEADLINE_US + RELEASE_SLACK_US;
        self.released |= late || workers.iter().all(empty);
        self.over |= self.released && !self.stay;
    }
}
