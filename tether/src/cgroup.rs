//! The container's cgroup (cgroup v2): so that all of it can be found and killed.

use crate::failure::{Context, Failure};
use protocol::Stage;
use std::fs;

const PATH: &str = "/sys/fs/cgroup/container";

/// The cgroup that every process of the container is in.
pub struct Cgroup(());

impl Cgroup {
    /// Makes the cgroup.
    pub fn create() -> Result<Self, Failure> {
        fs::create_dir(PATH).at(Stage::Config, || format!("making the cgroup {PATH}"))?;
        Ok(Self(()))
    }

    /// Moves the calling process into it.
    pub fn enter(&self) -> Result<(), Failure> {
        let path = format!("{PATH}/cgroup.procs");
        fs::write(&path, "0").at(Stage::Config, || format!("entering the cgroup by {path}"))
    }

    /// Kills everything in it (Documentation/admin-guide/cgroup-v2.rst, `cgroup.kill`).
    pub fn kill(&self) -> Result<(), Failure> {
        let path = format!("{PATH}/cgroup.kill");
        fs::write(&path, "1").at(Stage::Run, || format!("killing what is left by {path}"))
    }

    /// Removes it. It goes with the machine anyway.
    pub fn remove(self) {
        let _gone = fs::remove_dir(PATH);
    }
}
