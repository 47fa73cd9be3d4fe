//! How a port is to be set up, and what came of it.

/// How to set up a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Queue pairs: one per worker.
    pub queues: u16,
    /// Receive descriptors per queue; rounded to what the device takes.
    pub rx_descriptors: u16,
    /// Transmit descriptors per queue; rounded to what the device takes.
    pub tx_descriptors: u16,
    /// The longest IP packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// Receive every unicast frame.
    pub promiscuous: bool,
    /// Receive every multicast frame.
    pub all_multicast: bool,
    /// Multicast addresses to receive beside broadcast: the cluster's address.
    pub multicast: Vec<[u8; 6]>,
    /// Unicast addresses to receive beside the device's own.
    pub unicast: Vec<[u8; 6]>,
    /// Let the device check IPv4, TCP and UDP checksums where it can.
    pub rx_checksum: bool,
    /// Let the device spread TCP and UDP over the queues, by the hash with [`crate::RSS_KEY`], where it can.
    pub rss: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            promiscuous: false,
            all_multicast: false,
            multicast: Vec::new(),
            unicast: Vec::new(),
            rx_checksum: true,
            rss: true,
        }
    }
}

/// By what means a port receives the addresses that it was asked for; each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressFilter {
    /// The device has the addresses in its filter.
    Exact,
    /// It passes all multicast, because it takes no list or because that was asked for.
    AllMulticast,
    /// It passes everything, because it takes no list or because that was asked for.
    Promiscuous,
    /// It has no filter at all, as most software devices, and so passes everything.
    None,
}

/// What a device does about receive-side scaling, once started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RssReport {
    /// Whether packets carry a hash that is [`crate::soft_rss`] of addresses and ports. A
    /// device whose key cannot be confirmed is not trusted.
    pub hash_trusted: bool,
    /// Whether TCP and UDP are spread over the queues by that hash.
    pub spread: bool,
    /// How many entries the redirection table has; 0 if it cannot be set.
    pub reta_size: u16,
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver, such as `net_ixgbe`.
    pub driver: String,
    /// The NUMA node that the device is on, if it is on one.
    pub socket: Option<u32>,
    /// The most receive and transmit queues.
    pub rx_queues_max: u16,
    /// The most transmit queues.
    pub tx_queues_max: u16,
    /// The least and the greatest MTU in bytes.
    pub mtu: (u16, u16),
    /// The longest frame that it receives in bytes.
    pub rx_frame_max: u32,
    /// Entries of its redirection table; 0 without one.
    pub reta_size: u16,
    /// Bytes of its hash key; 0 if it does not say.
    pub hash_key_size: u8,
    /// Whether it can hash and spread TCP or UDP by addresses and ports.
    pub rss: bool,
    /// Whether it can check IPv4 header checksums.
    pub rx_ip_checksum: bool,
    /// Whether it can check TCP and UDP checksums.
    pub rx_l4_checksum: bool,
}

/// A port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Its speed in Mbit/s; `None` if unknown.
    pub speed_mbps: Option<u32>,
    /// Whether it is full duplex.
    pub full_duplex: bool,
}

/// A device's own counters since it started, or since they were reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that the device dropped because the receive queues were full: workers are too slow.
    pub rx_missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Times that the pool had no buffer for reception: it is too small.
    pub rx_no_buffer: u64,
}
