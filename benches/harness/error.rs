//! What can go wrong in a measurement, and what to do about it.

use telemetry::control::ClientError;

/// Anything that ends a case without a figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Processes, namespaces, files.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// A daemon did not answer as it should.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// The machine cannot carry the measurement.
    #[error("{0}")]
    Machine(String),
    /// What was measured is not what the case is about: there is no figure rather than a wrong one.
    #[error("the figure would be wrong: {0}")]
    NotReal(String),
    /// A peer said something that cannot be read.
    #[error("{from} said {said:?}, which has no {wanted}")]
    Unreadable {
        /// Who.
        from: &'static str,
        /// What.
        said: String,
        /// What was looked for.
        wanted: &'static str,
    },
}

/// What every fallible function here returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the user asked to stop.
    pub(crate) fn is_interrupt(&self) -> bool {
        matches!(self, Self::Lab(lab::Error::Interrupted))
    }
}

/// The error of a peer's program that could not be started: which package has it, if it is missing.
pub(crate) fn missing(package: &'static str) -> impl Fn(lab::Error) -> Error {
    move |error| match error {
        lab::Error::MissingProgram { program, .. } => Error::Machine(format!(
            "`{program}` is missing: install the package {package}"
        )),
        error => error.into(),
    }
}
