//! What becomes of a control connection while the node's FTP agent is gone: `when_gone` says it.

use std::io::ErrorKind;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use e2e::cluster;
use e2e::ftp::{Control, Server, connect, counter, kill_agent, serve, wait_for_agents, with_agent};
use e2e::wait_for;
use lab::Cluster;
use lab::program::Binaries;

/// How long a reply that must not come is waited for: several retransmissions.
const SILENCE: Duration = Duration::from_millis(900);

/// An agent that starts only while its gate is open: until then it ends at once, and the daemon tries again later
/// and later.
struct Gate {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Gate {
    fn open() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("open");
        let gate = Self { _dir: dir, path };
        gate.reopen();
        gate
    }

    fn command(&self) -> Vec<String> {
        let program = Binaries::locate().and_then(|binaries| binaries.agent_ftp());
        let (program, path) = (program.expect("built"), self.path.display());
        let script = format!("[ -e '{path}' ] && exec '{}'", program.display());
        ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
    }

    fn close(&self) {
        std::fs::remove_file(&self.path).expect("it was open");
    }

    fn reopen(&self) {
        std::fs::write(&self.path, "").expect("written");
    }
}

struct Scene {
    gate: Gate,
    cluster: Cluster,
    server: Server,
    control: Control,
    /// The node that handles the control connection.
    owner: usize,
}

impl Scene {
    fn set(id: &str, when_gone: &'static str) -> Self {
        let gate = Gate::open();
        let cluster = cluster(id, &with_agent(2, when_gone, gate.command()));
        let server = serve(&cluster);
        wait_for_agents(&cluster, 1);
        let control = Control::login(&cluster);
        let port = format!("sport={}", control.port);
        let owner = cluster.owner(&[&port, "dport=21"]).expect("they answer");
        Self {
            gate,
            cluster,
            server,
            control,
            owner: owner.expect("somebody owns the control connection"),
        }
    }

    fn count(&self, name: &str) -> u64 {
        counter(&self.cluster, self.owner, name)
    }

    /// Has the agent die, and not come again.
    fn agent_dies(&self) {
        self.gate.close();
        kill_agent(&self.cluster, self.owner);
        // Tried again in vain: the daemon had noticed before.
        wait_for("a start in vain", || match self.count("agents_restarts") {
            0 => Err("none".into()),
            _ => Ok(()),
        });
    }

    fn agent_returns(&self) {
        self.gate.reopen();
        wait_for("the agent to return", || {
            match self.count("agents_connections") {
                2 => Ok(()),
                n => Err(format!("{n} connections")),
            }
        });
    }

    /// Says something to which no reply comes.
    fn say_in_vain(&mut self, command: &str) {
        let stream = self.control.reader.get_mut();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("written");
        stream.set_read_timeout(Some(SILENCE)).expect("above zero");
        let mut line = String::new();
        let none = self.control.reader.read_line(&mut line);
        assert_eq!(
            none.expect_err("no reply").kind(),
            ErrorKind::WouldBlock,
            "{line:?}"
        );
        let patience = Some(Duration::from_secs(20));
        let stream = self.control.reader.get_mut();
        stream.set_read_timeout(patience).expect("above zero");
    }

    /// A file passes, of which only the agent can have told.
    fn transfers(&mut self) {
        let port = self.control.passive();
        self.control.retrieve(&self.cluster, &self.server, port);
    }
}

#[test]
fn what_is_held_goes_on_when_the_agent_is_back() {
    let mut scene = Scene::set("egonehol", "hold");
    scene.transfers();
    scene.agent_dies();
    let given = scene.count("agents_packets");
    scene.say_in_vain("EPSV");
    assert_eq!(scene.count("agents_packets"), given, "nobody was there");
    let held = scene.count("agents_gone_held");
    // The command, and that it was sent again, since nobody acknowledged it.
    assert!(held >= 2, "{held} packets are held");
    scene.agent_returns();
    // What was said is heard by the agent that has returned, which has what it announces expected.
    let reply = scene.control.reply("229");
    let port = reply.split('|').nth(3).and_then(|port| port.parse().ok());
    let port = port.expect("a port");
    scene.control.retrieve(&scene.cluster, &scene.server, port);
    assert!(
        scene.count("agents_packets") >= given + held,
        "all of them went to it"
    );
    for lost in [
        "drop_agents_queue",
        "drop_agents_gone",
        "drop_agent_gone",
        "agents_gone_passed",
    ] {
        assert_eq!(scene.count(lost), 0, "{lost}");
    }
}

#[test]
fn what_is_dropped_is_sent_again_and_passes_when_the_agent_is_back() {
    let mut scene = Scene::set("egonedro", "drop");
    scene.transfers();
    scene.agent_dies();
    scene.say_in_vain("EPSV");
    assert!(scene.count("drop_agent_gone") >= 2, "and what came again");
    scene.agent_returns();
    let reply = scene.control.reply("229");
    let port = reply.split('|').nth(3).and_then(|port| port.parse().ok());
    let port = port.expect("a port");
    scene.control.retrieve(&scene.cluster, &scene.server, port);
    assert_eq!(scene.count("agents_gone_held"), 0);
}

#[test]
fn what_passes_by_an_agent_that_is_gone_is_unseen() {
    let mut scene = Scene::set("egonebyp", "bypass");
    scene.transfers();
    scene.agent_dies();
    let given = scene.count("agents_packets");
    let port = scene.control.passive();
    let refused = connect(&scene.cluster, port).expect_err("nobody heard of it");
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert_eq!(scene.count("agents_packets"), given, "nobody was there");
    scene.agent_returns();
    scene.transfers();
    assert_eq!(scene.count("agents_gone_held"), 0);
    assert_eq!(scene.count("drop_agent_gone"), 0);
}
