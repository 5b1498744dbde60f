//! One kernel module: what it depends on, and the signature behind it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

/// The last bytes of a signed module: `MODULE_SIG_STRING` in the kernel's include/linux/module_signature.h.
const SIGNATURE_MARK: &[u8] = b"~Module signature appended~\n";
/// `sizeof(struct module_signature)`: eight bytes of kind, then the signature's length, big endian.
const SIGNATURE_INFO: usize = 12;

/// A kernel module, uncompressed, ready for `init_module(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As in `/proc/modules`: underscores, no suffix.
    pub name: String,
    /// The ELF object, with its signature appended if it came with one.
    pub bytes: Vec<u8>,
}

impl Module {
    pub(super) fn read(name: &str, file: &Path) -> Result<Self> {
        let suffix = file.extension().unwrap_or_default().to_string_lossy();
        ensure!(suffix == "ko", "module {} is compressed ({suffix}): only plain .ko is read", file.display());
        let bytes = fs::read(file).with_context(|| format!("reading module {}", file.display()))?;
        Ok(Self { name: name.to_owned(), bytes })
    }

    /// The names in the `depends=` of the `.modinfo` section.
    pub(super) fn depends(&self) -> Result<Vec<String>> {
        let elf = object::File::parse(&*self.bytes).context("it is no ELF object")?;
        let info = elf.section_by_name(".modinfo").context("it has no .modinfo section")?;
        let info = info.data().context("its .modinfo section is cut short")?;
        let fields = info.split(|&byte| byte == 0);
        let depends = fields.filter_map(|field| field.strip_prefix(b"depends=")).next().unwrap_or_default();
        let depends = str::from_utf8(depends).context("its depends= is not text")?;
        Ok(depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// Cuts the appended signature off, if there is one.
    ///
    /// Checking it costs the guest 18 million instructions a module, and in our own initramfs it proves
    /// nothing: who can change the module can change `/init` beside it. A kernel without
    /// `CONFIG_MODULE_SIG_FORCE` loads the module all the same, with taint `E`. Under lockdown, as with UEFI
    /// Secure Boot, it refuses to: keep the signatures there.
    pub fn strip_signature(&mut self) {
        if let Some(length) = unsigned_length(&self.bytes) {
            self.bytes.truncate(length);
        }
    }
}

/// Where the signature begins; none when there is none, or its length makes no sense.
fn unsigned_length(bytes: &[u8]) -> Option<usize> {
    let (rest, info) = bytes.strip_suffix(SIGNATURE_MARK)?.split_last_chunk::<SIGNATURE_INFO>()?;
    let (_, length) = info.split_last_chunk::<4>()?;
    rest.len().checked_sub(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
