//! The outside world of a worker: one receive and transmit queue of one interface.
//!
//! # What an implementer owes
//!
//! * **Nothing blocks.** Every method returns at once; "nothing there" and "no room" are results.
//! * **A buffer is one contiguous segment** that holds a whole Ethernet frame without its frame
//!   check sequence. A frame that does not fit one segment is dropped by the implementer, who
//!   counts it.
//! * **`rx_burst` appends**, at most as many as the vector has room for, in order of arrival.
//! * **`tx_burst` removes exactly the prefix that it sent.** A transmitted buffer belongs to the
//!   device; what stays in the vector is still the caller's, in order.
//! * **Dropping a buffer returns its memory.** `free_burst` does the same for many at once and
//!   may be faster.
//! * **Nothing allocates** from the general heap after construction.

use arrayvec::ArrayVec;

/// The most packets that one burst holds.
pub const BURST_MAX: usize = 64;

/// A burst of buffers: what `rx_burst` fills and `tx_burst` drains.
pub type Burst<B> = ArrayVec<B, BURST_MAX>;

/// A buffer has no room for the asked length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet buffer has no room for {wanted} bytes")]
pub struct BufFull {
    /// The length in bytes that was asked for.
    pub wanted: usize,
}

/// One packet in one contiguous segment.
pub trait PacketBuf: Sized {
    /// The frame, from the Ethernet destination on.
    fn data(&self) -> &[u8];
    /// The frame, writable.
    fn data_mut(&mut self) -> &mut [u8];
    /// The receive-side-scaling hash that the device computed over addresses and ports with the
    /// symmetric key, if it did.
    fn rss_hash(&self) -> Option<u32>;
    /// Sets the frame's length in bytes by moving its end. New bytes have any value.
    fn set_len(&mut self, len: usize) -> Result<(), BufFull>;
    /// Grows the frame by `n` bytes at the front. New bytes have any value.
    fn grow_front(&mut self, n: usize) -> Result<(), BufFull>;
    /// Shrinks the frame by `n` bytes at the front.
    ///
    /// # Panics
    /// If the frame is shorter than `n`.
    fn shrink_front(&mut self, n: usize);
}

/// One queue pair of one interface, owned by one worker.
pub trait Port {
    /// The packets that it carries.
    type Buf: PacketBuf;

    /// Appends what has arrived to `out`; returns how many.
    fn rx_burst(&mut self, out: &mut Burst<Self::Buf>) -> usize;
    /// Sends a prefix of `bufs` and removes it from `bufs`; returns its length.
    fn tx_burst(&mut self, bufs: &mut Burst<Self::Buf>) -> usize;
    /// An empty buffer for a packet that the node itself originates, or `None` when the pool is
    /// empty.
    fn alloc(&mut self) -> Option<Self::Buf>;
    /// Frees many buffers at once.
    fn free_burst(&mut self, bufs: &mut Burst<Self::Buf>) {
        bufs.clear();
    }
    /// The interface's unicast Ethernet address.
    fn mac(&self) -> [u8; 6];
    /// Whether the link is up, as of the last time that anybody asked the device.
    fn link_up(&self) -> bool;
}
