//! Peers that were apart from this node and may have served its slots meanwhile.
//!
//! A peer that does not hear this node takes it for dead and serves what it owned, as far as it is the
//! heir. This node goes on as well: its own view says nothing of it when the link is broken in that direction
//! only, and nothing of its own slots when it is broken in both. The copies converge afterwards, but the
//! workers must know that packets of their flows went through others, whose windows may lie far
//! beyond theirs. So reunions are counted, and the views carry the number ([`View::reunions`]):
//!
//! * A peer owns, did not hear this node, and now hears it, or does not own any more, or is dead: until now
//!   it may have served.
//! * A peer was dead for this node and is heard again, in the same run or as an owner: what it did
//!   meanwhile is not known here. One that joins in a later run has served nothing in it.
//!
//! [`View::reunions`]: crate::View::reunions

use crate::membership::Membership;
use crate::view::MemberState;

/// How this node was together with a peer when it last looked.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Together {
    /// Whether the peer was alive.
    alive: bool,
    /// Its run.
    incarnation: u64,
    /// Whether it owned without hearing this node.
    apart: bool,
}

impl Membership {
    /// Counts the reunions since it was last called. One while this node owns nothing does not count: what
    /// it comes to own later is new to it anyway.
    pub(crate) fn notice_reunions(&mut self) {
        let mut reunited = false;
        for peer in &mut self.peers {
            let now = Together {
                alive: peer.is_alive(),
                incarnation: peer.incarnation,
                apart: peer.owns() && !peer.hears(self.me),
            };
            let before = std::mem::replace(&mut peer.together, now);
            let same_run = before.incarnation == now.incarnation;
            let back = !before.alive && now.alive && (same_run || peer.owns());
            reunited |= back || (before.apart && !now.apart);
        }
        if reunited && self.state == MemberState::Active {
            self.reunions += 1;
        }
    }
}
