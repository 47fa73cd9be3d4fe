//! Threads on their cores.

use std::thread::JoinHandle;

use crate::error::Error;

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
