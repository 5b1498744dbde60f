//! Directory contents (`erofs_dirent`): blocks of sorted entries, in each first the 12-byte heads, then the names.

use super::BLOCK_SIZE;
use super::tree::Body;

/// Size of an entry's head.
pub const HEAD: usize = 12;

/// One name in a directory.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub nid: u64,
    pub kind: u8,
}

/// The `file_type` of an entry for `body`.
pub fn kind(body: &Body) -> u8 {
    match body {
        Body::File { .. } => 1,
        Body::Dir(_) => 2,
        Body::CharDevice(..) | Body::Whiteout => 3,
        Body::BlockDevice(..) => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}

/// The directory's bytes: whole blocks, but the last one ends with its last name.
///
/// `entries` are in the order of the bytes of their names, `.` and `..` among them; the kernel's search relies on it.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        let (block, after) = rest.split_at(fitting(rest));
        encode_block(block, &mut bytes);
        rest = after;
    }
    bytes
}

/// How many of `entries` one block takes: at least 15, for names have at most 255 bytes.
fn fitting(entries: &[Entry]) -> usize {
    let ends = entries.iter().scan(0, |used, entry| {
        *used += HEAD + entry.name.len();
        Some(*used)
    });
    ends.take_while(|&used| used <= BLOCK_SIZE).count()
}

#[expect(clippy::cast_possible_truncation, reason = "offsets within a block are below 4096")]
fn encode_block(entries: &[Entry], bytes: &mut Vec<u8>) {
    let mut name_offset = HEAD * entries.len();
    for entry in entries {
        bytes.extend_from_slice(&entry.nid.to_le_bytes());
        bytes.extend_from_slice(&(name_offset as u16).to_le_bytes());
        bytes.extend_from_slice(&[entry.kind, 0]);
        name_offset += entry.name.len();
    }
    entries.iter().for_each(|entry| bytes.extend_from_slice(entry.name));
}
