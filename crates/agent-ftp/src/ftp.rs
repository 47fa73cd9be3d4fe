//! Which packets wait for what: one that announces a connection until the cluster expects that, those of its
//! direction behind it, and no other.

use std::collections::{BTreeMap, HashMap, VecDeque};

use agent::{Expectation, Flow, Packet};
use wire::ip::TCP;

use crate::session::Session;

/// Control connections that are followed; the one opened first is given up for a further one.
const SESSIONS_MAX: usize = 1 << 16;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Hand the packet of this number back for delivery.
    Deliver(u64),
    /// Have a connection expected; what came of it is told by [`Ftp::answered`] with this number.
    Expect(u64, Expectation),
    /// For the log.
    Note(String),
}

/// All control connections of the node.
#[derive(Debug, Default)]
pub struct Ftp {
    connections: HashMap<Flow, Connection>,
    /// By the order of their opening.
    ages: BTreeMap<u64, Flow>,
    /// For which connection and direction something is expected.
    asked: HashMap<u64, (Flow, bool)>,
    last: u64,
}

#[derive(Debug)]
struct Connection {
    session: Session,
    age: u64,
    /// Packets that wait, from the server and from the client, with what they wait for.
    waiting: [VecDeque<(u64, Vec<u64>)>; 2],
    /// Which ends have sent their FIN.
    finished: [bool; 2],
    /// Of which ends anything was seen: where routers choose the nodes it may be one.
    seen: [bool; 2],
    /// All have that were seen, or one has reset it.
    over: bool,
}

