//! An ISO 9660 file system (ECMA-119) of one folder, with El Torito entries for BIOS and UEFI.
//!
//! A file may lie within another: then both directory records lead to the same sectors.
#![expect(
    clippy::cast_possible_truncation,
    reason = "what is cast is a constant, or within a file whose length is checked"
)]

use std::ops::Range;

use anyhow::{Context, Result, ensure};

/// Bytes in a logical block.
pub(super) const SECTOR: usize = 2048;
/// Where the volume descriptors begin.
const DESCRIPTORS: u32 = 16;
const PATH_TABLES: [u32; 2] = [19, 20];
const ROOT: u32 = 21;
const CATALOG: u32 = 22;
const FIRST_FILE: u32 = 23;
const VOLUME_SEQUENCE: [u8; 4] = [1, 0, 0, 1];
/// 1980-01-01 00:00:00 UTC, in a directory record: the first day that FAT knows, too.
const TIME: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
/// The same in a volume descriptor.
const LONG_TIME: &[u8; 17] = b"1980010100000000\0";
const NO_TIME: &[u8; 17] = b"0000000000000000\0";
const DIRECTORY: u8 = 2;

/// A file in the root folder. Its name is of upper-case letters and digits, 8.3.
pub(super) struct File {
    pub name: &'static str,
    pub content: Content,
}

/// What is in it.
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// So many bytes of an earlier file, from an offset that is a multiple of [`SECTOR`].
    Within {
        file: &'static str,
        offset: usize,
        length: usize,
    },
}

/// The files in the root folder of such an image, with where their bytes are.
///
/// # Errors
/// It is no such image.
pub(super) fn files(image: &[u8]) -> Result<Vec<(String, Range<usize>)>> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
    };
    let volume = image.get(DESCRIPTORS as usize * SECTOR..).context("it is too short")?;
    ensure!(volume.starts_with(b"\x01CD001"), "it is no ISO 9660 image");
    let root = number(volume, 158).context("it is cut short")? * SECTOR;
    let mut records = image.get(root..root + SECTOR).context("its root folder is missing")?;
    let mut files = vec![];
    while let Some(length @ 1..) = records.first().map(|length| usize::from(*length)) {
        let (record, rest) = records.split_at_checked(length).context("a directory record is cut short")?;
        records = rest;
        let name = record.get(33..).context("a directory record is too short")?;
        let name = &name[..name.len().min(record[32].into())];
        let (Some(sector), Some(length)) = (number(record, 2), number(record, 10)) else { continue };
        if record[25] & DIRECTORY == 0 {
            let name = String::from_utf8_lossy(name);
            let name = name.trim_end_matches(";1").trim_end_matches('.').to_ascii_lowercase();
            let bytes = sector * SECTOR..sector * SECTOR + length;
            ensure!(bytes.end <= image.len(), "{name} ends behind the image");
            files.push((name, bytes));
        }
    }
    Ok(files)
}

/// What the firmware starts.
pub(super) struct Boot {
    /// The file for BIOS: isolinux, whose boot information table is filled in. No emulation of a floppy disk.
    pub bios: &'static str,
    /// The file for UEFI: a FAT image.
    pub uefi: &'static str,
}

#[derive(Clone, Copy)]
struct Extent {
    sector: u32,
    length: u32,
}

/// The image, with the volume's name (letters of A-Z, 0-9, _; at most 32).
///
/// # Errors
/// A file is too large, or lies within one that is not there.
pub(super) fn image(volume: &str, mut files: Vec<File>, boot: &Boot) -> Result<Vec<u8>> {
    let extents = place(&files)?;
    let of = |name: &str| extent_of(&files, &extents, name);
    let (bios, uefi) = (of(boot.bios)?, of(boot.uefi)?);
    let mut image = vec![0; FIRST_FILE as usize * SECTOR];
    for (file, extent) in files.iter_mut().zip(&extents) {
        if let Content::Bytes(bytes) = &mut file.content {
            if file.name == boot.bios {
                boot_information(bytes, *extent)?;
            }
            debug_assert_eq!(image.len(), extent.sector as usize * SECTOR);
            image.extend_from_slice(bytes);
            image.resize(image.len().next_multiple_of(SECTOR), 0);
        }
    }
    let sectors = u32::try_from(image.len() / SECTOR).context("the image is too large")?;
    let mut put = |sector: u32, bytes: &[u8]| {
        let at = sector as usize * SECTOR;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(DESCRIPTORS, &primary(volume, sectors));
    put(DESCRIPTORS + 1, &boot_record());
    put(DESCRIPTORS + 2, &descriptor(255));
    put(PATH_TABLES[0], &path_table(ROOT.to_le_bytes(), 1u16.to_le_bytes()));
    put(PATH_TABLES[1], &path_table(ROOT.to_be_bytes(), 1u16.to_be_bytes()));
    put(ROOT, &root(&files, &extents)?);
    put(CATALOG, &catalog(bios, uefi));
    Ok(image)
}

/// Where each file goes.
fn place(files: &[File]) -> Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = vec![];
    let mut next = FIRST_FILE;
    for file in files {
        let extent = match &file.content {
            Content::Bytes(bytes) => {
                let length =
                    u32::try_from(bytes.len()).with_context(|| format!("{} is too large", file.name))?;
                let extent = Extent { sector: next, length };
                next = next.checked_add(length.div_ceil(SECTOR as u32)).context("the image is too large")?;
                extent
            }
            Content::Within { file: outer, offset, length } => {
                let outer = extent_of(files, &extents, outer)?;
                ensure!(offset % SECTOR == 0, "{} begins within a sector", file.name);
                ensure!(offset + length <= outer.length as usize, "{} ends behind its file", file.name);
                Extent { sector: outer.sector + (offset / SECTOR) as u32, length: *length as u32 }
            }
        };
        extents.push(extent);
    }
    Ok(extents)
}

