//! Where the machine spec comes from: the channel, fw_cfg, a config disk, or VMware's guestinfo.
//!
//! Which one it is says the kernel's command line, `containervm.spec=channel|fw-cfg|disk|guestinfo`. Where it says nothing, as on a CD,
//! fw_cfg and guestinfo are asked first, for they know at once; and then comes whichever is the first: a host's word, or, where the
//! channel is a UART, a disk. Wherever it comes from, the channel carries the container's streams and its end; whoever attaches
//! finds all of it there, however late.

mod config_disk;
mod fw_cfg;
mod guestinfo;

use crate::channel::Channel;
use crate::failure::{Context, Failure};
use crate::uevents::{self, DEADLINE, Uevents};
use protocol::{MachineSpec, SPEC_VERSION, Seed, Stage, Start, Stored, ToGuest};
use std::fs;

/// How the command line says which source it is.
const PARAMETER: &str = "containervm.spec=";

/// Something that may have a machine spec.
pub trait Source {
    /// For people.
    fn name(&self) -> &'static str;

    /// The document ([`Stored`]), if it has one now.
    fn read(&mut self) -> Result<Option<Vec<u8>>, Failure>;
}

/// What to run, as far as its source knows.
pub struct Order {
    /// What.
    pub machine: MachineSpec,
    /// Whether the host will send stdin.
    pub stdin: bool,
    /// The time, and random numbers: from the channel. Else they come later, if a host does.
    pub moment: Option<(u64, Seed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Channel,
    FwCfg,
    Disk,
    GuestInfo,
}

/// Waits until it is known what to run.
pub fn receive(channel: &mut Channel) -> Result<Order, Failure> {
    let parameters = fs::read_to_string("/proc/cmdline").at(Stage::Spec, || "reading /proc/cmdline")?;
    match named(&parameters)? {
        Some(Choice::Channel) => from_channel(channel, None),
        Some(Choice::FwCfg) => wanted(&mut fw_cfg::FwCfg::of_this_machine()?),
        Some(Choice::GuestInfo) => wanted(&mut guestinfo::of_this_machine()),
        Some(Choice::Disk) => {
            let mut disks = config_disk::ConfigDisk::default();
            let document = uevents::wait_for(|| disks.read())?;
            document.map_or_else(|| Err(none(&disks)), |document| parse(&disks, &document))
        }
        None => by_what_is_there(channel),
    }
}

fn named(parameters: &str) -> Result<Option<Choice>, Failure> {
    let Some(name) = parameters.split_ascii_whitespace().find_map(|word| word.strip_prefix(PARAMETER)) else {
        return Ok(None);
    };
    match name {
        "channel" => Ok(Some(Choice::Channel)),
        "fw-cfg" => Ok(Some(Choice::FwCfg)),
        "disk" => Ok(Some(Choice::Disk)),
        "guestinfo" => Ok(Some(Choice::GuestInfo)),
        _ => Err(Failure::new(
            Stage::Spec,
            format!(
                "{PARAMETER}{name} on the kernel's command line: it can be channel, fw-cfg, disk or guestinfo"
            ),
        )),
    }
}

fn by_what_is_there(channel: &mut Channel) -> Result<Order, Failure> {
    let mut fw_cfg = fw_cfg::FwCfg::of_this_machine()?;
    let mut guestinfo = guestinfo::of_this_machine();
    let sources: [&mut dyn Source; 2] = [&mut fw_cfg, &mut guestinfo];
    for source in sources {
        if let Some(document) = source.read()? {
            return parse(source, &document);
        }
    }
    let mut disks = config_disk::ConfigDisk::default();
    let is_uart = channel.is_uart();
    from_channel(channel, is_uart.then_some(&mut disks as &mut dyn Source))
}

/// A source that has to have it.
fn wanted(source: &mut dyn Source) -> Result<Order, Failure> {
    let document = source.read()?;
    document.map_or_else(|| Err(none(source)), |document| parse(source, &document))
}

fn none(source: &dyn Source) -> Failure {
    let name = source.name();
    Failure::new(
        Stage::Spec,
        format!("there is no machine spec: {name} has none, within {} s", DEADLINE.as_secs()),
    )
}

fn parse(source: &dyn Source, document: &[u8]) -> Result<Order, Failure> {
    let stored: Stored = serde_json::from_slice(document).map_err(|error| {
        Failure::new(Stage::Spec, format!("the machine spec of {}: {error}", source.name()))
    })?;
    known(&stored.machine)?;
    Ok(Order { machine: stored.machine, stdin: stored.stdin, moment: None })
}

fn known(machine: &MachineSpec) -> Result<(), Failure> {
    if machine.version == SPEC_VERSION {
        return Ok(());
    }
    let version = machine.version;
    Err(Failure::new(
        Stage::Spec,
        format!("machine spec version {version}: this tether knows version {SPEC_VERSION}"),
    ))
}

/// What the host says; unless `other`, which is asked again whenever a device comes, has something to say before.
fn from_channel(channel: &mut Channel, mut other: Option<&mut dyn Source>) -> Result<Order, Failure> {
    let events = other.as_ref().map(|_| Uevents::open()).transpose()?;
    loop {
        if let (Some(events), Some(other)) = (&events, &mut other) {
            events.drain();
            if let Some(document) = other.read()? {
                return parse(&**other, &document);
            }
        }
        match channel.next_message(events.as_ref())? {
            None => {}
            Some(ToGuest::Start(start)) => {
                let Start { machine, time, seed, stdin } = *start;
                known(&machine)?;
                return Ok(Order { machine, stdin, moment: Some((time, seed)) });
            }
            Some(ToGuest::Exec(exec)) => {
                let why = Failure::new(Stage::Run, "the container does not run yet");
                channel.refuse(exec.session, why)?;
            }
            // Said anew by a host that comes back; the start has newer ones.
            Some(ToGuest::Clock(_) | ToGuest::Seed(_) | ToGuest::Stats) => {}
            // Not what it was: to write any message out takes 1/20 of tether.
            Some(_) => {
                return Err(Failure::new(Stage::Spec, "expected a start message, got another one"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No source.
    struct Nothing;

    impl Source for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }

        fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
            Ok(None)
        }
    }

    #[test]
    fn the_command_line_names_it() {
        assert_eq!(named("console=ttyS0 containervm.channel=vsock quiet\n").unwrap(), None);
        for (name, choice) in [
            ("channel", Choice::Channel),
            ("fw-cfg", Choice::FwCfg),
            ("disk", Choice::Disk),
            ("guestinfo", Choice::GuestInfo),
        ] {
            assert_eq!(named(&format!("quiet containervm.spec={name}\n")).unwrap(), Some(choice));
        }
        let failure = named("containervm.spec=cdrom").err().unwrap();
        assert!(failure.to_string().contains("spec=cdrom"), "{failure}");
    }

    #[test]
    fn bad_documents_are_failures_that_name_the_source() {
        for (document, part) in [
            (&b""[..], "EOF"),
            (b"\xff\xfe", "expected value"),
            (b"{}", "machine"),
            (br#"{"machine":{},"more":1}"#, ""),
            (b"[[[[", ""),
        ] {
            let failure = parse(&Nothing, document).err().unwrap();
            assert_eq!(failure.0.stage, Stage::Spec);
            let text = failure.to_string();
            assert!(text.contains("machine spec of nothing") && text.contains(part), "{text}");
        }
        assert!(wanted(&mut Nothing).err().unwrap().to_string().contains("nothing has none"));
    }
}
