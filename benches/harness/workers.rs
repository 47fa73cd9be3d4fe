//! `workers`: packets per second that 1, 2, 4, ... workers forward, each of the flows of its own slots from a queue and a
//! generator's thread of its own, as a card's RSS would spread them.

use crate::bench::Bench;
use crate::error::Result;
use crate::forward::{self, Outcome, Reading};
use crate::gateway::System;
use crate::generator::Lane;
use crate::pcap;
use crate::traffic::{Flows, Part};

/// Up to `most` workers, or as many as have a cpu each beside as many generators.
pub(crate) fn measure(bench: &Bench, flows: &Flows, most: Option<usize>) -> Result<Outcome> {
    let own = bench.cpus.most_workers();
    let most = most.unwrap_or(own);
    let mut outcome = Outcome {
        readings: vec![],
        notes: vec![],
    };
    for workers in steps(most) {
        let pcaps = pcap::by_worker(flows, workers, &bench.pcaps, &bench.interrupt)?;
        let way = System::Ravelin.way(bench, Part::Data)?;
        let lanes = [Lane { pcaps, way }];
        let (rates, notes) = forward::rates(bench, flows, System::Ravelin, &lanes, workers)?;
        let part = format!("-{workers}");
        outcome
            .readings
            .push(Reading::of_runs(&part, "packets/s", &rates)?);
        outcome.notes.extend(
            notes
                .into_iter()
                .map(|note| format!("{workers} workers: {note}")),
        );
        if workers > own {
            outcome.notes.push(format!(
                "{workers} workers share cpus with each other or the generator: no figure of how they scale"
            ));
        }
    }
    if most <= own {
        outcome.notes.push(format!(
            "{} cpus have room for {own} worker(s), each with a cpu of its own and another for its generator",
            bench.cpus.online.len()
        ));
    }
    Ok(outcome)
}

/// Powers of two, and the most.
fn steps(most: usize) -> Vec<usize> {
    let mut steps: Vec<usize> = (0..)
        .map(|n| 1 << n)
        .take_while(|step| *step < most)
        .collect();
    steps.push(most);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_and_end_with_the_most() {
        assert_eq!(steps(1), [1]);
        assert_eq!(steps(4), [1, 2, 4]);
        assert_eq!(steps(7), [1, 2, 4, 7]);
    }
}
