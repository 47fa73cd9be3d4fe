//! FTP for the tests of the agents: a real server, a control connection that the test speaks itself, and the
//! agents' processes.
//!
//! Everything here panics where a test would: when the lab has no such program, or a reply is another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::Cluster;
use lab::node_config::{LabAgent, Settings};
use lab::process::{Process, Spawn};
use lab::program::{Binaries, run};

use crate::wait_for;

/// The server's address.
pub const SERVER: &str = "10.2.0.10";
const FILE_BYTES: usize = 3_000_000;

/// The lab's settings with the FTP agent on `nodes` nodes.
pub fn settings(nodes: usize, when_gone: &'static str) -> Settings {
    let program = Binaries::locate().and_then(|binaries| binaries.agent_ftp());
    let program = program.expect("built beside the test");
    with_agent(nodes, when_gone, vec![program.display().to_string()])
}

/// The same with this command instead of the agent's.
pub fn with_agent(nodes: usize, when_gone: &'static str, command: Vec<String>) -> Settings {
    Settings {
        agents: vec![LabAgent {
            name: "ftp".into(),
            service: "tcp/21",
            command,
            when_gone,
        }],
        ..Settings::new(nodes)
    }
}

/// vsftpd in the server's namespace, with one file.
#[derive(Debug)]
pub struct Server {
    _process: Process,
    /// The folder that it serves.
    pub files: PathBuf,
    /// The file `file` in it.
    pub file: PathBuf,
}

/// Starts it.
pub fn serve(cluster: &Cluster) -> Server {
    let root = cluster.topology().folder("ftp").expect("a folder");
    let (files, empty) = (root.join("files"), root.join("empty"));
    for folder in [&files, &empty] {
        std::fs::create_dir_all(folder).expect("made");
    }
    // No two parts of it are equal, so that what is lost or comes twice shows.
    let bytes: Vec<u8> = (0..FILE_BYTES as u32 / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let file = files.join("file");
    std::fs::write(&file, bytes).expect("written");
    let config = root.join("vsftpd.conf");
    let text = format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         anon_root={}\nsecure_chroot_dir={}\nnopriv_user=nobody\nftp_username=ftp\n\
         connect_from_port_20=YES\npasv_enable=YES\nport_enable=YES\n\
         seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\n",
        files.display(),
        empty.display()
    );
    std::fs::write(&config, text).expect("written");
    let logs = cluster.topology().folder("logs").expect("a folder");
    let mut process = Spawn::new("vsftpd", "vsftpd")
        .args([&config])
        .inside(&cluster.topology().server())
        .start(cluster.topology().state(), &logs.join("vsftpd.log"))
        .expect("vsftpd starts");
    let server = cluster.topology().server();
    let address: SocketAddr = format!("{SERVER}:21").parse().expect("an address");
    wait_for("vsftpd to listen", || {
        process.must_run().expect("vsftpd runs");
        let local = server.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        local.expect("entered").map(drop).map_err(|e| e.to_string())
    });
    Server {
        _process: process,
        files,
        file,
    }
}

/// The server's file over IPv4 and IPv6.
pub const FILE_V4: &str = "ftp://10.2.0.10/file";
const FILE_V6: &str = "ftp://[fd00:2::10]/file";

/// Every way to fetch it, as arguments for curl: passive and active, extended and not.
pub const MODES: [(&str, &[&str]); 6] = [
    (FILE_V4, &["--disable-epsv"]),
    (FILE_V4, &[]),
    (FILE_V6, &[]),
    (FILE_V4, &["-P", "-", "--disable-eprt"]),
    (FILE_V4, &["-P", "-"]),
    (FILE_V6, &["-P", "-"]),
];

/// A counter, summed over a node's cores.
pub fn counter(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let report = cluster.counters(index).expect("the node answers");
    report.sum.get(name).copied().unwrap_or_default()
}

/// The same over all living nodes.
pub fn total(cluster: &Cluster, name: &str) -> u64 {
    let living = cluster.living().into_iter();
    living.map(|index| counter(cluster, index, name)).sum()
}

