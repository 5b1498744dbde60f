//! Random identifiers, from the kernel.

use std::fs::File;
use std::io::{Read, Result};

/// `N` random bytes.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A container's ID: 32 random bytes in hex, as docker has them.
///
/// # Errors
/// As [`bytes`].
pub fn id() -> Result<String> {
    Ok(bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
