//! `failover`: the owner of acknowledged flows is killed, and their packets go on through its heir.
//!
//! Two daemons. The first gets the first packets of all flows and is killed once the second has acknowledged them.
//! From before that on, packets of some of these flows arrive at the second every fifth of a millisecond, as
//! they do where every node receives every frame; the first one that comes out of it ends the time. The whole
//! is measured with few flows too, since a takeover should cost the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};
use nix::sys::signal::Signal;
use telemetry::control::Status;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, Reading, capacity, lanes, outer};
use crate::gateway::System;
use crate::generator::{Generator, WhenFull};
use crate::pair::{NODES, Pair, Plan, Ports, Seat, not_real, of};
use crate::traffic::Flows;
use crate::wire_port::{Came, WirePort, frame, now_ns};

/// What it is compared with.
const FEW: u32 = 1_000;
const FILL_LIMIT: Duration = Duration::from_secs(120);
/// Between two packets of the flows that go on.
const BETWEEN: Duration = Duration::from_micros(200);
/// How many of the flows these are of, in turn.
const GO_ON: u64 = 500;
/// How long packets arrive at the heir while the owner lives, and none may come out.
const BEFORE: Duration = Duration::from_millis(300);
/// Without a packet after so long there is no takeover.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(20);

/// Two nodes with the defaults for detection and hold; the second one's packets come and go one by one.
pub(crate) fn plan(capacity: u32, seats: [Seat; 2]) -> Plan {
    Plan {
        capacity,
        sync: "ack",
        rules: "",
        cluster: "",
        agent: None,
        seats,
        ports: [Ports::Memif, Ports::Wire],
    }
}

/// Measures takeovers of these flows, and of few.
pub(crate) fn measure(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let seats = Seat::beside_generator(&bench.cpus);
    let few = Flows {
        count: FEW.min(flows.count),
        ..*flows
    };
    let mut readings = vec![];
    for (flows, part) in [(flows, ""), (&few, "-1k")] {
        let runs = (0..bench.pace.runs)
            .map(|_| takeover(bench, flows, seats))
            .collect::<Result<Vec<_>>>()?;
        let mut reading = |what: &str, unit, of: fn(&Takeover) -> f64| {
            let runs: Vec<f64> = runs.iter().map(of).collect();
            readings.push(Reading::of_runs(format!("{part}{what}"), unit, &runs)?);
            Ok::<_, Error>(())
        };
        reading("", "ms", |run| run.ms)?;
        reading("-view-to-packet", "us", |run| run.view_to_packet_us)?;
        reading("-lost", "flows", |run| run.lost as f64)?;
    }
    let mut notes = vec![format!(
        "{} flows, and {} for the figures with 1k; of the time the default `dead_after` of 50 ms is the most",
        flows.count, few.count
    )];
    notes.extend(Seat::note(&seats));
    Ok(Outcome { readings, notes })
}

/// What one takeover showed.
#[derive(Debug, Clone, Copy)]
struct Takeover {
    /// From the kill to the first packet that came out of the heir.
    ms: f64,
    /// From the moment when the heir's worker had its view to its first packet, as the heir says.
    view_to_packet_us: f64,
    /// Acknowledged flows that the heir does not have.
    lost: u64,
}

fn takeover(bench: &Bench, flows: &Flows, seats: [Seat; 2]) -> Result<Takeover> {
    let lanes = lanes(bench, flows, System::Ravelin)?;
    // It stays, at its prompt, until the takeover is over: its end would take a cpu meanwhile.
    let mut generator = Generator::start(bench, &lanes)?;
    let mut pair = Pair::start(bench, plan(capacity(flows.count), seats))?;
    let joined = pair.second().status()?.takeover.map(|own| own.epoch);
    fill(bench, flows, &mut pair, &mut generator)?;
    let acknowledged = pair.first().flow_count()?;
    pair.second().wait_flows(bench, acknowledged, FILL_LIMIT)?;
    let frames: Vec<Vec<u8>> = pair
        .first()
        .some_flows(GO_ON)?
        .iter()
        .enumerate()
        .map(|(number, flow)| {
            let (client, server) = ((flow.src, flow.sport), (flow.dst, flow.dport));
            frame(client.into(), server.into(), number as u64)
        })
        .collect();
    if frames.is_empty() {
        return Err(Error::NotReal("the owner has no flow".into()));
    }
    let port = WirePort::open(bench, NODES[1])?;
    let stop = AtomicBool::new(false);
    let killed = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&port, &frames, &stop));
        let killed = kill(bench, &mut pair, &port, joined);
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("it does not panic")?;
        killed
    });
    let (killed_ns, first) = killed?;
    let status = pair.second().status()?;
    let view_to_packet_us = view_to_packet_us(&status)?;
    let has = pair.second().flow_count()?;
    let opened = of(&pair.second().counters()?, "flow_opened");
    if opened > 0 {
        // Packets of flows that were missing, or not the dead node's.
        return Err(Error::NotReal(format!(
            "the heir opened {opened} flows anew, of {GO_ON} that it was sent packets of"
        )));
    }
    // The nodes before the generator.
    drop(pair);
    Ok(Takeover {
        ms: first.at_ns.saturating_sub(killed_ns) as f64 / 1e6,
        view_to_packet_us,
        lost: acknowledged.saturating_sub(has),
    })
}

