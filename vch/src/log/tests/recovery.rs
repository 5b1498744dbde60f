//! What is found when a log is opened again: torn, damaged, foreign or hostile files.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;

use super::super::MOST_LINE;
use super::*;

#[test]
fn cut_at_any_byte_it_goes_on_where_the_last_complete_entry_ends() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1 << 20, 3);
    // Where in the file, and in the streams, each entry ends.
    let mut ends = vec![(0, Offsets::default())];
    let pieces: [(Stream, &[u8]); 6] = [
        (Stream::Stdout, b"one\n"),
        (Stream::Stderr, b"\xff\xfe"),
        (Stream::Stdout, "€ and \x1b\n".as_bytes()),
        (Stream::Stdout, b"\xe2\x82"),
        (Stream::Stdout, b"\xac\n"),
        (Stream::Stderr, b"end"),
    ];
    for (stream, output) in pieces {
        let offsets = log.append(stream, output, at(0)).unwrap();
        ends.push((fs::metadata(&path).unwrap().len(), offsets));
    }
    drop(log);
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let seen = drain(&mut reader);
        let mut log = writer(&path, 1 << 20, 3);
        let (end, offsets) = *ends.iter().rev().find(|(end, _)| *end <= cut as u64).unwrap();
        assert_eq!((log.offsets(), fs::metadata(&path).unwrap().len()), (offsets, end), "cut at {cut}");
        assert_eq!(seen.map(|output| output.len() as u64), [offsets.stdout, offsets.stderr]);
        log.append(Stream::Stdout, b"again\n", at(1)).unwrap();
        // Who was reading then goes on, too.
        assert_eq!(drain(&mut reader), [b"again\n".to_vec(), Vec::new()], "cut at {cut}");
        let all = drain(&mut Reader::open(&path).unwrap());
        assert_eq!(all[0].len() as u64, offsets.stdout + 6);
    }
}

#[test]
fn a_rotation_cut_short_anywhere_loses_nothing() {
    let (folder, path) = place();
    let name = |suffix: &str| folder.path().join(format!("x.log{suffix}"));
    // What has been renamed when the process is killed.
    let renames = [(".2", ".3"), (".1", ".2"), ("", ".1"), (".new", "")];
    for done in 0..=renames.len() {
        fs::read_dir(folder.path()).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        writer(&path, 1, 4).append(Stream::Stdout, b"a\nb\nc\n", at(0)).unwrap();
        let line = fs::read_to_string(&path).unwrap().replace("\"c\\n", "\"d\\n").replace("[4,", "[6,");
        fs::write(name(".new"), line).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        for (from, to) in &renames[..done] {
            fs::rename(name(from), name(to)).unwrap();
        }
        // It is acknowledged when all is done.
        let expected = if done == renames.len() { "a\nb\nc\nd\n" } else { "a\nb\nc\n" };
        assert_eq!(text(Reader::open(&path).unwrap()), expected);
        let mut log = writer(&path, 1, 9);
        assert_eq!(log.offsets().stdout, expected.len() as u64, "{done}");
        assert!(!name(".new").exists());
        log.append(Stream::Stdout, b"!", at(0)).unwrap();
        let expected = format!("{expected}!");
        assert_eq!(text(Reader::open(&path).unwrap()), expected);
        assert_eq!(drain(&mut reader)[0], expected.as_bytes());
    }
}

#[test]
fn what_is_no_log_is_refused_and_left_alone() {
    let (folder, path) = place();
    for foreign in [
        "hello\n",
        "hello",
        "{}\n",
        "\n",
        "\0\0\0\0",
        "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"x\"}\n",
        "#{\"log\":\"",
    ] {
        fs::write(&path, foreign).unwrap();
        let new = folder.path().join("x.log.new");
        fs::write(&new, "someone's").unwrap();
        let error = format!("{:#}", Writer::open(&path, Limits::default()).unwrap_err());
        assert!(error.contains("x.log is not a log: not one line of it"), "{foreign:?}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        fs::remove_file(new).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.damaged(), u64::from(foreign.ends_with('\n')));
    }
    fs::remove_file(&path).unwrap();
    assert!(format!("{:#}", Reader::open(&path).unwrap_err()).contains("there is no log"));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for error in [Writer::open(&path, Limits::default()).err(), Reader::open(&path).err()] {
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains("x.log") && !error.contains("no log "), "{error}");
    }
    fs::remove_file(&path).unwrap();
    symlink(folder.path(), &path).unwrap();
    assert!(Writer::open(&path, Limits::default()).is_err() && Reader::open(&path).is_err());
    let nowhere = folder.path().join("none/x.log");
    let error = format!("{:#}", Writer::open(&nowhere, Limits::default()).unwrap_err());
    assert!(error.contains("none/x.log: No such file"), "{error}");
    for (max_size, max_files) in [(0, 1), (1, 0), (1, 33)] {
        assert!(Writer::open(&path, Limits { max_size, max_files }).is_err());
    }
}

