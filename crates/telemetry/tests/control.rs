//! The control protocol over real sockets: what a client gets, and what a daemon survives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, getgid, setfsgid, setfsuid};
use serde_json::Value;
use telemetry::control::{
    BindError, BlockRequest, Blocked, Change, Client, ClientError, Endpoint, FailureKind, Flow,
    FlowFilter, FlowRole, Handler, Limits, LoggedIn, POLICY_BYTES_MAX, PolicyLoaded, PolicyRequest,
    Pong, Proto, REQUEST_BYTES_MAX, Request, Responder, Server, Status, Stop, UserRequest, Version,
};
use telemetry::counters::{CounterQuery, CounterReport, CounterValue};

/// Answers from fixed data; requests for the status of "slow" wait for a word of the test.
#[derive(Default)]
struct Fixed {
    flows: Vec<Flow>,
    /// When set: says when a request for the status has come, and waits for leave to answer.
    gate: Option<(SyncSender<()>, std::sync::Mutex<Receiver<()>>)>,
    /// When set: told why lists were stopped.
    stopped: Option<SyncSender<Stop>>,
}

impl Handler for Fixed {
    fn handle(&self, request: Request, responder: &mut Responder<'_>) {
        match request {
            Request::Ping => responder.pong(),
            Request::Version => responder.version("1.2.3"),
            Request::Drain { .. } | Request::Undrain | Request::DrainProgress { .. } => {
                responder.drain(&telemetry::control::Drain::default());
            }
            Request::Status => {
                if let Some((arrived, leave)) = &self.gate {
                    arrived.send(()).unwrap();
                    leave.lock().unwrap().recv().unwrap();
                }
                responder.status(&Status::default());
            }
            Request::Counters { query } if query.scope.as_deref() == Some("silent") => {}
            Request::Counters { query } if query.scope.as_deref() == Some("confused") => {
                responder.pong();
            }
            Request::Counters { query } => responder.counters(&CounterReport {
                counters: vec![CounterValue {
                    name: "rx".into(),
                    scope: query.scope.unwrap_or("all".into()),
                    value: u64::from(query.nonzero),
                }],
                sum: [("rx".into(), 1)].into(),
            }),
            Request::User(UserRequest::List) => {
                for n in 0..3 {
                    responder.user(&logged_in(n)).unwrap();
                }
                let stop = responder.block(&blocked());
                assert_eq!(stop, Err(Stop::Unwanted), "a block in a list of users");
            }
            Request::Block(BlockRequest::List) => {}
            Request::Block(BlockRequest::Add { net, note, .. }) => responder.change(&Change {
                entries: 1,
                replaced: Some(format!("{net} {note}")),
                ..Change::default()
            }),
            Request::Policy(PolicyRequest::Load { text, source }) => {
                responder.policy_loaded(&PolicyLoaded {
                    rules: text.len() as u64,
                    warnings: vec![source],
                    ..PolicyLoaded::default()
                });
            }
            Request::User(_)
            | Request::Block(_)
            | Request::Policy(_)
            | Request::Expect(_)
            | Request::Flow(_) => {
                responder.fail(FailureKind::Invalid, "not that");
            }
            Request::Flows { filter, .. } => {
                if filter.zone.as_deref() == Some("broken") {
                    responder.flow(&self.flows[0]).unwrap();
                    responder.fail(FailureKind::Unavailable, "worker1 does not answer");
                }
                for flow in self.flows.iter().filter(|f| filter.matches(&f.facts())) {
                    if let Err(stop) = responder.flow(flow) {
                        if let Some(stopped) = &self.stopped {
                            stopped.send(stop).unwrap();
                        }
                        break;
                    }
                }
            }
        }
    }
}

fn flow(n: u16) -> Flow {
    Flow {
        proto: Proto(if n.is_multiple_of(2) { 6 } else { 17 }),
        src: IpAddr::from([10, 1, 0, 5]),
        sport: n,
        dst: IpAddr::from([10, 2, 0, 9]),
        dport: 80,
        state: "established".into(),
        role: FlowRole::Owner,
        slot: n % 1024,
        zone_from: "inside".into(),
        zone_to: "outside".into(),
        rule: "web".into(),
        sync: "ack".into(),
        age_s: 1,
        idle_s: 0,
        packets: [1, 2],
        bytes: [60, 120],
        held: false,
        mark: n.into(),
        incarnation: u64::MAX - u64::from(n),
    }
}

