//! Which devices a cgroup may use: `linux.resources.devices` as a program for the kernel (`BPF_PROG_TYPE_CGROUP_DEVICE`,
//! Linux, Documentation/admin-guide/cgroup-v2.rst, "Device controller").

use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::libc;
use protocol::Stage::Config;
use protocol::oci::DeviceRule;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

/// A rule as the kernel sees devices: type, major and minor number (none: any), and the accesses that it is about.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// The rule that denies all devices.
const NONE: Rule = Rule { allow: false, kind: None, major: None, minor: None, access: READ | WRITE | MKNOD };

/// What runc lets every container do, whatever its rules say: make any device, and use the default ones
/// (libcontainer, `specconv.AllowedDevices`).
const ALWAYS: [Rule; 10] = {
    const fn all(kind: u32) -> Rule {
        Rule { allow: true, kind: Some(kind), major: None, minor: None, access: MKNOD }
    }
    const fn one(major: u32, minor: Option<u32>) -> Rule {
        let access = READ | WRITE | MKNOD;
        Rule { allow: true, kind: Some(CHAR), major: Some(major), minor, access }
    }
    [
        all(CHAR),
        all(BLOCK),
        one(1, Some(3)),
        one(1, Some(5)),
        one(1, Some(7)),
        one(1, Some(8)),
        one(1, Some(9)),
        one(5, Some(0)),
        one(5, Some(2)),
        one(136, None),
    ]
};

/// Lets what is in the cgroup use these devices only.
pub fn attach(directory: &str, rules: &[DeviceRule]) -> Result<(), Failure> {
    let rules = rules.iter().enumerate().map(|(index, rule)| parse(index, rule));
    let mut rules = rules.collect::<Result<Vec<_>, _>>()?;
    rules.extend(ALWAYS);
    let program = filter(&rules)?;
    let cgroup = File::open(directory).at(Config, || format!("opening {directory}"))?;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    // struct { target_fd, attach_bpf_fd, attach_type, attach_flags }, bpf(2).
    let fd = |fd: i32| u32::try_from(fd).unwrap_or(u32::MAX);
    let attributes = [fd(cgroup.as_raw_fd()), fd(program.as_raw_fd()), CGROUP_DEVICE, ALLOW_MULTI];
    const PROG_ATTACH: libc::c_int = 8;
    // SAFETY: bpf(2) reads as many bytes as it is told, all of `attributes`, which outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, attributes.as_ptr(), size_of_val(&attributes)) };
    Errno::result(result)
        .map(drop)
        .at(Config, || "linux.resources.devices: attaching the filter to the cgroup")
}

/// The filter of most containers, who have but the devices that all have, as a machine that will be copied has prepared it.
static PREPARED: OnceLock<(Vec<u64>, OwnedFd)> = OnceLock::new();

/// Loads the filter of most containers, for a machine that will be copied: the kernel takes its time to verify one. If it does not take
/// it, a container that wants it will say so.
pub fn prepare() {
    let program = assemble(&[&[NONE], &ALWAYS[..]].concat());
    if let Ok(loaded) = load(&program) {
        let _once = PREPARED.set((program, loaded));
    }
}

/// The filter of these rules, loaded.
fn filter(rules: &[Rule]) -> Result<OwnedFd, Failure> {
    let program = assemble(rules);
    match PREPARED.get().filter(|(prepared, _)| *prepared == program) {
        Some((_, loaded)) => loaded.try_clone().at(Config, || "taking the prepared filter of devices"),
        None => load(&program).at(Config, || "linux.resources.devices: loading the filter into the kernel"),
    }
}

fn parse(index: usize, rule: &DeviceRule) -> Result<Rule, Failure> {
    let refused = |field: &str, why: String| {
        Err(Failure::new(Config, format!("linux.resources.devices[{index}].{field}: {why}")))
    };
    let kind = match rule.kind.as_deref() {
        None | Some("a") => None,
        Some("c") => Some(CHAR),
        Some("b") => Some(BLOCK),
        Some(other) => return refused("type", format!("{other:?} is none of a, b, c")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => {
            u32::try_from(number).ok().filter(|n| i32::try_from(*n).is_ok()).map(Some).ok_or(number)
        }
    };
    let major = match number(rule.major) {
        Ok(major) => major,
        Err(bad) => return refused("major", format!("{bad} is no number of a device")),
    };
    let minor = match number(rule.minor) {
        Ok(minor) => minor,
        Err(bad) => return refused("minor", format!("{bad} is no number of a device")),
    };
    let mut access = 0;
    for letter in rule.access.as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return refused("access", format!("{letter:?} is none of r, w, m")),
        };
    }
    Ok(Rule { allow: rule.allow, kind, major, minor, access })
}

/// The most of a device's numbers: 12 bits and 20 (include/linux/kdev_t.h).
const MOST_MAJOR: u32 = 0xfff;
const MOST_MINOR: u32 = 0xf_ffff;

