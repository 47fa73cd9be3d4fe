//! The task that keeps the connection to one peer up, and the streams on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::events::Event;
use crate::fault::{CloseCode, DisconnectReason, Fault};
use crate::frames::{Cut, FrameReader};
use crate::names::dns_name;
use crate::outbox::{Outbox, pump};
use crate::peer::{Link, PeerSlot, Shared, Side};
use crate::tls::{PROTOCOL, Witness};

/// A connection that lived shorter than this does not reset the back-off, so that a peer that
/// accepts and hangs up is not dialed in a tight loop.
const STEADY_AFTER: Duration = Duration::from_secs(1);

/// Keeps the peer connected for as long as it is wanted. Never returns; ends by being aborted.
pub(crate) async fn keep_dialing(
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
    slot: Arc<PeerSlot>,
) {
    let mut pause = Pause::new(&shared);
    let mut wanted = slot.wanted.subscribe();
    loop {
        // An error means that the sender is gone; the slot that is held here has it.
        let _ = wanted.wait_for(|wanted| *wanted).await;
        let addr = slot.addr();
        let attempt = tokio::select! {
            attempt = attempt(&endpoint, &shared, &slot, addr) => attempt,
            _ = wanted.wait_for(|wanted| !*wanted) => continue,
        };
        match attempt {
            Attempt::Connected(conn) => {
                slot.last_fault(Side::Dialed).clear();
                let since = Instant::now();
                let why = serve(&shared, &slot, conn).await;
                slot.last_fault(Side::Dialed).clear();
                let closed_here = matches!(why, DisconnectReason::ClosedHere { .. });
                let peer = slot.id;
                shared
                    .intake
                    .notice(Event::Disconnected { peer, why })
                    .await;
                if since.elapsed() >= STEADY_AFTER {
                    pause.reset();
                    if !closed_here {
                        continue;
                    }
                }
            }
            Attempt::Failed(fault) => shared.refuse(&slot, Side::Dialed, addr, fault).await,
            Attempt::Again => continue,
        }
        tokio::select! {
            () = sleep(pause.next()) => {}
            () = slot.nudge.notified() => pause.reset(),
            _ = wanted.wait_for(|wanted| !*wanted) => {}
        }
    }
}

enum Attempt {
    Connected(quinn::Connection),
    Failed(Fault),
    /// Somebody knows better: the peer was just heard of, or it has moved.
    Again,
}

async fn attempt(
    endpoint: &quinn::Endpoint,
    shared: &Shared,
    slot: &PeerSlot,
    addr: SocketAddr,
) -> Attempt {
    let witness = Arc::new(Witness::default());
    let limit = shared.tuning.attempt_timeout;
    let started = Instant::now();
    // Retransmissions become rarer the longer the peer is silent. Once it is heard of, starting
    // anew is faster, unless the attempt is so young that its answer is still on its way.
    let stale = async {
        loop {
            slot.nudge.notified().await;
            if started.elapsed() > 3 * shared.tuning.initial_rtt || slot.addr() != addr {
                return;
            }
        }
    };
    tokio::select! {
        result = timeout(limit, greeted(endpoint, shared, slot, addr, &witness)) => match result {
            Ok(Ok(conn)) => Attempt::Connected(conn),
            Ok(Err(fault)) => Attempt::Failed(fault),
            Err(_) => Attempt::Failed(Fault::Unreachable { after: limit }),
        },
        () = stale => Attempt::Again,
    }
}

