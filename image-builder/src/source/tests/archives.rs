//! Archives whole and broken, as docker, skopeo and nobody writes them.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Value, json};
use tar::EntryType;
use tempfile::TempDir;

use crate::digest::Digest;
use crate::image::Image;
use crate::source::{Options, open, open_all};
use crate::testimage::{Tar, gzip};

/// A folder with an archive in it.
struct Saved {
    dir: TempDir,
}

impl Saved {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.tar"), bytes).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("x.tar")
    }

    fn open(&self, transport: &str, selector: &str) -> anyhow::Result<Image> {
        let spool = Some(self.dir.path().join("spool"));
        let reference = format!("{transport}{}{selector}", self.path().display());
        open(&reference, &Options { spool, max_size: 8 << 20, ..Options::default() })
    }

    fn error(&self, selector: &str) -> String {
        format!("{:#}", self.open("", selector).expect_err("must be refused"))
    }
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
}

fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

fn file(tar: Tar, path: &str, data: &[u8]) -> Tar {
    tar.file(path, 0o644, data)
}

/// `manifest.json` of images, each of a config's name, names and layers' names.
fn manifest(images: &[(&str, &[&str], &[&str])]) -> Value {
    images
        .iter()
        .map(|(config, tags, layers)| json!({ "Config": config, "RepoTags": tags, "Layers": layers }))
        .collect()
}

/// Each layer's diffID must be that of what its blob unpacks to.
fn verify(image: &Image, layers: &[&[u8]]) {
    assert_eq!(image.layers.len(), layers.len());
    for (layer, expected) in image.layers.iter().zip(layers) {
        let blob = std::io::BufReader::new(layer.blob.open().unwrap());
        let mut tar = Vec::new();
        crate::compression::decompress(blob).unwrap().1.read_to_end(&mut tar).unwrap();
        assert!(tar == *expected && layer.diff_id == Digest::of(&tar));
    }
}

/// As docker before 25 has it: a folder a layer, and a link where a layer comes again.
fn old(
    link: fn(Tar, &str, &str) -> Tar,
    prefix: &str,
    pack: fn(&[u8]) -> Vec<u8>,
) -> (Vec<u8>, [Vec<u8>; 2]) {
    let layers = [Tar::new().file("a", 0o644, b"a").finish(), Tar::new().whiteout("a").finish()];
    let config = config(&[&layers[0], &layers[1], &layers[0]]);
    let name = format!("{}.json", hex(config.as_bytes()));
    let mut tar = Tar::new();
    for (id, layer) in [("1111", &layers[0]), ("2222", &layers[1])] {
        tar = tar.dir(&format!("{prefix}{id}/"), 0o755);
        tar = file(tar, &format!("{prefix}{id}/VERSION"), b"1.0");
        tar = file(tar, &format!("{prefix}{id}/json"), b"{}");
        tar = file(tar, &format!("{prefix}{id}/layer.tar"), &pack(layer));
    }
    tar = link(tar, &format!("{prefix}3333/layer.tar"), "1111/layer.tar");
    tar = file(tar, &format!("{prefix}{name}"), config.as_bytes());
    let manifest = manifest(&[(
        &name,
        &["alpine:3.20", "host:5000/x:1"],
        &["1111/layer.tar", "2222/layer.tar", "3333/layer.tar"],
    )]);
    tar = file(tar, &format!("{prefix}manifest.json"), manifest.to_string().as_bytes());
    (file(tar, &format!("{prefix}repositories"), b"{}").finish(), layers)
}

#[test]
fn docker_save_of_every_age() {
    let symlink = |tar: Tar, path: &str, target: &str| tar.symlink(path, &format!("../{target}"));
    let hard_link = |tar: Tar, path: &str, target: &str| tar.hard_link(path, target);
    for (link, prefix, pack) in [
        (symlink as fn(Tar, &str, &str) -> Tar, "", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>),
        (hard_link, "", gzip),
        (symlink, "./", |layer| zstd::encode_all(layer, 3).unwrap()),
    ] {
        let (tar, layers) = old(link, prefix, pack);
        for bytes in [tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
            let saved = Saved::new(&bytes);
            for selector in ["", ":alpine:3.20", ":3.20", ":docker.io/library/alpine:3.20", ":host:5000/x:1"]
            {
                let image = saved.open("", selector).unwrap();
                verify(&image, &[&layers[0], &layers[1], &layers[0]]);
                assert_eq!(image.manifest_digest, None);
                saved.open("", &format!("@{}", image.id())).unwrap();
            }
            saved.open("docker-archive:", ":alpine:3.20").unwrap();
            let error = format!("{:#}", saved.open("oci-archive:", "").unwrap_err());
            assert!(error.contains("there is no oci-layout in it"), "{error}");
            assert!(saved.error(":alpine:3.19").contains("there are: alpine:3.20, host:5000/x:1"));
        }
    }
}

