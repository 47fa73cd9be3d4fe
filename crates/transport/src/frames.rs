//! Cutting a QUIC stream into frames: a little-endian u32 length, then that many bytes.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use quinn::RecvStream;

use crate::tuning::PREFIX_BYTES;

/// Chunks taken from the stream at once; a chunk is about one packet.
const CHUNKS_PER_READ: usize = 32;

/// What is reserved at first for a frame that spans packets, however long it claims to be: more
/// follows as its bytes arrive, so that a claim alone costs no memory.
const RESERVE_BYTES_MAX: usize = 256 << 10;

/// Why no further frame comes.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The peer finished the stream.
    Finished,
    /// The stream or the connection is gone.
    Lost,
    /// The peer finished the stream inside of a frame.
    Truncated,
    /// A frame claims more than the limit.
    TooLarge(usize),
}

impl Cut {
    fn inside(self, partial: bool) -> Self {
        match self {
            Self::Finished if partial => Self::Truncated,
            other => other,
        }
    }
}

pub(crate) struct FrameReader {
    stream: RecvStream,
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    frame_bytes_max: usize,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, frame_bytes_max: usize) -> Self {
        Self {
            stream,
            ready: VecDeque::with_capacity(CHUNKS_PER_READ),
            ready_bytes: 0,
            frame_bytes_max,
        }
    }

    /// The logical stream number in front of the first frame.
    pub(crate) async fn stream_number(&mut self) -> Result<u16, Cut> {
        self.fill(2).await?;
        Ok(self.cut(2).get_u16_le())
    }

    /// The next frame. It may share memory with the packets around it.
    pub(crate) async fn frame(&mut self) -> Result<Bytes, Cut> {
        self.fill(PREFIX_BYTES).await?;
        let len = self.cut(PREFIX_BYTES).get_u32_le() as usize;
        if len > self.frame_bytes_max {
            return Err(Cut::TooLarge(len));
        }
        if self.ready_bytes >= len {
            return Ok(self.cut(len));
        }
        let mut frame = BytesMut::with_capacity(len.min(RESERVE_BYTES_MAX));
        while frame.len() < len {
            if self.ready.is_empty() {
                self.read().await.map_err(|cut| cut.inside(true))?;
            }
            frame.extend_from_slice(&self.cut_within_front(len - frame.len()));
        }
        Ok(frame.freeze())
    }

    async fn fill(&mut self, len: usize) -> Result<(), Cut> {
        while self.ready_bytes < len {
            let partial = self.ready_bytes > 0;
            self.read().await.map_err(|cut| cut.inside(partial))?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Cut> {
        let mut chunks: [Bytes; CHUNKS_PER_READ] = Default::default();
        match self.stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                for chunk in chunks.into_iter().take(count) {
                    self.ready_bytes += chunk.len();
                    self.ready.push_back(chunk);
                }
                Ok(())
            }
            Ok(None) => Err(Cut::Finished),
            Err(_) => Err(Cut::Lost),
        }
    }

    /// The next `len` bytes, which are ready; without a copy when one chunk has them.
    fn cut(&mut self, len: usize) -> Bytes {
        if self.ready.front().is_none_or(|front| front.len() >= len) {
            return self.cut_within_front(len);
        }
        let mut joined = BytesMut::with_capacity(len);
        while joined.len() < len {
            joined.extend_from_slice(&self.cut_within_front(len - joined.len()));
        }
        joined.freeze()
    }

    /// Up to `len` bytes of the first chunk.
    fn cut_within_front(&mut self, len: usize) -> Bytes {
        let Some(front) = self.ready.front_mut() else {
            return Bytes::new();
        };
        let cut = front.split_to(len.min(front.len()));
        if front.is_empty() {
            self.ready.pop_front();
        }
        self.ready_bytes -= cut.len();
        cut
    }
}
