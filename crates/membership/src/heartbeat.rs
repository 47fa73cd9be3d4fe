//! The one message of the protocol: what a node says of itself to every peer, every interval.
//!
//! On the wire: the protocol version, 16 bits little-endian, so that another version is recognised
//! whatever its format; then an rkyv archive, validated before it is read. Always
//! [`HEARTBEAT_BYTES`] long.

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use state::NodeId;

use crate::view::MemberState;

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u16 = 2;

/// The length of a heartbeat on the wire.
pub const HEARTBEAT_BYTES: usize = VERSION_BYTES + size_of::<ArchivedHeartbeat>();

const VERSION_BYTES: usize = 2;

const _: () = assert!(
    HEARTBEAT_BYTES <= 100,
    "a heartbeat goes to each peer a hundred times per second"
);

/// What a node says of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[rkyv(derive(Debug))]
#[repr(u8)]
pub(crate) enum Announced {
    Joining,
    Active,
    Draining,
    /// To others it is draining. Itself, it goes on as the owner until they own.
    HandingOver,
    /// It goes now: dead to everybody, at once.
    Leaving,
}

impl Announced {
    pub(crate) const fn state(self) -> MemberState {
        match self {
            Self::Joining => MemberState::Joining,
            Self::Active => MemberState::Active,
            Self::Draining | Self::HandingOver => MemberState::Draining,
            Self::Leaving => MemberState::Dead,
        }
    }

