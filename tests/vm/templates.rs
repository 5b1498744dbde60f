//! Restored instead of booted: copies of a template have nothing in common that they must not have, and can do what any container can.

use crate::background::Background;
use crate::harness::{
    Ran, Test, command_with_store, debian_kernel, error_of, eventually, input, kernel, run, run_with, shell,
    temporary,
};
use crate::{config, lifecycle, stdio, tests};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use vch::RunOptions;
use vch::options::template::Choice;
use vch::transport::Channel;
use vch::volumes::parse;

pub fn tests() -> Vec<Test> {
    let mut all = tests![
        copies_have_nothing_in_common,
        what_a_container_has,
        other_machines,
        on_debians_kernel,
        two_at_once,
        only_whole_ones_are_used,
        removed_while_a_copy_runs,
        a_container_that_starts_again,
        what_cannot_be_restored,
    ];
    // What any container can do, with the same words.
    let smoke = [stdio::tests(), config::tests(), lifecycle::tests()];
    let smoke = smoke.into_iter().flatten().filter(|test| !test.is_over_another_channel());
    all.extend(smoke.map(|test| test.restored("templates")));
    all
}

fn from(mut options: RunOptions, choice: Choice) -> RunOptions {
    options.template.from_template = Some(choice);
    options
}

fn copy(script: &str) -> RunOptions {
    from(shell(script), Choice::Auto)
}

/// Whether a run went on from a template, by its own word.
fn is_restored(ran: &Ran) -> bool {
    ran.outcome.guest.iter().any(|step| step.name == "restored")
        && !ran.outcome.guest.iter().any(|step| step.name == "tether")
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Twenty copies: what each reads first is its own, and their clocks are right, however long the template has stood still.
fn copies_have_nothing_in_common() -> Result<()> {
    const COPIES: usize = 20;
    const WHAT: [&str; 7] = [
        "the first random bytes",
        "more random bytes",
        "a UUID",
        "the boot ID",
        "the MAC address",
        "the hostname",
        "the stack's place",
    ];
    let script = "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
        dd if=/dev/random bs=16 count=1 2> /dev/null | od -An -tx1 | tr -d ' '
        cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
        hostname; grep stack /proc/self/maps; date +%s";
    let mut seen: [BTreeSet<String>; 7] = Default::default();
    for number in 0..COPIES {
        let before = now()?;
        let ran = run(&copy(script))?;
        let after = now()?;
        ensure!(ran.code() == 0 && is_restored(&ran), "{number}: {ran:?}");
        let out = ran.out();
        let lines: Vec<_> = out.lines().collect();
        ensure!(lines.len() == WHAT.len() + 1, "{out}");
        for ((what, seen), line) in WHAT.iter().zip(&mut seen).zip(&lines) {
            ensure!(seen.insert((*line).to_owned()), "{what} is another copy's: {line}");
        }
        let clock: f64 = lines[WHAT.len()].parse()?;
        // It shows whole seconds. The template is older than that.
        ensure!((before - 1.5..after + 0.5).contains(&clock), "{clock} is not between {before} and {after}");
    }
    Ok(())
}

/// Streams, exit status, limits, network, volumes.
fn what_a_container_has() -> Result<()> {
    let store = temporary()?;
    let script = "cat; echo error >&2
        cat /sys/fs/cgroup/memory.max 2> /dev/null || grep MemTotal /proc/meminfo
        ip -4 addr show eth0 | grep -c 10.0.2.15
        grep ' / ' /proc/mounts | cut -d ' ' -f 1; cat /sys/block/vd*/ro | tr -d '\\n'; echo
        echo kept > /data/file; df /data | tail -1 | awk '{print ($2 > 9000000)}'
        for n in 1 2 3 4 5; do dd if=/dev/zero of=/big$n bs=1M count=8 2> /dev/null; done; ls /big* | wc -l
        exit 7";
    let mut options = copy(script);
    options.store = Some(store.path().to_owned());
    options.interactive = true;
    options.volumes.volume = vec![parse::volume("data:/data")?];
    let ran = run_with(&options, input(b"from stdin\n")?)?;
    let out = ran.out();
    let lines: Vec<_> = out.lines().collect();
    ensure!(is_restored(&ran) && ran.code() == 7 && ran.stderr == b"error\n", "{ran:?}");
    // Scratch, the image, a volume; the fourth is nobody's.
    ensure!(lines.len() == 7 && lines[0] == "from stdin" && lines[2] == "1", "{out}");
    ensure!(
        lines[3] == "overlay" && lines[4].starts_with("010") && lines[5] == "1" && lines[6] == "5",
        "{out}"
    );
    // Again, from the same template: the volume has what the first wrote, and is only read.
    let mut options = copy("cat /data/file; touch /data/x 2> /dev/null || echo refused");
    options.store = Some(store.path().to_owned());
    options.volumes.volume = vec![parse::volume("data:/data:ro")?];
    let ran = run(&options)?;
    ensure!(is_restored(&ran), "{ran:?}");
    ran.gives("kept\nrefused\n")?;
    ensure!(templates(store.path())?.len() == 1, "one template serves both");
    Ok(())
}

/// Other machine types, a second CPU, two interfaces and none, and the line of UARTs.
fn other_machines() -> Result<()> {
    let script = "nproc; ls /sys/class/net | grep -c eth; cat /sys/class/net/eth*/address | sort -u | wc -l";
    let mut pc = copy(script);
    pc.machine = Some(vch::options::Machine::Pc);
    pc.cpus = 2.0;
    pc.network.network = ["user", "socket=templates,ip=10.9.0.2/24"]
        .iter()
        .map(|text| vch::network::mode::Choice::parse(text))
        .collect::<Result<_>>()?;
    let mut serial = copy(script);
    serial.channel.channel = Some(Channel::Serial);
    serial.machine = Some(vch::options::Machine::Q35);
    serial.network.network = vec![vch::network::mode::Choice::None];
    for (options, out) in [(pc, "2\n2\n2\n"), (serial, "1\n0\n0\n")] {
        let ran = run(&options)?;
        ensure!(is_restored(&ran), "{ran:?}");
        ensure!(ran.out() == out, "{ran:?}");
    }
    Ok(())
}

/// Modules are loaded once, in the template; those that few need, in the copy.
fn on_debians_kernel() -> Result<()> {
    let mut options = copy("uname -r; cat /sys/class/net/eth0/address; hostname");
    let (kernel, initrd) = debian_kernel();
    (options.kernel, options.initrd) = (Some(vch::options::Kernel::File(kernel)), Some(initrd));
    options.verity = true;
    options.network.firewall = vch::options::network::Firewall::Outbound;
    let ran = run(&options)?;
    let (out, step) = (ran.out(), |name: &str| ran.outcome.guest.iter().any(|step| step.name == name));
    let lines: Vec<_> = out.lines().collect();
    ensure!(is_restored(&ran) && lines.len() == 3 && lines[0].contains("-cloud-amd64"), "{ran:?}");
    // Both come from the container's ID.
    ensure!(lines[1].replace(':', "")[2..] == lines[2][..10], "{out}");
    ensure!(step("verity modules") && step("devices"), "{ran:?}");
    Ok(())
}

/// The folders of a store's templates.
fn templates(store: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(store.join("templates"))?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.is_dir()).collect())
}

