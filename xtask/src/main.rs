//! `cargo xtask`: the developer's commands. Each installs or fetches what it needs, builds what is out of date
//! and does its work; all that it says goes to stderr, because with `run` stdout is the container's.

mod bench;
mod build;
mod fuzz;
mod iso;
mod kernel;
mod own_kernel;
mod process;
mod run;
mod sbom;
mod test;
mod tools;
mod vmx;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use iso::Edition;
use tools::Task;
use workspace::Workspace;

/// Builds, runs and tests ContainerVM.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the host tools, tether, the kernel and initramfs it boots with, and a small default image.
    Build(Install),
    /// Builds, then runs an image as a containerVM: `cargo xtask run [OPTIONS] [-- COMMAND [ARG...]]`.
    ///
    /// OPTIONS are `--no-install`, `--image REFERENCE` (default: a busybox image) and those of `vch run`;
    /// `--boot iso` builds the ISO first. The exit status is the container's; 125 when we failed ourselves.
    Run {
        /// Options, see above.
        #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Builds a kernel of our own from Debian's source: a quarter of the instructions of a start. `vch` takes it when it is there.
    Kernel {
        #[command(flatten)]
        install: Install,
        /// Builds it twice, in two folders, and compares the bytes.
        #[arg(long)]
        check: bool,
    },
    /// Builds an ISO that boots by BIOS and UEFI below target/bootstrap, and beside it its bill of materials (CycloneDX).
    Iso {
        #[command(flatten)]
        install: Install,
        /// The kernel on it; our own by default, where it is built.
        #[arg(long, value_enum)]
        kernel: Option<Edition>,
        /// Prints what is in it: bytes, SHA-256, path.
        #[arg(long)]
        list: bool,
        /// Writes beside it a VM's description for VMware's hypervisors, which boots it by this firmware.
        #[arg(long, value_enum, value_name = "FIRMWARE", num_args = 0..=1, require_equals = true, default_missing_value = "bios")]
        vmx: Option<vmx::Firmware>,
    },
    /// Builds everything and runs all tests; arguments after `--` go to `cargo test`.
    Test {
        #[command(flatten)]
        install: Install,
        /// Instead the tests of real services (PostgreSQL, Redis, nginx), in images that mmdebstrap makes.
        #[arg(long)]
        services: bool,
    },
    /// Measures what a containerVM costs (guest instructions, seconds, bytes), how fast its stdio is, and what a layer disk
    /// costs to make (CPU seconds, seconds, memory); each beside a floor.
    Bench {
        #[command(flatten)]
        install: Install,
        /// Only this.
        #[arg(value_enum)]
        subject: Option<bench::Subject>,
    },
    /// Runs all fuzz targets for a short while each, on stable Rust: see CONTRIBUTING.md, Fuzzing.
    Fuzz {
        /// For each target.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Runs what continuous integration runs: `.ci/run`.
    Ci(Install),
}

#[derive(Args)]
struct Install {
    /// Only name what is missing; install and fetch nothing.
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    let (ours, rest) = split(std::env::args_os().collect());
    let command = Cli::parse_from(ours).command;
    let failure = if matches!(command, Command::Run { .. }) { run::OUR_FAILURE } else { 1 };
    match execute(command, rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(failure)
        }
    }
}

fn execute(command: Command, rest: Option<Vec<OsString>>) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Build(Install { no_install }) => {
            tools::ensure(Task::Build, no_install)?;
            build::all(&workspace, no_install)?;
        }
        Command::Run { options } => return run::run(&workspace, options, rest.unwrap_or_default()),
        Command::Kernel { install: Install { no_install }, check } => {
            tools::ensure(Task::Kernel, no_install)?;
            build::all(&workspace, no_install)?;
            own_kernel::build(&workspace)?;
            if check {
                own_kernel::check(&workspace)?;
            }
        }
        Command::Iso { install: Install { no_install }, kernel, list, vmx } => {
            tools::ensure(Task::Iso, no_install)?;
            build::all(&workspace, no_install)?;
            let edition = kernel.unwrap_or_else(|| Edition::usual(&workspace));
            let iso = iso::build(&workspace, edition)?;
            if list {
                iso::list(&iso)?;
            } else {
                println!("{}", iso.display());
            }
            if let Some(firmware) = vmx {
                println!("{}", iso::vmx(&iso, firmware)?.display());
            }
        }
        Command::Test { install: Install { no_install }, services } => {
            let tests = if services { test::Tests::Services } else { test::Tests::All };
            return test::run(&workspace, tests, no_install, rest.unwrap_or_default());
        }
        Command::Bench { install: Install { no_install }, subject } => {
            bench::run(&workspace, subject, no_install)?;
        }
        Command::Fuzz { seconds } => fuzz::run(&workspace, seconds)?,
        Command::Ci(Install { no_install }) => {
            let mut ci = process::command(workspace.root.join(".ci/run"));
            return Err(process::become_it(ci.args(no_install.then_some("--no-install"))));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command line before and after the first `--`. Done by hand: clap would drop a `--` at the front of a
/// list of arguments but keep it further back, and both may be the container's.
fn split(mut line: Vec<OsString>) -> (Vec<OsString>, Option<Vec<OsString>>) {
    let rest = line.iter().position(|argument| argument == "--").map(|at| {
        let rest = line.split_off(at + 1);
        line.pop();
        rest
    });
    (line, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_the_first_dashes_split() {
        let (ours, rest) = split(line("xtask run -i -- sh -c x -- y"));
        assert_eq!(ours, line("xtask run -i"));
        assert_eq!(rest, Some(line("sh -c x -- y")));
        assert_eq!(split(line("xtask build")), (line("xtask build"), None));
    }

    #[test]
    fn run_takes_options_it_does_not_know() {
        let cli = Cli::try_parse_from(line("xtask run -i -e A=1 --no-install --boot iso --help")).unwrap();
        let Command::Run { options } = cli.command else { panic!("not run") };
        assert_eq!(options, line("-i -e A=1 --no-install --boot iso --help"));
    }
}
