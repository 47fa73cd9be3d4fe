//! QUIC between the nodes of a cluster, and the certificates that they know each other by.
//!
//! This is the only crate that opens a network socket. A node has one [`Endpoint`]: a UDP socket
//! over which it dials each of its peers and accepts their connections, so that a pair of nodes
//! has two connections, one per direction. The dialer sends [frames](Endpoint::send) on numbered
//! streams and [datagrams](Endpoint::send_datagram); the acceptor answers on the same streams
//! through a [`ReplyHandle`]. What happens arrives as [`Event`]s.
//!
//! Nothing here blocks and every queue is bounded: a full queue towards a peer is
//! [`SendError::Full`], and events that are not taken stop the peers by flow control.
//!
//! On a stream the dialer writes its number (u16), then frames: a length (u32) and so many bytes;
//! all little-endian. The acceptor opens one unidirectional stream with the name of the protocol,
//! [`PROTOCOL`], as soon as it has accepted the dialer's certificate. That name is also the
//! application protocol of the TLS handshake: whoever speaks another version is told so.
//!
//! Certificates come from [`pki`]: one authority per cluster, one certificate per node. Both ends
//! prove who they are (mutual TLS 1.3); the dialer accepts only the node that it wanted, the
//! acceptor any node of the cluster that is configured as its peer.
#![forbid(unsafe_code)]

mod accept;
mod certificate;
mod dial;
mod endpoint;
mod events;
mod fault;
mod frames;
mod identity;
mod names;
mod outbox;
mod peer;
pub mod pki;
mod refusals;
mod tls;
mod tuning;

pub use certificate::FileError;
pub use endpoint::{Endpoint, LinkStats, Options, PeerStats};
pub use events::{Event, Events};
pub use fault::{
    CloseCode, DatagramError, DisconnectReason, Error, Fault, Refusal, SendError, Unflushed,
};
pub use identity::{Identity, IdentityError};
pub use names::{NameError, check_name, dns_name};
pub use outbox::ReplyHandle;
pub use peer::{Peer, PeerId};
pub use tls::PROTOCOL;
pub use tuning::Tuning;
