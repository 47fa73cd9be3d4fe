//! Requests, and the parts of answers that belong to no one request.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BlockRequest, ExpectRequest, FlowFilter, FlowRequest, PolicyRequest, UserRequest};
use crate::counters::CounterQuery;

/// The version of the protocol. Raised when a request or answer changes its meaning or loses a
/// field; not for fields that are added to answers.
pub const PROTOCOL: u32 = 1;

/// Where `ravelind` listens by default.
pub const SOCKET: &str = "/run/ravelin/ravelind.sock";

/// The longest request line in bytes, its newline included: the longest policy fits, also one whose
/// every byte JSON escapes. (What TOML allows in a text takes two bytes then.)
pub const REQUEST_BYTES_MAX: usize = 2 * super::POLICY_BYTES_MAX + 64 * 1024;

/// The longest answer line in bytes, its newline included: the counters of 64 cores fit well.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Is somebody there? Answered by [`Pong`].
    Ping,
    /// Which release runs? Answered by [`Version`].
    Version,
    /// How is the node? Answered by [`Status`](super::Status).
    Status,
    /// Which flows does the node have? Answered by a list of [`Flow`](super::Flow).
    Flows {
        /// Only these, and how many at most.
        #[serde(default)]
        filter: FlowFilter,
        /// Answer only with the list's end, that is with the number.
        #[serde(default)]
        count: bool,
    },
    /// Change one flow. Answered by [`FlowInstructed`](super::FlowInstructed).
    Flow(FlowRequest),
    /// The counters. Answered by [`CounterReport`](crate::counters::CounterReport).
    Counters {
        /// Which of them.
        #[serde(default)]
        query: CounterQuery,
    },
    /// Who is logged in, and who shall be?
    User(UserRequest),
    /// What is blocked, and what shall be?
    Block(BlockRequest),
    /// Which rules are in force, and which shall be?
    Policy(PolicyRequest),
    /// Which related connections are expected?
    Expect(ExpectRequest),
    /// Hand all slots over and go offline. Answered by [`Drain`](super::Drain) when that has begun.
    Drain {
        /// Go on afterwards, without slots.
        #[serde(default)]
        stay: bool,
        /// After so many milliseconds it is over, finished or not.
        bound_ms: u64,
        /// Also when nobody can take over.
        #[serde(default)]
        force: bool,
    },
    /// Take [`Request::Drain`] back. Answered by [`Drain`](super::Drain).
    Undrain,
    /// How far is it? Answered by [`Drain`](super::Drain), when it is another one than the one of
    /// this number or a second has passed.
    DrainProgress {
        /// The [number](super::Drain::number) of the last answer; 0 for none.
        #[serde(default)]
        after: u64,
    },
}

impl Request {
    /// The `ask` values that a daemon of this [`PROTOCOL`] knows, for error messages.
    const NAMES: &'static str = "ping, version, status, flows, flow, counters, user, block, policy, \
                                 expect, drain, undrain, drain_progress";

    /// The line that carries the request, with its newline.
    pub(super) fn to_line(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            protocol: u32,
            #[serde(flatten)]
            request: &'a Request,
        }
        let mut line = serde_json::to_vec(&Envelope {
            protocol: PROTOCOL,
            request: self,
        })
        .expect("requests have string keys only");
        line.push(b'\n');
        line
    }

    /// Reads a request line (without its newline).
    pub(super) fn from_line(line: &[u8]) -> Result<Self, Failure> {
        let bad = |message| Failure {
            kind: FailureKind::BadRequest,
            message,
        };
        let mut object = match serde_json::from_slice(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(bad("a request is a JSON object in one line".into())),
            Err(error) => {
                return Err(bad(format!(
                    "a request is a JSON object in one line, and this is not JSON: {error}"
                )));
            }
        };
        match object.remove("protocol").map(|v| (v.as_u64(), v)) {
            Some((Some(theirs), _)) if theirs == u64::from(PROTOCOL) => {}
            Some((_, theirs)) => {
                return Err(Failure {
                    kind: FailureKind::Protocol,
                    message: format!(
                        "the client speaks control protocol {theirs} and this daemon {PROTOCOL}: \
                         use ravelin and ravelind of one release"
                    ),
                });
            }
            None => return Err(bad(format!("the request lacks \"protocol\":{PROTOCOL}"))),
        }
        serde_json::from_value(Value::Object(object))
            .map_err(|error| bad(format!("{error}; requests are {}", Self::NAMES)))
    }
}

/// The answer to [`Request::Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Always true.
    pub pong: bool,
}

