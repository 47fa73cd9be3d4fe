//! The side of `ravelin`: connect, ask, read the answer.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::line::{LineError, Lines, connect_within};
use super::protocol::ErrorLine;
use super::{ANSWER_BYTES_MAX, Failure, FlowFilter, ListEnd, Request};
use crate::counters::CounterQuery;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    lines: Lines,
    patience: Duration,
}

/// How long an answer, or the next line of a list, may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    /// Connects to the socket at `path`. Each line of an answer may take 30 seconds.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_with(path, PATIENCE)
    }

    /// [`connect`](Self::connect) with another bound for the connection and each line.
    pub fn connect_with(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let stream = connect_within(path, patience).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ClientError::Absent { path: path.into() },
            io::ErrorKind::ConnectionRefused => ClientError::NotListening { path: path.into() },
            io::ErrorKind::PermissionDenied => ClientError::Permission {
                path: path.into(),
                remedy: remedy(path),
            },
            io::ErrorKind::WouldBlock => ClientError::Late {
                path: path.into(),
                seconds: patience.as_secs(),
            },
            _ => ClientError::Io {
                path: path.into(),
                source,
            },
        })?;
        Ok(Self {
            path: path.into(),
            stream,
            lines: Lines::new(ANSWER_BYTES_MAX),
            patience,
        })
    }

    /// Asks for what has one answer. `T` is the answer's type as [`Request`] tells, or
    /// [`serde_json::Value`] for what was said exactly.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.send(request)?;
        let answer = self.receive()?;
        self.typed(answer)
    }

    /// The counters that the query wants.
    pub fn counters<T: DeserializeOwned>(&mut self, query: CounterQuery) -> Result<T, ClientError> {
        self.ask(&Request::Counters { query })
    }

    /// The flows that the filter wants, as they arrive. The connection can be used again once
    /// the list has been read to its end. `T` is [`Flow`](super::Flow) or [`serde_json::Value`].
    pub fn flows<T: DeserializeOwned>(
        &mut self,
        filter: FlowFilter,
    ) -> Result<FlowLines<'_, T>, ClientError> {
        self.send(&Request::Flows {
            filter,
            count: false,
        })?;
        Ok(FlowLines {
            client: self,
            end: None,
            failed: false,
            flow: std::marker::PhantomData,
        })
    }

    /// Asks for what has a list as its answer, other than flows; the whole list. `T` is the
    /// element's type as [`Request`] tells, or [`serde_json::Value`].
    pub fn list<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Vec<T>, ClientError> {
        self.send(request)?;
        let lines = FlowLines {
            client: self,
            end: None,
            failed: false,
            flow: std::marker::PhantomData,
        };
        lines.collect()
    }

    /// How many flows the filter wants.
    pub fn flow_count(&mut self, filter: FlowFilter) -> Result<ListEnd, ClientError> {
        self.ask(&Request::Flows {
            filter,
            count: true,
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.stream.write_all(&request.to_line()) {
            Ok(()) => Ok(()),
            // A daemon that refuses a client says why and closes; what it said is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(self.late()),
            Err(source) => Err(ClientError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The next line, unless it is an error.
    fn receive(&mut self) -> Result<Value, ClientError> {
        let line = match self.lines.next(&self.stream, self.patience) {
            Ok(line) => line,
            Err(LineError::Closed) => {
                return Err(ClientError::Gone {
                    path: self.path.clone(),
                });
            }
            Err(LineError::Late) => return Err(self.late()),
            Err(LineError::TooLong) => {
                return Err(self.malformed(format!("a line of over {ANSWER_BYTES_MAX} bytes")));
            }
            Err(LineError::Io(source)) => {
                return Err(ClientError::Io {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let answer: Value = match serde_json::from_slice(line) {
            Ok(answer) => answer,
            Err(error) => return Err(self.malformed(error.to_string())),
        };
        if answer.get("error").is_some() {
            let ErrorLine { error } = self.typed(answer)?;
            return Err(ClientError::Refused(error));
        }
        Ok(answer)
    }

    fn typed<T: DeserializeOwned>(&self, answer: Value) -> Result<T, ClientError> {
        serde_json::from_value(answer).map_err(|error| self.malformed(error.to_string()))
    }

    fn malformed(&self, detail: String) -> ClientError {
        ClientError::Malformed {
            path: self.path.clone(),
            detail,
        }
    }

    fn late(&self) -> ClientError {
        ClientError::Late {
            path: self.path.clone(),
            seconds: self.patience.as_secs(),
        }
    }
}

/// The flows of an answer, in the order in which they arrive. Ends after the first error.
#[derive(Debug)]
pub struct FlowLines<'a, T> {
    client: &'a mut Client,
    end: Option<ListEnd>,
    failed: bool,
    flow: std::marker::PhantomData<T>,
}

impl<T> FlowLines<'_, T> {
    /// How the list ended; none while it has not been read to its end.
    pub fn end(&self) -> Option<&ListEnd> {
        self.end.as_ref()
    }
}

impl<T: DeserializeOwned> FlowLines<'_, T> {
    fn read(&mut self) -> Result<Option<T>, ClientError> {
        let line = self.client.receive()?;
        if line.get("end").is_some() {
            self.end = Some(self.client.typed(line)?);
            return Ok(None);
        }
        self.client.typed(line).map(Some)
    }
}

impl<T: DeserializeOwned> Iterator for FlowLines<'_, T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.end.is_some() {
            return None;
        }
        let item = self.read();
        self.failed = item.is_err();
        item.transpose()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "`path` is the socket, the rest is said by the message"
)]
pub enum ClientError {
    /// There is no socket.
    #[error("there is no socket at {}: is ravelind running? is --socket that of its [control] section?", path.display())]
    Absent { path: PathBuf },
    /// There is a socket that nobody listens on.
    #[error("nobody listens at {}: ravelind ended without removing its socket; start it again", path.display())]
    NotListening { path: PathBuf },
    /// The user may not use the socket.
    #[error("permission denied at {}: {remedy}", path.display())]
    Permission { path: PathBuf, remedy: String },
    /// The daemon closed the connection before the answer was whole.
    #[error("ravelind at {} closed the connection in the middle of the answer: it ended, or the answer was not read for too long", path.display())]
    Gone { path: PathBuf },
    /// The daemon does not answer in time.
    #[error("ravelind at {} has not answered for {seconds} s", path.display())]
    Late { path: PathBuf, seconds: u64 },
    /// What answers is no ravelind, or one of another release.
    #[error("what answers at {} is no ravelind of this release: {detail}", path.display())]
    Malformed { path: PathBuf, detail: String },
    /// The daemon says why it does not answer.
    #[error("ravelind: {0}")]
    Refused(Failure),
    /// The socket failed.
    #[error("cannot use the socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What a user who may not use the socket can do.
fn remedy(path: &Path) -> String {
    let group = std::fs::metadata(path)
        .ok()
        // Of a socket that its group may not write to, membership is no remedy.
        .filter(|metadata| metadata.mode() & 0o020 != 0 && metadata.gid() != 0)
        .and_then(|metadata| Group::from_gid(Gid::from_raw(metadata.gid())).ok()?);
    match group {
        Some(group) => format!(
            "run as root, or as a user of group {} (usermod -aG {0} USER)",
            group.name
        ),
        None => "run as root, or give the socket a group in ravelind's [control] section".into(),
    }
}
