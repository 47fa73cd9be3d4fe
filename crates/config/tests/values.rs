//! What good files become: the values, the defaults, the examples, the document.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use config::{
    Alone, AtDeadline, Config, Detect, Device, Distribution, HoldAcks, Idle, Iova, KEYS, Worker,
};
use policy::{Action, ClassSync, Classifier, Query, SyncPolicy};
use proptest::prelude::*;
use state::{NodeId, TcpPhase, v4_mapped};

const BASE: &str = include_str!("base.toml");
const SINGLE: &str = include_str!("../../../examples/single.toml");
const N1: &str = include_str!("../../../examples/three-node/n1.toml");
const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

fn parse(text: &str) -> Config {
    Config::parse(text, "n1.toml", "/etc/ravelin").unwrap_or_else(|error| panic!("{error}"))
}

fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

/// A worker's shard and hold are its share of the node's unless it is given its own.
#[test]
fn workers_have_their_own_tables_and_holds() {
    let plain = parse(BASE);
    assert_eq!(
        (plain.table(0), plain.table(1), plain.capacity()),
        (50_000, 50_000, 100_000)
    );
    assert_eq!(
        (plain.hold(0), plain.hold(1)),
        (17 * 1024 / 8, 17 * 1024 / 8)
    );
    let text = BASE.replacen(
        "{ cpu = 3 }]",
        "{ cpu = 3, table = 2000, hold = 10000 }]",
        1,
    );
    let own = parse(&text);
    assert_eq!(
        (own.table(0), own.table(1), own.capacity()),
        (50_000, 2_000, 52_000)
    );
    // 2 x 2 x 2048 descriptors, 4096 and 10000 held, 4 bursts of 64, rounded up; of the first a quarter's half.
    assert_eq!(own.eal.mbufs, 23 * 1024);
    assert_eq!((own.hold(0), own.hold(1)), (23 * 1024 / 8, 10_000));
    let all = parse(&BASE.replacen("worker = [", "table = 4096\nhold = 64\nworker = [", 1));
    assert_eq!(
        (all.table(1), all.capacity(), all.hold(1)),
        (4_096, 8_192, 64)
    );
    // With `ecmp` as many again wait for other nodes' answers.
    let ecmp = BASE.replacen("mac = \"03:72:76:6c:00:01\"", "distribution = \"ecmp\"", 1);
    assert_eq!(parse(&ecmp).hold(0), 17 * 1024 / 16);
}

