//! What can go wrong, and what would be right.

use std::ffi::CStr;
use std::fmt;

/// An error number of DPDK, which are those of the C library and a few more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's `rte_errno`.
    pub(crate) fn current() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { dpdk_sys::ravelin_errno() })
    }

    /// From the negative return value of a DPDK function.
    pub(crate) fn from_return(rc: i32) -> Self {
        Self(rc.saturating_neg())
    }

    /// Whether the device lacks the operation, rather than failed at it.
    pub(crate) fn is_unsupported(self) -> bool {
        self.0 == libc::ENOTSUP || self.0 == libc::ENOSYS
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a static or thread-local string that ends with a zero,
        // valid until this thread calls it again.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (error {})", text.to_string_lossy(), self.0)
    }
}

/// Why an operation of this crate failed. The text says what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// EAL starts once per process, even after it was shut down or failed.
    #[error("DPDK was started in this process before; it starts once per process")]
    SecondInit,
    /// Nothing of DPDK works before [`crate::Eal::init`].
    #[error("DPDK is not running: call Eal::init first and keep its value")]
    NotRunning,
    /// An option cannot be what it was given.
    #[error("DPDK option {option} = `{value}`: {problem}")]
    Option {
        /// Which field of [`crate::EalOptions`].
        option: &'static str,
        /// What it was given.
        value: String,
        /// What would be right.
        problem: &'static str,
    },
    /// Not enough free hugepages for the memory that was asked for.
    #[error(
        "not enough hugepages: {wanted_mb} MB wanted, {free_mb} MB free ({pools}). Reserve some, \
         for example `sysctl vm.nr_hugepages={pages_2m}`, or run without (`hugepages = false`, slower); see hugepages.md"
    )]
    NoHugepages {
        /// What was asked for, in MB.
        wanted_mb: u64,
        /// What is free, in MB.
        free_mb: u64,
        /// The pools by page size, in words.
        pools: String,
        /// How many pages of 2 MB would do.
        pages_2m: u64,
    },
    /// Hugepages exist but no hugetlbfs is mounted where their files could be.
    #[error(
        "no hugetlbfs is mounted: `mount -t hugetlbfs nodev /dev/hugepages`, or use `in_memory`; see hugepages.md"
    )]
    NoHugetlbfs,
    /// Another process runs with the same file prefix.
    #[error(
        "another process runs DPDK with the file prefix `{prefix}`: give each its own, or use `in_memory`\n{log}"
    )]
    PrefixInUse {
        /// The prefix.
        prefix: String,
        /// DPDK's last words.
        log: String,
    },
    /// The process lacks a privilege.
    #[error(
        "not permitted to {what}: run as root, or give the process what DPDK needs \
         (CAP_NET_RAW for AF_PACKET, CAP_IPC_LOCK and /dev/vfio for hardware, a writable run time folder)\n{log}"
    )]
    NotPermitted {
        /// What was attempted.
        what: &'static str,
        /// DPDK's last words.
        log: String,
    },
    /// EAL did not start, for a reason that only DPDK's own words tell.
    #[error("DPDK did not start: {errno}\n{log}")]
    Init {
        /// The reason as a number.
        errno: Errno,
        /// DPDK's last words.
        log: String,
    },
    /// A virtual device did not come up.
    #[error(
        "virtual device `{vdev}` did not come up: is the driver's name right (net_af_packet, net_memif, \
         net_ring, net_null, net_pcap, each with a suffix), are its arguments, and does the interface exist?\n{log}"
    )]
    Vdev {
        /// Name and arguments as they were given.
        vdev: String,
        /// DPDK's last words.
        log: String,
    },
    /// A PCI device did not come up.
    #[error(
        "PCI device {address} did not come up: it must exist and be bound to vfio-pci \
         (`dpdk-devbind.py --status`, `dpdk-devbind.py --bind=vfio-pci {address}`; mlx4 and mlx5 stay on their kernel driver)\n{log}"
    )]
    Pci {
        /// The address.
        address: String,
        /// DPDK's last words.
        log: String,
    },
    /// Shut down while something of DPDK still lives.
    #[error("DPDK is not shut down: {users} ports, pools or registered threads still use it")]
    StillInUse {
        /// How many handles.
        users: usize,
    },
    /// Shut down while packet buffers are still out.
    #[error("DPDK is not shut down: {buffers} packet buffers of {pools} pools were not returned")]
    BuffersOut {
        /// How many buffers.
        buffers: u64,
        /// Of how many pools.
        pools: usize,
    },
    /// `rte_eal_cleanup` failed.
    #[error("DPDK's cleanup failed: {0}")]
    Cleanup(Errno),
    /// A pool cannot have this shape.
    #[error("packet pool `{name}`: {problem}")]
    PoolShape {
        /// The pool.
        name: String,
        /// What would be right.
        problem: String,
    },
    /// A pool was not made.
    #[error(
        "packet pool `{name}` of {buffers} buffers (about {megabytes} MB) was not made: {errno}. \
         Out of memory means that memory_mb or the hugepages of that NUMA node are too few; an existing name must be changed\n{log}"
    )]
    Pool {
        /// The pool.
        name: String,
        /// How many buffers.
        buffers: u32,
        /// About how much memory.
        megabytes: u64,
        /// Why.
        errno: Errno,
        /// DPDK's last words.
        log: String,
    },
    /// No port has this name.
    #[error("there is no port `{name}`; there are: {existing}")]
    UnknownPort {
        /// What was asked for.
        name: String,
        /// Names of those that exist.
        existing: String,
    },
    /// The port is in use by an earlier handle.
    #[error("port `{name}` is already open in this process")]
    PortTaken {
        /// The port.
        name: String,
    },
    /// The port cannot be configured this way.
    #[error("port `{name}`: {problem}")]
    PortShape {
        /// The port.
        name: String,
        /// What would be right.
        problem: String,
    },
    /// A device refused an operation.
    #[error("port `{name}`: {operation} failed: {errno}\n{log}")]
    Device {
        /// The port.
        name: String,
        /// What was attempted.
        operation: &'static str,
        /// Why.
        errno: Errno,
        /// DPDK's last words.
        log: String,
    },
    /// A running port cannot be stopped or started again while workers hold its queues.
    #[error("port `{name}`: {queues} queue pairs are still out; drop them first")]
    QueuesOut {
        /// The port.
        name: String,
        /// How many.
        queues: usize,
    },
    /// The calling thread is one of DPDK's already.
    #[error("this thread is registered with DPDK already")]
    ThreadKnown,
    /// DPDK cannot take the calling thread.
    #[error("DPDK did not register this thread (it takes {threads_max}): {errno}")]
    Thread {
        /// The most threads at a time.
        threads_max: u32,
        /// Why.
        errno: Errno,
    },
}
