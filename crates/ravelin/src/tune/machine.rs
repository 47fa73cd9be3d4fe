//! What `/sys` and `/proc` tell of the machine.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What matters of a machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Those that are online, by number.
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) nics: Vec<Nic>,
    /// Memory that programs can still take, huge pages aside.
    pub(crate) available_mb: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cpu {
    pub(crate) id: usize,
    /// The NUMA node; 0 where there are none.
    pub(crate) node: usize,
    /// The cpus that are threads of the same core, itself among them.
    pub(crate) siblings: Vec<usize>,
    /// Whether the kernel keeps other programs off it (`isolcpus`).
    pub(crate) isolated: bool,
}

/// Huge pages of one size on one NUMA node.
#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    pub(crate) node: usize,
    pub(crate) size_kb: u64,
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// A network card's function on PCI.
#[derive(Debug, Serialize)]
pub(crate) struct Nic {
    /// As `interface.device` wants it.
    pub(crate) address: String,
    /// `None` where the firmware does not say.
    pub(crate) node: Option<usize>,
    /// The kernel's interfaces on it; none once a driver for user space has it.
    pub(crate) names: Vec<String>,
    pub(crate) driver: Option<String>,
    /// Receive queues, as the kernel's driver has set up; unknown to a driver for user space.
    pub(crate) queues: Option<usize>,
}

impl Machine {
    /// Reads what is below `root`, which is `/` but for tests. What cannot be read is not there.
    pub(crate) fn read(root: &Path) -> Self {
        let system = root.join("sys/devices/system");
        let isolated = list(&text(&system.join("cpu/isolated")).unwrap_or_default());
        let nodes = numbered(&system.join("node"), "node");
        let of_node: Vec<(usize, Vec<usize>)> = nodes
            .iter()
            .filter_map(|node| {
                let cpus = text(&system.join(format!("node/node{node}/cpulist")))?;
                Some((*node, list(&cpus)))
            })
            .collect();
        let cpu = |id: usize| {
            let siblings = system.join(format!("cpu/cpu{id}/topology/thread_siblings_list"));
            let siblings = text(&siblings).map(|siblings| list(&siblings));
            let node = of_node.iter().find(|(_, cpus)| cpus.contains(&id));
            Cpu {
                id,
                node: node.map_or(0, |(node, _)| *node),
                siblings: siblings
                    .filter(|s| s.contains(&id))
                    .unwrap_or_else(|| vec![id]),
                isolated: isolated.contains(&id),
            }
        };
        let online = text(&system.join("cpu/online")).unwrap_or_default();
        let mut pools: Vec<Pool> = nodes
            .iter()
            .flat_map(|node| pools(&system.join(format!("node/node{node}/hugepages")), *node))
            .collect();
        if nodes.is_empty() {
            pools = self::pools(&root.join("sys/kernel/mm/hugepages"), 0);
        }
        Self {
            cpus: list(&online).into_iter().map(cpu).collect(),
            pools,
            nics: nics(&root.join("sys/bus/pci/devices")),
            available_mb: available_mb(&text(&root.join("proc/meminfo")).unwrap_or_default()),
        }
    }

    /// In one line.
    pub(crate) fn words(&self) -> String {
        let mut cores: Vec<_> = self.cpus.iter().map(|cpu| &cpu.siblings).collect();
        cores.sort();
        cores.dedup();
        let mut nodes: Vec<_> = self.cpus.iter().map(|cpu| cpu.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let counted =
            |n: usize, what: &str| format!("{n} {what}{}", crate::output::plural(n as u64));
        format!(
            "{} on {} and {}, {} MB of memory free, and {} MB in huge pages",
            counted(self.cpus.len(), "cpu"),
            counted(cores.len(), "core"),
            counted(nodes.len(), "NUMA node"),
            self.available_mb,
            self.pools
                .iter()
                .map(|pool| pool.free * pool.size_kb / 1024)
                .sum::<u64>(),
        )
    }
}

impl Nic {
    pub(crate) fn words(&self) -> String {
        let mut words = vec![self.address.clone()];
        words.extend(self.names.iter().cloned());
        words.extend(
            self.driver
                .as_ref()
                .map(|driver| format!("driver {driver}")),
        );
        words.push(match self.node {
            Some(node) => format!("NUMA node {node}"),
            None => "NUMA node unknown".into(),
        });
        words.push(match self.queues {
            Some(queues) => format!("{queues} queue{}", crate::output::plural(queues as u64)),
            None => "queues unknown (its driver tells at start)".into(),
        });
        words.join(", ")
    }
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// `0-3,8` of the kernel.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// The numbers of a folder's entries that are called so.
fn numbered(folder: &Path, name: &str) -> Vec<usize> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(name)?.parse().ok();
    let mut numbers: Vec<usize> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn pools(folder: &Path, node: usize) -> Vec<Pool> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let pool = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let size_kb = name
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?;
        let number = |file: &str| text(&entry.path().join(file))?.parse::<u64>().ok();
        Some(Pool {
            node,
            size_kb: size_kb.parse().ok()?,
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?.saturating_sub(number("resv_hugepages").unwrap_or(0)),
        })
    };
    let mut pools: Vec<Pool> = entries.filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.size_kb);
    pools
}

/// PCI's class of network controllers (PCI Code and ID Assignment Specification, 02h).
const NETWORK: &str = "0x02";

fn nics(folder: &Path) -> Vec<Nic> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let nic = |entry: fs::DirEntry| {
        let path = entry.path();
        text(&path.join("class")).filter(|class| class.starts_with(NETWORK))?;
        // virtio's interfaces are one folder down, below the device on the card.
        let mut nets = vec![path.join("net")];
        let below = numbered(&path, "virtio").into_iter();
        nets.extend(below.map(|number| path.join(format!("virtio{number}/net"))));
        let mut names = vec![];
        let mut queues = None;
        for net in nets {
            for entry in fs::read_dir(&net).into_iter().flatten().flatten() {
                let count = numbered(&entry.path().join("queues"), "rx-").len();
                queues = queues.max(Some(count).filter(|count| *count > 0));
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort();
        Some(Nic {
            address: entry.file_name().into_string().ok()?,
            // -1 is unknown.
            node: text(&path.join("numa_node")).and_then(|node| node.parse().ok()),
            queues,
            driver: fs::read_link(path.join("driver"))
                .ok()
                .and_then(|driver| driver.file_name()?.to_str().map(str::to_owned)),
            names,
        })
    };
    let mut nics: Vec<Nic> = entries.filter_map(nic).collect();
    nics.sort_by(|a, b| a.address.cmp(&b.address));
    nics
}

fn available_mb(meminfo: &str) -> u64 {
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kb = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) / 1024
}
