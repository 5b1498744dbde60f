//! The network as processes inside see it, and as others reach them: addresses, published ports, `/etc/hosts` and its like.

mod dhcp;
mod router;
mod taps;
mod wire;

use crate::harness::{self, Test, busybox, command_with_store, run, run_changed, shell, temporary, vch};
use crate::tests;
use crate::volumes::qemu;
use anyhow::{Context, Result, bail, ensure};
use image_builder::testimage::{self, Tar};
use nix::sys::signal::{Signal, kill};
use oci_spec::image::ConfigBuilder;
use protocol::network::Mac;
use protocol::oci::{Namespace, NamespaceKind};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    let mut tests = tests![
        the_default_network,
        published_ports,
        leases,
        a_router_on_the_wire,
        no_network,
        two_machines_on_a_wire,
        a_closed_firewall,
        what_cannot_be_is_refused
    ];
    let taps = Test::new("network::tap_and_bridge", taps::tap_and_bridge);
    tests.push(taps.needs(taps::can_be_made()));
    tests
}

/// How long a guest on a busy host may take for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// `vch run -i OPTIONS IMAGE sh -c SCRIPT` in a store; ended and removed with the value.
struct Machine<'a> {
    store: &'a Path,
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl<'a> Machine<'a> {
    fn start(
        store: &'a Path,
        name: &'static str,
        options: &[&str],
        image: &str,
        script: &str,
    ) -> Result<Self> {
        let mut command = Command::new(vch());
        command.args(["run", "-i", "--rm", "--name", name, "--store"]).arg(store);
        command.args(harness::kernel_words());
        command.args(options).args([image, "sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { store, name, child, stdin, stdout })
    }

    /// Its next line; at its end, an error with what it said.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            let mut said = String::new();
            self.child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
            bail!("{} has ended: {said}", self.name);
        }
        Ok(line.trim_end().to_owned())
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.line()?;
        ensure!(line == wanted, "{} says {line:?}, not {wanted:?}", self.name);
        Ok(())
    }

    fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.stdin.as_mut().context("no stdin")?, "{line}")?)
    }

    /// What is left of its output, and that it ends well.
    fn end(mut self) -> Result<String> {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}: {rest}", self.name);
        Ok(rest)
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(vch());
        command.arg(arguments[0]).arg("--store").arg(self.store).args(&arguments[1..]);
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.cli(&["rm", "-f", self.name]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// QEMU's user network, without a word on the command line.
fn the_default_network() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    let answering = thread::spawn(move || -> Result<String> {
        let (mut caller, _) = server.accept()?;
        caller.write_all(b"hello from the host\n")?;
        let mut said = String::new();
        BufReader::new(caller).read_line(&mut said)?;
        Ok(said)
    });
    let mut options = shell(&format!(
        "ip -o addr show eth0 | awk '{{print $3, $4}}' | grep -v fe80; ip route | grep default; ip -6 route | grep default;
         cat /etc/hosts | tail -n +7; cat /etc/hostname /etc/resolv.conf; hostname; cat /proc/sys/kernel/domainname;
         ping -c 1 -W 300 web.lab | grep -c '1 packets received'; ping -c 1 -W 300 gateway | grep -c '1 packets received';
         cat /sys/class/net/eth0/address; (echo mine >> /etc/hosts) 2>/dev/null || echo not mine;
         (echo 0 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo read-only; ls /etc;
         echo hello from the guest | nc 10.0.2.2 {port}"
    ));
    options.hostname = Some("web".into());
    options.read_only = true;
    let network = &mut options.network;
    network.domainname = Some("lab".into());
    network.add_host = vec![("gateway".into(), vch::options::network::Address::Host)];
    network.dns_search = vec!["a.test".into(), "b.test".into()];
    network.dns_option = vec!["ndots:2".into()];
    network.mac_address = Some("02:00:00:00:00:42".parse().map_err(anyhow::Error::msg)?);
    let text = run(&options)?.out();
    let wanted = "inet 10.0.2.15/24\ninet6 fec0::15/64\ndefault via 10.0.2.2 dev eth0 \n\
                  default via fec0::2 dev eth0  metric 1024 \n10.0.2.2\tgateway\n10.0.2.15\tweb.lab web\nfec0::15\tweb.lab web\n\
                  web\nnameserver 10.0.2.3\nsearch a.test b.test\noptions ndots:2\nweb\nlab\n1\n1\n02:00:00:00:00:42\nnot mine\n\
                  read-only\ngroup\nhostname\nhosts\npasswd\nresolv.conf\nhello from the host\n";
    ensure!(text == wanted, "{text}");
    let said = answering.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(said == "hello from the guest\n", "{said:?}");
    Ok(())
}

/// An image with busybox and the probe, and an `/etc` that is not what it should be: a hosts file that leads out of the root,
/// as it stands, and a resolv.conf that leads to a file that is not there, as in images of systems with systemd.
fn odd_image(dir: &Path) -> Result<String> {
    let busybox = fs::read("/bin/busybox")?;
    let mut layer = Tar::new().dir("bin", 0o755).file("bin/busybox", 0o755, &busybox);
    for applet in ["sh", "cat", "httpd", "mkdir", "wc", "ls", "grep"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    let layer = layer
        .file("bin/probe", 0o755, &fs::read(harness::probe())?)
        .dir("etc", 0o755)
        .symlink("etc/hosts", "/../../elsewhere/hosts")
        .symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .finish();
    let config = ConfigBuilder::default().env(vec!["PATH=/bin".into()]).exposed_ports(vec!["82/tcp".into()]);
    testimage::write(dir, &[layer], config.build()?)?;
    Ok(dir.display().to_string())
}

/// TCP on ports that vch chooses, and UDP; in a root that makes it hard.
fn published_ports() -> Result<()> {
    let (store, image) = (temporary()?, temporary()?);
    let image = odd_image(image.path())?;
    let ports = ["-p", "127.0.0.1::80", "-p", "127.0.0.1::53/udp", "-P", "--hostname", "odd"];
    let script =
        "grep -c odd /elsewhere/hosts /etc/hosts; cat /run/systemd/resolve/stub-resolv.conf /etc/hostname
                  mkdir /www; echo it works > /www/index.html; httpd -h /www -p 80; httpd -h /www -p 82
                  exec probe udp-echo 53";
    let mut machine = Machine::start(store.path(), "published", &ports, &image, script)?;
    for line in ["/elsewhere/hosts:2", "/etc/hosts:2", "nameserver 10.0.2.3"] {
        machine.expect(line)?;
    }
    // The host's search domains may stand between.
    while machine.line()? != "odd" {}
    machine.expect("listening")?;
    let listed = machine.cli(&["port", "published"])?;
    let host_port = |container: &str| -> Result<u16> {
        let line = listed.lines().find_map(|line| line.strip_prefix(container));
        let (_, port) = line.and_then(|line| line.rsplit_once(':')).with_context(|| listed.clone())?;
        Ok(port.parse()?)
    };
    let (http, other, dns) = (host_port("80/tcp")?, host_port("82/tcp")?, host_port("53/udp")?);
    for port in [http, other] {
        let answer = get(port)?;
        ensure!(answer.contains("200 OK") && answer.ends_with("it works\n"), "{answer}");
    }
    crowd(http).context("clients of port 80 at once")?;
    ensure!(machine.cli(&["port", "published", "80"])? == format!("127.0.0.1:{http}\n"), "{listed}");
    let table = machine.cli(&["ps"])?;
    let shown = format!("127.0.0.1:{http}->80/tcp, 127.0.0.1:{dns}->53/udp, 0.0.0.0:{other}->82/tcp");
    ensure!(table.contains(&shown), "{table}");
    echo(dns)?;
    // A second one cannot have the port, and says so before it boots.
    let taken = format!("127.0.0.1:{http}:80");
    let output = command_with_store(store.path(), "second", &["-p", &taken], &["true"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125) && said.contains("it is taken"), "{said}");
    machine.cli(&["kill", "published"])?;
    Ok(())
}

/// More clients than QEMU would let wait get through to it, though it takes none as yet: all of them are served then.
fn crowd(port: u16) -> Result<()> {
    let qemu = qemu("published")?;
    // Nor is it short of descriptors for them.
    let limits = fs::read_to_string(format!("/proc/{qemu}/limits"))?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit")?;
    let mut files = files.split_whitespace();
    ensure!(files.next() == files.next(), "{limits}");
    kill(qemu, Signal::SIGSTOP)?;
    let clients: Result<Vec<_>> = (0..8)
        .map(|_| {
            let address = (Ipv4Addr::LOCALHOST, port).into();
            Ok(TcpStream::connect_timeout(&address, PATIENCE)?)
        })
        .collect();
    kill(qemu, Signal::SIGCONT)?;
    for client in clients? {
        let answer = ask(client)?;
        ensure!(answer.ends_with("it works\n"), "{answer}");
    }
    Ok(())
}

/// What a web server says.
fn get(port: u16) -> Result<String> {
    ask(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
}

fn ask(mut line: TcpStream) -> Result<String> {
    line.set_read_timeout(Some(PATIENCE))?;
    line.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    line.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A datagram comes back. It may be lost, as datagrams are: then it is sent again.
fn echo(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = [0; 16];
    for _ in 0..PATIENCE.as_secs() / 2 {
        socket.send(b"datagram")?;
        if let Ok(length) = socket.recv(&mut answer) {
            ensure!(&answer[..length] == b"datagram", "{answer:?}");
            return Ok(());
        }
    }
    bail!("no datagram came back")
}

fn no_network() -> Result<()> {
    let mut options = shell(
        "ls /sys/class/net; wc -l < /etc/hosts; tail -n 1 /etc/hosts; wc -c < /etc/resolv.conf; cat /proc/modules 2>/dev/null | wc -l",
    );
    options.network.network = vec![vch::network::mode::Choice::None];
    options.hostname = Some("alone".into());
    let text = run(&options)?.out();
    // Debian's kernel has ten modules loaded for any machine, and none for an interface; our own has no modules.
    let (words, modules) = text.trim_end().rsplit_once('\n').context("no modules")?;
    ensure!(words == "lo\n7\n127.0.0.1\talone\n0", "{text}");
    ensure!(modules.parse::<u32>()? <= 10, "{text}");
    Ok(())
}

/// Three interfaces on two machines, with firewalls of two kinds: one lets in what comes to port 80, and answers; the other
/// speaks with machines of its networks, and with no others. A third machine finds both ends of the wire taken.
fn two_machines_on_a_wire() -> Result<()> {
    let store = temporary()?;
    let start =
        |name, options: &[&str], script| Machine::start(store.path(), name, options, &busybox(), script);
    let wired_1 = ["--network", "socket=w,ip=10.7.0.1/24,ip6=fd00::1/64"];
    let mut one = start(
        "wired-1",
        &[&wired_1[..], &["--hostname", "one", "--firewall", "published", "--expose", "80", "--dns", "10.7.0.9"]].concat(),
        "mkdir /www; echo hello from $(hostname) > /www/index.html; httpd -h /www; httpd -h /www -p 81; ip route; grep nameserver /etc/resolv.conf
         wget -q -O - http://10.7.0.1:81/; echo serving; read line; wget -q -O - http://10.7.0.2/; read line",
    )?;
    one.expect("10.7.0.0/24 dev eth0 scope link  src 10.7.0.1")?;
    one.expect("nameserver 10.7.0.9")?;
    one.expect("hello from one")?;
    one.expect("serving")?;
    let wired = "socket=w,ip=10.7.0.2/24,ip6=fd00::2/64,mtu=1400,mac=02:00:00:00:00:22";
    let mut two = start(
        "wired-2",
        &["--network", "user", "--network", wired, "--add-host", "one:10.7.0.1", "--firewall", "peers"],
        "ls /sys/class/net; cat /sys/class/net/eth1/mtu /sys/class/net/eth1/address; until wget -q -O - http://one/; do sleep 1; done
         timeout 20 wget -q -O - http://one:81/ || echo kept out
         ping -c 1 10.9.9.9 2>&1 | grep -c 'not permitted'; ping -c 1 -W 300 10.0.2.2 | grep -c '1 packets received'
         mkdir /www; echo hello from two > /www/index.html; httpd -h /www; echo serving; read line",
    )?;
    for line in
        ["eth0", "eth1", "lo", "1400", "02:00:00:00:00:22", "hello from one", "kept out", "1", "1", "serving"]
    {
        two.expect(line)?;
    }
    one.say("go on")?;
    one.expect("hello from two")?;
    let third = ["--network", "socket=w,ip=10.7.0.3/24"];
    let output = command_with_store(store.path(), "wired-3", &third, &["true"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125) && said.contains("a wire is between two"), "{said}");
    for mut machine in [one, two] {
        machine.say("enough")?;
        machine.end()?;
    }
    Ok(())
}

fn a_closed_firewall() -> Result<()> {
    let mut options = shell(
        "for to in 10.0.2.2 127.0.0.1; do ping -c 1 $to 2>&1 | grep -o 'not permitted\\|1 packets received'; done
         ping6 -c 1 fec0::2 2>&1 | grep -o 'not permitted'",
    );
    options.network.firewall = vch::options::network::Firewall::Closed;
    run(&options)?.gives("not permitted\n1 packets received\nnot permitted\n")
}

/// A DHCP server of ours at the other end of a wire: a lease before the container starts, more time asked for while it runs,
/// new name servers with that, and the address given back at the end.
fn leases() -> Result<()> {
    let store = temporary()?;
    let end = wire::End::take(store.path(), "lan", PATIENCE)?;
    let serving = thread::spawn(move || dhcp::serve(&end));
    let mut machine = Machine::start(
        store.path(),
        "leases",
        &["--network", "socket=lan,dhcp", "--hostname", "leased"],
        &busybox(),
        "ip -o -4 addr show eth0 | awk '{print $4}'; ip route; cat /sys/class/net/eth0/mtu; grep -v 10.8.0.[34] /etc/resolv.conf; tail -n 1 /etc/hosts
         until grep 10.8.0.4 /etc/resolv.conf; do sleep 1; done; read line",
    )?;
    for line in [
        "10.8.0.7/24",
        "default via 10.8.0.1 dev eth0",
        "10.8.0.0/24 dev eth0 scope link  src 10.8.0.7",
        "10.9.0.0/16 via 10.8.0.2 dev eth0",
        "1400",
        "search lan.test",
        "10.8.0.7\tleased",
        "nameserver 10.8.0.4",
    ] {
        machine.expect(line)?;
    }
    machine.say("enough")?;
    machine.end()?;
    let seen = serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(seen.hostname == b"leased" && seen.renewed && seen.released, "{seen:?}");
    Ok(())
}

/// A router of ours at the other end of a wire: an address before the container starts, the way out, name servers. What
/// begins inside may go out by `--firewall outbound`, and its answers come in; what begins outside does not.
fn a_router_on_the_wire() -> Result<()> {
    let store = temporary()?;
    let end = wire::End::take(store.path(), "routed", PATIENCE)?;
    let serving = thread::spawn(move || router::serve(&end, 2));
    let mut machine = Machine::start(
        store.path(),
        "routed",
        &[
            "--network",
            "socket=routed,slaac,mac=02:00:00:00:00:09",
            "--hostname",
            "routed",
            "--firewall",
            "outbound",
        ],
        &busybox(),
        "ip -o -6 addr show dev eth0 scope global | awk '{print $4}'; ip -6 route | grep -o 'default via [^ ]*'
         cat /etc/resolv.conf; tail -n 1 /etc/hosts
         for i in 1 2; do ping6 -c 1 -W 300 fe80::9:1%eth0 | grep -o '1 packets received'; done",
    )?;
    for line in [
        "fd00:9::ff:fe00:9/64",
        "default via fe80::9:1",
        "nameserver fd00:9::53",
        "nameserver fe80::9:1%eth0",
        "search lan.test",
        "fd00:9::ff:fe00:9\trouted",
        "1 packets received",
        "1 packets received",
    ] {
        machine.expect(line)?;
    }
    machine.end()?;
    let seen = serving.join().map_err(|_| anyhow::anyhow!("the router panicked"))??;
    ensure!(seen.replies == 0, "{seen:?}");
    Ok(())
}

fn what_cannot_be_is_refused() -> Result<()> {
    // Before anything boots.
    let store = temporary()?;
    for (options, why) in [
        (&["--network", "tap=no-such-tap"][..], "no tap interface of that name"),
        (&["--network", "bridge=no-such-br"], "no bridge of that name"),
        (&["--network", "socket=x"], "a wire gives no addresses"),
        (&["--network", "host"], "a network of its own"),
        (&["--network", "none", "-p", "80"], "-p and -P need --network user"),
        (&["-p", "http"], "not a port"),
        (&["-p", "80", "--firewall", "outbound"], "--firewall outbound keeps out"),
        (&["--network", "tap=x", "--firewall", "peers"], "network.firewall.level: who is a peer"),
        (&["--ip", "10.0.0.1"], "not an address with its prefix"),
        (&["--dns", "resolver"], "invalid IP address"),
        (&["--add-host", "db"], "not NAME:IP"),
        (&["--domainname", "a b"], "not a hostname"),
    ] {
        let output = command_with_store(store.path(), "refused", options, &["true"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(125) && said.contains(why), "{options:?}: {said}");
    }
    // By the guest.
    let refused = |change: fn(&mut protocol::MachineSpec), why| -> Result<()> {
        let error =
            run_changed("true", change).err().with_context(|| format!("it ran, in spite of {why}"))?;
        ensure!(format!("{error:#}").contains(why), "{error:#}");
        Ok(())
    };
    refused(
        |machine| machine.network.nics[0].mac = Mac([2; 6]),
        "no network interface with the MAC address 02:02:02:02:02:02",
    )?;
    let own = |machine: &mut protocol::MachineSpec| {
        machine.config.linux.namespaces.push(Namespace { kind: NamespaceKind::Network });
    };
    refused(own, "network.nics: the interfaces are the VM's")
}
