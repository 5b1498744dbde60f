//! Images out of Debian's packages.

use crate::harness::workspace;
use anyhow::{Context, Result, ensure};
use image_builder::digest::Digest;
use image_builder::testimage;
use oci_spec::image::Config;
use std::fs;
use std::path::Path;
use std::process::Command;

const RELEASE: &str = "bookworm";
/// What no test looks at; LLVM is PostgreSQL's compiler for queries, a third of its image.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/lib/*/libLLVM*"];

/// The image of a package and what it depends on, an OCI layout; made if it is not there.
pub fn image(package: &str, config: Config) -> Result<String> {
    let recipe = format!("{package} {RELEASE} {LEFT_OUT:?} {config:?}");
    let key = Digest::of(recipe.as_bytes()).hex().chars().take(12).collect::<String>();
    let folder = workspace().join("target/tests/services");
    let layout = folder.join(format!("{package}-{key}"));
    if !layout.exists() {
        fs::create_dir_all(&folder)?;
        let tar = folder.join(format!("{package}.tar"));
        bootstrap(package, &tar)?;
        let draft = tempfile::tempdir_in(&folder)?;
        testimage::write(draft.path(), &[fs::read(&tar)?], config)?;
        fs::remove_file(&tar)?;
        fs::rename(draft.keep(), &layout)?;
    }
    Ok(layout.display().to_string())
}

fn bootstrap(package: &str, tar: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=essential", "--format=tar"]).arg(format!("--include={package}"));
    mmdebstrap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    let output = mmdebstrap.arg(RELEASE).arg(tar).output().context("cannot run mmdebstrap")?;
    ensure!(
        output.status.success(),
        "mmdebstrap: {}: {} (it has to reach deb.debian.org, and to be root or have user namespaces)",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
