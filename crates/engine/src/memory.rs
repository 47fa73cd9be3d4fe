//! A port over memory: frames go in and come out as vectors. For tests and simulation; allocates.

use std::collections::VecDeque;

use crate::port::{BufFull, Burst, PacketBuf, Port};

/// Room in front of a frame, for tags.
const HEADROOM: usize = 32;
/// Bytes of a frame at most.
const FRAME_MAX: usize = 2048;

/// A frame in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBuf {
    bytes: Vec<u8>,
    start: usize,
}

impl MemoryBuf {
    /// A buffer with this frame, with room for the longest, so that a worker that makes it longer allocates nothing.
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(HEADROOM + FRAME_MAX);
        bytes.resize(HEADROOM, 0);
        bytes.extend_from_slice(frame);
        Self {
            bytes,
            start: HEADROOM,
        }
    }
}

impl PacketBuf for MemoryBuf {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }

    fn set_len(&mut self, len: usize) -> Result<(), BufFull> {
        if len > FRAME_MAX {
            return Err(BufFull { wanted: len });
        }
        self.bytes.resize(self.start + len, 0);
        Ok(())
    }

    fn grow_front(&mut self, n: usize) -> Result<(), BufFull> {
        self.start = self.start.checked_sub(n).ok_or(BufFull { wanted: n })?;
        Ok(())
    }

    fn shrink_front(&mut self, n: usize) {
        assert!(n <= self.data().len(), "the frame is shorter than {n}");
        self.start += n;
    }
}

/// A port whose wire is two queues.
#[derive(Debug)]
pub struct MemoryPort {
    /// Frames that will be received, in order.
    pub arriving: VecDeque<Vec<u8>>,
    /// Frames that were sent, in order.
    pub sent: Vec<Vec<u8>>,
    /// How many more frames the device takes; `None` for any number.
    pub room: Option<usize>,
    /// How many more buffers the pool gives; `None` for any number.
    pub pool: Option<usize>,
    mac: [u8; 6],
}

impl MemoryPort {
    /// With this unicast address.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            arriving: VecDeque::new(),
            sent: vec![],
            room: None,
            pool: None,
            mac,
        }
    }
}

impl Port for MemoryPort {
    type Buf = MemoryBuf;

    fn rx_burst(&mut self, out: &mut Burst<MemoryBuf>) -> usize {
        let n = self.arriving.len().min(out.remaining_capacity());
        out.extend(self.arriving.drain(..n).map(|frame| MemoryBuf::new(&frame)));
        n
    }

    fn tx_burst(&mut self, bufs: &mut Burst<MemoryBuf>) -> usize {
        let n = self.room.map_or(bufs.len(), |room| room.min(bufs.len()));
        if let Some(room) = &mut self.room {
            *room -= n;
        }
        self.sent
            .extend(bufs.drain(..n).map(|buf| buf.data().to_vec()));
        n
    }

    fn alloc(&mut self) -> Option<MemoryBuf> {
        if let Some(pool) = &mut self.pool {
            *pool = pool.checked_sub(1)?;
        }
        Some(MemoryBuf::new(&[]))
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        true
    }
}
