//! What a containerVM costs, beside a floor measured in the same run: the same kernel on the same machine with an init
//! that only powers off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;
use vch::options::Machine;

use super::bare::{self, Bare};
use super::descendants;
use super::figures::{median, to_float};
use super::peers::Peers;
use super::pss;
use super::way::{self, Way};
use crate::process::say;
use crate::tools::MUSL;
use crate::workspace::Workspace;

/// Runs of each kind for wall and CPU time, taken in turns.
const ROUNDS: usize = 9;
/// Runs of each kernel and machine to compare their floors, in turns.
const FLOORS: usize = 21;
/// Runs under -icount. Waiting for a disk counts as time there, so the smallest figure of a step is its own.
const COUNTED_ROUNDS: usize = 5;
/// How many are tried for a counted run.
const SEEDS: usize = 5;
/// 2^6 ns of the guest's time for each instruction.
const SHIFT: u32 = 6;
/// How long a container may take to start.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(1);

/// Measures and prints.
pub fn run(workspace: &Workspace) -> Result<()> {
    descendants::adopt()?;
    let bootstrap = workspace.bootstrap();
    let own = bootstrap.join("own");
    let mut floors = vec![];
    for (name, folder, machine) in [
        ("our own kernel, microvm", &own, Machine::Microvm),
        ("our own kernel, q35", &own, Machine::Q35),
        ("Debian's kernel, q35", &bootstrap, Machine::Q35),
    ] {
        let Some(kernel) = bare::kernel(folder) else {
            say(&format!("{name}: it is not there, `cargo xtask kernel` makes it"));
            continue;
        };
        println!("\n# {name}");
        // Others would have to load modules as tether does.
        let peers = (folder, machine) == (&own, Machine::Q35);
        let peers = peers.then(|| Peers::prepare(workspace, &kernel)).transpose()?;
        let bench = Bench::prepare(workspace, kernel, folder.join("initrd"), machine, peers)?;
        bench.sizes(workspace)?;
        bench.memory()?;
        bench.instructions()?;
        bench.times()?;
        floors.push((name, bench));
    }
    in_turns(&floors)
}

/// The floors of all kernels and machines, one after the other: the host is the same for all of them.
fn in_turns(benches: &[(&str, Bench)]) -> Result<()> {
    say("measuring floors in turns");
    let mut all = vec![vec![]; benches.len()];
    for _ in 0..FLOORS {
        for ((_, bench), times) in benches.iter().zip(&mut all) {
            times.push(bench.floor(&[])?.wall);
        }
    }
    let medians: Vec<_> = all.into_iter().map(median).collect();
    println!("\nseconds of the floor (median of {FLOORS} runs, in turns), over the last");
    let last = medians.last().copied().unwrap_or_default();
    for ((name, _), median) in benches.iter().zip(medians) {
        println!("  {name:<30} {median:8.3} {:8.2} x", median / last);
    }
    Ok(())
}

struct Bench {
    vch: PathBuf,
    image: PathBuf,
    initrd: PathBuf,
    machine: Machine,
    floor: Bare,
    peers: Option<Peers>,
    folder: PathBuf,
    store: tempfile::TempDir,
}

impl Bench {
    fn prepare(
        workspace: &Workspace,
        kernel: PathBuf,
        initrd: PathBuf,
        machine: Machine,
        peers: Option<Peers>,
    ) -> Result<Self> {
        Ok(Self {
            vch: workspace.vch(),
            image: workspace.image(),
            floor: Bare::prepare(workspace, "floor", kernel, Some(machine), &[])?,
            initrd,
            machine,
            peers,
            folder: workspace.target.join("bench"),
            store: tempfile::tempdir().context("making a temporary folder")?,
        })
    }

    fn sizes(&self, workspace: &Workspace) -> Result<()> {
        let size = |path: &Path| -> Result<String> {
            let length = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
            Ok(format!("{:8.1} KiB", to_float(length) / 1024.0))
        };
        println!(
            "size of tether, stripped         {}",
            size(&workspace.target.join(MUSL).join("release/tether"))?
        );
        println!("size of the initramfs            {}", size(&self.initrd)?);
        println!("size of the kernel               {}", size(&self.floor.kernel)?);
        println!("largest resident set of tether   {:8} KiB", self.container(Way::Boot, &[])?.peak_rss);
        Ok(())
    }

