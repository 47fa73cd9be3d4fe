//! What common state says: the values of the map.

use std::fmt;

use super::key::{CommonKey, CommonKind};
use super::map::CommonError;
use super::shift::SeqShift;
use crate::clock::Stamp;
use crate::flow::SyncMode;
use crate::key::FlowKey;

/// The longest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 256;
/// The longest name of a user or group, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The most groups of one user.
pub const GROUPS_MAX: usize = 32;
/// The longest text of a policy, in bytes.
pub const POLICY_BYTES_MAX: usize = 512 << 10;
/// The longest error that a node tells of a policy, in bytes.
pub const ERROR_BYTES_MAX: usize = 4 << 10;
/// How many packet counters a lease has. Leases start at multiples of it.
pub const LEASE_LEN: u64 = 1 << 24;

/// Why a network is blocked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum BlockReason {
    /// An operator said so.
    Operator = 0,
    /// It asked for many ports.
    SynScan = 1,
    /// It opened many connections without answering.
    SynFlood = 2,
    /// A protocol agent said so.
    Agent = 3,
}

impl BlockReason {
    /// The reason as people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::SynScan => "syn-scan",
            Self::SynFlood => "syn-flood",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for BlockReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network whose packets are dropped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block {
    /// Why.
    pub reason: BlockReason,
    /// What the operator or agent had to say about it.
    pub note: String,
}

/// Who is logged in at the key's address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

/// A related connection to expect, such as a protocol's data connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Expectation {
    /// The connection that announced it.
    pub parent: FlowKey,
    /// The zone that it comes from.
    pub zone_from: u8,
    /// The zone that it goes to.
    pub zone_to: u8,
    /// The rule that lets its parent pass, and so lets it pass as well.
    pub rule: u32,
    /// How its changes are replicated.
    pub sync: SyncMode,
    /// The mark that it gets.
    pub mark: u32,
    /// Whether the first connection uses it up.
    pub once: bool,
}

/// How a tunnel's packets are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// AES-128-GCM with a 16-byte tag (RFC 4106).
    Aes128Gcm = 0,
    /// AES-256-GCM with a 16-byte tag (RFC 4106).
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The length of a key with its salt, in bytes (RFC 4106, section 8.1; RFC 7634, section 2).
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 20,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 36,
        }
    }
}

/// Key material: what prints or logs it shows no byte of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes as secret.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for whoever encrypts with them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A VPN tunnel's parameters: a pair of security associations.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tunnel {
    /// The gateway's endpoint: address and UDP port; port 0 is ESP without UDP.
    pub local: ([u8; 16], u16),
    /// The other gateway's endpoint, likewise.
    pub remote: ([u8; 16], u16),
    /// The index of the association of incoming packets.
    pub spi_in: u32,
    /// The index of the association of outgoing packets.
    pub spi_out: u32,
    /// How packets are encrypted.
    pub suite: Suite,
    /// The key of incoming packets with its salt.
    pub key_in: Secret,
    /// The key of outgoing packets with its salt.
    pub key_out: Secret,
    /// How often the keys were replaced. Counters start anew with each, so the leases of the keys
    /// before are deleted with them.
    pub rekeyed: u32,
}

/// Packet counters of a tunnel that one node may use: `from..to`. With these suites a counter that
/// is used twice under one key breaks the encryption.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lease {
    /// The first counter.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

/// A rule set, as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyText {
    /// Greater than that of every rule set before it.
    pub generation: u32,
    /// TOML: `[[rule]]` and what belongs to it.
    pub text: String,
    /// What the operator had to say about it.
    pub note: String,
}

/// Which rule set a node has. The node itself writes it, so that whoever loads a policy learns what
/// became of it there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyAt {
    /// The rule set that is in force there.
    pub generation: u32,
    /// The greatest rule set that it has tried; greater than `generation` when it could not use it.
    pub tried: u32,
    /// Why it could not.
    pub error: Option<String>,
}

