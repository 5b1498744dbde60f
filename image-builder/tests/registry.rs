//! A real registry, Debian's docker-registry, filled by skopeo: by tag and digest, platforms, passwords, TLS.
//!
//! Needs docker-registry, skopeo and openssl; where one is missing, the tests are ignored, and say so.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use image_builder::digest::Digest;
use image_builder::testimage::{self, Tar};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

type Outcome = Result<(), Failed>;
type Test = fn() -> Outcome;

fn main() {
    let lacks = |tool: &&&str| Command::new(tool).arg("--help").output().is_err();
    let missing = ["docker-registry", "skopeo", "openssl"].iter().find(lacks);
    if let Some(tool) = missing {
        println!("ignored: {tool} is not installed");
    }
    let tests: [(&str, Test); 5] = [
        ("by_tag_and_digest", by_tag_and_digest),
        ("a_manifest_list_has_platforms", a_manifest_list_has_platforms),
        ("a_password_is_needed", a_password_is_needed),
        ("proxies_are_those_of_the_environment", proxies_are_those_of_the_environment),
        ("certificates_are_checked_unless_insecure", certificates_are_checked_unless_insecure),
    ];
    let trial = |(name, test): (&str, Test)| Trial::test(name, test).with_ignored_flag(missing.is_some());
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit();
}

