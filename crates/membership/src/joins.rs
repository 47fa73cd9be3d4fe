//! What a joining node was given, and when that has to be asked for anew.
//!
//! A node that joins needs the state of every slot that it will own. It asks each owner for what that
//! owner has, and the owners change meanwhile: one dies before it has given its snapshot, and its heirs,
//! which hold copies of all it had, may have given theirs before. What they inherit they tell this node
//! like any target, paced; but nothing says when that is complete, and with the dead owner
//! nobody is left to wait for. So:
//!
//! * Whoever owns without having given its state is noted ([`Given`]): by its own word, or because
//!   an active peer's workers may act by a view in which it owns.
//! * While a noted one is gone here, and another's workers may still take it for an owner, that other has
//!   not inherited yet, and this node does not become active.
//! * When nobody does so any more, the heirs own: everything is asked for anew, under a new number
//!   of the join. A view reaches a peer's replication before its workers, so that what it gives now has what it
//!   inherited.
//!
//! Two nodes can differ for long about whether a third is alive, when a link is broken. The second rule
//! therefore holds for `join_wait_ms` and no longer, as for members that were never heard.

use state::NodeSet;

use crate::heartbeat::Announced;
use crate::membership::{Membership, Peer};
use crate::view::MemberState;

/// What came of a peer's state in the present join.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Given {
    /// The run whose snapshot came. Other than `Peer::synced_run` it outlives the peer: what came of one
    /// that has died is here.
    pub(crate) run: Option<u64>,
    /// It owns, or did, and its snapshot has not come.
    lacking: bool,
    /// Since when it is lacking and, for all that it says itself, does not own.
    gone_since_ms: Option<u64>,
}

impl Peer {
    /// Whether it owns slots, by its own word.
    pub(crate) fn owns(&self) -> bool {
        match self.state() {
            MemberState::Active => true,
            MemberState::Draining => self.announced == Announced::HandingOver,
            MemberState::Joining | MemberState::Dead => false,
        }
    }
}

impl Membership {
    /// Nothing that was given before counts: every owner must give its state anew.
    pub(crate) fn ask_anew(&mut self) {
        self.join += 1;
        for peer in &mut self.peers {
            peer.synced_run = None;
            peer.given.run = None;
        }
    }

    /// While this node is joining: notices owners that are gone without having given their state, and
    /// asks anew once their heirs have inherited.
    pub(crate) fn notice_lost_owners(&mut self) {
        if self.state != MemberState::Joining {
            return;
        }
        let claimed = self.owners_of_peers();
        let mut inherited = false;
        for peer in &mut self.peers {
            let owns = peer.owns();
            let given = peer.given.run.is_some() && peer.given.run == Some(peer.incarnation);
            if given {
                peer.given.lacking = false;
            } else if owns || claimed.contains(peer.id) {
                peer.given.lacking = true;
            } else {
                inherited |= std::mem::take(&mut peer.given.lacking);
            }
            let since_ms = peer.given.gone_since_ms.unwrap_or(self.now_ms);
            peer.given.gone_since_ms = (peer.given.lacking && !owns).then_some(since_ms);
        }
        if inherited {
            self.ask_anew();
        }
    }

    /// The owners that are gone without having given their state, and from whom others may not
    /// have inherited yet.
    pub(crate) fn lost_owners_unsettled(&self) -> NodeSet {
        let join_wait_ms = self.config.timing().join_wait_ms;
        let unsettled = |peer: &&Peer| {
            let since_ms = peer.given.gone_since_ms;
            since_ms.is_some_and(|since_ms| self.now_ms - since_ms < join_wait_ms)
        };
        let those = self.peers.iter().filter(unsettled);
        those.map(|peer| peer.id).collect()
    }

    /// Who owns by a view that the workers of some active peer may act by.
    fn owners_of_peers(&self) -> NodeSet {
        let active = self.peers.iter();
        let active = active.filter(|peer| peer.state() == MemberState::Active);
        let mut owners = NodeSet(active.fold(0, |all, peer| all | peer.owners.0));
        owners.remove(self.me);
        owners
    }
}
