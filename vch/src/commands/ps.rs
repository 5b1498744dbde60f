//! `vch ps`: which containers there are.

use std::io::Write;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Store, time};
use crate::containers::{Container, State};
use crate::health::Status;
use crate::monitor;
use crate::text::harmless;

/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// Options of `vch ps`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Those that have ended, too
    #[arg(short, long)]
    all: bool,

    /// IDs only
    #[arg(short, long)]
    quiet: bool,

    /// Show all of IDs and commands
    #[arg(long)]
    no_trunc: bool,

    /// Form of the list
    #[arg(long, value_enum, default_value = "table")]
    format: Format,

    #[command(flatten)]
    store: Store,
}

/// Forms of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// An object a line.
    Json,
}

/// Lists them.
///
/// # Errors
/// They cannot be read.
pub fn run(options: &Options) -> Result<u8> {
    let mut rows = vec![];
    for container in options.store.containers()?.list()? {
        // One that was just removed is none.
        let Ok(state) = options.store.state(&container) else { continue };
        if options.all || !matches!(state, State::Exited { .. }) {
            rows.push((container, state));
        }
    }
    let mut text = String::new();
    match (options.quiet, options.format) {
        (true, _) => rows.iter().for_each(|(container, _)| text += &format!("{}\n", options.id(container))),
        (false, Format::Json) => rows.iter().for_each(|(c, state)| text += &options.object(c, state)),
        (false, Format::Table) => {
            let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
            text += &table(head, rows.iter().map(|(container, state)| options.row(container, state)));
        }
    }
    // Nobody reads any more: no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

impl Options {
    fn id<'a>(&self, container: &'a Container) -> &'a str {
        if self.no_trunc { &container.record.id } else { container.short_id() }
    }

    fn command(&self, container: &Container) -> String {
        let most = if self.no_trunc { usize::MAX } else { COMMAND };
        harmless(container.record.command.join(" ").as_bytes(), most)
    }

    fn row(&self, container: &Container, state: &State) -> [String; 7] {
        let record = &container.record;
        [
            self.id(container).to_owned(),
            harmless(record.image.as_bytes(), 60),
            format!("\"{}\"", self.command(container)),
            format!("{} ago", time::human(monitor::now().saturating_sub(record.created))),
            status(container, state),
            ports(container, state),
            record.name.clone(),
        ]
    }

    fn object(&self, container: &Container, state: &State) -> String {
        let record = &container.record;
        let (name, code, oom) = match state {
            State::Created => ("created", None, false),
            State::Running { .. } => ("running", None, false),
            State::Restarting { exit, .. } => ("restarting", Some(exit.code), exit.oom),
            State::Exited { exit, .. } => ("exited", Some(exit.code), exit.oom),
        };
        let object = json!({
            "ID": self.id(container), "Names": record.name, "Image": record.image, "Command": self.command(container),
            "CreatedAt": record.created, "State": name, "Status": status(container, state), "ExitCode": code,
            "Ports": ports(container, state),
            "OOMKilled": oom,
        });
        format!("{object}\n")
    }
}

/// Those of one that has ended lead nowhere.
fn ports(container: &Container, state: &State) -> String {
    match state {
        State::Exited { .. } => String::new(),
        _ => container.record.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn status(container: &Container, state: &State) -> String {
    let since = |time: u64| time::human(monitor::now().saturating_sub(time));
    match state {
        State::Created => "Created".into(),
        State::Running { started } => format!("Up {}{}", since(*started), health(container)),
        State::Restarting { finished, exit, .. } => {
            format!("Restarting ({}) {} ago", exit.code, since(*finished))
        }
        State::Exited { finished, exit, .. } => format!("Exited ({}) {} ago", exit.code, since(*finished)),
    }
}

/// As docker puts it behind the time.
fn health(container: &Container) -> String {
    match container.health().map(|report| report.status) {
        None => String::new(),
        Some(Status::Starting) => " (health: starting)".to_owned(),
        Some(status) => format!(" ({})", status.word()),
    }
}

/// Lines of columns as wide as they need be.
pub(super) fn table<const COLUMNS: usize>(
    head: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let head = head.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}
