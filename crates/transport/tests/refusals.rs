//! Peers that must not be connected with, and what is said about them.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, Site, Stranger, connected, next, peer, refused, socket, until};
use time::OffsetDateTime;
use transport::pki::Validity;
use transport::{CloseCode, Endpoint, Error, Event, Fault, PROTOCOL, Peer, Tuning};

/// Tries again soon, so that a test sees several attempts.
fn eager() -> Tuning {
    Tuning {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        ..Tuning::default()
    }
}

fn past() -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity {
        not_before: now - time::Duration::days(30),
        not_after: now - time::Duration::days(2),
    }
}

/// Accepts handshakes and counts those that are tried.
fn count_attempts(endpoint: &quinn::Endpoint) -> Arc<AtomicUsize> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let (endpoint, counter) = (endpoint.clone(), Arc::clone(&attempts));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let Ok(connecting) = incoming.accept() else {
                continue;
            };
            kept.push(tokio::spawn(async move {
                if let Ok(conn) = connecting.await {
                    conn.closed().await;
                }
            }));
        }
    });
    attempts
}

/// An endpoint `n1` whose peer `n2` is whatever listens at `addr`.
fn dialer(site: &Site, addr: SocketAddr) -> Endpoint {
    Endpoint::bind(site.options("n1", vec![peer(2, addr)], eager())).unwrap()
}

/// What `n1` says about a stranger in the place of `n2`, after it was said only once in several
/// attempts.
async fn said_of(site: &Site, stranger: &Stranger<'_>) -> (Fault, String) {
    let socket = socket();
    let addr = socket.local_addr().unwrap();
    let quinn = stranger.endpoint(socket);
    let attempts = count_attempts(&quinn);
    let mut n1 = dialer(site, addr);
    let (peer, error) = refused(&mut n1).await;
    assert_eq!(peer, Some(2));
    assert_eq!((error.peer.as_str(), error.addr), ("n2", addr));
    let so_far = attempts.load(Ordering::Relaxed);
    until(|| attempts.load(Ordering::Relaxed) >= so_far + 4).await;
    assert!(n1.events.try_recv().is_err(), "said more than once");
    let shown = error.to_string();
    assert!(
        shown.starts_with(&format!("peer n2 at {addr}: ")),
        "{shown}"
    );
    (error.fault, shown)
}

