//! Registries that are slow, broken or evil; and who is shown which credentials.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Result;
use sha2::Digest as _;

use super::*;
use crate::testimage::{self, Tar};

mod auth;
mod credentials;
mod hostile;
mod server;

use server::{Reply, Seen, Server, reply};

/// What no error may show.
const PASSWORD: &str = "hunter2";
/// What tokens and all that is made of passwords begin with, in these tests.
const TOKEN: &str = "s3cr3t";

/// Fast where a test waits for a failure, and otherwise not a matter of time.
fn limits() -> Limits {
    let second = Duration::from_secs(1);
    Limits { attempts: 3, backoff: Duration::from_millis(1), longest_wait: second, ..Limits::default() }
}

/// For servers that are silent.
fn impatient() -> Limits {
    Limits { stall: Duration::from_millis(100), answer: Duration::from_millis(500), ..limits() }
}

/// Nobody's.
fn no_credentials() -> Keeper {
    keeper(PathBuf::from("/nowhere/config.json"))
}

fn keeper(file: PathBuf) -> Keeper {
    Keeper { files: vec![file], required: false, path: OsString::new(), timeout: Duration::from_secs(60) }
}

/// An image's documents and blobs, by their path under `/v2/x/`.
struct Stored {
    documents: BTreeMap<String, (Vec<u8>, &'static str)>,
    layers: Vec<String>,
}

/// An image of two layers, the second of three megabytes.
fn stored() -> Arc<Stored> {
    static STORED: LazyLock<Arc<Stored>> = LazyLock::new(|| Arc::new(store()));
    STORED.clone()
}

fn store() -> Stored {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..93_750u32).flat_map(|i| sha2::Sha256::digest(i.to_le_bytes())).collect();
    let layers = [Tar::new().dir("a", 0o755).finish(), Tar::new().file("noise", 0o644, &noise).finish()];
    let digest = testimage::write(dir.path(), &layers, Default::default()).unwrap();
    let read = |digest: &str| {
        std::fs::read(dir.path().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())).unwrap()
    };
    let manifest = read(&digest.to_string());
    let it: oci_spec::image::ImageManifest = serde_json::from_slice(&manifest).unwrap();
    let blobs = it.layers().iter().chain([it.config()]).map(|blob| blob.digest().to_string());
    let mut documents: BTreeMap<_, _> = blobs
        .map(|digest| (format!("blobs/{digest}"), (read(&digest), "application/octet-stream")))
        .collect();
    for reference in ["latest".to_owned(), digest.to_string()] {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        documents.insert(format!("manifests/{reference}"), (manifest.clone(), media_type));
    }
    let layers = it.layers().iter().map(|layer| layer.digest().to_string()).collect();
    Stored { documents, layers }
}

impl Stored {
    /// What an honest registry says.
    fn answer(&self, seen: &Seen) -> Reply {
        let found = seen.path.strip_prefix("/v2/x/").and_then(|path| self.documents.get(path));
        let Some((bytes, media_type)) = found else {
            return reply("404 Not Found", "", r#"{"errors":[{"code":"X","message":"not here"}]}"#);
        };
        let from = seen.from();
        let headers = format!("Content-Type: {media_type}\r\n");
        if from == 0 {
            return reply("200 OK", &headers, bytes);
        }
        let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        reply("206 Partial Content", &(headers + &range), &bytes[from..])
    }

    fn layer(&self, place: usize) -> &[u8] {
        &self.documents[&format!("blobs/{}", self.layers[place])].0
    }

    fn manifest(&self) -> &[u8] {
        &self.documents["manifests/latest"].0
    }
}

fn name(server: &Server, suffix: &str) -> Name {
    format!("{}/x{suffix}", server.address).parse().unwrap()
}

/// Pulls the manifest and reads all layers.
fn pull_all(server: &Server, keeper: Keeper, limits: Limits) -> Result<Vec<Vec<u8>>> {
    let image = pull(&name(server, ""), &Platform::default(), false, keeper, limits)?;
    assert_no_secret(&format!("{image:?}"));
    image.layers.iter().map(read_layer).collect()
}

fn read_layer(layer: &crate::image::Layer) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    layer.blob.open()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn assert_no_secret(text: &str) {
    assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "{text}");
    assert!(!text.contains("Ym9iOmh1bnRlcjI"), "base64 of bob:hunter2: {text}");
}

fn error(result: Result<Vec<Vec<u8>>>) -> String {
    let message = result.map_or_else(|e| format!("{e:#}"), |_| panic!("must fail"));
    assert_no_secret(&message);
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.len() < 1000, "{message}");
    message
}

/// Answers as an honest registry does, but for the requests to `part`, of which the nth gets what `evil` gives, if it
/// gives any.
fn flawed(
    stored: &Arc<Stored>,
    part: &str,
    evil: impl Fn(usize, &Seen) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let (stored, part, count) = (stored.clone(), part.to_owned(), AtomicUsize::new(0));
    Server::start(move |seen| {
        let evil =
            if seen.path.contains(&part) { evil(count.fetch_add(1, Ordering::Relaxed), seen) } else { None };
        evil.unwrap_or_else(|| stored.answer(seen))
    })
}
