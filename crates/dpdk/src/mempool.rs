//! Pools of packet buffers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys::rte_mempool;
use engine::port::{BURST_MAX, Burst};

use crate::eal::{Eal, Shared};
use crate::error::{Errno, Error};
use crate::log;
use crate::mbuf::Mbuf;

/// Bytes in front of a received frame that [`engine::port::PacketBuf::grow_front`] can use.
pub const HEADROOM: usize = dpdk_sys::RAVELIN_PKTMBUF_HEADROOM as usize;

/// Bytes that a buffer of [`Mempool::new`] has for a frame.
pub const DATA_ROOM_DEFAULT: usize = dpdk_sys::RAVELIN_MBUF_DEFAULT_DATAROOM as usize;

/// A pool of packet buffers; a clone is another handle of the same pool.
///
/// Any thread may take from it and return to it. Threads that EAL knows ([`crate::register_thread`])
/// do so through a private cache.
#[derive(Debug, Clone)]
pub struct Mempool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    raw: NonNull<rte_mempool>,
    name: String,
    buffers: u32,
    data_room: usize,
    shared: Arc<Shared>,
}

// SAFETY: rings and caches of an rte_mempool are made for concurrent use: the ring takes many
// producers and consumers, and a cache belongs to one registered thread.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// A pool of `buffers` packet buffers for frames of up to [`DATA_ROOM_DEFAULT`] bytes, and a
    /// cache of `cache` buffers per registered thread, in memory of NUMA node `socket` (`None` for any).
    ///
    /// Memory is used best when `buffers` is a power of two less one. What sits in other threads'
    /// caches cannot be taken: add one and a half `cache` per thread to what must be available.
    ///
    /// # Errors
    /// [`Error::PoolShape`] for a name over 25 bytes, no buffers, or a cache over 512 or over two thirds
    /// of the buffers; [`Error::Pool`] when memory does not suffice or the name is taken.
    pub fn new(
        eal: &Eal,
        name: &str,
        buffers: u32,
        cache: u32,
        socket: Option<u32>,
    ) -> Result<Self, Error> {
        Self::with_data_room(eal, name, buffers, cache, socket, DATA_ROOM_DEFAULT)
    }

    /// The same, for frames of up to `data_room` bytes: jumbo frames need more than the default.
    ///
    /// # Errors
    /// As [`Mempool::new`]; also [`Error::PoolShape`] for a `data_room` that with [`HEADROOM`] exceeds 65535.
    pub fn with_data_room(
        eal: &Eal,
        name: &str,
        buffers: u32,
        cache: u32,
        socket: Option<u32>,
        data_room: usize,
    ) -> Result<Self, Error> {
        let shape = |problem: String| Error::PoolShape {
            name: name.to_owned(),
            problem,
        };
        let name_max = dpdk_sys::RAVELIN_MEMPOOL_NAME_MAX as usize;
        let cache_max = dpdk_sys::RAVELIN_MEMPOOL_CACHE_MAX;
        if name.is_empty() || name.len() > name_max {
            return Err(shape(format!("the name must have 1 to {name_max} bytes")));
        }
        let c_name =
            CString::new(name).map_err(|_| shape("the name must not contain a zero".into()))?;
        if buffers == 0 {
            return Err(shape("it must have at least one buffer".to_owned()));
        }
        // rte_mempool_create's own bound: a cache flushes at 1.5 times its size.
        if cache > cache_max || u64::from(cache) * 3 > u64::from(buffers) * 2 {
            return Err(shape(format!(
                "a cache of {cache} must be at most {cache_max} and two thirds of {buffers} buffers"
            )));
        }
        let room = u16::try_from(data_room + HEADROOM).map_err(|_| {
            shape(format!(
                "a data room of {data_room} must be at most {}",
                65535 - HEADROOM
            ))
        })?;
        let node = match socket {
            Some(node) => {
                i32::try_from(node).map_err(|_| shape(format!("there is no NUMA node {node}")))?
            }
            None => dpdk_sys::RAVELIN_SOCKET_ID_ANY,
        };
        log::forget();
        eal.shared().reap();
        // SAFETY: EAL runs (`eal`), the name ends with a zero and is copied.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(c_name.as_ptr(), buffers, cache, 0, room, node)
        };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Pool {
            name: name.to_owned(),
            buffers,
            megabytes: match eal.shared().small_pages() {
                true => Self::bytes_without_hugepages(buffers, data_room).div_ceil(1 << 20),
                false => Self::bytes(buffers, data_room).div_ceil(1 << 20),
            },
            errno: Errno::current(),
            log: log::complaints(),
        })?;
        let shared = Arc::clone(eal.shared());
        let inner = Inner {
            raw,
            name: name.to_owned(),
            buffers,
            data_room,
            shared,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// About how many bytes of hugepages a pool takes: per buffer 64 of pool header, 128 of mbuf,
    /// the headroom and the data room, rounded up to cache lines and one line more to spread over
    /// memory channels; and 8 per slot of the ring, which is a power of two.
    pub fn bytes(buffers: u32, data_room: usize) -> u64 {
        u64::from(buffers) * (object_bytes(data_room) + 64) + ring_bytes(buffers)
    }

    /// About how many bytes of ordinary pages a pool takes: no buffer crosses a page of 4096 that
    /// could hold it, so that the default data room takes a whole page per buffer.
    pub fn bytes_without_hugepages(buffers: u32, data_room: usize) -> u64 {
        const PAGE: u64 = 4096;
        let object = object_bytes(data_room);
        let objects = match PAGE / object {
            0 => u64::from(buffers) * object,
            per_page => u64::from(buffers).div_ceil(per_page) * PAGE,
        };
        objects + ring_bytes(buffers)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// How many buffers the pool has.
    pub fn capacity(&self) -> u32 {
        self.inner.buffers
    }

    /// The longest frame in bytes that a buffer holds behind the headroom.
    pub fn data_room(&self) -> usize {
        self.inner.data_room
    }

    /// How many buffers are out: with packets, or in a device's rings. It sums all caches, so it
    /// is for housekeeping and not for the poll loop, and approximate while others use the pool.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as its handle.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.inner.raw.as_ptr()) }
    }

    /// An empty buffer, or `None` when the pool is empty.
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as its handle, and any thread may take from it.
        let raw = unsafe { dpdk_sys::ravelin_mbuf_alloc(self.inner.raw.as_ptr()) };
        // SAFETY: a fresh buffer is nobody else's, and has one segment.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Appends `n` empty buffers and says `true`, or appends none: for lack of buffers in the pool
    /// or of room in `out`.
    pub fn alloc_burst(&self, out: &mut Burst<Mbuf>, n: usize) -> bool {
        if n > out.remaining_capacity() {
            return false;
        }
        let mut raw = ArrayVec::<*mut dpdk_sys::rte_mbuf, BURST_MAX>::new();
        // SAFETY: the array has room for n <= BURST_MAX pointers, and all n are written on success.
        let all = unsafe {
            dpdk_sys::ravelin_mbuf_alloc_bulk(self.inner.raw.as_ptr(), raw.as_mut_ptr(), n as u32)
                && {
                    raw.set_len(n);
                    true
                }
        };
        for raw in raw {
            // SAFETY: fresh buffers, none null, are nobody else's and have one segment.
            out.push(unsafe { Mbuf::from_raw(NonNull::new_unchecked(raw)) });
        }
        all
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.inner.raw.as_ptr()
    }
}

