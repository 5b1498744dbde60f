//! The programs and files that the machine must have: one table, and how to get what is missing.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::process::{command, output_of, run, say};

/// The static busybox that the default image is made of.
pub const BUSYBOX: &str = "/bin/busybox";
/// The target that tether is built for.
pub const MUSL: &str = "x86_64-unknown-linux-musl";

/// The kernel's source, in Debian's package linux-source-6.1.
pub const SOURCE: &str = "/usr/src/linux-source-6.1.tar.xz";

/// What the user asked for; each does all that the ones it builds on do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Host tools, tether, kernel, initramfs, default image.
    Build,
    /// Build, and a VM.
    Run,
    /// Build, and the ISO.
    Iso,
    /// A kernel of our own.
    Kernel,
    /// A VM that starts by UEFI.
    Uefi,
    /// The image builder's benchmark: a real layer, and other programs at the same work.
    BenchImage,
    /// The channel's benchmark, over each transport.
    BenchChannel,
    /// All tests, so all of the above but benchmarks.
    Test,
    /// The tests of real services.
    Services,
}

/// How to see whether a need is met.
enum Look {
    /// A program in `$PATH`, `/usr/sbin` or `/sbin`.
    Program(&'static str),
    File(&'static str),
    /// A program that runs without any library: it goes into an image alone.
    StaticProgram(&'static str),
}

use Look::{File, Program, StaticProgram};

/// What is looked for, Debian's package with it, and the tasks that need it.
const NEEDS: &[(Look, &str, &[Task])] = &[
    (StaticProgram(BUSYBOX), "busybox-static", &[Task::Build]),
    (Program("dpkg-deb"), "dpkg", &[Task::Build]),
    (Program("cc"), "gcc", &[Task::Build]),
    (Program("qemu-system-x86_64"), "qemu-system-x86", &[Task::Run]),
    (Program("mke2fs"), "e2fsprogs", &[Task::Run, Task::BenchImage]),
    (File(SOURCE), "linux-source-6.1", &[Task::Kernel]),
    (Program("xz"), "xz-utils", &[Task::Kernel]),
    (Program("patch"), "patch", &[Task::Kernel]),
    (Program("make"), "make", &[Task::Kernel]),
    (Program("flex"), "flex", &[Task::Kernel]),
    (Program("bison"), "bison", &[Task::Kernel]),
    (Program("bc"), "bc", &[Task::Kernel]),
    (Program("perl"), "perl", &[Task::Kernel]),
    (File("/usr/include/libelf.h"), "libelf-dev", &[Task::Kernel]),
    (Program("xorriso"), "xorriso", &[Task::Test]),
    (Program("mcopy"), "mtools", &[Task::Test]),
    (File("/usr/lib/ISOLINUX/isolinux.bin"), "isolinux", &[Task::Iso]),
    (File("/usr/lib/syslinux/modules/bios/ldlinux.c32"), "syslinux-common", &[Task::Iso]),
    (File("/usr/lib/systemd/boot/efi/linuxx64.efi.stub"), "systemd-boot-efi", &[Task::Iso]),
    (File("/usr/share/ovmf/OVMF.fd"), "ovmf", &[Task::Uefi]),
    (Program("fsck.erofs"), "erofs-utils", &[Task::Test, Task::BenchImage]),
    (Program("docker-registry"), "docker-registry", &[Task::Test]),
    (Program("openssl"), "openssl", &[Task::Test]),
    (Program("skopeo"), "skopeo", &[Task::Test]),
    (Program("umoci"), "umoci", &[Task::Test, Task::BenchImage]),
    (Program("getfattr"), "attr", &[Task::Test]),
    (Program("qemu-img"), "qemu-utils", &[Task::Test]),
    (Program("mkfs.xfs"), "xfsprogs", &[Task::Test]),
    (Program("cpio"), "cpio", &[Task::Test]),
    (Program("veritysetup"), "cryptsetup-bin", &[Task::Test]),
    (Program("objcopy"), "binutils", &[Task::Test]),
    (Program("strace"), "strace", &[Task::Test]),
    (Program("mmdebstrap"), "mmdebstrap", &[Task::BenchImage, Task::Services]),
    (Program("ganesha.nfsd"), "nfs-ganesha-vfs", &[Task::Services]),
    (Program("rpcbind"), "rpcbind", &[Task::Services]),
    (Program("zstd"), "zstd", &[Task::BenchImage]),
];

/// What Debian has no package of: crates with a program of that name, their versions, and the tasks that need it.
const CRATES: &[(&str, &str, &[Task])] =
    &[("vhost-device-vsock", "0.3.0", &[Task::Test, Task::BenchChannel])];

impl Task {
    fn includes(self, other: Task) -> bool {
        other == Task::Build
            || self == other
            || match self {
                Task::Test => {
                    !matches!(other, Task::BenchImage | Task::BenchChannel | Task::Services | Task::Kernel)
                }
                Task::Services | Task::BenchChannel => other == Task::Run,
                _ => false,
            }
    }
}

impl Look {
    fn is_met(&self) -> bool {
        match self {
            Program(name) => find_program(name).is_some(),
            File(path) => Path::new(path).exists(),
            StaticProgram(path) => fs::read(path).is_ok_and(|bytes| is_static(&bytes)),
        }
    }
}

/// Makes sure that the machine has all that `task` needs: installs it, or with `no_install` fails and names it.
pub fn ensure(task: Task, no_install: bool) -> Result<()> {
    let missing = missing(task, Look::is_met);
    let crates = missing_crates(task, |name| find_program(name).is_some());
    let target = !has_musl_target()?;
    if missing.is_empty() && crates.is_empty() && !target {
        return Ok(());
    }
    let mut commands = Vec::new();
    if !missing.is_empty() {
        commands.push([&INSTALL[..], &missing].concat().join(" "));
    }
    if target {
        commands.push(format!("rustup target add {MUSL}"));
    }
    commands.extend(crates.iter().map(|(name, version)| cargo_install(name, version).join(" ")));
    let crate_names: Vec<_> = crates.iter().map(|(name, _)| *name).collect();
    let what = [&missing[..], &crate_names, if target { &["the musl target of Rust"] } else { &[] }]
        .concat()
        .join(", ");
    if no_install {
        bail!("missing: {what}; to get it, as root: {}", commands.join(" && "));
    }
    say(&format!("missing: {what}; installing: {}", commands.join(" && ")));
    if !missing.is_empty() {
        install(&missing)?;
    }
    if target {
        run(command("rustup").args(["target", "add", MUSL]))?;
    }
    for (name, version) in crates {
        let [cargo, arguments @ ..] = cargo_install(name, version);
        run(command(cargo).args(arguments))?;
    }
    Ok(())
}

/// The crates whose programs are not there, and their versions.
fn missing_crates(task: Task, is_there: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let needed = CRATES.iter().filter(|(_, _, tasks)| tasks.iter().any(|other| task.includes(*other)));
    needed.filter(|(name, ..)| !is_there(name)).map(|(name, version, _)| (*name, *version)).collect()
}

fn cargo_install(name: &'static str, version: &'static str) -> [&'static str; 7] {
    ["cargo", "install", "--quiet", "--locked", name, "--version", version]
}

const INSTALL: [&str; 4] = ["apt-get", "install", "-y", "--no-install-recommends"];

/// The packages whose needs are not met.
fn missing(task: Task, is_met: impl Fn(&Look) -> bool) -> Vec<&'static str> {
    let needed = NEEDS.iter().filter(|(_, _, tasks)| tasks.iter().any(|other| task.includes(*other)));
    needed.filter(|(look, _, _)| !is_met(look)).map(|(_, package, _)| *package).collect()
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.iter().any(|package| !is_known(package)) {
        update_lists()?;
    }
    let mut apt = as_root(INSTALL[0])?;
    // Quieter: without the database's percentages.
    apt.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).env("DEBIAN_FRONTEND", "noninteractive");
    run(apt.args(&INSTALL[1..]).args(packages))
}

/// Whether apt's package lists have the package.
pub fn is_known(package: &str) -> bool {
    output_of(command("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| policy.contains("Candidate: "))
}

/// Gets new package lists.
pub fn update_lists() -> Result<()> {
    say("fetching the package lists: apt-get update");
    run(as_root("apt-get")?.args(["update", "-q"]))
}

fn as_root(program: &str) -> Result<std::process::Command> {
    if fs::metadata("/proc/self").context("looking at /proc/self")?.uid() == 0 {
        return Ok(command(program));
    }
    let mut sudo = command("sudo");
    sudo.arg(program);
    Ok(sudo)
}

/// Without rustup, Rust comes from a distribution: then the target shows in its library directory.
fn has_musl_target() -> Result<bool> {
    let libraries = ["--print", "target-libdir", "--target", MUSL];
    let directory = output_of(command(env::var_os("RUSTC").unwrap_or("rustc".into())).args(libraries))?;
    Ok(Path::new(directory.trim_end()).exists())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A user's PATH on Debian lacks the sbin directories, where mke2fs is, and may lack what cargo has installed.
    let cargo = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).chain(cargo);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// An ELF program that names no interpreter, so no dynamic linker.
fn is_static(program: &[u8]) -> bool {
    let interpreters = || -> object::Result<usize> {
        let header = FileHeader64::<Endianness>::parse(program)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, program)?;
        Ok(segments.iter().filter(|segment| segment.p_type(endian) == PT_INTERP).count())
    };
    interpreters() == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_needs_what_it_builds_on_and_no_more() {
        let packages = |task| missing(task, |_| false);
        assert_eq!(packages(Task::Build), ["busybox-static", "dpkg", "gcc"]);
        assert_eq!(packages(Task::Run), ["busybox-static", "dpkg", "gcc", "qemu-system-x86", "e2fsprogs"]);
        assert!(packages(Task::Iso).contains(&"isolinux") && !packages(Task::Iso).contains(&"ovmf"));
        assert_eq!(packages(Task::Test).len(), NEEDS.len() - 13);
        assert!(!packages(Task::Test).contains(&"mmdebstrap"));
    }

    #[test]
    fn crates_are_for_tests_and_the_benchmark_of_the_channel() {
        let crates = |task| missing_crates(task, |_| false).len();
        assert_eq!([Task::Run, Task::Test, Task::BenchChannel, Task::BenchImage].map(crates), [0, 1, 1, 0]);
        assert!(missing_crates(Task::Test, |name| name == "vhost-device-vsock").is_empty());
        assert_eq!(missing(Task::BenchChannel, |_| false), missing(Task::Run, |_| false));
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let missing = missing(Task::Run, |look| !matches!(look, Program("mke2fs")));
        assert_eq!(missing, ["e2fsprogs"]);
        assert!(Program("sh").is_met() && !Program("no-such-program").is_met());
        assert!(File("/etc/passwd").is_met() && !File("/no/such/file").is_met());
    }

    #[test]
    fn a_program_with_a_dynamic_linker_is_not_static() {
        let ourselves = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&ourselves));
        assert!(!is_static(b"#!/bin/sh"));
        let mut without = ourselves;
        let table = usize::try_from(u64::from_le_bytes(without[32..40].try_into().unwrap())).unwrap();
        for segment in 0..usize::from(u16::from_le_bytes(without[56..58].try_into().unwrap())) {
            let kind = &mut without[table + segment * 56..][..4];
            if kind == PT_INTERP.0.to_le_bytes() {
                kind.fill(0); // PT_NULL
            }
        }
        assert!(is_static(&without));
    }
}
