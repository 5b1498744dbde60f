//! `vch inspect`: all that is known of containers, in docker's words where docker has them.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{Store, time};
use crate::containers::{Container, State};
use crate::health::{Check, Report};

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
        "Created": time::stamp(record.created),
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
            "Healthcheck": record.health.as_ref().map(check),
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
        "StartedAt": started.map_or_else(never, time::stamp),
        "FinishedAt": finished.map_or_else(never, time::stamp),
        "ExitCode": exit.map(|exit| exit.code),
        "OOMKilled": exit.is_some_and(|exit| exit.oom),
        "Error": exit.and_then(|exit| exit.error.as_deref()),
        "Health": container.health().as_ref().map(health),
    })
}

/// What docker says of a time that has not come: Go's zero.
fn never() -> String {
    "0001-01-01T00:00:00Z".to_owned()
}

/// How its health is checked; docker has lengths of time in nanoseconds.
fn check(check: &Check) -> Value {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut test = vec!["CMD".to_owned()];
    test.extend_from_slice(&check.command);
    json!({
        "Test": test,
        "Interval": nanoseconds(check.interval),
        "Timeout": nanoseconds(check.timeout),
        "StartPeriod": nanoseconds(check.start_period),
        "StartInterval": nanoseconds(check.start_interval),
        "Retries": check.retries,
    })
}

/// What came of that.
fn health(report: &Report) -> Value {
    let log = report.log.iter().map(|checked| {
        json!({
            "Start": time::stamp(checked.start),
            "End": time::stamp(checked.end),
            "ExitCode": checked.exit_code,
            "Output": checked.output,
        })
    });
    json!({
        "Status": report.status,
        "FailingStreak": report.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::{Containers, Exit, Record};
    use crate::health::{Checked, Status};

    #[test]
    fn times_are_said_as_docker_says_them() {
        let dir = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(1);
        let health = Check {
            command: vec!["true".into()],
            interval: second * 30,
            timeout: second / 2,
            start_period: Duration::ZERO,
            start_interval: second * 5,
            retries: 3,
        };
        let record = Record {
            created: 86_400,
            health: Some(health),
            ..Record::new(crate::random::id().unwrap(), "web".into())
        };
        let container = Containers::of(dir.path()).create(record).unwrap();
        let exit = Exit { code: 7, oom: false, error: None };
        container.set_state(&State::Exited { started: None, finished: 86_401, exit }).unwrap();
        let log = [Checked { start: 1, end: 2, exit_code: 0, output: "well".into() }].into();
        container.keep_health(&Report { status: Status::Healthy, failing_streak: 0, log });
        let known = object(&Store { store: Some(dir.path().to_owned()) }, &container).unwrap();
        assert_eq!(known["Created"], "1970-01-02T00:00:00Z");
        assert_eq!(known["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(known["State"]["FinishedAt"], "1970-01-02T00:00:01Z");
        assert_eq!(
            known["State"]["Health"],
            json!({
                "Status": "healthy",
                "FailingStreak": 0,
                "Log": [{
                    "Start": "1970-01-01T00:00:01Z",
                    "End": "1970-01-01T00:00:02Z",
                    "ExitCode": 0,
                    "Output": "well",
                }],
            })
        );
        assert_eq!(
            known["Config"]["Healthcheck"],
            json!({
                "Test": ["CMD", "true"],
                "Interval": 30_000_000_000_u64,
                "Timeout": 500_000_000,
                "StartPeriod": 0,
                "StartInterval": 5_000_000_000_u64,
                "Retries": 3,
            })
        );
    }
}