/// In an empty store: one makes the template, the other waits, and uses it.
fn two_at_once() -> Result<()> {
    let store = temporary()?;
    let mut options = copy("echo here");
    options.store = Some(store.path().to_owned());
    std::thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| run(&options)));
        for ran in runs {
            let ran = ran.join().map_err(|_| anyhow::anyhow!("a run panicked"))??;
            ensure!(is_restored(&ran), "{ran:?}");
            ran.gives("here\n")?;
        }
        anyhow::Ok(())
    })?;
    let all = templates(store.path())?;
    ensure!(all.len() == 1, "{all:?}");
    let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(&all[0])? == 0o700, "others can look into {}", all[0].display());
    for file in fs::read_dir(&all[0])? {
        ensure!(mode(&file?.path())? == 0o600, "others can read a file of a template");
    }
    Ok(())
}

/// `vch template create`, with the tests' kernel.
fn create(store: &Path, arguments: &[&str]) -> Result<String> {
    let (kernel, initrd) = kernel();
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    template(store, &[&["create", "--kernel", &kernel, "--initrd", &initrd], arguments].concat())
}

/// `vch template COMMAND`.
fn template(store: &Path, arguments: &[&str]) -> Result<String> {
    let output = cli_template(store, arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}, {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn cli_template(store: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(crate::harness::vch());
    command.arg("template").arg(arguments[0]).arg("--store").arg(store).args(&arguments[1..]);
    command
}

/// A template whose kernel or initramfs is another one now, or whose own files are, is refused by its name, and made anew where any
/// will do.
fn only_whole_ones_are_used() -> Result<()> {
    let store = temporary()?;
    let id = create(store.path(), &["base", "-m", "200m"])?.trim().to_owned();
    let listed = template(store.path(), &["ls"])?;
    for word in [&*id, "base", "200m", "usable"] {
        ensure!(listed.contains(word), "no {word} in {listed}");
    }
    let base = |memory: u64, choice: Choice| {
        let mut options = from(shell("grep MemTotal /proc/meminfo | tr -dc 0-9; echo"), choice);
        options.store = Some(store.path().to_owned());
        options.memory = memory << 20;
        options
    };
    let named = || Choice::Named("base".into());
    let ran = run(&base(200, named()))?;
    let total: u64 = ran.out().trim().parse().with_context(|| format!("{ran:?}"))?;
    ensure!(is_restored(&ran) && (150 << 10..200 << 10).contains(&total), "{ran:?}");
    for (options, why) in [
        (base(256, named()), "the memory in MiB is 200 there, and 256 here"),
        (base(200, Choice::Named("other".into())), "no such template: other"),
    ] {
        let error = error_of(run(&options))?;
        ensure!(error.contains(why), "{error}");
    }

    // Another initramfs, at the same place.
    let (kernel, initrd) = kernel();
    let (mut other, place) = (fs::read(&initrd)?, store.path().join("initrd"));
    fs::write(&place, &other)?;
    let with_initrd = |choice| {
        let mut options = base(200, choice);
        options.kernel = Some(vch::options::Kernel::File(kernel.clone()));
        options.initrd = Some(place.clone());
        options
    };
    ensure!(is_restored(&run(&with_initrd(named()))?), "the same bytes are the same template");
    other.extend([0; 512]);
    fs::write(&place, &other)?;
    let error = error_of(run(&with_initrd(named())))?;
    ensure!(error.contains("initrd is "), "{error}");

    let files = |name| store.path().join("templates").join(&id).join(name);
    let damage: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("state", &|| {
            let state = OpenOptions::new().read(true).write(true).open(files("state"))?;
            let mut byte = [0];
            state.read_exact_at(&mut byte, 10_000)?;
            Ok(state.write_all_at(&[!byte[0]], 10_000)?)
        }),
        ("memory", &|| Ok(OpenOptions::new().write(true).open(files("memory"))?.set_len(100 << 20)?)),
        ("memory", &|| {
            Ok(OpenOptions::new().write(true).open(files("memory"))?.write_all_at(&[7; 4096], 1 << 20)?)
        }),
    ];
    for (what, damage) in damage {
        damage()?;
        let error = error_of(run(&base(200, named())))?;
        ensure!(error.contains("not whole") && error.contains(&format!("its {what} was changed")), "{error}");
        ensure!(template(store.path(), &["ls"])?.contains("stale"), "it is shown");
        ensure!(is_restored(&run(&base(200, Choice::Auto))?), "made anew");
        let listed = template(store.path(), &["ls", "-q"])?;
        ensure!(listed.trim() == id, "{listed}");
        template(store.path(), &["rm", &id])?;
        create(store.path(), &["base", "-m", "200m"])?;
    }
    template(store.path(), &["prune", "--all"])?;
    ensure!(templates(store.path())?.is_empty(), "something is left");
    Ok(())
}

/// Nothing of a template is needed any more when a copy runs.
fn removed_while_a_copy_runs() -> Result<()> {
    let script = "echo up; read line < /fifo; ls /bin | wc -l; exit 5";
    let script = format!("mkfifo /fifo; {script}");
    let container = Background::run("copied", &["--from-template"], &["sh", "-c", &script])?;
    eventually("it is up", || container.said(&["logs", "copied"]).is_ok_and(|log| log == "up\n"))?;
    let listed = template(container.store.path(), &["ls", "-q"])?;
    let id = listed.trim();
    let known = container.said(&["inspect", "copied"])?;
    ensure!(known.contains(&format!("\"Template\": \"{id}\"")), "{known}");
    template(container.store.path(), &["rm", id])?;
    ensure!(templates(container.store.path())?.is_empty(), "it is there");
    ensure!(container.said(&["exec", "copied", "hostname"])?.trim().len() == 12, "no exec");
    // Another monitor takes it over.
    container.kill_monitor()?;
    container.said(&["exec", "copied", "sh", "-c", "echo go > /fifo"])?;
    ensure!(container.said(&["wait", "copied"])?.trim() == "5", "it did not end as it should");
    Ok(())
}

/// Each of its VMs is another copy.
fn a_container_that_starts_again() -> Result<()> {
    let options = ["--from-template", "--restart", "on-failure:2"];
    let script = "cat /proc/sys/kernel/random/boot_id; exit 3";
    let container = Background::run("copied-again", &options, &["sh", "-c", script])?;
    ensure!(container.said(&["wait", "copied-again"])?.trim() == "3", "another exit status");
    let log = container.said(&["logs", "copied-again"])?;
    let ids: BTreeSet<_> = log.lines().collect();
    ensure!(ids.len() == 3, "{log}");
    Ok(())
}

/// It is said before anything is done.
fn what_cannot_be_restored() -> Result<()> {
    let store = temporary()?;
    for (options, word) in [
        (&["--debug"][..], "--debug"),
        (&["--boot", "iso"], "--boot iso"),
        (&["--channel", "vsock"], "--channel vsock"),
        (&["-v", "/tmp:/host"], "the folder of the host's on /host"),
    ] {
        let all = [&["--from-template"], options].concat();
        let output = command_with_store(store.path(), "refused", &all, &["true"]).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(125), "{word}: {}", output.status);
        ensure!(error.contains(word) && error.contains("exclude each other"), "{error}");
    }
    ensure!(!store.path().join("templates").exists(), "something was made");
    let (kernel, initrd) = kernel();
    let output = cli_template(store.path(), &["create", "--boot-timeout", "0"])
        .args(["--kernel".as_ref(), kernel.as_os_str(), "--initrd".as_ref(), initrd.as_os_str()])
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("within 0 s") && error.contains("--boot-timeout"), "{error}");
    Ok(())
}
