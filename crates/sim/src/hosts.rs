//! The hosts on both segments: clients inside that open connections, servers outside that answer,
//! and what each of them makes of them. Port 0 of every node is on the clients' segment, port 1
//! on the servers'.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use state::{FlowKey, SyncMode};
use wire::{Mac, Net, arp, icmpv4, icmpv6, ip, ndp};

use crate::queue::{Event, Queue};
use crate::random::Rng;
use crate::report::Stats;
use crate::tcp::{End, PATIENCE_US, Segment, State};

/// The address that all nodes answer to.
pub(crate) const CLUSTER: Mac = Mac([3, 0x72, 0x76, 0x6c, 0, 1]);
pub(crate) const INSIDE: usize = 0;
pub(crate) const OUTSIDE: usize = 1;
const HOSTS: u64 = 3;

/// Destination ports by how the rules replicate their flows.
pub(crate) const PORTS: [(u16, SyncMode); 4] = [
    (80, SyncMode::Ack),
    (81, SyncMode::Async),
    (82, SyncMode::Delayed),
    (83, SyncMode::None),
];

/// How a connection ended for an endpoint that held it open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// An end got a reset.
    Reset,
    /// An end got no acknowledgement for too long, or no answer.
    Silence,
    /// An end got octets that the other never wrote.
    Garbled,
}

/// What an endpoint wants of the network.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) proto: u8,
    pub(crate) sync: SyncMode,
    pub(crate) opened_us: u64,
    /// Both ends believed in it at some time.
    pub(crate) established: bool,
    pub(crate) lost: Option<Loss>,
    pub(crate) over: bool,
    body: Body,
    ticket: u64,
    due_us: u64,
}

impl Flow {
    pub(crate) fn key(&self) -> FlowKey {
        let address = |end: &SocketAddr| wire::addr_from_ip(end.ip());
        let (client, server) = (address(&self.client), address(&self.server));
        let ports = (self.client.port(), self.server.port());
        FlowKey::new(client, server, ports.0, ports.1, self.proto).0
    }
}

#[derive(Debug)]
enum Body {
    Tcp(Box<Tcp>),
    Asking(Asking),
}

#[derive(Debug)]
struct Tcp {
    client: End,
    server: Option<End>,
    request: u64,
    response: u64,
    think_us: u64,
    until_us: u64,
    finish: Finish,
    /// Requests asked and answered.
    asked: u64,
    answered: u64,
    next_us: u64,
    closing: bool,
    server_salt: (u32, u16, Option<u8>),
    rng: Rng,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finish {
    ClientCloses,
    ServerCloses,
    ClientResets,
}

/// UDP requests and pings: each is answered or asked again.
#[derive(Debug)]
struct Asking {
    every_us: u64,
    until_us: u64,
    next_us: u64,
    asked: u16,
    answered: u16,
    /// Since when the last request has had no answer.
    unanswered_us: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Hosts {
    pub(crate) flows: Vec<Flow>,
    /// By the client's and the server's end and the protocol: the latest flow.
    by_tuple: BTreeMap<(SocketAddr, SocketAddr, u8), usize>,
    rng: Rng,
    next_port: u16,
    /// Frames for the nodes: the segment's port, the frame, and the flow that it is of.
    pub(crate) out: Vec<(usize, Vec<u8>, Option<usize>)>,
    segments: Vec<Segment>,
    /// Flows that were just lost.
    pub(crate) losses: Vec<usize>,
}

impl Hosts {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            flows: Vec::new(),
            by_tuple: BTreeMap::new(),
            rng: Rng::new(seed, 3),
            next_port: 20_000,
            out: Vec::new(),
            segments: Vec::new(),
            losses: Vec::new(),
        }
    }