#[test]
fn damage_is_skipped_and_counted_and_what_is_good_is_kept() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1 << 20, 3);
    for n in 0..10 {
        log.append(Stream::Stdout, format!("line {n}\n").as_bytes(), at(n)).unwrap();
    }
    drop(log);
    let whole = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for damage in [&b"\0\0\0\0\0\0\n"[..], b"{}\n", b"\n\n\n", &[b'#'; MOST_LINE + 1], &[b'#'; 3 * MOST_LINE]]
    {
        let mut damaged = lines.clone();
        damaged[5] = damage;
        if !damage.ends_with(b"\n") {
            damaged.insert(6, b"\n");
        }
        fs::write(&path, damaged.concat()).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        let mut log = writer(&path, 1 << 20, 3);
        assert_eq!((log.offsets().stdout, fs::metadata(&path).unwrap().len()), (70, length));
        log.append(Stream::Stdout, b"more\n", at(10)).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let (mut given, mut lost) = (0, 0);
        while let Some(entry) = reader.next().unwrap() {
            (given, lost) = (given + entry.output.len(), lost + entry.lost);
        }
        assert_eq!((given, lost), (68, 7));
        assert!(reader.damaged() > 0);
        assert_eq!(text(Reader::tail(&path, 6).unwrap()).lines().next(), Some("line 4"));
    }
}

#[test]
fn a_line_of_1_gib_takes_no_memory() {
    let (_folder, path) = place();
    let mut log = writer(&path, 1 << 40, 3);
    log.append(Stream::Stdout, b"before\n", at(0)).unwrap();
    drop(log);
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().output, b"before\n");
    // Torn so far: not read again each time, but found when it was cut off.
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(text(Reader::tail(&path, 5).unwrap()), "before\n");
    writer(&path, 1 << 40, 3).append(Stream::Stdout, b"after\n", at(0)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().output, b"after\n");
    // And ended.
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    (&file).write_all(b"\n").unwrap();
    writer(&path, 1 << 40, 3).append(Stream::Stdout, b"last\n", at(0)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().output, b"last\n");
    assert_eq!(reader.damaged(), 1);
    assert_eq!(text(Reader::tail(&path, 2).unwrap()), "after\nlast\n");
    assert!(reader.memory() < 512 << 10, "{}", reader.memory());
}

#[test]
fn there_is_one_writer() {
    let (_folder, path) = place();
    let mut first = writer(&path, 1, 3);
    let refused = || format!("{:#}", Writer::open(&path, Limits::default()).unwrap_err());
    assert!(refused().contains("is being written by another process"));
    first.append(Stream::Stdout, b"a\nb\nc\n", at(0)).unwrap();
    assert!(refused().contains("is being written by another process"));
    drop(first);
    assert_eq!(writer(&path, 1, 3).offsets().stdout, 6);
}

#[test]
fn names_of_others_are_not_ours() {
    let (folder, path) = place();
    for name in ["x.log.01", "x.log.+1", "x.log.1.gz", "x.log.0", "x.log.99999999999", "y.log.1"] {
        fs::write(folder.path().join(name), "theirs").unwrap();
    }
    let mut log = writer(&path, 1, 2);
    log.append(Stream::Stdout, b"a\nb\nc\nd\n", at(0)).unwrap();
    assert_eq!(text(Reader::open(&path).unwrap()), "c\nd\n");
    assert_eq!(folder.path().read_dir().unwrap().count(), 6 + 2);
    // With fewer files allowed, the others go.
    drop(log);
    let mut log = writer(&path, 1, 1);
    log.append(Stream::Stdout, b"e\n", at(0)).unwrap();
    assert_eq!(text(Reader::open(&path).unwrap()), "e\n");
    drop(File::open(&path).unwrap());
}
