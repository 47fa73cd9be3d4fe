//! Worker threads that EAL did not make.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::eal::{self, Shared};
use crate::error::{Errno, Error};

/// Registers the calling thread with DPDK until the guard is dropped.
///
/// A registered thread has a logical core number and so a private cache in every [`crate::Mempool`];
/// without it each burst goes to the pool's shared ring. It does not change the thread's CPU
/// affinity: pin the thread before.
///
/// # Errors
/// [`Error::NotRunning`] before [`crate::Eal::init`], [`Error::ThreadKnown`] on the thread that
/// called it or a second time, [`Error::Thread`] when DPDK has no number left.
pub fn register_thread() -> Result<RegisteredThread, Error> {
    let shared = eal::running().ok_or(Error::NotRunning)?;
    // SAFETY: reads a thread-local integer.
    if unsafe { dpdk_sys::ravelin_lcore_id() } != dpdk_sys::RAVELIN_LCORE_ID_ANY {
        return Err(Error::ThreadKnown);
    }
    // Counted before the thread can touch a cache: see `Shared::reap`.
    shared.thread_joins();
    // SAFETY: EAL runs, since `shared` exists, and this thread is not one of its own.
    let rc = unsafe { dpdk_sys::rte_thread_register() };
    // SAFETY: reads a thread-local integer.
    let lcore = unsafe { dpdk_sys::ravelin_lcore_id() };
    if rc != 0 || lcore == dpdk_sys::RAVELIN_LCORE_ID_ANY {
        let errno = Errno::current();
        shared.thread_leaves();
        return Err(Error::Thread {
            threads_max: dpdk_sys::RAVELIN_MAX_LCORE - 1,
            errno,
        });
    }
    Ok(RegisteredThread {
        shared,
        lcore,
        _thread_bound: PhantomData,
    })
}

/// The calling thread's registration; see [`register_thread`]. It stays on its thread.
#[derive(Debug)]
#[must_use = "the registration ends when this is dropped"]
pub struct RegisteredThread {
    shared: Arc<Shared>,
    lcore: u32,
    _thread_bound: PhantomData<*const ()>,
}

impl RegisteredThread {
    /// DPDK's number for this thread; it says nothing about the CPU that it runs on.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself, and the guard cannot have left it.
        unsafe { dpdk_sys::rte_thread_unregister() };
        self.shared.thread_leaves();
    }
}
