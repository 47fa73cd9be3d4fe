//! What one peer gets of this node's common state, and what it has of it.

use std::collections::VecDeque;

use state::{CommonBatch, CommonEntry, CommonKey, NodeId};

use super::{Common, DIFFERENCES_MAX};
use crate::message::{
    self, ArchivedCommonAck, COMMON, CommonAck, CommonDigest, Message, Violation, open,
};
use crate::replicator::Shared;

/// The most entries of one message.
const ENTRIES_MAX: usize = 512;
/// No entry is added to a message that has about as many bytes; one entry may be longer.
const BYTES_MAX: usize = 128 << 10;
/// The most messages that the peer has not acknowledged.
const IN_FLIGHT_MAX: usize = 4;

/// The way to one peer.
#[derive(Default)]
pub(super) struct Lane {
    /// The run of the peer that all below is about.
    incarnation: u64,
    /// The session of the connection that stands; `None` without one.
    session: Option<u32>,
    /// While the whole map is on its way: up to which key it is sent, and to which change the peer
    /// has all when it is complete.
    whole: Option<(Option<CommonKey>, u64)>,
    /// Changes up to here are sent.
    sent: u64,
    /// Changes up to here are acknowledged.
    acked: u64,
    /// Changes up to here the peer has said to have, on the stream on which its own changes come.
    pub(super) settled: u64,
    /// The number of the last message of the session.
    number: u64,
    /// Messages that are not acknowledged: their numbers, and up to which change the peer then has
    /// all.
    in_flight: VecDeque<(u64, u64)>,
    /// Whether a summary is due.
    summary: bool,
    /// How many of the peer's summaries in a row were not ours, while nothing was on its way.
    pub(super) differences: u32,
    /// The last of them, theirs and ours.
    difference: (u64, u64),
}

impl Lane {
    pub(super) fn session(&self) -> Option<u32> {
        self.session
    }

    /// Whether the peer was ever connected to.
    pub(super) fn was_greeted(&self) -> bool {
        self.incarnation != 0
    }