fn fixed(flows: u16) -> Fixed {
    Fixed {
        flows: (0..flows).map(flow).collect(),
        ..Fixed::default()
    }
}

fn logged_in(n: u8) -> LoggedIn {
    LoggedIn {
        name: format!("user{n}"),
        address: IpAddr::from([10, 1, 0, n]),
        groups: vec!["staff".into()],
        left_s: (n > 0).then_some(u64::from(n)),
        node: "n1".into(),
    }
}

fn blocked() -> Blocked {
    Blocked {
        net: "10.0.0.0/8".parse().unwrap(),
        reason: "operator".into(),
        note: String::new(),
        left_s: None,
        node: "n1".into(),
    }
}

#[test]
fn common_state_is_listed_and_changed() {
    let place = Place::new();
    let _server = place.serve(Fixed::default());
    let mut client = Client::connect(&place.path()).unwrap();
    let users: Vec<LoggedIn> = client.list(&Request::User(UserRequest::List)).unwrap();
    assert_eq!(users, (0..3).map(logged_in).collect::<Vec<_>>());
    let blocks: Vec<Blocked> = client.list(&Request::Block(BlockRequest::List)).unwrap();
    assert_eq!(blocks, []);
    let add = Request::Block(BlockRequest::Add {
        net: "fd00::/8".parse().unwrap(),
        for_ms: None,
        note: "why".into(),
    });
    let change: Change = client.ask(&add).unwrap();
    assert_eq!(change.replaced.as_deref(), Some("fd00::/8 why"));
    // The longest policy, of what takes the most room on the line, in one request.
    let load = Request::Policy(PolicyRequest::Load {
        text: "\n".repeat(POLICY_BYTES_MAX),
        source: "rules.toml".into(),
    });
    let loaded: PolicyLoaded = client.ask(&load).unwrap();
    assert_eq!(loaded.rules, POLICY_BYTES_MAX as u64);
    assert_eq!(loaded.warnings, ["rules.toml"]);
    // A refusal leaves the connection in order.
    let refused = client.list::<LoggedIn>(&Request::Policy(PolicyRequest::Show));
    assert!(
        matches!(&refused, Err(ClientError::Refused(f)) if f.kind == FailureKind::Invalid),
        "{refused:?}"
    );
    assert_eq!(
        client.ask::<Pong>(&Request::Ping).unwrap(),
        Pong { pong: true }
    );
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("run/ravelind.sock")
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            path: self.path(),
            ..Endpoint::default()
        }
    }

    fn serve(&self, handler: impl Handler) -> Server {
        self.serve_within(handler, Limits::default())
    }

    fn serve_within(&self, handler: impl Handler, limits: Limits) -> Server {
        self.endpoint()
            .bind()
            .unwrap()
            .serve(handler, limits)
            .unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    /// A connection on which the test writes what it likes.
    fn raw(&self) -> (UnixStream, BufReader<UnixStream>) {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        (stream.try_clone().unwrap(), BufReader::new(stream))
    }
}

