//! The FTP agent with a real server and a real client: data connections that no rule allows pass since they
//! were announced, on whichever node they arrive, and also when the node that heard it is dead.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{LIMIT, cluster, wait_for, wait_whole};
use lab::Cluster;
use lab::node_config::{LabAgent, Settings};
use lab::process::{Process, Spawn};
use lab::program::{Binaries, run};

const SERVER: &str = "10.2.0.10";
const FILE_BYTES: usize = 3_000_000;

fn settings() -> Settings {
    let program = Binaries::locate().and_then(|binaries| binaries.agent_ftp());
    let program = program.expect("built beside the test");
    Settings {
        agents: vec![LabAgent {
            name: "ftp".into(),
            service: "tcp/21",
            command: vec![program.display().to_string()],
            when_gone: "bypass",
        }],
        ..Settings::new(3)
    }
}

/// vsftpd in the server's namespace, with one file.
struct Server {
    _process: Process,
    file: PathBuf,
}

fn serve(cluster: &Cluster) -> Server {
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
        file,
    }
}

/// A counter, summed over a node's cores.
fn counter(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let report = cluster.counters(index).expect("the node answers");
    report.sum.get(name).copied().unwrap_or_default()
}

fn total(cluster: &Cluster, name: &str) -> u64 {
    let living = cluster.living().into_iter();
    living.map(|index| counter(cluster, index, name)).sum()
}

fn wait_for_agents(cluster: &Cluster, connections: u64) {
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
fn fetch(cluster: &Cluster, server: &Server, url: &str, args: &[&str]) {
    let to = server.file.with_extension("fetched");
    let path = to.display().to_string();
    let all = [&["-sS", "--max-time", "20", "-o", &path, url], args].concat();
    run(Some(&cluster.topology().client()), "curl", &all, "")
        .unwrap_or_else(|error| panic!("{url} {args:?}: {error}"));
    same(&to, server);
}

#[track_caller]
fn same(path: &Path, server: &Server) {
    let (ours, theirs) = (std::fs::read(path), std::fs::read(&server.file));
    assert!(ours.expect("read") == theirs.expect("read"), "another file");
}

/// A control connection that the test speaks itself.
struct Control {
    reader: BufReader<TcpStream>,
    port: u16,
}

impl Control {
    fn login(cluster: &Cluster) -> Self {
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

    #[track_caller]
    fn reply(&mut self, code: &str) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(code), "{line:?} instead of {code}");
        line
    }

    #[track_caller]
    fn say(&mut self, command: &str, code: &str) -> String {
        let stream = self.reader.get_mut();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("written");
        self.reply(code)
    }

    /// The port on which the server waits for a data connection.
    #[track_caller]
    fn passive(&mut self) -> u16 {
        let reply = self.say("EPSV", "229");
        let port = reply.split('|').nth(3).and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{reply:?}"))
    }

    /// Fetches the file over a data connection that was announced.
    #[track_caller]
    fn retrieve(&mut self, cluster: &Cluster, server: &Server, port: u16) {
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

fn connect(cluster: &Cluster, port: u16) -> std::io::Result<TcpStream> {
    let address: SocketAddr = format!("{SERVER}:{port}").parse().expect("an address");
    let client = cluster.topology().client();
    // Long enough for a SYN that is sent a second time, after a takeover.
    let connected = client.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(4)));
    connected.expect("entered")
}

