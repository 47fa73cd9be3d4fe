//! `[cores]`: which thread runs where.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::keys::{CORES, WORKER};
use crate::reader::{Field, Section};
use crate::{
    Cluster, Config, ConfigError, Cores, Distribution, Fault, Idle, Position, Problem, Worker,
};

/// `CPU_SETSIZE` of glibc: what an affinity mask can name.
const CPUS: RangeInclusive<u64> = 0..=1023;

/// A thread's place, remembered so that [`Config::check_machine`] can point at it.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) cpu: u16,
    key: String,
}

impl Config {
    /// Checks what a file alone cannot tell: that the machine has the cpus.
    ///
    /// # Errors
    /// One problem for each thread whose cpu is not among `online`.
    pub fn check_machine(&self, online: &[usize]) -> Result<(), ConfigError> {
        let absent = |(placement, at): &(Placement, Position)| {
            let cpu = placement.cpu;
            (!online.contains(&usize::from(cpu))).then(|| Problem {
                at: *at,
                key: placement.key.clone(),
                fault: Fault::CpuAbsent {
                    cpu,
                    online: ranges(online),
                },
            })
        };
        let mut problems: Vec<_> = self.placements.iter().filter_map(absent).collect();
        problems.sort_by_key(|problem| problem.at);
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            path: self.path.clone(),
            problems,
        })
    }
}

impl Config {
    /// Flows that a worker's shard of the flow table holds: what it is given, or its share of the node's.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn table(&self, worker: usize) -> u32 {
        let share = self
            .flows
            .capacity
            .div_ceil(self.cores.workers.len() as u32);
        self.cores.workers[worker].table.unwrap_or(share)
    }

    /// Flows that all workers' shards hold together.
    pub fn capacity(&self) -> u64 {
        if self
            .cores
            .workers
            .iter()
            .all(|worker| worker.table.is_none())
        {
            return self.flows.capacity.into();
        }
        let workers = 0..self.cores.workers.len();
        workers.map(|worker| u64::from(self.table(worker))).sum()
    }

    /// Packets that a worker holds at most: what it is given, or its share of a quarter of the packet buffers, so
    /// that what is held does not starve reception. With `ecmp` of an eighth, since as many again may wait for answers.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn hold(&self, worker: usize) -> u32 {
        let part = 4 * self.cluster.as_ref().map_or(1, waits);
        let share = self.eal.mbufs / part / self.cores.workers.len() as u32;
        self.cores.workers[worker].hold.unwrap_or(share.max(1))
    }
}

/// For how many packets a place in the hold stands: with `ecmp` as many again wait for other nodes' answers.
pub(crate) fn waits(cluster: &Cluster) -> u32 {
    match cluster.distribution {
        Distribution::Ecmp => 2,
        Distribution::Filter => 1,
    }
}

