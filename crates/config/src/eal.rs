//! `[eal]`: what DPDK's environment is started with.

use crate::keys::EAL;
use crate::reader::Section;
use crate::{Cluster, Cores, Eal, Fault, Iova, cores};

/// Arguments that the daemon sets itself, and the key that it takes them from.
const RESERVED: [(&str, &str); 13] = [
    ("-l", "cores"),
    ("-c", "cores"),
    ("--lcores", "cores"),
    ("--main-lcore", "cores"),
    ("-m", "eal.memory_mb"),
    ("--socket-mem", "eal.memory_mb"),
    ("--no-huge", "eal.hugepages"),
    ("--file-prefix", "eal.file_prefix"),
    ("--iova-mode", "eal.iova"),
    ("-a", "interface.device"),
    ("--allow", "interface.device"),
    ("--vdev", "interface.device"),
    ("--no-pci", "interface.device"),
];

/// Packets that a worker may hold beside those in its queues when neither `hold` nor `mbufs` says.
const HOLD_POOL: u64 = 4096;

/// The fewest packet buffers of a node that leaves `mbufs` out.
const MBUFS_LEAST: u64 = 16_384;

pub(crate) fn eal(
    top: &Section<'_>,
    name: &str,
    cores: &Cores,
    cluster: Option<&Cluster>,
    interfaces: usize,
) -> Eal {
    let section = top.section("eal", EAL);
    let hugepages = section.bool_or("hugepages", true);
    let file_prefix = section.field("file_prefix").and_then(|field| field.name());
    Eal {
        hugepages,
        memory_mb: section.integer_or("memory_mb", 64..=1 << 20, 1024) as u32,
        file_prefix: file_prefix.map_or_else(|| format!("ravelin-{name}"), str::to_owned),
        iova: iova(&section, hugepages),
        extra: extra(&section),
        mbufs: mbufs(
            &section,
            cores,
            cluster.map_or(1, cores::waits),
            interfaces as u64,
        ),
    }
}

fn iova(section: &Section<'_>, hugepages: bool) -> Iova {
    let Some(field) = section.field("iova") else {
        return Iova::Auto;
    };
    let iova = field.choice(&[("auto", Iova::Auto), ("pa", Iova::Pa), ("va", Iova::Va)]);
    if iova == Some(Iova::Pa) && !hugepages {
        field.fail(Fault::IovaWithoutHugepages);
    }
    iova.unwrap_or(Iova::Auto)
}

fn extra(section: &Section<'_>) -> Vec<String> {
    let Some(field) = section.field("extra") else {
        return Vec::new();
    };
    let argument = |(item, text): (crate::reader::Field<'_>, &str)| {
        let option = text.split('=').next().unwrap_or(text);
        // DPDK also takes the value of a one-letter option without a space: -l0,1.
        let is = |known: &str| {
            option == known
                || known.len() == 2 && text.starts_with(known) && !text.starts_with("--")
        };
        if let Some((_, from)) = RESERVED.iter().find(|(known, _)| is(known)) {
            item.fail(Fault::EalReserved {
                given: text.to_owned(),
                from,
            });
        }
        text.to_owned()
    };
    field.strings().into_iter().map(argument).collect()
}

/// What the queues hold when full, each worker's hold pool and two bursts in flight, rounded up. Each place in the
/// hold stands for so many packets that `waits`.
fn mbufs(section: &Section<'_>, cores: &Cores, waits: u32, interfaces: u64) -> u32 {
    let descriptors = |worker: &crate::Worker| {
        u64::from(worker.rx_descriptors) + u64::from(worker.tx_descriptors)
    };
    let queues: u64 = cores
        .workers
        .iter()
        .map(|worker| interfaces * descriptors(worker))
        .sum();
    let others: u64 = cores
        .workers
        .iter()
        .map(|worker| {
            let hold = worker
                .hold
                .map_or(HOLD_POOL, |hold| u64::from(hold * waits));
            hold + 2 * u64::from(worker.burst)
        })
        .sum();
    let held = cores.workers.iter().filter_map(|worker| worker.hold);
    let held: u64 = held.map(|hold| u64::from(hold * waits)).sum();
    let default = (queues + others).next_multiple_of(1024).max(MBUFS_LEAST);
    let Some(field) = section.field("mbufs") else {
        return default as u32;
    };
    let Some(given) = field.integer(1024..=1 << 26) else {
        return default as u32;
    };
    if given < queues {
        field.fail(Fault::TooFewMbufs {
            given,
            least: queues,
        });
    }
    let least = queues + held;
    if given >= queues && given < least {
        field.fail(Fault::MbufsHeld {
            given,
            queues,
            held,
            least,
        });
    }
    given as u32
}
