//! `ceiling-*`: what generator, memif and sink would give a gateway that does nothing. testpmd stands where the gateway
//! does, on the same cpu and with the same devices, and hands packets on without looking at them.

use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::forward::{Outcome, Reading, lanes, outer};
use crate::gateway::{INSIDE, System};
use crate::generator::{Buffers, Generator, SHARED_BUFFERS, WhenFull, gateway_device};
use crate::measure::{Counts, Window};
use crate::prompt::{Prompt, number};
use crate::traffic::{Flows, GATEWAY};

/// What it is called in the report.
const NAME: &str = "testpmd-io";
/// Megabytes for its packet buffers.
const MEMORY_MB: u64 = 256;
const LIMIT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(500);

/// Packets per second of frames of these flows.
pub(crate) fn measure(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    // The frames come by the way that they come to us by.
    let lanes = lanes(bench, flows, System::Ravelin)?;
    let mut generator = Generator::start(bench, &lanes)?;
    let mut relay = Relay::start(bench)?;
    generator.play(bench, lanes.len() - 1, WhenFull::Drop)?;
    relay.wait_for_packets(bench)?;
    bench.pass(SETTLE)?;
    let mut rates = vec![];
    for _ in 0..bench.pace.runs {
        let from = relay.counts(bench)?;
        bench.pass(bench.pace.window)?;
        let window = Window::between(from, relay.counts(bench)?);
        // One port is looked at after the other, some hundredths of a second later.
        if let Some(wrong) = window.wrong(window.received / 10 + 1000) {
            return Err(Error::NotReal(wrong));
        }
        rates.push(window.rate());
    }
    generator.must_run()?;
    let offered = generator.stop(bench)?;
    let slower = match offered.dropped * 100 < offered.sent {
        true => "the generator is what limits",
        false => "what receives is what limits, and the generator offers more",
    };
    let reading = Reading::of_runs("", "packets/s", &rates)?;
    Ok(Outcome {
        readings: vec![Reading {
            of: Some(NAME),
            ..reading
        }],
        notes: vec![format!(
            "no gateway could be quicker here than this, which looks at no packet; {slower}"
        )],
    })
}

/// testpmd in the gateway's place.
struct Relay {
    prompt: Prompt,
}

impl Relay {
    fn start(bench: &Bench) -> Result<Self> {
        let (worker, others) = (bench.cpus.worker, bench.cpus.others);
        let best = Buffers::best(bench.pages.huge());
        let mut args = vec![
            "--no-pci".to_owned(),
            "--no-telemetry".into(),
            SHARED_BUFFERS.into(),
            format!("--lcores=0@{others},1@{worker}"),
            "--file-prefix".into(),
            bench.name("relay"),
            "-m".into(),
            MEMORY_MB.to_string(),
            "--vdev".into(),
            gateway_device(0, &bench.path(INSIDE), GATEWAY[0], best),
            "--vdev".into(),
            "net_null0,no-rx=1".into(),
        ];
        args.extend(bench.pages.eal_arguments().iter().map(|a| (*a).to_owned()));
        args.extend(
            [
                "--",
                "--interactive",
                "--forward-mode=io",
                "--burst=64",
                "--nb-cores=1",
                "--rxq=1",
                "--txq=1",
                "--rxd=2048",
                "--txd=2048",
                "--total-num-mbufs=16384",
                "--no-flush-rx",
                "--no-lsc-interrupt",
                "--disable-link-check",
            ]
            .map(str::to_owned),
        );
        let mut prompt = Prompt::start(bench, "relay", &args, None, LIMIT)?;
        let begin = prompt.said()?;
        prompt.order("start\n")?;
        prompt.wait_for(bench, begin, "packets/burst", LIMIT)?;
        Ok(Self { prompt })
    }

    fn wait_for_packets(&mut self, bench: &Bench) -> Result<()> {
        let every = Duration::from_millis(50);
        Ok(wait_until(
            "packets to arrive",
            LIMIT,
            every,
            &bench.interrupt,
            || {
                let counts = self.counts(bench).map_err(outer)?;
                Ok(if counts.forwarded > 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!(": {} did", counts.received))
                })
            },
        )?)
    }

    fn counts(&mut self, bench: &Bench) -> Result<Counts> {
        let mut show = |port: u16, label: &str| {
            let begin = self.prompt.said()?;
            let asked = Instant::now();
            self.prompt.order(&format!("show port stats {port}\n"))?;
            let said = self.prompt.wait_for(bench, begin, "Throughput", LIMIT)?;
            let at = asked + asked.elapsed() / 2;
            let Some(count) = number(&said, label) else {
                return Err(Error::Unreadable {
                    from: "testpmd",
                    said,
                    wanted: "statistics of a port",
                });
            };
            Ok((at, count))
        };
        let (_, received) = show(0, "RX-packets:")?;
        let (at, forwarded) = show(1, "TX-packets:")?;
        Ok(Counts {
            at,
            received,
            forwarded,
            dropped: 0,
        })
    }
}
