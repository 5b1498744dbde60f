#![allow(clippy::cast_possible_truncation)] // the numbers in these tests are small

use super::*;
use tempfile::TempDir;

/// A package with kernel `1.0`, `built_in` built in, and a module file for each of `modules`: path, depends.
fn package(modules: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let lib = dir.path().join("lib/modules/1.0");
    fs::create_dir_all(dir.path().join("boot")).unwrap();
    fs::create_dir_all(&lib).unwrap();
    fs::write(dir.path().join("boot/vmlinuz-1.0"), bzimage(b"\x7fELF and more")).unwrap();
    fs::write(lib.join("modules.builtin"), "kernel/fs/built-in.ko\n").unwrap();
    for (path, depends) in modules {
        let path = lib.join("kernel").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, elf(depends)).unwrap();
    }
    dir
}

/// The smallest ELF object with a `.modinfo`.
fn elf(depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = vec![0u8; 64];
    elf[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let sections_at = 64 + info.len() + names.len();
    // Fields of Elf64_Ehdr: type, machine, version, section offset; header sizes and the name table's index.
    for (at, value) in
        [(16, 1u16), (18, 62), (20, 1), (40, sections_at as u16), (52, 64), (58, 64), (60, 3), (62, 2)]
    {
        elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    elf.extend_from_slice(info.as_bytes());
    elf.extend_from_slice(names);
    // Fields of Elf64_Shdr: name, type; offset, size.
    for (name, kind, offset, size) in
        [(0u32, 0u32, 0, 0), (1, 1, 64, info.len()), (10, 3, 64 + info.len(), names.len())]
    {
        elf.extend([name, kind].iter().flat_map(|field| field.to_le_bytes()));
        let rest = [0, 0, offset as u64, size as u64, 0, 1, 0];
        elf.extend(rest.iter().flat_map(|field| field.to_le_bytes()));
    }
    elf
}

/// A bzImage of one setup sector with `payload` in LZ4's legacy frame.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in payload.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        frame.extend((packed.len() as u32).to_le_bytes());
        frame.extend(packed);
    }
    frame.extend((payload.len() as u32).to_le_bytes());
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    image.extend(frame);
    image
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| module.name.as_str()).collect()
}

fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

#[test]
fn modules_come_after_what_they_need_and_once() {
    let dir = package(&[
        ("b/disk.ko", "bus-ring,bus,built_in"),
        ("b/port.ko", "bus,bus_ring"),
        ("a/bus.ko", "bus_ring"),
        ("z/bus-ring.ko", ""),
    ]);
    let tree = KernelTree::open(dir.path()).unwrap();
    assert_eq!(tree.release(), "1.0");
    let modules = tree.modules(&["disk", "port", "built-in", "disk"]).unwrap();
    assert_eq!(names(&modules), ["bus_ring", "bus", "disk", "port"]);
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let dir = package(&[
        ("top.ko", "middle"),
        ("middle.ko", "gone"),
        ("me.ko", "you"),
        ("you.ko", "me"),
        ("packed.ko.xz", ""),
    ]);
    let tree = KernelTree::open(dir.path()).unwrap();
    let gone = chain(&tree.modules(&["top"]).unwrap_err());
    assert_eq!(
        gone,
        "module top needs middle: module middle needs gone: kernel 1.0 has no module gone, neither as a file nor built in"
    );
    assert!(chain(&tree.modules(&["me"]).unwrap_err()).ends_with("module me depends on itself"));
    assert!(chain(&tree.modules(&["packed"]).unwrap_err()).contains("is compressed (xz)"));
}

#[test]
fn a_broken_module_is_an_error() {
    let dir = package(&[("m.ko", "")]);
    let file = dir.path().join("lib/modules/1.0/kernel/m.ko");
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        let module = Module { name: "m".into(), bytes: whole[..length].to_vec() };
        assert!(module.depends().is_err(), "cut to {length} bytes");
    }
}

