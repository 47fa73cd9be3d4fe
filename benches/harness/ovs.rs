//! Open vSwitch with DPDK and its userspace connection tracking. Its configuration is in `benches/peers/ovs`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::program::run;
use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Namespace, Process, Spawn};

use crate::bench::Bench;
use crate::error::{Error, Result, missing};
use crate::gateway::{BACK, Gateway, INSIDE, Shape, memory_bytes};
use crate::generator::{Buffers, SHARED_BUFFERS, gateway_device};
use crate::measure::Counts;
use crate::traffic::GATEWAY;

/// Megabytes of huge pages that it wants, as in `other_config.txt`, and some for itself.
pub(crate) const MEMORY_MB: u64 = 1024 + 64;

/// Debian's build with DPDK; the one on the path may be the one without.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const RULES: &str = include_str!("../peers/ovs/flows.txt");
const OTHER_CONFIG: &str = include_str!("../peers/ovs/other_config.txt");
const BRIDGE: &str = "gate0";
const START_LIMIT: Duration = Duration::from_secs(60);

/// Running daemons.
#[derive(Debug)]
pub(crate) struct Ovs {
    // The switch before its database: fields are dropped in this order.
    switch: Process,
    database: Process,
    dir: PathBuf,
    answers: bool,
    namespace: Namespace,
}

impl Ovs {
    pub(crate) fn start(bench: &Bench, shape: Shape) -> Result<Self> {
        let dir = bench.path("ovs");
        // Nothing of an earlier start.
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LabError::file("remove", &dir)(error).into());
            }
            _ => {}
        }
        fs::create_dir_all(&dir).map_err(LabError::file("make", &dir))?;
        // Of its own: its bridge makes an interface.
        let namespace = bench.namespace("sw");
        if !namespace.exists() {
            namespace.create()?;
        }
        let path = |name: &str| dir.join(name).display().to_string();
        let (file, socket) = (path("conf.db"), format!("unix:{}", path("db.sock")));
        run(None, "ovsdb-tool", &["create", &file, SCHEMA], "")
            .map_err(missing("openvswitch-switch-dpdk"))?;
        let environment = |spawn: Spawn| {
            ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"]
                .iter()
                .fold(spawn, |spawn, name| spawn.env(name, &path("")))
        };
        let database = environment(Spawn::new("ovsdb-server", "ovsdb-server"))
            .args([&format!("--remote=p{socket}"), &file])
            .start(&bench.state, &bench.log("ovsdb-server")?)?;
        let mut this = Self {
            switch: environment(Spawn::new("ovs-vswitchd", SWITCH))
                .args([&socket, &format!("--unixctl={}", path("switch.ctl"))])
                .inside(&namespace)
                .start(&bench.state, &bench.log("ovs-vswitchd")?)?,
            database,
            dir,
            answers: shape.answers,
            namespace,
        };
        this.configure(bench, shape)?;
        Ok(this)
    }

    fn configure(&mut self, bench: &Bench, shape: Shape) -> Result<()> {
        let database = self.dir.join("db.sock");
        wait_until(
            "ovsdb-server to listen",
            START_LIMIT,
            Duration::from_millis(20),
            &bench.interrupt,
            || {
                self.database.must_run()?;
                Ok(if database.exists() {
                    Poll::Ready(())
                } else {
                    Poll::Pending(String::new())
                })
            },
        )?;
        self.vsctl(&["--no-wait", "init"])?;
        let settings = settings(bench);
        let mut set = vec!["--no-wait", "set", "Open_vSwitch", "."];
        set.extend(settings.iter().map(String::as_str));
        self.vsctl(&set)?;
        let kind = format!("Bridge {BRIDGE} datapath_type=netdev fail_mode=secure");
        let mut bridge = vec!["add-br", BRIDGE, "--", "set"];
        bridge.extend(kind.split(' '));
        self.vsctl(&bridge)?;
        let best = Buffers::best(bench.pages.huge());
        let inside = gateway_device(0, &bench.path(INSIDE), GATEWAY[0], best);
        self.add_port("inside", 1, &inside)?;
        self.add_port("sink", 2, "net_null0,no-rx=1")?;
        if shape.answers {
            let back = gateway_device(1, &bench.path(BACK), GATEWAY[2], Buffers::Copied);
            self.add_port("back", 3, &back)?;
        }
        // Through the database the switch would do it some time.
        let most = shape.capacity.to_string();
        self.appctl(&["dpctl/ct-set-maxconns", &most])?;
        let bridge = self.bridge();
        run(None, "ovs-ofctl", &["add-flows", &bridge, "-"], RULES)?;
        Ok(())
    }

    fn add_port(&mut self, name: &str, number: u8, device: &str) -> Result<()> {
        // vsctl takes an equals sign and a comma in a value only within quotes.
        let device = format!("options:dpdk-devargs=\"{device}\"");
        let number = format!("ofport_request={number}");
        self.vsctl(&[
            "add-port",
            BRIDGE,
            name,
            "--",
            "set",
            "Interface",
            name,
            "type=dpdk",
            &device,
            "options:n_rxq_desc=2048",
            "options:n_txq_desc=2048",
            &number,
        ])?;
        let error = self.vsctl(&["get", "Interface", name, "error"])?;
        if error.trim() != "[]" {
            return Err(Error::Machine(format!(
                "ovs-vswitchd cannot use {device}: {error}; see its log"
            )));
        }
        Ok(())
    }

    fn vsctl(&mut self, args: &[&str]) -> Result<String> {
        self.switch.must_run()?;
        let database = format!("--db=unix:{}", self.dir.join("db.sock").display());
        let all = [&[database.as_str(), "--timeout=60"], args].concat();
        Ok(run(None, "ovs-vsctl", &all, "")?)
    }

    fn appctl(&mut self, args: &[&str]) -> Result<String> {
        self.switch.must_run()?;
        let target = format!("--target={}", self.dir.join("switch.ctl").display());
        let all = [&[target.as_str(), "--timeout=60"], args].concat();
        Ok(run(None, "ovs-appctl", &all, "")?)
    }

    /// How `ovs-ofctl` is told the bridge, wherever its folder is.
    fn bridge(&self) -> String {
        format!("unix:{}", self.dir.join(format!("{BRIDGE}.mgmt")).display())
    }

    /// By port number: its counters.
    fn ports(&mut self) -> Result<Vec<(u32, PortCounts)>> {
        self.switch.must_run()?;
        let said = run(None, "ovs-ofctl", &["dump-ports", &self.bridge()], "")?;
        Ok(port_counts(&said))
    }

    /// How many TCP connections are in one of these states.
    fn in_states(&mut self, states: &[&str]) -> Result<u64> {
        let said = self.appctl(&["dpctl/ct-stats-show", "verbose"])?;
        Ok(states.iter().map(|state| count_in(&said, state)).sum())
    }
}

