//! The traffic tools as subcommands: each runs inside a namespace and reports in JSON lines.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use clap::Subcommand;
use lab::echo::{self, ClientPlan, EchoReport};
use lab::probe::{self, ProbePlan, Received, Sent};
use lab::sink::{self, SinkReport};
use lab::tool::{Event, say, stop_at_stdin_end};
use lab::wait::Interrupt;
use lab::{Error, Result};
use nix::sys::socket::{setsockopt, sockopt};

/// A probe's receiver must not lose on its own what the cluster brought.
const PROBE_BUFFER_BYTES: usize = 8 << 20;

#[derive(Subcommand)]
pub(crate) enum Tool {
    /// Echo every TCP connection until killed
    EchoServer {
        /// Where to listen; [::] takes both families
        #[arg(long, default_value = "[::]:7777")]
        listen: SocketAddr,
    },
    /// Keep TCP connections busy with checked messages until standard input closes
    EchoClients {
        /// Where to connect to; several share the connections
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
        /// How many connections
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// Milliseconds between an echo and the next message
        #[arg(long, default_value_t = 50)]
        pause_ms: u64,
        /// Seconds without progress after which a connection counts as broken
        #[arg(long, default_value_t = 30)]
        stall_s: u64,
    },
    /// Send numbered UDP datagrams until standard input closes
    Probe {
        /// Where to; several share the flows
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
        /// How many flows
        #[arg(long, default_value_t = 64)]
        flows: u32,
        /// Datagrams per second, all flows together
        #[arg(long, default_value_t = 1000)]
        rate: u32,
    },
    /// Receive the probe's datagrams until standard input closes
    ProbeReceiver {
        /// Where to listen; [::] takes both families
        #[arg(long, default_value = "[::]:9000")]
        listen: SocketAddr,
    },
    /// Count testpmd's flows until standard input closes
    Sink {
        /// How many flows are expected
        #[arg(long, default_value_t = 4096)]
        flows: u32,
    },
}

pub(crate) fn run(tool: Tool) -> Result<()> {
    let stop = Interrupt::install()?;
    match tool {
        Tool::EchoServer { listen } => {
            let listener =
                TcpListener::bind(listen).map_err(Error::system(format!("listen on {listen}")))?;
            say::<EchoReport>(&Event::Ready)?;
            // It has nothing to finish: the end of its input is the end of it.
            let serving = std::thread::spawn(move || echo::serve(&listener));
            stop_at_stdin_end(&stop);
            while !stop.is_set() && !serving.is_finished() {
                std::thread::sleep(Duration::from_millis(100));
            }
            if serving.is_finished() {
                serving
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            say(&Event::Report {
                report: EchoReport::default(),
            })
        }
        Tool::EchoClients {
            to,
            connections,
            pause_ms,
            stall_s,
        } => {
            stop_at_stdin_end(&stop);
            let plan = ClientPlan {
                targets: to,
                connections,
                pause: Duration::from_millis(pause_ms),
                stall_limit: Duration::from_secs(stall_s.max(1)),
            };
            let ready = || say::<EchoReport>(&Event::Ready);
            let report = echo::run_clients(&plan, &stop, ready, |report| {
                say(&Event::Progress { report })
            })?;
            say(&Event::Report { report })
        }
        Tool::Probe { to, flows, rate } => {
            stop_at_stdin_end(&stop);
            say::<Sent>(&Event::Ready)?;
            let plan = ProbePlan {
                targets: to,
                flows,
                rate,
            };
            let report = probe::send(&plan, &stop, |sent| {
                say(&Event::Progress {
                    report: sent.clone(),
                })
            })?;
            say(&Event::Report { report })
        }
        Tool::ProbeReceiver { listen } => {
            let socket =
                UdpSocket::bind(listen).map_err(Error::system(format!("bind {listen}")))?;
            setsockopt(&socket, sockopt::RcvBufForce, &PROBE_BUFFER_BYTES)
                .map_err(Error::system("enlarge a receive buffer (this needs root)"))?;
            stop_at_stdin_end(&stop);
            say::<Received>(&Event::Ready)?;
            let report = probe::receive(&socket, &stop, |report| say(&Event::Progress { report }))?;
            say(&Event::Report { report })
        }
        Tool::Sink { flows } => {
            let socket = sink::open()?;
            stop_at_stdin_end(&stop);
            say::<SinkReport>(&Event::Ready)?;
            let report = sink::count(&socket, flows, &stop, |report| {
                say(&Event::Progress { report })
            })?;
            say(&Event::Report { report })
        }
    }
}
