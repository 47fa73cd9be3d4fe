//! What peers send of their common state, on the connections that they dialed.

use state::{NODES_MAX, NodeId};

use super::Common;
use crate::message::{
    self, ArchivedCommon, ArchivedCommonDigest, COMMON, CommonAck, CommonDigest, Message,
    Violation, open,
};
use crate::replicator::Shared;

/// One peer's connection to us.
#[derive(Default)]
pub(super) struct Inbound {
    /// The peer's run, and the session of its connection.
    incarnation: u64,
    session: u32,
    /// The last message's number.
    number: u64,
    /// Up to which of the run's changes all is in the map; 0 until its whole map has come.
    applied: u64,
    /// An acknowledgement is due.
    due: bool,
}

impl Inbound {
    /// The run, and up to which of its changes all is in the map.
    pub(super) fn applied(&self) -> (u64, u64) {
        (self.incarnation, self.applied)
    }

    /// Whether the peer ever sent of its common state.
    pub(super) fn was_heard(&self) -> bool {
        self.incarnation != 0
    }

    fn follow(&mut self, incarnation: u64, session: u32) {
        if self.incarnation != incarnation {
            *self = Self {
                incarnation,
                session,
                ..Self::default()
            };
        } else if self.session != session {
            self.session = session;
            self.number = 0;
            self.due = false;
        }
    }
}

/// What the receiver of frames knows of the connection that a message says it is of.
pub(crate) type IsCurrent<'a> = &'a dyn Fn(u64, u32, &mut Shared) -> Result<bool, Violation>;

impl Common {
    /// A frame on the stream of common state; `current` tells whether it is of the connection that
    /// counts. Returns the peer's run when its whole map is here with it. Nothing has changed when it
    /// is refused.
    pub(crate) fn frame(
        &mut self,
        peer: NodeId,
        frame: &[u8],
        current: IsCurrent<'_>,
        shared: &mut Shared,
    ) -> Result<Option<u64>, Violation> {
        match message::kind(frame)? {
            message::Common::KIND => self.entries(peer, open(frame)?, current, shared),
            CommonDigest::KIND => {
                self.summary(peer, open(frame)?, current, shared)?;
                Ok(None)
            }
            kind => Err(Violation::Kind {
                kind,
                stream: COMMON,
            }),
        }
    }

    /// Acknowledges what came. What it changed was told before, and so is to be seen by workers.
    pub(super) fn acknowledge(&mut self, shared: &mut Shared) {
        let peers = (0..NODES_MAX as u8).filter_map(NodeId::new);
        for (peer, inbound) in peers.zip(&mut self.inbound) {
            if !inbound.due || shared.outbox.replies_queued(peer, COMMON) > 0 {
                continue;
            }
            inbound.due = false;
            let ack = CommonAck {
                incarnation: shared.incarnation,
                dialer: inbound.incarnation,
                session: inbound.session,
                number: inbound.number,
            };
            shared.reply(peer, COMMON, &ack);
        }
    }

    fn entries(
        &mut self,
        peer: NodeId,
        message: &ArchivedCommon,
        current: IsCurrent<'_>,
        shared: &mut Shared,
    ) -> Result<Option<u64>, Violation> {
        let incarnation = message.incarnation.to_native();
        let session = message.session.to_native();
        if !current(incarnation, session, shared)? {
            return Ok(None);
        }
        let known = &self.inbound[peer.index()];
        let of_session = known.incarnation == incarnation && known.session == session;
        let expected = if of_session { known.number + 1 } else { 1 };
        let number = message.number.to_native();
        if number != expected {
            return Err(Violation::Gap {
                expected,
                first: number,
            });
        }
        let entries = message.entries.entries().map_err(Violation::Common)?;

        self.inbound[peer.index()].follow(incarnation, session);
        shared.counters.common_received += entries.len() as u64;
        for entry in &entries {
            self.merge(peer, entry, shared);
        }
        let upto = message.upto.to_native();
        let inbound = &mut self.inbound[peer.index()];
        inbound.number = number;
        inbound.due = true;
        let complete = inbound.applied == 0 && upto > 0;
        inbound.applied = inbound.applied.max(upto);
        Ok(complete.then_some(incarnation))
    }

    fn summary(
        &mut self,
        peer: NodeId,
        message: &ArchivedCommonDigest,
        current: IsCurrent<'_>,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let incarnation = message.incarnation.to_native();
        if !current(incarnation, message.session.to_native(), shared)? {
            return Ok(());
        }
        let applied = message.applied.to_native();
        let about_us = message.receiver.to_native() == shared.incarnation;
        if about_us && applied > self.last {
            return Err(Violation::Position {
                run: 0,
                last: applied,
                current: 0,
                sent: self.last,
            });
        }
        let last = self.last;
        let quiet = self.relayed.is_empty();
        let (theirs, ours) = (message.digest.to_native(), self.map.digest());
        let lane = &mut self.lanes[peer.index()];
        if about_us && lane.is_of(incarnation) {
            lane.settled = lane.settled.max(applied);
        }
        if theirs == ours {
            lane.differences = 0;
        } else if quiet && lane.at_rest(last) {
            lane.differs(theirs, ours, shared);
        }
        Ok(())
    }
}