/// An OCI layout that has a `manifest.json` as well, as docker 25 writes it.
fn new(name: &str) -> (Vec<u8>, Vec<u8>) {
    let layer = Tar::new().file("a", 0o644, b"a").finish();
    let dir = tempfile::tempdir().unwrap();
    crate::testimage::write(dir.path(), std::slice::from_ref(&layer), Default::default()).unwrap();
    let mut tar = Tar::new().dir("blobs/", 0o755).dir("blobs/sha256/", 0o755);
    let mut config_name = String::new();
    for blob in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(blob.path()).unwrap();
        let path = format!("blobs/sha256/{}", blob.file_name().to_str().unwrap());
        if bytes.starts_with(b"{\"architecture") {
            config_name = path.clone();
        }
        tar = file(tar, &path, &bytes);
    }
    let mut index: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["annotations"] = json!({ "io.containerd.image.name": format!("docker.io/library/{name}"),
        "org.opencontainers.image.ref.name": name.split(':').nth(1) });
    tar = file(tar, "index.json", index.to_string().as_bytes());
    let blob = format!("blobs/sha256/{}", hex(&gzip(&layer)));
    tar = file(tar, "manifest.json", manifest(&[(&config_name, &[name], &[&blob])]).to_string().as_bytes());
    (file(tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).finish(), layer)
}

#[test]
fn an_archive_that_is_both_is_read_as_oci_unless_asked_otherwise() {
    let (tar, layer) = new("alpine:3.20");
    let saved = Saved::new(&tar);
    for (transport, has_manifest) in [("", true), ("oci-archive:", true), ("docker-archive:", false)] {
        for selector in ["", ":3.20", ":alpine:3.20", ":docker.io/library/alpine:3.20"] {
            let image =
                saved.open(transport, selector).unwrap_or_else(|e| panic!("{transport}{selector}: {e:#}"));
            verify(&image, &[&layer]);
            assert_eq!(image.manifest_digest.is_some(), has_manifest, "{transport}");
        }
    }
    assert!(
        saved.error(":alpine").contains("\"docker.io/library/alpine:3.20\""),
        "{}",
        saved.error(":alpine")
    );
}

#[test]
fn several_images_are_told_apart() {
    let (a, b) = (config(&[]), config(&[]).replace("linux\"", "linux\",\"author\":\"b\""));
    let id = Digest::of(b.as_bytes());
    let tar = file(file(Tar::new(), "a.json", a.as_bytes()), "b.json", b.as_bytes());
    // One for another platform is in nobody's way.
    let tar = file(tar, "c.json", a.replace("amd64", "arm64").as_bytes());
    let both = manifest(&[
        ("a.json", &["x:1", "x:2"], &[]),
        ("b.json", &[], &[]),
        ("c.json", &["y:1", "\u{1b}c"], &[]),
    ]);
    let saved = Saved::new(&file(tar, "manifest.json", both.to_string().as_bytes()).finish());
    assert!(
        saved
            .error("")
            .contains("several images match, add :NAME:TAG or @sha256:ID; choose from: x:1, x:2, b.json")
    );
    assert_eq!(saved.open("", ":x:2").unwrap().id(), Digest::of(a.as_bytes()));
    assert_eq!(saved.open("", &format!("@{id}")).unwrap().id(), id);
    let all = open_all(saved.path().to_str().unwrap(), &Options::default()).unwrap();
    let names = |at: usize| all[at].0.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (names(0), all[0].1.id()),
        (vec!["docker.io/library/x:1".into(), "docker.io/library/x:2".into()], Digest::of(a.as_bytes()))
    );
    assert_eq!((names(1), all[1].1.id(), all.len()), (vec![], id, 2));
    assert!(
        saved.error(":z").ends_with(r"there are: x:1, x:2, b.json, y:1, \u{1b}c"),
        "{}",
        saved.error(":z")
    );
    assert!(saved.error(":y:1").contains("it is for linux/arm64, and linux/amd64 is wanted"));
}

#[test]
fn the_last_of_two_members_counts() {
    let config = config(&[]);
    let tar = file(Tar::new(), "manifest.json", b"garbage");
    let tar = file(file(tar, "c.json", b"garbage"), "c.json", config.as_bytes());
    let manifest = manifest(&[("c.json", &[], &[])]).to_string();
    Saved::new(&file(tar, "manifest.json", manifest.as_bytes()).finish()).open("", "").unwrap();
}

