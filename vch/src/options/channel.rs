//! How the guest is spoken to.

use anyhow::Result;
use clap::Args;

use crate::transport::{Channel, Transport, Vhost, vsock};

/// Options for the channel.
#[derive(Debug, Clone, Copy, Args)]
pub struct ChannelOptions {
    /// How the guest is spoken to; virtio-serial by default, but serial with --machine vmware; vsock needs /dev/vhost-vsock, or the program vhost-device-vsock
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub channel: Option<Channel>,

    /// Who has the host's end of a vsock: the kernel where it can, else the program vhost-device-vsock
    #[arg(long, value_enum, value_name = "WHO", hide = true)]
    pub vhost: Option<Vhost>,
}

impl ChannelOptions {
    /// Chooses what the host has for `channel`.
    ///
    /// # Errors
    /// It has nothing for vsock.
    pub fn transport(self, channel: Channel) -> Result<Transport> {
        Ok(match channel {
            Channel::VirtioSerial => Transport::VirtioSerial,
            Channel::Serial => Transport::Serial,
            Channel::Vsock => {
                let vhost = match self.vhost {
                    Some(vhost) => vhost.check().map(|()| vhost)?,
                    None => Vhost::find()?,
                };
                Transport::Vsock { cid: vsock::cid()?, vhost }
            }
        })
    }
}
