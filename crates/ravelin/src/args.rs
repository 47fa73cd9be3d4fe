//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::common_args::{BlockCommand, ExpectCommand, PolicyCommand, UserCommand};
use crate::flow::FlowCommand;
use clap::{Parser, Subcommand};
use telemetry::control::{FilterError, FlowFilter, SOCKET};
use transport::pki::NODE_DAYS;

/// Checks configurations, makes certificates, and asks a running ravelind.
///
/// Exit status: 0 if all is well, 1 if something failed (the daemon cannot be reached), 2 if the
/// command line or a configuration is wrong, 3 if a change has not reached all living nodes.
#[derive(Debug, Parser)]
#[command(name = "ravelin", version, arg_required_else_help = true)]
pub(crate) struct Args {
    /// The control socket of ravelind.
    #[arg(long, global = true, value_name = "PATH", env = "RAVELIN_SOCKET", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// Write JSON, one object a line, instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a configuration file, and tell how it decides on packets.
    Check(CheckArgs),
    /// Tell how the node and its cluster are. The first line answers "is it healthy?".
    Status,
    /// List the flows of the node.
    Flows(FlowsArgs),
    /// Change one flow, on the node that owns it.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Show the counters of all cores.
    Counters(CountersArgs),
    /// Log users in and out, and list them.
    #[command(subcommand)]
    User(UserCommand),
    /// Block networks, and list what is blocked.
    #[command(subcommand)]
    Block(BlockCommand),
    /// Load and show rules.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show related connections that are expected.
    #[command(subcommand)]
    Expect(ExpectCommand),
    /// Hand the node's flows over to the others without losing a packet, and end it.
    Drain(DrainArgs),
    /// Take a drain back: the node joins again and takes its slots.
    Undrain,
    /// Make and show certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Propose the sections cores, eal and flows for the machine that this runs on.
    Tune(TuneArgs),
    /// Tell the releases of ravelin and of the running ravelind.
    Version,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
It reads /sys and /proc and changes nothing. What it writes are sections of a configuration, each choice with
its reason: workers on the cores beside the network cards, one to a core and isolated ones first, the sync core on a core of
its own, membership beside the system; packet buffers and memory by the formulas of docs/configuration.md. What the
machine lacks is told as a WARNING with what to do. Run it while nothing else holds the huge pages.

Example: ravelin tune --workers 4 --flows 2000000 >> n1.toml")]
pub(crate) struct TuneArgs {
    /// How many workers; by default as many as there is room for beside the network cards, and queues.
    #[arg(long, value_name = "N", value_parser = workers)]
    pub(crate) workers: Option<usize>,

    /// How many flows the node shall hold, copies for other nodes included.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1_024..=1 << 30)
    )]
    pub(crate) flows: u32,
}

fn workers(text: &str) -> Result<usize, String> {
    let workers = text
        .parse()
        .ok()
        .filter(|workers| (1..=128).contains(workers));
    workers.ok_or_else(|| "give a number from 1 to 128".into())
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration of a node, TOML.
    pub(crate) config: PathBuf,

    /// Tell rule by rule why a packet passes or not: its zones, protocol and endpoints, for
    /// example "inside outside tcp 10.1.0.5:1000 10.2.0.9:80", and behind them, if somebody is
    /// logged in at its source, user=NAME group=NAME,... Can be given more than once.
    #[arg(long, value_name = "PACKET")]
    pub(crate) explain: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Filters are words KEY=VALUE; a flow must fit all of them. The keys:
  proto             tcp, udp, icmp, ... or a number
  src, dst          address or network of the opener, of the other end
  sport, dport      port or range (80-90) of the opener, of the other end
  address, port     of either end
  state             for example established
  role              owner, handler, backup or stale
  zone              on either side
  limit             at most so many flows

Example: ravelin flows proto=tcp dst=10.2.0.0/16 dport=80 state=established")]
pub(crate) struct FlowsArgs {
    /// Only flows that fit, for example proto=tcp port=80.
    #[arg(value_name = "KEY=VALUE")]
    filters: Vec<String>,

    /// Only tell how many.
    #[arg(long)]
    pub(crate) count: bool,
}

impl FlowsArgs {
    pub(crate) fn filter(&self) -> Result<FlowFilter, FilterError> {
        self.filters.join(" ").parse()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CountersArgs {
    /// Show also those that are zero.
    #[arg(long)]
    pub(crate) all: bool,

    /// Only those of one core or part, for example worker0 or sync.
    #[arg(long)]
    pub(crate) scope: Option<String>,

    /// Show them again and again, with their rates, until interrupted.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = interval
    )]
    pub(crate) watch: Option<Duration>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
It tells how far it is, and ends when the node is offline. Exit status 0: nothing was lost but flows
of rules that replicate nothing; 1: refused, given up, or ended by its time, and then it says what breaks.")]
pub(crate) struct DrainArgs {
    /// Go on afterwards, without slots, until `ravelin undrain`.
    #[arg(long)]
    pub(crate) stay: bool,

    /// How long it may take; then the node goes as it stands.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::drain::bound)]
    pub(crate) timeout: Duration,

    /// Also when no other node is active: the flows end.
    #[arg(long)]
    pub(crate) force: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.01..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds between 0.01 and 3600".into())
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make the certificate authority of a cluster: DIR/ca.pem and DIR/ca.key.
    Init {
        /// Where to write them.
        #[arg(long)]
        dir: PathBuf,
        /// The cluster's name, as in its configuration.
        #[arg(long, value_name = "NAME")]
        cluster: String,
    },
    /// Issue the certificate of a node: NODE.pem and NODE.key.
    Issue {
        /// The node's name, as in its configuration.
        node: String,
        /// Where the authority is.
        #[arg(long)]
        dir: PathBuf,
        /// Where to write the certificate and its key; by default beside the authority.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// For how long it is valid, at most until the authority ends.
        #[arg(long, default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_525))]
        days: u32,
    },
    /// Tell what a certificate file says.
    Show {
        /// The certificate, PEM.
        file: PathBuf,
    },
}