    /// A client opens something that is to last until `until_us` at the latest.
    pub(crate) fn open(
        &mut self,
        now_us: u64,
        until_us: u64,
        queue: &mut Queue,
        stats: &mut Stats,
    ) {
        let v6 = self.rng.chance(350_000);
        let (sport, sync, reused) = match self.reusable() {
            Some(at) if self.rng.chance(100_000) => (None, self.flows[at].sync, Some(at)),
            _ => {
                self.next_port += 1;
                let sync = *self.rng.pick(&[
                    SyncMode::Ack,
                    SyncMode::Ack,
                    SyncMode::Ack,
                    SyncMode::Ack,
                    SyncMode::Ack,
                    SyncMode::Async,
                    SyncMode::Delayed,
                    SyncMode::None,
                ]);
                (Some(self.next_port), sync, None)
            }
        };
        let (client, server, proto) = match (reused, sport) {
            (Some(at), _) => (self.flows[at].client, self.flows[at].server, ip::TCP),
            (None, sport) => {
                let sport = sport.expect("a flow that reuses nothing has a port of its own");
                let from = host(INSIDE, self.rng.below(HOSTS), v6);
                let to = host(OUTSIDE, self.rng.below(HOSTS), v6);
                let dport = PORTS
                    .iter()
                    .find(|(_, mode)| *mode == sync)
                    .map_or(80, |(p, _)| *p);
                let icmp = if v6 { ip::ICMPV6 } else { ip::ICMP };
                let proto = *self
                    .rng
                    .pick(&[ip::TCP, ip::TCP, ip::TCP, ip::TCP, ip::UDP, icmp]);
                let dport = if proto == icmp { sport } else { dport };
                (
                    SocketAddr::new(from, sport),
                    SocketAddr::new(to, dport),
                    proto,
                )
            }
        };
        let sync = if matches!(proto, ip::TCP | ip::UDP) {
            sync
        } else {
            SyncMode::Ack
        };
        let life_us = match self.rng.below(4) {
            0 => self.rng.range(50_000..=1_000_000),
            1 | 2 => self.rng.range(500_000..=6_000_000),
            _ => u64::MAX / 2,
        };
        let until_us = until_us.min(now_us + life_us);
        let body = match proto {
            ip::TCP => Body::Tcp(Box::new(self.tcp(client, server, now_us, until_us))),
            _ => Body::Asking(Asking {
                every_us: self.rng.range(100_000..=900_000),
                until_us,
                next_us: now_us,
                asked: 0,
                answered: 0,
                unanswered_us: None,
            }),
        };
        stats.connections += 1;
        let number = self.flows.len();
        self.flows.push(Flow {
            client,
            server,
            proto,
            sync,
            opened_us: now_us,
            established: false,
            lost: None,
            over: false,
            body,
            ticket: 0,
            due_us: u64::MAX,
        });
        self.by_tuple.insert((client, server, proto), number);
        self.act(number, now_us, queue, stats);
    }

    fn tcp(&mut self, client: SocketAddr, server: SocketAddr, now_us: u64, until_us: u64) -> Tcp {
        let rng = &mut self.rng;
        let shift = |rng: &mut Rng| rng.chance(600_000).then(|| rng.below(5) as u8);
        let (salt_client, salt_server) = (rng.next(), rng.next());
        let own_shift = shift(rng);
        let window = rng.range(400..=60_000) as u16;
        let end = End::new(
            client,
            server,
            State::SynSent,
            rng.next() as u32,
            window,
            own_shift,
            (salt_client, salt_server),
            now_us,
        );
        Tcp {
            client: end,
            server: None,
            request: rng.range(1..=300),
            response: rng.range(1..=900),
            think_us: *rng.pick(&[0, 50_000, 200_000, 400_000, 900_000]),
            until_us,
            finish: *rng.pick(&[
                Finish::ClientCloses,
                Finish::ClientCloses,
                Finish::ServerCloses,
                Finish::ClientResets,
            ]),
            asked: 0,
            answered: 0,
            next_us: 0,
            closing: false,
            server_salt: (
                rng.next() as u32,
                rng.range(400..=60_000) as u16,
                shift(rng),
            ),
            rng: Rng::new(salt_client, salt_server),
        }
    }

