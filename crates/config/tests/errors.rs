//! Every mistake is said with its place and its remedy: one edit of a good file, and the whole
//! message that it must give.

use config::{Config, ConfigError};

const BASE: &str = include_str!("base.toml");

/// The base with the first `old` replaced; the messages of parsing that.
fn messages(old: &str, new: &str) -> String {
    assert!(BASE.contains(old), "the base has no {old:?}");
    let text = BASE.replacen(old, new, 1);
    match Config::parse(&text, "n1.toml", "") {
        Ok(_) => format!("{old:?} -> {new:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn warnings(old: &str, new: &str) -> Vec<String> {
    assert!(BASE.contains(old), "the base has no {old:?}");
    let text = BASE.replacen(old, new, 1);
    let config = Config::parse(&text, "n1.toml", "").unwrap();
    config.warnings.iter().map(ToString::to_string).collect()
}

fn check(table: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (old, new, expected) in table {
        let found = messages(old, new);
        if found != *expected {
            wrong += &format!("\n({old:?}, {new:?},\n   {found:?}\n   {expected:?}");
        }
    }
    assert!(wrong.is_empty(), "edit, found, expected:{wrong}");
}

#[test]
fn the_base_is_good() {
    let config = Config::parse(BASE, "n1.toml", "").unwrap();
    assert_eq!(config.warnings, []);
}

#[test]
fn text() {
    check(&[
        (
            "[node]",
            "[node",
            "n1.toml:1:6: unclosed table, expected `]`",
        ),
        (
            "name = \"n1\"",
            "name = n1",
            "n1.toml:2:8: n1 is no value; write a text in quotes: \"n1\"",
        ),
        (
            "id = 1",
            "id = 1\nid = 2",
            "n1.toml:10:1: the key id is there twice; remove one",
        ),
        (
            "heartbeat = \"10ms\"",
            "heartbaet = \"10ms\"",
            "n1.toml:6:1: cluster.heartbaet: unknown key; known here are name, distribution, mac, backups, heartbeat, dead_after, join_wait, hold_deadline, hold_at_deadline, hold_acks, alone, resync_rate, digest_every, member",
        ),
        (
            "[flows]",
            "[flow]",
            "n1.toml:34:2: flow: unknown key; known here are node, cluster, pki, eal, cores, control, agents, agent, flows, timeouts, tcp, detect, interface, route, neighbour, rule, sync",
        ),
        (
            "cpu = 2",
            "core = 2",
            "n1.toml:29:11: cores.worker.0.cpu: is missing; write for instance worker = [{ cpu = 2 }]\nn1.toml:29:13: cores.worker.0.core: unknown key; known here are cpu, idle, idle_sleep, burst, rx_descriptors, tx_descriptors, table, hold",
        ),
        (
            "tcp = \"ack\"",
            "tcp = { after = \"1s\" }",
            "n1.toml:60:7: sync.tcp.delayed: is missing; write for instance sync = { delayed = \"2s\" }\nn1.toml:60:9: sync.tcp.after: unknown key; known here are delayed",
        ),
        (
            "capacity = 100000",
            "capacity = \"many\"",
            "n1.toml:35:12: flows.capacity: is a string; write a number",
        ),
        (
            "[node]\nname = \"n1\"",
            "",
            "n1.toml:1:1: node.name: is missing; write for instance name = \"n1\" under [node]",
        ),
        (
            "[node]\nname = \"n1\"",
            "node = 3",
            "n1.toml:1:1: node.name: is missing; write for instance name = \"n1\" under [node]\nn1.toml:1:8: node: is an integer; write a table",
        ),
        (
            "worker = [{ cpu = 2 }, { cpu = 3 }]",
            "worker = 2",
            "n1.toml:29:10: cores.worker: is an integer; write a list such as [{ cpu = 2 }]",
        ),
        (
            "[[route]]",
            "[route.x]",
            "n1.toml:48:2: route.to: is missing; write for instance to = \"0.0.0.0/0\" in each [[route]]\nn1.toml:48:2: route.via: is missing; write for instance via = \"10.2.0.254\" in each [[route]]\nn1.toml:48:8: route.x: unknown key; known here are to, via",
        ),
        (
            "from = [\"inside\"]",
            "from = [1, \"inside\"]",
            "n1.toml:53:9: rule.web.from: is an integer; write a string",
        ),
        (
            "mode = 0o660",
            "mode = 1.5",
            "n1.toml:33:8: control.mode: is a float; write a number",
        ),
    ]);
}

#[test]
fn several_at_once_in_the_order_of_the_file() {
    check(&[(
        "id = 1\n",
        "id = 32\nweigth = 1\n",
        "n1.toml:9:6: cluster.member.n1.id: 32 is out of range; write a number from 0 to 31\nn1.toml:10:1: cluster.member.n1.weigth: unknown key; known here are name, id, sync, membership, weight, backups",
    )]);
}

#[test]
fn single_values() {
    check(&[
        (
            "capacity = 100000",
            "capacity = 5",
            "n1.toml:35:12: flows.capacity: 5 is out of range; write a number from 1024 to 1073741824",
        ),
        (
            "capacity = 100000",
            "capacity = -5",
            "n1.toml:35:12: flows.capacity: -5 is out of range; write a number from 1024 to 1073741824",
        ),
        (
            "capacity = 100000",
            "capacity = 99999999999999999999999",
            "n1.toml:35:12: flows.capacity: 99999999999999999999999 is out of range; write a number from 1024 to 1073741824",
        ),
        (
            "icmp = \"30s\"",
            "icmp = 30",
            "n1.toml:37:8: timeouts.icmp: is an integer; write a duration such as \"20ms\" or \"2s\"",
        ),
        (
            "icmp = \"30s\"",
            "icmp = \"30\"",
            "n1.toml:37:8: timeouts.icmp: \"30\" is no duration; write a number and a unit: \"50us\", \"20ms\", \"2s\", \"5m\", \"1h\" or \"5d\"",
        ),
        (
            "icmp = \"30s\"",
            "icmp = \"30ms\"",
            "n1.toml:37:8: timeouts.icmp: 30ms is out of range; write a duration from 1s to 20d",
        ),
        (
            "action = \"allow\"",
            "action = \"accept\"",
            "n1.toml:55:10: rule.web.action: \"accept\" is not known; write one of \"allow\", \"deny\", \"reject\"",
        ),
        (
            "name = \"inside\"",
            "name = \"in side\"",
            "n1.toml:39:8: interface.in side.name: \"in side\" is no name; use 1 to 63 letters, digits, '.', '_' and '-'",
        ),
        (
            "name = \"web\"",
            "name = \"\"",
            "n1.toml:52:8: rule.name: a name of 0 characters; use 1 to 63 printable ones",
        ),
        (
            "mode = 0o660",
            "mode = 0o1777",
            "n1.toml:33:8: control.mode: 0o1777 is no set of permissions; write an octal number from 0o000 to 0o777",
        ),
        (
            "mode = 0o660",
            "socket = \"\"",
            "n1.toml:33:10: control.socket: an empty path; name a file",
        ),
        (
            "mode = 0o660",
            "group = \"a/b\"",
            "n1.toml:33:9: control.group: \"a/b\" is no name; use 1 to 63 letters, digits, '.', '_' and '-'",
        ),
        (
            "ca = \"ca.pem\"",
            "ca = \"\"",
            "n1.toml:23:6: pki.ca: an empty path; name a file",
        ),
        (
            "ca = \"ca.pem\"\n",
            "",
            "n1.toml:22:1: pki.ca: is missing; write for instance ca = \"pki/ca.pem\" under [pki]",
        ),
    ]);
}

#[test]
fn node_and_cluster() {
    check(&[
        (
            "name = \"n1\"",
            "name = \"n4\"",
            "n1.toml:2:8: node.name: \"n4\" is not a member of the cluster; the members are n1, n2, n3",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\ndistribution = \"ecmp\"",
            "n1.toml:6:7: cluster.mac: has no meaning with distribution = \"ecmp\", where each node answers with its own addresses; leave it out",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\ndistribution = \"anycast\"",
            "n1.toml:5:16: cluster.distribution: \"anycast\" is not known; write one of \"filter\", \"ecmp\"",
        ),
        (
            "name = \"lab\"\n",
            "",
            "n1.toml:3:1: cluster.name: is missing; write for instance name = \"lab\" under [cluster]",
        ),
        (
            "mac = \"03:72:76:6c:00:01\"\n",
            "",
            "n1.toml:3:1: cluster.mac: is missing; write for instance mac = \"03:72:76:6c:00:01\" under [cluster]",
        ),
        (
            "mac = \"03:72:76:6c:00:01\"",
            "mac = \"02:72:76:6c:00:01\"",
            "n1.toml:5:7: cluster.mac: 02:72:76:6c:00:01 is a unicast address; set the lowest bit of the first byte: 03:72:76:6c:00:01",
        ),
        (
            "mac = \"03:72:76:6c:00:01\"",
            "mac = \"ff:ff:ff:ff:ff:ff\"",
            "n1.toml:5:7: cluster.mac: is the broadcast address, which every host listens to; choose another such as \"03:72:76:6c:00:01\"",
        ),
        (
            "mac = \"03:72:76:6c:00:01\"",
            "mac = \"03:72\"",
            "n1.toml:5:7: cluster.mac: \"03:72\" is no Ethernet address; write six bytes such as \"03:72:76:6c:00:01\"",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nbackups = 3",
            "n1.toml:5:11: cluster.backups: 3 backups with 3 members; write 1 to 2",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nbackups = 0",
            "n1.toml:5:11: cluster.backups: 0 is out of range; write a number from 1 to 31",
        ),
        (
            "heartbeat = \"10ms\"",
            "heartbeat = \"20ms\"",
            "n1.toml:3:1: cluster.dead_after: 50ms is less than three heartbeats of 20ms; write at least \"60ms\"",
        ),
        (
            "heartbeat = \"10ms\"",
            "dead_after = \"29ms\"",
            "n1.toml:6:14: cluster.dead_after: 29ms is less than three heartbeats of 10ms; write at least \"30ms\"",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nhold_acks = 2",
            "n1.toml:5:13: cluster.hold_acks: 2 acknowledgements cannot come from a backup group of 1; write \"all\" or at most 1",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nhold_acks = \"some\"",
            "n1.toml:5:13: cluster.hold_acks: \"some\" is not known; write one of \"all\" or a number",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nhold_acks = true",
            "n1.toml:5:13: cluster.hold_acks: is a boolean; write \"all\" or a number",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nhold_at_deadline = \"keep\"",
            "n1.toml:5:20: cluster.hold_at_deadline: \"keep\" is not known; write one of \"drop\", \"release\"",
        ),
        (
            "name = \"lab\"",
            "name = \"lab\"\nalone = \"wait\"",
            "n1.toml:5:9: cluster.alone: \"wait\" is not known; write one of \"forward\", \"refuse\"",
        ),
        (
            "name = \"n2\"",
            "name = \"n1\"",
            "n1.toml:13:8: cluster.member.n1.name: \"n1\" is already used by another member; give each its own",
        ),
        (
            "id = 2",
            "id = 1",
            "n1.toml:14:6: cluster.member.n2.id: \"1\" is already used by the id of \"n1\"; give each its own",
        ),
        (
            "10.99.0.2:7400",
            "10.99.0.1:7401",
            "n1.toml:15:8: cluster.member.n2.sync: \"10.99.0.1:7401\" is already used by the membership of \"n1\"; give each its own",
        ),
        (
            "10.99.0.2:7400",
            "10.99.0.2",
            "n1.toml:15:8: cluster.member.n2.sync: \"10.99.0.2\" is no address and port; write for instance \"10.99.0.1:7400\" or \"[fd00:99::1]:7400\"",
        ),
        (
            "10.99.0.2:7400",
            "10.99.0.2:0",
            "n1.toml:15:8: cluster.member.n2.sync: 10.99.0.2:0 is the address or port of no particular node; write the node's own address and a port above 0",
        ),
        (
            "10.99.0.2:7400",
            "0.0.0.0:7400",
            "n1.toml:15:8: cluster.member.n2.sync: 0.0.0.0:7400 is the address or port of no particular node; write the node's own address and a port above 0",
        ),
        (
            "10.99.0.2:7400",
            "10.1.0.1:7400",
            "n1.toml:42:14: interface.inside.addresses: 10.1.0.1:7400 of member \"n2\" is the address of a packet interface, which the kernel does not see; use another network for the cluster's own traffic",
        ),
        (
            "id = 2",
            "id = 2\nbackups = [\"n2\"]",
            "n1.toml:15:12: cluster.member.n2.backups: \"n2\" cannot be its own backup; name other members",
        ),
        (
            "id = 2",
            "id = 2\nbackups = [\"n1\", \"n5\"]",
            "n1.toml:15:18: cluster.member.n2.backups: \"n5\" is not a member of the cluster; the members are n1, n2, n3",
        ),
        (
            "id = 2",
            "id = 2\nbackups = [\"n1\", \"n1\"]",
            "n1.toml:15:18: cluster.member.n2.backups: \"n1\" is already used by a backup before it; give each its own",
        ),
        (
            "id = 2",
            "id = 2\nbackups = []",
            "n1.toml:15:11: cluster.member.n2.backups: an empty list; name at least one member, or leave the key out",
        ),
        (
            "id = 2",
            "id = 2\nweight = 0",
            "n1.toml:15:10: cluster.member.n2.weight: 0 is out of range; write a number from 1 to 1000",
        ),
        (
            "id = 2\n",
            "",
            "n1.toml:12:1: cluster.member.n2.id: is missing; write for instance id = 1 in each [[cluster.member]]",
        ),
        (
            "[pki]\nca = \"ca.pem\"\ncert = \"n1.pem\"\nkey = \"n1.key\"\n",
            "",
            "n1.toml:3:1: pki: a cluster needs [pki] with ca, cert and key; `ravelin pki` makes them",
        ),
    ]);
}

#[test]
fn clusters_of_odd_sizes() {
    let start = BASE.find("[[cluster.member]]").unwrap();
    let end = BASE.find("[pki]").unwrap();
    let none = messages(&BASE[start..end], "");
    assert_eq!(
        none,
        "n1.toml:3:1: cluster.member: there is no [[cluster.member]]; list every node of the cluster"
    );
    let one = "backups = 1\n[[cluster.member]]\nname = \"n1\"\nid = 1\n\
               sync = \"10.99.0.1:7400\"\nmembership = \"10.99.0.1:7401\"\n";
    assert_eq!(
        messages(&BASE[start..end], one),
        "n1.toml:7:11: cluster.backups: 1 backups in a cluster of one member; leave it out"
    );
    let member = |n: usize| {
        format!(
            "[[cluster.member]]\nname = \"n{n}\"\nid = {}\n\
             sync = \"10.99.0.{n}:7400\"\nmembership = \"10.99.0.{n}:7401\"\n",
            n - 1
        )
    };
    let full: String = (1..=32).map(member).collect();
    let text = BASE.replacen(&BASE[start..end], &full, 1);
    assert_eq!(
        Config::parse(&text, "", "")
            .unwrap()
            .cluster
            .unwrap()
            .members
            .len(),
        32
    );
    let many = format!("{full}{}", member(33));
    assert_eq!(
        messages(&BASE[start..end], &many),
        "n1.toml:3:1: cluster.member: 33 members; a cluster has at most 32\n\
         n1.toml:169:6: cluster.member.n33.id: 32 is out of range; write a number from 0 to 31"
    );
}

#[test]
fn cores_and_eal() {
    check(&[
        (
            "cpu = 3",
            "cpu = 2",
            "n1.toml:29:32: cores.worker.1.cpu: cpu 2 is already used by worker 0; give each its own cpu, or write shared = true to let them share",
        ),
        (
            "sync = 1\n",
            "sync = 0\n",
            "n1.toml:31:14: cores.membership: cpu 0 is already used by the sync core; give each its own cpu, or write shared = true to let them share",
        ),
        (
            "sync = 1\n",
            "sync = 2\nshared = true\n",
            "n1.toml:29:19: cores.worker.0.cpu: a worker that spins would starve what shares cpu 2 with it; write idle = \"sleep\" or give it its own cpu",
        ),
        (
            "sync = 1\n",
            "",
            "n1.toml:28:1: cores.sync: is missing; write for instance sync = 1 under [cores]",
        ),
        (
            "cpu = 3",
            "cpu = 1024",
            "n1.toml:29:32: cores.worker.1.cpu: 1024 is out of range; write a number from 0 to 1023",
        ),
        (
            "worker = [{ cpu = 2 }, { cpu = 3 }]\n",
            "",
            "n1.toml:28:1: cores.worker: no worker; write for instance worker = [{ cpu = 2 }]",
        ),
        (
            "[{ cpu = 2 }, { cpu = 3 }]",
            "[]",
            "n1.toml:28:1: cores.worker: no worker; write for instance worker = [{ cpu = 2 }]",
        ),
        (
            "[{ cpu = 2 }, { cpu = 3 }]",
            "[{ burst = 16 }]",
            "n1.toml:29:11: cores.worker.0.cpu: is missing; write for instance worker = [{ cpu = 2 }]",
        ),
        (
            "cpu = 3",
            "cpu = 3, burst = 65",
            "n1.toml:29:43: cores.worker.1.burst: 65 is out of range; write a number from 1 to 64",
        ),
        (
            "cpu = 3",
            "cpu = 3, rx_descriptors = 1000",
            "n1.toml:29:52: cores.worker.1.rx_descriptors: 1000 is no power of two; write 512 or 1024",
        ),
        (
            "cpu = 3",
            "cpu = 3, idle = \"nap\"",
            "n1.toml:29:42: cores.worker.1.idle: \"nap\" is not known; write one of \"spin\", \"pause\", \"sleep\"",
        ),
        (
            "memory_mb = 512",
            "hugepages = false\niova = \"pa\"",
            "n1.toml:28:8: eal.iova: \"pa\" needs huge pages; set hugepages = true or iova = \"va\"",
        ),
        (
            "memory_mb = 512",
            "extra = [\"--log-level=8\", \"--no-huge\"]",
            "n1.toml:27:27: eal.extra: \"--no-huge\" is set from eal.hugepages; leave it out here",
        ),
        (
            "memory_mb = 512",
            "extra = [\"-l0,1\"]",
            "n1.toml:27:10: eal.extra: \"-l0,1\" is set from cores; leave it out here",
        ),
        (
            "cpu = 3",
            "cpu = 3, table = 1000",
            "n1.toml:29:43: cores.worker.1.table: 1000 is out of range; write a number from 1024 to 1073741824",
        ),
        (
            "cpu = 3",
            "cpu = 3, hold = 0",
            "n1.toml:29:42: cores.worker.1.hold: 0 is out of range; write a number from 1 to 4194304",
        ),
        (
            "memory_mb = 512\n[cores]",
            "mbufs = 9000\n[cores]\nhold = 500",
            "n1.toml:27:9: eal.mbufs: 9000 packet buffers are fewer than the 8192 that the queues hold and the 1000 that may be held; raise it to 9192, leave it out, or lower hold under [cores]",
        ),
        (
            "memory_mb = 512",
            "mbufs = 4096",
            "n1.toml:27:9: eal.mbufs: 4096 packet buffers are fewer than the 8192 that the queues alone hold; raise it or leave it out",
        ),
    ]);
}

#[test]
fn interfaces() {
    check(&[
        (
            "name = \"outside\"",
            "name = \"inside\"",
            "n1.toml:44:8: interface.inside.name: \"inside\" is already used by another interface; give each its own",
        ),
        (
            "net_af_packet0,iface=out0",
            "0000:01:00.0",
            "n1.toml:45:10: interface.outside.device: \"0000:01:00.0\" is already used by interface \"inside\"; give each its own",
        ),
        (
            "net_af_packet0,iface=out0",
            "out0",
            "n1.toml:45:10: interface.outside.device: \"out0\" is no device; write a PCI address such as \"0000:01:00.0\" or a DPDK device such as \"net_af_packet0,iface=eth1\"",
        ),
        (
            "device = \"0000:01:00.0\"\n",
            "",
            "n1.toml:38:1: interface.inside.device: is missing; write for instance device = \"0000:01:00.0\" in each [[interface]]",
        ),
        (
            "zone = \"outside\"\n",
            "",
            "n1.toml:43:1: interface.outside.zone: is missing; write for instance zone = \"inside\" in each [[interface]]",
        ),
        (
            "zone = \"outside\"",
            "zone = \"any\"",
            "n1.toml:46:8: interface.outside.zone: a zone cannot be named \"any\"; choose another name",
        ),
        (
            "zone = \"outside\"",
            "zone = \"outside\"\nmtu = 9217",
            "n1.toml:47:7: interface.outside.mtu: 9217 is out of range; write a number from 576 to 9216",
        ),
        (
            "zone = \"inside\"",
            "zone = \"inside\"\nmtu = 1279",
            "n1.toml:42:7: interface.inside.mtu: 1279 is below the 1280 that IPv6 needs (RFC 8200, section 5); raise it or leave the IPv6 addresses out",
        ),
        (
            "zone = \"outside\"",
            "zone = \"outside\"\nvlan = 4095",
            "n1.toml:47:8: interface.outside.vlan: 4095 is out of range; write a number from 1 to 4094",
        ),
        (
            "10.2.0.1/24",
            "10.1.0.2/16",
            "n1.toml:47:14: interface.outside.addresses: 10.1.0.2/16 overlaps with 10.1.0.1/24 of \"inside\"; give each interface its own network\nn1.toml:50:7: route.via: 10.2.0.254 is on no connected network; the networks are 10.1.0.0/24, fd00:1::/64, 10.1.0.0/16",
        ),
        (
            "fd00:1::1/64",
            "fd00:1::/64",
            "n1.toml:42:29: interface.inside.addresses: fd00:1::/64 is the subnet-router anycast address (RFC 4291, section 2.6.1) of its network; choose a host's address",
        ),
        (
            "10.2.0.1/24",
            "10.2.0.0/24",
            "n1.toml:47:14: interface.outside.addresses: 10.2.0.0/24 is the network address of its network; choose a host's address",
        ),
        (
            "10.2.0.1/24",
            "10.2.0.255/24",
            "n1.toml:47:14: interface.outside.addresses: 10.2.0.255/24 is the broadcast address of its network; choose a host's address",
        ),
        (
            "10.2.0.1/24\"",
            "10.2.0.1/24\", \"10.2.0.1/24\"",
            "n1.toml:47:29: interface.outside.addresses: \"10.2.0.1\" is already used by this interface; give each its own",
        ),
        (
            "10.2.0.1/24",
            "10.2.0.1",
            "n1.toml:47:14: interface.outside.addresses: \"10.2.0.1\" is no interface address; write an address and its prefix length, such as \"10.1.0.1/24\" or \"fd00:1::1/64\"\nn1.toml:50:7: route.via: 10.2.0.254 is on no connected network; the networks are 10.1.0.0/24, fd00:1::/64",
        ),
        (
            "fd00:1::1/64",
            "ff02::1/64",
            "n1.toml:42:29: interface.inside.addresses: ff02::1/64 is not an address that an interface can have; choose a unicast address",
        ),
        (
            "fd00:1::1/64",
            "127.0.0.1/8",
            "n1.toml:42:29: interface.inside.addresses: 127.0.0.1/8 is not an address that an interface can have; choose a unicast address",
        ),
    ]);
    let start = BASE.find("[[interface]]").unwrap();
    let end = BASE.find("[sync]").unwrap();
    assert_eq!(
        messages(&BASE[start..end], ""),
        "n1.toml:1:1: interface: there is no [[interface]]; describe at least one"
    );
}

#[test]
fn more_zones_than_there_may_be() {
    let interface = |n: usize| {
        format!(
            "[[interface]]\nname = \"i{n}\"\ndevice = \"net_null{n}\"\nzone = \"z{n}\"\n\
             addresses = [\"10.200.{n}.1/24\"]\n"
        )
    };
    let more: String = (0..253).map(interface).collect();
    assert_eq!(
        messages("[[route]]", &format!("{more}[[route]]")),
        "n1.toml:1311:8: interface.i252.zone: 255 zones; there may be 254"
    );
}

#[test]
fn routes() {
    let second = |lines: &str| format!("[[route]]\n{lines}\n[[rule]]");
    check(&[
        (
            "via = \"10.2.0.254\"",
            "via = \"10.3.0.254\"",
            "n1.toml:50:7: route.via: 10.3.0.254 is on no connected network; the networks are 10.1.0.0/24, fd00:1::/64, 10.2.0.0/24",
        ),
        (
            "via = \"10.2.0.254\"",
            "via = \"10.2.0.1\"",
            "n1.toml:50:7: route.via: 10.2.0.1 is this node's own address; write the next router's",
        ),
        (
            "via = \"10.2.0.254\"",
            "via = \"fd00:1::9\"",
            "n1.toml:50:7: route.via: fd00:1::9 is not of the IP version of 0.0.0.0/0; write a router of the same version",
        ),
        (
            "via = \"10.2.0.254\"",
            "via = \"router\"",
            "n1.toml:50:7: route.via: \"router\" is no address; write the next router's, such as \"10.2.0.254\"",
        ),
        (
            "via = \"10.2.0.254\"\n",
            "",
            "n1.toml:48:1: route.via: is missing; write for instance via = \"10.2.0.254\" in each [[route]]",
        ),
        (
            "to = \"0.0.0.0/0\"",
            "to = \"default\"",
            "n1.toml:49:6: route.to: \"default\" is no network; write for instance \"10.254.0.0/16\", or \"0.0.0.0/0\" or \"::/0\" for a default route",
        ),
        (
            "to = \"0.0.0.0/0\"",
            "to = \"10.5.1.0/16\"",
            "n1.toml:49:6: route.to: \"10.5.1.0/16\" has bits behind its prefix; write \"10.5.0.0/16\" or \"10.5.1.0/32\"",
        ),
        (
            "to = \"0.0.0.0/0\"",
            "to = \"10.1.0.0/24\"",
            "n1.toml:49:6: route.to: 10.1.0.0/24 is connected to \"inside\" already; remove the route",
        ),
        (
            "[[rule]]",
            &second("to = \"0.0.0.0/0\"\nvia = \"10.2.0.253\""),
            "n1.toml:52:6: route.to: \"0.0.0.0/0\" is already used by a route before it; give each its own",
        ),
    ]);
}

#[test]
fn neighbours() {
    let with = |interface: &str, address: &str, mac: &str| {
        format!(
            "[[neighbour]]\ninterface = \"{interface}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n[[rule]]"
        )
    };
    let good = with("outside", "10.2.0.254", "02:00:00:00:00:fe");
    let good = good.trim_end_matches("[[rule]]");
    let cases = [
        (
            "[[neighbour]]\n[[rule]]".to_owned(),
            "n1.toml:51:1: neighbour.interface: is missing; write for instance interface = \"outside\" in each [[neighbour]]\nn1.toml:51:1: neighbour.address: is missing; write for instance address = \"10.2.0.254\" in each [[neighbour]]\nn1.toml:51:1: neighbour.mac: is missing; write for instance mac = \"02:00:00:00:00:fe\" in each [[neighbour]]",
        ),
        (
            with("dmz", "10.2.0.254", "02:00:00:00:00:fe"),
            "n1.toml:52:13: neighbour.interface: there is no interface \"dmz\"; the interfaces are inside, outside",
        ),
        (
            with("outside", "router", "02:00:00:00:00:fe"),
            "n1.toml:53:11: neighbour.address: \"router\" is no address; write the neighbour's, such as \"10.2.0.254\"",
        ),
        (
            with("outside", "10.1.0.9", "02:00:00:00:00:fe"),
            "n1.toml:53:11: neighbour.address: 10.1.0.9 is on no network of \"outside\"; its networks are 10.2.0.0/24",
        ),
        (
            with("inside", "fd00:1::1", "02:00:00:00:00:fe"),
            "n1.toml:53:11: neighbour.address: fd00:1::1 is this node's own address; write the neighbour's",
        ),
        (
            with("outside", "10.2.0.254", "2:0:0:0:0:fe"),
            "n1.toml:54:7: neighbour.mac: \"2:0:0:0:0:fe\" is no Ethernet address; write six bytes such as \"03:72:76:6c:00:01\"",
        ),
        (
            with("outside", "10.2.0.254", "03:72:76:6c:00:01"),
            "n1.toml:54:7: neighbour.mac: 03:72:76:6c:00:01 is no station's address; write the neighbour's own, whose first byte is even",
        ),
        (
            format!(
                "{good}{}",
                with("outside", "10.2.0.254", "02:00:00:00:00:fd")
            ),
            "n1.toml:57:11: neighbour.address: \"10.2.0.254\" is already used by a neighbour before it; give each its own",
        ),
    ];
    let table: Vec<_> = cases
        .iter()
        .map(|(new, expected)| ("[[rule]]", new.as_str(), *expected))
        .collect();
    check(&table);
    let many: String = (0..1025)
        .map(|n| {
            with(
                "inside",
                &format!("fd00:1::{:x}", n + 2),
                "02:00:00:00:00:fe",
            )
            .trim_end_matches("[[rule]]")
            .to_owned()
        })
        .collect();
    assert_eq!(
        messages("[[rule]]", &format!("{many}[[rule]]")),
        "n1.toml:4147:1: neighbour: 1025 neighbours; there may be 1024"
    );
}

#[test]
fn rules() {
    check(&[
        (
            "from = [\"inside\"]",
            "from = [\"inside\", \"dmz\"]",
            "n1.toml:53:19: rule.web.from: zone \"dmz\" has no interface; the zones are inside, outside",
        ),
        (
            "from = [\"inside\"]",
            "to = \"lan\"",
            "n1.toml:53:6: rule.web.to: zone \"lan\" has no interface; the zones are inside, outside",
        ),
        (
            "from = [\"inside\"]",
            "from = []",
            "n1.toml:53:8: rule.web.from: an empty list matches nothing; name what it shall match, or leave the key out to match everything",
        ),
        (
            "from = [\"inside\"]",
            "source = [\"10.0.0.1/8\", \"10.0.0.0/33\"]",
            "n1.toml:53:11: rule.web.source: \"10.0.0.1/8\" has bits behind its prefix; write \"10.0.0.0/8\" or \"10.0.0.1/32\"\nn1.toml:53:25: rule.web.source: \"10.0.0.0/33\" is no address; write a network such as \"10.0.0.0/8\" or \"fd00:1::/64\", \"!\" and a network to leave it out, or \"any\"",
        ),
        (
            "from = [\"inside\"]",
            "destination = [\"::ffff:10.0.0.0/104\"]",
            "n1.toml:53:16: rule.web.destination: \"::ffff:10.0.0.0/104\" is IPv4 in the notation of IPv6; write it as IPv4",
        ),
        (
            "tcp/80",
            "http",
            "n1.toml:54:12: rule.web.service: \"http\" is no service; write \"tcp/80\", \"udp/8000-8100\", \"tcp/*\", \"icmp/echo\", \"icmpv6/*\", \"proto/47\" or \"any\"",
        ),
        (
            "tcp/80",
            "tcp/0",
            "n1.toml:54:12: rule.web.service: \"tcp/0\" names no port; write 1 to 65535, a range such as 8000-8100, or *",
        ),
        (
            "name = \"rest\"",
            "name = \"web\"",
            "n1.toml:57:8: rule.web.name: two rules are named \"web\"; give each its own name",
        ),
        (
            "name = \"web\"\n",
            "",
            "n1.toml:51:1: rule.name: is missing; write for instance name = \"web\" in each [[rule]]",
        ),
        (
            "action = \"reject\"\n",
            "",
            "n1.toml:56:1: rule.rest.action: is missing; write for instance action = \"allow\" in each [[rule]]",
        ),
        (
            "name = \"rest\"",
            "name = \"ppkttia\"",
            "n1.toml:57:8: rule.ppkttia.name: rule \"ppkttia\" has the reserved identity 0x00000000; rename it",
        ),
        (
            "from = [\"inside\"]",
            "user = []\ngroup = [\"staff\", \"a b\", 3]",
            "n1.toml:53:8: rule.web.user: an empty list matches nothing; name what it shall match, or leave the key out to match everything\nn1.toml:54:19: rule.web.group: \"a b\" is no name of a user or group; use 1 to 63 letters, digits, '.', '_', '@', '\\' and '-'\nn1.toml:54:26: rule.web.group: is an integer; write a string",
        ),
        (
            "tcp = \"ack\"",
            "expectations = \"none\"\nmarks = { delayed = \"2s\" }",
            "n1.toml:60:16: sync.expectations: \"none\" is not known; write one of \"ack\", \"async\"\nn1.toml:61:9: sync.marks: is a table; write a string",
        ),
        (
            "tcp = \"ack\"",
            "tcp = \"always\"",
            "n1.toml:60:7: sync.tcp: \"always\" is not known; write one of \"ack\", \"async\", \"none\" or { delayed = \"2s\" }",
        ),
        (
            "tcp = \"ack\"",
            "tcp = 1",
            "n1.toml:60:7: sync.tcp: is an integer; write \"ack\", \"async\", \"none\" or { delayed = \"2s\" }",
        ),
        (
            "tcp = \"ack\"",
            "tcp = {}",
            "n1.toml:60:7: sync.tcp.delayed: is missing; write for instance sync = { delayed = \"2s\" }",
        ),
        (
            "tcp = \"ack\"",
            "tcp = { delayed = \"2d\" }",
            "n1.toml:60:19: sync.tcp.delayed: 2d is out of range; write a duration from 1ms to 1d",
        ),
        (
            "name = \"rest\"",
            "name = \"rest\"\nsync = \"sometimes\"",
            "n1.toml:58:8: rule.rest.sync: \"sometimes\" is not known; write one of \"ack\", \"async\", \"none\" or { delayed = \"2s\" }",
        ),
    ]);
    // A known collision of the hash of users and groups.
    let text = BASE
        .replacen("from = [\"inside\"]", "user = \"8yn0iYCKYHlIj4-BwPqk\"", 1)
        .replacen(
            "\"rest\"",
            "\"rest\"\nuser = [\"bob\", \"GReLUrM4wMqfg9yzV3KQ\"]",
            1,
        );
    assert_eq!(
        Config::parse(&text, "n1.toml", "").unwrap_err().to_string(),
        "n1.toml:58:16: rule.rest.user: users or groups \"GReLUrM4wMqfg9yzV3KQ\" and \"8yn0iYCKYHlIj4-BwPqk\" have the same hash 0x4eac0c95540867e4, so that one would have the other's rights; rename one of them"
    );
    // A known collision of the identities' hash.
    let text = BASE
        .replacen("\"web\"", "\"costarring\"", 1)
        .replacen("\"rest\"", "\"liquid\"", 1);
    assert_eq!(
        Config::parse(&text, "n1.toml", "").unwrap_err().to_string(),
        "n1.toml:57:8: rule.liquid.name: rules \"liquid\" and \"costarring\" have the same identity 0x5e4daa9d; rename one of them"
    );
}

#[test]
fn the_detector() {
    let with = |lines: &str| format!("[detect]\n{lines}\n[sync]");
    check(&[
        (
            "[sync]",
            &with("scan_ports = 0\nflood_syns = 0"),
            "n1.toml:59:1: detect: has nothing to count; write scan_ports or flood_syns above 0, or leave the section out",
        ),
        (
            "[sync]",
            &with("scan_ports = 2000000"),
            "n1.toml:60:14: detect.scan_ports: 2000000 is out of range; write a number from 0 to 1000000",
        ),
        (
            "[sync]",
            &with("flood_syns = -1"),
            "n1.toml:60:14: detect.flood_syns: -1 is out of range; write a number from 0 to 1000000000",
        ),
        (
            "[sync]",
            &with("window = \"2h\"\nblock_for = \"1ms\""),
            "n1.toml:60:10: detect.window: 2h is out of range; write a duration from 1s to 1h\nn1.toml:61:13: detect.block_for: 1ms is out of range; write a duration from 1s to 30d",
        ),
        (
            "[sync]",
            &with("except = [\"10.0.0.0/8\", \"!10.1.0.0/16\", \"any\", \"10.0.0.1/8\"]"),
            "n1.toml:60:25: detect.except: \"!10.1.0.0/16\" is no network; write those that are never blocked, such as \"10.0.0.0/8\"\nn1.toml:60:41: detect.except: \"any\" is no network; write those that are never blocked, such as \"10.0.0.0/8\"\nn1.toml:60:48: detect.except: \"10.0.0.1/8\" has bits behind its prefix; write \"10.0.0.0/8\" or \"10.0.0.1/32\"",
        ),
        (
            "[sync]",
            &with("ports = 3"),
            "n1.toml:60:1: detect.ports: unknown key; known here are scan_ports, flood_syns, window, block_for, except",
        ),
    ]);
}

/// The messages of reading a text of rules for a node of two zones.
fn of_rules(text: &str) -> String {
    let zones = policy::Zones::new(["inside", "outside"]).unwrap();
    match config::rules_from_str(text, "new.toml", &zones, &[], 7) {
        Ok(_) => format!("{text:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn rules_alone() {
    let rule = "[[rule]]\nname = \"web\"\naction = \"allow\"\n";
    assert_eq!(
        of_rules(&format!("{rule}to = [\"dmz\"]\n")),
        "new.toml:4:7: rule.web.to: zone \"dmz\" has no interface; the zones are inside, outside"
    );
    assert_eq!(
        of_rules(&format!("[node]\nname = \"n1\"\n[colour]\n{rule}")),
        "new.toml:1:2: node: a file of rules has only [[rule]] and [sync]; node belongs into the configuration of the node\n\
         new.toml:3:2: colour: a file of rules has only [[rule]] and [sync]; colour belongs into the configuration of the node"
    );
    for empty in ["", "rule = []", "[sync]\ntcp = \"async\""] {
        assert_eq!(
            of_rules(empty),
            "new.toml:1:1: rule: there is no [[rule]], so every packet would be denied; to mean that, write one rule with action = \"deny\""
        );
    }
    assert_eq!(
        of_rules("[[rule]\nname = 1"),
        "new.toml:1:8: unclosed array table, expected `]`"
    );
    assert_eq!(
        of_rules(&format!("{rule}{rule}")),
        "new.toml:5:8: rule.web.name: two rules are named \"web\"; give each its own name"
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = Config::load("no/such.toml").unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }) && error.problems().is_empty());
    assert_eq!(
        error.to_string(),
        "no/such.toml: No such file or directory (os error 2); name a configuration file that \
         this user may read"
    );
}

#[test]
fn the_machine() {
    let config = Config::parse(BASE, "n1.toml", "").unwrap();
    config.check_machine(&[0, 1, 2, 3]).unwrap();
    let error = config.check_machine(&[0, 1, 4, 5, 6]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "n1.toml:29:19: cores.worker.0.cpu: this machine has no cpu 2 online; its cpus are 0-1, 4-6\n\
         n1.toml:29:32: cores.worker.1.cpu: this machine has no cpu 3 online; its cpus are 0-1, 4-6"
    );
}

#[test]
fn warnings_point_at_what_is_hardly_meant() {
    assert_eq!(
        warnings("from = [\"inside\"]\nservice = [\"tcp/80\"]\n", ""),
        [
            "54:1: rule.rest: never decides, since rule \"web\" before it matches all that it matches; remove it or move it up"
        ]
    );
    assert_eq!(
        warnings(
            "from = [\"inside\"]",
            "source = \"10.0.0.0/8\"\ndestination = \"::/0\""
        ),
        [
            "51:1: rule.web: never matches, since its source and its destination are of different IP versions"
        ]
    );
    assert_eq!(
        warnings("mode = 0o660", "mode = 0o666"),
        [
            "33:8: control.mode: 0o666 lets every user of the machine control the node; leave the last digit 0"
        ]
    );
    let start = BASE.find("[[rule]]").unwrap();
    let end = BASE.find("[sync]").unwrap();
    assert_eq!(
        warnings(&BASE[start..end], ""),
        ["1:1: rule: there is no [[rule]], so every packet is denied; add rules"]
    );
}

#[test]
fn agents() {
    let agent = "[[agent]]\nname = \"ftp\"\n";
    let lines = |text: &str| {
        let text = format!("{BASE}\n{text}");
        let from = BASE.lines().count() + 1;
        match Config::parse(&text, "n1.toml", "") {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error
                .to_string()
                .replace(&format!("n1.toml:{}:", from + 1), "1:")
                .replace(&format!("n1.toml:{}:", from + 3), "3:")
                .replace(&format!("n1.toml:{}:", from + 4), "4:"),
        }
    };
    let rule = |action: &str, agent: &str| {
        format!("[[rule]]\nname = \"x\"\naction = \"{action}\"\nagent = \"{agent}\"\n")
    };
    for (text, expected) in [
        (
            rule("allow", "ftp"),
            "4:9: rule.x.agent: there is no agent \"ftp\"; describe it in an [[agent]] of the node's configuration",
        ),
        (
            format!("{}{agent}", rule("allow", "tftp")),
            "4:9: rule.x.agent: there is no agent \"tftp\"; the agents are ftp",
        ),
        (
            format!("{}{agent}", rule("deny", "ftp")),
            "4:9: rule.x.agent: a rule that lets nothing pass has nothing for an agent; leave it out",
        ),
        (
            format!("{agent}when_gone = \"wait\"\n"),
            "3:13: agent.ftp.when_gone: \"wait\" is not known; write one of \"bypass\", \"hold\", \"drop\"",
        ),
        (
            format!("{agent}command = []\n"),
            "3:11: agent.ftp.command: an empty command; name a program, or leave the key out when somebody else starts it",
        ),
        (
            format!("{agent}command = [\"ftp\", \"-v\"]\n"),
            "3:12: agent.ftp.command: \"ftp\" is no absolute path; write for instance \"/usr/lib/ravelin/ravelin-agent-ftp\"",
        ),
        (
            format!("{agent}user = \"ravelin\"\n"),
            "3:8: agent.ftp.user: nobody is started who could run as this user; name a command, or leave the user to who starts the agent",
        ),
        (
            format!("{agent}user = \"a user\"\ncommand = [\"/x\"]\n"),
            "3:8: agent.ftp.user: ",
        ),
        (
            format!("{agent}queue = 0\n"),
            "3:9: agent.ftp.queue: 0 is out of range; write a number from 1 to 65536",
        ),
        (
            format!("{agent}{agent}"),
            "4:8: agent.ftp.name: \"ftp\" is already used by another agent; give each its own",
        ),
        ("[[agent]]\n".to_owned(), "1:1: agent.name: is missing"),
        (
            "[agents]\nmode = 0o1777\n".to_owned(),
            "is no set of permissions",
        ),
    ] {
        let found = lines(&text);
        assert!(
            found.contains(expected) || found == expected,
            "{text}\n{found}\n{expected}"
        );
    }
}
