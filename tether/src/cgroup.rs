//! The container's cgroup (cgroup v2): so that all of it can be found and killed.

use crate::failure::{Context, Failure};
use crate::{device_filter, resources};
use nix::errno::Errno;
use nix::unistd::Pid;
use protocol::Stage;
use protocol::oci::Linux;
use std::fs;

const ROOT: &str = "/sys/fs/cgroup";
/// Its path below [`ROOT`], if the config does not say another.
const DEFAULT: &str = "container";

/// The cgroup that every process of the container is in.
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// Makes the cgroup, with its limits.
    pub fn create(linux: &Linux) -> Result<Self, Failure> {
        let wanted = linux.cgroups_path.as_deref().unwrap_or(DEFAULT).trim_matches('/');
        if wanted.split('/').any(|name| ["", ".", ".."].contains(&name)) {
            let why = format!("linux.cgroupsPath {wanted:?} is no path of a cgroup");
            return Err(Failure::new(Stage::Config, why));
        }
        let controllers = resources::controllers(&linux.resources);
        let mut path = ROOT.to_owned();
        for name in wanted.split('/') {
            enable(&path, &controllers)?;
            make_below(&mut path, name)?;
        }
        resources::apply(&path, &linux.resources)?;
        if !linux.resources.devices.is_empty() {
            device_filter::attach(&path, &linux.resources.devices)?;
        }
        Ok(Self { path })
    }

    /// Where its files are.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Moves the calling process into it.
    pub fn enter(&self) -> Result<(), Failure> {
        let path = format!("{}/cgroup.procs", self.path);
        fs::write(&path, "0").at(Stage::Config, || format!("entering the cgroup by {path}"))
    }

    /// Moves the calling process to where this one of the container's is: into the cgroup, or below it where the container
    /// has made cgroups of its own, for then nobody may be in ours (cgroup-v2.rst, "No Internal Process Constraint").
    pub fn join(&self, pid: Pid) -> Result<(), Failure> {
        match fs::write(format!("{}/cgroup.procs", self.path), "0") {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            result => return result.at(Stage::Config, || "entering the cgroup"),
        }
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).at(Stage::Config, || format!("reading {path}"))?;
        let place = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        let path = format!("{ROOT}{place}/cgroup.procs");
        fs::write(&path, "0").at(Stage::Config, || format!("entering the cgroup by {path}"))
    }

    /// Kills everything in it (Documentation/admin-guide/cgroup-v2.rst, `cgroup.kill`). It goes with the machine.
    pub fn kill(&self) -> Result<(), Failure> {
        let path = format!("{}/cgroup.kill", self.path);
        fs::write(&path, "1").at(Stage::Run, || format!("killing what is left by {path}"))
    }
}

/// Makes the cgroup that most containers are in, for a machine that will be copied.
pub fn prepare() -> Result<(), Failure> {
    make_below(&mut ROOT.to_owned(), DEFAULT)
}

/// Makes a cgroup below the one at `path`, which becomes its own.
fn make_below(path: &mut String, name: &str) -> Result<(), Failure> {
    // For statistics, which can do without.
    let _uncounted = fs::write(format!("{path}/cgroup.subtree_control"), "+memory +io +pids");
    *path = format!("{path}/{name}");
    match fs::create_dir(&path) {
        // In a copy of a machine where it was prepared.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at(Stage::Config, || format!("linux.cgroupsPath: making {path}")),
    }
}

/// Lets the cgroups below this one have controllers.
fn enable(path: &str, controllers: &[&str]) -> Result<(), Failure> {
    let file = format!("{path}/cgroup.subtree_control");
    controllers.iter().try_for_each(|name| {
        fs::write(&file, format!("+{name}"))
            .at(Stage::Config, || format!("linux.resources: the kernel gives no controller {name}"))
    })
}
