//! What the tests share: images, runs by the library and by the command line, and what must not be left behind.

use anyhow::{Context, Result, ensure};
use image_builder::source;
use image_builder::store::LayerStore;
use image_builder::testimage;
use libtest_mimic::{Failed, Trial};
use protocol::MachineSpec;
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Child};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vch::containers::{Container, Record};
use vch::options::Kernel;
use vch::options::channel::ChannelOptions;
use vch::options::template::Choice;
use vch::transport::{Channel, Vhost};
use vch::vm::Home;
use vch::{Outcome, RunOptions, Stdio};

/// A test, and why it cannot run here, if so.
pub struct Test {
    name: String,
    skipped: Option<String>,
    body: Box<dyn FnOnce() -> Result<()> + Send>,
}

impl Test {
    pub fn new(name: &str, body: fn() -> Result<()>) -> Self {
        Self::of(name.into(), body)
    }

    pub fn of(name: String, body: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self { name, skipped: None, body: Box::new(body) }
    }

    /// The same test over each transport of the channel: `MODULE::NAME`, `MODULE::vsock::NAME`, `MODULE::serial::NAME`.
    pub fn over_each(module: &str, name: &str, body: fn(Channel) -> Result<()>) -> [Self; 3] {
        let over = |prefix, channel: Channel| Self {
            name: format!("{module}::{prefix}{name}"),
            skipped: can(channel).err().map(|why| format!("{why:#}")),
            body: Box::new(move || body(channel)),
        };
        [over("", Channel::VirtioSerial), over("vsock::", Channel::Vsock), over("serial::", Channel::Serial)]
    }

    /// Skips the test unless `needed` is there.
    pub fn needs(mut self, needed: Result<()>) -> Self {
        self.skipped = needed.err().map(|why| format!("{why:#}"));
        self
    }

    /// Whether its line to the guest is not the usual one.
    pub fn is_over_another_channel(&self) -> bool {
        ["::vsock::", "::serial::"].iter().any(|word| self.name.contains(word))
    }

    /// The same test, `PREFIX::MODULE::NAME`, with VMs that go on from a template where they can.
    pub fn restored(self, prefix: &str) -> Self {
        let body = self.body;
        let body = Box::new(move || {
            FROM_TEMPLATE.set(true);
            let result = body();
            FROM_TEMPLATE.set(false);
            result
        });
        Self { name: format!("{prefix}::{}", self.name), skipped: self.skipped, body }
    }

    pub fn into_trial(self) -> Trial {
        if let Some(why) = &self.skipped {
            eprintln!("SKIPPED {}: {why}", self.name);
        }
        let body = self.body;
        let trial =
            Trial::test(self.name, move || body().map_err(|error| Failed::from(format!("{error:#}"))));
        trial.with_ignored_flag(self.skipped.is_some())
    }
}

thread_local! {
    /// Whether this thread's VMs are to go on from a template where they can.
    static FROM_TEMPLATE: Cell<bool> = const { Cell::new(false) };
}

/// Whether VMs are to go on from a template where they can; `CONTAINERVM_FROM_TEMPLATE=auto` says so for all tests.
fn from_template() -> bool {
    FROM_TEMPLATE.get() || std::env::var_os("CONTAINERVM_FROM_TEMPLATE").is_some_and(|value| value == "auto")
}

/// The options of a VM that boots, whatever others do: for tests of that. (`--boot=direct` says it on a command line.)
pub fn booted(mut options: RunOptions) -> RunOptions {
    options.template.from_template = None;
    options
}

/// The options of a VM that boots, where it cannot do otherwise.
fn or_boot(options: RunOptions) -> RunOptions {
    if vch::template::machine::check(&options).is_err() { booted(options) } else { options }
}

/// Whether `vch run` with these words, and what else tests ask for, can go on from a template.
fn can_be_restored(words: &[&str]) -> bool {
    let is_host_path = |word: &str| word.starts_with(['/', '.']) || word.contains("type=bind");
    let booted = ["--debug", "iso", "--boot=iso", "--boot=direct", "vsock", "--channel=vsock"];
    !words
        .iter()
        .any(|word| booted.contains(word) || is_host_path(word) || word.starts_with("--from-template"))
}

