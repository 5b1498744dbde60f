//! The store under fire: processes killed at any moment, many at once, a full disk. Child processes are the command line's.
//!
//! One test needs strace, one a mount namespace; where they are not to be had, it is ignored, and the reason said.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image_builder::store::ImageStore;
use image_builder::testimage::{self, Tar};
use libtest_mimic::{Arguments, Trial};
use oci_spec::image::ConfigBuilder;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_image-builder");

type Test = fn();

fn main() {
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let strace = works(Command::new("strace").args(["-f", "-o", "/dev/null", "true"]));
    let namespace = works(namespace().args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]));
    let tests: [(&str, Test, Option<&str>); 4] = [
        ("killed_a_hundred_times_at_any_moment", killed_a_hundred_times_at_any_moment, None),
        ("killed_at_every_step", killed_at_every_step, (!strace).then_some("strace does not work")),
        ("many_at_once", many_at_once, None),
        (
            "a_full_disk_is_an_error_and_leaves_nothing",
            a_full_disk_is_an_error_and_leaves_nothing,
            (!namespace).then_some("no mount namespace is to be had"),
        ),
    ];
    let trials = tests.map(|(name, test, lacks)| {
        if let Some(why) = lacks {
            println!("ignored: {name}: {why}");
        }
        let test = move || {
            test();
            Ok(())
        };
        Trial::test(name, test).with_ignored_flag(lacks.is_some())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

/// A command in a mount namespace of its own, where it may mount.
fn namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    command
}

/// Numbers that are the same in every run (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Two images, `a` and `b`, that share two layers of four; one layer has many entries, one a file of a few MB.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(88_172_645_463_325_252);
        let noise: Vec<u8> = (0..3_000_000).map(|_| random.below(256).to_le_bytes()[0]).collect();
        let many =
            (0..500).fold(Tar::new(), |tar, i| tar.file(&format!("many/{i}"), 0o644, &noise[i..i * 5]));
        let shared = [Tar::new().file("large", 0o644, &noise).finish(), many.finish()];
        for name in ["a", "b"] {
            let own = [
                Tar::new().file(name, 0o644, name.as_bytes()).finish(),
                Tar::new().dir(name, 0o755).finish(),
            ];
            let config = ConfigBuilder::default().cmd(vec![name.to_owned()]).build().unwrap();
            testimage::write(&dir.path().join(name), &[&shared[..], &own].concat(), config).unwrap();
        }
        Self { dir }
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--store").arg(self.store_dir()).args(arguments).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What must hold after every kill: the store opens; a layer is whole or not there; an image has its layers, a name its
    /// image; and nothing else is there but what is marked as being written.
    fn check(&self, what: &str) {
        if !self.store_dir().exists() {
            return;
        }
        let store = ImageStore::open(self.store_dir()).unwrap();
        for diff_id in store.layer_ids().unwrap() {
            store.verify_layer(&diff_id, None).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        }
        let images = store.images().unwrap();
        for image in &images {
            image.layers(&store).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        }
        let names: usize = images.iter().map(|image| image.names.len()).sum();
        let files = self.files();
        let count = |start: &str| {
            files.iter().filter(|file| file.starts_with(start) && !file.contains(".pending-")).count()
        };
        assert_eq!((count("names/"), count("images/")), (names, images.len()), "{what}");
    }

    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        for dir in ["", "names", "images/sha256", "layers/sha256", "chains/sha256"] {
            let entries = fs::read_dir(self.store_dir().join(dir)).unwrap().map(Result::unwrap);
            let entries = entries.filter(|entry| entry.file_type().unwrap().is_file());
            files.extend(entries.map(|entry| format!("{dir}/{}", entry.file_name().display())));
        }
        files
    }

    /// The same build succeeds, and leaves no rubbish when it goes.
    fn end(&self) {
        self.succeed(&["build", "a"]);
        self.succeed(&["build", "b"]);
        self.check("the end");
        self.succeed(&["verify"]);
        self.succeed(&["prune", "--all"]);
        assert_eq!(self.files().into_iter().collect::<Vec<_>>(), ["/lock", "/version"]);
    }
}

/// What is done to the store, in turns: so that each finds something to do, and ends early or late.
const TURNS: [&[&str]; 6] = [
    &["pull", "a"],
    &["load", "--input", "b"],
    &["tag", "A", "x"],
    &["prune"],
    &["rm", "--force", "A"],
    &["prune", "--all"],
];

