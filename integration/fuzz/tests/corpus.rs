//! Every target over its corpus, and over inputs made of it: quick, the same each time, and without a fuzzer.
//!
//! An input that fails is written beside the corpus that it came from; `integration/fuzz.sh` finds what this cannot.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "the helpers of a test are test code too")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_fuzz::{TARGETS, Target};

/// Made of each input of a corpus.
const MUTANTS: usize = 25;

#[test]
fn targets_hold_over_their_corpora_and_what_is_made_of_them() {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    failures.lock().unwrap().extend(run(target));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Names and places of what failed; a few of one target are enough.
fn run(target: &Target) -> Vec<String> {
    let inputs = corpus(target.name);
    let words = words(target.dictionary);
    assert!(inputs.len() >= 5 && words.len() >= 5, "{} has no corpus", target.name);
    let mut random = fastrand::Rng::with_seed(7);
    let mut failures = Vec::new();
    for input in &inputs {
        for number in 0..=MUTANTS {
            let data = if number == 0 { input.clone() } else { mutant(&mut random, &inputs, &words, input) };
            if failures.len() < 3 && catch_unwind(AssertUnwindSafe(|| (target.run)(&data))).is_err() {
                failures.push(format!("{}: {}", target.name, keep(target.name, &data)));
            }
        }
    }
    failures
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// `"…"` with `\xNN`, one a line.
fn words(dictionary: &str) -> Vec<Vec<u8>> {
    dictionary.lines().map(|line| unescape(line.trim_matches('"'))).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(), after)
            }
            [b'\\', escaped, after @ ..] => (*escaped, after),
            _ => (*byte, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

fn mutant(random: &mut fastrand::Rng, inputs: &[Vec<u8>], words: &[Vec<u8>], input: &[u8]) -> Vec<u8> {
    let mut data = input.to_vec();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(0..=data.len());
        let to = random.usize(at..=data.len().min(at + 16));
        match random.u8(0..6) {
            0 => drop(data.splice(at..at, random.choice(words).unwrap().iter().copied())),
            1 => drop(data.splice(at..to, random.choice(words).unwrap().iter().copied())),
            2 => drop(data.splice(at..to, [])),
            3 => drop(data.splice(at..at, [random.u8(..)])),
            4 if at < data.len() => data[at] ^= 1 << random.u8(0..8),
            _ => {
                let other = random.choice(inputs).unwrap();
                data.truncate(at);
                data.extend_from_slice(&other[random.usize(0..=other.len())..]);
            }
        }
    }
    data
}

/// Keeps an input for whoever looks into it.
fn keep(name: &str, data: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
    std::fs::create_dir_all(&folder).unwrap();
    let sum = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let file = folder.join(format!("{name}-{sum:016x}"));
    std::fs::write(&file, data).unwrap();
    format!("{} ({})", file.display(), data.escape_ascii())
}
