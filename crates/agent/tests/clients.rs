//! Both clients, the blocking and the asynchronous one, before a daemon that the test plays on a real socket.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use agent::asynchronous::{self, SEND_QUEUE};
use agent::frame::{self, FrameError, LEN_MAX};
use agent::{Client, ClientError, Flow, PROTOCOL_VERSION, Packet, Request, ToAgent, ToDaemon};
use tokio::runtime::{Builder, Runtime};

/// Either client, used alike.
enum Either {
    Blocking(Client),
    Asynchronous(Runtime, asynchronous::Client),
}

type Connect = fn(&Path) -> Result<Either, ClientError>;

const KINDS: [Connect; 2] = [
    |socket| Client::connect(socket, "ftp").map(Either::Blocking),
    |socket| {
        let runtime = runtime();
        let client = runtime.block_on(asynchronous::Client::connect(socket, "ftp"))?;
        Ok(Either::Asynchronous(runtime, client))
    },
];

impl Either {
    fn receive(&mut self) -> Result<ToAgent, ClientError> {
        match self {
            Self::Blocking(client) => client.receive(),
            Self::Asynchronous(runtime, client) => runtime.block_on(client.receive()),
        }
    }

    /// Says one of everything; returns the tokens.
    fn speak(&mut self) -> Result<[u64; 2], ClientError> {
        match self {
            Self::Blocking(client) => {
                client.deliver(1)?;
                client.deliver_rewritten(2, vec![7; 60_000])?;
                client.discard(3)?;
                Ok([client.ask(end())?, client.ask(end())?])
            }
            Self::Asynchronous(runtime, client) => {
                let sender = client.sender();
                runtime.block_on(async {
                    sender.deliver(1).await?;
                    sender.deliver_rewritten(2, vec![7; 60_000]).await?;
                    sender.discard(3).await?;
                    Ok([sender.ask(end()).await?, sender.clone().ask(end()).await?])
                })
            }
        }
    }

    /// Whether a frame that is too long is an error that says so.
    fn refuses_to_send(&mut self, frame: Vec<u8>) -> bool {
        let sent = match self {
            Self::Blocking(client) => client.deliver_rewritten(1, frame),
            Self::Asynchronous(runtime, client) => {
                runtime.block_on(client.sender().deliver_rewritten(1, frame))
            }
        };
        matches!(sent, Err(ClientError::Frame(FrameError::TooLong(_))))
    }

    /// Lets the asynchronous one write what it has queued.
    fn close(self) {
        if let Self::Asynchronous(runtime, client) = self {
            let _ = runtime.block_on(client.close());
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn end() -> Request {
    Request::End { flow: flow() }
}

fn flow() -> Flow {
    Flow {
        proto: 6,
        src: "10.1.0.10".parse().unwrap(),
        sport: 40000,
        dst: "fd00:2::10".parse().unwrap(),
        dport: 21,
    }
}

fn packet(id: u64) -> ToAgent {
    ToAgent::Packet(Packet {
        id,
        flow: flow(),
        from_opener: true,
        frame: vec![id as u8; 1500],
    })
}

/// A client and the daemon's end of its connection, for each kind of client.
fn connected(mut test: impl FnMut(Either, UnixStream)) {
    for connect in KINDS {
        let (client, stream) = greet(connect, &|stream| {
            let version = PROTOCOL_VERSION;
            frame::write(stream, &ToAgent::Welcome { version }).unwrap();
        });
        test(client.expect("welcome"), stream);
    }
}

/// Connects to a daemon that answers the greeting as it is told.
fn greet(
    connect: Connect,
    answer: &(dyn Fn(&mut UnixStream) + Sync),
) -> (Result<Either, ClientError>, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let hello = frame::read::<ToDaemon>(&mut stream, LEN_MAX).unwrap();
            let (version, name) = (PROTOCOL_VERSION, "ftp".to_owned());
            assert_eq!(hello, ToDaemon::Hello { version, name });
            answer(&mut stream);
            stream
        });
        (connect(&socket), daemon.join().unwrap())
    })
}

