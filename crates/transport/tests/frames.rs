//! Frames, answers and datagrams between endpoints on loopback.

mod common;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use common::{PATIENCE, Site, connected, next, refused, until};
use transport::{
    CloseCode, DatagramError, DisconnectReason, Endpoint, Event, Fault, SendError, Tuning,
};

/// A frame that says where it belongs.
fn numbered(stream: u16, number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![(stream as u8).wrapping_add(number as u8); len.max(6)];
    frame[..2].copy_from_slice(&stream.to_le_bytes());
    frame[2..6].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Takes the next event, which must be a frame.
async fn frame(endpoint: &mut Endpoint) -> (u16, Bytes, transport::ReplyHandle) {
    match next(endpoint).await {
        Event::Frame {
            stream,
            frame,
            reply,
            ..
        } => (stream, frame, reply),
        other => panic!("expected Frame, got {other:?}"),
    }
}

async fn answer(endpoint: &mut Endpoint) -> (u16, Bytes) {
    match next(endpoint).await {
        Event::Answer { stream, frame, .. } => (stream, frame),
        other => panic!("expected Answer, got {other:?}"),
    }
}

async fn disconnected(endpoint: &mut Endpoint) -> DisconnectReason {
    match next(endpoint).await {
        Event::Disconnected { why, .. } => why,
        other => panic!("expected Disconnected, got {other:?}"),
    }
}

#[tokio::test]
async fn frames_and_answers_keep_their_order_on_each_of_many_streams() {
    const STREAMS: u16 = 300;
    const FRAMES: u32 = 20;
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    for number in 0..FRAMES {
        for stream in 0..STREAMS {
            // Lengths on both sides of what is copied and of what fits a packet.
            let len = [6, 100, 1500, 5000][(stream as usize + number as usize) % 4];
            a.send(2, stream, numbered(stream, number, len)).unwrap();
        }
    }
    let mut seen = HashMap::new();
    for _ in 0..u32::from(STREAMS) * FRAMES {
        let (stream, got, reply) = frame(&mut b).await;
        let number = seen.entry(stream).or_insert(0);
        assert_eq!(got, numbered(stream, *number, got.len()));
        *number += 1;
        assert_eq!((reply.peer(), reply.stream()), (1, stream));
        reply.send(got).unwrap();
    }
    let mut seen = HashMap::new();
    for _ in 0..u32::from(STREAMS) * FRAMES {
        let (stream, got) = answer(&mut a).await;
        let number = seen.entry(stream).or_insert(0);
        assert_eq!(got, numbered(stream, *number, got.len()));
        *number += 1;
    }
    assert_eq!(seen.len(), usize::from(STREAMS));
}

#[tokio::test]
async fn three_nodes_reach_each_other_in_both_directions() {
    let site = Site::new("alpha", &["n1", "n2", "n3"]);
    let mut nodes = site.endpoints(&[Tuning::default(), Tuning::default(), Tuning::default()]);
    for (at, node) in nodes.iter_mut().enumerate() {
        let mut up = HashSet::new();
        while up.len() < 2 {
            match next(node).await {
                Event::Connected { peer } => assert!(up.insert(peer)),
                other => panic!("n{}: {other:?}", at + 1),
            }
        }
    }
    for from in 1..=3u8 {
        for to in (1..=3u8).filter(|to| *to != from) {
            nodes[usize::from(from) - 1]
                .send(to, 7, vec![from, to])
                .unwrap();
        }
    }
    for (at, node) in nodes.iter_mut().enumerate() {
        let me = at as u8 + 1;
        let mut from = HashSet::new();
        for _ in 0..2 {
            match next(node).await {
                Event::Frame { peer, frame, .. } => {
                    assert_eq!(frame[..], [peer, me]);
                    from.insert(peer);
                }
                other => panic!("n{me}: {other:?}"),
            }
        }
        assert_eq!(from.len(), 2);
    }
    assert_eq!(nodes[0].send(9, 0, vec![]), Err(SendError::UnknownPeer(9)));
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_one_is_not_taken() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    let max = Tuning::default().frame_bytes_max;
    let big: Vec<u8> = (0..max).map(|i| ((i * 31) >> 3) as u8).collect();
    assert_eq!(
        a.send(2, 0, vec![0; max + 1]),
        Err(SendError::TooLarge { len: max + 1, max })
    );
    a.send(2, 0, big.clone()).unwrap();
    a.send(2, 0, Bytes::new()).unwrap();
    a.send(2, 0, vec![1]).unwrap();
    assert!(frame(&mut b).await.1 == big);
    assert!(frame(&mut b).await.1.is_empty());
    assert_eq!(frame(&mut b).await.1[..], [1]);
}

/// Windows and queues that fill soon.
fn narrow() -> Tuning {
    Tuning {
        frame_bytes_max: 64 << 10,
        queue_bytes_max: 256 << 10,
        events_max: 4,
        events_bytes_max: 128 << 10,
        stream_window: 64 << 10,
        connection_window: 128 << 10,
        send_window: 128 << 10,
        ..Tuning::default()
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_take_events_fills_the_senders_queue_and_nothing_is_lost() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (a, mut b) = site.pair(narrow(), narrow()).await;
    let mut sent = 0;
    // All that lies between the two: queue, windows, the frame reader and events.
    let bound = (256 + 128 + 128 + 128) / 8;
    let fill = async {
        let mut idle = 0;
        // Full for good: not only until the writer runs next.
        while idle < 1000 {
            match a.send(2, 5, numbered(5, sent, 8 << 10)) {
                Ok(()) => (sent, idle) = (sent + 1, 0),
                Err(SendError::Full { queued, max }) => {
                    assert_eq!((a.queued(2, 5), max), (queued, 256 << 10));
                    idle += 1;
                    tokio::task::yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
            assert!(sent < bound, "{sent} frames vanished into a bounded path");
        }
    };
    tokio::time::timeout(PATIENCE, fill).await.unwrap();
    assert!(sent >= 32, "the queue alone holds 31, not {sent}");

    // Another stream has a queue of its own.
    a.send(2, 6, vec![1]).unwrap();
    assert_eq!(a.queued(2, 6), 5);

    let mut taken = 0;
    let mut other = 0;
    while taken < sent || other < 1 {
        let (stream, got, _) = frame(&mut b).await;
        if stream == 6 {
            other += 1;
            continue;
        }
        assert_eq!(got, numbered(5, taken, 8 << 10));
        taken += 1;
    }
    assert_eq!(a.queued(2, 5), 0);
    a.send(2, 5, numbered(5, sent, 8 << 10)).unwrap();
    assert_eq!(frame(&mut b).await.1, numbered(5, sent, 8 << 10));
}

#[tokio::test]
async fn answers_that_are_not_taken_fill_the_reply_queue() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, mut b) = site.pair(narrow(), narrow()).await;
    a.send(2, 0, vec![1]).unwrap();
    let (_, _, reply) = frame(&mut b).await;
    let mut sent = 0;
    let mut idle = 0;
    while idle < 1000 {
        match reply.clone().send(numbered(0, sent, 8 << 10)) {
            Ok(()) => (sent, idle) = (sent + 1, 0),
            Err(SendError::Full { queued, .. }) => {
                assert_eq!(queued, reply.queued());
                idle += 1;
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(sent < 80);
    }
    for number in 0..sent {
        assert_eq!(answer(&mut a).await.1, numbered(0, number, 8 << 10));
    }
    reply.send(vec![2]).unwrap();
    assert_eq!(answer(&mut a).await.1[..], [2]);

    // Once the connection is gone the handle says so.
    a.close(2, "done");
    disconnected(&mut a).await;
    until(|| reply.send(vec![3]) == Err(SendError::NotConnected)).await;
}

#[tokio::test]
async fn datagrams_overtake_frames_and_are_dropped_when_not_taken() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let tuning = Tuning {
        datagrams_max: 3,
        ..narrow()
    };
    let (a, mut b) = site.pair(tuning.clone(), tuning).await;
    // More than the event queue takes, less than the windows do.
    for number in 0..10 {
        a.send(2, 0, numbered(0, number, 8 << 10)).unwrap();
    }
    // Until the frames have stopped at the full event queue.
    until(|| a.queued(2, 0) == 0).await;
    for number in 0..10 {
        a.send_datagram(2, &[number; 100]).unwrap();
    }
    until(|| b.datagrams_dropped() == 7).await;
    for expected in 0..3u8 {
        match b.events.try_recv() {
            Ok(Event::Datagram { peer: 1, bytes }) => assert_eq!(bytes[..], [expected; 100]),
            other => panic!("expected Datagram, got {other:?}"),
        }
    }
    for number in 0..10 {
        assert_eq!(frame(&mut b).await.1, numbered(0, number, 8 << 10));
    }
    assert_eq!(b.datagrams_dropped(), 7);
    assert_eq!(b.stats(1).unwrap().accepted.unwrap().datagrams_received, 10);

    assert!(matches!(
        a.send_datagram(2, &[0; 9000]),
        Err(DatagramError::Size { len: 9000, max }) if (1000..9000).contains(&max)
    ));
    assert!(matches!(
        a.send_datagram(2, &[]),
        Err(DatagramError::Size { len: 0, .. })
    ));
    assert_eq!(a.send_datagram(1, &[0]), Err(DatagramError::UnknownPeer(1)));
}

#[tokio::test]
async fn a_frame_above_the_receivers_limit_closes_the_connection_with_the_reason() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let small = Tuning {
        frame_bytes_max: 1000,
        ..Tuning::default()
    };
    let (mut a, mut b) = site.pair(Tuning::default(), small).await;
    a.send(2, 3, vec![0; 1000]).unwrap();
    a.send(2, 3, vec![0; 1001]).unwrap();
    assert_eq!(frame(&mut b).await.1.len(), 1000);
    let (peer, error) = refused(&mut b).await;
    assert_eq!(peer, Some(1));
    let fault = Fault::FrameTooLarge {
        stream: 3,
        len: 1001,
        max: 1000,
    };
    assert_eq!(error.fault, fault);
    match disconnected(&mut a).await {
        DisconnectReason::ClosedByPeer { code, reason } => {
            assert_eq!(code, CloseCode::FrameTooLarge as u64);
            assert_eq!(reason, fault.to_string());
            assert!(reason.contains("frame_bytes_max"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    connected(&mut a, 2).await;
    a.send(2, 3, vec![7]).unwrap();
    assert_eq!(frame(&mut b).await.1[..], [7]);
}

#[tokio::test]
async fn nothing_is_sent_before_connected_is_taken_nor_after_the_connection_is_gone() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let mut nodes = site.endpoints(&[Tuning::default(), Tuning::default()]);
    let (mut b, mut a) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    connected(&mut b, 1).await;
    until(|| a.rtt(2).is_some()).await;
    assert_eq!(a.send(2, 0, vec![1]), Err(SendError::NotConnected));
    assert_eq!(a.send_datagram(2, &[1]), Err(DatagramError::NotConnected));
    connected(&mut a, 2).await;
    a.send(2, 0, vec![2]).unwrap();
    assert_eq!(frame(&mut b).await.1[..], [2]);

    a.close(2, "the lease ran out");
    let here = DisconnectReason::ClosedHere {
        reason: "the lease ran out".to_owned(),
    };
    assert_eq!(disconnected(&mut a).await, here);
    assert_eq!(a.send(2, 0, vec![3]), Err(SendError::NotConnected));
    // Both directions are closed, and the other side hears why.
    match disconnected(&mut b).await {
        DisconnectReason::ClosedByPeer { code, reason } => assert_eq!(
            (code, reason.as_str()),
            (CloseCode::Asked as u64, "the lease ran out")
        ),
        other => panic!("{other:?}"),
    }
    // Both are wanted still.
    connected(&mut a, 2).await;
    connected(&mut b, 1).await;
}

#[tokio::test]
async fn a_peer_that_is_not_wanted_is_not_dialed() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    a.set_wanted(2, false);
    assert!(matches!(
        disconnected(&mut a).await,
        DisconnectReason::ClosedHere { .. }
    ));
    assert!(matches!(
        disconnected(&mut b).await,
        DisconnectReason::ClosedByPeer { code, .. } if code == CloseCode::Unwanted as u64
    ));
    // The peer comes back; that this wakes us must not make us dial. A frame and its answer
    // later we still have not.
    connected(&mut b, 1).await;
    b.send(1, 0, vec![1]).unwrap();
    let (_, _, reply) = frame(&mut a).await;
    a.redial_now(2);
    reply.send(vec![2]).unwrap();
    assert_eq!(answer(&mut b).await.1[..], [2]);
    assert_eq!(a.stats(2).unwrap().dialed, None);
    assert!(a.events.try_recv().is_err());
    a.set_wanted(2, true);
    connected(&mut a, 2).await;
}

#[tokio::test]
async fn a_shutdown_delivers_what_is_queued() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (mut a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    b.send(1, 9, vec![9]).unwrap();
    let (_, _, reply) = frame(&mut a).await;
    let receive = async {
        let (mut numbers, mut answered, mut closed) = (0, false, None);
        while closed.is_none() || numbers < 64 {
            match next(&mut b).await {
                Event::Frame { frame, .. } => {
                    assert_eq!(frame, numbered(1, numbers, 64 << 10));
                    numbers += 1;
                }
                Event::Answer { frame, .. } => answered = frame[..] == [10],
                Event::Disconnected { why, .. } => closed = Some(why),
                other => panic!("{other:?}"),
            }
        }
        (numbers, answered, closed.unwrap())
    };
    for number in 0..64 {
        a.send(2, 1, numbered(1, number, 64 << 10)).unwrap();
    }
    reply.send(vec![10]).unwrap();
    let (result, (numbers, answered, why)) = tokio::join!(a.shutdown(PATIENCE), receive);
    assert_eq!(result, Ok(()));
    assert_eq!((numbers, answered), (64, true));
    assert!(matches!(
        why,
        DisconnectReason::ClosedByPeer { code, .. } if code == CloseCode::Shutdown as u64
    ));
}

#[tokio::test]
async fn a_shutdown_towards_a_stuck_peer_ends_and_says_what_is_left() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (a, b) = site.pair(narrow(), narrow()).await;
    for number in 0..30 {
        a.send(2, 1, numbered(1, number, 8 << 10)).unwrap();
    }
    // Nobody takes the events of `b`.
    let mut queued = 0;
    let mut unchanged = 0;
    while unchanged < 1000 {
        tokio::task::yield_now().await;
        unchanged = if a.queued(2, 1) == queued {
            unchanged + 1
        } else {
            0
        };
        queued = a.queued(2, 1);
    }
    a.send(2, 1, vec![0; 50_000]).unwrap();
    let began = std::time::Instant::now();
    let left = a.shutdown(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(left.streams, 1);
    assert!(left.bytes >= 50_000, "{left}");
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(b);
}

#[tokio::test]
async fn the_figures_of_a_connection_move() {
    let site = Site::new("alpha", &["n1", "n2"]);
    let (a, mut b) = site.pair(Tuning::default(), Tuning::default()).await;
    let before = a.stats(2).unwrap().dialed.unwrap();
    a.send(2, 0, vec![0; 100_000]).unwrap();
    frame(&mut b).await;
    let after = a.stats(2).unwrap().dialed.unwrap();
    assert!(after.bytes_sent >= before.bytes_sent + 100_000);
    assert!(after.packets_sent > before.packets_sent);
    assert!(after.bytes_received > 0 && after.cwnd > 0 && after.mtu >= 1200);
    let received = b.stats(1).unwrap().accepted.unwrap();
    assert!(received.bytes_received >= 100_000);
    let rtt = a.rtt(2).unwrap();
    assert!(
        rtt > Duration::ZERO && rtt < Duration::from_secs(1),
        "{rtt:?}"
    );
    assert_eq!(a.rtt(3), None);
    assert_eq!(a.stats(3), None);
}
