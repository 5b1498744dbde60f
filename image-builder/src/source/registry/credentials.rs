//! Credentials for registries, where docker and podman keep them.
//!
//! `$REGISTRY_AUTH_FILE` alone, where it is set; else the first of these that has some for the registry:
//! `$DOCKER_CONFIG/config.json` (`~/.docker/config.json`), `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `$XDG_CONFIG_HOME/containers/auth.json` (`~/.config/containers/auth.json`).
//! In a file, a helper that it names for the registry (`credHelpers`) counts more than the one for all (`credsStore`), and that
//! more than what stands in the file (`auths`).

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::helper;
use super::secret::Secret;
use crate::image::read_bounded;
use crate::source::DOCKER_HUB;

/// Under what docker keeps the credentials for Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// With or without padding: both are about.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a registry is shown, and where it was found.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// What to show.
    pub login: Login,
    /// The file, or the helper.
    pub origin: String,
}

/// The kinds of credentials that config files and helpers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// For basic authentication, there or at the token server.
    Password(String, Secret),
    /// An OAuth 2 refresh token: the token server gives tokens for it.
    IdentityToken(Secret),
    /// A token for the registry itself.
    RegistryToken(Secret),
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Files, the first that has some counts.
    pub files: Vec<PathBuf>,
    /// Whether the files must exist.
    pub required: bool,
    /// Where credential helpers are: `$PATH`.
    pub path: OsString,
    /// How long a helper may take.
    pub timeout: Duration,
}

/// The part of docker's config.json, and of podman's auth.json, that we use (docker-cli's docs, `login`;
/// containers-auth.json(5)).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
    registrytoken: Option<Secret>,
}

impl Keeper {
    /// The files that docker and podman use, as the environment says.
    pub fn from_environment(timeout: Duration) -> Self {
        let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self { files: vec![file], required: true, path, timeout };
        }
        let home = |name: &str| variable("HOME").map(|home| home.join(name));
        let docker = variable("DOCKER_CONFIG").or_else(|| home(".docker"));
        let config = variable("XDG_CONFIG_HOME").or_else(|| home(".config"));
        let podman = [variable("XDG_RUNTIME_DIR"), config].into_iter().flatten();
        let podman = podman.map(|dir| dir.join("containers/auth.json"));
        let files = docker.map(|dir| dir.join("config.json")).into_iter().chain(podman).collect();
        Self { files, required: false, path, timeout }
    }

    /// The credentials for `repository` at `host`, a registry's name as users write it; none where nobody has any.
    ///
    /// # Errors
    /// A file that is there but cannot be read or is malformed, a helper that fails; no secret is told.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        for file in &self.files {
            let config = match File::open(file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !self.required => continue,
                opened => opened.map_err(Into::into).and_then(read),
            };
            let shown = file.display().to_string();
            let found = config
                .and_then(|config| self.find_in(&config, &shown, host, repository))
                .with_context(|| format!("credentials in {shown}"))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The places looked at, for messages.
    pub fn places(&self) -> String {
        let exists = |path: &&PathBuf| path.exists();
        let shown = |path: &PathBuf| path.display().to_string();
        let mut there: Vec<_> = self.files.iter().filter(exists).map(shown).collect();
        if there.is_empty() {
            there.extend(self.files.first().map(shown));
        }
        there.join(" or ")
    }

    fn find_in(
        &self,
        config: &Config,
        file: &str,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credentials>> {
        let helpers = config.cred_helpers.iter().flatten();
        let own = best(helpers, host, repository).map(|(_, name)| name);
        if let Some(name) = own.or(config.creds_store.as_ref()).filter(|name| !name.is_empty()) {
            let key = if host == DOCKER_HUB { DOCKER_HUB_KEY } else { host };
            let login = helper::get(name, key, &self.path, self.timeout)?;
            if let Some(login) = login {
                return Ok(Some(Credentials { login, origin: format!("docker-credential-{name}") }));
            }
        }
        let entries = config.auths.iter().flatten().filter_map(|(k, v)| Some((k, v.as_ref()?)));
        let Some((key, entry)) = best(entries, host, repository) else { return Ok(None) };
        let login = entry.login().with_context(|| format!("auths of {key:?}"))?;
        Ok(login.map(|login| Credentials { login, origin: file.to_owned() }))
    }
}

fn read(file: File) -> Result<Config> {
    let bytes = read_bounded(file, "the file")?;
    // What serde_json says of a malformed value may quote it.
    let malformed =
        |e: serde_json::Error| anyhow::anyhow!("malformed JSON at line {}, column {}", e.line(), e.column());
    serde_json::from_slice(&bytes).map_err(malformed)
}

impl Entry {
    fn login(&self) -> Result<Option<Login>> {
        let given = |secret: &Option<Secret>| secret.clone().filter(|s| !s.reveal().is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Login::IdentityToken(token)));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Login::RegistryToken(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let plain =
                BASE64.decode(auth.reveal().trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((user, password)) = plain.as_ref().and_then(|plain| plain.split_once(':')) else {
                bail!("\"auth\" is not base64 of USER:PASSWORD");
            };
            // Old dockers padded the password.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Login::Password(user.to_owned(), password.into())));
        }
        let pair = self.username.clone().zip(given(&self.password));
        Ok(pair.filter(|(user, _)| !user.is_empty()).map(|(user, password)| Login::Password(user, password)))
    }
}

/// The entry whose key fits best.
fn best<'a, V: 'a>(
    entries: impl Iterator<Item = (&'a String, V)>,
    host: &str,
    repository: &str,
) -> Option<(&'a String, V)> {
    entries
        .filter_map(|(key, value)| Some((fit(key, host, repository)?, (key, value))))
        .max_by_key(|(fit, _)| *fit)
        .map(|(_, entry)| entry)
}

/// How well a key of a config file fits: docker's are hosts or URLs of any path, podman's `HOST/NAMESPACE` too.
fn fit(key: &str, host: &str, repository: &str) -> Option<usize> {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (key_host, namespace) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let key_host = if key_host == "index.docker.io" { DOCKER_HUB } else { key_host };
    if !key_host.eq_ignore_ascii_case(host) {
        return None;
    }
    let namespace = namespace.trim_end_matches('/');
    if bare.is_some() || matches!(namespace, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(namespace)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(namespace.len())
}

/// Whether a helper of that name would be a program of a directory in `$PATH`, and nothing else.
pub fn is_helper_name(name: &str) -> bool {
    !name.is_empty() && Path::new(name).file_name().is_some_and(|n| n == name) && !name.contains('\0')
}