    pub(super) fn is_of(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Up to which change this run of the peer has all.
    pub(super) fn acked_by(&self, incarnation: u64) -> u64 {
        if self.incarnation == incarnation {
            self.acked
        } else {
            0
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.session = None;
        self.in_flight.clear();
        // What was in flight may not have come.
        match &mut self.whole {
            Some((after, _)) => *after = None,
            None => self.sent = self.acked,
        }
    }

    /// A connection stands; returns whether it is to another run than before.
    pub(super) fn greeted(&mut self, session: u32, incarnation: u64) -> bool {
        let other = self.incarnation != incarnation;
        if other {
            let knows = state::mutation::is(state::mutation::Mutation::NewRunKnows)
                && self.incarnation != 0;
            *self = Self {
                incarnation,
                whole: (!knows).then_some((None, 0)),
                sent: if knows { self.acked } else { 0 },
                acked: if knows { self.acked } else { 0 },
                ..Self::default()
            };
        }
        self.disconnected();
        self.session = Some(session);
        self.number = 0;
        self.differences = 0;
        self.summary = true;
        other
    }

    /// Nothing is on its way to the peer, and it has all.
    pub(super) fn at_rest(&self, last: u64) -> bool {
        self.whole.is_none() && self.in_flight.is_empty() && self.acked == last
    }

    /// The peer's map is not ours although nothing is on its way between us: it gets all again, once
    /// that was so twice while nothing changed, or many times.
    pub(super) fn differs(&mut self, theirs: u64, ours: u64, shared: &mut Shared) {
        self.differences += 1;
        let still = self.differences > 1 && self.difference == (theirs, ours);
        self.difference = (theirs, ours);
        if still || self.differences >= DIFFERENCES_MAX {
            self.differences = 0;
            self.whole = Some((None, 0));
            shared.counters.common_repairs += 1;
        }
    }
}

impl Common {
    /// An answer on the stream of common state. Nothing has changed when it is refused.
    pub(crate) fn answer(
        &mut self,
        peer: NodeId,
        own_incarnation: u64,
        frame: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let kind = message::kind(frame)?;
        if kind != CommonAck::KIND {
            return Err(Violation::Kind {
                kind,
                stream: COMMON,
            });
        }
        let ack: &ArchivedCommonAck = open(frame)?;
        let lane = &mut self.lanes[peer.index()];
        let current = lane.session == Some(ack.session.to_native())
            && ack.dialer.to_native() == own_incarnation
            && ack.incarnation.to_native() == lane.incarnation;
        if !current {
            shared.counters.frames_stale += 1;
            return Ok(());
        }
        let number = ack.number.to_native();
        if number > lane.number {
            return Err(Violation::Position {
                run: 0,
                last: number,
                current: 0,
                sent: lane.number,
            });
        }
        while let Some(&(of, upto)) = lane.in_flight.front()
            && of <= number
        {
            lane.acked = lane.acked.max(upto);
            lane.in_flight.pop_front();
        }
        Ok(())
    }

    /// Fills messages for a peer while there is room on the way to it.
    pub(super) fn pump_lane(&mut self, peer: NodeId, summary: bool, shared: &mut Shared) {
        let lane = &mut self.lanes[peer.index()];
        let Some(session) = lane.session else { return };
        lane.summary |= summary;
        loop {
            let lane = &self.lanes[peer.index()];
            let room = lane.in_flight.len() < IN_FLIGHT_MAX
                && shared.outbox.sends_queued(peer, COMMON) < IN_FLIGHT_MAX;
            if !room || (lane.whole.is_none() && lane.sent == self.last) {
                break;
            }
            self.send(peer, session, shared);
        }
        let lane = &mut self.lanes[peer.index()];
        if lane.summary && shared.outbox.sends_queued(peer, COMMON) < IN_FLIGHT_MAX {
            lane.summary = false;
            let (receiver, applied) = self.inbound[peer.index()].applied();
            let digest = CommonDigest {
                incarnation: shared.incarnation,
                session,
                digest: self.map.digest(),
                receiver,
                applied,
            };
            shared.send(peer, COMMON, &digest);
        }
    }

    /// Sends the next message: of the whole map while that is on its way, else of changed keys.
    fn send(&mut self, peer: NodeId, session: u32, shared: &mut Shared) {
        let now_ms = shared.now_us / 1_000;
        let lane = &mut self.lanes[peer.index()];
        let mut packed = Packed::default();
        let upto = match &mut lane.whole {
            Some((after, complete_upto)) => {
                if after.is_none() {
                    // What changes from here on is sent after it.
                    *complete_upto = self.last;
                    lane.sent = self.last;
                }
                let mut full = false;
                for entry in self.map.entries(*after, now_ms) {
                    if !packed.takes(&entry) {
                        full = true;
                        break;
                    }
                    *after = Some(entry.key);
                }
                if full {
                    0
                } else {
                    let upto = *complete_upto;
                    lane.whole = None;
                    upto
                }
            }
            None => {
                let mut upto = self.last;
                for (&number, key) in self.log.range(lane.sent + 1..) {
                    let entry = self
                        .map
                        .entry(key, now_ms)
                        .filter(|_| !self.marks[key].has.contains(peer));
                    if let Some(entry) = entry
                        && !packed.takes(&entry)
                    {
                        upto = number - 1;
                        break;
                    }
                }
                lane.sent = upto;
                upto
            }
        };
        lane.number += 1;
        lane.in_flight.push_back((lane.number, upto));
        shared.counters.common_sent += packed.batch.len() as u64;
        let message = message::Common {
            incarnation: shared.incarnation,
            session,
            number: lane.number,
            upto,
            entries: packed.batch,
        };
        shared.send(peer, COMMON, &message);
    }
}

/// A message that is being filled.
#[derive(Default)]
struct Packed {
    batch: CommonBatch,
    bytes: usize,
}

impl Packed {
    /// Adds an entry, or says that there is no room.
    fn takes(&mut self, entry: &CommonEntry) -> bool {
        if self.batch.len() >= ENTRIES_MAX || self.bytes >= BYTES_MAX {
            return false;
        }
        self.bytes += entry.value.as_ref().map_or(64, state::CommonValue::bytes);
        self.batch.push(entry);
        true
    }
}
