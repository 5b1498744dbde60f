//! Refuses what the types of the config can say but a containerVM cannot be.

use crate::failure::Failure;
use crate::namespaces::wants;
use crate::user_namespace;
use protocol::Stage::Config;
use protocol::oci::{Linux, NamespaceKind, Personality, Process, Spec};

/// Looks at a container's whole config.
pub fn container(config: &Spec) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Config, message));
    let Spec { oci_version: version, root, process, .. } = config;
    if !version.starts_with("1.") {
        return refuse(format!("ociVersion {version:?} is not supported: 1.x is"));
    }
    if root.path != "rootfs" {
        return refuse(format!(
            "root.path {:?} is not supported: the root is made of disks, say \"rootfs\"",
            root.path
        ));
    }
    if !wants(config, NamespaceKind::Mount) {
        return refuse("linux.namespaces lacks \"mount\": a container has a root of its own".into());
    }
    if config.domainname.is_some() && !wants(config, NamespaceKind::Uts) {
        return refuse("domainname needs \"uts\" in linux.namespaces".into());
    }
    if config.hostname.is_some() && !wants(config, NamespaceKind::Uts) {
        return refuse("hostname needs \"uts\" in linux.namespaces".into());
    }
    linux(&config.linux)?;
    self::process(process)
}

fn linux(linux: &Linux) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Config, message));
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        if linux.namespaces.iter().take(index).any(|other| other.kind == namespace.kind) {
            return refuse(format!("linux.namespaces has {:?} twice", namespace.kind));
        }
    }
    user_namespace::check(linux)?;
    let has_time = linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Time);
    if !linux.time_offsets.is_empty() && !has_time {
        return refuse("linux.timeOffsets needs \"time\" in linux.namespaces".into());
    }
    for (clock, offset) in &linux.time_offsets {
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return refuse(format!("linux.timeOffsets: {clock:?} is none of monotonic, boottime"));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return refuse(format!("linux.timeOffsets.{clock}: nanosecs {} make a second", offset.nanosecs));
        }
    }
    if let Some(Personality { domain, flags }) = &linux.personality {
        if !["LINUX", "LINUX32"].contains(&domain.as_str()) {
            return refuse(format!("linux.personality.domain {domain:?} is none of LINUX, LINUX32"));
        }
        if !flags.is_empty() {
            return refuse("linux.personality.flags are not supported: the runtime-spec has none".into());
        }
    }
    for (field, paths) in [("maskedPaths", &linux.masked_paths), ("readonlyPaths", &linux.readonly_paths)] {
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return refuse(format!("linux.{field}: {path:?} is not absolute"));
        }
    }
    if linux.has_seccomp() {
        return refuse("linux.seccomp has not been compiled by the host".into());
    }
    Ok(())
}

/// The same of a process.
pub fn process(process: &Process) -> Result<(), Failure> {
    if process.args.is_empty() {
        return Err(Failure::new(Config, "process.args is empty: there is no command to run"));
    }
    if !process.cwd.starts_with('/') {
        let why = format!("process.cwd {:?} is not an absolute path", process.cwd);
        return Err(Failure::new(Config, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let good = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": { "cwd": "/", "args": ["a"] },
            "root": { "path": "rootfs" },
            "linux": { "namespaces": [{ "type": "mount" }] }
        });
        let refusal = |path: &str, value: serde_json::Value| {
            let mut config = good.clone();
            if let Some(field) = config.pointer_mut(path) {
                *field = value;
            } else {
                let (parent, name) = path.rsplit_once('/').unwrap();
                config.pointer_mut(parent).unwrap()[name] = value;
            }
            container(&serde_json::from_value(config).unwrap()).err().map(|failure| failure.0.message)
        };
        assert_eq!(refusal("/hostname", serde_json::Value::Null), None, "it is good");
        let spaces = |kinds: &[&str]| {
            kinds.iter().map(|kind| serde_json::json!({ "type": kind })).collect::<Vec<_>>().into()
        };
        for (named, path, value) in [
            ("ociVersion \"2.0.0\"", "/ociVersion", "2.0.0".into()),
            ("root.path \"/\"", "/root/path", "/".into()),
            ("process.args is empty", "/process/args", serde_json::json!([])),
            ("process.cwd \"tmp\"", "/process/cwd", "tmp".into()),
            ("hostname needs", "/hostname", "h".into()),
            ("domainname needs", "/domainname", "d".into()),
            ("linux.namespaces lacks \"mount\"", "/linux/namespaces", spaces(&["pid"])),
            ("linux.namespaces has Pid twice", "/linux/namespaces", spaces(&["mount", "pid", "pid"])),
            (
                "linux.timeOffsets needs \"time\"",
                "/linux/timeOffsets",
                serde_json::json!({ "monotonic": {} }),
            ),
            (
                "linux.personality.domain \"BSD\"",
                "/linux/personality",
                serde_json::json!({ "domain": "BSD" }),
            ),
            ("linux.maskedPaths: \"a\"", "/linux/maskedPaths", serde_json::json!(["/b", "a"])),
            ("linux.readonlyPaths: \"a\"", "/linux/readonlyPaths", serde_json::json!(["a"])),
            (
                "linux.personality.flags",
                "/linux/personality",
                serde_json::json!({ "domain": "LINUX", "flags": ["x"] }),
            ),
        ] {
            let why = refusal(path, value).unwrap_or_default();
            assert!(why.starts_with(named), "{why:?} does not name {named}");
        }
        for (named, offsets) in [
            ("linux.timeOffsets: \"realtime\"", serde_json::json!({ "realtime": {} })),
            (
                "linux.timeOffsets.monotonic: nanosecs",
                serde_json::json!({ "monotonic": { "nanosecs": 1_000_000_000 } }),
            ),
        ] {
            let namespaces = spaces(&["mount", "time"]);
            let linux = serde_json::json!({ "namespaces": namespaces, "timeOffsets": offsets });
            let why = refusal("/linux", linux).unwrap_or_default();
            assert!(why.starts_with(named), "{why:?} does not name {named}");
        }
    }
}
