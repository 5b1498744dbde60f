//! The container's cgroup (cgroup v2): so that all of it can be found and killed.

use crate::failure::{Context, Failure};
use crate::{device_filter, resources};
use nix::errno::Errno;
use nix::unistd::Pid;
use protocol::Stage;
use protocol::oci::{Mount, Spec};
use std::fs;

const ROOT: &str = "/sys/fs/cgroup";
/// Its path below [`ROOT`], if the config does not say another.
const DEFAULT: &str = "container";

/// The controllers that count what a container uses.
const COUNTING: &str = "memory io pids";

/// The cgroup that every process of the container is in.
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// Makes the cgroup, with its limits.
    pub fn create(config: &Spec) -> Result<Self, Failure> {
        let linux = &config.linux;
        let wanted = linux.cgroups_path.as_deref().unwrap_or(DEFAULT).trim_matches('/');
        if wanted.split('/').any(|name| ["", ".", ".."].contains(&name)) {
            let why = format!("linux.cgroupsPath {wanted:?} is no path of a cgroup");
            return Err(Failure::new(Stage::Config, why));
        }
        let controllers = resources::controllers(&linux.resources);
        let others = others(config);
        let mut path = ROOT.to_owned();
        for name in wanted.split('/') {
            enable(&path, &controllers)?;
            make_below(&mut path, name, &others)?;
        }
        keep_some_back(&path);
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

    /// Whether all that is in it stands still: whoever enters it would, too.
    pub fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(format!("{}/cgroup.events", self.path));
        events.is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
    }

    /// Kills everything in it (Documentation/admin-guide/cgroup-v2.rst, `cgroup.kill`). It goes with the machine.
    pub fn kill(&self) -> Result<(), Failure> {
        let path = format!("{}/cgroup.kill", self.path);
        fs::write(&path, "1").at(Stage::Run, || format!("killing what is left by {path}"))
    }
}

/// Makes the cgroup that most containers are in, for a machine that will be copied.
pub fn prepare() -> Result<(), Failure> {
    make_below(&mut ROOT.to_owned(), DEFAULT, &plus(COUNTING))
}

/// Makes a cgroup below the one at `path`, which becomes its own.
fn make_below(path: &mut String, name: &str, controllers: &str) -> Result<(), Failure> {
    // Which can be done without.
    let _without = fs::write(format!("{path}/cgroup.subtree_control"), controllers);
    *path = format!("{path}/{name}");
    match fs::create_dir(&path) {
        // In a copy of a machine where it was prepared.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at(Stage::Config, || format!("linux.cgroupsPath: making {path}")),
    }
}

/// Limits where none are given, so that whatever the container does, what is outside of it still works, and can end it: a little
/// less than all the memory that is free, and half of the tasks that the kernel takes. A kernel without these controllers has no
/// such limits.
fn keep_some_back(path: &str) {
    const MOST: u64 = 16 << 20;
    if let Ok(info) = nix::sys::sysinfo::sysinfo() {
        let memory = info.ram_unused().saturating_sub((info.ram_total() / 64).min(MOST));
        let _unlimited = fs::write(format!("{path}/memory.max"), memory.to_string());
    }
    let tasks = fs::read_to_string("/proc/sys/kernel/threads-max").ok();
    if let Some(tasks) = tasks.and_then(|text| text.trim().parse::<u64>().ok()) {
        let _unlimited = fs::write(format!("{path}/pids.max"), (tasks / 2).to_string());
    }
}

/// Controllers besides those that limits need, as `cgroup.subtree_control` takes them: for statistics, or all that there are, as
/// runc has it, for a container that may make cgroups of its own (an engine in the container does).
fn others(config: &Spec) -> String {
    let is_writable = |mount: &Mount| {
        mount.kind.starts_with("cgroup") && !mount.options.iter().any(|option| option == "ro")
    };
    if config.mounts.iter().any(is_writable) {
        plus(&fs::read_to_string(format!("{ROOT}/cgroup.controllers")).unwrap_or_default())
    } else {
        plus(COUNTING)
    }
}

/// The names with a plus each.
fn plus(names: &str) -> String {
    names.split_ascii_whitespace().fold(String::new(), |text, name| format!("{text}+{name} "))
}

/// Lets the cgroups below this one have controllers.
fn enable(path: &str, controllers: &[&str]) -> Result<(), Failure> {
    let file = format!("{path}/cgroup.subtree_control");
    controllers.iter().try_for_each(|name| {
        fs::write(&file, format!("+{name}"))
            .at(Stage::Config, || format!("linux.resources: the kernel gives no controller {name}"))
    })
}
