//! `export IMAGE -o PATH`: an OCI layout or archive.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_builder::store::{ImageStore, StoredImage};

use super::Common;

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
        let store = ImageStore::open(common.store_dir()?)?;
        let image = store.find(&self.image)?;
        let image = image.with_context(|| format!("there is no image {:?}", self.image))?;
        if self.output == Path::new("-") {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                bail!("stdout is a terminal: give a file with -o");
            }
            return store.export_tar(&image, &mut BufWriter::new(stdout));
        }
        if self.output.extension().is_some_and(|extension| extension == "tar") {
            return self.file(&store, &image);
        }
        store.export_dir(&image, &self.output)
    }

    /// Under its name the archive is whole.
    fn file(&self, store: &ImageStore, image: &StoredImage) -> Result<()> {
        let dir = self.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let shown = || format!("cannot write {}", self.output.display());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let file = tempfile::Builder::new().prefix(".export-").permissions(mode).tempfile_in(dir);
        let file = file.with_context(shown)?;
        store.export_tar(image, &mut BufWriter::new(file.as_file() as &File))?;
        file.persist(&self.output).with_context(shown)?;
        Ok(())
    }
}