/// Dials and waits for the acceptor's greeting. Only the greeting says that it has accepted our
/// certificate: in TLS 1.3 the dialer's side of the handshake is complete before that.
async fn greeted(
    endpoint: &quinn::Endpoint,
    shared: &Shared,
    slot: &PeerSlot,
    addr: SocketAddr,
    witness: &Arc<Witness>,
) -> Result<quinn::Connection, Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::Handshake {
        detail: error.to_string(),
    };
    let tls = shared
        .tls
        .dial(&slot.name, witness)
        .map_err(|error| failed(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::clone(&shared.quic));
    let lost = |error: ConnectionError| dial_fault(shared, slot, witness, &error);
    let conn = endpoint
        .connect_with(config, addr, &dns_name(&slot.name, &shared.cluster))
        .map_err(|error| failed(&error))?
        .await
        .map_err(lost)?;
    let mut greeting = conn.accept_uni().await.map_err(lost)?;
    match greeting.read_to_end(PROTOCOL.len()).await {
        Ok(words) if words == PROTOCOL.as_bytes() => Ok(conn),
        Ok(_) | Err(quinn::ReadToEndError::TooLong) => {
            let detail = "its greeting is malformed".to_owned();
            conn.close(CloseCode::Protocol.varint(), detail.as_bytes());
            Err(Fault::Protocol { detail })
        }
        Err(quinn::ReadToEndError::Read(error)) => Err(match conn.close_reason() {
            Some(reason) => lost(reason),
            None => failed(&error),
        }),
    }
}

