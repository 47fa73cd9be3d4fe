//! The endpoint: one UDP socket, a connection to each peer and one from each peer.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::accept::keep_accepting;
use crate::dial::keep_dialing;
use crate::events::{Events, channel};
use crate::fault::{CloseCode, DatagramError, Error, SendError, Unflushed};
use crate::identity::Identity;
use crate::names::check_name;
use crate::outbox::Outbox;
use crate::peer::{Peer, PeerId, PeerSlot, Shared, lock};
use crate::refusals::Strangers;
use crate::tls::{Tls, Witness};
use crate::tuning::Tuning;

/// A restarted node resets the old connections of all its peers at once: at most one reset per
/// this time, instead of quinn's 20 ms, which 32 nodes would have to share.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// How long closing may take beyond a shutdown's deadline: the time for the peers to see why.
const CLOSING: Duration = Duration::from_millis(200);

/// What an endpoint needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen, and what to dial from.
    pub local: SocketAddr,
    /// This node's certificate and key, and the authority.
    pub identity: Identity,
    /// This node's name, which the certificate must have.
    pub node: String,
    /// The cluster's name, which the certificate must have.
    pub cluster: String,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Limits and timers.
    pub tuning: Tuning,
}

/// A node's end of all connections. Lives on the tokio runtime that it was made on, which may be
/// a current-thread one; its calls are plain and never block. Dropping it ends everything at
/// once; [`Endpoint::shutdown`] takes leave.
pub struct Endpoint {
    /// What happens. To be taken often: what is not taken holds up the connections.
    pub events: Events,
    shared: Arc<Shared>,
    /// Index into `shared.peers` by id.
    index: [Option<u8>; 256],
    quinn: quinn::Endpoint,
    tasks: Vec<JoinHandle<()>>,
}

impl Endpoint {
    /// Opens the socket and starts to dial all peers. Must be called inside of a tokio runtime.
    pub fn bind(options: Options) -> Result<Self, Error> {
        let local = options.local;
        let socket = UdpSocket::bind(local).map_err(|source| Error::Bind { local, source })?;
        Self::over(socket, options)
    }

    /// [`Endpoint::bind`] over a socket that is bound already; `options.local` is not used.
    pub fn over(socket: UdpSocket, options: Options) -> Result<Self, Error> {
        check(&options)?;
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let Options {
            local,
            identity,
            node,
            cluster,
            peers,
            tuning,
        } = options;
        enlarge_buffers(&socket, tuning.socket_bytes);

        let endpoint_config = endpoint_config(&identity, &tuning)?;
        let tls = Tls::new(identity)?;
        let quic = tuning.quic();
        let base = tls.accept(&Arc::new(Witness::default()))?;
        let mut server_config = quinn::ServerConfig::with_crypto(Arc::new(base));
        server_config
            .transport_config(Arc::clone(&quic))
            .max_incoming(256);
        let quinn = quinn::Endpoint::new(
            endpoint_config,
            Some(server_config.clone()),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| Error::Bind { local, source })?;

        let mut index = [None; 256];
        for (at, peer) in peers.iter().enumerate() {
            // `check` has refused more than 256, as their ids would repeat.
            index[usize::from(peer.id)] = Some(at as u8);
        }
        let (intake, events) = channel(&tuning);
        let shared = Arc::new(Shared {
            node,
            cluster,
            tls,
            quic,
            intake,
            peers: peers
                .iter()
                .map(|peer| Arc::new(PeerSlot::new(peer)))
                .collect(),
            strangers: Mutex::new(Strangers::new(std::time::Instant::now())),
            tuning,
        });
        let mut tasks = vec![runtime.spawn(keep_accepting(
            quinn.clone(),
            Arc::clone(&shared),
            server_config,
        ))];
        for slot in &shared.peers {
            tasks.push(runtime.spawn(keep_dialing(
                quinn.clone(),
                Arc::clone(&shared),
                Arc::clone(slot),
            )));
        }
        Ok(Self {
            events,
            shared,
            index,
            quinn,
            tasks,
        })
    }

    /// The address of the socket, with the port that was chosen when port 0 was asked for.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Queues a frame on a stream of the connection that we dialed. The stream is opened on first
    /// use; frames of one stream arrive in order, streams do not wait for each other. What was
    /// queued when the connection is lost is lost with it, and so is what arrived there but was
    /// not taken: only an answer says that a frame was.
    ///
    /// Leaves as soon as the runtime runs; never blocks.
    pub fn send(
        &self,
        peer: PeerId,
        stream: u16,
        frame: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        self.slot(peer).ok_or(SendError::UnknownPeer(peer))?.send(
            &self.shared,
            stream,
            frame.into(),
        )
    }

