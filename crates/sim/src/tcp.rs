//! One end of a TCP connection, as a host's stack behaves (RFC 9293): handshake, data under the
//! peer's window, cumulative acknowledgements, retransmission with doubling timeouts, fast
//! retransmit, FIN in both orders, resets that are accepted only inside of the window.

use std::net::SocketAddr;

use wire::tcp::{ACK, FIN, Options, RST, Repr, SYN};

const RTO_US: u64 = 200_000;
const RTO_US_MAX: u64 = 1_000_000;
/// Without progress for so long an end gives up.
pub(crate) const PATIENCE_US: u64 = 12_000_000;
/// Data octets of a segment at most: small, so that a run has many segments and few octets.
const MSS: u64 = 128;
/// Segments in flight at most.
const FLIGHT: u64 = 6 * MSS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Established,
    /// Both directions have ended in good order.
    Done,
    /// A reset arrived, or was sent.
    Reset,
    /// Nothing was acknowledged for too long.
    GaveUp,
}

/// One end. Positions in a stream count from its SYN, which is 0; the octets of data follow from 1.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: State,
    iss: u32,
    irs: u32,
    una: u64,
    nxt: u64,
    /// The greatest `nxt` so far.
    top: u64,
    /// Octets that the application has written.
    written: u64,
    closing: bool,
    rcv: u64,
    /// Octets that the application has got.
    pub(crate) received: u64,
    /// The peer has sent its FIN.
    pub(crate) ended: bool,
    window: u16,
    shift: Option<u8>,
    peer_window: u64,
    peer_shift: u8,
    rto_us: u64,
    deadline_us: Option<u64>,
    pub(crate) progressed_us: u64,
    repeated: u8,
    /// What the octets of this end's stream and of the peer's are made from.
    salts: (u64, u64),
    /// An octet was not what the peer wrote.
    pub(crate) garbled: bool,
}

/// A segment to be sent.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) repr: Repr,
    pub(crate) payload: Vec<u8>,
}

fn octet(salt: u64, position: u64) -> u8 {
    (salt.wrapping_add(position).wrapping_mul(0x9e37_79b9) >> 16) as u8
}

