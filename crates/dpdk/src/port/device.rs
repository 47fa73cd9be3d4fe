//! The calls into DPDK that concern one port's device, and what their answers mean.

use std::ffi::{CStr, c_char};
use std::mem;

use dpdk_sys as sys;

use super::config::{DeviceInfo, Link, PortStats};
use crate::error::{Errno, Error};
use crate::{log, rss};

/// The hash types that cover addresses and ports. Others stay off, so that a hash which is
/// there always means the same; their packets arrive without one on the first queue.
pub(super) const RSS_TYPES: u64 = sys::RAVELIN_RSS_IPV4_TCP
    | sys::RAVELIN_RSS_IPV4_UDP
    | sys::RAVELIN_RSS_IPV6_TCP
    | sys::RAVELIN_RSS_IPV6_UDP;

/// The period of the redirection table: `state::worker_of` takes the hash's low 7 bits.
const RETA_PERIOD: u16 = 128;

/// The calls that concern one port's device. Whoever calls holds the port's `control` lock, or
/// is the only one who knows the port.
pub(super) struct Device<'a> {
    pub(super) id: u16,
    name: &'a str,
}

impl<'a> Device<'a> {
    pub(super) fn new(id: u16, name: &'a str) -> Self {
        Self { id, name }
    }

    pub(super) fn check(&self, operation: &'static str, rc: i32) -> Result<(), Error> {
        if rc >= 0 {
            return Ok(());
        }
        Err(Error::Device {
            name: self.name.to_owned(),
            operation,
            errno: Errno::from_return(rc),
            log: log::complaints(),
        })
    }

    /// Whether it worked; a device that lacks the operation is no error.
    pub(super) fn check_or_unsupported(
        &self,
        operation: &'static str,
        rc: i32,
    ) -> Result<bool, Error> {
        if rc < 0 && Errno::from_return(rc).is_unsupported() {
            return Ok(false);
        }
        self.check(operation, rc).map(|()| true)
    }

    pub(super) fn raw_info(&self) -> Result<sys::rte_eth_dev_info, Error> {
        // SAFETY: all zeros is a valid value of this plain struct of numbers and pointers.
        let mut raw: sys::rte_eth_dev_info = unsafe { mem::zeroed() };
        // SAFETY: the struct is ours to write.
        self.check("asking what it can do", unsafe {
            sys::rte_eth_dev_info_get(self.id, &raw mut raw)
        })?;
        Ok(raw)
    }

