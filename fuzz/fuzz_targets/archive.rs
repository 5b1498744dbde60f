//! An image archive: its members, `manifest.json` and the config, or the layout in it. Opened is every image whose parts are
//! all there; reading a blob gives no more than the archive has. The first byte says whether checksums are mended.
#![cfg_attr(fuzzing, no_main)]

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::LazyLock;

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::source::{self, Options};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| {
    tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" }).unwrap()
});

fuzz_target!(|input: &[u8]| {
    let Some((repair, tar)) = input.split_first() else { return };
    let mut tar = tar.to_vec();
    if repair % 4 != 0 {
        fuzz::tarball::repair(&mut tar);
    }
    let path = DIR.path().join("x.tar");
    fs::write(&path, &tar).unwrap();
    let options = Options { spool: Some(DIR.path().join("spool")), max_size: 1 << 20, ..Options::default() };
    let reference = path.to_str().unwrap();
    if let Ok(image) = source::open(reference, &options) {
        assert_eq!(image.layers.len(), image.config.rootfs().diff_ids().len());
        for layer in &image.layers {
            let length = io::copy(&mut layer.blob.open().unwrap().take(1 << 30), &mut io::sink()).unwrap();
            assert_eq!(Some(length), layer.size);
        }
    }
    let _ = source::open_all(reference, &options);
    let spool = DIR.path().join("spool");
    assert!(!spool.exists() || fs::read_dir(&spool).unwrap().next().is_none());
});