#[test]
fn only_a_whole_signature_is_cut_off() {
    let signed = |length: u32| {
        let parts: [&[u8]; 5] = [
            b"module",
            b"SIGNATURE",
            &[0, 0, 2, 0, 0, 0, 0, 0],
            &length.to_be_bytes(),
            b"~Module signature appended~\n",
        ];
        Module { name: "m".into(), bytes: parts.concat() }
    };
    let stripped = |mut module: Module| {
        module.strip_signature();
        module.bytes
    };
    assert_eq!(stripped(signed(9)), b"module");
    assert_eq!(stripped(signed(1000)), signed(1000).bytes);
    for length in 0..signed(9).bytes.len() {
        let cut = Module { name: "m".into(), bytes: signed(9).bytes[..length].to_vec() };
        assert_eq!(stripped(cut.clone()), cut.bytes);
    }
}

#[test]
fn a_package_needs_exactly_one_kernel() {
    let dir = package(&[]);
    fs::write(dir.path().join("boot/vmlinuz-2.0"), "").unwrap();
    let error = chain(&KernelTree::open(dir.path()).unwrap_err());
    assert!(error.contains("holds 2 files vmlinuz-*"), "{error}");
    assert!(KernelTree::open(&dir.path().join("lib")).is_err());
}

#[test]
fn vmlinux_comes_out_whole() {
    let mut elf = b"\x7fELF".to_vec();
    elf.extend((0..9 << 20).map(|n: u32| (n >> 7) as u8)); // more than one block
    assert!(vmlinux(&bzimage(&elf)).unwrap() == elf);
}

#[test]
fn other_compressions_are_named() {
    let mut image = bzimage(b"\x7fELF");
    image[1024..1028].copy_from_slice(b"\x28\xb5\x2f\xfd");
    assert!(chain(&vmlinux(&image).unwrap_err()).contains("compressed with zstd"));
    assert!(chain(&vmlinux(&bzimage(b"no elf")).unwrap_err()).contains("no ELF"));
}

#[test]
fn a_damaged_kernel_is_an_error_and_no_panic() {
    let payload = [b"\x7fELF".as_slice(), &[7; 3000], b"the end"].concat();
    let image = bzimage(&payload);
    for length in 0..image.len() {
        assert!(vmlinux(&image[..length]).is_err(), "cut to {length} bytes");
    }
    for at in 0..image.len() * 8 {
        let mut flipped = image.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let _ = vmlinux(&flipped); // a flip in what is copied cannot be seen
    }
    let mut bomb = image;
    let end = bomb.len() - 4;
    bomb[end..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(chain(&vmlinux(&bomb).unwrap_err()).contains("claims to be"));
}

/// The kernel that `cargo xtask build` fetched, if it has.
#[test]
fn debians_kernel_and_its_modules() {
    let bootstrap = std::env::var_os("CONTAINERVM_BOOTSTRAP")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bootstrap"), PathBuf::from);
    let dir = bootstrap.join("kernel");
    if !dir.exists() {
        eprintln!("skipped: no kernel in {} (cargo xtask build fetches one)", dir.display());
        return;
    }
    let tree = KernelTree::open(&dir).unwrap();
    let elf = vmlinux(&fs::read(tree.vmlinuz()).unwrap()).unwrap();
    object::File::parse(&*elf).unwrap();
    let mut modules = tree.modules(&["virtio_pci", "virtio-blk", "erofs", "ext4"]).unwrap();
    let position = |name| modules.iter().position(|module| module.name == name).unwrap();
    assert!(position("virtio_ring") < position("virtio"));
    assert!(position("virtio_pci_modern_dev") < position("virtio_pci"));
    assert!(position("libcrc32c") < position("erofs"));
    for module in &mut modules {
        let signed = module.bytes.len();
        module.strip_signature();
        assert!(module.bytes.len() < signed && module.bytes.len() > signed - 2048);
        assert!(module.depends().is_ok());
    }
}
