//! What a layer disk costs to make.
//!
//! The floor inflates and hashes and throws the result away, so it leaves out what any builder pays besides: a second
//! SHA-256, over the blob, and writing the disk (copied to the page cache and synced, both counted).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use image_builder::verity;

use super::figures::{median, to_float};
use super::layers::{self, Debian, Layer};
use super::measure::{Cost, measure};
use crate::process::{cargo_build, say};
use crate::workspace::Workspace;

/// Runs of each kind, taken in turns.
const ROUNDS: usize = 7;
/// The points of the curve.
const ENTRIES: [u64; 3] = [10_000, 100_000, 1_000_000];
const MIB: f64 = 1048576.0;

/// Builds, measures and prints.
pub fn run(workspace: &Workspace) -> Result<()> {
    cargo_build(&workspace.root, &["--release", "-p", "image-builder", "--bins", "--example", "floor"])?;
    let folder = workspace.target.join("bench");
    let bench = Bench {
        builder: workspace.target.join("release/image-builder"),
        floor: workspace.target.join("release/examples/floor"),
        scratch: folder.join("scratch"),
    };
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let debian = layers::debian(&folder)?;
    println!("\na layer of Debian: {:.1} MB of tar", megabytes(&debian.tar)?);
    for (name, layer) in [("gzip", &debian.gzip), ("zstd", &debian.zstd)] {
        bench.ours(name, layer)?;
    }
    bench.peers(&debian)?;
    bench.curve(&folder)?;
    bench.clear()
}

