//! Credential helpers: programs `docker-credential-NAME` that keep secrets
//! (github.com/docker/docker-credential-helpers). `get` reads a server's name from standard input and writes JSON.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::credentials::{Login, is_helper_name};
use super::message::brief;
use super::secret::Secret;

/// More than this is not an answer.
const MAX_OUTPUT: u64 = 64 << 10;
/// What helpers say when they have nothing (credentials/error.go there).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user's name that marks an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret")]
    secret: Secret,
}

/// What helper `name`, a program in one of the directories of `path`, has for `server`.
///
/// # Errors
/// No such program, it fails, says too much or takes longer than `timeout`. What it writes to stderr the user sees.
pub fn get(name: &str, server: &str, path: &OsStr, timeout: Duration) -> Result<Option<Login>> {
    if !is_helper_name(name) {
        bail!("{name:?} is not the name of a credential helper");
    }
    let (status, output) = run(name, server, path, timeout)
        .with_context(|| format!("credential helper docker-credential-{name}"))?;
    let text = String::from_utf8_lossy(&output);
    if !status.success() {
        if text.trim() == NOT_FOUND {
            return Ok(None);
        }
        bail!("credential helper docker-credential-{name} failed for {server}: {status}{}", brief(&text));
    }
    let Ok(reply) = serde_json::from_slice::<Reply>(&output) else {
        bail!(
            "credential helper docker-credential-{name} gave no JSON with Username and Secret for {server}"
        );
    };
    if reply.secret.reveal().is_empty() {
        return Ok(None);
    }
    Ok(Some(match reply.username {
        user if user == TOKEN_USER => Login::IdentityToken(reply.secret),
        user => Login::Password(user, reply.secret),
    }))
}

fn run(name: &str, server: &str, path: &OsStr, timeout: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let program = find(&format!("docker-credential-{name}"), path).context("not in $PATH")?;
    let spawned = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()));
    let mut child = spawned?;
    let output = exchange(&mut child, server, Instant::now() + timeout);
    if output.is_err() {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
        child.wait().context("cannot wait for it")?;
    }
    output
}

/// The output is read by a thread of its own, which a grandchild that holds the pipe may keep, but not us.
fn exchange(child: &mut Child, server: &str, deadline: Instant) -> Result<(ExitStatus, Vec<u8>)> {
    let stdout = child.stdout.take().context("no pipe")?;
    let (done, output) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(MAX_OUTPUT + 1).read_to_end(&mut bytes);
        // Nobody waits for it any more after the deadline.
        let _ = done.send(read.map(|_| bytes));
    });
    ask(child.stdin.take().context("no pipe")?, server).context("cannot write to it")?;
    let left = deadline.saturating_duration_since(Instant::now());
    let output = output.recv_timeout(left).ok().context("took too long")?.context("cannot read from it")?;
    if output.len() as u64 > MAX_OUTPUT {
        bail!("says more than {} KiB", MAX_OUTPUT >> 10);
    }
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for it")? {
            return Ok((status, output));
        }
        if Instant::now() > deadline {
            bail!("took too long");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A helper that knows without reading is fine.
fn ask(mut stdin: ChildStdin, server: &str) -> io::Result<()> {
    match stdin.write_all(server.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(program)).find(|p| p.is_file())
}
