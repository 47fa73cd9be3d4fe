//! What requests announce.

use agent::{Announced, Packet, Protocol};
use wire::ip::UDP;

use crate::request::request;

/// How long the server's answer is waited for, in milliseconds. Clients ask again after seconds, which starts it anew.
const FOR_MS: u64 = 60_000;

/// The agent. A request alone says all: there is nothing to remember.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tftp;

impl Protocol for Tftp {
    /// The answer to a client's request: from the server, from any port, to the port that the client asked from
    /// (RFC 1350, section 4). One that is sent again announces it again, as the server may answer both.
    fn announces(&mut self, packet: &Packet) -> Announced {
        let mut announced = Announced::default();
        let flow = packet.flow;
        let asks = packet.from_opener
            && agent::datagram(packet).is_some_and(|datagram| request(datagram).is_some());
        if asks {
            announced.listens(flow, true, UDP, (flow.src, flow.sport), FOR_MS);
        }
        announced
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use agent::{Expectation, Flow};
    use wire::build;

    use super::*;

    const RRQ: &[u8] = b"\0\x01file\0octet\0tsize\x000\0";

    fn packet(client: &str, server: &str, from_opener: bool, data: &[u8]) -> Packet {
        let (c, s): (SocketAddr, SocketAddr) = (client.parse().unwrap(), server.parse().unwrap());
        let (from, to) = if from_opener { (c, s) } else { (s, c) };
        Packet {
            id: 1,
            flow: Flow {
                proto: UDP,
                src: c.ip(),
                sport: c.port(),
                dst: s.ip(),
                dport: s.port(),
            },
            from_opener,
            frame: build::udp(from, to, data),
        }
    }

    #[test]
    fn the_answer_is_expected_from_the_servers_any_port() {
        for (client, server) in [
            ("10.1.0.10:40000", "10.2.0.10:69"),
            ("[fd00:1::10]:40000", "[fd00:2::10]:69"),
        ] {
            let packet = packet(client, server, true, RRQ);
            let expected = Expectation {
                parent: packet.flow,
                from_opener: false,
                proto: UDP,
                src: Some(packet.flow.dst),
                dst: packet.flow.src,
                dport: 40000,
                mark: 0,
                once: true,
                for_ms: FOR_MS,
            };
            for sent in ["once", "again"] {
                let announced = Tftp.announces(&packet);
                assert_eq!(announced.expect, vec![expected.clone()], "{sent}");
            }
        }
    }

    #[test]
    fn whatever_else_it_is_announces_nothing() {
        let (c, s) = ("10.1.0.10:40000", "10.2.0.10:69");
        let silent = Announced::default();
        assert_eq!(Tftp.announces(&packet(c, s, false, RRQ)), silent);
        let data = b"\0\x03\0\x01data";
        assert_eq!(Tftp.announces(&packet(c, s, true, data)), silent);
        let mut cut = packet(c, s, true, RRQ);
        cut.frame.truncate(cut.frame.len() - 1);
        assert_eq!(Tftp.announces(&cut), silent);
        let mut tcp = packet(c, s, true, RRQ);
        tcp.frame = build::tcp(c.parse().unwrap(), s.parse().unwrap(), 0, 0, 0, RRQ);
        assert_eq!(Tftp.announces(&tcp), silent);
    }

    #[test]
    fn nobody_asks_from_a_port_of_a_service() {
        let announced = Tftp.announces(&packet("10.1.0.10:53", "10.2.0.10:69", true, RRQ));
        assert!(announced.expect.is_empty());
        assert_eq!(announced.refused, [("10.1.0.10".parse().unwrap(), 53)]);
    }
}
