//! The machine spec as a file that QEMU hands to the guest: for fw_cfg, or as a config disk. See [`protocol::stored`].

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, anyhow};
use protocol::stored::{HEADER, Header};
use protocol::{MachineSpec, Stored};

use crate::disk::in_memory;
use crate::options::spec_from::SpecFrom;

/// A file in memory for this way of the spec; none for the channel.
///
/// # Errors
/// The spec is too long, its `linux.seccomp` means nothing; the system's.
pub fn file(way: SpecFrom, mut machine: MachineSpec, stdin: bool) -> Result<Option<File>> {
    crate::seccomp::lower(&mut machine)?;
    let document = serde_json::to_vec(&Stored { machine, stdin })?;
    let bytes = match way {
        SpecFrom::Channel => return Ok(None),
        SpecFrom::FwCfg => document,
        SpecFrom::Disk => disk(&document)?,
    };
    in_memory("spec", &bytes).context("cannot keep the machine spec in memory").map(Some)
}

/// A config disk: whole sectors.
fn disk(document: &[u8]) -> Result<Vec<u8>> {
    let header = Header::of(document).map_err(|why| anyhow!(why))?;
    let mut bytes = Vec::with_capacity(2 * HEADER + document.len());
    bytes.write_all(&header.bytes())?;
    bytes.write_all(document)?;
    bytes.resize(bytes.len().next_multiple_of(HEADER), 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_config_disk_is_whole_sectors() {
        for length in [0, 1, 511, 512, 513] {
            let document = vec![b'x'; length];
            let bytes = disk(&document).unwrap();
            assert_eq!(bytes.len(), 512 + length.next_multiple_of(512));
            let header = Header::read(bytes.first_chunk().unwrap()).unwrap().unwrap();
            assert!(header.tells_of(&bytes[HEADER..HEADER + header.length]));
        }
    }

    #[test]
    fn what_is_stored_is_read_as_it_was() {
        let config = serde_json::from_str(r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#);
        let Ok(config) = config else { return };
        let disks = protocol::Disks { layers: vec![], scratch: protocol::Uuid::nil(), ephemeral: false };
        let machine = MachineSpec::new(config, disks);
        let mut text = Vec::new();
        file(SpecFrom::FwCfg, machine.clone(), true).unwrap().unwrap().read_to_end(&mut text).unwrap();
        assert_eq!(
            serde_json::from_slice::<Stored>(&text).unwrap(),
            Stored { machine: machine.clone(), stdin: true }
        );
        assert!(file(SpecFrom::Channel, machine, true).unwrap().is_none());
    }
}
