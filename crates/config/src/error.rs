//! What can be wrong with a configuration, and what would be right.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use policy::{InvalidAddress, InvalidName, InvalidRuleSet, InvalidService, InvalidZones};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: {source}; name a configuration file that this user may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was read and is wrong. Displayed as one line per problem, in the file's order.
    #[error("{}", Lines(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that was found, in the file's order; at least one.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The problems that were found in the file; none when it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

struct Lines<'a>(&'a std::path::Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.1.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{problem}", self.0.display())?;
        }
        Ok(())
    }
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong. Displayed as `line:column: key: what, and what would be right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub at: Position,
    /// The key that it is about, from the top, such as `interface.inside.mtu`.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { ": " };
        one_line(
            f,
            &format!("{}: {}{separator}{}", self.at, self.key, self.fault),
        )
    }
}

/// Something that works and is hardly meant. Displayed like a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it is.
    pub at: Position,
    /// The key that it is about.
    pub key: String,
    /// What is doubtful.
    pub doubt: Doubt,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, &format!("{}: {}: {}", self.at, self.key, self.doubt))
    }
}

/// Writes what may quote the file: its control characters must neither break the line nor reach
/// a terminal.
fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            write!(f, "{c}")?;
        }
    }
    Ok(())
}

/// What a [`Warning`] is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A rule that can never match.
    #[error(
        "never decides, since rule \"{by}\" before it matches all that it matches; remove it or move it up"
    )]
    Covered {
        /// The earlier rule.
        by: String,
    },
    /// A source of one family with a destination of the other.
    #[error("never matches, since its source and its destination are of different IP versions")]
    Families,
    /// A control socket that everybody may write to.
    #[error("{mode:#o} lets every user of the machine control the node; leave the last digit 0")]
    WorldWritable {
        /// The mode.
        mode: u32,
    },
    /// No rules at all.
    #[error("there is no [[rule]], so every packet is denied; add rules")]
    NoRules,
}

/// What is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each variant's text says what it is; the fields are its blanks"
)]
pub enum Fault {
    // The text.
    #[error("{0}")]
    Syntax(String),
    #[error("the key {0} is there twice; remove one")]
    DuplicateKey(String),
    #[error("{0} is no value; write a text in quotes: \"{0}\"")]
    Unquoted(String),
    #[error("unknown key; known here are {known}")]
    UnknownKey { known: String },
    #[error("is missing; write for instance {example}")]
    Missing { example: &'static str },
    #[error("is {found}; write {expected}")]
    WrongType {
        found: &'static str,
        expected: &'static str,
    },

    // Single values.
    #[error("{value} is out of range; write a number from {min} to {max}")]
    OutOfRange { value: String, min: u64, max: u64 },
    #[error("{value} is out of range; write a duration from {min} to {max}")]
    DurationRange {
        value: String,
        min: String,
        max: String,
    },
    #[error("\"{value}\" is not known; write one of {choices}")]
    Choice { value: String, choices: String },
    #[error(
        "\"{0}\" is no duration; write a number and a unit: \"50us\", \"20ms\", \"2s\", \"5m\", \"1h\" or \"5d\""
    )]
    Duration(String),
    #[error("\"{0}\" is no name; use 1 to 63 letters, digits, '.', '_' and '-'")]
    Name(String),
    #[error("a name of {0} characters; use 1 to 63 printable ones")]
    RuleName(usize),
    #[error("{0} is no set of permissions; write an octal number from 0o000 to 0o777")]
    Mode(String),
    #[error("an empty path; name a file")]
    EmptyPath,
    #[error(
        "\"{0}\" is no address and port; write for instance \"10.99.0.1:7400\" or \"[fd00:99::1]:7400\""
    )]
    Socket(String),
    #[error(
        "{0} is the address or port of no particular node; write the node's own address and a port above 0"
    )]
    SocketUnusable(SocketAddr),
    #[error("{0}")]
    Network(#[from] InvalidAddress),
    #[error(
        "\"{0}\" is no interface address; write an address and its prefix length, such as \"10.1.0.1/24\" or \"fd00:1::1/64\""
    )]
    InterfaceAddress(String),
    #[error(
        "\"{0}\" is no network; write for instance \"10.254.0.0/16\", or \"0.0.0.0/0\" or \"::/0\" for a default route"
    )]
    RouteNetwork(String),
    #[error("\"{0}\" is no address; write the next router's, such as \"10.2.0.254\"")]
    RouteVia(String),
    #[error(transparent)]
    Service(#[from] InvalidService),

    // Node and cluster.
    #[error("\"{name}\" is not a member of the cluster; the members are {members}")]
    NotAMember { name: String, members: String },
    #[error(
        "has no meaning with distribution = \"ecmp\", where each node answers with its own addresses; leave it out"
    )]
    MacWithEcmp,
    #[error("\"{0}\" is no Ethernet address; write six bytes such as \"03:72:76:6c:00:01\"")]
    Mac(String),
    #[error("{given} is a unicast address; set the lowest bit of the first byte: {multicast}")]
    MacUnicast { given: String, multicast: String },
    #[error(
        "is the broadcast address, which every host listens to; choose another such as \"03:72:76:6c:00:01\""
    )]
    MacBroadcast,
    #[error("there is no [[cluster.member]]; list every node of the cluster")]
    NoMembers,
    #[error("{0} members; a cluster has at most 32")]
    TooManyMembers(usize),
    #[error("{backups} backups with {members} members; write 1 to {}", members - 1)]
    TooManyBackups { backups: u64, members: usize },
    #[error("{backups} backups in a cluster of one member; leave it out")]
    BackupsAlone { backups: u64 },
    #[error(
        "{dead_after} is less than three heartbeats of {heartbeat}; write at least \"{least}\""
    )]
    DeadAfter {
        dead_after: String,
        heartbeat: String,
        least: String,
    },
    #[error(
        "{given} acknowledgements cannot come from a backup group of {backups}; write \"all\" or at most {backups}"
    )]
    HoldAcks { given: u64, backups: usize },
    #[error("\"{value}\" is already used by {other}; give each its own")]
    Duplicate { value: String, other: String },
    #[error("\"{0}\" cannot be its own backup; name other members")]
    OwnBackup(String),
    #[error("an empty list; name at least one member, or leave the key out")]
    NoBackups,
    #[error("a cluster needs [pki] with ca, cert and key; `ravelin pki` makes them")]
    PkiMissing,

    // Cores and EAL.
    #[error("no worker; write for instance worker = [{{ cpu = 2 }}]")]
    NoWorkers,
    #[error(
        "cpu {cpu} is already used by {other}; give each its own cpu, or write shared = true to let them share"
    )]
    CpuTwice { cpu: u16, other: String },
    #[error(
        "a worker that spins would starve what shares cpu {cpu} with it; write idle = \"sleep\" or give it its own cpu"
    )]
    SpinShared { cpu: u16 },
    #[error("this machine has no cpu {cpu} online; its cpus are {online}")]
    CpuAbsent { cpu: u16, online: String },
    #[error("{given} is no power of two; write {below} or {above}")]
    PowerOfTwo { given: u64, below: u64, above: u64 },
    #[error("\"pa\" needs huge pages; set hugepages = true or iova = \"va\"")]
    IovaWithoutHugepages,
    #[error("\"{given}\" is set from {from}; leave it out here")]
    EalReserved { given: String, from: &'static str },
    #[error(
        "{given} packet buffers are fewer than the {least} that the queues alone hold; raise it or leave it out"
    )]
    TooFewMbufs { given: u64, least: u64 },
    #[error(
        "{given} packet buffers are fewer than the {queues} that the queues hold and the {held} that may be held; raise it to {least}, leave it out, or lower hold under [cores]"
    )]
    MbufsHeld {
        given: u64,
        queues: u64,
        held: u64,
        least: u64,
    },

    // Interfaces, routes, rules.
    #[error("there is no [[interface]]; describe at least one")]
    NoInterfaces,
    #[error(
        "\"{0}\" is no device; write a PCI address such as \"0000:01:00.0\" or a DPDK device such as \"net_af_packet0,iface=eth1\""
    )]
    Device(String),
    #[error("{0}")]
    Zones(#[from] InvalidZones),
    #[error("{address} is the {what} of its network; choose a host's address")]
    NotAHost { address: IpNet, what: &'static str },
    #[error("{0} is not an address that an interface can have; choose a unicast address")]
    NotUnicast(IpNet),
    #[error(
        "{given} overlaps with {other} of \"{interface}\"; give each interface its own network"
    )]
    Overlap {
        given: IpNet,
        other: IpNet,
        interface: String,
    },
    #[error(
        "{mtu} is below the 1280 that IPv6 needs (RFC 8200, section 5); raise it or leave the IPv6 addresses out"
    )]
    MtuBelowIpv6 { mtu: u64 },
    #[error(
        "{socket} of member \"{member}\" is the address of a packet interface, which the kernel does not see; use another network for the cluster's own traffic"
    )]
    SyncOnInterface { socket: SocketAddr, member: String },
    #[error("{via} is on no connected network; the networks are {connected}")]
    ViaUnreachable { via: IpAddr, connected: String },
    #[error("{0} is this node's own address; write the next router's")]
    ViaSelf(IpAddr),
    #[error("{via} is not of the IP version of {to}; write a router of the same version")]
    ViaFamily { to: IpNet, via: IpAddr },
    #[error("{to} is connected to \"{interface}\" already; remove the route")]
    RouteConnected { to: IpNet, interface: String },
    #[error("there is no interface \"{given}\"; the interfaces are {interfaces}")]
    NeighbourInterface { given: String, interfaces: String },
    #[error("\"{0}\" is no address; write the neighbour's, such as \"10.2.0.254\"")]
    NeighbourAddress(String),
    #[error("{address} is on no network of \"{interface}\"; its networks are {connected}")]
    NeighbourElsewhere {
        address: IpAddr,
        interface: String,
        connected: String,
    },
    #[error("{0} is this node's own address; write the neighbour's")]
    NeighbourSelf(IpAddr),
    #[error("{0} is no station's address; write the neighbour's own, whose first byte is even")]
    NeighbourMac(String),
    #[error("{given} neighbours; there may be {most}")]
    TooManyNeighbours { given: usize, most: usize },
    #[error("zone \"{zone}\" has no interface; the zones are {zones}")]
    UnknownZone { zone: String, zones: String },
    #[error("there is no agent \"{agent}\"; the agents are {agents}")]
    UnknownAgent { agent: String, agents: String },
    #[error("there is no agent \"{0}\"; describe it in an [[agent]] of the node's configuration")]
    NoAgents(String),
    #[error("a rule that lets nothing pass has nothing for an agent; leave it out")]
    AgentOfDenied,
    #[error("{0} agents; a node has at most {max}", max = crate::AGENTS_MAX)]
    TooManyAgents(usize),
    #[error(
        "nobody is started who could run as this user; name a command, or leave the user to who starts the agent"
    )]
    UserOfNone,
    #[error("an empty command; name a program, or leave the key out when somebody else starts it")]
    EmptyCommand,
    #[error(
        "\"{0}\" is no absolute path; write for instance \"/usr/lib/ravelin/ravelin-agent-ftp\""
    )]
    CommandPath(String),
    #[error(transparent)]
    Rules(#[from] InvalidRuleSet),
    #[error(transparent)]
    Identity(#[from] InvalidName),
    #[error("\"{0}\" is no network; write those that are never blocked, such as \"10.0.0.0/8\"")]
    ExceptNetwork(String),
    #[error(
        "has nothing to count; write scan_ports or flood_syns above 0, or leave the section out"
    )]
    DetectNothing,
    #[error(
        "a file of rules has only [[rule]] and [sync]; {key} belongs into the configuration of the node"
    )]
    NotOfRules { key: String },
    #[error(
        "there is no [[rule]], so every packet would be denied; to mean that, write one rule with action = \"deny\""
    )]
    NoRulesInFile,
    #[error(
        "an empty list matches nothing; name what it shall match, or leave the key out to match everything"
    )]
    EmptyList,
}
