//! An empty volume gets what the image has at its place, once.
//!
//! The copy is made beside `data`, written to disk, and renamed: one that was broken off is made again, and one that is whole
//! is never touched.

use crate::attributes;
use crate::failure::{Context, Failure};
use crate::root;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use protocol::Stage::Root;
use protocol::Volume;
use rustix::fs::{Mode as OpenMode, OFlags, ResolveFlags, openat2};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// The folder that the container sees.
pub const DATA: &str = "data";
/// The folder that becomes it.
const PENDING: &str = "pending";
/// Bytes copied by one system call.
const CHUNK: usize = 16 << 20;

/// Makes the folder `data` of the volume that is mounted at `target`, if it is not there. If it is empty, too, unless
/// that is not wanted, it gets what the image has at the volume's destination.
pub fn once(volume: &Volume, target: &str) -> Result<(), Failure> {
    let what = || format!("filling volume {:?} from the image's {}", volume.name, volume.destination);
    let data = Path::new(target).join(DATA);
    let is_there = match fs::symlink_metadata(&data) {
        Ok(metadata) if !metadata.is_dir() => return Ok(()), // and will be refused
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).at(Root, what),
    };
    let nocopy = volume.nocopy || volume.subpath.is_some();
    if is_there && (nocopy || !is_empty(&data).at(Root, what)?) {
        return Ok(());
    }
    let source = if nocopy { None } else { image_folder(&volume.destination).at(Root, what)? };
    if is_there && source.is_none() {
        return Ok(());
    }
    replace(source, Path::new(target), &data).at(Root, what)
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

/// The folder at `destination` in the image, if there is one.
fn image_folder(destination: &str) -> io::Result<Option<OwnedFd>> {
    let image = File::open(root::PATH)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(&image, destination, flags, OpenMode::empty(), ResolveFlags::IN_ROOT) {
        Ok(folder) => Ok(Some(folder)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn replace(source: Option<OwnedFd>, target: &Path, data: &Path) -> io::Result<()> {
    let pending = target.join(PENDING);
    match fs::remove_dir_all(&pending) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o755).create(&pending)?;
    fs::set_permissions(&pending, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    if let Some(source) = source {
        let from = PathBuf::from(format!("/proc/self/fd/{}/.", source.as_raw_fd()));
        copy(from, pending.clone())?;
    }
    let filesystem = File::open(target)?;
    rustix::fs::syncfs(&filesystem)?;
    fs::rename(&pending, data)?;
    rustix::fs::syncfs(&filesystem)?;
    Ok(())
}

/// Copies what is in the folder `from` into the folder `to`, exactly.
pub fn copy(from: PathBuf, to: PathBuf) -> io::Result<()> {
    Copy { from, to, names: BTreeMap::new() }.all()
}

/// A copy of a tree, exact: owners, modes, times, xattrs, links, devices, holes.
struct Copy {
    from: PathBuf,
    to: PathBuf,
    /// The first name of each file that has several.
    names: BTreeMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn all(&mut self) -> io::Result<()> {
        let mut todo = vec![PathBuf::new()];
        let mut folders = vec![];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(self.from.join(&folder))? {
                let path = folder.join(entry?.file_name());
                let metadata = fs::symlink_metadata(self.from.join(&path))?;
                if metadata.is_dir() {
                    fs::create_dir(self.to.join(&path))?;
                    todo.push(path);
                } else {
                    self.file(path, &metadata)?;
                }
            }
            folders.push(folder);
        }
        // Last, for making a file in a folder changes its times.
        folders.iter().try_for_each(|folder| attributes::copy(&self.from.join(folder), &self.to.join(folder)))
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) -> io::Result<()> {
        let (from, to) = (self.from.join(&path), self.to.join(&path));
        let inode = (metadata.dev(), metadata.ino());
        if let Some(first) = self.names.get(&inode) {
            return fs::hard_link(self.to.join(first), to);
        }
        let kind = metadata.file_type();
        if kind.is_file() {
            contents(&from, &to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else {
            let special = [
                (kind.is_char_device(), SFlag::S_IFCHR),
                (kind.is_block_device(), SFlag::S_IFBLK),
                (kind.is_fifo(), SFlag::S_IFIFO),
            ];
            let kind = special.into_iter().find(|(is, _)| *is).map_or(SFlag::S_IFSOCK, |(_, kind)| kind);
            mknod(&to, kind, Mode::empty(), metadata.rdev())?;
        }
        attributes::copy(&from, &to)?;
        if metadata.nlink() > 1 {
            self.names.insert(inode, path);
        }
        Ok(())
    }
}

/// Copies a file's data, and leaves its holes out.
fn contents(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let data = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => return Ok(()), // only a hole is left
            found => found?,
        };
        let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data))?;
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        let mut left = hole.saturating_sub(data);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match rustix::fs::sendfile(&to, &from, None, most)? {
                0 => return Err(Errno::EIO.into()), // it ends before its end
                count => left = left.saturating_sub(count as u64),
            }
        }
        at = hole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn temporary() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tether-fill-{}", std::process::id()));
        let _old = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_tree_is_copied_whole() {
        let dir = temporary();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        fs::hard_link(from.join("a/file"), from.join("link")).unwrap();
        symlink("/nowhere", from.join("symlink")).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 5 << 20).unwrap();
        sparse.set_len(9 << 20).unwrap();
        mknod(&from.join("fifo"), SFlag::S_IFIFO, Mode::empty(), 0).unwrap();
        fs::set_permissions(from.join("a/file"), PermissionsExt::from_mode(0o4750)).unwrap();
        fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o1500)).unwrap();
        Copy { from: from.clone(), to: to.clone(), names: BTreeMap::new() }.all().unwrap();

        for path in ["", "a", "a/b", "a/file", "link", "symlink", "sparse", "fifo"] {
            let [from, to] = [&from, &to].map(|base| fs::symlink_metadata(base.join(path)).unwrap());
            assert_eq!((from.mode(), from.mtime_nsec()), (to.mode(), to.mtime_nsec()), "{path}");
            assert!(from.is_dir() || from.len() == to.len(), "{path}");
        }
        assert_eq!(fs::read(to.join("sparse")).unwrap(), fs::read(from.join("sparse")).unwrap());
        assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 4096);
        assert_eq!(
            fs::metadata(to.join("link")).unwrap().ino(),
            fs::metadata(to.join("a/file")).unwrap().ino()
        );
        assert_eq!(fs::read_link(to.join("symlink")).unwrap(), Path::new("/nowhere"));
        fs::remove_dir_all(dir).unwrap();
    }
}
