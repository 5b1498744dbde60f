//! `vch port`: which ports of the host lead to a container.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;

use super::Store;
use crate::network::publish::{self, Port};

/// Options of `vch port`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name, ID or the first digits of it
    container: String,

    /// Only those that lead to this port of the container
    #[arg(value_name = "PORT[/udp]", value_parser = publish::exposed)]
    port: Option<(publish::Transport, u16, u16)>,

    #[command(flatten)]
    store: Store,
}

/// Lists them.
///
/// # Errors
/// There is no such container; nothing leads to the port.
pub fn run(options: &Options) -> Result<u8> {
    let container = options.store.container(&options.container)?;
    let ports = &container.record.ports;
    let text: String = match options.port {
        None => ports
            .iter()
            .map(|Port { ip, host, container, transport }| {
                format!("{container}/{transport} -> {ip}:{host}\n")
            })
            .collect(),
        Some((transport, first, last)) => {
            let wanted =
                |port: &&Port| port.transport == transport && (first..=last).contains(&port.container);
            ports.iter().filter(wanted).map(|Port { ip, host, .. }| format!("{ip}:{host}\n")).collect()
        }
    };
    if text.is_empty() && options.port.is_some() {
        bail!("nothing leads to that port of {}", container.record.name);
    }
    // Nobody reads any more: no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}
