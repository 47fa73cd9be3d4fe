//! What a run comes to: its figures, so that nobody can take an empty run for a success, and its
//! failure if it has one.

use std::fmt;

/// What is checked; each has its place in the module `oracle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// A packet of an `ack` flow left before every current target had the flow.
    Unprotected,
    /// A packet left under a view that was older than a peer may be silent.
    StaleView,
    /// Packets of one flow left in another order than that in which they arrived.
    OutOfOrder,
    /// A connection that both ends held open was reset or starved within the rules.
    ConnectionLost,
    /// A packet of an established flow did not get through, and nothing happened but orders to go offline
    /// and to come back.
    PacketLost,
    /// The cluster did not become whole again after a failure, or not equal after the last one.
    NotConverged,
    /// Something grew beyond its bound.
    Unbounded,
    /// A flow that all knew as deleted lived again.
    Resurrected,
    /// A node's copy of a flow gave way to an older one.
    WentBack,
    /// A core counted what must not happen.
    Fault,
    /// Code under test panicked.
    Panicked,
}

impl Invariant {
    /// The name, as output has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::StaleView => "stale-view",
            Self::OutOfOrder => "out-of-order",
            Self::ConnectionLost => "connection-lost",
            Self::PacketLost => "packet-lost",
            Self::NotConverged => "not-converged",
            Self::Unbounded => "unbounded",
            Self::Resurrected => "resurrected",
            Self::WentBack => "went-back",
            Self::Fault => "fault",
            Self::Panicked => "panicked",
        }
    }
}

/// What was broken, when, and how.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// The broken invariant.
    pub invariant: Invariant,
    /// When, in microseconds of true time since the start of the run.
    pub at_us: u64,
    /// How.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, us) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        write!(
            f,
            "{} at {s}.{us:06} s: {}",
            self.invariant.name(),
            self.what
        )
    }
}

macro_rules! stats {
    ($( $(#[$doc:meta])* $name:ident ),+ $(,)?) => {
        /// The figures of a run, or of many together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Stats { $( $(#[$doc])* pub $name: u64 ),+ }

        impl Stats {
            /// Adds another run's figures.
            pub fn add(&mut self, other: &Self) {
                $( self.$name += other.$name; )+
            }

            /// The figures with their names.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![ $( (stringify!($name), self.$name) ),+ ]
            }
        }
    };
}

stats! {
    /// Runs.
    runs,
    /// Microseconds of virtual time.
    virtual_us,
    /// Things that happened.
    events,
    /// Turns of workers.
    worker_turns,
    /// Packets that hosts sent towards the nodes.
    packets_sent,
    /// Packets that reached a host through a node.
    packets_delivered,
    /// Packets whose protection was checked as they left a node.
    packets_checked,
    /// Of these, those that were the first to show a flow's state outside.
    openings_checked,
    /// Packets of established flows that had to leave some node, as nothing that may lose them happened.
    packets_witnessed,
    /// Connections, requests and pings that clients began.
    connections,
    /// Of these, those that both ends held open.
    established,
    /// Requests that were answered.
    answers,
    /// Connections that were lost, where the schedule allows it.
    losses_allowed,
    /// Writes of common state.
    common_writes,
    /// Of these, those that every living node had confirmed.
    common_confirmed,
    /// Crashes.
    crashes,
    /// Of these, nodes that stayed away while others failed.
    absences,
    /// Restarts.
    restarts,
    /// Times that a node was told to go offline in good order.
    drains,
    /// Hand-overs that ended with everything handed over and synchronised.
    hand_overs,
    /// Hand-overs that ended as they stood, by their bound or with nobody to take over.
    hand_overs_cut,
    /// Restarts whose clock had lost its time.
    clocks_lost,
    /// Processes that stood still for a while.
    pauses,
    /// Pauses that the nodes themselves noticed.
    pauses_seen,
    /// Times that a node was slow.
    slow,
    /// Stalled workers.
    stalls,
    /// Partitions, two-way.
    partitions,
    /// Partitions, one-way.
    one_way,
    /// Flapping partitions.
    flaps,
    /// Steps of a Unix clock.
    clock_steps,
    /// Deaths of peers, as nodes noticed them.
    deaths_seen,
    /// Views that nodes came to.
    views,
    /// Slots that changed hands to a node that had not owned them.
    takeovers,
    /// Times that redundancy was found whole after a failure.
    recoveries,
    /// Frames that nodes sent each other.
    frames_between_nodes,
    /// Frames between nodes that were damaged on the way.
    frames_damaged,
    /// Frames that a node refused.
    frames_refused,
    /// Connections between nodes that a node closed because of what came over it.
    connections_closed,
    /// Heartbeats lost.
    datagrams_lost,
    /// Heartbeats damaged.
    datagrams_damaged,
    /// Frames between hosts and nodes lost.
    traffic_lost,
    /// Frames that found a node's port full.
    port_drops,
    /// Packets held.
    held,
    /// Held packets that left or were dropped at their deadline.
    hold_deadlines,
    /// Questions about flows that a node did not know, with a router in front of the nodes.
    questions,
    /// Those that nobody answered in time.
    questions_unanswered,
    /// Snapshots complete.
    snapshots,
    /// Targets that lagged behind the log.
    lags,
    /// Changes that found a ring full.
    changes_deferred,
    /// Times that the transport's queue was full.
    sends_deferred,
    /// Times that a worker's ring was full.
    rings_full,
    /// Flows that the oracle compared between owner and target.
    flows_compared,
    /// Looks at all tables.
    scans,
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The figures.
    pub stats: Stats,
    /// A hash of everything that happened, in order: equal options give equal hashes.
    pub hash: u64,
    /// The broken invariant, if one was.
    pub failure: Option<Failure>,
    /// What happened, line by line, if the options ask for it.
    pub trace: Vec<String>,
}
