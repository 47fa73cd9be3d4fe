//! From the configuration's interfaces to DPDK's ports: one queue pair of every port for every
//! worker.

use config::{Config, Device, Interface};
use dpdk::{Eal, EalOptions, EthPort, IovaMode, LogLevel, Mempool, PortConfig, QueuePair};

use crate::error::Error;

/// Packet buffers that one worker keeps for itself in the pool.
const POOL_CACHE: u32 = 256;

/// The node's ports, one per device, in the order in which interfaces name them.
pub(crate) struct Ports {
    pub(crate) ports: Vec<EthPort>,
    /// By interface: its port.
    pub(crate) of_interface: Vec<usize>,
    /// By worker: its queue pairs, one per port.
    pub(crate) queues: Vec<Vec<QueuePair>>,
    pub(crate) pool: Mempool,
    /// Dropped last: the ports stand on it.
    pub(crate) eal: Eal,
}

impl Ports {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let eal = Eal::init(&options(config)?)?;
        let pool = Mempool::new(&eal, "ravelin", config.eal.mbufs, POOL_CACHE, None)?;
        let workers = config.cores.workers.len();
        let (mut ports, mut devices, mut of_interface) = (vec![], vec![], vec![]);
        let mut queues: Vec<Vec<QueuePair>> = (0..workers).map(|_| vec![]).collect();
        for interface in &config.interfaces {
            let name = interface.device.name();
            if let Some(port) = devices.iter().position(|device| *device == name) {
                of_interface.push(port);
                continue;
            }
            let wrong = |source| Error::Port {
                interface: interface.name.clone(),
                source,
            };
            let port_config = PortConfig {
                queues: workers as u16,
                rx_descriptors: config
                    .cores
                    .workers
                    .iter()
                    .map(|w| w.rx_descriptors)
                    .max()
                    .unwrap_or(1024),
                tx_descriptors: config
                    .cores
                    .workers
                    .iter()
                    .map(|w| w.tx_descriptors)
                    .max()
                    .unwrap_or(1024),
                mtu: config
                    .interfaces
                    .iter()
                    .filter(|i| i.device.name() == name)
                    .map(|i| i.mtu)
                    .max()
                    .unwrap_or(interface.mtu),
                // IPv6 neighbours are asked for by group.
                all_multicast: true,
                multicast: config.cluster.iter().filter_map(|c| c.mac).collect(),
                ..PortConfig::default()
            };
            let pools = std::slice::from_ref(&pool);
            let mut port = EthPort::configure(&eal, name, &port_config, pools).map_err(wrong)?;
            let started = port.start().map_err(wrong)?;
            for ((worker, cores), mut queue) in
                queues.iter_mut().zip(&config.cores.workers).zip(started)
            {
                queue.limit_rx_burst(cores.burst.into());
                worker.push(queue);
            }
            of_interface.push(ports.len());
            devices.push(name);
            ports.push(port);
        }
        Ok(Self {
            ports,
            of_interface,
            queues,
            pool,
            eal,
        })
    }
}

fn options(config: &Config) -> Result<EalOptions, Error> {
    let (mut vdevs, mut pci) = (vec![], vec![]);
    for interface in &config.interfaces {
        let (list, text) = match &interface.device {
            Device::Vdev(text) => (&mut vdevs, queue_pairs(interface, text, config)?),
            Device::Pci(text) => (&mut pci, text.clone()),
        };
        if !list.contains(&text) {
            list.push(text);
        }
    }
    Ok(EalOptions {
        no_huge: !config.eal.hugepages,
        in_memory: !config.eal.hugepages,
        file_prefix: config.eal.file_prefix.clone(),
        memory_mb: Some(config.eal.memory_mb),
        main_cpu: None,
        vdevs,
        pci,
        iova: match config.eal.iova {
            config::Iova::Auto => None,
            config::Iova::Pa => Some(IovaMode::Physical),
            config::Iova::Va => Some(IovaMode::Virtual),
        },
        extra: config.eal.extra.clone(),
        log_level: LogLevel::Warning,
        log_hook: Some(log),
    })
}

/// net_af_packet opens as many sockets as it is told, and the kernel spreads packets over all of
/// them: a socket without a worker would swallow its share.
fn queue_pairs(interface: &Interface, text: &str, config: &Config) -> Result<String, Error> {
    let workers = config.cores.workers.len();
    if !text.starts_with("net_af_packet") {
        return Ok(text.to_owned());
    }
    match text
        .split(',')
        .find_map(|argument| argument.strip_prefix("qpairs="))
    {
        None => Ok(format!("{text},qpairs={workers}")),
        Some(pairs) if pairs.parse() == Ok(workers) => Ok(text.to_owned()),
        Some(pairs) => Err(Error::Machine(format!(
            "interface {}: device {text:?} asks for qpairs={pairs} and there are {workers} workers; \
             leave qpairs out, it follows from [cores]",
            interface.name
        ))),
    }
}

/// DPDK's log lines become the daemon's.
fn log(level: LogLevel, line: &str) {
    match level {
        LogLevel::Critical | LogLevel::Error => tracing::error!(target: "dpdk", "{line}"),
        LogLevel::Warning => tracing::warn!(target: "dpdk", "{line}"),
        LogLevel::Notice | LogLevel::Info => tracing::info!(target: "dpdk", "{line}"),
        LogLevel::Debug => tracing::debug!(target: "dpdk", "{line}"),
    }
}
