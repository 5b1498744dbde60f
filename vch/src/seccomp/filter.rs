//! `linux.seccomp` as a program: per architecture a binary search in the ranges of calls that are treated alike.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use protocol::oci::{Action, Argument, Operator, Seccomp};

use super::calls::{self, Arch, X32_BIT};
use super::program::{Instruction, Label, Program, Test};

/// `BPF_MAXINSNS`.
const MOST_INSTRUCTIONS: usize = 4096;
/// The largest errno that a call can give, `MAX_ERRNO`.
const MOST_ERRNO: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// What filters return, include/uapi/linux/seccomp.h.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// `AUDIT_ARCH_*`, include/uapi/linux/audit.h.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;

/// `struct seccomp_data`: where the call's number, the architecture, and the arguments of eight bytes are.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What is done about one call: by its arguments, and otherwise.
#[derive(Debug, Default, Clone, PartialEq)]
struct Rules {
    conditional: Vec<(Vec<Argument>, u32)>,
    otherwise: Option<u32>,
}

/// The program of a filter.
pub fn compile(seccomp: &Seccomp) -> Result<Vec<Instruction>> {
    check(seccomp)?;
    let default = value("defaultErrnoRet", seccomp.default_action, seccomp.default_errno_ret)?;
    let mut x86_64 = ranges(seccomp, Arch::X86_64, default)?;
    match covers(seccomp, "SCMP_ARCH_X32") {
        true => x86_64.extend(ranges(seccomp, Arch::X32, default)?),
        false => x86_64.push((X32_BIT, Rules { otherwise: Some(KILL_THREAD), ..Rules::default() })),
    }
    let mut program = Program::default();
    let mut arch = program.returns(KILL_THREAD);
    if covers(seccomp, "SCMP_ARCH_X86") {
        let search = search(&mut program, &ranges(seccomp, Arch::X86, default)?, default);
        let found = program.load(NUMBER, search);
        arch = program.test(Test::Equal, AUDIT_X86, found, arch);
    }
    let other = arch;
    let search = search(&mut program, &x86_64, default);
    let found = program.load(NUMBER, search);
    let arch = program.test(Test::Equal, AUDIT_X86_64, found, other);
    program.load(ARCH, arch);
    let program = program.finish();
    let length = program.len();
    ensure!(
        length <= MOST_INSTRUCTIONS,
        "linux.seccomp.syscalls make {length} instructions, and the kernel takes {MOST_INSTRUCTIONS}"
    );
    Ok(program)
}

fn check(seccomp: &Seccomp) -> Result<()> {
    const KNOWN: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    for arch in &seccomp.architectures {
        let known = KNOWN.join(", ");
        ensure!(
            KNOWN.contains(&arch.as_str()),
            "linux.seccomp.architectures: {arch:?} is not supported: the machine's are {known}"
        );
    }
    for (index, rule) in seccomp.syscalls.iter().enumerate() {
        ensure!(!rule.names.is_empty(), "linux.seccomp.syscalls[{index}].names is empty");
        for argument in &rule.args {
            let number = argument.index;
            ensure!(number < 6, "linux.seccomp.syscalls[{index}].args: index {number} is not in 0..5");
        }
    }
    Ok(())
}

fn covers(seccomp: &Seccomp, arch: &str) -> bool {
    seccomp.architectures.iter().any(|covered| covered == arch)
}

/// What the kernel takes for an action.
fn value(field: &str, action: Action, errno: Option<u32>) -> Result<u32> {
    if let Some(errno) = errno {
        ensure!(errno <= MOST_ERRNO, "linux.seccomp.{field}: {errno} is no errno");
        let has_one = matches!(action, Action::Errno | Action::Trace);
        ensure!(has_one, "linux.seccomp.{field}: only SCMP_ACT_ERRNO and SCMP_ACT_TRACE have an errno");
    }
    let errno = errno.unwrap_or(EPERM);
    Ok(match action {
        Action::Kill | Action::KillThread => KILL_THREAD,
        Action::KillProcess => KILL_PROCESS,
        Action::Trap => TRAP,
        Action::Errno => ERRNO | errno,
        Action::Trace => TRACE | errno,
        Action::Log => LOG,
        Action::Allow => ALLOW,
    })
}

