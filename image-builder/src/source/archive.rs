//! Tar archives as they lie: their headers are read once, then a member is a section of the file.
//!
//! Nothing is unpacked, so a member's name can lead nowhere: it is only compared. Links are followed within the archive;
//! of two members of one name the later counts, as for tar. What is compressed, or a stream, is spooled first.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::files::Files;
use super::spool::spool;
use crate::compression::{Compression, decompress};
use crate::image::{Blob, Stream};
use crate::tarball::{Entry, Kind, Reader, quoted};

/// Links from link to link, at most.
const MAX_LINKS: usize = 8;
/// Bytes of memory for the members, at most, about: a quarter of a million of them.
const MAX_MEMBERS: usize = 64 << 20;
/// What a member takes beside its name, about.
const MEMBER: usize = 128;

/// An archive, ready to be read.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// A symbolic or hard link to another name; none is outside of the archive.
    Link(Option<Vec<u8>>),
    /// What no part of an image is: its kind.
    Other(&'static str),
}

impl Archive {
    /// The archive in `file`, from where it stands; what cannot be read in place is kept in a file of `dir`, at most `max`
    /// bytes.
    ///
    /// # Errors
    /// It cannot be read or kept, is damaged or truncated, or no tar archive.
    pub fn open(mut file: File, dir: &Path, max: u64) -> Result<Self> {
        let file = if is_in_place(&mut file)? {
            file
        } else {
            spool(decompress(BufReader::new(file)).context("cannot read the archive")?.1, dir, max)?
        };
        let file = Arc::new(file);
        let members = members(&file).context("not an image archive, or a damaged one")?;
        Ok(Self { file, members })
    }

    /// Whether there is a member `name`.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    fn section(&self, name: &str) -> Result<Section> {
        let mut at = name.as_bytes();
        for _ in 0..=MAX_LINKS {
            match self.members.get(at) {
                Some(Member::File { offset, size }) => {
                    return Ok(Section { file: self.file.clone(), position: *offset, end: offset + size });
                }
                Some(Member::Link(Some(target))) => at = target,
                Some(Member::Link(None)) => bail!("{} leads out of the archive", quoted(at)),
                Some(Member::Other(kind)) => bail!("{} is a {kind}, not a file", quoted(at)),
                None if at == name.as_bytes() => bail!("there is no {} in the archive", quoted(at)),
                None => {
                    bail!("{} links to {}, which is not in the archive", quoted(name.as_bytes()), quoted(at))
                }
            }
        }
        bail!("{} is a link to a link, more than {MAX_LINKS} deep", quoted(name.as_bytes()))
    }
}

impl Files for Archive {
    fn open(&self, name: &str) -> Result<Stream> {
        Ok(Box::new(self.section(name)?))
    }

    fn blob(&self, name: &str) -> Result<(Arc<dyn Blob>, u64)> {
        let section = self.section(name)?;
        let size = section.end - section.position;
        Ok((Arc::new(section), size))
    }
}

/// Whether `file` can be read as it is: it is no stream, stands at its start, and is not compressed.
fn is_in_place(file: &mut File) -> Result<bool> {
    if !file.metadata()?.is_file() || file.stream_position()? != 0 {
        return Ok(false);
    }
    let mut head = [0; 16];
    let length = file.read_at(&mut head, 0)?;
    Ok(Compression::detect(&head[..length])? == Compression::None)
}

fn members(file: &Arc<File>) -> Result<HashMap<Vec<u8>, Member>> {
    let end = file.metadata()?.len();
    let (mut members, mut memory, mut position) = (HashMap::new(), 0, 0);
    loop {
        // Each header with a reader of its own, which leaves the data where it is.
        let section = Section { file: file.clone(), position, end };
        let mut stream = BufReader::with_capacity(1024, section);
        let mut reader = Reader::new(&mut stream, None);
        let Some(entry) =
            reader.next_entry().with_context(|| format!("at byte {position} of the archive"))?
        else {
            return Ok(members);
        };
        let (rest, sparse) = (reader.unread(), reader.is_sparse());
        let offset = stream.get_ref().position - stream.buffer().len() as u64;
        position = offset.saturating_add(rest);
        if position > end {
            bail!("it is truncated: {} ends at byte {position} of {end}", quoted(&entry.path));
        }
        let Some(name) = resolve(b"", &entry.path) else { continue };
        let member = member(&name, &entry, offset, sparse);
        memory +=
            MEMBER + name.len() + if let Member::Link(Some(target)) = &member { target.len() } else { 0 };
        if memory > MAX_MEMBERS {
            bail!("it has more members than an image can need");
        }
        members.insert(name, member);
    }
}

fn member(name: &[u8], entry: &Entry, offset: u64, sparse: bool) -> Member {
    match &entry.kind {
        Kind::File { .. } if sparse => Member::Other("sparse file"),
        Kind::File { size } => Member::File { offset, size: *size },
        Kind::HardLink { target } => Member::Link(resolve(b"", target)),
        Kind::Symlink { target } if target.starts_with(b"/") => Member::Link(None),
        Kind::Symlink { target } => {
            let folder = name.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash);
            Member::Link(resolve(&name[..folder], target))
        }
        Kind::Dir => Member::Other("folder"),
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => Member::Other("device"),
    }
}

/// `path` from `folder` on, without dots and empty parts; none if it leads above the archive's root.
fn resolve(folder: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in folder.split(|&b| b == b'/').chain(path.split(|&b| b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join(&b'/'))
}

/// A part of a file, read without moving it: many can be read at once.
#[derive(Clone)]
struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {} of {:?}", self.position, self.end, self.file)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..want], self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Blob for Section {
    fn open(&self) -> Result<Stream> {
        Ok(Box::new(self.clone()))
    }
}
