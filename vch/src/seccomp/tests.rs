use super::*;
use calls::{Arch, X32_BIT, number};
use protocol::oci::{Action, Argument, Operator, Syscalls};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

/// A system call as the kernel shows it to a filter.
#[derive(Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Runs a program as the kernel would.
fn run(filter: &protocol::Seccomp, call: Call) -> u32 {
    let bytes: Vec<u8> = (0..filter.program.len() / 2)
        .map(|at| u8::from_str_radix(&filter.program[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let load = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        16.. if offset.is_multiple_of(8) => (call.arguments[(offset as usize - 16) / 8] & 0xffff_ffff) as u32,
        16.. => (call.arguments[(offset as usize - 20) / 8] >> 32) as u32,
        _ => panic!("offset {offset}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let word = &bytes[8 * at..8 * at + 8];
        let k = u32::from_le_bytes(word[4..].try_into().unwrap());
        let jump = |yes| usize::from(if yes { word[2] } else { word[3] });
        at += 1;
        match word[0] {
            0x20 => accumulator = load(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            code => panic!("code {code:x}"),
        }
    }
}

fn call(arch: u32, name: &str, arguments: &[u64]) -> Call {
    let table = if arch == X86 { Arch::X86 } else { Arch::X86_64 };
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call { arch, number: number(table, name).unwrap_or_else(|| panic!("{name}")), arguments: all }
}

fn capabilities(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn rule(names: &[&str], action: Action, args: Vec<Argument>) -> Syscalls {
    Syscalls { names: capabilities(names), action, errno_ret: None, args }
}

fn filter(default_action: Action, syscalls: Vec<Syscalls>) -> Seccomp {
    Seccomp {
        default_action,
        default_errno_ret: None,
        architectures: vec!["SCMP_ARCH_X86".into()],
        flags: Some(vec![]),
        syscalls,
    }
}

#[test]
fn dockers_profile() {
    let default =
        compile(&profile::default(&capabilities(&["CAP_CHOWN", "CAP_SYS_CHROOT"])).unwrap()).unwrap();
    println!("{} instructions", default.program.len() / 16);
    assert_eq!(default.flags, 4);
    for arch in [X86_64, X86] {
        for (name, arguments, result) in [
            ("read", &[][..], ALLOW),
            ("chroot", &[], ALLOW),
            ("ptrace", &[], ALLOW),
            ("mount", &[], EPERM),
            ("reboot", &[], EPERM),
            ("bpf", &[], EPERM),
            ("io_uring_setup", &[], EPERM),
            ("clone", &[0x11], ALLOW),
            ("clone", &[0x0002_0000], EPERM), // CLONE_NEWNS
            ("clone3", &[], ENOSYS),
            ("socket", &[2], ALLOW),
            ("socket", &[38], EPERM), // AF_ALG
            ("socket", &[40], EPERM), // AF_VSOCK
            ("socket", &[1 << 32 | 2], EPERM),
            ("personality", &[8], ALLOW),
            ("personality", &[0x0040_0000], EPERM),
        ] {
            assert_eq!(
                run(&default, call(arch, name, arguments)),
                result,
                "{name} {arguments:?} of {arch:x}"
            );
        }
        let newest = Call { arch, number: 600, arguments: [0; 6] };
        assert_eq!(run(&default, newest), ENOSYS);
    }
    assert_eq!(run(&default, Call { number: X32_BIT, ..call(X86_64, "read", &[]) }), ALLOW, "x32's read");
    assert_eq!(run(&default, Call { arch: 0xc000_00b7, ..call(X86_64, "read", &[]) }), 0, "arm64's");
    assert_eq!(run(&default, call(X86, "socketcall", &[1])), ALLOW);

    let mighty = compile(&profile::default(&capabilities(&["CAP_SYS_ADMIN", "CAP_BPF"])).unwrap()).unwrap();
    for (name, result) in
        [("mount", ALLOW), ("bpf", ALLOW), ("clone3", ALLOW), ("chroot", EPERM), ("reboot", EPERM)]
    {
        assert_eq!(run(&mighty, call(X86_64, name, &[])), result, "{name}");
    }
    assert_eq!(run(&mighty, call(X86_64, "clone", &[0x0002_0000])), ALLOW);
}

#[test]
fn actions() {
    let kinds = [
        (Action::Kill, 0),
        (Action::KillThread, 0),
        (Action::KillProcess, 0x8000_0000),
        (Action::Trap, 0x0003_0000),
        (Action::Errno, EPERM),
        (Action::Trace, 0x7ff0_0001),
        (Action::Log, 0x7ffc_0000),
        (Action::Allow, ALLOW),
    ];
    for (action, result) in kinds {
        let filter = compile(&filter(Action::Allow, vec![rule(&["chdir"], action, vec![])])).unwrap();
        assert_eq!(run(&filter, call(X86_64, "chdir", &[])), result, "{action:?}");
        assert_eq!(run(&filter, call(X86_64, "read", &[])), ALLOW);
        assert_eq!(run(&filter, Call { number: 9999, ..call(X86_64, "read", &[]) }), ALLOW);
        assert_eq!(
            run(&filter, Call { number: X32_BIT, ..call(X86_64, "read", &[]) }),
            0,
            "x32 is not covered"
        );
    }
    let mut errno = filter(Action::Errno, vec![rule(&["chdir"], Action::Errno, vec![])]);
    (errno.default_errno_ret, errno.syscalls[0].errno_ret) = (Some(38), Some(9));
    let compiled = compile(&errno).unwrap();
    assert_eq!(run(&compiled, call(X86_64, "chdir", &[])), 0x0005_0009);
    assert_eq!(run(&compiled, call(X86_64, "read", &[])), ENOSYS);
}

/// Every comparison, against Rust's own, around the edges of both halves.
#[test]
fn comparisons() {
    let edges = [
        0,
        1,
        2,
        0xffff_fffe,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        0x7fff_ffff_ffff_ffff,
        u64::MAX - 1,
        u64::MAX,
    ];
    type Comparison = fn(u64, u64) -> bool;
    let operators: [(Operator, Comparison); 6] = [
        (Operator::Ne, |a, b| a != b),
        (Operator::Lt, |a, b| a < b),
        (Operator::Le, |a, b| a <= b),
        (Operator::Eq, |a, b| a == b),
        (Operator::Ge, |a, b| a >= b),
        (Operator::Gt, |a, b| a > b),
    ];
    for index in [0, 5] {
        for value in edges {
            for (op, holds) in operators {
                let argument = Argument { index, value, value_two: 0, op };
                let rules = vec![rule(&["chdir"], Action::Trap, vec![argument])];
                let filter = compile(&filter(Action::Allow, rules)).unwrap();
                for given in edges {
                    let mut call = call(X86_64, "chdir", &[]);
                    call.arguments[index as usize] = given;
                    let result = if holds(given, value) { 0x0003_0000 } else { ALLOW };
                    assert_eq!(run(&filter, call), result, "{given:x} {op:?} {value:x}");
                }
            }
        }
    }
    for (mask, wanted, given, holds) in [
        (0xf0, 0x30, 0x3f, true),
        (0xf0, 0x30, 0x4f, false),
        (0xf_0000_00f0, 0x3_0000_0030, 0x13_0000_0031, true),
        (0xf_0000_00f0, 0x3_0000_0030, 0x0000_0030, false),
        (0xf0, 0x31, 0x31, false),
    ] {
        let argument = Argument { index: 1, value: mask, value_two: wanted, op: Operator::MaskedEq };
        let filter =
            compile(&filter(Action::Allow, vec![rule(&["chdir"], Action::Trap, vec![argument])])).unwrap();
        let result = if holds { 0x0003_0000 } else { ALLOW };
        assert_eq!(run(&filter, call(X86_64, "chdir", &[0, given])), result, "{given:x} & {mask:x}");
    }
}

#[test]
fn rules_about_one_call() {
    let is = |index, value| Argument { index, value, value_two: 0, op: Operator::Eq };
    let rules = vec![
        rule(&["chdir"], Action::Trap, vec![is(0, 1), is(1, 2)]), // both
        rule(&["chdir"], Action::KillProcess, vec![is(0, 3), is(0, 4)]), // either, as in runc
        rule(&["chdir", "no_such_call"], Action::Errno, vec![]),
        rule(&["chdir"], Action::Errno, vec![]),
    ];
    let filter = compile(&filter(Action::Allow, rules)).unwrap();
    for (arguments, result) in [
        ([1, 2], 0x0003_0000),
        ([1, 3], EPERM),
        ([3, 0], 0x8000_0000),
        ([4, 0], 0x8000_0000),
        ([0, 0], EPERM),
    ] {
        for arch in [X86, X86_64] {
            assert_eq!(run(&filter, call(arch, "chdir", &arguments)), result, "{arguments:?}");
        }
    }
}

/// i386's old way to sockets must not lead around a rule.
#[test]
fn multiplexed_calls() {
    let filter =
        compile(&filter(Action::Allow, vec![rule(&["socket", "shmget"], Action::Errno, vec![])])).unwrap();
    for (name, first, result) in [
        ("socket", 2, EPERM),
        ("socketcall", 1, EPERM),
        ("socketcall", 2, ALLOW),
        ("ipc", 23, EPERM),
        ("ipc", 24, ALLOW),
    ] {
        assert_eq!(run(&filter, call(X86, name, &[first])), result, "{name} {first}");
    }
}

/// Jumps reach 255 instructions only.
#[test]
fn long_programs() {
    let names: Vec<&str> = include_str!("syscalls.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let rules: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let mut rule = rule(&[name], Action::Errno, vec![]);
            rule.errno_ret = Some(u32::try_from(index + 1).unwrap());
            rule
        })
        .collect();
    let compiled = compile(&filter(Action::Allow, rules)).unwrap();
    for (index, name) in names.iter().enumerate() {
        for arch in [X86, X86_64] {
            let table = if arch == X86 { Arch::X86 } else { Arch::X86_64 };
            let Some(number) = number(table, name) else { continue };
            let errno = 0x0005_0000 + u32::try_from(index + 1).unwrap();
            assert_eq!(
                run(&compiled, Call { arch, number, arguments: [77; 6] }),
                errno,
                "{name} of {arch:x}"
            );
        }
    }
    let is = |value| Argument { index: 0, value, value_two: 0, op: Operator::Ne };
    let rules = (0..2000).map(|value| rule(&["chdir"], Action::Trap, vec![is(value)])).collect();
    let error = compile(&filter(Action::Allow, rules)).unwrap_err();
    assert!(error.to_string().contains("linux.seccomp.syscalls make"), "{error}");
}

#[test]
fn bad_values_are_named() {
    let is = |index| Argument { index, value: 0, value_two: 0, op: Operator::Eq };
    let good = || filter(Action::Errno, vec![rule(&["chdir"], Action::Errno, vec![])]);
    type Change = fn(&mut Seccomp);
    let rows: [(&str, Change); 6] = [
        ("linux.seccomp.flags: \"SECCOMP_FILTER_FLAG_NEW\"", |s| {
            s.flags = Some(vec!["SECCOMP_FILTER_FLAG_NEW".into()]);
        }),
        ("linux.seccomp.architectures: \"SCMP_ARCH_ARM\"", |s| {
            s.architectures = vec!["SCMP_ARCH_ARM".into()];
        }),
        ("linux.seccomp.defaultErrnoRet: 4096", |s| s.default_errno_ret = Some(4096)),
        ("linux.seccomp.syscalls[0].errnoRet: only", |s| {
            (s.syscalls[0].action, s.syscalls[0].errno_ret) = (Action::Allow, Some(1));
        }),
        ("linux.seccomp.syscalls[0].names is empty", |s| s.syscalls[0].names.clear()),
        ("linux.seccomp.syscalls[1]: a rule before", |s| {
            s.syscalls.push(rule(&["chdir"], Action::Allow, vec![]));
        }),
    ];
    for (named, change) in rows {
        let mut bad = good();
        change(&mut bad);
        let error = compile(&bad).unwrap_err().to_string();
        assert!(error.starts_with(named), "{error}");
    }
    let mut bad = good();
    bad.syscalls[0].args = vec![is(6)];
    assert!(compile(&bad).unwrap_err().to_string().starts_with("linux.seccomp.syscalls[0].args: index 6"));

    for (named, json) in [
        ("`listenerPath`", r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#),
        ("SCMP_ACT_NOTIFY", r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#),
        (
            "SCMP_CMP_XX",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_XX"}]}]}"#,
        ),
        (
            "both",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x"],"archMap":[{"architecture":"y"}]}"#,
        ),
        (
            "minKernel",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}]}"#,
        ),
    ] {
        let error = format!("{:#}", profile::parse(json, &[]).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
}
