//! `config.json`: `linux.seccomp`, as far as `vch` compiles it. A listener (`listenerPath`, `SCMP_ACT_NOTIFY`) is not supported.

use serde::{Deserialize, Serialize};

/// `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seccomp {
    /// What is done about a call that no rule knows.
    pub default_action: Action,
    /// Its errno, if the action has one; EPERM if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_X86_64`, which is always there, `SCMP_ARCH_X86`, `SCMP_ARCH_X32`. Others' calls kill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_TSYNC`, `_LOG`, `_SPEC_ALLOW`; the last if not given, as in runc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// The rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Syscalls>,
}

/// `linux.seccomp.defaultAction`, `linux.seccomp.syscalls[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Kills the thread.
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    /// The same.
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// Kills the process.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// Sends SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// The call fails with an errno.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// A tracer is told; without one, the call fails.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// As if there were no filter.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// The same, and the kernel logs it.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

/// `linux.seccomp.syscalls[]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syscalls {
    /// Names of the calls. Those that no architecture of the filter has are skipped, as in runc.
    pub names: Vec<String>,
    /// What is done about them.
    pub action: Action,
    /// The errno, if the action has one; EPERM if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Only about calls whose arguments are all so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// `linux.seccomp.syscalls[].args[]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Argument {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; of `SCMP_CMP_MASKED_EQ` the mask.
    pub value: u64,
    /// Of `SCMP_CMP_MASKED_EQ`: what the masked argument must be.
    #[serde(default)]
    pub value_two: u64,
    /// The comparison.
    pub op: Operator,
}

/// `linux.seccomp.syscalls[].args[].op`; numbers are compared without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// Not equal.
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    /// Less.
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    /// Less or equal.
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    /// Equal.
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    /// Greater or equal.
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    /// Greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// Equal to `valueTwo` under the mask `value`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}
