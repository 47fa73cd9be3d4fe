//! Requests and answers about common state: what every node of the cluster has.
//!
//! Each changes the state of all nodes, whichever is asked; the answer comes once every living node
//! has the change, or after a deadline with the names of those that have not confirmed it. Those
//! get it as soon as they can be reached.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Proto;

/// The longest text of rules in bytes.
pub const POLICY_BYTES_MAX: usize = 512 * 1024;

/// About users who are logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum UserRequest {
    /// A user is at an address from now on; whoever was there before is not. Answered by
    /// [`Change`].
    Login {
        /// The user.
        name: String,
        /// Where the user's packets come from.
        address: IpAddr,
        /// The groups that the user is in.
        #[serde(default)]
        groups: Vec<String>,
        /// For how many milliseconds; without it until the logout.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// A user has left. Answered by [`Change`].
    Logout {
        /// The user; without it whoever is at the address.
        #[serde(default)]
        name: Option<String>,
        /// The address; without it wherever the user is.
        #[serde(default)]
        address: Option<IpAddr>,
    },
    /// Who is where? Answered by a list of [`LoggedIn`].
    List,
}

/// About networks that are blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum BlockRequest {
    /// Nothing from or to a network passes any more. Answered by [`Change`].
    Add {
        /// The network, or one host.
        net: IpNet,
        /// For how many milliseconds; without it until it is deleted.
        #[serde(default)]
        for_ms: Option<u64>,
        /// Why, for people.
        #[serde(default)]
        note: String,
    },
    /// It is not blocked any more. Answered by [`Change`].
    Del {
        /// The network as it was added.
        net: IpNet,
    },
    /// What is blocked? Answered by a list of [`Blocked`].
    List,
}

/// About the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyRequest {
    /// These rules are in force from now on. Answered by [`PolicyLoaded`].
    Load {
        /// `[[rule]]` and `[sync]` as in a configuration; at most [`POLICY_BYTES_MAX`] bytes.
        text: String,
        /// What the text is called, for example its file.
        source: String,
    },
    /// Which rules are in force? Answered by [`PolicyShown`].
    Show,
}

/// About related connections that are expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExpectRequest {
    /// Which are? Answered by a list of [`Expected`].
    List,
}

/// What became of a change of common state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Change {
    /// How many entries were changed or deleted.
    pub entries: u64,
    /// What the change replaced, in words; null when it replaced nothing.
    pub replaced: Option<String>,
    /// The nodes that have it, by name, the one that was asked first.
    pub on: Vec<String>,
    /// Living nodes that had not confirmed it at the deadline.
    pub lacking: Vec<String>,
}

/// What became of rules that were loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyLoaded {
    /// The number of the new rules.
    pub generation: u32,
    /// How many there are.
    pub rules: u64,
    /// What works and is hardly meant, with its place in the text.
    pub warnings: Vec<String>,
    /// The nodes where they are in force, by name, the one that was asked first.
    pub on: Vec<String>,
    /// Living nodes that had not confirmed them at the deadline.
    pub lacking: Vec<String>,
    /// Nodes that could not use them and keep the rules that they had.
    pub refused: Vec<PolicyRefusal>,
}

/// A node that could not use new rules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyRefusal {
    /// The node.
    pub node: String,
    /// Why, with the place in the text.
    pub error: String,
}

/// The rules that are in force on the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyShown {
    /// Their number.
    pub generation: u32,
    /// Where they come from: the configuration's file, or what the loaded text was called.
    pub source: String,
    /// The node on which they were loaded; null for those of the configuration.
    pub loaded_on: Option<String>,
    /// The text that was loaded; null for those of the configuration.
    pub text: Option<String>,
    /// Why this node could not use newer rules; null when it has the newest. (An answer with a
    /// field named `error` would be an error line.)
    pub refusal: Option<String>,
    /// Every node that has said which rules it has.
    pub nodes: Vec<PolicyNode>,
}

/// Which rules a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyNode {
    /// The node.
    pub node: String,
    /// The generation that is in force there.
    pub generation: u32,
    /// Why it could not use a newer one; null when it has the newest that it knows.
    pub error: Option<String>,
}

/// A user who is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedIn {
    /// The user.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The user's groups.
    pub groups: Vec<String>,
    /// For how many more seconds; null until the logout.
    pub left_s: Option<u64>,
    /// The node on which the login was said.
    pub node: String,
}

/// A network that is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The network.
    pub net: IpNet,
    /// Who wanted it: `operator`, `syn-scan`, `syn-flood`, `agent`.
    pub reason: String,
    /// Why, for people.
    pub note: String,
    /// For how many more seconds; null until it is deleted.
    pub left_s: Option<u64>,
    /// The node that has set it.
    pub node: String,
}

/// A related connection that is expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its protocol.
    pub proto: Proto,
    /// Where it comes from; null for anywhere.
    pub src: Option<IpAddr>,
    /// Where it goes to.
    pub dst: IpAddr,
    /// The port that it goes to.
    pub dport: u16,
    /// The zone that it comes from.
    pub zone_from: String,
    /// The zone that it goes to.
    pub zone_to: String,
    /// The rule that allowed the connection that announced it.
    pub rule: String,
    /// How it will be replicated: `ack`, `async`, `delayed`, `none`.
    pub sync: String,
    /// Whether it is expected once.
    pub once: bool,
    /// The connection that announced it.
    pub parent: String,
    /// For how many more seconds; null until it is used.
    pub left_s: Option<u64>,
    /// The node that announced it.
    pub node: String,
}