#[test]
fn what_is_said_arrives_in_order_on_both_sides() {
    connected(|mut client, mut stream| {
        for id in 0..20 {
            frame::write(&mut stream, &packet(id)).unwrap();
        }
        for id in 0..20 {
            assert_eq!(client.receive().unwrap(), packet(id));
        }
        let reader = std::thread::spawn(move || {
            let mut read = || frame::read::<ToDaemon>(&mut stream, LEN_MAX);
            let said: Vec<_> = (0..5).map(|_| read().unwrap()).collect();
            assert!(matches!(read(), Err(FrameError::Closed)), "and no more");
            said
        });
        let [first, second] = client.speak().unwrap();
        client.close();
        let frame = Some(vec![7; 60_000]);
        let ask = |token| ToDaemon::Ask {
            token,
            request: end(),
        };
        assert_ne!(first, second);
        let expected = [
            ToDaemon::Deliver { id: 1, frame: None },
            ToDaemon::Deliver { id: 2, frame },
            ToDaemon::Discard { id: 3 },
            ask(first),
            ask(second),
        ];
        assert_eq!(reader.join().unwrap(), expected);
    });
}

#[test]
fn who_is_not_welcome_hears_why() {
    for connect in KINDS {
        let reason = "no such agent".to_owned();
        let refused = ToAgent::Refused { reason };
        let (client, _stream) = greet(connect, &|stream| frame::write(stream, &refused).unwrap());
        assert!(matches!(client, Err(ClientError::Refused(why)) if why == "no such agent"));
        let (client, _stream) = greet(connect, &|stream| frame::write(stream, &packet(1)).unwrap());
        assert!(matches!(client, Err(ClientError::Unexpected)));
        let (client, _stream) = greet(connect, &|stream| stream.shutdown(Shutdown::Both).unwrap());
        assert!(matches!(
            client,
            Err(ClientError::Frame(FrameError::Closed))
        ));
        let nobody = connect(Path::new("/nonexistent/socket"));
        assert!(matches!(nobody, Err(ClientError::Frame(FrameError::Io(_)))));
    }
}

/// Good messages before it are read; what was wrong with it is said.
#[test]
fn what_is_no_message_is_an_error() {
    let whole = frame::encode(&packet(2)).unwrap();
    let mut garbage = 400_u32.to_le_bytes().to_vec();
    garbage.extend([0xff; 400]);
    let mut long = (LEN_MAX as u32 + 1).to_le_bytes().to_vec();
    // Of a message that is too long nothing more is awaited.
    long.push(0);
    let eof = |error: &FrameError| matches!(error, FrameError::Io(e) if e.kind() == ErrorKind::UnexpectedEof);
    type Is<'a> = &'a dyn Fn(&FrameError) -> bool;
    let cases: [(&[u8], bool, Is<'_>); 6] = [
        (&garbage, false, &|error| {
            matches!(error, FrameError::Malformed)
        }),
        (
            &long,
            false,
            &|error| matches!(error, FrameError::TooLong(n) if *n == LEN_MAX + 1),
        ),
        (&0_u32.to_le_bytes(), false, &|error| {
            matches!(error, FrameError::Malformed)
        }),
        (&whole[..2], true, &eof),
        (&whole[..whole.len() - 1], true, &eof),
        (&[], true, &|error| matches!(error, FrameError::Closed)),
    ];
    for (n, (bytes, ends, is)) in cases.into_iter().enumerate() {
        connected(|mut client, mut stream| {
            frame::write(&mut stream, &packet(1)).unwrap();
            stream.write_all(bytes).unwrap();
            if ends {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(client.receive().unwrap(), packet(1));
            match client.receive() {
                Err(ClientError::Frame(error)) => assert!(is(&error), "case {n}: {error:?}"),
                other => panic!("case {n}: {other:?}"),
            }
        });
    }
}

#[test]
fn what_is_too_long_to_send_is_refused_and_the_connection_goes_on() {
    connected(|mut client, mut stream| {
        assert!(client.refuses_to_send(vec![0; LEN_MAX + 1]));
        let reader = std::thread::spawn(move || frame::read::<ToDaemon>(&mut stream, LEN_MAX));
        // The daemon's end closes then: what is written after that may fail.
        let _ = client.speak();
        client.close();
        let said = reader.join().unwrap().unwrap();
        assert_eq!(said, ToDaemon::Deliver { id: 1, frame: None });
    });
}

/// Polls once. Without a waker: the test polls again by itself.
fn once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn asynchronous_pair(runtime: &Runtime) -> (asynchronous::Client, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        frame::read::<ToDaemon>(&mut stream, LEN_MAX).unwrap();
        let version = PROTOCOL_VERSION;
        frame::write(&mut stream, &ToAgent::Welcome { version }).unwrap();
        stream
    });
    let client = runtime.block_on(asynchronous::Client::connect(&socket, "ftp"));
    (client.unwrap(), daemon.join().unwrap())
}

