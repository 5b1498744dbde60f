//! `image-builder`: the library's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use image_builder::image::Platform;
use image_builder::source;
use image_builder::store::{self, LayerStore};

/// Makes layer disks from OCI images.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the layer disks of an image and print each: diffID, path, size in bytes
    Build {
        /// Folder of the store [default: $CONTAINERVM_STORE, $XDG_DATA_HOME/containervm or ~/.local/share/containervm]
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
        /// OCI image layout folder: PATH, PATH:TAG or PATH@sha256:...
        image: String,
    },
    /// Print an image's config as JSON
    Inspect {
        /// OCI image layout folder: PATH, PATH:TAG or PATH@sha256:...
        image: String,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build { store, image } => build(store, &image),
        Command::Inspect { image } => inspect(&image),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-builder: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(store: Option<PathBuf>, reference: &str) -> Result<()> {
    let image = source::open(reference, &Platform::default())?;
    let store = LayerStore::open(store.map_or_else(store::default_dir, Ok)?)?;
    for (i, layer) in image.layers.iter().enumerate() {
        let mut progress = Progress::new(format!("layer {} of {}", i + 1, image.layers.len()));
        let disk = store
            .layer_disk(layer, &mut |done, total| progress.show(done, total))
            .with_context(|| format!("image {reference:?}"))?;
        print(&format!("{} {} {}", disk.diff_id, disk.path.display(), disk.length))?;
    }
    Ok(())
}

fn inspect(reference: &str) -> Result<()> {
    let image = source::open(reference, &Platform::default())?;
    print(&image.config.to_string_pretty()?)
}

/// A line on stdout; a reader that went away is an error like any other, not a panic.
fn print(line: &str) -> Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}

/// Says on stderr how far a layer is, once a second: what is done sooner says nothing.
struct Progress {
    what: String,
    last: Instant,
}

impl Progress {
    fn new(what: String) -> Self {
        Self { what, last: Instant::now() }
    }

    fn show(&mut self, done: u64, total: Option<u64>) {
        if self.last.elapsed() >= Duration::from_secs(1) {
            self.last = Instant::now();
            let total = total.map_or(String::new(), |total| format!(" of {}", total / 1_000_000));
            eprintln!("{}: {}{total} MB", self.what, done / 1_000_000);
        }
    }
}
