//! `vch volume`: volumes are made, listed, looked at, grown and removed. Words and forms are docker's.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ps::Format;
use super::{Store, each, time};
use crate::volumes::nfs::Driver;
use crate::volumes::parse::{driver_option, label, size_of_volume};
use crate::volumes::{New, Volume, Volumes};

/// `vch volume ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a volume; one of that name that is there is taken as it is, and grown if it is to be larger
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show all of volumes, as JSON
    Inspect(Inspect),
    /// Remove volumes that no container has
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove the volumes without a name that no container has
    Prune(Prune),
}

/// Options of `vch volume create`.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// Its name; one is made up otherwise
    name: Option<String>,

    /// Size of its disk, which is sparse; 10g by default
    #[arg(long, value_name = "SIZE", value_parser = size_of_volume)]
    size: Option<u64>,

    /// What it is: local, a disk; nfs, a folder of a server's
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,

    /// What its driver is told: of local size=SIZE; of nfs device=HOST:/PATH, and o=OPTIONS as of mount(8); type=nfs makes local
    /// the same as nfs (repeatable)
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = driver_option)]
    opt: Vec<(String, String)>,

    /// A label (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = label)]
    label: Vec<(String, String)>,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch volume ls`.
#[derive(Debug, Clone, Args)]
pub struct Ls {
    /// Names only
    #[arg(short, long)]
    quiet: bool,

    /// Form of the list
    #[arg(long, value_enum, default_value = "table")]
    format: Format,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch volume inspect`.
#[derive(Debug, Clone, Args)]
pub struct Inspect {
    /// Names of volumes
    #[arg(required = true)]
    volumes: Vec<String>,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch volume rm`.
#[derive(Debug, Clone, Args)]
pub struct Rm {
    /// Names of volumes
    #[arg(required = true)]
    volumes: Vec<String>,

    /// No failure where there is none of that name
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    store: Store,
}

/// Options of `vch volume prune`.
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// Those that have a name, too
    #[arg(short, long)]
    all: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    store: Store,
}

/// Does it.
///
/// # Errors
/// The store's; what is asked for is not there, or in use.
pub fn run(command: &Command, say: impl Fn(&str)) -> Result<u8> {
    match command {
        Command::Create(options) => create(options),
        Command::Ls(options) => list(options),
        Command::Inspect(options) => inspect(options),
        Command::Rm(options) => remove(options, say),
        Command::Prune(options) => prune(options, say),
    }
}

impl Store {
    fn volumes(&self) -> Result<Volumes> {
        Ok(Volumes::of(&self.dir()?))
    }
}

/// Prints; that nobody reads is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn create(options: &Create) -> Result<u8> {
    let volumes = options.store.volumes()?;
    let labels = options.label.iter().cloned().collect();
    let told = options.opt.iter().cloned().collect();
    let (size, nfs) = match Driver::new(Some(&options.driver), &told)? {
        Driver::Disk(size) => (options.size.or(size), None),
        Driver::Nfs(_) if options.size.is_some() => bail!("--size is for volumes that are disks"),
        Driver::Nfs(export) => (None, Some(export)),
    };
    let new = New { name: options.name.clone(), size, nfs, labels };
    let volume = volumes.create(new, &volumes.lock()?)?;
    print(&format!("{}\n", volume.record.name));
    Ok(0)
}

fn list(options: &Ls) -> Result<u8> {
    let volumes = options.store.volumes()?;
    let all = volumes.list()?;
    let mut text = String::new();
    if !options.quiet && options.format == Format::Table {
        text += "DRIVER    VOLUME NAME\n";
    }
    for volume in &all {
        let name = &volume.record.name;
        text += &match (options.quiet, options.format) {
            (true, _) => format!("{name}\n"),
            (_, Format::Table) => format!("{:10}{name}\n", driver(volume)),
            (_, Format::Json) => format!("{}\n", object(&volumes, volume)?),
        };
    }
    print(&text);
    Ok(0)
}

fn driver(volume: &Volume) -> &'static str {
    if volume.record.nfs.is_some() { "nfs" } else { "local" }
}

fn object(volumes: &Volumes, volume: &Volume) -> Result<Value> {
    let (size, used) = volume.sizes()?;
    let record = &volume.record;
    Ok(json!({
        "CreatedAt": time::stamp(record.created),
        "Driver": driver(volume),
        "Labels": record.labels,
        "Mountpoint": record.nfs.is_none().then(|| volume.disk()),
        "Name": record.name,
        "Options": record.nfs.as_ref().map_or_else(|| json!({"size": size}), |nfs| json!(nfs)),
        "Scope": "local",
        "UUID": record.uuid,
        "Anonymous": record.anonymous,
        "UsageData": {"Size": used, "Containers": volumes.users(volume)?},
    }))
}

fn inspect(options: &Inspect) -> Result<u8> {
    let volumes = options.store.volumes()?;
    let find = |name: &String| object(&volumes, &volumes.find(name)?);
    let all = options.volumes.iter().map(find).collect::<Result<Vec<_>>>()?;
    print(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    Ok(0)
}

fn remove(options: &Rm, say: impl Fn(&str)) -> Result<u8> {
    let volumes = options.store.volumes()?;
    let remove = |name: &str| {
        let lock = volumes.lock()?;
        match volumes.get(name)? {
            Some(volume) => volumes.remove(&volume, &lock)?,
            None => ensure!(options.force, "no such volume: {name}"),
        }
        Ok(name.to_owned())
    };
    each(&options.volumes, remove, say)
}

fn prune(options: &Prune, say: impl Fn(&str)) -> Result<u8> {
    if !options.force && !is_wanted(options.all)? {
        return Ok(0);
    }
    let volumes = options.store.volumes()?;
    let lock = volumes.lock()?;
    let (mut text, mut reclaimed, mut failed) = (String::new(), 0, false);
    for volume in volumes.list()? {
        if !(options.all || volume.record.anonymous) || !volumes.users(&volume)?.is_empty() {
            continue;
        }
        let used = volume.sizes().map_or(0, |(_, used)| used);
        match volumes.remove(&volume, &lock) {
            Ok(()) => {
                text += &format!("{}\n", volume.record.name);
                reclaimed += used;
            }
            Err(error) => {
                failed = true;
                say(&format!("{error:#}"));
            }
        }
    }
    if !text.is_empty() {
        text = format!("Deleted Volumes:\n{text}\n");
    }
    print(&format!("{text}Total reclaimed space: {reclaimed} bytes\n"));
    Ok(u8::from(failed))
}

/// Asks, as docker does.
fn is_wanted(all: bool) -> Result<bool> {
    let stdin = std::io::stdin();
    ensure!(stdin.is_terminal(), "nobody can be asked whether data may be lost: --force says that it may");
    let which = if all { "all volumes" } else { "the volumes without a name" };
    print(&format!(
        "WARNING! This will remove {which} that no container has, and what is on them. Continue? [y/N] "
    ));
    std::io::stdout().flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
