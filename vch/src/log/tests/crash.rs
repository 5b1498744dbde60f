//! The writer is killed with -9 at random: what it has reported is there, and nothing else comes of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use super::*;

const SIZE: u64 = 100_000;

/// What each stream says at `offset`, forever: of all kinds, and no power of two long.
fn pattern() -> Vec<u8> {
    let mut dice = Dice(5);
    (0..40)
        .flat_map(|_| {
            let length = 1 + dice.below(5000);
            dice.output(length)
        })
        .chain([0xe2])
        .collect()
}

fn said(pattern: &[u8], offset: u64, length: usize) -> Vec<u8> {
    let start = usize::try_from(offset % pattern.len() as u64).unwrap();
    pattern.iter().cycle().skip(start).take(length).copied().collect()
}

/// This program again, as the test `name`.
pub(super) fn again(name: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]).env("LOG", path);
    command
}

#[test]
#[ignore = "what the next test kills"]
fn writes_without_end() {
    let Some(path) = std::env::var_os("LOG") else { return };
    let pattern = pattern();
    let mut log = writer(Path::new(&path), SIZE, 4);
    let mut dice = Dice(u64::from(std::process::id()));
    println!("begun");
    for _ in 0..1_000_000 {
        let stream = BOTH[dice.below(2)];
        let output = said(&pattern, log.offsets().of(stream), 1 + dice.below(3000));
        let offsets = log.append(stream, &output, at(0)).unwrap();
        println!("{} {}", offsets.stdout, offsets.stderr);
    }
}

fn begin(path: &Path) -> (Child, BufReader<impl Read + use<>>) {
    let mut child =
        again("log::tests::crash::writes_without_end", path).stdout(Stdio::piped()).spawn().unwrap();
    let mut says = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "begun" {
        line.clear();
        assert!(says.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    (child, says)
}

#[test]
fn killed_at_any_time_it_has_what_it_has_acknowledged() {
    let (_folder, path) = place();
    let pattern = pattern();
    let mut dice = Dice(u64::from(std::process::id()));
    drop(writer(&path, SIZE, 4));
    // It follows through all the crashes.
    let mut follower = Reader::open(&path).unwrap();
    let mut followed = [0u64; 2];
    let mut last = Offsets::default();
    for round in 0..50 {
        let (mut child, mut says) = begin(&path);
        let time = Duration::from_micros(dice.next() % 15_000);
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            says.read_to_string(&mut all).unwrap();
            all
        });
        std::thread::sleep(time);
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap();
        if let Some((stdout, stderr)) = acknowledged.lines().last().and_then(|line| line.split_once(' ')) {
            last = Offsets { stdout: stdout.parse().unwrap(), stderr: stderr.parse().unwrap() };
        }
        let offsets = writer(&path, SIZE, 4).offsets();
        assert!(offsets.stdout >= last.stdout && offsets.stderr >= last.stderr, "{offsets:?} {last:?}");
        let more = offsets.stdout + offsets.stderr - last.stdout - last.stderr;
        assert!(more <= 3000, "one more was written, not {more} bytes");
        last = offsets;

        let mut reader = Reader::open(&path).unwrap();
        // Of a stream that was silent for long nothing may be kept.
        let mut next = offsets;
        let mut seen = [false; 2];
        while let Some(entry) = reader.next().unwrap() {
            assert_eq!(entry.lost, 0, "round {round}");
            assert!(entry.output == said(&pattern, entry.offset, entry.output.len()), "round {round}");
            seen[entry.stream as usize] = true;
            *next.of_mut(entry.stream) = entry.offset + entry.output.len() as u64;
        }
        assert_eq!((next, reader.damaged()), (offsets, 0), "round {round}");
        while let Some(entry) = follower.next().unwrap() {
            // How much it is behind is chance: what it was not fast enough for it is told.
            let followed = &mut followed[entry.stream as usize];
            assert_eq!(*followed + entry.lost, entry.offset, "round {round}");
            assert!(entry.output == said(&pattern, entry.offset, entry.output.len()), "round {round}");
            *followed = entry.offset + entry.output.len() as u64;
        }
        for (index, end) in [offsets.stdout, offsets.stderr].into_iter().enumerate() {
            assert!(followed[index] == end || !seen[index], "round {round}: {followed:?} {offsets:?}");
        }
    }
    println!("{last:?} after 50 kills");
}
