//! Deliberate bugs are found: with the feature `mutations`. The command line looks for all of them.
#![cfg(feature = "mutations")]

use sim::Invariant;
use sim::mutations::hunt;
use state::mutation::Mutation;

#[test]
fn early_releases_dead_targets_and_packets_that_pass_are_found() {
    for (mutation, invariants) in [
        (Mutation::ReleaseEarly, &[Invariant::Unprotected][..]),
        (Mutation::LaterPacketsPass, &[Invariant::Unprotected]),
        (Mutation::HoldOutOfOrder, &[Invariant::OutOfOrder]),
        (
            Mutation::KeepDeadTargets,
            &[Invariant::NotConverged, Invariant::ConnectionLost],
        ),
    ] {
        let hunt = hunt(mutation, 40);
        let (_, _, failure) = hunt
            .found
            .unwrap_or_else(|| panic!("{mutation:?} survived"));
        assert!(
            invariants.contains(&failure.invariant),
            "{mutation:?}: {failure}"
        );
    }
}
