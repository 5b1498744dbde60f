//! The bill of materials of a boot ISO: CycloneDX 1.5, <https://cyclonedx.org/docs/1.5/json/>.
//!
//! Promises: it names the kernel, every crate in tether, and each program of others on the ISO, with version and licence;
//! the same ISO made of the same packages gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use image_builder::digest::Digest;
use image_builder::{initramfs, iso};
use serde_json::{Value, json};

use crate::iso::Edition;
use crate::own_kernel;
use crate::process::{command, output_of};
use crate::tools::MUSL;
use crate::workspace::Workspace;

/// Debian's packages with programs on the ISO: the file there, the package, its licence.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("isolinux.bin", "isolinux", "GPL-2.0-or-later"),
    ("ldlinux.c32", "syslinux-common", "GPL-2.0-or-later"),
    ("efi.img", "systemd-boot-efi", "LGPL-2.1-or-later"),
];

/// That of this ISO.
///
/// # Errors
/// It is no ISO of ours, or a tool that knows the versions fails.
pub fn of(workspace: &Workspace, edition: Edition, bytes: &[u8]) -> Result<Value> {
    let files = iso::files(bytes)?;
    let file = |wanted: &str| {
        let found = files.iter().find(|(name, _)| name == wanted);
        found.map(|(_, bytes)| *bytes).with_context(|| format!("the ISO has no {wanted}"))
    };
    let mut components = vec![kernel(workspace, edition, file("vmlinuz")?)?, tether_of(file("initrd")?)?];
    for (name, package, licence) in PROGRAMS {
        let version = output_of(command("dpkg-query").args(["-W", "-f", "${Version}", package]))?;
        components.push(json!({
            "type": "application", "bom-ref": package, "name": package, "version": version,
            "licenses": [{"license": {"id": licence}}], "purl": format!("pkg:deb/debian/{package}@{version}"),
            "properties": [{"name": "containervm:file", "value": format!("/{name}")}],
        }));
    }
    components.extend(crates(workspace)?);
    let refs: Vec<_> = components.iter().filter_map(|one| one["bom-ref"].as_str()).collect();
    let (of_tether, whole): (Vec<&str>, _) =
        refs.into_iter().partition(|one| one.starts_with("crate:") || ["musl", "std"].contains(one));
    let digest = Digest::of(bytes).hex();
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "serialNumber": urn(&digest),
        "metadata": {"component": {
            "type": "operating-system", "bom-ref": "bootstrap.iso", "name": "bootstrap.iso",
            "version": env!("CARGO_PKG_VERSION"), "hashes": hashes(&digest),
        }},
        "dependencies": [
            {"ref": "bootstrap.iso", "dependsOn": whole}, {"ref": "tether", "dependsOn": of_tether},
        ],
        "components": components,
    }))
}

fn hashes(sha256: &str) -> Value {
    json!([{"alg": "SHA-256", "content": sha256}])
}

/// A UUID of a digest (RFC 9562, version 8).
fn urn(digest: &str) -> String {
    let [a, b, c, d, e] = [&digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32]];
    format!("urn:uuid:{a}-{b}-8{c}-8{d}-{e}")
}

fn kernel(workspace: &Workspace, edition: Edition, image: &[u8]) -> Result<Value> {
    let banner = banner(image).context("the kernel does not say its version")?;
    let mut kernel = json!({
        "type": "operating-system", "bom-ref": "linux", "name": "linux",
        "version": banner.split(' ').next(), "description": banner,
        "licenses": [{"expression": "GPL-2.0-only WITH Linux-syscall-note"}],
        "hashes": hashes(&Digest::of(image).hex()),
    });
    if edition == Edition::Own {
        let version = own_kernel::source_version()?;
        kernel["purl"] = format!("pkg:deb/debian/{}@{version}?arch=all", own_kernel::PACKAGE).into();
        kernel["pedigree"] = pedigree(&own_kernel::patches(workspace)?);
    }
    Ok(kernel)
}

/// What is changed of the package that is named.
fn pedigree(patches: &BTreeMap<String, String>) -> Value {
    let patch = |text| json!({"type": "unofficial", "diff": {"text": {"content": text}}});
    json!({"patches": patches.values().map(patch).collect::<Vec<_>>()})
}

