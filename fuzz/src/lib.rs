//! What the fuzz targets share: the checks of a channel's end, a disk in memory, and mutations that keep a format's
//! checksums and lengths right, without which nearly all damage would end at the first check.

pub mod channel;
pub mod disk;
pub mod tarball;
