//! QEMU's fw_cfg (docs/specs/fw_cfg.rst): `-fw_cfg name=opt/org.containervm/spec,file=...`.

use super::Source;
use crate::failure::{Context, Failure};
use crate::modules;
use protocol::Stage::Spec;
use protocol::stored::MOST_STORED;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Where the kernel shows it (Documentation/ABI/testing/sysfs-firmware-qemu_fw_cfg).
const FILE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.containervm/spec/raw";
/// The device, as ACPI has it. Where there is no ACPI, the kernel's command line tells of it.
const DEVICE: &str = "/sys/bus/acpi/devices/QEMU0002:00";

/// The file.
pub struct FwCfg {
    path: PathBuf,
}

impl FwCfg {
    /// This machine's, with the driver where there is a device.
    pub fn of_this_machine() -> Result<Self, Failure> {
        if Path::new(DEVICE).exists() {
            modules::load_fw_cfg()?;
        }
        Ok(Self { path: FILE.into() })
    }
}

impl Source for FwCfg {
    fn name(&self) -> &'static str {
        "fw_cfg's opt/org.containervm/spec"
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let reading = || format!("reading {}", self.path.display());
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.at(Spec, reading)?,
        };
        let mut document = Vec::new();
        let most = u64::try_from(MOST_STORED).unwrap_or(u64::MAX);
        let length = file.take(most.saturating_add(1)).read_to_end(&mut document).at(Spec, reading)?;
        if length > MOST_STORED {
            return Err(Failure::new(Spec, format!("{} has more than {MOST_STORED} bytes", self.name())));
        }
        Ok(Some(document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_file_of_bounded_length_or_none() {
        let path = std::env::temp_dir().join(format!("tether-fw-cfg-{}", std::process::id()));
        let mut source = FwCfg { path: path.clone() };
        assert_eq!(source.read().unwrap(), None);
        std::fs::write(&path, b"{}").unwrap();
        assert_eq!(source.read().unwrap().as_deref(), Some(&b"{}"[..]));
        File::create(&path).unwrap().set_len(MOST_STORED as u64 + 1).unwrap();
        assert!(source.read().unwrap_err().to_string().contains("16777216 bytes"));
        std::fs::remove_file(&path).unwrap();
    }
}
