//! What stdio costs, beside the bare virtio-serial port that it goes through, with `tether/src/bin/port.rs` in the guest.
//!
//! Both guests obey the same orders, and stay for the whole run. What is measured of the container contains all that a user
//! pays: pipes on both sides, the client, the monitor, the log, and the program in the container. What comes from the guest is zeros,
//! the dearest for the log: JSON writes each as six bytes.

mod guest;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image_builder::kernel::KernelTree;
use serde_json::Value;

use super::bare::{self, Bare};
use super::descendants;
use super::figures::{median, to_float};
use super::measure::measure;
use crate::kernel;
use crate::process::say;
use crate::workspace::Workspace;
use guest::{Guest, Letter};

/// Rounds of each kind, in turns.
const ROUNDS: u64 = 3;
const MIB: u64 = 1 << 20;
/// Bytes in each round.
const BYTES: u64 = 128 * MIB;
/// Round trips, as many turns and as many in each.
const TURNS: u64 = 10;
const TRIPS: u64 = 100;
/// Bytes under -icount, where each instruction is counted.
const COUNTED: u64 = 32 * MIB;
/// 2^6 ns of the guest's time for each instruction.
const SHIFT: u32 = 6;
/// Execs for the median.
const EXECS: u64 = 20;
/// Bytes of output, after which tether's memory is looked at.
const OUTPUTS: [u64; 2] = [16 * MIB, 1024 * MIB];
/// Bytes to it and through it before.
const BEFORE: u64 = 16 * MIB;
/// The other transports, and how many bytes and round trips each is given.
const OTHERS: [(&str, u64, u64); 2] = [("vsock", 64 * MIB, 200), ("serial", MIB / 4, 20)];
const NAME: &str = "bench-channel";
/// What the bare port's init has to load with Debian's kernel.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];

/// Measures and prints.
pub fn run(workspace: &Workspace) -> Result<()> {
    descendants::adopt()?;
    // The kernel that vch takes.
    let bootstrap = workspace.bootstrap();
    let (kernel, modules) = match bare::kernel(&bootstrap.join("own")) {
        Some(own) => (own, vec![]),
        None => {
            let debian = bare::kernel(&bootstrap).context("there is no kernel")?;
            (debian, KernelTree::open(&kernel::tree(workspace, true)?)?.modules(&MODULES)?)
        }
    };
    let bench = Bench {
        vch: workspace.vch(),
        image: workspace.image(),
        bare: Bare::prepare(workspace, "port", kernel, None, &modules)?,
        timeline: workspace.target.join("bench/timeline.json"),
    };
    bench.times()?;
    bench.instructions()?;
    bench.memory()?;
    bench.others()
}

struct Bench {
    vch: PathBuf,
    image: PathBuf,
    bare: Bare,
    timeline: PathBuf,
}

/// What the transfers of a guest have cost.
#[derive(Default)]
struct Costs {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Costs {
    fn add(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (before, start) = (descendants::cpu()?, Instant::now());
        work()?;
        self.wall.push(start.elapsed());
        self.cpu.push(descendants::cpu()? - before);
        Ok(())
    }

    fn speed(&self, bytes: u64) -> f64 {
        to_float(bytes / MIB) / median(self.wall.clone())
    }

    /// Milliseconds for a MiB.
    fn cpu(&self, bytes: u64) -> f64 {
        median(self.cpu.clone()) * 1e3 / to_float(bytes / MIB)
    }
}

impl Bench {
    /// `vch run` with the script that obeys orders.
    fn container(&self, options: &[&str]) -> Result<Guest> {
        let mut command = self.run(options);
        command.arg("-i").arg(&self.image).args(["sh", "-c", guest::SCRIPT]);
        Guest::container(command)
    }

    fn run(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.vch);
        command.args(["run", "--rm", "--timeline"]).arg(&self.timeline).args(options);
        command
    }

    /// KiB, of the container that has ended last.
    fn peak_rss(&self) -> Result<u64> {
        let json: Value =
            serde_json::from_slice(&fs::read(&self.timeline)?).context("reading the timeline")?;
        json["peakRss"].as_u64().context("no peakRss in the timeline")
    }

