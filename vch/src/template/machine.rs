//! What a template and its copies have in common, and what cannot be copied.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use image_builder::digest::Digest;
use protocol::network::Mac;
use serde::{Deserialize, Serialize};

use super::DIGITS;
use super::digests::Digests;
use super::thaw::Frozen;
use crate::accel::Accel;
use crate::boot::Boot;
use crate::network;
use crate::options::spec_from::SpecFrom;
use crate::options::{self, Machine as Type, RunOptions};
use crate::qemu::machine::{Wanted, choose};
use crate::qemu::{self, Descriptors};
use crate::size::MIB;
use crate::transport::{Channel, Device};
use crate::vm::QEMU;
use crate::volumes::Source;

/// Disks that every template has room for: a scratch disk, and the image.
const LEAST_DISKS: usize = 2;

/// A machine that is, or could be, a template.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    options: &'a RunOptions,
    accel: Accel,
    boot: &'a Boot,
    kind: Type,
    disks: usize,
    nics: usize,
}

/// What a template and its copies have in common. Two are the same only if QEMU's arguments are, and the files that it reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Key {
    /// As `--machine`.
    pub machine: String,
    /// MiB.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// As `--accel`.
    pub accel: String,
    /// As `--channel`.
    pub channel: String,
    /// Disks.
    disks: usize,
    /// Network interfaces.
    pub nics: usize,
    /// SHA-256 of QEMU, firmware, kernel, initrd, in hex.
    pub digests: BTreeMap<String, String>,
    /// What of the host the guest has seen: with KVM, its CPU.
    host: String,
    /// QEMU's, with nothing in them that is one machine's own.
    arguments: Vec<String>,
}

impl Key {
    /// Digits that no other key has.
    pub fn id(&self) -> String {
        // It is made of texts, numbers and maps of such.
        let mut id = Digest::of(&serde_json::to_vec(self).unwrap_or_default()).hex();
        id.truncate(DIGITS);
        id
    }

    /// Disks.
    pub fn disks(&self) -> usize {
        self.disks
    }

    /// For people: the first thing that is otherwise in `other`, which is the machine that is wanted.
    pub fn difference(&self, other: &Self) -> Option<String> {
        // The machine type may follow from what is above it.
        let mut pairs = vec![
            ("the memory in MiB", self.memory.to_string(), other.memory.to_string()),
            ("the number of CPUs", self.cpus.to_string(), other.cpus.to_string()),
            ("the number of disks", self.disks.to_string(), other.disks.to_string()),
            ("the number of network interfaces", self.nics.to_string(), other.nics.to_string()),
            ("--channel", self.channel.clone(), other.channel.clone()),
            ("--accel", self.accel.clone(), other.accel.clone()),
            ("--machine", self.machine.clone(), other.machine.clone()),
        ];
        for what in ["qemu", "firmware", "kernel", "initrd"] {
            let digest = |key: &Self| key.digests.get(what).map_or("none", String::as_str).to_owned();
            pairs.push((what, digest(self), digest(other)));
        }
        pairs.push(("the host's CPU", self.host.clone(), other.host.clone()));
        pairs.push(("QEMU's arguments", self.arguments.join(" "), other.arguments.join(" ")));
        let (what, theirs, wanted) = pairs.into_iter().find(|(_, theirs, wanted)| theirs != wanted)?;
        Some(format!("{what} is {theirs} there, and {wanted} here"))
    }
}

/// Whether the machine that these options ask for can be copied, if they ask for that.
///
/// # Errors
/// It cannot: why.
pub fn check(options: &RunOptions) -> Result<()> {
    if options.template.from_template.is_none() {
        return Ok(());
    }
    let no = |what: &str, why: &str| -> Result<()> {
        bail!("{what} and --from-template exclude each other: {why}")
    };
    if options.machine == Some(Type::Vmware) {
        no("--machine vmware", "its disks and interfaces have no blank ones that could take their places")?;
    }
    if options.boot() == options::Boot::Iso {
        no("--boot iso", "what is not booted needs no CD")?;
    }
    if options.spec.spec_from != SpecFrom::Channel {
        no("--spec-from", "a template has gone past the place where it would look there")?;
    }
    if options.debug {
        no("--debug", "the kernel's log is the template's, and was written when that was made")?;
    }
    if options.channel() == Channel::Vsock {
        no("--channel vsock", "the host's end of it cannot be restored; virtio-serial and serial can")?;
    }
    let mounts = options.volumes.all();
    if let Some(share) = mounts.iter().find(|mount| matches!(mount.source, Source::Bind(_))) {
        no(
            &format!("the folder of the host's on {}", share.target),
            "virtiofsd cannot be restored; volumes can",
        )?;
    }
    Ok(())
}

/// Whether the machine type has room for all of that: a template, which has disks only, could not say which of them are too many.
///
/// # Errors
/// It has not.
pub fn check_room(
    options: &RunOptions,
    accel: Accel,
    boot: &Boot,
    layers: usize,
    volumes: usize,
    nics: usize,
) -> Result<()> {
    choose(options.machine, boot, accel, &wanted(options, layers, volumes, nics)).map(drop)
}

/// What a machine that can be copied is to have.
fn wanted(options: &RunOptions, layers: usize, volumes: usize, nics: usize) -> Wanted {
    Wanted { layers, volumes, shares: 0, nics, channel: options.channel() != Channel::Serial, fw_cfg: false }
}

