//! Ranges of bytes, as RFC 9110 has them (section 14.1.2).

use core::{fmt, ops::Range, str::FromStr};

use crate::error::{Error, ErrorKind};

/// A part of an object that is asked for before its length is known. Positions are counted from 0, and the last one is
/// inside. As text: `0-99`, `100-`, `-100`; a `bytes=` before it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From this position to the end.
    From(u64),
    /// From `first` to `last`, or to the end if that comes first.
    Between {
        /// The first position.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// So many at the end, or all if there are fewer.
    Last(u64),
}

impl ByteRange {
    /// What it is of an object of `len` bytes. Of an empty object only the end can be asked for, and is nothing.
    ///
    /// # Errors
    /// `InvalidRange` if it has no byte of the object.
    pub fn resolve(self, len: u64) -> Result<Range<u64>, Error> {
        match self {
            Self::From(first) if first < len => Ok(first..len),
            Self::Between { first, last } if first < len && first <= last => Ok(first..last.saturating_add(1).min(len)),
            Self::Last(count) if count > 0 => Ok(len - count.min(len)..len),
            _ => Err(Error::new(ErrorKind::InvalidRange, "the object has no byte of this range")
                .with("range", self)
                .with("object_len", len)),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "{first}-"),
            Self::Between { first, last } => write!(f, "{first}-{last}"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

impl FromStr for ByteRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let spec = text.strip_prefix("bytes=").unwrap_or(text);
        let number = |digits: &str| digits.parse().ok().filter(|_| !digits.starts_with('+'));
        let range = match spec.split_once('-') {
            Some(("", count)) => number(count).map(Self::Last),
            Some((first, "")) => number(first).map(Self::From),
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Some(Self::Between { first, last }),
                _ => None,
            },
            None => None,
        };
        range.ok_or_else(|| Error::invalid("a range is FIRST-LAST, FIRST- or -COUNT").with("range", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_resolve_as_the_rfc_has_them() {
        let between = |first, last| ByteRange::Between { first, last };
        for (range, len, bytes) in [
            (ByteRange::From(0), 10, Some(0..10)),
            (ByteRange::From(9), 10, Some(9..10)),
            (ByteRange::From(10), 10, None),
            (ByteRange::From(0), 0, None),
            (between(2, 4), 10, Some(2..5)),
            (between(2, 99), 10, Some(2..10)),
            (between(2, u64::MAX), 10, Some(2..10)),
            (between(10, 11), 10, None),
            (between(4, 2), 10, None),
            (ByteRange::Last(3), 10, Some(7..10)),
            (ByteRange::Last(11), 10, Some(0..10)),
            (ByteRange::Last(0), 10, None),
            (ByteRange::Last(5), 0, Some(0..0)),
        ] {
            let wanted = bytes.ok_or(ErrorKind::InvalidRange);
            assert_eq!(range.resolve(len).map_err(|error| error.kind()), wanted, "{range:?} of {len}");
        }
    }

    #[test]
    fn text_is_read_back_and_nonsense_is_none() {
        for text in ["0-0", "5-", "-7", "18446744073709551615-"] {
            assert_eq!(text.parse::<ByteRange>().map(|range| range.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("bytes=1-2".parse(), Ok(ByteRange::Between { first: 1, last: 2 }));
        for text in ["", "-", "5", "2-1", "+1-2", "a-b", "1-2,5-6", "items=0-1", "99999999999999999999-"] {
            assert_eq!(text.parse::<ByteRange>().map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{text}");
        }
    }
}