/// A receive that is dropped within a message has taken nothing that the next one lacks.
#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    let runtime = runtime();
    let (mut client, mut stream) = asynchronous_pair(&runtime);
    let bytes: Vec<u8> = (1..=3)
        .flat_map(|id| frame::encode(&packet(id)).unwrap())
        .collect();
    let mut received = vec![];
    for piece in bytes.chunks(700) {
        stream.write_all(piece).unwrap();
        runtime.block_on(async {
            for _ in 0..4 {
                // The reactor's turn, so that it knows of the bytes.
                tokio::task::yield_now().await;
                if let Poll::Ready(message) = once(client.receive()) {
                    received.push(message.unwrap());
                }
            }
        });
    }
    while received.len() < 3 {
        received.push(runtime.block_on(client.receive()).unwrap());
    }
    assert_eq!(received, [packet(1), packet(2), packet(3)]);
}

/// A daemon that does not read has the agent wait, and memory does not grow; then all arrives once and in order.
#[test]
fn what_is_queued_is_bounded() {
    let runtime = runtime();
    let (client, mut stream) = asynchronous_pair(&runtime);
    let sender = client.sender();
    // What fits into the socket besides is a few hundred KiB.
    let frame = vec![0; 60_000];
    let mut queued = 0;
    runtime.block_on(async {
        let mut refused = 0;
        while refused < 100 {
            match once(sender.deliver_rewritten(queued, frame.clone())) {
                Poll::Ready(sent) => {
                    sent.unwrap();
                    (queued, refused) = (queued + 1, 0);
                }
                Poll::Pending => refused += 1,
            }
            assert!(queued < 2 * SEND_QUEUE as u64, "it has no end");
            tokio::task::yield_now().await;
        }
    });
    assert!(queued >= SEND_QUEUE as u64, "{queued}");
    drop(sender);
    let reader = std::thread::spawn(move || {
        let mut ids = vec![];
        while let Ok(ToDaemon::Deliver { id, .. }) = frame::read(&mut stream, LEN_MAX) {
            ids.push(id);
        }
        ids
    });
    runtime.block_on(client.close()).unwrap();
    assert!(reader.join().unwrap().into_iter().eq(0..queued), "in order");
}

/// As with the blocking one: the daemon learns at once, whatever else still has a sender.
#[test]
fn a_client_that_is_dropped_ends_the_connection() {
    let runtime = runtime();
    let (client, mut stream) = asynchronous_pair(&runtime);
    let sender = client.sender();
    drop(client);
    // The task that writes ends with the runtime's next turn.
    let ended = runtime.block_on(async {
        for _ in 0..100 {
            if matches!(once(sender.deliver(1)), Poll::Ready(Err(_))) {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    });
    assert!(ended, "it goes on");
    while frame::read::<ToDaemon>(&mut stream, LEN_MAX).is_ok() {}
    let end = frame::read::<ToDaemon>(&mut stream, LEN_MAX);
    assert!(matches!(end, Err(FrameError::Closed)), "{end:?}");
}