/// `A` stands for the ID of image a.
fn turn(it: &Fixture, turn: usize) -> Vec<String> {
    let config = fs::read(it.dir.path().join("a/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "a/blobs/sha256/");
    let manifest = fs::read(it.dir.path().join(manifest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let id = manifest["config"]["digest"].as_str().unwrap();
    let words = TURNS[turn % TURNS.len()].iter();
    words.map(|word| if *word == "A" { id.to_owned() } else { (*word).to_owned() }).collect()
}

/// After a random part of the time that the turn takes when it is let be.
fn killed_a_hundred_times_at_any_moment() {
    let it = Fixture::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let turns: Vec<Vec<String>> = (0..TURNS.len()).map(|i| turn(&it, i)).collect();
    let mut times = vec![];
    for words in &turns {
        let start = Instant::now();
        it.succeed(&words.iter().map(String::as_str).collect::<Vec<_>>());
        times.push(start.elapsed());
    }
    let (mut killed, mut round) = (0, 0);
    while killed < 100 {
        let (words, time) = (&turns[round % turns.len()], &mut times[round % turns.len()]);
        let mut child = it.command(&words.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
        let micros = u64::try_from(time.as_micros()).unwrap();
        thread::sleep(Duration::from_micros(random.below(micros + 1)));
        child.kill().unwrap();
        match child.wait().unwrap().code() {
            None => killed += 1,
            // It had ended before: the machine is quicker than it was, or there was less to do.
            Some(_) => *time = *time * 9 / 10,
        }
        it.check(&format!("round {round}, {words:?}"));
        round += 1;
    }
    it.end();
}

/// Before and after every system call by which something comes to be or goes: strace(1) kills at the N-th.
fn killed_at_every_step() {
    let it = Fixture::new();
    let turns: Vec<Vec<String>> = (0..TURNS.len()).map(|i| turn(&it, i)).collect();
    let mut kills = 0;
    for call in ["linkat", "/^rename", "/^unlink", "fsync", "ftruncate", "flock"] {
        for words in &turns {
            // Later ones come sooner: each turn that is killed leaves less for the next to do.
            for number in 1.. {
                let mut strace = Command::new("strace");
                strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
                strace.arg(format!("inject={call}:signal=KILL:when={number}"));
                strace.arg(PROGRAM).arg("--store").arg(it.store_dir()).args(words).current_dir(it.dir.path());
                let output = strace.stdin(Stdio::null()).output().unwrap();
                it.check(&format!("{words:?} killed at {call} number {number}"));
                if output.status.code().is_some() {
                    break;
                }
                kills += 1;
            }
        }
    }
    assert!(kills >= 40, "only {kills} kills");
    it.end();
}

/// Eight processes at once that pull, name, remove and prune the same images.
fn many_at_once() {
    let it = Fixture::new();
    it.succeed(&["pull", "a"]); // without a store there is nothing to prune
    let turns: Vec<Vec<String>> = (0..TURNS.len()).map(|i| turn(&it, i)).collect();
    thread::scope(|scope| {
        for seed in 1..=8 {
            let (it, turns) = (&it, &turns);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..8 {
                    let words = &turns[usize::try_from(random.below(turns.len() as u64)).unwrap()];
                    let words: Vec<_> = words.iter().map(String::as_str).collect();
                    let output = it.run(&words);
                    let error = String::from_utf8_lossy(&output.stderr).into_owned();
                    // Somebody else may have removed the image.
                    let gone = matches!(words[0], "rm" | "tag") && error.contains("there is no image");
                    assert!(output.status.success() || gone, "{words:?}: {error}");
                }
            });
        }
    });
    it.check("all are done");
    it.end();
}

/// In a mount namespace of its own, on a tmpfs that is too small.
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let it = Fixture::new();
    fs::create_dir(it.store_dir()).unwrap();
    let script = r#"
        mount -t tmpfs -o size=2m tmpfs store || exit 3
        "$1" --store store build a && exit 1
        find store -type f ! -name lock ! -name version
        mount -o remount,size=64m store
        "$1" --store store build a > /dev/null 2>&1 || exit 2
    "#;
    let mut unshare = namespace();
    unshare.args(["sh", "-c", script, "sh", PROGRAM]);
    let output = unshare.current_dir(it.dir.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", output.status.code());
    assert!(error.contains("No space left on device") && error.contains("layer sha256:"), "{error}");
    // The small layers that fit are whole and stay; of the others there is nothing.
    let left = String::from_utf8_lossy(&output.stdout);
    assert!(
        left.lines().all(|line| line.contains("/layers/sha256/") && !line.contains(".pending")),
        "{left}"
    );
}
