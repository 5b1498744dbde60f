//! `cargo xtask bench [boot|template|channel|image]`: what things cost, beside a floor measured in the same run. Nothing is asserted.

use anyhow::Result;
use clap::ValueEnum;

use crate::build;
use crate::tools::{self, Task};
use crate::workspace::Workspace;

mod bare;
mod boot;
mod channel;
mod descendants;
mod figures;
mod image;
mod layers;
mod measure;
mod peers;
mod pss;
mod template;
mod way;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// A containerVM that boots and one from a template, beside the same machine with an init that only powers off.
    Boot,
    /// The host's memory of containerVMs that go on from a template, beside those that boot.
    Template,
    /// Stdio of a containerVM, beside the bare port that it goes through.
    Channel,
    /// Layer disks, beside inflating and hashing alone, and beside other programs.
    Image,
}

/// Gets and builds what is needed, measures and prints; without a `subject`, all of them.
pub fn run(workspace: &Workspace, subject: Option<Subject>, no_install: bool) -> Result<()> {
    let wanted = |one| subject.is_none_or(|subject| subject == one);
    if wanted(Subject::Boot) {
        tools::ensure(Task::Run, no_install)?;
        build::all(workspace, no_install)?;
        boot::run(workspace)?;
    }
    if wanted(Subject::Template) {
        tools::ensure(Task::Run, no_install)?;
        build::all(workspace, no_install)?;
        template::run(workspace)?;
    }
    if wanted(Subject::Channel) {
        tools::ensure(Task::BenchChannel, no_install)?;
        build::all(workspace, no_install)?;
        channel::run(workspace)?;
    }
    if wanted(Subject::Image) {
        tools::ensure(Task::BenchImage, no_install)?;
        image::run(workspace)?;
    }
    Ok(())
}