/// docker-registry on a port of its own, with a folder for all that the test makes.
struct Registry {
    dir: TempDir,
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// `extra` is put into its configuration; `DIR` there is the test's folder, in which `prepare` puts what it names.
    fn start(extra: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\n{extra}\n"
        );
        let file = dir.path().join("registry.yml");
        fs::write(&file, config.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        let mut command = Command::new("docker-registry");
        let mut child =
            command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = log.find_map(|line| {
            let (_, address) = line.split_once("listening on ")?;
            address.split(':').nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        // Its log must go somewhere.
        thread::spawn(move || log.for_each(drop));
        Self { dir, child, port: port.expect("docker-registry tells its port") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has skopeo push the OCI layout `dir` as `name`.
    fn push(&self, dir: &Path, name: &str, options: &[&str]) {
        let from = format!("oci:{}", dir.display());
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "--preserve-digests"]);
        let output = skopeo.args(options).arg(from).arg(to).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Our program, with an environment that names no credentials.
    fn image_builder(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-builder"));
        command.args(arguments).arg("--store").arg(self.path("store"));
        command.env_clear().env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// `pull` of the image `name` at `host`, for [`json`].
    fn pull(&self, host: &str, name: &str, options: &[&str]) -> Command {
        let image = format!("{host}:{}/{name}", self.port);
        self.image_builder(&[&["pull", "--json"], options, &[&image]].concat())
    }
}

const PLAIN: &str = "http: {addr: '127.0.0.1:0'}";

/// The document that a command prints.
fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command that must fail says.
fn failure(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "must fail");
    text(&output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One of ours, and a real one where it lies beside the work tree.
fn layouts(dir: &Path) -> Vec<PathBuf> {
    let ours = dir.join("ours");
    let layers = [
        Tar::new().dir("etc", 0o755).file("etc/motd", 0o644, b"hello\n").finish(),
        Tar::new().file("data", 0o600, &[7; 3 << 20]).finish(),
    ];
    testimage::write(&ours, &layers, Default::default()).unwrap();
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/images/alpine");
    [ours, real].into_iter().filter(|dir| dir.exists()).collect()
}

fn index(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap()
}

/// A pull makes the same disks as the layout that was pushed.
fn by_tag_and_digest() -> Outcome {
    let registry = Registry::start(PLAIN, |_| {});
    for layout in layouts(registry.dir.path()) {
        registry.push(&layout, "some/name:1.0", &[]);
        let digest = index(&layout)["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let build = |image: &str| {
            let output = registry.image_builder(&["build", image]).output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            let lines = String::from_utf8(output.stdout).unwrap();
            let path = |line: &str| PathBuf::from(line.split(' ').nth(1).unwrap());
            let disks: Vec<_> = lines.lines().map(path).map(|p| (fs::read(&p).unwrap(), p)).collect();
            disks.iter().for_each(|(_, path)| fs::remove_file(path).unwrap());
            assert!(!disks.is_empty());
            disks.into_iter().map(|(bytes, _)| Digest::of(&bytes)).collect::<Vec<_>>()
        };
        let local = build(layout.to_str().unwrap());
        let host = format!("127.0.0.1:{}", registry.port);
        assert_eq!(build(&format!("{host}/some/name:1.0")), local);
        assert_eq!(build(&format!("docker://localhost:{}/some/name@{digest}", registry.port)), local);
    }
    let unknown = failure(&mut registry.pull("127.0.0.1", "some/name:2.0", &[]));
    assert!(unknown.contains("no such image: 404 Not Found: \"manifest unknown\""), "{unknown}");
    Ok(())
}

fn put(dir: &Path, document: &Value, media_type: &str) -> Value {
    let bytes = document.to_string();
    let digest = Digest::of(bytes.as_bytes());
    fs::write(dir.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
}

fn get(dir: &Path, descriptor: &Value) -> Value {
    let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    serde_json::from_slice(&fs::read(dir.join("blobs/sha256").join(digest.hex())).unwrap()).unwrap()
}

/// A layout of one index with an image for each of two platforms.
fn two_platforms(dir: &Path) -> PathBuf {
    let layout = layouts(dir).remove(0);
    let mut amd64 = index(&layout)["manifests"][0].clone();
    amd64.as_object_mut().unwrap().remove("annotations");
    let mut manifest = get(&layout, &amd64);
    let mut config = get(&layout, &manifest["config"]);
    config["architecture"] = json!("arm64");
    manifest["config"] = put(&layout, &config, "application/vnd.oci.image.config.v1+json");
    let mut arm64 = put(&layout, &manifest, "application/vnd.oci.image.manifest.v1+json");
    amd64["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    arm64["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let media_type = "application/vnd.oci.image.index.v1+json";
    let inner = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [arm64, amd64] });
    let inner = put(&layout, &inner, media_type);
    let outer = json!({ "schemaVersion": 2, "manifests": [inner] });
    fs::write(layout.join("index.json"), outer.to_string()).unwrap();
    layout
}

fn a_manifest_list_has_platforms() -> Outcome {
    let registry = Registry::start(PLAIN, |_| {});
    let layout = two_platforms(registry.dir.path());
    registry.push(&layout, "multi", &["--all"]);
    // As with docker, the digest is that of all platforms: it is found by it, and can be pulled by it anywhere.
    let digest = index(&layout)["manifests"][0]["digest"].clone();
    let pulled = json(&mut registry.pull("127.0.0.1", "multi", &[]));
    assert_eq!(pulled["digest"], digest);
    let by_digest = format!("127.0.0.1:{}/multi@{}", registry.port, digest.as_str().unwrap());
    assert_eq!(json(&mut registry.image_builder(&["inspect", &by_digest]))[0]["Id"], pulled["id"]);
    // Docker's own media types, too.
    registry.push(&layout, "docker", &["--all", "--preserve-digests=false", "--format=v2s2"]);
    for name in ["multi", "docker"] {
        for (options, architecture) in
            [(&[][..], "amd64"), (&["--platform=linux/arm64"], "arm64"), (&["--platform=arm64/v8"], "")]
        {
            let mut command = registry.pull("127.0.0.1", name, options);
            if architecture.is_empty() {
                failure(&mut command);
                continue;
            }
            let id = json(&mut command)["id"].as_str().unwrap().to_owned();
            let image = &json(&mut registry.image_builder(&["inspect", &id]))[0];
            assert_eq!(image["Architecture"], architecture);
        }
        let missing = failure(&mut registry.pull("127.0.0.1", name, &["--platform=linux/s390x"]));
        assert!(missing.contains("no image for linux/s390x matches; there are: sha256:"), "{missing}");
    }
    Ok(())
}

/// `bob:hunter2`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "bob:$2b$04$htJNN95fe0E5hgooW6TuMufrY7ZsU5z5tQrQ0pwo7Oj.ecz9P7RU.\n";

fn a_password_is_needed() -> Outcome {
    let extra = format!("{PLAIN}\nauth: {{htpasswd: {{realm: test, path: DIR/htpasswd}}}}");
    let registry = Registry::start(&extra, |dir| fs::write(dir.join("htpasswd"), HTPASSWD).unwrap());
    registry.push(&layouts(registry.dir.path())[0], "x", &["--dest-creds=bob:hunter2"]);
    let refused = failure(&mut registry.pull("127.0.0.1", "x", &[]));
    let expected = format!("no credentials for 127.0.0.1:{} in ", registry.port);
    assert!(refused.contains(&expected), "{refused}");

    // As `docker login` and `podman login` write them.
    for (password, folder, variable) in [
        ("Ym9iOmh1bnRlcjI=", ".docker/config.json", None),
        ("Ym9iOmh1bnRlcjI=", "docker/config.json", Some("docker")),
        ("Ym9iOmh1bnRlcjI=", ".config/containers/auth.json", None),
        ("Ym9iOmh1bnRlcjM=", ".docker/config.json", None),
    ] {
        let file = registry.path(folder);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let host = format!("127.0.0.1:{}", registry.port);
        fs::write(&file, json!({ "auths": { host: { "auth": password } } }).to_string()).unwrap();
        let mut command = registry.pull("127.0.0.1", "x", &[]);
        command.envs(variable.map(|folder| ("DOCKER_CONFIG", registry.path(folder))));
        if password.ends_with("I=") {
            json(&mut command);
        } else {
            let wrong = failure(&mut command);
            assert!(
                wrong.contains("401 Unauthorized: \"authentication required\"; tried as user \"bob\" of "),
                "{wrong}"
            );
            assert!(!wrong.contains("hunter3") && !wrong.contains(password), "{wrong}");
        }
        fs::remove_file(file).unwrap();
    }
    let missing =
        failure(registry.pull("127.0.0.1", "x", &[]).env("REGISTRY_AUTH_FILE", "/nowhere/auth.json"));
    assert!(missing.contains("credentials in /nowhere/auth.json: No such file"), "{missing}");
    Ok(())
}

/// Nobody listens at the proxy's port. 0.0.0.0: see below.
fn proxies_are_those_of_the_environment() -> Outcome {
    let registry = Registry::start(PLAIN, |_| {});
    registry.push(&layouts(registry.dir.path())[0], "x", &[]);
    let pull = |host: &str, variables: &[(&str, &str)]| {
        let mut command = registry.pull(host, "x", &["--insecure"]);
        command.envs(variables.iter().copied());
        command
    };
    let proxy = ("http_proxy", "http://user:hunter2@127.0.0.1:1");
    let refused = failure(&mut pull("0.0.0.0", &[proxy]));
    let expected = "by way of the proxy 127.0.0.1:1: Connection refused";
    assert!(refused.contains(expected) && !refused.contains("hunter2"), "{refused}");
    json(&mut pull("0.0.0.0", &[proxy, ("NO_PROXY", "example.com, 0.0.0.0")]));
    json(&mut pull("0.0.0.0", &[("https_proxy", proxy.1)]));
    json(&mut pull("127.0.0.1", &[proxy, ("ALL_PROXY", proxy.1)]));
    let malformed = failure(&mut pull("127.0.0.1", &[("HTTPS_PROXY", "gopher://hunter2")]));
    assert!(
        malformed.contains("$HTTPS_PROXY is not a proxy's URL") && !malformed.contains("hunter2"),
        "{malformed}"
    );
    Ok(())
}

/// 0.0.0.0 leads to this machine, too, but is no loopback address: so it stands for a host far away.
fn certificates_are_checked_unless_insecure() -> Outcome {
    let tls = "http: {addr: '127.0.0.1:0', tls: {certificate: DIR/cert.pem, key: DIR/key.pem}}";
    let registry = Registry::start(tls, |dir| make_certificate(dir, "test"));
    registry.push(&layouts(registry.dir.path())[0], "x", &[]);
    let distrusted =
        failure(registry.pull("0.0.0.0", "x", &[]).env("SSL_CERT_FILE", other_certificate(&registry)));
    for part in ["no TLS connection", "UnknownIssuer", "update-ca-certificates", "--insecure"] {
        assert!(distrusted.contains(part), "{part:?} is not in {distrusted}");
    }
    json(registry.pull("0.0.0.0", "x", &[]).env("SSL_CERT_FILE", registry.path("cert.pem")));
    json(&mut registry.pull("0.0.0.0", "x", &["--insecure"]));
    json(&mut registry.pull("127.0.0.1", "x", &[]));
    let none = failure(
        registry.pull("0.0.0.0", "x", &[]).env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere"),
    );
    assert!(none.contains("no CA certificates on this system (Debian's package: ca-certificates)"), "{none}");

    let registry = Registry::start(PLAIN, |_| {});
    registry.push(&layouts(registry.dir.path())[0], "x", &[]);
    let plain =
        failure(registry.pull("0.0.0.0", "x", &[]).env("SSL_CERT_FILE", other_certificate(&registry)));
    assert!(plain.contains("no TLS connection"), "{plain}");
    json(&mut registry.pull("0.0.0.0", "x", &["--insecure"]));
    Ok(())
}

fn other_certificate(registry: &Registry) -> PathBuf {
    let dir = registry.path("other");
    fs::create_dir(&dir).unwrap();
    make_certificate(&dir, "another");
    dir.join("cert.pem")
}

/// A certificate that vouches for itself.
fn make_certificate(dir: &Path, name: &str) {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "subjectAltName=IP:0.0.0.0",
            "-addext",
            "basicConstraints=CA:FALSE",
        ])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