/// Lists functions of a module as tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::harness::Test::new(
            concat!(module_path!(), "::", stringify!($name)).trim_start_matches("vm::"),
            $name,
        )),*]
    };
}

/// Whether this machine has what the transport needs.
pub fn can(channel: Channel) -> Result<()> {
    if channel == Channel::Vsock { Vhost::Helper.check() } else { Ok(()) }
}

/// Options with this transport. vsock is by the helper, which all machines have that run the tests.
pub fn on(over: Channel, mut options: RunOptions) -> RunOptions {
    options.channel = ChannelOptions { channel: Some(over), vhost: Some(Vhost::Helper) };
    options
}

/// Lists functions of a module that take the channel's transport as tests over each.
#[macro_export]
macro_rules! tests_over_each {
    ($($name:ident),* $(,)?) => {
        [$($crate::harness::Test::over_each(
            module_path!().trim_start_matches("vm::"),
            stringify!($name),
            $name,
        )),*]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
    };
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The folder of kernel, initrd and ISO.
pub fn bootstrap() -> PathBuf {
    std::env::var_os("CONTAINERVM_BOOTSTRAP")
        .map_or_else(|| workspace().join("target/bootstrap"), PathBuf::from)
}

/// Our own kernel and its initramfs, which `vch` takes by itself where they are.
pub fn own_kernel() -> Option<(PathBuf, PathBuf)> {
    let own = bootstrap().join("own");
    let files = (own.join("vmlinux"), own.join("initrd"));
    (files.0.exists() && files.1.exists()).then_some(files)
}

/// Debian's.
pub fn debian_kernel() -> (PathBuf, PathBuf) {
    let vmlinux = bootstrap().join("vmlinux");
    let kernel = if vmlinux.exists() { vmlinux } else { bootstrap().join("vmlinuz") };
    (kernel, bootstrap().join("initrd"))
}

/// The kernel that a test boots if it does not say, and its initramfs.
pub fn kernel() -> (PathBuf, PathBuf) {
    own_kernel().unwrap_or_else(debian_kernel)
}

/// The same as words for the command line.
pub fn kernel_words() -> [OsString; 4] {
    let (kernel, initrd) = kernel();
    ["--kernel".into(), kernel.into(), "--initrd".into(), initrd.into()]
}

/// The `vch` that a user would run.
pub fn vch() -> PathBuf {
    std::env::var_os("CONTAINERVM_VCH").map_or_else(|| workspace().join("target/release/vch"), PathBuf::from)
}

/// The static program that does inside a VM what busybox cannot.
pub fn probe() -> PathBuf {
    let built = || workspace().join("target/x86_64-unknown-linux-musl/release/probe");
    std::env::var_os("CONTAINERVM_PROBE").map_or_else(built, PathBuf::from)
}

/// Where the tests keep layer disks, so that they are built once.
pub fn store() -> PathBuf {
    workspace().join("target/tests/store")
}

/// The image that most tests run: Debian's busybox.
pub fn busybox() -> String {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let dir = workspace().join("target/tests/busybox");
            testimage::busybox_image(&dir, Path::new("/bin/busybox")).expect("an image of /bin/busybox");
            dir.display().to_string()
        })
        .clone()
}

/// A temporary folder, gone with the value.
pub fn temporary() -> Result<tempfile::TempDir> {
    tempfile::tempdir().context("making a temporary folder")
}

/// Options as the tests want them: `command` in `image`, with the kernel that was built.
pub fn options(image: &str, command: &[&str]) -> RunOptions {
    let mut options = RunOptions::new(image);
    options.command = command.iter().map(ToString::to_string).collect();
    let (kernel, initrd) = kernel();
    (options.kernel, options.initrd) = (Some(Kernel::File(kernel)), Some(initrd));
    options.store = Some(store());
    options.template.from_template = from_template().then_some(Choice::Auto);
    options
}

