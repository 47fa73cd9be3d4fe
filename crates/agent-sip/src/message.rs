//! SIP messages: as much of them as says whether there is a session description in it, and of which call.

/// Headers that are looked at; a message with more is none.
pub const HEADERS_MAX: usize = 256;
/// The longest header that is looked at, in octets, its folds joined.
const HEADER_LEN_MAX: usize = 1024;

/// What kind of message it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request.
    Request,
    /// A response with this status.
    Response(u16),
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Request or response.
    pub kind: Kind,
    /// The request's method, or that of what it responds to.
    pub method: Method,
    /// The call, by its Call-ID.
    pub call: Vec<u8>,
    /// Its session description, if its body is one.
    pub description: Option<&'a [u8]>,
}

/// Methods that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Opens a session or changes it (RFC 3261, section 13).
    Invite,
    /// Acknowledges a final response to an INVITE; has the answer when that had the offer.
    Ack,
    /// Ends a session.
    Bye,
    /// Acknowledges a provisional response (RFC 3262).
    Prack,
    /// Changes a session (RFC 3311).
    Update,
    /// Announces no media, though it may carry a description: OPTIONS, for instance.
    Other,
}

impl Message<'_> {
    /// Whether a description in it is one of the session's: of a method that offers and answers, and not in a response
    /// that refuses.
    pub fn negotiates(&self) -> bool {
        let accepted = match self.kind {
            Kind::Request => true,
            Kind::Response(status) => (101..300).contains(&status) && self.method != Method::Ack,
        };
        let method = matches!(
            self.method,
            Method::Invite | Method::Ack | Method::Prack | Method::Update
        );
        accepted && method
    }
}

/// Reads a datagram. None when it is no message, or not whole: a datagram has one and no more (RFC 3261, section 18.3).
pub fn message(datagram: &[u8]) -> Option<Message<'_>> {
    // Line ends may come before it (RFC 3261, section 7.5), and keep a translation alive when nothing follows.
    let start = datagram
        .iter()
        .position(|octet| !matches!(octet, b'\r' | b'\n'))?;
    let mut lines = Lines(&datagram[start..]);
    let (kind, of_request) = start_line(lines.next()?)?;
    let mut headers = Headers::default();
    let mut header: Vec<u8> = vec![];
    for _ in 0..HEADERS_MAX {
        let line = lines.next()?;
        if let [b' ' | b'\t', ..] = line {
            // A fold goes on with the header before it (RFC 3261, section 7.3.1).
            if header.is_empty() {
                return None;
            }
            push(&mut header, b" ");
            push(&mut header, line.trim_ascii());
            continue;
        }
        if !header.is_empty() {
            headers.take(&header)?;
        }
        if line.is_empty() {
            return headers.message(kind, of_request, lines.0);
        }
        header.clear();
        push(&mut header, line);
    }
    None
}

/// Appends as much as is looked at.
fn push(header: &mut Vec<u8>, text: &[u8]) {
    let room = HEADER_LEN_MAX.saturating_sub(header.len());
    header.extend_from_slice(&text[..text.len().min(room)]);
}

/// What is left of a text, line by line; a line has an end.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|octet| *octet == b'\n')?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// The kind, and a request's method.
fn start_line(line: &[u8]) -> Option<(Kind, Option<&[u8]>)> {
    let mut words = line.splitn(3, |octet| *octet == b' ');
    let (first, second, third) = (words.next()?, words.next()?, words.next());
    if is_version(first) {
        let status = number(second).filter(|status| (100..700).contains(status))?;
        return Some((Kind::Response(status as u16), None));
    }
    let token = |octet: &u8| octet.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(octet);
    let good = !first.is_empty() && first.iter().all(token) && is_version(third?.trim_ascii());
    good.then_some((Kind::Request, Some(first)))
}

fn is_version(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"SIP/2.0")
}

fn method(name: &[u8]) -> Method {
    // Methods are told apart by case (RFC 3261, section 7.1).
    match name {
        b"INVITE" => Method::Invite,
        b"ACK" => Method::Ack,
        b"BYE" => Method::Bye,
        b"PRACK" => Method::Prack,
        b"UPDATE" => Method::Update,
        _ => Method::Other,
    }
}

/// Headers that matter here.
#[derive(Default)]
struct Headers {
    call: Option<Vec<u8>>,
    sequence: Option<Vec<u8>>,
    length: Option<usize>,
    describes: bool,
    encoded: bool,
}

