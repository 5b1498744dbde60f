//! From a bzImage to the ELF kernel in it, which QEMU enters directly (PVH): no 16-bit code, no unpacking, which
//! saves a boot some 110 million instructions.
//!
//! The price: the unpacker is what moves the kernel to a random address, so this one always runs at its
//! linked address. Formats: the kernel's Documentation/x86/boot.rst and lib/decompress_unlz4.c.

use anyhow::{Context, Result, bail, ensure};

/// No kernel is larger; a payload that claims to be is not believed.
const VMLINUX_MAX: usize = 512 << 20;
/// Uncompressed size of every block but the last in LZ4's legacy frame.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// First bytes of the compressions that a kernel can be built with, other than LZ4: scripts/extract-vmlinux.
const OTHERS: [(&str, &[u8]); 6] = [
    ("gzip", b"\x1f\x8b\x08"),
    ("xz", b"\xfd7zXZ\0"),
    ("bzip2", b"BZh"),
    ("lzma", b"\x5d\0\0\0"),
    ("lzo", b"\x89LZO\0"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
];

/// The ELF image in a bzImage.
///
/// Reads LZ4 (Debian's cloud kernel) and plain ELF payloads; names any other compression in its error, and
/// the caller can boot the bzImage as it is. Whether the image can be entered by PVH is in its notes; QEMU
/// looks.
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(bzimage)?;
    let elf = match payload {
        [0x7f, b'E', b'L', b'F', ..] => payload.to_vec(),
        _ if payload.starts_with(&LZ4_MAGIC) => {
            unlz4(payload).context("unpacking the kernel's LZ4 payload")?
        }
        _ => match OTHERS.iter().find(|(_, magic)| payload.starts_with(magic)) {
            Some((name, _)) => bail!("the kernel is compressed with {name}: only lz4 is unpacked"),
            None => bail!("the kernel's payload is of no known compression"),
        },
    };
    ensure!(elf.starts_with(b"\x7fELF"), "the kernel's payload is no ELF image");
    Ok(elf)
}

/// The compressed kernel within the bzImage, by the fields of its setup header (boot protocol 2.08 or later).
fn payload(bzimage: &[u8]) -> Result<&[u8]> {
    const TOO_SHORT: &str = "the bzImage is cut short";
    ensure!(bzimage.get(0x202..0x206) == Some(b"HdrS"), "no bzImage: it has no setup header");
    let version = u16::from_le_bytes(*bzimage[0x206..].first_chunk().context(TOO_SHORT)?);
    ensure!(version >= 0x0208, "boot protocol {version:#06x} is too old to tell where the payload is");
    let field = |at: usize| -> Result<usize> {
        let bytes = bzimage.get(at..at + 4).and_then(<[u8]>::first_chunk).context(TOO_SHORT)?;
        Ok(u32::from_le_bytes(*bytes) as usize)
    };
    let setup_sectors = match bzimage[0x1f1] {
        0 => 4, // as boot.rst has it, for very old kernels
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + field(0x248)?;
    bzimage.get(start..).and_then(|rest| rest.get(..field(0x24c).ok()?)).context(TOO_SHORT)
}

/// Unpacks LZ4's legacy frame: a magic number, then blocks, each behind its compressed size (u32, little
/// endian). The kernel's build appends the uncompressed size of it all, in the same form.
fn unlz4(payload: &[u8]) -> Result<Vec<u8>> {
    const TOO_SHORT: &str = "it is cut short";
    let (blocks, size) = payload[LZ4_MAGIC.len()..].split_last_chunk().context(TOO_SHORT)?;
    let size = u32::from_le_bytes(*size) as usize;
    ensure!(size <= VMLINUX_MAX, "it claims to be {size} bytes long");
    let (mut elf, mut blocks) = (vec![0; size], blocks);
    let mut done = 0;
    while let Some((length, rest)) = blocks.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).context(TOO_SHORT)?;
        let space = &mut elf[done..size.min(done + LZ4_BLOCK)];
        done += lz4_flex::block::decompress_into(block, space).context("a block is corrupt")?;
        blocks = rest;
    }
    ensure!(done == size, "it gives {done} bytes, not {size}");
    Ok(elf)
}
