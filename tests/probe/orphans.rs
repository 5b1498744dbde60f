//! Many processes whose parents die before them.

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

/// Makes `count` orphans, one after the other, each of which ends at once; then waits until none of them is left, not even as a
/// zombie.
pub fn orphans(count: usize) -> ExitCode {
    for number in 0..count {
        // SAFETY: there is one thread, so the child may do whatever the parent may.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                // SAFETY: as above.
                let _orphan = unsafe { fork() };
                std::process::exit(0);
            }
            Ok(ForkResult::Parent { child }) => drop(waitpid(child, None)),
            Err(errno) => {
                eprintln!("probe: orphan {number}: {errno}");
                return ExitCode::FAILURE;
            }
        }
    }
    // This one, and the container's init.
    while processes() > 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{count} orphans are gone");
    ExitCode::SUCCESS
}

/// How many there are that have a number, zombies included.
fn processes() -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).count()
}
