//! What `vch run` can be told. Names and meanings are docker's where docker has them.

pub mod health;
pub mod limits;
pub mod machine;
pub mod network;
pub mod process;
pub mod security;
pub mod spec_from;
pub mod template;
pub mod user_namespace;
mod value;
pub mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Args, FromArgMatches, ValueEnum};
use image_builder::store::LayerFs;

pub mod channel;

pub use machine::{Boot, Firmware, Kernel, Machine};

use crate::accel;
use crate::restart::Policy;
use crate::size::{self, MIB};

/// The least memory that a containerVM is given, in bytes: with 64 MiB Debian's kernel panics ("deadlocked on memory"),
/// with 80 a shell has 20 available.
pub const LEAST_MEMORY: u64 = 80 * MIB;
/// The smallest scratch disk, in bytes.
const LEAST_SCRATCH: u64 = 4 * MIB;
/// How many CPUs there are if nothing is said.
const CPUS: f64 = 1.0;
/// The least CPU time: the kernel gives no less than a millisecond in a tenth of a second.
const LEAST_CPUS: f64 = 0.01;
/// The most virtual CPUs that the machine types have.
const MOST_CPUS: u32 = 255;

/// A containerVM to run. [`RunOptions::new`] gives the defaults.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Send stdin to the container
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the container a terminal; at a terminal, stdin goes to it with or without -i
    #[arg(short, long)]
    pub tty: bool,

    /// Set NAME in the environment; without VALUE, to what it is here (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// Run as this user, looked up in the image
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    pub user: Option<String>,

    /// Memory of the VM, at least 80m
    #[arg(short, long, value_name = "SIZE", default_value = "256m", value_parser = memory)]
    pub memory: u64,

    /// CPUs; of a fraction the VM has the next whole number, and the container that much of their time
    #[arg(long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: f64,

    /// Run this in place of the image's entrypoint, and without the image's command; "" is none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,

    /// Put an init above the command, which reaps orphans; --init=false is for images that bring their own
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init: bool,

    /// Hostname in the container; its ID by default
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Run in the background, and print the container's ID
    #[arg(short, long)]
    pub detach: bool,

    /// Keys that leave the container to itself, when it has a terminal
    #[arg(long, value_name = "KEYS", default_value = crate::client::detach::DEFAULT)]
    pub detach_keys: String,

    /// Remove the container when it has ended, with its output
    #[arg(long)]
    pub rm: bool,

    /// Name of the container, which no other one may have; one is made up otherwise
    #[arg(long)]
    pub name: Option<String>,

    /// Make the root filesystem read-only
    #[arg(long)]
    pub read_only: bool,

    /// Check every block that is read of a layer with the layer's hash tree (dm-verity); a damaged one cannot be read
    #[arg(long)]
    pub verity: bool,

    /// Size of the disk that takes what the container writes; it is sparse, and gone with the VM
    #[arg(long, value_name = "SIZE", default_value = "1g", value_parser = scratch)]
    pub scratch_size: u64,

    /// Start it again when it has ended: no, on-failure[:MAX-RETRIES], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: Policy,

    /// Its health.
    #[command(flatten)]
    pub health: health::HealthOptions,

    /// Who its users are.
    #[command(flatten)]
    pub user_namespace: user_namespace::UserNamespace,

    /// Volumes.
    #[command(flatten)]
    pub volumes: volumes::VolumeOptions,

    /// Filesystem of the layer disks: erofs, or ext4 for a kernel without EROFS
    #[arg(long, value_name = "FILESYSTEM", default_value = "erofs")]
    pub layer_fs: LayerFs,

    /// Accelerator: KVM where it is usable, else TCG
    #[arg(long, value_enum, value_name = "NAME", default_value = "auto")]
    pub accel: accel::Choice,

    /// How the guest is spoken to.
    #[command(flatten)]
    pub channel: channel::ChannelOptions,

    /// How the guest is told what to run.
    #[command(flatten)]
    pub spec: spec_from::SpecOptions,

    /// Boot the kernel directly, or from a CD; directly by default, but for --machine vmware
    #[arg(long, value_enum, value_name = "HOW")]
    pub boot: Option<Boot>,

    /// Whether to boot at all.
    #[command(flatten)]
    pub template: template::TemplateOptions,

    /// Kernel to boot: our own or Debian's, or a bzImage or PVH vmlinux; our own by default, where it was built
    #[arg(long, value_name = "own|debian|PATH")]
    pub kernel: Option<Kernel>,

    /// Initramfs with tether in it
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,

    /// CD image for --boot iso
    #[arg(long, value_name = "PATH")]
    pub iso: Option<PathBuf>,

    /// Firmware for --boot iso
    #[arg(long, value_enum, value_name = "NAME", default_value = "bios")]
    pub firmware: Firmware,

    /// Machine type; microvm by default where it can be, else q35
    #[arg(long, value_enum, value_name = "NAME")]
    pub machine: Option<Machine>,

    /// Folder for layer disks and scratch disks; $CONTAINERVM_STORE or ~/.local/share/containervm by default
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Pull an image by its name from its registry always, never, or when the store lacks it
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pub pull: Pull,

    /// Of the registry, take plain http where it has no https, and do not check its certificate (always so on loopback addresses)
    #[arg(long)]
    pub insecure: bool,

    /// The most that a layer's disk may have
    #[arg(long, value_name = "SIZE", default_value = "64g", value_parser = size::parse)]
    pub max_size: u64,

    /// What it may do.
    #[command(flatten)]
    pub security: security::Security,

    /// What it may use.
    #[command(flatten)]
    pub limits: limits::Limits,

    /// More about its process.
    #[command(flatten)]
    pub process: process::ProcessOptions,

    /// Show the guest's kernel log on stderr
    #[arg(long)]
    pub debug: bool,

    /// Give up when the container has not started after so many seconds; 60 with KVM, 180 without
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub boot_timeout: Option<Duration>,

    /// Write what happened when to this file, as JSON
    #[arg(long, value_name = "FILE", hide = true)]
    pub timeline: Option<PathBuf>,

    /// A further argument for QEMU (repeatable)
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    pub qemu_arg: Vec<String>,

    /// Network and names.
    #[command(flatten)]
    pub network: network::NetworkOptions,

    /// Image to run: any [`image_builder::source::Reference`] but standard input.
    #[arg(skip)]
    pub image: String,

    /// Command and arguments, in place of the image's.
    #[arg(skip)]
    pub command: Vec<String>,
}

