//! The network between the nodes, with what the transport promises: connections in both
//! directions of a pair, one per dialer and purpose; frames of a stream in order or, when the
//! connection ends, not at all; bounded queues; datagrams that may be lost.

use std::collections::{BTreeMap, VecDeque};

use crate::queue::{Event, Queue};
use crate::random::Rng;
use crate::report::Stats;

/// As the transport's `idle_timeout`, scaled to the length of a run.
const IDLE_US: u64 = 2_000_000;
/// As the transport's `keep_alive`, scaled likewise: a quiet side says something after this.
const KEEP_ALIVE_US: u64 = 400_000;
/// An attempt to dial that is not answered is given up after this.
const ATTEMPT_US: u64 = 300_000;
const BACKOFF_US: (u64, u64) = (20_000, 200_000);
/// A lost packet of a stream costs about this before it is there.
const RESENT_US: (u64, u64) = (500, 20_000);

/// What a connection is for: each node has an endpoint for either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    Sync,
    Member,
}

/// The two ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Side {
    Dialer,
    Acceptor,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

pub(crate) type ConnId = usize;

/// What a core is told by its endpoint.
#[derive(Debug)]
pub(crate) enum Heard {
    Connected {
        peer: usize,
    },
    Disconnected {
        peer: usize,
    },
    /// On the connection that the peer dialed.
    Frame {
        peer: usize,
        conn: ConnId,
        stream: u16,
        bytes: Vec<u8>,
    },
    /// On the connection that this node dialed.
    Answer {
        peer: usize,
        conn: ConnId,
        stream: u16,
        bytes: Vec<u8>,
    },
    Datagram {
        peer: usize,
        bytes: Vec<u8>,
    },
}

/// Something for a core of a node, if that run of it is still there.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) node: usize,
    pub(crate) run: u64,
    pub(crate) kind: Kind,
    pub(crate) heard: Heard,
}

#[derive(Debug)]
struct Conn {
    kind: Kind,
    /// Node and run, by side.
    ends: [(usize, u64); 2],
    /// By side: it believes in the connection.
    open: [bool; 2],
    lanes: BTreeMap<(Side, u16), Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    /// When the last frame arrives.
    last_us: u64,
    /// Bytes sent and not taken yet.
    bytes: usize,
    /// What waits for the path to be open again.
    waiting: VecDeque<Vec<u8>>,
}

/// Why nothing can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendError {
    Full,
    NotConnected,
}

/// A process, as far as the network sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Presence {
    /// The run; 0 while there is none.
    pub(crate) run: u64,
    /// Since when it stands still.
    pub(crate) paused_us: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// By node and peer and kind: the connection that the node dialed.
    dialed: BTreeMap<(usize, usize, Kind), ConnId>,
    /// Directed paths that deliver nothing, and since when.
    cut: BTreeMap<(usize, usize), u64>,
    pub(crate) presence: Vec<Presence>,
    rng: Rng,
    delay_us: (u64, u64),
    loss: u32,
    duplication: u32,
    corruption: u32,
    queue_bytes_max: usize,
    /// What is to be handed over; emptied after each event.
    pub(crate) deliveries: VecDeque<Delivery>,
}

impl Net {
    pub(crate) fn new(options: &crate::Options) -> Self {
        let faults = &options.faults;
        Self {
            conns: BTreeMap::new(),
            next: 0,
            dialed: BTreeMap::new(),
            cut: BTreeMap::new(),
            presence: vec![Presence::default(); options.nodes],
            rng: Rng::new(options.seed, 2),
            delay_us: faults.link_delay_us,
            loss: faults.link_loss,
            duplication: faults.link_duplication,
            corruption: faults.link_corruption,
            queue_bytes_max: if faults.tiny_queues { 1 << 11 } else { 1 << 18 },
            deliveries: VecDeque::new(),
        }
    }

