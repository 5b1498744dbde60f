//! From a fork of tether to the container's process, or to one beside it: what the OCI config asks for, step by step, and
//! the exec. All of it runs in the child.

use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure};
use crate::network::files::Mounts;
use crate::process::{Container, Reporter, reset_signals};
use crate::stdio::Theirs;
use crate::user::User;
use crate::user_namespace::{self, UserNamespace};
use crate::{
    capabilities, devices, lsm, mounts, namespaces, root, scheduling, seccomp, stdio, user, volumes,
};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Uid, access, chdir, execve, pivot_root, sethostname, setsid};
use protocol::oci::{NamespaceKind, Personality, Process, Spec};
use protocol::{Exec, MachineSpec, Seccomp, Stage, Stage::Config};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A user namespace, and the namespaces that belong to it.
pub type Owner<'a> = (&'a UserNamespace, &'a [(OwnedFd, CloneFlags)]);

/// Becomes the container's process. Returns only when that failed.
pub fn enter(
    machine: &MachineSpec,
    cgroup: &Cgroup,
    owner: Option<Owner<'_>>,
    stdio: Option<Theirs>,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let MachineSpec { config, user, groups, .. } = machine;
    let process = &config.process;
    setsid().at(Config, || "starting a session")?;
    reset_signals().at(Config, || "resetting signals")?;
    cgroup.enter()?;
    owner.map_or(Ok(()), |(user, _)| user.own_files())?;
    let mut volumes = volumes::Detached::prepare(machine)?;
    scheduling::apply(process)?;
    lsm::apply(process)?;
    namespaces::enter(config, owner.map(|(_, made)| made))?;
    kernel_settings(config)?;
    let files = Mounts::open(machine)?;
    owner.map_or(Ok(()), |(user, _)| files.all().try_for_each(|file| user.give(file)))?;
    let outer = user_namespace::from_outside(config)?;
    let prepare = |(index, mount)| owner.map_or(Ok(None), |_| mounts::prepare(index, mount));
    let prepared = outer.mounts.iter().enumerate().map(prepare).collect::<Result<Vec<_>, _>>()?;
    change_root(owner.is_some())?;
    umask(Mode::empty());
    for ((index, mount), prepared) in outer.mounts.iter().enumerate().zip(prepared) {
        volumes.attach_above(&mount.destination)?;
        mounts::make(index, mount, prepared)?;
    }
    volumes.attach_rest()?;
    devices::make(&outer)?;
    files.attach(config.root.readonly)?;
    let resolved = user::resolve(user.as_deref(), groups, &process.user)?;
    install(config, process, &resolved, stdio, reporter, true)?;
    // The folders of `cwd` that are missing are root's, as runc makes them.
    umask(Mode::from_bits_truncate(0o022));
    fs::create_dir_all(&process.cwd).at(Config, || format!("making process.cwd {}", process.cwd))?;
    restrict_paths(config)?;
    if let Some(propagation) = &config.linux.rootfs_propagation {
        mounts::propagate_root(propagation)?;
    }
    if let Some(personality) = &config.linux.personality {
        set_personality(personality)?;
    }
    let owner = owner.map(|(user, _)| user.fd());
    become_process(process, &resolved, user.is_some(), owner, machine.seccomp.as_ref(), reporter)
}

/// Becomes a process beside the container's. Returns only when that failed.
pub fn join(
    exec: &Exec,
    container: &Container<'_>,
    pidfd: OwnedFd,
    stdio: Option<Theirs>,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let Exec { process, user, .. } = exec;
    // The container sees this process in its /proc, and may be as mighty: tether's memory and descriptors are not for it.
    nix::sys::prctl::set_dumpable(false).at(Config, || "hiding from the container")?;
    let mut kept = vec![pidfd.as_raw_fd(), reporter.fd()];
    kept.extend(stdio.iter().flat_map(Theirs::fds));
    close_all_but(kept)?;
    setsid().at(Config, || "starting a session")?;
    reset_signals().at(Config, || "resetting signals")?;
    let affinity = process.exec_cpu_affinity.as_ref().or(container.config.process.exec_cpu_affinity.as_ref());
    affinity.map_or(Ok(()), |cpus| scheduling::keep_on(&cpus.initial))?;
    container.cgroup.join(container.pid)?;
    affinity.map_or(Ok(()), |cpus| scheduling::keep_on(&cpus.after))?;
    set_oom_score(process)?;
    scheduling::apply(process)?;
    lsm::apply(process)?;
    let namespaces = namespaces::of(container.config);
    match setns(&pidfd, namespaces) {
        Err(Errno::ESRCH) => return Err(Failure::new(Stage::Run, "the container has ended")),
        result => result.at(Config, || format!("joining the container ({namespaces:?})"))?,
    }
    umask(Mode::empty());
    let resolved = user::resolve(user.as_deref(), container.groups, &process.user)?;
    install(container.config, process, &resolved, stdio, reporter, false)?;
    let owner = namespaces::wants(container.config, NamespaceKind::User).then_some(&pidfd);
    become_process(process, &resolved, user.is_some(), owner, container.seccomp, reporter)
}