    /// What a small machine leaves to the container's process.
    fn memory(&self) -> Result<()> {
        let output = self.vch(&["-m", "128m"], &["cat", "/proc/meminfo"]).output();
        let output = output.with_context(|| format!("starting {}", self.vch.display()))?;
        ensure!(output.status.success(), "vch run ended with {}", output.status);
        let said = String::from_utf8_lossy(&output.stdout);
        let of = |name: &str| -> Result<f64> {
            let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
            Ok(to_float(line.with_context(|| format!("no {name}"))?.trim().parse()?) * 1024.0 / 1e6)
        };
        let (total, available) = (of("MemTotal:")?, of("MemAvailable:")?);
        println!("of a VM of 128 MiB (134.2 MB), to the container's process");
        println!("  MemAvailable; MemTotal         {available:8.1} MB of {total:.1} (goal: 100)");
        println!("of the host, for QEMU of one that sleeps (PSS)   all   guest's memory");
        for (title, way) in [("booted", Way::Boot), ("from a template, alone", Way::Template)] {
            let [all, guest] = self.sleeping(way)?;
            println!("  {title:<42} {all:8.1} {guest:8.1} MiB");
        }
        Ok(())
    }

    /// What the host has of one that sleeps: [`pss::of`].
    fn sleeping(&self, way: Way) -> Result<[f64; 2]> {
        const NAME: &str = "bench-boot";
        let options = ["-d", "--name", NAME].into_iter().chain(way.word());
        let mut run = self.vch(&options.collect::<Vec<_>>(), &["sh", "-c", "echo up; exec sleep 100000"]);
        let output = run.output().with_context(|| format!("starting {}", self.vch.display()))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let measured = self.when_up(NAME).and_then(|()| pss::of(NAME));
        let removed = self.in_store("rm").args(["-f", NAME]).stdout(Stdio::null()).status()?;
        ensure!(removed.success(), "the bench's container cannot be removed");
        descendants::wait()?;
        measured
    }

    fn when_up(&self, name: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.in_store("logs").arg(name).output()?.stdout != b"up\n" {
            ensure!(Instant::now() < end, "{name} does not start");
            sleep(Duration::from_millis(50));
        }
        sleep(REST);
        Ok(())
    }

    /// Guest instructions, by step.
    fn instructions(&self) -> Result<()> {
        say("counting guest instructions");
        let mut floor = u64::MAX;
        let (mut steps, mut restored) = (vec![], vec![]);
        for seed in 1..=COUNTED_ROUNDS {
            floor = floor.min(counted(seed, |options| self.floor(options))?.at);
            least(&mut steps, counted(seed, |options| self.container(Way::Boot, options))?.steps)?;
            // All from one template: its chance is its own.
            least(&mut restored, counted(1, |options| self.container(Way::Template, options))?.steps)?;
        }
        let instructions = |nanos: u64| to_float(nanos >> SHIFT) / 1e6;
        println!("\nmillion guest instructions (least of {COUNTED_ROUNDS} runs under -icount)");
        println!("  kernel to PID 1, floor         {:8.2}", instructions(floor));
        let sums =
            [("kernel to PID 1", "tether"), ("PID 1 to exec", "exec"), ("exec to unmounted", "unmounted")];
        let mut sums = sums.into_iter();
        let mut sum = (sums.next(), 0);
        for (name, nanos) in &steps {
            println!("    up to {name:<22} {:8.2}", instructions(*nanos));
            sum.1 += nanos;
            if let Some((title, last)) = sum.0
                && last == name
            {
                // What the kernel takes to load them is not tether's.
                let modules = steps.iter().filter(|(name, _)| name.ends_with("modules"));
                let modules: u64 = modules.map(|(_, nanos)| nanos).sum();
                let note = match last {
                    "tether" => format!("  ({:.2} x floor)", to_float(sum.1) / to_float(floor)),
                    "exec" => format!("  ({:.2} without modules; goal: 10)", instructions(sum.1 - modules)),
                    _ => String::new(),
                };
                println!("  {title:<30} {:8.2}{note}", instructions(sum.1));
                sum = (sums.next(), 0);
            }
        }
        let whole: u64 = steps.iter().map(|(_, nanos)| nanos).sum();
        println!("  whole run over floor           {:8.2} x (goal: 1.10)", to_float(whole) / to_float(floor));
        // Up to the spec it waits for the host, and time goes on without instructions.
        let told = restored.iter().position(|(name, _)| name == "spec").context("no step is the spec")?;
        let restored: u64 = restored.iter().skip(told + 1).map(|(_, nanos)| nanos).sum();
        println!(
            "  from a template, from the spec on, over the whole run {:8.2} ({:.3} x)",
            instructions(restored),
            to_float(restored) / to_float(whole)
        );
        if let Some(peers) = &self.peers {
            for peer in &peers.all {
                let at = counted(1, |options| peers.run(peer, options))?.at;
                println!("  up to exec by {:<36} {:8.2}", peer.title, instructions(at));
            }
        }
        Ok(())
    }

