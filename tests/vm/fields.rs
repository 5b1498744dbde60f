//! The OCI config's fields, many in one boot: as a script sees them from inside.

use crate::harness::{Test, run_changed};
use crate::tests;
use anyhow::{Context, Result, ensure};
use protocol::MachineSpec;
use protocol::oci::{self, Mount, Namespace, NamespaceKind};
use serde_json::json;
use std::collections::BTreeMap;

pub fn tests() -> Vec<Test> {
    tests![
        process_and_namespaces,
        resources,
        other_values,
        mounts,
        devices,
        seccomp_actions,
        seccomp_without_privileges,
        refused
    ]
}

/// `NAME=VALUE` lines.
fn words(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Runs the script and compares what it says, name by name.
fn says(script: &str, change: impl FnOnce(&mut MachineSpec), wanted: &[(&str, &str)]) -> Result<()> {
    let text = run_changed(script, change)?;
    let said = words(&text);
    for (name, value) in wanted {
        ensure!(said.get(name) == Some(value), "{name} is {:?}, not {value:?}; all: {text}", said.get(name));
    }
    Ok(())
}

fn from_json<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap_or_else(|error| panic!("{error}"))
}

fn process_and_namespaces() -> Result<()> {
    let script = r#"
        read -r stat < /proc/$$/stat
        set -- ${stat##*)}
        echo "nice=${17}"; echo "policy=${39}"
        echo "io=$(ionice -p $$)"
        echo "machine=$(uname -m)"
        read -r up rest < /proc/uptime; up=${up%.*}
        [ $up -ge 5000000 ] && echo "boottime=shifted"
        echo "offsets=$(echo $(cat /proc/self/timens_offsets))"
        grep -q ' / .* shared:' /proc/self/mountinfo && echo "root=shared"
        echo "groups=$(id -G)"
        echo "apparmor=$(cat /proc/self/attr/current 2>/dev/null)"
    "#;
    let change = |machine: &mut MachineSpec| {
        machine.user = None;
        machine.groups = vec!["nogroup".into(), "77".into()];
        let process = &mut machine.config.process;
        process.user.additional_gids = vec![5];
        process.scheduler = Some(from_json(json!({ "policy": "SCHED_BATCH", "nice": 5 })));
        process.io_priority = Some(from_json(json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 })));
        process.exec_cpu_affinity = Some(from_json(json!({ "initial": "0", "final": "0" })));
        process.apparmor_profile = Some("unconfined".into());
        let linux = &mut machine.config.linux;
        linux.personality = Some(from_json(json!({ "domain": "LINUX32" })));
        linux.rootfs_propagation = Some("shared".into());
        linux.namespaces.push(Namespace { kind: NamespaceKind::Time });
        linux.time_offsets = from_json(json!({
            "boottime": { "secs": 5_000_000, "nanosecs": 7 },
            "monotonic": { "secs": 77 }
        }));
    };
    let wanted = [
        ("nice", "5"),
        ("policy", "3"),
        ("io", "best-effort: prio 6"),
        ("machine", "i686"),
        ("boottime", "shifted"),
        ("offsets", "monotonic 77 0 boottime 5000000 7"),
        ("root", "shared"),
        ("groups", "0 5 77 65534"),
    ];
    says(script, change, &wanted)
}

