//! Ethernet ports: finding, setting up, starting, asking.

mod config;
mod device;
mod queue;

use std::ffi::{CString, c_char};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dpdk_sys as sys;

pub use config::{AddressFilter, DeviceInfo, Link, PortConfig, PortStats, RssReport};
pub use queue::QueuePair;

use device::{Device, text};

use crate::eal::{Eal, Shared, lock};
use crate::error::Error;
use crate::log;
use crate::mempool::Mempool;
use crate::rss;

/// What a frame has beside its IP packet: Ethernet header, two VLAN tags, frame check sequence.
const FRAME_OVERHEAD: usize = 14 + 8 + 4;

/// The control handle of one port. Its methods may be called from any thread, while workers
/// poll its queues.
///
/// The port runs on when this is dropped, until the last [`QueuePair`] is, and then closes.
#[derive(Debug)]
pub struct EthPort {
    inner: Arc<PortInner>,
    config: PortConfig,
    filter: AddressFilter,
    rss: RssReport,
}

/// A port that is open; closes it when dropped.
#[derive(Debug)]
struct PortInner {
    id: u16,
    name: String,
    /// One pool, or one per queue: they live as long as the device may put buffers into them.
    pools: Vec<Mempool>,
    queues_live: AtomicUsize,
    link_up: AtomicBool,
    /// DPDK's control functions for one port must not run side by side. True while it runs.
    control: Mutex<bool>,
    shared: Arc<Shared>,
}