/// Sends every flow's packet to the first node until the backup has acknowledged all that were opened.
fn fill(bench: &Bench, flows: &Flows, pair: &mut Pair, generator: &mut Generator) -> Result<()> {
    // But for the slots of the second node.
    let all = u64::from(flows.count);
    let enough = all - all / 50;
    generator.play(bench, 0, WhenFull::Retry)?;
    let mut playing = true;
    let result = wait_until(
        "the backup to acknowledge the flows",
        FILL_LIMIT,
        Duration::from_millis(50),
        &bench.interrupt,
        || {
            let report = pair.first().counters().map_err(outer)?;
            let status = pair.first().status().map_err(outer)?;
            let (opened, acked) = (of(&report, "flow_opened"), of(&report, "flows_acked"));
            if playing && opened >= enough && of(&report, "rx_packets") >= all {
                // What was under way is dropped and not opened, or known.
                generator.stop(bench).map_err(outer)?;
                playing = false;
                return Ok(Poll::Pending("the last packets are under way".into()));
            }
            let lag = status.replication.lag_records;
            Ok(if !playing && acked == opened && lag == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(
                    "of {all} flows {opened} were opened and {acked} acknowledged, and {lag} records are under way"
                ))
            })
        },
    );
    result.map_err(not_real)
}

/// Sends the frames in turn until told to stop.
fn send_until(port: &WirePort, frames: &[Vec<u8>], stop: &AtomicBool) -> Result<()> {
    let begin = Instant::now();
    for (sent, frame) in frames.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        port.send(frame)?;
        let due = begin + BETWEEN * (sent as u32 + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Kills the first node; returns when, and the first packet that came out of the second one.
/// `joined` is the epoch at which the heir took its own slots.
fn kill(
    bench: &Bench,
    pair: &mut Pair,
    port: &WirePort,
    joined: Option<u64>,
) -> Result<(u64, Came)> {
    bench.pass(BEFORE)?;
    if let Some(early) = port.receive(Duration::ZERO)? {
        return Err(Error::NotReal(format!(
            "a packet of flow {} left the heir while the owner lived: the heir took it for dead for want of a cpu, or \
             owns the slot",
            early.number
        )));
    }
    let takeover = pair.second().status()?.takeover;
    if let Some(early) = takeover.filter(|takeover| Some(takeover.epoch) != joined) {
        return Err(Error::NotReal(format!(
            "the heir had taken {} slots over before the owner was killed: it did not hear it for `dead_after`",
            early.slots
        )));
    }
    if of(&pair.second().counters()?, "drop_not_owner") == 0 {
        return Err(Error::NotReal(
            "none of the packets that go on has arrived at the heir".into(),
        ));
    }
    let killed_ns = now_ns();
    // Without waiting for its end: what is left of it goes while packets are awaited.
    pair.first().process.signal(Signal::SIGKILL)?;
    let end = Instant::now() + TAKEOVER_LIMIT;
    loop {
        bench.interrupt.check()?;
        if let Some(first) = port.receive(Duration::from_millis(100))? {
            return Ok((killed_ns, first));
        }
        if Instant::now() > end {
            let status = pair.second().status()?;
            return Err(Error::NotReal(format!(
                "no packet came out of the heir, which owns {} slots",
                status.view.owned_slots
            )));
        }
    }
}

fn view_to_packet_us(status: &Status) -> Result<f64> {
    let times = status
        .takeover
        .as_ref()
        .and_then(|takeover| takeover.first_forward_ns?.checked_sub(takeover.at_ns));
    times.map(|ns| ns as f64 / 1e3).ok_or_else(|| {
        Error::NotReal("packets came out of the heir, and it knows of no takeover".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_after_the_view_is_the_difference() {
        let mut status = Status::default();
        assert!(view_to_packet_us(&status).is_err());
        let mut takeover = telemetry::control::Takeover {
            at_ns: 5_000,
            ..Default::default()
        };
        status.takeover = Some(takeover.clone());
        assert!(view_to_packet_us(&status).is_err(), "no packet yet");
        takeover.first_forward_ns = Some(45_000);
        status.takeover = Some(takeover);
        assert_eq!(view_to_packet_us(&status).expect("both are known"), 40.0);
    }
}
