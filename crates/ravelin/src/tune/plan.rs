//! What is proposed for a machine, and why.

use serde::Serialize;

use super::machine::{Cpu, Machine};

/// What the user asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// As many as there is room for when it is not said.
    pub(crate) workers: Option<usize>,
    pub(crate) flows: u32,
}

/// A thread's place.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seat {
    pub(crate) cpu: usize,
    pub(crate) why: String,
}

/// The values of the keys, each with its reason.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) workers: Vec<Seat>,
    pub(crate) sync: Seat,
    pub(crate) membership: Seat,
    pub(crate) idle: &'static str,
    pub(crate) idle_why: &'static str,
    pub(crate) shared: bool,
    pub(crate) hugepages: bool,
    pub(crate) hugepages_why: String,
    pub(crate) mbufs: u64,
    pub(crate) mbufs_why: String,
    pub(crate) memory_mb: u64,
    pub(crate) memory_why: String,
    pub(crate) capacity: u64,
    pub(crate) capacity_why: String,
    /// What the user should change about the machine.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Impossible {
    #[error("no cpu is to be seen: is /sys mounted here?")]
    NoCpu,
    #[error(
        "{workers} workers want {cores} cores, with one for the sync core and one for the membership core and the system; this machine has {there}: ask for at most {most}"
    )]
    TooManyWorkers {
        workers: usize,
        cores: usize,
        there: usize,
        most: usize,
    },
}

/// As the configuration derives `eal.mbufs` (docs/configuration.md): its defaults for descriptors, burst and hold.
const DESCRIPTORS: u64 = 2 * 1024;
const HOLD: u64 = 4096;
const BURST: u64 = 64;
const MBUFS_LEAST: u64 = 16_384;
/// Interfaces when no card is to be seen.
const INTERFACES: u64 = 2;
/// A packet buffer with its headers (hugepages.md), and its place in the pool's ring.
const MBUF_BYTES: u64 = 2_432 + 16;
/// What DPDK and devices' rings take beside the pool.
const OTHER_MB: u64 = 64;
const MEMORY_LEAST_MB: u64 = 256;
/// An entry of the flow table is 256 bytes; its place in the index, half empty at worst, some more.
const FLOW_BYTES: u64 = 288;
/// The least that `flows.capacity` may be.
const FLOWS_LEAST: u64 = 1_024;
/// Slots of a redirection table: more workers than that get nothing.
const WORKERS_MAX: usize = 128;

