//! What can go wrong, and the exit status that says so.

use std::fmt;
use std::io;
use std::path::PathBuf;

use config::ConfigError;
use telemetry::control::{ClientError, FailureKind, FilterError, POLICY_BYTES_MAX, PolicyRefusal};
use transport::pki::PkiError;

use crate::packet::InvalidPacket;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Packet(#[from] InvalidPacket),
    #[error(transparent)]
    Tune(#[from] crate::tune::Impossible),
    #[error("{0}")]
    Lacking(Lacking),
    #[error("cannot read {}: {source}; name a file of rules that this user may read", path.display())]
    Rules { path: PathBuf, source: io::Error },
    #[error(
        "{} has {len} bytes, and rules have at most {POLICY_BYTES_MAX}: join rules by listing several networks or services in one",
        path.display()
    )]
    RulesTooLong { path: PathBuf, len: usize },
    #[error("what ravelind answers about the drain is not of this release: {0}")]
    Answer(String),
    #[error("given up: nobody is left to take over, the node goes on; force it to end its flows")]
    DrainAbandoned,
    #[error("it was taken back: the node joins again")]
    DrainTakenBack,
    #[error("{0}")]
    DrainCut(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// 1 for what failed at run time, 2 for what the user wrote wrong, 3 for a change that not all
    /// living nodes have.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Filter(_) | Self::Config(_) | Self::Packet(_) => 2,
            Self::Pki(PkiError::Name(_) | PkiError::NeverValid { .. }) => 2,
            Self::Client(ClientError::Refused(failure)) if failure.kind == FailureKind::Invalid => {
                2
            }
            Self::Rules { .. } | Self::RulesTooLong { .. } => 2,
            Self::Answer(_) | Self::DrainAbandoned | Self::DrainTakenBack | Self::DrainCut(_) => 1,
            Self::Client(_) | Self::Pki(_) | Self::Output(_) | Self::Tune(_) => 1,
            Self::Lacking(_) => 3,
        }
    }
}

/// Living nodes that a change has not reached. One line each.
#[derive(Debug)]
pub(crate) struct Lacking {
    /// Those that did not confirm it in time.
    pub(crate) silent: Vec<String>,
    /// Those that could not use new rules.
    pub(crate) refused: Vec<PolicyRefusal>,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silent = self.silent.iter().map(|node| {
            format!("{node} has not confirmed it in time; it gets it as soon as it can be reached")
        });
        let refused = self
            .refused
            .iter()
            .flat_map(|PolicyRefusal { node, error }| {
                let first = format!("{node} cannot use these rules and keeps those that it has:");
                std::iter::once(first)
                    .chain(error.lines().map(move |line| format!("{node}: {line}")))
            });
        let lines: Vec<_> = silent.chain(refused).collect();
        f.write_str(&lines.join("\n"))
    }
}
