//! The environment abstraction layer: started once, shut down when nothing uses it any more.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::{io, mem, ptr};

use crate::error::{Errno, Error};
use crate::hugepages;
use crate::log::{self, LogHook, LogLevel};
use crate::mempool::RetiredPool;
use crate::port;

/// How devices address memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IovaMode {
    /// Virtual addresses, through an IOMMU or because no device does DMA.
    Virtual,
    /// Physical addresses: needs root and hugepages.
    Physical,
}

/// How to start DPDK. The default is that of a node with real devices: hugepages, shared files
/// under the prefix `ravelin`, as much memory as pools ask for.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// Ordinary pages instead of hugepages. Only software devices work then; `memory_mb` is
    /// the size of the one area that everything comes from.
    pub no_huge: bool,
    /// No files at all: neither in hugetlbfs nor in the run time folder. Other processes, such
    /// as `dpdk-proc-info`, cannot attach then.
    pub in_memory: bool,
    /// Sets this process's files apart from those of others. Letters, digits, `-`, `_` and `.`.
    pub file_prefix: String,
    /// Memory to reserve at start, in MB. `None` means 64 without hugepages, and on demand with.
    pub memory_mb: Option<u32>,
    /// CPU of DPDK's main logical core. `None` is the first one that the caller may run on.
    /// The caller's own affinity is the same after [`Eal::init`] as before.
    pub main_cpu: Option<usize>,
    /// Virtual devices, each with its arguments: `net_af_packet0,iface=in0`.
    pub vdevs: Vec<String>,
    /// PCI devices to take, each with optional arguments: `0000:01:00.0`. Others are left alone;
    /// with none the PCI bus is not looked at.
    pub pci: Vec<String>,
    /// How devices address memory; `None` lets DPDK choose.
    pub iova: Option<IovaMode>,
    /// Further arguments, as they are: what DPDK makes of them is the caller's affair.
    pub extra: Vec<String>,
    /// Up to which urgency log lines are passed on.
    pub log_level: LogLevel,
    /// Where they go; `None` is the error output.
    pub log_hook: Option<LogHook>,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            no_huge: false,
            in_memory: false,
            file_prefix: "ravelin".to_owned(),
            memory_mb: None,
            main_cpu: None,
            vdevs: Vec::new(),
            pci: Vec::new(),
            iova: None,
            extra: Vec::new(),
            log_level: LogLevel::Warning,
            log_hook: None,
        }
    }
}

impl EalOptions {
    /// Without hugepages, without files: for tests, and for a node of software devices on a
    /// machine that has none to spare.
    pub fn without_hugepages(memory_mb: u32) -> Self {
        Self {
            no_huge: true,
            in_memory: true,
            memory_mb: Some(memory_mb),
            ..Self::default()
        }
    }
}

/// DPDK, running. It stays on the thread that started it; see [`Eal::shut_down`] for its end.
#[derive(Debug)]
pub struct Eal {
    shared: Arc<Shared>,
    ended: bool,
    _thread_bound: PhantomData<*const ()>,
}

