//! `cargo xtask fuzz`: the fuzz targets on stable Rust, by a loop of our own instead of libFuzzer's.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{cargo_build, command, run as run_program};
use crate::workspace::Workspace;

/// How much longer than it was told a target may take.
const GRACE: Duration = Duration::from_secs(120);

/// Builds all, writes the seeds, and runs each target for so long.
pub fn run(workspace: &Workspace, seconds: u64) -> Result<()> {
    let folder = workspace.root.join("fuzz");
    let target = workspace.target.join("fuzz");
    let (manifest, built) = (folder.join("Cargo.toml"), target.join("debug"));
    cargo_build(
        &folder,
        &[
            "--locked",
            "--manifest-path",
            text(&manifest)?,
            "--target-dir",
            text(&target)?,
            "--bins",
            "--example",
            "seeds",
        ],
    )?;
    run_program(command(built.join("examples/seeds")).current_dir(&folder))?;
    for name in targets(&folder)? {
        one(&built.join(&name), &folder, &name, seconds)?;
    }
    Ok(())
}

fn one(program: &Path, folder: &Path, name: &str, seconds: u64) -> Result<()> {
    let mut child = command(program).arg(seconds.to_string()).current_dir(folder).spawn()?;
    let end = Instant::now() + Duration::from_secs(seconds) + GRACE;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("fuzz target {name}: {status}"),
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            None => {
                child.kill()?;
                child.wait()?;
                bail!("fuzz target {name} hangs on an input");
            }
        }
    }
}

/// Their names, sorted.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let sources = fs::read_dir(folder.join("fuzz_targets")).context("reading fuzz/fuzz_targets")?;
    let name = |entry: std::io::Result<fs::DirEntry>| -> Result<String> {
        let path = entry?.path();
        Ok(path.file_stem().context("a target without a name")?.to_string_lossy().into_owned())
    };
    let mut names = sources.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
