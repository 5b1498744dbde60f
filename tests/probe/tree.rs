//! Every entry below a folder, one a line, with all that the kernel tells of it: what two trees are compared by.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};

/// Most that Linux gives of an xattr, and of the list of their names.
const XATTR_MAX: usize = 64 << 10;

/// Writes the lines, in the order of the bytes of their paths; the folder itself comes first, its path empty. Fields are separated
/// by tabs:
///
/// `path kind mode uid:gid seconds.nanoseconds nlink first-name rdev size content name=value,...`
///
/// All is escaped as by `escape_ascii`, xattrs' values are hexadecimal. Of several names for one inode, `first-name` is the first.
/// `content` is a symlink's target or the FNV-1a of a file's data; size and content of a directory are the filesystem's own
/// affair, and left out.
pub fn list(root: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut first_names = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = if path == Path::new("") { root.to_owned() } else { root.join(&path) };
        let meta = fs::symlink_metadata(&full)?;
        if meta.is_dir() {
            let mut names =
                fs::read_dir(&full)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
            names.sort();
            todo.extend(names.iter().rev().map(|name| path.join(name)));
        }
        let shown = path.as_os_str().as_bytes().escape_ascii().to_string();
        let first = first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| shown.clone()).clone();
        let line = describe(&full, &meta).map_err(|e| io::Error::new(e.kind(), format!("{shown}: {e}")))?;
        let [head, tail] = line;
        writeln!(out, "{shown}\t{head}\t{first}\t{tail}")?;
    }
    Ok(())
}

/// The fields before `first-name`, and those after it.
fn describe(path: &Path, meta: &Metadata) -> io::Result<[String; 2]> {
    let kind = match meta.mode() & 0o170_000 {
        0o140_000 => 's',
        0o120_000 => 'l',
        0o100_000 => '-',
        0o060_000 => 'b',
        0o040_000 => 'd',
        0o020_000 => 'c',
        _ => 'p',
    };
    let (size, content) = match kind {
        'd' => (String::new(), String::new()),
        'l' => {
            let target = fs::read_link(path)?.into_os_string().into_vec();
            (meta.size().to_string(), target.escape_ascii().to_string())
        }
        '-' => (meta.size().to_string(), format!("{:016x}", digest(path)?)),
        _ => (meta.size().to_string(), String::new()),
    };
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let (seconds, nanos, links) = (meta.mtime(), meta.mtime_nsec(), meta.nlink());
    let rdev = if matches!(kind, 'b' | 'c') { meta.rdev() } else { 0 };
    Ok([
        format!("{kind}\t{mode:04o}\t{uid}:{gid}\t{seconds}.{nanos:09}\t{links}"),
        format!("{rdev:x}\t{size}\t{content}\t{}", xattrs(path)?),
    ])
}

/// 64-bit FNV-1a, by eight bytes at once: nobody here makes collisions.
fn digest(path: &Path) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut hash, mut chunk) = (0xcbf2_9ce4_8422_2325_u64, [0; 8]);
    loop {
        chunk.fill(0);
        let mut filled = 0;
        while filled < 8 {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(hash);
        }
        hash = (hash ^ u64::from_le_bytes(chunk)).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

fn xattrs(path: &Path) -> io::Result<String> {
    let mut names = vec![0; XATTR_MAX];
    let length = match llistxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_MAX];
        let length = lgetxattr(path, name, &mut value)?;
        let value: String = value[..length].iter().map(|byte| format!("{byte:02x}")).collect();
        found.push(format!("{}={value}", name.escape_ascii()));
    }
    found.sort();
    Ok(found.join(","))
}
