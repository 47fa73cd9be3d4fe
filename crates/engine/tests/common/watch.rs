//! An allocator that tells what a thread asks of the heap while it is watched: the poll loop allocates nothing.
//!
//! It is the global one of every test that uses this module, and each turn of a rig's worker is watched, so every
//! scenario of the tests shows that it allocates nothing. `quiet.rs` has the volume, and looks at frees too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};

/// What counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heap {
    /// Memory that is asked for.
    Asked,
    /// That, and memory that is given back: which may take the heap's lock, or go to the kernel.
    AskedAndFreed,
}

/// Kept at most, since thousands would be of the same place.
const SEEN_MAX: usize = 8;

thread_local! {
    static WATCHED: Cell<Option<Heap>> = const { Cell::new(None) };
    /// Where the heap was used, each with the way to it.
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct WatchedHeap;

#[global_allocator]
static HEAP: WatchedHeap = WatchedHeap;

/// Notes what is done if this thread is watched. Allocates itself, unwatched.
fn note(what: &str, bytes: usize, freed: bool) {
    // A thread that is ending has no such word any more, and is not watched.
    let watched = WATCHED.try_with(Cell::take).ok().flatten();
    let Some(heap) = watched else { return };
    if !freed || heap == Heap::AskedAndFreed {
        SEEN.with_borrow_mut(|seen| {
            if seen.len() < SEEN_MAX {
                let way = Backtrace::force_capture().to_string();
                seen.push(format!("{what} of {bytes} bytes\n{}", ours(&way)));
            }
        });
    }
    WATCHED.set(watched);
}

/// Of a backtrace the functions of this project, up to the worker's turn. Paths may be relative to the crate.
fn ours(way: &str) -> String {
    let lines: Vec<&str> = way.lines().collect();
    let mut told = String::new();
    for pair in lines.windows(2) {
        let (function, file) = (pair[0], pair[1].trim_start());
        let is_ours = file.starts_with("at ./src/") || file.contains("/crates/");
        if !is_ours || file.contains("/tests/") {
            continue;
        }
        told += &format!("{function}\n{}\n", pair[1]);
        if function.contains("poll") {
            break;
        }
    }
    match told.is_empty() {
        true => way.to_owned(),
        false => told,
    }
}

// SAFETY: every call goes to the system's allocator as it came, and gives back what that gives. What `note`
// allocates in between goes the same way, and `note` takes the thread's watch away meanwhile, so it does not
// come here again for itself.
unsafe impl GlobalAlloc for WatchedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note("an allocation", layout.size(), false);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note("an allocation", layout.size(), false);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note("a reallocation", size, false);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        note("a free", layout.size(), true);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.dealloc(start, layout) };
    }
}

/// Puts the watch back as it was, also when a test panics.
struct Restore(Option<Heap>);

impl Drop for Restore {
    fn drop(&mut self) {
        WATCHED.set(self.0);
    }
}

/// Runs `run` with this thread watched; tells where it used the heap.
pub(crate) fn watched<R>(heap: Heap, run: impl FnOnce() -> R) -> (R, Vec<String>) {
    // Before the watch: the first use of it on a thread may allocate.
    SEEN.with_borrow_mut(Vec::clear);
    let restore = Restore(WATCHED.replace(Some(heap)));
    let result = run();
    drop(restore);
    (result, SEEN.take())
}

/// Runs a part of it that is the test's own and may use the heap.
pub(crate) fn unwatched<R>(run: impl FnOnce() -> R) -> R {
    let _restore = Restore(WATCHED.take());
    run()
}

/// As [`watched`], and whatever uses the heap fails the test.
#[track_caller]
pub(crate) fn quiet<R>(heap: Heap, run: impl FnOnce() -> R) -> R {
    let (result, seen) = watched(heap, run);
    assert!(
        seen.is_empty(),
        "the turn uses the heap:\n{}",
        seen.join("\n")
    );
    result
}
