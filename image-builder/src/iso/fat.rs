//! A FAT16 file system with one program in it, `EFI/BOOT/BOOTX64.EFI`, which UEFI firmware starts by itself.
//!
//! Specification: Microsoft's "FAT: General Overview of On-Disk Format" (fatgen103).
#![expect(
    clippy::cast_possible_truncation,
    reason = "the number of clusters is checked, and bounds every other"
)]

use anyhow::{Result, ensure};

const SECTOR: usize = 512;
const FATS: usize = 2;
/// 32 bytes each.
const ROOT_ENTRIES: usize = 64;
/// With fewer clusters it would be FAT12, with more FAT32; a distance from both is advised.
const CLUSTERS: std::ops::RangeInclusive<usize> = 4096..=65_500;
const LABEL: &[u8; 11] = b"CONTAINERVM";
const DIRECTORY: u8 = 0x10;
const END_OF_CHAIN: u16 = 0xffff;
/// 1980-01-01.
const DATE: u16 = 1 << 5 | 1;
/// The clusters of the two folders.
const EFI: u16 = 2;
const BOOT: u16 = 3;

/// The file system, and the offset in it at which `program` lies in one piece: a multiple of `alignment`, itself a multiple of 512.
///
/// # Errors
/// The program is too large.
pub(super) fn image(program: &[u8], serial: u32, alignment: usize) -> Result<(Vec<u8>, usize)> {
    let cluster = cluster_size(program.len(), alignment);
    // The first one that begins where it should.
    let first = (usize::from(BOOT) + 1..)
        .find(|number| ((number - 2) * cluster).is_multiple_of(alignment))
        .unwrap_or(0);
    let used = program.len().div_ceil(cluster);
    let clusters = (first - 2 + used).max(*CLUSTERS.start());
    ensure!(clusters <= *CLUSTERS.end(), "the program is too large for a FAT16 file system");

    let fat_sectors = ((clusters + 2) * 2).div_ceil(SECTOR);
    let root_sectors = ROOT_ENTRIES * 32 / SECTOR;
    let before_data = FATS * fat_sectors + root_sectors;
    let reserved = 1 + (1 + before_data).next_multiple_of(alignment / SECTOR) - (1 + before_data);
    let data = (reserved + before_data) * SECTOR;
    let mut image = vec![0; data + clusters * cluster];

    let sectors = image.len() / SECTOR;
    image[..SECTOR].copy_from_slice(&boot_sector(cluster / SECTOR, reserved, fat_sectors, sectors, serial));
    let fat = allocation(first, used);
    for number in 0..FATS {
        let at = (reserved + number * fat_sectors) * SECTOR;
        image[at..at + fat.len()].copy_from_slice(&fat);
    }
    let at = |number: usize| data + (number - 2) * cluster;
    let root = data - root_sectors * SECTOR;
    let efi = [entry(b".          ", DIRECTORY, EFI, 0), entry(b"..         ", DIRECTORY, 0, 0)];
    let boot = [entry(b".          ", DIRECTORY, BOOT, 0), entry(b"..         ", DIRECTORY, EFI, 0)];
    let file = entry(b"BOOTX64 EFI", 0, first as u16, program.len() as u32);
    for (at, bytes) in [
        (root, [entry(LABEL, 0x08, 0, 0), entry(b"EFI        ", DIRECTORY, EFI, 0)].concat()),
        (at(EFI.into()), [&efi.concat()[..], &entry(b"BOOT       ", DIRECTORY, BOOT, 0)].concat()),
        (at(BOOT.into()), [&boot.concat()[..], &file].concat()),
        (at(first), program.to_vec()),
    ] {
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok((image, at(first)))
}

/// The smallest that leaves no more clusters than there may be.
fn cluster_size(length: usize, alignment: usize) -> usize {
    let fits = |size: usize| (length + alignment).div_ceil(size) + 2 <= *CLUSTERS.end();
    (0..8).map(|power| SECTOR << power).find(|size| fits(*size)).unwrap_or(SECTOR << 7)
}

fn boot_sector(per_cluster: usize, reserved: usize, fat: usize, sectors: usize, serial: u32) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    let small = u16::try_from(sectors).unwrap_or(0);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"CONTVM  ");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[per_cluster as u8]);
    put(14, &(reserved as u16).to_le_bytes());
    put(16, &[FATS as u8]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &small.to_le_bytes());
    put(21, &[0xf8]);
    put(22, &(fat as u16).to_le_bytes());
    put(24, &[32, 0, 64, 0]); // a geometry, which nobody uses
    put(32, &(if small == 0 { sectors as u32 } else { 0 }).to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, &serial.to_le_bytes());
    put(43, LABEL);
    put(54, b"FAT16   ");
    put(510, &[0x55, 0xaa]);
    sector
}

/// The allocation table: two folders of a cluster each, a file of `used` in a row.
fn allocation(first: usize, used: usize) -> Vec<u8> {
    let mut table = vec![0; first + used];
    table[..4].copy_from_slice(&[0xfff8, END_OF_CHAIN, END_OF_CHAIN, END_OF_CHAIN]);
    for (number, next) in table.iter_mut().enumerate().skip(first) {
        *next = if number + 1 < first + used { number as u16 + 1 } else { END_OF_CHAIN };
    }
    table.iter().flat_map(|next: &u16| next.to_le_bytes()).collect()
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, length: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}
