use super::*;
use std::process::Command;

/// Runs a program that knows the format better than we.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A kernel and an initramfs that look like nothing else.
struct Parts {
    dir: tempfile::TempDir,
}

impl Parts {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel: Vec<u8> =
            (0..5 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(dir.path().join("vmlinuz"), kernel).unwrap();
        fs::write(dir.path().join("initrd"), [1, 2, 3].repeat(100_001)).unwrap();
        Self { dir }
    }

    /// The ISO's bytes, built in a directory of that name.
    fn build(&self, below: &str) -> Result<Vec<u8>> {
        let out = self.dir.path().join(below).join("bootstrap.iso");
        fs::create_dir(out.parent().unwrap()).unwrap();
        let (kernel, initrd) = (self.dir.path().join("vmlinuz"), self.dir.path().join("initrd"));
        let iso = Iso {
            kernel: &kernel,
            initrd: &initrd,
            cmdline: "quiet panic=-1\n",
            isolinux_cfg: "APPEND @CMDLINE@\n",
        };
        iso.build(&out)?;
        let names: Vec<_> =
            fs::read_dir(out.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["bootstrap.iso"], "the working directory is gone");
        Ok(fs::read(out).unwrap())
    }
}

#[test]
fn two_paths_and_two_times_give_the_same_bytes() {
    let parts = Parts::new();
    let one = parts.build("a").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2100)); // FAT counts in two seconds
    let other = parts.build("another-name").unwrap();
    assert_eq!(one.len(), other.len());
    let differs = one.iter().zip(&other).position(|(one, other)| one != other);
    assert_eq!(differs, None, "the first byte that differs");
}

#[test]
fn both_boot_ways_hold_all_parts() {
    let parts = Parts::new();
    let length = parts.build("iso").unwrap().len();
    assert!(length < (5 << 20) + 300_003 + (1 << 20), "the kernel is on it once: {length}");
    let iso = parts.dir.path().join("iso/bootstrap.iso");
    let bytes = fs::read(&iso).unwrap();
    let listed = files(&bytes).unwrap();
    let names: Vec<_> = listed.iter().map(|(name, _)| name.as_str()).collect();
    let all = ["boot.cat", "efi.img", "initrd", "isolinux.bin", "isolinux.cfg", "ldlinux.c32", "vmlinuz"];
    assert_eq!(names, all);
    let extracted = parts.dir.path().join("extracted");
    let extract = ["-osirrox", "on", "-ecma119_map", "lowercase", "-indev"];
    run(Command::new("xorriso").args(extract).arg(&iso).args(["-extract", "/"]).arg(&extracted));
    let read = |name: &str| fs::read(extracted.join(name)).unwrap();
    let original = |name: &str| fs::read(parts.dir.path().join(name)).unwrap();
    for (name, bytes) in &listed {
        assert!(read(name) == *bytes, "{name}");
    }
    assert!(read("vmlinuz") == original("vmlinuz"));
    assert!(read("initrd") == original("initrd"));
    assert_eq!(read("isolinux.cfg"), b"APPEND quiet panic=-1\n");

    let loader = parts.dir.path().join("loader");
    let image = extracted.join("efi.img");
    run(Command::new("mcopy").arg("-i").arg(image).arg("::/EFI/BOOT/BOOTX64.EFI").arg(&loader));
    for (section, expected) in [
        (".cmdline", b"quiet panic=-1".to_vec()),
        (".initrd", original("initrd")),
        (".linux", original("vmlinuz")),
    ] {
        let dumped = parts.dir.path().join(section);
        let (dump, copy) = (format!("{section}={}", dumped.display()), parts.dir.path().join("copy"));
        run(Command::new("objcopy").arg("--dump-section").arg(dump).arg(&loader).arg(copy));
        let dumped = fs::read(&dumped).unwrap();
        assert!(dumped[..expected.len()] == expected, "{section}");
        assert!(dumped[expected.len()..].iter().all(|&byte| byte == 0), "{section}");
    }
}

#[test]
fn a_missing_part_is_named() {
    let parts = Parts::new();
    fs::remove_file(parts.dir.path().join("initrd")).unwrap();
    let error = format!("{:#}", parts.build("iso").unwrap_err());
    assert!(error.contains("initrd: No such file"), "{error}");
}

#[test]
fn a_damaged_stub_is_an_error_and_no_panic() {
    let stub = read(Path::new(STUB)).unwrap();
    let unify = |stub: &[u8]| uki::unify(stub, &[(".linux", b"kernel")], 2048);
    assert!(unify(&stub).is_ok());
    for length in 0..0x2f0 {
        assert!(unify(&stub[..length]).is_err(), "cut to {length} bytes");
    }
    for at in 0..0x300 * 8 {
        let mut flipped = stub.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let _ = unify(&flipped); // most fields are only handed on
    }
    let full = vec![(".section", b"x".as_slice()); 100];
    let error = format!("{:#}", uki::unify(&stub, &full, 512).unwrap_err());
    assert!(error.ends_with("the image's section table is full"), "{error}");
}

#[test]
fn a_damaged_iso_is_not_listed() {
    let parts = Parts::new();
    let iso = parts.build("iso").unwrap();
    for length in [0, 1, 16 * SECTOR, 16 * SECTOR + 100, 21 * SECTOR, 22 * SECTOR, iso.len() - 1_000_000] {
        assert!(files(&iso[..length]).is_err(), "cut to {length} bytes");
    }
    for at in 21 * SECTOR * 8..(21 * SECTOR + 400) * 8 {
        let mut flipped = iso[..23 * SECTOR].to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        let _ = files(&flipped);
    }
}
