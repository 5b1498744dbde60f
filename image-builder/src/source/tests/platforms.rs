//! Indexes of many platforms, and what else stands in them.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{error, name, open, put, set_index};
use crate::image::Image;
use crate::source::Options;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn empty() -> TempDir {
    let dir = super::layout();
    set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [] }));
    dir
}

/// An image without layers whose config is for `platform`; its Cmd says `cmd`.
fn image(dir: &TempDir, platform: &str, cmd: &str) -> Value {
    let (os, architecture, variant) = parts(platform);
    let mut config = json!({ "os": os, "architecture": architecture, "config": { "Cmd": [cmd] },
        "rootfs": { "type": "layers", "diff_ids": [] } });
    if let Some(variant) = variant {
        config["variant"] = json!(variant);
    }
    let config = put(dir, &config.to_string(), "application/vnd.oci.image.config.v1+json");
    put(dir, &json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string(), MANIFEST)
}

fn parts(platform: &str) -> (&str, &str, Option<&str>) {
    let mut parts = platform.split('/');
    (parts.next().unwrap(), parts.next().unwrap(), parts.next())
}

fn on(mut descriptor: Value, platform: &str) -> Value {
    let (os, architecture, variant) = parts(platform);
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    if let Some(variant) = variant {
        descriptor["platform"]["variant"] = json!(variant);
    }
    descriptor
}

/// An index of `manifests` as the only image of the layout.
fn nest(dir: &TempDir, manifests: &[Value]) {
    let index = put(dir, &json!({ "schemaVersion": 2, "manifests": manifests }).to_string(), INDEX);
    set_index(dir, &json!({ "schemaVersion": 2, "manifests": [index] }));
}

fn options(platform: &str) -> Options {
    Options { platform: platform.parse().unwrap(), ..Options::default() }
}

fn cmd(image: &Image) -> String {
    image.config.config().clone().unwrap().cmd().clone().unwrap().concat()
}