impl EthPort {
    /// Takes the port of that name (a virtual device's such as `net_ring0`, or a PCI address) and
    /// sets it up. `pools` is one pool for all queues, or one per queue.
    ///
    /// # Errors
    /// [`Error::UnknownPort`], [`Error::PortTaken`]; [`Error::PortShape`] when device and configuration
    /// do not fit; [`Error::Device`] when the device refuses.
    pub fn configure(
        eal: &Eal,
        name: &str,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<Self, Error> {
        let name = canonical(name);
        let Some(id) = find(&name) else {
            let names = names();
            let existing = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            return Err(Error::UnknownPort { name, existing });
        };
        if !eal.shared().take_port(id) {
            return Err(Error::PortTaken { name });
        }
        // Until `PortInner` owns the port, an error gives it back here.
        let device = match Device::new(id, &name).info() {
            Ok(info) => info,
            Err(error) => {
                eal.shared().return_port(id);
                return Err(error);
            }
        };
        if let Err(problem) = fits(&device, config, pools) {
            eal.shared().return_port(id);
            return Err(Error::PortShape { name, problem });
        }
        let inner = Arc::new(PortInner {
            id,
            name,
            pools: pools.to_vec(),
            queues_live: AtomicUsize::new(0),
            link_up: AtomicBool::new(false),
            control: Mutex::new(false),
            shared: Arc::clone(eal.shared()),
        });
        let mut port = Self {
            inner,
            config: config.clone(),
            filter: AddressFilter::Exact,
            rss: RssReport::default(),
        };
        port.set_up(&device)?;
        Ok(port)
    }

    /// Starts the device and gives its queue pairs, one per queue in order.
    ///
    /// # Errors
    /// [`Error::QueuesOut`] if it runs and queue pairs are out; [`Error::Device`] when the device refuses.
    pub fn start(&mut self) -> Result<Vec<QueuePair>, Error> {
        self.no_queues_out()?;
        let device = self.device();
        let mut running = lock(&self.inner.control);
        log::forget();
        if !*running {
            // SAFETY: a configured port with its queues set up, and `control` is held.
            device.check("starting", unsafe { sys::rte_eth_dev_start(device.id) })?;
            *running = true;
        }
        let filter = self.admit_addresses(&device)?;
        let rss = self.spread(&device)?;
        let mac = device.mac()?;
        self.inner
            .link_up
            .store(device.link()?.up, Ordering::Relaxed);
        drop(running);
        self.filter = filter;
        self.rss = rss;
        let pairs = (0..self.config.queues).map(|queue| {
            let pool = self.inner.pool_of(queue).clone();
            QueuePair::new(&self.inner, queue, pool, mac, self.rss.hash_trusted)
        });
        Ok(pairs.collect())
    }

    /// Stops the device; [`EthPort::start`] starts it again.
    ///
    /// # Errors
    /// [`Error::QueuesOut`] while queue pairs live: drop them first. [`Error::Device`] when the device refuses.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.no_queues_out()?;
        let device = self.device();
        let mut running = lock(&self.inner.control);
        if *running {
            // SAFETY: a running port that nobody polls, and `control` is held.
            device.check("stopping", unsafe { sys::rte_eth_dev_stop(device.id) })?;
            *running = false;
            self.inner.link_up.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Stops and closes the device. A virtual device is gone then.
    ///
    /// # Errors
    /// [`Error::QueuesOut`] while queue pairs live: the port then closes when the last is dropped.
    pub fn close(self) -> Result<(), Error> {
        self.no_queues_out()
    }

    /// The name by which it was taken.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// DPDK's number of the port; [`crate::Mbuf::rx_port`] gives the same.
    pub fn id(&self) -> u16 {
        self.inner.id
    }

    /// What the device is and can do.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not tell.
    pub fn info(&self) -> Result<DeviceInfo, Error> {
        let _control = lock(&self.inner.control);
        self.device().info()
    }

    /// By what means it receives the addresses that it was asked for, once started.
    pub fn address_filter(&self) -> AddressFilter {
        self.filter
    }

    /// What it does about receive-side scaling, once started.
    pub fn rss(&self) -> &RssReport {
        &self.rss
    }

    /// The device's own unicast address.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not tell.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let _control = lock(&self.inner.control);
        self.device().mac()
    }

    /// The link's state, which the queue pairs' `link_up` reports from now on. It does not wait.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not tell.
    pub fn link(&self) -> Result<Link, Error> {
        let _control = lock(&self.inner.control);
        let link = self.device().link()?;
        self.inner.link_up.store(link.up, Ordering::Relaxed);
        Ok(link)
    }

    /// The device's counters.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not tell.
    pub fn stats(&self) -> Result<PortStats, Error> {
        let _control = lock(&self.inner.control);
        self.device().stats()
    }

    /// Sets the device's counters to zero.
    ///
    /// # Errors
    /// [`Error::Device`] when the device cannot.
    pub fn reset_stats(&self) -> Result<(), Error> {
        let _control = lock(&self.inner.control);
        let device = self.device();
        // SAFETY: the port is open and `control` is held.
        device.check("resetting counters", unsafe {
            sys::rte_eth_stats_reset(device.id)
        })
    }

    /// The device's further counters, by the names that its driver gives them.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not tell.
    pub fn extended_stats(&self) -> Result<Vec<(String, u64)>, Error> {
        let _control = lock(&self.inner.control);
        self.device().extended_stats()
    }

    fn device(&self) -> Device<'_> {
        Device::new(self.inner.id, &self.inner.name)
    }

    fn no_queues_out(&self) -> Result<(), Error> {
        match self.inner.queues_out() {
            0 => Ok(()),
            queues => Err(Error::QueuesOut {
                name: self.inner.name.clone(),
                queues,
            }),
        }
    }

