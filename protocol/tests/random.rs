//! Both ends of the channel on lines that cut, lose, double and change: what arrives is what was sent, exactly once and in
//! order, every run ends, and memory is bounded. See `world`.

mod world;

use world::{Seen, World};

/// So many runs; `SEEDS=from..to` for others.
const RUNS: u64 = 2000;

fn runs(checked: bool) -> Seen {
    let wish = std::env::var("SEEDS").unwrap_or_default();
    let wish = wish.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let (from, to) = wish.unwrap_or((0, RUNS));
    let mut seen = Seen::default();
    for seed in from..to {
        World::new(seed, checked).run(&mut seen);
    }
    println!("{seen:?}");
    seen
}

#[test]
fn a_line_that_comes_and_goes_loses_nothing_and_doubles_nothing() {
    let seen = runs(false);
    assert!(seen.cuts > 1000 && seen.kills > 300 && seen.sessions > 1000, "{seen:?}");
}

#[test]
fn nor_does_a_line_that_also_loses_doubles_and_changes_bytes() {
    let seen = runs(true);
    assert!(seen.damages > 1000 && seen.resyncs > 1000, "{seen:?}");
}
