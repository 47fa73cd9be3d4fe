//! What an endpoint knows of one peer, shared by the calls of the user, the task that dials it,
//! and the tasks that serve its connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use quinn::Connection;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::events::{Event, Intake};
use crate::fault::{CloseCode, DatagramError, Fault, Refusal, SendError};
use crate::outbox::Outbox;
use crate::refusals::{LastFault, Strangers};
use crate::tls::Tls;
use crate::tuning::Tuning;

/// The configured number of a node; every node uses the same numbers.
pub type PeerId = u8;

/// A node to be connected with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's name, as in its certificate.
    pub name: String,
    /// Its number.
    pub id: PeerId,
    /// Where its endpoint listens.
    pub addr: SocketAddr,
}

/// What all tasks of an endpoint share.
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) tuning: Tuning,
    pub(crate) tls: Tls,
    pub(crate) quic: Arc<quinn::TransportConfig>,
    pub(crate) intake: Intake,
    pub(crate) peers: Vec<Arc<PeerSlot>>,
    pub(crate) strangers: Mutex<Strangers>,
}

impl Shared {
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(self.tuning.frame_bytes_max, self.tuning.queue_bytes_max)
    }

    pub(crate) fn peer_named(&self, name: &str) -> Option<&Arc<PeerSlot>> {
        self.peers
            .iter()
            .find(|slot| slot.name.eq_ignore_ascii_case(name))
    }

    /// A socket for both families shows IPv4 addresses mapped into IPv6 ones.
    pub(crate) fn peer_at(&self, addr: SocketAddr) -> Option<&Arc<PeerSlot>> {
        let same = |other: SocketAddr| {
            other.ip().to_canonical() == addr.ip().to_canonical() && other.port() == addr.port()
        };
        self.peers.iter().find(|slot| same(slot.addr()))
    }

    /// Reports what is wrong with somebody who is no known peer, unless that is old news.
    pub(crate) async fn refuse_stranger(
        &self,
        name: Option<String>,
        addr: SocketAddr,
        fault: Fault,
    ) {
        if !lock(&self.strangers).is_news(addr.ip(), &fault, Instant::now()) {
            return;
        }
        let error = Refusal {
            peer: name.unwrap_or_else(|| "(unknown)".to_owned()),
            addr,
            fault,
        };
        self.intake
            .notice(Event::Refused { peer: None, error })
            .await;
    }

    /// Reports what is wrong with a peer, unless that is what was reported last of this side.
    pub(crate) async fn refuse(&self, slot: &PeerSlot, side: Side, addr: SocketAddr, fault: Fault) {
        if !slot.last_fault(side).is_news(&fault) {
            return;
        }
        let error = Refusal {
            peer: slot.name.clone(),
            addr,
            fault,
        };
        self.intake
            .notice(Event::Refused {
                peer: Some(slot.id),
                error,
            })
            .await;
    }
}

/// Who dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialed,
    Accepted,
}

pub(crate) struct PeerSlot {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    addr: Mutex<SocketAddr>,
    link: Mutex<Option<Link>>,
    session: Mutex<Option<Session>>,
    pub(crate) wanted: watch::Sender<bool>,
    /// Wakes the dialer out of its pause.
    pub(crate) nudge: Notify,
    last_faults: [Mutex<LastFault>; 2],
    /// The versions that the peer offered when we refused it for them.
    offered: Mutex<Option<String>>,
}

impl PeerSlot {
    pub(crate) fn new(peer: &Peer) -> Self {
        Self {
            id: peer.id,
            name: peer.name.clone(),
            addr: Mutex::new(peer.addr),
            link: Mutex::new(None),
            session: Mutex::new(None),
            wanted: watch::Sender::new(true),
            nudge: Notify::new(),
            last_faults: Default::default(),
            offered: Mutex::new(None),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        *lock(&self.addr)
    }

    pub(crate) fn set_addr(&self, addr: SocketAddr) {
        *lock(&self.addr) = addr;
    }

    pub(crate) fn link(&self) -> MutexGuard<'_, Option<Link>> {
        lock(&self.link)
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Option<Session>> {
        lock(&self.session)
    }

    pub(crate) fn last_fault(&self, side: Side) -> MutexGuard<'_, LastFault> {
        lock(&self.last_faults[side as usize])
    }

