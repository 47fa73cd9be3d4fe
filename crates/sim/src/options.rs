//! What a run is made of: the cluster, its traffic, and the menu of faults.

use std::fmt;

use crate::random::Rng;

/// The whole menu of faults of a run. Probabilities are per million, times in microseconds of true
/// time, and everything that is 0 or `false` does not happen.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// How long frames and datagrams between nodes take, least and most; those of different
    /// streams, and datagrams, overtake each other.
    pub link_delay_us: (u64, u64),
    /// Datagrams between nodes that are lost. A lost packet of a stream is sent again and delays
    /// what is behind it.
    pub link_loss: u32,
    /// Datagrams between nodes that arrive twice.
    pub link_duplication: u32,
    /// Frames and datagrams between nodes that arrive damaged.
    pub link_corruption: u32,
    /// How long frames between hosts and nodes take, least and most; they overtake each other.
    pub traffic_delay_us: (u64, u64),
    /// Frames between hosts and one node that are lost.
    pub traffic_loss: u32,
    /// Frames between hosts and one node that arrive twice.
    pub traffic_duplication: u32,
    /// Frames that arrive at another worker than their flow's.
    pub traffic_misdelivery: u32,
    /// How often each kind of failure is chosen, relative to the others.
    pub crash: u32,
    /// The most nodes that crash in one episode; at most `k` unless `beyond` is set.
    pub crashes_max: usize,
    /// Crashed nodes that stay away: once the others have made redundancy whole among themselves more may fail, and
    /// they come back at some time.
    pub stay_away: u32,
    /// Of crashed nodes that start again, those whose clock has lost its time, so that the new run
    /// seems older than the one before.
    pub clock_loss: u32,
    /// A process stands still and goes on.
    pub pause: u32,
    /// All cores of a node get their turn late.
    pub slow: u32,
    /// One worker stands still while the rest of the node goes on.
    pub stall: u32,
    /// The nodes fall into two groups that do not reach each other.
    pub partition: u32,
    /// One node is not heard by some others, but hears them.
    pub one_way: u32,
    /// A partition that comes and goes.
    pub flapping: u32,
    /// A node is told to go offline in good order, and comes back.
    pub drain: u32,
    /// Hand-overs whose bound is so short that it may cut them.
    pub drain_hurry: u32,
    /// A node's Unix time is set forward or back by up to some seconds.
    pub clock_step: u32,
    /// Monotonic clocks run wrong by up to so many parts per million.
    pub drift_ppm: u64,
    /// Unix clocks of nodes differ by up to so many milliseconds.
    pub skew_ms: u64,
    /// Rings between workers and sync core of a few places.
    pub tiny_rings: bool,
    /// A replication log of a few records, so that targets lag.
    pub tiny_log: bool,
    /// Room for few held packets.
    pub tiny_hold: bool,
    /// Room for few flows.
    pub tiny_table: bool,
    /// Transport queues of a few frames.
    pub tiny_queues: bool,
    /// Failures come without regard to whether redundancy is whole, and more of them than `k`.
    pub beyond: bool,
}