/// Waits until each living node has taken so many agents since it started.
pub fn wait_for_agents(cluster: &Cluster, connections: u64) {
    for index in cluster.living() {
        wait_for("the agent to connect", || {
            match counter(cluster, index, "agents_connections") {
                n if n >= connections => Ok(()),
                n => Err(format!("{n} on n{index}")),
            }
        });
    }
}

/// Fetches the file with curl; it must be the server's, byte by byte.
#[track_caller]
pub fn fetch(cluster: &Cluster, server: &Server, url: &str, args: &[&str]) {
    let to = server.file.with_extension("fetched");
    let path = to.display().to_string();
    let all = [&["-sS", "--max-time", "20", "-o", &path, url], args].concat();
    run(Some(&cluster.topology().client()), "curl", &all, "")
        .unwrap_or_else(|error| panic!("{url} {args:?}: {error}"));
    same(&to, server);
}

/// Panics unless what is at the path is the server's file.
#[track_caller]
fn same(path: &Path, server: &Server) {
    let (ours, theirs) = (std::fs::read(path), std::fs::read(&server.file));
    assert!(ours.expect("read") == theirs.expect("read"), "another file");
}

/// A control connection that the test speaks itself.
#[derive(Debug)]
pub struct Control {
    /// The connection.
    pub reader: BufReader<TcpStream>,
    /// The client's port.
    pub port: u16,
}

impl Control {
    /// Connects and logs in.
    pub fn login(cluster: &Cluster) -> Self {
        let stream = connect(cluster, 21).expect("the rule allows it");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("above zero");
        let port = stream.local_addr().expect("connected").port();
        let mut control = Self {
            reader: BufReader::new(stream),
            port,
        };
        control.reply("220");
        control.say("USER ftp", "331");
        control.say("PASS x@example.org", "230");
        control.say("TYPE I", "200");
        control
    }

    /// Reads a line, which must begin with the code.
    #[track_caller]
    pub fn reply(&mut self, code: &str) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(code), "{line:?} instead of {code}");
        line
    }

    /// Sends a command, and reads the reply to it.
    #[track_caller]
    pub fn say(&mut self, command: &str, code: &str) -> String {
        let stream = self.reader.get_mut();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("written");
        self.reply(code)
    }

    /// The port on which the server waits for a data connection.
    #[track_caller]
    pub fn passive(&mut self) -> u16 {
        let reply = self.say("EPSV", "229");
        let port = reply.split('|').nth(3).and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{reply:?}"))
    }

    /// Fetches the file over a data connection that was announced.
    #[track_caller]
    pub fn retrieve(&mut self, cluster: &Cluster, server: &Server, port: u16) {
        let mut data = connect(cluster, port).expect("it was announced");
        self.say("RETR file", "150");
        data.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("above zero");
        let mut bytes = vec![];
        data.read_to_end(&mut bytes).expect("the file");
        let file = std::fs::read(&server.file).expect("read");
        assert!(bytes == file, "another file");
        self.reply("226");
    }
}

/// A connection from the client to a port of the server.
pub fn connect(cluster: &Cluster, port: u16) -> std::io::Result<TcpStream> {
    let address: SocketAddr = format!("{SERVER}:{port}").parse().expect("an address");
    let client = cluster.topology().client();
    // Long enough for a SYN that is sent a second time, after a takeover.
    let connected = client.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(4)));
    connected.expect("entered")
}

/// Ends the programs of all living nodes' agents.
pub fn kill_agents(cluster: &Cluster) {
    for index in cluster.living() {
        kill_agent(cluster, index);
    }
}

/// Ends the program of the node's agent.
pub fn kill_agent(cluster: &Cluster, index: usize) {
    let pid = nix::unistd::Pid::from_raw(agent_pid(cluster, index));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it ran");
}

/// The process of the node's agent, the only child of its daemon.
pub fn agent_pid(cluster: &Cluster, index: usize) -> i32 {
    let daemon = cluster.pid(index).expect("it runs");
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).expect("it runs");
    let children =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<i32> = children
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(children.len(), 1, "children of n{index}: {children:?}");
    children[0]
}
