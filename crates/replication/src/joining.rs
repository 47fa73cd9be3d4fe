//! A joining node's questions: it asks every active member for all that the member owns, and every
//! draining one, which owns until its slots are handed over. It waits for their common state as
//! well, which comes unasked.

use std::collections::BTreeMap;

use membership::{MemberState, View};
use state::NodeId;

use crate::message::{CONTROL, Request};
use crate::replicator::Shared;
use crate::status::Output;

/// Whom this node has to ask; nobody when it is not joining.
#[derive(Default)]
pub(crate) struct Asks {
    /// The number of the join in which they are asked.
    join: u64,
    by_peer: BTreeMap<NodeId, Ask>,
    /// Of which run of each peer the whole common state has come.
    common: BTreeMap<NodeId, u64>,
    /// When the last snapshot that was asked for was complete.
    synced_us: u64,
}

/// A node that has everything and is still not active after so long asks again: a member may have
/// left it out for a moment, in which this node's view was the same.
const ASK_AGAIN_US: u64 = 5_000_000;

struct Ask {
    /// The run of the member that is asked.
    incarnation: u64,
    /// The session in which it was asked.
    asked: Option<u32>,
    /// The number of the request.
    request: u64,
    /// All that the member owned is in the tables here.
    received: bool,
    synced: bool,
}

impl Asks {
    /// Follows the view: members that were restarted are asked anew, dead ones are forgotten. In a
    /// new join all are asked anew, also when no view came in between in which this node was active.
    pub(crate) fn view(&mut self, me: NodeId, view: &View) {
        let state = |id| view.member(id).map(|member| member.state);
        let joins = state(me) == Some(MemberState::Joining);
        if std::mem::replace(&mut self.join, view.join) != view.join || !joins {
            self.by_peer.clear();
        }
        if !joins {
            return;
        }
        self.by_peer.retain(|peer, ask| {
            view.member(*peer).is_some_and(|member| {
                may_own(member.state) && member.incarnation == ask.incarnation
            })
        });
        for member in &view.members {
            if may_own(member.state) && member.id != me {
                let incarnation = member.incarnation;
                let ask = Ask {
                    incarnation,
                    asked: None,
                    request: 0,
                    received: false,
                    synced: false,
                };
                self.by_peer.entry(member.id).or_insert(ask);
            }
        }
    }

    /// Asks whom it has not asked yet in the present session. `greeted` tells a peer's session and
    /// its run, once the peer has answered the greeting.
    pub(crate) fn send(
        &mut self,
        greeted: impl Fn(NodeId) -> Option<(u32, u64)>,
        shared: &mut Shared,
    ) {
        let all = self.by_peer.values().all(|ask| ask.synced);
        if all && shared.now_us >= self.synced_us + ASK_AGAIN_US {
            for ask in self.by_peer.values_mut() {
                (ask.asked, ask.received, ask.synced) = (None, false, false);
            }
        }
        for (&peer, ask) in self.by_peer.iter_mut().filter(|(_, ask)| !ask.received) {
            if let Some((session, incarnation)) = greeted(peer)
                && incarnation == ask.incarnation
                && ask.asked != Some(session)
            {
                ask.asked = Some(session);
                ask.request = shared.run();
                let request = Request {
                    incarnation: shared.incarnation,
                    session,
                    number: ask.request,
                    slots: Vec::new(),
                };
                shared.send(peer, CONTROL, &request);
            }
        }
    }

    /// All that this run of a peer owned is in the tables here, as asked for with this request. A
    /// snapshot that was on its way before the request does not count: this node may have been
    /// taken for dead since.
    pub(crate) fn received(
        &mut self,
        peer: NodeId,
        incarnation: u64,
        request: u64,
        shared: &mut Shared,
    ) {
        if let Some(ask) = self.by_peer.get_mut(&peer)
            && ask.incarnation == incarnation
            && ask.asked.is_some()
            && ask.request == request
        {
            // Also a further one: the member had taken this node for dead in between.
            ask.received = true;
            ask.synced = false;
            self.conclude(peer, shared);
        }
    }

    /// The whole common state of this run of a peer is here. It stays so: its changes follow.
    pub(crate) fn common_received(&mut self, peer: NodeId, incarnation: u64, shared: &mut Shared) {
        self.common.insert(peer, incarnation);
        self.conclude(peer, shared);
    }

    fn conclude(&mut self, peer: NodeId, shared: &mut Shared) {
        if let Some(ask) = self.by_peer.get_mut(&peer)
            && ask.received
            && !ask.synced
            && self.common.get(&peer) == Some(&ask.incarnation)
        {
            ask.synced = true;
            self.synced_us = shared.now_us;
            shared.outbox.note(Output::Synced {
                peer,
                incarnation: ask.incarnation,
                join: self.join,
            });
        }
    }
}

/// Whether a member in this state may own slots by its own view.
fn may_own(state: MemberState) -> bool {
    matches!(state, MemberState::Active | MemberState::Draining)
}
