//! A user namespace of the container's own: who its users are, what they may do in it, and what not.

use crate::background::Background;
use crate::harness::{Test, command_with_store, eventually, run_changed};
use crate::tests;
use anyhow::{Result, ensure};
use protocol::MachineSpec;
use protocol::oci::{IdMapping, Mount, Namespace, NamespaceKind};
use serde_json::{from_value, json};

pub fn tests() -> Vec<Test> {
    tests![of_the_config, bad_values, of_the_command_line]
}

fn maps(machine: &mut MachineSpec, ids: [(u32, u32, u32); 2]) {
    let linux = &mut machine.config.linux;
    linux.namespaces.push(Namespace { kind: NamespaceKind::User });
    let all = |maps: &[(u32, u32, u32)]| {
        let map = |&(container_id, host_id, size)| IdMapping { container_id, host_id, size };
        maps.iter().map(map).collect()
    };
    (linux.uid_mappings, linux.gid_mappings) = (all(&ids), all(&ids));
}

/// As the runtime-spec has it: files of the root keep their owners, all else is the container's.
fn of_the_config() -> Result<()> {
    let script = r#"
        echo "maps=$(tr -s ' ' < /proc/self/uid_map | tr '\n' ,)$(tr -s ' ' < /proc/self/gid_map | tr '\n' ,)"
        id=$(id -u):$(id -g); echo "id=$id"
        echo "owners=$(stat -c %u:%g /proc/self/status /dev/shm /dev/null /made /bin /mine /dev/mine | tr '\n' ' ')"
        echo "spaces=$(for kind in user mnt uts ipc pid cgroup net; do readlink /proc/self/ns/$kind; done | sort -u | wc -l)"
        echo "status=$(grep -E '^(Cap(Prm|Bnd)|Seccomp:)' /proc/self/status | tr '\t\n' ' ,')"
        echo "limits=$(ulimit -n) $(cat /proc/self/oom_score_adj)"
        try() { "$@" > /dev/null 2>&1 && echo -n "yes " || echo -n "no "; }
        year() { date -s 2030-01-01; [ "$(date +%Y)" = 2030 ]; }
        echo "inside=$(try hostname new; try mount -t tmpfs mine /home; try chown 1:1 /dev/shm; try su-nobody; try chown 70000 /dev/shm)"
        mount -t tmpfs mine /home
        echo "outside=$(try mknod /home/disk b 254 0; try year; try sysctl -w kernel.panic=7; try touch /bin/new; try chown 0 /bin; try mount -t proc proc /home; try dmesg -n 3)"
        echo "net=$(cat /sys/class/net/lo/flags) $(cut -d' ' -f1 /proc/uptime | cut -c1-3)"
        cat /proc/1/environ > /dev/null 2>&1 || echo "init=hidden"
    "#;
    let text = run_changed(script, |machine| {
        maps(machine, [(0, 100_000, 1000), (1000, 7, 1)]);
        let process = &mut machine.config.process;
        process.cwd = "/made/too".into();
        process.oom_score_adj = Some(-300);
        let capabilities = process.capabilities.get_or_insert_default();
        for set in [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted] {
            set.extend(["CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_SYSLOG"].map(String::from));
        }
        let options = ["uid=1000", "gid=5", "mode=700"].map(String::from).to_vec();
        let kind = "tmpfs".to_owned();
        machine.config.mounts.push(Mount { destination: "/mine".into(), kind, source: None, options });
        let linux = &mut machine.config.linux;
        linux.devices = from_value(json!([
            { "type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "uid": 1000 }
        ]))
        .expect("a device");
        machine.network = Default::default();
        for kind in [NamespaceKind::Network, NamespaceKind::Time] {
            linux.namespaces.push(Namespace { kind });
        }
        linux.time_offsets = from_value(json!({ "boottime": { "secs": 5_000_000 } })).expect("offsets");
        machine.seccomp = None;
    })?;
    let wanted = [
        "maps= 0 100000 1000, 1000 7 1, 0 100000 1000, 1000 7 1,",
        "id=0:0",
        "owners=0:0 0:0 0:0 0:0 65534:65534 1000:5 1000:0 ",
        "spaces=7",
        "inside=yes yes yes no no ",
        "outside=no no no no no no no ",
        "net=0x9 500",
        "init=hidden",
    ];
    for line in wanted {
        ensure!(text.lines().any(|other| other == line), "no {line:?} in {text}");
    }
    Ok(())
}

fn bad_values() -> Result<()> {
    type Row = (fn(&mut MachineSpec), &'static str);
    let rows: [Row; 3] = [
        // Twice the same: only the kernel sees it.
        (|machine| maps(machine, [(0, 0, 10), (5, 20, 10)]), "setting linux.gidMappings"),
        (|machine| maps(machine, [(1, 0, 10), (20, 20, 10)]), "linux.uidMappings have no ID 0"),
        (
            |machine| {
                maps(machine, [(0, 0, 10), (20, 20, 10)]);
                machine.config.linux.uid_mappings[0].size = 0;
            },
            "linux.uidMappings[0].size is 0",
        ),
    ];
    for (change, named) in rows {
        let error = run_changed("true", change).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(named), "{error:?} does not name {named}");
    }
    Ok(())
}

/// With `--userns auto`, the image's files and those of volumes are whose they are inside; on the disks, nothing is changed.
fn of_the_command_line() -> Result<()> {
    let script = r#"
        echo "owners=$(stat -c %u:%g /bin/busybox /etc/hosts /data /proc/self/status | tr '\n' ' ')"
        echo "terminal=$(test -t 0 && stat -c %u "$(tty)")"
        echo mine > /new && chown 33:34 /new && echo 127.0.0.9 other >> /etc/hosts && mkdir -p /a/b && echo "written=$(stat -c %u:%g /new /a/b | tr '\n' ' ')"
        echo text > /data/file && chown 5:6 /data/file
        echo "others=$(stat -c %u /sys /proc/1/ns | tr '\n' ' ')"
        (echo x > /proc/sys/kernel/panic) 2> /dev/null || echo "sysctl=refused"
        echo ready; sleep 100000
    "#;
    let options = ["-t", "--userns", "auto", "--privileged", "-v", "ns-data:/data", "-v", "ns-bin:/bin"];
    let vm = Background::run("userns", &options, &["sh", "-c", script])?;
    let log = || vm.said(&["logs", "userns"]).unwrap_or_default().replace('\r', "");
    eventually("it is ready", || log().lines().any(|line| line == "ready"))?;
    let wanted = [
        "owners=0:0 0:0 0:0 0:0 ",
        "terminal=0",
        "written=33:34 0:0 ",
        "others=65534 65534 ",
        "sysctl=refused",
    ];
    for line in wanted {
        ensure!(log().lines().any(|other| other == line), "no {line:?} in {}", log());
    }
    // Beside it, the same; also as another user, and with a limit that only the machine's root may raise.
    let script = "tr -s ' ' < /proc/self/uid_map; id -u; cat /data/file; \
        grep -c Uid:.100033 /proc/self/status; ulimit -Hn; cat /new; echo > /data/x";
    let output = vm.cli(&["exec", "-u", "33", "userns", "sh", "-c", script]).output()?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let limit = vm.said(&["exec", "userns", "sh", "-c", "ulimit -Hn"])?;
    ensure!(out == format!(" 0 100000 65536\n33\ntext\n0\n{limit}mine\n"), "{out}{error}");
    ensure!(output.status.code() == Some(1) && error.contains("Permission denied"), "{error}");
    let script = "for process in self 2; do readlink /proc/$process/ns/user; done | sort -u | wc -l";
    ensure!(vm.said(&["exec", "userns", "sh", "-c", script])? == "1\n", "another user namespace");
    vm.said(&["stop", "-t", "0", "userns"])?;

    let again = |options: &[&str], script: &str| {
        command_with_store(vm.store.path(), "userns-other", options, &["sh", "-c", script]).output()
    };
    let output =
        again(&["-v", "ns-data:/data", "-v", "ns-bin:/x"], "stat -c %u:%g /data /data/file /x/busybox")?;
    let out = String::from_utf8_lossy(&output.stdout);
    ensure!(out == "0:0\n5:6\n0:0\n", "{out}{}", String::from_utf8_lossy(&output.stderr));
    for (options, why) in [
        (&["--uidmap", "0:5:9", "-v", "/tmp:/tmp"][..], "folders of the host cannot be had with"),
        (&["--uidmap", "0:5:9", "-u", "9"], "linux.uidMappings have no ID 9"),
    ] {
        let output = again(options, "true")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(125) && error.contains(why), "{options:?}: {error}");
    }
    Ok(())
}
