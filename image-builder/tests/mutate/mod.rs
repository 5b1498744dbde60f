//! Archives changed at random, always in the same way.

const BLOCK: usize = 512;

/// Vigna's xorshift64*.
pub struct Random(pub u64);

impl Random {
    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % bound.max(1)
    }

    /// One of `all`.
    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Some bytes others, some blocks gone, doubled or elsewhere, or the end cut off.
pub fn mutate(tar: &mut Vec<u8>, random: &mut Random) {
    let interesting: [&[u8]; 11] = [
        b"0",
        b"7",
        b"/",
        b".",
        b"\0",
        b"\x80",
        b"\xff",
        b"..",
        b".wh.",
        b"77777777777",
        b"99999999999999999999",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(tar.len());
        let (one, other) = (at / BLOCK * BLOCK, random.below(tar.len()) / BLOCK * BLOCK);
        let block: Vec<u8> = tar.iter().skip(one).take(BLOCK).copied().collect();
        match random.below(12) {
            0..5 => tar[at] ^= 1 << random.below(8),
            5..9 => {
                let new = random.of(&interesting);
                let end = tar.len().min(at + new.len());
                tar[at..end].copy_from_slice(&new[..end - at]);
            }
            9 => drop(tar.splice(other..other, block)),
            10 if tar.len() > BLOCK => drop(tar.drain(one..one + block.len())),
            _ => tar.truncate(at.max(1)),
        }
    }
}
