//! An ext4 reader (Linux, `Documentation/filesystems/ext4/`): what the kernel and mke2fs make today.
//!
//! The structures are decoded by crate `mkext4`'s `spec`; finding them, and trusting none of them, is done here. (Crate `ext4-view`
//! also reads ext4, but tells no device numbers, inode numbers, link counts or xattrs: no whiteout could be seen with it. It is
//! the other opinion in the tests.)
//!
//! - Checksums (`metadata_csum`) of superblock, inodes, extent trees and directories are verified where the filesystem has them.
//! - Refused: a journal to be replayed, and features that change what is read here and that mke2fs does not set by itself
//!   (inline data, encryption, `bigalloc`, ...). Files of ext2 and ext3 (block maps), and xattrs in inodes of their own, are
//!   refused when they are met.

use anyhow::{Context, Result, bail, ensure};
use mkext4::csum;
use mkext4::spec::{self, GroupDesc, Superblock, inode::FileType, ro_compat};

use super::{Entry, Extent, Filesystem, Inode, Kind, Source};
use crate::tarball::{Mtime, Xattr};

mod directory;
mod extents;
mod xattrs;

/// Incompatible features that need nothing done here, or that are done: filetype, extents, 64bit, MMP, flex_bg, ea_inode, csum_seed,
/// large_dir.
const UNDERSTOOD: u32 = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000;
/// `INCOMPAT_RECOVER`.
const RECOVER: u32 = 0x4;
/// `RO_COMPAT_BIGALLOC`: block bitmaps count clusters. Nothing here would notice, but extents are clusters' too.
const BIGALLOC: u32 = 0x200;

/// An ext4 filesystem.
pub struct Ext4 {
    source: Source,
    superblock: Superblock,
    /// Size of a block, in bytes.
    block: u64,
    groups: u64,
    /// What metadata checksums start from.
    seed: u32,
}

/// An inode as it stands in the inode table.
struct Raw {
    bytes: Vec<u8>,
    inode: spec::Inode,
}

impl Ext4 {
    /// The filesystem in `source`.
    ///
    /// # Errors
    /// A damaged superblock, features that are not understood, a journal to be replayed.
    pub fn open(source: Source) -> Result<Self> {
        let mut bytes = [0; Superblock::LEN];
        source.read_exact_at(&mut bytes, 1024).context("the superblock")?;
        let sb = Superblock::decode(&bytes)?;
        check_features(&sb)?;
        ensure!(
            sb.feature_ro_compat & ro_compat::METADATA_CSUM == 0 || csum::superblock(&bytes) == sb.checksum,
            "the ext4 superblock's checksum is wrong"
        );
        check_geometry(&sb)?;
        let seed = if sb.feature_incompat & spec::incompat::CSUM_SEED != 0 {
            sb.checksum_seed
        } else {
            csum::fs_seed(&sb.uuid)
        };
        let fs = Self { source, block: sb.block_size(), groups: sb.group_count(), seed, superblock: sb };
        fs.source
            .read_exact_at(&mut [0], fs.length() - 1)
            .context("the disk is shorter than its filesystem")?;
        Ok(fs)
    }

    /// Length of the filesystem, in bytes.
    pub fn length(&self) -> u64 {
        self.superblock.blocks_count * self.block
    }

    fn checksums(&self) -> bool {
        self.superblock.feature_ro_compat & ro_compat::METADATA_CSUM != 0
    }

    /// One block of the filesystem.
    fn block(&self, number: u64) -> Result<Vec<u8>> {
        self.check_blocks(number, 1)?;
        let mut bytes = vec![0; usize::try_from(self.block)?];
        self.source
            .read_exact_at(&mut bytes, number * self.block)
            .with_context(|| format!("block {number}"))?;
        Ok(bytes)
    }

    /// Fails unless `count` blocks from `first` on are the filesystem's.
    fn check_blocks(&self, first: u64, count: u64) -> Result<()> {
        let end = first.checked_add(count);
        ensure!(
            first > 0 && end.is_some_and(|end| end <= self.superblock.blocks_count),
            "damaged: block {first} is not on the disk"
        );
        Ok(())
    }

    fn raw(&self, number: u64) -> Result<Raw> {
        self.read_raw(number).with_context(|| format!("ext4 inode {number}"))
    }

    fn read_raw(&self, number: u64) -> Result<Raw> {
        let sb = &self.superblock;
        ensure!((1..=u64::from(sb.inodes_count)).contains(&number), "damaged: there is no such inode");
        let (group, index) =
            ((number - 1) / u64::from(sb.inodes_per_group), (number - 1) % u64::from(sb.inodes_per_group));
        let table = self.group(group)?.inode_table;
        let offset = index * u64::from(sb.inode_size);
        self.check_blocks(table, offset / self.block + 1)?;
        let mut bytes = vec![0; usize::from(sb.inode_size)];
        self.source.read_exact_at(&mut bytes, table * self.block + offset)?;
        let inode = spec::Inode::decode(&bytes)?;
        if self.checksums() {
            let whole = csum::inode(self.seed, u32::try_from(number)?, inode.generation, &bytes);
            let mask = if inode.extra_isize >= 4 { u32::MAX } else { 0xffff };
            ensure!(whole & mask == inode.checksum & mask, "damaged: its checksum is wrong");
        }
        ensure!(inode.links_count > 0, "damaged: it has a name, but is not in use");
        Ok(Raw { bytes, inode })
    }

