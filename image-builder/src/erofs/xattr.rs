//! Extended attributes in their on-disk form (`erofs_xattr_ibody_header`, `erofs_xattr_entry`).

use anyhow::{Context, Result, bail};

use super::tree::Body;
use crate::tarball::{Xattr, quoted};

/// Size of the header before an inode's entries: a name filter (unused), the count of shared entries (none), padding.
const HEADER: usize = 12;

/// Most bytes of entries one inode can have: `i_xattr_icount` counts them in 16 bits, in units of four.
const MAX_ENTRIES: usize = 4 * (u16::MAX as usize - 1);

const USER: u8 = 1;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const TRUSTED: u8 = 4;
const SECURITY: u8 = 6;

/// Namespaces with their `e_name_index`, longest first. Linux has no others.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_default", ACL_DEFAULT),
    (b"system.posix_acl_access", ACL_ACCESS),
    (b"security.", SECURITY),
    (b"trusted.", TRUSTED),
    (b"user.", USER),
];

/// The entries for those of `xattrs` that Linux would let `body` have, one after another. What setxattr(2) refuses is left
/// out, as by `tar -x`: namespaces that it does not know (containerd and umoci leave these out, too), `user.` on anything
/// but files and directories (xattr(7)), ACLs where there can be none; a symlink that lists an attribute which it does not
/// then give cannot be copied up by overlayfs. So is overlayfs's own `trusted.overlay.`.
///
/// # Errors
/// More or larger attributes than EROFS can hold.
pub fn encode_all(xattrs: &[Xattr], body: &Body) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    for xattr in xattrs.iter().filter(|x| !x.name.starts_with(b"trusted.overlay.")) {
        if let Some((index, name)) = split(&xattr.name)
            && may_have(body, index)
        {
            check_length(&xattr.name)
                .and_then(|()| encode(index, name, &xattr.value, &mut entries))
                .with_context(|| format!("xattr {}", quoted(&xattr.name)))?;
        }
    }
    Ok(entries)
}

/// Linux's XATTR_NAME_MAX counts the namespace, EROFS does not.
fn check_length(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        bail!("a name of {} bytes (at most 255)", name.len());
    }
    Ok(())
}

fn may_have(body: &Body, index: u8) -> bool {
    match index {
        USER => matches!(body, Body::File { .. } | Body::Dir(_)),
        ACL_ACCESS => !matches!(body, Body::Symlink(_)),
        ACL_DEFAULT => matches!(body, Body::Dir(_)),
        _ => true,
    }
}

/// overlayfs's mark for a directory that hides what is below it.
pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Our mark for a directory that its layer only implies.
pub const IMPLIED: &[u8] = b"trusted.overlay.containervm.implied";

/// A directory's marks, see [`super::layer`].
pub struct Marks {
    /// [`OPAQUE`].
    pub opaque: bool,
    /// `trusted.overlay.origin`.
    pub whiteouts: bool,
    /// [`IMPLIED`].
    pub implied: bool,
}

impl Marks {
    /// Appends them to the directory's entries.
    ///
    /// # Errors
    /// As [`encode_all`].
    pub fn encode(&self, entries: &mut Vec<u8>) -> Result<()> {
        let table: [(bool, &[u8], &[u8]); 3] = [
            (self.opaque, OPAQUE, b"y"),
            (self.whiteouts, b"trusted.overlay.origin", b""),
            (self.implied, IMPLIED, b""),
        ];
        for (_, name, value) in table.iter().filter(|(set, ..)| *set) {
            let (index, name) = split(name).context("a name with a namespace")?;
            encode(index, name, value, entries)?;
        }
        Ok(())
    }
}

/// What stands between inode and tail for `entries`: nothing, or the header and them.
pub fn with_header(entries: &[u8]) -> Vec<u8> {
    if entries.is_empty() { Vec::new() } else { [&[0; HEADER], entries].concat() }
}

/// The inode's `i_xattr_icount` for `length` bytes of header and entries.
pub fn icount(length: usize) -> Result<u16> {
    Ok(if length == 0 { 0 } else { u16::try_from((length - HEADER) / 4 + 1)? })
}

