//! tether: PID 1 of every containerVM.
//!
//! It loads the few modules that the machine needs, opens the channel to the host, is told what to run,
//! stacks the layer disks into a root filesystem, executes the container's process with what its OCI config asks for,
//! relays stdio and the exit status, unmounts and powers off. One thread, one epoll loop. Whatever goes
//! wrong ends in a typed report to the host and in power-off, never in a panic of the kernel.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod attributes;
mod boot;
mod bounded;
mod capabilities;
mod cgroup;
mod channel;
mod check;
mod device_filter;
mod device_mapper;
mod devices;
mod disks;
mod entropy;
mod failure;
mod kernel_log;
mod line;
mod lsm;
mod modules;
mod mount_options;
mod mounts;
mod namespaces;
mod network;
mod power;
mod process;
mod relay;
mod resources;
mod root;
mod sandbox;
mod scheduling;
mod seccomp;
mod spec_source;
mod statistics;
mod stdio;
mod template;
mod timeline;
mod uevents;
#[cfg(all(target_env = "musl", panic = "abort"))]
mod unwinding;
mod user;
mod user_namespace;
mod verity;
mod volumes;

use channel::Channel;
use failure::Failure;
use network::Network;
use protocol::oci::Capabilities;
use protocol::{MachineSpec, ToHost};
use relay::Relay;
use spec_source::Order;
use timeline::Timeline;
use user_namespace::UserNamespace;
use verity::Verity;
use volumes::Volumes;
use volumes::nfs::Exports;

fn main() {
    power::off_on_panic();
    let mut timeline = Timeline::default();
    timeline.step("tether");
    match boot_and_connect(&mut timeline) {
        Ok(mut channel) => {
            if let Err(failure) = serve(&mut channel, &mut timeline) {
                // First to where it surely arrives: the container may have stopped the console.
                channel.say_last(&ToHost::Failed(failure.0.clone()));
                power::say(&failure.to_string());
                power::sync();
            }
        }
        Err(failure) => power::say(&failure.to_string()),
    }
    power::off();
}

/// Everything that does not depend on what is to be run. (A machine can be frozen after this and
/// thawed as another: nothing here may be unique to one.)
fn boot_and_connect(timeline: &mut Timeline) -> Result<Channel, Failure> {
    boot::leave_the_initramfs()?;
    scheduling::go_first()?;
    let events = uevents::Uevents::open()?;
    modules::load_always()?;
    timeline.step("modules");
    boot::bring_loopback_up()?;
    let restored = template::is_wanted()?;
    if restored {
        template::prepare()?;
        timeline.step("template");
    }
    let mut channel = Channel::open(&events)?;
    channel.send(&ToHost::Ready {
        tether: env!("CARGO_PKG_VERSION").into(),
        timeline: timeline.take("channel"),
        restored,
    })?;
    Ok(channel)
}

/// Runs the one container that this machine is for.
fn serve(channel: &mut Channel, timeline: &mut Timeline) -> Result<(), Failure> {
    let Order { mut machine, stdin, moment } = spec_source::receive(channel)?;
    timeline.step("spec");
    // Before anything is drawn, or told the time: of a copied machine, each copy had the same of both until now.
    if let Some((time, seed)) = &moment {
        entropy::mix_in(seed)?;
        timeline::set_clock(*time)?;
    }
    if template::is_wanted()? {
        template::take_devices(&machine)?;
        timeline.step("devices");
    }
    if verity::is_wanted(&machine.disks.layers) {
        modules::load_verity()?;
        timeline.step("verity modules");
    }
    if !machine.shares.is_empty() {
        modules::load_virtiofs()?;
        timeline.step("virtiofs modules");
    }
    if !machine.nfs.is_empty() {
        modules::load_nfs()?;
        timeline.step("NFS modules");
    }
    if !machine.network.nics.is_empty() {
        network::load_modules(&machine)?;
        timeline.step("network modules");
    }
    let mut network = Network::begin(&machine)?;
    timeline.step("network");
    devices::add_the_machines(&mut machine)?;
    let mut disks = disks::find(&machine.disks, &machine.volumes)?;
    timeline.step("disks");
    let mut verity = Verity::open(&machine.disks.layers, &mut disks.layers)?;
    let outcome = run(channel, timeline, &machine, stdin, &disks, &mut verity, &mut network);
    network.release();
    if let Some(verity) = &mut verity {
        verity.tell(channel)?; // it may be why
    }
    outcome?;
    // The host may end the machine when it hears of that.
    if keeps_anything(&machine) {
        power::sync();
    }
    channel.say_last(&ToHost::Stopped { timeline: timeline.take("unmounted") });
    Ok(())
}

/// Whether anything that outlives the machine may have been written to: also by a container that may mount what nobody has told us of.
fn keeps_anything(machine: &MachineSpec) -> bool {
    let MachineSpec { config, disks, volumes, shares, nfs, .. } = machine;
    let told = !disks.ephemeral || !volumes.is_empty() || !shares.is_empty() || !nfs.is_empty();
    let may_mount =
        |capabilities: &Capabilities| capabilities.bounding.iter().any(|name| name == "CAP_SYS_ADMIN");
    told || config.process.capabilities.as_ref().is_none_or(may_mount)
}

/// From the disks to the disks: when it returns, all processes have ended, and what outlives the machine is written and unmounted.
fn run(
    channel: &mut Channel,
    timeline: &mut Timeline,
    machine: &MachineSpec,
    stdin: bool,
    disks: &disks::Disks,
    verity: &mut Option<Verity>,
    network: &mut Network,
) -> Result<(), Failure> {
    check::container(&machine.config)?;
    let user = UserNamespace::create(&machine.config)?;
    let mapped = user.as_ref().filter(|_| machine.idmapped);
    let root = root::Root::assemble(disks, mapped)?;
    timeline.step("root");
    let volumes = Volumes::mount(machine, &disks.volumes, mapped)?;
    let cgroup = cgroup::Cgroup::create(&machine.config)?;
    let mut exports = Exports::default();
    let outcome = network.finish(machine).and_then(|()| {
        exports.mount(machine)?;
        let deaths = process::watch_for_deaths()?;
        let process = process::start(machine, stdin, &cgroup, user.as_ref())?;
        let relay = Relay::new(channel, machine, &cgroup, verity, timeline, deaths, process)?;
        relay.with_network(network).with_exports(&exports).run()
    });
    // However it went: a disk is unmounted only when the last process that sees it is gone.
    let ended = process::end_all(&cgroup, &exports);
    let unmounted = exports.unmount().and(volumes.unmount());
    let cleaned = ended.and_then(|()| match machine.disks.ephemeral {
        true => Ok(()),
        false => root.disassemble(),
    });
    outcome.and(unmounted).and(cleaned)
}
