//! After fuzzing: the disk of every archive in `corpus/layer` that gives one, checked by `fsck.erofs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use image_builder::erofs::{WriteOptions, write_layer};

fn main() -> std::io::Result<()> {
    let (mut clean, mut refused) = (0, 0);
    let options = WriteOptions { uuid: [7; 16], max_size: 64 << 20 };
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/layer"))? {
        let path = entry?.path();
        let mut disk = tempfile::NamedTempFile::new()?;
        if write_layer(&fs::read(&path)?[..], options, disk.as_file_mut()).is_err() {
            refused += 1;
            continue;
        }
        let output = Command::new("fsck.erofs").arg(disk.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
        clean += 1;
    }
    println!("{clean} disks are clean, {refused} archives were refused");
    Ok(())
}
