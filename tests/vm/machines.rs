//! Every machine type with every kernel that it can boot, by every way to boot it: the container, its streams, disks and interface are
//! the same on all of them. What does not go together is refused, and named.

use crate::background::Background;
use crate::end::order;
use crate::harness::{
    Running, Test, booted, bootstrap, busybox, container, debian_kernel, error_of, eventually, input,
    options, own_kernel, run, run_with, start_shell_in, temporary,
};
use crate::tests;
use anyhow::{Context, Result, ensure};
use protocol::stored::Header;
use std::io::Read;
use std::path::{Path, PathBuf};
use vch::RunOptions;
use vch::network::mode::Choice;
use vch::options::spec_from::SpecFrom;
use vch::options::{Boot, Firmware, Kernel, Machine};
use vch::vm::Wires;
use vch::volumes::parse;

/// How it boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Direct,
    Bios,
    Uefi,
}

/// Whose kernel it boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Own,
    Debian,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    machine: Machine,
    kernel: Whose,
    way: Way,
}

const WITH_PCI: [Machine; 3] = [Machine::Q35, Machine::Pc, Machine::Vmware];

pub fn tests() -> Vec<Test> {
    let mut cells = vec![Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct }];
    for kernel in [Whose::Own, Whose::Debian] {
        for machine in WITH_PCI {
            cells.extend([Way::Direct, Way::Bios, Way::Uefi].map(|way| Cell { machine, kernel, way }));
        }
    }
    let mut all: Vec<_> = cells.into_iter().map(Cell::test).collect();
    all.extend(tests![refused, hot_plug, spec_from_elsewhere, nobody_attached, bad_specs]);
    all.extend(
        tests![the_best, memory_areas_move, parameters_of_modules]
            .into_iter()
            .map(|test| test.needs(there_is(Whose::Own))),
    );
    all
}

/// Whether a kernel was built.
fn there_is(kernel: Whose) -> Result<()> {
    match kernel {
        Whose::Own => {
            own_kernel().map(drop).context("there is no kernel of our own: `cargo xtask kernel` makes it")
        }
        Whose::Debian => Ok(()),
    }
}

fn kernel_of(whose: Whose) -> Result<(PathBuf, PathBuf)> {
    match whose {
        Whose::Own => own_kernel().context("no kernel of our own"),
        Whose::Debian => Ok(debian_kernel()),
    }
}

impl Cell {
    fn test(self) -> Test {
        let name = format!("machines::{:?}_{:?}_{:?}", self.machine, self.kernel, self.way).to_lowercase();
        Test::of(name, move || self.run()).needs(self.is_possible())
    }

    fn iso(self) -> PathBuf {
        let folder = if self.kernel == Whose::Own { "own" } else { "" };
        bootstrap().join(folder).join("bootstrap.iso")
    }

    fn is_possible(self) -> Result<()> {
        there_is(self.kernel)?;
        let exists = |path: &Path, what: &str| {
            ensure!(path.exists(), "{} is not there: {what}", path.display());
            Ok(())
        };
        if self.way != Way::Direct {
            exists(&self.iso(), "`cargo xtask iso` makes it")?;
        }
        if self.way == Way::Uefi {
            exists(Path::new("/usr/share/ovmf/OVMF.fd"), "it is in Debian's package ovmf")?;
        }
        Ok(())
    }

    fn options(self, command: &[&str]) -> Result<RunOptions> {
        let mut options = options(&busybox(), command);
        options.machine = Some(self.machine);
        if self.way == Way::Direct {
            let (kernel, initrd) = kernel_of(self.kernel)?;
            (options.kernel, options.initrd) = (Some(Kernel::File(kernel)), Some(initrd));
            // For a machine that would boot from the CD.
            options.boot = Some(Boot::Direct);
        } else {
            (options.kernel, options.initrd, options.iso) = (None, None, Some(self.iso()));
            options.boot = (self.machine != Machine::Vmware).then_some(Boot::Iso);
        }
        if self.way == Way::Uefi {
            options.firmware = Firmware::Uefi;
        }
        Ok(options)
    }

