//! Events on their way from the connections to whoever uses the endpoint.
//!
//! Two bounded channels in front of one reader: datagrams overtake, because a heartbeat that
//! waits behind megabytes of frames says nothing, and are dropped when nobody takes them; all
//! else keeps its order and makes the connection wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::PeerId;
use crate::fault::{DisconnectReason, Refusal};
use crate::outbox::ReplyHandle;
use crate::tuning::{EVENT_OVERHEAD_BYTES, Tuning};

/// What happened.
///
/// Per peer, `Connected` and `Disconnected` alternate, and every `Answer` lies between the
/// `Connected` and the `Disconnected` of the connection that it came on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The dialed connection is up. From the moment at which this event is taken, frames and
    /// datagrams can be sent; its streams start empty.
    Connected {
        /// The peer.
        peer: PeerId,
    },
    /// The dialed connection is gone, and with it all that was queued on it. Dialing goes on.
    Disconnected {
        /// The peer.
        peer: PeerId,
        /// Why.
        why: DisconnectReason,
    },
    /// No connection comes about, or one was ended because of what the peer did. Reported once
    /// per change of the reason.
    Refused {
        /// The peer, where it is known.
        peer: Option<PeerId>,
        /// Who, where and why, to be logged.
        error: Refusal,
    },
    /// A frame that the peer sent on one of its streams.
    Frame {
        /// The peer.
        peer: PeerId,
        /// Its logical stream.
        stream: u16,
        /// The frame. It may share the memory of up to one receive batch (64 KiB): copy what
        /// is to be kept for long.
        frame: Bytes,
        /// Answers on the same stream.
        reply: ReplyHandle,
    },
    /// An answer of the peer on one of our streams.
    Answer {
        /// The peer.
        peer: PeerId,
        /// Our logical stream.
        stream: u16,
        /// The frame; memory as with [`Event::Frame`].
        frame: Bytes,
    },
    /// A datagram that the peer sent; never empty.
    Datagram {
        /// The peer.
        peer: PeerId,
        /// Its content; memory as with [`Event::Frame`].
        bytes: Bytes,
    },
}

/// The receiving end of an endpoint's events: a `tokio::sync::mpsc::Receiver` in all but name,
/// which in addition lets datagrams overtake and opens a connection for sending when its
/// `Connected` event is taken.
#[derive(Debug)]
pub struct Events {
    ordered: mpsc::Receiver<Envelope>,
    datagrams: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event, if one is there. [`TryRecvError::Disconnected`] after the endpoint's end.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        match self.datagrams.try_recv() {
            Ok(event) => Ok(event),
            Err(_) => self.ordered.try_recv().map(Envelope::open),
        }
    }

    /// Waits for the next event; `None` after the endpoint's end. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`Events::recv`] for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(Some(event)) = self.datagrams.poll_recv(cx) {
            return Poll::Ready(Some(event));
        }
        self.ordered
            .poll_recv(cx)
            .map(|envelope| envelope.map(Envelope::open))
    }
}

#[derive(Debug)]
struct Envelope {
    event: Event,
    /// Makes a connection usable once the event is taken.
    gate: Option<Arc<AtomicBool>>,
    /// Gives the frame's bytes back to the budget.
    _charge: Option<OwnedSemaphorePermit>,
}

impl Envelope {
    fn open(self) -> Event {
        if let Some(gate) = self.gate {
            gate.store(true, Ordering::Relaxed);
        }
        self.event
    }
}

/// The sending end. Whatever is sent after the reader is gone is dropped: then the endpoint is
/// about to be as well.
#[derive(Debug)]
pub(crate) struct Intake {
    ordered: mpsc::Sender<Envelope>,
    datagrams: mpsc::Sender<Event>,
    budget: Arc<Semaphore>,
    datagrams_dropped: AtomicU64,
}

pub(crate) fn channel(tuning: &Tuning) -> (Intake, Events) {
    let (ordered_tx, ordered) = mpsc::channel(tuning.events_max);
    let (datagrams_tx, datagrams) = mpsc::channel(tuning.datagrams_max);
    let intake = Intake {
        ordered: ordered_tx,
        datagrams: datagrams_tx,
        budget: Arc::new(Semaphore::new(tuning.events_bytes_max)),
        datagrams_dropped: AtomicU64::new(0),
    };
    (intake, Events { ordered, datagrams })
}

impl Intake {
    /// Waits until there is room for the event and for the `bytes` of the frame that it carries.
    pub(crate) async fn frame(&self, event: Event, bytes: usize) {
        // Cannot be cut off: `Tuning::check` keeps both terms below 2 GiB together.
        let charge = (bytes + EVENT_OVERHEAD_BYTES) as u32;
        let held = Arc::clone(&self.budget).acquire_many_owned(charge).await;
        self.post(Envelope {
            event,
            gate: None,
            // An error means a closed semaphore; this one never is.
            _charge: held.ok(),
        })
        .await;
    }

    /// `gate` is set when the event is taken.
    pub(crate) async fn connected(&self, peer: PeerId, gate: Arc<AtomicBool>) {
        self.post(Envelope {
            event: Event::Connected { peer },
            gate: Some(gate),
            _charge: None,
        })
        .await;
    }

    pub(crate) async fn notice(&self, event: Event) {
        self.post(Envelope {
            event,
            gate: None,
            _charge: None,
        })
        .await;
    }

    pub(crate) fn datagram(&self, peer: PeerId, bytes: Bytes) {
        if let Err(TrySendError::Full(_)) = self.datagrams.try_send(Event::Datagram { peer, bytes })
        {
            self.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn datagrams_dropped(&self) -> u64 {
        self.datagrams_dropped.load(Ordering::Relaxed)
    }

    async fn post(&self, envelope: Envelope) {
        if self.ordered.send(envelope).await.is_err() {
            tracing::debug!("an event came after its reader was gone");
        }
    }
}
