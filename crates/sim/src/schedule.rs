//! When what fails: one failure, or several at once, then time until redundancy is whole again,
//! then the next. `Faults::beyond` drops both limits.

use crate::net::Net;
use crate::options::Faults;
use crate::queue::{Event, Queue, Undo};
use crate::random::Rng;
use crate::report::Stats;

/// How long redundancy may take to be whole after a failure.
const RECOVERY_US: u64 = 30_000_000;
const LOOK_EVERY_US: u64 = 50_000;
/// When the first failure may come: the cluster has formed by then.
const FIRST_US: u64 = 1_800_000;

/// What the schedule wants done to a node now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Crash {
        node: usize,
        /// Until it is told to come back.
        stays_away: bool,
    },
    Pause {
        node: usize,
        us: u64,
    },
    Slow {
        node: usize,
        us: u64,
    },
    Stall {
        node: usize,
        us: u64,
    },
    StepClock {
        node: usize,
        ms: i64,
    },
    /// A node that stayed away starts again.
    Return {
        node: usize,
    },
    /// An operator's order to hand over and to stay or to end.
    Drain {
        node: usize,
        stay: bool,
        how: membership::Drain,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Crash,
    Pause,
    Slow,
    Stall,
    Partition,
    OneWay,
    Flapping,
    ClockStep,
    Drain,
    Return,
}

/// A time in which something failed, or was taken offline.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    begin_us: u64,
    /// Unknown while it goes on.
    end_us: Option<u64>,
    /// Nothing but hand-overs in good order.
    gentle: bool,
}

#[derive(Debug)]
pub(crate) struct Schedule {
    rng: Rng,
    faults: Faults,
    nodes: usize,
    /// `k`.
    backups: usize,
    /// Nodes that crashed and stay away.
    pub(crate) absent: Vec<usize>,
    load_us: u64,
    /// Ends of failures that have not come yet.
    pub(crate) pending: usize,
    /// Since when redundancy is awaited.
    awaiting_us: Option<u64>,
    next_us: u64,
    disturbed: Vec<Disturbance>,
    /// Since when nothing fails any more.
    pub(crate) quiet_since_us: Option<u64>,
    cut: Vec<(usize, usize)>,
}

/// What a look at the schedule comes to.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) deeds: Vec<Deed>,
    /// Redundancy did not become whole in time: what is missing.
    pub(crate) overdue: Option<String>,
}

impl Schedule {
    pub(crate) fn new(options: &crate::Options) -> Self {
        Self {
            rng: Rng::new(options.seed, 4),
            faults: options.faults.clone(),
            nodes: options.nodes,
            backups: options.backups,
            absent: Vec::new(),
            load_us: options.load_us,
            pending: 0,
            awaiting_us: None,
            next_us: FIRST_US,
            disturbed: Vec::new(),
            quiet_since_us: None,
            cut: Vec::new(),
        }
    }

    /// Whether anything happened at any time between two times, hand-overs in good order as well.
    pub(crate) fn disturbed_between(&self, from_us: u64, to_us: u64) -> bool {
        self.between(from_us, to_us).next().is_some()
    }

    /// Whether anything failed at any time between two times.
    pub(crate) fn failed_between(&self, from_us: u64, to_us: u64) -> bool {
        self.between(from_us, to_us).any(|d| !d.gentle)
    }

    /// A hand-over was cut short: what happens now is a failure.
    pub(crate) fn hand_over_cut(&mut self) {
        for disturbance in self.disturbed.iter_mut().filter(|d| d.end_us.is_none()) {
            disturbance.gentle = false;
        }
    }

    fn between(&self, from_us: u64, to_us: u64) -> impl Iterator<Item = &Disturbance> {
        self.disturbed
            .iter()
            .filter(move |d| d.begin_us <= to_us && d.end_us.is_none_or(|end_us| end_us >= from_us))
    }

