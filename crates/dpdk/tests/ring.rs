//! A ring device loops what is sent back to reception: data, order, the contract of bursts, pools.

mod common;

use std::slice::from_ref;
use std::thread;

use common::{frame, frames, write_frame};
use dpdk::{
    AddressFilter, BURST_MAX, Burst, Eal, Error, EthPort, HEADROOM, Mempool, PacketBuf, Port,
    PortConfig, QueuePair, register_thread,
};

const POOL: u32 = 2047;

#[test]
fn ring() {
    let eal = common::eal(&["net_ring0", "net_ring1"]);
    assert_eq!(eal.ports(), ["net_ring0", "net_ring1"]);
    let pool = Mempool::new(&eal, "ring", POOL, 0, None).expect("a pool");
    refuses(&eal, &pool);

    let mut port = EthPort::configure(&eal, "net_ring0", &PortConfig::default(), from_ref(&pool))
        .expect("a configured port");
    assert!(matches!(
        EthPort::configure(&eal, "net_ring0", &PortConfig::default(), from_ref(&pool)),
        Err(Error::PortTaken { name }) if name == "net_ring0"
    ));
    assert_eq!(port.info().expect("information").driver, "net_ring");
    let mut queue = start(&mut port);
    assert!(queue.link_up(), "a started ring is up");
    assert_eq!(queue.mac(), port.mac().expect("an address"));

    data_and_order(&mut queue);
    a_full_device_leaves_the_rest(&mut queue);
    a_full_vector_receives_nothing(&mut queue);
    buffers_grow_and_shrink(&mut queue);
    an_empty_pool_recovers(&mut queue, &pool);
    assert_eq!(queue.multi_segment_drops(), 0);
    assert_eq!(pool.in_use(), 0, "everything was returned");

    let queue = another_thread(queue, &pool);
    stops_and_starts_again(&mut port, queue);
    drop(port);
    assert_eq!(eal.ports(), ["net_ring1"], "a closed ring is gone");
    a_pool_takes_what_was_said(&eal);
    ends(eal, pool);
}

/// EAL has 64 MB here: what is left takes a pool of 40, and not one of 70.
fn a_pool_takes_what_was_said(eal: &Eal) {
    let megabytes = |buffers| Mempool::bytes_without_hugepages(buffers, 2048) >> 20;
    assert_eq!((megabytes(10_000), megabytes(18_000)), (39, 70));
    drop(Mempool::new(eal, "fits", 10_000, 0, None).expect("a pool that fits"));
    let error = Mempool::new(eal, "does-not-fit", 18_000, 0, None).expect_err("too large");
    assert!(
        matches!(error, Error::Pool { megabytes: 71, .. }),
        "{error}"
    );
}

fn start(port: &mut EthPort) -> QueuePair {
    let mut queues = port.start().expect("a started port");
    assert_eq!(queues.len(), 1);
    queues.remove(0)
}

/// What does not fit is refused, and says what would.
fn refuses(eal: &Eal, pool: &Mempool) {
    let configure = |name: &str, config: PortConfig, pools: &[Mempool]| {
        EthPort::configure(eal, name, &config, pools).expect_err("a refusal")
    };
    let error = configure("net_ring7", PortConfig::default(), from_ref(pool)).to_string();
    assert_eq!(
        error,
        "there is no port `net_ring7`; there are: net_ring0, net_ring1"
    );
    let many = PortConfig {
        queues: 999,
        ..PortConfig::default()
    };
    let error = configure("net_ring0", many, from_ref(pool)).to_string();
    assert!(
        error.contains("999 queues do not work: driver net_ring takes 1 to"),
        "{error}"
    );
    let jumbo = PortConfig {
        mtu: 9000,
        ..PortConfig::default()
    };
    let error = configure("net_ring0", jumbo, from_ref(pool)).to_string();
    assert!(
        error.contains("needs buffers of 9026 bytes, pool `ring` has 2048"),
        "{error}"
    );
    let error = configure("net_ring0", PortConfig::default(), &[]).to_string();
    assert!(error.contains("0 pools for 1 queues"), "{error}");

    let pool = |name: &str, buffers, cache| {
        Mempool::new(eal, name, buffers, cache, None).expect_err("a refusal")
    };
    assert!(matches!(pool("", 10, 0), Error::PoolShape { .. }));
    assert!(matches!(
        pool(&"x".repeat(26), 10, 0),
        Error::PoolShape { .. }
    ));
    assert!(matches!(pool("a", 0, 0), Error::PoolShape { .. }));
    assert!(matches!(pool("a", 100, 67), Error::PoolShape { .. }));
    assert!(matches!(pool("a", 10_000, 513), Error::PoolShape { .. }));
    assert!(
        matches!(pool("ring", 10, 0), Error::Pool { .. }),
        "the name is taken"
    );
    let error = pool("too-large", 1 << 20, 0);
    assert!(
        matches!(
            &error,
            Error::Pool {
                megabytes: 4112,
                ..
            }
        ),
        "{error}"
    );
}

