//! The task that accepts connections, and the streams on them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use quinn::{ConnectionError, Incoming};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dial::{NO_APPLICATION_PROTOCOL, alert, blames_certificate, cut_fault, handshake};
use crate::events::Event;
use crate::fault::{CloseCode, Fault};
use crate::frames::{Cut, FrameReader};
use crate::outbox::{Outbox, ReplyHandle, pump};
use crate::peer::{PeerSlot, Session, Shared, Side, lock};
use crate::tls::{PROTOCOL, Witness, peer_node};

/// Handshakes under way at once; further ones are ignored and retransmitted by their dialers.
const HANDSHAKES_MAX: usize = 64;

/// With fewer free places than this, a dialer has to prove its address first (RFC 9000, section
/// 8.1.2), so that a flood from forged addresses cannot take them all.
const HANDSHAKES_SPARE: usize = 32;

/// Accepts connections for as long as the endpoint lives.
pub(crate) async fn keep_accepting(
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
    base: quinn::ServerConfig,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut sessions = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = sessions.join_next() => continue,
        };
        let Some(incoming) = incoming else { return };
        if places.available_permits() < HANDSHAKES_SPARE && incoming.may_retry() {
            // An error means that this one cannot be asked to; it was checked above.
            let _ = incoming.retry();
            continue;
        }
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                sessions.spawn(receive(Arc::clone(&shared), base.clone(), incoming, place));
            }
            Err(_) => incoming.ignore(),
        }
    }
}

/// One connection, from its first packet to its end.
async fn receive(
    shared: Arc<Shared>,
    mut config: quinn::ServerConfig,
    incoming: Incoming,
    place: OwnedSemaphorePermit,
) {
    let addr = incoming.remote_address();
    let witness = Arc::new(Witness::default());
    match shared.tls.accept(&witness) {
        Ok(tls) => config.crypto = Arc::new(tls),
        Err(error) => {
            // The same configuration was made once already when the endpoint was.
            tracing::error!(%error, %addr, "cannot accept a connection");
            return incoming.refuse();
        }
    }
    // The first packet is judged at once: a version that nobody speaks ends here.
    let connecting = match incoming.accept_with(Arc::new(config)) {
        Ok(connecting) => connecting,
        Err(error) => return blame(&shared, addr, &witness, &error).await,
    };
    // A dialer gives up after `attempt_timeout`, so waiting longer for it is of no use.
    let conn = match timeout(shared.tuning.attempt_timeout, connecting).await {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => return blame(&shared, addr, &witness, &error).await,
        Err(_) => return,
    };
    let Some(slot) = admit(&shared, &conn).await else {
        return;
    };
    drop(place);
    serve(&shared, &slot, conn).await;
}