/// When an image is pulled from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// When the store lacks it.
    Missing,
    /// Also when the store has one of that name: it may have changed. Layers that are there are not read again.
    Always,
    /// Not at all.
    Never,
}

impl RunOptions {
    /// The image with its own command, and the default of every option.
    pub fn new(image: impl Into<String>) -> Self {
        match parse(["--".to_owned(), image.into()]) {
            Ok(options) => options,
            // The defaults are ours: that they parse is a property of this file, which a test checks.
            Err(error) => unreachable!("{error}"),
        }
    }

    /// The VM's CPUs.
    pub fn vcpus(&self) -> u32 {
        // Parsed to be above 0 and at most 255.
        (1..MOST_CPUS).find(|count| f64::from(*count) >= self.cpus).unwrap_or(MOST_CPUS)
    }
}

/// [`RunOptions`] as the command line gives them. Image, command and arguments are one list to clap: only so is
/// everything after the image the command's, be it the name of an option of ours.
#[derive(Debug, Clone)]
pub struct Arguments(pub RunOptions);

impl Args for Arguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        let words = Arg::new(WORDS)
            .value_name("IMAGE [COMMAND] [ARG]")
            .help("A name or an ID, in the store or else in a registry; an OCI layout folder or an archive (OCI, docker save; also gzip or zstd) as PATH[:NAME]; a command in place of the image's")
            .num_args(1..)
            .trailing_var_arg(true)
            .required(true);
        RunOptions::augment_args(command).arg(words)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = RunOptions::from_arg_matches(matches)?;
        let mut words = matches.get_many(WORDS).unwrap_or_default().cloned();
        options.limits = options.limits.without_nothing();
        options.image = words.next().unwrap_or_default();
        options.command = words.collect();
        Ok(Self(options))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The name of the list of image, command and arguments.
const WORDS: &str = "words";

/// What follows `vch run`.
fn parse(arguments: impl IntoIterator<Item = String>) -> Result<RunOptions, clap::Error> {
    let command = Arguments::augment_args(clap::Command::new("run").no_binary_name(true));
    command.try_get_matches_from(arguments).and_then(|m| Arguments::from_arg_matches(&m)).map(|a| a.0)
}

pub(crate) fn memory(text: &str) -> Result<u64> {
    at_least(text, LEAST_MEMORY, "a containerVM needs")
}

fn scratch(text: &str) -> Result<u64> {
    at_least(text, LEAST_SCRATCH, "a scratch disk needs")
}

fn at_least(text: &str, least: u64, who: &str) -> Result<u64> {
    let size = size::parse(text)?;
    if size < least {
        bail!("{who} at least {} MiB", least / MIB);
    }
    Ok(size)
}

