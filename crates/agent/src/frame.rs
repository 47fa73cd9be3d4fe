//! Messages as bytes: a length of four bytes, little-endian, then that many bytes of an rkyv archive, checked
//! before it is read.

use std::io::{self, Read, Write};

use rkyv::rancor;

use crate::{ToAgent, ToDaemon};

/// The longest archive, in bytes: a frame of the longest packet and what is said of it.
pub const LEN_MAX: usize = 96 << 10;
/// The longest first message of an agent, which may be anybody until then.
pub const HELLO_LEN_MAX: usize = 1 << 10;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side has ended the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed, or ended within a message.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// More bytes than a message may have.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Bytes that are no message.
    #[error("the bytes are no message of this version")]
    Malformed,
}

mod sealed {
    pub trait Message: Sized {
        fn to_archive(&self) -> Result<rkyv::util::AlignedVec, rkyv::rancor::Error>;
        fn from_archive(bytes: &[u8]) -> Result<Self, rkyv::rancor::Error>;
    }
}

/// What can be sent: [`ToAgent`] and [`ToDaemon`].
pub trait Message: sealed::Message {}

macro_rules! message {
    ($type:ty) => {
        impl sealed::Message for $type {
            fn to_archive(&self) -> Result<rkyv::util::AlignedVec, rancor::Error> {
                rkyv::to_bytes(self)
            }
            fn from_archive(bytes: &[u8]) -> Result<Self, rancor::Error> {
                rkyv::from_bytes(bytes)
            }
        }
        impl Message for $type {}
    };
}
message!(ToAgent);
message!(ToDaemon);

/// The message with its length in front.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let archive = message.to_archive().map_err(|_| FrameError::Malformed)?;
    if archive.len() > LEN_MAX {
        return Err(FrameError::TooLong(archive.len()));
    }
    let mut bytes = Vec::with_capacity(4 + archive.len());
    bytes.extend_from_slice(&(archive.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&archive);
    Ok(bytes)
}

/// Writes a message whole.
///
/// # Errors
/// When it is too long, or the connection fails.
pub fn write<M: Message>(to: &mut impl Write, message: &M) -> Result<(), FrameError> {
    Ok(to.write_all(&encode(message)?)?)
}

/// Reads a message of at most `len_max` bytes.
///
/// # Errors
/// At the end, when the connection fails, and for bytes that are no message; after any of these nothing
/// more can be read.
pub fn read<M: Message>(from: &mut impl Read, len_max: usize) -> Result<M, FrameError> {
    let mut len = [0; 4];
    // Only an end before the first byte is a clean one.
    loop {
        match from.read(&mut len[..1]) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    from.read_exact(&mut len[1..])?;
    let mut archive = vec![0; claimed(len, len_max)?];
    from.read_exact(&mut archive)?;
    decode(&archive)
}

/// How many bytes the archive has, if a message may have so many.
fn claimed(len: [u8; 4], len_max: usize) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(len) as usize;
    if len > len_max {
        return Err(FrameError::TooLong(len));
    }
    Ok(len)
}

fn decode<M: Message>(archive: &[u8]) -> Result<M, FrameError> {
    M::from_archive(archive).map_err(|_| FrameError::Malformed)
}

/// Bytes in, messages out, for who cannot wait within a message. It keeps no more than what was pushed and is not yet
/// a whole message: push no more before [`Decoder::message`] has nothing.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Where the next message begins.
    at: usize,
}

impl Decoder {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message of at most `len_max` bytes, if all of it is there.
    ///
    /// # Errors
    /// For bytes that are no message; the same again each time after that.
    pub fn message<M: Message>(&mut self, len_max: usize) -> Result<Option<M>, FrameError> {
        let Some((len, rest)) = self.bytes[self.at..].split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = claimed(*len, len_max)?;
        let Some(archive) = rest.get(..len) else {
            return Ok(None);
        };
        let message = decode(archive)?;
        self.at += 4 + len;
        Ok(Some(message))
    }

    /// What the end of the connection is now: between two messages or within one.
    pub fn end(&self) -> FrameError {
        if self.at == self.bytes.len() {
            FrameError::Closed
        } else {
            FrameError::Io(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
