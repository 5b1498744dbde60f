//! Volumes: what the container finds on them, what it leaves there, and who may have them.

use crate::harness::{
    Test, busybox, command_with_store, error_of, eventually, files, probe, qemus, run, temporary, vch,
};
use crate::layers::image;
use crate::listing::Listing;
use crate::tests;
use anyhow::{Context, Result, ensure};
use image_builder::testimage::{self, Tar};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::image::ConfigBuilder;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tar::EntryType;
use vch::RunOptions;
use vch::volumes::{New, Volume, Volumes, parse};

pub fn tests() -> Vec<Test> {
    let mut all = tests![filled_once_kept_and_grown, one_writes, many_read, damage_is_refused, of_the_image];
    let unshare = || {
        let status =
            Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).output()?.status;
        ensure!(status.success(), "mounting for virtiofsd needs root");
        Ok(())
    };
    all.push(Test::new("volumes::of_the_host", of_the_host).needs(unshare()));
    all
}

const MIB: u64 = 1 << 20;

fn create(store: &Path, name: &str, size: u64) -> Result<Volume> {
    let volumes = Volumes::of(store);
    let new = New { name: Some(name.into()), size: Some(size), ..New::default() };
    volumes.create(new, &volumes.lock()?)
}

/// Changes what is on the volume, as a container that writes to its raw disk could.
fn debugfs(volume: &Volume, order: &str) -> Result<()> {
    let output = Command::new("/usr/sbin/debugfs").args(["-w", "-R", order]).arg(volume.disk()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether `e2fsck -fn` finds nothing to mend.
pub fn is_clean(volume: &Volume) -> Result<()> {
    let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(volume.disk()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn with(mut options: RunOptions, store: &Path, volumes: &[&str]) -> Result<RunOptions> {
    options.store = Some(store.to_owned());
    options.volumes.volume = volumes.iter().map(|text| parse::volume(text)).collect::<Result<_>>()?;
    Ok(options)
}

/// A folder with a bit of everything at `at`.
fn folder(tar: Tar, at: &str) -> Tar {
    let owned = |uid, gid| {
        move |header: &mut tar::Header| {
            header.set_uid(uid);
            header.set_gid(gid);
            header.set_mtime(1_234_567_890);
        }
    };
    // user::rw- user:7:r-- group::r-- mask::r-- other::---
    let entry = |tag: u8, mode: u8, id: u32| [&[tag, 0, mode, 0][..], &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries =
        [entry(1, 6, none), entry(2, 4, 7), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)];
    let acl = [vec![2, 0, 0, 0], entries.concat()].concat();
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let path = |name: &str| format!("{at}/{name}");
    tar.entry(at, EntryType::Directory, 0o3750, b"", owned(70, 71))
        .entry(&path("deep"), EntryType::Directory, 0o111, b"", owned(1, 2))
        .entry(&path("deep/er"), EntryType::Directory, 0o755, b"", owned(0, 0))
        .entry(&path("deep/er/file"), EntryType::Regular, 0o4711, &[7; 70_000], owned(4_000_000_000, 5))
        .hard_link(&path("a-link"), &path("deep/er/file"))
        .symlink(&path("dangling"), "/no/such/file")
        .pax(&[("SCHILY.xattr.user.colour", b"red"), ("SCHILY.xattr.system.posix_acl_access", &acl)])
        .entry(&path("marked"), EntryType::Regular, 0o640, b"x", owned(7, 7))
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .entry(&path("capable"), EntryType::Regular, 0o755, b"", owned(0, 0))
        .entry(&path("fifo"), EntryType::Fifo, 0o622, b"", owned(3, 3))
        .entry(&path("device"), EntryType::Char, 0o666, b"", |header| {
            owned(0, 6)(header);
            header.set_device_major(1).expect("a small number");
            header.set_device_minor(3).expect("a small number");
        })
}

/// A volume gets the image's folder, exactly, once; shows nothing else; keeps what is written to it; grows.
fn filled_once_kept_and_grown() -> Result<()> {
    let dir = temporary()?;
    let store = dir.path().join("store");
    let options = |script: &str| {
        let tar = Tar::new().file("probe", 0o755, &fs::read(probe())?).dir("srv", 0o755);
        let tar = folder(folder(tar.symlink("www", "/srv/data"), "srv/data"), "srv/same");
        image(&dir.path().join("image"), vec![tar], script)
    };
    // As if the VM had been killed while it filled it.
    let volume = create(&store, "data", 64 * MIB)?;
    debugfs(&volume, "mkdir pending")?;
    debugfs(&volume, "write /etc/hostname pending/half")?;

    let script = "/probe tree /srv/data; echo =; /probe tree /srv/same; echo =; cd /srv/data; \
        echo mine > mine && busybox rm fifo && busybox stat -f -c %b .";
    // By way of a symbolic link in the image.
    let ran = run(&with(options(script)?, &store, &["data:/www"])?)?;
    ensure!(ran.code() == 0, "{ran:?}");
    let out = ran.out();
    let parts: Vec<_> = out.split("=\n").collect();
    let [data, same, blocks] = parts[..] else { anyhow::bail!("{out}") };
    ensure!(same.lines().count() == 10, "{same}");
    Listing::parse(data.as_bytes())?.must_equal(&Listing::parse(same.as_bytes())?, "volume", "image")?;
    is_clean(&volume)?;

    volume.grow(160 * MIB)?;
    let script = "cat mine; ls -A; ls -A /srv/same | busybox wc -l; busybox stat -f -c %b .";
    let mut again = with(options(script)?, &store, &["data:/srv/data", "empty:/srv/same:nocopy"])?;
    again.workdir = Some("/srv/data".into());
    let ran = run(&again)?;
    let out = ran.out();
    let lines: Vec<_> = out.lines().collect();
    let [mine, names @ .., uncopied, more_blocks] = &lines[..] else { anyhow::bail!("{ran:?}") };
    let expected = ["a-link", "capable", "dangling", "deep", "device", "marked", "mine"];
    ensure!(*mine == "mine" && *names == expected && *uncopied == "0", "{ran:?}");
    let (before, after): (u64, u64) = (blocks.trim().parse()?, more_blocks.parse()?);
    ensure!(after > 2 * before, "{before} blocks, then {after}");
    is_clean(&volume)
}

/// `vch run` in the foreground, which says a word when it is there; killed with the value.
struct Foreground(Child, String, PathBuf);

impl Foreground {
    fn run(store: &Path, name: &str, options: &[&str], script: &str) -> Result<Self> {
        let mut command = command_with_store(store, name, options, &["sh", "-c", script]);
        let child = command.stdin(Stdio::piped()).spawn()?;
        let mut child = Self(child, name.to_owned(), store.to_owned());
        let mut line = String::new();
        BufReader::new(child.0.stdout.as_mut().context("no stdout")?).read_line(&mut line)?;
        if line != "ready\n" {
            let mut error = String::new();
            std::io::Read::read_to_string(child.0.stderr.as_mut().context("no stderr")?, &mut error)?;
            anyhow::bail!("{name} says {line:?}: {error}");
        }
        Ok(child)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // The container outlives its client.
        let _ = Command::new(vch()).args(["rm", "-f", &self.1, "--store"]).arg(&self.2).output();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(store: &Path, name: &str, options: &[&str], script: &str) -> Result<Output> {
    Ok(command_with_store(store, name, options, &["sh", "-c", script]).output()?)
}

fn says(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.code() == Some(code), "{}, not {code}, {words:?}: {text}", output.status);
    words.iter().try_for_each(|word| {
        ensure!(text.contains(word), "{text:?} does not say {word:?}");
        Ok(())
    })
}

fn volume(store: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(vch());
    command.arg("volume").arg(arguments[0]).arg("--store").arg(store).args(&arguments[1..]);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// The QEMU of the container called `name`.
pub fn qemu(name: &str) -> Result<Pid> {
    let wanted = format!("guest={name}");
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        if line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            return Ok(Pid::from_raw(process.file_name().to_string_lossy().parse()?));
        }
    }
    anyhow::bail!("no QEMU of {name}")
}

/// Who may write to a volume has it alone; what was synced outlives `kill -9` of QEMU; the journal is replayed, also for one
/// that only reads.
fn one_writes() -> Result<()> {
    let dir = temporary()?;
    let store = dir.path();
    let script = "seq 1 100000 | dd of=/data/synced conv=fsync 2>/dev/null && echo ready; while :; do date >> /data/more; done";
    let writer = Foreground::run(store, "vol-writer", &["-v", "vol-data:/data"], script)?;
    for option in ["vol-data:/x", "vol-data:/x:ro"] {
        let output = shell(store, "vol-other", &["-v", option], "true")?;
        says(&output, 125, &["volume vol-data is in use by container vol-writer"])?;
    }
    says(&volume(store, &["rm", "vol-data"])?, 1, &["in use by container vol-writer"])?;
    says(&volume(store, &["prune", "-af"])?, 0, &["reclaimed space: 0 bytes"])?;
    kill(qemu("vol-writer")?, Signal::SIGKILL)?;
    drop(writer);
    eventually("the VM is gone", || qemus("vol-writer") == 0)?;

    let script = "seq 1 100000 | cmp - /data/synced && echo whole; echo x > /data/x || echo refused";
    let output = shell(store, "vol-reader", &["-v", "vol-data:/data:ro"], script)?;
    says(&output, 0, &["whole\n", "Read-only file system", "refused\n"])?;
    is_clean(&Volumes::of(store).find("vol-data")?)?;
    says(&volume(store, &["rm", "vol-data"])?, 0, &["vol-data\n"])?;
    says(&volume(store, &["ls", "-q"])?, 0, &[])
}

/// Those who only read a volume share it, and cannot write to its disk either.
fn many_read() -> Result<()> {
    let dir = temporary()?;
    let store = dir.path();
    says(&shell(store, "shared-maker", &["-v", "shared:/data"], "echo text > /data/file")?, 0, &[])?;
    let mount = ["--mount", "type=volume,source=shared,target=/data,readonly"];
    // It lives as long as its stdin.
    let script = "cat /data/file > /dev/null && echo ready; cat";
    let reader = Foreground::run(store, "shared-reader", &[&["-i"], &mount[..]].concat(), script)?;
    let script = "cat /data/file; cat /sys/block/$(sed -n 's,^/dev/\\(vd.\\) /data .*,\\1,p' /proc/mounts)/ro; echo x > /data/x";
    says(&shell(store, "shared-other", &mount, script)?, 1, &["text\n1\n", "Read-only file system"])?;
    let output = shell(store, "shared-writer", &["-v", "shared:/data"], "true")?;
    says(&output, 125, &["volume shared is in use by container shared-reader", "read-only"])?;
    drop(reader);
    Ok(())
}

/// What cannot be mounted, or is not what a volume is, is refused in words, and nothing on it is believed.
fn damage_is_refused() -> Result<()> {
    let dir = temporary()?;
    let options = || with(crate::harness::shell("true"), dir.path(), &["link:/l", "gdt:/g", "magic:/m"]);
    let link = create(dir.path(), "link", 16 * MIB)?;
    // What would show tether's own root.
    debugfs(&link, "symlink data /")?;
    let refused = |names: &[&str], word: &str| {
        let mut options = options()?;
        options.volumes.volume.retain(|mount| names.iter().any(|name| mount.target == *name));
        let error = error_of(run(&options))?;
        ensure!(error.contains(word), "{error:?} does not say {word:?}");
        Ok(())
    };
    refused(&["/l"], "opening the folder \"data\" of volume \"link\"")?;
    let write = |volume: &Volume, bytes: &[u8], at| -> Result<()> {
        Ok(OpenOptions::new().write(true).open(volume.disk())?.write_all_at(bytes, at)?)
    };
    let gdt = create(dir.path(), "gdt", 16 * MIB)?;
    write(&gdt, &[0xff; 4096], 4096)?;
    refused(&["/g"], "mounting volume \"gdt\"")?;
    let magic = create(dir.path(), "magic", 16 * MIB)?;
    write(&magic, &[0; 4096], 0)?;
    refused(&["/m"], "volume \"magic\" (filesystem UUID")?;
    a_partition_is_no_layer(dir.path())
}

/// A volume with a partition on it that claims to be the image.
fn a_partition_is_no_layer(store: &Path) -> Result<()> {
    let superblock = |file: &Path| -> Result<[u8; 128]> {
        let mut superblock = [0; 128];
        fs::File::open(file)?.read_exact_at(&mut superblock, 1024)?;
        Ok(superblock)
    };
    let disks = [files(&store.join("chains")), files(&store.join("layers"))].concat();
    let image = disks.iter().filter_map(|file| superblock(file).ok());
    let image = image.into_iter().find(|bytes| bytes.starts_with(&[0xe2, 0xe1, 0xf5, 0xe0]));
    let image = image.context("the image's disk")?;
    let part = create(store, "part", 64 * MIB)?;
    let disk = OpenOptions::new().write(true).open(part.disk())?;
    let first = 60 * MIB / 512;
    let entry =
        [&[0, 0, 2, 0, 0x83, 0, 0, 0][..], &first.to_le_bytes()[..4], &4096_u32.to_le_bytes()].concat();
    disk.write_all_at(&entry, 446)?;
    disk.write_all_at(&[0x55, 0xaa], 510)?;
    disk.write_all_at(&image, first * 512 + 1024)?;
    let script = "grep -c 'vd.1$' /proc/partitions; ls /p";
    run(&with(crate::harness::shell(script), store, &["part:/p"])?)?.gives("1\n")
}

/// An image's VOLUMEs are volumes of the container's own: kept with it, and gone with it where that is asked for.
fn of_the_image() -> Result<()> {
    let dir = temporary()?;
    let store = dir.path().join("store");
    let layer =
        Tar::new().file("bin/busybox", 0o755, &fs::read("/bin/busybox")?).symlink("bin/sh", "busybox");
    let layer = layer.file("srv/cache/file", 0o644, b"of the image\n").dir("srv/other", 0o755);
    let config = ConfigBuilder::default().volumes(vec!["/srv/cache".into(), "/srv/other".into()]).build()?;
    let image = dir.path().join("image");
    testimage::write(&image, &[layer.finish()], config)?;
    let run = |options: &[&str]| -> Result<Output> {
        let like = command_with_store(&store, "of-image", options, &[]);
        let mut command = Command::new(vch());
        // Kept when it has ended, unless the options say otherwise; and of another image.
        let words: Vec<_> = like.get_args().collect();
        command.arg("run").args(words[2..].iter().filter(|word| ***word != *busybox())).arg(&image);
        let script = "/bin/busybox cat /srv/cache/file; /bin/busybox grep -c ' /srv/.* ext4 rw' /proc/mounts; \
            /bin/busybox touch /srv/cache/x /srv/other/x";
        Ok(command.args(["/bin/sh", "-c", script]).stdin(Stdio::null()).output()?)
    };
    let volumes = || Ok::<_, anyhow::Error>(Volumes::of(&store).list()?.len());
    says(&run(&["-v", "other-vol:/srv/other"])?, 0, &["of the image\n2\n"])?;
    ensure!(volumes()? == 2, "{} volumes", volumes()?);
    says(&volume(&store, &["prune", "-f"])?, 0, &["reclaimed space: 0 bytes"])?;
    let mut rm = Command::new(vch());
    says(&rm.args(["rm", "-v", "of-image", "--store"]).arg(&store).output()?, 0, &["of-image"])?;
    ensure!(volumes()? == 1, "{} volumes", volumes()?);
    says(&run(&["--rm"])?, 0, &["of the image\n2\n"])?;
    eventually("--rm removes them", || volumes().is_ok_and(|count| count == 1))
}

/// Folders and files of the host's: what is shared and no more, and read-only whatever the guest thinks of it.
fn of_the_host() -> Result<()> {
    let dir = temporary()?;
    let (store, shared, single) =
        (dir.path().join("store"), dir.path().join("shared"), dir.path().join("single"));
    fs::create_dir_all(shared.join("sub"))?;
    fs::write(dir.path().join("secret"), "secret")?;
    fs::write(shared.join("file"), "of the host\n")?;
    fs::write(&single, "alone\n")?;
    std::os::unix::fs::symlink(dir.path().join("secret"), shared.join("link"))?;
    std::os::unix::fs::symlink("../secret", shared.join("up"))?;

    let script = "cat /h/file /single /h/link /h/up 2>/dev/null; ls -A /h/..; chown 12:34 /h/sub; \
        mkdir /h/sub/new && echo hello > /h/sub/new/tmp && mv /h/sub/new/tmp /h/sub/new/file && ln /h/sub/new/file /h/hard; \
        for place in /ro /ro-single; do mount -o remount,rw $place && echo remounted; done; \
        touch /ro/x || echo refused; echo x >> /ro-single || echo refused; echo more >> /single";
    let of = |source: &Path, target: &str| format!("{}:{target}", source.display());
    let [h, ro, file] = [of(&shared, "/h"), of(&shared, "/ro:ro"), of(&single, "/single")];
    let ro_file = format!("type=bind,source={},target=/ro-single,readonly", single.display());
    let options = ["--privileged", "-v", &h, "-v", &ro, "-v", &file, "--mount", &ro_file];
    let output = shell(&store, "of-the-host", &options, script)?;
    let out = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = out.lines().collect();
    ensure!(lines.starts_with(&["of the host", "alone"]) && !out.contains("secret"), "{out}");
    ensure!(lines.ends_with(&["remounted", "remounted", "refused", "refused"]), "{out}: {output:?}");
    ensure!(fs::read_to_string(shared.join("hard"))? == "hello\n");
    ensure!(fs::read_to_string(&single)? == "alone\nmore\n");
    let sub = fs::metadata(shared.join("sub"))?;
    ensure!((sub.uid(), sub.gid()) == (12, 34));
    ensure!(!shared.join("x").exists());
    eventually("virtiofsd has ended", || !names_a_process(&store))?;
    let missing = of(&dir.path().join("missing"), "/x");
    says(&shell(&store, "of-the-host", &["-v", &missing], "true")?, 125, &["missing", "No such file"])
}

/// Whether a process has a word in its command line that begins with this path.
fn names_a_process(path: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let path = path.as_os_str().as_encoded_bytes();
    processes.flatten().any(|process| {
        fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| line.windows(path.len()).any(|word| word == path))
    })
}