fn resources() -> Result<()> {
    let files = [
        ("memory.max", "104857600"),
        ("memory.low", "1048576"),
        ("memory.swap.max", "10485760"),
        ("memory.high", "94371840"),
        ("cpu.weight", "39"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "1000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "50"),
        ("io.weight", "default 4950"),
        ("hugetlb.2MB.max", "4194304"),
    ];
    let names = files.map(|(name, _)| name).join(" ");
    let script = format!(
        "echo place=$(cat /proc/self/cgroup); cd /sys/fs/cgroup/made/for-it; for file in {names}; do echo $file=$(cat $file); done;
         echo io=$(cut -d ' ' -f 2- io.max)"
    );
    let disk = run_changed("cat /sys/block/vda/dev", |_| {})?;
    let (major, minor) = disk.trim().split_once(':').context("no numbers of a disk")?;
    let (major, minor): (u32, u32) = (major.parse()?, minor.parse()?);
    let change = |machine: &mut MachineSpec| {
        let linux = &mut machine.config.linux;
        // The VM's own, so that the path and the files can be seen.
        linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Cgroup);
        linux.cgroups_path = Some("/made/for-it".into());
        linux.resources = from_json(json!({
            "memory": { "limit": 104_857_600, "reservation": 1 << 20, "swap": 115_343_360 },
            "cpu": { "shares": 1024, "quota": 50000, "period": 200_000, "burst": 1000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 50 },
            "blockIO": {
                "weight": 500,
                "throttleReadBpsDevice": [{ "major": major, "minor": minor, "rate": 1 << 20 }],
                "throttleWriteBpsDevice": [{ "major": major, "minor": minor, "rate": 2 << 20 }],
                "throttleReadIOPSDevice": [{ "major": major, "minor": minor, "rate": 200 }],
                "throttleWriteIOPSDevice": [{ "major": major, "minor": minor, "rate": 100 }]
            },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }],
            "unified": { "memory.high": "94371840" }
        }));
    };
    let mut wanted =
        vec![("place", "0::/made/for-it"), ("io", "rbps=1048576 wbps=2097152 riops=200 wiops=100")];
    wanted.extend(files);
    says(&script, change, &wanted)
}

/// What excludes what [`resources`] and [`process_and_namespaces`] ask for.
fn other_values() -> Result<()> {
    let script = r#"
        read -r stat < /proc/$$/stat
        set -- ${stat##*)}
        echo "policy=${39}"; echo "priority=${38}"
        echo "io=$(ionice -p $$)"
        echo "idle=$(cat /sys/fs/cgroup/cpu.idle)"
    "#;
    let change = |machine: &mut MachineSpec| {
        let config = &mut machine.config;
        config.process.scheduler = Some(from_json(json!({ "policy": "SCHED_FIFO", "priority": 7 })));
        config.process.io_priority = Some(from_json(json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 })));
        config.linux.resources = from_json(json!({ "cpu": { "idle": 1 } }));
    };
    let wanted = [("policy", "1"), ("priority", "7"), ("io", "idle"), ("idle", "1")];
    says(script, change, &wanted)
}

fn mounts() -> Result<()> {
    let script = r#"
        echo "folder=$(stat -c %a /made)"
        echo "bound=$(grep ' /bound ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-3)"
        (echo x > /bound/new) 2>/dev/null || echo "bind=read-only"
        echo "file=$(cmp /etc/passwd /made/copy && echo same)"
        (echo x > /tree/dev/shm/x) 2>/dev/null || echo "below=read-only"
        echo x > /dev/shm/x && echo "origin=writable"
        grep ' /tree/dev ' /proc/mounts | grep -q noexec || echo "tree=as it was"
        grep ' /links ' /proc/mounts | grep -q nosymfollow && echo "links=not followed"
        echo "again=$(grep ' /again ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1)"
        echo "up=$(readlink /bin/sh) $(stat -c %a /bin/busybox) $(stat -c %a /bin) $(stat -c %a /home)"
        grep ' /bin ' /proc/mounts | grep -q ^copy && ! (echo x > /bin/new) 2>/dev/null && echo "copy=read-only"
        grep -q ' /spread .* shared:' /proc/self/mountinfo && echo "spread=shared"
    "#;
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: Some(source.into()),
        options: options.iter().map(ToString::to_string).collect(),
    };
    let change = |machine: &mut MachineSpec| {
        machine.config.mounts.extend([
            mount("/bound", "bind", "/etc", &["ro", "nosuid", "nodev"]),
            mount("/made/copy", "", "/etc/passwd", &["bind"]),
            mount("/tree/dev", "none", "/dev", &["rbind", "rro"]),
            mount("/links", "tmpfs", "links", &["nosymfollow"]),
            mount("/again", "tmpfs", "again", &["size=1m"]),
            mount("/again", "tmpfs", "again", &["remount", "ro"]),
            mount("/bin", "tmpfs", "copy", &["tmpcopyup", "ro", "size=16m"]),
            mount("/home", "tmpfs", "home", &["mode=700"]),
            mount("/spread", "tmpfs", "spread", &["rshared"]),
        ]);
    };
    let wanted = [
        ("folder", "755"),
        ("bound", "ro,nosuid,nodev"),
        ("bind", "read-only"),
        ("file", "same"),
        ("below", "read-only"),
        ("origin", "writable"),
        ("tree", "as it was"),
        ("links", "not followed"),
        ("again", "ro"),
        ("up", "busybox 755 755 700"),
        ("copy", "read-only"),
        ("spread", "shared"),
    ];
    says(script, change, &wanted)
}