impl Plan {
    pub(crate) fn of(machine: &Machine, wish: Wish) -> Result<Self, Impossible> {
        let mut warnings = vec![];
        let seats = seats(machine, wish.workers, &mut warnings)?;
        let workers = seats.workers.len() as u64;

        let cards = machine.nics.len() as u64;
        let interfaces = if cards == 0 { INTERFACES } else { cards };
        let per_worker = interfaces * DESCRIPTORS + HOLD + 2 * BURST;
        let mbufs = (workers * per_worker)
            .next_multiple_of(1024)
            .max(MBUFS_LEAST);
        let pool_mb = (mbufs * MBUF_BYTES).div_ceil(1 << 20);
        // A tenth over, in whole pages of 2 MB.
        let memory_mb = (pool_mb * 11 / 10 + OTHER_MB)
            .next_multiple_of(2)
            .max(MEMORY_LEAST_MB);

        let node = seats.node;
        let free_mb = |on: Option<usize>| {
            let pools = machine
                .pools
                .iter()
                .filter(|pool| on.is_none_or(|on| pool.node == on));
            pools
                .map(|pool| pool.free * pool.size_kb / 1024)
                .sum::<u64>()
        };
        let hugepages = free_mb(None) >= memory_mb;
        let hugepages_why = if hugepages {
            format!(
                "{} MB are free in huge pages, {memory_mb} MB are needed",
                free_mb(None)
            )
        } else {
            let pages = memory_mb / 2;
            warnings.push(format!(
                "{} MB are free in huge pages and {memory_mb} MB are needed: without them it is slow, and network cards may not work. Reserve them \
                 with `sysctl vm.nr_hugepages={pages}` or at boot (hugepages.md), then run this again",
                free_mb(None)
            ));
            "Too few are free, see above".into()
        };
        if hugepages && free_mb(Some(node)) < memory_mb {
            warnings.push(format!(
                "only {} MB of the free huge pages are on NUMA node {node}, where the workers are: write {} to \
                 /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages",
                free_mb(Some(node)),
                memory_mb / 2
            ));
        }

        // Tables are ordinary memory, and so are buffers without huge pages. A fifth is left to others.
        let taken_mb = if hugepages { 0 } else { memory_mb };
        let room = (machine.available_mb * 4 / 5).saturating_sub(taken_mb) * (1 << 20) / FLOW_BYTES;
        let wanted = u64::from(wish.flows);
        let capacity = wanted.min(room).max(FLOWS_LEAST);
        let mb = |flows: u64| (flows * FLOW_BYTES).div_ceil(1 << 20);
        if capacity < wanted {
            warnings.push(format!(
                "{wanted} flows take {} MB, and of the {} MB that are free four fifths may be used: {capacity} fit",
                mb(wanted),
                machine.available_mb
            ));
        }
        Ok(Self {
            workers: seats.workers,
            sync: seats.sync,
            membership: seats.membership,
            idle: seats.idle,
            idle_why: seats.idle_why,
            shared: seats.shared,
            hugepages,
            hugepages_why,
            mbufs,
            mbufs_why: format!(
                "{workers} x ({interfaces} interfaces x (1024 + 1024 descriptors) + {HOLD} held + 2 bursts of {BURST}), rounded up to 1024, at least {MBUFS_LEAST}"
            ),
            memory_mb,
            memory_why: format!(
                "{pool_mb} MB of buffers, a tenth over, {OTHER_MB} MB for DPDK; at least {MEMORY_LEAST_MB}"
            ),
            capacity,
            capacity_why: format!(
                "Copies for other nodes count too; {FLOW_BYTES} bytes each are {} MB, beside [eal]",
                mb(capacity)
            ),
            warnings,
        })
    }
}

struct Seats {
    workers: Vec<Seat>,
    sync: Seat,
    membership: Seat,
    idle: &'static str,
    idle_why: &'static str,
    shared: bool,
    /// The NUMA node of the workers.
    node: usize,
}

const SPIN_WHY: &str = "Each worker has its cpu to itself";

/// The NUMA node with the most cards; the first of them, and node 0's kind where nothing is known.
fn node_of_cards(machine: &Machine) -> Option<usize> {
    let known: Vec<usize> = machine.nics.iter().filter_map(|nic| nic.node).collect();
    let count = |node: usize| known.iter().filter(|other| **other == node).count();
    known
        .iter()
        .copied()
        .max_by_key(|node| (count(*node), std::cmp::Reverse(*node)))
}

