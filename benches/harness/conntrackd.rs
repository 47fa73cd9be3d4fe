//! The gateway of nftables with conntrackd, and a second node that its connections are replicated to. The
//! configuration is in `benches/peers/conntrackd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::program::{ip_batch, run};
use lab::wait::{Poll, wait_until};
use lab::{Error as LabError, Namespace, Process, Spawn};

use crate::bench::Bench;
use crate::cluster::sent_bytes;
use crate::error::{Error, Result, missing};
use crate::forward::{Outcome, capacity, lanes, outer};
use crate::gateway::{Gateway, Shape, System};
use crate::generator::{Generator, WhenFull};
use crate::measure::{Figure, slope};
use crate::nftables::{NODE, Nftables};
use crate::report::short;
use crate::traffic::Flows;

const CONFIG: &str = include_str!("../peers/conntrackd/conntrackd.conf");
const RULES: &str = include_str!("../peers/conntrackd/notrack.nft");
/// The second node's namespace.
const BACKUP: &str = "n4";
/// The link's end in each namespace, as in `notrack.nft`.
const LINK: &str = "sync0";
const START_LIMIT: Duration = Duration::from_secs(20);
const FILL_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks, each of which is a program that asks the daemon.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What one fill of the table showed.
#[derive(Debug, Clone, Copy)]
struct Filled {
    /// Flows per second that came into the second node's external cache.
    replicated: f64,
    /// Flows per second that the first node has opened.
    opened: f64,
    /// Bytes on the link from the first node, Ethernet headers included, per flow.
    bytes: f64,
}

/// Measures how many new flows per second the second node has.
pub(crate) fn newflows(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let runs = fills(bench, flows)?;
    let rates: Vec<f64> = runs.iter().map(|run| run.replicated).collect();
    let opened: Vec<f64> = runs.iter().map(|run| run.opened).collect();
    let opened = Figure::of(&opened).map_or(0.0, |figure| figure.median);
    let note = format!(
        "the figure counts flows in the second node's external cache; the kernel opened {} per second meanwhile. \
         The generator and both daemons share a cpu",
        short(opened)
    );
    Outcome::of_runs("flows/s", &rates, vec![note])
}

/// Measures the bytes that the first node sends to the second, per flow.
pub(crate) fn wire_bytes(bench: &Bench, flows: &Flows) -> Result<Outcome> {
    let runs = fills(bench, flows)?;
    let bytes: Vec<f64> = runs.iter().map(|run| run.bytes).collect();
    Outcome::of_runs("bytes/flow", &bytes, vec![])
}

fn fills(bench: &Bench, flows: &Flows) -> Result<Vec<Filled>> {
    let lanes = lanes(bench, flows, System::Conntrackd)?;
    let shape = Shape {
        capacity: capacity(flows.count),
        answers: false,
        workers: 1,
    };
    let run = |_| {
        let mut generator = Generator::start(bench, &lanes)?;
        let mut gateway = Nftables::start(bench, shape)?;
        connect(bench)?;
        let mut nodes = [0, 1].map(|at| Node::start(bench, at, shape.capacity));
        let [Ok(first), Ok(second)] = &mut nodes else {
            let failed = nodes.into_iter().find_map(Result::err);
            return Err(failed.expect("one of them is an error"));
        };
        first.wait_answer(bench)?;
        second.wait_answer(bench)?;
        fill(bench, flows, &mut generator, &mut gateway, [first, second])
    };
    (0..bench.pace.runs).map(run).collect()
}

/// Sends the first packet of every flow, until the second node has all.
fn fill(
    bench: &Bench,
    flows: &Flows,
    generator: &mut Generator,
    gateway: &mut Nftables,
    [first, second]: [&mut Node; 2],
) -> Result<Filled> {
    let all = u64::from(flows.count);
    let begin = sent_bytes(&first.namespace, LINK)?;
    let (mut replicated, mut opened) = (vec![], vec![]);
    generator.play(bench, 0, WhenFull::Retry)?;
    let result = wait_until(
        "the second node to have the flows",
        FILL_LIMIT,
        LOOK_EVERY,
        &bench.interrupt,
        || {
            generator.must_run().map_err(outer)?;
            first.process.must_run()?;
            opened.push((Instant::now(), gateway.opened().map_err(outer)?));
            let begin = Instant::now();
            let has = second.external().map_err(outer)?;
            replicated.push((begin + begin.elapsed() / 2, has));
            Ok(if has >= all {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("the second node has {has} of {all} flows"))
            })
        },
    );
    result.map_err(crate::pair::not_real)?;
    generator.stop(bench)?;
    let bytes = sent_bytes(&first.namespace, LINK)? - begin;
    let (there, has) = (gateway.flows()?, second.external()?);
    if there != all || has != all {
        return Err(Error::NotReal(format!(
            "{there} flows are in the first node's table, {has} in the second one's cache, and {all} were sent"
        )));
    }
    let rate = |looks: &[(Instant, u64)]| {
        slope(looks, all / 20, all - all / 20).ok_or_else(|| {
            Error::NotReal(format!("{} looks at the caches are too few", looks.len()))
        })
    };
    Ok(Filled {
        replicated: rate(&replicated)?,
        opened: rate(&opened)?,
        bytes: bytes as f64 / all as f64,
    })
}

