//! Two routers that spread flows over the nodes, for clusters with `distribution = "ecmp"`: one
//! between the client's side and the nodes, one between the nodes and the server's side.
//!
//! ```text
//!  client .10 ─┐ br-client  ┌─────┐ br-in          ┌─ in0  n1  out0 ─┐          br-out ┌──────┐ br-server
//!              ├────────────┤ rin ├────────────────┼─ in0  n2  out0 ─┼────────────────┤ rout ├─── ...
//!  gen    .20 ─┘ 10.1.0.0/24└─────┘ 10.11.0.0/24   └─ in0  n3  out0 ─┘  10.12.0.0/24  └──────┘ 10.2.0.0/24
//!                fd00:1::/64        fd00:11::/64                        fd00:12::/64           fd00:2::/64
//! ```
//!
//! Node `i` is `.(100 + i)` on both transit networks, a router `.254`; hosts have the addresses that they
//! have without routers. Each router hashes a flow's addresses and ports by itself, so the two
//! directions of a flow mostly go through different nodes. What a routing protocol with BFD would
//! do when a node fails, [`Topology::set_paths`] does when it is called.

use crate::program::ip_batch;
use crate::topology::Topology;
use crate::{Error, Namespace, Result};

/// How the nodes of a cluster get their packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Distribution {
    /// Every node gets every frame.
    #[default]
    Filter,
    /// Routers spread flows over the nodes' own addresses.
    Ecmp,
}

/// The last byte of node `index`'s address on the transit networks, as it is written.
pub(crate) fn node_host(index: usize) -> usize {
    100 + index
}

/// The last byte of a router's address on its transit network.
pub(crate) const ROUTER_HOST: u8 = 254;

impl Topology {
    /// The namespace of the router on the client's side.
    pub fn router_inside(&self) -> Namespace {
        self.id().namespace("rin")
    }

    /// The namespace of the router on the server's side.
    pub fn router_outside(&self) -> Namespace {
        self.id().namespace("rout")
    }

    /// Makes both routers, with paths through all nodes.
    pub(crate) fn build_routers(&self) -> Result<()> {
        for (space, segment, [hosts, nodes]) in [
            (self.router_inside(), 1, ["br-client", "br-in"]),
            (self.router_outside(), 2, ["br-server", "br-out"]),
        ] {
            space.create()?;
            let name = format!("r{segment}");
            let mac = |side: u8| format!("02:72:76:{segment:02x}:02:{side:02x}");
            self.plug(&space, "hosts", hosts, &format!("{name}-hosts"), &mac(1))?;
            self.plug(&space, "nodes", nodes, &format!("{name}-nodes"), &mac(2))?;
            ip_batch(
                &space,
                &format!(
                    "link set lo up\n\
                     link set hosts up\n\
                     link set nodes up\n\
                     address add 10.{segment}.0.1/24 dev hosts\n\
                     address add fd00:{segment}::1/64 dev hosts nodad\n\
                     address add 10.1{segment}.0.{ROUTER_HOST}/24 dev nodes\n\
                     address add fd00:1{segment}::{ROUTER_HOST}/64 dev nodes nodad\n"
                ),
            )?;
            space.sysctl("ipv4/ip_forward", "1")?;
            space.sysctl("ipv6/conf/all/forwarding", "1")?;
            // By ports as well as addresses: else all connections of the client take one path.
            space.sysctl("ipv4/fib_multipath_hash_policy", "1")?;
            space.sysctl("ipv6/fib_multipath_hash_policy", "1")?;
            // Redirects to a better path would tell the hosts about the other router's nodes.
            space.sysctl("ipv4/conf/all/send_redirects", "0")?;
        }
        let all: Vec<usize> = (1..=self.nodes()).collect();
        self.set_paths(&all, &all)
    }

    /// Spreads what comes from inside over `inside`, and what comes from outside over `outside`
    /// (nodes by index from 1). Flows may change their node by it, as with any change of an ECMP group.
    ///
    /// # Errors
    /// When a list is empty or a node unknown, or the kernel refuses the route.
    pub fn set_paths(&self, inside: &[usize], outside: &[usize]) -> Result<()> {
        for (space, from, to, nodes) in [
            (self.router_inside(), 1, 2, inside),
            (self.router_outside(), 2, 1, outside),
        ] {
            if nodes.is_empty() || nodes.iter().any(|n| !(1..=self.nodes()).contains(n)) {
                return Err(Error::InvalidPaths(nodes.to_vec()));
            }
            let hops = |prefix: &str| -> String {
                let hop = |n: &usize| format!(" nexthop via {prefix}{}", node_host(*n));
                nodes.iter().map(hop).collect()
            };
            let v4 = hops(&format!("10.1{from}.0."));
            let v6 = hops(&format!("fd00:1{from}::"));
            ip_batch(
                &space,
                &format!(
                    "route replace 10.{to}.0.0/24{v4}\n\
                     route replace fd00:{to}::/64{v6}\n"
                ),
            )?;
        }
        Ok(())
    }
}
