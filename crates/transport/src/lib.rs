//! QUIC between the nodes of a cluster.
#![forbid(unsafe_code)]

mod certificate;
mod identity;
mod names;
pub mod pki;

pub use certificate::FileError;
pub use identity::{Identity, IdentityError};
pub use names::{NameError, check_name, dns_name};