#[tokio::test]
async fn a_dialed_node_of_another_cluster_is_refused() {
    let alpha = Site::new("alpha", &["n1"]);
    // The same cluster name, the right node name, and still another authority.
    let other = Site::new("alpha", &["n2"]);
    let (fault, shown) = said_of(
        &alpha,
        &Stranger {
            cert: Some((&other, "n2")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    assert!(
        matches!(&fault, Fault::ForeignAuthority { cluster, .. } if cluster == "alpha"),
        "{fault:?}"
    );
    assert!(shown.contains("ravelin pki issue"), "{shown}");
}

#[tokio::test]
async fn a_dialed_node_with_anothers_certificate_is_refused() {
    let alpha = Site::new("alpha", &["n1", "n3"]);
    let (fault, shown) = said_of(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n3")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    assert_eq!(
        fault,
        Fault::WrongNode {
            found: "n3".to_owned(),
            expected: "n2".to_owned()
        }
    );
    assert!(
        shown.contains(
            "its certificate names n3; expected n2: issue one with \"ravelin pki issue n2\""
        ),
        "{shown}"
    );
}

#[tokio::test]
async fn a_dialed_node_with_an_expired_certificate_is_refused() {
    let alpha = Site::new("alpha", &["n1"]);
    alpha.issue_with("n2", past());
    let (fault, shown) = said_of(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n2")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    match fault {
        Fault::Expired { node, not_after } => {
            assert_eq!(node, "n2");
            assert_eq!(
                not_after.unix_timestamp(),
                transport::pki::inspect(&alpha.file("n2.pem"))
                    .unwrap()
                    .not_after
                    .unix_timestamp()
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(shown.contains("ravelin pki issue n2"), "{shown}");
}

#[tokio::test]
async fn a_dialed_node_of_another_version_is_refused() {
    let alpha = Site::new("alpha", &["n1", "n2"]);
    let (fault, shown) = said_of(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n2")),
            requires: None,
            protocol: "ravelin/2",
        },
    )
    .await;
    assert_eq!(
        fault,
        Fault::OtherVersion {
            ours: "ravelin/1".to_owned(),
            theirs: None
        }
    );
    assert!(
        shown.contains("ravelin/1") && shown.contains("same release"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_node_that_refuses_our_certificate_is_never_connected() {
    let alpha = Site::new("alpha", &["n1", "n2"]);
    let beta = Site::new("beta", &[]);
    let (fault, shown) = said_of(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n2")),
            requires: Some(&beta),
            protocol: PROTOCOL,
        },
    )
    .await;
    assert!(
        matches!(&fault, Fault::OurCertificateRefused { node, .. } if node == "n1"),
        "{fault:?}"
    );
    assert!(shown.contains("ravelin pki inspect"), "{shown}");
}

#[tokio::test]
async fn a_silent_address_is_reported_once_as_unreachable() {
    let alpha = Site::new("alpha", &["n1"]);
    let silent = socket();
    let tuning = Tuning {
        attempt_timeout: Duration::from_millis(50),
        ..eager()
    };
    let addr = silent.local_addr().unwrap();
    let mut n1 = Endpoint::bind(alpha.options("n1", vec![peer(2, addr)], tuning)).unwrap();
    let (_, error) = refused(&mut n1).await;
    let after = Duration::from_millis(50);
    assert_eq!(error.fault, Fault::Unreachable { after });
    // Each attempt starts with a connection id of its own, in clear (RFC 9000, section 17.2).
    silent.set_nonblocking(true).unwrap();
    let silent = tokio::net::UdpSocket::from_std(silent).unwrap();
    let mut ids = std::collections::HashSet::new();
    let mut packet = [0; 2000];
    while ids.len() < 4 {
        let len = tokio::time::timeout(PATIENCE, silent.recv(&mut packet))
            .await
            .expect("dialing goes on")
            .unwrap();
        let id_len = usize::from(packet[5]);
        ids.insert(packet[6..len.min(6 + id_len)].to_vec());
    }
    assert!(n1.events.try_recv().is_err(), "said more than once");
}

/// What `n1` says when a stranger dials it from the configured address of `n2`, together with
/// what the stranger got to hear.
async fn said_when_dialed_by(
    site: &Site,
    stranger: &Stranger<'_>,
) -> ((Option<u8>, transport::Refusal), quinn::ConnectionError) {
    let socket = socket();
    let from = socket.local_addr().unwrap();
    let quinn = stranger.endpoint(socket);
    let mut n1 = Endpoint::bind(site.options("n1", vec![peer(2, from)], eager())).unwrap();
    // This is about accepting.
    n1.set_wanted(2, false);
    let addr = n1.local_addr().unwrap();
    let heard = async {
        // The dialer's side of the handshake may be complete before it is refused.
        match quinn.connect(addr, "n1.alpha.ravelin").unwrap().await {
            Ok(conn) => conn.closed().await,
            Err(error) => error,
        }
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await.unwrap();
    (refused(&mut n1).await, heard)
}

#[tokio::test]
async fn a_dialer_of_another_cluster_is_refused() {
    let alpha = Site::new("alpha", &["n1"]);
    let beta = Site::new("beta", &["n2"]);
    let (said, _) = said_when_dialed_by(
        &alpha,
        &Stranger {
            cert: Some((&beta, "n2")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    let (peer, error) = said;
    assert_eq!((peer, error.peer.as_str()), (Some(2), "n2"));
    match error.fault {
        Fault::ForeignAuthority { issuer, cluster } => {
            assert!(issuer.contains("beta"), "{issuer}");
            assert_eq!(cluster, "alpha");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dialer_with_an_expired_certificate_is_refused() {
    let alpha = Site::new("alpha", &["n1"]);
    alpha.issue_with("n2", past());
    let (said, _) = said_when_dialed_by(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n2")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    let (_, error) = said;
    assert!(
        matches!(&error.fault, Fault::Expired { node, .. } if node == "n2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dialer_without_a_certificate_is_refused() {
    let alpha = Site::new("alpha", &["n1"]);
    let (said, _) = said_when_dialed_by(
        &alpha,
        &Stranger {
            cert: None,
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    assert_eq!(said.1.fault, Fault::NoCertificate);
}

#[tokio::test]
async fn a_dialer_that_is_no_configured_peer_hears_why() {
    let alpha = Site::new("alpha", &["n1", "n9"]);
    let (said, heard) = said_when_dialed_by(
        &alpha,
        &Stranger {
            cert: Some((&alpha, "n9")),
            requires: None,
            protocol: PROTOCOL,
        },
    )
    .await;
    let (peer, error) = said;
    assert_eq!((peer, error.peer.as_str()), (None, "n9"));
    let fault = Fault::UnknownNode {
        name: "n9".to_owned(),
        node: "n1".to_owned(),
    };
    assert_eq!(error.fault, fault);
    match heard {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), CloseCode::UnknownNode as u64);
            assert_eq!(close.reason, fault.to_string());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_versions_are_named_once_the_other_node_has_dialed() {
    let alpha = Site::new("alpha", &["n1", "n2"]);
    let socket = socket();
    let from = socket.local_addr().unwrap();
    let stranger = Stranger {
        cert: Some((&alpha, "n2")),
        requires: None,
        protocol: "ravelin/2",
    };
    let quinn = stranger.endpoint(socket);
    let attempts = count_attempts(&quinn);
    let mut n1 = dialer(&alpha, from);
    let addr = n1.local_addr().unwrap();
    let versions = |theirs: Option<&str>| Fault::OtherVersion {
        ours: "ravelin/1".to_owned(),
        theirs: theirs.map(str::to_owned),
    };
    assert_eq!(refused(&mut n1).await.1.fault, versions(None));
    quinn
        .connect(addr, "n1.alpha.ravelin")
        .unwrap()
        .await
        .unwrap_err();
    // Once for what was accepted, once for what is dialed: that reason has become more precise.
    for _ in 0..2 {
        let (peer, error) = refused(&mut n1).await;
        assert_eq!(peer, Some(2));
        assert_eq!(error.fault, versions(Some("ravelin/2")));
        assert!(
            error
                .to_string()
                .contains("it speaks ravelin/2, this node speaks ravelin/1"),
            "{error}"
        );
    }
    let so_far = attempts.load(Ordering::Relaxed);
    until(|| attempts.load(Ordering::Relaxed) >= so_far + 3).await;
    assert!(n1.events.try_recv().is_err());
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    let addr = b.local_addr().unwrap();
    let noise = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000 {
        let mut packet: Vec<u8> = (0..round % 1400 + 1)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (seed >> 33) as u8
            })
            .collect();
        // Random bytes; random behind an Initial's header (QUIC 1, 8 byte ids, 1200 bytes); random
        // behind a short header.
        match round % 3 {
            0 => {}
            1 => {
                packet.resize(1200, round as u8);
                packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                packet[14] = 8;
            }
            _ => packet[0] = 0x40,
        }
        // The kernel may drop what it has no room for; most arrive.
        let _ = noise.send_to(&packet, addr).await;
    }
    // The established connection is the same, and a new one comes about.
    a.send(2, 0, vec![1]).unwrap();
    match next(&mut b).await {
        Event::Frame { frame, .. } => assert_eq!(frame[..], [1]),
        other => panic!("{other:?}"),
    }
    let received = b.stats(1).unwrap().accepted.unwrap();
    assert!(received.packets_received > 0);
    a.close(2, "anew");
    for (node, other) in [(&mut a, 2), (&mut b, 1)] {
        assert!(matches!(next(node).await, Event::Disconnected { .. }));
        connected(node, other).await;
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off_with_the_reason() {
    let alpha = Site::new("alpha", &["n1", "n2"]);
    let socket = socket();
    let from = socket.local_addr().unwrap();
    let stranger = Stranger {
        cert: Some((&alpha, "n2")),
        requires: None,
        protocol: PROTOCOL,
    };
    let quinn = stranger.endpoint(socket);
    let mut n1 = Endpoint::bind(alpha.options("n1", vec![peer(2, from)], eager())).unwrap();
    n1.set_wanted(2, false);
    let addr = n1.local_addr().unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    // A frame that is cut short; a stream number twice.
    let streams: [&[&[u8]]; 2] = [&[&[1, 0, 9, 0, 0, 0, 7]], &[&[4, 0], &[4, 0]]];
    for broken in streams {
        let conn = quinn
            .connect(addr, "n1.alpha.ravelin")
            .unwrap()
            .await
            .unwrap();
        for bytes in broken {
            let (mut send, _) = conn.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            // Left open in the second case: only the number is wrong there.
            if bytes.len() > 2 {
                send.finish().unwrap();
            } else {
                said.lock().unwrap().push(send);
            }
        }
        let (peer, error) = refused(&mut n1).await;
        assert_eq!(peer, Some(2));
        let Fault::Protocol { detail } = &error.fault else {
            panic!("{error}");
        };
        match conn.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code.into_inner(), CloseCode::Protocol as u64);
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                assert!(reason.contains(detail), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let expected = if broken.len() == 1 {
            "stream 1 ended inside of a frame"
        } else {
            "stream 4 was opened twice"
        };
        assert_eq!(detail, expected);
    }
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let alpha = Site::new("alpha", &["n1", "n2"]);
    let socket = socket();
    let from = socket.local_addr().unwrap();
    let stranger = Stranger {
        cert: Some((&alpha, "n2")),
        requires: None,
        protocol: PROTOCOL,
    };
    let quinn = stranger.endpoint(socket);
    // One event at a time, so that most of what the older connection brings waits undelivered.
    let tuning = Tuning {
        events_max: 1,
        ..eager()
    };
    let mut n1 = Endpoint::bind(alpha.options("n1", vec![peer(2, from)], tuning)).unwrap();
    n1.set_wanted(2, false);
    let addr = n1.local_addr().unwrap();
    let mut conns = Vec::new();
    let mut streams = Vec::new();
    for generation in 1..=2u8 {
        let connecting = quinn.connect(addr, "n1.alpha.ravelin").unwrap();
        let conn = connecting.await.unwrap();
        let greeting = tokio::time::timeout(PATIENCE, conn.accept_uni()).await;
        let mut greeting = greeting.expect("a greeting").unwrap();
        assert_eq!(
            greeting.read_to_end(100).await.unwrap(),
            PROTOCOL.as_bytes()
        );
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        let mut bytes = vec![0, 0];
        for _ in 0..100 {
            bytes.extend_from_slice(&[1, 0, 0, 0, generation]);
        }
        send.write_all(&bytes).await.unwrap();
        if generation == 1 {
            // All its frames fit one packet: with the first, the others are there.
            match next(&mut n1).await {
                Event::Frame { frame, .. } => assert_eq!(frame[..], [1]),
                other => panic!("{other:?}"),
            }
        }
        streams.push(send);
        conns.push(conn);
    }
    match conns[0].closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), CloseCode::Superseded as u64);
        }
        other => panic!("{other:?}"),
    }
    let (mut old, mut new) = (0, 0);
    while new < 100 {
        match next(&mut n1).await {
            Event::Frame { frame, .. } if frame[..] == [1] => {
                assert_eq!(new, 0, "the older connection speaks after the newer");
                old += 1;
            }
            Event::Frame { .. } => new += 1,
            other => panic!("{other:?}"),
        }
    }
    // What was in the event queue, not what waited for it.
    assert!(old <= 2, "{old} frames of the older connection");
}

#[tokio::test]
async fn an_endpoint_says_what_is_wrong_with_its_options() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let bind = |peers: Vec<Peer>| Endpoint::bind(site.options("n1", peers, eager())).map(drop);

    let taken = socket();
    let mut options = site.options("n1", vec![], eager());
    options.local = taken.local_addr().unwrap();
    let error = Endpoint::bind(options).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Bind { local, .. } if *local == taken.local_addr().unwrap()));

    assert!(matches!(
        bind(vec![peer(1, at(1))]),
        Err(Error::PeerIsSelf { .. })
    ));
    for (what, second) in [
        (
            "name",
            Peer {
                name: "N2".to_owned(),
                ..peer(3, at(3))
            },
        ),
        (
            "id",
            Peer {
                id: 2,
                ..peer(3, at(3))
            },
        ),
        ("address", peer(3, at(2))),
    ] {
        match bind(vec![peer(2, at(2)), second]) {
            Err(Error::DuplicatePeer { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
    let mut options = site.options("n1", vec![], eager());
    options.identity = site.identity("n2");
    let error = Endpoint::bind(options).map(drop).unwrap_err();
    assert!(matches!(error, Error::WrongIdentity { .. }), "{error}");
    assert!(
        error.to_string().contains("ravelin pki issue n1"),
        "{error}"
    );
}

#[test]
fn an_endpoint_needs_a_runtime() {
    let site = Site::new("alpha", &["n1"]);
    let result = Endpoint::bind(site.options("n1", vec![], Tuning::default()));
    assert!(matches!(result, Err(Error::NoRuntime)));
}
