//! `diff SCRATCH --layers DISK...`: what a container changed, as `docker diff` tells it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use image_builder::disk::{Disk, Overlay};
use serde_json::json;

use super::Common;
use super::names::{json_name, shown};

#[derive(clap::Args)]
pub struct Args {
    /// The scratch disk that the container wrote to
    scratch: PathBuf,
    /// The layer disks below it, lowest first
    #[arg(long, required = true, num_args = 1.., value_name = "DISK")]
    layers: Vec<PathBuf>,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let scratch = Disk::open(&self.scratch)?;
        let layers: Vec<_> = self.layers.iter().map(|path| Disk::open(path)).collect::<Result<_>>()?;
        let report = &mut |change: image_builder::disk::Change| {
            let letter = change.kind.letter();
            let line = [format!("{letter} ").as_bytes(), &shown(&change.path)].concat();
            let mut value = json!({ "kind": letter.to_string() });
            json_name(&mut value, "path", &change.path);
            common.print_bytes(&line, &value)
        };
        Overlay::new(&layers)
            .changes(&scratch, report)
            .with_context(|| format!("cannot tell the changes on disk {}", self.scratch.display()))
    }
}
