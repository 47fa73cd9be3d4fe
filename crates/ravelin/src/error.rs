//! What can go wrong, and the exit status that says so.

use std::io;

use config::ConfigError;
use telemetry::control::{ClientError, FilterError};
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
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// 1 for what failed at run time, 2 for what the user wrote wrong.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Filter(_) | Self::Config(_) | Self::Packet(_) => 2,
            Self::Pki(PkiError::Name(_) | PkiError::NeverValid { .. }) => 2,
            Self::Client(_) | Self::Pki(_) | Self::Output(_) => 1,
        }
    }
}
