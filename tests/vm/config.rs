//! What the process is: as its own kernel tells it.

use crate::harness::{Test, busybox, options, run, shell, temporary};
use crate::tests;
use anyhow::{Result, ensure};
use image_builder::testimage::{self, Tar};
use oci_spec::image::ConfigBuilder;
use std::collections::BTreeMap;

pub fn tests() -> Vec<Test> {
    tests![
        defaults,
        options_reach_the_process,
        pid_1_without_init,
        the_images_own_config,
        a_large_environment,
        a_passwd_that_is_a_fifo,
        memory_and_cpus
    ]
}

/// `NAME: VALUE` lines, as in `/proc/self/status`.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

fn check(fields: &BTreeMap<&str, &str>, name: &str, wanted: &str) -> Result<()> {
    ensure!(fields.get(name) == Some(&wanted), "{name} is {:?}, not {wanted:?}", fields.get(name));
    Ok(())
}

fn defaults() -> Result<()> {
    let ran = run(&shell(
        "cat /proc/self/status; cat /proc/mounts; echo pid: $$; echo init: $(cat /proc/1/cmdline); echo lo: $(ip addr show lo);
         echo host: $(hostname); echo processes: $(ls -d /proc/[0-9]* | wc -l); echo cgroup: $(cat /proc/self/cgroup);
         echo kcore: $(cat /proc/kcore 2>/dev/null | wc -c); echo null: $(stat -c '%t:%T %a' /dev/null);
         (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo sys: writable || echo sys: read-only;
         echo clock: $(date +%s); echo files: $(ulimit -n) $(ulimit -Hn)",
    ))?;
    let text = ran.out();
    let all = fields(&text);
    check(&all, "SigIgn", "0000000000000000")?;
    check(&all, "SigBlk", "0000000000000000")?;
    check(&all, "CapEff", "00000000a80425fb")?; // docker's default set
    check(&all, "CapBnd", "00000000a80425fb")?;
    check(&all, "CapInh", "0000000000000000")?;
    check(&all, "CapAmb", "0000000000000000")?;
    check(&all, "Umask", "0022")?;
    check(&all, "Uid", "0\t0\t0\t0")?;
    check(&all, "pid", "2")?;
    check(&all, "cgroup", "0::/")?;
    check(&all, "kcore", "0")?;
    check(&all, "null", "1:3 666")?;
    check(&all, "sys", "read-only")?;
    check(&all, "files", "1024 524288")?;
    ensure!(all["lo"].contains("127.0.0.1/8") && all["lo"].contains("UP"), "{}", all["lo"]);
    ensure!(all["host"].len() == 12, "the hostname is the short ID: {}", all["host"]);
    let root = text.lines().find(|line| line.split(' ').nth(1) == Some("/"));
    ensure!(root.is_some_and(|line| line.starts_with("overlay / overlay rw,")), "{root:?}");
    for mounted in ["proc /proc proc", "tmpfs /dev tmpfs", "devpts /dev/pts devpts", "sysfs /sys sysfs ro"] {
        ensure!(text.lines().any(|line| line.starts_with(mounted)), "{mounted} is not in {text}");
    }
    ensure!(text.lines().any(|line| line.starts_with("mqueue /dev/mqueue ")), "no mqueue in {text}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    ensure!(all["clock"].parse::<u64>()?.abs_diff(now) < 60, "the clock says {}, it is {now}", all["clock"]);
    ensure!(ran.code() == 0, "{ran:?}");
    Ok(())
}

fn options_reach_the_process() -> Result<()> {
    let mut options = shell(
        "pwd; id -u; id -g; hostname; echo \"$A|$B|$HOME\"; (echo x > /file) 2>/dev/null || echo read-only; touch /dev/shm/x; echo $?;
         echo said > /dev/stdout; stat -c %u /new; grep CapEff /proc/self/status",
    );
    options.workdir = Some("/new/deep folder".into());
    options.user = Some("nobody:7".into());
    options.hostname = Some("some.host".into());
    options.env = vec!["A=a=b, \"c\"\n ".into(), "B=".into()];
    options.read_only = true;
    run(&options)?.gives(
        "/new/deep folder\n65534\n7\nsome.host\na=b, \"c\"\n ||/\nread-only\n0\nsaid\n0\nCapEff:\t0000000000000000\n",
    )
}

fn pid_1_without_init() -> Result<()> {
    let mut options = shell("echo $$; exit 9");
    options.init = false;
    let ran = run(&options)?;
    ensure!(ran.stdout == b"1\n" && ran.code() == 9, "{ran:?}");
    Ok(())
}

fn the_images_own_config() -> Result<()> {
    let dir = temporary()?;
    let program = std::fs::read("/bin/busybox")?;
    let layer = Tar::new()
        .file("bin/busybox", 0o755, &program)
        .symlink("bin/sh", "busybox")
        .symlink("bin/id", "busybox")
        .file("etc/passwd", 0o644, b"web:x:33:34::/srv/web:/bin/sh\n")
        .file("etc/group", 0o644, b"log:x:4:web\n")
        .finish();
    let config = ConfigBuilder::default()
        .env(vec!["PATH=/bin".into(), "GREETING=hi".into()])
        .entrypoint(vec!["sh".into(), "-c".into()])
        .cmd(vec!["echo $GREETING $HOME; pwd; id -u; id -g; id -G; exit 6".into()])
        .working_dir("/srv/web")
        .user("web")
        .build()?;
    testimage::write(dir.path(), &[layer], config)?;
    let image = dir.path().display().to_string();
    let ran = run(&options(&image, &[]))?;
    ensure!(ran.out() == "hi /srv/web\n/srv/web\n33\n34\n34 4\n" && ran.code() == 6, "{ran:?}");
    run(&options(&image, &["echo $0 mine"]))?.gives("sh mine\n")
}

/// Larger than any one frame, near what Linux takes.
fn a_large_environment() -> Result<()> {
    let mut options = shell("echo ${#V0} ${#V13}");
    let value = "\u{1}".repeat(100_000); // as JSON, six times as long
    options.env = (0..14).map(|number| format!("V{number}={value}")).collect();
    run(&options)?.gives("100000 100000\n")
}

fn a_passwd_that_is_a_fifo() -> Result<()> {
    let dir = temporary()?;
    let layer = Tar::new()
        .file("bin/true", 0o755, &std::fs::read("/bin/busybox")?)
        .entry("etc/passwd", tar::EntryType::Fifo, 0o644, b"", |_| {})
        .finish();
    testimage::write(dir.path(), &[layer], ConfigBuilder::default().build()?)?;
    let ran = run(&options(&dir.path().display().to_string(), &["/bin/true"]))?;
    let why = ran.outcome.sentence().unwrap_or_default();
    ensure!(ran.code() == 125 && why.contains("/etc/passwd is not a file"), "{ran:?}");
    Ok(())
}

fn memory_and_cpus() -> Result<()> {
    let mut options = options(&busybox(), &["sh", "-c", "nproc; grep MemTotal /proc/meminfo"]);
    (options.memory, options.cpus) = (512 << 20, 2.0);
    let text = run(&options)?.out();
    let (cpus, memory) = text.split_once('\n').unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).unwrap_or_default().parse()?;
    ensure!(cpus == "2" && (400 << 10..=512 << 10).contains(&kib), "{text}");
    Ok(())
}
