//! An image's JSON: `index.json`, manifest and config, in this order, with a NUL between them. `$` in one of them
//! stands for the digest and size of the next, so that damage does not end at the first digest.
#![cfg_attr(fuzzing, no_main)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::{digest::Digest, source};
use tempfile::TempDir;

static LAYOUT: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" }).unwrap();
    fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    dir
});

fuzz_target!(|input: &[u8]| {
    let dir = LAYOUT.path();
    let mut files = BTreeSet::new();
    let mut next = Vec::new();
    for (place, json) in input.splitn(3, |&byte| byte == 0).collect::<Vec<_>>().into_iter().enumerate().rev()
    {
        let digest = Digest::of(&next);
        let link = format!(r#""digest":"{digest}","size":{}"#, next.len());
        next = json.split(|&byte| byte == b'$').collect::<Vec<_>>().join(link.as_bytes());
        let file = match place {
            0 => dir.join("index.json"),
            _ => dir.join("blobs/sha256").join(Digest::of(&next).hex()),
        };
        fs::write(&file, &next).unwrap();
        files.insert(file);
    }
    if let Ok(image) = source::open(dir.to_str().unwrap(), &source::Options::default()) {
        assert_eq!(image.layers.len(), image.config.rootfs().diff_ids().len());
        let blobs = format!("{:?}", dir.join("blobs/sha256")).trim_end_matches('"').to_owned();
        assert!(image.layers.iter().all(|layer| format!("{:?}", layer.blob).contains(&blobs)));
    }
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
});