    /// Bytes that wait to be written to a stream of the dialed connection, length prefixes
    /// included; 0 when there is no such stream or connection.
    pub fn queued(&self, peer: PeerId, stream: u16) -> usize {
        self.slot(peer).map_or(0, |slot| slot.queued(stream))
    }

    /// Sends a datagram of 1 byte to about one packet on the dialed connection: at most once, in
    /// no order, ahead of queued frames. When too many wait, the oldest are dropped.
    pub fn send_datagram(&self, peer: PeerId, bytes: &[u8]) -> Result<(), DatagramError> {
        self.slot(peer)
            .ok_or(DatagramError::UnknownPeer(peer))?
            .send_datagram(bytes)
    }

    /// The smoothed round trip time of the dialed connection; `None` when there is none.
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        let slot = self.slot(peer)?;
        let link = slot.link();
        link.as_ref().map(|link| link.conn.rtt())
    }

    /// Figures about both connections with a peer; `None` for an unknown peer.
    pub fn stats(&self, peer: PeerId) -> Option<PeerStats> {
        let slot = self.slot(peer)?;
        let dialed = slot.link().as_ref().map(|link| LinkStats::of(&link.conn));
        let accepted = slot
            .session()
            .as_ref()
            .map(|session| LinkStats::of(&session.conn));
        Some(PeerStats { dialed, accepted })
    }

    /// Received datagrams that were dropped because nobody took them, of all peers.
    pub fn datagrams_dropped(&self) -> u64 {
        self.shared.intake.datagrams_dropped()
    }

    /// Dials a peer without waiting for the back-off to pass. Does nothing when the peer is
    /// connected, not wanted, or being dialed since a moment ago.
    pub fn redial_now(&self, peer: PeerId) {
        if let Some(slot) = self.slot(peer) {
            slot.nudge.notify_one();
        }
    }

    /// Closes the connections with a peer in both directions, with words that the peer gets to
    /// see. A wanted peer is dialed again after the back-off.
    pub fn close(&self, peer: PeerId, reason: &str) {
        if let Some(slot) = self.slot(peer) {
            slot.close(CloseCode::Asked, reason);
        }
    }

    /// Leaves the connection that we dialed and dials the peer anew, without a back-off: for a
    /// connection that leads to a run of the peer that is gone. The connection that the peer has
    /// dialed stays, as its new run may have dialed it already. The end of the old connection is
    /// told as [`DisconnectReason::ClosedHere`](crate::DisconnectReason::ClosedHere).
    pub fn redial(&self, peer: PeerId, reason: &str) {
        if let Some(slot) = self.slot(peer) {
            slot.close_dialed(CloseCode::Asked, reason);
            slot.nudge.notify_one();
        }
    }

    /// Whether to dial a peer; `true` at the start. Withdrawing it closes both connections; the
    /// peer may still dial us.
    pub fn set_wanted(&self, peer: PeerId, wanted: bool) {
        if let Some(slot) = self.slot(peer) {
            slot.wanted.send_replace(wanted);
            if !wanted {
                slot.close(CloseCode::Unwanted, "the peer is not wanted any more");
            }
        }
    }

    /// Moves a peer to another address, for the next time that it is dialed.
    pub fn set_addr(&self, peer: PeerId, addr: SocketAddr) {
        if let Some(slot) = self.slot(peer) {
            slot.set_addr(addr);
            slot.nudge.notify_one();
        }
    }

    /// Ends the endpoint in good order: dials and accepts no more, lets what is queued reach the
    /// peers for at most `patience`, then closes all connections with [`CloseCode::Shutdown`].
    /// The socket is closed on the runtime's next turn. The error says what was left over.
    pub async fn shutdown(mut self, patience: Duration) -> Result<(), Unflushed> {
        let deadline = Instant::now() + patience;
        self.quinn.set_server_config(None);
        let outboxes = self.outboxes();
        for outbox in &outboxes {
            outbox.finish();
        }
        let flushed = async {
            for outbox in &outboxes {
                outbox.ended().await;
            }
        };
        let result = match timeout_at(deadline, flushed).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Unflushed {
                streams: outboxes.iter().filter(|o| !o.has_ended()).count(),
                bytes: outboxes.iter().map(|o| o.queued()).sum(),
            }),
        };

        self.quinn
            .close(CloseCode::Shutdown.varint(), b"the node shuts down");
        for task in self.tasks.drain(..) {
            task.abort();
            // An error is how an aborted task ends.
            let _ = task.await;
        }
        // Too little time for this only means that a peer finds out by itself.
        let _ = tokio::time::timeout(CLOSING, self.quinn.wait_idle()).await;
        result
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let mut all = Vec::new();
        for slot in &self.shared.peers {
            if let Some(link) = &*slot.link() {
                all.extend(link.outboxes().cloned());
            }
            if let Some(session) = &*slot.session() {
                all.extend(lock(&session.outboxes).values().cloned());
            }
        }
        all
    }

    fn slot(&self, peer: PeerId) -> Option<&Arc<PeerSlot>> {
        let at = self.index[usize::from(peer)]?;
        self.shared.peers.get(usize::from(at))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.quinn
            .close(CloseCode::Gone.varint(), b"the endpoint is gone");
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("node", &self.shared.node)
            .field("cluster", &self.shared.cluster)
            .field("peers", &self.shared.peers.len())
            .finish_non_exhaustive()
    }
}

