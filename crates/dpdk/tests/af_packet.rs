//! AF_PACKET over both ends of a veth pair, in a network namespace of its own that ends with
//! this process. Needs root, or CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW.

mod common;

use std::io;
use std::process::Command;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use common::{frame, write_frame};
use dpdk::{AddressFilter, Burst, Eal, EthPort, Mempool, PacketBuf, Port, PortConfig, QueuePair};

const CLUSTER_MAC: [u8; 6] = [0x03, 0, 0, 0, 0, 0x0a];

#[test]
fn af_packet() {
    // SAFETY: gives this thread, and what it starts, another network namespace.
    let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        rc,
        0,
        "this test makes a network namespace: run it as root ({})",
        io::Error::last_os_error()
    );
    ip(&["link", "add", "in0", "type", "veth", "peer", "name", "in1"]);
    for name in ["in0", "in1"] {
        // Without IPv6 the kernel sends nothing of its own.
        fs_write(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        ip(&["link", "set", name, "up"]);
    }

    let eal = common::eal(&["net_af_packet0,iface=in0", "net_af_packet1,iface=in1"]);
    let pool = Mempool::new(&eal, "af", 2047, 0, None).expect("a pool");
    let config = PortConfig {
        multicast: vec![CLUSTER_MAC],
        ..PortConfig::default()
    };
    let (mut port0, mut queue0) = open(&eal, "net_af_packet0", &config, &pool);
    let (mut port1, mut queue1) = open(&eal, "net_af_packet1", &PortConfig::default(), &pool);
    // The driver has no multicast list: the fall-back is what makes the frame below arrive.
    assert!(port0.address_filter() > AddressFilter::Exact);
    assert_eq!(port0.mac().expect("an address"), address_of("in0"));
    assert_eq!(port1.mac().expect("an address"), address_of("in1"));
    assert!(port0.link().expect("a link").up);

    exchange(&mut queue1, &mut queue0, [0xff; 6]);
    exchange(&mut queue0, &mut queue1, [0xff; 6]);
    exchange(&mut queue1, &mut queue0, CLUSTER_MAC);
    exchange(&mut queue1, &mut queue0, address_of("in0"));
    let stats = (
        port0.stats().expect("counters"),
        port1.stats().expect("counters"),
    );
    assert_eq!((stats.0.tx_packets, stats.0.rx_packets), (40, 120));
    assert_eq!((stats.1.tx_packets, stats.1.rx_packets), (120, 40));

    drop((queue0, queue1));
    port0.stop().expect("nobody polls it");
    port1.stop().expect("nobody polls it");
    drop((port0, port1));
    assert_eq!(pool.in_use(), 0);
    drop(pool);
    eal.shut_down().expect("nothing is left");
}

fn open(eal: &Eal, name: &str, config: &PortConfig, pool: &Mempool) -> (EthPort, QueuePair) {
    let mut port = EthPort::configure(eal, name, config, from_ref(pool)).expect("a port");
    let queue = port.start().expect("a started port").remove(0);
    (port, queue)
}

/// Sends 40 numbered frames and receives just those, whole and in order.
fn exchange(from: &mut QueuePair, to: &mut QueuePair, destination: [u8; 6]) {
    let expected = |number: u32| {
        let mut frame = frame(number, 60 + number as usize * 37 % 1455);
        frame[..6].copy_from_slice(&destination);
        frame
    };
    let mut burst = Burst::new();
    for number in 0..40 {
        let mut buf = from.alloc().expect("a buffer");
        let frame = expected(number);
        write_frame(&mut buf, number, frame.len());
        buf.data_mut()[..6].copy_from_slice(&destination);
        burst.push(buf);
    }
    assert_eq!(from.tx_burst(&mut burst), 40);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut received = 0;
    while received < 40 {
        to.rx_burst(&mut burst);
        for buf in burst.drain(..) {
            assert_eq!(buf.data(), expected(received), "frame {received}");
            assert_eq!(buf.rss_hash(), None, "AF_PACKET hashes nothing");
            received += 1;
        }
        assert!(Instant::now() < deadline, "{received} of 40 frames came");
    }
}

fn address_of(interface: &str) -> [u8; 6] {
    let line = ip(&["-o", "link", "show", interface]);
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    let text = words.nth(1).expect("an Ethernet address");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect();
    bytes.try_into().expect("six bytes")
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("the program `ip` (iproute2)");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn fs_write(path: &str, value: &str) {
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}
