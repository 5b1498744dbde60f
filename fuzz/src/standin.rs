//! What stands in for libFuzzer on stable Rust: the same macros, and a loop that changes the seeds at random. It follows no
//! coverage, so it finds less; it is for a short run at every change (`cargo xtask fuzz`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most that an input has, in bytes.
const MOST: usize = 64 << 10;

/// A target's main, see libFuzzer's macro of the name.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:expr) => {
        fn fuzz_one($input: &[u8]) {
            $body
        }
        $crate::fuzz_target!();
    };
    (|$input:ident: &str| $body:expr) => {
        fn fuzz_one(input: &[u8]) {
            if let Ok($input) = std::str::from_utf8(input) {
                $body
            }
        }
        $crate::fuzz_target!();
    };
    () => {
        mod without_mutator {
            pub fn mutator(data: &mut [u8], size: usize, max_size: usize, _seed: u32) -> usize {
                $crate::standin::fuzzer_mutate(data, size, max_size)
            }
        }
        // One that the target has itself goes before it.
        #[allow(unused_imports)]
        use without_mutator::*;

        fn main() -> std::process::ExitCode {
            $crate::standin::run(env!("CARGO_BIN_NAME"), fuzz_one, mutator)
        }
    };
}

/// A target's own changes, see libFuzzer's macro of the name.
#[macro_export]
macro_rules! fuzz_mutator {
    (|$data:ident: &mut [u8], $size:ident: usize, $max_size:ident: usize, $seed:ident: u32| $body:expr) => {
        fn mutator($data: &mut [u8], $size: usize, $max_size: usize, $seed: u32) -> usize {
            $body
        }
    };
}

thread_local! {
    static STATE: std::cell::Cell<u64> = const { std::cell::Cell::new(1) };
}

/// A random number below `end`, which is not 0.
fn below(end: usize) -> usize {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 11) as usize % end
    })
}

/// Changes an input of `size` bytes at the front of `data`; gives its new size, which is at most `max_size`.
pub fn fuzzer_mutate(data: &mut [u8], size: usize, max_size: usize) -> usize {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'"', 0x20];
    let mut bytes = data[..size].to_vec();
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        let some = below(16).min(bytes.len() - at);
        match below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[below(TELLING.len())],
            2 => drop(bytes.drain(at..at + some)),
            3 => bytes.insert(at, below(256) as u8),
            4 => {
                let copy = bytes[at..at + some].to_vec();
                let to = below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => bytes[at..at + some].fill(TELLING[below(TELLING.len())]),
            _ => bytes.truncate(bytes.len() - below(bytes.len() / 8 + 1)),
        }
    }
    bytes.truncate(max_size);
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Runs `TARGET SECONDS [SEED]` in the folder with `corpus/TARGET`.
pub fn run(
    target: &str,
    check: fn(&[u8]),
    mutate: fn(&mut [u8], usize, usize, u32) -> usize,
) -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let seconds = arguments.next().expect("a number of seconds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.next().unwrap_or(now.as_nanos() as u64 | 1);
    STATE.with(|state| state.set(seed));
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(Path::new("corpus").join(target))
        .expect("seeds")
        .map(|entry| std::fs::read(entry.expect("a seed").path()).expect("a seed"))
        .collect();
    seeds.sort();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0_u64;
    while Instant::now() < end {
        let seed_bytes = &seeds[below(seeds.len())];
        let most = seed_bytes.len().max(MOST);
        let mut data = seed_bytes.clone();
        let size = data.len();
        data.resize(most, 0);
        let size = mutate(&mut data, size, most, below(1 << 30) as u32);
        data.truncate(size);
        if catch_unwind(AssertUnwindSafe(|| check(&data))).is_err() {
            let path = Path::new("artifacts").join(target).join(format!("{seed}-{runs}"));
            let written = std::fs::create_dir_all(path.parent().expect("a folder"))
                .and_then(|()| std::fs::write(&path, &data));
            eprintln!("{target}: seed {seed}, run {runs}: the input is in {} ({written:?})", path.display());
            return std::process::ExitCode::FAILURE;
        }
        runs += 1;
    }
    println!("{target}: {runs} runs in {seconds} s, seed {seed}");
    std::process::ExitCode::SUCCESS
}
