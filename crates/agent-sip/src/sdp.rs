//! Session descriptions (RFC 8866): where media is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::number;

/// Streams of a description that are looked at.
pub const STREAMS_MAX: usize = 16;
/// Lines that are.
const LINES_MAX: usize = 1024;
/// Ports that one stream may have (`m=audio 5000/2`).
const PORTS_MAX: usize = 8;

/// A stream: one `m=` and what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Where it is taken: its own `c=`, or the session's. None for a name, which only a resolver knows, and for the
    /// unspecified address, which puts a call on hold (RFC 3264, section 8.4).
    pub ip: Option<IpAddr>,
    /// Its first port; 0 for a stream that is refused (RFC 3264, section 6).
    pub port: u16,
    /// How many ports it has, one after the other; of RTP each second one.
    pub ports: u16,
    /// How it goes.
    pub transport: Transport,
    /// Whether who describes it takes it, and not only sends.
    pub taken: bool,
    /// `a=rtcp-mux`: RTCP goes to the same port (RFC 5761).
    pub mux: bool,
    /// `a=rtcp:`: RTCP goes to this port (RFC 3605), at this address if one is named.
    pub rtcp: Option<(u16, Option<IpAddr>)>,
}

/// How a stream goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// RTP over UDP: `RTP/AVP` and its kind. RTCP has a port of its own.
    Rtp,
    /// Anything else over UDP: T.38 fax as `udptl`, data channels.
    Datagrams,
    /// TCP, or something unknown: this is not its agent.
    Other,
}

