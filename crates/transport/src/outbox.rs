//! A bounded queue of frames in front of one QUIC stream, filled by a plain call and emptied by a
//! task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::SendStream;
use tokio::sync::Notify;

use crate::PeerId;
use crate::fault::SendError;
use crate::tuning::PREFIX_BYTES;

/// Frames up to this length are copied behind their prefix, many to one buffer; longer ones are
/// passed on as they are. A copy of this size costs about as much as one more chunk in the stream.
const COPY_BYTES_MAX: usize = 4096;

/// A turn of the writer takes about this much, so that the copies of a turn stay in the cache.
const TURN_BYTES_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// The writer waits for frames here.
    filled: Notify,
    /// The shutdown waits for the end here.
    ended: Notify,
    frame_bytes_max: usize,
    queue_bytes_max: usize,
}

#[derive(Debug)]
struct State {
    frames: VecDeque<Bytes>,
    /// Of the frames here and of those that the writer has in hand, prefixes included.
    bytes: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no more frames; the writer finishes the stream behind the last one.
    Finishing,
    /// The writer is gone.
    Ended,
}

impl Outbox {
    pub(crate) fn new(frame_bytes_max: usize, queue_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                frames: VecDeque::new(),
                bytes: 0,
                phase: Phase::Open,
            }),
            filled: Notify::new(),
            ended: Notify::new(),
            frame_bytes_max,
            queue_bytes_max,
        })
    }

    pub(crate) fn push(&self, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > self.frame_bytes_max {
            return Err(SendError::TooLarge {
                len: frame.len(),
                max: self.frame_bytes_max,
            });
        }
        let mut state = self.state();
        if state.phase != Phase::Open {
            return Err(SendError::NotConnected);
        }
        let bytes = state.bytes + PREFIX_BYTES + frame.len();
        if bytes > self.queue_bytes_max {
            return Err(SendError::Full {
                queued: state.bytes,
                max: self.queue_bytes_max,
            });
        }
        state.bytes = bytes;
        state.frames.push_back(frame);
        let first = state.frames.len() == 1;
        drop(state);
        // The writer looks again before it waits, so only the first frame needs to wake it.
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(crate) fn queued(&self) -> usize {
        self.state().bytes
    }

    pub(crate) fn finish(&self) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            state.phase = Phase::Finishing;
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Drops what is queued. For when the connection is gone.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        state.frames.clear();
        state.bytes = 0;
        drop(state);
        self.filled.notify_one();
        self.ended.notify_waiters();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().phase == Phase::Ended
    }

    pub(crate) async fn ended(&self) {
        loop {
            // Made before the look at the phase, so that no wake is missed.
            let ended = self.ended.notified();
            if self.has_ended() {
                return;
            }
            ended.await;
        }
    }

    /// Moves the next frames, prefixed, into `chunks`; false when no more will come.
    async fn take(&self, chunks: &mut Vec<Bytes>) -> bool {
        loop {
            {
                let mut state = self.state();
                if !state.frames.is_empty() {
                    pack(&mut state.frames, chunks);
                    return true;
                }
                if state.phase != Phase::Open {
                    return false;
                }
            }
            self.filled.notified().await;
        }
    }

    fn written(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what comes into `outbox` to `stream` behind `preface`, until the outbox is finished and
/// the peer has acknowledged all, or until the connection is gone. Whichever way this ends, also
/// by being dropped, the outbox has ended afterwards.
pub(crate) async fn pump(outbox: Arc<Outbox>, mut stream: SendStream, preface: &[u8]) {
    let _end = EndOnDrop(&outbox);
    let mut chunks = Vec::new();
    if !preface.is_empty() && stream.write_all(preface).await.is_err() {
        return;
    }
    while outbox.take(&mut chunks).await {
        let mut rest = &mut chunks[..];
        while !rest.is_empty() {
            // The only errors are that the connection or the stream is gone; whoever owns the
            // connection reports why.
            let Ok(written) = stream.write_chunks(rest).await else {
                return;
            };
            outbox.written(written.bytes);
            rest = &mut rest[written.chunks..];
        }
        chunks.clear();
    }
    if stream.finish().is_ok() {
        // Resolves when all is acknowledged, or with an error when the connection is gone; there
        // is nothing left to do in either case.
        let _ = stream.stopped().await;
    }
}

struct EndOnDrop<'a>(&'a Outbox);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn pack(frames: &mut VecDeque<Bytes>, chunks: &mut Vec<Bytes>) -> usize {
    let mut packed = BytesMut::new();
    let mut total = 0;
    while let Some(frame) = frames.pop_front() {
        total += PREFIX_BYTES + frame.len();
        // Cannot be cut off: `Tuning::check` keeps frames at most 1 GiB.
        packed.put_u32_le(frame.len() as u32);
        if frame.len() <= COPY_BYTES_MAX {
            packed.extend_from_slice(&frame);
        } else {
            chunks.push(packed.split().freeze());
            chunks.push(frame);
        }
        if total >= TURN_BYTES_MAX {
            break;
        }
    }
    if !packed.is_empty() {
        chunks.push(packed.freeze());
    }
    total
}