#[test]
fn every_mode_passes_with_curl_and_vsftpd() {
    let cluster = cluster("eftp", &settings());
    let server = serve(&cluster);
    wait_for_agents(&cluster, 1);
    let (v4, v6) = ("ftp://10.2.0.10/file", "ftp://[fd00:2::10]/file");
    let modes: [(&str, &[&str]); 6] = [
        (v4, &["--disable-epsv"]),
        (v4, &[]),
        (v6, &[]),
        (v4, &["-P", "-", "--disable-eprt"]),
        (v4, &["-P", "-"]),
        (v6, &["-P", "-"]),
    ];
    for (n, (url, args)) in (1..).zip(modes) {
        fetch(&cluster, &server, url, args);
        assert_eq!(total(&cluster, "flow_expected"), n, "{url} {args:?}");
    }
    assert_eq!(total(&cluster, "agents_malformed"), 0);
    assert_eq!(total(&cluster, "drop_agents_queue"), 0);

    // Rules that are loaded later take the agent away: a control connection is none the worse, and what it
    // announces is refused. With the agent again, it passes.
    let mut control = Control::login(&cluster);
    load_rules(&cluster, "");
    let port = control.passive();
    let refused = connect(&cluster, port).expect_err("nobody expects it");
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
    load_rules(&cluster, "agent = \"ftp\"\n");
    let port = control.passive();
    control.retrieve(&cluster, &server, port);

    // An address that is not the client's: it asks for a connection to somebody else.
    let before = total(&cluster, "flow_expected");
    let stream = control.reader.get_mut();
    stream
        .write_all(b"PORT 10,1,0,11,200,0\r\n")
        .expect("written");
    let mut line = String::new();
    control.reader.read_line(&mut line).expect("a reply");
    let shown = ravelin(&cluster, &["expect", "list"]);
    assert!(!shown.contains("10.1.0.11"), "{shown}");
    assert_eq!(total(&cluster, "flow_expected"), before);

    // A program that ends is started again, and its flows go on.
    kill_agents(&cluster);
    wait_for_agents(&cluster, 2);
    fetch(&cluster, &server, v4, &[]);
}

#[test]
fn a_data_connection_passes_though_the_node_that_heard_of_it_is_dead() {
    let mut cluster = cluster("eftpkill", &settings());
    let server = serve(&cluster);
    wait_for_agents(&cluster, 1);
    let mut control = Control::login(&cluster);
    let port = control.passive();
    let filter = [format!("sport={}", control.port), "dport=21".to_owned()];
    let owner = cluster
        .owner(&[&filter[0], &filter[1]])
        .expect("they answer");
    let owner = owner.expect("somebody owns the control connection");
    cluster.kill(owner).expect("it ran");
    control.retrieve(&cluster, &server, port);
    // And its heir's agent, which did not see the beginning, hears of the next.
    wait_whole(&mut cluster);
    let port = control.passive();
    control.retrieve(&cluster, &server, port);
    assert_eq!(
        cluster.living().len(),
        2,
        "nobody else went away within {LIMIT:?}"
    );
}

fn ravelin(cluster: &Cluster, args: &[&str]) -> String {
    let index = cluster.living()[0];
    let program = cluster.binaries().ravelin().expect("beside the test");
    let socket = cluster.socket(index).display().to_string();
    let args = [&["--socket", &socket], args].concat();
    run(None, &program.display().to_string(), &args, "").unwrap_or_else(|e| panic!("{e}"))
}

/// The lab's rule for FTP, with this in it.
fn load_rules(cluster: &Cluster, more: &str) {
    let folder = cluster.topology().folder("logs").expect("a folder");
    let path = folder.join("rules.toml");
    let text = format!(
        "[[rule]]\nname = \"ftp\"\nfrom = \"inside\"\nto = \"outside\"\nservice = \"tcp/21\"\n\
         action = \"allow\"\nsync = \"ack\"\n{more}"
    );
    std::fs::write(&path, text).expect("written");
    ravelin(cluster, &["policy", "load", &path.display().to_string()]);
}

/// Ends the programs of the nodes' agents, each a child of its daemon.
fn kill_agents(cluster: &Cluster) {
    for index in cluster.living() {
        let daemon = cluster.pid(index).expect("it runs");
        let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).expect("it runs");
        let children = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children: Vec<i32> = children
            .flat_map(|text| {
                let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
                pids.collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(children.len(), 1, "children of n{index}: {children:?}");
        let pid = nix::unistd::Pid::from_raw(children[0]);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it ran");
    }
}