/// The answer to [`Request::Version`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The daemon's release.
    pub version: String,
    /// The daemon's [`PROTOCOL`].
    pub protocol: u32,
}

/// The last line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEnd {
    /// Always true.
    pub end: bool,
    /// How many elements the list has.
    pub count: u64,
    /// Whether there are more, beyond the limit that the request gave.
    pub truncated: bool,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The class, for programs.
    pub kind: FailureKind,
    /// One line for people: what is wrong and what would be right.
    pub message: String,
}

/// The class of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is not one.
    BadRequest,
    /// The request is of another [`PROTOCOL`].
    Protocol,
    /// The request line is longer than [`REQUEST_BYTES_MAX`]. The daemon closes the connection.
    TooLong,
    /// Too many clients at once. The daemon closes the connection.
    Busy,
    /// The request is understood, and what it wants is refused as wrong.
    Invalid,
    /// What the request wants to change is not there.
    Absent,
    /// The daemon cannot answer now, for example since it is still starting.
    Unavailable,
    /// What is asked for would do harm, or makes no sense now.
    Refused,
    /// The daemon did not answer: a fault of its own.
    Internal,
    /// A class that a later release added.
    #[serde(other)]
    Other,
}

/// An error line.
#[derive(Serialize, Deserialize)]
pub(super) struct ErrorLine {
    pub(super) error: Failure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_their_line() {
        for request in [
            Request::Ping,
            Request::Version,
            Request::Status,
            Request::Flows {
                filter: "proto=tcp src=10.0.0.0/8 port=80-90 limit=5"
                    .parse()
                    .unwrap(),
                count: true,
            },
            Request::Counters {
                query: CounterQuery {
                    nonzero: true,
                    scope: Some("sync".into()),
                },
            },
            Request::User(UserRequest::Login {
                name: "alice".into(),
                address: "fd00::7".parse().unwrap(),
                groups: vec!["staff".into()],
                for_ms: Some(1),
            }),
            Request::User(UserRequest::List),
            Request::Block(BlockRequest::Add {
                net: "10.1.0.0/16".parse().unwrap(),
                for_ms: None,
                note: "a \"note\"\n".into(),
            }),
            Request::Policy(PolicyRequest::Load {
                text: "[[rule]]\nname = \"\u{1}\"".into(),
                source: "r.toml".into(),
            }),
            Request::Expect(ExpectRequest::List),
            Request::Drain {
                stay: true,
                bound_ms: 10_000,
                force: false,
            },
            Request::Undrain,
            Request::DrainProgress { after: 7 },
        ] {
            let line = request.to_line();
            assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
            assert_eq!(Request::from_line(&line).unwrap(), request);
        }
    }

    #[test]
    fn what_is_missing_has_its_default() {
        assert_eq!(
            Request::from_line(br#"{"protocol":1,"ask":"flows"}"#).unwrap(),
            Request::Flows {
                filter: FlowFilter::default(),
                count: false
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, kind, says) in [
            ("7", FailureKind::BadRequest, "a JSON object in one line"),
            ("{\"a", FailureKind::BadRequest, "this is not JSON: EOF"),
            (
                r#"{"ask":"status"}"#,
                FailureKind::BadRequest,
                "lacks \"protocol\":1",
            ),
            (
                r#"{"protocol":9,"ask":"status"}"#,
                FailureKind::Protocol,
                "the client speaks control protocol 9 and this daemon 1",
            ),
            (
                r#"{"protocol":"x"}"#,
                FailureKind::Protocol,
                "control protocol \"x\"",
            ),
            (
                r#"{"protocol":1,"ask":"reboot"}"#,
                FailureKind::BadRequest,
                "unknown variant `reboot`",
            ),
            (
                r#"{"protocol":1,"ask":"flows","filter":{"sorce":"10.0.0.0/8"}}"#,
                FailureKind::BadRequest,
                "unknown field `sorce`",
            ),
            (
                r#"{"protocol":1,"ask":"user","do":"login","name":"a","address":"10.0.0.1","group":"x"}"#,
                FailureKind::BadRequest,
                "unknown field `group`",
            ),
            (
                r#"{"protocol":1,"ask":"block","do":"add","net":"10.0.0.0/33"}"#,
                FailureKind::BadRequest,
                "invalid IP address syntax",
            ),
            (
                r#"{"protocol":1,"ask":"flows","filter":{"port":"90-80"}}"#,
                FailureKind::BadRequest,
                "90-80",
            ),
        ] {
            let failure = Request::from_line(line.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, kind, "{line}");
            assert!(failure.message.contains(says), "{line}: {failure}");
        }
    }
}
