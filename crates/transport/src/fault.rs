//! Everything that can go wrong, as values.

use std::net::SocketAddr;
use std::time::Duration;

use time::OffsetDateTime;

use crate::PeerId;
use crate::certificate::shown;
use crate::identity::IdentityError;
use crate::names::NameError;

/// Why an endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node or cluster name that cannot be in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The identity's files are unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The identity is that of another node or cluster.
    #[error(
        "the certificate names node {found_node} of cluster {found_cluster}; this is node {node} of cluster {cluster}: issue one with \"ravelin pki issue {node}\""
    )]
    WrongIdentity {
        /// The node in the certificate.
        found_node: String,
        /// The cluster in the certificate.
        found_cluster: String,
        /// The configured node.
        node: String,
        /// The configured cluster.
        cluster: String,
    },
    /// A peer has the name of this node.
    #[error("peer {name} is this node itself: list the other nodes only")]
    PeerIsSelf {
        /// The name.
        name: String,
    },
    /// Two peers share something that must be unique.
    #[error("peers {first} and {second} have the same {what}: give each its own")]
    DuplicatePeer {
        /// "name", "id" or "address".
        what: &'static str,
        /// The first of the two.
        first: String,
        /// The second of the two.
        second: String,
    },
    /// A tuning value out of its range.
    #[error("tuning value {field} = {value} is out of range: {right}")]
    Tuning {
        /// The field of [`crate::Tuning`].
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// The socket cannot be opened.
    #[error("cannot open a UDP socket on {local}: {source}")]
    Bind {
        /// The requested address.
        local: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Called outside of a tokio runtime.
    #[error("an endpoint lives on a tokio runtime with io and time enabled: call this inside one")]
    NoRuntime,
    /// The TLS configuration was refused.
    #[error("cannot configure TLS: {detail}")]
    Tls {
        /// What rustls said.
        detail: String,
    },
}

/// A peer, or somebody at an address, with whom no connection came about or with whom a
/// connection was ended because of what it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer {peer} at {addr}: {fault}")]
pub struct Refusal {
    /// The peer's name; `(unknown)` where it is not known.
    pub peer: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// What is wrong, and what would be right.
    pub fault: Fault,
}

/// What is wrong with a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Its certificate belongs to another cluster, or to an older authority of this one.
    #[error(
        "its certificate (issued by \"{issuer}\") is not signed by the authority of cluster {cluster}: issue one with \"ravelin pki issue\" and this cluster's ca.key"
    )]
    ForeignAuthority {
        /// The issuer that the certificate names.
        issuer: String,
        /// The cluster that is expected.
        cluster: String,
    },
    /// Its certificate names another node than the one that was dialed.
    #[error(
        "its certificate names {found}; expected {expected}: issue one with \"ravelin pki issue {expected}\", or correct the address"
    )]
    WrongNode {
        /// The node or names in the certificate.
        found: String,
        /// The node that was dialed.
        expected: String,
    },
    /// Its certificate has expired.
    #[error(
        "its certificate for {node} expired on {}: issue a new one with \"ravelin pki issue {node}\"",
        shown(*not_after)
    )]
    Expired {
        /// The node or names in the certificate.
        node: String,
        /// When it expired.
        not_after: OffsetDateTime,
    },
    /// Its certificate is not valid yet.
    #[error("its certificate for {node} is valid only from {}: check the clocks of both nodes", shown(*not_before))]
    NotYetValid {
        /// The node or names in the certificate.
        node: String,
        /// When it starts.
        not_before: OffsetDateTime,
    },
    /// It presented no certificate.
    #[error("it presented no certificate: a node needs one from \"ravelin pki issue\"")]
    NoCertificate,
    /// Its certificate is unusable for another reason.
    #[error(
        "its certificate cannot be used ({detail}): issue one with \"ravelin pki issue {expected}\""
    )]
    BadCertificate {
        /// What the verifier said.
        detail: String,
        /// The node that it should name.
        expected: String,
    },
    /// It speaks another version of the protocol between nodes.
    #[error("it speaks {}, this node speaks {ours}: run the same release on both", theirs.as_deref().unwrap_or("another protocol version"))]
    OtherVersion {
        /// The version of this node.
        ours: String,
        /// The versions that the peer offered, where they are known: a peer that dials tells
        /// them, a peer that is dialed does not.
        theirs: Option<String>,
    },
    /// It refuses the certificate of this node.
    #[error(
        "it refuses the certificate of this node {node} ({alert}): compare both with \"ravelin pki inspect\""
    )]
    OurCertificateRefused {
        /// This node.
        node: String,
        /// The TLS alert that it sent.
        alert: String,
    },
    /// A node of this cluster that is not configured as a peer here.
    #[error(
        "its certificate is valid, but {name} is not among the peers of {node}: add it to the configuration there"
    )]
    UnknownNode {
        /// The node that the certificate names.
        name: String,
        /// This node.
        node: String,
    },
    /// It closed the connection before it was of use.
    #[error("it refused the connection: {reason} (code {code})")]
    RefusedByPeer {
        /// The code, see [`CloseCode`].
        code: u64,
        /// The peer's words.
        reason: String,
    },
    /// It does not answer.
    #[error("no answer within {} ms: is it running, and does UDP get through?", after.as_millis())]
    Unreachable {
        /// How long an attempt lasted.
        after: Duration,
    },
    /// It sent a frame above the limit; the connection was closed.
    #[error(
        "a frame of {len} bytes on stream {stream} exceeds the limit of {max}: set frame_bytes_max alike on both nodes"
    )]
    FrameTooLarge {
        /// The logical stream.
        stream: u16,
        /// The announced length.
        len: usize,
        /// The limit here.
        max: usize,
    },
    /// It broke the rules of the protocol; the connection was closed.
    #[error("it broke the protocol: {detail}")]
    Protocol {
        /// What it did.
        detail: String,
    },
    /// The handshake failed in another way.
    #[error("the handshake failed: {detail}")]
    Handshake {
        /// What the QUIC layer said.
        detail: String,
    },
}