    pub(crate) fn offered(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.offered)
    }

    pub(crate) fn send(&self, shared: &Shared, stream: u16, frame: Bytes) -> Result<(), SendError> {
        let mut link = self.link();
        let link = link.as_mut().filter(|link| link.is_open());
        link.ok_or(SendError::NotConnected)?
            .outbox(shared, stream)
            .push(frame)
    }

    pub(crate) fn queued(&self, stream: u16) -> usize {
        let link = self.link();
        let outbox = link.as_ref().and_then(|link| link.outboxes.get(&stream));
        outbox.map_or(0, |outbox| outbox.queued())
    }

    pub(crate) fn send_datagram(&self, bytes: &[u8]) -> Result<(), DatagramError> {
        let link = self.link();
        let link = link.as_ref().filter(|link| link.is_open());
        let conn = &link.ok_or(DatagramError::NotConnected)?.conn;
        let max = conn
            .max_datagram_size()
            .ok_or(DatagramError::NotConnected)?;
        // An empty one is the dialer's own probe.
        if bytes.is_empty() || bytes.len() > max {
            return Err(DatagramError::Size {
                len: bytes.len(),
                max,
            });
        }
        // When the queue is full quinn drops the oldest, which for a heartbeat is the right one.
        conn.send_datagram(Bytes::copy_from_slice(bytes))
            .map_err(|_| DatagramError::NotConnected)
    }

    /// Makes the peer say whether it still knows our dialed connection: a restarted one answers
    /// any packet of it with a stateless reset (RFC 9000, section 10.3).
    pub(crate) fn probe(&self) {
        if let Some(link) = &*self.link() {
            // A connection that takes no datagram is closed already, so there is nothing to ask.
            let _ = link.conn.send_datagram(Bytes::new());
        }
    }

    /// Closes both connections.
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.close_dialed(code, reason);
        if let Some(session) = &*self.session() {
            session.close(code, reason);
        }
    }

    /// Closes the connection that we dialed, and leaves the one that the peer dialed.
    pub(crate) fn close_dialed(&self, code: CloseCode, reason: &str) {
        if let Some(link) = &mut *self.link() {
            link.closed_because = Some(reason.to_owned());
            link.conn.close(code.varint(), reason.as_bytes());
        }
    }
}

/// The connection that we dialed.
pub(crate) struct Link {
    pub(crate) conn: Connection,
    /// Set when the user takes `Connected`: what is sent before that would be meant for the
    /// connection before this one.
    gate: Arc<AtomicBool>,
    outboxes: HashMap<u16, Arc<Outbox>>,
    /// Asks the dialer's task to start a stream. Unbounded, but a stream number comes once.
    starts: mpsc::UnboundedSender<(u16, Arc<Outbox>)>,
    /// Why we closed it ourselves.
    pub(crate) closed_because: Option<String>,
}

impl Link {
    pub(crate) fn new(
        conn: Connection,
        gate: Arc<AtomicBool>,
        starts: mpsc::UnboundedSender<(u16, Arc<Outbox>)>,
    ) -> Self {
        Self {
            conn,
            gate,
            outboxes: HashMap::new(),
            starts,
            closed_because: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.gate.load(Ordering::Relaxed)
    }

    fn outbox(&mut self, shared: &Shared, stream: u16) -> &Arc<Outbox> {
        self.outboxes.entry(stream).or_insert_with(|| {
            let outbox = shared.outbox();
            // An error means that the dialer's task is past this connection: then the outbox has
            // to refuse what comes.
            if self.starts.send((stream, Arc::clone(&outbox))).is_err() {
                outbox.end();
            }
            outbox
        })
    }

    pub(crate) fn outboxes(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.outboxes.values()
    }
}

/// The connection that the peer dialed.
pub(crate) struct Session {
    pub(crate) conn: Connection,
    pub(crate) outboxes: Arc<Mutex<HashMap<u16, Arc<Outbox>>>>,
    /// Makes the session drop what it has received and not delivered.
    pub(crate) stop: Arc<Notify>,
    /// Resolves, with an error, when the session's task has ended.
    pub(crate) ended: oneshot::Receiver<std::convert::Infallible>,
}

impl Session {
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.conn.close(code.varint(), reason.as_bytes());
        self.stop.notify_one();
    }
}

/// None of the locks of this crate is held across a panic that leaves half a change behind, so
/// one that was poisoned is as good as before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
