//! What `vch run` is told of volumes and of the host's folders.

use clap::Args;

use super::value::whole;
use crate::volumes::{self, Mount};

/// Volumes, and folders of the host.
#[derive(Debug, Clone, Default, Args)]
pub struct VolumeOptions {
    /// Mount a volume, which is made if there is none of that name, or a folder of the host's (/DIR or ./DIR); without a source,
    /// a volume that goes with the container. Options: ro, nocopy (repeatable)
    #[arg(short = 'v', long = "volume", value_name = "[SOURCE:]PATH[:OPTIONS]", value_parser = whole(volumes::parse::volume))]
    pub volume: Vec<Mount>,

    /// The same in words: `type=volume|bind|tmpfs,source=NAME|DIR,target=PATH`, and `readonly` `volume-nocopy` `volume-subpath=FOLDER` `volume-opt=size=SIZE`
    /// `volume-label=NAME=VALUE` `tmpfs-size=SIZE` `tmpfs-mode=MODE`; `volume-driver=nfs` with `volume-opt=device=HOST:/PATH` and
    /// `volume-opt=o=OPTIONS` is a folder of an NFS server (repeatable)
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = whole(volumes::parse::mount))]
    pub mount: Vec<Mount>,
}

impl VolumeOptions {
    /// All of them.
    pub fn all(&self) -> Vec<Mount> {
        self.volume.iter().chain(&self.mount).cloned().collect()
    }
}