/// A selection of the menu.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// No fault at all.
    Quiet,
    /// Crashes and restarts of up to `k` nodes at once.
    Crashes,
    /// Networks that lose, delay, reorder and duplicate.
    Lossy,
    /// Processes that stand still, turn slowly, or have a stalled worker, and clocks that are wrong.
    Pauses,
    /// Partitions between the nodes: two-way, one-way, flapping.
    Partitions,
    /// Frames between nodes that arrive damaged.
    Corrupt,
    /// Nodes that go offline in good order and come back, and nothing else.
    Drains,
    /// Queues, logs and holds of a few places.
    Full,
    /// Tables that are too small for the flows.
    Table,
    /// A bit of everything.
    Mixed,
    /// More failures than `k`, without pauses to recover.
    Beyond,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 11] = [
        Self::Quiet,
        Self::Crashes,
        Self::Lossy,
        Self::Pauses,
        Self::Partitions,
        Self::Corrupt,
        Self::Full,
        Self::Table,
        Self::Mixed,
        Self::Beyond,
        Self::Drains,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Crashes => "crashes",
            Self::Lossy => "lossy",
            Self::Pauses => "pauses",
            Self::Partitions => "partitions",
            Self::Corrupt => "corrupt",
            Self::Drains => "drains",
            Self::Full => "full",
            Self::Table => "table",
            Self::Mixed => "mixed",
            Self::Beyond => "beyond",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that one run is made of. Equal options give equal runs, event by event.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Options {
    /// The seed of all chance.
    pub seed: u64,
    /// The profile from which the faults were drawn.
    pub profile: Profile,
    /// How many nodes, 2 to 16.
    pub nodes: usize,
    /// Whether a router spreads packets over the nodes' own addresses, each direction by itself; otherwise
    /// every node gets every frame.
    pub ecmp: bool,
    /// How many workers each has.
    pub workers: usize,
    /// `k`: how many backups each node has.
    pub backups: usize,
    /// How many acknowledgements release a packet; 0 for all targets.
    pub hold_acks: usize,
    /// Whether packets leave at the hold's deadline instead of being dropped.
    pub release_at_deadline: bool,
    /// Whether nodes compare their copies and repair what differs.
    pub digests: bool,
    /// Between two heartbeats, in milliseconds; silence of four of them is death.
    pub heartbeat_ms: u64,
    /// How long connections are opened and faults happen, in microseconds of true time.
    pub load_us: u64,
    /// How long the cluster may take to converge once the faults have stopped.
    pub converge_us: u64,
    /// Connections opened per second.
    pub opens_per_s: u64,
    /// Writes of common state per second.
    pub writes_per_s: u64,
    /// The faults.
    pub faults: Faults,
    /// Whether to keep a line for everything that happens.
    pub trace: bool,
}

/// What the caller fixes instead of leaving it to the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// The profile.
    pub profile: Option<Profile>,
    /// The number of nodes.
    pub nodes: Option<usize>,
    /// Whether a router spreads packets over the nodes.
    pub ecmp: Option<bool>,
    /// How long faults and new connections go on, in seconds.
    pub time_s: Option<u64>,
}

impl Options {
    /// The run of a seed, but for what is fixed.
    pub fn of_seed(seed: u64, fixed: Fixed) -> Self {
        let mut rng = Rng::new(seed, 1);
        // What was added later is drawn from a generator of its own.
        let mut later = Rng::new(seed, 6);
        let profile = fixed.profile.unwrap_or(match later.below(10) {
            0 => Profile::Drains,
            _ => Profile::ALL[(seed % 10) as usize],
        });
        let drawn = *rng.pick(&[2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 8, 16]);
        let nodes = fixed.nodes.unwrap_or(drawn);
        let backups = (*rng.pick(&[1usize, 1, 2, 2, 3])).min(nodes - 1);
        let workers = *rng.pick(&[1, 1, 2, 3]);
        let heartbeat_ms = if nodes > 6 {
            50
        } else {
            *rng.pick(&[10, 20, 25, 50])
        };
        let load_s = rng.range(6..=14);
        let mut faults = Faults::draw(profile, &mut rng, backups);
        faults.draw_drains(profile, &mut later);
        faults.stay_away = *Rng::new(seed, 9).pick(&[0, 300_000, 600_000]);
        let routed = later.chance(250_000);
        Self {
            seed,
            profile,
            nodes,
            ecmp: fixed.ecmp.unwrap_or(routed),
            workers,
            backups,
            hold_acks: if backups > 1 && rng.chance(150_000) {
                1
            } else {
                0
            },
            release_at_deadline: rng.chance(100_000),
            // Redundancy must become whole without them as well, where no state was made on two sides, and
            // nobody missed a deletion while others took it for dead.
            digests: !(seed.is_multiple_of(2)
                && faults.pause == 0
                && matches!(profile, Profile::Full | Profile::Quiet | Profile::Crashes)),
            heartbeat_ms,
            load_us: fixed.time_s.unwrap_or(load_s) * 1_000_000,
            converge_us: 40_000_000,
            opens_per_s: rng.range(4..=14),
            writes_per_s: *Rng::new(seed, 8).pick(&[0, 1, 3, 10]),
            faults,
            trace: false,
        }
    }
}

impl Faults {
    /// Nothing goes wrong: a switch between hosts and nodes, and one between the nodes.
    pub const fn none() -> Self {
        Self {
            link_delay_us: (15, 60),
            link_loss: 0,
            link_duplication: 0,
            link_corruption: 0,
            traffic_delay_us: (10, 40),
            traffic_loss: 0,
            traffic_duplication: 0,
            traffic_misdelivery: 0,
            crash: 0,
            crashes_max: 0,
            stay_away: 0,
            clock_loss: 0,
            pause: 0,
            slow: 0,
            stall: 0,
            partition: 0,
            one_way: 0,
            flapping: 0,
            drain: 0,
            drain_hurry: 0,
            clock_step: 0,
            drift_ppm: 0,
            skew_ms: 0,
            tiny_rings: false,
            tiny_log: false,
            tiny_hold: false,
            tiny_table: false,
            tiny_queues: false,
            beyond: false,
        }
    }

