//! Folders and files of the host's, for one VM: by virtiofs, which a virtiofsd of its own serves.
//!
//! virtiofsd sees nothing but what is shared (pivot_root(2) into it), and ends with QEMU's connection. Where we are not root, it is
//! root in a user namespace: root in the container is us, and others are our subordinate IDs (subuid(5)). What is shared read-only
//! is mounted read-only in virtiofsd's own mount namespace: the guest is not asked.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::Share;

use crate::child;
use crate::containers::{Container, sockets};

/// Where Debian has it: in QEMU's package up to 7.2, and in one of its own.
const PROGRAMS: [(&str, Kind); 3] = [
    ("/usr/libexec/virtiofsd", Kind::Rust),
    ("/usr/lib/virtiofsd", Kind::Rust),
    ("/usr/lib/qemu/virtiofsd", Kind::C),
];

/// How long it may take to end when its connection has.
const END: Duration = Duration::from_secs(2);

/// Which of the two programs of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    C,
    Rust,
}

/// Makes the mounts that virtiofsd is to see, and becomes it: MODE READONLY SOURCE FOLDER PROGRAM... SOURCE is mounted on
/// FOLDER, or on a file in it.
const PREPARE: &str = r#"set -e
mode=$1 readonly=$2 source=$3 folder=$4; shift 4
target=$folder
if [ "$mode" = file ]; then
    mount -t tmpfs -o mode=755 tmpfs "$folder"
    target=$folder/file
    : > "$target"
fi
mount --bind -- "$source" "$target"
if [ "$readonly" = true ]; then mount -o remount,bind,ro -- "$target"; fi
exec "$@"
"#;

/// Something that is to be shared.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What, absolute.
    pub source: PathBuf,
    /// What the guest is told.
    pub spec: Share,
}

impl Wanted {
    /// `source`, as share number `index`.
    ///
    /// # Errors
    /// There is no such folder or file, or what is needed to share it is missing.
    pub fn new(source: PathBuf, index: usize, destination: String, readonly: bool) -> Result<Self> {
        let metadata = fs::metadata(&source);
        let metadata =
            metadata.with_context(|| format!("cannot share {} with the container", source.display()))?;
        let file = metadata.is_file();
        ensure!(file || metadata.is_dir(), "{} is neither a folder nor a file", source.display());
        program()?;
        if !is_root() {
            check_user()?;
        }
        Ok(Self { source, spec: Share { tag: format!("share{index}"), destination, readonly, file } })
    }
}

/// A virtiofsd. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    source: PathBuf,
    child: Child,
    /// The tag of its device.
    pub tag: String,
    /// The line to it, for QEMU.
    pub line: UnixStream,
}

impl Running {
    /// Starts one for the VM of `container`; it ends with QEMU, and unless it `outlives` this thread with that.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(wanted: &Wanted, container: &Container, outlives: bool) -> Result<Self> {
        let Wanted { source, spec } = wanted;
        let folder = container.dir.join(&spec.tag);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let socket = format!("{}.socket", spec.tag);
        let listener = sockets::listen(&container.dir, &socket)?;
        let line = sockets::connect(&container.dir, &socket)?;
        let mut command = command(wanted, &folder, &listener)?;
        child::bind(&mut command, vec![listener.as_raw_fd()], outlives);
        let child =
            command.spawn().context("cannot start virtiofsd by unshare (Debian's package util-linux)")?;
        Ok(Self { source: source.clone(), child, tag: spec.tag.clone(), line })
    }

    /// Whether it has given up, in words.
    pub fn trouble(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten().filter(|status| !status.success())?;
        Some(format!("virtiofsd cannot share {} ({status})", self.source.display()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // QEMU is gone, so it ends by itself, which it does better: it has a child.
        let end = Instant::now() + END;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        // Both fail only where there is nothing left to do: the process is gone and reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(wanted: &Wanted, folder: &Path, listener: &UnixListener) -> Result<Command> {
    let (program, kind) = program()?;
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-auto", "--map-root-user"]);
    }
    command.args(["--", "sh", "-c", PREPARE, "sh"]);
    command.arg(if wanted.spec.file { "file" } else { "folder" }).arg(wanted.spec.readonly.to_string());
    command.arg(&wanted.source).arg(folder).arg(program).arg(format!("--fd={}", listener.as_raw_fd()));
    match kind {
        Kind::Rust => command.arg("--shared-dir").arg(folder).args(["--sandbox", "namespace"]),
        Kind::C => {
            // The words of -o have commas between them, and a path may hold some; ours holds what the store's path does.
            let path = folder.to_str().filter(|path| !path.contains([',', '\\']));
            let path = path
                .with_context(|| format!("{}: a store's path cannot hold , or \\ here", folder.display()))?;
            command.args([
                "-f",
                "-o",
                &format!("source={path}"),
                "-o",
                "sandbox=namespace",
                "-o",
                "log_level=err",
            ])
        }
    };
    // A process group of its own: ^C at the terminal is for us to act on.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    Ok(command)
}

fn program() -> Result<(&'static str, Kind)> {
    let found = PROGRAMS.into_iter().find(|(path, _)| Path::new(path).exists());
    found.context(
        "virtiofsd is not installed, which folders of the host need: it is in Debian 12's package qemu-system-common, and later \
         in virtiofsd",
    )
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether we can be root in a user namespace that has other users, too.
fn check_user() -> Result<()> {
    ensure!(
        Path::new("/usr/bin/newuidmap").exists(),
        "without being root, folders of the host need newuidmap: it is in Debian's package uidmap"
    );
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let name = user.context("the user that runs vch has no name")?.name;
    for file in ["/etc/subuid", "/etc/subgid"] {
        let ranges = fs::read_to_string(file).unwrap_or_default();
        if !ranges.lines().any(|line| line.split(':').next() == Some(&name)) {
            bail!(
                "{file} has no range for {name}, which folders of the host need: as root, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            );
        }
    }
    Ok(())
}
