//! Redis: values over the network, and back after an end and a new start.

use crate::debian;
use crate::harness::Test;
use crate::service::{Service, Volume, patiently};
use crate::tests;
use anyhow::{Result, ensure};
use oci_spec::image::ConfigBuilder;

pub fn tests() -> Vec<Test> {
    tests![values_stay]
}

fn values_stay() -> Result<()> {
    let config = ConfigBuilder::default()
        .user("redis")
        .exposed_ports(vec!["6379/tcp".to_owned()])
        .volumes(vec!["/var/lib/redis".to_owned()])
        .working_dir("/var/lib/redis")
        .entrypoint(vec!["redis-server".to_owned()])
        .cmd(
            ["--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis"]
                .map(str::to_owned)
                .to_vec(),
        )
        .build()?;
    let image = debian::image("redis-server", config)?;
    let data = Volume::create("redis")?;
    let start = || {
        let at = format!("{}:/var/lib/redis", data.0);
        let service = Service::start("redis", &["-m", "192m", "-P", "-v", &at], &image, &[])?;
        patiently(|| {
            let answer = service.ask(6379, b"PING\r\n", 7)?;
            ensure!(answer == "+PONG\r\n", "{answer:?}");
            Ok(())
        })?;
        Ok::<_, anyhow::Error>(service)
    };
    let service = start()?;
    let set = service.ask(6379, b"SET what \"the word\"\r\n", 5)?;
    ensure!(set == "+OK\r\n", "{set:?}");
    // Thousands more, by its own load generator over the guest's loopback.
    service.exec(&[], &["redis-benchmark", "-q", "-n", "5000", "-r", "100000", "-t", "set"])?;
    let owner = service.exec(&["-u", "0"], &["stat", "-c", "%U", "/var/lib/redis"])?;
    ensure!(owner == "redis\n", "the volume is {owner:?}'s");
    ensure!(service.stop()? == "0\n", "SIGTERM saves, and ends it");
    let service = start()?;
    let got = service.ask(6379, b"GET what\r\n", 14)?;
    ensure!(got == "$8\r\nthe word\r\n", "{got:?}, {}", service.log());
    Ok(())
}
