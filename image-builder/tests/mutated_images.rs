//! Image archives, names and references changed at random, always in the same way: an image or an error comes of them, never a
//! panic, and nothing is read that is not in the archive.
//!
//! What the fuzz targets `archive` and `reference` do without end, bounded and on stable Rust.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use image_builder::digest::Digest;
use image_builder::source::{self, Name, Options, Reference};
use image_builder::testimage::{self, Tar};

#[path = "mutate/mod.rs"]
mod mutate;
#[path = "../../fuzz/src/tarball.rs"]
mod tarball;

use mutate::{Random, mutate};

const ROUNDS: usize = 3000;

/// What docker saves, with a link between layers and a long name.
fn docker() -> Vec<u8> {
    let (long, id) = ("d/".repeat(60), Digest::of(b""));
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{id}","{id}"]}}}}"#
    );
    let manifest = format!(
        r#"[{{"Config":"c.json","RepoTags":["a:1"],"Layers":["{long}l","l"]}},{{"Config":"c.json"}}]"#
    );
    let tar = Tar::new().file(&format!("{long}l"), 0o644, b"").symlink("l", &format!("./{long}l"));
    tar.file("c.json", 0o644, config.as_bytes()).file("manifest.json", 0o644, manifest.as_bytes()).finish()
}

fn oci() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    testimage::write(dir.path(), &[Tar::new().finish()], Default::default()).unwrap();
    let blobs = fs::read_dir(dir.path().join("blobs/sha256")).unwrap().map(|blob| blob.unwrap().path());
    let mut blobs: Vec<_> = blobs.collect();
    blobs.sort();
    let files = [dir.path().join("index.json"), dir.path().join("oci-layout")].into_iter().chain(blobs);
    let name = |path: &Path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
    files.fold(Tar::new(), |tar, path| tar.file(&name(&path), 0o644, &fs::read(&path).unwrap())).finish()
}

/// How many images are opened; each must hold what it says.
fn open(archive: &Path, spool: &Path) -> usize {
    let options = Options { spool: Some(spool.to_owned()), max_size: 1 << 20, ..Options::default() };
    let reference = archive.to_str().unwrap();
    let _one_image_or_an_error = source::open(reference, &options);
    let Ok(images) =
        source::open_all(&format!("{reference}:a:1"), &options).or(source::open_all(reference, &options))
    else {
        return 0;
    };
    for (_, image) in &images {
        assert_eq!(image.layers.len(), image.config.rootfs().diff_ids().len());
        for layer in &image.layers {
            let blob = layer.blob.open().unwrap().take(1 << 30);
            assert_eq!(Some(io::copy(&mut { blob }, &mut io::sink()).unwrap()), layer.size);
        }
    }
    images.len()
}

#[test]
fn broken_image_archives_are_images_or_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, spool) = (dir.path().join("x.tar"), dir.path().join("spool"));
    let (seeds, mut random, mut opened) = ([docker(), oci()], Random(1), 0);
    for round in 0..ROUNDS {
        let mut tar = seeds[round % seeds.len()].clone();
        mutate(&mut tar, &mut random);
        if round % 16 != 0 {
            tarball::repair(&mut tar);
        }
        if round % 8 == 0 {
            tar = testimage::gzip(&tar);
        }
        fs::write(&archive, &tar).unwrap();
        opened += usize::from(open(&archive, &spool) > 0);
    }
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0, "the spool is empty");
    assert!(opened > ROUNDS / 10 && opened < ROUNDS * 9 / 10, "{opened} of {ROUNDS} are images");
}

#[test]
fn broken_names_are_names_or_errors() {
    let seeds =
        ["localhost:5000/a-b/c__d.e:Tag_1", "docker-archive:/x.tar:alpine:3.20", "[::1]:5000/x", "Foo/bar"];
    let digest = Digest::of(b"");
    let parts =
        [":", "/", "@", ".", "-", "_", "A", "\0", "//", "..", "\u{e9}", "docker.io/", "library/", "oci:"];
    let (mut random, mut names) = (Random(1), 0);
    for round in 0..20 * ROUNDS {
        let mut text = seeds[round % seeds.len()].to_owned();
        if round % 3 == 0 {
            text = format!("{text}@{digest}");
        }
        for _ in 0..=random.below(3) {
            let at = text.char_indices().map(|(at, _)| at).nth(random.below(text.len())).unwrap_or(0);
            match random.below(3) {
                0 => text.insert_str(at, random.of(&parts)),
                1 if !text.is_empty() => drop(text.remove(at)),
                _ => text.truncate(at),
            }
        }
        let _a_reference_or_an_error = Reference::parse(&text);
        let Ok(name) = text.parse::<Name>() else { continue };
        for form in [name.to_string(), name.familiar()] {
            assert_eq!(form.parse::<Name>().unwrap_or_else(|e| panic!("{text:?}, {form:?}: {e:#}")), name);
        }
        names += 1;
    }
    assert!(names > ROUNDS && names < 19 * ROUNDS, "{names} are names");
}
