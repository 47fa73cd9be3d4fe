//! The FTP agent with a real server and a real client: data connections that no rule allows pass since they
//! were announced, on whichever node they arrive, and also when the node that heard it is dead.

use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;

use e2e::ftp::{
    Control, FILE_V4, MODES, agent_pid, connect, fetch, kill_agents, serve, total, wait_for_agents,
    with_agent,
};
use e2e::{LIMIT, cluster, topology, wait_whole};
use lab::Cluster;
use lab::node_config::Settings;
use lab::program::{Binaries, run};

fn settings() -> Settings {
    e2e::ftp::settings(3, "bypass")
}

#[test]
fn every_mode_passes_with_curl_and_vsftpd() {
    let cluster = cluster("eftp", &settings());
    let server = serve(&cluster);
    wait_for_agents(&cluster, 1);
    for (n, (url, args)) in (1..).zip(MODES) {
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
    fetch(&cluster, &server, FILE_V4, &[]);
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

/// An agent that is taken over by what it parses has nothing of the daemon's: neither its user nor what it has open.
#[test]
fn an_agent_runs_as_its_own_user() {
    // Where that user may run it, which may not be so beside the test.
    let dir = tempfile::tempdir().expect("a folder");
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), readable).expect("ours");
    let program = Binaries::locate().and_then(|binaries| binaries.agent_ftp());
    let copy = dir.path().join("agent");
    std::fs::copy(program.expect("built"), &copy).expect("copied");
    let settings = Settings {
        agents_user: Some(["nobody", "nogroup"].map(str::to_owned)),
        ..with_agent(3, "bypass", vec![copy.display().to_string()])
    };
    let topology = topology("eftpuser");
    let logs = topology.folder("logs").expect("a folder");
    // The lab's folder, which has the sockets, is root's alone; a daemon's own is not.
    let passable = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(logs.parent().expect("the lab's"), passable).expect("ours");
    let binaries = Binaries::locate().expect("beside the test");
    let cluster = Cluster::start(topology, binaries, &settings, &logs, false);
    let mut cluster = cluster.expect("the daemons start");
    wait_whole(&mut cluster);
    let server = serve(&cluster);
    wait_for_agents(&cluster, 1);
    let nobody = vec!["65534".to_owned(); 4];
    for index in cluster.living() {
        let process = format!("/proc/{}", agent_pid(&cluster, index));
        let status = std::fs::read_to_string(format!("{process}/status")).expect("it runs");
        let of = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key));
            let words = value.unwrap_or_default().split_whitespace();
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((of("Uid:"), of("Gid:")), (nobody.clone(), nobody.clone()));
        assert_eq!(of("Groups:"), ["65534"]);
        assert_eq!(of("CapEff:"), ["0000000000000000"]);
        let open = std::fs::read_dir(format!("{process}/fd")).expect("it runs");
        let open: Vec<_> = open
            .map(|entry| {
                let path = entry.expect("listed").path();
                let to = std::fs::read_link(&path).unwrap_or_default();
                format!(
                    "{} {}",
                    path.file_name().unwrap_or_default().display(),
                    to.display()
                )
            })
            .collect();
        // Input, output, errors, and its connection for reading and for writing.
        assert_eq!(open.len(), 5, "{open:?}");
    }
    fetch(&cluster, &server, "ftp://10.2.0.10/file", &[]);
    assert_eq!(total(&cluster, "flow_expected"), 1);
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
