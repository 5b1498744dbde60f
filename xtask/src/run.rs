//! `cargo xtask run`: builds, then becomes `vch run`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::iso::{self, Edition};
use crate::process;
use crate::tools::{self, Task};
use crate::workspace::Workspace;

/// The exit status that says: it was us who failed, not the container. As docker has it.
pub const OUR_FAILURE: u8 = 125;

/// What stands before `--`: our own options, and vch's in their order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    no_install: bool,
    image: Option<OsString>,
    vch: Vec<OsString>,
}

impl Options {
    fn parse(options: Vec<OsString>) -> Result<Self> {
        let mut parsed = Self::default();
        if let Some(first) = options.first().filter(|first| !first.as_encoded_bytes().starts_with(b"-")) {
            bail!(
                "{first:?} is no option; the container's command goes behind --: cargo xtask run -- {first:?}"
            );
        }
        let mut options = options.into_iter();
        while let Some(option) = options.next() {
            let text = option.to_str().unwrap_or_default();
            if text == "--no-install" {
                parsed.no_install = true;
            } else if text == "--image" {
                parsed.image = Some(options.next().context("--image needs a reference behind it")?);
            } else if let Some(image) = text.strip_prefix("--image=") {
                parsed.image = Some(image.into());
            } else {
                parsed.vch.push(option);
            }
        }
        Ok(parsed)
    }

    /// Whether vch is given `name` with this value, as `name value` or `name=value`.
    fn has(&self, name: &str, value: &str) -> bool {
        let joined = format!("{name}={value}");
        self.vch.iter().any(|option| option == &*joined)
            || self.vch.windows(2).any(|pair| pair[0] == name && pair[1] == value)
    }
}

/// Builds, then runs `vch run` with `options`, the image and `command` in place of this process.
pub fn run(workspace: &Workspace, options: Vec<OsString>, command: Vec<OsString>) -> Result<ExitCode> {
    let options = Options::parse(options)?;
    tools::ensure(Task::Run, options.no_install)?;
    let boots_iso = options.has("--boot", "iso")
        || options.has("--machine", "vmware") && !options.has("--boot", "direct");
    if boots_iso {
        tools::ensure(Task::Iso, options.no_install)?;
    }
    if options.has("--firmware", "uefi") {
        tools::ensure(Task::Uefi, options.no_install)?;
    }
    build::all(workspace, options.no_install)?;
    if boots_iso {
        let debian = options.has("--kernel", "debian");
        let edition = if debian { Edition::Debian } else { Edition::usual(workspace) };
        iso::build(workspace, edition)?;
    }
    let image = options.image.unwrap_or(workspace.image().into());
    let mut vch = process::command(workspace.vch());
    Err(process::become_it(vch.arg("run").args(options.vch).arg(image).args(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn ours_are_taken_out_and_the_rest_kept_in_order() {
        let options = Options::parse(words("-i -e A=1 --image x --boot direct --no-install -m 1g")).unwrap();
        assert_eq!(options.vch, words("-i -e A=1 --boot direct -m 1g"));
        assert_eq!(options.image, Some("x".into()));
        assert!(options.no_install);
        assert!(options.has("--boot", "direct") && !options.has("--boot", "iso"));
        assert_eq!(Options::parse(words("")).unwrap(), Options::default());
    }

    #[test]
    fn both_spellings_are_understood() {
        for text in ["--boot iso --image=../x", "--boot=iso --image ../x"] {
            let options = Options::parse(words(text)).unwrap();
            assert!(options.has("--boot", "iso"), "{text}");
            assert_eq!(options.image, Some("../x".into()), "{text}");
        }
        assert_eq!(Options::parse(words("--boot iso")).unwrap().vch, words("--boot iso"));
    }

    #[test]
    fn a_command_without_dashes_is_explained() {
        let error = Options::parse(words("echo hello")).unwrap_err().to_string();
        assert!(error.ends_with("cargo xtask run -- \"echo\""), "{error}");
        assert!(Options::parse(words("-i --image")).is_err());
    }
}