    /// One boot, in which all is looked at.
    fn run(self) -> Result<()> {
        let script = "uname -r
            cat
            echo x > /written && df -T / | tail -1
            echo y > /kept/written && df -T /kept | tail -1
            ls /sys/class/block | grep d | tr '\\n' ' '; echo
            basename $(readlink /sys/class/net/eth0/device/driver)
            ip -o -4 address show eth0
            cat /sys/bus/pci/devices/0000:00:00.0/device 2>/dev/null || echo no PCI
            [ -d /sys/firmware/efi ] && echo UEFI || echo no UEFI
            cat /proc/cmdline
            cat /sys/devices/system/clocksource/clocksource0/current_clocksource
            echo error >&2
            exit 9";
        let mut options = self.options(&["sh", "-c", script])?;
        options.interactive = true;
        options.security.security_opt = vec!["systempaths=unconfined".into()];
        options.volumes.volume = vec![parse::volume("/kept")?];
        let ran = run_with(&options, input(b"from stdin\n")?)?;
        let out = ran.out();
        let lines: Vec<_> = out.lines().collect();
        let error = String::from_utf8_lossy(&ran.stderr);
        ensure!(lines.len() == 11 && error == "error\n" && ran.code() == 9, "{}: {out}{error}", ran.code());
        let is = |line: usize, what: &str| {
            ensure!(lines[line].contains(what), "no {what:?} in line {line} of {out}");
            Ok(())
        };
        is(0, if self.kernel == Whose::Own { "-containervm" } else { "-cloud-amd64" })?;
        is(1, "from stdin")?;
        is(2, "overlay")?;
        is(3, "ext4")?;
        let (disks, driver) = match self.machine {
            Machine::Vmware => ("sda sdb sdc ", "vmxnet3"),
            _ => ("vda vdb vdc ", "virtio_net"),
        };
        ensure!(lines[4].contains(disks), "{out}");
        is(5, driver)?;
        is(6, "inet 10.0.2.15/24")?;
        is(
            7,
            match self.machine {
                Machine::Microvm => "no PCI",
                Machine::Q35 => "0x29c0",
                Machine::Pc | Machine::Vmware => "0x1237",
            },
        )?;
        ensure!(lines[8] == if self.way == Way::Uefi { "UEFI" } else { "no UEFI" }, "{out}");
        // isolinux says what it has loaded; a CD's kernel is not told of the channel.
        ensure!(lines[9].contains("BOOT_IMAGE=/") == (self.way == Way::Bios), "{out}");
        ensure!(lines[9].contains("containervm.channel=") == (self.way == Way::Direct), "{out}");
        // One that counts finer than ticks.
        let has_one = self.machine != Machine::Microvm || vch::host_tsc::is_steady();
        ensure!(!has_one || !lines[10].contains("jiffies"), "{out}");
        Ok(())
    }
}

/// What cannot be is not tried.
fn refused() -> Result<()> {
    let refused = |options: &RunOptions, parts: &[&str]| -> Result<()> {
        let error = error_of(run(&booted(options.clone())))?;
        let lacks = parts.iter().find(|part| !error.contains(**part));
        ensure!(lacks.is_none() && !error.contains('\n'), "{error:?} does not say {lacks:?}");
        Ok(())
    };
    let cell = |machine, way| Cell { machine, kernel: Whose::Debian, way }.options(&["true"]);
    refused(&cell(Machine::Microvm, Way::Direct)?, &["CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES", "--kernel own"])?;
    refused(&cell(Machine::Microvm, Way::Bios)?, &["no CD-ROM", "q35, pc and vmware"])?;
    refused(&cell(Machine::Microvm, Way::Uefi)?, &["no CD-ROM", "q35, pc and vmware"])?;
    let mut options = cell(Machine::Q35, Way::Direct)?;
    options.firmware = Firmware::Uefi;
    refused(&options, &["--firmware uefi", "--boot iso"])?;
    let mut options = cell(Machine::Vmware, Way::Direct)?;
    let folder = temporary()?;
    options.volumes.volume = vec![parse::volume(&format!("{}:/folder", folder.path().display()))?];
    refused(&options, &["--machine vmware has no virtiofs", "--machine q35"])?;
    if there_is(Whose::Own).is_ok() {
        let own = Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct };
        let mut options = own.options(&["true"])?;
        options.volumes.volume =
            (0..4).map(|number| parse::volume(&format!("/{number}"))).collect::<Result<_>>()?;
        refused(&options, &["room for 7 devices", "4 volumes", "--machine q35"])?;
    }
    Ok(())
}

