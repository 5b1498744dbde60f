//! dm-verity: where the host asks for it, a layer is read through its hash tree, and what is damaged is told.
//!
//! The mapped devices stay until power-off: they are read-only, so nothing waits in them.

use crate::channel::Channel;
use crate::device_mapper::{DeviceMapper, Target};
use crate::disks::Disk;
use crate::failure::{Context, Failure};
use crate::uevents::Uevents;
use nix::errno::Errno;
use protocol::{Stage, ToHost};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Sectors of 512 bytes in a block of 4096.
const SECTORS: u64 = 8;

/// Whether any of these layers is to be checked.
pub fn is_wanted(layers: &[protocol::Layer]) -> bool {
    layers.iter().any(|layer| layer.verity.is_some())
}

/// The layers that are checked.
pub struct Verity {
    /// The kernel tells of a damaged block before it lets the read of it fail.
    events: Uevents,
    mapped: Vec<Mapped>,
}

/// A layer behind its hash tree.
struct Mapped {
    layer: u32,
    /// `dm-0`.
    device: String,
    /// Whether the host knows that it is damaged.
    told: bool,
}

impl Verity {
    /// Puts the hash tree before each layer's disk that has one in the spec: the disk is then the mapped device. None
    /// where there is none.
    ///
    /// The tree is not read yet, so one with another root hash shows when the disk is mounted.
    pub fn open(layers: &[protocol::Layer], disks: &mut [Disk]) -> Result<Option<Self>, Failure> {
        if !is_wanted(layers) {
            return Ok(None);
        }
        let mut verity = Self { events: Uevents::open()?, mapped: vec![] };
        let mapper = DeviceMapper::open().at(Stage::Disks, || "opening the device mapper for dm-verity")?;
        for ((layer, spec), disk) in (0..).zip(layers).zip(disks) {
            let Some(tree) = &spec.verity else { continue };
            let mapped = map(&mapper, layer, tree, &disk.device).at(Stage::Disks, || {
                format!("opening layer {} ({}) by its hash tree", layer + 1, disk.device.display())
            })?;
            let device = mapped.file_name().unwrap_or_default().to_string_lossy().into_owned();
            verity.mapped.push(Mapped { layer, device, told: false });
            disk.device = mapped;
        }
        Ok(Some(verity))
    }

    /// Ready to be read when there may be something to [`tell`](Self::tell).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }

    /// Tells the host of each layer in which a damaged block was read since the last time; of the same layer once.
    pub fn tell(&mut self, channel: &mut Channel) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        while let Some(event) = self.events.receive(&mut buffer) {
            let Some((device, block)) = damage(event) else { continue };
            let of_layer = |mapped: &&mut Mapped| mapped.device.as_bytes() == device && !mapped.told;
            if let Some(mapped) = self.mapped.iter_mut().find(of_layer) {
                mapped.told = true;
                channel.send(&ToHost::Damaged { layer: mapped.layer, block })?;
            }
        }
        Ok(())
    }
}

fn map(mapper: &DeviceMapper, layer: u32, tree: &protocol::Verity, disk: &Path) -> nix::Result<PathBuf> {
    let disk = disk.display();
    let protocol::Verity { num_data_blocks: blocks, hash_start_block: start, root_hash } = tree;
    let parameters = format!("1 {disk} {disk} 4096 4096 {blocks} {start} sha256 {root_hash} -");
    let sectors = blocks.checked_mul(SECTORS).ok_or(Errno::EINVAL)?;
    mapper.create(&format!("layer-{layer}"), &Target { sectors, kind: "verity", parameters: &parameters })
}

/// The device and the block that a kernel event tells of, if it is one of dm-verity's (`drivers/md/dm-verity-target.c`):
/// `DM_VERITY_ERR_BLOCK_NR=TYPE,BLOCK`. Whether data or tree shows from the block, too.
fn damage(event: &[u8]) -> Option<(&[u8], u64)> {
    let value = |name: &[u8]| event.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(name));
    let (_, block) = str::from_utf8(value(b"DM_VERITY_ERR_BLOCK_NR=")?).ok()?.split_once(',')?;
    Some((value(b"DEVNAME=")?, block.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dm_veritys_events_tell_of_damage() {
        let event = b"change@/devices/virtual/block/dm-3\0ACTION=change\0SUBSYSTEM=block\0DM_VERITY_ERR_BLOCK_NR=1,77\0DEVNAME=dm-3\0SEQNUM=9\0";
        assert_eq!(damage(event), Some((&b"dm-3"[..], 77)));
        for other in [
            &b""[..],
            b"change@/devices/virtual/block/dm-3\0ACTION=change\0DEVNAME=dm-3\0",
            b"DM_VERITY_ERR_BLOCK_NR=1,77\0",
            b"DM_VERITY_ERR_BLOCK_NR=1\0DEVNAME=dm-3\0",
            b"DM_VERITY_ERR_BLOCK_NR=1,-7\0DEVNAME=dm-3\0",
            b"DM_VERITY_ERR_BLOCK_NR=1,\xff\0DEVNAME=dm-3\0",
        ] {
            assert_eq!(damage(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
