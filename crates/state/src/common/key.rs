//! What common state is about: the keys of the map.

use std::fmt;

use crate::key::{Dir, FlowKey, PROTO_TCP, ip, is_v4_mapped};
use crate::node::NodeId;

/// A network: an address whose host bits are zero, and the length of its prefix in bits of the
/// 16-byte form, so that an IPv4 network of `/24` has 120.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// In network order, IPv4 as v4-mapped IPv6.
    pub addr: [u8; 16],
    /// 0 to 128.
    pub len: u8,
}

impl Net {
    /// The network of `addr` with a prefix of `len` bits: host bits become zero, a length above 128
    /// is 128.
    pub fn new(addr: [u8; 16], len: u8) -> Self {
        let len = len.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let addr = (u128::from_be_bytes(addr) & mask).to_be_bytes();
        Self { addr, len }
    }

    /// The network of this address alone.
    pub const fn host(addr: [u8; 16]) -> Self {
        Self { addr, len: 128 }
    }

    /// Whether the address is of this network.
    pub fn contains(&self, addr: &[u8; 16]) -> bool {
        Self::new(*addr, self.len).addr == self.addr
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len >= 96 && is_v4_mapped(&self.addr) {
            write!(f, "{}/{}", ip(self.addr), self.len - 96)
        } else {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(self.addr), self.len)
        }
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which connection is expected; its source port may be any.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExpectationKey {
    /// The IP protocol number.
    pub proto: u8,
    /// From this address only, or from any.
    pub src: Option<[u8; 16]>,
    /// To this address.
    pub dst: [u8; 16],
    /// To this port, in host order.
    pub dport: u16,
}

/// What an entry of common state is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CommonKey {
    /// A network whose packets are dropped.
    Block(Net),
    /// The address at which a user is logged in.
    User([u8; 16]),
    /// A related connection that is let pass.
    Expectation(ExpectationKey),
    /// A VPN tunnel, by number.
    Tunnel(u32),
    /// The packet counters of a tunnel that one node may use.
    Lease {
        /// The tunnel.
        tunnel: u32,
        /// The node.
        node: NodeId,
    },
    /// The text of the policy.
    Policy,
    /// Which policy a node has, as that node says.
    PolicyAt(NodeId),
    /// The numbers of a TCP connection in which lengths were changed.
    SeqShift(FlowKey),
}

impl CommonKey {
    /// Its length as bytes.
    pub const BYTES: usize = 37;

    /// What kind of entry has this key.
    pub const fn kind(&self) -> CommonKind {
        match self {
            Self::Block(_) => CommonKind::Block,
            Self::User(_) => CommonKind::User,
            Self::Expectation(_) => CommonKind::Expectation,
            Self::Tunnel(_) => CommonKind::Tunnel,
            Self::Lease { .. } => CommonKind::Lease,
            Self::Policy => CommonKind::Policy,
            Self::PolicyAt(_) => CommonKind::PolicyAt,
            Self::SeqShift(_) => CommonKind::SeqShift,
        }
    }

    /// Its only form as bytes: the kind's number, its fields in network order, zeros.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = self.kind() as u8;
        match self {
            Self::Block(net) => {
                out[1..17].copy_from_slice(&net.addr);
                out[17] = net.len;
            }
            Self::User(addr) => out[1..17].copy_from_slice(addr),
            Self::Expectation(key) => {
                out[1] = key.proto;
                out[2] = key.src.is_some().into();
                out[3..19].copy_from_slice(&key.src.unwrap_or_default());
                out[19..35].copy_from_slice(&key.dst);
                out[35..37].copy_from_slice(&key.dport.to_be_bytes());
            }
            Self::Tunnel(tunnel) => out[1..5].copy_from_slice(&tunnel.to_be_bytes()),
            Self::Lease { tunnel, node } => {
                out[1..5].copy_from_slice(&tunnel.to_be_bytes());
                out[5] = node.raw();
            }
            Self::Policy => {}
            Self::PolicyAt(node) => out[1] = node.raw(),
            Self::SeqShift(key) => {
                let ((a, a_port), (b, b_port)) = (key.source(Dir::AToB), key.source(Dir::BToA));
                out[1..17].copy_from_slice(&a);
                out[17..33].copy_from_slice(&b);
                out[33..35].copy_from_slice(&a_port.to_be_bytes());
                out[35..37].copy_from_slice(&b_port.to_be_bytes());
            }
        }
        out
    }

    /// The key that has this form; `None` when none has.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let address =
            |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("sixteen bytes") };
        let tunnel = || u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
        let key = match CommonKind::from_number(bytes[0])? {
            CommonKind::Block => Self::Block(Net::new(address(1), bytes[17])),
            CommonKind::User => Self::User(address(1)),
            CommonKind::Expectation => Self::Expectation(ExpectationKey {
                proto: bytes[1],
                src: (bytes[2] == 1).then(|| address(3)),
                dst: address(19),
                dport: u16::from_be_bytes([bytes[35], bytes[36]]),
            }),
            CommonKind::Tunnel => Self::Tunnel(tunnel()),
            CommonKind::Lease => Self::Lease {
                tunnel: tunnel(),
                node: NodeId::new(bytes[5])?,
            },
            CommonKind::Policy => Self::Policy,
            CommonKind::PolicyAt => Self::PolicyAt(NodeId::new(bytes[1])?),
            CommonKind::SeqShift => {
                let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let (a, b) = (address(1), address(17));
                // Ends in another order are another form.
                Self::SeqShift(FlowKey::new(a, b, port(33), port(35), PROTO_TCP).0)
            }
        };
        // Host bits, a flag other than 0 and 1, anything behind the fields: another form.
        (key.to_bytes() == *bytes).then_some(key)
    }
}

/// The kinds of common state. When room is short, entries of an earlier kind go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum CommonKind {
    /// A related connection to expect.
    Expectation = 0,
    /// A blocked network.
    Block = 1,
    /// A user who is logged in.
    User = 2,
    /// A VPN tunnel.
    Tunnel = 3,
    /// Counters of a tunnel.
    Lease = 4,
    /// The policy.
    Policy = 5,
    /// What became of the policy on a node.
    PolicyAt = 6,
    /// The numbers of a TCP connection.
    SeqShift = 7,
}

impl CommonKind {
    /// All kinds, in ascending order.
    pub const ALL: [Self; 8] = [
        Self::Expectation,
        Self::Block,
        Self::User,
        Self::Tunnel,
        Self::Lease,
        Self::Policy,
        Self::PolicyAt,
        Self::SeqShift,
    ];

    /// The kind as people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expectation => "expectation",
            Self::Block => "block",
            Self::User => "user",
            Self::Tunnel => "tunnel",
            Self::Lease => "lease",
            Self::Policy => "policy",
            Self::PolicyAt => "policy of a node",
            Self::SeqShift => "sequence numbers",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for CommonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommonKinds(u16);

impl CommonKinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << CommonKind::ALL.len()) - 1);

    /// Adds a kind.
    pub const fn insert(&mut self, kind: CommonKind) {
        self.0 |= 1 << kind as u8;
    }

    /// Whether the kind is in the set.
    pub const fn contains(self, kind: CommonKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Whether no kind is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<CommonKind> for CommonKinds {
    fn from_iter<I: IntoIterator<Item = CommonKind>>(kinds: I) -> Self {
        let mut set = Self::NONE;
        for kind in kinds {
            set.insert(kind);
        }
        set
    }
}

impl fmt::Debug for CommonKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = CommonKind::ALL
            .into_iter()
            .filter(|kind| self.contains(*kind));
        f.debug_set().entries(kinds).finish()
    }
}
