//! `vch attach`: what the container writes from now on, and the user's stdin and signals to it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;

use super::Store;
use super::run::exit_status;
use crate::client::find::{self, Found};
use crate::client::{Client, Finish, detach};
use crate::containers::{Container, Containers};
use crate::log::{self, Offsets, Reader};
use crate::monitor::message::{Attach, Start};
use crate::stdio::Stdio;
use crate::{signals, terminal};

/// Options of `vch attach`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name or ID of the container
    pub container: String,

    /// Do not send stdin
    #[arg(long)]
    pub no_stdin: bool,

    /// Keys that leave the container to itself, when it has a terminal
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    pub detach_keys: String,

    #[command(flatten)]
    store: Store,
}

/// Attaches, and gives the container's exit status.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let keys = detach::Keys::parse(&options.detach_keys)?;
    let container = options.store.container(&options.container)?;
    let stdio = Stdio::inherited(Some(signals::catch()?)).context("cannot use the standard streams")?;
    let Found::Monitor(line) = options.store.reach(&container)? else {
        bail!("container {} has ended: `vch logs {0}` shows what it has written", container.record.name);
    };
    let attach = Attach {
        output: Some(Start::Now),
        stdin: container.record.stdin && !options.no_stdin,
        owner: false,
        size: terminal::size(&stdio.stdin),
    };
    let keys = container.record.tty.then_some(keys);
    let mut client = Client::attached(line, attach, container.record.tty, keys, &stdio)?;
    client.knows(&container.record.id);
    exit_status(follow(&mut client, &options.store.dir()?)?, say)
}

/// Serves the user until there is nothing left to do, with one monitor after the other, should they die.
///
/// # Errors
/// Those of the user's streams; the container cannot be found again.
pub fn follow(client: &mut Client<'_>, store: &Path) -> Result<Finish> {
    loop {
        let finish = client.run()?;
        let (Finish::Lost, Some(id)) = (&finish, client.id()) else { return Ok(finish) };
        let container = Containers::of(store).find(id)?;
        match find::monitor(store, &container)? {
            Found::Monitor(line) => client.reconnect(line)?,
            Found::Ended(state) => {
                if let Some(offsets) = client.offsets() {
                    rest(&container, offsets)?;
                }
                return Ok(find::recorded(&state).map_or(Finish::Lost, Finish::Ended));
            }
        }
    }
}

/// Writes what is in the log behind `from`.
fn rest(container: &Container, from: Offsets) -> Result<()> {
    use std::io::Write;
    let mut reader = Reader::from(&container.log(), from)?;
    while let Some(entry) = reader.next()? {
        let written = match entry.stream {
            log::Stream::Stdout => std::io::stdout().write_all(entry.output),
            log::Stream::Stderr => std::io::stderr().write_all(entry.output),
        };
        match written {
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => return Ok(()),
            written => written.context("cannot write the container's output")?,
        }
    }
    std::io::stdout().flush().context("cannot write the container's output")
}