    /// Looks at what is due. `whole` tells whether redundancy is whole, or what is missing.
    pub(crate) fn step(
        &mut self,
        now_us: u64,
        whole: impl FnOnce(&mut Stats) -> Result<(), String>,
        net: &mut Net,
        queue: &mut Queue,
        stats: &mut Stats,
    ) -> Step {
        queue.put(now_us + LOOK_EVERY_US, Event::Schedule);
        let mut step = Step::default();
        if self.quiet_since_us.is_some() {
            return step;
        }
        let ended = now_us >= self.load_us;
        // Beyond the rules nothing is waited for, but at the end.
        let patient = ended || !self.faults.beyond;
        if self.pending > 0 && patient {
            self.awaiting_us = Some(now_us);
            return step;
        }
        if let Some(since_us) = self.awaiting_us
            && self.pending == 0
        {
            match whole(stats) {
                Ok(()) => {
                    stats.recoveries += 1;
                    self.awaiting_us = None;
                    for disturbance in &mut self.disturbed {
                        disturbance.end_us.get_or_insert(now_us);
                    }
                    self.next_us = now_us + self.rng.range(20_000..=900_000);
                }
                Err(lacking) => {
                    if now_us >= since_us + RECOVERY_US {
                        step.overdue = Some(lacking);
                    }
                    if patient {
                        return step;
                    }
                }
            }
        }
        if ended && self.absent.is_empty() {
            self.quiet_since_us = Some(now_us);
            return step;
        }
        if now_us < self.next_us {
            return step;
        }
        let kind = match ended {
            true => Some(Kind::Return),
            false => self.choose(),
        };
        if let Some(kind) = kind {
            self.disturbed.push(Disturbance {
                begin_us: now_us,
                end_us: None,
                gentle: matches!(kind, Kind::Drain | Kind::Return),
            });
            self.awaiting_us = Some(now_us);
            self.next_us = now_us + self.rng.range(20_000..=1_500_000);
            self.begin(kind, now_us, net, queue, stats, &mut step.deeds);
        }
        step
    }

    /// What follows from the end of a failure for the network. The others are the world's.
    pub(crate) fn undo_cut(&mut self, undo: Undo, now_us: u64, net: &mut Net, queue: &mut Queue) {
        match undo {
            Undo::Heal => net.heal(now_us, queue),
            Undo::Cut => {
                for (from, to) in self.cut.clone() {
                    net.cut(from, to, now_us, queue);
                }
            }
            _ => {}
        }
    }