    fn draw(profile: Profile, rng: &mut Rng, backups: usize) -> Self {
        let mut faults = Self::none();
        // Wrong clocks and an imperfect network are the normal case everywhere but in `Quiet`.
        if profile != Profile::Quiet {
            faults.drift_ppm = rng.range(0..=300);
            faults.skew_ms = *rng.pick(&[0, 5, 200, 5_000]);
            faults.traffic_misdelivery = *rng.pick(&[0, 20_000]);
            faults.link_delay_us = (10, rng.range(50..=1_500));
            faults.crashes_max = rng.range(1..=backups as u64) as usize;
        }
        let some = |rng: &mut Rng| rng.below(3) as u32;
        match profile {
            Profile::Quiet | Profile::Drains => {}
            Profile::Crashes => {
                faults.crash = 1;
                faults.clock_loss = *rng.pick(&[0, 200_000]);
            }
            Profile::Lossy => {
                faults.lossy(rng);
                faults.crash = rng.below(2) as u32;
            }
            Profile::Pauses => {
                faults.pause = 1 + some(rng);
                faults.slow = some(rng);
                faults.stall = 1 + some(rng);
                faults.clock_step = some(rng);
                faults.drift_ppm = rng.range(0..=20_000);
                faults.skew_ms = 60_000;
                faults.crash = rng.below(2) as u32;
            }
            Profile::Partitions => {
                faults.partition = 1 + some(rng);
                faults.one_way = some(rng);
                faults.flapping = some(rng);
            }
            Profile::Corrupt => {
                faults.link_corruption = rng.range(200..=20_000) as u32;
                faults.crash = rng.below(2) as u32;
            }
            Profile::Full => {
                faults.tiny_rings = rng.chance(600_000);
                faults.tiny_log = rng.chance(600_000);
                faults.tiny_hold = rng.chance(400_000);
                faults.tiny_queues = rng.chance(600_000);
                faults.crash = 1;
                faults.slow = 1 + some(rng);
                faults.pause = some(rng);
            }
            Profile::Table => {
                faults.tiny_table = true;
                faults.crash = 1;
            }
            Profile::Mixed | Profile::Beyond => {
                if rng.chance(500_000) {
                    faults.lossy(rng);
                }
                faults.crash = 1 + some(rng);
                faults.pause = some(rng);
                faults.slow = some(rng);
                faults.stall = some(rng);
                faults.partition = some(rng);
                faults.one_way = some(rng);
                faults.flapping = some(rng);
                faults.clock_step = some(rng);
                faults.clock_loss = *rng.pick(&[0, 200_000]);
                faults.drift_ppm = rng.range(0..=20_000);
                faults.tiny_rings = rng.chance(200_000);
                faults.tiny_log = rng.chance(200_000);
                faults.tiny_hold = rng.chance(200_000);
                faults.tiny_queues = rng.chance(200_000);
                faults.link_corruption = *rng.pick(&[0, 0, 500]);
                if profile == Profile::Beyond {
                    faults.beyond = true;
                    faults.crashes_max = 16;
                }
            }
        }
        faults
    }

    fn draw_drains(&mut self, profile: Profile, rng: &mut Rng) {
        let often = rng.range(1..=2) as u32;
        let among_others = rng.chance(330_000);
        self.drain_hurry = *rng.pick(&[0, 0, 300_000]);
        self.drain = match profile {
            Profile::Drains => 1,
            Profile::Crashes | Profile::Lossy | Profile::Mixed | Profile::Beyond
                if among_others =>
            {
                often
            }
            _ => 0,
        };
    }

    fn lossy(&mut self, rng: &mut Rng) {
        self.link_loss = rng.range(0..=60_000) as u32;
        self.link_duplication = rng.range(0..=100_000) as u32;
        self.link_delay_us = (10, rng.range(100..=6_000));
        self.traffic_loss = rng.range(0..=40_000) as u32;
        self.traffic_duplication = rng.range(0..=40_000) as u32;
        self.traffic_delay_us = (10, rng.range(20..=3_000));
    }
}
