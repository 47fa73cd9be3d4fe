//! What the messages of calls announce.

use std::net::IpAddr;

use agent::{Announced, Flow, Known, Packet, Protocol};
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
#[derive(Debug)]
pub struct Sip {
    calls: Known<CallKey, Call>,
}

impl Default for Sip {
    fn default() -> Self {
        Self {
            calls: Known::with_room_for(CALLS_MAX),
        }
    }
}

#[derive(Debug, Default)]
struct Call {
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
            self.calls.forget(&(packet.flow, message.call));
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
        let side = usize::from(packet.from_opener);
        let call = self.calls.entry((packet.flow, message.call), Call::default);
        call.mux[side] = mux;
        mux & call.mux[1 - side]
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;
    use wire::build;

    use super::*;

    const A: &str = "10.1.0.10:5060";
    const B: &str = "10.2.0.10:5060";

    fn packet(from_opener: bool, data: &[u8]) -> Packet {
        between(A, B, from_opener, data)
    }

    fn between(a: &str, b: &str, from_opener: bool, data: &[u8]) -> Packet {
        let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
        let (from, to) = if from_opener { (a, b) } else { (b, a) };
        Packet {
            id: 1,
            flow: Flow {
                proto: UDP,
                src: a.ip(),
                sport: a.port(),
                dst: b.ip(),
                dport: b.port(),
            },
            from_opener,
            frame: build::udp(from, to, data),
        }
    }

