//! Loads the seccomp filter that the host has compiled.

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use protocol::Seccomp;
use protocol::Stage::Config;

/// Filters the calling process's system calls from here on.
pub fn load(filter: &Seccomp) -> Result<(), Failure> {
    let mut program = parse(&filter.program).ok_or_else(|| {
        Failure::new(Config, "seccomp.program is not made of instructions, 16 hex digits each")
    })?;
    let length = program.len().try_into().unwrap_or(0); // the kernel takes 4096 at most, and not 0
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: seccomp(2) reads a sock_fprog, and `len` instructions where it points; both outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, &raw const program)
    };
    Errno::result(result).map(drop).at(Config, || "loading the filter of linux.seccomp")
}

fn parse(program: &str) -> Option<Vec<libc::sock_filter>> {
    let (instructions, rest) = program.as_bytes().as_chunks::<16>();
    rest.is_empty().then_some(())?;
    let mut filter = Vec::with_capacity(instructions.len());
    for digits in instructions {
        filter.push(instruction(digits)?);
    }
    Some(filter)
}

fn instruction(digits: &[u8; 16]) -> Option<libc::sock_filter> {
    let (mut number, mut all) = (0, 0);
    for digit in digits {
        let value = VALUES.get(usize::from(*digit)).copied().unwrap_or(NONE);
        number = number << 4 | u64::from(value);
        all |= value;
    }
    (all != NONE).then_some(())?;
    let [code_low, code_high, jt, jf, k @ ..] = number.to_be_bytes();
    let code = u16::from_le_bytes([code_low, code_high]);
    Some(libc::sock_filter { code, jt, jf, k: u32::from_le_bytes(k) })
}

/// What is no digit's value.
const NONE: u8 = 0xff;

/// The digits' values, by their bytes: every start has eleven thousand of them.
#[allow(clippy::indexing_slicing, reason = "at compile time")]
static VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let (mut value, digits) = (0, *b"0123456789abcdef");
    while value < 16 {
        values[digits[value as usize] as usize] = value;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_hex() {
        let program = parse("20000000040000001500010abc0000c0").unwrap();
        let fields = |at: usize| (program[at].code, program[at].jt, program[at].jf, program[at].k);
        assert_eq!((fields(0), fields(1)), ((0x20, 0, 0, 4), (0x15, 1, 10, 0xc000_00bc)));
        for bad in ["2", "20000000040000001", "2000000004000000150001ZZbc0000c0"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
