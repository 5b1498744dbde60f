//! There is no more room: nothing is torn or doubled, and it goes on when there is.

use std::fs;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

use super::crash::again;
use super::*;

/// Sends `output` until all of it is in the log, making room after each error. Returns how often that was.
fn send(log: &mut Writer, output: &[u8], mut make_room: impl FnMut(usize)) -> usize {
    let mut errors = 0;
    let start = log.offsets().stdout;
    loop {
        let sent = usize::try_from(log.offsets().stdout - start).unwrap();
        let Err(error) = log.append(Stream::Stdout, &output[sent..], at(0)) else { return errors };
        let error = format!("{error:#}");
        assert!(error.contains("x.log: ") && error.contains("os error"), "{error}");
        let file = fs::read(log.path()).unwrap();
        assert!(file.is_empty() || file.ends_with(b"\n"), "nothing torn is left");
        make_room(errors);
        errors += 1;
        assert!(errors < 1000, "{error}");
    }
}

fn output() -> Vec<u8> {
    let mut dice = Dice(9);
    (0..60)
        .flat_map(|_| {
            let length = 1 + dice.below(9000);
            dice.output(length)
        })
        .collect()
}

#[test]
#[ignore = "what the next test starts: the limit is the whole process's"]
fn under_a_limit() {
    let Some(path) = std::env::var_os("LOG") else { return };
    // SAFETY: no handler of ours runs.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
    let mut log = writer(Path::new(&path), 1 << 30, 3);
    let mut reader = Reader::open(log.path()).unwrap();
    let mut followed = Vec::new();
    let output = output();
    limit(100);
    let errors = send(&mut log, &output, |errors| {
        followed.extend_from_slice(&drain(&mut reader)[0]);
        limit(1000 + errors as u64 * 3333);
    });
    followed.extend_from_slice(&drain(&mut reader)[0]);
    println!("{errors} errors, {} bytes", output.len());
    assert!(errors > 50);
    assert!(followed == output && drain(&mut Reader::open(log.path()).unwrap())[0] == output);
    assert_eq!(writer_after(log), output.len() as u64);
}

fn writer_after(log: Writer) -> u64 {
    let path = log.path().to_owned();
    drop(log);
    writer(&path, 1 << 30, 3).offsets().stdout
}

#[test]
fn a_write_cut_short_at_any_length_is_mended() {
    let (_folder, path) = place();
    let child = again("log::tests::full_disk::under_a_limit", &path).output().unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("errors, "), "{child:?}");
}

#[test]
#[ignore = "what the next test starts, on a small disk"]
fn on_a_small_disk() {
    let Some(path) = std::env::var_os("LOG") else { return };
    let path = Path::new(&path);
    let ballast = path.with_file_name("ballast");
    let output = output();
    // Not rotated: it stops until there is room. Rotated: its own oldest file makes room.
    for (max_size, fill) in [(1 << 30, 4000 << 10), (100_000, 3800 << 10)] {
        fs::write(&ballast, vec![0; fill]).unwrap();
        let mut log = writer(path, max_size, 4);
        let mut reader = Reader::open(path).unwrap();
        let mut followed = Vec::new();
        let errors = send(&mut log, &output, |errors| {
            if max_size == 1 << 30 {
                followed.extend_from_slice(&drain(&mut reader)[0]);
            }
            let left = fill.saturating_sub((errors + 1) * (400 << 10));
            fs::OpenOptions::new().write(true).open(&ballast).unwrap().set_len(left as u64).unwrap();
        });
        assert_eq!(log.offsets().stdout, output.len() as u64);
        if max_size == 1 << 30 {
            followed.extend_from_slice(&drain(&mut reader)[0]);
            assert!(errors > 0 && followed == output, "{errors}");
        } else {
            let kept = drain(&mut Reader::open(path).unwrap());
            assert!(output.ends_with(&kept[0]) && kept[0].len() > 100_000, "{errors} {}", kept[0].len());
        }
        println!("{errors} errors with files of {max_size}");
        for file in path.parent().unwrap().read_dir().unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn a_full_disk_stops_it_until_there_is_room() {
    let (folder, path) = place();
    let mount = "mount -t tmpfs -o size=4m none \"$0\" || exit 77; exec \"$@\"";
    let test = again("log::tests::full_disk::on_a_small_disk", &path);
    let child = Command::new("unshare")
        .args(["-m", "sh", "-c", mount])
        .arg(folder.path())
        .arg(test.get_program())
        .args(test.get_args())
        .env("LOG", &path)
        .output();
    match child {
        Ok(child) if child.status.success() => print!("{}", String::from_utf8_lossy(&child.stdout)),
        Ok(child) if matches!(child.status.code(), Some(1 | 77)) && child.stdout.is_empty() => {
            println!("SKIPPED: no small disk: {}", String::from_utf8_lossy(&child.stderr).trim());
        }
        child => panic!("{child:?}"),
    }
}
