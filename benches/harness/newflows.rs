//! `newflows-none` and `memory`: a million new flows into an empty table.

use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, capacity, idle_note, lanes, outer};
use crate::gateway::{Gateway, Shape, System};
use crate::generator::{Generator, WhenFull};
use crate::measure::{Figure, slope};
use crate::traffic::Flows;

const FILL_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the table.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Measures how quickly one system opens flows, each from its first packet. Every run has a new process
/// with an empty table. The slope from a twentieth of the flows to nineteen counts: the first packets find
/// cold caches, the last ones an idle generator.
pub(crate) fn measure(bench: &Bench, flows: &Flows, system: System) -> Result<Outcome> {
    let lanes = lanes(bench, flows, system)?;
    let (mut rates, mut idle) = (vec![], vec![]);
    for _ in 0..bench.pace.runs {
        let shape = shape(capacity(flows.count));
        let mut generator = Generator::start(bench, &lanes)?;
        let mut gateway = system.start(bench, shape)?;
        let (looks, spare) = fill(bench, flows, &mut generator, gateway.as_mut())?;
        idle.extend(spare);
        let all = u64::from(flows.count);
        let rate = slope(&looks, all / 20, all - all / 20);
        rates.push(rate.ok_or_else(|| {
            Error::NotReal(format!(
                "the table was looked at {} times only while it was filled",
                looks.len()
            ))
        })?);
    }
    let idle = Figure::of(&idle).and_then(|figure| idle_note(figure.median));
    Outcome::of_runs("flows/s", &rates, idle.into_iter().collect())
}

/// Measures the memory that a gateway has more with a full table for these flows than with the smallest
/// empty one, per flow.
pub(crate) fn memory(bench: &Bench, flows: &Flows, system: System) -> Result<Outcome> {
    /// The least that a configuration may ask for.
    const CAPACITY_MIN: u32 = 1024;
    let lanes = lanes(bench, flows, system)?;
    let mut sizes = vec![];
    for _ in 0..bench.pace.runs {
        let mut generator = Generator::start(bench, &lanes)?;
        let empty = {
            let mut gateway = system.start(bench, shape(CAPACITY_MIN))?;
            gateway.memory_bytes()?
        };
        let mut gateway = system.start(bench, shape(flows.count))?;
        fill(bench, flows, &mut generator, gateway.as_mut())?;
        let full = gateway.memory_bytes()?;
        if full <= empty {
            return Err(Error::NotReal(format!(
                "there are {empty} bytes with an empty table and {full} with a full one"
            )));
        }
        sizes.push((full - empty) as f64 / f64::from(flows.count));
    }
    Outcome::of_runs("bytes/flow", &sizes, vec![])
}

/// Moments, and how many flows were in the table then.
type Looks = Vec<(Instant, u64)>;

/// Sends the first packet of every flow until all are in the gateway's table; with the share of its cpu's time that
/// was idle meanwhile, where that is known.
fn fill(
    bench: &Bench,
    flows: &Flows,
    generator: &mut Generator,
    gateway: &mut dyn Gateway,
) -> Result<(Looks, Option<f64>)> {
    let mut looks = vec![];
    let all = u64::from(flows.count);
    // No packet is lost on the way, so that in the first pass each one opens a flow.
    generator.play(bench, 0, WhenFull::Retry)?;
    gateway.idle()?;
    wait_until(
        "all flows to be opened",
        FILL_LIMIT,
        LOOK_EVERY,
        &bench.interrupt,
        || {
            let begin = Instant::now();
            let has = gateway.opened().map_err(outer)?;
            looks.push((begin + begin.elapsed() / 2, has));
            Ok(if has >= all {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(": {has} are"))
            })
        },
    )?;
    let idle = gateway.idle()?;
    generator.stop(bench)?;
    wait_until(
        "the table to hold all flows",
        FILL_LIMIT,
        Duration::from_millis(100),
        &bench.interrupt,
        || {
            let has = gateway.flows().map_err(outer)?;
            Ok(if has == all {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(": {has} are there"))
            })
        },
    )?;
    Ok((looks, idle))
}

fn shape(capacity: u32) -> Shape {
    Shape {
        capacity,
        answers: false,
        workers: 1,
    }
}
