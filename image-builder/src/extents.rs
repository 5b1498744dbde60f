//! One disk of pieces of files, without a copy.
//!
//! Whoever attaches it must be able to put the pieces together. QEMU and VMware's programs can, by a VMDK descriptor of flat
//! extents ([`Extents::vmdk`]); in memory, [`Extents`] is read as the disk itself.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::erofs::reader::ReadAt;

/// VMDK counts in these.
const SECTOR: u64 = 512;

/// A piece of a file.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// Where the piece starts in it, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
}

/// A disk: one piece after the other.
#[derive(Clone, Debug, Default)]
pub struct Extents(pub Vec<Extent>);

impl Extents {
    /// Length of the disk, in bytes.
    pub fn length(&self) -> u64 {
        self.0.iter().map(|extent| extent.length).sum()
    }

    /// The VMDK descriptor of the disk (VMware, "Virtual Disk Format 5.0", the text form): a small text file that names the
    /// files. `name` gives an extent's file the name that whoever opens the descriptor finds it by.
    ///
    /// All extents are called writable: QEMU (7.2 to 10) passes over others without a word, and so over ZERO extents. Attach
    /// the disk read-only.
    ///
    /// # Errors
    /// A piece that is not in whole sectors of 512 bytes; a name that cannot stand in quotes, or is over 511 bytes.
    ///
    /// ```
    /// use image_builder::extents::{Extent, Extents};
    /// # let file = std::sync::Arc::new(tempfile::tempfile()?);
    /// let disk = Extents(vec![
    ///     Extent { file: file.clone(), offset: 0, length: 8192 },
    ///     Extent { file, offset: 4096, length: 512 },
    /// ]);
    /// let descriptor = disk.vmdk(|_| "layer.erofs".to_owned())?;
    /// assert!(descriptor.contains("RW 16 FLAT \"layer.erofs\" 0\nRW 1 FLAT \"layer.erofs\" 8\n"));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn vmdk(&self, name: impl Fn(&Extent) -> String) -> Result<String> {
        // QEMU knows "custom" not; the size of extents is free with this one, too.
        let mut text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                        createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n"
            .to_owned();
        for extent in &self.0 {
            let (offset, length, name) = (extent.offset, extent.length, name(extent));
            ensure!(
                offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR) && length > 0,
                "{length} bytes from {offset} on are not whole sectors"
            );
            ensure!(
                !name.contains(['"', '\n', '\r']) && (1..512).contains(&name.len()),
                "{name:?} cannot stand in a VMDK descriptor"
            );
            writeln!(text, "RW {} FLAT \"{name}\" {}", length / SECTOR, offset / SECTOR)?;
        }
        let cylinders = self.length().div_ceil(SECTOR * 255 * 63);
        write!(
            text,
            "\n# The Disk Data Base\n#DDB\nddb.virtualHWVersion = \"4\"\nddb.adapterType = \"lsilogic\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n"
        )?;
        Ok(text)
    }
}

impl ReadAt for Extents {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        for extent in &self.0 {
            let Some(left) = extent.length.checked_sub(offset).filter(|left| *left > 0) else {
                offset -= extent.length;
                continue;
            };
            let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (here, rest) = buffer.split_at_mut(length);
            extent.file.read_exact_at(here, extent.offset + offset)?;
            (buffer, offset) = (rest, 0);
            if buffer.is_empty() {
                return Ok(());
            }
        }
        if buffer.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[test]
    fn pieces_are_read_as_one() {
        let (letters, digits) = (file(b"abcdefgh"), file(b"0123456789"));
        let piece = |file: &Arc<File>, offset, length| Extent { file: file.clone(), offset, length };
        let disk = Extents(vec![
            piece(&letters, 2, 3),
            piece(&digits, 0, 0),
            piece(&digits, 5, 2),
            piece(&letters, 0, 1),
        ]);
        for start in 0..=6 {
            for end in start..=6 {
                let mut bytes = vec![0; end - start];
                disk.read_exact_at(&mut bytes, start as u64).unwrap();
                assert_eq!(bytes, b"cde56a"[start..end]);
            }
        }
        assert!(disk.read_exact_at(&mut [0], 6).is_err());
        assert!(disk.read_exact_at(&mut [0; 4], 3).is_err());
    }

    #[test]
    fn what_a_descriptor_cannot_say_is_refused() {
        let disk = |offset, length| Extents(vec![Extent { file: file(b""), offset, length }]);
        let error = |disk: Extents, name: &str| disk.vmdk(|_| name.to_owned()).unwrap_err().to_string();
        assert!(error(disk(511, 512), "x").contains("from 511 on"));
        assert!(error(disk(0, 513), "x").contains("513 bytes"));
        assert!(error(disk(0, 0), "x").contains("0 bytes"));
        for name in ["", "a\"b", "a\nb", &"x".repeat(512)] {
            assert!(error(disk(0, 512), name).contains("cannot stand in a VMDK descriptor"), "{name}");
        }
    }
}
