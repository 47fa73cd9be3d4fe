//! What a worker counts: plain locals, published at housekeeping; see [`telemetry::counters`].

use telemetry::counters::{Counts, CountsReader};
use wire::Malformed;

telemetry::counters! {
    /// One counter of a worker.
    pub enum Counter {
        /// Frames received.
        RxPackets = "rx_packets",
        /// Bytes of frames received.
        RxBytes = "rx_bytes",
        /// Frames given to a device.
        TxPackets = "tx_packets",
        /// Bytes of frames given to a device.
        TxBytes = "tx_bytes",
        /// Packets of accepted flows on their way to a next hop.
        Forwarded = "forwarded",
        /// Flows opened here.
        FlowOpened = "flow_opened",
        /// Of these, the ones that were expected as related to another.
        FlowExpected = "flow_expected",
        /// Flows deleted because they were idle for too long.
        FlowExpired = "flow_expired",
        /// Flows that ended because a new connection uses their ports.
        FlowReplaced = "flow_replaced",
        /// Flows deleted because the rules no longer allow them.
        FlowRevoked = "flow_revoked",
        /// Frames with a VLAN tag, or without one, that no interface has.
        DropVlan = "drop_vlan",
        /// Frames to other stations.
        DropEthernetAddress = "drop_ethernet_address",
        /// Frames that are neither IPv4, IPv6 nor ARP.
        DropEtherType = "drop_ethertype",
        /// Packets of slots that another node owns.
        DropNotOwner = "drop_not_owner",
        /// Packets not forwarded because the view was too old, as after a pause.
        DropStaleView = "drop_stale_view",
        /// Fragments: reassembly is not available in this version.
        DropFragment = "drop_fragment",
        /// Packets whose TCP, UDP or ICMP checksum is wrong.
        DropChecksum = "drop_checksum",
        /// Multicast and broadcast packets: they are not routed.
        DropMulticast = "drop_multicast",
        /// Packets to the gateway's own addresses that nothing answers.
        DropLocal = "drop_local",
        /// Packets to destinations without a route.
        DropNoRoute = "drop_no_route",
        /// Packets whose source is not routed to the zone from which they came.
        DropReversePath = "drop_reverse_path",
        /// Sources found to scan or to flood, once a window.
        Detected = "detected",
        /// Packets of blocked networks, and packets that would open a flow to one.
        DropBlocked = "drop_blocked",
        /// Packets that the rules deny.
        DropDenied = "drop_denied",
        /// Packets that the rules reject.
        DropRejected = "drop_rejected",
        /// Packets of new flows that the flow table had no room for.
        DropTableFull = "drop_table_full",
        /// TCP segments of no known connection that do not open one.
        DropTcpNoFlow = "drop_tcp_no_flow",
        /// TCP segments outside of the connection's windows.
        DropTcpWindow = "drop_tcp_window",
        /// TCP segments that the connection's state does not allow.
        DropTcpInvalid = "drop_tcp_invalid",
        /// ICMP errors about no known flow.
        DropIcmpUnrelated = "drop_icmp_unrelated",
        /// ICMP messages that neither open nor continue a flow.
        DropIcmpUntracked = "drop_icmp_untracked",
        /// Packets of known flows that came from another zone than theirs.
        DropZone = "drop_zone",
        /// Packets whose time to live ended here.
        DropTtl = "drop_ttl",
        /// Packets larger than the next link allows.
        DropMtu = "drop_mtu",
        /// Packets to next hops that do not answer ARP or NDP.
        DropHopUnresolved = "drop_hop_unresolved",
        /// Packets to next hops being resolved that had no place to wait.
        DropHopQueue = "drop_hop_queue",
        /// Packets that a device had no room for.
        DropTxFull = "drop_tx_full",
        /// Packets that should have been held and found no room.
        DropHoldFull = "drop_hold_full",
        /// Held packets dropped at the deadline.
        DropHoldDeadline = "drop_hold_deadline",
        /// New flows refused because there is no backup to acknowledge them.
        DropAlone = "drop_alone",
        /// New flows refused because the sync core is too far behind to protect them.
        DropSyncFull = "drop_sync_full",
        /// Packets for another worker whose ring was full.
        DropCrossFull = "drop_cross_full",
        /// With `ecmp`, packets of flows unknown here whose slot has no owner to ask.
        DropNoOwner = "drop_no_owner",
        /// Packets of flows unknown here that found no room to wait for an answer.
        DropAskFull = "drop_ask_full",
        /// Packets whose flow nobody told of before the hold's deadline.
        DropAskDeadline = "drop_ask_deadline",
        /// Packets that waited until another node told of their flow.
        AskWaiting = "ask_waiting",
        /// Flows that another node was asked for.
        Asked = "asked",
        /// Questions answered in time, also with "there is none".
        AskAnswered = "ask_answered",
        /// Flows that another node told of when asked.
        AskFound = "ask_found",
        /// Questions that nobody answered before the hold's deadline.
        AskUnanswered = "ask_unanswered",
        /// Packets held until their flow's state was acknowledged.
        Held = "held",
        /// Held packets released by an acknowledgement.
        HoldReleased = "hold_released",
        /// Held packets released at the deadline, unacknowledged.
        HoldReleasedAtDeadline = "hold_released_at_deadline",
        /// Instructions that an agent gave.
        Instructions = "agent_instructions",
        /// Instructions that could not be carried out.
        InstructionsRefused = "agent_instructions_refused",
        /// Packets handed to an agent.
        Diverted = "agent_packets",
        /// Packets that an agent handed back for delivery.
        Delivered = "agent_delivered",
        /// Packets that an agent had dropped.
        DropByAgent = "drop_by_agent",
        /// Packets for an agent that is not there, and whose configuration has them dropped.
        DropAgentGone = "drop_agent_gone",
        /// Packets for an agent whose ring was full.
        DropAgentFull = "drop_agent_full",
        /// Packets that arrived at another worker than their flow's.
        Crossed = "crossed",
        /// Changed flow records handed to the sync core.
        Changes = "changes",
        /// Changes that found the ring full; their slot is sent again later.
        ChangesDeferred = "changes_deferred",
        /// Flow records handed to the sync core for a peer's snapshot.
        SnapshotRecords = "snapshot_records",
        /// Flow records from peers merged into the table.
        ReplicasApplied = "replicas_applied",
        /// Flow records from peers that the table had no room for.
        ReplicasRefused = "replicas_refused",
        /// Copies removed because this node holds their slot no longer.
        ReplicasForgotten = "replicas_forgotten",
        /// Copies removed because their owner has deleted the flow, which a comparison found.
        ReplicasRepaired = "replicas_repaired",
        /// ARP requests sent.
        ArpRequestsSent = "arp_requests_sent",
        /// ARP replies sent.
        ArpRepliesSent = "arp_replies_sent",
        /// IPv6 neighbour solicitations sent.
        NeighbourSolicitationsSent = "neighbour_solicitations_sent",
        /// IPv6 neighbour advertisements sent.
        NeighbourAdvertisementsSent = "neighbour_advertisements_sent",
        /// Answers to pings of the gateway's own addresses.
        EchoRepliesSent = "echo_replies_sent",
        /// ICMP errors sent.
        IcmpErrorsSent = "icmp_errors_sent",
        /// ICMP errors not sent because of the rate limit.
        IcmpErrorsLimited = "icmp_errors_limited",
        /// TCP resets sent for rejected connections.
        TcpResetsSent = "tcp_resets_sent",
        /// Packets of the node's own that found no buffer.
        PoolEmpty = "pool_empty",
        /// Log entries of rules that found the log's ring full.
        LogLost = "log_lost",
    }
}

