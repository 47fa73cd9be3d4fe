//! Claiming the path of the control socket.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::{Group, chown};

use super::super::SOCKET;
use super::super::line::connect_within;

/// Where to listen, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket's path; its folder is created when missing. At most 107 bytes.
    pub path: PathBuf,
    /// Its mode; whoever may write to it may use it.
    pub mode: u32,
    /// Its group by name; none leaves it the daemon's.
    pub group: Option<String>,
}

impl Default for Endpoint {
    /// [`SOCKET`], mode 0660, no group.
    fn default() -> Self {
        Self {
            path: SOCKET.into(),
            mode: 0o660,
            group: None,
        }
    }
}

/// A claimed socket: clients can connect and wait, nobody answers them yet. Continue with
/// [`serve`](Self::serve).
#[derive(Debug)]
pub struct Bound {
    /// Dropped before the listener, which keeps the file's inode from being given to another.
    pub(super) socket: SocketFile,
    pub(super) listener: UnixListener,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// How long a listener whose backlog is full may leave us in doubt whether it lives.
const PROBE: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Claims the path. A socket that nobody listens on is replaced; one that somebody listens on
    /// is [`BindError::Live`]. Mode and group are set before anybody can connect.
    pub fn bind(&self) -> Result<Bound, BindError> {
        let path = self.path.as_path();
        let fail = |doing| {
            move |source: io::Error| BindError::Io {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        let address = UnixAddr::new(path).map_err(|error| match error {
            Errno::ENAMETOOLONG => BindError::PathLong { path: path.into() },
            other => fail("use the path")(other.into()),
        })?;
        let group = match &self.group {
            None => None,
            Some(name) => Some(
                Group::from_name(name)
                    .map_err(|error| fail("look the group up for")(error.into()))?
                    .ok_or_else(|| BindError::NoGroup {
                        group: name.clone(),
                    })?,
            ),
        };

        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(fail("create the folder of"))?;
        // Two daemons that start at once must not both find the same stale socket and replace each
        // other's. The lock is on the folder, so that no lock file is left behind.
        let _claiming = File::open(folder)
            .and_then(|folder| {
                Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
            })
            .map_err(fail("lock the folder of"))?;
        remove_stale(path)?;

        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|error| fail("make a socket for")(error.into()))?;
        bind(fd.as_raw_fd(), &address).map_err(|error| fail("bind")(error.into()))?;
        let socket = SocketFile::of(path).map_err(fail("look at"))?;
        // Until listen(2) a connection is refused, whatever the mode.
        if let Some(group) = group {
            chown(path, None, Some(group.gid)).map_err(|error| BindError::Group {
                group: group.name,
                path: path.into(),
                source: error.into(),
            })?;
        }
        fs::set_permissions(path, Permissions::from_mode(self.mode))
            .map_err(fail("set the mode of"))?;
        let backlog = Backlog::new(BACKLOG).expect("below the system's limit");
        listen(&fd, backlog).map_err(|error| fail("listen on")(error.into()))?;
        Ok(Bound {
            listener: UnixListener::from(fd),
            socket,
        })
    }
}

/// Frees the path, if what is there is a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io = |doing, source| BindError::Io {
        doing,
        path: path.into(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotSocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match connect_within(path, PROBE) {
        Ok(_) => Err(BindError::Live { path: path.into() }),
        Err(error) => match error.kind() {
            // A full backlog: somebody listens, though slowly.
            io::ErrorKind::WouldBlock => Err(BindError::Live { path: path.into() }),
            io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| io("remove the stale", error))
            }
            _ => Err(io("find out who listens on", error)),
        },
    }
}

/// Removes the socket on drop, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            identity: identity(path)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If it cannot be removed it is stale, which the next daemon finds out.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Why the socket cannot be claimed.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "`path` is the socket, the rest is said by the message"
)]
pub enum BindError {
    /// Somebody listens there.
    #[error("another ravelind is using {}: stop it, or set another socket in [control]", path.display())]
    Live { path: PathBuf },
    /// Something else is there.
    #[error("{} exists and is no socket: move it away, or set another socket in [control]", path.display())]
    NotSocket { path: PathBuf },
    /// The path does not fit the address of a socket.
    #[error("{} is too long for a socket: use at most 107 bytes", path.display())]
    PathLong { path: PathBuf },
    /// There is no such group.
    #[error("there is no group {group:?} on this machine: create it, or set another in [control]")]
    NoGroup { group: String },
    /// The group cannot be given to the socket.
    #[error("cannot give {} to group {group}: {source}; run as root or as a member of it", path.display())]
    Group {
        group: String,
        path: PathBuf,
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}
