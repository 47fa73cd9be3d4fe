//! Handing over: how a node gives its slots away, and comes by slots, without a moment in which
//! nobody owns them.
//!
//! Views change at different times at different nodes, so a node that changes its own view when it
//! announces something leaves a gap: it does not own any more, and the others do not own yet. Here
//! it is the other way round, in both directions. **Who gives, goes on until all others own; who
//! takes, owns before it says so.** Between the two both handle the packets: those that both see
//! are sent twice, which endpoints have to bear anyway, and none is lost.
//!
//! # Going offline
//!
//! 1. [`Membership::drain`](crate::Membership::drain): the node announces that it is handing over. To its peers it is
//!    draining: their views give its slots to the heirs, who hold all of its state, because they
//!    are its targets. Its own view stays as it is.
//! 2. *Announced*: it waits until every active peer, after having heard this, says that its workers
//!    act by a view in which this node owns nothing. A node that is just joining needs the state
//!    that this one owns, so it is waited for as well.
//! 3. *Final synchronisation*: whatever this node changed until then must be with its targets. A
//!    flow that opened before the heirs owned it, and is replicated without being held, is known
//!    here only until then; without it the heir would drop the flow's next packet. The driver is asked with a
//!    number ([`HandOver::flush`]) and answers [`Membership::on_flushed`](crate::Membership::on_flushed). If somebody else
//!    becomes owner meanwhile it begins again.
//! 4. Only now this node's own view has it draining, and its workers drop what comes.
//!
//! All of it has a bound. When that has passed, this node goes as it stands: the heirs own at once
//! when they hear of it, and what is lost is what a takeover loses that was announced.
//!
//! # Flows that open meanwhile
//!
//! Both this node and the heir see the first packet and both open the flow, each under an
//! incarnation of its own. Both classify it by the same rules. Both send the packet on, each after
//! its own targets have it, so the server sees a repeated SYN or datagram. The draining node's
//! record reaches the heir, which merges it: the greater incarnation stays, on every node, and
//! both records describe the same flow in the same direction. A translation would differ, if each
//! node chose one of its own: it must be a function of the flow's key and the slot.
//!
//! # Coming
//!
//! A node that has all snapshots owns in its own view at once, and announces itself as active once
//! its workers act by that view ([`Membership::on_applied`](crate::Membership::on_applied)). Until they have heard it, the
//! others go on, and it is still their target.

use std::collections::VecDeque;

use state::{NODES_MAX, NodeId, NodeSet};

use crate::view::{MemberState, View};

/// How many views wait for the workers before the oldest two are taken for one.
const VIEWS_MAX: usize = 16;

/// How a node is to go offline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drain {
    /// It is over after so many milliseconds, finished or not.
    pub bound_ms: u64,
    /// Also when nobody is there to take over: then the node's flows end.
    pub force: bool,
}

/// Why a node does not drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DrainRefused {
    /// Nobody can take over.
    #[error(
        "no other node is active, so nobody can take over this node's flows: \
         start one first, or force it, which ends them"
    )]
    Alone,
    /// It has said goodbye, and that is for good.
    #[error("this node is leaving already: it can only be started again")]
    Leaving,
}

/// What a hand-over waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HandOverPhase {
    /// For all others to own.
    Announced,
    /// For the targets to have all changes.
    FinalSync,
}

/// A hand-over under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandOver {
    /// What it waits for.
    pub phase: HandOverPhase,
    /// The peers that do not own yet, or are still joining.
    pub waits_for: NodeSet,
    /// In the final synchronisation: the number to answer with.
    pub flush: Option<u64>,
    /// How many slots it has to give.
    pub slots: usize,
    /// Of how many of these the heir owns already.
    pub slots_handed_over: usize,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds until it ends however far it is.
    pub left_ms: u64,
}

/// A hand-over, as the state machine keeps it.
#[derive(Debug)]
pub(crate) struct Giving {
    pub(crate) order: Drain,
    pub(crate) since_ms: u64,
    pub(crate) until_ms: u64,
    /// The number of the first heartbeat that announced it: who has heard that one, or a later one,
    /// will not take this node for an owner again.
    pub(crate) announced: u64,
    /// The final synchronisation that was asked for.
    pub(crate) flush: Option<u64>,
    pub(crate) flushed: bool,
    /// Taken back meanwhile: joins again when it is over, since others have handled its flows.
    pub(crate) rejoin: bool,
    /// By node: how many slots it inherits.
    heirs: [u16; NODES_MAX],
}

impl Giving {
    pub(crate) fn new(order: Drain, now_ms: u64, announced: u64) -> Self {
        Self {
            order,
            since_ms: now_ms,
            until_ms: now_ms.saturating_add(order.bound_ms),
            announced,
            flush: None,
            flushed: false,
            rejoin: false,
            heirs: [0; NODES_MAX],
        }
    }

    /// Counts what each node inherits: `view` is this node's own, `after` the same without it.
    pub(crate) fn count_heirs(&mut self, me: NodeId, view: &View, after: &View) {
        self.heirs = [0; NODES_MAX];
        for (now, then) in view.owner.iter().zip(after.owner.iter()) {
            if let (true, Some(heir)) = (*now == Some(me), then) {
                self.heirs[heir.index()] += 1;
            }
        }
    }