impl Connection {
    /// Whether nothing of it is left to do.
    fn is_done(&self) -> bool {
        self.over && self.waiting.iter().all(VecDeque::is_empty)
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

    /// A packet of a control connection.
    pub fn packet(&mut self, packet: &Packet) -> Vec<Action> {
        let deliver = vec![Action::Deliver(packet.id)];
        let Ok(p) = wire::parse(&packet.frame) else {
            return deliver;
        };
        if p.proto != TCP || p.fragment != wire::Fragment::None {
            return deliver;
        }
        let data = &packet.frame[usize::from(p.payload)..usize::from(p.end)];
        let flags = p.tcp.flags;
        let (flow, from_client) = (packet.flow, packet.from_opener);
        let side = usize::from(from_client);
        let syn = flags & wire::tcp::SYN != 0;
        // The last acknowledgement of one that is over must not have it followed anew.
        if data.is_empty() && !syn && !self.connections.contains_key(&flow) {
            return deliver;
        }
        let connection = self.connection(flow);
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
        connection.over = !syn && (flags & wire::tcp::RST != 0 || finished);
        let mut actions = vec![];
        for (ip, port) in announced.refused {
            actions.push(Action::Note(format!(
                "{}:{} and {}:{}: no connection to {ip} port {port} is expected, which is not its announcer's",
                flow.src, flow.sport, flow.dst, flow.dport
            )));
        }
        let mut tickets = vec![];
        for expectation in announced.expect {
            self.last += 1;
            tickets.push(self.last);
            self.asked.insert(self.last, (flow, from_client));
            actions.push(Action::Expect(self.last, expectation));
        }
        let connection = self.connection(flow);
        let queue = &mut connection.waiting[side];
        if tickets.is_empty() && queue.is_empty() {
            actions.push(Action::Deliver(packet.id));
        } else {
            queue.push_back((packet.id, tickets));
        }
        if connection.is_done() {
            self.forget(&flow);
        }
        actions
    }

    /// What came of an expectation: with an error its packet goes on as well, and the connection that it announces
    /// is for the rules to decide.
    pub fn answered(&mut self, ticket: u64, outcome: Result<(), String>) -> Vec<Action> {
        let mut actions = vec![];
        let Some((flow, from_client)) = self.asked.remove(&ticket) else {
            return actions;
        };
        if let Err(why) = outcome {
            actions.push(Action::Note(format!(
                "{}:{} and {}:{}: its connection is not expected: {why}",
                flow.src, flow.sport, flow.dst, flow.dport
            )));
        }
        let Some(connection) = self.connections.get_mut(&flow) else {
            return actions;
        };
        let queue = &mut connection.waiting[usize::from(from_client)];
        for (_, tickets) in queue.iter_mut() {
            tickets.retain(|of| *of != ticket);
        }
        while let Some((id, tickets)) = queue.front()
            && tickets.is_empty()
        {
            actions.push(Action::Deliver(*id));
            queue.pop_front();
        }
        if connection.is_done() {
            self.forget(&flow);
        }
        actions
    }

    fn connection(&mut self, flow: Flow) -> &mut Connection {
        if !self.connections.contains_key(&flow) {
            if self.connections.len() >= SESSIONS_MAX
                && let Some(oldest) = self.oldest_idle()
            {
                self.forget(&oldest);
            }
            self.last += 1;
            self.ages.insert(self.last, flow);
        }
        let age = self.last;
        self.connections.entry(flow).or_insert_with(|| Connection {
            session: Session::new(flow),
            age,
            waiting: Default::default(),
            finished: [false; 2],
            seen: [false; 2],
            over: false,
        })
    }

    /// None with waiting packets: those are bounded by the agent's queue.
    fn oldest_idle(&self) -> Option<Flow> {
        let idle = |flow: &&Flow| {
            let connection = &self.connections[*flow];
            connection.waiting.iter().all(VecDeque::is_empty)
        };
        self.ages.values().find(idle).copied()
    }

    fn forget(&mut self, flow: &Flow) {
        if let Some(connection) = self.connections.remove(flow) {
            self.ages.remove(&connection.age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::build;
    use wire::tcp::{ACK, FIN, PSH, SYN};

    const C: &str = "10.1.0.10:40000";
    const S: &str = "10.2.0.10:21";

    fn packet(id: u64, from_opener: bool, flags: u8, seq: u32, data: &[u8]) -> Packet {
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
            id,
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

    #[test]
    fn what_announces_waits_and_its_direction_behind_it() {
        let mut ftp = Ftp::default();
        let delivered = |actions: Vec<Action>| -> Vec<u64> {
            let id = |action: &Action| match action {
                Action::Deliver(id) => Some(*id),
                _ => None,
            };
            actions.iter().filter_map(id).collect()
        };
        assert_eq!(delivered(ftp.packet(&packet(1, true, SYN, 99, b""))), [1]);
        assert_eq!(
            delivered(ftp.packet(&packet(2, false, SYN | ACK, 499, b""))),
            [2]
        );
        assert_eq!(
            delivered(ftp.packet(&packet(3, true, ACK | PSH, 100, b"PASV\r\n"))),
            [3]
        );
        let reply = b"227 (10,2,0,10,195,80)\r\n";
        let actions = ftp.packet(&packet(4, false, ACK | PSH, 500, reply));
        let [Action::Expect(ticket, expectation)] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(expectation.dport, 50000);
        // The reply sent again must not slip past; what the client says may.
        assert!(
            ftp.packet(&packet(5, false, ACK | PSH, 500, reply))
                .is_empty()
        );
        assert_eq!(delivered(ftp.packet(&packet(6, true, ACK, 106, b""))), [6]);
        assert_eq!(delivered(ftp.answered(*ticket, Ok(()))), [4, 5]);
        assert_eq!(
            delivered(ftp.packet(&packet(7, true, ACK | FIN, 106, b""))),
            [7]
        );
        assert_eq!(
            delivered(ftp.packet(&packet(8, false, ACK | FIN, 524, b""))),
            [8]
        );
        assert!(ftp.connections.is_empty() && ftp.ages.is_empty() && ftp.asked.is_empty());
    }

    /// Nothing stays of what is over, though its last packet waits or its last acknowledgement comes after it, nor where
    /// one side alone comes by.
    #[test]
    fn what_is_over_is_forgotten() {
        let empty = |ftp: &Ftp| ftp.connections() == 0 && ftp.ages.is_empty();
        let mut ftp = Ftp::default();
        ftp.packet(&packet(1, true, SYN, 99, b""));
        ftp.packet(&packet(2, false, SYN | ACK, 499, b""));
        ftp.packet(&packet(3, false, ACK | FIN, 500, b""));
        let port = b"PORT 10,1,0,10,4,1\r\n";
        let actions = ftp.packet(&packet(4, true, ACK | FIN, 100, port));
        let [Action::Expect(ticket, _)] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert!(!empty(&ftp), "its last packet waits");
        assert_eq!(ftp.answered(*ticket, Ok(())), [Action::Deliver(4)]);
        assert!(empty(&ftp));
        let last = ftp.packet(&packet(5, false, ACK, 501, b""));
        assert_eq!(last, [Action::Deliver(5)]);
        assert!(empty(&ftp), "followed anew");
        ftp.packet(&packet(6, false, SYN | ACK, 499, b""));
        ftp.packet(&packet(7, false, ACK | FIN, 500, b"221 Goodbye.\r\n"));
        assert!(empty(&ftp), "nobody else will end it");
    }

    #[test]
    fn a_refused_expectation_lets_the_packet_go_on() {
        let mut ftp = Ftp::default();
        ftp.packet(&packet(1, true, SYN, 99, b""));
        let port = b"PORT 10,1,0,10,4,1\r\nPORT 10,1,0,10,4,2\r\n";
        let actions = ftp.packet(&packet(2, true, ACK, 100, port));
        let [Action::Expect(first, _), Action::Expect(second, _)] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert!(
            ftp.answered(*second, Ok(())).is_empty(),
            "the other is not there"
        );
        let actions = ftp.answered(*first, Err("full".into()));
        assert!(
            matches!(&actions[..], [Action::Note(why), Action::Deliver(2)] if why.contains("full"))
        );
    }
}