/// Reads a description. None when it is none.
pub fn streams(body: &[u8]) -> Option<Vec<Stream>> {
    let mut lines = body
        .split(|octet| *octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if lines.next()? != b"v=0" {
        return None;
    }
    let mut streams: Vec<Stream> = vec![];
    let (mut session_ip, mut session_taken) = (None, true);
    for line in lines.take(LINES_MAX) {
        let Some((kind, value)) = line.split_first_chunk::<2>() else {
            continue;
        };
        match (kind, streams.last_mut()) {
            (b"m=", _) => {
                if streams.len() >= STREAMS_MAX {
                    break;
                }
                streams.push(media(value, session_ip, session_taken)?);
            }
            (b"c=", Some(stream)) => stream.ip = connection(value),
            (b"c=", None) => session_ip = connection(value),
            (b"a=", stream) => attribute(value, stream, &mut session_taken),
            _ => {}
        }
    }
    Some(streams)
}

/// `<media> <port>[/<number>] <protocol> <formats>` (RFC 8866, section 5.14).
fn media(value: &[u8], ip: Option<IpAddr>, taken: bool) -> Option<Stream> {
    let mut words = words(value);
    let (_, port, protocol) = (words.next()?, words.next()?, words.next()?);
    let mut parts = port.splitn(2, |octet| *octet == b'/');
    let port = u16::try_from(number(parts.next()?)?).ok()?;
    let ports = parts.next().map_or(Some(1), number)?;
    Some(Stream {
        ip,
        port,
        ports: ports.min(PORTS_MAX) as u16,
        transport: transport(protocol),
        taken,
        mux: false,
        rtcp: None,
    })
}

/// `RTP/SAVPF`, `UDP/TLS/RTP/SAVPF`, `udptl`, `UDP/DTLS/SCTP`, `TCP/MSRP`, ...
fn transport(protocol: &[u8]) -> Transport {
    let has = |name: &[u8]| {
        let mut parts = protocol.split(|octet| *octet == b'/');
        parts.any(|part| part.eq_ignore_ascii_case(name))
    };
    if has(b"TCP") {
        Transport::Other
    } else if has(b"RTP") {
        Transport::Rtp
    } else if has(b"UDP") || has(b"UDPTL") || has(b"DTLS") {
        Transport::Datagrams
    } else {
        Transport::Other
    }
}

/// `IN IP4 192.0.2.1`; of a group also its scope, `/127` (RFC 8866, section 5.7).
fn connection(value: &[u8]) -> Option<IpAddr> {
    let mut words = words(value);
    let (network, family, address) = (words.next()?, words.next()?, words.next()?);
    if !network.eq_ignore_ascii_case(b"IN") {
        return None;
    }
    let address = address.split(|octet| *octet == b'/').next()?;
    let address = std::str::from_utf8(address).ok()?;
    let ip = if family.eq_ignore_ascii_case(b"IP4") {
        IpAddr::V4(address.parse::<Ipv4Addr>().ok()?)
    } else if family.eq_ignore_ascii_case(b"IP6") {
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else {
        return None;
    };
    (!ip.is_unspecified()).then_some(ip)
}

fn attribute(value: &[u8], stream: Option<&mut Stream>, session_taken: &mut bool) {
    let value = value.trim_ascii();
    let taken = match value {
        b"sendrecv" | b"recvonly" => Some(true),
        b"sendonly" | b"inactive" => Some(false),
        _ => None,
    };
    let Some(stream) = stream else {
        *session_taken = taken.unwrap_or(*session_taken);
        return;
    };
    stream.taken = taken.unwrap_or(stream.taken);
    if value == b"rtcp-mux" {
        stream.mux = true;
    } else if let Some(value) = value.strip_prefix(b"rtcp:") {
        let (port, address) =
            value.split_at((value.iter().position(|octet| *octet == b' ')).unwrap_or(value.len()));
        let port = number(port).and_then(|port| u16::try_from(port).ok());
        stream.rtcp = port.map(|port| (port, connection(address)));
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = text.split(|octet| *octet == b' ');
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn rtp(address: &str, port: u16) -> Stream {
        Stream {
            ip: ip(address),
            port,
            ports: 1,
            transport: Transport::Rtp,
            taken: true,
            mux: false,
            rtcp: None,
        }
    }

    /// RFC 8866, section 5, and RFC 4317, section 2.1.
    #[test]
    fn descriptions_of_the_standards() {
        let text = "v=0\r\no=jdoe 3724394400 3724394405 IN IP4 198.51.100.1\r\n\
            s=Call to John Smith\r\ni=SDP Offer #1\r\nu=http://www.jdoe.example.com/home.html\r\n\
            e=Jane Doe <jane@jdoe.example.com>\r\np=+1 617 555-6011\r\nc=IN IP4 198.51.100.1\r\n\
            t=0 0\r\nm=audio 49170 RTP/AVP 0\r\nm=audio 49180 RTP/AVP 0\r\n\
            m=video 51372 RTP/AVP 99\r\nc=IN IP6 2001:db8::2\r\na=rtpmap:99 h263-1998/90000\r\n";
        let expected = [
            rtp("198.51.100.1", 49170),
            rtp("198.51.100.1", 49180),
            rtp("2001:db8::2", 51372),
        ];
        assert_eq!(streams(text.as_bytes()).unwrap(), expected);
        let text = "v=0\no=bob 2808844564 2808844564 IN IP4 host.biloxi.example.com\ns=\n\
            c=IN IP4 host.biloxi.example.com\nt=0 0\nm=audio 49174 RTP/AVP 0\n\
            a=rtpmap:0 PCMU/8000\nm=video 0 RTP/AVP 31\n";
        let found = streams(text.as_bytes()).unwrap();
        let ends: Vec<_> = found.iter().map(|s| (s.ip, s.port)).collect();
        assert_eq!(ends, [(None, 49174), (None, 0)], "a name, and refused");
    }

    #[test]
    fn streams_and_their_attributes() {
        let one = |media: &str| {
            let text = format!("v=0\r\nc=IN IP4 192.0.2.1\r\na=sendonly\r\n{media}\r\n");
            streams(text.as_bytes()).map(|mut streams| streams.remove(0))
        };
        let base = Stream {
            taken: false,
            ..rtp("192.0.2.1", 5000)
        };
        for (media, expected) in [
            ("m=audio 5000 RTP/AVP 0", base.clone()),
            ("m=audio 5000  UDP/TLS/RTP/SAVPF 0", base.clone()),
            (
                "m=audio 5000/2 RTP/SAVP 0\r\na=recvonly",
                Stream {
                    ports: 2,
                    taken: true,
                    ..base.clone()
                },
            ),
            (
                "m=audio 5000/60000 RTP/AVP 0",
                Stream {
                    ports: 8,
                    ..base.clone()
                },
            ),
            (
                "m=image 5000 udptl t38\r\na=sendrecv",
                Stream {
                    taken: true,
                    transport: Transport::Datagrams,
                    ..base.clone()
                },
            ),
            (
                "m=application 5000 UDP/DTLS/SCTP webrtc-datachannel",
                Stream {
                    transport: Transport::Datagrams,
                    ..base.clone()
                },
            ),
            (
                "m=message 5000 TCP/MSRP *",
                Stream {
                    transport: Transport::Other,
                    ..base.clone()
                },
            ),
            (
                "m=audio 5000 RTP/AVP 0\r\na=rtcp:5555\r\na=rtcp-mux",
                Stream {
                    rtcp: Some((5555, None)),
                    mux: true,
                    ..base.clone()
                },
            ),
            // RFC 3605, section 2.1.
            (
                "m=audio 5000 RTP/AVP 0\r\na=rtcp:53020 IN IP6 2001:db8::8",
                Stream {
                    rtcp: Some((53020, ip("2001:db8::8"))),
                    ..base.clone()
                },
            ),
            (
                "m=audio 5000 RTP/AVP 0\r\na=rtcp:70000\r\nc=IN IP4 0.0.0.0",
                Stream {
                    ip: None,
                    ..base.clone()
                },
            ),
            (
                "m=audio 5000 RTP/AVP 0\r\nc=IN IP4 233.252.0.1/127/3",
                Stream {
                    ip: ip("233.252.0.1"),
                    ..base.clone()
                },
            ),
        ] {
            assert_eq!(one(media), Some(expected), "{media}");
        }
        for media in [
            "m=audio 65536 RTP/AVP 0",
            "m=audio -1 RTP/AVP 0",
            "m=audio 5000/x RTP/AVP 0",
            "m=audio 5000",
            "m=",
        ] {
            assert_eq!(one(media), None, "{media}");
        }
        assert_eq!(
            streams(b"c=IN IP4 192.0.2.1\r\nm=audio 5000 RTP/AVP 0"),
            None
        );
        let many = format!("v=0\r\n{}", "m=audio 5000 RTP/AVP 0\r\n".repeat(99));
        assert_eq!(streams(many.as_bytes()).unwrap().len(), STREAMS_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..2000)) {
            streams(&body);
        }

        #[test]
        fn nor_do_lines_of_the_right_kinds(
            lines in prop::collection::vec(
                ("(v|c|m|a)=", "(IN IP[46] [0-9a-f.:/]{0,20}|audio [0-9/]{0,12} (RTP|UDP|TCP|/){1,4}|rtcp:[0-9 INP]{0,12}|rtcp-mux|.{0,20})"),
                0..40,
            ),
        ) {
            let mut text = "v=0\r\n".to_owned();
            for (kind, value) in lines {
                text += &format!("{kind}{value}\r\n");
            }
            if let Some(streams) = streams(text.as_bytes()) {
                prop_assert!(streams.len() <= STREAMS_MAX);
                prop_assert!(streams.iter().all(|stream| usize::from(stream.ports) <= PORTS_MAX));
            }
        }
    }
}