fn seats(
    machine: &Machine,
    workers: Option<usize>,
    warnings: &mut Vec<String>,
) -> Result<Seats, Impossible> {
    // The first thread of each core: two busy threads of one core slow each other down.
    let mut cores: Vec<&Cpu> = vec![];
    for cpu in &machine.cpus {
        if !cores.iter().any(|core| core.siblings.contains(&cpu.id)) {
            cores.push(cpu);
        }
    }
    let Some(first) = cores.first().copied() else {
        return Err(Impossible::NoCpu);
    };
    let node = node_of_cards(machine).unwrap_or(first.node);
    if let &[only] = &cores[..] {
        return one_core(machine, only, workers, warnings);
    }
    // The first core is the system's and the membership core's, which has little to do.
    let mut free = cores[1..].to_vec();
    free.sort_by_key(|cpu| (cpu.node != node, !cpu.isolated, cpu.id));
    let two = free.len() == 1;
    let most = if two {
        1
    } else {
        (free.len() - 1).min(WORKERS_MAX)
    };
    if let Some(workers) = workers.filter(|workers| *workers > most) {
        return Err(Impossible::TooManyWorkers {
            workers,
            cores: workers + 2,
            there: cores.len(),
            most,
        });
    }
    let beside = free.iter().filter(|cpu| cpu.node == node).count();
    // One of them is the sync core's, when it is not alone.
    let beside = if beside > 1 && !two {
        beside - 1
    } else {
        beside
    };
    let isolated = free
        .iter()
        .filter(|cpu| cpu.node == node && cpu.isolated)
        .count();
    let queues = machine
        .nics
        .iter()
        .filter_map(|nic| nic.queues)
        .min()
        .unwrap_or(usize::MAX);
    // Isolated cores were set apart for this: no others unless asked.
    let room = if isolated > 1 { isolated - 1 } else { beside };
    let count = workers.unwrap_or_else(|| room.min(queues).min(most).max(1));
    for nic in &machine.nics {
        if let Some(queues) = nic.queues.filter(|queues| *queues < count) {
            warnings.push(format!(
                "{} has {queues} queues as the kernel has set it up, and {count} workers want one each: `ethtool -l` tells its limit",
                nic.address
            ));
        }
    }
    let seats: Vec<Seat> = free[..count]
        .iter()
        .map(|cpu| worker(machine, cpu, node))
        .collect();
    let far = free[..count].iter().filter(|cpu| cpu.node != node).count();
    if far > 0 {
        warnings.push(format!(
            "{far} of the workers are on another NUMA node than the network cards (node {node}): each packet crosses between the sockets"
        ));
    }
    let sync = match free.get(count) {
        Some(cpu) if !two => Seat {
            cpu: cpu.id,
            why: format!("The sync core is busy under load: a core of its own, on NUMA node {}", cpu.node),
        },
        _ => Seat {
            cpu: first.id,
            why: "The sync core has no core of its own here: three cores are the least for full speed".into(),
        },
    };
    Ok(Seats {
        workers: seats,
        shared: sync.cpu == first.id,
        sync,
        membership: Seat {
            cpu: first.id,
            why: "The membership core has little to do: on the core that the system uses".into(),
        },
        idle: "spin",
        idle_why: SPIN_WHY,
        node,
    })
}

fn worker(machine: &Machine, cpu: &Cpu, node: usize) -> Seat {
    let mut reasons = vec![if node_of_cards(machine).is_none() {
        format!("NUMA node {}", cpu.node)
    } else if cpu.node == node {
        format!("NUMA node {node}, that of the network cards")
    } else {
        format!(
            "NUMA node {}, since that of the network cards is full",
            cpu.node
        )
    }];
    if cpu.isolated {
        reasons.push("isolated from other programs".into());
    }
    if cpu.siblings.len() > 1 {
        let others: Vec<_> = cpu
            .siblings
            .iter()
            .filter(|id| **id != cpu.id)
            .map(usize::to_string)
            .collect();
        reasons.push(format!(
            "leave cpu {}, the other thread of its core, idle",
            others.join(", ")
        ));
    }
    Seat {
        cpu: cpu.id,
        why: reasons.join("; "),
    }
}

/// One core: everything shares it, or its threads.
fn one_core(
    machine: &Machine,
    core: &Cpu,
    workers: Option<usize>,
    warnings: &mut Vec<String>,
) -> Result<Seats, Impossible> {
    if let Some(workers) = workers.filter(|workers| *workers > 1) {
        return Err(Impossible::TooManyWorkers {
            workers,
            cores: workers + 2,
            there: 1,
            most: 1,
        });
    }
    let other = machine.cpus.iter().find(|cpu| cpu.id != core.id);
    warnings.push(match other {
        None => "this machine has 1 cpu, which all threads share: it works and is slow; give it three cores or more".into(),
        Some(_) => "this machine's cpus are two threads of one core: a worker that spins would slow the rest down; give it three cores or more".to_string(),
    });
    let seat = |cpu, why: &str| Seat {
        cpu,
        why: why.into(),
    };
    Ok(Seats {
        workers: vec![seat(
            other.map_or(core.id, |cpu| cpu.id),
            "there is no core for it alone",
        )],
        sync: seat(core.id, "There is no core for the sync core alone"),
        membership: seat(core.id, "Nor for the membership core"),
        idle: "sleep",
        idle_why: "A worker that spins would starve the others of the core",
        shared: true,
        node: core.node,
    })
}
