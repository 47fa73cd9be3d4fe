//! A global allocator that asks the kernel for transparent huge pages under large allocations.
//!
//! A flow table of a million flows has 65,000 ordinary pages and a processor remembers some 2,000
//! translations, so nearly every flow that is looked up in random order costs a walk of the page tables besides
//! the cache miss. With pages of 2 MiB it is 128. Reserved huge pages (hugetlbfs) are DPDK's; this is for what Rust
//! allocates, needs no reservation, and does no harm where the kernel has none to give
//! (`/sys/kernel/mm/transparent_hugepage/enabled` is `never`, or memory is in pieces).
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: hugealloc::HugeAlloc = hugealloc::HugeAlloc;
//! ```

use std::alloc::{GlobalAlloc, Layout, System};

/// The size of a huge page on the platforms that matter, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// The system's allocator, with huge pages under allocations of two of them and more.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugeAlloc;

/// What is asked of the system for `layout`: large allocations begin at a huge page and end with one, so that
/// no other allocation shares their pages.
fn granted(layout: Layout) -> Option<Layout> {
    if layout.size() < 2 * HUGE_PAGE {
        return None;
    }
    let whole = Layout::from_size_align(layout.size(), layout.align().max(HUGE_PAGE)).ok()?;
    Some(whole.pad_to_align())
}

fn advise(start: *mut u8, layout: Layout) {
    if !start.is_null() {
        // SAFETY: the range is an allocation of ours, so it is mapped; the advice changes no content. That it
        // may fail, for a kernel without huge pages, is as good as not asking.
        unsafe { libc::madvise(start.cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
}

// SAFETY: every call goes to the system's allocator, with one layout per allocation that follows from the
// caller's layout alone: `granted` is a function of it, so `dealloc` names the layout that `alloc` did. A larger size and
// a stricter alignment than asked for satisfy the caller's.
unsafe impl GlobalAlloc for HugeAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match granted(layout) {
            // SAFETY: the caller's duty, passed on; the size is not zero.
            None => unsafe { System.alloc(layout) },
            Some(whole) => {
                // SAFETY: as above.
                let start = unsafe { System.alloc(whole) };
                advise(start, whole);
                start
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match granted(layout) {
            // SAFETY: the caller's duty, passed on.
            None => unsafe { System.alloc_zeroed(layout) },
            Some(whole) => {
                // SAFETY: as above. With an alignment above malloc's own the system's allocator writes the zeroes
                // itself, so the advice must come first: pages that are there already stay as they are.
                let start = unsafe { System.alloc(whole) };
                advise(start, whole);
                if !start.is_null() {
                    // SAFETY: so many bytes were allocated just now.
                    unsafe { start.write_bytes(0, whole.size()) };
                }
                start
            }
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: what `alloc` was given for this layout, or `layout` itself.
        unsafe { System.dealloc(start, granted(layout).unwrap_or(layout)) };
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` with this alignment is a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if granted(layout).is_none() && granted(new).is_none() {
            // SAFETY: the caller's duty, passed on.
            return unsafe { System.realloc(start, layout, size) };
        }
        // SAFETY: `new` is not empty, by the caller's promise; both allocations are as long as what is copied, and
        // they are two; the old one is freed with its own layout and not used again.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(start, layout.size().min(size));
                self.dealloc(start, layout);
            }
            moved
        }
    }
}