struct Bench {
    builder: PathBuf,
    floor: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    /// Ours beside the floor.
    fn ours(&self, name: &str, layer: &Layer) -> Result<()> {
        say(&format!("measuring the image builder, {name}"));
        let (mut floor, mut ours, mut tree) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            floor.push(measure(Command::new(&self.floor).arg("layer").arg(&layer.blob))?);
            ours.push(self.build(layer)?);
            let bare = self.without_tree()?;
            tree.push(measure(Command::new(&self.floor).arg("tree").arg(bare))?);
        }
        let (floor, ours, tree) = (Median::of(&floor), Median::of(&ours), Median::of(&tree));
        println!(
            "\n{name}, {:.1} MB (median of {ROUNDS}, in turns)  CPU s   wall s  peak MiB",
            megabytes(&layer.blob)?
        );
        floor.print("floor: inflate, hash the tar");
        ours.print("image-builder build");
        tree.print("  its dm-verity hash tree, apart");
        println!(
            "  CPU over floor      {:5.2}; without the hash tree {:.2} (goal: 1.25)",
            ours.cpu / floor.cpu,
            (ours.cpu - tree.cpu) / floor.cpu
        );
        println!(
            "  wall over floor     {:5.2}; without the hash tree {:.2} (goal: below 1)",
            ours.wall / floor.wall,
            (ours.wall - tree.wall) / floor.wall
        );
        let (disk, recipe) = (self.in_store("erofs")?, self.in_store("tarsplit")?);
        let data = verity::read(&open(&disk)?)?.geometry.data_blocks() * verity::BLOCK;
        let whole = fs::metadata(&disk)?.len();
        println!(
            "  space: disk {:.1} MB, of it hash tree {:.1} MB ({:.2} %); recipe for export {:.2} MB ({:.2} %)",
            to_float(whole) / 1e6,
            to_float(whole - data) / 1e6,
            100.0 * to_float(whole - data) / to_float(data),
            megabytes(&recipe)?,
            100.0 * megabytes(&recipe)? * 1e6 / to_float(data)
        );
        Ok(())
    }

    /// The layer's disk, made in an empty store.
    fn build(&self, layer: &Layer) -> Result<Cost> {
        self.clear()?;
        measure(Command::new(&self.builder).arg("build").arg("--store").arg(&self.scratch).arg(&layer.layout))
    }

    /// A file of the only layer in the store.
    fn in_store(&self, extension: &str) -> Result<PathBuf> {
        let mut files = fs::read_dir(self.scratch.join("layers/sha256")).context("looking into the store")?;
        let found = files.find_map(|file| {
            file.ok().map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == extension))
        });
        found.with_context(|| format!("no .{extension} in the store"))
    }

    /// A copy of the layer's disk, without hash tree.
    fn without_tree(&self) -> Result<PathBuf> {
        let (disk, bare) = (self.in_store("erofs")?, self.scratch.join("bare"));
        let length = verity::read(&open(&disk)?)?.geometry.data_blocks() * verity::BLOCK;
        let copied = File::create(&bare)
            .and_then(|mut to| std::io::copy(&mut File::open(&disk)?, &mut to).and(to.set_len(length)));
        copied.with_context(|| format!("copying {}", disk.display()))?;
        Ok(bare)
    }

    /// Other programs at the same work, each step a line.
    fn peers(&self, debian: &Debian) -> Result<()> {
        say("measuring other programs");
        println!("\nothers, gzip (median of {ROUNDS}, in turns)      CPU s   wall s  peak MiB");
        let mut steps = self.steps(debian);
        for _ in 0..ROUNDS {
            for step in &mut steps {
                if let Ok(costs) = &mut step.costs {
                    self.clear()?;
                    fs::create_dir_all(self.scratch.join("tree")).context("making a folder")?;
                    match measure(&mut step.command) {
                        Ok(cost) => costs.push(cost),
                        Err(error) => step.costs = Err(format!("{error:#}")),
                    }
                }
            }
        }
        for step in &steps {
            match &step.costs {
                Ok(costs) => Median::of(costs).print(step.name),
                Err(why) => println!("  {:<36} not measured: {why}", step.name),
            }
        }
        for (name, parts) in [
            ("gzip, sha256sum, tar, mkfs.erofs", &[0, 1, 2, 3, 4][..]),
            ("gzip, sha256sum, mkfs.erofs --tar=f", &[0, 1, 2, 5]),
        ] {
            let parts: Option<Vec<_>> =
                parts.iter().map(|&part| Some(Median::of(steps.get(part)?.costs.as_ref().ok()?))).collect();
            match parts {
                Some(parts) => Median::sum(&parts).print(name),
                None => println!("  {name:<36} not measured: a step of it was not"),
            }
        }
        Ok(())
    }

    fn steps(&self, debian: &Debian) -> Vec<Step> {
        let disk = self.scratch.join("disk");
        let (tar, tree, blob) = (path(&debian.tar), path(&debian.tree), path(&debian.gzip.blob));
        let (disk, out) = (path(&disk), path(&self.scratch.join("tree")));
        let image = format!("{}:latest", debian.gzip.layout.display());
        let kib = (fs::metadata(&debian.tar).map_or(0, |m| m.len()) * 3 / 2 / 1024).to_string();
        // It helps on stderr.
        let help = Command::new("mkfs.erofs").arg("--help").output().map(|o| [o.stdout, o.stderr].concat());
        let mut steps = vec![
            Step::new("gzip -dc", "gzip", &["-dc", &blob]),
            Step::new("sha256sum of the blob", "sha256sum", &[&blob]),
            Step::new("sha256sum of the tar", "sha256sum", &[&tar]),
            Step::new("tar -x", "tar", &["-xf", &tar, "--exclude=./dev/*", "-C", &out]),
            Step::new("mkfs.erofs of the tree", "mkfs.erofs", &[&disk, &tree]),
            Step::new("mkfs.erofs --tar=f", "mkfs.erofs", &["--tar=f", &disk, &tar]),
            Step::new(
                "mke2fs -d of the tree",
                "/sbin/mke2fs",
                &["-q", "-F", "-t", "ext4", "-d", &tree, &disk, &kib],
            ),
            Step::new("umoci unpack", "umoci", &["unpack", "--image", &image, &format!("{out}/bundle")]),
        ];
        if !help.is_ok_and(|help| String::from_utf8_lossy(&help).contains("--tar")) {
            steps[5].costs = Err("the installed mkfs.erofs has no --tar".into());
        }
        if !nix::unistd::geteuid().is_root() {
            steps[7].command.arg("--rootless");
        }
        steps
    }

    /// How cost grows with entries, and does not with contents.
    fn curve(&self, folder: &Path) -> Result<()> {
        say("measuring the curve");
        println!("\nimage-builder build, by entries and contents   CPU s   wall s  peak MiB");
        for count in ENTRIES {
            let layer = layers::entries(folder, count)?;
            let cost = self.build(&layer)?;
            let (micros, bytes) =
                (cost.cpu.as_secs_f64() * 1e6 / to_float(count), to_float(cost.peak) / to_float(count));
            Median::of(&[cost]).print(&format!("{count} empty files: {micros:.2} us, {bytes:.0} bytes each"));
        }
        let cost = self.build(&layers::large(folder, 2 << 30)?)?;
        Median::of(&[cost]).print("one file of 2 GiB");
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.scratch.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A run of another program, and what it cost each time; or why it cannot be measured.
struct Step {
    name: &'static str,
    command: Command,
    costs: Result<Vec<Cost>, String>,
}

impl Step {
    fn new(name: &'static str, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self { name, command, costs: Ok(vec![]) }
    }
}

/// Seconds and MiB in the middle of some runs.
struct Median {
    cpu: f64,
    wall: f64,
    peak: f64,
}

impl Median {
    fn of(costs: &[Cost]) -> Self {
        let of = |part: fn(&Cost) -> Duration| median(costs.iter().map(part).collect());
        let peak = costs.iter().map(|cost| cost.peak).max().unwrap_or_default();
        Self { cpu: of(|cost| cost.cpu), wall: of(|cost| cost.wall), peak: to_float(peak) / MIB }
    }

    /// One after another.
    fn sum(parts: &[Self]) -> Self {
        let sum = |part: fn(&Self) -> f64| parts.iter().map(part).sum();
        Self {
            cpu: sum(|p| p.cpu),
            wall: sum(|p| p.wall),
            peak: parts.iter().map(|p| p.peak).fold(0.0, f64::max),
        }
    }

    fn print(&self, name: &str) {
        println!("  {name:<42} {:8.3} {:8.3} {:9.1}", self.cpu, self.wall, self.peak);
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn megabytes(path: &Path) -> Result<f64> {
    let length = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.len();
    Ok(to_float(length) / 1e6)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
