//! What `vch` does with containers, besides running them; each by its own name and options.

pub mod attach;
pub mod exec;
pub mod inspect;
pub mod kill;
pub mod logs;
pub mod port;
pub mod ps;
pub mod rm;
pub mod run;
pub mod stats;
pub mod stop;
pub mod template;
pub mod time;
pub mod volume;
pub mod wait;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::client::find::{self, Found};
use crate::containers::{Container, Containers, State};
use crate::monitor;

/// Where containers are.
#[derive(Debug, Clone, Args)]
pub struct Store {
    /// Folder of the containers; $CONTAINERVM_STORE or ~/.local/share/containervm by default
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl Store {
    fn dir(&self) -> Result<PathBuf> {
        monitor::store_dir(self.store.as_deref())
    }

    fn containers(&self) -> Result<Containers> {
        Ok(Containers::of(&self.dir()?))
    }

    fn container(&self, name: &str) -> Result<Container> {
        self.containers()?.find(name)
    }

    /// The way to the monitor of a container.
    fn reach(&self, container: &Container) -> Result<Found> {
        find::monitor(&self.dir()?, container)
    }

    /// How a container is. One that has ended without anyone's seeing it is written down; one whose monitor has died gets
    /// another.
    ///
    /// # Errors
    /// It is gone.
    pub fn state(&self, container: &Container) -> Result<State> {
        let state = container.state()?;
        if matches!(state, State::Exited { .. }) && !container.has_vm()? {
            return Ok(state);
        }
        // Someone has it: then it is as that one says.
        if container.lock_monitor()?.is_none() {
            return Ok(state);
        }
        match self.reach(container)? {
            Found::Monitor(_) => container.state(),
            Found::Ended(state) => Ok(state),
        }
    }
}

/// Does `work` for each of `names`, prints the name of each that it was done for, and goes on after a failure: the last is
/// given, the others are said.
fn each(names: &[String], mut work: impl FnMut(&str) -> Result<String>, say: impl Fn(&str)) -> Result<u8> {
    use std::io::Write;
    let mut failed = false;
    for name in names {
        match work(name) {
            // If stdout is closed, it was done all the same.
            Ok(line) => drop(writeln!(std::io::stdout(), "{line}")),
            Err(error) => {
                failed = true;
                say(&format!("{error:#}"));
            }
        }
    }
    Ok(u8::from(failed))
}
