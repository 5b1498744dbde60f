//! Whether a container is well: an image's HEALTHCHECK and `--health-*`, by docker's rules. Without any I/O: who owns it runs
//! the command when one is [due](Health::due), and says what came of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::options::health::HealthOptions;

/// What is kept of a command's output, in bytes.
pub const OUTPUT: usize = 4096;
/// How many results are kept.
const KEPT: usize = 5;

/// How to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Check {
    /// The command, run beside the container's process.
    pub command: Vec<String>,
    /// From the end of one to the begin of the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How long after the start a failure does not count.
    pub start_period: Duration,
    /// The interval during that time.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// `Healthcheck` in an image's config: docker's extension, which the OCI image-spec reserves (config.md, "Conversion").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageCheck {
    /// `NONE`, or `CMD` and a command, or `CMD-SHELL` and a line for the shell.
    test: Vec<String>,
    /// Nanoseconds; 0 is the default. So the others.
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl ImageCheck {
    /// That of an image's config, in JSON.
    ///
    /// # Errors
    /// It is malformed.
    pub fn of(config: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Image {
            config: Option<Config>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            healthcheck: Option<ImageCheck>,
        }
        let image: Image = serde_json::from_slice(config).context("the image's Healthcheck is malformed")?;
        Ok(image.config.and_then(|config| config.healthcheck))
    }
}

impl Check {
    /// What the user says, and the image where the user says nothing.
    ///
    /// # Errors
    /// They say what cannot be.
    pub fn of(image: Option<&ImageCheck>, options: &HealthOptions) -> Result<Option<Self>> {
        if options.no_healthcheck {
            return Ok(None);
        }
        let none = ImageCheck::default();
        let image = image.unwrap_or(&none);
        let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let command = match (&options.cmd, image.test.as_slice()) {
            (Some(line), _) if line.is_empty() => return Ok(None),
            (Some(line), _) => shell(line),
            (None, []) => return Ok(None),
            (None, [kind, ..]) if kind == "NONE" => return Ok(None),
            (None, [kind, command @ ..]) if kind == "CMD" && !command.is_empty() => command.to_vec(),
            (None, [kind, line]) if kind == "CMD-SHELL" => shell(line),
            (None, test) => {
                bail!(
                    "the image's Healthcheck.Test {test:?} is neither NONE, CMD with a command nor CMD-SHELL with a line"
                )
            }
        };
        let time = |user: Option<Duration>, image: u64, default: u64| {
            let image = (image > 0).then_some(Duration::from_nanos(image));
            user.filter(|time| !time.is_zero()).or(image).unwrap_or(Duration::from_secs(default))
        };
        let retries = options.retries.filter(|count| *count > 0).unwrap_or(image.retries);
        Ok(Some(Self {
            command,
            interval: time(options.interval, image.interval, 30),
            timeout: time(options.timeout, image.timeout, 30),
            start_period: time(options.start_period, image.start_period, 0),
            start_interval: time(options.start_interval, image.start_interval, 5),
            retries: if retries == 0 { 3 } else { retries },
        }))
    }
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not known yet.
    Starting,
    /// The last check was passed.
    Healthy,
    /// So many in a row were not.
    Unhealthy,
}

impl Status {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Checked {
    /// When it began: seconds since 1970.
    pub start: u64,
    /// When it was over.
    pub end: u64,
    /// Its command's; -1 if that did not end in time, or not start.
    pub exit_code: i32,
    /// The first [`OUTPUT`] bytes of what it wrote.
    pub output: String,
}

/// What is known, for others to see: docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Report {
    /// How it is.
    pub status: Status,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, the oldest first.
    pub log: VecDeque<Checked>,
}

/// The health of a container that runs.
#[derive(Debug)]
pub struct Health {
    /// How to find out.
    pub check: Check,
    /// What is known.
    pub report: Report,
    started: Instant,
    due: Option<Instant>,
}

impl Health {
    /// Of a container that has started just now.
    pub fn new(check: Check, now: Instant) -> Self {
        let report = Report { status: Status::Starting, failing_streak: 0, log: VecDeque::new() };
        let mut health = Self { check, report, started: now, due: None };
        health.due = Some(now + health.interval(now));
        health
    }