    fn choose(&mut self) -> Option<Kind> {
        let f = &self.faults;
        // Whoever is the only one left must not fail as well.
        let alone = self.living() == 1;
        let crash = if self.crashes_max() > 0 { f.crash } else { 0 };
        let drain = if alone { 0 } else { f.drain };
        let menu = [
            (Kind::Return, self.absent.len() as u32),
            (Kind::Crash, crash),
            (Kind::Pause, f.pause),
            (Kind::Slow, f.slow),
            (Kind::Stall, f.stall),
            (Kind::Partition, f.partition),
            (Kind::OneWay, f.one_way),
            (Kind::Flapping, f.flapping),
            (Kind::ClockStep, f.clock_step),
            (Kind::Drain, drain),
        ];
        let sum: u32 = menu.iter().map(|(_, weight)| weight).sum();
        if sum == 0 {
            return None;
        }
        let mut at = self.rng.below(sum.into()) as u32;
        menu.iter()
            .find(|(_, weight)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            })
            .map(|(kind, _)| *kind)
    }

    fn living(&self) -> usize {
        self.nodes - self.absent.len()
    }

    /// How many may crash at once now: no more than hold copies, and than leave somebody.
    fn crashes_max(&self) -> usize {
        let most = self.faults.crashes_max.min(self.living() - 1);
        match self.faults.beyond {
            true => most,
            false => most.min(self.backups),
        }
    }

    fn begin(
        &mut self,
        kind: Kind,
        now_us: u64,
        net: &mut Net,
        queue: &mut Queue,
        stats: &mut Stats,
        deeds: &mut Vec<Deed>,
    ) {
        let node = self.rng.below(self.nodes as u64) as usize;
        match kind {
            Kind::Crash => {
                let many = self.rng.range(1..=self.crashes_max() as u64);
                let together = self.rng.chance(500_000);
                let here = |node: &usize| !self.absent.contains(node);
                let mut left: Vec<usize> = (0..self.nodes).filter(here).collect();
                for number in 0..many {
                    let at = self.rng.below(left.len() as u64) as usize;
                    let node = left.swap_remove(at);
                    if number == 0 || together {
                        let stays_away =
                            !self.faults.beyond && self.rng.chance(self.faults.stay_away);
                        if stays_away {
                            self.absent.push(node);
                        }
                        deeds.push(Deed::Crash { node, stays_away });
                    } else {
                        let at_us = now_us + self.rng.range(100..=400_000);
                        self.later(at_us, Undo::Crash { node }, queue);
                    }
                }
            }
            Kind::Pause => {
                let us = *self
                    .rng
                    .pick(&[30_000, 90_000, 300_000, 900_000, 2_500_000]);
                let us = self.rng.range(us / 2..=us);
                stats.pauses += 1;
                deeds.push(Deed::Pause { node, us });
                self.later(now_us + us, Undo::Resume { node }, queue);
            }
            Kind::Slow => {
                let us = self.rng.range(200_000..=3_000_000);
                stats.slow += 1;
                deeds.push(Deed::Slow { node, us });
                self.later(now_us + us, Undo::Slow, queue);
            }
            Kind::Stall => {
                let us = self.rng.range(20_000..=1_500_000);
                stats.stalls += 1;
                deeds.push(Deed::Stall { node, us });
                self.later(now_us + us, Undo::Stall, queue);
            }
            Kind::Partition | Kind::Flapping => {
                let mut side: Vec<bool> =
                    (0..self.nodes).map(|_| self.rng.chance(500_000)).collect();
                side[node] = true;
                side[(node + 1) % self.nodes] = false;
                self.cut = pairs(self.nodes)
                    .filter(|(a, b)| side[*a] != side[*b])
                    .collect();
                self.tear(kind == Kind::Flapping, now_us, net, queue);
                match kind {
                    Kind::Flapping => stats.flaps += 1,
                    _ => stats.partitions += 1,
                }
            }
            Kind::OneWay => {
                let mut others: Vec<bool> =
                    (0..self.nodes).map(|_| self.rng.chance(600_000)).collect();
                others[(node + 1) % self.nodes] = true;
                let outward = self.rng.chance(500_000);
                self.cut = pairs(self.nodes)
                    .filter(|(a, b)| match outward {
                        true => *a == node && others[*b],
                        false => *b == node && others[*a],
                    })
                    .collect();
                let flapping = self.rng.chance(200_000);
                self.tear(flapping, now_us, net, queue);
                stats.one_way += 1;
            }
            Kind::Return => {
                let at = self.rng.below(self.absent.len() as u64) as usize;
                let node = self.absent.swap_remove(at);
                deeds.push(Deed::Return { node });
            }
            Kind::Drain => {
                // Somebody must be left; of two neither waits for the other.
                let both = self.living() > 2 && self.rng.chance(250_000);
                let nodes = [Some(node), both.then_some((node + 1) % self.nodes)];
                for node in nodes.into_iter().flatten() {
                    let hurried = self.rng.chance(self.faults.drain_hurry);
                    let bound_ms = match hurried {
                        true => self.rng.range(0..=60),
                        false => 10_000,
                    };
                    let stay = self.rng.chance(500_000);
                    // A signal forces it, as nobody would hear that it was refused.
                    let force = !stay && self.rng.chance(500_000);
                    let how = membership::Drain { bound_ms, force };
                    stats.drains += 1;
                    deeds.push(Deed::Drain { node, stay, how });
                }
            }
            Kind::ClockStep => {
                let ms = self.rng.range(0..=8_000) as i64 - 4_000;
                stats.clock_steps += 1;
                deeds.push(Deed::StepClock { node, ms });
            }
        }
    }

    /// Cuts the chosen paths now, and heals them later; a flapping cut does so several times.
    fn tear(&mut self, flapping: bool, now_us: u64, net: &mut Net, queue: &mut Queue) {
        let mut at_us = now_us;
        self.undo_cut(Undo::Cut, now_us, net, queue);
        if flapping {
            for _ in 0..self.rng.range(2..=6) {
                at_us += self.rng.range(20_000..=400_000);
                self.later(at_us, Undo::Heal, queue);
                at_us += self.rng.range(20_000..=300_000);
                self.later(at_us, Undo::Cut, queue);
            }
        }
        let most = *self.rng.pick(&[200_000, 1_500_000, 3_500_000]);
        at_us += self.rng.range(50_000..=most);
        self.later(at_us, Undo::Heal, queue);
    }

    /// Has the end of a failure come at a time.
    pub(crate) fn later(&mut self, at_us: u64, undo: Undo, queue: &mut Queue) {
        self.pending += 1;
        queue.put(at_us, Event::Undo(undo));
    }
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |a| (0..nodes).filter(move |b| *b != a).map(move |b| (a, b)))
}
