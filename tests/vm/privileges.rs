//! Docker's options about what a container may do and use, as `vch run` takes them.

use crate::background::Background;
use crate::harness::{Test, error_of, eventually, run, shell, temporary};
use crate::tests;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

pub fn tests() -> Vec<Test> {
    tests![
        defaults,
        options,
        privileged,
        execs,
        a_filter_that_allows_nothing,
        a_fork_bomb,
        a_frozen_container
    ]
}

/// Runs the script and compares what it says, `NAME=VALUE` lines.
fn says(options: &vch::RunOptions, wanted: &[(&str, &str)]) -> Result<()> {
    let ran = run(options)?;
    let text = ran.out();
    let said: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in wanted {
        ensure!(
            said.get(name) == Some(value),
            "{name} is {:?}, not {value:?}: {ran:?}\n{text}",
            said.get(name)
        );
    }
    Ok(())
}

const FACTS: &str = r#"
    field() { grep -w "$1" /proc/self/status | tr -dc 0-9a-f; }
    echo "caps=$(field CapBnd | tail -c 16)"
    echo "seccomp=$(grep -w Seccomp: /proc/self/status | tr -dc 0-9)"
    echo "nnp=$(grep NoNewPrivs /proc/self/status | tr -dc 0-9)"
    why() { "$@" 2>&1 >/dev/null | grep -ioE 'not permitted|read-only|permission denied' | head -1 | tr A-Z a-z; }
    echo "mount=$(why mount -t tmpfs none /mnt)"
    echo "unshare=$(why unshare -U true)"
    mknod /a-disk b $(cat /sys/block/vda/dev | tr : ' ')
    echo "disk=$(why dd if=/a-disk of=/dev/null bs=512 count=1)"
    echo "sys=$(why sh -c 'echo never > /sys/kernel/mm/transparent_hugepage/enabled')"
    echo "kcore=$(head -c 1 /proc/kcore 2>/dev/null | wc -c)"
    echo "cgroup=$(why mkdir /sys/fs/cgroup/mine)"
    echo "controllers=$(cat /sys/fs/cgroup/cgroup.controllers | tr ' ' '\n' | grep -c cpu)"
    echo "limits=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max | grep -c '^[1-9]')"
    echo "nice=$(awk '{ print $19 }' /proc/$$/stat)"
    echo "ports=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)"
    echo "ping=$(cat /proc/sys/net/ipv4/ping_group_range | tr '\t' ' ')"
"#;

fn defaults() -> Result<()> {
    let mut options = shell(FACTS);
    options.security.cap_add = vec!["sys_admin".into()]; // so that it is the filter and the mounts that deny
    options.security.cap_drop = vec!["CAP_CHOWN".into()];
    let wanted = [
        ("caps", "00000000a82425fa"),
        ("seccomp", "2"),
        ("nnp", "0"),
        ("mount", ""),
        ("disk", "not permitted"),
        ("sys", "read-only"),
        ("kcore", "0"),
        ("cgroup", "read-only"),
        // Something is kept back for tether, which goes before all others, but its children do not.
        ("limits", "2"),
        ("nice", "0"),
        ("ports", "0"),
        ("ping", "0 2147483647"),
    ];
    says(&options, &wanted)?;
    let wanted = [("caps", "00000000a80425fb"), ("mount", "permission denied"), ("unshare", "not permitted")];
    says(&shell(FACTS), &wanted)
}

fn privileged() -> Result<()> {
    let more = "[ -b /dev/vda ] && echo devices=all; echo null=$(stat -c %t:%T /dev/null); kill -0 1 && echo alive=yes";
    let mut options = shell(&format!("{FACTS}{more}"));
    options.security.privileged = true;
    let wanted = [
        ("caps", "000001ffffffffff"),
        ("seccomp", "0"),
        ("mount", ""),
        ("unshare", ""),
        ("disk", ""),
        ("sys", ""),
        ("cgroup", ""),
        ("controllers", "2"),
        ("devices", "all"),
        ("null", "1:3"),
        ("alive", "yes"),
    ];
    says(&options, &wanted)
}

