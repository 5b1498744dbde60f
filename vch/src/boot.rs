//! What the VM boots: a kernel and an initramfs, or a CD with both.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::host_tsc;
use crate::options::{self, Firmware, Kernel, Machine, RunOptions};
use crate::size::MIB;
use crate::template;

/// The kernel's parameters, one line, the same from a CD: silence on the slow console, a panic ends the VM.
const PARAMETERS: &str = include_str!("../../iso/cmdline");
/// In Debian's package ovmf.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";
/// Where a package puts the boot files.
const INSTALLED: &str = "/usr/share/containervm";
/// The most of a kernel that is looked into, in bytes.
const MOST_KERNEL: u64 = 256 << 20;
/// The CPUs that our own kernel takes: `CONFIG_NR_CPUS`. It leaves others alone, without a word.
const OWN_CPUS: u32 = 64;
/// OVMF needs this much memory, in bytes, and so many times the CD's size to start it: with less, it stands still. Measured: 112 MiB
/// for a CD of 7.6, 176 for one of 24.5.
const UEFI: (u64, u64) = (81 * MIB, 4);
/// Larger ones, in bytes, have more on them than what is started.
const LARGEST_CD: u64 = 32 * MIB;

/// What QEMU is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads the kernel.
    Direct {
        /// bzImage or PVH vmlinux.
        kernel: PathBuf,
        /// Initramfs.
        initrd: PathBuf,
        /// The kernel's command line, without the [machine's own](options::Machine::parameters) words.
        parameters: String,
        /// Whether the kernel finds virtio devices that its command line tells of: else it has no use for microvm.
        finds_mmio: bool,
    },
    /// The firmware starts the CD's boot loader.
    Iso {
        /// Firmware in place of QEMU's own.
        firmware: Option<PathBuf>,
        /// The CD.
        image: PathBuf,
    },
}

impl Boot {
    /// Finds what `options` ask for, or the defaults.
    ///
    /// # Errors
    /// Something is not there; the error says where it was looked for.
    pub fn find(options: &RunOptions) -> Result<Self> {
        host_tsc::begin();
        check(options)?;
        let boot = match options.boot() {
            options::Boot::Direct => Self::direct(options)?,
            options::Boot::Iso => {
                let image = iso(options)?;
                let firmware = match options.firmware {
                    Firmware::Bios => None,
                    Firmware::Uefi => {
                        enough_for_uefi(options.memory, &image)?;
                        Some(ovmf()?)
                    }
                };
                Self::Iso { firmware, image }
            }
        };
        options.machine.map_or(Ok(()), |machine| machine.boots(&boot))?;
        Ok(boot)
    }

    fn direct(options: &RunOptions) -> Result<Self> {
        let (kernel, initrd, origin) = kernel(options)?;
        let finds_mmio = match origin {
            Origin::Ours => true,
            Origin::Debian => false,
            // To read it all is no work for those whose machine is another.
            Origin::Unknown => {
                matches!(options.machine, None | Some(Machine::Microvm)) && finds_mmio(&kernel)?
            }
        };
        Ok(Self::Direct { kernel, initrd, parameters: parameters(options), finds_mmio })
    }
}

impl Boot {
    /// The same with the modules of `folder` in its initramfs, which is written into `dir`. Without a file of them, as of a kernel that
    /// has no modules, and from a CD, which has all, nothing changes.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn with_modules(mut self, folder: &str, dir: &Path) -> Result<Self> {
        let Self::Direct { initrd, .. } = &mut self else { return Ok(self) };
        let mut name = initrd.clone().into_os_string();
        name.push(format!(".{folder}"));
        let more = PathBuf::from(name);
        if more.exists() {
            let read =
                |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
            let mut bytes = read(initrd)?;
            // Where the kernel looks for the next archive (initramfs-buffer-format).
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(read(&more)?);
            *initrd = dir.join("initrd");
            std::fs::write(&*initrd, bytes).with_context(|| format!("cannot write {}", initrd.display()))?;
        }
        Ok(self)
    }
}