#[test]
fn defaults_are_those_of_the_document() {
    let config = parse(BASE);
    let ms = Duration::from_millis;
    assert_eq!((config.name.as_str(), config.node), ("n1", id(1)));
    let cluster = config.cluster.as_ref().unwrap();
    assert_eq!(cluster.distribution, Distribution::Filter);
    assert_eq!(cluster.mac, Some([3, 0x72, 0x76, 0x6c, 0, 1]));
    assert_eq!(cluster.backups, 1);
    assert_eq!((cluster.heartbeat, cluster.dead_after), (ms(10), ms(50)));
    assert_eq!(
        (cluster.join_wait, cluster.hold_deadline),
        (ms(3000), ms(50))
    );
    assert_eq!(cluster.hold_at_deadline, AtDeadline::Drop);
    assert_eq!(cluster.hold_acks, HoldAcks::All);
    assert_eq!(cluster.alone, Alone::Forward);
    assert_eq!(cluster.resync_rate, 1_000_000);
    assert_eq!(cluster.digest_every, ms(10_000));
    let second = cluster.member(id(2)).unwrap();
    assert_eq!(
        (second.name.as_str(), second.weight, &second.backups),
        ("n2", 1, &None)
    );
    assert_eq!(second.sync, SocketAddr::from(([10, 99, 0, 2], 7400)));
    assert_eq!(second.membership, SocketAddr::from(([10, 99, 0, 2], 7401)));
    assert_eq!(
        config.pki.as_ref().unwrap().key,
        Path::new("/etc/ravelin/n1.key")
    );
    assert_eq!((config.eal.hugepages, config.eal.iova), (true, Iova::Auto));
    assert_eq!(config.eal.file_prefix, "ravelin-n1");
    // Two workers: 2 interfaces x 2048 descriptors, 4096 held, 2 bursts of 64, rounded up.
    assert_eq!(config.eal.mbufs, 17 * 1024);
    let worker = Worker {
        cpu: 2,
        idle: Idle::Spin,
        burst: 64,
        rx_descriptors: 1024,
        tx_descriptors: 1024,
        table: None,
        hold: None,
    };
    assert_eq!(config.cores.workers, [worker, Worker { cpu: 3, ..worker }]);
    assert_eq!(
        (config.cores.sync, config.cores.membership),
        (Some(1), Some(0))
    );
    assert_eq!(
        config.control.socket,
        Path::new("/run/ravelin/ravelind.sock")
    );
    assert_eq!((config.control.mode, &config.control.group), (0o660, &None));
    assert_eq!(config.flows.tombstone, Duration::from_secs(30));
    assert_eq!(config.flows.refresh, Duration::from_secs(10));
    assert!(config.flows.verify_checksums && config.tcp.strict && !config.tcp.pickup);
    let timeouts = &config.timeouts;
    let tcp = [
        TcpPhase::SynSent,
        TcpPhase::SynReceived,
        TcpPhase::Established,
        TcpPhase::FinWait,
        TcpPhase::Closing,
        TcpPhase::TimeWait,
        TcpPhase::Reset,
    ];
    let seconds = tcp.map(|phase| timeouts.tcp_ms(phase) / 1000);
    assert_eq!(seconds, [120, 60, 432_000, 120, 60, 120, 10]);
    assert_eq!(
        (timeouts.udp_new_ms, timeouts.udp_stream_ms),
        (30_000, 120_000)
    );
    assert_eq!(
        (timeouts.other_new_ms, timeouts.other_stream_ms),
        (600_000, 600_000)
    );
    assert_eq!(timeouts.icmp_ms, 30_000);
    let inside = &config.interfaces[0];
    assert_eq!(inside.device, Device::Pci("0000:01:00.0".into()));
    assert_eq!(
        (inside.zone, inside.mtu, inside.vlan, inside.ping),
        (0, 1500, None, true)
    );
    assert_eq!(config.interfaces[1].device.name(), "net_af_packet0");
    assert_eq!(config.interfaces[1].zone, 1);
    assert_eq!(config.routes[0].interface, 1);
    assert_eq!(config.neighbours, []);
    assert_eq!(config.rules.generation, 1);
    assert_eq!(config.rules.zones().name(1), Some("outside"));
    let defaults = config.sync_defaults();
    assert_eq!(
        (defaults.tcp, defaults.udp, defaults.icmp, defaults.other),
        (
            SyncPolicy::Ack,
            SyncPolicy::Async,
            SyncPolicy::None,
            SyncPolicy::Async
        )
    );
}

