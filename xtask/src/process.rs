//! Running other programs: none may read our stdin or write to our stdout, both are the container's.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// What cargo says that nobody has to read when all goes well.
const CARGO_NOISE: [&str; 2] = ["Finished ", "Running "];

/// Says what is about to take more than a second.
pub fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// A program, to be run by one of the functions below.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs it, its stdout going to our stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("duplicating stderr")?;
    let status = command_status(command.stdin(Stdio::null()).stdout(stderr))?;
    check(command, status)
}

/// Runs it and returns what it wrote to stdout.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("starting {}", name(command)))?;
    check(command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("reading what {} says", name(command)))
}

/// Puts it in place of this process; returns only when that fails.
pub fn become_it(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("starting {}", name(command)))
}

/// `cargo build` with these arguments, showing what it compiles and what goes wrong, not that it is done.
pub fn cargo_build(root: &Path, arguments: &[&str]) -> Result<()> {
    let colour = if io::stderr().is_terminal() { "always" } else { "never" };
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(root).arg("build").args(["--color", colour]).args(arguments);
    let mut child = start(cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.context("reading what cargo says")?;
            if !is_noise(&String::from_utf8_lossy(&line)) {
                let mut stderr = io::stderr().lock();
                stderr
                    .write_all(&line)
                    .and_then(|()| stderr.write_all(b"\n"))
                    .context("writing to stderr")?;
            }
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    check(&cargo, status)
}

fn is_noise(line: &str) -> bool {
    let mut plain = String::new();
    for (number, part) in line.split('\x1b').enumerate() {
        // Behind an escape comes a colour: `[1m`, `[32m`, `[0m`.
        plain += if number == 0 { part } else { part.split_once('m').map_or("", |(_, text)| text) };
    }
    CARGO_NOISE.iter().any(|noise| plain.trim_start().starts_with(noise))
}

fn start(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| format!("starting {}", name(command)))
}

fn command_status(command: &mut Command) -> Result<ExitStatus> {
    start(command)?.wait().with_context(|| format!("waiting for {}", name(command)))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// The program and its first arguments, for messages.
fn name(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args().take(4));
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_noise_is_known_in_colour_too() {
        assert!(is_noise("    Finished `release` profile [optimized] target(s) in 0.05s"));
        assert!(is_noise("\x1b[1m\x1b[92m    Finished\x1b[0m `release` profile"));
        assert!(!is_noise("\x1b[1m\x1b[92m   Compiling\x1b[0m vch v0.1.0 (/work)"));
        assert!(!is_noise("error: Finished is not a type"));
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(command("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh -c exit 3 failed: exit status: 3");
        let error = run(&mut command("/no/such/program")).unwrap_err();
        assert_eq!(format!("{error:#}"), "starting /no/such/program: No such file or directory (os error 2)");
    }

    #[test]
    fn output_is_what_stdout_gets() {
        assert_eq!(
            output_of(command("sh").args(["-c", "echo out; read a || echo no stdin"])).unwrap(),
            "out\nno stdin\n"
        );
    }
}
