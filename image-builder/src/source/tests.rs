//! Layouts whole and broken, made by [`crate::testimage`] and then bent.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::testimage::{self, Tar};

mod archives;
mod platforms;

fn layout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let layers = [Tar::new().dir("a", 0o755).finish(), Tar::new().whiteout("a").finish()];
    testimage::write(dir.path(), &layers, Default::default()).unwrap();
    dir
}

fn name(dir: &TempDir) -> &str {
    dir.path().to_str().unwrap()
}

fn error(reference: &str) -> String {
    format!("{:#}", open(reference, &Options::default()).expect_err("must be refused"))
}

fn index(dir: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap()
}

fn set_index(dir: &TempDir, index: &Value) {
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
}

fn put(dir: &TempDir, bytes: &str, media_type: &str) -> Value {
    let digest = Digest::of(bytes.as_bytes());
    fs::write(dir.path().join(layout::name(&digest)), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
}

/// Puts a layout together again after `change` bent its manifest and config.
fn bend(change: impl FnOnce(&mut Value, &mut Value)) -> TempDir {
    let dir = layout();
    let read = |descriptor: &Value| -> Value {
        let digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        serde_json::from_slice(&fs::read(dir.path().join(layout::name(&digest))).unwrap()).unwrap()
    };
    let mut manifest = read(&index(&dir)["manifests"][0]);
    let mut config = read(&manifest["config"]);
    change(&mut manifest, &mut config);
    let media_type = manifest["config"]["mediaType"].as_str().unwrap().to_owned();
    manifest["config"] = put(&dir, &config.to_string(), &media_type);
    let manifest = put(&dir, &manifest.to_string(), "application/vnd.oci.image.manifest.v1+json");
    set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [manifest] }));
    dir
}

#[test]
fn opens_by_path_tag_and_digest() {
    let dir = layout();
    let image = open(name(&dir), &Options::default()).unwrap();
    assert_eq!(image.layers.len(), 2);
    for suffix in [":latest".to_owned(), format!("@{}", image.manifest_digest.unwrap())] {
        let again = open(&format!("{}{suffix}", name(&dir)), &Options::default()).unwrap();
        assert_eq!(again.manifest_digest, image.manifest_digest, "{suffix}");
    }
    let message = error(&format!("{}:nope", name(&dir)));
    assert!(message.contains("no image for linux/amd64 matches; there are: \"latest\" sha256:"), "{message}");
}

#[test]
fn a_tag_matches_the_end_of_a_full_name() {
    let dir = layout();
    let mut whole = index(&dir);
    whole["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] =
        json!("docker.io/library/x:3.1");
    set_index(&dir, &whole);
    open(&format!("{}:3.1", name(&dir)), &Options::default()).unwrap();
    assert!(error(&format!("{}:1", name(&dir))).contains("matches"));
}

#[test]
fn nested_indexes_choose_the_platform() {
    let dir = layout();
    let mut manifests = index(&dir)["manifests"].clone();
    manifests[0].as_object_mut().unwrap().remove("annotations");
    let mut arm = manifests[0].clone();
    manifests[0]["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    arm["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    arm["digest"] = json!(Digest::of(b"not here").to_string());
    let inner = json!({ "schemaVersion": 2, "manifests": [arm, manifests[0]] });
    let mut inner = put(&dir, &inner.to_string(), "application/vnd.oci.image.index.v1+json");
    let by_digest = format!("{}@{}", name(&dir), inner["digest"].as_str().unwrap());
    inner["annotations"] = json!({ "org.opencontainers.image.ref.name": "multi" });
    set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    for reference in [name(&dir).to_owned(), format!("{}:multi", name(&dir)), by_digest] {
        assert_eq!(open(&reference, &Options::default()).unwrap().layers.len(), 2, "{reference}");
    }
}

#[test]
fn several_matches_are_listed() {
    let dir = layout();
    let first = index(&dir)["manifests"][0].clone();
    let mut second = put(&dir, "{}", "application/vnd.oci.image.manifest.v1+json");
    second["annotations"] = json!({ "org.opencontainers.image.ref.name": "other" });
    set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [first, second] }));
    let message = error(name(&dir));
    for part in ["several images match", "\"latest\"", "\"other\"", ":TAG"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    open(&format!("{}:latest", name(&dir)), &Options::default()).unwrap();
}

