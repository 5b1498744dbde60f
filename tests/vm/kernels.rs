//! The other kernel: where the tests run on our own, Debian's with its modules. What both do on each machine: see `machines.rs`.

use crate::harness::{Test, debian_kernel, run, shell};
use crate::tests;
use anyhow::{Result, ensure};
use vch::RunOptions;
use vch::options::Kernel;

pub fn tests() -> Vec<Test> {
    tests![layers_that_are_checked]
}

/// With the kernel that the other tests do not run on.
fn on_debians(mut options: RunOptions) -> RunOptions {
    let (kernel, initrd) = debian_kernel();
    (options.kernel, options.initrd) = (Some(Kernel::File(kernel)), Some(initrd));
    options
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
