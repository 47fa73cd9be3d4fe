//! An agent that lets everything go on as it came. The benchmark's case `hold-latency` measures the way through it.

use std::env;
use std::path::PathBuf;

use agent::{Client, ClientError, ToAgent};

fn main() -> Result<(), ClientError> {
    let socket = env::var_os("RAVELIN_AGENT_SOCKET").map(PathBuf::from);
    let socket = socket.unwrap_or_else(|| "/run/ravelin/agents.sock".into());
    let name = env::var("RAVELIN_AGENT_NAME").unwrap_or_else(|_| "pass".into());
    let mut client = Client::connect(&socket, &name)?;
    loop {
        if let ToAgent::Packet(packet) = client.receive()? {
            client.deliver(packet.id)?;
        }
    }
}
