//! `vch`: the command line of the virtual container host.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use vch::commands::{
    attach, exec, inspect, kill, logs, port, ps, rm, run, stats, stop, template, volume, wait,
};
use vch::containers::Containers;
use vch::exit::OURS;
use vch::monitor::{self, Life};
use vch::options::Arguments;
use vch::terminal;
use vch::text::harmless;

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
    /// Show what a container writes from now on, and send it stdin and signals
    Attach(attach::Options),
    /// Run a command in a running container
    ///
    /// The exit status is the command's, as with `vch run`; 137 if the container ends before it.
    Exec(exec::Options),
    /// Show all that is known of containers, as JSON
    Inspect(inspect::Options),
    /// Show what a container has written
    Logs(logs::Options),
    /// Show which ports of the host lead to a container
    Port(port::Options),
    /// List containers
    Ps(ps::Options),
    /// Show what containers use of CPU, memory, network and disks
    Stats(stats::Options),
    /// Stop containers: the image's stop signal, then KILL
    Stop(stop::Options),
    /// Send a signal to containers
    Kill(kill::Options),
    /// Wait until containers have ended, and print their exit statuses
    Wait(wait::Options),
    /// Remove containers
    Rm(rm::Options),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Manage templates: machines that are copied instead of booting, with `vch run --from-template`
    #[command(subcommand)]
    Template(Box<template::Command>),
    /// For `vch run`: monitor a new container; stdin is the line to the first client
    #[command(hide = true)]
    Monitor(Box<Arguments>),
    /// Monitor a container whose monitor has died
    #[command(hide = true)]
    Adopt(Adopt),
}

#[derive(clap::Args)]
struct Adopt {
    #[arg(long)]
    store: PathBuf,
    id: String,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    terminal::restore_on_panic();
    match obey(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(OURS)
        }
    }
}

fn obey(command: Command) -> Result<u8> {
    match command {
        Command::Run(arguments) => run::run(&arguments.0, arguments_of_run(), say),
        Command::Attach(options) => attach::run(&options, say),
        Command::Exec(options) => exec::run(&options, say),
        Command::Inspect(options) => inspect::run(&options, say),
        Command::Logs(options) => logs::run(&options),
        Command::Port(options) => port::run(&options),
        Command::Ps(options) => ps::run(&options),
        Command::Stats(options) => stats::run(&options),
        Command::Stop(options) => stop::run(&options, say),
        Command::Kill(options) => kill::run(&options, say),
        Command::Wait(options) => wait::run(&options, say),
        Command::Rm(options) => rm::run(&options, say),
        Command::Template(command) => template::run(&command, say),
        Command::Volume(command) => volume::run(&command, say),
        Command::Monitor(arguments) => {
            let first = std::io::stdin().as_fd().try_clone_to_owned().context("there is no client")?;
            let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
            nix::unistd::dup2_stdin(null).context("cannot let go of stdin")?;
            monitor::run(&arguments.0, UnixStream::from(first), Life::Own).map(|()| 0)
        }
        Command::Adopt(Adopt { store, id }) => {
            monitor::adopt::run(Containers::of(&store).find(&id)?).map(|()| 0)
        }
    }
}

/// What stands behind `vch run`.
fn arguments_of_run() -> Vec<OsString> {
    std::env::args_os().skip(2).collect()
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