fn dial_fault(
    shared: &Shared,
    slot: &PeerSlot,
    witness: &Witness,
    error: &ConnectionError,
) -> Fault {
    if let Some(fault) = witness.fault() {
        return fault;
    }
    match error {
        ConnectionError::ApplicationClosed(close) => Fault::RefusedByPeer {
            code: close.error_code.into_inner(),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(NO_APPLICATION_PROTOCOL) => other_version(slot),
            Some(alert) if blames_certificate(alert) => Fault::OurCertificateRefused {
                node: shared.node.clone(),
                alert: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            _ => handshake(error),
        },
        ConnectionError::TransportError(local) => match alert(local.code) {
            Some(NO_APPLICATION_PROTOCOL) => other_version(slot),
            _ => handshake(error),
        },
        ConnectionError::TimedOut => Fault::Unreachable {
            after: shared.tuning.attempt_timeout,
        },
        _ => handshake(error),
    }
}

fn other_version(slot: &PeerSlot) -> Fault {
    Fault::OtherVersion {
        ours: PROTOCOL.to_owned(),
        // Told by the peer itself, if it has dialed us.
        theirs: slot.offered().clone(),
    }
}

pub(crate) fn handshake(error: &ConnectionError) -> Fault {
    Fault::Handshake {
        detail: error.to_string(),
    }
}

/// TLS alert (RFC 7301, section 3.2).
pub(crate) const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The TLS alert in a QUIC error code (RFC 9001, section 4.8).
pub(crate) fn alert(code: TransportErrorCode) -> Option<u8> {
    match u64::from(code) {
        code @ 0x100..=0x1ff => Some((code & 0xff) as u8),
        _ => None,
    }
}

/// bad_certificate to unknown_ca without illegal_parameter, decrypt_error, and
/// certificate_required (RFC 8446, section 6).
pub(crate) fn blames_certificate(alert: u8) -> bool {
    matches!(alert, 42..=46 | 48 | 51 | 116)
}

/// Serves the dialed connection until it is gone, and says why it went.
async fn serve(
    shared: &Arc<Shared>,
    slot: &Arc<PeerSlot>,
    conn: quinn::Connection,
) -> DisconnectReason {
    let gate = Arc::new(AtomicBool::new(false));
    let (starts_tx, mut starts) = mpsc::unbounded_channel();
    *slot.link() = Some(Link::new(conn.clone(), Arc::clone(&gate), starts_tx));
    shared.intake.connected(slot.id, gate).await;

    let mut wanted = slot.wanted.subscribe();
    let mut streams = JoinSet::new();
    let lost = loop {
        tokio::select! {
            error = conn.closed() => break error,
            Some((stream, outbox)) = starts.recv() => {
                streams.spawn(drive(Arc::clone(shared), Arc::clone(slot), conn.clone(), stream, outbox));
            }
            // Taken so that the set does not grow; a stream that ends alone has nothing to say.
            Some(_) = streams.join_next() => {}
            _ = wanted.wait_for(|wanted| !*wanted) => {
                slot.close(CloseCode::Unwanted, "the peer is not wanted any more");
            }
        }
    };

    let closed_because = slot.link().take().and_then(|link| {
        for outbox in link.outboxes() {
            outbox.end();
        }
        link.closed_because
    });
    if closed_because.is_none() {
        // What has arrived is delivered, before `Disconnected` is.
        while streams.join_next().await.is_some() {}
    }
    streams.shutdown().await;
    disconnect_reason(lost, closed_because)
}

fn disconnect_reason(error: ConnectionError, closed_because: Option<String>) -> DisconnectReason {
    if let Some(reason) = closed_because {
        return DisconnectReason::ClosedHere { reason };
    }
    match error {
        ConnectionError::ApplicationClosed(close) => DisconnectReason::ClosedByPeer {
            code: close.error_code.into_inner(),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::Reset => DisconnectReason::Reset,
        ConnectionError::TimedOut => DisconnectReason::TimedOut,
        other => DisconnectReason::Transport {
            detail: other.to_string(),
        },
    }
}

/// One stream that we opened: writes what is queued, delivers what the peer answers.
async fn drive(
    shared: Arc<Shared>,
    slot: Arc<PeerSlot>,
    conn: quinn::Connection,
    stream: u16,
    outbox: Arc<Outbox>,
) {
    let Ok((send, recv)) = conn.open_bi().await else {
        outbox.end();
        return;
    };
    let preface = stream.to_le_bytes();
    let answers = async {
        let mut reader = FrameReader::new(recv, shared.tuning.frame_bytes_max);
        let cut = loop {
            match reader.frame().await {
                Ok(frame) => {
                    let (peer, len) = (slot.id, frame.len());
                    let event = Event::Answer {
                        peer,
                        stream,
                        frame,
                    };
                    shared.intake.frame(event, len).await;
                }
                Err(cut) => break cut,
            }
        };
        if let Some((code, fault)) = cut_fault(&cut, &shared, stream) {
            let reason = fault.to_string();
            if let Some(link) = &mut *slot.link() {
                link.closed_because = Some(reason.clone());
            }
            conn.close(code.varint(), reason.as_bytes());
            shared
                .refuse(&slot, Side::Dialed, conn.remote_address(), fault)
                .await;
        }
    };
    tokio::join!(pump(outbox, send, &preface), answers);
}

/// What the end of a stream says against the peer, and the code to close the connection with.
pub(crate) fn cut_fault(cut: &Cut, shared: &Shared, stream: u16) -> Option<(CloseCode, Fault)> {
    match cut {
        Cut::Finished | Cut::Lost => None,
        Cut::Truncated => {
            let detail = format!("stream {stream} ended inside of a frame");
            Some((CloseCode::Protocol, Fault::Protocol { detail }))
        }
        Cut::TooLarge(len) => Some((
            CloseCode::FrameTooLarge,
            Fault::FrameTooLarge {
                stream,
                len: *len,
                max: shared.tuning.frame_bytes_max,
            },
        )),
    }
}

/// The growing pause between attempts.
struct Pause {
    next: Duration,
    min: Duration,
    max: Duration,
    random: SystemRandom,
}

impl Pause {
    fn new(shared: &Shared) -> Self {
        Self {
            next: shared.tuning.backoff_min,
            min: shared.tuning.backoff_min,
            max: shared.tuning.backoff_max,
            random: SystemRandom::new(),
        }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// Between one half and all of the current pause: nodes that lost each other at the same
    /// moment do not come back in step.
    fn next(&mut self) -> Duration {
        let mut byte = [0u8];
        // Without randomness the jitter is missing, which harms nobody.
        let jitter = match self.random.fill(&mut byte) {
            Ok(()) => u32::from(byte[0]),
            Err(_) => 255,
        };
        let pause = self.next / 2 + self.next * jitter / 510;
        self.next = (self.next * 2).min(self.max);
        pause
    }
}
