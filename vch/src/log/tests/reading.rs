//! Readers: exact over rotation, tails, times, and following.

use std::fs;

use super::super::{MOST_FILES, Watch};
use super::*;

#[test]
fn random_output_is_exact_through_rotation_from_any_offset() {
    let mut dice = Dice(3);
    for round in 0..30u64 {
        let (_folder, path) = place();
        let max_size = [2_000, 20_000, 300_000][dice.below(3)];
        let max_files = 1 + dice.below(6);
        let mut log = writer(&path, max_size, max_files);
        let mut sent = [Vec::new(), Vec::new()];
        for _ in 0..40 {
            let (index, length) = (dice.below(2), 1 + dice.below(if max_size < 5000 { 500 } else { 9000 }));
            let output = dice.output(length);
            sent[index].extend_from_slice(&output);
            log.append(BOTH[index], &output, at(round)).unwrap();
            if dice.below(10) == 0 {
                drop(log);
                log = writer(&path, max_size, max_files);
            }
        }
        let total = Offsets { stdout: sent[0].len() as u64, stderr: sent[1].len() as u64 };
        assert_eq!(log.offsets(), total);
        let kept = drain(&mut Reader::open(&path).unwrap());
        let first = [sent[0].len() - kept[0].len(), sent[1].len() - kept[1].len()];
        for index in 0..2 {
            assert!(kept[index] == sent[index][first[index]..], "round {round}, stream {index}");
        }
        for _ in 0..10 {
            let from = [0, 1].map(|index| first[index] + dice.below(kept[index].len() + 1));
            let offsets = Offsets { stdout: from[0] as u64, stderr: from[1] as u64 };
            let rest = drain(&mut Reader::from(&path, offsets).unwrap());
            assert!(rest == [&sent[0][from[0]..], &sent[1][from[1]..]], "round {round}, {offsets:?}");
        }
        let mut lost = [0, 0];
        let mut all = Reader::from(&path, Offsets::default()).unwrap();
        while let Some(entry) = all.next().unwrap() {
            lost[entry.stream as usize] += entry.lost;
        }
        assert!((0..2).all(|index| kept[index].is_empty() || lost[index] == first[index] as u64));
        let numbers = super::super::files::numbers(&path).unwrap();
        assert!(numbers.len() < max_files);
        for name in numbers.iter().map(|number| format!("{}.{number}", path.display())) {
            let file = fs::read(&name).unwrap();
            let entries = file.iter().filter(|byte| **byte == b'\n').count();
            assert!(file.len() as u64 <= max_size || entries == 1, "{name}: {} bytes", file.len());
        }
    }
}

#[test]
fn the_last_lines_are_found_from_the_end() {
    let (_folder, path) = place();
    // Some 20 lines a file.
    let mut log = writer(&path, 2000, 10);
    for n in 0..100 {
        log.append(Stream::Stdout, format!("line {n}\n").as_bytes(), at(n)).unwrap();
    }
    let tail = |count| text(Reader::tail(&path, count).unwrap());
    for count in [0, 1, 2, 19, 50, 100] {
        let expected: String = (100 - count..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(tail(count), expected);
    }
    assert_eq!(tail(1000).lines().count(), 100);
    // A line that has not ended is one; one in several entries is one; the other stream's within it is not before it.
    log.append(Stream::Stdout, b"one ", at(0)).unwrap();
    log.append(Stream::Stderr, b"error\n", at(0)).unwrap();
    assert_eq!(tail(1), "error\n");
    assert_eq!(tail(2), "one error\n");
    log.append(Stream::Stdout, b"two ", at(0)).unwrap();
    log.append(Stream::Stdout, b"three\n", at(0)).unwrap();
    assert_eq!(tail(1), "one two three\n");
    assert_eq!(tail(2), "one error\ntwo three\n");
    assert_eq!(tail(3), "line 99\none error\ntwo three\n");
    // What comes later comes, too.
    let mut reader = Reader::tail(&path, 0).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    log.append(Stream::Stderr, b"more\n", at(0)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().output, b"more\n");
}

#[test]
fn a_tail_does_not_read_everything_for_a_line_that_began_long_ago() {
    let (_folder, path) = place();
    let mut log = writer(&path, 100_000_000, 2);
    log.append(Stream::Stderr, b"begun long ago,", at(0)).unwrap();
    for _ in 0..200 {
        log.append(
            Stream::Stdout,
            "filler filler filler filler filler filler\n".repeat(1000).as_bytes(),
            at(0),
        )
        .unwrap();
    }
    log.append(Stream::Stderr, b" ended\n", at(0)).unwrap();
    assert_eq!(text(Reader::tail(&path, 1).unwrap()), " ended\n");
}

#[test]
fn times_and_streams_are_chosen() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1000, 10);
    for n in 0..50 {
        log.append(BOTH[usize::from(n % 2 == 1)], format!("{n} ").as_bytes(), at(n)).unwrap();
        log.append(BOTH[usize::from(n % 2 == 1)], b"!\n", at(n)).unwrap();
    }
    assert_eq!(text(Reader::open(&path).unwrap().since(at(48))), "48 !\n49 !\n");
    assert_eq!(text(Reader::tail(&path, 4).unwrap().only(Stream::Stderr)), "47 !\n49 !\n");
    let mut shown = Vec::new();
    let mut reader = Reader::tail(&path, 2).unwrap();
    while let Some(entry) = reader.next().unwrap() {
        entry.write_to(&mut shown, true).unwrap();
    }
    let expected = "2026-11-24T02:50:48.123456789Z 48 !\n2026-11-24T02:50:49.123456789Z 49 !\n";
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
}

