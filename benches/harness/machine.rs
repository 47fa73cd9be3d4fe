//! The machine: which cpus do what, huge pages, and what the report says of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::cluster::online_cpus;
use lab::program::run;
use lab::wait::{Interrupt, Poll, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::error::{Error, Result};

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_MB: u64 = 2;
/// Where they are mounted, in the folder of the run's state, if they are nowhere else.
const MOUNT: &str = "hugepages";
/// Where it is noted how many there were, for when a run is killed.
const BEFORE: &str = "hugepages-before";

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// The one of the gateway's worker, which has it to itself.
    pub(crate) worker: usize,
    /// The one of all else: the generator, control threads, this program.
    pub(crate) others: usize,
    /// All that are usable, in order.
    pub(crate) online: Vec<usize>,
}

impl Cpus {
    /// The last usable cpu is the worker's, the first is for all else; this process goes there, and
    /// with it whatever it starts.
    pub(crate) fn choose() -> Result<Self> {
        let online = online_cpus()?;
        let (Some(&others), Some(&worker)) = (online.first(), online.last()) else {
            return Err(Error::Machine("there is no cpu to use".into()));
        };
        if worker == others {
            return Err(Error::Machine(
                "there is one usable cpu, and two are needed: one for the gateway's worker, one \
                 for the traffic"
                    .into(),
            ));
        }
        let mut set = CpuSet::new();
        set.set(others)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            .map_err(lab::Error::system("move to the cpu of the traffic"))?;
        Ok(Self {
            worker,
            others,
            online,
        })
    }

    /// The workers' cpus, from the last usable one down. Of more workers than there are cpus beside that of all else, some share
    /// one.
    pub(crate) fn workers(&self, workers: usize) -> Vec<usize> {
        let own: Vec<usize> = self.online.iter().rev().copied().collect();
        let own = &own[..own.len() - 1];
        own.iter().copied().cycle().take(workers).collect()
    }

    /// The cpus of the generator's threads, for as many workers: that of all else, and the next ones up. They are the
    /// workers' as well where [`Self::most_workers`] are exceeded.
    pub(crate) fn generators(&self, workers: usize) -> Vec<usize> {
        self.online.iter().copied().cycle().take(workers).collect()
    }

    /// How many workers can have a cpu each, with another for each of the generator's threads.
    pub(crate) fn most_workers(&self) -> usize {
        room_for_workers(self.online.len())
    }

    /// All that are usable, as `taskset` takes them: for who places its threads itself.
    pub(crate) fn all(&self) -> String {
        let all: Vec<String> = self.online.iter().map(usize::to_string).collect();
        all.join(",")
    }
}

/// See [`Cpus::most_workers`]; before this process has gone to one cpu.
pub(crate) fn most_workers() -> usize {
    online_cpus().map_or(1, |online| room_for_workers(online.len()))
}

/// A cpu for each worker, and one for its generator.
fn room_for_workers(cpus: usize) -> usize {
    cpus / 2
}

/// Pages for packet buffers: huge ones if the kernel has them to give. Dropped, it gives back what it took.
#[derive(Debug)]
pub(crate) struct Pages {
    /// What `vm.nr_hugepages` was, if it was changed.
    before: Option<u64>,
    mounted: Option<PathBuf>,
    huge: bool,
}

impl Pages {
    /// Sees to it that so many megabytes of huge pages are free and mounted, in `dir` if nowhere else;
    /// when the kernel has not so many, ordinary pages serve, and rates are lower for everybody.
    pub(crate) fn reserve(mb: u64, dir: &Path) -> Result<Self> {
        let mut pages = Self {
            before: None,
            mounted: None,
            huge: false,
        };
        let Some((total, free)) = huge_pages() else {
            return Ok(pages);
        };
        let wanted = mb.div_ceil(PAGE_MB);
        if free < wanted {
            pages.before = Some(total);
            let note = dir.join(BEFORE);
            fs::write(&note, total.to_string()).map_err(lab::Error::file("write", &note))?;
            let more = (total + wanted - free).to_string();
            fs::write(NR_HUGEPAGES, more).map_err(lab::Error::file("write", NR_HUGEPAGES))?;
        }
        if huge_pages().is_none_or(|(_, free)| free < wanted) {
            return Ok(pages);
        }
        let mounts =
            fs::read_to_string("/proc/mounts").map_err(lab::Error::file("read", "/proc/mounts"))?;
        if !mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
        {
            let at = dir.join(MOUNT);
            fs::create_dir_all(&at).map_err(lab::Error::file("make", &at))?;
            mount(
                Some("nodev"),
                &at,
                Some("hugetlbfs"),
                MsFlags::empty(),
                Some("pagesize=2M"),
            )
            .map_err(lab::Error::system("mount huge pages"))?;
            pages.mounted = Some(at);
        }
        pages.huge = true;
        Ok(pages)
    }