impl End {
    #[allow(clippy::too_many_arguments, reason = "the parameters of one stack")]
    pub(crate) fn new(
        local: SocketAddr,
        remote: SocketAddr,
        state: State,
        iss: u32,
        window: u16,
        shift: Option<u8>,
        salts: (u64, u64),
        now_us: u64,
    ) -> Self {
        Self {
            local,
            remote,
            state,
            iss,
            irs: 0,
            una: 0,
            nxt: 0,
            top: 0,
            written: 0,
            closing: false,
            rcv: 0,
            received: 0,
            ended: false,
            window,
            shift,
            peer_window: 1024,
            peer_shift: 0,
            rto_us: RTO_US,
            deadline_us: None,
            progressed_us: now_us,
            repeated: 0,
            salts,
            garbled: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(
            self.state,
            State::SynSent | State::SynReceived | State::Established
        )
    }

    /// Whether something that was sent is not acknowledged.
    pub(crate) fn waits(&self) -> bool {
        self.is_open() && self.una < self.top
    }

    pub(crate) fn write(&mut self, octets: u64) {
        self.written += octets;
    }

    /// How many octets the application has written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the other end has sent all that it will, and it is here.
    pub(crate) fn heard_the_end(&self) -> bool {
        self.ended
    }

    /// Whether all that a segment from the other end carries has arrived here before; one that carries
    /// nothing tells something all the same.
    pub(crate) fn has_all_of(&self, seg: &wire::Tcp) -> bool {
        let end = seg.seq.wrapping_add(seg.payload_len);
        let ahead = end.wrapping_sub(self.irs.wrapping_add(self.rcv as u32)) as i32;
        seg.payload_len > 0 && seg.flags & FIN == 0 && ahead <= 0
    }

    /// Whether the connection was ever acknowledged beyond its opening.
    pub(crate) fn received_anything(&self) -> bool {
        self.una > 0
    }

    /// What the octets of this end's stream and of the peer's are made from.
    pub(crate) fn salts(&self) -> (u64, u64) {
        self.salts
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Gives up the connection with a reset.
    pub(crate) fn abort(&mut self, out: &mut Vec<Segment>) {
        if self.is_open() && self.state != State::SynSent {
            let repr = self.header(self.nxt, RST | ACK);
            self.emit(repr, 0, 0, out);
        }
        self.state = State::Reset;
        self.deadline_us = None;
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline_us.filter(|_| self.is_open())
    }

    /// The greatest position that may be sent: FIN included when it is due.
    fn end(&self) -> u64 {
        1 + self.written + u64::from(self.closing)
    }

    /// Sends what may be sent now.
    pub(crate) fn output(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if !self.is_open() {
            return;
        }
        if self.nxt == 0 {
            self.send_syn(out);
            self.nxt = 1;
        }
        if self.state == State::Established {
            let window = self.peer_window.clamp(1, FLIGHT);
            while self.nxt < self.end() && self.nxt < self.una + window {
                let data = (1 + self.written).saturating_sub(self.nxt);
                let len = data.min(MSS).min(self.una + window - self.nxt);
                let fin = self.closing && self.nxt + len == 1 + self.written;
                let flags = ACK | if fin { FIN } else { 0 };
                let repr = self.header(self.nxt, flags);
                self.emit(repr, self.nxt, len, out);
                self.nxt += len + u64::from(fin);
            }
        }
        self.top = self.top.max(self.nxt);
        if self.una < self.nxt {
            self.deadline_us.get_or_insert(now_us + self.rto_us);
        } else {
            self.deadline_us = None;
        }
    }

    /// The retransmission timer has run out: goes back to what is not acknowledged.
    pub(crate) fn timer(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if self.deadline().is_none_or(|at| at > now_us) {
            return;
        }
        if now_us >= self.progressed_us + PATIENCE_US {
            self.state = State::GaveUp;
            self.deadline_us = None;
            return;
        }
        self.rto_us = (self.rto_us * 2).min(RTO_US_MAX);
        self.nxt = self.una;
        self.deadline_us = None;
        self.output(now_us, out);
    }

    pub(crate) fn segment(
        &mut self,
        seg: &wire::Tcp,
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) {
        let (syn, ack) = (seg.flags & SYN != 0, seg.flags & ACK != 0);
        if !self.is_open() {
            // The last acknowledgement was lost.
            if self.state == State::Done && seg.flags & (FIN | RST) == FIN {
                let repr = self.header(self.nxt, ACK);
                self.emit(repr, 0, 0, out);
            } else if self.state != State::Done && seg.flags & RST == 0 {
                // What comes for a connection that is no more is reset.
                let mut repr = self.header(self.nxt, RST | ACK);
                if ack {
                    repr.seq = seg.ack;
                }
                self.emit(repr, 0, 0, out);
            }
            return;
        }
        let acked = ack.then(|| u64::from(seg.ack.wrapping_sub(self.iss)));
        if seg.flags & RST != 0 {
            let valid = match self.state {
                State::SynSent => acked == Some(1),
                _ => seg.seq.wrapping_sub(self.irs.wrapping_add(self.rcv as u32)) < 4096,
            };
            if valid {
                self.state = State::Reset;
                self.deadline_us = None;
            }
            return;
        }
        match self.state {
            State::SynSent => {
                if !syn || acked.is_some_and(|acked| acked != 1) {
                    return;
                }
                self.greet(seg);
                if acked.is_none() {
                    return;
                }
                self.state = State::Established;
            }
            State::SynReceived if syn => {
                // The SYN again, or the first time.
                self.greet(seg);
                self.nxt = 0;
                self.deadline_us = None;
                return self.output(now_us, out);
            }
            _ if syn => {
                // An old SYN: where we are is said again.
                let repr = self.header(self.nxt, ACK);
                return self.emit(repr, 0, 0, out);
            }
            _ => {}
        }
        let Some(acked) = acked else { return };
        if acked > self.top && acked < 1 << 31 {
            return;
        }
        if self.state == State::SynReceived && (1..1 << 31).contains(&acked) {
            self.state = State::Established;
        }
        let shift = if syn { 0 } else { self.peer_shift };
        if acked < 1 << 31 && acked >= self.una {
            self.peer_window = u64::from(seg.window) << shift;
        }
        if acked > self.una && acked <= self.top {
            self.una = acked;
            self.nxt = self.nxt.max(acked);
            self.rto_us = RTO_US;
            self.deadline_us = None;
            self.progressed_us = now_us;
            self.repeated = 0;
        } else if acked == self.una && payload.is_empty() && self.una < self.nxt {
            self.repeated += 1;
            if self.repeated == 3 {
                self.nxt = self.una;
                self.deadline_us = None;
            }
        }
        let took = self.take(seg, payload, now_us);
        let had = out.len();
        self.output(now_us, out);
        let fin = seg.flags & FIN != 0;
        if (syn || took || fin || !payload.is_empty()) && out.len() == had {
            let repr = self.header(self.nxt, ACK);
            self.emit(repr, 0, 0, out);
        }
        if self.ended && self.closing && self.una == self.end() {
            self.state = State::Done;
            self.deadline_us = None;
        }
    }

    /// Takes the data of a segment if it is the next; tells whether anything was.
    fn take(&mut self, seg: &wire::Tcp, payload: &[u8], now_us: u64) -> bool {
        if seg.flags & SYN != 0 {
            return false;
        }
        let skip = self.irs.wrapping_add(self.rcv as u32).wrapping_sub(seg.seq);
        let fin = u32::from(seg.flags & FIN != 0);
        // Later than expected, or all of it old.
        if skip > payload.len() as u32 + fin || self.ended {
            return false;
        }
        let fresh = &payload[(skip as usize).min(payload.len())..];
        if skip == payload.len() as u32 + fin && fin == 0 {
            return false;
        }
        for (at, byte) in fresh.iter().enumerate() {
            self.garbled |= *byte != octet(self.salts.1, self.rcv + at as u64);
        }
        self.rcv += fresh.len() as u64;
        self.received += fresh.len() as u64;
        if fin == 1 && skip as usize <= payload.len() {
            self.rcv += 1;
            self.ended = true;
        }
        if !fresh.is_empty() || fin == 1 {
            self.progressed_us = now_us;
        }
        !fresh.is_empty() || fin == 1
    }

    fn greet(&mut self, syn: &wire::Tcp) {
        self.irs = syn.seq;
        self.rcv = 1;
        match (self.shift, syn.window_scale) {
            (Some(_), Some(shift)) => self.peer_shift = shift,
            _ => self.shift = None,
        }
        self.peer_window = u64::from(syn.window);
    }

    fn send_syn(&mut self, out: &mut Vec<Segment>) {
        let flags = match self.state {
            State::SynSent => SYN,
            _ => SYN | ACK,
        };
        let mut repr = self.header(0, flags);
        repr.options = Options {
            mss: Some(MSS as u16),
            window_scale: self.shift,
            ..Options::default()
        };
        self.emit(repr, 0, 0, out);
    }

    fn header(&self, at: u64, flags: u8) -> Repr {
        Repr {
            seq: self.iss.wrapping_add(at as u32),
            ack: match flags & ACK {
                0 => 0,
                _ => self.irs.wrapping_add(self.rcv as u32),
            },
            flags,
            window: match (flags & SYN, self.shift) {
                (0, Some(shift)) => (self.window >> shift).max(1),
                _ => self.window,
            },
            ..Repr::default()
        }
    }

    fn emit(&self, repr: Repr, at: u64, len: u64, out: &mut Vec<Segment>) {
        out.push(Segment {
            from: self.local,
            to: self.remote,
            repr,
            payload: (at..at + len).map(|i| octet(self.salts.0, i)).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(client: bool) -> End {
        let (a, b) = ("10.1.0.10:4000", "10.2.0.10:80");
        let (local, remote) = if client { (a, b) } else { (b, a) };
        let (state, iss, salts) = match client {
            true => (State::SynSent, u32::MAX - 50, (1, 2)),
            false => (State::SynReceived, 77, (2, 1)),
        };
        End::new(
            local.parse().unwrap(),
            remote.parse().unwrap(),
            state,
            iss,
            900,
            Some(1),
            salts,
            0,
        )
    }

    /// Carries segments between two ends and loses one in `lost`, counted from the first.
    fn converse(lost: u64) -> (End, End) {
        let (mut client, mut server) = (end(true), end(false));
        client.write(2_000);
        let (mut now_us, mut counted, mut answered) = (0, 0, false);
        let mut flight = Vec::new();
        client.output(now_us, &mut flight);
        while now_us < 60_000_000 && (client.is_open() || server.is_open()) {
            now_us += 100;
            let mut next = Vec::new();
            for segment in flight.drain(..) {
                counted += 1;
                if lost > 0 && counted % lost == 0 {
                    continue;
                }
                let frame = wire::build::tcp_segment(
                    segment.from,
                    segment.to,
                    segment.repr,
                    &segment.payload,
                );
                let p = wire::parse(&frame).unwrap();
                let payload = &frame[usize::from(p.payload)..usize::from(p.end)];
                let to = if p.dport == 80 {
                    &mut server
                } else {
                    &mut client
                };
                to.segment(&p.tcp, payload, now_us, &mut next);
            }
            if server.received == 2_000 && !answered {
                answered = true;
                server.write(700);
                server.output(now_us, &mut next);
            }
            if client.received == 700 {
                client.close();
                client.output(now_us, &mut next);
            }
            if server.ended {
                server.close();
                server.output(now_us, &mut next);
            }
            client.timer(now_us, &mut next);
            server.timer(now_us, &mut next);
            flight = next;
        }
        (client, server)
    }

    #[test]
    fn data_arrives_whole_and_both_ends_close() {
        for lost in [0, 3, 4, 5, 11] {
            let (client, server) = converse(lost);
            let states = (client.state, server.state);
            assert_eq!(states, (State::Done, State::Done), "one in {lost} lost");
            assert_eq!((client.received, server.received), (700, 2_000));
            assert!(!client.garbled && !server.garbled);
        }
    }

    #[test]
    fn an_end_knows_what_has_arrived_across_the_wrap_of_numbers() {
        let (mut client, mut server) = (end(true), end(false));
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        client.write(200);
        let mut first = None;
        client.output(0, &mut to_server);
        for _ in 0..3 {
            for segment in to_server.drain(..) {
                let seg = parsed(&segment);
                if seg.payload_len > 0 {
                    first.get_or_insert(seg);
                    assert!(!server.has_all_of(&seg));
                }
                server.segment(&seg, &segment.payload, 1, &mut to_client);
            }
            for segment in to_client.drain(..) {
                client.segment(&parsed(&segment), &segment.payload, 1, &mut to_server);
            }
        }
        let first = first.expect("the client has sent data");
        assert!(first.seq > first.seq.wrapping_add(first.payload_len));
        assert_eq!(server.received, 200);
        assert!(server.has_all_of(&first));
        let longer = wire::Tcp {
            payload_len: 201,
            ..first
        };
        assert!(!server.has_all_of(&longer), "one octet of it is new");
        for (flags, payload_len) in [(ACK | FIN, first.payload_len), (ACK, 0)] {
            let tells = wire::Tcp {
                flags,
                payload_len,
                ..first
            };
            assert!(!server.has_all_of(&tells));
        }
    }

    fn parsed(segment: &Segment) -> wire::Tcp {
        let frame =
            wire::build::tcp_segment(segment.from, segment.to, segment.repr, &segment.payload);
        wire::parse(&frame).unwrap().tcp
    }

    #[test]
    fn without_an_answer_an_end_gives_up_and_a_foreign_reset_is_ignored() {
        let mut client = end(true);
        let mut out = Vec::new();
        client.output(0, &mut out);
        let blind = wire::Tcp {
            flags: RST | ACK,
            ack: 5,
            ..Default::default()
        };
        client.segment(&blind, &[], 1, &mut out);
        assert_eq!(client.state, State::SynSent);
        let mut now_us = 0;
        while client.is_open() {
            now_us = client.deadline().unwrap();
            client.timer(now_us, &mut out);
        }
        assert_eq!(client.state, State::GaveUp);
        assert!(now_us >= PATIENCE_US && out.len() > 10);
    }
}