/// An instruction (`struct bpf_insn`): code, registers, offset, immediate.
fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> u64 {
    u64::from(code) | u64::from(to | from << 4) << 8 | u64::from(offset) << 16 | u64::from(value) << 32
}

const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Kind and major number; these and the minor number.
const DRIVER: u8 = 6;
const DEVICE: u8 = 7;

/// What a register must hold for a rule to be about a device.
#[derive(Clone, Copy)]
enum Condition {
    Is(u8, u32),
    /// [`DEVICE`], which an immediate has no room for.
    IsDevice(u64),
}

/// Of as few registers as can be: to verify a program costs the kernel 10,000 instructions for each jump in it. None if there is no
/// such device.
fn conditions(rule: &Rule) -> Option<Vec<Condition>> {
    if rule.major.is_some_and(|major| major > MOST_MAJOR)
        || rule.minor.is_some_and(|minor| minor > MOST_MINOR)
    {
        return None;
    }
    Some(match (rule.kind, rule.major, rule.minor) {
        (Some(kind), Some(major), Some(minor)) => {
            vec![Condition::IsDevice(u64::from(kind << 12 | major) << 20 | u64::from(minor))]
        }
        (Some(kind), Some(major), None) => vec![Condition::Is(DRIVER, kind << 12 | major)],
        (kind, major, minor) => {
            let all = [(KIND, kind), (MAJOR, major), (MINOR, minor)];
            all.into_iter().filter_map(|(register, value)| Some(Condition::Is(register, value?))).collect()
        }
    })
}

/// The program: 1 allows, 0 denies. Each asked access is decided by the last rule about it, and all must be allowed.
fn assemble(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const LOAD_LONG: u8 = 0x18;
    const AND: u8 = 0x54;
    const RIGHT: u8 = 0x74;
    const COPY: u8 = 0xbf;
    const OR: u8 = 0x4f;
    const LEFT: u8 = 0x67;
    const MOVE: u8 = 0xb7;
    const NOT_EQUAL: u8 = 0x55;
    const NOT_EQUAL_TO: u8 = 0x5d;
    const HAS_BIT: u8 = 0x45;
    const JUMP: u8 = 0x05;
    const EXIT: u8 = 0x95;
    const ANSWER: u8 = 0;
    const CONTEXT: u8 = 1;
    const OTHER: u8 = 8;
    let answer = |yes: bool| [instruction(MOVE, ANSWER, 0, 0, yes.into()), instruction(EXIT, 0, 0, 0, 0)];
    // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
    let mut program = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD, ACCESS, CONTEXT, 0, 0),
        instruction(RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
        instruction(COPY, DRIVER, KIND, 0, 0),
        instruction(LEFT, DRIVER, 0, 0, 12),
        instruction(OR, DRIVER, MAJOR, 0, 0),
        instruction(COPY, DEVICE, DRIVER, 0, 0),
        instruction(LEFT, DEVICE, 0, 0, 20),
        instruction(OR, DEVICE, MINOR, 0, 0),
    ];
    for rule in rules.iter().rev() {
        let Some(conditions) = conditions(rule) else { continue };
        // Allowed accesses are no longer asked for; when none is left, or a denied one is asked for, that is the answer. With all
        // allowed none is left; to say so at once spares the kernel's verifier half of its work.
        let is_all = rule.allow && rule.access == MKNOD | READ | WRITE;
        let mut decision = if is_all {
            vec![]
        } else if rule.allow {
            vec![instruction(AND, ACCESS, 0, 0, !rule.access), instruction(NOT_EQUAL, ACCESS, 0, 2, 0)]
        } else {
            vec![instruction(HAS_BIT, ACCESS, 0, 1, rule.access), instruction(JUMP, 0, 0, 2, 0)]
        };
        decision.extend(answer(rule.allow));
        for (index, condition) in conditions.iter().enumerate() {
            let beyond = conditions.len() - index - 1 + decision.len();
            let beyond = u16::try_from(beyond).unwrap_or(0);
            match *condition {
                Condition::Is(register, value) => {
                    program.push(instruction(NOT_EQUAL, register, 0, beyond, value));
                }
                Condition::IsDevice(device) => {
                    let [low, high] =
                        [device & 0xffff_ffff, device >> 32].map(|half| u32::try_from(half).unwrap_or(0));
                    program.extend([instruction(LOAD_LONG, OTHER, 0, 0, low), instruction(0, 0, 0, 0, high)]);
                    program.push(instruction(NOT_EQUAL_TO, DEVICE, OTHER, beyond, 0));
                }
            }
        }
        program.extend(decision);
        if is_all && conditions.is_empty() {
            return program; // the verifier takes nothing that is never reached
        }
    }
    program.extend(answer(false));
    program
}

