//! The machine's inside: three bridges in one namespace, nodes, a client, a server, a traffic
//! generator and its sink in others.
//!
//! ```text
//!  client .10 ─┐                 ┌─ in0  n1  out0 ─┐                 ┌─ server .10
//!              ├─ br-in ─────────┼─ in0  n2  out0 ─┼──────── br-out ─┤
//!  gen    .20 ─┘  10.1.0.0/24    └─ in0  n3  out0 ─┘  10.2.0.0/24    └─ sink   .20
//!                 fd00:1::/64       sync0 │           fd00:2::/64
//!                                      br-sync 10.99.0.0/24
//! ```
//!
//! `in0` and `out0` have no addresses: they belong to DPDK. The cluster's own addresses (.1) are
//! answered for by the nodes, with a multicast MAC, so that the bridges bring every frame for the
//! cluster to every node. For `ecmp` there are routers on both sides: see [`crate::routers`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::namespace;
use crate::program::{ip, ip_batch, run};
use crate::routers::Distribution;
use crate::state::{LabId, Lock, StateDir};
use crate::{Error, Namespace, Result};

/// The MAC that the nodes share on both segments; the group bit makes the bridges flood it.
pub const CLUSTER_MAC: &str = "03:72:76:6c:00:01";

/// The destination MAC that testpmd's flow generator has built in; br-in rewrites it to
/// [`CLUSTER_MAC`] on entry.
const FLOWGEN_MAC: &str = "00:01:02:03:04:01";

const MTU: u32 = 1500;

/// What a veth must not do, because nobody finishes it on the way into an AF_PACKET ring: leave
/// checksums open, merge or split segments.
const OFFLOADS_OFF: [&str; 16] = [
    "tx",
    "off",
    "tso",
    "off",
    "gso",
    "off",
    "gro",
    "off",
    "sg",
    "off",
    "rxvlan",
    "off",
    "txvlan",
    "off",
    "tx-udp-segmentation",
    "off",
];

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The name of the lab.
    pub id: LabId,
    /// How many nodes, 2 to 16.
    pub nodes: usize,
    /// Whether routers stand between the hosts and the nodes.
    pub distribution: Distribution,
}

impl Plan {
    /// A lab of this name and size.
    pub fn new(id: &str, nodes: usize) -> Result<Self> {
        if !(2..=16).contains(&nodes) {
            return Err(Error::InvalidSize(nodes));
        }
        Ok(Self {
            id: LabId::new(id)?,
            nodes,
            distribution: Distribution::Filter,
        })
    }
}

/// A lab that is up. Dropping it takes it down, unless it was told to [`Topology::keep`].
#[derive(Debug)]
pub struct Topology {
    plan: Plan,
    state: StateDir,
    /// Held as long as this process works on the lab.
    lock: Option<Lock>,
    kept: bool,
}