#[test]
fn followers_lose_nothing_though_their_files_are_rotated_away() {
    let (_folder, path) = place();
    let mut log = writer(&path, 200_000, 2);
    let mut dice = Dice(11);
    log.append(Stream::Stdout, b"first\n", at(0)).unwrap();
    // One reads at once, one seldom, one an entry at a time: all independent.
    let mut readers = [0, 1, 2].map(|_| Reader::open(&path).unwrap());
    let mut got = [Vec::new(), Vec::new(), Vec::new()];
    let mut sent = b"first\n".to_vec();
    for round in 0..400 {
        let output = {
            let length = 1 + dice.below(900);
            dice.output(length)
        };
        sent.extend_from_slice(&output);
        log.append(Stream::Stdout, &output, at(0)).unwrap();
        for (index, reader) in readers.iter_mut().enumerate() {
            reader.keep_up().unwrap();
            let most = match index {
                0 => usize::MAX,
                1 if round % 3 == 0 => usize::MAX,
                1 => 0,
                _ => 4,
            };
            for _ in 0..most {
                let Some(entry) = reader.next().unwrap() else { break };
                assert_eq!((entry.lost, entry.offset), (0, got[index].len() as u64), "reader {index}");
                got[index].extend_from_slice(entry.output);
            }
        }
    }
    for (index, reader) in readers.iter_mut().enumerate() {
        let rest = drain(reader);
        got[index].extend_from_slice(&rest[0]);
        assert!(got[index] == sent, "reader {index}");
    }
}

#[test]
fn a_follower_that_is_too_slow_is_told_what_it_lost_and_holds_no_more_than_it_may() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1, 2);
    log.append(Stream::Stdout, b"0\n", at(0)).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    for _ in 0..100 {
        log.append(Stream::Stdout, b"x\n", at(0)).unwrap();
        reader.keep_up().unwrap();
        assert!(reader.files.len() <= MOST_FILES);
    }
    let (mut given, mut lost) = (0, 0);
    while let Some(entry) = reader.next().unwrap() {
        (given, lost) = (given + entry.output.len() as u64, lost + entry.lost);
    }
    assert!(given > 60 && lost > 0, "{given} {lost}");
    assert_eq!(given + lost, 202);
}

#[test]
fn what_a_stream_said_before_its_first_entry_that_is_seen_is_told_as_lost() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1, 2);
    // It begins with the log, and falls behind before the other stream says anything.
    let mut reader = Reader::open(&path).unwrap();
    log.append(Stream::Stdout, b"0\n", at(0)).unwrap();
    for _ in 0..5 {
        log.append(Stream::Stderr, b"x\n", at(0)).unwrap();
    }
    let told: Vec<_> =
        std::iter::from_fn(|| reader.next().unwrap().map(|entry| (entry.stream, entry.lost))).collect();
    assert_eq!(told, [(Stream::Stdout, 0), (Stream::Stderr, 6), (Stream::Stderr, 0)]);
}

#[test]
fn a_first_line_that_lies_of_the_other_stream_hides_nothing_of_it() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1000, 2);
    log.append(Stream::Stdout, b"out\n", at(0)).unwrap();
    log.append(Stream::Stderr, b"err\n", at(0)).unwrap();
    let lines = fs::read_to_string(&path).unwrap().replacen("[0,0]", "[0,99999]", 1);
    fs::write(&path, lines).unwrap();
    assert_eq!(text(Reader::open(&path).unwrap()), "out\nerr\n");
}

#[test]
fn a_watch_wakes_a_reader_elsewhere() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let (_folder, path) = place();
    // All files are kept: how much the reader is behind is chance.
    let mut log = writer(&path, 300, MOST_FILES);
    let mut reader = Reader::open(&path).unwrap();
    let Ok(watch) = Watch::new(&path) else {
        println!("SKIPPED: no inotify");
        return;
    };
    let readable = || loop {
        match poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000_u16)) {
            // A signal that is another test's: a child's end.
            Err(nix::errno::Errno::EINTR) => {}
            ready => return ready.unwrap() == 1,
        }
    };
    let writing = std::thread::spawn(move || {
        for n in 0..20 {
            std::thread::sleep(Duration::from_millis(2));
            log.append(Stream::Stdout, format!("{n}\n").as_bytes(), at(0)).unwrap();
        }
    });
    let mut got = Vec::new();
    while got.len() < 50 && readable() {
        watch.clear().unwrap();
        got.extend_from_slice(&drain(&mut reader)[0]);
    }
    writing.join().unwrap();
    assert_eq!(got.len(), 50);
}