impl Headers {
    /// Takes a header, under its name or its short one (RFC 3261, section 7.3.3). None when it is none, or says
    /// something else than another of its name.
    fn take(&mut self, header: &[u8]) -> Option<()> {
        let colon = header.iter().position(|octet| *octet == b':')?;
        let (name, value) = (header[..colon].trim_ascii(), &header[colon + 1..]);
        let value = value.trim_ascii();
        match name.to_ascii_lowercase().as_slice() {
            b"call-id" | b"i" => once(&mut self.call, value.to_vec()),
            b"cseq" => once(&mut self.sequence, value.to_vec()),
            b"content-length" | b"l" => once(&mut self.length, number(value)?),
            b"content-type" | b"c" => {
                let end = value.iter().position(|octet| *octet == b';');
                let kind = value[..end.unwrap_or(value.len())].trim_ascii();
                self.describes = kind.eq_ignore_ascii_case(b"application/sdp");
                Some(())
            }
            b"content-encoding" | b"e" => {
                self.encoded |= !value.eq_ignore_ascii_case(b"identity");
                Some(())
            }
            _ => Some(()),
        }
    }

    /// The message with this after its headers.
    fn message<'a>(
        self,
        kind: Kind,
        of_request: Option<&[u8]>,
        rest: &'a [u8],
    ) -> Option<Message<'a>> {
        let call = self.call.filter(|call| !call.is_empty())?;
        let sequence = self.sequence?;
        let mut words = sequence.split(u8::is_ascii_whitespace);
        number(words.next()?)?;
        let of_sequence = words.rfind(|word| !word.is_empty())?;
        if of_request.is_some_and(|name| name != of_sequence) {
            return None;
        }
        // Over UDP the length may be left out: then the datagram's end is that of the body (RFC 3261, section 18.3).
        let body = rest.get(..self.length.unwrap_or(rest.len()))?;
        let readable = self.describes && !self.encoded && !body.is_empty();
        Some(Message {
            kind,
            method: method(of_sequence),
            call,
            description: readable.then_some(body),
        })
    }
}

fn once<T: PartialEq>(place: &mut Option<T>, value: T) -> Option<()> {
    let same = place.as_ref().is_none_or(|had| *had == value);
    *place = Some(value);
    same.then_some(())
}

