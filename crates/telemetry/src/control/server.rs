//! The side of `ravelind`: claim the socket, accept clients, hand their requests to a handler.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::line::{LineError, Lines};
use super::protocol::ErrorLine;
use super::{
    ANSWER_BYTES_MAX, BlockRequest, Blocked, Change, Drain, ExpectRequest, Expected, Failure,
    FailureKind, Flow, FlowInstructed, ListEnd, LoggedIn, PROTOCOL, PolicyLoaded, PolicyRequest,
    PolicyShown, Pong, REQUEST_BYTES_MAX, Request, Status, UserRequest, Version,
};
use crate::counters::CounterReport;

mod socket;
pub use socket::{BindError, Bound, Endpoint};

/// Answers requests. One thread per client calls it, up to [`Limits::clients_max`] at once.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` through `responder`: by the method of that kind of answer, or by
    /// [`Responder::fail`]. A handler that returns without either has the client told so.
    ///
    /// Must return in bounded time, since the server waits for it when it stops: whatever is
    /// asked of another thread needs a timeout.
    fn handle(&self, request: Request, responder: &mut Responder<'_>);
}

/// What one client, and all of them, may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many clients at once; a further one is told "busy".
    pub clients_max: usize,
    /// How long a client may take for its next request line.
    pub idle: Duration,
    /// How long a client may leave its answer unread.
    pub unread: Duration,
}

impl Default for Limits {
    /// 8 clients; a minute for a request; a minute for reading.
    fn default() -> Self {
        Self {
            clients_max: 8,
            idle: Duration::from_secs(60),
            unread: Duration::from_secs(60),
        }
    }
}

/// A running server. Dropping it ends all its connections and threads and removes the socket.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    /// Dropped before the listener, which keeps the file's inode from being given to another.
    socket: socket::SocketFile,
    listener: Arc<UnixListener>,
}

struct Shared {
    handler: Box<dyn Handler>,
    limits: Limits,
    clients: Mutex<Clients>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Clients {
    stopping: bool,
    next: u64,
    streams: HashMap<u64, UnixStream>,
}

impl Bound {
    /// The socket for who speaks another protocol over it, and what removes its file when dropped.
    pub fn into_listener(self) -> (std::os::unix::net::UnixListener, impl Send + use<>) {
        (self.listener, self.socket)
    }

    /// Starts to accept clients. The threads inherit the caller's CPU affinity: call it from a
    /// thread that is not pinned to a poll mode core.
    pub fn serve(self, handler: impl Handler, limits: Limits) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            limits,
            clients: Mutex::default(),
        });
        let listener = Arc::new(self.listener);
        let accepting = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::Builder::new()
                .name("control".into())
                .spawn(move || shared.accept(&listener))?
        };
        Ok(Server {
            shared,
            listener,
            accepting: Some(accepting),
            socket: self.socket,
        })
    }
}

