//! A bzImage to the kernel in it.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;

fuzz_target!(|bzimage: &[u8]| {
    if let Ok(elf) = image_builder::kernel::vmlinux(bzimage) {
        assert!(elf.starts_with(b"\x7fELF"));
    }
});