fn devices() -> Result<()> {
    let script = r#"
        echo "mine=$(stat -c '%F %t:%T %a %u:%g' /dev/sub/mine)"
        echo "folder=$(stat -c %a /dev/sub)"
        echo "pipe=$(stat -c '%F %a' /dev/pipe)"
        echo x > /dev/sub/mine && echo "null=used"
        mknod /tmp-tty c 4 0 && echo "mknod=allowed"
        echo "tty=$( (: < /tmp-tty) 2>&1 | grep -o 'Operation not permitted')"
        mknod /tmp-full c 1 7 && dd if=/tmp-full of=/dev/null bs=1 count=1 2>/dev/null && echo "default=allowed"
        mknod /tmp-msg c 1 11
        (: > /tmp-msg) && echo "write=allowed"
        echo "read=$( (: < /tmp-msg) 2>&1 | grep -o 'Operation not permitted')"
        echo "given=$(stat -c '%F %t:%T' /dev/the-log)"
    "#;
    let change = |machine: &mut MachineSpec| {
        let linux = &mut machine.config.linux;
        linux.devices = from_json(json!([
            { "type": "c", "path": "/dev/sub/mine", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 },
            { "type": "p", "path": "/dev/pipe" },
            { "type": "u", "path": "/dev/null", "major": 1, "minor": 3 }
        ]));
        linux.resources.devices = from_json(json!([
            { "allow": true, "type": "c", "major": 4, "minor": 0, "access": "rw" },
            { "allow": false },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" }
        ]));
        machine.devices = from_json(json!([
            { "source": "/dev/kmsg", "destination": "/dev/the-log", "access": "w" }
        ]));
    };
    let wanted = [
        ("folder", "755"),
        ("mine", "character special file 1:3 640 7:8"),
        ("pipe", "fifo 666"),
        ("null", "used"),
        ("mknod", "allowed"),
        ("tty", "Operation not permitted"),
        ("default", "allowed"),
        ("write", "allowed"),
        ("read", "Operation not permitted"),
        ("given", "character special file 1:b"),
    ];
    says(script, change, &wanted)
}

/// A filter with every action that a script can tell from the others.
fn profile() -> oci::Seccomp {
    let kill = |op: &str, value: u64, two: u64, errno: u32| {
        let args = json!([{ "index": 1, "value": value, "valueTwo": two, "op": op }]);
        json!({ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args })
    };
    from_json(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["rmdir"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["link", "linkat"], "action": "SCMP_ACT_TRACE" },
            { "names": ["chroot"], "action": "SCMP_ACT_LOG" },
            { "names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["settimeofday", "clock_settime"], "action": "SCMP_ACT_TRAP" },
            { "names": ["sync"], "action": "SCMP_ACT_KILL_THREAD" },
            kill("SCMP_CMP_MASKED_EQ", 0xf0, 0x10, 11),
            kill("SCMP_CMP_EQ", 0, 0, 12),
            kill("SCMP_CMP_GT", 40, 0, 13)
        ]
    }))
}