/// Reports why a handshake failed.
async fn blame(shared: &Shared, addr: SocketAddr, witness: &Witness, error: &ConnectionError) {
    let slot = shared.peer_at(addr);
    let fault = match (witness.fault(), error) {
        (Some(fault), _) => fault,
        (None, ConnectionError::TransportError(local)) => match alert(local.code) {
            Some(NO_APPLICATION_PROTOCOL) => {
                let theirs = witness.offered();
                if let Some(slot) = slot {
                    slot.offered().clone_from(&theirs);
                }
                Fault::OtherVersion {
                    ours: PROTOCOL.to_owned(),
                    theirs,
                }
            }
            Some(CERTIFICATE_REQUIRED) => Fault::NoCertificate,
            _ => handshake(error),
        },
        (None, ConnectionError::ConnectionClosed(close)) => match alert(close.error_code) {
            Some(alert) if blames_certificate(alert) => Fault::OurCertificateRefused {
                node: shared.node.clone(),
                alert: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            _ => handshake(error),
        },
        // The dialer went away by itself: it restarts its attempt, or ends.
        (None, _) => return,
    };
    match slot {
        Some(slot) => shared.refuse(slot, Side::Accepted, addr, fault).await,
        // Garbage from anywhere that is no handshake at all says nothing about this cluster.
        None if matches!(fault, Fault::Handshake { .. }) => {
            tracing::debug!(%addr, %fault, "no handshake");
        }
        None => shared.refuse_stranger(None, addr, fault).await,
    }
}

/// TLS alert (RFC 8446, section 6).
const CERTIFICATE_REQUIRED: u8 = 116;

/// Finds the peer that the verified certificate names; closes the connection if there is none.
async fn admit(shared: &Shared, conn: &quinn::Connection) -> Option<Arc<PeerSlot>> {
    let addr = conn.remote_address();
    let name = peer_node(conn, &shared.cluster);
    if let Some(slot) = name.as_deref().and_then(|name| shared.peer_named(name)) {
        return Some(Arc::clone(slot));
    }
    let (code, fault) = match &name {
        Some(name) => (
            CloseCode::UnknownNode,
            Fault::UnknownNode {
                name: name.clone(),
                node: shared.node.clone(),
            },
        ),
        None => (
            CloseCode::Protocol,
            Fault::BadCertificate {
                detail: "it names no node".to_owned(),
                expected: "NODE".to_owned(),
            },
        ),
    };
    conn.close(code.varint(), fault.to_string().as_bytes());
    shared.refuse_stranger(name, addr, fault).await;
    None
}

/// Serves a connection that the peer dialed until it is gone.
async fn serve(shared: &Arc<Shared>, slot: &Arc<PeerSlot>, conn: quinn::Connection) {
    let stop = Arc::new(Notify::new());
    let outboxes = Arc::new(Mutex::new(HashMap::new()));
    let (_end, ended) = oneshot::channel();
    let before = slot.session().replace(Session {
        conn: conn.clone(),
        outboxes: Arc::clone(&outboxes),
        stop: Arc::clone(&stop),
        ended,
    });
    if let Some(before) = before {
        before.close(
            CloseCode::Superseded,
            "a newer connection replaces this one",
        );
        // Nothing of the old connection may be delivered after something of the new one. The
        // error is how the end is told.
        let _ = before.ended.await;
    }
    slot.last_fault(Side::Accepted).clear();
    *slot.offered() = None;

    // The peer is alive. If our own connection is not up this is the moment to dial; if it is,
    // it may be one to the peer's former life.
    slot.nudge.notify_one();
    slot.probe();
    // Should fail only when the connection is gone, which is noticed below.
    let _ = greet(&conn).await;

    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = conn.accept_bi() => match accepted {
                Ok((send, recv)) => {
                    let stream = Stream {
                        shared: Arc::clone(shared),
                        slot: Arc::clone(slot),
                        conn: conn.clone(),
                        outboxes: Arc::clone(&outboxes),
                    };
                    streams.spawn(stream.serve(send, recv));
                }
                Err(_) => break,
            },
            datagram = conn.read_datagram() => match datagram {
                // An empty one is the peer's probe, see `PeerSlot::probe`.
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => shared.intake.datagram(slot.id, bytes),
                Err(_) => break,
            },
            Some(_) = streams.join_next() => {}
        }
    }
    for outbox in lock(&outboxes).values() {
        outbox.end();
    }
    // What has arrived is delivered, unless we closed the connection ourselves.
    tokio::select! {
        () = stop.notified() => {}
        () = async { while streams.join_next().await.is_some() {} } => {}
    }
    streams.shutdown().await;
    slot.session()
        .take_if(|session| session.conn.stable_id() == conn.stable_id());
}

/// Tells the dialer that its certificate is accepted.
async fn greet(conn: &quinn::Connection) -> Result<(), quinn::WriteError> {
    let mut stream = conn.open_uni().await?;
    stream.write_all(PROTOCOL.as_bytes()).await?;
    // Can only be finished already, which it is not.
    let _ = stream.finish();
    Ok(())
}

/// One stream that the peer opened.
struct Stream {
    shared: Arc<Shared>,
    slot: Arc<PeerSlot>,
    conn: quinn::Connection,
    outboxes: Arc<Mutex<HashMap<u16, Arc<Outbox>>>>,
}

impl Stream {
    /// Delivers the peer's frames and writes the answers.
    async fn serve(self, send: quinn::SendStream, recv: quinn::RecvStream) {
        let mut reader = FrameReader::new(recv, self.shared.tuning.frame_bytes_max);
        let stream = match reader.stream_number().await {
            Ok(stream) => stream,
            Err(Cut::Lost | Cut::Finished) => return,
            Err(_) => {
                return self
                    .protest("a stream ended before its number".to_owned())
                    .await;
            }
        };
        let outbox = self.shared.outbox();
        let taken = lock(&self.outboxes)
            .insert(stream, Arc::clone(&outbox))
            .is_some();
        if taken {
            return self
                .protest(format!("stream {stream} was opened twice"))
                .await;
        }
        let reply = ReplyHandle {
            outbox: Arc::clone(&outbox),
            peer: self.slot.id,
            stream,
        };
        tokio::join!(pump(outbox, send, &[]), self.deliver(reader, reply));
    }

    async fn deliver(&self, mut reader: FrameReader, reply: ReplyHandle) {
        let stream = reply.stream;
        let cut = loop {
            match reader.frame().await {
                Ok(frame) => {
                    let len = frame.len();
                    let event = Event::Frame {
                        peer: self.slot.id,
                        stream,
                        frame,
                        reply: reply.clone(),
                    };
                    self.shared.intake.frame(event, len).await;
                }
                Err(cut) => break cut,
            }
        };
        if let Some((code, fault)) = cut_fault(&cut, &self.shared, stream) {
            self.close(code, fault).await;
        }
    }

    async fn protest(&self, detail: String) {
        self.close(CloseCode::Protocol, Fault::Protocol { detail })
            .await;
    }

    async fn close(&self, code: CloseCode, fault: Fault) {
        self.conn.close(code.varint(), fault.to_string().as_bytes());
        let addr = self.conn.remote_address();
        self.shared
            .refuse(&self.slot, Side::Accepted, addr, fault)
            .await;
    }
}