fn data_and_order(queue: &mut QueuePair) {
    let lengths = [14, 60, 64, 65, 512, 1514, 2048];
    let mut sent = Vec::new();
    let mut burst = Burst::new();
    for number in 0..BURST_MAX as u32 {
        let mut buf = queue.alloc().expect("a buffer");
        assert!(buf.data().is_empty(), "a fresh buffer is empty");
        assert_eq!(buf.rss_hash(), None);
        let len = lengths[number as usize % lengths.len()];
        write_frame(&mut buf, number, len);
        sent.push(frame(number, len));
        burst.push(buf);
    }
    assert_eq!(queue.tx_burst(&mut burst), BURST_MAX);
    assert!(burst.is_empty());
    // Appends behind what is there, as much as there is room for.
    let mut first = queue.alloc().expect("a buffer");
    write_frame(&mut first, 999, 60);
    burst.push(first);
    assert_eq!(queue.rx_burst(&mut burst), BURST_MAX - 1);
    assert_eq!(frames(&burst)[0], frame(999, 60));
    assert_eq!(frames(&burst)[1..], sent[..BURST_MAX - 1]);
    burst.clear();
    assert_eq!(queue.rx_burst(&mut burst), 1);
    assert_eq!(frames(&burst), sent[BURST_MAX - 1..]);
    queue.free_burst(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(queue.rx_burst(&mut burst), 0);
    assert_eq!(queue.tx_burst(&mut burst), 0);
    queue.free_burst(&mut burst);
}

/// The ring of 1024 takes 1023: from the burst that overflows it exactly the prefix goes.
fn a_full_device_leaves_the_rest(queue: &mut QueuePair) {
    let mut number = 0;
    let mut burst = Burst::new();
    let rest = loop {
        while !burst.is_full() {
            let mut buf = queue.alloc().expect("a buffer");
            write_frame(&mut buf, number, 60);
            burst.push(buf);
            number += 1;
        }
        let sent = queue.tx_burst(&mut burst);
        if sent < BURST_MAX {
            assert_eq!(burst.len(), BURST_MAX - sent);
            break frames(&burst);
        }
        assert!(number < 4096, "the ring never fills");
    };
    let taken = number - rest.len() as u32;
    let expected: Vec<_> = (taken..number).map(|number| frame(number, 60)).collect();
    assert!(!rest.is_empty());
    assert_eq!(rest, expected, "what stays is the tail, in order");
    assert_eq!(queue.pool().in_use(), number);
    drop(burst);
    assert_eq!(
        queue.pool().in_use(),
        taken,
        "what stayed was the caller's to free"
    );

    let mut received = Vec::new();
    let mut burst = Burst::new();
    while queue.rx_burst(&mut burst) > 0 {
        received.extend(frames(&burst));
        queue.free_burst(&mut burst);
    }
    let expected: Vec<_> = (0..taken).map(|number| frame(number, 60)).collect();
    assert_eq!(received, expected);
    assert_eq!(queue.pool().in_use(), 0);
}

fn a_full_vector_receives_nothing(queue: &mut QueuePair) {
    let mut one = Burst::new();
    assert!(queue.pool().alloc_burst(&mut one, 1));
    write_frame(&mut one[0], 7, 60);
    assert_eq!(queue.tx_burst(&mut one), 1);
    let mut full = Burst::new();
    assert!(queue.pool().alloc_burst(&mut full, BURST_MAX));
    assert!(!queue.pool().alloc_burst(&mut full, 1), "no room");
    assert_eq!(queue.rx_burst(&mut full), 0);
    full.clear();
    assert_eq!(queue.rx_burst(&mut full), 1);
    assert_eq!(frames(&full), [frame(7, 60)]);
}

fn buffers_grow_and_shrink(queue: &mut QueuePair) {
    let mut buf = queue.alloc().expect("a buffer");
    assert_eq!((buf.headroom(), buf.tailroom()), (HEADROOM, 2048));
    buf.set_len(2048).expect("the whole data room");
    assert_eq!(buf.set_len(2049).expect_err("too long").wanted, 2049);
    assert_eq!(buf.data().len(), 2048, "a refusal changes nothing");
    write_frame(&mut buf, 1, 100);
    buf.shrink_front(14);
    assert_eq!(buf.data(), &frame(1, 100)[14..]);
    buf.grow_front(18).expect("headroom");
    assert_eq!(buf.data().len(), 104);
    buf.data_mut()[..18].fill(0xab);
    assert_eq!(&buf.data()[18..], &frame(1, 100)[14..]);
    assert_eq!(
        buf.grow_front(HEADROOM).expect_err("too long").wanted,
        HEADROOM
    );
    buf.grow_front(HEADROOM - 4)
        .expect("exactly the headroom that is left");
    assert_eq!(buf.headroom(), 0);
    let mut burst = Burst::new();
    burst.push(buf);
    assert_eq!(queue.tx_burst(&mut burst), 1);
    assert_eq!(queue.rx_burst(&mut burst), 1);
    let data = burst[0].data();
    assert_eq!(data.len(), 104 + HEADROOM - 4);
    assert_eq!(&data[HEADROOM - 4..HEADROOM + 14], [0xab; 18]);
    assert_eq!(
        &data[HEADROOM + 14..],
        &frame(1, 100)[14..],
        "the device saw the same bytes"
    );
    let result =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| burst[0].shrink_front(999)));
    assert!(result.is_err(), "a frame cannot lose more than it has");
}