fn load(program: &[u64]) -> nix::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const TYPE_CGROUP_DEVICE: u64 = 15;
    let licence = c"MIT";
    let address = |pointer: *const u8| pointer.addr() as u64;
    // prog_type and insn_cnt, insns, license; log_level and log_size, log_buf, kern_version and prog_flags.
    let attributes: [u64; 6] = [
        TYPE_CGROUP_DEVICE | (program.len() as u64) << 32,
        address(program.as_ptr().cast()),
        address(licence.as_ptr().cast()),
        0,
        0,
        0,
    ];
    // SAFETY: bpf(2) reads `attributes`, and by it `program` and `licence`; all of them outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would; true is allowed.
    fn runs(program: &[u64], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let mut registers = [0u64; 10];
        let mut at = 0;
        for _ in 0..10_000 {
            let word = program[at];
            let [code, registers_of, offset, _, value @ ..] = word.to_le_bytes();
            let (to, from) = (usize::from(registers_of & 15), usize::from(registers_of >> 4));
            let offset = usize::from(offset);
            let value = u32::from_le_bytes(value);
            at += 1;
            match code {
                0x61 => registers[to] = u64::from([kind | access << 16, major, minor][offset / 4]),
                0x54 => registers[to] &= u64::from(value),
                0x74 => registers[to] >>= value,
                0xb7 => registers[to] = value.into(),
                0xbf => registers[to] = registers[from],
                0x4f => registers[to] |= registers[from],
                0x67 => registers[to] <<= value,
                0x18 => {
                    registers[to] = u64::from(value) | program[at] >> 32 << 32;
                    at += 1;
                }
                0x55 if registers[to] != u64::from(value) => at += offset,
                0x5d if registers[to] != registers[from] => at += offset,
                0x45 if registers[to] & u64::from(value) != 0 => at += offset,
                0x05 => at += offset,
                0x55 | 0x5d | 0x45 => {}
                0x95 => return registers[0] == 1,
                _ => panic!("instruction {word:x}"),
            }
        }
        panic!("no end")
    }

    fn rule(allow: bool, kind: &str, numbers: (i64, i64), access: &str) -> DeviceRule {
        let number = |number| (number >= 0).then_some(number);
        DeviceRule {
            allow,
            kind: Some(kind.into()),
            major: number(numbers.0),
            minor: number(numbers.1),
            access: Some(access.into()),
        }
    }

    #[test]
    fn the_last_rule_about_an_access_decides() {
        let rules = [
            rule(false, "a", (-1, -1), "rwm"),
            rule(true, "c", (10, -1), "r"),
            rule(true, "c", (10, -1), "w"),
            rule(false, "c", (10, 7), "w"),
            rule(true, "b", (8, 0), "rw"),
        ];
        let rules: Vec<_> = rules.iter().enumerate().map(|(i, rule)| parse(i, rule).unwrap()).collect();
        let program = assemble(&rules);
        let allowed = |kind, major, minor, access| runs(&program, kind, major, minor, access);
        assert!(allowed(CHAR, 10, 5, READ | WRITE), "by two rules");
        assert!(!allowed(CHAR, 10, 5, READ | MKNOD));
        assert!(allowed(CHAR, 10, 7, READ) && !allowed(CHAR, 10, 7, READ | WRITE));
        assert!(allowed(BLOCK, 8, 0, WRITE) && !allowed(BLOCK, 8, 1, READ) && !allowed(CHAR, 8, 0, READ));
        assert!(!runs(&assemble(&[]), CHAR, 1, 3, READ));
        let all = [parse(0, &rule(true, "a", (-1, -1), "rwm")).unwrap()];
        let program = assemble(&[&rules[..], &all[..], &ALWAYS[..1]].concat());
        assert!(runs(&program, CHAR, 10, 7, READ | WRITE) && runs(&program, CHAR, 1, 1, MKNOD));
        assert!(program.ends_with(&assemble(&all)[12..]), "the kernel refuses what is never reached");
        assert!(runs(&assemble(&ALWAYS), CHAR, 136, 5, READ | WRITE), "any terminal");
        assert!(runs(&assemble(&ALWAYS), BLOCK, 8, 0, MKNOD) && !runs(&assemble(&ALWAYS), BLOCK, 8, 0, READ));
    }

    #[test]
    fn bad_rules_are_named() {
        for (field, bad) in [
            ("type", rule(true, "x", (1, 1), "r")),
            ("access", rule(true, "c", (1, 1), "rx")),
            ("major", DeviceRule { major: Some(-2), ..rule(true, "c", (1, 1), "r") }),
            ("minor", DeviceRule { minor: Some(1 << 40), ..rule(true, "c", (1, 1), "r") }),
        ] {
            let why = parse(3, &bad).unwrap_err().0.message;
            assert!(why.starts_with(&format!("linux.resources.devices[3].{field}: ")), "{why}");
        }
    }
}
