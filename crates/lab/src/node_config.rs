//! The nodes' configuration files. The keys are those of `docs/configuration.md`; what is written
//! here is what the lab chooses for a small machine that runs several nodes.

use serde::Serialize;

use crate::routers::{Distribution, ROUTER_HOST, node_host};
use crate::topology::CLUSTER_MAC;
use crate::{Error, Result};

/// What the lab lets one choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name, in the certificates too.
    pub cluster: String,
    /// How many nodes.
    pub nodes: usize,
    /// How often a member says that it lives.
    pub heartbeat: String,
    /// After how long a silence it is dead.
    pub dead_after: String,
    /// How long one that starts waits for the others at most; not less than `dead_after`.
    pub join_wait: String,
    /// Copies of each node's flows.
    pub backups: usize,
    /// How TCP, UDP and ICMP flows are replicated: `ack`, `async`, `none`.
    pub sync: String,
    /// How many flows a node has room for, copies included.
    pub capacity: u32,
    /// How many ports a source may try without an answer within ten seconds before it is blocked;
    /// `None` for as many as it likes.
    pub scan_ports: Option<u32>,
    /// How the nodes get their packets; as the topology's.
    pub distribution: Distribution,
    /// Protocol agents that every node runs.
    pub agents: Vec<LabAgent>,
    /// The user that they run as and its group, which gets their socket; `None` leaves both the daemon's.
    pub agents_user: Option<[String; 2]>,
}

/// A protocol agent of every node, and a rule whose flows it is given.
#[derive(Debug, Clone)]
pub struct LabAgent {
    /// Its name, and that of the rule.
    pub name: String,
    /// The rule's service, such as `tcp/21`.
    pub service: &'static str,
    /// The program, an absolute path, and its arguments; none has the agent never come.
    pub command: Vec<String>,
    /// What becomes of its flows without it: `bypass`, `hold`, `drop`.
    pub when_gone: &'static str,
}

impl Settings {
    /// The lab's defaults for so many nodes. A member is dead after 200 ms and not the default's
    /// 50: several nodes share each CPU here, and one that waits for its turn is not dead.
    pub fn new(nodes: usize) -> Self {
        Self {
            cluster: "lab".into(),
            nodes,
            heartbeat: "20ms".into(),
            dead_after: "200ms".into(),
            join_wait: "3s".into(),
            backups: 1,
            sync: "ack".into(),
            capacity: 200_000,
            scan_ports: None,
            distribution: Distribution::Filter,
            agents: vec![],
            agents_user: None,
        }
    }

    /// The TOML of node `index` (from 1). `cpus` are those of the machine; `socket` is the control
    /// socket, `prefix` the EAL's file prefix. Certificates lie beside the file.
    pub fn toml(&self, index: usize, cpus: &[usize], socket: &str, prefix: &str) -> Result<String> {
        let name = format!("n{index}");
        let members = (1..=self.nodes).map(|member| Member {
            name: format!("n{member}"),
            id: member,
            sync: format!("10.99.0.{member}:7400"),
            membership: format!("10.99.0.{member}:7401"),
        });
        let seats = Seats::of(index - 1, self.nodes, cpus);
        let config = Config {
            node: Node { name: name.clone() },
            cluster: Cluster {
                name: self.cluster.clone(),
                distribution: match self.distribution {
                    Distribution::Filter => "filter",
                    Distribution::Ecmp => "ecmp",
                },
                mac: (self.distribution == Distribution::Filter).then_some(CLUSTER_MAC),
                backups: self.backups,
                heartbeat: self.heartbeat.clone(),
                dead_after: self.dead_after.clone(),
                join_wait: self.join_wait.clone(),
                member: members.collect(),
            },
            pki: Pki {
                ca: "ca.pem".into(),
                cert: format!("{name}.pem"),
                key: format!("{name}.key"),
            },
            eal: Eal {
                hugepages: false,
                memory_mb: 512,
                file_prefix: prefix.to_owned(),
            },
            cores: Cores {
                idle: "sleep",
                idle_sleep: "100us",
                sync: seats.sync,
                membership: seats.membership,
                shared: true,
                worker: vec![Worker { cpu: seats.worker }],
            },
            control: Control {
                socket: socket.to_owned(),
                group: None,
            },
            agents: Control {
                socket: format!("{socket}.agents"),
                group: self.agents_user.clone().map(|[_, group]| group),
            },
            flows: Flows {
                capacity: self.capacity,
            },
            detect: self.scan_ports.map(|scan_ports| Detect { scan_ports }),
            agent: (self.agents.iter())
                .map(|agent| Agent {
                    user: self.agents_user.clone().map(|[user, _]| user),
                    ..Agent::of(agent)
                })
                .collect(),
            interface: self.interfaces(index),
            route: self.routes(),
            rule: self.rules(),
        };
        toml::to_string(&config).map_err(|source| Error::Toml { node: name, source })
    }

