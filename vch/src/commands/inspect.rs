//! `vch inspect`: all that is known of containers, in docker's words where docker has them.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Store;
use crate::containers::{Container, State};

/// Options of `vch inspect`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Names or IDs of containers
    #[arg(required = true)]
    containers: Vec<String>,

    #[command(flatten)]
    store: Store,
}

/// Prints a list of objects; what is not there is said, and makes the exit status 1.
///
/// # Errors
/// None but those that `say` says.
pub fn run(options: &Options, say: impl Fn(&str)) -> Result<u8> {
    let (mut objects, mut failed) = (vec![], false);
    for name in &options.containers {
        match options.store.container(name).and_then(|container| object(&options.store, &container)) {
            Ok(object) => objects.push(object),
            Err(error) => {
                failed = true;
                say(&format!("{error:#}"));
            }
        }
    }
    // Nobody reads any more: no failure.
    let _ = writeln!(std::io::stdout(), "{:#}", Value::from(objects));
    Ok(u8::from(failed))
}

fn object(store: &Store, container: &Container) -> Result<Value> {
    let record = &container.record;
    let machine = container.machine().ok();
    let config = machine.as_ref().map(|machine| &machine.config);
    let (path, arguments) = record.command.split_first().map_or(("", &[][..]), |(path, rest)| (path, rest));
    Ok(json!({
        "Id": record.id,
        "Name": record.name,
        "Created": record.created,
        "Path": path,
        "Args": arguments,
        "Image": record.image,
        "State": state(&store.state(container)?, container),
        "RestartCount": container.run()?.restarts,
        "RestartPolicy": record.restart,
        "Template": record.template,
        "AutoRemove": record.remove,
        "LogPath": container.log(),
        "Config": {
            "Hostname": config.and_then(|config| config.hostname.as_deref()),
            "User": machine.as_ref().and_then(|machine| machine.user.as_deref()),
            "Env": config.map(|config| &config.process.env),
            "WorkingDir": config.map(|config| &config.process.cwd),
            "Tty": record.tty,
            "OpenStdin": record.stdin,
            "StopSignal": record.stop_signal,
            "Labels": config.map(|config| &config.annotations),
            "Healthcheck": record.health,
        },
        "Volumes": record.volumes,
        "Ports": record.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

fn state(state: &State, container: &Container) -> Value {
    let (status, started, finished, exit) = match state {
        State::Created => ("created", None, None, None),
        State::Running { started } => ("running", Some(*started), None, None),
        State::Restarting { started, finished, exit } => {
            ("restarting", Some(*started), Some(*finished), Some(exit))
        }
        State::Exited { started, finished, exit } => ("exited", *started, Some(*finished), Some(exit)),
    };
    json!({
        "Status": status,
        "Running": status == "running",
        "StartedAt": started,
        "FinishedAt": finished,
        "ExitCode": exit.map(|exit| exit.code),
        "OOMKilled": exit.is_some_and(|exit| exit.oom),
        "Error": exit.and_then(|exit| exit.error.as_deref()),
        "Health": container.health(),
    })
}
