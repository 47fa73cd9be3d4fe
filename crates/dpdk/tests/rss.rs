//! The hash that the engine computes in software is the one that DPDK, and so a device, computes.

use dpdk::soft_rss;
use proptest::prelude::*;
use state::{FlowKey, rss, v4_mapped};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// What a device hashes: addresses in network order, and ports of TCP and UDP alone.
fn tuple(src: &[u8], dst: &[u8], sport: u16, dport: u16, proto: u8) -> Vec<u8> {
    let mut tuple = [src, dst].concat();
    if proto == TCP || proto == UDP {
        tuple.extend(sport.to_be_bytes());
        tuple.extend(dport.to_be_bytes());
    }
    tuple
}

proptest! {
    #[test]
    fn ipv4(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16, proto in prop::sample::select(vec![TCP, UDP, ICMP])) {
        let (key, _) = FlowKey::new(v4_mapped(src), v4_mapped(dst), sport, dport, proto);
        prop_assert_eq!(rss(&key), soft_rss(&tuple(&src, &dst, sport, dport, proto)));
        prop_assert_eq!(rss(&key), soft_rss(&tuple(&dst, &src, dport, sport, proto)));
    }

    #[test]
    fn ipv6(src: [u8; 16], dst: [u8; 16], sport: u16, dport: u16, proto in prop::sample::select(vec![TCP, UDP, 58])) {
        let (key, _) = FlowKey::new(src, dst, sport, dport, proto);
        prop_assert_eq!(rss(&key), soft_rss(&tuple(&src, &dst, sport, dport, proto)));
        prop_assert_eq!(rss(&key), soft_rss(&tuple(&dst, &src, dport, sport, proto)));
    }
}
