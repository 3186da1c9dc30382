//! The bytes of objects: derived from the seed and a number unique to each content, so that any two differ everywhere
//! and every range can be made again without keeping it.

use mesh_core::Buf;

use crate::{invariants::MARKER, random::Stream};

/// Makes content.
#[derive(Debug)]
pub struct Contents {
    table: Vec<u8>,
    next: u64,
}

/// One content: its number and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Unique in its world.
    pub number: u64,
    /// Bytes.
    pub len: u64,
}

/// Bytes that say where they are: number and place at their beginning, the marker of plaintext in their middle.
const BLOCK: usize = 128;
const TABLE: usize = 32 << 10;

impl Contents {
    /// Of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        use mesh_core::Entropy as _;
        let mut table = vec![0; TABLE];
        Stream::new(seed, "content", 0).fill(&mut table);
        for block in table.chunks_mut(BLOCK) {
            for at in 0..64 {
                block[48 + at] = MARKER[at % 8];
            }
        }
        Self { table, next: 0 }
    }

    /// A new content.
    pub const fn create(&mut self, len: u64) -> Content {
        self.next += 1;
        Content { number: self.next, len }
    }

    /// `len` bytes of a content from `offset` on.
    #[must_use]
    pub fn bytes(&self, content: Content, offset: u64, len: usize) -> Buf {
        let mut buf = Buf::zeroed(len);
        let Some(target) = buf.as_mut() else { return buf };
        // Pages of the table's size, each begun at another block of the table.
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (page, inside) = (at / TABLE as u64, (at % TABLE as u64) as usize);
            let turn = (content.number.wrapping_mul(31).wrapping_add(page.wrapping_mul(17)) as usize * BLOCK) % TABLE;
            let from = (inside + turn) % TABLE;
            let count = (len - done).min(TABLE - inside).min(TABLE - from);
            target[done..done + count].copy_from_slice(&self.table[from..from + count]);
            done += count;
        }
        stamp(target, content.number, offset);
        buf
    }
}

/// Puts number and place at the beginning of every 4096th byte of the content.
fn stamp(target: &mut [u8], number: u64, offset: u64) {
    const EVERY: u64 = 4096;
    let end = offset + target.len() as u64;
    let mut at = offset / EVERY * EVERY;
    while at < end {
        let mut mark = [0; 16];
        mark[..8].copy_from_slice(&number.to_le_bytes());
        mark[8..].copy_from_slice(&at.to_le_bytes());
        for (byte, place) in mark.iter().zip(at..) {
            if (offset..end).contains(&place) {
                target[(place - offset) as usize] = *byte;
            }
        }
        at += EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_same_however_it_is_cut() {
        let mut contents = Contents::new(5);
        let content = contents.create(100_000);
        let whole = contents.bytes(content, 0, 100_000);
        for (offset, len) in [(0, 1), (4090, 20), (32_760, 20), (65_000, 35_000), (1, 99_999)] {
            assert_eq!(contents.bytes(content, offset, len)[..], whole[offset as usize..offset as usize + len]);
        }
        assert!(whole.windows(8).any(|window| window == MARKER));
    }

    #[test]
    fn two_contents_differ_in_every_page() {
        let mut contents = Contents::new(5);
        let (one, other) = (contents.create(50_000), contents.create(50_000));
        for page in 0..12 {
            assert_ne!(contents.bytes(one, page * 4096, 4096), contents.bytes(other, page * 4096, 4096));
        }
    }
}
