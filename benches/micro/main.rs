//! What the packet path is made of, each part alone and then the worker that joins them.
//! `README.md` beside this package says how to run it and what the figures mean.
#![forbid(unsafe_code)]

mod cpu_time;
mod flows;
mod flowtable;
mod policy;
mod replay;
mod rig;
mod state;
mod wire;
mod worker;

use std::time::Duration;

use criterion::Criterion;

use crate::cpu_time::CpuTime;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: hugealloc::HugeAlloc = hugealloc::HugeAlloc;

fn main() {
    // Short: on a machine that is shared the spread comes from its neighbours, and does not shrink
    // by measuring longer.
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    wire::bench(&mut criterion);
    state::bench(&mut criterion);
    flowtable::bench(&mut criterion);
    policy::bench(&mut criterion);
    worker::bench(&mut criterion);
    criterion.final_summary();
}