    pub(super) fn info(&self) -> Result<DeviceInfo, Error> {
        let raw = self.raw_info()?;
        let driver = if raw.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: a driver's name is a static string that ends with a zero.
            unsafe { CStr::from_ptr(raw.driver_name) }
                .to_string_lossy()
                .into_owned()
        };
        // SAFETY: takes any number.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.id) };
        let can = |offloads: u64| raw.rx_offload_capa & offloads == offloads;
        Ok(DeviceInfo {
            driver,
            socket: u32::try_from(socket).ok(),
            rx_queues_max: raw.max_rx_queues,
            tx_queues_max: raw.max_tx_queues,
            mtu: (raw.min_mtu, raw.max_mtu),
            rx_frame_max: raw.max_rx_pktlen,
            reta_size: raw.reta_size,
            hash_key_size: raw.hash_key_size,
            rss: raw.flow_type_rss_offloads & RSS_TYPES != 0,
            rx_ip_checksum: can(sys::RAVELIN_RX_OFFLOAD_IPV4_CKSUM),
            rx_l4_checksum: can(
                sys::RAVELIN_RX_OFFLOAD_TCP_CKSUM | sys::RAVELIN_RX_OFFLOAD_UDP_CKSUM
            ),
        })
    }

    pub(super) fn mac(&self) -> Result<[u8; 6], Error> {
        let mut address = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the address is ours to write.
        self.check("asking its address", unsafe {
            sys::rte_eth_macaddr_get(self.id, &raw mut address)
        })?;
        Ok(address.addr_bytes)
    }

    pub(super) fn link(&self) -> Result<Link, Error> {
        let (mut speed, mut full_duplex, mut up) = (0, false, false);
        // SAFETY: all three are ours to write.
        let rc = unsafe {
            sys::ravelin_link(self.id, &raw mut speed, &raw mut full_duplex, &raw mut up)
        };
        self.check("asking its link", rc)?;
        // 0 is RTE_ETH_SPEED_NUM_NONE, the greatest value RTE_ETH_SPEED_NUM_UNKNOWN.
        let speed_mbps = (speed != 0 && speed != u32::MAX).then_some(speed);
        Ok(Link {
            up,
            speed_mbps,
            full_duplex,
        })
    }

    pub(super) fn stats(&self) -> Result<PortStats, Error> {
        // SAFETY: all zeros is a valid value of this plain struct of numbers.
        let mut raw: sys::rte_eth_stats = unsafe { mem::zeroed() };
        // SAFETY: the struct is ours to write.
        self.check("reading counters", unsafe {
            sys::rte_eth_stats_get(self.id, &raw mut raw)
        })?;
        Ok(PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_buffer: raw.rx_nombuf,
        })
    }

    pub(super) fn extended_stats(&self) -> Result<Vec<(String, u64)>, Error> {
        const OPERATION: &str = "reading extended counters";
        // SAFETY: a null array of no elements asks how many there are.
        let count = unsafe { sys::rte_eth_xstats_get_names(self.id, std::ptr::null_mut(), 0) };
        self.check(OPERATION, count)?;
        let count = count as u32;
        // SAFETY: all zeros is a valid value of both plain structs.
        let (mut names, mut values) = unsafe {
            (
                vec![mem::zeroed::<sys::rte_eth_xstat_name>(); count as usize],
                vec![mem::zeroed::<sys::rte_eth_xstat>(); count as usize],
            )
        };
        // SAFETY: the array has `count` elements.
        let named = unsafe { sys::rte_eth_xstats_get_names(self.id, names.as_mut_ptr(), count) };
        self.check(OPERATION, named)?;
        // SAFETY: the array has `count` elements.
        let valued = unsafe { sys::rte_eth_xstats_get(self.id, values.as_mut_ptr(), count) };
        self.check(OPERATION, valued)?;
        values.truncate(valued as usize);
        Ok(values
            .iter()
            .filter_map(|value| Some((text(&names.get(value.id as usize)?.name), value.value)))
            .collect())
    }

    /// Whether the device took the address into its filter.
    pub(super) fn add_unicast(&self, address: [u8; 6]) -> Result<bool, Error> {
        let mut address = sys::rte_ether_addr {
            addr_bytes: address,
        };
        // SAFETY: the address is copied.
        let rc = unsafe { sys::rte_eth_dev_mac_addr_add(self.id, &raw mut address, 0) };
        // A full filter is as good as none: promiscuous mode follows.
        if rc == -libc::ENOSPC {
            return Ok(false);
        }
        self.check_or_unsupported("adding a unicast address", rc)
    }

    /// Whether the device took the addresses into its filter.
    pub(super) fn set_multicast(&self, addresses: &[[u8; 6]]) -> Result<bool, Error> {
        let mut list: Vec<sys::rte_ether_addr> = addresses
            .iter()
            .map(|&addr_bytes| sys::rte_ether_addr { addr_bytes })
            .collect();
        // SAFETY: the list has as many addresses as is said, and is copied.
        let rc = unsafe {
            sys::rte_eth_dev_set_mc_addr_list(self.id, list.as_mut_ptr(), list.len() as u32)
        };
        if rc == -libc::ENOSPC {
            return Ok(false);
        }
        self.check_or_unsupported("setting multicast addresses", rc)
    }

    /// Whether the device passes all multicast now.
    pub(super) fn all_multicast(&self) -> Result<bool, Error> {
        // SAFETY: the port is open.
        let rc = unsafe { sys::rte_eth_allmulticast_enable(self.id) };
        self.check_or_unsupported("passing all multicast", rc)
    }

    /// Whether the device passes everything now.
    pub(super) fn promiscuous(&self) -> Result<bool, Error> {
        // SAFETY: the port is open.
        let rc = unsafe { sys::rte_eth_promiscuous_enable(self.id) };
        self.check_or_unsupported("promiscuous mode", rc)
    }

    /// Makes sure that the device hashes with our key, and over addresses and ports only; whether
    /// it says so.
    pub(super) fn hash_is_ours(&self, info: &sys::rte_eth_dev_info, key_size: usize) -> bool {
        if self.confirms_hash(key_size) {
            return true;
        }
        // Some drivers leave the key out when they are configured.
        let mut key = rss::key_of(key_size);
        let mut conf = rss_conf(&mut key);
        conf.rss_hf = RSS_TYPES & info.flow_type_rss_offloads;
        // SAFETY: the port is open, and the key has as many bytes as is said and outlives the call.
        // What the device answers is judged by what it then confirms.
        unsafe { sys::rte_eth_dev_rss_hash_update(self.id, &raw mut conf) };
        self.confirms_hash(key_size)
    }

    fn confirms_hash(&self, key_size: usize) -> bool {
        let mut key = vec![0u8; key_size];
        let mut conf = rss_conf(&mut key);
        // SAFETY: the key has as many bytes as is said, ours to write, and outlives the call.
        let rc = unsafe { sys::rte_eth_dev_rss_hash_conf_get(self.id, &raw mut conf) };
        let types = conf.rss_hf;
        rc == 0 && key == rss::key_of(key_size) && types != 0 && types & !RSS_TYPES == 0
    }

    /// Sets entry i to queue i mod 128 mod `queues`; whether the device has such a table.
    pub(super) fn fill_reta(&self, size: u16, queues: u16) -> Result<bool, Error> {
        let mut table = reta(size, queues);
        // SAFETY: the groups cover `size` entries.
        let rc = unsafe { sys::rte_eth_dev_rss_reta_update(self.id, table.as_mut_ptr(), size) };
        self.check_or_unsupported("setting the redirection table", rc)
    }
}

