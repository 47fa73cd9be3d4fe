//! One control connection: what it announces, and whether that may be.

use agent::stream::Stream;
use agent::{Announced, Flow};
use wire::ip::TCP;

use crate::line::{self, Command, Lines, Reply};

/// How long an announced connection is waited for, in milliseconds.
const FOR_MS: u64 = 60_000;
/// Passive commands that may wait for their replies.
const ASKED_MAX: u32 = 64;

/// A control connection.
#[derive(Debug)]
pub struct Session {
    flow: Flow,
    /// From client and from server.
    sides: [(Stream, Lines); 2],
    /// Passive commands whose replies have not come.
    asked: u32,
    lost: bool,
}

impl Session {
    /// Of this flow, seen from the client.
    pub fn new(flow: Flow) -> Self {
        Self {
            flow,
            sides: Default::default(),
            asked: 0,
            lost: false,
        }
    }

    /// Bytes that it keeps: early segments and unfinished lines.
    pub fn kept_bytes(&self) -> usize {
        let kept = |(stream, lines): &(Stream, Lines)| stream.early_bytes() + lines.unfinished();
        self.sides.iter().map(kept).sum()
    }

    /// A segment of the connection: from the client or from the server.
    pub fn segment(&mut self, from_client: bool, seq: u32, syn: bool, data: &[u8]) -> Announced {
        self.acknowledging(from_client, seq, None, syn, data)
    }

