//! What a worker counts. The counters are plain locals of the worker; at housekeeping they are
//! copied to a block that others read.

use std::sync::atomic::{AtomicU64, Ordering};

use wire::Malformed;

macro_rules! counters {
    ($($variant:ident, $name:literal, $text:literal;)+) => {
        /// One counter of a worker.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Counter {
            $(#[doc = $text] $variant,)+
        }

        impl Counter {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many there are, malformed packets aside.
            pub const COUNT: usize = Self::ALL.len();

            /// All of them in order.
            pub fn all() -> impl Iterator<Item = Self> {
                Self::ALL.iter().copied()
            }

            /// The name, as output has it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it counts.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

counters! {
    RxPackets, "rx_packets", "Frames received.";
    RxBytes, "rx_bytes", "Bytes of frames received.";
    TxPackets, "tx_packets", "Frames given to a device.";
    TxBytes, "tx_bytes", "Bytes of frames given to a device.";
    Forwarded, "forwarded", "Packets of accepted flows on their way to a next hop.";
    FlowOpened, "flow_opened", "Flows opened here.";
    FlowExpired, "flow_expired", "Flows deleted because they were idle for too long.";
    FlowReplaced, "flow_replaced", "Flows that ended because a new connection uses their ports.";
    FlowRevoked, "flow_revoked", "Flows deleted because the rules no longer allow them.";
    DropVlan, "drop_vlan", "Frames with a VLAN tag, or without one, that no interface has.";
    DropEthernetAddress, "drop_ethernet_address", "Frames to other stations.";
    DropEtherType, "drop_ethertype", "Frames that are neither IPv4, IPv6 nor ARP.";
    DropNotOwner, "drop_not_owner", "Packets of slots that another node owns.";
    DropStaleView, "drop_stale_view", "Packets not forwarded because the view was too old, as after a pause.";
    DropFragment, "drop_fragment", "Fragments: reassembly is not available in this version.";
    DropChecksum, "drop_checksum", "Packets whose TCP, UDP or ICMP checksum is wrong.";
    DropMulticast, "drop_multicast", "Multicast and broadcast packets: they are not routed.";
    DropLocal, "drop_local", "Packets to the gateway's own addresses that nothing answers.";
    DropNoRoute, "drop_no_route", "Packets to destinations without a route.";
    DropReversePath, "drop_reverse_path", "Packets whose source is not routed to the zone from which they came.";
    DropDenied, "drop_denied", "Packets that the rules deny.";
    DropRejected, "drop_rejected", "Packets that the rules reject.";
    DropTableFull, "drop_table_full", "Packets of new flows that the flow table had no room for.";
    DropTcpNoFlow, "drop_tcp_no_flow", "TCP segments of no known connection that do not open one.";
    DropTcpWindow, "drop_tcp_window", "TCP segments outside of the connection's windows.";
    DropTcpInvalid, "drop_tcp_invalid", "TCP segments that the connection's state does not allow.";
    DropIcmpUnrelated, "drop_icmp_unrelated", "ICMP errors about no known flow.";
    DropIcmpUntracked, "drop_icmp_untracked", "ICMP messages that neither open nor continue a flow.";
    DropZone, "drop_zone", "Packets of known flows that came from another zone than theirs.";
    DropTtl, "drop_ttl", "Packets whose time to live ended here.";
    DropMtu, "drop_mtu", "Packets larger than the next link allows.";
    DropHopUnresolved, "drop_hop_unresolved", "Packets to next hops that do not answer ARP or NDP.";
    DropHopQueue, "drop_hop_queue", "Packets to next hops being resolved that had no place to wait.";
    DropTxFull, "drop_tx_full", "Packets that a device had no room for.";
    DropHoldFull, "drop_hold_full", "Packets that should have been held and found no room.";
    DropHoldDeadline, "drop_hold_deadline", "Held packets dropped at the deadline.";
    DropAlone, "drop_alone", "New flows refused because there is no backup to acknowledge them.";
    DropSyncFull, "drop_sync_full", "New flows refused because the sync core is too far behind to protect them.";
    DropCrossFull, "drop_cross_full", "Packets for another worker whose ring was full.";
    Held, "held", "Packets held until their flow's state was acknowledged.";
    HoldReleased, "hold_released", "Held packets released by an acknowledgement.";
    HoldReleasedAtDeadline, "hold_released_at_deadline", "Held packets released at the deadline, unacknowledged.";
    Crossed, "crossed", "Packets that arrived at another worker than their flow's.";
    Changes, "changes", "Changed flow records handed to the sync core.";
    ChangesDeferred, "changes_deferred", "Changes that found the ring full; their slot is sent again later.";
    SnapshotRecords, "snapshot_records", "Flow records handed to the sync core for a peer's snapshot.";
    ReplicasApplied, "replicas_applied", "Flow records from peers merged into the table.";
    ReplicasRefused, "replicas_refused", "Flow records from peers that the table had no room for.";
    ReplicasForgotten, "replicas_forgotten", "Copies removed because this node holds their slot no longer.";
    ArpRequestsSent, "arp_requests_sent", "ARP requests sent.";
    ArpRepliesSent, "arp_replies_sent", "ARP replies sent.";
    NeighbourSolicitationsSent, "neighbour_solicitations_sent", "IPv6 neighbour solicitations sent.";
    NeighbourAdvertisementsSent, "neighbour_advertisements_sent", "IPv6 neighbour advertisements sent.";
    EchoRepliesSent, "echo_replies_sent", "Answers to pings of the gateway's own addresses.";
    IcmpErrorsSent, "icmp_errors_sent", "ICMP errors sent.";
    IcmpErrorsLimited, "icmp_errors_limited", "ICMP errors not sent because of the rate limit.";
    TcpResetsSent, "tcp_resets_sent", "TCP resets sent for rejected connections.";
    PoolEmpty, "pool_empty", "Packets of the node's own that found no buffer.";
    LogLost, "log_lost", "Log entries of rules that found the log's ring full.";
}

/// The number of values in a block: the counters, then malformed packets by reason.
const VALUES: usize = Counter::COUNT + Malformed::COUNT;

/// A worker's own counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    values: [u64; VALUES],
}

impl Counters {
    /// All at zero.
    pub const fn new() -> Self {
        Self {
            values: [0; VALUES],
        }
    }

    /// Adds one.
    #[inline]
    pub const fn count(&mut self, counter: Counter) {
        self.values[counter as usize] += 1;
    }

    /// Adds `n`.
    #[inline]
    pub const fn add(&mut self, counter: Counter, n: u64) {
        self.values[counter as usize] += n;
    }

    /// Counts a malformed packet.
    #[inline]
    pub const fn malformed(&mut self, reason: Malformed) {
        self.values[Counter::COUNT + reason as usize] += 1;
    }

    /// A counter's value.
    pub const fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Names and values, malformed packets as `malformed_REASON`.
    pub fn named(&self) -> impl Iterator<Item = (String, u64)> {
        names().zip(self.values)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// The names of all values, in order.
fn names() -> impl Iterator<Item = String> {
    let malformed = Malformed::all()
        .into_iter()
        .map(|m| format!("malformed_{}", m.name()));
    Counter::all().map(|c| c.name().to_owned()).chain(malformed)
}

/// A worker's counters as others see them: written by the worker alone, a moment old.
#[derive(Debug)]
pub struct CounterBlock {
    values: Box<[AtomicU64; VALUES]>,
}

impl CounterBlock {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            values: Box::new([const { AtomicU64::new(0) }; VALUES]),
        }
    }

    /// Makes the worker's counters visible.
    pub fn publish(&self, counters: &Counters) {
        for (shared, value) in self.values.iter().zip(counters.values) {
            shared.store(value, Ordering::Relaxed);
        }
    }

    /// What was last published.
    pub fn read(&self) -> Counters {
        let mut counters = Counters::new();
        for (value, shared) in counters.values.iter_mut().zip(self.values.iter()) {
            *value = shared.load(Ordering::Relaxed);
        }
        counters
    }
}

impl Default for CounterBlock {
    fn default() -> Self {
        Self::new()
    }
}
