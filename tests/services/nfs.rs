//! Volumes of an NFS server, which is Ganesha on this machine: what is written there, by whom, and what becomes of containers whose
//! server is dead.

use crate::harness::{Test, busybox, debian_kernel, eventually, kernel, qemus, workspace};
use crate::service::{Service, patiently, said, vch_with};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

pub fn tests() -> Vec<Test> {
    let root = || {
        ensure!(geteuid().is_root(), "Ganesha needs root");
        Ok(())
    };
    tests![written_and_read, servers_that_do_not_answer, a_server_that_dies]
        .into_iter()
        .map(|test| test.needs(root()))
        .collect()
}

/// A server that exports one folder as `/data`, on ports of 127.0.0.1; gone with the value.
struct Server {
    dir: tempfile::TempDir,
    ganesha: Child,
    /// Version 3 is announced there; none where there is one.
    rpcbind: Option<Child>,
    port: u16,
    mount_port: u16,
}

impl Server {
    fn start() -> Result<Self> {
        let tests = workspace().join("target/tests");
        fs::create_dir_all(&tests)?;
        let dir = tempfile::tempdir_in(tests)?;
        let path = dir.path().display().to_string();
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777))?;
        let [port, mount_port] = free_ports()?;
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 3, 4; NFS_Port = {port}; MNT_Port = {mount_port}; Bind_addr = 127.0.0.1; \
             Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }}\n\
             NFSv4 {{ Graceless = true; Only_Numeric_Owners = true; RecoveryRoot = {path}/recovery; }}\n\
             EXPORT {{ Export_Id = 1; Path = {path}/data; Pseudo = /data; Access_Type = RW; Squash = none; SecType = sys; \
             PrivilegedPort = false; Protocols = 3, 4; Transports = TCP; FSAL {{ Name = VFS; }} }}\n"
        );
        fs::write(dir.path().join("ganesha.conf"), config)?;
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let rpcbind = match TcpStream::connect(("127.0.0.1", 111)) {
            Ok(_) => None,
            Err(_) => {
                fs::create_dir_all("/run/rpcbind")?;
                Some(quiet(Command::new("rpcbind").arg("-f")).context("cannot run rpcbind")?)
            }
        };
        let mut server = Command::new("ganesha.nfsd");
        server.arg("-F").args(["-f", &format!("{path}/ganesha.conf"), "-L", &format!("{path}/log")]);
        server.args(["-p", &format!("{path}/pid"), "-N", "NIV_EVENT"]);
        let answers = |port| patiently(|| Ok(TcpStream::connect(("127.0.0.1", port)).map(drop)?));
        answers(111).context("rpcbind does not listen")?;
        let ganesha = quiet(&mut server).context("cannot run ganesha.nfsd")?;
        let server = Self { dir, ganesha, rpcbind, port, mount_port };
        answers(port)
            .with_context(|| fs::read_to_string(server.dir.path().join("log")).unwrap_or_default())?;
        Ok(server)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.ganesha.id().cast_signed()), signal)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in [Some(&mut self.ganesha), self.rpcbind.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_ports() -> Result<[u16; 2]> {
    let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([ports[0].local_addr()?.port(), ports[1].local_addr()?.port()])
}

/// What `--mount` is to say for the folder `path` of the server at a port of this machine.
fn mount(path: &str, port: u16) -> String {
    format!(
        "type=volume,dst=/data,volume-driver=nfs,volume-opt=device=10.0.2.2:{path},volume-opt=o=port={port}"
    )
}

/// `vch run` of a script in busybox with this kernel.
fn run(kernel: (PathBuf, PathBuf), options: &[&str], script: &str) -> Result<Output> {
    let (kernel, initrd) = (kernel.0.display().to_string(), kernel.1.display().to_string());
    let image = busybox();
    let begin = ["run", "--rm", "--kernel", &kernel, "--initrd", &initrd];
    vch_with(&[&begin, options, &[&image, "sh", "-c", script]].concat())
}

fn gives(output: &Output, code: i32, out: &str, error: &str) -> Result<()> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let good = output.status.code() == Some(code) && stdout == out && stderr.contains(error);
    ensure!(good, "{}, not {code}, {out:?} and {error:?}: {stdout:?}, {stderr}", output.status);
    Ok(())
}

struct Volume(String);

impl Drop for Volume {
    fn drop(&mut self) {
        let _removed = vch_with(&["volume", "rm", "-f", &self.0]);
    }
}

