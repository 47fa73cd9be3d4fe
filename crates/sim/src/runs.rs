//! Which run of a peer our connection leads to, as `ravelind/src/runs.rs` keeps it for the sync core.

use std::collections::BTreeMap;

/// The runs that the connections we dialed were made to, as far as the views told.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// By peer: the run in the view when the connection was made; 0 when none was known.
    met: BTreeMap<usize, u64>,
}

impl Runs {
    pub(crate) fn connected(&mut self, peer: usize, run: u64) {
        self.met.insert(peer, run);
    }

    pub(crate) fn disconnected(&mut self, peer: usize) {
        self.met.remove(&peer);
    }

    /// Whether the connection has to be dialed anew, now that the view shows `run` of the peer and
    /// `greeted` has answered on the connection: true once for a connection.
    pub(crate) fn is_outlived(&mut self, peer: usize, greeted: Option<u64>, run: u64) -> bool {
        let Some(met) = self.met.get_mut(&peer) else {
            return false;
        };
        if *met == 0 {
            *met = run;
        }
        let outlived = greeted.unwrap_or(*met) < run;
        if outlived {
            self.met.remove(&peer);
        }
        outlived
    }
}
