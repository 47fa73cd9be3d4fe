//! What is measured: a gateway with a port for what comes from inside, and a sink outside.

use std::fs;

use lab::Error as LabError;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::generator::Way;
use crate::measure::Counts;
use crate::nftables::{self, Nftables};
use crate::ovs::Ovs;
use crate::ravelin::Ravelin;
use crate::traffic::Part;

/// A system that cases are measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum System {
    /// This repository's.
    Ravelin,
    /// Open vSwitch with DPDK and its connection tracking.
    Ovs,
    /// The kernel's own routing, nftables and connection tracking.
    Nftables,
    /// Likewise, with conntrackd that replicates its connections to a second node.
    Conntrackd,
}

/// What a gateway must be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Flows that its table must hold.
    pub(crate) capacity: u32,
    /// Whether servers answer, through a port of their own.
    pub(crate) answers: bool,
    /// Workers that forward, each with a queue of the clients' port and a cpu of its own.
    pub(crate) workers: usize,
}

/// The name of the memif socket, in the folder of the run's state, that clients' packets come in by.
pub(crate) const INSIDE: &str = "inside.sock";
/// Likewise for servers' packets.
pub(crate) const BACK: &str = "back.sock";

/// A running gateway. Its worker has a cpu of its own.
pub(crate) trait Gateway {
    /// How many flows are in its table.
    fn flows(&mut self) -> Result<u64>;

    /// How many flows it has opened since its start, as of a millisecond ago at most. None has ended yet.
    fn opened(&mut self) -> Result<u64>;

    /// How many TCP connections it takes for established. It may look at every flow for that.
    fn established(&mut self) -> Result<u64>;

    /// How many TCP connections it has seen the answer of, which are not yet established, or are.
    fn answered(&mut self) -> Result<u64>;

    /// Its counters now.
    fn counts(&mut self) -> Result<Counts>;

    /// How many packets have reached the sinks, and how many it says to have sent there, from its start;
    /// nothing is under way any more.
    fn sunk(&mut self) -> Result<(u64, u64)>;

    /// Bytes of the memory that its flows are in, and whatever else is there.
    fn memory_bytes(&mut self) -> Result<u64>;

    /// The share of its cpu's time that was idle since the last look; `None` of one that spins.
    fn idle(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }
}

impl System {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ravelin => "ravelin",
            Self::Ovs => "ovs-dpdk",
            Self::Nftables => "nftables",
            Self::Conntrackd => "conntrackd",
        }
    }

    /// How the generator's frames of this part get to it. What of that must be there before both, is made.
    pub(crate) fn way(self, bench: &Bench, part: Part) -> Result<Way> {
        match self {
            Self::Ravelin | Self::Ovs => Ok(Way::Memif(bench.path(if part == Part::SynAck {
                BACK
            } else {
                INSIDE
            }))),
            Self::Nftables | Self::Conntrackd => nftables::way(bench),
        }
    }

    /// Starts it; it is ready for packets when this returns. The generator must be there, for it connects to that.
    pub(crate) fn start(self, bench: &Bench, shape: Shape) -> Result<Box<dyn Gateway>> {
        Ok(match self {
            Self::Ravelin => Box::new(Ravelin::start(bench, shape)?),
            Self::Ovs => Box::new(Ovs::start(bench, shape)?),
            Self::Nftables | Self::Conntrackd => Box::new(Nftables::start(bench, shape)?),
        })
    }
}

/// Bytes of a process's own memory that are in use: anonymous, so without files and huge pages, which hold
/// packets and not flows.
pub(crate) fn memory_bytes(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let said = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
    let line = said.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map(|kb| kb * 1024)
        .ok_or(Error::Unreadable {
            from: "/proc/PID/status",
            said,
            wanted: "RssAnon",
        })
}
