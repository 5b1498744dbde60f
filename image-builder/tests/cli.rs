//! The program as a user runs it: what it prints of images, and what it does when it cannot.

use std::io::pipe;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use image_builder::testimage::{self, Tar};
use oci_spec::image::ConfigBuilder;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a store, and the layout `layout` of an image that has the name `app:1` in it.
fn fixture() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let config = ConfigBuilder::default().cmd(vec!["app".to_owned()]).build().unwrap();
    testimage::write(&layout, &[Tar::new().file("app", 0o755, &[7; 500_000]).finish()], config).unwrap();
    success(dir.path(), &["build", "-q", "./layout"]);
    let id = success(dir.path(), &["ls", "-aq"]);
    success(dir.path(), &["tag", id.trim(), "app:1"]);
    dir
}

fn program(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-builder"));
    command.args(arguments).current_dir(dir).env("CONTAINERVM_STORE", dir.join("store"));
    command
}

fn success(dir: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = program(dir, arguments).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn failure(dir: &Path, arguments: &[&str]) -> String {
    let output = program(dir, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn names_are_shown_as_docker_shows_them() {
    let dir = fixture();
    let dir = dir.path();
    success(dir, &["tag", "app:1", "localhost:5000/app"]);
    let shown = success(dir, &["ls"]);
    let names: Vec<_> =
        shown.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    assert_eq!(names, [["REPOSITORY", "TAG"], ["app", "1"], ["localhost:5000/app", "latest"]]);
}

#[test]
fn what_is_loaded_has_names_but_no_registrys_digest() {
    let dir = fixture();
    let dir = dir.path();
    success(dir, &["tag", "app:1", "other/app"]);
    success(dir, &["export", "app:1", "-o", "app.tar"]);
    success(dir, &["prune", "-a"]);
    let names = "docker.io/library/app:1\ndocker.io/other/app:latest\n";
    assert_eq!(success(dir, &["load", "-i", "app.tar"]), names);
    let inspected: Value = serde_json::from_str(&success(dir, &["inspect", "app:1"])).unwrap();
    assert_eq!(inspected[0]["RepoTags"], serde_json::json!(["app:1", "other/app:latest"]));
    assert_eq!(inspected[0]["RepoDigests"], serde_json::json!([]));
}

#[test]
fn inspect_shows_what_the_specification_does_not_know() {
    let dir = fixture();
    let config = r#"{"Cmd":["app"],"Healthcheck":{"Test":["CMD","true"]},"Shell":["/bin/sh"]}"#;
    let config: Value = serde_json::from_str(config).unwrap();
    let archive = dir.path().join("docker");
    std::fs::create_dir(&archive).unwrap();
    let image = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": config, "rootfs": { "type": "layers", "diff_ids": [] },
    });
    std::fs::write(archive.join("config.json"), image.to_string()).unwrap();
    std::fs::write(archive.join("manifest.json"), r#"[{"Config":"config.json","Layers":[]}]"#).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "docker.tar", "-C", "docker", "."]).current_dir(dir.path());
    assert!(tar.status().unwrap().success());
    let id = success(dir.path(), &["load", "-i", "docker.tar"]);
    for image in ["./docker.tar", id.trim()] {
        let inspected: Value = serde_json::from_str(&success(dir.path(), &["inspect", image])).unwrap();
        assert_eq!(inspected[0]["Config"], config);
    }
}

/// As with `... | head -1`: that is no failure, and no message.
#[test]
fn a_reader_that_goes_away_ends_the_program_in_silence() {
    let dir = fixture();
    let built = success(dir.path(), &["build", "-q", "./layout"]);
    let disk = built.split(' ').nth(1).unwrap();
    for arguments in [
        &["ls"][..],
        &["inspect", "app:1"],
        &["ls", disk],
        &["cat", disk, "app"],
        &["export", "app:1", "-o", "-"],
        &["verify"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = program(dir.path(), arguments);
        let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let Output { status, stderr, .. } = output.unwrap();
        assert_eq!(
            (status.code(), String::from_utf8(stderr).unwrap()),
            (Some(141), String::new()),
            "{arguments:?}"
        );
    }
}

/// A panic would end it with SIGABRT.
#[test]
fn what_nobody_reads_on_stderr_is_no_panic() {
    let dir = fixture();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let status = program(dir.path(), &["inspect", "nothing"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn exports_are_folders_and_plain_archives() {
    let dir = fixture();
    let dir = dir.path();
    success(dir, &["export", "app:1", "-o", "app.tar"]);
    success(dir, &["export", "app:1", "-o", "app.tar"]);
    success(dir, &["export", "app:1", "-o", "app"]);
    assert!(failure(dir, &["export", "app:1", "-o", "app"]).contains("not empty"));
    assert!(failure(dir, &["export", "app:1", "-o", "app.tar.gz"]).contains("not compressed"));
    assert!(!dir.join("app.tar.gz").exists());
    // From stdin, one of the names.
    let load = program(dir, &["load", "-i", "-:app:1"])
        .stdin(std::fs::File::open(dir.join("app.tar")).unwrap())
        .output();
    assert_eq!(load.unwrap().stdout, b"docker.io/library/app:1\n");
}

/// Each command does what it can with the others, and says which is damaged. Only --repair removes anything of it.
#[test]
fn a_damaged_record_keeps_no_other_image_from_its_user() {
    for folder in ["images/sha256", "names"] {
        let dir = fixture();
        let dir = dir.path();
        let layer = Tar::new().file("other", 0o755, &[8; 10_000]).finish();
        testimage::write(&dir.join("layout2"), &[layer], ConfigBuilder::default().build().unwrap()).unwrap();
        let files = |folder: &str| {
            std::fs::read_dir(dir.join("store").join(folder)).unwrap().map(|e| e.unwrap().path())
        };
        let layers = || files("layers/sha256").count();
        let (first, known) = (files(folder).next().unwrap(), success(dir, &["ls", "-aq"]));
        success(dir, &["build", "-q", "./layout2"]);
        let ids = success(dir, &["ls", "-aq"]);
        let other = ids.lines().find(|id| *id != known.trim()).unwrap();
        success(dir, &["tag", other, "other:1"]);
        let good = std::fs::read(&first).unwrap();
        for bad in [&good[..good.len() / 2], b"", b"{}"] {
            std::fs::remove_file(&first).unwrap();
            std::fs::write(&first, bad).unwrap();
            for arguments in [&["ls"][..], &["verify"], &["prune"]] {
                let message = failure(dir, arguments);
                let path = first.to_str().unwrap();
                assert!(
                    message.contains(path) && message.contains("verify --repair"),
                    "{arguments:?}: {message}"
                );
            }
            assert_eq!(layers(), 4);
            success(dir, &["inspect", "other:1"]);
        }
        let listed = program(dir, &["ls"]).output().unwrap().stdout;
        assert!(String::from_utf8(listed).unwrap().contains("other"));
        assert!(failure(dir, &["rm", "other:1"]).contains("all layers are kept"));
        assert_eq!(layers(), 4);
        assert!(failure(dir, &["verify", "--repair"]).contains("was damaged, and is removed"));
        success(dir, &["verify"]);
        success(dir, &["prune", "-a"]);
        assert_eq!(layers(), 0);
    }
}

#[test]
fn who_only_looks_makes_no_store() {
    let dir = fixture();
    let dir = dir.path();
    for arguments in [
        &["verify"][..],
        &["prune"],
        &["rm", "app:1"],
        &["tag", "app:1", "b"],
        &["export", "app:1", "-o", "x"],
    ] {
        let message = failure(dir, &[arguments, &["--store", "mistyped"]].concat());
        assert!(message.contains("no store at mistyped"), "{arguments:?}: {message}");
    }
    assert_eq!(success(dir, &["ls", "--store", "mistyped"]).lines().count(), 1);
    assert!(failure(dir, &["inspect", "app:1", "--store", "mistyped"]).contains("not in the store: pull it"));
    success(dir, &["inspect", "./layout", "--store", "mistyped"]);
    assert!(!dir.join("mistyped").exists());
}