    /// A run of a node has begun: it dials everybody.
    pub(crate) fn started(&mut self, node: usize, run: u64, now_us: u64, queue: &mut Queue) {
        self.presence[node] = Presence {
            run,
            paused_us: None,
        };
        // It knows nothing of its former life's connections, and resets them with the next that it hears
        // on them (RFC 9000, section 10.3).
        for (id, conn) in &self.conns {
            for side in [Side::Dialer, Side::Acceptor] {
                if conn.open[side.index()] && conn.ends[side.other().index()].0 == node {
                    let at_us = now_us + self.rng.range(100..=KEEP_ALIVE_US);
                    queue.put(at_us, Event::Reset { conn: *id, side });
                }
            }
        }
        for peer in 0..self.presence.len() {
            if peer != node {
                for kind in [Kind::Sync, Kind::Member] {
                    let at_us = now_us + self.rng.range(100..=2_000);
                    queue.put(
                        at_us,
                        Event::Dial {
                            node,
                            run,
                            peer,
                            kind,
                        },
                    );
                }
            }
        }
    }

    /// A run of a node is gone without a word.
    pub(crate) fn crashed(&mut self, node: usize, now_us: u64, queue: &mut Queue) {
        let run = self.presence[node].run;
        self.presence[node] = Presence::default();
        self.dialed.retain(|(dialer, ..), _| *dialer != node);
        for (id, conn) in &mut self.conns {
            for side in [Side::Dialer, Side::Acceptor] {
                if conn.ends[side.index()] == (node, run) && conn.open[side.index()] {
                    conn.open[side.index()] = false;
                    queue.put(
                        now_us + IDLE_US,
                        Event::IdleCheck {
                            conn: *id,
                            side: side.other(),
                        },
                    );
                }
            }
        }
        self.conns.retain(|_, conn| conn.open != [false; 2]);
    }

    /// A run of a node ends in good order: its peers hear that its connections are closed.
    pub(crate) fn ended(&mut self, node: usize, now_us: u64, queue: &mut Queue) {
        for peer in (0..self.presence.len()).filter(|peer| *peer != node) {
            for kind in [Kind::Sync, Kind::Member] {
                self.close(node, peer, kind, now_us, queue);
            }
        }
        self.crashed(node, now_us, queue);
    }

    pub(crate) fn paused(&mut self, node: usize, now_us: u64, queue: &mut Queue) {
        self.presence[node].paused_us = Some(now_us);
        for (id, conn) in &self.conns {
            for side in [Side::Dialer, Side::Acceptor] {
                if conn.ends[side.index()].0 == node {
                    queue.put(
                        now_us + IDLE_US,
                        Event::IdleCheck {
                            conn: *id,
                            side: side.other(),
                        },
                    );
                }
            }
        }
    }

    pub(crate) fn resumed(&mut self, node: usize) {
        self.presence[node].paused_us = None;
    }

    /// Nothing passes from `from` to `to` any more.
    pub(crate) fn cut(&mut self, from: usize, to: usize, now_us: u64, queue: &mut Queue) {
        self.cut.entry((from, to)).or_insert(now_us);
        for (id, conn) in &self.conns {
            for side in [Side::Dialer, Side::Acceptor] {
                let here = conn.ends[side.index()].0;
                let there = conn.ends[side.other().index()].0;
                if (there, here) == (from, to) {
                    queue.put(now_us + IDLE_US, Event::IdleCheck { conn: *id, side });
                }
            }
        }
    }