    /// Gives back what was taken. Whoever uses the pages has ended.
    pub(crate) fn release(&mut self) {
        if let Some(at) = self.mounted.take()
            && let Err(error) = umount2(&at, MntFlags::MNT_DETACH)
        {
            eprintln!("bench: {} is still mounted: {error}", at.display());
        }
        if let Some(before) = self.before.take()
            && let Err(error) = fs::write(NR_HUGEPAGES, before.to_string())
        {
            eprintln!("bench: vm.nr_hugepages was {before} and could not be set back: {error}");
        }
    }

    /// Whether they are huge.
    pub(crate) fn huge(&self) -> bool {
        self.huge
    }

    /// What a program of DPDK's is told about them.
    pub(crate) fn eal_arguments(&self) -> &'static [&'static str] {
        if self.huge {
            &["--in-memory"]
        } else {
            &["--no-huge", "--no-shconf"]
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.release();
    }
}

/// Takes away the mount and the pages that a run which was killed has left, as its folder tells.
pub(crate) fn release_left(dir: &Path) {
    // Where nothing was left there is nothing to do.
    let _ = umount2(&dir.join(MOUNT), MntFlags::MNT_DETACH);
    if let Ok(before) = fs::read_to_string(dir.join(BEFORE)) {
        let _ = fs::write(NR_HUGEPAGES, before);
        // Those that are in use still go when they are not. Whether or not they do, we begin.
        let _ = wait_until(
            "huge pages to be given back",
            Duration::from_secs(10),
            Duration::from_millis(10),
            &Interrupt::default(),
            || {
                Ok(match huge_pages_in_surplus() {
                    None | Some(0) => Poll::Ready(()),
                    Some(pages) => Poll::Pending(format!(": {pages} are in use")),
                })
            },
        );
    }
}

/// Waits until so many megabytes of the huge pages that were reserved are free: what the kernel sent from, it
/// gives back some time after the process has ended.
pub(crate) fn wait_free(mb: u64, interrupt: &Interrupt) -> Result<()> {
    Ok(wait_until(
        &format!("{mb} MB of huge pages to be free"),
        Duration::from_secs(10),
        Duration::from_millis(10),
        interrupt,
        || {
            let free = huge_pages().map_or(0, |(_, free)| free * PAGE_MB);
            Ok(if free >= mb {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(": {free} are"))
            })
        },
    )?)
}

/// How many huge pages of 2 MB are reserved, and how many of them are free.
fn huge_pages() -> Option<(u64, u64)> {
    let [total, free, surplus] =
        ["HugePages_Total:", "HugePages_Free:", "HugePages_Surp:"].map(huge_page_field);
    Some((total?.saturating_sub(surplus?), free?))
}

/// How many are more than are reserved, as they were in use when they were given back.
fn huge_pages_in_surplus() -> Option<u64> {
    huge_page_field("HugePages_Surp:")
}

/// A field of `/proc/meminfo`, where huge pages have 2 MB.
fn huge_page_field(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (field("Hugepagesize:")? == PAGE_MB * 1024).then_some(())?;
    field(name)
}

/// Megabytes of memory that programs could still get.
pub(crate) fn available_mb() -> Result<u64> {
    let text =
        fs::read_to_string("/proc/meminfo").map_err(lab::Error::file("read", "/proc/meminfo"))?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map(|kb| kb >> 10)
        .ok_or(Error::Unreadable {
            from: "/proc/meminfo",
            said: text.lines().take(3).collect::<Vec<_>>().join(", "),
            wanted: "MemAvailable",
        })
}

/// What the report says of the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mb: u64,
    kernel: String,
    huge_pages: bool,
    worker_cpu: usize,
    other_cpu: usize,
    dpdk: String,
    ravelin: String,
    /// Processes that wanted a cpu, over the minute before: above 0 others disturb the figures.
    load_before: f64,
    date: String,
}

impl Machine {
    /// Looks at this machine. `ravelin` is our own version.
    pub(crate) fn look(cpus: &Cpus, huge_pages: bool, ravelin: String) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split(':').nth(1)?.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let said = |program: &str, args: &[&str]| {
            let output = run(None, program, args, "").unwrap_or_default();
            output.trim().to_owned()
        };
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: online_cpus().map_or(0, |online| online.len()).max(
                // This process has gone to one cpu already.
                read("/proc/cpuinfo").matches("processor\t").count(),
            ),
            memory_mb: memory.unwrap_or(0) >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages,
            worker_cpu: cpus.worker,
            other_cpu: cpus.others,
            dpdk: said("pkg-config", &["--modversion", "libdpdk"]),
            ravelin,
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            date: said("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_and_generators_share_no_cpu_while_there_are_enough() {
        let cpus = |count: usize| Cpus {
            worker: count - 1,
            others: 0,
            online: (0..count).collect(),
        };
        let two = cpus(2);
        assert_eq!((two.workers(1), two.generators(1)), (vec![1], vec![0]));
        assert_eq!(two.workers(3), [1, 1, 1], "never that of all else");
        for count in 2..=17 {
            let cpus = cpus(count);
            let most = cpus.most_workers();
            let mut used = [cpus.workers(most), cpus.generators(most)].concat();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 2 * most, "{count}");
        }
    }
}
