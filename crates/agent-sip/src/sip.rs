//! What the messages of calls announce.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use agent::{Announced, Flow, Packet, Protocol};
use wire::ip::UDP;

use crate::message::{Kind, Message, Method, message};
use crate::sdp::{STREAMS_MAX, Stream, Transport, streams};

/// How long announced media is waited for, in milliseconds. What an INVITE announces is used when the call is taken,
/// which may ring for more than three minutes (RFC 3261, section 16.6, timer C).
const FOR_MS: u64 = 240_000;
/// Ports that a message may announce.
const PORTS_MAX: usize = 32;
/// Calls that are known; the one known longest is given up for a further one.
const CALLS_MAX: usize = 1 << 14;
/// The longest Call-ID that is remembered, in octets.
const CALL_ID_MAX: usize = 256;

const _: () = assert!(STREAMS_MAX <= u16::BITS as usize, "a bit for each stream");

/// A call: its flow and its Call-ID.
type CallKey = (Flow, Vec<u8>);

/// The agent. Of a call it remembers only whose streams share a port with their RTCP; not to know that, after a
/// node has died for instance, has one port more expected than is used.
#[derive(Debug, Default)]
pub struct Sip {
    calls: HashMap<CallKey, Call>,
    /// By when they were heard of first.
    ages: BTreeMap<u64, CallKey>,
    last: u64,
}

#[derive(Debug)]
struct Call {
    age: u64,
    /// Of whose streams, in their order, the last description said `rtcp-mux`: the other end's and the opener's.
    mux: [u16; 2],
}

impl Protocol for Sip {
    fn announces(&mut self, packet: &Packet) -> Announced {
        let mut announced = Announced::default();
        let Some(message) = agent::datagram(packet).and_then(message) else {
            return announced;
        };
        if (message.kind, message.method) == (Kind::Request, Method::Bye) {
            self.forget(&(packet.flow, message.call));
            return announced;
        }
        if !message.negotiates() {
            return announced;
        }
        let Some(streams) = message.description.and_then(streams) else {
            return announced;
        };
        let shares = self.described(packet, message, &streams);
        for end in ends(&streams, shares) {
            announced.listens(packet.flow, packet.from_opener, UDP, end, FOR_MS);
        }
        announced
    }
}

impl Sip {
    /// Remembers a description; returns which of its streams' RTCP needs no port of its own, as both ends say so.
    fn described(&mut self, packet: &Packet, message: Message<'_>, streams: &[Stream]) -> u16 {
        let mux = (0..)
            .zip(streams)
            .fold(0, |bits, (n, stream)| bits | u16::from(stream.mux) << n);
        if message.call.len() > CALL_ID_MAX {
            return 0;
        }
        let key = (packet.flow, message.call);
        if !self.calls.contains_key(&key) {
            if self.calls.len() >= CALLS_MAX
                && let Some((_, oldest)) = self.ages.first_key_value()
            {
                let oldest = oldest.clone();
                self.forget(&oldest);
            }
            self.last += 1;
            self.ages.insert(self.last, key.clone());
        }
        let age = self.last;
        let mux_of = |call: &mut Call| {
            let side = usize::from(packet.from_opener);
            call.mux[side] = mux;
            mux & call.mux[1 - side]
        };
        let call = self.calls.entry(key);
        mux_of(call.or_insert(Call { age, mux: [0; 2] }))
    }

    fn forget(&mut self, key: &CallKey) {
        if let Some(call) = self.calls.remove(key) {
            self.ages.remove(&call.age);
        }
    }
}

/// Where a description has media and RTCP sent to, each once. `shares` are the streams whose RTCP has no port of its
/// own.
fn ends(streams: &[Stream], shares: u16) -> Vec<(IpAddr, u16)> {
    let mut ends: Vec<(IpAddr, u16)> = vec![];
    let mut add = |ip, port: Option<u16>| {
        if let Some(port) = port.filter(|port| *port != 0)
            && ends.len() < PORTS_MAX
            // Bundled streams name the same port (RFC 9143).
            && !ends.contains(&(ip, port))
        {
            ends.push((ip, port));
        }
    };
    for (n, stream) in (0_u16..).zip(streams) {
        let rtp = stream.transport == Transport::Rtp;
        let Some(ip) = stream.ip else { continue };
        if stream.port == 0 || stream.transport == Transport::Other {
            continue;
        }
        for step in 0..stream.ports {
            let port = stream.port.checked_add(step * if rtp { 2 } else { 1 });
            if stream.taken || stream.mux {
                add(ip, port);
            }
            if !rtp || shares & 1 << n != 0 {
                continue;
            }
            match stream.rtcp {
                // Only one is named: that of the first.
                Some((port, named)) if step == 0 => add(named.unwrap_or(ip), Some(port)),
                _ => add(ip, port.and_then(|port| port.checked_add(1))),
            }
        }
    }
    ends
}