impl Gateway for Ovs {
    fn flows(&mut self) -> Result<u64> {
        let said = self.appctl(&["dpctl/ct-get-nconns"])?;
        said.trim().parse().map_err(|_| Error::Unreadable {
            from: "ovs-appctl",
            said,
            wanted: "number of connections",
        })
    }

    fn opened(&mut self) -> Result<u64> {
        self.flows()
    }

    fn established(&mut self) -> Result<u64> {
        self.in_states(&["ESTABLISHED"])
    }

    fn answered(&mut self) -> Result<u64> {
        // The server's SYN makes it SYN_RECV, in its words.
        self.in_states(&["SYN_RECV", "ESTABLISHED"])
    }

    fn counts(&mut self) -> Result<Counts> {
        let begin = Instant::now();
        let ports = self.ports()?;
        let at = begin + begin.elapsed() / 2;
        let of = |number: u32| {
            let port = ports.iter().find(|(other, _)| *other == number);
            port.map(|(_, counts)| *counts).unwrap_or_default()
        };
        let back = if self.answers { of(3).received } else { 0 };
        Ok(Counts {
            at,
            received: of(1).received + back,
            forwarded: of(2).sent,
            dropped: [1, 2].map(|number| of(number).dropped).iter().sum(),
        })
    }

    fn sunk(&mut self) -> Result<(u64, u64)> {
        // Its count of what it sent is the device's.
        let counts = self.counts()?;
        Ok((counts.forwarded, counts.forwarded))
    }

    fn memory_bytes(&mut self) -> Result<u64> {
        memory_bytes(self.switch.pid())
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // The interfaces that it made; the processes end right after, with their fields.
        let _ = self.switch.kill();
        let _ = self.namespace.delete();
    }
}