    /// The same, of one that says what its sender has of the other direction.
    pub fn acknowledging(
        &mut self,
        from_client: bool,
        seq: u32,
        ack: Option<u32>,
        syn: bool,
        data: &[u8],
    ) -> Announced {
        let mut announced = Announced::default();
        // Where routers send the two directions through different nodes, only the server's SYN is seen here.
        if syn && (from_client || !self.sides[0].0.is_begun()) {
            *self = Self::new(self.flow);
        }
        if self.lost {
            return announced;
        }
        let side = usize::from(!from_client);
        if let Some(ack) = ack {
            let (stream, lines) = &mut self.sides[1 - side];
            // What follows a gap has long been delivered, as it was said behind its acknowledgement.
            if stream.acknowledged(ack, &mut vec![]) {
                *lines = Lines::default();
            }
        }
        let mut bytes = vec![];
        if !self.sides[side].0.segment(seq, syn, data, &mut bytes) {
            // What cannot be followed announces nothing any more; it still passes.
            self.lost = true;
            // Whoever sends what cannot be followed has nothing kept for it.
            self.sides = Default::default();
            return announced;
        }
        // Who comes to a connection in its middle does not know what was asked.
        let joined = !self.sides.iter().all(|(stream, _)| stream.is_whole());
        let (flow, asked) = (self.flow, &mut self.asked);
        self.sides[side].1.push(&bytes, |line| {
            let wanted = if from_client {
                match line::command(line) {
                    Some(Command::Passive) => {
                        *asked = (*asked + 1).min(ASKED_MAX);
                        None
                    }
                    Some(Command::Active(ip, port)) => Some((ip, port)),
                    None => None,
                }
            } else {
                let reply = line::reply(line);
                let awaited = joined || *asked > 0;
                if reply.is_some() {
                    *asked = asked.saturating_sub(1);
                }
                match reply.filter(|_| awaited) {
                    Some(Reply::Passive(ip, port)) => Some((ip, port)),
                    Some(Reply::ExtendedPassive(port)) => Some((flow.dst, port)),
                    None => None,
                }
            };
            let Some((ip, port)) = wanted else {
                return;
            };
            announced.listens(flow, from_client, TCP, (ip, port), FOR_MS);
        });
        announced
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use agent::Expectation;

    use super::*;

    fn flow(v6: bool) -> Flow {
        let ip = |v4: &str, v6_text: &str| if v6 { v6_text } else { v4 }.parse().unwrap();
        Flow {
            proto: TCP,
            src: ip("10.1.0.10", "fd00:1::10"),
            sport: 40000,
            dst: ip("10.2.0.10", "fd00:2::10"),
            dport: 21,
        }
    }

    /// A session whose beginning was seen.
    fn begun(v6: bool) -> Session {
        let mut session = Session::new(flow(v6));
        session.segment(true, 99, true, b"");
        session.segment(false, 499, true, b"");
        session
    }

    fn ends(announced: &Announced) -> Vec<(bool, String, String, u16)> {
        let end = |e: &Expectation| {
            assert_eq!((e.proto, e.once), (TCP, true));
            let src = e.src.expect("from one address");
            (e.from_opener, src.to_string(), e.dst.to_string(), e.dport)
        };
        announced.expect.iter().map(end).collect()
    }

    #[test]
    fn passive_connections_come_from_the_client() {
        let mut session = begun(false);
        assert_eq!(
            session.segment(true, 100, false, b"PASV\r\n"),
            Announced::default()
        );
        let reply = b"227 Entering Passive Mode (10,2,0,10,195,80).\r\n";
        let announced = session.segment(false, 500, false, reply);
        let expected = (true, "10.1.0.10".into(), "10.2.0.10".into(), 50000);
        assert_eq!(ends(&announced), [expected]);
        // Sent again: it was announced.
        assert_eq!(
            session.segment(false, 500, false, reply),
            Announced::default()
        );
        let mut session = begun(true);
        session.segment(true, 100, false, b"EPSV\r\n");
        let announced = session.segment(false, 500, false, b"229 Ok (|||50000|)\r\n");
        let expected = (true, "fd00:1::10".into(), "fd00:2::10".into(), 50000);
        assert_eq!(ends(&announced), [expected]);
    }

    #[test]
    fn active_connections_come_from_the_server_pipelined_and_split_as_they_may_be() {
        let mut session = begun(false);
        assert_eq!(
            session.segment(
                true,
                100,
                false,
                b"TYPE I\r\nPORT 10,1,0,10,4,1\r\nEPRT |1|10.1"
            ),
            Announced {
                expect: session_expectations(&[1025]),
                refused: vec![]
            }
        );
        let announced = session.segment(true, 140, false, b".0.10|1026|\r\nRETR x\r\n");
        assert_eq!(announced.expect, session_expectations(&[1026]));
    }

    fn session_expectations(ports: &[u16]) -> Vec<Expectation> {
        let expectation = |dport: &u16| Expectation {
            parent: flow(false),
            from_opener: false,
            proto: TCP,
            src: Some(flow(false).dst),
            dst: flow(false).src,
            dport: *dport,
            mark: 0,
            once: true,
            for_ms: FOR_MS,
        };
        ports.iter().map(expectation).collect()
    }

    #[test]
    fn bounces_and_ports_of_services_are_refused() {
        let mut session = begun(false);
        let refused = |announced: Announced| {
            assert!(announced.expect.is_empty());
            announced.refused
        };
        let other: IpAddr = "10.1.0.11".parse().unwrap();
        let own: IpAddr = "10.1.0.10".parse().unwrap();
        let text = b"PORT 10,1,0,11,4,1\r\nPORT 10,1,0,10,0,22\r\nPASV\r\n";
        let found = refused(session.segment(true, 100, false, text));
        assert_eq!(found, [(other, 1025), (own, 22)]);
        let found = refused(session.segment(false, 500, false, b"227 (10,1,0,11,195,80)\r\n"));
        assert_eq!(found, [(other, 50000)]);
    }

    /// As when new rules take the agent away for a while.
    #[test]
    fn what_passed_unseen_does_not_stop_what_follows() {
        let mut session = begun(false);
        session.segment(true, 100, false, b"USER x\r\n");
        session.segment(false, 500, false, b"230 ok\r\n");
        let silent = Announced::default();
        let asks = session.acknowledging(true, 200, Some(600), false, b"PASV\r\n");
        assert_eq!(asks, silent);
        let reply = b"227 (10,2,0,10,195,80)\r\n";
        let announced = session.acknowledging(false, 600, Some(206), false, reply);
        assert_eq!(announced.expect.len(), 1);
    }

    /// Only the server's side comes by here; its client uses the same port again after a connection that was lost.
    #[test]
    fn one_side_alone_begins_anew_with_its_own_syn() {
        let mut session = Session::new(flow(false));
        let early = vec![b'x'; agent::stream::WAITING_BYTES_MAX + 1];
        session.segment(false, 499, true, b"");
        session.segment(false, 501, false, &early);
        assert_eq!(session.kept_bytes(), 0, "of what is lost");
        let text = b"227 Entering Passive Mode (10,2,0,10,195,80).\r\n";
        let lost = session.segment(false, 500, false, text);
        assert_eq!(lost, Announced::default());
        session.segment(false, 8000, true, b"");
        let announced = session.segment(false, 8001, false, text);
        assert_eq!(announced.expect.len(), 1);
    }

    /// A server that is made to say something that looks like a reply opens nothing by it.
    #[test]
    fn a_reply_that_nobody_has_asked_for_announces_nothing() {
        let text = b"227 Entering Passive Mode (10,2,0,10,195,80).\r\n";
        let mut session = begun(false);
        assert_eq!(
            session.segment(false, 500, false, text),
            Announced::default()
        );
        // But who joined in the middle cannot know: the node that saw the question is dead.
        let mut joined = Session::new(flow(false));
        assert_eq!(joined.segment(false, 500, false, text).expect.len(), 1);
    }
}