    fn group(&self, group: u64) -> Result<GroupDesc> {
        ensure!(group < self.groups, "damaged: there is no block group {group}");
        let size = self.superblock.desc_size() as u64;
        let table = (u64::from(self.superblock.first_data_block) + 1) * self.block;
        let mut bytes = vec![0; usize::try_from(size)?];
        self.source.read_exact_at(&mut bytes, table + group * size).context("group descriptors")?;
        if self.checksums() {
            // ext4_group_desc_csum: the group's number and the descriptor, its checksum (bytes 30, 31) as zero.
            let number = u32::try_from(group)?.to_le_bytes();
            let parts = [&number, &bytes[..30], &[0; 2], &bytes[32..]];
            let sum = parts.iter().fold(self.seed, |sum, part| csum::crc32c_raw(sum, part));
            let good = sum.to_le_bytes()[..2] == bytes[30..32];
            ensure!(good, "damaged: block group {group}'s checksum is wrong");
        }
        Ok(GroupDesc::decode(&bytes)?)
    }

    fn target_of(&self, number: u64) -> Result<Vec<u8>> {
        let raw = self.read_raw(number)?;
        if let Some(target) = raw.inode.fast_symlink_target() {
            return Ok(target.to_vec());
        }
        let length = usize::try_from(raw.inode.size).ok().filter(|size| *size <= 4096);
        let mut target = vec![0; length.context("damaged: a symbolic link to more than 4096 bytes")?];
        for extent in self.read_extents(number, &raw)? {
            let start = usize::try_from(extent.offset)?;
            let part = &mut target[start..start + usize::try_from(extent.length)?];
            self.source.read_exact_at(part, extent.position)?;
        }
        Ok(target)
    }
}

impl Filesystem for Ext4 {
    fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    fn length(&self) -> u64 {
        self.length()
    }

    fn root(&self) -> u64 {
        u64::from(spec::ROOT_INO)
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        let inode = self.raw(number)?.inode;
        let (major, minor) = inode.dev_numbers().unwrap_or_default();
        let kind = match inode.file_type() {
            FileType::Regular => Kind::File,
            FileType::Dir => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharDev => Kind::CharDevice(major, minor),
            FileType::BlockDev => Kind::BlockDevice(major, minor),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => bail!("ext4 inode {number}: damaged: of no known type"),
        };
        let (seconds, nanos) = spec::Inode::timestamp(inode.mtime, inode.mtime_extra);
        Ok(Inode {
            number,
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: Mtime { seconds, nanos },
            size: if matches!(kind, Kind::File | Kind::Symlink) { inode.size } else { 0 },
            links: u32::from(inode.links_count),
        })
    }

    fn entries(&self, directory: &Inode) -> Result<Vec<Entry>> {
        let number = directory.number;
        self.read_directory(number).with_context(|| format!("directory, ext4 inode {number}"))
    }

    fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        let number = link.number;
        ensure!(link.kind == Kind::Symlink, "not a symbolic link");
        self.target_of(number).with_context(|| format!("symbolic link, ext4 inode {number}"))
    }

    fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let number = inode.number;
        self.read_xattrs(number).with_context(|| format!("xattrs of ext4 inode {number}"))
    }

    fn extents(&self, file: &Inode) -> Result<Vec<Extent>> {
        let number = file.number;
        self.read_raw(number)
            .and_then(|raw| self.read_extents(number, &raw))
            .with_context(|| format!("contents of ext4 inode {number}"))
    }
}

fn check_features(sb: &Superblock) -> Result<()> {
    if sb.feature_incompat & RECOVER != 0 {
        bail!(
            "the ext4 filesystem was not unmounted cleanly, and its journal holds what the disk does not: \
             run `e2fsck -E journal_only DISK`, or mount it once"
        );
    }
    let unknown = sb.feature_incompat & !UNDERSTOOD;
    if unknown != 0 {
        bail!("its ext4 features {unknown:#x} (s_feature_incompat) are not supported");
    }
    if sb.feature_ro_compat & BIGALLOC != 0 {
        bail!("its ext4 feature bigalloc is not supported");
    }
    Ok(())
}

/// What is divided and multiplied by, later.
fn check_geometry(sb: &Superblock) -> Result<()> {
    let block_size = [1024, 2048, 4096].into_iter().nth(usize::try_from(sb.log_block_size)?);
    let block = block_size.context("its ext4 block size is not 1, 2 or 4 KiB")?;
    let inode_size = u32::from(sb.inode_size);
    let good = sb.blocks_per_group > 0
        && sb.inodes_per_group > 0
        && inode_size.is_power_of_two()
        && (128..=block).contains(&inode_size)
        && u64::from(sb.first_data_block) < sb.blocks_count
        && sb.blocks_count <= u64::MAX / 4096
        && (sb.desc_size() == 32 || (64..=1024).contains(&sb.desc_size()));
    ensure!(good, "a damaged ext4 superblock");
    Ok(())
}
