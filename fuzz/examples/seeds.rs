//! Writes what the fuzz targets start from to `corpus/TARGET`: a few small, well-formed inputs of each.

use std::fs;
use std::path::Path;

use fuzz::channel;
use image_builder::erofs::superblock::Superblock;
use image_builder::testimage::Tar;
use image_builder::verity;
use protocol::{ExitStatus, Failure, GuestLink, HostLink, Stage, Step, Stream, ToGuest, ToHost, oci};
use tar::EntryType;

fn main() -> std::io::Result<()> {
    seed("channel", "session", &line(guest_session()))?;
    seed("channel", "failure", &line(guest_failure()))?;
    seed("guest_channel", "session", &line(host_session(false)))?;
    seed("guest_channel", "checked", &line(host_session(true)))?;
    for (name, tar) in [
        ("all", everything()),
        ("whiteouts", whiteouts()),
        ("links", links()),
        ("sparse", sparse()),
        ("pax_sparse", pax_sparse()),
    ] {
        seed("layer", name, &tar)?;
        let mut disk = std::io::Cursor::new(Vec::new());
        if name != "sparse" && image_builder::erofs::write_layer(&tar[..], [7; 16], &mut disk).is_ok() {
            seed("reader", name, &disk.get_ref()[1024..])?;
        }
    }
    let sb = Superblock { uuid: [9; 16], label: [8; 15], blocks: 77, meta_block: 5, root_nid: 2, inodes: 12 };
    seed("superblock", "disk", &sb.encode()[1024..1152])?;
    let tree = verity::Superblock { uuid: [9; 16], data_blocks: 77 };
    seed("verity", "tree", &tree.encode()[..512])?;
    let mut disk = std::io::Cursor::new(Vec::new());
    image_builder::erofs::write_layer(&everything()[..], [9; 16], &mut disk).expect("a good layer");
    seed("disk", "erofs", disk.get_ref())?;
    seed("disk", "ext4", &ext4())?;
    seed("dhcp", "lease", &[dhcp(2), dhcp(5)].concat())?;
    seed("router", "options", &router())?;
    seed("layout", "image", LAYOUT.replace('\n', "").replace('|', "\0").as_bytes())?;
    seed(
        "reference",
        "name",
        b"localhost:5000/a/b:tag@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )?;
    seed("reference", "transport", b"docker-archive:x.tar:alpine:3.20")?;
    let logged = r#"{"log":"say \"hi\"\u001b\n","stream":"stdout","time":"2026-11-24T02:50:00.123456789Z","offset":[1,2]"#;
    seed("log", "text", format!("{logged}}}").as_bytes())?;
    seed("log", "raw", format!("{logged},\"raw\":\"Y2Fm6Qo=\"}}").as_bytes())?;
    seed("archive", "docker", &archive())?;
    seed("archive", "gzip", &[&[1], &image_builder::testimage::gzip(&archive()[1..])[..]].concat())?;
    seed("kernel", "lz4", &bzimage(&lz4(b"\x7fELF and and and and more")))?;
    seed("kernel", "plain", &bzimage(b"\x7fELF"))?;
    let module = module("license=GPL\0depends=bus\0");
    seed("module", "plain", &module)?;
    seed(
        "module",
        "signed",
        &[&module, &b"SIGN"[..], &[0; 11], &[4], b"~Module signature appended~\n"].concat(),
    )
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

/// The line behind the bytes that say how it is cut.
fn line(output: Vec<u8>) -> Vec<u8> {
    [&[200, 3, 90, 18, 255, 0, 40, 77], &output[..]].concat()
}

fn guest_session() -> Vec<u8> {
    let (mut host, mut guest) = (channel::host(), GuestLink::guest());
    let mut said = channel::exchange(&mut host, &mut guest);
    let timeline = vec![Step { name: "boot".to_owned(), at: 12 }];
    let send = |guest: &mut GuestLink, message| guest.send(&message).expect("a small message");
    send(&mut guest, ToHost::Ready { tether: "0.1".to_owned(), timeline: timeline.clone(), restored: false });
    send(&mut guest, ToHost::Started { timeline: timeline.clone() });
    send(&mut guest, ToHost::Damaged { layer: 0, block: 77 });
    send(&mut guest, ToHost::Stats(protocol::Stats { pids: 3, ..Default::default() }));
    send(&mut guest, ToHost::OutOfMemory { pid: 9, name: "sh".to_owned() });
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Stdout] {
        let _ = guest.fill(0, stream, |room| {
            room[..5].copy_from_slice(b"hello");
            Ok::<_, std::convert::Infallible>(5)
        });
    }
    guest.end(0, Stream::Stdout);
    guest.stop(0, Stream::Stdin);
    let status = ExitStatus::Signal { signal: 9, core: false };
    send(&mut guest, ToHost::Exited { status, timeline: timeline.clone(), peak_rss: 900 });
    send(&mut guest, ToHost::Stopped { timeline });
    said.extend(channel::exchange(&mut host, &mut guest));
    // The line goes and comes.
    guest.disconnect();
    guest.knock();
    said.extend(channel::exchange(&mut host, &mut guest));
    said
}

/// An MTU, two name servers, two domains.
fn router() -> Vec<u8> {
    let server = |last: u8| [&[0xfd][..], &[0; 14], &[last]].concat();
    let mtu = [5, 1, 0, 0, 0, 0, 5, 220];
    let domains = b"\x03lan\x04test\0\x01x\0\0\0\0";
    [&mtu[..], &[25, 5, 0, 0, 0, 0, 0, 60], &server(1), &server(2), &[31, 3, 0, 0, 0, 0, 0, 60], domains]
        .concat()
}

/// A server's packet, with no time before it: an offer (2), an acknowledgement (5).
fn dhcp(kind: u8) -> Vec<u8> {
    let mut packet = vec![2, 1, 6];
    packet.resize(16, 0);
    packet.extend([10, 0, 0, 7]);
    packet.resize(236, 0);
    packet.extend([
        99, 130, 83, 99, 53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0,
    ]);
    packet
        .extend([3, 4, 10, 0, 0, 1, 6, 4, 10, 0, 0, 3, 26, 2, 5, 120, 58, 4, 0, 0, 0, 9, 59, 4, 0, 0, 0, 99]);
    packet.extend([121, 9, 24, 10, 1, 2, 10, 0, 0, 2, 0, 15, 4, b'l', b'a', b'b', b'.', 255]);
    let length = u16::try_from(packet.len()).expect("a short packet").to_le_bytes();
    [&[0, 0], &length[..], &packet].concat()
}

fn network() -> protocol::network::Network {
    use protocol::network::{Firewall, Host, Level, Mac, Names, Network, Nic, OpenPorts, Route, Transport};
    let subnet = |text: &str| text.parse().expect("a good subnet");
    let ip = |text: &str| text.parse().expect("a good address");
    let nic = Nic {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        name: "eth0".to_owned(),
        addresses: vec![subnet("10.0.2.15/24")],
        routes: vec![Route { to: subnet("::/0"), via: Some(ip("fe80::2")) }],
        dhcp: false,
        slaac: true,
        mtu: Some(1500),
        offload: true,
    };
    let names = Names {
        hosts: vec![Host { name: "db".to_owned(), ip: ip("10.0.0.1") }],
        dns: vec![ip("10.0.2.3")],
        search: vec!["lab".to_owned()],
        options: vec!["ndots:2".to_owned()],
    };
    let http = OpenPorts { transport: Transport::Tcp, first: 80, last: 81 };
    let firewall = Firewall { level: Level::Published, ports: vec![http] };
    Network { nics: vec![nic], names: Some(names), firewall: Some(firewall) }
}

fn guest_failure() -> Vec<u8> {
    let mut guest = GuestLink::guest();
    let failure = Failure { stage: Stage::Disks, errno: Some(2), message: "no disk".to_owned() };
    guest.send(&ToHost::Failed(failure)).expect("a small message");
    channel::exchange(&mut channel::host(), &mut guest)
}

fn host_session(checked: bool) -> Vec<u8> {
    let (mut host, mut guest) = (HostLink::host(channel::NONCE, checked), GuestLink::guest());
    let config = oci::Spec {
        oci_version: "1.0".to_owned(),
        hostname: Some("h".to_owned()),
        mounts: vec![oci::Mount {
            destination: "/proc".to_owned(),
            kind: "proc".to_owned(),
            source: None,
            options: vec!["ro".to_owned()],
        }],
        linux: oci::Linux {
            namespaces: vec![oci::Namespace { kind: oci::NamespaceKind::Pid }],
            ..oci::Linux::default()
        },
        ..oci::Spec::default()
    };
    let root_hash = protocol::RootHash::try_from("0a".repeat(32)).expect("64 digits");
    let verity = protocol::Verity { num_data_blocks: 3, hash_start_block: 4, root_hash };
    let layers = vec![protocol::Layer { uuid: protocol::Uuid::nil(), verity: Some(verity) }];
    let disks = protocol::Disks { layers, scratch: protocol::Uuid::max(), ephemeral: true };
    let mut machine = protocol::MachineSpec::new(config, disks);
    machine.user = Some("me".to_owned());
    machine.network = network();
    let stored = protocol::Stored { machine: machine.clone(), stdin: true };
    let document = serde_json::to_vec(&stored).expect("it has no odd keys");
    let header = protocol::stored::Header::of(&document).expect("a small document").bytes();
    seed("stored", "disk", &[&header[..], &document].concat()).expect("a file can be written");
    let start = protocol::Start { machine, time: 1, seed: protocol::Seed([3; 32]), stdin: true };
    for message in [
        ToGuest::Start(Box::new(start)),
        ToGuest::Signal { session: 0, signal: 15 },
        ToGuest::Resize { session: 0, height: 24, width: 80 },
        ToGuest::Clock(2),
        ToGuest::Stats,
        ToGuest::Seed(protocol::Seed([4; 32])),
        ToGuest::Acknowledged,
    ] {
        host.send(&message).expect("a small message");
    }
    let exec = host.open().expect("the first");
    host.end(exec, Stream::Stdin);
    let mut said = channel::exchange(&mut guest, &mut host);
    host.close(exec);
    let _ = host.fill(0, Stream::Stdin, |room| {
        room[..2].copy_from_slice(b"ls");
        Ok::<_, std::convert::Infallible>(2)
    });
    host.end(0, Stream::Stdin);
    said.extend(channel::exchange(&mut guest, &mut host));
    said
}

fn everything() -> Vec<u8> {
    Tar::new()
        .dir("d", 0o1755)
        .pax(&[("mtime", b"-1.5"), ("SCHILY.xattr.user.a", b"b"), ("uid", b"70000")])
        .file("d/f", 0o4755, b"data")
        .symlink("s", &"t".repeat(150))
        .entry("c", EntryType::Char, 0o644, b"", |header| {
            header.set_device_major(5).and_then(|()| header.set_device_minor(1)).expect("a ustar header");
        })
        .entry("p", EntryType::Fifo, 0o600, b"", |_| {})
        .finish()
}

fn whiteouts() -> Vec<u8> {
    Tar::new().whiteout("gone").dir("o", 0o755).whiteout("o").file("o/.wh..wh..opq", 0, b"").finish()
}

fn links() -> Vec<u8> {
    Tar::new().hard_link("early", "f").file("f", 0o644, b"x").hard_link("late", "./f").whiteout("f").finish()
}

/// PAX sparse files of two parts, versions 0.1 and 1.0; and a path through a link.
fn pax_sparse() -> Vec<u8> {
    let records = |version: u8| -> [(&str, Vec<u8>); 4] {
        let map = if version == 1 {
            ("GNU.sparse.name", b"n".to_vec())
        } else {
            ("GNU.sparse.map", b"0,3,5000,2".to_vec())
        };
        let number = |n: u8| n.to_string().into_bytes();
        [
            ("GNU.sparse.major", number(version)),
            ("GNU.sparse.minor", number(1 - version)),
            ("GNU.sparse.realsize", b"9000".to_vec()),
            map,
        ]
    };
    let mut data = [b'x'; 517];
    data[..11].copy_from_slice(b"2\n0\n3\n8\n2\n\0");
    let file = |tar: Tar, version, data: &[u8]| {
        let records = records(version);
        tar.pax(&records.each_ref().map(|(key, value)| (*key, &value[..]))).file("s", 0o644, data)
    };
    let tar = file(file(Tar::new(), 0, b"abcde"), 1, &data);
    tar.symlink("l", "d/../e").file("l/x", 0o644, b"").finish()
}

/// A GNU sparse file of two parts.
fn sparse() -> Vec<u8> {
    let mut tar = Tar::new().entry("s", EntryType::GNUSparse, 0o644, &[1; 1024], |_| {}).finish();
    for (at, value) in [(386, 0), (398, 512), (410, 1 << 20), (422, 512), (483, 2 << 20)] {
        tar[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    }
    fuzz::tarball::repair(&mut tar);
    tar
}

/// A small ext4 filesystem without checksums, as mke2fs and debugfs (e2fsprogs) make it; nothing where they are not installed.
fn ext4() -> Vec<u8> {
    const TREE: &str = "mkdir upper\nmkdir d\nsymlink l d/f\nmknod c c 1 3\nea_set d user.a b\ncd d\nwrite /etc/hostname f\n";
    let path = std::env::temp_dir().join(format!("fuzz-seed-{}", std::process::id()));
    let run = |tool: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(tool);
        command.args(arguments).arg(&path).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output().map(drop)
    };
    let script = path.with_extension("script");
    let disk = fs::write(&script, TREE)
        .and_then(|()| fs::write(&path, vec![0; 128 << 10]))
        .and_then(|()| {
            run(
                "mke2fs",
                &[
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-b",
                    "1024",
                    "-N",
                    "32",
                    "-O",
                    "^metadata_csum,^has_journal,^resize_inode",
                ],
            )
        })
        .and_then(|()| run("debugfs", &["-w", "-f", script.to_str().unwrap_or_default()]))
        .and_then(|()| fs::read(&path));
    let _gone = (fs::remove_file(&path), fs::remove_file(&script));
    disk.unwrap_or_default()
}

/// See the target: lines are joined, `|` is the NUL between the parts.
const LAYOUT: &str = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",$,
"platform":{"os":"linux","architecture":"amd64"},"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}|
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json",$},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",$}]}|
{"os":"linux","architecture":"amd64","config":{"Env":["A=b"],"Cmd":["sh"],"User":"1:2","WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

/// As docker saves it, with a link between layers.
fn archive() -> Vec<u8> {
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{empty}","{empty}"]}}}}"#
    );
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;
    let tar = Tar::new().file("1/layer.tar", 0o644, b"").symlink("2/layer.tar", "../1/layer.tar");
    let tar = tar.file("c.json", 0o644, config.as_bytes()).file("manifest.json", 0o644, manifest);
    [&[1], &tar.finish()[..]].concat()
}

fn lz4(elf: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(elf);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a short seed").to_le_bytes();
    [&[0x02, 0x21, 0x4c, 0x18], &length(&block)[..], &block, &length(elf)].concat()
}

/// A bzImage of one setup sector.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x24c] = u8::try_from(payload.len()).expect("a short seed");
    image.extend_from_slice(payload);
    image
}

/// The smallest ELF object with a `.modinfo`: header, contents, three section headers.
fn module(info: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_length, names_length) = (info.len() as u64, names.len() as u64);
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let sections = u8::try_from(64 + info.len() + names.len()).expect("a short seed");
    for (at, value) in [(16, 1), (18, 62), (20, 1), (40, sections), (52, 64), (58, 64), (60, 3), (62, 2)] {
        elf[at] = value;
    }
    elf.extend_from_slice(info.as_bytes());
    elf.extend_from_slice(names);
    for (name, kind, offset, size) in
        [(0u32, 0u32, 0, 0), (1, 1, 64, info_length), (10, 3, 64 + info_length, names_length)]
    {
        elf.extend([name, kind].iter().flat_map(|field| field.to_le_bytes()));
        elf.extend([0, 0, offset, size, 0, 1, 0].iter().flat_map(|field: &u64| field.to_le_bytes()));
    }
    elf
}
