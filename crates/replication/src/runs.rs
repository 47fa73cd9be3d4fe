//! Which run of each peer our connection leads to.
//!
//! A connection to a run that is gone would only end by its idle timeout, and what waits for the
//! peer's acknowledgements would wait as long. A restart may be too quick to show as a death.

use std::collections::BTreeMap;

use state::NodeId;

/// The runs that the connections we dialed were made to, as far as the views told; for whoever dials them.
#[derive(Debug, Default)]
pub struct Runs {
    /// The run in the view when the connection was made; 0 when none was known.
    met: BTreeMap<NodeId, u64>,
}

impl Runs {
    /// A connection to `peer` is up; the view shows `run` of it, 0 for none.
    pub fn connected(&mut self, peer: NodeId, run: u64) {
        self.met.insert(peer, run);
    }

    /// The connection to `peer` is gone.
    pub fn disconnected(&mut self, peer: NodeId) {
        self.met.remove(&peer);
    }

    /// Whether the connection to `peer` has to be dialed anew now that the view shows `run` of it:
    /// true once for a connection. `greeted` is the run that has answered on the connection. It
    /// counts for more than the view, which may learn of a restart after we have dialed anew.
    pub fn is_outlived(&mut self, peer: NodeId, greeted: Option<u64>, run: u64) -> bool {
        let Some(met) = self.met.get_mut(&peer) else {
            return false;
        };
        if *met == 0 {
            // Whatever we are connected to is the first run that we hear of.
            *met = run;
        }
        let outlived = greeted.unwrap_or(*met) < run;
        if outlived {
            self.met.remove(&peer);
        }
        outlived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn a_restart_that_never_showed_as_a_death_is_dialed_anew_once() {
        for greeted in [None, Some(10)] {
            let mut runs = Runs::default();
            runs.connected(node(2), 10);
            assert!(!runs.is_outlived(node(2), greeted, 10));
            assert!(runs.is_outlived(node(2), greeted, 11), "{greeted:?}");
            // Until the new connection is up there is nothing to leave.
            assert!(!runs.is_outlived(node(2), greeted, 11));
            assert!(!runs.is_outlived(node(2), greeted, 12));
            runs.disconnected(node(2));
            runs.connected(node(2), 11);
            assert!(!runs.is_outlived(node(2), Some(11), 11));
            assert!(runs.is_outlived(node(2), Some(11), 12));
        }
    }

    #[test]
    fn a_connection_that_the_new_run_has_answered_on_stays() {
        let mut runs = Runs::default();
        // Dialed anew because the old connection was reset, before the view had the new run.
        runs.connected(node(2), 10);
        assert!(!runs.is_outlived(node(2), Some(11), 10));
        assert!(!runs.is_outlived(node(2), Some(11), 11));
        assert!(runs.is_outlived(node(2), Some(11), 12));
    }

    #[test]
    fn the_first_run_heard_of_is_the_one_connected_to() {
        let mut runs = Runs::default();
        runs.connected(node(2), 0);
        assert!(!runs.is_outlived(node(2), None, 0));
        assert!(!runs.is_outlived(node(2), None, 10));
        assert!(runs.is_outlived(node(2), None, 11));
        assert!(!runs.is_outlived(node(3), None, 11), "not connected");
    }
}
