//! `export IMAGE -o PATH`: an OCI layout or archive.

use std::ffi::OsStr;
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Common, Stdout};

#[derive(clap::Args)]
pub struct Args {
    /// Name or ID
    image: String,
    /// A new folder for an OCI layout, a file ending in .tar for an OCI archive, or - for an archive on stdout
    #[arg(short, long, value_name = "DIR|FILE.tar|-")]
    output: PathBuf,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let store = common.store()?;
        let image = store.find(&self.image)?;
        let image = image.with_context(|| format!("there is no image {:?}", self.image))?;
        if self.output == Path::new("-") {
            if std::io::stdout().is_terminal() {
                bail!("stdout is a terminal: give a file with -o");
            }
            return store.export_tar(&image, &mut BufWriter::new(Stdout));
        }
        match self.output.extension().and_then(OsStr::to_str) {
            Some("tar") => store.export_file(&image, &self.output),
            // A folder of that name is not what was meant.
            Some("gz" | "tgz" | "zst") => {
                bail!("archives are not compressed: give FILE.tar, or - and pipe it")
            }
            _ => store.export_dir(&image, &self.output),
        }
    }
}