    /// When the next check is to begin; none while one runs.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A check has begun.
    pub fn begin(&mut self) {
        self.due = None;
    }

    /// A check is over.
    pub fn end(&mut self, checked: Checked, now: Instant) {
        let report = &mut self.report;
        if checked.exit_code == 0 {
            (report.status, report.failing_streak) = (Status::Healthy, 0);
        } else if report.status != Status::Starting || now >= self.started + self.check.start_period {
            report.failing_streak = report.failing_streak.saturating_add(1);
            if report.failing_streak >= self.check.retries {
                report.status = Status::Unhealthy;
            }
        }
        report.log.push_back(checked);
        if report.log.len() > KEPT {
            report.log.pop_front();
        }
        self.due = Some(now + self.interval(now));
    }

    fn interval(&self, now: Instant) -> Duration {
        let starts = self.report.status == Status::Starting && now < self.started + self.check.start_period;
        if starts { self.check.start_interval } else { self.check.interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> Result<Option<Check>> {
        let image = ImageCheck::of(json.as_bytes())?;
        Check::of(image.as_ref(), &HealthOptions::default())
    }

    #[test]
    fn the_images_own() {
        let check = image(
            r#"{"config":{"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":2}}}"#,
        );
        let check = check.unwrap().unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "true"]);
        assert_eq!(
            (check.interval, check.timeout, check.retries),
            (Duration::from_secs(5), Duration::from_secs(30), 2)
        );
        for none in ["{}", r#"{"config":{}}"#, r#"{"config":{"Healthcheck":{"Test":["NONE"]}}}"#] {
            assert_eq!(image(none).unwrap(), None, "{none}");
        }
        for bad in [
            r#"{"Test":["CMD"]}"#,
            r#"{"Test":["CMD-SHELL","a","b"]}"#,
            r#"{"Test":["x"]}"#,
            r#"{"Test":7}"#,
            r#"{"Test":["CMD","a"],"Retries":-1}"#,
        ] {
            assert!(image(&format!(r#"{{"config":{{"Healthcheck":{bad}}}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_users_over_the_images() {
        let of_image =
            ImageCheck { test: vec!["CMD".into(), "a".into()], retries: 7, ..ImageCheck::default() };
        let options = HealthOptions {
            cmd: Some("b".into()),
            timeout: Some(Duration::from_secs(1)),
            ..HealthOptions::default()
        };
        let check = Check::of(Some(&of_image), &options).unwrap().unwrap();
        assert_eq!(
            (check.command[2].as_str(), check.timeout, check.retries),
            ("b", Duration::from_secs(1), 7)
        );
        let none = HealthOptions { no_healthcheck: true, ..HealthOptions::default() };
        assert_eq!(Check::of(Some(&of_image), &none).unwrap(), None);
    }

    #[test]
    fn dockers_rules() {
        let seconds = Duration::from_secs;
        let check = Check {
            command: vec![],
            interval: seconds(30),
            timeout: seconds(30),
            start_period: seconds(60),
            start_interval: seconds(5),
            retries: 2,
        };
        let start = Instant::now();
        let checked = |exit_code| Checked { start: 0, end: 0, exit_code, output: String::new() };
        let mut health = Health::new(check, start);
        assert_eq!(health.due(), Some(start + seconds(5)));
        health.begin();
        assert_eq!(health.due(), None);
        for _ in 0..9 {
            health.end(checked(1), start + seconds(10));
        }
        assert_eq!(
            (health.report.status, health.report.failing_streak),
            (Status::Starting, 0),
            "the start period"
        );
        assert_eq!(health.report.log.len(), KEPT);
        health.end(checked(0), start + seconds(20));
        assert_eq!(health.report.status, Status::Healthy);
        assert_eq!(health.due(), Some(start + seconds(50)), "it has started");
        health.end(checked(1), start + seconds(25));
        assert_eq!(
            (health.report.status, health.report.failing_streak),
            (Status::Healthy, 1),
            "it counts now"
        );
        health.end(checked(-1), start + seconds(26));
        assert_eq!(health.report.status, Status::Unhealthy);
        health.end(checked(0), start + seconds(27));
        assert_eq!((health.report.status, health.report.failing_streak), (Status::Healthy, 0));
    }
}
