//! A user namespace of the container's own. Words are podman's; docker has it for all containers of a daemon.

use anyhow::{Context, Result, bail};
use clap::Args;
use protocol::oci::IdMapping;

/// What [`Userns::Auto`] gives: IDs that no user of the VM's has, as many as images use.
const AUTO: IdMapping = IdMapping { container_id: 0, host_id: 100_000, size: 65_536 };

/// Who the container's users are in its VM; [`crate::spec`] reads them.
#[derive(Debug, Clone, Default, Args)]
pub struct UserNamespace {
    /// host: the container's users are the VM's; auto: they are others, without rights over it, as with --uidmap 0:100000:65536
    #[arg(long, value_name = "MODE", default_value = "host", value_parser = mode)]
    pub userns: Userns,

    /// A user namespace, in which SIZE users from CONTAINER on are the VM's from VM on; so are groups, unless --gidmap says
    /// otherwise (repeatable)
    #[arg(long, value_name = "CONTAINER:VM[:SIZE]", value_parser = mapping)]
    pub uidmap: Vec<IdMapping>,

    /// The same of groups (repeatable)
    #[arg(long, value_name = "CONTAINER:VM[:SIZE]", value_parser = mapping)]
    pub gidmap: Vec<IdMapping>,
}

/// Whether there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Userns {
    /// Not of itself.
    #[default]
    Host,
    /// There is.
    Auto,
}

impl UserNamespace {
    /// The mappings of users and of groups; none without a user namespace.
    ///
    /// # Errors
    /// It is asked for in two ways.
    pub fn mappings(&self) -> Result<Option<[Vec<IdMapping>; 2]>> {
        let (uids, gids) = (&self.uidmap, &self.gidmap);
        let or =
            |maps: &[IdMapping], others: &[IdMapping]| if maps.is_empty() { others } else { maps }.to_vec();
        match self.userns {
            Userns::Host if uids.is_empty() && gids.is_empty() => Ok(None),
            Userns::Host => Ok(Some([or(uids, gids), or(gids, uids)])),
            Userns::Auto if uids.is_empty() && gids.is_empty() => Ok(Some([vec![AUTO], vec![AUTO]])),
            Userns::Auto => {
                bail!("--userns auto chooses the IDs itself: leave it or --uidmap and --gidmap out")
            }
        }
    }
}

fn mode(text: &str) -> Result<Userns> {
    match text {
        "host" => Ok(Userns::Host),
        "auto" => Ok(Userns::Auto),
        _ => bail!("there are host and auto, and --uidmap"),
    }
}

fn mapping(text: &str) -> Result<IdMapping> {
    let number = |word: &str| {
        // A sign means something else to podman.
        let number = word.parse().ok().filter(|_| !word.starts_with('+'));
        number.with_context(|| format!("{word:?} in {text:?} is no ID"))
    };
    let numbers = text.split(':').map(number).collect::<Result<Vec<_>>>()?;
    let (container_id, host_id, size) = match numbers[..] {
        [container, host] => (container, host, 1),
        [container, host, size] => (container, host, size),
        _ => bail!("{text:?} is not CONTAINER:VM[:SIZE]"),
    };
    Ok(IdMapping { container_id, host_id, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        assert_eq!(mapping("0:100000:65536").unwrap(), map(0, 100_000, 65_536));
        assert_eq!(mapping("5:6").unwrap(), map(5, 6, 1));
        for bad in ["", "0", "0:", "0:1:2:3", "+0:1:2", "a:1:2", "0:4294967296", "0:1:-1"] {
            assert!(mapping(bad).is_err(), "{bad:?}");
        }
        for bad in ["keep-id", "nomap", "container:x", ""] {
            assert!(mode(bad).unwrap_err().to_string().contains("host and auto"), "{bad:?}");
        }
    }

    #[test]
    fn one_of_both_is_for_both() {
        let mut options = UserNamespace::default();
        assert_eq!(options.mappings().unwrap(), None);
        options.gidmap = vec![mapping("0:7").unwrap()];
        assert_eq!(options.mappings().unwrap(), Some([options.gidmap.clone(), options.gidmap.clone()]));
        options.uidmap = vec![mapping("0:8").unwrap()];
        assert_eq!(options.mappings().unwrap(), Some([options.uidmap.clone(), options.gidmap.clone()]));
        options.userns = Userns::Auto;
        assert!(options.mappings().is_err());
        options = UserNamespace { userns: Userns::Auto, ..UserNamespace::default() };
        assert_eq!(options.mappings().unwrap(), Some([vec![AUTO], vec![AUTO]]));
    }
}