    /// Every path is open again: what waited for it leaves.
    pub(crate) fn heal(&mut self, now_us: u64, queue: &mut Queue) {
        self.cut.clear();
        let mut waiting = Vec::new();
        for (id, conn) in &mut self.conns {
            for ((side, stream), lane) in &mut conn.lanes {
                for bytes in lane.waiting.drain(..) {
                    waiting.push((*id, *side, *stream, bytes));
                }
            }
        }
        for (conn, side, stream, bytes) in waiting {
            self.transmit(conn, side, stream, bytes, now_us, queue);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    fn open_path(&self, from: usize, to: usize) -> bool {
        !self.cut.contains_key(&(from, to))
    }

    /// Sends on the connection that `node` dialed to `peer`.
    pub(crate) fn send(
        &mut self,
        node: usize,
        peer: usize,
        stream: u16,
        bytes: &[u8],
        now_us: u64,
        queue: &mut Queue,
    ) -> Result<(), SendError> {
        let conn = self
            .dialed
            .get(&(node, peer, Kind::Sync))
            .ok_or(SendError::NotConnected)?;
        self.enqueue(*conn, Side::Dialer, stream, bytes, now_us, queue)
    }

    /// Answers on the connection on which a frame came.
    pub(crate) fn reply(
        &mut self,
        conn: ConnId,
        stream: u16,
        bytes: &[u8],
        now_us: u64,
        queue: &mut Queue,
    ) -> Result<(), SendError> {
        self.enqueue(conn, Side::Acceptor, stream, bytes, now_us, queue)
    }

    fn enqueue(
        &mut self,
        id: ConnId,
        side: Side,
        stream: u16,
        bytes: &[u8],
        now_us: u64,
        queue: &mut Queue,
    ) -> Result<(), SendError> {
        let max = self.queue_bytes_max;
        let conn = self.conns.get_mut(&id).ok_or(SendError::NotConnected)?;
        if !conn.open[side.index()] {
            return Err(SendError::NotConnected);
        }
        let lane = conn.lanes.entry((side, stream)).or_default();
        if lane.bytes > 0 && lane.bytes + bytes.len() > max {
            return Err(SendError::Full);
        }
        lane.bytes += bytes.len();
        self.transmit(id, side, stream, bytes.to_vec(), now_us, queue);
        Ok(())
    }

    fn transmit(
        &mut self,
        id: ConnId,
        side: Side,
        stream: u16,
        bytes: Vec<u8>,
        now_us: u64,
        queue: &mut Queue,
    ) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let path = (conn.ends[side.index()].0, conn.ends[side.other().index()].0);
        let open = self.open_path(path.0, path.1);
        let mut took_us = self.delay();
        while self.rng.chance(self.loss) {
            took_us += self.rng.range(RESENT_US.0..=RESENT_US.1);
        }
        let lane = self
            .conns
            .get_mut(&id)
            .and_then(|conn| conn.lanes.get_mut(&(side, stream)))
            .expect("whoever sends has made the lane");
        if !open || !lane.waiting.is_empty() {
            lane.waiting.push_back(bytes);
            return;
        }
        lane.last_us = lane.last_us.max(now_us + took_us);
        queue.put(
            lane.last_us,
            Event::Frame {
                conn: id,
                from: side,
                stream,
                bytes,
            },
        );
    }

    fn delay(&mut self) -> u64 {
        // Mostly near the least, as on a switch.
        let (least, most) = self.delay_us;
        let spread = most - least;
        match self.rng.below(8) {
            0 => least + self.rng.below(spread + 1),
            _ => least + self.rng.below(spread / 8 + 1),
        }
    }

    /// A frame has arrived.
    pub(crate) fn arrive(
        &mut self,
        id: ConnId,
        from: Side,
        stream: u16,
        mut bytes: Vec<u8>,
        stats: &mut Stats,
    ) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if !conn.open[from.other().index()] {
            return;
        }
        let (node, run) = conn.ends[from.other().index()];
        let (peer, _) = conn.ends[from.index()];
        let kind = conn.kind;
        if self.rng.chance(self.corruption) {
            self.damage(&mut bytes);
            stats.frames_damaged += 1;
        }
        let heard = match from {
            Side::Dialer => Heard::Frame {
                peer,
                conn: id,
                stream,
                bytes,
            },
            Side::Acceptor => Heard::Answer {
                peer,
                conn: id,
                stream,
                bytes,
            },
        };
        self.deliveries.push_back(Delivery {
            node,
            run,
            kind,
            heard,
        });
    }

    /// A core took a frame out of its endpoint.
    pub(crate) fn taken(&mut self, conn: ConnId, from: Side, stream: u16, len: usize) {
        if let Some(lane) = self
            .conns
            .get_mut(&conn)
            .and_then(|conn| conn.lanes.get_mut(&(from, stream)))
        {
            lane.bytes = lane.bytes.saturating_sub(len);
        }
    }