    /// Configures the device and its queues; it does not run yet.
    fn set_up(&mut self, info: &DeviceInfo) -> Result<(), Error> {
        let device = self.device();
        let _control = lock(&self.inner.control);
        log::forget();
        let raw = device.raw_info()?;
        // SAFETY: all zeros is a valid rte_eth_conf, DPDK's own idiom for the default.
        let mut conf: sys::rte_eth_conf = unsafe { mem::zeroed() };
        conf.rxmode.mtu = u32::from(self.config.mtu);
        if self.config.rx_checksum {
            conf.rxmode.offloads |= raw.rx_offload_capa
                & (sys::RAVELIN_RX_OFFLOAD_IPV4_CKSUM
                    | sys::RAVELIN_RX_OFFLOAD_UDP_CKSUM
                    | sys::RAVELIN_RX_OFFLOAD_TCP_CKSUM);
        }
        let types = device::RSS_TYPES & raw.flow_type_rss_offloads;
        let mut key = rss::key_of(key_size(info));
        if self.config.rss && types != 0 {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rxmode.offloads |= raw.rx_offload_capa & sys::RAVELIN_RX_OFFLOAD_RSS_HASH;
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = key.len() as u8;
            conf.rx_adv_conf.rss_conf.rss_hf = types;
        }
        let queues = self.config.queues;
        // SAFETY: the port is open and stopped; `conf` and the key that it points to outlive the call.
        device.check("configuring", unsafe {
            sys::rte_eth_dev_configure(device.id, queues, queues, &raw const conf)
        })?;
        // SAFETY: the port is open and stopped.
        let mtu = unsafe { sys::rte_eth_dev_set_mtu(device.id, self.config.mtu) };
        device.check_or_unsupported("setting the MTU", mtu)?;
        let (mut rx, mut tx) = (self.config.rx_descriptors, self.config.tx_descriptors);
        // SAFETY: both numbers are ours to write.
        device.check("choosing descriptors", unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(device.id, &raw mut rx, &raw mut tx)
        })?;
        // The NUMA node, or -1 for any, in the unsigned form that the queue functions take.
        // SAFETY: the port is open.
        let node = unsafe { sys::rte_eth_dev_socket_id(device.id) } as u32;
        for queue in 0..queues {
            let pool = self.inner.pool_of(queue).as_ptr();
            // SAFETY: the port is configured for this queue, a null configuration is the default,
            // and the pool lives in `inner` until the port is closed.
            device.check("setting up a receive queue", unsafe {
                sys::rte_eth_rx_queue_setup(device.id, queue, rx, node, std::ptr::null(), pool)
            })?;
            // SAFETY: as above.
            device.check("setting up a transmit queue", unsafe {
                sys::rte_eth_tx_queue_setup(device.id, queue, tx, node, std::ptr::null())
            })?;
        }
        Ok(())
    }

    /// Opens the device's address filter as far as the configuration asks.
    fn admit_addresses(&self, device: &Device<'_>) -> Result<AddressFilter, Error> {
        let mut wanted = if self.config.promiscuous {
            AddressFilter::Promiscuous
        } else {
            AddressFilter::Exact
        };
        for address in &self.config.unicast {
            if !device.add_unicast(*address)? {
                wanted = AddressFilter::Promiscuous;
            }
        }
        if self.config.all_multicast
            || !self.config.multicast.is_empty() && !device.set_multicast(&self.config.multicast)?
        {
            wanted = wanted.max(AddressFilter::AllMulticast);
        }
        if wanted == AddressFilter::AllMulticast && !device.all_multicast()? {
            wanted = AddressFilter::Promiscuous;
        }
        if wanted == AddressFilter::Promiscuous {
            // Promiscuous covers unicast; some devices want multicast said on its own.
            device.all_multicast()?;
            if !device.promiscuous()? {
                wanted = AddressFilter::None;
            }
        }
        Ok(wanted)
    }

    /// Fills the redirection table and finds out whether the hash is ours.
    fn spread(&self, device: &Device<'_>) -> Result<RssReport, Error> {
        let info = device.info()?;
        if !self.config.rss || !info.rss {
            return Ok(RssReport::default());
        }
        let hash_trusted = device.hash_is_ours(&device.raw_info()?, key_size(&info));
        let mut reta_size = 0;
        if info.reta_size > 0 && device.fill_reta(info.reta_size, self.config.queues)? {
            reta_size = info.reta_size;
        }
        let spread = hash_trusted && (reta_size > 0 || self.config.queues == 1);
        Ok(RssReport {
            hash_trusted,
            spread,
            reta_size,
        })
    }
}

impl PortInner {
    fn pool_of(&self, queue: u16) -> &Mempool {
        // `fits` made sure that there is one, or one per queue.
        &self.pools[usize::from(queue) % self.pools.len()]
    }

