//! The unified kernel image: one UEFI program that is kernel, initramfs and command line.
//!
//! systemd's stub finds the other parts as PE sections of its own file; adding them is appending bytes and a
//! line each in the section table. Specifications: Microsoft's "PE Format" and
//! <https://uapi-group.org/specifications/specs/unified_kernel_image/>. The image is not signed: for UEFI Secure
//! Boot the user signs it, with a kernel and modules whose signatures are whole.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const READABLE_DATA: u32 = 0x4000_0040;
/// Size of one line of the section table.
const SECTION_HEADER: usize = 40;

/// `stub` with `sections` added, each a name of up to eight bytes and what is in it; and where in the image they lie: at
/// multiples of `alignment`.
///
/// The kernel should be the last: while it starts it may use memory behind its section. Fails if `stub` is no
/// 64-bit UEFI program, or has no room left in its section table.
pub(super) fn unify(
    stub: &[u8],
    sections: &[(&str, &[u8])],
    alignment: usize,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut image = Pe { bytes: stub.to_vec(), headers: 0, alignment };
    let mut places = vec![];
    image.headers = image.u32_at(0x3c)? as usize;
    ensure!(image.get(image.headers..image.headers + 4)? == b"PE\0\0", "it is no PE image");
    ensure!(image.u16_at(image.optional())? == 0x20b, "it is no 64-bit (PE32+) image");
    for (name, content) in sections {
        places.push(image.add(name, content).with_context(|| format!("adding section {name}"))?);
    }
    Ok((image.bytes, places))
}

struct Pe {
    bytes: Vec<u8>,
    /// Where the signature and, right behind it, the COFF header begin.
    headers: usize,
    /// Of what is added, in the file.
    alignment: usize,
}

impl Pe {
    /// Gives its place in the file.
    fn add(&mut self, name: &str, content: &[u8]) -> Result<usize> {
        let (section_align, file_align) =
            (self.u32_at(self.optional() + 32)?, self.u32_at(self.optional() + 36)?);
        for alignment in [section_align, file_align] {
            // A power of two up to 64 KiB, "PE Format" says.
            let usual = alignment.is_power_of_two() && alignment <= 1 << 16;
            ensure!(usual, "the image has an alignment of {alignment}");
        }
        ensure!(!content.is_empty(), "there is nothing to put into it");
        let address = aligned(self.u32_at(self.optional() + 56)?.into(), section_align)?;
        let position = aligned(self.bytes.len().next_multiple_of(self.alignment) as u64, file_align)?;
        let size = u32::try_from(content.len()).context("it is over 4 GiB")?;
        let size_in_file = aligned(size.into(), file_align)?;

        let header = self.new_header()?;
        let mut name = name.as_bytes().to_vec();
        name.resize(8, 0);
        self.put(header, &name)?;
        for (at, value) in [(8, size), (12, address), (16, size_in_file), (20, position), (36, READABLE_DATA)]
        {
            self.put(header + at, &value.to_le_bytes())?;
        }
        let end_of_image = aligned(u64::from(address) + u64::from(size), section_align)?;
        self.put(self.optional() + 56, &end_of_image.to_le_bytes())?;
        self.put(self.optional() + 64, &[0; 4])?; // CheckSum: 0 is "none", and UEFI does not look

        self.bytes.resize(position as usize, 0);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(position as usize + size_in_file as usize, 0);
        Ok(position as usize)
    }

    /// Takes the next line of the section table.
    fn new_header(&mut self) -> Result<usize> {
        let count = self.u16_at(self.headers + 6)?;
        let table = self.optional() + usize::from(self.u16_at(self.headers + 20)?);
        let header = table + usize::from(count) * SECTION_HEADER;
        let end = self.u32_at(self.optional() + 60)? as usize; // SizeOfHeaders
        ensure!(header + SECTION_HEADER <= end, "the image's section table is full");
        self.put(self.headers + 6, &(count + 1).to_le_bytes())?;
        self.put(header, &[0; SECTION_HEADER])?;
        Ok(header)
    }

    fn optional(&self) -> usize {
        self.headers + 24
    }

    fn get(&self, range: Range<usize>) -> Result<&[u8]> {
        self.bytes.get(range).context("the image is cut short")
    }

    fn u16_at(&self, at: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(self.get(at..at + 2)?.try_into()?))
    }

    fn u32_at(&self, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.get(at..at + 4)?.try_into()?))
    }

    fn put(&mut self, at: usize, value: &[u8]) -> Result<()> {
        let place = self.bytes.get_mut(at..at + value.len()).context("the image is cut short")?;
        place.copy_from_slice(value);
        Ok(())
    }
}

fn aligned(number: u64, to: u32) -> Result<u32> {
    u32::try_from(number.next_multiple_of(to.into())).context("the image would be over 4 GiB")
}