    /// Wall and CPU time of whole runs.
    fn times(&self) -> Result<()> {
        say("measuring times");
        // It makes the template.
        self.container(Way::Template, &[])?;
        let mut all: BTreeMap<&str, Vec<(Duration, Duration)>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let floor = self.floor(&[])?;
            all.entry("floor").or_default().push((floor.wall, floor.cpu));
            for (name, way) in [("vch", Way::Boot), ("template", Way::Template)] {
                let vch = self.container(way, &[])?;
                all.entry(name).or_default().push((vch.wall, vch.cpu));
            }
            if let Some(peers) = &self.peers {
                for peer in &peers.all {
                    let before = descendants::cpu()?;
                    let wall = peers.run(peer, &[])?.wall;
                    all.entry(peer.title).or_default().push((wall, descendants::cpu()? - before));
                }
            }
        }
        let median = |name: &str, of: fn(&(Duration, Duration)) -> Duration| {
            median(all.get(name).into_iter().flatten().map(of).collect())
        };
        println!("\nseconds (median of {ROUNDS} runs, in turns)    wall      CPU");
        let (floor_wall, floor_cpu) = (median("floor", |run| run.0), median("floor", |run| run.1));
        let (wall, cpu) = (median("vch", |run| run.0), median("vch", |run| run.1));
        println!("  floor: QEMU, kernel, power-off       {floor_wall:8.3} {floor_cpu:8.3}");
        println!("  vch run IMAGE true                   {wall:8.3} {cpu:8.3}");
        println!("  ratio (goal: 1.10)                   {:8.2} {:8.2}", wall / floor_wall, cpu / floor_cpu);
        let (restored, restored_cpu) = (median("template", |run| run.0), median("template", |run| run.1));
        println!("  the same from a template             {restored:8.3} {restored_cpu:8.3}");
        println!(
            "  ratio to the boot (goal: {})       {:8.2} {:8.2}",
            way::GOAL,
            restored / wall,
            restored_cpu / cpu
        );
        for peer in self.peers.iter().flat_map(|peers| &peers.all) {
            let (wall, cpu) = (median(peer.title, |run| run.0), median(peer.title, |run| run.1));
            println!("  {:<36} {wall:8.3} {cpu:8.3}", peer.title);
        }
        Ok(())
    }

    /// `vch run OPTIONS IMAGE COMMAND`, as a user runs it.
    fn vch(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.in_store("run");
        command.arg("--kernel").arg(&self.floor.kernel).arg("--initrd").arg(&self.initrd);
        let machine = self.machine.to_possible_value();
        command.args(machine.iter().flat_map(|machine| ["--machine", machine.get_name()]));
        command.args(options).arg(&self.image).args(words).stdin(Stdio::null());
        command
    }

    /// `vch COMMAND`, in a store of its own.
    fn in_store(&self, command: &str) -> Command {
        let mut vch = Command::new(&self.vch);
        vch.arg(command).arg("--store").arg(self.store.path());
        vch
    }

    /// A whole run of `true`.
    fn container(&self, way: Way, qemu: &[String]) -> Result<Container> {
        let timeline = self.folder.join("timeline.json");
        let mut options = vec!["--rm".to_owned(), "--timeline".to_owned(), timeline.display().to_string()];
        options.extend(way.word().map(str::to_owned));
        options.extend(qemu.iter().map(|argument| format!("--qemu-arg={argument}")));
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut command = self.vch(&options, &["true"]);
        let (before, start) = (descendants::cpu()?, Instant::now());
        let status = command.status().with_context(|| format!("starting {}", self.vch.display()))?;
        let wall = start.elapsed();
        // The monitor, and with it QEMU, end when `vch run` knows all that it wants to know.
        descendants::wait()?;
        let cpu = descendants::cpu()? - before;
        ensure!(status.success(), "vch run ended with {status}");
        let json: Value = serde_json::from_slice(&fs::read(&timeline)?).context("reading the timeline")?;
        let mut last = 0;
        let steps = json["guest"].as_array().context("no guest steps in the timeline")?.iter().map(|step| {
            let at = step["at"].as_u64().unwrap_or_default();
            let spent = at.saturating_sub(last);
            last = at;
            (step["name"].as_str().unwrap_or_default().to_owned(), spent)
        });
        Ok(Container {
            wall,
            cpu,
            steps: steps.collect(),
            peak_rss: json["peakRss"].as_u64().unwrap_or_default(),
        })
    }

    /// The same machine as vch's, with the init that only powers off.
    fn floor(&self, qemu: &[String]) -> Result<Floor> {
        let (before, start) = (descendants::cpu()?, Instant::now());
        let said = self.floor.run(qemu)?;
        let (wall, cpu) = (start.elapsed(), descendants::cpu()? - before);
        let at = said.lines().find_map(|line| line.split("floor: ").nth(1)?.trim().parse().ok());
        Ok(Floor { wall, cpu, at: at.with_context(|| format!("the floor says only {said:?}"))? })
    }
}

