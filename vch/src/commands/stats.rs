//! `vch stats`: what containers use.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use protocol::Stats;
use serde_json::json;

use super::Store;
use super::ps::{Format, table};
use crate::client::control::Control;
use crate::client::find::Found;
use crate::containers::{Container, State};

/// Between two looks, which the use of CPUs is told from.
const TICK: Duration = Duration::from_secs(1);
/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Moves a terminal's cursor to its upper left corner, and clears what is behind it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Options of `vch stats`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers; all that run by default
    containers: Vec<String>,

    /// Tell once, and not again every second
    #[arg(long)]
    no_stream: bool,

    /// Form of the list
    #[arg(long, value_enum, default_value = "table")]
    format: Format,

    #[command(flatten)]
    store: Store,
}

/// A container that is looked at.
struct Watched {
    container: Container,
    control: Control,
    before: Option<Stats>,
    now: Stats,
}

/// Tells what they use, until nobody reads it or they have ended.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn run(options: &Options) -> Result<u8> {
    let mut all = options.watched()?;
    let mut first = true;
    loop {
        let end = Instant::now() + TICK;
        let mut answering = vec![];
        for mut one in all {
            if let Some(now) = one.control.stats(Instant::now() + PATIENCE)? {
                one.before = (!first).then_some(one.now);
                one.now = now;
                answering.push(one);
            }
        }
        all = answering;
        // The first look alone does not tell how busy they are.
        if !first && (!options.show(&all) || options.no_stream) {
            return Ok(0);
        }
        if all.is_empty() && (!options.containers.is_empty() || options.no_stream) {
            return Ok(0);
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        if options.containers.is_empty() && !options.no_stream {
            options.renew(&mut all)?;
        }
        first = false;
    }
}

impl Options {
    fn watched(&self) -> Result<Vec<Watched>> {
        if self.containers.is_empty() {
            let mut all = vec![];
            self.renew(&mut all)?;
            return Ok(all);
        }
        let watch = |name: &String| {
            let container = self.store.container(name)?;
            match self.watch(&container)? {
                Some(watched) => Ok(watched),
                None => bail!("container {} is not running", container.record.name),
            }
        };
        self.containers.iter().map(watch).collect()
    }

    /// Adds those that have come to run.
    fn renew(&self, all: &mut Vec<Watched>) -> Result<()> {
        for container in self.store.containers()?.list()? {
            if !all.iter().any(|one| one.container.record.id == container.record.id) {
                // One that has just gone is none.
                all.extend(self.watch(&container).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// None if it does not run.
    fn watch(&self, container: &Container) -> Result<Option<Watched>> {
        if !matches!(self.store.state(container)?, State::Running { .. }) {
            return Ok(None);
        }
        let Found::Monitor(line) = self.store.reach(container)? else { return Ok(None) };
        let (container, control) = (container.clone(), Control::new(line)?);
        Ok(Some(Watched { container, control, before: None, now: Stats::default() }))
    }

    /// Says whether anyone reads it.
    fn show(&self, all: &[Watched]) -> bool {
        let mut stdout = std::io::stdout();
        let text = match self.format {
            Format::Json => all.iter().map(Watched::object).collect(),
            Format::Table => {
                let head = [
                    "CONTAINER ID",
                    "NAME",
                    "CPU %",
                    "MEM USAGE / LIMIT",
                    "MEM %",
                    "NET I/O",
                    "BLOCK I/O",
                    "PIDS",
                ];
                let clear = if stdout.is_terminal() && !self.no_stream { CLEAR } else { "" };
                format!("{clear}{}", table(head, all.iter().map(Watched::row)))
            }
        };
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
    }
}

impl Watched {
    fn row(&self) -> [String; 8] {
        let Stats { memory, memory_limit, read, written, received, sent, pids, .. } = self.now;
        [
            self.container.short_id().to_owned(),
            self.container.record.name.clone(),
            percent(self.busy()),
            format!("{} / {}", binary(memory), binary(memory_limit)),
            percent(share(memory, memory_limit)),
            format!("{} / {}", decimal(received), decimal(sent)),
            format!("{} / {}", decimal(read), decimal(written)),
            pids.to_string(),
        ]
    }

    /// With docker's names, and with theirs who count.
    fn object(&self) -> String {
        let [id, name, cpu, memory, memory_share, network, disk, pids] = self.row();
        let object = json!({
            "Container": id, "ID": id, "Name": name, "CPUPerc": cpu, "MemUsage": memory, "MemPerc": memory_share,
            "NetIO": network, "BlockIO": disk, "PIDs": pids, "Counts": self.now,
        });
        format!("{object}\n")
    }

    /// CPU time of the time between the two looks.
    fn busy(&self) -> f64 {
        let Some(before) = self.before else { return 0.0 };
        let micros = self.now.at.saturating_sub(before.at) / 1000;
        share(self.now.cpu.saturating_sub(before.cpu), micros)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

fn binary(bytes: u64) -> String {
    sized(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn decimal(bytes: u64) -> String {
    sized(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

/// As docker shows sizes: four digits at most.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn sized(bytes: u64, base: f64, units: &[&str]) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= base && unit + 1 < units.len() {
        (size, unit) = (size / base, unit + 1);
    }
    let digits = match size {
        _ if unit == 0 || size >= 1000.0 => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let number = format!("{size:.digits$}");
    let number = if digits > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_shows_them() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1_300_000, "1.24MiB"), (268_435_456, "256MiB")]
        {
            assert_eq!(binary(bytes), text);
        }
        for (bytes, text) in
            [(999, "999B"), (4096, "4.096kB"), (12_345_678, "12.35MB"), (u64::MAX, "18446744TB")]
        {
            assert_eq!(decimal(bytes), text);
        }
        assert_eq!((percent(share(1, 8)), percent(share(1, 0))), ("12.50%".into(), "0.00%".into()));
    }
}
