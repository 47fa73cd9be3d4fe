//! Views on their way from the membership core to the workers. The sync core takes them up first,
//! so that no worker relies on targets that the replicator does not count yet.

use std::sync::Arc;

use engine::{NodeShared, Snapshot, SnapshotReader};
use membership::View;

/// The sync core's end.
pub(crate) struct Views {
    from: SnapshotReader<View>,
    to: Arc<NodeShared>,
    /// The present view has not been given out.
    new: bool,
}

impl Views {
    /// Of the membership core's views, for the workers of the node. The membership core may run
    /// already, and what it has published by now is new as well.
    pub(crate) fn new(from: &Arc<Snapshot<View>>, to: Arc<NodeShared>) -> Self {
        Self {
            from: from.reader(),
            to,
            new: true,
        }
    }

    /// The present view, once. [`Self::pass_on`] follows when the sync core goes by it.
    pub(crate) fn next(&mut self) -> Option<Arc<View>> {
        let refreshed = self.from.refresh();
        let new = std::mem::take(&mut self.new) || refreshed;
        new.then(|| self.from.value().clone())
    }

    /// Lets the workers go by the present view.
    pub(crate) fn pass_on(&self) {
        self.to.view.publish(self.from.value().clone());
    }

    /// The present view.
    pub(crate) fn present(&self) -> &Arc<View> {
        self.from.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Policy;
    use membership::{Member, MemberState};
    use policy::{RuleSet, Zones};
    use state::NodeId;

    fn view(epoch: u64) -> View {
        let config = {
            let members = vec![membership::MemberConfig {
                id: NodeId::new(1).unwrap(),
                name: "n1".into(),
                weight: 1,
                backups: vec![],
            }];
            let timing = membership::Timing {
                heartbeat_ms: 10,
                dead_after_ms: 50,
                join_wait_ms: 50,
            };
            membership::ClusterConfig::new(1, members, 1, timing).unwrap()
        };
        let member = Member {
            id: NodeId::new(1).unwrap(),
            state: MemberState::Active,
            incarnation: 1,
        };
        View::compute(&config, &[member], epoch)
    }

    fn node(first: View) -> Arc<NodeShared> {
        let zones = Zones::new(["inside"]).unwrap();
        let rules = RuleSet::new(1, zones, vec![], Default::default()).unwrap();
        Arc::new(NodeShared::new(first, Policy::new(&rules)))
    }

    /// The membership core has a thread of its own, and can be through with joining before the sync
    /// core's first turn. No other view comes then: a node whose workers missed it would join for ever.
    #[test]
    fn a_view_from_before_the_first_turn_reaches_the_workers() {
        let published = Arc::new(Snapshot::new(view(0)));
        let node = node(view(0));
        published.publish(Arc::new(view(7)));

        let mut views = Views::new(&published, node.clone());
        assert_eq!(views.next().map(|view| view.epoch), Some(7));
        assert_eq!(node.view.load().epoch, 0, "the sync core is first");
        views.pass_on();
        assert_eq!(node.view.load().epoch, 7);
        assert!(views.next().is_none(), "once");

        published.publish(Arc::new(view(8)));
        assert_eq!(views.next().map(|view| view.epoch), Some(8));
    }
}
