//! Sizes, for people: [`Bytes`].

use core::fmt;

/// So many bytes: `3 GiB`, or `585.9 KiB` where that is about it. Smaller ones are told exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let Some((shift, unit)) = UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
            return write!(f, "{bytes} B");
        };
        let (whole, rest) = (bytes >> shift, bytes & ((1 << shift) - 1));
        if rest == 0 {
            return write!(f, "{whole} {unit}");
        }
        // Rounded down: what is nearly full is not told as full.
        write!(f, "{whole}.{} {unit}", (u128::from(rest) * 10) >> shift)
    }
}

const UNITS: [(u32, &str); 5] = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_largest_unit_that_they_have_one_of() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (600_000, "585.9 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 40, "3 TiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
