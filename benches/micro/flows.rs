//! Numbered flows, and orders to meet them in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use state::{
    Class, FlowKey, FlowRecord, Life, Mark, PROTO_TCP, PROTO_UDP, Progress, SyncMode, TcpSide,
    Verdict,
};
use wire::{addr_from_ip, build};

/// Clients of flows are in 10.64.0.0/10, four million addresses.
const CLIENTS: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// All flows go there.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);

/// A flow's client.
pub(crate) fn client(n: u32) -> SocketAddr {
    SocketAddr::new(
        Ipv4Addr::from(CLIENTS + (n >> 2)).into(),
        20_000 + (n & 3) as u16,
    )
}

/// A flow's server.
pub(crate) fn server() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(SERVER), 9_000)
}

/// A UDP datagram of a flow, 60 bytes: the shortest that Ethernet has, without its check sequence.
pub(crate) fn udp(n: u32) -> Vec<u8> {
    build::padded(build::udp(client(n), server(), &[0; 18]))
}

/// The record of a flow that has just been opened.
pub(crate) fn record(n: u32, proto: u8) -> FlowRecord {
    let (from, to) = (client(n), server());
    let (src, dst) = (addr_from_ip(from.ip()), addr_from_ip(to.ip()));
    let (key, origin) = FlowKey::new(src, dst, from.port(), to.port(), proto);
    let side = TcpSide {
        end: 1 << 32 | u64::from(n),
        end_max: (1 << 32 | u64::from(n)) + 64_240,
        window_max: 64_240,
        scale: 8,
    };
    assert!(proto == PROTO_TCP || proto == PROTO_UDP);
    FlowRecord {
        key,
        incarnation: 1 << 40 | u64::from(n),
        class: Class {
            origin,
            sync: SyncMode::Ack,
            zone_from: 0,
            zone_to: 1,
        },
        life: Life::Alive,
        progress: Progress::seen(origin),
        verdict: Verdict {
            generation: 1,
            rule: 7,
        },
        mark: Mark::default(),
        tcp: if proto == PROTO_TCP {
            [side; 2]
        } else {
            Default::default()
        },
        nat: None,
    }
}

/// All numbers below `count` in random order (R. Durstenfeld, Algorithm 235: Random permutation,
/// CACM 7, 1964), the same each time.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut random = Random(0x5eed);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    order
}

/// A linear congruential generator (D. Knuth's MMIX): random enough to defeat caches and
/// predictors.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`, which is far below 2^32.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
