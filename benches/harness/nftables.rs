//! The kernel's own gateway: routing, nftables, connection tracking. Its rules are in `benches/peers/nftables`.
//!
//! It forwards in softirqs on the worker's cpu. Its namespaces and devices stay from run to run; the table of connections
//! is emptied, and what belongs to the whole machine is set back when a gateway is dropped.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::program::{ip, ip_batch, run};
use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Namespace};

use crate::bench::Bench;
use crate::error::{Error, Result, missing};
use crate::gateway::{Gateway, Shape};
use crate::generator::Way;
use crate::measure::Counts;
use crate::traffic::{GATEWAY, ROUTER_INSIDE, ROUTER_OUTSIDE};
use crate::wire_port;

const RULES: &str = include_str!("../peers/nftables/rules.nft");
/// The gateway's namespace and the generator's.
pub(crate) const NODE: &str = "n3";
const SENDER: &str = "gen";
/// The generator's end of the veth, the gateway's, and the sink.
const SENDS: &str = "send0";
const INSIDE: &str = "in0";
const SINK: &str = "out0";
/// Settings of the whole machine.
const LIMITS: [&str; 2] = [
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/sys/net/netfilter/nf_conntrack_buckets",
];
/// Where it is noted what they were, for when a run is killed.
const BEFORE: &str = "conntrack-before";
/// Of the gateway's namespace.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/ip_early_demux", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("netfilter/nf_conntrack_udp_timeout", "3600"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "3600"),
];
/// Connections in the kernel's memory that are not ours, at most: those of the machine itself.
const STRANGERS_MAX: u64 = 10_000;
const EMPTY_LIMIT: Duration = Duration::from_secs(20);

/// The way to the gateway's port. Makes both namespaces with their devices, unless an earlier run did.
pub(crate) fn way(bench: &Bench) -> Result<Way> {
    let (sender, node) = (bench.namespace(SENDER), bench.namespace(NODE));
    for namespace in [&sender, &node] {
        if !namespace.exists() {
            namespace.create()?;
        }
    }
    if run(Some(&node), "ip", &["link", "show", SINK], "").is_err() {
        // All or nothing: half of it would be taken for the whole next time.
        connect(&sender, &node, bench.cpus.worker).inspect_err(|_| {
            let _ = run(Some(&sender), "ip", &["link", "delete", SENDS], "");
            let _ = run(Some(&node), "ip", &["link", "delete", SINK], "");
        })?;
    }
    Ok(Way::Kernel {
        namespace: sender,
        device: SENDS,
    })
}

fn connect(sender: &Namespace, node: &Namespace, worker: usize) -> Result<()> {
    let [inside, outside, _] = GATEWAY;
    ip_batch(
        sender,
        &format!(
            "link add {SENDS} type veth peer name {INSIDE} address {inside} netns {}\n",
            node.name()
        ),
    )?;
    wire_port::raise(sender, SENDS)?;
    wire_port::raise(node, INSIDE)?;
    // Without multicast the kernel sends nothing of its own.
    ip_batch(
        node,
        &format!(
            "link add {SINK} address {outside} type ifb\n\
             link set {SINK} addrgenmode none\n\
             link set {SINK} multicast off\n\
             link set {SINK} up\n\
             link set lo up\n\
             address add 192.0.2.1/25 dev {INSIDE}\n\
             address add 192.0.2.129/25 dev {SINK}\n\
             address add fd00:101::1/64 dev {INSIDE} nodad\n\
             address add fd00:102::1/64 dev {SINK} nodad\n\
             route add 10.8.0.0/13 via 192.0.2.2\n\
             route add 198.18.0.0/15 via 192.0.2.130\n\
             route add fd00:8::/32 via fd00:101::2\n\
             route add fd00:18::/32 via fd00:102::2\n\
             neighbour add 192.0.2.2 lladdr {ROUTER_INSIDE} dev {INSIDE} nud permanent\n\
             neighbour add 192.0.2.130 lladdr {ROUTER_OUTSIDE} dev {SINK} nud permanent\n\
             neighbour add fd00:101::2 lladdr {ROUTER_INSIDE} dev {INSIDE} nud permanent\n\
             neighbour add fd00:102::2 lladdr {ROUTER_OUTSIDE} dev {SINK} nud permanent\n"
        ),
    )?;
    let queue = ["qdisc", "replace", "dev", SINK, "root", "noqueue"];
    run(Some(node), "tc", &queue, "")?;
    // A shell within, for /sys shows the devices of the namespace that it was mounted in.
    let steer = format!(
        "echo {:x} > /sys/class/net/{INSIDE}/queues/rx-0/rps_cpus",
        1_u64 << worker
    );
    ip(&["netns", "exec", node.name(), "sh", "-c", &steer])?;
    Ok(())
}