/// Keeps the smaller figure of each step.
fn least(steps: &mut Vec<(String, u64)>, run: Vec<(String, u64)>) -> Result<()> {
    if steps.is_empty() {
        *steps = run;
        return Ok(());
    }
    let names = |steps: &[(String, u64)]| steps.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    ensure!(names(steps) == names(&run), "two runs have other steps: {steps:?}, {run:?}");
    for ((_, least), (_, nanos)) in steps.iter_mut().zip(run) {
        *least = nanos.min(*least);
    }
    Ok(())
}

/// Runs a VM whose clock counts instructions, and whose chance is by a seed: another one, if it fails.
///
/// QEMU 7.2 leaves nonsense in the flags after CMPXCHG16B, until the next instruction that sets them. Without `-icount` nothing comes
/// between the two; with it a timer may, and then the kernel has it on its stack, and dies of it.
fn counted<T>(seed: usize, run: impl Fn(&[String]) -> Result<T>) -> Result<T> {
    let count = format!("shift={SHIFT},sleep=off");
    let with = |seed: usize| {
        let seed = seed.to_string();
        let words = ["-icount", &count, "-seed", &seed, "-rtc", "base=2026-01-01T00:00:00,clock=vm"];
        run(&words.map(String::from))
    };
    (1..SEEDS).fold(with(seed), |tried, more| tried.or_else(|_| with(seed + more * COUNTED_ROUNDS)))
}

struct Container {
    wall: Duration,
    cpu: Duration,
    /// What each step took, in nanoseconds of the guest's clock.
    steps: Vec<(String, u64)>,
    /// KiB.
    peak_rss: u64,
}

struct Floor {
    wall: Duration,
    cpu: Duration,
    /// When PID 1 was reached, in nanoseconds of the guest's clock.
    at: u64,
}