/// By both kernels, in all versions and ways to say it; two containers at once are two clients.
fn written_and_read() -> Result<()> {
    let server = Server::start()?;
    let port = format!("port={}", server.port);
    let volume = Volume(format!("nfs-{}", std::process::id()));
    // Without it, a client looks for a file that was not there once in a minute.
    let o = format!("o={port},lookupcache=none");
    said(&["volume", "create", "--driver", "nfs", "--opt", "device=10.0.2.2:/data", "--opt", &o, &volume.0])?;
    ensure!(said(&["volume", "ls"])?.contains(&format!("nfs       {}\n", volume.0)), "volume ls");
    let inspected: serde_json::Value = serde_json::from_str(&said(&["volume", "inspect", &volume.0])?)?;
    ensure!(inspected[0]["Driver"] == "nfs" && inspected[0]["Options"]["o"] == o[2..], "{inspected}");

    // It has a file open all the time: whoever took its name away at the server would break that.
    let at = format!("{}:/data", volume.0);
    let script =
        "exec 3>>/data/held; while [ ! -e /data/go ]; do sleep 1; done; echo still >&3 && echo wrote";
    let holder = Service::start("nfs-holder", &["-v", &at], &busybox(), &["sh", "-c", script])?;
    patiently(|| Ok(fs::metadata(server.file("held")).map(drop)?)).with_context(|| holder.log())?;

    let script = "grep -o ' /data nfs4 .*vers=4.2' /proc/mounts | cut -c1-11; mkdir /data/sub && echo mine > /data/sub/file; id -u";
    let output = run(kernel(), &["-u", "1000:1001", "-v", &at], script)?;
    gives(&output, 0, " /data nfs4\n1000\n", "")?;
    ensure!(fs::read_to_string(server.file("sub/file"))? == "mine\n", "what is on the server");
    let metadata = fs::metadata(server.file("sub/file"))?;
    ensure!((metadata.uid(), metadata.gid()) == (1000, 1001), "{metadata:?}");

    // As docker's users say it; read-only.
    let docker = format!(
        "type=volume,dst=/here,volume-driver=local,volume-opt=type=nfs,volume-opt=device=:/data,volume-subpath=sub,\
         \"volume-opt=o=addr=10.0.2.2,vers=4.0,{port},soft,timeo=600,noatime,nosuid\",readonly"
    );
    let script = "grep -c ' /here nfs4 ro,nosuid,noatime,vers=4.0,.*,soft,' /proc/mounts; stat -c %u:%g /here/file; \
        cat /here/file; echo x > /here/other";
    let output = run(debian_kernel(), &["--mount", &docker], script)?;
    gives(&output, 1, "1\n1000:1001\nmine\n", "Read-only file system")?;
    let third = format!(
        "type=volume,dst=/data,volume-driver=nfs,volume-opt=device=10.0.2.2:/data,\
         \"volume-opt=o=vers=3,nolock,{port},mountport={}\"",
        server.mount_port
    );
    for kernel in [kernel(), debian_kernel()] {
        let script =
            "grep -c ' /data nfs rw.*vers=3' /proc/mounts; cat /data/sub/file && echo go > /data/three";
        gives(&run(kernel, &["--mount", &third], script)?, 0, "1\nmine\n", "")?;
    }
    ensure!(fs::read_to_string(server.file("three"))? == "go\n", "by version 3");

    let refused = run(kernel(), &["--mount", &mount("/no/such", server.port)], "true")?;
    gives(&refused, 125, "", "/no/such of the NFS server 10.0.2.2: it exports no such folder")?;
    fs::write(server.file("go"), "")?;
    ensure!(said(&["wait", &holder.name])? == "0\n", "{}", holder.log());
    ensure!(fs::read_to_string(server.file("held"))? == "still\n", "by the one that had it open");
    said(&["rm", &holder.name])?;
    said(&["volume", "rm", &volume.0]).map(drop)
}

/// The start fails, in words, whether there is nobody at the port or somebody who says nothing.
fn servers_that_do_not_answer() -> Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let refused = run(kernel(), &["--mount", &mount("/data", nobody)], "true")?;
    gives(&refused, 125, "", "/data of the NFS server 10.0.2.2: Connection refused")?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    let late = run(debian_kernel(), &["--mount", &mount("/data", port)], "true")?;
    gives(&late, 125, "", "/data of the NFS server 10.0.2.2: it does not answer within 30 s")
}

/// Whatever a container does with a server that has died, it can be stopped, and its VM ends.
fn a_server_that_dies() -> Result<()> {
    let server = Server::start()?;
    let mount = mount("/data", server.port);
    let start = |name: &str, script: &str| -> Result<Service> {
        Service::start(name, &["--mount", &mount], &busybox(), &["sh", "-c", script])
    };
    let writes =
        "echo > /data/began; while :; do dd if=/dev/zero of=/data/much bs=1M count=8 2>/dev/null; done";
    let services = [start("nfs-writes", writes)?, start("nfs-idle", "echo > /data/idle; sleep 100000")?];
    for name in ["began", "idle"] {
        patiently(|| Ok(fs::metadata(server.file(name)).map(drop)?)).with_context(|| services[0].log())?;
    }
    server.signal(Signal::SIGSTOP)?;
    for service in &services {
        said(&["stop", "-t", "5", &service.name])?;
        let status = said(&["wait", &service.name])?;
        ensure!(["143\n", "137\n"].contains(&&*status), "{status}");
        eventually("the VM is gone", || qemus(&service.name) == 0)?;
    }
    Ok(())
}
