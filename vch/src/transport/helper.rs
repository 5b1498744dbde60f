//! vhost-device-vsock: the host's end of a vsock device where the kernel has none. It is QEMU's child, and is killed when QEMU
//! ends, however that ends and whoever of us is still there: the kernel sees to it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr};

use super::{placeholder, vsock};
use crate::text::harmless;

/// The program's name.
pub const PROGRAM: &str = "vhost-device-vsock";
/// Its socket for QEMU.
const SOCKET: &str = "vhost";
/// How often to look for that, and how long to wait in between: a minute in all.
const LOOKS: u32 = 6000;
static PAUSE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// What a start says that failed: it has ended, or has not made its socket.
const ENDED: Errno = Errno::ECHILD;
const LATE: Errno = Errno::ETIME;
/// The most that is quoted of what it says, in bytes.
const QUOTED: usize = 500;

/// Where the program is: in `$PATH`, or where `cargo install` puts it.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let dirs = std::env::split_paths(&path).chain(cargo);
    dirs.map(|dir| dir.join(PROGRAM)).find(|program| program.is_file())
}

/// A helper that is to be started with QEMU.
#[derive(Debug)]
pub struct Helper {
    words: Vec<CString>,
    folder: File,
    said: File,
    socket: File,
    address: UnixAddr,
}

impl Helper {
    /// For the guest with this address, whose sockets are in `folder`.
    ///
    /// # Errors
    /// It is not installed; the system's.
    pub fn prepare(folder: &Path, cid: u32) -> Result<Self> {
        let program = program().with_context(|| format!("{PROGRAM} is not installed"))?;
        let vm = format!("guest-cid={cid},socket={SOCKET},uds-path={}", vsock::NAME);
        let words = [program.as_os_str().as_bytes(), b"--vm", vm.as_bytes()];
        let folder = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        // The folder's own path may be longer than an address.
        let address =
            UnixAddr::new(&*PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())))?;
        Ok(Self {
            words: words.into_iter().map(CString::new).collect::<Result<_, _>>()?,
            folder,
            said: memfd_create(c"vhost-device-vsock", MFdFlags::MFD_CLOEXEC)?.into(),
            socket: placeholder()?,
            address,
        })
    }

    /// The number under which QEMU finds the connection to it.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Starts it in `command`'s process, before that becomes QEMU, and connects to it.
    pub fn start_with(&self, command: &mut Command) {
        let words: Vec<_> = self.words.iter().map(|word| word.as_ptr() as usize).chain([0]).collect();
        let (folder, said, socket) =
            (self.folder.as_raw_fd(), self.said.as_raw_fd(), self.socket.as_raw_fd());
        let address = self.address;
        let prepare = move || {
            let parent = nix::unistd::getpid();
            // SAFETY: this process has one thread, and the child makes only system calls until it becomes the helper.
            match Errno::result(unsafe { libc::fork() })? {
                0 => become_it(&words, parent, folder, said),
                child => Ok(connect(child, &address, socket)?),
            }
        };
        // SAFETY: between fork and exec `prepare` only makes system calls; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
    }

    /// What a start's error means, if it is the helper's.
    pub fn explain(&self, error: &io::Error) -> Option<anyhow::Error> {
        let what = match error.raw_os_error().map(Errno::from_raw)? {
            ENDED => "ended at once",
            LATE => "has not made its socket within a minute",
            _ => return None,
        };
        let mut said = vec![];
        // What cannot be read is not quoted.
        let _ = (&self.said).rewind().and_then(|()| (&self.said).read_to_end(&mut said));
        Some(anyhow!("{PROGRAM} {what}: {}", harmless(&said, QUOTED)))
    }
}

/// The helper's process: it dies with its parent, which becomes QEMU.
fn become_it(words: &[usize], parent: nix::unistd::Pid, folder: RawFd, said: RawFd) -> ! {
    let ready = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && nix::unistd::getppid() == parent;
    // SAFETY: fchdir takes a number.
    let ready = ready && unsafe { libc::fchdir(folder) } == 0;
    if ready && copy(said, 1).is_ok() && copy(said, 2).is_ok() {
        let list: *const *const libc::c_char = words.as_ptr().cast();
        let program = words.first().map_or(std::ptr::null(), |word| *word as *const libc::c_char);
        // SAFETY: `words` are the addresses of C strings that this process has as its parent has them, and a null behind them.
        unsafe { libc::execv(program, list) };
    }
    // SAFETY: ends this process without running anything of it.
    unsafe { libc::_exit(127) }
}

/// Makes `to` the same as `from`, but that it is not closed on exec.
fn copy(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes numbers.
    Errno::result(unsafe { libc::dup2(from, to) }).map(drop)
}

/// Puts a connection to the helper in the place of `socket`, to be inherited.
fn connect(child: libc::pid_t, address: &UnixAddr, socket: RawFd) -> Result<(), Errno> {
    // SAFETY: system calls with numbers, and an address that outlives them.
    let line = Errno::result(unsafe {
        libc::socket(AddressFamily::Unix as i32, SockType::Stream as i32 | SockFlag::SOCK_CLOEXEC.bits(), 0)
    })?;
    for _ in 0..LOOKS {
        // SAFETY: as above.
        match Errno::result(unsafe { libc::connect(line, address.as_ptr().cast(), address.len()) }) {
            Ok(_) => return copy(line, socket),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        // SAFETY: nobody wants to know how it ended.
        if unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) } == child {
            return Err(ENDED);
        }
        // SAFETY: reads a timespec that is constant.
        unsafe { libc::nanosleep(&raw const PAUSE, std::ptr::null_mut()) };
    }
    Err(LATE)
}
