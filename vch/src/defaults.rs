//! What docker gives every container that does not say otherwise.
//!
//! Source: moby's `oci/defaults.go` and `oci/caps/defaults.go`.

use protocol::oci::{Capabilities, Linux, Mount, Namespace, NamespaceKind, Rlimit};

/// `PATH` where neither the image nor the user sets it.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities of every container.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Destination, type, source, options.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
];

/// Any user may listen on any port, and ping: moby's `daemon/oci_linux.go`.
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// The capability sets of root in a container that has these. Ambient stays empty, as in docker.
pub fn capabilities(names: &[String]) -> Capabilities {
    let names = || names.to_vec();
    Capabilities { bounding: names(), effective: names(), permitted: names(), ..Capabilities::default() }
}

/// The limits that docker's daemon has and its containers inherit: the kernel's own are too low for databases.
pub fn rlimits() -> Vec<Rlimit> {
    const UNLIMITED: u64 = u64::MAX;
    [("RLIMIT_NOFILE", 1024, 524_288), ("RLIMIT_NPROC", UNLIMITED, UNLIMITED)]
        .map(|(kind, soft, hard)| Rlimit { kind: kind.to_owned(), soft, hard })
        .to_vec()
}

/// The mounts, in their order.
pub fn mounts() -> Vec<Mount> {
    MOUNTS
        .iter()
        .map(|(destination, kind, source, options)| Mount {
            destination: (*destination).to_owned(),
            kind: (*kind).to_owned(),
            source: Some((*source).to_owned()),
            options: options.split(',').map(str::to_owned).collect(),
        })
        .collect()
}

/// Namespaces, kernel parameters and hidden paths. The network is the VM's own: there is nobody to hide it from.
pub fn linux() -> Linux {
    use NamespaceKind::{Cgroup, Ipc, Mount, Pid, Uts};
    Linux {
        namespaces: [Pid, Mount, Ipc, Uts, Cgroup].map(|kind| Namespace { kind }).to_vec(),
        masked_paths: MASKED.map(str::to_owned).to_vec(),
        readonly_paths: READONLY.map(str::to_owned).to_vec(),
        sysctl: SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Linux::default()
    }
}
