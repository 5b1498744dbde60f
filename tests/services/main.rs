//! Real services in containerVMs, out of Debian's own packages: a database, a cache, a web server, a container engine, a script with children. They
//! are used as their users would: by the command line, over published ports, with their data on volumes. And a server of files, for
//! containers' volumes.
//!
//! Run by `cargo xtask test --services`. Images are made by mmdebstrap, once, and kept under target/tests/services.
#![allow(missing_docs, reason = "the test's name says what it promises")]

mod children;
mod debian;
mod docker;
#[expect(dead_code, reason = "nothing is run by the library's parts here")]
#[path = "../vm/harness.rs"]
mod harness;
mod nfs;
mod nginx;
mod postgresql;
mod redis;
mod service;

use harness::Test;

fn main() {
    let tests: Vec<Test> = [
        children::tests(),
        docker::tests(),
        nfs::tests(),
        nginx::tests(),
        postgresql::tests(),
        redis::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, tests.into_iter().map(Test::into_trial).collect()).exit();
}
