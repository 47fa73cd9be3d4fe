//! To whom a change goes.
//!
//! With `filter` the owner of a slot alone handles its flows: every change is one of an owned flow and
//! goes to all targets. With `ecmp` any node handles any flow: a change goes to the owner of its slot and
//! to the owner's targets, and what an owner changes goes to the flow's other handlers as well. Streams
//! then lead to all other nodes, and each carries the changes that are for its peer.

use std::sync::Arc;

use membership::{Distribution, View};
use state::{FlowRecord, NodeId, NodeSet, Slot, SlotSet, SyncMode, slot_of};

pub(crate) struct Route {
    me: NodeId,
    distribution: Distribution,
    view: Option<Arc<View>>,
    /// Nodes with a stream.
    peers: NodeSet,
}

/// What a new view changes for a node that can handle any flow.
#[derive(Default)]
pub(crate) struct Turn {
    /// Foreign slots of which this node's flows are to be told anew: the owner is another one, or
    /// has another target.
    pub(crate) foreign: SlotSet,
    /// Peers, and the slots of which they are to know now what they were not told before.
    pub(crate) gained: Vec<(NodeId, SlotSet)>,
}

impl Route {
    pub(crate) fn new(me: NodeId, distribution: Distribution) -> Self {
        Self {
            me,
            distribution,
            view: None,
            peers: NodeSet::EMPTY,
        }
    }

    pub(crate) fn is_ecmp(&self) -> bool {
        self.distribution == Distribution::Ecmp
    }

    /// Takes up a view; tells what is to be told anew. The first one changes nothing.
    pub(crate) fn view(&mut self, view: Arc<View>) -> Turn {
        let mut turn = Turn::default();
        self.peers = match self.distribution {
            Distribution::Filter => view.targets[self.me.index()],
            Distribution::Ecmp => view.others(self.me),
        };
        self.peers.remove(self.me);
        if let (true, Some(before)) = (self.is_ecmp(), &self.view) {
            let me = self.me;
            let gains = |peer, slot: &Slot| {
                let had = before.recipients(me, *slot).contains(peer);
                view.recipients(me, *slot).contains(peer) && !had
            };
            let gained = |peer| (peer, Slot::all().filter(|slot| gains(peer, slot)).collect());
            turn.gained = self.peers.iter().map(gained).collect();
            let run = |view: &View, slot| {
                let owner = view.member(view.owner(slot)?)?;
                Some((owner.id, owner.incarnation))
            };
            let moved = |slot: &Slot| {
                let gained = view.recipients(me, *slot).0 & !before.recipients(me, *slot).0;
                !view.owns(me, *slot) && (gained != 0 || run(before, *slot) != run(&view, *slot))
            };
            turn.foreign = Slot::all().filter(moved).collect();
        }
        self.view = Some(view);
        turn
    }

    /// Nodes to which streams lead.
    pub(crate) fn peers(&self) -> NodeSet {
        self.peers
    }

    /// Nodes that must have all that this node owns.
    pub(crate) fn targets(&self) -> NodeSet {
        self.view
            .as_ref()
            .map_or(NodeSet::EMPTY, |view| view.targets[self.me.index()])
    }

    /// Who has flows of a slot so that they outlive this node: the slot's owner and its targets.
    pub(crate) fn protectors(&self, slot: Slot) -> NodeSet {
        self.view
            .as_ref()
            .map_or(NodeSet::EMPTY, |view| view.recipients(self.me, slot))
    }

    /// For whom a change is, of a flow that `handlers` handle besides this node. What is not
    /// replicated still reaches the slot's owner and, from there, the handlers: without it they
    /// could not pass its packets on.
    pub(crate) fn to(&self, record: &FlowRecord, handlers: NodeSet) -> NodeSet {
        let (Distribution::Ecmp, Some(view)) = (self.distribution, &self.view) else {
            return NodeSet(u32::MAX);
        };
        let slot = slot_of(&record.key);
        let mut to = match record.class.sync {
            SyncMode::None => view.owner(slot).into_iter().collect(),
            _ => view.recipients(self.me, slot),
        };
        if view.owns(self.me, slot) {
            to.0 |= handlers.0;
        }
        to.0 &= self.peers.0;
        to
    }

    /// Of which slots a peer is to know what this node knows: the owned ones if it is a target, and
    /// the foreign ones that it owns or is a target for.
    pub(crate) fn slots_for(&self, peer: NodeId, owned: &SlotSet) -> SlotSet {
        match (&self.view, self.distribution) {
            (Some(view), Distribution::Ecmp) => Slot::all()
                .filter(|slot| view.recipients(self.me, *slot).contains(peer))
                .collect(),
            _ => owned.clone(),
        }
    }

    /// Whom to ask about a flow of a slot, the owner first; none when this node owns it.
    pub(crate) fn to_ask(&self, slot: Slot) -> (Option<NodeId>, NodeSet) {
        let Some(view) = &self.view else {
            return (None, NodeSet::EMPTY);
        };
        if view.owns(self.me, slot) {
            return (None, NodeSet::EMPTY);
        }
        (view.owner(slot), view.recipients(self.me, slot))
    }
}
