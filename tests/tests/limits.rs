//! What a cluster does at its limits, and with what it is not meant to get: it says so, counts it,
//! and what was there goes on.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use e2e::{Load, cluster, echo_flows, wait_for};
use lab::Cluster;
use lab::node_config::Settings;
use lab::topology::CLUSTER_MAC;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use wire::build;

const CLIENT: &str = "10.1.0.10";
const SERVER: &str = "10.2.0.10";

/// Sum of a counter over the cores of a node.
fn counter(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let report = cluster.counters(index).expect("the node answers");
    let value = report.sum.get(name);
    *value.unwrap_or_else(|| panic!("no counter {name}: {:?}", report.sum.keys()))
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_the_old_ones() {
    let settings = Settings {
        // The least that can be configured.
        capacity: 1024,
        ..Settings::new(3)
    };
    let cluster = cluster("efull", &settings);
    let mut load = Load::start(&cluster, 30);
    load.wait_for_messages(10);
    let old: Vec<usize> = (1..=3)
        .map(|index| echo_flows(&cluster, index, "owner"))
        .collect();

    let space = cluster.topology().client();
    let mut port = 20_000;
    wait_for("every node to refuse flows", || {
        // 3 × 1024 places, each flow in two of them: one round is nearly enough, and UDP that is
        // not answered stays for 30 s.
        let sent = space.enter(|| {
            for port in port..port + 1000 {
                let socket = UdpSocket::bind((CLIENT, port))?;
                socket.send_to(b"one packet, one flow", (SERVER, 9000))?;
            }
            std::io::Result::Ok(())
        });
        sent.expect("entered").expect("sent");
        port = if port < 50_000 { port + 1000 } else { 20_000 };
        let refused: Vec<u64> = (1..=3)
            .map(|index| counter(&cluster, index, "drop_table_full"))
            .collect();
        if refused.iter().all(|&count| count > 0) {
            return Ok(());
        }
        Err(format!("{refused:?}"))
    });

    for index in 1..=3 {
        // Told after each sweep over the table, which takes about two seconds.
        wait_for("the node to tell that it is full", || {
            let flows = cluster.status(index).map_err(|e| e.to_string())?.flows;
            assert_eq!(flows.capacity, 1024);
            assert!(flows.live <= flows.capacity, "n{index}: {flows:?}");
            // Full is full: not when half of the places are taken.
            if flows.live * 100 >= flows.capacity * 95 {
                return Ok(());
            }
            Err(format!("n{index}: {flows:?}"))
        });
    }
    // A new connection finds no place on whichever node it falls.
    let server: SocketAddr = format!("{SERVER}:7777").parse().expect("an address");
    let connected = space
        .enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(2)))
        .expect("entered");
    assert_eq!(
        connected.map(|_| ()).map_err(|error| error.kind()),
        Err(std::io::ErrorKind::TimedOut)
    );

    load.wait_for_messages(10);
    let now: Vec<usize> = (1..=3)
        .map(|index| echo_flows(&cluster, index, "owner"))
        .collect();
    assert_eq!(now, old);
    load.finish_unbroken(&cluster);
}

/// Frames that nobody means to send: every node gets each, and counts it under its own reason and
/// no other.
#[test]
fn malformed_packets_are_counted_by_reason() {
    let cluster = cluster("emal", &Settings::new(3));
    let client: SocketAddr = format!("{CLIENT}:4000").parse().expect("an address");
    let server: SocketAddr = format!("{SERVER}:7777").parse().expect("an address");
    let (client6, server6) = (
        "[fd00:1::10]:4000".parse().expect("an address"),
        "[fd00:2::10]:7777".parse().expect("an address"),
    );
    let tcp = |flags| build::tcp(client, server, flags, 1, 1, b"");
    let syn = wire::tcp::SYN;
    let fin = wire::tcp::FIN;
    // Behind the Ethernet header.
    let changed = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[14 + at] = value;
        frame
    };
    let udp = build::udp(client, server, b"sixteen octets..");
    let udp6 = build::udp(client6, server6, b"sixteen octets..");
    let wrong = [
        ("tcp_flags_null", tcp(0)),
        ("tcp_flags_syn_fin", tcp(syn | fin)),
        ("tcp_data_offset", changed(tcp(syn), 20 + 12, 4 << 4)),
        ("udp_length", changed(udp.clone(), 20 + 5, 200)),
        ("ipv4_version", changed(udp.clone(), 0, 0x65)),
        ("ipv4_header_length", changed(udp.clone(), 0, 0x44)),
        (
            "ipv4_header_checksum",
            changed(udp.clone(), 10, udp[24] ^ 1),
        ),
        ("ipv4_total_length", {
            let mut frame = udp.clone();
            frame.pop();
            frame
        }),
        ("ipv6_version", changed(udp6.clone(), 0, 0x40)),
        ("ipv6_payload_length", changed(udp6, 5, 200)),
        ("ipv4_truncated", udp[..14 + 19].to_vec()),
        ("arp_truncated", [&udp[..12], &[0x08, 0x06, 0, 1]].concat()),
    ];

    // The first reason once, the second twice, and so on: mixed up, they would show.
    let mut expected = BTreeMap::new();
    let cluster_mac = CLUSTER_MAC.parse().expect("an address");
    let client_mac = wire::Mac([0x02, 0x72, 0x76, 0x01, 0x01, 0x0a]);
    let space = cluster.topology().client();
    let sent = space.enter(|| {
        let eth0 = link("eth0");
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::empty(),
            None,
        )?;
        for ((reason, frame), times) in wrong.into_iter().zip(1..) {
            let frame = build::with_macs(frame, cluster_mac, client_mac);
            for _ in 0..times {
                sendto(
                    std::os::fd::AsRawFd::as_raw_fd(&socket),
                    &frame,
                    &eth0,
                    MsgFlags::empty(),
                )?;
            }
            expected.insert(reason.to_owned(), times);
        }
        nix::Result::Ok(())
    });
    sent.expect("entered").expect("sent");

    for index in 1..=3 {
        wait_for("the node to have counted them", || {
            let report = cluster.counters(index).map_err(|error| error.to_string())?;
            let counted: BTreeMap<String, u64> = (report.counters.into_iter())
                .filter(|each| each.scope.ends_with(".malformed") && each.value > 0)
                .map(|each| (each.name, each.value))
                .collect();
            if counted == expected {
                return Ok(());
            }
            Err(format!("n{index}: {counted:?}, not {expected:?}"))
        });
    }
}

/// The address of an interface of this namespace, to send frames by.
fn link(name: &str) -> LinkAddr {
    let mut all = nix::ifaddrs::getifaddrs().expect("listed");
    let of_link = all.find_map(|each| {
        let address = each.address.filter(|_| each.interface_name == name)?;
        address.as_link_addr().copied()
    });
    of_link.unwrap_or_else(|| panic!("there is no {name}"))
}