/// What a bzImage says of itself (Documentation/arch/x86/boot.rst, `kernel_version`).
fn banner(image: &[u8]) -> Option<String> {
    const POINTER: usize = 0x20e;
    const BASE: usize = 0x200;
    let pointer = u16::from_le_bytes([*image.get(POINTER)?, *image.get(POINTER + 1)?]);
    let text = image.get(BASE + usize::from(pointer)..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn tether_of(initrd: &[u8]) -> Result<Value> {
    let files = initramfs::files(initrd)?;
    let (_, tether) = files.iter().find(|(name, _)| name == "init").context("the initramfs has no init")?;
    Ok(json!({
        "type": "application", "bom-ref": "tether", "name": "tether", "version": env!("CARGO_PKG_VERSION"),
        "licenses": [{"expression": env!("CARGO_PKG_LICENSE")}], "hashes": hashes(&Digest::of(tether).hex()),
    }))
}

/// What is linked into tether: its crates, as cargo builds them, and what comes with the compiler.
fn crates(workspace: &Workspace) -> Result<Vec<Value>> {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&workspace.root).args(["tree", "--locked", "--package", "tether", "--target", MUSL]);
    // Neither those for building nor those for tests, with what else this workspace wants of them.
    cargo.args([
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p}\t{l}",
    ]);
    let listed = output_of(&mut cargo)?;
    let linked: BTreeSet<_> = listed.lines().filter(|line| !line.starts_with("tether ")).collect();
    let mut components = linked.into_iter().map(library).collect::<Result<Vec<_>>>()?;
    let rustc = output_of(command(std::env::var_os("RUSTC").unwrap_or("rustc".into())).arg("-V"))?;
    let version = rustc.split(' ').nth(1).unwrap_or_default();
    // What the target's std is linked with.
    components.push(
        json!({"type": "library", "bom-ref": "musl", "name": "musl", "licenses": [{"expression": "MIT"}]}),
    );
    components.push(json!({
        "type": "library", "bom-ref": "std", "name": "std", "version": version,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }));
    Ok(components)
}

/// A crate, as `cargo tree` lists it: name, version, folder if it is none of the registry's; licence.
fn library(line: &str) -> Result<Value> {
    let (package, licence) = line.split_once('\t').with_context(|| format!("cargo tree says {line:?}"))?;
    let mut words = package.splitn(3, ' ');
    let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let version = version.trim_start_matches('v');
    let mut library = json!({
        "type": "library", "bom-ref": format!("crate:{name}@{version}"), "name": name, "version": version,
        "licenses": [{"expression": licence}],
    });
    if words.next().is_none() {
        library["purl"] = format!("pkg:cargo/{name}@{version}").into();
    }
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_named_whole() {
        let patches = own_kernel::patches(&Workspace::find().unwrap()).unwrap();
        let pedigree = pedigree(&patches);
        let listed = pedigree["patches"].as_array().unwrap();
        assert_eq!(listed.len(), patches.len());
        assert_eq!(listed[0]["diff"]["text"]["content"], *patches.values().next().unwrap());
        assert!(patches.iter().all(|(name, text)| name.ends_with(".patch") && text.contains("SPDX-License")));
    }

    #[test]
    fn a_kernel_says_its_version() {
        let mut image = vec![0; 0x1000];
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x30c].copy_from_slice(b"6.1.0 (x) #1");
        assert_eq!(banner(&image).as_deref(), Some("6.1.0 (x) #1"));
        assert_eq!(banner(&image[..0x20f]), None);
        assert_eq!(banner(&image[..0x300]).as_deref(), Some(""));
    }

    #[test]
    fn tether_is_of_few_crates() {
        let crates = crates(&Workspace::find().unwrap()).unwrap();
        let names: Vec<_> = crates.iter().filter_map(|one| one["name"].as_str()).collect();
        for name in ["protocol", "nix", "serde", "std"] {
            assert!(names.contains(&name), "{names:?}");
        }
        // rustix wants errno for others here, and serde_derive runs in the compiler.
        for name in ["clap", "errno", "serde_derive", "tether"] {
            assert!(!names.contains(&name), "{names:?}");
        }
        assert!(names.len() < 40, "{names:?}");
        let licensed = |one: &Value| one["licenses"][0]["expression"].is_string();
        assert!(crates.iter().all(licensed), "{crates:?}");
    }

    #[test]
    fn a_crate_of_ours_is_none_of_the_registrys() {
        let theirs = library("nix v0.31.3\tMIT").unwrap();
        assert_eq!(theirs["purl"], "pkg:cargo/nix@0.31.3");
        assert_eq!(
            (&theirs["version"], &theirs["licenses"][0]["expression"]),
            (&json!("0.31.3"), &json!("MIT"))
        );
        let ours = library("protocol v0.1.0 (/a folder/protocol)\tApache-2.0 OR MIT").unwrap();
        assert_eq!((&ours["name"], &ours["purl"]), (&json!("protocol"), &Value::Null));
        assert!(library("error").is_err());
    }

    #[test]
    fn a_digest_makes_a_uuid() {
        let digest = Digest::of(b"x").hex();
        let urn = urn(&digest);
        assert_eq!(urn.len(), "urn:uuid:".len() + 36);
        assert_eq!(urn.chars().filter(|letter| *letter == '-').count(), 4);
    }
}
