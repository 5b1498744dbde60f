//! The stream of entries: puts headers, PAX records and GNU long names together, and hands out file data.

use std::io::{self, BufRead};

use anyhow::{Context, Result, bail};

use super::header::{BLOCK, Header};
use super::pax::{self, Pax};
use super::quoted;
use super::sparse::{PaxSparse, SparseMap};

/// PAX headers and GNU long names larger than this are refused (Go's reader has the same bound).
const MAX_EXTENSION: i64 = 1 << 20;

/// Modification time: `seconds` since 1970 (negative before), and `nanos` (0 to 999,999,999) after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Whole seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds after `seconds`.
    pub nanos: u32,
}

/// An extended attribute, name with its namespace (`user.mime_type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Full name.
    pub name: Vec<u8>,
    /// Value, any bytes.
    pub value: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes. Its data is read by [`Reader::data`].
    File {
        /// Bytes, holes of a sparse file included.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link to `target`.
    Symlink {
        /// Where it points, as it stands in the archive.
        target: Vec<u8>,
    },
    /// A further name for the entry named `target`.
    HardLink {
        /// Path of an entry of the same archive.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// One entry. `path` is as it stands in the archive: not yet normalised, not yet trusted.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`& 0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// From `SCHILY.xattr.` records.
    pub xattrs: Vec<Xattr>,
}

/// Reads entries from `R`.
pub struct Reader<'a, R> {
    inner: R,
    record: Option<&'a mut dyn Record>,
    /// Stream position in bytes, for messages.
    position: u64,
    /// Data bytes of the current entry not yet read.
    left: u64,
    /// Padding after them.
    padding: u64,
    sparse: Option<SparseMap>,
}

impl<'a, R: BufRead> Reader<'a, R> {
    /// A reader at the start of an archive. `record` is told what becomes of the stream, byte for byte.
    pub fn new(inner: R, record: Option<&'a mut dyn Record>) -> Self {
        Self { inner, record, position: 0, left: 0, padding: 0, sparse: None }
    }

