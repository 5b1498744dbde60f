//! Making images: small ones for tests, and the default one, without a container engine and bit for bit the same.
//!
//! Layers are written by crate `tar`, which knows nothing of our reader: so tests compare two implementations.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use tar::{Builder, EntryType, Header};

use crate::digest::Digest;

/// A layer's tar stream in the making. Every entry is root's and of 1970 unless [`Tar::entry`] says otherwise.
pub struct Tar {
    builder: Builder<Vec<u8>>,
}

impl Default for Tar {
    fn default() -> Self {
        Self::new()
    }
}

impl Tar {
    /// A layer without entries.
    pub fn new() -> Self {
        Self { builder: Builder::new(Vec::new()) }
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, b"", |_| {})
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, data, |_| {})
    }

    /// A symbolic link. Long targets become GNU long names.
    ///
    /// # Panics
    /// When crate `tar` cannot hold the names: a NUL in them.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    /// A hard link.
    ///
    /// # Panics
    /// As [`Tar::symlink`].
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    /// The mark that deletes `path` from the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(p, n)| (p, n));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{name}"), 0, b"")
    }

    /// Xattrs and other PAX records (`mtime`, ...) for the entry that comes next.
    ///
    /// # Panics
    /// Never: it writes to memory.
    #[must_use]
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder.append_pax_extensions(records.iter().copied()).expect("in memory");
        self
    }

    /// Any entry; `change` may set what else the header has.
    ///
    /// # Panics
    /// As [`Tar::symlink`].
    #[must_use]
    pub fn entry(
        mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = header(kind, mode);
        header.set_size(data.len() as u64);
        change(&mut header);
        self.builder.append_data(&mut header, path, data).expect("a name that tar can hold");
        self
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = header(kind, 0o777);
        self.builder.append_link(&mut header, path, target).expect("names that tar can hold");
        self
    }

    /// The stream, with its end mark.
    ///
    /// # Panics
    /// Never: it writes to memory.
    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().expect("in memory")
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// `bytes` as one gzip member without name and time.
///
/// # Panics
/// Never: it writes to memory.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
}

/// Writes an OCI image layout to the folder `dir` (made if need be): one image for linux/amd64, tagged `latest`, of the
/// given uncompressed layers, which are stored gzipped. Gives the manifest's digest.
///
/// # Errors
/// The folder cannot be written to.
///
/// ```
/// use image_builder::{source, testimage::{self, Tar}};
/// use oci_spec::image::ConfigBuilder;
/// # let dir = tempfile::tempdir()?;
/// let layer = Tar::new().dir("etc", 0o755).file("etc/motd", 0o644, b"hello\n").finish();
/// let config = ConfigBuilder::default().cmd(vec!["cat".into(), "/etc/motd".into()]).build()?;
/// let digest = testimage::write(dir.path(), &[layer], config)?;
/// let image = source::open(dir.path().to_str().unwrap(), &source::Options::default())?;
/// assert_eq!(image.manifest_digest, Some(digest));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn write(dir: &Path, layers: &[Vec<u8>], config: Config) -> Result<Digest> {
    std::fs::create_dir_all(dir.join("blobs/sha256"))
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let blobs: Vec<_> = layers.iter().map(|l| gzip(l)).collect();
    let descriptors =
        blobs.iter().map(|b| put(dir, MediaType::ImageLayerGzip, b)).collect::<Result<Vec<_>>>()?;
    let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    let config = ImageConfigurationBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(config)
        .rootfs(RootFsBuilder::default().diff_ids(diff_ids).build()?)
        .history(Vec::new())
        .build()?;
    let config = put(dir, MediaType::ImageConfig, &serde_json::to_vec(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(descriptors)
        .build()?;
    let mut manifest = put(dir, MediaType::ImageManifest, &serde_json::to_vec(&manifest)?)?;
    let digest = manifest.digest().to_string().parse()?;
    manifest.set_annotations(Some([("org.opencontainers.image.ref.name".into(), "latest".into())].into()));
    let index = ImageIndexBuilder::default().schema_version(2u32).manifests(vec![manifest]).build()?;
    put_file(&dir.join("index.json"), &serde_json::to_vec(&index)?)?;
    put_file(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

fn put(dir: &Path, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
    let digest = Digest::of(bytes);
    put_file(&dir.join("blobs/sha256").join(digest.hex()), bytes)?;
    let digest: oci_spec::image::Digest = digest.to_string().parse()?;
    Ok(Descriptor::new(media_type, bytes.len() as u64, digest))
}

fn put_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";

/// The default command: a shell for a person, a few words about the VM for everyone else.
const HELLO: &str = "\
[ -t 0 ] && exec sh
echo 'Hello from a virtual machine of its own!'
echo \"kernel: $(uname -sr)\"
echo \"memory: $(free -m | awk '/Mem/ {print $2}') MiB, CPUs: $(nproc)\"
echo \"root:   $(df -h / | awk 'END {print $1, $2}')\"
";

/// Writes an image of one layer around the static busybox at `busybox` (Debian's package busybox-static): a link for
/// each of its applets, `/etc/passwd` and `/etc/group` with root and nobody, the folders that programs expect, a PATH, and a
/// command that says hello, or is a shell at a terminal. Gives the manifest's digest; the same busybox gives the same image.
///
/// # Errors
/// The busybox cannot be read or run, the folder `dir` not be written to.
pub fn busybox_image(dir: &Path, busybox: &Path) -> Result<Digest> {
    let program = std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let mut layer = Tar::new();
    for (path, mode) in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o755)] {
        layer = layer.dir(path, mode);
    }
    for (path, mode) in
        [("root", 0o700), ("sys", 0o755), ("tmp", 0o1777), ("var", 0o755), ("var/tmp", 0o1777)]
    {
        layer = layer.dir(path, mode);
    }
    layer = layer.file("etc/passwd", 0o644, PASSWD).file("etc/group", 0o644, GROUP);
    layer = layer.file("bin/busybox", 0o755, &program);
    for applet in applets(busybox)?.iter().filter(|a| *a != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    let config = ConfigBuilder::default()
        .env(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .cmd(["sh", "-c", HELLO].map(str::to_owned).to_vec())
        .build()?;
    write(dir, &[layer.finish()], config)
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .with_context(|| format!("cannot run {}", busybox.display()))?;
    if !output.status.success() {
        bail!("{} --list failed: {}", busybox.display(), output.status);
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}
