//! The image that is to run: found in the store, or brought into it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use image_builder::image::Platform;
use image_builder::source::{self, Name, Reference};
use image_builder::store::{Event, HeldLayer, ImageStore, LayerFs, LayerStore, StoredImage};
use nix::sys::signal::Signal;
use oci_spec::image::Config;
use serde::{Deserialize, Serialize};

use crate::health::ImageCheck;
use crate::layers::{self, OpenLayer};
use crate::options::{Pull, RunOptions};

/// How often signals are looked for meanwhile.
const TICK: Duration = Duration::from_millis(50);

/// What came of preparing the image.
#[derive(Debug)]
pub enum Prepared {
    /// It is there.
    Ready {
        /// What its config says of the process.
        config: Box<Config>,
        /// What it says of health checks.
        health: Option<ImageCheck>,
        /// Its layers' disks, lowest first.
        layers: Vec<OpenLayer>,
    },
    /// A signal came first.
    Killed(Signal),
}

/// Finds the image in the store `dir`, or brings it there.
///
/// That is work for a thread of its own, so that a signal ends the wait at once; `look` is told how far it is, now and then, and
/// says whether one has come. The thread is then left to itself: what
/// it writes has no name until it is whole.
///
/// # Errors
/// There is no such image, or it cannot be read, or be made layer disks of; the store's.
pub fn prepare(
    options: &RunOptions,
    dir: &Path,
    look: &mut dyn FnMut(Option<LayerProgress>) -> Result<Option<Signal>>,
) -> Result<Prepared> {
    let (events, progress) = channel();
    let search = Search {
        reference: options.image.clone(),
        pull: options.pull,
        insecure: options.insecure,
        max_size: options.max_size,
        fs: options.layer_fs,
        checked: options.verity,
        dir: dir.to_owned(),
        events,
    };
    let worker = thread::spawn(move || search.ready());
    loop {
        let layer = match progress.recv_timeout(TICK) {
            Ok(layer) => Some(layer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(signal) = look(layer)? {
            return Ok(Prepared::Killed(signal));
        }
    }
    worker.join().map_err(|_| anyhow!("the thread that prepares the image panicked"))?
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerProgress {
    /// Which, from 0.
    pub layer: usize,
    /// Bytes of its blob that are done.
    pub done: u64,
    /// All of them, if that is known.
    pub total: Option<u64>,
}

/// The work of the thread.
struct Search {
    reference: String,
    pull: Pull,
    insecure: bool,
    max_size: u64,
    fs: LayerFs,
    checked: bool,
    dir: PathBuf,
    events: Sender<LayerProgress>,
}

impl Search {
    fn ready(&self) -> Result<Prepared> {
        let (image, held) = self.run()?;
        let config = Box::new(image.config.config().clone().unwrap_or_default());
        let store = LayerStore::open(&self.dir)?;
        let health = ImageCheck::of(image.record.config.as_bytes())?;
        let layers = layers::open(&store, held, self.fs, self.checked)?;
        Ok(Prepared::Ready { config, health, layers })
    }

    fn run(&self) -> Result<(StoredImage, Vec<HeldLayer>)> {
        let store = ImageStore::open(&self.dir)?.with_max_size(self.max_size);
        let name = match Reference::parse(&self.reference) {
            Ok(Reference::Stdin { .. }) => {
                bail!(
                    "image {:?}: standard input is the container's; save the image to a file first",
                    self.reference
                )
            }
            Ok(Reference::Name(name)) => Some(name),
            Ok(_) => return self.fetch(&store, None),
            // An image's ID is no name, but the store may have it.
            Err(error) => {
                return self.stored(&store)?.ok_or(error.context(format!("image {:?}", self.reference)));
            }
        };
        if self.pull != Pull::Always
            && let Some(found) = self.stored(&store)?
        {
            return Ok(found);
        }
        if self.pull == Pull::Never {
            bail!("image {:?} is not in the store, and --pull=never", self.reference);
        }
        self.fetch(&store, name.as_ref())
    }

    /// The image as the store has it; none if it is for other machines, or lacks layers.
    fn stored(&self, store: &ImageStore) -> Result<Option<(StoredImage, Vec<HeldLayer>)>> {
        let Some(image) = store.find(&self.reference)? else { return Ok(None) };
        let config = &image.config;
        if !Platform::default().accepts(config.os(), config.architecture(), config.variant().as_deref()) {
            return Ok(None);
        }
        match image.layers(store) {
            Ok(layers) => Ok(Some((image, layers))),
            Err(error) if self.pull == Pull::Never => Err(error),
            Err(_missing_or_damaged) => Ok(None),
        }
    }

    /// Local images become unnamed ones of the store.
    fn fetch(&self, store: &ImageStore, name: Option<&Name>) -> Result<(StoredImage, Vec<HeldLayer>)> {
        let options = source::Options {
            spool: Some(self.dir.clone()),
            insecure: self.insecure,
            max_size: self.max_size,
            ..source::Options::default()
        };
        let image = source::open(&self.reference, &options)?;
        let pulled = store.pull(&image, name, &mut |event| {
            if let Event::Progress { layer, done, total } = *event {
                // Nobody listens after a signal; that is no reason to fail.
                let _ = self.events.send(LayerProgress { layer, done, total });
            }
        });
        pulled.with_context(|| format!("image {:?}", self.reference))
    }
}

#[cfg(test)]
mod tests {
    use image_builder::testimage::{self, Tar};
    use tempfile::TempDir;

    use super::*;

    /// A layout and a store that has its image as `127.0.0.1:1/app`, where no registry is.
    fn fixture() -> (TempDir, ImageStore, StoredImage) {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        let layers = [Tar::new().file("f", 0o644, b"x").finish(), Tar::new().finish(), Tar::new().finish()];
        testimage::write(&layout, &layers, Config::default()).unwrap();
        let image = source::open(layout.to_str().unwrap(), &source::Options::default()).unwrap();
        let store = ImageStore::open(dir.path().join("store")).unwrap();
        let name = "127.0.0.1:1/app".parse().unwrap();
        let (stored, _) = store.pull(&image, Some(&name), &mut |_| {}).unwrap();
        (dir, store, stored)
    }

    fn search(dir: &TempDir, reference: &str, pull: Pull) -> Result<(StoredImage, Vec<HeldLayer>), String> {
        let (events, _) = channel();
        let search = Search {
            reference: reference.to_owned(),
            pull,
            insecure: false,
            max_size: 1 << 30,
            fs: LayerFs::default(),
            checked: false,
            dir: dir.path().join("store"),
            events,
        };
        search.run().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_store_comes_before_the_registry_unless_told() {
        let (dir, _, stored) = fixture();
        for pull in [Pull::Missing, Pull::Never] {
            for reference in
                ["127.0.0.1:1/app:latest", "127.0.0.1:1/app", &stored.id.hex(), &stored.id.hex()[..8]]
            {
                let (found, layers) = search(&dir, reference, pull).unwrap();
                assert_eq!((found.id, layers.len()), (stored.id, 2), "{reference}");
            }
        }
        let error = search(&dir, "127.0.0.1:1/app", Pull::Always).unwrap_err();
        assert!(error.contains("127.0.0.1:1"), "{error}");
        let error = search(&dir, "127.0.0.1:1/other", Pull::Missing).unwrap_err();
        assert!(error.contains("127.0.0.1:1"), "{error}");
        let error = search(&dir, "127.0.0.1:1/other", Pull::Never).unwrap_err();
        assert!(error.contains("not in the store, and --pull=never"), "{error}");
    }

    #[test]
    fn an_image_that_lacks_a_layer_is_pulled_again() {
        let (dir, store, stored) = fixture();
        store.discard_layer(&stored.record.layers[0].diff_id).unwrap();
        let error = search(&dir, "127.0.0.1:1/app", Pull::Never).unwrap_err();
        assert!(error.contains("is missing"), "{error}");
        assert!(search(&dir, "127.0.0.1:1/app", Pull::Missing).unwrap_err().contains("127.0.0.1:1"));
    }

    #[test]
    fn local_images_are_kept_without_a_name() {
        let (dir, store, stored) = fixture();
        store.remove("127.0.0.1:1/app", false).unwrap();
        let layout = dir.path().join("layout");
        let (found, held) = search(&dir, layout.to_str().unwrap(), Pull::Missing).unwrap();
        assert_eq!((found.id, found.names.len()), (stored.id, 0));
        assert_eq!(store.prune(true).unwrap().images, [], "it is in use");
        drop(held);
        assert_eq!(store.prune(false).unwrap().images, [stored.id]);
    }

    #[test]
    fn stdin_and_nonsense_are_refused() {
        let (dir, ..) = fixture();
        assert!(search(&dir, "-", Pull::Missing).unwrap_err().contains("standard input is the container's"));
        assert!(
            search(&dir, "./nothing", Pull::Missing).unwrap_err().contains("\"./nothing\": no such file")
        );
        assert!(search(&dir, "UPPER", Pull::Missing).unwrap_err().contains("lower-case"));
    }
}
