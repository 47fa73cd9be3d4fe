//! Lines over a Unix stream socket, with a bound on their length and on the time they may take.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Connects, waiting at most `within` (whole milliseconds, not zero) while the server's backlog
/// is full; then the error is `WouldBlock`. The standard library's connect waits without end.
pub(super) fn connect_within(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // The wait for the backlog is bounded by the send timeout: unix(7), socket(7).
    let timeout = TimeVal::new(within.as_secs() as i64, i64::from(within.subsec_micros()));
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

/// Why there is no next line.
#[derive(Debug)]
pub(super) enum LineError {
    /// The line is longer than the bound. The rest of the stream is of no use.
    TooLong,
    /// The line did not arrive whole in time.
    Late,
    /// The other side closed the connection, perhaps in the middle of a line.
    Closed,
    /// The socket failed.
    Io(io::Error),
}

/// Cuts what arrives on a stream into lines.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// What lies before has been handed out.
    start: usize,
    bytes_max: usize,
}

/// How much is asked from the socket at a time.
const CHUNK: usize = 16 * 1024;

impl Lines {
    /// For lines of at most `bytes_max` bytes, their newlines included.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            bytes_max,
        }
    }

    /// The next line, without its newline, if it arrives whole within the given time. The time
    /// is for the line, not for each byte: a sender that trickles does not extend it.
    pub(super) fn next(
        &mut self,
        mut stream: &UnixStream,
        within: Duration,
    ) -> Result<&[u8], LineError> {
        let deadline = Instant::now() + within;
        let mut scanned = self.start;
        let end = loop {
            if let Some(at) = self.buffer[scanned..].iter().position(|b| *b == b'\n') {
                break scanned + at;
            }
            if self.buffer.len() - self.start >= self.bytes_max {
                return Err(LineError::TooLong);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            scanned = self.buffer.len();

            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LineError::Late);
            }
            stream.set_read_timeout(Some(left)).map_err(LineError::Io)?;
            self.buffer.resize(scanned + CHUNK, 0);
            let read = stream.read(&mut self.buffer[scanned..]);
            self.buffer.truncate(scanned + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    return Err(LineError::Closed);
                }
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        return Err(LineError::Late);
                    }
                    // The other side closed with data of ours unread.
                    io::ErrorKind::ConnectionReset => {
                        return Err(LineError::Closed);
                    }
                    _ => return Err(LineError::Io(error)),
                },
            }
        };
        let line = self.start..end;
        self.start = end + 1;
        if line.len() >= self.bytes_max {
            return Err(LineError::TooLong);
        }
        Ok(&self.buffer[line])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn lines_are_cut_where_they_end() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(8);
        near.write_all(b"one\n\n1234567\npart").unwrap();
        assert_eq!(lines.next(&far, SOON).unwrap(), b"one");
        assert_eq!(lines.next(&far, SOON).unwrap(), b"");
        assert_eq!(lines.next(&far, SOON).unwrap(), b"1234567");
        assert!(matches!(lines.next(&far, SOON), Err(LineError::Late)));
        near.write_all(b"ial\n").unwrap();
        assert_eq!(lines.next(&far, SOON).unwrap(), b"partial");
        near.write_all(b"tail").unwrap();
        drop(near);
        assert!(matches!(lines.next(&far, SOON), Err(LineError::Closed)));
    }

    #[test]
    fn a_line_beyond_the_bound_is_refused_with_and_without_its_end() {
        for text in ["12345678\n", "12345678"] {
            let (mut near, far) = UnixStream::pair().unwrap();
            near.write_all(text.as_bytes()).unwrap();
            let mut lines = Lines::new(8);
            assert!(matches!(lines.next(&far, SOON), Err(LineError::TooLong)));
        }
    }
}