/// `0-3, 8` for people.
fn ranges(cpus: &[usize]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    let runs = cpus.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// What a section says of polling, or what its absence leaves in force.
#[derive(Clone, Copy)]
struct Polling {
    idle: Idle,
    idle_sleep: Duration,
    burst: u8,
    rx_descriptors: u16,
    tx_descriptors: u16,
    table: Option<u32>,
    hold: Option<u32>,
}

impl Polling {
    const DEFAULT: Self = Self {
        idle: Idle::Spin,
        idle_sleep: Duration::from_micros(50),
        burst: 64,
        rx_descriptors: 1024,
        tx_descriptors: 1024,
        table: None,
        hold: None,
    };

    fn read(section: &Section<'_>, default: Self) -> Self {
        let (least, most) = (Duration::from_micros(1), Duration::from_millis(10));
        let idle_sleep = section.duration_or("idle_sleep", least..=most, default.idle_sleep);
        let choices = [
            ("spin", Idle::Spin),
            ("pause", Idle::Pause),
            ("sleep", Idle::Sleep(idle_sleep)),
        ];
        let inherited = match default.idle {
            Idle::Sleep(_) => Idle::Sleep(idle_sleep),
            Idle::Spin | Idle::Pause => default.idle,
        };
        Self {
            idle: section.choice_or("idle", &choices, inherited),
            idle_sleep,
            burst: section.integer_or("burst", 1..=64, u64::from(default.burst)) as u8,
            rx_descriptors: descriptors(section, "rx_descriptors", default.rx_descriptors),
            tx_descriptors: descriptors(section, "tx_descriptors", default.tx_descriptors),
            table: count(section, "table", TABLE).or(default.table),
            hold: count(section, "hold", HOLD).or(default.hold),
        }
    }
}

/// Flows of one worker. A shard numbers them with 32 bits, a few of which say more.
const TABLE: RangeInclusive<u64> = 1024..=1 << 30;
/// Packets that one worker holds.
const HOLD: RangeInclusive<u64> = 1..=1 << 22;

fn count(section: &Section<'_>, key: &str, range: RangeInclusive<u64>) -> Option<u32> {
    let count = section.field(key)?.integer(range)?;
    Some(count as u32)
}

fn descriptors(section: &Section<'_>, key: &str, default: u16) -> u16 {
    let Some(field) = section.field(key) else {
        return default;
    };
    let Some(given) = field.integer(64..=32_768) else {
        return default;
    };
    if !given.is_power_of_two() {
        let above = given.next_power_of_two();
        field.fail(Fault::PowerOfTwo {
            given,
            below: above / 2,
            above,
        });
    }
    given as u16
}

/// The cores, and each thread's place.
pub(crate) fn cores(top: &Section<'_>, clustered: bool) -> (Cores, Vec<(Placement, Position)>) {
    let section = top.section("cores", CORES);
    let polling = Polling::read(&section, Polling::DEFAULT);
    let shared = section.bool_or("shared", false);
    let realtime = section.bool_or("realtime", true);
    let mut seats = Seats {
        shared,
        taken: Vec::new(),
    };

    let workers: Vec<(Worker, Option<Field<'_>>)> = workers(&section, polling);
    if workers.is_empty()
        && section
            .field("worker")
            .is_none_or(|field| is_empty_list(&field))
    {
        section
            .reader
            .fail(section.at, section.key("worker"), Fault::NoWorkers);
    }
    for (index, (worker, field)) in workers.iter().enumerate() {
        if let Some(field) = field {
            seats.take(
                worker.cpu,
                field,
                format!("worker {index}"),
                worker.idle == Idle::Spin,
            );
        }
    }
    let mut single = |key: &str, example| {
        let field = if clustered {
            section.required(key, example)?
        } else {
            section.field(key)?
        };
        let cpu = field.integer(CPUS)? as u16;
        seats.take(cpu, &field, format!("the {key} core"), false);
        Some(cpu)
    };
    let sync = single("sync", "sync = 1 under [cores]");
    let membership = single("membership", "membership = 0 under [cores]");

    seats.refuse_spinning();
    let placements = seats.taken.iter().map(|seat| {
        (
            Placement {
                cpu: seat.cpu,
                key: seat.field.path.clone(),
            },
            seat.field.position(),
        )
    });
    let placements = placements.collect();
    let workers = workers.into_iter().map(|(worker, _)| worker).collect();
    (
        Cores {
            workers,
            sync,
            membership,
            idle: polling.idle,
            shared,
            realtime,
        },
        placements,
    )
}

fn is_empty_list(field: &Field<'_>) -> bool {
    matches!(field.value, DeValue::Array(items) if items.is_empty())
}

/// Each worker, with the field that names its cpu unless that is wrong.
fn workers<'a>(section: &Section<'a>, polling: Polling) -> Vec<(Worker, Option<Field<'a>>)> {
    let Some(list) = section.field("worker") else {
        return Vec::new();
    };
    let items = list.items("a list such as [{ cpu = 2 }]");
    let worker = |(index, mut item): (usize, Field<'a>)| {
        item.path = format!("{}.{index}", item.path);
        let (cpu, polling) = match item.value {
            // A number stands for a worker that has nothing else to say.
            DeValue::Integer(_) => (Some(item), polling),
            _ => {
                let section = item.section(WORKER)?;
                let cpu = section.required("cpu", "worker = [{ cpu = 2 }]");
                (cpu, Polling::read(&section, polling))
            }
        };
        let number = cpu.as_ref().and_then(|field| field.integer(CPUS));
        let worker = Worker {
            cpu: number.unwrap_or(0) as u16,
            idle: polling.idle,
            burst: polling.burst,
            rx_descriptors: polling.rx_descriptors,
            tx_descriptors: polling.tx_descriptors,
            table: polling.table,
            hold: polling.hold,
        };
        Some((worker, cpu.filter(|_| number.is_some())))
    };
    items.into_iter().enumerate().filter_map(worker).collect()
}

struct Seat<'a> {
    cpu: u16,
    field: Field<'a>,
    who: String,
    spins: bool,
}

/// Who runs where, to find two on one cpu.
struct Seats<'a> {
    shared: bool,
    taken: Vec<Seat<'a>>,
}

impl<'a> Seats<'a> {
    fn take(&mut self, cpu: u16, field: &Field<'a>, who: String, spins: bool) {
        if let Some(seat) = self.taken.iter().find(|seat| seat.cpu == cpu)
            && !self.shared
        {
            field.fail(Fault::CpuTwice {
                cpu,
                other: seat.who.clone(),
            });
        }
        self.taken.push(Seat {
            cpu,
            field: field.clone(),
            who,
            spins,
        });
    }

    fn refuse_spinning(&self) {
        for seat in self.taken.iter().filter(|seat| self.shared && seat.spins) {
            let cpu = seat.cpu;
            if self.taken.iter().filter(|other| other.cpu == cpu).count() > 1 {
                seat.field.fail(Fault::SpinShared { cpu });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn cpus_are_written_as_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[3, 0, 1, 2, 8]), "0-3, 8");
    }
}