/// Figures about the connections with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStats {
    /// The connection that we dialed and send on, when it is up.
    pub dialed: Option<LinkStats>,
    /// The connection that the peer dialed and sends on, when it is up.
    pub accepted: Option<LinkStats>,
}

/// Figures about one connection, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// Where the peer is.
    pub addr: SocketAddr,
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// Congestion window, in bytes.
    pub cwnd: u64,
    /// Largest UDP payload that the path was found to carry, in bytes.
    pub mtu: u16,
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// UDP payload bytes received.
    pub bytes_received: u64,
    /// UDP datagrams sent.
    pub packets_sent: u64,
    /// UDP datagrams received.
    pub packets_received: u64,
    /// QUIC datagram frames sent (heartbeats), probes included.
    pub datagrams_sent: u64,
    /// QUIC datagram frames received, probes included.
    pub datagrams_received: u64,
    /// QUIC packets that were found lost.
    pub packets_lost: u64,
    /// Bytes in them.
    pub bytes_lost: u64,
}

impl LinkStats {
    fn of(conn: &quinn::Connection) -> Self {
        let stats = conn.stats();
        Self {
            addr: conn.remote_address(),
            rtt: stats.path.rtt,
            cwnd: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            packets_sent: stats.udp_tx.datagrams,
            packets_received: stats.udp_rx.datagrams,
            datagrams_sent: stats.frame_tx.datagram,
            datagrams_received: stats.frame_rx.datagram,
            packets_lost: stats.path.lost_packets,
            bytes_lost: stats.path.lost_bytes,
        }
    }
}

fn check(options: &Options) -> Result<(), Error> {
    let Options {
        identity,
        node,
        cluster,
        peers,
        tuning,
        ..
    } = options;
    check_name("node", node)?;
    check_name("cluster", cluster)?;
    tuning.check()?;
    if !identity.node().eq_ignore_ascii_case(node)
        || !identity.cluster().eq_ignore_ascii_case(cluster)
    {
        return Err(Error::WrongIdentity {
            found_node: identity.node().to_owned(),
            found_cluster: identity.cluster().to_owned(),
            node: node.clone(),
            cluster: cluster.clone(),
        });
    }
    for (at, peer) in peers.iter().enumerate() {
        check_name("node", &peer.name)?;
        if peer.name.eq_ignore_ascii_case(node) {
            let name = peer.name.clone();
            return Err(Error::PeerIsSelf { name });
        }
        for other in &peers[..at] {
            let what = if other.name.eq_ignore_ascii_case(&peer.name) {
                "name"
            } else if other.id == peer.id {
                "id"
            } else if other.addr == peer.addr {
                "address"
            } else {
                continue;
            };
            return Err(Error::DuplicatePeer {
                what,
                first: other.name.clone(),
                second: peer.name.clone(),
            });
        }
    }
    Ok(())
}

/// What must be the same after a restart derives from the node's private key: with the keys that
/// quinn makes up at each start, a restarted node could neither recognise the connection ids of
/// its former life nor reset those connections, and its peers would wait for the idle timeout.
fn endpoint_config(identity: &Identity, tuning: &Tuning) -> Result<quinn::EndpointConfig, Error> {
    let reset_key = ring::hmac::Key::new(
        ring::hmac::HMAC_SHA256,
        &identity.lasting_secret("ravelin stateless reset"),
    );
    let [a, b, c, d, e, f, g, h, ..] = identity.lasting_secret("ravelin connection ids");
    let id_key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config
        .min_reset_interval(RESET_INTERVAL)
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)))
        .max_udp_payload_size(tuning.mtu_max.max(1472))
        .map_err(|_| Error::Tuning {
            field: "mtu_max",
            value: tuning.mtu_max.to_string(),
            right: "1200 to 65527",
        })?;
    Ok(config)
}

/// A burst that finds the socket's buffer full is lost and costs a round trip and half the
/// congestion window. Root may exceed the system's limit; others get what it allows.
fn enlarge_buffers(socket: &UdpSocket, bytes: usize) {
    let enlarged = setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &bytes))
        .and(
            setsockopt(socket, sockopt::SndBufForce, &bytes)
                .or_else(|_| setsockopt(socket, sockopt::SndBuf, &bytes)),
        );
    if let Err(error) = enlarged {
        tracing::warn!(%error, bytes, "cannot enlarge the socket's buffers: bursts may be lost");
    }
}