    /// A TCP connection that ended well, whose ports may serve another.
    fn reusable(&mut self) -> Option<usize> {
        let at = self.rng.below(self.flows.len().max(1) as u64) as usize;
        let flow = self.flows.get(at)?;
        let latest = self.by_tuple.get(&(flow.client, flow.server, flow.proto)) == Some(&at);
        let closed = match &flow.body {
            Body::Tcp(tcp) => {
                let over = |end: &End| matches!(end.state, State::Done | State::Reset);
                over(&tcp.client) && tcp.server.as_ref().is_none_or(over)
            }
            Body::Asking(_) => false,
        };
        (latest && flow.lost.is_none() && closed).then_some(at)
    }

    /// A flow's timer.
    pub(crate) fn timer(
        &mut self,
        number: usize,
        ticket: u64,
        now_us: u64,
        queue: &mut Queue,
        stats: &mut Stats,
    ) {
        if self.flows[number].ticket == ticket {
            self.flows[number].due_us = u64::MAX;
            self.act(number, now_us, queue, stats);
        }
    }

    /// Lets a flow's ends do what is due, sends what they want sent, and sets its timer.
    fn act(&mut self, number: usize, now_us: u64, queue: &mut Queue, stats: &mut Stats) {
        let flow = &mut self.flows[number];
        let mut due_us = u64::MAX;
        match &mut flow.body {
            Body::Tcp(tcp) => {
                tcp.act(now_us, &mut self.segments, stats);
                if tcp.client.state == State::Established
                    && tcp
                        .server
                        .as_ref()
                        .is_some_and(|s| s.state == State::Established)
                    && !flow.established
                {
                    flow.established = true;
                    stats.established += 1;
                }
                let loss = tcp.loss();
                if flow.lost.is_none() && loss.is_some() {
                    flow.lost = loss;
                    self.losses.push(number);
                }
                flow.over = tcp.over();
                if !flow.over {
                    due_us = tcp.due();
                }
            }
            Body::Asking(asking) => {
                for request in asking.act(now_us) {
                    let frame = ask(flow.client, flow.server, flow.proto, request);
                    let frame = from_host(frame, flow.client.ip());
                    self.out.push((INSIDE, frame, Some(number)));
                }
                let silent = asking
                    .unanswered_us
                    .is_some_and(|s| now_us >= s + PATIENCE_US);
                if flow.lost.is_none() && silent {
                    flow.lost = Some(Loss::Silence);
                    self.losses.push(number);
                }
                flow.over = now_us >= asking.until_us || flow.lost.is_some();
                if !flow.over {
                    due_us = asking.next_us;
                }
            }
        }
        for segment in self.segments.drain(..) {
            let port = if segment.from == flow.client {
                INSIDE
            } else {
                OUTSIDE
            };
            let from = segment.from.ip();
            let frame =
                wire::build::tcp_segment(segment.from, segment.to, segment.repr, &segment.payload);
            self.out.push((port, from_host(frame, from), Some(number)));
        }
        let flow = &mut self.flows[number];
        if due_us < flow.due_us {
            flow.due_us = due_us;
            flow.ticket += 1;
            let ticket = flow.ticket;
            queue.put(
                due_us.max(now_us + 1),
                Event::Host {
                    flow: number,
                    ticket,
                },
            );
        }
    }