/// What is said of a kernel, an initramfs, a CD or a firmware is used, or refused.
fn check(options: &RunOptions) -> Result<()> {
    let RunOptions { kernel, initrd, iso, firmware, .. } = options;
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    match (options.boot(), shown(initrd), shown(iso)) {
        (options::Boot::Direct, ..) if *firmware == Firmware::Uefi => {
            bail!("--firmware uefi goes with --boot iso: QEMU loads the kernel itself")
        }
        (options::Boot::Direct, _, Some(iso)) => {
            bail!("--iso {iso} goes with --boot iso: QEMU loads the kernel itself")
        }
        (options::Boot::Direct, Some(initrd), _) if kernel.is_none() => {
            bail!("--initrd {initrd} goes with --kernel: which one is it for?")
        }
        (options::Boot::Iso, Some(initrd), _) => {
            bail!("--initrd {initrd}: with --boot iso the initramfs is on the CD; --iso names another")
        }
        (options::Boot::Iso, _, Some(iso)) if kernel.is_some() => {
            bail!("--kernel and --iso {iso} exclude each other: the kernel is on the CD")
        }
        _ => {}
    }
    match (kernel, initrd) {
        (Some(Kernel::File(path)), None) if options.boot() == options::Boot::Direct => bail!(
            "--kernel {} goes with --initrd: the initramfs with tether, and with the modules that this kernel needs; \
             --kernel own and --kernel debian have theirs",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// Whether our own kernel takes that many CPUs.
fn own_takes(vcpus: u32) -> Result<()> {
    ensure!(
        vcpus <= OWN_CPUS,
        "--cpus: our own kernel takes {OWN_CPUS} at most, not {vcpus}; --kernel debian takes more"
    );
    Ok(())
}

/// Whose a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Ours, uncompressed.
    Ours,
    Debian,
    Unknown,
}

/// The kernel, and the initramfs that has the modules for it.
fn kernel(options: &RunOptions) -> Result<(PathBuf, PathBuf, Origin)> {
    const OWN: [&str; 2] = ["own/vmlinux", "own/vmlinuz"];
    const DEBIAN: [&str; 2] = ["vmlinux", "vmlinuz"];
    let initrd = |name, command| file("initrd", options.initrd.as_ref(), &[name], command);
    let own = || {
        own_takes(options.vcpus())?;
        let kernel = file("kernel", None, &OWN, "kernel")?;
        let origin = if kernel.ends_with(OWN[0]) { Origin::Ours } else { Origin::Unknown };
        Ok((kernel, initrd("own/initrd", "kernel")?, origin))
    };
    let debian = || Ok((file("kernel", None, &DEBIAN, "build")?, initrd("initrd", "build")?, Origin::Debian));
    match &options.kernel {
        Some(Kernel::Own) => own(),
        Some(Kernel::Debian) => debian(),
        Some(Kernel::File(path)) => {
            let kernel = file("kernel", Some(path), &[], "build")?;
            ensure!(is_kernel(&kernel)?, "--kernel {} is neither a bzImage nor an ELF image", path.display());
            let origin = if file("kernel", None, &OWN[..1], "kernel").is_ok_and(|own| own == kernel) {
                own_takes(options.vcpus())?;
                Origin::Ours
            } else {
                Origin::Unknown
            };
            Ok((kernel, initrd("initrd", "build")?, origin))
        }
        None => own().or_else(|_| debian()),
    }
}

/// Whether a file begins as QEMU takes a kernel: as an ELF image, or as Documentation/arch/x86/boot.rst has it.
fn is_kernel(path: &Path) -> Result<bool> {
    const MAGIC: usize = 0x202;
    let mut head = Vec::new();
    let file = File::open(path).with_context(|| format!("--kernel {}", path.display()))?;
    let read = file.take(MAGIC as u64 + 4).read_to_end(&mut head);
    read.with_context(|| format!("reading the kernel {}", path.display()))?;
    Ok(head.starts_with(b"\x7fELF") || head.get(MAGIC..) == Some(b"HdrS"))
}

/// Whether an uncompressed kernel has `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`: by the name of the device that such devices hang from
/// (drivers/virtio/virtio_mmio.c).
fn finds_mmio(kernel: &Path) -> Result<bool> {
    let mut image = Vec::new();
    let file = File::open(kernel).with_context(|| format!("--kernel {}", kernel.display()))?;
    file.take(MOST_KERNEL)
        .read_to_end(&mut image)
        .with_context(|| format!("reading the kernel {}", kernel.display()))?;
    Ok(image.starts_with(b"\x7fELF") && memchr::memmem::find(&image, b"virtio-mmio-cmdline").is_some())
}

/// The CD with the kernel that is asked for.
fn iso(options: &RunOptions) -> Result<PathBuf> {
    const OWN: &str = "own/bootstrap.iso";
    const DEBIAN: &str = "bootstrap.iso";
    let names: &[&str] = match &options.kernel {
        Some(Kernel::File(path)) => {
            bail!("--kernel {}: with --boot iso the kernel is on the CD; --iso names another", path.display())
        }
        Some(Kernel::Own) => {
            own_takes(options.vcpus())?;
            &[OWN]
        }
        Some(Kernel::Debian) => &[DEBIAN],
        None if own_takes(options.vcpus()).is_err() => &[DEBIAN],
        None => &[OWN, DEBIAN],
    };
    let image = file("iso", options.iso.as_ref(), names, "iso")?;
    ensure!(is_cd(&image)?, "{} is no CD image: it has no ISO 9660 volume descriptor", image.display());
    Ok(image)
}

/// Whether a file begins as a CD (ECMA-119, 8.1.2). With another one, the firmware would wait for the boot timeout's end.
fn is_cd(path: &Path) -> Result<bool> {
    const IDENTIFIER: u64 = 0x8001;
    let mut found = [0; 5];
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.read_exact_at(&mut found, IDENTIFIER).is_ok() && &found == b"CD001")
}

fn enough_for_uefi(memory: u64, image: &Path) -> Result<()> {
    // A drive has no length but by its end.
    let size = File::open(image).and_then(|mut file| file.seek(SeekFrom::End(0)));
    let size = size.with_context(|| format!("cannot look at {}", image.display()))?;
    let least = (size.min(LARGEST_CD) * UEFI.1 + UEFI.0).div_ceil(MIB);
    ensure!(
        memory >= least * MIB,
        "--firmware uefi needs at least {least} MiB of memory (-m): its firmware does not start {} with less",
        image.display()
    );
    Ok(())
}

fn ovmf() -> Result<PathBuf> {
    if !Path::new(OVMF).exists() {
        bail!("--firmware uefi needs {OVMF}, which is in Debian's package ovmf");
    }
    Ok(OVMF.into())
}

fn parameters(options: &RunOptions) -> String {
    let mut words: Vec<_> = PARAMETERS.split_ascii_whitespace().collect();
    let (channel, spec) = (options.channel().parameter(), options.spec.spec_from.parameter());
    words.extend([&*channel, &*spec]);
    if options.template.from_template.is_some() {
        words.push(template::PARAMETER);
    }
    if options.debug {
        words.retain(|word| *word != "quiet");
        words.push("loglevel=7");
    }
    words.join(" ")
}

/// The file that option `--what` names, or the first of `names` beside our executable or where a package puts it.
fn file(what: &str, given: Option<&PathBuf>, names: &[&str], command: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        std::fs::metadata(path).with_context(|| format!("--{what} {}", path.display()))?;
        return Ok(path.clone());
    }
    let exe = std::env::current_exe().context("cannot find out where this program is")?;
    let beside = exe.parent().and_then(Path::parent).map(|dir| dir.join("bootstrap"));
    search(what, beside.into_iter().chain([INSTALLED.into()]), names, command)
}

