//! Our own daemon as the gateway under test: one node alone, one worker that spins.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Process, Spawn};
use telemetry::control::{Client, Request, Status};
use telemetry::counters::{CounterQuery, CounterReport};

use crate::bench::Bench;
use crate::error::Result;
use crate::gateway::{BACK, Gateway, INSIDE, Shape};
use crate::generator::{RING_BUFFER, RING_LOG2};
use crate::measure::Counts;
use crate::traffic::{GATEWAY, ROUTER_INSIDE, ROUTER_OUTSIDE};

/// Megabytes of huge pages that the daemon wants: its packet buffers fit.
pub(crate) const MEMORY_MB: u64 = 256;

/// A running `ravelind`.
#[derive(Debug)]
pub(crate) struct Ravelin {
    process: Process,
    client: Client,
}

impl Ravelin {
    pub(crate) fn start(bench: &Bench, shape: Shape) -> Result<Self> {
        let file = bench.path("ravelin.toml");
        let socket = bench.path("ravelind.sock");
        let text = config(
            shape,
            bench.cpus.worker,
            bench.pages.huge(),
            &bench.name("sut"),
            &socket.display().to_string(),
            [INSIDE, BACK].map(|name| bench.path(name)),
        );
        fs::write(&file, text).map_err(LabError::file("write", &file))?;
        let log = bench.log("ravelind")?;
        // It pins its threads itself, and must be allowed to: we are on one cpu ourselves.
        let ravelind = bench.binaries.ravelind()?;
        let mut process = Spawn::new("ravelind", "taskset")
            .args(["--cpu-list", &bench.cpus.all])
            .args([ravelind.as_path(), std::path::Path::new("--config"), &file])
            .start(&bench.state, &log)?;
        let mut client = wait_until(
            "ravelind to answer",
            Duration::from_secs(60),
            Duration::from_millis(50),
            &bench.interrupt,
            || {
                process.must_run()?;
                Ok(match Client::connect(&socket) {
                    Ok(client) => Poll::Ready(client),
                    Err(error) => Poll::Pending(format!(": {error}")),
                })
            },
        )?;
        // It answers before its ports are up; asking for its status waits for that.
        client.ask::<Status>(&Request::Status)?;
        Ok(Self { process, client })
    }

    fn status(&mut self) -> Result<Status> {
        self.process.must_run()?;
        Ok(self.client.ask(&Request::Status)?)
    }

    fn counters(&mut self) -> Result<CounterReport> {
        self.process.must_run()?;
        Ok(self.client.counters(CounterQuery::default())?)
    }

    fn in_state(&mut self, state: &str) -> Result<u64> {
        let filter = telemetry::control::FlowFilter {
            state: Some(state.into()),
            ..Default::default()
        };
        Ok(self.client.flow_count(filter)?.count)
    }
}

impl Gateway for Ravelin {
    fn flows(&mut self) -> Result<u64> {
        Ok(self.status()?.flows.live)
    }

    fn opened(&mut self) -> Result<u64> {
        // The number of living flows is counted anew by each sweep over the table only.
        let report = self.counters()?;
        Ok(report.sum.get("flow_opened").copied().unwrap_or(0))
    }

    fn established(&mut self) -> Result<u64> {
        self.in_state("established")
    }

    fn answered(&mut self) -> Result<u64> {
        Ok(self.in_state("syn_received")? + self.in_state("established")?)
    }

    fn counts(&mut self) -> Result<Counts> {
        let begin = Instant::now();
        let report = self.counters()?;
        let at = begin + begin.elapsed() / 2;
        let of = |name: &str| report.sum.get(name).copied().unwrap_or(0);
        Ok(Counts {
            at,
            received: of("rx_packets"),
            forwarded: of("forwarded"),
            dropped: report
                .sum
                .iter()
                .filter(|(name, _)| name.starts_with("drop_"))
                .map(|(_, value)| value)
                .sum(),
        })
    }

    fn sunk(&mut self) -> Result<(u64, u64)> {
        let report = self.counters()?;
        let of = |name: &str| report.sum.get(name).copied().unwrap_or(0);
        let said = of("forwarded") - of("drop_tx_full");
        let ports = self.status()?.interfaces;
        Ok((ports.iter().map(|port| port.tx_packets).sum(), said))
    }

    fn pid(&self) -> i32 {
        self.process.pid()
    }
}