    fn interfaces(&self, index: usize) -> Vec<Interface> {
        let interface = |zone, device, segment: u8| {
            let addresses = match self.distribution {
                Distribution::Filter => [
                    format!("10.{segment}.0.1/24"),
                    format!("fd00:{segment}::1/64"),
                ],
                Distribution::Ecmp => {
                    let host = node_host(index);
                    [
                        format!("10.1{segment}.0.{host}/24"),
                        format!("fd00:1{segment}::{host}/64"),
                    ]
                }
            };
            Interface {
                name: zone,
                device,
                zone,
                addresses,
            }
        };
        vec![
            interface("inside", "net_af_packet0,iface=in0", 1),
            interface("outside", "net_af_packet1,iface=out0", 2),
        ]
    }

    fn routes(&self) -> Vec<Route> {
        let route = |to: &str, via: String| Route {
            to: to.to_owned(),
            via,
        };
        match self.distribution {
            Distribution::Filter => vec![
                route("10.254.0.0/16", "10.1.0.20".into()),
                route("10.253.0.0/16", "10.2.0.20".into()),
            ],
            Distribution::Ecmp => vec![
                route("10.1.0.0/24", format!("10.11.0.{ROUTER_HOST}")),
                route("fd00:1::/64", format!("fd00:11::{ROUTER_HOST}")),
                route("10.2.0.0/24", format!("10.12.0.{ROUTER_HOST}")),
                route("fd00:2::/64", format!("fd00:12::{ROUTER_HOST}")),
            ],
        }
    }

    fn rules(&self) -> Vec<Rule> {
        let allow = |name: &str, service: &[&'static str]| Rule {
            name: name.to_owned(),
            from: ["inside"],
            to: ["outside"],
            service: service.to_vec(),
            action: "allow",
            sync: self.sync.clone(),
            agent: None,
        };
        let mut rules = vec![
            allow("web", &["tcp/80", "tcp/8080"]),
            allow("echo", &["tcp/7777"]),
            allow("probes", &["udp/9000"]),
            allow("generator", &["udp/1001"]),
            allow("ping", &["icmp/echo", "icmpv6/echo"]),
        ];
        rules.extend(self.agents.iter().map(|agent| Rule {
            name: agent.name.clone(),
            agent: Some(agent.name.clone()),
            ..allow("", &[agent.service])
        }));
        rules
    }
}

/// Which CPU each thread of a node gets.
#[derive(Debug, PartialEq, Eq)]
struct Seats {
    worker: usize,
    sync: usize,
    membership: usize,
}

impl Seats {
    /// A CPU for each thread when there are enough; else the nodes' workers take turns over all
    /// CPUs, and a node's other two threads sit where its worker does not.
    fn of(node: usize, nodes: usize, cpus: &[usize]) -> Self {
        let at = |seat: usize| cpus[seat % cpus.len()];
        if cpus.len() >= 3 * nodes {
            Self {
                worker: at(3 * node),
                sync: at(3 * node + 1),
                membership: at(3 * node + 2),
            }
        } else {
            Self {
                worker: at(node),
                sync: at(node + 1),
                membership: at(node + 1),
            }
        }
    }
}

// Plain values before tables: TOML can not say it the other way round.

#[derive(Serialize)]
struct Config {
    node: Node,
    cluster: Cluster,
    pki: Pki,
    eal: Eal,
    cores: Cores,
    control: Control,
    flows: Flows,
    #[serde(skip_serializing_if = "Option::is_none")]
    detect: Option<Detect>,
    agents: Control,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agent: Vec<Agent>,
    interface: Vec<Interface>,
    route: Vec<Route>,
    rule: Vec<Rule>,
}

#[derive(Serialize)]
struct Node {
    name: String,
}

#[derive(Serialize)]
struct Cluster {
    name: String,
    distribution: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'static str>,
    backups: usize,
    heartbeat: String,
    dead_after: String,
    join_wait: String,
    member: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    name: String,
    id: usize,
    sync: String,
    membership: String,
}

