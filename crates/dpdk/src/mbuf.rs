//! One packet buffer.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys::rte_mbuf;
use engine::port::{BufFull, PacketBuf};

/// What a device says of a packet's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumState {
    /// The device did not check, or does not tell.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

/// A packet buffer of one segment, owned: dropping it returns it to its pool.
///
/// Its fields are read and written here without a call into DPDK.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an owned mbuf is reached by nobody else, and pools take returns from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// # Safety
    /// The mbuf is live, of one segment, its data within its buffer, and nobody else uses it.
    pub(crate) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw)
    }

    /// What the device says of the IPv4 header's checksum.
    #[inline]
    pub fn ip_checksum(&self) -> ChecksumState {
        match self.ol_flags() & dpdk_sys::RAVELIN_MBUF_F_RX_IP_CKSUM_MASK {
            dpdk_sys::RAVELIN_MBUF_F_RX_IP_CKSUM_GOOD => ChecksumState::Good,
            dpdk_sys::RAVELIN_MBUF_F_RX_IP_CKSUM_BAD => ChecksumState::Bad,
            _ => ChecksumState::Unknown,
        }
    }

    /// What the device says of the TCP or UDP checksum.
    #[inline]
    pub fn l4_checksum(&self) -> ChecksumState {
        match self.ol_flags() & dpdk_sys::RAVELIN_MBUF_F_RX_L4_CKSUM_MASK {
            dpdk_sys::RAVELIN_MBUF_F_RX_L4_CKSUM_GOOD => ChecksumState::Good,
            dpdk_sys::RAVELIN_MBUF_F_RX_L4_CKSUM_BAD => ChecksumState::Bad,
            _ => ChecksumState::Unknown,
        }
    }

    /// DPDK's number of the port that received the packet.
    #[inline]
    pub fn rx_port(&self) -> u16 {
        // SAFETY: the field of a live mbuf.
        unsafe { self.read(dpdk_sys::RAVELIN_MBUF_PORT) }
    }

    /// Bytes that the frame can still grow by at the front.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.data_off())
    }

    /// Bytes that the frame can still grow by at the end.
    #[inline]
    pub fn tailroom(&self) -> usize {
        usize::from(self.buf_len()) - usize::from(self.data_off()) - self.len()
    }

    #[inline]
    fn ol_flags(&self) -> u64 {
        // SAFETY: the field of a live mbuf.
        unsafe { self.read(dpdk_sys::RAVELIN_MBUF_OL_FLAGS) }
    }

    #[inline]
    fn data_off(&self) -> u16 {
        // SAFETY: the field of a live mbuf.
        unsafe { self.read(dpdk_sys::RAVELIN_MBUF_DATA_OFF) }
    }

    #[inline]
    fn buf_len(&self) -> u16 {
        // SAFETY: the field of a live mbuf.
        unsafe { self.read(dpdk_sys::RAVELIN_MBUF_BUF_LEN) }
    }

    #[inline]
    fn len(&self) -> usize {
        // SAFETY: the field of a live mbuf.
        usize::from(unsafe { self.read::<u16>(dpdk_sys::RAVELIN_MBUF_DATA_LEN) })
    }

    /// The frame's first byte.
    #[inline]
    fn start(&self) -> *mut u8 {
        // SAFETY: the field of a live mbuf.
        let buffer: *mut u8 = unsafe { self.read(dpdk_sys::RAVELIN_MBUF_BUF_ADDR) };
        // SAFETY: a live mbuf's data begins within its buffer.
        unsafe { buffer.add(usize::from(self.data_off())) }
    }

    /// Sets where the frame lies within the buffer.
    ///
    /// # Safety
    /// `offset + len` is at most the buffer's length.
    #[inline]
    unsafe fn place(&mut self, offset: u16, len: u16) {
        // SAFETY: fields of a live mbuf with their types; the caller keeps the data within the buffer.
        unsafe {
            self.write(dpdk_sys::RAVELIN_MBUF_DATA_OFF, offset);
            self.write(dpdk_sys::RAVELIN_MBUF_DATA_LEN, len);
            self.write(dpdk_sys::RAVELIN_MBUF_PKT_LEN, u32::from(len));
        }
    }

    /// # Safety
    /// `offset` is that of a field of type `T`.
    #[inline]
    unsafe fn read<T: Copy>(&self, offset: dpdk_sys::ravelin_mbuf_offset) -> T {
        // SAFETY: the mbuf is live; offset and type agree; fields are aligned (dpdk-sys asserts it).
        unsafe { self.0.as_ptr().byte_add(offset as usize).cast::<T>().read() }
    }

    /// # Safety
    /// `offset` is that of a field of type `T`, and the mbuf is whole with the new value.
    #[inline]
    unsafe fn write<T: Copy>(&mut self, offset: dpdk_sys::ravelin_mbuf_offset, value: T) {
        // SAFETY: the mbuf is live and ours alone; offset and type agree; fields are aligned.
        unsafe {
            self.0
                .as_ptr()
                .byte_add(offset as usize)
                .cast::<T>()
                .write(value)
        }
    }
}