/// That of an earlier file.
fn extent_of(files: &[File], extents: &[Extent], name: &str) -> Result<Extent> {
    let mut placed = files.iter().zip(extents);
    let found = placed.find(|(file, _)| file.name == name);
    found.map(|(_, extent)| *extent).with_context(|| format!("there is no {name}"))
}

/// What isolinux wants to know of itself, from byte 8 (isolinux.asm, `bi_pvd`): mkisofs's `-boot-info-table`.
fn boot_information(program: &mut [u8], extent: Extent) -> Result<()> {
    ensure!(program.len() > 64, "isolinux is too short");
    let words = program[64..].chunks(4).map(|word| {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        u32::from_le_bytes(bytes)
    });
    let sum = words.fold(0, u32::wrapping_add);
    let table = [DESCRIPTORS, extent.sector, extent.length, sum].map(u32::to_le_bytes).concat();
    program[8..24].copy_from_slice(&table);
    program[24..64].fill(0);
    Ok(())
}

/// The begin of a volume descriptor (ECMA-119, 8.1).
fn descriptor(kind: u8) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    sector[0] = kind;
    sector[1..6].copy_from_slice(b"CD001");
    sector[6] = 1;
    sector
}

/// ECMA-119, 8.4.
fn primary(volume: &str, sectors: u32) -> Vec<u8> {
    let mut sector = descriptor(1);
    // Identifiers, which are filled with spaces.
    for range in [8..72, 190..813] {
        sector[range].fill(b' ');
    }
    sector[40..40 + volume.len()].copy_from_slice(volume.as_bytes());
    sector[80..88].copy_from_slice(&both(sectors));
    sector[120..124].copy_from_slice(&VOLUME_SEQUENCE);
    sector[124..128].copy_from_slice(&VOLUME_SEQUENCE);
    sector[128..130].copy_from_slice(&(SECTOR as u16).to_le_bytes());
    sector[130..132].copy_from_slice(&(SECTOR as u16).to_be_bytes());
    sector[132..140].copy_from_slice(&both(10));
    sector[140..144].copy_from_slice(&PATH_TABLES[0].to_le_bytes());
    sector[148..152].copy_from_slice(&PATH_TABLES[1].to_be_bytes());
    let root = Extent { sector: ROOT, length: SECTOR as u32 };
    sector[156..190].copy_from_slice(&record(&[0], root, DIRECTORY));
    for (at, time) in [(813, LONG_TIME), (830, LONG_TIME), (847, NO_TIME), (864, LONG_TIME)] {
        sector[at..at + 17].copy_from_slice(time);
    }
    sector[881] = 1;
    sector
}

/// El Torito 1.0, 2.0: where the catalog is.
fn boot_record() -> Vec<u8> {
    let mut sector = descriptor(0);
    sector[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    sector[71..75].copy_from_slice(&CATALOG.to_le_bytes());
    sector
}

/// El Torito 1.0, 2.1 to 2.4: an entry for BIOS, a section of one entry for UEFI.
fn catalog(bios: Extent, uefi: Extent) -> Vec<u8> {
    /// What the BIOS loads of isolinux, which loads the rest itself. In sectors of 512 bytes, as all here.
    const LOADED: u16 = 4;
    let mut validation = [0; 32];
    validation[0] = 1;
    [validation[30], validation[31]] = [0x55, 0xaa];
    // All 16-bit words together give 0.
    validation[28..30].copy_from_slice(&0u16.wrapping_sub(0xaa55 + 1).to_le_bytes());
    let mut section = [0; 32];
    [section[0], section[1], section[2]] = [0x91, 0xef, 1];
    let entry = |count: u16, extent: Extent| {
        let mut entry = [0; 32];
        entry[0] = 0x88;
        entry[6..8].copy_from_slice(&count.to_le_bytes());
        entry[8..12].copy_from_slice(&extent.sector.to_le_bytes());
        entry
    };
    // 0: to the end of the CD.
    let whole = u16::try_from(uefi.length.div_ceil(512)).unwrap_or(0);
    [validation, entry(LOADED, bios), section, entry(whole, uefi)].concat()
}

/// ECMA-119, 9.4, with the root alone in it.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &root, &parent, &[0, 0]].concat()
}

fn root(files: &[File], extents: &[Extent]) -> Result<Vec<u8>> {
    let own = Extent { sector: ROOT, length: SECTOR as u32 };
    let catalog = Extent { sector: CATALOG, length: SECTOR as u32 };
    let mut records = vec![("BOOT.CAT;1".to_owned(), catalog)];
    // A name without an extension keeps its dot.
    let full = |name: &str| format!("{name}{};1", if name.contains('.') { "" } else { "." });
    records.extend(files.iter().zip(extents).map(|(file, extent)| (full(file.name), *extent)));
    records.sort_by(|one, other| one.0.cmp(&other.0));
    let mut folder = [record(&[0], own, DIRECTORY), record(&[1], own, DIRECTORY)].concat();
    for (name, extent) in &records {
        folder.extend(record(name.as_bytes(), *extent, 0));
    }
    ensure!(folder.len() <= SECTOR, "there are too many files");
    Ok(folder)
}

/// A directory record (ECMA-119, 9.1).
fn record(name: &[u8], extent: Extent, flags: u8) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(extent.sector));
    record.extend(both(extent.length));
    record.extend(TIME);
    record.extend([flags, 0, 0]);
    record.extend(VOLUME_SEQUENCE);
    record.push(name.len() as u8);
    record.extend(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

/// A number in both byte orders (ECMA-119, 7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}
