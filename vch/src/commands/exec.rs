//! `vch exec`: a process beside the container's.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use protocol::oci::Process;
use std::io::IsTerminal;

use super::Store;
use super::run::exit_status;
use crate::client::find::Found;
use crate::client::{Client, Finish, detach};
use crate::containers::{Container, State};
use crate::monitor::message::Exec;
use crate::monitor::{self, MOST_SPEC};
use crate::stdio::Stdio;
use crate::{signals, spec, terminal};

/// Options of `vch exec`.
#[derive(Debug, Clone, Args)]
#[command(override_usage = "vch exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Options {
    /// Send stdin to the command
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal; at a terminal, stdin goes to it with or without -i
    #[arg(short, long)]
    tty: bool,

    /// Leave the command to itself as soon as it runs
    #[arg(short, long)]
    detach: bool,

    /// Set NAME in the environment, which else is the container's; without VALUE, to what it is here (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Working directory; the container's by default
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Run as this user, looked up in the container; the container's by default
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,

    /// Refused: the command has the container's capabilities
    #[arg(long)]
    privileged: bool,

    /// Keys that leave the command to itself, when it has a terminal
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,

    #[command(flatten)]
    store: Store,

    /// Name or ID of the container; the command and its arguments
    // One list: only so is everything after the container the command's, be it the name of an option of ours.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    words: Vec<String>,
}

/// Runs it, and gives its exit status.
///
/// # Errors
/// There is no such container, or it does not run; its monitor dies.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    ensure!(
        !options.privileged,
        "--privileged: a command beside the container's has at most what the container has; there is no more to be given"
    );
    let keys = detach::Keys::parse(&options.detach_keys)?;
    let [name, command @ ..] = options.words.as_slice() else { bail!("no container is named") };
    let container = options.store.container(name)?;
    let stdio = Stdio::inherited(Some(signals::catch()?)).context("cannot use the standard streams")?;
    let exec = options.exec(&container, command, &stdio)?;
    let Found::Monitor(line) = options.store.reach(&container)? else {
        bail!("container {} is not running", container.record.name);
    };
    let keys = options.tty.then_some(keys);
    let mut client = Client::exec(line, exec, !options.detach, keys, &stdio)?;
    match client.run()? {
        Finish::Lost => bail!(options.lost(&container)),
        finish => exit_status(finish, say),
    }
}

impl Options {
    fn exec(&self, container: &Container, command: &[String], stdio: &Stdio) -> Result<Exec> {
        let at_terminal = stdio.stdin.is_terminal();
        if self.tty && self.interactive && !at_terminal && !self.detach {
            bail!("the input device is not a TTY: -t with -i needs a terminal");
        }
        let machine = container.machine()?;
        let mut process = Process {
            terminal: self.tty,
            console_size: terminal::size(&stdio.stdin).filter(|_| self.tty),
            args: command.to_vec(),
            ..machine.config.process
        };
        if self.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        spec::set_environment(&mut process.env, &self.env, monitor::host_variable)?;
        process.cwd = self.workdir.clone().unwrap_or(process.cwd);
        let user = self.user.clone().filter(|user| !user.is_empty()).or(machine.user);
        let stdin = !self.detach && (self.interactive || (self.tty && at_terminal));
        let exec = Exec { process, user, stdin };
        let length = serde_json::to_vec(&exec)?.len();
        ensure!(
            length <= MOST_SPEC,
            "the command and the environment are too long: {length} bytes as JSON, at most {MOST_SPEC} fit"
        );
        Ok(exec)
    }

    /// Why the monitor is gone.
    fn lost(&self, container: &Container) -> String {
        let name = &container.record.name;
        match self.store.state(container) {
            Ok(State::Exited { .. }) => format!("container {name} has ended, and the command with it"),
            Err(_) if !container.dir.exists() => {
                format!("container {name} has ended, and the command with it")
            }
            _ => format!(
                "the monitor of container {name} has died; the command may go on, and how it ends will not be known"
            ),
        }
    }
}