    /// A frame from a node is on a segment.
    pub(crate) fn frame(
        &mut self,
        port: usize,
        frame: &[u8],
        now_us: u64,
        queue: &mut Queue,
        stats: &mut Stats,
    ) {
        let Ok(p) = wire::parse(frame) else {
            return;
        };
        match p.net {
            Net::Arp => return self.answer_arp(port, frame, &p),
            Net::Other(_) => return,
            Net::V4 | Net::V6 => {}
        }
        if p.proto == ip::ICMPV6 && p.icmp.kind == icmpv6::NEIGHBOR_SOLICITATION {
            return self.answer_solicitation(port, frame, &p);
        }
        let (src, dst) = (wire::addr_to_ip(&p.src), wire::addr_to_ip(&p.dst));
        if mac_of(dst) != Some(p.eth_dst) {
            return;
        }
        stats.packets_delivered += 1;
        let payload = &frame[usize::from(p.payload)..usize::from(p.end)];
        let (sport, dport) = match p.proto {
            ip::TCP | ip::UDP => (p.sport, p.dport),
            _ => (p.icmp.id, p.icmp.id),
        };
        let (from, to) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        let (client, server) = if port == INSIDE {
            (to, from)
        } else {
            (from, to)
        };
        let Some(number) = self.by_tuple.get(&(client, server, p.proto)).copied() else {
            return;
        };
        let at_server = port == OUTSIDE;
        let flow = &mut self.flows[number];
        match &mut flow.body {
            Body::Tcp(tcp) => tcp.segment(at_server, &p.tcp, payload, now_us, &mut self.segments),
            Body::Asking(asking) if !at_server => {
                if asking.hear(payload) {
                    flow.established = true;
                    stats.answers += 1;
                }
            }
            Body::Asking(_) => {
                let frame = answer(server, client, p.proto, payload);
                let frame = from_host(frame, server.ip());
                self.out.push((OUTSIDE, frame, Some(number)));
                return;
            }
        }
        self.act(number, now_us, queue, stats);
    }

    fn answer_arp(&mut self, port: usize, frame: &[u8], p: &wire::Parsed) {
        let Ok(asked) = arp::Repr::parse(&frame[usize::from(p.l3)..]) else {
            return;
        };
        let target = IpAddr::V4(asked.target_ip);
        let Some(mac) = mac_of(target).filter(|_| port_of(target) == Some(port)) else {
            return;
        };
        if asked.operation == arp::Operation::Request {
            let reply = arp::Repr {
                operation: arp::Operation::Reply,
                sender_mac: mac,
                sender_ip: asked.target_ip,
                target_mac: asked.sender_mac,
                target_ip: asked.sender_ip,
            };
            self.out.push((port, wire::build::arp(&reply), None));
        }
    }

    fn answer_solicitation(&mut self, port: usize, frame: &[u8], p: &wire::Parsed) {
        let Ok(Some(ndp::Repr::Solicitation { target, source_mac })) =
            ndp::Repr::from_frame(frame, p)
        else {
            return;
        };
        let asked = IpAddr::V6(target);
        let Some(mac) = mac_of(asked).filter(|_| port_of(asked) == Some(port)) else {
            return;
        };
        let advertisement = ndp::Repr::Advertisement {
            target,
            router: false,
            solicited: true,
            overrides: true,
            target_mac: Some(mac),
        };
        let frame = wire::build::neighbor(asked, wire::addr_to_ip(&p.src), &advertisement);
        let to = source_mac.unwrap_or(p.eth_src);
        self.out
            .push((port, wire::build::with_macs(frame, to, mac), None));
    }

    /// Whether both ends hold the flow open, and neither is about to let it go: nothing of it may be
    /// dropped then.
    pub(crate) fn is_steady(&self, number: usize) -> bool {
        let flow = &self.flows[number];
        flow.lost.is_none()
            && match &flow.body {
                Body::Tcp(tcp) => [Some(&tcp.client), tcp.server.as_ref()]
                    .into_iter()
                    .all(|end| end.is_some_and(|end| end.state == State::Established)),
                Body::Asking(_) => flow.established,
            }
    }

    /// Whether a frame of the flow that is sent now brings the other end nothing: all that it carries has
    /// arrived there before, and its sender has only not heard so yet. Overtaken by later ones it may
    /// lie outside of every window, and whoever follows the windows drops it then, as the other end would.
    /// (What that end lacks cannot: its sender can be ahead by no more than the window.)
    pub(crate) fn repeats_in_vain(&self, number: usize, port: usize, frame: &[u8]) -> bool {
        let Body::Tcp(tcp) = &self.flows[number].body else {
            return false;
        };
        let to = match port {
            INSIDE => tcp.server.as_ref(),
            _ => Some(&tcp.client),
        };
        let parsed = wire::parse(frame);
        to.is_some_and(|to| parsed.is_ok_and(|p| to.has_all_of(&p.tcp)))
    }

