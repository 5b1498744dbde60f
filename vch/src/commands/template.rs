//! `vch template`: templates are made, listed and removed.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use nix::sys::signal::Signal::{self, SIGUSR1, SIGUSR2, SIGWINCH};
use serde_json::json;

use super::ps::{Format, table};
use super::{Store, each, time};
use crate::boot::Boot;
use crate::options::template::Choice;
use crate::options::{Kernel, Machine, RunOptions, channel, cpus, memory, seconds};
use crate::template::digests::Digests;
use crate::template::machine;
use crate::template::{Lock, Remains, Template, Templates, check_name, create};
use crate::{accel, monitor, signals};

/// `vch template ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Boot a machine, and keep it as it is then; the options are those of `vch run` that decide what the machine is
    Create(Create),
    /// List templates
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Remove templates; containers that run go on
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove the templates that cannot be used any more, for QEMU, kernel or initramfs are others now, or for they are broken
    Prune(Prune),
}

/// Options of `vch template create`.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// Its name, for `vch run --from-template=NAME`; without one, it is what `--from-template=auto` finds
    name: Option<String>,

    /// Memory, at least 80m
    #[arg(short, long, value_name = "SIZE", default_value = "256m", value_parser = memory)]
    memory: u64,

    /// CPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = cpus)]
    cpus: f64,

    /// How many disks there is room for: one to write to, each volume, and the image, which is more only with --verity or ext4
    #[arg(long, value_name = "N", default_value = "2")]
    disks: usize,

    /// Network interfaces
    #[arg(long, value_name = "N", default_value = "1")]
    nics: usize,

    /// Machine type; by default the one that `vch run` takes
    #[arg(long, value_enum, value_name = "NAME")]
    machine: Option<Machine>,

    /// Accelerator: KVM where it is usable, else TCG
    #[arg(long, value_enum, value_name = "NAME", default_value = "auto")]
    accel: accel::Choice,

    #[command(flatten)]
    channel: channel::ChannelOptions,

    /// Kernel: our own or Debian's, or a bzImage or PVH vmlinux; our own by default, where it was built
    #[arg(long, value_name = "own|debian|PATH")]
    kernel: Option<Kernel>,

    /// Initramfs with tether in it
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,

    /// Give up when it has not booted after so many seconds; 60 with KVM, 180 without
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    boot_timeout: Option<Duration>,

    /// A further argument for QEMU (repeatable)
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    qemu_arg: Vec<String>,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch template ls`.
#[derive(Debug, Clone, Args)]
pub struct Ls {
    /// IDs only
    #[arg(short, long)]
    quiet: bool,

    /// Form of the list
    #[arg(long, value_enum, default_value = "table")]
    format: Format,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch template rm`.
