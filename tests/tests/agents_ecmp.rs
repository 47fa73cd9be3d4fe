//! The FTP agent where routers choose the nodes: what client and server say passes through different ones, and
//! each node's agent hears only one of them.

use e2e::ftp::{Control, MODES, counter, fetch, serve, settings, total, wait_for_agents};
use e2e::{cluster, wait_whole};
use lab::Cluster;
use lab::node_config::Settings;
use lab::routers::Distribution;

#[test]
fn each_direction_through_another_node() {
    let settings = Settings {
        distribution: Distribution::Ecmp,
        ..settings(3, "bypass")
    };
    let mut cluster = cluster("eftpecmp", &settings);
    let paths = |cluster: &Cluster, outside| {
        let set = cluster.topology().set_paths(&[1], &[outside]);
        set.expect("the routers take it");
    };
    paths(&cluster, 2);
    let server = serve(&cluster);
    wait_for_agents(&cluster, 1);
    for (url, args) in MODES {
        fetch(&cluster, &server, url, args);
    }
    let heard = |cluster: &Cluster, n| counter(cluster, n, "agents_packets");
    let (first, second) = (heard(&cluster, 1), heard(&cluster, 2));
    assert!(first > 0 && second > 0, "each hears one side");
    assert_eq!(heard(&cluster, 3), 0, "nothing passes there");
    assert_eq!(total(&cluster, "agents_malformed"), 0);

    // The node that heard the reply dies; what it heard is known to the one that comes in its place, and what is
    // said next is heard there.
    let mut control = Control::login(&cluster);
    let port = control.passive();
    cluster.kill(2).expect("it ran");
    paths(&cluster, 3);
    control.retrieve(&cluster, &server, port);
    wait_whole(&mut cluster);
    let port = control.passive();
    control.retrieve(&cluster, &server, port);
    assert!(heard(&cluster, 3) > 0);
}