/// Ranges of calls by their first number, from the architecture's first on, and what is done about all calls up to the next.
fn ranges(seccomp: &Seccomp, arch: Arch, default: u32) -> Result<Vec<(u32, Rules)>> {
    let rules = rules(seccomp, arch)?;
    let plain = |value| Rules { conditional: vec![], otherwise: Some(value) };
    let mut ranges = vec![(if arch == Arch::X32 { X32_BIT } else { 0 }, plain(default))];
    for (number, mut rules) in rules {
        let otherwise = *rules.otherwise.get_or_insert(default);
        if rules.conditional.iter().all(|(_, value)| *value == otherwise) {
            rules.conditional.clear();
        }
        ranges.push((number, rules));
        ranges.push((number + 1, plain(default)));
    }
    let permissive = matches!(seccomp.default_action, Action::Allow | Action::Log | Action::Trace);
    if let Some((_, beyond)) = ranges.last_mut().filter(|_| !permissive) {
        *beyond = plain(ERRNO | ENOSYS);
    }
    // Of ranges with the same start the last counts; of neighbours that are alike, the first.
    let mut merged: Vec<(u32, Rules)> = vec![];
    for (start, rules) in ranges {
        merged.pop_if(|(last, _)| *last == start);
        if merged.last().is_none_or(|(_, last)| *last != rules) {
            merged.push((start, rules));
        }
    }
    Ok(merged)
}

/// The rules of all calls that an architecture has, by number.
fn rules(seccomp: &Seccomp, arch: Arch) -> Result<BTreeMap<u32, Rules>> {
    let mut all: BTreeMap<u32, Rules> = BTreeMap::new();
    for (index, rule) in seccomp.syscalls.iter().enumerate() {
        let value = value(&format!("syscalls[{index}].errnoRet"), rule.action, rule.errno_ret)?;
        for name in &rule.names {
            // With conditions it cannot be judged, for it is in the caller's memory that the arguments are then.
            if let Some((number, first)) = calls::multiplexer(arch, name).filter(|_| rule.args.is_empty()) {
                let is = Argument { index: 0, value: first, value_two: 0, op: Operator::Eq };
                all.entry(number).or_default().conditional.push((vec![is], value));
            }
            let Some(number) = calls::number(arch, name) else { continue };
            let rules = all.entry(number).or_default();
            if !rule.args.is_empty() {
                // As in runc: of several conditions on one argument, each is a rule of its own.
                let twice =
                    (0..6).any(|i| rule.args.iter().filter(|argument| argument.index == i).count() > 1);
                if twice {
                    rules.conditional.extend(rule.args.iter().map(|argument| (vec![*argument], value)));
                } else {
                    rules.conditional.push((rule.args.clone(), value));
                }
                continue;
            }
            if rules.otherwise.replace(value).is_some_and(|other| other != value) {
                bail!("linux.seccomp.syscalls[{index}]: a rule before has another action for {name}");
            }
        }
    }
    Ok(all)
}

/// Goes to what is done about the call whose number is in the accumulator.
fn search(program: &mut Program, ranges: &[(u32, Rules)], default: u32) -> Label {
    match ranges {
        [] => program.returns(default),
        [(_, rules)] => decide(program, rules, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let start = high[0].0;
            let high = search(program, high, default);
            let low = search(program, low, default);
            program.test(Test::GreaterOrEqual, start, high, low)
        }
    }
}

/// The first rule whose conditions hold decides.
fn decide(program: &mut Program, rules: &Rules, default: u32) -> Label {
    let mut next = program.returns(rules.otherwise.unwrap_or(default));
    for (conditions, value) in rules.conditional.iter().rev() {
        let mut holds = program.returns(*value);
        for condition in conditions.iter().rev() {
            holds = compare(program, condition, holds, next);
        }
        next = holds;
    }
    next
}

/// Compares an argument, of 64 bits, without a sign.
fn compare(program: &mut Program, argument: &Argument, yes: Label, no: Label) -> Label {
    let Argument { index, value, value_two, op } = *argument;
    let low = ARGUMENTS + 8 * index;
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    let ((value_high, value_low), (two_high, two_low)) = (halves(value), halves(value_two));
    let (yes, no, op) = match op {
        Operator::Ne => (no, yes, Operator::Eq),
        Operator::Lt => (no, yes, Operator::Ge),
        Operator::Le => (no, yes, Operator::Gt),
        other => (yes, no, other),
    };
    match op {
        Operator::MaskedEq => {
            let test = program.test(Test::Equal, two_low, yes, no);
            let masked = program.and(value_low, test);
            let loaded = program.load(low, masked);
            let test = program.test(Test::Equal, two_high, loaded, no);
            let masked = program.and(value_high, test);
            program.load(high, masked)
        }
        Operator::Eq | Operator::Ne => {
            let test = program.test(Test::Equal, value_low, yes, no);
            let loaded = program.load(low, test);
            let test = program.test(Test::Equal, value_high, loaded, no);
            program.load(high, test)
        }
        Operator::Ge | Operator::Gt | Operator::Lt | Operator::Le => {
            let strict = matches!(op, Operator::Gt);
            let how = if strict { Test::Greater } else { Test::GreaterOrEqual };
            let test = program.test(how, value_low, yes, no);
            let loaded = program.load(low, test);
            let equal = program.test(Test::Equal, value_high, loaded, no);
            let test = program.test(Test::Greater, value_high, yes, equal);
            program.load(high, test)
        }
    }
}