#[derive(Serialize)]
struct Pki {
    ca: String,
    cert: String,
    key: String,
}

#[derive(Serialize)]
struct Eal {
    hugepages: bool,
    memory_mb: u32,
    file_prefix: String,
}

#[derive(Serialize)]
struct Cores {
    idle: &'static str,
    idle_sleep: &'static str,
    sync: usize,
    membership: usize,
    shared: bool,
    worker: Vec<Worker>,
}

#[derive(Serialize)]
struct Worker {
    cpu: usize,
}

#[derive(Serialize)]
struct Control {
    socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

#[derive(Serialize)]
struct Agent {
    name: String,
    when_gone: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

impl Agent {
    fn of(agent: &LabAgent) -> Self {
        Self {
            name: agent.name.clone(),
            when_gone: agent.when_gone,
            command: agent.command.clone(),
            user: None,
        }
    }
}

#[derive(Serialize)]
struct Flows {
    capacity: u32,
}

#[derive(Serialize)]
struct Detect {
    scan_ports: u32,
}

#[derive(Serialize)]
struct Interface {
    name: &'static str,
    device: &'static str,
    zone: &'static str,
    addresses: [String; 2],
}

#[derive(Serialize)]
struct Route {
    to: String,
    via: String,
}

#[derive(Serialize)]
struct Rule {
    name: String,
    from: [&'static str; 1],
    to: [&'static str; 1],
    service: Vec<&'static str>,
    action: &'static str,
    sync: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_toml_that_names_its_node_and_all_members() {
        let text = Settings::new(3)
            .toml(2, &[0, 1], "/run/x/n2.sock", "rvl-n2")
            .expect("serialises");
        let read: toml::Table = text.parse().expect("what was written parses");
        assert_eq!(read["node"]["name"].as_str(), Some("n2"));
        assert_eq!(read["pki"]["key"].as_str(), Some("n2.key"));
        let members = read["cluster"]["member"].as_array().expect("a list");
        let names: Vec<_> = members
            .iter()
            .filter_map(|member| member["name"].as_str())
            .collect();
        assert_eq!(names, ["n1", "n2", "n3"]);
        assert_eq!(members[2]["sync"].as_str(), Some("10.99.0.3:7400"));
    }

    #[test]
    fn the_keys_are_the_configurations_own() {
        // Written by hand for the lab's addresses: the lab's files must say the same network.
        let example: toml::Table = include_str!("../../../examples/three-node/n1.toml")
            .parse()
            .expect("the example parses");
        let text = Settings::new(3)
            .toml(1, &[0, 1], "/run/x/n1.sock", "rvl-n1")
            .expect("serialises");
        let ours: toml::Table = text.parse().expect("what was written parses");
        for section in ["interface", "route"] {
            assert_eq!(ours[section], example[section], "[[{section}]]");
        }
        for key in ["distribution", "mac", "member"] {
            assert_eq!(
                ours["cluster"][key], example["cluster"][key],
                "cluster.{key}"
            );
        }
    }

    #[test]
    fn the_daemons_parser_takes_it() {
        for (nodes, cpus) in [(2, 1), (3, 2), (16, 2), (3, 16)] {
            let cpus: Vec<usize> = (0..cpus).collect();
            for index in 1..=nodes {
                let text = Settings::new(nodes)
                    .toml(index, &cpus, "/run/x/n.sock", "rvl-n")
                    .expect("serialises");
                let config = ::config::Config::parse(&text, "n.toml", "")
                    .unwrap_or_else(|error| panic!("n{index} of {nodes} on {cpus:?}: {error}"));
                config
                    .check_machine(&cpus)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn threads_share_a_cpu_only_when_they_must() {
        let cpus: Vec<usize> = (0..9).collect();
        let seats: Vec<Seats> = (0..3).map(|node| Seats::of(node, 3, &cpus)).collect();
        let mut used: Vec<usize> = seats
            .iter()
            .flat_map(|seats| [seats.worker, seats.sync, seats.membership])
            .collect();
        used.sort_unstable();
        assert_eq!(used, cpus);
        for node in 0..3 {
            let seats = Seats::of(node, 3, &[0, 1]);
            assert_ne!(seats.worker, seats.sync);
        }
        assert_eq!(
            Seats::of(1, 3, &[5]),
            Seats {
                worker: 5,
                sync: 5,
                membership: 5
            }
        );
    }
}