impl Topology {
    /// Builds it; what is left of an earlier lab of the same name is removed first.
    pub fn up(plan: Plan) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let state = StateDir::of(&plan.id);
        let lock = state.lock()?;
        remove_all(&plan.id, &state)?;
        state.create()?;
        // From here on a failure drops the value, and with it what was built.
        let topology = Self {
            plan,
            state,
            lock: Some(lock),
            kept: false,
        };
        topology.build()?;
        Ok(topology)
    }

    /// Leaves everything in place when this value is dropped; `lab down` removes it.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// The lab's name.
    pub fn id(&self) -> &LabId {
        &self.plan.id
    }

    /// How many nodes.
    pub fn nodes(&self) -> usize {
        self.plan.nodes
    }

    /// How the nodes get their packets.
    pub fn distribution(&self) -> Distribution {
        self.plan.distribution
    }

    /// Where the lab keeps its state, keys and sockets.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The namespace of node `index`, 1 to [`Topology::nodes`].
    pub fn node(&self, index: usize) -> Namespace {
        self.plan.id.namespace(&format!("n{index}"))
    }

    /// The namespace of the client, inside: 10.1.0.10, fd00:1::10.
    pub fn client(&self) -> Namespace {
        self.plan.id.namespace("client")
    }

    /// The namespace of the server, outside: 10.2.0.10, fd00:2::10.
    pub fn server(&self) -> Namespace {
        self.plan.id.namespace("server")
    }

    /// The namespace of the traffic generator, inside: 10.1.0.20.
    pub fn generator(&self) -> Namespace {
        self.plan.id.namespace("gen")
    }

    /// The namespace that the generated traffic ends in, outside: 10.2.0.20.
    pub fn sink(&self) -> Namespace {
        self.plan.id.namespace("sink")
    }

    /// The namespace that holds the bridges.
    pub fn switch(&self) -> Namespace {
        self.plan.id.namespace("sw")
    }

    /// A folder of this name for logs or data within the lab's state, made when missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.state.path().join(name);
        std::fs::create_dir_all(&path).map_err(Error::file("make", &path))?;
        Ok(path)
    }

    /// Takes it down and says whether that worked, which drop cannot.
    pub fn down(mut self) -> Result<()> {
        self.kept = true;
        let removed = remove_all(&self.plan.id, &self.state);
        self.lock = None;
        removed
    }

    fn build(&self) -> Result<()> {
        let switch = self.switch();
        switch.create()?;
        // Before the first link: what comes later takes it over.
        no_ipv6(&switch)?;
        no_bridge_netfilter(&switch)?;
        let mut bridges = String::new();
        let ecmp = self.plan.distribution == Distribution::Ecmp;
        let beside_routers: &[&str] = if ecmp {
            &["br-client", "br-server"]
        } else {
            &[]
        };
        for bridge in ["br-in", "br-out", "br-sync"].iter().chain(beside_routers) {
            let _ = writeln!(
                bridges,
                "link add {bridge} mtu {MTU} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            );
            let _ = writeln!(bridges, "link set {bridge} up");
        }
        ip_batch(&switch, &bridges)?;

        for index in 1..=self.plan.nodes {
            let node = self.node(index);
            node.create()?;
            no_ipv6(&node)?;
            node.sysctl("ipv4/ip_forward", "0")?;
            let mac = |segment: u8| format!("02:72:76:{segment:02x}:00:{index:02x}");
            self.plug(&node, "in0", "br-in", &format!("n{index}-in"), &mac(1))?;
            self.plug(&node, "out0", "br-out", &format!("n{index}-out"), &mac(2))?;
            self.plug(
                &node,
                "sync0",
                "br-sync",
                &format!("n{index}-sync"),
                &mac(3),
            )?;
            ip_batch(
                &node,
                &format!(
                    "link set lo up\n\
                     link set in0 arp off up\n\
                     link set out0 arp off up\n\
                     link set sync0 up\n\
                     address add 10.99.0.{index}/24 dev sync0\n"
                ),
            )?;
        }
        let (inside, outside) = if ecmp {
            self.build_routers()?;
            ("br-client", "br-server")
        } else {
            ("br-in", "br-out")
        };
        self.endpoint(&self.client(), "client", inside, 1, 10)?;
        self.endpoint(&self.server(), "server", outside, 2, 10)?;
        self.endpoint(&self.generator(), "gen", inside, 1, 20)?;
        self.endpoint(&self.sink(), "sink", outside, 2, 20)?;
        self.rewrite_flowgen_mac()
    }

    /// A namespace with one interface `eth0`, and the cluster as its default router.
    fn endpoint(
        &self,
        space: &Namespace,
        port: &str,
        bridge: &str,
        segment: u8,
        host: u8,
    ) -> Result<()> {
        space.create()?;
        space.sysctl("ipv4/ip_forward", "0")?;
        space.sysctl("ipv6/conf/all/accept_ra", "0")?;
        self.plug(
            space,
            "eth0",
            bridge,
            port,
            &format!("02:72:76:{segment:02x}:01:{host:02x}"),
        )?;
        ip_batch(
            space,
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 address add 10.{segment}.0.{host}/24 dev eth0\n\
                 address add fd00:{segment}::{host}/64 dev eth0 nodad\n\
                 route add default via 10.{segment}.0.1\n\
                 route add default via fd00:{segment}::1\n"
            ),
        )
    }

    /// A veth from the bridge's port into the namespace; on the segments that DPDK reads, without
    /// offloads on either end.
    pub(crate) fn plug(
        &self,
        space: &Namespace,
        device: &str,
        bridge: &str,
        port: &str,
        mac: &str,
    ) -> Result<()> {
        let switch = self.switch();
        ip_batch(
            &switch,
            &format!(
                "link add {port} mtu {MTU} type veth peer name {device} mtu {MTU} address {mac} netns {}\n\
                 link set {port} master {bridge}\n\
                 link set {port} up\n",
                space.name()
            ),
        )?;
        if bridge == "br-sync" {
            // Kernel to kernel: sockets on both sides finish what the veth leaves open, and QUIC
            // sends its segments in one call as on a real interface.
            return Ok(());
        }
        for (end, device) in [(&switch, port), (space, device)] {
            let mut args = vec!["-K", device];
            args.extend(OFFLOADS_OFF);
            run(Some(end), "ethtool", &args, "")?;
        }
        Ok(())
    }

    /// testpmd's flow generator sends to a MAC of its own and cannot be told another.
    fn rewrite_flowgen_mac(&self) -> Result<()> {
        let rules = format!(
            "table bridge ravelin_lab {{\n\
             chain flowgen {{\n\
             type filter hook prerouting priority dstnat\n\
             ether daddr {FLOWGEN_MAC} ether daddr set {CLUSTER_MAC}\n\
             }}\n\
             }}\n"
        );
        run(Some(&self.switch()), "nft", &["-f", "-"], &rules).map(drop)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_all(&self.plan.id, &self.state)
        {
            eprintln!(
                "lab: what is left of `{}` was not removed ({error}); try `lab down`",
                self.plan.id
            );
        }
    }
}

