//! `newflows-async`, `newflows-ack` and `wire-bytes`: a million new flows of one node, replicated to another.
//!
//! The first node's worker has the cpu that is measured. The generator, both sync cores and all of the backup
//! share the other cpu, so that one limits more often than not: a note says what the worker did.

use std::time::{Duration, Instant};

use lab::Namespace;
use lab::program::ip;
use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, capacity, lanes, outer};
use crate::gateway::System;
use crate::generator::{Generator, WhenFull};
use crate::measure::{Figure, slope};
use crate::nftables::link_count;
use crate::pair::{LINK, NODES, Node, Pair, Plan, Ports, Seat, drops, not_real, of};
use crate::report::short;
use crate::traffic::Flows;

const FILL_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What one fill of the table showed.
#[derive(Debug, Clone, Copy)]
struct Filled {
    /// Flows per second whose copies the backup has acknowledged.
    acknowledged: f64,
    /// Flows per second that the first node has opened.
    opened: f64,
    /// Bytes on the link from the first node, Ethernet headers included, per flow.
    bytes: f64,
    /// Packets dropped, but for those of the second node's slots.
    dropped: u64,
}

/// Measures how many new flows per second reach the backup; `held` packets wait for it.
pub(crate) fn newflows(bench: &Bench, flows: &Flows, held: bool) -> Result<Outcome> {
    let runs = fills(bench, flows, held)?;
    let rates: Vec<f64> = runs.iter().map(|run| run.acknowledged).collect();
    let mut notes = vec![];
    let opened: Vec<f64> = runs.iter().map(|run| run.opened).collect();
    if let Some(opened) = Figure::of(&opened) {
        notes.push(format!(
            "the figure counts flows that the backup has acknowledged; the worker opened {} per second meanwhile",
            short(opened.median)
        ));
    }
    let dropped: u64 = runs.iter().map(|run| run.dropped).sum();
    if dropped > 0 {
        notes.push(format!(
            "of all runs {dropped} packets were dropped, for want of room in the hold or in the ring to the sync core"
        ));
    }
    Outcome::of_runs("flows/s", &rates, notes)
}

/// Measures the bytes that the first node sends to the second, per flow, when nobody waits for any.
pub(crate) fn wire_bytes(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let runs = fills(bench, flows, false)?;
    let bytes: Vec<f64> = runs.iter().map(|run| run.bytes).collect();
    Outcome::of_runs("bytes/flow", &bytes, vec![])
}

fn fills(bench: &Bench, flows: &Flows, held: bool) -> Result<Vec<Filled>> {
    let sync = if held { "ack" } else { "async" };
    let lanes = lanes(bench, flows, System::Ravelin)?;
    let run = |_| {
        let seats = Seat::worker_alone(&bench.cpus);
        let mut generator = Generator::start(bench, &lanes)?;
        let pair = Pair::start(bench, plan(capacity(flows.count), sync, seats))?;
        fill(bench, flows, held, pair, &mut generator)
    };
    (0..bench.pace.runs).map(run).collect()
}

/// Two nodes for these cases. Detection is slow, for the second node has no cpu to itself; the hold's
/// deadline is long, so that what is measured is the wait and not the giving up.
pub(crate) fn plan(capacity: u32, sync: &'static str, seats: [Seat; 2]) -> Plan {
    Plan {
        capacity,
        sync,
        rules: "",
        cluster: "heartbeat = \"100ms\"\ndead_after = \"3s\"\nhold_deadline = \"1s\"",
        agent: None,
        seats,
        ports: [Ports::Memif, Ports::Idle],
    }
}

/// Sends the first packet of every flow, until the backup has acknowledged nearly all of them: the few
/// slots of the second node's are dropped by the first.
fn fill(
    bench: &Bench,
    flows: &Flows,
    held: bool,
    mut pair: Pair,
    generator: &mut Generator,
) -> Result<Filled> {
    let node = bench.namespace(NODES[0]);
    let (begin, before) = (sent_bytes(&node, LINK)?, pair.first().counters()?);
    let all = u64::from(flows.count);
    let enough = all - all / 50;
    let (mut acknowledged, mut opened) = (vec![], vec![]);
    generator.play(bench, 0, WhenFull::Retry)?;
    wait_until(
        "the backup to acknowledge the flows",
        FILL_LIMIT,
        LOOK_EVERY,
        &bench.interrupt,
        || {
            let begin = Instant::now();
            let report = pair.first().counters().map_err(outer)?;
            let at = begin + begin.elapsed() / 2;
            let has = of(&report, "flows_acked");
            acknowledged.push((at, has));
            opened.push((at, of(&report, "flow_opened")));
            Ok(if has >= enough {
                Poll::Ready(())
            } else {
                Poll::Pending(format!(": {has} of {all} are"))
            })
        },
    )?;
    generator.stop(bench)?;
    let (bytes, after) = (sent_bytes(&node, LINK)? - begin, pair.first().counters()?);
    let moved = |name: &str| of(&after, name) - of(&before, name);
    if held && moved("hold_released") == 0 {
        return Err(Error::NotReal("no packet was held".into()));
    }
    if !held && moved("held") > 0 {
        return Err(Error::NotReal(
            "packets were held that should not be".into(),
        ));
    }
    has_received(bench, pair.second(), moved("flows_acked"))?;
    let rate = |looks: &[(Instant, u64)]| {
        slope(looks, all / 20, enough - all / 20).ok_or_else(|| {
            Error::NotReal(format!("{} looks at the table are too few", looks.len()))
        })
    };
    Ok(Filled {
        acknowledged: rate(&acknowledged)?,
        opened: rate(&opened)?,
        bytes: bytes as f64 / moved("flows_acked") as f64,
        dropped: drops(&after) - drops(&before),
    })
}

/// The second node has received as many records as the first takes for acknowledged.
fn has_received(bench: &Bench, backup: &mut Node, acknowledged: u64) -> Result<()> {
    // It says so now and then, on a cpu that it shares.
    let (limit, every) = (Duration::from_secs(10), Duration::from_millis(100));
    let result = wait_until("the copies", limit, every, &bench.interrupt, || {
        let received = backup.status().map_err(outer)?.replication.records_received;
        Ok(if received >= acknowledged {
            Poll::Ready(())
        } else {
            Poll::Pending(format!(
                "{acknowledged} flows are taken for acknowledged, and the backup has received {received}"
            ))
        })
    });
    result.map_err(not_real)
}

/// Bytes that have left a namespace by the link.
pub(crate) fn sent_bytes(namespace: &Namespace, link: &str) -> Result<u64> {
    let name = namespace.name();
    let said = ip(&["-n", name, "-statistics", "-json", "link", "show", link])?;
    link_count(&said, "tx", "bytes").ok_or(Error::Unreadable {
        from: "ip",
        said,
        wanted: "bytes sent",
    })
}
