//! A disk that is full in the middle of a layer: told, with image and layer, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image_builder::digest::Digest;
use image_builder::testimage::{self, Tar};
use oci_spec::image::Config;

/// All files below `dir` that hold anything.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        match meta.is_dir() {
            true => found.extend(files(&entry.path())),
            false if meta.len() > 0 => found.push((entry.path(), meta.len())),
            false => {}
        }
    }
    found
}

/// RLIMIT_FSIZE stands for the full disk: it stops a write in the middle, and needs no root.
#[test]
fn nothing_is_left_when_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (image, store) = (dir.path().join("image"), dir.path().join("store"));
    let layer = Tar::new().file("small", 0o644, b"x").file("large", 0o644, &[7; 4 << 20]).finish();
    testimage::write(&image, std::slice::from_ref(&layer), Config::default()).unwrap();
    let build = |limit: &str| {
        let script = format!("{limit} exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_image-builder"), "--store"]).arg(&store);
        command.arg("build").arg(&image).output().unwrap()
    };
    // 1 MiB in blocks of 512 bytes; without the signal, write(2) says EFBIG.
    assert!(build("").status.success());
    fs::remove_dir_all(&store).unwrap();
    let output = build("trap '' XFSZ; ulimit -f 2048;");
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    let (image, layer) = (image.display().to_string(), Digest::of(&layer).to_string());
    for part in [&image, &layer, "\"large\"", "File too large"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.trim_end().contains('\n'), "{message:?}");
    assert!(files(&store).iter().all(|(_, length)| *length < 64), "{:?}", files(&store));
}