fn line(reader: &mut impl BufRead) -> Value {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn filter(text: &str) -> FlowFilter {
    text.parse().unwrap()
}

#[test]
fn every_request_is_answered_on_one_connection() {
    let place = Place::new();
    let server = place.serve(fixed(5));
    assert_eq!(server.path(), place.path());
    let mut client = place.client();
    assert!(client.ask::<Pong>(&Request::Ping).unwrap().pong);
    let version = client.ask::<Version>(&Request::Version).unwrap();
    assert_eq!((version.version.as_str(), version.protocol), ("1.2.3", 1));
    let status = client.ask::<Status>(&Request::Status).unwrap();
    assert_eq!(status, Status::default());
    let query = CounterQuery {
        nonzero: true,
        scope: Some("sync".into()),
    };
    let report = client.counters::<CounterReport>(query).unwrap();
    assert_eq!(report.counters[0].scope, "sync");
    assert_eq!(report.counters[0].value, 1, "nonzero has arrived");

    let mut flows = client.flows::<Flow>(filter("proto=tcp")).unwrap();
    let got: Vec<Flow> = flows.by_ref().map(Result::unwrap).collect();
    assert_eq!(got, [flow(0), flow(2), flow(4)]);
    let end = flows.end().unwrap();
    assert_eq!((end.count, end.truncated), (3, false));
    assert!(client.ask::<Pong>(&Request::Ping).unwrap().pong);
}

#[test]
fn limits_and_counts_are_the_servers_work() {
    let place = Place::new();
    let (sender, stops) = sync_channel(1);
    let _server = place.serve(Fixed {
        stopped: Some(sender),
        ..fixed(10)
    });
    let mut client = place.client();

    let mut flows = client.flows::<Flow>(filter("limit=4")).unwrap();
    assert_eq!(flows.by_ref().map(Result::unwrap).count(), 4);
    let end = flows.end().unwrap();
    assert_eq!((end.count, end.truncated), (4, true));
    assert_eq!(stops.recv().unwrap(), Stop::Full);

    // A limit that is just reached cuts nothing off.
    let end = client.flow_count(filter("limit=5 proto=udp")).unwrap();
    assert_eq!((end.count, end.truncated), (5, false));

    let (mut out, mut answers) = place.raw();
    out.write_all(b"{\"protocol\":1,\"ask\":\"flows\",\"count\":true}\n")
        .unwrap();
    let only = line(&mut answers);
    assert_eq!(
        only,
        serde_json::json!({"end":true,"count":10,"truncated":false})
    );
}

#[test]
fn a_handlers_failures_reach_the_client() {
    let place = Place::new();
    let _server = place.serve(fixed(3));
    let mut client = place.client();

    let mut flows = client.flows::<Flow>(filter("zone=broken")).unwrap();
    assert_eq!(flows.next().unwrap().unwrap(), flow(0));
    let error = flows.next().unwrap().unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(f) if f.kind == FailureKind::Unavailable),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "ravelind: worker1 does not answer");
    assert!(flows.next().is_none() && flows.end().is_none());

    for (scope, says) in [
        (
            "silent",
            "the daemon gave no answer to a request for Counters",
        ),
        ("confused", "asked for Counters, the daemon answered Pong"),
    ] {
        let query = CounterQuery {
            nonzero: false,
            scope: Some(scope.into()),
        };
        let error = client.counters::<CounterReport>(query).unwrap_err();
        assert_eq!(error.to_string(), format!("ravelind: {says}"));
    }
    // None of it broke the connection.
    assert!(client.ask::<Pong>(&Request::Ping).unwrap().pong);
}

#[test]
fn garbage_is_answered_and_the_connection_goes_on() {
    let place = Place::new();
    let _server = place.serve(fixed(0));
    let (mut out, mut answers) = place.raw();
    for (request, kind) in [
        (&b"hello\n"[..], "bad_request"),
        (b"\n", "bad_request"),
        (b"\xff\xfe\0\n", "bad_request"),
        (b"[1,2]\n", "bad_request"),
        (b"{\"protocol\":2,\"ask\":\"ping\"}\n", "protocol"),
        (b"{\"protocol\":1,\"ask\":\"reboot\"}\n", "bad_request"),
    ] {
        out.write_all(request).unwrap();
        assert_eq!(line(&mut answers)["error"]["kind"], kind, "{request:?}");
    }
    out.write_all(b"{\"protocol\":1,\"ask\":\"ping\"}\n")
        .unwrap();
    assert_eq!(line(&mut answers), serde_json::json!({"pong": true}));
}

#[test]
fn an_oversized_line_is_refused_and_ends_the_connection() {
    let place = Place::new();
    let _server = place.serve(fixed(0));
    let (mut out, mut answers) = place.raw();
    // The daemon stops reading at the limit and closes, so the rest of the write may fail.
    let _ = out.write_all(&vec![b'x'; REQUEST_BYTES_MAX + 300 * 1024]);
    assert_eq!(line(&mut answers)["error"]["kind"], "too_long");
    let mut rest = Vec::new();
    match answers.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert!(place.client().ask::<Pong>(&Request::Ping).unwrap().pong);
}

