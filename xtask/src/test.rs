//! `cargo xtask test`: everything built, then every test.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::iso::{self, Edition};
use crate::tools::{self, Task};
use crate::workspace::Workspace;
use crate::{build, own_kernel, process};

/// Which tests.
#[derive(Clone, Copy)]
pub enum Tests {
    /// All but those of real services.
    All,
    /// Those of real services.
    Services,
}

impl Tests {
    fn task(self) -> Task {
        match self {
            Self::All => Task::Test,
            Self::Services => Task::Services,
        }
    }

    /// What cargo is asked to test.
    fn cargo(self) -> &'static [&'static str] {
        match self {
            Self::All => &["--workspace"],
            Self::Services => &["-p", "tests", "--features", "services", "--test", "services"],
        }
    }
}

/// Becomes `cargo test`, told by its environment where the built things are.
pub fn run(
    workspace: &Workspace,
    tests: Tests,
    no_install: bool,
    arguments: Vec<OsString>,
) -> Result<ExitCode> {
    tools::ensure(tests.task(), no_install)?;
    build::all(workspace, no_install)?;
    if matches!(tests, Tests::All) {
        iso::build(workspace, Edition::Debian)?;
        if own_kernel::is_built(workspace) {
            iso::build(workspace, Edition::Own)?;
        }
        let probe = ["--release", "-p", "tests", "--bin", "probe", "--target", tools::MUSL];
        process::cargo_build(&workspace.root, &probe)?;
    }
    let mut cargo = process::command(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&workspace.root).arg("test").args(tests.cargo()).args(arguments);
    cargo.env("CONTAINERVM_BOOTSTRAP", workspace.bootstrap());
    cargo.env("CONTAINERVM_VCH", workspace.vch());
    cargo.env("CONTAINERVM_PROBE", workspace.target.join(tools::MUSL).join("release/probe"));
    Err(process::become_it(&mut cargo))
}
