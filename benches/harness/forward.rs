//! `forward-*`: packets per second that one worker forwards, all of flows that are in its table.

use std::time::Duration;

use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Shape, System};
use crate::generator::{Generator, Lane, WhenFull};
use crate::measure::{Figure, Window};
use crate::pcap;
use crate::traffic::{Flows, Part, Proto};

/// How long until all flows are in a table: the slowest opens some hundred thousand per second.
const WARM_LIMIT: Duration = Duration::from_secs(120);
/// What passes before the first window: caches fill, and the generator's first pass begins.
const SETTLE: Duration = Duration::from_millis(500);

/// The share of its cpu's time that a gateway which does not spin may be idle for, and still is the limit.
const IDLE_MAX: f64 = 0.03;

/// What a measurement gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) readings: Vec<Reading>,
    /// What a reader must know besides the figures.
    pub(crate) notes: Vec<String>,
}

/// One figure of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// What it is called behind the case's name.
    pub(crate) part: String,
    /// What it is of, where that is not the system that the case is measured on.
    pub(crate) of: Option<&'static str>,
    pub(crate) unit: &'static str,
    pub(crate) figure: Figure,
}

impl Reading {
    /// Of these runs.
    pub(crate) fn of_runs(
        part: impl Into<String>,
        unit: &'static str,
        runs: &[f64],
    ) -> Result<Self> {
        let none = || Error::Machine("no run was asked for".into());
        Ok(Self {
            part: part.into(),
            of: None,
            unit,
            figure: Figure::of(runs).ok_or_else(none)?,
        })
    }
}

impl Outcome {
    /// With one figure, of these runs.
    pub(crate) fn of_runs(unit: &'static str, runs: &[f64], notes: Vec<String>) -> Result<Self> {
        Ok(Self {
            readings: vec![Reading::of_runs("", unit, runs)?],
            notes,
        })
    }
}

/// Flows that a gateway's table must hold for these: a gateway has room for a million whatever it meets.
pub(crate) fn capacity(flows: u32) -> u32 {
    (flows + flows / 4).max(1_250_000)
}

/// The lanes of a generator for these flows: for TCP the openings, the answers and the data, else the data.
pub(crate) fn lanes(bench: &Bench, flows: &Flows, system: System) -> Result<Vec<Lane>> {
    let parts: &[Part] = match flows.proto {
        Proto::Udp => &[Part::Data],
        Proto::Tcp => &[Part::Syn, Part::SynAck, Part::Data],
    };
    let lane = |part: &Part| {
        let pcaps = vec![pcap::of(flows, *part, &bench.pcaps, &bench.interrupt)?];
        let way = system.way(bench, *part)?;
        Ok(Lane { pcaps, way })
    };
    parts.iter().map(lane).collect()
}

/// Measures one system.
pub(crate) fn measure(bench: &Bench, flows: &Flows, system: System) -> Result<Outcome> {
    let lanes = lanes(bench, flows, system)?;
    let (rates, notes) = rates(bench, flows, system, &lanes, 1)?;
    Outcome::of_runs("packets/s", &rates, notes)
}

/// The rates of all windows with so many workers, and what a reader must know besides.
pub(crate) fn rates(
    bench: &Bench,
    flows: &Flows,
    system: System,
    lanes: &[Lane],
    workers: usize,
) -> Result<(Vec<f64>, Vec<String>)> {
    let shape = Shape {
        capacity: capacity(flows.count),
        answers: flows.proto == Proto::Tcp,
        workers,
    };
    let mut generator = Generator::start(bench, lanes)?;
    let mut gateway = system.start(bench, shape)?;
    warm(bench, flows, gateway.as_mut(), &mut generator)?;

    let data = lanes.len() - 1;
    generator.play(bench, data, WhenFull::Drop)?;
    bench.pass(SETTLE)?;
    let mut rates = vec![];
    gateway.idle()?;
    for _ in 0..bench.pace.runs {
        let from = gateway.counts()?;
        bench.pass(bench.pace.window)?;
        let window = Window::between(from, gateway.counts()?);
        // Counters are published once a millisecond or so.
        if let Some(wrong) = window.wrong(window.received / 100 + 1000) {
            return Err(Error::NotReal(wrong));
        }
        rates.push(window.rate());
    }
    generator.must_run()?;
    let idle = gateway.idle()?;
    let offered = generator.stop(bench)?;

    let mut notes = vec![];
    match idle {
        None if offered.dropped * 100 < offered.sent => notes.push(
            "the generator offered hardly more than was taken: the gateway may be quicker than this".into(),
        ),
        Some(idle) => notes.extend(idle_note(idle)),
        None => {}
    }
    let there = gateway.flows()?;
    if there != u64::from(flows.count) {
        return Err(Error::NotReal(format!(
            "{there} flows are in the table and {} were sent",
            flows.count
        )));
    }
    all_sunk(bench, gateway.as_mut())?;
    Ok((rates, notes))
}

/// Brings every flow into the gateway's table; for TCP by a whole handshake, each part for all flows.
fn warm(
    bench: &Bench,
    flows: &Flows,
    gateway: &mut dyn Gateway,
    generator: &mut Generator,
) -> Result<()> {
    /// What the gateway has of each flow when a part has arrived.
    type Look = fn(&mut dyn Gateway) -> Result<u64>;
    let stages: &[(&str, Look)] = match flows.proto {
        Proto::Udp => &[("in the table", |gateway| gateway.flows())],
        Proto::Tcp => &[
            ("in the table", |gateway| gateway.flows()),
            ("answered", |gateway| gateway.answered()),
            ("established", |gateway| gateway.established()),
        ],
    };
    for (lane, (what, look)) in stages.iter().enumerate() {
        // Without a drop each pass brings every flow's packet.
        generator.play(bench, lane, WhenFull::Retry)?;
        let wanted = u64::from(flows.count);
        wait_until(
            &format!("{wanted} flows to be {what}"),
            WARM_LIMIT,
            Duration::from_millis(100),
            &bench.interrupt,
            || {
                generator.must_run().map_err(outer)?;
                let has = look(gateway).map_err(outer)?;
                Ok(if has >= wanted {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!(": {has} are"))
                })
            },
        )?;
        generator.stop(bench)?;
    }
    Ok(())
}

/// A note where the gateway's cpu was idle for this share of the time and the gateway therefore not the limit.
pub(crate) fn idle_note(idle: f64) -> Option<String> {
    (idle > IDLE_MAX).then(|| {
        format!(
            "the generator was the limit: the gateway's cpu was idle for {:.0} % of the time, and may be quicker than this",
            idle * 100.0
        )
    })
}

/// Every packet that the gateway says to have forwarded is one that its sinks have counted.
fn all_sunk(bench: &Bench, gateway: &mut dyn Gateway) -> Result<()> {
    let limit = Duration::from_secs(5);
    let every = Duration::from_millis(50);
    let result = wait_until("the last packets", limit, every, &bench.interrupt, || {
        let (sunk, said) = gateway.sunk().map_err(outer)?;
        Ok(if sunk == said {
            Poll::Ready(())
        } else {
            Poll::Pending(format!(": {said} were forwarded, {sunk} arrived"))
        })
    });
    result.map_err(|error| match error {
        lab::Error::Timeout { detail, .. } => Error::NotReal(format!("of the packets{detail}")),
        error => error.into(),
    })
}

/// Into the error of a look at a condition.
pub(crate) fn outer(error: Error) -> lab::Error {
    match error {
        Error::Lab(error) => error,
        error => lab::Error::Scenario(error.to_string()),
    }
}