#[test]
fn a_silent_client_is_let_go_of() {
    let place = Place::new();
    let _server = place.serve_within(
        fixed(0),
        Limits {
            idle: Duration::from_millis(30),
            ..Limits::default()
        },
    );
    let (mut out, mut answers) = place.raw();
    out.write_all(b"{\"proto").unwrap();
    assert_eq!(answers.read(&mut [0]).unwrap(), 0, "the daemon closes");
}

#[test]
fn a_client_that_disappears_or_does_not_read_stops_the_list() {
    let place = Place::new();
    let (sender, stops) = sync_channel(1);
    let _server = place.serve_within(
        Fixed {
            stopped: Some(sender),
            ..fixed(20_000)
        },
        Limits {
            unread: Duration::from_millis(50),
            ..Limits::default()
        },
    );
    let ask = b"{\"protocol\":1,\"ask\":\"flows\"}\n";
    let patience = Duration::from_secs(20);

    let (mut gone, mut answers) = place.raw();
    gone.write_all(ask).unwrap();
    assert_eq!(line(&mut answers)["sport"], 0);
    drop((gone, answers));
    assert_eq!(stops.recv_timeout(patience).unwrap(), Stop::Unwanted);

    let (mut lazy, _unread) = place.raw();
    lazy.write_all(ask).unwrap();
    assert_eq!(stops.recv_timeout(patience).unwrap(), Stop::Unwanted);
    assert!(place.client().ask::<Pong>(&Request::Ping).unwrap().pong);
}

#[test]
fn the_client_beyond_the_limit_is_told_so_and_places_come_back() {
    let place = Place::new();
    let limits = Limits {
        clients_max: 2,
        ..Limits::default()
    };
    let _server = place.serve_within(fixed(0), limits);
    let mut kept = [place.client(), place.client()];
    for client in &mut kept {
        client.ask::<Pong>(&Request::Ping).unwrap();
    }
    let error = place.client().ask::<Pong>(&Request::Ping).unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(f) if f.kind == FailureKind::Busy),
        "{error:?}"
    );
    drop(kept);
    // The server notices the two ends on its own threads; until then it says "busy".
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = place.client().ask::<Pong>(&Request::Ping) {
        assert!(matches!(&error, ClientError::Refused(f) if f.kind == FailureKind::Busy));
        assert!(std::time::Instant::now() < deadline, "no place came back");
        std::thread::yield_now();
    }
}

#[test]
fn a_daemon_that_ends_in_the_middle_is_said_to_be_gone() {
    let place = Place::new();
    let (arrived_in, arrived) = sync_channel(1);
    let (leave, leave_in) = sync_channel(1);
    let server = place.serve(Fixed {
        gate: Some((arrived_in, std::sync::Mutex::new(leave_in))),
        ..fixed(0)
    });
    let mut client = place.client();
    let asking = std::thread::spawn(move || client.ask::<Status>(&Request::Status));
    arrived.recv().unwrap();
    let stopping = std::thread::spawn(move || drop(server));
    let error = asking.join().unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Gone { .. }), "{error:?}");
    assert!(error.to_string().contains("in the middle of the answer"));
    // The server waits for its handler, which may now end.
    leave.send(()).unwrap();
    stopping.join().unwrap();
    assert!(!place.path().exists(), "the socket is removed");
    let error = Client::connect(&place.path()).unwrap_err();
    assert!(
        error.to_string().contains("is ravelind running?"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&place.path().display().to_string())
    );
}

#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for_forever() {
    let place = Place::new();
    std::fs::create_dir(place.path().parent().unwrap()).unwrap();
    let _mute = UnixListener::bind(place.path()).unwrap();
    let mut client = Client::connect_with(&place.path(), Duration::from_millis(30)).unwrap();
    let error = client.ask::<Pong>(&Request::Ping).unwrap_err();
    assert!(matches!(error, ClientError::Late { .. }), "{error:?}");
}

#[test]
fn what_is_no_ravelind_is_recognised() {
    let place = Place::new();
    std::fs::create_dir(place.path().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(place.path()).unwrap();
    let other = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0, "a request came");
        stream.write_all(b"220 mail.example ESMTP\n").unwrap();
    });
    let error = place.client().ask::<Pong>(&Request::Ping).unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    other.join().unwrap();
}

