//! The host's memory for ten containers that go on from a template, beside ten that have booted.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bare;
use super::descendants;
use super::pss;
use super::way::Way;
use crate::process::say;
use crate::workspace::Workspace;

/// Containers at once, for the memory.
const CONTAINERS: usize = 10;
/// How long they are left alone before it is looked at.
const REST: Duration = Duration::from_secs(3);
/// How long they may take to start.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures and prints.
pub fn run(workspace: &Workspace) -> Result<()> {
    descendants::adopt()?;
    let bootstrap = workspace.bootstrap();
    for (name, folder) in [("our own kernel", bootstrap.join("own")), ("Debian's kernel", bootstrap)] {
        let Some(kernel) = bare::kernel(&folder) else {
            say(&format!("{name} is not there: `cargo xtask kernel` makes it"));
            continue;
        };
        println!("\n# {name}");
        let bench = Bench {
            vch: workspace.vch(),
            image: workspace.image(),
            store: tempfile::tempdir().context("making a temporary folder")?,
            kernel,
            initrd: folder.join("initrd"),
        };
        bench.memory()?;
    }
    Ok(())
}

struct Bench {
    vch: PathBuf,
    image: PathBuf,
    store: tempfile::TempDir,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Bench {
    fn vch(&self, command: &str) -> Command {
        let mut vch = Command::new(&self.vch);
        vch.arg(command).arg("--store").arg(self.store.path()).stdin(Stdio::null());
        vch
    }

    fn run(&self, way: Way) -> Command {
        let mut run = self.vch("run");
        run.arg("--rm").arg("--kernel").arg(&self.kernel).arg("--initrd").arg(&self.initrd).args(way.word());
        run
    }

    /// Of containers that do nothing.
    fn memory(&self) -> Result<()> {
        println!(
            "\nMiB of the host's for {CONTAINERS} containers that sleep (PSS)   all   guests' memory   QEMU"
        );
        for (name, way) in [("booted", Way::Boot), ("from a template", Way::Template)] {
            say(&format!("measuring memory: {name}"));
            let measured = self.containers(way);
            let names: Vec<_> = (0..CONTAINERS).map(container).collect();
            let removed = self.vch("rm").arg("-f").args(&names).stdout(Stdio::null()).status();
            let [all, guests] = measured?;
            ensure!(removed.is_ok_and(|status| status.success()), "the bench's containers cannot be removed");
            descendants::wait()?;
            println!("  {name:<45} {all:8.1} {guests:16.1} {:6.1}", all - guests);
        }
        Ok(())
    }

    fn containers(&self, way: Way) -> Result<[f64; 2]> {
        for number in 0..CONTAINERS {
            let mut run = self.run(way);
            run.args(["-d", "--name", &container(number)]).arg(&self.image);
            let output = run.args(["sh", "-c", "echo up; exec sleep 100000"]).output();
            let output = output.context("starting a container")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let end = Instant::now() + PATIENCE;
        for number in 0..CONTAINERS {
            while self.vch("logs").arg(container(number)).output()?.stdout != b"up\n" {
                ensure!(Instant::now() < end, "{} does not start", container(number));
                sleep(Duration::from_millis(50));
            }
        }
        sleep(REST);
        let (mut all, mut guests) = (0.0, 0.0);
        for number in 0..CONTAINERS {
            let [process, guest] = pss::of(&container(number))?;
            all += process;
            guests += guest;
        }
        Ok([all, guests])
    }
}

fn container(number: usize) -> String {
    format!("bench-template-{number}")
}
