//! A node that dies without a word and comes back on the same port.

mod common;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{PATIENCE, Site, connected, next, peer, socket, until};
use tokio::sync::oneshot;
use transport::{DisconnectReason, Endpoint, Event, Options, Tuning};

/// A node on a thread and runtime of its own, which can be killed: the runtime is dropped with
/// all that it runs, so that no packet says good-bye.
struct Node {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    up: oneshot::Receiver<()>,
}

impl Node {
    fn start(options: Options) -> Self {
        let (kill, killed) = oneshot::channel::<()>();
        let (up_tx, up) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let endpoint = runtime.block_on(async {
                let mut endpoint = Endpoint::bind(options).unwrap();
                let mut up = Some(up_tx);
                let work = async {
                    loop {
                        match endpoint.events.recv().await.unwrap() {
                            Event::Connected { .. } => {
                                // An error: this is not the first time, or nobody waits.
                                let _ = up.take().map(|up| up.send(()));
                            }
                            Event::Frame { frame, reply, .. } => reply.send(frame).unwrap(),
                            _ => {}
                        }
                    }
                };
                tokio::select! {
                    () = work => {}
                    _ = killed => {}
                }
                endpoint
            });
            drop(runtime);
            drop(endpoint);
        });
        Self { kill, thread, up }
    }

    fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn options(site: &Site, addr: SocketAddr, other: SocketAddr) -> Options {
    Options {
        local: addr,
        ..site.options("n2", vec![peer(1, other)], Tuning::default())
    }
}

