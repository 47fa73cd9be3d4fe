//! The control connections of a node, and what their packets announce.

use agent::{Announced, Flow, Known, Packet, Protocol};
use wire::ip::TCP;

use crate::session::Session;

/// Control connections that are followed; the one opened first is given up for a further one.
const SESSIONS_MAX: usize = 1 << 16;

/// All control connections of the node.
#[derive(Debug)]
pub struct Ftp {
    connections: Known<Flow, Connection>,
}

impl Default for Ftp {
    fn default() -> Self {
        Self {
            connections: Known::with_room_for(SESSIONS_MAX),
        }
    }
}

#[derive(Debug)]
struct Connection {
    session: Session,
    /// Which ends have sent their FIN.
    finished: [bool; 2],
    /// Of which ends anything was seen: where routers choose the nodes it may be one.
    seen: [bool; 2],
}

impl Protocol for Ftp {
    fn announces(&mut self, packet: &Packet) -> Announced {
        let Ok(p) = wire::parse(&packet.frame) else {
            return Announced::default();
        };
        if p.proto != TCP || p.fragment != wire::Fragment::None {
            return Announced::default();
        }
        let data = &packet.frame[usize::from(p.payload)..usize::from(p.end)];
        let flags = p.tcp.flags;
        let (flow, from_client) = (packet.flow, packet.from_opener);
        let side = usize::from(from_client);
        let syn = flags & wire::tcp::SYN != 0;
        // The last acknowledgement of one that is over must not have it followed anew.
        if data.is_empty() && !syn && !self.connections.contains(&flow) {
            return Announced::default();
        }
        let connection = self.connections.entry(flow, || Connection {
            session: Session::new(flow),
            finished: [false; 2],
            seen: [false; 2],
        });
        let ack = (flags & wire::tcp::ACK != 0).then_some(p.tcp.ack);
        let announced = connection
            .session
            .acknowledging(from_client, p.tcp.seq, ack, syn, data);
        connection.seen[side] = true;
        if syn {
            connection.finished = [false; 2];
        }
        connection.finished[side] |= flags & wire::tcp::FIN != 0;
        let finished = connection.finished[side]
            && (connection.finished[1 - side] || !connection.seen[1 - side]);
        // A SYN begins another one.
        if !syn && (flags & wire::tcp::RST != 0 || finished) {
            self.connections.forget(&flow);
        }
        announced
    }
}

impl Ftp {
    /// Control connections that are followed.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Bytes that are kept of what they say.
    pub fn kept_bytes(&self) -> usize {
        let kept = |connection: &Connection| connection.session.kept_bytes();
        self.connections.values().map(kept).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::build;
    use wire::tcp::{ACK, FIN, PSH, SYN};

    const C: &str = "10.1.0.10:40000";
    const S: &str = "10.2.0.10:21";

    fn packet(from_opener: bool, flags: u8, seq: u32, data: &[u8]) -> Packet {
        let (from, to) = if from_opener { (C, S) } else { (S, C) };
        let flow = Flow {
            proto: 6,
            src: "10.1.0.10".parse().unwrap(),
            sport: 40000,
            dst: "10.2.0.10".parse().unwrap(),
            dport: 21,
        };
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Packet {
            id: 1,
            flow,
            from_opener,
            frame: build::tcp(
                from,
                to,
                flags,
                seq,
                if from_opener { 500 } else { 100 },
                data,
            ),
        }
    }

    /// What it asks of the waiting packets themselves is tested in `agent`.
    #[test]
    fn a_connection_is_followed_from_its_first_packet_to_its_last() {
        let mut ftp = Ftp::default();
        let mut ports = |from_opener, flags, seq, data: &[u8]| -> Vec<u16> {
            let announced = ftp.announces(&packet(from_opener, flags, seq, data));
            let port = |e: &agent::Expectation| e.dport;
            announced.expect.iter().map(port).collect()
        };
        assert!(ports(true, SYN, 99, b"").is_empty());
        assert!(ports(false, SYN | ACK, 499, b"").is_empty());
        assert!(ports(true, ACK | PSH, 100, b"PASV\r\n").is_empty());
        let reply = b"227 (10,2,0,10,195,80)\r\n";
        assert_eq!(ports(false, ACK | PSH, 500, reply), [50000]);
        // Sent again: it was announced.
        assert!(ports(false, ACK | PSH, 500, reply).is_empty());
        assert!(ports(true, ACK | FIN, 106, b"").is_empty());
        assert!(ports(false, ACK | FIN, 524, b"").is_empty());
        assert!(ftp.connections.is_empty());
    }

    /// Nothing stays of what is over, though its last acknowledgement comes after it, nor where one side alone comes by.
    #[test]
    fn what_is_over_is_forgotten() {
        let empty = |ftp: &Ftp| ftp.connections.is_empty();
        let mut ftp = Ftp::default();
        ftp.announces(&packet(true, SYN, 99, b""));
        ftp.announces(&packet(false, SYN | ACK, 499, b""));
        ftp.announces(&packet(false, ACK | FIN, 500, b""));
        let port = b"PORT 10,1,0,10,4,1\r\n";
        let announced = ftp.announces(&packet(true, ACK | FIN, 100, port));
        assert_eq!(announced.expect.len(), 1);
        assert!(empty(&ftp));
        ftp.announces(&packet(false, ACK, 501, b""));
        assert!(empty(&ftp), "followed anew");
        ftp.announces(&packet(false, SYN | ACK, 499, b""));
        assert!(!empty(&ftp));
        ftp.announces(&packet(false, ACK | FIN, 500, b"221 Goodbye.\r\n"));
        assert!(empty(&ftp), "nobody else will end it");
    }
}
