//! Names and numbers of system calls.

use std::collections::HashMap;
use std::sync::LazyLock;

/// An architecture whose calls a kernel for x86_64 takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64 bit.
    X86_64,
    /// i386.
    X86,
    /// 32-bit pointers in 64-bit mode; its numbers have the bit [`X32_BIT`].
    X32,
}

/// `__X32_SYSCALL_BIT`.
pub const X32_BIT: u32 = 0x4000_0000;

/// Calls of i386 that are reached by another one, too: which, and its first argument there (include/uapi/linux/net.h, ipc.h).
const MULTIPLEXED: [(&str, &str, u64); 32] = [
    ("socket", "socketcall", 1),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("listen", "socketcall", 4),
    ("accept", "socketcall", 5),
    ("getsockname", "socketcall", 6),
    ("getpeername", "socketcall", 7),
    ("socketpair", "socketcall", 8),
    ("send", "socketcall", 9),
    ("recv", "socketcall", 10),
    ("sendto", "socketcall", 11),
    ("recvfrom", "socketcall", 12),
    ("shutdown", "socketcall", 13),
    ("setsockopt", "socketcall", 14),
    ("getsockopt", "socketcall", 15),
    ("sendmsg", "socketcall", 16),
    ("recvmsg", "socketcall", 17),
    ("accept4", "socketcall", 18),
    ("recvmmsg", "socketcall", 19),
    ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1),
    ("semget", "ipc", 2),
    ("semctl", "ipc", 3),
    ("semtimedop", "ipc", 4),
    ("msgsnd", "ipc", 11),
    ("msgrcv", "ipc", 12),
    ("msgget", "ipc", 13),
    ("msgctl", "ipc", 14),
    ("shmat", "ipc", 21),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shmctl", "ipc", 24),
];

static TABLE: LazyLock<HashMap<&str, [Option<u32>; 3]>> = LazyLock::new(|| {
    let lines = include_str!("syscalls.txt").lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next()?;
        Some((name, [(); 3].map(|()| words.next().and_then(|number| number.parse().ok()))))
    };
    lines.filter_map(row).collect()
});

/// The number of a call, as the kernel shows it to filters.
pub fn number(arch: Arch, name: &str) -> Option<u32> {
    let [x86_64, x86, x32] = TABLE.get(name)?;
    match arch {
        Arch::X86_64 => *x86_64,
        Arch::X86 => *x86,
        Arch::X32 => x32.map(|number| number | X32_BIT),
    }
}

/// The other way to a call: the number of that call, and its first argument.
pub fn multiplexer(arch: Arch, name: &str) -> Option<(u32, u64)> {
    let (_, by, argument) = MULTIPLEXED.iter().find(|(call, ..)| *call == name)?;
    Some((number(arch, by).filter(|_| arch == Arch::X86)?, *argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (name, x86_64, x86, x32) in [
            ("read", Some(0), Some(3), Some(X32_BIT)),
            ("openat2", Some(437), Some(437), Some(X32_BIT | 437)),
            ("ioctl", Some(16), Some(54), Some(X32_BIT | 514)),
            ("socketcall", None, Some(102), None),
            ("no_such_call", None, None, None),
        ] {
            let numbers = [Arch::X86_64, Arch::X86, Arch::X32].map(|arch| number(arch, name));
            assert_eq!(numbers, [x86_64, x86, x32], "{name}");
        }
        assert_eq!(number(Arch::X86_64, "execve"), u32::try_from(libc::SYS_execve).ok());
        assert_eq!(multiplexer(Arch::X86, "socket"), Some((102, 1)));
        assert_eq!(multiplexer(Arch::X86_64, "socket"), None);
    }
}
