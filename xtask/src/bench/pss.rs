//! The host's memory that a VM has: its proportional set size, in which what several share is counted in parts.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::figures::to_float;

/// The guest's memory, in KiB: the size of one mapping of QEMU's.
const GUEST: f64 = 262_144.0;

/// MiB of the QEMU that is called `name`, and of its guest's memory.
///
/// # Errors
/// There is none, or it cannot be looked into.
pub fn of(name: &str) -> Result<[f64; 2]> {
    let (process, guest) = proportional(&mappings(name)?)?;
    Ok([process / 1024.0, guest / 1024.0])
}

/// What the kernel says of the memory of the QEMU that is called so.
fn mappings(name: &str) -> Result<String> {
    let wanted = format!("guest={name}");
    for process in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            let path = process.path().join("smaps");
            return fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
        }
    }
    bail!("no QEMU is called {name}")
}

/// KiB of a process, and of the guest's memory in it, where shared pages are counted in parts (Documentation/filesystems/proc.rst).
fn proportional(smaps: &str) -> Result<(f64, f64)> {
    let (mut all, mut guest, mut size) = (0.0, 0.0, 0.0);
    for line in smaps.lines() {
        if let Some(kib) = kib(line, "Size:") {
            size = kib;
        }
        if let Some(kib) = kib(line, "Pss:") {
            all += kib;
            guest += if (size - GUEST).abs() < 1.0 { kib } else { 0.0 };
        }
    }
    ensure!(all > 0.0, "nothing in smaps");
    Ok((all, guest))
}

/// A line `NAME:  NUMBER kB`.
fn kib(line: &str, name: &str) -> Option<f64> {
    line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok().map(to_float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_the_mapping_of_its_size() {
        let mapping =
            |size, pss| format!("5-7 rw-p 0 00:00 0\nSize: {size} kB\nPss:   {pss} kB\nPss_Dirty: 7 kB\n");
        let text = mapping(262_144, 2048) + &mapping(4, 12) + &mapping(262_140, 100);
        let (all, guest) = proportional(&text).unwrap();
        assert!((all - 2160.0).abs() < 0.1 && (guest - 2048.0).abs() < 0.1, "{all} {guest}");
        assert!(proportional("").is_err());
    }
}