/// `key=value` for each line of the file.
fn settings(bench: &Bench) -> Vec<String> {
    let mask = |cpu: usize| format!("{:#x}", 1_u64 << cpu);
    let eal = format!(
        "--no-pci --no-telemetry --file-prefix={} {} {SHARED_BUFFERS}",
        bench.name("ovs"),
        bench.pages.eal_arguments().join(" ")
    );
    filled(&mask(bench.cpus.worker), &mask(bench.cpus.others), &eal)
}

fn filled(worker: &str, others: &str, eal: &str) -> Vec<String> {
    let lines = OTHER_CONFIG.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let value = value
                .replace("{worker_mask}", worker)
                .replace("{others_mask}", others)
                .replace("{eal}", eal);
            format!("other_config:{key}=\"{value}\"")
        })
        .collect()
}

/// Reads what `dpctl/ct-stats-show verbose` prints of a state; what it does not name, nothing is in.
fn count_in(said: &str, state: &str) -> u64 {
    let label = format!("[{state}]=");
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix(&label));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PortCounts {
    received: u64,
    sent: u64,
    dropped: u64,
}

/// Reads what `ovs-ofctl dump-ports` prints.
fn port_counts(said: &str) -> Vec<(u32, PortCounts)> {
    let number = |line: &str, label: &str| {
        let rest = &line[line.find(label)? + label.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        rest[..digits.unwrap_or(rest.len())].parse().ok()
    };
    let mut ports: Vec<(u32, PortCounts)> = vec![];
    for line in said.lines() {
        let (rest, port) = match line.trim().strip_prefix("port ") {
            Some(rest) => {
                let Some((name, rest)) = rest.split_once(':') else {
                    continue;
                };
                // The local port has a name and no number of interest.
                ports.push((
                    name.trim().parse().unwrap_or(u32::MAX),
                    PortCounts::default(),
                ));
                (rest.trim(), ports.last_mut())
            }
            None => (line.trim(), ports.last_mut()),
        };
        let Some((_, port)) = port else { continue };
        let drops = number(rest, "drop=").unwrap_or(0);
        if rest.starts_with("rx ") {
            port.received = number(rest, "pkts=").unwrap_or(0);
            port.dropped += drops;
        } else if rest.starts_with("tx ") {
            port.sent = number(rest, "pkts=").unwrap_or(0);
            port.dropped += drops;
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let said = "OFPST_PORT reply (xid=0x2): 3 ports\n\
            \x20 port LOCAL: rx pkts=7, bytes=0, drop=9, errs=0, frame=0, over=0, crc=0\n\
            \x20          tx pkts=8, bytes=0, drop=9, errs=0, coll=0\n\
            \x20 port  1: rx pkts=1200, bytes=72000, drop=3, errs=0, frame=?, over=?, crc=?\n\
            \x20          tx pkts=0, bytes=0, drop=0, errs=0, coll=?\n\
            \x20 port  2: rx pkts=0, bytes=0, drop=?, errs=0, frame=?, over=?, crc=?\n\
            \x20          tx pkts=1190, bytes=71400, drop=10, errs=0, coll=?\n";
        let counts = |received, sent, dropped| PortCounts {
            received,
            sent,
            dropped,
        };
        assert_eq!(
            port_counts(said),
            [
                (u32::MAX, counts(7, 8, 18)),
                (1, counts(1200, 0, 3)),
                (2, counts(0, 1190, 10)),
            ]
        );
    }

    #[test]
    fn states_are_read() {
        let said = "Connections Stats:\n    Total: 1010\n  TCP: 1010\n    Conn per TCP states:\n\
            \t  [SYN_SENT]=10\n\t  [ESTABLISHED]=1000\n";
        let of = |state| count_in(said, state);
        assert_eq!(
            (of("ESTABLISHED"), of("SYN_SENT"), of("SYN_RECV")),
            (1000, 10, 0)
        );
    }

    #[test]
    fn settings_are_filled_in() {
        let settings = filled("0x2", "0x1", "--no-pci --in-memory");
        assert!(settings.contains(&"other_config:pmd-cpu-mask=\"0x2\"".to_owned()));
        assert!(settings.contains(&"other_config:dpdk-extra=\"--no-pci --in-memory\"".to_owned()));
        assert!(
            !settings.iter().any(|line| line.contains(['{', '#'])),
            "{settings:?}"
        );
    }
}
