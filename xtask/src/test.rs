//! `cargo xtask test`: everything built, then every test.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::tools::{self, Task};
use crate::workspace::Workspace;
use crate::{build, iso, process};

/// Becomes `cargo test` of the whole workspace, told by its environment where the built things are.
pub fn run(workspace: &Workspace, no_install: bool, arguments: Vec<OsString>) -> Result<ExitCode> {
    tools::ensure(Task::Test, no_install)?;
    build::all(workspace, no_install)?;
    iso::build(workspace, build::Signatures::Cut)?;
    process::cargo_build(
        &workspace.root,
        &["--release", "-p", "tests", "--bin", "probe", "--target", tools::MUSL],
    )?;
    let mut cargo = process::command(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&workspace.root).args(["test", "--workspace"]).args(arguments);
    cargo.env("CONTAINERVM_BOOTSTRAP", workspace.bootstrap());
    cargo.env("CONTAINERVM_VCH", workspace.vch());
    cargo.env("CONTAINERVM_PROBE", workspace.target.join(tools::MUSL).join("release/probe"));
    Err(process::become_it(&mut cargo))
}