/// Puts pipes or a terminal to 0, 1 and 2.
fn install(
    config: &Spec,
    process: &Process,
    user: &User,
    stdio: Option<Theirs>,
    reporter: &Reporter,
    console: bool,
) -> Result<(), Failure> {
    let uid = Uid::from_raw(user_namespace::uid(config, user.uid)?);
    user_namespace::gid(config, user.gid)?;
    match stdio {
        Some(pipes) => pipes.install(uid),
        None => {
            let master = stdio::install_terminal(process.console_size, uid, console)?;
            reporter.terminal(master.as_raw_fd())
        }
    }
}

/// What is the process's own, when all around it stands; and the exec. `named`: the user was given in docker's form. `owner`: the
/// user namespace that it is to be in.
fn become_process(
    process: &Process,
    user: &User,
    named: bool,
    owner: Option<&OwnedFd>,
    filter: Option<&Seccomp>,
    reporter: &Reporter,
) -> Result<(), Failure> {
    set_rlimits(process)?;
    umask(Mode::from_bits_truncate(process.user.umask.unwrap_or(0o022)));
    // From here on its might is the container's.
    owner.map_or(Ok(()), user_namespace::enter)?;
    if let Some(filter) = filter.filter(|_| !process.no_new_privileges) {
        seccomp::load(filter)?; // while we may; as in runc, it must allow what comes until the exec
    }
    capabilities::become_user(user, &process.capabilities.clone().unwrap_or_default())?;
    chdir(process.cwd.as_str()).at(Config, || format!("entering process.cwd {}", process.cwd))?;
    if named && user.uid != 0 {
        // As docker has it for its users: what the exec would take away anyway must not help to find the command.
        capabilities::keep_ambient_only(process.capabilities.as_ref())?;
    }
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().at(Config, || "setting process.noNewPrivileges")?;
    }
    close_all_from(3)?;
    if let Some(filter) = filter.filter(|_| process.no_new_privileges) {
        seccomp::load(filter)?;
    }
    exec(process, user, reporter)
}

fn set_personality(personality: &Personality) -> Result<(), Failure> {
    let number = if personality.domain == "LINUX32" { 8 } else { 0 };
    // SAFETY: personality(2) takes an integer.
    let result = unsafe { libc::personality(number) };
    Errno::result(result).map(drop).at(Config, || "setting linux.personality")
}

/// What is set through tether's own `/proc`: the container may have none.
fn kernel_settings(config: &Spec) -> Result<(), Failure> {
    if let Some(name) = &config.hostname {
        sethostname(name).at(Config, || format!("setting hostname {name:?}"))?;
    }
    if let Some(name) = &config.domainname {
        fs::write("/proc/sys/kernel/domainname", name)
            .at(Config, || format!("setting domainname {name:?}"))?;
    }
    set_oom_score(&config.process)?;
    config.linux.sysctl.iter().try_for_each(|(name, value)| {
        if name.contains("..") || name.starts_with(['/', '.']) {
            return Err(Failure::new(
                Config,
                format!("linux.sysctl: {name:?} is not the name of a kernel parameter"),
            ));
        }
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(path, value).at(Config, || format!("setting linux.sysctl {name} to {value:?}"))
    })
}

/// By tether's own `/proc`, too.
fn set_oom_score(process: &Process) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    fs::write("/proc/self/oom_score_adj", score.to_string())
        .at(Config, || format!("setting process.oomScoreAdj {score}"))
}

/// Makes the overlay the root, with nothing of tether's left to reach. Mount points made from here on stay in this namespace. `owned`: that belongs to a user namespace.
fn change_root(owned: bool) -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .at(Config, || "making all mounts private")?;
    if owned {
        // Mounts that come from another's are locked (mount_namespaces(7)), and a locked one becomes no root.
        mount(Some(root::PATH), root::PATH, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .at(Config, || "mounting the new root once more")?;
    }
    chdir(root::PATH).at(Config, || "entering the new root")?;
    pivot_root(".", ".").at(Config, || "changing to the new root")?;
    // Both roots are at "." now; the old one is on top (pivot_root(2), "pivot_root(".", ".")"). It goes at once: as long as it lies
    // there, a symbolic link of the image's that leads to `..` of `/` leads there.
    umount2(".", MntFlags::MNT_DETACH).at(Config, || "leaving the old root")?;
    chdir("/").at(Config, || "entering /")
}