const TRIES: &str = r#"
    echo "mode=$(grep -w Seccomp /proc/self/status | tr -dc 0-9) $(grep NoNewPrivs /proc/self/status | tr -dc 0-9)"
    why() { "$@" 2>&1 >/dev/null | grep -oE 'Operation not (supported|permitted)|Function not implemented|Resource temporarily|Cannot allocate|Permission denied' | head -1; }
    echo "errno=$(why mkdir /d)"
    echo "eperm=$(why rmdir /no)"
    echo "trace=$(why ln /bin/busybox /l)"
    chroot / true; echo "log=$?"
    (hostname x) 2>/dev/null; echo "process=$?"
    (date -s 2030-01-01) >/dev/null 2>&1; echo "trap=$?"
    (sync) 2>/dev/null; echo "thread=$?"
    sleep 1000 & echo "masked=$(why /bin/kill -CONT $!)"
    echo "equal=$(why /bin/kill -0 $!)"
    echo "greater=$(why /bin/kill -50 $!)"
    /bin/kill -KILL $!; echo "allowed=$?"
"#;

fn seccomp_actions() -> Result<()> {
    let change = |machine: &mut MachineSpec| {
        machine.config.process.capabilities.get_or_insert_default().bounding.push("CAP_SYS_ADMIN".into());
        machine.config.linux.seccomp = Some(profile());
    };
    let wanted = [
        ("mode", "2 0"),
        ("errno", "Operation not supported"),
        ("eperm", "Operation not permitted"),
        ("trace", "Function not implemented"),
        ("log", "0"),
        ("process", "159"),
        ("trap", "159"),
        ("thread", "159"),
        ("masked", "Resource temporarily"),
        ("equal", "Cannot allocate"),
        ("greater", "Permission denied"),
        ("allowed", "0"),
    ];
    says(TRIES, change, &wanted)
}

/// Without a capability that a filter needs: it is loaded last, and needs no more than an exec.
fn seccomp_without_privileges() -> Result<()> {
    let change = |machine: &mut MachineSpec| {
        machine.user = None;
        let process = &mut machine.config.process;
        (process.user.uid, process.user.gid) = (1000, 1000);
        (process.no_new_privileges, process.capabilities) = (true, None);
        let mut profile = profile();
        // Of what tether does on the way to the exec, nothing comes after it.
        profile.syscalls.push(from_json(json!({
            "names": ["close_range", "capset", "setresuid", "setgroups"], "action": "SCMP_ACT_KILL_PROCESS"
        })));
        machine.config.linux.seccomp = Some(profile);
    };
    says(TRIES, change, &[("mode", "2 1"), ("errno", "Operation not supported"), ("thread", "159")])
}

/// What only the guest's kernel can refuse; the other bad values are in the tests of tether's and vch's own.
fn refused() -> Result<()> {
    type Row = (fn(&mut MachineSpec), &'static str);
    let rows: [Row; 5] = [
        (
            |machine| machine.config.process.apparmor_profile = Some("no-such-profile".into()),
            "process.apparmorProfile \"no-such-profile\"",
        ),
        (
            |machine| machine.config.process.selinux_label = Some("a:b:c:d".into()),
            "process.selinuxLabel \"a:b:c:d\"",
        ),
        (
            |machine| {
                machine.config.linux.resources.block_io = Some(from_json(json!({
                    "weightDevice": [{ "major": 1, "minor": 2, "weight": 10 }]
                })));
            },
            "linux.resources.blockIO.weightDevice",
        ),
        (
            |machine| {
                machine.config.linux.resources.unified.insert("memory.no-such-file".into(), "1".into());
            },
            "linux.resources.unified.memory.no-such-file",
        ),
        (
            |machine| {
                machine.devices = from_json(json!([
                    { "source": "/dev/no-such-device", "destination": "/dev/x", "access": "r" }
                ]));
            },
            "/dev/no-such-device",
        ),
    ];
    for (change, named) in rows {
        let error =
            run_changed("true", change).err().with_context(|| format!("it ran, in spite of {named}"))?;
        ensure!(format!("{error:#}").contains(named), "{error:#} does not name {named}");
    }
    Ok(())
}
