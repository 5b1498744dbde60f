//! The machine spec: an image's config and the user's options, put together by docker's rules.

mod limits;
mod security;
mod user_namespace;
mod words;

use anyhow::{Result, bail};
use oci_spec::image::Config;
use protocol::oci::{ConsoleSize, Process, Root, Spec};
use protocol::{Disks, MachineSpec};

use crate::defaults;
use crate::network;
use crate::options::RunOptions;
use crate::options::network::is_word;
use crate::seccomp;

/// Version of the runtime-spec that the config is written by.
const OCI_VERSION: &str = "1.2.0";
/// The longest hostname that Linux takes, in bytes (`HOST_NAME_MAX`).
const HOSTNAME: usize = 64;
/// Characters of a container's ID that docker shows, and names the host by.
const SHORT_ID: usize = 12;

/// Composes the machine spec.
///
/// `image` is the image's `config`; `id` the container's ID in hex; `host` looks up the host's environment.
///
/// # Errors
/// There is nothing to run, or an option cannot be honoured.
pub fn compose(
    image: &Config,
    options: &RunOptions,
    id: &str,
    disks: Disks,
    console_size: Option<ConsoleSize>,
    host: impl Fn(&str) -> Result<Option<String>>,
) -> Result<MachineSpec> {
    let hostname = hostname(options, id)?;
    let process = Process {
        terminal: options.tty,
        console_size: console_size.filter(|_| options.tty),
        cwd: cwd(image, options)?,
        env: environment(image, options, &hostname, host)?,
        args: arguments(image, options)?,
        rlimits: defaults::rlimits(),
        ..Process::default()
    };
    let config = Spec {
        oci_version: OCI_VERSION.to_owned(),
        process,
        root: Root { path: "rootfs".to_owned(), readonly: options.read_only },
        hostname: Some(hostname),
        domainname: said(&options.network.domainname).map(host_name).transpose()?,
        annotations: words::labels(image, &options.process.label_file, &options.process.label)?,
        mounts: defaults::mounts(),
        linux: defaults::linux(),
    };
    // No user is root with all of root's groups, as in docker.
    let user = options.user.as_ref().or(image.user().as_ref()).filter(|user| !user.is_empty());
    let user = Some(user.map_or("0", String::as_str).to_owned());
    let mut machine = MachineSpec { user, init: options.init, ..MachineSpec::new(config, disks) };
    machine.network =
        network::machine(&options.network, id, image.exposed_ports().as_deref().unwrap_or_default())?;
    security::apply(&mut machine, &options.security)?;
    limits::apply(&mut machine, options)?;
    user_namespace::apply(&mut machine, &options.user_namespace)?;
    seccomp::lower(&mut machine)?;
    Ok(machine)
}

/// Entrypoint and command. A command of the user's takes the place of the image's; an entrypoint of the user's drops
/// the image's command too, for it was written for the image's entrypoint.
fn arguments(image: &Config, options: &RunOptions) -> Result<Vec<String>> {
    let images = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (mut arguments, command) = match &options.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => (vec![], vec![]),
        Some(entrypoint) => (vec![entrypoint.clone()], vec![]),
        None => (images(image.entrypoint()), images(image.cmd())),
    };
    arguments.extend(if options.command.is_empty() { command } else { options.command.clone() });
    if arguments.is_empty() {
        bail!("no command: the image has none, so one must be given after its name");
    }
    Ok(arguments)
}

fn cwd(image: &Config, options: &RunOptions) -> Result<String> {
    if let Some(dir) = &options.workdir
        && !dir.starts_with('/')
    {
        bail!("the working directory {dir:?} is not an absolute path");
    }
    let dir = options.workdir.as_ref().or(image.working_dir().as_ref()).map_or("", String::as_str);
    Ok(if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") })
}

fn hostname(options: &RunOptions, id: &str) -> Result<String> {
    match said(&options.hostname) {
        Some(name) => host_name(name),
        None => Ok(id.chars().take(SHORT_ID).collect()),
    }
}

/// To docker an empty name is none.
fn said(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

/// Docker takes any name; the kernel's has so many bytes, and in a line of /etc/hosts it is one word.
fn host_name(name: &str) -> Result<String> {
    if name.len() > HOSTNAME || !is_word(name) || name.contains('#') {
        bail!(
            "{name:?} is not a hostname: at most {HOSTNAME} characters of ASCII, no space and no # among them"
        );
    }
    Ok(name.to_owned())
}

/// Docker's own variables, the user's over them, and the image's where neither has spoken.
fn environment(
    image: &Config,
    options: &RunOptions,
    hostname: &str,
    host: impl Fn(&str) -> Result<Option<String>>,
) -> Result<Vec<String>> {
    let mut env = vec![defaults::PATH.to_owned(), format!("HOSTNAME={hostname}")];
    env.extend(options.tty.then(|| "TERM=xterm".to_owned()));
    for entry in image.env().iter().flatten() {
        set(&mut env, entry);
    }
    let files = words::lines(&options.process.env_file, "--env-file")?;
    set_environment(&mut env, files.iter().chain(&options.env), host)?;
    Ok(env)
}

/// Sets what `-e` says; `host` looks up the host's environment.
///
/// # Errors
/// There is no name; `host`'s.
pub fn set_environment<'a>(
    env: &mut Vec<String>,
    entries: impl IntoIterator<Item = &'a String>,
    host: impl Fn(&str) -> Result<Option<String>>,
) -> Result<()> {
    for entry in entries {
        match entry.split_once('=') {
            Some(("", _)) => bail!("-e {entry:?} has no name"),
            Some(_) => set(env, entry),
            None if entry.is_empty() => bail!("-e {entry:?} has no name"),
            // As docker does: what the host does not have, the container shall not have either.
            None => match host(entry)? {
                Some(value) => set(env, &format!("{entry}={value}")),
                None => env.retain(|old| name(old) != entry),
            },
        }
    }
    Ok(())
}

/// Puts `entry` in the place of the variable of that name, or at the end.
fn set(env: &mut Vec<String>, entry: &str) {
    match env.iter_mut().find(|old| name(old) == name(entry)) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.to_owned()),
    }
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

#[cfg(test)]
mod tests;
