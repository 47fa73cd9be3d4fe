//! Every key that the parser knows, by section.

/// The keys of each section, as `docs/configuration.md` describes them. A section in double
/// brackets may be there several times.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", TOP),
    ("[node]", NODE),
    ("[cluster]", CLUSTER),
    ("[[cluster.member]]", MEMBER),
    ("[pki]", PKI),
    ("[eal]", EAL),
    ("[cores]", CORES),
    ("cores.worker", WORKER),
    ("[control]", CONTROL),
    ("[agents]", AGENTS),
    ("[[agent]]", AGENT),
    ("[flows]", FLOWS),
    ("[timeouts]", TIMEOUTS),
    ("[tcp]", TCP),
    ("[detect]", DETECT),
    ("[[interface]]", INTERFACE),
    ("[[route]]", ROUTE),
    ("[[neighbour]]", NEIGHBOUR),
    ("[[rule]]", RULE),
    ("[sync]", SYNC),
    ("sync", DELAYED),
];

pub(crate) const TOP: &[&str] = &[
    "node",
    "cluster",
    "pki",
    "eal",
    "cores",
    "control",
    "agents",
    "agent",
    "flows",
    "timeouts",
    "tcp",
    "detect",
    "interface",
    "route",
    "neighbour",
    "rule",
    "sync",
];
pub(crate) const NODE: &[&str] = &["name"];
pub(crate) const CLUSTER: &[&str] = &[
    "name",
    "distribution",
    "mac",
    "backups",
    "heartbeat",
    "dead_after",
    "join_wait",
    "hold_deadline",
    "hold_at_deadline",
    "hold_acks",
    "alone",
    "resync_rate",
    "digest_every",
    "member",
];
pub(crate) const MEMBER: &[&str] = &["name", "id", "sync", "membership", "weight", "backups"];
pub(crate) const PKI: &[&str] = &["ca", "cert", "key"];
pub(crate) const EAL: &[&str] = &[
    "hugepages",
    "memory_mb",
    "file_prefix",
    "iova",
    "extra",
    "mbufs",
];
pub(crate) const CORES: &[&str] = &[
    "worker",
    "sync",
    "membership",
    "idle",
    "idle_sleep",
    "burst",
    "rx_descriptors",
    "tx_descriptors",
    "table",
    "hold",
    "realtime",
    "shared",
];
pub(crate) const WORKER: &[&str] = &[
    "cpu",
    "idle",
    "idle_sleep",
    "burst",
    "rx_descriptors",
    "tx_descriptors",
    "table",
    "hold",
];
pub(crate) const CONTROL: &[&str] = &["socket", "mode", "group"];
pub(crate) const AGENTS: &[&str] = &["socket", "mode", "group"];
pub(crate) const AGENT: &[&str] = &["name", "command", "user", "when_gone", "queue"];
pub(crate) const FLOWS: &[&str] = &["capacity", "tombstone", "refresh", "verify_checksums"];
pub(crate) const TIMEOUTS: &[&str] = &[
    "tcp_syn_sent",
    "tcp_syn_received",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_closing",
    "tcp_time_wait",
    "tcp_reset",
    "udp_new",
    "udp_stream",
    "icmp",
    "other_new",
    "other_stream",
];
pub(crate) const TCP: &[&str] = &["strict", "pickup"];
pub(crate) const INTERFACE: &[&str] =
    &["name", "device", "zone", "mtu", "vlan", "ping", "addresses"];
pub(crate) const ROUTE: &[&str] = &["to", "via"];
pub(crate) const NEIGHBOUR: &[&str] = &["interface", "address", "mac"];
pub(crate) const RULE: &[&str] = &[
    "name",
    "from",
    "to",
    "source",
    "destination",
    "user",
    "group",
    "service",
    "action",
    "log",
    "sync",
    "agent",
];
pub(crate) const DETECT: &[&str] = &["scan_ports", "flood_syns", "window", "block_for", "except"];
pub(crate) const SYNC: &[&str] = &["tcp", "udp", "icmp", "other", "expectations", "marks"];
/// The keys of a file of rules alone, as `ravelin policy load` takes it.
pub(crate) const RULES_FILE: &[&str] = &["rule", "sync"];
pub(crate) const DELAYED: &[&str] = &["delayed"];
