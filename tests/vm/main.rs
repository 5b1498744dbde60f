//! Tests that boot real containerVMs in QEMU, by the `vch` library as its command line uses it (and by the command line itself where
//! signals, terminals and exit statuses are the matter). They look at bytes, exit codes and what the guest's kernel says, never
//! at log lines.
//!
//! Run by `cargo xtask test`, which builds what is booted. A test that cannot run here is counted as ignored, and says why.
#![allow(missing_docs, reason = "the test's name says what it promises")]

mod background;
mod config;
mod control;
#[expect(dead_code, reason = "no layers that take long to list")]
#[path = "../conformance/corpus.rs"]
mod corpus;
mod corpus_in_a_vm;
mod end;
mod exec;
mod exec_cli;
mod exec_host;
mod failures;
mod fields;
mod harness;
#[expect(dead_code, reason = "no stacks here")]
#[path = "../conformance/host.rs"]
mod host;
mod images;
mod kernels;
mod layers;
mod lifecycle;
#[path = "../conformance/listing.rs"]
mod listing;
mod machines;
mod monitor;
mod network;
mod oci;
mod privileges;
mod reconnect;
mod signals;
mod stdio;
mod streams;
mod subpath;
mod templates;
mod terminal;
mod transports;
mod user_namespace;
mod verity;
mod volumes;

use harness::Test;

fn main() {
    let tests: Vec<Test> = [
        config::tests(),
        control::tests(),
        corpus_in_a_vm::tests(),
        end::tests(),
        exec::tests(),
        exec_cli::tests(),
        failures::tests(),
        fields::tests(),
        images::tests(),
        kernels::tests(),
        layers::tests(),
        lifecycle::tests(),
        machines::tests(),
        monitor::tests(),
        network::tests(),
        oci::tests(),
        privileges::tests(),
        reconnect::tests(),
        signals::tests(),
        stdio::tests(),
        streams::tests(),
        subpath::tests(),
        templates::tests(),
        terminal::tests(),
        transports::tests(),
        user_namespace::tests(),
        verity::tests(),
        volumes::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, tests.into_iter().map(Test::into_trial).collect()).exit();
}
