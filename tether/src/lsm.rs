//! Security modules: what they shall do with the process from its exec on.

use crate::failure::{Context, Failure};
use protocol::Stage::Config;
use protocol::oci::Process;
use std::fs;

/// Sets what the calling process is under, after its exec. By tether's own `/proc` and `/sys`.
pub fn apply(process: &Process) -> Result<(), Failure> {
    if let Some(profile) = process.apparmor_profile.as_deref().filter(|name| !name.is_empty()) {
        let on = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
        match (on, profile) {
            (true, _) => at_exec("apparmor/exec", &format!("exec {profile}"), "apparmorProfile", profile)?,
            (false, "unconfined") => {}
            (false, _) => return refused("apparmorProfile", profile, "AppArmor"),
        }
    }
    match process.selinux_label.as_deref().filter(|label| !label.is_empty()) {
        None => Ok(()),
        // It is there if, and only if, SELinux is on.
        Some(label) if fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("selinuxfs")) => {
            at_exec("exec", label, "selinuxLabel", label)
        }
        Some(label) => refused("selinuxLabel", label, "SELinux"),
    }
}

fn at_exec(file: &str, said: &str, field: &str, value: &str) -> Result<(), Failure> {
    fs::write(format!("/proc/thread-self/attr/{file}"), said)
        .at(Config, || format!("process.{field} {value:?}: telling the kernel"))
}

fn refused(field: &str, value: &str, module: &str) -> Result<(), Failure> {
    let why = format!("process.{field} {value:?} is not supported: the guest's kernel runs without {module}");
    Err(Failure::new(Config, why))
}
