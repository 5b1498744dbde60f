//! Real images, where they are at hand: in `shared/images` beside the checkout; and images that are archives.

use crate::harness::{Test, error_of, options, run, temporary, workspace};
use anyhow::{Context, Result, ensure};
use image_builder::testimage;
use std::process::Command;

pub fn tests() -> Vec<Test> {
    let there = || {
        let dir = workspace().join("../shared/images");
        dir.metadata().map(drop).with_context(|| format!("there is no folder {}", dir.display()))
    };
    vec![
        Test::new("images::busybox", busybox).needs(there()),
        Test::new("images::alpine", alpine).needs(there()),
        Test::new("images::docker_archive", docker_archive).needs(skopeo()),
    ]
}

fn skopeo() -> Result<()> {
    Command::new("skopeo").arg("--version").output().map(drop).context("there is no skopeo")
}

/// What `docker save` writes, gzipped; and not from standard input, which is the container's.
fn docker_archive() -> Result<()> {
    let dir = temporary()?;
    let copied = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "-q",
            &format!("oci:{}", crate::harness::busybox()),
            "docker-archive:x.tar:x:1",
        ])
        .current_dir(dir.path())
        .output()?;
    ensure!(copied.status.success(), "skopeo: {}", String::from_utf8_lossy(&copied.stderr));
    let archive = dir.path().join("x.tar.gz");
    std::fs::write(&archive, testimage::gzip(&std::fs::read(dir.path().join("x.tar"))?))?;
    run(&options(&format!("{}:x:1", archive.display()), &["echo", "from an archive"]))?
        .gives("from an archive\n")?;
    let error = error_of(run(&options("-", &[])))?;
    ensure!(error.contains("standard input is the container's; save the image to a file first"), "{error}");
    Ok(())
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
