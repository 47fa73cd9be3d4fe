//! The TFTP and SIP agents with real servers and real clients: transfers and media that no rule allows pass since
//! they were announced, also when the node that heard it is dead, and do not without the agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{LIMIT, cluster, wait_for, wait_whole};
use lab::node_config::{LabAgent, Settings};
use lab::process::{Process, Spawn};
use lab::program::{Binaries, run};
use lab::{Cluster, Namespace};

/// The addresses of client and server.
#[derive(Clone, Copy)]
struct Ends {
    client: IpAddr,
    server: IpAddr,
}

const V4: Ends = Ends {
    client: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 10)),
    server: IpAddr::V4(Ipv4Addr::new(10, 2, 0, 10)),
};
const V6: Ends = Ends {
    client: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10)),
    server: IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10)),
};
const FILE_BYTES: usize = 3_000_000;
/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_secs(2);
/// Where the SIP server takes RTP, and the client.
const SERVER_MEDIA: u16 = 6000;
const CLIENT_MEDIA: u16 = 7000;

/// A cluster whose rules allow requests and calls, each node with both agents; or with none of them, which then
/// are waited for in vain.
fn start(id: &str, with_agents: bool) -> Cluster {
    let binaries = Binaries::locate().expect("a folder");
    let agent = |name: &str, service, program: lab::Result<PathBuf>| LabAgent {
        name: name.into(),
        service,
        command: with_agents
            .then(|| {
                program
                    .expect("built beside the test")
                    .display()
                    .to_string()
            })
            .into_iter()
            .collect(),
        when_gone: "bypass",
    };
    let settings = Settings {
        agents: vec![
            agent("tftp", "udp/69", binaries.agent_tftp()),
            agent("sip", "udp/5060", binaries.agent_sip()),
        ],
        ..Settings::new(3)
    };
    let cluster = cluster(id, &settings);
    let wanted = if with_agents { 2 } else { 0 };
    for index in cluster.living() {
        wait_for("the agents to connect", || {
            match counter(&cluster, index, "agents_connections") {
                n if n >= wanted => Ok(()),
                n => Err(format!("{n} on n{index}")),
            }
        });
    }
    cluster
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

fn logs(cluster: &Cluster) -> PathBuf {
    cluster.topology().folder("logs").expect("a folder")
}

/// A socket with an address in a namespace; port 0 for any.
fn socket(namespace: &Namespace, address: IpAddr, port: u16) -> UdpSocket {
    let at = SocketAddr::new(address, port);
    let socket = namespace.enter(|| UdpSocket::bind(at)).expect("entered");
    socket.unwrap_or_else(|error| panic!("{at}: {error}"))
}

impl Ends {
    fn in_client(self, cluster: &Cluster, port: u16) -> UdpSocket {
        socket(&cluster.topology().client(), self.client, port)
    }

    fn in_server(self, cluster: &Cluster, port: u16) -> UdpSocket {
        socket(&cluster.topology().server(), self.server, port)
    }
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("bound").port()
}

/// What arrives at a socket within the time, and from where.
fn receive(socket: &UdpSocket, within: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    socket.set_read_timeout(Some(within)).expect("above zero");
    let mut datagram = [0; 2048];
    let (len, from) = socket.recv_from(&mut datagram).ok()?;
    Some((datagram[..len].to_vec(), from))
}

/// Sends until it arrives: while a node that has died is missed, datagrams are lost.
#[track_caller]
fn must_arrive(from: &UdpSocket, to: &UdpSocket, text: &[u8]) {
    let address = to.local_addr().expect("bound");
    wait_for("a datagram that was announced", || {
        from.send_to(text, address).expect("sent");
        match receive(to, Duration::from_millis(200)) {
            Some((datagram, _)) if datagram == text => Ok(()),
            other => Err(format!("{other:?} at {address}")),
        }
    });
}

/// Sends a few times what must not arrive.
#[track_caller]
fn must_not_arrive(from: &UdpSocket, to: &UdpSocket, text: &[u8]) {
    let address = to.local_addr().expect("bound");
    for _ in 0..3 {
        from.send_to(text, address).expect("sent");
    }
    assert_eq!(receive(to, SILENCE), None, "at {address}");
}

/// Kills the node that has a flow, which it has heard something of.
fn kill_owner(cluster: &mut Cluster, sport: u16, dport: u16) {
    let filter = [format!("sport={sport}"), format!("dport={dport}")];
    let owner = cluster.owner(&[&filter[0], &filter[1]]);
    let owner = owner.expect("they answer").expect("somebody has the flow");
    cluster.kill(owner).expect("it ran");
}

fn expected(cluster: &Cluster) -> String {
    let program = cluster.binaries().ravelin().expect("beside the test");
    let socket = cluster.socket(cluster.living()[0]).display().to_string();
    let args = ["--socket", &socket, "expect", "list"];
    run(None, &program.display().to_string(), &args, "").unwrap_or_else(|error| panic!("{error}"))
}

/// in.tftpd in the server's namespace, with one file and room for another.
struct Tftpd {
    _process: Process,
    folder: PathBuf,
}

impl Tftpd {
    fn start(cluster: &Cluster) -> Self {
        let folder = cluster.topology().folder("tftp").expect("a folder");
        // No two parts of it are equal, so that what is lost or comes twice shows.
        let bytes: Vec<u8> = (0..FILE_BYTES as u32 / 4)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        std::fs::write(folder.join("file"), bytes).expect("written");
        // It writes only what is there already, and anybody's.
        let there = folder.join("there");
        std::fs::write(&there, "").expect("written");
        for (path, mode) in [(&folder, 0o755), (&there, 0o666)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("ours");
        }
        let log = logs(cluster).join("in.tftpd.log");
        let mut process = Spawn::new("in.tftpd", "/usr/sbin/in.tftpd")
            .args(["--foreground", "--address", ":69", "--secure"])
            .args([&folder])
            .inside(&cluster.topology().server())
            .start(cluster.topology().state(), &log)
            .expect("in.tftpd starts");
        let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        wait_for("in.tftpd to listen", || {
            process.must_run().expect("it runs");
            let server = cluster.topology().server();
            for name in ["udp", "udp6"] {
                let text = server.enter(|| table(name)).expect("entered");
                // Port 69, in the column of local addresses.
                if !text.expect("read").contains(":0045 ") {
                    return Err(format!("not in {name}"));
                }
            }
            Ok(())
        });
        Self {
            _process: process,
            folder,
        }
    }

    fn same(&self, one: &Path, other: &str) {
        let (one, other) = (std::fs::read(one), std::fs::read(self.folder.join(other)));
        assert!(one.expect("read") == other.expect("read"), "another file");
    }
}

fn curl(cluster: &Cluster, args: &[&str]) -> lab::Result<String> {
    let all = [&["-sS", "--max-time", "30"], args].concat();
    run(Some(&cluster.topology().client()), "curl", &all, "")
}

#[test]
fn files_are_read_and_written_with_curl_and_tftpd() {
    let cluster = start("etftp", true);
    let server = Tftpd::start(&cluster);
    let to = logs(&cluster).join("fetched");
    let path = to.display().to_string();
    let (v4, v6) = ("tftp://10.2.0.10/", "tftp://[fd00:2::10]/");
    // Blocks of 512 octets without the option, and others with it.
    let sizes: [&[&str]; 2] = [&["--tftp-no-options"], &["--tftp-blksize", "1400"]];
    let mut transfers = 0;
    for (base, size) in [(v4, sizes[0]), (v4, sizes[1]), (v6, sizes[1])] {
        let url = format!("{base}file");
        let args = [size, &["-o", &path, &url]].concat();
        curl(&cluster, &args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        server.same(&to, "file");
        transfers += 1;
        assert_eq!(total(&cluster, "flow_expected"), transfers, "{args:?}");
    }
    for base in [v4, v6] {
        std::fs::write(server.folder.join("there"), "").expect("emptied");
        let url = format!("{base}there");
        let args = [sizes[1], &["-T", &path, &url]].concat();
        curl(&cluster, &args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        // curl does not wait until the last block is on the server's disk.
        wait_for("the file to be whole", || {
            let len = std::fs::metadata(server.folder.join("there")).expect("there");
            match len.len() {
                len if len == FILE_BYTES as u64 => Ok(()),
                len => Err(format!("{len} bytes")),
            }
        });
        server.same(&to, "there");
        transfers += 1;
        assert_eq!(total(&cluster, "flow_expected"), transfers, "{args:?}");
    }
    assert_eq!(total(&cluster, "agents_malformed"), 0);
    assert_eq!(total(&cluster, "agents_requests_refused"), 0);
}

#[test]
fn an_answer_passes_though_the_node_that_heard_the_request_is_dead() {
    let mut cluster = start("etftpkil", true);
    let (client, server) = (V4.in_client(&cluster, 0), V4.in_server(&cluster, 69));
    // Something else than a request is nobody's business.
    must_arrive(&client, &server, b"\0\x01file\0");
    must_not_arrive(&V4.in_server(&cluster, 0), &client, b"\0\x05\0\0no\0");
    let request = b"\0\x01file\0octet\0blksize\x001400\0";
    // Once more than needed, as a client that is impatient does.
    for _ in 0..2 {
        client.send_to(request, (V4.server, 69)).expect("sent");
        let (datagram, from) = receive(&server, LIMIT).expect("the rule allows it");
        assert_eq!(datagram, request);
        assert_eq!(from.port(), port_of(&client));
    }
    kill_owner(&mut cluster, port_of(&client), 69);
    let answer = V4.in_server(&cluster, 0);
    must_arrive(&answer, &client, b"\0\x06blksize\x001400\0");
    must_arrive(&client, &answer, b"\0\x04\0\0");
    must_arrive(&answer, &client, b"\0\x03\0\x01data");
    assert_eq!(total(&cluster, "flow_expected"), 1);
    // It is used up: nobody else may send there, and the client to nobody else.
    wait_whole(&mut cluster);
    let other = V4.in_server(&cluster, 0);
    must_not_arrive(&other, &client, b"\0\x03\0\x01other");
    must_not_arrive(&client, &other, b"\0\x04\0\x01");
    // Its heir's agent hears of the next, from another port.
    let client = V4.in_client(&cluster, 0);
    client.send_to(request, (V4.server, 69)).expect("sent");
    assert!(receive(&server, LIMIT).is_some());
    must_arrive(&other, &client, b"\0\x03\0\x01data");
}

/// sipp as server, which sends back what comes to its media port.
fn sip_server(cluster: &Cluster, ends: Ends) -> Process {
    let (address, media) = (ends.server.to_string(), SERVER_MEDIA.to_string());
    let log = logs(cluster).join("sipp-server.log");
    let mut process = Spawn::new("sipp-server", "sipp")
        .args(["-sn", "uas", "-nostdin", "-rtp_echo"])
        .args(["-i", &address, "-mi", &address, "-mp", &media])
        .inside(&cluster.topology().server())
        .start(cluster.topology().state(), &log)
        .expect("sipp starts");
    wait_for("sipp to listen", || {
        process.must_run().expect("sipp runs");
        let server = cluster.topology().server();
        let table = if ends.server.is_ipv6() { "udp6" } else { "udp" };
        let path = format!("/proc/thread-self/net/{table}");
        let table = server.enter(|| std::fs::read_to_string(&path));
        let text = table.expect("entered").expect("read");
        // Ports 5060 and 6000.
        match [":13C4 ", ":1770 "].iter().all(|port| text.contains(port)) {
            true => Ok(()),
            false => Err(text),
        }
    });
    process
}

/// sipp as client, which announces a port that the test has. Returns when the call is made.
fn call(cluster: &Cluster, ends: Ends) -> Process {
    let folder = logs(cluster);
    let text = include_str!("sipp/call.xml").replace("MEDIA_PORT", &CLIENT_MEDIA.to_string());
    let scenario = folder.join("call.xml");
    std::fs::write(&scenario, text).expect("written");
    let before = total(cluster, "forwarded");
    let to = SocketAddr::new(ends.server, 5060).to_string();
    let address = ends.client.to_string();
    let scenario = scenario.display().to_string();
    let mut process = Spawn::new("sipp-client", "sipp")
        .args(["-sf", &scenario, "-nostdin", "-m", "1", "-d", "4000"])
        .args(["-i", &address, "-mi", &address, &to])
        .inside(&cluster.topology().client())
        .start(cluster.topology().state(), &folder.join("sipp-client.log"))
        .expect("sipp starts");
    wait_for("the call to be made", || {
        process.must_run().expect("sipp runs");
        // INVITE, 180, 200 and ACK.
        match total(cluster, "forwarded") - before {
            n if n >= 4 => Ok(()),
            n => Err(format!("{n} messages")),
        }
    });
    process
}

#[track_caller]
fn must_end_well(mut call: Process) {
    let status = call.wait_timeout(LIMIT).expect("it is ours");
    let status = status.expect("the call ends");
    assert!(status.success(), "{status}: {:?}", call.log());
}

/// Media and RTCP in both directions, from announced ports and from others.
fn media_passes(cluster: &Cluster, ends: Ends) {
    let before = total(cluster, "flow_expected");
    let rtp = ends.in_client(cluster, CLIENT_MEDIA);
    wait_for("the server to send media back", || {
        rtp.send_to(b"media", (ends.server, SERVER_MEDIA))
            .expect("sent");
        match receive(&rtp, Duration::from_millis(200)) {
            Some((datagram, from)) if datagram == b"media" && from.port() == SERVER_MEDIA => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let rtcp = [
        ends.in_client(cluster, CLIENT_MEDIA + 1),
        ends.in_server(cluster, SERVER_MEDIA + 1),
    ];
    let others = [ends.in_client(cluster, 0), ends.in_server(cluster, 0)];
    must_arrive(&others[0], &rtcp[1], b"report");
    must_arrive(&others[1], &rtcp[0], b"report");
    // The server has a second port for what it sends.
    must_arrive(&others[1], &rtp, b"media");
    assert_eq!(total(cluster, "flow_expected"), before + 4);
    // Each was for one, and no other port was announced.
    must_not_arrive(&ends.in_client(cluster, 0), &rtcp[1], b"report");
    must_not_arrive(&ends.in_server(cluster, 0), &rtp, b"media");
    must_not_arrive(
        &others[0],
        &ends.in_server(cluster, SERVER_MEDIA + 10),
        b"media",
    );
}

#[test]
fn media_of_a_call_passes_with_sipp() {
    let cluster = start("esip", true);
    for ends in [V4, V6] {
        let _server = sip_server(&cluster, ends);
        let call = call(&cluster, ends);
        let shown = expected(&cluster);
        for (address, port) in [(ends.client, CLIENT_MEDIA), (ends.server, SERVER_MEDIA)] {
            for port in [port, port + 1] {
                let end = SocketAddr::new(address, port).to_string();
                assert!(shown.contains(&end), "{end} in {shown}");
            }
        }
        media_passes(&cluster, ends);
        must_end_well(call);
    }
    assert_eq!(total(&cluster, "agents_malformed"), 0);
    assert_eq!(total(&cluster, "agents_requests_refused"), 0);

    // An address that is not the caller's: it has media sent to somebody else. The call is none the worse.
    let (client, server) = (V4.in_client(&cluster, 0), V4.in_server(&cluster, 5060));
    let invite = "INVITE sip:b@10.2.0.10 SIP/2.0\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\
        Content-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 10.1.0.11\r\nm=audio 7000 RTP/AVP 0\r\n";
    must_arrive(&client, &server, invite.as_bytes());
    let shown = expected(&cluster);
    assert!(!shown.contains("10.1.0.11"), "{shown}");
    // The caller's own, in the same words.
    let invite = invite.replace("10.1.0.11", "10.1.0.10");
    must_arrive(&client, &server, invite.as_bytes());
    must_arrive(
        &V4.in_server(&cluster, 0),
        &V4.in_client(&cluster, CLIENT_MEDIA),
        b"media",
    );
}

#[test]
fn media_passes_though_the_node_that_heard_of_it_is_dead() {
    let mut cluster = start("esipkill", true);
    let _server = sip_server(&cluster, V4);
    let call = call(&cluster, V4);
    kill_owner(&mut cluster, 5060, 5060);
    media_passes(&cluster, V4);
    must_end_well(call);
}

/// The negative control: the same rules and peers, and agents that never come.
#[test]
fn without_the_agents_neither_files_nor_media_pass() {
    let cluster = start("enoagent", false);
    let _tftpd = Tftpd::start(&cluster);
    let to = logs(&cluster).join("fetched").display().to_string();
    let args = ["--max-time", "5", "-o", &to, "tftp://10.2.0.10/file"];
    let error = curl(&cluster, &args).expect_err("its answer is from another port");
    assert!(error.to_string().contains("28"), "a timeout: {error}");
    assert!(total(&cluster, "drop_denied") > 0);

    let _server = sip_server(&cluster, V4);
    let call = call(&cluster, V4);
    let media = V4.in_client(&cluster, CLIENT_MEDIA);
    let to_server = V4.in_server(&cluster, SERVER_MEDIA + 1);
    must_not_arrive(&media, &to_server, b"report");
    must_not_arrive(&V4.in_server(&cluster, 0), &media, b"media");
    media
        .send_to(b"media", (V4.server, SERVER_MEDIA))
        .expect("sent");
    assert_eq!(receive(&media, SILENCE), None);
    must_end_well(call);
    assert_eq!(total(&cluster, "flow_expected"), 0);
    assert_eq!(expected(&cluster).matches("10.1.0.10").count(), 0);
}