fn restrict_paths(config: &Spec) -> Result<(), Failure> {
    config.linux.readonly_paths.iter().try_for_each(|path| mounts::make_read_only(path))?;
    mounts::mask(&config.linux.masked_paths)?;
    if config.root.readonly {
        mounts::remount_read_only("/").at(Config, || "making the root read-only (root.readonly)")?;
    }
    Ok(())
}

fn set_rlimits(process: &Process) -> Result<(), Failure> {
    use Resource as R;
    let known = [
        ("RLIMIT_AS", R::RLIMIT_AS),
        ("RLIMIT_CORE", R::RLIMIT_CORE),
        ("RLIMIT_CPU", R::RLIMIT_CPU),
        ("RLIMIT_DATA", R::RLIMIT_DATA),
        ("RLIMIT_FSIZE", R::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", R::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", R::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", R::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", R::RLIMIT_NICE),
        ("RLIMIT_NOFILE", R::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", R::RLIMIT_NPROC),
        ("RLIMIT_RSS", R::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", R::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", R::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", R::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", R::RLIMIT_STACK),
    ];
    process.rlimits.iter().try_for_each(|limit| {
        let kind = &limit.kind;
        let Some((_, resource)) = known.iter().find(|(name, _)| name == kind) else {
            return Err(Failure::new(Config, format!("process.rlimits: there is no limit named {kind:?}")));
        };
        setrlimit(*resource, limit.soft, limit.hard)
            .at(Config, || format!("setting process.rlimits {kind} to {} and {}", limit.soft, limit.hard))
    })
}

/// Marks every descriptor from `first` on to be closed by the exec; with 0, closes them all.
pub fn close_all_from(first: u32) -> Result<(), Failure> {
    close_range(first, u32::MAX, if first == 0 { 0 } else { libc::CLOSE_RANGE_CLOEXEC })
}

/// Closes every descriptor from 3 on but these.
fn close_all_but(mut kept: Vec<RawFd>) -> Result<(), Failure> {
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()) {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Failure> {
    // SAFETY: close_range(2) takes integers; whoever owned these descriptors does not run after this.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop).at(Config, || "closing file descriptors")
}

fn exec(process: &Process, user: &User, reporter: &Reporter) -> Result<(), Failure> {
    let mut env = process.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home.as_deref().filter(|home| !home.is_empty()).unwrap_or("/")));
    }
    let path = find_executable(process)?;
    let c_path = c_strings("process.args", [&path])?;
    let args = c_strings("process.args", &process.args)?;
    let env = c_strings("process.env", &env)?;
    reporter.at_exec()?;
    match c_path.first().map(|path| execve(path, &args, &env)) {
        Some(Err(errno)) => Err(Failure::system(Stage::Exec, path, errno)),
        _ => Ok(()),
    }
}

fn c_strings<'a>(
    field: &str,
    strings: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<CString>, Failure> {
    let convert = |string: &String| {
        CString::new(string.as_str())
            .map_err(|_| Failure::new(Config, format!("{field}: {string:?} holds a NUL byte")))
    };
    strings.into_iter().map(convert).collect()
}

/// The command as a path: itself if it has a slash, else the first executable of that name in the PATH of
/// the process, as execvp(3) looks for it.
fn find_executable(process: &Process) -> Result<String, Failure> {
    let command = process.args.first().cloned().unwrap_or_default();
    if command.contains('/') {
        return Ok(command);
    }
    let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = None;
    for folder in path.split(':') {
        let candidate = format!("{}/{command}", if folder.is_empty() { "." } else { folder });
        if fs::metadata(&candidate).is_ok_and(|file| file.is_file()) && !command.is_empty() {
            if access(candidate.as_str(), AccessFlags::X_OK).is_ok() {
                return Ok(candidate);
            }
            denied = denied.or(Some(candidate));
        }
    }
    match denied {
        Some(candidate) => Err(Failure::system(Stage::Exec, candidate, Errno::EACCES)),
        None => {
            let message = format!("{command:?}: executable file not found in PATH ({path})");
            let errno = Some(Errno::ENOENT as i32);
            Err(Failure(protocol::Failure { stage: Stage::Exec, errno, message }))
        }
    }
}
