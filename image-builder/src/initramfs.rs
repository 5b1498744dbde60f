//! The initramfs: a cpio archive in the `newc` form that the kernel unpacks into its first root.
//!
//! Promises: the same entries give the same bytes, whatever the order they were added in and whenever it
//! happens (entries sorted by path, inode numbers counted, no times, owner root). A parent directory that was
//! not added by hand is there, root's, 0755: the kernel does not make one and would drop the file without a
//! word. Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! Written raw: unpacking costs the guest one instruction a byte, against 18 for gzip or zstd.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Context;

use crate::kernel::Module;

/// What two digits count.
const MODULES_MAX: usize = 99;
/// Before an entry's 13 numbers of eight hexadecimal digits.
const MAGIC: &[u8] = b"070701";
const HEADER: usize = 6 + 13 * 8;

/// An initramfs being put together. Paths are relative to its root (`dev/console`, without a slash in front).
#[derive(Debug, Default)]
pub struct Initramfs<'a> {
    entries: BTreeMap<String, Entry<'a>>,
}

#[derive(Debug, Default)]
struct Entry<'a> {
    /// File type and permissions, as in `st_mode`.
    mode: u32,
    device: (u32, u32),
    bytes: &'a [u8],
}

impl<'a> Initramfs<'a> {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; `mode` is its permission bits.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Entry { mode: libc::S_IFDIR | mode, ..Entry::default() })
    }

    /// Adds a regular file; `mode` is its permission bits.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &'a [u8]) -> &mut Self {
        self.add(path, Entry { mode: libc::S_IFREG | mode, bytes, ..Entry::default() })
    }

    /// Adds a character device; `mode` is its permission bits.
    pub fn node(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> &mut Self {
        self.add(path, Entry { mode: libc::S_IFCHR | mode, device: (major, minor), ..Entry::default() })
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &'a str) -> &mut Self {
        self.add(path, Entry { mode: libc::S_IFLNK | 0o777, bytes: target.as_bytes(), ..Entry::default() })
    }

    fn add(&mut self, path: &str, entry: Entry<'a>) -> &mut Self {
        for (slash, _) in path.match_indices('/') {
            let parent = Entry { mode: libc::S_IFDIR | 0o755, ..Entry::default() };
            self.entries.entry(path[..slash].to_owned()).or_insert(parent);
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Writes the archive. Fails as the writer does, and on a file of 4 GiB or more.
    pub fn finish(&self, mut to: impl Write) -> io::Result<()> {
        // A parent's path is a prefix of its children's, so sorted order puts it first, as the kernel needs.
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut to, inode, path, entry)?;
        }
        write_entry(&mut to, 0, "TRAILER!!!", &Entry::default())
    }
}

fn write_entry(to: &mut impl Write, inode: u32, path: &str, entry: &Entry) -> io::Result<()> {
    let (uid, gid, mtime, (major, minor), check) = (0, 0, 0, (0, 0), 0);
    let links = if entry.mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
    let size = field(entry.bytes.len())?;
    let name_size = field(path.len() + 1)?;
    let (node_major, node_minor) = entry.device;
    to.write_all(MAGIC)?;
    for number in [
        inode, entry.mode, uid, gid, links, mtime, size, major, minor, node_major, node_minor, name_size,
        check,
    ] {
        write!(to, "{number:08x}")?;
    }
    to.write_all(path.as_bytes())?;
    to.write_all(b"\0")?;
    pad(to, HEADER + path.len() + 1)?;
    to.write_all(entry.bytes)?;
    pad(to, entry.bytes.len())
}

fn field(size: usize) -> io::Result<u32> {
    u32::try_from(size).map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a cpio entry over 4 GiB"))
}

fn pad(to: &mut impl Write, written: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

/// The modules in an initramfs, each list in the order in which they are loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// Loaded at every start.
    pub always: Vec<Module>,
    /// Loaded after those when what they are for is asked for, by the name of their folder.
    pub wanted: BTreeMap<String, Vec<Module>>,
}

/// The initramfs of every containerVM: tether as `/init`, the two devices that a program needs before `/dev` is
/// mounted, the places to mount on, and the modules as `/modules/NN-name.ko` and `/modules/FOLDER/NN-name.ko`, to be loaded
/// in name order. Nothing else: no shell, no libraries. At most 99 modules in a folder; the rest would sort wrongly, so it is
/// refused.
pub fn tether(tether: &[u8], modules: &Modules) -> anyhow::Result<Vec<u8>> {
    let mut archive = Initramfs::new();
    archive.file("init", 0o755, tether);
    archive.node("dev/console", 0o600, 5, 1).node("dev/null", 0o666, 1, 3);
    for mount_point in ["dev", "proc", "sys", "run"] {
        archive.dir(mount_point, 0o755);
    }
    add_modules(&mut archive, modules)?;
    let mut bytes = Vec::new();
    archive.finish(&mut bytes)?;
    Ok(bytes)
}

/// Further modules alone: an archive that may follow that of [`tether()`] in one file. Its length is a multiple of 4, as that one's is.
///
/// # Errors
/// There are too many.
pub fn more(modules: &Modules) -> anyhow::Result<Vec<u8>> {
    let mut archive = Initramfs::new();
    add_modules(&mut archive, modules)?;
    let mut bytes = Vec::new();
    archive.finish(&mut bytes)?;
    Ok(bytes)
}

