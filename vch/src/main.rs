//! `vch`: the command line of the virtual container host.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use vch::exit::OURS;
use vch::options::Arguments;
use vch::text::harmless;
use vch::{RunOptions, Stdio, signals, terminal, timeline};

/// The most of an error that is shown, in characters.
const SENTENCE: usize = 4000;

/// Runs OCI images as virtual machines.
#[derive(Parser)]
#[command(name = "vch", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command in a new containerVM
    ///
    /// The exit status is the command's; 128+n if it died of signal n, 127 if there is no such command, 126 if it is not
    /// executable, 125 if the containerVM failed.
    #[command(override_usage = "vch run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
    Run(Box<Arguments>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        before(panic);
    }));
    let Command::Run(arguments) = cli.command;
    match run(&arguments.0) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(OURS)
        }
    }
}

fn run(options: &RunOptions) -> Result<u8> {
    let stdio = Stdio::inherited(Some(signals::catch()?)).context("cannot use the standard streams")?;
    let outcome = vch::run(options, &stdio)?;
    if let Some(path) = &options.timeline {
        timeline::write(&outcome, path)?;
    }
    if let Some(sentence) = outcome.sentence() {
        say(&sentence);
    }
    Ok(outcome.code())
}

/// Says one sentence. Errors quote the guest and the user's files: nothing in them may act on a terminal.
fn say(sentence: &str) {
    use std::io::Write;
    // If stderr is closed, there is nobody to tell.
    drop(writeln!(std::io::stderr(), "vch: {}", harmless(sentence.as_bytes(), SENTENCE)));
}

/// Help goes to stdout with 0; a wrong use is a failure of ours, 125, as with docker.
fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    if error.use_stderr() { ExitCode::from(OURS) } else { ExitCode::SUCCESS }
}