#[test]
fn what_is_written_is_what_comes_out() {
    let text = BASE
        .replacen(
            "name = \"lab\"",
            "name = \"lab\"\nbackups = 2\nhold_acks = 1\nhold_at_deadline = \"release\"\n\
             alone = \"refuse\"\nresync_rate = 5000\ndigest_every = \"500ms\"\njoin_wait = \"1s\"\nhold_deadline = \"20ms\"\n\
             dead_after = \"100ms\"",
            1,
        )
        .replacen("id = 1", "id = 1\nweight = 7\nbackups = [\"n3\", \"n2\"]", 1)
        .replacen("n1.key", "/keys/n1.key", 1)
        .replacen("memory_mb = 512", "hugepages = false\niova = \"va\"\nextra = [\"--log-level=8\"]\nmbufs = 65536\nfile_prefix = \"r\"", 1)
        .replacen(
            "worker = [{ cpu = 2 }, { cpu = 3 }]",
            "idle = \"sleep\"\nidle_sleep = \"20us\"\nburst = 16\nrealtime = false\n\
             worker = [2, { cpu = 3, idle = \"pause\", burst = 8, rx_descriptors = 512, tx_descriptors = 256 }, { cpu = 4, idle_sleep = \"9us\" }]",
            1,
        )
        .replacen("mode = 0o660", "mode = 0o600\nsocket = \"run/r.sock\"\ngroup = \"adm\"", 1)
        .replacen("capacity = 100000", "tombstone = \"1m\"\nrefresh = \"2s\"\nverify_checksums = false", 1)
        .replacen("zone = \"inside\"", "zone = \"inside\"\nmtu = 9000\nvlan = 12\nping = false", 1)
        .replacen("service = [\"tcp/80\"]", "service = \"tcp/80\"\nsync = { delayed = \"2s\" }\nlog = true", 1)
        .replacen("tcp = \"ack\"", "tcp = \"async\"\nudp = { delayed = \"5s\" }\nicmp = \"ack\"\nother = \"none\"\n[tcp]\nstrict = false\npickup = true", 1);
    let config = parse(&text);
    let cluster = config.cluster.as_ref().unwrap();
    assert_eq!(
        (cluster.backups, cluster.hold_acks),
        (2, HoldAcks::Count(1))
    );
    assert_eq!(
        (cluster.hold_at_deadline, cluster.alone),
        (AtDeadline::Release, Alone::Refuse)
    );
    assert_eq!(cluster.resync_rate, 5000);
    assert_eq!(cluster.digest_every, Duration::from_millis(500));
    let ms = Duration::from_millis;
    assert_eq!(
        (cluster.join_wait, cluster.hold_deadline, cluster.dead_after),
        (ms(1000), ms(20), ms(100))
    );
    let me = cluster.member(config.node).unwrap();
    assert_eq!((me.weight, &me.backups), (7, &Some(vec![id(3), id(2)])));
    assert_eq!(config.pki.as_ref().unwrap().key, Path::new("/keys/n1.key"));
    assert_eq!((config.eal.iova, config.eal.mbufs), (Iova::Va, 65536));
    assert_eq!(
        (config.eal.file_prefix.as_str(), &config.eal.extra[..]),
        ("r", &["--log-level=8".to_owned()][..])
    );
    assert!(!config.cores.realtime && parse(BASE).cores.realtime);
    let us = Duration::from_micros;
    let workers: Vec<_> = config
        .cores
        .workers
        .iter()
        .map(|w| (w.cpu, w.idle, w.burst, w.rx_descriptors, w.tx_descriptors))
        .collect();
    assert_eq!(
        workers,
        [
            (2, Idle::Sleep(us(20)), 16, 1024, 1024),
            (3, Idle::Pause, 8, 512, 256),
            (4, Idle::Sleep(us(9)), 16, 1024, 1024),
        ]
    );
    assert_eq!(config.control.socket, Path::new("/etc/ravelin/run/r.sock"));
    assert_eq!(
        (config.control.mode, config.control.group.as_deref()),
        (0o600, Some("adm"))
    );
    assert_eq!(
        (config.flows.capacity, config.flows.tombstone),
        (1_000_000, ms(60_000))
    );
    assert_eq!(
        (config.flows.refresh, config.flows.verify_checksums),
        (ms(2000), false)
    );
    let inside = &config.interfaces[0];
    assert_eq!(
        (inside.mtu, inside.vlan, inside.ping),
        (9000, Some(12), false)
    );
    let web = &config.rules.rules()[0];
    assert_eq!((web.sync, web.log), (Some(SyncPolicy::Delayed(2000)), true));
    let defaults = config.sync_defaults();
    assert_eq!(
        (defaults.tcp, defaults.udp, defaults.icmp, defaults.other),
        (
            SyncPolicy::Async,
            SyncPolicy::Delayed(5000),
            SyncPolicy::Ack,
            SyncPolicy::None
        )
    );
    assert!(!config.tcp.strict && config.tcp.pickup);
}

#[test]
fn interfaces_on_one_device_are_told_apart_by_their_vlan() {
    let trunk = BASE.replace(
        "device = \"net_af_packet0,iface=out0\"",
        "device = \"0000:01:00.0\"\nvlan = 20",
    );
    let config = parse(&trunk);
    let [inside, outside] = &config.interfaces[..] else {
        panic!("two interfaces");
    };
    assert_eq!(inside.device, outside.device);
    assert_eq!((inside.vlan, outside.vlan), (None, Some(20)));
    assert_eq!(config.summary().pci.len(), 1, "and it is bound once");
    let same = Config::parse(
        &trunk.replace("vlan = 20\n", "\n"),
        "n1.toml",
        "/etc/ravelin",
    );
    assert!(same.is_err());
}

#[test]
fn paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("n1.toml");
    fs::write(&file, BASE).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.pki.unwrap().ca, folder.path().join("ca.pem"));
    assert_eq!(config.path, file);
}

#[test]
fn neighbours_are_told_by_interface_and_address() {
    let with = "[[neighbour]]\ninterface = \"inside\"\naddress = \"fd00:1::9\"\n\
                mac = \"02:00:00:00:00:09\"\n";
    let config = parse(&format!("{BASE}{with}"));
    assert_eq!(
        config.neighbours,
        [config::Neighbour {
            interface: 0,
            address: "fd00:1::9".parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 9],
        }]
    );
}

