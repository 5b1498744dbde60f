//! Init of a machine whose guest lies: it greets the host as tether does, and then says what no tether says.

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use protocol::frame::{Header, Kind, Lane, Seal};
use protocol::handshake::{Greeting, Hail, VERSIONS};
use protocol::{Stream, frame};
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a RESUME of the container's session alone, in which nothing has happened.
const FRESH: usize = 2 * 17 + 55;

/// Lies as the file `/lie` says, and never ends.
pub fn lie() -> ! {
    if let Err(error) = tell() {
        eprintln!("probe: {error}");
    }
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn tell() -> Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    // Our own kernel has none.
    let entries = fs::read_dir("/modules").into_iter().flatten();
    let mut modules: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
    modules.sort();
    for module in modules {
        let flags = nix::kmod::ModuleInitFlags::empty();
        nix::kmod::finit_module(&File::open(module)?, c"", flags)?;
    }
    let mut port = port()?;
    let knock = Hail { greeting: Greeting::Knock, checked: false, versions: VERSIONS, nonce: [0; 16] };
    port.write_all(&knock.encode())?;
    let mut seen = vec![];
    let hello = loop {
        let mut bytes = [0; 4096];
        let count = port.read(&mut bytes)?;
        seen.extend(bytes.iter().take(count));
        if let (_, Some(hail)) = Hail::find(&seen) {
            break hail;
        }
    };
    port.write_all(&Hail { greeting: Greeting::Welcome, ..hello }.encode())?;
    let [a, b, c, d, ..] = hello.nonce;
    let seal = Seal { tag: u32::from_be_bytes([a, b, c, d]), count: 0, checked: false };
    let lie = fs::read_to_string("/lie")?;
    if lie == "garbage" {
        return std::iter::repeat_with(|| port.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")).collect();
    }
    let sessions = if lie == "sessions" { 1000 } else { 1 };
    let mut resume = vec![0; FRESH + 55 * (sessions - 1)];
    for (session, points) in (0_u32..).zip(resume.get_mut(34..).unwrap_or_default().chunks_mut(55)) {
        points[..4].copy_from_slice(&session.to_be_bytes());
    }
    let last = sessions as u64 - 1;
    port.write_all(&framed(seal, Kind::Resume, Lane::Stream(Stream::Stdin), 0, last, &resume))?;
    let seal = Seal { count: 1, ..seal };
    let lie = match lie.as_str() {
        "credit" => framed(seal, Kind::Credit, Lane::Stream(Stream::Stdin), 0, 1 << 40, &[]),
        "stream" => framed(seal, Kind::Data, Lane::Stream(Stream::Stdout), 77, 0, b"x"),
        _ => {
            let mut bytes = framed(seal, Kind::Data, Lane::Stream(Stream::Stdout), 0, 0, b"x");
            bytes[16..20].fill(0xff);
            bytes
        }
    };
    port.write_all(&lie)
}

fn framed(seal: Seal, kind: Kind, lane: Lane, session: u32, offset: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let head: [u8; frame::HEADER] = Header { kind, lane, session, offset, length }.encode();
    [&head, payload, &seal.trailer(&head, payload)].concat()
}

/// The host's port, when its end of it is there.
fn port() -> Result<File> {
    for _ in 0..1000 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let device = PathBuf::from("/dev").join(entry.file_name());
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(OFlag::O_CLOEXEC.bits());
            if let Ok(port) = options.open(device) {
                return Ok(port);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::other("no port"))
}