#[test]
fn the_best_variant_is_chosen() {
    let dir = empty();
    let platforms =
        ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/amd64", "linux/amd64/v3", "linux/arm64/v8"];
    let manifests: Vec<_> = platforms.iter().map(|p| on(image(&dir, p, p), p)).collect();
    nest(&dir, &manifests);
    for (wanted, found) in [
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("amd64", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64"),
        ("linux/amd64/v4", "linux/amd64/v3"),
        ("arm64", "linux/arm64/v8"),
    ] {
        assert_eq!(cmd(&open(name(&dir), &options(wanted)).unwrap()), found, "{wanted}");
    }
    let error = format!("{:#}", open(name(&dir), &options("linux/s390x")).unwrap_err());
    assert!(
        error.contains("no image for linux/s390x matches") && error.contains("(linux/arm/v6)"),
        "{error}"
    );
}

#[test]
fn the_first_of_equals_is_the_image() {
    let dir = empty();
    nest(&dir, &["first", "second"].map(|cmd| on(image(&dir, "linux/amd64", cmd), "linux/amd64")));
    assert_eq!(cmd(&open(name(&dir), &Options::default()).unwrap()), "first");
}

#[test]
fn where_the_index_names_no_platform_the_config_does() {
    let dir = empty();
    nest(&dir, &["linux/arm64", "linux/amd64"].map(|p| image(&dir, p, p)));
    for platform in ["linux/arm64", "linux/amd64"] {
        assert_eq!(cmd(&open(name(&dir), &options(platform)).unwrap()), platform);
    }
    let error = format!("{:#}", open(name(&dir), &options("linux/s390x")).unwrap_err());
    assert!(error.contains("no image for linux/s390x"), "{error}");
}

#[test]
fn attestations_are_passed_over() {
    let dir = empty();
    let mut attestation = on(image(&dir, "linux/amd64", "no"), "unknown/unknown");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    nest(&dir, &[attestation.clone(), on(image(&dir, "linux/amd64", "yes"), "linux/amd64")]);
    assert_eq!(cmd(&open(name(&dir), &Options::default()).unwrap()), "yes");
    nest(&dir, &[attestation]);
    assert!(error(name(&dir)).ends_with("the index is empty"), "{}", error(name(&dir)));
}

#[test]
fn an_index_may_know_images_that_are_not_here() {
    let dir = empty();
    let mut absent = on(image(&dir, "linux/arm64", "x"), "linux/arm64");
    absent["digest"] = json!(crate::digest::Digest::of(b"not here").to_string());
    nest(&dir, &[absent, on(image(&dir, "linux/amd64", "here"), "linux/amd64")]);
    assert_eq!(cmd(&open(name(&dir), &Options::default()).unwrap()), "here");
    let error = format!("{:#}", open(name(&dir), &options("arm64")).unwrap_err());
    assert!(error.contains("cannot read manifest sha256:"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let dir = empty();
    let only = |manifest: Value| set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [manifest] }));
    let schema1 = json!({ "schemaVersion": 1, "name": "x", "fsLayers": [] }).to_string();
    let helm = json!({ "schemaVersion": 2, "layers": [],
        "config": put(&dir, "{}", "application/vnd.cncf.helm.config.v1+json") });
    let artifact = json!({ "schemaVersion": 2, "layers": [], "artifactType": "application/vnd.example",
        "config": put(&dir, "{}", "application/vnd.oci.empty.v1+json") });
    let both = json!({ "schemaVersion": 2, "layers": [], "manifests": [],
        "config": put(&dir, "{}", "application/vnd.oci.image.config.v1+json") })
    .to_string();
    let huge = format!("{}{}", " ".repeat(5 << 20), both);
    for (manifest, part) in [
        (
            put(&dir, &schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "manifest.v1+prettyjws\" (schema 1, of docker before 1.10), not supported",
        ),
        (put(&dir, &schema1, MANIFEST), "is of schema 1 (docker before 1.10), which is not supported"),
        (
            put(&dir, &helm.to_string(), MANIFEST),
            "helm.config.v1+json\" is not supported: this is not a container",
        ),
        (
            put(&dir, &artifact.to_string(), MANIFEST),
            "oci.empty.v1+json\" is not supported: this is not a container",
        ),
        (
            put(&dir, "{}", "application/vnd.oci.artifact.manifest.v1+json"),
            "artifact.manifest.v1+json\", not supported",
        ),
        (put(&dir, &both, MANIFEST), "is ambiguous"),
        (put(&dir, &both, INDEX), "is ambiguous"),
        (put(&dir, &huge, MANIFEST), "is larger than 4 MiB"),
        (put(&dir, "[]", MANIFEST), "malformed"),
        (put(&dir, "\0", INDEX), "malformed"),
    ] {
        only(manifest);
        let error = error(name(&dir));
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let mut platform = image(&dir, "linux/arm64", "x");
    platform["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    only(platform);
    assert!(error(name(&dir)).contains("it is for linux/arm64, and linux/amd64 is wanted"));
}

#[test]
fn an_index_of_millions_ends() {
    let dir = empty();
    let leaf = put(&dir, &json!({ "schemaVersion": 2, "manifests": [] }).to_string(), INDEX);
    let wide = |inner: &Value| json!({ "schemaVersion": 2, "manifests": vec![inner; 300] }).to_string();
    let middle = put(&dir, &wide(&leaf), INDEX);
    set_index(&dir, &serde_json::from_str(&wide(&middle)).unwrap());
    assert!(error(name(&dir)).contains("more than 10000 manifests in the indexes"));
}

#[test]
fn a_hostile_image_does_not_command_the_terminal() {
    let dir = empty();
    let hostile = "\u{1b}[2J/\u{1b}c";
    let media_type = format!("application/vnd.oci.image.layer.nondistributable.{hostile}");
    let config = r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["x"]}}"#;
    let layer = put(&dir, "", &media_type);
    let config = put(
        &dir,
        &config.replace("\"x\"", &layer["digest"].to_string()),
        "application/vnd.oci.image.config.v1+json",
    );
    let foreign = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    for manifest in [
        on(image(&dir, "linux/amd64", ""), hostile),
        image(&dir, hostile, ""),
        put(&dir, &foreign.to_string(), MANIFEST),
    ] {
        set_index(&dir, &json!({ "schemaVersion": 2, "manifests": [manifest] }));
        let message = error(name(&dir));
        assert!(message.contains(r"\u{1b}[2J/\u{1b}c") && !message.contains(char::is_control), "{message:?}");
    }
}