    /// The next entry; `None` at the end mark (two zero blocks) or at the end of the stream. What was not read of the
    /// entry before is skipped.
    ///
    /// # Errors
    /// A truncated or malformed stream, an entry type or PAX record that is not supported.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut pax, mut long_name, mut long_link) = (Pax::default(), None, None);
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let at = self.position;
            let Some(header) = self.header().with_context(|| format!("tar header at byte {at}"))? else {
                if extended {
                    bail!("the archive ends after an extended header");
                }
                return Ok(None);
            };
            extended = true;
            let name = || format!("tar entry {}", quoted(&header.path()));
            match header.typeflag() {
                b'x' => pax = self.extension(&header).and_then(|d| Pax::parse(&d)).with_context(name)?,
                b'g' => {
                    self.extension(&header).and_then(|d| pax::check_global(&d)).with_context(name)?;
                    extended = false;
                }
                b'L' => long_name = long(self.extension(&header).with_context(name)?),
                b'K' => long_link = long(self.extension(&header).with_context(name)?),
                _ => {
                    let sparse_name = pax.sparse.as_mut().and_then(|sparse| sparse.name.take());
                    // Where GNU's and PAX's are both there, Go's reader takes GNU's.
                    let path = sparse_name.or(long_name).or(pax.path.take());
                    let path = path.unwrap_or_else(|| header.path());
                    let shown = quoted(&path);
                    let link = long_link.or(pax.linkpath.take());
                    let entry = self.entry(&header, path, link, pax);
                    return entry.map(Some).with_context(|| format!("tar entry {shown}"));
                }
            }
        }
    }

    /// Bytes of the stream from here to the next header.
    pub fn unread(&self) -> u64 {
        self.left.saturating_add(self.padding)
    }

    /// Whether the current file is sparse, so that its data is not stored in one piece.
    pub fn is_sparse(&self) -> bool {
        self.sparse.is_some()
    }

    /// Feeds the current file's bytes in order: `data` gets those that are stored, `hole` the lengths of zeros.
    ///
    /// # Errors
    /// A truncated stream, and what the sink gives.
    pub fn data(&mut self, sink: &mut impl DataSink) -> Result<()> {
        let Some(map) = self.sparse.take() else {
            return self.copy(self.left, sink);
        };
        let mut at = 0;
        for (offset, length) in map.parts {
            sink.hole(offset - at)?;
            self.copy(length, sink)?;
            at = offset + length;
        }
        sink.hole(map.size - at)
    }

    fn copy(&mut self, mut length: u64, sink: &mut impl DataSink) -> Result<()> {
        if let Some(record) = &mut self.record {
            record.data(sink.position(), length)?;
        }
        while length > 0 {
            let bytes = fill_some(&mut self.inner)?;
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
            if n == 0 {
                bail!("the archive ends {} bytes short of the file's end", self.left);
            }
            sink.data(&bytes[..n])?;
            self.inner.consume(n);
            length -= n as u64;
            self.left -= n as u64;
            self.position += n as u64;
        }
        Ok(())
    }

    /// A header block; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Header::parse(block).map(Some);
        }
        match self.block()? {
            Some(block) if block != [0; BLOCK] => bail!("a lone zero block before further entries"),
            _ => Ok(None),
        }
    }

    /// The next 512 bytes; `None` at a clean end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if fill_some(&mut self.inner)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        match self.inner.read_exact(&mut block) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => bail!("the archive is truncated"),
            read => read?,
        }
        self.position += BLOCK as u64;
        if let Some(record) = &mut self.record {
            record.literal(&block)?;
        }
        Ok(Some(block))
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut rest = self.left + self.padding;
        (self.left, self.padding, self.sparse) = (0, 0, None);
        while rest > 0 {
            let bytes = fill_some(&mut self.inner)?;
            let n = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len());
            if n == 0 {
                bail!("the archive is truncated at byte {}", self.position);
            }
            if let Some(record) = &mut self.record {
                record.literal(&bytes[..n])?;
            }
            self.inner.consume(n);
            rest -= n as u64;
            self.position += n as u64;
        }
        Ok(())
    }

    /// Sets how many data bytes follow the current header.
    fn expect_data(&mut self, size: u64) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK as u64).context("a size beyond 64 bits")?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    /// The whole data of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size()?;
        if !(0..=MAX_EXTENSION).contains(&size) {
            bail!("an extended header of {size} bytes (at most {MAX_EXTENSION})");
        }
        let mut data = vec![0; usize::try_from(size)?];
        self.inner.read_exact(&mut data).context("cannot read the extended header")?;
        if let Some(record) = &mut self.record {
            record.literal(&data)?;
        }
        self.position += data.len() as u64;
        self.expect_data(data.len() as u64)?;
        self.left = 0;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, path: Vec<u8>, link: Option<Vec<u8>>, pax: Pax) -> Result<Entry> {
        let size = pax.size.map_or_else(|| header.size(), Ok)?;
        let size = u64::try_from(size).with_context(|| format!("negative size {size}"))?;
        let target = || link.unwrap_or_else(|| header.linkname());
        let kind = match header.typeflag() {
            // V7 marks a directory by a slash at the end of the name. Where the type is '0' it is a file's: so for Go, while GNU
            // tar makes a directory.
            0 if path.ends_with(b"/") && size == 0 => Kind::Dir,
            0 if path.ends_with(b"/") => bail!("a directory (by its name) with {size} bytes of data"),
            0 | b'0' | b'7' => {
                self.expect_data(size)?;
                Kind::File { size: pax.sparse.map_or(Ok(size), |sparse| self.pax_sparse_file(&sparse))? }
            }
            b'1' => Kind::HardLink { target: target() },
            b'2' => Kind::Symlink { target: target() },
            b'3' => device(header).map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device(header).map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            b'S' => self.sparse_file(header, size)?,
            other => bail!("type {:?} is not supported", char::from(other)),
        };
        let (uid, gid) =
            (pax.uid.map_or_else(|| header.uid(), Ok)?, pax.gid.map_or_else(|| header.gid(), Ok)?);
        Ok(Entry {
            path,
            kind,
            mode: u16::try_from(header.mode()? & 0o7777)?,
            uid: u32::try_from(uid).with_context(|| format!("uid {uid} is beyond 32 bits"))?,
            gid: u32::try_from(gid).with_context(|| format!("gid {gid} is beyond 32 bits"))?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => Mtime { seconds: header.mtime()?, nanos: 0 },
            },
            xattrs: pax.xattrs,
        })
    }

    fn sparse_file(&mut self, header: &Header, stored: u64) -> Result<Kind> {
        let next = || self.block()?.context("the archive is truncated");
        let map = SparseMap::read(header, stored, next)?;
        let size = map.size;
        self.expect_data(stored)?;
        self.sparse = Some(map);
        Ok(Kind::File { size })
    }

    /// The size of the file whose map may stand before its data.
    fn pax_sparse_file(&mut self, sparse: &PaxSparse) -> Result<u64> {
        let stored = self.left;
        let (map, taken) = sparse.read(stored, || self.block()?.context("the archive is truncated"))?;
        self.left = stored - taken;
        let size = map.size;
        self.sparse = Some(map);
        Ok(size)
    }
}

/// Takes a file's data, in order.
pub trait DataSink {
    /// The next bytes.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// The next `length` bytes are zeros.
    fn hole(&mut self, length: u64) -> Result<()>;
    /// Where the next byte goes.
    fn position(&self) -> u64;
}

/// Is told what becomes of every byte of the stream, in order, up to the archive's end mark.
pub trait Record {
    /// `bytes` are the archive's own: headers, padding, data that the sink was not given.
    fn literal(&mut self, bytes: &[u8]) -> Result<()>;
    /// The next `length` bytes go to the sink's positions from `at` on.
    fn data(&mut self, at: u64, length: u64) -> Result<()>;
}

/// The next bytes of `stream`, where it holds them; none at its end.
fn fill_some(stream: &mut impl BufRead) -> io::Result<&[u8]> {
    while let Err(e) = stream.fill_buf() {
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    stream.fill_buf() // it is filled: this cannot fail
}

fn device(header: &Header) -> Result<(u32, u32)> {
    let (major, minor) = header.device()?;
    // Linux's dev_t: 12 bits of major, 20 of minor (include/linux/kdev_t.h).
    if !(0..1 << 12).contains(&major) || !(0..1 << 20).contains(&minor) {
        bail!("device number {major}:{minor} is beyond Linux's 12:20 bits");
    }
    Ok((u32::try_from(major)?, u32::try_from(minor)?))
}

/// GNU's long names end with a NUL, whatever follows it; an empty one is none.
fn long(mut name: Vec<u8>) -> Option<Vec<u8>> {
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
    (!name.is_empty()).then_some(name)
}