pub(crate) fn cpus(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        // As docker has it: the default.
        Ok(0.0) => Ok(CPUS),
        Ok(count) if (LEAST_CPUS..=f64::from(MOST_CPUS)).contains(&count) => Ok(count),
        _ => bail!("a containerVM has {LEAST_CPUS} to {MOST_CPUS} CPUs"),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::from_secs(text.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<RunOptions, String> {
        super::parse(arguments.iter().map(ToString::to_string)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let options = RunOptions::new("-odd/name");
        assert_eq!(options.image, "-odd/name");
        assert_eq!((options.memory, options.cpus, options.scratch_size), (256 * MIB, 1.0, 1024 * MIB));
        assert!(
            options.init
                && options.command.is_empty()
                && options.env.is_empty()
                && !options.interactive
                && !options.tty
        );
    }

    #[test]
    fn options_after_the_image_are_the_commands() {
        let options =
            parse(&["-it", "-e", "A=1", "--env=B", "img", "sh", "-c", "-i", "--help", "-m", "--"]).unwrap();
        assert!(options.interactive && options.tty);
        assert_eq!(options.env, ["A=1", "B"]);
        assert_eq!(options.image, "img");
        assert_eq!(options.command, ["sh", "-c", "-i", "--help", "-m", "--"]);
        for first in ["-i", "--rm", "-x", "-m"] {
            let options = parse(&["img", first, "-t"]).unwrap();
            assert_eq!(options.command, [first, "-t"]);
            assert!(!options.interactive && !options.rm && !options.tty);
        }
    }

    #[test]
    fn nothing_is_what_it_is_to_docker() {
        let nothing = [
            "--cpus",
            "0",
            "--shm-size",
            "0",
            "--memory-swap",
            "0",
            "--cpuset-cpus",
            "",
            "--sysctl",
            "a=1",
            "img",
        ];
        let options = parse(&nothing).unwrap();
        assert_eq!((options.cpus, options.vcpus()), (1.0, 1));
        let limits = options.limits;
        assert_eq!((limits.shm_size, limits.memory_swap, limits.cpuset_cpus), (None, None, None));
        let limits =
            parse(&["--shm-size", "1m", "--memory-swap", "-1", "--cpuset-cpus", "0", "img"]).unwrap().limits;
        assert_eq!(limits.shm_size, Some(MIB));
        assert_eq!((limits.memory_swap.as_deref(), limits.cpuset_cpus.as_deref()), (Some("-1"), Some("0")));
    }

    #[test]
    fn values_are_checked() {
        let refused = |arguments: &[&str], why: &str| {
            let error = parse(arguments).expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        refused(&["-m", "79m", "img"], "at least 80 MiB");
        refused(&["-m", "lots", "img"], "not a size");
        for bad in ["x", "-1", "256", "NaN", "inf", "0.001"] {
            refused(&[&format!("--cpus={bad}"), "img"], "0.01 to 255 CPUs");
        }
        refused(&["--oom-score-adj", "1001", "img"], "-1000..=1000");
        refused(&["--pids-limit", "-2", "img"], "-2");
        refused(&["--stop-signal", "NONE", "img"], "invalid signal");
        refused(&["--stop-timeout", "-2", "img"], "-2");
        assert_eq!(parse(&["--stop-timeout", "-1", "img"]).unwrap().process.stop_timeout, Some(-1));
        refused(&["--shm-size", "lots", "img"], "not a size");
        refused(&["--scratch-size", "1k", "img"], "at least 4 MiB");
        refused(&["--boot", "net", "img"], "direct");
        for bad in ["kernel.msgmax", "kernel.msgmax=", "=1"] {
            refused(&["--sysctl", bad, "img"], "NAME=VALUE");
        }
        for name in ["kernel.hostname", "kernel/hostname"] {
            refused(&["--sysctl", &format!("{name}=x"), "img"], "--hostname");
        }
        refused(&["--group-add", "", "img"], "it is empty");
        refused(&["--network", "user,foo=1", "img"], "\"foo=1\": there are dhcp, slaac");
        refused(&["--network", "user,mac=zz", "img"], "not a MAC address");
        let nfs = "target=/x,volume-driver=nfs,volume-opt=device=10.0.0.1:/a,volume-opt=o=port=x";
        refused(&["--mount", nfs, "img"], "NFS option \"port=x\": ");
        refused(&[], "IMAGE");
        refused(&["--unknown", "img"], "unexpected argument '--unknown'");
        assert!(parse(&["--init", "img", "false"]).unwrap().init);
        assert!(!parse(&["--init=false", "img"]).unwrap().init);
        for (text, vcpus) in [("2.0", 2), ("1", 1), ("0.5", 1), ("1.01", 2), ("255", 255)] {
            assert_eq!(parse(&["--cpus", text, "-m", "80m", "img"]).unwrap().vcpus(), vcpus, "{text}");
        }
    }
}
