//! What a layer costs in memory: so much for each entry, and nothing for what is in the files. Counted at the allocator,
//! so that the figure is the same on every machine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use image_builder::digest::Digest;
use image_builder::image::Layer;
use image_builder::source::BlobFile;
use image_builder::store::LayerStore;
use image_builder::testimage::{self, Tar};

/// The system's allocator, with a count of the bytes in use and the most there were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(now, SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller keeps the contract, and all memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of heap that building the disk of `tar` takes at most.
fn peak_of(tar: Vec<u8>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    let blob = testimage::gzip(&tar);
    std::fs::write(&path, &blob).unwrap();
    let layer = Layer {
        diff_id: Digest::of(&tar),
        digest: Some(Digest::of(&blob)),
        size: Some(blob.len() as u64),
        blob: Arc::new(BlobFile(path)),
    };
    drop((tar, blob));
    let store = LayerStore::open(dir.path().join("store")).unwrap();
    let before = IN_USE.load(SeqCst);
    PEAK.store(before, SeqCst);
    store.layer_disk(&layer, &mut |_, _| {}).unwrap();
    PEAK.load(SeqCst) - before
}

fn one_file(mib: usize) -> Vec<u8> {
    Tar::new().file("f", 0o644, &vec![7; mib << 20]).finish()
}

fn entries(count: usize) -> Vec<u8> {
    (0..count)
        .fold(Tar::new(), |tar, i| tar.file(&format!("folder-{}/file-{i}", i / 100), 0o644, b"content"))
        .finish()
}

/// One test, for its figures are the process's.
#[test]
fn memory_is_bounded_by_entries_not_by_contents() {
    const MIB: usize = 1 << 20;
    // The buffers alone, which a large layer fills: 8 MiB on two processors, half a MiB more for each that hashes the tree.
    let processors = std::thread::available_parallelism().unwrap().get();
    let buffers = peak_of(one_file(64));
    println!("64 MiB in one file: {buffers} bytes of heap at most");
    assert!(buffers < 8 * MIB + processors * MIB, "{buffers} bytes for one file");

    let (few, many) = (peak_of(entries(10_000)), peak_of(entries(40_000)));
    let each = (many - few) / 30_000;
    println!("{each} bytes of heap for an entry");
    assert!(each < 512, "{each} bytes for an entry");
}
