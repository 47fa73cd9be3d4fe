//! What cannot start says why.

use dpdk::{Eal, EalOptions, Error, register_thread};

#[test]
fn errors() {
    assert!(matches!(register_thread(), Err(Error::NotRunning)));

    // More than any machine has, so this holds with hugepages and without.
    let huge = EalOptions {
        memory_mb: Some(u32::MAX),
        ..EalOptions::default()
    };
    let error = Eal::init(&huge).expect_err("not so many hugepages");
    assert!(matches!(
        error,
        Error::NoHugepages {
            wanted_mb: 4_294_967_295,
            ..
        }
    ));
    let text = error.to_string();
    assert!(
        text.contains("vm.nr_hugepages=2147483648") && text.contains("hugepages.md"),
        "{text}"
    );

    // What was refused before DPDK started does not use up the one start. A device that does not
    // come up does.
    let vdevs = vec!["net_null0".to_owned(), "net_nonsense0,iface=x".to_owned()];
    let options = EalOptions {
        vdevs,
        ..EalOptions::without_hugepages(64)
    };
    let error = Eal::init(&options).expect_err("no such driver");
    let Error::Vdev { vdev, log } = &error else {
        panic!("another error: {error}")
    };
    assert_eq!(vdev, "net_nonsense0,iface=x");
    assert!(
        log.contains("net_nonsense0"),
        "DPDK's own words are repeated: {log}"
    );

    let error = Eal::init(&EalOptions::without_hugepages(64)).expect_err("a second start");
    assert!(matches!(error, Error::SecondInit));
}