/// Malformed packets by reason, as a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedBy(pub Malformed);

const MALFORMED: [MalformedBy; Malformed::COUNT] = {
    let reasons = Malformed::all();
    let mut all = [MalformedBy(reasons[0]); Malformed::COUNT];
    let mut i = 0;
    while i < all.len() {
        all[i] = MalformedBy(reasons[i]);
        i += 1;
    }
    all
};

impl telemetry::counters::Counter for MalformedBy {
    const COUNT: usize = Malformed::COUNT;
    const ALL: &'static [Self] = &MALFORMED;
    type Values = [u64; Malformed::COUNT];
    const ZERO: Self::Values = [0; Malformed::COUNT];

    fn index(self) -> usize {
        self.0 as usize
    }

    fn name(self) -> &'static str {
        self.0.name()
    }
}

/// A worker's own counters.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Counts<Counter>,
    malformed: Counts<MalformedBy>,
}

impl Counters {
    /// Adds one.
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.counts.increment(counter);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.counts.add(counter, n);
    }

    /// Counts a malformed packet.
    #[inline]
    pub fn malformed(&mut self, reason: Malformed) {
        self.malformed.increment(MalformedBy(reason));
    }

    /// A counter's value.
    pub fn value(&self, counter: Counter) -> u64 {
        self.counts.value(counter)
    }

    /// How many packets were malformed for this reason.
    pub fn malformed_value(&self, reason: Malformed) -> u64 {
        self.malformed.value(MalformedBy(reason))
    }

    /// Makes the values visible to readers.
    pub fn publish(&self) {
        self.counts.publish();
        self.malformed.publish();
    }

    /// For another thread.
    pub fn readers(&self) -> (CountsReader<Counter>, CountsReader<MalformedBy>) {
        (self.counts.reader(), self.malformed.reader())
    }
}