    fn queues_out(&self) -> usize {
        // Acquire: pairs with the release of a queue pair that goes.
        self.queues_live.load(Ordering::Acquire)
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        let running = *lock(&self.control);
        // SAFETY: no handle and no queue pair is left; a port that runs is stopped before it is closed.
        // What the device answers changes nothing: it is not used again either way.
        unsafe {
            if running {
                sys::rte_eth_dev_stop(self.id);
            }
            sys::rte_eth_dev_close(self.id);
        }
        self.shared.return_port(self.id);
    }
}

/// What does not fit between device and configuration, with what would.
fn fits(info: &DeviceInfo, config: &PortConfig, pools: &[Mempool]) -> Result<(), String> {
    let queues = usize::from(config.queues);
    let queues_max = info.rx_queues_max.min(info.tx_queues_max);
    if config.queues == 0 || config.queues > queues_max {
        return Err(format!(
            "{queues} queues do not work: driver {} takes 1 to {queues_max}; use as many workers at most",
            info.driver
        ));
    }
    if pools.len() != 1 && pools.len() != queues {
        return Err(format!(
            "{} pools for {queues} queues: give one, or one per queue",
            pools.len()
        ));
    }
    let (least, most) = info.mtu;
    if !(least..=most).contains(&config.mtu) {
        return Err(format!(
            "an MTU of {} does not work: driver {} takes {least} to {most}",
            config.mtu, info.driver
        ));
    }
    let frame = usize::from(config.mtu) + FRAME_OVERHEAD;
    match pools.iter().find(|pool| pool.data_room() < frame) {
        Some(pool) => Err(format!(
            "an MTU of {} needs buffers of {frame} bytes, pool `{}` has {}: use Mempool::with_data_room",
            config.mtu,
            pool.name(),
            pool.data_room()
        )),
        None => Ok(()),
    }
}

/// Bytes of hash key to give a device; 40 is what those expect that do not say.
fn key_size(info: &DeviceInfo) -> usize {
    if info.hash_key_size == 0 {
        rss::RSS_KEY.len()
    } else {
        usize::from(info.hash_key_size)
    }
}

/// DPDK's number of the port with that name.
pub(crate) fn find(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: the name ends with a zero, the number is ours to write.
    let rc = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (rc == 0).then_some(id)
}

/// Names of all ports.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: takes any number and gives the first valid one from it, or the maximum.
    let mut id = unsafe { sys::rte_eth_find_next(0) };
    while u32::from(id) < sys::RAVELIN_MAX_PORTS {
        let mut name = [0 as c_char; sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: the buffer has the length that DPDK's names have at most, zero included.
        if unsafe { sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) } == 0 {
            names.push(text(&name));
        }
        // SAFETY: as above.
        id = unsafe { sys::rte_eth_find_next(id + 1) };
    }
    names
}

/// A PCI address without its domain gets the domain 0000; hexadecimal digits become small.
fn canonical(name: &str) -> String {
    let with_domain = format!("0000:{name}");
    match (is_pci_address(name), is_pci_address(&with_domain)) {
        (true, _) => name.to_ascii_lowercase(),
        (_, true) => with_domain.to_ascii_lowercase(),
        _ => name.to_owned(),
    }
}

/// Whether this is domain, bus, device and function, as in `0000:01:00.0`.
pub(crate) fn is_pci_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [4, 2, 2, 1]
        && [4, 7, 10].map(|at| text.as_bytes()[at]) == *b"::."
        && parts
            .iter()
            .all(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_names() {
        assert_eq!(canonical("3B:00.1"), "0000:3b:00.1");
        assert_eq!(canonical("0001:3B:00.1"), "0001:3b:00.1");
        assert_eq!(canonical("net_ring0"), "net_ring0");
        for wrong in [
            "",
            "eth0",
            "3b:00",
            "0000:3b:00:1",
            "0000.3b.00.1",
            "000g:3b:00.1",
            "00000:3b:00.1",
        ] {
            assert!(!is_pci_address(wrong), "{wrong}");
        }
    }
}
