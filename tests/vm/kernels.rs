//! The other kernel: where the tests run on our own, Debian's with its modules; what depends on the kernel works on both.

use crate::harness::{Test, debian_kernel, input, own_kernel, run, run_with, shell};
use crate::tests;
use anyhow::{Context, Result, ensure};
use vch::RunOptions;
use vch::options::Kernel;

pub fn tests() -> Vec<Test> {
    let ours =
        || own_kernel().map(drop).context("there is no kernel of our own: `cargo xtask kernel` makes it");
    let mut all: Vec<_> = tests![a_container].into_iter().map(|test| test.needs(ours())).collect();
    all.extend(tests![layers_that_are_checked]);
    all
}

/// With the kernel that the other tests do not run on.
fn on_debians(mut options: RunOptions) -> RunOptions {
    let (kernel, initrd) = debian_kernel();
    (options.kernel, options.initrd) = (Some(Kernel::File(kernel)), Some(initrd));
    options
}

/// What the container sees of the kernel, its disks, its limits and its channel.
fn a_container() -> Result<()> {
    let script =
        "uname -r; cat; echo x > /written && cat /written; nproc; df -T / | tail -1; echo error >&2; exit 9";
    let mut options = on_debians(shell(script));
    options.interactive = true;
    let ran = run_with(&options, input(b"from stdin\n")?)?;
    let out = ran.out();
    let lines: Vec<_> = out.lines().collect();
    ensure!(lines.len() == 5 && lines[0].contains("-cloud-amd64"), "{ran:?}");
    ensure!(lines[1..4] == ["from stdin", "x", "1"] && lines[4].contains("overlay"), "{ran:?}");
    ensure!(ran.stderr == b"error\n" && ran.code() == 9, "{ran:?}");
    let ours = run(&shell("uname -r"))?.out();
    ensure!(ours.contains("containervm") && ours != lines[0], "{ours}");
    Ok(())
}

/// With the module for it, which is not loaded otherwise.
fn layers_that_are_checked() -> Result<()> {
    let mut options = on_debians(shell("grep -c ^dm_verity /proc/modules"));
    options.verity = true;
    run(&options)?.gives("1\n")?;
    options.verity = false;
    let ran = run(&options)?;
    ensure!(ran.out() == "0\n" && ran.code() == 1, "{ran:?}");
    Ok(())
}
