//! Commands and replies that announce data connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line that is looked at, in bytes; none that announces something is as long.
pub const LINE_MAX: usize = 512;

/// Bytes in, lines out.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Bytes of the line that is not over.
    pub fn unfinished(&self) -> usize {
        self.line.len()
    }

    /// Takes bytes; gives each line that they complete, without its end.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for byte in bytes {
            if *byte == b'\n' {
                if !self.too_long {
                    line(self.line.strip_suffix(b"\r").unwrap_or(&self.line));
                }
                self.line.clear();
                self.too_long = false;
            } else if self.line.len() < LINE_MAX {
                self.line.push(*byte);
            } else {
                self.too_long = true;
            }
        }
    }
}

/// What a client says that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// PASV or EPSV: the server shall listen.
    Passive,
    /// PORT (RFC 959, section 4.1.2) or EPRT (RFC 2428, section 2): the client listens there.
    Active(IpAddr, u16),
}

/// What a server says that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// 227: it listens at this address (RFC 959, section 4.2.2).
    Passive(IpAddr, u16),
    /// 229: it listens at its own address (RFC 2428, section 3).
    ExtendedPassive(u16),
}

/// Reads a client's line.
pub fn command(line: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(line).ok()?;
    let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
    let argument = argument.trim();
    match verb.to_ascii_uppercase().as_str() {
        // "EPSV ALL" only promises something.
        "EPSV" if argument.eq_ignore_ascii_case("ALL") => None,
        "PASV" | "EPSV" => Some(Command::Passive),
        "PORT" => host_port(argument).map(|(ip, port)| Command::Active(ip, port)),
        "EPRT" => {
            let [protocol, address, port] = fields(argument)?;
            let ip = match protocol {
                "1" => IpAddr::V4(address.parse::<Ipv4Addr>().ok()?),
                "2" => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
                _ => return None,
            };
            Some(Command::Active(ip, number(port)?))
        }
        _ => None,
    }
}

/// Reads a server's line.
pub fn reply(line: &[u8]) -> Option<Reply> {
    let text = std::str::from_utf8(line).ok()?;
    if let Some(rest) = text.strip_prefix("227 ") {
        // The form of the text around the numbers is not fixed (RFC 1123, section 4.1.2.6).
        let from = rest.find(|c: char| c.is_ascii_digit())?;
        let numbers = &rest[from..];
        let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ',');
        let (ip, port) = host_port(&numbers[..end.unwrap_or(numbers.len())])?;
        return Some(Reply::Passive(ip, port));
    }
    let rest = text.strip_prefix("229 ")?;
    let inner = &rest[rest.rfind('(')? + 1..];
    let inner = &inner[..inner.find(')')?];
    let [protocol, address, port] = fields(inner)?;
    (protocol.is_empty() && address.is_empty())
        .then(|| number(port).map(Reply::ExtendedPassive))
        .flatten()
}

/// `h1,h2,h3,h4,p1,p2`.
fn host_port(text: &str) -> Option<(IpAddr, u16)> {
    let mut numbers = [0; 6];
    let mut parts = text.split(',');
    for number in &mut numbers {
        let part = parts.next()?;
        *number = plain(part).then(|| part.parse::<u8>().ok()).flatten()?;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    (parts.next().is_none() && port != 0).then_some((Ipv4Addr::new(a, b, c, d).into(), port))
}

/// Three fields between four delimiters, any printable character (RFC 2428, section 2).
fn fields(text: &str) -> Option<[&str; 3]> {
    let delimiter = text.chars().next().filter(char::is_ascii_graphic)?;
    let inner = text.strip_prefix(delimiter)?.strip_suffix(delimiter)?;
    let mut parts = inner.split(delimiter);
    let fields = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(fields)
}

fn number(text: &str) -> Option<u16> {
    let port = plain(text).then(|| text.parse().ok()).flatten();
    port.filter(|port| *port != 0)
}

/// Digits alone: `parse` would take a sign.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn commands() {
        let at = |text, port| Some(Command::Active(ip(text), port));
        for (line, expected) in [
            ("PASV", Some(Command::Passive)),
            ("epsv 2", Some(Command::Passive)),
            ("EPSV ALL", None),
            ("PORT 10,1,0,10,4,1", at("10.1.0.10", 1025)),
            ("port 10,1,0,10,4,1 ", at("10.1.0.10", 1025)),
            ("PORT 10,1,0,10,4", None),
            ("PORT 10,1,0,10,4,1,1", None),
            ("PORT 10,1,0,256,4,1", None),
            ("PORT 10,1,0,+1,4,1", None),
            ("PORT 10,1,0,1,0,0", None),
            ("EPRT |1|10.1.0.10|1025|", at("10.1.0.10", 1025)),
            ("EPRT !2!fd00:1::10!65535!", at("fd00:1::10", 65535)),
            ("EPRT |2|10.1.0.10|1025|", None),
            ("EPRT |1|10.1.0.10|65536|", None),
            ("EPRT |1|10.1.0.10|0|", None),
            ("EPRT |1|10.1.0.10|1025", None),
            ("EPRT", None),
            ("RETR PORT 10,1,0,10,4,1", None),
        ] {
            assert_eq!(command(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn replies() {
        let at = |text, port| Some(Reply::Passive(ip(text), port));
        for (line, expected) in [
            (
                "227 Entering Passive Mode (10,2,0,10,195,80).",
                at("10.2.0.10", 50000),
            ),
            ("227 =10,2,0,10,195,80", at("10.2.0.10", 50000)),
            ("227-Entering Passive Mode (10,2,0,10,195,80).", None),
            ("227 none", None),
            (
                "229 Entering Extended Passive Mode (|||50000|)",
                Some(Reply::ExtendedPassive(50000)),
            ),
            ("229 Ok (|1|10.2.0.10|50000|)", None),
            ("229 Ok (|||0|)", None),
            ("229 |||50000|", None),
            (" 227 Entering Passive Mode (10,2,0,10,195,80).", None),
            ("230 227 (10,2,0,10,195,80)", None),
        ] {
            assert_eq!(reply(line.as_bytes()), expected, "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_line_is_read_or_not(line in prop::collection::vec(any::<u8>(), 0..80), text in "(PORT|EPRT|227|229|EPSV) [|(),0-9.:a-f ]{0,40}") {
            let _ = (command(&line), reply(&line));
            let _ = (command(text.as_bytes()), reply(text.as_bytes()));
        }

        #[test]
        fn lines_do_not_depend_on_how_they_arrive(text in "[a-c\r\n]{0,60}", cut in 0_usize..60) {
            let mut whole = vec![];
            Lines::default().push(text.as_bytes(), |line| whole.push(line.to_vec()));
            let (mut parts, mut lines) = (vec![], Lines::default());
            let cut = cut.min(text.len());
            for part in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                lines.push(part, |line| parts.push(line.to_vec()));
            }
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_whole() {
        let mut text = vec![b'x'; LINE_MAX + 1];
        text.extend(b"\nPASV\r\n");
        let mut seen = vec![];
        Lines::default().push(&text, |line| seen.push(line.to_vec()));
        assert_eq!(seen, [b"PASV".to_vec()]);
    }
}
