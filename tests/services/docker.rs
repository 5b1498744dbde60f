//! Docker's engine in a privileged containerVM, and a container in that, reached from the host: what needs rights over a kernel has
//! its own.

use crate::debian;
use crate::harness::Test;
use crate::service::{Service, patiently};
use crate::tests;
use anyhow::{Result, ensure};
use oci_spec::image::ConfigBuilder;

/// As docker's own image of it begins: an engine makes cgroups, so nobody may be in the one that it has got (cgroup-v2.rst, "No
/// Internal Process Constraint").
const ENGINE: &str = "mkdir /sys/fs/cgroup/init
    xargs -rn1 < /sys/fs/cgroup/cgroup.procs > /sys/fs/cgroup/init/cgroup.procs
    sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
    exec dockerd --log-level warn";
/// An image for the inner container.
const IMPORT: &str = "mkdir -p /tmp/root/bin && cp /bin/busybox /tmp/root/bin/ && echo from the innermost > /tmp/root/index.html &&
    tar -C /tmp/root -c . | docker import - inner";

pub fn tests() -> Vec<Test> {
    tests![an_engine_in_a_container]
}

fn an_engine_in_a_container() -> Result<()> {
    let config = ConfigBuilder::default()
        .exposed_ports(vec!["80/tcp".to_owned()])
        // Its overlays cannot have an overlay below them.
        .volumes(vec!["/var/lib/docker".to_owned()])
        .entrypoint(["sh", "-c", ENGINE].map(str::to_owned).to_vec())
        .build()?;
    let image = debian::image("docker.io,busybox-static", config)?;
    let engine = Service::start("docker", &["-m", "1g", "-P", "--privileged"], &image, &[])?;
    let driver = ["docker", "info", "--format", "{{.Driver}} with cgroup {{.CgroupVersion}}"];
    engine.until(&[], &driver, "overlay2 with cgroup 2")?;
    engine.exec(&[], &["sh", "-c", IMPORT])?;
    let run = "docker run -d --name web -p 80:80 --memory 64m --cpus 0.5 inner busybox httpd -f -h / -p 80";
    engine.exec(&[], &run.split(' ').collect::<Vec<_>>())?;
    patiently(|| {
        let answer = engine.ask(80, b"GET / HTTP/1.0\r\n\r\n", 15)?;
        ensure!(answer.ends_with(" 200 OK"), "{answer:?}");
        Ok(())
    })?;
    let limits = "docker exec web busybox cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /index.html";
    let limits = engine.exec(&[], &limits.split(' ').collect::<Vec<_>>())?;
    ensure!(limits == "67108864\n50000 100000\nfrom the innermost\n", "{limits:?}");
    engine.exec(&[], &["docker", "rm", "-f", "web"])?;
    ensure!(engine.stop()? == "0\n", "SIGTERM ends it");
    Ok(())
}
