//! What the linker leaves out of tether.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=linker.ld");
    // The release profile's panics abort; CARGO_CFG_PANIC does not tell.
    if var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("musl") || var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let folder = var("CARGO_MANIFEST_DIR").unwrap_or_default();
    // Relocations of a position-independent program as a bitmap, which musl 1.2.4 and later read: 1/10 of their size.
    for argument in ["--no-eh-frame-hdr", "-zpack-relative-relocs", &format!("-T{folder}/linker.ld")] {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
