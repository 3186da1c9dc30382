//! Randomness from a seed: one stream for every link, disk, client and node, so that to remove one fault shifts no
//! other's dice.

use core::{ops::Range, time::Duration};

use mesh_core::{Entropy, topology::mix};

/// An xoshiro256** generator (Blackman, Vigna, 2018), seeded by SplitMix64.
#[derive(Clone, Debug)]
pub struct Stream([u64; 4]);

impl Stream {
    /// The stream of one thing in the world of `seed`: `name` says what kind of thing, `index` which one.
    #[must_use]
    pub fn new(seed: u64, name: &str, index: u64) -> Self {
        let named = name.bytes().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte)));
        let first = mix(named ^ mix(index));
        let second = mix(first);
        let third = mix(second);
        Self([first, second, third, mix(third)])
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`; 0 if that is 0. The bias of the remainder is of no matter here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let bits = self.bits();
        if bound == 0 { 0 } else { bits % bound }
    }

    /// A number of the range.
    pub const fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// A span of the range.
    pub fn span(&mut self, range: &Range<Duration>) -> Duration {
        let low = u64::try_from(range.start.as_nanos()).unwrap_or(u64::MAX);
        let high = u64::try_from(range.end.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.within(low..high.max(low)))
    }

    /// True so many times in a thousand. Draws once, whatever the odds.
    pub const fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille as u64
    }

    /// One of these, if there is one.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let at = self.below(choices.len() as u64);
        choices.get(usize::try_from(at).unwrap_or(0))
    }
}

impl Entropy for Stream {
    fn fill(&mut self, target: &mut [u8]) {
        for chunk in target.chunks_mut(8) {
            let bytes = self.bits().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_name_and_index_and_repeat_by_seed() {
        let first = |seed, name, index| Stream::new(seed, name, index).bits();
        assert_eq!(first(1, "link", 1), first(1, "link", 1));
        let all = [first(1, "link", 1), first(1, "link", 2), first(1, "disk", 1), first(2, "link", 1)];
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
    }

    #[test]
    fn chances_draw_once_whatever_the_odds() {
        let (mut never, mut always) = (Stream::new(7, "x", 0), Stream::new(7, "x", 0));
        assert!(!never.chance(0));
        assert!(always.chance(1000));
        assert_eq!(never.bits(), always.bits());
    }

    #[test]
    fn ranges_hold() {
        let mut stream = Stream::new(3, "x", 0);
        assert!((0..1000).all(|_| (5..9).contains(&stream.within(5..9))));
        assert_eq!((stream.within(4..4), stream.below(0)), (4, 0));
        assert_eq!(stream.pick::<u8>(&[]), None);
    }
}
