//! Whether the simulation finds deliberate bugs: a test of the tests.

use state::mutation::{Mutation, activate};

use crate::{Failure, Fixed, Options, Profile, run};

/// What came of looking for one mutation.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The deliberate bug.
    pub mutation: Mutation,
    /// The seed that found it, its profile, and what was broken; `None` when it survived.
    pub found: Option<(u64, Profile, Failure)>,
    /// How many runs it took, or that it survived.
    pub runs: u64,
}

/// Looks for a mutation with up to `seeds` seeds. Three of four are of the profile in which
/// it should show.
pub fn hunt(mutation: Mutation, seeds: u64) -> Hunt {
    for seed in 0..seeds {
        let fixed = Fixed {
            profile: Some(profile(mutation, seed)),
            nodes: None,
            ecmp: Some(seed % 5 == 4),
            time_s: Some(8),
        };
        let options = Options::of_seed(seed, fixed);
        activate(Some(mutation));
        let report = run(&options);
        activate(None);
        if let Some(failure) = report.failure
            // What fails without the mutation as well says nothing about it.
            && run(&options).failure.is_none()
        {
            return Hunt {
                mutation,
                found: Some((seed, options.profile, failure)),
                runs: seed + 1,
            };
        }
    }
    Hunt {
        mutation,
        found: None,
        runs: seeds,
    }
}

/// The profile of one seed of a hunt.
fn profile(mutation: Mutation, seed: u64) -> Profile {
    let likely = match mutation {
        Mutation::TrustOldView | Mutation::AcknowledgeUnapplied => Profile::Pauses,
        Mutation::LoseTombstones | Mutation::ExpireCopies => Profile::Quiet,
        Mutation::StaleRecordWins | Mutation::ForgetDeletions => Profile::Partitions,
        Mutation::EnforceOldWindows => Profile::Lossy,
        _ => Profile::Crashes,
    };
    match seed % 4 {
        3 => Profile::Mixed,
        _ => likely,
    }
}
