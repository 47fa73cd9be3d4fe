//! An agent that waits for somebody else: of each new connection it asks a service whether it may be, and keeps the
//! connection's packets until that has answered. Other connections go on meanwhile.
//!
//! ```toml
//! [[agent]]
//! name = "verdict"
//! command = ["/usr/local/bin/verdict", "/run/verdict.sock"]
//! ```
//!
//! and `agent = "verdict"` in the rules whose connections it is to see. The service listens on that Unix socket; it is
//! sent one line, `10.1.0.10 40000 10.2.0.10 80 6`, and answers `y` or anything else.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use agent::asynchronous::{Client, Sender};
use agent::{ClientError, Flow, Packet, Request, ToAgent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Packets of one connection that may wait for the verdict; more are dropped, and sent again by their sender.
const WAITING_MAX: usize = 16;
const SERVICE_PATIENCE: Duration = Duration::from_secs(2);
/// A connection that was quiet for so long is asked about anew.
const QUIET: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let socket = env::var_os("RAVELIN_AGENT_SOCKET").map(PathBuf::from);
    let socket = socket.unwrap_or_else(|| "/run/ravelin/agents.sock".into());
    let name = env::var("RAVELIN_AGENT_NAME").unwrap_or_else(|_| "verdict".into());
    let service = env::args_os().nth(1).map(PathBuf::from);
    let service = service.unwrap_or_else(|| "/run/verdict.sock".into());

    let mut client = Client::connect(&socket, &name).await?;
    let sender = client.sender();
    // One task for each connection keeps the order of its packets.
    let mut tasks: HashMap<Flow, mpsc::Sender<Packet>> = HashMap::new();
    loop {
        let ToAgent::Packet(packet) = client.receive().await? else {
            continue;
        };
        if tasks.get(&packet.flow).is_none_or(mpsc::Sender::is_closed) {
            tasks.retain(|_, task| !task.is_closed());
            let (to, packets) = mpsc::channel(WAITING_MAX);
            tokio::spawn(serve(packet.flow, packets, sender.clone(), service.clone()));
            tasks.insert(packet.flow, to);
        }
        if let Err(full) = tasks[&packet.flow].try_send(packet) {
            // Every packet is handed back, or the agent's queue fills up.
            sender.discard(full.into_inner().id).await?;
        }
    }
}

async fn serve(flow: Flow, mut packets: mpsc::Receiver<Packet>, sender: Sender, service: PathBuf) {
    let allowed = timeout(SERVICE_PATIENCE, ask(&service, &flow)).await;
    let allowed = matches!(allowed, Ok(Ok(true)));
    if !allowed && sender.ask(Request::End { flow }).await.is_err() {
        return;
    }
    // An error says that the daemon is gone, which ends the program in `main`.
    while let Ok(Some(packet)) = timeout(QUIET, packets.recv()).await {
        let handed = match allowed {
            true => sender.deliver(packet.id).await,
            false => sender.discard(packet.id).await,
        };
        if handed.is_err() {
            return;
        }
    }
}

async fn ask(service: &PathBuf, flow: &Flow) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(service).await?;
    let Flow {
        src,
        sport,
        dst,
        dport,
        ..
    } = flow;
    let line = format!("{src} {sport} {dst} {dport} {}\n", flow.proto);
    stream.write_all(line.as_bytes()).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    Ok(answer == *b"y")
}
