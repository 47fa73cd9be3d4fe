//! An agent's side of the connection for programs that use tokio (feature `tokio`). What is said is the same as with the
//! blocking [`crate::Client`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::frame::{self, Decoder, FrameError, LEN_MAX};
use crate::{ClientError, PROTOCOL_VERSION, Request, ToAgent, ToDaemon};

/// Messages that may wait to be written. Whoever finds no room waits.
pub const SEND_QUEUE: usize = 256;
/// Bytes that are read at a time.
const READ_BYTES: usize = 16 << 10;

/// A connection to the daemon: receives. Dropping it ends the connection, with what waits to be written:
/// [`Client::close`] writes that first.
#[derive(Debug)]
pub struct Client {
    reader: OwnedReadHalf,
    chunk: Box<[u8]>,
    decoder: Decoder,
    sender: Sender,
    writer: JoinHandle<()>,
}

/// Sends over a [`Client`]'s connection; each clone does. A message is queued whole or, if the future is dropped
/// before it is done, not at all.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<Vec<u8>>,
    last_token: Arc<AtomicU64>,
}

impl Client {
    /// Connects as the agent of this name. Within a tokio runtime: what is sent is written by a task of its own.
    ///
    /// # Errors
    /// When nobody listens there, or the daemon does not take the agent.
    pub async fn connect(socket: &Path, name: &str) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(FrameError::from)?;
        let (reader, writer) = stream.into_split();
        let (queue, queued) = mpsc::channel(SEND_QUEUE);
        let mut client = Self {
            reader,
            chunk: vec![0; READ_BYTES].into(),
            decoder: Decoder::default(),
            sender: Sender {
                queue,
                last_token: Arc::default(),
            },
            writer: tokio::spawn(write(writer, queued)),
        };
        let hello = ToDaemon::Hello {
            version: PROTOCOL_VERSION,
            name: name.to_owned(),
        };
        client.sender.send(&hello).await?;
        match client.receive().await? {
            ToAgent::Welcome { .. } => Ok(client),
            ToAgent::Refused { reason } => Err(ClientError::Refused(reason)),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Waits for the next message. Cancel safe: when the future is dropped before it is done, nothing is lost, and the
    /// next call goes on from there, also within a message.
    ///
    /// # Errors
    /// When the connection has ended, as it does with the daemon.
    pub async fn receive(&mut self) -> Result<ToAgent, ClientError> {
        loop {
            if let Some(message) = self.decoder.message(LEN_MAX)? {
                return Ok(message);
            }
            // The only await: what it has read is in the decoder before the next one.
            let read = self.reader.read(&mut self.chunk).await;
            match read.map_err(FrameError::from)? {
                0 => return Err(self.decoder.end().into()),
                read => self.decoder.push(&self.chunk[..read]),
            }
        }
    }

    /// What sends over this connection.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Ends the connection after all that was sent is written. Waits until all [`Sender`]s are gone.
    ///
    /// # Errors
    /// When the connection has ended before.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let (gone, _) = mpsc::channel(1);
        self.sender.queue = gone;
        let written = (&mut self.writer).await;
        written.map_err(|_| FrameError::Closed.into())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It would write on as long as a sender lives.
        self.writer.abort();
    }
}

impl Sender {
    /// Sends a packet on as it came.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn deliver(&self, id: u64) -> Result<(), ClientError> {
        self.send(&ToDaemon::Deliver { id, frame: None }).await
    }

    /// Sends another frame in a packet's place: of the same flow, with right checksums.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn deliver_rewritten(&self, id: u64, frame: Vec<u8>) -> Result<(), ClientError> {
        let frame = Some(frame);
        self.send(&ToDaemon::Deliver { id, frame }).await
    }

    /// Drops a packet.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn discard(&self, id: u64) -> Result<(), ClientError> {
        self.send(&ToDaemon::Discard { id }).await
    }

    /// Asks for something; returns the token of the answer, which [`Client::receive`] brings.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn ask(&self, request: Request) -> Result<u64, ClientError> {
        let token = self.last_token.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(&ToDaemon::Ask { token, request }).await?;
        Ok(token)
    }

    async fn send(&self, message: &ToDaemon) -> Result<(), ClientError> {
        let bytes = frame::encode(message)?;
        let sent = self.queue.send(bytes).await;
        sent.map_err(|_| FrameError::Closed.into())
    }
}

/// Writes what is queued until there is nobody left to queue anything, or the connection has ended.
async fn write(mut writer: OwnedWriteHalf, mut queued: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queued.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
