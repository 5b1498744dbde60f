//! The container's cgroup (cgroup v2): so that all of it can be found and killed.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::unistd::Pid;
use protocol::Stage;
use std::fs;

const PATH: &str = "/sys/fs/cgroup/container";

/// The cgroup that every process of the container is in.
pub struct Cgroup(());

impl Cgroup {
    /// Makes the cgroup.
    pub fn create() -> Result<Self, Failure> {
        // For statistics, which can do without.
        let _uncounted = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +io +pids");
        fs::create_dir(PATH).at(Stage::Config, || format!("making the cgroup {PATH}"))?;
        Ok(Self(()))
    }

    /// Where its files are.
    pub fn path(&self) -> &str {
        PATH
    }

    /// Moves the calling process into it.
    pub fn enter(&self) -> Result<(), Failure> {
        let path = format!("{PATH}/cgroup.procs");
        fs::write(&path, "0").at(Stage::Config, || format!("entering the cgroup by {path}"))
    }

    /// Moves the calling process to where this one of the container's is: into the cgroup, or below it where the container
    /// has made cgroups of its own, for then nobody may be in ours (cgroup-v2.rst, "No Internal Process Constraint").
    pub fn join(&self, pid: Pid) -> Result<(), Failure> {
        match fs::write(format!("{PATH}/cgroup.procs"), "0") {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            result => return result.at(Stage::Config, || "entering the cgroup"),
        }
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).at(Stage::Config, || format!("reading {path}"))?;
        let place = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        let path = format!("/sys/fs/cgroup{place}/cgroup.procs");
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