impl<'a> Machine<'a> {
    /// With these disks and network interfaces.
    ///
    /// # Errors
    /// It cannot be copied; there are too many disks.
    pub fn new(
        options: &'a RunOptions,
        accel: Accel,
        boot: &'a Boot,
        disks: usize,
        nics: usize,
    ) -> Result<Self> {
        check(options)?;
        let mut machine = Self { options, accel, boot, kind: Type::Q35, disks: disks.max(LEAST_DISKS), nics };
        machine.kind = machine.choose()?;
        Ok(machine)
    }

    /// The machine type that this is.
    fn choose(&self) -> Result<Type> {
        let wanted = wanted(self.options, 0, self.disks.saturating_sub(1), self.nics);
        choose(self.options.machine, self.boot, self.accel, &wanted)
    }

    /// With more disks, so that few templates serve all images, where this machine type has room for them.
    #[must_use]
    pub fn rounded(self) -> Self {
        self.with_disks(self.disks.next_power_of_two())
    }

    /// With so many disks, if there are not more already, and this machine type has room for them.
    #[must_use]
    pub fn with_disks(self, disks: usize) -> Self {
        let more = Self { disks: disks.max(self.disks), ..self };
        if more.choose().is_ok_and(|kind| kind == self.kind) { more } else { self }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        self.options.memory.div_ceil(MIB) * MIB
    }

    /// The options.
    pub fn options(&self) -> &RunOptions {
        self.options
    }

    /// With which accelerator.
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// What a template has that is reached by these descriptors.
    pub fn descriptors(&self, channel: Device, console: RawFd, monitor: RawFd, memory: RawFd) -> Descriptors {
        let nic = |number: u8| network::Device {
            // Nothing, which has no state that would have to be restored.
            backend: String::new(),
            mac: Mac([2, 0, 0, 0, 0, number]),
        };
        Descriptors {
            listening: false,
            held: vec![],
            channel,
            console,
            monitor,
            scratch: None,
            layers: vec![],
            volumes: vec![],
            shares: vec![],
            cd: None,
            spec: None,
            nics: (0..=u8::MAX).take(self.nics).map(nic).collect(),
            frozen: Some(Frozen { disks: self.disks, memory, copied: false }),
        }
    }

    /// QEMU's arguments for a template.
    ///
    /// # Errors
    /// There are more disks than fit.
    pub fn arguments(&self, descriptors: &Descriptors) -> Result<Vec<std::ffi::OsString>> {
        qemu::arguments("template", self.options, self.accel, self.boot, descriptors)
    }

    /// The files that decide what it is.
    ///
    /// # Errors
    /// QEMU is not installed.
    pub fn files(&self) -> Result<BTreeMap<String, PathBuf>> {
        let Boot::Direct { kernel, initrd, .. } = self.boot else {
            bail!("what boots from a CD is no template");
        };
        let mut files = BTreeMap::from([
            ("qemu".to_owned(), program(QEMU)?),
            ("kernel".to_owned(), kernel.clone()),
            ("initrd".to_owned(), initrd.clone()),
        ]);
        files.extend(self.kind.firmware(self.boot).map(|firmware| ("firmware".to_owned(), firmware)));
        for path in files.values_mut() {
            *path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        }
        Ok(files)
    }

    /// What its copies must have in common with it.
    ///
    /// # Errors
    /// A file cannot be read; there are more disks than fit.
    pub fn key(&self, digests: &mut Digests) -> Result<Key> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let files = self.files()?;
        let of = files.iter().map(|(what, path)| Ok((what.clone(), digests.digest(path)?)));
        Ok(Key {
            machine: name(self.kind.to_possible_value()),
            memory: self.memory() / MIB,
            cpus: self.options.vcpus(),
            accel: match self.accel {
                Accel::Kvm => "kvm".to_owned(),
                Accel::Tcg => "tcg".to_owned(),
            },
            channel: name(self.options.channel().to_possible_value()),
            disks: self.disks,
            nics: self.nics,
            digests: of.collect::<Result<_>>()?,
            host: match (self.accel, self.kind) {
                // microvm is told how fast the host's CPU counts.
                (Accel::Kvm, _) | (_, Type::Microvm) => host(),
                (Accel::Tcg, _) => String::new(),
            },
            arguments: self.normal_arguments()?,
        })
    }

    /// A copy's arguments without what is one machine's own: descriptors, which all have the same number here, and paths.
    fn normal_arguments(&self) -> Result<Vec<String>> {
        let Boot::Direct { parameters, finds_mmio, .. } = self.boot else { return Ok(vec![]) };
        let boot = Boot::Direct {
            kernel: "kernel".into(),
            initrd: "initrd".into(),
            parameters: parameters.clone(),
            finds_mmio: *finds_mmio,
        };
        let channel = match self.options.channel() {
            Channel::Serial => Device::Serial,
            _ => Device::Port,
        };
        let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
        let mut descriptors = self.descriptors(channel(null.into()), 0, 0, 0);
        descriptors.frozen = Some(Frozen { disks: self.disks, memory: 0, copied: true });
        let number = format!("fd={}", descriptors.channel.descriptor());
        let arguments = qemu::arguments("template", self.options, self.accel, &boot, &descriptors)?;
        Ok(arguments
            .into_iter()
            .map(|argument| argument.to_string_lossy().replace(&number, "fd=0"))
            .collect())
    }
}

/// The program of that name, as it would be started.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed: it is in Debian's package qemu-system-x86"))
}

/// The CPU and the kernel, which decide what KVM shows to a guest.
fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let mut host = read("/proc/sys/kernel/osrelease").trim_end().to_owned();
    for line in cpuinfo.lines().take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_default();
        if ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"].contains(&name.trim_end()) {
            let _ = write!(host, ",{}", value.trim());
        }
    }
    Digest::of(host.as_bytes()).hex()
}
