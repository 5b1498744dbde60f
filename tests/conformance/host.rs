//! What the reference implementations need of the host: root, mounts that nobody else sees, programs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Runs a program to its end and gives its stdout.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Vec<u8>> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {said}", output.status);
    Ok(output.stdout)
}

/// Goes with this thread, and those that it starts, to a mount namespace of its own, where mounts end with it.
pub fn enter() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root can mount, and unpack owners and devices");
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make mounts private")
}

/// Whether programs are there, each asked for by what it says to `argument`.
pub fn has(programs: &[&str]) -> Result<()> {
    for program in programs {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            let usual = ["/usr/sbin".into(), "/sbin".into()];
            std::env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
        });
        ensure!(found, "{program} is not installed");
    }
    Ok(())
}

/// `tar -x` with all attributes.
pub fn unpack(tar: &[u8], dir: &Path) -> Result<()> {
    let archive = tempfile::NamedTempFile::new()?;
    fs::write(archive.path(), tar)?;
    let attributes = ["-p", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"];
    let paths = ["-f".as_ref(), archive.path().as_os_str(), "-C".as_ref(), dir.as_os_str()];
    let extract = ["-x", "--delay-directory-restore"].map(OsStr::new);
    run("tar", &[&extract[..], &attributes.map(OsStr::new), &paths].concat()).map(drop)
}

/// A mounted filesystem, gone with the value.
pub struct Mounted(TempDir);

impl Mounted {
    /// Mounts the image at `disk`, whatever it is, read-only or writable.
    pub fn image(disk: &Path, kind: &str, options: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let arguments = ["-t", kind, "-o", options].map(OsStr::new);
        run("mount", &[&arguments[..], &[disk.as_os_str(), dir.path().as_os_str()]].concat())?;
        Ok(Self(dir))
    }

    /// An empty ext4: xattrs of every kind and size, times before 1970.
    pub fn ext4() -> Result<Self> {
        let arguments = ["-q", "-t", "ext4", "-I", "256", "-O", "^has_journal,ea_inode"];
        Self::empty("ext4", "mke2fs", &arguments)
    }

    /// An empty XFS: more xattrs than ext4's one block of them, but no long symlinks.
    pub fn xfs() -> Result<Self> {
        Self::empty("xfs", "mkfs.xfs", &["-q"])
    }

    fn empty(kind: &str, program: &str, arguments: &[&str]) -> Result<Self> {
        let disk = tempfile::NamedTempFile::new()?;
        File::options().write(true).open(disk.path())?.set_len(1 << 30)?;
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).chain([disk.path().as_os_str()]).collect();
        run(program, &arguments)?;
        Self::image(disk.path(), kind, "loop")
    }

    /// The filesystems stacked, the first one the lowest.
    pub fn overlay(lower: &[&Self]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let names: Vec<_> = lower.iter().rev().map(|mounted| mounted.path().display().to_string()).collect();
        let options = format!("lowerdir={}", names.join(":"));
        let none = None::<&str>;
        mount(none, dir.path(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount an overlay")?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path().display());
        }
    }
}