impl Eal {
    /// Starts DPDK.
    ///
    /// # Errors
    /// [`Error::SecondInit`] if it was started before; [`Error::Option`] for an option that cannot
    /// be; [`Error::NoHugepages`] or [`Error::NoHugetlbfs`] before DPDK would fail on it;
    /// [`Error::Vdev`] or [`Error::Pci`] for a device that did not come up; [`Error::NotPermitted`],
    /// [`Error::PrefixInUse`], or [`Error::Init`] with DPDK's own words for the rest.
    pub fn init(options: &EalOptions) -> Result<Self, Error> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let affinity = Affinity::of_this_thread().map_err(|error| Error::Init {
            errno: Errno(error.raw_os_error().unwrap_or(libc::EINVAL)),
            log: "  the thread's CPU affinity cannot be read".to_owned(),
        })?;
        let arguments = arguments(options, &affinity)?;
        if !options.no_huge {
            check_hugepages(options)?;
        }
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::SecondInit);
        }
        log::redirect(options.log_level, options.log_hook);
        log::forget();
        let rc = call_init(arguments);
        affinity.restore();
        if rc < 0 {
            return Err(init_failure(options, Errno::current(), log::complaints()));
        }
        let shared = Arc::new(Shared {
            main_thread: thread::current().id(),
            small_pages: options.no_huge,
            threads: Mutex::new(0),
            retired: Mutex::new(Vec::new()),
            ports: Mutex::new(BTreeSet::new()),
        });
        *lock(&RUNNING) = Arc::downgrade(&shared);
        let eal = Self {
            shared,
            ended: false,
            _thread_bound: PhantomData,
        };
        eal.check_devices(options)?;
        Ok(eal)
    }

    /// Names of the ports that exist, by which [`crate::EthPort::configure`] takes them.
    pub fn ports(&self) -> Vec<String> {
        port::names()
    }

    /// The version of the DPDK that runs, such as `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: returns a static string that ends with a zero.
        unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }
            .to_string_lossy()
            .into_owned()
    }

    /// Ends DPDK and gives its memory back. Dropping does the same, without telling the outcome.
    ///
    /// # Errors
    /// [`Error::StillInUse`] while ports, pools or registered threads are alive,
    /// [`Error::BuffersOut`] while packet buffers are: memory then stays until the process ends.
    pub fn shut_down(mut self) -> Result<(), Error> {
        self.end()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A device that does not come up is only a line in DPDK's log: here it is an error.
    fn check_devices(&self, options: &EalOptions) -> Result<(), Error> {
        for vdev in &options.vdevs {
            if port::find(name_of(vdev)).is_none() {
                let log = log::complaints();
                return Err(match not_permitted(&log) {
                    true => Error::NotPermitted {
                        what: "open a virtual device",
                        log,
                    },
                    false => Error::Vdev {
                        vdev: vdev.clone(),
                        log,
                    },
                });
            }
        }
        for device in &options.pci {
            let address = name_of(device);
            if port::find(address).is_none() {
                let log = log::complaints();
                return Err(match not_permitted(&log) {
                    true => Error::NotPermitted {
                        what: "take a PCI device",
                        log,
                    },
                    false => Error::Pci {
                        address: address.to_owned(),
                        log,
                    },
                });
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        if mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        // From here on no thread can register, so the count below cannot grow behind our back:
        // ports and pools are only made from an `Eal`, and it is here.
        *lock(&RUNNING) = Weak::new();
        let users = Arc::strong_count(&self.shared) - 1;
        if users > 0 {
            return Err(Error::StillInUse { users });
        }
        self.shared.reap();
        let retired = lock(&self.shared.retired);
        if !retired.is_empty() {
            let buffers = retired.iter().map(RetiredPool::in_use).sum();
            return Err(Error::BuffersOut {
                buffers,
                pools: retired.len(),
            });
        }
        // SAFETY: this is the thread that started EAL; no port, pool, buffer or registered thread is left.
        match unsafe { dpdk_sys::rte_eal_cleanup() } {
            0 => Ok(()),
            rc => Err(Error::Cleanup(Errno::from_return(rc))),
        }
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // Whoever wants the outcome calls `shut_down`; without it the memory just stays.
        let _ = self.end();
    }
}

/// What ports, pools and registered threads share with the [`Eal`].
#[derive(Debug)]
pub(crate) struct Shared {
    main_thread: ThreadId,
    small_pages: bool,
    /// How many threads are registered.
    threads: Mutex<usize>,
    /// Pools without a handle, to be freed when their buffers are back.
    retired: Mutex<Vec<RetiredPool>>,
    /// Ports that are open.
    ports: Mutex<BTreeSet<u16>>,
}

impl Shared {
    pub(crate) fn thread_joins(&self) {
        *lock(&self.threads) += 1;
    }

    pub(crate) fn thread_leaves(&self) {
        *lock(&self.threads) -= 1;
    }

    /// Whether it runs without hugepages.
    pub(crate) fn small_pages(&self) -> bool {
        self.small_pages
    }

    /// Whether the port was free; it is taken now.
    pub(crate) fn take_port(&self, port: u16) -> bool {
        lock(&self.ports).insert(port)
    }

    pub(crate) fn return_port(&self, port: u16) {
        lock(&self.ports).remove(&port);
    }

    pub(crate) fn retire(&self, pool: RetiredPool) {
        lock(&self.retired).push(pool);
        self.reap();
    }

    /// Frees retired pools whose buffers are all back.
    ///
    /// "All back" is only certain when nobody is in the middle of returning one. Through a
    /// private cache only the main thread and registered threads return buffers, and a cache counts
    /// them before it stores them: so this acts on the main thread alone, and only while no thread
    /// is registered (`threads` stays locked, so none can join meanwhile). An unregistered thread
    /// returns straight to the pool's ring, whose count moves last.
    pub(crate) fn reap(&self) {
        if thread::current().id() != self.main_thread {
            return;
        }
        let threads = lock(&self.threads);
        if *threads > 0 {
            return;
        }
        lock(&self.retired).retain_mut(|pool| {
            let idle = pool.in_use() == 0;
            if idle {
                // SAFETY: no handle is left (it is retired), no buffer is out, and nobody is in
                // the middle of returning one, as argued above.
                unsafe { pool.free() };
            }
            !idle
        });
    }
}

/// The running EAL, for threads that register.
static RUNNING: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

pub(crate) fn running() -> Option<Arc<Shared>> {
    lock(&RUNNING).upgrade()
}

/// Locks; a panic elsewhere leaves these plain values whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of a device string before its arguments.
fn name_of(device: &str) -> &str {
    device.split(',').next().unwrap_or(device)
}

/// EAL's command line.
fn arguments(options: &EalOptions, affinity: &Affinity) -> Result<Vec<CString>, Error> {
    let main_cpu = match options.main_cpu {
        Some(cpu) if !affinity.online(cpu) => {
            return Err(Error::Option {
                option: "main_cpu",
                value: cpu.to_string(),
                problem: "no CPU of that number is online",
            });
        }
        Some(cpu) => cpu,
        None => affinity.first(),
    };
    let prefix = &options.file_prefix;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if prefix.is_empty() || prefix.starts_with('.') || !prefix.chars().all(allowed) {
        return Err(Error::Option {
            option: "file_prefix",
            value: prefix.clone(),
            problem: "must be letters, digits, `-`, `_` and `.`, and not start with a dot",
        });
    }
    if options.memory_mb == Some(0) {
        return Err(Error::Option {
            option: "memory_mb",
            value: "0".to_owned(),
            problem: "must be at least 1; leave it out for DPDK's default",
        });
    }
    // Logical core 0 on the main CPU; further numbers are for threads that register.
    let mut words = vec![
        "ravelin".to_owned(),
        format!("--lcores=0@{main_cpu}"),
        format!("--file-prefix={prefix}"),
        // At least warnings, which errors repeat; the hook filters by `log_level`.
        format!(
            "--log-level={}",
            options.log_level.max(LogLevel::Warning) as u32
        ),
        "--no-telemetry".to_owned(),
    ];
    if options.no_huge {
        words.push("--no-huge".to_owned());
    }
    if options.in_memory {
        // DPDK refuses --in-memory together with --no-huge (which implies its legacy memory
        // mode); without hugepages the only files are those of the shared configuration.
        let word = if options.no_huge {
            "--no-shconf"
        } else {
            "--in-memory"
        };
        words.push(word.to_owned());
    }
    if let Some(mb) = options.memory_mb {
        words.extend(["-m".to_owned(), mb.to_string()]);
    }
    match options.iova {
        Some(IovaMode::Virtual) => words.push("--iova-mode=va".to_owned()),
        Some(IovaMode::Physical) => words.push("--iova-mode=pa".to_owned()),
        None => {}
    }
    for vdev in &options.vdevs {
        check_device("vdevs", vdev)?;
        words.push(format!("--vdev={vdev}"));
    }
    if options.pci.is_empty() {
        words.push("--no-pci".to_owned());
    }
    for device in &options.pci {
        check_device("pci", device)?;
        if !port::is_pci_address(name_of(device)) {
            return Err(Error::Option {
                option: "pci",
                value: device.clone(),
                problem: "must be an address such as 0000:01:00.0",
            });
        }
        words.push(format!("--allow={device}"));
    }
    words.extend(options.extra.iter().cloned());
    words
        .into_iter()
        .map(|word| {
            CString::new(word).map_err(|error| Error::Option {
                option: "vdevs, pci or extra",
                value: String::from_utf8_lossy(&error.into_vec()).into_owned(),
                problem: "must not contain a zero byte",
            })
        })
        .collect()
}

fn check_device(option: &'static str, device: &str) -> Result<(), Error> {
    match name_of(device).trim() {
        "" => Err(Error::Option {
            option,
            value: device.to_owned(),
            problem: "must begin with a device's name",
        }),
        _ => Ok(()),
    }
}

fn check_hugepages(options: &EalOptions) -> Result<(), Error> {
    let pools = hugepages::hugepages();
    let free_mb = hugepages::available_mb(&pools);
    // DPDK itself needs a page even when it reserves on demand.
    let wanted_mb = u64::from(options.memory_mb.unwrap_or(2));
    if free_mb < wanted_mb {
        return Err(Error::NoHugepages {
            wanted_mb,
            free_mb,
            pools: hugepages::describe(&pools),
            pages_2m: wanted_mb.div_ceil(2),
        });
    }
    if !options.in_memory && !hugepages::hugetlbfs_mounted() {
        return Err(Error::NoHugetlbfs);
    }
    Ok(())
}

/// Calls rte_eal_init, which permutes its array and may keep pointers into the words.
fn call_init(words: Vec<CString>) -> i32 {
    let count = words.len() as i32;
    let mut argv: Vec<*mut c_char> = words.into_iter().map(CString::into_raw).collect();
    argv.push(ptr::null_mut());
    // Never freed: this happens once per process.
    let argv = argv.leak();
    // SAFETY: `count` owned, writable strings and a null behind them, all of static lifetime;
    // the caller made sure that this is the first call.
    unsafe { dpdk_sys::rte_eal_init(count, argv.as_mut_ptr()) }
}

/// Puts a cause to EAL's failure; it tells it only in its log.
fn init_failure(options: &EalOptions, errno: Errno, log: String) -> Error {
    if log.contains("another primary process running") {
        return Error::PrefixInUse {
            prefix: options.file_prefix.clone(),
            log,
        };
    }
    if matches!(errno.0, libc::EACCES | libc::EPERM) || not_permitted(&log) {
        return Error::NotPermitted {
            what: "start DPDK",
            log,
        };
    }
    // A device of a driver that does not exist fails the start, one that only does not come up
    // does not.
    let blamed = |device: &&String| log.contains(&format!("device '{device}'"));
    if let Some(vdev) = options.vdevs.iter().find(blamed) {
        return Error::Vdev {
            vdev: vdev.clone(),
            log,
        };
    }
    if let Some(device) = options.pci.iter().find(blamed) {
        return Error::Pci {
            address: name_of(device).to_owned(),
            log,
        };
    }
    Error::Init { errno, log }
}

fn not_permitted(log: &str) -> bool {
    log.contains("Permission denied") || log.contains("Operation not permitted")
}

/// The CPUs that a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn of_this_thread() -> io::Result<Self> {
        // SAFETY: all zeros is an empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set is as large as is said; 0 is the calling thread.
        let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
        if rc == 0 {
            Ok(Self(set))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Gives the calling thread these CPUs again.
    fn restore(&self) {
        // SAFETY: the set is as large as is said; 0 is the calling thread. It cannot fail with a
        // set that the kernel gave itself, unless CPUs vanished: then the thread stays pinned.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) };
    }

    fn first(&self) -> usize {
        (0..libc::CPU_SETSIZE as usize)
            // SAFETY: the number is below the set's size.
            .find(|&cpu| unsafe { libc::CPU_ISSET(cpu, &self.0) })
            .unwrap_or(0)
    }

    /// Whether the machine has that CPU online, in this thread's set or not: isolated CPUs are
    /// not in the set that a process starts with.
    fn online(&self, cpu: usize) -> bool {
        if cpu >= libc::CPU_SETSIZE as usize {
            return false;
        }
        // SAFETY: the number is below the set's size.
        if unsafe { libc::CPU_ISSET(cpu, &self.0) } {
            return true;
        }
        std::fs::read_to_string("/sys/devices/system/cpu/online")
            .is_ok_and(|list| cpu_list_contains(&list, cpu))
    }
}

/// Whether a list such as `0-3,8` names the CPU.
fn cpu_list_contains(list: &str, cpu: usize) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse::<usize>(), last.parse::<usize>()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &EalOptions) -> Result<Vec<String>, Error> {
        let affinity = Affinity::of_this_thread().expect("an affinity");
        let words = arguments(options, &affinity)?;
        Ok(words
            .into_iter()
            .map(|word| word.into_string().expect("UTF-8"))
            .collect())
    }

    #[test]
    fn the_command_line_follows_the_options() {
        let options = EalOptions {
            vdevs: vec!["net_null0,size=64".to_owned()],
            iova: Some(IovaMode::Virtual),
            extra: vec!["--single-file-segments".to_owned()],
            log_level: LogLevel::Error,
            ..EalOptions::without_hugepages(128)
        };
        let mut words = words(&options).expect("a command line");
        assert!(words.remove(1).starts_with("--lcores=0@"));
        assert_eq!(
            words,
            [
                "ravelin",
                "--file-prefix=ravelin",
                "--log-level=5",
                "--no-telemetry",
                "--no-huge",
                "--no-shconf",
                "-m",
                "128",
                "--iova-mode=va",
                "--vdev=net_null0,size=64",
                "--no-pci",
                "--single-file-segments",
            ]
        );
    }

    #[test]
    fn allowed_devices_keep_the_bus_and_their_arguments() {
        let options = EalOptions {
            pci: vec!["0000:3b:00.1,rx_burst=1".to_owned()],
            ..EalOptions::default()
        };
        let words = words(&options).expect("a command line");
        assert!(words.contains(&"--allow=0000:3b:00.1,rx_burst=1".to_owned()));
        let in_memory = EalOptions {
            in_memory: true,
            ..EalOptions::default()
        };
        assert!(
            self::words(&in_memory)
                .expect("words")
                .contains(&"--in-memory".to_owned())
        );
        assert!(!words.contains(&"--no-pci".to_owned()));
    }

    #[test]
    fn options_that_cannot_be_are_named() {
        let refused = |options: EalOptions| match words(&options) {
            Err(Error::Option { option, .. }) => option,
            other => panic!("accepted: {other:?}"),
        };
        let base = EalOptions::default;
        assert_eq!(
            refused(EalOptions {
                file_prefix: "../x".into(),
                ..base()
            }),
            "file_prefix"
        );
        assert_eq!(
            refused(EalOptions {
                memory_mb: Some(0),
                ..base()
            }),
            "memory_mb"
        );
        assert_eq!(
            refused(EalOptions {
                main_cpu: Some(1 << 20),
                ..base()
            }),
            "main_cpu"
        );
        assert_eq!(
            refused(EalOptions {
                vdevs: vec![",iface=x".into()],
                ..base()
            }),
            "vdevs"
        );
        assert_eq!(
            refused(EalOptions {
                pci: vec!["eth0".into()],
                ..base()
            }),
            "pci"
        );
        assert_eq!(
            refused(EalOptions {
                vdevs: vec!["net_null0\0".into()],
                ..base()
            }),
            "vdevs, pci or extra"
        );
        assert_eq!(
            refused(EalOptions {
                extra: vec!["--single-file\0-segments".into()],
                ..base()
            }),
            "vdevs, pci or extra"
        );
    }

    #[test]
    fn cpu_lists_are_read() {
        assert!(cpu_list_contains("0-3,8\n", 2));
        assert!(cpu_list_contains("0-3,8\n", 8));
        assert!(!cpu_list_contains("0-3,8\n", 7));
        assert!(!cpu_list_contains("", 0));
    }

    #[test]
    fn a_failure_of_init_gets_its_cause() {
        let options = EalOptions::default();
        let of = |errno, log: &str| init_failure(&options, Errno(errno), log.to_owned());
        let lock = "Cannot create lock on 'x'. Is another primary process running?";
        assert!(matches!(of(libc::EBUSY, lock), Error::PrefixInUse { .. }));
        assert!(matches!(of(libc::EACCES, ""), Error::NotPermitted { .. }));
        assert!(matches!(
            of(libc::EINVAL, "mkdir: Permission denied"),
            Error::NotPermitted { .. }
        ));
        assert!(matches!(of(libc::EINVAL, "bad"), Error::Init { .. }));
    }
}
