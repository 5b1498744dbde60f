//! A bzImage to the kernel in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bzimage: &[u8]| {
    if let Ok(elf) = image_builder::kernel::vmlinux(bzimage) {
        assert!(elf.starts_with(b"\x7fELF"));
    }
});