/// The spec is where the channel does not bring it: a CD's kernel finds it by itself, one that is told where it is looks only there.
/// Streams and end are the channel's all the same.
fn spec_from_elsewhere() -> Result<()> {
    let found = |machine, kernel, way, from| -> Result<()> {
        let cell = Cell { machine, kernel, way };
        let script = "cat; grep -o containervm.spec=.* /proc/cmdline | cut -d ' ' -f 1; exit 5";
        let mut options = cell.options(&["sh", "-c", script])?;
        (options.interactive, options.spec.spec_from) = (true, from);
        let ran = run_with(&options, input(b"text\n")?)?;
        let word = if way == Way::Direct { format!("{}\n", from.parameter()) } else { String::new() };
        ensure!(ran.out() == format!("text\n{word}") && ran.code() == 5, "{cell:?}, {from:?}: {ran:?}");
        Ok(())
    };
    found(Machine::Q35, Whose::Debian, Way::Direct, SpecFrom::FwCfg)?;
    found(Machine::Vmware, Whose::Debian, Way::Bios, SpecFrom::FwCfg)?;
    found(Machine::Vmware, Whose::Debian, Way::Bios, SpecFrom::Disk)?;
    if there_is(Whose::Own).is_ok() {
        found(Machine::Microvm, Whose::Own, Way::Direct, SpecFrom::Disk)?;
        let microvm = Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct };
        let mut options = microvm.options(&["true"])?;
        options.spec.spec_from = SpecFrom::FwCfg;
        let error = error_of(run(&options))?;
        ensure!(error.contains("--spec-from channel and disk"), "{error}");
    }
    Ok(())
}

/// A machine that has its spec needs no host to run it.
fn nobody_attached() -> Result<()> {
    let script = "echo out; echo the container runs > /dev/ttyS0; sleep 1000";
    let cell = Cell { machine: Machine::Vmware, kernel: Whose::Debian, way: Way::Direct };
    let mut options = cell.options(&["sh", "-c", script])?;
    options.spec.spec_from = SpecFrom::FwCfg;
    options.security.device = vec!["/dev/ttyS0".into()];
    let store = temporary()?;
    let container = container(store.path(), &options)?;
    let Running { vm, wires, .. } = start_shell_in(&container, &options)?;
    let Wires { channel, mut console, .. } = wires;
    drop(channel);
    let mut said = String::new();
    eventually("the container says something on the console", || {
        let mut bytes = [0; 4096];
        let count = console.read(&mut bytes).unwrap_or_default();
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        said.contains("the container runs")
    })
    .with_context(|| said.clone())?;
    drop(vm);
    Ok(())
}

/// Bytes that are no machine spec end the VM with a sentence, over the channel.
fn bad_specs() -> Result<()> {
    let bad = |from: SpecFrom, bytes: &[u8], parts: &[&str]| -> Result<()> {
        let kernel = if there_is(Whose::Own).is_ok() { Whose::Own } else { Whose::Debian };
        let mut options = Cell { machine: Machine::Q35, kernel, way: Way::Direct }.options(&["true"])?;
        let dir = temporary()?;
        let path = dir.path().join("spec");
        std::fs::write(&path, bytes)?;
        // The host does not wait to be asked, so it is as if another one had made the source.
        options.qemu_arg = match from {
            SpecFrom::Disk => {
                vec!["-drive".into(), format!("if=virtio,format=raw,readonly=on,file={}", path.display())]
            }
            _ => vec!["-fw_cfg".into(), format!("name=opt/org.containervm/spec,file={}", path.display())],
        };
        let words = format!("console=ttyS0 quiet panic=-1 cryptomgr.notests=1 {}", from.parameter());
        options.qemu_arg.extend(["-append".into(), words]);
        let error = error_of(run(&booted(options)))?;
        let lacks = parts.iter().find(|part| !error.contains(**part));
        ensure!(lacks.is_none() && !error.contains('\n'), "{error:?} does not say {lacks:?}");
        Ok(())
    };
    let document = br#"{"machine":{"version":1,"nonsense":true}}"#;
    bad(
        SpecFrom::FwCfg,
        document,
        &["reading the machine spec", "fw_cfg's opt/org.containervm/spec", "nonsense"],
    )?;
    let disk = |header: &[u8]| [header, &document[..], &[0; 512]].concat();
    let mut header = Header::of(document).map_err(anyhow::Error::msg)?.bytes();
    bad(SpecFrom::Disk, &disk(&header), &["reading the machine spec", "a config disk", "nonsense"])?;
    header[24] ^= 1;
    bad(SpecFrom::Disk, &disk(&header), &["the config disk /dev/vd", "checksum"])
}

