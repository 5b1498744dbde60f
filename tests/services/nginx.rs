//! nginx: pages over the network, to many at once; a new config by SIGHUP; a graceful end.

use crate::debian;
use crate::harness::Test;
use crate::service::{Service, patiently, said};
use crate::tests;
use anyhow::{Context, Result, ensure};
use oci_spec::image::ConfigBuilder;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

pub fn tests() -> Vec<Test> {
    tests![pages]
}

/// Bytes of the large page.
const LARGE: usize = 10 << 20;

fn pages() -> Result<()> {
    let config = ConfigBuilder::default()
        .exposed_ports(vec!["80/tcp".to_owned()])
        .stop_signal("SIGQUIT")
        .cmd(["nginx", "-g", "daemon off; error_log stderr;"].map(str::to_owned).to_vec())
        .build()?;
    let image = debian::image("nginx-light", config)?;
    let service = Service::start("nginx", &["-m", "192m", "-p", "127.0.0.1::80"], &image, &[])?;
    serves(&service).with_context(|| service.log())?;
    ensure!(service.stop()? == "0\n", "SIGQUIT ends it gracefully");
    Ok(())
}

fn serves(service: &Service) -> Result<()> {
    let welcome = patiently(|| page(service, "/", 1)).context("the first page")?.concat();
    ensure!(String::from_utf8_lossy(&welcome).contains("nginx"), "{}", String::from_utf8_lossy(&welcome));

    service.exec(&[], &["sh", "-c", &format!("head -c {LARGE} /dev/urandom > /var/www/html/large")])?;
    let sum = service.exec(&[], &["sha256sum", "/var/www/html/large"])?;
    let large = page(service, "/large", 1).context("the large page")?.concat();
    let ours: String = Sha256::digest(&large).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(large.len() == LARGE && sum.starts_with(&ours), "{} bytes, {ours}, not {sum}", large.len());

    std::thread::scope(|scope| {
        let users: Vec<_> = (0..8).map(|_| scope.spawn(|| page(service, "/", 25))).collect();
        for user in users {
            let pages = user.join().map_err(|_| anyhow::anyhow!("a user panicked"))?;
            let pages = pages.context("one of 8 users at once")?;
            ensure!(pages.iter().all(|page| *page == welcome), "not every page is the same");
        }
        anyhow::Ok(())
    })?;

    let site = "server { listen 80 default_server; location / { return 200 changed; } }";
    service.exec(&[], &["sh", "-c", &format!("echo '{site}' > /etc/nginx/sites-enabled/default")])?;
    said(&["kill", "-s", "HUP", &service.name])?;
    patiently(|| {
        let page = page(service, "/", 1)?.concat();
        ensure!(page == b"changed", "{}", String::from_utf8_lossy(&page));
        Ok(())
    })
    .context("the page after SIGHUP")
}

/// Asks for the same page so many times on one connection.
fn page(service: &Service, path: &str, times: usize) -> Result<Vec<Vec<u8>>> {
    let mut stream = BufReader::new(service.connect(80)?);
    let mut pages = vec![];
    for number in 0..times {
        pages.push(next_page(&mut stream, path).with_context(|| format!("{number} pages came"))?);
    }
    Ok(pages)
}

fn next_page(stream: &mut BufReader<TcpStream>, path: &str) -> Result<Vec<u8>> {
    write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status)?;
    ensure!(status.starts_with("HTTP/1.1 200"), "{status:?}");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut page = vec![0; length];
    stream.read_exact(&mut page)?;
    Ok(page)
}
