//! Our config types against the crate that knows the whole runtime-spec, and against the README's table of its fields.

use oci_spec::runtime as theirs;
use protocol::oci;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::json;
use std::collections::BTreeMap;

/// Every field that is applied, with a value that is not its default.
fn config() -> serde_json::Value {
    let throttle = json!([{ "major": 254, "minor": 16, "rate": 1000 }]);
    let mut config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "consoleSize": { "height": 24, "width": 80 },
            "cwd": "/",
            "env": ["A=b=c d"],
            "args": ["sh", "-c", "a, \"b\"\n"],
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }],
            "user": { "uid": 1, "gid": 2, "umask": 0o27, "additionalGids": [3, 4] },
            "capabilities": {
                "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
                "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]
            },
            "noNewPrivileges": true,
            "oomScoreAdj": -5,
            "scheduler": {
                "policy": "SCHED_DEADLINE", "nice": 1, "priority": 2, "flags": ["SCHED_FLAG_RECLAIM"],
                "runtime": 3, "deadline": 4, "period": 5
            },
            "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 3 },
            "execCPUAffinity": { "initial": "0", "final": "1-2" },
            "apparmorProfile": "a",
            "selinuxLabel": "b"
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "h",
        "domainname": "d",
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
        "annotations": { "k": "v" },
    });
    config["linux"] = json!({
        "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "time" }, { "type": "user" }],
        "uidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65536 }],
        "gidMappings": [{ "containerID": 1, "hostID": 2, "size": 3 }],
        "timeOffsets": { "monotonic": { "secs": -1, "nanosecs": 2 } },
        "devices": [{ "type": "c", "path": "/dev/x", "major": 1, "minor": 2, "fileMode": 0o600, "uid": 3, "gid": 4 }],
        "cgroupsPath": "/a/b",
        "rootfsPropagation": "slave",
        "personality": { "domain": "LINUX32", "flags": ["x"] },
        "sysctl": { "kernel.x": "1" },
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "resources": {
            "devices": [{ "allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm" }],
            "memory": { "limit": 3, "reservation": 2, "swap": 4 },
            "cpu": { "shares": 2, "quota": 3, "period": 4, "burst": 5, "idle": 1, "cpus": "0", "mems": "0" },
            "pids": { "limit": 7 },
            "blockIO": {
                "weight": 10, "weightDevice": [{ "major": 8, "minor": 0, "weight": 10 }],
                "throttleReadBpsDevice": throttle, "throttleWriteBpsDevice": throttle,
                "throttleReadIOPSDevice": throttle, "throttleWriteIOPSDevice": throttle
            },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 5 }],
            "unified": { "memory.high": "1" }
        }
    });
    if cfg!(feature = "seccomp") {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{
                "names": ["clone"], "action": "SCMP_ACT_TRACE", "errnoRet": 2,
                "args": [{ "index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ" }]
            }]
        });
    }
    config
}

#[test]
fn a_config_reads_the_same_with_oci_spec() {
    let ours: oci::Spec = serde_json::from_value(config()).unwrap();
    assert_eq!(serde_json::to_value(&ours).unwrap(), config(), "as we write it");
    let theirs: theirs::Spec = serde_json::from_value(config()).unwrap();
    let back: oci::Spec = serde_json::from_value(serde_json::to_value(&theirs).unwrap()).unwrap();
    assert_eq!(back, ours);
}

