//! Why the daemon does not start, or ends, and with which exit status.

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configuration; exit status 2.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// The configuration does not fit this machine; exit status 2.
    #[error("{0}")]
    Machine(String),
    #[error("{0}")]
    Dpdk(#[from] dpdk::Error),
    #[error("interface {interface}: {source}")]
    Port {
        interface: String,
        source: dpdk::Error,
    },
    #[error("certificates: {0}")]
    Identity(#[from] transport::IdentityError),
    #[error("{what} address: {source}")]
    Transport {
        what: &'static str,
        source: transport::Error,
    },
    #[error("control socket: {0}")]
    Control(#[from] telemetry::control::BindError),
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        name: String,
        source: std::io::Error,
    },
    /// Its own restart mends this: the number is kept.
    #[error(
        "peers know a later run of this node ({known}) than this one ({ours}): the clock of this machine \
         went back. The next run is numbered above that: start this node again"
    )]
    Outrun { known: u64, ours: u64 },
    #[error("the {0} core ended unexpectedly; see the log above")]
    CoreEnded(String),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

impl Error {
    /// 2 for what the configuration can mend, 1 for what it cannot.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Machine(_) => 2,
            _ => 1,
        }
    }
}
