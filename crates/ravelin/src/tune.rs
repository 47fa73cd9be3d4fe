//! `ravelin tune`: proposes `[cores]`, `[eal]` and `[flows]` for the machine that it runs on.

mod machine;
mod plan;

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::args::TuneArgs;
use crate::error::Error;
use crate::output::Output;

pub(crate) use plan::Impossible;

use machine::Machine;
use plan::{Plan, Wish};

pub(crate) fn run(args: &TuneArgs, output: &mut Output) -> Result<(), Error> {
    let mut machine = Machine::read(Path::new("/"));
    // What this process may use, for instance in a container.
    if let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) {
        machine.cpus.retain(|cpu| set.is_set(cpu.id) == Ok(true));
    }
    let wish = Wish {
        workers: args.workers,
        flows: args.flows,
    };
    let plan = Plan::of(&machine, wish)?;
    let toml = toml(&machine, &plan);
    if output.json {
        output.json(&json!({
            "machine": machine,
            "plan": plan,
            "toml": toml,
        }))?;
        return Ok(());
    }
    output.line(toml.trim_end())?;
    Ok(())
}

/// The sections, each choice with its reason.
fn toml(machine: &Machine, plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("a text takes all");
        text.push('\n');
    };
    line(format_args!(
        "# Proposed by `ravelin tune` for this machine: {}.",
        machine.words()
    ));
    for nic in &machine.nics {
        line(format_args!("# Network card {}", nic.words()));
    }
    if machine.nics.is_empty() {
        line(format_args!(
            "# No network card on PCI: sizes are for two interfaces."
        ));
    }
    for warning in &plan.warnings {
        line(format_args!("# WARNING: {warning}"));
    }
    line(format_args!("\n[cores]"));
    for worker in &plan.workers {
        line(format_args!(
            "# Worker on cpu {}: {}.",
            worker.cpu, worker.why
        ));
    }
    let cpus: Vec<String> = plan.workers.iter().map(|w| w.cpu.to_string()).collect();
    line(format_args!("worker = [{}]", cpus.join(", ")));
    line(format_args!("# {}.", plan.sync.why));
    line(format_args!("sync = {}", plan.sync.cpu));
    line(format_args!("# {}.", plan.membership.why));
    line(format_args!("membership = {}", plan.membership.cpu));
    line(format_args!("# {}.", plan.idle_why));
    line(format_args!("idle = \"{}\"", plan.idle));
    if plan.shared {
        line(format_args!(
            "# Threads share a cpu, see above.\nshared = true"
        ));
    }
    line(format_args!("\n[eal]\n# {}.", plan.hugepages_why));
    line(format_args!("hugepages = {}", plan.hugepages));
    line(format_args!("# {}.", plan.mbufs_why));
    line(format_args!("mbufs = {}", plan.mbufs));
    line(format_args!("# {}.", plan.memory_why));
    line(format_args!("memory_mb = {}", plan.memory_mb));
    line(format_args!("\n[flows]\n# {}.", plan.capacity_why));
    line(format_args!("capacity = {}", plan.capacity));
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use config::{Config, Idle};
    use tempfile::TempDir;

    use super::*;

    /// A made-up machine: files below a folder that stands for `/`.
    struct Made(TempDir);

    impl Made {
        /// Cpus on so many NUMA nodes, with so many threads a core: cpu n and n + cores are of one core.
        fn new(nodes: usize, cores: usize, threads: usize, memory_mb: u64) -> Self {
            let made = Self(TempDir::new().expect("a folder"));
            let all = cores * threads;
            made.put("sys/devices/system/cpu/online", &format!("0-{}", all - 1));
            made.put("sys/devices/system/cpu/isolated", "");
            let mut of_node = vec![vec![]; nodes];
            for cpu in 0..all {
                let core = cpu % cores;
                of_node[core * nodes / cores].push(cpu.to_string());
                let siblings: Vec<_> = (0..threads)
                    .map(|t| (core + t * cores).to_string())
                    .collect();
                made.put(
                    &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                    &siblings.join(","),
                );
            }
            for (node, cpus) in of_node.iter().enumerate() {
                made.put(
                    &format!("sys/devices/system/node/node{node}/cpulist"),
                    &cpus.join(","),
                );
            }
            let kb = memory_mb * 1024;
            made.put(
                "proc/meminfo",
                &format!("MemTotal: {kb} kB\nMemAvailable: {kb} kB\n"),
            );
            made
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, format!("{text}\n")).expect("written");
        }

        fn hugepages(&self, node: usize, free: u64) {
            let folder = format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
            self.put(&format!("{folder}/nr_hugepages"), &free.to_string());
            self.put(&format!("{folder}/free_hugepages"), &free.to_string());
        }

        fn nic(&self, address: &str, node: i32, queues: usize) {
            let folder = format!("sys/bus/pci/devices/{address}");
            self.put(&format!("{folder}/class"), "0x020000");
            self.put(&format!("{folder}/numa_node"), &node.to_string());
            for queue in 0..queues {
                self.put(
                    &format!("{folder}/net/ens1/queues/rx-{queue}/rps_cpus"),
                    "0",
                );
            }
        }

        fn machine(&self) -> Machine {
            Machine::read(self.0.path())
        }

        fn plan(&self, workers: Option<usize>, flows: u32) -> Result<Plan, Impossible> {
            Plan::of(&self.machine(), Wish { workers, flows })
        }

        /// The proposal as the daemon reads it, in a cluster of one, with its text.
        fn proposed(&self, plan: &Plan) -> (Config, String) {
            let text = toml(&self.machine(), plan);
            let whole = format!(
                r#"{text}
                [node]
                name = "n1"
                [cluster]
                name = "c"
                [[cluster.member]]
                name = "n1"
                id = 1
                sync = "10.99.0.1:7400"
                membership = "10.99.0.1:7401"
                [pki]
                ca = "ca"
                cert = "cert"
                key = "key"
                [[interface]]
                name = "inside"
                device = "0000:01:00.0"
                zone = "inside"
                addresses = ["10.1.0.1/24"]
                [[interface]]
                name = "outside"
                device = "0000:01:00.1"
                zone = "outside"
                addresses = ["10.2.0.1/24"]
                "#
            );
            let parse = |text: &str| {
                let config = Config::parse(text, "n1.toml", "");
                config.unwrap_or_else(|error| panic!("{error}\n{text}"))
            };
            let config = parse(&whole);
            let derived = parse(&whole.replacen("\nmbufs = ", "\n# ", 1));
            assert_eq!(
                config.eal.mbufs, derived.eal.mbufs,
                "as the configuration derives it"
            );
            (config, text)
        }
    }

    fn cpus(plan: &Plan) -> Vec<usize> {
        plan.workers.iter().map(|worker| worker.cpu).collect()
    }

    #[test]
    fn workers_go_to_the_node_of_the_cards_one_to_a_core() {
        // Two sockets of 6 cores with two threads each; both cards are on the second.
        let made = Made::new(2, 12, 2, 64_000);
        made.nic("0000:81:00.0", 1, 16);
        made.nic("0000:81:00.1", 1, 16);
        made.put("sys/bus/pci/devices/0000:00:1f.2/class", "0x010601");
        made.hugepages(0, 0);
        made.hugepages(1, 4_000);
        let plan = made.plan(None, 1_000_000).expect("there is room");
        // Cores 6 to 11 are on the node; the first thread of each; the sync core has the last.
        assert_eq!(cpus(&plan), [6, 7, 8, 9, 10]);
        assert_eq!((plan.sync.cpu, plan.membership.cpu), (11, 0));
        assert_eq!(plan.warnings, [""; 0]);
        let (config, text) = made.proposed(&plan);
        assert_eq!(config.cores.idle, Idle::Spin);
        assert!(config.eal.hugepages && !config.cores.shared);
        // 5 workers x (2 cards x 2048 + 4096 + 64), rounded up to 1024.
        assert_eq!(config.eal.mbufs, 41 * 1024);
        assert_eq!(config.flows.capacity, 1_000_000);
        for word in ["0000:81:00.0", "NUMA node 1", "16 queues"] {
            assert!(text.contains(word), "{word}\n{text}");
        }
        assert!(!text.contains("00:1f.2"), "a disk is no network card");
    }

    #[test]
    fn isolated_cores_come_first_and_the_queues_of_a_card_bound_the_workers() {
        let made = Made::new(1, 8, 1, 16_000);
        made.put("sys/devices/system/cpu/isolated", "5-7");
        made.nic("0000:01:00.0", -1, 2);
        made.hugepages(0, 4_000);
        let plan = made.plan(None, 100_000).expect("there is room");
        assert_eq!(cpus(&plan), [5, 6]);
        let three = made.plan(Some(3), 100_000).expect("there is room");
        assert_eq!(cpus(&three), [5, 6, 7]);
        assert!(
            three
                .warnings
                .iter()
                .any(|w| w.contains("0000:01:00.0 has 2 queues")),
            "{:?}",
            three.warnings
        );
    }

    #[test]
    fn workers_that_find_no_room_beside_the_cards_are_told() {
        let made = Made::new(2, 8, 1, 64_000);
        made.nic("0000:01:00.0", 0, 16);
        made.hugepages(0, 4_000);
        let plan = made.plan(Some(5), 100_000).expect("there is room");
        assert_eq!(cpus(&plan), [1, 2, 3, 4, 5]);
        assert!(
            plan.warnings
                .iter()
                .any(|w| w.contains("another NUMA node")),
            "{:?}",
            plan.warnings
        );
        let error = made.plan(Some(9), 100_000).expect_err("eight cores");
        assert_eq!(
            error.to_string(),
            "9 workers want 11 cores, with one for the sync core and one for the membership core and the system; this machine has 8: ask for at most 6"
        );
    }

    #[test]
    fn a_machine_of_one_cpu_is_told_what_to_do() {
        let made = Made::new(1, 1, 1, 2_000);
        let plan = made.plan(None, 1_000_000).expect("it runs");
        assert_eq!(
            (cpus(&plan), plan.sync.cpu, plan.membership.cpu),
            (vec![0], 0, 0)
        );
        let (config, text) = made.proposed(&plan);
        assert!(config.cores.shared && !config.eal.hugepages);
        assert!(matches!(config.cores.idle, Idle::Sleep(_)));
        for word in ["1 cpu", "give it three", "sysctl vm.nr_hugepages="] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn two_cores_give_one_to_the_worker() {
        let made = Made::new(1, 2, 1, 8_000);
        made.hugepages(0, 600);
        let plan = made.plan(None, 100_000).expect("there is room");
        assert_eq!(
            (cpus(&plan), plan.sync.cpu, plan.membership.cpu),
            (vec![1], 0, 0)
        );
        let (config, _) = made.proposed(&plan);
        assert!(config.cores.shared && config.eal.hugepages);
        assert_eq!(config.cores.workers[0].idle, Idle::Spin);
        // The threads of one core are not two cores.
        let made = Made::new(1, 1, 2, 8_000);
        let plan = made.plan(None, 100_000).expect("it runs");
        assert_eq!(plan.idle, "sleep");
        assert!(
            plan.warnings
                .iter()
                .any(|w| w.contains("two threads of one core")),
            "{:?}",
            plan.warnings
        );
        made.proposed(&plan);
    }

    #[test]
    fn a_table_that_memory_has_no_room_for_is_made_smaller() {
        let made = Made::new(1, 4, 1, 2_000);
        made.hugepages(0, 600);
        let plan = made.plan(None, 100_000_000).expect("it runs");
        assert!(
            (1_000_000..7_000_000).contains(&plan.capacity),
            "{}",
            plan.capacity
        );
        assert!(
            plan.warnings
                .iter()
                .any(|w| w.contains("100000000 flows take")),
            "{:?}",
            plan.warnings
        );
        made.proposed(&plan);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_refused() {
        let empty = TempDir::new().expect("a folder");
        let machine = Machine::read(empty.path());
        let error = Plan::of(
            &machine,
            Wish {
                workers: None,
                flows: 1_000,
            },
        )
        .expect_err("no cpu");
        assert!(error.to_string().contains("/sys"), "{error}");
    }
}