/// Makes the second namespace and the link, unless an earlier run did, and loads the link's rules.
fn connect(bench: &Bench) -> Result<()> {
    let (node, backup) = (bench.namespace(NODE), bench.namespace(BACKUP));
    if !backup.exists() {
        backup.create()?;
        ip_batch(
            &node,
            &format!(
                "link add {LINK} type veth peer name {LINK} netns {}\n",
                backup.name()
            ),
        )?;
        for (at, namespace) in [&node, &backup].into_iter().enumerate() {
            ip_batch(
                namespace,
                &format!(
                    "link set lo up\naddress add {}/24 dev {LINK}\nlink set {LINK} up\n",
                    address(at)
                ),
            )?;
        }
    }
    run(Some(&node), "nft", &["--file", "-"], RULES).map_err(missing("nftables"))?;
    Ok(())
}

fn address(at: usize) -> String {
    format!("10.97.0.{}", at + 1)
}

/// One daemon.
#[derive(Debug)]
struct Node {
    process: Process,
    namespace: Namespace,
    config: PathBuf,
}

impl Node {
    /// Starts the first one or the second one.
    fn start(bench: &Bench, at: usize, capacity: u32) -> Result<Self> {
        let namespace = bench.namespace([NODE, BACKUP][at]);
        let name = format!("conntrackd-{}", at + 1);
        let dir = bench.path(&name);
        // Nothing of an earlier start.
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LabError::file("remove", &dir)(error).into());
            }
            _ => {}
        }
        fs::create_dir_all(&dir).map_err(LabError::file("make", &dir))?;
        let config = dir.join("conntrackd.conf");
        let text = filled(at, capacity, &dir);
        fs::write(&config, text).map_err(LabError::file("write", &config))?;
        let process = Spawn::new(&name, "conntrackd")
            .args([Path::new("-C"), &config])
            .inside(&namespace)
            .start(&bench.state, &bench.log(&name)?)
            .map_err(missing("conntrackd"))?;
        Ok(Self {
            process,
            namespace,
            config,
        })
    }

    fn wait_answer(&mut self, bench: &Bench) -> Result<()> {
        Ok(wait_until(
            "conntrackd to answer",
            START_LIMIT,
            Duration::from_millis(50),
            &bench.interrupt,
            || {
                self.process.must_run()?;
                Ok(match self.external() {
                    Ok(_) => Poll::Ready(()),
                    Err(error) => Poll::Pending(format!(": {error}")),
                })
            },
        )?)
    }

    /// How many of the other node's flows it has.
    fn external(&mut self) -> Result<u64> {
        self.process.must_run()?;
        let config = self.config.display().to_string();
        let said = run(
            Some(&self.namespace),
            "conntrackd",
            &["-C", &config, "-s"],
            "",
        )?;
        external_in(&said).ok_or(Error::Unreadable {
            from: "conntrackd",
            said,
            wanted: "size of its external cache",
        })
    }
}

fn filled(at: usize, capacity: u32, dir: &Path) -> String {
    CONFIG
        .replace("{flows}", &capacity.to_string())
        .replace("{own}", &address(at))
        .replace("{other}", &address(1 - at))
        .replace("{link}", LINK)
        .replace("{buckets}", &capacity.to_string())
        .replace("{limit}", &(2 * capacity).to_string())
        .replace("{dir}", &dir.display().to_string())
}

/// Reads what `conntrackd -s` prints.
fn external_in(said: &str) -> Option<u64> {
    let cache = &said[said.find("cache external:")?..];
    let line = cache.lines().nth(1)?;
    let count = line.trim().strip_prefix("current active connections:")?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_external_cache_is_read() {
        let said = "cache internal:\ncurrent active connections:\t           2\n\
            connections created:\t\t           2\tfailed:\t           0\n\n\
            cache external:\ncurrent active connections:\t     1000002\n\
            connections created:\t\t     1000002\tfailed:\t           0\n";
        assert_eq!(external_in(said), Some(1_000_002));
        assert_eq!(external_in("cache external:\n"), None);
        assert_eq!(external_in(""), None);
    }

    #[test]
    fn the_configuration_is_filled_in() {
        let text = filled(1, 1_250_000, Path::new("/run/x"));
        for line in [
            "IPv4_address 10.97.0.2",
            "IPv4_Destination_Address 10.97.0.1",
            "Interface sync0",
            "HashLimit 2500000",
            "Path /run/x/control",
        ] {
            assert!(text.contains(line), "{line}");
        }
        // What is left of braces is its own syntax.
        let left = |line: &&str| line.contains('{') && !line.trim_end().ends_with('{');
        assert_eq!(text.lines().find(left), None);
    }
}