/// The gateway, ready to forward.
#[derive(Debug)]
pub(crate) struct Nftables {
    namespace: Namespace,
    limits: Limits,
    worker: usize,
    /// The time of its cpu at the last look.
    time: CpuTime,
    /// What the sink had counted and what was forwarded when it was started.
    sunk_before: u64,
    forwarded_before: u64,
}

impl Nftables {
    pub(crate) fn start(bench: &Bench, shape: Shape) -> Result<Self> {
        if shape.answers || shape.workers != 1 {
            return Err(Error::Machine(
                "nftables is measured with UDP and one worker only".into(),
            ));
        }
        let namespace = bench.namespace(NODE);
        let rules = format!("flush ruleset\n{RULES}");
        run(Some(&namespace), "nft", &["--file", "-"], &rules).map_err(missing("nftables"))?;
        empty(&namespace)?;
        // Tracking is there since there are rules that want it.
        for (key, value) in SETTINGS {
            namespace.sysctl(key, value)?;
        }
        let limits = Limits::set(shape.capacity, bench.state.path())?;
        let mut this = Self {
            namespace,
            limits,
            worker: bench.cpus.worker,
            time: CpuTime::default(),
            sunk_before: 0,
            forwarded_before: 0,
        };
        this.wait_forgotten(bench)?;
        this.sunk_before = this.sink_packets()?;
        this.forwarded_before = this.counts()?.forwarded;
        this.idle()?;
        Ok(this)
    }

    /// Waits until the kernel has given back the memory of connections that are no more.
    fn wait_forgotten(&self, bench: &Bench) -> Result<()> {
        Ok(wait_until(
            "the kernel to free earlier connections",
            EMPTY_LIMIT,
            Duration::from_millis(50),
            &bench.interrupt,
            || {
                let slab = slab().map_err(crate::forward::outer)?;
                Ok(if slab.objects <= STRANGERS_MAX {
                    Poll::Ready(())
                } else {
                    Poll::Pending(format!(": {} are there", slab.objects))
                })
            },
        )?)
    }

    fn sink_packets(&self) -> Result<u64> {
        let name = self.namespace.name();
        let said = ip(&["-n", name, "-statistics", "-json", "link", "show", SINK])?;
        // What an ifb is given to send it calls received.
        link_count(&said, "rx", "packets").ok_or(Error::Unreadable {
            from: "ip",
            said,
            wanted: "packets",
        })
    }

    /// A file below `/proc` as the namespace has it.
    fn read(&self, path: &'static str) -> Result<String> {
        let said = self.namespace.enter(|| fs::read_to_string(path))?;
        Ok(said.map_err(LabError::file("read", path))?)
    }
}

impl Gateway for Nftables {
    fn flows(&mut self) -> Result<u64> {
        let said = self.read("/proc/sys/net/netfilter/nf_conntrack_count")?;
        said.trim().parse().map_err(|_| Error::Unreadable {
            from: "nf_conntrack_count",
            said,
            wanted: "number of connections",
        })
    }

    fn opened(&mut self) -> Result<u64> {
        self.flows()
    }

    fn established(&mut self) -> Result<u64> {
        Err(no_states())
    }

    fn answered(&mut self) -> Result<u64> {
        Err(no_states())
    }

    fn counts(&mut self) -> Result<Counts> {
        let begin = Instant::now();
        let v4 = self.read("/proc/thread-self/net/snmp")?;
        let v6 = self.read("/proc/thread-self/net/snmp6")?;
        let at = begin + begin.elapsed() / 2;
        let tracking = self.read("/proc/thread-self/net/stat/nf_conntrack")?;
        let backlog = self.read("/proc/thread-self/net/softnet_stat")?;
        let of = |name: &str| ip_count(&v4, name) + ip6_count(&v6, name);
        Ok(Counts {
            at,
            received: of("InReceives"),
            forwarded: of("ForwDatagrams") + of("OutForwDatagrams"),
            dropped: DROPS.iter().map(|name| of(name)).sum::<u64>()
                + TRACKING_DROPS
                    .iter()
                    .map(|name| tracking_count(&tracking, name))
                    .sum::<u64>()
                + backlog_drops(&backlog),
        })
    }

    fn sunk(&mut self) -> Result<(u64, u64)> {
        Ok((
            self.sink_packets()? - self.sunk_before,
            self.counts()?.forwarded - self.forwarded_before,
        ))
    }

    fn memory_bytes(&mut self) -> Result<u64> {
        let [_, buckets] = Limits::now()?;
        Ok(slab()?.bytes + buckets * size_of::<usize>() as u64)
    }