/// The configuration: everything that is not said is the default.
fn config(
    shape: Shape,
    cpu: usize,
    huge: bool,
    prefix: &str,
    control: &str,
    [inside, back]: [PathBuf; 2],
) -> String {
    let memif = |number: usize, socket: &PathBuf, mac: wire::Mac| {
        format!(
            "net_memif{number},role=server,socket={},socket-abstract=no,rsize={RING_LOG2},bsize={RING_BUFFER},mac={mac}",
            socket.display()
        )
    };
    let mut text = format!(
        "[node]\n\
         name = \"bench\"\n\
         [eal]\n\
         hugepages = {huge}\n\
         memory_mb = {MEMORY_MB}\n\
         file_prefix = \"{prefix}\"\n\
         [cores]\n\
         worker = [{{ cpu = {cpu} }}]\n\
         idle = \"spin\"\n\
         [control]\n\
         socket = \"{control}\"\n\
         [flows]\n\
         capacity = {}\n",
        shape.capacity
    );
    let mut interface = |name: &str, device: &str, zone: &str, v4: &str, v6: &str| {
        let _ = write!(
            text,
            "[[interface]]\n\
             name = \"{name}\"\n\
             device = \"{device}\"\n\
             zone = \"{zone}\"\n\
             addresses = [\"{v4}\", \"{v6}\"]\n"
        );
    };
    let from_clients = memif(0, &inside, GATEWAY[0]);
    interface(
        "inside",
        &from_clients,
        "inside",
        "10.1.0.1/24",
        "fd00:1::1/64",
    );
    // Takes everything, at once, and counts it.
    let sink = "net_null0,no-rx=1";
    interface("outside", sink, "outside", "10.2.0.1/24", "fd00:2::1/64");
    if shape.answers {
        let from_servers = memif(1, &back, GATEWAY[2]);
        interface(
            "back",
            &from_servers,
            "outside",
            "10.3.0.1/24",
            "fd00:3::1/64",
        );
    }
    for (name, clients, servers) in [
        ("10.{}.0.254", "10.8.0.0/13", "198.18.0.0/15"),
        ("fd00:{}::fe", "fd00:8::/32", "fd00:18::/32"),
    ] {
        for (interface, number, to, mac) in [
            ("inside", "1", clients, ROUTER_INSIDE),
            ("outside", "2", servers, ROUTER_OUTSIDE),
        ] {
            let router = name.replace("{}", number);
            let _ = write!(
                text,
                "[[route]]\n\
                 to = \"{to}\"\n\
                 via = \"{router}\"\n\
                 [[neighbour]]\n\
                 interface = \"{interface}\"\n\
                 address = \"{router}\"\n\
                 mac = \"{mac}\"\n"
            );
        }
    }
    text + "[[rule]]\n\
            name = \"out\"\n\
            from = [\"inside\"]\n\
            to = [\"outside\"]\n\
            action = \"allow\"\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Family, Flows, Proto, Sizes};

    #[test]
    fn the_daemon_takes_the_configuration_and_routes_every_flow() {
        for answers in [false, true] {
            let shape = Shape {
                capacity: 1_250_000,
                answers,
            };
            let sockets = ["/run/x/i.sock", "/run/x/b.sock"].map(PathBuf::from);
            let text = config(shape, 1, false, "p", "/run/x/c.sock", sockets);
            let config = ::config::Config::parse(&text, "bench.toml", "")
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(config.warnings, []);
            assert_eq!(config.interfaces.len(), if answers { 3 } else { 2 });
            for route in &config.routes {
                let given = |n: &&::config::Neighbour| n.address == route.via;
                let neighbour = config.neighbours.iter().find(given).expect("is given");
                assert_eq!(neighbour.interface, route.interface);
            }
            for family in [Family::V4, Family::V6] {
                let flows = Flows {
                    count: 10_000_000,
                    family,
                    proto: Proto::Udp,
                    sizes: Sizes::Smallest,
                };
                for n in [0, 59_999, 9_999_999] {
                    let (client, server) = flows.ends(n);
                    for (end, interface) in [(client, 0), (server, 1)] {
                        let route = config.routes.iter().find(|r| r.to.contains(&end.ip()));
                        assert_eq!(route.map(|r| r.interface), Some(interface), "{end}");
                    }
                }
            }
        }
    }
}
