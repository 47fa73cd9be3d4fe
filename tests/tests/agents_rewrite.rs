//! An agent that changes lengths inside of a TCP connection: both ends understand each other, also when the node
//! that carried the connection dies between two of them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use agent::{Client, ToAgent};
use e2e::{LIMIT, cluster, wait_for, wait_whole};
use lab::Cluster;
use lab::node_config::{LabAgent, Settings};

const SERVER: &str = "10.2.0.10:7000";
/// What the client says and the server hears; then what the server says and the client hears.
const WORDS: [(&str, &str); 2] = [
    ("short", "a rather long word"),
    ("a rather long word", "brief"),
];

fn settings() -> Settings {
    Settings {
        agents: vec![LabAgent {
            name: "words".into(),
            service: "tcp/7000",
            // The test is the agent.
            command: vec![],
            when_gone: "drop",
        }],
        ..Settings::new(3)
    }
}

/// Serves as every node's agent until that node ends.
fn be_the_agents(cluster: &Cluster) {
    for index in cluster.living() {
        let mut socket = cluster.socket(index).as_os_str().to_owned();
        socket.push(".agents");
        let socket = PathBuf::from(socket);
        std::thread::spawn(move || {
            let mut client = Client::connect(&socket, "words").expect("the daemon takes it");
            while let Ok(message) = client.receive() {
                if let ToAgent::Packet(packet) = message {
                    let done = match rewritten(&packet.frame, packet.from_opener) {
                        Some(frame) => client.deliver_rewritten(packet.id, frame),
                        None => client.deliver(packet.id),
                    };
                    if done.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// The frame with the other word in the place of the one, if that is in it.
fn rewritten(frame: &[u8], from_opener: bool) -> Option<Vec<u8>> {
    let (word, other) = WORDS[usize::from(!from_opener)];
    let p = wire::parse(frame).expect("the daemon gives whole frames");
    let payload = &frame[usize::from(p.payload)..usize::from(p.end)];
    let text = std::str::from_utf8(payload).ok()?;
    let new = text.replace(word, other);
    (new != text).then(|| wire::rewrite::with_payload(frame, &p, new.as_bytes()).expect("it fits"))
}

/// Answers each line with the same line, once it has the other word; ends with the connection.
fn serve(cluster: &Cluster) -> JoinHandle<usize> {
    let server = cluster.topology().server();
    let listener = server.enter(|| TcpListener::bind(SERVER).expect("nobody listens there"));
    let listener = listener.expect("entered");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        let mut writer = stream.try_clone().expect("another handle");
        let mut lines = 0;
        for line in BufReader::new(stream).lines() {
            let line = line.expect("the connection lives");
            assert_eq!(line, format!("{lines} {}", WORDS[0].1));
            writer
                .write_all(format!("{line}\n").as_bytes())
                .expect("written");
            lines += 1;
        }
        lines
    })
}

struct Talk {
    stream: BufReader<TcpStream>,
    lines: usize,
}

impl Talk {
    fn start(cluster: &Cluster) -> Self {
        let address: SocketAddr = SERVER.parse().expect("an address");
        let client = cluster.topology().client();
        let stream = client.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(4)));
        let stream = stream.expect("entered").expect("the rule allows it");
        stream.set_nodelay(true).expect("an option of TCP");
        stream.set_read_timeout(Some(LIMIT)).expect("above zero");
        Self {
            stream: BufReader::new(stream),
            lines: 0,
        }
    }

    /// Says so many lines, each after the answer to the one before.
    #[track_caller]
    fn go_on(&mut self, lines: usize) {
        for _ in 0..lines {
            let said = format!("{} {}\n", self.lines, WORDS[0].0);
            self.stream
                .get_mut()
                .write_all(said.as_bytes())
                .expect("written");
            let mut heard = String::new();
            self.stream.read_line(&mut heard).expect("an answer");
            assert_eq!(heard, format!("{} {}\n", self.lines, WORDS[1].1));
            self.lines += 1;
        }
    }
}

fn total(cluster: &Cluster, name: &str) -> u64 {
    let of_node = |index| {
        let report = cluster.counters(index).expect("the node answers");
        report.sum.get(name).copied().unwrap_or_default()
    };
    cluster.living().into_iter().map(of_node).sum()
}

#[test]
fn a_rewritten_connection_outlives_the_nodes_that_carried_it() {
    let mut cluster = cluster("erewrite", &settings());
    be_the_agents(&cluster);
    wait_for("the agents to be connected", || {
        match total(&cluster, "agents_connections") {
            3 => Ok(()),
            n => Err(format!("{n} are")),
        }
    });
    let server = serve(&cluster);
    let mut talk = Talk::start(&cluster);
    // More changes than are told apart.
    talk.go_on(20);
    assert_eq!(total(&cluster, "agents_resized"), 40);

    for whole in [true, false] {
        let owner = cluster
            .owner(&["proto=tcp", "dport=7000"])
            .expect("they answer");
        let owner = owner.expect("somebody owns it");
        cluster.kill(owner).expect("it ran");
        talk.go_on(20);
        if whole {
            // Before the next death; the last node is alone.
            wait_whole(&mut cluster);
        }
    }
    assert_eq!(total(&cluster, "drop_agents_resize"), 0);
    assert_eq!(total(&cluster, "agents_malformed"), 0);
    let lines = talk.lines;
    drop(talk);
    assert_eq!(server.join().expect("it heard what it should"), lines);
}
