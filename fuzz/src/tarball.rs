//! Mutations that leave a tar stream's checksums right.

const BLOCK: usize = 512;

/// Sets the checksum of each header block, going from one to the next as a reader does.
pub fn repair(tar: &mut [u8]) {
    let mut rest = tar;
    while let Some((block, after)) = rest.split_at_mut_checked(BLOCK) {
        rest = after;
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let kind = block[156];
        let mut extended = kind == b'S' && block[482] != 0;
        while extended {
            extended = rest.get(BLOCK - 8).is_some_and(|&byte| byte != 0);
            rest = rest.get_mut(BLOCK..).unwrap_or_default();
        }
        if !(b'1'..=b'6').contains(&kind) {
            let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
            rest = rest.get_mut(size.div_ceil(BLOCK).saturating_mul(BLOCK)..).unwrap_or_default();
        }
    }
}