    pub(crate) const fn of(state: MemberState) -> Self {
        match state {
            MemberState::Joining => Self::Joining,
            MemberState::Active => Self::Active,
            MemberState::Draining => Self::Draining,
            MemberState::Dead => Self::Leaving,
        }
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Heartbeat {
    /// Fingerprint of the cluster's name.
    pub(crate) cluster: u64,
    /// Fingerprint of the configuration that views depend on.
    pub(crate) config: u64,
    /// Unix milliseconds at the sender's start.
    pub(crate) incarnation: u64,
    /// Rises with every round of heartbeats, and from run to run, so that a late one is recognised.
    pub(crate) sequence: u64,
    /// The sequence of the last heartbeat that the sender heard of the receiver; 0 when it is dead,
    /// unless what it says is refused as of an old run: then that of the later one.
    pub(crate) heard: u64,
    pub(crate) epoch: u64,
    pub(crate) view_digest: u64,
    /// The peers that are alive to the sender.
    pub(crate) hears: u32,
    /// The peers whose snapshot is complete at the sender.
    pub(crate) synced: u32,
    /// The members that own slots by a view that a worker of the sender may act by.
    pub(crate) owners: u32,
    pub(crate) sender: u8,
    pub(crate) announced: Announced,
}

impl Heartbeat {
    /// The bytes that [`Self::parse`] reads.
    pub(crate) fn emit(&self) -> [u8; HEARTBEAT_BYTES] {
        let mut out = [0; HEARTBEAT_BYTES];
        out[..VERSION_BYTES].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        let archive = rkyv::to_bytes::<rancor::Panic>(self);
        let archive = archive.expect("plain numbers always serialize");
        out[VERSION_BYTES..].copy_from_slice(&archive);
        out
    }

    /// The heartbeat that `from` sent, or why the bytes are none of this cluster.
    pub(crate) fn parse(bytes: &[u8], from: NodeId, cluster: u64) -> Result<Self, Refusal> {
        let Some((version, archive)) = bytes.split_first_chunk::<VERSION_BYTES>() else {
            return Err(Refusal::Malformed);
        };
        let version = u16::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Err(Refusal::Version {
                theirs: version,
                ours: PROTOCOL_VERSION,
            });
        }
        if bytes.len() != HEARTBEAT_BYTES {
            return Err(Refusal::Malformed);
        }
        let heartbeat: Self = rkyv::from_bytes::<Self, rancor::Failure>(archive)
            .map_err(|rancor::Failure| Refusal::Malformed)?;
        if heartbeat.cluster != cluster {
            return Err(Refusal::Cluster {
                theirs: heartbeat.cluster,
                ours: cluster,
            });
        }
        if heartbeat.sender != from.raw() {
            return Err(Refusal::Sender {
                says: heartbeat.sender,
            });
        }
        Ok(heartbeat)
    }
}

/// Why a peer's message does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The sender's build speaks another version of the protocol.
    #[error("it speaks protocol version {theirs}, this node speaks {ours}: run the same release")]
    Version {
        /// The version in the message.
        theirs: u16,
        /// [`PROTOCOL_VERSION`].
        ours: u16,
    },
    /// The sender belongs to another cluster.
    #[error("its cluster is {theirs:016x}, ours is {ours:016x}: check name and addresses")]
    Cluster {
        /// The fingerprint in the message.
        theirs: u64,
        /// The configured one.
        ours: u64,
    },
    /// The message names another sender than the connection that it came over.
    #[error("it says that it is node {says}: each node needs its own id and certificate")]
    Sender {
        /// The identity in the message.
        says: u8,
    },
    /// The sender is no configured member, or has this node's own identity.
    #[error("it is not configured here as a peer: give all nodes the same list of members")]
    NotAPeer,
    /// The sender's run began before one that was already heard of.
    #[error(
        "its run {theirs} is older than its run {known}, known here: its clock went backwards, \
         or its old process still runs"
    )]
    OldRun {
        /// The incarnation in the message.
        theirs: u64,
        /// The greatest one heard.
        known: u64,
    },
    /// Not a heartbeat.
    #[error("what it sent is not a heartbeat of {HEARTBEAT_BYTES} bytes")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_heartbeat() -> impl Strategy<Value = Heartbeat> {
        let state = prop::sample::select(vec![
            Announced::Joining,
            Announced::Active,
            Announced::Draining,
            Announced::HandingOver,
            Announced::Leaving,
        ]);
        (any::<[u64; 7]>(), any::<[u32; 3]>(), 0..32u8, state).prop_map(
            |(words, sets, sender, announced)| Heartbeat {
                cluster: words[0],
                config: words[1],
                incarnation: words[2],
                sequence: words[3],
                epoch: words[4],
                view_digest: words[5],
                heard: words[6],
                hears: sets[0],
                synced: sets[1],
                owners: sets[2],
                sender,
                announced,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(it in any_heartbeat()) {
            let from = NodeId::new(it.sender).unwrap();
            let bytes = it.emit();
            prop_assert_eq!(Heartbeat::parse(&bytes, from, it.cluster), Ok(it));
            let elsewhere = it.cluster ^ 1;
            let refused = Refusal::Cluster { theirs: it.cluster, ours: elsewhere };
            prop_assert_eq!(Heartbeat::parse(&bytes, from, elsewhere), Err(refused));
            let other = NodeId::new(it.sender ^ 1).unwrap();
            let refused = Refusal::Sender { says: it.sender };
            prop_assert_eq!(Heartbeat::parse(&bytes, other, it.cluster), Err(refused));
            prop_assert_eq!(
                Heartbeat::parse(&bytes[..bytes.len() - 1], from, it.cluster),
                Err(Refusal::Malformed)
            );
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_parsed(
            bytes in prop::collection::vec(any::<u8>(), 0..2 * HEARTBEAT_BYTES),
            at_version: bool,
            exact: bool,
        ) {
            let mut bytes = bytes;
            if exact {
                bytes.resize(HEARTBEAT_BYTES, 7);
            }
            if at_version && bytes.len() >= 2 {
                bytes[..2].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
            }
            let _ = Heartbeat::parse(&bytes, NodeId::new(1).unwrap(), 1);
        }
    }

    #[test]
    fn another_version_is_named_whatever_follows() {
        let refused = Refusal::Version {
            theirs: 9,
            ours: PROTOCOL_VERSION,
        };
        for bytes in [&[9, 0][..], &[9, 0, 1], &[9; 200][..]] {
            let parsed = Heartbeat::parse(bytes, NodeId::new(1).unwrap(), 1);
            assert!(
                matches!(
                    parsed,
                    Err(Refusal::Version {
                        ours: PROTOCOL_VERSION,
                        ..
                    })
                ),
                "{parsed:?}"
            );
        }
        let parsed = Heartbeat::parse(&[9, 0], NodeId::new(1).unwrap(), 1);
        assert_eq!(parsed, Err(refused));
        let short = Heartbeat::parse(&[1], NodeId::new(1).unwrap(), 1);
        assert_eq!(short, Err(Refusal::Malformed));
    }
}
