//! How far the layers are, on stderr: bars on a terminal, a line for each layer that is done elsewhere, or JSON lines.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use image_builder::image::Layer;
use image_builder::store::Event;
use serde_json::{Value, json};

use super::human::bytes;
use super::{put, say};

/// Time between two pictures on a terminal.
const REFRESH: Duration = Duration::from_millis(100);
/// Time between two JSON lines of a layer under way.
const JSON_REFRESH: Duration = Duration::from_secs(1);
/// Width of a bar.
const BAR: usize = 30;

/// The layers of one image.
pub struct Progress {
    style: Style,
    layers: Vec<State>,
    last: Instant,
    /// Lines on the terminal that the next picture takes the place of.
    drawn: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    None,
    Bars,
    Lines,
    Json,
}

struct State {
    /// The diffID.
    name: String,
    bytes: Option<(u64, Option<u64>)>,
    done: bool,
}

impl Progress {
    /// For these layers.
    pub fn new(json: bool, quiet: bool, layers: &[Layer]) -> Self {
        let style = match (quiet, json, std::io::stderr().is_terminal()) {
            (true, ..) => Style::None,
            (_, true, _) => Style::Json,
            (.., true) => Style::Bars,
            _ => Style::Lines,
        };
        let state = |layer: &Layer| State { name: layer.diff_id.to_string(), bytes: None, done: false };
        Self { style, layers: layers.iter().map(state).collect(), last: Instant::now(), drawn: 0 }
    }

    /// Shows what there is to show.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Progress { layer, done, total } => {
                self.layers[*layer].bytes = Some((*done, *total));
                self.refresh(*layer);
            }
            Event::Done { layer, held } => {
                let state = &mut self.layers[*layer];
                state.done = true;
                let (name, size) = (&state.name, held.disk.length);
                match (self.style, state.bytes.is_some()) {
                    (Style::Lines, true) => say(&format!("{name}: made, {}", bytes(size))),
                    (Style::Lines, false) => say(&format!("{name}: already there")),
                    (Style::Json, made) => {
                        say_json(&json!({ "layer": name, "made": made, "diskSize": size }));
                    }
                    _ => self.draw(),
                }
            }
            Event::Failed { .. } => {}
        }
    }

    /// Takes the bars off the terminal.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            put(&up(self.drawn));
            self.drawn = 0;
        }
    }

    fn refresh(&mut self, layer: usize) {
        let wait = if self.style == Style::Json { JSON_REFRESH } else { REFRESH };
        if self.last.elapsed() < wait {
            return;
        }
        self.last = Instant::now();
        let State { name, bytes, .. } = &self.layers[layer];
        match (self.style, bytes) {
            (Style::Bars, _) => self.draw(),
            (Style::Json, Some((done, total))) => {
                say_json(&json!({ "layer": name, "done": done, "total": total }));
            }
            _ => {}
        }
    }

    fn draw(&mut self) {
        if self.style != Style::Bars {
            return;
        }
        let mut picture = up(self.drawn);
        let done = self.layers.iter().filter(|layer| layer.done).count();
        let active: Vec<_> =
            self.layers.iter().filter(|layer| !layer.done && layer.bytes.is_some()).collect();
        for layer in &active {
            picture += &layer.bar();
        }
        // Writing to a string does not fail.
        let _ = writeln!(picture, "{done} of {} layers", self.layers.len());
        self.drawn = active.len() + 1;
        put(&picture);
    }
}

impl State {
    fn bar(&self) -> String {
        let name = &self.name["sha256:".len()..][..12];
        match self.bytes {
            Some((done, Some(total))) if total > 0 => {
                let filled = usize::try_from(done.min(total) * BAR as u64 / total).unwrap_or(BAR);
                let bar = format!("{:=<filled$}>{:<rest$}", "", "", rest = BAR - filled);
                format!("{name} [{bar}] {}/{}\n", bytes(done), bytes(total))
            }
            Some((done, _)) => format!("{name} {}\n", bytes(done)),
            None => format!("{name}\n"),
        }
    }
}

/// To the start of `lines` lines above, with everything from there on cleared (ECMA-48 CPL, ED).
fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F\x1b[J") }
}

fn say_json(line: &Value) {
    say(&line.to_string());
}