    pub(crate) fn report(&self, owned: usize, waits_for: NodeSet, now_ms: u64) -> HandOver {
        let heirs = self.heirs.iter().enumerate();
        let done = heirs.filter(|(at, _)| waits_for.0 & (1 << at) == 0);
        HandOver {
            phase: match self.flush {
                None => HandOverPhase::Announced,
                Some(_) => HandOverPhase::FinalSync,
            },
            waits_for,
            flush: self.flush.filter(|_| !self.flushed),
            slots: owned,
            slots_handed_over: done.map(|(_, slots)| usize::from(*slots)).sum(),
            age_ms: now_ms - self.since_ms,
            left_ms: self.until_ms.saturating_sub(now_ms),
        }
    }
}

/// By which view the workers act: the last one that they are known to have, and those that they may
/// have by now.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The driver tells when the workers act by a view; else they do once it is polled.
    pub(crate) told: bool,
    /// In order; never empty.
    views: VecDeque<Owners>,
}

/// Who owns in a view, or in several.
#[derive(Clone, Copy, Debug)]
struct Owners {
    epoch: u64,
    /// In one of them.
    any: NodeSet,
    /// In all of them.
    all: NodeSet,
}

impl Applied {
    /// Of a node whose workers act by no view yet.
    pub(crate) fn new() -> Self {
        let nobody = Owners {
            epoch: 0,
            any: NodeSet::EMPTY,
            all: NodeSet::EMPTY,
        };
        Self {
            told: false,
            views: VecDeque::from([nobody]),
        }
    }

    /// A view is on its way to the workers.
    pub(crate) fn published(&mut self, view: &View) {
        let active = view.members.iter();
        let active = active.filter(|m| m.state == MemberState::Active);
        let active: NodeSet = active.map(|m| m.id).collect();
        if self.views.len() == VIEWS_MAX
            && let Some(oldest) = self.views.pop_front()
        {
            let next = &mut self.views[0];
            next.any = NodeSet(next.any.0 | oldest.any.0);
            next.all = NodeSet(next.all.0 & oldest.all.0);
        }
        self.views.push_back(Owners {
            epoch: view.epoch,
            any: active,
            all: active,
        });
        if !self.told {
            self.reached(view.epoch);
        }
    }

    /// All workers act by the view of this epoch or a later one.
    pub(crate) fn reached(&mut self, epoch: u64) {
        while self.views.get(1).is_some_and(|next| next.epoch <= epoch) {
            self.views.pop_front();
        }
    }

    /// Who owns by a view that a worker may act by.
    pub(crate) fn owners(&self) -> NodeSet {
        NodeSet(self.views.iter().fold(0, |all, view| all | view.any.0))
    }

    /// Whether the node owns by whichever view a worker acts by.
    pub(crate) fn surely_owns(&self, node: NodeId) -> bool {
        self.views.iter().all(|view| view.all.contains(node))
    }

    /// Whether some worker may act by an older view than the last.
    pub(crate) fn is_pending(&self) -> bool {
        self.views.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterConfig, MemberConfig, Timing};
    use crate::view::Member;
    use proptest::prelude::*;

    fn view(active: u32, epoch: u64) -> View {
        let node = |id| NodeId::new(id).expect("small");
        let configured = (0..4).map(|id| MemberConfig {
            id: node(id),
            name: format!("n{id}"),
            weight: 1,
            backups: vec![],
        });
        let config = ClusterConfig::new(1, configured.collect(), 1, Timing::default());
        let members = (0..4).map(|id| Member {
            id: node(id),
            state: match active & (1 << id) != 0 {
                true => MemberState::Active,
                false => MemberState::Joining,
            },
            incarnation: 1,
        });
        let members: Vec<Member> = members.collect();
        View::compute(&config.expect("valid"), &members, epoch)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the workers may act by is in the union, and only what all of it says is sure.
        #[test]
        fn what_workers_may_act_by_is_covered(
            steps in prop::collection::vec((0..16u32, 0..3u64), 1..60),
        ) {
            let mut applied = Applied::new();
            applied.told = true;
            let mut published = vec![(0, 0)];
            let mut reached = 0;
            for (epoch, (active, behind)) in (1..).zip(steps) {
                applied.published(&view(active, epoch));
                published.push((epoch, active));
                if behind < 2 {
                    reached = reached.max(epoch - behind);
                    applied.reached(reached);
                }
                let possible = published.iter().filter(|(epoch, _)| *epoch >= reached);
                let (any, all) = possible.fold((0, u32::MAX), |(any, all), (_, active)| {
                    (any | active, all & active)
                });
                prop_assert_eq!(applied.owners().0 & any, any);
                for id in 0..4 {
                    let sure = applied.surely_owns(NodeId::new(id).expect("small"));
                    prop_assert!(!sure || all & (1 << id) != 0);
                }
                // Exactly, as long as the list has not been shortened.
                if published.len() - (reached as usize) < VIEWS_MAX {
                    prop_assert_eq!(applied.owners().0, any);
                }
            }
            let last = published.len() as u64 - 1;
            applied.reached(last);
            prop_assert_eq!(applied.owners().0, published[last as usize].1);
            prop_assert!(!applied.is_pending());
        }
    }
}
