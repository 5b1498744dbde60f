//! One direction of the line: bytes on their way.

use super::random::Random;

#[derive(Default)]
pub struct Wire {
    bytes: Vec<u8>,
}

impl Wire {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Some bytes go onto the line; with `damage` not as they were.
    pub fn write(&mut self, bytes: &[u8], damage: Option<&mut Random>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let Some(random) = damage.filter(|_| !bytes.is_empty()) else { return };
        let from = start + random.below(bytes.len());
        let to = from + random.size(self.bytes.len() - from);
        match random.below(3) {
            0 => drop(self.bytes.drain(from..to)),
            1 => {
                let twice = self.bytes[from..to].to_vec();
                self.bytes.splice(to..to, twice);
            }
            _ => self.bytes[from] ^= 1 << random.below(8),
        }
    }

    /// Some of them arrive.
    pub fn read(&mut self, random: &mut Random) -> Vec<u8> {
        let count = if random.once_in(3) { self.bytes.len() } else { random.size(self.bytes.len()) };
        self.bytes.drain(..count).collect()
    }

    pub fn lose_all(&mut self) {
        self.bytes.clear();
    }

    /// The end of what was on its way is lost.
    pub fn keep_front(&mut self, random: &mut Random) {
        let count = random.below(self.bytes.len() + 1);
        self.bytes.truncate(count);
    }

    /// The beginning of what was on its way is lost.
    pub fn keep_back(&mut self, random: &mut Random) {
        let count = random.below(self.bytes.len() + 1);
        self.bytes.drain(..count);
    }
}