impl Server {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Shutting a listening Unix socket down wakes its accept(2) with an error. It cannot fail
        // for a descriptor that we own; if it did, the thread would be left behind.
        let woken =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        {
            let mut clients = self.shared.clients();
            clients.stopping = true;
            for stream in clients.streams.values() {
                // An error means that the client has gone already.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        if let (Ok(()), Some(accepting)) = (woken, self.accepting.take()) {
            // An error is a panic, which the panic hook has reported.
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        // Nothing panics while it holds the lock, and the map is whole after every statement.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        loop {
            let accepted = listener.accept();
            if self.clients().stopping {
                break;
            }
            threads.retain(|thread| !thread.is_finished());
            match accepted {
                Ok((stream, _)) => threads.extend(self.admit(stream)),
                Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => break,
                // Out of descriptors or memory, which only time mends; accept(2) would fail again
                // at once and this loop would spin.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
        for thread in threads {
            // An error is a panic of the handler, which the panic hook has reported.
            let _ = thread.join();
        }
    }

    /// Starts a thread for a client if there is room for one.
    fn admit(self: &Arc<Self>, stream: UnixStream) -> Option<JoinHandle<()>> {
        let refuse = |message: String| {
            let failure = Failure {
                kind: FailureKind::Busy,
                message,
            };
            // The line fits the empty send buffer, so this does not block; if the client has gone,
            // nobody is left to be told.
            let _ = (&stream).write_all(&line_of(&ErrorLine { error: failure }));
        };
        let id = {
            let mut clients = self.clients();
            if clients.stopping {
                return None;
            }
            if clients.streams.len() >= self.limits.clients_max {
                let max = self.limits.clients_max;
                refuse(format!(
                    "{max} clients are connected already: end one, or try again"
                ));
                return None;
            }
            let Ok(copy) = stream.try_clone() else {
                refuse("out of file descriptors: try again".into());
                return None;
            };
            let id = clients.next;
            clients.next += 1;
            clients.streams.insert(id, copy);
            id
        };
        let admitted = Admitted {
            shared: Arc::clone(self),
            id,
        };
        // If no thread can be made, dropping the closure closes the connection and frees its place.
        thread::Builder::new()
            .name("control-client".into())
            .spawn(move || admitted.shared.converse(&stream))
            .ok()
    }

    /// Reads requests and answers them until the client goes, stalls or breaks the framing.
    fn converse(&self, stream: &UnixStream) {
        let mut lines = Lines::new(REQUEST_BYTES_MAX);
        if stream.set_write_timeout(Some(self.limits.unread)).is_err() {
            return;
        }
        loop {
            let line = match lines.next(stream, self.limits.idle) {
                Ok(line) => line,
                Err(LineError::TooLong) => {
                    let failure = Failure {
                        kind: FailureKind::TooLong,
                        message: format!("a request has at most {REQUEST_BYTES_MAX} bytes"),
                    };
                    // Whether it arrives or not, the connection ends here.
                    let _ = { stream }.write_all(&line_of(&ErrorLine { error: failure }));
                    return;
                }
                Err(LineError::Closed | LineError::Late | LineError::Io(_)) => return,
            };
            let sent = match Request::from_line(line) {
                Ok(request) => {
                    let mut responder = Responder::new(stream, &request);
                    self.handler.handle(request, &mut responder);
                    responder.finish()
                }
                Err(failure) => { stream }.write_all(&line_of(&ErrorLine { error: failure })),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// A client's place among [`Limits::clients_max`]; given back however its thread ends.
struct Admitted {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.clients().streams.remove(&self.id);
    }
}

fn line_of(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("answers have string keys only");
    line.push(b'\n');
    line
}

/// Carries the answer to one request. Write errors need no care: they end the connection.
#[derive(Debug)]
pub struct Responder<'a> {
    out: BufWriter<&'a UnixStream>,
    wanted: Kind,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pong,
    Version,
    Status,
    Counters,
    Drain,
    Flows { limit: u64, count_only: bool },
    Change,
    Instructed,
    PolicyLoaded,
    PolicyShown,
    Users,
    Blocks,
    Expectations,
}

#[derive(Debug)]
enum Progress {
    /// The list has `count` elements so far, or nothing was said yet.
    Open { count: u64, truncated: bool },
    /// The answer is complete.
    Answered,
    /// The client cannot be written to.
    Lost(io::Error),
}

/// Why a list should not be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The list has as many elements as were asked for.
    #[error("the list has as many elements as were asked for")]
    Full,
    /// The client has gone, does not read, or asked for something else.
    #[error("the client does not take this list")]
    Unwanted,
}

impl<'a> Responder<'a> {
    fn new(stream: &'a UnixStream, request: &Request) -> Self {
        let wanted = match request {
            Request::Ping => Kind::Pong,
            Request::Version => Kind::Version,
            Request::Status => Kind::Status,
            Request::Counters { .. } => Kind::Counters,
            Request::Drain { .. } | Request::Undrain | Request::DrainProgress { .. } => Kind::Drain,
            Request::Flows { filter, count } => Kind::Flows {
                limit: filter.limit.unwrap_or(u64::MAX),
                count_only: *count,
            },
            Request::Flow(_) => Kind::Instructed,
            Request::User(UserRequest::List) => Kind::Users,
            Request::Block(BlockRequest::List) => Kind::Blocks,
            Request::User(UserRequest::Login { .. } | UserRequest::Logout { .. })
            | Request::Block(BlockRequest::Add { .. } | BlockRequest::Del { .. }) => Kind::Change,
            Request::Policy(PolicyRequest::Load { .. }) => Kind::PolicyLoaded,
            Request::Policy(PolicyRequest::Show) => Kind::PolicyShown,
            Request::Expect(ExpectRequest::List) => Kind::Expectations,
        };
        Self {
            out: BufWriter::with_capacity(32 * 1024, stream),
            wanted,
            progress: Progress::Open {
                count: 0,
                truncated: false,
            },
        }
    }

    /// Answers [`Request::Ping`].
    pub fn pong(&mut self) {
        self.answer(Kind::Pong, &Pong { pong: true });
    }

    /// Answers [`Request::Version`] with the daemon's release.
    pub fn version(&mut self, version: &str) {
        let answer = Version {
            version: version.into(),
            protocol: PROTOCOL,
        };
        self.answer(Kind::Version, &answer);
    }

    /// Answers [`Request::Status`].
    pub fn status(&mut self, status: &Status) {
        self.answer(Kind::Status, status);
    }

    /// Answers [`Request::Counters`].
    pub fn counters(&mut self, report: &CounterReport) {
        self.answer(Kind::Counters, report);
    }

    /// Answers a request that changes common state.
    pub fn change(&mut self, change: &Change) {
        self.answer(Kind::Change, change);
    }

    /// Answers [`Request::Flow`].
    pub fn instructed(&mut self, instructed: &FlowInstructed) {
        self.answer(Kind::Instructed, instructed);
    }

    /// Answers [`PolicyRequest::Load`].
    pub fn policy_loaded(&mut self, loaded: &PolicyLoaded) {
        self.answer(Kind::PolicyLoaded, loaded);
    }

    /// Answers [`PolicyRequest::Show`].
    pub fn policy_shown(&mut self, shown: &PolicyShown) {
        self.answer(Kind::PolicyShown, shown);
    }

    /// Adds a user to the answer to [`UserRequest::List`]. The list's end goes out when the
    /// handler returns.
    pub fn user(&mut self, user: &LoggedIn) -> Result<(), Stop> {
        self.element(Kind::Users, user)
    }

    /// Adds a network to the answer to [`BlockRequest::List`], likewise.
    pub fn block(&mut self, block: &Blocked) -> Result<(), Stop> {
        self.element(Kind::Blocks, block)
    }

    /// Adds a connection to the answer to [`ExpectRequest::List`], likewise.
    pub fn expectation(&mut self, expected: &Expected) -> Result<(), Stop> {
        self.element(Kind::Expectations, expected)
    }

    fn element(&mut self, kind: Kind, element: &impl Serialize) -> Result<(), Stop> {
        match &mut self.progress {
            Progress::Open { count, .. } if kind == self.wanted => *count += 1,
            _ => return Err(Stop::Unwanted),
        }
        self.write(&line_of(element));
        match self.progress {
            Progress::Lost(_) => Err(Stop::Unwanted),
            _ => Ok(()),
        }
    }

    /// Answers [`Request::Drain`], [`Request::Undrain`] and [`Request::DrainProgress`].
    pub fn drain(&mut self, drain: &Drain) {
        self.answer(Kind::Drain, drain);
    }

    /// Adds a flow to the answer to [`Request::Flows`]. The caller has applied the filter, but
    /// needs to mind neither its limit nor whether only the number is wanted. The list's end goes
    /// out when the handler returns.
    pub fn flow(&mut self, flow: &Flow) -> Result<(), Stop> {
        let Kind::Flows { limit, count_only } = self.wanted else {
            return Err(Stop::Unwanted);
        };
        let Progress::Open { count, truncated } = &mut self.progress else {
            return Err(Stop::Unwanted);
        };
        if *count >= limit {
            *truncated = true;
            return Err(Stop::Full);
        }
        *count += 1;
        if count_only {
            return Ok(());
        }
        self.write(&line_of(flow));
        match self.progress {
            Progress::Lost(_) => Err(Stop::Unwanted),
            _ => Ok(()),
        }
    }

    /// Answers with an error, also in the middle of a list.
    pub fn fail(&mut self, kind: FailureKind, message: impl Into<String>) {
        if let Progress::Open { .. } = self.progress {
            self.progress = Progress::Answered;
            let error = Failure {
                kind,
                message: message.into(),
            };
            self.write(&line_of(&ErrorLine { error }));
        }
    }

    fn answer(&mut self, kind: Kind, answer: &impl Serialize) {
        if kind != self.wanted {
            let message = format!("asked for {:?}, the daemon answered {kind:?}", self.wanted);
            self.fail(FailureKind::Internal, message);
            return;
        }
        let line = line_of(answer);
        if line.len() > ANSWER_BYTES_MAX {
            let message = format!("the answer has {} bytes, over the limit", line.len());
            self.fail(FailureKind::Internal, message);
        } else if let Progress::Open { .. } = self.progress {
            self.progress = Progress::Answered;
            self.write(&line);
        }
    }

    fn write(&mut self, line: &[u8]) {
        if let Err(error) = self.out.write_all(line) {
            self.progress = Progress::Lost(error);
        }
    }

    /// Ends a list, complains about an answer that was not given, and sends what is buffered.
    fn finish(mut self) -> io::Result<()> {
        match (&self.progress, self.wanted) {
            (
                &Progress::Open { count, truncated },
                Kind::Flows { .. } | Kind::Users | Kind::Blocks | Kind::Expectations,
            ) => {
                let end = ListEnd {
                    end: true,
                    count,
                    truncated,
                };
                self.write(&line_of(&end));
            }
            (Progress::Open { .. }, wanted) => self.fail(
                FailureKind::Internal,
                format!("the daemon gave no answer to a request for {wanted:?}"),
            ),
            (Progress::Answered | Progress::Lost(_), _) => {}
        }
        // The parts are taken apart so that a failed buffer is not written again on drop.
        let Self {
            mut out, progress, ..
        } = self;
        if let Progress::Lost(error) = progress {
            let _unsent = out.into_parts();
            return Err(error);
        }
        out.flush()
    }
}
