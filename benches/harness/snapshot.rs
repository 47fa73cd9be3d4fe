//! `snapshot`: how quickly a node that joins receives what there is.
//!
//! The first node is filled while it is alone; then the second one starts. The slope of the records that it has
//! received counts, between a twentieth of them and nineteen.

use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, capacity, lanes, outer};
use crate::gateway::System;
use crate::generator::{Generator, WhenFull};
use crate::measure::slope;
use crate::pair::{Pair, Plan, Ports, Seat, not_real, of};
use crate::traffic::Flows;

const FILL_LIMIT: Duration = Duration::from_secs(60);
const JOIN_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Two nodes. The pace of snapshots, which is a million records per second by default, is not what limits.
pub(crate) fn plan(capacity: u32, seats: [Seat; 2]) -> Plan {
    Plan {
        capacity,
        sync: "async",
        rules: "",
        cluster: "heartbeat = \"100ms\"\ndead_after = \"3s\"\nresync_rate = 100000000\njoin_wait = \"3s\"",
        agent: None,
        seats,
        ports: [Ports::Memif, Ports::Idle],
    }
}

/// Measures joins.
pub(crate) fn measure(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let seats = Seat::beside_generator(&bench.cpus);
    let rates = (0..bench.pace.runs)
        .map(|_| join(bench, flows, seats))
        .collect::<Result<Vec<_>>>()?;
    let mut notes = vec![format!("{} flows", flows.count)];
    notes.extend(Seat::note(&seats));
    Outcome::of_runs("flows/s", &rates, notes)
}

fn join(bench: &Bench, flows: &Flows, seats: [Seat; 2]) -> Result<f64> {
    let lanes = lanes(bench, flows, System::Ravelin)?;
    let mut pair = Pair::prepare(bench, plan(capacity(flows.count), seats))?;
    let all = u64::from(flows.count);
    {
        let mut generator = Generator::start(bench, &lanes)?;
        pair.start_next(bench)?;
        pair.wait_active(bench, false)?;
        generator.play(bench, 0, WhenFull::Retry)?;
        pair.first().wait_flows(bench, all, FILL_LIMIT)?;
        generator.stop(bench)?;
    }
    pair.start_next(bench)?;
    let mut looks = vec![];
    let result = wait_until(
        "the second node to have joined",
        JOIN_LIMIT,
        LOOK_EVERY,
        &bench.interrupt,
        || {
            let begin = Instant::now();
            let report = pair.second().counters().map_err(outer)?;
            let received = of(&report, "records_received");
            looks.push((begin + begin.elapsed() / 2, received));
            // Its state is said by what costs more: only when it may have changed.
            let state = if received >= all {
                pair.second().status().map_err(outer)?.node.state
            } else {
                "joining".into()
            };
            Ok(if state == "active" {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(
                    "it is {state} and has received {received} of {all} records"
                ))
            })
        },
    );
    result.map_err(not_real)?;
    // All of them: nothing new came, and nothing ends while this is measured.
    pair.second()
        .wait_flows(bench, all, Duration::from_secs(10))?;
    slope(&looks, all / 20, all - all / 20).ok_or_else(|| {
        Error::NotReal(format!(
            "the joining node was looked at {} times only while it received",
            looks.len()
        ))
    })
}