/// Removes whatever there is of the lab of this name: its processes, links, namespaces and state.
/// Fine when there is nothing.
pub fn down(id: &LabId) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let state = StateDir::of(id);
    let _lock = state.lock()?;
    remove_all(id, &state)
}

/// The namespaces that exist of the lab of this name.
pub fn namespaces(id: &LabId) -> Result<Vec<Namespace>> {
    let names = namespace::list()?;
    Ok(names
        .into_iter()
        .filter(|name| id.owns(name))
        .map(Namespace::named)
        .collect())
}

fn remove_all(id: &LabId, state: &StateDir) -> Result<()> {
    state.kill_all()?;
    let spaces = namespaces(id)?;
    // The kernel takes a namespace's links away some time after its name is gone, and not before
    // the last process has left it. Removed by hand, they are gone when this returns.
    if let Some(switch) = spaces.iter().find(|space| **space == id.namespace("sw")) {
        remove_links(switch)?;
    }
    for space in &spaces {
        space.delete()?;
        // What EAL leaves behind for its file prefix, which is the namespace's name.
        let runtime = Path::new("/run/dpdk").join(space.name());
        match std::fs::remove_dir_all(&runtime) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &runtime)(error));
            }
            _ => {}
        }
    }
    state.remove()
}

fn remove_links(switch: &Namespace) -> Result<()> {
    let links = ip(&["-n", switch.name(), "-o", "link", "show"])?;
    // "7: n1-in@if2: <BROADCAST,...": the second word, up to the @.
    let names = links.lines().filter_map(|line| {
        let name = line.split_whitespace().nth(1)?.trim_end_matches(':');
        Some(name.split('@').next().unwrap_or(name))
    });
    let batch: String = names
        .filter(|&name| name != "lo")
        .map(|name| format!("link del {name}\n"))
        .collect();
    ip_batch(switch, &batch)
}

/// The bridges bring every frame, the malformed ones too: with br_netfilter loaded the kernel
/// would run them through its IP layer, which drops what it does not like before a node sees it.
fn no_bridge_netfilter(space: &Namespace) -> Result<()> {
    for layer in ["ip", "ip6", "arp"] {
        let key = format!("bridge/bridge-nf-call-{layer}tables");
        // Where the module is not loaded there is nothing to turn off.
        if space.enter(|| Path::new("/proc/sys/net").join(&key).exists())? {
            space.sysctl(&key, "0")?;
        }
    }
    Ok(())
}

fn no_ipv6(space: &Namespace) -> Result<()> {
    // A kernel without IPv6 has nothing to turn off.
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    space.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    space.sysctl("ipv6/conf/default/disable_ipv6", "1")
}