/// Digits alone, and no more than any number here has.
pub(crate) fn number(text: &[u8]) -> Option<usize> {
    let plain = (1..=10).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let text = plain.then(|| std::str::from_utf8(text).ok()).flatten()?;
    text.parse::<u32>().ok().map(|number| number as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 3665, section 3.1, F1: from Alice to Bob.
    const INVITE: &str = "INVITE sip:bob@biloxi.example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP client.atlanta.example.com:5060;branch=z9hG4bK74bf9\r\n\
        Max-Forwards: 70\r\n\
        From: Alice <sip:alice@atlanta.example.com>;tag=9fxced76sl\r\n\
        To: Bob <sip:bob@biloxi.example.com>\r\n\
        Call-ID: 3848276298220188511@atlanta.example.com\r\n\
        CSeq: 1 INVITE\r\n\
        Contact: <sip:alice@client.atlanta.example.com>\r\n\
        Content-Type: application/sdp\r\n\
        Content-Length: 5\r\n\
        \r\nv=0\r\n";

    fn read(text: &str) -> Option<Message<'_>> {
        message(text.as_bytes())
    }

    #[test]
    fn an_invite_has_a_description() {
        let message = read(INVITE).expect("whole");
        assert_eq!(
            (message.kind, message.method),
            (Kind::Request, Method::Invite)
        );
        assert_eq!(message.call, b"3848276298220188511@atlanta.example.com");
        assert_eq!(message.description, Some(&b"v=0\r\n"[..]));
        assert!(message.negotiates());
    }

    /// RFC 4475, section 3.1.1.1, as far as it is about what is read here: short names, folds, spaces and case.
    #[test]
    fn however_headers_are_written() {
        let text = "\r\n\r\nINVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\n\
            TO :\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\n\
            from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\n  ;\n  tag = 98asjd8\n\
            MaX-fOrWaRdS: 0068\n\
            I: wsinv.ndaksdj@192.0.2.1\n\
            l   : 5\n\
            cseq: 0009\n  INVITE\n\
            v:  SIP  / 2.0  / UDP\n    192.0.2.2;branch=390skdjuw\n\
            s :\n\
            c: APPLICATION/SDP ; charset=utf-8\n\
            \nv=0\r\nmore than the length";
        let message = read(text).expect("whole");
        assert_eq!(message.call, b"wsinv.ndaksdj@192.0.2.1");
        assert_eq!(message.description, Some(&b"v=0\r\n"[..]));
    }

    #[test]
    fn which_messages_negotiate() {
        for (start, sequence, expected) in [
            ("SIP/2.0 200 OK", "1 INVITE", true),
            ("SIP/2.0 183 Session Progress", "1 INVITE", true),
            ("SIP/2.0 200", "2 UPDATE", true),
            ("SIP/2.0 200 OK", "2 PRACK", true),
            ("ACK sip:bob@biloxi.example.com SIP/2.0", "1 ACK", true),
            ("PRACK sip:bob@biloxi.example.com SIP/2.0", "2 PRACK", true),
            (
                "UPDATE sip:bob@biloxi.example.com SIP/2.0",
                "3 UPDATE",
                true,
            ),
            // What somebody could do, or cannot.
            ("SIP/2.0 200 OK", "1 OPTIONS", false),
            ("SIP/2.0 488 Not Acceptable Here", "1 INVITE", false),
            ("SIP/2.0 100 Trying", "1 INVITE", false),
            (
                "OPTIONS sip:bob@biloxi.example.com SIP/2.0",
                "1 OPTIONS",
                false,
            ),
            ("BYE sip:bob@biloxi.example.com SIP/2.0", "4 BYE", false),
        ] {
            let text = INVITE.split_once("\r\n").expect("lines").1;
            let text = format!("{start}\r\n{}", text.replace("1 INVITE", sequence));
            let message = read(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(message.negotiates(), expected, "{start} {sequence}");
        }
    }

    #[test]
    fn what_is_no_message_or_not_whole() {
        for (from, to) in [
            ("Content-Length: 5", "Content-Length: 6"),
            ("Content-Length: 5", "Content-Length: -5"),
            ("Content-Length: 5", "Content-Length: 99999999999999999999"),
            ("Content-Length: 5", "Content-Length: 5\r\nl: 4"),
            ("1 INVITE", "1 BYE"),
            ("1 INVITE", "INVITE"),
            ("CSeq: 1 INVITE\r\n", ""),
            ("Call-ID: 3848276298220188511@atlanta.example.com\r\n", ""),
            ("Max-Forwards: 70", "Max-Forwards 70"),
            ("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"),
            ("INVITE sip:bob", " INVITE sip:bob"),
            ("\r\n\r\nv=0\r\n", "\r\n"),
        ] {
            let text = INVITE.replacen(from, to, 1);
            assert_ne!(text, INVITE);
            assert_eq!(read(&text), None, "{to:?}");
        }
        for text in ["", "\r\n\r\n", "\r\n", "SIP/2.0 20 OK\r\n\r\n"] {
            assert_eq!(read(text), None);
        }
        let many = format!(
            "INVITE sip:b SIP/2.0\r\n{}\r\n",
            "a: b\r\n".repeat(HEADERS_MAX)
        );
        assert_eq!(read(&many), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_description() {
        for (from, to) in [
            ("application/sdp", "text/plain"),
            ("application/sdp", "multipart/mixed;boundary=x"),
            ("Content-Type: application/sdp\r\n", ""),
            ("Content-Type", "Content-Encoding: gzip\r\nContent-Type"),
            ("Content-Length: 5", "Content-Length: 0"),
        ] {
            let text = INVITE.replacen(from, to, 1);
            let message = read(&text).expect("a message");
            assert_eq!(message.description, None, "{to:?}");
        }
        // Without a length the datagram's end is the body's.
        let text = INVITE.replacen("Content-Length: 5\r\n", "", 1);
        let message = read(&text).expect("a message");
        assert_eq!(message.description, Some(&b"v=0\r\n"[..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_makes_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..2000)) {
            message(&datagram);
        }

        /// Cut short it is none; with other octets in it, it may be anything.
        #[test]
        fn damaged_messages(
            cut in 0..INVITE.len(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            prop_assert_eq!(message(&INVITE.as_bytes()[..cut]), None);
            let mut datagram = INVITE.as_bytes().to_vec();
            for (at, octet) in damage {
                let at = at.index(datagram.len());
                datagram[at] = octet;
            }
            message(&datagram);
        }

        /// Folds, short names and line ends change nothing.
        #[test]
        fn as_it_may_be_written(folded in any::<bool>(), short in any::<bool>(), bare in any::<bool>()) {
            let mut text = INVITE.to_owned();
            if folded {
                text = text.replace(": ", ":\r\n\t ");
            }
            if short {
                text = text.replace("Call-ID", "i").replace("Content-Type", "c");
                text = text.replace("Content-Length", "l");
            }
            if bare {
                let (head, body) = text.split_once("\r\n\r\n").expect("a body");
                text = format!("{}\n\n{body}", head.replace("\r\n", "\n"));
            }
            prop_assert_eq!(read(&text), read(INVITE));
        }
    }
}
