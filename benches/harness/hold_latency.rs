//! `hold-latency`: what the hold adds to the first packet of a new flow.
//!
//! Two daemons; single packets, each the first of a flow, go through the first one by an interface of the kernel.
//! Every other one is of a flow whose rule is `ack`, the rest of flows that are not replicated at all, so that
//! both meet the same machine in the same moment, and what they differ in is what was added. Beside it stands
//! the bare round trip of the same transport between the same two cpus, and the same of a second pair, whose held
//! flows go through a protocol agent that does nothing with them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, Reading, outer};
use crate::measure::share;
use crate::pair::{AGENT, NODES, Pair, Plan, Ports, Seat, drops, of};
use crate::quic::{RoundTrip, example};
use crate::traffic::Flows;
use crate::wire_port::{Came, WirePort, frame};

/// The rate does not load anything: what is measured is the way and no queue.
const BETWEEN: Duration = Duration::from_micros(500);
/// The first packets of a run find everything cold and are not counted.
const WARM: u64 = 200;
/// How long the last packets may take; the hold's deadline is shorter.
const LAST: Duration = Duration::from_millis(500);
/// Of a hundred packets, those that may be of the second node's slots, which the first drops.
const FOREIGN_PERCENT: u64 = 5;
/// The service whose flows are not replicated; that of all other flows is [`Flows::udp`]'s.
const PLAIN_PORT: u16 = 4434;

/// Two nodes that hold the packets of all flows but those of one service; those of the others go through the
/// agent, if there is one.
pub(crate) fn plan(seats: [Seat; 2], agent: Option<PathBuf>) -> Plan {
    Plan {
        capacity: 1_250_000,
        sync: "ack",
        rules: match agent {
            None => PLAIN,
            Some(_) => PLAIN_AND_AGENT,
        },
        agent,
        cluster: "heartbeat = \"100ms\"\ndead_after = \"3s\"\nhold_deadline = \"100ms\"",
        seats,
        ports: [Ports::Wire, Ports::Idle],
    }
}

const PLAIN: &str =
    "[[rule]]\nname = \"plain\"\nservice = [\"udp/4434\"]\nsync = \"none\"\naction = \"allow\"\n";
const PLAIN_AND_AGENT: &str = "[[rule]]\nname = \"plain\"\nservice = [\"udp/4434\"]\nsync = \"none\"\n\
                               action = \"allow\"\n[[rule]]\nname = \"held\"\nservice = [\"udp/4433\"]\n\
                               action = \"allow\"\nagent = \"pass\"\n";

/// Measures the delay, with and without an agent, and the bare round trip.
pub(crate) fn measure(bench: &Bench) -> Result<Outcome> {
    let seats = Seat::apart(&bench.cpus);
    let (mut bare50, mut bare99) = (vec![], vec![]);
    // Before the nodes are there, which take the same cpus.
    for _ in 0..bench.pace.runs {
        let bare = RoundTrip::measure(bench, [seats[0].sync, seats[1].sync])?;
        bare50.push(bare.p50_us);
        bare99.push(bare.p99_us);
    }
    let direct = Added::measure(bench, plan(seats, None))?;
    let agent = example(bench, "agent", AGENT)?;
    let through = Added::measure(bench, plan(seats, Some(agent)))?;
    let reading = |part, of, runs: &[f64]| {
        Ok::<_, Error>(Reading {
            of,
            ..Reading::of_runs(part, "us", runs)?
        })
    };
    let mut notes = vec![format!(
        "the figure is the difference between held and unprotected first packets, which took {} and {} us \
         through the gateway and two veths (medians of the first run)",
        crate::report::short(direct.held_us),
        crate::report::short(direct.plain_us),
    )];
    notes.push(format!(
        "through an agent that hands every packet back as it came these were {} and {} us; {} % of the packets still waited for \
         their acknowledgement after it",
        crate::report::short(through.held_us),
        crate::report::short(through.plain_us),
        through.waited_percent,
    ));
    notes.extend(Seat::note(&seats));
    Ok(Outcome {
        readings: vec![
            reading("-p50", None, &direct.p50)?,
            reading("-p50", Some("through-agent"), &through.p50)?,
            reading("-p50", Some("bare-quic"), &bare50)?,
            reading("-p99", None, &direct.p99)?,
            reading("-p99", Some("through-agent"), &through.p99)?,
            reading("-p99", Some("bare-quic"), &bare99)?,
        ],
        notes,
    })
}

/// What is added on one pair of nodes.
#[derive(Debug, Default)]
struct Added {
    /// By run, in microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// The medians of the first run, before they are subtracted.
    held_us: f64,
    plain_us: f64,
    /// Of the packets of held flows in the last run, those that were held.
    waited_percent: u64,
}

impl Added {
    fn measure(bench: &Bench, plan: Plan) -> Result<Self> {
        let with_agent = plan.agent.is_some();
        let mut pair = Pair::start(bench, plan)?;
        if with_agent {
            wait_for_agent(bench, &mut pair)?;
        }
        let port = WirePort::open(bench, NODES[0])?;
        let (mut added, mut next) = (Self::default(), 0);
        for number in 0..bench.pace.runs {
            let run = run(bench, &mut pair, &port, &mut next, with_agent)?;
            added.p50.push(run.added(0.5)?);
            added.p99.push(run.added(0.99)?);
            if number == 0 {
                added.held_us = share(&run.held_us, 0.5);
                added.plain_us = share(&run.plain_us, 0.5);
            }
            added.waited_percent = run.waited_percent;
        }
        Ok(added)
    }
}

