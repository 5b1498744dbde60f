//! What `vch run` is told of health: docker's options.

use std::time::Duration;

use clap::Args;

use crate::duration;

/// How to find out whether the container is well. What is not given is the image's.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthOptions {
    /// Run this line by the container's shell to check its health
    #[arg(long = "health-cmd", value_name = "LINE")]
    pub cmd: Option<String>,

    /// Time between two checks; 30s by default
    #[arg(long = "health-interval", value_name = "TIME", value_parser = duration::parse)]
    pub interval: Option<Duration>,

    /// Time that a check may take; 30s by default
    #[arg(long = "health-timeout", value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,

    /// Time after the start in which failures do not count
    #[arg(long = "health-start-period", value_name = "TIME", value_parser = duration::parse)]
    pub start_period: Option<Duration>,

    /// Time between two checks in that time; 5s by default
    #[arg(long = "health-start-interval", value_name = "TIME", value_parser = duration::parse)]
    pub start_interval: Option<Duration>,

    /// Failures in a row that make it unhealthy; 3 by default
    #[arg(long = "health-retries", value_name = "N")]
    pub retries: Option<u32>,

    /// No checks, whatever the image says
    #[arg(long, conflicts_with_all = ["cmd", "interval", "timeout", "start_period", "start_interval", "retries"])]
    pub no_healthcheck: bool,
}
