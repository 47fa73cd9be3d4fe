//! A port that replays frames from memory and takes its buffers back: unlike the engine's memory
//! port it does not allocate, so that what is measured is the worker and one copy of each frame.

use std::cell::RefCell;
use std::rc::Rc;

use engine::port::{BufFull, Burst, PacketBuf, Port};

/// Bytes of a replayed frame: the shortest of Ethernet, without its check sequence.
pub(crate) const FRAME: usize = 60;
const HEADROOM: usize = 32;
const ROOM: usize = 512;
/// Frames that one burst brings, as many as the configuration's default.
pub(crate) const BURST: usize = 32;

/// A buffer of a [`Pool`].
#[derive(Debug)]
pub(crate) struct ReplayBuf {
    bytes: Box<[u8; ROOM]>,
    start: usize,
    end: usize,
}

impl ReplayBuf {
    fn fill(&mut self, frame: &[u8]) {
        self.start = HEADROOM;
        self.end = HEADROOM + frame.len();
        self.bytes[self.start..self.end].copy_from_slice(frame);
    }
}

impl PacketBuf for ReplayBuf {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }

    fn set_len(&mut self, len: usize) -> Result<(), BufFull> {
        if self.start + len > ROOM {
            return Err(BufFull { wanted: len });
        }
        self.end = self.start + len;
        Ok(())
    }

    fn grow_front(&mut self, n: usize) -> Result<(), BufFull> {
        self.start = self.start.checked_sub(n).ok_or(BufFull { wanted: n })?;
        Ok(())
    }

    fn shrink_front(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "the frame is shorter than {n}");
        self.start += n;
    }
}

/// Buffers that nobody uses. The two ports of a worker share one, since what arrives on one leaves
/// on the other. A packet that the worker drops is missing from it.
pub(crate) type Pool = Rc<RefCell<Vec<ReplayBuf>>>;

/// A pool of so many buffers.
pub(crate) fn pool(buffers: usize) -> Pool {
    let empty = || ReplayBuf {
        bytes: Box::new([0; ROOM]),
        start: HEADROOM,
        end: HEADROOM,
    };
    Rc::new(RefCell::new((0..buffers).map(|_| empty()).collect()))
}

/// A port on which frames arrive from a list, round and round.
#[derive(Debug)]
pub(crate) struct ReplayPort {
    /// What arrives.
    pub(crate) frames: Vec<[u8; FRAME]>,
    /// Where in it.
    pub(crate) at: usize,
    /// How many more arrive.
    pub(crate) left: usize,
    /// How many were sent.
    pub(crate) sent: usize,
    pool: Pool,
    mac: [u8; 6],
}

impl ReplayPort {
    pub(crate) fn new(mac: [u8; 6], pool: Pool) -> Self {
        Self {
            frames: vec![],
            at: 0,
            left: 0,
            sent: 0,
            pool,
            mac,
        }
    }

    /// Has these frames arrive, once.
    pub(crate) fn replay(&mut self, frames: Vec<[u8; FRAME]>) {
        self.left = frames.len();
        self.at = 0;
        self.frames = frames;
    }
}

impl Port for ReplayPort {
    type Buf = ReplayBuf;

    fn rx_burst(&mut self, out: &mut Burst<ReplayBuf>) -> usize {
        let mut pool = self.pool.borrow_mut();
        let count = self
            .left
            .min(BURST)
            .min(pool.len())
            .min(out.remaining_capacity());
        for _ in 0..count {
            let mut buf = pool.pop().expect("counted");
            buf.fill(&self.frames[self.at]);
            self.at += 1;
            if self.at == self.frames.len() {
                self.at = 0;
            }
            out.push(buf);
        }
        self.left -= count;
        count
    }

    fn tx_burst(&mut self, bufs: &mut Burst<ReplayBuf>) -> usize {
        let count = bufs.len();
        self.pool.borrow_mut().extend(bufs.drain(..));
        self.sent += count;
        count
    }

    fn alloc(&mut self) -> Option<ReplayBuf> {
        let mut buf = self.pool.borrow_mut().pop()?;
        buf.fill(&[]);
        Some(buf)
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        true
    }
}
