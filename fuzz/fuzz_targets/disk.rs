//! A disk that is read without being mounted: EROFS or ext4, whatever its bytes are. It ends, and names stay names.
#![cfg_attr(fuzzing, no_main)]

use std::io;
use std::io::Read;
use std::sync::Arc;

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::disk::{Disk, Kind, Overlay};

fuzz_target!(|bytes: &[u8]| {
    let open = || Disk::new(Arc::new(bytes.to_vec()));
    let Ok(disk) = open() else { return };
    let _damaged = read(&disk);
    let layers: Vec<Disk> = open().into_iter().collect();
    let _damaged = Overlay::new(&layers).changes(&disk, &mut |_| Ok(()));
});

fn read(disk: &Disk) -> anyhow::Result<()> {
    disk.walk(&disk.root()?, &mut |path, inode| {
        assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
        let _damaged = disk.xattrs(inode);
        match inode.kind {
            Kind::File => drop(io::copy(&mut disk.contents(inode)?.take(1 << 20), &mut io::sink())),
            Kind::Symlink => drop((disk.target(inode), disk.find(path, true))),
            _ => {}
        }
        Ok(true)
    })
}
