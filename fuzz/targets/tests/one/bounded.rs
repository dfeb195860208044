//! The fuzz targets in every CI run: each corpus as it is, then a fixed number
//! of mutations of it. The seed is fixed, so a failure comes again; longer runs
//! set `OSMODA_FUZZ_ROUNDS` (a factor) and `OSMODA_FUZZ_SEED`.

use std::{fs, panic, path::PathBuf};

use osmoda_fuzz_targets::{TARGETS, Target, target};

/// Longer inputs only cost time: the largest bounded frame before admission is
/// 2 KiB.
const INPUT_BYTES_MAX: usize = 4096;

/// `splitmix64`: small, fixed for ever, good enough to choose places.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a readable corpus file")).collect()
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        match random.below(7) {
            0 => input = (0..random.below(300)).map(|_| random.byte()).collect(),
            1 => input.truncate(random.below(input.len() + 1)),
            2 => input.extend((0..random.below(64)).map(|_| random.byte()).collect::<Vec<_>>()),
            3 => {
                let other = &corpus[random.below(corpus.len())];
                let (cut, from) = (random.below(input.len() + 1), random.below(other.len() + 1));
                input.truncate(cut);
                input.extend_from_slice(&other[from..]);
            }
            4 if !input.is_empty() => {
                // Lengths and counts sit in single bytes: the ends are where they break.
                let (at, edge) = (random.below(input.len()), random.below(6));
                input[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][edge];
            }
            _ if !input.is_empty() => {
                let (at, mask) = (random.below(input.len()), 1 << random.below(8));
                input[at] ^= mask;
            }
            _ => {}
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(name: &str) {
    let target = target(name);
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let (seed, factor) = (number("OSMODA_FUZZ_SEED", 20_261_122), number("OSMODA_FUZZ_ROUNDS", 1));
    let mut random = Random(seed);
    let rounds = u64::from(target.rounds) * factor;
    let mutations = (0..rounds).map(|_| mutated(&corpus, &mut random));
    let all = corpus.clone().into_iter().chain(mutations);
    for (round, input) in all.enumerate() {
        let outcome = panic::catch_unwind(|| (target.body)(&input));
        assert!(outcome.is_ok(), "{name}: seed {seed}, round {round}, input {input:02x?}");
    }
}

macro_rules! bounded {
    ($($(#[$when:meta])? $name:ident),*) => {
        $($(#[$when])? #[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_here_and_has_its_fuzzer() {
            let run = [$($(#[$when])? stringify!($name)),*];
            let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(run.to_vec(), known);
            for name in known {
                let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../fuzz_targets/{name}.rs"));
                assert!(file.exists(), "{}", file.display());
            }
        }
    };
}

bounded!(
    knock,
    handshake,
    transport_parameters,
    invite,
    frame,
    preamble,
    room_message,
    room_record,
    room_frame,
    reconcile,
    datagram,
    keys,
    message,
    blob,
    witness,
    command,
    note,
    permit,
    #[cfg(feature = "swim")]
    swim
);
