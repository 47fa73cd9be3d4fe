//! An agent's side of the connection, blocking.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::frame::{self, FrameError, LEN_MAX};
use crate::{PROTOCOL_VERSION, Request, ToAgent, ToDaemon};

/// Why there is no connection, or no message.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed or ended.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The daemon does not take this agent.
    #[error("the daemon refuses this agent: {0}")]
    Refused(String),
    /// Something else than a welcome came first.
    #[error("the daemon did not answer the greeting")]
    Unexpected,
}

/// A connection to the daemon. Dropping it ends it: the daemon then does with what the agent had what
/// `when_gone` says.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    last_token: u64,
}

impl Client {
    /// Connects as the agent of this name.
    ///
    /// # Errors
    /// When nobody listens there, or the daemon does not take the agent.
    pub fn connect(socket: &Path, name: &str) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(FrameError::from)?;
        let mut client = Self {
            reader: BufReader::new(stream.try_clone().map_err(FrameError::from)?),
            writer: stream,
            last_token: 0,
        };
        client.send(&ToDaemon::Hello {
            version: PROTOCOL_VERSION,
            name: name.to_owned(),
        })?;
        match client.receive()? {
            ToAgent::Welcome { .. } => Ok(client),
            ToAgent::Refused { reason } => Err(ClientError::Refused(reason)),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the connection has ended, as it does with the daemon.
    pub fn receive(&mut self) -> Result<ToAgent, ClientError> {
        Ok(frame::read(&mut self.reader, LEN_MAX)?)
    }

    /// Sends a packet on as it came.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn deliver(&mut self, id: u64) -> Result<(), ClientError> {
        self.send(&ToDaemon::Deliver { id, frame: None })
    }

    /// Sends another frame in a packet's place: of the same flow, with right checksums; of TCP with the same sequence numbers
    /// and flags. It may carry more or less data, as long as that is not nothing: the daemon puts the numbers of what
    /// follows right, on every node. A segment that is sent again must be given the same data again.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn deliver_rewritten(&mut self, id: u64, frame: Vec<u8>) -> Result<(), ClientError> {
        let frame = Some(frame);
        self.send(&ToDaemon::Deliver { id, frame })
    }

    /// Drops a packet.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn discard(&mut self, id: u64) -> Result<(), ClientError> {
        self.send(&ToDaemon::Discard { id })
    }

    /// Asks for something; returns the token of the answer.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn ask(&mut self, request: Request) -> Result<u64, ClientError> {
        self.last_token += 1;
        let token = self.last_token;
        self.send(&ToDaemon::Ask { token, request })?;
        Ok(token)
    }

    fn send(&mut self, message: &ToDaemon) -> Result<(), ClientError> {
        frame::write(&mut self.writer, message)?;
        Ok(self.writer.flush().map_err(FrameError::from)?)
    }
}