#[test]
fn unsupported_fields_are_named() {
    let base = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":["a"]},"root":{"path":"rootfs"}"#;
    for (field, more) in [
        ("hooks", r#","hooks":{}}"#),
        ("path", r#","linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#),
        ("hostId", r#","linux":{"uidMappings":[{"containerID":0,"hostId":0,"size":1}]}}"#),
        ("x", r#","linux":{"gidMappings":[{"containerID":0,"hostID":0,"size":1,"x":1}]}}"#),
        ("mountLabel", r#","linux":{"mountLabel":"x"}}"#),
        ("intelRdt", r#","linux":{"intelRdt":{}}}"#),
        ("memoryPolicy", r#","linux":{"memoryPolicy":{}}}"#),
        ("netDevices", r#","linux":{"netDevices":{}}}"#),
        ("uidMappings", r#","mounts":[{"destination":"/x","type":"bind","uidMappings":[]}]}"#),
        ("windows", r#","windows":{}}"#),
    ] {
        let error = serde_json::from_str::<oci::Spec>(&format!("{base}{more}")).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

/// Takes the fields of a struct from its `Deserialize`, which says them before it reads anything.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Error::custom("that was all"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    let _never_made = T::deserialize(Fields(&mut fields));
    fields
}

/// Every object of the config: its path, the fields that the runtime-spec has, and those that we have.
fn objects() -> Vec<(&'static str, &'static [&'static str], &'static [&'static str])> {
    macro_rules! objects {
        ($($path:literal: $theirs:ident $(= $ours:ident)?),* $(,)?) => {
            vec![$(($path, fields::<theirs::$theirs>(), objects!(@ $($ours)?))),*]
        };
        (@ $ours:ident) => { fields::<oci::$ours>() };
        (@) => { &[] };
    }
    objects! {
        "": Spec = Spec,
        "process.": Process = Process,
        "process.consoleSize.": Box = ConsoleSize,
        "process.user.": User = User,
        "process.capabilities.": LinuxCapabilities = Capabilities,
        "process.rlimits[].": PosixRlimit = Rlimit,
        "process.scheduler.": Scheduler = Scheduler,
        "process.ioPriority.": LinuxIOPriority = IoPriority,
        "process.execCPUAffinity.": ExecCPUAffinity = ExecCpuAffinity,
        "root.": Root = Root,
        "mounts[].": Mount = Mount,
        "linux.": Linux = Linux,
        "linux.namespaces[].": LinuxNamespace = Namespace,
        "linux.uidMappings[].": LinuxIdMapping = IdMapping,
        "linux.gidMappings[].": LinuxIdMapping = IdMapping,
        "linux.timeOffsets{}.": LinuxTimeOffset = TimeOffset,
        "linux.devices[].": LinuxDevice = Device,
        "linux.personality.": LinuxPersonality = Personality,
        "linux.seccomp.": LinuxSeccomp = Seccomp,
        "linux.seccomp.syscalls[].": LinuxSyscall = Syscalls,
        "linux.seccomp.syscalls[].args[].": LinuxSeccompArg = Argument,
        "linux.resources.": LinuxResources = Resources,
        "linux.resources.devices[].": LinuxDeviceCgroup = DeviceRule,
        "linux.resources.memory.": LinuxMemory = Memory,
        "linux.resources.cpu.": LinuxCpu = Cpu,
        "linux.resources.pids.": LinuxPids = Pids,
        "linux.resources.blockIO.": LinuxBlockIo = BlockIo,
        "linux.resources.blockIO.weightDevice[].": LinuxWeightDevice = WeightDevice,
        "linux.resources.blockIO.throttle*Device[].": LinuxThrottleDevice = ThrottleDevice,
        "linux.resources.hugepageLimits[].": LinuxHugepageLimit = HugepageLimit,
    }
}

/// The README's table: each field, and whether it is applied. The third cell of a row has the fields of its own, first
/// those that are applied.
fn table() -> BTreeMap<String, bool> {
    let mut table = BTreeMap::new();
    let mut add = |field: String, applied| {
        assert!(table.insert(field.clone(), applied).is_none(), "{field} is there twice");
    };
    for line in include_str!("../../README.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (field, word, fields) = (cells[1].trim_matches('`'), cells[2], cells[3]);
        if !["applied", "refused"].contains(&word) {
            continue;
        }
        add(field.to_owned(), word == "applied");
        let (applied, refused) = fields.split_once("refused:").unwrap_or((fields, ""));
        for (names, applied) in [(applied, true), (refused, false)] {
            for name in names.split('`').skip(1).step_by(2) {
                add(format!("{field}.{name}"), applied);
            }
        }
    }
    table
}

#[test]
fn the_readme_has_a_row_for_each_field() {
    /// What oci-spec still reads, and the runtime-spec does not have.
    const NOT_IN_THE_SPEC: [&str; 4] =
        ["uidMappings", "gidMappings", "linux.resources.memory.kernelTcp", "linux.intelRdt.enableCMT"];
    let mut wanted = BTreeMap::new();
    for (path, theirs, ours) in objects() {
        assert!(!theirs.is_empty(), "{path}");
        for field in theirs {
            wanted.insert(format!("{path}{field}").replace("[]", "").replace("{}", ""), ours.contains(field));
        }
        for field in ours {
            assert!(theirs.contains(field), "{path}{field} is ours alone");
        }
    }
    for field in NOT_IN_THE_SPEC {
        wanted.remove(field);
    }
    let table = table();
    let rows = |map: &BTreeMap<String, bool>| {
        let word = |applied: &bool| if *applied { "applied" } else { "refused" };
        map.iter().map(|(field, applied)| format!("{field}: {}", word(applied))).collect::<Vec<_>>()
    };
    let (wanted, table) = (rows(&wanted), rows(&table));
    let missing: Vec<_> = wanted.iter().filter(|row| !table.contains(row)).collect();
    let wrong: Vec<_> = table.iter().filter(|row| !wanted.contains(row)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "to be added: {missing:#?}\nto be removed: {wrong:#?}");
}