fn wait_for_agent(bench: &Bench, pair: &mut Pair) -> Result<()> {
    Ok(wait_until(
        "the agent to connect",
        Duration::from_secs(10),
        Duration::from_millis(20),
        &bench.interrupt,
        || {
            let counters = pair.first().counters().map_err(outer)?;
            Ok(match of(&counters, "agents_connections") {
                0 => Poll::Pending(String::new()),
                _ => Poll::Ready(()),
            })
        },
    )?)
}

/// The times of one run in microseconds, in order of size.
#[derive(Debug)]
struct Run {
    held_us: Vec<f64>,
    waited_percent: u64,
    plain_us: Vec<f64>,
}

impl Run {
    fn added(&self, of: f64) -> Result<f64> {
        let added = share(&self.held_us, of) - share(&self.plain_us, of);
        if added <= 0.0 {
            return Err(Error::NotReal(format!(
                "held packets came {} us before the others: something else disturbs both more than the hold",
                -added
            )));
        }
        Ok(added)
    }
}

fn run(
    bench: &Bench,
    pair: &mut Pair,
    port: &WirePort,
    next: &mut u64,
    with_agent: bool,
) -> Result<Run> {
    let before = pair.first().counters()?;
    let (begin, first) = (Instant::now(), *next);
    let mut sent = HashMap::new();
    let mut came: Vec<Came> = vec![];
    let warm = BETWEEN * WARM as u32;
    while begin.elapsed() < warm + bench.pace.window {
        bench.interrupt.check()?;
        sent.insert(*next, port.send(&packet(*next))?);
        *next += 1;
        let due = begin + BETWEEN * (*next - first) as u32;
        // Reading is cheap but not free: once per packet is enough.
        while let Some(one) = port.receive(Duration::ZERO)? {
            came.push(one);
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    while let Some(one) = port.receive(LAST)? {
        came.push(one);
    }
    let after = pair.first().counters()?;
    let moved = |name: &str| of(&after, name) - of(&before, name);
    let dropped = drops(&after) - drops(&before);
    if dropped > 0 {
        return Err(Error::NotReal(format!(
            "the gateway dropped {dropped} of {} packets, {} of them at the hold's deadline",
            sent.len(),
            moved("drop_hold_deadline")
        )));
    }
    let (sent_count, came_count) = (sent.len() as u64, came.len() as u64);
    if came_count + moved("drop_not_owner") < sent_count
        || came_count * 100 < sent_count * (100 - FOREIGN_PERCENT)
    {
        return Err(Error::NotReal(format!(
            "{sent_count} packets were sent and {came_count} came out, and the gateway says that {} were of the \
             other node's slots",
            moved("drop_not_owner")
        )));
    }
    // Two packets may have been held at once, but none can have come without.
    let held = came.iter().filter(|one| is_held(one.number)).count() as u64;
    // One that comes back from an agent may have nothing left to wait for.
    let (what, passed) = match with_agent {
        true => ("handed back by the agent", moved("agents_delivered")),
        false => ("held", moved("hold_released")),
    };
    if passed != held {
        return Err(Error::NotReal(format!(
            "{held} packets of `ack` flows came out and {passed} were {what}"
        )));
    }
    let waited_percent = moved("hold_released") * 100 / held.max(1);
    let (mut held_us, mut plain_us) = (vec![], vec![]);
    for one in came.iter().filter(|one| one.number >= first + WARM) {
        let Some(at) = sent.remove(&one.number) else {
            return Err(Error::NotReal(format!("packet {} came twice", one.number)));
        };
        let took = one.at_ns.saturating_sub(at) as f64 / 1e3;
        if is_held(one.number) {
            held_us.push(took);
        } else {
            plain_us.push(took);
        }
    }
    for times in [&mut held_us, &mut plain_us] {
        times.sort_by(f64::total_cmp);
        if times.len() < 50 {
            return Err(Error::NotReal(format!(
                "{} packets are too few for a share of one in a hundred; ask for a longer --window-ms",
                times.len()
            )));
        }
    }
    Ok(Run {
        held_us,
        waited_percent,
        plain_us,
    })
}

fn is_held(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// The first packet of flow `number`.
fn packet(number: u64) -> Vec<u8> {
    let (client, mut server) = Flows::udp(crate::cases::MILLION).ends(number as u32);
    if !is_held(number) {
        server.set_port(PLAIN_PORT);
    }
    frame(client, server, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_the_difference() {
        let run = Run {
            waited_percent: 100,
            held_us: (1..=100).map(|n| f64::from(n) + 20.0).collect(),
            plain_us: (1..=100).map(f64::from).collect(),
        };
        assert_eq!(run.added(0.5).expect("more"), 20.0);
        let run = Run {
            waited_percent: 100,
            held_us: vec![1.0],
            plain_us: vec![2.0],
        };
        assert!(run.added(0.5).is_err());
    }

    #[test]
    fn every_other_packet_is_of_the_plain_service() {
        let seats = Seat::apart(&crate::machine::Cpus {
            worker: 1,
            others: 0,
            online: vec![0, 1],
        });
        for agent in [None, Some("/x/pass".into())] {
            let rules = plan(seats, agent).rules;
            assert!(rules.contains(&format!("udp/{PLAIN_PORT}")));
        }
        let port = |number| {
            let bytes = packet(number);
            u16::from_be_bytes([bytes[36], bytes[37]])
        };
        assert_eq!((port(0), port(1)), (4433, PLAIN_PORT));
    }
}