/// The length of header and entries that `icount` stands for: [`icount`]'s inverse.
pub fn length(icount: u16) -> usize {
    if icount == 0 { 0 } else { HEADER + 4 * (usize::from(icount) - 1) }
}

/// The attributes in `bytes`, header and entries as [`with_header`] gives them.
///
/// # Errors
/// Shared attributes or other namespaces, which we never write; entries that pass the end.
pub fn decode(bytes: &[u8]) -> Result<Vec<Xattr>> {
    let (header, mut rest) = bytes.split_at_checked(HEADER).context("cut off")?;
    if header.iter().any(|&byte| byte != 0) {
        bail!("a header that this program does not write");
    }
    let mut xattrs = Vec::new();
    while let Some((&[name, index, low, high], entry)) = rest.split_first_chunk() {
        let (name, value) = (usize::from(name), usize::from(u16::from_le_bytes([low, high])));
        let prefix = PREFIXES.iter().find(|prefix| prefix.1 == index);
        let (prefix, _) = prefix.with_context(|| format!("namespace {index}"))?;
        let bytes = entry.get(..name + value).context("an entry that passes the end")?;
        let (name, value) = bytes.split_at(name);
        xattrs.push(Xattr { name: [prefix, name].concat(), value: value.to_vec() });
        rest = entry.get(bytes.len().next_multiple_of(4)..).context("an entry that passes the end")?;
    }
    Ok(xattrs)
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|&(prefix, index)| {
        let rest = name.strip_prefix(prefix)?;
        // An ACL's name is the whole prefix; elsewhere, something follows it.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((index, rest))
    })
}

fn encode(index: u8, name: &[u8], value: &[u8], entries: &mut Vec<u8>) -> Result<()> {
    if name.contains(&0) {
        bail!("a NUL in its name");
    }
    let name_length = u8::try_from(name.len())?;
    let value_length = u16::try_from(value.len()).context("a value of more than 65,535 bytes")?;
    entries.extend_from_slice(&[name_length, index]);
    entries.extend_from_slice(&value_length.to_le_bytes());
    entries.extend_from_slice(name);
    entries.extend_from_slice(value);
    entries.resize(entries.len().next_multiple_of(4), 0);
    if entries.len() > MAX_ENTRIES {
        bail!("the file's xattrs pass {MAX_ENTRIES} bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        assert_eq!(split(b"user.a.b"), Some((1, &b"a.b"[..])));
        assert_eq!(split(b"security.capability"), Some((6, &b"capability"[..])));
        assert_eq!(split(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(split(b"system.posix_acl_default"), Some((3, &b""[..])));
        for none in [&b"user."[..], b"user", b"com.apple.provenance", b"system.posix_acl_access.x", b""] {
            assert_eq!(split(none), None, "{}", none.escape_ascii());
        }
    }

    #[test]
    fn what_linux_would_not_hold_is_left_out() {
        let file = || Body::File { block: 0, size: 0 };
        let encoded = |name: &[u8], body| {
            encode_all(&[Xattr { name: name.to_vec(), value: b"y".to_vec() }], &body).unwrap()
        };
        assert_eq!(encoded(b"user.a", file()), b"\x01\x01\x01\0ay\0\0");
        let link = || Body::Symlink((*b"x").into());
        for (name, body) in [
            (&b"trusted.overlay.redirect"[..], file()),
            (b"com.apple.provenance", file()),
            (b"user.a", link()),
            (b"user.a", Body::Fifo),
            (b"system.posix_acl_access", link()),
            (b"system.posix_acl_default", file()),
        ] {
            assert!(encoded(name, body).is_empty(), "{}", name.escape_ascii());
        }
        for (name, body) in [
            (&b"trusted.a"[..], link()),
            (b"security.a", Body::Fifo),
            (b"system.posix_acl_access", Body::Fifo),
        ] {
            assert!(!encoded(name, body).is_empty(), "{}", name.escape_ascii());
        }
    }
}