impl PacketBuf for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: data_len bytes from the start lie in the buffer, which pools zero when they are made.
        unsafe { slice::from_raw_parts(self.start(), self.len()) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and the buffer is this mbuf's alone.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    #[inline]
    fn rss_hash(&self) -> Option<u32> {
        if self.ol_flags() & dpdk_sys::RAVELIN_MBUF_F_RX_RSS_HASH == 0 {
            return None;
        }
        // SAFETY: the field of a live mbuf, meaningful by its flag.
        Some(unsafe { self.read(dpdk_sys::RAVELIN_MBUF_HASH_RSS) })
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> Result<(), BufFull> {
        let offset = self.data_off();
        if len > usize::from(self.buf_len()) - usize::from(offset) {
            return Err(BufFull { wanted: len });
        }
        // SAFETY: just checked; what fits a 16-bit buffer fits 16 bits.
        unsafe { self.place(offset, len as u16) };
        Ok(())
    }

    #[inline]
    fn grow_front(&mut self, n: usize) -> Result<(), BufFull> {
        let offset = self.data_off();
        if n > usize::from(offset) {
            return Err(BufFull { wanted: n });
        }
        let len = self.len() + n;
        // SAFETY: the end stays where it is.
        unsafe { self.place(offset - n as u16, len as u16) };
        Ok(())
    }

    #[inline]
    fn shrink_front(&mut self, n: usize) {
        let len = self.len();
        assert!(
            n <= len,
            "a frame of {len} bytes cannot lose {n} at the front"
        );
        let offset = self.data_off();
        // SAFETY: the end stays where it is.
        unsafe { self.place(offset + n as u16, (len - n) as u16) };
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned and live; it is not used after.
        unsafe { dpdk_sys::ravelin_mbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("rx_port", &self.rx_port())
            .field("rss_hash", &self.rss_hash())
            .finish_non_exhaustive()
    }
}

/// What of a received mbuf must hold before it becomes an [`Mbuf`].
pub(crate) mod raw {
    use super::*;

    /// # Safety
    /// The mbuf is live.
    #[inline]
    pub(crate) unsafe fn is_single(raw: NonNull<rte_mbuf>) -> bool {
        // SAFETY: the field of a live mbuf.
        let segments: u16 = unsafe {
            raw.as_ptr()
                .byte_add(dpdk_sys::RAVELIN_MBUF_NB_SEGS as usize)
                .cast::<u16>()
                .read()
        };
        segments == 1
    }

    /// Takes back the claim that the hash field holds our hash.
    ///
    /// # Safety
    /// The mbuf is live and the caller's alone.
    #[inline]
    pub(crate) unsafe fn forget_hash(raw: NonNull<rte_mbuf>) {
        // SAFETY: the field of a live mbuf that nobody else uses.
        unsafe {
            let flags = raw
                .as_ptr()
                .byte_add(dpdk_sys::RAVELIN_MBUF_OL_FLAGS as usize)
                .cast::<u64>();
            // Mostly it is not set, and then the cache line stays clean.
            if flags.read() & dpdk_sys::RAVELIN_MBUF_F_RX_RSS_HASH != 0 {
                flags.write(flags.read() & !dpdk_sys::RAVELIN_MBUF_F_RX_RSS_HASH);
            }
        }
    }

    /// Starts to load the frame's first cache line.
    ///
    /// # Safety
    /// The mbuf is live.
    #[inline]
    pub(crate) unsafe fn prefetch_data(raw: NonNull<rte_mbuf>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: fields of a live mbuf; a prefetch never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let field = |offset: u32| raw.as_ptr().byte_add(offset as usize);
            let buffer = field(dpdk_sys::RAVELIN_MBUF_BUF_ADDR)
                .cast::<*const i8>()
                .read();
            let offset = field(dpdk_sys::RAVELIN_MBUF_DATA_OFF).cast::<u16>().read();
            _mm_prefetch::<_MM_HINT_T0>(buffer.wrapping_add(usize::from(offset)));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = raw;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Eal, EalOptions, Mempool};

    /// The only test of this file's process that starts EAL.
    #[test]
    fn what_a_device_says_is_read_from_the_flags() {
        let eal = Eal::init(&EalOptions::without_hugepages(16)).expect("EAL");
        let pool = Mempool::new(&eal, "mbuf", 7, 0, None).expect("a pool");
        let mut buf = pool.alloc().expect("a buffer");
        let said = |buf: &Mbuf| (buf.rss_hash(), buf.ip_checksum(), buf.l4_checksum());
        assert_eq!(
            said(&buf),
            (None, ChecksumState::Unknown, ChecksumState::Unknown)
        );
        let mut set = |flags: u64| {
            // SAFETY: fields of a live mbuf with their types; flags of reception change nothing else.
            unsafe {
                buf.write(dpdk_sys::RAVELIN_MBUF_HASH_RSS, 0xdead_beef_u32);
                buf.write(dpdk_sys::RAVELIN_MBUF_OL_FLAGS, flags);
            }
            said(&buf)
        };
        let hash = dpdk_sys::RAVELIN_MBUF_F_RX_RSS_HASH;
        let (ip_good, ip_bad) = (
            dpdk_sys::RAVELIN_MBUF_F_RX_IP_CKSUM_GOOD,
            dpdk_sys::RAVELIN_MBUF_F_RX_IP_CKSUM_BAD,
        );
        let (l4_good, l4_bad) = (
            dpdk_sys::RAVELIN_MBUF_F_RX_L4_CKSUM_GOOD,
            dpdk_sys::RAVELIN_MBUF_F_RX_L4_CKSUM_BAD,
        );
        assert_eq!(
            set(ip_good | l4_bad),
            (None, ChecksumState::Good, ChecksumState::Bad)
        );
        assert_eq!(
            set(hash | ip_bad | l4_good),
            (Some(0xdead_beef), ChecksumState::Bad, ChecksumState::Good)
        );
        // SAFETY: the mbuf is live and ours alone.
        unsafe { raw::forget_hash(buf.0) };
        assert_eq!(
            said(&buf),
            (None, ChecksumState::Bad, ChecksumState::Good),
            "the hash goes, the rest stays"
        );
        drop(buf);
        drop(pool);
        eal.shut_down().expect("nothing is left");
    }
}