#[test]
fn examples_are_good_and_alike() {
    let single = parse(SINGLE);
    assert!(single.cluster.is_none() && single.cores.sync.is_none());
    assert_eq!(single.warnings, []);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/three-node");
    let nodes = [1, 2, 3].map(|n| Config::load(folder.join(format!("n{n}.toml"))).unwrap());
    for (n, config) in nodes.iter().enumerate() {
        assert_eq!(config.warnings, []);
        assert_eq!(config.node.index(), n + 1);
        assert_eq!(config.cluster, nodes[0].cluster);
        assert_eq!(config.interfaces, nodes[0].interfaces);
        assert_eq!(config.rules, nodes[0].rules);
        assert_eq!(config.routes.len(), 2);
    }
}

#[test]
fn the_rules_of_the_lab_decide_as_they_say() {
    let config = parse(N1);
    let zone = |name| config.rules.zones().id(name).unwrap();
    let classifier = Classifier::compile(&config.rules);
    let out = Query {
        zone_from: zone("inside"),
        zone_to: zone("outside"),
        src: v4_mapped([10, 1, 0, 10]),
        dst: v4_mapped([10, 2, 0, 10]),
        sport: 40_000,
        proto: 6,
        ..Query::default()
    };
    let back = Query {
        zone_from: out.zone_to,
        zone_to: out.zone_from,
        ..out
    };
    let flood = Query {
        src: v4_mapped([10, 254, 0, 1]),
        dst: v4_mapped([10, 253, 3, 4]),
        proto: 17,
        dport: 1001,
        ..out
    };
    let table = [
        (Query { dport: 80, ..out }, Action::Allow, Some("web")),
        (Query { dport: 7, ..out }, Action::Allow, Some("echo")),
        (
            Query {
                proto: 17,
                dport: 9050,
                ..out
            },
            Action::Allow,
            Some("probes"),
        ),
        (flood, Action::Allow, Some("generator")),
        (
            Query {
                proto: 1,
                icmp_type: 8,
                ..out
            },
            Action::Allow,
            Some("ping"),
        ),
        (Query { dport: 22, ..out }, Action::Reject, Some("others")),
        (Query { dport: 80, ..back }, Action::Deny, None),
    ];
    for (query, action, name) in table {
        let decision = classifier.classify(&query);
        let rule = decision
            .rule_index
            .map(|index| &*config.rules.rules()[index as usize].name);
        assert_eq!(
            (decision.action, rule),
            (action, name),
            "{}",
            config.rules.explain(&query)
        );
    }
}

#[test]
fn rules_name_users_and_groups() {
    let text = BASE
        .replacen(
            "from = [\"inside\"]",
            "user = \"alice\"\ngroup = [\"staff\", \"ops\"]",
            1,
        )
        .replacen("tcp = \"ack\"", "expectations = \"async\"", 1);
    let config = parse(&text);
    let rules = &config.rules;
    let identities = &rules.rules()[0].identities;
    assert_eq!(identities.users, ["alice"]);
    assert_eq!(identities.groups, ["staff", "ops"]);
    assert!(rules.asks_identity() && rules.rules()[1].identities.is_any());
    assert!(!parse(BASE).rules.asks_identity());
    let defaults = rules.sync_defaults();
    assert_eq!(
        (defaults.expectations, defaults.marks),
        (ClassSync::Async, ClassSync::Ack)
    );
}

#[test]
fn a_detector_is_there_when_its_section_is() {
    assert_eq!(parse(BASE).detect, None);
    let with = |lines: &str| parse(&format!("{BASE}[detect]\n{lines}")).detect.unwrap();
    let seconds = Duration::from_secs;
    let default = Detect {
        scan_ports: 100,
        flood_syns: 10_000,
        window: seconds(10),
        block_for: seconds(600),
        except: vec![],
    };
    assert_eq!(with(""), default);
    let set = Detect {
        scan_ports: 20,
        flood_syns: 0,
        window: seconds(60),
        block_for: seconds(3600),
        except: vec![
            "10.1.0.0/16".parse().unwrap(),
            "fd00::7/128".parse().unwrap(),
        ],
    };
    let lines = "scan_ports = 20\nflood_syns = 0\nwindow = \"1m\"\nblock_for = \"1h\"\n\
                 except = [\"10.1.0.0/16\", \"fd00::7\"]";
    assert_eq!(with(lines), set);
}

