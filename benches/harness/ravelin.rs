//! Our own daemon as the gateway under test: one node alone, one worker that spins.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Process, Spawn};
use telemetry::control::{Client, Request, Status};
use telemetry::counters::{CounterQuery, CounterReport};

use crate::bench::Bench;
use crate::error::Result;
use crate::gateway::{BACK, Gateway, INSIDE, Shape, memory_bytes};
use crate::generator::{Buffers, SHARED_BUFFERS, gateway_device};
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
        let place = Place {
            name: "bench",
            cores: cores(bench, shape),
            huge_pages: bench.pages.huge(),
            prefix: bench.name("sut"),
            control: socket,
            inside: Inside::Memif(bench.path(INSIDE)),
            outside: Outside::Sink,
            back: bench.path(BACK),
            more: String::new(),
        };
        let text = config(shape, &place);
        fs::write(&file, text).map_err(LabError::file("write", &file))?;
        let log = bench.log("ravelind")?;
        let spawn = spawn(bench, "ravelind", &file)?;
        let mut process = spawn.start(&bench.state, &log)?;
        let client = connect(bench, &mut process, &place.control)?;
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

/// The workers, each on a cpu of its own where there are enough. What shares one must not spin.
fn cores(bench: &Bench, shape: Shape) -> String {
    let cpus = bench.cpus.workers(shape.workers);
    let workers: Vec<String> = cpus
        .iter()
        .map(|cpu| format!("{{ cpu = {cpu} }}"))
        .collect();
    let (shared, idle) = match shape.workers > bench.cpus.most_workers() {
        true => (true, "sleep"),
        false => (false, "spin"),
    };
    format!(
        "worker = [{}]\nshared = {shared}\nidle = \"{idle}\"",
        workers.join(", ")
    )
}

/// How to start a daemon with this configuration.
pub(crate) fn spawn(bench: &Bench, name: &str, file: &Path) -> Result<Spawn> {
    // It pins its threads itself, and must be allowed to: we are on one cpu ourselves.
    let ravelind = bench.binaries.ravelind()?;
    Ok(Spawn::new(name, "taskset")
        .args(["--cpu-list", &bench.cpus.all()])
        .args([ravelind.as_path(), Path::new("--config"), file]))
}

/// Waits until a daemon answers.
pub(crate) fn connect(bench: &Bench, process: &mut Process, socket: &Path) -> Result<Client> {
    let mut client = wait_until(
        "ravelind to answer",
        Duration::from_secs(60),
        Duration::from_millis(50),
        &bench.interrupt,
        || {
            process.must_run()?;
            Ok(match Client::connect(socket) {
                Ok(client) => Poll::Ready(client),
                Err(error) => Poll::Pending(format!(": {error}")),
            })
        },
    )?;
    // It answers before its ports are up; asking for its status waits for that.
    if let Err(error) = client.ask::<Status>(&Request::Status) {
        // One that ends says why, after it has closed its socket.
        process.wait_timeout(Duration::from_secs(5))?;
        process.must_run()?;
        return Err(error.into());
    }
    Ok(client)
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

    fn memory_bytes(&mut self) -> Result<u64> {
        memory_bytes(self.process.pid())
    }
}

/// What the files of different nodes differ in.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) name: &'a str,
    /// The lines of `[cores]`.
    pub(crate) cores: String,
    pub(crate) huge_pages: bool,
    /// What DPDK's files are called.
    pub(crate) prefix: String,
    /// The control socket.
    pub(crate) control: PathBuf,
    pub(crate) inside: Inside,
    pub(crate) outside: Outside,
    /// The memif socket of the answers, where a shape wants them.
    pub(crate) back: PathBuf,
    /// More sections: those of a cluster's nodes, rules before the last one.
    pub(crate) more: String,
}

/// Where clients' packets come from.
#[derive(Debug)]
pub(crate) enum Inside {
    /// This memif socket.
    Memif(PathBuf),
    /// An interface of the kernel.
    Kernel(&'static str),
    /// There are none.
    Nothing,
}

/// Where they go.
#[derive(Debug)]
pub(crate) enum Outside {
    /// Into a device that takes everything, at once, and counts it.
    Sink,
    /// Through an interface of the kernel.
    Kernel(&'static str),
}

/// The configuration: everything that is not said is the default.
pub(crate) fn config(shape: Shape, place: &Place<'_>) -> String {
    let mut text = format!(
        "[node]\n\
         name = \"{}\"\n\
         [eal]\n\
         hugepages = {}\n\
         memory_mb = {}\n\
         extra = [{}]\n\
         file_prefix = \"{}\"\n\
         [cores]\n\
         {}\n\
         [control]\n\
         socket = \"{}\"\n\
         [flows]\n\
         capacity = {}\n\
         {}",
        place.name,
        place.huge_pages,
        MEMORY_MB * shape.workers as u64,
        if place.huge_pages {
            format!("\"{SHARED_BUFFERS}\"")
        } else {
            String::new()
        },
        place.prefix,
        place.cores,
        place.control.display(),
        shape.capacity,
        place.more,
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
    let from_clients = match &place.inside {
        Inside::Memif(socket) => {
            gateway_device(0, socket, GATEWAY[0], Buffers::best(place.huge_pages))
        }
        Inside::Kernel(device) => format!("net_af_packet0,iface={device}"),
        Inside::Nothing => "net_null1,no-rx=1".into(),
    };
    interface(
        "inside",
        &from_clients,
        "inside",
        "10.1.0.1/24",
        "fd00:1::1/64",
    );
    let to_servers = match &place.outside {
        Outside::Sink => "net_null0,no-rx=1".into(),
        Outside::Kernel(device) => format!("net_af_packet1,iface={device}"),
    };
    interface(
        "outside",
        &to_servers,
        "outside",
        "10.2.0.1/24",
        "fd00:2::1/64",
    );
    if shape.answers {
        let from_servers = gateway_device(1, &place.back, GATEWAY[2], Buffers::Copied);
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
                workers: 1,
            };
            let place = Place {
                name: "bench",
                cores: "worker = [1]".into(),
                huge_pages: false,
                prefix: "p".into(),
                control: "/run/x/c.sock".into(),
                inside: Inside::Memif("/run/x/i.sock".into()),
                outside: Outside::Sink,
                back: "/run/x/b.sock".into(),
                more: String::new(),
            };
            let text = config(shape, &place);
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
