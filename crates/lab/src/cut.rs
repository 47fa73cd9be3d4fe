//! Paths between nodes that are cut: packets are dropped by nftables in a node's namespace, without
//! anybody being told.

use crate::program::run;
use crate::{Namespace, Result};

/// The table that holds the rules; each namespace has its own.
const TABLE: &str = "lab_cut";
/// What the daemons' replication uses.
const SYNC_PORT: u16 = 7400;
/// What their heartbeats use.
const MEMBERSHIP_PORT: u16 = 7401;

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Replication, from the node to its peers.
    SyncOut,
    /// Replication and heartbeats, from the node to its peers.
    Out,
    /// Replication and heartbeats, in both directions.
    Both,
}

/// A cut; dropping it heals the path.
#[derive(Debug)]
pub struct Cut {
    space: Namespace,
}

impl Cut {
    /// Cuts the node in this namespace off its peers.
    pub fn make(space: &Namespace, path: Path) -> Result<Self> {
        let both = format!("{{ {SYNC_PORT}, {MEMBERSHIP_PORT} }}");
        let (ports, directions) = match path {
            Path::SyncOut => (format!("{{ {SYNC_PORT} }}"), &["output"][..]),
            Path::Out => (both, &["output"][..]),
            Path::Both => (both, &["output", "input"][..]),
        };
        // A node dials its peers and is dialed by them: its own port is on either side.
        let chains = directions.iter().map(|direction| {
            format!(
                "chain {direction} {{ type filter hook {direction} priority 0; policy accept;\n\
                 udp dport {ports} drop\nudp sport {ports} drop\n}}\n"
            )
        });
        let rules = format!("table inet {TABLE} {{\n{}}}\n", chains.collect::<String>());
        run(Some(space), "nft", &["-f", "-"], &rules)?;
        Ok(Self {
            space: space.clone(),
        })
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // When the namespace is gone, so is the table.
        let _ = run(
            Some(&self.space),
            "nft",
            &["delete", "table", "inet", TABLE],
            "",
        );
    }
}
