//! What can go wrong in the lab, and what to do about it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Anything that stops the lab. The message says what is wrong and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces, veths and packet sockets need root.
    #[error("the lab makes network namespaces, and only root may: run it with sudo")]
    NotRoot,
    /// A lab's name that could not be a part of interface and namespace names.
    #[error("`{0}` cannot name a lab: use 1 to 8 lower-case letters and digits, a letter first")]
    InvalidId(String),
    /// A cluster of a size that this lab does not build.
    #[error("{0} nodes: a lab has 2 to 16")]
    InvalidSize(usize),
    /// Paths through nodes that the lab does not have, or through none.
    #[error("no paths through the nodes {0:?}: name at least one, from 1 on, that the lab has")]
    InvalidPaths(Vec<usize>),
    /// Another process works on the lab of this name.
    #[error("the lab `{id}` is in use by process {pid}: end that first, or choose another --id")]
    InUse {
        /// The lab's name.
        id: String,
        /// Who holds it, as it wrote itself down; 0 when it had not yet.
        pid: i32,
    },
    /// There is no such lab, or no such member in it.
    #[error("there is no namespace `{0}`: `lab up` makes it")]
    NoNamespace(String),
    /// A program that the lab drives is not installed.
    #[error("`{program}` is missing: install the package {package}")]
    MissingProgram {
        /// The program that was looked for.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// One of our own programs has not been built.
    #[error("`{program}` was looked for in {}: build it, or set RAVELIN_BIN_DIR to where it is", searched.display())]
    MissingBinary {
        /// `ravelind`, `ravelin` or `lab`.
        program: &'static str,
        /// The folder where it should be.
        searched: PathBuf,
    },
    /// A program ran and said no.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote to standard error.
        stderr: String,
    },
    /// A process that had to keep running ended.
    #[error("{name} ended ({status}); the end of {}:\n{tail}", log.display())]
    Ended {
        /// The process's name.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A condition did not come true in time.
    #[error("waited {after:.1?} for {what}, in vain{detail}")]
    Timeout {
        /// The condition.
        what: String,
        /// For how long.
        after: Duration,
        /// What was seen last, or nothing.
        detail: String,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
    /// The operating system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system said no, to something without a path.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something that should have been JSON of a known shape was not.
    #[error("{from} is not what it should be: {source}; it said: {text}")]
    Json {
        /// Where the text came from.
        from: String,
        /// Where it departs from the shape.
        source: serde_json::Error,
        /// The text, shortened.
        text: String,
    },
    /// A configuration could not be written as TOML.
    #[error("the configuration of {node} cannot be written as TOML: {source}")]
    Toml {
        /// The node.
        node: String,
        /// Why.
        source: toml::ser::Error,
    },
    /// What the cluster or the traffic showed is not what the scenario needs to go on.
    #[error("{0}")]
    Scenario(String),
}

impl Error {
    /// For `map_err`: an I/O error on `path` while trying to `action` it.
    pub fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// For `map_err`: an error of the operating system while trying to `action`.
    pub fn system<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }
}