/// `sh -c script` in busybox.
pub fn shell(script: &str) -> RunOptions {
    options(&busybox(), &["sh", "-c", script])
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    pub fn code(&self) -> u8 {
        self.outcome.code()
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks stdout, an empty stderr and exit status 0.
    pub fn gives(&self, stdout: &str) -> Result<()> {
        ensure!(self.out() == stdout, "stdout is {:?}, not {stdout:?}", self.out());
        ensure!(self.stderr.is_empty(), "stderr: {}", String::from_utf8_lossy(&self.stderr));
        ensure!(self.code() == 0, "exit status {}", self.code());
        Ok(())
    }
}

/// Runs with `/dev/null` as stdin.
pub fn run(options: &RunOptions) -> Result<Ran> {
    run_with(options, File::open("/dev/null")?.into())
}

/// Runs with `stdin`. Output goes to files, as with `> file`.
pub fn run_with(options: &RunOptions, stdin: OwnedFd) -> Result<Ran> {
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let stdio = Stdio {
        stdin,
        stdout: stdout.try_clone()?.into(),
        stderr: stderr.try_clone()?.into(),
        signals: None,
    };
    let outcome = vch::run(&or_boot(options.clone()), &stdio)?;
    Ok(Ran { outcome, stdout: contents(stdout)?, stderr: contents(stderr)? })
}

fn contents(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that holds `bytes`, to be read from its start.
pub fn input(bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// The whole error of a run that must fail before or beside the container.
pub fn error_of(result: Result<Ran>) -> Result<String> {
    match result {
        Err(error) => Ok(format!("{error:#}")),
        Ok(ran) => match ran.outcome.sentence() {
            Some(sentence) => Ok(sentence),
            None => anyhow::bail!("it ran: {ran:?}"),
        },
    }
}

/// The command line `vch run OPTIONS busybox ARGUMENTS`, with a name by which its QEMU can be found.
pub fn command(name: &str, options: &[&str], arguments: &[&str]) -> Command {
    command_with_store(&store(), name, options, arguments)
}

/// The same with a store of its own.
pub fn command_with_store(store: &Path, name: &str, options: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(vch());
    command.args(["run", "--rm", "--name", name, "--store"]).arg(store);
    command.args(kernel_words());
    command.args((from_template() && can_be_restored(options)).then_some("--from-template"));
    command.args(options).arg(busybox()).args(arguments);
    command.stdin(Child::null()).stdout(Child::piped()).stderr(Child::piped());
    command
}

/// Processes whose command line holds `guest=NAME`, as QEMU's does.
pub fn qemus(name: &str) -> usize {
    let wanted = format!("guest={name}");
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter(|process| {
            std::fs::read(process.path().join("cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0).any(|word| word.starts_with(wanted.as_bytes()))
            })
        })
        .count()
}

/// Waits until `condition` holds, three minutes at most: another test may have the processors.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(180);
    while !condition() {
        ensure!(Instant::now() < end, "not within 180 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Files below `dir`, however deep.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs the options' command on layer disks that no image and no store knows of, by the library's parts. Gives
/// stdout; fails when the container does.
pub fn run_with_layers(options: &RunOptions, layers: &[(&Path, protocol::Uuid)]) -> Result<String> {
    stdout_of(machine(options, layers, |_| {})?)
}

/// Runs a script in busybox, with a machine spec that `change` has changed: for what no option of `vch run` asks for.
/// Gives stdout; fails when the container does.
pub fn run_changed(script: &str, change: impl FnOnce(&mut MachineSpec)) -> Result<String> {
    let disk = busybox_disk()?;
    let mut options = shell(script);
    options.env = vec!["PATH=/bin".into()];
    stdout_of(machine(&options, &[(&disk.path, protocol::Uuid::from_bytes(disk.uuid))], change)?)
}

fn busybox_disk() -> Result<image_builder::store::LayerDisk> {
    let image = source::open(&busybox(), &source::Options::default())?;
    let store = LayerStore::open(store())?;
    let layer = image.layers.first().context("busybox has a layer")?;
    store.layer_disk(layer, &mut |_, _| {})
}

fn stdout_of(ran: Ran) -> Result<String> {
    ensure!(ran.code() == 0, "{}", ran.outcome.sentence().unwrap_or_default());
    Ok(String::from_utf8(ran.stdout)?)
}

/// A VM that has not been told what to run.
pub struct Running {
    pub vm: vch::vm::Vm,
    pub wires: vch::vm::Wires,
    pub machine: MachineSpec,
    pub layers: Vec<vch::layers::OpenLayer>,
    pub scratch: File,
}

/// Starts a VM for the options' command on these disks.
pub fn start(options: &RunOptions, layers: &[(&Path, protocol::Uuid)]) -> Result<Running> {
    start_in(None, options, layers)
}

/// The same; with a container, the VM's sockets are in its folder.
fn start_in(
    container: Option<&Container>,
    options: &RunOptions,
    layers: &[(&Path, protocol::Uuid)],
) -> Result<Running> {
    let options = &booted(options.clone());
    let accel = vch::accel::choose(options.accel)?;
    let boot = vch::boot::Boot::find(options)?;
    let scratch_uuid = protocol::Uuid::from_bytes(vch::random::bytes()?);
    std::fs::create_dir_all(store())?;
    let scratch =
        vch::scratch::create(&store(), options.scratch_size, scratch_uuid, vch::mke2fs::For::Scratch)?;
    let open = |(path, uuid): &(&Path, protocol::Uuid)| -> Result<_> {
        vch::layers::OpenLayer::whole(*uuid, File::open(path)?, path.display().to_string())
    };
    let layers: Vec<_> = layers.iter().map(open).collect::<Result<_>>()?;
    let in_spec = layers.iter().map(|layer| layer.spec(options.verity)).collect::<Result<_>>()?;
    let disks = protocol::Disks { layers: in_spec, scratch: scratch_uuid, ephemeral: true };
    let config = oci_spec::image::Config::default();
    const ID: &str = "0123456789abcdef";
    let machine = vch::spec::compose(&config, options, ID, disks, None, |_| Ok(None))?;
    let network = vch::network::Host::open(&options.network, ID, &[], &store())?;
    // Where the spec goes another way than the channel, it is taken from there.
    container.map_or(Ok(()), |container| container.keep_machine(&machine))?;
    let home = container.map(|container| Home { container, outlives: false });
    let (vm, wires) = vch::vm::Vm::start(
        "tests",
        home,
        options,
        accel,
        &boot,
        &scratch,
        &layers,
        &[],
        &[],
        &network,
        None,
    )?;
    Ok(Running { vm, wires, machine, layers, scratch })
}

/// The same, for a command in busybox.
pub fn start_shell(options: &RunOptions) -> Result<Running> {
    let disk = busybox_disk()?;
    start(options, &[(&disk.path, protocol::Uuid::from_bytes(disk.uuid))])
}

/// The same, with its sockets in the container's folder.
pub fn start_shell_in(container: &Container, options: &RunOptions) -> Result<Running> {
    let disk = busybox_disk()?;
    start_in(Some(container), options, &[(&disk.path, protocol::Uuid::from_bytes(disk.uuid))])
}

/// The folder of a container in this store, for a VM with these options.
pub fn container(store: &Path, options: &RunOptions) -> Result<Container> {
    let record = Record::new(vch::random::id()?, vch::name::invent()?);
    let record = Record { remove: true, transport: options.transport()?, ..record };
    vch::containers::Containers::of(store).create(record)
}

/// Runs the options' command on these disks, whatever is on them, with a machine spec that `change` has changed.
pub fn machine(
    options: &RunOptions,
    layers: &[(&Path, protocol::Uuid)],
    change: impl FnOnce(&mut MachineSpec),
) -> Result<Ran> {
    let mut running = start(options, layers)?;
    change(&mut running.machine);
    relay(running, options)
}

/// Runs a VM that has not been told what to run to its end.
pub fn relay(running: Running, options: &RunOptions) -> Result<Ran> {
    let Running { vm, wires, machine, layers, .. } = running;
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let stdio = Stdio {
        stdin: File::open("/dev/null")?.into(),
        stdout: stdout.try_clone()?.into(),
        stderr: stderr.try_clone()?.into(),
        signals: None,
    };
    let plan = vch::monitor::relay::Plan {
        machine,
        layers: layers.into(),
        shared: vec![],
        stdin: false,
        debug: false,
        boot_timeout: Duration::from_secs(180),
        restore: None,
        qemu: Some(vm.id()),
    };
    let container = container(&store(), options)?;
    let outcome = vch::run_in(plan, wires, container, &stdio, options);
    drop(vm);
    Ok(Ran { outcome: outcome?, stdout: contents(stdout)?, stderr: contents(stderr)? })
}
