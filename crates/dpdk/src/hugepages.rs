//! What the kernel says about hugepages, so that a shortage is reported before DPDK fails on it.

use std::fs;
use std::path::Path;

/// The kernel's pool of hugepages of one size, all NUMA nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hugepages {
    /// Size of a page in kB: 2048, 1048576 and so on.
    pub size_kb: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that a process can still take: free ones that nobody reserved, and those that the
    /// pool may still grow by (`nr_overcommit_hugepages`).
    pub available: u64,
}

/// The hugepage pools, smallest pages first; empty where the kernel has none.
pub fn hugepages() -> Vec<Hugepages> {
    read_pools(Path::new("/sys/kernel/mm/hugepages"))
}

fn read_pools(folder: &Path) -> Vec<Hugepages> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut pools: Vec<Hugepages> = entries
        .flatten()
        .filter_map(|entry| read_pool(&entry.path()))
        .collect();
    pools.sort_by_key(|pool| pool.size_kb);
    pools
}

/// One pool from a folder such as `hugepages-2048kB`.
fn read_pool(folder: &Path) -> Option<Hugepages> {
    let name = folder.file_name()?.to_str()?;
    let size_kb = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages").unwrap_or(0));
    let overcommit = number("nr_overcommit_hugepages")
        .unwrap_or(0)
        .saturating_sub(number("surplus_hugepages").unwrap_or(0));
    Some(Hugepages {
        size_kb,
        total: number("nr_hugepages")?,
        available: free + overcommit,
    })
}

/// Available memory in all pools together, in MB.
pub(crate) fn available_mb(pools: &[Hugepages]) -> u64 {
    pools
        .iter()
        .map(|pool| pool.available * pool.size_kb / 1024)
        .sum()
}

/// The pools in words, for an error.
pub(crate) fn describe(pools: &[Hugepages]) -> String {
    if pools.is_empty() {
        return "the kernel has no hugepage pools".to_owned();
    }
    let words: Vec<String> = pools
        .iter()
        .map(|pool| {
            format!(
                "{} of {} pages of {} kB",
                pool.available, pool.total, pool.size_kb
            )
        })
        .collect();
    words.join(", ")
}

/// Whether `/proc/mounts` lists a hugetlbfs.
pub(crate) fn hugetlbfs_mounted() -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| lists_hugetlbfs(&mounts))
}

/// The third field of a line is the type of file system.
fn lists_hugetlbfs(mounts: &str) -> bool {
    mounts
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some("hugetlbfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_come_sorted_and_count_what_can_be_taken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, files) in [
            (
                "hugepages-1048576kB",
                [
                    ("nr", 2),
                    ("free", 1),
                    ("resv", 0),
                    ("nr_overcommit", 0),
                    ("surplus", 0),
                ],
            ),
            (
                "hugepages-2048kB",
                [
                    ("nr", 512),
                    ("free", 100),
                    ("resv", 30),
                    ("nr_overcommit", 8),
                    ("surplus", 3),
                ],
            ),
        ] {
            let pool = folder.path().join(name);
            fs::create_dir(&pool).expect("a pool");
            for (file, value) in files {
                fs::write(pool.join(format!("{file}_hugepages")), format!("{value}\n"))
                    .expect("a number");
            }
        }
        fs::create_dir(folder.path().join("something-else")).expect("a stray folder");
        let pools = read_pools(folder.path());
        assert_eq!(
            pools,
            [
                Hugepages {
                    size_kb: 2048,
                    total: 512,
                    available: 75
                },
                Hugepages {
                    size_kb: 1_048_576,
                    total: 2,
                    available: 1
                },
            ]
        );
        assert_eq!(available_mb(&pools), 150 + 1024);
    }

    #[test]
    fn no_folder_is_no_pool() {
        assert_eq!(read_pools(Path::new("/nonexistent")), []);
        assert_eq!(describe(&[]), "the kernel has no hugepage pools");
    }

    #[test]
    fn a_mount_is_known_by_its_type_not_its_path() {
        assert!(lists_hugetlbfs(
            "nodev /dev/hugepages hugetlbfs rw,relatime 0 0\n"
        ));
        assert!(!lists_hugetlbfs("tmpfs /hugetlbfs tmpfs rw 0 0\n"));
    }
}