#[test]
fn with_ecmp_nodes_have_no_common_ethernet_address() {
    let mac = "mac = \"03:72:76:6c:00:01\"";
    let cluster = parse(&BASE.replacen(mac, "distribution = \"ecmp\"", 1))
        .cluster
        .unwrap();
    assert_eq!(
        (cluster.distribution, cluster.mac),
        (Distribution::Ecmp, None)
    );
    assert_eq!(cluster.backups, 1);
}

#[test]
fn rules_can_be_read_alone() {
    let config = parse(BASE);
    let start = BASE.find("[[rule]]").unwrap();
    let read =
        config::rules_from_str(&BASE[start..], "rules", config.rules.zones(), &[], 9).unwrap();
    assert_eq!((read.rules.generation, read.warnings), (9, vec![]));
    assert_eq!(read.rules.rules(), config.rules.rules());
    assert_eq!(read.rules.sync_defaults(), config.sync_defaults());
    let doubtful =
        "[[rule]]\nname = \"a\"\naction = \"deny\"\n[[rule]]\nname = \"b\"\naction = \"deny\"";
    let read = config::rules_from_str(doubtful, "rules", config.rules.zones(), &[], 1).unwrap();
    assert_eq!(read.warnings.len(), 1);
}

#[test]
fn the_summary_has_the_facts_for_the_boot_script() {
    let summary = serde_json::to_string(&parse(BASE).summary()).unwrap();
    assert_eq!(
        summary,
        r#"{"hugepages":true,"memory_mb":512,"pci":["0000:01:00.0"],"worker_cpus":[2,3],"sync_cpu":1,"membership_cpu":0,"idle":"spin"}"#
    );
}

#[test]
fn the_document_describes_every_key_in_its_section() {
    let mut missing = Vec::new();
    for (section, keys) in KEYS {
        // The first level is the document's headings.
        if section.is_empty() {
            let described = |key: &&&str| {
                [format!("## `[{key}]`"), format!("## `[[{key}]]`")]
                    .iter()
                    .any(|h| DOCUMENT.contains(h))
            };
            missing.extend(
                keys.iter()
                    .filter(|key| !described(key))
                    .map(|key| format!("## {key}")),
            );
            continue;
        }
        let heading = format!("## `{section}`");
        let text = DOCUMENT.split(&heading).nth(1).unwrap_or_default();
        let text = text.split("\n## ").next().unwrap_or_default();
        let row = |key: &&&str| text.contains(&format!("\n| `{key}` |"));
        missing.extend(
            keys.iter()
                .filter(|key| **key != "member" && !row(key))
                .map(|key| format!("{section} {key}")),
        );
    }
    assert!(
        missing.is_empty(),
        "docs/configuration.md lacks {missing:?}"
    );
}

#[test]
fn the_text_in_the_document_is_good() {
    let block = DOCUMENT
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    assert_eq!(parse(block).warnings, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is wrong with a text is said, never a panic; and a refusal has a reason within
    /// the text.
    #[test]
    fn a_mutated_text_never_panics(
        cluster in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..30, insertion()), 1..6),
    ) {
        let mut text = if cluster { N1.to_owned() } else { SINGLE.to_owned() };
        for (at, cut, insert) in edits {
            let boundary = |mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let start = boundary(at.index(text.len() + 1));
            let end = boundary((start + cut).min(text.len()));
            text.replace_range(start..end, &insert);
        }
        refuses_with_a_reason(&text)?;
    }

    /// Likewise when the text stays TOML, so that what comes behind the syntax is reached.
    #[test]
    fn changed_values_never_panic(
        cluster in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..8),
    ) {
        let text = if cluster { N1 } else { SINGLE };
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let assignments: Vec<usize> =
            (0..lines.len()).filter(|line| lines[*line].contains(" = ")).collect();
        for (at, value) in edits {
            let line = &mut lines[assignments[at.index(assignments.len())]];
            let Some((key, _)) = line.split_once(" = ") else {
                continue; // An edit before this one removed the line.
            };
            *line = if value.is_empty() { value } else { format!("{key} = {value}") };
        }
        let text = lines.join("\n");
        prop_assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{}", text);
        refuses_with_a_reason(&text)?;
    }
}

