//! A kernel module: its dependencies, and its signature cut off.
#![cfg_attr(fuzzing, no_main)]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::kernel::{KernelTree, Module};
use tempfile::TempDir;

/// A package whose only module is `m`.
static PACKAGE: LazyLock<(TempDir, KernelTree)> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" }).unwrap();
    fs::create_dir_all(dir.path().join("boot")).unwrap();
    fs::create_dir_all(dir.path().join("lib/modules/1.0")).unwrap();
    fs::write(dir.path().join("boot/vmlinuz-1.0"), "").unwrap();
    fs::write(dir.path().join("lib/modules/1.0/modules.builtin"), "kernel/bus.ko\n").unwrap();
    fs::write(dir.path().join("lib/modules/1.0/m.ko"), "").unwrap();
    let tree = KernelTree::open(dir.path()).unwrap();
    (dir, tree)
});

fuzz_target!(|bytes: &[u8]| {
    let (dir, tree) = &*PACKAGE;
    fs::write(dir.path().join("lib/modules/1.0/m.ko"), bytes).unwrap();
    if let Ok(modules) = tree.modules(&["m"]) {
        assert!(matches!(&modules[..], [m] if m.name == "m" && m.bytes == bytes));
    }
    let mut module = Module { name: "m".to_owned(), bytes: bytes.to_vec() };
    module.strip_signature();
    assert!(bytes.starts_with(&module.bytes));
});
