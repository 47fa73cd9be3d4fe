//! An agent of few lines: says of which connections it sees packets, ends those that carry a forbidden word, and
//! lets everything else go on.
//!
//! ```toml
//! [[agent]]
//! name = "watch"
//! command = ["/usr/local/bin/watch", "secret"]
//! ```
//!
//! and `agent = "watch"` in the rules whose connections it is to see.

use std::collections::HashSet;
use std::env;
use std::path::PathBuf;

use agent::{Client, ClientError, Flow, Request, ToAgent};

fn main() -> Result<(), ClientError> {
    let socket = env::var_os("RAVELIN_AGENT_SOCKET").map(PathBuf::from);
    let socket = socket.unwrap_or_else(|| "/run/ravelin/agents.sock".into());
    let name = env::var("RAVELIN_AGENT_NAME").unwrap_or_else(|_| "watch".into());
    let word = env::args().nth(1).unwrap_or_else(|| "secret".into());

    let mut client = Client::connect(&socket, &name)?;
    let mut seen: HashSet<Flow> = HashSet::new();
    loop {
        // Ends with an error when the daemon does; who started this program starts it again.
        match client.receive()? {
            ToAgent::Packet(packet) => {
                if seen.len() < 10_000 && seen.insert(packet.flow) {
                    println!("{:?}", packet.flow);
                }
                let carries = |window: &[u8]| window == word.as_bytes();
                if packet.frame.windows(word.len().max(1)).any(carries) {
                    client.ask(Request::End { flow: packet.flow })?;
                    client.discard(packet.id)?;
                } else {
                    // Every packet is handed back, or its connection stands still.
                    client.deliver(packet.id)?;
                }
            }
            ToAgent::Answer { token, outcome } => println!("request {token}: {outcome:?}"),
            _ => {}
        }
    }
}