    fn idle(&mut self) -> Result<Option<f64>> {
        let path = "/proc/stat";
        let said = fs::read_to_string(path).map_err(LabError::file("read", path))?;
        let time = cpu_time(&said, self.worker).ok_or(Error::Unreadable {
            from: "/proc/stat",
            said,
            wanted: "worker's cpu",
        })?;
        let before = std::mem::replace(&mut self.time, time);
        let all = time.all.saturating_sub(before.all).max(1);
        let idle = time.idle.saturating_sub(before.idle);
        Ok(Some(idle as f64 / all as f64))
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        if let Err(error) = empty(&self.namespace).and_then(|()| self.limits.restore()) {
            eprintln!("bench: connection tracking is not as it was: {error}");
        }
    }
}

fn no_states() -> Error {
    Error::Machine("the kernel does not count connections by state".into())
}

/// Ends all connections of the namespace.
fn empty(namespace: &Namespace) -> Result<()> {
    run(Some(namespace), "conntrack", &["--flush"], "").map_err(missing("conntrack"))?;
    Ok(())
}

/// How many connections the machine has room for, and in how many buckets.
#[derive(Debug)]
struct Limits {
    before: [u64; 2],
}

impl Limits {
    /// As many buckets as connections, which is how the kernel sets both. Notes in `dir` what there was.
    fn set(connections: u32, dir: &Path) -> Result<Self> {
        let this = Self {
            before: Self::now()?,
        };
        let note = dir.join(BEFORE);
        if !note.exists() {
            let [max, buckets] = this.before;
            fs::write(&note, format!("{max} {buckets}")).map_err(LabError::file("write", &note))?;
        }
        write_limits([u64::from(connections); 2])?;
        Ok(this)
    }

    fn now() -> Result<[u64; 2]> {
        let read = |path: &'static str| -> Result<u64> {
            let said = fs::read_to_string(path).map_err(LabError::file("read", path))?;
            said.trim().parse().map_err(|_| Error::Unreadable {
                from: path,
                said,
                wanted: "number",
            })
        };
        let [max, buckets] = LIMITS;
        Ok([read(max)?, read(buckets)?])
    }

    fn restore(&self) -> Result<()> {
        write_limits(self.before)
    }
}

fn write_limits(values: [u64; 2]) -> Result<()> {
    for (path, value) in LIMITS.iter().zip(values) {
        fs::write(path, value.to_string()).map_err(LabError::file("write", *path))?;
    }
    Ok(())
}

/// Sets back what a run that was killed has left, as its folder tells.
pub(crate) fn release_left(dir: &Path) {
    // Where nothing was left there is nothing to do.
    let Ok(before) = fs::read_to_string(dir.join(BEFORE)) else {
        return;
    };
    let values: Vec<u64> = before.split(' ').flat_map(str::parse).collect();
    if let Ok(values) = values.try_into()
        && let Err(error) = write_limits(values)
    {
        eprintln!("bench: nf_conntrack_max and _buckets were {before}: {error}");
    }
}

/// What a gateway counts of packets that it does not send on, by the names of RFC 4293 as the kernel has them.
const DROPS: [&str; 8] = [
    "InHdrErrors",
    "InAddrErrors",
    "InUnknownProtos",
    "InDiscards",
    "InNoRoutes",
    "InTruncatedPkts",
    "OutDiscards",
    "OutNoRoutes",
];
const TRACKING_DROPS: [&str; 4] = ["invalid", "insert_failed", "drop", "early_drop"];

/// Reads a counter of `/proc/net/snmp`: a line of names, then one of values; what it does not name is 0.
fn ip_count(said: &str, name: &str) -> u64 {
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let found = pairs.find(|(other, _)| *other == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Likewise of `/proc/net/snmp6`, which has one a line.
fn ip6_count(said: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let (other, value) = line.strip_prefix("Ip6")?.split_once(char::is_whitespace)?;
        (other == name).then(|| value.trim().parse().ok())?
    };
    said.lines().find_map(value).unwrap_or(0)
}

/// Reads `/proc/net/stat/nf_conntrack`: names, then a line of hexadecimal values for each cpu.
fn tracking_count(said: &str, name: &str) -> u64 {
    let mut lines = said.lines();
    let column = lines
        .next()
        .and_then(|names| names.split_whitespace().position(|other| other == name));
    let Some(column) = column else { return 0 };
    let value = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    lines.filter_map(value).sum()
}

/// Reads `/proc/net/softnet_stat`, a line of hexadecimal values for each cpu: packets for which its backlog had no room.
fn backlog_drops(said: &str) -> u64 {
    let value = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    said.lines().filter_map(value).sum()
}

/// Reads a counter of what `ip -statistics -json link show` prints of one device.
pub(crate) fn link_count(said: &str, direction: &str, name: &str) -> Option<u64> {
    let links: serde_json::Value = serde_json::from_str(said).ok()?;
    links[0]["stats64"][direction][name].as_u64()
}

/// In ticks since the machine was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTime {
    all: u64,
    idle: u64,
}

