//! `vch run`: starts a container's monitor, and is its first client.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, Result, bail};

use super::attach::follow;
use crate::client::{Client, Finish, launch};
use crate::exit::OURS;
use crate::monitor::message::Ended;
use crate::options::RunOptions;
use crate::stdio::Stdio;
use crate::{monitor, signals, timeline};

/// Runs, and gives the exit status. `arguments` are those that `options` were read from.
///
/// # Errors
/// The system's. `say` has said what concerns the container.
pub fn run(options: &RunOptions, arguments: Vec<OsString>, say: impl Fn(&str)) -> Result<u8> {
    let stdio = Stdio::inherited(Some(signals::catch()?)).context("cannot use the standard streams")?;
    let line = launch::start(arguments)?;
    let mut client = Client::owner(line, options, &stdio)?;
    let finish = follow(&mut client, &monitor::store_dir(options.store.as_deref())?)?;
    if let (Some(path), Finish::Ended(Ended::Known(outcome))) = (&options.timeline, &finish) {
        timeline::write(outcome, path)?;
    }
    if let Finish::Started(id) = &finish {
        writeln!(std::io::stdout(), "{id}").context("cannot write the container's ID")?;
    }
    exit_status(finish, say)
}

/// The exit status that users of docker expect, and the sentence that goes with it.
///
/// # Errors
/// It is not known.
pub fn exit_status(finish: Finish, say: impl Fn(&str)) -> Result<u8> {
    let (code, sentence) = match finish {
        Finish::Ended(Ended::Known(outcome)) => (outcome.code(), outcome.sentence()),
        Finish::Ended(Ended::Failed(error)) => (OURS, Some(error)),
        Finish::Ended(Ended::Recorded { code, error } | Ended::Exec { code, error }) => (code, error),
        Finish::Started(_) | Finish::Detached => (0, None),
        Finish::Closed(_) => (128 + 13, None),
        Finish::Lost => bail!("the container's monitor has gone, before there was a container"),
    };
    if let Some(sentence) = sentence {
        say(&sentence);
    }
    Ok(code)
}
