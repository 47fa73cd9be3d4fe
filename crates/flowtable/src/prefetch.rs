//! The one intrinsic that the standard library has no safe form of.
#![allow(unsafe_code)]

/// Asks for the cache line that `place` starts in, which will be written. Changes nothing but time.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch does not access memory as far as the language can tell, and the address is
        // that of a reference anyway.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = place;
    }
}