#[test]
fn a_second_daemon_is_refused_and_does_not_harm_the_first() {
    let place = Place::new();
    let _server = place.serve(fixed(0));
    let error = place.endpoint().bind().unwrap_err();
    assert!(matches!(error, BindError::Live { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "another ravelind is using {}: stop it, or set another socket in [control]",
            place.path().display()
        )
    );
    assert!(place.client().ask::<Pong>(&Request::Ping).unwrap().pong);
}

#[test]
fn a_stale_socket_is_replaced_but_nothing_else_is() {
    let place = Place::new();
    std::fs::create_dir(place.path().parent().unwrap()).unwrap();
    drop(UnixListener::bind(place.path()).unwrap());
    let error = Client::connect(&place.path()).unwrap_err();
    assert!(
        matches!(error, ClientError::NotListening { .. }),
        "{error:?}"
    );

    let server = place.serve(fixed(0));
    assert!(place.client().ask::<Pong>(&Request::Ping).unwrap().pong);
    drop(server);

    std::fs::write(place.path(), "precious").unwrap();
    let error = place.endpoint().bind().unwrap_err();
    assert!(matches!(error, BindError::NotSocket { .. }), "{error:?}");
    assert_eq!(std::fs::read(place.path()).unwrap(), b"precious");
}

#[test]
fn a_stopping_daemon_leaves_its_successors_socket_alone() {
    let place = Place::new();
    let first = place.serve(fixed(0));
    std::fs::remove_file(place.path()).unwrap();
    let _second = place.serve(fixed(0));
    drop(first);
    assert!(place.client().ask::<Pong>(&Request::Ping).unwrap().pong);
}

/// A group that may be given to a file here, and that does not help the other user of these tests.
fn some_group() -> Group {
    let gid = if Uid::effective().is_root() {
        Gid::from_raw(1)
    } else {
        getgid()
    };
    Group::from_gid(gid).unwrap().expect("the group has a name")
}

#[test]
fn mode_and_group_are_as_asked_before_anybody_listens() {
    let place = Place::new();
    let group = some_group();
    let endpoint = Endpoint {
        mode: 0o640,
        group: Some(group.name),
        ..place.endpoint()
    };
    let bound = endpoint.bind().unwrap();
    let metadata = std::fs::metadata(place.path()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.gid(), group.gid.as_raw());
    drop(bound);
    assert!(!place.path().exists());

    let endpoint = Endpoint {
        group: Some("no-such-group".into()),
        ..place.endpoint()
    };
    let error = endpoint.bind().unwrap_err();
    assert!(matches!(error, BindError::NoGroup { .. }), "{error:?}");
    assert!(!place.path().exists(), "nothing is left behind");
}

/// Connects as a user who is neither root nor the owner's class: as root by taking another user's
/// file system identity for this thread, otherwise the mode shuts the owner out.
fn connect_as_other(path: &Path) -> ClientError {
    let path = path.to_owned();
    let thread = std::thread::spawn(move || {
        if Uid::effective().is_root() {
            setfsgid(Gid::from_raw(54_321));
            setfsuid(Uid::from_raw(54_321));
        }
        Client::connect(&path).unwrap_err()
    });
    thread.join().unwrap()
}

#[test]
fn a_user_without_permission_is_told_the_group() {
    let place = Place::new();
    std::fs::set_permissions(place.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let group = some_group();
    let endpoint = Endpoint {
        mode: 0o060,
        group: Some(group.name.clone()),
        ..place.endpoint()
    };
    let bound = endpoint.bind().unwrap();
    let error = connect_as_other(&place.path());
    assert!(matches!(error, ClientError::Permission { .. }), "{error:?}");
    let says = format!("or as a user of group {}", group.name);
    assert!(error.to_string().contains(&says), "{error}");
    drop(bound);

    let endpoint = Endpoint {
        mode: 0o000,
        ..place.endpoint()
    };
    let _bound = endpoint.bind().unwrap();
    let error = connect_as_other(&place.path());
    assert!(
        error.to_string().contains("give the socket a group"),
        "{error}"
    );
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let endpoint = Endpoint {
        path: PathBuf::from("/").join("x".repeat(120)),
        ..Endpoint::default()
    };
    let error = endpoint.bind().unwrap_err();
    assert!(matches!(error, BindError::PathLong { .. }), "{error:?}");
}
