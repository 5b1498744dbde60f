//! The other kernel: where the tests run on our own, Debian's with its modules. What both do on each machine: see `machines.rs`.

use crate::harness::{Test, debian_kernel, own_kernel, run, shell};
use crate::tests;
use anyhow::{Context, Result};
use vch::RunOptions;
use vch::options::Kernel;

pub fn tests() -> Vec<Test> {
    let ours =
        || own_kernel().map(drop).context("there is no kernel of our own: `cargo xtask kernel` makes it");
    tests![layers_that_are_checked].into_iter().map(|test| test.needs(ours())).collect()
}

/// With the kernel that the other tests do not run on.
fn on_debians(mut options: RunOptions) -> RunOptions {
    let (kernel, initrd) = debian_kernel();
    (options.kernel, options.initrd) = (Some(Kernel::File(kernel)), Some(initrd));
    options
}

fn layers_that_are_checked() -> Result<()> {
    let mut options = on_debians(shell("echo checked"));
    options.verity = true;
    run(&options)?.gives("checked\n")
}