fn refuses_with_a_reason(text: &str) -> Result<(), TestCaseError> {
    let lines = text.lines().count() + 1;
    if let Err(error) = Config::parse(text, "x.toml", "") {
        prop_assert!(!error.problems().is_empty());
        for problem in error.problems() {
            prop_assert!((1..=lines).contains(&problem.at.line), "{problem}");
            prop_assert!(!problem.to_string().contains('\n'), "{problem}");
        }
    }
    Ok(())
}

/// Values of every type; nothing at all removes the line.
fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "0",
        "1",
        "-1",
        "32",
        "65536",
        "9223372036854775807",
        "0o777",
        "1.5",
        "true",
        "2020-01-01",
        "\"\"",
        "\"n1\"",
        "\"any\"",
        "\"1s\"",
        "\"0us\"",
        "\"213503982334d\"",
        "\"all\"",
        "\"sleep\"",
        "\"10.1.0.1/24\"",
        "\"10.2.0.20\"",
        "\"::/0\"",
        "\"0.0.0.0/0\"",
        "\"!::1\"",
        "\"tcp/1-0\"",
        "\"10.99.0.1:7400\"",
        "\"0000:01:00.0\"",
        "\"inside\"",
        "\"a\\nb\"",
        "\"é\"",
        "[]",
        "[1, \"x\"]",
        "[\"any\"]",
        "[[]]",
        "[{ cpu = 1 }, 1]",
        "[\"fd00:1::1/64\", \"10.9.0.1/31\"]",
        "{}",
        "{ delayed = \"1ms\" }",
        "[{ name = \"x\" }]",
        "{ name = 1 }",
    ])
    .prop_map(str::to_owned)
}

/// What people and fuzzers put into a file.
fn insertion() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "\"",
            "[",
            "]",
            "[[",
            "{",
            "}",
            "\n",
            "=",
            "0",
            "-1",
            "99999999999",
            "1.5",
            "true",
            "é",
            "\u{0}",
            "\r\n",
            "[cluster]\n",
            "[[rule]]\n",
            "\"any\"",
            "name = \"x\"\n",
            "shared = true\n",
            "0000:01:00.0",
            "18446744073709551615",
            "\"18446744073709551615d\"",
            "::/0",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

#[test]
fn agents_are_numbered_in_the_files_order() {
    let text = format!(
        "{BASE}\n[agents]\nsocket = \"a.sock\"\nmode = 0o600\ngroup = \"ftp\"\n\
         [[agent]]\nname = \"sip\"\n[[agent]]\nname = \"ftp\"\ncommand = [\"/bin/ftp\", \"-v\"]\n\
         user = \"nobody\"\nwhen_gone = \"hold\"\nqueue = 7\n\
         [[rule]]\nname = \"files\"\naction = \"allow\"\nservice = \"tcp/21\"\nagent = \"ftp\"\n"
    );
    let config = Config::parse(&text, "n1.toml", "/etc/x").unwrap();
    let agents = &config.agents;
    assert_eq!(agents.socket.socket.to_str(), Some("/etc/x/a.sock"));
    assert_eq!(
        (agents.socket.mode, agents.socket.group.as_deref()),
        (0o600, Some("ftp"))
    );
    assert_eq!(agents.names(), ["sip", "ftp"]);
    assert_eq!(agents.list[1].command, ["/bin/ftp", "-v"]);
    let user = |n: usize| agents.list[n].user.as_deref();
    assert_eq!((user(0), user(1)), (None, Some("nobody")));
    let gone = |n: usize| (agents.list[n].when_gone, agents.list[n].queue);
    assert_eq!(gone(0), (config::WhenGone::Bypass, 256));
    assert_eq!(gone(1), (config::WhenGone::Hold, 7));
    let rule = config.rules.rules().last().unwrap();
    assert_eq!((rule.name.as_str(), rule.agent), ("files", Some(1)));
    // Rules that are loaded later name the same agents.
    let text = "[[rule]]\nname = \"x\"\naction = \"allow\"\nagent = \"ftp\"\n";
    let read = config::rules_from_str(text, "r", config.rules.zones(), &agents.names(), 2).unwrap();
    assert_eq!(read.rules.rules()[0].agent, Some(1));
    let query = policy::Query {
        proto: 6,
        dport: 21,
        ..policy::Query::default()
    };
    assert_eq!(read.rules.decide(&query).agent, Some(1));
    assert_eq!(
        policy::Classifier::compile(&read.rules)
            .classify(&query)
            .agent,
        Some(1)
    );
}
