//! The layers that are measured: a real one, and made ones of many entries or of one large file. Made once, kept under
//! target/bench. Nothing is held in memory: what this program takes shows in the figures of those that it starts.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use image_builder::digest::{Digest, Hasher};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::process::{command, run, say};

/// Debian with Perl and Python: some 285 MB and 13,000 entries.
const DEBIAN: [&str; 4] = ["--quiet", "--variant=important", "--include=perl,python3", "bookworm"];

/// An OCI image layout of one layer, and that layer's blob.
pub struct Layer {
    /// The layout's folder; the image's tag is `latest`.
    pub layout: PathBuf,
    /// The blob in it.
    pub blob: PathBuf,
}

/// The real layer in all its forms.
pub struct Debian {
    pub tar: PathBuf,
    /// Unpacked, without device nodes.
    pub tree: PathBuf,
    pub gzip: Layer,
    pub zstd: Layer,
}

/// The real layer, as `docker build` or `umoci` would compress it (gzip -6) and as `buildah` and `nerdctl` can (zstd -3).
///
/// # Errors
/// mmdebstrap cannot run, or has no network.
pub fn debian(folder: &Path) -> Result<Debian> {
    let (tar, tree) = (folder.join("debian.tar"), folder.join("debian.tree"));
    make(&tar, |draft| {
        say("making a layer with mmdebstrap");
        run(command("mmdebstrap").args(DEBIAN).arg("--format=tar").arg(draft))
            .context("mmdebstrap has to reach deb.debian.org, and to be root or have user namespaces")
    })?;
    make(&tree, |draft| {
        fs::create_dir_all(draft).context("making a folder")?;
        run(command("tar").arg("-xf").arg(&tar).arg("--exclude=./dev/*").arg("-C").arg(draft))
    })?;
    let packed = |name: &str, program: &[&str]| {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{}", program[0]);
        layer(&folder.join(name), &media_type, |blob| {
            let mut packer = command(program[0]);
            let output = packer.args(&program[1..]).arg("-c").arg(&tar).stdin(std::process::Stdio::null());
            let status = output.stdout(blob).status().with_context(|| format!("starting {}", program[0]))?;
            anyhow::ensure!(status.success(), "{} failed: {status}", program[0]);
            digest_of(&tar)
        })
    };
    let (gzip, zstd) =
        (packed("debian.gzip", &["gzip", "-n", "-6"])?, packed("debian.zstd", &["zstd", "-q", "-3"])?);
    Ok(Debian { tar, tree, gzip, zstd })
}

/// A layer of `count` empty files, a hundred in a folder. Empty: one of a byte takes a block, and a million of them would
/// show what 4 GB of zeros cost.
pub fn entries(folder: &Path, count: u64) -> Result<Layer> {
    made(&folder.join(format!("empty.{count}")), |tar| {
        (0..count).try_for_each(|i| append(tar, &format!("folder-{}/file-{i}", i / 100), 0, io::empty()))
    })
}

/// A layer of one file of `size` bytes.
pub fn large(folder: &Path, size: u64) -> Result<Layer> {
    made(&folder.join(format!("large.{size}")), |tar| append(tar, "large", size, io::repeat(7).take(size)))
}

fn append(tar: &mut Builder<impl Write>, path: &str, size: u64, data: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, path, data)
}

fn made(layout: &Path, fill: impl FnOnce(&mut Builder<Tee>) -> io::Result<()>) -> Result<Layer> {
    layer(layout, "application/vnd.oci.image.layer.v1.tar+gzip", |blob| {
        say(&format!("making {}", layout.display()));
        let packed = GzEncoder::new(BufWriter::new(blob), Compression::fast());
        let mut tar = Builder::new(Tee { packed, hash: Hasher::default() });
        fill(&mut tar)?;
        let Tee { packed, hash } = tar.into_inner()?;
        packed.finish()?.flush()?;
        Ok(hash.finish().0)
    })
}

/// Hashes the tar stream on its way to be compressed.
struct Tee {
    packed: GzEncoder<BufWriter<File>>,
    hash: Hasher,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.packed.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packed.flush()
    }
}

/// The layout `path` around a blob that `write` makes; it gives the diffID.
fn layer(path: &Path, media_type: &str, write: impl FnOnce(File) -> Result<Digest>) -> Result<Layer> {
    make(path, |draft| {
        let blobs = draft.join("blobs/sha256");
        fs::create_dir_all(&blobs).context("making a layout")?;
        let blob = draft.join("blob");
        let diff_id = write(File::create(&blob).context("making a blob")?)?.to_string();
        let put = |media_type: &str, bytes: &[u8]| -> Result<Value> {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).context("writing a blob")?;
            Ok(json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()}))
        };
        let config = json!({"os": "linux", "architecture": "amd64", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": []});
        let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
        let digest = digest_of(&blob)?;
        let size = fs::metadata(&blob).context("looking at a blob")?.len();
        fs::rename(&blob, blobs.join(digest.hex())).context("moving a blob into place")?;
        let layer = json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let body = json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [layer]});
        let mut descriptor = put(manifest, body.to_string().as_bytes())?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(draft.join("index.json"), index.to_string()).context("writing index.json")?;
        fs::write(draft.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("writing oci-layout")
    })?;
    let blobs = fs::read_dir(path.join("blobs/sha256")).context("looking for a blob")?;
    let blobs = blobs.collect::<io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path());
    let largest = blobs.max_by_key(|blob| fs::metadata(blob).map_or(0, |metadata| metadata.len()));
    Ok(Layer { layout: path.to_owned(), blob: largest.context("a layout without blobs")? })
}

/// Makes `path` if it is not there, whole or not at all.
fn make(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let draft = path.with_extension("new");
    if draft.is_dir() {
        fs::remove_dir_all(&draft).with_context(|| format!("removing {}", draft.display()))?;
    }
    write(&draft).with_context(|| format!("making {}", path.display()))?;
    fs::rename(&draft, path).with_context(|| format!("moving {} into place", path.display()))
}

fn digest_of(path: &Path) -> Result<Digest> {
    let mut hash = Hasher::default();
    let file = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hash));
    file.with_context(|| format!("hashing {}", path.display()))?;
    Ok(hash.finish().0)
}