/// Answers on the stream that a frame came on. Cheap to clone; answers leave in the order in
/// which they are sent, whichever clone sends them.
#[derive(Debug, Clone)]
pub struct ReplyHandle {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) peer: PeerId,
    pub(crate) stream: u16,
}

impl ReplyHandle {
    /// Queues an answer; never blocks. Errors: [`SendError::Full`], [`SendError::TooLarge`], and
    /// [`SendError::NotConnected`] when the connection that the frame came on is gone.
    pub fn send(&self, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.outbox.push(frame.into())
    }

    /// Bytes of answers that wait to be written, length prefixes included.
    pub fn queued(&self) -> usize {
        self.outbox.queued()
    }

    /// The peer that gets the answers.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The peer's logical stream.
    pub fn stream(&self) -> u16 {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(lens: &[usize]) -> (Vec<Bytes>, usize, usize) {
        let mut frames: VecDeque<_> = lens
            .iter()
            .enumerate()
            .map(|(i, len)| Bytes::from(vec![i as u8; *len]))
            .collect();
        let mut chunks = Vec::new();
        let total = pack(&mut frames, &mut chunks);
        (chunks, total, frames.len())
    }

    #[test]
    fn frames_are_packed_in_order_behind_their_lengths() {
        let lens = [0, 1, 100, COPY_BYTES_MAX, COPY_BYTES_MAX + 1, 7];
        let (chunks, total, left) = packed(&lens);
        assert_eq!(left, 0);
        let mut bytes = chunks.concat();
        assert_eq!(bytes.len(), total);
        for (i, len) in lens.iter().enumerate() {
            assert_eq!(bytes[..4], (*len as u32).to_le_bytes());
            assert!(bytes[4..4 + len].iter().all(|b| *b == i as u8));
            bytes.drain(..4 + len);
        }
        // All small ones share a chunk; the large one is passed on as it is.
        assert_eq!(chunks.len(), 3);
    }

    #[test]
    fn a_turn_is_bounded() {
        let (_, total, left) = packed(&[100_000; 10]);
        assert_eq!((total, left), (3 * 100_004, 7));
    }

    #[test]
    fn the_limit_counts_what_the_writer_has_in_hand() {
        let outbox = Outbox::new(100, 208);
        outbox.push(Bytes::from(vec![0; 100])).unwrap();
        outbox.push(Bytes::from(vec![0; 100])).unwrap();
        let full = Err(SendError::Full {
            queued: 208,
            max: 208,
        });
        assert_eq!(outbox.push(Bytes::new()), full);
        let mut chunks = Vec::new();
        let taken = pack(&mut outbox.state().frames, &mut chunks);
        assert_eq!(outbox.push(Bytes::new()), full);
        outbox.written(taken);
        assert_eq!(outbox.queued(), 0);
        outbox.push(Bytes::new()).unwrap();
        assert_eq!(
            outbox.push(Bytes::from(vec![0; 101])),
            Err(SendError::TooLarge { len: 101, max: 100 })
        );
        outbox.end();
        assert_eq!(outbox.push(Bytes::new()), Err(SendError::NotConnected));
        assert_eq!(outbox.queued(), 0);
    }
}