#[test]
fn an_index_deeper_than_sense_is_refused() {
    let dir = layout();
    for _ in 0..6 {
        let whole = index(&dir);
        let outer = put(&dir, &whole.to_string(), "application/vnd.oci.image.index.v1+json");
        set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [outer] }));
    }
    assert!(error(name(&dir)).contains("nested"));
}

#[test]
fn what_is_no_layout_is_told_in_a_sentence() {
    assert_eq!(error("/nowhere/foo:1"), "image \"/nowhere/foo:1\": no such file or folder");
    let dir = tempfile::tempdir().unwrap();
    assert!(error(name(&dir)).contains("not an OCI image layout"));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(error(name(&dir)).contains("version \"2.0.0\" is not supported"));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    assert!(error(name(&dir)).contains("cannot open"));
    fs::write(dir.path().join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(error(name(&dir)).contains("larger than 4 MiB"));
    fs::write(dir.path().join("index.json"), "{").unwrap();
    assert!(error(name(&dir)).contains("index.json is malformed"));
    set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [] }));
    assert!(error(name(&dir)).contains("empty"));
}

type Change = fn(&mut Value, &mut Value);

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let table: [(Change, &str); 9] = [
        (
            |m, _| m["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+xz"),
            "layer 2 of 2: media type \"application/vnd.oci.image.layer.v1.tar+xz\" is not supported",
        ),
        (
            |m, _| {
                m["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            },
            "layer 2 of 2: it is encrypted (application/vnd.oci.image.layer.v1.tar+gzip+encrypted)",
        ),
        (
            |m, _| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
            },
            "layer 1 of 2: it is a foreign layer (application/vnd.docker.image.rootfs.foreign.diff.tar.gzip)",
        ),
        (|m, _| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"), "helm"),
        (|m, _| m["layers"][0]["size"] = json!(7), "the manifest says 7"),
        (|_, c| c["os"] = json!("windows"), "it is for windows/amd64, and linux/amd64 is wanted"),
        (|_, c| c["architecture"] = json!("arm64"), "it is for linux/arm64"),
        (|_, c| c["rootfs"]["diff_ids"] = json!([]), "2 layers, but the config 0 diffIDs"),
        (|_, c| c["rootfs"]["diff_ids"][0] = json!("sha256:../../../etc/passwd"), "malformed"),
    ];
    for (change, part) in table {
        let message = error(name(&bend(change)));
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// As docker writes them, of an image `FROM scratch`.
#[test]
fn an_image_may_have_no_layers() {
    let lists: [(Change, usize); 3] = [
        (|m, c| (m["layers"], c["rootfs"]["diff_ids"]) = (json!(null), json!(null)), 0),
        (|m, c| (m["layers"], c["rootfs"]) = (json!([]), json!({ "type": "layers" })), 0),
        (|_, _| {}, 2),
    ];
    for (change, count) in lists {
        let dir = bend(change);
        let image = open(name(&dir), &Options::default()).unwrap();
        assert_eq!(image.layers.len(), count);
        let store = store::ImageStore::open(dir.path().join("store")).unwrap();
        store.pull(&image, None, &mut |_| {}).unwrap();
        assert_eq!(store.images().unwrap()[0].record.layers.len(), count);
    }
    let dir = bend(|m, c| (m["layers"], c["rootfs"]) = (json!(null), json!([])));
    assert!(error(name(&dir)).contains("the config is malformed"));
}

#[test]
fn damaged_blobs_are_noticed() {
    let dir = layout();
    let image = open(name(&dir), &Options::default()).unwrap();
    let path = dir.path().join(layout::name(&image.manifest_digest.unwrap()));
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("gzip", "gzap")).unwrap();
    assert!(error(name(&dir)).contains("is damaged: its digest is sha256:"));
    fs::write(&path, &good[1..]).unwrap();
    assert!(error(name(&dir)).contains("its descriptor says"));
    fs::remove_file(&path).unwrap();
    assert!(error(name(&dir)).contains("cannot read"));
}

#[test]
fn dockers_media_types_are_accepted() {
    let dir = bend(|m, _| {
        m["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    });
    let mut whole = index(&dir);
    whole["manifests"][0]["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    set_index(&dir, &whole);
    open(name(&dir), &Options::default()).unwrap();
}
