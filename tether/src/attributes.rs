//! What a file has besides its data: owner, mode, times, xattrs (ACLs are among them).

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

/// Most that Linux gives of an xattr, and of the list of their names.
const XATTR_MAX: usize = 64 << 10;

/// Gives `to` the attributes of `from`; symbolic links are not followed.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    // In this order: a change of the owner takes setuid and capabilities away, an ACL changes the mode.
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    copy_xattrs(from, to)?;
    if !metadata.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    let accessed = TimeSpec::new(metadata.atime(), metadata.atime_nsec());
    let modified = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
    Ok(utimensat(AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

/// All but overlayfs's own, which speak of the layer's place in the stack.
fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    // Not asked without room before: EROFS says 0 then where there are some (seen with Linux 6.1).
    let mut names = vec![0; XATTR_MAX];
    let length = match llistxattr(from, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    names.truncate(length);
    let mut value = vec![0; XATTR_MAX];
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = lgetxattr(from, name, &mut value[..])?;
        let value = value.get(..length).ok_or(Errno::ERANGE)?;
        lsetxattr(to, name, value, XattrFlags::empty())?;
    }
    Ok(())
}