fn add_modules<'a>(archive: &mut Initramfs<'a>, modules: &'a Modules) -> anyhow::Result<()> {
    let wanted = modules.wanted.iter().map(|(folder, modules)| (format!("modules/{folder}"), modules));
    for (folder, modules) in [("modules".to_owned(), &modules.always)].into_iter().chain(wanted) {
        anyhow::ensure!(
            modules.len() <= MODULES_MAX,
            "{} modules: a folder of the initramfs holds {MODULES_MAX}",
            modules.len()
        );
        for (number, module) in (1..).zip(modules) {
            archive.file(&format!("{folder}/{number:02}-{}.ko", module.name), 0o644, &module.bytes);
        }
    }
    Ok(())
}

/// The regular files of an archive that [`Initramfs::finish`] wrote, with what is in them.
///
/// # Errors
/// It is no such archive.
pub fn files(mut archive: &[u8]) -> anyhow::Result<Vec<(String, &[u8])>> {
    let mut files = vec![];
    loop {
        let header = archive.get(..HEADER).context("the archive is cut short")?;
        anyhow::ensure!(header.starts_with(MAGIC), "it is no cpio archive of the form newc");
        let number = |index: usize| -> anyhow::Result<usize> {
            let digits = str::from_utf8(&header[MAGIC.len() + index * 8..][..8]).unwrap_or_default();
            usize::from_str_radix(digits, 16).context("a number in the archive")
        };
        let (mode, size, name_size) = (number(1)?, number(6)?, number(11)?);
        // Eight digits: no sum overflows.
        let begin = (HEADER + name_size).next_multiple_of(4);
        let end = (begin + size).next_multiple_of(4);
        anyhow::ensure!(name_size > 0 && end <= archive.len(), "the archive is cut short");
        let name = String::from_utf8_lossy(&archive[HEADER..HEADER + name_size - 1]).into_owned();
        if name == "TRAILER!!!" {
            // Another archive may come behind it, after zeros.
            let rest = &archive[end..];
            let more = rest.iter().position(|byte| *byte != 0);
            match more {
                None => return Ok(files),
                Some(begin) => archive = &rest[begin..],
            }
            continue;
        }
        if u32::try_from(mode).is_ok_and(|mode| mode & libc::S_IFMT == libc::S_IFREG) {
            files.push((name, &archive[begin..begin + size]));
        }
        archive = &archive[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn bytes(archive: &Initramfs) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.finish(&mut bytes).unwrap();
        bytes
    }

    /// What cpio(1) lists, a line an entry, owner and date squeezed.
    fn listing(bytes: &[u8]) -> Vec<String> {
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("cpio is needed for this test");
        cpio.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn cpio_reads_what_we_write() {
        let module = |name: &str| Module { name: name.into(), bytes: b"odd".to_vec() };
        let modules = Modules {
            always: vec![module("virtio"), module("erofs")],
            wanted: BTreeMap::from([("verity".into(), vec![module("dm_verity")])]),
        };
        let listed = listing(&tether(b"#!tether", &modules).unwrap());
        let expected = [
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
            "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
            "crw-rw-rw- 1 0 0 1, 3 Jan 1 1970 dev/null",
            "-rwxr-xr-x 1 0 0 8 Jan 1 1970 init",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 modules",
            "-rw-r--r-- 1 0 0 3 Jan 1 1970 modules/01-virtio.ko",
            "-rw-r--r-- 1 0 0 3 Jan 1 1970 modules/02-erofs.ko",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 modules/verity",
            "-rw-r--r-- 1 0 0 3 Jan 1 1970 modules/verity/01-dm_verity.ko",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 proc",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 run",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 sys",
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_show() {
        let mut one = Initramfs::new();
        one.dir("a", 0o700).file("a/b", 0o600, b"x").symlink("c", "a/b");
        let mut other = Initramfs::new();
        other.symlink("c", "a/b").file("a/b", 0o600, b"x").dir("a", 0o700);
        assert_eq!(bytes(&one), bytes(&other));
        assert!(listing(&bytes(&one)).iter().any(|line| line.ends_with("c -> a/b")));
    }

    #[test]
    fn a_number_of_modules_that_would_sort_wrongly_is_refused() {
        let modules = |count| -> Vec<_> {
            (0..count).map(|n| Module { name: format!("m{n}"), bytes: Vec::new() }).collect()
        };
        let with = |always, wanted| {
            let wanted = BTreeMap::from([("verity".to_owned(), modules(wanted))]);
            tether(b"", &Modules { always: modules(always), wanted })
        };
        assert!(with(99, 99).is_ok());
        assert!(with(100, 0).is_err());
        assert!(with(0, 100).is_err());
    }

    #[test]
    fn files_are_read_back() {
        let modules = Modules {
            always: vec![Module { name: "erofs".into(), bytes: b"odd".to_vec() }],
            ..Modules::default()
        };
        let archive = tether(b"#!tether", &modules).unwrap();
        let twice = files(&[&archive[..], &[0; 8], &archive].concat()).unwrap().len();
        assert_eq!(twice, 4);
        let found = files(&archive).unwrap();
        let expected: [(String, &[u8]); 2] =
            [("init".into(), b"#!tether"), ("modules/01-erofs.ko".into(), b"odd")];
        assert_eq!(found, expected);
        for length in 0..archive.len() {
            assert!(files(&archive[..length]).is_err(), "cut to {length} bytes");
        }
        for bit in 0..archive.len() * 8 {
            let mut flipped = archive.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = files(&flipped); // names and contents may be anything
        }
    }
}
