//! A config disk, found by its first bytes on whatever bus: see [`protocol::stored`].
//!
//! Partitions are left out, as of other disks. A disk that the container can write to may begin with anything: so the host says
//! which source it is wherever it can.

use super::Source;
use crate::failure::{Context, Failure};
use protocol::Stage::Spec;
use protocol::stored::{HEADER, Header};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// All disks of a machine.
pub struct ConfigDisk {
    /// Which there are.
    list: PathBuf,
    devices: PathBuf,
}

impl Default for ConfigDisk {
    fn default() -> Self {
        Self { list: "/sys/class/block".into(), devices: "/dev".into() }
    }
}

impl Source for ConfigDisk {
    fn name(&self) -> &'static str {
        "a config disk"
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let entries = match fs::read_dir(&self.list) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            entries => entries.at(Spec, || format!("reading {}", self.list.display()))?,
        };
        let mut found = None;
        for entry in entries.flatten().filter(|entry| !entry.path().join("partition").exists()) {
            let device = self.devices.join(entry.file_name());
            let Some(document) = document(&device)? else { continue };
            if found.replace(document).is_some() {
                return Err(Failure::new(Spec, "there are several config disks, and there can be one"));
            }
        }
        Ok(found)
    }
}

/// What is on it, if it is one. One that cannot be read is none.
fn document(device: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let bad = |why: &str| Failure::new(Spec, format!("the config disk {}: {why}", device.display()));
    let Ok(disk) = File::open(device) else { return Ok(None) };
    let mut start = [0; HEADER];
    if disk.read_exact_at(&mut start, 0).is_err() {
        return Ok(None);
    }
    let Some(header) = Header::read(&start).map_err(|why| bad(&why))? else { return Ok(None) };
    let mut document = vec![0; header.length];
    let at = u64::try_from(HEADER).unwrap_or_default();
    disk.read_exact_at(&mut document, at)
        .at(Spec, || format!("reading the config disk {}", device.display()))?;
    match header.tells_of(&document) {
        true => Ok(Some(document)),
        false => Err(bad("its checksum is not that of the machine spec on it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(ConfigDisk, PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("tether-config-{name}-{}", std::process::id()));
            let disks = ConfigDisk { list: dir.join("list"), devices: dir.join("dev") };
            fs::create_dir_all(&disks.list).unwrap();
            fs::create_dir_all(&disks.devices).unwrap();
            Self(disks, dir)
        }

        fn add(&self, name: &str, bytes: &[u8]) {
            fs::create_dir_all(self.0.list.join(name)).unwrap();
            fs::write(self.0.devices.join(name), bytes).unwrap();
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.1));
        }
    }

    fn disk(document: &[u8]) -> Vec<u8> {
        [&Header::of(document).unwrap().bytes()[..], document, &[0; 512]].concat()
    }

    #[test]
    fn it_is_found_among_others() {
        let mut machine = Machine::new("found");
        machine.add("sda", &[0; 4096]);
        machine.add("sdb", b"short");
        fs::create_dir_all(machine.0.list.join("sdc")).unwrap();
        assert_eq!(machine.0.read().unwrap(), None);
        machine.add("vdb", &disk(b"{}"));
        machine.add("vdb1", &disk(b"[]"));
        fs::create_dir_all(machine.0.list.join("vdb1/partition")).unwrap();
        assert_eq!(machine.0.read().unwrap().as_deref(), Some(&b"{}"[..]));
        machine.add("vdc", &disk(b"{}"));
        assert!(machine.0.read().unwrap_err().to_string().contains("several config disks"));
    }

    #[test]
    fn a_damaged_one_is_refused() {
        let refused = |change: fn(&mut Vec<u8>), part: &str| {
            let mut machine = Machine::new("damaged");
            let mut bytes = disk(b"{\"machine\":1}");
            change(&mut bytes);
            machine.add("sda", &bytes);
            let failure = machine.0.read().unwrap_err();
            assert_eq!(failure.0.stage, Spec);
            assert!(failure.to_string().contains(part), "{failure}");
        };
        refused(|bytes| bytes[512] = b'[', "checksum");
        refused(|bytes| bytes[24] ^= 1, "checksum");
        refused(|bytes| bytes[16] = 1, "version");
        refused(|bytes| bytes[20] = 0xff, "bytes");
        refused(|bytes| bytes[22] = 0xff, "reading the config disk");
        refused(|bytes| bytes.truncate(515), "reading the config disk");
    }
}
