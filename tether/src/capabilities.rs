//! Linux capabilities, capabilities(7).

use crate::failure::{Context, Failure};
use crate::user::User;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use protocol::Stage::Config;
use protocol::oci::{CAPABILITIES, Capabilities};

/// A set of capabilities: bit n is the capability of number n.
fn set(field: &str, names: &[String]) -> Result<u64, Failure> {
    names.iter().try_fold(0, |set, name| {
        let number = CAPABILITIES.iter().position(|known| known == name).ok_or_else(|| {
            let message = format!("process.capabilities.{field}: there is no capability named {name:?}");
            Failure::new(Config, message)
        })?;
        Ok(set | 1 << number)
    })
}

/// Becomes `user` with these capabilities and no others.
pub fn become_user(user: &User, capabilities: &Capabilities) -> Result<(), Failure> {
    let bounding = set("bounding", &capabilities.bounding)?;
    let effective = set("effective", &capabilities.effective)?;
    let permitted = set("permitted", &capabilities.permitted)?;
    let inheritable = set("inheritable", &capabilities.inheritable)?;
    let ambient = set("ambient", &capabilities.ambient)?;
    drop_bounding(bounding)?;
    nix::sys::prctl::set_keepcaps(true).at(Config, || "keeping capabilities over the change of user")?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&groups).at(Config, || format!("setting the groups {groups:?}"))?;
    setresgid(gid, gid, gid).at(Config, || format!("becoming group {gid}"))?;
    setresuid(uid, uid, uid).at(Config, || format!("becoming user {uid}"))?;
    nix::sys::prctl::set_keepcaps(false).at(Config, || "keeping capabilities no longer")?;
    set_own(effective, permitted, inheritable).at(Config, || "setting process.capabilities")?;
    const RAISE: libc::c_ulong = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
    for number in bits(ambient) {
        prctl(libc::PR_CAP_AMBIENT, RAISE, number)
            .at(Config, || format!("raising capability {number} of process.capabilities.ambient"))?;
    }
    Ok(())
}

/// Gives up the effective and permitted capabilities that are not ambient.
pub fn keep_ambient_only(capabilities: Option<&Capabilities>) -> Result<(), Failure> {
    let Some(capabilities) = capabilities else { return Ok(()) };
    let ambient = set("ambient", &capabilities.ambient)?;
    let inheritable = set("inheritable", &capabilities.inheritable)?;
    set_own(ambient, ambient, inheritable).at(Config, || "giving up capabilities")
}

fn bits(set: u64) -> impl Iterator<Item = libc::c_ulong> {
    (0..64).filter(move |number| set & (1 << number) != 0)
}

fn drop_bounding(keep: u64) -> Result<(), Failure> {
    for number in bits(!keep) {
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break, // above the kernel's last capability
            Err(errno) => {
                let what = format!("dropping capability {number} from the bounding set");
                return Err(Failure::system(Config, what, errno));
            }
        }
    }
    Ok(())
}

fn prctl(option: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> nix::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the two options used here take only integers (prctl(2)).
    let result = unsafe { libc::prctl(option, second, third, zero, zero) };
    Errno::result(result).map(drop)
}

/// capset(2) on the calling process.
fn set_own(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let half = |set: u64, shift: u32| u32::try_from(set >> shift & 0xffff_ffff).unwrap_or(0);
    let data = [0, 32].map(|shift| [effective, permitted, inheritable].map(|set| half(set, shift)));
    // SAFETY: version 3 wants a header of two and data of two times three u32, which both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bits() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = set("bounding", &names(&["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]));
        assert_eq!(all.ok(), Some(1 | 1 << 40));
        let unknown = set("ambient", &names(&["CHOWN"])).err().map(|failure| failure.0.message);
        assert_eq!(
            unknown.as_deref(),
            Some("process.capabilities.ambient: there is no capability named \"CHOWN\"")
        );
    }

    #[test]
    fn bits_are_numbers() {
        assert_eq!(bits(1 | 1 << 40).collect::<Vec<_>>(), [0, 40]);
    }
}
