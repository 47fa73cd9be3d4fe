//! What a packet announces, and which packets wait until the cluster expects that: one that announces, those of its
//! direction behind it, and no other.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::{Expectation, Flow, Packet};

/// Ports of well-known services, which nobody's data or media goes to.
pub const PORT_MIN: u16 = 1024;

/// What a packet announces.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Connections to expect before the packet goes on.
    pub expect: Vec<Expectation>,
    /// What was asked for and may not be: an address that is not its sender's (a bounce; for FTP RFC 2577, section 3),
    /// or the port of a service.
    pub refused: Vec<(IpAddr, u16)>,
}

impl Announced {
    /// A sender of the flow, its opener or the other end, says that it takes a connection of this protocol at this
    /// address and port: one from the flow's other end, from any port, that comes within so many milliseconds.
    pub fn listens(
        &mut self,
        flow: Flow,
        from_opener: bool,
        proto: u8,
        (ip, port): (IpAddr, u16),
        for_ms: u64,
    ) {
        let (speaker, other) = if from_opener {
            (flow.src, flow.dst)
        } else {
            (flow.dst, flow.src)
        };
        if ip != speaker || port < PORT_MIN {
            self.refused.push((ip, port));
            return;
        }
        self.expect.push(Expectation {
            parent: flow,
            from_opener: !from_opener,
            proto,
            src: Some(other),
            dst: ip,
            dport: port,
            mark: 0,
            once: true,
            for_ms,
        });
    }
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Hand the packet of this number back for delivery.
    Deliver(u64),
    /// Have a connection expected; what came of it is told by [`Waiting::answered`] with this number.
    Expect(u64, Expectation),
    /// For the log.
    Note(String),
}

/// Packets that wait. As many as the daemon gives an agent at a time, so that nothing here grows without end.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Packets, each with what it waits for.
    queues: HashMap<Way, VecDeque<(u64, Vec<u64>)>>,
    /// For which way's packet something is expected.
    asked: HashMap<u64, Way>,
    last: u64,
}

/// One direction of a flow: whether it is that from its opener.
type Way = (Flow, bool);

impl Waiting {
    /// A packet, and what it announces.
    pub fn packet(&mut self, packet: &Packet, announced: Announced) -> Vec<Action> {
        let (flow, way) = (packet.flow, (packet.flow, packet.from_opener));
        let mut actions = vec![];
        for (ip, port) in announced.refused {
            actions.push(Action::Note(format!(
                "{}:{} and {}:{}: no connection to {ip} port {port} is expected: not its announcer's, or of a service",
                flow.src, flow.sport, flow.dst, flow.dport
            )));
        }
        let mut tickets = vec![];
        for expectation in announced.expect {
            self.last += 1;
            tickets.push(self.last);
            self.asked.insert(self.last, way);
            actions.push(Action::Expect(self.last, expectation));
        }
        match self.queues.get_mut(&way) {
            None if tickets.is_empty() => actions.push(Action::Deliver(packet.id)),
            None => {
                self.queues.insert(way, [(packet.id, tickets)].into());
            }
            Some(queue) => queue.push_back((packet.id, tickets)),
        }
        actions
    }

    /// What came of an expectation: with an error its packet goes on as well, and the connection that it announces
    /// is for the rules to decide.
    pub fn answered(&mut self, ticket: u64, outcome: Result<(), String>) -> Vec<Action> {
        let mut actions = vec![];
        let Some(way) = self.asked.remove(&ticket) else {
            return actions;
        };
        if let Err(why) = outcome {
            let flow = way.0;
            actions.push(Action::Note(format!(
                "{}:{} and {}:{}: its connection is not expected: {why}",
                flow.src, flow.sport, flow.dst, flow.dport
            )));
        }
        let Some(queue) = self.queues.get_mut(&way) else {
            return actions;
        };
        for (_, tickets) in queue.iter_mut() {
            tickets.retain(|of| *of != ticket);
        }
        while let Some((id, tickets)) = queue.front()
            && tickets.is_empty()
        {
            actions.push(Action::Deliver(*id));
            queue.pop_front();
        }
        if queue.is_empty() {
            self.queues.remove(&way);
        }
        actions
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.asked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(id: u64, from_opener: bool) -> Packet {
        Packet {
            id,
            flow: Flow {
                proto: 17,
                src: "10.1.0.10".parse().unwrap(),
                sport: 40000,
                dst: "10.2.0.10".parse().unwrap(),
                dport: 69,
            },
            from_opener,
            frame: vec![],
        }
    }

    fn announced(packet: &Packet, ports: &[u16]) -> Announced {
        let mut announced = Announced::default();
        for port in ports {
            let end = (packet.flow.src, *port);
            announced.listens(packet.flow, packet.from_opener, 17, end, 60_000);
        }
        announced
    }

    fn delivered(actions: &[Action]) -> Vec<u64> {
        let id = |action: &Action| match action {
            Action::Deliver(id) => Some(*id),
            _ => None,
        };
        actions.iter().filter_map(id).collect()
    }

    #[test]
    fn what_announces_waits_and_its_direction_behind_it() {
        let mut waiting = Waiting::default();
        let first = packet(1, true);
        let actions = waiting.packet(&first, announced(&first, &[50000]));
        let [Action::Expect(ticket, expectation)] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!((expectation.dport, expectation.from_opener), (50000, false));
        assert_eq!(expectation.src, Some(first.flow.dst));
        // What was said again must not slip past; what the other end says may.
        let again = waiting.packet(&packet(2, true), Announced::default());
        assert!(again.is_empty());
        let other = waiting.packet(&packet(3, false), Announced::default());
        assert_eq!(delivered(&other), [3]);
        assert_eq!(delivered(&waiting.answered(*ticket, Ok(()))), [1, 2]);
        assert!(waiting.is_empty());
        let next = waiting.packet(&packet(4, true), Announced::default());
        assert_eq!(delivered(&next), [4]);
    }

    #[test]
    fn a_refused_expectation_lets_the_packet_go_on() {
        let mut waiting = Waiting::default();
        let first = packet(1, true);
        let actions = waiting.packet(&first, announced(&first, &[1025, 1026]));
        let [Action::Expect(one, _), Action::Expect(two, _)] = &actions[..] else {
            panic!("{actions:?}");
        };
        let early = waiting.answered(*two, Ok(()));
        assert!(early.is_empty(), "the other is not there");
        let actions = waiting.answered(*one, Err("full".into()));
        assert!(
            matches!(&actions[..], [Action::Note(why), Action::Deliver(1)] if why.contains("full"))
        );
        assert!(waiting.is_empty() && waiting.answered(*one, Ok(())).is_empty());
    }

    #[test]
    fn bounces_and_ports_of_services_are_told_and_delivered() {
        let mut waiting = Waiting::default();
        let first = packet(1, false);
        let mut announced = announced(&first, &[50000]);
        announced.listens(first.flow, false, 17, (first.flow.dst, 1023), 60_000);
        assert!(announced.expect.is_empty());
        let actions = waiting.packet(&first, announced);
        assert!(matches!(
            &actions[..],
            [Action::Note(_), Action::Note(_), Action::Deliver(1)]
        ));
    }
}