/// What an entry of common state says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CommonValue {
    /// Under [`CommonKey::Block`].
    Block(Block),
    /// Under [`CommonKey::User`].
    User(User),
    /// Under [`CommonKey::Expectation`].
    Expectation(Expectation),
    /// Under [`CommonKey::Tunnel`].
    Tunnel(Tunnel),
    /// Under [`CommonKey::Lease`].
    Lease(Lease),
    /// Under [`CommonKey::Policy`].
    Policy(PolicyText),
    /// Under [`CommonKey::PolicyAt`].
    PolicyAt(PolicyAt),
    /// Under [`CommonKey::SeqShift`].
    SeqShift(SeqShift),
}

impl CommonValue {
    /// What kind of key it goes with.
    pub const fn kind(&self) -> CommonKind {
        match self {
            Self::Block(_) => CommonKind::Block,
            Self::User(_) => CommonKind::User,
            Self::Expectation(_) => CommonKind::Expectation,
            Self::Tunnel(_) => CommonKind::Tunnel,
            Self::Lease(_) => CommonKind::Lease,
            Self::Policy(_) => CommonKind::Policy,
            Self::PolicyAt(_) => CommonKind::PolicyAt,
            Self::SeqShift(_) => CommonKind::SeqShift,
        }
    }

    /// Whether it may stand under `key`.
    ///
    /// # Errors
    /// When it is of another kind, or a part of it is longer than allowed.
    pub fn check(&self, key: &CommonKey) -> Result<(), CommonError> {
        if self.kind() != key.kind() {
            return Err(CommonError::Kind {
                key: key.kind(),
                value: self.kind(),
            });
        }
        let within = |what: &'static str, len: usize, max: usize| {
            if len > max {
                return Err(CommonError::Length { what, len, max });
            }
            Ok(())
        };
        match self {
            Self::Block(block) => within("note", block.note.len(), NOTE_BYTES_MAX),
            Self::User(user) => {
                if user.name.is_empty() {
                    return Err(CommonError::Nameless);
                }
                within("user name", user.name.len(), NAME_BYTES_MAX)?;
                within("list of groups", user.groups.len(), GROUPS_MAX)?;
                let mut names = user.groups.iter();
                names.try_for_each(|group| within("group name", group.len(), NAME_BYTES_MAX))
            }
            Self::Expectation(_) | Self::SeqShift(_) => Ok(()),
            Self::Tunnel(tunnel) => {
                let expected = tunnel.suite.key_bytes();
                let wrong = [&tunnel.key_in, &tunnel.key_out]
                    .into_iter()
                    .find(|key| key.0.len() != expected);
                match wrong {
                    Some(key) => Err(CommonError::KeyLength {
                        len: key.0.len(),
                        expected,
                    }),
                    None => Ok(()),
                }
            }
            Self::Lease(lease) if lease.from >= lease.to => Err(CommonError::EmptyLease(*lease)),
            Self::Lease(_) => Ok(()),
            Self::Policy(policy) => {
                within("note", policy.note.len(), NOTE_BYTES_MAX)?;
                within("policy", policy.text.len(), POLICY_BYTES_MAX)
            }
            Self::PolicyAt(at) => {
                let len = at.error.as_ref().map_or(0, String::len);
                within("policy error", len, ERROR_BYTES_MAX)
            }
        }
    }

    /// About how many bytes it takes in an archive.
    pub fn bytes(&self) -> usize {
        const FIXED: usize = 96;
        FIXED
            + match self {
                Self::Block(block) => block.note.len(),
                Self::User(user) => {
                    user.name.len()
                        + user
                            .groups
                            .iter()
                            .map(|group| 8 + group.len())
                            .sum::<usize>()
                }
                Self::Tunnel(tunnel) => tunnel.key_in.0.len() + tunnel.key_out.0.len(),
                Self::Policy(policy) => policy.text.len() + policy.note.len(),
                Self::PolicyAt(at) => at.error.as_ref().map_or(0, String::len),
                Self::SeqShift(shift) => {
                    let steps = shift.sides.iter().map(|side| side.parts().1.len());
                    8 * steps.sum::<usize>()
                }
                Self::Expectation(_) | Self::Lease(_) => 0,
            }
    }
}

/// One entry of common state, as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommonEntry {
    /// What it is about.
    pub key: CommonKey,
    /// When and where it was written.
    pub stamp: Stamp,
    /// What it says; `None` for a tombstone.
    pub value: Option<CommonValue>,
    /// Milliseconds that were left of its life when this was made; `None` for ever.
    pub left_ms: Option<u64>,
}
