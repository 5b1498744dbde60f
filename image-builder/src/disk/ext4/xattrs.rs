//! Extended attributes: behind the inode's fields, and in one block more.

use anyhow::{Context, Result};
use mkext4::spec::{XattrBlockView, ibody_entries};

use super::Ext4;
use crate::tarball::Xattr;

impl Ext4 {
    pub(super) fn read_xattrs(&self, number: u64) -> Result<Vec<Xattr>> {
        let raw = self.read_raw(number)?;
        let mut entries = ibody_entries(&raw.bytes, raw.inode.extra_isize)?;
        if raw.inode.file_acl != 0 {
            entries.extend(XattrBlockView::parse(&self.block(raw.inode.file_acl)?)?.entries);
        }
        let xattr = |entry: mkext4::spec::XattrEntry| {
            let name = entry.full_name().context("of a namespace that Linux does not have")?;
            Ok(Xattr { name, value: entry.value })
        };
        let mut xattrs: Vec<Xattr> = entries.into_iter().map(xattr).collect::<Result<_>>()?;
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(xattrs)
    }
}
