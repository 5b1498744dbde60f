//! Disks, found by the UUID in their filesystem's superblock, on whatever bus and under whatever name.

use crate::failure::{Context, Failure};
use crate::uevents::{self, DEADLINE};
use protocol::{Stage, Uuid, Volume};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A disk that holds a filesystem that tether can mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its block device.
    pub device: PathBuf,
    /// `erofs` or `ext4`.
    pub filesystem: &'static str,
}

/// All the disks of a machine.
pub struct Disks {
    /// The layers, lowest first.
    pub layers: Vec<Disk>,
    /// The writable one.
    pub scratch: Disk,
    /// Those of the volumes, in the spec's order.
    pub volumes: Vec<Disk>,
}

/// Finds the disks with these UUIDs.
///
/// # Errors
/// After [`DEADLINE`], naming those that are missing and what is there instead.
pub fn find(wanted: &protocol::Disks, volumes: &[Volume]) -> Result<Disks, Failure> {
    if wanted.layers.is_empty() {
        return Err(Failure::new(Stage::Spec, "disks.layers is empty: an image has at least one layer"));
    }
    let mut seen = BTreeMap::new();
    let found = uevents::wait_for(|| {
        seen = scan()?;
        let disk = |uuid: &Uuid| seen.get(uuid).cloned();
        let all = |uuids: &mut dyn Iterator<Item = &Uuid>| -> Option<Vec<Disk>> { uuids.map(disk).collect() };
        let layers = all(&mut wanted.layers.iter().map(|layer| &layer.uuid));
        let volumes = all(&mut volumes.iter().map(|volume| &volume.uuid));
        let found = layers.zip(disk(&wanted.scratch)).zip(volumes);
        Ok(found.map(|((layers, scratch), volumes)| Disks { layers, scratch, volumes }))
    })?;
    found.ok_or_else(|| Failure::new(Stage::Disks, missing(wanted, volumes, &seen)))
}

fn missing(wanted: &protocol::Disks, volumes: &[Volume], seen: &BTreeMap<Uuid, Disk>) -> String {
    let layers = wanted.layers.iter().map(|layer| &layer.uuid);
    let names = (1..).map(|number| format!("layer {number}")).zip(layers);
    let volumes = volumes.iter().map(|volume| (format!("volume {:?}", volume.name), &volume.uuid));
    let all = names.chain([("the scratch disk".to_string(), &wanted.scratch)]).chain(volumes);
    let absent: Vec<String> = all
        .filter(|(_, uuid)| !seen.contains_key(uuid))
        .map(|(name, uuid)| format!("{name} (filesystem UUID {uuid})"))
        .collect();
    let there: Vec<String> = seen
        .iter()
        .map(|(uuid, disk)| format!("{} ({} {uuid})", disk.device.display(), disk.filesystem))
        .collect();
    format!(
        "no disk for {} within {} s; the disks that are there: {}",
        absent.join(", "),
        DEADLINE.as_secs(),
        if there.is_empty() { "none".into() } else { there.join(", ") }
    )
}

/// Every disk with a known filesystem. One that cannot be read is none.
///
/// Partitions are left out: who can write to a volume could put one on it that claims to be a layer. So every disk has one
/// UUID; as many are wanted as there are, so when all are found, each is the one that it says.
fn scan() -> Result<BTreeMap<Uuid, Disk>, Failure> {
    let devices = match fs::read_dir("/sys/class/block") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        devices => devices.at(Stage::Disks, || "reading /sys/class/block")?,
    };
    let mut disks = BTreeMap::new();
    for entry in devices.flatten() {
        if entry.path().join("partition").exists() {
            continue;
        }
        let device = PathBuf::from("/dev").join(entry.file_name());
        let mut start = [0; 2048];
        let read = File::open(&device).and_then(|disk| disk.read_exact_at(&mut start, 0));
        if let (Ok(()), Some((filesystem, uuid))) = (read, identify(&start)) {
            disks.insert(uuid, Disk { device, filesystem });
        }
    }
    Ok(disks)
}

/// The filesystem and UUID that the first 2048 bytes of a disk tell of.
///
/// Both superblocks begin at byte 1024 (Documentation/filesystems/ext4/super.rst; fs/erofs/erofs_fs.h).
fn identify(start: &[u8; 2048]) -> Option<(&'static str, Uuid)> {
    let superblock = start.get(1024..)?;
    let uuid = |at: usize| Uuid::from_slice(superblock.get(at..at + 16)?).ok();
    if superblock.starts_with(&0xe0f5_e1e2_u32.to_le_bytes()) {
        return Some(("erofs", uuid(48)?));
    }
    if superblock.get(56..58)? == 0xef53_u16.to_le_bytes() {
        return Some(("ext4", uuid(104)?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(magic_at: usize, magic: &[u8], uuid_at: usize) -> [u8; 2048] {
        let mut start = [0; 2048];
        start[1024 + magic_at..][..magic.len()].copy_from_slice(magic);
        start[1024 + uuid_at..][..16].copy_from_slice(&[7; 16]);
        start
    }

    #[test]
    fn superblocks_are_told_apart() {
        let uuid = Uuid::from_bytes([7; 16]);
        assert_eq!(identify(&disk(0, &[0xe2, 0xe1, 0xf5, 0xe0], 48)), Some(("erofs", uuid)));
        assert_eq!(identify(&disk(56, &[0x53, 0xef], 104)), Some(("ext4", uuid)));
        assert_eq!(identify(&[0; 2048]), None);
        assert_eq!(identify(&[0xff; 2048]), None);
    }

    #[test]
    fn a_missing_disk_is_named() {
        let layer = protocol::Layer { uuid: Uuid::from_bytes([1; 16]), verity: None };
        let wanted =
            protocol::Disks { layers: vec![layer], scratch: Uuid::from_bytes([2; 16]), ephemeral: false };
        let disk = Disk { device: "/dev/vda".into(), filesystem: "ext4" };
        let volume = Volume {
            name: "data".into(),
            uuid: Uuid::from_bytes([3; 16]),
            destination: "/data".into(),
            readonly: false,
            shared: false,
            nocopy: false,
            subpath: None,
        };
        let message = missing(&wanted, &[volume], &BTreeMap::from([(wanted.scratch, disk)]));
        assert!(message.contains("volume \"data\" (filesystem UUID 03030303-"), "{message}");
        assert!(message.contains("layer 1 (filesystem UUID 01010101-"), "{message}");
        assert!(message.contains("/dev/vda (ext4 02020202-"), "{message}");
        assert!(!message.contains("the scratch disk"), "{message}");
    }
}
