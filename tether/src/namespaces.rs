//! The container's namespaces, namespaces(7).

use crate::boot;
use crate::failure::{Context, Failure};
use nix::sched::{CloneFlags, setns, unshare};
use protocol::Stage::Config;
use protocol::oci::{NamespaceKind, Spec, TimeOffset};
use std::fs;
use std::os::fd::OwnedFd;

/// Whether the config asks for a new namespace of this kind.
pub fn wants(config: &Spec, kind: NamespaceKind) -> bool {
    config.linux.namespaces.iter().any(|namespace| namespace.kind == kind)
}

/// `CLONE_NEWTIME`, which nix does not know.
pub const TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The namespaces that the container has of its own.
pub fn of(config: &Spec) -> CloneFlags {
    let flags = config.linux.namespaces.iter().map(|namespace| match namespace.kind {
        NamespaceKind::Pid => CloneFlags::empty(), // by the fork, see `process`
        NamespaceKind::User => CloneFlags::empty(), // see `user_namespace`
        NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
        NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
        NamespaceKind::Time => TIME,
    });
    flags.fold(CloneFlags::empty(), CloneFlags::union)
}

/// Moves the calling process into new ones; where they have been made, into these.
pub fn enter(config: &Spec, made: Option<&[(OwnedFd, CloneFlags)]>) -> Result<(), Failure> {
    let flags = of(config);
    match made {
        Some(made) => made.iter().try_for_each(|(namespace, flag)| {
            setns(namespace, *flag).at(Config, || format!("entering linux.namespaces ({flag:?})"))
        })?,
        None => unshare(flags).at(Config, || format!("making linux.namespaces ({flags:?})"))?,
    }
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        boot::bring_loopback_up()?;
    }
    if flags.contains(TIME) && made.is_none() {
        enter_time_namespace(config)?;
    }
    Ok(())
}

/// The new time namespace is for children only, and gets its offsets before anyone is in it (time_namespaces(7)).
fn enter_time_namespace(config: &Spec) -> Result<(), Failure> {
    set_time_offsets(config, "self")?;
    let namespace =
        fs::File::open("/proc/self/ns/time_for_children").at(Config, || "opening the new time namespace")?;
    setns(namespace, TIME).at(Config, || "entering the new time namespace")
}

/// Sets the offsets of the time namespace that a process has made, its name in `/proc` being that.
pub fn set_time_offsets(config: &Spec, process: &str) -> Result<(), Failure> {
    config.linux.time_offsets.iter().try_for_each(|(clock, TimeOffset { secs, nanosecs })| {
        fs::write(format!("/proc/{process}/timens_offsets"), format!("{clock} {secs} {nanosecs}"))
            .at(Config, || format!("setting linux.timeOffsets.{clock} to {secs} s, {nanosecs} ns"))
    })
}