    /// Flows that wait for something for longer than `since_us` says.
    pub(crate) fn stuck(&self, before_us: u64) -> Option<usize> {
        let waits = |flow: &&Flow| {
            flow.lost.is_none()
                && match &flow.body {
                    Body::Tcp(tcp) => {
                        flow.established
                            && [Some(&tcp.client), tcp.server.as_ref()]
                                .into_iter()
                                .flatten()
                                .any(|end| end.waits() && end.progressed_us < before_us)
                    }
                    Body::Asking(asking) => {
                        asking.unanswered_us.is_some_and(|since| since < before_us) && !flow.over
                    }
                }
        };
        let found = self.flows.iter().filter(waits).count();
        if found == 0 {
            return None;
        }
        self.flows.iter().position(|flow| waits(&flow))
    }
}

impl Tcp {
    fn act(&mut self, now_us: u64, out: &mut Vec<Segment>, stats: &mut Stats) {
        self.client.timer(now_us, out);
        if let Some(server) = &mut self.server {
            server.timer(now_us, out);
        }
        let client = &mut self.client;
        if client.state == State::Established && !self.closing {
            if self.asked > self.answered && client.received >= self.asked * self.response {
                self.answered = self.asked;
                stats.answers += 1;
                self.next_us = now_us + self.think_us + self.rng.below(20_000);
            }
            if self.asked == self.answered && now_us >= self.next_us {
                if now_us >= self.until_us {
                    self.closing = true;
                } else {
                    self.asked += 1;
                    client.write(self.request);
                }
            }
        }
        if let Some(server) = &mut self.server {
            // As many answers as whole requests have come.
            let due = server.received / self.request * self.response;
            let wrote = server.written();
            if due > wrote {
                server.write(due - wrote);
            }
            if server.heard_the_end() {
                server.close();
            }
        }
        if self.closing {
            match (self.finish, &mut self.server) {
                (Finish::ClientResets, _) => client.abort(out),
                (Finish::ServerCloses, Some(server)) => {
                    server.close();
                    if client.ended {
                        client.close();
                    }
                }
                _ => client.close(),
            }
        }
        if client.state == State::Established || client.state == State::SynSent {
            client.output(now_us, out);
        }
        if let Some(server) = &mut self.server
            && server.state == State::Established
        {
            server.output(now_us, out);
        }
    }

    fn segment(
        &mut self,
        at_server: bool,
        seg: &wire::Tcp,
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) {
        if !at_server {
            return self.client.segment(seg, payload, now_us, out);
        }
        if self.server.is_none() && seg.flags & wire::tcp::SYN == 0 {
            // Late, of an earlier connection with these ports.
            return;
        }
        let server = self.server.get_or_insert_with(|| {
            let (iss, window, shift) = self.server_salt;
            let (client, server) = self.client.salts();
            End::new(
                self.client.remote,
                self.client.local,
                State::SynReceived,
                iss,
                window,
                shift,
                (server, client),
                now_us,
            )
        });
        server.segment(seg, payload, now_us, out);
    }

    /// How the connection was lost to an end that held it open; a reset that the client sends at
    /// its end is none.
    fn loss(&self) -> Option<Loss> {
        let server = self.server.as_ref();
        if self.client.garbled || server.is_some_and(|server| server.garbled) {
            return Some(Loss::Garbled);
        }
        let meant = self.closing && self.finish == Finish::ClientResets;
        if meant {
            return None;
        }
        let states = [Some(self.client.state), server.map(|server| server.state)];
        if states.contains(&Some(State::Reset)) {
            return Some(Loss::Reset);
        }
        // A server that never heard from its client again was not connected yet; one whose peer has
        // ended everything has only missed the last word.
        let gave_up = |end: &End, other: Option<&End>| {
            end.state == State::GaveUp && other.is_none_or(|other| other.state != State::Done)
        };
        let server_gave_up = server.is_some_and(|server| {
            gave_up(server, Some(&self.client)) && server.received_anything()
        });
        (gave_up(&self.client, server) || server_gave_up).then_some(Loss::Silence)
    }