fn an_empty_pool_recovers(queue: &mut QueuePair, pool: &Mempool) {
    let mut held: Vec<_> = std::iter::from_fn(|| queue.alloc())
        .take(POOL as usize + 1)
        .collect();
    assert_eq!(held.len(), POOL as usize);
    assert_eq!(pool.in_use(), POOL);
    assert!(queue.alloc().is_none() && pool.alloc().is_none());
    let mut burst = Burst::new();
    assert!(!pool.alloc_burst(&mut burst, 1) && burst.is_empty());
    held.truncate(POOL as usize - 3);
    assert!(
        !pool.alloc_burst(&mut burst, 4) && burst.is_empty(),
        "all or none"
    );
    assert!(pool.alloc_burst(&mut burst, 3));
    assert_eq!((burst.len(), pool.in_use()), (3, POOL));
    drop(held);
    queue.free_burst(&mut burst);
    assert_eq!(pool.in_use(), 0);
}

/// A queue pair moves to a worker, and buffers cross threads.
fn another_thread(mut queue: QueuePair, pool: &Mempool) -> QueuePair {
    assert!(
        matches!(register_thread(), Err(Error::ThreadKnown)),
        "this one started EAL"
    );
    let mut from_here = pool.alloc().expect("a buffer");
    write_frame(&mut from_here, 42, 60);
    let worker = thread::spawn(move || {
        let registered = register_thread().expect("a registration");
        assert_ne!(registered.lcore(), 0, "the main thread's");
        assert!(
            matches!(register_thread(), Err(Error::ThreadKnown)),
            "once is enough"
        );
        let mut burst = Burst::new();
        burst.push(from_here);
        assert_eq!(queue.tx_burst(&mut burst), 1);
        assert_eq!(queue.rx_burst(&mut burst), 1);
        drop(registered);
        let again = register_thread().expect("a registration after the first ended");
        (queue, burst.remove(0), again.lcore())
    });
    let (queue, back, _) = worker.join().expect("the worker");
    assert_eq!(back.data(), frame(42, 60));
    drop(back);
    assert_eq!(pool.in_use(), 0);
    queue
}

fn stops_and_starts_again(port: &mut EthPort, queue: QueuePair) {
    assert!(matches!(
        port.stop(),
        Err(Error::QueuesOut { queues: 1, .. })
    ));
    assert!(matches!(
        port.start(),
        Err(Error::QueuesOut { queues: 1, .. })
    ));
    drop(queue);
    port.stop().expect("nobody polls it");
    assert!(!port.link().expect("a link").up, "stopped is down");
    let queue = start(port);
    assert!(queue.link_up());
    assert_eq!(
        port.address_filter(),
        AddressFilter::Exact,
        "nothing was asked for"
    );
    assert!(!port.rss().hash_trusted, "a ring hashes nothing");
}

/// What still lives keeps what it stands on, and shutting down says so.
fn ends(eal: Eal, pool: Mempool) {
    let held = pool.alloc().expect("a buffer");
    drop(pool);
    assert!(
        held.data().is_empty(),
        "a buffer outlives its pool's handles"
    );
    let other = Mempool::new(&eal, "other", 63, 0, None).expect("a second pool");
    drop(held);
    // The first pool is freed now that its buffer is back, so that its name is free.
    let reborn = Mempool::new(&eal, "ring", 63, 0, None).expect("the name of a pool that is gone");
    drop(reborn);
    drop(other);
    eal.shut_down().expect("nothing is left");
    assert!(matches!(register_thread(), Err(Error::NotRunning)));
    let again = Eal::init(&dpdk::EalOptions::without_hugepages(64));
    assert!(matches!(again, Err(Error::SecondInit)), "once per process");
}