/// A hash configuration with this key, to be written or read, and no types yet.
fn rss_conf(key: &mut [u8]) -> sys::rte_eth_rss_conf {
    sys::rte_eth_rss_conf {
        rss_key: key.as_mut_ptr(),
        rss_key_len: key.len() as u8,
        // SAFETY: all zeros is a valid value of this plain struct.
        ..unsafe { mem::zeroed() }
    }
}

/// The redirection table in groups of 64 entries, of which the mask says which are meant.
fn reta(size: u16, queues: u16) -> Vec<sys::rte_eth_rss_reta_entry64> {
    let group = sys::RAVELIN_RETA_GROUP as u16;
    // SAFETY: all zeros is a valid value of this plain struct.
    let empty: sys::rte_eth_rss_reta_entry64 = unsafe { mem::zeroed() };
    let mut table = vec![empty; usize::from(size.div_ceil(group))];
    for entry in 0..size {
        let part = &mut table[usize::from(entry / group)];
        part.mask |= 1 << (entry % group);
        part.reta[usize::from(entry % group)] = entry % RETA_PERIOD % queues;
    }
    table
}

/// A zero-terminated string in an array.
pub(super) fn text(array: &[c_char]) -> String {
    let bytes: Vec<u8> = array
        .iter()
        .map(|&c| c as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_redirection_table_repeats_every_128_entries() {
        let table = reta(512, 3);
        assert_eq!(table.len(), 8);
        for (entry, queue) in table
            .iter()
            .flat_map(|part| part.reta)
            .enumerate()
            .map(|(i, q)| (i as u16, q))
        {
            assert_eq!(queue, entry % 128 % 3, "entry {entry}");
        }
        assert!(table.iter().all(|part| part.mask == u64::MAX));
        let small = reta(40, 2);
        assert_eq!((small.len(), small[0].mask), (1, (1 << 40) - 1));
    }
}
