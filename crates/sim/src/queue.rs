//! What will happen, in order of time; of two things at one time the one that was put in first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::net::{ConnId, Kind, Side};

/// A core of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Core {
    Worker(usize),
    Sync,
    Member,
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A core of a run of a node has its turn, unless it was called earlier since.
    Turn {
        node: usize,
        run: u64,
        core: Core,
        ticket: u64,
    },
    /// A frame from a host reaches a node's port.
    ToNode {
        node: usize,
        port: usize,
        frame: Vec<u8>,
    },
    /// A frame from a node reaches the hosts of a segment.
    ToHosts { port: usize, frame: Vec<u8> },
    /// A frame reaches the other side of a connection.
    Frame {
        conn: ConnId,
        from: Side,
        stream: u16,
        bytes: Vec<u8>,
    },
    /// A datagram of a connection reaches the other side.
    Datagram { conn: ConnId, bytes: Vec<u8> },
    /// A side looks whether the other has been silent for too long.
    IdleCheck { conn: ConnId, side: Side },
    /// An operator writes common state.
    Write,
    /// A side says something, and would hear that the other knows nothing of the connection.
    Reset { conn: ConnId, side: Side },
    /// A side hears that the other has closed.
    Closed { conn: ConnId, side: Side },
    /// A run of a node dials a peer.
    Dial {
        node: usize,
        run: u64,
        peer: usize,
        kind: Kind,
    },
    /// A handshake is complete.
    Shaken {
        node: usize,
        run: u64,
        peer: usize,
        peer_run: u64,
        kind: Kind,
    },
    /// A host's connection has a timer.
    Host { flow: usize, ticket: u64 },
    /// A client opens something.
    Open,
    /// The schedule of failures moves on.
    Schedule,
    /// What a failure undoes at its end.
    Undo(Undo),
    /// The oracle looks at all tables.
    Scan,
}

/// The end of a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Undo {
    /// A further node of the same failure crashes.
    Crash {
        node: usize,
    },
    Start {
        node: usize,
        clock_lost: bool,
    },
    Resume {
        node: usize,
    },
    Slow,
    Stall,
    Heal,
    Cut,
    /// Somebody looks how far an order to go offline is; what follows depends on it.
    Drained {
        node: usize,
        run: u64,
    },
    /// A drained node is to come back.
    Undrain {
        node: usize,
        run: u64,
    },
    /// A process that has handed everything over and said goodbye ends.
    Exit {
        node: usize,
        run: u64,
    },
}

#[derive(Debug)]
struct Entry {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Queue {
    pub(crate) fn put(&mut self, at_us: u64, event: Event) {
        self.number += 1;
        let number = self.number;
        self.heap.push(Reverse(Entry {
            at_us,
            number,
            event,
        }));
    }

    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at_us, entry.event))
    }
}