    fn over(&self) -> bool {
        !self.client.is_open() && self.server.as_ref().is_none_or(|server| !server.is_open())
    }

    fn due(&self) -> u64 {
        let thinking = (self.client.state == State::Established
            && !self.closing
            && self.asked == self.answered)
            .then_some(self.next_us);
        let ends = [
            self.client.deadline(),
            self.server.as_ref().and_then(End::deadline),
        ];
        ends.into_iter()
            .flatten()
            .chain(thinking)
            .min()
            .unwrap_or(u64::MAX)
    }
}

impl Asking {
    /// The numbers of the requests that are sent now: often several, one right behind the other.
    fn act(&mut self, now_us: u64) -> std::ops::RangeInclusive<u16> {
        let before = self.asked;
        if now_us >= self.next_us && now_us < self.until_us {
            self.next_us = now_us + self.every_us;
            self.asked += 1 + (self.asked + 1) % 3;
            self.unanswered_us.get_or_insert(now_us);
        }
        before + 1..=self.asked
    }

    /// An answer has come; tells whether it is a new one.
    fn hear(&mut self, payload: &[u8]) -> bool {
        let Some(number) = payload.first_chunk::<2>().map(|b| u16::from_be_bytes(*b)) else {
            return false;
        };
        let new = number > self.answered && number <= self.asked;
        if new {
            self.answered = number;
            self.unanswered_us = None;
        }
        new
    }
}

/// A request, numbered in its first two octets. A ping's sequence number is not used: what the
/// number is read from must be in the same place for both.
fn ask(client: SocketAddr, server: SocketAddr, proto: u8, number: u16) -> Vec<u8> {
    let data = [&number.to_be_bytes()[..], b"question"].concat();
    match proto {
        ip::UDP => wire::build::udp(client, server, &data),
        _ => wire::build::icmp_echo(client.ip(), server.ip(), true, client.port(), 1, &data),
    }
}

fn answer(server: SocketAddr, client: SocketAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    match proto {
        ip::UDP => wire::build::udp(server, client, payload),
        _ => wire::build::icmp_echo(server.ip(), client.ip(), false, client.port(), 1, payload),
    }
}

const _: () = assert!(icmpv4::ECHO_REQUEST == 8, "a ping's answer is another type");

fn host(port: usize, number: u64, v6: bool) -> IpAddr {
    let (net, number) = (port as u8 + 1, 10 + number as u8);
    match v6 {
        true => IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            net.into(),
            0,
            0,
            0,
            0,
            0,
            number.into(),
        )),
        false => IpAddr::V4(Ipv4Addr::new(10, net, 0, number)),
    }
}

/// The segment that an address is on.
fn port_of(address: IpAddr) -> Option<usize> {
    let net = match address {
        IpAddr::V4(v4) => v4.octets()[1],
        IpAddr::V6(v6) => v6.segments()[1] as u8,
    };
    usize::from(net).checked_sub(1).filter(|port| *port < 2)
}

/// The Ethernet address of a host.
fn mac_of(address: IpAddr) -> Option<Mac> {
    let number = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.segments()[7] as u8,
    };
    let port = port_of(address)?;
    let is_host = (10..10 + HOSTS as u8).contains(&number);
    is_host.then_some(Mac([2, 0, 0, 0, port as u8 + 1, number]))
}

fn from_host(frame: Vec<u8>, from: IpAddr) -> Vec<u8> {
    let mac = mac_of(from).expect("only hosts send");
    wire::build::with_macs(frame, CLUSTER, mac)
}
