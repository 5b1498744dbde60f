//! `image-builder`: the library's command line. Each command is a file in `cli/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

use cli::Common;

/// Makes layer disks from OCI images, and keeps them in a store.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the layer disks of an image and print each: diffID, path, size in bytes
    Build(cli::build::Args),
    /// Print a file on a disk, without mounting it
    Cat(cli::cat::Args),
    /// Print what a container changed: A(dded), C(hanged), D(eleted), and the path
    Diff(cli::diff::Args),
    /// Print an image's config as JSON
    Inspect(cli::inspect::Args),
    /// List a folder on a disk, without mounting it
    Ls(cli::ls::Args),
}

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let result = match command {
        Command::Build(args) => args.run(&common),
        Command::Cat(args) => args.run(&common),
        Command::Diff(args) => args.run(&common),
        Command::Inspect(args) => args.run(&common),
        Command::Ls(args) => args.run(&common),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-builder: {error:#}");
            ExitCode::FAILURE
        }
    }
}
