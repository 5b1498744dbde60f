//! The channel's virtio-serial port without the protocol: an init that does there what the host orders. `cargo xtask bench
//! channel` compares tether with it.
//!
//! It says [`READY`]; then come orders of nine bytes each, a letter and a count of bytes, little-endian: see [`obey`]. When the
//! host has gone, it ends the machine.

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

const PORT: &str = "org.containervm.channel";
/// The first byte: the port is open on both sides.
const READY: &[u8] = b"r";
/// As many bytes as `cat` takes at a time.
const CHUNK: usize = 64 << 10;

fn main() {
    if let Err(error) = serve() {
        println!("port: {error}");
        let _drained = nix::sys::termios::tcdrain(io::stdout());
    }
    // The end, whatever the machine can.
    let _off = reboot(RebootMode::RB_AUTOBOOT);
}

fn serve() -> io::Result<()> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    load_modules()?;
    let path = loop {
        match find() {
            Some(path) => break path,
            None => sleep(Duration::from_millis(1)),
        }
    };
    let mut port = OpenOptions::new().read(true).write(true).open(path)?;
    // A write waits for the host, a read does not.
    port.write_all(READY)?;
    let mut order = [0; 9];
    loop {
        match port.read_exact(&mut order) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let [letter, count @ ..] = order;
        obey(letter, u64::from_le_bytes(count), &mut port)?;
    }
}

/// `<`: reads `count` bytes, then says [`READY`]. `>`: writes `count` bytes. `=`: sends `count` bytes back as they come. `u`: sends
/// `/proc/uptime`, one line.
fn obey(letter: u8, count: u64, port: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let part = chunk.get_mut(..most).unwrap_or_default();
        let got = if letter == b'>' { most } else { port.read(part)? };
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if letter != b'<' {
            port.write_all(part.get(..got).unwrap_or_default())?;
        }
        left = left.saturating_sub(got as u64);
    }
    match letter {
        b'<' => port.write_all(READY),
        b'u' => port.write_all(&fs::read("/proc/uptime")?),
        _ => Ok(()),
    }
}

/// `/modules/*.ko`, in the order of their names. A kernel that has them built in has no such folder.
fn load_modules() -> io::Result<()> {
    let Ok(entries) = fs::read_dir("/modules") else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let module = File::open(&path)?;
        // SAFETY: finit_module(2) takes an open file, a C string and flags; all three outlive the call.
        if unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The device of the port named [`PORT`] (Documentation/ABI: `/sys/class/virtio-ports/*/name`).
fn find() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
    })
}
