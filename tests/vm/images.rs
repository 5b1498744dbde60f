//! Real images, where they are at hand: in `shared/images` beside the checkout.

use crate::harness::{Test, options, run, workspace};
use anyhow::{Context, Result, ensure};

pub fn tests() -> Vec<Test> {
    let there = || {
        let dir = workspace().join("../shared/images");
        dir.metadata().map(drop).with_context(|| format!("there is no folder {}", dir.display()))
    };
    vec![
        Test::new("images::busybox", busybox).needs(there()),
        Test::new("images::alpine", alpine).needs(there()),
    ]
}

fn image(name: &str) -> String {
    workspace().join("../shared/images").join(name).display().to_string()
}

/// As published on Docker Hub: glibc, `sh` as its own command.
fn busybox() -> Result<()> {
    let text = run(&options(&image("busybox"), &["uname", "-a"]))?.out();
    ensure!(text.starts_with("Linux ") && text.contains("x86_64 GNU/Linux"), "{text}");
    let mut options = options(&image("busybox"), &[]);
    options.interactive = true;
    crate::harness::run_with(&options, crate::harness::input(b"echo $0 $PATH")?)?
        .gives("sh /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
}

/// Alpine's official root filesystem.
fn alpine() -> Result<()> {
    let ran = run(&options(&image("alpine"), &["cat", "/etc/os-release"]))?;
    ensure!(ran.out().contains("ID=alpine\nVERSION_ID=3.20.3\n") && ran.code() == 0, "{ran:?}");
    Ok(())
}