fn options() -> Result<()> {
    let script = r#"
        echo "caps=$(grep CapEff /proc/self/status | cut -f2)"
        echo "seccomp=$(grep -w Seccomp: /proc/self/status | tr -dc 0-9)"
        echo "nnp=$(grep NoNewPrivs /proc/self/status | tr -dc 0-9)"
        echo "mkdir=$(mkdir /d 2>&1 | grep -o 'Operation not supported')"
        echo "files=$(ulimit -n) $(ulimit -Hn)"
        echo "sysctl=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)"
        echo "order=$(grep -c -e ' /scratch/below ' -e ' /scratch ' /proc/mounts) $([ -d /scratch/below ] && echo seen)"
        echo "tmpfs=$(grep ' /scratch ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-4)"
        echo "sized=$(stat -c %a /sized) $(df -k /sized | tail -1 | awk '{print $2}')"
        echo "shm=$(grep ' /dev/shm ' /proc/mounts | grep -o 'size=[0-9]*k')"
        echo "groups=$(id -G)"
        echo "domain=$(cat /proc/sys/kernel/domainname)"
        echo "oom=$(cat /proc/self/oom_score_adj)"
        echo "pids=$(cat /sys/fs/cgroup/pids.max)"
        echo "quota=$(cat /sys/fs/cgroup/cpu.max)"
        echo "cpus=$(nproc)"
        echo "cpuset=$(grep Cpus_allowed_list /proc/self/status | cut -f2)"
        echo "env=$A|$B|$C"
        echo "log=$(stat -c '%F %t:%T' /dev/log-of-mine)"
        echo "kcore=$(head -c 1 /proc/kcore | wc -c)"
    "#;
    let dir = temporary()?;
    let (profile, env) = (dir.path().join("profile.json"), dir.path().join("env"));
    let json = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": null }],
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "includes": { "minKernel": "4.8" } }] }"#;
    std::fs::write(&profile, json)?;
    std::fs::write(&env, "# comment\nA=file\nB=file\n")?;
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut options = shell(script);
    options.cpus = 1.5;
    options.security.cap_drop = texts(&["all"]);
    options.security.cap_add = texts(&["chown", "CAP_KILL"]);
    let seccomp = format!("seccomp={}", profile.display());
    options.security.security_opt =
        texts(&[&seccomp, "no-new-privileges", "apparmor=unconfined", "label=disable"]);
    options.security.device = texts(&["/dev/kmsg:/dev/log-of-mine:w"]);
    options.security.group_add = texts(&["nogroup", "4711"]);
    options.limits.ulimit = texts(&["nofile=99:100"]);
    options.limits.sysctl = texts(&["net.ipv4.ip_unprivileged_port_start=81"]);
    options.limits.tmpfs = texts(&["/scratch/below", "/scratch:exec,size=1m"]);
    options.volumes.mount =
        vec![vch::volumes::parse::mount("type=tmpfs,target=/sized,tmpfs-size=2m,tmpfs-mode=0710")?];
    options.limits.shm_size = Some(8 << 20);
    options.limits.oom_score_adj = Some(-7);
    options.limits.pids_limit = Some(123);
    options.limits.memory_swap = Some("-1".into());
    options.limits.cpuset_cpus = Some("1".into());
    options.network.domainname = Some("the-domain".into());
    options.process.env_file = vec![env];
    options.env = texts(&["B=option", "C="]);
    let wanted = [
        ("caps", "0000000000000021"),
        ("seccomp", "2"),
        ("nnp", "1"),
        ("mkdir", "Operation not supported"),
        ("files", "99 100"),
        ("sysctl", "81"),
        ("order", "2 seen"),
        ("tmpfs", "rw,nosuid,nodev,relatime"),
        ("sized", "710 2048"),
        ("shm", "size=8192k"),
        ("domain", "the-domain"),
        ("oom", "-7"),
        ("pids", "123"),
        ("quota", "150000 100000"),
        ("cpus", "1"),
        ("cpuset", "1"),
        ("env", "file|option|"),
        ("log", "character special file 1:b"),
        ("kcore", "0"),
    ];
    says(&options, &wanted)?;
    let groups = run(&{
        let mut options = shell("id -G");
        options.security.group_add = texts(&["nogroup", "4711"]);
        options
    })?;
    ensure!(groups.out().trim_end().ends_with("4711 65534"), "{groups:?}");
    Ok(())
}

/// A filter that allows nothing, not even the process's end: the start fails, and does not wait for what cannot come.
fn a_filter_that_allows_nothing() -> Result<()> {
    let dir = temporary()?;
    let profile = dir.path().join("profile.json");
    std::fs::write(&profile, r#"{ "defaultAction": "SCMP_ACT_ERRNO" }"#)?;
    let mut options = shell("true");
    options.security.security_opt = vec![format!("seccomp={}", profile.display())];
    let error = error_of(run(&options))?;
    ensure!(error.contains("died before the command could be executed"), "{error}");
    Ok(())
}

/// A container in the background that has said its first word.
fn background(name: &'static str, options: &[&str], script: &str) -> Result<Background> {
    let container = Background::run(name, options, &["sh", "-c", script])?;
    eventually("its first word", || container.said(&["logs", name]).is_ok_and(|log| !log.is_empty()))?;
    Ok(container)
}

/// What runs beside the container's process is under the same.
fn execs() -> Result<()> {
    let options = [
        "--group-add",
        "4711",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "mknod",
        "--security-opt",
        "no-new-privileges",
    ];
    let container = background("confined", &options, "echo up; while :; do sleep 1; done")?;
    let script = r#"
        echo "seccomp=$(grep -w Seccomp: /proc/self/status | tr -dc 0-9)"
        echo "nnp=$(grep NoNewPrivs /proc/self/status | tr -dc 0-9)"
        echo "caps=$(grep CapEff /proc/self/status | cut -f2)"
        echo "groups=$(id -G)"
        mknod /tmp/disk b $(cat /sys/block/vda/dev | tr : ' ')
        echo "disk=$(dd if=/tmp/disk of=/dev/null bs=512 count=1 2>&1 | grep -o 'not permitted')"
    "#;
    let said = container.said(&["exec", container.name, "sh", "-c", script])?;
    let wanted = "seccomp=2\nnnp=1\ncaps=0000000008000000\ngroups=0 4711\ndisk=not permitted\n";
    ensure!(said == wanted, "{said}");
    Ok(())
}

/// Forks without end, and is stopped all the same.
fn a_fork_bomb() -> Result<()> {
    let bomb = "echo up; bomb() { bomb & bomb & while :; do sleep 1; done; }; bomb";
    let container = background("bomb", &["--pids-limit", "40"], bomb)?;
    eventually("the limit is reached", || {
        let output = container.cli(&["logs", container.name]).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("can't fork"))
    })?;
    container.said(&["stop", "-t", "1", container.name])?;
    Ok(())
}

/// One that has frozen itself, and would not heed a signal anyway.
fn a_frozen_container() -> Result<()> {
    let script = "trap '' TERM; echo freezing; echo 1 > /sys/fs/cgroup/cgroup.freeze; echo not frozen; while :; do sleep 1; done";
    let container = background("frozen", &["--privileged", "--stop-timeout", "1"], script)?;
    container.said(&["stop", container.name])?;
    let log = container.said(&["logs", container.name])?;
    ensure!(log == "freezing\n", "{log}");
    Ok(())
}