fn search(what: &str, dirs: impl Iterator<Item = PathBuf>, names: &[&str], command: &str) -> Result<PathBuf> {
    let candidates: Vec<_> = dirs.flat_map(|dir| names.iter().map(move |name| dir.join(name))).collect();
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    bail!(
        "no {what}: looked for {}; `cargo xtask {command}` makes it, --{what} names another",
        looked.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uefi_needs_memory_for_the_cd() {
        let cd = tempfile::NamedTempFile::new().unwrap();
        for (size, least) in [(0, 81), (8_015_872, 112), (24 * MIB, 177), (4 << 30, 209)] {
            cd.as_file().set_len(size).unwrap();
            assert!(enough_for_uefi(least * MIB, cd.path()).is_ok());
            let error = enough_for_uefi(least * MIB - 1, cd.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("--firmware uefi needs at least {least} MiB")), "{error}");
        }
    }

    #[test]
    fn parameters_say_what_the_options_do() {
        let mut options = RunOptions::new("img");
        let of = |options: &RunOptions| format!(" {} ", parameters(options));
        let usual = of(&options);
        assert!(usual.contains(" quiet ") && usual.contains(" panic=-1 "));
        assert!(usual.contains(" containervm.channel=virtio-serial containervm.spec=channel "));
        options.debug = true;
        options.machine = Some(Machine::Vmware);
        assert!(of(&options).contains(" containervm.channel=serial "));
        assert!(!of(&options).contains(" quiet ") && of(&options).contains(" loglevel=7 "));
        options.channel.channel = Some(crate::transport::Channel::Vsock);
        assert!(of(&options).contains(" containervm.channel=vsock "));
    }

    #[test]
    fn what_would_be_of_no_use_is_refused() {
        let parse = |change: &dyn Fn(&mut RunOptions)| {
            let mut options = RunOptions::new("img");
            change(&mut options);
            check(&options).err().map_or_else(String::new, |error| error.to_string())
        };
        let refused = |change: &dyn Fn(&mut RunOptions), parts: &[&str]| {
            let error = parse(change);
            assert!(!error.is_empty() && parts.iter().all(|part| error.contains(part)), "{error:?}");
        };
        let iso = Some(options::Boot::Iso);
        let path = || Some(PathBuf::from("/x"));
        refused(&|options| options.firmware = Firmware::Uefi, &["--firmware uefi", "--boot iso"]);
        refused(&|options| options.iso = path(), &["--iso /x", "--boot iso"]);
        refused(&|options| options.initrd = path(), &["--initrd /x", "--kernel"]);
        refused(&|options| options.kernel = Some(Kernel::File("/x".into())), &["--kernel /x", "--initrd"]);
        refused(&|options| (options.boot, options.initrd) = (iso, path()), &["--initrd /x", "on the CD"]);
        let both = |options: &mut RunOptions| {
            (options.boot, options.iso, options.kernel) = (iso, path(), Some(Kernel::Own));
        };
        refused(&both, &["--kernel", "--iso /x", "exclude each other"]);
        for change in [
            &(|_: &mut RunOptions| {}) as &dyn Fn(&mut RunOptions),
            &|options| (options.kernel, options.initrd) = (Some(Kernel::File("/x".into())), path()),
            &|options| (options.kernel, options.initrd) = (Some(Kernel::Own), path()),
            &|options| (options.boot, options.firmware, options.iso) = (iso, Firmware::Uefi, path()),
            &|options| (options.machine, options.iso) = (Some(Machine::Vmware), path()),
            &|options| (options.boot, options.kernel) = (iso, Some(Kernel::Debian)),
        ] {
            assert_eq!(parse(change), "");
        }
    }

    #[test]
    fn our_own_kernel_takes_as_many_cpus_as_it_was_told() {
        let config = include_str!("../../iso/kernel.config");
        assert!(config.contains(&format!("\nCONFIG_NR_CPUS={OWN_CPUS}\n")));
        assert!(own_takes(OWN_CPUS).is_ok());
        let error = own_takes(OWN_CPUS + 1).unwrap_err().to_string();
        assert!(error.contains("64 at most") && error.contains("--kernel debian"), "{error}");
    }

    #[test]
    fn a_kernel_begins_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = dir.path().join("kernel");
            std::fs::write(&path, bytes).unwrap();
            is_kernel(&path).unwrap()
        };
        let mut bz_image = vec![0; 0x202];
        bz_image.extend(b"HdrS and more");
        assert!(of(b"\x7fELF...") && of(&bz_image));
        assert!(!of(b"") && !of(b"root:x:0:0") && !of(&bz_image[..0x204]) && !of(&[0; 0x300]));
        assert!(is_kernel(dir.path()).is_err());
    }

    #[test]
    fn a_cd_begins_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = dir.path().join("cd");
            std::fs::write(&path, bytes).unwrap();
            is_cd(&path).unwrap()
        };
        let mut cd = vec![0; 0x8001];
        cd.extend(b"CD001");
        assert!(of(&cd) && !of(&cd[..0x8005]) && !of(b"root:x:0:0"));
        assert!(!is_cd(dir.path()).unwrap() && is_cd(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_kernel_says_by_a_name_in_it_that_it_finds_mmio_devices() {
        let dir = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = dir.path().join("kernel");
            std::fs::write(&path, bytes).unwrap();
            finds_mmio(&path).unwrap()
        };
        assert!(of(b"\x7fELF...\0virtio-mmio-cmdline\0..."));
        assert!(!of(b"\x7fELF...\0virtio-mmio\0..."));
        assert!(!of(b"MZ...\0virtio-mmio-cmdline\0..."));
        assert!(finds_mmio(&dir.path().join("none")).is_err());
    }

    #[test]
    fn further_modules_follow_where_the_kernel_looks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let initrd = dir.path().join("first");
        std::fs::write(&initrd, "12345").unwrap();
        let boot = || Boot::Direct {
            finds_mmio: false,
            kernel: "vmlinux".into(),
            initrd: initrd.clone(),
            parameters: String::new(),
        };
        assert_eq!(boot().with_modules("nfs", dir.path()).unwrap(), boot(), "a kernel without modules");
        std::fs::write(dir.path().join("first.nfs"), "67").unwrap();
        let Boot::Direct { initrd: both, .. } = boot().with_modules("nfs", dir.path()).unwrap() else {
            panic!("from a CD")
        };
        assert_eq!(std::fs::read(both).unwrap(), b"12345\0\0\x0067");
        assert_eq!(std::fs::read(&initrd).unwrap(), b"12345");
    }

    #[test]
    fn the_first_that_is_there_or_all_that_were_tried() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = || [dir.path().join("a"), dir.path().join("b")].into_iter();
        let error = search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap_err().to_string();
        for part in
            ["a/vmlinux,", "a/vmlinuz,", "b/vmlinux,", "b/vmlinuz;", "`cargo xtask build`", "--kernel"]
        {
            assert!(error.contains(part), "{error}");
        }
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/vmlinuz"), "").unwrap();
        assert_eq!(
            search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap(),
            dir.path().join("b/vmlinuz")
        );
        std::fs::write(dir.path().join("b/vmlinux"), "").unwrap();
        assert_eq!(
            search("kernel", dirs(), &["vmlinux", "vmlinuz"], "build").unwrap(),
            dir.path().join("b/vmlinux")
        );
    }
}
