//! The null device receives without end and discards what is sent: counts, several queues, RSS set-up.

mod common;

use dpdk::{
    BURST_MAX, Burst, ChecksumState, EthPort, Mempool, PacketBuf, Port, PortConfig, RssReport,
};

#[test]
fn null() {
    let cpus = affinity();
    let eal = common::eal(&["net_null0,size=98"]);
    assert_eq!(
        affinity(),
        cpus,
        "starting DPDK leaves the caller's CPUs as they were"
    );
    let pools: Vec<Mempool> = (0..2)
        .map(|i| Mempool::new(&eal, &format!("null{i}"), 511, 32, None).expect("a pool"))
        .collect();
    let config = PortConfig {
        queues: 2,
        ..PortConfig::default()
    };
    let mut port = EthPort::configure(&eal, "net_null0", &config, &pools).expect("a port");
    assert!(port.info().expect("information").rss);
    let mut queues = port.start().expect("a started port");
    assert_eq!(
        queues.iter().map(|queue| queue.queue()).collect::<Vec<_>>(),
        [0, 1]
    );
    // It keeps a key and a table, and confirms them; it computes no hash.
    let expected = RssReport {
        hash_trusted: true,
        spread: true,
        reta_size: 128,
    };
    assert_eq!(port.rss(), &expected);

    queues[0].limit_rx_burst(5);
    let mut few = Burst::new();
    assert_eq!(queues[0].rx_burst(&mut few), 5);
    assert_eq!(queues[0].rx_burst(&mut few), 5, "it appends");
    drop(few);
    queues[0].limit_rx_burst(BURST_MAX);

    let mut moved = 0;
    for (queue, pool) in queues.iter_mut().zip(&pools) {
        for _ in 0..10 {
            let mut burst = Burst::new();
            assert_eq!(queue.rx_burst(&mut burst), BURST_MAX);
            assert_eq!(
                pool.in_use(),
                BURST_MAX as u32,
                "each queue has its own pool"
            );
            for buf in &burst {
                assert_eq!(buf.data().len(), 98);
                assert_eq!((buf.rss_hash(), buf.rx_port()), (None, port.id()));
                assert_eq!(buf.ip_checksum(), ChecksumState::Unknown);
                assert_eq!(buf.l4_checksum(), ChecksumState::Unknown);
            }
            // The last one is dropped, the others are sent.
            burst.pop();
            let sent = queue.tx_burst(&mut burst);
            assert_eq!((sent, burst.len()), (BURST_MAX - 1, 0));
            moved += sent as u64;
        }
        assert_eq!(pool.in_use(), 0);
    }
    let stats = port.stats().expect("counters");
    assert_eq!((stats.rx_packets, stats.tx_packets), (moved + 30, moved));
    assert_eq!(
        (stats.rx_missed, stats.rx_errors, stats.tx_errors),
        (0, 0, 0)
    );
    let extended = port.extended_stats().expect("extended counters");
    assert!(
        extended.contains(&("rx_good_packets".to_owned(), moved + 30)),
        "{extended:?}"
    );
    port.reset_stats().expect("a reset");
    assert_eq!(port.stats().expect("counters").rx_packets, 0);

    drop(queues);
    port.close().expect("no queue is out");
    drop(pools);
    eal.shut_down().expect("nothing is left");
}

/// The CPUs that this thread may run on, as the kernel lists them.
fn affinity() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("the thread's status");
    let line = status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list:"));
    line.expect("a list of CPUs").to_owned()
}
