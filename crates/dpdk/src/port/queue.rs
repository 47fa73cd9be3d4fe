//! One queue pair, as the worker sees it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dpdk_sys::rte_mbuf;
use engine::port::{BURST_MAX, Burst, Port};

use super::PortInner;
use crate::mbuf::{Mbuf, raw};
use crate::mempool::Mempool;

// Bursts hand the vector's storage to DPDK as an array of mbuf pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());

/// One receive and transmit queue of a started port; [`super::EthPort::start`] gives one per queue.
///
/// It can move to another thread and is used by one at a time, as DPDK wants. That thread should be
/// registered ([`crate::register_thread`]), or every burst pays for the pool's shared ring.
#[derive(Debug)]
pub struct QueuePair {
    inner: Arc<PortInner>,
    port: u16,
    queue: u16,
    pool: Mempool,
    mac: [u8; 6],
    hash_trusted: bool,
    rx_burst_max: usize,
    multi_segment_drops: u64,
    /// Not `Sync`: two threads must not poll one queue.
    _one_thread: PhantomData<Cell<()>>,
}

impl QueuePair {
    pub(super) fn new(
        inner: &Arc<PortInner>,
        queue: u16,
        pool: Mempool,
        mac: [u8; 6],
        hash_trusted: bool,
    ) -> Self {
        // Release: pairs with the acquire in `PortInner::queues_out`.
        inner.queues_live.fetch_add(1, Ordering::Release);
        Self {
            inner: Arc::clone(inner),
            port: inner.id,
            queue,
            pool,
            mac,
            hash_trusted,
            rx_burst_max: BURST_MAX,
            multi_segment_drops: 0,
            _one_thread: PhantomData,
        }
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Lets [`Port::rx_burst`] take at most `packets` at a time, 1 to [`BURST_MAX`]: smaller bursts
    /// wait less for each other, larger ones cost less per packet.
    ///
    /// # Panics
    /// If `packets` is out of range.
    pub fn limit_rx_burst(&mut self, packets: usize) {
        assert!(
            (1..=BURST_MAX).contains(&packets),
            "a burst is 1 to {BURST_MAX} packets"
        );
        self.rx_burst_max = packets;
    }

    /// The pool that the queue receives into and [`Port::alloc`] takes from.
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// Frames received so far that did not fit one buffer, and so were dropped.
    pub fn multi_segment_drops(&self) -> u64 {
        self.multi_segment_drops
    }

    /// Makes `got` mbufs behind the vector's `len` elements its own, except those of several
    /// segments, which are freed. Returns how many it kept.
    ///
    /// # Safety
    /// The vector's storage holds `got` live mbufs behind `len` owned elements, nobody else's.
    #[inline]
    unsafe fn adopt(&mut self, out: &mut Burst<Mbuf>, len: usize, got: usize) -> usize {
        let mut whole = true;
        for i in len..len + got {
            // SAFETY: as the caller promises: an mbuf pointer lies there, and it is live and ours.
            unsafe {
                let mbuf = out.as_mut_ptr().cast::<NonNull<rte_mbuf>>().add(i).read();
                raw::prefetch_data(mbuf);
                whole &= raw::is_single(mbuf);
                if !self.hash_trusted {
                    raw::forget_hash(mbuf);
                }
            }
        }
        let kept = if whole {
            got
        } else {
            // SAFETY: as the caller promises.
            unsafe { self.drop_chains(out, len, got) }
        };
        // SAFETY: the first `len + kept` elements are owned, live, single-segment mbufs.
        unsafe { out.set_len(len + kept) };
        kept
    }

    /// Frees the mbufs of several segments and closes the gaps. Returns how many are left.
    ///
    /// # Safety
    /// As for [`QueuePair::adopt`].
    #[cold]
    unsafe fn drop_chains(&mut self, out: &mut Burst<Mbuf>, len: usize, got: usize) -> usize {
        let storage = out.as_mut_ptr().cast::<NonNull<rte_mbuf>>();
        let mut kept = 0;
        for i in 0..got {
            // SAFETY: as the caller promises; a chain's pointer is overwritten or cut off after it
            // was freed, and `kept` never passes `i`.
            unsafe {
                let mbuf = storage.add(len + i).read();
                if raw::is_single(mbuf) {
                    storage.add(len + kept).write(mbuf);
                    kept += 1;
                } else {
                    dpdk_sys::ravelin_mbuf_free(mbuf.as_ptr());
                    self.multi_segment_drops += 1;
                }
            }
        }
        kept
    }
}

impl Port for QueuePair {
    type Buf = Mbuf;

    #[inline]
    fn rx_burst(&mut self, out: &mut Burst<Mbuf>) -> usize {
        let len = out.len();
        let room = out.remaining_capacity().min(self.rx_burst_max);
        // SAFETY: the port runs as long as a queue pair lives, this one alone polls the queue, and
        // the vector has room for `room` <= 64 pointers behind its `len` elements.
        let got = unsafe {
            let storage = out.as_mut_ptr().add(len).cast::<*mut rte_mbuf>();
            dpdk_sys::ravelin_rx_burst(self.port, self.queue, storage, room as u16)
        };
        // SAFETY: DPDK wrote `got` pointers to mbufs that are ours now.
        unsafe { self.adopt(out, len, usize::from(got)) }
    }

    #[inline]
    fn tx_burst(&mut self, bufs: &mut Burst<Mbuf>) -> usize {
        let len = bufs.len();
        // SAFETY: the port runs as long as a queue pair lives, this one alone uses the queue, and the
        // vector's elements are owned mbufs, each one pointer wide.
        let sent = unsafe {
            let storage = bufs.as_mut_ptr().cast::<*mut rte_mbuf>();
            dpdk_sys::ravelin_tx_burst(self.port, self.queue, storage, len as u16)
        };
        let sent = usize::from(sent).min(len);
        // SAFETY: the prefix is the device's now and must not be dropped here; the rest moves to
        // the front, each element once.
        unsafe {
            bufs.set_len(0);
            let start = bufs.as_mut_ptr();
            if sent < len {
                ptr::copy(start.add(sent), start, len - sent);
            }
            bufs.set_len(len - sent);
        }
        sent
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    #[inline]
    fn free_burst(&mut self, bufs: &mut Burst<Mbuf>) {
        let len = bufs.len();
        // SAFETY: the elements are owned mbufs, each one pointer wide; the length is 0 before they
        // are freed, so none is dropped again.
        unsafe {
            bufs.set_len(0);
            let storage = bufs.as_mut_ptr().cast::<*mut rte_mbuf>();
            dpdk_sys::rte_pktmbuf_free_bulk(storage, len as u32);
        }
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn link_up(&self) -> bool {
        self.inner.link_up.load(Ordering::Relaxed)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // Release: whoever sees the count without this queue also sees its last burst.
        self.inner.queues_live.fetch_sub(1, Ordering::Release);
    }
}
