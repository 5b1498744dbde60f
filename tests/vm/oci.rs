//! The OCI config's fields that no option of `vch run` sets yet: applied, as the guest's kernel tells, or refused by name.

use crate::harness::{Test, run_changed};
use crate::tests;
use anyhow::{Context, Result, ensure};
use protocol::MachineSpec;
use protocol::oci::{Mount, Namespace, NamespaceKind, Rlimit};

pub fn tests() -> Vec<Test> {
    tests![
        process_fields,
        machine_fields,
        network_namespace,
        no_pid_namespace,
        capabilities_kept_by_a_user,
        bad_values_are_refused
    ]
}

fn process_fields() -> Result<()> {
    let script = "umask; id -G; ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status; pwd";
    let text = run_changed(script, |machine| {
        machine.user = None;
        let process = &mut machine.config.process;
        process.user.umask = Some(0o27);
        process.user.additional_gids = vec![7, 70000];
        process.rlimits = vec![limit("RLIMIT_NOFILE", 99, 100), limit("RLIMIT_CORE", 512, u64::MAX)];
        process.oom_score_adj = Some(321);
        process.no_new_privileges = true;
        process.cwd = "/made/for/it".into();
    })?;
    ensure!(text == "0027\n0 7 70000\n99\n1\n321\nNoNewPrivs:\t1\n/made/for/it\n", "{text}");
    Ok(())
}

fn limit(kind: &str, soft: u64, hard: u64) -> Rlimit {
    Rlimit { kind: kind.into(), soft, hard }
}

fn machine_fields() -> Result<()> {
    let script = "cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_unprivileged_port_start; grep ' /extra ' /proc/mounts;
                  grep ' /extra ' /proc/self/mountinfo | grep -c shared:; cat /etc/passwd | wc -c;
                  (echo x > /home/x) 2>/dev/null || echo home is read-only; cat /proc/sys/kernel/hostname";
    let text = run_changed(script, |machine| {
        let config = &mut machine.config;
        config.hostname = Some("the-host".into());
        config.domainname = Some("the-domain".into());
        config.annotations.insert("org.example".into(), "kept".into());
        config.linux.sysctl.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
        config.linux.masked_paths.extend(["/etc/passwd".into(), "/no/such/path".into()]);
        config.linux.readonly_paths.push("/home".into());
        config.mounts.push(Mount {
            destination: "/extra".into(),
            kind: "tmpfs".into(),
            source: Some("mine".into()),
            options: ["nosuid", "noexec", "noatime", "size=1m", "shared"].map(String::from).to_vec(),
        });
    })?;
    let wanted = "the-domain\n80\nmine /extra tmpfs rw,nosuid,noexec,noatime,size=1024k,inode64 0 0\n1\n0\n\
                  home is read-only\nthe-host\n";
    ensure!(text == wanted, "{text}");
    Ok(())
}

fn network_namespace() -> Result<()> {
    let script = "ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1/8; readlink /proc/self/ns/net";
    let own = run_changed(script, |machine| {
        machine.network.nics.clear();
        machine.config.linux.namespaces.push(Namespace { kind: NamespaceKind::Network });
    })?;
    let shared = run_changed(script, |machine| machine.network.nics.clear())?;
    ensure!(own.starts_with("lo\n1\nnet:["), "{own}");
    ensure!(own != shared, "both are in {shared}");
    Ok(())
}

/// Without a PID namespace nothing ends the rest of the container but its cgroup.
fn no_pid_namespace() -> Result<()> {
    let text = run_changed("sleep 1000 & setsid sleep 1000 & cat /proc/1/comm", |machine| {
        machine.config.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid);
    })?;
    ensure!(text == "init\n", "PID 1 is the machine's: {text}");
    Ok(())
}

fn capabilities_kept_by_a_user() -> Result<()> {
    let text = run_changed("grep ^Cap /proc/self/status", |machine| {
        machine.user = None;
        let process = &mut machine.config.process;
        (process.user.uid, process.user.gid) = (1000, 1000);
        let capabilities = process.capabilities.get_or_insert_default();
        capabilities.bounding = vec!["CAP_CHOWN".into(), "CAP_NET_BIND_SERVICE".into()];
        let kept = vec!["CAP_NET_BIND_SERVICE".to_string()];
        (capabilities.effective, capabilities.permitted) = (kept.clone(), kept.clone());
        (capabilities.inheritable, capabilities.ambient) = (kept.clone(), kept);
    })?;
    let set = |name: &str, bits: u64| format!("Cap{name}:\t{bits:016x}\n");
    let wanted = [
        set("Inh", 1 << 10),
        set("Prm", 1 << 10),
        set("Eff", 1 << 10),
        set("Bnd", 1 | 1 << 10),
        set("Amb", 1 << 10),
    ];
    ensure!(text == wanted.concat(), "{text}");
    Ok(())
}

/// A field, a bad value for it, and what the refusal must name.
type Row = (fn(&mut MachineSpec), &'static str);

fn bad_values_are_refused() -> Result<()> {
    let rows: [Row; 10] = [
        (|machine| machine.version = 99, "machine spec version 99"),
        (|machine| machine.config.oci_version = "2.0.0".into(), "ociVersion \"2.0.0\""),
        (|machine| machine.config.root.path = "/".into(), "root.path \"/\""),
        (|machine| machine.config.linux.namespaces.clear(), "linux.namespaces lacks \"mount\""),
        (|machine| machine.config.process.args.clear(), "process.args is empty"),
        (|machine| machine.config.process.cwd = "tmp".into(), "process.cwd \"tmp\""),
        (|machine| machine.config.process.rlimits.push(limit("RLIMIT_LUCK", 1, 1)), "\"RLIMIT_LUCK\""),
        (|machine| machine.config.process.env.push("A=\0".into()), "process.env"),
        (|machine| machine.config.mounts[0].kind = "ext4".into(), "mounts[0].type \"ext4\""),
        (
            |machine| {
                machine.config.process.capabilities.get_or_insert_default().ambient.push("CAP_FLY".into());
            },
            "process.capabilities.ambient: there is no capability named \"CAP_FLY\"",
        ),
    ];
    for (change, named) in rows {
        let error =
            run_changed("true", change).err().with_context(|| format!("it ran, in spite of {named}"))?;
        ensure!(format!("{error:#}").contains(named), "{error:#} does not name {named}");
    }
    Ok(())
}
