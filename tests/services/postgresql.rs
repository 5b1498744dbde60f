//! PostgreSQL: a new database on a volume; what is committed is there after an orderly end, and after the VM was killed.

use crate::debian;
use crate::harness::Test;
use crate::service::{Service, Volume, said};
use crate::tests;
use anyhow::{Result, ensure};
use oci_spec::image::ConfigBuilder;

pub fn tests() -> Vec<Test> {
    tests![tables_stay]
}

/// What the official image's entrypoint does, in short.
const ENTRYPOINT: &str = "\
set -e
[ -s data/PG_VERSION ] || { initdb -D data --auth=trust --no-sync; sync; }
exec postgres -D data -k /tmp -c listen_addresses='*' -c jit=off";

fn tables_stay() -> Result<()> {
    let config = ConfigBuilder::default()
        .user("postgres")
        .env(["PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin", "PGHOST=/tmp"].map(str::to_owned).to_vec())
        .working_dir("/var/lib/postgresql")
        .stop_signal("SIGINT") // fast: open sessions are ended
        .exposed_ports(vec!["5432/tcp".to_owned()])
        .volumes(vec!["/var/lib/postgresql".to_owned()])
        .entrypoint(["sh", "-c", ENTRYPOINT].map(str::to_owned).to_vec())
        .build()?;
    let image = debian::image("postgresql", config)?;
    let data = Volume::create("postgresql")?;
    let start = |round: &str| {
        let at = format!("{}:/var/lib/postgresql", data.0);
        let options = ["-m", "384m", "-P", "-v", &at, "--shm-size", "64m"];
        let service = Service::start(&format!("postgresql-{round}"), &options, &image, &[])?;
        service.until(&[], &["pg_isready"], "accepting connections")?;
        Ok::<_, anyhow::Error>(service)
    };
    let query = |service: &Service, text: &str| service.exec(&[], &["psql", "-Atqc", text]);

    let first = start("first")?;
    query(&first, "create table word (id serial primary key, text text)")?;
    query(&first, "insert into word (text) select md5(n::text) from generate_series(1, 1000) n")?;
    // SSLRequest (PostgreSQL's documentation, "Message Formats"): one byte, S or N.
    let tls = first.ask(5432, &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f], 1)?;
    ensure!(tls == "N" || tls == "S", "{tls:?}");
    ensure!(first.stop()? == "0\n", "SIGINT ends it in order");

    let second = start("second")?;
    ensure!(query(&second, "select count(*), max(id) from word")? == "1000|1000\n", "{}", second.log());
    query(&second, "insert into word (text) values ('committed')")?;
    said(&["kill", &second.name])?;
    ensure!(said(&["wait", &second.name])? == "137\n", "killed");
    drop(second);

    let third = start("third")?;
    ensure!(query(&third, "select text from word where id > 1000")? == "committed\n", "{}", third.log());
    Ok(())
}
