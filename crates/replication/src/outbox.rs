//! What waits to go out: one queue per stream and worker, so that one that is full does not hold
//! up the others, and what the driver could not place comes back to its front.

use std::collections::{BTreeMap, VecDeque};

use state::NodeId;

use crate::ToWorker;
use crate::status::Output;

/// How many used frames are kept to be filled again.
const FRAMES_MAX: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    Send(NodeId, u16),
    Reply(NodeId, u16),
    Worker(usize),
}

enum Parcel {
    Frame(Vec<u8>),
    Message(ToWorker),
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Parcel>,
    /// The driver had no room for the front.
    blocked: bool,
    /// It is in `ready`.
    listed: bool,
}

#[derive(Default)]
pub(crate) struct Outbox {
    /// Small things that the driver always takes.
    notes: VecDeque<Output>,
    lanes: BTreeMap<Way, Lane>,
    ready: VecDeque<Way>,
    frames: Vec<Vec<u8>>,
}

impl Outbox {
    /// An empty buffer to write a frame into.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        self.frames.pop().unwrap_or_default()
    }

    /// Keeps the memory of a frame for the next.
    pub(crate) fn recycle(&mut self, frame: Vec<u8>) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push(frame);
        }
    }

    pub(crate) fn note(&mut self, output: Output) {
        self.notes.push_back(output);
    }

    pub(crate) fn send(&mut self, peer: NodeId, stream: u16, frame: Vec<u8>) {
        self.push(Way::Send(peer, stream), Parcel::Frame(frame));
    }

    pub(crate) fn reply(&mut self, peer: NodeId, stream: u16, frame: Vec<u8>) {
        self.push(Way::Reply(peer, stream), Parcel::Frame(frame));
    }

    pub(crate) fn tell_worker(&mut self, worker: usize, message: ToWorker) {
        self.push(Way::Worker(worker), Parcel::Message(message));
    }

    /// How many frames wait on a stream to a peer.
    pub(crate) fn sends_queued(&self, peer: NodeId, stream: u16) -> usize {
        self.lanes
            .get(&Way::Send(peer, stream))
            .map_or(0, |lane| lane.queue.len())
    }

    /// How many answers wait on a stream of a peer.
    pub(crate) fn replies_queued(&self, peer: NodeId, stream: u16) -> usize {
        self.lanes
            .get(&Way::Reply(peer, stream))
            .map_or(0, |lane| lane.queue.len())
    }

    /// Drops what was to be sent to a peer: its connection is gone.
    pub(crate) fn clear_sends(&mut self, peer: NodeId) {
        self.clear(Way::Send(peer, 0), Way::Send(peer, u16::MAX));
    }

    /// Drops what was to be answered to a peer: its connection is gone.
    pub(crate) fn clear_replies(&mut self, peer: NodeId) {
        self.clear(Way::Reply(peer, 0), Way::Reply(peer, u16::MAX));
    }

    pub(crate) fn poll(&mut self) -> Option<Output> {
        if let Some(note) = self.notes.pop_front() {
            return Some(note);
        }
        while let Some(way) = self.ready.pop_front() {
            let lane = self
                .lanes
                .get_mut(&way)
                .expect("only lanes that exist are listed");
            lane.listed = false;
            if lane.blocked {
                continue;
            }
            let Some(parcel) = lane.queue.pop_front() else {
                continue;
            };
            self.list(way);
            return Some(match (way, parcel) {
                (Way::Send(peer, stream), Parcel::Frame(frame)) => Output::Send {
                    peer,
                    stream,
                    frame,
                },
                (Way::Reply(peer, stream), Parcel::Frame(frame)) => Output::Reply {
                    peer,
                    stream,
                    frame,
                },
                (Way::Worker(worker), Parcel::Message(message)) => {
                    Output::ToWorker { worker, message }
                }
                (Way::Send(..) | Way::Reply(..), Parcel::Message(_))
                | (Way::Worker(_), Parcel::Frame(_)) => {
                    unreachable!("streams carry frames and workers messages")
                }
            });
        }
        None
    }

    /// Takes back what the driver had no room for.
    pub(crate) fn refused(&mut self, output: Output) {
        let (way, parcel) = match output {
            Output::Send {
                peer,
                stream,
                frame,
            } => (Way::Send(peer, stream), Parcel::Frame(frame)),
            Output::Reply {
                peer,
                stream,
                frame,
            } => (Way::Reply(peer, stream), Parcel::Frame(frame)),
            Output::ToWorker { worker, message } => (Way::Worker(worker), Parcel::Message(message)),
            note => return self.notes.push_front(note),
        };
        let lane = self.lanes.entry(way).or_default();
        lane.queue.push_front(parcel);
        lane.blocked = true;
    }

    /// The driver has room again on a stream to a peer.
    pub(crate) fn send_ready(&mut self, peer: NodeId, stream: u16) {
        self.unblock(Way::Send(peer, stream));
    }

    /// The driver has room again for answers on a stream of a peer.
    pub(crate) fn reply_ready(&mut self, peer: NodeId, stream: u16) {
        self.unblock(Way::Reply(peer, stream));
    }

    /// The driver has room again for a worker.
    pub(crate) fn worker_ready(&mut self, worker: usize) {
        self.unblock(Way::Worker(worker));
    }

    /// Tries everything again that the driver had no room for.
    pub(crate) fn retry(&mut self) {
        for (way, lane) in &mut self.lanes {
            lane.blocked = false;
            if !lane.queue.is_empty() && !lane.listed {
                lane.listed = true;
                self.ready.push_back(*way);
            }
        }
    }

    fn push(&mut self, way: Way, parcel: Parcel) {
        self.lanes.entry(way).or_default().queue.push_back(parcel);
        self.list(way);
    }

    fn list(&mut self, way: Way) {
        let Some(lane) = self.lanes.get_mut(&way) else {
            return;
        };
        if !lane.queue.is_empty() && !lane.listed && !lane.blocked {
            lane.listed = true;
            self.ready.push_back(way);
        }
    }

    fn unblock(&mut self, way: Way) {
        if let Some(lane) = self.lanes.get_mut(&way) {
            lane.blocked = false;
            self.list(way);
        }
    }

    fn clear(&mut self, from: Way, to: Way) {
        for (_, lane) in self.lanes.range_mut(from..=to) {
            lane.blocked = false;
            lane.queue.clear();
        }
    }
}
