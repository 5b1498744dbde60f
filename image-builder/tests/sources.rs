//! One image in every form that skopeo writes: the same diffIDs, and the same layer disks bit for bit.

use std::fs;
use std::path::Path;
use std::process::Command;

use image_builder::image::Image;
use image_builder::source::{self, Options};
use image_builder::store::LayerStore;
use image_builder::testimage::{self, Tar};

/// False, and a line that says why, when there is no skopeo.
fn has_skopeo() -> bool {
    let found = Command::new("skopeo").arg("--version").output().is_ok();
    if !found {
        println!("skipped: skopeo is not installed");
    }
    found
}

fn skopeo(dir: &Path, arguments: &[&str]) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `origin`: an image of three layers, one of them twice.
fn image(dir: &Path) -> Vec<Vec<u8>> {
    let big: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    let first = Tar::new().dir("etc", 0o755).file("etc/motd", 0o644, b"hello\n").file("big", 0o4755, &big);
    let (first, second) = (first.finish(), Tar::new().whiteout("etc/motd").symlink("s", "big").finish());
    let layers = vec![first.clone(), second, first];
    testimage::write(&dir.join("origin"), &layers, Default::default()).unwrap();
    layers
}

fn open(dir: &Path, reference: &str) -> Image {
    let (transport, name) = reference.split_once(' ').unwrap_or(("", reference));
    let options = Options { spool: Some(dir.join("spool")), ..Options::default() };
    source::open(&format!("{transport}{}/{name}", dir.display()), &options).unwrap()
}

/// The disks that a new store makes of `image`.
fn disks(image: &Image) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let disk = |layer| fs::read(store.layer_disk(layer, &mut |_, _| {}).unwrap().path).unwrap();
    image.layers.iter().map(disk).collect()
}

#[test]
fn every_form_gives_the_same_disks() {
    if !has_skopeo() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    image(dir);
    let origin = open(dir, "origin");
    let expected = disks(&origin);
    let compress = |format| ["--dest-compress", "--dest-compress-format", format, "oci:origin"];
    for (options, to) in [
        (&["oci:origin"][..], "oci-archive:oci.tar:alpine:3.20"),
        (&["oci:origin"], "docker-archive:docker.tar:docker.io/library/alpine:3.20"),
        (&compress("gzip"), "oci:gzip:t"),
        (&compress("zstd"), "oci:zstd:t"),
        (&compress("zstd:chunked"), "oci:chunked:t"),
        (&compress("zstd"), "oci-archive:zstd.tar:t"),
    ] {
        skopeo(dir, &[options, &[to]].concat());
    }
    for tool in [testimage::gzip, |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap()] {
        for name in ["oci.tar", "docker.tar"] {
            let packed = tool(&fs::read(dir.join(name)).unwrap());
            fs::write(dir.join(format!("{name}.{:02x}", packed[0])), packed).unwrap();
        }
    }
    for reference in [
        "oci.tar",
        "oci-archive: oci.tar:alpine:3.20",
        "docker.tar",
        "docker.tar:alpine:3.20",
        "docker-archive: docker.tar:docker.io/library/alpine:3.20",
        "oci: gzip:t",
        "zstd:t",
        "chunked:t",
        "zstd.tar",
        "oci.tar.1f",
        "docker.tar.1f",
        "oci.tar.28",
        "docker.tar.28",
    ] {
        let image = open(dir, reference);
        assert_eq!(image.id(), origin.id(), "{reference}");
        assert!(disks(&image) == expected, "{reference}");
    }
}

/// The program, with an archive on its standard input: from a file, from a pipe, and compressed.
#[test]
fn an_archive_on_standard_input() {
    if !has_skopeo() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    image(dir);
    skopeo(dir, &["oci:origin", "docker-archive:docker.tar:x:1"]);
    let run = |shell: &str| {
        let output = Command::new("sh")
            .args(["-c", shell])
            .env("BUILD", env!("CARGO_BIN_EXE_image-builder"))
            .env("CONTAINERVM_STORE", dir.join("store"))
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = run("$BUILD build ./docker.tar");
    assert_eq!(expected.lines().count(), 3);
    for shell in [
        "$BUILD build - < docker.tar",
        "cat docker.tar | $BUILD build /dev/stdin:x:1",
        "gzip -c docker.tar | $BUILD build -",
        "mkfifo f; cat docker.tar > f & $BUILD build ./f",
    ] {
        assert_eq!(run(shell), expected, "{shell}");
    }
    let id = open(dir, "origin").id();
    skopeo(dir, &["oci:origin", "oci-archive:oci.tar:y:2"]);
    for (shell, printed) in [
        ("cat docker.tar | $BUILD load", "docker.io/library/x:1\n"),
        ("$BUILD load -i oci.tar", "docker.io/library/y:2\n"),
        ("$BUILD load --json < docker.tar | grep -o '\"names.*]'", "\"names\":[\"docker.io/library/x:1\"]\n"),
        ("$BUILD inspect x:1 | grep -o 'sha256:[0-9a-f]*' | head -n1", &format!("{id}\n")),
        ("$BUILD load -i ./origin", &format!("{id}\n")),
    ] {
        assert_eq!(run(shell), printed, "{shell}");
    }
    let left: Vec<_> = fs::read_dir(dir.join("store")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}
