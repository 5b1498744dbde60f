//! Several layers at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::{HeldLayer, LayerStore};
use crate::digest::Digest;
use crate::image::Layer;

/// Layers under way at once: docker's number.
const WORKERS: usize = 3;

/// What happens to layer number `layer` of those that were asked for.
#[derive(Debug)]
pub enum Event {
    /// `done` bytes of its blob are read, of `total` where that is known.
    Progress {
        /// Which layer.
        layer: usize,
        /// Bytes.
        done: u64,
        /// Bytes.
        total: Option<u64>,
    },
    /// Its disk is in the store.
    Done {
        /// Which layer.
        layer: usize,
        /// The disk.
        held: HeldLayer,
    },
    /// It cannot be made.
    Failed {
        /// Which layer.
        layer: usize,
        /// Why.
        error: anyhow::Error,
    },
}

impl LayerStore {
    /// Finds or makes the disks of `layers`, on threads of their own. Each layer gives its progress, if it must be made, and
    /// its end; then the channel closes. After a failure no further layer is begun. If the receiver is dropped, what is under
    /// way is left to itself: nothing of it has a name before it is whole.
    pub fn fetch(&self, layers: &[Layer]) -> Receiver<Event> {
        let (events, receiver) = channel();
        let layers: Arc<[Layer]> = layers.into();
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..WORKERS.min(layers.len()) {
            let (store, layers, next, events) = (self.clone(), layers.clone(), next.clone(), events.clone());
            thread::spawn(move || work(&store, &layers, &next, &events));
        }
        receiver
    }
}

fn work(store: &LayerStore, layers: &[Layer], next: &AtomicUsize, events: &Sender<Event>) {
    loop {
        let layer = next.fetch_add(1, Ordering::Relaxed);
        let Some(it) = layers.get(layer) else { return };
        // Nobody may be listening any more: then the send after the work tells.
        let mut progress = |done, total| drop(events.send(Event::Progress { layer, done, total }));
        let event = match store.hold(it, &mut progress) {
            Ok(held) => Event::Done { layer, held },
            Err(error) => {
                next.store(layers.len(), Ordering::Relaxed);
                Event::Failed { layer, error }
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// Each layer once; `diff_id` tells which layer an item is of. Where one stands several times (empty layers do), only its
/// topmost place counts: overlayfs refuses the same lower directory twice, and what is below is hidden by it anyway.
pub fn topmost<T: Clone>(layers: &[T], diff_id: impl Fn(&T) -> Digest) -> Vec<T> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = layers.iter().rev().filter(|layer| seen.insert(diff_id(layer))).cloned().collect();
    kept.reverse();
    kept
}

#[test]
fn the_topmost_place_counts() {
    let names = ["a", "empty", "b", "empty", "c", "a"];
    assert_eq!(topmost(&names, |name| Digest::of(name.as_bytes())), ["b", "empty", "c", "a"]);
}