    fn times(&self) -> Result<()> {
        say("measuring stdio");
        let mut guests = [Guest::bare(self.bare.start(&[])?)?, self.container(&["--name", NAME])?];
        let [mut to, mut from, mut both]: [[Costs; 2]; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (guest, costs) in guests.iter_mut().zip(&mut to) {
                costs.add(|| guest.sink(BYTES))?;
            }
            for (guest, costs) in guests.iter_mut().zip(&mut from) {
                costs.add(|| guest.source(BYTES))?;
            }
        }
        let mut trips: [Vec<Duration>; 2] = Default::default();
        for guest in &mut guests {
            guest.order(Letter::Echo, TURNS * TRIPS + ROUNDS * BYTES)?;
        }
        for _ in 0..TURNS {
            for (guest, trips) in guests.iter_mut().zip(&mut trips) {
                trips.extend(guest.trips(TRIPS)?);
            }
        }
        for _ in 0..ROUNDS {
            for (guest, costs) in guests.iter_mut().zip(&mut both) {
                costs.add(|| guest.both(BYTES))?;
            }
        }
        println!("\nstdio beside the bare port (medians, in turns)         bare      vch    ratio");
        let speeds = |costs: &[Costs; 2]| [0, 1].map(|which| costs[which].speed(BYTES));
        row("MiB/s to the guest", speeds(&to), " (goal: 0.80)");
        row("MiB/s from the guest", speeds(&from), " (goal: 0.80)");
        row("MiB/s each way, both at once", speeds(&both), "");
        row("microseconds, round trip of a byte", trips.map(|t| median(t) * 1e6), " (goal: 1.50)");
        let cpu = |costs: &[Costs; 2]| [0, 1].map(|which| costs[which].cpu(BYTES));
        println!("  CPU of the host (bare: QEMU; vch: QEMU, monitor and client)");
        row("  milliseconds per MiB to the guest", cpu(&to), "");
        row("  milliseconds per MiB from the guest", cpu(&from), "");
        row("  milliseconds per MiB there and back", cpu(&both), "");
        let mut execs = vec![];
        for _ in 0..EXECS {
            execs.push(measure(Command::new(&self.vch).args(["exec", NAME, "true"]))?.wall);
        }
        println!("  milliseconds of `vch exec {NAME} true` {:21.1}", median(execs) * 1e3);
        for guest in guests {
            guest.end()?;
        }
        Ok(())
    }

    /// Counted by the time that a guest is not idle, when each instruction takes the same time.
    fn instructions(&self) -> Result<()> {
        say("counting guest instructions");
        let count = format!("shift={SHIFT},sleep=off");
        let qemu = ["-icount".to_owned(), count];
        let options: Vec<_> = qemu.iter().map(|argument| format!("--qemu-arg={argument}")).collect();
        let container = self.container(&["--name", NAME, &options[0], &options[1]])?;
        let mut guests = [Guest::bare(self.bare.start(&qemu)?)?, container];
        let millions = |busy: Duration, count: u64| busy.as_secs_f64() * 1e3 / to_float(count << SHIFT);
        let [mut to, mut from] = [[0.0; 2]; 2];
        for (which, guest) in guests.iter_mut().enumerate() {
            to[which] = millions(guest.busy(|guest| guest.sink(COUNTED))?, COUNTED / MIB);
            from[which] = millions(guest.busy(|guest| guest.source(COUNTED))?, COUNTED / MIB);
        }
        let exec = guests[1].busy(|_| {
            for _ in 0..EXECS {
                measure(Command::new(&self.vch).args(["exec", NAME, "true"]))?;
            }
            Ok(())
        })?;
        println!("  million guest instructions (under -icount)");
        row("  per MiB to the guest", to, "");
        row("  per MiB from the guest", from, "");
        println!("  {:<48} {:17.2}", "  for `vch exec NAME true`", millions(exec, EXECS));
        for guest in guests {
            guest.end()?;
        }
        Ok(())
    }

    /// Whether tether grows with what goes through it.
    fn memory(&self) -> Result<()> {
        say("measuring memory");
        println!("\nlargest resident set of tether");
        for bytes in OUTPUTS {
            let mut guest = self.container(&[])?;
            guest.sink(BEFORE)?;
            guest.source(bytes)?;
            guest.order(Letter::Echo, BEFORE)?;
            guest.both(BEFORE)?;
            guest.end()?;
            println!("  after {:4} MiB of output {:33} KiB", (bytes + BEFORE) / MIB, self.peak_rss()?);
        }
        Ok(())
    }

    fn others(&self) -> Result<()> {
        println!(
            "\nstdio over the other transports       MiB/s to     from   round trip of a byte, microseconds"
        );
        for (channel, bytes, trips) in OTHERS {
            say(&format!("measuring {channel}"));
            let mut guest = self.container(&["--channel", channel])?;
            let speed = |start: Instant| to_float(bytes) / to_float(MIB) / start.elapsed().as_secs_f64();
            let start = Instant::now();
            guest.sink(bytes)?;
            let to = speed(start);
            let start = Instant::now();
            guest.source(bytes)?;
            let from = speed(start);
            guest.order(Letter::Echo, trips)?;
            let trips = median(guest.trips(trips)?) * 1e6;
            guest.end()?;
            println!("  {channel:<34} {to:10.2} {from:8.2} {trips:12.0}");
        }
        Ok(())
    }
}

/// A line of the table: of the bare port and of vch.
fn row(name: &str, [bare, vch]: [f64; 2], note: &str) {
    println!("  {name:<48} {bare:8.2} {vch:8.2} {:8.2}{note}", vch / bare);
}