/// A buffer with its headers, in whole cache lines.
fn object_bytes(data_room: usize) -> u64 {
    (64 + dpdk_sys::RAVELIN_MBUF_SIZE as usize + HEADROOM + data_room).next_multiple_of(64) as u64
}

fn ring_bytes(buffers: u32) -> u64 {
    (u64::from(buffers) + 1).next_power_of_two() * 8
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.retire(RetiredPool(self.raw));
    }
}

/// A pool without a handle: nothing is taken from it any more, buffers may still come back.
#[derive(Debug)]
pub(crate) struct RetiredPool(NonNull<rte_mempool>);

// SAFETY: as for `Inner`; it is only counted and freed.
unsafe impl Send for RetiredPool {}

impl RetiredPool {
    /// How many buffers are out.
    pub(crate) fn in_use(&self) -> u64 {
        // SAFETY: a retired pool is not freed before it leaves the list.
        u64::from(unsafe { dpdk_sys::rte_mempool_in_use_count(self.0.as_ptr()) })
    }

    /// Frees the pool.
    ///
    /// # Safety
    /// No buffer is out, no thread is in the middle of returning one, and this value is not used again.
    pub(crate) unsafe fn free(&mut self) {
        // SAFETY: as the caller promises.
        unsafe { dpdk_sys::rte_mempool_free(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_pool_is_known_beforehand() {
        // 64 + 128 + 128 + 2048 + 64 bytes a buffer, and a ring of 8192 slots.
        assert_eq!(Mempool::bytes(8191, 2048), 8191 * 2432 + 8192 * 8);
        assert_eq!(Mempool::bytes(1, 1), 448 + 2 * 8);
        // One, three and less than one buffer a page.
        let small = Mempool::bytes_without_hugepages;
        assert_eq!(small(8191, 2048), 8191 * 4096 + 8192 * 8);
        assert_eq!(small(8191, 1024), 2731 * 4096 + 8192 * 8);
        assert_eq!(small(8191, 9216), 8191 * 9536 + 8192 * 8);
    }
}