    /// Damage that cannot be taken for something else: of another version, or cut to less than any
    /// message has. (What is shifted, or has a bit flipped, may read as another message: against that
    /// there is the transport's encryption.)
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.rng.below(2) {
            0 => bytes.truncate(self.rng.below(bytes.len().min(9) as u64) as usize),
            _ => bytes[0] ^= 0xf0,
        }
    }

    /// Sends a datagram on the connection that `node` dialed for heartbeats, if there is one.
    pub(crate) fn send_datagram(
        &mut self,
        node: usize,
        peer: usize,
        bytes: &[u8],
        now_us: u64,
        queue: &mut Queue,
        stats: &mut Stats,
    ) {
        let Some(conn) = self.dialed.get(&(node, peer, Kind::Member)).copied() else {
            return;
        };
        let open = self.open_path(node, peer);
        if !open || self.rng.chance(self.loss) {
            stats.datagrams_lost += 1;
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.duplication));
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            if self.rng.chance(self.corruption) {
                self.damage(&mut bytes);
                stats.datagrams_damaged += 1;
            }
            let at_us = now_us + self.delay();
            queue.put(at_us, Event::Datagram { conn, bytes });
        }
    }

    pub(crate) fn datagram(&mut self, id: ConnId, bytes: Vec<u8>) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if !conn.open[Side::Acceptor.index()] {
            return;
        }
        let (node, run) = conn.ends[Side::Acceptor.index()];
        let (peer, _) = conn.ends[Side::Dialer.index()];
        self.deliveries.push_back(Delivery {
            node,
            run,
            kind: Kind::Member,
            heard: Heard::Datagram { peer, bytes },
        });
    }

    /// One attempt of a node to reach a peer.
    pub(crate) fn dial(
        &mut self,
        (node, run): (usize, u64),
        peer: usize,
        kind: Kind,
        now_us: u64,
        queue: &mut Queue,
    ) {
        if self.presence[node].run != run || self.dialed.contains_key(&(node, peer, kind)) {
            return;
        }
        let there = self.presence[peer];
        let answers = there.run != 0
            && there.paused_us.is_none()
            && self.presence[node].paused_us.is_none()
            && self.open_path(node, peer)
            && self.open_path(peer, node)
            && !self.rng.chance(self.loss);
        if answers {
            let took_us = (0..3).map(|_| self.delay()).sum::<u64>();
            let peer_run = there.run;
            queue.put(
                now_us + took_us,
                Event::Shaken {
                    node,
                    run,
                    peer,
                    peer_run,
                    kind,
                },
            );
        } else {
            let pause_us = ATTEMPT_US + self.rng.range(BACKOFF_US.0..=BACKOFF_US.1);
            queue.put(
                now_us + pause_us,
                Event::Dial {
                    node,
                    run,
                    peer,
                    kind,
                },
            );
        }
    }

    /// A handshake has ended well, if both are still there.
    pub(crate) fn shaken(
        &mut self,
        (node, run): (usize, u64),
        (peer, peer_run): (usize, u64),
        kind: Kind,
        now_us: u64,
        queue: &mut Queue,
    ) {
        if self.presence[node].run != run || self.dialed.contains_key(&(node, peer, kind)) {
            return;
        }
        let open = self.open_path(node, peer) && self.open_path(peer, node);
        if self.presence[peer].run != peer_run || !open {
            let pause_us = self.rng.range(BACKOFF_US.0..=BACKOFF_US.1);
            queue.put(
                now_us + pause_us,
                Event::Dial {
                    node,
                    run,
                    peer,
                    kind,
                },
            );
            return;
        }
        // The acceptor knows one connection per peer: the one before it is closed.
        let old: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| {
                conn.kind == kind && conn.ends[0].0 == node && conn.ends[1] == (peer, peer_run)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.close_side(id, Side::Acceptor, now_us, queue);
        }
        let id = self.next;
        self.next += 1;
        self.conns.insert(
            id,
            Conn {
                kind,
                ends: [(node, run), (peer, peer_run)],
                open: [true; 2],
                lanes: BTreeMap::new(),
            },
        );
        self.dialed.insert((node, peer, kind), id);
        // Whoever is dialed asks on its own connection whether it still leads to the same run.
        if let Some(own) = self.dialed.get(&(peer, node, kind)).copied() {
            let at_us = now_us + self.delay() + self.delay();
            let side = Side::Dialer;
            queue.put(at_us, Event::Reset { conn: own, side });
        }
        self.deliveries.push_back(Delivery {
            node,
            run,
            kind,
            heard: Heard::Connected { peer },
        });
    }

    /// A node closes its connections with a peer, in both directions, and dials it again.
    pub(crate) fn close(
        &mut self,
        node: usize,
        peer: usize,
        kind: Kind,
        now_us: u64,
        queue: &mut Queue,
    ) {
        let between: Vec<(ConnId, Side)> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.kind == kind)
            .filter_map(|(id, conn)| match (conn.ends[0].0, conn.ends[1].0) {
                (d, a) if (d, a) == (node, peer) => Some((*id, Side::Dialer)),
                (d, a) if (d, a) == (peer, node) => Some((*id, Side::Acceptor)),
                _ => None,
            })
            .collect();
        for (id, side) in between {
            self.close_side(id, side, now_us, queue);
        }
    }

    /// A node leaves the connection that it dialed, and dials the peer anew without a back-off. The one that
    /// the peer dialed stays.
    pub(crate) fn redial(
        &mut self,
        node: usize,
        peer: usize,
        kind: Kind,
        now_us: u64,
        queue: &mut Queue,
    ) {
        if let Some(id) = self.dialed.get(&(node, peer, kind)).copied() {
            self.close_side(id, Side::Dialer, now_us, queue);
        }
        let run = self.presence[node].run;
        queue.put(
            now_us + 10,
            Event::Dial {
                node,
                run,
                peer,
                kind,
            },
        );
    }

    /// A side leaves the connection; the other hears of it when the path lets it.
    fn close_side(&mut self, id: ConnId, side: Side, now_us: u64, queue: &mut Queue) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut conn.open[side.index()]) {
            return;
        }
        let (node, run) = conn.ends[side.index()];
        let (peer, _) = conn.ends[side.other().index()];
        let kind = conn.kind;
        let others = conn.open[side.other().index()];
        let heard = self.open_path(node, peer);
        if others {
            let at_us = match heard {
                true => now_us + self.delay(),
                false => now_us + IDLE_US,
            };
            let side = side.other();
            queue.put(at_us, Event::Closed { conn: id, side });
        } else {
            self.conns.remove(&id);
        }
        if side == Side::Dialer {
            if self.dialed.get(&(node, peer, kind)) == Some(&id) {
                self.dialed.remove(&(node, peer, kind));
            }
            self.deliveries.push_back(Delivery {
                node,
                run,
                kind,
                heard: Heard::Disconnected { peer },
            });
            let pause_us = self.rng.range(BACKOFF_US.0..=BACKOFF_US.1);
            queue.put(
                now_us + pause_us,
                Event::Dial {
                    node,
                    run,
                    peer,
                    kind,
                },
            );
        }
    }

    pub(crate) fn closed(&mut self, id: ConnId, side: Side, now_us: u64, queue: &mut Queue) {
        self.close_side(id, side, now_us, queue);
    }

    /// A side has said something on a connection: when the other's run is gone, and another one is there
    /// in its place, that resets the connection.
    pub(crate) fn reset(&mut self, id: ConnId, side: Side, now_us: u64, queue: &mut Queue) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (here, there) = (conn.ends[side.index()], conn.ends[side.other().index()]);
        let present = self.presence[there.0];
        let heard = self.open_path(here.0, there.0) && self.open_path(there.0, here.0);
        if present.run != 0 && present.run != there.1 && present.paused_us.is_none() && heard {
            self.close_side(id, side, now_us, queue);
        }
    }

    /// Whether a side has been without a word for too long; if so it gives up the connection.
    pub(crate) fn idle_check(&mut self, id: ConnId, side: Side, now_us: u64, queue: &mut Queue) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (here, there) = (conn.ends[side.index()], conn.ends[side.other().index()]);
        let gone = self.presence[there.0].run != there.1;
        let since = [
            self.cut.get(&(there.0, here.0)).copied(),
            self.presence[there.0].paused_us.filter(|_| !gone),
        ];
        let silent = since
            .iter()
            .flatten()
            .any(|since| now_us >= *since + IDLE_US);
        if gone || silent {
            self.close_side(id, side, now_us, queue);
        }
    }

    /// Whether the connection that `node` dialed to `peer` stands.
    pub(crate) fn is_connected(&self, node: usize, peer: usize, kind: Kind) -> bool {
        self.dialed.contains_key(&(node, peer, kind))
    }
}