#[derive(Debug, Clone, Args)]
pub struct Rm {
    /// Names or IDs of templates
    #[arg(required = true)]
    templates: Vec<String>,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch template prune`.
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// All others, too
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    store: Store,
}

/// Does it.
///
/// # Errors
/// The store's; a template cannot be made; what is asked for is not there.
pub fn run(command: &Command, say: impl Fn(&str)) -> Result<u8> {
    match command {
        Command::Create(options) => make(options),
        Command::Ls(options) => list(options),
        Command::Rm(options) => remove(options, say),
        Command::Prune(options) => prune(options, say),
    }
}

impl Store {
    fn templates(&self) -> Result<Templates> {
        Ok(Templates::of(&self.dir()?))
    }
}

impl Create {
    /// The options of a `vch run` that could use it.
    fn options(&self) -> RunOptions {
        let mut options = RunOptions::new("");
        options.template.from_template = Some(Choice::Auto);
        (options.memory, options.cpus, options.machine) = (self.memory, self.cpus, self.machine);
        (options.accel, options.channel) = (self.accel, self.channel);
        (options.kernel, options.initrd) = (self.kernel.clone(), self.initrd.clone());
        (options.boot_timeout, options.qemu_arg) = (self.boot_timeout, self.qemu_arg.clone());
        options
    }
}

fn make(options: &Create) -> Result<u8> {
    let name = options.name.as_deref();
    name.map_or(Ok(()), check_name)?;
    let run = options.options();
    machine::check(&run)?;
    let accel = accel::choose(run.accel)?;
    let boot = Boot::find(&run)?;
    let most = protocol::network::MOST_NICS;
    ensure!(options.nics <= most, "--nics {}: a machine has {most} at most", options.nics);
    let machine = machine::Machine::new(&run, accel, &boot, options.disks, options.nics)
        .with_context(|| format!("--disks {} --nics {}", options.disks, options.nics))?
        .rounded();
    let templates = options.store.templates()?;
    let key = machine.key(&mut templates.digests())?;
    let signals = signals::catch()?;
    let mut look = || Ok(signals::read(&signals)?.filter(|signal| ends(*signal)));
    let lock = create::wait_for_lock(&templates, &mut look)?;
    if let Some(name) = name
        && let Some(other) = templates.list()?.iter().find(|other| other.record.name.as_deref() == Some(name))
        && other.record.id != key.id()
    {
        bail!("template {name:?} is there already, for another machine: `vch template rm {name}` removes it");
    }
    let mut template = match templates.whole(&key) {
        Some(thaw) => templates.find(&thaw.record.id)?,
        None => templates.make(&key, &machine, name, &lock, &mut look)?,
    };
    name.map_or(Ok(()), |name| templates.call(&mut template, name, &lock))?;
    print(&format!("{}\n", template.record.id));
    Ok(0)
}

/// Whether it ends the work.
fn ends(signal: Signal) -> bool {
    !matches!(signal, SIGWINCH | SIGUSR1 | SIGUSR2)
}

fn list(options: &Ls) -> Result<u8> {
    let templates = options.store.templates()?;
    let (all, mut digests) = (templates.list()?, templates.digests());
    let mut broken = templates.remains()?;
    broken.retain(Remains::is_template);
    let mut text = String::new();
    match (options.quiet, options.format) {
        (true, _) => {
            let ids = all.iter().map(|template| &template.record.id);
            ids.chain(broken.iter().map(|broken| &broken.name)).for_each(|id| text += &format!("{id}\n"));
        }
        (false, Format::Json) => {
            all.iter().for_each(|template| text += &object(template, &mut digests));
            let object = |broken: &Remains| json!({"ID": broken.name, "Trouble": broken.trouble});
            broken.iter().for_each(|broken| text += &format!("{}\n", object(broken)));
        }
        (false, Format::Table) => {
            let head = [
                "TEMPLATE ID",
                "NAME",
                "MACHINE",
                "MEMORY",
                "CPUS",
                "DISKS",
                "NICS",
                "SIZE",
                "CREATED",
                "QEMU",
                "STATUS",
            ];
            let rows = all.iter().map(|template| row(template, &mut digests));
            text += &table(head, rows.chain(broken.iter().map(broken_row)));
        }
    }
    print(&text);
    Ok(0)
}

fn row(template: &Template, digests: &mut Digests) -> [String; 11] {
    let (record, key) = (&template.record, &template.record.key);
    [
        record.id.clone(),
        record.name.clone().unwrap_or_default(),
        format!("{}/{}", key.machine, key.accel),
        format!("{}m", key.memory),
        key.cpus.to_string(),
        key.disks().to_string(),
        key.nics.to_string(),
        format!("{}m", template.size() >> 20),
        format!("{} ago", time::human(monitor::now().saturating_sub(record.created))),
        record.qemu.clone(),
        if template.trouble(digests).is_some() { "stale".into() } else { "usable".into() },
    ]
}

fn broken_row(broken: &Remains) -> [String; 11] {
    let mut row: [String; 11] = Default::default();
    let [id, .., status] = &mut row;
    (*id, *status) = (broken.name.clone(), "broken".into());
    row
}

fn object(template: &Template, digests: &mut Digests) -> String {
    let (record, key) = (&template.record, &template.record.key);
    let object = json!({
        "ID": record.id, "Name": record.name, "CreatedAt": record.created, "QEMU": record.qemu, "Size": template.size(),
        "Machine": key.machine, "Accel": key.accel, "Channel": key.channel, "Memory": key.memory << 20, "CPUs": key.cpus,
        "Disks": key.disks(), "NICs": key.nics, "Digests": key.digests, "Files": record.files,
        "Trouble": template.trouble(digests),
    });
    format!("{object}\n")
}

fn remove(options: &Rm, say: impl Fn(&str)) -> Result<u8> {
    let templates = options.store.templates()?;
    let remove = |text: &str| {
        let lock = wait(&templates)?;
        match templates.remains()?.iter().find(|broken| broken.is_template() && broken.name == text) {
            Some(broken) => templates.sweep(broken, &lock)?,
            None => templates.remove(&templates.find(text)?, &lock)?,
        }
        Ok(text.to_owned())
    };
    each(&options.templates, remove, say)
}

fn prune(options: &Prune, say: impl Fn(&str)) -> Result<u8> {
    let templates = options.store.templates()?;
    let (lock, mut digests) = (wait(&templates)?, templates.digests());
    let (mut reclaimed, mut failed) = (0, false);
    let mut count = |removed: Result<()>, name: &str, size: u64| match removed {
        Ok(()) => {
            print(&format!("{name}\n"));
            reclaimed += size;
        }
        Err(error) => {
            failed = true;
            say(&format!("{error:#}"));
        }
    };
    for template in templates.list()? {
        if options.all || template.trouble(&mut digests).is_some() {
            let size = template.size();
            count(templates.remove(&template, &lock), &template.record.id, size);
        }
    }
    for remains in templates.remains()? {
        let size = remains.size();
        count(templates.sweep(&remains, &lock), &remains.name, size);
    }
    print(&format!("Total reclaimed space: {reclaimed} bytes\n"));
    Ok(u8::from(failed))
}

/// Until nobody makes or removes a template. A signal ends this process.
fn wait(templates: &Templates) -> Result<Lock> {
    create::wait_for_lock(templates, &mut || Ok(None))
}

/// Prints; that nobody reads is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
