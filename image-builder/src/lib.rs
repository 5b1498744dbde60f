//! From OCI images to what a containerVM boots and mounts.
//!
//! - [`source`]: where images come from; [`image`]: what is read there, verified: config and layers.
//! - [`compression`]: blobs and archives, inflated.
//! - [`store`]: layers as read-only layer disks, by content, shared by all images.
//! - [`erofs`]: the filesystem on those disks, written in one pass from the layer's tar stream.
//! - [`verity`]: the hash tree behind it, by which the guest checks what it reads.
//! - [`extents`]: one disk of pieces of files: an image's layers as one, merged without a copy.
//! - [`ext4`]: the same tree as ext4, for guests without EROFS.
//! - [`disk`]: such disks, and scratch disks and volumes, read without mounting them.
//! - [`kernel`], [`initramfs`], [`iso`]: what a containerVM boots from, out of a kernel package and tether.
//! - [`testimage`]: images made from nothing, for tests and for a first run.

pub mod compression;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod ext4;
pub mod extents;
pub mod image;
pub mod initramfs;
pub mod iso;
pub mod kernel;
pub mod size;
pub mod source;
pub mod store;
pub mod tarball;
pub mod testimage;
pub mod verity;