/// Why a connection that was up is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed it.
    #[error("closed by the peer: {reason} (code {code})")]
    ClosedByPeer {
        /// The code, see [`CloseCode`].
        code: u64,
        /// The peer's words.
        reason: String,
    },
    /// This node closed it.
    #[error("closed by this node: {reason}")]
    ClosedHere {
        /// Why.
        reason: String,
    },
    /// The peer no longer knows the connection: it was restarted.
    #[error("reset: the peer was restarted")]
    Reset,
    /// Nothing was heard within the idle timeout.
    #[error("nothing heard within the idle timeout")]
    TimedOut,
    /// The QUIC layer ended it.
    #[error("transport: {detail}")]
    Transport {
        /// What the QUIC layer said.
        detail: String,
    },
}

/// Application error codes of QUIC connection closes (RFC 9000, section 20.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The process went away without saying more (quinn's default).
    Gone = 0,
    /// The node shuts down in good order.
    Shutdown = 1,
    /// Whoever uses the endpoint asked for it: [`crate::Endpoint::close`].
    Asked = 2,
    /// The peer is not wanted any more: [`crate::Endpoint::set_wanted`].
    Unwanted = 3,
    /// A newer connection of the same dialer replaces this one.
    Superseded = 4,
    /// The certificate names a node that is no configured peer.
    UnknownNode = 5,
    /// A frame exceeded the limit.
    FrameTooLarge = 6,
    /// The protocol was broken in another way.
    Protocol = 7,
}

impl CloseCode {
    pub(crate) fn varint(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self as u32)
    }
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No peer has this id.
    #[error("no peer has id {0}")]
    UnknownPeer(PeerId),
    /// There is no connection, or its `Connected` event was not taken yet.
    #[error("not connected: wait for Event::Connected")]
    NotConnected,
    /// The queue is full; nothing of the frame was taken.
    #[error(
        "the queue holds {queued} of {max} bytes and has no room: send less, or wait until it drains"
    )]
    Full {
        /// Bytes in the queue.
        queued: usize,
        /// Its limit.
        max: usize,
    },
    /// The frame exceeds the limit of frames.
    #[error("a frame of {len} bytes exceeds the limit of {max}: split it")]
    TooLarge {
        /// The frame's length.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// No peer has this id.
    #[error("no peer has id {0}")]
    UnknownPeer(PeerId),
    /// There is no connection, or its `Connected` event was not taken yet.
    #[error("not connected: wait for Event::Connected")]
    NotConnected,
    /// It does not fit into one packet of the path.
    #[error("a datagram of {len} bytes does not fit; the path to the peer carries 1 to {max}")]
    Size {
        /// The datagram's length.
        len: usize,
        /// The path's limit at this time.
        max: usize,
    },
}

/// Not everything was delivered when the deadline of a shutdown came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{streams} streams were not flushed before the deadline; {bytes} bytes were still queued")]
pub struct Unflushed {
    /// Streams whose data the peer has not acknowledged.
    pub streams: usize,
    /// Bytes that never left the queues.
    pub bytes: usize,
}