/// Without a word about the machine: microvm while there is room, else one that has more; on two CPUs, and without a network.
fn the_best() -> Result<()> {
    let pci = "ls -d /sys/bus/pci/devices/0000:00:00.0 2>/dev/null | wc -l; nproc; ls -d /sys/class/net/eth0 2>/dev/null | wc -l";
    let own = Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct };
    let mut options = own.options(&["sh", "-c", pci])?;
    (options.machine, options.boot, options.cpus) = (None, None, 2.0);
    options.network.network = vec![Choice::parse("none")?];
    if vch::host_tsc::is_steady() {
        run(&options)?.gives("0\n2\n0\n")?;
    }
    options.volumes.volume =
        (0..6).map(|number| parse::volume(&format!("/{number}"))).collect::<Result<_>>()?;
    run(&options)?.gives("1\n2\n0\n")
}

/// Where a kernel that is entered directly has its memory areas is by chance (Documentation/x86/x86_64/mm.rst: where vmalloc's is otherwise).
fn memory_areas_move() -> Result<()> {
    let script = "echo 1 > /proc/sys/kernel/kptr_restrict; head -n 1 /proc/vmallocinfo";
    let own = Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct };
    let mut options = own.options(&["sh", "-c", script])?;
    options.security.privileged = true;
    let area = run(&options)?.out();
    ensure!(area.starts_with("0xffff") && !area.starts_with("0xffffc900"), "{area}");
    Ok(())
}

/// Parameters of what is built in are in their modules' folders, several in one, as the command line has them; files of the slab
/// allocator are not there (iso/patches).
fn parameters_of_modules() -> Result<()> {
    let script = "cd /sys/module; cat virtio_blk/parameters/queue_depth kernel/parameters/panic; \
                  ls kernel/parameters | grep -c -e initcall_debug -e pause_on_oops; ls /sys/kernel | grep -c slab";
    let own = Cell { machine: Machine::Microvm, kernel: Whose::Own, way: Way::Direct };
    let ran = run(&own.options(&["sh", "-c", script])?)?;
    ensure!(ran.out() == "128\n-1\n2\n0\n", "{}", ran.out());
    Ok(())
}

/// A disk that comes to a running q35 machine, in a port that it has for that.
fn hot_plug() -> Result<()> {
    let dir = temporary()?;
    let socket = dir.path().join("qmp");
    let qmp = format!("--qemu-arg=unix:{},server=on,wait=off", socket.display());
    let script =
        "echo ready; until [ -e /sys/class/block/vdc ]; do sleep 1; done; cat /sys/class/block/vdc/size";
    let port = ["--qemu-arg=-device", "--qemu-arg=pcie-root-port,id=root-port,slot=1"];
    let words = [&["--machine", "q35", "--qemu-arg=-qmp", &qmp], &port[..]].concat();
    let vm = Background::run("machines-hot-plug", &words, &["sh", "-c", script])?;
    eventually("it runs", || vm.said(&["logs", vm.name]).is_ok_and(|log| log == "ready\n"))?;
    let disk = r#"{"driver":"null-co","node-name":"late","size":1048576}"#;
    order(&socket, &format!(r#"{{"execute":"blockdev-add","arguments":{disk}}}"#))?;
    let device = r#"{"driver":"virtio-blk-pci","drive":"late","bus":"root-port"}"#;
    order(&socket, &format!(r#"{{"execute":"device_add","arguments":{device}}}"#))?;
    ensure!(vm.said(&["wait", vm.name])? == "0\n");
    ensure!(vm.said(&["logs", vm.name])? == "ready\n2048\n");
    Ok(())
}
