//! Names in archives are not trusted: they are taken apart here, and only here.

use anyhow::{Context, Result, bail};

/// Linux's NAME_MAX; also what the EROFS directory format is used with.
pub const NAME_MAX: usize = 255;
/// Linux's PATH_MAX. It bounds the depth of the tree, too.
pub const PATH_MAX: usize = 4096;

/// The components of `path` below the root: leading and doubled slashes and `.` go, so the root itself is empty.
///
/// # Errors
/// A `..`, a NUL, a name over 255 bytes, a path over 4096.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_MAX {
        bail!("a path of {} bytes (at most {PATH_MAX})", path.len());
    }
    let names: Vec<_> = parts(path).collect();
    if names.contains(&&b".."[..]) {
        bail!("a path with \"..\" in it");
    }
    names.iter().try_for_each(|name| check(name))?;
    Ok(names)
}

/// The names in `path`, as they come: slashes and `.` go, `..` stays.
pub fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Checks what Linux could not hold as a name.
///
/// # Errors
/// A NUL, more than 255 bytes.
pub fn check(name: &[u8]) -> Result<()> {
    if name.contains(&0) {
        bail!("a name with a NUL in it");
    }
    if name.len() > NAME_MAX {
        bail!("a name of {} bytes (at most {NAME_MAX})", name.len());
    }
    Ok(())
}

/// Checks what a symbolic link points to: Linux can hold any bytes but NUL, at least one and less than PATH_MAX.
///
/// # Errors
/// When Linux could not hold it.
pub fn check_symlink(target: &[u8]) -> Result<()> {
    if target.is_empty() || target.len() >= PATH_MAX || target.contains(&0) {
        bail!("a symbolic link to {} bytes (1 to {}, no NUL)", target.len(), PATH_MAX - 1);
    }
    Ok(())
}

/// The last component and those before it.
///
/// # Errors
/// When there is none: the root.
pub fn split_last<'a, 'b>(names: &'a [&'b [u8]]) -> Result<(&'b [u8], &'a [&'b [u8]])> {
    let (name, parents) = names.split_last().context("the root can only be a directory")?;
    Ok((name, parents))
}
