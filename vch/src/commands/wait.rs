//! `vch wait`: until containers have ended.

use anyhow::Result;
use clap::Args;

use super::{Store, each};
use crate::client::control::{Control, Heard};
use crate::client::find::{self, Found};
use crate::containers::Container;
use crate::exit::OURS;
use crate::monitor::message::Ended;

/// Options of `vch wait`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    #[command(flatten)]
    store: Store,
}

/// Prints the exit status of each.
///
/// # Errors
/// None but those that `say` says.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let wait = |name: &str| {
        let container = options.store.container(name)?;
        Ok(code(&ended(&options.store, &container)?).to_string())
    };
    each(&options.containers, wait, say)
}

/// Waits for the end of a container.
///
/// # Errors
/// It is gone.
pub fn ended(store: &Store, container: &Container) -> Result<Ended> {
    loop {
        match store.reach(container)? {
            Found::Monitor(line) => {
                if let Heard::Ended(ended) = Control::new(line)?.wait(None)? {
                    return Ok(ended);
                }
            }
            Found::Ended(state) => {
                if let Some(ended) = find::recorded(&state) {
                    return Ok(ended);
                }
            }
        }
    }
}

/// The exit status.
pub fn code(ended: &Ended) -> u8 {
    match ended {
        Ended::Known(outcome) => outcome.code(),
        Ended::Failed(_) => OURS,
        Ended::Recorded { code, .. } | Ended::Exec { code, .. } => *code,
    }
}
