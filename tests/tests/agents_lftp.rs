//! A client that opens many connections at a time, lftp, while the node that handles most of them dies: every file
//! arrives whole, and no connection breaks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::ftp::{SERVER, Server, serve, settings, total, wait_for_agents};
use e2e::{cluster, wait_for, wait_whole};
use lab::Cluster;
use lab::process::{Process, Spawn};
use lab::program::run;

const FILES: usize = 200;
const BIG_BYTES: usize = 100_000_000;
/// Bytes per second that lftp takes of the small files and of the big one: a few seconds for each, so that there is a middle.
const RATES: [u32; 2] = [800_000, 40_000_000];
/// lftp's connections at a time.
const PARALLEL: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_mirror_and_a_big_file_arrive_whole_though_the_busiest_node_dies() {
    let mut cluster = cluster("elftp", &settings(3, "bypass"));
    let server = serve(&cluster);
    let (many, big) = fill(&server);
    wait_for_agents(&cluster, 1);
    let to = cluster.topology().folder("fetched").expect("a folder");

    let copies = to.join("many");
    let script = format!("mirror --parallel={PARALLEL} many {}", copies.display());
    let mut lftp = lftp(&cluster, "mirror", RATES[0], &script);
    wait_for("a fifth of the files", || match count(&copies) {
        n if n >= FILES / 5 => Ok(()),
        n => Err(format!("{n} files")),
    });
    let victim = busiest(&cluster);
    cluster.kill(victim).expect("it ran");
    let begun = count(&copies);
    assert!(begun < FILES, "it was over before the node died");
    ends_well(&mut lftp);
    for n in 0..FILES {
        let name = format!("{n:03}");
        let read = |folder: &Path| std::fs::read(folder.join(&name)).expect("it is there");
        assert!(read(&many) == read(&copies), "{name} is another file");
    }
    assert!(total(&cluster, "flow_expected") > 0);

    wait_whole(&mut cluster);
    cluster.restart(victim).expect("it starts again");
    wait_whole(&mut cluster);
    wait_for_agents(&cluster, 1);
    let copy = to.join("big");
    let mut lftp = self::lftp(
        &cluster,
        "big",
        RATES[1],
        &format!("get big -o {}", copy.display()),
    );
    wait_for("a tenth of the big file", || match len(&copy) {
        n if n >= BIG_BYTES as u64 / 10 => Ok(()),
        n => Err(format!("{n} bytes")),
    });
    let victim = busiest(&cluster);
    cluster.kill(victim).expect("it ran");
    assert!(
        len(&copy) < BIG_BYTES as u64,
        "it was over before the node died"
    );
    ends_well(&mut lftp);
    assert_eq!(sha256(&big), sha256(&copy));
}

/// Makes the files: small ones of different lengths, and a big one; no two parts of them are equal.
fn fill(server: &Server) -> (PathBuf, PathBuf) {
    let mut random = 0x5eed_u64;
    let mut bytes = |len: usize| -> Vec<u8> {
        let mut next = || {
            // xorshift64 (Marsaglia, 2003).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()
        };
        (0..len.div_ceil(8))
            .flat_map(|_| next())
            .take(len)
            .collect()
    };
    let (many, big) = (server.files.join("many"), server.files.join("big"));
    std::fs::create_dir_all(&many).expect("made");
    for n in 0..FILES {
        std::fs::write(many.join(format!("{n:03}")), bytes(1 + 97 * n)).expect("written");
    }
    std::fs::write(&big, bytes(BIG_BYTES)).expect("written");
    (many, big)
}

/// Starts lftp in the client's namespace with this command, at so many bytes per second.
fn lftp(cluster: &Cluster, name: &str, rate: u32, command: &str) -> Process {
    let logs = cluster.topology().folder("logs").expect("a folder");
    let log = logs.join(format!("lftp-{name}.log"));
    let script = format!(
        "debug -t -o {} 5; set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 20; set ftp:passive-mode yes; \
         set xfer:log no; set net:limit-total-rate {rate}; open ftp://{SERVER}; {command}",
        log.display()
    );
    Spawn::new(name, "lftp")
        .args(["--norc", "-c", &script])
        .inside(&cluster.topology().client())
        .start(cluster.topology().state(), &log)
        .expect("lftp starts")
}

#[track_caller]
fn ends_well(lftp: &mut Process) {
    let status = lftp.wait_timeout(PATIENCE).expect("waited for");
    let log = std::fs::read_to_string(lftp.log()).unwrap_or_default();
    let status = status.unwrap_or_else(|| panic!("it stands still: {log}"));
    assert!(status.success(), "{status}: {log}");
    // So lftp begins what it tells of errors; it would try again after some of them.
    assert!(!log.contains("**** "), "{log}");
}

/// The node that owns most of the control connections.
fn busiest(cluster: &Cluster) -> usize {
    let owned = |index: &usize| {
        let flows = cluster.flows(*index, &["dport=21", "role=owner"]);
        flows.expect("it answers").len()
    };
    let busiest = cluster.living().into_iter().max_by_key(owned);
    let busiest = busiest.expect("nodes live");
    assert!(owned(&busiest) > 0, "nobody owns a control connection");
    busiest
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn len(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

fn sha256(file: &Path) -> String {
    let sum = run(None, "sha256sum", &[&file.display().to_string()], "");
    let sum = sum.expect("sha256sum runs");
    sum.split_whitespace().next().expect("a sum").to_owned()
}