async fn echo(a: &mut Endpoint, value: u8) {
    a.send(2, 0, vec![value]).unwrap();
    match next(a).await {
        Event::Answer { frame, .. } => assert_eq!(frame[..], [value]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restarted_peer_is_connected_again_at_once() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (ours, theirs) = (socket(), socket());
    let (our_addr, their_addr) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
    drop(theirs);
    let node = Node::start(options(&site, their_addr, our_addr));
    let n1 = site.options("n1", vec![peer(2, their_addr)], Tuning::default());
    let mut a = Endpoint::over(ours, n1).unwrap();
    connected(&mut a, 2).await;
    echo(&mut a, 1).await;

    let mut times = Vec::new();
    let mut node = node;
    for round in 0..3 {
        node.kill();
        let began = Instant::now();
        node = Node::start(options(&site, their_addr, our_addr));
        // Our end learns of the restart without having sent anything, long before its keep-alive
        // and idle timeouts: the peer's first packets make it ask, and the peer, which derives
        // its keys from its private key, can tell that it knows nothing of the connection.
        match next(&mut a).await {
            Event::Disconnected { peer: 2, why } => assert_eq!(why, DisconnectReason::Reset),
            other => panic!("{other:?}"),
        }
        connected(&mut a, 2).await;
        tokio::time::timeout(PATIENCE, &mut node.up)
            .await
            .unwrap()
            .unwrap();
        let took = began.elapsed();
        times.push(took);
        echo(&mut a, 10 + round).await;
    }
    println!("connected both ways after {times:?}");
    // Keep-alive would need a second. The best of three, because the machine may be busy.
    let best = times.iter().min().unwrap();
    assert!(*best < Duration::from_millis(500), "{times:?}");
    node.kill();
}

#[tokio::test]
async fn the_restart_of_a_peer_is_noticed_on_an_idle_connection() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (ours, theirs) = (socket(), socket());
    let (our_addr, their_addr) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
    drop(theirs);
    let node = Node::start(options(&site, their_addr, our_addr));
    // No keep-alive: only a probe can find out.
    let mute = Tuning {
        keep_alive: Duration::from_secs(600),
        idle_timeout: Duration::from_secs(1200),
        ..Tuning::default()
    };
    let n1 = site.options("n1", vec![peer(2, their_addr)], mute);
    let mut a = Endpoint::over(ours, n1).unwrap();
    connected(&mut a, 2).await;
    echo(&mut a, 1).await;
    // Acknowledgements and MTU discovery have come to an end.
    let sent = |a: &Endpoint| a.stats(2).unwrap().dialed.unwrap().packets_sent;
    let (mut last, mut since) = (sent(&a), Instant::now());
    until(|| {
        if sent(&a) != last {
            (last, since) = (sent(&a), Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    })
    .await;

    node.kill();
    let node = Node::start(options(&site, their_addr, our_addr));
    match next(&mut a).await {
        Event::Disconnected { peer: 2, why } => assert_eq!(why, DisconnectReason::Reset),
        other => panic!("{other:?}"),
    }
    connected(&mut a, 2).await;
    echo(&mut a, 2).await;
    node.kill();
}

#[tokio::test]
async fn a_peer_that_starts_late_is_connected_when_it_dials() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (ours, theirs) = (socket(), socket());
    let (our_addr, their_addr) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
    drop(theirs);
    // With these times, only that the peer dials us can make us dial it soon.
    let slow = Tuning {
        backoff_min: Duration::from_secs(600),
        backoff_max: Duration::from_secs(600),
        ..Tuning::default()
    };
    let n1 = site.options("n1", vec![peer(2, their_addr)], slow);
    let mut a = Endpoint::over(ours, n1).unwrap();
    match next(&mut a).await {
        Event::Refused { peer: Some(2), .. } => {}
        other => panic!("{other:?}"),
    }
    let node = Node::start(options(&site, their_addr, our_addr));
    connected(&mut a, 2).await;
    echo(&mut a, 1).await;
    node.kill();
}

#[tokio::test]
async fn after_a_shutdown_the_port_is_free_and_the_peer_comes_back() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, b) = site.pair(Tuning::default(), Tuning::default()).await;
    let (our_addr, their_addr) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    b.shutdown(PATIENCE).await.unwrap();
    assert!(matches!(
        next(&mut a).await,
        Event::Disconnected {
            why: DisconnectReason::ClosedByPeer { .. },
            ..
        }
    ));
    let bound = async {
        loop {
            match Endpoint::bind(options(&site, their_addr, our_addr)) {
                Ok(endpoint) => return endpoint,
                Err(transport::Error::Bind { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    let mut b = tokio::time::timeout(PATIENCE, bound).await.unwrap();
    connected(&mut b, 1).await;
    connected(&mut a, 2).await;
}

#[tokio::test]
async fn a_peer_that_moves_is_found_at_its_new_address() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let nowhere = socket();
    let n1 = site.options(
        "n1",
        vec![peer(2, nowhere.local_addr().unwrap())],
        Tuning::default(),
    );
    let mut a = Endpoint::bind(n1).unwrap();
    let n2 = site.options(
        "n2",
        vec![peer(1, a.local_addr().unwrap())],
        Tuning::default(),
    );
    let b = Endpoint::bind(n2).unwrap();
    b.set_wanted(1, false);
    a.set_addr(2, b.local_addr().unwrap());
    connected(&mut a, 2).await;
    assert_eq!(
        a.stats(2).unwrap().dialed.unwrap().addr,
        b.local_addr().unwrap()
    );
}

#[tokio::test]
async fn dialing_anew_leaves_the_connection_that_the_peer_dialed() {
    let site = Site::new("alpha", &["n1", "n2"]);
    // With these times, a back-off would be noticed.
    let slow = Tuning {
        backoff_min: Duration::from_secs(600),
        backoff_max: Duration::from_secs(600),
        ..Tuning::default()
    };
    let (mut a, mut b) = site.pair(slow.clone(), slow).await;
    a.redial(2, "the peer has restarted");
    match next(&mut a).await {
        Event::Disconnected { peer: 2, why } => {
            assert!(
                matches!(why, DisconnectReason::ClosedHere { .. }),
                "{why:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    connected(&mut a, 2).await;
    // What b dialed is the connection of before: it carries frames, and b hears of no loss.
    b.send(1, 0, vec![7]).unwrap();
    match next(&mut a).await {
        Event::Frame { frame, reply, .. } => reply.send(frame).unwrap(),
        other => panic!("{other:?}"),
    }
    match next(&mut b).await {
        Event::Answer { frame, .. } => assert_eq!(frame[..], [7]),
        other => panic!("{other:?}"),
    }
}