#[test]
fn a_thousand_layers_are_an_image() {
    let layers: Vec<_> = (0..1000).map(|n| Tar::new().file(&n.to_string(), 0o644, b"").finish()).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let names: Vec<_> = (0..1000).map(|n| format!("{n}/layer.tar")).collect();
    let config = config(&layers);
    let mut tar = file(Tar::new(), "c.json", config.as_bytes());
    for (name, layer) in names.iter().zip(&layers) {
        tar = file(tar, name, layer);
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let manifest = manifest(&[("c.json", &[], &names)]).to_string();
    verify(
        &Saved::new(&file(tar, "manifest.json", manifest.as_bytes()).finish()).open("", "").unwrap(),
        &layers,
    );
}

/// An image of the one layer named `layer`, beside what `members` adds.
fn with(layer: &str, members: impl FnOnce(Tar) -> Tar) -> Vec<u8> {
    let config = config(&[b""]);
    let tar = file(Tar::new(), "c.json", config.as_bytes());
    let manifest = manifest(&[("c.json", &[], &[layer])]).to_string();
    members(file(tar, "manifest.json", manifest.as_bytes())).finish()
}

fn only(name: &str, data: &[u8]) -> Vec<u8> {
    file(Tar::new(), name, data).finish()
}

#[test]
fn bad_archives_are_refused() {
    let none = |tar| tar;
    let good = with("l", |tar| file(tar, "l", b"1234567"));
    let lying = format!("{}.json", hex(b"other"));
    let lying_config = file(Tar::new(), &lying, config(&[]).as_bytes());
    let many = json!(vec![json!({ "Config": "c" }); 1001]).to_string();
    let bomb = gzip(&vec![0; (8 << 20) + 1]);
    for (what, bytes, part) in [
        ("nothing", vec![], "neither oci-layout nor manifest.json"),
        ("a file tree", only("etc/passwd", b""), "docker export writes a file tree"),
        ("no tar", vec![b'x'; 4096], "not an image archive, or a damaged one: at byte 0"),
        ("xz", b"\xfd7zXZ\0and so on".to_vec(), "xz compression is not supported, only gzip and zstd"),
        ("docker 1.9", only("repositories", b"{}"), "docker before 1.10"),
        ("no JSON", only("manifest.json", b"[{"), "manifest.json is malformed"),
        ("no image", only("manifest.json", b"[]"), "manifest.json lists no image"),
        ("many images", only("manifest.json", many.as_bytes()), "lists 1001 images"),
        ("huge", only("manifest.json", &vec![b' '; 5 << 20]), "manifest.json is larger than 4 MiB"),
        ("no config", only("manifest.json", br#"[{"Config":"c"}]"#), "there is no \"c\" in the archive"),
        (
            "config with NUL",
            only("manifest.json", br#"[{"Config":"c\u0000d"}]"#),
            "no \"c\\x00d\" in the archive",
        ),
        (
            "config too large",
            file(file(Tar::new(), "c", &vec![b' '; 5 << 20]), "manifest.json", br#"[{"Config":"c"}]"#)
                .finish(),
            "c is larger than 4 MiB",
        ),
        (
            "lying config",
            file(lying_config, "manifest.json", manifest(&[(&lying, &[], &[])]).to_string().as_bytes())
                .finish(),
            "is damaged: expected sha256:",
        ),
        (
            "too few layers",
            file(file(Tar::new(), "c", config(&[b""]).as_bytes()), "manifest.json", br#"[{"Config":"c"}]"#)
                .finish(),
            "0 layers, but the config 1 diffIDs",
        ),
        ("no layer", with("l", none), "layer 1 of 1: there is no \"l\" in the archive"),
        ("a layer outside", with("../../../etc/passwd", none), "there is no \"../../../etc/passwd\""),
        ("an absolute layer", with("/etc/passwd", none), "there is no \"/etc/passwd\""),
        (
            "a link outside",
            with("a/l", |tar| tar.symlink("a/l", "../../l")),
            "\"a/l\" leads out of the archive",
        ),
        ("an absolute link", with("l", |tar| tar.symlink("l", "/etc/passwd")), "leads out of the archive"),
        ("a hard link outside", with("l", |tar| tar.hard_link("l", "../x")), "leads out of the archive"),
        ("a dangling link", with("l", |tar| tar.symlink("l", "m")), "\"l\" links to \"m\", which is not in"),
        (
            "a cycle",
            with("l", |tar| tar.symlink("l", "m").symlink("m", "l")),
            "\"l\" is a link to a link, more than 8 deep",
        ),
        ("a folder", with("l", |tar| tar.dir("l/", 0o755)), "\"l\" is a folder, not a file"),
        (
            "a FIFO",
            with("l", |tar| tar.entry("l", EntryType::Fifo, 0o644, b"", |_| {})),
            "\"l\" is a device, not a file",
        ),
        (
            "a sparse file",
            with("l", |tar| tar.entry("l", EntryType::GNUSparse, 0o644, b"", |_| {})),
            "\"l\" is a sparse file, not a file",
        ),
        ("truncated", good[..good.len() - 1024 - 508].to_vec(), "it is truncated: \"l\" ends at byte"),
        ("truncated gzip", gzip(&good)[..80].to_vec(), "cannot read the archive: "),
        ("a gzip bomb", bomb, "larger than 8388608 bytes uncompressed"),
    ] {
        let saved = Saved::new(&bytes);
        let error = saved.error("");
        assert!(error.contains(part), "{what}: {part:?} is not in {error:?}");
        assert!(error.starts_with("image \""), "{what}: {error}");
        let spool = std::fs::read_dir(saved.dir.path().join("spool")).map_or(0, Iterator::count);
        assert_eq!(spool, 0, "{what}: left in the spool");
    }
}