    /// A message with a description that has these lines after its first.
    fn text(start: &str, sequence: &str, lines: &[&str]) -> Vec<u8> {
        let body = format!(
            "v=0\r\no=- 1 1 IN IP4 x\r\ns=-\r\nt=0 0\r\n{}\r\n",
            lines.join("\r\n")
        );
        let length = body.len();
        format!(
            "{start}\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\n\
             Call-ID: call@x\r\nCSeq: {sequence}\r\nContent-Type: application/sdp\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn invite(lines: &[&str]) -> Vec<u8> {
        text("INVITE sip:b@x SIP/2.0", "1 INVITE", lines)
    }

    fn ok(lines: &[&str]) -> Vec<u8> {
        text("SIP/2.0 200 OK", "1 INVITE", lines)
    }

    const OF_A: &str = "c=IN IP4 10.1.0.10";
    const OF_B: &str = "c=IN IP4 10.2.0.10";
    const AUDIO: &str = "m=audio 6000 RTP/AVP 0";

    /// The ports that are expected at the sender's address, from the other end's.
    #[track_caller]
    fn ports(sip: &mut Sip, from_opener: bool, data: &[u8]) -> Vec<u16> {
        let packet = packet(from_opener, data);
        let flow = packet.flow;
        let announced = sip.announces(&packet);
        assert_eq!(announced.refused, []);
        let (own, other) = if from_opener {
            (flow.src, flow.dst)
        } else {
            (flow.dst, flow.src)
        };
        let port = |e: agent::Expectation| {
            assert_eq!((e.parent, e.from_opener), (flow, !from_opener));
            assert_eq!((e.src, e.dst, e.proto), (Some(other), own, UDP));
            assert!(e.once);
            e.dport
        };
        announced.expect.into_iter().map(port).collect()
    }

    #[test]
    fn offer_and_answer_announce_media_and_rtcp_of_both_ends() {
        let mut sip = Sip::default();
        let offer = invite(&[OF_A, AUDIO, "m=video 6002 RTP/AVP 31"]);
        assert_eq!(ports(&mut sip, true, &offer), [6000, 6001, 6002, 6003]);
        // Sent again, as it is until somebody answers.
        assert_eq!(ports(&mut sip, true, &offer), [6000, 6001, 6002, 6003]);
        let trying = b"SIP/2.0 100 Trying\r\nCall-ID: call@x\r\nCSeq: 1 INVITE\r\n\r\n";
        assert!(ports(&mut sip, false, trying).is_empty());
        let answer = [OF_B, "m=audio 7000 RTP/AVP 0", "m=video 0 RTP/AVP 31"];
        let progress = text("SIP/2.0 183 Session Progress", "1 INVITE", &answer);
        assert_eq!(ports(&mut sip, false, &progress), [7000, 7001]);
        assert_eq!(ports(&mut sip, false, &ok(&answer)), [7000, 7001]);
        // On hold, and back from the other end.
        let hold = text(
            "INVITE sip:a@x SIP/2.0",
            "1 INVITE",
            &[OF_B, "a=inactive", "m=audio 7000 RTP/AVP 0"],
        );
        assert_eq!(ports(&mut sip, false, &hold), [7001], "RTCP goes on");
        let update = text(
            "UPDATE sip:a@x SIP/2.0",
            "2 UPDATE",
            &[OF_B, "m=audio 7010 RTP/AVP 0"],
        );
        assert_eq!(ports(&mut sip, false, &update), [7010, 7011]);
        assert_eq!(sip.calls.len(), 1);
        let bye = b"BYE sip:b@x SIP/2.0\r\nCall-ID: call@x\r\nCSeq: 2 BYE\r\n\r\n";
        assert!(ports(&mut sip, true, bye).is_empty());
        assert!(sip.calls.is_empty());
    }

    #[test]
    fn an_offer_in_the_response_is_answered_by_the_acknowledgement() {
        let mut sip = Sip::default();
        let mux = [OF_B, "m=audio 7000 RTP/AVP 0", "a=rtcp-mux"];
        assert_eq!(ports(&mut sip, false, &ok(&mux)), [7000, 7001]);
        let ack = text(
            "ACK sip:b@x SIP/2.0",
            "1 ACK",
            &[OF_A, AUDIO, "a=rtcp:6100"],
        );
        assert_eq!(ports(&mut sip, true, &ack), [6000, 6100]);
    }

    #[test]
    fn rtcp_has_no_port_of_its_own_when_both_say_so() {
        let mut sip = Sip::default();
        let mux = invite(&[OF_A, AUDIO, "a=rtcp-mux", "m=video 6002 RTP/AVP 31"]);
        // Who offers it must be ready for an answer without (RFC 5761, section 5.1.1).
        assert_eq!(ports(&mut sip, true, &mux), [6000, 6001, 6002, 6003]);
        let answer = [
            OF_B,
            "m=audio 7000 RTP/AVP 0",
            "a=rtcp-mux",
            "a=sendonly",
            "m=video 7002 RTP/AVP 31",
            "a=rtcp-mux",
        ];
        assert_eq!(ports(&mut sip, false, &ok(&answer)), [7000, 7002, 7003]);
        assert_eq!(ports(&mut sip, true, &mux), [6000, 6002, 6003]);
    }

    #[test]
    fn fax_has_no_rtcp_and_bundled_streams_have_one_port() {
        let mut sip = Sip::default();
        let fax = invite(&[OF_A, "m=image 6000 udptl t38", "m=message 6005 TCP/MSRP *"]);
        assert_eq!(ports(&mut sip, true, &fax), [6000]);
        let bundle = [
            OF_B,
            "a=group:BUNDLE 0 1",
            "m=audio 7000 UDP/TLS/RTP/SAVPF 0",
            "m=video 7000 UDP/TLS/RTP/SAVPF 31",
            "m=audio 65535 RTP/AVP 0",
        ];
        assert_eq!(ports(&mut sip, false, &ok(&bundle)), [7000, 7001, 65535]);
        let many: Vec<String> = (0..40)
            .map(|n| format!("m=audio {}/8 RTP/AVP 0", 8000 + 100 * n))
            .collect();
        let mut lines = vec![OF_A];
        lines.extend(many.iter().map(String::as_str));
        assert_eq!(ports(&mut sip, true, &invite(&lines)).len(), PORTS_MAX);
    }

    #[test]
    fn ipv6() {
        let (a, b) = ("[fd00:1::10]:5060", "[fd00:2::10]:5060");
        let data = invite(&["c=IN IP6 fd00:1::10", AUDIO]);
        let announced = Sip::default().announces(&between(a, b, true, &data));
        let ends: Vec<_> = announced.expect.iter().map(|e| (e.dst, e.dport)).collect();
        let own: IpAddr = "fd00:1::10".parse().unwrap();
        assert_eq!(ends, [(own, 6000), (own, 6001)]);
    }

    #[test]
    fn bounces_and_ports_of_services_are_refused() {
        let other: IpAddr = "10.1.0.11".parse().unwrap();
        let own: IpAddr = "10.1.0.10".parse().unwrap();
        let lines = [
            OF_A,
            "m=audio 6000 RTP/AVP 0",
            "c=IN IP4 10.1.0.11",
            "m=audio 1022 RTP/AVP 0",
            "m=audio 6010 RTP/AVP 0",
            "a=rtcp:6011 IN IP4 10.1.0.11",
        ];
        let announced = Sip::default().announces(&packet(true, &invite(&lines)));
        let refused = [
            (other, 6000),
            (other, 6001),
            (own, 1022),
            (own, 1023),
            (other, 6011),
        ];
        assert_eq!(announced.refused, refused);
        let ports: Vec<u16> = announced.expect.iter().map(|e| e.dport).collect();
        assert_eq!(ports, [6010]);
        // The address of the other end is not the sender's either.
        let announced = Sip::default().announces(&packet(true, &invite(&[OF_B, AUDIO])));
        assert_eq!((announced.expect.len(), announced.refused.len()), (0, 2));
    }

    #[test]
    fn what_it_knows_of_calls_has_an_end() {
        let mut sip = Sip::default();
        let one = String::from_utf8(invite(&[OF_A, AUDIO])).unwrap();
        for n in 0..CALLS_MAX + 10 {
            let data = one.replace("call@x", &format!("{n:06}"));
            assert_eq!(ports(&mut sip, true, data.as_bytes()).len(), 2);
        }
        assert_eq!(sip.calls.len(), CALLS_MAX);
        let known = |sip: &Sip, n: usize| {
            let id = format!("{n:06}").into_bytes();
            sip.calls.keys().any(|(_, call)| *call == id)
        };
        assert!(!known(&sip, 9) && known(&sip, 10));
        let long = one.replace("call@x", &"x".repeat(300));
        assert_eq!(ports(&mut sip, true, long.as_bytes()).len(), 2);
        assert!(sip.calls.keys().all(|(_, call)| call.len() <= CALL_ID_MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the damage, nothing is expected elsewhere than at the sender's, from the other end, and not too much.
        #[test]
        fn no_damage_announces_what_may_not_be(
            from_opener in any::<bool>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut data = invite(&[OF_A, AUDIO, OF_B, "m=video 6002/4 RTP/AVP 31", "a=rtcp:6100", "a=rtcp-mux"]);
            for (at, octet) in damage {
                let at = at.index(data.len());
                data[at] = octet;
            }
            data.truncate(data.len() - cut.index(data.len()) % 20);
            let packet = packet(from_opener, &data);
            let (own, other) = if from_opener {
                (packet.flow.src, packet.flow.dst)
            } else {
                (packet.flow.dst, packet.flow.src)
            };
            let announced = Sip::default().announces(&packet);
            prop_assert!(announced.expect.len() <= PORTS_MAX);
            for e in announced.expect {
                prop_assert_eq!((e.dst, e.src), (own, Some(other)));
                prop_assert!(e.dport >= agent::PORT_MIN);
            }
        }
    }
}
