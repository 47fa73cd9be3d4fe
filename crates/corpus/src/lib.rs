//! Fuzzing that every `cargo test` does: a target is run on the files of its corpus, which are committed, and then on
//! mutations of them, which come from a seed.
//!
//! `RAVELIN_FUZZ_ITERATIONS=10000000 RAVELIN_FUZZ_SEED=7 cargo test --profile ci -p agent --test corpus` runs longer, and on
//! others. An input that makes the target panic is kept, and its path said: repaired, it goes into the corpus.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// No mutation is longer, in bytes: beyond the longest message of any target.
pub const INPUT_MAX: usize = 128 << 10;

/// Runs a target on each file of the folder, and then on so many mutations of them, unless the environment has another
/// number.
///
/// # Panics
/// When the target does, and when the folder has no files.
pub fn run(folder: &Path, iterations: u64, mut target: impl FnMut(&[u8])) {
    let seeds = seeds(folder);
    assert!(!seeds.is_empty(), "no corpus in {}", folder.display());
    for seed in &seeds {
        try_one(folder, seed, &mut target);
    }
    let iterations = number("RAVELIN_FUZZ_ITERATIONS").unwrap_or(iterations);
    let mut random = Random::new(number("RAVELIN_FUZZ_SEED").unwrap_or(1));
    for _ in 0..iterations {
        try_one(folder, &mutation(&seeds, &mut random), &mut target);
    }
}

/// The files' contents, in the order of their names.
///
/// # Panics
/// When they cannot be read.
pub fn seeds(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("readable");
    paths.iter().map(read).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number")),
    )
}

fn try_one(folder: &Path, input: &[u8], target: &mut impl FnMut(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let of = folder.file_name().unwrap_or_default().display();
        let path = std::env::temp_dir().join(format!("fuzz-{of}-{:016x}", hasher.finish()));
        match std::fs::write(&path, input) {
            Ok(()) => eprintln!("the input is in {}", path.display()),
            Err(error) => eprintln!("the input is {input:02x?}: {}: {error}", path.display()),
        }
        resume_unwind(panic);
    }
}

/// One of the seeds with a few changes.
fn mutation(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        change(&mut bytes, seeds, random);
    }
    bytes.truncate(INPUT_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let len = bytes.len();
    let at = random.below(len + 1);
    let piece = |random: &mut Random, of: &[u8]| {
        let from = random.below(of.len() + 1);
        let to = from + random.below(of.len() - from + 1);
        of[from..to].to_vec()
    };
    match random.below(8) {
        // A bit, a byte, a number at the edge of its range.
        0 if at < len => bytes[at] ^= 1 << random.below(8),
        1 if at < len => bytes[at] = random.next() as u8,
        2 if at < len => {
            const EDGES: [u32; 6] = [0, 1, 0x7fff_ffff, u32::MAX, u32::MAX - 3, 0xffff];
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4][random.below(3)].min(len - at);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        // Cut off, cut out, repeated, from another.
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + random.below((len - at).min(16) + 1))),
        5 => {
            let piece = piece(random, bytes);
            bytes.splice(at..at, piece);
        }
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let piece = piece(random, other);
            bytes.splice(at..at, piece);
        }
        _ => bytes.insert(at, random.next() as u8),
    }
}

/// splitmix64 (Steele, Lea, Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&[u8]]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (n, file) in files.iter().enumerate() {
            std::fs::write(dir.path().join(n.to_string()), file).unwrap();
        }
        dir
    }

    #[test]
    fn the_files_come_first_and_then_always_the_same_mutations() {
        let dir = folder(&[b"PASV\r\n", b"", b"PORT 1,2,3,4,5,6\r\n"]);
        let inputs = || {
            let mut inputs = vec![];
            run(dir.path(), 500, |input| inputs.push(input.to_vec()));
            inputs
        };
        let first = inputs();
        assert_eq!(first[..3], seeds(dir.path()));
        assert_eq!(first, inputs());
        let mut different = first.clone();
        different.sort();
        different.dedup();
        assert!(different.len() > 300, "{}", different.len());
        assert!(first.iter().any(|input| input.len() > 20));
    }

    #[test]
    fn a_panic_goes_on_and_its_input_is_kept() {
        let dir = folder(&[b"good"]);
        let mut last = vec![];
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(dir.path(), 100_000, |input| {
                last = input.to_vec();
                assert!(input.starts_with(b"go"), "a bug");
            });
        }));
        assert!(panicked.is_err());
        let of = dir.path().file_name().unwrap().display().to_string();
        let kept: Vec<_> = std::fs::read_dir(std::env::temp_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.display().to_string().contains(&format!("fuzz-{of}-")))
            .collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(std::fs::read(&kept[0]).unwrap(), last);
        std::fs::remove_file(&kept[0]).unwrap();
    }
}
