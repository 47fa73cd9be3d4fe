//! Threads on their cores.

use std::thread::JoinHandle;

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::error::Error;

/// The least that is real-time: it goes before every thread that has no such priority, and before none that has.
const PRIORITY: u8 = 1;

/// Lets the calling thread run as soon as it has something to do, whoever else runs on its cpu. For threads that mostly wait
/// in the kernel: one with much to do would keep all others from running.
pub(crate) fn go_first() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriority::Crossplatform(PRIORITY.try_into().expect("it is below 100"));
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, policy) {
        let thread = std::thread::current();
        tracing::warn!(
            "{} has no real-time priority ({error}): what polls on its cpu may delay it, which `realtime = false` under \
             [cores] accepts",
            thread.name().unwrap_or("a thread")
        );
    }
}

/// Starts a thread and pins it to a CPU. DPDK's start pins whoever calls it, and threads inherit
/// that, so every thread sets its own affinity.
pub(crate) fn spawn<F>(name: &str, cpu: Option<u16>, run: F) -> Result<JoinHandle<()>, Error>
where
    F: FnOnce() + Send + 'static,
{
    let core = cpu.map(|cpu| core_affinity::CoreId {
        id: usize::from(cpu),
    });
    let thread = name.to_owned();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Some(core) = core
                && !core_affinity::set_for_current(core)
            {
                tracing::warn!(
                    "{thread}: cannot be pinned to cpu {}; it runs anywhere",
                    core.id
                );
            }
            run();
        })
        .map_err(|source| Error::Thread {
            name: name.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use thread_priority::thread_schedule_policy;

    #[test]
    fn who_goes_first_has_a_real_time_priority_where_that_is_allowed() {
        let (sent, seen) = std::sync::mpsc::channel();
        let thread = spawn("first", None, move || {
            let before = thread_schedule_policy().expect("it has one");
            go_first();
            let after = thread_schedule_policy().expect("it has one");
            sent.send((before, after)).expect("somebody listens");
        });
        thread
            .expect("it starts")
            .join()
            .expect("it does not panic");
        let (before, after) = seen.recv().expect("it told");
        let first = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        assert_ne!(before, first);
        if nix::unistd::geteuid().is_root() {
            assert_eq!(after, first);
        } else {
            assert!(after == first || after == before, "{after:?}");
        }
    }
}
