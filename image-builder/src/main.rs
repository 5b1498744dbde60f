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
    /// Bring an image into the store, by its name in a registry, and print its name (of one that has none, the ID)
    Pull(cli::pull::Args),
    /// Bring all images of an archive or an OCI layout into the store, and print their names
    Load(cli::load::Args),
    /// List the store's images; or a folder on a disk, without mounting it
    Ls(cli::ls::Args),
    /// Print what is known of images as JSON, as docker does
    Inspect(cli::inspect::Args),
    /// Give an image a further name
    Tag(cli::tag::Args),
    /// Remove names, and images that have no other; layers go that no other image uses
    Rm(cli::rm::Args),
    /// Remove images without a name, layers that no image uses, and what died processes left
    Prune(cli::rm::PruneArgs),
    /// Check every byte of the layers in the store
    Verify(cli::verify::Args),
    /// Write an image as an OCI layout whose layers have the same diffIDs
    Export(cli::export::Args),
    /// Print a file on a disk, without mounting it
    Cat(cli::cat::Args),
    /// Print what a container changed: A(dded), C(hanged), D(eleted), and the path
    Diff(cli::diff::Args),
}

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let result = match command {
        Command::Build(args) => args.run(&common),
        Command::Pull(args) => args.run(&common),
        Command::Load(args) => args.run(&common),
        Command::Ls(args) => args.run(&common),
        Command::Inspect(args) => args.run(&common),
        Command::Tag(args) => args.run(&common),
        Command::Rm(args) => args.run(&common),
        Command::Prune(args) => args.run(&common),
        Command::Verify(args) => args.run(&common),
        Command::Export(args) => args.run(&common),
        Command::Cat(args) => args.run(&common),
        Command::Diff(args) => args.run(&common),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::say(&format!("image-builder: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}