/// Reads `/proc/stat`.
fn cpu_time(said: &str, cpu: usize) -> Option<CpuTime> {
    let label = format!("cpu{cpu} ");
    let line = said.lines().find_map(|line| line.strip_prefix(&label))?;
    // user nice system idle iowait irq softirq steal; guests' time is in user already.
    let ticks: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    let ticks = ticks.get(..8)?;
    Some(CpuTime {
        all: ticks.iter().sum(),
        idle: ticks[3] + ticks[4],
    })
}

/// The kernel's memory for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slab {
    objects: u64,
    bytes: u64,
}

fn slab() -> Result<Slab> {
    let path = "/proc/slabinfo";
    let said = fs::read_to_string(path).map_err(LabError::file("read", path))?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .map_err(LabError::system("ask for the page size"))?;
    slab_of(&said, page.unwrap_or(4096) as u64).ok_or(Error::Unreadable {
        from: "/proc/slabinfo",
        said: said.lines().take(3).collect::<Vec<_>>().join(", "),
        wanted: "nf_conntrack",
    })
}

/// Reads `/proc/slabinfo`, version 2.1.
fn slab_of(said: &str, page: u64) -> Option<Slab> {
    let mut lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("nf_conntrack "));
    let words: Vec<&str> = lines.next()?.split_whitespace().collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let data = words.iter().position(|word| *word == "slabdata")?;
    Some(Slab {
        objects: number(0)?,
        // Slabs, and pages of each.
        bytes: number(data + 2)? * number(4)? * page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_both_families_are_read() {
        let v4 = "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams\n\
            Ip: 1 64 1200 3 0 1190\nIcmp: InMsgs InErrors\nIcmp: 7 8\n";
        let of = |name| ip_count(v4, name);
        assert_eq!(
            (of("InReceives"), of("ForwDatagrams"), of("InHdrErrors")),
            (1200, 1190, 3)
        );
        assert_eq!((of("InMsgs"), ip_count("", "InReceives")), (0, 0));
        let v6 = "Ip6InReceives                   \t77\nIp6OutForwDatagrams             \t70\nIcmp6InMsgs  \t5\n";
        let of = |name| ip6_count(v6, name);
        assert_eq!(
            (of("InReceives"), of("OutForwDatagrams"), of("InMsgs")),
            (77, 70, 0)
        );
    }

    #[test]
    fn drops_of_all_cpus_are_read() {
        let said = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n\
            000003e8  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000010 00000000\n\
            000003e8  00000000 00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000000 0000000a 00000000\n";
        assert_eq!(tracking_count(said, "drop"), 26);
        assert_eq!(tracking_count(said, "invalid"), 3);
        assert_eq!(tracking_count(said, "none such"), 0);
        let said = "002baac3 00000000 00000000\n00267efd 0000001f 00000002\n";
        assert_eq!(backlog_drops(said), 31);
    }

    #[test]
    fn a_cpus_time_is_read() {
        let said = "cpu  30 0 30 300 3 0 30 0 0 0\ncpu1 10 0 10 100 1 0 20 2 0 0\ncpu10 1 1 1 1 1 1 1 1 1 1\n";
        let time = CpuTime {
            all: 143,
            idle: 101,
        };
        assert_eq!(cpu_time(said, 1), Some(time));
        assert_eq!(cpu_time(said, 2), None);
    }

    #[test]
    fn memory_is_read() {
        let said = "slabinfo - version: 2.1\n\
            # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n\
            nf_conntrack_expect      1      2    208   19    1 : tunables    0    0    0 : slabdata      9      9      0\n\
            nf_conntrack      585776 585780    256   16    2 : tunables    0    0    0 : slabdata  36611  36612      0\n";
        let slab = Slab {
            objects: 585_776,
            bytes: 36_612 * 2 * 4096,
        };
        assert_eq!(slab_of(said, 4096), Some(slab));
        assert_eq!(slab_of("", 4096), None);
    }

    #[test]
    fn a_devices_counters_are_read() {
        let said =
            r#"[{"ifname":"out0","stats64":{"rx":{"bytes":60,"packets":1},"tx":{"bytes":0}}}]"#;
        assert_eq!(link_count(said, "rx", "packets"), Some(1));
        assert_eq!(link_count(said, "tx", "packets"), None);
        assert_eq!(link_count("[]", "rx", "packets"), None);
    }
}
